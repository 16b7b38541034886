# What ActiveRecord does through the views, by trying.
#
# Each trial takes place once with rows of each store, and prints "ok" or
# "not ok".  Those that do not work with split on fail with the error that is given
# here, as docs/limits.md says.
#
# The tables: run (id, note, n, at, version), where the id decides, and step (id,
# runId, n), which is in the store of its run.  The connection is that of PGHOST
# and the like.

require "active_record"

# A view has no primary key.  The models could name theirs, but insert_all and
# upsert_all ask the database for it.
module KeysOfViews
  def primary_keys(table_name) = super.presence || ["id"]
end

ActiveRecord::Base.establish_connection(adapter: "postgresql", schema_search_path: "routed, public", pool: 3)
ActiveRecord::Base.connection.class.prepend(KeysOfViews)

class Run < ActiveRecord::Base
  self.table_name = "run"
  self.locking_column = "version"
  has_many :steps, foreign_key: "runId", dependent: :delete_all
end

class Step < ActiveRecord::Base
  self.table_name = "step"
  belongs_to :run, foreign_key: "runId"
end

Thread.report_on_exception = false
SPLIT = ARGV[0] == "on"
NUMBERS = Enumerator.produce(Integer(ARGV[1]), &:succ)
ANOTHER_STORE = { "LEGACY" => "NEW", "NEW" => "LEGACY" }

def new_id(store)
  digits = NUMBERS.next.to_s
  "run_" + (SPLIT && store == "NEW" ? digits.rjust(27, "0") : "c" + digits.rjust(24, "0"))
end

# Fails the trial unless both are equal.
def same(found, expected)
  raise "found #{found.inspect}, expected #{expected.inspect}" unless found == expected
end

def fails_with(error)
  yield
rescue error
  nil
else
  raise "#{error} was expected"
end

# The result of some work on a connection of its own.
def elsewhere(&work)
  Thread.new { Run.connection_pool.with_connection { Run.transaction(&work) } }.value
end

def add(ids)
  ids.each_with_index.map { |id, n| Run.create!(id: id, note: ids[0], n: n) }
end

TRIALS = {}

# Each gets two ids of one store, and two of the other.
def trial(name, on: "works", &work)
  TRIALS[name] = [work, SPLIT ? on : "works"]
end

trial "create, find, update, destroy" do |id|
  run = Run.create!(id: id, note: "a")
  same run.reload.n, 0
  run.update!(note: "b")
  run.increment!(:n, 2)
  same Run.where(id: id).pluck(:note, :n), [["b", 2]]
  same Run.where(note: "b", id: id).update_all("n = n + 1"), 1
  run.reload.touch(:at)
  same Run.find_by(id: id).n, 3
  same Run.exists?(id), true
  run.destroy!
  fails_with(ActiveRecord::RecordNotFound) { Run.find(id) }
end

trial "find_or_create_by, create_or_find_by" do |a, b|
  2.times { |i| same Run.find_or_create_by!(id: a) { |run| run.n = i }.n, 0 }
  2.times { |i| same Run.create_or_find_by!(id: b) { |run| run.n = i }.reload.n, 0 }
  fails_with(ActiveRecord::RecordNotUnique) { Run.create!(id: a) }
end

trial "insert_all, upsert_all" do |*ids|
  Run.insert_all!(ids[1..2].map { |id| { id: id, note: "first" } })
  rows = ids.map { |id| { id: id, note: "last", n: 5 } }
  same Run.insert_all(rows.first(2), returning: :id).rows.flatten, [ids[0]]
  same Run.insert_all(rows, unique_by: :id, returning: :id).rows.flatten, [ids[3]]
  same Run.where(id: ids).group(:note).count, { "first" => 2, "last" => 2 }
  same Run.upsert_all(rows, returning: %w[id n]).rows.sort, ids.map { |id| [id, 5] }.sort
  Run.upsert({ id: ids[0], note: "upserted" })
  same Run.where(id: ids).group(:note).count, { "upserted" => 1, "last" => 3 }
  fails_with(ActiveRecord::RecordNotUnique) { Run.insert_all!(rows) }
end

trial "transactions with savepoints" do |a, b, c|
  Run.transaction do
    Run.create!(id: a)
    Run.transaction(requires_new: true) { Run.create!(id: b) }
    Run.transaction(requires_new: true) do
      Run.create!(id: c)
      raise ActiveRecord::Rollback
    end
    fails_with(ActiveRecord::RecordNotUnique) { Run.transaction(requires_new: true) { Run.create!(id: a) } }
    same Run.where(id: [a, b, c]).count, 2
  end
  Run.transaction(isolation: :repeatable_read) { same Run.where(id: [a, b, c]).order(:id).ids, [a, b].sort }
end

trial "lock!, with_lock, SKIP LOCKED" do |*ids|
  runs = add(ids)
  runs[0].with_lock do
    runs[3].lock!("FOR NO KEY UPDATE NOWAIT")
    fails_with(ActiveRecord::LockWaitTimeout) { elsewhere { Run.lock("FOR UPDATE NOWAIT").find(ids[0]) } }
    same elsewhere { Run.lock("FOR UPDATE SKIP LOCKED").where(note: ids[0]).order(:n).first.id }, ids[1]
    same elsewhere { Run.lock("FOR UPDATE SKIP LOCKED").where(note: ids[0]).ids.sort }, ids[1..2].sort
  end
end

trial "lock of a join", on: "0A000" do |id|
  Step.create!(id: "#{id} 1", run: Run.create!(id: id))
  Step.joins(:run).where(run: { id: id }).lock.load
end

trial "optimistic locking" do |id|
  Run.create!(id: id)
  first, second = Run.find(id), Run.find(id)
  first.update!(note: "a")
  fails_with(ActiveRecord::StaleObjectError) { second.update!(note: "b") }
  fails_with(ActiveRecord::StaleObjectError) { second.destroy! }
end

trial "counts, aggregates, pages" do |*ids|
  add(ids)
  mine = Run.where(note: ids[0])
  same [mine.count, mine.sum(:n), mine.average(:n), mine.maximum(:n)], [4, 6, 1.5, 3]
  same mine.group("n % 2").having("count(*) > 1").sum(:n), { 0 => 2, 1 => 4 }
  same mine.order(n: :desc).offset(1).limit(2).ids, ids[1..2].reverse
  same mine.distinct.pluck(:note), [ids[0]]
  same mine.in_batches(of: 3).map(&:size), [3, 1]
  same mine.find_each(batch_size: 3).map(&:id), ids.sort
  same mine.order(:n).limit(1).update_all(note: nil), 1
  same mine.delete_all, 3
end

trial "joins, includes, nested writes" do |*ids|
  add(ids).each { |run| run.steps.create!([1, 2].map { |n| { id: "#{run.id} #{n}", n: n } }) }
  mine = Run.where(note: ids[0]).order(:n)
  same mine.includes(:steps).map { |run| run.steps.size }, [2, 2, 2, 2]
  same mine.eager_load(:steps).where(steps: { n: 2 }).offset(1).limit(2).map { |run| [run.id, run.steps.size] }, ids[1..2].map { |id| [id, 1] }
  same mine.left_joins(:steps).group("run.id").reorder("run.id").count("step.id"), ids.sort.to_h { |id| [id, 2] }
  same mine.where(id: Step.select("runId").where(n: 2)).ids, ids
  same Step.joins(:run).merge(mine).where(n: 1).update_all(n: 7), 4
  mine.first.destroy!
  same Step.where("runId": ids).count, 6
end

TRIALS.each do |name, (work, expected)|
  ANOTHER_STORE.each do |store, other|
    outcome = "works"
    begin
      work.call(*[store, store, other, other].map { |s| new_id(s) })
    rescue => e
      state = e.cause.result&.error_field(PG::PG_DIAG_SQLSTATE) if e.cause.is_a?(PG::Error)
      outcome = "#{state || e.class} #{e.message}"
    end
    puts "#{outcome.split[0] == expected ? "ok" : "not ok"} - #{name}, #{store}" +
         (outcome.split[0] == expected ? "" : ": #{outcome}".tr("\n", " "))
  end
end

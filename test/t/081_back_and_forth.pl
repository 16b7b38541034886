# What the cutover drill found on the way home and out again, each fault by
# itself.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use SplitServers;
use Test::More;

my ($control_plane, $store) = split_servers(conf => "restart_after_crash = on\n");
sub here { my ($sql) = @_; return $control_plane->safe_psql('postgres', "SET client_min_messages = warning; $sql") }
sub there { my ($sql) = @_; return $store->safe_psql('postgres', $sql) }

# Rows without a shape that belong to a run: "note" names it, "mark" names a
# step of it; "key" is what only one row may have.
foreach my $node ($store, $control_plane)
{
	$node->safe_psql('postgres', q(
		ALTER TABLE run ADD COLUMN key text UNIQUE;
		CREATE TABLE note (id text PRIMARY KEY, "runId" text, n int, twice int GENERATED ALWAYS AS (n * 2) STORED NOT NULL);
		CREATE TABLE mark (id text PRIMARY KEY, "stepId" text);));
}
here(q(ALTER TABLE note ADD FOREIGN KEY ("runId") REFERENCES run; ALTER TABLE mark ADD FOREIGN KEY ("stepId") REFERENCES step;
	   ALTER TABLE step ADD FOREIGN KEY ("runId") REFERENCES run;
	   CREATE PROCEDURE all_batches(call text) LANGUAGE plpgsql AS $$
	   DECLARE complete boolean;
	   BEGIN
	     LOOP
	       EXECUTE format('SELECT done FROM run_ops.%I(1)', call) INTO complete;
	       COMMIT;
	       EXIT WHEN complete;
	     END LOOP;
	   END $$;
	   SELECT run_ops.refresh_table('run_ops.run'), run_ops.attach_table('note', 'store'), run_ops.attach_table('mark', 'store');
	   SELECT run_ops.acknowledge(gate, object, 'a test') FROM run_ops.check_split() WHERE gate = 'guard' AND NOT ok;
	   SELECT run_ops.enable_split()));

sub off { here('SELECT run_ops.disable_split(repatriated => true)'); return }
sub on { here('SELECT run_ops.enable_split()'); return }

# --- a commit that outlives its client -----------------------------------------------

# The store takes its time to commit; its client's server crashes meanwhile.
there(q(CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(5); RETURN NULL; END $$));
sub crash_while_the_store_commits
{
	my ($id) = @_;
	there(q(CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON run DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()));
	my ($out, $err) = ('', '');
	my $writer = IPC::Run::start([ 'psql', '-Xq', '-d', $control_plane->connstr('postgres') . ' application_name=writer',
		'-c', "INSERT INTO run_ops.run (id) VALUES ('$id')" ], '>', \$out, '2>', \$err);
	ok($store->poll_query_until('postgres', q(SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'COMMIT%' AND state = 'active'))),
		'the store commits');
	kill 'KILL', here(q(SELECT pid FROM pg_stat_activity WHERE application_name = 'writer'));
	$writer->finish;
	await_recovery($control_plane);
	return;
}
sub the_store_has_committed
{
	$store->poll_query_until('postgres', q(SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'COMMIT%' AND state = 'active'))) or die;
	there('DROP TRIGGER slow ON run');
	return;
}

crash_while_the_store_commits(ksuid(8));
my ($ret, $out, $err) = $control_plane->psql('postgres', 'SELECT run_ops.disable_split()');
like($err, qr/store "new" has transactions that write|rows of the stores would disappear/, 'an empty store is not taken for one');
the_store_has_committed();
crash_while_the_store_commits(ksuid(9));
here('SET run_ops_split.swap_attempts = 1000; SELECT run_ops.disable_split(repatriated => true)');
the_store_has_committed();
is(here('SELECT string_agg(id, \' \' ORDER BY id) FROM run_ops.run'), there('SELECT string_agg(id, \' \' ORDER BY id) FROM run'),
	'home: its rows are here as they are there');
on();

# --- a migration while rows wait ----------------------------------------------------

my ($one, $two) = (ksuid(1), ksuid(2));
here(qq(INSERT INTO run_ops.run (id, key) VALUES ('$one', 'a'); INSERT INTO run_ops.note (id, "runId", n) VALUES ('n1', '$one', 1)));
is(there('SELECT id, twice FROM note'), 'n1|2', 'a note is stored beside its run');
here(q(CALL all_batches('repatriate')));
is(here('SELECT count(*) FROM run_ops_repatriated."' . here(q(SELECT 'note'::regclass::oid)) . '_new"'), '1', 'a copy of it waits');
there('ALTER TABLE note ADD COLUMN more int DEFAULT 7');
here(q(ALTER TABLE note ADD COLUMN more int DEFAULT 7; SELECT run_ops.refresh_table('run_ops.note')));
here(q(CALL all_batches('repatriate'); CALL all_batches('repatriate')));
off();
is(here('SELECT id, twice, more FROM run_ops.note'), 'n1|2|7', 'it came home with the new column');

# no migration comes between a look at the columns and the rows
my $copying = $control_plane->background_psql('postgres');
$copying->query_safe(q(BEGIN; SELECT run_ops.mirror_of(run_ops.routed('run'), 'new', true)));
($ret, $out, $err) = $control_plane->psql('postgres', q(SET lock_timeout = 100; ALTER TABLE run ADD COLUMN more int));
like($err, qr/lock timeout/, 'a migration waits for a batch');
$copying->query_safe('COMMIT');
$copying->quit;

# --- rows without a shape, added while split is off -----------------------------------

here(qq(INSERT INTO run_ops.note (id, "runId", n) VALUES ('n2', '$one', 2), ('n3', NULL, 3);
		INSERT INTO run_ops.step VALUES ('s1', '$one', 1);
		INSERT INTO run_ops.mark VALUES ('m1', 's1'), ('m2', NULL);));
here(q(CALL all_batches('move_strays')));
on();
is(there(q(SELECT string_agg(id, ' ' ORDER BY id) FROM (SELECT id FROM note UNION ALL SELECT id FROM mark) AS x)), 'm1 n1 n2',
	'what belongs to a run moved with it');
is(here(q(SELECT string_agg(id, ' ' ORDER BY id) FROM (SELECT id FROM note UNION ALL SELECT id FROM mark) AS x)), 'm2 n3',
	'what belongs to none stayed');
is(here(q(SELECT count(*), count(DISTINCT id) FROM run_ops.note)), '3|3', 'each is there once');

# --- a unique value that moved from one row to another ---------------------------------

# More rows than one range has; the row that gives the value comes last.
my $last = 'run_' . ('9' x 27);
there(qq(INSERT INTO run (id, n) SELECT 'run_' || lpad(i::text, 27, '0'), i FROM generate_series(10, 12000) AS i;
		 INSERT INTO run (id, key) VALUES ('$last', 'b')));
off();
here(qq(UPDATE run_ops.run SET key = NULL WHERE id = '$last'; UPDATE run_ops.run SET key = 'b' WHERE id = '$one'));
on();
is(there(q(SELECT id FROM run WHERE key = 'b')), $one, 'out: the value is where it was last');
here(q(DO $$ BEGIN PERFORM run_ops.repatriate(20000) FROM generate_series(1, 10); END $$));
here(qq(UPDATE run_ops.run SET key = NULL WHERE id = '$one'; UPDATE run_ops.run SET key = 'b' WHERE id = '$last'));
here(q(DO $$ BEGIN PERFORM run_ops.repatriate(20000) FROM generate_series(1, 10); END $$));
here(qq(UPDATE run_ops.run SET key = NULL WHERE id = '$last'; INSERT INTO run_ops.run (id, key) VALUES ('$two', 'b')));
is(here('SELECT count(*) FROM run_ops.repatriation_conflicts()'), '0', 'an older copy here is no conflict');
here(q(SELECT run_ops.repatriate(100)));
off();
is(here(q(SELECT id FROM run_ops.run WHERE key = 'b')), $two, 'home: the value is where it was last');
is(here('SELECT count(*) FROM run_ops.run'), there('SELECT count(*) FROM run'), 'with every row');
# a real conflict is still one
on();
my $legacy = cuid(7);
here("INSERT INTO run_ops.run (id, key) VALUES ('$legacy', 'b')");
($ret, $out, $err) = $control_plane->psql('postgres', 'SELECT run_ops.disable_split(repatriated => true)');
like($err, qr/rows of the stores conflict with rows of this database/, 'two rows with one value');
here("DELETE FROM run_ops.run WHERE id = '$legacy'");

# --- a migration is followed while a client is at work ------------------------------------

my $client = $control_plane->background_psql('postgres');
$client->query_safe("SET deadlock_timeout = '50ms'; BEGIN; SELECT n FROM run_ops.run WHERE id = '$legacy'");
my ($o, $e) = ('', '');
my $refresh = IPC::Run::start([ 'psql', '-Xq', '-d', $control_plane->connstr('postgres') . ' application_name=refresh',
	'-c', q(SELECT run_ops.refresh_table('run_ops.run')) ], '>', \$o, '2>', \$e);
ok($control_plane->poll_query_until('postgres',
	q(SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'refresh' AND wait_event_type = 'Lock'))), 'refresh_table() waits');
is($client->query_safe("SELECT key FROM run_ops.run WHERE id = '$two'"), 'b', 'the client goes on, into the store');
$client->query_safe('COMMIT');
$refresh->finish;
is($e, '', 'then it is followed');
$client->quit;

done_testing();

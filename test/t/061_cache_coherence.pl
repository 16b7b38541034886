# The cache answers what the query answers, in every snapshot.  Clients at all
# isolation levels compare the two at random while they write, roll back,
# prepare, truncate, rename, vacuum; on a standby others compare as well.
# One difference is a failure.
#
# After a failure a prepared transaction may be left; lock_timeout ends the rest.
#
# RUN_OPS_CACHE_SEED repeats a run's choices (the interleaving is the
# machine's), RUN_OPS_CACHE_TRANSACTIONS makes it longer.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{RUN_OPS_CACHE_SEED} // int(rand(2**31));
my $transactions = $ENV{RUN_OPS_CACHE_TRANSACTIONS} // 300;
note("RUN_OPS_CACHE_SEED=$seed");

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', q(
max_prepared_transactions = 20
deadlock_timeout = '20ms'
lock_timeout = '60s'
autovacuum = off
max_standby_streaming_delay = -1
));
$primary->start;
$primary->safe_psql('postgres', q(
\set side legacy
\set orgs 6
\set runs 40
\i test/fixtures/control_plane.sql
\i test/fixtures/generate.sql
CREATE EXTENSION run_ops_split CASCADE;
SELECT run_ops.attach_control_plane('public');
-- a foreign key would stop TRUNCATE and the rows that refer to nothing
DO $$ DECLARE c record; BEGIN
  FOR c IN SELECT conname, conrelid::regclass FROM pg_constraint WHERE contype = 'f' LOOP
    EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', c.conrelid, c.conname);
  END LOOP; END $$;
DROP INDEX "RuntimeEnvironment_projectId_slug_orgMemberId_key", "RuntimeEnvironment_projectId_shortcode_key",
  "RuntimeEnvironment_projectId_type_staging_preview_root_key", "OrgMember_organizationId_userId_key";
CREATE FUNCTION keys(tab regclass) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE r text[]; BEGIN EXECUTE format('SELECT array_agg(id ORDER BY id) FROM %s', tab) INTO r; RETURN r; END $$;
CREATE TABLE key AS
  SELECT keys('"RuntimeEnvironment"') AS env, keys('"Project"') AS project, keys('"Organization"') AS org,
         keys('"OrgMember"') AS member, keys('"User"') AS "user", keys('"WorkerDeployment"') AS deployment,
         keys('"BackgroundWorker"') AS worker, keys('"BackgroundWorkerTask"') AS task;
CREATE TABLE saved_env AS SELECT * FROM "RuntimeEnvironment";
CREATE TABLE saved_user AS SELECT * FROM "User";
CREATE TABLE saved_deployment AS SELECT * FROM "WorkerDeployment";
ALTER TABLE saved_env ADD PRIMARY KEY (id);

-- What the cache must answer, written again; functions, as a view follows the
-- rename of a column.
CREATE FUNCTION env_now() RETURNS TABLE (id text, answer text) LANGUAGE sql STABLE AS $$
  SELECT e.id, ROW(e.id, e.type::text, e."projectId", p."organizationId", e."archivedAt", up.type::text,
                   e."maximumConcurrencyLimit", e."concurrencyLimitBurstFactor")::text AS answer
    FROM "RuntimeEnvironment" e JOIN "Project" p ON p.id = e."projectId"
    LEFT JOIN "RuntimeEnvironment" up ON up.id = e."parentEnvironmentId" $$;
CREATE FUNCTION auth_now() RETURNS TABLE (id text, answer text) LANGUAGE sql STABLE AS $$
  SELECT e.id, ROW(e."apiKey", e.paused, e.git, e."maximumConcurrencyLimit", p.name, p.slug, p."deletedAt", o.title,
                   o."featureFlags", m."userId", u.name, up.id, up."apiKey")::text AS answer
    FROM "RuntimeEnvironment" e JOIN "Project" p ON p.id = e."projectId" AND p."deletedAt" IS NULL
    JOIN "Organization" o ON o.id = e."organizationId"
    LEFT JOIN "OrgMember" m ON m.id = e."orgMemberId" LEFT JOIN "User" u ON u.id = m."userId"
    LEFT JOIN "RuntimeEnvironment" up ON up.id = e."parentEnvironmentId" $$;
CREATE FUNCTION task_now() RETURNS TABLE (id text, answer text) LANGUAGE sql STABLE AS $$
  SELECT t.id, ROW(t.slug, w.id, w.version, d."friendlyId", d.version)::text AS answer
    FROM "BackgroundWorkerTask" t JOIN "BackgroundWorker" w ON w.id = t."workerId"
    LEFT JOIN "WorkerDeployment" d ON d."workerId" = w.id $$;

-- twenty environments, in two slots, and ten tasks, in one snapshot
CREATE FUNCTION differences(a int) RETURNS TABLE (what text, id text, cached text, now text)
  LANGUAGE sql STABLE PARALLEL SAFE AS $$
  WITH k AS MATERIALIZED (
    SELECT env[1 + (a + i * 7) % cardinality(env)] AS env, task[1 + (a + i * 11) % cardinality(task)] AS task, i
      FROM key, generate_series(1, 20) i)
  SELECT 'env', k.env, run_ops.resolve_env(k.env)::text, n.answer FROM k LEFT JOIN env_now() n ON n.id = k.env
   WHERE run_ops.resolve_env(k.env)::text IS DISTINCT FROM n.answer
  UNION ALL
  SELECT 'auth', k.env,
         ROW(c.api_key, c.paused, c.git, c.maximum_concurrency_limit, (c.project).name, (c.project).slug,
             (c.project).deleted_at, (c.organization).title, (c.organization).feature_flags,
             (c.org_member).user_id, ((c.org_member)."user").name, (c.parent_environment).id,
             (c.parent_environment).api_key)::text, n.answer
    FROM k CROSS JOIN LATERAL run_ops.resolve_authenticated_env(k.env) c LEFT JOIN auth_now() n ON n.id = k.env
   WHERE CASE WHEN c.id IS NOT NULL THEN
         ROW(c.api_key, c.paused, c.git, c.maximum_concurrency_limit, (c.project).name, (c.project).slug,
             (c.project).deleted_at, (c.organization).title, (c.organization).feature_flags,
             (c.org_member).user_id, ((c.org_member)."user").name, (c.parent_environment).id,
             (c.parent_environment).api_key)::text END IS DISTINCT FROM n.answer
  UNION ALL
  SELECT 'task', k.task, ROW(c.slug, (c.worker).id, (c.worker).version, ((c.worker).deployment).friendly_id,
                             ((c.worker).deployment).version)::text, n.answer
    FROM k CROSS JOIN LATERAL run_ops.resolve_locked_task(k.task) c LEFT JOIN task_now() n ON n.id = k.task
   WHERE CASE WHEN c.id IS NOT NULL THEN ROW(c.slug, (c.worker).id, (c.worker).version, ((c.worker).deployment).friendly_id,
                             ((c.worker).deployment).version)::text END IS DISTINCT FROM n.answer
     AND k.i <= 10
  $$;
CREATE FUNCTION compare(a int, place text) RETURNS void LANGUAGE plpgsql STABLE AS $$
DECLARE d record;
BEGIN
  SELECT * INTO d FROM differences(a);
  IF FOUND THEN
    RAISE EXCEPTION 'cache differs in %: % % is % instead of %', place, d.what, d.id, d.cached, d.now;
  END IF;
END $$;
-- waiting for long behind a prepared transaction would make all wait
CREATE FUNCTION try_lock(tab regclass) RETURNS int LANGUAGE plpgsql SET lock_timeout = '20ms' AS $$
BEGIN
  EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', tab);
  RETURN 1;
EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
  RETURN 0;
END $$;
-- the same through an exception block, which is a subtransaction that fails
CREATE FUNCTION compare_failing(a int, b int, x int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM compare(a, 'exception before');
  BEGIN
    UPDATE "Project" SET name = 'exc' || x WHERE id = (SELECT project[1 + b % cardinality(project)] FROM key);
    PERFORM compare(a, 'exception inside');
    RAISE division_by_zero;
  EXCEPTION WHEN division_by_zero THEN NULL;
  END;
  PERFORM compare(a, 'exception after');
END $$;
));
my $per_compare = 50;

my $standby = PostgreSQL::Test::Cluster->new('standby');
$primary->backup('base');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
# Replay must not wait for a reader's snapshot while the reader waits for a
# lock that replay holds: nothing detects that.
$standby->append_conf('postgresql.conf', "hot_standby_feedback = on\nwal_receiver_status_interval = 1\n");
$standby->start;

# --- a transaction that is being prepared --------------------------------------------------------

# It is in snapshots twice until synchronous standbys have confirmed it, so a
# snapshot can count as many running transactions as the one before it while one
# of those has been committed.
{
	my @env = split /\n/, $primary->safe_psql('postgres', 'SELECT id FROM "RuntimeEnvironment" ORDER BY id LIMIT 3');
	my %session = map { $_ => $primary->background_psql('postgres', on_error_stop => 0) } ('reader', 'commits', 'prepares');
	my $limit = qq(SELECT (run_ops.resolve_env('$env[0]')).maximum_concurrency_limit);
	my $update = sub { return qq(UPDATE "RuntimeEnvironment" SET "maximumConcurrencyLimit" = $_[1] WHERE id = '$env[$_[0]]'); };

	$primary->safe_psql('postgres', $update->(0, 1));
	$primary->safe_psql('postgres', q(ALTER SYSTEM SET synchronous_standby_names = 'none'; ALTER SYSTEM SET synchronous_commit = local));
	$primary->reload;
	$session{reader}->query("BEGIN; SET run_ops_split.cache_notify = off");
	$session{commits}->query('BEGIN; SET LOCAL run_ops_split.cache_notify = off; ' . $update->(0, 2));
	$session{prepares}->query('SET synchronous_commit = on; BEGIN; SET LOCAL run_ops_split.cache_notify = off; ' . $update->(1, 2));
	$primary->safe_psql('postgres', $update->(2, 2));
	is($session{reader}->query($limit), 1, 'before');
	$session{prepares}->query_until(qr/^/, "PREPARE TRANSACTION 'p';\n");
	ok($primary->poll_query_until('postgres', q(SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep')), 'one is being prepared');
	$session{commits}->query('COMMIT');
	is($session{reader}->query($limit), 2, 'while one is being prepared, another one has committed');
	$primary->safe_psql('postgres', q(ALTER SYSTEM RESET synchronous_standby_names; ALTER SYSTEM RESET synchronous_commit));
	$primary->reload;
	$primary->poll_query_until('postgres', q(SELECT count(*) = 1 FROM pg_prepared_xacts));
	$primary->safe_psql('postgres', "ROLLBACK PREPARED 'p'");
	$_->quit foreach values %session;
}

# --- all at random -------------------------------------------------------------------------------

my $head = join '', map { "\\set $_\n" }
  ('a random(0, 999)', 'b random(0, 999)', 'c random(0, 999)', 'x random(1, 1000000)', 'z random(0, 1)');
my $end = "\\if :z\nCOMMIT;\n\\else\nROLLBACK;\n\\endif\n";
sub compare { return "SELECT compare(:a, '$_[0]');\n"; }
sub locked { return "BEGIN;\nSELECT try_lock('\"$_[0]\"') AS locked \\gset\n\\if :locked\n"; }
sub one { my ($kind, $n) = @_; return "(SELECT $kind\[1 + $n % cardinality($kind)] FROM key)"; }
my $env = 'UPDATE "RuntimeEnvironment" SET paused = NOT paused, "apiKey" = id || :x, git = to_jsonb(repeat(:x::text, 50)) WHERE id = '
  . one('env', ':b') . ";\n";
my $env_near = 'UPDATE "RuntimeEnvironment" SET "maximumConcurrencyLimit" = :x WHERE id = ' . one('env', '(:a + 7)') . ";\n";
my $project = "UPDATE \"Project\" SET name = 'n' || :x WHERE id = " . one('project', ':b') . ";\n";
my $project2 = "UPDATE \"Project\" SET \"deletedAt\" = CASE WHEN :z = 1 THEN now() END WHERE id = " . one('project', ':c') . ";\n";
my $org = "UPDATE \"Organization\" SET title = 't' || :x WHERE id = " . one('org', ':b') . ";\n";
my $move = 'UPDATE "RuntimeEnvironment" SET "projectId" = ' . one('project', ':c') . ', "organizationId" = ' . one('org', ':c')
  . ', "parentEnvironmentId" = ' . one('env', ':x') . ' WHERE id = ' . one('env', ':b') . ";\n";
my $move_project = 'UPDATE "Project" SET "organizationId" = ' . one('org', ':c') . ' WHERE id = ' . one('project', ':b') . ";\n";
my $user_gone = 'DELETE FROM "User" WHERE id = ' . one('"user"', ':b') . ";\n";
my $user_back = 'INSERT INTO "User" SELECT * FROM saved_user ON CONFLICT DO NOTHING;' . "\n";
my $env_gone = 'DELETE FROM "RuntimeEnvironment" WHERE id = ' . one('env', ':b') . ";\n";
my $env_back = 'INSERT INTO "RuntimeEnvironment" SELECT * FROM saved_env ON CONFLICT DO NOTHING;' . "\n";
my $deployment_gone = 'DELETE FROM "WorkerDeployment" WHERE id = ' . one('deployment', ':b') . ";\n";
my $deployment_back = 'INSERT INTO "WorkerDeployment" SELECT * FROM saved_deployment ON CONFLICT DO NOTHING;' . "\n";
my $swap = join '', map { "ALTER TABLE \"Project\" RENAME $_;\n" } ('slug TO other', 'name TO slug', 'other TO name');
my $whole = 'TRUNCATE "RuntimeEnvironment";' . "\n" . 'INSERT INTO "RuntimeEnvironment" SELECT * FROM saved_env;' . "\n";

my $parallel = $primary->pg_version < 16 ? 'force_parallel_mode' : 'debug_parallel_query';

# weight, script
my %on_primary = (
	read_committed => [ 6, "BEGIN;\n" . compare('rc 1') . "\\sleep 1 ms\n" . compare('rc 2') . "\\sleep 2 ms\n" . compare('rc 3') . "COMMIT;\n" ],
	repeatable_read => [ 6, "BEGIN ISOLATION LEVEL REPEATABLE READ;\n" . compare('rr 1') . "\\sleep 3 ms\n" . compare('rr 2') . "COMMIT;\n" . compare('after rr') ],
	serializable => [ 2, "BEGIN ISOLATION LEVEL SERIALIZABLE;\n" . compare('ser 1') . $env . compare('ser 2') . $end . compare('after ser') ],
	own => [ 4, "BEGIN;\n" . $env . compare('own 1') . "SAVEPOINT s;\n" . $project . $env_near . compare('own 2') . "ROLLBACK TO s;\n" . compare('own 3') . $org . compare('own 4') . $end . compare('after own') ],
	own_rr => [ 3, "BEGIN ISOLATION LEVEL REPEATABLE READ;\n" . compare('own rr 1') . $env_near . compare('own rr 2') . "SAVEPOINT s;\n" . $project . compare('own rr 3') . "ROLLBACK TO s;\n" . compare('own rr 4') . $end . compare('after own rr') ],
	released => [ 2, "BEGIN;\nSAVEPOINT s;\n" . $env_near . compare('sub 1') . "RELEASE s;\n" . compare('sub 2') . $end ],
	two_phase => [ 4, "BEGIN;\n" . $env_near . compare('2pc 1') . "PREPARE TRANSACTION 'p:client_id';\nBEGIN;\n" . $org . compare('2pc 2') . "COMMIT;\n" . compare('2pc 3')
		  . "\\if :z\nCOMMIT PREPARED 'p:client_id';\n\\else\nROLLBACK PREPARED 'p:client_id';\n\\endif\n" . compare('2pc 4') ],
	cursor => [ 2, "BEGIN;\nDECLARE cur CURSOR FOR SELECT compare(:a, 'cursor') FROM generate_series(1, 4);\nFETCH 1 FROM cur;\n" . $project . compare('cursor own') . "FETCH 1 FROM cur;\n\\sleep 1 ms\n" . compare('beside cursor') . "FETCH 2 FROM cur;\n" . $end ],
	exception => [ 2, "SELECT compare_failing(:a, :b, :x);\n" ],
	parallel => [ 1, "BEGIN;\nSET LOCAL $parallel = on;\nSELECT count(*)::text::int AS bad FROM differences(:a) \\gset\nSELECT 1 / (CASE WHEN :bad > 0 THEN 0 ELSE 1 END);\nCOMMIT;\n" ],
	update => [ 8, $env . $project . $org ],
	deleted => [ 2, $project2 . compare('deleted project') ],
	move => [ 3, "BEGIN;\n" . $move . compare('moved') . $move_project . compare('moved project') . $end . compare('after move') ],
	user => [ 2, "BEGIN;\n" . $user_gone . compare('user gone') . $end . compare('user 2') . $user_back . compare('user back') ],
	env => [ 3, $env_gone . compare('env gone') . $env_back . compare('env back') ],
	deployment => [ 2, $deployment_gone . compare('deployment gone') . $deployment_back . compare('deployment back') ],
	replica => [ 1, "BEGIN;\nSET LOCAL session_replication_role = replica;\n" . $env . "COMMIT;\n" . compare('replica') ],
	truncate => [ 2, locked('RuntimeEnvironment') . $whole . compare('truncate 1') . $env_near . compare('truncate 2') . $whole . compare('truncate 3') . "\\endif\n" . $end . compare('after truncate') ],
	rename => [ 2, locked('Project') . $swap . compare('rename') . "\\endif\n" . $end . compare('after rename') ],
	# idle in a transaction without a lock, so that news come while a row is looked at
	late_news => [ 2, "BEGIN;\nSELECT 1;\n\\sleep 2 ms\nSELECT run_ops.resolve_authenticated_env(" . one('env', ':a') . ")::text AS cached \\gset\n" . compare('late news') . "COMMIT;\n" ],
	vacuum => [ 1, 'VACUUM "RuntimeEnvironment";' . "\n" . compare('vacuum') ],
	vacuum_full => [ 1, 'VACUUM (FULL, SKIP_LOCKED) "RuntimeEnvironment";' . "\n" . compare('vacuum full') ],
);
my %on_standby = (
	read_committed => [ 1, "BEGIN;\n" . compare('standby 1') . "\\sleep 1 ms\n" . compare('standby 2') . "\\sleep 2 ms\n" . compare('standby 3') . "COMMIT;\n" ],
	repeatable_read => [ 1, "BEGIN ISOLATION LEVEL REPEATABLE READ;\n" . compare('standby rr 1') . "\\sleep 3 ms\n" . compare('standby rr 2') . "COMMIT;\n" ],
);

# Starts pgbench; the scripts get their head.
sub start_pgbench
{
	my ($node, $scripts, $clients, $out, $err) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my @command = ('pgbench', '-n', '-c', $clients, '-j', 1, '-t', $transactions,
		"--random-seed=$seed", '-h', $node->host, '-p', $node->port);

	foreach my $name (sort keys %$scripts)
	{
		append_to_file("$dir/$name", $head . $scripts->{$name}[1]);
		push @command, '-f', "$dir/$name\@$scripts->{$name}[0]";
	}
	return IPC::Run::start([ @command, 'postgres' ], '>', $out, '2>', $err);
}

# How many comparisons pgbench says its transactions made.
sub comparisons
{
	my ($scripts, $out) = @_;
	my $sum = 0;

	foreach my $name (keys %$scripts)
	{
		my ($done) = $out =~ /^SQL script \d+: \S*\/$name\n - weight.*\n - (\d+) transactions/m
		  or die "no count of $name in:\n$out";
		my $each = () = $scripts->{$name}[1] =~ /compare\(|differences\(/g;

		$sum += $done * $each * $per_compare;
	}
	return $sum;
}

my ($out1, $err1, $out2, $err2) = ('', '', '', '');
my $writers = start_pgbench($primary, \%on_primary, 8, \$out1, \$err1);
my $readers = start_pgbench($standby, \%on_standby, 2, \$out2, \$err2);
$_->finish foreach ($writers, $readers);

my $ok = 1;
foreach my $run ([ 'primary', $writers, $err1 ], [ 'standby', $readers, $err2 ])
{
	my ($name, $process, $err) = @$run;

	unlike($err, qr/cache differs/, "$name: no difference") or $ok = 0;
	is($process->result(0), 0, "$name: pgbench succeeds") or $ok = 0;
}
diag("RUN_OPS_CACHE_SEED=$seed\n$err1\n$err2") unless $ok;
if ($ok)
{
	my $sum = comparisons(\%on_primary, $out1) + comparisons(\%on_standby, $out2);

	note("$sum comparisons");
	cmp_ok($sum, '>=', 200_000, 'there were enough comparisons') if $transactions >= 300;
}
done_testing();

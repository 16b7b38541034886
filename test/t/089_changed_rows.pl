# What changes while rows come home or go out is noted: only that is compared
# with writes blocked, nothing is lost, doubled or hidden by any fault, and
# where a trigger may have missed something every row is compared again.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use SplitServers;
use Test::More;

my ($control_plane, $store) = split_servers(conf => "restart_after_crash = on\n");
# for a recovery of its files
$store->append_conf('postgresql.conf', 'wal_level = replica');
$store->restart;
sub here { my ($sql) = @_; return $control_plane->safe_psql('postgres', "SET client_min_messages = error; $sql") }
sub there { my ($sql) = @_; return $store->safe_psql('postgres', $sql) }
sub said { my ($sql) = @_; my ($ret, $out, $err) = $control_plane->psql('postgres', $sql); return $err }

foreach my $node ($store, $control_plane)
{
	$node->safe_psql('postgres', 'CREATE TABLE pair (a int, "runId" text, at timestamptz, n int, PRIMARY KEY (a, at)); CREATE INDEX ON step ("runId")');
}
here(q(ALTER TABLE step ADD FOREIGN KEY ("runId") REFERENCES run ON DELETE CASCADE;
	   SELECT run_ops.attach_table('pair', 'anchor', 'runId');
	   CREATE PROCEDURE all_batches(call text, arguments text DEFAULT '200') LANGUAGE plpgsql AS $$
	   DECLARE complete boolean;
	   BEGIN
	     LOOP
	       EXECUTE format('SELECT done FROM run_ops.%I(%s)', call, arguments) INTO complete;
	       COMMIT;
	       EXIT WHEN complete;
	     END LOOP;
	   END $$;
	   SELECT run_ops.acknowledge(gate, object, 'a test') FROM run_ops.check_split() WHERE gate = 'guard' AND NOT ok;
	   SELECT run_ops.enable_split()));
there(q(INSERT INTO run SELECT 'run_' || lpad(i::text, 27, '0'), 'open', i FROM generate_series(1, 1000) AS i;
		INSERT INTO step SELECT 'step_' || i, 'run_' || lpad(i::text, 27, '0'), i FROM generate_series(1, 1000) AS i;
		INSERT INTO pair SELECT i, 'run_' || lpad(i::text, 27, '0'), '2020-01-01 12:00+00', i FROM generate_series(1, 1000) AS i;
		INSERT INTO tag SELECT 'tag_' || i, i FROM generate_series(1, 1000) AS i));

my @tables = ('run', 'step', 'tag', 'pair');
sub shown
{
	return join "\n", map { here(qq(SELECT '$_', count(*), count(DISTINCT to_jsonb(v) ->> 'id'),
		md5(string_agg(v::text, ',' ORDER BY v::text COLLATE "C")) FROM run_ops.$_ AS v)) } @tables;
}
# the last switch, and whether it compared every row
sub switch
{
	my ($sql, $whole, $what) = @_;
	my $before = shown();
	my $err = said($sql);
	unlike($err, qr/ERROR/, "$what: done");
	if ($whole) { like($err, qr/comparing all rows while writes are blocked\nDETAIL:  .*$whole/, "$what: all rows are compared") }
	else { unlike($err, qr/all rows/, "$what: only changed rows are compared") }
	is(shown(), $before, "$what: every row is shown, once and as it was");
	is(here(q(SELECT to_regnamespace('run_ops_changes') IS NULL)), 't', "$what: no note is left here");
	return;
}
my $off = 'SELECT run_ops.disable_split(repatriated => true)';
my $on = 'SELECT run_ops.enable_split()';
sub notes { return there('SELECT count(*) FROM run_ops_changes.note') }

# --- every kind of change, through the views and beside them --------------------------------

here(q(CALL all_batches('repatriate')));
is(notes(), '0', 'nothing changed');
my $sessions = q(SET datestyle = 'SQL, DMY'; SET timezone = 'Asia/Tokyo';);
$store->safe_psql('postgres', $sessions . q(
	UPDATE run SET n = -n WHERE n <= 5; DELETE FROM step WHERE n = 7; INSERT INTO tag VALUES ('tag_new', 1); DELETE FROM tag WHERE n = 9;
	UPDATE pair SET at = '2021-01-01 13:00+00' WHERE a = 3; DELETE FROM pair WHERE a = 4;
	BEGIN; UPDATE run SET n = 0; ROLLBACK;
	SET session_replication_role = replica; UPDATE run SET n = 77 WHERE n = 70));
here(qq(UPDATE run_ops_new.run SET n = 1000000 WHERE n = 100; DELETE FROM run_ops_new.tag WHERE n = 20));
is(notes(), 5 + 1 + 1 + 1 + 2 + 1 + 1 + 1 + 1, 'each is noted, what was rolled back is not');
# a copy that somebody touched here
here(q(SET session_replication_role = origin; DELETE FROM public.run WHERE n = 50 AND NOT run_ops.resides(id, 'legacy')));
switch($off, undef, 'home');
is(here('SELECT count(*) FROM run WHERE n = 50'), '1', 'home: with the copy that was deleted');

here(q(CALL all_batches('move_strays')));
here(q(UPDATE run_ops.run SET n = n + 1 WHERE n < 10; DELETE FROM run_ops.step WHERE n = 11; INSERT INTO run_ops.tag VALUES ('tag_out', 1);
	   DELETE FROM run_ops.tag WHERE n = 12; UPDATE run_ops.pair SET n = -1 WHERE a = 8));
there(q(UPDATE run SET n = 4711 WHERE n = 60; DELETE FROM step WHERE n = 61));
switch($on, undef, 'out');
is(here('SELECT count(*) FROM run WHERE NOT run_ops.resides(id, \'legacy\')'), '1000', 'out: what moved is left here');
here(q(CALL all_batches('remove_leftovers')));
is(here('SELECT count(*) FROM run WHERE NOT run_ops.resides(id, \'legacy\')'), '0', 'out: and then removed');
is(there(q(SELECT to_regnamespace('run_ops_changes') IS NULL)), 't', 'out: no note is left there');

# --- where a trigger may have missed something ------------------------------------------------

my @doubts = (
	'a trigger dropped' => qr/was changed, or the server/ => sub { there(q(DROP TRIGGER run_ops_changes ON run; UPDATE run SET n = n + 1)) },
	'a trigger off for a while' => qr/was changed, or the server/ => sub {
		there(q(ALTER TABLE run DISABLE TRIGGER run_ops_changes; UPDATE run SET n = n + 1; ALTER TABLE run ENABLE ALWAYS TRIGGER run_ops_changes)) },
	'TRUNCATE' => qr/was changed, or the server/ => sub { there(q(TRUNCATE tag; INSERT INTO tag VALUES ('tag_after', 5))) },
	'the notes dropped' => qr/was removed or replaced|was changed, or the server/ => sub { there(q(DROP SCHEMA run_ops_changes CASCADE; UPDATE run SET n = n + 1)) },
	'the notes emptied' => qr/was changed, or the server/ => sub { there(q(UPDATE run SET n = n + 1; TRUNCATE run_ops_changes.note)) },
	'the store restored' => qr/was changed, or the server was restored/ => sub {
		$store->stop; append_to_file($store->data_dir . '/recovery.signal', '');
		$store->append_conf('postgresql.conf', "restore_command = 'false'\nrecovery_target_timeline = 'latest'");
		$store->start;
		$store->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die;
		there(q(UPDATE run SET n = n + 1)) });
while (my ($what, $why, $do) = splice @doubts, 0, 3)
{
	here(q(CALL all_batches('repatriate', '2000')));
	$do->();
	switch($off, $why, $what);
	here(q(CALL all_batches('move_strays', '2000')));
	switch($on, undef, "out after $what");
}

# repatriate() itself begins anew, and says why
here(q(CALL all_batches('repatriate', '2000')));
there(q(ALTER TABLE run DISABLE TRIGGER run_ops_changes; UPDATE run SET n = n + 1));
like(said(q(CALL all_batches('repatriate', '2000'))), qr/comparing all rows again\nDETAIL:  In store "new", a table or its trigger/, 'repatriate() compares again');
switch($off, undef, 'after that');
switch($on, qr/Not all rows were copied before/, 'out at once');

# --- faults --------------------------------------------------------------------------------------

# killed after a batch was copied, before its notes were removed; and before the copy was committed
here(q(CALL all_batches('repatriate', '2000')));
foreach my $commits (1, 0)
{
	my $drained = notes();
	there('UPDATE run SET n = n + 1 WHERE n % 10 = ' . (3 + 2 * $commits));
	my $many = notes() - $drained;
	cmp_ok($many, '>', 50, 'notes');
	my $session = $control_plane->background_psql('postgres');
	$session->query_safe('BEGIN; SELECT run_ops.repatriate(100); SELECT run_ops.repatriate(100)');
	is(notes(), $many, 'notes stay until the copies are committed');
	$session->query_safe('COMMIT') if $commits;
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	kill 'KILL', $pid;
	$session->{run}->kill_kill;
	await_recovery($control_plane);
	if ($commits) { $store->stop('immediate'); $store->start }
}
here('SELECT run_ops.repatriate(100)');
switch($off, undef, 'killed between copy and removal');
here(q(CALL all_batches('move_strays', '2000')));
switch($on, undef, 'out after that');

# orphans: what is copied at the last moment is checked as well
here(q(CALL all_batches('repatriate', '2000')));
there(q(DELETE FROM run WHERE n = (SELECT max(n) FROM run)));
like(said($off), qr/rows would refer to rows that do not exist\nDETAIL:  1 rows of public\.step violate foreign key/, 'a parent that is gone');
there(q(DELETE FROM step AS s WHERE NOT EXISTS (SELECT FROM run AS r WHERE r.id = s."runId"); INSERT INTO step VALUES ('step_orphan', 'run_999999999999999999999999999', 1)));
like(said($off), qr/rows would refer to rows that do not exist\nDETAIL:  1 rows of public\.step violate foreign key/, 'a child that came');
there(q(DELETE FROM step WHERE id = 'step_orphan'));
switch($off, undef, 'corrected');
switch($on, qr/Not all rows/, 'out again');

# --- what moved and is still here ------------------------------------------------------------------

sub left { return here('SELECT count(*) FROM run WHERE NOT run_ops.resides(id, \'legacy\')') }
# before and after: not a row more or less is shown, and no foreign key is broken
sub same
{
	my ($before, $what) = @_;
	is(shown(), $before, "$what: every row is shown, once and as it was");
	is(here('SELECT run_ops.refuse_orphans()'), '', "$what: foreign keys hold");
	return;
}
sub killed_in
{
	my ($sql) = @_;
	my $session = $control_plane->background_psql('postgres');
	$session->query_safe("SET client_min_messages = error; BEGIN; $sql");
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	kill 'KILL', $pid;
	$session->{run}->kill_kill;
	await_recovery($control_plane);
	return;
}
switch($off, qr/Not all rows/, 'home for that');
here(q(CALL all_batches('move_strays', '2000')));
here('UPDATE run_ops.run SET n = n + 1 WHERE n % 100 = 1');
my $before = shown();
# at its very end: everything is done but the commit
killed_in($on);
is(here('SELECT run_ops.split_enabled(), superseded FROM run_ops.split_state'), 'f|t', 'killed in the switch: split is off');
is(here('SELECT count(*) FROM run_ops.leftover') . here(q(SELECT count(*) FROM pg_trigger WHERE tgname ~ '^(0_|~)run_ops')), '00', 'and nothing is left behind');
same($before, 'killed in the switch');
$store->stop('immediate');
like(said($on), qr/could not connect|cannot be reached|connection/, 'no switch without the store');
$store->start;
same($before, 'without the store');
here($on);
same($before, 'then on');
my $all = left();
cmp_ok($all, '>', 900, 'rows are left here');
killed_in('SELECT run_ops.remove_leftovers(100) FROM generate_series(1, 20)');
is(left(), $all, 'killed while they are removed: what was not committed is not');
same($before, 'killed while they are removed');
here('SELECT run_ops.remove_leftovers(100)');
# the store is away: nothing is removed, LEGACY rows go on, past what is left here
$store->stop('immediate');
like(said('SELECT run_ops.remove_leftovers(100)'), qr/cannot be reached/, 'none is removed without the store');
my ($stepped) = here(q(SELECT id FROM step WHERE NOT run_ops.resides("runId", 'legacy') LIMIT 1));
my $old_run = cuid(1);
here("INSERT INTO run_ops.run (id, n) VALUES ('$old_run', -1); INSERT INTO run_ops.step VALUES ('$stepped', '$old_run', -1); DELETE FROM run_ops.step WHERE \"runId\" = '$old_run'; DELETE FROM run_ops.run WHERE id = '$old_run'");
is(here("SELECT count(*) FROM step WHERE id = '$stepped'"), '0', 'one in the way has gone');
$store->start;
same($before, 'with the store again');
# back from the middle, after changes there and a restart
here(q(UPDATE run_ops.run SET n = -n WHERE n % 50 = 7; DELETE FROM run_ops.step WHERE n % 100 = 9; DELETE FROM run_ops.tag WHERE n % 100 = 3));
here('SELECT run_ops.remove_leftovers(100) FROM generate_series(1, 12)');
cmp_ok(left(), '>', 100, 'in the middle');
$control_plane->stop('immediate');
$control_plane->start;
$before = shown();
here('SELECT run_ops.repatriate(100) FROM generate_series(1, 3)');
same($before, 'on the way back from the middle');
like(said(q(CALL all_batches('repatriate', '2000'))), qr/does not have/, 'what the store does not have any more is not removed untold');
same($before, 'nor is anything shown of it');
here(q(CALL all_batches('remove_leftovers', '2000, deleted => true')));
here(q(CALL all_batches('repatriate', '2000')));
switch($off, undef, 'home from the middle');
is(here(q(SELECT count(*) FROM run_ops.leftover)), '0', 'with no leftover');
here(q(CALL all_batches('move_strays', '2000')));
here($on);
same($before, 'out again');
switch($off, qr/Not all rows/, 'home at once');
switch($on, qr/Not all rows/, 'and out at once');

# --- who may not create a trigger ---------------------------------------------------------------

there(q(CREATE ROLE plain LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO plain;
		GRANT EXECUTE ON FUNCTION pg_control_system() TO plain));
here(q(ALTER USER MAPPING FOR CURRENT_USER SERVER new OPTIONS (ADD user 'plain')));
my @tried = said(q(CALL all_batches('repatriate', '2000'))) =~ /cannot track changes in store "new".*\nDETAIL:  (permission denied)/g;
cmp_ok(@tried, '>=', 5, 'no privilege to track changes: said by each call');
there(q(UPDATE run SET n = n + 1 WHERE n % 10 = 1));
switch($off, qr/store "new" were not tracked: permission denied/, 'without notes');
here(q(ALTER USER MAPPING FOR CURRENT_USER SERVER new OPTIONS (DROP user)));
switch($on, qr/Not all rows/, 'out once more');
# the reason goes away while rows are copied
here(q(CALL all_batches('remove_leftovers', '2000')));
here(q(ALTER USER MAPPING FOR CURRENT_USER SERVER new OPTIONS (ADD user 'plain')));
like(said(q(SELECT run_ops.repatriate(2000))), qr/cannot track changes in store "new"/, 'not tracked') foreach (1 .. 2);
there(q(UPDATE run SET n = n + 1 WHERE n % 10 = 2));
here(q(ALTER USER MAPPING FOR CURRENT_USER SERVER new OPTIONS (DROP user)));
unlike(said(q(CALL all_batches('repatriate', '2000'))), qr/cannot track/, 'the next call tracks changes');
there(q(UPDATE run SET n = n + 1 WHERE n % 10 = 3));
switch($off, undef, 'tracked from the middle on');
switch($on, qr/Not all rows/, 'out after that');
# so does a transaction that holds a lock
here(q(CALL all_batches('remove_leftovers', '2000')));
my $long = $store->background_psql('postgres');
$long->query_safe('BEGIN; LOCK TABLE run IN ROW EXCLUSIVE MODE');
like(said('SET run_ops_split.swap_attempts = 2; SELECT run_ops.repatriate(2000)'), qr/cannot track changes in store "new"/, 'a long transaction');
like(said('SELECT run_ops.repatriate(2000)'), qr/cannot track changes in store "new"/, 'still there');
$long->query_safe('COMMIT');
$long->quit;
here(q(CALL all_batches('repatriate', '2000')));
there(q(UPDATE run SET n = n + 1 WHERE n % 10 = 4));
switch($off, undef, 'tracked once it has ended');
switch($on, qr/Not all rows/, 'and out');

# --- under load ------------------------------------------------------------------------------------

here(q(CREATE TABLE written (id text PRIMARY KEY, n int)));
my $script = $control_plane->basedir . '/write.sql';
append_to_file($script, q(\set n random(1, 1000)
	SET run_ops_split.cross_store_writes = allow;
	BEGIN;
	UPDATE run_ops.run SET n = n + 1 WHERE id = 'run_' || lpad(:n::text, 27, '0');
	INSERT INTO written VALUES ('run_' || lpad(:n::text, 27, '0'), 1) ON CONFLICT (id) DO UPDATE SET n = written.n + 1;
	COMMIT;
));
here(q(CREATE TABLE start AS SELECT id, n FROM run_ops.run));
my ($out, $err) = ('', '');
my $load = IPC::Run::start([ 'pgbench', '-n', '-c', 4, '-R', 100, '-T', 3600, '-f', $script, $control_plane->connstr('postgres') ], '>', \$out, '2>', \$err);
foreach my $round (1 .. 3)
{
	here(q(CALL all_batches('repatriate', '2000')));
	unlike(said('SET run_ops_split.swap_attempts = 1000; ' . $off), qr/ERROR|all rows/, "home under load, $round");
	here(q(CALL all_batches('move_strays', '2000')));
	unlike(said('SET run_ops_split.swap_attempts = 1000; ' . $on), qr/ERROR|all rows/, "out under load, $round");
	unlike(said(q(CALL all_batches('remove_leftovers', '100'))), qr/ERROR/, "and removed under load, $round") if $round != 2;
}
$load->signal('TERM');
$load->finish;
unlike($err, qr/ERROR|aborted/, 'no client saw an error') or diag($err);
$control_plane->poll_query_until('postgres', q(SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'pgbench')));
cmp_ok(here('SELECT sum(n) FROM written'), '>', 100, 'clients wrote');
is(here(q(SELECT count(*) FROM start AS s LEFT JOIN written AS w USING (id) FULL JOIN run_ops.run AS r USING (id)
	WHERE r.n IS DISTINCT FROM s.n + coalesce(w.n, 0))), '0', 'every write counts, once');

done_testing();

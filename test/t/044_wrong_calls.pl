# Every C function of the extension that SQL can call, called in ways that it
# is not made for: the server lives on, and what is wrong is refused by an
# error that says so.  The functions come from the catalog, and the statements
# are made in test/fixtures/wrong_calls.sql, so that a new function is called
# as well.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use SplitServers;
use Test::More;

my ($control_plane, $store) = split_servers(conf => "restart_after_crash = on\nlog_min_messages = error\nautovacuum = off\n");
$control_plane->safe_psql('postgres', q(
	SET client_min_messages = warning;
	SELECT run_ops.enable_split();
	\i test/fixtures/control_plane.sql
	INSERT INTO "Organization" (id, slug, title, "updatedAt", "featureFlags") VALUES ('org', 'o', 'o', now(), '{"runOpsMintKind": "ksuid"}');
	INSERT INTO "Project" (id, name, "organizationId", "updatedAt", slug, "externalRef") VALUES ('proj', 'p', 'org', now(), 'p', 'p');
	INSERT INTO "RuntimeEnvironment" (id, slug, "apiKey", "organizationId", "updatedAt", "projectId", "pkApiKey", shortcode)
	  VALUES ('env', 'env', 'env', 'org', now(), 'proj', 'env', 'env');
	SELECT run_ops.attach_control_plane('public');
	ALTER SYSTEM SET run_ops_split.mint_enabled = on;
	ALTER SYSTEM SET run_ops_split.cross_store_writes = allow;
	SELECT pg_reload_conf();
	\i test/fixtures/every_function.sql
	\i test/fixtures/wrong_calls.sql
	CREATE ROLE caller;
	GRANT USAGE ON SCHEMA run_ops TO caller));
foreach my $id (cuid(1), ksuid(1))
{
	$control_plane->safe_psql('postgres', "INSERT INTO run_ops.run (id, n) VALUES ('$id', 1)");
}
$control_plane->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($control_plane, 'base', has_streaming => 1);
$standby->start;

# A session that is there as long as the server has not crashed.
my %kept;

sub keep_session
{
	my ($node) = @_;
	my $session = { psql => $node->background_psql('postgres', on_error_stop => 0, timeout => 10 * $PostgreSQL::Test::Utils::timeout_default) };
	$session->{backend} = $session->{psql}->query('SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()');
	$session->{log} = -s $node->logfile;
	return $session;
}

sub survived
{
	my ($node, $what) = @_;
	my $session = $kept{ $node->name };

	await_recovery($node);
	my $log = slurp_file($node->logfile, $session->{log});
	my @crashes = grep { /terminated by signal|PANIC:|TRAP:|ERROR: AddressSanitizer|Failed process was running/ } split /\n/, $log;
	my ($pid, $start) = split /\|/, $session->{backend};
	my $is_there = $node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid AND backend_start = '$start'");
	my $well = ok(!@crashes && $is_there, "$what: the server lives on");
	diag join "\n", map { substr $_, 0, 1000 } @crashes if @crashes;
	$session->{log} = -s $node->logfile;
	# what comes next is judged by itself
	$kept{ $node->name } = keep_session($node) if !$well;
	return;
}

# Statements whose last lines are those of probe.try_each().
sub try_each
{
	my ($node, $what, $sql) = @_;
	my $out = '';
	my $err = '';

	$node->psql('postgres', "SET client_min_messages = error;\n$sql", stdout => \$out, stderr => \$err, on_error_stop => 0);
	survived($node, $what);
	my ($statements, $refused) = (0, 0);
	my @broken;
	foreach my $line (split /\n/, $out)
	{
		if ($line =~ /(\d+) statements, (\d+) refused$/) { $statements += $1; $refused += $2; }
		else { push @broken, $line; }
	}
	is(join("\n", @broken), '', "$what: no internal error");
	ok($statements > 0 && $err eq '', "$what: $statements statements, $refused of them refused") or diag $err;
	return;
}
$kept{ $_->name } = keep_session($_) foreach ($control_plane, $standby);

my $calls = q(SELECT probe.try_calls(););
my $misplaced = q(SELECT probe.try_each(ARRAY(SELECT probe.misplaced())););
my $relations = '{pg_temp.temporary,probe.plain,probe.partitioned,probe.partition,probe.foreign,probe.view,run,run_ops.run}';

# One function after the other first: so a crash shows which one it was.
my @functions = split /\n/, $control_plane->safe_psql('postgres', q(SELECT DISTINCT proname FROM probe.c_function ORDER BY 1));
cmp_ok(scalar @functions, '>', 30, 'C functions are found');
try_each($control_plane, 'calls', join "\n", 'CREATE TEMP TABLE call AS SELECT c FROM probe.calls() AS c;',
	map { "SELECT probe.try_each(array_agg('SELECT ' || c)) FROM call WHERE c LIKE 'run\\_ops.$_(%';" } @functions);
try_each($control_plane, 'calls by who has USAGE only', "SET ROLE caller; $calls");
try_each($control_plane, 'calls where they do not belong', $misplaced);
try_each($control_plane, 'calls by a transaction that only reads', "BEGIN READ ONLY; $calls $misplaced");
try_each($control_plane, 'calls by a serializable transaction', "BEGIN ISOLATION LEVEL SERIALIZABLE; $calls");
try_each($control_plane, 'support of other functions', q(SELECT probe.try_each(ARRAY(SELECT probe.supported()));));

my $temporary = q(CREATE TEMP TABLE temporary (id text, n int); INSERT INTO temporary VALUES ('x', 1););
try_each($control_plane, "triggers on $_", "$temporary SELECT probe.try_each(ARRAY(SELECT probe.triggers('{$_}')));")
	foreach $relations =~ /[a-z_.]+/g;
try_each($control_plane, 'triggers of who has USAGE only', "SET ROLE caller; $temporary
	CREATE TEMP VIEW temporary_view AS SELECT * FROM temporary;
	SELECT probe.try_each(ARRAY(SELECT probe.triggers('{pg_temp.temporary,pg_temp.temporary_view}')));");

# Within statements on the view.
foreach my $time ('BEFORE', 'AFTER')
{
	try_each($control_plane, "from a trigger $time", "BEGIN;
		CREATE TRIGGER inside $time INSERT OR UPDATE OR DELETE ON run FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION probe.answer_inside();
		INSERT INTO run_ops.run (id, n) VALUES ('" . cuid(2) . "', 1);
		UPDATE run_ops.run SET n = 3 WHERE id = '" . cuid(2) . "';
		DELETE FROM run_ops.run WHERE id = '" . cuid(2) . "';
		SELECT line FROM probe.answer ORDER BY ord;
		ROLLBACK;");
}
foreach my $statement ("INSERT INTO run_ops.run (id, n) VALUES ('" . cuid(3) . "', 1), ('" . ksuid(3) . "', 1)",
	'UPDATE run_ops.run SET n = 4', 'DELETE FROM run_ops.run')
{
	my ($event) = $statement =~ /(\w+)/;
	try_each($control_plane, "from RETURNING of $event", "BEGIN;
		CREATE TABLE answers AS WITH w AS ($statement RETURNING probe.answer('$event')) SELECT * FROM w;
		SELECT line FROM probe.answer ORDER BY ord;
		ROLLBACK;");
}

# In parallel workers: each function with ordinary values, and with NULLs.
my $parallel = 'SET ' . ($control_plane->safe_psql('postgres', q(SELECT name FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query'))))
	. ' = on;';
try_each($control_plane, 'in a parallel worker', "$parallel SELECT probe.try_each(array_agg(DISTINCT
	format('SELECT probe.worker(%L)', 'SELECT ' || probe.absurd_call(f, n)))) FROM probe.c_function AS f, generate_series(0, 2) AS n;");

$control_plane->wait_for_catchup($standby, 'replay', $control_plane->lsn('insert'));
is($standby->safe_psql('postgres', 'SELECT pg_is_in_recovery()'), 't', 'a standby recovers');
try_each($standby, 'on a standby', "$calls $misplaced");

# What is said of those that have brought servers down or written where they
# must not.
sub refused
{
	my ($what, $sql, $expected) = @_;
	my $err;

	$control_plane->psql('postgres', "BEGIN; $sql ROLLBACK;", stderr => \$err, on_error_stop => 0);
	is(join(' ', $err =~ /ERROR:  ([0-9A-Z]{5}: .*)/), $expected, $what);
	return;
}
my $verbose = "\\set VERBOSITY verbose\nSET client_min_messages = error;";
refused('the write lock of a statement',
	"$verbose $temporary CREATE TRIGGER t AFTER INSERT ON temporary EXECUTE FUNCTION run_ops.refuse_stray('id'); INSERT INTO temporary DEFAULT VALUES;",
	'39P01: run_ops.refuse_stray() must be called as a trigger after INSERT or UPDATE for each row');
refused('epochs without arguments',
	"$verbose $temporary CREATE TRIGGER t AFTER INSERT ON temporary EXECUTE FUNCTION run_ops.bump_changed(); INSERT INTO temporary DEFAULT VALUES;",
	'39P01: run_ops.bump_changed() takes 3 arguments, but trigger "t" has 0');
refused('epochs without a transition table',
	"$verbose $temporary CREATE TRIGGER t AFTER DELETE ON temporary EXECUTE FUNCTION run_ops.bump_changed('environment', 'id', 'n'); DELETE FROM temporary;",
	'39P01: trigger "t" has no OLD TABLE');
is($control_plane->safe_psql('postgres', "BEGIN; $temporary
	CREATE TRIGGER t AFTER UPDATE ON temporary REFERENCING OLD TABLE AS o NEW TABLE AS n FOR EACH STATEMENT
	  EXECUTE FUNCTION run_ops.bump_changed('probe', 'n', 'n');
	UPDATE temporary SET n = 2; SELECT key FROM run_ops.cache_epoch WHERE scope = 'probe'; ROLLBACK"), '*',
	'a key that is no text: an epoch for all of them');
foreach my $call ("leaf_of_new_id(1, 'x')", "leaf_of_new_row(1, ROW(1))", "id_that_stays(1, 1, 'x', 'y')")
{
	refused($call, "$verbose SELECT run_ops.$call", '42704: relation 1 is not the view of a routed table');
}
refused('leaf_of_new_id() for a table', "$verbose SELECT run_ops.leaf_of_new_id('run'::regclass, 'x')",
	'42704: relation ' . $control_plane->safe_psql('postgres', q{SELECT 'run'::regclass::oid}) . ' is not the view of a routed table');
refused('leaf_of_new_row() for a row of something else', "$verbose SELECT run_ops.leaf_of_new_row('run_ops.run'::regclass, ROW(1))",
	'42804: the row is not one of view "run"');
refused('fire_on_replica() for a trigger of somebody else', "$verbose
	CREATE TRIGGER t INSTEAD OF INSERT ON probe.view FOR EACH ROW EXECUTE FUNCTION probe.answer_inside();
	SELECT run_ops.fire_on_replica('probe.view', 't');", '42809: trigger "t" of view "view" is not one of run_ops.route_write()');
refused('fire_on_replica() by a transaction that only reads',
	"$verbose SET TRANSACTION READ ONLY; SELECT run_ops.fire_on_replica('run_ops.run', 'run_ops_replica_begin');",
	'25006: cannot execute run_ops.fire_on_replica() in a read-only transaction');
# COPY is what fires these triggers
my $copy = 'COPY run_ops.run (id) FROM STDIN;' . "\n" . ksuid(2) . "\n\\.\n";
refused('a second trigger that announces a statement',
	"$verbose CREATE TRIGGER t BEFORE INSERT ON run_ops.run EXECUTE FUNCTION run_ops.route_write(); $copy",
	'39P01: more than one BEFORE trigger of view "run" calls run_ops.route_write()');
refused('a second trigger that ends a statement',
	"$verbose CREATE TRIGGER a AFTER INSERT ON run_ops.run EXECUTE FUNCTION run_ops.route_write(); $copy",
	'39P01: no BEFORE trigger of view "run" has called run_ops.route_write()');
refused('a statement without an end',
	"$verbose DROP TRIGGER run_ops_write ON run_ops.run; $copy COMMIT;",
	'39P01: no AFTER trigger of view "run" has called run_ops.route_write()');
survived($control_plane, 'all of them');

# The rows are as before, and the views work.
is($control_plane->safe_psql('postgres', 'SELECT id, n FROM run_ops.run ORDER BY id COLLATE "C"'), ksuid(1) . "|1\n" . cuid(1) . '|1', 'rows are as before');
$_->{psql}->quit foreach values %kept;
done_testing();

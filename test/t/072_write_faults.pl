# Writes through the views when a store stalls, is down, or a server crashes;
# and what a reader sees meanwhile.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use SplitServers;
use Test::More;

my ($control_plane, $store) = split_servers(conf => 'restart_after_crash = on');
# a row that refers to a run, which may be in another store
$_->safe_psql('postgres', 'CREATE TABLE child (id text PRIMARY KEY, parent text)') foreach ($control_plane, $store);
$control_plane->safe_psql('postgres', q(
	ALTER TABLE child ADD FOREIGN KEY (parent) REFERENCES run;
	SELECT run_ops.attach_table('child', 'shape');
	SELECT run_ops.acknowledge(gate, object, 'a test') FROM run_ops.check_split() WHERE gate = 'guard' AND NOT ok;
	SELECT run_ops.enable_split()));

sub start_psql
{
	my ($sql, $out, $err) = @_;
	return IPC::Run::start([ 'psql', '-XAtqd', $control_plane->connstr('postgres'), '-v', 'ON_ERROR_STOP=1', '-c', $sql ],
		'>', $out, '2>', $err);
}

# Rows in their stores, whatever the views say.
sub stored
{
	my ($table) = @_;
	return join ' ', map { $_->safe_psql('postgres', "SELECT count(*) FROM $table") } ($control_plane, $store);
}

# --- a store that stalls ----------------------------------------------------

my $waiting = q(SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 'run'::regclass);
my $holder = $store->background_psql('postgres');
$holder->query_safe('BEGIN');
$holder->query_safe('LOCK TABLE run IN ACCESS EXCLUSIVE MODE');
my ($out, $err) = ('', '');
my $insert = start_psql('INSERT INTO run_ops.run (id) VALUES (' . quoted(ksuid(1)) . ') RETURNING n IS NULL', \$out, \$err);
ok($store->poll_query_until('postgres', $waiting), 'an insert waits for the store');
$holder->query_safe('SELECT pg_sleep(6)');
is($store->safe_psql('postgres', $waiting), 't', '... for 6 seconds');
$holder->query_safe('COMMIT');
$insert->finish;
is("$out$err", "t\n", '... and then succeeds');
is(stored('run'), '0 1', '... with one row');

$holder->query_safe('BEGIN');
$holder->query_safe('LOCK TABLE run IN ACCESS EXCLUSIVE MODE');
my $session = $control_plane->background_psql('postgres', on_error_stop => 0);
$session->query(q(SET run_ops_split.cross_store_writes = allow; SET statement_timeout = '1s'));
$session->{stderr} = '';
$session->query('INSERT INTO run_ops.run (id) SELECT run_ops.generate_cuid() FROM generate_series(1, 10) UNION ALL SELECT '
	  . 'run_ops.generate_ksuid() FROM generate_series(1, 10)');
like($session->{stderr}, qr/ERROR:  canceling statement due to statement timeout/, 'with statement_timeout: a clean error');
$holder->query_safe('COMMIT');
$holder->quit;
ok($store->poll_query_until('postgres', q(SELECT count(*) = 0 FROM pg_locks WHERE relation = 'run'::regclass AND pid <> pg_backend_pid())),
	'... and the store is left alone');
is(stored('run'), '0 1', '... with no row of the statement in either store');
$session->{stderr} = '';
is($session->query('INSERT INTO run_ops.run (id) VALUES (' . quoted(ksuid(2)) . ') RETURNING state'), 'open', '... and the session goes on');
is($session->{stderr}, '', '... without an error');
is(stored('run'), '0 2', '... and writes');
$session->quit;

# --- a reader never sees a part -----------------------------------------------

my $half = q(SELECT count(*) FROM run_ops.run AS r WHERE NOT EXISTS (SELECT FROM run_ops.step AS s WHERE s."runId" = r.id));
$control_plane->safe_psql('postgres', 'DELETE FROM run_ops.run');
my $script = $control_plane->basedir . '/writer.sql';
append_to_file($script, q(
	\set kind random(0, 1)
	SELECT CASE WHEN :kind = 0 THEN run_ops.generate_cuid() ELSE run_ops.generate_ksuid() END AS run \gset
	BEGIN;
	INSERT INTO run_ops.run (id, n) VALUES (':run', :client_id);
	INSERT INTO run_ops.step SELECT gen_random_uuid(), ':run', i FROM generate_series(1, 3) AS i;
	COMMIT;
));
my $writers = IPC::Run::start([ 'pgbench', '-n', '-c', '2', '-t', '1000', '-f', $script, $control_plane->connstr('postgres') ],
	'>', \$out, '2>', \$err);
my $reader = $control_plane->background_psql('postgres');
my ($reads, $seen, $changed, $last) = (0, '', 0, '');
while ($writers->pumpable)
{
	$writers->pump_nb;
	my $alone = $reader->query_safe($half);
	my $runs = $reader->query_safe('SELECT count(*) FROM run_ops.run');
	$seen .= "$alone " if $alone != 0;
	$changed++ if $runs ne $last;
	$last = $runs;
	$reads++;
}
$writers->finish;
$reader->quit;
note "$reads reads, $changed of them saw more runs";
cmp_ok($changed, '>', 5, 'a reader looks at runs while they are inserted');
is($seen, '', 'and sees none without its steps');
is($control_plane->safe_psql('postgres', 'SELECT count(*) FROM run_ops.run'), '2000', 'all runs are there');
is($control_plane->safe_psql('postgres', $half), '0', 'with their steps');

# a crash between the two
foreach my $id (cuid(900), ksuid(900))
{
	my $writer = $control_plane->background_psql('postgres', on_error_stop => 0);
	$writer->query_safe('BEGIN');
	my $pid = $writer->query_safe("INSERT INTO run_ops.run (id) VALUES ('$id') RETURNING pg_backend_pid()");
	is($control_plane->safe_psql('postgres', "SELECT count(*) FROM run_ops.run WHERE id = '$id'"), '0', "$id is not yet seen");
	kill 'KILL', $pid;
	eval { $writer->quit };
	await_recovery($control_plane);
	ok($store->poll_query_until('postgres', q(SELECT count(*) = 0 FROM pg_stat_activity WHERE state LIKE 'idle in transaction%')),
		'the store has noticed the crash');
	is($control_plane->safe_psql('postgres', "SELECT count(*) FROM run_ops.run WHERE id = '$id'"), '0', "$id is not there after a crash");
}

sub quoted { return "'$_[0]'" }

# --- a crash between two commits ------------------------------------------------

# The store commits first.  It is kept at its COMMIT until the control plane
# has crashed.
$store->safe_psql('postgres', q(
	CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END';
	CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON child DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait()));
$holder = $store->background_psql('postgres');
$holder->query_safe('SELECT pg_advisory_lock(1)');
is($control_plane->safe_psql('postgres', 'SELECT count(*) FROM run_ops.in_doubt()'), '0', 'nothing is in doubt');
my ($parent, $child) = (cuid(901), ksuid(901));
my $both = start_psql(qq(SET run_ops_split.cross_store_writes = allow; BEGIN;
	INSERT INTO run_ops.run (id) VALUES ('$parent'); INSERT INTO run_ops.child VALUES ('$child', '$parent'); COMMIT), \$out, \$err);
ok($store->poll_query_until('postgres', q(SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND locktype = 'advisory')),
	'the store is about to commit');
my $pid = $control_plane->safe_psql('postgres', q(SELECT pid FROM pg_stat_activity WHERE query LIKE '%COMMIT' AND pid <> pg_backend_pid()));
kill 'KILL', $pid;
$both->finish;
await_recovery($control_plane);
$holder->query_safe('SELECT pg_advisory_unlock(1)');
$holder->quit;
ok($store->poll_query_until('postgres', 'SELECT count(*) = 1 FROM child'), 'the store has committed');
is($control_plane->safe_psql('postgres', "SELECT count(*) FROM run_ops.run WHERE id = '$parent'"), '0', 'the control plane has not');
is($control_plane->safe_psql('postgres', 'SELECT store, view, key, column_name, missing FROM run_ops.in_doubt()'),
	qq(new|run_ops.child|{"id": "$child"}|parent|$parent), 'in_doubt() finds the row whose counterpart is missing');
$control_plane->safe_psql('postgres', 'DELETE FROM run_ops.child');
is($control_plane->safe_psql('postgres', 'SELECT count(*) FROM run_ops.in_doubt()'), '0', 'nothing is in doubt any more');

# --- a store that is down ---------------------------------------------------------

$store->stop;
my $legacy = cuid(902);
is($control_plane->safe_psql('postgres', qq(
	INSERT INTO run_ops.run (id, n) VALUES ('$legacy', 1);
	UPDATE run_ops.run SET n = n + 1 WHERE id = '$legacy' RETURNING n;
	INSERT INTO run_ops.step VALUES ('s902', '$legacy', 1);
	DELETE FROM run_ops.step WHERE id = 's902' AND "runId" = '$legacy' RETURNING n)), "2\n1", 'store down: LEGACY rows are written');
foreach my $write ("INSERT INTO run_ops.run (id) VALUES ('" . ksuid(902) . "')",
	"INSERT INTO run_ops.run (id) SELECT run_ops.generate_cuid() UNION ALL SELECT run_ops.generate_ksuid()",
	"UPDATE run_ops.run SET n = 1", "DELETE FROM run_ops.run WHERE id = '" . ksuid(1) . "'")
{
	my (undef, undef, $stderr) = $control_plane->psql('postgres', $write);
	like($stderr, qr/ERROR:  store "new" cannot be reached/, "store down: error for $write");
}
is($control_plane->safe_psql('postgres', "SELECT count(*), sum(n) FROM run WHERE id NOT IN (SELECT \"runId\" FROM step)"), '1|2',
	'store down: nothing is half-written');
$store->start;
$control_plane->safe_psql('postgres', "INSERT INTO run_ops.run (id) VALUES ('" . ksuid(902) . "')");
is($control_plane->safe_psql('postgres', "SELECT run_ops.locate('run_ops.run', '" . ksuid(902) . "')"), 'new', 'store up: it is written to');

done_testing();

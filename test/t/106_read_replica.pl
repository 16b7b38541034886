# A replica of a store, from which a session reads if stale rows will do: a real
# standby that is paused, stopped, frozen and promoted.  Which of the two servers
# has answered is told by a row that only one of them has yet.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use SplitServers;

my ($control_plane, $store) = split_servers(conf => "run_ops_split.cross_store_writes = allow\nrun_ops_split.store_timeout = 500\nrun_ops_split.store_retry_pause = 100\n");
$store->append_conf('postgresql.conf', "wal_level = replica\nmax_wal_senders = 5\nhot_standby = on");
$store->restart;
$store->backup('base');
my $replica = PostgreSQL::Test::Cluster->new('replica');
$replica->init_from_backup($store, 'base', has_streaming => 1);
$replica->start;
sub here { return $control_plane->safe_psql('postgres', shift) }
sub refusal { return ($control_plane->psql('postgres', shift))[2] }
my ($host, $port) = ($replica->host, $replica->port);
here(qq(SELECT run_ops.enable_split();
	CREATE SERVER new_replica FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host '$host', port '$port', dbname 'postgres');
	CREATE USER MAPPING FOR CURRENT_USER SERVER new_replica;
	ALTER SERVER new OPTIONS (ADD read_from 'new_replica');
	INSERT INTO run_ops.run (id, n) SELECT 'run_' || lpad(i::text, 27, '0'), 1 FROM generate_series(1, 100) AS i;
	INSERT INTO run_ops.run (id, n) SELECT 'run_c' || lpad(i::text, 24, '0'), 1 FROM generate_series(1, 10) AS i;
	INSERT INTO run_ops_new.tag SELECT 'tag' || i, 1 FROM generate_series(1, 5) AS i));
sub gate { return here(q(SELECT ok, detail, hint FROM run_ops.check_split() WHERE gate = 'replica')) }
$store->wait_for_catchup($replica);
like(gate(), qr/^t\|server "new_replica" is \d+ ms behind\|$/, 'a gate tells how far it is behind');

# The row is 2 in the store and 1 in the replica, which does not replay.
sub pause_replay
{
	$store->wait_for_catchup($replica);
	$replica->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
	$replica->poll_query_until('postgres', "SELECT pg_get_wal_replay_pause_state() = 'paused'");
	return;
}
pause_replay();
my $one = ksuid(7);
here("UPDATE run_ops.run SET n = 2 WHERE id = '$one'; INSERT INTO run_ops_new.tag VALUES ('tag6', 1)");
my $read = "SELECT n FROM run_ops.run WHERE id = '$one'";
my $session = $control_plane->background_psql('postgres', on_error_stop => 0);
sub asked { $session->{stderr} = ''; my $out = $session->query(shift); return $out . ($session->{stderr} =~ /(ERROR: .*)/ ? $1 : '') }
# The tests before the lag has a limit.  Right after a switch the store is read, too.
asked('SET run_ops_split.replica_lag_limit = 0');
is(asked($read), 2, 'without the setting, the store is read');
asked('SET run_ops_split.read_from_replicas = on');
is(asked($read), 1, 'with it, the replica is');
is(asked('SELECT sum(n), count(*) FROM run_ops.run'), '110|110', '... by aggregates, here and there');
is(asked('SELECT count(*) FROM run_ops.tag'), 5, '... and without an id');
is(asked(q(SELECT count(*) FROM (SELECT FROM run_ops.run AS r JOIN run_ops.run AS s USING (id) WHERE r.n = s.n ORDER BY r.id) AS q)), 110, '... several times in one statement, from one snapshot');
is(asked("SELECT run_ops.locate('run_ops.tag', 'tag6')"), 'new', 'what the extension itself reads is exact');

# What the transaction has done is never stale.
is(asked("BEGIN; $read; UPDATE run_ops.run SET n = n + 10 WHERE id = '$one' RETURNING n; $read; ROLLBACK"), "1\n12\n12", 'after a write in the transaction, the store is read');
is(asked("BEGIN; SELECT n FROM run_ops.run WHERE id = '$one' FOR UPDATE; $read; ROLLBACK"), "2\n2", '... after a lock, too');
is(asked("BEGIN; UPDATE run_ops.run SET n = n WHERE id = '" . cuid(1) . "'; $read; ROLLBACK"), 1, '... but not after a local write');
is(asked("UPDATE run_ops.run AS r SET n = s.n + 100 FROM run_ops.run AS s WHERE s.id = '$one' AND r.id = '" . cuid(2) . "' RETURNING r.n"), 102, 'a statement that writes reads the store');
is(asked("WITH w AS (UPDATE run_ops.run SET n = 1 WHERE id = '" . cuid(2) . "') SELECT n FROM run_ops.run WHERE id = '$one'"), 2, '... also below WITH');
is(asked("BEGIN; SAVEPOINT s; UPDATE run_ops.run SET n = 50 WHERE id = '$one'; ROLLBACK TO s; $read; COMMIT"), 1, 'what was rolled back to a savepoint is no write');
is(asked("BEGIN ISOLATION LEVEL REPEATABLE READ; $read; $read; COMMIT"), "2\n2", 'REPEATABLE READ reads the store');
is(asked("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; $read; COMMIT"), 1, '... but READ ONLY');
is(asked("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL run_ops_split.read_from_replicas = off; $read; SET LOCAL run_ops_split.read_from_replicas = on; $read; COMMIT"), "2\n2", '... which stays where it has read');
is(asked("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY; $read; COMMIT"), 2, 'SERIALIZABLE reads the store');
is(asked("PREPARE p AS SELECT n FROM run_ops.run WHERE id = \$1; SET plan_cache_mode = force_generic_plan; EXECUTE p ('$one'); EXECUTE p ('" . cuid(1) . "'); DEALLOCATE p"), "1\n1", 'generic plans read the replica, or nothing but here');
is(asked("BEGIN; DECLARE c CURSOR FOR SELECT n FROM run_ops.run WHERE id >= '$one' ORDER BY id; FETCH 1 FROM c; UPDATE run_ops.run SET n = 3 WHERE id = '" . ksuid(8) . "'; FETCH 1 FROM c; ROLLBACK"), "1\n1", 'a cursor goes on where it was opened');
# per role
here('CREATE ROLE reporting SUPERUSER LOGIN; ALTER ROLE reporting SET run_ops_split.read_from_replicas = on; ALTER ROLE reporting SET run_ops_split.replica_lag_limit = 0;
	CREATE USER MAPPING FOR reporting SERVER new; CREATE USER MAPPING FOR reporting SERVER new_replica');
is($control_plane->safe_psql('postgres', $read, extra_params => [ '-U', 'reporting' ]), 1, 'a role may have the setting');

# A replica that lags behind more than the limit.  Below, 1.2 s of sleep outlast
# the second for which a session relies on its last look at the replica.
asked('SET run_ops_split.replica_lag_limit = 50; SELECT pg_sleep(1.2)');
is(asked($read), 2, 'beyond the limit, the store is read');
$replica->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
$store->wait_for_catchup($replica);
asked('SET run_ops_split.replica_lag_limit = 3600000');
is(asked($read), 2, 'all is replayed');
pause_replay();
here("UPDATE run_ops.run SET n = 5 WHERE id = '$one'");
is(asked($read), 5, 'within the limit, but split was switched on since: an older snapshot could lack rows that have moved');
asked('SET run_ops_split.replica_lag_limit = 0; SELECT pg_sleep(1.2)');
is(asked($read), 2, 'the replica is read again');

# It fails: the store has the rows.
my @processes = (slurp_file($replica->data_dir . '/postmaster.pid') =~ /^(\d+)/,
	split /\n/, $replica->safe_psql('postgres', q(SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid())));
kill 'STOP', @processes;
asked('SELECT pg_sleep(1.2)');
is(asked($read), 5, 'it is frozen: the store is read after one time-out');
is(asked("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT pg_sleep(1.2); $read; $read; COMMIT"), "\n5\n5", '... also in a transaction that only reads');
is(asked("SELECT count(*) FROM run_ops.run"), 110, '... and the next statement does not wait again');
kill 'CONT', @processes;
$replica->stop('immediate');
asked('SELECT pg_sleep(1.2)');
is(asked($read), 5, 'it is down');
like(gate(), qr/^t\|it does not answer, so the store is read: /, '... which is no failing gate');
$replica->start;
my $connections = 0;
for (my $i = 0; $i < 300 && $connections == 0; $i++)
{
	asked("$read; SELECT pg_sleep(0.1)");
	$connections = asked(q(SELECT count(*) FROM run_ops.store_connections() WHERE server = 'new_replica'));
}
is($connections, 1, 'once it is back, it is asked again');

# Promoted, it is another database.
$replica->promote;
$replica->safe_psql('postgres', "UPDATE run SET n = 99 WHERE id = '$one'");
asked('SELECT pg_sleep(1.2)');
is(asked($read), 5, 'once it is promoted, the store is read');
like(gate(), qr/^f\|server "new_replica" is not a standby, and so not read\|ALTER SERVER new OPTIONS \(DROP read_from\);/, '... and a gate fails');
my $hint = (split /\|/, gate())[2];
here("ALTER SERVER new OPTIONS (SET read_from 'nowhere')");
like(gate(), qr/^f\|server "nowhere" does not exist\|Create it, or: ALTER SERVER new OPTIONS \(DROP read_from\);/, 'a server that does not exist');
is(asked($read), 5, '... is not read');
here($hint);
is(gate(), '', 'without the option there is no gate');
$session->quit;

done_testing();

# Every gate of split mode, made to fail for real, and the rules of the
# original system's sentinel that apply here (test/data/sentinel_vectors.csv).
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use Pooler;
use SplitServers;
use Test::More;

# --- the vectors: number => expected value -----------------------------------

my %vector;
{
	foreach (split /\n/, slurp_file('test/data/sentinel_vectors.csv'))
	{
		# commas inside quotes do not come before the expected value
		my ($n, $rule, $inputs, $expected) = /^(\d+),(\w+),("[^"]*"|[^,]*),([^,]*),/ or next;
		$vector{$n} = { rule => $rule, inputs => $inputs, expected => $expected };
	}
}
is(scalar keys %vector, 65, 'vectors are read');

my %applied;
sub vector
{
	my ($n, $got) = @_;
	$applied{$n} = 1;
	is($got, $vector{$n}{expected}, "sentinel $n: $vector{$n}{rule}: $vector{$n}{inputs}");
	return;
}

my ($control_plane, $store) = split_servers();

sub sentinel_says { return failing_gates($control_plane) =~ /^(distinct|clone) /m ? 'not distinct' : 'distinct' }

# Enabling is refused for this reason, and leaves nothing behind.
sub refused
{
	my ($reason, $what) = @_;
	my ($ret, $out, $err) = $control_plane->psql('postgres', 'SELECT run_ops.enable_split()');
	like($err, qr/cannot enable split mode/, "$what: refused");
	like($err, $reason, "$what: for that reason");
	unlike($err, qr/secret/, "$what: no password in the message");
	is($control_plane->safe_psql('postgres', q(
		SELECT split, (SELECT count(*) FROM run_ops.audit_log WHERE action = 'enable split'),
		       (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'),
		       (SELECT count(*) FROM pg_rewrite WHERE rulename = 'refuse_on_conflict') FROM run_ops.split_status)),
		'off|0|0|0', "$what: nothing is left behind");
	return;
}

sub set_up
{
	my ($node, $sql) = @_;
	$node->safe_psql('postgres', $sql);
	return;
}

my $user = $control_plane->safe_psql('postgres', 'SELECT current_user');
$control_plane->safe_psql('postgres', qq(ALTER USER MAPPING FOR CURRENT_USER SERVER new OPTIONS (user '$user', password 'secret')));
is(failing_gates($control_plane), '', 'every gate holds');
vector(3, sentinel_says());
is($control_plane->safe_psql('postgres', 'SELECT run_ops.databases_co_resident()'), 'f', 'not co-resident');
vector(45, 'false');

# --- the same database, by whatever way ---------------------------------------

my ($host, $port) = ($control_plane->host, $control_plane->port);
point_store($control_plane, $host, $port);
vector(1, sentinel_says());
refused(qr/distinct new: the store is this database itself: system identifier \d+, database "postgres"/, 'the same database');
is($control_plane->safe_psql('postgres', 'SELECT run_ops.databases_co_resident()'), 't', 'co-resident');
vector(44, 'true');

{
	my $pooler = Pooler->start(20, other_name => "host=$host port=$port dbname=postgres user=$user");
	point_store($control_plane, $pooler->host, $pooler->port, 'other_name');
	vector(10, sentinel_says());
	refused(qr/distinct new: the store is this database itself/, 'the same database through a pooler');
	$pooler->stop;
}

# another database of the same server is another database
$control_plane->safe_psql('postgres', 'CREATE DATABASE other');
point_store($control_plane, $host, $port, 'other');
vector(2, sentinel_says());

# a standby, and a copy that was promoted
$control_plane->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($control_plane, 'base', has_streaming => 1);
$standby->start;
point_store($control_plane, $standby->host, $standby->port);
vector(11, sentinel_says());
refused(qr/writable new: it is a standby.*distinct new: the store is a standby of this database/s, 'its own standby');
$standby->promote;
refused(qr/clone new: the store is a physical copy of this database on another server.*fingerprints.*system_identifier.*lock_free_there": true/,
	'a promoted copy');
$control_plane->safe_psql('postgres', q(SELECT run_ops.acknowledge('clone', 'new', 'split by copying')));
is(failing_gates($control_plane), '', 'a promoted copy may be acknowledged');
$control_plane->safe_psql('postgres', q(SELECT run_ops.withdraw_acknowledgement('clone', 'new')));
$standby->stop;

# --- no answer -------------------------------------------------------------------

($host, $port) = ($store->host, $store->port);
point_store($control_plane, $host, $port);
$store->stop;
vector(6, sentinel_says());
is(scalar(() = failing_gates($control_plane) =~ /failed: /g), 1, 'the message of libpq, once');
refused(qr/reachable new: store "new" cannot be reached: \S.*\ndistinct new: unreachable\ncolumns new: unreachable\n/s, 'a store that is down');
is($control_plane->safe_psql('postgres', 'SELECT run_ops.databases_co_resident() IS NULL'), 't', 'co-residency unknown');
vector(46, 'unknown');
$store->start;

# a postmaster that accepts and never answers: the wait is bounded
my $pid = (split /\n/, slurp_file($store->data_dir . '/postmaster.pid'))[0];
kill 'STOP', $pid;
like(failing_gates($control_plane, 'run_ops_split.store_timeout = 1000'),
	qr/reachable new: store "new" cannot be reached/, 'a store that hangs');
kill 'CONT', $pid;

$store->safe_psql('postgres', q(CREATE ROLE weak LOGIN; REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC;
	GRANT SELECT, INSERT, UPDATE ON run, step, tag TO weak));
$control_plane->safe_psql('postgres', q(ALTER USER MAPPING FOR CURRENT_USER SERVER new OPTIONS (SET user 'weak')));
vector(9, sentinel_says());
refused(qr/distinct new: could not be checked: permission denied for function pg_control_system.*writable .*run in store "new": the user of the user mapping does not have privilege DELETE/s,
	'a mapped user with too few rights');
$control_plane->safe_psql('postgres', qq(ALTER USER MAPPING FOR CURRENT_USER SERVER new OPTIONS (SET user '$user')));

# --- read-only, other clock, other shape --------------------------------------------

set_up($store, 'ALTER DATABASE postgres SET default_transaction_read_only = on');
refused(qr/writable new: its transactions are read-only/, 'a read-only store');
set_up($store, 'BEGIN READ WRITE; ALTER DATABASE postgres RESET default_transaction_read_only; COMMIT');

$store->stop;
my $shim = $store->basedir . '/clock';
append_to_file("$shim.c", <<'END');
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>
int gettimeofday(struct timeval *tv, void *tz)
{
	int r = syscall(SYS_gettimeofday, tv, tz);
	tv->tv_sec += 3600;
	return r;
}
END
system_or_bail('gcc', '-shared', '-fPIC', '-o', "$shim.so", "$shim.c");
{
	local $ENV{LD_PRELOAD} = "$shim.so";
	$store->start;
}
refused(qr/clock new: its clock differs by at least (01:00|00:59)\S*, 00:00:00\.5 are allowed/, 'a store one hour ahead');
$store->restart;

my @shapes = (
	[ 'ALTER TABLE tag RENAME TO tags', 'ALTER TABLE tags RENAME TO tag', qr/columns public\.tag: table public\.tag: missing in store "new"/ ],
	[ 'ALTER TABLE tag RENAME n TO m', 'ALTER TABLE tag RENAME m TO n', qr/columns public\.tag: column m: missing in legacy.*column n: .*missing in store/ ],
	[ 'ALTER TABLE tag ALTER n TYPE bigint', 'ALTER TABLE tag ALTER n TYPE int', qr/columns public\.tag: column n: integer in legacy, bigint in store/ ],
	[ 'ALTER TABLE tag ALTER n SET NOT NULL', 'ALTER TABLE tag ALTER n DROP NOT NULL', qr/columns public\.tag: column n/ ],
	[ 'ALTER TABLE tag ALTER n SET DEFAULT 7', 'ALTER TABLE tag ALTER n DROP DEFAULT', qr/columns public\.tag: column n/ ],
	[ q(ALTER TYPE status RENAME VALUE 'done' TO 'ready'), q(ALTER TYPE status RENAME VALUE 'ready' TO 'done'), qr/columns public\.run: label of public\.status 'done': present in legacy, missing in store/ ],
	[ 'DROP INDEX run_n', 'CREATE INDEX run_n ON run (n)', qr/index public\.run btree \(n\): missing in store "new"/ ],
	[ 'CREATE UNIQUE INDEX more ON tag (n)', 'DROP INDEX more', qr/index public\.tag UNIQUE btree \(n\): missing in this database, exists in store "new"/ ],
	[ 'INSERT INTO run (id) VALUES (\'' . cuid(1) . '\')', 'TRUNCATE run', qr/strays run_ops\.run: 1 rows that the view would not show/ ],
	[ q(INSERT INTO step VALUES ('s', 'x')), 'TRUNCATE step', qr/strays run_ops\.step: 1 rows that the view would not show/ ]);
foreach my $case (@shapes)
{
	my ($change, $undo, $reason) = @$case;
	set_up($store, $change);
	refused($reason, $change);
	set_up($store, $undo);
}
is(failing_gates($control_plane), '', 'every gate holds again');

set_up($_, 'ALTER TABLE tag ADD extra int') foreach ($store, $control_plane);
refused(qr/refreshed run_ops_new\.tag: it does not have these changes of public\.tag: extra/, 'a migration on both sides alone');
set_up($control_plane, q(SELECT run_ops.refresh_table('run_ops.tag')));
is(failing_gates($control_plane), '', 'refreshed');

$store->safe_psql('postgres', q(CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'));
point_store($control_plane, $host, $port, 'latin');
refused(qr/database new: .*encoding: utf8 in legacy, latin1 in store/, 'another encoding');
point_store($control_plane, $host, $port);

# --- this side -------------------------------------------------------------------------

my @here = (
	[ 'INSERT INTO run (id) VALUES (\'' . ksuid(1) . '\')', 'TRUNCATE run', qr/strays public\.run: 1 rows of the local table belong to a store/ ],
	[ 'CREATE TABLE env (id text PRIMARY KEY REFERENCES run)', 'DROP TABLE env', qr/foreign key env_id_fkey of public\.env: it connects public\.env with public\.run/ ],
	[ 'ALTER TABLE step ADD FOREIGN KEY (id) REFERENCES tag', 'ALTER TABLE step DROP CONSTRAINT step_id_fkey', qr/foreign key step_id_fkey of public\.step: "runId" decides where a row of public\.step is, but no id decides for public\.tag/ ],
	[ 'CREATE PUBLICATION readers FOR TABLE run', 'DROP PUBLICATION readers', qr/realtime publication readers: it publishes only the local rows of public\.run/ ],
	[ q(SELECT pg_create_logical_replication_slot('reader', 'test_decoding')), q(SELECT pg_drop_replication_slot('reader')), qr/realtime replication slot reader: its plugin test_decoding sends all tables/ ],
	[ 'CREATE TABLE "TaskRun" (id text)', 'DROP TABLE "TaskRun"', qr/attached public\."TaskRun": it is a run-ops table, but not a routed table/ ],
	[ 'SELECT run_ops.configure_split(native_realtime => false)', 'SELECT run_ops.configure_split(native_realtime => true)', qr/realtime native realtime: realtime readers follow this database only/ ]);
foreach my $case (@here)
{
	my ($change, $undo, $reason) = @$case;
	set_up($control_plane, $change);
	refused($reason, $change);
	set_up($control_plane, $undo);
}
vector(24, 'ERROR');
vector(34, 'refuses before probing');
vector($_, 'not distinct') foreach (5, 7);

# opted out: no store is asked, whatever it would answer
point_store($control_plane, $host, $port, 'latin');
set_up($control_plane, 'SELECT run_ops.configure_split(opted_in => false)');
my $log = -s $store->logfile;
set_up($store, 'ALTER SYSTEM SET log_connections = on');
$store->reload;
refused(qr/opted in: no; the stores are not checked/, 'not opted in');
unlike(slurp_file($store->logfile, $log), qr/database=latin/, 'not opted in: the store was not asked');
vector($_, 'false') foreach (12, 13);
set_up($control_plane, 'SELECT run_ops.configure_split(opted_in => true)');
point_store($control_plane, $host, $port);

# --- enabled, and what a superuser may do behind its back ---------------------------------

set_up($control_plane, 'SELECT run_ops.enable_split()');
is($control_plane->safe_psql('postgres', 'SELECT run_ops.split_enabled()'), 't', 'enabled');
vector(18, 'true');
vector($_, 'ok') foreach (23);
set_up($control_plane, q(SELECT pg_create_logical_replication_slot('reader', 'test_decoding')));
set_up($control_plane, q(ALTER EVENT TRIGGER run_ops_guard_publications DISABLE; CREATE PUBLICATION behind FOR ALL TABLES));
like(failing_gates($control_plane), qr/realtime publication behind.*realtime replication slot reader/s,
	'readers that came in behind the trigger are found');

# --- vectors that do not apply -------------------------------------------------------------

my %not_applicable = (
	'4' => 'two clusters and other names: no more than 3 says',
	'8' => 'pg_control_system() always returns a row',
	(map { $_ => 'addresses are foreign servers: attached or not' } 14 .. 17),
	'19' => 'the same as 1', '20' => 'no probe can be injected',
	(map { $_ => 'nothing is refused: split is off, see the other tests' } 21, 22),
	(map { $_ => 'client objects of an application' } 25 .. 32, 48 .. 52),
	(map { $_ => 'nothing boots: the gates are checked by enable_split()' } 33, 35 .. 37),
	(map { $_ => 'enforced by the distinct gate alone; advisory otherwise' } 38 .. 43),
	'47' => 'a store that is not attached is not probed: NULL',
	(map { $_ => 'addresses are never compared' } 53 .. 61),
	(map { $_ => 'routing follows from the views, which only enable_split() changes' } 62 .. 65));
is(join(' ', grep { !$applied{$_} && !$not_applicable{$_} } sort { $a <=> $b } keys %vector), '',
	'every vector is driven or listed');

done_testing();

# A copy of the control plane with split on neither reads from nor writes to
# the original's store, whatever way it was copied; a trusted standby does.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use SplitServers;
use Test::More;

my ($control_plane, $store) = split_servers();
my ($cuid, $ksuid) = (cuid(1), ksuid(1));
$control_plane->safe_psql('postgres', qq(
	SELECT run_ops.enable_split();
	INSERT INTO run (id, n) VALUES ('$cuid', 1);
	INSERT INTO run_ops_new.run (id, n) VALUES ('$ksuid', 20);
	INSERT INTO tag VALUES ('t', 1)));
# The NEW row has been home, and is still here after it went out again.
$control_plane->safe_psql('postgres', q(SET client_min_messages = error; SELECT run_ops.disable_split(repatriated => true)));
$control_plane->safe_psql('postgres', q(SET client_min_messages = error; SELECT run_ops.enable_split()));
$control_plane->safe_psql('postgres', "UPDATE run_ops.run SET n = 2 WHERE id = '$ksuid'");
is($control_plane->safe_psql('postgres', 'SELECT string_agg(n::text, \' \' ORDER BY n) FROM run'), '1 20', 'an older copy is left here');
my $both = "SELECT sum(n) FROM run_ops.run WHERE id IN ('$cuid', '$ksuid')";
is($control_plane->safe_psql('postgres', $both), '3', 'the original reads both stores');
my $dump = $control_plane->backup_dir . '/dump';

my $log = 0;
sub asked_since { my $from = $log; $log = -s $store->logfile; return slurp_file($store->logfile, $from) }
$store->append_conf('postgresql.conf', "log_connections = on\nlog_statement = all\n");
$store->reload;

# A copy: LEGACY rows are read, the store is not, and nobody notices there.
sub suspended
{
	my ($copy, $db, $what) = @_;
	asked_since();
	is($copy->safe_psql($db, "SELECT n FROM run_ops.run WHERE id = '$cuid'"), '1', "$what: a LEGACY id is read");
	is($copy->safe_psql($db, 'SELECT run_ops.split_enabled()'), 'f', "$what: split is not on");
	is($copy->safe_psql($db, 'SELECT split FROM run_ops.split_status'), 'suspended', "$what: and is called suspended");
	foreach my $query ("SELECT n FROM run_ops.run WHERE id = '$ksuid'", $both, 'SELECT * FROM run_ops.tag',
		'SELECT run_ops.find_strays(\'run_ops.run\')', 'INSERT INTO run_ops_new.run (id) VALUES (\'' . ksuid(2) . '\')',
		"UPDATE run_ops_new.run SET n = 5 WHERE id = '$ksuid'", 'DELETE FROM run_ops_new.run', 'TRUNCATE run_ops_new.run', 'ANALYZE run_ops_new.run',
		"COPY run_ops_new.run (id) FROM PROGRAM 'echo x'",
		'SELECT run_ops.repatriate()', 'SELECT run_ops.verify_repatriation()', 'SELECT run_ops.disable_split()',
		'SELECT run_ops.disable_split(repatriated => true)', 'SELECT run_ops.move_strays()', 'SELECT run_ops.remove_leftovers()')
	{
		my ($ret, $out, $err) = $copy->psql($db, $query);
		like($err, qr/split mode is suspended in this copy of the database/, "$what: refused: $query");
		is($out, '', "$what: and nothing shown");
	}
	is(asked_since(), '', "$what: the store was not contacted");
	return;
}

# by pg_dump, into the same server and into another
$control_plane->command_ok([ 'pg_dump', '-Fc', '-f', $dump, $control_plane->connstr('postgres') ], 'dump');
my $elsewhere = new_server('elsewhere');
foreach my $node ($control_plane, $elsewhere)
{
	$node->safe_psql('postgres', 'CREATE DATABASE restored');
	$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('restored'), $dump ], 'restore');
	suspended($node, 'restored', 'pg_dump to ' . $node->name);
}

# as a template, in the same server
$control_plane->restart;
$control_plane->safe_psql('template1', 'CREATE DATABASE cloned TEMPLATE postgres');
suspended($control_plane, 'cloned', 'CREATE DATABASE ... TEMPLATE');

# by pg_basebackup: promoted elsewhere, or started as a primary
$control_plane->backup('base');
my $promoted = PostgreSQL::Test::Cluster->new('promoted');
$promoted->init_from_backup($control_plane, 'base', has_streaming => 1);
$promoted->start;
$promoted->promote;
suspended($promoted, 'postgres', 'pg_basebackup, promoted');
my $started = PostgreSQL::Test::Cluster->new('started');
$started->init_from_backup($control_plane, 'base');
$started->start;
suspended($started, 'postgres', 'pg_basebackup, started');

# by a snapshot of the files, taken while the server was down
$control_plane->stop;
PostgreSQL::Test::RecursiveCopy::copypath($control_plane->data_dir, $control_plane->backup_dir . '/files');
$control_plane->start;
my $snapshotted = PostgreSQL::Test::Cluster->new('snapshotted');
$snapshotted->init_from_backup($control_plane, 'files');
$snapshotted->start;
suspended($snapshotted, 'postgres', 'a snapshot of the files');

# The original never noticed.
is($control_plane->safe_psql('postgres', $both), '3', 'the original still reads both stores');
is($store->safe_psql('postgres', 'SELECT count(*), sum(n) FROM run'), '1|2', 'the store is as it was');

# A copy that takes over goes on where the original was: what is left in it
# is known to be old, and is removed only where the store has the row.
my $restored = sub { return $control_plane->safe_psql('restored', "SET client_min_messages = error; $_[0]") };
$restored->('SELECT run_ops.configure_split(opted_in => true, native_realtime => true), run_ops.enable_split()');
is($restored->($both), '3', 'a copy that takes over reads both stores');
is($restored->('SELECT detail FROM run_ops.check_split() WHERE gate = \'strays\' AND object = \'public.run\''),
	'1 rows that moved to a store are still in the local table', 'and knows what is left in it');
$store->safe_psql('postgres', "UPDATE run SET id = 'away' WHERE id = '$ksuid'");
$restored->('SELECT run_ops.remove_leftovers(), run_ops.remove_leftovers()');
my ($failed, undef, $message) = $control_plane->psql('restored', 'SELECT run_ops.remove_leftovers()');
like($message, qr/rows that moved to a store cannot be removed from the local tables\nDETAIL:  run_ops.run: store "new" does not have \["$ksuid"\]/, 'a row that the store lost is kept');
$store->safe_psql('postgres', "UPDATE run SET id = '$ksuid' WHERE id = 'away'");
is($restored->('SELECT (run_ops.remove_leftovers()).done FROM generate_series(1, 3)'), "f\nf\nt", 'when it is there again, it is removed here');
is($restored->('SELECT count(*) FROM run'), '1', 'and no other');
is($restored->($both), '3', 'both stores are read');

# A copy may leave the store out, or take a store of its own.
($failed, undef, $message) = $elsewhere->psql('restored', "SELECT run_ops.detach_table('run_ops.run')");
like($message, qr/rows that moved to a store are still in the local tables/, 'what is left in a copy is not taken for rows');
$elsewhere->safe_psql('restored', 'SELECT run_ops.disable_split(force => true)');
is($elsewhere->safe_psql('restored', 'SELECT count(*) FROM run_ops.run'), '1', 'a copy without the store');
my $own = new_server('own_store');
$own->safe_psql('postgres', q(CREATE TYPE status AS ENUM ('open', 'done');
	CREATE TABLE run (id text PRIMARY KEY, state status NOT NULL DEFAULT 'open', n int); CREATE INDEX run_n ON run (n);
	CREATE TABLE step (id text PRIMARY KEY, "runId" text NOT NULL, n int); CREATE TABLE tag (id text PRIMARY KEY, n int)));
my ($host, $port) = ($own->host, $own->port);
point_store($promoted, $host, $port);
suspended($promoted, 'postgres', 'pointed at another store');
$promoted->safe_psql('postgres', 'SELECT run_ops.enable_split()');
is($promoted->safe_psql('postgres', $both), '1', 'a copy with a store of its own');

# A standby that the primary trusts reads while it follows, and writes on
# after its promotion.
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($control_plane, 'base', has_streaming => 1);
$standby->start;
$control_plane->wait_for_catchup($standby);
my ($ret, $out, $err) = $standby->psql('postgres', $both);
like($err, qr/split mode is suspended/, 'a standby that is not trusted');
my $identity = $standby->safe_psql('postgres', 'SELECT run_ops.server_identity()');
$control_plane->safe_psql('postgres', "SELECT run_ops.trust_standby('$identity')");
$control_plane->wait_for_catchup($standby);
is($standby->safe_psql('postgres', $both), '3', 'a trusted standby reads both stores');
$control_plane->stop('immediate');
$standby->promote;
is($standby->safe_psql('postgres', "UPDATE run_ops_new.run SET n = 7 WHERE id = '$ksuid'; $both"), '8',
	'promoted, it goes on');
is($standby->safe_psql('postgres', 'SELECT run_ops.split_enabled()'), 't', 'promoted, split is on');

done_testing();

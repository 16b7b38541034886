# The cache on a hot standby that replays: one session there has the answer
# cached and asks again after each change of the primary.  A standby knows the
# transactions that run from the log alone, so its snapshots look otherwise.
#
# L4: what the cache of a standby reads anew is its own database, in its own
# snapshot; it cannot fall behind what the same query reads.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', "autovacuum = off\nmax_prepared_transactions = 5\n");
$primary->start;
$primary->safe_psql('postgres', q(
\set side legacy
\set orgs 1
\set runs 40
\i test/fixtures/control_plane.sql
\i test/fixtures/generate.sql
CREATE EXTENSION run_ops_split CASCADE;
SELECT run_ops.attach_control_plane('public');
));
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
my ($env, $other) = split /\n/, $primary->safe_psql('postgres', 'SELECT id FROM "RuntimeEnvironment" ORDER BY id LIMIT 2');

# A psql that stays: its session is the one with the cache, or the transaction.
sub start_session
{
	my ($node) = @_;
	my $session = { in => '', out => '' };

	$session->{psql} = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ],
		'<', \$session->{in}, '>', \$session->{out}, '2>&1', IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return $session;
}

sub ask
{
	my ($session, $query) = @_;

	$session->{out} = '';
	$session->{in} .= "$query;\n\\echo done\n";
	$session->{psql}->pump until $session->{out} =~ /done\n/ || !$session->{psql}->pumpable;
	return $session->{out} =~ s/\n?done\n//r;
}
my $reader = start_session($standby);
my $writer = start_session($primary);

sub limit { return ask($reader, "SELECT (run_ops.resolve_env('$env')).maximum_concurrency_limit"); }

sub update
{
	my ($id, $value) = @_;
	return qq(UPDATE "RuntimeEnvironment" SET "maximumConcurrencyLimit" = $value WHERE id = '$id');
}

# On the primary, alone or in the writer's transaction; then replayed.
sub on_primary
{
	my ($sql, $session) = @_;

	if ($session) { is(ask($session, $sql), '', $sql); }
	else { $primary->safe_psql('postgres', $sql); }
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
}

on_primary(update($env, 1));
is(limit(), 1, 'asked');
is(limit(), 1, 'cached');
is(ask($reader, "SELECT revalidations > 0 FROM run_ops.cache_stats() WHERE slot = 'env'"), 't', 'by the cache');
on_primary(update($env, 2));
is(limit(), 2, 'a change is seen when it is replayed');

# Two transactions of the primary: the one that began first ends last.
ask($reader, 'BEGIN');
on_primary('BEGIN;' . update($env, 3), $writer);
on_primary(update($other, 3));
is(limit(), 2, 'a change that is not committed is not seen');
on_primary('COMMIT', $writer);
is(limit(), 3, 'and is when it is, in the same transaction of the reader');
ask($reader, 'COMMIT');

ask($reader, 'BEGIN ISOLATION LEVEL REPEATABLE READ');
is(limit(), 3, 'REPEATABLE READ: asked');
on_primary(update($env, 4));
is(limit(), 3, 'REPEATABLE READ: its snapshot keeps its answer');
ask($reader, 'COMMIT');
is(limit(), 4, 'and the next one has its own');

on_primary('BEGIN; SET LOCAL run_ops_split.cache_notify = off;' . update($env, 5) . "; PREPARE TRANSACTION 'p'", $writer);
is(limit(), 4, 'a prepared change is not seen');
on_primary("COMMIT PREPARED 'p'", $writer);
is(limit(), 5, 'until it is committed');

on_primary(q(ALTER TABLE "RuntimeEnvironment" RENAME "maximumConcurrencyLimit" TO former;
	ALTER TABLE "RuntimeEnvironment" ADD "maximumConcurrencyLimit" integer NOT NULL DEFAULT 6));
is(limit(), 6, 'a changed definition is followed');
on_primary('VACUUM FULL "RuntimeEnvironment"');
is(limit(), 6, 'VACUUM FULL');
on_primary('CREATE TABLE saved AS SELECT * FROM "RuntimeEnvironment"; TRUNCATE "RuntimeEnvironment" CASCADE');
is(limit(), '', 'TRUNCATE');
on_primary('INSERT INTO "RuntimeEnvironment" SELECT * FROM saved');
is(limit(), 6, 'an absence was not remembered');

# The session lives through the promotion, and its cache with it.
ask($reader, 'BEGIN');
is(limit(), 6, 'before the promotion');
$standby->promote;
is(limit(), 6, 'after it, in the same transaction');
$standby->safe_psql('postgres', update($env, 7));
is(limit(), 7, 'a change of the new primary');
ask($reader, 'ROLLBACK');
is(ask($reader, 'BEGIN;' . update($env, 8)), '', 'the session writes');
is(limit(), 8, 'and sees it');
ask($reader, 'ROLLBACK');
is(limit(), 7, 'and not what it rolled back');

foreach my $session ($reader, $writer)
{
	$session->{in} .= "\\q\n";
	$session->{psql}->finish;
}
done_testing();

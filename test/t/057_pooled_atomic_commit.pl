# Atomic commit over a pooler in transaction mode, with fewer connections to the
# store than clients: they commit in both databases, whoever waits for whom, and
# what is left when the control plane or the pooler is killed between the phases
# is finished over any of the connections.

use strict;
use warnings;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use HeldCommits;
use Pooler;
use SplitServers;

my ($control_plane, $store) = split_servers(conf => q(
	run_ops_split.cross_store_writes = atomic
	run_ops_split.store_timeout = 20s
	run_ops_split.store_retry_pause = 0));
sub here { return $control_plane->safe_psql('postgres', shift) }
sub there { return $store->safe_psql('postgres', shift) }
my ($clients, $transactions) = (6, 50);

$store->append_conf('postgresql.conf', 'max_prepared_transactions = 20');
$store->restart;
my $pooler;
sub start_pooler
{
	$pooler = Pooler->start(2, store => sprintf('host=%s port=%s dbname=postgres user=%s', $store->host, $store->port, scalar getpwuid($<)));
	point_store($control_plane, $pooler->host, $pooler->port, 'store');
	return;
}
here(q(ALTER SERVER new OPTIONS (ADD pooled 'true')));
start_pooler();
is(failing_gates($control_plane), '', 'every gate holds');
here('SELECT run_ops.enable_split()');
here("INSERT INTO run_ops.run (id, n) VALUES ('@{[cuid($_)]}', 0), ('@{[ksuid($_)]}', 0)") foreach 1 .. 3;

sub left { return there('SELECT count(*) FROM pg_prepared_xacts') }
sub resolved { return here(q(SELECT string_agg(concat(store, ' ', outcome), ', ') FROM run_ops.resolve_in_doubt())) }

# --- clients that wait for each other --------------------------------------------

# Each changes a row of three in both databases, the store first.  A row that is
# prepared is locked until COMMIT PREPARED gets a connection, and those who wait
# for the row have connections, too.
my $file = "$PostgreSQL::Test::Utils::tmp_check/both.sql";
append_to_file($file, q(
\set a random(1, 3)
BEGIN;
UPDATE run_ops.run SET n = n + 1 WHERE id = 'run_' || lpad((:a)::text, 27, '0');
UPDATE run_ops.run SET n = n + 1 WHERE id = 'run_c' || lpad((:a)::text, 24, '0');
COMMIT;
));
my ($out, $err);
IPC::Run::run([ 'pgbench', '-n', '-c', $clients, '-j', 2, '-t', $transactions, '-f', $file, $control_plane->connstr('postgres') ], '>', \$out, '2>', \$err);
my $all = $clients * $transactions;
like($out, qr{transactions actually processed: $all/$all\n}, 'clients on two connections: nothing fails') or diag $err;
unlike($err, qr/WARNING|ERROR/, '... and nothing is in doubt');
is(here('SELECT sum(n) FROM public.run') . ' ' . there('SELECT sum(n) FROM run'), "$all $all", '... each has committed in both databases');
is(left(), '0', '... nothing is left');
ok($store->poll_query_until('postgres', q(SELECT count(*) <= 2 AND count(*) FILTER (WHERE state <> 'idle') = 0 FROM pg_stat_activity
	WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND query LIKE '%PREPARED%')), '... over two connections, which are idle');

# --- a transaction that cannot be prepared ------------------------------------------

there(q(
	CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF new.n = 10 THEN RAISE 'not this one'; END IF; RETURN NULL; END $$;
	CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON run DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()));
sub insert { my ($n) = @_; return "INSERT INTO run_ops.run (id, n) VALUES ('@{[cuid($n)]}', $n), ('@{[ksuid($n)]}', $n)" }
sub stored { my ($n) = @_; return join ' ', map { $_->safe_psql('postgres', "SELECT count(*) FROM public.run WHERE n = $n") } ($control_plane, $store) }

my $ret;
($ret, $out, $err) = $control_plane->psql('postgres', insert(10));
like($err, qr/ERROR:  not this one/, 'a store cannot prepare');
unlike($err, qr/WARNING/, '... of which nobody has to be told more');
is(stored(10) . ' ' . left(), '0 0 0', '... so nothing is in either database');

# --- killed between the phases ------------------------------------------------------

my $commits = HeldCommits->new($control_plane);
my $writer;
sub stop_between
{
	my ($n) = @_;
	$commits->hold;
	($out, $err) = ('', '');
	$writer = IPC::Run::start([ 'psql', '-XAtqd', $control_plane->connstr('postgres'), '-c', insert($n) ], '>', \$out, '2>', \$err);
	ok($control_plane->poll_query_until('postgres', q(SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%INSERT%' AND wait_event = 'SyncRep')), 'a transaction has committed here');
	is(left(), '1', '... and has prepared there');
	return;
}

stop_between(20);
here(q(SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%INSERT%' AND pid <> pg_backend_pid()));
$writer->finish;
$commits->release;
ok($store->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_prepared_xacts'), 'the session is terminated: nothing is left');
is(stored(20), '1 1', '... both have committed');

stop_between(21);
$control_plane->stop('immediate');
$writer->finish;
$commits->forget;
$control_plane->start;
is(stored(21), '1 0', 'the control plane crashes: one has committed');
is(resolved(), 'new committed', '... resolve_in_doubt() commits the other part');
is(stored(21) . ' ' . left(), '1 1 0', '... both have committed');

stop_between(22);
$pooler->stop('KILL');
$commits->release;
$writer->finish;
like($err, qr/^WARNING:  transaction is committed, but store "new" may not have committed its part yet$/m, 'the pooler is killed: a warning');
is(left(), '1', '... one is left');
start_pooler();
is(here("SELECT n FROM run_ops.run WHERE id = '@{[ksuid(22)]}'"), '22', 'over another pooler, a session finishes it before its own statement');
is(stored(22) . ' ' . left(), '1 1 0', '... both have committed');

# --- what is left keeps all connections busy ---------------------------------------

# Those who wait for a row of it have all connections of the pooler, so that nobody
# can finish it over one, until they give up.
here("INSERT INTO run_ops.run (id, n) VALUES ('@{[ksuid(23)]}', 0)");
$commits->hold;
($out, $err) = ('', '');
$writer = IPC::Run::start([ 'psql', '-XAtqd', $control_plane->connstr('postgres'), '-c',
	"BEGIN; UPDATE run_ops.run SET n = 1 WHERE id = '@{[ksuid(23)]}'; INSERT INTO run_ops.run (id, n) VALUES ('@{[cuid(23)]}', 23); COMMIT" ], '>', \$out, '2>', \$err);
ok($control_plane->poll_query_until('postgres', q(SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%INSERT%' AND wait_event = 'SyncRep')), 'a transaction has committed here');
$control_plane->stop('immediate');
$writer->finish;
$commits->forget;
$control_plane->start;
is(left(), '1', 'the control plane crashes: one is left');
here(q(ALTER SYSTEM SET run_ops_split.cross_store_writes = warn));
$control_plane->reload;
my @errors = ('', '');
my @waiting = map {
	IPC::Run::start([ 'psql', '-XAtqd', $control_plane->connstr('postgres'), '-c', "SET run_ops_split.store_query_timeout = '3s'; UPDATE run_ops.run SET n = n + 1 WHERE id = '@{[ksuid(23)]}'" ],
		'>', \my $ignored, '2>', \$errors[$_])
} 0, 1;
ok($store->poll_query_until('postgres', q(SELECT count(*) = 2 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%run%')), 'two sessions wait for a row of it');
# one could go on as soon as the other has given up
$_->finish foreach @waiting;
is(resolved(), 'new committed', '... it is committed when they have given up');
like($_, qr/ERROR:  store "new" does not answer\nDETAIL.*\nHINT:  The limit is run_ops_split.store_query_timeout/, '... with an error') foreach @errors;
is(there("SELECT n FROM run WHERE id = '@{[ksuid(23)]}'"), '1', '... the row is as it was committed');
is(left(), '0', '... nothing is left');
done_testing();

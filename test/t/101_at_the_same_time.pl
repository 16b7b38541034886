# What asks several stores has its questions in all of them at the same time.  A
# proxy before three stores forwards nothing until all three have been sent
# something: whoever asks one store after the other waits for an answer that does
# not come.
use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use RoundTrips;
use SplitServers;

my ($control_plane, $store) = split_servers();
sub here { return $control_plane->safe_psql('postgres', 'SET client_min_messages = warning; ' . shift) }
my $dir = PostgreSQL::Test::Utils::tempdir_short();
my $proxy = RoundTrips->start($dir, 7777, $store->host, $store->port);
my %database = (new => 'postgres', a => 'store_a', b => 'store_b');
foreach my $name ('a', 'b')
{
	$store->safe_psql('postgres', "CREATE DATABASE $database{$name} TEMPLATE template0");
	$store->safe_psql($database{$name}, $SplitServers::tables);
	here(qq(CREATE SERVER $name FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host '$dir', port '7777', dbname '$database{$name}');
		CREATE USER MAPPING FOR CURRENT_USER SERVER $name;
		SELECT run_ops.attach_store('$name', '$name')));
}
point_store($control_plane, $dir, 7777);
here('SELECT run_ops.enable_split()');
foreach my $name (sort keys %database)
{
	$store->safe_psql($database{$name}, qq(INSERT INTO tag SELECT '$name ' || i, i FROM generate_series(1, 20) AS i; ANALYZE));
}
here(q(INSERT INTO tag SELECT 'here ' || i, i FROM generate_series(1, 20) AS i; ANALYZE tag));

my $session = $control_plane->background_psql('postgres', on_error_stop => 0);
# opens the connections
$session->query(q(SET run_ops_split.store_timeout = '60s'; SET run_ops_split.store_query_timeout = '60s'; SELECT count(*) FROM run_ops.tag));
# When this is answered, nothing is on its way that was sent without waiting.
my $each = q(SELECT count(*) FROM unnest(ARRAY['new', 'a', 'b']) AS s, run_ops.ask_store(s, 'SELECT 1'));

sub together
{
	my ($sql, $rows, $name) = @_;
	my ($got, $alone);
	# a machine that stops for seconds looks as if one store were asked alone
	foreach (1 .. 3)
	{
		$session->query($each);
		$session->{stderr} = '';
		$proxy->alone;
		$proxy->hold(3);
		$got = $session->query($sql);
		$proxy->flow;
		last if !($alone = $proxy->alone);
		note("$name: $alone times a store was asked alone");
	}
	is($alone, 0, "$name: at the same time");
	is($got, $rows, "$name: the answer") or diag $session->{stderr};
	return;
}

# --- the proxy ----------------------------------------------------------------------------------

$session->query($each);
$proxy->hold(3);
$session->{stderr} = '';
$session->query($each =~ s/'SELECT 1'/'SELECT 1', '1s'/r);
$proxy->flow;
like($session->{stderr}, qr/store "new" does not answer/, 'one store after the other does not get an answer');
$session->query('SET run_ops_split.store_retry_pause = 0');
$session->query($each);
$proxy->alone;
$proxy->hold(3);
is($session->query($each), 3, 'unless it has the patience of the proxy');
$proxy->flow;
cmp_ok($proxy->alone, '>=', 3, 'which counts that');

# --- functions of the extension -----------------------------------------------------------------

my $asked = q(SELECT string_agg(concat_ws(' ', store, answer ->> 'n', error), ', ' ORDER BY store) FROM run_ops.ask_stores);
together("$asked('{new,a,b}', '{SELECT 7 AS n}')", 'a 7, b 7, new 7', 'ask_stores');
together("$asked('{new,a,b}', '{SELECT 1 AS n,SELECT 2 AS n,SELECT 3 AS n}')", 'a 2, b 3, new 1', 'ask_stores, one query for each');
together("$asked('{new,a,b}', '{SELECT 1 AS n,SELECT 1 / 0,SELECT 3 AS n}', tolerant => true)", 'a division by zero, b 3, new 1', 'ask_stores, with an error that is an answer');
together(q(SELECT count(*) FROM run_ops.stat_stores WHERE up), 4, 'stat_stores');
together(q(SELECT count(*), sum(n) FROM run_ops.store_row_counts()), '9|60', 'store_row_counts');
together(q(SELECT count(*) FROM run_ops.reachable_gates('{new,a,b}') WHERE ok), 9, 'gates: whether stores answer');
together(q(BEGIN; SELECT run_ops.ask_alike('{new,a,b}') \g /dev/null
	SELECT count(*) FROM unnest(ARRAY['new', 'a', 'b']) AS s, run_ops.content_gates(s) AS g WHERE g.ok IS NOT TRUE; COMMIT), 0, 'gates: what stores contain');
together(q(SELECT count(*) FROM run_ops.handshakes('{new,a,b}') WHERE result = '{"lock_free_there": true, "lock_free_here": true}'), 3, 'gates: whether stores are other databases');
together(q(SELECT count(*) FROM run_ops.check_split() WHERE ok IS NOT TRUE), 0, 'all gates');
together(q(SELECT run_ops.stores_have_rows()), 't', 'whether stores have rows');
together(q(SELECT run_ops.await_store_writers()), '', 'whether there are writers, before writes are blocked');

# --- queries ------------------------------------------------------------------------------------

together(q(SELECT count(*) FROM run_ops.tag), 80, 'count');
together(q(SELECT string_agg(id, ', ') FROM (SELECT id FROM run_ops.tag ORDER BY n, id LIMIT 4) AS t), 'a 1, b 1, here 1, new 1', 'a page');
together(q(SELECT count(*) FROM run_ops.tag WHERE n = 3), 4, 'rows by a condition');
together(q(SELECT id FROM run_ops.run WHERE n = 7), '', 'rows that no id names');
together(q(SELECT n FROM run_ops.tag WHERE id = 'here 5'), 5, 'a row whose id names no store');
together(q(SET client_min_messages = error; SELECT run_ops.locate('run_ops.tag', 'here 5'), run_ops.locate('run_ops.tag', 'b 5'), run_ops.locate('run_ops.tag', '?')),
	'legacy|b|not-found', 'locate');
together(q(SELECT count(*) FROM run_ops.find_strays('run_ops.run')), 0, 'find_strays, by ids');
together(q(SELECT count(*) FROM run_ops.find_strays('run_ops.tag')), 0, 'find_strays, by keys');

# --- work that does not grow ---------------------------------------------------------------------

like(slurp_file($store->logfile), qr/execute <unnamed>: SELECT id FROM public\.run WHERE .*char_length/, 'a store tests ids itself, and sends strays only');
is($session->query('SELECT count(*) = count(DISTINCT store) FROM run_ops.store_connections()'), 't', 'one connection for each store');
# A call of repatriate() asks the store of its batch, and all of them once a pass.
my (%taken, $calls);
while ($calls++ < 30)
{
	$session->query($each);
	$proxy->taken;
	my ($store, $done) = split /\|/, $session->query(q(SELECT coalesce(store, 'all'), done FROM run_ops.repatriate()));
	push @{ $taken{$store} }, $proxy->taken;
	last if $done eq 't';
}
cmp_ok($calls, '<', 30, 'a pass of repatriate() ends');
foreach my $name (sort keys %database)
{
	is(scalar @{ $taken{$name} }, 3, "store \"$name\" has a batch for each table");
	cmp_ok($_, '<=', 5, "which asks this store: $_ round trips") foreach @{ $taken{$name} };
}
# after the pass, each store is asked for changes
my $places = $control_plane->safe_psql('postgres', q(SELECT string_agg(DISTINCT place, ' ' ORDER BY place) FROM run_ops.change_tracking));
is($places, 'a b legacy new', 'changes are tracked');
together(q(SELECT run_ops.tracking_gap(false) IS NULL), 't', 'whether changes were tracked');
together(q(SELECT drained, most FROM run_ops.drain_notes(100, false, false)), '0|0', 'which rows have changed');
together(q(SELECT count(*), sum(ranges), sum(differing) FROM run_ops.verify_repatriation()), '9|9|0', 'verify_repatriation');
diag('round trips of what asks all stores: ' . join ', ', @{ $taken{all} });

# --- errors and time-outs -----------------------------------------------------------------------

$session->{stderr} = '';
is($session->query(q(SELECT store, answer FROM run_ops.ask_stores('{new,a,b}', '{SELECT 1 AS n,SELECT 1 / 0,SELECT 3 AS n}'))), '', 'an error of a store');
like($session->{stderr}, qr/division by zero.*statement in store "a"/s, 'is an error');
is($session->query(q(SELECT count(*) FROM run_ops.tag)), 80, 'the others go on');
is($session->query(q(BEGIN; SET LOCAL run_ops_split.cross_store_writes = allow; INSERT INTO run_ops_a.tag VALUES ('written', 1);
	SELECT store || ' ' || (answer ->> 'n') FROM run_ops.ask_stores('{new,a,a}', '{SELECT count(*) AS n FROM public.tag}');
	ROLLBACK)), "new 20\na 21\na 21", 'a store in which the transaction has written, and which is asked twice');
is($session->query(q(BEGIN; SET LOCAL run_ops_split.cross_store_writes = allow; INSERT INTO run_ops_a.tag VALUES ('written', 1);
	SELECT store, error FROM run_ops.ask_stores('{new,a,b}', '{SELECT 1 / 0}', tolerant => true);
	SELECT n FROM run_ops_a.tag WHERE id = 'written'; ROLLBACK)),
	"new|division by zero\na|division by zero\nb|division by zero\n1", 'errors as answers, and the transaction goes on');
$session->query($each);
$proxy->swallow;
# each of them has been silent since it was asked; the cancel of a command takes a second
my @silent = split /\n/, $session->query(q(SET run_ops_split.store_timeout = '2s';
	SELECT substring(error FROM ': It has sent nothing for (\d+) ms') FROM run_ops.ask_stores('{new,a,b}', '{SELECT 1}', tolerant => true)));
$proxy->flow;
is(scalar @silent, 3, 'three stores that are silent');
cmp_ok($silent[0], '>=', 2000, 'the first one is waited for');
cmp_ok($silent[$_], '>', $silent[ $_ - 1 ], 'the next one has had the same time') foreach 1, 2;
# one after the other, it would be 2, 5 and 8 seconds
cmp_ok($silent[2], '<', 8000, 'and is not waited for again');
$session->quit;
done_testing();

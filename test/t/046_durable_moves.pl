# A store that commits asynchronously, and crashes: what was moved to it before
# is there, for the copy here is not relied upon any more.

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use SplitServers;

my ($control_plane, $store) = split_servers();
# nothing but a commit that waits for it flushes WAL, for as long as this takes
$store->append_conf('postgresql.conf', "synchronous_commit = off\nwal_writer_delay = 10s\nbgwriter_delay = 10s\nfsync = on\nautovacuum = off");
$store->restart;

sub here { return $control_plane->safe_psql("postgres", "SET client_min_messages = error; " . shift) }
sub until_done
{
	my ($call) = @_;
	foreach (1 .. 50) { return if here("SELECT bool_or(done) FROM run_ops.$call") eq 't' }
	die "$call does not end";
}

# the trap is one: an ordinary commit of that store is lost
$store->safe_psql('postgres', "INSERT INTO tag VALUES ('lost', 1)");
$store->stop('immediate');
$store->start;
is($store->safe_psql('postgres', "SELECT count(*) FROM tag WHERE id = 'lost'"), '0', 'the store loses what was committed last');

my ($first, $second, $third) = map { ksuid($_) } 1 .. 3;
here("INSERT INTO run_ops.run (id) VALUES ('$first')");
until_done('move_strays()');
# noted, and copied by the switch
here("INSERT INTO run_ops.run (id) VALUES ('$second'); INSERT INTO run_ops.step VALUES ('s', '$second')");
here("SELECT run_ops.acknowledge(gate, object, 'test') FROM run_ops.check_split() WHERE NOT ok");
here('SELECT run_ops.enable_split()');
$store->stop('immediate');
$store->start;
is(here('SELECT string_agg(id, $$,$$ ORDER BY id) FROM run_ops.run'), "$first,$second", 'what was moved is in the store after its crash');
until_done('remove_leftovers()');
is(here('SELECT string_agg(id, $$,$$ ORDER BY id) FROM run_ops.run'), "$first,$second", 'and still with no copy here');
is(here('SELECT count(*) FROM public.run') . here('SELECT count(*) FROM run_ops.step'), '01', 'of which none is left');

# home, and out again: a row that the store has lost by other means stays here
until_done('repatriate()');
here('SELECT run_ops.disable_split(repatriated => true)');
here("INSERT INTO run_ops.run (id) VALUES ('$third')");
until_done('move_strays()');
here('SELECT run_ops.enable_split()');
$store->safe_psql('postgres', "DELETE FROM run WHERE id = '$third'");
my ($rc, $out, $err) = $control_plane->psql('postgres', 'SELECT run_ops.remove_leftovers() FROM generate_series(1, 9)');
like($err, qr/cannot be removed from the local tables.*does not have \["$third"\]/s, 'a row that the store does not have is not removed');
is(here("SELECT count(*) FROM public.run WHERE id = '$third'"), '1', 'it is still here');
# the way out that the hint names
here("INSERT INTO run_ops.run (id) VALUES ('$third')");
until_done('remove_leftovers()');
is(here('SELECT string_agg(id, $$,$$ ORDER BY id) FROM run_ops.run'), "$first,$second,$third", 'inserted through the view, it is there again');

done_testing();

# Foreign keys that are there but NOT ENFORCED, which PostgreSQL has from
# version 18 on: PostgreSQL does not check them, so nothing here does.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use SplitServers;
use Test::More;

my ($control_plane, $store) = split_servers();
plan skip_all => 'every foreign key is enforced before PostgreSQL 18' if $control_plane->pg_version < 18;

my ($cuid, $ksuid) = (cuid(1), ksuid(1));
$control_plane->safe_psql('postgres', q(
	CREATE TABLE other (id text PRIMARY KEY);
	ALTER TABLE step ADD CONSTRAINT step_run FOREIGN KEY ("runId") REFERENCES run NOT ENFORCED;
	ALTER TABLE run ADD CONSTRAINT run_other FOREIGN KEY (id) REFERENCES other NOT ENFORCED));
is(failing_gates($control_plane), '', 'they keep nobody from splitting');
$control_plane->safe_psql('postgres', 'SELECT run_ops.enable_split()');
$control_plane->safe_psql('postgres', "INSERT INTO run_ops.step VALUES ('$_', '$_', 1)") foreach ($cuid, $ksuid);
$control_plane->poll_query_until('postgres', 'SELECT done FROM run_ops.repatriate(1000)');
my ($ret, $out, $err) = $control_plane->psql('postgres', 'SELECT run_ops.disable_split(repatriated => true)');
is($ret, 0, 'nor from coming home') or diag($err);
is($control_plane->safe_psql('postgres', 'SELECT count(*) FROM step'), '2', 'with rows that refer to nothing');

# the same rows under a key that is enforced
$control_plane->safe_psql('postgres', 'DELETE FROM step; ALTER TABLE step ALTER CONSTRAINT step_run ENFORCED');
$control_plane->safe_psql('postgres', q(SELECT run_ops.acknowledge(gate, object, 'a test') FROM run_ops.check_split() WHERE gate = 'guard' AND NOT ok; SELECT run_ops.enable_split()));
$store->safe_psql('postgres', "INSERT INTO step VALUES ('$ksuid', '$ksuid', 1)");
$control_plane->poll_query_until('postgres', 'SELECT done FROM run_ops.repatriate(1000)');
($ret, $out, $err) = $control_plane->psql('postgres', 'SELECT run_ops.disable_split(repatriated => true)');
like($err, qr/step_run/, 'an enforced one does');

done_testing();

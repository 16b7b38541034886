# A workload of LEGACY ids never contacts the store: 10,200 statements of all
# kinds, as literals, parameters and prepared statements, by sessions that
# have just begun, leave nothing in the store's log; and they work the same
# while the store is down.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $control_plane = PostgreSQL::Test::Cluster->new('control_plane');
my $store = PostgreSQL::Test::Cluster->new('store');
$_->init foreach ($control_plane, $store);
$store->append_conf('postgresql.conf', "log_statement = all\nlog_connections = on");
$_->start foreach ($control_plane, $store);

$ENV{RUN_OPS_STORE_HOST} = $store->host;
$ENV{RUN_OPS_STORE_PORT} = $store->port;
my $db = 'regress_no_contact';
$control_plane->safe_psql('postgres',
	"\\set name no_contact\n\\i test/fixtures/two_stores.sql\n" . q(
SELECT run_ops.attach_store('new', 'new');
CREATE TABLE run (id text PRIMARY KEY, env text NOT NULL, n int NOT NULL);
CREATE TABLE step (id text PRIMARY KEY, "runId" text NOT NULL);
CREATE INDEX ON step ("runId");
CREATE TABLE env (id text PRIMARY KEY, run_id text NOT NULL, touched int NOT NULL);
SELECT dblink_exec('new', $$
  CREATE TABLE run (id text PRIMARY KEY, env text NOT NULL, n int NOT NULL);
  CREATE TABLE step (id text PRIMARY KEY, "runId" text NOT NULL);
  CREATE INDEX ON step ("runId");
  INSERT INTO run SELECT 'run_' || lpad(n::text, 27, '0'), 'e' || n % 100, n FROM generate_series(1, 10000) AS n;
  ANALYZE $$);
SELECT run_ops.attach_table('run', 'shape'), run_ops.attach_table('step', 'anchor', 'runId');
-- the id of LEGACY run n, as a client would compute it
CREATE FUNCTION legacy_id(n int) RETURNS text IMMUTABLE LANGUAGE sql
  RETURN 'run_' || lpad(n::text, 25, '0');
INSERT INTO run SELECT legacy_id(n), 'e' || n % 100, n FROM generate_series(1, 10000) AS n;
INSERT INTO step SELECT 's' || n, legacy_id(n) FROM generate_series(1, 10000) AS n;
INSERT INTO env SELECT 'e' || n, legacy_id(n), 0 FROM generate_series(1, 10000) AS n;
CREATE FUNCTION number_of(wanted text) RETURNS int LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN (SELECT r.n FROM run_ops.run AS r WHERE r.id = wanted);
END $$;
CREATE VIEW run_steps AS
  SELECT r.id, r.n, s.id AS step FROM run_ops.run AS r JOIN run_ops.step AS s ON s."runId" = r.id;
ANALYZE;
ANALYZE run_ops_new.run;
SELECT run_ops.swap_views(true);));

# Each divides by zero when it does not find what it should.
my %script = (
	equal => q(SELECT 1 / count(*) FROM run_ops.run WHERE id = legacy_id(:n) AND n < 20000;),
	array => q(SELECT 1 / (count(*) = 3)::int FROM run_ops.run WHERE id = ANY (ARRAY[legacy_id(:n), legacy_id(:n + 1), legacy_id(:n + 2)]);),
	in_or => q(SELECT 1 / (count(*) = 3)::int FROM run_ops.run WHERE id IN (legacy_id(:n), legacy_id(:n + 1)) OR id = legacy_id(:n + 2) AND env <> '';),
	absent => q(SELECT 1 / (count(*) = 0)::int FROM run_ops.run WHERE id = legacy_id(:n + 1000000);),
	plpgsql => q(SELECT 1 / (number_of(legacy_id(:n)) = :n)::int;),
	initplan => q(SELECT 1 / count(*) FROM run_ops.run WHERE id = (SELECT e.run_id FROM env AS e WHERE e.id = 'e' || :n);),
	control_plane => q(SELECT 1 / count(*) FROM run_ops.run AS r JOIN env AS e ON e.id = r.env WHERE r.id = legacy_id(:n - :n % 100 + 1);),
	join_keys => q(SELECT 1 / count(r.*) FROM env AS e JOIN run_ops.run AS r ON r.id = e.run_id WHERE e.id = 'e' || :n;),
	left_join => q(SELECT 1 / count(r.*) FROM env AS e LEFT JOIN run_ops.run AS r ON r.id = e.run_id WHERE e.id IN ('e' || :n, 'e' || :n + 1);),
	anchor => q(SELECT 1 / count(*) FROM run_ops.step WHERE "runId" = legacy_id(:n);),
	nested => q(SELECT 1 / count(*) FROM run_steps WHERE id = legacy_id(:n);),
	exists => q(SELECT 1 / count(*) FROM env AS e WHERE e.id = 'e' || :n AND EXISTS (SELECT FROM run_ops.run AS r WHERE r.id = legacy_id(:n));),
	lateral => q(SELECT 1 / count(*) FROM env AS e, LATERAL (SELECT r.n FROM run_ops.run AS r WHERE r.id = e.run_id ORDER BY r.n LIMIT 1) AS l WHERE e.id = 'e' || :n;),
	cte => q(WITH r AS (SELECT * FROM run_ops.run) SELECT 1 / count(*) FROM r WHERE id = legacy_id(:n);),
	update => q(UPDATE env SET touched = r.n FROM run_ops.run AS r WHERE r.id = env.run_id AND env.id = 'e' || :n;),
	for_update => q(SELECT 1 / count(*) FROM (SELECT FROM run_ops.run WHERE id = legacy_id(:n) FOR UPDATE) AS r;),
	lock => q(SELECT 1 / run_ops.lock_row('run_ops.run', legacy_id(:n))::int;));

my @files;
foreach my $name (sort keys %script)
{
	my $file = "$PostgreSQL::Test::Utils::tmp_check/$name.sql";
	append_to_file($file, "\\set n random(1, 9000)\n$script{$name}\n");
	push @files, '-f', $file;
}

sub workload
{
	my ($when, $transactions) = @_;
	# the first statement of a session may be one that locks
	local $ENV{PGOPTIONS} = '-c session_preload_libraries=run_ops_split';
	foreach my $mode (qw(simple extended prepared))
	{
		my ($out, $err) = run_command(
			[
				'pgbench', '-n', '-M', $mode, '-c', '2', '-t', $transactions,
				'--random-seed=1', @files, $control_plane->connstr($db)
			]);
		like($out, qr{transactions actually processed: (\d+)/\1\n},
			"$when, $mode: every statement finds its rows") or diag "$out\n$err";
	}
	return;
}

my $position = -s $store->logfile;
workload('store up', 1700);
is(slurp_file($store->logfile, $position), '', 'nothing reached the store');

# the log would have shown it
$control_plane->safe_psql($db, q(SELECT count(*) FROM run_ops.run WHERE id = 'run_' || lpad('1', 27, '0')));
like(slurp_file($store->logfile, $position), qr/SELECT .*FROM public\.run/s, 'a NEW id does reach it');

$store->stop('immediate');
workload('store down', 200);

# where a row is, is asked of every store; but a LEGACY row here is the one that
# the view shows
is($control_plane->safe_psql($db, q(SELECT run_ops.locate('run_ops.run', legacy_id(7)))), 'legacy', 'a LEGACY row is located');
foreach my $lost (q(legacy_id(1000000)), q('run_' || lpad('7', 27, '0')))
{
	my ($status, undef, $err) = $control_plane->psql($db, "SELECT run_ops.locate('run_ops.run', $lost)");
	like($err, qr/ERROR: .*store "new" cannot be reached/, "$lost is not known to be missing");
}

done_testing();

# run_ops_fdw with a store that really goes away: what does not need the store
# keeps working, and what needs it says which store is missing.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $control_plane = PostgreSQL::Test::Cluster->new('control_plane');
$control_plane->init;
$control_plane->append_conf('postgresql.conf', "restart_after_crash = on\n");
$control_plane->start;
my $store = PostgreSQL::Test::Cluster->new('store');
$store->init;
$store->append_conf('postgresql.conf', "log_statement = all\nlog_min_duration_statement = -1\n");
$store->start;

$store->safe_psql('postgres', q{
	CREATE TABLE run (id text PRIMARY KEY, n int NOT NULL);
	INSERT INTO run SELECT 'run_' || lpad(g::text, 27, '0'), g FROM generate_series(1, 1000) g;
	ANALYZE run;
});
my ($host, $port) = ($store->host, $store->port);
$control_plane->safe_psql('postgres', qq{
	CREATE EXTENSION run_ops_split CASCADE;
	CREATE SERVER new FOREIGN DATA WRAPPER run_ops_fdw
	  OPTIONS (host '$host', port '$port', dbname 'postgres');
	CREATE USER MAPPING FOR CURRENT_USER SERVER new;
	CREATE SCHEMA new;
	IMPORT FOREIGN SCHEMA public FROM SERVER new INTO new;
	ALTER FOREIGN TABLE new.run ALTER COLUMN id OPTIONS (ADD indexed 'true');
	CREATE TABLE run (id text PRIMARY KEY, n int NOT NULL);
	INSERT INTO run SELECT 'run_' || lpad(g::text, 25, '0'), g FROM generate_series(1, 50000) g;
	ANALYZE run, new.run;
	CREATE VIEW runs AS
	  SELECT id, n FROM (SELECT id, n, 'legacy' AS store FROM run
	                     UNION ALL
	                     SELECT id, n, 'new' FROM new.run) u
	   WHERE run_ops.resides(u.id, u.store);
	-- a gate as seam pruning makes it, written by hand
	CREATE FUNCTION lookup(wanted text) RETURNS int LANGUAGE plpgsql AS \$\$
	DECLARE result int;
	BEGIN
	  SELECT n INTO result FROM
	    (SELECT n FROM run WHERE id = wanted AND run_ops.resides(wanted, 'legacy')
	     UNION ALL
	     SELECT n FROM new.run WHERE id = wanted AND run_ops.resides(wanted, 'new')) u;
	  RETURN result;
	END \$\$;
	CREATE TABLE wanted_legacy AS
	  SELECT 'run_' || lpad(g::text, 25, '0') AS id FROM generate_series(1, 20) g;
	CREATE TABLE wanted_mixed AS
	  SELECT * FROM wanted_legacy UNION ALL
	  SELECT 'run_' || lpad(g::text, 27, '0') FROM generate_series(1, 3) g;
	ANALYZE wanted_legacy, wanted_mixed;
});

my $legacy = 'run_' . '0' x 23 . '42';
my $new = 'run_' . '0' x 25 . '42';
my @no_store = (
	[ 'custom plan', "SELECT n FROM runs WHERE id = '$legacy'" ],
	[ 'generic plan', "SELECT lookup('$legacy')" ],
	[ 'join', 'SELECT count(*) FROM wanted_legacy w JOIN runs r USING (id)' ],
	[ 'left join', 'SELECT count(r.n) FROM wanted_legacy w LEFT JOIN runs r USING (id)' ],
	[ 'semi join', 'SELECT count(*) FROM wanted_legacy w WHERE EXISTS (SELECT FROM runs r WHERE r.id = w.id)' ],
	[ 'subquery', 'SELECT count((SELECT n FROM runs r WHERE r.id = w.id)) FROM wanted_legacy w' ],
	[ 'loop', "DO \$\$ BEGIN FOR i IN 1 .. 20 LOOP PERFORM lookup('$legacy'); END LOOP; END \$\$; SELECT 1" ],
	[ 'EXPLAIN', 'EXPLAIN (VERBOSE) SELECT * FROM runs' ],);
my %expected = (
	'custom plan' => 42, 'generic plan' => 42, 'join' => 20, 'left join' => 20,
	'semi join' => 20, 'subquery' => 20, 'loop' => 1);
my $generic = "SET plan_cache_mode = force_generic_plan;\n";

# statements the store has seen since the position in its log
sub remote_statements
{
	my ($from) = @_;
	my $log = slurp_file($store->logfile, $from);
	# not what sets up the session
	return grep { /(statement|execute [^:]*):/ && !/set_config/ } split /\n/, $log;
}

sub check_without_contact
{
	my ($when) = @_;
	for my $case (@no_store)
	{
		my ($name, $query) = @$case;
		# without the pruning of custom plans only generic ones have a gate
		my ($status, $out, $err) =
		  $control_plane->psql('postgres', "$generic$query");
		is($status, 0, "$when: LEGACY $name works") or diag $err;
		is($out, $expected{$name}, "$when: LEGACY $name finds its rows")
		  if exists $expected{$name};
	}
}

# --- the store is up: it sees nothing of a LEGACY id -------------------------

my $position = -s $store->logfile;
check_without_contact('store up');
is_deeply([ remote_statements($position) ], [],
	'store up: not one statement was sent for LEGACY ids');

$position = -s $store->logfile;
is($control_plane->safe_psql('postgres', "${generic}SELECT lookup('$new')"),
	42, 'a NEW id is read from the store');
is(scalar(grep { /: SELECT/ } remote_statements($position)),
	1, 'with one remote query');
$position = -s $store->logfile;
is($control_plane->safe_psql('postgres', 'SELECT count(*) FROM wanted_mixed w JOIN runs r USING (id)'),
	23, 'a join of LEGACY and NEW ids finds both');
is(scalar(grep { /: SELECT/ } remote_statements($position)),
	3, 'with one remote query for each NEW id');

# a set of ids: one remote query, for the store's own
for my $way ('force_custom_plan', 'force_generic_plan', 'literal')
{
	my $ids = "'{$legacy,$new,x,NULL}'::text[]";
	$position = -s $store->logfile;
	is( $control_plane->safe_psql('postgres', $way eq 'literal'
			? "SELECT count(*) FROM runs WHERE id = ANY ($ids)"
			: "SET plan_cache_mode = $way; PREPARE s (text[]) AS SELECT count(*) FROM runs WHERE id = ANY (\$1); EXECUTE s ($ids)"),
		2, "$way: a mixed set of ids finds both");
	is(scalar(grep { /: SELECT/ } remote_statements($position)),
		1, "$way: with one remote query");
	my $log = slurp_file($store->logfile, $position);
	like($log, qr/(?i)parameters: \$1 = '\{$new\}'/, "$way: for the NEW id");
	unlike($log, qr/$legacy/, "$way: and for no LEGACY id");
}

# ordered rows: of the store, as many as the page has
$position = -s $store->logfile;
is($control_plane->safe_psql('postgres', "${generic}SELECT string_agg(n::text, ',') FROM (SELECT n FROM runs WHERE n > 7 ORDER BY id LIMIT 3) AS page"),
	'8,9,10', 'a page of ordered rows');
like(slurp_file($store->logfile, $position), qr/ORDER BY id.*FETCH 3 FROM/s, 'takes one page from the store');
$position = -s $store->logfile;
$control_plane->safe_psql('postgres', 'SELECT n FROM runs WHERE n + random() > 7 ORDER BY id LIMIT 3');
like(slurp_file($store->logfile, $position), qr/FETCH 100 FROM/s, 'but not where rows are filtered here');

# --- the store goes down under a session that used it ------------------------

my $session = $control_plane->background_psql('postgres', on_error_stop => 0);
$session->query_safe($generic);
is($session->query_safe("SELECT lookup('$new')"), 42, 'a session uses the store');
$session->query_safe('BEGIN');
$session->query_safe("SELECT lookup('$new')");
$store->stop('immediate');
is($session->query_safe("SELECT lookup('$legacy')"),
	42, 'in the same transaction, a LEGACY id is still found');
$session->query('COMMIT');
is($session->query("SELECT lookup('$legacy')"),
	42, 'and in the next transaction');
$session->quit;

check_without_contact('store down');

my ($status, $out, $err) =
  $control_plane->psql('postgres', "${generic}SELECT lookup('$new')");
isnt($status, 0, 'store down: a NEW id is an error');
like($err, qr/store "new" cannot be reached/, 'that names the store');

($status, $out, $err) = $control_plane->psql('postgres',
	'SELECT count(*) FROM wanted_mixed w JOIN runs r USING (id)');
like($err, qr/store "new" cannot be reached/,
	'store down: never an answer without the NEW rows');

# --- and comes back ----------------------------------------------------------

$store->start;
is($control_plane->safe_psql('postgres', "${generic}SELECT lookup('$new')"),
	42, 'store up again: a NEW id is read');

# lost in the middle of a scan
$session = $control_plane->background_psql('postgres', on_error_stop => 0);
$session->query_safe("BEGIN; DECLARE c CURSOR FOR SELECT n FROM new.run ORDER BY n; FETCH 1 FROM c");
$store->safe_psql('postgres',
	q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'run_ops_split'});
$session->query('MOVE 500 FROM c');
like($session->{stderr}, qr/terminating connection|server closed the connection|no connection to the server/,
	'a connection lost in the middle is an error');
$session->{stderr} = '';
$session->query('ROLLBACK');
is($session->query("SELECT n FROM new.run WHERE id = '$new'"),
	42, 'the session connects anew');
$session->quit;

$store->stop;
$control_plane->stop;
done_testing();

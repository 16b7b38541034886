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

# --- what is begun before it is asked for --------------------------------------

# Two more servers, each with a connection of its own.  Their queries wait for
# each other, so they return true if they are on their way at the same time.
$store->safe_psql('postgres', q{
	CREATE SEQUENCE arrived;
	CREATE FUNCTION meet() RETURNS bool LANGUAGE plpgsql AS $$
	BEGIN
	  PERFORM nextval('public.arrived');
	  FOR i IN 1 .. 500 LOOP
	    IF (SELECT last_value FROM public.arrived) >= 2 THEN
	      RETURN true;
	    END IF;
	    PERFORM pg_sleep(0.01);
	  END LOOP;
	  RETURN false;
	END $$;
	CREATE VIEW meeting AS SELECT k, meet() AS met FROM (VALUES (1)) AS v (k);
	CREATE VIEW keys_a AS SELECT k FROM (VALUES (1)) AS v (k) WHERE meet();
	CREATE VIEW keys_b AS SELECT k FROM (VALUES (2)) AS v (k) WHERE meet();
});
foreach my $server ('a', 'b')
{
	$control_plane->safe_psql('postgres', qq{
		CREATE SERVER $server FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host '$host', port '$port', dbname 'postgres');
		CREATE USER MAPPING FOR CURRENT_USER SERVER $server;
		CREATE SCHEMA $server;
		IMPORT FOREIGN SCHEMA public FROM SERVER $server INTO $server;
	});
}
my $ready = $control_plane->background_psql('postgres', on_error_stop => 0);
# opens the connections, and waits for all that was sent before
my $warm_up = 'SELECT count(*) FROM (SELECT FROM a.run UNION ALL SELECT FROM b.run UNION ALL SELECT FROM new.run) AS r';
$ready->query_safe($warm_up);
$control_plane->safe_psql('postgres', q(
	ALTER FOREIGN TABLE a.keys_a ALTER k OPTIONS (ADD indexed 'true');
	ALTER FOREIGN TABLE b.keys_b ALTER k OPTIONS (ADD indexed 'true')));
my $anti_join = 'SELECT k FROM (VALUES (1), (2), (3)) AS x (k) WHERE NOT EXISTS (SELECT FROM (SELECT k FROM a.keys_a UNION ALL SELECT k FROM b.keys_b) AS y WHERE y.k = x.k)';
my $both = '(SELECT k, met FROM a.meeting UNION ALL SELECT k, met FROM b.meeting) AS m';
foreach my $case (
	[ 'all rows', "SELECT met FROM $both", "t\nt" ],
	[ 'an aggregate', "SELECT string_agg(met::text, ' ') FROM $both", 'true true' ],
	[ 'aggregates of each', q(SELECT string_agg(met, ' ') FROM (SELECT string_agg(met::text, '') AS met FROM a.meeting UNION ALL SELECT string_agg(met::text, '') FROM b.meeting) AS m), 'true true' ],
	[ 'a page', "SELECT met FROM $both ORDER BY k LIMIT 2", "t\nt" ],
	[ 'the first row of a merge', "SET enable_sort = off; SELECT met FROM $both ORDER BY k LIMIT 1; RESET enable_sort", 't' ],
	[ 'a page whose size is a parameter', "PREPARE page (int) AS SELECT met FROM $both ORDER BY k LIMIT \$1; SET plan_cache_mode = force_generic_plan; EXECUTE page (2); RESET plan_cache_mode", "t\nt" ],
	[ 'keys that no store has', $anti_join, 3 ],
	[ 'such keys in a REPEATABLE READ transaction', "BEGIN ISOLATION LEVEL REPEATABLE READ; $anti_join; COMMIT", 3 ],
	[ 'all rows in a REPEATABLE READ transaction', "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT met FROM $both; COMMIT", "t\nt" ],)
{
	my ($name, $sql, $rows) = @$case;
	$store->safe_psql('postgres', q(SELECT setval('arrived', 1, false)));
	is($ready->query_safe($sql), $rows, "$name: two stores work at the same time");
}

# nothing is asked that is not needed, also if the connection is there
$ready->query_safe("SET plan_cache_mode = force_generic_plan; PREPARE one (text) AS SELECT count(*) FROM runs WHERE id = \$1; PREPARE few (int) AS SELECT count(*) FROM (SELECT n FROM (SELECT n FROM run UNION ALL SELECT n FROM new.run) AS u LIMIT \$1) AS l");
$ready->query_safe($warm_up);
$position = -s $store->logfile;
foreach my $case (
	[ 'a LEGACY id', "EXECUTE one ('$legacy')", 1 ],
	[ 'the first rows', 'SELECT count(*) FROM (SELECT n FROM (SELECT n FROM run UNION ALL SELECT n FROM new.run) AS u LIMIT 3) AS l', 3 ],
	[ 'as many of the first rows as a parameter says', 'EXECUTE few (3)', 3 ],
	[ 'no row', 'SET enable_sort = off; SELECT count(*) FROM (SELECT n FROM runs ORDER BY id LIMIT 0) AS l; RESET enable_sort', 0 ],
	[ 'whether there is a row', 'SELECT EXISTS (SELECT FROM run UNION ALL SELECT FROM new.run)', 't' ],
	[ 'a join with nothing', 'SELECT count(*) FROM (SELECT n FROM run WHERE n < 0 OFFSET 0) AS r, LATERAL (SELECT n + r.n FROM new.run UNION ALL SELECT n FROM a.run LIMIT 1) AS u', 0 ],
	[ 'the first row of a loop', 'DO $$ DECLARE r record; BEGIN FOR r IN SELECT n FROM run LOOP EXIT; END LOOP; END $$; SELECT 1', 1 ],)
{
	my ($name, $sql, $rows) = @$case;
	is($ready->query_safe($sql), $rows, "$name is found here");
}
is_deeply([ remote_statements($position) ], [], '... without asking a store');
$position = -s $store->logfile;
is($ready->query_safe("EXECUTE one ('$new')"), 1, 'a NEW id is found in the store');
is(scalar(remote_statements($position)), 1, '... with one statement');

# an error of one store does not cost what the transaction has written in another
$store->safe_psql('postgres', q{
	CREATE VIEW failing AS SELECT 1 / (n - 1) AS n FROM run WHERE n = 1;
	CREATE VIEW sleeping AS SELECT 1 AS n FROM pg_sleep(1)});
$control_plane->safe_psql('postgres', qq{
	CREATE FOREIGN TABLE a.failing (n int) SERVER a OPTIONS (schema_name 'public');
	CREATE FOREIGN TABLE b.sleeping (n int) SERVER b OPTIONS (schema_name 'public')});
foreach my $level ('READ COMMITTED', 'REPEATABLE READ')
{
	$ready->query_safe($warm_up);
	is($ready->query_safe("BEGIN ISOLATION LEVEL $level; INSERT INTO b.run VALUES ('written', 0);
		DO \$\$ BEGIN PERFORM n FROM (SELECT n FROM a.failing UNION ALL SELECT n FROM b.sleeping) AS r; EXCEPTION WHEN division_by_zero THEN NULL; END \$\$;
		SELECT n FROM b.run WHERE id = 'written'; ROLLBACK"), 0, "$level: an error of another store, caught in a transaction that has written");
}

# all of many rows come as one answer; not in a transaction, which its loss would end
$ready->query_safe("RESET plan_cache_mode; ALTER FOREIGN TABLE new.run OPTIONS (ADD fetch_size '100')");
foreach my $case (
	[ 'all of many rows', 'SELECT count(id), sum(n) FROM (SELECT id, n FROM new.run OFFSET 0) AS r', '1000|500500', 0 ],
	[ 'all of them, with other queries meanwhile', 'SELECT count(lookup(id)), sum(lookup(id)) FROM (SELECT id FROM new.run OFFSET 0) AS r', '1000|500500', 0 ],
	[ 'all of them, with writes meanwhile', "CREATE FUNCTION plus_one(wanted text) RETURNS int LANGUAGE sql AS 'UPDATE new.run SET n = n + 1 WHERE id = wanted RETURNING n';
	  BEGIN; SELECT count(*), sum(n + plus_one(id)) FROM (SELECT id, n FROM new.run OFFSET 0) AS r; ROLLBACK", '1000|1002000', 0 ],
	[ 'all of them in a transaction with a snapshot', 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(id), sum(n) FROM (SELECT id, n FROM new.run OFFSET 0) AS r; COMMIT', '1000|500500', 1 ],
	[ 'the first of them', 'SELECT count(id) FROM (SELECT id FROM new.run LIMIT 150) AS r', '150', undef ],)
{
	my ($name, $sql, $rows, $has_cursor) = @$case;
	$position = -s $store->logfile;
	is($ready->query_safe($sql), $rows, $name);
	is(scalar(grep { /DECLARE/ } remote_statements($position)), $has_cursor, '... ' . ($has_cursor ? 'with' : 'without') . ' a cursor') if defined $has_cursor;
}
# of long rows, a FETCH takes fewer
$store->safe_psql('postgres', q(CREATE VIEW long AS SELECT i, repeat('x', 20000) AS t FROM generate_series(1, 3000) AS i));
$position = -s $store->logfile;
is($ready->query_safe("CREATE FOREIGN TABLE new.long (i int, t text) SERVER new OPTIONS (schema_name 'public', fetch_size '1000');
	BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*), sum(length(t)) FROM (SELECT t FROM new.long OFFSET 0) AS r; COMMIT"), '3000|60000000', 'all of long rows');
my ($first, @fetched) = map { /FETCH (\d+) FROM/ } remote_statements($position);
is($first, 1000, 'a first FETCH by the estimate');
is_deeply([ grep { $_ > 60 } @fetched ], [], '... and short ones after it');
$ready->quit;
$control_plane->safe_psql('postgres', 'ALTER FOREIGN TABLE new.run OPTIONS (DROP fetch_size)');

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

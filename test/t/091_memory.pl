# Memory stays flat: over many calls of every function that an application
# calls per row, in one query; over many rows, failures, writes and subtransactions
# in a store; and over many calls of a store that is down.
#
# What is compared is what PostgreSQL knows of its memory contexts, before and
# after the calls, while the query goes on.  RUN_OPS_MEMORY_CALLS and
# RUN_OPS_MEMORY_FAILURES make it longer; then the memory of the process is
# looked at, too.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use SplitServers;
use Test::More;

my $calls = $ENV{RUN_OPS_MEMORY_CALLS} // 20_000;
my $failures = $ENV{RUN_OPS_MEMORY_FAILURES} // 300;

my ($control_plane, $store) = split_servers;
my ($old, $new) = (cuid(1), ksuid(1));
$control_plane->safe_psql('postgres', qq(
	SELECT run_ops.enable_split();
	INSERT INTO run_ops.run (id) VALUES ('$old'), ('$new');
	\\i test/fixtures/control_plane.sql
	INSERT INTO "Organization" (id, slug, title, "updatedAt", "featureFlags") VALUES ('org', 'o', 'o', now(), '{"runOpsMintKind": "ksuid"}');
	INSERT INTO "Project" (id, name, "organizationId", "updatedAt", slug, "externalRef") VALUES ('proj', 'p', 'org', now(), 'p', 'p');
	INSERT INTO "RuntimeEnvironment" (id, slug, "apiKey", "organizationId", "updatedAt", "projectId", "pkApiKey", shortcode)
	  SELECT 'env' || i, i, i, 'org', now(), 'proj', i, i FROM generate_series(0, 999) AS i;
	SELECT run_ops.attach_control_plane('public');
	ALTER SYSTEM SET run_ops_split.mint_enabled = on;
	-- statistics that change have another size in the caches of a session
	ALTER SYSTEM SET autovacuum = off;
	SELECT pg_reload_conf();
	CREATE FUNCTION memory() RETURNS bigint LANGUAGE sql AS 'SELECT sum(used_bytes)::bigint FROM pg_backend_memory_contexts';

	-- how much more memory is held after the calls than before, once warm
	CREATE FUNCTION growth(call text, calls int) RETURNS bigint LANGUAGE plpgsql AS \$\$
	DECLARE
	  c refcursor;
	  held bigint[] := '{0,0,0}';
	BEGIN
	  OPEN c NO SCROLL FOR EXECUTE format('SELECT %s FROM generate_series(1, %s) AS i, '
	    'LATERAL (SELECT i %% 2 = 0 AS even) AS e, '
	    'LATERAL (SELECT CASE WHEN even THEN %L ELSE %L END AS id, ''env'' || i %% 1000 AS env) AS v', call, calls + 6000, '$old', '$new');
	  -- one place that looks, so that looking costs the same each time
	  FOR i IN 1 .. 3 LOOP
	    MOVE FORWARD (CASE i WHEN 3 THEN calls ELSE 3000 END) IN c;
	    held[i] := memory();
	  END LOOP;
	  RETURN held[3] - held[2];
	END \$\$;

	CREATE FUNCTION growth_of_failures(statement text, failures int) RETURNS text LANGUAGE plpgsql AS \$\$
	DECLARE
	  held bigint[] := '{0,0,0}';
	  state text;
	BEGIN
	  FOR i IN 1 .. failures LOOP
	    BEGIN
	      EXECUTE statement;
	      RETURN 'no failure';
	    EXCEPTION WHEN OTHERS THEN
	      GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE;
	    END;
	    IF i IN (10, 20, failures) THEN
	      held[CASE i WHEN 10 THEN 1 WHEN 20 THEN 2 ELSE 3 END] := memory();
	    END IF;
	  END LOOP;
	  RETURN state || ' ' || held[3] - held[2];
	END \$\$));

sub resident
{
	my ($pid) = @_;
	open my $status, '<', "/proc/$pid/status" or return 0;
	my ($kilobytes) = map { /^RssAnon:\s+(\d+)/ } <$status>;
	return $kilobytes // 0;
}

foreach my $call (
	'run_ops.owner_engine(id)', 'run_ops.try_owner_engine(id)', 'run_ops.is_classifiable(id)', 'run_ops.classify_kind(id)',
	'run_ops.resolve_shard(id)', 'run_ops.id_timestamp(id)', 'run_ops.id_body(id)', q(run_ops.friendly_id('run', id)),
	q(run_ops.resides(id, 'NEW')), q(run_ops.resides(id, 'LEGACY')), q(run_ops.own_ids(ARRAY[id], 'NEW')),
	'run_ops.generate_cuid()', 'run_ops.generate_ksuid()', 'run_ops.generate_run_ops_id()', 'run_ops.split_enabled()',
	'run_ops.resolve_env(env)', 'run_ops.resolve_authenticated_env(env)', 'run_ops.resolve_event_env(env)', 'run_ops.env_exists(env)',
	q(run_ops.resolve_env('none' || 1000000 + i)), 'run_ops.resolve_mint_kind(env)', 'run_ops.mint_run_id(env)', 'run_ops.mint_run_id(NULL, id)',
	'run_ops.mint_batch_id(env)', q(run_ops.effective_mint_kind('{"runOpsMintKind": "ksuid"}', now())))
{
	# one of these asks the tables each time
	my $n = $call =~ /none/ ? $calls / 10 : $calls;
	my $grow = 'SELECT growth(' . quoted($call) . ", $n)";
	my $session = $control_plane->background_psql('postgres');
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	is($session->query_safe($grow), '0', "$n calls of $call");
	if ($calls > 20_000)
	{
		# malloc() learns from the first ones what to give back, and keeps some; a leak would be 8 bytes a call or more
		$session->query_safe($grow);
		my $resident = resident($pid);
		$session->query_safe($grow);
		cmp_ok(resident($pid) - $resident, '<', 4096, '... and the process has not grown');
	}
	$session->quit;
}

# --- rows of the store ----------------------------------------------------------------------------

# What libpq holds is no memory of PostgreSQL, so the process is looked at as well.
my $rows = $ENV{RUN_OPS_MEMORY_ROWS} // 1_000_000;
my $statements = $ENV{RUN_OPS_MEMORY_STATEMENTS} // 10_000;
my $subtransactions = $ENV{RUN_OPS_MEMORY_SUBTRANSACTIONS} // 3_000;
$store->safe_psql('postgres', qq(
	CREATE VIEW many AS SELECT i, repeat('x', 100) AS t FROM generate_series(1, $rows) AS i;
	CREATE VIEW few AS SELECT i, repeat('x', 100) AS t FROM generate_series(1, 20000) AS i;
	CREATE VIEW wrong AS SELECT i, CASE WHEN i = 300 THEN 'x' ELSE i::text END AS n FROM generate_series(1, 1000) AS i));
$control_plane->safe_psql('postgres', q(
	-- many rows have a cursor where a transaction lasts, and fewer than fetch_size a stream
	CREATE FOREIGN TABLE cursor_of_many (i int, t text) SERVER new OPTIONS (schema_name 'public', table_name 'many');
	CREATE FOREIGN TABLE stream_of_many (i int, t text) SERVER new OPTIONS (schema_name 'public', table_name 'many', fetch_size '2000000');
	CREATE FOREIGN TABLE cursor_of_few (i int, t text) SERVER new OPTIONS (schema_name 'public', table_name 'few');
	CREATE FOREIGN TABLE stream_of_few (i int, t text) SERVER new OPTIONS (schema_name 'public', table_name 'few', fetch_size '2000000');
	CREATE FOREIGN TABLE wrong (i int, n int) SERVER new OPTIONS (schema_name 'public', table_name 'wrong');
	INSERT INTO run_ops.run (id) SELECT 'run_' || lpad((1000 + i)::text, 27, '0') FROM generate_series(0, 999) AS i;
	INSERT INTO run_ops.tag SELECT 'tag' || i, i FROM generate_series(0, 999) AS i;
	CREATE FUNCTION resident() RETURNS bigint LANGUAGE sql AS
	  $$ SELECT substring(pg_read_file('/proc/self/status', 0, 10000) FROM 'RssAnon:\s+(\d+)')::bigint * 1024 $$;
	CREATE FUNCTION held() RETURNS bigint[] LANGUAGE sql AS 'SELECT ARRAY[memory(), resident()]';

	-- how much more is held after the statements than after a quarter of them, and what the last one has raised
	CREATE FUNCTION growth_of_statements(statement text, n int, OUT memory bigint, OUT process bigint, OUT state text) LANGUAGE plpgsql AS $$
	DECLARE
	  before bigint[];
	  after bigint[];
	BEGIN
	  FOR i IN 1 .. n LOOP
	    BEGIN
	      EXECUTE statement USING i;
	      state := '00000';
	    EXCEPTION WHEN OTHERS THEN
	      state := SQLSTATE;
	    END;
	    IF i IN (n / 4, n) THEN
	      before := after;
	      after := held();
	    END IF;
	  END LOOP;
	  memory := after[1] - before[1];
	  process := after[2] - before[2];
	END $$));
# What PostgreSQL knows of its contexts, and the memory of the process, in which
# malloc() keeps some.
sub flat
{
	my ($sql, $name, $limit, $process_limit) = @_;
	my ($memory, $process, @more) = split /\|/, $control_plane->safe_psql('postgres', "SET run_ops_split.cross_store_writes = allow; $sql");
	cmp_ok($memory, '<=', $limit, "$name: the memory of PostgreSQL is flat");
	cmp_ok($process, '<=', $process_limit, '... and so is that of the process');
	return join '|', @more;
}

foreach my $way ('cursor', 'stream')
{
	my $looks = join ', ', map { int $rows * $_ } 0.05, 0.4, 0.7, 0.99;
	my $begin = $way eq 'cursor' ? 'BEGIN ISOLATION LEVEL REPEATABLE READ; ' : '';
	my $seen = flat("${begin}SELECT max(h[1]) - min(h[1]), max(h[2]) - min(h[2]), count(*), sum(i) FROM (SELECT i, CASE WHEN i IN ($looks) THEN held() END AS h FROM ${way}_of_many OFFSET 0) AS q",
		"$rows rows that come by $way", 64 * 1024, 8 * 1024 * 1024);
	is($seen, join('|', $rows, $rows * ($rows + 1) / 2), '... all of them');
}
my $fetched = q(
	DO $$
	DECLARE
	  r record;
	  before bigint[];
	  after bigint[];
	  n int := 0;
	BEGIN
	  FOR r IN SELECT i FROM WAY_of_many LOOP
	    n := n + 1;
	    IF n IN (ROWS / 20, ROWS - 5) THEN
	      before := after;
	      after := held();
	    END IF;
	  END LOOP;
	  PERFORM set_config('test.growth', concat_ws('|', after[1] - before[1], after[2] - before[2], n), false);
	END $$;
	SELECT current_setting('test.growth'));
foreach my $way ('cursor', 'stream')
{
	is(flat($fetched =~ s/WAY/$way/r =~ s/ROWS/$rows/gr, "a loop in PL/pgSQL over $rows rows of a $way", 64 * 1024, 8 * 1024 * 1024), $rows, '... all of them');
}

# 10,000 failures, and a few of those that take long
my $update = "UPDATE run_ops.run SET n = \$1 WHERE id = '$new'";
foreach my $case (
	[ 'SELECT * FROM wrong WHERE 1 / (i - 500) > 0', '22012', 'an error of the store' ],
	[ "INSERT INTO run_ops.run (id) VALUES ('$new')", '23505', 'an error of the store in a write' ],
	[ 'SELECT * FROM wrong', '22P02', 'an error here in a value of the 300th row' ],
	[ 'SELECT 1 / (i - 50) FROM wrong', '22012', 'an error here in a row', 5 ],
	[ "WITH u AS ($update RETURNING n) SELECT 1 / (n - n) FROM u", undef, 'an error after a write', 10 ],
	[ 'SELECT 1 / (i - 250) FROM cursor_of_few', '22012', 'an error here in a row of a cursor', 20 ],
	[ 'SELECT 1 / (i - 250) FROM stream_of_few', '22012', 'an error here in a row of a stream', 50 ],
	[ q(UPDATE run_ops.run SET n = $1 WHERE id = 'run_' || lpad((1000 + $1 % 1000)::text, 27, '0')), '00000', 'an update by id' ],
	[ q(UPDATE run_ops.tag SET n = $1 WHERE id = 'tag' || $1 % 1000), '00000', 'an update by an id that is in either store', 10 ],
	[ "SELECT n FROM run_ops.run WHERE id = '$new' AND n <> \$1", '00000', 'a read by id' ],)
{
	my ($statement, $state, $name, $share) = @$case;
	my $n = int $statements / ($share // 1);
	# PostgreSQL keeps a context of 8 kB for each subtransaction that has done well and fired a statement trigger
	my @limits = $name =~ /^an update/ ? (700, 10_000) : (300, 500);
	my $got = flat('SELECT memory, process, state FROM growth_of_statements(' . quoted($statement) . ", $n)", "$n times $name, in an EXCEPTION block", $limits[0] * $n, 1024 * 1024 + $limits[1] * $n);
	is($got, $state, '... it is what happens') if defined $state;
}
# each a transaction
foreach my $case ([ $update, 'updates' ], [ "SELECT n FROM run_ops.run WHERE id = '$new'", 'reads' ])
{
	my ($sql, $name) = @$case;
	my $n = int $statements / 4;
	my $look = 'SELECT memory(), resident() \gset';
	my @run = map { $sql =~ s/\$1/$_/r . ';' } 1 .. $n;
	flat(join("\n", '\o /dev/null', @run[ 0 .. 99 ], "$look before", @run, "$look after", '\o', 'SELECT :aftermemory - :beforememory, :afterresident - :beforeresident;'),
		"$n $name by id, each a transaction", 64 * 1024, 2 * 1024 * 1024);
}

# what PostgreSQL keeps of each, it keeps of those that write here as well
$control_plane->safe_psql('postgres', q(
	CREATE FUNCTION growth_of_subtransactions(wanted text, n int, OUT memory bigint, OUT process bigint) LANGUAGE plpgsql AS $$
	DECLARE
	  before bigint[];
	  after bigint[];
	BEGIN
	  FOR i IN 1 .. n LOOP
	    BEGIN
	      UPDATE run_ops.run SET n = i WHERE id = wanted;
	      IF i % 3 = 0 THEN
	        PERFORM 1 / 0;
	      END IF;
	    EXCEPTION WHEN division_by_zero THEN NULL;
	    END;
	    IF i IN (n / 4, n) THEN
	      before := after;
	      after := held();
	    END IF;
	  END LOOP;
	  memory := after[1] - before[1];
	  process := after[2] - before[2];
	END $$));
my ($with, $without) = map { [ split /\|/, $control_plane->safe_psql('postgres', "SELECT * FROM growth_of_subtransactions('$_', $subtransactions)") ] } $new, $old;
cmp_ok($with->[0], '<=', $without->[0] + 64 * 1024, "$subtransactions subtransactions that write to the store: the memory of PostgreSQL grows no more than with those that write here");
cmp_ok($with->[1], '<=', $without->[1] + 2 * 1024 * 1024, '... and so does that of the process');

# --- a store that is down -------------------------------------------------------------------------

my $foreign_run = $control_plane->safe_psql('postgres',
	"SELECT c.relation FROM run_ops.routed_table AS t, run_ops.copies(t) AS c WHERE t.view = 'run_ops.run'::regclass AND c.store = 'new'");
$store->stop;
foreach my $statement (
	"SELECT * FROM run_ops.run WHERE id = '$new'", 'SELECT * FROM run_ops.run', "SELECT * FROM $foreign_run",
	"INSERT INTO run_ops.run (id) VALUES ('" . ksuid(2) . "')", "UPDATE run_ops.run SET n = 1 WHERE id = '$new'",
	"DELETE FROM run_ops.tag WHERE id = 'x'", "DELETE FROM $foreign_run", q(SELECT run_ops.ask_store('new', 'SELECT 1')))
{
	my $session = $control_plane->background_psql('postgres');
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	like($session->query_safe('SELECT growth_of_failures(' . quoted($statement) . ", $failures)"), qr/^08\w\w\w (?:0|-\d+)$/, "$failures failures of $statement");
	$session->quit;
}

sub quoted { my $text = shift; $text =~ s/'/''/g; return "'$text'" }

done_testing();

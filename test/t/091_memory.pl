# Memory stays flat: over many calls of every function that an application
# calls per row, in one query; and over many calls of a store that is down.
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
	like($session->query_safe('SELECT growth_of_failures(' . quoted($statement) . ", $failures)"), qr/^08\w\w\w 0$/, "$failures failures of $statement");
	$session->quit;
}

sub quoted { my $text = shift; $text =~ s/'/''/g; return "'$text'" }

done_testing();

# Every call that may fail, failing once: allocations, SPI, tables, the catalog,
# WAL, and each call of postgres_fdw.  And the connection to the store, lost before
# each call of libpq.  The extension is built with INJECT_FAULTS=1.
#
# For each scenario the call that fails is the first, the second, and so on,
# until none is left; each time with nothing cached, and over a new connection.  Once as a transaction of
# its own, and once between a savepoint and the rollback to it.  After the
# failure the rows in both databases are as before; the session goes on, and
# the same statements succeed and give what they give without a failure.  In
# the end the session holds no more plans, contexts, statements in the store
# or temporary files than one without failures.
#
# A connection that is lost may be no failure, or at the end of an atomic commit
# one that only warns; and a session with atomic commit that looks for what others
# have left only logs what fails.  Then the rows in both databases are as after a success.
# What is left prepared in the store is finished by resolve_in_doubt(), and
# there is something left only if the session has said so.  (Without atomic
# commit nobody knows what a COMMIT did whose answer is lost, so it is not tried
# there.)
#
# With a PostgreSQL that has assertions, the statements also run while it
# discards its caches.
#
# On the server of scripts/check-assert, allocations of the whole server fail
# in the same way: there are tens of thousands, so RUN_OPS_FAULTS_ALLOCATIONS
# of each scenario, beginning at RUN_OPS_FAULTS_SEED.  RUN_OPS_FAULTS_CALLS
# bounds the calls as well; RUN_OPS_FAULTS chooses scenarios.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use SplitServers;
use Test::More;

my ($control_plane, $store) = split_servers(conf => 'autovacuum = off');
# nobody else makes the server forget what it knows
$store->append_conf('postgresql.conf', "autovacuum = off\nmax_prepared_transactions = 20");
$store->restart;
$control_plane->safe_psql('postgres', q(
	CREATE EXTENSION dblink;
	SELECT run_ops.enable_split();
	\i test/fixtures/control_plane.sql
	INSERT INTO "Organization" (id, slug, title, "updatedAt", "featureFlags") VALUES ('org', 'o', 'o', now(), '{"runOpsMintKind": "ksuid"}');
	INSERT INTO "Project" (id, name, "organizationId", "updatedAt", slug, "externalRef") VALUES ('proj', 'p', 'org', now(), 'p', 'p');
	INSERT INTO "RuntimeEnvironment" (id, slug, "apiKey", "organizationId", "updatedAt", "projectId", "pkApiKey", shortcode)
	  SELECT id, id, id, 'org', now(), 'proj', id, id FROM unnest('{env,env2}'::text[]) AS id;
	CREATE FUNCTION fail_at(call int, kind text) RETURNS int LANGUAGE c AS '$libdir/run_ops_split', 'run_ops_inject_faults';
	SELECT run_ops.attach_control_plane('public');
	ALTER SYSTEM SET run_ops_split.mint_enabled = on;
	-- which branches a flip takes does not depend on the time
	ALTER SYSTEM SET run_ops_split.mint_flip_grace = '1h';
	ALTER SYSTEM SET run_ops_split.cross_store_writes = allow;
	ALTER SYSTEM SET run_ops_split.store_retry_pause = 0;
	SELECT pg_reload_conf();
	-- until the store has noticed which connections are gone
	CREATE FUNCTION settle() RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
	  WHILE (SELECT n > 0 FROM dblink('new', 'SELECT count(*) FROM pg_stat_activity WHERE backend_type = ''client backend'' AND state <> ''idle'' AND pid <> pg_backend_pid()') AS d (n int)) LOOP
	    PERFORM pg_sleep(0.01);
	  END LOOP;
	END $$;
	IMPORT FOREIGN SCHEMA pg_catalog LIMIT TO (pg_prepared_statements) FROM SERVER new INTO public));

# A script that another session runs, as a command of psql.
sub elsewhere
{
	my ($node, $name, $sql) = @_;
	my $file = $node->basedir . "/$name.sql";
	append_to_file($file, "$sql\n");
	return sprintf qq(\\! psql -XAtq -d "%s" -f %s\n), $node->connstr('postgres'), $file;
}
my $resolve_in_doubt = elsewhere($control_plane, 'resolve', 'SELECT settle() \g /dev/null' . "\n" . 'SELECT outcome FROM run_ops.resolve_in_doubt();');

# the rows of both databases
my $restore = '';
foreach my $node ($control_plane, $store)
{
	my ($id, $other) = $node == $control_plane ? (cuid(1), cuid(2)) : (ksuid(1), ksuid(2));
	my $flags = $node == $control_plane ? q(UPDATE "Organization" SET "featureFlags" = '{"runOpsMintKind": "ksuid"}' WHERE "featureFlags" ->> 'runOpsMintKind' <> 'ksuid';) : '';
	$restore .= elsewhere($node, 'restore', qq(
		SET lock_timeout = '20s';
		TRUNCATE run, step, tag;
		INSERT INTO run (id, n) VALUES ('$id', 1), ('$other', 2);
		INSERT INTO step VALUES ('s$id', '$id', 1);
		INSERT INTO tag VALUES ('t$id', 1);
		$flags));
}
sub restore_rows { return run_script('rows', $restore) }
# the flags have been changed before, and restored, as they are when calls fail
$control_plane->safe_psql('postgres', q(UPDATE "Organization" SET "featureFlags" = '{"runOpsMintKind": "cuid"}'));
restore_rows();

# Rows of both databases; of the store as others see it, or as this transaction does.
sub rows_of
{
	my ($remote) = @_;
	return qq(SELECT md5(string_agg(line, ',' ORDER BY line)) FROM (
		SELECT run::text FROM ONLY public.run UNION ALL SELECT step::text FROM public.step UNION ALL SELECT tag::text FROM public.tag
		UNION ALL SELECT "featureFlags"::text FROM "Organization"
		UNION ALL $remote) AS r (line));
}
my $own = join ' UNION ALL ', map { my $table = $control_plane->safe_psql('postgres',
	"SELECT c.relation FROM run_ops.routed_table AS t, run_ops.copies(t) AS c WHERE t.view = 'run_ops.$_'::regclass AND c.store = 'new'");
	"SELECT r::text FROM $table AS r" } qw(run step tag);
my $committed = q(SELECT * FROM dblink('new',
	'SELECT run::text FROM run UNION ALL SELECT step::text FROM step UNION ALL SELECT tag::text FROM tag UNION ALL SELECT gid FROM pg_prepared_xacts') AS d (line text));
my ($foreign_run) = $own =~ /FROM (\S+)/;

# What the session holds on to.
my $held = q(
	SELECT 'plans and contexts', count(*), name, regexp_replace(ident, '\s+', ' ', 'g') FROM pg_backend_memory_contexts
	 WHERE name IN ('CachedPlanSource', 'SPI Plan') OR name LIKE 'run\_ops%' GROUP BY name, ident ORDER BY name, ident;
	SELECT 'temporary files', count(*) FROM pg_ls_tmpdir();
	SELECT 'prepared in the store', count(*) FROM pg_prepared_statements_of_store;
	SELECT 'connections', count(*) FROM run_ops.store_connections() WHERE in_transaction;
);
$control_plane->safe_psql('postgres', 'ALTER FOREIGN TABLE public.pg_prepared_statements RENAME TO pg_prepared_statements_of_store');

# Several rows for each store: one is sent differently
my ($old, $new, $new2) = (cuid(1), ksuid(1), ksuid(2));
my $reads = qq(
		SELECT * FROM run_ops.run ORDER BY id COLLATE "C";
		SELECT * FROM run_ops.run WHERE id = '$new';
		SELECT * FROM run_ops.run WHERE id IN ('$old', '$new');
		SELECT * FROM run_ops.run WHERE id = (SELECT "runId" FROM run_ops.step WHERE id = 's$new');
		SELECT count(*) FROM run_ops.run AS r JOIN run_ops.step AS s ON s."runId" = r.id;);
my $both = qq(
		INSERT INTO run_ops.run (id, n) VALUES ('run_c000000000000000000000008', 8), ('run_000000000000000000000000008', 8);
		SAVEPOINT inner_one;
		UPDATE run_ops.run SET n = n + 1 WHERE id = '$new';
		RELEASE inner_one;
		UPDATE run_ops.run SET n = n + 1 WHERE id = '$old';);
# what fails while a session looks for what others have left is only logged
my $atomic = 'ALTER DATABASE postgres SET run_ops_split.cross_store_writes = atomic; ALTER DATABASE postgres SET client_min_messages = log; ALTER DATABASE postgres SET log_statement = none;';
my $pooled = q(ALTER SERVER new OPTIONS (ADD pooled 'true'););
# name, statements, what is set for them
my @scenarios = (
	[ 'questions', q(
		SELECT run_ops.resolve_env('env'), run_ops.resolve_authenticated_env('env'), run_ops.resolve_event_env('env'), run_ops.env_exists('env');
		SELECT * FROM run_ops.resolve_envs('{env,none,env2}');
		SELECT run_ops.resolve_locked_task('none'), run_ops.resolve_locked_version('none');) ],
	[ 'questions asked before', q(
		SELECT run_ops.resolve_env('env');
		SELECT run_ops.resolve_env('env');
		SELECT * FROM run_ops.cache_stats() WHERE false;) ],
	[ 'mint kind', q(
		SELECT run_ops.resolve_mint_kind('env'), run_ops.classify_kind((run_ops.mint_run_id('env')).id);) ],
	[ 'reads', $reads ],
	[ 'reads behind a pooler', $reads, $pooled ],
	[ 'ask a store', q(
		SELECT run_ops.ask_store('new', 'SELECT 1 AS a');) ],
	[ 'cursor', qq(
		DECLARE c CURSOR FOR SELECT id FROM $foreign_run ORDER BY id COLLATE "C";
		SAVEPOINT inner_one;
		FETCH 1 FROM c;
		RELEASE inner_one;
		FETCH 1 FROM c;
		CLOSE c;) ],
	[ 'insert one each', q(
		INSERT INTO run_ops.run (id, n) VALUES ('run_c000000000000000000000003', 3), ('run_000000000000000000000000003', 3) RETURNING *;) ],
	[ 'insert many', q(
		INSERT INTO run_ops.run (id, n) SELECT 'run_c' || lpad(i::text, 24, '0'), i FROM generate_series(10, 15) AS i
		  UNION ALL SELECT 'run_' || lpad(i::text, 27, '0'), i FROM generate_series(10, 15) AS i;) ],
	[ 'insert without a shape', qq(
		INSERT INTO run_ops.tag VALUES ('x', 1);
		INSERT INTO run_ops.step VALUES ('y', '$new', 1), ('z', '$old', 1);) ],
	[ 'insert or skip', qq(
		INSERT INTO run_ops.run (id, n) VALUES ('$old', 3), ('$new', 3), ('run_000000000000000000000000004', 3) ON CONFLICT DO NOTHING;
		INSERT INTO run_ops.run AS r (id, n) VALUES ('$old', 3), ('$new', 3) ON CONFLICT (id) DO UPDATE SET n = r.n + EXCLUDED.n RETURNING *;) ],
	[ 'update', q(
		UPDATE run_ops.run SET n = n + 1, state = 'done';
		UPDATE run_ops.tag SET n = n + 1;
		UPDATE run_ops.run SET n = 7 WHERE id = '$new';) ],
	[ 'delete', qq(
		DELETE FROM run_ops.run;
		DELETE FROM run_ops.step WHERE id = 's$new';
		DELETE FROM run_ops.tag;) ],
	[ 'a statement within a statement', q(
		WITH i AS (INSERT INTO run_ops.run (id, n) VALUES ('run_000000000000000000000000005', 5) RETURNING id)
		  INSERT INTO run_ops.step SELECT 'w', id, 1 FROM i;) ],
	[ 'the foreign table itself', qq(
		INSERT INTO $foreign_run (id, n) VALUES ('run_000000000000000000000000006', 6), ('run_000000000000000000000000007', 7);
		UPDATE $foreign_run SET n = 8 WHERE id = '$new';
		UPDATE $foreign_run SET n = 8 WHERE id = '$new2' AND pg_backend_pid() > 0;
		DELETE FROM $foreign_run WHERE id = '$new2' AND pg_backend_pid() > 0;
		TRUNCATE $foreign_run;) ],
	[ 'flags', q(
		UPDATE "Organization" SET "featureFlags" = '{"runOpsMintKind": "cuid"}';
		SELECT run_ops.bump_epoch('other', pg_current_xact_id()::text);) ],
	[ 'atomic commit', $both, $atomic ],
	[ 'atomic commit behind a pooler', $both, $atomic . $pooled ],
);

sub run_script
{
	my ($name, $script) = @_;
	my $file = $control_plane->basedir . '/script.sql';
	unlink $file;
	append_to_file($file, $script);
	my $out = '';
	IPC::Run::run [ 'psql', '-XAtq', '-d', $control_plane->connstr('postgres'), '-f', $file ], '>&', \$out
	  or BAIL_OUT("$name: $out");
	$out =~ s/^psql:\S+: //mg;
	return $out;
}

# A section of the output for each "\echo == NAME"
sub sections { my %s = map { my ($k, $v) = split /\n/, $_, 2; ($k => $v // '') } grep { length } split /^== /m, shift; return \%s }

# Which of so many calls fail: all of them, or so many of them, evenly spaced.
sub chosen
{
	my ($calls, $wanted, $first) = @_;
	return 1 .. $calls if !$wanted || $calls <= $wanted;
	return map { 1 + int(($_ + $first) * $calls / $wanted) } 0 .. $wanted - 1;
}

my $total = 0;
my $seed = $ENV{RUN_OPS_FAULTS_SEED} // time % 1000;
# where PostgreSQL has it
my $forgets = $control_plane->safe_psql('postgres', 'SHOW debug_assertions') eq 'on';
my $of_server = $control_plane->safe_psql('postgres', q(SELECT fail_at(0, 'allocations') IS NOT NULL)) eq 't';
note "allocations of the server: seed $seed" if $of_server;
foreach my $scenario (@scenarios)
{
	my ($name, $sql, $settings) = @$scenario;
	next if $ENV{RUN_OPS_FAULTS} && $name !~ /$ENV{RUN_OPS_FAULTS}/;
	$control_plane->safe_psql('postgres', $settings) if $settings;
	foreach my $mode ('transaction', 'savepoint')
	{
		each_fails($name, $sql, $mode, 'calls', $ENV{RUN_OPS_FAULTS_CALLS}, 0.5);
		each_fails($name, $sql, $mode, 'losses', $ENV{RUN_OPS_FAULTS_CALLS}, 0.5) if $mode eq 'savepoint' || $name =~ /atomic/;
		each_fails($name, $sql, $mode, 'allocations', $ENV{RUN_OPS_FAULTS_ALLOCATIONS} || 10, ($seed % 1000) / 1000) if $of_server;
	}
	$control_plane->safe_psql('postgres', 'ALTER DATABASE postgres RESET run_ops_split.cross_store_writes; ALTER DATABASE postgres RESET client_min_messages; ALTER DATABASE postgres RESET log_statement');
	$control_plane->safe_psql('postgres', 'ALTER SERVER new OPTIONS (DROP pooled)') if $name =~ /pooler/;
}
cmp_ok($total, '>', 0, "$total failures");

sub each_fails
{
	my ($name, $sql, $mode, $what, $wanted, $first) = @_;
	my $rows = rows_of($mode eq 'transaction' ? $committed : $own);
	my $end = $mode eq 'transaction' ? 'COMMIT' : 'ROLLBACK TO s';
	my $begin = $mode eq 'transaction' ? 'BEGIN' : 'BEGIN; SAVEPOINT s';
	my $cold = "SELECT fail_at(-1, '$what') \\g /dev/null";
	my $may_succeed = $mode eq 'transaction' && $name =~ /atomic/;
	my $resolve = $may_succeed ? $resolve_in_doubt : '';
	my $then = $may_succeed ? $restore : '';
	# what the statements give, and how many calls there are
	my $warm = "\\echo == before\n$rows;\n\\echo == warm\n" . "$cold\nBEGIN;\n$sql\nROLLBACK;\n" x 2;
	my $normal = sections(run_script($name,
		"$warm$cold\n$begin;\n\\echo == given\n$sql\n\\echo == end\n$end;\n\\echo == calls\nSELECT fail_at(0, '$what');\n\\echo == after\n$rows;\n"));
	restore_rows() if $mode eq 'transaction';
	# the question for their number allocates, too; how many packets an answer has depends on the time
	my $calls = int($normal->{calls} * ($what eq 'calls' ? 1 : 0.95));
	my @chosen = chosen($calls, $wanted, $first);

	my $failing = join '', map {
		("\\echo == failing $_\n$begin;\nSELECT fail_at($_, '$what') \\g /dev/null\n$sql\n$end;\n\\echo == disarm\nSELECT fail_at(0, '$what') \\g /dev/null\n\\echo == resolved $_\n$resolve",
			"\\echo == rows $_\n$rows;\n\\echo == restored $_\n$then\\echo == again $_\n", $mode eq 'transaction' ? "BEGIN;\n" : '', "$sql\n\\echo == end\nROLLBACK;\n")
	} @chosen;
	my $result = sections(run_script($name, "$warm\\echo == held before\n$held$failing$warm\\echo == held after\n$held"));
	my (@wrong, %finished);
	like($result->{before}, qr/^[0-9a-f]{32}$/, "$name, $mode, $what: rows are compared");
	foreach my $n (@chosen)
	{
		my ($failure, $resolved, $left, $again) = map { $result->{"$_ $n"} } ('failing', 'resolved', 'rows', 'again');
		my $succeeded = $may_succeed && $failure !~ /ERROR: /;
		push @wrong, "call $n did not fail: $failure" if $failure !~ /injected failure/;
		push @wrong, "call $n left rows: $failure" if $left ne ($succeeded ? $normal->{after} : $result->{before});
		push @wrong, "call $n has left something without a warning: $resolved after $failure" if $resolved ne '' && $failure !~ /WARNING: .* may /;
		push @wrong, "call $n: $resolved is not what the session has done: $failure" if $resolved !~ ($succeeded ? qr/^(committed\n)?$/ : qr/^(rolled back\n)?$/);
		push @wrong, "after call $n: $again instead of $normal->{given}after $failure" if $again ne $normal->{given};
		$finished{$1}++ if $resolved =~ /(.+)\n/;
	}
	note "$name, $mode: " . @chosen . " of $calls $what" . join('', map { ", $finished{$_} left and $_" } sort keys %finished);
	$total += @chosen;
	is(scalar(@wrong), 0, "$name, $mode, $what: as before after each failure");
	diag($_) foreach @wrong[ 0 .. ($#wrong > 3 ? 3 : $#wrong) ];
	my %before = map { ($_ => 1) } split /\n/, $result->{'held before'};
	my @more = grep { !$before{$_} } split /\n/, $result->{'held after'};
	is(join("\n", @more), '', "$name, $mode, $what: nothing more is held");
	if ($forgets && !$wanted && $mode eq 'transaction' && $what eq 'calls')
	{
		my $given = sections(run_script($name,
			"BEGIN;\nSET LOCAL debug_discard_caches = 1;\n\\echo == given\n$sql\n\\echo == end\nROLLBACK;\n"))->{given};
		is($given, $normal->{given}, "$name: the same with caches that forget everything all the time");
	}
	return;
}

done_testing();

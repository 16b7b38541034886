# A package replaces the library, and ALTER EXTENSION UPDATE the objects, perhaps
# weeks later.  Until then the library of today works with the objects of each
# released version; the update is one transaction, in any state of split mode,
# under sessions that go on; and every way back is still there.
#
# t/084_versions.pl compares the catalogs, t/083_pg_upgrade.pl updates after
# pg_upgrade.
use strict;
use warnings;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use SplitServers;
use Test::More;

my ($control_plane, $store) = split_servers();
my $newest = $control_plane->safe_psql('postgres', q(SELECT extversion FROM pg_extension WHERE extname = 'run_ops_split'));
my $version = q(SELECT extversion FROM pg_extension WHERE extname = 'run_ops_split');
$control_plane->safe_psql('postgres', 'CREATE ROLE updater SUPERUSER; CREATE ROLE ops');
my $update = 'SET ROLE updater; ALTER EXTENSION run_ops_split UPDATE; RESET ROLE';

sub sql { my ($db, $sql) = @_; return $control_plane->safe_psql($db, "SET client_min_messages = error; $sql") }

sub until_done
{
	my ($db, $function, @arguments) = @_;
	sql($db, "DO \$\$ DECLARE complete boolean := false; BEGIN WHILE NOT complete LOOP complete := (SELECT done FROM run_ops.$function(@arguments)); COMMIT; END LOOP; END \$\$");
	return;
}

# What an application does; the answers are the same in every state.  Leaves two
# rows of each table, of both databases if new ids are minted.
my $mint = \&ksuid;
sub work
{
	my ($ask, $n, $name) = @_;
	my ($old, $new) = (cuid($n), $mint->($n));
	my @got = map { $ask->($_) } (
		"INSERT INTO run_ops.run (id, n) VALUES ('$old', $n)",
		"INSERT INTO run_ops.run (id, n) VALUES ('$new', $n) RETURNING n",
		map({ "INSERT INTO run_ops.run AS r (id, n) VALUES ('$_', 100) ON CONFLICT (id) DO UPDATE SET n = r.n + excluded.n RETURNING n" } $old, $new),
		"INSERT INTO run_ops.run (id, n) VALUES ('$new', 0) ON CONFLICT DO NOTHING RETURNING n",
		map({ "UPDATE run_ops.run SET state = 'done' WHERE id = '$_' RETURNING state" } $old, $new),
		map({ "SELECT n FROM run_ops.run WHERE id = '$_' FOR UPDATE" } $old, $new),
		"INSERT INTO run_ops.step VALUES ('old $n', '$old', $n), ('gone $n', '$old', $n)",
		"INSERT INTO run_ops.step VALUES ('new $n', '$new', $n)",
		"DELETE FROM run_ops.step WHERE id = 'gone $n' RETURNING n",
		"INSERT INTO run_ops.tag VALUES ('tag $n', $n)",
		"UPDATE run_ops.tag SET n = n + 1 WHERE id = 'tag $n' RETURNING n",
		"SELECT count(*), sum(r.n) FROM run_ops.run AS r JOIN run_ops.step AS s ON s.\"runId\" = r.id WHERE s.n = $n",
		"SELECT run_ops.owner_engine('" . ksuid($n) . "'), run_ops.locate('run_ops.run', '$old')");
	my $m = $n + 100;
	is_deeply(\@got, [ '', $n, $m, $m, '', 'done', 'done', $m, $m, '', '', $n, '', $n + 1, '2|' . 2 * $m, 'NEW|legacy' ], $name);
	return;
}

sub sorted { my ($db, $query) = @_; return sql($db, "SELECT * FROM ($query) AS x ORDER BY line COLLATE \"C\"") }
my $rows = join ' UNION ALL ', map { "SELECT to_jsonb(x)::text AS line FROM SCHEMA.$_ AS x" } qw(run step tag);
sub rows_of { my ($db, $schema) = @_; return sorted($db, $rows =~ s/SCHEMA/$schema/gr) }

# what the operator has configured, and what is under way
my $kept = join ' UNION ALL ', map { "SELECT concat_ws(' ', '$_', to_jsonb(x)) AS line FROM run_ops.$_ AS x" }
  qw(store routed_table routed_store split_state leftover copy_progress audit_log acknowledgement view_default);

my %reach = (
	off => sub { },
	on => sub {
		my ($db) = @_;
		sql($db, q(SELECT run_ops.enable_split(), run_ops.grant_admin('ops')));
	},
	repatriating => sub {
		my ($db) = @_;
		sql($db, 'SELECT run_ops.enable_split()');
		sql($db, sprintf q(INSERT INTO run_ops.run (id, n) VALUES ('%s', %d)), ksuid($_), $_) foreach (10 .. 19);
		sql($db, 'SELECT run_ops.repatriate(1)') foreach (1 .. 3);
		is(sql($db, 'SELECT count(*) > 0, bool_and(finished) FROM run_ops.copy_progress'), 't|f', 'rows are being copied');
		cmp_ok(sql($db, 'SELECT count(*) FROM run'), '>', 0, 'some are here');
	},
	leftovers => sub {
		my ($db) = @_;
		sql($db, 'SELECT run_ops.enable_split()');
		sql($db, sprintf q(INSERT INTO run_ops.run (id, n) VALUES ('%s', %d)), ksuid($_), $_) foreach (10 .. 12);
		until_done($db, 'repatriate');
		sql($db, 'SELECT run_ops.disable_split(repatriated => true)');
		until_done($db, 'move_strays');
		sql($db, 'SELECT run_ops.enable_split()');
		cmp_ok(sql($db, 'SELECT count(*) FROM run_ops.leftover'), '>', 0, 'rows that moved are still here');
	});

foreach my $released (released($control_plane))
{
	foreach my $state (sort keys %reach)
	{
		my $db = "${state}_" . $released =~ s/\./_/gr;
		my $name = "$released, $state";
		my $new_session = sub { return sql($db, shift) };
		$mint = $state eq 'off' ? sub { cuid(50 + shift) } : \&ksuid;
		split_database($control_plane, $store, $db, $released);
		is(sql($db, $version), $released, "$name: the objects are old");
		is(sql($db, q(BEGIN; SELECT run_ops.bump_epoch('environment', 'e'); SELECT count(*) FROM run_ops.cache_epoch WHERE key = 'e'; ROLLBACK)), "\n1",
			"$name: a transaction reads the new epochs of what it has changed");

		# --- the new library, under them
		$reach{$state}->($db);
		is(failing_gates_of($control_plane, $db), '', "$name: every gate holds");
		work($new_session, 1, "$name: reads, writes, ON CONFLICT and locks");
		my $open = $control_plane->background_psql($db);
		$open->query_safe('SET client_min_messages = error; SET plan_cache_mode = force_generic_plan; PREPARE get (text) AS SELECT n FROM run_ops.run WHERE id = $1');
		my $in_open = sub { return $open->query_safe(shift) };
		my $prepared = sub { return join ' ', map { $in_open->("EXECUTE get('$_')") } cuid(1), $mint->(1) };
		work($in_open, 2, "$name: and in a session that stays");
		is($prepared->(), '101 101', "$name: and of a prepared statement");

		# --- the update
		my $shown = rows_of($db, 'run_ops');
		my $state_before = sorted($db, $kept);
		if ($state eq 'on')
		{
			like((run_command([ 'psql', '-Xq', '-v', 'color=off', '-d', $control_plane->connstr($db), '-f', 'observability/status.sql' ]))[0],
				qr/^ run_ops_split \Q$released ($newest is installed)\E /, "$name: the status screen tells that an update is due");
			is(sql($db, "BEGIN; $update; SELECT count(*) FROM run_ops.check_split() WHERE ok IS NOT TRUE; ROLLBACK"), '0', "$name: the gates hold in the transaction");
			is(sql($db, $version), $released, "$name: it can be rolled back");
			is(rows_of($db, 'run_ops'), $shown, "$name: and then everything is as before");
			work($in_open, 3, "$name: also in the session that stays");
			$shown = rows_of($db, 'run_ops');
		}
		my ($load, $load_err);
		my $count = "SELECT min(n) FROM run_ops.run WHERE id IN ('" . cuid(90) . "', '" . ksuid(90) . "')";
		my $more_than = sub { my ($n) = @_; $control_plane->poll_query_until($db, "SELECT ($count) > $n") or die "the clients do not go on: $load_err"; return };
		if ($state eq 'on')
		{
			my $script = PostgreSQL::Test::Utils::tempdir() . '/load.sql';
			my ($old, $new) = (cuid(90), ksuid(90));
			sql($db, "INSERT INTO run_ops.run (id, n) VALUES ('$_', 0)") foreach ($old, $new);
			append_to_file($script, "SELECT sum(n) FROM run_ops.run WHERE id IN ('$old', '$new');\nUPDATE run_ops.run SET n = n + 1 WHERE id = '$new';\n"
				  . "BEGIN;\nSELECT n FROM run_ops.run WHERE id = '$old' FOR UPDATE;\nUPDATE run_ops.run SET n = n + 1 WHERE id = '$old';\nCOMMIT;\n");
			$load = IPC::Run::start([ 'pgbench', '-n', '-c', 3, '-T', 3600, '-M', 'prepared', '-f', $script, '-h', $control_plane->host, '-p', $control_plane->port, $db ],
				'>', \my $out, '2>', \$load_err);
			$more_than->(20);
		}
		sql($db, $update);
		is(sql($db, $version), $newest, "$name: updated");
		if ($load)
		{
			$more_than->(sql($db, $count) + 20);
			$load->kill_kill;
			unlike($load_err, qr/ERROR|WARNING|abort/, "$name: clients that read and write meanwhile notice nothing");
			sql($db, "DELETE FROM run_ops.run WHERE id IN ('" . cuid(90) . "', '" . ksuid(90) . "')");
		}
		is(sorted($db, $kept), $state_before, "$name: what is configured and under way is as it was");
		is(rows_of($db, 'run_ops'), $shown, "$name: every row is there");
		is($prepared->(), '101 101', "$name: the prepared statement goes on");
		work($in_open, 4, "$name: the session that was open goes on");
		$open->quit;
		work($new_session, 5, "$name: new sessions work");
		is(failing_gates_of($control_plane, $db), '', "$name: every gate holds under the new objects");
		if ($state eq 'on')
		{
			my $grants = q(SELECT bool_and(has_function_privilege('ops', f, 'EXECUTE')) FROM unnest(run_ops.admin_functions()) AS f WHERE f = ANY ('{"run_ops.repatriate(integer)","run_ops.enable_split(boolean)"}'));
			is(sql($db, $grants), 't', "$name: what was granted is granted");
			my ($dump) = run_command([ 'pg_dump', '-s', '-d', $control_plane->connstr($db) ]);
			ok($dump =~ /^GRANT ALL ON FUNCTION run_ops\.repatriate\(.*\) TO ops;$/m, "$name: and dumped");
		}

		# --- the way back
		$shown = rows_of($db, 'run_ops');
		if ($state ne 'off')
		{
			until_done($db, 'repatriate');
			sql($db, 'SELECT run_ops.disable_split(repatriated => true)');
		}
		is(rows_of($db, 'public'), $shown, "$name: all rows come home");
		is(rows_of($db, 'run_ops'), $shown, "$name: and the views show them");
		if ($state eq 'off')
		{
			sql($db, 'SELECT run_ops.enable_split()');
			is(rows_of($db, 'run_ops'), $shown, "$name: split is enabled after the update");
		}
	}
}

# --- versions that do not fit -----------------------------------------------------------

# The version is that of the library; the extension is made to have another.
my $gate = q(SELECT object, ok, detail, hint FROM run_ops.check_split() WHERE gate = 'version');
sub extension_is { my ($other) = @_; return sql('postgres', "UPDATE pg_extension SET extversion = '$other' WHERE extname = 'run_ops_split'") }
is(sql('postgres', 'SELECT run_ops.library_version()'), $newest, 'the library knows its version');
is(sql('postgres', $gate), '', 'equal versions are no row');

extension_is('0.0.9');
is(sql('postgres', $gate), "library $newest|f|the extension is 0.0.9, and the library of this session is $newest|"
	  . "ALTER EXTENSION run_ops_split UPDATE TO '$newest'; To accept it: SELECT run_ops.acknowledge('version', 'library $newest', 'reason');",
	'an extension that is older');
is(sql('postgres', 'SELECT sql FROM run_ops.next_step() LIMIT 1'), "ALTER EXTENSION run_ops_split UPDATE TO '$newest';", 'is the first thing to mend');

extension_is('99.10.0');
like(sql('postgres', $gate), qr/library \Q$newest\E\|f\|the extension is 99\.10\.0, .*\|Install version 99\.10\.0 on this server\. .* connect again/, 'a library that is older');
# 0.1.0 is the library that does not tell its version
sql('postgres', q(UPDATE pg_proc SET prosrc = 'run_ops_not_there' WHERE oid = 'run_ops.library_version()'::regprocedure));
like(sql('postgres', $gate), qr/^library 0\.1\.0\|f\|/, 'also the first one');
sql('postgres', q(UPDATE pg_proc SET prosrc = 'run_ops_library_version' WHERE oid = 'run_ops.library_version()'::regprocedure));
extension_is($newest);
is(sql('postgres', $gate), '', 'equal again');

# A session of an old library cannot update beyond it.
extension_script($control_plane, "$newest--99.10.0", "SELECT run_ops.refuse_older_library();\nCREATE TABLE run_ops.later ();");
my ($ret, $out, $err) = $control_plane->psql('postgres', q(ALTER EXTENSION run_ops_split UPDATE TO '99.10.0'));
like($err, qr/ERROR:  the library of this session is older than the extension\nDETAIL:  the extension is 99\.10\.0, and the library of this session is \Q$newest\E\nHINT:  Install version 99\.10\.0/,
	'the update says so');
is(sql('postgres', $version), $newest, 'and has changed nothing');

done_testing();

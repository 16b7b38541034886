# Migrations under sessions that are at work: what changes names is followed,
# or refused with the call that mends it.  And attaching while split is on.
use strict;
use warnings;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use SplitServers;
use Test::More;

my ($control_plane, $store) = split_servers();
my @both = ($control_plane, $store);
sub here { my ($sql) = @_; return $control_plane->safe_psql('postgres', $sql) }
sub on_both { my ($sql) = @_; $_->safe_psql('postgres', $sql) foreach ($store, $control_plane); return }

# One session that stays, as those of a pool do.
my ($in, $out, $err) = ('', '', '');
my $session = IPC::Run::start([ 'psql', '-XAtq', '-d', $control_plane->connstr('postgres') ],
	'<', \$in, '>', \$out, '2>', \$err, IPC::Run::timeout(180));

# what it says to some statements: rows, then errors
sub asked
{
	my ($sql) = @_;
	($out, $err) = ('', '');
	$in .= "$sql;\n\\echo said\n\\warn said\n";
	IPC::Run::pump($session) until $out =~ /^said\n/m && $err =~ /^said\n/m;
	return join '', grep { length } ($out =~ s/said\n//r, $err =~ s/said\n//r);
}

# Every kind of write, in both stores, all undone at the end but for one row.
my $n = 10;
sub writes
{
	my ($key) = @_;
	$n += 2;
	my ($cuid, $ksuid) = (cuid($n), ksuid($n));
	return asked(join ';', map { qq(INSERT INTO run_ops.run ($key, n) VALUES ('$_', 1); UPDATE run_ops.run SET n = n + 1 WHERE $key = '$_' RETURNING n;
		INSERT INTO run_ops.tag VALUES ('$_', 1); UPDATE run_ops.tag SET n = 2 WHERE id = '$_' RETURNING n;
		DELETE FROM run_ops.tag WHERE id = '$_'; DELETE FROM run_ops.run WHERE $key = '$_' RETURNING n) } ($cuid, $ksuid));
}

here(q(DO $$ BEGIN PERFORM run_ops.acknowledge(gate, object, 'test') FROM run_ops.check_split() WHERE NOT ok AND gate = 'attached'; END $$;
	SELECT run_ops.enable_split()));
asked('SET run_ops_split.cross_store_writes = allow');
my $all = "2\n2\n2\n" x 2;
is(writes('id'), $all, 'a session writes');

# schemas
here('ALTER SCHEMA public RENAME TO app');
is(writes('id'), $all, 'the schema of the tables is renamed');
here('ALTER SCHEMA app RENAME TO public');
is(writes('id'), $all, 'and back');
here('ALTER SCHEMA run_ops_new RENAME TO elsewhere');
is(writes('id'), $all, 'the schema of the foreign tables');
here('ALTER SCHEMA elsewhere RENAME TO run_ops_new; CREATE SCHEMA app; ALTER TABLE run SET SCHEMA app');
is(writes('id'), $all, 'a table is moved to another schema');
here('ALTER TABLE app.run SET SCHEMA public; DROP SCHEMA app');

# a generated column
on_both('ALTER TABLE run ADD twice int GENERATED ALWAYS AS (n * 2) STORED');
is(writes('id'), $all, 'a generated column is added: the view lacks it, and is written as before');
here(q(SELECT run_ops.refresh_table('run_ops.run')));
is(writes('id'), $all, 'refreshed');
is(asked("INSERT INTO run_ops.run (id, n) VALUES ('" . cuid(1) . "', 1), ('" . ksuid(1) . "', 1) RETURNING twice"), "2\n2\n", 'and shown');

# a key
on_both('ALTER TABLE run RENAME id TO uid');
like(writes('id'), qr/view "run" is out of date.*Column "id" of the view is no longer a column of that name in table "run".*SELECT run_ops\.refresh_table\('run_ops\.run'\)/s,
	'the key is renamed: refused, with the call that mends it');
here(q(SELECT run_ops.refresh_table('run_ops.run')));
is(writes('uid'), $all, 'refreshed, the session goes on');
is(here(q(SELECT key_columns, route_column FROM run_ops.routed_table WHERE view = 'run_ops.run'::regclass)), '{uid}|uid', 'the registry knows the name');
is(here("SELECT run_ops.locate('run_ops.run', '" . ksuid(1) . "'); INSERT INTO run_ops.run (uid, n) VALUES ('" . ksuid(1) . "', 5) ON CONFLICT (uid) DO UPDATE SET n = run.n + EXCLUDED.n RETURNING n"), "new\n6", 'the row is found by it');
is(here(q(SELECT option_value FROM pg_foreign_table, pg_options_to_table(ftoptions) WHERE ftrelid = 'run_ops_new.run'::regclass AND option_name = 'key')), 'uid', 'and in the store');
my ($ret, $stdout, $stderr) = $control_plane->psql('postgres', "INSERT INTO run VALUES ('" . ksuid(3) . "')");
like($stderr, qr/row does not belong in table "run".*"uid" = /s, 'the write lock holds');
here(q(DO $$ BEGIN PERFORM run_ops.acknowledge(gate, object, 'test') FROM run_ops.check_split() WHERE NOT ok AND gate = 'index'; END $$));
is(failing_gates($control_plane), '', 'every gate holds');

# an anchor, and two columns that change places
on_both('ALTER TABLE step RENAME "runId" TO run; ALTER TABLE tag RENAME n TO m; ALTER TABLE tag RENAME id TO n; ALTER TABLE tag RENAME m TO id');
like(asked("INSERT INTO run_ops.step VALUES ('s', '" . ksuid(1) . "', 1)"), qr/Column "runId" of the view .*refresh_table\('run_ops\.step'\)/s, 'an anchor is renamed');
like(asked('UPDATE run_ops.tag SET n = 1'), qr/Column "id" of the view .*refresh_table\('run_ops\.tag'\)/s, 'columns have changed places');
here(q(SELECT run_ops.refresh_table('run_ops.step'), run_ops.refresh_table('run_ops.tag')));
is(asked("INSERT INTO run_ops.step VALUES ('s', '" . ksuid(1) . "', 1) RETURNING run"), ksuid(1) . "\n", 'refreshed');
is(here(q(SELECT key_columns FROM run_ops.routed_table WHERE view = 'run_ops.tag'::regclass)), '{n}', 'two columns have changed their names');
is(asked("INSERT INTO run_ops.tag (n, id) VALUES ('t', 1); UPDATE run_ops.tag SET id = 2 WHERE n = 't' RETURNING n, id"), "t|2\n", 'and are written by them');

# what nobody but the view notices: two columns of one type have changed places
on_both('CREATE TABLE pair (id text PRIMARY KEY, a int, b int)');
here(q(SELECT run_ops.attach_table('pair', 'shape')));
asked("INSERT INTO run_ops.pair VALUES ('" . cuid(1) . "', 1, 2)");
on_both('ALTER TABLE pair RENAME a TO c; ALTER TABLE pair RENAME b TO a; ALTER TABLE pair RENAME c TO b');
like(asked('UPDATE run_ops.pair SET a = 3'), qr/Column "a" of the view .*refresh_table\('run_ops\.pair'\)/s, 'two of one type');
here(q(SELECT run_ops.refresh_table('run_ops.pair')));
is(asked('UPDATE run_ops.pair SET a = 3 RETURNING a, b'), "3|1\n", 'refreshed');

# half a migration
$control_plane->safe_psql('postgres', 'ALTER TABLE step RENAME n TO number');
($ret, $stdout, $stderr) = $control_plane->psql('postgres', q(SELECT run_ops.refresh_table('run_ops.step')));
like($stderr, qr/table public\.step does not match in every store.*column number: .* in legacy, missing in store "new"/s, 'renamed on one side: refused');
is(here(q(SELECT attname FROM pg_attribute WHERE attrelid = 'run_ops.step'::regclass AND attnum = 3)), 'n', 'and nothing has changed');
$store->safe_psql('postgres', 'ALTER TABLE step RENAME n TO number');
here(q(SELECT run_ops.refresh_table('run_ops.step')));

# Attaching a table while split is on
on_both('CREATE TABLE note (id text PRIMARY KEY, n int)');
here("INSERT INTO note VALUES ('" . cuid(1) . "', 1), ('" . ksuid(1) . "', 2), ('" . ksuid(2) . "', 3)");
($ret, $stdout, $stderr) = $control_plane->psql('postgres', q(SELECT run_ops.attach_table('note', 'shape')));
like($stderr, qr/table public\.note has rows that belong to a store.*2 rows would disappear from the view: those WHERE NOT run_ops\.resides\(id, 'legacy'\)/s,
	'rows that belong to a store: refused, with their number');
is(here(q(SELECT to_regclass('run_ops.note'), count(*) FROM run_ops.routed_table WHERE legacy = 'note'::regclass)), '|0', 'nothing is left of it');
# the way that the hint names
$control_plane->poll_query_until('postgres', 'SELECT done FROM run_ops.repatriate(1000)');
here('SELECT run_ops.disable_split(repatriated => true)');
here(q(SELECT run_ops.attach_table('note', 'shape')));
here('SELECT run_ops.enable_split()');
is(here('SELECT string_agg(n::text, \' \' ORDER BY n) FROM run_ops.note'), '1 2 3', 'every row is shown');
is($store->safe_psql('postgres', 'SELECT count(*) FROM note'), '2', 'and has moved');

$in .= "\\q\n";
IPC::Run::finish($session);
done_testing();

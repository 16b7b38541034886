# DROP EXTENSION leaves the base tables as they were before; CREATE EXTENSION,
# attaching and enabling again brings every row back.  With split on, nothing that the
# views need can be dropped, by whatever command.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use SplitServers;
use Test::More;

my ($control_plane, $store) = split_servers();
sub here { my ($sql) = @_; return $control_plane->safe_psql('postgres', "SET client_min_messages = warning; $sql") }

# The tables of the application, and everything on them.
sub tables { my ($dump) = run_command([ 'pg_dump', '-s', '-n', 'public', $control_plane->connstr('postgres') ]); return $dump =~ s/^\\(un)?restrict.*$//mgr }

sub left
{
	return here(q(SELECT string_agg(nspname, ' ' ORDER BY nspname) FROM pg_namespace WHERE nspname LIKE 'run\_ops%')) . '/'
	  . here(q(SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'run\_ops%')) . '/'
	  . here(q(SELECT count(*) FROM pg_foreign_table)) . '/' . here(q(SELECT count(*) FROM pg_foreign_server));
}

my ($host, $port) = ($store->host, $store->port);
my $create = qq(
	CREATE EXTENSION run_ops_split CASCADE;
	CREATE SERVER new FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host '$host', port '$port', dbname 'postgres');
	CREATE USER MAPPING FOR CURRENT_USER SERVER new;
	SELECT run_ops.attach_store('new', 'new'), run_ops.attach_control_plane('public');
	SELECT run_ops.attach_table('run', 'shape'), run_ops.attach_table('step', 'anchor', 'runId'), run_ops.attach_table('tag', 'store');
	SELECT run_ops.configure_split(opted_in => true, native_realtime => true);
	DO \$\$ BEGIN PERFORM run_ops.acknowledge(gate, object, 'other tables of the fixture')
	  FROM run_ops.check_split() WHERE NOT ok AND gate = 'attached'; END \$\$;);
here('DROP EXTENSION run_ops_split CASCADE');
is(left(), 'run_ops run_ops_new/0/0/0', 'dropped with split off: only schemas are left');
is(here('SELECT count(*) FROM run_ops.run'), '0', 'and the views, which are plain ones');
here('DROP SCHEMA run_ops, run_ops_new CASCADE; \i test/fixtures/control_plane.sql');
my $before = tables();
cmp_ok(length $before, '>', 10000, 'there are tables to compare');

# split off: the way out step by step, then at once
here($create);
isnt(tables(), $before, 'attaching puts triggers on the control plane');
here('SELECT run_ops.detach_table(view) FROM run_ops.routed_table; SELECT run_ops.detach_store(\'new\'), run_ops.detach_control_plane();
	DROP SERVER new CASCADE; DROP EXTENSION run_ops_split');
is(left(), 'run_ops/0/0/0', 'detached and dropped without CASCADE: only the empty schema is left');
is(tables(), $before, 'and the tables are as before');
here($create);
here('DROP EXTENSION run_ops_split CASCADE; DROP SCHEMA run_ops CASCADE');
is(tables(), $before, 'dropped with split off: the tables are as before');

# split on: the rows of the store stay there
my ($cuid, $ksuid) = (cuid(1), ksuid(1));
$_->safe_psql('postgres', 'CREATE TABLE part (id int PRIMARY KEY)') foreach ($control_plane, $store);
here('CREATE ROLE owner; CREATE SCHEMA elsewhere AUTHORIZATION owner; ALTER TABLE part OWNER TO owner;' . $create);
here(q(CREATE FUNCTION elsewhere.half(int) RETURNS text IMMUTABLE LANGUAGE sql RETURN CASE WHEN $1 >= 1000 THEN 'new' END;
	SELECT run_ops.attach_table('part', 'shape', 'id', view_schema => 'elsewhere', key_rule => 'elsewhere.half(int)')));
here('SELECT run_ops.enable_split()');
here("INSERT INTO run_ops.run (id, n) VALUES ('$cuid', 1)");
here("INSERT INTO run_ops.run (id, n) VALUES ('$ksuid', 2); INSERT INTO run_ops.step VALUES ('s', '$ksuid', 3)");

# whatever would drop it or what the views need, in a session that knows nothing of it
my $it = qr/cannot drop extension run_ops_split while split is on\nDETAIL:  The rows of the stores would disappear from the views\.\nHINT:  Switch split off first, with run_ops\.disable_split\(\)\./;
my $part = qr/cannot drop [\w ]+ \S+ while split is on\nDETAIL:  View \S+ needs it\.\nHINT:  Switch split off first, with run_ops\.disable_split\(\), then: SELECT run_ops\.detach_table/;
my $postgres = qr/cannot drop .* requires it/;
here('ALTER DATABASE postgres RESET session_preload_libraries');
foreach my $road (
	[ 'DROP EXTENSION run_ops_split CASCADE', $it ], [ 'DROP EXTENSION postgres_fdw CASCADE', $it ], [ 'DROP EXTENSION plpgsql CASCADE', $it ],
	[ 'DROP SCHEMA public CASCADE', $it ], [ 'DROP SCHEMA run_ops CASCADE', $it ], [ 'DROP SCHEMA run_ops_new CASCADE', $part ], [ 'DROP SCHEMA elsewhere CASCADE', $part ],
	[ 'DROP SERVER new CASCADE', $part ], [ 'DROP FOREIGN DATA WRAPPER run_ops_fdw CASCADE', $postgres ], [ 'DROP FOREIGN DATA WRAPPER postgres_fdw CASCADE', $postgres ],
	[ 'DROP TYPE status CASCADE', $part ], [ 'DROP FUNCTION elsewhere.half(int) CASCADE', qr/^$/ ], [ 'DROP LANGUAGE plpgsql CASCADE', $postgres ],
	[ 'DROP FUNCTION run_ops.route_write() CASCADE', $postgres ], [ 'DROP OWNED BY owner CASCADE', $part ],
	[ q(DO $$ BEGIN EXECUTE concat('DROP EXTENSION run_ops', '_split CASCADE'); END $$), $it ])
{
	my ($sql, $error) = @$road;
	my ($ret, $out, $err) = $control_plane->psql('postgres', "SET client_min_messages = error; BEGIN; $sql; ROLLBACK");
	like($err, $error, "with split on: $sql");
}
is(here('SELECT sum(n) FROM run_ops.run'), '3', 'every row is still shown');
here('SET session_replication_role = replica; DROP EXTENSION run_ops_split CASCADE; DROP SCHEMA elsewhere CASCADE; DROP TABLE part');
is(tables(), $before, 'dropped past the guard: the tables are as before');
is(here('SELECT id FROM run'), $cuid, 'with their rows');
is($store->safe_psql('postgres', 'SELECT id FROM run'), $ksuid, 'and the store has its own');

here($create);
is(here('SELECT split, reason FROM run_ops.split_status'), 'off|configured but not enabled', 'created and attached again: split is off');
is(here('SELECT id FROM run_ops.run'), $cuid, 'only the rows of this database are shown');
here('SELECT run_ops.enable_split()');
is(here('SELECT sum(n) FROM run_ops.run'), '3', 'enabled again: every row is there');

# with copies that wait to come home
here(q(INSERT INTO run_ops.tag VALUES ('t', 1); INSERT INTO run_ops_new.tag VALUES ('u', 2)));
here('DO $$ BEGIN PERFORM run_ops.repatriate() FROM generate_series(1, 4); END $$');
here('SELECT run_ops.disable_split(force => true); DROP EXTENSION run_ops_split CASCADE');
is(tables(), $before, 'dropped in the middle of the way home: the tables are as before');
here($create);
# the copies are strays now, older than the rows of the store
my ($ret, $out, $err) = $control_plane->psql('postgres', 'SELECT run_ops.enable_split()');
like($err, qr/strays public\.run: 1 rows of the local table belong to a store/, 'copies that were left behind are reported');
here(q(DELETE FROM run WHERE NOT run_ops.resides(id, 'legacy'); DELETE FROM step WHERE NOT run_ops.resides("runId", 'legacy');
	SELECT run_ops.enable_split()));
is(here('SELECT (SELECT sum(n) FROM run_ops.run), (SELECT sum(n) FROM run_ops.tag)'), '3|3', 'removed, every row is there once');
here('SELECT run_ops.disable_split(repatriated => true)');
is(here('SELECT (SELECT sum(n) FROM run_ops.run), (SELECT sum(n) FROM run_ops.tag)'), '3|3', 'and comes home');
here('DROP EXTENSION run_ops_split CASCADE');
is(here('SELECT (SELECT sum(n) FROM run), (SELECT sum(n) FROM tag)'), '3|3', 'dropped after that, the tables have them all');

done_testing();

# DROP EXTENSION leaves the base tables as they were before, whatever the mode;
# CREATE EXTENSION, attaching and enabling again brings every row back.
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
here($create);
here('SELECT run_ops.enable_split()');
here("INSERT INTO run_ops.run (id, n) VALUES ('$cuid', 1)");
here("INSERT INTO run_ops.run (id, n) VALUES ('$ksuid', 2); INSERT INTO run_ops.step VALUES ('s', '$ksuid', 3)");
here('DROP EXTENSION run_ops_split CASCADE');
is(tables(), $before, 'dropped with split on: the tables are as before');
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
here('DROP EXTENSION run_ops_split CASCADE');
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

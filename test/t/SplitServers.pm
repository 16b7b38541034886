# A control plane and its store on two servers, with one small table each of
# every routing, attached and ready to be enabled.
package SplitServers;

use strict;
use warnings;
use Exporter 'import';
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(cuid ksuid new_server split_servers point_store failing_gates known_gates await_recovery);

# ids with a number in them
sub cuid { return sprintf 'run_c%024d', shift }
sub ksuid { return sprintf 'run_%027d', shift }

sub new_server
{
	my ($name, %options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name, install_path => $options{install_path});
	$node->init(%options);
	$node->append_conf('postgresql.conf', $options{conf}) if $options{conf};
	$node->start;
	return $node;
}

our $tables = q(
	CREATE TYPE status AS ENUM ('open', 'done');
	CREATE TABLE run (id text PRIMARY KEY, state status NOT NULL DEFAULT 'open', n int);
	CREATE INDEX run_n ON run (n);
	CREATE TABLE step (id text PRIMARY KEY, "runId" text NOT NULL, n int);
	CREATE TABLE tag (id text PRIMARY KEY, n int););

# Both servers, the store attached as "new" and opted in; not enabled.
sub split_servers
{
	my (%options) = @_;
	my ($install_path, $prefix) = ($options{install_path}, $options{prefix} // '');
	my $control_plane = new_server("${prefix}control_plane", allows_streaming => 'logical', %options);
	my $store = new_server("${prefix}store", install_path => $install_path);
	$_->safe_psql('postgres', $tables) foreach ($control_plane, $store);
	my ($host, $port) = ($store->host, $store->port);
	$control_plane->safe_psql('postgres', qq(
		SET client_min_messages = warning;
		CREATE EXTENSION run_ops_split CASCADE;
		CREATE SERVER new FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host '$host', port '$port', dbname 'postgres');
		CREATE USER MAPPING FOR CURRENT_USER SERVER new;
		SELECT run_ops.attach_store('new', 'new');
		SELECT run_ops.attach_table('run', 'shape'), run_ops.attach_table('step', 'anchor', 'runId'),
		       run_ops.attach_table('tag', 'store');
		SELECT run_ops.configure_split(opted_in => true, native_realtime => true)));
	return ($control_plane, $store);
}

sub point_store
{
	my ($control_plane, $host, $port, $database) = @_;
	$database //= 'postgres';
	$control_plane->safe_psql('postgres',
		"ALTER SERVER new OPTIONS (SET host '$host', SET port '$port', SET dbname '$database')");
	return;
}

# what does not hold, one "gate object: detail" a line
sub failing_gates
{
	my ($control_plane, @settings) = @_;
	return $control_plane->safe_psql('postgres', join('', map { "SET $_;" } @settings)
		  . q(SELECT concat_ws(' ', gate, nullif(object, '')) || ': ' || detail FROM run_ops.check_split() WHERE ok IS NOT TRUE));
}

# the names of all gates, from the functions that return their rows
sub known_gates
{
	my ($control_plane, $database) = @_;
	my $sources = $control_plane->safe_psql($database // 'postgres', q(SELECT prosrc FROM pg_proc
		WHERE prorettype = 'run_ops.gate'::regtype AND pronamespace = 'run_ops'::regnamespace));
	my %gates = map { $_ => 1 } $sources =~ /(?:\bSELECT |\bROW\(|g\.gate := |gate := \()'{1,2}([a-z ]+)'{1,2}[,;]\s/g;
	return sort keys %gates;
}

# Waits until a server that has crashed takes statements again.  It breaks
# connections until then, which poll_query_until() does not like.
sub await_recovery
{
	my ($node, $database) = @_;
	foreach (1 .. 1800)
	{
		return if IPC::Run::run([ 'psql', '-XAtqd', $node->connstr($database // 'postgres'), '-c', 'SELECT' ],
			'>', \my $out, '2>', \my $err);
		select undef, undef, undef, 0.1;
	}
	die $node->name . ' does not recover';
}

1;

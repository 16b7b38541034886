# A control plane and its store on two servers, with one small table each of
# every routing, attached and ready to be enabled.
package SplitServers;

use strict;
use warnings;
use Exporter 'import';
use File::Basename 'dirname';
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(cuid ksuid new_server split_servers split_database extension_script released point_store failing_gates failing_gates_of known_gates await_recovery);

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
	split_database($control_plane, $store, 'postgres');
	return ($control_plane, $store);
}

# The same in a database of both servers, perhaps with an earlier version.
sub split_database
{
	my ($control_plane, $store, $database, $version) = @_;
	foreach my $node ($control_plane, $store)
	{
		$node->safe_psql('postgres', "CREATE DATABASE $database") if $database ne 'postgres';
		$node->safe_psql($database, $tables);
	}
	my ($host, $port) = ($store->host, $store->port);
	my $with = $version ? "VERSION '$version'" : '';
	$control_plane->safe_psql($database, qq(
		SET client_min_messages = warning;
		CREATE EXTENSION run_ops_split $with CASCADE;
		CREATE SERVER new FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host '$host', port '$port', dbname '$database');
		CREATE USER MAPPING FOR CURRENT_USER SERVER new;
		SELECT run_ops.attach_store('new', 'new');
		SELECT run_ops.attach_table('run', 'shape'), run_ops.attach_table('step', 'anchor', 'runId'),
		       run_ops.attach_table('tag', 'store');
		SELECT run_ops.configure_split(opted_in => true, native_realtime => true)));
	return;
}

# A script of the extension that only this test needs, in the installation of a
# server until the test ends.
my @scripts;
sub extension_script
{
	my ($node, $name, $text) = @_;
	my $path = $node->config_data('--sharedir') . "/extension/run_ops_split--$name.sql";
	die "the installation must be writable: make test runs in a PostgreSQL of its own" unless -w dirname($path);
	die "$path is in the way" if -e $path && !grep { $_ eq $path } @scripts;
	push @scripts, $path;
	unlink $path;
	append_to_file($path, $text);
	return;
}
END { unlink @scripts }

# The released versions before the newest one, with their scripts.
sub released
{
	my ($node) = @_;
	my $newest = $node->safe_psql('postgres', q(SELECT default_version FROM pg_available_extensions WHERE name = 'run_ops_split'));
	my @versions = grep { $_ ne $newest } map { m{--(.*)\.sql$} } glob 'test/released/run_ops_split--*.sql';
	extension_script($node, $_, slurp_file("test/released/run_ops_split--$_.sql")) foreach @versions;
	return @versions;
}

sub point_store
{
	my ($control_plane, $host, $port, $database, $from) = @_;
	$database //= 'postgres';
	$control_plane->safe_psql($from // 'postgres',
		"ALTER SERVER new OPTIONS (SET host '$host', SET port '$port', SET dbname '$database')");
	return;
}

# what does not hold, one "gate object: detail" a line
sub failing_gates
{
	my ($control_plane, @settings) = @_;
	return failing_gates_of($control_plane, 'postgres', @settings);
}

sub failing_gates_of
{
	my ($control_plane, $database, @settings) = @_;
	return $control_plane->safe_psql($database, join('', map { "SET $_;" } @settings)
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

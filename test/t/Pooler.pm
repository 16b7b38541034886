# PgBouncer in transaction mode, in a folder of its own.
#
#   my $pooler = Pooler->start(2, store => 'host=... port=... dbname=... user=...');
#   $pooler->host, $pooler->port;     # connect there, as anybody, to the database "store"
#
# Each of its databases has so many connections of a server, whoever asks.
package Pooler;

use strict;
use warnings;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

sub start
{
	my ($class, $size, %databases) = @_;
	my ($program) = grep { -x } '/usr/sbin/pgbouncer', '/usr/bin/pgbouncer';
	die 'pgbouncer is missing' unless $program;
	my $self = bless { host => PostgreSQL::Test::Utils::tempdir_short(), port => PostgreSQL::Test::Cluster::get_free_port() }, $class;
	my $list = join "\n", map { "$_ = $databases{$_}" } sort keys %databases;
	append_to_file("$self->{host}/pgbouncer.ini", <<"END_INI");
[databases]
$list
[pgbouncer]
listen_addr =
listen_port = $self->{port}
unix_socket_dir = $self->{host}
auth_type = any
admin_users = @{[ scalar getpwuid($<) ]}
pool_mode = transaction
default_pool_size = $size
ignore_startup_parameters = extra_float_digits, options
END_INI
	my $pid = fork // die "fork: $!";
	if ($pid == 0)
	{
		open STDOUT, '>', "$self->{host}/log";
		open STDERR, '>&', \*STDOUT;
		exec $program, '-q', "$self->{host}/pgbouncer.ini" or POSIX::_exit(1);
	}
	$self->{pid} = $pid;
	foreach (1 .. 100)
	{
		return $self if -S "$self->{host}/.s.PGSQL.$self->{port}";
		select undef, undef, undef, 0.1;
	}
	die 'pgbouncer does not start: ' . slurp_file("$self->{host}/log");
}

sub host { return shift->{host} }
sub port { return shift->{port} }

sub connstr
{
	my ($self, $database) = @_;
	return "host=$self->{host} port=$self->{port} dbname=$database";
}

# Lets it replace the connections that it has.
sub reconnect
{
	my ($self) = @_;
	PostgreSQL::Test::Utils::system_or_bail('psql', '-XAtq', '-d', $self->connstr('pgbouncer'), '-c', 'RECONNECT');
	return;
}

# It waits for open transactions, unless it is killed.
sub stop
{
	my ($self, $signal) = @_;
	my $pid = delete $self->{pid} or return;
	local $?;
	kill $signal // 'INT', $pid;
	waitpid $pid, 0;
	return;
}

sub DESTROY { return shift->stop('KILL') }

1;

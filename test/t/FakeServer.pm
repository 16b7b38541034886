# A server that speaks enough of PostgreSQL's protocol to be taken for a store,
# and then misbehaves.  It listens on a Unix socket; every connection has a
# process of its own, and looks up the present behaviour before each answer.
#
#   my $fake = FakeServer->start($dir, $port);
#   $fake->behave('mid_row');
#   $fake->stop;
package FakeServer;

use strict;
use warnings;
use Errno 'EINTR';
use IO::Socket::UNIX;
use POSIX '_exit';
use Time::HiRes 'usleep';

# --- messages ------------------------------------------------------------------

sub message { my ($type, $body) = @_; return $type . pack('N', 4 + length $body) . $body }
sub ready { return message('Z', 'I') }
sub complete { return message('C', shift . "\0") }
sub description
{
	my ($n) = @_;
	return message('T', pack('n', $n) . join('', map { "c$_\0" . pack('NnNnNn', 0, 0, 25, 65535, 0xffffffff, 0) } 1 .. $n));
}
sub row
{
	return message('D', pack('n', scalar @_) . join('', map { defined $_ ? pack('N', length $_) . $_ : pack('N', 0xffffffff) } @_));
}
sub error
{
	my (%fields) = @_;
	return message('E', join('', map { $_ . $fields{$_} . "\0" } sort keys %fields) . "\0");
}

# --- behaviours ------------------------------------------------------------------

# What a query for rows is answered with.  An answer that ends with undef closes
# the connection.
my $good = sub { return (description(3), row('run_' . '0' x 26 . '7', 'open', 7), complete('FETCH 1'), ready()) };
my $id = 'run_' . '0' x 26 . '7';
my %answer = (
	good => $good,
	wrong_types => sub { (description(3), row('x', 'no label', 'no number'), complete('FETCH 1'), ready()) },
	wrong_number => sub { (description(3), row($id, 'open', '99999999999999999999'), complete('FETCH 1'), ready()) },
	few_columns => sub { (description(1), row($id), complete('FETCH 1'), ready()) },
	many_columns => sub { (description(40), row(map { 'x' } 1 .. 40), complete('FETCH 1'), ready()) },
	row_of_other_width => sub { (description(3), row($id), complete('FETCH 1'), ready()) },
	no_rows_at_all => sub { (complete('FETCH 0'), ready()) },
	more_than_asked => sub { (description(3), (map { row($id, 'open', $_) } 1 .. 5000), complete('FETCH 5000'), ready()) },
	two_results => sub { (description(3), row($id, 'open', 1), complete('FETCH 1'), description(1), row('x'), complete('FETCH 1'), ready()) },
	nulls => sub { (description(3), row(undef, undef, undef), complete('FETCH 1'), ready()) },
	invalid_utf8 => sub { (description(3), (map { row($_, 'open', 1) } "\xff" x 25, 'run_' . 'a' x 26 . "\xe2", "\xf0" x 27, "a" x 24 . "\xe2\x82"), complete('FETCH 4'), ready()) },
	huge_row => sub { (description(3), row('run_' . 'x' x 33554432, 'open', 1), complete('FETCH 1'), ready()) },
	huge_length => sub { (description(3), 'D' . pack('N', 0x7ffffff0) . pack('n', 3), undef) },
	field_beyond_row => sub { (description(3), message('D', pack('nN', 3, 5000) . 'x'), complete('FETCH 1'), ready()) },
	length_too_small => sub { (description(3), 'D' . pack('N', 2), undef) },
	mid_row => sub { (description(3), row($id, 'open', 1), substr(row($id, 'open', 2), 0, 12), undef) },
	after_rows => sub { (description(3), row($id, 'open', 1), undef) },
	closed => sub { (undef) },
	unknown_message => sub { (message('j', 'what'), ready()) },
	error_formats => sub { (error(S => 'ERROR', V => 'ERROR', C => '42P01', M => '%s%s%n%1$n %m', D => '%s', H => '%d', W => '%s'), ready()) },
	error_long => sub { (error(S => 'ERROR', C => 'XX000', M => 'x' x 1048576), ready()) },
	error_utf8 => sub { (error(S => "\xff", C => "\xff\xfe\xfd", M => "\xe2\x82 \xff"), ready()) },
	error_empty => sub { (message('E', "\0"), ready()) },
	error_fatal => sub { (error(S => 'FATAL', V => 'PANIC', C => '57P01', M => 'gone'), undef) },
	copy_begins => sub { (message('G', pack('Cn', 0, 0)), ready()) },
	copy_comes => sub { (message('H', pack('Cn', 0, 0)), message('d', "x\n"), message('c', ''), complete('COPY 1'), ready()) },
	encoding_changes => sub { (message('S', "client_encoding\0SJIS\0"), $good->()) },
	# what run_ops.ask_store() expects, but for its end
	answer_lost => sub { (description(1), row('UTC'), complete('SELECT 1'), description(1), row('{"n": 1}'), undef) },
	answer_without_end => sub { (description(1), row('UTC'), complete('SELECT 1'), description(1), row('{"n": 1}'), complete('SELECT 1'), undef) },
	answer_without_rows => sub { (description(1), row('UTC'), complete('SELECT 1'), ready()) },
	silence => sub { sleep 120; (undef) },
	trickle => sub { (description(3), (map { pack('C', 0) } 1 .. 600), undef) });

# instead of a session
my %greeting = (
	not_postgres => "HTTP/1.1 400 Bad Request\r\n\r\n",
	unknown_authentication => message('R', pack('N', 99)),
	weak_authentication => message('R', pack('N', 10) . "NO-SUCH-MECHANISM\0\0"),
	refused => error(S => 'FATAL', C => '28000', M => 'no %s%n for you'));

sub behaviours { return (sort keys %answer, sort keys %greeting) }

# --- one connection; its process must not run what the test does at its end -----

sub receive
{
	my ($socket, $n) = @_;
	my $data = '';
	while (length $data < $n)
	{
		my $got = sysread $socket, $data, $n - length $data, length $data;
		next if !defined $got && $! == EINTR;
		_exit(0) if !$got;
	}
	return $data;
}

sub give
{
	my ($socket, $slow, @parts) = @_;
	foreach my $part (@parts)
	{
		_exit(0) if !defined $part;
		my $done = 0;
		while ($done < length $part)
		{
			my $n = syswrite $socket, $part, length($part) - $done, $done;
			_exit(0) if !defined $n && $! != EINTR;
			$done += $n // 0;
		}
		usleep(100_000) if $slow;
	}
	return;
}

# Statements without rows are done as they are told; anything else is answered
# as the behaviour has it.
sub answer_to
{
	my ($sql, $behaviour) = @_;
	my @parts;
	# the settings of a session are made, whatever comes after
	return ([ description(1), row('x'), complete('SELECT 1') ], undef) if $sql =~ /^SELECT pg_catalog.set_config/;
	foreach my $statement (split /;\s*/, $sql)
	{
		return (\@parts, $answer{$behaviour}) if $statement =~ /^\s*(SELECT|FETCH|INSERT|UPDATE|DELETE)/i;
		my ($tag) = $statement =~ /^\s*(\w+)/;
		push @parts, complete(uc $tag eq 'DECLARE' ? 'DECLARE CURSOR' : uc $tag) if defined $tag;
	}
	return (\@parts, undef);
}

sub serve
{
	my ($self, $socket) = @_;
	my $sql = '';
	# not among behaviours(): each statement waits for it
	if ($self->behaviour eq 'mute') { sleep 600; _exit(0) }
	for (;;)
	{
		my $length = unpack 'N', receive($socket, 4);
		my $body = receive($socket, $length - 4);
		my $code = unpack 'N', $body;
		if ($code == 80877103 || $code == 80877104) { give($socket, 0, 'N'); next }
		# a cancel request ends the connection that it names
		if ($code == 80877102) { kill 'TERM', (unpack 'NN', $body)[1]; _exit(0) }
		last;
	}
	give($socket, 0, $greeting{ $self->behaviour }, undef) if $greeting{ $self->behaviour };
	give($socket, 0, message('R', pack('N', 0)),
		(map { message('S', join("\0", @$_) . "\0") } [ 'server_version', '15.0' ], [ 'client_encoding', 'UTF8' ], [ 'server_encoding', 'UTF8' ],
			[ 'standard_conforming_strings', 'on' ], [ 'integer_datetimes', 'on' ]),
		message('K', pack('NN', $$, 1)), ready());
	for (;;)
	{
		my ($type, $length) = unpack 'aN', receive($socket, 5);
		my $body = receive($socket, $length - 4);
		_exit(0) if $type eq 'X';
		if ($type eq 'P') { $sql = (split /\0/, $body)[1]; give($socket, 0, message('1', '')) }
		elsif ($type eq 'B') { give($socket, 0, message('2', '')) }
		elsif ($type eq 'D') { next }	# the answer has the description
		elsif ($type eq 'S') { give($socket, 0, ready()) }
		elsif ($type eq 'E' || $type eq 'Q')
		{
			$sql = substr $body, 0, -1 if $type eq 'Q';
			my $behaviour = $self->behaviour;
			my ($parts, $misbehave) = answer_to($sql, $behaviour);
			my @rest = $misbehave ? $misbehave->() : ($type eq 'Q' ? ready() : ());
			# the extended protocol is ready after Sync
			pop @rest if $misbehave && $type eq 'E' && defined $rest[-1] && $rest[-1] eq ready();
			my $first = (@$parts, @rest)[0];
			give($socket, 0, message('n', '')) if $type eq 'E' && (!defined $first || $first !~ /^[TE]/);
			give($socket, 0, @$parts);
			give($socket, $behaviour eq 'trickle', @rest);
		}
	}
}

# --- the server ------------------------------------------------------------------------

sub start
{
	my ($class, $dir, $port) = @_;
	my $self = bless { file => "$dir/behaviour.$port", parent => $$ }, $class;
	$self->behave('good');
	my $listener = IO::Socket::UNIX->new(Local => "$dir/.s.PGSQL.$port", Listen => 20) or die "cannot listen: $!";
	$self->{pid} = fork // die "cannot fork: $!";
	return $self if $self->{pid};

	# the server: its connections end with it
	setpgrp;
	$SIG{CHLD} = 'IGNORE';
	$SIG{TERM} = 'DEFAULT';
	for (;;)
	{
		my $socket = $listener->accept or next;
		my $child = fork;
		if (defined $child && $child == 0)
		{
			$SIG{PIPE} = 'DEFAULT';
			close $listener;
			$self->serve($socket);
		}
		close $socket;
	}
}

sub behave
{
	my ($self, $name) = @_;
	open my $file, '>', "$self->{file}.new" or die $!;
	print $file $name;
	close $file;
	rename "$self->{file}.new", $self->{file} or die $!;
	return;
}

sub behaviour
{
	my ($self) = @_;
	open my $file, '<', $self->{file} or _exit(0);
	return scalar <$file>;
}

sub stop
{
	my ($self) = @_;
	return if $self->{parent} != $$ || !$self->{pid};
	kill 'TERM', -$self->{pid};
	waitpid $self->{pid}, 0;
	delete $self->{pid};
	return;
}

sub DESTROY { my $status = $?; $_[0]->stop; $? = $status; return }

1;

# A proxy before a store that counts round trips.  It does not know the
# protocol: a round trip is whatever a client has sent, once the server answers.
package RoundTrips;

use strict;
use warnings;
use IO::Select;
use IO::Socket::UNIX;

# Listens in a folder of its own as a server with this port, before one whose
# socket is in another folder.
sub start
{
	my ($class, $dir, $port, $server_dir, $server_port) = @_;
	my $listener = IO::Socket::UNIX->new(Local => "$dir/.s.PGSQL.$port", Listen => 20) or die "$dir: $!";
	my $counter = "$dir/round_trips";
	my $pid = fork // die "fork: $!";
	if ($pid == 0)
	{
		relay($listener, "$server_dir/.s.PGSQL.$server_port", $counter);
		exit 0;
	}
	return bless { pid => $pid, counter => $counter }, $class;
}

sub relay
{
	my ($listener, $server, $counter) = @_;
	my $select = IO::Select->new($listener);
	my (%peer, %is_client, %waits);
	my $n = 0;
	local $SIG{PIPE} = 'IGNORE';
	while (1)
	{
		foreach my $from ($select->can_read)
		{
			if ($from == $listener)
			{
				my $client = $listener->accept or next;
				my $to = IO::Socket::UNIX->new(Peer => $server);
				if (!$to)
				{
					close $client;
					next;
				}
				@peer{ $client, $to } = ($to, $client);
				$is_client{$client} = 1;
				$select->add($client, $to);
				next;
			}
			my $to = $peer{$from} // next;
			my $client = $is_client{$from} ? $from : $to;
			if (!sysread $from, my $data, 65536)
			{
				$select->remove($from, $to);
				delete @peer{ $from, $to };
				delete $is_client{$client};
				delete $waits{$client};
				close $_ foreach ($from, $to);
				next;
			}
			else
			{
				if ($from != $client && $waits{$client})
				{
					$n++;
					open my $file, '>', "$counter.new" or die "$counter: $!";
					print $file $n;
					close $file;
					rename "$counter.new", $counter;
				}
				$waits{$client} = $from == $client;
				while (length $data)
				{
					my $sent = syswrite $to, $data;
					last if !defined $sent;
					substr $data, 0, $sent, '';
				}
			}
		}
	}
	return;
}

# how many since the last time it was asked
sub taken
{
	my ($self) = @_;
	my $n = 0;
	if (open my $file, '<', $self->{counter})
	{
		$n = <$file>;
		close $file;
	}
	my $taken = $n - ($self->{before} // 0);
	$self->{before} = $n;
	return $taken;
}

sub DESTROY
{
	my ($self) = @_;
	return if !$self->{pid};
	local $?;
	kill 'TERM', $self->{pid};
	waitpid $self->{pid}, 0;
	return;
}

1;

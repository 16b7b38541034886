# A proxy before a store that counts round trips, delays what is sent, and can
# stop forwarding.  It does not know the protocol: a round trip is whatever a
# client has sent, once it gets an answer.  What nobody waits for is not counted
# if the client sends more before the answer comes, as it does with a delay.
#
#   my $proxy = RoundTrips->start($dir, $port, $store->host, $store->port, delay => 5);
#   $proxy->taken;      # how many since the last time it was asked
#   $proxy->swallow;    # from now on it accepts and reads, but forwards nothing
#   $proxy->hold(3);    # from now on it forwards nothing until three clients have sent something
#   $proxy->alone;      # how often, since the last time it was asked, fewer have within three seconds
#   $proxy->flow;       # forwards again, but closes what it has swallowed something of
package RoundTrips;

use strict;
use warnings;
use IO::Select;
use IO::Socket::UNIX;
use Time::HiRes 'time';

# Listens in a folder of its own as a server with this port, before one whose
# socket is in another folder.  The delay, in ms, is that of each direction.
sub start
{
	my ($class, $dir, $port, $server_dir, $server_port, %options) = @_;
	my $listener = IO::Socket::UNIX->new(Local => "$dir/.s.PGSQL.$port", Listen => 20) or die "$dir: $!";
	my $self = bless { counter => "$dir/round_trips", swallowing => "$dir/swallowing", holding => "$dir/holding", lonely => "$dir/alone", delay => ($options{delay} // 0) / 1000 }, $class;
	my $pid = fork // die "fork: $!";
	if ($pid == 0)
	{
		$self->relay($listener, "$server_dir/.s.PGSQL.$server_port");
		exit 0;
	}
	$self->{pid} = $pid;
	return $self;
}

# in the process of the proxy
sub relay
{
	my ($self, $listener, $server) = @_;
	my $select = IO::Select->new($listener);
	my (%peer, %is_client, %waits, %lost, %held);
	# what is on its way, oldest first: when it is due, from where, and data;
	# undef is the end of the connection
	my @way;
	my $n = 0;
	my $arrived = 0;
	my $alone = 0;
	local $SIG{PIPE} = 'IGNORE';
	while (1)
	{
		if (%lost && !-e $self->{swallowing})
		{
			push @way, map { [ time, $_, undef ] } values %lost;
			%lost = ();
		}
		# Some messages are sent without waiting for an answer.  So that they do not make
		# up the number together with a part of what is waited for, it waits for more.
		my $quiet = time - $arrived;
		my $enough = %held && keys %held >= $self->together;
		$self->write_number($self->{lonely}, ++$alone) if %held && !$enough && $quiet > 3;
		if (%held && ($enough ? $quiet > 0.005 : $quiet > 3))
		{
			push @way, map { [ time, @$_ ] } map { @$_ } values %held;
			%held = ();
		}
		my $wait = %held ? 0.003 : @way ? $way[0][0] - time : %lost ? 0.05 : undef;
		foreach my $from ($select->can_read(defined $wait && $wait < 0 ? 0 : $wait))
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
			my $data;
			if (!sysread $from, $data, 65536)
			{
				$data = undef;
				$select->remove($from);
			}
			elsif (-e $self->{swallowing})
			{
				$lost{$from} = $from;
				next;
			}
			$waits{$from} = 1 if $is_client{$from} && defined $data;
			if ($is_client{$from} && $self->together)
			{
				push @{ $held{$from} }, [ $from, $data ];
				$arrived = time;
				next;
			}
			push @way, [ time + $self->{delay}, $from, $data ];
		}
		while (@way && $way[0][0] <= time)
		{
			my (undef, $from, $data) = @{ shift @way };
			my $to = $peer{$from} // next;
			if (!defined $data)
			{
				$select->remove($from, $to);
				delete @$_{ $from, $to } foreach (\%peer, \%is_client, \%waits, \%lost);
				close $_ foreach ($from, $to);
				next;
			}
			$self->write_number($self->{counter}, ++$n) if delete $waits{$to};
			while (length $data)
			{
				my $sent = syswrite $to, $data;
				last if !defined $sent;
				substr $data, 0, $sent, '';
			}
		}
	}
	return;
}

sub write_number
{
	my ($self, $name, $n) = @_;
	open my $file, '>', "$name.new" or die "$name: $!";
	print $file $n;
	close $file;
	rename "$name.new", $name;
	return;
}

# how much it has grown since the last time
sub read_number
{
	my ($self, $name) = @_;
	my $n = 0;
	if (open my $file, '<', $name)
	{
		$n = <$file>;
		close $file;
	}
	my $grown = $n - ($self->{before}{$name} // 0);
	$self->{before}{$name} = $n;
	return $grown;
}

sub swallow
{
	my ($self) = @_;
	open my $file, '>', $self->{swallowing} or die "$self->{swallowing}: $!";
	close $file;
	return;
}

sub hold
{
	my ($self, $n) = @_;
	$self->write_number($self->{holding}, $n);
	return;
}

# how many clients must have sent something
sub together
{
	my ($self) = @_;
	open my $file, '<', $self->{holding} or return 0;
	return <$file>;
}

sub flow
{
	my ($self) = @_;
	unlink $self->{swallowing}, $self->{holding};
	return;
}

sub taken { my ($self) = @_; return $self->read_number($self->{counter}) }
sub alone { my ($self) = @_; return $self->read_number($self->{lonely}) }

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

# Stops transactions of a server when they have committed on its disk: they wait
# for a synchronous standby that does not exist.
#
#   my $commits = HeldCommits->new($node);
#   $commits->hold;        # from now on
#   $commits->release;     # they go on
#   $commits->forget;      # the server was stopped meanwhile, and is started later
package HeldCommits;

use strict;
use warnings;
use IPC::Run;
use PostgreSQL::Test::Utils;

sub new
{
	my ($class, $node) = @_;
	return bless { node => $node, held => [] }, $class;
}

# The first that waits has sent a notification, so that others who send one wait
# before their commits.
sub hold
{
	my ($self) = @_;
	my $node = $self->{node};
	$node->safe_psql('postgres', q(ALTER SYSTEM SET synchronous_standby_names = 'nobody'));
	$node->reload;
	for (;;)
	{
		my ($out, $err) = ('', '');
		my $probe = IPC::Run::start([ 'psql', '-XAtqd', $node->connstr('postgres'),
				'-c', q(BEGIN; SELECT pg_logical_emit_message(true, 'x', 'x'); NOTIFY nobody; COMMIT) ], '>', \$out, '2>', \$err);
		push @{ $self->{held} }, $probe;
		while ($probe->pumpable)
		{
			return if $node->safe_psql('postgres', q(SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%NOTIFY nobody%' AND wait_event = 'SyncRep')) eq 't';
			$probe->pump_nb;
		}
	}
}

sub release
{
	my ($self) = @_;
	$self->{node}->safe_psql('postgres', 'ALTER SYSTEM RESET synchronous_standby_names');
	$self->{node}->reload;
	$_->finish foreach splice @{ $self->{held} };
	return;
}

sub forget
{
	my ($self) = @_;
	$self->{node}->append_conf('postgresql.auto.conf', q(synchronous_standby_names = ''));
	$_->finish foreach splice @{ $self->{held} };
	return;
}

1;

# README's "First use", done: every block of it in its order, as it is written,
# on two servers.  Each line of a text block must be among what the sql block
# before it has printed, whatever the width of the columns.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $control_plane = PostgreSQL::Test::Cluster->new('control_plane');
my $store = PostgreSQL::Test::Cluster->new('store');
$_->init, $_->start foreach ($control_plane, $store);
# a database of UTF8, as a reader has one
$control_plane->safe_psql('postgres', q(CREATE DATABASE control_plane TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C.UTF-8'));

# Shell commands go to the control plane where they name no host.
$ENV{PGHOST} = $control_plane->host;
$ENV{PGPORT} = $control_plane->port;

my ($page) = slurp_file('README.md') =~ /^(## First use.*?)^## /ms;
my ($host, $port) = ($store->host, $store->port);
is($page =~ s/-h run-ops\.example/-h $host -p $port/g, 2, 'the address of the store, for its tools');
is($page =~ s/host 'run-ops\.example', port '5432'/host '$host', port '$port'/g, 1, '... and for the control plane');
my @blocks;
push @blocks, [ $1, $2 ] while $page =~ /^```(\w[^\n]*)\n(.*?)^```$/msg;
cmp_ok(scalar @blocks, '>', 12, 'there are blocks');

my $printed = '';
foreach my $block (@blocks)
{
	my ($place, $text) = @$block;
	my ($first) = $text =~ /^(.*)$/m;
	if ($place eq 'text')
	{
		my %printed = map { squeeze($_) => 1 } split /\n/, $printed;
		is_deeply([ grep { !$printed{$_} } map { squeeze($_) } split /\n/, $text ], [], "its output: $first")
		  or diag("printed was:\n$printed");
		next;
	}
	my @command =
	    $place eq 'sh' ? ('bash', '-e', '-o', 'pipefail')
	  : $place eq 'sql' ? ('psql', '-X', '-v', 'ON_ERROR_STOP=1', '-d', $control_plane->connstr('control_plane'), '-f', '-')
	  : $place eq 'sql store' ? ('psql', '-X', '-v', 'ON_ERROR_STOP=1', '-d', $store->connstr('run_ops'), '-f', '-')
	  : die "where does a block of $place run?";
	my ($out, $err) = ('', '');
	my $status = IPC::Run::run(\@command, '<', \$text, '>', \$out, '2>', \$err,
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	ok($status, "runs: $first");
	# what a tool complains of, it may go on after
	unlike($err, qr/ERROR|FATAL|error:/, '... without an error') or diag($err);
	$printed = $out;
}

# what the page says of what it leaves
is($control_plane->safe_psql('control_plane', q(SELECT count(*) FROM pg_trigger WHERE tgname LIKE '%run\_ops%')), '0',
	'nothing is left on the tables');
is($control_plane->safe_psql('control_plane', q(SELECT has_table_privilege('app', 'routed."TaskRun"', 'UPDATE'),
	has_table_privilege('app', '"TaskRun"', 'SELECT'))), 't|f', 'the application has privileges on the view, and needs none on the table');

# columns are as wide as their widest value, which a page may leave out
sub squeeze
{
	my ($line) = @_;
	$line =~ s/-+/-/g if $line =~ /^[-+ ]+$/;
	$line =~ s/\s+/ /g;
	$line =~ s/^ | $//g;
	return $line;
}

done_testing();

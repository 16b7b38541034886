# The rooms of src: a file includes headers of its own room and of lower ones
# only, no two files include each other in a circle, and nothing includes a
# header of the file that initialises the rest.  The Makefile names the rooms
# in the same order.

use strict;
use warnings;
use File::Basename;
use PostgreSQL::Test::Utils;
use Test::More;

# from the lowest to the highest; reads and writes stand side by side
my @floors = (['ground'], ['ids'], ['wire'], ['stores'], [ 'reads', 'writes' ], ['switch'], ['control_plane'], ['watch']);
my %floor;
foreach my $n (0 .. $#floors)
{
	$floor{$_} = $n foreach @{ $floors[$n] };
}

my (%includes, @upward, @init);
foreach my $file (glob('src/*.[ch] src/*/*.[ch]'))
{
	(my $name = $file) =~ s{^src/}{};
	my ($room) = $name =~ m{^(\w+)/};
	foreach my $header (slurp_file($file) =~ /^#include "((?:\w+\/)?\w+\.h)"$/mg)
	{
		next if !-e "src/$header" && !-e dirname($file) . "/$header";
		push @{ $includes{$name} }, $header;
		push @init, "$name: $header" if $header =~ /^run_ops_split\.h$/;
		# run_ops_split.c stands above all rooms
		next if !defined $room;
		my ($other) = $header =~ m{^(\w+)/};
		push @upward, "$name: $header"
		  if !defined $other || $other ne $room && $floor{$other} >= $floor{$room};
	}
	ok(!defined $room || exists $floor{$room}, "$file is in a known room");
}
is_deeply(\@upward, [], 'no file includes a header of a higher room, or of the one beside');
is_deeply(\@init, [], 'nothing includes a header of the file with _PG_init');

# A header stands for what it declares: its C file may be looked into through it.
my %state;
my @circles;
sub visit
{
	my ($name, @path) = @_;
	if (($state{$name} // '') eq 'open')
	{
		push @circles, join ' -> ', @path, $name;
		return;
	}
	return if $state{$name};
	$state{$name} = 'open';
	(my $unit = $name) =~ s/\.[ch]$//;
	foreach my $file ("$unit.h", "$unit.c")
	{
		foreach my $header (@{ $includes{$file} // [] })
		{
			(my $other = $header) =~ s/\.h$//;
			visit($other, @path, $unit) if $other ne $unit;
		}
	}
	$state{$name} = 'closed';
	return;
}
visit(s/\.[ch]$//r) foreach sort keys %includes;
is_deeply(\@circles, [], 'no circle of files');

my $makefile = slurp_file('Makefile');
foreach my $list ('MODULES_C', 'SQL_PARTS')
{
	my ($parts) = $makefile =~ /^$list = ((?:.*\\\n)*.*\n)/m;
	my @rooms = $parts =~ m{(\w+)/\w+}g;
	my @order = map { $floor{$_} } @rooms;
	is_deeply(\@order, [ sort { $a <=> $b } @order ], "$list follows the rooms");
	my $ext = $list eq 'SQL_PARTS' ? 'sql' : 'c';
	is_deeply([ sort $parts =~ m{((?:\w+/)?\w+)(?: \\)?\n}g ],
		[ sort map { s{^src/}{}r =~ s/\.$ext$//r } glob("src/*.$ext src/*/*.$ext") ], "$list names every file");
}

done_testing();

# The folders of src/ are rooms.  A file includes headers of its own room and of
# lower rooms only, and the Makefile lists the rooms from the lowest to the
# highest.  No files need each other in a circle, and nothing includes a header
# of the file with _PG_init.
use strict;
use warnings;
use Test::More;

# from the lowest to the highest; rooms in one line do not include each other
my @floors = (
	['ground'],
	['ids'],
	['wire'],
	['stores'],
	['reads'],
	['writes'],
	['switch'],
	['control_plane'],
	['watch'],
	# run_ops_split.c, which calls the init function of each module
	['']);
my %floor;
foreach my $i (0 .. $#floors)
{
	$floor{$_} = $i foreach @{ $floors[$i] };
}

sub slurp
{
	my ($path) = @_;
	open my $file, '<', $path or die "$path: $!";
	local $/ = undef;
	return <$file>;
}

sub room { return $_[0] =~ m{^(.*)/} ? $1 : '' }

# a C file and its header are one
sub module { return $_[0] =~ s/\.[ch]$//r }

# file => its text, by the names that #include uses
my %text = map { s{^src/}{}r => scalar slurp($_) } glob 'src/*.[ch] src/*/*.[ch]';
is_deeply([ grep { !exists $floor{ room($_) } } sort keys %text ], [], 'every room is one that this test knows');

my %include;
foreach my $file (keys %text)
{
	$include{$file} = [ $text{$file} =~ /^\s*#\s*include\s*"([^"]+)"/mg ];
}

# --- who may include whom ----------------------------------------------------

my (@no_room, @upwards, %needs);
foreach my $file (sort keys %include)
{
	foreach my $header (@{ $include{$file} })
	{
		# the compiler would find it beside the file that includes it
		push @no_room, "$file includes \"$header\""
		  if $header =~ /^\./ || exists $text{ room($file) . "/$header" } && room($file) ne '';
		next unless exists $text{$header};
		my ($from, $to) = (room($file), room($header));
		push @upwards, "$file includes \"$header\""
		  if $from ne $to && $floor{$to} >= $floor{$from};
		$needs{ module($file) }{ module($header) } = 1 if module($file) ne module($header);
	}
}
is_deeply(\@no_room, [], 'an #include names the room');
is_deeply(\@upwards, [], 'a room includes lower rooms only');

# --- no circles --------------------------------------------------------------

my (%state, @circles);

sub visit
{
	my ($module, @path) = @_;
	if (($state{$module} // '') eq 'open')
	{
		shift @path while $path[0] ne $module;
		push @circles, join(' -> ', @path, $module);
	}
	return if $state{$module};
	$state{$module} = 'open';
	visit($_, @path, $module) foreach sort keys %{ $needs{$module} };
	$state{$module} = 'done';
}
visit($_) foreach sort keys %needs;
is_deeply(\@circles, [], 'no files need each other in a circle');

# a header with functions of another file would hide that its own file needs it
my @elsewhere;
foreach my $header (grep { /\.h$/ } sort keys %text)
{
	my $code = $text{ module($header) . '.c' } // '';
	foreach my $declaration ($text{$header} =~ /^extern\s+([^;]+);/mg)
	{
		my ($name) = $declaration =~ /\(\*(\w+)\)/ ? $1 : $declaration =~ /(\w+)\s*(?:[(\[]|$)/;
		push @elsewhere, "$header declares $name" if $code !~ /^(?:(?!static|extern)\w.*\W)?$name\b/m;
	}
}
is_deeply(\@elsewhere, [], 'what a header declares is in the C file of its name');

# --- the file of the inits ---------------------------------------------------

my @inits = grep { $text{$_} =~ /^_PG_init\(/m } sort keys %text;
is_deeply(\@inits, ['run_ops_split.c'], 'one file has _PG_init');
is_deeply([ grep { $needs{$_}{ module($inits[0]) } } sort keys %needs ], [], 'nothing includes a header of it');

# --- the Makefile ------------------------------------------------------------

my $makefile = slurp('Makefile');
my %list = (MODULES_C => 'c', SQL_PARTS => 'sql');
foreach my $name (sort keys %list)
{
	my ($lines) = $makefile =~ /^$name = \\\n((?:\t.*\n)+)/m or die "the Makefile has no $name";
	my @files = grep { $_ ne 'run_ops_split' } split ' ', $lines =~ s/\\$//mgr;
	my @there = map { m{^src/(.*)\.}; $1 } glob "src/*/*.$list{$name}";
	is_deeply([ sort @files ], [ sort @there ], "$name has every file");

	my (@rooms, @before, %seen);
	foreach my $file (@files)
	{
		push @rooms, room($file) unless @rooms && $rooms[-1] eq room($file);
		push @before, map { "$file needs $_" } grep { room($_) eq room($file) && exists $text{"$_.c"} && !$seen{$_} } sort keys %{ $needs{$file} }
		  if $name eq 'MODULES_C';
		$seen{$file} = 1;
	}
	my %wanted = map { $_ => 1 } @rooms;
	is_deeply(\@rooms, [ grep { $wanted{$_} } map { @$_ } @floors ], "$name has the rooms from the lowest to the highest");
	is_deeply(\@before, [], 'within a room, what is needed comes first') if $name eq 'MODULES_C';
}

# --- the preset --------------------------------------------------------------

# the tables of the control plane and of the run graph, and their columns
my $names = qr/TaskRun|BatchTask|Waitpoint|RuntimeEnvironment|Organization|WorkerDeployment|BackgroundWorker
	|(?:run|taskRun|batchTaskRun|environment|project|organization|friendly)Id\b/x;
is_deeply([ grep { !m{^src/control_plane/} && slurp($_) =~ $names } glob 'src/*/*.{c,h,sql}' ], [],
	'only control_plane names tables of one product');

# a file is found by its name alone; scripts/coverage relies on it
my %paths;
push @{ $paths{ s{^.*/}{}r } }, $_ foreach glob 'src/* src/*/*';
is_deeply([ map { @$_ } grep { @$_ > 1 } values %paths ], [], 'no two files have the same name');

done_testing();

# The version is said in one place, the control file; every other place agrees.
# META.json has what the PGXN meta spec requires.
use strict;
use warnings;
use Digest::SHA;
use JSON::PP;
use Test::More;

sub slurp
{
	my ($path) = @_;
	open my $file, '<', $path or die "$path: $!";
	local $/ = undef;
	return <$file>;
}

my ($version) = slurp('run_ops_split.control') =~ /^default_version = '(\d+\.\d+\.\d+)'$/m
  or BAIL_OUT('run_ops_split.control has no default_version of three numbers');

my $meta = JSON::PP->new->decode(slurp('META.json'));
is($meta->{version}, $version, 'META.json');
is($meta->{provides}{run_ops_split}{version}, $version, 'META.json, what it provides');
is((slurp('CHANGELOG.md') =~ /^## (\S+)/m)[0], $version, 'the newest entry of CHANGELOG.md');
is((slurp('debian/changelog') =~ /^run-ops-split \((\S+)-\d+\)/m)[0], $version, 'the newest entry of debian/changelog');

# https://pgxn.org/meta/spec.txt
ok(length($meta->{$_} // ''), "META.json says its $_") foreach qw(name abstract license maintainer);
is($meta->{name}, 'run_ops_split', 'the name of the distribution');
is($meta->{'meta-spec'}{version}, '1.0.0', 'the version of the spec');
like($meta->{'meta-spec'}{url}, qr{^https?://pgxn\.org/meta/spec\.txt$}, 'the address of the spec');
foreach my $extension (keys %{ $meta->{provides} })
{
	my $provided = $meta->{provides}{$extension};
	ok(-e $provided->{$_}, "$extension: the $_ of META.json is there") foreach qw(file docfile);
}
foreach my $required (values %{ $meta->{prereqs}{runtime}{requires} })
{
	like($required, qr/^(0|\d+\.\d+\.\d+)$/, 'what is required has a semantic version, or any');
}

# What was released does not change.
my %frozen = reverse slurp('test/released/SHA256SUMS') =~ /^(\S+)  (\S+)$/mg;
is_deeply({ map { m{([^/]*)$}; $1 => Digest::SHA->new(256)->addfile($_)->hexdigest } glob 'test/released/*.sql' },
	\%frozen, 'the install scripts of released versions are as they were');

# A script from each released version to the next, and the last one to this.
my %step;
foreach my $script (glob 'upgrade/run_ops_split--*.sql')
{
	my ($from, $to) = $script =~ m{--(\d+\.\d+\.\d+)--(\d+\.\d+\.\d+)\.sql$} or die "what is $script?";
	$step{$from} = $to;
	isnt($from, $version, "$script starts from a released version");
	# make adds what is new in this version; a script of an earlier one is as it was
	# released
	my $incomplete = slurp($script) =~ /^-- new statements$/m;
	is($incomplete ? 'built' : 'as released', $to eq $version ? 'built' : 'as released', "$script is complete, or make completes it");
}
foreach my $released (keys %step)
{
	my $at = $released;
	$at = $step{$at} while defined $at && $at ne $version;
	is($at, $version, "$released can be upgraded to $version");
}

done_testing();

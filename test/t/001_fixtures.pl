# The fixtures: both schemas load, rows are a function of the seed, ids have the
# shape of their side, and the two databases differ where the real ones do.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my %node;
my %schema = (legacy => 'control_plane', new => 'store');
for my $side (sort keys %schema)
{
	$node{$side} = PostgreSQL::Test::Cluster->new($schema{$side});
	$node{$side}->init;
	$node{$side}->start;
}

sub run_file
{
	my ($side, $db, $file, @settings) = @_;
	my ($out, $err);
	my $ok = IPC::Run::run(
		[
			'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', @settings,
			'-d', $node{$side}->connstr($db),
			'-f', "test/fixtures/$file.sql"
		],
		'>', \$out, '2>', \$err);
	ok($ok && "$out$err" eq '', "$file loads into $side/$db without a word")
	  or diag("$out$err");
}

sub fill
{
	my ($side, $db, $seed) = @_;
	$node{$side}->safe_psql('postgres', "CREATE DATABASE $db");
	run_file($side, $db, $schema{$side});
	run_file($side, $db, 'generate', '-v', "side=$side", '-v', "seed=$seed",
		'-v', 'runs=200');
}

# one line a table: its rows, whatever their physical order
sub checksums
{
	my ($side, $db) = @_;
	return $node{$side}->safe_psql($db, q{
		SELECT oid::regclass, query_to_xml(format(
			'SELECT count(*), md5(string_agg(t::text, chr(10) ORDER BY t::text COLLATE "C")) FROM %s t',
			oid::regclass), false, true, '')
		FROM pg_class
		WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
		ORDER BY relname});
}

# the same catalog query on both sides
sub both
{
	my ($query) = @_;
	return map { [ split /\n/, $node{$_}->safe_psql('a', $query) ] }
	  qw(legacy new);
}

for my $side (sort keys %schema)
{
	fill($side, 'a', 1);
	fill($side, 'b', 1);
	fill($side, 'c', 2);
	my $sums = checksums($side, 'a');
	is(checksums($side, 'b'), $sums, "$side: the same seed, the same rows");
	isnt(checksums($side, 'c'), $sums, "$side: another seed, other rows");
	unlike($sums, qr/<count>0</, "$side: every table has rows");
}

# --- ids --------------------------------------------------------------------

my %shape = (
	legacy => '^c[0-9a-z]{24}$',
	new => '^([0-9A-Za-z]{27}|[0-9a-v]{24}[a-z0-9]1)$');
for my $side (sort keys %shape)
{
	is( $node{$side}->safe_psql('a', qq{
			SELECT count(*) FROM (SELECT id FROM "TaskRun"
				UNION ALL SELECT id FROM "BatchTaskRun") r
			WHERE id !~ '$shape{$side}'}),
		0, "$side: runs and batches have ids of this side");
	is( $node{$side}->safe_psql('a', qq{
			SELECT count(*) FROM (SELECT id FROM "Waitpoint"
				UNION ALL SELECT id FROM "TaskRunWaitpoint"
				UNION ALL SELECT id FROM "TaskRunExecutionSnapshot"
				UNION ALL SELECT id FROM "TaskRunAttempt"
				UNION ALL SELECT id FROM "BatchTaskRunItem"
				UNION ALL SELECT id FROM "Checkpoint") r
			WHERE id !~ '$shape{legacy}'}),
		0, "$side: all others have cuids");
}
is( $node{new}->safe_psql('a',
		'SELECT DISTINCT length(id) FROM "TaskRun" ORDER BY 1'),
	"26\n27", 'new: both formats occur');
cmp_ok(
	$node{legacy}->safe_psql('a',
		q{SELECT count(*) FROM "TaskRun" WHERE "friendlyId" ~ '^run_.{21}$'}),
	'>', 0, 'legacy: some friendly ids are short ones');

# --- what spans the two -------------------------------------------------------

my ($legacy_envs, $new_envs) = both(
	'SELECT DISTINCT "runtimeEnvironmentId" FROM "TaskRun" ORDER BY 1');
is_deeply($legacy_envs, $new_envs, 'both sides run in the same environments');
is( $node{legacy}->safe_psql('a', qq{
		SELECT count(*) FROM "RuntimeEnvironment"
		WHERE id IN ('@{[join "','", @$new_envs]}')}),
	scalar @$new_envs, '... which the control plane knows');

my ($legacy_far, $new_far) = both(
	'SELECT "waitpointId" FROM "TaskRunWaitpoint" w WHERE NOT EXISTS
		(SELECT FROM "Waitpoint" p WHERE p.id = w."waitpointId")');
for ([ legacy => new => $legacy_far ], [ new => legacy => $new_far ])
{
	my ($from, $to, $far) = @$_;
	cmp_ok(@$far, '>', 0, "$from: runs wait across the seam");
	is( $node{$to}->safe_psql('a', qq{
			SELECT count(*) FROM "Waitpoint"
			WHERE id IN ('@{[join "','", @$far]}')}),
		scalar @$far, "... for waitpoints that are in $to");
}

# the newest 40 of the two: neither side is older than all of the other
my ($legacy_page, $new_page) = both(
	'SELECT extract(epoch FROM "createdAt") FROM "TaskRun"
	 ORDER BY "createdAt" DESC LIMIT 40');
ok( $legacy_page->[0] > $new_page->[-1] && $new_page->[0] > $legacy_page->[-1],
	'a newest-first page mixes both sides');

# --- the real differences -------------------------------------------------------

my ($cp, $store) = both(
	q{SELECT relname || ' ' || string_agg(attname, ',' ORDER BY attnum)
	  FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid
	  WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
		AND attnum > 0 AND NOT attisdropped
	  GROUP BY relname ORDER BY relname});
my %cp = map { split / / } @$cp;
my %store = map { split / / } @$store;
my @shared = grep { exists $cp{$_} } sort keys %store;
is(@shared, 14, '14 shared tables');
is_deeply(
	[ map { join ',', sort split /,/, $cp{$_} } @shared ],
	[ map { join ',', sort split /,/, $store{$_} } @shared ],
	'with the same columns');
is((grep { $cp{$_} ne $store{$_} } @shared), 9, 'nine of them in another order');
is_deeply(
	[ grep { !exists $cp{$_} } sort keys %store ],
	[qw(CompletedWaitpoint WaitpointRunConnection)],
	'two join tables are of the store alone');
ok(exists $cp{_completedWaitpoints} && exists $cp{_WaitpointRunConnections},
	'and have their counterparts');

($cp, $store) = both(
	q{SELECT typname || ' ' || string_agg(enumlabel, ',' ORDER BY enumsortorder)
	  FROM pg_type t JOIN pg_enum ON enumtypid = t.oid
	  GROUP BY typname ORDER BY typname});
%cp = map { split / / } @$cp;
%store = map { split / / } @$store;
is_deeply(
	[ grep { $cp{$_} ne $store{$_} } sort keys %store ],
	[qw(BatchTaskRunStatus TaskRunExecutionStatus TaskRunStatus)],
	'three enums have another label order');

done_testing();

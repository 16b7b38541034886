# Eight sessions mint a million ids each at the same time, of all kinds, with
# the library preloaded: no id twice, each of its kind, and in order of time.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use IPC::Run;
use Test::More;

my $sessions = 8;
my $each = 1_000_000;

my $node = PostgreSQL::Test::Cluster->new('mint');
$node->init(extra => [ '--encoding', 'UTF8', '--locale', 'C' ]);
$node->append_conf('postgresql.conf', q{
fsync = off
# what the postmaster holds, all backends would inherit
shared_preload_libraries = 'run_ops_split'
maintenance_work_mem = 512MB
});
$node->start;
$node->safe_psql('postgres', q{
  SET client_min_messages = warning;
  CREATE EXTENSION run_ops_split CASCADE;
  CREATE UNLOGGED TABLE minted (id text COLLATE "C") WITH (autovacuum_enabled = off);
});

# The lock holds all of them back until the last one is there.
my $gate = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ],
	'<', \my $gate_in, '>', \my $gate_out);
$gate_in = "SELECT 'held' FROM pg_advisory_lock(1);\n";
IPC::Run::pump($gate) until $gate_out =~ /held/;
my @running = map {
	IPC::Run::start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'),
			'-c', 'SELECT FROM pg_advisory_lock_shared(1)',
			'-c', "INSERT INTO minted
			  SELECT CASE i % 4 WHEN 0 THEN run_ops.generate_cuid()
			                    WHEN 1 THEN run_ops.generate_ksuid()
			                    WHEN 2 THEN run_ops.generate_run_ops_id()
			                    ELSE run_ops.generate_run_ops_id_v2('a') END
			    FROM generate_series(1, $each) i" ], '<', \undef, '>', '/dev/null')
} 1 .. $sessions;
$node->poll_query_until('postgres',
	"SELECT count(*) = $sessions FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
  or die 'the sessions did not arrive';
$gate_in .= "\\q\n";
ok(IPC::Run::finish($gate), 'the sessions start together');
ok(IPC::Run::finish($_), 'a session has minted') for @running;

is($node->safe_psql('postgres',
		'SELECT run_ops.classify_kind(id), run_ops.resolve_shard(id), count(*)
		   FROM minted GROUP BY 1, 2 ORDER BY 1, 2'),
	join("\n", map { "$_|" . $sessions * $each / 4 } 'cuid|legacy', 'ksuid|new', 'runOpsId|a', 'runOpsId|new'),
	'every id is of its kind');
my ($ret, $out, $err) = $node->psql('postgres', 'CREATE UNIQUE INDEX ON minted (id)');
is("$ret $err", '0 ', 'no id twice');

# Under byte order for all, and for runOpsIds under a language's rules as well.
foreach my $case ([ 'C', qw(cuid ksuid runOpsId) ], [ 'und-x-icu', 'runOpsId' ])
{
	my ($collation, @kinds) = @$case;
  SKIP:
	{
		skip "this server was built without ICU", scalar @kinds
		  unless $node->safe_psql('postgres',
			"SELECT 1 FROM pg_collation WHERE collname = '$collation'");
		is($node->safe_psql('postgres', qq{
			SELECT count(*) FROM (
			  SELECT run_ops.id_timestamp(id) AS at,
			         lag(run_ops.id_timestamp(id)) OVER (ORDER BY id COLLATE "$collation") AS before
			    FROM minted TABLESAMPLE SYSTEM (2) REPEATABLE (1)
			   WHERE run_ops.classify_kind(id) = '$_') o
			 WHERE at < before}), '0', "$_ sorts by time under $collation")
		  for @kinds;
	}
}

done_testing();

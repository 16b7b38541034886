# The cleanup as a job of pg_cron, where that is installed: as docs/writes.md
# says.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use SplitServers;
use Test::More;

my ($share) = run_command([ 'pg_config', '--sharedir' ]);
plan skip_all => 'pg_cron is not installed' unless -e "$share/extension/pg_cron.control";

my ($control_plane, $store) = split_servers();
$control_plane->append_conf('postgresql.conf',
	"shared_preload_libraries = 'pg_cron'\ncron.database_name = 'postgres'\ncron.host = '" . $control_plane->host . "'");
$control_plane->restart;
$_->safe_psql('postgres', q(CREATE TABLE "TaskRun" (id text PRIMARY KEY, "runtimeEnvironmentId" text NOT NULL)))
  foreach ($control_plane, $store);
$control_plane->safe_psql('postgres', q(
	CREATE TABLE "Project" (id text PRIMARY KEY);
	CREATE TABLE "RuntimeEnvironment" (id text PRIMARY KEY);
	INSERT INTO "RuntimeEnvironment" VALUES ('env');
	SELECT run_ops.attach_table('"TaskRun"', 'shape');
	SELECT run_ops.attach_cleanup();
	SELECT run_ops.enable_split();
	SET run_ops_split.cross_store_writes = allow;
	INSERT INTO run_ops."TaskRun" SELECT run_ops.generate_cuid(), 'env' FROM generate_series(1, 50) UNION ALL
	SELECT run_ops.generate_ksuid(), 'env' FROM generate_series(1, 50);
	CREATE EXTENSION pg_cron;
	SELECT cron.schedule('run_ops cleanup', '* * * * *', 'CALL run_ops.cleanup(batch_size => 7)');
	DELETE FROM "RuntimeEnvironment"));
ok($control_plane->poll_query_until('postgres', 'SELECT count(*) = 0 FROM run_ops.cleanup_queue'), 'the job works the queue off');
is($control_plane->safe_psql('postgres', 'SELECT count(*) FROM run_ops."TaskRun"'), '0', 'nothing is left');
is($control_plane->safe_psql('postgres', q(SELECT store, deleted FROM run_ops.cleanup_log WHERE event = 'end' ORDER BY store)),
	qq(legacy|{"TaskRun": 50}\nnew|{"TaskRun": 50}), 'in either store');
ok($control_plane->poll_query_until('postgres', q(SELECT count(*) >= 1 FROM cron.job_run_details WHERE status = 'succeeded')),
	'the job says that it succeeded');

done_testing();

# The cleanup of an environment with 100,000 runs holds locks on the rows of
# one batch only; and with one store down, the other one is cleaned up.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use SplitServers;
use Test::More;

my $batch = 1000;
my $half = 50_000;

my ($control_plane, $store) = split_servers();
$_->safe_psql('postgres', q(
	CREATE TABLE "TaskRun" (id text PRIMARY KEY, "runtimeEnvironmentId" text NOT NULL);
	CREATE INDEX ON "TaskRun" ("runtimeEnvironmentId");
	CREATE TABLE "TaskRunAttempt" (id text PRIMARY KEY, "taskRunId" text NOT NULL);
	CREATE INDEX ON "TaskRunAttempt" ("taskRunId"))) foreach ($control_plane, $store);
$control_plane->safe_psql('postgres', q(
	CREATE TABLE "Project" (id text PRIMARY KEY);
	CREATE TABLE "RuntimeEnvironment" (id text PRIMARY KEY, "projectId" text REFERENCES "Project");
	INSERT INTO "Project" VALUES ('p');
	INSERT INTO "RuntimeEnvironment" VALUES ('big', 'p'), ('other', 'p'), ('third', 'p');
	SELECT run_ops.attach_table('"TaskRun"', 'shape'), run_ops.attach_table('"TaskRunAttempt"', 'anchor', 'taskRunId');
	SELECT run_ops.attach_cleanup();
	SELECT run_ops.enable_split()));

# half of the runs in each store, every tenth with an attempt
foreach my $node ($control_plane, $store)
{
	foreach my $env ([ big => $half ], [ other => 100 ], [ third => 100 ])
	{
		my ($name, $n) = @$env;
		my $digits = $node == $store ? 26 : 24;
		my $id = "'run_" . substr($name, 0, 1) . "' || lpad(i::text, $digits, '0')";
		$node->safe_psql('postgres', qq(
			INSERT INTO "TaskRun" SELECT $id, '$name' FROM generate_series(1, $n) AS i;
			INSERT INTO "TaskRunAttempt" SELECT '$name' || i, $id FROM generate_series(10, $n, 10) AS i;
			ANALYZE "TaskRun", "TaskRunAttempt"));
	}
}
is(failing_gates($control_plane), '', 'every row is where it belongs');

sub left
{
	my ($node, $env) = @_;
	return $node->safe_psql('postgres', qq(SELECT count(*) FROM "TaskRun" WHERE "runtimeEnvironmentId" = '$env'));
}

# All rows of the environment can be locked at once.
sub lockable
{
	my ($node, $env, $what) = @_;
	my ($ret, $out, $err) = $node->psql('postgres',
		qq(SELECT count(*) FROM (SELECT FROM "TaskRun" WHERE "runtimeEnvironmentId" = '$env' FOR UPDATE NOWAIT) AS x;));
	is("$out$err", '100', "$what: no row of another environment is locked");
	return;
}

# Each store in turn has a row that somebody holds, so that cleanup stops there
# in the middle of a batch.
$control_plane->safe_psql('postgres', q(DELETE FROM "RuntimeEnvironment" WHERE id = 'big'));
my %holder;
foreach my $node ($control_plane, $store)
{
	$holder{$node} = $node->background_psql('postgres');
	$holder{$node}->query_safe('BEGIN');
	$holder{$node}->query_safe(
		q(SELECT FROM "TaskRun" WHERE id = (SELECT id FROM "TaskRun" WHERE "runtimeEnvironmentId" = 'big'
			ORDER BY id OFFSET 25500 LIMIT 1) FOR UPDATE));
}
my ($out, $err) = ('', '');
my $cleanup = IPC::Run::start([ 'psql', '-XAtqd', $control_plane->connstr('postgres'), '-c', "CALL run_ops.cleanup($batch)" ],
	'>', \$out, '2>', \$err);
foreach (1 .. 2)
{
	my $waiting = q(SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND locktype = 'transactionid');
	my $at;
	foreach (1 .. 1800)
	{
		($at) = grep { $holder{$_} && $_->safe_psql('postgres', $waiting) eq 't' } ($control_plane, $store);
		last if $at;
		select undef, undef, undef, 0.1;
	}
	BAIL_OUT("cleanup did not come to a held row: $err") unless $at;
	my $name = $at->name;
	my $left = left($at, 'big');
	cmp_ok($left, '>', 0, "$name: some rows are left");
	cmp_ok($left, '<', $half, "$name: some are gone, in transactions that are over");
	is($left % $batch, 0, "$name: by whole batches");
	foreach my $node ($control_plane, $store)
	{
		my $free = $node->safe_psql('postgres', q(SELECT count(*) FROM
			(SELECT FROM "TaskRun" WHERE "runtimeEnvironmentId" = 'big' FOR UPDATE SKIP LOCKED) AS x));
		# one more where a row is held by the holder, in a batch to come
		my $locked = left($node, 'big') - $free;
		cmp_ok($locked, '<=', $node == $at ? $batch : 1, "$name: the rows of one batch are locked in " . $node->name);
		lockable($node, $_, "$name, in " . $node->name) foreach 'other', 'third';
	}
	# nor does it keep others from deleting environments
	my $before = $control_plane->safe_psql('postgres', 'SELECT count(*) FROM run_ops.cleanup_queue');
	is($control_plane->safe_psql('postgres', q(
		SET lock_timeout = '1ms';
		BEGIN; DELETE FROM "RuntimeEnvironment" WHERE id = 'other';
		SELECT count(*) FROM run_ops.cleanup_queue; ROLLBACK)), $before + 2, "$name: another one may be deleted");
	$holder{$at}->query_safe('COMMIT');
	$holder{$at}->quit;
	delete $holder{$at};
}
$cleanup->finish;
is($err, '', 'the cleanup ends');
is($control_plane->safe_psql('postgres', q(
	SELECT store, deleted ->> 'TaskRun', deleted ->> 'TaskRunAttempt' FROM run_ops.cleanup_log WHERE event = 'end' ORDER BY store)),
	"legacy|$half|5000\nnew|$half|5000", 'and has counted every row');
is($control_plane->safe_psql('postgres', 'SELECT count(*) FROM run_ops.cleanup_queue'), 0, 'nothing is left to do');
foreach my $node ($control_plane, $store)
{
	is($node->safe_psql('postgres', 'SELECT count(*), (SELECT count(*) FROM "TaskRunAttempt") FROM "TaskRun"'), '200|20',
		'other environments are as they were in ' . $node->name);
}

# A store that is down keeps nobody from deleting, and the others are cleaned
# up; what belongs to it stays in the queue, with the reason.
$store->stop;
$control_plane->safe_psql('postgres', q(DELETE FROM "RuntimeEnvironment" WHERE id = 'other'));
$control_plane->safe_psql('postgres', 'CALL run_ops.cleanup()');
is(left($control_plane, 'other'), 0, 'store down: the rows here are gone');
like($control_plane->safe_psql('postgres', 'SELECT scope, id, store, failed_at IS NOT NULL, error FROM run_ops.cleanup_progress'),
	qr/^environment\|other\|new\|t\|store "new" cannot be reached/, 'store down: the rest is queued with the reason');
my $ret;
($ret, $out, $err) = $control_plane->psql('postgres', q(SELECT run_ops.cleanup_environment('other')));
like($err, qr/cannot clean up store "new".*cannot be reached/s, 'store down: doing it at once is an error');
$store->start;
is(left($store, 'other'), 100, 'nothing was done there');
$control_plane->safe_psql('postgres', 'CALL run_ops.cleanup()');
is(left($store, 'other'), 0, 'store up: its rows go');
is($control_plane->safe_psql('postgres', 'SELECT count(*) FROM run_ops.cleanup_queue'), 0, 'store up: the queue is empty');
is($control_plane->safe_psql('postgres', 'SELECT count(*) FROM run_ops."TaskRun"'), 200, 'the third environment is as it was');

done_testing();

# Eight clients write and read while split mode goes on and off twenty times,
# with all rows brought back each time: no client sees an error, every row that
# was committed is there once, with its last value.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use SplitServers;
use Test::More;

my $rounds = 20;
my ($control_plane, $store) = split_servers(conf => "log_min_messages = warning\n");

# A client mints an id for the mode that it sees, and keeps what it wrote in a
# table of its own.  The lock is the one that a write through the view takes.
$control_plane->safe_psql('postgres', q(
	CREATE TABLE written (id text PRIMARY KEY, client int, n int, number bigint);
	CREATE INDEX ON written (client, number);
	CREATE SEQUENCE ids;
	CREATE FUNCTION work(client int) RETURNS void LANGUAGE plpgsql AS $$
	#variable_conflict use_variable
	DECLARE
	  number bigint := nextval('ids');
	  new_id text;
	  old    written;
	  seen   int[];
	BEGIN
	  LOCK TABLE run_ops.run, run_ops.step IN ROW EXCLUSIVE MODE;
	  -- some ids were minted before the mode changed
	  IF run_ops.split_enabled() OR (number % 5 = 0 AND (SELECT superseded FROM run_ops.split_state)) THEN
	    new_id := 'run_' || lpad(number::text, 27, '0');
	  ELSE
	    new_id := 'run_c' || lpad(number::text, 24, '0');
	  END IF;
	  SELECT * INTO old FROM written AS w
	   WHERE w.client = work.client AND w.number >= number * random() ORDER BY w.number LIMIT 1;
	  IF run_ops.split_enabled() AND run_ops.resides(new_id, 'new') THEN
	    INSERT INTO run_ops_new.run (id, n) VALUES (new_id, 0);
	    INSERT INTO run_ops_new.step VALUES ('step_' || number, new_id, 0);
	  ELSE
	    INSERT INTO run (id, n) VALUES (new_id, 0);
	    INSERT INTO step VALUES ('step_' || number, new_id, 0);
	  END IF;
	  INSERT INTO written VALUES (new_id, client, 0, number);
	  IF old.id IS NOT NULL THEN
	    SELECT array_agg(r.n) INTO seen FROM run_ops.run AS r WHERE r.id = old.id;
	    IF seen IS DISTINCT FROM ARRAY[old.n] THEN
	      RAISE EXCEPTION 'run % has % instead of %', old.id, seen, old.n;
	    END IF;
	    IF run_ops.split_enabled() AND run_ops.resides(old.id, 'new') THEN
	      UPDATE run_ops_new.run AS r SET n = r.n + 1 WHERE r.id = old.id;
	    ELSE
	      UPDATE run AS r SET n = r.n + 1 WHERE r.id = old.id;
	    END IF;
	    UPDATE written AS w SET n = w.n + 1 WHERE w.id = old.id;
	  END IF;
	END $$;
	CREATE PROCEDURE repatriate_all() LANGUAGE plpgsql AS $$
	DECLARE complete boolean;
	BEGIN
	  LOOP
	    SELECT done INTO complete FROM run_ops.repatriate(200);
	    COMMIT;
	    EXIT WHEN complete;
	  END LOOP;
	END $$;
	CREATE PROCEDURE remove_all(batches int) LANGUAGE plpgsql AS $$
	DECLARE complete boolean;
	BEGIN
	  FOR batch IN 1 .. batches LOOP
	    SELECT done INTO complete FROM run_ops.remove_leftovers(50);
	    COMMIT;
	    EXIT WHEN complete;
	  END LOOP;
	END $$));

my $script = $control_plane->basedir . '/work.sql';
append_to_file($script, "SELECT work(:client_id);\n");
my ($out, $err) = ('', '');
my $load = IPC::Run::start(
	[ 'pgbench', '-n', '-M', 'prepared', '-c', 8, '-j', 2, '-R', 200, '-T', 3600, '-f', $script,
	  $control_plane->connstr('postgres') ], '>', \$out, '2>', \$err);

my %failed;
foreach my $round (1 .. $rounds)
{
	# rows that moved are removed here, by all, some or none of the calls that takes
	foreach my $command ('SELECT run_ops.enable_split()', 'CALL remove_all(' . (0, 5, 100000)[ $round % 3 ] . ')', 'CALL repatriate_all()',
		'SELECT run_ops.disable_split(repatriated => true)')
	{
		my ($ret, $stdout, $stderr) = $control_plane->psql('postgres', $command);
		$failed{$command} .= $stderr if $ret;
	}
}
is_deeply(\%failed, {}, "on and off $rounds times");
$load->signal('TERM');
$load->finish;
unlike($err, qr/ERROR|aborted/, 'no client saw an error') or diag($err);
$control_plane->poll_query_until('postgres',
	q(SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'pgbench')));

my $compare = q(SELECT count(*), count(r.id), count(w.id), count(*) FILTER (WHERE r.n = w.n)
	FROM written AS w FULL JOIN run_ops.run AS r USING (id));
sub all_there
{
	my ($when) = @_;
	my $n = $control_plane->safe_psql('postgres', 'SELECT count(*) FROM written');
	is($control_plane->safe_psql('postgres', $compare), "$n|$n|$n|$n", "$when: $n runs, each once, as written");
	is($control_plane->safe_psql('postgres', 'SELECT count(*), count(DISTINCT id) FROM run_ops.step'), "$n|$n",
		"$when: so are their steps");
	return;
}
all_there('off');
$control_plane->safe_psql('postgres', 'SELECT run_ops.enable_split()');
all_there('on');
is($control_plane->safe_psql('postgres', q(SELECT count(*) > 0 FROM run_ops_new.run)), 't', 'with rows in the store');
cmp_ok($control_plane->safe_psql('postgres', q(SELECT count(*) FROM run_ops.find_strays('run_ops.run'))), '>', 0, 'that are still here');
$control_plane->safe_psql('postgres', 'CALL remove_all(100000)');
is($control_plane->safe_psql('postgres', q(SELECT count(*) FROM run_ops.find_strays('run_ops.run'))), '0', 'and then no more');
diag('locks held, ms: ' . $control_plane->safe_psql('postgres', q(
	SELECT string_agg(format('%s: median %s, max %s, attempts up to %s', action, med, max, attempts), '; ' ORDER BY action)
	  FROM (SELECT action, percentile_disc(0.5) WITHIN GROUP (ORDER BY (detail ->> 'locked_ms')::numeric) AS med,
	               max((detail ->> 'locked_ms')::numeric), max((detail ->> 'attempt')::int) AS attempts
	          FROM run_ops.audit_log WHERE action LIKE '% split' GROUP BY action) AS a)));

# Somebody who stays in the way: switching gives up, and nothing has changed.
my $in_the_way = $control_plane->background_psql('postgres');
$in_the_way->query_safe('BEGIN; SELECT count(*) FROM run_ops.run');
my ($ret, $stdout, $stderr) = $control_plane->psql('postgres', q(SET run_ops_split.swap_lock_timeout = 20;
	SET run_ops_split.swap_attempts = 3; SELECT run_ops.disable_split(repatriated => true)));
like($stderr, qr/could not lock the views in 3 attempts/, 'a reader in the way');
$in_the_way->query_safe('COMMIT');
$in_the_way->quit;
all_there('after giving up');

# A session with an old snapshot goes on seeing the old mode in it.
my $old = $control_plane->background_psql('postgres');
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM written');
$control_plane->safe_psql('postgres', 'SELECT run_ops.disable_split(repatriated => true)');
is($old->query_safe('SELECT run_ops.split_enabled()'), 't', 'old snapshot: split is on');
is($control_plane->safe_psql('postgres', 'SELECT run_ops.split_enabled()'), 'f', 'new snapshot: split is off');
$old->query_safe('COMMIT');
is($old->query_safe('SELECT run_ops.split_enabled()'), 'f', 'the next statement knows');
$old->quit;

# Crashes at any point of switching and of copying.
my $seed = $ENV{RUN_OPS_SEED} // time;
diag("seed $seed");
srand $seed;
foreach my $round (1 .. 6)
{
	my $on = $control_plane->safe_psql('postgres', 'SELECT run_ops.split_enabled()') eq 't';
	my ($o, $e) = ('', '');
	my $switch = IPC::Run::start(
		[ 'psql', '-Xq', '-d', $control_plane->connstr('postgres'),
		  $on ? ('-c', "CALL remove_all(@{[ int(rand(20)) ]})", '-c', 'CALL repatriate_all()', '-c', 'SELECT run_ops.disable_split(repatriated => true)')
		      : ('-c', 'SELECT run_ops.move_strays(100)', '-c', 'SELECT run_ops.enable_split()') ],
		'>', \$o, '2>', \$e);
	select undef, undef, undef, rand($on ? 1.5 : 0.8);
	$control_plane->stop('immediate');
	$switch->finish;
	$control_plane->start;
	all_there("crash $round, split was " . ($on ? 'on' : 'off'));
	my $is = $control_plane->safe_psql('postgres', 'SELECT run_ops.split_enabled()');
	is($control_plane->safe_psql('postgres', q(SELECT count(*) FROM pg_rewrite WHERE rulename = 'refuse_on_conflict')),
		$is eq 't' ? 3 : 0, 'the views are all as the mode says');
}

done_testing();

# Stores of other major versions than the control plane, older and newer: the
# real-shaped tables are attached, split, written, read and brought back.
# RUN_OPS_REMOTES has the servers, as VERSION=DIRECTORY; scripts/test brings them.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use SplitServers;
use Test::More;

my %remotes = map { split /=/ } split ' ', $ENV{RUN_OPS_REMOTES} // '';
plan skip_all => 'SKIPPED: no other version of PostgreSQL is at hand' unless %remotes;

my $control_plane = new_server('control_plane');
my $user = getpwuid($<);
my $dir = PostgreSQL::Test::Utils::tempdir_short();
my $port = PostgreSQL::Test::Cluster::get_free_port();

foreach my $version (sort keys %remotes)
{
	my $bin = "$remotes{$version}/bin";
	my $data = "$dir/$version";
	my $server = sub {
		my ($action) = @_;
		return system_log("$bin/pg_ctl", '-w', '-s', '-D', $data, '-l', "$PostgreSQL::Test::Utils::log_path/store$version.log",
			'-o', "-p $port -c fsync=off -c listen_addresses= -c unix_socket_directories=$dir", '-m', 'immediate', $action);
	};
	system_or_bail("$bin/initdb", '-D', $data, '-A', 'trust', '-N', '-U', $user);
	is($server->('start'), 0, "a store of version $version");
	my $db = "regress_version_$version";
	my $sql = sub { return $control_plane->safe_psql($db, shift) };

	$ENV{RUN_OPS_STORE_HOST} = $dir;
	$ENV{RUN_OPS_STORE_PORT} = $port;
	$control_plane->safe_psql('postgres', "\\set name version_$version\n" . q(\\i test/fixtures/two_stores.sql
		SET client_min_messages = warning;
		\set side legacy
		\set runs 20
		\set orgs 1
		\i test/fixtures/generate.sql));
	like($sql->("SELECT * FROM dblink('new', 'SELECT version()') AS v (version text)"), qr/^PostgreSQL $version/, "$version: it is one");

	# both sides are compared in full, and every gate asks the store
	$sql->(q(SELECT run_ops.attach_store('new', 'new')));
	is($sql->('SELECT count(*) FROM run_ops.attach_all_tables()'), '16', "$version: all tables attached");
	$sql->('SELECT run_ops.configure_split(true, true)');
	$sql->(q(SELECT run_ops.acknowledge(gate, object, 'test') FROM run_ops.check_split() WHERE NOT ok AND gate IN ('foreign key', 'guard', 'index')));
	is($sql->('SELECT gate, object, detail FROM run_ops.check_split() WHERE ok IS NOT TRUE'), '', "$version: every gate holds");
	$sql->('SELECT run_ops.enable_split()');
	is($sql->('SELECT split FROM run_ops.split_status'), 'on', "$version: split is on");

	# rows of all types of columns, copied to the other side under NEW ids
	$sql->(q(SET run_ops_split.cross_store_writes = allow;
		CREATE TABLE public.copied AS SELECT id AS old, run_ops.generate_ksuid() AS new,
		  '{"rootTaskRunId": null, "parentTaskRunId": null, "parentTaskRunAttemptId": null, "batchId": null, "checkpointId": null, "idempotencyKey": null}'::jsonb AS links FROM "TaskRun";
		INSERT INTO run_ops."TaskRun" SELECT (jsonb_populate_record(t, c.links || jsonb_build_object('id', c.new, 'friendlyId', c.new))).*
		  FROM "TaskRun" AS t JOIN copied AS c ON c.old = t.id;
		INSERT INTO run_ops."TaskRunAttempt" SELECT (jsonb_populate_record(s, c.links || jsonb_build_object('id', run_ops.generate_cuid(), 'friendlyId', run_ops.generate_cuid(), 'taskRunId', c.new))).*
		  FROM "TaskRunAttempt" AS s JOIN copied AS c ON c.old = s."taskRunId"));
	is($sql->(q(SELECT count(*), count(*) FILTER (WHERE n::text = (jsonb_populate_record(n, (to_jsonb(o) || c.links) - '{id,friendlyId}'::text[]))::text)
		  FROM copied AS c JOIN run_ops."TaskRun" AS n ON n.id = c.new JOIN run_ops."TaskRun" AS o ON o.id = c.old)),
		'20|20', "$version: what was written is read again");
	is($sql->(q(SELECT status, count(*) FROM run_ops."TaskRun" GROUP BY 1 ORDER BY 1)), $sql->(q(SELECT status, count(*) * 2 FROM "TaskRun" GROUP BY 1 ORDER BY 1)),
		"$version: counted in each store");
	is($sql->(q(SELECT run_ops.locate('run_ops."TaskRun"', new), run_ops.lock_row('run_ops."TaskRun"', new) FROM copied LIMIT 1)), 'new|t',
		"$version: found and locked");
	is($sql->(q(BEGIN; WITH u AS (UPDATE run_ops."TaskRun" SET "runTags" = '{a,b}', metadata = 'x' WHERE id = (SELECT min(new) FROM copied) RETURNING "runTags", metadata)
		  SELECT * FROM u; COMMIT)), '{a,b}|x', "$version: updated");
	is($sql->(q(WITH d AS (DELETE FROM run_ops."TaskRunAttempt" WHERE "taskRunId" IN (SELECT new FROM copied) RETURNING 1) SELECT count(*) > 0 FROM d)), 't',
		"$version: deleted");
	is($sql->(q(SELECT (SELECT count(*) FROM run_ops."TaskRun" AS r JOIN copied AS c ON c.new = r.id WHERE r."createdAt" IS NOT NULL),
		  (SELECT string_agg(id, ',') = string_agg(id, ',' ORDER BY id) FROM (SELECT id FROM run_ops."TaskRun" ORDER BY id) AS o))), '20|t', "$version: joined and sorted");

	# what is generated here may be virtual there
	my $computed = 'CREATE TABLE computed (id text PRIMARY KEY, twice int GENERATED ALWAYS AS (n * 2) %s, n int);';
	my $there = sprintf $computed, $version < 18 ? 'STORED' : 'VIRTUAL';
	$sql->(sprintf($computed, 'STORED') . qq(SELECT dblink_exec('new', '$there'), run_ops.attach_table('computed', 'shape')));
	is($sql->(q(INSERT INTO run_ops.computed (id, n) VALUES (run_ops.generate_ksuid(), 4) RETURNING twice)), '8', "$version: computed there");
	is($sql->('DELETE FROM run_ops.computed WHERE twice = 8 RETURNING n'), '4', "$version: and compared");

	# the way back: hashes and texts of rows, of two versions
	$sql->(q(DO $$ BEGIN WHILE NOT (SELECT done FROM run_ops.repatriate(7)) LOOP END LOOP; END $$));
	is($sql->('SELECT count(*) FILTER (WHERE differing > 0) FROM run_ops.verify_repatriation()'), '0', "$version: repatriated rows are equal");
	$sql->('SELECT run_ops.disable_split(repatriated => true)');
	is($sql->('SELECT count(*) FROM "TaskRun"'), '40', "$version: all rows are here");
	$control_plane->safe_psql('postgres', "DROP DATABASE $db");
	$server->('stop');
}

done_testing();

# Stores whose tables are partitioned: by hash, by the time in the ids, by a time
# in the key, by pg_partman; or that have children which inherit.  Rows go there, are counted,
# come home and go forward again as those of a plain table.  And the SQL that
# partitions a table with rows, by the time in its ids.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use SplitServers;

my ($control_plane, $store) = split_servers(conf => 'run_ops_split.cross_store_writes = allow');
sub here { return $control_plane->safe_psql('postgres', shift) }
sub there { return $store->safe_psql('postgres', shift) }
sub refusal { return ($control_plane->psql('postgres', shift))[2] }
sub repeat { return here("DO \$\$ DECLARE finished boolean := false; BEGIN WHILE NOT finished LOOP SELECT done INTO finished FROM run_ops.$_[0]; COMMIT; END LOOP; END \$\$") }

# The way of rows, whatever the store's tables are like.
my %layouts = (
	hashed => [ 'id', q('shape'), 'PARTITION BY HASH (id)', map { "CREATE TABLE hashed_$_ PARTITION OF hashed FOR VALUES WITH (MODULUS 3, REMAINDER $_)" } 0 .. 2 ],
	by_id => [ 'id', q('shape'), 'PARTITION BY RANGE (id)', q(CREATE TABLE by_id_1 PARTITION OF by_id FOR VALUES FROM (MINVALUE) TO ('run_0000000000000000000000000100')),
		q(CREATE TABLE by_id_2 PARTITION OF by_id DEFAULT) ],
	by_time => [ 'id, at', q('anchor', 'id'), 'PARTITION BY RANGE (at)', map { "CREATE TABLE by_time_$_ PARTITION OF by_time FOR VALUES FROM ('2026-0$_-01') TO ('2026-0" . ($_ + 1) . "-01')" } 1 .. 8 ],
	inherited => [ 'id', q('shape'), '', 'CREATE TABLE inherited_1 (PRIMARY KEY (id)) INHERITS (inherited)' ],);
# by a partition manager, where that is installed
my ($share) = run_command([ 'pg_config', '--sharedir' ]);
my $partman = -e "$share/extension/pg_partman.control";
my $month = q(date_trunc('month', now()));
$layouts{managed} = [ 'id, at', q('anchor', 'id'), 'PARTITION BY RANGE (at)', 'CREATE SCHEMA partman', 'CREATE EXTENSION pg_partman SCHEMA partman',
	"SELECT partman.create_parent('public.managed', 'at', 'native', 'monthly', p_premake := 1, p_start_partition := ($month - interval '7 months')::text)" ] if $partman;
foreach my $name (sort keys %layouts)
{
	my ($key, $routing, $partitioned, @more) = @{ $layouts{$name} };
	my $columns = "id text NOT NULL, at timestamptz NOT NULL, s status NOT NULL DEFAULT 'open', n int, PRIMARY KEY ($key)";
	there(join ';', "CREATE TABLE $name ($columns) $partitioned", @more);
	here("CREATE TABLE $name ($columns); CREATE TABLE expected_$name ($columns); SELECT run_ops.attach_table('$name', $routing)");
}
here('SELECT run_ops.enable_split()');
my $ids = q(SELECT CASE i % 4 WHEN 0 THEN 'run_c' || lpad(i::text, 24, '0') ELSE 'run_' || lpad(i::text, 27, '0') END AS id, timestamptz '2026-01-02' + i * interval '1 day' AS at, i FROM generate_series(1, 200) AS i);
sub ids { return $_[0] eq 'managed' ? $ids =~ s/timestamptz '2026-01-02'/$month - interval '7 months'/r : $ids }
sub same
{
	my ($name, $when) = @_;
	is(here(qq(SELECT count(*), min(a::text), min(b::text) FROM run_ops.$name AS a FULL JOIN expected_$name AS b ON a = b WHERE a IS NULL OR b IS NULL)), '0||', "$name: the rows $when");
	return;
}
foreach my $name (sort keys %layouts)
{
	foreach my $table ("run_ops.$name", "expected_$name")
	{
		here(qq(INSERT INTO $table SELECT id, at, 'open', i FROM (@{[ids($name)]}) AS i;
			UPDATE $table SET n = n + 1000, s = 'done' WHERE n % 3 = 0;
			DELETE FROM $table WHERE n % 10 = 7;
			UPDATE $table SET s = 'done' WHERE id = '@{[ksuid(50)]}';
			BEGIN; SELECT count(*) FROM (SELECT FROM $table WHERE s = 'open' ORDER BY id LIMIT 10 FOR UPDATE SKIP LOCKED) AS q; COMMIT));
		here("INSERT INTO $table SELECT id, at, 'open', i FROM (@{[ids($name)]}) AS i WHERE i % 10 = 7 ON CONFLICT ($layouts{$name}[0]) DO UPDATE SET n = -1");
	}
	# half of the rows are where the partition manager would have put them
	there('WITH gone AS (DELETE FROM ONLY inherited WHERE n % 2 = 0 RETURNING *) INSERT INTO inherited_1 SELECT * FROM gone') if $name eq 'inherited';
	same($name, 'after writes');
	foreach my $query ('SELECT s, count(*), sum(n), min(id) FROM T GROUP BY s ORDER BY s', 'SELECT id FROM T ORDER BY id DESC LIMIT 5', "SELECT * FROM T WHERE id IN ('@{[ksuid(1)]}', '@{[ksuid(133)]}', '@{[cuid(4)]}') ORDER BY id")
	{
		my ($got, $expected) = map { here($query =~ s/\bT\b/$_/r) } "run_ops.$name", "expected_$name";
		is($got, $expected, "$name: $query");
	}
}
# A pass tests each local row a few times, however many batches it has.
cmp_ok(here(q(BEGIN; SET LOCAL track_functions = 'all';
	DO $$ BEGIN WHILE EXISTS (SELECT FROM run_ops.repatriate(2) WHERE NOT done) LOOP NULL; END LOOP; END $$;
	SELECT calls FROM pg_stat_xact_user_functions WHERE schemaname = 'run_ops' AND funcname = 'resides'; ROLLBACK)), '<', 8 * 200 * keys %layouts, 'few rows are read again');
repeat('repatriate(37)');
foreach my $name (sort keys %layouts)
{
	here("UPDATE $_ SET n = n + 5 WHERE n % 7 = 1; DELETE FROM $_ WHERE n % 50 = 3") foreach ("run_ops.$name", "expected_$name");
}
my $notices = ($control_plane->psql('postgres', q(SET track_functions = 'all'; SELECT run_ops.disable_split(repatriated => true))))[2];
is($notices, '', 'back: changes were tracked in every partition');
is(here(q(SELECT count(*) FILTER (WHERE funcname = 'prepare_switch'), count(*) FILTER (WHERE funcname = 'unique_conflicts') FROM pg_stat_user_functions)), '1|0', '... and where every row could be copied, nobody looks for conflicts in whole tables');
foreach my $name (sort keys %layouts)
{
	same($name, 'after the way back');
	here("UPDATE $_ SET n = n + 7 WHERE n % 7 = 2; DELETE FROM $_ WHERE n % 50 = 4") foreach ("run_ops.$name", "expected_$name");
}
# here, too, changes of a child that inherits are tracked
here(q(CREATE TABLE heir (PRIMARY KEY (id)) INHERITS (inherited); WITH gone AS (DELETE FROM ONLY inherited WHERE n % 2 = 0 RETURNING *) INSERT INTO heir SELECT * FROM gone;
	SELECT run_ops.acknowledge('attached', 'public.inherited', 'a child')));
repeat('move_strays(41)');
here("UPDATE $_ SET n = n + 9 WHERE n % 4 < 2") foreach ('run_ops.inherited', 'expected_inherited');
here('SELECT run_ops.enable_split()');
repeat('remove_leftovers()');
same($_, 'forward again') foreach sort keys %layouts;

# What attach needs: the key, and a table.
there(q(CREATE TABLE other_key (id text, at timestamptz, n int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at); CREATE VIEW distributed AS SELECT * FROM run;
	CREATE TABLE more_unique (id text PRIMARY KEY, friendly text NOT NULL) PARTITION BY HASH (id); CREATE TABLE more_unique_0 PARTITION OF more_unique FOR VALUES WITH (MODULUS 1, REMAINDER 0)));
here(q(CREATE TABLE other_key (id text PRIMARY KEY, at timestamptz NOT NULL, n int); CREATE TABLE distributed (id text PRIMARY KEY, state status NOT NULL DEFAULT 'open', n int);
	CREATE TABLE more_unique (id text PRIMARY KEY, friendly text NOT NULL UNIQUE)));
like(refusal(q(SELECT run_ops.attach_table('other_key', 'shape'))), qr/unique key id: present in legacy, missing in store "new"/, 'the key of a row must be unique there');
like(refusal(q(SELECT run_ops.attach_table('distributed', 'shape'))), qr/DETAIL:  .*table public.distributed: is not a table in store "new", but a view/, 'a view has no key');
here(q(SELECT run_ops.attach_table('more_unique', 'shape')));
like(here(q(SELECT object, hint FROM run_ops.check_split() WHERE gate = 'index')),
	qr/^public\.more_unique UNIQUE btree \(friendly\)\|The table there is partitioned by HASH \(id\), and a unique index must have these columns\. To accept it: /m, 'other unique keys are a gate');
like(refusal(qq(INSERT INTO run_ops.more_unique VALUES ('@{[ksuid(1)]}', 'x') ON CONFLICT (friendly) DO NOTHING)), qr/there is no unique or exclusion constraint matching/, '... and no target of ON CONFLICT');

# Children that inherit are a matter of the store.
here('CREATE TABLE child () INHERITS (more_unique)');
is(here(q(SELECT object, detail, hint FROM run_ops.check_split() WHERE gate = 'attached' AND NOT ok)),
	q(public.more_unique|table public.child inherits from it, and has neither its key nor its write lock|ALTER TABLE public.child NO INHERIT public.more_unique; To accept it: SELECT run_ops.acknowledge('attached', 'public.more_unique', 'reason');), 'a child of a local table is a gate');
here('ALTER TABLE child NO INHERIT public.more_unique');

# Partitioned by the time in the ids, with rows that were there before.
there(q(CREATE TABLE event (id text PRIMARY KEY, "parentId" text REFERENCES event ON DELETE SET NULL, label text NOT NULL, n int CHECK (n > 0), UNIQUE (label));
	CREATE INDEX "by n" ON event (n); CREATE TABLE mark (id text PRIMARY KEY, "eventId" text NOT NULL REFERENCES event ON DELETE CASCADE);
	CREATE ROLE reader; GRANT SELECT ON event TO reader; CREATE TABLE fired (id text);
	CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.fired VALUES (NEW.id); RETURN NEW; END';
	CREATE TRIGGER fires AFTER INSERT ON event FOR EACH ROW EXECUTE FUNCTION fire();));
here(q(CREATE TABLE event (id text PRIMARY KEY, "parentId" text REFERENCES event ON DELETE SET NULL, label text NOT NULL, n int CHECK (n > 0), UNIQUE (label));
	CREATE INDEX "by n" ON event (n); CREATE TABLE mark (id text PRIMARY KEY, "eventId" text NOT NULL REFERENCES event ON DELETE CASCADE);
	CREATE SCHEMA routed; SELECT run_ops.attach_table('event', 'shape', view_schema => 'routed'), run_ops.attach_table('mark', 'anchor', 'eventId');));
there(here(q(SELECT run_ops.store_write_lock('routed.event'))));
here(q(INSERT INTO routed.event SELECT run_ops.generate_run_ops_id(), NULL, 'e' || i, i FROM generate_series(1, 20) AS i;
	UPDATE routed.event AS e SET "parentId" = (SELECT min(id) FROM routed.event) WHERE n > 10;
	INSERT INTO run_ops.mark SELECT 'm' || n, id FROM routed.event));
my $before = here('SELECT * FROM routed.event ORDER BY id');
# the page about it
my $page = slurp_file('docs/partitions.md');
my ($print, $drop, $locate) = $page =~ /^```sql\n(.*?)^```$/msg;
my ($command) = $page =~ /^```sh\n(.*?)^```$/ms;
there('CREATE VIEW watching AS SELECT count(*) FROM event');
like(refusal($print), qr/DETAIL:  It has: view (public\.)?watching, which reads it\.\nHINT/, 'what would go on with the old table is refused');
there('DROP VIEW watching');
my $sql = here($print);
is((() = $sql =~ /^CREATE TABLE public\.event_20\d{6} PARTITION OF/mg), 3, 'three months are prepared');
there($sql);
is(here('SELECT * FROM routed.event ORDER BY id'), $before, 'all rows are there');
is(there('SELECT count(*) FROM event_before'), 20, '... in the first partition');
here(q(INSERT INTO routed.event VALUES (left(run_ops.id_floor('runOpsId', now() + interval '65 days'), 25) || '1', (SELECT min(id) FROM routed.event), 'later', 1)));
is(there(q(SELECT tableoid::regclass::text ~ '^event_20' FROM event WHERE label = 'later')), 't', 'a later row is in a later one');
is(there('SELECT count(*) FROM fired'), 21, 'the trigger fires there, too');
is(there(q(SELECT has_table_privilege('reader', 'event', 'SELECT'), has_table_privilege('reader', 'event', 'INSERT'))), 't|f', 'privileges stay');
like(refusal(q(INSERT INTO routed.event VALUES (run_ops.generate_run_ops_id(), 'run_000000000000000000000000001', 'x', 1))), qr/violates foreign key constraint "event_parentId_fkey"/, 'the foreign key to itself stays');
like(refusal(q(INSERT INTO routed.event VALUES (run_ops.generate_run_ops_id(), NULL, 'x', 0))), qr/violates check constraint "event_n_check"/, '... and the CHECK');
like(($store->psql('postgres', q(INSERT INTO event VALUES ('run_c000000000000000000000001', NULL, 'x', 1))))[2], qr/violates check constraint "run_ops_write_lock"/, '... and the write lock');
is(here($print), '', 'nothing is missing');
# more of them, by the command of the page
my $partitions = q(SELECT count(*) FROM pg_inherits WHERE inhparent = 'event'::regclass);
is(there($partitions), 5, 'the old rows, three months, and the default');
{
	local @ENV{'control_plane', 'store'} = map { $_->connstr('postgres') } $control_plane, $store;
	system_or_bail('sh', '-c', $command =~ s/'runOpsId'/'runOpsId', ahead => 6/r);
}
cmp_ok(there($partitions), '>=', 7, 'more months');
is(here($print =~ s/'runOpsId'/'runOpsId', ahead => 6/r), '', '... of which nothing is missing');
is(here(q(SELECT string_agg(object || ': ' || detail, ';') FROM run_ops.check_split() WHERE ok IS NOT TRUE AND object ~ 'event')), 'public.event UNIQUE btree (label): missing in store "new"', 'a gate says what it cannot have');

# Dropping a partition is the end of its rows.
my $old = here('SELECT id FROM routed.event WHERE n = 3');
is(here("SELECT run_ops.locate('routed.event', '$old')"), 'new', 'a row of the oldest partition');
like(($store->psql('postgres', $drop))[2], qr/violates foreign key constraint/, 'PostgreSQL keeps rows that others refer to');
there('DELETE FROM mark; UPDATE event SET "parentId" = NULL');
there($drop);
is(here($locate =~ s/:'old_id'/'$old'/r), 'past-retention', '... whose id says later that it was dropped');
is(here(q(SELECT run_ops.locate('routed.event', left(run_ops.id_floor('runOpsId', now() + interval '40 days'), 25) || '1'))), 'not-found', 'a younger one is not found');
is(here('SELECT count(*) FROM routed.event'), 1, 'the rows are gone');
like(refusal(q(SELECT run_ops.partition_store_table('run_ops.tag', 'runOpsId'))), qr/cannot be partitioned by its ids/, 'not where no id decides');
like(refusal(q(SELECT run_ops.partition_store_table('run_ops.hashed', 'ksuid'))), qr/is partitioned already\nDETAIL:  It is partitioned by HASH \(id\)/, 'not if it is partitioned in another way');
like(refusal(q(SELECT run_ops.partition_store_table('routed.event', 'cuid'))), qr/unknown kind of id 'cuid'/, 'not for ids of an unknown kind');
like(refusal(q(SELECT run_ops.partition_store_table('routed.event', 'ulid', 'hour'))), qr/invalid periods/, 'not for hours');

# A partition manager works while split is on: it makes a partition, and drops old ones.
SKIP: {
	skip 'SKIPPED: pg_partman: it is not installed', 1 if !$partman;
	my $maintain = sub { there("UPDATE partman.part_config SET $_[0]; SELECT partman.run_maintenance('public.managed')") };
	my $old = "SELECT count(*) FROM partman.show_partitions('public.managed') WHERE partition_tablename < to_char($month - interval '3 months', '\"managed_p\"YYYY_MM')";
	there(here(q(SELECT run_ops.store_write_lock('run_ops.managed'))));
	$maintain->('premake = 4');
	here("INSERT INTO run_ops.managed SELECT run_ops.generate_run_ops_id(), $month + interval '3 months', 'open', 1000");
	here(q(INSERT INTO expected_managed SELECT * FROM run_ops.managed WHERE n = 1000));
	is(there(q(SELECT tableoid::regclass::text <> 'managed_default' FROM managed WHERE n = 1000)), 't', 'a row in a new partition');
	like(($store->psql('postgres', "INSERT INTO managed VALUES ('@{[cuid(1)]}', $month + interval '3 months')"))[2], qr/violates check constraint "run_ops_write_lock"/, '... which has the write lock');
	repeat('repatriate(50)');
	is(there($old), 4, 'four partitions are older than three months');
	$maintain->(q(retention = '3 months', retention_keep_table = false));
	is(there($old), 0, '... and are dropped');
	here("DELETE FROM expected_managed WHERE at < $month - interval '3 months' AND NOT run_ops.resides(id, 'legacy')");
	same('managed', 'after retention');
	repeat('repatriate(50)');
	here('SELECT run_ops.disable_split(repatriated => true)');
	same('managed', 'after the way back: what was copied before it was dropped is gone here, too');
}

done_testing();

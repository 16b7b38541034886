# run_ops.next_step() leads from two databases to a split, back, and forward again:
# what is done here is what its first row says, and where it says so.  What it
# says in words only (which value, which rule) is said by the test.
use strict;
use warnings;
use lib 'test/t';
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use SplitServers;
use Test::More;

my ($here, $there, $database);

sub here { return $here->safe_psql($database, join '', @_) }
sub there { return $there->safe_psql($database, join '', @_) }

# The rows of next_step(), which must not change anything, and must say where and
# what to do.
sub steps
{
	my ($goal, $node) = @_;
	my @rows = map { [ split /\x1f/, $_, -1 ] } split /\x1e/, ($node // $here)->safe_psql($database, qq(
		BEGIN READ ONLY;
		SELECT string_agg(concat_ws(chr(31), state, action, place, coalesce(sql, ''), why), chr(30)) FROM run_ops.next_step('$goal');
		COMMIT));
	my @steps = map { my %step; @step{qw(state action place sql why)} = @$_; \%step } @rows;
	foreach my $step (@steps)
	{
		die "an empty column: @{[ %$step ]}" if grep { $step->{$_} eq '' } qw(state action place why);
	}
	return @steps;
}

# Executes a row as one text, as a client would.
sub execute
{
	my ($step) = @_;
	my ($out, $err) = ('', '');
	my $node = $step->{place} eq 'this database' ? $here : $there;
	IPC::Run::run([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr($database), '-c', $step->{sql} ], '>', \$out, '2>', \$err)
	  or die "$step->{state}\n$step->{action}\n$step->{sql}\n$err";
	return $out;
}

# Does what the first row with SQL says, until one of the steps is as expected.
# Returns the states on the way.
sub walk
{
	my ($goal, $until, %say) = @_;
	my @states;
	foreach (1 .. 200)
	{
		my @steps = steps($goal);
		my $first = $steps[0];
		push @states, $first->{state} if !@states || $states[-1] ne $first->{state};
		if ("$first->{state}: $first->{action} $first->{sql}" =~ $until)
		{
			pass("$goal: $until");
			return @states;
		}
		my ($words) = grep { "$first->{state}: $first->{action}" =~ $_ } map { qr/$_/ } keys %say;
		note("$first->{state} | $first->{action} | $first->{place} | $first->{sql}");
		if ($words) { $say{ $words =~ s/^\(\?\^:(.*)\)$/$1/r }->() }
		else
		{
			# from an "Or" on it is another way
			my $or = 0;
			my @way = grep { !($or ||= $_->{action} =~ /^Or\b/) || $_ == $first } @steps;
			BAIL_OUT("no SQL: $_->{state}: $_->{action}") foreach grep { $_->{sql} eq '' } @way;
			execute($_) foreach @way;
		}
	}
	BAIL_OUT("$goal: never $until");
}

# Everything in both databases that a dry run could change: rows with their place and
# transaction, objects, settings.
my $everything = q(CREATE FUNCTION pg_temp.everything() RETURNS text LANGUAGE plpgsql AS $$
	DECLARE t regclass; hash text; result text := '';
	BEGIN
		FOR t IN SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace::regnamespace::text ~ '^(public|run_ops.*)$' ORDER BY oid LOOP
			EXECUTE format('SELECT md5(string_agg(concat_ws(chr(31), x.ctid, x.xmin, x::text), chr(30) ORDER BY x.ctid)) FROM %s AS x', t) INTO hash;
			result := concat_ws(' ', result, t, hash);
		END LOOP;
		RETURN concat_ws(' ', result,
			(SELECT md5(string_agg(c::text, '/' ORDER BY c.oid)) FROM (SELECT oid, relname, relnamespace, relowner, relacl, relfilenode FROM pg_class WHERE NOT starts_with(relnamespace::regnamespace::text, 'pg_')) AS c),
			(SELECT md5(string_agg(concat(x.xmin, x.oid), '/' ORDER BY x.oid)) FROM pg_trigger AS x), (SELECT md5(string_agg(concat(x.xmin, x.oid), '/' ORDER BY x.oid)) FROM pg_rewrite AS x),
			(SELECT md5(string_agg(concat(x.xmin, x.oid), '/' ORDER BY x.oid)) FROM pg_proc AS x WHERE NOT starts_with(pronamespace::regnamespace::text, 'pg_')), (SELECT md5(string_agg(x::text, '/')) FROM pg_db_role_setting AS x));
	END $$; SELECT pg_temp.everything(););
sub everything { return here($everything) . "\n" . $there->safe_psql('postgres', $everything) }

# What a call says; the figures of times are X.
sub says
{
	my ($call, $node) = @_;
	my ($out, $err);
	($node // $here)->psql($database, $call, stdout => \$out, stderr => \$err);
	return $err =~ s/^psql:<stdin>:\d+: //mgr =~ s/^CONTEXT:.*//msr =~ s/about \d+ ms/about X ms/r;
}

# A dry run says this, changes nothing, waits for no writer and blocks none.
sub dry_run
{
	my ($call, $expected, $what) = @_;
	my $dry = $call =~ s/(\w)?\)$/($1 ? "$1, " : '') . 'dry_run => true)'/er;
	my $before = everything();
	like(says("SELECT $dry"), $expected, "$what: dry run");
	is(everything(), $before, '... changes nothing');
	my $writer = $here->background_psql($database);
	$writer->query_safe("BEGIN; LOCK TABLE public.run, public.step, public.tag IN ROW EXCLUSIVE MODE");
	like(says("SET lock_timeout = '1s'; SELECT $dry"), $expected, '... waits for no writer');
	$writer->query_safe('ROLLBACK');
	$writer->quit;
	# a failing one holds nothing, either
	is(here(qq(SET client_min_messages = error; BEGIN; DO \$\$ BEGIN PERFORM $dry; EXCEPTION WHEN OTHERS THEN NULL; END \$\$;
		SELECT string_agg(DISTINCT l.mode, ' ') FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation
		 WHERE l.pid = pg_backend_pid() AND c.relkind IN ('r', 'v', 'f', 'p') AND c.relnamespace::regnamespace::text ~ '^(public|run_ops.*)\$' AND l.mode <> 'AccessShareLock')), '', '... and blocks none');
	return;
}

# What both a dry run and the real call refuse.
sub refuses
{
	my ($call, $expected, $what) = @_;
	dry_run($call, $expected, $what);
	my $dry = $call =~ s/(\w)?\)$/($1 ? "$1, " : '') . 'dry_run => true)'/er;
	return is(says("SELECT $dry"), says("SELECT $call"), '... and says what the call itself says');
}

# --- the tables of the original, from nothing ---------------------------------------------

$here = new_server('control_plane', allows_streaming => 'logical');
$there = new_server('store', allows_streaming => 1);
$database = 'postgres';
my ($host, $port) = ($there->host, $there->port);
here("\\i test/fixtures/control_plane.sql\n");
here("\\set side legacy\n\\set runs 50\n\\set orgs 2\n\\i test/fixtures/generate.sql\n");
there("\\i test/fixtures/store.sql\n");
here('SET client_min_messages = warning; CREATE EXTENSION run_ops_split CASCADE');

sub state_is
{
	my ($goal, $state, $what) = @_;
	my ($first) = steps($goal);
	return like("$first->{state} | $first->{action} | $first->{place} | $first->{sql}", $state, $what);
}
my $nothing = qr/split is on; every gate holds: Nothing is to be done/;

state_is('on', qr/^split is off: no store is attached; gate "store" fails.* \| Create a server.*CREATE SERVER/, 'nothing is attached');
state_is('off', qr/^split is off: no store is attached \| Nothing is to be done/, '... and nothing to go back from');
my @way = walk('on', $nothing,
	'Create a server' => sub {
		here("CREATE SERVER new FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host '$host', port '$port', dbname 'postgres'); CREATE USER MAPPING FOR CURRENT_USER SERVER new");
		state_is('on', qr/\| SELECT run_ops\.attach_store\('new', 'new'\);$/, 'a server that is there is named');
	});
like(join("\n", @way), qr/gate "store".*gate "attached".*gate "opted in".*gate "guard".*\nsplit is off: configured but not enabled; every gate holds\nsplit is on; every gate holds/s,
	'the way leads from gate to gate');
is(here(q(SELECT count(*) FROM run_ops.acknowledgement)), '0', 'nothing had to be accepted');
is(here(q(SELECT count(*) FROM run_ops.check_split() WHERE hint IS NOT NULL)), '0', 'no hint is left');

# rows on both sides, and new ids by flags
here(q(SET client_min_messages = warning; SELECT run_ops.attach_control_plane('public')));
here('ALTER SYSTEM SET run_ops_split.mint_enabled = on');
here('SELECT pg_reload_conf()');
$here->poll_query_until('postgres', 'SHOW run_ops_split.mint_enabled', 'on');
here(q(UPDATE "Organization" SET "featureFlags" = '{"runOpsMintKind": "runOpsId"}' WHERE slug = 'org-0'));
here(q(INSERT INTO "FeatureFlag" (id, key, value) VALUES ('f', 'runOpsMintKind', '"runOpsId"') ON CONFLICT (key) DO UPDATE SET value = excluded.value));
my ($state) = steps('on');
like($state->{why}, qr/Kinds of new ids, and how many organizations have them: 1 cuid, 1 ksuid\. 2 flips come into force by /, 'flips are told');
my $insert = q(INSERT INTO run_ops."TaskRun" (id, "friendlyId", "taskIdentifier", payload, "traceId", "spanId", queue, "runtimeEnvironmentId", "projectId", "updatedAt")
	SELECT m.id, m.friendly_id, 'next', '{}', 't', 's', 'q', e.id, e."projectId", now() FROM "RuntimeEnvironment" AS e, run_ops.mint_run_id(e.id) AS m);
here("SET run_ops_split.mint_flip_grace = 0; $insert");
my $runs = here('SELECT count(*) FROM run_ops."TaskRun"');
cmp_ok(there('SELECT count(*) FROM "TaskRun"'), '>', 0, 'new runs are in the store');

my $home = qr/^split is off: disabled, with all rows repatriated: Nothing is to be done/;
@way = map { (steps('off'))[0] } 1;
like($way[0]{sql}, qr/^INSERT INTO public\."FeatureFlag" .* UPDATE public\."Organization" /, 'LEGACY ids first');
my @or = grep { $_->{action} =~ /^Or/ } steps('off');
is($or[0]{sql}, 'ALTER SYSTEM SET run_ops_split.mint_enabled = off;', '... or at once');
walk('off', $home);
is(here('SELECT count(*) FROM "TaskRun"'), $runs, 'every run is here');
here("SET run_ops_split.mint_flip_grace = 0; $insert");
is(here(q(SELECT count(*) FROM run_ops."TaskRun" WHERE run_ops.classify_kind(id) <> 'cuid' AND "createdAt" > (SELECT max(at) FROM run_ops.audit_log))), '0', 'new ids are LEGACY');
$runs = here('SELECT count(*) FROM run_ops."TaskRun"');
@way = walk('on', $nothing);
is(here('SELECT count(*) FROM run_ops."TaskRun"'), $runs, 'forward again: every run is shown once');
is(here('SELECT count(*) FROM "TaskRun" WHERE NOT run_ops.resides(id, \'legacy\')'), '0', '... and no leftover is left');
is(there('SELECT count(*) > 0 FROM "TaskRun"'), 't', '... but in the store');

# --- tables of each shape -----------------------------------------------------------------

$_->stop foreach ($here, $there);
($here, $there) = split_servers(prefix => 'shape_');
($host, $port) = ($there->host, $there->port);
my $refused = $here->psql('postgres', q(SELECT run_ops.next_step('back')), stderr => \my $error);
like($error, qr/invalid goal 'back'.*HINT:  The goal is 'on'/s, 'another goal is an error');

# what somebody has broken
here('INSERT INTO run (id, n) VALUES ', join ', ', map { sprintf "('%s', $_)", cuid($_) } 1 .. 5);
here(q(DELETE FROM run_ops.routed_store WHERE view = 'run_ops.tag'::regclass));
state_is('on', qr/gate "attached" fails.* \| SELECT run_ops\.refresh_table\('run_ops\.tag'\);$/, 'attached by half');
walk('on', qr/every gate holds/);
here('DROP VIEW run_ops.step');
state_is('on', qr/gate "complete" fails.* \| SELECT run_ops\.refresh_table/, 'a view is gone');
walk('on', qr/every gate holds/);
here('SELECT run_ops.configure_split(opted_in => false)');
state_is('on', qr/^split is off: not opted in; gate "opted in" fails/, 'not opted in');
refuses('run_ops.enable_split()', qr/ERROR:  cannot enable split mode\nDETAIL:  opted in: no/, 'a gate that fails');
there('ALTER SYSTEM SET max_prepared_transactions = 5');
$there->restart;
there(q(BEGIN; INSERT INTO tag VALUES ('b'); PREPARE TRANSACTION 'run_ops_split:1:2:1:0/28:3:4:5'));
walk('on', qr/gate "in doubt" fails/);
my @steps = steps('on');
is(join(' ', map { $_->{sql} } @steps), q(COMMIT PREPARED 'run_ops_split:1:2:1:0/28:3:4:5'; ROLLBACK PREPARED 'run_ops_split:1:2:1:0/28:3:4:5';), 'in doubt: both ways');
like($steps[1]{action}, qr/^or/i, '... of which the second is another one');
is(join(' ', map { $_->{place} } @steps), 'new new', '... in the store');
execute($steps[1]);
here(sprintf q(INSERT INTO run (id, n) VALUES ('%s', 6)), ksuid(6));
walk('on', qr/gate "strays" fails/);
like((steps('on'))[0]{sql}, qr/^DO \$\$.*run_ops\.move_strays\(\).*COMMIT/s, 'strays: moved until done');
here('SELECT run_ops.move_strays()');
my $blocked = qr/Writes would be blocked for about X ms\.\nHINT:  After the switch, locked_ms/;
dry_run('run_ops.enable_split()', qr/^NOTICE:  comparing.*|^NOTICE:  split can be switched on\nDETAIL:  All 0 rows would be compared while writes are blocked\. Not all rows were copied before the switch\.\n$blocked/, 'strays that are not moved');
walk('on', qr/Switch split on/);
dry_run('run_ops.enable_split()', qr/^NOTICE:  split can be switched on\nDETAIL:  \d+ tracked changes would be compared, those before the switch while the service runs\.\n$blocked/, 'strays that are moved');
walk('on', $nothing);
is(there('SELECT n FROM run'), '6', 'the stray is in the store');
is(here(q(SELECT (detail ->> 'locked_ms')::numeric > 0 FROM run_ops.audit_log WHERE action = 'enable split' ORDER BY id DESC LIMIT 1)), 't', 'and how long writes were blocked is told');
is(says('SELECT run_ops.enable_split(dry_run => true)'), 'NOTICE:  split is already on', 'a dry run of what is done');
refuses('run_ops.disable_split()', qr/ERROR:  rows of the stores would disappear from the views/, 'rows in the store');
dry_run('run_ops.disable_split(force => true)', qr/^NOTICE:  split can be switched off\nDETAIL:  No row would be copied\.\n$blocked/, 'forced');
dry_run('run_ops.disable_split(repatriated => true)', qr/^NOTICE:  split can be switched off\nDETAIL:  All 1 rows would be compared while writes are blocked\. Not all rows were copied before the switch\.\n$blocked/, 'nothing copied');

# on, and not all is well
there('ALTER TABLE run DROP CONSTRAINT run_ops_write_lock');
state_is('on', qr/^split is on; every gate holds \| .* \| new \| ALTER TABLE public\.run ADD CONSTRAINT run_ops_write_lock/, 'a write lock is missing');
walk('on', $nothing);
here('DROP TRIGGER run_ops_route ON run_ops.run');
state_is('on', qr/^split is on; gate "view" fails.* \| SELECT run_ops\.refresh_table/, 'a trigger of a view is gone');
walk('on', $nothing);
SKIP:
{
	skip 'before PostgreSQL 16, ANALYZE would read the whole table of the store', 1 if $here->pg_version < 16;
	is(here('SELECT count(*) FROM pg_class WHERE reltuples < 0 AND relkind = \'f\''), '0', 'all foreign tables were analyzed on the way');
}

# the store is down
here(sprintf(q(INSERT INTO run_ops.run (id, n) VALUES ('%s', 7); INSERT INTO run_ops.step VALUES ('s', '%s', 7); INSERT INTO run_ops.tag VALUES ('t', 7)), ksuid(7), ksuid(7)));
$there->stop;
foreach my $goal (qw(on off))
{
	@steps = steps($goal);
	like($steps[0]{state}, qr/^split is on; gate "reachable" fails/, "$goal, the store is down");
	like($steps[0]{action}, qr/^Start the store, or correct where it is: ALTER SERVER new/, '... what to wait for');
	is($steps[-1]{sql}, 'SELECT run_ops.disable_split(force => true);', '... and how to do without it');
}
execute($steps[-1]);
state_is('on', qr/^split is off: configured but not enabled; gate "reachable" fails/, 'forced off');
here(sprintf q(INSERT INTO run_ops.run (id, n) VALUES ('%s', 8)), ksuid(8));
$there->start;
state_is('off', qr/the views leave out the rows of the stores \| .* \| DO .*run_ops\.repatriate/s, 'they can come home, too');
walk('on', qr/gate "strays" fails/);
here('SELECT run_ops.move_strays()');
state_is('on', qr/^split is off, and rows of this database are being moved to the stores; every gate holds \| .* \| DO .*move_strays/s, 'forward, with the row that was written meanwhile');
walk('on', $nothing);
is(here('SELECT string_agg(n::text, \' \' ORDER BY n) FROM run_ops.run'), '1 2 3 4 5 6 7 8', 'every row is shown');

# the way back, with two rows of one value
$_->safe_psql('postgres', 'CREATE UNIQUE INDEX ON run (n)') foreach ($here, $there);
here(q(UPDATE run_ops.run SET n = 6 WHERE n = 5; INSERT INTO run_ops_new.tag VALUES ('there', 1)));
my $pair = qr/^split is on: Delete or change one row of each of these pairs/;
walk('off', $pair);
is(() = execute((steps('off'))[0]) =~ /run_n_idx/g, 1, 'they are listed');
refuses('run_ops.disable_split(repatriated => true)', qr/ERROR:  rows of the stores conflict with rows of this database/, 'a conflict');
here(sprintf q(UPDATE run_ops.run SET n = 5 WHERE id = '%s'), cuid(5));
here(sprintf q(UPDATE run_ops.run SET state = 'done' WHERE id = '%s'), ksuid(7));
dry_run('run_ops.disable_split(repatriated => true)', qr/^NOTICE:  split can be switched off\nDETAIL:  \d+ tracked changes would be compared, .*\n1 rows of tables with routing "store" would be put into the local tables while writes are blocked\.\n$blocked/, 'copied');
walk('off', $home);
is(here('SELECT string_agg(n::text, \' \' ORDER BY n) FROM run'), '1 2 3 4 5 6 7 8', 'every row is home');
state_is('on', qr/^split is off: disabled, with all rows repatriated; every gate holds \| .* \| DO .*move_strays/s, '... and can move again');
# a unique value of a row that is copied later keeps another one from being copied
here('UPDATE run_ops.run SET n = 9 WHERE n = 8; UPDATE run_ops.run SET n = 8 WHERE n = 7');
here(q(DO $$ DECLARE finished boolean := false; BEGIN WHILE NOT finished LOOP SELECT done INTO finished FROM run_ops.move_strays(1); COMMIT; END LOOP; END $$));
walk('on', qr/SELECT run_ops\.enable_split/);
walk('on', $nothing);
is(here('SELECT string_agg(n::text, \' \' ORDER BY n) FROM run_ops.run'), '1 2 3 4 5 6 8 9', 'every row is shown');
is(here('SELECT count(*) FROM run'), '5', 'without leftovers');

# --- a standby ------------------------------------------------------------------------------

$here->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($here, 'base', has_streaming => 1);
$standby->start;
$here->poll_query_until('postgres', q(SELECT count(*) = 1 FROM run_ops.standby_gates() WHERE NOT ok));
state_is('on', qr/^split is on; gate "standby" fails \| .* \| each standby \| SELECT format/, 'a standby that is not trusted');
foreach my $goal (qw(on off))
{
	@steps = steps($goal, $standby);
	like("$steps[0]{state} | $steps[0]{place} | $steps[0]{sql}", qr/^this is a standby; split is suspended.* \| its primary \| SELECT run_ops\.trust_standby\('/, "$goal, on the standby");
}
like(says("SELECT run_ops.$_", $standby), qr/ERROR:  cannot change stores, tables or split mode during recovery\n.*HINT:  .*: \Q$steps[0]{sql}\E/s, "$_ on the standby: a hint that works")
  foreach ('enable_split()', 'disable_split()');
my ($trust) = steps('on');
is($standby->safe_psql('postgres', $trust->{sql}), $steps[0]{sql}, 'both say the same');
here($steps[0]{sql});
$here->wait_for_catchup($standby);
like((steps('on', $standby))[0]{state}, qr/^this is a standby; split is on$/, 'trusted');
is((steps('on', $standby))[0]{sql}, '', '... and nothing can be done there');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM run_ops.run'), '8', '... but read');
walk('on', $nothing);
$standby->stop;

# --- copies ---------------------------------------------------------------------------------

my $dump = $here->basedir . '/dump';
system_or_bail('pg_dump', '-f', $dump, '-d', $here->connstr('postgres'));
foreach my $copy (qw(copy_off copy_on))
{
	$here->safe_psql('postgres', "CREATE DATABASE $copy");
	system_or_bail('psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-o', '/dev/null', '-f', $dump, '-d', $here->connstr($copy));
	$database = $copy;
	@steps = steps('on');
	like($steps[0]{state}, qr/^split is suspended: this is a copy of the database in which the stores were attached/, "$copy: suspended");
	is($steps[-1]{sql}, 'SELECT run_ops.disable_split(force => true);', '... one way is without the stores');
	is((steps('off'))[0]{sql}, $steps[-1]{sql}, '... which is the way back');
}
# the store knows one database postgres only
sub there_too { return $there->safe_psql('postgres', join '', @_) }
$database = 'copy_off';
execute((steps('off'))[0]);
state_is('off', qr/^split is off: this is a copy.* \| Nothing is to be done/, 'a copy without the stores');
$database = 'copy_on';
walk('on', qr/If this database replaces the original/);
like(join(' ', map { $_->{sql} } steps('on')), qr/^SELECT run_ops\.enable_split\(\); SELECT run_ops\.disable_split\(force => true\);$/, 'two ways out, once no other gate fails');
dry_run('run_ops.enable_split()', qr/^NOTICE:  split can be switched on/, 'a copy');
like((steps('on'))[0]{state}, qr/^split is suspended/, '... which is one as before');
execute((steps('on'))[0]);
is(here('SELECT count(*) FROM run_ops.run'), '8', 'the copy has taken over');
state_is('on', qr/^split is on/, '... as it says');

# --- keys of another kind ---------------------------------------------------------------------

$database = 'postgres';
$_->safe_psql('postgres', 'CREATE DATABASE shop') foreach ($here, $there);
$database = 'shop';
$_->safe_psql('shop', q(CREATE TABLE orders (id bigint PRIMARY KEY, customer text);
	CREATE TABLE item (id bigint PRIMARY KEY, order_id bigint NOT NULL REFERENCES orders); CREATE INDEX ON item (order_id))) foreach ($here, $there);
here(qq(SET client_min_messages = warning; CREATE EXTENSION run_ops_split CASCADE; INSERT INTO orders SELECT n, 'c' || n FROM generate_series(1, 100) AS n;
	CREATE SERVER shop_store FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host '$host', port '$port', dbname 'shop'); CREATE USER MAPPING FOR CURRENT_USER SERVER shop_store));
state_is('on', qr/SELECT run_ops\.attach_store\('new', 'shop_store'\);$/, 'a server of another name');
walk('on', $nothing, 'No table has a name' => sub {
	here(q(SELECT run_ops.create_boundary_rule('order_store', 'bigint', '1000'); SELECT run_ops.attach_tree('orders', 'order_store(bigint)')));
});
here(q(SET run_ops_split.cross_store_writes = allow; INSERT INTO run_ops.orders VALUES (1001, 'new'); INSERT INTO run_ops.item VALUES (1, 1001), (2, 5)));
is(there('SELECT count(*) FROM orders'), '1', 'a row is in the store');
walk('off', $home);
is(here('SELECT count(*) FROM orders'), '101', 'and comes home');
walk('on', $nothing);
is(here('SELECT (SELECT count(*) FROM run_ops.orders), (SELECT count(*) FROM orders), (SELECT count(*) FROM run_ops.item)'), '101|100|2', 'and moves again');

done_testing();

# Poolers in transaction mode, with fewer connections than clients: one before
# the store, which the user of the mapping shares with another application, and
# one before the control plane.  Nothing fails, no answer is wrong, and neither
# application sees a setting of the other.

use strict;
use warnings;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use Pooler;
use SplitServers;

my ($control_plane, $store) = split_servers();
sub here { return $control_plane->safe_psql('postgres', shift) }
my ($clients, $transactions) = (6, 50);

# --- the servers ------------------------------------------------------------------------------

$_->safe_psql('postgres', q(
	CREATE TABLE account (id text PRIMARY KEY, n int NOT NULL);
	CREATE TABLE typed (id text PRIMARY KEY, i int, at timestamptz, day date, took interval, x float8, raw bytea)))
  foreach ($control_plane, $store);
here(q(SELECT run_ops.attach_table('account', 'shape'), run_ops.attach_table('typed', 'shape')));

# What others have set for the role reads our values otherwise, or finds nothing.
my %set = (search_path => 'app, pg_catalog, public', timezone => 'Asia/Tokyo', datestyle => 'SQL, DMY', intervalstyle => 'sql_standard',
	bytea_output => 'escape', extra_float_digits => '-3', statement_timeout => '77s', application_name => 'other');
$store->safe_psql('postgres', q(
	CREATE ROLE app LOGIN;
	GRANT ALL ON ALL TABLES IN SCHEMA public TO app;
	GRANT EXECUTE ON FUNCTION pg_control_system() TO app;
	CREATE SCHEMA app AUTHORIZATION app;
	CREATE FUNCTION app.never(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT false';
	CREATE OPERATOR app.= (LEFTARG = text, RIGHTARG = text, FUNCTION = app.never);)
  . join '', map { "ALTER ROLE app SET $_ = " . ($_ eq 'search_path' ? $set{$_} : "'$set{$_}'") . ';' } grep { $_ ne 'application_name' } sort keys %set);

# Waiting for a connection of the pooler is waiting for the store.
$control_plane->append_conf('postgresql.conf', "run_ops_split.store_timeout = '120s'\nrun_ops_split.cross_store_writes = allow\n");
$control_plane->reload;

my $user = getpwuid($<);
my $pooler = Pooler->start(2,
	control_plane => sprintf('host=%s port=%s dbname=postgres user=%s', $control_plane->host, $control_plane->port, $user),
	store => sprintf('host=%s port=%s dbname=postgres user=app', $store->host, $store->port));
point_store($control_plane, $pooler->host, $pooler->port, 'store');

# --- the gate ---------------------------------------------------------------------------------

like(failing_gates($control_plane), qr/^pooled new: a pooler is before it, but the option pooled is not set$/m, 'a pooler is found');
here(q(ALTER SERVER new OPTIONS (ADD pooled 'true')));
is(failing_gates($control_plane), '', 'with the option it is none to worry about');
is(here(q(SELECT detail FROM run_ops.check_split() WHERE gate = 'pooled')), 'a pooler is before it, and the option pooled is set', 'but shown');
here('SELECT run_ops.enable_split()');
# connections that were used before, without the option, have kept its settings
$pooler->reconnect;

# --- what runs --------------------------------------------------------------------------------

my $new = sub { my ($number) = @_; return "('run_' || lpad(($number)::text, 27, '0'))" };
my $legacy = sub { my ($number) = @_; return "('run_c' || lpad(($number)::text, 24, '0'))" };
# pgbench reads :name, so a cast of a variable is written as one
my %script = (
	transfer => qq(
\\set a random(1, 19)
\\set b random(:a + 1, 20)
\\set d random(-9, 9)
BEGIN;
UPDATE run_ops.account SET n = n - :d WHERE id = @{[ $new->(':a') ]};
UPDATE run_ops.account SET n = n + :d WHERE id = @{[ $new->(':b') ]};
COMMIT;),
	# the store first: who waits for a row here must not wait for the pooler there
	seam => qq(
\\set a random(1, 20)
\\set b random(1, 20)
\\set d random(-9, 9)
BEGIN;
UPDATE run_ops.account SET n = n - :d WHERE id = @{[ $new->('20 + :a') ]};
UPDATE run_ops.account SET n = n + :d WHERE id = @{[ $legacy->(':b') ]};
COMMIT;),
	undone => qq(
\\set a random(1, 20)
BEGIN;
UPDATE run_ops.account SET n = n + 1000 WHERE id = @{[ $new->(':a') ]};
SELECT count(*) FROM run_ops.account;
ROLLBACK;),
	sum => q(
SELECT 1 / (sum(n) = 0 AND count(*) = 20)::int FROM transferred;),
	locked => qq(
\\set a random(1, 3)
BEGIN;
SELECT run_ops.lock_row('run_ops.run', @{[ $new->(':a') ]});
SELECT n FROM run_ops.run WHERE id = @{[ $new->(':a') ]} \\gset
UPDATE run_ops.run SET n = :n + 1 WHERE id = @{[ $new->(':a') ]};
INSERT INTO run_ops.step (id, "runId", n) VALUES (@{[ $new->(q(nextval('step_ids'))) ]}, @{[ $new->(':a') ]}, 1);
COMMIT;),
	blocks => q(
\set a random(1, 5)
SELECT blocks(:a);),
	batch => qq(
SELECT nextval('batches') * 100 AS b \\gset
BEGIN;
INSERT INTO run_ops.typed SELECT @{[ $new->('i') ]}, (made(i::int)).* FROM generate_series(:b + 1, :b + 30) AS i;
SELECT 1 / (count(*) = 30)::int FROM run_ops.typed WHERE id > @{[ $new->(':b') ]} AND id <= @{[ $new->(':b + 30') ]};
UPDATE run_ops.typed SET x = -x FROM (VALUES (:b + 7), (:b + 8)) AS v (i) WHERE typed.id = @{[ $new->('v.i') ]};
DELETE FROM run_ops.typed WHERE id = ANY (ARRAY(SELECT @{[ $new->('i') ]} FROM generate_series(:b + 1, :b + 20) AS i));
COMMIT;),
	typed => qq(
\\set i random(1, 50)
SELECT 1 / ((typed.i, at, day, took, x, raw) IS NOT DISTINCT FROM made(:i))::int FROM run_ops.typed WHERE id = @{[ $new->(':i') ]};
SELECT 1 / (count(*) = 1)::int FROM run_ops.typed WHERE id = @{[ $new->(':i') ]} AND at = (made(:i)).at AND took = (made(:i)).took;),
	cursor => q(
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM run_ops.account;
FETCH 3 FROM c;
SELECT count(*) FROM run_ops.typed AS t JOIN run_ops.account AS a USING (id);
FETCH ALL FROM c;
COMMIT;),
	snapshot => q(
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT sum(n * n) AS before FROM transferred \gset
SELECT count(*) FROM run_ops.tag;
SELECT 1 / (sum(n * n) = :before)::int FROM transferred;
COMMIT;),
	ask => q(
SELECT 1 / (a ->> 'n' = '1')::int FROM run_ops.ask_store('new', $q$SELECT count(*) AS n FROM pg_catalog.pg_class WHERE relname = 'run'$q$) AS a;));

here(q(
	CREATE VIEW transferred AS SELECT * FROM run_ops.account WHERE id BETWEEN 'run_' || lpad('1', 27, '0') AND 'run_' || lpad('20', 27, '0');
	CREATE SEQUENCE step_ids;
	CREATE SEQUENCE batches;
	-- a row whose values look otherwise in another datestyle, timezone, ...
	CREATE TYPE made AS (i int, at timestamptz, day date, took interval, x float8, raw bytea);
	CREATE FUNCTION made(i int) RETURNS made LANGUAGE sql IMMUTABLE AS $$
	  SELECT i, '2024-03-04 05:06:07.89+00'::timestamptz + i * interval '1 hour', date '2024-02-03' + i % 9,
	         interval '-1 day -2 hours' + i * interval '1 minute', pi() * i, decode('00ff' || lpad(to_hex(i), 8, '0'), 'hex') $$;
	CREATE FUNCTION blocks(a int) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
	  BEGIN
	    INSERT INTO run_ops.tag VALUES ('run_' || lpad(a::text, 27, '0'), 1);
	  EXCEPTION WHEN unique_violation THEN
	    UPDATE run_ops.tag SET n = n + 1 WHERE id = 'run_' || lpad(a::text, 27, '0');
	  END;
	  BEGIN
	    UPDATE run_ops.tag SET n = n + 1000 WHERE id = 'run_' || lpad(a::text, 27, '0');
	    PERFORM 1 / 0;
	  EXCEPTION WHEN division_by_zero THEN NULL;
	  END;
	END $$));

my $dir = $PostgreSQL::Test::Utils::tmp_check;
sub script_file
{
	my ($name, $sql) = @_;
	unlink "$dir/$name.sql";
	append_to_file("$dir/$name.sql", "$sql\n");
	return "$dir/$name.sql";
}
my @files = map { ('-f', script_file($_, $script{$_})) } sort keys %script;

# The other application, with the same role of the store over the same pooler.
local $ENV{PGAPPNAME} = $set{application_name};
my $look = 'SELECT ' . join(' || chr(10) || ', map { "'$_ = ' || current_setting('$_')" } sort keys %set);
my $expected = join "\n", map { "$_ = $set{$_}" } sort keys %set;
sub others_see { return run_psql($pooler->connstr('store'), $look) }

sub run_psql
{
	my ($connstr, @commands) = @_;
	my ($out, $err);
	IPC::Run::run([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $connstr, map { ('-c', $_) } @commands ], '>', \$out, '2>', \$err)
	  or diag $err;
	return $out =~ s/\n+\z//r;
}

my $cancel = q(
BEGIN;
SET LOCAL statement_timeout = 20;
SELECT run_ops.ask_store('new', 'SELECT pg_sleep(5)');
ROLLBACK;);

foreach my $case (
	[ 'clients of the control plane itself', $control_plane->connstr('postgres'), 'prepared' ],
	[ 'clients of a pooler before the control plane', $pooler->connstr('control_plane'), 'extended' ])
{
	my ($who, $connstr, $mode) = @$case;
	here(q(DELETE FROM run_ops.step; DELETE FROM run_ops.run; DELETE FROM run_ops.tag; DELETE FROM run_ops.typed; DELETE FROM run_ops.account));
	here("INSERT INTO run_ops.account SELECT @{[ $new->('i') ]}, 0 FROM generate_series(1, 40) AS i;
		INSERT INTO run_ops.account SELECT @{[ $legacy->('i') ]}, 0 FROM generate_series(1, 20) AS i;
		INSERT INTO run_ops.run (id, n) SELECT @{[ $new->('i') ]}, 0 FROM generate_series(1, 3) AS i;
		INSERT INTO run_ops.typed SELECT @{[ $new->('i') ]}, (made(i)).* FROM generate_series(1, 50) AS i");

	# while it runs, the other application looks again and again
	my $other = script_file('other', "SELECT 1 / (($look) OPERATOR(pg_catalog.=) '$expected')::int;");
	my ($looked, $complained, $ignored, $cancels, $out, $err) = ('') x 6;
	my $looking = IPC::Run::start([ 'pgbench', '-n', '-c', 1, '-T', 3600, '-f', $other, $pooler->connstr('store') ],
		'>', \$looked, '2>', \$complained);
	# and one of us is cancelled again and again
	my $cancelled = IPC::Run::start([ 'psql', '-XAtq', '-f', script_file('cancelled', $cancel x 30), '-d', $connstr ], '>', \$ignored, '2>', \$cancels);
	IPC::Run::run([ 'pgbench', '-n', '-M', $mode, '-c', $clients, '-j', 2, '-t', $transactions, '--random-seed=57', @files, $connstr ],
		'>', \$out, '2>', \$err);
	my $all = $clients * $transactions;
	like($out, qr{transactions actually processed: $all/$all\n}, "$who: nothing fails, no answer is wrong") or diag join "\n", grep { /error/ } split /\n/, $err;
	$cancelled->finish;
	is(scalar(() = $cancels =~ /ERROR:  canceling statement due to statement timeout/g), 30, "$who: what is cancelled ends") or diag $cancels;
	$looking->pump_nb;
	ok($looking->pumpable, "$who: another application sees its own settings all the time") or diag $complained;
	$looking->signal('TERM');
	$looking->finish;
	unlike($complained, qr/ERROR|aborted/, "$who: it has nothing to complain of");
	is(others_see(), $expected, "$who: nor afterwards");

	my %done = $out =~ m{/(\w+)\.sql\n - weight: \d+[^\n]*\n - (\d+) transactions}g;
	is(here('SELECT sum(n), count(*) FROM run_ops.account'), '0|60', "$who: what left one account has reached another");
	is(here('SELECT sum(n), (SELECT sum(n) FROM run_ops.step), (SELECT count(*) FROM run_ops.step) FROM run_ops.run'), join('|', ($done{locked}) x 3),
		"$who: every increment under lock_row() counts");
	is(here('SELECT sum(n) FROM run_ops.tag'), $done{blocks}, "$who: every EXCEPTION block counts, and nothing that was undone");
	is(here(q(SELECT count(*), count(*) FILTER (WHERE x < 0) FROM run_ops.typed WHERE i > 50)), 10 * $done{batch} . '|0', "$who: every batch is there");
	cmp_ok($_, '>', 0, "$who: each script has run") foreach values %done;
	is(scalar keys %done, scalar keys %script, "$who: all of them");
	# a cancel may come before what it is for, which runs to its end then
	ok($store->poll_query_until('postgres', q(SELECT count(*) <= 2 AND count(*) FILTER (WHERE state <> 'idle') = 0 FROM pg_stat_activity WHERE usename = 'app')),
		"$who: over two connections, which are idle at last");
}

# --- without the option -----------------------------------------------------------------------

# What the gate is for: with one connection for all, each has the settings of
# the other.  Newer poolers keep some of them apart, but not these.
$pooler->stop;
$pooler = Pooler->start(1, store => sprintf('host=%s port=%s dbname=postgres user=app', $store->host, $store->port));
here(sprintf q(ALTER SERVER new OPTIONS (SET host '%s', SET port '%s', SET pooled 'false')), $pooler->host, $pooler->port);
my $value = "SELECT x = pi() FROM run_ops.typed WHERE id = '" . ksuid(1) . "'";
my $session = $control_plane->background_psql('postgres');
is($session->query($value), 't', 'a value is right');
like(others_see(), qr/^extra_float_digits = 3$/m, 'but another application has our settings');
run_psql($pooler->connstr('store'), "SET extra_float_digits = $set{extra_float_digits}");
is($session->query($value), 'f', 'and we have its, so that a value is wrong');
$session->quit;
here(q(ALTER SERVER new OPTIONS (SET pooled 'true')));
is(here($value), 't', 'with the option it is right');
done_testing();

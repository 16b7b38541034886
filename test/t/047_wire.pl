# The extension's own connections to a store: how much goes over them, what an
# error of the store has, who may use them, and that every wait has an end.

use strict;
use warnings;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use RoundTrips;
use SplitServers;

my ($control_plane, $store) = split_servers();
sub here { return $control_plane->safe_psql('postgres', shift) }
# what psql says about a statement, with every field of an error
sub said
{
	my ($sql) = @_;
	my ($rc, $out, $err) = $control_plane->psql('postgres', "\\set VERBOSITY verbose\n$sql", on_error_stop => 0);
	return $err;
}

# --- much at once ---------------------------------------------------------------------------

is(here(q(SET run_ops_split.store_timeout = '2s';
	SELECT count(*), sum(length(a ->> 't')) FROM run_ops.ask_store('new', 'SELECT i, repeat(i::text, 1000) AS t FROM generate_series(10000, 29999) AS i') AS a)),
	'20000|100000000', 'an answer of 100 MB comes, with a patience of two seconds');
is(here(q(SELECT count(*) FROM run_ops.ask_store('new', 'SELECT repeat(''x'', 50000000) AS t') AS a WHERE length(a ->> 't') = 50000000)),
	'1', 'a row of 50 MB');
is(here(q(SELECT count(*) FROM run_ops.ask_store('new', 'SELECT 1 WHERE false'))), '0', 'no row');
is(here(q(SELECT a, a IS NULL FROM run_ops.ask_store('new', 'SELECT 1 AS n, NULL AS t') AS a)), '{"n": 1, "t": null}|f', 'one with NULL in it');
is(here(q(SELECT run_ops.tell_store('new', format('CREATE TEMP TABLE t AS SELECT %L AS t', repeat('y', 30000000))))), '', 'commands of 30 MB');

# a batch of long rows at the defaults
here('SELECT run_ops.enable_split()');
$store->safe_psql('postgres', q(CREATE TABLE doc (id text PRIMARY KEY, body text NOT NULL)));
here(q(CREATE TABLE doc (id text PRIMARY KEY, body text NOT NULL);
	SELECT run_ops.disable_split(); SELECT run_ops.attach_table('doc', 'shape'); SELECT run_ops.enable_split()));
$store->safe_psql('postgres', q(INSERT INTO doc SELECT 'run_' || lpad(i::text, 27, '0'), repeat(md5(i::text), 125) FROM generate_series(1, 2000) AS i));
foreach (1 .. 50)
{
	last if here('SELECT bool_or(done) FROM run_ops.repatriate()') eq 't';
}
is(here(q(SELECT count(*) FROM public.doc WHERE length(body) = 4000)), '2000', '2,000 rows of 4 kB are repatriated');
# a range is copied in parts of 16 MB, whatever the number of rows, and a row that is larger by itself
is(here(q(CREATE FUNCTION parts(n int, bytes int) RETURNS TABLE (key text, r text) LANGUAGE plpgsql AS
	$$ BEGIN RETURN QUERY EXECUTE run_ops.bounded_query(format('SELECT i::text AS key, repeat(''x'', %s) AS r FROM generate_series(1, %s) AS i', bytes, n)); END $$;
	SELECT n, count(*), max(key), CASE WHEN bool_or(key IS NULL) THEN max(r) END FROM unnest(ARRAY[16, 17, 40, 1], ARRAY[1000000, 1000000, 2000000, 20000000]) AS u (n, bytes), parts(n, bytes) GROUP BY n ORDER BY n)),
	"1|1|1|\n16|16|9|\n17|1||16\n40|1||8", 'long rows in parts');
$store->safe_psql('postgres', q(INSERT INTO doc SELECT 'run_' || lpad((10000 + i)::text, 27, '0'), repeat('x', CASE i WHEN 15 THEN 20000000 ELSE 1000000 END) FROM generate_series(1, 40) AS i));
foreach (1 .. 50)
{
	last if here('SELECT bool_or(done) FROM run_ops.repatriate()') eq 't';
}
is(here(q(SELECT count(*), sum(length(body)) FROM public.doc WHERE body LIKE 'x%')), '40|59000000', 'rows of 59 MB are repatriated');
is(here(q(SELECT sum(differing) FROM run_ops.verify_repatriation())), '0', 'and are equal');

# --- round trips ------------------------------------------------------------------------------

my $dir = PostgreSQL::Test::Utils::tempdir_short();
my $proxy = RoundTrips->start($dir, 7777, $store->host, $store->port);
point_store($control_plane, $dir, 7777);
my $ask = q(SELECT count(*) FROM run_ops.ask_store('new', 'SELECT i FROM generate_series(1, 10000) AS i'));
# A connection is one.  Its settings are sent before the first question, and the
# store may answer them in between, although nobody waits for that.
here($ask);
like($proxy->taken, qr/^[23]$/, 'a question is one round trip, and the connection one');
here("BEGIN; $ask; $ask; $ask; SAVEPOINT s; $ask; RELEASE s; $ask; COMMIT");
like($proxy->taken, qr/^[67]$/, 'a transaction has one connection for all it asks');
here(q(SELECT run_ops.tell_store('new', 'CREATE TEMP TABLE told AS SELECT 1; DROP TABLE told')));
is($proxy->taken, 2, 'commands and their transaction are one round trip');
my ($legacy) = cuid(9);
here(qq(INSERT INTO run_ops.run (id, n) VALUES ('$legacy', 1); UPDATE run_ops.run SET n = 2 WHERE id = '$legacy';
	SELECT * FROM run_ops.run WHERE id = '$legacy'; SELECT run_ops.lock_row('run_ops.run', '$legacy'); DELETE FROM run_ops.run WHERE id = '$legacy'));
is($proxy->taken, 0, 'LEGACY ids take none');
point_store($control_plane, $store->host, $store->port);

# --- errors ---------------------------------------------------------------------------------------

$store->safe_psql('postgres', q(CREATE SCHEMA odd; CREATE DOMAIN odd.small AS int CHECK (VALUE < 10);
	CREATE TABLE odd.t (a int PRIMARY KEY CONSTRAINT positive CHECK (a > 0), b int NOT NULL DEFAULT 1, c odd.small); INSERT INTO odd.t VALUES (1)));
foreach my $case (
	[ 'INSERT INTO odd.t VALUES (1)', qr/ERROR:  23505: .*DETAIL:  Key \(a\)=\(1\).*SCHEMA NAME:  odd\nTABLE NAME:  t\nCONSTRAINT NAME:  t_pkey/s ],
	[ 'INSERT INTO odd.t VALUES (0)', qr/ERROR:  23514: .*TABLE NAME:  t\nCONSTRAINT NAME:  positive/s ],
	[ 'INSERT INTO odd.t VALUES (2, NULL)', qr/ERROR:  23502: .*TABLE NAME:  t\nCOLUMN NAME:  b/s ],
	[ 'INSERT INTO odd.t VALUES (2, 1, 10)', qr/ERROR:  23514: .*DATATYPE NAME:  small\nCONSTRAINT NAME:  small_check/s ],
	[ "DO 'BEGIN RAISE USING MESSAGE = ''50 % off'', DETAIL = ''%s'', HINT = ''%n'', ERRCODE = ''RO999''; END'",
		qr/ERROR:  RO999: 50 % off\nDETAIL:  %s\nHINT:  %n\n/ ])
{
	my ($command, $expected) = @$case;
	like(said("SELECT run_ops.tell_store('new', \$\$$command\$\$)"), $expected, "the error of: $command");
}
my $long = said(q(SELECT run_ops.tell_store('new', format('SELECT %L; SELECT 1/0', repeat('z', 100000)))));
like($long, qr/CONTEXT:  statement in store "new": BEGIN; /, 'the context has the statement');
cmp_ok(length $long, '<', 1500, 'but not all of it');
is(here(q(SELECT run_ops.tell_store('new', 'INSERT INTO odd.t VALUES (5)'); SELECT count(*) FROM run_ops.ask_store('new', 'SELECT FROM odd.t'))), "\n2",
	'and the session goes on');
here(q(CREATE FUNCTION in_doubt_before() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  PERFORM run_ops.tell_store('new', 'INSERT INTO odd.t VALUES (6); SELECT 1/0');
EXCEPTION WHEN division_by_zero THEN RETURN (SELECT count(*) FROM run_ops.ask_store('new', 'SELECT FROM odd.t WHERE a = 6'));
END $$));
is(here('SELECT in_doubt_before()'), '0', 'commands of one call are one transaction');

# An error at the end of a transaction that nobody has begun comes after the rows.
$store->safe_psql('postgres', q(CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
	CREATE FUNCTION late() RETURNS int LANGUAGE sql AS 'INSERT INTO public.child VALUES (1) RETURNING id'; CREATE VIEW late AS SELECT late() AS n;
	CREATE VIEW limits AS SELECT current_setting('statement_timeout') AS t));
here(q(CREATE FOREIGN TABLE late (n int) SERVER new OPTIONS (key 'n'); CREATE FOREIGN TABLE limits (t text) SERVER new));
foreach my $late (q(SELECT run_ops.ask_store('new', 'SELECT public.late()')), 'SELECT n FROM late WHERE n = 1')
{
	my ($ret, $out, $err) = $control_plane->psql('postgres', "\\set VERBOSITY verbose\n$late;\nSELECT t FROM limits;\nSELECT run_ops.ask_store('new', 'SELECT 5 AS n')", on_error_stop => 0);
	like($err, qr/ERROR:  23503: .*TABLE NAME:  child/s, "an error at the end of: $late");
	is($out, qq(0\n{"n": 5}), 'and the next answers are those of the next questions');
}

# what a question sets is not for what comes after it in the transaction
here(q(ALTER SERVER new OPTIONS (ADD options '-c statement_timeout=77s')));
my $written = ksuid(9);
is(here(qq(BEGIN; INSERT INTO run_ops.run (id, n) VALUES ('$written', 1); SELECT t FROM limits;
	SELECT run_ops.ask_store('new', 'SELECT current_setting(''statement_timeout'') AS t'); SELECT t FROM limits; ROLLBACK)),
	qq(77s\n{"t": "0"}\n77s), 'the settings of a question end with it');
here('ALTER SERVER new OPTIONS (DROP options)');

# --- who may ------------------------------------------------------------------------------------------

here(q(CREATE ROLE plain LOGIN; GRANT USAGE ON SCHEMA run_ops TO plain; GRANT EXECUTE ON FUNCTION run_ops.ask_store(text, text, interval) TO plain));
my $as_plain = q(SET SESSION AUTHORIZATION plain; SELECT run_ops.ask_store('new', 'SELECT current_user'););
my $user = getpwuid($<);
like(said($as_plain), qr/42704: user mapping not found/, 'nobody without a user mapping');
here(qq(CREATE USER MAPPING FOR plain SERVER new OPTIONS (user '$user')));
like(said($as_plain), qr/2F003: password is required\nDETAIL:  Non-superusers must provide/, 'no non-superuser without a password');
here(q(ALTER USER MAPPING FOR plain SERVER new OPTIONS (ADD password 'unused')));
like(said($as_plain), qr/2F003: password is required\nDETAIL:  Non-superuser cannot connect/, 'nor where the store does not ask for it');
here(q(ALTER USER MAPPING FOR plain SERVER new OPTIONS (DROP password, ADD password_required 'false')));
is(said($as_plain), '', 'unless a superuser has allowed it');
unlike(said(q(SELECT run_ops.ask_store('nowhere', 'SELECT 1'))), qr/XX000/, 'a store that is none');

# --- an end to every wait --------------------------------------------------------------------------------

# The processes of the store that serve us, frozen.
sub freeze
{
	my @pids = split /\n/, $store->safe_psql('postgres', q(SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'run_ops_split%'));
	kill 'STOP', @pids;
	return @pids;
}
my $postmaster = (split /\n/, slurp_file($store->data_dir . '/postmaster.pid'))[0];
my $session = $control_plane->background_psql('postgres', on_error_stop => 0);
$session->query(q(SET run_ops_split.store_timeout = '1s'; SET run_ops_split.store_retry_pause = 0));

foreach my $frozen ('the process', 'the process and the postmaster')
{
	$session->query(q(BEGIN; SELECT run_ops.ask_store('new', 'SELECT 1')));
	my @pids = freeze();
	is(scalar @pids, 1, 'one connection serves the transaction');
	kill 'STOP', $postmaster if $frozen =~ /postmaster/;
	$session->{stderr} = '';
	$session->query(q(SELECT run_ops.ask_store('new', 'SELECT 1')));
	like($session->{stderr}, qr/store "new" does not answer/, "$frozen of the store is frozen: the wait ends");
	$session->query('ROLLBACK');
	if ($frozen =~ /postmaster/)
	{
		$session->{stderr} = '';
		$session->query(q(SELECT run_ops.ask_store('new', 'SELECT 1')));
		like($session->{stderr}, qr/store "new" cannot be reached/, 'so does the wait for a connection');
		kill 'CONT', $postmaster;
	}
	kill 'CONT', @pids;
	like($session->query(q(SELECT run_ops.ask_store('new', 'SELECT 7 AS n'))), qr/7/, 'and afterwards it answers again');
}

# a cancel, too, and what was cancelled ends in the store
$session->query(q(SET run_ops_split.store_timeout = 0));
my $pid = $session->query('SELECT pg_backend_pid()');
my $canceller = IPC::Run::start([ 'psql', '-XAtqd', $control_plane->connstr('postgres'), '-c',
	qq(DO \$\$ BEGIN LOOP PERFORM pg_stat_clear_snapshot(); EXIT WHEN EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid AND wait_event = 'Extension'); END LOOP; PERFORM pg_cancel_backend($pid); END \$\$) ]);
$session->{stderr} = '';
$session->query(q(SELECT run_ops.ask_store('new', 'SELECT pg_sleep(600)')));
$canceller->finish;
like($session->{stderr}, qr/canceling statement due to user request/, 'a cancel ends the wait');
ok($store->poll_query_until('postgres', q(SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()))),
	'and what the store was asked');
$session->quit;
done_testing();

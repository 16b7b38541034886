# run_ops_fdw gives the answers of postgres_fdw: random transactions over the
# tables of a store, through either, and over the same tables in this database,
# which a row in a store shall be no different from.
#
# The three run the same script, each with tables of its own.  A statement must
# have the rows, the command tag, the SQLSTATE and the message that it has through
# postgres_fdw, or else those that it has here: where postgres_fdw differs from
# one PostgreSQL it is not the one to follow.  What a single session cannot show
# is in 049_isolation.pl: that postgres_fdw keeps one snapshot of the store for a
# whole transaction.
#
# By design these differ, and the scripts leave them out:
#
# - single rows of a table without option "key" cannot be changed;
# - a set of rows may be changed in another order, and so what ends it if several
#   of them fail;
# - an error of the store in the middle of a cursor may come at another FETCH;
# - ctid, xmin and tableoid.
#
# RUN_OPS_SEED repeats a run, RUN_OPS_DIFFERENTIAL has more transactions.
use strict;
use warnings;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use SplitServers;

my $seed = $ENV{RUN_OPS_SEED} // int(rand(1_000_000));
my $transactions = $ENV{RUN_OPS_DIFFERENTIAL} // 90;
note "RUN_OPS_SEED=$seed repeats this run";
srand $seed;

my @schemas = ('wire', 'stock', 'plain');
my ($control_plane, $store) = map { new_server($_, conf => "jit = off\nmax_prepared_transactions = 5") } 'control_plane', 'store';

# --- the tables -------------------------------------------------------------------------------

my $types = q(
	CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy', 'a, "b"');
	CREATE TYPE pair AS (x int, y text);
	CREATE DOMAIN small AS int CHECK (VALUE < 1000););
my $tables = q(
	CREATE TABLE a (id text PRIMARY KEY, n int, i8 bigint, num numeric(12,3), f float8, r float4, t text, v varchar(10), c char(5), b bool,
	  d date, ts timestamp, tz timestamptz, tt time, iv interval, u uuid, j jsonb, ar int[], ta text[], m public.mood, ma public.mood[],
	  dm public.small, bt bytea, rg int4range, ip inet, pt point, p public.pair, gen int GENERATED ALWAYS AS (n * 2) STORED);
	INSERT INTO a SELECT 'a' || i, nullif(i % 40, 7), i * 10000000000, i / 7.0, i / 3.0, i / 9.0::float4,
	  (ARRAY['', 'plain', 'it''s', 'back\slash', '"quoted"', 'NULL', 'ünïcödé', 'a,b{c}', '%', '$1', NULL])[1 + i % 11], 'v' || i % 13, 'c' || i % 5,
	  (ARRAY[true, false, NULL])[1 + i % 3], date '2026-01-01' + i, timestamp '2026-01-01 00:00:01.5' + i * interval '7 hours',
	  timestamptz '2026-03-29 00:00:00+00' + i * interval '11 minutes', time '00:00' + i * interval '97 seconds', i * interval '1 month 3 days 0.5 seconds',
	  md5(i::text)::uuid, jsonb_build_object('i', i, 'x', ARRAY[i, NULL], 't', 'q"''' || i), ARRAY[i, NULL, i % 3], ARRAY['a' || i, 'b,c', NULL, ''],
	  (ARRAY['sad', 'ok', 'happy', 'a, "b"', NULL])[1 + i % 5]::public.mood, ARRAY['ok', 'a, "b"']::public.mood[], i % 500, decode(md5(i::text), 'hex'),
	  int4range(i, i + i % 4), ('10.0.' || i % 256 || '.1')::inet, point(i, 0.1), ROW(i, 'y,' || i)::public.pair
	  FROM generate_series(1, 300) AS i;
	INSERT INTO a (id) VALUES ('empty');
	CREATE TABLE b (id int PRIMARY KEY, a_id text, k int, v text DEFAULT 'unset');
	INSERT INTO b SELECT i, CASE WHEN i % 17 > 0 THEN 'a' || i * 7 % 330 END, i % 10, (ARRAY['x', 'y', NULL])[1 + i % 3] FROM generate_series(1, 1000) AS i;
	CREATE INDEX ON b (a_id);
	CREATE TABLE big (id int PRIMARY KEY, g int, t text);
	INSERT INTO big SELECT i, i % 100, repeat(chr(65 + i % 26), i % 60) FROM generate_series(1, 12000) AS i;
	CREATE TABLE nothing (id int PRIMARY KEY, k int, v text);
	CREATE TABLE part (id int, k int, v text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
	CREATE TABLE part0 PARTITION OF part FOR VALUES IN (0);
	CREATE TABLE part1 PARTITION OF part FOR VALUES IN (1);
	CREATE TABLE part2 PARTITION OF part DEFAULT;
	INSERT INTO part SELECT i, i % 4, 'p' || i % 9 FROM generate_series(1, 300) AS i;
	CREATE TABLE strict (id int PRIMARY KEY, v varchar(6) NOT NULL, n int CHECK (n < 100), u int UNIQUE, m public.mood);
	INSERT INTO strict SELECT i, 's' || i, i % 90, i + 5000, 'ok' FROM generate_series(1, 200) AS i;
	CREATE FUNCTION strict_row() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
	  IF TG_OP = 'DELETE' THEN
	    RETURN CASE WHEN OLD.v = 'keep' THEN NULL ELSE OLD END;
	  ELSIF NEW.v = 'skip' THEN
	    RETURN NULL;
	  ELSIF NEW.v = 'raise' THEN
	    RAISE EXCEPTION 'raised' USING ERRCODE = 'ZZ001', DETAIL = 'd', HINT = 'h';
	  END IF;
	  NEW.v := upper(NEW.v);
	  RETURN NEW;
	END $$;
	CREATE TRIGGER strict_row BEFORE INSERT OR UPDATE OR DELETE ON strict FOR EACH ROW EXECUTE FUNCTION strict_row();
	CREATE TABLE audited (id int PRIMARY KEY, n int, v text);
	INSERT INTO audited SELECT i, i, 'w' || i FROM generate_series(1, 60) AS i;);

foreach my $schema ('wire', 'stock')
{
	$store->safe_psql('postgres', ($schema eq 'wire' ? $types : '') . "CREATE SCHEMA $schema; SET search_path = $schema; $tables");
}
$store->safe_psql('postgres', 'ANALYZE');

sub pick { return $_[ rand @_ ] }
my ($host, $port) = ($store->host, $store->port);
my $setup = qq(
	SET client_min_messages = warning;
	CREATE EXTENSION run_ops_split CASCADE;
	$types
	CREATE SERVER wire FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host '$host', port '$port', dbname 'postgres');
	CREATE SERVER stock FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'postgres');
	CREATE USER MAPPING FOR CURRENT_USER SERVER wire;
	CREATE USER MAPPING FOR CURRENT_USER SERVER stock;
	CREATE SCHEMA plain;
	SET search_path = plain;
	$tables;
	RESET search_path;
);
my @foreign = ('a', 'b', 'big', 'nothing', 'part', 'strict', 'audited');
my %options;
foreach my $table (@foreign)
{
	# so that cursors fetch once or many times
	my $fetch = pick('', '', 1, 7, 99, 100, 101, 20000);
	my $batch = pick('', '', 2, 10, 100);
	$options{$table} = join ', ', ($fetch ? "ADD fetch_size '" . ($table eq 'big' && $fetch =~ /^[17]$/ ? $fetch * 50 : $fetch) . q(') : ()),
	  ($batch ? "ADD batch_size '$batch'" : ());
}
note "options of the tables: ", join '; ', map { "$_: $options{$_}" } @foreign;
foreach my $schema ('wire', 'stock')
{
	$setup .= "CREATE SCHEMA $schema; IMPORT FOREIGN SCHEMA $schema FROM SERVER $schema INTO $schema OPTIONS (import_default 'true');";
	$setup .= "ALTER FOREIGN TABLE $schema.$_ OPTIONS ($options{$_});" foreach grep { $options{$_} } @foreign;
}
$setup .= "ALTER FOREIGN TABLE wire.$_ OPTIONS (ADD key 'id'); ALTER FOREIGN TABLE wire.$_ ALTER COLUMN id OPTIONS (ADD indexed 'true');"
  foreach grep { $_ ne 'part' } @foreign;
$setup .= q(ALTER FOREIGN TABLE wire.part OPTIONS (ADD key 'id, k');
	ALTER FOREIGN TABLE wire.b ALTER COLUMN a_id OPTIONS (ADD indexed 'true'););
foreach my $schema (@schemas)
{
	$setup .= qq(
		SET search_path = $schema, public;
		CREATE TABLE loc (id int PRIMARY KEY, a_id text, n int);
		INSERT INTO loc SELECT i, CASE WHEN i % 9 > 0 THEN 'a' || i * 11 % 320 END, i % 12 FROM generate_series(1, 40) AS i;
		CREATE TABLE log (id serial PRIMARY KEY, what text);
		CREATE FUNCTION here(int) RETURNS boolean LANGUAGE plpgsql VOLATILE AS 'BEGIN RETURN \$1 % 3 < 2; END';
		CREATE FUNCTION stable_five() RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN 5; END';
		CREATE FUNCTION of_a(wanted text) RETURNS bigint LANGUAGE plpgsql VOLATILE SET search_path = $schema AS
		  'BEGIN RETURN (SELECT count(*) FROM b WHERE a_id = wanted); END';
		CREATE FUNCTION note_row() RETURNS trigger LANGUAGE plpgsql SET search_path = $schema AS \$\$
		BEGIN
		  INSERT INTO log (what) VALUES (concat_ws(' ', TG_OP, TG_WHEN, OLD::text, NEW::text));
		  IF TG_WHEN = 'BEFORE' AND TG_OP = 'UPDATE' THEN
		    NEW.v := NEW.v || '+';
		  ELSIF TG_WHEN = 'BEFORE' AND TG_OP = 'DELETE' AND OLD.n % 5 = 0 THEN
		    RETURN NULL;
		  END IF;
		  RETURN coalesce(NEW, OLD);
		END \$\$;
		CREATE TRIGGER note_before BEFORE INSERT OR UPDATE OR DELETE ON audited FOR EACH ROW EXECUTE FUNCTION note_row();
		CREATE TRIGGER note_after AFTER INSERT OR UPDATE OR DELETE ON audited FOR EACH ROW EXECUTE FUNCTION note_row(););
}
$setup .= 'ANALYZE;' if pick(0, 1, 1);
$control_plane->safe_psql('postgres', $setup);

# --- the scripts --------------------------------------------------------------------------------

my @script;
my $unique = 10_000;
sub next_id { return $unique++ }

# a statement, whose rows come in an order or not
sub add { my ($sql, $ordered) = @_; push @script, { sql => $sql, ordered => $ordered // 0 }; return }

sub any_id { return pick(map { "'a" . int(rand 330) . "'" } 1 .. 3) }
sub limit { return pick('', '', ' LIMIT 1', ' LIMIT 10', ' LIMIT 0', ' LIMIT ALL', ' LIMIT 99', ' LIMIT 101', ' OFFSET 3', ' LIMIT 7 OFFSET 95', ' FETCH FIRST 2 ROWS ONLY') }
sub rows_of_big { return pick(0, 1, 2, 99, 100, 101, 199, 200, 201, 1000, 9999, 10000, 10001, 12000) }

# a condition on "a" as x
sub on_a
{
	my ($depth) = @_;
	$depth //= 0;
	return '(' . on_a($depth + 1) . pick(' AND ', ' OR ', ' AND NOT ') . on_a($depth + 1) . ')' if $depth < 2 && rand() < 0.35;
	return pick(
		'x.id = ' . any_id(), 'x.id IN (' . join(', ', map { any_id() } 1 .. 4) . ')', 'x.id = ANY (ARRAY[' . any_id() . ', NULL])', "x.id LIKE 'a1%'",
		'x.n < ' . int(rand 45), 'x.n IS NULL', 'x.n % 3 = 1', 'here(x.n)', 'x.n = stable_five()', 'x.n = (SELECT max(l.n) FROM loc AS l)',
		'x.num > 12.345', 'x.f < 33.3', 'x.r > 3', "x.t = 'it''s'", "x.t = 'back\\slash'", "x.t = ''", "x.t ~ '^[a-p]'", 'x.t IS NOT DISTINCT FROM NULL',
		"x.v = 'v3'", "x.c = 'c1'", 'x.b', 'NOT x.b', 'x.b IS NOT TRUE', "x.d > '2026-05-01'", "x.ts < timestamp '2026-02-01 12:00'",
		"x.tz > '2026-03-30 00:00+02'", "x.tz BETWEEN '2026-03-29 01:00' AND '2026-03-29 12:00'", "x.tt < '03:00'", "x.iv > interval '10 months'",
		"x.u > '80000000-0000-0000-0000-000000000000'", "x.j \@> '{\"i\": 3}'", "(x.j ->> 'i')::int < 30", 'x.ar[1] < 20', 'x.ar && ARRAY[1, 2]',
		"x.ta[1] = 'a5'", "x.m = 'happy'", "x.m > 'sad'", "x.m = 'a, \"b\"'", "x.m IN ('ok', 'sad')", "'ok' = ANY (x.ma)", 'x.dm < 100',
		"x.bt < '\\x80'", 'x.rg @> 17', "x.ip << '10.0.0.0/20'", 'x.pt[0] < 50', '(x.p).x < 40', 'x.gen = 10', 'x.p IS NULL', 'x IS NULL',
		'EXISTS (SELECT FROM b WHERE b.a_id = x.id AND b.k = 3)', 'x.id IN (SELECT l.a_id FROM loc AS l)', 'x.id NOT IN (SELECT b.a_id FROM b WHERE b.a_id IS NOT NULL)',
		'NOT EXISTS (SELECT FROM loc AS l WHERE l.a_id = x.id)', 'x.n > ALL (SELECT l.n FROM loc AS l WHERE l.id < 5)', 'of_a(x.id) > 2', 'false', 'NULL', '1 = 1');
}
sub columns_of_a
{
	return pick('x.id', 'x.*', 'x', 'x.id, x.tz, x.ts, x.iv, x.d', 'x.f, x.r, x.num, x.id', 'x.ar, x.ta, x.ma, x.id', 'x.p, (x.p).y, x.pt, x.j, x.id', 'x.id, x.n + 1, upper(x.t)',
		'1', 'x.id, x.m, x.dm, x.c, x.v, x.bt, x.gen', 'x.id, x.j ->> \'t\', x.t || \'!\'');
}
my $join = sub { return pick('', '', 'LEFT ', 'RIGHT ', 'FULL ') };

# (query, whether it has a total order); parameters are $1 (text) and $2 (int)
sub query
{
	my $n = int rand 30;
	my $rows = rows_of_big();
	my $local = pick('', ' AND here(x.id)', ' AND random() >= 0');
	return ('SELECT ' . columns_of_a() . ' FROM a AS x WHERE ' . on_a()) if $n <= 2;
	return ('SELECT ' . columns_of_a() . ' FROM a AS x WHERE ' . on_a() . ' ORDER BY ' . pick('', 'x.n, ', 'x.num DESC NULLS LAST, ', 'x.m, ') . 'x.id' . limit(), 1) if $n <= 4;
	return ("SELECT x.id, x.t FROM big AS x WHERE x.id <= $rows$local ORDER BY x.id" . limit(), 1) if $n == 5;
	return ("SELECT x.* FROM big AS x WHERE x.id <= $rows$local") if $n == 6;
	return ("SELECT count(*), sum(x.g), max(x.t), count(DISTINCT x.g) FROM big AS x WHERE x.id <= $rows$local") if $n == 7;
	return ("SELECT x.g, count(*), min(x.id) FROM big AS x WHERE x.id <= $rows$local GROUP BY x.g HAVING count(*) > 1" . pick('', ' ORDER BY 1'), 0) if $n == 8;
	return ('SELECT x.m, x.b, count(*), sum(x.n), min(x.t), max(x.tz), avg(x.num) FROM a AS x WHERE ' . on_a() . ' GROUP BY x.m, x.b') if $n == 9;
	return ('SELECT x.id, b.id FROM a AS x ' . $join->() . 'JOIN b ON b.a_id = x.id' . pick('', ' AND b.k < 5', ' AND ' . on_a()) . ' WHERE ' . pick('true', on_a(), 'b.k = 3', on_a() . ' AND b.k > 2')) if $n <= 11;
	return ('SELECT x, b, b.k FROM a AS x ' . $join->() . 'JOIN b ON b.a_id = x.id AND b.k = x.n') if $n == 12;
	return ('SELECT l.id, x.id, x.t FROM loc AS l ' . $join->() . 'JOIN a AS x ON x.id = l.a_id' . pick('', ' AND x.n > l.n') . pick('', ' WHERE l.id < 9')) if $n == 13;
	return ('SELECT l.id, x.id, b.id FROM loc AS l JOIN a AS x ON x.id = l.a_id ' . pick('', 'LEFT ') . 'JOIN b ON b.a_id = x.id WHERE ' . on_a()) if $n == 14;
	return ('SELECT l.id, s.* FROM loc AS l' . pick(',', ' LEFT JOIN') . ' LATERAL (SELECT x.id, x.n FROM a AS x WHERE ' . pick('x.n > l.n', 'x.id = l.a_id OR x.n = l.n', on_a())
		  . ' ORDER BY x.id' . limit() . ') AS s' ) =~ s/(LEFT JOIN .*)$/$1 ON true/r if $n == 15;
	return ('SELECT l.id, (SELECT x.t FROM a AS x WHERE x.id = l.a_id), (SELECT count(*) FROM b WHERE b.a_id = l.a_id AND b.k < l.n) FROM loc AS l WHERE l.id < 20') if $n == 16;
	return ('SELECT l.id, ARRAY(SELECT b.id FROM b WHERE b.a_id = l.a_id ORDER BY b.id), EXISTS (SELECT FROM nothing WHERE id = l.id) FROM loc AS l') if $n == 17;
	return ('SELECT x.id FROM a AS x WHERE ' . on_a() . pick(' UNION ', ' UNION ALL ', ' EXCEPT ', ' INTERSECT ') . 'SELECT b.a_id FROM b WHERE b.k < 4') if $n == 18;
	return ('WITH c AS ' . pick('', 'MATERIALIZED ') . '(SELECT * FROM b WHERE k < 7) SELECT o.id, p.id FROM c AS o JOIN c AS p ON p.a_id = o.a_id AND p.id > o.id') if $n == 19;
	return ('SELECT x.id, x.n, rank() OVER (PARTITION BY x.b ORDER BY x.n, x.id), sum(x.n) OVER (ORDER BY x.id) FROM a AS x WHERE ' . on_a()) if $n == 20;
	return ('SELECT x.id, x.n FROM a AS x WHERE x.id = $1 OR x.n = $2') if $n == 21;
	return ('SELECT x.id, b.id FROM a AS x JOIN b ON b.a_id = x.id WHERE x.id = $1 AND b.k <> $2') if $n == 22;
	return ("SELECT x.id, x.v FROM nothing AS x" . pick('', ' ORDER BY x.id LIMIT 3')) if $n == 23;
	return ('SELECT count(*), max(v) FROM part WHERE ' . pick('k = 1', 'id < 100', 'here(id)', 'id = $2')) if $n == 24;
	return ('SELECT x.id FROM big AS x WHERE x.g = $2 AND ' . pick('x.id < 5000', 'here(x.id)', 'EXISTS (SELECT FROM b WHERE b.id = x.id AND b.a_id > $1)') . ' ORDER BY x.id' . limit(), 1) if $n == 25;
	return ('SELECT (SELECT count(*) FROM big WHERE g = b.k), b.id FROM b WHERE b.id < 12') if $n == 26;
	return ('SELECT DISTINCT ON (x.g) x.g, x.id FROM big AS x WHERE x.id <= ' . $rows . ' ORDER BY x.g, x.id DESC', 1) if $n == 27;
	return ('SELECT x.id, 10 / (x.n - 5) FROM a AS x WHERE ' . on_a() . ' ORDER BY x.id', 1) if $n == 28;
	return ('SELECT o.id, i.id FROM b AS o, ' . pick('b', 'big', 'part') . ' AS i WHERE i.id = o.id + $2 AND o.k = 1 AND here(o.id)');
}
sub ordered_query
{
	foreach (1 .. 200)
	{
		my ($query, $ordered) = query();
		# an error comes at whatever FETCH
		return $query if $ordered && $query !~ /\$[12]|\/ \(x/;
	}
	return 'SELECT x.id FROM big AS x ORDER BY x.id';
}
sub literal
{
	my ($query) = @_;
	my ($text, $int) = (any_id(), pick(0, 3, 5, 'NULL', 50));
	$query =~ s/\$1/$text/g;
	$query =~ s/\$2/$int/g;
	return $query;
}

my $locking = sub {
	my $how = pick('UPDATE', 'SHARE', 'NO KEY UPDATE', 'KEY SHARE') . pick('', '', ' NOWAIT', ' SKIP LOCKED');
	return pick("SELECT x.id, x.n FROM a AS x WHERE x.n < 20 AND " . on_a() . " FOR $how", "SELECT x.id FROM b AS x WHERE x.k = 3 ORDER BY x.id LIMIT 5 FOR $how",
		"SELECT l.id, x.id FROM loc AS l JOIN a AS x ON x.id = l.a_id FOR $how OF x", "SELECT x.id, b.id FROM a AS x JOIN b ON b.a_id = x.id WHERE b.k = 2 FOR $how",
		"SELECT x.id, b.id FROM a AS x JOIN b ON b.a_id = x.id WHERE b.k = 2 FOR $how OF b", "SELECT x.id FROM part AS x WHERE x.k = 1 FOR $how");
};

my $returning = sub {
	my ($x, @more) = @_;
	return '' if rand() < 0.4;
	return ' RETURNING ' . pick("$x.*", "$x.id", $x, '1', "$x.id, $x.id || 'r'", "$x.id, (SELECT count(*) FROM nothing)", @more);
};
sub insert_row
{
	my $id = pick(1, 17, next_id(), next_id(), next_id(), next_id());
	return pick(
		"INSERT INTO b AS x VALUES ($id, " . any_id() . ', 3, ' . pick("'new'", 'NULL', 'DEFAULT', q('it''s \ "q" {1,2}')) . ')' . $returning->('x'),
		"INSERT INTO b AS x (id, k) VALUES " . join(', ', map { '(' . next_id() . ", $_)" } 1 .. pick(1, 2, 9, 10, 11, 120)) . $returning->('x'),
		"INSERT INTO b AS x SELECT id + " . ($unique += 2000) . ", a_id, n, 'from loc' FROM loc WHERE id < " . pick(1, 2, 12, 50) . $returning->('x'),
		"INSERT INTO b AS x SELECT id + " . ($unique += 2000) . ", a_id, k, v FROM b WHERE id < " . pick(0, 2, 120, 250) . $returning->('x'),
		"INSERT INTO b AS x VALUES ($id, 'c', 1, 'c') ON CONFLICT DO NOTHING" . $returning->('x'),
		"INSERT INTO b AS x SELECT id + 990, 'c', 1, 'c' FROM loc ON CONFLICT DO NOTHING" . $returning->('x'),
		"INSERT INTO a AS x (id, n, m, ar, ta, p, tz, iv, j, bt, dm) VALUES ('n$id', " . pick(5, 'NULL', '99') . ", " . pick(q('a, "b"'), 'NULL') . q(, '{1,NULL}', '{"a\"b","c\\\\d",NULL}', '(1,"x,""y")', )
		  . q('2026-10-25 02:30 Europe/Berlin', '-1 mon +2 days -3.000001', '{"a": [1, "x"]}', '\xdeadbeef00', ) . pick(1, 2, 5000) . ')' . $returning->('x'),
		"INSERT INTO strict AS x VALUES ($id, '" . pick('ab', 'skip', 'raise', 'toolongvalue', 'keep') . "', " . pick(1, 99, 100, 'NULL') . ", " . pick(5001, $id, $id) . ", " . pick("'ok'", 'NULL') . ')' . $returning->('x'),
		"INSERT INTO strict AS x SELECT id + " . ($unique += 2000) . ", CASE WHEN id % 3 = 0 THEN 'skip' ELSE 'm' || id END, 1, id + $unique, 'sad' FROM loc" . $returning->('x'),
		"INSERT INTO part AS x VALUES ($id, " . int(rand 5) . ", 'ins')" . $returning->('x'),
		"INSERT INTO nothing AS x SELECT " . ($unique += 2000) . " + i, i, 'i' FROM generate_series(1, " . pick(1, 99, 100, 101, 1000) . ') AS i' . $returning->('x'),
		"INSERT INTO audited AS x VALUES ($id, 3, 'ins')" . $returning->('x'),
		pick("INSERT INTO b (id) VALUES (NULL)", "INSERT INTO a DEFAULT VALUES", "INSERT INTO b AS x DEFAULT VALUES" . $returning->('x'), "INSERT INTO a (id, gen) VALUES ('g', 1)"),
		 "INSERT INTO loc VALUES ($id + 100, 'a3', 1) RETURNING *");
}
sub update_row
{
	my $from = int rand 1000;
	my $to = $from + pick(0, 1, 5, 60, 150);
	my $away = pick('', ' AND here(x.id)', ' AND random() >= 0');
	return pick(
		"UPDATE b AS x SET k = x.k + 1 WHERE x.id BETWEEN $from AND $to$away" . $returning->('x'),
		"UPDATE b AS x SET v = 'it''s \"' || coalesce(x.v, '{NULL}') || '\\', a_id = NULL WHERE x.id BETWEEN $from AND $to$away" . $returning->('x'),
		"UPDATE b AS x SET k = l.n, v = l.a_id FROM loc AS l WHERE l.id = x.id$away" . $returning->('x', 'x.*, l.*', 'l', 'x, l'),
		"DELETE FROM b AS x USING loc AS l WHERE l.n = x.id - $from$away" . $returning->('x'),
		"UPDATE b AS x SET k = b.k + 1 FROM b WHERE b.id = x.id + 1 AND x.id BETWEEN $from AND $to$away" . $returning->('x', 'x.*, b.*'),
		"UPDATE b AS x SET v = (SELECT o.t FROM a AS o WHERE o.id = x.a_id) WHERE x.id BETWEEN $from AND $to$away" . $returning->('x'),
		"UPDATE b AS x SET id = x.id + " . ($unique += 2000) . " WHERE x.id BETWEEN $from AND $to$away" . $returning->('x'),
		'UPDATE a AS x SET n = 77, ar = ar || 5, m = \'happy\', p = ROW(1, \'p\'), tz = x.tz + interval \'1 day\', iv = x.iv * 2, j = x.j || \'{"u": null}\', ta = ARRAY[\'q"\\,\', NULL] WHERE ' . on_a() . $returning->('x'),
		'UPDATE a AS x SET v = ' . pick("'short'", "'much too long'", "x.id || 'x'") . ', dm = 7, c = \'z\', bt = \'\\x00ff\', ip = \'::1\', rg = \'empty\', pt = point(1e-7, 3), f = 1.0/3, r = 0.1 WHERE ' . on_a() . $returning->('x'),
		'UPDATE a AS x SET ma = \'{happy,"a, \\"b\\""}\', t = o.t FROM (SELECT id, t || \'\' AS t FROM a OFFSET 0) AS o WHERE o.id = x.id AND ' . on_a() . $returning->('x'),
		"UPDATE strict AS x SET v = '" . pick('cd', 'skip', 'raise', 'toolongvalue') . "' WHERE x.id = " . (1 + int rand 200) . $away . $returning->('x'),
		"UPDATE strict AS x SET n = " . pick(5, 100) . ", m = 'sad' WHERE x.id < " . pick(2, 30) . $away . $returning->('x'),
		"UPDATE strict AS x SET v = CASE WHEN x.id % 2 = 0 THEN 'skip' ELSE 'ef' END WHERE x.id < 30$away" . $returning->('x'),
		"UPDATE audited AS x SET n = x.n + 1 WHERE x.id < " . pick(2, 30) . $away . $returning->('x'),
		"UPDATE nothing AS x SET v = 'u'" . $returning->('x'), "UPDATE part AS x SET v = 'u' || x.v WHERE x.k = " . int(rand 4),
		"UPDATE loc SET n = n + 1 WHERE id IN (SELECT id FROM b WHERE k = 3) RETURNING *",
		"UPDATE b AS x SET k = 5 WHERE x.a_id = (SELECT a_id FROM loc WHERE id = 3)$away" . $returning->('x'),
		"DELETE FROM b AS x WHERE x.id BETWEEN $from AND $to$away" . $returning->('x'),
		"DELETE FROM b AS x USING loc AS l WHERE l.id = x.id AND l.n > " . int(rand 12) . $away . $returning->('x', 'x.*, l.*'),
		"DELETE FROM b AS x USING a AS o WHERE o.id = x.a_id AND o.n = " . int(rand 40) . $away . $returning->('x', 'x.id, o.id'),
		"DELETE FROM strict AS x WHERE x.id < " . pick(1, 3, 9) . $away . $returning->('x'), "DELETE FROM audited AS x WHERE x.id < " . pick(5, 20) . $returning->('x'),
		'DELETE FROM a AS x WHERE x.n = ' . int(rand 40) . ' AND ' . on_a() . $returning->('x'), 'DELETE FROM nothing AS x WHERE here(x.id)' . $returning->('x'),
		"WITH u AS (UPDATE b AS x SET k = x.k + 10 WHERE x.id BETWEEN $from AND $to$away RETURNING x.id, x.k) SELECT count(*), sum(k) FROM u",
		"WITH d AS (DELETE FROM b AS x WHERE x.id BETWEEN $from AND $to$away RETURNING x.*) INSERT INTO log (id, what) SELECT id + " . ($unique += 2000) . ", d::text FROM d RETURNING *",
		"WITH i AS (INSERT INTO nothing VALUES (" . next_id() . ", 1, 'w') RETURNING id), u AS (UPDATE strict SET n = 3 WHERE id = 4 RETURNING id) SELECT (SELECT count(*) FROM i), (SELECT count(*) FROM u), (SELECT count(*) FROM b)",
		"WITH d AS (DELETE FROM part AS x WHERE x.id BETWEEN $from AND $to RETURNING x.*) SELECT count(*), max(v) FROM d");
}
sub copy_rows
{
	my $ids = pick(1, 3, 120);
	return "COPY nothing FROM stdin;\n" . join('', map { next_id() . "\t$_\tcopy\\t$_\n" } 1 .. $ids) . '\\.' if rand() < 0.7;
	return "COPY b (id, v) FROM stdin;\n" . next_id() . "\tx\n5\ty\n\\.";
}
sub plpgsql
{
	my $from = int rand 900;
	my $body = pick(
		# a loop, left early or not, with writes and reads in it
		sub {
			my $query = ordered_query();
			my $inner = pick("total := total + (SELECT count(*) FROM b WHERE k = loops % 10);", "UPDATE b SET k = k + 1 WHERE id = $from + loops;",
				"INSERT INTO nothing VALUES (" . ($unique += 20000) . " + loops, loops, 'loop') ON CONFLICT DO NOTHING;", 'PERFORM * FROM big WHERE id <= loops * 50;', '');
			my $exit = pick(1, 3, 60, 110);
			return "FOR r IN $query LOOP loops := loops + 1; total := total + length(r::text); $inner EXIT WHEN loops >= $exit; END LOOP;";
		},
		# EXCEPTION blocks in a loop; errors of the store and here
		sub {
			my $wrong = pick("INSERT INTO b VALUES (1)", "INSERT INTO strict VALUES (5000 + loops, 'raise')", "PERFORM 1 / (loops % 3)", "UPDATE strict SET n = 100 + loops WHERE id = 5",
				"PERFORM 10 / (x.n - 5) FROM a AS x", "PERFORM count(*) FROM a AS x WHERE 10 / (x.n - 5) > 0 AND random() < 2", 'RAISE EXCEPTION $e$mine$e$', "UPDATE a SET v = 'much too long'",
				"INSERT INTO nothing SELECT i, i, 'e' FROM generate_series(1, 3) AS i; PERFORM 1 / 0");
			my $right = pick("UPDATE b SET k = k + 1 WHERE id = $from + loops", "INSERT INTO nothing VALUES (" . ($unique += 20000) . " + loops)", "total := total + (SELECT count(*) FROM a WHERE n = loops)", 'NULL');
			return "FOR r IN " . pick('SELECT i FROM generate_series(1, 12) AS i', 'SELECT id FROM b WHERE k = 4 ORDER BY id', 'SELECT id FROM big WHERE id < 300 ORDER BY id')
			  . " LOOP loops := loops + 1; BEGIN $right; $wrong; total := total + 1; EXCEPTION WHEN OTHERS THEN total := total + ascii(SQLSTATE); said := said || SQLSTATE; "
			  . pick('', "UPDATE b SET v = 'caught' WHERE id = $from + loops; ", 'total := total + (SELECT count(*) FROM b WHERE v = $e$caught$e$); ') . "END; EXIT WHEN loops > 40; END LOOP; said := left(said, 60);";
		},
		# several cursors at once
		sub {
			my ($one, $two) = (ordered_query(), ordered_query());
			return "OPEN c SCROLL FOR $one; OPEN d FOR $two; FOR i IN 1 .. 12 LOOP FETCH c INTO r; said := said || length(r::text) || ','; FETCH d INTO r; said := said || coalesce(length(r::text), 0) || ';'; "
			  . pick('', 'PERFORM count(*) FROM b;', 'UPDATE b SET k = k + 1 WHERE id = i;', 'BEGIN UPDATE b SET k = k + 1 WHERE id = i; RAISE EXCEPTION $e$x$e$; EXCEPTION WHEN OTHERS THEN NULL; END;')
			  . " END LOOP; MOVE FORWARD " . pick(1, 50, 100, 'ALL') . " FROM c; FETCH " . pick('PRIOR', 'FIRST', 'LAST', 'ABSOLUTE 2', 'RELATIVE -3') . " FROM c INTO r; said := said || coalesce(r::text, 'none'); CLOSE c; CLOSE d;";
		},
		sub {
			return "FOR i IN 1 .. 8 LOOP SELECT x.id, x.n INTO r FROM a AS x WHERE x.id = 'a' || i * $from % 300; said := said || coalesce(r::text, '-'); SELECT count(*) INTO loops FROM b WHERE b.k = i; total := total + loops; END LOOP;";
		},)->();
	return "DO \$\$ DECLARE r record; c refcursor; d refcursor; loops int := 0; total bigint := 0; said text := ''; BEGIN $body PERFORM set_config('t.said', concat_ws(' ', loops, total, said), false); END \$\$";
}
sub read_in_random_way
{
	my ($query, $ordered) = query();
	my $way = rand();
	if ($way < 0.15)
	{
		my $name = 'p' . next_id();
		add("SET plan_cache_mode = force_" . pick('generic', 'custom') . '_plan');
		add("PREPARE $name (text, int) AS $query");
		add("EXECUTE $name (" . any_id() . ', ' . pick(0, 3, 'NULL', 17) . ')', $ordered) foreach 1 .. 3;
		add("RESET plan_cache_mode");
		add("EXECUTE $name (NULL, 5)", $ordered);
		return;
	}
	$query = literal($query);
	return add("SELECT count(*) FROM ($query) AS q") if $way < 0.25;
	return add("CREATE TEMP TABLE tmp" . next_id() . " AS $query") if $way < 0.28;
	return add($query, $ordered);
}
sub one_statement
{
	my $way = rand();
	return read_in_random_way() if $way < 0.3;
	return add(insert_row()) if $way < 0.5;
	return add(update_row()) if $way < 0.77;
	return add(copy_rows()) if $way < 0.8;
	return add($locking->()) if $way < 0.85;
	if ($way < 0.97)
	{
		add(plpgsql());
		add('SHOW t.said');
		return;
	}
	return add(pick('TRUNCATE nothing', 'TRUNCATE strict, nothing', 'SELECT 1/0', 'SELECT * FROM missing', 'ANALYZE b', "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) SELECT 1", 'SELECT count(*) FROM log'));
}
my $begin = sub { return 'BEGIN' . pick('', '', ' ISOLATION LEVEL REPEATABLE READ', ' ISOLATION LEVEL SERIALIZABLE', rand() < 0.2 ? ' READ ONLY' : '') };

my %kind = (
	statements => sub { one_statement() foreach 1 .. 2 + rand 4 },
	block => sub {
		add($begin->());
		my @savepoints;
		foreach (1 .. 2 + rand 9)
		{
			my $way = rand();
			if ($way < 0.15)
			{
				push @savepoints, 's' . pick(1 .. 3);
				add("SAVEPOINT $savepoints[-1]");
			}
			elsif ($way < 0.35 && @savepoints)
			{
				add((rand() < 0.7 ? 'ROLLBACK TO ' : 'RELEASE ') . pick(@savepoints));
			}
			else
			{
				one_statement();
			}
		}
		add(pick('COMMIT', 'COMMIT', 'COMMIT', 'ROLLBACK', 'COMMIT AND CHAIN'));
		add('ROLLBACK') if $script[-1]{sql} =~ /CHAIN/;
	},
	cursors => sub {
		add($begin->());
		my $hold = 0;
		my %can_scroll;
		my $fetch = sub {
			my ($c) = @_;
			my @ways = ('NEXT', '1', '2', '9', '99', '100', '101', 'FORWARD 5', 'RELATIVE 4', 'ABSOLUTE 250', 'ALL');
			push @ways, '0', 'BACKWARD 2', 'BACKWARD ALL', 'FIRST', 'LAST', 'ABSOLUTE 3', 'ABSOLUTE -2', 'PRIOR' if $can_scroll{$c};
			return add(pick('FETCH', 'FETCH', 'FETCH', 'MOVE') . ' ' . pick(@ways) . " FROM $c", 1);
		};
		my @cursors = map { "c$_" } 1 .. 1 + rand 3;
		foreach my $c (@cursors)
		{
			my $held = rand() < 0.25 ? ' WITH HOLD' : '';
			$hold ||= $held;
			my $scroll = pick('SCROLL ', 'SCROLL ', 'NO SCROLL ', '');
			$can_scroll{$c} = $scroll eq 'SCROLL ';
			add("DECLARE $c ${scroll}CURSOR$held FOR " . ordered_query());
			add("FETCH 3 FROM $c", 1) if rand() < 0.3;
		}
		my $depth = 0;
		foreach (1 .. 6 + rand 10)
		{
			my $way = rand();
			my $c = pick(@cursors, @cursors, @cursors, @cursors, 'c9');
			if ($way < 0.6)
			{
				$fetch->($c);
			}
			elsif ($way < 0.7)
			{
				add('SAVEPOINT s' . ++$depth);
				add("DECLARE c9 CURSOR FOR " . ordered_query()) if rand() < 0.2;
			}
			elsif ($way < 0.82 && $depth > 0)
			{
				add(pick('ROLLBACK TO', 'ROLLBACK TO', 'RELEASE') . ' s' . $depth);
				$depth-- if $script[-1]{sql} =~ /RELEASE/;
			}
			else
			{
				one_statement();
			}
		}
		add(pick('COMMIT', 'COMMIT', 'ROLLBACK'));
		if ($hold)
		{
			$fetch->('c1') foreach 1 .. 3;
			add('CLOSE ALL');
		}
	},);

my @settings = qw(enable_hashjoin enable_mergejoin enable_nestloop enable_material enable_memoize enable_sort enable_hashagg);
foreach (1 .. $transactions)
{
	add('SET ' . pick(@settings) . ' = ' . pick('off', 'on')) if rand() < 0.5;
	add(pick("SET timezone = 'America/New_York'", 'RESET timezone', "SET datestyle = 'German'", 'RESET datestyle', "SET intervalstyle = 'iso_8601'", 'RESET intervalstyle', "SET bytea_output = 'escape'", 'SET extra_float_digits = 0', 'RESET ALL'))
	  if rand() < 0.3;
	add(q(SET work_mem = '64kB')) if rand() < 0.1;
	# a savepoint of psql for each statement in a block
	push @script, { psql => '\set ON_ERROR_ROLLBACK ' . pick('on', 'off') };
	push @script, { psql => '\set FETCH_COUNT ' . pick(0, 0, 0, 7, 150) } if rand() < 0.2;
	$kind{ pick('statements', 'block', 'block', 'cursors', 'cursors') }->();
	# a sequence goes on after ROLLBACK, and a foreign table fires fewer triggers in vain
	add("SELECT '$_', count(*), md5(string_agg(x::text, ',' ORDER BY x::text COLLATE \"C\")) FROM $_ AS x")
	  foreach (pick('a', 'strict', 'audited'), 'b', pick('part', 'nothing', 'loc', '(SELECT what FROM log)'));
}

# --- the three runs -----------------------------------------------------------------------------

sub start
{
	my ($schema) = @_;
	my $text = "\\set VERBOSITY terse\n\\pset null ~\n";
	foreach my $i (0 .. $#script)
	{
		my $step = $script[$i];
		$text .= $step->{psql} ? "$step->{psql}\n"
		  : "\\echo #$i\n$step->{sql}" . ($step->{sql} =~ /\\\.$/ ? "\n" : ";\n") . "\\if :ERROR\n\\echo :LAST_ERROR_SQLSTATE :LAST_ERROR_MESSAGE\n\\endif\n";
	}
	my %run = (schema => $schema, in => $text, out => '', err => '');
	# so that RESET ALL leaves them
	local $ENV{PGOPTIONS} = "-c search_path=$schema,public -c run_ops_split.cross_store_writes=allow";
	$run{harness} = IPC::Run::start([ 'psql', '-XAt', '-d', $control_plane->connstr('postgres'), '-f', '-' ], '<', \$run{in}, '>', \$run{out}, '2>', \$run{err},
		IPC::Run::timeout(300));
	return \%run;
}
sub answers
{
	my ($run) = @_;
	$run->{harness}->finish;
	my @parts = split /^#(\d+)\n/m, $run->{out};
	shift @parts;
	my %answers = @parts;
	foreach my $i (keys %answers)
	{
		$answers{$i} = join "\n", sort split /\n/, $answers{$i} if !$script[$i]{ordered};
		$answers{$i} =~ s/\n$//;
		# each has its own relations
		$answers{$i} =~ s/\b(?:wire|stock|plain)\b/its/g;
	}
	return \%answers;
}
my %answers = map { $_->{schema} => answers($_) } map { start($_) } @schemas;

my ($compared, $failed, $different, $unlike_stock) = (0, 0, 0, 0);
# what an answer has that another has not
sub beyond
{
	my ($answer, $other) = @_;
	my %others;
	$others{$_}++ foreach split /\n/, $other // '';
	my @lines = grep { --($others{$_} //= 0) < 0 } split /\n/, $answer // 'none';
	return join("\n", map { '  ' . substr $_, 0, 300 } splice @lines, 0, 6) . (@lines ? "\n  and " . @lines . ' more' : '');
}
sub show_difference
{
	my ($got, $stock, $plain) = @_;
	return "run_ops_fdw:\n" . beyond($got, $stock) . "\npostgres_fdw in place of that:\n" . beyond($stock, $got)
	  . "\none PostgreSQL has:\n" . beyond($plain, $got) . "\nand not:\n" . beyond($got, $plain);
}
foreach my $i (grep { $script[$_]{sql} } 0 .. $#script)
{
	my ($got, $stock, $plain) = map { $answers{$_}{$i} } @schemas;
	$compared++;
	$failed++ if defined $got && $got =~ /^[0-9A-Z]{5} /m;
	next if defined $got && defined $stock && $got eq $stock;
	if (defined $got && defined $plain && $got eq $plain)
	{
		$unlike_stock++;
		note "as here, but not as postgres_fdw: #$i $script[$i]{sql}: ", beyond($stock, $got) if $ENV{RUN_OPS_DIFFERENTIAL};
		next;
	}
	next if ++$different > 5;
	my $first = $i;
	$first-- while $first > 0 && $i - $first < 12 && !$script[$first]{psql};
	diag "before it:\n", join "\n", map { $_->{sql} // $_->{psql} } @script[ $first .. $i - 1 ];
	diag "statement $i: $script[$i]{sql}\n", show_difference($got, $stock, $plain);
}
is($different, 0, "RUN_OPS_SEED=$seed: $compared statements have the answers of postgres_fdw ($unlike_stock those of one PostgreSQL, $failed are errors)");
cmp_ok($compared, '>', 5 * $transactions, 'there are some hundred statements');

# what is in the tables, beyond what the statements have shown
foreach my $table (@foreign)
{
	my $digest = "SELECT count(*), md5(string_agg(x::text, ',' ORDER BY x::text)) FROM SCHEMA.$table AS x";
	my ($got, $stock, $plain) = map { my $in = $_; ($in eq 'plain' ? $control_plane : $store)->safe_psql('postgres', $digest =~ s/SCHEMA/$in/r) } @schemas;
	ok($got eq $stock || $got eq $plain, "RUN_OPS_SEED=$seed: table $table is the same") or diag "$got, $stock, $plain";
}

# a row that several rows of the join match is changed once
sub joined
{
	my ($schema, $sql) = @_;
	my $out = $control_plane->safe_psql('postgres', "SET search_path = $schema, public; BEGIN; $sql RETURNING x.id; ROLLBACK");
	return join ' ', sort { $a <=> $b } split /\n/, $out;
}
my %joined = (
	DELETE => 'DELETE FROM b AS x USING loc AS l WHERE l.n = x.id AND random() >= 0',
	'UPDATE' => 'UPDATE b AS x SET k = x.k + 1 FROM loc AS l WHERE l.n = x.id AND random() >= 0');
foreach my $command (sort keys %joined)
{
	is(joined('wire', $joined{$command}), joined('plain', $joined{$command}), "$command changes a row once");
}
done_testing();

# Classification in every server encoding: random text of all lengths is
# judged by the functions and by the rule as plain SQL states it, then again
# by an index, a CHECK constraint and a parallel scan.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = $ENV{RUN_OPS_SEED} // int(rand(1_000_000));
note "RUN_OPS_SEED=$seed repeats this run";

my $node = PostgreSQL::Test::Cluster->new('encodings');
$node->init(extra => [ '--encoding', 'UTF8', '--locale', 'C' ]);
$node->append_conf('postgresql.conf', 'fsync = off');
$node->start;

# every encoding a server can have, so that a new one is not forgotten
my @encodings = split /\n/, $node->safe_psql('postgres', q{
  SELECT pg_encoding_to_char(i) FROM generate_series(0, 100) i
   WHERE pg_encoding_to_char(i) <> ''
     AND pg_encoding_to_char(i) NOT IN
         ('SJIS', 'BIG5', 'GBK', 'UHC', 'GB18030', 'JOHAB', 'SHIFT_JIS_2004')});
cmp_ok(scalar @encodings, '>=', 30, 'encodings of a server');

my $cases = <<'SQL';
SET client_min_messages = warning;
CREATE EXTENSION run_ops_split CASCADE;

-- characters of this encoding, of one to four bytes, found by trial
CREATE TEMP TABLE character (c text);
CREATE FUNCTION pg_temp.readable(b bytea) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  RETURN convert_from(b, getdatabaseencoding());
EXCEPTION WHEN character_not_in_repertoire OR untranslatable_character THEN
  RETURN NULL;
END $$;
INSERT INTO character
  SELECT DISTINCT c FROM (
    SELECT pg_temp.readable(b) AS c FROM (
      SELECT decode(string_agg(lpad(to_hex(128 + floor(random() * 128)::int), 2, '0'), ''), 'hex') AS b
        FROM generate_series(1, 3000) i, generate_series(1, 1 + i % 4) GROUP BY i) r) s
   WHERE char_length(c) = 1;

-- random text of 0 to 64 characters: of the encoding's own, of bytes as they
-- come, of the alphabets that ids have; with no, one or more separators
CREATE TABLE sample (id text);
INSERT INTO sample
  SELECT coalesce(string_agg(
           CASE WHEN i % 3 = 0 AND random() < 0.3 THEN
                coalesce(own[1 + floor(random() * cardinality(own))::int], 'o')
           ELSE substr('0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-. ',
                       1 + floor(random() * CASE i % 4 WHEN 0 THEN 65 ELSE 32 END)::int, 1) END, ''
           ORDER BY p), '')
    FROM (SELECT array_agg(c ORDER BY c COLLATE "C") AS own FROM character) o,
         generate_series(1, 1300) i LEFT JOIN generate_series(1, 64) p ON p <= i % 65
   GROUP BY i;
INSERT INTO sample
  SELECT pg_temp.readable(decode(coalesce(string_agg(
           lpad(to_hex(1 + floor(random() * 255)::int), 2, '0'), ''), ''), 'hex'))
    FROM generate_series(1, 650) i LEFT JOIN generate_series(1, 64) p ON p <= i % 65
   GROUP BY i;
INSERT INTO sample
  SELECT left(core || '0000000000000000000000', 24)
         || substr('aeiz09A-', 1 + floor(random() * 8)::int, 1)
         || substr('0123', 1 + floor(random() * 4)::int, 1)
    FROM (SELECT regexp_replace(id COLLATE "C", '[^0-9a-v]', '', 'g') AS core FROM sample) s;
INSERT INTO sample
  SELECT 'run_' || id FROM sample
  UNION ALL SELECT coalesce((SELECT min(c COLLATE "C") FROM character), 'o') || '_' || id FROM sample
  UNION ALL SELECT '_' || left(id, 10) || '_' || substr(id, 11) FROM sample;
DELETE FROM sample WHERE id IS NULL;

-- the rule once more, as SQL
CREATE VIEW judged AS
  SELECT id, kind, CASE kind WHEN 'cuid' THEN 'LEGACY' WHEN 'ksuid' THEN 'NEW' WHEN 'runOpsId' THEN 'NEW' END AS residency,
         CASE WHEN kind = 'runOpsId' AND right(body, 1) = '2' THEN substr(body, 25, 1)
              WHEN kind IN ('ksuid', 'runOpsId') THEN 'new' ELSE 'legacy' END AS shard
    FROM (SELECT id, body,
                 CASE WHEN char_length(body) = 25 THEN 'cuid' WHEN char_length(body) = 27 THEN 'ksuid'
                      WHEN body COLLATE "C" ~ '^[0-9a-v]{24}[a-z0-9][12]$' AND char_length(body) = 26 THEN 'runOpsId' END AS kind
            FROM (SELECT id, substr(id, strpos(id, '_') + 1) AS body FROM sample) b) k;

CREATE TABLE checked (id text CHECK (run_ops.is_classifiable(id)));
INSERT INTO checked SELECT id FROM judged WHERE kind IS NOT NULL;
DO $$
DECLARE r record;
BEGIN
  FOR r IN SELECT id FROM judged WHERE kind IS NULL LIMIT 200 LOOP
    BEGIN
      INSERT INTO checked VALUES (r.id);
      RAISE 'accepted %', r.id;
    EXCEPTION WHEN check_violation THEN
    END;
    BEGIN
      PERFORM run_ops.owner_engine(r.id);
      RAISE 'classified %', r.id;
    EXCEPTION WHEN SQLSTATE 'RO001' THEN
    END;
  END LOOP;
END $$;

CREATE INDEX sample_kind ON sample (run_ops.classify_kind(id), run_ops.resolve_shard(id));
ANALYZE sample;
ALTER TABLE sample SET (parallel_workers = 2);
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
CREATE FUNCTION pg_temp.plan(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
  RETURN QUERY EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) ' || query;
END $$;
\set parallel 'SELECT count(*) FROM sample WHERE run_ops.classify_kind(id) = ''runOpsId'''
SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off;
SELECT 'in parallel', count(*) FILTER (WHERE p LIKE '%Parallel Seq Scan%') > 0
       AND count(*) FILTER (WHERE p LIKE '%Workers Launched: 2%') > 0 FROM pg_temp.plan(:'parallel') p;
:parallel \gset by_scan_
SET max_parallel_workers_per_gather = 0;
SET enable_indexscan = on; SET enable_seqscan = off;
SELECT 'by the index', bool_or(p LIKE '%Index Cond: (run_ops.classify_kind(id)%') FROM pg_temp.plan(:'parallel') p;
:parallel \gset by_index_
RESET ALL;
SELECT 'the same there', :by_scan_count > 0 AND :by_scan_count = :by_index_count
       AND :by_scan_count = (SELECT count(*) FROM judged WHERE kind = 'runOpsId');
SELECT 'all lengths', count(DISTINCT char_length(id)) >= 65, 'all kinds',
       count(DISTINCT kind) = 3 AND count(*) FILTER (WHERE kind IS NULL) > 0,
       'wide', (count(*) FILTER (WHERE octet_length(id) > char_length(id)
                                   AND kind IN ('cuid', 'ksuid')) > 0)
               = (pg_encoding_max_length(pg_char_to_encoding(getdatabaseencoding())) > 1)
  FROM judged;
SELECT 'wrong', count(*), min(id) FROM judged
 WHERE run_ops.classify_kind(id)::text IS DISTINCT FROM kind
    OR run_ops.try_owner_engine(id)::text IS DISTINCT FROM residency
    OR run_ops.is_classifiable(id) IS DISTINCT FROM (kind IS NOT NULL)
    OR run_ops.resolve_shard(id) IS DISTINCT FROM shard
    OR NOT run_ops.resides(id, shard)
    OR run_ops.id_body(id) IS DISTINCT FROM substr(id, strpos(id, '_') + 1)
    OR (run_ops.id_timestamp(id) IS NOT NULL AND kind IS NULL)
    OR (run_ops.id_timestamp(id) IS NULL AND kind = 'runOpsId');
SQL

foreach my $encoding (@encodings)
{
	my $db = lc "e_$encoding";
	$node->safe_psql('postgres',
		"CREATE DATABASE \"$db\" ENCODING '$encoding' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
	my $answer = $node->safe_psql($db,
		"SET client_encoding = SQL_ASCII; SELECT setseed($seed / 1000000.0) \\g /dev/null\n$cases");
	is($answer, join("\n", 'in parallel|t', 'by the index|t', 'the same there|t',
			'all lengths|t|all kinds|t|wide|t', 'wrong|0|'), $encoding);
	$node->safe_psql('postgres', "DROP DATABASE \"$db\"");
}

done_testing();

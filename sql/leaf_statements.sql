-- Statements on views that are hard to write as statements on the leaves: the
-- columns of the table have other numbers than those of the view, something must
-- be evaluated only once, another view lies on top, or the clause of ON CONFLICT
-- has values that two servers could read in two ways.
--
-- The expected file is what plain tables give, but for the last section.  With
-- RUN_OPS_PLAIN in the environment nothing is attached, and the same statements
-- run on the tables.
\set name leaf_statements
\i test/fixtures/two_stores.sql
\set ECHO none
\i test/fixtures/or_plain_tables.sql
-- ids of both stores, which have a number
CREATE FUNCTION l(k int) RETURNS text IMMUTABLE LANGUAGE sql RETURN 'run_c' || lpad(k::text, 24, '0');
CREATE FUNCTION n(k int) RETURNS text IMMUTABLE LANGUAGE sql RETURN 'run_' || lpad(k::text, 27, '0');
-- the number of an id, with its store
CREATE FUNCTION short(id text) RETURNS text IMMUTABLE LANGUAGE sql
  RETURN CASE WHEN id LIKE 'run_c%' THEN 'L' ELSE 'N' END || ltrim(right(id, 24), '0');
\set ECHO all

-- Dropped columns give the table and the view different numbers for one column.
CALL everywhere($$
  CREATE TABLE item (was int, id text PRIMARY KEY, been int, n int, s text);
  ALTER TABLE item DROP was, DROP been;
  CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s $1900000000 \ "x"');
  CREATE DOMAIN positive AS int CHECK (VALUE > 0);
  CREATE TABLE kind (gone int, id text PRIMARY KEY, n int, d date, i interval, f float8, c char(5), b bit(3), m mood, ms mood[], t text, p positive,
    double int GENERATED ALWAYS AS (n * 2) STORED, key text);
  ALTER TABLE kind DROP gone;
  CREATE TABLE part (id text PRIMARY KEY, "runId" text);
  CREATE UNIQUE INDEX ON kind (key) WHERE d > '2020-02-01' AND m <> 'it''s $1900000000 \ "x"'$$);
CREATE TABLE claimed (id text);
CREATE SEQUENCE count_calls;
\set ECHO none
\if :split
SELECT run_ops.attach_store('new', 'new') \g /dev/null
SELECT run_ops.attach_table(t, 'shape') FROM unnest('{item,kind}'::regclass[]) AS t \g /dev/null
SELECT run_ops.attach_table('part', 'anchor', 'runId') \g /dev/null
SELECT run_ops.swap_views(true) \g /dev/null
SET search_path = run_ops, public;
\endif
\set ECHO all
INSERT INTO item SELECT id, k, 's' || k FROM generate_series(1, 4) AS k, unnest(ARRAY[l(k), n(k)]) AS id;

-- The key is set, to what it was.
UPDATE item SET id = id, n = n + 10 WHERE n < 3;
\echo UPDATE :ROW_COUNT
SELECT short(id), n, s FROM item ORDER BY id;

-- # What is evaluated once
--
-- A function in FROM that writes: it gives each row to one statement.
CREATE FUNCTION claim() RETURNS SETOF text LANGUAGE sql AS $$ DELETE FROM public.claimed RETURNING id $$;
INSERT INTO claimed SELECT id FROM item WHERE n > 10;
DELETE FROM item USING claim() AS c (id) WHERE c.id = item.id;
\echo DELETE :ROW_COUNT
UPDATE item SET n = f.a + f.ord FROM nextval('public.count_calls') WITH ORDINALITY AS f (a, ord);
SELECT DISTINCT n FROM item;
WITH u AS (UPDATE item SET s = s || '!' RETURNING id, s, (SELECT nextval('public.count_calls')) AS call)
  SELECT short(id), s, call FROM u ORDER BY id;
CREATE TYPE pair AS (a int, b text);
CREATE FUNCTION pairs() RETURNS SETOF pair LANGUAGE sql AS $$ SELECT nextval('public.count_calls')::int, 'b' $$;
WITH u AS (UPDATE item SET n = p.a FROM pairs() AS p WHERE item.n < 9 RETURNING id, n, p.b, p) SELECT short(id), n, b, p FROM u ORDER BY id;
UPDATE item AS a SET n = b.n + 1 FROM ROWS FROM (generate_series(3, 3), nextval('public.count_calls')) AS b (n, call) WHERE a.s LIKE 's' || b.n || '%';
SELECT short(id), n, s, (SELECT last_value FROM count_calls) AS calls FROM item ORDER BY id;

-- # A view on the view
CREATE VIEW shown AS SELECT s, n AS amount, id FROM item WHERE n > 0 WITH CHECK OPTION;
CREATE VIEW known WITH (security_barrier) AS SELECT * FROM item WHERE s IN (SELECT 's' || k FROM generate_series(1, 20) AS k) WITH CHECK OPTION;
WITH i AS (INSERT INTO shown VALUES ('s5', 5, l(5)), ('s5', 5, n(5)) RETURNING *) SELECT s, amount, short(id) FROM i ORDER BY id;
INSERT INTO shown VALUES ('s6', 6, n(6));
\set VERBOSITY sqlstate
INSERT INTO shown VALUES ('s7', 7, l(7)), ('s7', -7, n(7));
INSERT INTO shown VALUES ('s7', -7, l(7));
INSERT INTO shown VALUES ('s7', -7, n(7));
UPDATE shown SET amount = -1 WHERE id = l(5);
UPDATE shown SET amount = -1 WHERE id = n(5);
INSERT INTO known VALUES (n(8), 8, 's21');
INSERT INTO known VALUES (l(8), 8, 's8'), (n(8), 8, 's21');
UPDATE known SET s = 's21' WHERE n = 5;
\set VERBOSITY default
INSERT INTO known VALUES (l(8), 8, 's8'), (n(8), 8, 's9');
UPDATE known SET s = 's10' WHERE n = 8;
\echo UPDATE :ROW_COUNT
SELECT short(id), n, s FROM item ORDER BY id;
DROP VIEW shown, known;

-- # Many rows
--
-- They are kept in a file until they are sent.
SET work_mem = '64kB';
INSERT INTO item SELECT id, 100, repeat('x', 100) FROM generate_series(1001, 2000) AS k, unnest(ARRAY[l(k), n(k)]) AS id;
UPDATE item SET n = n + (random() < 2)::int WHERE n = 100;
\echo UPDATE :ROW_COUNT
WITH d AS (DELETE FROM item WHERE n = 101 AND random() < 2 RETURNING id) SELECT count(*), count(DISTINCT id) FROM d;
RESET work_mem;

-- # ON CONFLICT
INSERT INTO kind (id, n, d, i, f, c, b, m, ms, t, p, key)
  SELECT id, k, date '2024-01-01' + k, '1 day', 0.5, 'abc', '101', 'ok', '{sad}', 't', k, 'key ' || id FROM generate_series(1, 3) AS k, unnest(ARRAY[l(k), n(k)]) AS id;
-- CASE with a value
INSERT INTO kind AS k (id, n) VALUES (l(1), 1), (n(1), 1), (l(2), 2), (n(2), 2), (l(3), 3), (n(3), 3)
  ON CONFLICT (id) DO UPDATE SET n = CASE excluded.n WHEN 1 THEN 100 WHEN k.p THEN CASE 3 WHEN k.n THEN 30 ELSE 20 END END;
SELECT short(id), n, double FROM kind ORDER BY id;
-- constants look different under other settings of the session
SET datestyle = 'SQL, DMY';
SET intervalstyle = 'sql_standard';
SET extra_float_digits = 0;
SET standard_conforming_strings = off;
SET escape_string_warning = off;
INSERT INTO kind AS k (id, key, d, m) VALUES (l(11), 'key ' || l(1), '01/02/2024', 'ok'), (n(11), 'key ' || n(1), '01/02/2024', 'ok')
  ON CONFLICT (key) WHERE d > '01/02/2020' AND m <> E'it''s $1900000000 \\ "x"'
  DO UPDATE SET d = greatest(k.d, '03/02/2024'), i = k.i + '-1 year -2 months 3 days -04:00', f = k.f + 0.1::float8 + 0.2::float8, t = k.t || E'a\001b$1900000000 \\ ''x"', n = k.n + 1;
RESET datestyle;
RESET intervalstyle;
RESET extra_float_digits;
RESET standard_conforming_strings;
RESET escape_string_warning;
SELECT short(id), n, d, i, f, t FROM kind WHERE n > 30 ORDER BY id;
-- parameters of types that have a length, or are not built in
PREPARE change (char(5), bit(3), mood, mood[], text) AS
  INSERT INTO kind AS k (id) VALUES (l(2)), (n(2)) ON CONFLICT (id) DO UPDATE SET c = coalesce($1, k.c), b = k.b | $2, m = coalesce($3, k.m), ms = k.ms || $4, t = k.t || $5;
EXECUTE change ('vwxyz', '010', 'sad', '{ok}', 'it''s \ $1');
SET plan_cache_mode = force_generic_plan;
EXECUTE change (NULL, '010', E'it''s $1900000000 \\ "x"', E'{"it''s $1900000000 \\\\ \\"x\\""}', '');
RESET plan_cache_mode;
SELECT short(id), c, b, m, ms, t FROM kind WHERE c = 'vwxyz' ORDER BY id;
-- domains, generated columns, lengths of types, functions with a syntax of their own
INSERT INTO kind AS k (id, p) VALUES (l(3), 4), (n(3), 4) ON CONFLICT (id) DO UPDATE SET p = k.p + excluded.p, double = DEFAULT,
  c = (k.t || 'long text')::char(3), t = extract(year FROM k.d)::text || position('b' IN k.c)::text || trim(BOTH 't' FROM k.t) || overlay(k.key PLACING 'zz' FROM 1 FOR 1);
SELECT short(id), p, double, c, t FROM kind WHERE p = 7 ORDER BY id;
\set VERBOSITY sqlstate
INSERT INTO kind AS k (id, p) VALUES (l(3), 4) ON CONFLICT (id) DO UPDATE SET p = k.p - excluded.p - excluded.p;
INSERT INTO kind AS k (id, p) VALUES (n(3), 4) ON CONFLICT (id) DO UPDATE SET p = k.p - excluded.p - excluded.p;
\set VERBOSITY default

-- # What is refused, though a table accepts it
INSERT INTO kind (id) VALUES (l(1)) ON CONFLICT (id) DO UPDATE SET n = nextval('public.count_calls');
INSERT INTO kind (id) OVERRIDING USER VALUE VALUES (l(20));
CREATE RULE also AS ON INSERT TO kind DO ALSO INSERT INTO claimed VALUES (NEW.id);
INSERT INTO kind (id) VALUES (l(1)) ON CONFLICT (id) DO NOTHING;
DROP RULE also ON kind;
CREATE RULE kept AS ON DELETE TO public.kind DO INSTEAD NOTHING;
DELETE FROM kind;
DROP RULE kept ON public.kind;
-- it would move to this database
INSERT INTO part VALUES ('one', n(1)), ('two', l(2)), ('three', NULL);
UPDATE part SET "runId" = NULL WHERE id = 'one';
UPDATE part SET "runId" = NULL WHERE id <> 'one';
\echo UPDATE :ROW_COUNT
CREATE VIEW on_top AS SELECT * FROM kind;
INSERT INTO on_top (id) VALUES (l(1)) ON CONFLICT (id) DO NOTHING;
-- the rows from before the statement, also those of a store
INSERT INTO item SELECT id, 50, 's' FROM unnest(ARRAY[l(50), n(50)]) AS id;
WITH u AS (UPDATE item SET n = n + 1 WHERE n = 50 RETURNING id) SELECT item.n FROM u JOIN item ON item.id = u.id;
UPDATE item SET n = n + 1 WHERE n = 51 RETURNING n, (SELECT sum(i.n) FROM item AS i WHERE i.s = item.s AND i.n = item.n - 1);
-- a function that changes a row which the statement has read, and not yet written
CREATE FUNCTION count_up(id text) RETURNS int LANGUAGE sql AS 'UPDATE item SET n = n + 1 WHERE item.id = count_up.id RETURNING n';
INSERT INTO item (id, n) VALUES (n(51), 51);
UPDATE item SET n = CASE n WHEN 51 THEN count_up(n(50)) ELSE 0 END WHERE id IN (n(50), n(51));
-- a row that the foreign key would remove, too, is returned as from a table
CALL everywhere('ALTER TABLE item ADD parent text REFERENCES item ON DELETE CASCADE');
SELECT run_ops.refresh_table('run_ops.item') \g /dev/null
INSERT INTO item (id, n, parent) VALUES (n(60), 60, NULL), (n(61), 61, n(60));
WITH a AS (DELETE FROM item WHERE n = 60 RETURNING id), b AS (DELETE FROM item WHERE n = 61 RETURNING id)
  SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM b);

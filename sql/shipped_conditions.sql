-- What postgres_fdw does not send by itself: values that are computed here, and
-- comparisons of rows.
\set name shipped_conditions
\i test/fixtures/two_stores.sql
\set ECHO none
SELECT run_ops.attach_store('new', 'new') \g /dev/null
CREATE TYPE state AS ENUM ('open', 'done');
CREATE TABLE run (id text PRIMARY KEY, n int, state state DEFAULT 'open', owner text, created timestamptz, day date, tags text[]);
CREATE INDEX ON run (created, id);
SELECT 1 AS x FROM dblink('new', $$
  CREATE TYPE state AS ENUM ('open', 'done');
  CREATE TABLE run (id text PRIMARY KEY, n int, state state DEFAULT 'open', owner text, created timestamptz, day date, tags text[]);
  CREATE INDEX ON run (created, id) $$) AS t (x text) \g /dev/null
SELECT run_ops.attach_table('run', 'shape') \g /dev/null
SELECT run_ops.swap_views(true) \g /dev/null
CREATE FUNCTION id(store text, k int) RETURNS text IMMUTABLE LANGUAGE sql
  RETURN CASE WHEN k IS NULL THEN NULL WHEN store = 'legacy' THEN 'run_c' || lpad(k::text, 24, '0') ELSE 'run_' || lpad(k::text, 27, '0') END;
SET client_min_messages = error;
INSERT INTO run_ops.run
  SELECT id(s, k), nullif(k % 7, 0), CASE k % 2 WHEN 0 THEN 'open' ELSE 'done' END::state, 'o' || k % 3, now() - (k / 2) * interval '1 hour',
         current_date - k % 5, ARRAY['t' || k % 4, 'it''s {"odd", \}']
    FROM unnest('{legacy,new}'::text[]) AS s, generate_series(1, 60) AS k;
UPDATE run_ops.run SET created = NULL WHERE n = 6;
ANALYZE run; ANALYZE run_ops_new.run;
-- the same rows, all here
CREATE TABLE plain AS SELECT * FROM run_ops.run;
-- what a store is sent, with a generic plan if there are parameters
CREATE FUNCTION sent(query text) RETURNS SETOF text LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  line text;
BEGIN
  FOR line IN EXECUTE 'EXPLAIN (VERBOSE, COSTS OFF) ' || query LOOP
    IF line ~ 'Remote SQL' THEN
      RETURN NEXT regexp_replace(ltrim(line), 'SELECT .*? FROM public.run|id, n, state, owner, created, day, tags', '…');
    END IF;
  END LOOP;
END $$;
-- whether the view gives the rows of the table, and whether these are some
CREATE FUNCTION same(condition text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  result text;
BEGIN
  EXECUTE format('WITH v AS (SELECT * FROM run_ops.run WHERE %1$s), p AS (SELECT * FROM plain WHERE %1$s)
                  SELECT CASE WHEN count(*) > 0 THEN count(*) || '' differ'' WHEN NOT EXISTS (TABLE p) THEN ''none''
                              WHEN (SELECT count(*) FROM p) = (SELECT count(*) FROM plain) THEN ''all'' ELSE ''some'' END
                    FROM ((TABLE v EXCEPT ALL TABLE p) UNION ALL (TABLE p EXCEPT ALL TABLE v)) AS d', condition) INTO result;
  RETURN result;
END $$;
RESET client_min_messages;
SET run_ops_split.cross_store_writes = allow;
\set ECHO all

-- # Values
--
-- What has no column in it is computed here, once, and sent.
SELECT sent('SELECT * FROM run_ops.run WHERE created > now() - interval ''1 day''');
SELECT sent('SELECT * FROM run_ops.run WHERE created BETWEEN now() - interval ''1 day'' AND now() AND day <= current_date');
SET app.owner = 'o1';
CREATE FUNCTION app_owner() RETURNS text STABLE LANGUAGE sql RETURN current_setting('app.owner', true);
CREATE FUNCTION app_id(k int) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN id(''new'', k); END';
SELECT sent('SELECT * FROM run_ops.run WHERE owner = app_owner()');
SELECT sent('SELECT * FROM run_ops.run WHERE owner = ANY (ARRAY[app_owner(), ''o2'']) AND created < greatest(now(), date_trunc(''hour'', now()))');
PREPARE ids (int) AS SELECT n FROM run_ops.run WHERE id = app_id($1);
SELECT sent('EXECUTE ids (5)');
PREPARE since (timestamptz, interval) AS SELECT count(*) FROM run_ops.run WHERE created > $1 - $2;
SELECT sent('EXECUTE since (now(), ''1 day'')');
-- of an enum, which the store finds out
PREPARE by_state (state, text) AS SELECT count(*) FROM run_ops.run WHERE state = $1 AND state <> $2::state;
SELECT sent('EXECUTE by_state (''open'', ''done'')');
PREPARE by_states (state[], text[]) AS SELECT count(*) FROM run_ops.run WHERE state = ANY ($1) AND state = ANY ($2::state[]) AND state <> ALL (ARRAY[$2[2]::state]);
SELECT sent('EXECUTE by_states (''{open,done}'', ''{open,done}'')');
SET plan_cache_mode = force_generic_plan;
EXECUTE by_state ('open', 'done');
EXECUTE by_state ('done', 'open');
EXECUTE by_state ('open', NULL);
EXECUTE by_states ('{open,done}', '{open,done}');
EXECUTE by_states ('{done,NULL}', '{done}');
EXECUTE by_states (NULL, '{open}');
PREPARE set_state (state, text, text) AS UPDATE run_ops.run SET state = CASE WHEN $3 = 'x' THEN $1 ELSE $2::state END WHERE id = $3 AND state = $1 RETURNING state;
BEGIN;
SELECT id FROM run_ops.run WHERE id LIKE 'run\_0%' AND state = 'open' ORDER BY id LIMIT 1 \gset
SELECT sent(format('EXECUTE set_state (''open'', ''done'', %L)', :'id'));
EXECUTE set_state ('open', 'done', :'id');
EXECUTE set_state ('done', 'none', :'id');
ROLLBACK;
-- What a table computes only sometimes must not be an error here.  It is sent if it
-- cannot fail.
PREPARE optional (text, text, int) AS SELECT count(*) FROM run_ops.run WHERE ($3 = 0 OR state = $1::state) AND ($3 = 0 OR created > $2::timestamptz);
EXECUTE optional ('', '', 0);
PREPARE divided (int) AS SELECT count(*) FROM run_ops.run WHERE CASE WHEN $1 = 0 THEN n > 3 ELSE created > now() - interval '1 day' / $1 END;
EXECUTE divided (0);
PREPARE set_sometimes (text, int) AS UPDATE run_ops.run SET n = CASE WHEN $2 = 0 THEN n ELSE extract(day FROM $1::timestamptz) END;
BEGIN;
EXECUTE set_sometimes ('', 0);
ROLLBACK;
PREPARE sometimes (state, int) AS SELECT count(*) FROM run_ops.run WHERE ($2 = 0 OR state = $1 OR created > now() - interval '1 day') AND CASE n WHEN 1 THEN day < current_date ELSE day <= current_date + 1 END;
SELECT sent('EXECUTE sometimes (''open'', 1)');
RESET plan_cache_mode;
-- an aggregate, a page, a queue
SELECT sent('SELECT count(*), max(n) FROM run_ops.run WHERE created > now() - interval ''1 day''');
SELECT sent('SELECT id FROM run_ops.run WHERE created < now() ORDER BY created, id LIMIT 3');
SELECT sent('SELECT id FROM run_ops.run WHERE created < now() ORDER BY created, id LIMIT 3 FOR UPDATE SKIP LOCKED');
-- once for each row of another table
SELECT sent('SELECT k, (SELECT count(*) FROM run_ops.run WHERE created > now() - k * interval ''1 hour'') FROM generate_series(1, 3) AS k');
SELECT k, (SELECT count(*) FROM run_ops.run WHERE created > now() - k * interval '1 hour') FROM generate_series(1, 3) AS k;
-- not: what is computed for each row, or is another value each time
SELECT sent('SELECT * FROM run_ops.run WHERE date_trunc(''day'', created) = date_trunc(''day'', now())');
SELECT sent('SELECT * FROM run_ops.run WHERE n < random() * 10');
SELECT sent('SELECT * FROM run_ops.run WHERE created < clock_timestamp()');

-- the same rows as of a table
SELECT c.condition, same(c.condition) FROM (VALUES
  ('created > now() - interval ''1 day'''), ('created <= now() - interval ''10 hours'' OR created IS NULL'),
  ('day = current_date'), ('day < current_date AND day > current_date - 3'), ('created::date = current_date - 1'),
  ('owner = app_owner()'), ('owner <> app_owner() AND state = ''open'''), ('owner = nullif(app_owner(), ''o1'')'),
  ('owner = current_setting(''app.none'', true)'), ('owner IS DISTINCT FROM current_setting(''app.none'', true)'),
  ('id IN (app_id(3), id(''legacy'', 4))'), ('id = app_id(n)'), ('tags @> ARRAY[lower(app_owner())]'),
  ('tags && ARRAY[''t'' || length(app_owner()), ''none'']'), ('tags[2] = ''it''''s {"odd", \}'' AND n > extract(hour FROM now()) - 30'),
  ('NOT (created > now() - interval ''5 hours'')'), ('CASE WHEN app_owner() = ''o1'' THEN n > 3 ELSE n < 3 END'),
  ('(app_owner() = ''o1'') = (n > 3)'), ('state = (SELECT ''done''::state) AND created < now()')) AS c (condition);
SET datestyle = 'German';
SET timezone = 'Asia/Kathmandu';
SET intervalstyle = 'iso_8601';
SELECT same('created > now() - interval ''1 day'''), same('created > ''01.02.2026 10:00''::text::timestamptz'), same('day >= to_char(now() - interval ''2 days'', ''DD.MM.YYYY'')::date');
RESET datestyle;
RESET timezone;
RESET intervalstyle;

-- An error in a value is an error, in whatever store the rows are.
CREATE FUNCTION fails() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RAISE ''fails''; END';
SELECT count(*) FROM run_ops.run WHERE n = fails();

-- # Changes
SELECT sent(format('UPDATE run_ops.run SET n = 1, created = now() WHERE id = %L', id('new', 1)));
SELECT sent('UPDATE run_ops.run SET n = n + length(app_owner()) WHERE created < now() - interval ''20 hours''');
SELECT sent('DELETE FROM run_ops.run WHERE created < now() - interval ''20 hours''');
-- not: what could read the table while it is changed
CREATE FUNCTION counted() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM run_ops.run); END';
SELECT sent('UPDATE run_ops.run SET n = 1 WHERE n = counted()');
BEGIN;
UPDATE run_ops.run SET n = 100, created = now(), owner = app_owner() || n, state = 'open' WHERE id IN (id('new', 1), id('legacy', 1))
  RETURNING right(id, 1) AS id, n, created = now() AS created, owner, state;
UPDATE run_ops.run SET n = n + length(app_owner()), day = CASE WHEN day > current_date - 2 THEN current_date ELSE day END WHERE created < now() - interval '20 hours';
UPDATE plain SET n = 100, created = now(), owner = app_owner() || n, state = 'open' WHERE id IN (id('new', 1), id('legacy', 1));
UPDATE plain SET n = n + length(app_owner()), day = CASE WHEN day > current_date - 2 THEN current_date ELSE day END WHERE created < now() - interval '20 hours';
SELECT same('true');
WITH d AS (DELETE FROM run_ops.run WHERE created < now() - interval '20 hours' AND owner = app_owner() RETURNING n) SELECT count(*), sum(n) FROM d;
DELETE FROM plain WHERE created < now() - interval '20 hours' AND owner = app_owner();
SELECT same('true');
ROLLBACK;
-- a queue
BEGIN;
WITH next AS (SELECT id FROM run_ops.run WHERE created < now() - interval '1 hour' AND state = 'open' ORDER BY created, id LIMIT 4 FOR UPDATE SKIP LOCKED)
  UPDATE run_ops.run AS r SET state = 'done', created = now() FROM next WHERE r.id = next.id RETURNING r.created = now() AS now;
ROLLBACK;

-- # Rows
SELECT sent('SELECT * FROM run_ops.run WHERE (n, id) < (5, ''run_000000000000000000000000020'')');
PREPARE page (timestamptz, text) AS SELECT id FROM run_ops.run WHERE (created, id) < ($1, $2) ORDER BY created DESC, id DESC LIMIT 3;
SELECT sent('EXECUTE page (now(), ''x'')');
SELECT format('(n, owner, %s) %s (%s, %s, %s)', c.last, o.op, c.n, c.owner, c.value) AS condition,
       same(format('(n, owner, %s) %s (%s, %s, %s)', c.last, o.op, c.n, c.owner, c.value))
  FROM (VALUES ('day', '3', '''o1''', 'current_date - 2'), ('created', '3', 'app_owner()', 'now()'), ('id', 'NULL', '''o1''', '''x'''), ('id', '3', 'NULL', '''x'''),
               ('id', '6', '''o2''', 'NULL'), ('day', '(n)', '''o0''', 'current_date')) AS c (last, n, owner, value),
       unnest('{<,<=,>,>=}'::text[]) WITH ORDINALITY AS o (op, ord)
 ORDER BY c.last, c.n, c.owner, o.ord;
SELECT same('(n, id) > (2, id(''new'', 30)) AND NOT (n, id) > (5, id(''new'', 30))'), same('(id, n) >= (id(''new'', 30), 2)'), same('((n, id) < (3, ''s'')) IS NULL');
-- pages one after the other, to the end
DO $$
DECLARE
  page record;
  at timestamptz := 'infinity';
  last text := '';
  pages int := 0;
  seen text[] := '{}';
BEGIN
  LOOP
    SELECT array_agg(r.id ORDER BY r.created DESC, r.id DESC) AS ids, (array_agg(r.created ORDER BY r.created, r.id))[1] AS at, (array_agg(r.id ORDER BY r.created, r.id))[1] AS last INTO page
      FROM (SELECT x.id, x.created FROM run_ops.run AS x WHERE (x.created, x.id) < (at, last) ORDER BY x.created DESC, x.id DESC LIMIT 7) AS r;
    EXIT WHEN page.ids IS NULL;
    pages := pages + 1;
    seen := seen || page.ids;
    at := page.at;
    last := page.last;
  END LOOP;
  RAISE NOTICE '% pages, % rows, right: %', pages, cardinality(seen), seen = ARRAY(SELECT p.id FROM plain AS p WHERE p.created IS NOT NULL ORDER BY p.created DESC, p.id DESC);
END $$;
-- not: what the store orders in another way
ALTER FOREIGN TABLE run_ops_new.run ALTER COLUMN id OPTIONS (ADD order_differs 'true');
SELECT sent('SELECT * FROM run_ops.run WHERE (n, id) < (5, ''run_000000000000000000000000020'')');
SELECT sent('SELECT * FROM run_ops.run WHERE (n, day) < (5, current_date)');
ALTER FOREIGN TABLE run_ops_new.run ALTER COLUMN id OPTIONS (DROP order_differs);

-- Random queries over views with three stores, each compared with the same
-- query over local tables that hold all rows a view should show. Both sides
-- have strays, ids are NULL and unclassifiable too. Runs have a second column
-- that is declared to have the shape of the id, with ids of other runs. Custom
-- plans, generic plans and literals; a part of it with seam pruning off. The
-- seed is printed when there is a difference: \set seed below repeats that run.
\set name read_fuzz
\i test/fixtures/two_stores.sql
\set ECHO none
SET client_min_messages = warning;
SET jit = off;  -- a switched-off kind of path looks costly enough for it
SELECT random() AS seed \gset

\set shard_db :store_db _a
SELECT format('host=%s port=%s dbname=postgres user=%s', :'store_host', :'store_port', :'USER') AS store_server \gset
SELECT dblink_exec(:'store_server', format('DROP DATABASE IF EXISTS %I (FORCE)', :'shard_db')),
       dblink_exec(:'store_server', format('CREATE DATABASE %I', :'shard_db')) \g /dev/null
CREATE SERVER a FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host :'store_host', port :'store_port', dbname :'shard_db');
CREATE USER MAPPING FOR CURRENT_USER SERVER a OPTIONS (user :'USER');
SELECT run_ops.attach_store('new', 'new'), run_ops.attach_store('a', 'a') \g /dev/null

CREATE TABLE run (id text PRIMARY KEY, env text, parent text, note text, n int, created timestamp, fid text);
CREATE TABLE step (id text PRIMARY KEY, "runId" text, note text, n int);
CREATE INDEX ON run (env, created DESC);
CREATE INDEX ON run (fid);
CREATE INDEX ON step ("runId");
CREATE TABLE env (id text PRIMARY KEY, run_id text, note text);
SELECT dblink_exec(server, $$
  CREATE TABLE run (created timestamp, id text PRIMARY KEY, env text, fid text, parent text, note text, n int);
  CREATE TABLE step (n int, id text PRIMARY KEY, "runId" text, note text);
  CREATE INDEX ON run (env, created DESC);
  CREATE INDEX ON run (fid);
  CREATE INDEX ON step ("runId") $$) FROM unnest('{new,a}'::text[]) AS server \g /dev/null
SELECT run_ops.attach_table('run', 'shape'), run_ops.attach_table('step', 'anchor', 'runId') \g /dev/null
SELECT dblink_exec(store, command) FROM run_ops.same_shape_commands('run', 'fid') WHERE store <> 'legacy' \g /dev/null
SELECT command FROM run_ops.same_shape_commands('run', 'fid') \gexec
SELECT run_ops.declare_same_shape('run', 'fid') \g /dev/null
CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);

SELECT setseed(:seed) \g /dev/null
-- ids of each shape; some have no row
CREATE TABLE ids AS
  SELECT CASE i % 5
           WHEN 0 THEN 'run_c' || substr(md5(i::text), 1, 24)
           WHEN 1 THEN 'run_' || substr(md5(i::text), 1, 27)
           WHEN 2 THEN 'run_' || substr(md5(i::text), 1, 24) || CASE WHEN i % 2 = 0 THEN 'a2' ELSE 'e1' END
           WHEN 3 THEN 'run_' || substr(md5(i::text), 1, 24) || CASE WHEN i % 2 = 0 THEN 'a2' ELSE 'b2' END
           ELSE 'x' || i END AS id, i
    FROM generate_series(1, 80) AS i;
CREATE FUNCTION store_of(id text) RETURNS text LANGUAGE sql
  RETURN (SELECT s.name FROM run_ops.store AS s WHERE run_ops.resides(id, s.name));
CREATE TABLE whole_run AS
  SELECT id, 'e' || i % 7 AS env, (SELECT p.id FROM ids AS p WHERE p.i = o.i * 7 % 80) AS parent,
         (ARRAY['a', 'b', NULL])[1 + i % 3] AS note, i % 10 AS n, timestamp '2026-01-01' + i / 3 * interval '1 hour' AS created,
         (SELECT CASE WHEN store_of(o.id) <> 'legacy' OR o.i % 6 > 0 THEN p.id END
            FROM ids AS p WHERE store_of(p.id) = store_of(o.id) ORDER BY md5(o.i || '/' || p.i) LIMIT 1) AS fid
    FROM ids AS o WHERE i <= 65 AND id !~ 'b2$';
CREATE TABLE whole_step AS
  SELECT 's' || i AS id, CASE WHEN i % 11 > 0 THEN (SELECT p.id FROM ids AS p WHERE p.i = o.i * 13 % 80 AND p.id !~ 'b2$') END AS "runId",
         (ARRAY['a', 'b', NULL])[1 + i % 3] AS note, i % 10 AS n
    FROM ids AS o;
INSERT INTO env SELECT 'e' || i, (SELECT p.id FROM ids AS p WHERE p.i = e.i * 9), 'a' FROM generate_series(0, 8) AS e (i);
INSERT INTO run SELECT * FROM whole_run WHERE store_of(id) = 'legacy';
INSERT INTO run_ops_new.run (id, env, parent, note, n, created, fid) SELECT * FROM whole_run WHERE store_of(id) = 'new';
INSERT INTO run_ops_a.run (id, env, parent, note, n, created, fid) SELECT * FROM whole_run WHERE store_of(id) = 'a';
INSERT INTO step SELECT * FROM whole_step WHERE store_of("runId") = 'legacy';
INSERT INTO run_ops_new.step (id, "runId", note, n) SELECT * FROM whole_step WHERE store_of("runId") = 'new';
INSERT INTO run_ops_a.step (id, "runId", note, n) SELECT * FROM whole_step WHERE store_of("runId") = 'a';
-- strays, most of them copies of a row that another store shows
INSERT INTO run SELECT id, env, parent, 'stray', n, created, fid FROM whole_run WHERE store_of(id) <> 'legacy' AND n < 5;
INSERT INTO run_ops_new.run (id, env, note, n) SELECT id, 'e1', 'stray', 1 FROM ids WHERE i % 4 = 0 AND store_of(id) IS DISTINCT FROM 'new';
INSERT INTO run_ops_a.run (id, env, note, n) SELECT id, 'e2', 'stray', 1 FROM ids WHERE i % 3 = 0 AND store_of(id) IS DISTINCT FROM 'a';
INSERT INTO step SELECT id, "runId", 'stray', n FROM whole_step WHERE store_of("runId") = 'new' AND n < 5;
INSERT INTO run_ops_new.step (id, "runId", note, n) SELECT id, "runId", 'stray', n FROM whole_step WHERE store_of("runId") = 'legacy' AND n < 5;
ANALYZE;
SELECT run_ops.swap_views(true) \g /dev/null

-- views over the views, one of them a security barrier
SELECT format('CREATE VIEW %1$srun_steps AS SELECT r.id, r.fid, r.note, r.n, s.id AS step FROM %1$srun AS r LEFT JOIN %1$sstep AS s ON s."runId" = r.id',
              prefix),
       format('CREATE VIEW %1$sopen_run WITH (security_barrier) AS SELECT * FROM %1$srun WHERE n < 8', prefix)
  FROM unnest('{run_ops.,whole_}'::text[]) AS prefix \gexec

CREATE FUNCTION pick(VARIADIC choices text[]) RETURNS text LANGUAGE sql VOLATILE
  RETURN choices[1 + floor(random() * cardinality(choices))];
-- what a store cannot compute
CREATE FUNCTION here(x text) RETURNS text STABLE LANGUAGE plpgsql AS 'BEGIN RETURN x; END';
CREATE FUNCTION here(x int) RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN x; END';
CREATE FUNCTION any_id() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  RETURN CASE WHEN random() < 0.05 THEN NULL ELSE (SELECT id FROM ids WHERE i = 1 + floor(random() * 80)::int LIMIT 1) END;
END $$;
CREATE FUNCTION any_ids() RETURNS text[] LANGUAGE plpgsql AS $$
BEGIN
  RETURN CASE WHEN random() < 0.05 THEN NULL
    ELSE ARRAY(SELECT any_id() FROM generate_series(1, floor(random() * 6)::int)) END;
END $$;

-- A condition on alias t, whose shaped column is k. $1 and $2 are ids, $3 a
-- set of ids.
CREATE FUNCTION condition(t text, k text, depth int) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  k := t || '.' || k;
  IF depth > 0 AND random() < 0.5 THEN
    RETURN format(pick('(%s AND %s)', '(%s AND %s)', '(%s OR %s)', '(%s OR %s)', 'NOT (%s OR NOT %s)'),
      condition(t, split_part(k, '.', 2), depth - 1), condition(t, split_part(k, '.', 2), depth - 1));
  END IF;
  RETURN replace(replace(pick(
    '{k} = $1', '$2 = {k}', '{k} = $1', '{k} = ANY ($3)', '{k} = ANY ($3)', '{k} IN ($1, $2)', '{k} = $2::varchar',
    '{k} = ' || quote_nullable(any_id()), '{k} = ANY (' || quote_nullable(any_ids()::text) || ')',
    '{k} IN (' || quote_nullable(any_id()) || ', ' || quote_nullable(any_id()) || ', $1)',
    '{k} = coalesce($2, $1)', '{k} = current_setting(''app.id'')', '{k} = ANY ($3::varchar[])',
    '{k} = (SELECT e.run_id FROM env AS e WHERE e.id = ''' || pick('e1', 'e2', 'e3', 'e99') || ''')',
    '{k} = ANY (ARRAY(SELECT e.run_id FROM env AS e WHERE e.id < ''e3''))',
    '{k} IN (SELECT e.run_id FROM env AS e)', '{k} NOT IN (SELECT e.run_id FROM env AS e WHERE e.run_id IS NOT NULL)',
    'EXISTS (SELECT FROM env AS e WHERE e.run_id = {k})', '{k} = ALL ($3)', '{k} <> $1', '{k} < $1', '{k} LIKE ''run_c%''',
    '{k} IS NULL', '{k} IS NOT DISTINCT FROM $1', '{k} IS NOT DISTINCT FROM ' || quote_nullable(any_id()), '({k} = $1) IS TRUE', '({k} = $1) IS NOT TRUE',
    'coalesce({k} = $2, false)', 'coalesce({k} = $2, {t}.note = ''a'')', '{k} = $1::name', '{k} BETWEEN $1 AND $1', '{k} BETWEEN $1 AND $2', '$2 = ANY (ARRAY[{k}])',
    '{k} COLLATE "C" = $1', '{k} COLLATE nocase = upper($1)', '{k} = {t}.note',
    '{k} = lower({t}.note || $1)', '({t}.n, {k}) ' || pick('<', '<=', '>', '>=') || ' (' || pick('5', '{t}.n', 'here(4)', 'NULL') || ', $1)',
    '({k}, {t}.n, {t}.note) ' || pick('<', '>=') || ' ($2, ' || pick('7', 'NULL') || ', here(''a''))', '{k} = here($1)', '{k} = ANY (ARRAY[here($2), $1])',
    '{t}.n < here(5)', '{t}.note = CASE WHEN {t}.n > here(3) THEN here(''a'') ELSE {t}.note END', '{t}.note = ''a''', '{t}.n < 5', '{t}.n = 3', '{t}.note = ''stray'''), '{k}', k), '{t}', t);
END $$;

-- A query over {run} and {step}, and whether its rows come in an order.
CREATE FUNCTION random_query(OUT query text, OUT ordered boolean) LANGUAGE plpgsql AS $$
DECLARE
  r text := pick(condition('r', 'id', 2), condition('r', 'fid', 2), condition('r', 'id', 1) || pick(' AND ', ' OR ') || condition('r', 'fid', 1));
  s text := condition('s', '"runId"', 2);
  page text := ' ORDER BY r.created ' || pick('', 'DESC') || ', r.id LIMIT ' || pick('1', '5', '25', 'ALL') || ' OFFSET ' || pick('0', '3');
BEGIN
  ordered := false;
  CASE floor(random() * 26)::int
    WHEN 0, 1 THEN query := 'SELECT r.* FROM {run} AS r WHERE ' || r;
    WHEN 2 THEN query := 'SELECT s.* FROM {step} AS s WHERE ' || s;
    WHEN 3 THEN query := 'SELECT r.* FROM {run} AS r WHERE ' || r || page; ordered := true;
    WHEN 4 THEN query := 'SELECT r.id, r.n FROM {run} AS r WHERE r.env = ' || pick('''e1''', '''e2''', '$1') || page; ordered := true;
    WHEN 5 THEN query := 'SELECT r.env, count(*), sum(r.n), min(r.note), max(r.created) FROM {run} AS r WHERE ' || r || ' GROUP BY r.env';
    WHEN 24 THEN query := 'SELECT ' || pick('', 'r.n % 3, ', 'r.note, ') || 'count(*), count(r.parent), avg(r.n), sum(r.n) FILTER (WHERE r.note = ''a''), bool_or(r.n = 3) FROM ' || pick('{run} AS r', '(SELECT q.* FROM {run} AS q WHERE q.n < 9 OFFSET 0) AS r') || ' WHERE '
      || pick(r, 'r.n < 7', 'r.note IS NULL') || pick('', ' GROUP BY 1') || ' HAVING count(*) <> 3';
      IF query NOT LIKE '%GROUP BY%' AND query NOT LIKE 'SELECT count%' OR query LIKE 'SELECT count%GROUP BY%' THEN query := replace(replace(replace(query, ' GROUP BY 1', ''), 'r.n % 3, ', ''), 'r.note, ', ''); END IF;
    WHEN 25 THEN query := 'SELECT e.note, count(*), avg(r.n), max(r.note) FROM env AS e ' || pick('', 'LEFT ', 'RIGHT ', 'FULL ') || 'JOIN {run} AS r ON r.env = e.id' || pick('', ' AND r.n < 5')
      || ' WHERE ' || pick(r, 'e.id < ''e4''', 'r.note = ''a'' OR e.id = ''e2''') || ' GROUP BY e.note';
    WHEN 6 THEN query := 'SELECT DISTINCT r.note, r.env FROM {run} AS r WHERE ' || r;
    WHEN 7 THEN query := 'SELECT r.id, s.id FROM {run} AS r ' || pick('', 'LEFT ', 'RIGHT ', 'FULL ') || 'JOIN {step} AS s ON s."runId" = r.id WHERE ' || pick(r, s, r || ' AND ' || s);
    WHEN 8 THEN query := 'SELECT e.id, r.id, r.note FROM env AS e ' || pick('', 'LEFT ') || 'JOIN {run} AS r ON ' || pick('r.id', 'r.fid') || ' = e.run_id AND ' || r;
    WHEN 9 THEN query := 'SELECT e.id, r.id FROM env AS e JOIN {run} AS r ON r.env = e.id WHERE ' || r || page; ordered := true;
    WHEN 10 THEN query := 'SELECT e.id, l.id FROM env AS e, LATERAL (SELECT r.id FROM {run} AS r WHERE r.id = e.run_id OR ' || r || page || ') AS l';
    WHEN 11 THEN query := 'SELECT r.id FROM {run} AS r WHERE ' || r || pick(' UNION ALL ', ' UNION ', ' EXCEPT ', ' INTERSECT ') || 'SELECT s."runId" FROM {step} AS s WHERE ' || s;
    WHEN 12 THEN query := 'WITH c AS ' || pick('', 'MATERIALIZED ') || '(SELECT r.* FROM {run} AS r) SELECT r.id, p.id FROM c AS r JOIN {run} AS p ON p.id = r.parent WHERE ' || r;
    WHEN 13 THEN query := 'SELECT r.id FROM {run} AS r WHERE ' || pick('', 'NOT ') || 'EXISTS (SELECT FROM {step} AS s WHERE s."runId" = r.id AND ' || s || ')';
    WHEN 14 THEN query := 'SELECT e.id, (SELECT r.note FROM {run} AS r WHERE r.id = e.run_id), (SELECT count(*) FROM {step} AS s WHERE s."runId" = e.run_id OR ' || s || ') FROM env AS e';
    WHEN 16 THEN query := 'SELECT r, r.note FROM {run} AS r WHERE ' || pick('r.id = $1', 'r.id = ANY ($3)', 'r.id IN ($1, $2)') || ' AND ' || r;
    WHEN 17 THEN query := 'SELECT r.id, r.note FROM (SELECT * FROM {run} AS r WHERE ' || r || pick('', ' OFFSET 0', ' ORDER BY r.id LIMIT 5') || ') AS r WHERE '
      || pick('r.id = $1', 'r.id = ANY ($3)', condition('r', 'id', 1));
    WHEN 18 THEN query := 'SELECT r.id, r.step, r.note FROM {run_steps} AS r WHERE ' || r;
    WHEN 19 THEN query := 'SELECT r.id, r.env FROM {open_run} AS r WHERE ' || r || ' AND ' || pick('r.id = $1', 'r.note ~ ''a''', 'r.id = ANY ($3)');
    WHEN 20 THEN query := 'SELECT r.id, e.id, p.note FROM env AS e ' || pick('', 'LEFT ', 'FULL ') || 'JOIN {run} AS r ON r.id = e.run_id ' || pick('', 'LEFT ', 'RIGHT ')
      || 'JOIN {run} AS p ON p.id = r.parent WHERE ' || pick('e.run_id = $1', 'r.id = $1', 'p.id = $2', 'p.id = $2 AND r.id = $1', 'coalesce(r.id, $1) = $1', 'r.id = $1 OR p.id IS NULL', condition('p', 'id', 1));
    WHEN 21 THEN query := 'SELECT r.id, count(*), grouping(r.env) FROM {run} AS r WHERE ' || pick('r.id = $1', 'r.id = ANY ($3)', r) || ' GROUP BY GROUPING SETS ((r.id, r.env), (r.id), ()) HAVING count(*) > 0 AND '
      || pick('true', 'r.id = $2', 'r.id = $1', 'r.id IS NULL');
    WHEN 22 THEN query := 'SELECT id, r.note, s.note FROM {run} AS r ' || pick('', 'LEFT ', 'FULL ') || 'JOIN (SELECT "runId" AS id, note FROM {step}) AS s USING (id) WHERE ' || pick('id = $1', 'r.id = $1', 's.id = $1', 's.id = ANY ($3)', 'id IN ($1, $2)');
    WHEN 23 THEN query := 'SELECT e.id, ARRAY(SELECT r.note FROM {run} AS r WHERE ' || pick('r.id = $1', 'r.id = ANY ($3)', 'r.id = e.run_id AND r.id = $1', r) || ' ORDER BY r.id), '
      || '(SELECT max(p.n) FROM {run} AS p LEFT JOIN {step} AS s ON s."runId" = p.id AND s."runId" = $1 WHERE p.id = ANY (ARRAY[e.run_id, $2])) FROM env AS e';
    WHEN 15 THEN query := 'SELECT * FROM (SELECT r.id, r.note, rank() OVER (ORDER BY r.n) FROM {run} AS r UNION ALL SELECT s."runId", s.note, 0 FROM {step} AS s) AS r WHERE '
      || pick('r.id = $1', 'r.id = ANY ($3)', 'r.id = $1 OR r.id = $2');
  END CASE;
END $$;

-- Runs queries * 8 comparisons; shows those that differ.
CREATE FUNCTION compare(queries int, OUT executions bigint, OUT differences bigint) LANGUAGE plpgsql AS $$
DECLARE
  q record; digest text; over_views text; over_whole text; shown text; expected text; way text; id1 text; id2 text; set3 text[]; setting text;
BEGIN
  executions := 0; differences := 0;
  FOR i IN 1 .. queries LOOP
    q := random_query();
    digest := CASE WHEN q.ordered THEN 'SELECT count(*) || md5(string_agg(q::text, ''|'')) FROM (%s) AS q'
                   ELSE 'SELECT count(*) || md5(string_agg(q::text, ''|'' ORDER BY q::text COLLATE "C")) FROM (%s) AS q' END;
    over_views := format(digest, regexp_replace(q.query, '\{(run|step|run_steps|open_run)\}', 'run_ops.\1', 'g'));
    over_whole := format(digest, regexp_replace(q.query, '\{(run|step|run_steps|open_run)\}', 'whole_\1', 'g'));
    FOREACH setting IN ARRAY '{hashjoin,mergejoin,nestloop,indexscan,bitmapscan,seqscan,material,memoize}'::text[] LOOP
      PERFORM set_config('enable_' || setting, CASE WHEN random() < 0.8 THEN 'on' ELSE 'off' END, true);
    END LOOP;
    EXECUTE 'PREPARE views (text, text, text[]) AS ' || over_views;
    EXECUTE 'PREPARE whole (text, text, text[]) AS ' || over_whole;
    FOREACH way IN ARRAY '{generic,generic,generic,generic,custom,custom,literal,literal}'::text[] LOOP
      id1 := any_id(); id2 := any_id(); set3 := any_ids();
      PERFORM set_config('app.id', coalesce(any_id(), ''), true);
      CASE way
        WHEN 'literal' THEN
          EXECUTE replace(replace(replace(over_views, '$1', quote_nullable(id1) || '::text'), '$2', quote_nullable(id2) || '::text'), '$3', quote_nullable(set3::text) || '::text[]') INTO shown;
          EXECUTE over_whole INTO expected USING id1, id2, set3;
        ELSE
          PERFORM set_config('plan_cache_mode', 'force_' || way || '_plan', true);
          EXECUTE format('EXECUTE views (%L, %L, %L)', id1, id2, set3) INTO shown;
          EXECUTE format('EXECUTE whole (%L, %L, %L)', id1, id2, set3) INTO expected;
      END CASE;
      executions := executions + 1;
      IF shown IS DISTINCT FROM expected THEN
        differences := differences + 1;
        RAISE WARNING 'seed %, % plan, ($1, $2, $3) = (%, %, %): %', current_setting('app.seed'), way, id1, id2, set3, q.query;
      END IF;
    END LOOP;
    DEALLOCATE views;
    DEALLOCATE whole;
  END LOOP;
END $$;
SET app.seed = :seed;
\set ECHO all

SELECT * FROM compare(2600);
-- groups are joined only if they are much cheaper than rows
ALTER SERVER new OPTIONS (ADD fdw_tuple_cost '1');
ALTER SERVER a OPTIONS (ADD fdw_tuple_cost '1');
SELECT * FROM compare(400);
SET run_ops_split.seam_pruning = off;
SELECT * FROM compare(400);

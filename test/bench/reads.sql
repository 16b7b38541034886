-- Reads through a view of two stores, against the table that holds the rows,
-- or against what a client would write by hand. 100,000 rows a store.
SET client_min_messages = warning;
SET jit = off;
\getenv store_host RUN_OPS_STORE_HOST
\getenv store_port RUN_OPS_STORE_PORT
SELECT dblink_exec(format('host=%s port=%s dbname=postgres user=%s', :'store_host', :'store_port', :'USER'),
                   'CREATE DATABASE bench_reads_store') \g /dev/null
CREATE SERVER new FOREIGN DATA WRAPPER run_ops_fdw
  OPTIONS (host :'store_host', port :'store_port', dbname 'bench_reads_store');
CREATE USER MAPPING FOR CURRENT_USER SERVER new OPTIONS (user :'USER');

CREATE FUNCTION filled(shape int) RETURNS text LANGUAGE sql AS $f$
  SELECT format($q$
    CREATE TABLE run (id text PRIMARY KEY, env text NOT NULL, created timestamp NOT NULL, payload text NOT NULL);
    INSERT INTO run SELECT 'run_' || substr(md5(i::text) || md5((-i)::text), 1, %1$s), 'env_' || i %% 100,
      timestamp '2026-01-01' + (i * 2 + %1$s / 27) * interval '1 second', repeat(md5(i::text), 8) FROM generate_series(1, 100000) AS i;
    CREATE INDEX ON run (env, created DESC);
    ANALYZE run $q$, shape)
$f$;
DO $$ BEGIN EXECUTE filled(25); PERFORM dblink_exec('new', filled(27)); END $$;
SELECT run_ops.attach_store('new', 'new'), run_ops.attach_table('run', 'shape'), run_ops.swap_views(true) \g /dev/null
CREATE TABLE ids AS
  SELECT array_agg(id) AS legacy, array_agg('run_' || substr(md5(i::text) || md5((-i)::text), 1, 27)) AS new
    FROM (SELECT i * 50 AS i, 'run_' || substr(md5((i * 50)::text) || md5((-i * 50)::text), 1, 25) AS id FROM generate_series(1, 200) AS i) AS s;
CREATE TABLE wanted AS SELECT id FROM ids, unnest(legacy) AS id LIMIT 100;
VACUUM ANALYZE wanted;

-- "times" executions of a query as a prepared statement, $1 an id, $2 a set of ids
CREATE FUNCTION repeated(name text, query text, mode text) RETURNS void LANGUAGE plpgsql AS $f$
BEGIN
  EXECUTE format($q$
    CREATE FUNCTION %I(times int, one text[], many text[]) RETURNS void LANGUAGE plpgsql
    SET plan_cache_mode = 'force_%s_plan' AS $b$
    DECLARE the_id text;
    BEGIN
      FOR i IN 1 .. times LOOP
        the_id := one[1 + i %% cardinality(one)];
        PERFORM %s;
      END LOOP;
    END $b$ $q$, name, mode, replace(replace(query, '$1', 'the_id'), '$2', 'many'));
END $f$;
CREATE FUNCTION measured(what text, base_name text, target text, query text, base_query text, times int, one text[], many text[], mode text)
RETURNS text LANGUAGE plpgsql AS $f$
BEGIN
  PERFORM repeated('work ' || what, query, mode), repeated('base ' || what, base_query, mode);
  RETURN format('%s|%s|%s|%s', what, base_name, target,
    bench.ratio(format('SELECT %I(%s, %L, %L)', 'work ' || what, times, one, many),
                format('SELECT %I(%s, %L, %L)', 'base ' || what, times, one, many)));
END $f$;

SELECT measured('LEGACY point read in a PL/pgSQL loop, ' || mode || ' plan', 'the base table', '-',
                '* FROM run_ops.run AS r WHERE r.id = $1', '* FROM run AS r WHERE r.id = $1', 2000, legacy, NULL, mode)
  FROM ids, unnest(ARRAY['custom', 'generic']) AS mode;
SELECT measured('newest 25 of an environment, ' || mode || ' plan', 'the two queries merged by hand', 'at most 1.2',
                '* FROM run_ops.run AS r WHERE r.env = $1 ORDER BY r.created DESC LIMIT 25',
                '* FROM ((SELECT * FROM run AS r WHERE r.env = $1 ORDER BY r.created DESC LIMIT 25) UNION ALL '
                '(SELECT * FROM run_ops_new.run AS r WHERE r.env = $1 ORDER BY r.created DESC LIMIT 25)) AS r ORDER BY created DESC LIMIT 25',
                100, ARRAY['env_1', 'env_2', 'env_3'], NULL, mode)
  FROM unnest(ARRAY['custom', 'generic']) AS mode;
SELECT measured('100 mixed ids, ' || mode || ' plan', 'the two queries split by hand', 'at most 1.2',
                '* FROM run_ops.run AS r WHERE r.id = ANY ($2)',
                '* FROM run AS r WHERE r.id = ANY ($2[1:50]) UNION ALL SELECT * FROM run_ops_new.run AS r WHERE r.id = ANY ($2[51:100])',
                100, legacy, legacy[1:50] || new[1:50], mode)
  FROM ids, unnest(ARRAY['custom', 'generic']) AS mode;
SELECT measured('join of 100 LEGACY ids', 'the base table', 'at most 1.3',
                'count(r.payload) FROM wanted AS w JOIN run_ops.run AS r ON r.id = w.id',
                'count(r.payload) FROM wanted AS w JOIN run AS r ON r.id = w.id', 100, legacy, NULL, 'generic')
  FROM ids;

-- the same with a key rule, a boundary between ids
CREATE FUNCTION numbered(first int) RETURNS text LANGUAGE sql AS $f$
  SELECT format($q$
    CREATE TABLE item (id text PRIMARY KEY, payload text NOT NULL);
    INSERT INTO item SELECT 'item_' || %s + i, repeat(md5(i::text), 8) FROM generate_series(1, 100000) AS i;
    ANALYZE item $q$, first)
$f$;
DO $$ BEGIN PERFORM run_ops.swap_views(false); EXECUTE numbered(1000000); PERFORM dblink_exec('new', numbered(2000000)); END $$;
SELECT run_ops.create_boundary_rule('item_store', 'text', 'item_2000000') \g /dev/null
SELECT run_ops.attach_table('item', 'shape', key_rule => 'item_store(text)'), run_ops.swap_views(true) \g /dev/null
SELECT measured(store || ' point read with a key rule, ' || mode || ' plan', base, '-',
                '* FROM run_ops.item AS r WHERE r.id = $1', format('* FROM %s AS r WHERE r.id = $1', base), times,
                ARRAY(SELECT 'item_' || first + i * 97 FROM generate_series(1, 200) AS i), NULL, mode)
  FROM (VALUES ('LEGACY', 'item', 1000000, 2000), ('NEW', 'run_ops_new.item', 2000000, 300)) AS s (store, base, first, times), unnest(ARRAY['custom', 'generic']) AS mode;

-- What a foreign table does to those who expect a local one, and what the
-- extension makes of it.  test/README.md has the whole list; this file has
-- those that no other test shows.
\set name traps
\i test/fixtures/two_stores.sql
\set VERBOSITY terse
CREATE TABLE run (id text PRIMARY KEY, n int);
CREATE TABLE step (id text PRIMARY KEY, "runId" text NOT NULL);
SELECT dblink_exec('new', 'CREATE TABLE run (id text PRIMARY KEY, n int); CREATE TABLE step (id text PRIMARY KEY, "runId" text NOT NULL)');
SELECT run_ops.attach_store('new', 'new');
SELECT run_ops.attach_table('run', 'shape'), run_ops.attach_table('step', 'anchor', 'runId');
SELECT run_ops.swap_views(true);
SELECT 'run_' || repeat('l', 25) AS cuid, 'run_' || repeat('n', 27) AS ksuid \gset
INSERT INTO run_ops.run VALUES (:'cuid', 1);
INSERT INTO run_ops.run VALUES (:'ksuid', 1);
-- a second session, here and in the store
\set ECHO none
SELECT format('host=%s port=%s dbname=%s', :'legacy_host', :'legacy_port', :'legacy_db') AS here,
       format('host=%s port=%s dbname=%s', :'store_host', :'store_port', :'store_db') AS there \gset
SELECT dblink_connect('here', :'here'), dblink_connect('there', :'there') \gset
\set ECHO all

-- At READ COMMITTED each statement has a snapshot of its own, in the store as
-- well: what changes there meanwhile is seen, and an UPDATE of it goes on.
BEGIN;
SELECT id, n FROM run_ops.run ORDER BY id;
SELECT dblink_exec('here', 'UPDATE run SET n = n + 1'), dblink_exec('there', 'UPDATE run SET n = n + 1');
SELECT id, n FROM run_ops.run ORDER BY id;
UPDATE run_ops.run SET n = 10 WHERE id = :'ksuid';
ROLLBACK;
SELECT id, n FROM run_ops.run ORDER BY id;

-- An expression on a parameter that the store could not compute, with a generic
-- plan: it is computed here, and only the store of the id is asked for its row.
CREATE FUNCTION local_id(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RETURN 'run_' || $1; END $$;
SET plan_cache_mode = force_generic_plan;
PREPARE by_function (text) AS SELECT n FROM run_ops.run WHERE id = local_id($1);
PREPARE by_sub_select (text) AS SELECT n FROM run_ops.run WHERE id = (SELECT local_id($1));
EXECUTE by_function (repeat('l', 25));
EXECUTE by_function (repeat('n', 27));
EXECUTE by_sub_select (repeat('n', 27));
CREATE FUNCTION plan(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
  line text;
BEGIN
  FOR line IN EXECUTE 'EXPLAIN (ANALYZE, VERBOSE, COSTS OFF, TIMING OFF, SUMMARY OFF) ' || query LOOP
    IF line ~ 'Remote SQL|Foreign Scan|One-Time|Rows Removed' THEN
      RETURN NEXT replace(regexp_replace(ltrim(line), '(rows=\d+)\.\d+', '\1'), '(InitPlan 1).col1', '$0');
    END IF;
  END LOOP;
END $$;
SELECT dblink_exec('there', $$INSERT INTO run SELECT 'run_' || lpad(g::text, 27, '0'), g FROM generate_series(1, 500) AS g$$);
SELECT plan('EXECUTE by_function (repeat(''l'', 25))');
SELECT plan('EXECUTE by_function (repeat(''n'', 27))');
SELECT plan('EXECUTE by_sub_select (repeat(''n'', 27))');
RESET plan_cache_mode;

-- Tables of one server share one connection.
INSERT INTO run_ops.step SELECT 's' || g, 'run_' || lpad(g::text, 27, '0') FROM generate_series(1, 500) AS g;
SELECT count(*), sum(n) FROM (SELECT r.n FROM run_ops.run AS r UNION ALL SELECT length(s.id) FROM run_ops.step AS s) AS u;
SELECT count(*) FROM run_ops.run AS r JOIN run_ops.step AS s ON s."runId" = r.id;
SELECT store, server, in_transaction FROM run_ops.store_connections();
SELECT count(*) FROM dblink('there', 'SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = ''run_ops_split''') AS c (pid int);

-- NOTIFY lets one transaction commit at a time: nothing that is written to a
-- routed table notifies.
LISTEN run_ops_cache;
UPDATE run_ops.run SET n = 3 WHERE id = :'ksuid';
UPDATE run_ops.run SET n = 3 WHERE id = :'cuid';
DELETE FROM run_ops.step;
UNLISTEN *;

-- A circle of waits over both servers.  Each sees half of it, so neither ever
-- finds a deadlock.
CREATE FUNCTION wait_for(condition text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  met boolean;
BEGIN
  FOR i IN 1..2000 LOOP
    PERFORM pg_stat_clear_snapshot();
    EXECUTE 'SELECT ' || condition INTO met;
    IF met THEN
      RETURN;
    END IF;
    PERFORM pg_sleep(0.01);
  END LOOP;
  RAISE EXCEPTION 'never met: %', condition;
END $$;
-- waits for ten times what it takes to look for a deadlock
CREATE FUNCTION long_waits() RETURNS text IMMUTABLE LANGUAGE sql
  RETURN $$EXISTS (SELECT FROM pg_locks WHERE NOT granted AND clock_timestamp() > waitstart + interval '300 ms'
                   AND pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database()))$$;
ALTER SERVER new OPTIONS (ADD options '-c deadlock_timeout=30ms');
CREATE FUNCTION circle() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  cuid  text := 'run_' || repeat('l', 25);
  ksuid text := 'run_' || repeat('n', 27);
  s     text;
BEGIN
  FOREACH s IN ARRAY ARRAY['one', 'two'] LOOP
    PERFORM dblink_exec(s, 'SET deadlock_timeout = ''30ms''; SET run_ops_split.cross_store_writes = allow; BEGIN');
  END LOOP;
  PERFORM dblink_exec('one', format('UPDATE run_ops.run SET n = n + 1 WHERE id = %L', cuid));
  PERFORM dblink_exec('two', format('UPDATE run_ops.run SET n = n + 1 WHERE id = %L', ksuid));
  PERFORM dblink_send_query('one', format('UPDATE run_ops.run SET n = n + 1 WHERE id = %L', ksuid));
  PERFORM dblink_send_query('two', format('UPDATE run_ops.run SET n = n + 1 WHERE id = %L', cuid));
END $$;
\set ECHO none
SELECT dblink_connect('one', :'here'), dblink_connect('two', :'here') \gset
\set ECHO all
SELECT circle();
SELECT wait_for(long_waits());
SELECT wait_for($$(SELECT waits FROM dblink('there', 'SELECT $$ || replace(long_waits(), '''', '''''') || $$') AS t (waits boolean))$$);
SELECT dblink_is_busy('one') AS one_waits, dblink_is_busy('two') AS two_waits;
SELECT dblink_cancel_query('one');
SELECT * FROM dblink_get_result('one', false) AS r (status text);
SELECT dblink_exec('one', 'ROLLBACK') FROM dblink_get_result('one', false) AS r (status text) RIGHT JOIN (VALUES (1)) AS v ON true;
SELECT * FROM dblink_get_result('two') AS r (status text);
SELECT dblink_exec('two', 'ROLLBACK') FROM dblink_get_result('two') AS r (status text) RIGHT JOIN (VALUES (1)) AS v ON true;
-- The way out is a lock_timeout in the store, which the server's options set.
SELECT dblink_disconnect('one'), dblink_disconnect('two');
ALTER SERVER new OPTIONS (SET options '-c deadlock_timeout=30ms -c lock_timeout=500ms');
\set ECHO none
SELECT dblink_connect('one', :'here'), dblink_connect('two', :'here') \gset
\set ECHO all
SELECT circle();
SELECT wait_for('dblink_is_busy(''one'') = 0');
SELECT * FROM dblink_get_result('one', false) AS r (status text);
SELECT dblink_exec('one', 'ROLLBACK') FROM dblink_get_result('one', false) AS r (status text) RIGHT JOIN (VALUES (1)) AS v ON true;
SELECT * FROM dblink_get_result('two') AS r (status text);
SELECT dblink_exec('two', 'COMMIT') FROM dblink_get_result('two') AS r (status text) RIGHT JOIN (VALUES (1)) AS v ON true;
SELECT id, n FROM run_ops.run WHERE id IN (:'cuid', :'ksuid') ORDER BY id;
SELECT dblink_disconnect(c) FROM unnest(dblink_get_connections()) AS c;

\c postgres
\set ECHO none
SET client_min_messages = warning;
DROP DATABASE regress_traps (FORCE);

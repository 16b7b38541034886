-- Row security, security barriers and security_invoker, and what LEAKPROOF
-- promises.
\set name row_security
\i test/fixtures/two_stores.sql
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_ann, regress_ben;
CREATE ROLE regress_ann;
CREATE ROLE regress_ben;
RESET client_min_messages;
\set VERBOSITY terse
CREATE TABLE run (id text PRIMARY KEY, owner text NOT NULL, secret text NOT NULL);
SELECT dblink_exec('new', 'CREATE TABLE run (id text PRIMARY KEY, owner text NOT NULL, secret text NOT NULL)');
CREATE FUNCTION cuid(n int) RETURNS text IMMUTABLE LANGUAGE sql RETURN 'run_' || lpad(n::text, 25, '0');
CREATE FUNCTION ksuid(n int) RETURNS text IMMUTABLE LANGUAGE sql RETURN 'run_' || lpad(n::text, 27, '0');
ALTER TABLE run ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON run USING (owner = current_user);
GRANT SELECT, INSERT, UPDATE, DELETE ON run TO regress_ann, regress_ben;
SELECT run_ops.attach_store('new', 'new');
SELECT run_ops.attach_table('run', 'shape');
SELECT run_ops.swap_views(true);
INSERT INTO run_ops.run SELECT f.id, o.owner, 'of ' || o.owner
  FROM (VALUES ('regress_ann', 1), ('regress_ben', 2)) AS o (owner, n), LATERAL (VALUES (cuid(o.n)), (ksuid(o.n))) AS f (id);

-- Row security does not reach the readers of the view: it reads as its owner.
SET ROLE regress_ann;
SELECT id, secret FROM run ORDER BY id;
SELECT id, secret FROM run_ops.run ORDER BY id;
RESET ROLE;

-- A security barrier of one's own over the view is the way that needs no
-- change of the store.  It prunes as before, and shows no other row to a
-- function that would tell.
CREATE VIEW mine WITH (security_barrier) AS SELECT * FROM run_ops.run WHERE owner = current_user;
GRANT SELECT ON mine TO regress_ann;
CREATE FUNCTION tell(secret text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$
BEGIN
  RAISE NOTICE 'seen: %', secret;
  RETURN true;
END $$;
SET ROLE regress_ann;
SELECT id FROM mine WHERE tell(secret) ORDER BY id;
SELECT id FROM mine WHERE id = ksuid(2) AND tell(secret);
SELECT id FROM mine WHERE id = cuid(2) AND tell(secret);
SELECT id FROM mine WHERE id = ANY (ARRAY[cuid(1), ksuid(1), cuid(2), ksuid(2)]) AND tell(secret) ORDER BY id;
-- what may be tested first: an id, and what never fails
SELECT id FROM mine WHERE run_ops.classify_kind(id) = 'ksuid' AND run_ops.resides(id, 'new') AND run_ops.id_timestamp(id) IS NOT NULL;
EXPLAIN (COSTS OFF) SELECT id FROM mine WHERE id = cuid(2);
EXPLAIN (COSTS OFF) SELECT id FROM mine WHERE id = ksuid(2);
-- an error would tell of a row, so what may fail is tested last
SELECT run_ops.owner_engine(secret) FROM mine WHERE id = 'none';
SELECT id FROM mine WHERE id = cuid(2) AND run_ops.owner_engine(secret) = 'NEW';
RESET ROLE;

-- The same on the view itself, which keeps the option through a switch.
ALTER VIEW run_ops.run SET (security_barrier);
SELECT run_ops.refresh_table('run_ops.run');
SELECT reloptions FROM pg_class WHERE oid = 'run_ops.run'::regclass;
EXPLAIN (COSTS OFF) SELECT id FROM run_ops.run WHERE id = cuid(2);
EXPLAIN (COSTS OFF) SELECT id FROM run_ops.run WHERE id = ksuid(2);
SELECT id FROM run_ops.run WHERE id = cuid(2) FOR UPDATE;
ALTER VIEW run_ops.run RESET (security_barrier);

-- LEAKPROOF: no value makes them fail.  All characters of one byte, long
-- values, values of every length around the kinds, other alphabets.
SELECT p.oid::regprocedure FROM pg_proc AS p WHERE p.pronamespace = 'run_ops'::regnamespace AND p.proleakproof ORDER BY p.proname COLLATE "C";
CREATE TABLE value AS
  SELECT repeat(c.c, n) || p.p || repeat(c.c, m) AS v
    FROM (SELECT chr(i) FROM generate_series(1, 255) AS i UNION ALL VALUES ('ß'), ('€'), ('𝕏'), ('')) AS c (c),
         (VALUES ('_'), ('_1'), ('2'), ('')) AS p (p), (VALUES (0), (1), (3)) AS n (n),
         (SELECT generate_series(0, 30) UNION ALL VALUES (1000), (100000)) AS m (m)
   WHERE m < 1000 OR c.c IN ('a', '_', '€');
INSERT INTO value SELECT repeat('a', n) FROM (VALUES (1000000), (30000000)) AS v (n);
SELECT count(*) > 90000 AS many, count(run_ops.try_owner_engine(v)) > 0 AS owner, count(run_ops.is_classifiable(v)) > 0 AS classifiable,
       count(run_ops.classify_kind(v)) > 0 AS kind, count(run_ops.resolve_shard(v)) > 0 AS shard, count(run_ops.resides(v, v)) > 0 AS resides,
       count(run_ops.id_resides(v, 'new')) > 0 AS id_resides, count(run_ops.id_timestamp(v)) > 0 AS time, count(run_ops.id_body(v)) > 0 AS body
  FROM value;

\c postgres
\set ECHO none
SET client_min_messages = warning;
DROP DATABASE regress_row_security;
DROP ROLE regress_ann, regress_ben;

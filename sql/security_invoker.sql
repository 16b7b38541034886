-- A view with security_invoker (PostgreSQL 15 and newer) reads and writes
-- with the rights of its caller: row security of the local table holds, and the
-- store sees the user that the caller is mapped to.
SELECT current_setting('server_version_num')::int < 150000 AS too_old \gset
\if :too_old
\quit
\endif
\set name security_invoker
\i test/fixtures/two_stores.sql
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_ann, regress_ben;
CREATE ROLE regress_ann;
CREATE ROLE regress_ben;
RESET client_min_messages;
\set VERBOSITY terse
\set ECHO none
\connect :store_db - :store_host :store_port
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_ann, regress_ben;
CREATE ROLE regress_ann LOGIN;
CREATE ROLE regress_ben LOGIN;
\set ECHO all
-- in the store
CREATE TABLE run (id text PRIMARY KEY, owner text NOT NULL DEFAULT CURRENT_USER, n int);
ALTER TABLE run ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON run USING (owner = current_user);
GRANT SELECT, INSERT, UPDATE, DELETE ON run TO regress_ann, regress_ben;
\set ECHO none
\connect :legacy_db - :legacy_host :legacy_port
\set ECHO all
-- and here
CREATE TABLE run (id text PRIMARY KEY, owner text NOT NULL DEFAULT CURRENT_USER, n int);
ALTER TABLE run ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON run USING (owner = current_user);
GRANT SELECT, INSERT, UPDATE, DELETE ON run TO regress_ann, regress_ben;
CREATE FUNCTION cuid(n int) RETURNS text IMMUTABLE LANGUAGE sql RETURN 'run_' || lpad(n::text, 25, '0');
CREATE FUNCTION ksuid(n int) RETURNS text IMMUTABLE LANGUAGE sql RETURN 'run_' || lpad(n::text, 27, '0');
SELECT run_ops.attach_store('new', 'new');
SELECT run_ops.attach_table('run', 'shape');
ALTER VIEW run_ops.run SET (security_invoker);
SELECT run_ops.swap_views(true);
SELECT reloptions FROM pg_class WHERE oid = 'run_ops.run'::regclass;

SET ROLE regress_ann;
-- the caller needs rights on what is behind the view
SELECT * FROM run_ops.run WHERE id = cuid(1);
SELECT * FROM run_ops.run WHERE id = ksuid(1);
INSERT INTO run_ops.run VALUES (ksuid(1), 'x', 1);
RESET ROLE;
GRANT USAGE ON SCHEMA run_ops_new TO regress_ann, regress_ben;
GRANT SELECT, INSERT, UPDATE, DELETE ON run_ops_new.run TO regress_ann, regress_ben;
-- passwords are what maps them in earnest
CREATE USER MAPPING FOR regress_ann SERVER new OPTIONS (user 'regress_ann', password_required 'false');
CREATE USER MAPPING FOR regress_ben SERVER new OPTIONS (user 'regress_ben', password_required 'false');
SET run_ops_split.cross_store_writes = allow;
SET ROLE regress_ann;
INSERT INTO run_ops.run VALUES (cuid(1), 'regress_ann', 1), (ksuid(1), 'regress_ann', 1);
INSERT INTO run_ops.run VALUES (cuid(9), 'regress_ben', 1);
INSERT INTO run_ops.run VALUES (ksuid(9), 'regress_ben', 1);
SET ROLE regress_ben;
INSERT INTO run_ops.run VALUES (cuid(2), 'regress_ben', 1), (ksuid(2), 'regress_ben', 1);
SELECT * FROM run_ops.run ORDER BY id;
UPDATE run_ops.run SET n = n + 1;
DELETE FROM run_ops.run WHERE id IN (cuid(1), ksuid(1));
SELECT run_ops.lock_row('run_ops.run', cuid(1)), run_ops.lock_row('run_ops.run', ksuid(2));
RESET ROLE;
SELECT id, owner, n FROM run ORDER BY id;
SELECT * FROM dblink('new', 'SELECT id, owner, n FROM run ORDER BY id') AS t (id text, owner text, n int);

-- A plan that was made for one role does not serve another one.
SET plan_cache_mode = force_generic_plan;
PREPARE add (text, text) AS INSERT INTO run_ops.run VALUES ($1, $2, 1);
EXECUTE add (cuid(3), 'nobody');
SET ROLE regress_ann;
EXECUTE add (cuid(4), 'regress_ben');
EXECUTE add (cuid(4), 'regress_ann');
SET ROLE regress_ben;
EXECUTE add (cuid(5), 'regress_ann');
RESET ROLE;
RESET plan_cache_mode;
SELECT id, owner FROM run WHERE id > cuid(2) ORDER BY id;

-- It stays when split is switched off.
SELECT run_ops.swap_views(false);
SELECT reloptions FROM pg_class WHERE oid = 'run_ops.run'::regclass;
SET ROLE regress_ann;
SELECT id FROM run_ops.run;

\set ECHO none
\connect postgres - :legacy_host :legacy_port
SET client_min_messages = warning;
DROP DATABASE regress_security_invoker;
\connect postgres - :store_host :store_port
SET client_min_messages = warning;
DROP DATABASE regress_security_invoker_store (FORCE);
DROP ROLE regress_ann, regress_ben;
\connect postgres - :legacy_host :legacy_port
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_ann, regress_ben;

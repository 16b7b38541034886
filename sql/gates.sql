-- Gates that compare a table with its copy in a store, or look at its rows; and
-- what users have set on a view stays through each switch.
\set name gates
\i test/fixtures/two_stores.sql
CREATE SCHEMA app;
CREATE SCHEMA views;
SET search_path = app, public;
CREATE FUNCTION gates(VARIADIC gates text[]) RETURNS TABLE (gate text, object text, ok boolean, detail text) LANGUAGE sql AS $$
  SELECT g.gate, g.object, g.ok, g.detail FROM run_ops.check_split() AS g
   WHERE g.gate = ANY (gates) AND (g.ok IS NOT TRUE OR g.hint IS NOT NULL) ORDER BY g.gate, g.object COLLATE "C" $$;
CREATE DOMAIN small AS int;
CREATE TABLE run (id text PRIMARY KEY, env text, n int, "A" text, size small);
CREATE TABLE step (id text PRIMARY KEY, "runId" text NOT NULL REFERENCES run ON DELETE CASCADE, other text DEFAULT 'none');
SELECT 1 AS x FROM dblink('new', $$
  CREATE SCHEMA app;
  SET search_path = app, public;
  CREATE DOMAIN small AS int;
  CREATE TABLE run (id text PRIMARY KEY, environment text, n int, "taskRunId" text, size small);
  CREATE TABLE steps (id text PRIMARY KEY, "runId" text NOT NULL REFERENCES run ON DELETE CASCADE, other text DEFAULT 'none') $$) AS t (x text);
SELECT run_ops.attach_store('new', 'new');

-- Names of the extension stand in front of the application's only if the views
-- are in schema run_ops.
CREATE TABLE store (id int);
CREATE FUNCTION setting(name text) RETURNS text LANGUAGE sql AS 'SELECT name';
SELECT run_ops.attach_table('step', 'anchor', 'runId', store_table => 'steps');
SELECT run_ops.detach_table('step');
SELECT run_ops.attach_table('run', 'shape', column_names => '{"env": "environment", "A": "taskRunId"}', view_schema => 'views'),
       run_ops.attach_table('step', 'anchor', 'runId', store_table => 'steps', view_schema => 'views');
SELECT run_ops.configure_split(opted_in => true, native_realtime => true);
SELECT * FROM gates('hidden name');
ALTER DATABASE regress_gates SET search_path = run_ops, app;
SELECT * FROM gates('hidden name');
ALTER DATABASE regress_gates SET search_path = views, app;
SELECT * FROM gates('hidden name');
-- names of types, too; a function with similar arguments; and who sets the path by itself
CREATE TYPE routing AS ENUM ('a');
CREATE TYPE leftover AS (a int);
CREATE TABLE gate (id int);
CREATE FUNCTION audit(what varchar, detail json) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION audit(what int, detail json) RETURNS void LANGUAGE sql AS '';
CREATE PROCEDURE "To do"(int) LANGUAGE sql SET search_path = run_ops, app AS '';
SELECT gate, object, detail FROM gates('hidden name');
SELECT substring(hint FROM 'ALTER ROUTINE.*?;') AS hint FROM run_ops.check_split() WHERE gate = 'hidden name' AND object = 'app.gate';
DROP PROCEDURE "To do";
DROP TYPE routing, leftover;
DROP TABLE gate;
DROP FUNCTION audit(varchar, json), audit(int, json);

-- Indexes: those that count strays are only here, and a wider one serves as well.
SELECT replace(run_ops.stray_index(t), 'CONCURRENTLY ', '') FROM run_ops.routed_table AS t \gexec
CREATE INDEX ON run (env);
CREATE INDEX ON run (n) WHERE n > 0;
CREATE INDEX ON run (lower(env));
CREATE INDEX ON run (n DESC);
CREATE UNIQUE INDEX ON run (n, "A");
CREATE INDEX ON run (n, "A") WITH (fillfactor = 70);
SELECT 1 AS x FROM dblink('new', $$
  CREATE INDEX ON app.run (environment, n) INCLUDE ("taskRunId");
  CREATE INDEX ON app.run (n, "taskRunId");
  CREATE INDEX ON app.run (lower(environment), n) WHERE n > 0 $$) AS t (x text);
SELECT * FROM gates('index');
-- one that is deferrable is checked at another time
ALTER TABLE step ADD UNIQUE (other, id) DEFERRABLE;
SELECT 1 AS x FROM dblink('new', 'ALTER TABLE app.steps ADD UNIQUE (other, id)') AS t (x text);
SELECT gate, object, detail, hint FROM run_ops.check_split() WHERE gate = 'index' AND object LIKE '%step%';
ALTER TABLE step DROP CONSTRAINT step_other_id_key;
SELECT 1 AS x FROM dblink('new', 'ALTER TABLE app.steps DROP CONSTRAINT steps_other_id_key') AS t (x text);
SELECT narrow, wide, run_ops.index_is_implied(narrow, wide) FROM (VALUES
  ('btree (a)', 'btree (a)'), ('btree (a)', 'btree (a, b)'), ('btree (a)', 'UNIQUE btree (a)'), ('btree (a)', 'UNIQUE btree (a, b)'),
  ('btree (a)', 'btree (a) INCLUDE (b)'), ('btree (a) WHERE (b > 0)', 'btree (a)'), ('btree (a) WHERE (b > 0)', 'btree (a, c) WHERE (b > 0)'),
  ('btree (lower(a))', 'btree (lower(a), b)'), ('btree (a, b)', 'btree (a)'), ('btree (a)', 'btree (ab)'), ('btree (a)', 'btree (b, a)'),
  ('btree (a)', 'btree (a DESC, b)'), ('UNIQUE btree (a)', 'UNIQUE btree (a, b)'), ('UNIQUE btree (a)', 'btree (a)'), ('btree (a) INCLUDE (b)', 'btree (a, b)'),
  ('btree (a)', 'UNIQUE btree (a, b) DEFERRABLE'), ('UNIQUE btree (a)', 'UNIQUE btree (a) DEFERRABLE'),
  ('btree (a)', 'btree (a) WHERE (b > 0)'), ('btree (a) WHERE (b > 1)', 'btree (a) WHERE (b > 0)'), ('hash (a)', 'btree (a)'), ('gin (a)', 'gin (a, b)'))
  AS x (narrow, wide);

-- Foreign keys without an index, on both sides.
SELECT gate, object, ok, hint FROM run_ops.check_split() WHERE gate = 'foreign key index';
CREATE INDEX ON step ("runId", id);
SELECT 1 AS x FROM dblink('new', 'CREATE INDEX ON app.steps USING btree ("runId", id)') AS t (x text);
SELECT * FROM gates('foreign key index', 'index');

-- What guards a row here: the names may differ, the definitions must not.
ALTER TABLE run ADD CONSTRAINT positive CHECK (n > 0 AND "A" <> '') NOT VALID;
ALTER TABLE run ADD CONSTRAINT other CHECK (env <> '');
ALTER DOMAIN small ADD CONSTRAINT small_check CHECK (VALUE < 10);
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER stamp BEFORE INSERT OR UPDATE OF env ON run FOR EACH ROW WHEN (NEW.env IS NULL) EXECUTE FUNCTION stamp();
CREATE TRIGGER off BEFORE INSERT ON run FOR EACH ROW EXECUTE FUNCTION stamp();
ALTER TABLE run DISABLE TRIGGER off;
ALTER TABLE step ADD CONSTRAINT step_other FOREIGN KEY (other) REFERENCES run (id) ON DELETE SET NULL;
SELECT gate, object, detail, hint FROM run_ops.check_split() WHERE gate = 'guard' ORDER BY object COLLATE "C";
SELECT 1 AS x FROM dblink('new', $$
  SET search_path = app;
  ALTER TABLE run ADD CHECK (n > 0 AND "taskRunId" <> '');
  ALTER TABLE run ADD CHECK (environment <> 'no');
  CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
  CREATE TRIGGER stamped BEFORE INSERT OR UPDATE OF environment ON run FOR EACH ROW WHEN (NEW.environment IS NULL) EXECUTE FUNCTION stamp();
  ALTER TABLE steps ADD FOREIGN KEY (other) REFERENCES run (id) ON DELETE CASCADE $$) AS t (x text);
SELECT * FROM gates('guard');
SELECT count(run_ops.acknowledge(gate, object, 'as it is')) FROM run_ops.check_split() WHERE gate IN ('guard', 'index') AND NOT ok;

-- Partitions have what their table has, and may have more.
CREATE TABLE part (id text PRIMARY KEY, n int CHECK (n > 0)) PARTITION BY RANGE (id);
CREATE TABLE "Part one" PARTITION OF part FOR VALUES FROM ('a') TO ('m');
CREATE TABLE part_two PARTITION OF part DEFAULT;
CREATE TRIGGER stamp BEFORE INSERT ON part FOR EACH ROW EXECUTE FUNCTION stamp();
ALTER TABLE "Part one" ADD CHECK (n < 10), ADD EXCLUDE USING btree (n WITH =), ADD FOREIGN KEY (id) REFERENCES run;
CREATE UNIQUE INDEX ON part_two (n);
CREATE TRIGGER stamp_one BEFORE UPDATE ON "Part one" FOR EACH ROW EXECUTE FUNCTION stamp();
SELECT 1 AS x FROM dblink('new', $$
  SET search_path = app;
  CREATE TABLE part (id text PRIMARY KEY, n int CHECK (n > 0)) PARTITION BY RANGE (id);
  CREATE TABLE part_there PARTITION OF part DEFAULT;
  CREATE TRIGGER stamp BEFORE INSERT ON part_there FOR EACH ROW EXECUTE FUNCTION stamp() $$) AS t (x text);
SELECT run_ops.attach_table('part', 'shape', view_schema => 'views');
SELECT object, detail, hint FROM run_ops.check_split() WHERE gate = 'guard' AND NOT ok AND object ~* 'part';
SELECT 1 AS x FROM dblink('new', $$
  SET search_path = app;
  DROP TRIGGER stamp ON part_there;
  CREATE TRIGGER stamp BEFORE INSERT ON part FOR EACH ROW EXECUTE FUNCTION stamp();
  CREATE TRIGGER stamp_there BEFORE UPDATE ON part_there FOR EACH ROW EXECUTE FUNCTION stamp();
  ALTER TABLE part_there ADD CHECK (n < 10), ADD EXCLUDE USING btree (n WITH =);
  ALTER TABLE part ADD FOREIGN KEY (id) REFERENCES run;
  CREATE UNIQUE INDEX ON part_there (n) $$) AS t (x text);
SELECT gate, object FROM run_ops.check_split() WHERE gate IN ('guard', 'foreign key') AND NOT ok AND object ~* 'part';
SELECT run_ops.detach_table('part');
SELECT gate, object FROM run_ops.check_split() WHERE gate = 'foreign key' AND NOT ok AND object ~* 'part';
DROP TABLE part;

-- An identity column that accepts no value from here.
ALTER TABLE run ADD serial int GENERATED ALWAYS AS IDENTITY;
SELECT 1 AS x FROM dblink('new', 'ALTER TABLE app.run ADD serial int GENERATED ALWAYS AS IDENTITY') AS t (x text);
SELECT run_ops.refresh_table('run');
SELECT * FROM gates('identity');
SELECT run_ops.enable_split();
ALTER TABLE run ALTER serial SET GENERATED BY DEFAULT;
SELECT 1 AS x FROM dblink('new', 'ALTER TABLE app.run ALTER serial SET GENERATED BY DEFAULT') AS t (x text);
SELECT * FROM gates('identity');

-- Ids that are none, and ids of another scheme, of which some look like NEW ids.
INSERT INTO run (id) VALUES ('run_cl8dq15ad30lcaohivaab68x4'), ('x'), ('01h455vb4pe05vsknk084sn021'), ('01H455VB4PEX5VSKNK084SN02Q'), ('01h455vb4pexivsknk084sn021'),
  ('550e8400-e29b-41d4-a716-446655440000'), ('prefix_550e8400e29b41d4a716446655440000'), ('user_01h455vb4pex5vsknk084sn02q'),
  (run_ops.generate_cuid()), ('0123456789-123456789-123456');
SELECT id, run_ops.id_scheme(id), run_ops.owner_engine(id) FROM run WHERE run_ops.id_scheme(id) IS NOT NULL AND run_ops.is_classifiable(id) ORDER BY id COLLATE "C";
SELECT gate, object, ok, detail, hint FROM run_ops.check_split() WHERE gate = 'ids';
SELECT count(*), count(run_ops.id_scheme(m.id))
  FROM (SELECT unnest(ARRAY[run_ops.generate_cuid(), run_ops.generate_ksuid(), run_ops.generate_run_ops_id()]) FROM generate_series(1, 1000)) AS m (id);
-- of a large table, a sample
UPDATE pg_class SET reltuples = 1000001 WHERE oid = 'run'::regclass;
SELECT detail FROM gates('ids');
UPDATE pg_class SET reltuples = 1 WHERE oid = 'run'::regclass;
DELETE FROM run;
SELECT * FROM gates('ids');

-- Comments and defaults that a user has set stay; others follow the local table.
COMMENT ON VIEW views.step IS '@name steps';
ALTER VIEW views.step ALTER other SET DEFAULT 'by the view';
ALTER TABLE step ADD n int DEFAULT 1, ADD m int DEFAULT 1;
SELECT 1 AS x FROM dblink('new', 'ALTER TABLE app.steps ADD n int DEFAULT 1, ADD m int DEFAULT 1, DROP CONSTRAINT steps_other_fkey') AS t (x text);
SELECT run_ops.refresh_table('step');
CREATE VIEW set_on_views AS
  SELECT v.view, obj_description(v.view, 'pg_class') AS comment, a.attname, pg_get_expr(d.adbin, d.adrelid) AS "default"
    FROM run_ops.routed_table AS v JOIN pg_attribute AS a ON a.attrelid = v.view AND a.attnum > 0
    LEFT JOIN pg_attrdef AS d ON d.adrelid = v.view AND d.adnum = a.attnum WHERE v.legacy = 'step'::regclass ORDER BY a.attnum;
SELECT * FROM set_on_views;
SELECT run_ops.enable_split();
SELECT * FROM set_on_views;
INSERT INTO views.run (id, n, "A") VALUES ('run_37dGaqAyHnlXVhBy5x4pckK50bA', 1, 'a');
INSERT INTO views.step (id, "runId") VALUES ('s', 'run_37dGaqAyHnlXVhBy5x4pckK50bA') RETURNING *;
-- a migration while split is on, and a default that is set meanwhile
ALTER VIEW views.step ALTER m SET DEFAULT 5;
ALTER TABLE step ALTER n SET DEFAULT 2;
SELECT 1 AS x FROM dblink('new', 'ALTER TABLE app.steps ALTER n SET DEFAULT 2') AS t (x text);
SELECT run_ops.refresh_table('step');
SELECT * FROM set_on_views;
SELECT run_ops.disable_split(force => true);
SELECT * FROM set_on_views;
SELECT comment LIKE '%; split is off' AS own FROM (SELECT obj_description(view, 'pg_class') AS comment FROM run_ops.routed_table WHERE legacy = 'run'::regclass) AS x;
SELECT * FROM run_ops.view_default;

-- A view that is not what it must be.
SELECT * FROM gates('view');
CREATE OR REPLACE VIEW views.run AS SELECT id, env, n, "A", size, serial FROM run WHERE n > 0;
SELECT * FROM gates('view');
SELECT run_ops.refresh_table('run');
SELECT run_ops.enable_split();
SELECT * FROM gates('view');
CREATE OR REPLACE VIEW views.run AS SELECT * FROM run;
DROP TRIGGER run_ops_begin ON views.step;
ALTER TABLE step DISABLE TRIGGER run_ops_write_lock;
SELECT * FROM gates('view');
SELECT run_ops.refresh_table(view) FROM run_ops.routed_table;
SELECT * FROM gates('view');
-- A column that somebody has added cannot be taken from a view, so it is created
-- anew, with what it had.
CREATE ROLE regress_gates;
GRANT SELECT (id), UPDATE (n) ON views.run TO regress_gates WITH GRANT OPTION;
GRANT DELETE ON views.run TO regress_gates;
COMMENT ON VIEW views.run IS 'of a user';
COMMENT ON COLUMN views.run.env IS '100% of a user';
ALTER VIEW views.run ALTER env SET DEFAULT '%s of a user';
ALTER VIEW views.run SET (security_barrier = true);
CREATE OR REPLACE VIEW views.run WITH (security_barrier = true) AS SELECT *, n AS more FROM run;
CREATE VIEW on_more AS SELECT more FROM views.run;
SELECT * FROM gates('view');
SELECT run_ops.refresh_table('run');
DROP VIEW on_more;
SELECT run_ops.refresh_table('run');
SELECT * FROM gates('view');
SELECT c.relname, c.relkind, c.reloptions, obj_description(c.oid) AS comment, c.relacl::text ~ 'regress_gates=d/' AS may_delete,
       (SELECT string_agg(concat(attname, ' ', replace(attacl::text, current_user, 'owner')), ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = c.oid AND attacl IS NOT NULL) AS columns
  FROM pg_class AS c WHERE c.relnamespace = 'views'::regnamespace ORDER BY 1;
SELECT a.attname, col_description(a.attrelid, a.attnum) AS comment, run_ops.default_of(a.attrelid, a.attnum), d.expression AS own
  FROM pg_attribute AS a LEFT JOIN run_ops.view_default AS d ON d.view = a.attrelid AND d."position" = a.attnum
 WHERE a.attrelid = 'views.run'::regclass AND a.attnum > 0 ORDER BY a.attnum;
SELECT count(*) AS stale FROM run_ops.view_default AS d WHERE NOT run_ops.is_relation(d.view, '{v}');
SELECT run_ops.disable_split(force => true);
CREATE OR REPLACE VIEW views.run WITH (security_barrier = true) AS SELECT *, n AS more FROM run;
SELECT run_ops.enable_split();
SELECT * FROM gates('view');
DROP OWNED BY regress_gates;
DROP ROLE regress_gates;
-- names may change
ALTER TABLE run RENAME TO runs;
ALTER SCHEMA views RENAME TO their_views;
SELECT * FROM gates('view');

-- What attach_table refuses: one error that lists every difference, and
-- nothing left behind.
\set name differences
\i test/fixtures/two_stores.sql
SELECT run_ops.attach_store('new', 'new');

CREATE COLLATION other (provider = icu, locale = 'en-x-icu');
CREATE TYPE state AS ENUM ('A', 'B', 'C');
CREATE TABLE differing (
  id text PRIMARY KEY, "runId" text NOT NULL, n integer NOT NULL DEFAULT 1, t text COLLATE "C",
  only_here text, s state, part text[], twice integer GENERATED ALWAYS AS (n * 2) STORED, UNIQUE (n));
SELECT 1 AS x FROM dblink('new', $$
  CREATE TYPE state AS ENUM ('C', 'A', 'D');
  CREATE TABLE differing (
    s state, part text, twice integer GENERATED ALWAYS AS (n * 3) STORED, t text,
    n bigint DEFAULT 2, "runId" text NOT NULL, id text PRIMARY KEY, only_there text NOT NULL) $$) AS t (x text);
SELECT run_ops.attach_table('differing');
SELECT to_regclass('run_ops.differing'), to_regclass('run_ops_new.differing'), count(*) FROM run_ops.routed_table;

-- The order of columns and of the labels of an enum is no difference.
DROP TABLE differing;
CREATE TABLE differing (id text PRIMARY KEY, "runId" text, s state);
SELECT 1 AS x FROM dblink('new', $$
  DROP TABLE differing; DROP TYPE state; CREATE TYPE state AS ENUM ('C', 'B', 'A');
  CREATE TABLE differing (s state, "runId" text, id text PRIMARY KEY) $$) AS t (x text);
-- no routing can be guessed: its anchor may be NULL
SELECT run_ops.attach_table('differing');
SELECT run_ops.attach_table('differing', 'anchor');
SELECT run_ops.attach_table('differing', 'anchor', 'nothing');
SELECT run_ops.attach_table('differing', 'anchor', 's');
SELECT run_ops.attach_table('differing', 'shape', 'runId');
SELECT run_ops.attach_table('differing', 'anchor', 'runId', column_names => '{"nothing": "x"}');
SELECT run_ops.attach_table('differing', 'anchor', 'runId', store_table => 'elsewhere');
SELECT run_ops.attach_table('differing', 'anchor', 'runId', store_schema => 'elsewhere');
SELECT run_ops.attach_table('differing', 'anchor', 'runId', view_schema => 'public');
SELECT run_ops.attach_table('differing', 'anchor', 'runId', view_schema => 'missing');
SELECT run_ops.attach_table('differing', 'anchor', 'runId', view_name => 'My "own" vïew');
SELECT * FROM run_ops."My ""own"" vïew";

-- A table without a key, a view, a temporary table, nothing.
CREATE TABLE keyless (id text, "runId" text NOT NULL);
CREATE UNIQUE INDEX ON keyless (id);
SELECT run_ops.attach_table('keyless', 'store');
CREATE VIEW some_view AS SELECT 1 AS id;
SELECT run_ops.attach_table('some_view');
CREATE TEMP TABLE t (id text PRIMARY KEY);
SELECT run_ops.attach_table('t', 'shape');
SELECT run_ops.attach_table(NULL);
SELECT run_ops.attach_table('nowhere');

-- attach_all_tables: one error for all tables, nothing made; a table that
-- nothing is known of is left out.
CREATE TABLE unknown (id text PRIMARY KEY);
ALTER TABLE "TaskRunTag" ADD COLUMN extra integer;
SELECT 1 AS x FROM dblink('new', $$
  CREATE TABLE unknown (id text PRIMARY KEY);
  ALTER TYPE "WaitpointStatus" ADD VALUE 'LATE' $$) AS t (x text);
SELECT legacy FROM run_ops.attach_all_tables();
SELECT view FROM run_ops.routed_table;
ALTER TABLE "TaskRunTag" DROP COLUMN extra;
ALTER TYPE "WaitpointStatus" ADD VALUE 'LATE';
SELECT legacy FROM run_ops.attach_all_tables();

-- The types of columns are compared as well: what they are made of, and labels.
CREATE TYPE hue AS ENUM ('red', 'blue');
CREATE DOMAIN paint AS hue;
CREATE DOMAIN size AS int;
CREATE TYPE crate AS (width size, "Ink" paint);
CREATE TYPE many AS RANGE (subtype = size);
CREATE TABLE typed (id text PRIMARY KEY, p paint, b crate[], m many);
SELECT 1 AS x FROM dblink('new', $$
  CREATE TYPE hue AS ENUM ('red');
  CREATE DOMAIN paint AS hue;
  CREATE DOMAIN size AS bigint;
  CREATE TYPE crate AS ("Ink" paint, width size);
  CREATE TYPE many AS RANGE (subtype = size);
  CREATE DOMAIN other AS int;
  CREATE TABLE typed (id text PRIMARY KEY, p paint, b crate[], m many, own other) $$) AS t (x text);
SELECT run_ops.attach_table('typed', 'shape', store_defaults => '{"own": "1"}');

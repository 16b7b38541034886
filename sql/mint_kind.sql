-- Which kind of id an environment mints, and how a change of it takes effect.
\set ECHO none
CREATE DATABASE mint_kind;
\c mint_kind
\i test/fixtures/minting.sql
\set ECHO all

-- The kind is a feature flag of the organization.
SELECT organization('plain', NULL), organization('early', '{"runOpsMintKind": "ksuid"}');
SELECT run_ops.resolve_mint_kind('env_plain'), run_ops.resolve_mint_kind('env_early');

-- Before the flag is read, two switches must be on: the kind's own, and split
-- mode.
SET run_ops_split.mint_enabled = off;
SELECT run_ops.resolve_mint_kind('env_early');
RESET run_ops_split.mint_enabled;
BEGIN;
UPDATE run_ops.split_state SET enabled = false;
SELECT run_ops.resolve_mint_kind('env_early');
ROLLBACK;

-- Minting gives the id and its friendly form in one call.
SELECT run_ops.classify_kind(m.id), m.friendly_id = 'run_' || m.id AS friendly
  FROM run_ops.mint_run_id('env_early') AS m;
SELECT run_ops.classify_kind(m.id), m.friendly_id = 'batch_' || m.id AS friendly
  FROM run_ops.mint_batch_id('env_plain') AS m;

-- For many rows it belongs into the select list of a subquery, which runs it
-- once for each.  In FROM, PostgreSQL may run it once for several rows that
-- have the same environment; and (mint_run_id(...)).* would run it once for
-- each of the two columns.
CREATE TABLE run (
  id text PRIMARY KEY, "friendlyId" text UNIQUE, environment text);
INSERT INTO run
  SELECT (r.minted).id, (r.minted).friendly_id, r.environment
    FROM (SELECT run_ops.mint_run_id(e.id) AS minted, e.id AS environment
            FROM "RuntimeEnvironment" AS e, generate_series(1, 100)) AS r;
SELECT environment, run_ops.classify_kind(id), count(*), count(DISTINCT id) AS ids,
       bool_and("friendlyId" = 'run_' || id) AS friendly
  FROM run GROUP BY 1, 2 ORDER BY 1;

-- A DEFAULT cannot see other columns of its row, so there the environment has
-- to come from the session.
CREATE TABLE session_run (
  id text DEFAULT (run_ops.mint_run_id(current_setting('app.environment'))).id PRIMARY KEY,
  "friendlyId" text GENERATED ALWAYS AS ('run_' || id) STORED);
SET app.environment = 'env_early';
INSERT INTO session_run DEFAULT VALUES
  RETURNING run_ops.classify_kind(id), "friendlyId" = 'run_' || id AS friendly;

-- A runOpsId says in which region it was minted.
SELECT organization('regional', '{"runOpsMintKind": "runOpsId"}');
SELECT region, right((run_ops.mint_run_id('env_regional', NULL, region)).id, 2)
  FROM (VALUES ('us-east-1'), ('us-west-2'), ('eu-central-1'), ('w'),
               ('mars-north-1'), ('W'), (''), (NULL)) AS r (region);

-- A child lives where its parent lives, whatever the flag says: the parent may
-- be a run, or the batch of which the run is an item.  The child of a
-- runOpsId is one too, and stays in its shard.
SELECT parent, run_ops.resolve_inherited_mint_kind(parent),
       regexp_replace(run.friendly_id, '_.*(..)$', '_...\1') AS run,
       regexp_replace(batch.friendly_id, '_.*(..)$', '_...\1') AS batch
  FROM (VALUES ('run_06fipvvm01535lic8fpnhjd4e1'),
               ('batch_06fipvvm01ki25k9r20amokvz2')) AS p (parent),
       LATERAL run_ops.mint_run_id('env_plain', parent, 'w') AS run,
       LATERAL run_ops.mint_batch_id('env_plain', parent) AS batch;
SELECT run_ops.classify_kind((run_ops.mint_run_id('env_early', 'run_cm4xz8q5t0000abcd1234efgh')).id);
-- what follows a ksuid is a setting
SELECT run_ops.resolve_inherited_mint_kind('run_3G2Os5DWGMmuIMa4K5iiqfci7AC');
SET run_ops_split.new_mint_kind = 'runOpsId';
SELECT run_ops.resolve_inherited_mint_kind('run_3G2Os5DWGMmuIMa4K5iiqfci7AC');
RESET run_ops_split.new_mint_kind;
-- the environment is not looked at then, and may be missing
SELECT run_ops.classify_kind((run_ops.mint_run_id(NULL, 'run_3G2Os5DWGMmuIMa4K5iiqfci7AC')).id);
-- an older friendly id has no shape: the caller must pass the parent's id
SELECT run_ops.mint_run_id('env_plain', 'run_123456789abcdefghijkm');

-- A flip (L12: by plain SQL, whoever writes): the trigger stamps it, and for the grace the kind before it stays.
UPDATE "Organization" SET "featureFlags" = '{"runOpsMintKind": "ksuid", "beta": true}'
 WHERE id = 'org_plain';
SELECT "featureFlags" - 'runOpsMintKindFlippedAt' AS flags,
       now() - ("featureFlags" ->> 'runOpsMintKindFlippedAt')::timestamptz
         < '1 minute' AS just_now
  FROM "Organization" WHERE id = 'org_plain';
SELECT run_ops.resolve_mint_kind('env_plain') AS in_the_grace;
SET run_ops_split.mint_flip_grace = 0;
SELECT run_ops.resolve_mint_kind('env_plain') AS after_it;
RESET run_ops_split.mint_flip_grace;

-- A23: another save of the same flags, or of others, moves nothing.
SELECT "featureFlags" AS before FROM "Organization" WHERE id = 'org_plain' \gset
UPDATE "Organization" SET title = 'other' WHERE id = 'org_plain';
UPDATE "Organization" SET "featureFlags" = "featureFlags" || '{"more": 1}' WHERE id = 'org_plain';
UPDATE "Organization" SET "featureFlags" = '{"runOpsMintKind": "ksuid", "beta": true}' WHERE id = 'org_plain'
 RETURNING "featureFlags" = :'before' AS same;
SELECT organization('follower', '{"beta": true}');
UPDATE "Organization" SET "featureFlags" = '{"beta": false}' WHERE id = 'org_follower' RETURNING "featureFlags";

-- What a client writes into the stamp does not count, in a new row neither.
UPDATE "Organization"
   SET "featureFlags" = "featureFlags" - 'beta'
       || '{"runOpsMintKindPrev": "runOpsId", "runOpsMintKindFlippedAt": "2999-01-01T00:00:00.000Z"}'
 WHERE id = 'org_plain'
 RETURNING "featureFlags" - 'runOpsMintKindFlippedAt' AS flags,
   "featureFlags" ->> 'runOpsMintKindFlippedAt' < '2999' AS own_stamp;
SELECT organization('forged', '{"runOpsMintKind": "ksuid", "runOpsMintKindPrev": "cuid",
                                "runOpsMintKindFlippedAt": "2999-01-01T00:00:00.000Z"}');
SELECT "featureFlags" FROM "Organization" WHERE id = 'org_forged';

-- L12: to take the flag away is a flip as well: the stamp stays in the row although
-- the flag does not, also when the next save leaves it out.
UPDATE "Organization" SET "featureFlags" = NULL WHERE id = 'org_early'
 RETURNING "featureFlags" - 'runOpsMintKindFlippedAt' AS flags;
UPDATE "Organization" SET "featureFlags" = '{"beta": true}' WHERE id = 'org_early'
 RETURNING "featureFlags" - 'runOpsMintKindFlippedAt' AS flags;
SELECT run_ops.resolve_mint_kind('env_early') AS in_the_grace;
SET run_ops_split.mint_flip_grace = 0;
SELECT run_ops.resolve_mint_kind('env_early') AS after_it;
RESET run_ops_split.mint_flip_grace;

-- An upsert of the whole row is a save like any other.
INSERT INTO "Organization" (id, slug, title, "updatedAt", "featureFlags")
  VALUES ('org_forged', 'forged', 'forged', now(), '{"runOpsMintKind": "cuid", "runOpsMintKindPrev": "runOpsId"}')
  ON CONFLICT (id) DO UPDATE SET "featureFlags" = excluded."featureFlags"
  RETURNING "featureFlags" - 'runOpsMintKindFlippedAt' AS flags;

-- The global flag is for organizations without one of their own.  L12: every way to
-- change the table is followed, under the older key too.
CREATE VIEW global AS
  SELECT g.flags - 'runOpsMintKindFlippedAt' AS flags,
         now() - (g.flags ->> 'runOpsMintKindFlippedAt')::timestamptz < '1 minute' AS just_now,
         run_ops.resolve_mint_kind('env_other') AS in_force
    FROM run_ops.global_mint_kind AS g;
SELECT organization('other', '{"beta": true}');
SELECT * FROM global;
INSERT INTO "FeatureFlag" (id, key, value) VALUES ('1', 'runOpsMintKsuid', '"ksuid"');
SELECT * FROM global;
INSERT INTO "FeatureFlag" (id, key, value)
  VALUES ('2', 'runOpsMintKind', '"runOpsId"'), ('3', 'unrelated', 'true'),
         ('4', 'runOpsMintKindPrev', '"ksuid"');
SELECT * FROM global;
SET run_ops_split.mint_flip_grace = 0;
SELECT in_force FROM global;
RESET run_ops_split.mint_flip_grace;
-- as if that had been long ago
UPDATE run_ops.global_mint_kind
   SET flags = jsonb_set(flags, '{runOpsMintKindFlippedAt}', '"2026-01-01T00:00:00.000Z"');
SELECT * FROM global;
UPDATE "FeatureFlag" SET value = 'false' WHERE key = 'unrelated';
SELECT * FROM global;
DELETE FROM "FeatureFlag" WHERE key IN ('runOpsMintKind', 'runOpsMintKsuid');
SELECT * FROM global;
INSERT INTO "FeatureFlag" (id, key, value) VALUES ('1', 'runOpsMintKind', '"ksuid"')
  ON CONFLICT (key) DO UPDATE SET value = excluded.value;
UPDATE run_ops.global_mint_kind
   SET flags = jsonb_set(flags, '{runOpsMintKindFlippedAt}', '"2026-01-01T00:00:00.000Z"');
SELECT * FROM global;
TRUNCATE "FeatureFlag";
SELECT * FROM global;

-- L29: two environments of one organization have one answer, that of its row.
INSERT INTO "RuntimeEnvironment" (id, slug, "apiKey", "organizationId", "updatedAt", "projectId", "pkApiKey", shortcode)
  SELECT 'env_second', 'second', 'second', "organizationId", now(), "projectId", 'second', 'second'
    FROM "RuntimeEnvironment" WHERE id = 'env_early';
SELECT run_ops.resolve_mint_kind('env_early'), run_ops.resolve_mint_kind('env_second');
SET run_ops_split.mint_flip_grace = 0;
UPDATE "Organization" SET "featureFlags" = '{"runOpsMintKind": "runOpsId"}' WHERE id = 'org_early';
SELECT run_ops.resolve_mint_kind('env_early'), run_ops.resolve_mint_kind('env_second');
RESET run_ops_split.mint_flip_grace;

-- L13: the stamp is of the database's clock, and a reader whose clock is
-- behind it is in the grace too.
SELECT run_ops.effective_mint_kind('{"runOpsMintKind": "ksuid", "runOpsMintKindPrev": "cuid",
                                     "runOpsMintKindFlippedAt": "2026-03-01T12:00:00.000Z"}'::jsonb, at::timestamptz)
  FROM unnest('{2026-03-01 11:59:59+00,2026-03-01 12:01:29.999+00,2026-03-01 12:01:30+00}'::text[]) AS at;

-- L14: minting never fails because a flag could not be read: it is a cuid then,
-- with a WARNING.
SELECT organization('malformed', '["runOpsMintKind", "ksuid"]'),
       organization('scalar', '"runOpsMintKindPrev"'),
       organization('nothing', 'null');
SELECT run_ops.resolve_mint_kind('env_malformed');
SELECT run_ops.resolve_mint_kind('env_scalar');
SELECT run_ops.resolve_mint_kind('env_nothing');
SELECT run_ops.resolve_mint_kind('env_missing');
SELECT run_ops.resolve_mint_kind(NULL);
SELECT run_ops.classify_kind((run_ops.mint_run_id('env_missing')).id);
-- a value that is no kind counts as not set
INSERT INTO "FeatureFlag" (id, key, value) VALUES ('1', 'runOpsMintKind', '1');
UPDATE "Organization" SET "featureFlags" = '{"runOpsMintKind": "KSUID"}' WHERE id = 'org_malformed';
SELECT run_ops.resolve_mint_kind('env_malformed');
-- malformed flags are left as they are
UPDATE "Organization" SET "featureFlags" = '17' WHERE id = 'org_malformed' RETURNING "featureFlags";
-- a deleted organization takes its environments with it
DELETE FROM "Organization" WHERE id = 'org_scalar';
SELECT run_ops.resolve_mint_kind('env_scalar');
-- a caught error leaves nothing behind: the transaction goes on
BEGIN;
SELECT run_ops.resolve_mint_kind('env_missing');
SELECT run_ops.resolve_mint_kind('env_plain');
COMMIT;
-- what would end the statement anyway is not caught
BEGIN;
CREATE OR REPLACE FUNCTION run_ops.mint_flags(flags jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
  RAISE query_canceled USING MESSAGE = 'cancelled while reading the flags';
END $$;
SELECT run_ops.cache_reset();
SELECT run_ops.resolve_mint_kind('env_plain');
ROLLBACK;

-- Every role comes to the same kind, whatever it may read itself; and a role
-- that may save flags need not be able to read the global ones.
CREATE ROLE regress_mint_kind;
-- not even the schema is needed to save
GRANT SELECT (id, title), UPDATE ("featureFlags") ON "Organization" TO regress_mint_kind;
SET ROLE regress_mint_kind;
UPDATE "Organization" SET "featureFlags" = '{"runOpsMintKind": "ksuid"}' WHERE id = 'org_follower';
RESET ROLE;
SELECT "featureFlags" - 'runOpsMintKindFlippedAt' AS flags FROM "Organization" WHERE id = 'org_follower';
GRANT USAGE ON SCHEMA run_ops TO regress_mint_kind;
GRANT SELECT (id), UPDATE ("featureFlags") ON "Organization" TO regress_mint_kind;
GRANT SELECT, INSERT ON "FeatureFlag" TO regress_mint_kind;
SET run_ops_split.mint_flip_grace = 0;
SET ROLE regress_mint_kind;
SELECT run_ops.resolve_mint_kind('env_plain');
UPDATE "Organization" SET "featureFlags" = '{"runOpsMintKind": "cuid"}' WHERE id = 'org_plain';
INSERT INTO "FeatureFlag" (id, key, value) VALUES ('2', 'runOpsMintKsuid', '"ksuid"');
SELECT "featureFlags" FROM "Organization";
-- but it cannot make its own session mint otherwise
SET run_ops_split.mint_enabled = off;
SET run_ops_split.mint_flip_grace = 1;
SET run_ops_split.new_mint_kind = 'ksuid';
SELECT run_ops.remove_mint_flip_triggers();
SELECT run_ops.install_mint_flip_triggers('public');
RESET ROLE;
RESET run_ops_split.mint_flip_grace;
SELECT "featureFlags" - 'runOpsMintKindFlippedAt' AS flags FROM "Organization" WHERE id = 'org_plain';

-- Who writes a table with such a DEFAULT, or reads a view that asks about
-- environments, needs no rights on what is asked.
CREATE SCHEMA api;
CREATE TABLE api.made (id text DEFAULT (run_ops.mint_run_id('env_follower')).id);
CREATE VIEW api.environment AS SELECT (run_ops.resolve_env('env_plain')).id;
CREATE ROLE regress_mint_writer;
GRANT USAGE ON SCHEMA api TO regress_mint_writer;
GRANT SELECT, INSERT ON api.made, api.environment TO regress_mint_writer;
GRANT EXECUTE ON FUNCTION run_ops.resolve_env TO regress_mint_writer;
SET run_ops_split.mint_flip_grace = 0;
UPDATE "Organization" SET "featureFlags" = NULL WHERE id = 'org_follower';
UPDATE "FeatureFlag" SET value = '"ksuid"';
\c
SET run_ops_split.mint_flip_grace = 0;
SET ROLE regress_mint_writer;
INSERT INTO api.made DEFAULT VALUES;
SELECT * FROM api.environment;
SELECT run_ops.resolve_env('env_plain');
RESET ROLE;
SELECT run_ops.classify_kind(id) FROM api.made;
DROP OWNED BY regress_mint_writer;
DROP ROLE regress_mint_writer;
UPDATE "FeatureFlag" SET value = '"1"';
RESET run_ops_split.mint_flip_grace;

-- The triggers follow the control plane: put on again, they keep the stamp.
SELECT flags AS before FROM run_ops.global_mint_kind \gset
SELECT run_ops.install_mint_flip_triggers('public');
SELECT flags = :'before' AS kept FROM run_ops.global_mint_kind;
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname LIKE 'run\_ops\_mint%' ORDER BY 1, 2;
SELECT run_ops.detach_control_plane();
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname LIKE 'run\_ops\_mint%' ORDER BY 1, 2;
SELECT run_ops.resolve_mint_kind('env_plain');

-- What has no moment has no kind, and no such day is no flip.
SELECT run_ops.effective_mint_kind('ksuid', NULL, NULL, NULL), run_ops.effective_mint_kind('{"runOpsMintKind": "ksuid"}', NULL),
       run_ops.effective_mint_kind('ksuid', 'cuid', '2026-02-30T00:00:00.000Z', '2026-02-28');

\set ECHO none
\c postgres
DROP DATABASE mint_kind;
DROP ROLE regress_mint_kind;

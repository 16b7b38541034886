-- Epochs: what tells caches outside the database that a row has changed.
\set name cache_epoch
\i test/fixtures/two_stores.sql
\set ECHO none
\set side legacy
\set orgs 15
\set runs 40
\i test/fixtures/generate.sql
\set ECHO all
SELECT run_ops.attach_control_plane('public');
SELECT id AS env FROM "RuntimeEnvironment" WHERE "branchName" = 'feature/4' \gset
SELECT id AS org FROM "Organization" WHERE slug = 'org-0' \gset

-- What a statement has bumped, by name; then forget it.
CREATE FUNCTION bumped() RETURNS TABLE (scope text, key text) LANGUAGE plpgsql AS $$
BEGIN
  RETURN QUERY
    DELETE FROM run_ops.cache_epoch AS c RETURNING c.scope, coalesce(
      (SELECT slug || ' ' || shortcode FROM "RuntimeEnvironment" WHERE id = c.key),
      (SELECT slug FROM "Project" WHERE id = c.key), (SELECT slug FROM "Organization" WHERE id = c.key),
      CASE WHEN length(c.key) < 20 THEN c.key ELSE 'an id' END);
END $$;

-- Nothing that was remembered before the triggers were there holds.
SELECT * FROM bumped() ORDER BY 1;

-- A row bumps its own epoch, and no other's: two writers never wait for each
-- other because their rows have an owner in common.
UPDATE "RuntimeEnvironment" SET paused = NOT paused WHERE id = :'env';
SELECT * FROM bumped();
UPDATE "Organization" SET title = 'other' WHERE id = :'org';
SELECT * FROM bumped();
UPDATE "Project" SET name = 'other', engine = 'V1' WHERE slug = 'project-1';
SELECT * FROM bumped();
UPDATE "User" SET name = 'other' WHERE email = 'user0@example.com';
DELETE FROM "OrgMember" WHERE "userId" = (SELECT id FROM "User" WHERE email = 'user0@example.com');
SELECT * FROM bumped() ORDER BY 1, 2;
INSERT INTO "FeatureFlag" (id, key, value) VALUES ('f', 'aFlag', 'true');
UPDATE "FeatureFlag" SET key = 'bFlag' WHERE id = 'f';
SELECT * FROM bumped() ORDER BY 1, 2;

-- What answers do not contain bumps nothing, nor does a change to the same.
UPDATE "RuntimeEnvironment" SET "pkApiKey" = 'pk' || id, "currentSessionId" = 's';
UPDATE "Organization" SET "maximumProjectCount" = 7, "onboardingData" = '{}';
UPDATE "Project" SET name = name, "buildSettings" = '{}';
UPDATE "TaskQueue" SET paused = true;
SELECT * FROM bumped();

-- Workers, tasks, queues, deployments and promotions are of an environment.
UPDATE "WorkerDeploymentPromotion" SET label = 'former' WHERE id = (SELECT min(id) FROM "WorkerDeploymentPromotion");
SELECT scope FROM bumped();
UPDATE "WorkerDeployment" SET "imageReference" = 'other' WHERE id = (SELECT min(id) FROM "WorkerDeployment");
SELECT scope FROM bumped();
INSERT INTO "BackgroundWorker" (id, "projectId", "runtimeEnvironmentId", version, metadata, "updatedAt", "contentHash", "friendlyId")
  SELECT 'w', "projectId", id, 'w', '{}', '2026-01-01', '', 'w' FROM "RuntimeEnvironment" WHERE id = :'env';
SELECT * FROM bumped();

-- Many keys of one statement are one epoch; so is TRUNCATE.
UPDATE "RuntimeEnvironment" SET "maximumConcurrencyLimit" = 10;
SELECT * FROM bumped();
UPDATE "RuntimeEnvironment" SET "maximumConcurrencyLimit" = 11 WHERE "organizationId" = :'org';
SELECT count(*) FROM bumped();
TRUNCATE "FeatureFlag";
SELECT * FROM bumped();

-- Epochs only grow, also over a rollback.
UPDATE "RuntimeEnvironment" SET paused = NOT paused WHERE id = :'env';
SELECT epoch AS first FROM run_ops.cache_epoch \gset
BEGIN;
UPDATE "RuntimeEnvironment" SET paused = NOT paused WHERE id = :'env';
SELECT epoch AS second FROM run_ops.cache_epoch \gset
ROLLBACK;
SELECT epoch = :first AS rolled_back FROM run_ops.cache_epoch;
UPDATE "RuntimeEnvironment" SET paused = NOT paused WHERE id = :'env';
SELECT epoch > :second AS never_twice FROM run_ops.cache_epoch;
SELECT * FROM bumped();

-- By hand: one key of one scope.
SELECT run_ops.invalidate_environment(:'env');
SELECT run_ops.invalidate_organization(:'org');
SELECT run_ops.invalidate_organization(NULL);
SELECT * FROM bumped() ORDER BY 1;

-- L10: the number of epochs does not grow with the number of invalidations.
SELECT count(run_ops.invalidate_environment('environment ' || i % 10)) FROM generate_series(1, 2000) AS i;
SELECT count(*) FROM bumped();

-- Who writes a table needs no privilege on epochs, also in replication.
CREATE ROLE regress_writer;
GRANT SELECT, UPDATE ON "RuntimeEnvironment" TO regress_writer;
SET ROLE regress_writer;
-- for the first epoch of a key, and for the next one
UPDATE "RuntimeEnvironment" SET paused = NOT paused WHERE id = :'env';
RESET ROLE;
SELECT epoch AS first FROM run_ops.cache_epoch \gset
SET ROLE regress_writer;
UPDATE "RuntimeEnvironment" SET paused = NOT paused WHERE id = :'env';
DELETE FROM run_ops.cache_epoch;
SELECT run_ops.invalidate_environment('x');
RESET ROLE;
SELECT epoch > :first AS bumped_twice FROM run_ops.cache_epoch;
SELECT * FROM bumped();
SET session_replication_role = replica;
UPDATE "RuntimeEnvironment" SET paused = NOT paused WHERE id = :'env';
RESET session_replication_role;
SELECT * FROM bumped();

-- By hand is a write, and refused where writes are.
BEGIN READ ONLY;
SELECT run_ops.invalidate_environment(:'env');
ROLLBACK;

-- One transaction may bump a key many times, also in one command.
BEGIN;
CREATE TRIGGER again AFTER UPDATE ON "Organization" REFERENCING OLD TABLE AS rows_before NEW TABLE AS rows_after
  FOR EACH STATEMENT EXECUTE FUNCTION run_ops.bump_changed('organization', 'id', 'title');
UPDATE "Organization" SET title = 'a' WHERE id = :'org';
UPDATE "Organization" SET title = 'b' WHERE id = :'org';
WITH e AS (UPDATE run_ops.cache_epoch SET epoch = -1 RETURNING epoch)
UPDATE "Organization" SET title = 'c' FROM e WHERE id = :'org';
SELECT scope, epoch > 0 AS bumped FROM run_ops.cache_epoch;
ROLLBACK;

-- With a trigger or an index of its own, the table is written as any other is.
BEGIN;
CREATE INDEX ON run_ops.cache_epoch (epoch);
UPDATE "Organization" SET title = 'd' WHERE id = :'org';
SELECT scope, epoch AS first FROM run_ops.cache_epoch \gset
UPDATE "Organization" SET title = 'e' WHERE id = :'org';
SET LOCAL enable_seqscan = off;
SELECT count(*) FROM run_ops.cache_epoch WHERE epoch > :first;
ROLLBACK;

-- No key is too long for its epoch: it counts as all of the scope.
INSERT INTO "FeatureFlag" (id, key, value) SELECT 'long' || i, repeat(md5(i::text), 50), 'true' FROM generate_series(1, 3) AS i;
SELECT run_ops.invalidate_environment(repeat(:'env', 1000));
SELECT * FROM bumped() ORDER BY 1;

-- So many epochs that a page is full: the index follows.
SELECT count(run_ops.invalidate_environment('environment ' || i % 100)) FROM generate_series(1, 5000) AS i;
SET enable_seqscan = off;
SELECT count(*), count(DISTINCT epoch) FROM run_ops.cache_epoch WHERE scope = 'environment' AND key LIKE 'environment %';
SELECT count(*) FROM generate_series(0, 99) AS i, run_ops.cache_epoch WHERE scope = 'environment' AND key = 'environment ' || i;
RESET enable_seqscan;
DELETE FROM run_ops.cache_epoch;

-- A migration that takes a column away stops no write: every changed row
-- counts then, and every key when it is the key that is gone.
BEGIN;
ALTER TABLE "Project" RENAME "externalRef" TO reference;
UPDATE "Project" SET "buildSettings" = '{}' WHERE slug = 'project-1';
SELECT * FROM bumped();
ALTER TABLE "Project" RENAME reference TO "externalRef";
UPDATE "Project" SET "buildSettings" = '{}' WHERE slug = 'project-1';
SELECT * FROM bumped();
ALTER TABLE "Project" RENAME id TO identity;
UPDATE "Project" SET "buildSettings" = '{}' WHERE slug = 'project-1';
SELECT scope, key FROM run_ops.cache_epoch;
ROLLBACK;

-- A prepared transaction changes rows and epochs together, but cannot notify.
SELECT current_setting('max_prepared_transactions')::int > 0 AS can_prepare \gset
\if :can_prepare
BEGIN;
UPDATE "RuntimeEnvironment" SET paused = NOT paused WHERE id = :'env';
PREPARE TRANSACTION 'regress_cache_epoch';
SELECT count(*) FROM run_ops.cache_epoch;
COMMIT PREPARED 'regress_cache_epoch';
SELECT * FROM bumped();
\else
\echo 'skipped: max_prepared_transactions is 0'
\endif

DROP OWNED BY regress_writer;
DROP ROLE regress_writer;

-- Detached, there are no epochs.
SELECT run_ops.invalidate_environment(:'env');
SELECT run_ops.detach_control_plane();
SELECT count(*) FROM run_ops.cache_epoch;

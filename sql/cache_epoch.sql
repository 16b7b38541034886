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
    DELETE FROM run_ops.committed_epoch AS c RETURNING c.scope, coalesce(
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

-- Epochs only grow, also over a rollback.  The transaction itself reads another
-- number each time, because it may go on to change the row.
UPDATE "RuntimeEnvironment" SET paused = NOT paused WHERE id = :'env';
SELECT epoch AS first FROM run_ops.cache_epoch \gset
BEGIN;
UPDATE "RuntimeEnvironment" SET paused = NOT paused WHERE id = :'env';
SELECT epoch AS second FROM run_ops.cache_epoch WHERE scope = 'environment' AND key = :'env' \gset
SELECT epoch AS third FROM run_ops.cache_epoch WHERE scope = 'environment' AND key = :'env' \gset
SELECT :third > :second AS another;
ROLLBACK;
SELECT epoch = :first AS rolled_back FROM run_ops.cache_epoch;
UPDATE "RuntimeEnvironment" SET paused = NOT paused WHERE id = :'env';
SELECT epoch > :third AS never_twice FROM run_ops.cache_epoch;
SELECT * FROM bumped();

-- They are written when the transaction commits: each key once, whatever it has
-- locked or set meanwhile.
BEGIN;
UPDATE "Organization" SET title = 'a' WHERE id = :'org';
SAVEPOINT s;
UPDATE "Organization" SET title = 'b' WHERE id = :'org';
UPDATE "Project" SET name = 'rolled back' WHERE slug = 'project-1';
ROLLBACK TO s;
SET CONSTRAINTS ALL IMMEDIATE;
SELECT count(*) FROM run_ops.committed_epoch;
SELECT scope FROM run_ops.cache_epoch ORDER BY 1;
SET TRANSACTION READ ONLY;
COMMIT;
SELECT * FROM bumped() ORDER BY 1;
SHOW transaction_read_only;
CREATE PROCEDURE commits(org text) LANGUAGE plpgsql AS $$
BEGIN
  UPDATE "Organization" SET title = 'c' WHERE id = org;
  COMMIT;
  PERFORM FROM run_ops.committed_epoch AS c WHERE c.key = org AND c.epoch > 0;
  RAISE NOTICE 'committed: %', FOUND;
  UPDATE "Project" SET name = 'rolled back' WHERE slug = 'project-1';
  ROLLBACK;
END $$;
CALL commits(:'org');
SELECT * FROM bumped();

-- What a deferred trigger changes just before is among them; what makes the
-- commit fail leaves none.
CREATE TABLE deferred (org text, title text);
CREATE FUNCTION retitle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE "Organization" SET title = NEW.title || 1 / length(NEW.title) WHERE id = NEW.org;
  RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER retitle AFTER INSERT ON deferred DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION retitle();
INSERT INTO deferred VALUES (:'org', 'd');
SELECT * FROM bumped();
BEGIN;
UPDATE "Project" SET name = 'not to be' WHERE slug = 'project-1';
INSERT INTO deferred VALUES (:'org', '');
\set VERBOSITY terse
COMMIT;
\set VERBOSITY default
SELECT * FROM bumped();
DROP TABLE deferred;

-- By hand: one key of one scope.
SELECT run_ops.invalidate_environment(:'env');
SELECT run_ops.invalidate_organization(:'org');
SELECT run_ops.invalidate_organization(NULL);
SELECT * FROM bumped() ORDER BY 1;

-- L10: the number of epochs does not grow with the number of invalidations.
SELECT count(run_ops.invalidate_environment('environment ' || i % 10)) FROM generate_series(1, 2000) AS i;
SELECT count(*) FROM bumped();

-- Nor do those of one transaction without a bound: many keys are all keys.
SELECT count(run_ops.invalidate_environment('environment ' || i)) FROM generate_series(1, 100) AS i;
SELECT count(*) FROM bumped();
BEGIN;
SELECT count(run_ops.invalidate_environment('environment ' || i)), run_ops.invalidate_organization('o') FROM generate_series(1, 101) AS i;
SELECT run_ops.invalidate_environment('one more');
COMMIT;
SELECT * FROM bumped() ORDER BY 1;

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
DELETE FROM run_ops.committed_epoch;
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

-- An epoch that the transaction has written itself.
BEGIN;
UPDATE "Organization" SET title = 'a' WHERE id = :'org';
INSERT INTO run_ops.committed_epoch SELECT 'organization', :'org', -1;
COMMIT;
SELECT epoch > 0 AS bumped FROM run_ops.cache_epoch;

-- With a trigger or an index of its own, the table is written as any other is.
CREATE INDEX by_epoch ON run_ops.committed_epoch (epoch);
SELECT epoch AS first FROM run_ops.cache_epoch \gset
UPDATE "Organization" SET title = 'e' WHERE id = :'org';
SET enable_seqscan = off;
SELECT count(*) FROM run_ops.committed_epoch WHERE epoch > :first;
RESET enable_seqscan;
DROP INDEX run_ops.by_epoch;
DELETE FROM run_ops.committed_epoch;

-- No key is too long for its epoch: it counts as all of the scope.
INSERT INTO "FeatureFlag" (id, key, value) SELECT 'long' || i, repeat(md5(i::text), 50), 'true' FROM generate_series(1, 3) AS i;
SELECT run_ops.invalidate_environment(repeat(:'env', 1000));
SELECT * FROM bumped() ORDER BY 1;

-- So many epochs that a page is full: the index follows.
DO $$
BEGIN
  FOR i IN 1 .. 50 LOOP
    PERFORM run_ops.invalidate_environment('environment ' || j) FROM generate_series(0, 99) AS j;
    COMMIT;
  END LOOP;
END $$;
SET enable_seqscan = off;
SELECT count(*), count(DISTINCT epoch) FROM run_ops.cache_epoch WHERE scope = 'environment' AND key LIKE 'environment %';
SELECT count(*) FROM generate_series(0, 99) AS i, run_ops.cache_epoch WHERE scope = 'environment' AND key = 'environment ' || i;
RESET enable_seqscan;
DELETE FROM run_ops.committed_epoch;

-- A migration that takes a column away stops no write: every changed row
-- counts then, and every key when it is the key that is gone.
ALTER TABLE "Project" RENAME "externalRef" TO reference;
UPDATE "Project" SET "buildSettings" = '{}' WHERE slug = 'project-1';
SELECT * FROM bumped();
ALTER TABLE "Project" RENAME reference TO "externalRef";
UPDATE "Project" SET "buildSettings" = '{}' WHERE slug = 'project-1';
SELECT * FROM bumped();
ALTER TABLE "Project" RENAME id TO identity;
UPDATE "Project" SET "buildSettings" = '{}' WHERE slug = 'project-1';
ALTER TABLE "Project" RENAME identity TO id;
SELECT * FROM bumped();

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

-- Dropped in the same transaction, there is nothing to write.
BEGIN;
SELECT run_ops.bump_epoch('environment', 'last');
SET LOCAL client_min_messages = warning;
DROP EXTENSION run_ops_split CASCADE;
COMMIT;

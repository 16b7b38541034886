-- For which shard an environment mints ids, and how a change of the shards takes
-- effect.
\set ECHO none
CREATE DATABASE mint_shard;
\c mint_shard
\i test/fixtures/minting.sql
\set ECHO all
\set SHOW_CONTEXT never

-- Only runOpsIds have a shard.  As long as no shard is active, they are those of
-- store "new".
SELECT organization('one', '{"runOpsMintKind": "runOpsId"}'), organization('two', '{"runOpsMintKind": "runOpsId"}'),
       organization('three', '{"runOpsMintKind": "runOpsId"}'),
       organization('old', '{"runOpsMintKind": "cuid"}'), organization('early', '{"runOpsMintKind": "ksuid"}');
CREATE VIEW minted AS
  SELECT id AS environment, run_ops.resolve_mint_kind(id) AS kind, run_ops.resolve_mint_shard(id) AS store
    FROM "RuntimeEnvironment" ORDER BY id;
SELECT * FROM minted;

-- A shard is a store, so it must be attached first.  Here no rows are stored.
SELECT run_ops.set_mint_shards('a');
INSERT INTO run_ops.store SELECT s, 'server_' || s FROM unnest('{new,a,b,c}'::text[]) AS s;
SELECT run_ops.set_mint_shards('a,d,e');

-- The set is checked when it is set.
DO $$
DECLARE s text; detail text; hint text;
BEGIN
  FOREACH s IN ARRAY ARRAY['new', 'legacy', 'a,new', 'A', 'ab', 'a b', 'a;b', 'a,é', '*', 'a,''', NULL] LOOP
    BEGIN
      PERFORM run_ops.set_mint_shards(s);
      RAISE NOTICE '% was accepted', s;
    EXCEPTION WHEN invalid_parameter_value THEN
      GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
      RAISE NOTICE '%', SQLERRM;
    END;
  END LOOP;
  RAISE NOTICE E'%\n%', detail, hint;
END $$;
SELECT active, previous FROM run_ops.mint_shards;

-- The new set comes into force after the grace, for all sessions at the same
-- moment.
SELECT run_ops.set_mint_shards(E' b, a ,,b\n') BETWEEN now() + '89 s' AND now() + '100 s' AS after_the_grace;
SELECT active, previous, run_ops.mint_shards_in_force() AS in_force, run_ops.mint_shards_in_force('infinity') AS then FROM run_ops.mint_shards;
SELECT * FROM minted;
SET run_ops_split.mint_flip_grace = 0;
SELECT * FROM minted;
-- An id of version 2 has its shard where one of version 1 has its region.
SELECT right(run.id, 2) AS run, right((run_ops.mint_batch_id('env_one')).id, 2) AS batch, run.friendly_id = 'run_' || run.id AS friendly
  FROM run_ops.mint_run_id('env_one', NULL, 'us-east-1') AS run;
-- Children are where their parents are, whatever the environment's shard is.
SELECT right(child.id, 2) AS child, right(item.id, 2) AS item, right(grandchild.id, 2) AS grandchild
  FROM run_ops.mint_run_id('env_one', 'run_06fipvvm01ki25k9r20amokvz2') AS child,
       run_ops.mint_run_id('env_one', 'batch_06fipvvm01ki25k9r20amokvb2') AS item,
       run_ops.mint_run_id('env_two', child.id) AS grandchild;
SELECT right((run_ops.mint_run_id('env_one', 'run_06fipvvm01535lic8fpnhjd4e1')).id, 2) AS child_of_version_1;

-- The same set again is no change: it does not start the grace again.
RESET run_ops_split.mint_flip_grace;
SELECT changed_at FROM run_ops.mint_shards \gset
SELECT run_ops.set_mint_shards('a,b') = :'changed_at'::timestamptz + '90 s' AS same;
-- A change within the grace: what is in force stays in force.
SELECT run_ops.set_mint_shards('c') > :'changed_at'::timestamptz + '90 s' AS later;
SELECT active, previous FROM run_ops.mint_shards;
SELECT role = session_user AS mine, detail FROM run_ops.audit_log WHERE action = 'set mint shards' ORDER BY id;

-- A session sees a change at once, and a change that is rolled back never.
SET run_ops_split.mint_flip_grace = 0;
SELECT run_ops.resolve_mint_shard('env_one');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT run_ops.resolve_mint_shard('env_one');
SAVEPOINT s;
SELECT run_ops.set_mint_shards('a,b,c') \g /dev/null
SELECT * FROM minted WHERE kind = 'runOpsId';
ROLLBACK TO s;
SELECT run_ops.resolve_mint_shard('env_one');
SELECT run_ops.set_mint_shards('a') \g /dev/null
COMMIT;
SELECT run_ops.resolve_mint_shard('env_one');

-- All shards removed: at once, whatever the grace is.
RESET run_ops_split.mint_flip_grace;
SELECT run_ops.set_mint_shards('') <= now() + '1 minute' AS at_once;
SELECT active, previous, run_ops.mint_shards_in_force() AS in_force FROM run_ops.mint_shards;
SELECT run_ops.resolve_mint_shard('env_one');
-- and the first one afterwards has its grace again
SELECT run_ops.set_mint_shards('a') > now() + '1 minute' AS after_the_grace;
SELECT run_ops.resolve_mint_shard('env_one');

-- Without a pin a hash decides.  Most environments stay where they are when a
-- shard is added: the others move to the new one.
CREATE VIEW hashed AS
  SELECT run_ops.mint_shard_of('env_' || n, '{a,b}', NULL) AS before, run_ops.mint_shard_of('env_' || n, '{a,b,c}', NULL) AS after
    FROM generate_series(1, 3000) AS n;
SELECT before, after, count(*) FROM hashed GROUP BY 1, 2 ORDER BY 1, 2;

-- Pins are flags of the organization.
SELECT run_ops.mint_shard_pin(flags, 'env')
  FROM (VALUES (1, NULL::jsonb), (2, '{}'), (3, '[]'), (4, '{"runOpsMintShard": "a"}'), (5, '{"runOpsMintShard": "new"}'),
               (6, '{"runOpsMintShard": "legacy"}'), (7, '{"runOpsMintShard": ["a"]}'), (8, '{"runOpsMintShard": null}'),
               (9, '{"runOpsMintShard": "a", "runOpsMintShardEnvPins": "{\"env\": \"b\"}"}'),
               (10, '{"runOpsMintShard": "a", "runOpsMintShardEnvPins": "{\"env\": \"new\"}"}'),
               (11, '{"runOpsMintShard": "a", "runOpsMintShardEnvPins": "{\"other\": \"b\"}"}'),
               (12, '{"runOpsMintShard": "a", "runOpsMintShardEnvPins": "{\"env\": \"B\"}"}'),
               (13, '{"runOpsMintShard": "a", "runOpsMintShardEnvPins": "{\"env\": null}"}'),
               (14, '{"runOpsMintShard": "a", "runOpsMintShardEnvPins": "{\"env\": \"b\""}'),
               (15, '{"runOpsMintShard": "a", "runOpsMintShardEnvPins": ""}'),
               (16, '{"runOpsMintShard": "a", "runOpsMintShardEnvPins": "[\"env\"]"}'),
               (17, '{"runOpsMintShard": "a", "runOpsMintShardEnvPins": "\"env\""}'),
               (18, '{"runOpsMintShard": "a", "runOpsMintShardEnvPins": {"env": "b"}}'),
               (19, jsonb_build_object('runOpsMintShard', 'a', 'runOpsMintShardEnvPins', repeat('[', 100000)))) AS f (n, flags)
 ORDER BY n;
SET run_ops_split.mint_flip_grace = 0;
SELECT run_ops.set_mint_shards('a,b') \g /dev/null
UPDATE "Organization" SET "featureFlags" = "featureFlags" || '{"runOpsMintShard": "a"}' WHERE id = 'org_one';
UPDATE "Organization" SET "featureFlags" = "featureFlags" || '{"runOpsMintShardEnvPins": "{\"env_two\": \"b\"}"}' WHERE id = 'org_two';
UPDATE "Organization" SET "featureFlags" = "featureFlags" || '{"runOpsMintShard": "new"}' WHERE id = 'org_three';
-- the flags of an organization are saved without a stamp: a pin is no flip
SELECT id, "featureFlags" FROM "Organization" WHERE "featureFlags"::text ~ 'Shard' ORDER BY id;
SELECT * FROM minted WHERE kind = 'runOpsId';

-- A shard is drained: its pins are reported, once in each session, and ignored.
SELECT run_ops.set_mint_shards('a') \g /dev/null
SELECT run_ops.resolve_mint_shard('env_two');
SELECT run_ops.resolve_mint_shard('env_two');
SELECT * FROM minted WHERE kind = 'runOpsId';
\c
SET run_ops_split.mint_flip_grace = 0;
SELECT run_ops.resolve_mint_shard('env_two') FROM generate_series(1, 3);
SELECT run_ops.set_mint_shards('b') \g /dev/null
SELECT * FROM minted WHERE kind = 'runOpsId';

-- A shard is not detached while ids are minted for it.
UPDATE run_ops.split_state SET enabled = false;
SELECT run_ops.detach_store('b');
SELECT run_ops.set_mint_shards('') \g /dev/null
SELECT run_ops.set_mint_shards('a,b') \g /dev/null
SELECT run_ops.detach_store('a');
SELECT run_ops.set_mint_shards('b') \g /dev/null
RESET run_ops_split.mint_flip_grace;
\set VERBOSITY terse
SELECT run_ops.detach_store('a');
\set VERBOSITY default
SET run_ops_split.mint_flip_grace = 0;
SELECT run_ops.detach_store('a');
UPDATE run_ops.split_state SET enabled = true;

-- An administrator may set the shards, and everybody may see and use them.
CREATE ROLE regress_mint_shard;
GRANT USAGE ON SCHEMA run_ops TO regress_mint_shard;
SET ROLE regress_mint_shard;
SELECT run_ops.set_mint_shards('');
DELETE FROM run_ops.mint_shards;
SELECT active FROM run_ops.mint_shards;
SELECT run_ops.resolve_mint_shard('env_two');
RESET ROLE;
SELECT run_ops.grant_admin('regress_mint_shard');
SET ROLE regress_mint_shard;
SELECT run_ops.set_mint_shards('c') \g /dev/null
SELECT run_ops.resolve_mint_shard('env_two');
RESET ROLE;

-- What is not known has no shard: see mint_kind.
SELECT run_ops.resolve_mint_shard('env_missing');
SELECT run_ops.resolve_mint_shard(NULL);

-- The answers are in the cache, with and without a shard.
SELECT run_ops.cache_reset();
SELECT run_ops.resolve_mint_shard('env_two') FROM generate_series(1, 10) \g /dev/null
SELECT run_ops.set_mint_shards('') \g /dev/null
SELECT run_ops.resolve_mint_shard('env_two') FROM generate_series(1, 10) \g /dev/null
SELECT slot, entries, hits + revalidations AS hits, misses FROM run_ops.cache_stats();

\set ECHO none
DROP OWNED BY regress_mint_shard;
DROP ROLE regress_mint_shard;
\c postgres
DROP DATABASE mint_shard;

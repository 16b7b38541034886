-- Minting with the flags read for each id, and what the triggers cost a save.
-- The reading is exact and not cached: a kind read once would be wrong later.
\i test/fixtures/minting.sql
SET jit = off;
SET run_ops_split.mint_flip_grace = 0;
DO $$ BEGIN
  PERFORM organization(i::text, jsonb_build_object('runOpsMintKind', 'ksuid')) FROM generate_series(1, 1000) AS i;
  PERFORM organization('none', NULL);
  PERFORM organization('sharded', '{"runOpsMintKind": "runOpsId"}');
  INSERT INTO run_ops.store VALUES ('a', 'a'), ('b', 'b');
  PERFORM run_ops.set_mint_shards('a,b');
END $$;
-- the same tables once more, with all that refers to them, but not attached
CREATE SCHEMA plain;
SET search_path = plain;
\i test/fixtures/control_plane.sql
RESET search_path;
INSERT INTO plain."Organization" SELECT * FROM "Organization";
VACUUM ANALYZE;

SELECT 'mint_run_id: ' || what, 'time of gen_random_uuid()', 'told',
       bench.ratio(format('SELECT count(run_ops.mint_run_id(%s)) FROM generate_series(1, 20000)', arguments),
                   'SELECT count(gen_random_uuid()) FROM generate_series(1, 20000)', 5)
  FROM (VALUES ('flag of the organization', '''env_7'''), ('global flag', '''env_none'''), ('shard', '''env_sharded'''),
               ('inherited', 'NULL, ''run_06fipvvm01535lic8fpnhjd4e1''')) AS w (what, arguments);
SELECT 'save of an organization: ' || what, 'without triggers', 'at most 1.5',
       bench.ratio(format('UPDATE "Organization" SET %s WHERE id = ''org_7''', change),
                   format('UPDATE plain."Organization" SET %s WHERE id = ''org_7''', change), 200)
  FROM (VALUES ('its title', 'title = title || ''.'''),
               ('its flags', '"featureFlags" = jsonb_build_object(''runOpsMintKind'', ''ksuid'', ''n'', random())')) AS w (what, change);

-- The table of the mint shard, row by row, through the functions that set and
-- mint.  A row that differs would be listed at the end.
\set ECHO none
CREATE DATABASE mint_shard_vectors;
\c mint_shard_vectors
\i test/fixtures/minting.sql
\set ECHO all

CREATE TABLE vector (
  n int GENERATED ALWAYS AS IDENTITY, active text, previous text, seconds int, grace int,
  flags jsonb, environment text, answer text);
\copy vector (active, previous, seconds, grace, flags, environment, answer) FROM 'test/data/mint_shard_vectors.csv' WITH (FORMAT csv, HEADER)

-- All 36 shards may be set; nothing is stored here.
INSERT INTO run_ops.store
  SELECT s, 'server_' || s FROM regexp_split_to_table('abcdefghijklmnopqrstuvwxyz0123456789', '') AS s;

-- The set before, then the active one, and the change is moved to where the row
-- says.  Seconds are longer here, so that a slow machine comes to the same.
CREATE FUNCTION run_row(v vector) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
  minted run_ops.minted_id;
BEGIN
  PERFORM run_ops.set_mint_shards('');
  PERFORM set_config('run_ops_split.mint_flip_grace', '0', true);
  PERFORM run_ops.set_mint_shards(coalesce(v.previous, ''));
  PERFORM run_ops.set_mint_shards(coalesce(v.active, ''));
  -- the same set again is no change, so it does not become the set before
  UPDATE run_ops.mint_shards SET previous = active WHERE v.previous = v.active;
  PERFORM set_config('run_ops_split.mint_flip_grace', v.grace || 'h', true);
  UPDATE run_ops.mint_shards
     SET changed_at = CASE WHEN v.seconds IS NULL THEN '2000-01-01' ELSE clock_timestamp() - make_interval(hours => v.seconds) END;

  PERFORM organization(v.n::text, coalesce(v.flags, '{}') || '{"runOpsMintKind": "runOpsId"}');
  UPDATE "RuntimeEnvironment" SET id = v.environment WHERE id = 'env_' || v.n;
  minted := run_ops.mint_run_id(v.environment);
  RETURN ARRAY[run_ops.resolve_mint_shard(v.environment), run_ops.resolve_shard(minted.id),
               run_ops.resolve_shard((run_ops.mint_batch_id(v.environment)).id),
               run_ops.resolve_shard((run_ops.mint_run_id(v.environment, minted.friendly_id)).id)];
END $$;

-- The warnings of ignored pins are in mint_shard.sql.
SET client_min_messages = error;
CREATE TABLE result AS SELECT v.*, run_row(v) AS got FROM vector AS v;
RESET client_min_messages;

SELECT count(*) AS rows, count(DISTINCT answer) AS answers FROM result;
SELECT count(*) AS mismatches FROM result WHERE got IS DISTINCT FROM array_fill(answer, '{4}');
SELECT * FROM result WHERE got IS DISTINCT FROM array_fill(answer, '{4}');

\set ECHO none
\c postgres
DROP DATABASE mint_shard_vectors;

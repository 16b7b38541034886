
-- mint_shard: the shard of the ids that an environment mints.
--
-- Asked only if the mint kind of the environment is runOpsId.  While a set of
-- shards is active, the id of a new run or batch without a parent is of version
-- 2 and names one of them; otherwise it is of version 1, and its row belongs in
-- store "new".  A pin in the flags of the organization decides the shard,
-- otherwise a hash of the environment.  The application computes the same hash,
-- so neither the hash nor its input may ever change.
--
--   runOpsMintShardEnvPins   a string that contains a JSON object: environment
--                            id -> shard or new
--   runOpsMintShard          a shard or new, for all other environments

CREATE TABLE run_ops.mint_shards (
  singleton  boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  active     text[] NOT NULL DEFAULT '{}',
  previous   text[] NOT NULL DEFAULT '{}',
  changed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
COMMENT ON TABLE run_ops.mint_shards IS
  'the shards for which new ids are minted. run_ops.set_mint_shards() changes it.';
COMMENT ON COLUMN run_ops.mint_shards.singleton IS 'always true: the table has at most one row';
COMMENT ON COLUMN run_ops.mint_shards.active IS 'the shards, sorted; if it is empty, all new runOpsIds are those of store "new"';
COMMENT ON COLUMN run_ops.mint_shards.previous IS 'the shards that were in force when the set was changed, and still are for run_ops_split.mint_flip_grace';
COMMENT ON COLUMN run_ops.mint_shards.changed_at IS 'when the set was changed';
SELECT pg_catalog.pg_extension_config_dump('run_ops.mint_shards', '');
GRANT SELECT ON run_ops.mint_shards TO PUBLIC;

CREATE FUNCTION run_ops.mint_shards_in_force(at timestamptz DEFAULT pg_catalog.clock_timestamp()) RETURNS text[]
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT coalesce((
    SELECT CASE WHEN s.active <> '{}' AND at < s.changed_at + run_ops.setting('mint_flip_grace')::interval
                THEN s.previous ELSE s.active END
      FROM run_ops.mint_shards AS s), '{}')
$$;
COMMENT ON FUNCTION run_ops.mint_shards_in_force(timestamptz) IS
  'the shards for which new ids are minted at a time: the previous ones until the grace after a change is over. Removing all shards takes effect at once.';

-- SECURITY DEFINER: a role can be granted this function alone, as those that change
-- split mode.
CREATE FUNCTION run_ops.set_mint_shards(shards text) RETURNS timestamptz
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  wanted CONSTANT text[] := ARRAY(
    SELECT btrim(w, E' \t\r\n') COLLATE "C" AS shard FROM unnest(string_to_array(shards, ',')) AS w
    EXCEPT VALUES ('') ORDER BY shard);
  invalid CONSTANT text := (SELECT string_agg(quote_literal(w), ', ') FROM unnest(wanted) AS w WHERE w !~ '^[a-z0-9]$');
  missing text;
  at      timestamptz;
BEGIN
  IF shards IS NULL OR invalid IS NOT NULL THEN
    RAISE EXCEPTION 'invalid shard: %', coalesce(invalid, 'NULL')
      USING ERRCODE = 'invalid_parameter_value',
            DETAIL = 'A shard is one character of [a-z0-9]. "new" and "legacy" are not shards.',
            HINT = 'Give the shards with commas between them, such as ''a,b''. The empty string removes all of them, so that new ids are those of store "new".';
  END IF;
  PERFORM run_ops.lock_registry();
  missing := (SELECT min(w) FROM unnest(wanted) AS w WHERE NOT EXISTS (SELECT FROM run_ops.store AS s WHERE s.name = w));
  IF missing IS NOT NULL THEN
    RAISE EXCEPTION 'store "%" is not attached', missing
      USING ERRCODE = 'undefined_object', DETAIL = 'No database would take the rows of new ids of this shard.',
            HINT = format('To attach it: SELECT run_ops.attach_store(%L, ''the name of its server'');', missing);
  END IF;

  INSERT INTO run_ops.mint_shards DEFAULT VALUES ON CONFLICT DO NOTHING;
  -- the same set again does not start the grace again
  at := clock_timestamp();
  UPDATE run_ops.mint_shards AS s SET active = wanted, previous = run_ops.mint_shards_in_force(at), changed_at = at
   WHERE s.active <> wanted;
  IF FOUND THEN
    PERFORM run_ops.audit('set mint shards', jsonb_build_object('active', s.active, 'previous', s.previous)) FROM run_ops.mint_shards AS s;
  END IF;
  RETURN (SELECT CASE WHEN wanted = '{}' THEN s.changed_at ELSE s.changed_at + run_ops.setting('mint_flip_grace')::interval END
            FROM run_ops.mint_shards AS s);
END $$;
COMMENT ON FUNCTION run_ops.set_mint_shards(text) IS
  'sets the shards for which new runOpsIds are minted, such as ''a,b''; each must be an attached store. Returns when they come into force: after run_ops_split.mint_flip_grace, or at once for '''', which removes all of them. Rows of a shard that is removed stay where they are.';

CREATE FUNCTION run_ops.refuse_mint_shard(store text) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  remaining CONSTANT text := (SELECT array_to_string(array_remove(s.active, store), ',') FROM run_ops.mint_shards AS s);
BEGIN
  IF EXISTS (SELECT FROM run_ops.mint_shards AS s WHERE store = ANY (s.active)) THEN
    RAISE EXCEPTION 'new ids are minted for store "%"', store
      USING ERRCODE = 'object_in_use', DETAIL = 'When split is on again, no database would take their rows.',
            HINT = format('SELECT run_ops.set_mint_shards(%L);', remaining);
  ELSIF store = ANY (run_ops.mint_shards_in_force()) THEN
    RAISE EXCEPTION 'new ids are still minted for store "%"', store
      USING ERRCODE = 'object_in_use',
            DETAIL = format('The set of shards was changed. The grace ends at %s.',
                            (SELECT s.changed_at + run_ops.setting('mint_flip_grace')::interval FROM run_ops.mint_shards AS s)),
            HINT = 'Try again then.';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_mint_shard(text) IS 'raises an error if new ids are minted for a store that is a shard';
REVOKE EXECUTE ON FUNCTION run_ops.refuse_mint_shard(text) FROM PUBLIC;

-- What follows depends on its arguments only, and is a part of the cached answer
-- "mint_flags"; mint_shard.c adds the clock.  In PL/pgSQL, because a session then
-- plans it once and not for each environment.

CREATE FUNCTION run_ops.mint_shard_pin(flags jsonb, environment_id text) RETURNS text
  LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  pins jsonb[] := ARRAY[flags -> 'runOpsMintShard'];
BEGIN
  IF jsonb_typeof(flags -> 'runOpsMintShardEnvPins') = 'string' THEN
    BEGIN
      pins := (flags ->> 'runOpsMintShardEnvPins')::jsonb -> environment_id || pins;
    EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
      NULL;  -- unreadable pins are as none
    END;
  END IF;
  RETURN (SELECT p.pin #>> '{}' FROM unnest(pins) WITH ORDINALITY AS p (pin, n)
           WHERE jsonb_typeof(p.pin) = 'string' AND p.pin #>> '{}' ~ '^(new|[a-z0-9])$'
           ORDER BY p.n LIMIT 1);
END $$;
COMMENT ON FUNCTION run_ops.mint_shard_pin(jsonb, text) IS
  'the shard, or new, to which the feature flags of an organization pin an environment; NULL if they have no valid pin';

CREATE FUNCTION run_ops.mint_shard_of(environment_id text, shards text[], pin text) RETURNS text
  LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RETURN CASE
    WHEN shards = '{}' OR pin = 'new' THEN 'new'
    WHEN pin = ANY (shards) THEN pin
    -- rendezvous hashing: a change of the set moves only environments of the
    -- shards that are removed, or to those that are added
    ELSE (SELECT s FROM unnest(shards) AS s
           ORDER BY substr(sha256(convert_to(environment_id, 'UTF8') || '\x00' || convert_to(s, 'UTF8')), 1, 8) DESC,
                    s COLLATE "C" DESC
           LIMIT 1) END;
END $$;
COMMENT ON FUNCTION run_ops.mint_shard_of(text, text[], text) IS
  'the shard of a set for new ids of an environment: its pin, if that is in the set, otherwise the shard that a hash selects; new if the set is empty or the pin is new';

CREATE FUNCTION run_ops.mint_shard_answer(environment_id text, flags jsonb, sets run_ops.mint_shards) RETURNS jsonb
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  pin CONSTANT text := run_ops.mint_shard_pin(flags, environment_id);
BEGIN
  RETURN jsonb_build_object(
    'active', run_ops.mint_shard_of(environment_id, sets.active, pin),
    'previous', run_ops.mint_shard_of(environment_id, sets.previous, pin),
    'changed_at', (extract(epoch FROM sets.changed_at - '2000-01-01 00:00+00') * 1000000)::bigint::text,
    'pin', pin);
END $$;
COMMENT ON FUNCTION run_ops.mint_shard_answer(text, jsonb, run_ops.mint_shards) IS
  'what the C code needs to choose the shard of new ids of an environment';

-- Nothing decides about ids but minting, so one is minted.
CREATE FUNCTION run_ops.resolve_mint_shard(environment_id text) RETURNS text
  LANGUAGE sql VOLATILE PARALLEL UNSAFE
  RETURN run_ops.resolve_shard((run_ops.mint_run_id(environment_id)).id);
COMMENT ON FUNCTION run_ops.resolve_mint_shard(text) IS
  'the store to which a new run or batch of the environment without a parent would belong: a shard, new, or legacy';

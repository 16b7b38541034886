
-- mint_kind: which kind of id an environment mints, and flips of that kind.
--
-- The kind is a feature flag: of the organization, else the global one.  An
-- organization's flag and the stamp of its last flip share its featureFlags,
-- under the names that the application reads there as well:
--
--   runOpsMintKind           cuid, ksuid or runOpsId; where it is absent, the
--                            older key runOpsMintKsuid is read
--   runOpsMintKindPrev       the kind in force when the kind was changed
--   runOpsMintKindFlippedAt  when that was
--
-- For run_ops_split.mint_flip_grace after a flip the previous kind stays in
-- force.  So a flip is one instant for everybody, later than the last moment
-- at which somebody still went by an older answer.

CREATE TYPE run_ops.minted_id AS (id text, friendly_id text);
COMMENT ON TYPE run_ops.minted_id IS
  'a new id without prefix, and the same with it';

CREATE FUNCTION run_ops.mint_flags(flags jsonb) RETURNS jsonb
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_mint_flags';
COMMENT ON FUNCTION run_ops.mint_flags(jsonb) IS
  'those feature flags that are about minting; what is not a JSON object as it is';

CREATE FUNCTION run_ops.effective_mint_kind(kind text, prev text, flipped_at text,
    at timestamptz DEFAULT pg_catalog.clock_timestamp(), grace_ms integer DEFAULT NULL)
  RETURNS run_ops.id_kind LANGUAGE c STABLE PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_effective_mint_kind';
COMMENT ON FUNCTION run_ops.effective_mint_kind(text, text, text, timestamptz, integer) IS
  'the kind in force at a moment: prev until the grace after flipped_at is over, then kind; NULL when that is no kind. A prev or flipped_at that cannot be read is no stamp. A NULL grace is run_ops_split.mint_flip_grace';

CREATE FUNCTION run_ops.effective_mint_kind(flags jsonb,
    at timestamptz DEFAULT pg_catalog.clock_timestamp())
  RETURNS run_ops.id_kind LANGUAGE c STABLE PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_effective_mint_kind_of_flags';
COMMENT ON FUNCTION run_ops.effective_mint_kind(jsonb, timestamptz) IS
  'the kind that feature flags put in force at a moment; NULL when they set none';

CREATE FUNCTION run_ops.resolve_mint_kind(environment_id text) RETURNS run_ops.id_kind
  LANGUAGE c VOLATILE PARALLEL UNSAFE
  AS 'MODULE_PATHNAME', 'run_ops_resolve_mint_kind';
COMMENT ON FUNCTION run_ops.resolve_mint_kind(text) IS
  'the kind that a new run or batch of the environment gets when it has no parent; cuid with a WARNING where that cannot be told';

CREATE FUNCTION run_ops.resolve_inherited_mint_kind(parent_id text) RETURNS run_ops.id_kind
  LANGUAGE c STABLE STRICT PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_resolve_inherited_mint_kind';
COMMENT ON FUNCTION run_ops.resolve_inherited_mint_kind(text) IS
  'the kind that a child of this run or batch gets: one that lives where the parent lives, whatever the flags say; error RO001 when the parent is unclassifiable';

CREATE FUNCTION run_ops.mint_run_id(environment_id text, parent_id text DEFAULT NULL,
    region text DEFAULT NULL)
  RETURNS run_ops.minted_id LANGUAGE c VOLATILE PARALLEL UNSAFE
  AS 'MODULE_PATHNAME', 'run_ops_mint_run_id';
COMMENT ON FUNCTION run_ops.mint_run_id(text, text, text) IS
  'the id of a new run: of the kind of its parent run, or of the batch that it is an item of, else of the environment''s kind. A runOpsId carries the region, a character of a-z0-9 or a known region''s name; 0 for any other';

CREATE FUNCTION run_ops.mint_batch_id(environment_id text, parent_id text DEFAULT NULL)
  RETURNS run_ops.minted_id LANGUAGE c VOLATILE PARALLEL UNSAFE
  AS 'MODULE_PATHNAME', 'run_ops_mint_batch_id';
COMMENT ON FUNCTION run_ops.mint_batch_id(text, text) IS
  'the id of a new batch: of the kind of its parent run, else of the environment''s kind';

-- Flips -----------------------------------------------------------------------

CREATE FUNCTION run_ops.stamp_mint_flip(stored jsonb, saved jsonb, global_flags jsonb,
    at timestamptz DEFAULT pg_catalog.clock_timestamp())
  RETURNS jsonb LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  stamp    CONSTANT text[] := '{runOpsMintKindPrev,runOpsMintKindFlippedAt}';
  -- at infinity every grace is over: the kind itself
  of_stored CONSTANT run_ops.id_kind := run_ops.effective_mint_kind(stored, 'infinity');
  of_saved  CONSTANT run_ops.id_kind := run_ops.effective_mint_kind(saved, 'infinity');
  of_global CONSTANT run_ops.id_kind :=
    coalesce(run_ops.effective_mint_kind(global_flags, 'infinity'), 'cuid');
  now_global CONSTANT run_ops.id_kind :=
    coalesce(run_ops.effective_mint_kind(global_flags, at), 'cuid');
  in_force CONSTANT run_ops.id_kind :=
    coalesce(run_ops.effective_mint_kind(stored, at), now_global);
  carried_from jsonb := stored;
  kept         jsonb;
  result       jsonb;
BEGIN
  IF jsonb_typeof(saved) NOT IN ('object', 'null') THEN
    RETURN saved;  -- malformed: there is no place for a stamp
  END IF;
  kept := nullif(saved, 'null') - stamp;

  -- the kind does not change when the global one becomes the organization's own
  IF of_stored IS NULL AND of_saved IS NOT NULL THEN
    carried_from := global_flags;
  END IF;
  SELECT coalesce(kept || jsonb_object_agg(key, value), jsonb_object_agg(key, value), kept)
    INTO result
    FROM jsonb_each(CASE jsonb_typeof(carried_from) WHEN 'object' THEN carried_from END)
   WHERE key = ANY (stamp);

  -- A flip, also when a flag is taken away: what is in force must stay so.
  IF coalesce(of_stored, of_global) <> coalesce(of_saved, of_global)
     OR coalesce(run_ops.effective_mint_kind(result, at), now_global) <> in_force THEN
    result := coalesce(kept, '{}') || jsonb_build_object(
      'runOpsMintKindPrev', in_force,
      'runOpsMintKindFlippedAt',
      to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'));
  END IF;
  RETURN coalesce(result, saved);
END $$;
COMMENT ON FUNCTION run_ops.stamp_mint_flip(jsonb, jsonb, jsonb, timestamptz) IS
  'feature flags to be stored instead of the saved ones: with a new stamp where the save changes the kind, else with the stamp there was; a stamp in the saved flags is dropped';

CREATE TABLE run_ops.global_mint_kind (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  flags     jsonb NOT NULL
);
COMMENT ON TABLE run_ops.global_mint_kind IS
  'what the global flag table says about minting and the stamp of its last flip, in the shape of an organization''s flags; kept by a trigger, because a row of the flag table that is deleted cannot keep a stamp';
COMMENT ON COLUMN run_ops.global_mint_kind.singleton IS 'there is one row at most';
COMMENT ON COLUMN run_ops.global_mint_kind.flags IS 'the flags about minting, with the stamp of the last flip';
-- as precious as the flags it follows: without it, a restored database would
-- take the next write to the flag table for a flip
SELECT pg_catalog.pg_extension_config_dump('run_ops.global_mint_kind', '');
GRANT SELECT ON run_ops.global_mint_kind TO PUBLIC;

-- Both trigger functions are SECURITY DEFINER: who may change a flag need not
-- be able to read the global flags, nor to write the stamp of the global one.
-- So they must not run what the owner of a table may attach to its types: a
-- value is touched when its type is known to be PostgreSQL's own, else as the
-- owner of the table.

-- What the client sends as a stamp never counts.  A new organization has no
-- kind in force that could flip.
CREATE FUNCTION run_ops.stamp_organization_mint_kind() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  global_flags jsonb;
BEGIN
  -- that of a domain would be checked here
  IF pg_typeof(NEW."featureFlags") <> 'jsonb'::regtype THEN
    RAISE EXCEPTION 'column "featureFlags" of table % has type % instead of jsonb',
        TG_RELID::regclass, pg_typeof(NEW."featureFlags")
      USING ERRCODE = 'datatype_mismatch',
            HINT = 'Give it back its type; until then no flip of the mint kind can be stamped.';
  END IF;
  IF TG_OP = 'INSERT' THEN
    NEW."featureFlags" := NEW."featureFlags"
      - '{runOpsMintKindPrev,runOpsMintKindFlippedAt}'::text[];
    RETURN NEW;
  END IF;
  -- The lock is for the newest global flags, not those of an old snapshot.
  SELECT g.flags INTO global_flags FROM run_ops.global_mint_kind AS g FOR SHARE;
  NEW."featureFlags" :=
    run_ops.stamp_mint_flip(OLD."featureFlags", NEW."featureFlags", global_flags);
  RETURN NEW;
END $$;
COMMENT ON FUNCTION run_ops.stamp_organization_mint_kind() IS
  'trigger on Organization: stamps a flip of the organization''s mint kind';

CREATE FUNCTION run_ops.global_flags(flags_table regclass) RETURNS jsonb
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT run_ops.mint_flags(coalesce(a.flags, '{}'))
    FROM run_ops.as_owner(flags_table, format('SELECT jsonb_object_agg(f.key::text, f.value::jsonb) FROM %s AS f', flags_table)) AS a (flags jsonb)
$$;
COMMENT ON FUNCTION run_ops.global_flags(regclass) IS
  'what the global flag table says about minting';
REVOKE EXECUTE ON FUNCTION run_ops.global_flags(regclass) FROM PUBLIC;

CREATE FUNCTION run_ops.stamp_global_mint_kind() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  stored jsonb;
  saved  jsonb;
BEGIN
  -- One flip at a time: whoever waited here reads below what the other left.
  SELECT g.flags INTO stored FROM run_ops.global_mint_kind AS g FOR UPDATE;
  saved := run_ops.global_flags(TG_RELID);
  saved := run_ops.stamp_mint_flip(stored, saved, NULL);
  IF saved <> stored THEN
    UPDATE run_ops.global_mint_kind SET flags = saved;
  END IF;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION run_ops.stamp_global_mint_kind() IS
  'trigger on FeatureFlag: keeps run_ops.global_mint_kind, with a stamp where the global mint kind flipped';

CREATE FUNCTION run_ops.remove_mint_flip_triggers() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  found_trigger record;
BEGIN
  FOR found_trigger IN
    SELECT t.tgname, t.tgrelid::regclass AS relation FROM pg_trigger AS t
     WHERE t.tgfoid IN ('run_ops.stamp_organization_mint_kind()'::regprocedure,
                        'run_ops.stamp_global_mint_kind()'::regprocedure)
  LOOP
    EXECUTE format('DROP TRIGGER %I ON %s', found_trigger.tgname, found_trigger.relation);
  END LOOP;
  DELETE FROM run_ops.global_mint_kind;
END $$;
COMMENT ON FUNCTION run_ops.remove_mint_flip_triggers() IS
  'takes the triggers of the mint kind off the control-plane tables; from then on every id minted without a parent is a cuid';

CREATE FUNCTION run_ops.install_mint_flip_triggers(control_plane name) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  stored CONSTANT jsonb := (SELECT g.flags FROM run_ops.global_mint_kind AS g);
  saved  jsonb;
BEGIN
  PERFORM run_ops.remove_mint_flip_triggers();
  EXECUTE format(
    'CREATE TRIGGER run_ops_mint_flip BEFORE UPDATE OF "featureFlags" ON %I."Organization" '
    'FOR EACH ROW WHEN (run_ops.mint_flags(OLD."featureFlags") IS DISTINCT FROM run_ops.mint_flags(NEW."featureFlags")) '
    'EXECUTE FUNCTION run_ops.stamp_organization_mint_kind()', control_plane);
  EXECUTE format(
    'CREATE TRIGGER run_ops_mint_stamp BEFORE INSERT ON %I."Organization" '
    'FOR EACH ROW WHEN (jsonb_typeof(NEW."featureFlags") = ''object'' '
    '  AND NEW."featureFlags" ?| ''{runOpsMintKindPrev,runOpsMintKindFlippedAt}'') '
    'EXECUTE FUNCTION run_ops.stamp_organization_mint_kind()', control_plane);
  EXECUTE format(
    'CREATE TRIGGER run_ops_mint_flip AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON %I."FeatureFlag" '
    'FOR EACH STATEMENT EXECUTE FUNCTION run_ops.stamp_global_mint_kind()', control_plane);

  -- The lock of CREATE TRIGGER keeps writers out from here on.  At first the
  -- flags are taken over with a stamp that the application may have left.
  saved := run_ops.global_flags(format('%I."FeatureFlag"', control_plane)::regclass);
  INSERT INTO run_ops.global_mint_kind (flags)
  VALUES (CASE WHEN stored IS NULL THEN saved ELSE run_ops.stamp_mint_flip(stored, saved, NULL) END);
END $$;
COMMENT ON FUNCTION run_ops.install_mint_flip_triggers(name) IS
  'puts the triggers of the mint kind on the control-plane tables of a schema, in place of those there may be elsewhere';

REVOKE EXECUTE ON FUNCTION run_ops.stamp_organization_mint_kind(), run_ops.stamp_global_mint_kind(),
  run_ops.remove_mint_flip_triggers(), run_ops.install_mint_flip_triggers(name) FROM PUBLIC;


-- mint_kind: the kind of the ids that an environment mints, and flips of that
-- kind.
--
-- The kind is a feature flag of the organization, otherwise the global feature
-- flag.  The column featureFlags of an organization has its flag and the stamp
-- of its last flip, under the names that the application reads as well:
--
--   runOpsMintKind           cuid, ksuid or runOpsId; if it is absent, the
--                            older key runOpsMintKsuid is read
--   runOpsMintKindPrev       the kind in force when the kind was changed
--   runOpsMintKindFlippedAt  when the kind was changed
--
-- For run_ops_split.mint_flip_grace after a flip, the previous kind stays in
-- force.  So the kind changes for all clients at the same time, later than any
-- cached answer from before the flip is used.

CREATE TYPE run_ops.minted_id AS (id text, friendly_id text);
COMMENT ON TYPE run_ops.minted_id IS
  'a new id, without and with the prefix of its table';

CREATE FUNCTION run_ops.mint_flags(flags jsonb) RETURNS jsonb
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_mint_flags';
COMMENT ON FUNCTION run_ops.mint_flags(jsonb) IS
  'the feature flags for minting; a value that is not a JSON object is returned unchanged';

CREATE FUNCTION run_ops.effective_mint_kind(kind text, prev text, flipped_at text,
    at timestamptz DEFAULT pg_catalog.clock_timestamp(), grace_ms integer DEFAULT NULL)
  RETURNS run_ops.id_kind LANGUAGE c STABLE PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_effective_mint_kind';
COMMENT ON FUNCTION run_ops.effective_mint_kind(text, text, text, timestamptz, integer) IS
  'the kind in force at a time: prev until the grace after flipped_at is over, then kind; NULL if that is not a kind. Without a valid prev and flipped_at there was no flip. If grace_ms is NULL, run_ops_split.mint_flip_grace is used.';

CREATE FUNCTION run_ops.effective_mint_kind(flags jsonb,
    at timestamptz DEFAULT pg_catalog.clock_timestamp())
  RETURNS run_ops.id_kind LANGUAGE c STABLE PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_effective_mint_kind_of_flags';
COMMENT ON FUNCTION run_ops.effective_mint_kind(jsonb, timestamptz) IS
  'the kind in force at a time according to feature flags; NULL if they have none';

CREATE FUNCTION run_ops.resolve_mint_kind(environment_id text) RETURNS run_ops.id_kind
  LANGUAGE c VOLATILE PARALLEL UNSAFE
  AS 'MODULE_PATHNAME', 'run_ops_resolve_mint_kind';
COMMENT ON FUNCTION run_ops.resolve_mint_kind(text) IS
  'the kind of the id of a new run or batch of the environment without a parent; if it cannot be determined, raises a WARNING and returns cuid';

CREATE FUNCTION run_ops.resolve_inherited_mint_kind(parent_id text) RETURNS run_ops.id_kind
  LANGUAGE c STABLE STRICT PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_resolve_inherited_mint_kind';
COMMENT ON FUNCTION run_ops.resolve_inherited_mint_kind(text) IS
  'the kind of the id of a child of this run or batch: one that belongs to the same store as the parent, whatever the flags are. Raises error RO001 if the parent is unclassifiable.';

CREATE FUNCTION run_ops.mint_run_id(environment_id text, parent_id text DEFAULT NULL,
    region text DEFAULT NULL)
  RETURNS run_ops.minted_id LANGUAGE c VOLATILE PARALLEL UNSAFE
  AS 'MODULE_PATHNAME', 'run_ops_mint_run_id';
COMMENT ON FUNCTION run_ops.mint_run_id(text, text, text) IS
  'mints the id of a new run: of the kind of parent_id, the parent run or the batch of the run, otherwise of the kind of the environment. A runOpsId of version 1 contains the region: a character of a-z0-9 or the name of a known region; any other becomes 0. Instead of a region, one of version 2 contains the shard of the parent, or that of run_ops.resolve_mint_shard().';

CREATE FUNCTION run_ops.mint_batch_id(environment_id text, parent_id text DEFAULT NULL)
  RETURNS run_ops.minted_id LANGUAGE c VOLATILE PARALLEL UNSAFE
  AS 'MODULE_PATHNAME', 'run_ops_mint_batch_id';
COMMENT ON FUNCTION run_ops.mint_batch_id(text, text) IS
  'mints the id of a new batch: of the kind and shard of its parent run, otherwise of those of the environment';

-- Flips -----------------------------------------------------------------------

CREATE FUNCTION run_ops.stamp_mint_flip(stored jsonb, saved jsonb, global_flags jsonb,
    at timestamptz DEFAULT pg_catalog.clock_timestamp())
  RETURNS jsonb LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  stamp    CONSTANT text[] := '{runOpsMintKindPrev,runOpsMintKindFlippedAt}';
  -- at infinity every grace is over, so this is the kind of the flags themselves
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
    RETURN saved;  -- malformed, a stamp cannot be added
  END IF;
  kept := nullif(saved, 'null') - stamp;

  -- a flag that repeats the global kind for the organization is no flip
  IF of_stored IS NULL AND of_saved IS NOT NULL THEN
    carried_from := global_flags;
  END IF;
  SELECT coalesce(kept || jsonb_object_agg(key, value), jsonb_object_agg(key, value), kept)
    INTO result
    FROM jsonb_each(CASE jsonb_typeof(carried_from) WHEN 'object' THEN carried_from END)
   WHERE key = ANY (stamp);

  -- A flip.  Removing a flag may be one as well: the kind in force must stay in
  -- force for the grace.
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
  'the feature flags to store instead of the saved ones: with a new stamp if they change the kind, otherwise with the previous stamp. A stamp in the saved flags is ignored.';

CREATE TABLE run_ops.global_mint_kind (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  flags     jsonb NOT NULL
);
COMMENT ON TABLE run_ops.global_mint_kind IS
  'the global feature flags for minting and the stamp of their last flip, in the same format as the flags of an organization. A trigger maintains them here, because a deleted row of the flag table could not keep the stamp.';
COMMENT ON COLUMN run_ops.global_mint_kind.singleton IS 'always true: the table has at most one row';
COMMENT ON COLUMN run_ops.global_mint_kind.flags IS 'the flags for minting, with the stamp of the last flip';
-- Dumped like the flags themselves: without it, the next write to the flag table
-- of a restored database would be taken for a flip.
SELECT pg_catalog.pg_extension_config_dump('run_ops.global_mint_kind', '');
GRANT SELECT ON run_ops.global_mint_kind TO PUBLIC;

-- Both trigger functions are SECURITY DEFINER: a role that may change a flag need
-- not have privileges to read the global flags or to write their stamp.  So they
-- must not run functions that the owner of a table may have attached to its
-- types.  A value is only used if its type is PostgreSQL's own; otherwise it is
-- read as the owner of the table.

-- A stamp that a client sends is ignored.  A new organization has no previous
-- kind, so its first flag is no flip.
CREATE FUNCTION run_ops.stamp_organization_mint_kind() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  global_flags jsonb;
BEGIN
  -- the assignments below would check the constraints of a domain
  IF pg_typeof(NEW."featureFlags") <> 'jsonb'::regtype THEN
    RAISE EXCEPTION 'column "featureFlags" of table % has type % instead of jsonb',
        TG_RELID::regclass, pg_typeof(NEW."featureFlags")
      USING ERRCODE = 'datatype_mismatch',
            HINT = format('To allow flips of the mint kind again: ALTER TABLE %s ALTER COLUMN "featureFlags" TYPE jsonb;', TG_RELID::regclass);
  END IF;
  IF TG_OP = 'INSERT' THEN
    NEW."featureFlags" := NEW."featureFlags"
      - '{runOpsMintKindPrev,runOpsMintKindFlippedAt}'::text[];
    RETURN NEW;
  END IF;
  -- FOR SHARE reads the newest global flags, not those of an old snapshot.
  SELECT g.flags INTO global_flags FROM run_ops.global_mint_kind AS g FOR SHARE;
  NEW."featureFlags" :=
    run_ops.stamp_mint_flip(OLD."featureFlags", NEW."featureFlags", global_flags);
  RETURN NEW;
END $$;
COMMENT ON FUNCTION run_ops.stamp_organization_mint_kind() IS
  'trigger on Organization: adds a stamp if the mint kind of the organization flips';

CREATE FUNCTION run_ops.global_flags(flags_table regclass) RETURNS jsonb
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT run_ops.mint_flags(coalesce(a.flags, '{}'))
    FROM run_ops.as_owner(flags_table, format('SELECT jsonb_object_agg(f.key::text, f.value::jsonb) FROM %s AS f', flags_table)) AS a (flags jsonb)
$$;
COMMENT ON FUNCTION run_ops.global_flags(regclass) IS
  'the feature flags for minting in the global flag table';
REVOKE EXECUTE ON FUNCTION run_ops.global_flags(regclass) FROM PUBLIC;

CREATE FUNCTION run_ops.stamp_global_mint_kind() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  stored jsonb;
  saved  jsonb;
BEGIN
  -- One flip at a time: a session that had to wait here reads the result of the
  -- other one below.
  SELECT g.flags INTO stored FROM run_ops.global_mint_kind AS g FOR UPDATE;
  saved := run_ops.global_flags(TG_RELID);
  saved := run_ops.stamp_mint_flip(stored, saved, NULL);
  IF saved <> stored THEN
    UPDATE run_ops.global_mint_kind SET flags = saved;
  END IF;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION run_ops.stamp_global_mint_kind() IS
  'trigger on FeatureFlag: updates run_ops.global_mint_kind, with a stamp if the global mint kind flips';

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
  'drops the triggers for the mint kind from the control-plane tables; from then on every id minted without a parent is a cuid';

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

  -- The lock of CREATE TRIGGER blocks writes from here on.  The first time, the
  -- flags are copied with a stamp that the application may have written.
  saved := run_ops.global_flags(format('%I."FeatureFlag"', control_plane)::regclass);
  INSERT INTO run_ops.global_mint_kind (flags)
  VALUES (CASE WHEN stored IS NULL THEN saved ELSE run_ops.stamp_mint_flip(stored, saved, NULL) END);
END $$;
COMMENT ON FUNCTION run_ops.install_mint_flip_triggers(name) IS
  'creates the triggers for the mint kind on the control-plane tables of a schema, and drops those on other tables';

REVOKE EXECUTE ON FUNCTION run_ops.stamp_organization_mint_kind(), run_ops.stamp_global_mint_kind(),
  run_ops.remove_mint_flip_triggers(), run_ops.install_mint_flip_triggers(name) FROM PUBLIC;

CREATE FUNCTION run_ops.minting_legacy_ids() RETURNS text
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  organizations regclass := (SELECT t.tgrelid FROM pg_trigger AS t WHERE t.tgfoid = 'run_ops.stamp_organization_mint_kind()'::regprocedure LIMIT 1);
  flag_table    regclass := (SELECT t.tgrelid FROM pg_trigger AS t WHERE t.tgfoid = 'run_ops.stamp_global_mint_kind()'::regprocedure LIMIT 1);
  is_new        text := 'run_ops.effective_mint_kind(%s, ''infinity'') <> ''cuid''';
BEGIN
  IF organizations IS NULL OR NOT run_ops.setting('mint_enabled')::boolean THEN
    RETURN NULL;
  END IF;
  is_new := format(is_new, '"featureFlags"::jsonb');
  RETURN nullif(concat_ws(' ',
    (SELECT format('INSERT INTO %s (id, key, value) VALUES (gen_random_uuid()::text, ''runOpsMintKind'', ''"cuid"'') ON CONFLICT (key) DO UPDATE SET value = excluded.value;', flag_table)
       FROM run_ops.global_mint_kind AS g WHERE run_ops.effective_mint_kind(g.flags, 'infinity') <> 'cuid'),
    (SELECT format('UPDATE %s SET "featureFlags" = "featureFlags" || ''{"runOpsMintKind": "cuid"}'' WHERE %s;', organizations, is_new)
       FROM run_ops.as_owner(organizations, format('SELECT EXISTS (SELECT FROM %s WHERE %s)', organizations, is_new)) AS o (found boolean) WHERE o.found)), '');
END $$;
COMMENT ON FUNCTION run_ops.minting_legacy_ids() IS
  'SQL that changes the flags by which new ids are NEW, so that all are LEGACY after the grace; NULL if there are none';
REVOKE EXECUTE ON FUNCTION run_ops.minting_legacy_ids() FROM PUBLIC;

-- What is in force -----------------------------------------------------------------

-- SECURITY DEFINER, here and below: the caller need not have privileges to read
-- organizations and their other flags.
CREATE FUNCTION run_ops.mint_flips(
    OUT organization text, OUT in_force run_ops.id_kind, OUT becomes run_ops.id_kind,
    OUT flipped_at timestamptz, OUT becomes_at timestamptz)
  RETURNS SETOF record
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  organizations regclass := (SELECT t.tgrelid FROM pg_trigger AS t
                              WHERE t.tgfoid = 'run_ops.stamp_organization_mint_kind()'::regprocedure LIMIT 1);
BEGIN
  IF organizations IS NOT NULL THEN
    RETURN QUERY
      SELECT f.id, run_ops.effective_mint_kind(f.flags), run_ops.effective_mint_kind(f.flags, 'infinity'), f.at::timestamptz,
             f.at::timestamptz + run_ops.setting('mint_flip_grace')::interval
        FROM (SELECT NULL AS id, g.flags, g.flags ->> 'runOpsMintKindFlippedAt' AS at FROM run_ops.global_mint_kind AS g
              UNION ALL
              SELECT o.id, o.flags, o.flags ->> 'runOpsMintKindFlippedAt'
                FROM run_ops.as_owner(organizations, format(
                       'SELECT o.id::text, run_ops.mint_flags(o."featureFlags"::jsonb) FROM %s AS o '
                       'WHERE o."featureFlags"::jsonb ? %L', organizations, 'runOpsMintKindFlippedAt')) AS o (id text, flags jsonb)) AS f
       WHERE run_ops.effective_mint_kind(f.flags) IS DISTINCT FROM run_ops.effective_mint_kind(f.flags, 'infinity')
       ORDER BY f.at, f.id;
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.mint_flips() IS
  'organizations whose new mint kind is not in force yet; organization is NULL for the global flag, and becomes is NULL if the flag was removed. Reads the flags of all organizations.';

CREATE FUNCTION run_ops.mint_kinds(OUT kind run_ops.id_kind, OUT organizations bigint)
  RETURNS SETOF record
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  organizations regclass := (SELECT t.tgrelid FROM pg_trigger AS t
                              WHERE t.tgfoid = 'run_ops.stamp_organization_mint_kind()'::regprocedure LIMIT 1);
BEGIN
  IF organizations IS NOT NULL THEN
    RETURN QUERY
      SELECT coalesce(o.kind, (SELECT run_ops.effective_mint_kind(g.flags) FROM run_ops.global_mint_kind AS g), 'cuid') AS kind, sum(o.n)::bigint
        FROM run_ops.as_owner(organizations, format(
               'SELECT run_ops.effective_mint_kind(o."featureFlags"::jsonb), count(*) FROM %s AS o GROUP BY 1', organizations))
               AS o (kind run_ops.id_kind, n bigint)
       GROUP BY 1 ORDER BY 1;
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.mint_kinds() IS
  'the number of organizations for each mint kind in force, by their own flag or the global one; ignores run_ops_split.mint_enabled and whether split is on. Reads the flags of all organizations.';


-- rights: with whose privileges a command runs, and which schemas are safe for
-- the extension to use.

CREATE FUNCTION run_ops.strangers(schema name) RETURNS SETOF text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  WITH trusted AS (
    -- these roles can change the extension anyway
    SELECT r.oid FROM pg_roles AS r
     WHERE r.rolsuper OR r.rolname = current_user
        OR r.oid = (SELECT e.extowner FROM pg_extension AS e WHERE e.extname = 'run_ops_split'))
  SELECT format('It is owned by role %I.', pg_get_userbyid(n.nspowner))
    FROM pg_namespace AS n
   WHERE n.nspname = strangers.schema AND n.nspowner NOT IN (SELECT t.oid FROM trusted AS t)
  UNION ALL
  SELECT format('%s may create objects in it.',
                CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE format('Role %I', pg_get_userbyid(a.grantee)) END)
    FROM pg_namespace AS n, LATERAL aclexplode(n.nspacl) AS a
   WHERE n.nspname = strangers.schema AND a.privilege_type = 'CREATE' AND a.grantee <> n.nspowner
     AND a.grantee NOT IN (SELECT t.oid FROM trusted AS t)
  UNION ALL
  SELECT format('%s is owned by role %I.', pg_describe_object(d.classid, d.objid, 0), pg_get_userbyid(o.refobjid))
    FROM pg_namespace AS n
    JOIN pg_depend AS d ON d.refclassid = 'pg_namespace'::regclass AND d.refobjid = n.oid
    JOIN pg_shdepend AS o ON o.classid = d.classid AND o.objid = d.objid AND o.deptype = 'o'
     AND o.dbid = (SELECT b.oid FROM pg_database AS b WHERE b.datname = current_database())
   WHERE n.nspname = strangers.schema AND o.refobjid NOT IN (SELECT t.oid FROM trusted AS t)
$$;
COMMENT ON FUNCTION run_ops.strangers(name) IS
  'one line for each reason why a schema is not safe: a stranger owns it or an object in it, or may create objects in it; a stranger is any role except the current role, the owner of the extension and superusers';

CREATE FUNCTION run_ops.spare_name(name name, suffix text, taken name[]) RETURNS name
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  WITH base AS (
    -- the longest beginning that leaves room within 63 bytes
    SELECT left(name, n) || suffix AS base FROM generate_series(50, 0, -1) AS n WHERE octet_length(left(name, n)) <= 50 ORDER BY n DESC LIMIT 1
  ), alike AS (
    SELECT b.base, array_agg(t) AS names FROM base AS b LEFT JOIN unnest(taken) AS t ON starts_with(t::text, b.base) GROUP BY b.base
  )
  SELECT c.candidate
    FROM alike AS a, generate_series(1, cardinality(a.names) + 1) AS n,
         LATERAL (SELECT (a.base || CASE WHEN n > 1 THEN format('_%s', n) ELSE '' END)::name AS candidate) AS c
   WHERE coalesce(c.candidate <> ALL (array_remove(a.names, NULL)), true)
   ORDER BY n LIMIT 1
$$;
COMMENT ON FUNCTION run_ops.spare_name(name, text, name[]) IS
  'a name with a suffix that is none of those that are taken, for hints that rename an object';

CREATE FUNCTION run_ops.refuse_strangers(schema name) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  lines text := (SELECT string_agg(l, E'\n' ORDER BY l) FROM run_ops.strangers(schema) AS l);
BEGIN
  IF lines IS NOT NULL THEN
    RAISE EXCEPTION 'schema "%" is not safe to use', schema
      USING ERRCODE = 'insufficient_privilege', DETAIL = lines,
            HINT = format('Code of other roles in this schema would run with the privileges of the extension. Drop it or rename it, and try again: ALTER SCHEMA %I RENAME TO %I;',
                          schema, run_ops.spare_name(schema, '_of_others', ARRAY(SELECT n.nspname FROM pg_namespace AS n)));
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_strangers(name) IS
  'raises an error if a stranger owns a schema or an object in it, or may create objects in it';
REVOKE EXECUTE ON FUNCTION run_ops.strangers(name), run_ops.refuse_strangers(name) FROM PUBLIC;

CREATE FUNCTION run_ops.renew_schema(schema name) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format('DO %L; DROP SCHEMA IF EXISTS %I CASCADE; CREATE SCHEMA %2$I', format($q$
    DECLARE
      stranger text := (SELECT r.rolname FROM pg_namespace AS n JOIN pg_roles AS r ON r.oid = n.nspowner
                         WHERE n.nspname = %L AND NOT r.rolsuper AND r.rolname <> current_user);
    BEGIN
      IF stranger IS NOT NULL THEN
        RAISE EXCEPTION 'schema "%%" is owned by role "%%"', %1$L, stranger
          USING ERRCODE = 'insufficient_privilege', HINT = 'Drop or rename the schema, and try again.';
      END IF;
    END $q$, schema), schema)
$$;
COMMENT ON FUNCTION run_ops.renew_schema(name) IS
  'SQL that drops and creates a schema, here or in a store; fails if another role owns a schema of that name';

-- Before anything else: nobody may have put objects of these names here.
DO $$
BEGIN
  PERFORM run_ops.refuse_strangers('run_ops'::pg_catalog.name);
END $$;

CREATE FUNCTION run_ops.as_owner(relation regclass, command text, VARIADIC arguments "any") RETURNS SETOF record
  LANGUAGE c
  AS 'MODULE_PATHNAME', 'run_ops_as_owner';
CREATE FUNCTION run_ops.as_owner(relation regclass, command text) RETURNS SETOF record
  LANGUAGE c
  AS 'MODULE_PATHNAME', 'run_ops_as_owner';
COMMENT ON FUNCTION run_ops.as_owner(regclass, text, "any") IS
  'executes a command: access to tables is checked as the caller, while triggers, casts, checks and other code that the owner of the relation has attached run as that owner; if the caller lacks the privileges of the owner, everything runs as the caller';
COMMENT ON FUNCTION run_ops.as_owner(regclass, text) IS
  'the same as run_ops.as_owner() above, for a command without arguments';

CREATE FUNCTION run_ops.weaker_owner(a regclass, b regclass) RETURNS regclass
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT CASE WHEN pg_has_role(x.relowner, y.relowner, 'USAGE') THEN b ELSE a END
    FROM pg_class AS x, pg_class AS y WHERE x.oid = a AND y.oid = b
$$;
COMMENT ON FUNCTION run_ops.weaker_owner(regclass, regclass) IS
  'the one of two tables whose owner should execute a command that reads both: b if the owner of a has the privileges of the owner of b, else a; so no owner gains privileges';

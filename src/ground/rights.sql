
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
                          schema, left(schema, 50) || '_of_others');
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

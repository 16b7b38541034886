\echo Use "CREATE EXTENSION run_ops_split CASCADE" to load this file. \quit

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

-- column_equality: compares the values of a column in generated queries.

CREATE FUNCTION run_ops.equality_operator(relation regclass, column_name name) RETURNS text
  LANGUAGE c STABLE STRICT
  AS 'MODULE_PATHNAME', 'run_ops_equality_operator';
COMMENT ON FUNCTION run_ops.equality_operator(regclass, name) IS
  'the operator by which unique indexes compare the values of a column, as text for a query: OPERATOR(pg_catalog.=) for most types; with search_path = pg_catalog, = would be another operator for types of extensions';

CREATE FUNCTION run_ops.compared_type(relation regclass, column_name name) RETURNS text
  LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp
AS $$
  WITH RECURSIVE y AS (
    SELECT a.atttypid AS oid FROM pg_attribute AS a WHERE a.attrelid = relation AND a.attname = column_name
    UNION ALL
    SELECT t.typbasetype FROM y JOIN pg_type AS t ON t.oid = y.oid AND t.typtype = 'd')
  -- -1 is no length; a plain "character" would be one character
  SELECT format_type(y.oid, -1) FROM y JOIN pg_type AS t ON t.oid = y.oid AND t.typtype <> 'd'
$$;
COMMENT ON FUNCTION run_ops.compared_type(regclass, name) IS
  'the type of a column, without its length; for a domain, its base type';

CREATE FUNCTION run_ops.equals_text(relation regclass, column_name name, value text, many boolean DEFAULT false) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format(CASE WHEN many THEN '%s ANY (CAST(%s AS %s[]))' ELSE '%s CAST(%s AS %s)' END,
                run_ops.equality_operator(relation, column_name), value, run_ops.compared_type(relation, column_name))
$$;
COMMENT ON FUNCTION run_ops.equals_text(regclass, name, text, boolean) IS
  'the text that follows a column in a query, to compare the column with an expression of type text, or with each element of an array';

CREATE FUNCTION run_ops.plain_column(relation regclass, column_name name, written text, OUT expression text, OUT type text)
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  -- A value of a built-in type, or of a domain over one, is compared as it is,
  -- so that indexes can be used. Equality and order of any other type depend on
  -- the schema of the type, so its values are compared as text.
  WITH RECURSIVE base AS (
    SELECT a.atttypid AS oid, a.atttypmod AS modifier FROM pg_attribute AS a WHERE a.attrelid = relation AND a.attname = column_name
    UNION ALL
    SELECT y.typbasetype, y.typtypmod FROM base AS b JOIN pg_type AS y ON y.oid = b.oid WHERE y.typtype = 'd')
  SELECT CASE WHEN y.typnamespace = 'pg_catalog'::regnamespace THEN written
              ELSE format('CASE WHEN %1$s IS NOT NULL THEN format(''%%s'', %1$s) END', written) END,
         CASE WHEN y.typnamespace = 'pg_catalog'::regnamespace THEN format_type(b.oid, b.modifier) ELSE 'text' END
    FROM base AS b JOIN pg_type AS y ON y.oid = b.oid WHERE y.typtype <> 'd'
$$;
COMMENT ON FUNCTION run_ops.plain_column(regclass, name, text) IS
  'how a column of a local table is compared and ordered, here and in a store: the expression made of the column as written, and the type of its values';

-- id_shape: which store holds the row of an id, a function of the id's shape.

CREATE TYPE run_ops.residency AS ENUM ('LEGACY', 'NEW');
COMMENT ON TYPE run_ops.residency IS
  'where the row of an id belongs, as the shape of the id says: LEGACY is the local control-plane database, NEW is a run-ops store';

-- This is an enum and not text: it needs four bytes in an index and no
-- allocation per call, and a misspelled kind is an error instead of a condition
-- that is never true.
CREATE TYPE run_ops.id_kind AS ENUM ('cuid', 'ksuid', 'runOpsId');
COMMENT ON TYPE run_ops.id_kind IS
  'the format of an id body: cuid (25 characters), ksuid (27), runOpsId (26, versioned)';

-- Functions that never fail are LEAKPROOF. So a condition on the id can be
-- tested below a security barrier, and through an index.

CREATE FUNCTION run_ops.owner_engine(id text) RETURNS run_ops.residency
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_owner_engine';
COMMENT ON FUNCTION run_ops.owner_engine(text) IS
  'residency of the id; raises RO001 if the id is unclassifiable';

CREATE FUNCTION run_ops.try_owner_engine(id text) RETURNS run_ops.residency
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF
  AS 'MODULE_PATHNAME', 'run_ops_try_owner_engine';
COMMENT ON FUNCTION run_ops.try_owner_engine(text) IS
  'residency of the id; NULL if the id is unclassifiable';

CREATE FUNCTION run_ops.is_classifiable(id text) RETURNS boolean
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF
  AS 'MODULE_PATHNAME', 'run_ops_is_classifiable';
COMMENT ON FUNCTION run_ops.is_classifiable(text) IS
  'whether the shape of the id says which store holds its row';

CREATE FUNCTION run_ops.classify_kind(id text) RETURNS run_ops.id_kind
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF
  AS 'MODULE_PATHNAME', 'run_ops_classify_kind';
COMMENT ON FUNCTION run_ops.classify_kind(text) IS
  'the format of the id; NULL if the id is unclassifiable';

CREATE FUNCTION run_ops.resolve_shard(id text) RETURNS text
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF
  AS 'MODULE_PATHNAME', 'run_ops_resolve_shard';
COMMENT ON FUNCTION run_ops.resolve_shard(text) IS
  'the name of the store that holds the row of the id: the shard character of a version-2 id, new, or legacy; the row of an unclassifiable id belongs in legacy';

CREATE FUNCTION run_ops.resides(id text, store text) RETURNS boolean
  LANGUAGE c IMMUTABLE PARALLEL SAFE LEAKPROOF
  AS 'MODULE_PATHNAME', 'run_ops_resides';
COMMENT ON FUNCTION run_ops.resides(text, text) IS
  'whether the shape of the id says that its row belongs in the store; the row of a NULL or unclassifiable id belongs in legacy';

CREATE FUNCTION run_ops.residency_condition(id text, store text) RETURNS text
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_residency_condition';
COMMENT ON FUNCTION run_ops.residency_condition(text, text) IS
  'the condition run_ops.resides(id, store) as SQL that a store without this extension can evaluate; id is an SQL expression of type text; NULL for legacy';

-- id_mint: generates ids, reads the creation time in an id, adds a prefix.

CREATE FUNCTION run_ops.generate_cuid() RETURNS text
  LANGUAGE c VOLATILE PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_generate_cuid';
COMMENT ON FUNCTION run_ops.generate_cuid() IS
  'a new cuid: 25 characters, LEGACY; sorts roughly by millisecond';

CREATE FUNCTION run_ops.generate_ksuid() RETURNS text
  LANGUAGE c VOLATILE PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_generate_ksuid';
COMMENT ON FUNCTION run_ops.generate_ksuid() IS
  'a new ksuid: 27 characters, NEW; sorts by second under COLLATE "C"';

CREATE FUNCTION run_ops.generate_run_ops_id(region text DEFAULT '0') RETURNS text
  LANGUAGE c VOLATILE PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_generate_run_ops_id';
COMMENT ON FUNCTION run_ops.generate_run_ops_id(text) IS
  'a new runOpsId of version 1: 26 characters, NEW; sorts by millisecond; the region is one character of a-z0-9; NULL means 0, an unknown region';

CREATE FUNCTION run_ops.generate_run_ops_id_v2(shard text) RETURNS text
  LANGUAGE c VOLATILE PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_generate_run_ops_id_v2';
COMMENT ON FUNCTION run_ops.generate_run_ops_id_v2(text) IS
  'a new runOpsId of version 2: 26 characters, NEW; belongs in the shard, which is one character of a-z0-9; sorts by millisecond';

CREATE FUNCTION run_ops.id_timestamp(id text) RETURNS timestamptz
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF
  AS 'MODULE_PATHNAME', 'run_ops_id_timestamp';
COMMENT ON FUNCTION run_ops.id_timestamp(text) IS
  'the creation time in the id; NULL if the id has none';

CREATE FUNCTION run_ops.friendly_id(prefix text, body text) RETURNS text
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_friendly_id';
COMMENT ON FUNCTION run_ops.friendly_id(text, text) IS
  'the id with the prefix, such as run_...; unchanged if it has that prefix already';

CREATE FUNCTION run_ops.id_body(id text) RETURNS text
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE LEAKPROOF
  AS 'MODULE_PATHNAME', 'run_ops_id_body';
COMMENT ON FUNCTION run_ops.id_body(text) IS
  'the part of the id that is classified: what follows the first _, or the whole id if it has none';

-- key_rule: which store holds a row, where the shape of a text does not tell it.
--
-- A key rule is an SQL function of one column that returns the name of a store.
-- The functions here are ready made, or make one.

CREATE FUNCTION run_ops.rule_expression(rule regprocedure, column_type regtype) RETURNS text
  LANGUAGE c STABLE STRICT
  AS 'MODULE_PATHNAME', 'run_ops_rule_expression';
COMMENT ON FUNCTION run_ops.rule_expression(regprocedure, regtype) IS
  'the expression that a function returns, with $1 for a column of this type; raises an error if the function cannot be a key rule';

CREATE FUNCTION run_ops.rule_names(rule text, column_type regtype) RETURNS text[]
  LANGUAGE c STABLE STRICT SET search_path = pg_catalog, pg_temp
  AS 'MODULE_PATHNAME', 'run_ops_rule_names';
COMMENT ON FUNCTION run_ops.rule_names(text, regtype) IS 'the names of stores that a key rule has as constants';

CREATE FUNCTION run_ops.rule_condition(rule text, column_type regtype, id text, store text) RETURNS text
  LANGUAGE c STABLE STRICT SET search_path = pg_catalog, pg_temp
  AS 'MODULE_PATHNAME', 'run_ops_rule_condition';
COMMENT ON FUNCTION run_ops.rule_condition(text, regtype, text, text) IS
  'the condition, as SQL, that a key rule names the store for an SQL expression id of this type; it consists of what PostgreSQL itself has, so every store can evaluate it';

CREATE FUNCTION run_ops.uuid_version_store(id uuid) RETURNS text
  LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
  RETURN CASE WHEN get_byte(uuid_send(id), 6) >> 4 = 7 THEN 'new' ELSE 'legacy' END;
COMMENT ON FUNCTION run_ops.uuid_version_store(uuid) IS
  'a key rule: rows whose UUID is of version 7 belong in store new, all others in legacy';

CREATE FUNCTION run_ops.id_floor(kind text, since timestamptz, epoch timestamptz DEFAULT 'epoch') RETURNS text
  LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  first  timestamptz := CASE kind WHEN 'ksuid' THEN to_timestamp(1400000000) ELSE epoch END;
  ms     bigint := floor(extract(epoch FROM since - first) * 1000);
  number numeric;
  digits text := '';
  base   int;
  alphabet CONSTANT text := '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
BEGIN
  IF ms < 0 THEN
    RAISE EXCEPTION 'time % is before the first id', since
      USING ERRCODE = 'datetime_field_overflow', DETAIL = format('The ids count from %s.', first);
  END IF;
  CASE kind
    WHEN 'uuidv7' THEN
      RETURN regexp_replace(lpad(to_hex(ms), 12, '0'), '^(.{8})(.{4})$', '\1-\2-7000-8000-000000000000');
    WHEN 'snowflake' THEN
      RETURN ms << 22;
    WHEN 'ulid' THEN
      number := ms; base := 32;
    WHEN 'runOpsId' THEN
      -- 48 bits in ten digits of five
      number := ms << 2; base := 32;
    WHEN 'ksuid' THEN
      -- seconds, and 16 bytes
      number := (ms / 1000) * 2::numeric ^ 128; base := 62;
    ELSE
      RAISE EXCEPTION 'unknown kind of id %', quote_literal(kind)
        USING ERRCODE = 'invalid_parameter_value', DETAIL = 'Kinds are runOpsId, ksuid, uuidv7, ulid and snowflake.';
  END CASE;
  FOR i IN 1 .. CASE base WHEN 62 THEN 27 ELSE 10 END LOOP
    digits := substr(alphabet, mod(number, base)::int + 1, 1) || digits;
    number := div(number, base);
  END LOOP;
  RETURN CASE kind WHEN 'ksuid' THEN digits
                   WHEN 'runOpsId' THEN lower(digits) || repeat('0', 16)
                   -- without I, L, O and U
                   ELSE translate(digits, 'IJKLMNOPQRSTUV', 'JKMNPQRSTVWXYZ') || repeat('0', 16) END;
END $$;
COMMENT ON FUNCTION run_ops.id_floor(text, timestamptz, timestamptz) IS
  'the lowest id of a kind that carries this time: kind is runOpsId, ksuid, uuidv7, ulid or snowflake; epoch is where snowflake ids begin to count, which differs between their makers';

CREATE FUNCTION run_ops.create_boundary_rule(rule text, id_type regtype, boundary text, store text DEFAULT 'new') RETURNS regprocedure
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  base pg_type;
  type text;
BEGIN
  IF rule IS NULL OR id_type IS NULL OR boundary IS NULL OR store IS NULL THEN
    RAISE EXCEPTION 'rule, id_type, boundary and store must not be NULL' USING ERRCODE = 'null_value_not_allowed';
  END IF;
  -- a store may lack a domain
  SELECT b.* INTO base FROM pg_type AS y JOIN pg_type AS b ON b.oid = CASE y.typtype WHEN 'd' THEN y.typbasetype ELSE y.oid END WHERE y.oid = id_type;
  type := format('%s.%I', base.typnamespace::regnamespace, base.typname);
  EXECUTE format('CREATE FUNCTION %s(id %s) RETURNS text IMMUTABLE STRICT PARALLEL SAFE '
                 'RETURN CASE WHEN id %s %L::%2$s THEN %5$L ELSE ''legacy'' END',
    (SELECT string_agg(quote_ident(p), '.' ORDER BY ord) FROM unnest(parse_ident(rule)) WITH ORDINALITY AS u (p, ord)),
    type,
    -- of texts the one that a store decides in the same way, whatever its collations
    CASE WHEN base.typcollation <> 0 THEN '~>=~' ELSE '>=' END, boundary, store);
  RETURN format('%s(%s)', rule, type)::regprocedure;
END $$;
COMMENT ON FUNCTION run_ops.create_boundary_rule(text, regtype, text, text) IS
  'creates a key rule, which is a function of this name with its schema: rows whose id is at least the boundary belong in the store, all others in legacy; texts are ordered by their bytes';

-- wire_stats: what happens on the wires of all sessions.

CREATE FUNCTION run_ops.wire_counters(OUT store text, OUT connections int8, OUT failures int8, OUT pauses int8,
    OUT answers int8, OUT answer_seconds float8, OUT up_to float8[], OUT answers_up_to int8[])
  RETURNS SETOF record
  LANGUAGE c
  AS 'MODULE_PATHNAME', 'run_ops_wire_counters';
COMMENT ON FUNCTION run_ops.wire_counters() IS
  'what all sessions of this database did on their connections to each store, since the server has started; no rows unless run_ops_split is in shared_preload_libraries';

CREATE FUNCTION run_ops.wire_error_counters(OUT store text, OUT sqlstate text, OUT errors int8)
  RETURNS SETOF record
  LANGUAGE c
  AS 'MODULE_PATHNAME', 'run_ops_wire_error_counters';
COMMENT ON FUNCTION run_ops.wire_error_counters() IS
  'how often each store has reported an error to a session of this database, since the server has started; no rows unless run_ops_split is in shared_preload_libraries';

CREATE FUNCTION run_ops.wire_waits(OUT pid int, OUT store text, OUT waits_for text, OUT since timestamptz)
  RETURNS SETOF record
  LANGUAGE c
  AS 'MODULE_PATHNAME', 'run_ops_wire_waits';
COMMENT ON FUNCTION run_ops.wire_waits() IS
  'what each session of this database has last waited for; pg_stat_activity says whether it waits now. No rows unless run_ops_split is in shared_preload_libraries';

-- wire: the connections of a session to stores.

CREATE FUNCTION run_ops.store_connections()
  RETURNS TABLE (store text, server name, role name, in_transaction boolean, pid integer)
  LANGUAGE c
  AS 'MODULE_PATHNAME', 'run_ops_store_connections';
COMMENT ON FUNCTION run_ops.store_connections() IS
  'the connections that this session has to stores, whether a transaction is open there, and the process that serves them, as the store or a pooler before it has announced it; postgres_fdw_get_connections() does not list them';

CREATE FUNCTION run_ops.disconnect_stores() RETURNS bigint
  LANGUAGE c
  AS 'MODULE_PATHNAME', 'run_ops_disconnect_stores';
COMMENT ON FUNCTION run_ops.disconnect_stores() IS
  'closes the connections that this session has to stores, except those that its transaction uses; returns how many it has closed';

-- ask_store: SQL that is run in a store for the extension itself.

CREATE FUNCTION run_ops.client_name() RETURNS text
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  context text;
  purpose text;
BEGIN
  -- the function of this schema that was called first is what it is all for
  GET DIAGNOSTICS context = PG_CONTEXT;
  purpose := (SELECT c.match[1] FROM regexp_matches(context, 'run_ops\.([a-z_]+)\(', 'g') WITH ORDINALITY AS c (match, ord)
               ORDER BY c.ord DESC LIMIT 1);
  RETURN format('run_ops_split %s %s %s', coalesce(nullif(purpose, 'client_name'), 'ask_store'), pg_backend_pid(), current_database());
END $$;
COMMENT ON FUNCTION run_ops.client_name() IS
  'the application_name of a connection to a store: the function that asks, and the process and database it asks from';

CREATE FUNCTION run_ops.ask_store(store text, query text, patience interval DEFAULT NULL) RETURNS SETOF jsonb
  LANGUAGE c
  AS 'MODULE_PATHNAME', 'run_ops_ask_store';
COMMENT ON FUNCTION run_ops.ask_store(text, text, interval) IS
  'rows of a query run in a store, outside the current transaction; an error when the store cannot be reached, or is silent for longer than patience (run_ops_split.store_timeout unless given; 0 waits without limit)';
REVOKE EXECUTE ON FUNCTION run_ops.ask_store(text, text, interval) FROM PUBLIC;

CREATE FUNCTION run_ops.ask_stores(stores text[], queries text[], patience interval DEFAULT NULL, tolerant boolean DEFAULT false)
  RETURNS TABLE (store text, answer jsonb, error text)
  LANGUAGE c
  AS 'MODULE_PATHNAME', 'run_ops_ask_stores';
COMMENT ON FUNCTION run_ops.ask_stores(text[], text[], interval, boolean) IS
  'rows of a query that is run in several stores at the same time, or of one query for each of them; with tolerant, a store that cannot answer has a row with the error, which otherwise is raised. patience as for ask_store().';
REVOKE EXECUTE ON FUNCTION run_ops.ask_stores(text[], text[], interval, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.ask_ahead(stores text[], queries text[], patience interval DEFAULT NULL) RETURNS void
  LANGUAGE c
  AS 'MODULE_PATHNAME', 'run_ops_ask_ahead';
COMMENT ON FUNCTION run_ops.ask_ahead(text[], text[], interval) IS
  'like ask_stores(), but keeps the answers until ask_store() asks the same; until the next call, ask_alike(''{}''), or the end of the transaction';
REVOKE EXECUTE ON FUNCTION run_ops.ask_ahead(text[], text[], interval) FROM PUBLIC;

CREATE FUNCTION run_ops.ask_alike(stores text[]) RETURNS void
  LANGUAGE c
  AS 'MODULE_PATHNAME', 'run_ops_ask_alike';
COMMENT ON FUNCTION run_ops.ask_alike(text[]) IS
  'for loops that ask one store after the other the same: from now on ask_store() sends a question also to those of these stores that come later, and keeps their answers for them; until the end of the transaction, or a call without stores';
REVOKE EXECUTE ON FUNCTION run_ops.ask_alike(text[]) FROM PUBLIC;

CREATE FUNCTION run_ops.tell_store(store text, commands text) RETURNS void
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_tell_store';
COMMENT ON FUNCTION run_ops.tell_store(text, text) IS
  'runs commands in a store, in a transaction of their own that is on disk there when this returns';
REVOKE EXECUTE ON FUNCTION run_ops.tell_store(text, text) FROM PUBLIC;

CREATE FUNCTION run_ops.try_lock_held_there(store text, key bigint) RETURNS boolean
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_try_lock_held_there';
COMMENT ON FUNCTION run_ops.try_lock_held_there(text, bigint) IS
  'takes an advisory lock in the store and tries the same one here: true means that the store is another database';
REVOKE EXECUTE ON FUNCTION run_ops.try_lock_held_there(text, bigint) FROM PUBLIC;

-- atomic_commit: transactions that write to several databases and commit in all
-- of them or in none.

CREATE FUNCTION run_ops.prepared_outcome(name text) RETURNS text
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_prepared_outcome';
COMMENT ON FUNCTION run_ops.prepared_outcome(text) IS
  'what this database knows of the transaction under whose name a store has prepared its part: "committed", "rolled back", "in progress", or "undecided: " and why';
REVOKE EXECUTE ON FUNCTION run_ops.prepared_outcome(text) FROM PUBLIC;

-- resolve_prepared: finishes what atomic commits have left in a store.

CREATE FUNCTION run_ops.resolve_prepared(server name, role oid)
  RETURNS TABLE (name text, prepared_since timestamptz, outcome text)
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_resolve_prepared';
COMMENT ON FUNCTION run_ops.resolve_prepared(name, oid) IS
  'finishes the prepared transactions of this extension in the database of a server that the user of a role''s user mapping may finish; one row for each. Does not check whether this database is a copy.';
REVOKE EXECUTE ON FUNCTION run_ops.resolve_prepared(name, oid) FROM PUBLIC;

-- read_gate: whether the views show the rows of all stores, and whether this
-- server may use the stores.
--
-- The state is one row.  pg_dump does not dump it: the facts in it were checked
-- for this database only, so a restored copy starts with split off.

CREATE FUNCTION run_ops.server_identity() RETURNS text
  LANGUAGE c STABLE PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_server_identity';
COMMENT ON FUNCTION run_ops.server_identity() IS
  'identifies this server and database and distinguishes them from every copy: system identifier, database, host and data directory';

CREATE FUNCTION run_ops.setting(name text) RETURNS text
  LANGUAGE c STABLE STRICT
  AS 'MODULE_PATHNAME', 'run_ops_setting';
COMMENT ON FUNCTION run_ops.setting(text) IS
  'the value of setting run_ops_split.<name>; loads the library if the session has not loaded it yet';

CREATE TABLE run_ops.split_state (
  singleton       boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  enabled         boolean NOT NULL DEFAULT false,
  identities      text[] NOT NULL DEFAULT '{}',
  opted_in        boolean NOT NULL DEFAULT false,
  native_realtime boolean NOT NULL DEFAULT false,
  superseded      boolean NOT NULL DEFAULT false,
  moving          boolean NOT NULL DEFAULT false,
  changed_at      timestamptz,
  CHECK (NOT (enabled AND (superseded OR moving)))
);
COMMENT ON TABLE run_ops.split_state IS
  'the state of split mode in this database. pg_dump does not dump it, so a restored copy starts with split off.';
COMMENT ON COLUMN run_ops.split_state.singleton IS 'always true: the table has one row';
COMMENT ON COLUMN run_ops.split_state.enabled IS 'whether split mode is on, on the servers listed in identities';
COMMENT ON COLUMN run_ops.split_state.identities IS
  'the servers that may use the stores: the one on which the first store was attached or split was enabled, and trusted standbys';
COMMENT ON COLUMN run_ops.split_state.opted_in IS 'whether the operator has opted in to split mode; until then check_split() does not contact a store';
COMMENT ON COLUMN run_ops.split_state.native_realtime IS
  'whether realtime readers see the rows of every store, as declared by the operator';
COMMENT ON COLUMN run_ops.split_state.superseded IS
  'whether this database has every row while split is off, and the stores have older versions';
COMMENT ON COLUMN run_ops.split_state.moving IS
  'whether run_ops.move_strays() moves local rows to stores that have other rows, after split was disabled with force; of a row that both have, the local version is the newer one';
COMMENT ON COLUMN run_ops.split_state.changed_at IS 'when split mode was last switched on or off';
INSERT INTO run_ops.split_state DEFAULT VALUES;
GRANT SELECT ON run_ops.split_state TO PUBLIC;

CREATE FUNCTION run_ops.split_enabled() RETURNS boolean
  LANGUAGE c STABLE PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_split_enabled';
COMMENT ON FUNCTION run_ops.split_enabled() IS
  'whether split mode is on in this database; false in a copy of the database';

CREATE FUNCTION run_ops.refuse_in_copy() RETURNS void
  LANGUAGE c STABLE
  AS 'MODULE_PATHNAME', 'run_ops_refuse_in_copy';
COMMENT ON FUNCTION run_ops.refuse_in_copy() IS
  'raises an error if this is a copy of the database in which the stores were attached';

-- stores: the databases that hold run-ops rows, and the tables that are reached
-- through one view.  An operator configures both, so pg_dump dumps them.
-- Relations are stored as regclass, so that a renamed relation is still found
-- and is dumped by its name.

CREATE TABLE run_ops.store (
  -- run_ops_NAME is the schema of its foreign tables
  name   text PRIMARY KEY CHECK (name OPERATOR(pg_catalog.~) '^[a-z0-9][a-z0-9_]{0,29}$' AND name OPERATOR(pg_catalog.!~) '^(leftovers|changes|repatriated)$'),
  server name UNIQUE,
  CHECK ((name OPERATOR(pg_catalog.=) 'legacy') OPERATOR(pg_catalog.=) (server IS NULL))
);
COMMENT ON TABLE run_ops.store IS
  'the databases that hold run-ops rows: legacy is this database, the others are foreign servers. Ids name new and the shards a-z, 0-9; key rules name any store.';
COMMENT ON COLUMN run_ops.store.name IS 'the name of the store in all functions and views';
COMMENT ON COLUMN run_ops.store.server IS 'the foreign server of the store; NULL for legacy';
INSERT INTO run_ops.store VALUES ('legacy', NULL);

CREATE FUNCTION run_ops.is_relation(relation oid, kinds "char"[]) RETURNS boolean
  LANGUAGE sql STABLE
  RETURN EXISTS (SELECT FROM pg_catalog.pg_class AS c
                  WHERE c.oid OPERATOR(pg_catalog.=) relation AND c.relkind OPERATOR(pg_catalog.=) ANY (kinds));
COMMENT ON FUNCTION run_ops.is_relation(oid, "char"[]) IS 'whether a relation exists and is of one of these kinds, as in pg_class.relkind';

CREATE TYPE run_ops.routing AS ENUM ('shape', 'anchor', 'store');
COMMENT ON TYPE run_ops.routing IS
  'how the store of a row is found: shape = by the id of the row, anchor = by a column with the id of the row it belongs to, store = no id decides, and the row stays where it was inserted';

CREATE TABLE run_ops.routed_table (
  view           regclass PRIMARY KEY,
  legacy         regclass NOT NULL UNIQUE,
  routing        run_ops.routing NOT NULL,
  route_column   name CHECK ((routing OPERATOR(pg_catalog.=) 'store') OPERATOR(pg_catalog.=) (route_column IS NULL)),
  key_columns    name[] NOT NULL,
  store_schema   name NOT NULL,
  store_table    name NOT NULL,
  column_names   jsonb NOT NULL,
  store_defaults jsonb NOT NULL,
  view_name      text NOT NULL,
  same_shape     name CHECK (same_shape OPERATOR(pg_catalog.<>) route_column),
  key_rule       text CHECK (key_rule IS NULL OR (route_column IS NOT NULL AND same_shape IS NULL))
);
COMMENT ON TABLE run_ops.routed_table IS
  'the tables that exist in every store and are reached through one view';
COMMENT ON COLUMN run_ops.routed_table.view IS 'the view that the application queries';
COMMENT ON COLUMN run_ops.routed_table.view_name IS 'the name of the view, with its schema, when the extension last created it, or when it was dropped';
COMMENT ON COLUMN run_ops.routed_table.legacy IS 'the table in this database';
COMMENT ON COLUMN run_ops.routed_table.routing IS 'how the store of a row is found';
COMMENT ON COLUMN run_ops.routed_table.route_column IS
  'the column with the id that decides the store; a row with NULL or an unclassifiable id belongs to legacy';
COMMENT ON COLUMN run_ops.routed_table.key_columns IS 'the columns that identify a row in every store';
COMMENT ON COLUMN run_ops.routed_table.store_schema IS 'the schema of the table in the stores';
COMMENT ON COLUMN run_ops.routed_table.store_table IS 'the name of the table in the stores';
COMMENT ON COLUMN run_ops.routed_table.column_names IS
  'the columns that have another name in the stores: {local name: name in the store}';
COMMENT ON COLUMN run_ops.routed_table.store_defaults IS
  'the columns that only the stores have: {name in the store: SQL expression for the value}';
COMMENT ON COLUMN run_ops.routed_table.same_shape IS
  'another column whose values have the shape of the id in route_column, so that a lookup by it queries one store; NULL if none is declared';

COMMENT ON COLUMN run_ops.routed_table.key_rule IS
  'the SQL expression that names the store of a row, with $1 for route_column; NULL: the shape of the id names it';

-- No table that pg_dump dumps has a foreign key to another one: pg_restore -j
-- restores their data in any order.
CREATE TABLE run_ops.routed_store (
  view          regclass,
  store         text,
  foreign_table regclass NOT NULL UNIQUE,
  PRIMARY KEY (view, store)
);
COMMENT ON TABLE run_ops.routed_store IS 'the foreign table of a routed table in each store except legacy';
COMMENT ON COLUMN run_ops.routed_store.view IS 'the routed table';
COMMENT ON COLUMN run_ops.routed_store.store IS 'the store';
COMMENT ON COLUMN run_ops.routed_store.foreign_table IS 'the foreign table, in schema run_ops_<store>';

SELECT pg_catalog.pg_extension_config_dump('run_ops.store', 'WHERE name <> ''legacy''');
-- An OID whose relation was dropped could be that of another relation after a
-- restore.
SELECT pg_catalog.pg_extension_config_dump('run_ops.routed_table', 'WHERE run_ops.is_relation(view, ''{v}'') AND run_ops.is_relation(legacy, ''{r,p}'')');
SELECT pg_catalog.pg_extension_config_dump('run_ops.routed_store', 'WHERE run_ops.is_relation(view, ''{v}'') AND run_ops.is_relation(foreign_table, ''{f}'')');
GRANT SELECT ON run_ops.store, run_ops.routed_table, run_ops.routed_store TO PUBLIC;

CREATE FUNCTION run_ops.routed(relation regclass) RETURNS run_ops.routed_table
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  found_table run_ops.routed_table;
BEGIN
  SELECT * INTO found_table FROM run_ops.routed_table AS t
   WHERE relation IN (t.view, t.legacy);
  IF NOT FOUND THEN
    RAISE EXCEPTION '% is not a routed table', coalesce(relation::text, 'NULL')
      USING ERRCODE = 'undefined_object',
            HINT = 'run_ops.routed_table lists the views. run_ops.attach_table() creates one.';
  END IF;
  RETURN found_table;
END $$;
COMMENT ON FUNCTION run_ops.routed(regclass) IS
  'the row of run_ops.routed_table for a view or for a local table; raises an error if there is none';

-- The rule of a routed table, as SQL ----------------------------------------------

CREATE FUNCTION run_ops.column_type(relation regclass, column_name name) RETURNS regtype
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT a.atttypid FROM pg_attribute AS a WHERE a.attrelid = relation AND a.attname = column_name AND a.attnum > 0
$$;
COMMENT ON FUNCTION run_ops.column_type(regclass, name) IS 'the type of a column; NULL if the relation has no such column';

CREATE FUNCTION run_ops.names_store(t run_ops.routed_table, id text) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT CASE WHEN t.key_rule IS NULL THEN format('run_ops.resolve_shard(%s)', id)
              ELSE format('(%s)', replace(t.key_rule, '$1', id)) END
$$;
COMMENT ON FUNCTION run_ops.names_store(run_ops.routed_table, text) IS
  'an SQL expression: the name of the store of a row of this table; id is an SQL expression with the value of route_column; NULL means legacy';

CREATE FUNCTION run_ops.in_store(t run_ops.routed_table, id text, store text) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT CASE WHEN t.key_rule IS NULL THEN format('run_ops.resides(%s, %L)', id, store)
              ELSE format('(%s)', run_ops.rule_condition(t.key_rule, run_ops.column_type(t.legacy, t.route_column), id, store)) END
$$;
COMMENT ON FUNCTION run_ops.in_store(run_ops.routed_table, text, text) IS
  'an SQL condition for this database: a row of this table belongs in the store; id is an SQL expression with the value of route_column';

CREATE FUNCTION run_ops.in_store_there(t run_ops.routed_table, id text, store text) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT CASE WHEN t.key_rule IS NULL THEN coalesce(run_ops.residency_condition(id, store), 'false') ELSE run_ops.in_store(t, id, store) END
$$;
COMMENT ON FUNCTION run_ops.in_store_there(run_ops.routed_table, text, text) IS
  'the condition of run_ops.in_store() for a store, which need not have this extension';

CREATE FUNCTION run_ops.store_of(t run_ops.routed_table, id text) RETURNS text
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  result text;
BEGIN
  IF t.key_rule IS NULL THEN
    RETURN run_ops.resolve_shard(id);
  END IF;
  EXECUTE format('SELECT coalesce(%s, ''legacy'')',
                 run_ops.names_store(t, format('%L::%s', id, run_ops.column_type(t.legacy, t.route_column)))) INTO result;
  RETURN result;
END $$;
COMMENT ON FUNCTION run_ops.store_of(run_ops.routed_table, text) IS
  'the name of the store of a row of this table with this value of route_column, as text';

-- Attaching and detaching ------------------------------------------------------

CREATE FUNCTION run_ops.lock_registry() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF pg_is_in_recovery() THEN
    RAISE EXCEPTION 'cannot change stores, tables or split mode during recovery'
      USING ERRCODE = 'read_only_sql_transaction', DETAIL = 'This server is a standby.',
            HINT = (SELECT g.hint FROM run_ops.server_gates() AS g WHERE g.gate = 'server');
  END IF;
  LOCK TABLE run_ops.store, run_ops.routed_table, run_ops.routed_store IN SHARE ROW EXCLUSIVE MODE;
END $$;
COMMENT ON FUNCTION run_ops.lock_registry() IS
  'lets only one session at a time change stores and routed tables; does not block reads';

CREATE FUNCTION run_ops.in_attempts(command text, most int DEFAULT run_ops.setting('swap_attempts')::pg_catalog.int4, OUT attempts int, OUT seconds numeric)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  old_lock_timeout     text := current_setting('lock_timeout');
  old_deadlock_timeout text := current_setting('deadlock_timeout');
  since timestamptz;
BEGIN
  PERFORM set_config('lock_timeout', run_ops.setting('swap_lock_timeout'), true),
  -- Shorter than lock_timeout, so that this session and not a client detects a
  -- deadlock, and so that an autovacuum worker that blocks it is cancelled.
          set_config('deadlock_timeout', '10ms', true);
  FOR attempt IN 1..most LOOP
    BEGIN
      since := clock_timestamp();
      EXECUTE command;
      attempts := attempt;
      seconds := extract(epoch FROM clock_timestamp() - since);
      EXIT;
    EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
      IF attempt = most THEN
        RAISE EXCEPTION 'could not lock the views in % attempts', most
          USING ERRCODE = 'lock_not_available', DETAIL = SQLERRM,
                HINT = 'A long transaction is using one of the tables. Try again later, or raise run_ops_split.swap_lock_timeout or run_ops_split.swap_attempts.';
      END IF;
      -- the queries that waited for this attempt proceed
      PERFORM pg_sleep(random() * 0.1);
    END;
  END LOOP;
  PERFORM set_config('lock_timeout', old_lock_timeout, true),
          set_config('deadlock_timeout', old_deadlock_timeout, true);
END $$;
COMMENT ON FUNCTION run_ops.in_attempts(text, int) IS
  'runs a command that locks views, in several attempts: each waits only run_ops_split.swap_lock_timeout for its locks, and waiting queries proceed between the attempts. Returns the number of attempts and the duration of the last one in seconds.';
REVOKE EXECUTE ON FUNCTION run_ops.in_attempts(text, int) FROM PUBLIC;

CREATE FUNCTION run_ops.foreign_schema(store text) RETURNS name
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  RETURN ('run_ops_' OPERATOR(pg_catalog.||) store)::pg_catalog.name;
COMMENT ON FUNCTION run_ops.foreign_schema(text) IS 'the local schema with the foreign tables of a store';

CREATE FUNCTION run_ops.make_own_schema(schema name) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_namespace AS n WHERE n.nspname = schema) THEN
    EXECUTE format('CREATE SCHEMA %I', schema);
  END IF;
  -- An old schema may exist, because DROP EXTENSION does not drop it.  Default
  -- privileges may let others create objects in a new one.
  PERFORM run_ops.refuse_strangers(schema);
END $$;
COMMENT ON FUNCTION run_ops.make_own_schema(name) IS
  'creates a schema for objects of the extension if it does not exist; raises an error if another role owns it or an object in it, or may create objects in it';
REVOKE EXECUTE ON FUNCTION run_ops.make_own_schema(name) FROM PUBLIC;

CREATE FUNCTION run_ops.prepares_at_most(store text) RETURNS int
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT (a ->> 'n')::int
    FROM run_ops.ask_store(store, 'SELECT current_setting(''max_prepared_transactions'') AS n') AS a
$$;
COMMENT ON FUNCTION run_ops.prepares_at_most(text) IS 'max_prepared_transactions of a store';
REVOKE EXECUTE ON FUNCTION run_ops.prepares_at_most(text) FROM PUBLIC;

CREATE FUNCTION run_ops.altering_server(store text, options jsonb) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format('ALTER SERVER %I OPTIONS (%s);', s.server,
                string_agg(format('%s %s %L', CASE WHEN o.option_name IS NULL THEN 'ADD' ELSE 'SET' END, w.key, w.value), ', ' ORDER BY w.key DESC))
    FROM run_ops.store AS s JOIN pg_foreign_server AS f ON f.srvname = s.server, jsonb_each_text(options) AS w
    LEFT JOIN pg_options_to_table(f.srvoptions) AS o ON o.option_name = w.key
   WHERE s.name = altering_server.store
   GROUP BY s.server
$$;
COMMENT ON FUNCTION run_ops.altering_server(text, jsonb) IS
  'the statement that sets options of the server of a store, whether it has them or not';

CREATE FUNCTION run_ops.altering_mapping(store text, options jsonb) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format('%s USER MAPPING FOR %s SERVER %I OPTIONS (%s);', CASE WHEN m.umid IS NULL THEN 'CREATE' ELSE 'ALTER' END,
                CASE m.usename WHEN 'public' THEN 'PUBLIC' ELSE quote_ident(coalesce(m.usename, current_user)) END, s.server,
                string_agg(concat_ws(' ', CASE WHEN m.umid IS NOT NULL THEN CASE WHEN o.option_name IS NULL THEN 'ADD' ELSE 'SET' END END,
                                     w.key, quote_literal(w.value)), ', ' ORDER BY w.key DESC))
    FROM run_ops.store AS s
    LEFT JOIN LATERAL (SELECT * FROM pg_user_mappings AS u WHERE u.srvname = s.server AND u.usename IN (current_user, 'public')
                        ORDER BY u.usename = 'public' LIMIT 1) AS m ON true,
         jsonb_each_text(options) AS w
    LEFT JOIN pg_options_to_table(m.umoptions) AS o ON o.option_name = w.key
   WHERE s.name = altering_mapping.store
   GROUP BY s.server, m.umid, m.usename
$$;
COMMENT ON FUNCTION run_ops.altering_mapping(text, jsonb) IS
  'the statement that sets options of the user mapping by which the current user reaches a store, whether it has them or not; creates it if there is none';

CREATE FUNCTION run_ops.replacing_server(store text) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format('Create a server of run_ops_fdw in its place: ALTER SERVER %1$I RENAME TO %2$I; CREATE SERVER %1$I FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (%3$s); %4$s', s.server,
                left(s.server, 50) || '_replaced',
                (SELECT string_agg(format('%I %L', o.option_name, o.option_value), ', ') FROM pg_options_to_table(f.srvoptions) AS o
                  WHERE o.option_name NOT IN ('use_remote_estimate', 'async_capable')),
                concat_ws(' ',
                  (SELECT string_agg(format('CREATE USER MAPPING FOR %s SERVER %I%s;', CASE m.usename WHEN 'public' THEN 'PUBLIC' ELSE quote_ident(m.usename) END, m.srvname, o.options),
                                     ' ' ORDER BY m.usename)
                     FROM pg_user_mappings AS m,
                          LATERAL (SELECT format(' OPTIONS (%s)', string_agg(format('%I %L', o.option_name,
                                            CASE WHEN o.option_name LIKE '%password' THEN '...' ELSE o.option_value END), ', '))
                                     FROM pg_options_to_table(m.umoptions) AS o HAVING count(*) > 0
                                   UNION ALL SELECT '' WHERE m.umoptions IS NULL) AS o (options)
                    WHERE m.srvid = f.oid),
                  'SELECT run_ops.refresh_table(t.legacy) FROM run_ops.routed_table AS t;'))
    FROM run_ops.store AS s JOIN pg_foreign_server AS f ON f.srvname = s.server JOIN pg_foreign_data_wrapper AS w ON w.oid = f.srvfdw
   WHERE s.name = replacing_server.store AND w.fdwname <> 'run_ops_fdw'
$$;
COMMENT ON FUNCTION run_ops.replacing_server(text) IS
  'SQL that puts a server of run_ops_fdw in the place of a store''s server of another wrapper, with its options and user mappings but their passwords; NULL if it is one';

CREATE FUNCTION run_ops.attach_store(name text, server name) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  wrapper name;
  stranger name;
BEGIN
  IF name IS NULL OR name !~ '^[a-z0-9][a-z0-9_]{0,29}$' OR name ~ '^(legacy|leftovers|changes|repatriated)$' THEN
    RAISE EXCEPTION 'invalid store name %', coalesce(quote_ident(name), 'NULL')
      USING ERRCODE = 'invalid_parameter_value',
            DETAIL = 'The name of a store consists of up to 30 characters of [a-z0-9_]. Ids name "new" and shards of one character, key rules any store. "legacy" is this database; leftovers, changes and repatriated are reserved.';
  END IF;
  PERFORM run_ops.lock_registry();
  PERFORM run_ops.refuse_incomplete();
  IF EXISTS (SELECT FROM run_ops.store AS s WHERE s.name = name) THEN
    RAISE EXCEPTION 'store "%" is already attached', name
      USING ERRCODE = 'duplicate_object', HINT = format('To detach it: SELECT run_ops.detach_store(%L);', name);
  END IF;
  IF EXISTS (SELECT FROM run_ops.store AS s WHERE s.server = server) THEN
    RAISE EXCEPTION 'server "%" is already attached as store "%"', server,
        (SELECT s.name FROM run_ops.store AS s WHERE s.server = server)
      USING ERRCODE = 'duplicate_object',
            DETAIL = 'Each store must be a separate database. Otherwise the views would show its rows twice.';
  END IF;
  SELECT w.fdwname INTO wrapper
    FROM pg_foreign_server AS f JOIN pg_foreign_data_wrapper AS w ON w.oid = f.srvfdw
   WHERE f.srvname = server;
  IF wrapper IS NULL THEN
    RAISE EXCEPTION 'server % does not exist', coalesce(quote_ident(server), 'NULL')
      USING ERRCODE = 'undefined_object',
            HINT = format('CREATE SERVER %s FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host ''...'', dbname ''...'');',
                          coalesce(quote_ident(server), '...'));
  END IF;
  IF wrapper <> 'run_ops_fdw' THEN
    RAISE EXCEPTION 'server "%" uses foreign-data wrapper "%"', server, wrapper
      USING ERRCODE = 'wrong_object_type',
            HINT = format('Drop the server, and create it again: CREATE SERVER %I FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (...). It takes the options of postgres_fdw.', server);
  END IF;
  SELECT r.rolname INTO stranger
    FROM pg_foreign_server AS f JOIN pg_roles AS r ON r.oid = f.srvowner
   WHERE f.srvname = server AND NOT r.rolsuper AND r.rolname <> current_user
     AND r.oid <> (SELECT e.extowner FROM pg_extension AS e WHERE e.extname = 'run_ops_split');
  IF FOUND THEN
    RAISE EXCEPTION 'server "%" is owned by role "%"', server, stranger
      USING ERRCODE = 'insufficient_privilege',
            DETAIL = 'Its owner could lead the connections that are made with your user mapping, and their passwords, to another server.',
            HINT = format('ALTER SERVER %I OWNER TO %I;', server, current_user);
  END IF;
  IF NOT EXISTS (SELECT FROM pg_user_mappings AS m
                  WHERE m.srvname = server AND m.usename IN (current_user, 'public')) THEN
    RAISE EXCEPTION 'role "%" has no user mapping for server "%"', current_user, server
      USING ERRCODE = 'undefined_object',
            DETAIL = 'The views access the store with the user mapping of the role that attaches it.',
            HINT = format('CREATE USER MAPPING FOR %I SERVER %I OPTIONS (user ''...'', password ''...'');',
                          current_user, server);
  END IF;

  IF NOT EXISTS (SELECT FROM run_ops.store AS s WHERE s.server IS NOT NULL) THEN
    PERFORM run_ops.bind_server();
  END IF;
  INSERT INTO run_ops.store VALUES (name, server);
  PERFORM run_ops.refuse_differences(format('store "%s" does not match this database', name),
    ARRAY(SELECT run_ops.database_differences(name)));
  IF run_ops.setting('cross_store_writes') = 'atomic' AND run_ops.prepares_at_most(name) = 0 THEN
    RAISE NOTICE 'store "%" cannot prepare transactions', name
      USING DETAIL = 'With run_ops_split.cross_store_writes = atomic, a transaction that writes there and in another database will fail.',
            HINT = 'Set max_prepared_transactions of the store, as many as its max_connections, and restart it.';
  END IF;
  PERFORM run_ops.make_own_schema(run_ops.foreign_schema(name));
  PERFORM run_ops.import_table(name, t) FROM run_ops.routed_table AS t;
  -- before the views are locked, because this asks the store
  PERFORM run_ops.refuse_unfit_store(name) WHERE run_ops.split_enabled();
  -- writers are kept out first, as by the switch: each of them would use several
  -- views, and be in a deadlock with this
  PERFORM run_ops.in_attempts('SELECT run_ops.block_writes(); '
    'SELECT run_ops.build_view(t, run_ops.split_enabled()) FROM run_ops.routed_table AS t ORDER BY t.view');
END $$;
COMMENT ON FUNCTION run_ops.attach_store(text, name) IS
  'registers a foreign server as store "new", as a shard, or as another store that key rules name, and compares encoding and collation first. The caller needs a user mapping for the server. While split is on, the gates of the store must hold.';
REVOKE EXECUTE ON FUNCTION run_ops.attach_store(text, name) FROM PUBLIC;

CREATE FUNCTION run_ops.refuse_while_split(doing text) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF run_ops.split_enabled() THEN
    RAISE EXCEPTION 'cannot % while split is on', doing
      USING ERRCODE = 'object_in_use',
            DETAIL = 'The rows of the stores would disappear from the views.',
            HINT = 'Switch split off first, with run_ops.disable_split().';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_while_split(text) IS 'raises an error if split is on; the argument completes "cannot ..."';

CREATE FUNCTION run_ops.detach_store(name text) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  foreign_table regclass;
BEGIN
  PERFORM run_ops.lock_registry();
  IF NOT EXISTS (SELECT FROM run_ops.store AS s WHERE s.name = name AND s.server IS NOT NULL) THEN
    RAISE EXCEPTION 'store % is not attached', coalesce(quote_ident(name), 'NULL')
      USING ERRCODE = 'undefined_object', HINT = 'SELECT name FROM run_ops.store WHERE server IS NOT NULL;';
  END IF;
  PERFORM run_ops.refuse_while_split(format('detach store "%s"', name));
  PERFORM run_ops.refuse_mint_shard(name);
  PERFORM run_ops.refuse_leftovers();  -- exist with split off only in a copy
  PERFORM run_ops.stop_tracking();
  FOR foreign_table IN
    DELETE FROM run_ops.routed_store AS r WHERE r.store = name RETURNING r.foreign_table
  LOOP
    IF run_ops.is_relation(foreign_table, '{f}') THEN
      EXECUTE format('DROP FOREIGN TABLE %s', foreign_table);
    END IF;
  END LOOP;
  EXECUTE format('DROP SCHEMA IF EXISTS %I', run_ops.foreign_schema(name));
  DELETE FROM run_ops.leftover AS l WHERE l.store = name;
  DELETE FROM run_ops.store AS s WHERE s.name = name;
END $$;
COMMENT ON FUNCTION run_ops.detach_store(text) IS
  'removes a store from the registry and drops its foreign tables, but does not change the store itself. Raises an error while split is on.';
REVOKE EXECUTE ON FUNCTION run_ops.detach_store(text) FROM PUBLIC;

-- read_replica: what is known of a replica of a store, which the server option
-- read_from names.

CREATE FUNCTION run_ops.replica_of(store text) RETURNS name
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT o.option_value FROM run_ops.store AS s JOIN pg_foreign_server AS f ON f.srvname = s.server, pg_options_to_table(f.srvoptions) AS o
   WHERE s.name = replica_of.store AND o.option_name = 'read_from'
$$;
COMMENT ON FUNCTION run_ops.replica_of(text) IS 'the foreign server of the replica of a store; NULL if it has none';

CREATE FUNCTION run_ops.replica_state(server name, OUT lag_ms float8, OUT system_identifier text, OUT database text)
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_replica_state';
COMMENT ON FUNCTION run_ops.replica_state(name) IS
  'how far a replica lags behind, in milliseconds, and of which server it is a copy; lag_ms is NULL if the server is not a standby';
REVOKE EXECUTE ON FUNCTION run_ops.replica_state(name) FROM PUBLIC;

-- both_sides: comparing this database and its tables with their copies in a
-- store.

-- What must be equal on both sides --------------------------------------------
-- One query describes a database, another one a table.  The same query runs in
-- this database and in the store, with the same search_path, and the results
-- are compared as text.

CREATE FUNCTION run_ops.database_facts_query() RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  -- to_jsonb(), because some columns do not exist in all PostgreSQL versions
  SELECT $q$
    SELECT f.aspect, ''::text AS name, lower(replace(f.fact, '-', '')) AS fact
      FROM pg_database AS db, to_jsonb(db) AS d,
           LATERAL (VALUES
             ('encoding', pg_encoding_to_char(db.encoding)::text),
             ('collation', d ->> 'datcollate'),
             ('character type', d ->> 'datctype'),
             ('locale provider', coalesce(d ->> 'datlocprovider', 'c')),
             ('locale', coalesce(d ->> 'datlocale', d ->> 'daticulocale')),
             ('collation rules', d ->> 'daticurules')) AS f (aspect, fact)
     WHERE db.datname = current_database() AND f.fact IS NOT NULL
  $q$
$$;
COMMENT ON FUNCTION run_ops.database_facts_query() IS
  'a query for the properties that must be equal in both databases: rows of (aspect, name, fact)';

CREATE FUNCTION run_ops.table_facts_query(table_schema name, table_name name, local_names jsonb)
  RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format($q$
    WITH col AS (
      SELECT a.*, coalesce(%3$L::jsonb ->> a.attname::text, a.attname::text) AS local_name
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        JOIN pg_attribute AS a ON a.attrelid = c.oid
       WHERE n.nspname = %1$L AND c.relname = %2$L AND c.relkind IN ('r', 'p')
         AND a.attnum > 0 AND NOT a.attisdropped)
    SELECT 'column' AS aspect, local_name AS name,
           concat_ws(' ', format_type(atttypid, atttypmod),
             CASE WHEN attcollation <> t.typcollation THEN 'COLLATE ' || attcollation::regcollation END,
             CASE WHEN attnotnull THEN 'NOT NULL' END,
             CASE WHEN attgenerated <> '' THEN 'GENERATED AS' WHEN d.adbin IS NOT NULL THEN 'DEFAULT' END,
             pg_get_expr(d.adbin, d.adrelid),
             CASE WHEN attidentity <> '' THEN 'IDENTITY' END) AS fact
      FROM col JOIN pg_type AS t ON t.oid = atttypid
      LEFT JOIN pg_attrdef AS d ON d.adrelid = attrelid AND d.adnum = attnum
    UNION ALL
    SELECT DISTINCT 'label of ' || format_type(e.enumtypid, NULL), quote_literal(e.enumlabel), 'present'
      FROM col JOIN pg_type AS t ON t.oid = atttypid
      JOIN pg_enum AS e ON e.enumtypid IN (t.oid, t.typelem)
    UNION ALL
    SELECT DISTINCT 'unique key', k.columns, 'present'
      FROM pg_index AS i, LATERAL (
             SELECT string_agg(quote_ident(local_name), ', ' ORDER BY local_name) AS columns,
                    bool_and(attnotnull) AS all_not_null, count(*) AS n
               FROM col WHERE attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])) AS k
     WHERE i.indrelid = (SELECT DISTINCT attrelid FROM col)
       AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL
       AND k.all_not_null AND k.n = i.indnkeyatts
  $q$, table_schema, table_name, local_names)
$$;
COMMENT ON FUNCTION run_ops.table_facts_query(name, name, jsonb) IS
  'a query for the properties that must be equal in both copies of a table: rows of (aspect, name, fact). local_names maps column names in the store to local ones.';

CREATE FUNCTION run_ops.differences(store text, legacy_query text, store_query text)
  RETURNS TABLE (aspect text, name text, legacy_fact text, store_fact text)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RETURN QUERY EXECUTE format($q$
    SELECT aspect, name, l.fact, s.fact
      FROM (%s) AS l
      FULL JOIN (SELECT f.aspect, f.name, f.fact
                   FROM run_ops.ask_store($1, $2) AS j,
                        jsonb_to_record(j) AS f (aspect text, name text, fact text)) AS s
     USING (aspect, name)
     WHERE l.fact IS DISTINCT FROM s.fact
     ORDER BY aspect, name $q$, legacy_query) USING store, store_query;
END $$;
COMMENT ON FUNCTION run_ops.differences(text, text, text) IS
  'runs one query in this database and one in a store, and returns the facts that are not equal';
REVOKE EXECUTE ON FUNCTION run_ops.differences(text, text, text) FROM PUBLIC;

CREATE FUNCTION run_ops.difference_text(store text, aspect text, name text, legacy_fact text, store_fact text)
  RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  RETURN pg_catalog.format('%s: %s in legacy, %s in store "%s"',
    pg_catalog.concat_ws(' ', aspect, nullif(name, '')),
    coalesce(legacy_fact, 'missing'), coalesce(store_fact, 'missing'), store);
COMMENT ON FUNCTION run_ops.difference_text(text, text, text, text, text) IS
  'describes one row of run_ops.differences() as text';

CREATE FUNCTION run_ops.database_differences(store text) RETURNS SETOF text
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT run_ops.difference_text(store, d.aspect, d.name, d.legacy_fact, d.store_fact)
    FROM run_ops.differences(store, run_ops.database_facts_query(),
                             run_ops.database_facts_query()) AS d
$$;
COMMENT ON FUNCTION run_ops.database_differences(text) IS
  'what differs between this database and a store. Encoding and collation must be equal; otherwise sorted results of both would be merged in the wrong order.';
REVOKE EXECUTE ON FUNCTION run_ops.database_differences(text) FROM PUBLIC;

CREATE FUNCTION run_ops.key_name(t run_ops.routed_table) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT string_agg(quote_ident(k), ', ' ORDER BY k::text) FROM unnest(t.key_columns) AS k
$$;
COMMENT ON FUNCTION run_ops.key_name(run_ops.routed_table) IS 'the key of a routed table, as run_ops.table_facts_query() names unique keys';

CREATE FUNCTION run_ops.table_differences(store text, t run_ops.routed_table) RETURNS SETOF text
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  legacy_query text := (SELECT run_ops.table_facts_query(n.nspname, c.relname, '{}')
                          FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                         WHERE c.oid = t.legacy);
  store_query  text := run_ops.table_facts_query(t.store_schema, t.store_table,
    (SELECT coalesce(jsonb_object_agg(value, key), '{}') FROM jsonb_each_text(t.column_names)));
BEGIN
  IF NOT EXISTS (SELECT FROM run_ops.ask_store(store, store_query)) THEN
    RETURN NEXT format('table %I.%I: ', t.store_schema, t.store_table) || coalesce(
      (SELECT format('is not a table in store "%s", but a %s', store, a ->> 'kind')
         FROM run_ops.ask_store(store, format($q$SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' ELSE c.relkind::text END AS kind
                                                   FROM pg_class AS c WHERE c.oid = to_regclass(%L)$q$, format('%I.%I', t.store_schema, t.store_table))) AS a),
      format('missing in store "%s"', store));
    RETURN;
  END IF;
  RETURN QUERY
    SELECT run_ops.difference_text(store, d.aspect, d.name, d.legacy_fact, d.store_fact)
      FROM run_ops.differences(store, legacy_query, store_query) AS d
     WHERE NOT (d.legacy_fact IS NULL
                -- more unique keys in the store do no harm, and the columns
                -- that only the store has may have a default
                AND (d.aspect = 'unique key' OR t.store_defaults ? d.name))
           -- other unique keys than that by which rows are named have the gate "index"
       AND NOT (d.aspect = 'unique key' AND d.name <> run_ops.key_name(t));
END $$;
COMMENT ON FUNCTION run_ops.table_differences(text, run_ops.routed_table) IS
  'what differs between a local table and its copy in a store: columns, enum labels, unique keys. They are compared by name; the order of columns and labels may differ.';
REVOKE EXECUTE ON FUNCTION run_ops.table_differences(text, run_ops.routed_table) FROM PUBLIC;

CREATE FUNCTION run_ops.refuse_differences(what text, lines text[]) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF cardinality(lines) > 0 THEN
    RAISE EXCEPTION '%', what
      USING ERRCODE = 'RO002', DETAIL = array_to_string(lines, E'\n'),
            HINT = 'Make both sides equal, then try again.';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_differences(text, text[]) IS
  'raises one error with all differences, unless the list is empty';

-- In which order both sides have texts ------------------------------------------
-- A collation is its definition, and the version of the library that implements
-- it.  If one of them differs, foreign tables are marked, and a store is not
-- asked for an order or a range; see store_order.c.

CREATE FUNCTION run_ops.collations_query(tables text[]) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  -- to_jsonb(), because some columns do not exist in all PostgreSQL versions
  SELECT format($q$
    WITH col AS (
      SELECT format('%%I.%%I', n.nspname, c.relname) AS relation, a.attname, format_type(a.atttypid, a.atttypmod) AS type,
             -- jsonb is ordered as text is by default
             CASE WHEN 'jsonb'::regtype IN (t.oid, t.typbasetype) THEN 100::oid ELSE a.attcollation END AS collation_oid
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        JOIN pg_type AS t ON t.oid = a.atttypid
       WHERE format('%%I.%%I', n.nspname, c.relname) = ANY (%L)),
    def AS (
      SELECT l.oid, l.oid::regcollation::text AS name, coalesce(l.collisdeterministic, true) AS deterministic,
             pg_collation_actual_version(l.oid) AS version, d.*
        FROM pg_collation AS l, LATERAL (SELECT to_jsonb(l), (SELECT to_jsonb(b) FROM pg_database AS b WHERE b.datname = current_database())) AS j (l, b),
             LATERAL (SELECT CASE l.collprovider WHEN 'd' THEN coalesce(b ->> 'datlocprovider', 'c') ELSE l.collprovider::text END AS provider,
                             CASE l.collprovider WHEN 'd' THEN b ->> 'datcollate' ELSE j.l ->> 'collcollate' END AS lc_collate,
                             CASE l.collprovider WHEN 'd' THEN b ->> 'datctype' ELSE j.l ->> 'collctype' END AS lc_ctype,
                             CASE l.collprovider WHEN 'd' THEN coalesce(b ->> 'datlocale', b ->> 'daticulocale')
                                                 ELSE coalesce(j.l ->> 'colllocale', j.l ->> 'colliculocale', j.l ->> 'collcollate') END AS locale,
                             CASE l.collprovider WHEN 'd' THEN b ->> 'daticurules' ELSE j.l ->> 'collicurules' END AS rules) AS d
       WHERE l.oid IN (SELECT col.collation_oid FROM col))
    SELECT col.relation, col.attname AS column, col.type, def.name AS collation_name,
           CASE WHEN def.provider <> 'i' AND def.lc_collate IN ('C', 'POSIX') OR def.provider = 'b' AND def.locale = 'C' THEN 'C'
                ELSE concat_ws(' ', CASE def.provider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END,
                       CASE WHEN def.provider = 'c' THEN lower(replace(def.lc_collate, '-', '')) ELSE def.locale END,
                       CASE WHEN def.provider = 'c' AND def.lc_ctype <> def.lc_collate THEN lower(replace(def.lc_ctype, '-', '')) END,
                       def.rules, CASE WHEN NOT def.deterministic THEN 'nondeterministic' END) END AS definition,
           -- before PostgreSQL 15 the default collation has no version of its own
           coalesce(def.version, CASE WHEN def.oid = 100 THEN (
             SELECT max(pg_collation_actual_version(s.oid)) FROM pg_collation AS s
              WHERE s.collprovider = 'c' AND s.collcollate = def.lc_collate AND s.collencoding IN (-1, pg_char_to_encoding(getdatabaseencoding()))) END) AS version,
           concat_ws(', ', format('provider = %%s', CASE def.provider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END),
             CASE WHEN def.provider = 'c' THEN format('lc_collate = %%L, lc_ctype = %%L', def.lc_collate, def.lc_ctype) ELSE format('locale = %%L', def.locale) END,
             'rules = ' || quote_literal(nullif(def.rules, '')), CASE WHEN NOT def.deterministic THEN 'deterministic = false' END) AS options
      FROM col JOIN def ON def.oid = col.collation_oid $q$, tables)
$$;
COMMENT ON FUNCTION run_ops.collations_query(text[]) IS
  'a query for the collation of each column of these tables that has one: its name, definition and actual version, and the options with which it can be created';

CREATE FUNCTION run_ops.differing_orders(store text)
  RETURNS TABLE (view regclass, foreign_table regclass, column_name name, store_column name, type text, collation_name text, same_definition boolean,
                 here text, there text, options text)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY EXECUTE format($q$
    WITH here AS (%s),
    there AS (SELECT s.* FROM run_ops.ask_store($1, $2) AS j,
                     jsonb_to_record(j) AS s (relation text, "column" text, collation_name text, definition text, version text))
    SELECT t.view, r.foreign_table, h."column"::name, s."column"::name, h.type, h.collation_name, h.definition = s.definition AND h.collation_name = s.collation_name,
           concat_ws(' version ', h.definition, h.version), concat_ws(' version ', s.definition, s.version), h.options
      FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS r ON r.view = t.view AND r.store = $1
      JOIN here AS h ON h.relation = t.legacy::text
      JOIN there AS s ON s.relation = format('%%I.%%I', t.store_schema, t.store_table)
                     AND s."column" = coalesce(t.column_names ->> h."column"::text, h."column")
     WHERE h.definition <> s.definition OR h.version IS DISTINCT FROM s.version
     ORDER BY 1::text, 3 $q$, run_ops.collations_query(ARRAY(SELECT t.legacy::text FROM run_ops.routed_table AS t)))
    USING store, run_ops.collations_query(ARRAY(SELECT format('%I.%I', t.store_schema, t.store_table) FROM run_ops.routed_table AS t));
END $$;
COMMENT ON FUNCTION run_ops.differing_orders(text) IS
  'the columns of routed tables whose collation is another one in the store, by its definition or by the version of its library';
REVOKE EXECUTE ON FUNCTION run_ops.differing_orders(text) FROM PUBLIC;

CREATE FUNCTION run_ops.mark_orders(store text) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  item record;
BEGIN
  FOR item IN
    SELECT r.foreign_table, a.attname, d.column_name IS NOT NULL AS differs
      FROM run_ops.routed_store AS r
      JOIN pg_attribute AS a ON a.attrelid = r.foreign_table AND a.attnum > 0 AND NOT a.attisdropped
      LEFT JOIN run_ops.differing_orders(mark_orders.store) AS d ON d.foreign_table = r.foreign_table AND d.column_name = a.attname
     WHERE r.store = mark_orders.store
       AND (d.column_name IS NOT NULL) <> EXISTS (SELECT FROM pg_options_to_table(a.attfdwoptions) AS o WHERE o.option_name = 'order_differs')
  LOOP
    EXECUTE format('ALTER FOREIGN TABLE %s ALTER COLUMN %I OPTIONS (%s)', item.foreign_table, item.attname,
                   CASE WHEN item.differs THEN 'ADD order_differs ''true''' ELSE 'DROP order_differs' END);
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.mark_orders(text) IS
  'marks the columns of foreign tables whose order differs in the store, so that the store is not asked for an order or a range of their values';
REVOKE EXECUTE ON FUNCTION run_ops.mark_orders(text) FROM PUBLIC;

CREATE FUNCTION run_ops.order_differs(t run_ops.routed_table, column_name name) RETURNS boolean
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT EXISTS (SELECT FROM run_ops.routed_store AS r
                   JOIN pg_attribute AS a ON a.attrelid = r.foreign_table, pg_options_to_table(a.attfdwoptions) AS o
                  WHERE r.view = t.view AND a.attname = order_differs.column_name AND o.option_name = 'order_differs' AND o.option_value::boolean)
$$;
COMMENT ON FUNCTION run_ops.order_differs(run_ops.routed_table, name) IS
  'whether a column is marked as having another order in one of the stores';

-- routed_tables: attaching, refreshing and detaching the tables that exist in
-- every store and are reached through one view.

-- What is known of tables by their names.  A preset fills these tables, such as
-- that of the control plane.

CREATE TABLE run_ops.known_routing (
  legacy_table   name PRIMARY KEY,
  routing        run_ops.routing NOT NULL,
  route_column   name,
  store_table    name NOT NULL,
  column_names   jsonb NOT NULL,
  store_defaults jsonb NOT NULL,
  same_shape     name
);
COMMENT ON TABLE run_ops.known_routing IS
  'the routing of tables that are known by their names, which attach_table() uses for arguments that are not given';
COMMENT ON COLUMN run_ops.known_routing.legacy_table IS 'the name of the table in this database';
COMMENT ON COLUMN run_ops.known_routing.routing IS 'how the store of a row is found';
COMMENT ON COLUMN run_ops.known_routing.route_column IS 'the column that decides the store';
COMMENT ON COLUMN run_ops.known_routing.store_table IS 'the name of the table in the stores';
COMMENT ON COLUMN run_ops.known_routing.column_names IS 'the columns that have another name in the stores: {local name: name in the store}';
COMMENT ON COLUMN run_ops.known_routing.store_defaults IS 'the columns that only the stores have: {name in the store: SQL expression for the value}';
COMMENT ON COLUMN run_ops.known_routing.same_shape IS 'another column whose values have the shape of the id; NULL if there is none';

CREATE TABLE run_ops.known_anchor (
  column_name name PRIMARY KEY,
  ord         int NOT NULL
);
COMMENT ON TABLE run_ops.known_anchor IS
  'names of columns that usually have the id of the row to which a row belongs; attach_table() uses the first one that a table has, if nothing else is known';
COMMENT ON COLUMN run_ops.known_anchor.column_name IS 'the name of the column';
COMMENT ON COLUMN run_ops.known_anchor.ord IS 'the order in which the columns are looked for';

GRANT SELECT ON run_ops.known_routing, run_ops.known_anchor TO PUBLIC;

CREATE FUNCTION run_ops.key_of(legacy regclass) RETURNS name[]
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT k.columns
    FROM pg_index AS i, LATERAL (
           SELECT array_agg(a.attname ORDER BY a.attnum) AS columns, bool_and(a.attnotnull) AS all_not_null
             FROM pg_attribute AS a
            WHERE a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])) AS k
   WHERE i.indrelid = legacy AND i.indisunique AND i.indisvalid AND i.indimmediate
     AND i.indpred IS NULL AND i.indexprs IS NULL AND k.all_not_null
   ORDER BY i.indisprimary DESC, cardinality(k.columns), i.indexrelid
   LIMIT 1
$$;
COMMENT ON FUNCTION run_ops.key_of(regclass) IS
  'the columns that identify a row: the primary key, otherwise the smallest unique index on columns that are NOT NULL; NULL if there is none';

CREATE FUNCTION run_ops.known_same_shape(t run_ops.routed_table) RETURNS name
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT k.same_shape
    FROM run_ops.known_routing AS k
    JOIN pg_class AS c ON c.relname = k.legacy_table
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = k.same_shape AND a.attnum > 0
     AND a.atttypid IN ('text'::regtype, 'varchar'::regtype)
   WHERE c.oid = t.legacy AND k.routing = t.routing AND k.route_column = t.route_column
$$;
COMMENT ON FUNCTION run_ops.known_same_shape(run_ops.routed_table) IS
  'the column that has the shape of the id according to run_ops.known_routing; NULL if the table has none';

CREATE FUNCTION run_ops.heirs(legacy regclass) RETURNS SETOF regclass
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT i.inhrelid::regclass FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
   WHERE i.inhparent = heirs.legacy AND NOT c.relispartition ORDER BY c.relname COLLATE "C"
$$;
COMMENT ON FUNCTION run_ops.heirs(regclass) IS
  'the tables that inherit from a local table and are no partitions of it: they have neither its key nor the triggers of this extension';

CREATE FUNCTION run_ops.propose_routing(
    legacy regclass, routing run_ops.routing, route_column name,
    store_schema name, store_table name, column_names jsonb, store_defaults jsonb)
  RETURNS run_ops.routed_table
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  t     run_ops.routed_table;
  known run_ops.known_routing;
  c     pg_class;
BEGIN
  SELECT * INTO c FROM pg_class WHERE oid = legacy;
  IF c.relkind IS NULL OR c.relkind NOT IN ('r', 'p') OR c.relpersistence = 't' THEN
    RAISE EXCEPTION '% cannot be a routed table', coalesce(legacy::text, 'NULL')
      USING ERRCODE = 'wrong_object_type', DETAIL = 'A routed table must be an ordinary or partitioned table of this database, and not temporary.';
  END IF;
  SELECT * INTO known FROM run_ops.known_routing AS k WHERE k.legacy_table = c.relname;
  t.legacy := legacy;
  t.routing := coalesce(routing, known.routing);
  t.route_column := CASE WHEN t.routing <> 'store' THEN coalesce(route_column,
    CASE WHEN t.routing = known.routing THEN known.route_column WHEN t.routing = 'shape' THEN 'id' END) END;
  IF t.routing IS NULL THEN
    SELECT 'anchor', a.attname INTO t.routing, t.route_column
      FROM run_ops.known_anchor AS anchor
      JOIN pg_attribute AS a ON a.attname = anchor.column_name AND a.attrelid = legacy
           AND a.attnotnull AND NOT a.attisdropped AND a.atttypid IN ('text'::regtype, 'varchar'::regtype)
     ORDER BY anchor.ord LIMIT 1;
  END IF;
  t.key_columns := run_ops.key_of(legacy);
  t.store_schema := coalesce(store_schema,
    (SELECT n.nspname FROM pg_namespace AS n WHERE n.oid = c.relnamespace));
  t.store_table := coalesce(store_table, known.store_table, c.relname);
  t.column_names := coalesce(column_names, known.column_names, '{}');
  t.store_defaults := coalesce(store_defaults, known.store_defaults, '{}');
  t.same_shape := run_ops.known_same_shape(t);
  RETURN t;
END $$;
COMMENT ON FUNCTION run_ops.propose_routing(regclass, run_ops.routing, name, name, name, jsonb, jsonb) IS
  'the row that attach_table() would register: from the arguments, otherwise from run_ops.known_routing, otherwise with an anchor column that is found by its name. routing is NULL if none of these is known.';

CREATE FUNCTION run_ops.refuse_table_differences(tables run_ops.routed_table[], stores text[]) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  t           run_ops.routed_table;
  store       text;
  lines       text[] := '{}';
BEGIN
  FOREACH t IN ARRAY tables LOOP
    FOREACH store IN ARRAY stores LOOP
      lines := lines || ARRAY(SELECT format('%s: %s', t.legacy, d)
                                FROM run_ops.table_differences(store, t) AS d);
    END LOOP;
  END LOOP;
  PERFORM run_ops.refuse_differences(
    format('%s not match in every store',
           CASE cardinality(tables) WHEN 1 THEN format('table %s does', tables[1].legacy)
                                    ELSE 'tables do' END), lines);
END $$;
COMMENT ON FUNCTION run_ops.refuse_table_differences(run_ops.routed_table[], text[]) IS
  'raises one error with all differences of these tables in these stores, if there are any';
REVOKE EXECUTE ON FUNCTION run_ops.refuse_table_differences(run_ops.routed_table[], text[]) FROM PUBLIC;

CREATE FUNCTION run_ops.key_option(t run_ops.routed_table) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT string_agg(quote_ident(k.name), ', ' ORDER BY k.ord) FROM unnest(t.key_columns) WITH ORDINALITY AS k (name, ord)
$$;
COMMENT ON FUNCTION run_ops.key_option(run_ops.routed_table) IS 'the option key of the foreign tables of a routed table';

CREATE FUNCTION run_ops.import_table(store text, t run_ops.routed_table) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  foreign_table text := format('%I.%I', run_ops.foreign_schema(store), t.store_table);
  store_server  name := (SELECT s.server FROM run_ops.store AS s WHERE s.name = store);
  item          record;
BEGIN
  PERFORM run_ops.refuse_table_differences(ARRAY[t], ARRAY[store]);
  PERFORM run_ops.refuse_unproven_shape(t, store);
  PERFORM run_ops.make_own_schema(run_ops.foreign_schema(store));
  -- A restored schema without its registry, or DROP EXTENSION, has left a foreign
  -- table.  Its view may be a union that reads it.
  IF run_ops.is_relation(to_regclass(foreign_table), '{f}') THEN
    PERFORM run_ops.build_view(t, false);
    EXECUTE format('DROP FOREIGN TABLE %s', foreign_table);
  END IF;
  EXECUTE format('IMPORT FOREIGN SCHEMA %I LIMIT TO (%I) FROM SERVER %I INTO %I OPTIONS (import_default ''true'', import_generated ''false'')',
                 t.store_schema, t.store_table, store_server, run_ops.foreign_schema(store));
  FOR item IN SELECT * FROM jsonb_each_text(t.column_names) LOOP
    EXECUTE format('ALTER FOREIGN TABLE %s RENAME COLUMN %I TO %I', foreign_table, item.value, item.key);
  END LOOP;
  FOR item IN SELECT * FROM jsonb_each_text(t.store_defaults) LOOP
    EXECUTE format('ALTER FOREIGN TABLE %s ALTER COLUMN %I SET DEFAULT %s', foreign_table, item.key, item.value);
  END LOOP;
  -- A generated column of the store must be a generated column of the foreign
  -- table as well; otherwise INSERT would write it.  Its expression is not
  -- copied: PostgreSQL would evaluate constant parts of it now, as the current
  -- user, with functions that the owner of the table has chosen.  The store
  -- computes the value.
  FOR item IN
    SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, o.option_value AS store_name,
           (SELECT format('COLLATE %I.%I', n.nspname, l.collname)
              FROM pg_type AS y, pg_collation AS l JOIN pg_namespace AS n ON n.oid = l.collnamespace
             WHERE y.oid = a.atttypid AND l.oid = a.attcollation AND y.typcollation <> a.attcollation) AS collation
      FROM run_ops.ask_store(store, format(
             'SELECT a.attname FROM pg_attribute AS a WHERE a.attrelid = %L::regclass AND a.attgenerated <> %L AND NOT a.attisdropped',
             format('%I.%I', t.store_schema, t.store_table), '')) AS answer
      JOIN pg_attribute AS a ON a.attrelid = foreign_table::regclass AND a.attnum > 0
      JOIN LATERAL pg_options_to_table(a.attfdwoptions) AS o ON o.option_name = 'column_name' AND o.option_value = answer ->> 'attname'
  LOOP
    EXECUTE format('ALTER FOREIGN TABLE %s DROP COLUMN %I, ADD COLUMN %2$I %s OPTIONS (column_name %L) %s GENERATED ALWAYS AS (NULL) STORED',
                   foreign_table, item.name, item.type, item.store_name, item.collation);
  END LOOP;
  -- rows are sent to the store in batches, unless the server has its own setting
  IF NOT EXISTS (SELECT FROM pg_foreign_server AS f, unnest(f.srvoptions) AS o
                  WHERE f.srvname = store_server AND o LIKE 'batch_size=%') THEN
    EXECUTE format('ALTER FOREIGN TABLE %s OPTIONS (ADD batch_size ''1000'')', foreign_table);
  END IF;
  -- the planner must know which columns are indexed in the store: the first
  -- column of each index
  FOR item IN
    SELECT coalesce(local.key, answer ->> 'attname') AS name
      FROM run_ops.ask_store(store, format(
             'SELECT DISTINCT a.attname FROM pg_index AS i '
             'JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] '
             'WHERE i.indrelid = %L::regclass AND i.indisvalid AND i.indpred IS NULL',
             format('%I.%I', t.store_schema, t.store_table))) AS answer
      LEFT JOIN jsonb_each_text(t.column_names) AS local ON local.value = answer ->> 'attname'
  LOOP
    EXECUTE format('ALTER FOREIGN TABLE %s ALTER COLUMN %I OPTIONS (ADD indexed ''true'')',
                   foreign_table, item.name);
  END LOOP;
  EXECUTE format('ALTER FOREIGN TABLE %s OPTIONS (ADD key %L)', foreign_table, run_ops.key_option(t));
  INSERT INTO run_ops.routed_store VALUES (t.view, store, foreign_table::regclass);
  PERFORM run_ops.mark_orders(store);
END $$;
COMMENT ON FUNCTION run_ops.import_table(text, run_ops.routed_table) IS
  'creates the foreign table of a routed table in one store, and compares both sides first';
REVOKE EXECUTE ON FUNCTION run_ops.import_table(text, run_ops.routed_table) FROM PUBLIC;

-- A trigger of this extension is recognized by its function, never by its name
-- alone.

CREATE FUNCTION run_ops.refuse_taken_names(relation regclass, names name[]) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  taken record;
BEGIN
  -- PostgreSQL creates a trigger of a partitioned table in each partition
  SELECT g.tgname AS name, g.tgrelid::regclass AS place INTO taken
    FROM pg_trigger AS g
   WHERE (g.tgrelid = relation OR g.tgrelid IN (SELECT p.relid FROM pg_partition_tree(relation) AS p))
     AND g.tgname = ANY (names)
     AND NOT EXISTS (SELECT FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
                      WHERE d.classid = 'pg_proc'::regclass AND d.objid = g.tgfoid AND d.refclassid = 'pg_extension'::regclass
                        AND d.deptype IN ('e', 'x') AND e.extname = 'run_ops_split')
   ORDER BY g.tgname, g.tgrelid LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'trigger "%" of % has a name that run_ops_split needs', taken.name, taken.place
      USING ERRCODE = 'duplicate_object', DETAIL = 'run_ops_split must create a trigger of this name, and this one is not its own.',
            HINT = format('ALTER TRIGGER %I ON %s RENAME TO %I;', taken.name, taken.place, left(taken.name, 50) || '_of_others');
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_taken_names(regclass, name[]) IS
  'raises an error if a relation has a trigger with one of these names that does not belong to this extension';

CREATE FUNCTION run_ops.refuse_taken_names(t run_ops.routed_table) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  PERFORM run_ops.refuse_taken_names(t.legacy, '{run_ops_write_lock,run_ops_changes,~run_ops_unique,0_run_ops_refers,0_run_ops_referred}');
  PERFORM run_ops.refuse_taken_names(t.view,
    '{run_ops_begin,run_ops_route,run_ops_write,run_ops_replica_begin,run_ops_replica_route,run_ops_replica_write}');
  IF EXISTS (SELECT FROM pg_rewrite AS w WHERE w.ev_class = t.view AND w.rulename = 'refuse_on_conflict') AND NOT run_ops.has_union_rule(t.view) THEN
    RAISE EXCEPTION 'rule "refuse_on_conflict" of % has a name that run_ops_split needs', t.view
      USING ERRCODE = 'duplicate_object', DETAIL = 'run_ops_split must create a rule of this name, and this one is not its own.',
            HINT = format('ALTER RULE refuse_on_conflict ON %s RENAME TO refuse_on_conflict_of_others;', t.view);
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_taken_names(run_ops.routed_table) IS
  'raises an error if a trigger or rule of somebody else has a name that a routed table needs';

CREATE FUNCTION run_ops.refuse_unroutable(t run_ops.routed_table) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  missing text;
BEGIN
  PERFORM run_ops.refuse_taken_names(t);
  IF t.routing IS NULL THEN
    RAISE EXCEPTION 'no routing is known for table %', t.legacy
      USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Specify routing => ''shape'', or ''anchor'' with route_column, or ''store''.';
  ELSIF t.routing = 'anchor' AND t.route_column IS NULL THEN
    RAISE EXCEPTION 'routing "anchor" of table % needs a route_column', t.legacy
      USING ERRCODE = 'invalid_parameter_value',
            DETAIL = 'The route column has the id of the run or batch that the row belongs to.';
  ELSIF t.key_columns IS NULL THEN
    RAISE EXCEPTION 'table % has no key', t.legacy
      USING ERRCODE = 'invalid_table_definition',
            DETAIL = 'A routed table needs a primary key, or a unique index on columns that are NOT NULL.';
  ELSIF t.routing = 'shape' AND t.key_columns <> ARRAY[t.route_column] THEN
    RAISE EXCEPTION 'routing "shape" of table % needs column "%" as its key', t.legacy, t.route_column
      USING ERRCODE = 'invalid_table_definition',
            DETAIL = format('Its key is (%s).', (SELECT string_agg(quote_ident(k), ', ') FROM unnest(t.key_columns) AS k));
  ELSIF t.route_column IS NOT NULL AND NOT EXISTS (
      SELECT FROM pg_attribute AS a
       WHERE a.attrelid = t.legacy AND a.attname = t.route_column AND a.attnum > 0
         AND (t.key_rule IS NOT NULL OR a.atttypid IN ('text'::regtype, 'varchar'::regtype))) THEN
    RAISE EXCEPTION 'table % has no text column "%"', t.legacy, t.route_column
      USING ERRCODE = 'undefined_column', DETAIL = 'Without a key rule, the route column must be of type text or varchar.',
            HINT = 'For ids of other types, specify key_rule, a function that names the store of an id.';
  ELSIF t.key_rule IS NOT NULL AND NOT EXISTS (
      SELECT FROM pg_attribute AS a JOIN pg_type AS y ON y.oid = a.atttypid
       WHERE a.attrelid = t.legacy AND a.attname = t.route_column AND a.attnotnull
         AND CASE y.typtype WHEN 'd' THEN y.typbasetype ELSE y.oid END IN ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype,
               'uuid'::regtype, 'int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'bytea'::regtype)) THEN
    RAISE EXCEPTION 'column "%" of table % cannot have a key rule', t.route_column, t.legacy
      USING ERRCODE = 'invalid_parameter_value',
            DETAIL = 'It must be NOT NULL, and of type text, varchar, char, uuid, smallint, int, bigint or bytea, or of a domain over one of these.';
  ELSIF t.same_shape IS NOT NULL AND (t.route_column IS NULL OR t.same_shape = t.route_column) THEN
    RAISE EXCEPTION 'column "%" of table % cannot be declared to have the shape of the id', t.same_shape, t.legacy
      USING ERRCODE = 'invalid_parameter_value',
            DETAIL = CASE WHEN t.route_column IS NULL THEN 'With routing "store", the shape of an id does not tell the store.'
                          ELSE 'It is the id itself.' END;
  ELSIF t.same_shape IS NOT NULL AND NOT EXISTS (
      SELECT FROM pg_attribute AS a
       WHERE a.attrelid = t.legacy AND a.attname = t.same_shape AND a.attnum > 0
         AND a.atttypid IN ('text'::regtype, 'varchar'::regtype)) THEN
    RAISE EXCEPTION 'table % has no text column "%"', t.legacy, t.same_shape
      USING ERRCODE = 'undefined_column', DETAIL = 'A column with the shape of the id must be of type text or varchar.';
  END IF;
  SELECT string_agg(quote_ident(m.name), ', ') INTO missing
    FROM jsonb_object_keys(t.column_names) AS m (name)
   WHERE NOT EXISTS (SELECT FROM pg_attribute AS a
                      WHERE a.attrelid = t.legacy AND a.attname = m.name AND a.attnum > 0);
  IF missing IS NOT NULL THEN
    RAISE EXCEPTION 'column_names of table % names columns that it does not have: %', t.legacy, missing
      USING ERRCODE = 'undefined_column',
            DETAIL = 'column_names maps column names of this table to column names in the store.';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_unroutable(run_ops.routed_table) IS
  'raises an error if a table cannot have this routing';

CREATE FUNCTION run_ops.hidden_names(schema oid) RETURNS TABLE (object text, hidden_by text)
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format('%I.%I', n.nspname, c.relname), format('%s of run_ops_split', o.oid::regclass)
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_class AS o ON o.relname = c.relname AND o.relkind IN ('r', 'v', 'S')
    JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = o.oid AND d.deptype = 'e'
    JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND e.extname = 'run_ops_split'
   WHERE n.oid = hidden_names.schema AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  UNION ALL
  SELECT p.oid::regprocedure::text, format('function %s of run_ops_split', o.oid::regprocedure)
    FROM pg_proc AS p
    JOIN pg_proc AS o ON o.proname = p.proname AND o.proargtypes = p.proargtypes
    JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = o.oid AND d.deptype = 'e'
    JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND e.extname = 'run_ops_split'
   WHERE p.pronamespace = hidden_names.schema
$$;
COMMENT ON FUNCTION run_ops.hidden_names(oid) IS
  'tables and functions of a schema that have the name of one in schema run_ops, which stands in front of them if search_path has that schema first';

CREATE FUNCTION run_ops.preload_statement() RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format('ALTER DATABASE %I SET session_preload_libraries = %s', current_database(),
                concat_ws(', ', (SELECT string_agg(quote_literal(trim(BOTH '" ' FROM l.name)), ', ' ORDER BY l.ord)
                                   FROM unnest(string_to_array(p.libraries, ',')) WITH ORDINALITY AS l (name, ord)
                                  WHERE trim(BOTH '" ' FROM l.name) <> ''), quote_literal('run_ops_split')))
    FROM (SELECT coalesce((SELECT substr(c, length('session_preload_libraries=') + 1)
                             FROM pg_db_role_setting AS s, unnest(s.setconfig) AS c
                            WHERE s.setdatabase = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
                              AND s.setrole = 0 AND c LIKE 'session\_preload\_libraries=%'),
                          -- superusers and members of pg_read_all_settings see it
                          (SELECT g.reset_val FROM pg_settings AS g WHERE g.name = 'session_preload_libraries'))) AS p (libraries)
   WHERE concat_ws(',', p.libraries, (SELECT g.setting FROM pg_settings AS g WHERE g.name = 'shared_preload_libraries')) !~ '\mrun_ops_split\M'
$$;
COMMENT ON FUNCTION run_ops.preload_statement() IS
  'the statement by which new sessions of this database load the library from their start; NULL if they do';

CREATE FUNCTION run_ops.preload() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  statement text := run_ops.preload_statement();
BEGIN
  IF statement IS NOT NULL THEN
    EXECUTE statement;
  END IF;
EXCEPTION WHEN insufficient_privilege THEN NULL;
END $$;
COMMENT ON FUNCTION run_ops.preload() IS
  'lets new sessions of this database load the library from their start; without the right to do so, nothing happens, and the gate preload says it';
REVOKE EXECUTE ON FUNCTION run_ops.preload() FROM PUBLIC;

CREATE FUNCTION run_ops.with_key_rule(t run_ops.routed_table, rule regprocedure) RETURNS run_ops.routed_table
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  column_type regtype := run_ops.column_type(t.legacy, t.route_column);
  unknown     text;
BEGIN
  IF t.route_column IS NULL THEN
    RAISE EXCEPTION 'a key rule needs a column of table %', t.legacy
      USING ERRCODE = 'invalid_parameter_value', HINT = 'Specify routing => ''shape'', or ''anchor'' with route_column.';
  END IF;
  t.key_rule := run_ops.rule_expression(rule, column_type);
  t.same_shape := NULL;
  -- what the rule has as constants, and what it says of rows: of all, or of some of a large table
  SELECT string_agg(DISTINCT quote_literal(a.name), ', ') INTO unknown
    FROM (SELECT unnest(run_ops.rule_names(t.key_rule, column_type))
          UNION
          SELECT q.name FROM run_ops.as_owner(t.legacy, format('SELECT DISTINCT coalesce(%s, ''legacy'') FROM (SELECT %I FROM %s LIMIT 100000) AS x',
             run_ops.names_store(t, format('x.%I', t.route_column)), t.route_column, t.legacy)) AS q (name text)) AS a (name)
   WHERE NOT EXISTS (SELECT FROM run_ops.store AS s WHERE s.name = a.name);
  IF unknown IS NOT NULL THEN
    RAISE EXCEPTION 'key rule % names stores that are not attached', rule
      USING ERRCODE = 'undefined_object', DETAIL = format('It names %s.', unknown),
            HINT = 'Attach them first, with run_ops.attach_store().';
  END IF;
  RETURN t;
END $$;
COMMENT ON FUNCTION run_ops.with_key_rule(run_ops.routed_table, regprocedure) IS
  'the row of run_ops.routed_table with the expression of this function as its rule; raises an error if the function cannot be one, or names a store that is not attached for an existing row';
REVOKE EXECUTE ON FUNCTION run_ops.with_key_rule(run_ops.routed_table, regprocedure) FROM PUBLIC;

CREATE FUNCTION run_ops.create_view(t run_ops.routed_table) RETURNS regclass
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  taken     regclass := to_regclass(t.view_name);
  grant_row record;
BEGIN
  -- A view that DROP EXTENSION or a restored schema has left is used again.  Its
  -- definition is not lost: it is one of the two that every routed table has.
  IF taken IS NOT NULL AND NOT EXISTS (
       SELECT FROM pg_class AS c JOIN pg_roles AS r ON r.oid = c.relowner
        WHERE c.oid = taken AND c.relkind = 'v' AND (r.rolsuper OR r.rolname = current_user)
          AND NOT EXISTS (SELECT FROM run_ops.routed_table AS o WHERE o.view = c.oid)
          AND (run_ops.has_union_rule(c.oid) OR obj_description(c.oid, 'pg_class') = run_ops.view_comment(t, false))) THEN
    RAISE EXCEPTION 'relation % already exists', t.view_name
      USING ERRCODE = 'duplicate_table',
            HINT = CASE WHEN t.view IS NULL THEN 'Specify another view_schema or view_name for the view, or drop or rename the relation.'
                        ELSE format('ALTER TABLE %s RENAME TO %I;', taken, left((parse_ident(t.view_name))[2], 50) || '_of_others') END;
  END IF;
  IF taken IS NULL AND t.view IS NOT NULL THEN  -- its schema may be gone, too
    EXECUTE format('CREATE SCHEMA IF NOT EXISTS %I', (parse_ident(t.view_name))[1]);
  END IF;
  EXECUTE format('CREATE OR REPLACE VIEW %s AS %s', t.view_name, run_ops.view_query(t, false));
  -- roles with privileges on the table get the same privileges on the view
  FOR grant_row IN
    SELECT a.privilege_type, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee
      FROM pg_class AS c, aclexplode(c.relacl) AS a
     WHERE c.oid = t.legacy AND a.grantee <> c.relowner
       AND a.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
  LOOP
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %s', (parse_ident(t.view_name))[1], grant_row.grantee);
    EXECUTE format('GRANT %s ON %s TO %s', grant_row.privilege_type, t.view_name, grant_row.grantee);
  END LOOP;
  RETURN t.view_name::regclass;
END $$;
COMMENT ON FUNCTION run_ops.create_view(run_ops.routed_table) IS
  'creates the view of a routed table with its definition for split off, or takes over one that the extension has created before';
REVOKE EXECUTE ON FUNCTION run_ops.create_view(run_ops.routed_table) FROM PUBLIC;

CREATE FUNCTION run_ops.create_dropped_view(t run_ops.routed_table) RETURNS run_ops.routed_table
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  dropped regclass := t.view;
BEGIN
  IF NOT run_ops.is_relation(dropped, '{v}') THEN
    t.view := run_ops.create_view(t);
    UPDATE run_ops.routed_table AS r SET view = t.view WHERE r.view = dropped;
    UPDATE run_ops.routed_store AS r SET view = t.view WHERE r.view = dropped;
    UPDATE run_ops.leftover AS l SET view = t.view WHERE l.view = dropped;
    -- the changes that were tracked so far have the old OID
    UPDATE run_ops.change_tracking SET forward = NULL;
    UPDATE run_ops.copy_progress SET finished = false, position = NULL;
  END IF;
  RETURN t;
END $$;
COMMENT ON FUNCTION run_ops.create_dropped_view(run_ops.routed_table) IS
  'creates the view of a routed table again if it was dropped, and returns the routed table with the new view';
REVOKE EXECUTE ON FUNCTION run_ops.create_dropped_view(run_ops.routed_table) FROM PUBLIC;

CREATE FUNCTION run_ops.attach_table(
    legacy         regclass,
    routing        run_ops.routing DEFAULT NULL,
    route_column   name DEFAULT NULL,
    store_schema   name DEFAULT NULL,
    store_table    name DEFAULT NULL,
    column_names   jsonb DEFAULT NULL,
    store_defaults jsonb DEFAULT NULL,
    view_schema    name DEFAULT 'run_ops',
    view_name      name DEFAULT NULL,
    same_shape     name DEFAULT NULL,
    key_rule       regprocedure DEFAULT NULL)
  RETURNS regclass
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  t           run_ops.routed_table;
  store       text;
  strays      bigint;
  hidden      text;
BEGIN
  t := run_ops.propose_routing(legacy, routing, route_column, store_schema, store_table,
                               column_names, store_defaults);
  t.same_shape := coalesce(same_shape, t.same_shape);
  IF key_rule IS NOT NULL THEN
    IF same_shape IS NOT NULL THEN
      RAISE EXCEPTION 'same_shape and key_rule exclude each other'
        USING ERRCODE = 'invalid_parameter_value', DETAIL = 'With a key rule, the shape of an id does not tell the store.';
    END IF;
    t := run_ops.with_key_rule(t, key_rule);
  END IF;
  PERFORM run_ops.refuse_unroutable(t);
  PERFORM run_ops.lock_registry();
  IF NOT EXISTS (SELECT FROM run_ops.store AS s WHERE s.server IS NOT NULL) THEN
    RAISE EXCEPTION 'no store is attached'
      USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'SELECT run_ops.attach_store(''new'', ''...'');';
  END IF;
  IF EXISTS (SELECT FROM run_ops.routed_table AS r WHERE r.legacy = legacy) THEN
    RAISE EXCEPTION 'table % is already a routed table', legacy
      USING ERRCODE = 'duplicate_object',
            HINT = format('After a migration: SELECT run_ops.refresh_table(%L);', legacy);
  END IF;
  t.view_name := format('%I.%I', view_schema,
    coalesce(view_name, (SELECT c.relname FROM pg_class AS c WHERE c.oid = legacy)));
  -- what known_routing says is declared now if it is proven already
  IF same_shape IS NULL AND EXISTS (SELECT FROM run_ops.store AS s, LATERAL run_ops.unproven_same_shape(t, s.name)) THEN
    t.same_shape := NULL;
  END IF;
  PERFORM run_ops.refuse_unproven_shape(t, 'legacy');
  t.view := run_ops.create_view(t);
  INSERT INTO run_ops.routed_table SELECT t.*;
  FOR store IN SELECT s.name FROM run_ops.store AS s WHERE s.server IS NOT NULL ORDER BY s.name LOOP
    PERFORM run_ops.import_table(store, t);
  END LOOP;
  PERFORM run_ops.build_view(t, run_ops.split_enabled());
  -- the write lock exists by now, so that no stray can be added after the count
  IF run_ops.split_enabled() AND t.routing <> 'store' THEN
    strays := (SELECT a.n FROM run_ops.as_owner(legacy,
      format('SELECT count(*) FROM %s AS x WHERE NOT %s', legacy, run_ops.in_store(t, format('x.%I', t.route_column), 'legacy'))) AS a (n bigint));
    IF strays > 0 THEN
      RAISE EXCEPTION 'table % has rows that belong to a store', legacy
        USING ERRCODE = 'object_not_in_prerequisite_state',
              DETAIL = format('%s rows would disappear from the view: those WHERE NOT %s.', strays, run_ops.in_store(t, quote_ident(t.route_column), 'legacy')),
              HINT = 'Move these rows to the store yourself. Or switch split off with run_ops.repatriate() and run_ops.disable_split(repatriated => true), attach the table, and enable split again, which moves them.';
    END IF;
  END IF;

  IF (SELECT c.relrowsecurity FROM pg_class AS c WHERE c.oid = legacy) THEN
    RAISE WARNING 'row security policies of table % do not apply to the users of view %', legacy, t.view_name
      USING DETAIL = format('The view accesses the table as role %I.', current_user),
            HINT = format('From PostgreSQL 15 on: ALTER VIEW %s SET (security_invoker = true); callers then need privileges on the tables of the view, and a user mapping.', t.view_name);
  END IF;
  PERFORM run_ops.preload();
  IF view_schema = 'run_ops' AND NOT EXISTS (SELECT FROM run_ops.routed_table AS r JOIN pg_class AS v ON v.oid = r.view
                                              WHERE r.view <> t.view AND v.relnamespace = 'run_ops'::regnamespace) THEN
    FOR hidden IN SELECT string_agg(h.object, ', ' ORDER BY h.object) FROM pg_class AS c, run_ops.hidden_names(c.relnamespace) AS h
                   WHERE c.oid = legacy HAVING count(*) > 0 LOOP
      RAISE WARNING 'tables or functions of run_ops_split have names of the application'
        USING DETAIL = format('Where search_path has schema run_ops first, they stand in front of: %s.', hidden),
              HINT = 'Attach the tables with a view_schema that holds nothing but the views.';
    END LOOP;
  END IF;
  RETURN t.view;
END $$;
COMMENT ON FUNCTION run_ops.attach_table(regclass, run_ops.routing, name, name, name, jsonb, jsonb, name, name, name, regprocedure) IS
  'creates a view for a table, with the same name and columns, through which the rows of all stores are reached. Compares the table with its copy in every store first. Arguments that are not given are taken from run_ops.known_routing.';
REVOKE EXECUTE ON FUNCTION run_ops.attach_table(regclass, run_ops.routing, name, name, name, jsonb, jsonb, name, name, name, regprocedure) FROM PUBLIC;

CREATE FUNCTION run_ops.attach_all_tables(
    legacy_schema name DEFAULT 'public', store_schema name DEFAULT NULL, view_schema name DEFAULT 'run_ops')
  RETURNS SETOF run_ops.routed_table
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  stores    text[] := ARRAY(SELECT s.name FROM run_ops.store AS s WHERE s.server IS NOT NULL ORDER BY s.name);
  in_stores text[];
  tables    run_ops.routed_table[];
  t         run_ops.routed_table;
BEGIN
  IF stores = '{}' THEN
    RAISE EXCEPTION 'no store is attached'
      USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'SELECT run_ops.attach_store(''new'', ''...'');';
  END IF;
  SELECT array_agg(DISTINCT a.answer ->> 'relname') INTO in_stores
    FROM run_ops.ask_stores(stores, ARRAY[format(
      'SELECT c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace '
      'WHERE n.nspname = %L AND c.relkind IN (''r'', ''p'')', coalesce(store_schema, legacy_schema))]) AS a;
  SELECT array_agg(p ORDER BY c.relname) INTO tables
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace,
         LATERAL run_ops.propose_routing(c.oid, NULL, NULL, store_schema, NULL, NULL, NULL) AS p
   WHERE n.nspname = legacy_schema AND c.relkind IN ('r', 'p') AND NOT c.relispartition
     AND c.relpersistence <> 't' AND p.store_table = ANY (in_stores)
     AND NOT EXISTS (SELECT FROM run_ops.routed_table AS r WHERE r.legacy = c.oid);
  FOREACH t IN ARRAY coalesce(tables, '{}') LOOP
    IF t.routing IS NULL THEN
      RAISE NOTICE 'table % is not attached', t.legacy
        USING DETAIL = 'It exists in this database and in a store, but its routing is not known.',
              HINT = format('SELECT run_ops.attach_table(%L, routing => ''...'', route_column => ''...'');', t.legacy);
      tables := array_remove(tables, t);
    ELSE
      PERFORM run_ops.refuse_unroutable(t);
    END IF;
  END LOOP;
  -- reports all differences of all tables in one error, before the first view is created
  PERFORM run_ops.refuse_table_differences(coalesce(tables, '{}'), stores);
  FOREACH t IN ARRAY coalesce(tables, '{}') LOOP
    t.view := run_ops.attach_table(t.legacy, t.routing, t.route_column, t.store_schema,
      t.store_table, t.column_names, t.store_defaults, view_schema);
    RETURN NEXT run_ops.routed(t.view);
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.attach_all_tables(name, name, name) IS
  'attaches every table of the schema that also exists in a store and is not a routed table yet; returns the tables it attached';
REVOKE EXECUTE ON FUNCTION run_ops.attach_all_tables(name, name, name) FROM PUBLIC;

CREATE FUNCTION run_ops.attempt_refresh(view regclass) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  t       run_ops.routed_table;
  old     run_ops.routed_store[];
  store   text;
  names   jsonb;
  renamed record;
  granted record;
BEGIN
  t := run_ops.routed(view);
  PERFORM run_ops.refuse_without_table(t);
  -- The triggers for leftovers are created anew in all tables.  Writers are kept out
  -- first, as by the switch: each of them uses several tables, and would be in a
  -- deadlock with this.
  PERFORM run_ops.block_writes() WHERE EXISTS (SELECT FROM run_ops.leftover);
  t := run_ops.create_dropped_view(t);
  -- Locks only the view, and before the foreign tables.  Queries lock them in
  -- the same order; another order could deadlock.
  EXECUTE format('ALTER VIEW %s OWNER TO %s', t.view, (SELECT c.relowner::regrole FROM pg_class AS c WHERE c.oid = t.view));
  -- A view keeps the name that a column had when the view was created, and so
  -- does the registry.
  names := (SELECT jsonb_object_agg(v.attname, l.attname)
              FROM (SELECT attname, row_number() OVER (ORDER BY attnum) AS n FROM pg_attribute
                     WHERE attrelid = t.view AND attnum > 0) AS v
              JOIN (SELECT attname, row_number() OVER (ORDER BY attnum) AS n FROM pg_attribute
                     WHERE attrelid = t.legacy AND attnum > 0 AND NOT attisdropped) AS l USING (n)
             WHERE v.attname <> l.attname);
  IF names IS NOT NULL THEN
    -- through temporary names, because two columns may have exchanged their names
    FOR renamed IN SELECT key AS old_name, format('run_ops renamed %s', row_number() OVER ()) AS between, value AS new_name
                     FROM jsonb_each_text(names) ORDER BY key LOOP
      EXECUTE format('ALTER VIEW %s RENAME COLUMN %I TO %I', t.view, renamed.old_name, renamed.between);
    END LOOP;
    FOR renamed IN SELECT format('run_ops renamed %s', row_number() OVER ()) AS between, value AS new_name
                     FROM jsonb_each_text(names) ORDER BY key LOOP
      EXECUTE format('ALTER VIEW %s RENAME COLUMN %I TO %I', t.view, renamed.between, renamed.new_name);
    END LOOP;
    UPDATE run_ops.routed_table AS r
       SET route_column = coalesce(names ->> r.route_column, r.route_column),
           same_shape = coalesce(names ->> r.same_shape, r.same_shape),
           key_columns = ARRAY(SELECT coalesce(names ->> k.name, k.name)::name FROM unnest(r.key_columns) WITH ORDINALITY AS k (name, ord) ORDER BY k.ord),
           column_names = (SELECT coalesce(jsonb_object_agg(coalesce(names ->> m.key, m.key), m.value), '{}') FROM jsonb_each(r.column_names) AS m)
     WHERE r.view = t.view
    RETURNING * INTO t;
  END IF;
  -- the view may still use the old foreign tables, so they are dropped after the
  -- new ones have replaced them
  WITH gone AS (DELETE FROM run_ops.routed_store AS r WHERE r.view = t.view RETURNING r.*)
  SELECT array_agg(g) INTO old FROM gone AS g WHERE run_ops.is_relation(g.foreign_table, '{f}');
  FOR i IN 1 .. coalesce(cardinality(old), 0) LOOP
    EXECUTE format('ALTER FOREIGN TABLE %s RENAME TO %I', old[i].foreign_table, 'replaced_' || old[i].foreign_table::oid);
  END LOOP;
  FOR store IN SELECT s.name FROM run_ops.store AS s WHERE s.server IS NOT NULL ORDER BY s.name LOOP
    PERFORM run_ops.import_table(store, t);
  END LOOP;
  PERFORM run_ops.build_view(t, run_ops.split_enabled());
  FOR i IN 1 .. coalesce(cardinality(old), 0) LOOP
    -- a view that has another owner, or security_invoker, needs privileges on them
    FOR granted IN
      SELECT r.foreign_table, a.privilege_type, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee, a.is_grantable
        FROM run_ops.routed_store AS r, pg_class AS c, aclexplode(c.relacl) AS a
       WHERE r.view = t.view AND r.store = old[i].store AND c.oid = old[i].foreign_table AND a.grantee <> c.relowner
    LOOP
      EXECUTE format('GRANT %s ON %s TO %s%s', granted.privilege_type, granted.foreign_table, granted.grantee,
                     CASE WHEN granted.is_grantable THEN ' WITH GRANT OPTION' END);
    END LOOP;
    EXECUTE format('DROP FOREIGN TABLE %s', old[i].foreign_table);
  END LOOP;
  PERFORM run_ops.guard_leftovers() WHERE EXISTS (SELECT FROM run_ops.leftover);
END $$;
COMMENT ON FUNCTION run_ops.attempt_refresh(regclass) IS
  'one attempt of refresh_table(): creates new foreign tables, lets the view use them, and drops the old ones';
REVOKE EXECUTE ON FUNCTION run_ops.attempt_refresh(regclass) FROM PUBLIC;

CREATE FUNCTION run_ops.refresh_table(view regclass) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  PERFORM run_ops.lock_registry();
  PERFORM run_ops.in_attempts(format('SELECT run_ops.attempt_refresh(%L)', view));
END $$;
COMMENT ON FUNCTION run_ops.refresh_table(regclass) IS
  'updates the view and the foreign tables after a migration has added or renamed columns on all sides; the view keeps its privileges and dependent objects';
REVOKE EXECUTE ON FUNCTION run_ops.refresh_table(regclass) FROM PUBLIC;

CREATE FUNCTION run_ops.detach_table(view regclass) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  t              run_ops.routed_table;
  foreign_tables regclass[];
  relation       regclass;
BEGIN
  PERFORM run_ops.lock_registry();
  t := run_ops.routed(view);
  -- without its table there is nothing to show, and there are no leftovers
  IF run_ops.is_relation(t.legacy, '{r,p}') THEN
    PERFORM run_ops.refuse_while_split(format('detach %s', t.view));
    PERFORM run_ops.refuse_leftovers();  -- exist with split off only in a copy
  END IF;
  WITH gone AS (DELETE FROM run_ops.routed_store AS r WHERE r.view = t.view RETURNING r.foreign_table)
  SELECT array_agg(g.foreign_table) INTO foreign_tables FROM gone AS g;
  DELETE FROM run_ops.leftover AS l WHERE l.view = t.view;
  DELETE FROM run_ops.view_default AS d WHERE d.view = t.view;
  DELETE FROM run_ops.routed_table AS r WHERE r.view = t.view;
  IF run_ops.is_relation(t.view, '{v}') THEN
    EXECUTE format('DROP VIEW %s', t.view);
  END IF;
  FOREACH relation IN ARRAY coalesce(foreign_tables, '{}') LOOP
    IF run_ops.is_relation(relation, '{f}') THEN
      EXECUTE format('DROP FOREIGN TABLE %s', relation);
    END IF;
  END LOOP;
  PERFORM run_ops.guard_leftovers() WHERE EXISTS (SELECT FROM run_ops.leftover);
END $$;
COMMENT ON FUNCTION run_ops.detach_table(regclass) IS
  'drops the view and the foreign tables of a routed table, but does not change the tables themselves. Raises an error while split is on.';
REVOKE EXECUTE ON FUNCTION run_ops.detach_table(regclass) FROM PUBLIC;

-- same_shape: a second column whose values have the shape of the id.
--
-- A run has the id <body> and the friendly id run_<body>.  So a lookup by the
-- friendly id needs only one store, as a lookup by the id does.  That is a claim
-- about rows, and if it were wrong for one row, a lookup would not find it.  So it
-- must be proven, and stay true whoever writes.  A validated CHECK constraint in
-- each database does both: for the store of that database, both columns must tell
-- the same.  A store does not have this extension, so its constraint consists of
-- built-in functions.

CREATE FUNCTION run_ops.same_shape_condition(t run_ops.routed_table, store text) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT string_agg(CASE WHEN store = 'legacy' THEN format('run_ops.resides(%I, ''legacy'')', c.name)
                         ELSE format('(%I IS NOT NULL AND (%s))', c.store_name, coalesce(run_ops.residency_condition(quote_ident(c.store_name), store), 'false')) END,
                    ' = ' ORDER BY c.ord)
    FROM (SELECT u.name, coalesce(t.column_names ->> u.name, u.name) AS store_name, u.ord
            FROM unnest(ARRAY[t.route_column, t.same_shape]) WITH ORDINALITY AS u (name, ord)) AS c
$$;
COMMENT ON FUNCTION run_ops.same_shape_condition(run_ops.routed_table, text) IS
  'an SQL condition for rows of a table in one store: the id and the column with its shape both belong in that store, or neither does';

CREATE FUNCTION run_ops.place_in_store(t run_ops.routed_table, store text) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT CASE WHEN store = 'legacy' THEN t.legacy::text ELSE format('%I.%I', t.store_schema, t.store_table) END
$$;
COMMENT ON FUNCTION run_ops.place_in_store(run_ops.routed_table, text) IS
  'the name of a routed table in the database of a store';

CREATE FUNCTION run_ops.unproven_same_shape(t run_ops.routed_table, store text) RETURNS SETOF text
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  relation  text := run_ops.place_in_store(t, store);
  -- the constraint is recognized by its name and its columns
  query     text := format(
    'SELECT k.convalidated AS validated FROM pg_constraint AS k '
    'WHERE k.conrelid = to_regclass(%L) AND k.contype = ''c'' AND k.conname = ''run_ops_same_shape'' AND NOT k.connoinherit '
    'AND k.conkey @> ARRAY(SELECT a.attnum FROM pg_attribute AS a WHERE a.attrelid = k.conrelid AND a.attname = ANY (%L)) '
    'AND cardinality(k.conkey) = 2',
    relation, ARRAY(SELECT CASE WHEN store = 'legacy' THEN c ELSE coalesce(t.column_names ->> c, c) END
                      FROM unnest(ARRAY[t.route_column, t.same_shape]) AS c));
  validated boolean;
BEGIN
  IF t.same_shape IS NULL THEN
    RETURN;
  ELSIF store = 'legacy' THEN
    EXECUTE query INTO validated;
  ELSE
    validated := (SELECT (answer ->> 'validated')::boolean FROM run_ops.ask_store(store, query) AS answer);
  END IF;
  IF validated IS NULL THEN
    RETURN NEXT format('ALTER TABLE %s ADD CONSTRAINT run_ops_same_shape CHECK (%s) NOT VALID',
                       relation, run_ops.same_shape_condition(t, store));
  END IF;
  IF validated IS NOT TRUE THEN
    RETURN NEXT format('ALTER TABLE %s VALIDATE CONSTRAINT run_ops_same_shape', relation);
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.unproven_same_shape(run_ops.routed_table, text) IS
  'the commands that are still to be run in the database of a store, so that it proves that same_shape of a table has the shape of the id; none if it does, or if there is no such column';
REVOKE EXECUTE ON FUNCTION run_ops.unproven_same_shape(run_ops.routed_table, text) FROM PUBLIC;

CREATE FUNCTION run_ops.refuse_unproven_shape(t run_ops.routed_table, store text) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  commands text := (SELECT string_agg(c || ';', ' ' ORDER BY ord) FROM run_ops.unproven_same_shape(t, store) WITH ORDINALITY AS u (c, ord));
BEGIN
  IF commands IS NOT NULL THEN
    RAISE EXCEPTION 'it is not proven that column "%" of table % has the shape of the id', t.same_shape, t.legacy
      USING ERRCODE = 'object_not_in_prerequisite_state',
            DETAIL = format('%s lacks a validated constraint.', CASE store WHEN 'legacy' THEN 'This database' ELSE format('Store "%s"', store) END),
            HINT = format('Run there: %s', commands);
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_unproven_shape(run_ops.routed_table, text) IS
  'raises an error if the database of a store does not prove that same_shape of a table has the shape of the id';
REVOKE EXECUTE ON FUNCTION run_ops.refuse_unproven_shape(run_ops.routed_table, text) FROM PUBLIC;

CREATE FUNCTION run_ops.with_same_shape(view regclass, column_name name) RETURNS run_ops.routed_table
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  t run_ops.routed_table := run_ops.routed(view);
BEGIN
  t.same_shape := coalesce(column_name, t.same_shape, run_ops.known_same_shape(t));
  IF t.same_shape IS NULL THEN
    RAISE EXCEPTION 'no column of table % is known to have the shape of the id', t.legacy
      USING ERRCODE = 'invalid_parameter_value', HINT = 'Specify column_name.';
  END IF;
  PERFORM run_ops.refuse_unroutable(t);
  RETURN t;
END $$;
COMMENT ON FUNCTION run_ops.with_same_shape(regclass, name) IS
  'the row of run_ops.routed_table with this column as same_shape; NULL: the column that is declared, otherwise the one of run_ops.known_routing';

CREATE FUNCTION run_ops.same_shape_commands(view regclass, column_name name DEFAULT NULL)
  RETURNS TABLE (store text, command text)
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT c.store, u.command
    FROM run_ops.with_same_shape(view, column_name) AS t, LATERAL run_ops.copies(t) AS c,
         LATERAL run_ops.unproven_same_shape(t, c.store) WITH ORDINALITY AS u (command, ord)
   ORDER BY c.store, u.ord
$$;
COMMENT ON FUNCTION run_ops.same_shape_commands(regclass, name) IS
  'SQL to run in each database before run_ops.declare_same_shape(): adds a constraint which refuses rows whose id and column name different stores, and validates it; legacy is this database; no row if every database has the constraint';
REVOKE EXECUTE ON FUNCTION run_ops.same_shape_commands(regclass, name) FROM PUBLIC;

CREATE FUNCTION run_ops.set_same_shape(t run_ops.routed_table) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  UPDATE run_ops.routed_table AS r SET same_shape = t.same_shape WHERE r.view = t.view;
  PERFORM run_ops.in_attempts(format(
    'SELECT run_ops.build_view(t, run_ops.split_enabled()) FROM run_ops.routed_table AS t WHERE t.view = %L::regclass', t.view));
END $$;
COMMENT ON FUNCTION run_ops.set_same_shape(run_ops.routed_table) IS
  'changes the column that is declared to have the shape of the id, and the view';
REVOKE EXECUTE ON FUNCTION run_ops.set_same_shape(run_ops.routed_table) FROM PUBLIC;

CREATE FUNCTION run_ops.declare_same_shape(view regclass, column_name name DEFAULT NULL) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  t run_ops.routed_table;
BEGIN
  PERFORM run_ops.lock_registry();
  t := run_ops.with_same_shape(view, column_name);
  PERFORM run_ops.refuse_unproven_shape(t, c.store) FROM run_ops.copies(t) AS c ORDER BY c.store;
  PERFORM run_ops.set_same_shape(t);
END $$;
COMMENT ON FUNCTION run_ops.declare_same_shape(regclass, name) IS
  'declares that a column has the shape of the id, so that lookups by it query one store; raises an error if a database lacks the constraint that proves it; column_name is by default the one of run_ops.known_routing';
REVOKE EXECUTE ON FUNCTION run_ops.declare_same_shape(regclass, name) FROM PUBLIC;

CREATE FUNCTION run_ops.undeclare_same_shape(view regclass) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  t run_ops.routed_table;
BEGIN
  PERFORM run_ops.lock_registry();
  t := run_ops.routed(view);
  t.same_shape := NULL;
  PERFORM run_ops.set_same_shape(t);
END $$;
COMMENT ON FUNCTION run_ops.undeclare_same_shape(regclass) IS
  'lets lookups by the column that was declared to have the shape of the id query every store again; does not drop the constraints run_ops_same_shape';
REVOKE EXECUTE ON FUNCTION run_ops.undeclare_same_shape(regclass) FROM PUBLIC;

-- table_tree: a table with what refers to it, attached at once.
--
-- The rows of an order are in the store of the order.  So a table that refers to a
-- routed table by the column that decides there has a column that decides as well:
-- the one that refers to it.

CREATE FUNCTION run_ops.table_tree(root regclass)
  RETURNS TABLE (depth int, legacy regclass, routing run_ops.routing, route_column name, refused text)
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  keys    name[] := run_ops.key_of(root);
  deciding   jsonb := '{}';  -- the deciding columns of the tables so far, by their OIDs
  nearest jsonb;
  child   record;
BEGIN
  IF keys IS NULL THEN
    RAISE EXCEPTION 'table % has no key', root
      USING ERRCODE = 'invalid_table_definition',
            DETAIL = 'A routed table needs a primary key, or a unique index on columns that are NOT NULL.';
  END IF;
  depth := 0; legacy := root;
  SELECT t.routing, t.route_column INTO routing, route_column FROM run_ops.routed_table AS t WHERE t.legacy = root;
  IF NOT FOUND THEN
    routing := CASE cardinality(keys) WHEN 1 THEN 'shape' ELSE 'anchor' END;
    route_column := keys[1];
  END IF;
  RETURN NEXT;
  nearest := jsonb_build_object(root::oid::text, route_column);
  WHILE nearest <> '{}' LOOP
    deciding := deciding || nearest;
    depth := depth + 1;
    nearest := '{}';
    -- of several references the one that can decide, and then the first
    FOR child IN
      SELECT DISTINCT ON (f.conrelid::regclass::text COLLATE "C") f.conrelid::regclass AS relation, f.confrelid::regclass AS parent, a.attname,
             CASE WHEN a.attname IS NULL THEN
                    format('it refers to %s by (%s), which does not tell the store of a row there: give it a column with "%s", or attach it with routing => ''store''',
                           f.confrelid::regclass, (SELECT string_agg(quote_ident(c.attname), ', ' ORDER BY c.attnum) FROM pg_attribute AS c
                                                    WHERE c.attrelid = f.confrelid AND c.attnum = ANY (f.confkey)), deciding ->> f.confrelid::oid::text)
                  WHEN NOT a.attnotnull THEN format('"%s" may be NULL, and then would not tell the store of a row', a.attname) END AS refused
        FROM pg_constraint AS f
        LEFT JOIN pg_attribute AS a ON a.attrelid = f.conrelid AND a.attnum = f.conkey[array_position(f.confkey,
               (SELECT p.attnum FROM pg_attribute AS p WHERE p.attrelid = f.confrelid AND p.attname = deciding ->> f.confrelid::oid::text))]
       WHERE f.contype = 'f' AND f.conparentid = 0 AND deciding ->> f.confrelid::oid::text IS NOT NULL AND NOT deciding ? f.conrelid::oid::text
       ORDER BY f.conrelid::regclass::text COLLATE "C", a.attnotnull DESC NULLS LAST, f.conkey, f.oid
    LOOP
      legacy := child.relation; routing := 'anchor'; route_column := child.attname; refused := child.refused;
      RETURN NEXT;
      deciding := deciding || jsonb_build_object(child.relation::oid::text, NULL);
      nearest := nearest || CASE WHEN child.refused IS NULL THEN jsonb_build_object(child.relation::oid::text, child.attname) ELSE '{}' END;
    END LOOP;
    refused := NULL;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.table_tree(regclass) IS
  'a table and all that refers to it, directly or not, with the column that decides the store of a row; refused says why a table has no such column';

CREATE FUNCTION run_ops.attach_tree(root regclass, key_rule regprocedure DEFAULT NULL, view_schema name DEFAULT 'run_ops')
  RETURNS TABLE (legacy regclass, routing run_ops.routing, route_column name, view regclass, refused text)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  r record;
BEGIN
  FOR r IN SELECT * FROM run_ops.table_tree(root) LOOP
    legacy := r.legacy; routing := r.routing; route_column := r.route_column; refused := r.refused;
    view := (SELECT t.view FROM run_ops.routed_table AS t WHERE t.legacy = r.legacy);
    IF view IS NULL AND refused IS NULL THEN
      view := run_ops.attach_table(legacy, routing, route_column, view_schema => view_schema, key_rule => key_rule);
    END IF;
    RETURN NEXT;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.attach_tree(regclass, regprocedure, name) IS
  'attaches a table and all that refers to it, directly or not, each by the column that decides the store of a row; refused says why a table is not attached; run_ops.table_tree() shows what it would do';
REVOKE EXECUTE ON FUNCTION run_ops.attach_tree(regclass, regprocedure, name) FROM PUBLIC;

-- partitioned: store tables that are partitioned by the time in their ids.
--
-- Ids that begin with their time sort by it.  So a table of a store can be
-- PARTITION BY RANGE (id): old rows are deleted by dropping a partition, and the
-- primary key stays as it is.  The functions here print SQL, because the owner of
-- the tables in the store decides.

CREATE FUNCTION run_ops.time_floors(kind text, period text, ahead int, after timestamptz, epoch timestamptz)
  RETURNS TABLE (ord int, name text, floor text, ceiling text)
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
  SELECT i, to_char(t.since, 'YYYYMMDD'), run_ops.id_floor(kind, t.since, epoch), run_ops.id_floor(kind, t.until, epoch)
    FROM generate_series(1, ahead) AS i, (SELECT CASE period WHEN 'quarter' THEN interval '3 months' ELSE ('1 ' || period)::interval END) AS p (step),
         LATERAL (SELECT date_trunc(period, after) + i * p.step, date_trunc(period, after) + (i + 1) * p.step) AS t (since, until)
$$;
COMMENT ON FUNCTION run_ops.time_floors(text, text, int, timestamptz, timestamptz) IS
  'the periods (UTC) that begin after a time: the lowest id of each, and that of the next; the name is the date of its first day';

CREATE FUNCTION run_ops.partition_query(table_schema name, table_name name) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format($q$
    SELECT pg_get_partkeydef(c.oid) AS partition_key,
           (SELECT jsonb_agg(jsonb_build_object('floor', b.bound[1], 'ceiling', b.bound[2]))
              FROM pg_inherits AS i JOIN pg_class AS p ON p.oid = i.inhrelid,
                   LATERAL regexp_match(pg_get_expr(p.relpartbound, p.oid), $r$^FOR VALUES FROM \((?:'(.*)'|MINVALUE)\) TO \((?:'(.*)'|MAXVALUE)\)$r$) AS b (bound)
             WHERE i.inhparent = c.oid AND b.bound IS NOT NULL) AS partitions
      FROM pg_class AS c WHERE c.oid = %L::regclass AND c.relkind = 'p'
    $q$, format('%I.%I', table_schema, table_name))
$$;
COMMENT ON FUNCTION run_ops.partition_query(name, name) IS
  'a query: how a table is partitioned, and the bounds of its partitions if it is by range of one column; a bound that is NULL has no end. No row for a plain table.';

CREATE FUNCTION run_ops.is_past_partitions(t run_ops.routed_table, store text, id text) RETURNS boolean
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  partitions jsonb;
  past       boolean;
BEGIN
  IF NOT EXISTS (SELECT FROM run_ops.store AS s WHERE s.name = is_past_partitions.store) THEN
    RETURN false;
  ELSIF store = 'legacy' THEN
    EXECUTE (SELECT format('SELECT q.partitions FROM (%s) AS q WHERE q.partition_key = %L', run_ops.partition_query(n.nspname, c.relname), format('RANGE (%I)', t.route_column))
               FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = t.legacy) INTO partitions;
  ELSE
    partitions := (SELECT a -> 'partitions' FROM run_ops.ask_store(store, run_ops.partition_query(t.store_schema, t.store_table)) AS a
                    WHERE a ->> 'partition_key' = format('RANGE (%I)', coalesce(t.column_names ->> t.route_column, t.route_column)));
  END IF;
  EXECUTE format('SELECT bool_and((p ->> ''floor'')::%1$s > %2$L::%1$s) IS TRUE AND count(*) = count(p ->> ''floor'') FROM jsonb_array_elements($1) AS p',
                 run_ops.column_type(t.legacy, t.route_column), id) INTO past USING coalesce(nullif(partitions, 'null'), '[]');
  RETURN past;
END $$;
COMMENT ON FUNCTION run_ops.is_past_partitions(run_ops.routed_table, text, text) IS
  'whether the table of a store is partitioned by its ids, and all partitions begin after this id, so that its row has been dropped';
REVOKE EXECUTE ON FUNCTION run_ops.is_past_partitions(run_ops.routed_table, text, text) FROM PUBLIC;

-- What a table has beside its columns is asked of the store, as the statements
-- that make it again.  LIKE copies the rest.
CREATE FUNCTION run_ops.partitioning_query(t run_ops.routed_table, key text, bound text) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format($q$
    WITH t AS (
      SELECT c.*, format('%%I.%%I', %1$L, %2$L) AS whole, format('%%I.%%I', %1$L, %2$L || '_before') AS before, a.attnum AS key_number
        FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = %3$L
       WHERE c.oid = format('%%I.%%I', %1$L, %2$L)::regclass),
    i AS (
      -- a unique index of a partitioned table must have the key
      SELECT i.indisunique AND t.key_number <> ALL (i.indkey) AS lost, pg_get_constraintdef(k.oid) AS primary_key,
             replace(pg_get_indexdef(x.oid), format('INDEX %%I ON ', x.relname), 'INDEX ON ') AS definition
        FROM t JOIN pg_index AS i ON i.indrelid = t.oid JOIN pg_class AS x ON x.oid = i.indexrelid
        LEFT JOIN pg_constraint AS k ON k.conindid = x.oid AND k.contype = 'p'),
    -- those that refer to the table, also from itself, are made again after the others, without a long lock
    f AS (
      SELECT k.conname, k.confrelid = t.oid AS refers_here, k.conrelid = t.oid AS from_here, k.conrelid::regclass::text AS child,
             replace(pg_get_constraintdef(k.oid), ' NOT VALID', '') AS definition,
             CASE WHEN (SELECT c.relkind FROM pg_class AS c WHERE c.oid = k.conrelid) <> 'p' THEN ' NOT VALID' ELSE '' END AS not_valid
        FROM t JOIN pg_constraint AS k ON t.oid IN (k.conrelid, k.confrelid) WHERE k.contype = 'f' AND k.conparentid = 0)
    SELECT s.ord, s.statement
      FROM t, LATERAL (
        SELECT -1, format('identity column %%I', a.attname) FROM pg_attribute AS a WHERE a.attrelid = t.oid AND a.attidentity <> ''
        UNION ALL SELECT -1, 'row security' WHERE t.relrowsecurity
        UNION ALL SELECT -1, 'rules' WHERE t.relhasrules
        UNION ALL SELECT -1, 'children that inherit from it' WHERE t.relhassubclass
        UNION ALL SELECT -1, format('publication %%I', p.pubname) FROM pg_publication_rel AS r JOIN pg_publication AS p ON p.oid = r.prpubid WHERE r.prrelid = t.oid
        UNION ALL SELECT DISTINCT -1, format('view %%s, which reads it', w.ev_class::regclass)
          FROM pg_depend AS d JOIN pg_rewrite AS w ON w.oid = d.objid WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid = t.oid AND w.ev_class <> t.oid
        UNION ALL SELECT 10, format('ALTER TABLE %%s ADD CONSTRAINT run_ops_before CHECK (%%I < %%L) NOT VALID', t.whole, %3$L, %4$L)
        UNION ALL SELECT 11, format('ALTER TABLE %%s VALIDATE CONSTRAINT %%I', t.whole, k.conname)
          FROM (SELECT k.conname FROM pg_constraint AS k WHERE k.conrelid = t.oid AND NOT k.convalidated UNION ALL SELECT 'run_ops_before') AS k
        UNION ALL SELECT 12, replace(i.definition, 'CREATE UNIQUE INDEX ON ', 'CREATE INDEX CONCURRENTLY ON ') FROM i WHERE i.lost
        UNION ALL SELECT 20, 'BEGIN'
        UNION ALL SELECT 21, format('ALTER TABLE %%s DROP CONSTRAINT %%I', f.child, f.conname) FROM f WHERE f.refers_here
        UNION ALL SELECT 22, format('DROP TRIGGER %%I ON %%s', g.tgname, t.whole) FROM pg_trigger AS g WHERE g.tgrelid = t.oid AND NOT g.tgisinternal
        UNION ALL SELECT 23, format('ALTER TABLE %%s RENAME TO %%I', t.whole, %2$L || '_before')
        UNION ALL SELECT 24, format('CREATE TABLE %%s (LIKE %%s INCLUDING ALL EXCLUDING INDEXES) PARTITION BY RANGE (%%I)', t.whole, t.before, %3$L)
        UNION ALL SELECT 25, format('ALTER TABLE %%s DROP CONSTRAINT run_ops_before', t.whole)
        UNION ALL SELECT 26, format('ALTER TABLE %%s OWNER TO %%s', t.whole, t.relowner::regrole)
        UNION ALL SELECT 27, format('GRANT %%s ON %%s TO %%s', string_agg(x.privilege_type, ', ' ORDER BY x.privilege_type), t.whole, CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE x.grantee::regrole::text END)
          FROM aclexplode(t.relacl) AS x WHERE x.grantee <> t.relowner GROUP BY x.grantee
        UNION ALL SELECT 28, CASE WHEN i.primary_key IS NOT NULL THEN format('ALTER TABLE %%s ADD %%s', t.whole, i.primary_key)
                                  WHEN i.lost THEN replace(i.definition, 'CREATE UNIQUE INDEX ON ', 'CREATE INDEX ON ') ELSE i.definition END FROM i
        UNION ALL SELECT 29, format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', t.whole, f.conname, f.definition) FROM f WHERE f.from_here AND NOT f.refers_here
        UNION ALL SELECT 30, pg_get_triggerdef(g.oid) FROM pg_trigger AS g WHERE g.tgrelid = t.oid AND NOT g.tgisinternal
        UNION ALL SELECT 31, format('ALTER TABLE %%s ATTACH PARTITION %%s FOR VALUES FROM (MINVALUE) TO (%%L)', t.whole, t.before, %4$L)
        UNION ALL SELECT 33, format('CREATE TABLE %%I.%%I PARTITION OF %%s DEFAULT', %1$L, %2$L || '_default', t.whole)
        UNION ALL SELECT 34, format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s%%s', CASE WHEN f.from_here THEN t.before ELSE f.child END, f.conname, f.definition, f.not_valid) FROM f WHERE f.refers_here
        UNION ALL SELECT 35, 'COMMIT'
        UNION ALL SELECT 36, format('ALTER TABLE %%s VALIDATE CONSTRAINT %%I', CASE WHEN f.from_here THEN t.before ELSE f.child END, f.conname) FROM f WHERE f.refers_here AND f.not_valid <> ''
        UNION ALL SELECT 37, format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', t.whole, f.conname, f.definition) FROM f WHERE f.refers_here AND f.from_here
        UNION ALL SELECT 38, format('ALTER TABLE %%s DROP CONSTRAINT run_ops_before', t.before)
        UNION ALL SELECT 39, format('ANALYZE %%s', t.whole)) AS s (ord, statement)
     ORDER BY s.ord, s.statement
    $q$, t.store_schema, t.store_table, key, bound)
$$;
COMMENT ON FUNCTION run_ops.partitioning_query(run_ops.routed_table, text, text) IS
  'a query for a store: the statements that make its table the first partition of a new one, up to this bound; those with ord -1 are reasons why they cannot';

CREATE FUNCTION run_ops.partition_store_table(view regclass, kind text, period text DEFAULT 'month', ahead int DEFAULT 3, store text DEFAULT 'new', epoch timestamptz DEFAULT 'epoch')
  RETURNS SETOF text
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  t       run_ops.routed_table := run_ops.routed(view);
  key     text := coalesce(t.column_names ->> t.route_column, t.route_column);
  there   jsonb;
  reasons text;
  first   text;
BEGIN
  IF t.route_column IS NULL OR cardinality(t.key_columns) > 1 THEN
    RAISE EXCEPTION 'table % cannot be partitioned by its ids', t.view
      USING ERRCODE = 'wrong_object_type',
            DETAIL = CASE WHEN t.route_column IS NULL THEN 'The ids of its rows do not tell their store.' ELSE format('Its key is (%s).', array_to_string(t.key_columns, ', ')) END;
  ELSIF period IS NULL OR period NOT IN ('day', 'week', 'month', 'quarter', 'year') OR ahead IS NULL OR ahead < 1 THEN
    RAISE EXCEPTION 'invalid periods'
      USING ERRCODE = 'invalid_parameter_value', DETAIL = 'A period is day, week, month, quarter or year. At least one is created ahead.';
  END IF;
  PERFORM run_ops.id_floor(kind, now(), epoch);
  there := (SELECT a FROM run_ops.ask_store(store, run_ops.partition_query(t.store_schema, t.store_table)) AS a);
  -- the last day of a period is not enough time to run the statements
  first := (SELECT f.floor FROM run_ops.time_floors(kind, period, 1, now() + interval '1 day', epoch) AS f);
  IF there ->> 'partition_key' <> format('RANGE (%I)', key) THEN
    RAISE EXCEPTION 'table %.% of store "%" is partitioned already', t.store_schema, t.store_table, store
      USING ERRCODE = 'wrong_object_type', DETAIL = format('It is partitioned by %s.', there ->> 'partition_key');
  ELSIF there IS NOT NULL THEN
    -- a period is left out if an existing partition has a part of it
    RETURN QUERY EXECUTE format($q$
      SELECT format('CREATE TABLE %%1$I.%%2$I PARTITION OF %%1$I.%%3$I FOR VALUES FROM (%%4$L) TO (%%5$L);', $1, $2 || '_' || f.name, $2, f.floor, f.ceiling)
        FROM run_ops.time_floors($3, $4, $5, now(), $6) AS f
       WHERE NOT EXISTS (SELECT FROM jsonb_array_elements($7) AS p
                          WHERE coalesce((p ->> 'floor')::%1$s < f.ceiling::%1$s, true) AND coalesce((p ->> 'ceiling')::%1$s > f.floor::%1$s, true))
       ORDER BY f.ord $q$, run_ops.column_type(t.legacy, t.route_column))
      USING t.store_schema, t.store_table, kind, period, ahead, epoch, coalesce(nullif(there -> 'partitions', 'null'), '[]');
    RETURN;
  END IF;
  reasons := (SELECT string_agg(a ->> 'statement', ', ') FROM run_ops.ask_store(store, run_ops.partitioning_query(t, key, first)) AS a WHERE (a ->> 'ord')::int < 0);
  IF reasons IS NOT NULL THEN
    RAISE EXCEPTION 'table %.% of store "%" has what a copy of it would not have', t.store_schema, t.store_table, store
      USING ERRCODE = 'feature_not_supported', DETAIL = format('It has: %s.', reasons), HINT = 'Drop this first, and create it again afterwards.';
  END IF;
  RETURN QUERY
    SELECT s.statement || ';'
      FROM (SELECT (a ->> 'ord')::int, a ->> 'statement' FROM run_ops.ask_store(store, run_ops.partitioning_query(t, key, first)) AS a
            UNION ALL
            -- the ids of another kind must not end up in a partition that is dropped because of its time
            SELECT 25, format('ALTER TABLE %I.%I ADD CONSTRAINT run_ops_kind CHECK (char_length(%I) = 27)', t.store_schema, t.store_table, key) WHERE kind = 'ksuid'
            UNION ALL
            SELECT 32, format('CREATE TABLE %I.%I PARTITION OF %I.%I FOR VALUES FROM (%L) TO (%L)',
                              t.store_schema, t.store_table || '_' || f.name, t.store_schema, t.store_table, f.floor, f.ceiling)
              FROM run_ops.time_floors(kind, period, ahead, now() + interval '1 day', epoch) AS f) AS s (ord, statement)
     ORDER BY s.ord, s.statement COLLATE "C";
END $$;
COMMENT ON FUNCTION run_ops.partition_store_table(regclass, text, text, int, text, timestamptz) IS
  'SQL to run in a store, in this order: makes its table the first partition of one that is partitioned by the time in the ids, and adds partitions for the next periods; if the table is partitioned so already, only those that are missing. kind and epoch as for id_floor(); a period is day, week, month, quarter or year.';
REVOKE EXECUTE ON FUNCTION run_ops.partition_store_table(regclass, text, text, int, text, timestamptz) FROM PUBLIC;

-- run_ops_fdw: the planner of postgres_fdw, and an executor of our own.

CREATE FUNCTION run_ops.run_ops_fdw_handler() RETURNS pg_catalog.fdw_handler
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_fdw_handler';
COMMENT ON FUNCTION run_ops.run_ops_fdw_handler() IS
  'handler of run_ops_fdw: the planner of postgres_fdw, and an executor that asks a store when the first row is requested';

CREATE FUNCTION run_ops.run_ops_fdw_validator(options text[], catalog oid) RETURNS void
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_fdw_validator';
COMMENT ON FUNCTION run_ops.run_ops_fdw_validator(text[], oid) IS
  'validator of run_ops_fdw: accepts the options of postgres_fdw except use_remote_estimate and async_capable, the server option pooled, the table option key and the column option indexed';

CREATE FOREIGN DATA WRAPPER run_ops_fdw
  HANDLER run_ops.run_ops_fdw_handler
  VALIDATOR run_ops.run_ops_fdw_validator;
COMMENT ON FOREIGN DATA WRAPPER run_ops_fdw IS
  'tables of a store: planned as by postgres_fdw, read and written as one transaction of the store, which is begun when the first row is requested';

-- seam_pruning: planner support; a plan contains only the stores that can hold
-- the ids a query asks for.

CREATE FUNCTION run_ops.resides_support(internal) RETURNS internal
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_resides_support';
COMMENT ON FUNCTION run_ops.resides_support(internal) IS
  'planner support of run_ops.resides() and run_ops.stored_in(): removes stores that cannot hold the ids asked for from the plan, and refuses FOR UPDATE or SHARE on a union of stores';

ALTER FUNCTION run_ops.resides(text, text) SUPPORT run_ops.resides_support;

CREATE FUNCTION run_ops.resides(id text, store text, same_shape text) RETURNS boolean
  LANGUAGE c IMMUTABLE PARALLEL SAFE LEAKPROOF SUPPORT run_ops.resides_support
  AS 'MODULE_PATHNAME', 'run_ops_resides';
COMMENT ON FUNCTION run_ops.resides(text, text, text) IS
  'the same as run_ops.resides(id, store); the third argument tells the planner another column whose conditions select a store: see run_ops.declare_same_shape()';

CREATE FUNCTION run_ops.stored_in(named text, store text) RETURNS boolean
  LANGUAGE c IMMUTABLE PARALLEL SAFE LEAKPROOF SUPPORT run_ops.resides_support
  AS 'MODULE_PATHNAME', 'run_ops_stored_in';
COMMENT ON FUNCTION run_ops.stored_in(text, text) IS
  'whether a key rule has named this store; a rule that gives NULL names legacy; views have it as their filter';

CREATE FUNCTION run_ops.resides_selectivity(internal) RETURNS internal
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_resides_selectivity';
COMMENT ON FUNCTION run_ops.resides_selectivity(internal) IS
  'planner support of run_ops.id_resides() and run_ops.id_stored_in(): estimates that they are true for every row';

CREATE FUNCTION run_ops.refuse_locks_support(internal) RETURNS internal
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_refuse_locks_support';
COMMENT ON FUNCTION run_ops.refuse_locks_support(internal) IS
  'planner support of run_ops.refuse_locks()';

-- These functions replace resides() and stored_in() in a plan. The planner does not simplify
-- them again.

CREATE FUNCTION run_ops.id_resides(id text, store text) RETURNS boolean
  LANGUAGE c IMMUTABLE PARALLEL SAFE LEAKPROOF SUPPORT run_ops.resides_selectivity
  AS 'MODULE_PATHNAME', 'run_ops_resides';
COMMENT ON FUNCTION run_ops.id_resides(text, text) IS
  'the same as run_ops.resides(); replaces it in plans after pruning';

CREATE FUNCTION run_ops.any_id_resides(ids text[], store text) RETURNS boolean
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_any_id_resides';
COMMENT ON FUNCTION run_ops.any_id_resides(text[], text) IS
  'whether one of the ids belongs in the store; a plan tests it before it queries the store for a set of ids';

CREATE FUNCTION run_ops.own_ids(ids text[], store text) RETURNS text[]
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_own_ids';
COMMENT ON FUNCTION run_ops.own_ids(text[], text) IS
  'those of the ids that belong in the store; a plan sends only these to the store';

CREATE FUNCTION run_ops.id_stored_in(named text, store text) RETURNS boolean
  LANGUAGE c IMMUTABLE PARALLEL SAFE LEAKPROOF SUPPORT run_ops.resides_selectivity
  AS 'MODULE_PATHNAME', 'run_ops_stored_in';
COMMENT ON FUNCTION run_ops.id_stored_in(text, text) IS
  'the same as run_ops.stored_in(); replaces it in plans after pruning';

CREATE FUNCTION run_ops.any_stored_in(stored boolean[], store text) RETURNS boolean
  LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
  AS 'MODULE_PATHNAME', 'run_ops_any_stored_in';
COMMENT ON FUNCTION run_ops.any_stored_in(boolean[], text) IS
  'whether one of several ids is one of the store by a key rule; a plan tests it before it queries the store for a set of ids';

CREATE FUNCTION run_ops.refuse_locks("any") RETURNS boolean
  LANGUAGE c IMMUTABLE PARALLEL SAFE SUPPORT run_ops.refuse_locks_support
  AS 'MODULE_PATHNAME', 'run_ops_refuse_locks';
COMMENT ON FUNCTION run_ops.refuse_locks("any") IS
  'always true; as a condition on a column of a union it makes FOR UPDATE or SHARE an error, because they would lock nothing there';

-- read_through: one view over the tables of all stores.
--
-- With split off, the view shows the local table only.  With split on, it is a
-- union.  Its leaves have plain columns and no WHERE, so that PostgreSQL
-- flattens them into one Append.  A filter above the union removes each row
-- that is not in the store where its id belongs.

CREATE FUNCTION run_ops.column_list(relation regclass, prefix text) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT string_agg(prefix || quote_ident(a.attname), ', ' ORDER BY a.attnum)
    FROM pg_attribute AS a
   WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
$$;
COMMENT ON FUNCTION run_ops.column_list(regclass, text) IS
  'the columns of a relation in their order, quoted, each with the prefix before it';

CREATE FUNCTION run_ops.copies(t run_ops.routed_table)
  RETURNS TABLE (store text, relation regclass, precedence int)
  LANGUAGE sql STABLE ROWS 2 SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'legacy', t.legacy, 2
  UNION ALL
  SELECT r.store, r.foreign_table, CASE r.store WHEN 'new' THEN 0 ELSE 1 END
    FROM run_ops.routed_store AS r WHERE r.view = t.view
$$;
COMMENT ON FUNCTION run_ops.copies(run_ops.routed_table) IS
  'the local table and the foreign tables of a routed table, by store; the lowest precedence is queried first';

CREATE FUNCTION run_ops.view_query(t run_ops.routed_table, split boolean) RETURNS text
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  columns text := run_ops.column_list(t.legacy, '');
  keys    text;
  same    text;
BEGIN
  IF NOT split THEN
    RETURN format('SELECT %s FROM %s', columns, t.legacy);
  ELSIF t.routing <> 'store' THEN
    RETURN format('SELECT %s FROM (SELECT %s, ''legacy''::text AS run_ops_store FROM %s%s) AS u WHERE %s',
      run_ops.column_list(t.legacy, 'u.'), columns, t.legacy,
      (SELECT string_agg(format(' UNION ALL SELECT %s, %L::text FROM %s', columns, c.store, c.relation),
                         '' ORDER BY c.precedence, c.store)
         FROM run_ops.copies(t) AS c WHERE c.store <> 'legacy'),
      CASE WHEN t.key_rule IS NULL
           THEN format('run_ops.resides(u.%I, u.run_ops_store%s)', t.route_column, ', u.' || quote_ident(t.same_shape))
           ELSE format('run_ops.stored_in(%s, u.run_ops_store)', run_ops.names_store(t, format('u.%I', t.route_column))) END);
  END IF;
  SELECT string_agg(quote_ident(k), ', '), string_agg(format('y.%1$I %2$s x.%1$I', k, run_ops.equality_operator(t.legacy, k)), ' AND ')
    INTO keys, same FROM unnest(t.key_columns) AS k;
  -- Only the local table leaves out keys, with one anti join for all stores: the
  -- number of relations in the plan grows with that of the stores.
  RETURN (
    SELECT format('SELECT %s FROM (%sSELECT %s FROM %s AS x%s) AS u WHERE run_ops.refuse_locks(u.%I)',
             run_ops.column_list(t.legacy, 'u.'),
             string_agg(format('SELECT %s FROM %s AS x UNION ALL ', run_ops.column_list(t.legacy, 'x.'), c.relation),
                        '' ORDER BY c.precedence, c.store),
             run_ops.column_list(t.legacy, 'x.'), t.legacy,
             format(' WHERE NOT EXISTS (SELECT FROM (%s) AS y WHERE %s)',
                    string_agg(format('SELECT %s FROM %s AS y', keys, c.relation), ' UNION ALL ' ORDER BY c.precedence, c.store), same),
             t.key_columns[1])
      FROM run_ops.copies(t) AS c WHERE c.store <> 'legacy');
END $$;
COMMENT ON FUNCTION run_ops.view_query(run_ops.routed_table, boolean) IS
  'the query of the view of a routed table with split off or on';

CREATE FUNCTION run_ops.has_union_rule(view oid) RETURNS boolean
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT EXISTS (SELECT FROM pg_rewrite AS w
                  WHERE w.ev_class = has_union_rule.view AND w.rulename = 'refuse_on_conflict'
                    AND w.ev_type = '2' AND w.ev_qual::text = '<>' AND pg_get_ruledef(w.oid) LIKE '% DO NOTHING;')
$$;
COMMENT ON FUNCTION run_ops.has_union_rule(oid) IS
  'whether a view has the rule that build_view() creates for a union';

CREATE FUNCTION run_ops.view_comment(t run_ops.routed_table, split boolean) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT CASE
    WHEN NOT split THEN format('%s; split is off', t.legacy)
    WHEN t.routing = 'store' THEN format(
      '%s in every store; a row does not say which store it is in, so each read queries all stores. A local row is not shown if '
      'a store has its key: the keys of the local rows that a query reads are sent to all stores', t.legacy)
    WHEN t.key_rule IS NOT NULL THEN format('%s in every store; a rule over "%s" names the store of a row', t.legacy, t.route_column)
    ELSE format('%s in every store; the shape of "%s" tells the store of a row%s', t.legacy, t.route_column,
                ', and so does that of "' || t.same_shape || '"') END
$$;
COMMENT ON FUNCTION run_ops.view_comment(run_ops.routed_table, boolean) IS 'the comment of the view of a routed table with split off or on';

CREATE FUNCTION run_ops.has_query(view regclass, query text) RETURNS boolean
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_has_query';
COMMENT ON FUNCTION run_ops.has_query(regclass, text) IS
  'whether a view has this query; names that have changed since it was created make no difference';

CREATE FUNCTION run_ops.is_own_comment(comment text) RETURNS boolean
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  RETURN comment LIKE '%; split is off' OR comment LIKE '% in every store; a row does not say %'
      OR comment LIKE '% in every store; the shape of "%" tells the store of a row%'
      OR comment LIKE '% in every store; a rule over "%" names the store of a row';
COMMENT ON FUNCTION run_ops.is_own_comment(text) IS
  'whether a comment is one that build_view() gives a view; others are the user''s';

CREATE FUNCTION run_ops.build_view(t run_ops.routed_table, split boolean) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  -- keep security_barrier and security_invoker: the operator sets them
  options text := (SELECT ' WITH (' || string_agg(o, ', ') || ')'
                     FROM pg_class AS c, unnest(c.reloptions) AS o WHERE c.oid = t.view AND o LIKE 'security%');
BEGIN
  PERFORM run_ops.refuse_taken_names(t) WHERE split;
  EXECUTE format('CREATE OR REPLACE VIEW %s%s AS %s', t.view, options, run_ops.view_query(t, split));
  IF coalesce(run_ops.is_own_comment(obj_description(t.view, 'pg_class')), true) THEN
    EXECUTE format('COMMENT ON VIEW %s IS %L', t.view, run_ops.view_comment(t, split));
  END IF;
  UPDATE run_ops.routed_table AS r SET view_name = t.view::text WHERE r.view = t.view AND r.view_name <> t.view::text;
  -- In a session without the library, a rule that does nothing makes PostgreSQL
  -- refuse INSERT ... ON CONFLICT.  The triggers of the view would ignore the clause.
  IF split THEN
    EXECUTE format('CREATE OR REPLACE RULE refuse_on_conflict AS ON UPDATE TO %s DO ALSO NOTHING', t.view);
  ELSIF run_ops.has_union_rule(t.view) THEN
    EXECUTE format('DROP RULE refuse_on_conflict ON %s', t.view);
  END IF;
  PERFORM run_ops.build_triggers(t, split);
END $$;
COMMENT ON FUNCTION run_ops.build_view(run_ops.routed_table, boolean) IS
  'gives the view of a routed table its definition for split off or on; a comment and defaults that a user has set stay';
REVOKE EXECUTE ON FUNCTION run_ops.build_view(run_ops.routed_table, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.swap_views(split boolean) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  t run_ops.routed_table;
BEGIN
  PERFORM run_ops.lock_registry();
  PERFORM run_ops.bind_server() WHERE split;
  UPDATE run_ops.split_state SET enabled = split WHERE enabled <> split;
  FOR t IN SELECT * FROM run_ops.routed_table AS r WHERE run_ops.is_relation(r.legacy, '{r,p}') ORDER BY r.view LOOP
    PERFORM run_ops.build_view(run_ops.create_dropped_view(t), split);
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.swap_views(boolean) IS
  'switches the views of all routed tables, and the state that split_enabled() shows, in the transaction of the caller; checks no gate';
REVOKE EXECUTE ON FUNCTION run_ops.swap_views(boolean) FROM PUBLIC;

-- For support staff and for tests ---------------------------------------------

CREATE FUNCTION run_ops.locate(view regclass, id text, retention interval DEFAULT NULL) RETURNS text
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  t         run_ops.routed_table := run_ops.routed(view);
  -- the own id of a row that is anchored by a key rule says nothing
  residency run_ops.residency := CASE WHEN t.key_rule IS NULL THEN run_ops.try_owner_engine(id)
                                      WHEN t.routing = 'anchor' THEN NULL
                                      WHEN run_ops.store_of(t, id) = 'legacy' THEN 'LEGACY' ELSE 'NEW' END;
  condition text;
  hit       text;
BEGIN
  IF id IS NULL THEN
    RETURN NULL;
  ELSIF cardinality(t.key_columns) > 1 THEN
    RAISE EXCEPTION 'rows of % are not identified by one id', t.view
      USING ERRCODE = 'wrong_object_type',
            DETAIL = format('Its key is (%s).', array_to_string(t.key_columns, ', '));
  END IF;
  IF residency IS NULL AND t.key_rule IS NULL THEN
    RAISE WARNING 'id "%" is unclassifiable', left(id, 64)
      USING DETAIL = format('It has %s characters. Its row is searched for like that of a LEGACY id.', length(id));
  END IF;
  condition := format('x.%I %s', t.key_columns[1], run_ops.equals_text(t.legacy, t.key_columns[1], '$1'));
  BEGIN
    -- Of several stores that have the row, "new" is the first, also for a LEGACY
    -- id: a row there is the newer one.  All are asked at the same time.
    hit := (SELECT a.hit FROM run_ops.as_owner(t.legacy, (
              SELECT string_agg(format('SELECT %L::text, %s FROM %s AS x WHERE %s', c.store, c.precedence, c.relation, condition), ' UNION ALL ')
                FROM run_ops.copies(t) AS c
               WHERE CASE WHEN NOT run_ops.split_enabled() THEN c.store = 'legacy'
                          WHEN residency = 'NEW' THEN c.store = run_ops.store_of(t, id)
                          ELSE true END) || ' ORDER BY 2, 1 LIMIT 1', id) AS a (hit text, precedence int));
  EXCEPTION WHEN sqlclient_unable_to_establish_sqlconnection OR connection_failure THEN
    -- the view shows the row here, whatever the store has
    IF residency = 'LEGACY' AND t.routing = 'shape' THEN
      hit := (SELECT a.hit FROM run_ops.as_owner(t.legacy, format('SELECT ''legacy''::text FROM %s AS x WHERE %s', t.legacy, condition), id) AS a (hit text));
    END IF;
    IF hit IS NULL THEN
      RAISE;
    END IF;
    RAISE WARNING '%', SQLERRM USING DETAIL = 'The view shows the row of this database.';
  END;
  IF hit IS NOT NULL THEN
    RETURN hit;
  END IF;
  IF run_ops.split_enabled() AND residency IS DISTINCT FROM 'NEW' AND t.key_rule IS NULL
     AND run_ops.id_timestamp(id) < now() - retention THEN
    RETURN 'past-retention';
  ELSIF t.routing = 'shape' AND residency IS NOT NULL
        AND run_ops.is_past_partitions(t, CASE WHEN run_ops.split_enabled() THEN run_ops.store_of(t, id) ELSE 'legacy' END, id) THEN
    RETURN 'past-retention';
  END IF;
  RETURN 'not-found';
END $$;
COMMENT ON FUNCTION run_ops.locate(regclass, text, interval) IS
  'the store that holds the row of an id, or not-found, or past-retention if the row is missing, and its LEGACY id is older than the retention or its table is partitioned by ids and has no partition as old as this one; NEW ids are looked up in their store only, all others in every store, legacy last';

CREATE FUNCTION run_ops.find_strays(view regclass)
  RETURNS TABLE (store text, key jsonb, belongs_to text)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  t    run_ops.routed_table := run_ops.routed(view);
  id   text := 'x.' || quote_ident(t.route_column);
  keys text := (SELECT string_agg(format('%1$L, x.%1$I', k), ', ') FROM unnest(t.key_columns) AS k);
BEGIN
  PERFORM run_ops.refuse_incomplete();
  IF t.routing = 'store' THEN
    -- The keys of all copies at once, because the pairs of stores would be many.  A
    -- row of another store than the first one that has its key is a stray.
    RETURN QUERY SELECT a.* FROM run_ops.as_owner(t.legacy, (SELECT format(
        'SELECT x.run_ops_store, jsonb_build_object(%s), x.run_ops_first FROM (SELECT *, first_value(run_ops_store) '
        'OVER (PARTITION BY %s ORDER BY run_ops_place) AS run_ops_first FROM (%s) AS r) AS x WHERE x.run_ops_store <> x.run_ops_first',
        keys, (SELECT string_agg(format('r.%I', k), ', ') FROM unnest(t.key_columns) AS k),
        string_agg(format('SELECT %L::text AS run_ops_store, %s AS run_ops_place, %s FROM %s AS x', c.store, c.place,
                          (SELECT string_agg(format('x.%I', k), ', ') FROM unnest(t.key_columns) AS k), c.relation), ' UNION ALL ' ORDER BY c.place))
        FROM (SELECT *, row_number() OVER (ORDER BY o.precedence, o.store) AS place FROM run_ops.copies(t) AS o) AS c)) AS a (store text, key jsonb, belongs_to text);
    RETURN;
  END IF;
  -- The second condition says the same in SQL that the store can evaluate, so
  -- that the store sends strays only.
  RETURN QUERY SELECT a.* FROM run_ops.as_owner(t.legacy, (SELECT string_agg(format(
    'SELECT %L::text, jsonb_build_object(%s), coalesce(%s, ''legacy''::text) FROM %s AS x WHERE NOT %s%s',
    c.store, keys, run_ops.names_store(t, id), c.relation, run_ops.in_store(t, id, c.store),
    CASE WHEN c.store <> 'legacy' AND t.key_rule IS NULL THEN
           format(' AND (NOT (%s) OR %s IS NULL)', run_ops.in_store_there(t, id, c.store), id) END), ' UNION ALL ' ORDER BY c.store)
    FROM run_ops.copies(t) AS c)) AS a (store text, key jsonb, belongs_to text);
END $$;
COMMENT ON FUNCTION run_ops.find_strays(regclass) IS
  'rows in the wrong store while split is on: the shape of their id says that they belong in another store, so that the view does not show them; or, with routing "store", another store has a row with the same key, so that the view does not show the local row, or shows the rows of both stores. Reads the whole table in every store.';
REVOKE EXECUTE ON FUNCTION run_ops.find_strays(regclass) FROM PUBLIC;

-- read_locks: locks one row behind a view over several stores, also where
-- SELECT ... FOR UPDATE is refused.

CREATE FUNCTION run_ops.lock_copy(view regclass, relation regclass, id text, mode text, wait text) RETURNS boolean
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_lock_copy';
COMMENT ON FUNCTION run_ops.lock_copy(regclass, regclass, text, text, text) IS
  'locks the row of a routed table in one of the tables behind its view; false if the table has no such row, or if it is skipped because it is locked; called by run_ops.lock_row()';

CREATE FUNCTION run_ops.lock_row(view regclass, id text, mode text DEFAULT 'update', wait text DEFAULT 'wait') RETURNS boolean
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  t    run_ops.routed_table := run_ops.routed(view);
  copy record;
BEGIN
  IF mode IS NULL OR mode NOT IN ('update', 'no key update', 'share', 'key share') THEN
    RAISE EXCEPTION 'invalid lock mode %', coalesce(quote_literal(mode), 'NULL')
      USING ERRCODE = 'invalid_parameter_value',
            DETAIL = 'Modes are update, no key update, share and key share.';
  ELSIF wait IS NULL OR wait NOT IN ('wait', 'nowait', 'skip locked') THEN
    RAISE EXCEPTION 'invalid lock wait %', coalesce(quote_literal(wait), 'NULL')
      USING ERRCODE = 'invalid_parameter_value',
            DETAIL = 'It is wait, nowait or skip locked.';
  ELSIF cardinality(t.key_columns) > 1 THEN
    RAISE EXCEPTION 'rows of % are not identified by one id', t.view
      USING ERRCODE = 'wrong_object_type',
            DETAIL = format('Its key is (%s).', array_to_string(t.key_columns, ', '));
  END IF;
  -- the stores from which the view can show the row, in the order of the view
  FOR copy IN
    SELECT c.relation FROM run_ops.copies(t) AS c
     WHERE CASE WHEN NOT run_ops.split_enabled() THEN c.store = 'legacy'
                WHEN t.routing = 'shape' THEN c.store = coalesce(run_ops.store_of(t, id), 'legacy')
                ELSE true END
     ORDER BY c.precedence, c.store
  LOOP
    IF run_ops.lock_copy(t.view, copy.relation, id, mode, wait) THEN
      RETURN true;
    END IF;
  END LOOP;
  RETURN false;
END $$;
COMMENT ON FUNCTION run_ops.lock_row(regclass, text, text, text) IS
  'locks the row of a routed table in its store until the end of the transaction, as FOR UPDATE does; other modes are no key update, share and key share; wait is wait, nowait (55P03 if the row is locked) or skip locked (false); false if there is no such row; needs SELECT and UPDATE on the view, and with security_invoker on its tables';

-- write_routing: INSERT, UPDATE and DELETE through the views of routed tables.

CREATE FUNCTION run_ops.route_write() RETURNS trigger
  LANGUAGE c
  AS 'MODULE_PATHNAME', 'run_ops_route_write';
COMMENT ON FUNCTION run_ops.route_write() IS
  'collects the rows of a statement on a view that was not planned as statements on its tables, and writes them when it ends; access to the tables is checked as the owner of the view';
REVOKE EXECUTE ON FUNCTION run_ops.route_write() FROM PUBLIC;

CREATE FUNCTION run_ops.fire_on_replica(view regclass, trigger_name name) RETURNS void
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_fire_on_replica';
COMMENT ON FUNCTION run_ops.fire_on_replica(regclass, name) IS
  'makes a trigger of a view fire with session_replication_role = replica only, and excludes it from dumps; ALTER TABLE ... ENABLE REPLICA TRIGGER does not work for views';
REVOKE EXECUTE ON FUNCTION run_ops.fire_on_replica(regclass, name) FROM PUBLIC;

-- Called by the statements on the leaves as the one who writes, so not revoked
-- from PUBLIC.
CREATE FUNCTION run_ops.leaf_of_new_id(view oid, id text) RETURNS oid
  LANGUAGE c STABLE
  AS 'MODULE_PATHNAME', 'run_ops_leaf_of_new_id';
COMMENT ON FUNCTION run_ops.leaf_of_new_id(oid, text) IS
  'the table or foreign table to which a new row of a view goes if the id in its deciding column is this one';

CREATE FUNCTION run_ops.leaf_of_store(view oid, named text) RETURNS oid
  LANGUAGE c STABLE
  AS 'MODULE_PATHNAME', 'run_ops_leaf_of_store';
COMMENT ON FUNCTION run_ops.leaf_of_store(oid, text) IS
  'the table or foreign table of a view in the store that its key rule has named for a new row';

CREATE FUNCTION run_ops.row_stays(view oid, was text, "is" text, has_id boolean) RETURNS boolean
  LANGUAGE c STABLE
  AS 'MODULE_PATHNAME', 'run_ops_row_stays';
COMMENT ON FUNCTION run_ops.row_stays(oid, text, text, boolean) IS
  'true if the key rule of a view names the same store for a row before and after a change; an error if the row would have to move; false if it has no id any more';

CREATE FUNCTION run_ops.leaf_of_new_row(view oid, new_row record) RETURNS oid
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_leaf_of_new_row';
COMMENT ON FUNCTION run_ops.leaf_of_new_row(oid, record) IS
  'the table or foreign table to which a new row of a view goes; if its id does not decide, looks for the rows to which it refers';

CREATE FUNCTION run_ops.id_that_stays(view oid, leaf oid, old_id text, new_id text) RETURNS text
  LANGUAGE c STABLE
  AS 'MODULE_PATHNAME', 'run_ops_id_that_stays';
COMMENT ON FUNCTION run_ops.id_that_stays(oid, oid, text, text) IS
  'the new id of a row that is in this table or foreign table; an error if the row would have to move to another store';

-- Not revoked from PUBLIC: whoever adds a partition to a local table gives it
-- this trigger, for which PostgreSQL wants EXECUTE.
CREATE FUNCTION run_ops.refuse_stray() RETURNS trigger
  LANGUAGE c
  AS 'MODULE_PATHNAME', 'run_ops_refuse_stray';
COMMENT ON FUNCTION run_ops.refuse_stray() IS
  'the write lock of a local table: refuses a row if its id says that it belongs in another store';

CREATE FUNCTION run_ops.allow_strays() RETURNS void
  LANGUAGE c
  AS 'MODULE_PATHNAME', 'run_ops_allow_strays';
COMMENT ON FUNCTION run_ops.allow_strays() IS
  'lifts the write lock of local tables until the transaction ends; called when rows are copied back from a store';
REVOKE EXECUTE ON FUNCTION run_ops.allow_strays() FROM PUBLIC;

CREATE FUNCTION run_ops.owners(t run_ops.routed_table)
  RETURNS TABLE (ord int, column_name name, owner run_ops.routed_table, owner_column name)
  LANGUAGE sql STABLE ROWS 2 SET search_path = pg_catalog, pg_temp
AS $$
  -- If the key of a table does not decide, a foreign key of the local table
  -- usually refers to a table whose key does.
  SELECT a.attnum, a.attname, CASE WHEN o.route_column IS DISTINCT FROM f.attname OR o.key_rule IS NOT NULL THEN o END, f.attname
    FROM pg_constraint AS k
    JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
    JOIN pg_attribute AS f ON f.attrelid = k.confrelid AND f.attnum = k.confkey[1]
    JOIN run_ops.routed_table AS o ON o.legacy = k.confrelid
   WHERE k.conrelid = t.legacy AND k.contype = 'f' AND cardinality(k.conkey) = 1
$$;
COMMENT ON FUNCTION run_ops.owners(run_ops.routed_table) IS
  'the columns that decide which store a row belongs in if its own id does not; the first one that is not NULL counts: the shape of its value decides if owner is NULL, otherwise the store of the row of owner to which it refers';

CREATE FUNCTION run_ops.owner_columns(t run_ops.routed_table)
  RETURNS TABLE (ord bigint, column_name name, store text, query text)
  LANGUAGE sql STABLE ROWS 4 SET search_path = pg_catalog, pg_temp
AS $$
  -- If the key of the owner does not decide either, its row is looked up in all
  -- stores but the last one, where it must be if the others do not have it.
  SELECT row_number() OVER (ORDER BY o.ord, c.precedence DESC, c.store), o.column_name, c.store,
         CASE WHEN c.store <> last_value(c.store) OVER (
                PARTITION BY o.ord ORDER BY c.precedence DESC, c.store
                ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
              THEN CASE WHEN (o.owner).route_column = o.owner_column THEN format('SELECT WHERE %s', run_ops.in_store(o.owner, '$1', c.store))
                        ELSE format('SELECT FROM %s AS x WHERE x.%I OPERATOR(pg_catalog.=) $1', c.relation, o.owner_column) END END
    FROM run_ops.owners(t) AS o
    LEFT JOIN LATERAL run_ops.copies(o.owner) AS c ON NOT o.owner IS NULL
$$;
COMMENT ON FUNCTION run_ops.owner_columns(run_ops.routed_table) IS
  'the columns that decide which store a new row belongs in if its own id does not: the shape of the value decides if store is NULL, otherwise the first store where the query finds the row to which the value refers';

CREATE TABLE run_ops.view_default (
  view       regclass,
  "position" smallint,
  expression text NOT NULL,
  PRIMARY KEY (view, "position")
);
COMMENT ON TABLE run_ops.view_default IS 'the defaults that views have while split is on, as build_defaults() has set them; other defaults are the user''s';
COMMENT ON COLUMN run_ops.view_default.view IS 'the view';
COMMENT ON COLUMN run_ops.view_default."position" IS 'the number of the column in the view';
COMMENT ON COLUMN run_ops.view_default.expression IS 'the default as PostgreSQL shows it';
SELECT pg_catalog.pg_extension_config_dump('run_ops.view_default', '');

CREATE FUNCTION run_ops.default_of(relation regclass, "position" smallint) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef AS d WHERE d.adrelid = relation AND d.adnum = default_of."position"
$$;
COMMENT ON FUNCTION run_ops.default_of(regclass, smallint) IS 'the default of a column; NULL if it has none';

CREATE FUNCTION run_ops.build_defaults(t run_ops.routed_table, split boolean) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  item record;
BEGIN
  FOR item IN
    SELECT a.attname, a.attidentity, v.attnum, run_ops.default_of(t.view, v.attnum) AS had, o.expression AS own,
           CASE WHEN a.attidentity <> '' THEN
                  format('nextval(%L::regclass)', pg_get_serial_sequence(t.legacy::text, a.attname))
                WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END AS expression
      FROM pg_attribute AS a
      JOIN pg_attribute AS v ON v.attrelid = t.view AND v.attname = a.attname AND v.attnum > 0
      LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
      LEFT JOIN run_ops.view_default AS o ON o.view = t.view AND o."position" = v.attnum
     WHERE a.attrelid = t.legacy AND a.attnum > 0 AND NOT a.attisdropped
  LOOP
    IF split AND item.attidentity = 'a' THEN
      RAISE EXCEPTION 'column "%" of table % is GENERATED ALWAYS AS IDENTITY', item.attname, t.legacy
        USING ERRCODE = 'feature_not_supported',
              DETAIL = 'One sequence must generate the values for every store, so the stores must accept values from here.',
              HINT = format('Run in every database: ALTER TABLE %s ALTER COLUMN %I SET GENERATED BY DEFAULT',
                            t.legacy, item.attname);
    END IF;
    DELETE FROM run_ops.view_default AS o WHERE o.view = t.view AND o."position" = item.attnum;
    IF item.had IS NOT NULL AND item.had IS DISTINCT FROM item.own THEN
      CONTINUE;  -- the user's
    ELSIF split AND item.expression IS NOT NULL THEN
      EXECUTE format('ALTER VIEW %s ALTER COLUMN %I SET DEFAULT %s', t.view, item.attname, item.expression);
      INSERT INTO run_ops.view_default VALUES (t.view, item.attnum, run_ops.default_of(t.view, item.attnum));
    ELSIF item.had IS NOT NULL THEN
      EXECUTE format('ALTER VIEW %s ALTER COLUMN %I DROP DEFAULT', t.view, item.attname);
    END IF;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.build_defaults(run_ops.routed_table, boolean) IS
  'gives the view the defaults of the local table, unless it has one that a user has set, because a trigger cannot distinguish an omitted column from NULL; the sequence of this database generates the values for every store';
REVOKE EXECUTE ON FUNCTION run_ops.build_defaults(run_ops.routed_table, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.build_triggers(t run_ops.routed_table, split boolean) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  part record;
  old  record;
BEGIN
  PERFORM run_ops.build_defaults(t, split);
  FOR old IN
    SELECT g.tgname, g.tgrelid::regclass AS relation FROM pg_trigger AS g
     WHERE g.tgrelid IN (t.view, t.legacy) AND g.tgparentid = 0
       AND g.tgfoid IN ('run_ops.route_write()'::regprocedure, 'run_ops.refuse_stray()'::regprocedure)
  LOOP
    EXECUTE format('DROP TRIGGER %I ON %s', old.tgname, old.relation);
  END LOOP;
  IF NOT split THEN
    RETURN;
  END IF;
  -- Each trigger has a twin for session_replication_role = replica. Without it,
  -- a write under that setting would silently lose the rows.
  FOR part IN
    SELECT p.*, replica, 'run_ops_' || CASE WHEN replica THEN 'replica_' ELSE '' END || p.name AS trigger_name
      FROM (VALUES ('begin', 'BEFORE', 'STATEMENT'), ('route', 'INSTEAD OF', 'ROW'), ('write', 'AFTER', 'STATEMENT'))
           AS p (name, timing, level), (VALUES (false), (true)) AS r (replica)
  LOOP
    EXECUTE format('CREATE TRIGGER %s %s INSERT OR UPDATE OR DELETE ON %s '
                   'FOR EACH %s EXECUTE FUNCTION run_ops.route_write()',
                   part.trigger_name, part.timing, t.view, part.level);
    PERFORM run_ops.fire_on_replica(t.view, part.trigger_name) WHERE part.replica;
  END LOOP;

  -- with routing "store", a row can be in any store, and there is no such lock
  IF t.route_column IS NOT NULL THEN
    EXECUTE format('CREATE TRIGGER run_ops_write_lock AFTER INSERT OR UPDATE ON %s '
                   'FOR EACH ROW WHEN (NOT %s) '
                   'EXECUTE FUNCTION run_ops.refuse_stray(%L)', t.legacy,
                   run_ops.in_store(t, format('NEW.%I', t.route_column), 'legacy'), t.route_column);
    -- it must fire for replicated rows as well
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER run_ops_write_lock', t.legacy);
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.build_triggers(run_ops.routed_table, boolean) IS
  'with split on, creates the triggers of the view of a routed table and the write lock of its local table; with split off, removes them';
REVOKE EXECUTE ON FUNCTION run_ops.build_triggers(run_ops.routed_table, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.store_write_lock(view regclass, store text DEFAULT 'new') RETURNS text
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  t    run_ops.routed_table := run_ops.routed(view);
  name text := coalesce(t.column_names ->> t.route_column, t.route_column);
BEGIN
  IF NOT EXISTS (SELECT FROM run_ops.routed_store AS r WHERE r.view = t.view AND r.store = store) THEN
    RAISE EXCEPTION 'view % has no table in store %', t.view, coalesce(quote_ident(store), 'NULL')
      USING ERRCODE = 'undefined_object', HINT = 'run_ops.routed_store lists the stores of each view.';
  ELSIF t.route_column IS NULL THEN
    RETURN NULL;
  END IF;
  RETURN format('ALTER TABLE %I.%I ADD CONSTRAINT run_ops_write_lock CHECK (%I IS NOT NULL AND (%s)) NOT VALID',
                t.store_schema, t.store_table, name, run_ops.in_store_there(t, quote_ident(name), store));
END $$;
COMMENT ON FUNCTION run_ops.store_write_lock(regclass, text) IS
  'SQL to run in a store: adds a constraint that refuses rows which do not belong in the store, and that needs no extension there; run_ops.find_strays() lists existing rows that do not belong there; NULL if the table has no column that decides';

-- in_doubt: finds rows that a crash between two commits has left without the
-- row they refer to, and finishes transactions that a crash has left prepared.

CREATE TABLE run_ops.known_reference (
  child       name,
  column_name name,
  parent      name NOT NULL,
  PRIMARY KEY (child, column_name)
);
COMMENT ON TABLE run_ops.known_reference IS 'columns that refer to another table without a foreign key, of tables that are known by their names';
COMMENT ON COLUMN run_ops.known_reference.child IS 'the table that refers';
COMMENT ON COLUMN run_ops.known_reference.column_name IS 'the column that refers';
COMMENT ON COLUMN run_ops.known_reference.parent IS 'the table to which it refers';
GRANT SELECT ON run_ops.known_reference TO PUBLIC;

CREATE VIEW run_ops.relation_between AS
  SELECT t.view, a.attname AS column_name, o.view AS referenced
    FROM pg_catalog.pg_constraint AS k
    JOIN run_ops.routed_table AS t ON t.legacy OPERATOR(pg_catalog.=) k.conrelid
    JOIN run_ops.routed_table AS o ON o.legacy OPERATOR(pg_catalog.=) k.confrelid
    JOIN pg_catalog.pg_attribute AS a
      ON a.attrelid OPERATOR(pg_catalog.=) k.conrelid AND a.attnum OPERATOR(pg_catalog.=) k.conkey[1]
   WHERE k.contype OPERATOR(pg_catalog.=) 'f' AND pg_catalog.cardinality(k.conkey) OPERATOR(pg_catalog.=) 1
  UNION
  -- references without a foreign key
  SELECT t.view, a.attname, o.view
    FROM run_ops.known_reference AS known
    JOIN pg_catalog.pg_class AS c ON c.relname OPERATOR(pg_catalog.=) known.child
    JOIN run_ops.routed_table AS t ON t.legacy OPERATOR(pg_catalog.=) c.oid
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) c.oid
     AND a.attname OPERATOR(pg_catalog.=) known.column_name
    JOIN pg_catalog.pg_class AS p ON p.relname OPERATOR(pg_catalog.=) known.parent
    JOIN run_ops.routed_table AS o ON o.legacy OPERATOR(pg_catalog.=) p.oid;
COMMENT ON VIEW run_ops.relation_between IS
  'the columns of routed tables that refer to a routed table';

CREATE FUNCTION run_ops.in_doubt()
  RETURNS TABLE (store text, view regclass, key jsonb, column_name name, missing text)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  r record;
BEGIN
  PERFORM run_ops.refuse_incomplete() WHERE run_ops.split_enabled();
  -- the rows of all stores in one query, because each looks in all stores
  FOR r IN
    SELECT b.column_name AS referring, o.view AS referenced, o.key_columns[1] AS referenced_key, t.view, t.key_columns,
           run_ops.weaker_owner(t.legacy, o.legacy) AS owned, run_ops.equality_operator(o.legacy, o.key_columns[1]) AS equals,
           string_agg(format('SELECT %L::text AS run_ops_store, %s FROM %s AS x WHERE x.%I IS NOT NULL%s', c.store,
             (SELECT string_agg(format('x.%I', k), ', ') FROM (SELECT unnest(t.key_columns) UNION SELECT b.column_name) AS u (k)), c.relation, b.column_name,
             -- not strays, which the view does not show
             CASE WHEN t.route_column IS NOT NULL THEN ' AND ' || run_ops.in_store(t, format('x.%I', t.route_column), c.store) END), ' UNION ALL ' ORDER BY c.store) AS rows
      FROM run_ops.relation_between AS b
      JOIN run_ops.routed_table AS t ON t.view = b.view
      JOIN run_ops.routed_table AS o ON o.view = b.referenced,
           LATERAL run_ops.copies(t) AS c
     WHERE run_ops.split_enabled() OR c.store = 'legacy'
     GROUP BY t, t.view, t.key_columns, t.legacy, b.column_name, o.view, o.key_columns, o.legacy
     ORDER BY t.view::text, b.column_name
  LOOP
    RETURN QUERY SELECT a.* FROM run_ops.as_owner(r.owned, format(
      'SELECT x.run_ops_store, %L::regclass, jsonb_build_object(%s), %L::name, x.%3$I::text FROM (%s) AS x '
      'WHERE NOT EXISTS (SELECT FROM %s AS y WHERE y.%I %s x.%3$I)',
      r.view, (SELECT string_agg(format('%1$L, x.%1$I', k), ', ') FROM unnest(r.key_columns) AS k), r.referring, r.rows,
      r.referenced, r.referenced_key, r.equals)) AS a (store text, view regclass, key jsonb, column_name name, missing text);
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.in_doubt() IS
  'rows that refer to a row which is in no store; they remain if one database has committed its part of a transaction and another one has not; reads the tables in every store';
REVOKE EXECUTE ON FUNCTION run_ops.in_doubt() FROM PUBLIC;
GRANT SELECT ON run_ops.relation_between TO PUBLIC;

-- SECURITY DEFINER: whoever may switch split may finish what is left, with the
-- user mappings with which it was written.
CREATE FUNCTION run_ops.resolve_in_doubt()
  RETURNS TABLE (store text, name text, prepared_since timestamptz, outcome text)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  s    record;
  seen text[];
BEGIN
  PERFORM run_ops.refuse_in_copy();
  FOR s IN SELECT r.name, r.server FROM run_ops.store AS r WHERE r.server IS NOT NULL ORDER BY r.name LOOP
    seen := '{}';
    BEGIN
      -- each user of the store may finish its own only
      FOR name, prepared_since, outcome IN
        SELECT p.name, p.prepared_since, p.outcome
          FROM (SELECT DISTINCT coalesce(nullif(m.umuser, 0), u.oid) AS role
                  FROM pg_user_mappings AS m, pg_roles AS u
                 WHERE m.srvname = s.server AND u.rolname = current_user) AS m,
               LATERAL run_ops.resolve_prepared(s.server, m.role) AS p
      LOOP
        IF name <> ALL (seen) THEN
          seen := seen || name;
          store := s.name;
          RETURN NEXT;
        END IF;
      END LOOP;
      -- and what none of them may
      RETURN QUERY
        SELECT s.name, a ->> 'gid', (a ->> 'prepared')::timestamptz,
               format('undecided: it belongs to role "%s" of the store, which no user mapping uses', a ->> 'owner')
          FROM run_ops.left_in_store(s.name) AS a WHERE a ->> 'gid' <> ALL (seen);
    EXCEPTION WHEN OTHERS THEN
      RAISE WARNING 'store "%" was not asked for prepared transactions', s.name USING DETAIL = SQLERRM;
    END;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.resolve_in_doubt() IS
  'finishes transactions that a crash or a lost connection has left prepared in a store (run_ops_split.cross_store_writes = atomic): commits there what was committed here, rolls back what was not. One row for each: "committed", "rolled back", "in progress", "failed: " and the error, or "undecided: " and why.';

CREATE FUNCTION run_ops.left_in_store(store text) RETURNS SETOF jsonb
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT * FROM run_ops.ask_store(store,
    'SELECT p.gid, p.prepared, p.owner FROM pg_prepared_xacts AS p '
    'WHERE p.database = current_database() AND starts_with(p.gid, ''run_ops_split:'') ORDER BY p.prepared, p.gid')
$$;
COMMENT ON FUNCTION run_ops.left_in_store(text) IS
  'the prepared transactions of atomic commits in a store, with their owners';
REVOKE EXECUTE ON FUNCTION run_ops.resolve_in_doubt(), run_ops.left_in_store(text) FROM PUBLIC;

-- split_mode: switching split on and off, and the audit log.

CREATE TABLE run_ops.audit_log (
  id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at     timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  role   name NOT NULL DEFAULT SESSION_USER,
  action text NOT NULL,
  detail jsonb NOT NULL
);
COMMENT ON TABLE run_ops.audit_log IS 'every change of split mode, of its configuration, of acknowledgements and of the shards for new ids';
COMMENT ON COLUMN run_ops.audit_log.id IS 'the order of the rows';
COMMENT ON COLUMN run_ops.audit_log.at IS 'when the action was done';
COMMENT ON COLUMN run_ops.audit_log.role IS 'who did it: the session user';
COMMENT ON COLUMN run_ops.audit_log.action IS 'configure, acknowledge, withdraw acknowledgement, trust standby, set mint shards, set key rule, move strays, enable split, remove leftovers or disable split';
COMMENT ON COLUMN run_ops.audit_log.detail IS 'the arguments or results of the action';
COMMENT ON SEQUENCE run_ops.audit_log_id_seq IS 'the ids of run_ops.audit_log';

CREATE FUNCTION run_ops.audit(action text, detail jsonb) RETURNS void
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  INSERT INTO run_ops.audit_log (action, detail) VALUES (action, detail)
$$;
COMMENT ON FUNCTION run_ops.audit(text, jsonb) IS 'adds a row to run_ops.audit_log';
REVOKE EXECUTE ON FUNCTION run_ops.audit(text, jsonb) FROM PUBLIC;

CREATE TYPE run_ops.gate AS (gate text, object text, ok boolean, detail text, hint text);
COMMENT ON TYPE run_ops.gate IS
  'the result of one gate, a condition for split mode: ok is NULL if it could not be checked, and then the gate fails as well';

CREATE TABLE run_ops.acknowledgement (
  gate   text,
  object text,
  reason text NOT NULL,
  role   name NOT NULL DEFAULT SESSION_USER,
  at     timestamptz NOT NULL DEFAULT pg_catalog.now(),
  PRIMARY KEY (gate, object)
);
COMMENT ON TABLE run_ops.acknowledgement IS
  'the failing gates that an operator has accepted; pg_dump dumps them';
COMMENT ON COLUMN run_ops.acknowledgement.gate IS 'the gate, as in run_ops.check_split()';
COMMENT ON COLUMN run_ops.acknowledgement.object IS 'the object, as in run_ops.check_split()';
COMMENT ON COLUMN run_ops.acknowledgement.reason IS 'why it was accepted';
COMMENT ON COLUMN run_ops.acknowledgement.role IS 'who accepted it';
COMMENT ON COLUMN run_ops.acknowledgement.at IS 'when it was accepted';
SELECT pg_catalog.pg_extension_config_dump('run_ops.acknowledgement', '');
GRANT SELECT ON run_ops.acknowledgement TO PUBLIC;

-- Why functions from here to the end of the file are SECURITY DEFINER: only the
-- owner of the views can replace them, and only its user mapping gives access to
-- the stores.  A role with EXECUTE on these functions can change the mode
-- without having either.

CREATE FUNCTION run_ops.bind_server() RETURNS void
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  UPDATE run_ops.split_state SET identities = ARRAY[run_ops.server_identity()], enabled = false
   WHERE run_ops.server_identity() <> ALL (identities)
$$;
COMMENT ON FUNCTION run_ops.bind_server() IS
  'makes this server the only one that may use the stores, and sets split off, unless the server may already use them';
REVOKE EXECUTE ON FUNCTION run_ops.bind_server() FROM PUBLIC;

CREATE FUNCTION run_ops.trust_standby(identity text) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF identity IS NULL OR identity !~ '^[0-9]+/[0-9]+@.*#[0-9a-f]+$' THEN
    RAISE EXCEPTION 'invalid server identity %', coalesce(quote_literal(identity), 'NULL')
      USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Run on the standby: SELECT run_ops.server_identity();';
  END IF;
  UPDATE run_ops.split_state SET identities = identities || identity
   WHERE identity <> ALL (identities);
  PERFORM run_ops.audit('trust standby', jsonb_build_object('identity', identity));
END $$;
COMMENT ON FUNCTION run_ops.trust_standby(text) IS
  'lets a standby read the stores, and use them after its promotion; in any other copy of this database split stays suspended';

CREATE FUNCTION run_ops.acknowledge(gate text, object text, reason text) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
  IF gate IS NULL OR gate <> ALL (run_ops.acknowledgeable_gates()) THEN
    RAISE EXCEPTION 'gate % cannot be acknowledged', coalesce(quote_literal(gate), 'NULL')
      USING ERRCODE = 'invalid_parameter_value',
            DETAIL = format('These gates can be acknowledged: %s.', array_to_string(run_ops.acknowledgeable_gates(), ', '));
  END IF;
  INSERT INTO run_ops.acknowledgement AS a VALUES (gate, object, reason)
  ON CONFLICT ON CONSTRAINT acknowledgement_pkey DO UPDATE
     SET reason = excluded.reason, role = excluded.role, at = excluded.at;
  PERFORM run_ops.audit('acknowledge', jsonb_build_object('gate', gate, 'object', object, 'reason', reason));
END $$;
COMMENT ON FUNCTION run_ops.acknowledge(text, text, text) IS
  'accepts that a gate fails for one object; gate and object are those of run_ops.check_split()';

CREATE FUNCTION run_ops.withdraw_acknowledgement(gate text, object text) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
  DELETE FROM run_ops.acknowledgement AS a WHERE a.gate = gate AND a.object = object;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'gate % is not acknowledged for %', quote_literal(gate), quote_literal(object)
      USING ERRCODE = 'undefined_object', HINT = 'SELECT gate, object FROM run_ops.acknowledgement;';
  END IF;
  PERFORM run_ops.audit('withdraw acknowledgement', jsonb_build_object('gate', gate, 'object', object));
END $$;
COMMENT ON FUNCTION run_ops.withdraw_acknowledgement(text, text) IS
  'removes an acknowledgement, so that run_ops.check_split() reports the gate as failing again; does not change split mode';

CREATE FUNCTION run_ops.configure_split(opted_in boolean DEFAULT NULL, native_realtime boolean DEFAULT NULL)
  RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
  IF NOT opted_in THEN
    PERFORM run_ops.refuse_while_split('opt out');
  END IF;
  UPDATE run_ops.split_state AS s
     SET opted_in = coalesce(opted_in, s.opted_in),
         native_realtime = coalesce(native_realtime, s.native_realtime);
  PERFORM run_ops.refuse_local_readers();
  PERFORM run_ops.audit('configure', jsonb_strip_nulls(
    jsonb_build_object('opted_in', opted_in, 'native_realtime', native_realtime)));
END $$;
COMMENT ON FUNCTION run_ops.configure_split(boolean, boolean) IS
  'sets whether split mode is opted in to, and whether realtime readers see the rows of every store; NULL leaves a value unchanged';

-- The gate "realtime" is checked when split is enabled.  The next functions
-- check it while split is on: no reader may be added that follows this
-- database only.

CREATE FUNCTION run_ops.refuse_local_readers() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  blind run_ops.gate;
BEGIN
  SELECT a.* INTO blind FROM run_ops.realtime_gates() AS g, run_ops.acknowledged(g) AS a
   WHERE a.ok IS NOT TRUE LIMIT 1;
  IF FOUND AND run_ops.split_enabled() THEN
    RAISE EXCEPTION '% would not include the rows of the stores while split is on', blind.object
      USING ERRCODE = 'object_in_use', DETAIL = upper(left(blind.detail, 1)) || substr(blind.detail, 2) || '.', HINT = blind.hint;
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_local_readers() IS
  'raises an error if split is on and a realtime reader follows this database only, unless an operator has acknowledged it';

-- SECURITY DEFINER: a role that creates a publication need not have privileges
-- on schema run_ops.
CREATE FUNCTION run_ops.guard_publications() RETURNS event_trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  PERFORM run_ops.refuse_local_readers();
END $$;
COMMENT ON FUNCTION run_ops.guard_publications() IS
  'event trigger: refuses a publication of a routed table while split is on, unless an operator has acknowledged it';
CREATE EVENT TRIGGER run_ops_guard_publications ON ddl_command_end
  WHEN TAG IN ('CREATE PUBLICATION', 'ALTER PUBLICATION')
  EXECUTE FUNCTION run_ops.guard_publications();
COMMENT ON EVENT TRIGGER run_ops_guard_publications IS
  'refuses publications of routed tables while split is on; replication slots that need no publication are reported by run_ops.check_split()';

-- Switching -------------------------------------------------------------------

CREATE FUNCTION run_ops.block_writes() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  views text := (SELECT string_agg(t.view::text, ', ' ORDER BY t.view) FROM run_ops.routed_table AS t WHERE run_ops.is_relation(t.view, '{v}'));
BEGIN
  IF views IS NOT NULL THEN
    -- LOCK TABLE on a view also locks the local table of the view
    EXECUTE 'LOCK TABLE ' || views || ' IN SHARE MODE';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.block_writes() IS
  'waits for transactions that write to a routed table, and blocks writes to all of them until the transaction ends; does not block reads';
REVOKE EXECUTE ON FUNCTION run_ops.block_writes() FROM PUBLIC;

CREATE FUNCTION run_ops.attempt_switch(split boolean, repatriated boolean) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  moved boolean := split AND (SELECT s.superseded OR s.moving FROM run_ops.split_state AS s);
BEGIN
  PERFORM run_ops.block_writes();
  -- A crash must not undo the switch: clients rely on it once it is committed.
  PERFORM set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off';
  IF moved THEN
    PERFORM run_ops.finish_move_to_stores();
  ELSIF split THEN
    PERFORM run_ops.refuse_failing_gates('cannot enable split mode',
      ARRAY(SELECT g FROM run_ops.local_stray_gates() AS g));
  ELSIF repatriated THEN
    PERFORM run_ops.finish_repatriation();
  END IF;
  UPDATE run_ops.split_state
     SET enabled = split, superseded = NOT split AND (repatriated OR superseded), moving = NOT split AND NOT repatriated AND moving,
         changed_at = clock_timestamp();
  PERFORM run_ops.forget_leftovers() WHERE NOT split;
  PERFORM run_ops.swap_views(split);
  PERFORM run_ops.drop_restored_work();
  IF moved OR repatriated THEN
    PERFORM run_ops.stop_tracking(split);
    DELETE FROM run_ops.row_to_check;
    DELETE FROM run_ops.copy_progress;
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.attempt_switch(boolean, boolean) IS
  'one attempt to switch: blocks writes, moves the rows that are not moved yet, and replaces the views';
REVOKE EXECUTE ON FUNCTION run_ops.attempt_switch(boolean, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.switch_split(split boolean, repatriated boolean) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  attempts int;
  seconds  numeric;
BEGIN
  SELECT * INTO attempts, seconds
    FROM run_ops.in_attempts(format('SELECT run_ops.attempt_switch(%L, %L)', split, repatriated));
  PERFORM run_ops.audit(CASE WHEN split THEN 'enable split' ELSE 'disable split' END,
    jsonb_build_object('repatriated', repatriated, 'attempt', attempts, 'locked_ms', round(seconds * 1000, 1)));
END $$;
COMMENT ON FUNCTION run_ops.switch_split(boolean, boolean) IS
  'switches split on or off in several attempts, each of which waits only briefly for its locks, and adds a row to the audit log';
REVOKE EXECUTE ON FUNCTION run_ops.switch_split(boolean, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.refuse_failing_gates(what text, gates run_ops.gate[]) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  failing text := (SELECT string_agg(concat_ws(' ', g.gate, nullif(g.object, '')) || ': ' || g.detail, E'\n')
                     FROM unnest(gates) AS g WHERE g.ok IS NOT TRUE);
BEGIN
  IF failing IS NOT NULL THEN
    RAISE EXCEPTION '%', what
      USING ERRCODE = 'RO003', DETAIL = failing,
            HINT = 'SELECT * FROM run_ops.check_split() WHERE ok IS NOT TRUE;';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_failing_gates(text, run_ops.gate[]) IS
  'raises one error with all gates that fail, if there are any';

CREATE FUNCTION run_ops.undone(command text) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  EXECUTE command;
  RAISE EXCEPTION 'to be undone' USING ERRCODE = 'UNDO0';
EXCEPTION WHEN SQLSTATE 'UNDO0' THEN NULL;
END $$;
COMMENT ON FUNCTION run_ops.undone(text) IS 'runs a command and undoes what it has changed here; its errors and notices remain';
REVOKE EXECUTE ON FUNCTION run_ops.undone(text) FROM PUBLIC;

CREATE FUNCTION run_ops.announce_switch(split boolean, repatriated boolean) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  copies  boolean := repatriated OR split AND (SELECT s.superseded OR s.moving FROM run_ops.split_state AS s);
  reason  text;
  lines   text[] := '{}';
  r       record;
  n       record;
  since   timestamptz;
  work    bigint := 0;  -- rows
  placed  bigint := 0;
  sampled bigint := 0;
  spent   interval := '0';
  -- what any switch takes: as the fastest one so far, or about 15 ms for each view
  blocked interval := coalesce(
    (SELECT min((a.detail ->> 'locked_ms')::float8) FROM run_ops.audit_log AS a WHERE a.action IN ('enable split', 'disable split')) * interval '1 ms',
    (SELECT count(*) FROM run_ops.routed_table) * interval '15 ms');
BEGIN
  since := clock_timestamp();
  IF copies THEN
    reason := run_ops.reason_to_compare_all(split);
    IF reason IS NULL THEN
      work := (SELECT sum((a ->> 'n')::bigint) FROM run_ops.tracked_places(split) AS p, LATERAL run_ops.ask_place(p, 'SELECT count(*) AS n FROM run_ops_changes.note') AS a);
      lines := lines || format('%s tracked changes would be compared, those before the switch while the service runs.', work);
    END IF;
    FOR r IN SELECT t, c.store, c.n FROM run_ops.store_row_counts() AS c JOIN run_ops.routed_table AS t USING (view) LOOP
      work := work + CASE WHEN reason IS NULL THEN 0 ELSE r.n END;
      placed := placed + CASE (r.t).routing WHEN 'store' THEN r.n ELSE 0 END;
      -- how long it takes to compare some of the rows
      since := clock_timestamp();
      SELECT * INTO n FROM run_ops.next_range(run_ops.mirror_of(r.t, r.store, split), NULL, 1000, split);
      PERFORM run_ops.range_differs(n.part, NULL, n.upto);
      spent := spent + (clock_timestamp() - since);
      sampled := sampled + least(r.n, 1000);
    END LOOP;
    IF reason IS NOT NULL THEN
      lines := lines || format('All %s rows would be compared while writes are blocked. %s', work, reason);
    END IF;
    IF placed > 0 THEN
      lines := lines || format('%s rows of tables with routing "store" would be %s while writes are blocked.', placed,
                               CASE WHEN split THEN 'deleted from the local tables' ELSE 'put into the local tables' END);
    END IF;
    blocked := blocked + spent / greatest(sampled, 1) * (work + placed);
  ELSIF split THEN
    -- strays are counted while writes are blocked
    PERFORM FROM run_ops.local_stray_gates();
    blocked := blocked + (clock_timestamp() - since);
    lines := lines || 'No row would be moved.'::text;
  ELSE
    lines := lines || 'No row would be copied.'::text;
  END IF;
  IF NOT split AND EXISTS (SELECT FROM run_ops.leftover) THEN
    lines := lines || 'Leftovers would be removed before.'::text;
  END IF;
  RAISE NOTICE 'split can be switched %', CASE WHEN split THEN 'on' ELSE 'off' END
    USING DETAIL = array_to_string(lines || format('Writes would be blocked for about %s ms.', round(extract(epoch FROM blocked) * 1000)), E'\n'),
          HINT = 'After the switch, locked_ms in run_ops.audit_log tells for how long writes were blocked.';
END $$;
COMMENT ON FUNCTION run_ops.announce_switch(boolean, boolean) IS
  'raises a notice with the rows that a switch would move or compare, and an estimate of how long it would block writes';
REVOKE EXECUTE ON FUNCTION run_ops.announce_switch(boolean, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.refuse_to_enable(dry_run boolean) RETURNS run_ops.gate[]
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  gates  run_ops.gate[];
  was_on boolean := (SELECT s.enabled FROM run_ops.split_state AS s);
BEGIN
  PERFORM run_ops.refuse_taken_names(t) FROM run_ops.routed_table AS t;
  PERFORM run_ops.bind_server();
  -- a restored database does not have the setting
  PERFORM run_ops.preload();
  PERFORM run_ops.in_attempts('SELECT run_ops.stop_tracking()')
    WHERE NOT dry_run AND EXISTS (SELECT FROM run_ops.change_tracking AS n WHERE n.forward IS NULL);
  -- In a copy that was made with split on, bind_server() has set it off.  But
  -- the views, the write lock and repatriated rows are still those of split on,
  -- and the gates must judge them so.
  UPDATE run_ops.split_state AS s SET enabled = was_on WHERE s.enabled <> was_on;
  -- the views are made anew
  gates := ARRAY(SELECT a FROM run_ops.gates() AS g, run_ops.acknowledged(g) AS a WHERE g.gate <> 'view');
  PERFORM run_ops.refuse_failing_gates('cannot enable split mode', gates);
  PERFORM run_ops.follow_orders() WHERE NOT dry_run;
  IF (SELECT s.superseded OR s.moving FROM run_ops.split_state AS s) THEN
    PERFORM run_ops.prepare_switch(true) WHERE NOT dry_run;
    PERFORM run_ops.refuse_stranded();
  END IF;
  RETURN gates;
END $$;
COMMENT ON FUNCTION run_ops.refuse_to_enable(boolean) IS
  'does all that enable_split() does before the switch, and raises its errors; returns the gates. dry_run: without what cannot be undone, or locks tables';
REVOKE EXECUTE ON FUNCTION run_ops.refuse_to_enable(boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.enable_split(dry_run boolean DEFAULT false) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
  gates    run_ops.gate[];
  unlocked text;
BEGIN
  PERFORM run_ops.lock_registry() WHERE NOT dry_run;
  IF run_ops.split_enabled() THEN
    RAISE NOTICE 'split is already on';
    RETURN;
  ELSIF dry_run THEN
    PERFORM run_ops.undone('SELECT run_ops.refuse_to_enable(true), run_ops.announce_switch(true, false)');
    RETURN;
  END IF;
  gates := run_ops.refuse_to_enable(false);
  PERFORM run_ops.switch_split(true, false);
  IF EXISTS (SELECT FROM run_ops.leftover) THEN
    RAISE NOTICE 'rows that moved to a store are still in the local tables, but the views do not show them'
      USING HINT = 'To remove them, repeat until done: SELECT * FROM run_ops.remove_leftovers();';
  END IF;
  unlocked := (SELECT string_agg(DISTINCT g.object, ', ') FROM unnest(gates) AS g
                WHERE g.gate = 'write lock' AND g.detail LIKE 'missing in store %');
  IF unlocked IS NOT NULL THEN
    RAISE NOTICE 'tables have no write lock in a store'
      USING DETAIL = unlocked, HINT = 'For the SQL to run in the store: SELECT object, hint FROM run_ops.check_split() WHERE gate = ''write lock'';';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.enable_split(boolean) IS
  'switches split on for all sessions; raises an error if a gate of run_ops.check_split() fails. dry_run => true raises the same errors, changes nothing, and tells for how long writes would be blocked.';

CREATE FUNCTION run_ops.refuse_hidden_rows() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  hidden text := (SELECT string_agg(format('%s: %s in store "%s"', r.view, r.n, r.store), E'\n' ORDER BY r.view, r.store)
                    FROM run_ops.store_row_counts() AS r WHERE r.n > 0);
BEGIN
  IF hidden IS NOT NULL THEN
    RAISE EXCEPTION 'rows of the stores would disappear from the views'
      USING ERRCODE = 'object_in_use', DETAIL = hidden,
            HINT = 'To copy them here, repeat until done: SELECT * FROM run_ops.repatriate(); and then: SELECT run_ops.disable_split(repatriated => true); To leave them out: SELECT run_ops.disable_split(force => true);';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_hidden_rows() IS
  'raises an error with the number of rows of each table in each store, if there are any';
REVOKE EXECUTE ON FUNCTION run_ops.refuse_hidden_rows() FROM PUBLIC;

CREATE FUNCTION run_ops.disable_split(force boolean DEFAULT false, repatriated boolean DEFAULT false, dry_run boolean DEFAULT false)
  RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
  IF force AND repatriated THEN
    RAISE EXCEPTION 'force and repatriated cannot be used together'
      USING ERRCODE = 'invalid_parameter_value',
            DETAIL = 'force leaves the rows of the stores out, repatriated requires all of them to be copied here.';
  END IF;
  PERFORM run_ops.lock_registry() WHERE NOT dry_run;
  IF NOT force THEN
    PERFORM run_ops.refuse_in_copy();
    PERFORM run_ops.refuse_incomplete();
  END IF;
  IF (SELECT s.superseded OR NOT (s.enabled OR force OR repatriated) FROM run_ops.split_state AS s) THEN
    RAISE NOTICE 'split is already off';
    RETURN;
  ELSIF NOT force AND NOT repatriated THEN
    PERFORM run_ops.refuse_hidden_rows();
  END IF;
  PERFORM run_ops.clear_leftovers(force, repatriated) WHERE NOT dry_run;
  IF repatriated THEN
    PERFORM run_ops.refuse_conflicts() WHERE dry_run OR run_ops.reason_to_compare_all(false) IS NOT NULL;
    PERFORM run_ops.prepare_switch(false) WHERE NOT dry_run;
    PERFORM run_ops.refuse_conflicts() WHERE EXISTS (SELECT FROM run_ops.copy_progress AS c WHERE c.skipped > 0);
  END IF;
  IF force AND EXISTS (SELECT FROM run_ops.copy_progress AS c WHERE c.copied > 0 AND NOT c.forward) THEN
    RAISE WARNING 'the views show rows of the stores as they were when run_ops.repatriate() copied them'
      USING DETAIL = 'Later changes in the stores are left out.';
  END IF;
  IF dry_run THEN
    PERFORM run_ops.undone(format('SELECT run_ops.announce_switch(false, %L)', repatriated));
    RETURN;
  END IF;
  PERFORM run_ops.switch_split(false, repatriated);
  IF NOT force AND NOT repatriated THEN
    -- once more, because now that writes are blocked no row can be added
    PERFORM run_ops.await_store_writers();
    PERFORM run_ops.refuse_hidden_rows();
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.disable_split(boolean, boolean, boolean) IS
  'switches split off for all sessions; raises an error if rows of the stores would disappear from the views. repatriated => true copies the rows that run_ops.repatriate() has not copied yet, and verifies all. force => true leaves the rows of the stores out. dry_run => true raises the same errors, except those about rows that are only copied or removed by the switch, changes nothing, and tells for how long writes would be blocked.';

CREATE VIEW run_ops.split_status AS
  SELECT CASE WHEN run_ops.split_enabled() THEN 'on'
              WHEN run_ops.server_identity() OPERATOR(pg_catalog.=) ANY (s.identities) THEN 'off'
              -- only the views for split on have this rule
              WHEN EXISTS (SELECT FROM run_ops.routed_table AS t WHERE run_ops.has_union_rule(t.view)) THEN 'suspended'
              ELSE 'off' END AS split,
         CASE WHEN run_ops.split_enabled() THEN NULL
              WHEN NOT EXISTS (SELECT FROM run_ops.store WHERE server IS NOT NULL) THEN 'no store is attached'
              WHEN run_ops.server_identity() OPERATOR(pg_catalog.<>) ALL (s.identities)
              THEN 'this is a copy of the database in which the stores were attached'
              WHEN NOT s.opted_in THEN 'not opted in'
              WHEN s.superseded THEN 'disabled, with all rows repatriated'
              ELSE 'configured but not enabled' END AS reason,
         s.changed_at,
         ARRAY(SELECT r.name FROM run_ops.store AS r WHERE r.server IS NOT NULL) AS stores,
         (SELECT pg_catalog.count(*) FROM run_ops.routed_table) AS routed_tables,
         s.native_realtime,
         run_ops.server_identity() AS this_server,
         s.identities AS bound_to
    FROM run_ops.split_state AS s;
COMMENT ON VIEW run_ops.split_status IS
  'whether split is on, off or suspended (in a copy), and why; does not contact a store';
GRANT SELECT ON run_ops.split_status TO PUBLIC;

CREATE FUNCTION run_ops.grant_admin(role regrole) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  admin text;
BEGIN
  FOREACH admin IN ARRAY run_ops.admin_functions() LOOP
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', admin, role);
  END LOOP;
  EXECUTE format('GRANT USAGE ON SCHEMA run_ops TO %s', role);
  EXECUTE format('GRANT SELECT ON run_ops.audit_log TO %s', role);
END $$;
COMMENT ON FUNCTION run_ops.grant_admin(regrole) IS
  'lets a role change split mode and the shards for new ids: grants EXECUTE on run_ops.admin_functions() and SELECT on the audit log';

CREATE FUNCTION run_ops.grant_viewer(role regrole) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  seen text;
BEGIN
  EXECUTE format('GRANT USAGE ON SCHEMA run_ops TO %s', role);
  FOREACH seen IN ARRAY run_ops.viewer_functions() LOOP
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', seen, role);
  END LOOP;
  FOR seen IN SELECT c.oid::regclass FROM pg_class AS c
               WHERE c.relnamespace = 'run_ops'::regnamespace AND (starts_with(c.relname, 'stat_') OR c.relname IN ('audit_log', 'cleanup_progress')) LOOP
    EXECUTE format('GRANT SELECT ON %s TO %s', seen, role);
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.grant_viewer(regrole) IS
  'lets a role see the state, the gates, the statistics and the audit log, but no row of a routed table: grants EXECUTE on run_ops.viewer_functions(), and SELECT on the stat_* views, run_ops.cleanup_progress and the audit log. run_ops.record_check() stores its result; nothing else can be changed.';

CREATE FUNCTION run_ops.viewer_functions() RETURNS text[]
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  RETURN ARRAY['run_ops.ask_stats()', 'run_ops.mint_flips()', 'run_ops.mint_kinds()', 'run_ops.next_step(text)',
    'run_ops.record_check()', 'run_ops.whereabouts(regclass, text)', 'run_ops.wire_waits()', 'run_ops.wire_counters()', 'run_ops.wire_error_counters()'];
COMMENT ON FUNCTION run_ops.viewer_functions() IS
  'the functions that show the state of split mode and statistics of stores; only their owner and roles with run_ops.grant_viewer() may call all of them';

CREATE FUNCTION run_ops.admin_functions() RETURNS text[]
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  RETURN ARRAY[
    'run_ops.check_split()', 'run_ops.next_step(text)', 'run_ops.enable_split(boolean)', 'run_ops.disable_split(boolean, boolean, boolean)',
    'run_ops.configure_split(boolean, boolean)', 'run_ops.trust_standby(text)',
    'run_ops.acknowledge(text, text, text)', 'run_ops.withdraw_acknowledgement(text, text)',
    'run_ops.repatriate(integer)', 'run_ops.verify_repatriation()', 'run_ops.repatriation_conflicts()',
    'run_ops.move_strays(integer)', 'run_ops.move_conflicts()', 'run_ops.remove_leftovers(integer, boolean)',
    'run_ops.resolve_in_doubt()', 'run_ops.set_mint_shards(text)'];
COMMENT ON FUNCTION run_ops.admin_functions() IS
  'the functions that check and change split mode and the shards for new ids; only their owner and roles with run_ops.grant_admin() may call them';

-- distinct_database: proves that a store is another database than this one.
--
-- Addresses prove nothing: a pooler, an alias or another port may lead back to
-- this database.  So there are two checks.  The fingerprint is the system
-- identifier and the name of the database; a physical copy on another server has
-- the same fingerprint.  The handshake takes a lock on one side and tries it on
-- the other side; so it distinguishes a copy from this database itself.

CREATE FUNCTION run_ops.fingerprint_query() RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  RETURN 'SELECT system_identifier::text, current_database() AS database, '
         'pg_is_in_recovery() AS in_recovery FROM pg_control_system()';
COMMENT ON FUNCTION run_ops.fingerprint_query() IS 'a query for the fingerprint of a database, in one row';

CREATE FUNCTION run_ops.fingerprints(store text) RETURNS jsonb
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  legacy_side jsonb;
  store_side  jsonb;
BEGIN
  EXECUTE format('SELECT to_jsonb(q) FROM (%s) AS q', run_ops.fingerprint_query()) INTO legacy_side;
  SELECT * INTO store_side FROM run_ops.ask_store(store, run_ops.fingerprint_query());
  IF legacy_side IS NULL OR store_side IS NULL THEN
    RETURN jsonb_build_object('error', 'one of the databases returned no fingerprint');
  END IF;
  RETURN jsonb_build_object('legacy', legacy_side, 'store', store_side);
EXCEPTION WHEN OTHERS THEN
  RETURN jsonb_build_object('error', SQLERRM);
END $$;
COMMENT ON FUNCTION run_ops.fingerprints(text) IS
  'the fingerprints of this database and of a store, or the error';
REVOKE EXECUTE ON FUNCTION run_ops.fingerprints(text) FROM PUBLIC;

CREATE FUNCTION run_ops.handshake(store text) RETURNS jsonb
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  -- the same key for each store that is asked in this transaction
  here  bigint := hashtextextended(format('%s %s', pg_backend_pid(), now()), 0);
  there bigint := (random() * 4611686018427387904)::bigint;
  free_there boolean;
  free_here  boolean;
BEGIN
  PERFORM pg_advisory_xact_lock(here);
  SELECT (a ->> 'free')::boolean INTO free_there
    FROM run_ops.ask_store(store, format('SELECT pg_try_advisory_xact_lock_shared(%s) AS free', here)) AS a;
  free_here := run_ops.try_lock_held_there(store, there);
  RETURN jsonb_build_object('lock_free_there', free_there, 'lock_free_here', free_here);
EXCEPTION WHEN OTHERS THEN
  RETURN jsonb_build_object('error', SQLERRM);
END $$;
COMMENT ON FUNCTION run_ops.handshake(text) IS
  'whether an advisory lock that one side holds is free on the other side, in both directions, or the error. Two different databases do not share locks, so it is free in both.';
REVOKE EXECUTE ON FUNCTION run_ops.handshake(text) FROM PUBLIC;

CREATE FUNCTION run_ops.granting_proof(store text) RETURNS text
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  query text := 'SELECT format(''GRANT EXECUTE ON FUNCTION %s TO %I;'', string_agg(f, '', ''), current_user) AS sql '
                'FROM unnest(ARRAY[''pg_control_system()'', ''pg_advisory_xact_lock(bigint)'', ''pg_try_advisory_xact_lock_shared(bigint)'']) AS f '
                'WHERE NOT has_function_privilege(f, ''EXECUTE'') HAVING count(*) > 0';
  here  text;
  there text;
BEGIN
  EXECUTE query INTO here;
  there := (SELECT a ->> 'sql' FROM run_ops.ask_store(store, query) AS a);
  RETURN nullif(concat_ws(' ', 'Run in this database: ' || here, format('Run in store "%s": ', store) || there), '');
EXCEPTION WHEN OTHERS THEN
  RETURN NULL;
END $$;
COMMENT ON FUNCTION run_ops.granting_proof(text) IS
  'SQL that grants the privileges which both checks need, here and in a store; NULL if none is missing';
REVOKE EXECUTE ON FUNCTION run_ops.granting_proof(text) FROM PUBLIC;

CREATE FUNCTION run_ops.distinct_gate(store text) RETURNS run_ops.gate
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  fingerprints jsonb := run_ops.fingerprints(store);
  -- do not wait a second time for a store that does not answer
  handshake jsonb := CASE WHEN fingerprints ? 'error' THEN fingerprints ELSE run_ops.handshake(store) END;
  g     run_ops.gate := ('distinct', store, false, NULL, NULL);
  same_fingerprint boolean := fingerprints -> 'legacy' -> 'system_identifier' = fingerprints -> 'store' -> 'system_identifier'
                        AND fingerprints -> 'legacy' -> 'database' = fingerprints -> 'store' -> 'database';
  evidence text := format('fingerprints %s, handshake %s', fingerprints, handshake);
BEGIN
  IF fingerprints ? 'error' OR handshake ? 'error' THEN
    g.detail := format('could not be checked: %s', coalesce(fingerprints ->> 'error', handshake ->> 'error'));
    g.hint := coalesce(run_ops.granting_proof(store), 'Fix the connection to the store first.');
  ELSIF NOT ((handshake ->> 'lock_free_there')::boolean AND (handshake ->> 'lock_free_here')::boolean) THEN
    g.detail := format('the store is this database itself: system identifier %s, database "%s"; %s',
      fingerprints -> 'store' ->> 'system_identifier', fingerprints -> 'store' ->> 'database', evidence);
    g.hint := 'The options of the server lead back to this database, perhaps through a pooler or an alias. '
           || 'Correct them: ' || run_ops.altering_server(store, '{"host": "...", "dbname": "..."}');
  ELSIF same_fingerprint AND (fingerprints -> 'store' ->> 'in_recovery')::boolean THEN
    g.detail := format('the store is a standby of this database: system identifier %s, database "%s"; %s',
      fingerprints -> 'store' ->> 'system_identifier', fingerprints -> 'store' ->> 'database', evidence);
    g.hint := 'The store must be a separate database. Have the server lead there: ' || run_ops.altering_server(store, '{"host": "...", "dbname": "..."}');
  ELSIF same_fingerprint THEN
    g.gate := 'clone';
    g.detail := format('the store is a physical copy of this database on another server: system identifier %s, database "%s"; %s',
      fingerprints -> 'store' ->> 'system_identifier', fingerprints -> 'store' ->> 'database', evidence);
    g.hint := 'If this is intended, delete from the store what belongs to this database only.';
  ELSE
    g.ok := true;
    g.detail := evidence;
  END IF;
  RETURN g;
END $$;
COMMENT ON FUNCTION run_ops.distinct_gate(text) IS
  'the gate "distinct" or "clone" for a store: the result of both checks, with evidence. Fails if one of them could not be made.';
REVOKE EXECUTE ON FUNCTION run_ops.distinct_gate(text) FROM PUBLIC;

CREATE FUNCTION run_ops.databases_co_resident(store text DEFAULT 'new') RETURNS boolean
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  fingerprints jsonb;
BEGIN
  -- only attached stores are contacted
  SELECT run_ops.fingerprints(s.name) INTO fingerprints
    FROM run_ops.store AS s WHERE s.name = store AND s.server IS NOT NULL;
  RETURN (fingerprints -> 'legacy' ->> 'system_identifier', fingerprints -> 'legacy' ->> 'database')
       = (fingerprints -> 'store' ->> 'system_identifier', fingerprints -> 'store' ->> 'database');
END $$;
COMMENT ON FUNCTION run_ops.databases_co_resident(text) IS
  'whether a store has the fingerprint of this database; NULL if unknown. For information only: nothing depends on it.';
REVOKE EXECUTE ON FUNCTION run_ops.databases_co_resident(text) FROM PUBLIC;

-- kept_objects: the objects that a routed table consists of, and the extension.
--
-- The registry knows them by OID.  While split is on, an event trigger refuses to
-- drop one, and kept_objects.c refuses to drop the extension.  What is gone all the
-- same is reported by the gate "complete", and the call in its hint mends it:
-- refresh_table() creates everything again but the local table, and detach_table()
-- works without any of it.  So nothing that is dropped or changed leads to a state
-- without a way out.

CREATE FUNCTION run_ops.recreating(t run_ops.routed_table) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  -- a server of another wrapper can have no such foreign tables
  SELECT coalesce((SELECT s.sql FROM run_ops.routed_store AS r, run_ops.replacing_server(r.store) AS s (sql)
                    WHERE r.view = t.view AND s.sql IS NOT NULL ORDER BY r.store LIMIT 1),
                  format('SELECT run_ops.refresh_table(%L);', t.legacy))
$$;
COMMENT ON FUNCTION run_ops.recreating(run_ops.routed_table) IS
  'SQL that creates the view and the foreign tables of a routed table again';

CREATE FUNCTION run_ops.missing_parts(t run_ops.routed_table) RETURNS TABLE (detail text, hint text)
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'its table does not exist any more',
         format('SELECT run_ops.detach_table(%L); If the table exists again under another OID, attach it then.', t.view)
   WHERE NOT run_ops.is_relation(t.legacy, '{r,p}')
  UNION ALL
  SELECT format('view %s does not exist any more', t.view_name), m.hint
    FROM run_ops.recreating(t) AS m (hint)
   WHERE run_ops.is_relation(t.legacy, '{r,p}') AND NOT run_ops.is_relation(t.view, '{v}')
  UNION ALL
  SELECT format('its foreign table in store "%s" does not exist any more', r.store), m.hint
    FROM run_ops.recreating(t) AS m (hint), run_ops.routed_store AS r JOIN run_ops.store AS s ON s.name = r.store JOIN pg_foreign_server AS f ON f.srvname = s.server
   WHERE r.view = t.view AND run_ops.is_relation(t.legacy, '{r,p}') AND NOT run_ops.is_relation(r.foreign_table, '{f}')
$$;
COMMENT ON FUNCTION run_ops.missing_parts(run_ops.routed_table) IS
  'the relations of a routed table that do not exist any more, and what to do; those whose server does not exist either are left out';

CREATE FUNCTION run_ops.missing_servers() RETURNS TABLE (store text, detail text, hint text)
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT s.name, format('server "%s" does not exist', s.server),
         coalesce(
           (SELECT format('ALTER SERVER %I RENAME TO %I;', f.srvname, s.server)
              FROM run_ops.routed_store AS r JOIN pg_foreign_table AS c ON c.ftrelid = r.foreign_table JOIN pg_foreign_server AS f ON f.oid = c.ftserver
             WHERE r.store = s.name LIMIT 1),
           format('%sSELECT run_ops.detach_store(%L); To use the store again, create the server and its user mapping first, then attach it.',
             CASE WHEN run_ops.split_enabled() THEN 'SELECT run_ops.disable_split(force => true); ' END, s.name))
    FROM run_ops.store AS s
   WHERE s.server IS NOT NULL AND NOT EXISTS (SELECT FROM pg_foreign_server AS f WHERE f.srvname = s.server)
  UNION ALL
  -- only in a copy whose registry was not restored as a whole
  SELECT DISTINCT r.store, 'it has tables, but is not attached', format('SELECT run_ops.attach_store(%L, %L);', r.store,
           coalesce((SELECT f.srvname FROM pg_foreign_table AS c JOIN pg_foreign_server AS f ON f.oid = c.ftserver WHERE c.ftrelid = min(r.foreign_table::oid)), '...'))
    FROM run_ops.routed_store AS r
   WHERE NOT EXISTS (SELECT FROM run_ops.store AS s WHERE s.name = r.store)
   GROUP BY r.store
$$;
COMMENT ON FUNCTION run_ops.missing_servers() IS 'the stores whose server does not exist, or that have routed tables but are not attached, and what to do';

CREATE FUNCTION run_ops.is_complete(t run_ops.routed_table) RETURNS boolean
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT run_ops.is_relation(t.legacy, '{r,p}') AND run_ops.is_relation(t.view, '{v}')
     AND NOT EXISTS (SELECT FROM run_ops.routed_store AS r WHERE r.view = t.view AND NOT run_ops.is_relation(r.foreign_table, '{f}'))
$$;
COMMENT ON FUNCTION run_ops.is_complete(run_ops.routed_table) IS 'whether the view and all tables of a routed table exist';

CREATE FUNCTION run_ops.refuse_incomplete() RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  lines text;
  hints text;
BEGIN
  SELECT string_agg(p.detail, E'\n'), (array_agg(p.hint))[1] INTO lines, hints
    FROM (SELECT format('store "%s": %s', m.store, m.detail) AS detail, m.hint FROM run_ops.missing_servers() AS m
          UNION ALL
          SELECT format('%s: %s', t.view_name, p.detail), p.hint FROM run_ops.routed_table AS t, run_ops.missing_parts(t) AS p) AS p;
  IF lines IS NOT NULL THEN
    RAISE EXCEPTION 'objects of routed tables do not exist any more'
      USING ERRCODE = 'undefined_object', DETAIL = lines,
            HINT = concat(hints, CASE WHEN run_ops.split_enabled() THEN ' If the stores are lost: SELECT run_ops.disable_split(force => true);' END);
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_incomplete() IS
  'raises an error with all objects of routed tables that do not exist any more, if there are any, and the call that mends the first one';

CREATE FUNCTION run_ops.refuse_without_table(t run_ops.routed_table) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF NOT run_ops.is_relation(t.legacy, '{r,p}') THEN
    RAISE EXCEPTION 'the table of view % does not exist any more', t.view_name
      USING ERRCODE = 'undefined_table', HINT = format('SELECT run_ops.detach_table(%L);', t.view);
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_without_table(run_ops.routed_table) IS 'raises an error if the local table of a routed table does not exist any more';

-- The gate -----------------------------------------------------------------------

CREATE FUNCTION run_ops.unlike_created(t run_ops.routed_table) RETURNS TABLE (detail text, hint text)
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format('foreign table %s reads another table of its store', r.foreign_table), format('SELECT run_ops.refresh_table(%L);', t.view)
    FROM run_ops.routed_store AS r JOIN run_ops.store AS s ON s.name = r.store JOIN pg_foreign_table AS f ON f.ftrelid = r.foreign_table
    JOIN pg_foreign_server AS e ON e.oid = f.ftserver,
         LATERAL (SELECT jsonb_object_agg(o.option_name, o.option_value) FROM pg_options_to_table(f.ftoptions) AS o) AS o (options)
   WHERE r.view = t.view
     AND (e.srvname <> s.server OR options ->> 'schema_name' IS DISTINCT FROM t.store_schema OR options ->> 'table_name' IS DISTINCT FROM t.store_table
          OR options ->> 'key' IS DISTINCT FROM run_ops.key_option(t))
  UNION ALL
  SELECT format('role "%s", which owns view %s, has no user mapping for server "%s"', o.rolname, t.view, s.server),
         CASE WHEN EXISTS (SELECT FROM pg_user_mappings AS m WHERE m.srvname = s.server AND m.usename IN (x.rolname, 'public'))
              THEN format('ALTER VIEW %s OWNER TO %I;', t.view, x.rolname)
              ELSE format('CREATE USER MAPPING FOR %I SERVER %I OPTIONS (user ''...'', password ''...'');', o.rolname, s.server) END
    FROM run_ops.routed_store AS r JOIN run_ops.store AS s ON s.name = r.store
    JOIN pg_class AS c ON c.oid = t.view JOIN pg_roles AS o ON o.oid = c.relowner,
         (pg_extension AS e JOIN pg_roles AS x ON x.oid = e.extowner AND e.extname = 'run_ops_split')
   WHERE r.view = t.view AND NOT EXISTS (SELECT FROM pg_user_mappings AS m WHERE m.srvname = s.server AND m.usename IN (o.rolname, 'public'))
  UNION ALL
  SELECT format('role "%s", which owns view %s, lacks privileges on %s', o.rolname, t.view, c.relation),
         format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO %I;', c.relation, o.rolname)
    FROM run_ops.copies(t) AS c JOIN pg_class AS v ON v.oid = t.view JOIN pg_roles AS o ON o.oid = v.relowner
   WHERE NOT (SELECT bool_and(has_table_privilege(o.oid, c.relation, p)) FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p)
$$;
COMMENT ON FUNCTION run_ops.unlike_created(run_ops.routed_table) IS
  'what somebody has changed of the objects of a routed table that exist: options of foreign tables, owners and privileges; and what to do. view_faults() looks at the view and the triggers.';

CREATE FUNCTION run_ops.complete_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'complete', m.store, false, m.detail, m.hint FROM run_ops.missing_servers() AS m
  UNION ALL
  SELECT 'complete', t.view_name, false, p.detail, p.hint FROM run_ops.routed_table AS t, run_ops.missing_parts(t) AS p
  UNION ALL
  SELECT 'complete', t.view_name, false, p.detail, p.hint
    FROM run_ops.routed_table AS t, run_ops.unlike_created(t) AS p WHERE run_ops.is_complete(t)
$$;
COMMENT ON FUNCTION run_ops.complete_gates() IS
  'objects of routed tables that were dropped or changed: views, tables, foreign tables, servers, user mappings, owners';

-- The guards -----------------------------------------------------------------------

-- SECURITY DEFINER: a role that drops something need not have privileges on schema
-- run_ops.
CREATE FUNCTION run_ops.guard_routed_tables() RETURNS event_trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  gone record;
BEGIN
  SELECT d.object_type, d.object_identity, t.view_name INTO gone
    FROM pg_event_trigger_dropped_objects() AS d
    JOIN run_ops.routed_table AS t
      ON d.objid IN (t.view, t.legacy) OR d.objid IN (SELECT r.foreign_table FROM run_ops.routed_store AS r WHERE r.view = t.view)
   WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0
   ORDER BY d.original DESC, d.object_identity LIMIT 1;
  IF NOT FOUND THEN
    RETURN;
  ELSIF run_ops.split_enabled() THEN
    RAISE EXCEPTION 'cannot drop % % while split is on', gone.object_type, gone.object_identity
      USING ERRCODE = 'object_in_use', DETAIL = format('View %s needs it.', gone.view_name),
            HINT = format('Switch split off first, with run_ops.disable_split(), then: SELECT run_ops.detach_table(%L);', gone.view_name);
  END IF;
  -- its last name, under which refresh_table() creates it again
  UPDATE run_ops.routed_table AS t SET view_name = d.object_identity
    FROM pg_event_trigger_dropped_objects() AS d
   WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND d.objid = t.view AND d.object_identity <> t.view_name;
END $$;
COMMENT ON FUNCTION run_ops.guard_routed_tables() IS
  'event trigger: refuses to drop a view, table or foreign table of a routed table while split is on; with split off, remembers the name of the view';
CREATE EVENT TRIGGER run_ops_guard_routed_tables ON sql_drop EXECUTE FUNCTION run_ops.guard_routed_tables();
COMMENT ON EVENT TRIGGER run_ops_guard_routed_tables IS
  'refuses to drop a view, table or foreign table of a routed table while split is on, by whatever command';

CREATE FUNCTION run_ops.guard_drop() RETURNS event_trigger
  LANGUAGE c
  AS 'MODULE_PATHNAME', 'run_ops_guard_drop';
COMMENT ON FUNCTION run_ops.guard_drop() IS
  'event trigger: loads the library, which refuses to drop the extension while split is on or the local tables have leftovers';
CREATE EVENT TRIGGER run_ops_guard_drop ON ddl_command_start WHEN TAG IN ('DROP EXTENSION', 'DROP SCHEMA', 'DROP OWNED')
  EXECUTE FUNCTION run_ops.guard_drop();
COMMENT ON EVENT TRIGGER run_ops_guard_drop IS 'refuses to drop the extension while split is on or the local tables have leftovers';

CREATE FUNCTION run_ops.guard_schema() RETURNS event_trigger
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF to_regnamespace('run_ops') IS NULL THEN
    RAISE EXCEPTION 'cannot rename schema run_ops'
      USING ERRCODE = 'object_in_use', DETAIL = 'The functions of extension run_ops_split refer to it by its name.',
            HINT = 'Views may be in another schema: ALTER VIEW ... SET SCHEMA ...';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.guard_schema() IS 'event trigger: refuses to rename the schema of the extension';
CREATE EVENT TRIGGER run_ops_guard_schema ON ddl_command_end WHEN TAG IN ('ALTER SCHEMA') EXECUTE FUNCTION run_ops.guard_schema();
COMMENT ON EVENT TRIGGER run_ops_guard_schema IS 'refuses to rename the schema of the extension';

-- table_gates: gates that compare a table with its copy in a store, or that look
-- at its rows: indexes, identity columns, ids, and what guards a row.
--
-- A definition is compared as text, with the column names of one side.

CREATE FUNCTION run_ops.renamed(definition text, names jsonb) RETURNS text
  LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  item record;
BEGIN
  -- through temporary names, because two columns may have exchanged their names
  FOR item IN SELECT row_number() OVER (ORDER BY key) AS n, key, value FROM jsonb_each_text(names) LOOP
    definition := CASE WHEN quote_ident(item.key) LIKE '"%' THEN replace(definition, quote_ident(item.key), format(E'\x01%s\x01', item.n))
                       ELSE regexp_replace(definition, format('(?<![\w"$''])%s(?![\w"$(''])', item.key), format(E'\x01%s\x01', item.n), 'g') END;
  END LOOP;
  FOR item IN SELECT row_number() OVER (ORDER BY key) AS n, value FROM jsonb_each_text(names) LOOP
    definition := replace(definition, format(E'\x01%s\x01', item.n), quote_ident(item.value));
  END LOOP;
  RETURN definition;
END $$;
COMMENT ON FUNCTION run_ops.renamed(text, jsonb) IS
  'a definition with other names of columns: {name in the definition: other name}';

-- Indexes ------------------------------------------------------------------------

CREATE FUNCTION run_ops.index_facts_query(table_schema name, table_name name, ignored name[]) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  -- Storage parameters are left out, and the indexes with which this database
  -- counts strays (run_ops.stray_index()).
  SELECT format($q$
    SELECT DISTINCT CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END
             || regexp_replace(substring(pg_get_indexdef(i.indexrelid) FROM ' USING (.*)'), ' WITH \([^()]*\)', '') AS definition
      FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
     WHERE n.nspname = %L AND c.relname = %L AND i.indisvalid
       AND coalesce(pg_get_expr(i.indpred, i.indrelid) !~ '^\(NOT run_ops\.resides\([^()]*\)\)$', true)
       AND NOT EXISTS (SELECT FROM pg_attribute AS a
                        WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey::int2[]) AND a.attname = ANY (%L))
    $q$, table_schema, table_name, ignored)
$$;
COMMENT ON FUNCTION run_ops.index_facts_query(name, name, name[]) IS
  'a query for the indexes of a table, as their definitions say them: UNIQUE, method, columns, condition. Leaves out those on ignored columns.';

CREATE FUNCTION run_ops.index_is_implied(narrow text, wide text) RETURNS boolean
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  -- the parts of a definition: method and columns, INCLUDE, WHERE
  WITH part AS (
    SELECT d.ord, m.part
      FROM (VALUES (1, narrow), (2, regexp_replace(wide, '^UNIQUE ', ''))) AS d (ord, definition),
           LATERAL regexp_match(d.definition, '^(btree \(.*?)\)( INCLUDE \([^()]*\))?(?: NULLS NOT DISTINCT)?( WHERE .*)?$') AS m (part))
  SELECT narrow = wide OR EXISTS (
    SELECT FROM part AS n JOIN part AS w ON n.ord = 1 AND w.ord = 2
     WHERE (w.part[1] = n.part[1] OR starts_with(w.part[1], n.part[1] || ', '))
       AND coalesce(n.part[2] = w.part[2], n.part[2] IS NULL)
       AND coalesce(n.part[3] = w.part[3], w.part[3] IS NULL))
$$;
COMMENT ON FUNCTION run_ops.index_is_implied(text, text) IS
  'whether an index with the definition "wide" serves what one with the definition "narrow" does: the same columns and more, for the same rows or more. A unique index is implied by itself only.';

CREATE FUNCTION run_ops.local_indexes(t run_ops.routed_table) RETURNS text[]
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  definitions text[];
BEGIN
  EXECUTE (SELECT format('SELECT array_agg(q.definition ORDER BY q.definition) FROM (%s) AS q', run_ops.index_facts_query(n.nspname, c.relname, '{}'))
             FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = t.legacy) INTO definitions;
  RETURN coalesce(definitions, '{}');
END $$;
COMMENT ON FUNCTION run_ops.local_indexes(run_ops.routed_table) IS 'the definitions of the indexes of a local table';

CREATE FUNCTION run_ops.store_indexes(store text, t run_ops.routed_table) RETURNS text[]
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT coalesce(array_agg(run_ops.renamed(a ->> 'definition', r.names) ORDER BY 1), '{}')
    FROM (SELECT jsonb_object_agg(value, key) FROM jsonb_each_text(t.column_names)) AS r (names),
         run_ops.ask_store(store, run_ops.index_facts_query(t.store_schema, t.store_table,
           ARRAY(SELECT jsonb_object_keys(t.store_defaults)))) AS a
$$;
COMMENT ON FUNCTION run_ops.store_indexes(text, run_ops.routed_table) IS
  'the definitions of the indexes of a table in a store, with the column names of this database';
REVOKE EXECUTE ON FUNCTION run_ops.store_indexes(text, run_ops.routed_table) FROM PUBLIC;

CREATE FUNCTION run_ops.index_gates(store text, t run_ops.routed_table) RETURNS SETOF run_ops.gate
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  WITH side AS MATERIALIZED (SELECT run_ops.local_indexes(t) AS here, run_ops.store_indexes(index_gates.store, t) AS there)
  SELECT 'index', format('%s %s', t.legacy, d.name), false,
         CASE WHEN d.is_here THEN format('missing in store "%s"', index_gates.store)
              ELSE format('missing in this database, exists in store "%s"', index_gates.store) END,
         CASE WHEN d.is_here AND u.unique <> '' AND u.definition !~ format('(?<![\w"])%s(?![\w"])', substring(p.partition_key FROM '\((.*)\)')) THEN
                format('The table there is partitioned by %s, and a unique index must have these columns.', p.partition_key)
              WHEN d.is_here THEN
                format('Run in store "%s": CREATE %sINDEX %sON %I.%I USING %s;', index_gates.store, u.unique, CASE WHEN p.partition_key IS NULL THEN 'CONCURRENTLY ' END,
                       t.store_schema, t.store_table, run_ops.renamed(u.definition, t.column_names))
              -- from the store, which may be hostile: one statement at most
              WHEN u.definition !~ ';' THEN format('CREATE %sINDEX CONCURRENTLY ON %s USING %s;', u.unique, t.legacy, u.definition) END
    FROM side,
         LATERAL (SELECT h, true FROM unnest(side.here) AS h
                   WHERE NOT EXISTS (SELECT FROM unnest(side.there) AS o WHERE run_ops.index_is_implied(h, o))
                  UNION ALL
                  SELECT o, false FROM unnest(side.there) AS o
                   WHERE NOT EXISTS (SELECT FROM unnest(side.here) AS h WHERE run_ops.index_is_implied(o, h))) AS d (name, is_here),
         LATERAL (SELECT CASE WHEN d.name LIKE 'UNIQUE %' THEN 'UNIQUE ' ELSE '' END, regexp_replace(d.name, '^UNIQUE ', '')) AS u ("unique", definition),
         LATERAL (SELECT (SELECT a ->> 'partition_key' FROM run_ops.ask_store(index_gates.store, run_ops.partition_query(t.store_schema, t.store_table)) AS a
                           WHERE d.is_here)) AS p (partition_key)
   ORDER BY d.name
$$;
COMMENT ON FUNCTION run_ops.index_gates(text, run_ops.routed_table) IS
  'the indexes of a table that exist on one side only, and that no wider index of the other side implies';
REVOKE EXECUTE ON FUNCTION run_ops.index_gates(text, run_ops.routed_table) FROM PUBLIC;

-- Foreign keys without an index ---------------------------------------------------
-- This gate never fails: what is missing makes deletions slow, with split off as
-- well.

CREATE FUNCTION run_ops.unindexed_keys_query(parents text[]) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format($q$
    SELECT format('%%I of %%s', f.conname, f.conrelid::regclass) AS name, f.confrelid::regclass::text AS parent,
           format('CREATE INDEX %%sON %%s (%%s);', CASE WHEN c.relkind = 'r' THEN 'CONCURRENTLY ' ELSE '' END, f.conrelid::regclass,
             (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY k.ord)
                FROM unnest(f.conkey) WITH ORDINALITY AS k (attnum, ord)
                JOIN pg_attribute AS a ON a.attrelid = f.conrelid AND a.attnum = k.attnum)) AS statement
      FROM pg_constraint AS f JOIN pg_class AS c ON c.oid = f.conrelid
      JOIN pg_class AS p ON p.oid = f.confrelid JOIN pg_namespace AS n ON n.oid = p.relnamespace
     -- conenforced exists from PostgreSQL 18 on
     WHERE f.contype = 'f' AND f.conparentid = 0 AND coalesce((to_jsonb(f) ->> 'conenforced')::boolean, true)
       AND format('%%I.%%I', n.nspname, p.relname) = ANY (%L::text[])
       AND NOT EXISTS (SELECT FROM pg_index AS i JOIN pg_class AS x ON x.oid = i.indexrelid JOIN pg_am AS m ON m.oid = x.relam
                        WHERE i.indrelid = f.conrelid AND i.indisvalid AND m.amname IN ('btree', 'hash')
                          AND (i.indkey::int2[])[0:cardinality(f.conkey) - 1] @> f.conkey
                          -- a foreign key looks for values that are not null
                          AND (i.indpred IS NULL OR pg_get_expr(i.indpred, i.indrelid) IN (
                                 SELECT format('(%%I IS NOT NULL)', a.attname) FROM pg_attribute AS a
                                  WHERE a.attrelid = f.conrelid AND a.attnum = ANY (f.conkey))))
     ORDER BY 1 $q$, parents)
$$;
COMMENT ON FUNCTION run_ops.unindexed_keys_query(text[]) IS
  'a query for the foreign keys that refer to these tables from columns without an index: name, table, and the statement that creates the index';

CREATE FUNCTION run_ops.local_key_index_gates() RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RETURN QUERY EXECUTE format('SELECT ''foreign key index'', k.name, true, format(%L, k.parent), k.statement FROM (%s) AS k',
    'its columns have no index, so each DELETE of a row of %s reads the whole table',
    run_ops.unindexed_keys_query(ARRAY(SELECT t.legacy::text FROM run_ops.routed_table AS t)));
END $$;
COMMENT ON FUNCTION run_ops.local_key_index_gates() IS
  'foreign keys that refer to a local table from columns without an index; never fails, the hint has the SQL that creates the index';

CREATE FUNCTION run_ops.store_key_index_gates(store text) RETURNS SETOF run_ops.gate
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'foreign key index', format('%s in store "%s"', k ->> 'name', store_key_index_gates.store), true,
         format('its columns have no index, so each DELETE of a row of %s reads the whole table', k ->> 'parent'),
         format('Run in store "%s": %s', store_key_index_gates.store, k ->> 'statement')
    FROM run_ops.ask_store(store_key_index_gates.store, run_ops.unindexed_keys_query(ARRAY(
           SELECT format('%I.%I', t.store_schema, t.store_table) FROM run_ops.routed_table AS t))) AS k
$$;
COMMENT ON FUNCTION run_ops.store_key_index_gates(text) IS
  'foreign keys that refer to a routed table in a store from columns without an index; never fails, the hint has the SQL that creates the index';
REVOKE EXECUTE ON FUNCTION run_ops.store_key_index_gates(text) FROM PUBLIC;

-- Keys ----------------------------------------------------------------------------
-- attach_table() requires a key, and NOT NULL of a column with a key rule.  The gate
-- "columns" holds the stores to what this database has.

CREATE FUNCTION run_ops.never_null(t run_ops.routed_table) RETURNS name[]
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  RETURN t.key_columns OPERATOR(pg_catalog.||) CASE WHEN t.key_rule IS NOT NULL THEN ARRAY[t.route_column] END;
COMMENT ON FUNCTION run_ops.never_null(run_ops.routed_table) IS
  'the columns of a routed table that must be NOT NULL: its key, and the column of a key rule';

CREATE FUNCTION run_ops.key_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'key', format('%s.%I', t.legacy, a.attname), false,
         CASE WHEN a.attname = ANY (t.key_columns) THEN 'it may be NULL, but it is part of the key, which identifies a row'
              ELSE 'it may be NULL, but its value says which store has the row' END,
         format('ALTER TABLE %s ALTER COLUMN %I SET NOT NULL;', t.legacy, a.attname)
    FROM run_ops.routed_table AS t JOIN pg_attribute AS a ON a.attrelid = t.legacy
   WHERE a.attname = ANY (run_ops.never_null(t)) AND NOT a.attnotnull
  UNION ALL
  SELECT 'key', t.legacy::text, false, format('no unique index makes (%s) its key', run_ops.key_option(t)),
         format('CREATE UNIQUE INDEX %sON %s (%s);', CASE WHEN c.relkind = 'r' THEN 'CONCURRENTLY ' END, t.legacy, run_ops.key_option(t))
    FROM run_ops.routed_table AS t JOIN pg_class AS c ON c.oid = t.legacy
   WHERE NOT EXISTS (
     SELECT FROM pg_index AS i
      WHERE i.indrelid = t.legacy AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
        AND NOT EXISTS (SELECT FROM pg_attribute AS a
                         WHERE a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]) AND a.attname <> ALL (t.key_columns)))
$$;
COMMENT ON FUNCTION run_ops.key_gates() IS
  'local tables whose key is no key any more, and columns that may be NULL although they identify a row or say which store has it';

-- Identity columns ----------------------------------------------------------------

CREATE FUNCTION run_ops.identity_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'identity', format('%s.%I', t.legacy, a.attname), false,
         'it is GENERATED ALWAYS, but one sequence must generate the values for every store',
         format('ALTER TABLE %s ALTER COLUMN %I SET GENERATED BY DEFAULT;', t.legacy, a.attname)
    FROM run_ops.routed_table AS t JOIN pg_attribute AS a ON a.attrelid = t.legacy
   WHERE a.attidentity = 'a' AND NOT a.attisdropped
   ORDER BY t.view::text, a.attnum
$$;
COMMENT ON FUNCTION run_ops.identity_gates() IS
  'columns of local tables that are GENERATED ALWAYS AS IDENTITY, with which split cannot be enabled';

CREATE FUNCTION run_ops.store_identity_gates(store text) RETURNS SETOF run_ops.gate
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'identity', format('%s.%I in store "%s"', t.legacy, coalesce(n.key, i ->> 'name'), store_identity_gates.store), false,
         'it is GENERATED ALWAYS, so the store does not accept the values that this database generates',
         format('Run in store "%s": ALTER TABLE %I.%I ALTER COLUMN %I SET GENERATED BY DEFAULT;', store_identity_gates.store,
                t.store_schema, t.store_table, i ->> 'name')
    FROM run_ops.ask_store(store_identity_gates.store,
           'SELECT n.nspname AS schema, c.relname AS table, a.attname AS name FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid '
           'JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE a.attidentity = ''a'' AND NOT a.attisdropped') AS i
    JOIN run_ops.routed_table AS t ON t.store_schema = i ->> 'schema' AND t.store_table = i ->> 'table'
    LEFT JOIN LATERAL jsonb_each_text(t.column_names) AS n ON n.value = i ->> 'name'
   WHERE NOT t.store_defaults ? (i ->> 'name')
   ORDER BY t.view::text, i ->> 'name'
$$;
COMMENT ON FUNCTION run_ops.store_identity_gates(text) IS
  'columns of a store that are GENERATED ALWAYS AS IDENTITY, so that the store refuses the values of this database';
REVOKE EXECUTE ON FUNCTION run_ops.store_identity_gates(text) FROM PUBLIC;

-- What guards a row here and not in a store -----------------------------------------

CREATE FUNCTION run_ops.guards_query(table_schema name, table_name name) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  -- to_jsonb(), because conenforced exists from PostgreSQL 18 on
  SELECT format($q$
    WITH RECURSIVE rel AS (
      SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = %1$L AND c.relname = %2$L),
    type AS (
      SELECT a.atttypid AS oid FROM pg_attribute AS a JOIN rel ON a.attrelid = rel.oid WHERE a.attnum > 0 AND NOT a.attisdropped
      UNION
      SELECT u.oid FROM type JOIN pg_type AS t ON t.oid = type.oid, unnest(ARRAY[t.typelem, t.typbasetype]) AS u (oid) WHERE u.oid <> 0),
    con AS (
      SELECT c.*, regexp_replace(pg_get_constraintdef(c.oid), '( NO INHERIT)?( NOT VALID)?$', '') AS def
        FROM pg_constraint AS c
       WHERE (c.conrelid IN (SELECT rel.oid FROM rel) OR c.contypid IN (SELECT type.oid FROM type))
         AND coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true) AND c.conname NOT IN ('run_ops_write_lock', 'run_ops_same_shape'))
    SELECT CASE con.contype WHEN 'c' THEN 'CHECK' ELSE 'EXCLUDE' END AS kind, con.conname::text AS name, con.def AS definition,
           NULL::text AS subject, NULL::text AS columns, NULL::text AS parent, NULL::text AS parent_columns
      FROM con JOIN rel ON con.conrelid = rel.oid WHERE con.contype IN ('c', 'x')
    UNION ALL
    SELECT 'DOMAIN', con.conname, con.def, con.contypid::regtype::text, NULL, NULL, NULL
      FROM con JOIN type ON con.contypid = type.oid WHERE con.contype = 'c'
    UNION ALL
    SELECT 'DOMAIN', '', 'NOT NULL', t.oid::regtype::text, NULL, NULL, NULL
      FROM type JOIN pg_type AS t USING (oid) WHERE t.typtype = 'd' AND t.typnotnull
    UNION ALL
    SELECT 'FOREIGN KEY', con.conname, substr(con.def, length(format('FOREIGN KEY (%%s) REFERENCES %%s(%%s)', k.columns, con.confrelid::regclass, k.parent_columns)) + 1),
           NULL, k.columns, con.confrelid::regclass::text, k.parent_columns
      FROM con JOIN rel ON con.conrelid = rel.oid,
           LATERAL (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY u.ord), string_agg(quote_ident(p.attname), ', ' ORDER BY u.ord)
                      FROM unnest(con.conkey, con.confkey) WITH ORDINALITY AS u (child, parent, ord)
                      JOIN pg_attribute AS a ON a.attrelid = con.conrelid AND a.attnum = u.child
                      JOIN pg_attribute AS p ON p.attrelid = con.confrelid AND p.attnum = u.parent) AS k (columns, parent_columns)
     WHERE con.contype = 'f' AND con.conparentid = 0
    UNION ALL
    SELECT 'TRIGGER', g.tgname, pg_get_triggerdef(g.oid), g.tgfoid::regprocedure::text, NULL, g.tgrelid::regclass::text, NULL
      FROM pg_trigger AS g JOIN rel ON g.tgrelid = rel.oid JOIN pg_proc AS p ON p.oid = g.tgfoid
     WHERE NOT g.tgisinternal AND g.tgenabled <> 'D' AND p.pronamespace::regnamespace::text !~ '^run_ops(_|$)' $q$,
    table_schema, table_name)
$$;
COMMENT ON FUNCTION run_ops.guards_query(name, name) IS
  'a query for what PostgreSQL tests or runs when a row of a table is written: CHECK and EXCLUDE constraints, constraints of domains, foreign keys, triggers';

CREATE FUNCTION run_ops.missing_guards(store text, t run_ops.routed_table)
  RETURNS TABLE (kind text, name text, subject text, definition text)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  there text := format('%I.%I', t.store_schema, t.store_table);
  query text := (SELECT run_ops.guards_query(n.nspname, c.relname) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                  WHERE c.oid = t.legacy);
BEGIN
  RETURN QUERY EXECUTE format($q$
    WITH here AS (
      SELECT g.kind, g.name, g.subject,
             CASE g.kind
               WHEN 'FOREIGN KEY' THEN format('FOREIGN KEY (%%s) REFERENCES %%I.%%I(%%s)%%s', run_ops.renamed(g.columns, $3), p.store_schema, p.store_table,
                                              run_ops.renamed(g.parent_columns, p.column_names), g.definition)
               WHEN 'TRIGGER' THEN run_ops.renamed(replace(g.definition, format(' ON %%s ', g.parent), format(' ON %%s ', $4)), $3)
               WHEN 'DOMAIN' THEN g.definition
               ELSE run_ops.renamed(g.definition, $3) END AS definition
        FROM (%s) AS g LEFT JOIN run_ops.routed_table AS p ON p.legacy::text = g.parent
       WHERE g.kind <> 'FOREIGN KEY' OR p.view IS NOT NULL),
    there AS MATERIALIZED (
      SELECT s.* FROM run_ops.ask_store($1, $2) AS j,
             jsonb_to_record(j) AS s (kind text, name text, subject text, definition text, columns text, parent text, parent_columns text))
    SELECT h.kind, h.name, h.subject, h.definition
      FROM here AS h
     WHERE NOT EXISTS (
       SELECT FROM there AS s
        WHERE s.kind = h.kind
          AND CASE s.kind
                WHEN 'FOREIGN KEY' THEN h.definition = format('FOREIGN KEY (%%s) REFERENCES %%s(%%s)%%s', s.columns, s.parent, s.parent_columns, s.definition)
                WHEN 'TRIGGER' THEN replace(h.definition, 'TRIGGER ' || quote_ident(h.name), '') = replace(s.definition, 'TRIGGER ' || quote_ident(s.name), '')
                WHEN 'DOMAIN' THEN h.subject = s.subject AND h.definition = s.definition
                ELSE h.definition = s.definition END)
     ORDER BY h.kind, h.name, h.definition $q$, query)
    USING store, run_ops.guards_query(t.store_schema, t.store_table), t.column_names, there;
END $$;
COMMENT ON FUNCTION run_ops.missing_guards(text, run_ops.routed_table) IS
  'what guards a row of a local table, but not of its copy in a store; definitions have the names of the store';
REVOKE EXECUTE ON FUNCTION run_ops.missing_guards(text, run_ops.routed_table) FROM PUBLIC;

CREATE FUNCTION run_ops.guard_gates(store text, t run_ops.routed_table) RETURNS SETOF run_ops.gate
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'guard',
         CASE m.kind WHEN 'DOMAIN' THEN format('%s of domain %s in %s', coalesce(nullif(quote_ident(m.name), '""'), m.definition), m.subject, t.legacy)
                     ELSE format('%s %I of %s', CASE m.kind WHEN 'TRIGGER' THEN 'trigger' ELSE m.kind END, m.name, t.legacy) END, false,
         format('missing in store "%s", whose rows are not subject to it', guard_gates.store),
         format('Run in store "%s": %s', guard_gates.store, CASE m.kind
           WHEN 'DOMAIN' THEN format('ALTER DOMAIN %s %s;', m.subject, CASE WHEN m.name = '' THEN 'SET NOT NULL'
                                     ELSE format('ADD CONSTRAINT %I %s NOT VALID', m.name, m.definition) END)
           WHEN 'TRIGGER' THEN
             -- with its function, unless the store has one of that name
             (SELECT concat(CASE WHEN NOT (a ->> 'found')::boolean THEN pg_get_functiondef(m.subject::regprocedure) || E';\n' END, m.definition, ';')
                FROM run_ops.ask_store(guard_gates.store, format('SELECT to_regprocedure(%L) IS NOT NULL AS found', m.subject)) AS a)
           ELSE format('ALTER TABLE %I.%I ADD CONSTRAINT %I %s%s;', t.store_schema, t.store_table, m.name, m.definition,
                       CASE WHEN m.kind <> 'EXCLUDE' THEN ' NOT VALID' END) END)
    FROM run_ops.missing_guards(guard_gates.store, t) AS m
$$;
COMMENT ON FUNCTION run_ops.guard_gates(text, run_ops.routed_table) IS
  'constraints and triggers of a local table that its copy in a store does not have';
REVOKE EXECUTE ON FUNCTION run_ops.guard_gates(text, run_ops.routed_table) FROM PUBLIC;

-- Ids ----------------------------------------------------------------------------

CREATE FUNCTION run_ops.id_scheme(id text) RETURNS text
  LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
  -- A ULID or TypeID of this time begins with 01, a runOpsId with 05 or more.
  SELECT CASE WHEN body ~* '^01[0-9a-hjkmnp-tv-z]{24}$' THEN 'ULID'
              WHEN id ~* '^([^_]*_)?[0-9a-f]{8}(-?)[0-9a-f]{4}\2[0-9a-f]{4}\2[0-9a-f]{4}\2[0-9a-f]{12}$' THEN 'UUID'
              -- classified by its length alone
              WHEN run_ops.is_classifiable(id) AND body !~ '^[0-9A-Za-z]*$' THEN 'other' END
    FROM run_ops.id_body(id) AS body
$$;
COMMENT ON FUNCTION run_ops.id_scheme(text) IS
  'the scheme of ids that generates such ids, if it is not one of run_ops.id_kind; NULL otherwise';

CREATE FUNCTION run_ops.id_gates() RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  t     run_ops.routed_table;
  share text;
  n     record;
BEGIN
  FOR t IN SELECT * FROM run_ops.routed_table AS r WHERE r.routing <> 'store' AND r.key_rule IS NULL AND run_ops.is_complete(r) ORDER BY r.view LOOP
    -- of a large table, about a million rows
    share := (SELECT format(' TABLESAMPLE SYSTEM (%s)', round((1e8 / sum(c.reltuples))::numeric, 4))
                FROM pg_partition_tree(t.legacy) AS p JOIN pg_class AS c ON c.oid = p.relid WHERE p.isleaf HAVING sum(c.reltuples) > 1e6);
    SELECT * INTO n FROM run_ops.as_owner(t.legacy, format(
      'SELECT count(*), count(*) FILTER (WHERE s.scheme IS NULL), count(*) FILTER (WHERE s.scheme IS NOT NULL), '
      'string_agg(DISTINCT s.scheme, '', ''), count(*) FILTER (WHERE NOT run_ops.resides(x.id, ''legacy'')) '
      'FROM (SELECT %1$I::text AS id FROM %2$s%3$s) AS x, LATERAL (SELECT run_ops.id_scheme(x.id)) AS s (scheme) '
      -- first what leaves out almost every row
      'WHERE (NOT run_ops.is_classifiable(x.id) OR run_ops.classify_kind(x.id) = ''runOpsId''::run_ops.id_kind OR x.id !~ ''^[0-9A-Za-z_]*$'') '
      'AND (NOT run_ops.is_classifiable(x.id) OR s.scheme IS NOT NULL)', t.route_column, t.legacy, share))
      AS a (total bigint, shapeless bigint, others bigint, schemes text, misread bigint);
    CONTINUE WHEN n.total = 0;
    RETURN NEXT ROW('ids', t.legacy::text, false,
      concat_ws('; ', CASE WHEN share IS NOT NULL THEN 'in a sample of about a million rows' END,
        CASE WHEN n.shapeless > 0 THEN format('%s rows have an id of no known shape in "%s"', n.shapeless, t.route_column) END,
        CASE WHEN n.others > 0 THEN format('%s rows have an id that looks like one of another scheme (%s), of which %s would be taken for NEW ids',
                                           n.others, n.schemes, n.misread) END,
        'while split is on, an INSERT of an id of no known shape is refused'),
      format('Attach the table in a way that does not depend on ids: SELECT run_ops.detach_table(%L); SELECT run_ops.attach_table(%L, routing => ''store'', view_schema => %L, view_name => %L);',
             t.view, t.legacy, (SELECT c.relnamespace::regnamespace::text FROM pg_class AS c WHERE c.oid = t.view),
             (SELECT c.relname FROM pg_class AS c WHERE c.oid = t.view)))::run_ops.gate;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.id_gates() IS
  'ids in local tables that have no known shape, and those that look like ids of another scheme, so that their shape would say nothing about their store; reads whole tables, or a sample of large ones';
REVOKE EXECUTE ON FUNCTION run_ops.id_gates() FROM PUBLIC;

-- Collations ----------------------------------------------------------------------

CREATE FUNCTION run_ops.collation_gates(store text) RETURNS SETOF run_ops.gate
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'collation', format('%s in store "%s"', d.collation_name, collation_gates.store), false,
         format('%s in legacy, %s in store "%s"; the store is not asked for an order or a range of %s', min(d.here), min(d.there), collation_gates.store,
                string_agg(format('%s.%I', t.legacy, d.column_name), ', ' ORDER BY t.view::text, d.column_name)),
         CASE WHEN NOT bool_or(d.same_definition) THEN
           format('Run in store "%s": ALTER COLLATION %s RENAME TO %I; CREATE COLLATION %s (%s); %s;', collation_gates.store,
                  d.collation_name, left(n.name, 50) || '_replaced', d.collation_name, min(d.options), string_agg(
                    format('ALTER TABLE %I.%I ALTER COLUMN %I TYPE %s COLLATE %s', t.store_schema, t.store_table, d.store_column, d.type, d.collation_name),
                    '; ' ORDER BY t.view::text, d.column_name)) END
    FROM run_ops.differing_orders(collation_gates.store) AS d JOIN run_ops.routed_table AS t USING (view),
         LATERAL (SELECT p[cardinality(p)] FROM parse_ident(d.collation_name) AS p) AS n (name)
   -- another default collation, or another name: the gates database and columns say so
   WHERE d.same_definition OR d.collation_name <> '"default"' AND NOT EXISTS (
           SELECT FROM run_ops.table_differences(collation_gates.store, t) AS x WHERE starts_with(x, format('column %s: ', d.column_name)))
   GROUP BY d.collation_name, n.name
   ORDER BY d.collation_name
$$;
COMMENT ON FUNCTION run_ops.collation_gates(text) IS
  'collations of routed tables whose definition or library version is another one in a store';
REVOKE EXECUTE ON FUNCTION run_ops.collation_gates(text) FROM PUBLIC;

-- Columns ------------------------------------------------------------------------

CREATE FUNCTION run_ops.equalizing(store text, t run_ops.routed_table, is_missing boolean) RETURNS text
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  -- What is missing on one side is added there.  If both sides have a column, the
  -- store follows this database.  A fact is: type, NOT NULL, DEFAULT.
  WITH difference AS (
    SELECT d.*, quote_ident(coalesce(t.column_names ->> d.name, d.name)) AS column_there, quote_ident(d.name) AS column_here,
           format('%I.%I', t.store_schema, t.store_table) AS there, t.legacy::text AS here,
           regexp_match(d.legacy_fact, p.pattern) AS wanted, regexp_match(d.store_fact, p.pattern) AS found
      FROM (SELECT '^(.*?)( NOT NULL)?(?: DEFAULT (.*))?$') AS p (pattern),
           run_ops.differences(equalizing.store,
             (SELECT run_ops.table_facts_query(n.nspname, c.relname, '{}') FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = t.legacy),
             run_ops.table_facts_query(t.store_schema, t.store_table, (SELECT coalesce(jsonb_object_agg(value, key), '{}') FROM jsonb_each_text(t.column_names)))) AS d
     WHERE NOT (d.legacy_fact IS NULL AND (d.aspect = 'unique key' OR t.store_defaults ? d.name))
       AND NOT (d.aspect = 'unique key' AND d.name <> run_ops.key_name(t))
       -- of a table that is missing, the types are not known
       AND NOT (is_missing AND d.aspect LIKE 'label of %')
       AND concat(d.legacy_fact, d.store_fact) !~ ' (GENERATED AS|IDENTITY)'),
  statement AS (
    SELECT d.store_fact IS NULL OR d.aspect = 'column' AND d.legacy_fact IS NOT NULL AS in_store, d.aspect, d.name, s.sql
      FROM difference AS d, LATERAL unnest(CASE
        WHEN d.aspect = 'column' AND d.store_fact IS NULL THEN ARRAY[format('ALTER TABLE %s ADD COLUMN %s %s;', d.there, d.column_there, d.legacy_fact)]
        WHEN concat(d.name, d.store_fact) ~ ';' THEN '{}'  -- a store may be hostile
        WHEN d.aspect = 'column' AND d.legacy_fact IS NULL THEN ARRAY[format('ALTER TABLE %s ADD COLUMN %s %s;', d.here, d.column_here, d.store_fact)]
        WHEN d.aspect = 'column' THEN ARRAY[
          CASE WHEN d.wanted[3] IS DISTINCT FROM d.found[3] AND d.found[3] IS NOT NULL THEN format('ALTER TABLE %s ALTER COLUMN %s DROP DEFAULT;', d.there, d.column_there) END,
          CASE WHEN d.wanted[1] <> d.found[1] THEN format('ALTER TABLE %s ALTER COLUMN %s TYPE %s;', d.there, d.column_there, d.wanted[1]) END,
          CASE WHEN d.wanted[3] IS DISTINCT FROM d.found[3] AND d.wanted[3] IS NOT NULL THEN
            format('ALTER TABLE %s ALTER COLUMN %s SET DEFAULT %s;', d.there, d.column_there, d.wanted[3]) END,
          -- a column that must be NOT NULL has a gate of its own
          CASE WHEN d.wanted[2] IS DISTINCT FROM d.found[2] AND (d.wanted[2] IS NOT NULL OR d.name <> ALL (run_ops.never_null(t))) THEN
            format('ALTER TABLE %s ALTER COLUMN %s %s NOT NULL;', d.there, d.column_there, CASE WHEN d.wanted[2] IS NULL THEN 'DROP' ELSE 'SET' END) END]
        WHEN d.aspect LIKE 'label of %' THEN ARRAY[format('ALTER TYPE %s ADD VALUE %s;', substr(d.aspect, length('label of ') + 1), d.name)]
        WHEN d.aspect = 'unique key' THEN ARRAY[format('CREATE UNIQUE INDEX CONCURRENTLY ON %s (%s);', d.there, run_ops.renamed(d.name, t.column_names))] END) AS s (sql)
     WHERE s.sql IS NOT NULL)
  SELECT nullif(concat_ws(' ',
    (SELECT format('Run in this database: %s', string_agg(s.sql, ' ' ORDER BY s.aspect, s.name)) FROM statement AS s WHERE NOT s.in_store HAVING count(*) > 0),
    (SELECT format('Run in store "%s": %s%s', equalizing.store, CASE WHEN is_missing THEN format('CREATE TABLE %I.%I (); ', t.store_schema, t.store_table) END,
                   string_agg(s.sql, ' ' ORDER BY s.aspect, s.name)) FROM statement AS s WHERE s.in_store HAVING count(*) > 0)), '')
$$;
COMMENT ON FUNCTION run_ops.equalizing(text, run_ops.routed_table, boolean) IS
  'SQL after which a table and its copy in a store, which may be missing, have the same columns, enum labels and unique keys; generated columns are left out';
REVOKE EXECUTE ON FUNCTION run_ops.equalizing(text, run_ops.routed_table, boolean) FROM PUBLIC;

-- split_gates: the conditions for switching split on, one row for each.

CREATE FUNCTION run_ops.acknowledgeable_gates() RETURNS text[]
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  RETURN ARRAY['attached', 'clone', 'collation', 'foreign key', 'guard', 'hidden name', 'ids', 'index', 'mapping', 'preload', 'realtime', 'standby', 'wrapper'];
COMMENT ON FUNCTION run_ops.acknowledgeable_gates() IS
  'the gates that an operator may acknowledge for an object, because their failure alone cannot lose or duplicate a row';

CREATE FUNCTION run_ops.acknowledged(g run_ops.gate) RETURNS run_ops.gate
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  accepted run_ops.acknowledgement;
BEGIN
  IF NOT g.ok AND g.gate = ANY (run_ops.acknowledgeable_gates()) THEN
    SELECT * INTO accepted FROM run_ops.acknowledgement AS a WHERE a.gate = g.gate AND a.object = g.object;
    IF FOUND THEN
      g.ok := true;
      g.detail := format('%s; acknowledged by %s: %s', g.detail, accepted.role, accepted.reason);
      g.hint := NULL;
    ELSE
      g.hint := concat_ws(' ', g.hint,
        format('To accept it: SELECT run_ops.acknowledge(%L, %L, ''reason'');', g.gate, g.object));
    END IF;
  END IF;
  RETURN g;
END $$;
COMMENT ON FUNCTION run_ops.acknowledged(run_ops.gate) IS
  'the gate after acknowledgements: ok if an operator has acknowledged it, otherwise with a hint how to';

-- Gates that check this database only ---------------------------------------------

CREATE FUNCTION run_ops.realtime_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'realtime', reader.object, reader.ok, reader.detail, reader.hint
    FROM (
      SELECT 'native realtime' AS object, s.native_realtime AS ok,
             CASE WHEN s.native_realtime THEN 'realtime readers see the rows of every store'
                  ELSE 'realtime readers follow this database only' END AS detail,
             CASE WHEN NOT s.native_realtime THEN
               'Switch the application to its native realtime backend, then: SELECT run_ops.configure_split(native_realtime => true);' END AS hint
        FROM run_ops.split_state AS s
      UNION ALL
      SELECT format('publication %I', p.pubname), false,
             format('it publishes only the local rows of %s', string_agg(DISTINCT t.legacy::text, ', ')),
             'Create a publication in each store as well, and let the subscribers use both.'
        FROM pg_publication_tables AS p
        JOIN pg_namespace AS n ON n.nspname = p.schemaname
        JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = p.tablename
        JOIN run_ops.routed_table AS t ON t.legacy = coalesce(pg_partition_root(c.oid), c.oid)
       GROUP BY p.pubname
      UNION ALL
      -- pgoutput sends the tables of a publication, other plugins send all tables
      SELECT format('replication slot %I', r.slot_name), false,
             format('its plugin %s sends all tables, but only of this database', r.plugin),
             'Create a slot in each store as well, and let the readers use both.'
        FROM pg_replication_slots AS r
       WHERE r.database = current_database() AND r.plugin <> 'pgoutput'
    ) AS reader
$$;
COMMENT ON FUNCTION run_ops.realtime_gates() IS
  'whether readers follow this database only and would not see the rows of the stores';

CREATE FUNCTION run_ops.server_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'server', '', run_ops.server_identity() = ANY (s.identities) AND NOT pg_is_in_recovery(),
         concat_ws('; ', CASE WHEN pg_is_in_recovery() THEN 'it is a standby' END,
           format('this server is %s, servers that may use the stores: %s', run_ops.server_identity(),
                  coalesce(nullif(array_to_string(s.identities, ', '), ''), 'none'))),
         CASE WHEN pg_is_in_recovery() AND run_ops.server_identity() <> ALL (s.identities) THEN
           format('To let this standby read the stores, and use them after its promotion, run on its primary: SELECT run_ops.trust_standby(%L);', run_ops.server_identity())
              WHEN pg_is_in_recovery() THEN 'Check and switch split on its primary.'
              WHEN run_ops.server_identity() <> ALL (s.identities) THEN
           'A copy of the database does not use the stores of the original. To bind the stores to this server: SELECT run_ops.enable_split();' END
    FROM run_ops.split_state AS s
  UNION ALL
  SELECT 'store', '', s.ok, coalesce('attached: ' || s.names, 'no store is attached'),
         CASE WHEN s.ok THEN NULL
              WHEN s.server IS NOT NULL THEN format('SELECT run_ops.attach_store(''new'', %L);', s.server)
              ELSE 'Create a server that leads to the store, and a user mapping: '
                   'CREATE SERVER new FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host ''...'', dbname ''...''); '
                   'CREATE USER MAPPING FOR CURRENT_USER SERVER new OPTIONS (user ''...'', password ''...''); '
                   'SELECT run_ops.attach_store(''new'', ''new'');' END
    -- new ids of the known shapes need store "new", key rules need the stores that they name
    FROM (SELECT string_agg(r.name, ', ' ORDER BY r.name) AS names,
                 coalesce(bool_or(r.name = 'new') OR (count(*) > 0 AND (SELECT bool_and(t.key_rule IS NOT NULL) FROM run_ops.routed_table AS t)), false) AS ok,
                 (SELECT f.srvname FROM pg_foreign_server AS f JOIN pg_foreign_data_wrapper AS w ON w.oid = f.srvfdw
                   WHERE w.fdwname = 'run_ops_fdw' AND f.srvname NOT IN (SELECT x.server FROM run_ops.store AS x WHERE x.server IS NOT NULL)
                   ORDER BY f.srvname <> 'new', f.srvname LIMIT 1) AS server
            FROM run_ops.store AS r WHERE r.server IS NOT NULL) AS s
$$;
COMMENT ON FUNCTION run_ops.server_gates() IS 'whether this server may use the stores, and whether those are attached that ids can name';

CREATE FUNCTION run_ops.attached_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'attached', '', count(*) > 0, format('%s routed tables', count(*)),
         CASE WHEN count(*) > 0 THEN NULL
              WHEN EXISTS (SELECT FROM pg_class AS c, LATERAL run_ops.propose_routing(c.oid, NULL, NULL, NULL, NULL, NULL, NULL) AS p
                            WHERE c.relnamespace = to_regnamespace('public') AND c.relkind IN ('r', 'p') AND p.routing IS NOT NULL)
              THEN 'To attach all tables that exist on both sides: SELECT * FROM run_ops.attach_all_tables();'
              ELSE 'No table has a name from which its routing is known. To attach a table: '
                   'SELECT run_ops.attach_table(''...'', routing => ''...'', route_column => ''...'');' END
    FROM run_ops.routed_table
  UNION ALL
  SELECT 'attached', t.legacy::text, false, format('it is not attached in store "%s"', s.name),
         format('SELECT run_ops.refresh_table(%L);', t.view)
    FROM run_ops.routed_table AS t, run_ops.store AS s
   WHERE s.server IS NOT NULL AND run_ops.is_complete(t)
     AND NOT EXISTS (SELECT FROM run_ops.routed_store AS r WHERE r.view = t.view AND r.store = s.name)
  UNION ALL
  SELECT 'attached', t.legacy::text, false, format('table %s inherits from it, and has neither its key nor its write lock', h),
         format('ALTER TABLE %s NO INHERIT %s;', h, t.legacy)
    FROM run_ops.routed_table AS t, run_ops.heirs(t.legacy) AS h
  UNION ALL
  SELECT 'attached', c.oid::regclass::text, false, 'it is a run-ops table, but not a routed table',
         format('SELECT run_ops.attach_table(%L);', c.oid::regclass)
    FROM pg_class AS c JOIN run_ops.known_routing AS k ON k.legacy_table = c.relname
   WHERE c.relkind IN ('r', 'p')
     AND c.relnamespace IN (SELECT l.relnamespace FROM run_ops.routed_table AS t JOIN pg_class AS l ON l.oid = t.legacy)
     AND NOT EXISTS (SELECT FROM run_ops.routed_table AS t WHERE t.legacy = c.oid)
$$;
COMMENT ON FUNCTION run_ops.attached_gates() IS
  'whether all run-ops tables are routed tables, and attached in every store';

CREATE FUNCTION run_ops.preload_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'preload', '', false, 'new sessions load the library only while they plan their first statement on a view',
         format('As a superuser: %s;', p) FROM run_ops.preload_statement() AS p
   WHERE p IS NOT NULL AND EXISTS (SELECT FROM run_ops.routed_table)
$$;
COMMENT ON FUNCTION run_ops.preload_gates() IS
  'whether new sessions have the library before their first statement, which otherwise may fail with 40001 if another session changes the same rows';

CREATE FUNCTION run_ops.hidden_name_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  -- whoever has run_ops in front of the schema of the table
  WITH setting AS (
    SELECT d.setdatabase, d.setrole, substr(c, length('search_path=') + 1) AS path
      FROM pg_db_role_setting AS d, unnest(d.setconfig) AS c
     WHERE c LIKE 'search\_path=%' AND c ~ '\mrun_ops\M'
       AND d.setdatabase IN (0, (SELECT b.oid FROM pg_database AS b WHERE b.datname = current_database()))),
  statement AS (
    SELECT 'CREATE SCHEMA IF NOT EXISTS routed;' AS sql, 0 AS ord
    UNION ALL
    SELECT DISTINCT format('GRANT USAGE ON SCHEMA routed TO %s;', CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END), 1
      FROM pg_namespace AS n, aclexplode(n.nspacl) AS a WHERE n.nspname = 'run_ops' AND a.privilege_type = 'USAGE' AND a.grantee <> n.nspowner
    UNION ALL
    SELECT format('ALTER VIEW %s SET SCHEMA routed;', t.view), 2
      FROM run_ops.routed_table AS t JOIN pg_class AS c ON c.oid = t.view WHERE c.relnamespace = 'run_ops'::regnamespace
    UNION ALL
    SELECT format('ALTER %s SET search_path = %s;',
             CASE WHEN s.setrole = 0 THEN format('DATABASE %I', current_database())
                  ELSE concat(format('ROLE %s', s.setrole::regrole), CASE WHEN s.setdatabase <> 0 THEN format(' IN DATABASE %I', current_database()) END) END,
             regexp_replace(s.path, '\mrun_ops\M', 'routed')), 3
      FROM setting AS s)
  SELECT 'hidden name', h.object, false, format('%s stands in front of it where search_path has run_ops first', h.hidden_by),
         'Have the views in a schema that holds nothing else: ' || (SELECT string_agg(s.sql, ' ' ORDER BY s.ord, s.sql) FROM statement AS s)
    FROM (SELECT DISTINCT c.relnamespace FROM run_ops.routed_table AS t JOIN pg_class AS c ON c.oid = t.legacy) AS n,
         LATERAL run_ops.hidden_names(n.relnamespace) AS h
   WHERE EXISTS (SELECT FROM setting)
      OR EXISTS (SELECT FROM run_ops.routed_table AS t JOIN pg_class AS c ON c.oid = t.view WHERE c.relnamespace = 'run_ops'::regnamespace)
   ORDER BY h.object
$$;
COMMENT ON FUNCTION run_ops.hidden_name_gates() IS
  'tables and functions of the application that have the name of one of run_ops_split, while views are in schema run_ops or a search_path has it';

CREATE FUNCTION run_ops.refreshed_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'refreshed', s.foreign_table::text, false,
         format('it does not have these changes of %s: %s', t.legacy, string_agg(DISTINCT quote_ident(a.attname), ', ')),
         format('SELECT run_ops.refresh_table(%L);', t.view)
    FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s USING (view),
         LATERAL (SELECT c.attname
                    FROM pg_attribute AS c
                   WHERE c.attrelid IN (t.legacy, s.foreign_table) AND c.attnum > 0 AND NOT c.attisdropped
                     -- except columns that only the store has
                     AND NOT t.store_defaults ? c.attname
                   GROUP BY c.attname, c.atttypid, c.atttypmod, c.attcollation
                  HAVING count(*) = 1) AS a
   WHERE run_ops.is_complete(t)
   GROUP BY t.view, t.legacy, s.foreign_table
$$;
COMMENT ON FUNCTION run_ops.refreshed_gates() IS
  'foreign tables whose columns differ from those of the local table after a migration';

CREATE FUNCTION run_ops.standby_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  -- Which identity is that of which connection cannot be known here.  So it is
  -- only counted: a standby of this server has its system identifier.  A base
  -- backup or pg_receivewal replays nothing, and a walsender of logical
  -- replication is connected to a database.
  SELECT 'standby', '', s.trusted >= s.connected,
         format('%s standbys are connected (%s), and %s are trusted', s.connected, s.names, s.trusted),
         CASE WHEN s.trusted < s.connected THEN
           'A standby that is not trusted cannot read the stores, and refuses writes after its promotion. '
           'Run in this database what each of them returns. Run on each standby: '
           'SELECT format(''SELECT run_ops.trust_standby(%L);'', run_ops.server_identity());' END
    FROM (SELECT count(*) AS connected, string_agg(r.application_name, ', ' ORDER BY r.application_name) AS names,
                 (SELECT count(*) FROM run_ops.split_state AS x, unnest(x.identities) AS i
                   WHERE i <> run_ops.server_identity() AND split_part(i, '@', 1) = split_part(run_ops.server_identity(), '@', 1)) AS trusted
            FROM pg_stat_replication AS r JOIN pg_stat_activity AS a USING (pid)
           WHERE a.datid IS NULL AND r.state <> 'backup' AND r.replay_lsn IS NOT NULL) AS s
   WHERE s.connected > 0
$$;
COMMENT ON FUNCTION run_ops.standby_gates() IS
  'whether as many standbys of this server are trusted as are connected; no row if none is connected, or if this role may not see them (pg_read_all_stats)';

CREATE FUNCTION run_ops.foreign_key_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'foreign key', format('%I of %s', f.conname, f.conrelid::regclass), false,
         format('it connects %s with %s, and only one of them has rows in the stores', f.conrelid::regclass, f.confrelid::regclass),
         format('A foreign key cannot refer to another database. Drop it with a short lock_timeout: ALTER TABLE %s DROP CONSTRAINT %I;',
                f.conrelid::regclass, f.conname)
    FROM pg_constraint AS f
   -- conenforced exists from PostgreSQL 18 on
   WHERE f.contype = 'f' AND f.conparentid = 0 AND coalesce((to_jsonb(f) ->> 'conenforced')::boolean, true)
     AND EXISTS (SELECT FROM run_ops.routed_table AS t WHERE t.legacy = f.conrelid)
      <> EXISTS (SELECT FROM run_ops.routed_table AS t WHERE t.legacy = f.confrelid)
  UNION ALL
  -- the other way round, a new row of routing "store" goes beside the row to which
  -- it refers
  SELECT 'foreign key', format('%I of %s', f.conname, f.conrelid::regclass), false,
         format('"%s" decides where a row of %s is, but no id decides for %s: a new row there may be in this database, and then the foreign key fails in the store',
                child.route_column, child.legacy, parent.legacy),
         format('Let the application write each row of %s beside its run: SET LOCAL run_ops_split.beside = ''<id of the run>''; Or drop the foreign key. Run in this database: ALTER TABLE %s DROP CONSTRAINT %I;%s',
                parent.legacy, child.legacy, f.conname,
                (SELECT string_agg(format(' Run in store "%s": ALTER TABLE %I.%I DROP CONSTRAINT IF EXISTS %I;', s.store, child.store_schema, child.store_table, f.conname), '' ORDER BY s.store)
                   FROM run_ops.routed_store AS s WHERE s.view = child.view))
    FROM pg_constraint AS f JOIN run_ops.routed_table AS child ON child.legacy = f.conrelid JOIN run_ops.routed_table AS parent ON parent.legacy = f.confrelid
   WHERE f.contype = 'f' AND f.conparentid = 0 AND coalesce((to_jsonb(f) ->> 'conenforced')::boolean, true)
     AND child.routing <> 'store' AND parent.routing = 'store'
$$;
COMMENT ON FUNCTION run_ops.foreign_key_gates() IS
  'enforced foreign keys between a routed table and a table that is not routed, and from a table whose ids decide to one of routing "store"';

CREATE FUNCTION run_ops.stray_index(t run_ops.routed_table) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format('CREATE INDEX CONCURRENTLY ON %s (%I) WHERE NOT run_ops.resides(%2$I, ''legacy'');', t.legacy, t.route_column)
   WHERE t.key_rule IS NULL
     AND NOT EXISTS (SELECT FROM pg_index AS i
                      WHERE i.indrelid = t.legacy AND i.indisvalid
                        AND pg_get_expr(i.indpred, i.indrelid) = format('(NOT run_ops.resides(%I, ''legacy''::text))', t.route_column))
$$;
COMMENT ON FUNCTION run_ops.stray_index(run_ops.routed_table) IS
  'SQL that creates an index with which strays are counted without reading the whole table; NULL if it exists';

CREATE FUNCTION run_ops.local_stray_gates() RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  t run_ops.routed_table;
  n bigint;
  -- While split is on, the write lock refuses strays.  So rows that belong to a
  -- store are copies by run_ops.repatriate(), or leftovers.  And what
  -- run_ops.move_strays() copies is moved by the switch.
  bound  boolean := (SELECT run_ops.server_identity() = ANY (s.identities) FROM run_ops.split_state AS s);
  copies boolean := (SELECT s.enabled OR s.moving FROM run_ops.split_state AS s);
  moved  boolean;
BEGIN
  FOR t IN SELECT * FROM run_ops.routed_table AS r WHERE r.routing <> 'store' AND run_ops.is_relation(r.legacy, '{r,p}') ORDER BY r.view LOOP
    n := (SELECT a.n FROM run_ops.as_owner(t.legacy,
            format('SELECT count(*) FROM %s AS x WHERE NOT %s', t.legacy, run_ops.in_store(t, format('x.%I', t.route_column), 'legacy'))) AS a (n bigint));
    moved := EXISTS (SELECT FROM run_ops.leftover AS l WHERE l.view = t.view);
    RETURN NEXT ROW('strays', t.legacy::text, copies OR moved OR n = 0,
      format(CASE WHEN moved THEN '%s rows that moved to a store are still in the local table'
                  WHEN copies THEN '%s copies of rows of the stores'
                  ELSE '%s rows of the local table belong to a store by their id' END, n),
      CASE WHEN moved THEN 'To remove them, repeat until done: SELECT * FROM run_ops.remove_leftovers();'
           WHEN copies THEN NULL
           WHEN n > 0 THEN
             -- enable_split() would bind this server, but this gate refuses it
             CASE WHEN NOT bound THEN 'To bind the stores to this server: SELECT run_ops.trust_standby(run_ops.server_identity()); ' ELSE '' END
             || 'To copy them to the store, repeat until done: SELECT * FROM run_ops.move_strays(); Then SELECT run_ops.enable_split(); moves them.'
           ELSE 'The check reads the whole table, now and again while writes are blocked. An index avoids this: ' || run_ops.stray_index(t) END)::run_ops.gate;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.local_stray_gates() IS
  'rows of the local tables that belong to a store, so that the views would hide them; reads each whole table unless it has the index of run_ops.stray_index()';
REVOKE EXECUTE ON FUNCTION run_ops.local_stray_gates() FROM PUBLIC;

-- Gates that check a store -----------------------------------------------------------

CREATE FUNCTION run_ops.pooled_gates(store text, pid integer) RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  -- A pooler announces processes of its own making, so it can be detected, but
  -- not its mode.  The option is right in every mode.
  SELECT 'pooled', store, p.pooled,
         CASE WHEN p.pooled THEN 'a pooler is before it, and the option pooled is set'
              ELSE 'a pooler is before it, but the option pooled is not set' END,
         CASE WHEN NOT p.pooled THEN
           format('In transaction mode, settings of this database would reach other clients of the pooler, and be missing here. %s Then let the pooler open its connections again, with RECONNECT in PgBouncer.',
                  run_ops.altering_server(pooled_gates.store, '{"pooled": "true"}')) END
    FROM run_ops.store AS s JOIN pg_foreign_server AS f ON f.srvname = s.server,
         LATERAL (SELECT coalesce(bool_or(o.option_value::boolean), false)
                    FROM pg_options_to_table(f.srvoptions) AS o WHERE o.option_name = 'pooled') AS p (pooled)
   WHERE s.name = store
     AND NOT EXISTS (SELECT FROM run_ops.store_connections() AS c WHERE c.server = s.server AND c.pid = pooled_gates.pid)
$$;
COMMENT ON FUNCTION run_ops.pooled_gates(text, integer) IS
  'whether the server of a store has the option pooled, if there is a pooler: no connection of this session was announced as the process that has answered';
REVOKE EXECUTE ON FUNCTION run_ops.pooled_gates(text, integer) FROM PUBLIC;

CREATE FUNCTION run_ops.replica_gates(store text) RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  replica name := run_ops.replica_of(store);
  state   record;
  facts   jsonb;
  reason  text;
BEGIN
  IF replica IS NULL THEN
    RETURN;
  END IF;
  BEGIN
    state := run_ops.replica_state(replica);
    SELECT * INTO facts FROM run_ops.ask_store(store, 'SELECT system_identifier::text, current_database() AS database FROM pg_control_system()');
  EXCEPTION
    WHEN undefined_object THEN
      RETURN NEXT ROW('replica', store, false, SQLERRM, format('Create it, or: ALTER SERVER %I OPTIONS (DROP read_from);', (SELECT s.server FROM run_ops.store AS s WHERE s.name = store)))::run_ops.gate;
      RETURN;
    WHEN OTHERS THEN
      RETURN NEXT ROW('replica', store, true, 'it does not answer, so the store is read: ' || SQLERRM, NULL)::run_ops.gate;
      RETURN;
  END;
  reason := CASE WHEN state.system_identifier <> facts ->> 'system_identifier' OR state.database <> facts ->> 'database' THEN 'is not a copy of the store'
                 WHEN state.lag_ms IS NULL THEN 'is not a standby, and so not read' END;
  RETURN NEXT ROW('replica', store, reason IS NULL, format('server "%s" %s', replica, coalesce(reason, format('is %s ms behind', state.lag_ms))),
    CASE WHEN reason IS NOT NULL THEN format('ALTER SERVER %I OPTIONS (DROP read_from);', (SELECT s.server FROM run_ops.store AS s WHERE s.name = store)) END)::run_ops.gate;
END $$;
COMMENT ON FUNCTION run_ops.replica_gates(text) IS
  'whether the replica that the server of a store names is a standby of that store';
REVOKE EXECUTE ON FUNCTION run_ops.replica_gates(text) FROM PUBLIC;

CREATE FUNCTION run_ops.reachable_gates(stores text[]) RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  before timestamptz := clock_timestamp();
  after  timestamptz;
  skew   interval;
  a      record;
  facts  jsonb;
  mapping text;
  allowed interval := run_ops.setting('clock_skew_limit');
BEGIN
  FOR a IN SELECT * FROM run_ops.ask_stores(stores, ARRAY[
      'SELECT clock_timestamp() AS clock, current_setting(''transaction_read_only'')::boolean AS read_only, '
      'current_user AS role, current_database() AS database, '
      '(SELECT source FROM pg_settings WHERE name = ''default_transaction_read_only'') AS source, '
      'pg_is_in_recovery() AS in_recovery, pg_backend_pid() AS pid'], tolerant => true) LOOP
    after := coalesce(after, clock_timestamp());
    facts := a.answer;
    IF facts IS NULL THEN
      mapping := run_ops.altering_mapping(a.store, '{"user": "...", "password": "..."}');
      RETURN NEXT ROW('reachable', a.store, false, a.error,
        CASE WHEN mapping NOT LIKE 'CREATE %' THEN
               format('Start the store, or correct where it is: %s Or as whom it is reached: ', run_ops.altering_server(a.store, '{"host": "...", "dbname": "..."}')) ELSE '' END
        || mapping)::run_ops.gate;
      CONTINUE;
    END IF;
    RETURN NEXT ROW('reachable', a.store, true, 'it answers', NULL)::run_ops.gate;
    RETURN NEXT ROW('writable', a.store, NOT (facts ->> 'read_only')::boolean,
      CASE WHEN (facts ->> 'in_recovery')::boolean THEN 'it is a standby'
           WHEN (facts ->> 'read_only')::boolean THEN 'its transactions are read-only'
           ELSE 'it accepts writes' END,
      CASE WHEN (facts ->> 'in_recovery')::boolean THEN
             'Have the server lead to its primary: ' || run_ops.altering_server(a.store, '{"host": "..."}')
           WHEN (facts ->> 'read_only')::boolean THEN
             format('Run in store "%s": BEGIN READ WRITE; %s; COMMIT;', a.store, CASE facts ->> 'source'
               WHEN 'database' THEN format('ALTER DATABASE %I RESET default_transaction_read_only', facts ->> 'database')
               WHEN 'user' THEN format('ALTER ROLE %I RESET default_transaction_read_only', facts ->> 'role')
               ELSE format('ALTER DATABASE %I SET default_transaction_read_only = off', facts ->> 'database') END) END)::run_ops.gate;
    RETURN QUERY SELECT * FROM run_ops.pooled_gates(a.store, (facts ->> 'pid')::integer);
    RETURN QUERY SELECT * FROM run_ops.replica_gates(a.store);
    -- the clock of the store was read some time between before and after
    skew := greatest((facts ->> 'clock')::timestamptz - after, before - (facts ->> 'clock')::timestamptz, '0');
    RETURN NEXT ROW('clock', a.store, skew <= allowed, format('its clock differs by at least %s, %s are allowed', skew, allowed),
      CASE WHEN skew > allowed THEN 'Synchronize the clocks of both machines with the same time server.' END)::run_ops.gate;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.reachable_gates(text[]) IS
  'whether stores answer, whether their servers have the option pooled if there is a pooler, whether their replicas are some, whether they accept writes and have the same time; only one row for a store that does not answer';
REVOKE EXECUTE ON FUNCTION run_ops.reachable_gates(text[]) FROM PUBLIC;

CREATE FUNCTION run_ops.wrapper_gate(store text) RETURNS run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT ROW('wrapper', store, w.fdwname = 'run_ops_fdw', format('server %I uses %s', f.srvname, w.fdwname),
             'With postgres_fdw, a copy of this database could access the store, and lookups of LEGACY ids can fail while the store is down. '
             || run_ops.replacing_server(store))::run_ops.gate
    FROM run_ops.store AS s JOIN pg_foreign_server AS f ON f.srvname = s.server
    JOIN pg_foreign_data_wrapper AS w ON w.oid = f.srvfdw
   WHERE s.name = store
$$;
COMMENT ON FUNCTION run_ops.wrapper_gate(text) IS 'whether the server of a store is one of run_ops_fdw';

CREATE FUNCTION run_ops.table_gates(store text, t run_ops.routed_table) RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  differing text[] := ARRAY(SELECT run_ops.table_differences(store, t));
  is_missing boolean := coalesce(differing[1] LIKE 'table %: missing%', false);
  denied    jsonb;
BEGIN
  RETURN NEXT ROW('columns', t.legacy::text, differing = '{}',
    coalesce(nullif(array_to_string(differing, '; '), ''), format('equal in store "%s"', store)),
    CASE WHEN differing <> '{}' THEN
      concat_ws(' ', 'Make both sides equal.', run_ops.equalizing(store, t, is_missing)) END)::run_ops.gate;
  IF is_missing THEN
    RETURN;
  END IF;
  RETURN QUERY SELECT * FROM run_ops.index_gates(store, t);
  RETURN QUERY SELECT * FROM run_ops.guard_gates(store, t);
  SELECT a INTO denied
    FROM run_ops.ask_store(store, format(
      'SELECT current_user AS role, string_agg(p, '', '') AS privileges FROM unnest(ARRAY[''SELECT'', ''INSERT'', ''UPDATE'', ''DELETE'']) AS p '
      'WHERE NOT has_table_privilege(%L, p)', format('%I.%I', t.store_schema, t.store_table))) AS a;
  IF denied ->> 'privileges' IS NOT NULL THEN
    RETURN NEXT ROW('writable', format('%s in store "%s"', t.legacy, store), false,
      format('the user of the user mapping does not have privilege %s', denied ->> 'privileges'),
      format('Run in store "%s": GRANT %s ON %I.%I TO %I;', store, denied ->> 'privileges', t.store_schema, t.store_table, denied ->> 'role'))::run_ops.gate;
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.table_gates(text, run_ops.routed_table) IS
  'whether a table has the same columns and indexes in a store, and whether the user of the user mapping may write to it';
REVOKE EXECUTE ON FUNCTION run_ops.table_gates(text, run_ops.routed_table) FROM PUBLIC;

CREATE FUNCTION run_ops.write_lock_query() RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  RETURN 'SELECT n.nspname AS schema, c.relname AS name, k.convalidated AS validated FROM pg_constraint AS k '
         'JOIN pg_class AS c ON c.oid = k.conrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace '
         'WHERE k.contype = ''c'' AND k.conname = ''run_ops_write_lock'' AND coalesce((to_jsonb(k) ->> ''conenforced'')::boolean, true)';
COMMENT ON FUNCTION run_ops.write_lock_query() IS
  'a query for the tables of a store that have a write lock, and whether all rows meet it';

CREATE FUNCTION run_ops.write_lock_gates(store text) RETURNS SETOF run_ops.gate
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  -- This gate never fails: the write lock changes a table of the store, so its
  -- owner decides.  Rows that belong elsewhere have the gate "strays".
  SELECT 'write lock', t.legacy::text, true,
         CASE WHEN l.validated THEN format('exists in store "%s"', s.store)
              WHEN l.name IS NOT NULL THEN format('exists in store "%s", but is not validated, so the whole table is read to find strays', s.store)
              ELSE format('missing in store "%s": a client of the store can write rows that the view does not show', s.store) END,
         CASE WHEN l.validated THEN NULL
              WHEN l.name IS NOT NULL THEN format('Run in store "%s": ALTER TABLE %I.%I VALIDATE CONSTRAINT run_ops_write_lock;', s.store, t.store_schema, t.store_table)
              ELSE format('Run in store "%s": %s;', s.store, run_ops.store_write_lock(t.view, s.store)) END
    FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s USING (view)
    LEFT JOIN (SELECT a ->> 'schema', a ->> 'name', (a ->> 'validated')::boolean FROM run_ops.ask_store(write_lock_gates.store, run_ops.write_lock_query()) AS a) AS l (schema, name, validated)
      ON l.schema = t.store_schema AND l.name = t.store_table
   WHERE s.store = write_lock_gates.store AND t.route_column IS NOT NULL AND run_ops.is_complete(t)
   ORDER BY t.view::text
$$;
COMMENT ON FUNCTION run_ops.write_lock_gates(text) IS
  'whether the tables of a store refuse rows that belong elsewhere. Never fails; the hint has the SQL that adds a missing write lock.';
REVOKE EXECUTE ON FUNCTION run_ops.write_lock_gates(text) FROM PUBLIC;

CREATE FUNCTION run_ops.same_shape_gates(store text) RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  t        run_ops.routed_table;
  place    text := CASE store WHEN 'legacy' THEN 'this database' ELSE format('store "%s"', store) END;
  known    name;
  commands text;
  rows     text;
  n        bigint;
BEGIN
  FOR t IN SELECT r.* FROM run_ops.routed_table AS r, LATERAL run_ops.copies(r) AS c
            WHERE c.store = store AND run_ops.is_complete(r) ORDER BY r.view LOOP
    known := run_ops.known_same_shape(t);
    IF t.same_shape IS NULL THEN
      IF store = 'legacy' AND known IS NOT NULL THEN
        RETURN NEXT ROW('same shape', t.legacy::text, true, format('lookups by "%s" query every store, because it is not declared to have the shape of the id', known),
          (SELECT string_agg(format('Run in %s: %s; ', CASE c.store WHEN 'legacy' THEN 'this database' ELSE format('store "%s"', c.store) END, c.command), '' ORDER BY ord)
             FROM run_ops.same_shape_commands(t.view) WITH ORDINALITY AS c (store, command, ord))
          || format('Run in this database: SELECT run_ops.declare_same_shape(%L);', t.view))::run_ops.gate;
      END IF;
      CONTINUE;
    END IF;
    commands := (SELECT string_agg(c || ';', ' ' ORDER BY ord) FROM run_ops.unproven_same_shape(t, store) WITH ORDINALITY AS u (c, ord));
    IF commands IS NULL THEN
      RETURN NEXT ROW('same shape', t.legacy::text, true, format('a constraint of %s proves that "%s" has the shape of the id', place, t.same_shape), NULL)::run_ops.gate;
      CONTINUE;
    END IF;
    rows := format('FROM %s WHERE NOT (%s)', run_ops.place_in_store(t, store), run_ops.same_shape_condition(t, store));
    IF store = 'legacy' THEN
      n := (SELECT a.n FROM run_ops.as_owner(t.legacy, 'SELECT count(*) ' || rows) AS a (n bigint));
    ELSE
      n := (SELECT (answer ->> 'n')::bigint FROM run_ops.ask_store(store, 'SELECT count(*) AS n ' || rows) AS answer);
    END IF;
    RETURN NEXT ROW('same shape', t.legacy::text, false,
      format('no constraint of %s proves that "%s" has the shape of the id; %s rows do not', place, t.same_shape, n),
      format('%s Or let lookups by "%s" query every store: SELECT run_ops.undeclare_same_shape(%L);',
             CASE WHEN n > 0 THEN format('To find the rows, run in %s: SELECT * %s;', place, rows)
                  ELSE format('Run in %s: %s', place, commands) END, t.same_shape, t.view))::run_ops.gate;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.same_shape_gates(text) IS
  'whether a store proves for each column that is declared to have the shape of the id that it has; also says which known column could be declared';
REVOKE EXECUTE ON FUNCTION run_ops.same_shape_gates(text) FROM PUBLIC;

CREATE FUNCTION run_ops.mapping_gates(store text) RETURNS SETOF run_ops.gate
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'mapping', t.legacy::text, false,
         format('the user mapping for store "%s" uses superuser %I, but the table belongs to %I, whose triggers would run as that superuser',
                mapping_gates.store, a ->> 'superuser', a ->> 'owner'),
         concat('Use a role of the store that is not a superuser, and may set session_replication_role, such as the owner of the tables: ',
           run_ops.altering_mapping(mapping_gates.store, jsonb_build_object('user', a ->> 'owner')),
           format(' Run in store "%s": GRANT SET ON PARAMETER session_replication_role TO %I;', mapping_gates.store, a ->> 'owner'))
    FROM run_ops.ask_store(mapping_gates.store, (
           SELECT format('SELECT u.view, r.rolname AS superuser, pg_get_userbyid(c.relowner) AS owner '
                         'FROM unnest(%L::bigint[], %L::text[]) AS u (view, name) JOIN pg_class AS c ON c.oid = to_regclass(u.name) '
                         'JOIN pg_roles AS r ON r.rolname = current_user '
                         'WHERE r.rolsuper AND NOT pg_has_role(c.relowner, r.oid, ''USAGE'')',
                         array_agg(t.view::oid), array_agg(format('%I.%I', t.store_schema, t.store_table)))
             FROM run_ops.routed_table AS t)) AS a
    JOIN run_ops.routed_table AS t ON t.view = (a ->> 'view')::oid
   ORDER BY t.view::text
$$;
COMMENT ON FUNCTION run_ops.mapping_gates(text) IS
  'tables of a store whose owner could run code there as a superuser, because the user mapping uses a superuser';
REVOKE EXECUTE ON FUNCTION run_ops.mapping_gates(text) FROM PUBLIC;

CREATE FUNCTION run_ops.atomic_commit_gates(store text) RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  atomic boolean := run_ops.setting('cross_store_writes') = 'atomic';
  at_most int := run_ops.prepares_at_most(store);
  left_there jsonb[] := ARRAY(SELECT run_ops.left_in_store(store));
BEGIN
  IF NOT atomic AND left_there = '{}' THEN
    RETURN;
  END IF;
  RETURN NEXT ROW('atomic commit', store, NOT atomic OR at_most > 0,
    format('max_prepared_transactions is %s, and %s transactions are prepared', at_most, cardinality(left_there)),
    CASE WHEN atomic AND at_most = 0 THEN
      (SELECT format('Run in store "%s": ALTER SYSTEM SET max_prepared_transactions = %s; Then restart the store. Or set run_ops_split.cross_store_writes to another value.', store, a ->> 'n')
         FROM run_ops.ask_store(store, 'SELECT current_setting(''max_connections'') AS n') AS a)
         WHEN EXISTS (SELECT FROM unnest(left_there) AS l, run_ops.prepared_outcome(l ->> 'gid') AS o (outcome) WHERE o.outcome IN ('committed', 'rolled back')) THEN
           'To finish what a crash has left: SELECT * FROM run_ops.resolve_in_doubt();' END)::run_ops.gate;
  RETURN QUERY
    SELECT 'in doubt', format('%s in store "%s"', l ->> 'gid', store), false,
           format('prepared at %s by role "%s"; %s', l ->> 'prepared', l ->> 'owner', o.outcome),
           format('Find out whether the transaction was committed in the database that has prepared it. Run in store "%s": COMMIT PREPARED %L; or ROLLBACK PREPARED %2$L;', store, l ->> 'gid')
      FROM unnest(left_there) AS l, run_ops.prepared_outcome(l ->> 'gid') AS o (outcome)
     WHERE o.outcome LIKE 'undecided:%';
END $$;
COMMENT ON FUNCTION run_ops.atomic_commit_gates(text) IS
  'whether a store can prepare transactions, and which of those that are prepared there cannot be decided; no row unless run_ops_split.cross_store_writes is atomic or something is prepared';
REVOKE EXECUTE ON FUNCTION run_ops.atomic_commit_gates(text) FROM PUBLIC;

CREATE FUNCTION run_ops.recreating_database(store text) RETURNS text
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  -- to_jsonb(), because some columns do not exist in all PostgreSQL versions
  SELECT format('Run in store "%s": CREATE DATABASE %I TEMPLATE template0 ENCODING %L LC_COLLATE %L LC_CTYPE %L%s; '
                'Copy the tables to it, with pg_dump and psql. Run in this database: %s', recreating_database.store,
                n.name, pg_encoding_to_char(db.encoding), db.datcollate, db.datctype,
                CASE WHEN d ->> 'datlocprovider' = 'i' THEN format(' LOCALE_PROVIDER icu ICU_LOCALE %L', coalesce(d ->> 'datlocale', d ->> 'daticulocale'))
                       || coalesce(format(' ICU_RULES %L', d ->> 'daticurules'), '')
                     WHEN d ->> 'datlocprovider' = 'b' THEN format(' LOCALE_PROVIDER builtin BUILTIN_LOCALE %L', d ->> 'datlocale')
                     WHEN (a ->> 'version')::int >= 150000 THEN ' LOCALE_PROVIDER libc' ELSE '' END,
                run_ops.altering_server(recreating_database.store, jsonb_build_object('dbname', n.name)))
    FROM pg_database AS db, to_jsonb(db) AS d,
         run_ops.ask_store(recreating_database.store, 'SELECT current_database() AS name, current_setting(''server_version_num'') AS version') AS a,
         LATERAL (SELECT left(a ->> 'name', 50) || '_recreated') AS n (name)
   WHERE db.datname = current_database()
$$;
COMMENT ON FUNCTION run_ops.recreating_database(text) IS
  'SQL that creates the database of a store again, with the encoding and collation of this one';
REVOKE EXECUTE ON FUNCTION run_ops.recreating_database(text) FROM PUBLIC;

CREATE FUNCTION run_ops.content_gates(store text) RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  t         run_ops.routed_table;
  differing text[];
BEGIN
  differing := ARRAY(SELECT run_ops.database_differences(store));
  RETURN NEXT ROW('database', store, differing = '{}',
    coalesce(nullif(array_to_string(differing, '; '), ''), 'encoding and collation are equal'),
    CASE WHEN differing <> '{}' THEN 'Sorted results of both databases would be merged in the wrong order. ' || run_ops.recreating_database(store) END)::run_ops.gate;
  FOR t IN SELECT r.* FROM run_ops.routed_table AS r JOIN run_ops.routed_store AS s USING (view)
            WHERE s.store = content_gates.store AND run_ops.is_complete(r) ORDER BY r.view LOOP
    RETURN QUERY SELECT * FROM run_ops.table_gates(store, t);
  END LOOP;
  RETURN QUERY SELECT * FROM run_ops.collation_gates(store);
  RETURN QUERY SELECT * FROM run_ops.store_identity_gates(store);
  RETURN QUERY SELECT * FROM run_ops.store_key_index_gates(store);
  RETURN QUERY SELECT * FROM run_ops.write_lock_gates(store);
  RETURN QUERY SELECT * FROM run_ops.mapping_gates(store);
  RETURN QUERY SELECT * FROM run_ops.atomic_commit_gates(store);
  -- last, because it fails if the store lacks the column
  RETURN QUERY SELECT * FROM run_ops.same_shape_gates(store);
EXCEPTION WHEN OTHERS THEN
  RETURN NEXT ROW('columns', store, NULL, format('not checked: %s', SQLERRM), NULL)::run_ops.gate;
END $$;
COMMENT ON FUNCTION run_ops.content_gates(text) IS 'the gates that compare a store that answers with this database';
REVOKE EXECUTE ON FUNCTION run_ops.content_gates(text) FROM PUBLIC;

CREATE FUNCTION run_ops.store_gates(stores text[]) RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  store     text;
  gates     run_ops.gate[] := ARRAY(SELECT g FROM run_ops.reachable_gates(stores) AS g);
  answering text[] := ARRAY(SELECT g.object FROM unnest(gates) AS g WHERE g.gate = 'reachable' AND g.ok);
BEGIN
  RETURN QUERY SELECT * FROM unnest(gates);
  -- one row has the reason, and is enough
  RETURN QUERY SELECT follows, s, NULL::boolean, 'unreachable', NULL
                 FROM unnest(stores) AS s, unnest(ARRAY['distinct', 'columns']) AS follows WHERE s <> ALL (answering);
  RETURN QUERY SELECT g.* FROM unnest(stores) AS s, run_ops.wrapper_gate(s) AS g WHERE s <> ALL (answering);
  PERFORM run_ops.ask_alike(answering);
  FOREACH store IN ARRAY answering LOOP
    RETURN NEXT run_ops.distinct_gate(store);
    RETURN NEXT run_ops.wrapper_gate(store);
    RETURN QUERY SELECT * FROM run_ops.content_gates(store);
  END LOOP;
  PERFORM run_ops.ask_alike('{}');
END $$;
COMMENT ON FUNCTION run_ops.store_gates(text[]) IS 'all gates that query these stores';
REVOKE EXECUTE ON FUNCTION run_ops.store_gates(text[]) FROM PUBLIC;

CREATE FUNCTION run_ops.refuse_unfit_store(store text) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  failing text;
  hints   text;
BEGIN
  SELECT string_agg(concat_ws(' ', a.gate, nullif(a.object, '')) || ': ' || a.detail, E'\n'), string_agg(a.hint, E'\n')
    INTO failing, hints
    FROM run_ops.store_gates(ARRAY[store]) AS g, run_ops.acknowledged(g) AS a WHERE a.ok IS NOT TRUE;
  IF failing IS NOT NULL THEN
    RAISE EXCEPTION 'cannot attach store "%" while split is on', store
      USING ERRCODE = 'RO003', DETAIL = failing, HINT = coalesce(hints, '');
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_unfit_store(text) IS
  'raises one error with all gates of a store that fail, if there are any: while split is on, clients read the store from the moment it is attached';
REVOKE EXECUTE ON FUNCTION run_ops.refuse_unfit_store(text) FROM PUBLIC;

CREATE FUNCTION run_ops.unstraying(t run_ops.routed_table) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format('To list them: SELECT * FROM run_ops.find_strays(%L); ', t.view)
      || CASE WHEN t.routing = 'store' THEN 'To delete the rows of this database, of which the view shows the rows of a store: '
              ELSE 'To bring here those that belong here: ' END
      || string_agg(CASE WHEN t.routing = 'store' THEN
           format('DELETE FROM %s AS x USING %s AS y WHERE %s;', t.legacy, r.foreign_table,
             (SELECT string_agg(format('x.%1$I %2$s y.%1$I', k, run_ops.equality_operator(t.legacy, k)), ' AND ') FROM unnest(t.key_columns) AS k))
         ELSE format('WITH gone AS (DELETE FROM %s AS x WHERE %s RETURNING %s) INSERT INTO %s (%s) SELECT * FROM gone;',
                r.foreign_table, run_ops.in_store(t, format('x.%I', t.route_column), 'legacy'), c.columns, t.legacy, c.columns) END, ' ' ORDER BY r.store)
    FROM run_ops.routed_store AS r,
         LATERAL (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute AS a
                   WHERE a.attrelid = t.legacy AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '') AS c (columns)
   WHERE r.view = t.view
$$;
COMMENT ON FUNCTION run_ops.unstraying(run_ops.routed_table) IS
  'how rows of stores are listed that belong elsewhere, and SQL that brings them where they belong, or deletes the rows that no view shows';

CREATE FUNCTION run_ops.store_stray_gates() RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  t      run_ops.routed_table;
  n      bigint;
  twice  bigint;
  silent text;
  -- a write lock that is validated is the proof that a table has no strays
  proven text[];
BEGIN
  -- First, because opening the connection of a foreign table may wait without
  -- limit.
  BEGIN
    proven := ARRAY(SELECT format('%s.%I.%I', a.store, a.answer ->> 'schema', a.answer ->> 'name')
                      FROM run_ops.ask_stores(ARRAY(SELECT s.name FROM run_ops.store AS s WHERE s.server IS NOT NULL), ARRAY[run_ops.write_lock_query()]) AS a
                     WHERE (a.answer ->> 'validated')::boolean);
  EXCEPTION WHEN OTHERS THEN
    silent := SQLERRM;
  END;
  FOR t IN SELECT * FROM run_ops.routed_table AS r WHERE run_ops.is_complete(r) ORDER BY r.view LOOP
    IF silent IS NOT NULL THEN
      RETURN NEXT ROW('strays', t.view::text, NULL, format('not checked: %s', silent), NULL)::run_ops.gate;
      CONTINUE;
    ELSIF t.route_column IS NOT NULL AND proven @> ARRAY(SELECT format('%s.%I.%I', s.store, t.store_schema, t.store_table) FROM run_ops.routed_store AS s WHERE s.view = t.view) THEN
      RETURN NEXT ROW('strays', t.view::text, true, 'none: the write lock is validated in each store', NULL)::run_ops.gate;
      CONTINUE;
    END IF;
    BEGIN
      SELECT count(*) FILTER (WHERE CASE t.routing
                WHEN 'store' THEN s.store = 'legacy'
                  -- while rows are moved, both databases have them
                  AND NOT (SELECT x.moving FROM run_ops.split_state AS x)
                ELSE s.store <> 'legacy' END),
             count(*) FILTER (WHERE s.store <> 'legacy' AND t.routing = 'store')
        INTO n, twice FROM run_ops.find_strays(t.view) AS s;
      RETURN NEXT ROW('strays', t.view::text, n + twice = 0,
        format('%s rows that the view would not show', n)
          || CASE WHEN twice > 0 THEN format(', and %s that it would show although another store has their key', twice) ELSE '' END,
        CASE WHEN n + twice > 0 THEN run_ops.unstraying(t) END)::run_ops.gate;
    EXCEPTION WHEN OTHERS THEN
      RETURN NEXT ROW('strays', t.view::text, NULL, format('not checked: %s', SQLERRM), NULL)::run_ops.gate;
    END;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.store_stray_gates() IS
  'rows of the stores that belong elsewhere, and keys that exist in two stores; reads whole tables, but for those with a validated write lock';
REVOKE EXECUTE ON FUNCTION run_ops.store_stray_gates() FROM PUBLIC;

-- All gates -------------------------------------------------------------------------

CREATE FUNCTION run_ops.view_faults(t run_ops.routed_table, split boolean) RETURNS SETOF text
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF NOT run_ops.has_query(t.view, run_ops.view_query(t, split)) THEN
    RETURN NEXT CASE WHEN run_ops.has_query(t.view, run_ops.view_query(t, NOT split)) THEN
                       CASE WHEN split THEN 'this view shows local rows only although split is on'
                            ELSE 'this view shows the rows of all stores although split is off' END
                     ELSE 'its query is not the one that run_ops_split has made' END;
  END IF;
  RETURN QUERY
    SELECT format('its column %I has another name than in %s', v.attname, t.legacy)
      FROM pg_attribute AS v
     WHERE v.attrelid = t.view AND v.attnum > 0
       AND NOT EXISTS (SELECT FROM pg_attribute AS l WHERE l.attrelid = t.legacy AND l.attnum > 0 AND l.attname = v.attname);
  IF split <> run_ops.has_union_rule(t.view) THEN
    RETURN NEXT format('rule refuse_on_conflict %s', CASE WHEN split THEN 'is missing' ELSE 'exists although split is off' END);
  END IF;
  RETURN QUERY
    SELECT format('trigger %I of %s %s', coalesce(w.name, g.tgname), coalesce(w.relation, g.tgrelid::regclass),
                  CASE WHEN w.name IS NULL THEN 'is not needed' WHEN g.oid IS NULL THEN 'is missing' ELSE 'is disabled' END)
      FROM (SELECT t.view AS relation, format('run_ops_%s%s', r, p) AS name, CASE r WHEN '' THEN 'O' ELSE 'R' END AS enabled, 'run_ops.route_write()'::regprocedure AS function
              FROM unnest(ARRAY['begin', 'route', 'write']) AS p, unnest(ARRAY['', 'replica_']) AS r WHERE split
            UNION ALL
            SELECT t.legacy, 'run_ops_write_lock', 'A', 'run_ops.refuse_stray()'::regprocedure WHERE split AND t.route_column IS NOT NULL) AS w
      FULL JOIN (SELECT * FROM pg_trigger AS x
                  WHERE x.tgrelid IN (t.view, t.legacy) AND x.tgparentid = 0
                    AND x.tgfoid IN ('run_ops.route_write()'::regprocedure, 'run_ops.refuse_stray()'::regprocedure)) AS g
        ON g.tgrelid = w.relation AND g.tgname = w.name AND g.tgfoid = w.function
     WHERE w.enabled IS DISTINCT FROM g.tgenabled::text
     ORDER BY 1;
  RETURN QUERY
    SELECT format('column %I has no default', v.attname)
      FROM run_ops.view_default AS d JOIN pg_attribute AS v ON v.attrelid = d.view AND v.attnum = d."position"
     WHERE d.view = t.view AND split AND NOT v.atthasdef;
EXCEPTION WHEN OTHERS THEN
  RETURN NEXT 'not checked: ' || SQLERRM;
END $$;
COMMENT ON FUNCTION run_ops.view_faults(run_ops.routed_table, boolean) IS
  'in what a view differs from what it must be with split off or on: its query, names of columns, rule, triggers, defaults';

CREATE FUNCTION run_ops.view_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  -- A restored copy has the views for split on although it is off, and a dump
  -- lacks some triggers.  split_status says that such views are suspended, and
  -- enable_split() creates them again.
  SELECT 'view', t.view::text, false, string_agg(f, '; '),
         format('To create it again: SELECT run_ops.refresh_table(%L);', t.view)
    FROM run_ops.routed_table AS t, LATERAL run_ops.view_faults(t, run_ops.split_enabled()) AS f
   WHERE run_ops.is_complete(t) AND (run_ops.split_enabled() OR NOT run_ops.has_union_rule(t.view))
   GROUP BY t.view
  UNION ALL
  SELECT 'view', t.view::text, false, format('rule %I of somebody else is executed in place of each %s', w.rulename, c.command),
         format('DROP RULE %I ON %s;', w.rulename, t.view)
    FROM run_ops.routed_table AS t JOIN pg_rewrite AS w ON w.ev_class = t.view AND w.is_instead
    JOIN (VALUES ('2', 'UPDATE'), ('3', 'INSERT'), ('4', 'DELETE')) AS c (ev_type, command) ON c.ev_type = w.ev_type::text
   WHERE run_ops.split_enabled()
$$;
COMMENT ON FUNCTION run_ops.view_gates() IS 'views that are not what they must be';

CREATE FUNCTION run_ops.local_gates() RETURNS SETOF run_ops.gate
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT 'opted in', '', s.opted_in,
         CASE WHEN s.opted_in THEN 'yes' ELSE 'no; the stores are not checked' END,
         CASE WHEN NOT s.opted_in THEN 'SELECT run_ops.configure_split(opted_in => true);' END
    FROM run_ops.split_state AS s
  UNION ALL SELECT * FROM run_ops.server_gates()
  UNION ALL SELECT * FROM run_ops.complete_gates()
  UNION ALL SELECT * FROM run_ops.attached_gates()
  UNION ALL SELECT * FROM run_ops.preload_gates()
  UNION ALL SELECT * FROM run_ops.hidden_name_gates()
  UNION ALL SELECT * FROM run_ops.refreshed_gates()
  UNION ALL SELECT * FROM run_ops.key_gates()
  UNION ALL SELECT * FROM run_ops.identity_gates()
  UNION ALL SELECT * FROM run_ops.foreign_key_gates()
  UNION ALL SELECT * FROM run_ops.local_key_index_gates()
  UNION ALL SELECT * FROM run_ops.realtime_gates()
$$;
COMMENT ON FUNCTION run_ops.local_gates() IS
  'the gates that neither query a store nor read routed tables, before acknowledgements';

CREATE FUNCTION run_ops.gates() RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  state   run_ops.split_state;
  g       run_ops.gate;
  answers boolean := true;
BEGIN
  SELECT * INTO state FROM run_ops.split_state;
  RETURN QUERY SELECT * FROM run_ops.local_gates();
  RETURN QUERY SELECT * FROM run_ops.view_gates();
  RETURN QUERY SELECT * FROM run_ops.standby_gates();
  IF state.opted_in THEN
    RETURN QUERY SELECT * FROM run_ops.same_shape_gates('legacy');
    RETURN QUERY SELECT * FROM run_ops.id_gates();
    FOR g IN SELECT * FROM run_ops.store_gates(ARRAY(SELECT s.name FROM run_ops.store AS s WHERE s.server IS NOT NULL)) LOOP
      answers := answers AND (g.gate <> 'reachable' OR g.ok);
      RETURN NEXT g;
    END LOOP;
    -- after a repatriation all rows are in this database, and enable_split()
    -- moves those that belong to a store
    IF NOT state.superseded THEN
      RETURN QUERY SELECT * FROM run_ops.local_stray_gates();
      -- a query of a foreign table may wait for a store without limit
      IF answers THEN
        RETURN QUERY SELECT * FROM run_ops.store_stray_gates();
      ELSE
        RETURN NEXT ROW('strays', '', NULL, 'unreachable', NULL)::run_ops.gate;
      END IF;
    END IF;
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.gates() IS 'all gates, before acknowledgements';
REVOKE EXECUTE ON FUNCTION run_ops.gates() FROM PUBLIC;

CREATE FUNCTION run_ops.follow_orders() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  old_lock_timeout text := current_setting('lock_timeout');
  store text;
BEGIN
  IF current_setting('transaction_read_only')::boolean THEN
    RETURN;
  END IF;
  FOR store IN SELECT s.name FROM run_ops.store AS s, run_ops.split_state AS x WHERE s.server IS NOT NULL AND x.opted_in LOOP
    BEGIN
      PERFORM set_config('lock_timeout', run_ops.setting('swap_lock_timeout'), true);
      PERFORM run_ops.mark_orders(store);
    -- a store that does not answer has its own gate, and the next check tries again
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
  END LOOP;
  PERFORM set_config('lock_timeout', old_lock_timeout, true);
END $$;
COMMENT ON FUNCTION run_ops.follow_orders() IS
  'marks columns whose order differs in a store by now, as far as foreign tables can be locked';
REVOKE EXECUTE ON FUNCTION run_ops.follow_orders() FROM PUBLIC;

-- SECURITY DEFINER for the reason given in split_mode.sql.
CREATE FUNCTION run_ops.check_split() RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
  -- as the owner, whose user mapping gives access to the stores
  RETURN QUERY SELECT a.* FROM run_ops.gates() AS g, run_ops.acknowledged(g) AS a;
  -- at the end, because it may lock foreign tables until the transaction ends
  PERFORM run_ops.follow_orders();
END $$;
COMMENT ON FUNCTION run_ops.check_split() IS
  'one row for each gate and object: whether the gate holds, what was found, what to do. Queries every store, and reads whole tables to find strays.';

-- repatriate: copying rows from the stores into this database, and back into
-- the stores.
--
-- The same code runs in both directions.  Each side computes a hash of a range
-- of keys, and only if the hashes differ, the rows of the range are compared
-- and copied.  So a pass may stop anywhere and be repeated, the next pass finds
-- rows that the application changes meanwhile, and verification is a pass that
-- copies nothing.  What is hashed and copied is the text of the whole row.
--
-- Back: rows of a store are copied into the local table while split is on.  The
-- view does not show them there, because their id belongs to the store.  If no
-- id decides (routing "store"), they are copied into a staging table.
-- Forward: after that the local tables have all rows, and the stores have older
-- versions (split_state.superseded).  Before split is enabled again, the local
-- rows that belong to a store are copied over the old ones.  leftovers.sql
-- describes how they are removed here afterwards.

CREATE TABLE run_ops.copy_progress (
  view       regclass REFERENCES run_ops.routed_table ON UPDATE CASCADE ON DELETE CASCADE,
  store      text REFERENCES run_ops.store ON DELETE CASCADE,
  forward    boolean NOT NULL,
  position   jsonb,
  finished   boolean NOT NULL DEFAULT false,
  batches    bigint NOT NULL DEFAULT 0,
  copied     bigint NOT NULL DEFAULT 0,
  skipped    bigint NOT NULL DEFAULT 0,
  changed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  expected   bigint,
  compared   bigint NOT NULL DEFAULT 0,
  started_at timestamptz,
  PRIMARY KEY (view, store, forward)
);
COMMENT ON TABLE run_ops.copy_progress IS
  'the progress of run_ops.repatriate() and run_ops.move_strays() in their current pass';
COMMENT ON COLUMN run_ops.copy_progress.view IS 'the routed table';
COMMENT ON COLUMN run_ops.copy_progress.store IS 'the store';
COMMENT ON COLUMN run_ops.copy_progress.forward IS 'true: from this database to the store (move_strays); false: from the store to this database (repatriate)';
COMMENT ON COLUMN run_ops.copy_progress.position IS 'the last key that this pass has compared; NULL at its start and end';
COMMENT ON COLUMN run_ops.copy_progress.finished IS 'whether this pass has reached the end of the table';
COMMENT ON COLUMN run_ops.copy_progress.batches IS 'the number of ranges compared, in all passes';
COMMENT ON COLUMN run_ops.copy_progress.copied IS 'the number of rows copied or deleted, in all passes';
COMMENT ON COLUMN run_ops.copy_progress.skipped IS 'how often a row could not be copied here, because another row had its unique value; only then run_ops.disable_split(repatriated => true) and run_ops.next_step(''off'') look for conflicts in whole tables';
COMMENT ON COLUMN run_ops.copy_progress.changed_at IS 'when the last range was compared';
COMMENT ON COLUMN run_ops.copy_progress.expected IS 'the rows that a pass has to compare, as estimated by the store when the first pass began; NULL if that is not known';
COMMENT ON COLUMN run_ops.copy_progress.compared IS 'the number of rows compared in this pass, which is exact until the last range';
COMMENT ON COLUMN run_ops.copy_progress.started_at IS 'when this pass began to compare this table; NULL before';

CREATE TYPE run_ops.mirror AS (
  store text, routing run_ops.routing, legacy regclass, here regclass, there text, columns name[], keys name[], key_types text[],
  here_from text, there_from text, here_keys text[], there_keys text[], here_row text, there_row text,
  there_columns text, there_values text);
COMMENT ON TYPE run_ops.mirror IS
  'SQL fragments for reading the rows of one store on both sides: FROM clause, key columns, text of a row';

CREATE FUNCTION run_ops.column_definitions(relation regclass) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT string_agg(concat_ws(' ', a.attname, a.atttypid, a.atttypmod, a.attnotnull, a.attgenerated), ', ' ORDER BY a.attnum)
    FROM pg_attribute AS a WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
$$;
COMMENT ON FUNCTION run_ops.column_definitions(regclass) IS 'the columns of a relation in their order, as text for comparison; NULL if there are none';
REVOKE EXECUTE ON FUNCTION run_ops.column_definitions(regclass) FROM PUBLIC;

CREATE FUNCTION run_ops.staging_table(t run_ops.routed_table, store text) RETURNS regclass
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning
AS $$
DECLARE
  staging text := format('run_ops_repatriated.%I', (SELECT oid FROM pg_class WHERE oid = t.legacy) || '_' || store);
BEGIN
  PERFORM run_ops.make_own_schema('run_ops_repatriated');
  -- No command if the table exists, so that a read-only transaction may compare.
  -- It has copies only, so after a migration it is created again and refilled.
  IF run_ops.column_definitions(to_regclass(staging)) IS DISTINCT FROM run_ops.column_definitions(t.legacy) THEN
    EXECUTE format('DROP TABLE IF EXISTS %s', staging);
    EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING GENERATED, PRIMARY KEY (%s))', staging, t.legacy,
                   (SELECT string_agg(quote_ident(k), ', ') FROM unnest(t.key_columns) AS k));
  END IF;
  RETURN staging::regclass;
END $$;
COMMENT ON FUNCTION run_ops.staging_table(run_ops.routed_table, text) IS
  'the table for the copied rows of a table with routing "store", which the view would show in the local table; created if it does not exist, and again if the columns of the local table have changed';
REVOKE EXECUTE ON FUNCTION run_ops.staging_table(run_ops.routed_table, text) FROM PUBLIC;

CREATE FUNCTION run_ops.belongs_condition(t run_ops.routed_table, store text, alias text) RETURNS text
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  rules text;
BEGIN
  IF t.routing <> 'store' THEN
    RETURN run_ops.in_store(t, format('%s.%I', alias, t.route_column), store);
  ELSIF length(alias) > 5 THEN
    RETURN 'false';  -- tables that refer to each other in a circle
  END IF;
  -- the key decides if it is classifiable, otherwise the first row that the row
  -- refers to
  rules := (SELECT format('WHEN NOT run_ops.resides(%s.%I, ''legacy'') THEN run_ops.resides(%1$s.%2$I, %3$L) ', alias, a.attname, store)
              FROM pg_attribute AS a
             WHERE a.attrelid = t.legacy AND ARRAY[a.attname] = t.key_columns AND a.atttypid = 'text'::regtype);
  rules := concat(rules, (
    SELECT string_agg(format('WHEN %s.%I IS NOT NULL THEN ', alias, o.column_name)
             || CASE WHEN o.owner IS NULL THEN format('run_ops.resides(%s.%I, %L) ', alias, o.column_name, store)
                     WHEN (o.owner).route_column = o.owner_column
                       THEN run_ops.in_store(o.owner, format('%s.%I', alias, o.column_name), store) || ' '
                     ELSE format('EXISTS (SELECT FROM %1$s AS %2$sy WHERE %2$sy.%3$I = %2$s.%4$I AND %5$s) ', (o.owner).legacy, alias,
                                 o.owner_column, o.column_name, run_ops.belongs_condition(o.owner, store, alias || 'y')) END,
             '' ORDER BY o.ord)
      FROM run_ops.owners(t) AS o));
  RETURN coalesce('CASE ' || nullif(rules, '') || 'ELSE false END', 'false');
END $$;
COMMENT ON FUNCTION run_ops.belongs_condition(run_ops.routed_table, text, text) IS
  'a condition on a local row: whether an INSERT of the row through the view would write it to the store, if all rows that it refers to were in their stores';
REVOKE EXECUTE ON FUNCTION run_ops.belongs_condition(run_ops.routed_table, text, text) FROM PUBLIC;

CREATE FUNCTION run_ops.mirror_of(t run_ops.routed_table, store text, forward boolean) RETURNS run_ops.mirror
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  m run_ops.mirror;
BEGIN
  PERFORM run_ops.refuse_in_copy();
  -- the lock prevents ALTER TABLE until the last row is read
  EXECUTE format('LOCK TABLE %s IN ACCESS SHARE MODE', t.legacy);
  m.store := store;
  m.routing := t.routing;
  m.legacy := t.legacy;
  m.here := CASE WHEN t.routing = 'store' AND NOT forward THEN run_ops.staging_table(t, store) ELSE t.legacy END;
  m.there := format('%I.%I', t.store_schema, t.store_table);
  m.here_from := format('%s AS x WHERE ', m.here)
    || CASE WHEN t.routing = 'store' AND NOT forward THEN 'true' ELSE run_ops.belongs_condition(t, store, 'x') END;
  m.there_from := format('%s AS x WHERE true', m.there);
  m.keys := t.key_columns;
  -- both sides must have the keys in the same order
  SELECT array_agg(here.expression || c.collate_clause ORDER BY ord), array_agg(there.expression || c.collate_clause ORDER BY ord),
         array_agg(here.type || c.collate_clause ORDER BY ord)
    INTO m.here_keys, m.there_keys, m.key_types
    FROM unnest(t.key_columns) WITH ORDINALITY AS u (k, ord),
         LATERAL (SELECT CASE WHEN run_ops.order_differs(t, k) THEN ' COLLATE "C"' ELSE '' END) AS c (collate_clause),
         LATERAL run_ops.plain_column(t.legacy, k, format('x.%I', k)) AS here,
         LATERAL run_ops.plain_column(t.legacy, k, format('x.%I', coalesce(t.column_names ->> k::text, k))) AS there;
  SELECT array_agg(a.attname ORDER BY a.attnum) FILTER (WHERE a.attgenerated = ''),
         format('ROW(%s)::text', string_agg(format('x.%I', a.attname), ', ' ORDER BY a.attnum)),
         format('ROW(%s)::text', string_agg(format('x.%I', coalesce(t.column_names ->> a.attname::text, a.attname)), ', ' ORDER BY a.attnum)),
         string_agg(quote_ident(coalesce(t.column_names ->> a.attname::text, a.attname)), ', ' ORDER BY a.attnum)
           FILTER (WHERE a.attgenerated = ''),
         string_agg(format('quote_nullable((%s)::text)', (run_ops.plain_column(t.legacy, a.attname, format('(r.v).%I', a.attname))).expression), ', ' ORDER BY a.attnum)
           FILTER (WHERE a.attgenerated = '')
    INTO m.columns, m.here_row, m.there_row, m.there_columns, m.there_values
    FROM pg_attribute AS a WHERE a.attrelid = t.legacy AND a.attnum > 0 AND NOT a.attisdropped;
  SELECT concat_ws(', ', m.there_columns, string_agg(quote_ident(key), ', ' ORDER BY key)),
         concat_ws(', ', m.there_values, string_agg(format('quote_nullable((%s)::text)', value), ', ' ORDER BY key))
    INTO m.there_columns, m.there_values FROM jsonb_each_text(t.store_defaults);
  RETURN m;
END $$;
COMMENT ON FUNCTION run_ops.mirror_of(run_ops.routed_table, text, boolean) IS
  'the SQL fragments for reading the rows of one store on both sides; forward reads the local table instead of the staging table';
REVOKE EXECUTE ON FUNCTION run_ops.mirror_of(run_ops.routed_table, text, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.range_query(source text, keys text[], row_text text, above jsonb, upto jsonb) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format('SELECT jsonb_build_array(%s)::text AS key, %s AS r FROM %s',
                (SELECT string_agg(format('(%s)::text', k), ', ' ORDER BY ord) FROM unnest(keys) WITH ORDINALITY AS u (k, ord)),
                row_text, source)
      || coalesce((SELECT format(' AND (%s) > (%s)', array_to_string(keys, ', '), string_agg(quote_literal(v), ', ' ORDER BY ord))
                     FROM jsonb_array_elements_text(above) WITH ORDINALITY AS u (v, ord) HAVING count(*) > 0), '')
      || coalesce((SELECT format(' AND (%s) <= (%s)', array_to_string(keys, ', '), string_agg(quote_literal(v), ', ' ORDER BY ord))
                     FROM jsonb_array_elements_text(upto) WITH ORDINALITY AS u (v, ord) HAVING count(*) > 0), '')
$$;
COMMENT ON FUNCTION run_ops.range_query(text, text[], text, jsonb, jsonb) IS
  'a query for keys and row texts in a range: above one key and up to another. NULL means no bound.';

CREATE FUNCTION run_ops.digest_query(range_query text) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  RETURN pg_catalog.format('SELECT count(*) AS n, coalesce(sum((''x'' || left(md5(r), 15))::bit(60)::bigint), 0)::text AS digest '
                           'FROM (%s) AS rows', range_query);
COMMENT ON FUNCTION run_ops.digest_query(text) IS
  'a query for the number of rows in a range, and a hash of them that does not depend on their order';

CREATE FUNCTION run_ops.least_key(m run_ops.mirror, keys jsonb[]) RETURNS jsonb
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT q.key FROM run_ops.as_owner(m.legacy, format('SELECT b FROM unnest($1) AS b WHERE b IS NOT NULL ORDER BY %s LIMIT 1',
    (SELECT string_agg(format('(b ->> %s)::%s', ord - 1, type), ', ' ORDER BY ord)
       FROM unnest(m.key_types) WITH ORDINALITY AS u (type, ord))), keys) AS q (key jsonb)
$$;
COMMENT ON FUNCTION run_ops.least_key(run_ops.mirror, jsonb[]) IS 'the first of these keys, in the order of the table';
REVOKE EXECUTE ON FUNCTION run_ops.least_key(run_ops.mirror, jsonb[]) FROM PUBLIC;

CREATE FUNCTION run_ops.upper_key_query(m run_ops.mirror, above jsonb, upto jsonb, batch_size int) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format('SELECT key FROM (%s ORDER BY %s OFFSET %s LIMIT 1) AS k',
                run_ops.range_query(m.there_from, m.there_keys, '''''', above, upto), array_to_string(m.there_keys, ', '), batch_size - 1)
$$;
COMMENT ON FUNCTION run_ops.upper_key_query(run_ops.mirror, jsonb, jsonb, int) IS
  'a query for the upper key of a range in a store, if it is not above another key';
REVOKE EXECUTE ON FUNCTION run_ops.upper_key_query(run_ops.mirror, jsonb, jsonb, int) FROM PUBLIC;

CREATE FUNCTION run_ops.upper_key(m run_ops.mirror, above jsonb, batch_size int, going_forward boolean) RETURNS jsonb
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  upto jsonb;
BEGIN
  -- The side from which rows are copied first.  On the other side few rows may
  -- belong to the store, among many that do not: so these are read only up to
  -- that key, and each of them in one range, not from each range to the end.
  FOREACH going_forward IN ARRAY ARRAY[going_forward, NOT going_forward] LOOP
    IF going_forward THEN
      upto := coalesce((SELECT q.key FROM run_ops.as_owner(m.legacy, format('%s ORDER BY %s OFFSET %s LIMIT 1',
        run_ops.range_query(m.here_from, m.here_keys, '''''', above, upto), array_to_string(m.here_keys, ', '), batch_size - 1)) AS q (key text, r text))::jsonb, upto);
    ELSE
      upto := coalesce((SELECT (a ->> 'key')::jsonb FROM run_ops.ask_store(m.store, run_ops.upper_key_query(m, above, upto, batch_size)) AS a), upto);
    END IF;
  END LOOP;
  RETURN upto;
END $$;
COMMENT ON FUNCTION run_ops.upper_key(run_ops.mirror, jsonb, int, boolean) IS
  'the upper key of a range in which neither side has more than batch_size rows; NULL if no side has that many rows left';
REVOKE EXECUTE ON FUNCTION run_ops.upper_key(run_ops.mirror, jsonb, int, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.next_keys(m run_ops.mirror, above jsonb, batch_size int) RETURNS text[]
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET timezone = 'UTC'
  SET intervalstyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex'
AS $$
BEGIN
  RETURN ARRAY(SELECT q.key FROM run_ops.as_owner(m.legacy, format('%s ORDER BY %s LIMIT %s',
    run_ops.range_query(
      -- if no id decides, a row whose key exists in the store belongs there as well
      CASE WHEN m.routing = 'store' THEN format('%s AS x WHERE true', m.here) ELSE m.here_from END,
      m.here_keys, '''''', above, NULL), array_to_string(m.here_keys, ', '), batch_size)) AS q (key text, r text));
END $$;
COMMENT ON FUNCTION run_ops.next_keys(run_ops.mirror, jsonb, int) IS
  'the keys of the next local rows that belong, or may belong, to the store, in the order of the keys';
REVOKE EXECUTE ON FUNCTION run_ops.next_keys(run_ops.mirror, jsonb, int) FROM PUBLIC;

CREATE FUNCTION run_ops.next_range(m run_ops.mirror, above jsonb, batch_size int, going_forward boolean, OUT part run_ops.mirror, OUT upto jsonb)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  keys text[];
BEGIN
  part := m;
  IF NOT (going_forward AND (SELECT s.moving FROM run_ops.split_state AS s)) THEN
    upto := run_ops.upper_key(m, above, batch_size, going_forward);
    RETURN;
  END IF;
  -- the store has rows that are not here, which must stay
  keys := run_ops.next_keys(m, above, batch_size);
  upto := keys[batch_size];
  IF keys = '{}' THEN
    part.here_from := m.here_from || ' AND false';
    part.there_from := m.there_from || ' AND false';
  ELSE
    part := run_ops.only_keys(m, keys);
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.next_range(run_ops.mirror, jsonb, int, boolean) IS
  'the next range to compare: its upper key, NULL at the end, and the SQL fragments for its rows; forward while split_state.moving is true, only for the rows that exist here';
REVOKE EXECUTE ON FUNCTION run_ops.next_range(run_ops.mirror, jsonb, int, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.digest_there_query(m run_ops.mirror, above jsonb, upto jsonb) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  RETURN run_ops.digest_query(run_ops.range_query((m).there_from, (m).there_keys, (m).there_row, above, upto));
COMMENT ON FUNCTION run_ops.digest_there_query(run_ops.mirror, jsonb, jsonb) IS 'a query for the hash of a range in a store';
REVOKE EXECUTE ON FUNCTION run_ops.digest_there_query(run_ops.mirror, jsonb, jsonb) FROM PUBLIC;

CREATE FUNCTION run_ops.range_differs(m run_ops.mirror, above jsonb, upto jsonb) RETURNS boolean
  LANGUAGE plpgsql
  SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET timezone = 'UTC'
  SET intervalstyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex'
AS $$
DECLARE
  here  jsonb;
  there jsonb;
BEGIN
  SELECT to_jsonb(q) INTO here FROM run_ops.as_owner(m.legacy,
    run_ops.digest_query(run_ops.range_query(m.here_from, m.here_keys, m.here_row, above, upto))) AS q (n bigint, digest text);
  SELECT * INTO there FROM run_ops.ask_store(m.store, run_ops.digest_there_query(m, above, upto),
    -- the rows may be long: a store that works is waited for like a query
    run_ops.setting('store_query_timeout')::interval);
  RETURN here IS DISTINCT FROM there;
END $$;
COMMENT ON FUNCTION run_ops.range_differs(run_ops.mirror, jsonb, jsonb) IS
  'whether the rows of a range differ between the sides; compares only hashes';
REVOKE EXECUTE ON FUNCTION run_ops.range_differs(run_ops.mirror, jsonb, jsonb) FROM PUBLIC;

-- Rows are copied without triggers: each row is a row of the other side, so
-- triggers have fired for it already.  Foreign keys are triggers as well, and
-- if they form a circle, no order of the INSERTs would satisfy them.

CREATE FUNCTION run_ops.write_here(m run_ops.mirror, gone text[], came text[]) RETURNS void
  LANGUAGE plpgsql
  SET search_path = pg_catalog, pg_temp SET session_replication_role = 'replica'
  SET datestyle = 'ISO, YMD' SET timezone = 'UTC' SET intervalstyle = 'postgres'
AS $$
DECLARE
  inserted bigint;
BEGIN
  PERFORM run_ops.allow_strays();
  PERFORM FROM run_ops.as_owner(m.legacy, format('DELETE FROM %s AS x USING unnest($1::jsonb[]) AS g WHERE %s', m.here,
    (SELECT string_agg(format('%s = (g ->> %s)::%s', k, ord - 1, m.key_types[ord]), ' AND ')
       FROM unnest(m.here_keys) WITH ORDINALITY AS u (k, ord))), gone) AS nothing (n int);
  SELECT q.n INTO inserted FROM run_ops.as_owner(m.legacy, format(
    'WITH i AS (INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM (SELECT u::%s AS v FROM unnest($1) AS u) AS r '
    'ON CONFLICT %s DO NOTHING RETURNING 1) SELECT count(*) FROM i', m.here,
    (SELECT string_agg(quote_ident(c), ', ' ORDER BY ord) FROM unnest(m.columns) WITH ORDINALITY AS u (c, ord)),
    (SELECT string_agg(format('(r.v).%I', c), ', ' ORDER BY ord) FROM unnest(m.columns) WITH ORDINALITY AS u (c, ord)),
    -- an older copy may still have a unique value that another row has by now;
    -- it is updated together with its own range
    m.here, CASE WHEN NOT run_ops.split_enabled() THEN (
      SELECT format('(%s)', string_agg(quote_ident(k), ', ')) FROM unnest(m.keys) AS k) END), came) AS q (n bigint);
  UPDATE run_ops.copy_progress AS c SET skipped = c.skipped + cardinality(came) - inserted
    FROM run_ops.routed_table AS t WHERE t.legacy = m.legacy AND (c.view, c.store, c.forward) = (t.view, m.store, false) AND inserted < cardinality(came);
END $$;
COMMENT ON FUNCTION run_ops.write_here(run_ops.mirror, text[], text[]) IS
  'deletes rows by key and inserts rows by text in the local table, without its triggers';
REVOKE EXECUTE ON FUNCTION run_ops.write_here(run_ops.mirror, text[], text[]) FROM PUBLIC;

CREATE FUNCTION run_ops.write_there(m run_ops.mirror, gone text[], came text[]) RETURNS void
  LANGUAGE plpgsql
  SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET timezone = 'UTC'
  SET intervalstyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex'
AS $$
DECLARE
  command text := 'SET LOCAL session_replication_role = replica; ';
  inserted text;
BEGIN
  IF gone <> '{}' THEN
    command := command || format('DELETE FROM %s AS x WHERE (%s) IN (%s);', m.there, array_to_string(m.there_keys, ', '),
      (SELECT string_agg('(' || (SELECT string_agg(quote_literal(v), ', ' ORDER BY ord)
                                   FROM jsonb_array_elements_text(g::jsonb) WITH ORDINALITY AS u (v, ord)) || ')', ', ')
         FROM unnest(gone) AS g));
  END IF;
  -- ON CONFLICT for the reason given in write_here()
  IF came <> '{}' THEN
    SELECT q.rows INTO inserted FROM run_ops.as_owner(m.legacy, format(
      'SELECT string_agg(''('' || array_to_string(ARRAY[%s], '', '') || '')'', '', '') '
      'FROM (SELECT u::%s AS v FROM unnest($1) AS u) AS r', m.there_values, m.here), came) AS q (rows text);
    command := command || format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE VALUES %s ON CONFLICT DO NOTHING;', m.there, m.there_columns, inserted);
  END IF;
  PERFORM run_ops.tell_store(m.store, command);
END $$;
COMMENT ON FUNCTION run_ops.write_there(run_ops.mirror, text[], text[]) IS
  'deletes rows by key and inserts rows by text in a store, without its triggers, in a transaction of its own; the mapped user must be allowed to set session_replication_role';
REVOKE EXECUTE ON FUNCTION run_ops.write_there(run_ops.mirror, text[], text[]) FROM PUBLIC;

CREATE FUNCTION run_ops.bounded_query(range_query text) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  -- 16 MB, because all rows of a range are in memory at the same time, several
  -- times.  A single row is copied whatever its size.
  RETURN pg_catalog.format('WITH rows AS MATERIALIZED (%s), part AS (SELECT (count(*) * 16777216 / sum(octet_length(r)))::bigint AS n FROM rows '
                           'HAVING count(*) > 1 AND sum(octet_length(r)) > 16777216) '
                           'SELECT key, r FROM rows WHERE NOT EXISTS (SELECT FROM part) UNION ALL SELECT NULL, greatest(n, 1)::text FROM part', range_query);
COMMENT ON FUNCTION run_ops.bounded_query(text) IS
  'a query for the rows of a range; if they are too many bytes, one row with NULL as the key, and how many of the rows are not';

CREATE FUNCTION run_ops.copy_range(m run_ops.mirror, above jsonb, upto jsonb, forward boolean) RETURNS bigint
  LANGUAGE plpgsql
  SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET timezone = 'UTC'
  SET intervalstyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex'
AS $$
DECLARE
  here  jsonb;
  there jsonb;
  gone  text[];
  came  text[];
  part  int;  -- how many rows to copy at once, if all are too many bytes
  middle jsonb;
  copied bigint := 0;
BEGIN
  SELECT coalesce(jsonb_object_agg(a ->> 'key', a ->> 'r') FILTER (WHERE a ->> 'key' IS NOT NULL), '{}'), min(a ->> 'r') FILTER (WHERE a ->> 'key' IS NULL)
    INTO there, part
    FROM run_ops.ask_store(m.store, run_ops.bounded_query(run_ops.range_query(m.there_from, m.there_keys, m.there_row, above, upto)),
                           run_ops.setting('store_query_timeout')::interval) AS a;
  SELECT q.rows, least(part, q.n) INTO here, part FROM run_ops.as_owner(m.legacy, format(
      'SELECT coalesce(jsonb_object_agg(key, r) FILTER (WHERE key IS NOT NULL), ''{}''), (min(r) FILTER (WHERE key IS NULL))::int FROM (%s) AS rows',
      run_ops.bounded_query(concat(
    run_ops.range_query(m.here_from, m.here_keys, m.here_row, above, upto),
    -- if no id decides, a row whose key exists in the store belongs there as well
    CASE WHEN forward AND m.routing = 'store' THEN ' UNION ' || run_ops.range_query(
      format('%s AS x WHERE (%s) IN (SELECT %s FROM jsonb_object_keys($1) AS k)', m.here, array_to_string(m.here_keys, ', '),
             (SELECT string_agg(format('(k::jsonb ->> %s)::%s', ord - 1, type), ', ' ORDER BY ord)
                FROM unnest(m.key_types) WITH ORDINALITY AS u (type, ord))),
      m.here_keys, m.here_row, above, upto) END))), there) AS q (rows jsonb, n int);
  IF part IS NOT NULL THEN
    LOOP
      middle := run_ops.upper_key(m, above, part, forward);
      EXIT WHEN middle IS NULL OR run_ops.least_key(m, ARRAY[upto, middle]) = upto;
      copied := copied + run_ops.copy_range(m, above, middle, forward);
      above := middle;
    END LOOP;
    RETURN copied + run_ops.copy_range(m, above, upto, forward);
  END IF;
  SELECT coalesce(array_agg(key) FILTER (WHERE old.value IS NOT NULL), '{}'),
         coalesce(array_agg(now.value) FILTER (WHERE now.value IS NOT NULL), '{}')
    INTO gone, came
    FROM jsonb_each_text(CASE WHEN forward THEN there ELSE here END) AS old
    FULL JOIN jsonb_each_text(CASE WHEN forward THEN here ELSE there END) AS now USING (key)
   WHERE old.value IS DISTINCT FROM now.value;
  IF forward THEN
    PERFORM run_ops.write_there(m, gone, came) WHERE gone <> '{}' OR came <> '{}';
  ELSIF run_ops.split_enabled() THEN
    PERFORM run_ops.write_here(m, gone, came);
  ELSE
    -- after disable_split(force => true), rows here may be newer than in the store
    PERFORM run_ops.write_here(m, '{}', came);
  END IF;
  RETURN greatest(cardinality(gone), cardinality(came));
END $$;
COMMENT ON FUNCTION run_ops.copy_range(run_ops.mirror, jsonb, jsonb, boolean) IS
  'makes the rows of a range here equal to those in the store, or if forward, those in the store equal to those here; returns the number of rows changed';
REVOKE EXECUTE ON FUNCTION run_ops.copy_range(run_ops.mirror, jsonb, jsonb, boolean) FROM PUBLIC;

-- Passes ------------------------------------------------------------------------

CREATE FUNCTION run_ops.start_progress(going_forward boolean) RETURNS void
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  INSERT INTO run_ops.copy_progress (view, store, forward, expected)
  SELECT r.view, r.store, going_forward,
         -- while rows are moved to a store that has others, only those here are compared
         CASE WHEN NOT (going_forward AND s.moving) THEN (
           SELECT (a ->> 'n')::bigint FROM run_ops.ask_store(r.store, format(
             'SELECT CASE WHEN bool_and(c.reltuples >= 0) THEN sum(c.reltuples)::bigint END AS n FROM to_regclass(%L) AS r (oid) '
             'LEFT JOIN LATERAL pg_partition_tree(r.oid) AS p ON true JOIN pg_class AS c ON c.oid = coalesce(p.relid, r.oid) AND c.relkind = ''r''',
             format('%I.%I', t.store_schema, t.store_table))) AS a) END
    FROM run_ops.routed_store AS r JOIN run_ops.routed_table AS t USING (view), run_ops.split_state AS s
   WHERE NOT EXISTS (SELECT FROM run_ops.copy_progress AS c WHERE (c.view, c.store, c.forward) = (r.view, r.store, going_forward))
  ON CONFLICT DO NOTHING
$$;
COMMENT ON FUNCTION run_ops.start_progress(boolean) IS 'adds the missing rows of run_ops.copy_progress for each table and store';
REVOKE EXECUTE ON FUNCTION run_ops.start_progress(boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.keys_of_range(m run_ops.mirror, above jsonb, upto jsonb, going_forward boolean) RETURNS SETOF text
  LANGUAGE plpgsql
  SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET timezone = 'UTC'
  SET intervalstyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex'
AS $$
BEGIN
  IF going_forward THEN
    RETURN QUERY SELECT q.key FROM run_ops.as_owner(m.legacy, run_ops.range_query(m.here_from, m.here_keys, '''''', above, upto)) AS q (key text, r text);
  ELSE
    RETURN QUERY SELECT a ->> 'key' FROM run_ops.ask_store(m.store, run_ops.range_query(m.there_from, m.there_keys, '''''', above, upto)) AS a;
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.keys_of_range(run_ops.mirror, jsonb, jsonb, boolean) IS 'the keys of a range on the side from which rows are copied';
REVOKE EXECUTE ON FUNCTION run_ops.keys_of_range(run_ops.mirror, jsonb, jsonb, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.copy_batch(batch_size int, going_forward boolean)
  RETURNS TABLE (view regclass, store text, copied bigint, done boolean)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  p    run_ops.copy_progress;
  r    record;
  n    bigint;
  tracked boolean := EXISTS (SELECT FROM run_ops.change_tracking AS c WHERE c.forward = going_forward);
  since timestamptz := clock_timestamp();
  gap text;
BEGIN
  IF batch_size IS NULL OR batch_size < 1 THEN
    RAISE EXCEPTION 'batch_size must be at least 1' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  PERFORM run_ops.start_progress(going_forward);
  -- Once a pass and not once a range: it is a question for every store.
  IF tracked AND NOT EXISTS (SELECT FROM run_ops.copy_progress AS c WHERE c.forward = going_forward AND NOT c.finished) THEN
    gap := run_ops.tracking_gap(going_forward);
    IF gap IS NOT NULL THEN
      RAISE NOTICE 'comparing all rows again' USING DETAIL = gap;
      UPDATE run_ops.change_tracking SET forward = NULL;
      UPDATE run_ops.copy_progress AS c SET finished = false, position = NULL, compared = 0, started_at = NULL;
      RETURN QUERY SELECT NULL::regclass, NULL::text, 0::bigint, false;
      RETURN;
    END IF;
  ELSIF NOT tracked AND run_ops.start_tracking(going_forward) THEN
    -- An earlier call may have failed to start it, and rows that were copied since
    -- then may have changed.  Returns, so that the triggers are committed before
    -- the first row is copied.
    UPDATE run_ops.copy_progress AS c SET finished = false, position = NULL, compared = 0, started_at = NULL WHERE c.forward = going_forward;
    RETURN QUERY SELECT NULL::regclass, NULL::text, 0::bigint, false;
    RETURN;
  END IF;
  SELECT * INTO p FROM run_ops.copy_progress AS c
   WHERE c.forward = going_forward AND NOT c.finished ORDER BY c.view, c.store LIMIT 1 FOR UPDATE;
  IF NOT FOUND AND tracked THEN
    RETURN QUERY SELECT NULL::regclass, NULL::text, c.copied::bigint, c.done FROM run_ops.copy_changed_rows(batch_size, going_forward, false) AS c;
    RETURN;
  ELSIF NOT FOUND THEN
    -- the next call starts another pass
    UPDATE run_ops.copy_progress AS c SET finished = false, position = NULL, compared = 0, started_at = NULL WHERE c.forward = going_forward;
    RETURN QUERY SELECT NULL::regclass, NULL::text, 0::bigint, true;
    RETURN;
  END IF;
  SELECT * INTO r FROM run_ops.next_range(run_ops.mirror_of(run_ops.routed(p.view), p.store, going_forward), p.position, batch_size, going_forward);
  n := run_ops.copy_range(r.part, p.position, r.upto, going_forward)
    WHERE (r.part).routing = 'store' AND going_forward OR run_ops.range_differs(r.part, p.position, r.upto);
  -- A unique value may have prevented the copy of a row, which will not change
  -- again.  So the rows of this range are noted as if they had.
  IF tracked AND n > 0 AND NOT run_ops.sync_range(r.part, p.position, r.upto, going_forward) THEN
    INSERT INTO run_ops_changes.note (relation, key)
    SELECT p.view::oid::bigint, k.key FROM run_ops.keys_of_range(r.part, p.position, r.upto, going_forward) AS k (key);
  END IF;
  UPDATE run_ops.copy_progress AS c
     SET position = r.upto, finished = r.upto IS NULL, batches = c.batches + 1, copied = c.copied + coalesce(n, 0),
         compared = c.compared + batch_size, started_at = coalesce(c.started_at, since), changed_at = clock_timestamp()
   WHERE (c.view, c.store, c.forward) = (p.view, p.store, p.forward);
  RETURN QUERY SELECT p.view, p.store, coalesce(n, 0), false;
END $$;
COMMENT ON FUNCTION run_ops.copy_batch(int, boolean) IS
  'compares one range of the current pass, and copies it if it differs; after the pass, copies one batch of the rows that have changed meanwhile. done is true if fewer rows than a batch were left.';
REVOKE EXECUTE ON FUNCTION run_ops.copy_batch(int, boolean) FROM PUBLIC;

-- SECURITY DEFINER, here and below, for the reason given in split_mode.sql.
-- JIT is off, because compiling takes up to a second, and the queries only
-- milliseconds.
CREATE FUNCTION run_ops.repatriate(batch_size int DEFAULT 1000)
  RETURNS TABLE (view regclass, store text, copied bigint, done boolean)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
  PERFORM run_ops.refuse_in_copy();
  PERFORM run_ops.refuse_incomplete();
  IF (SELECT s.superseded FROM run_ops.split_state AS s) THEN
    RAISE EXCEPTION 'all rows are already repatriated'
      USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = 'Split is off, this database has all rows, and the stores have older versions.';
  END IF;
  IF EXISTS (SELECT FROM run_ops.leftover) THEN
    -- leftovers are older than the rows of the stores, so they are removed first
    SELECT b.view, b.store, 0, b.done INTO view, store, copied, done FROM run_ops.remove_batch(batch_size, false) AS b;
    PERFORM run_ops.end_leftovers() WHERE done;
    done := false;
    RETURN NEXT;
    RETURN;
  END IF;
  RETURN QUERY SELECT * FROM run_ops.copy_batch(batch_size, false);
END $$;
COMMENT ON FUNCTION run_ops.repatriate(int) IS
  'copies rows of the stores into the local tables, one batch for each call, while the application runs. Call it until done, then call disable_split(repatriated => true).';

CREATE FUNCTION run_ops.move_strays(batch_size int DEFAULT 1000)
  RETURNS TABLE (view regclass, store text, copied bigint, done boolean)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
  PERFORM run_ops.refuse_in_copy();
  PERFORM run_ops.refuse_incomplete();
  PERFORM run_ops.refuse_while_split('move strays');
  IF (SELECT s.superseded OR s.moving FROM run_ops.split_state AS s) THEN
    RETURN QUERY SELECT * FROM run_ops.copy_batch(batch_size, true);
    RETURN;
  END IF;
  -- This is committed before the first row is copied.  So after an error or a
  -- crash it is known that the rows here are the newer ones.
  IF run_ops.stores_have_rows() THEN
    PERFORM run_ops.refuse_move_conflicts();
    UPDATE run_ops.split_state SET moving = true;
  ELSE
    UPDATE run_ops.split_state SET superseded = true;
  END IF;
  PERFORM run_ops.audit('move strays', '{}');
  RETURN QUERY SELECT NULL::regclass, NULL::text, 0::bigint, false;
END $$;
COMMENT ON FUNCTION run_ops.move_strays(int) IS
  'copies the local rows that belong to a store there, one batch for each call, while split is off; if the store has rows that are not here, they stay. Call it until done, then call enable_split(), then remove_leftovers() until done.';

CREATE FUNCTION run_ops.verify_repatriation()
  RETURNS TABLE (view regclass, store text, ranges bigint, differing bigint)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
  r      record;
  m      run_ops.mirror[];
  above  jsonb[];
  upto   jsonb[];
  n      bigint[];
  d      bigint[];
  stores text[];
  going  int[];  -- the stores that have more ranges
BEGIN
  PERFORM run_ops.refuse_incomplete();
  -- a range of each store at the same time
  FOR r IN SELECT t, array_agg(s.store ORDER BY s.store) AS stores FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s ON s.view = t.view
            GROUP BY t, t.view ORDER BY t.view LOOP
    m := ARRAY(SELECT run_ops.mirror_of(r.t, s, false) FROM unnest(r.stores) AS s);
    going := ARRAY(SELECT generate_subscripts(r.stores, 1));
    n := array_fill(0, ARRAY[cardinality(going)]);
    d := n;
    above := array_fill(NULL::jsonb, ARRAY[cardinality(going)]);
    WHILE going <> '{}' LOOP
      stores := ARRAY(SELECT r.stores[i] FROM unnest(going) AS i);
      PERFORM run_ops.ask_ahead(stores, ARRAY(SELECT run_ops.upper_key_query(m[i], above[i], NULL, 10000) FROM unnest(going) AS i));
      upto := ARRAY(SELECT CASE WHEN i = ANY (going) THEN run_ops.upper_key(m[i], above[i], 10000, false) END FROM generate_subscripts(m, 1) AS i);
      PERFORM run_ops.ask_ahead(stores, ARRAY(SELECT run_ops.digest_there_query(m[i], above[i], upto[i]) FROM unnest(going) AS i),
                                run_ops.setting('store_query_timeout')::interval);
      n := ARRAY(SELECT n[i] + (i = ANY (going))::int FROM generate_subscripts(m, 1) AS i);
      d := ARRAY(SELECT d[i] + CASE WHEN i = ANY (going) THEN run_ops.range_differs(m[i], above[i], upto[i])::int ELSE 0 END FROM generate_subscripts(m, 1) AS i);
      above := upto;
      going := ARRAY(SELECT i FROM unnest(going) AS i WHERE upto[i] IS NOT NULL);
    END LOOP;
    RETURN QUERY SELECT (r.t).view, r.stores[i], n[i], d[i] FROM generate_subscripts(m, 1) AS i;
  END LOOP;
  PERFORM run_ops.ask_alike('{}');
END $$;
COMMENT ON FUNCTION run_ops.verify_repatriation() IS
  'compares all rows of the stores with their copies here, by hashes of ranges. A range differs if some of its rows are not repatriated yet, or were changed since.';

-- enable_nestloop = off: otherwise the store would be asked once for each local row.
CREATE FUNCTION run_ops.unique_conflicts(going_forward boolean)
  RETURNS TABLE (view regclass, store text, unique_index regclass, store_key jsonb, legacy_key jsonb)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off SET enable_nestloop = off
AS $$
#variable_conflict use_column
DECLARE
  r record;
BEGIN
  PERFORM run_ops.refuse_incomplete();
  FOR r IN
    SELECT t, s.store, s.foreign_table, i.indexrelid::regclass AS index,
           string_agg(format('y.%I %s x.%1$I', a.attname, run_ops.equality_operator(t.legacy, a.attname)), ' AND ') AS equal
      FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s ON s.view = t.view
      JOIN pg_index AS i ON i.indrelid = t.legacy AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL
      JOIN pg_attribute AS a ON a.attrelid = t.legacy AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
     GROUP BY t, t.key_columns, s.store, s.foreign_table, i.indexrelid
    HAVING NOT array_agg(a.attname) @> t.key_columns
  LOOP
    -- a row with the same key is no conflict: it is the same row
    RETURN QUERY SELECT * FROM run_ops.as_owner((r.t).legacy, (
      SELECT format('SELECT %L::regclass, %L::text, %L::regclass, jsonb_build_object(%s), jsonb_build_object(%s) '
                    'FROM %s AS y JOIN %s AS x ON %s WHERE (%s) <> (%s)%s',
               (r.t).view, r.store, r.index, string_agg(format('%L, y.%1$I', k), ', '), string_agg(format('%L, x.%1$I', k), ', '),
               r.foreign_table, (r.t).legacy, r.equal,
               string_agg((run_ops.plain_column((r.t).legacy, k, format('y.%I', k))).expression, ', '),
               string_agg((run_ops.plain_column((r.t).legacy, k, format('x.%I', k))).expression, ', '),
               CASE WHEN going_forward THEN ' AND ' || run_ops.belongs_condition(r.t, r.store, 'x')
                    -- a copy is no conflict: it is updated
                    WHEN run_ops.split_enabled() AND (r.t).routing <> 'store'
                    THEN ' AND NOT ' || run_ops.belongs_condition(r.t, r.store, 'x') END)
        FROM unnest((r.t).key_columns) AS k)) AS q (view regclass, store text, unique_index regclass, store_key jsonb, legacy_key jsonb);
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.unique_conflicts(boolean) IS
  'pairs of a row of a store and a local row with the same unique value and different keys. going_forward: only local rows that would move to the store.';
REVOKE EXECUTE ON FUNCTION run_ops.unique_conflicts(boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.repatriation_conflicts()
  RETURNS TABLE (view regclass, store text, unique_index regclass, store_key jsonb, legacy_key jsonb)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RETURN QUERY SELECT * FROM run_ops.unique_conflicts(false);
END $$;
COMMENT ON FUNCTION run_ops.repatriation_conflicts() IS
  'rows of the stores that cannot be copied here, because a local row has the same unique value; unique constraints are enforced per database';

CREATE FUNCTION run_ops.differing_keys(m run_ops.mirror, keys text[]) RETURNS SETOF text
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET timezone = 'UTC'
  SET intervalstyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex'
AS $$
BEGIN
  m.here_from := format('%s AS x WHERE true', m.here);
  m := run_ops.only_keys(m, keys);
  RETURN QUERY
    SELECT h.key FROM run_ops.as_owner(m.legacy, run_ops.range_query(m.here_from, m.here_keys, m.here_row, NULL, NULL)) AS h (key text, r text)
      JOIN run_ops.ask_store(m.store, run_ops.range_query(m.there_from, m.there_keys, m.there_row, NULL, NULL)) AS a ON a ->> 'key' = h.key
     WHERE a ->> 'r' <> h.r;
END $$;
COMMENT ON FUNCTION run_ops.differing_keys(run_ops.mirror, text[]) IS 'those of these keys whose rows exist on both sides and differ';
REVOKE EXECUTE ON FUNCTION run_ops.differing_keys(run_ops.mirror, text[]) FROM PUBLIC;

CREATE FUNCTION run_ops.move_conflicts()
  RETURNS TABLE (view regclass, store text, unique_index regclass, store_key jsonb, legacy_key jsonb)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
#variable_conflict use_column
DECLARE
  r    record;
  m    run_ops.mirror;
  keys text[];
BEGIN
  PERFORM run_ops.refuse_in_copy();
  RETURN QUERY SELECT * FROM run_ops.unique_conflicts(true);
  FOR r IN SELECT t, s.store FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s ON s.view = t.view
            -- once rows are moved, the local version is the newer one
            WHERE NOT (SELECT s.superseded OR s.moving OR s.enabled FROM run_ops.split_state AS s) ORDER BY t.view, s.store LOOP
    m := run_ops.mirror_of(r.t, r.store, true);
    keys := NULL;
    LOOP
      keys := run_ops.next_keys(m, keys[cardinality(keys)]::jsonb, 10000);
      EXIT WHEN keys = '{}';
      RETURN QUERY SELECT (r.t).view, r.store, NULL::regclass, k.names, k.names
                     FROM run_ops.differing_keys(m, keys) AS d (key),
                          LATERAL (SELECT jsonb_object_agg(c, d.key::jsonb -> (ord - 1)::int) FROM unnest((r.t).key_columns) WITH ORDINALITY AS u (c, ord)) AS k (names);
    END LOOP;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.move_conflicts() IS
  'local rows that run_ops.move_strays() cannot move to a store: because a row there has the same unique value, or (unique_index is NULL) because the store has another version of the row';

CREATE FUNCTION run_ops.refuse_move_conflicts() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  lines text := (SELECT string_agg(c.line, E'\n')
                   FROM (SELECT format('%s: %s conflicts in %s', c.view, count(*), coalesce('unique index ' || c.unique_index, 'versions of a row')) AS line
                           FROM run_ops.move_conflicts() AS c GROUP BY c.view, c.unique_index ORDER BY c.view, c.unique_index) AS c);
BEGIN
  IF lines IS NOT NULL THEN
    RAISE EXCEPTION 'local rows conflict with rows of a store'
      USING ERRCODE = 'unique_violation', DETAIL = lines,
            HINT = 'To list them: SELECT * FROM run_ops.move_conflicts(); Delete or change one row of each pair: the local one through the view, the other one through the foreign table, which is in the schema of its store, for example run_ops_new.';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_move_conflicts() IS
  'raises an error with the number of run_ops.move_conflicts() of each index, if there are any';
REVOKE EXECUTE ON FUNCTION run_ops.refuse_move_conflicts() FROM PUBLIC;

-- While writes are blocked --------------------------------------------------------

CREATE FUNCTION run_ops.await_store_writers() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  stores  text[] := ARRAY(SELECT s.name FROM run_ops.store AS s WHERE s.server IS NOT NULL);
  -- at first any, then those that were there
  writers text[] := array_fill('{}'::text, ARRAY[cardinality(stores)]);
  started timestamptz := clock_timestamp();
  patience interval := run_ops.setting('swap_lock_timeout');
BEGIN
  -- If a session of this database ended during its commit, its transaction in
  -- the store may still be about to commit.  It holds the locks of its writes
  -- until then.
  LOOP
    SELECT array_agg(a.store ORDER BY a.store), array_agg(translate(a.answer ->> 'writers', '[]"', '{}') ORDER BY a.store) INTO stores, writers
      FROM run_ops.ask_stores(stores, ARRAY(SELECT format(
             'SELECT array_agg(DISTINCT l.virtualtransaction) AS writers FROM pg_locks AS l '
             'WHERE l.locktype = ''relation'' AND l.mode = ''RowExclusiveLock'' AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) '
             'AND l.relation IN (SELECT to_regclass(t) FROM unnest(%L::text[]) AS t) AND (%L = ''{}'' OR l.virtualtransaction = ANY (%2$L))',
             ARRAY(SELECT format('%I.%I', t.store_schema, t.store_table) FROM run_ops.routed_table AS t), w.writers)
             FROM unnest(writers) WITH ORDINALITY AS w (writers, ord) ORDER BY w.ord)) AS a
     WHERE a.answer ->> 'writers' IS NOT NULL;
    EXIT WHEN stores IS NULL;
    IF clock_timestamp() - started > patience THEN
      RAISE EXCEPTION 'store "%" has transactions that write to routed tables', stores[1] USING ERRCODE = 'lock_not_available';
    END IF;
    PERFORM pg_sleep(0.01);
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.await_store_writers() IS
  'waits until the transactions that are writing to a routed table in a store have ended; writes through the views must be blocked';
REVOKE EXECUTE ON FUNCTION run_ops.await_store_writers() FROM PUBLIC;

CREATE FUNCTION run_ops.sync_range(m run_ops.mirror, above jsonb, upto jsonb, forward boolean) RETURNS boolean
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF forward AND m.routing = 'store' THEN
    RETURN run_ops.copy_range(m, above, upto, true) = 0 OR run_ops.copy_range(m, above, upto, true) = 0;
  ELSIF NOT run_ops.range_differs(m, above, upto) THEN
    RETURN true;
  END IF;
  PERFORM run_ops.copy_range(m, above, upto, forward);
  -- after disable_split(force => true), rows here may be newer than in the store
  RETURN NOT (forward OR run_ops.split_enabled()) OR NOT run_ops.range_differs(m, above, upto);
END $$;
COMMENT ON FUNCTION run_ops.sync_range(run_ops.mirror, jsonb, jsonb, boolean) IS
  'copies a range if it differs, and returns whether both sides are equal then';
REVOKE EXECUTE ON FUNCTION run_ops.sync_range(run_ops.mirror, jsonb, jsonb, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.finish_copy(going_forward boolean) RETURNS boolean
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  r     record;
  m     run_ops.mirror;
  n     record;
  above jsonb;
  upto  jsonb;
  again jsonb[];
  reason text;
BEGIN
  PERFORM run_ops.await_store_writers();
  reason := run_ops.reason_to_compare_all(going_forward);
  IF reason IS NULL THEN
    PERFORM run_ops.finish_changed_rows(going_forward);
    RETURN true;
  END IF;
  RAISE NOTICE 'comparing all rows while writes are blocked' USING DETAIL = reason;
  FOR r IN SELECT t, s.store FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s ON s.view = t.view
            ORDER BY t.view, s.store LOOP
    m := run_ops.mirror_of(r.t, r.store, going_forward);
    above := NULL;
    again := '{}';
    LOOP
      SELECT * INTO n FROM run_ops.next_range(m, above, 10000, going_forward);
      upto := n.upto;
      IF NOT run_ops.sync_range(n.part, above, upto, going_forward) THEN
        again := again || jsonb_build_array(above, upto);
      END IF;
      above := upto;
      EXIT WHEN upto IS NULL;
    END LOOP;
    -- A unique value of an older row may have prevented a copy.  No older row is
    -- left now, so these ranges are copied once more.
    FOR i IN 1 .. cardinality(again) LOOP
      above := nullif(again[i] -> 0, 'null');
      upto := nullif(again[i] -> 1, 'null');
      SELECT * INTO n FROM run_ops.next_range(m, above, 10000, going_forward);
      IF NOT run_ops.sync_range(n.part, above, upto, going_forward) THEN
        RAISE EXCEPTION 'rows of % differ between this database and store "%"', (r.t).view, r.store
          USING ERRCODE = 'data_exception',
                DETAIL = format('Rows with keys above %s and up to %s still differ after copying.', coalesce(above::text, 'none'), coalesce(upto::text, 'the last')),
                HINT = 'Another row of this database may have a unique value of theirs: SELECT * FROM run_ops.repatriation_conflicts();';
      END IF;
    END LOOP;
  END LOOP;
  RETURN false;
END $$;
COMMENT ON FUNCTION run_ops.finish_copy(boolean) IS
  'copies the rows that are not copied yet. Copies only the changed rows and returns true if all changes were tracked; otherwise compares all rows and returns false.';
REVOKE EXECUTE ON FUNCTION run_ops.finish_copy(boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.raise_orphans(lines text[]) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RAISE EXCEPTION 'rows would refer to rows that do not exist'
    USING ERRCODE = 'foreign_key_violation', DETAIL = array_to_string(lines, E'\n'),
          HINT = 'Correct these rows through the views, or drop the foreign keys.';
END $$;
COMMENT ON FUNCTION run_ops.raise_orphans(text[]) IS 'raises the error for rows that violate foreign keys';
REVOKE EXECUTE ON FUNCTION run_ops.raise_orphans(text[]) FROM PUBLIC;

CREATE FUNCTION run_ops.refuse_orphans() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  f     record;
  n     bigint;
  lines text[] := '{}';
BEGIN
  FOR f IN SELECT * FROM run_ops.foreign_keys() LOOP
    SELECT q.n INTO n FROM run_ops.as_owner(run_ops.weaker_owner(f.child_table, f.parent_table),
      format('SELECT count(*) FROM %s AS x WHERE %s AND NOT EXISTS (SELECT FROM %s AS y WHERE %s)',
             f.child_table, f.present, f.parent_table, f.equal)) AS q (n bigint);
    IF n > 0 THEN
      lines := lines || format('%s rows of %s violate foreign key %I', n, f.child_table, f.conname);
    END IF;
  END LOOP;
  PERFORM run_ops.raise_orphans(lines) WHERE lines <> '{}';
END $$;
COMMENT ON FUNCTION run_ops.refuse_orphans() IS
  'raises an error if rows of the local tables violate a foreign key; needed because rows are copied without triggers';
REVOKE EXECUTE ON FUNCTION run_ops.refuse_orphans() FROM PUBLIC;

CREATE FUNCTION run_ops.raise_conflicts(lines text) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RAISE EXCEPTION 'rows of the stores conflict with rows of this database'
    USING ERRCODE = 'unique_violation', DETAIL = lines,
          HINT = 'To list them: SELECT * FROM run_ops.repatriation_conflicts(); Delete or change one row of each pair through the views.';
END $$;
COMMENT ON FUNCTION run_ops.raise_conflicts(text) IS 'raises the error for rows of the stores that have a unique value of a local row';
REVOKE EXECUTE ON FUNCTION run_ops.raise_conflicts(text) FROM PUBLIC;

CREATE FUNCTION run_ops.refuse_conflicts() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  lines text := (SELECT string_agg(c.line, E'\n')
                   FROM (SELECT format('%s: %s conflicts in unique index %s', c.view, count(*), c.unique_index) AS line
                           FROM run_ops.repatriation_conflicts() AS c GROUP BY c.view, c.unique_index ORDER BY c.view) AS c);
BEGIN
  PERFORM run_ops.raise_conflicts(lines) WHERE lines IS NOT NULL;
END $$;
COMMENT ON FUNCTION run_ops.refuse_conflicts() IS
  'raises an error with the number of run_ops.repatriation_conflicts() of each index, if there are any';
REVOKE EXECUTE ON FUNCTION run_ops.refuse_conflicts() FROM PUBLIC;

CREATE FUNCTION run_ops.finish_repatriation() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET session_replication_role = 'replica'
AS $$
DECLARE
  r       record;
  staging regclass;
  keys    text;
  same    text;
  tracked boolean := run_ops.finish_copy(false);
  detail  text;
BEGIN
  FOR r IN SELECT t, s.store FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s ON s.view = t.view
            WHERE t.routing = 'store'
            -- if two stores have a key, the row of "new" stays
            ORDER BY t.view, s.store = 'new', s.store LOOP
    staging := run_ops.staging_table(r.t, r.store);
    keys := (SELECT string_agg(quote_ident(k), ', ') FROM unnest((r.t).key_columns) AS k);
    same := (SELECT string_agg(format('x.%I %s y.%1$I', k, run_ops.equality_operator((r.t).legacy, k)), ' AND ') FROM unnest((r.t).key_columns) AS k);
    IF run_ops.split_enabled() THEN
      -- if both had the key, the view showed the row of the store
      PERFORM FROM run_ops.as_owner((r.t).legacy,
        format('DELETE FROM %s AS x USING %s AS y WHERE %s', (r.t).legacy, staging, same)) AS nothing (n int);
    END IF;
    BEGIN
      PERFORM FROM run_ops.as_owner((r.t).legacy, format(
        'INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %2$s FROM %s ON CONFLICT (%s) DO NOTHING', (r.t).legacy,
        (SELECT string_agg(quote_ident(a.attname), ', ') FROM pg_attribute AS a
          WHERE a.attrelid = (r.t).legacy AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''), staging, keys)) AS nothing (n int);
    EXCEPTION WHEN unique_violation THEN
      GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
      PERFORM run_ops.raise_conflicts(format('%s: %s %s', (r.t).view, SQLERRM, detail));
    END;
    EXECUTE format('DROP TABLE %s', staging);
  END LOOP;
  PERFORM run_ops.refuse_remaining_orphans() WHERE tracked;
  PERFORM run_ops.refuse_orphans() WHERE NOT tracked;
END $$;
COMMENT ON FUNCTION run_ops.finish_repatriation() IS
  'copies the rows that repatriate() has not copied yet, verifies that all rows of the stores are here, and moves the rows of the staging tables into the local tables; writes must be blocked';
REVOKE EXECUTE ON FUNCTION run_ops.finish_repatriation() FROM PUBLIC;

CREATE FUNCTION run_ops.store_row_counts() RETURNS TABLE (view regclass, store text, n bigint)
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT (a.answer ->> 'view')::oid::regclass, a.store, (a.answer ->> 'n')::bigint
    FROM (SELECT array_agg(q.store), array_agg(q.query)
            FROM (SELECT s.store, string_agg(format('SELECT %s AS view, count(*) AS n FROM %I.%I', t.view::oid, t.store_schema, t.store_table), ' UNION ALL ')
                    FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s ON s.view = t.view GROUP BY s.store) AS q (store, query)) AS q (stores, queries),
         LATERAL run_ops.ask_stores(q.stores, q.queries, '0') AS a
$$;
COMMENT ON FUNCTION run_ops.store_row_counts() IS 'the number of rows of each routed table in each store';
REVOKE EXECUTE ON FUNCTION run_ops.store_row_counts() FROM PUBLIC;

-- changed_rows: tracks which rows change while rows are copied between a store
-- and this database, so that only those are compared while writes are blocked.
--
-- A trigger inserts the key of every row that is written into a table of notes,
-- in the same transaction.  So after a complete pass only rows with a note can
-- differ.  A note is removed after the copy of its row has been committed here.
--
-- Some changes fire no trigger: a trigger that was disabled for a while,
-- TRUNCATE, a table that was rewritten or migrated, a server that was restored
-- or failed over.  Two values that are stored with the notes reveal each of
-- them: a token with the number of batches whose notes were removed, and a hash
-- of the tables and triggers.  If one of them is not as expected, all rows are
-- compared again.

CREATE TABLE run_ops.change_tracking (
  place      text PRIMARY KEY REFERENCES run_ops.store ON DELETE CASCADE,
  forward    boolean,
  token      text NOT NULL,
  definitions text NOT NULL,
  drained    bigint NOT NULL DEFAULT 0,
  ids        bigint[] NOT NULL DEFAULT '{}',
  drained_by xid8,
  error      text
);
COMMENT ON TABLE run_ops.change_tracking IS
  'the databases in which schema run_ops_changes collects the keys of changed rows while rows are copied';
COMMENT ON COLUMN run_ops.change_tracking.place IS 'the store whose changes are tracked; legacy: this database';
COMMENT ON COLUMN run_ops.change_tracking.forward IS 'true: for run_ops.move_strays(); false: for run_ops.repatriate(); NULL: no longer used, to be removed';
COMMENT ON COLUMN run_ops.change_tracking.token IS 'the token that schema run_ops_changes must still have';
COMMENT ON COLUMN run_ops.change_tracking.definitions IS 'a hash of the tracked tables and their triggers, from when tracking began';
COMMENT ON COLUMN run_ops.change_tracking.drained IS 'the number of batches of changed rows that were copied';
COMMENT ON COLUMN run_ops.change_tracking.ids IS 'the notes of the last batch, which are removed once the batch is committed';
COMMENT ON COLUMN run_ops.change_tracking.error IS 'why the last call of run_ops.repatriate() or run_ops.move_strays() could not start tracking';
COMMENT ON COLUMN run_ops.change_tracking.drained_by IS 'the transaction that copied the last batch';

CREATE TABLE run_ops.row_to_check (view regclass REFERENCES run_ops.routed_table ON UPDATE CASCADE ON DELETE CASCADE, key text);
COMMENT ON TABLE run_ops.row_to_check IS
  'the rows whose foreign keys are checked while writes are blocked; has rows only within the transaction that switches';
COMMENT ON COLUMN run_ops.row_to_check.view IS 'the routed table';
COMMENT ON COLUMN run_ops.row_to_check.key IS 'the key of the row';

-- A place is a store or this database.  The same SQL runs in both.

CREATE FUNCTION run_ops.ask_place(place text, query text) RETURNS SETOF jsonb
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF place = 'legacy' THEN
    RETURN QUERY EXECUTE format('SELECT to_jsonb(q) FROM (%s) AS q', query);
  ELSE
    RETURN QUERY SELECT * FROM run_ops.ask_store(place, query);
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.ask_place(text, text) IS 'runs a query in a store or in this database';
REVOKE EXECUTE ON FUNCTION run_ops.ask_place(text, text) FROM PUBLIC;

CREATE FUNCTION run_ops.tell_place(place text, commands text) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning
AS $$
BEGIN
  IF place = 'legacy' THEN
    EXECUTE commands;
  ELSE
    PERFORM run_ops.refuse_in_copy();
    PERFORM run_ops.tell_store(place, format('SET LOCAL lock_timeout = %L; SET LOCAL client_min_messages = warning; %s',
                                             run_ops.setting('swap_lock_timeout'), commands));
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.tell_place(text, text) IS
  'runs commands in a store, in a transaction of their own, or in this database';
REVOKE EXECUTE ON FUNCTION run_ops.tell_place(text, text) FROM PUBLIC;

CREATE FUNCTION run_ops.key_expression(t run_ops.routed_table, alias text, names jsonb DEFAULT '{}') RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format('jsonb_build_array(%s)::text', string_agg(format('(%s)::text', c.expression), ', ' ORDER BY ord))
    FROM unnest(t.key_columns) WITH ORDINALITY AS u (k, ord),
         LATERAL run_ops.plain_column(t.legacy, k, format('%s.%I', alias, coalesce(names ->> k::text, k))) AS c
$$;
COMMENT ON FUNCTION run_ops.key_expression(run_ops.routed_table, text, jsonb) IS
  'an SQL expression for the key of a row with this alias, as text. names maps local column names to other ones in the table that is read.';

CREATE FUNCTION run_ops.tracked_places(going_forward boolean) RETURNS SETOF text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT s.name FROM run_ops.store AS s, run_ops.split_state AS x
   -- while split_state.moving is true, only what changes here is moved
   WHERE s.server IS NULL OR NOT (going_forward AND x.moving) ORDER BY s.server IS NULL, s.name
$$;
COMMENT ON FUNCTION run_ops.tracked_places(boolean) IS 'the places in which changes are tracked while rows are copied, this database last';

CREATE FUNCTION run_ops.tracked_tables(place text, going_forward boolean)
  RETURNS TABLE (view regclass, relation text, key text, route_column name, has_trigger boolean)
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT t.view, format('%I.%I', t.store_schema, t.store_table),
         run_ops.key_expression(t, 'r', t.column_names), NULL::name, true
    FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s ON s.view = t.view WHERE s.store = place
  UNION ALL
  SELECT t.view, format('%I.%I', n.nspname, c.relname), run_ops.key_expression(t, 'r'), t.route_column, t.routing <> 'store' OR going_forward
    FROM run_ops.routed_table AS t JOIN pg_class AS c ON c.oid = t.legacy JOIN pg_namespace AS n ON n.oid = c.relnamespace
   WHERE place = 'legacy'
  UNION ALL
  -- only the copying writes to staging tables, but one may have been created again
  SELECT t.view, run_ops.staging_table(t, s.store)::text, NULL, NULL, false
    FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s ON s.view = t.view
   WHERE place = 'legacy' AND t.routing = 'store' AND NOT going_forward
$$;
COMMENT ON FUNCTION run_ops.tracked_tables(text, boolean) IS
  'the tables of a place from which and to which rows are copied, and whether they get a trigger';
REVOKE EXECUTE ON FUNCTION run_ops.tracked_tables(text, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.tracking_commands(place text, going_forward boolean, token text) RETURNS text
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  t        record;
  commands text := run_ops.renew_schema('run_ops_changes') || format(
    '; COMMENT ON SCHEMA run_ops_changes IS %L; '
    'CREATE TABLE run_ops_changes.note (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, relation bigint NOT NULL, key text NOT NULL); '
    'COMMENT ON TABLE run_ops_changes.note IS ''keys of rows that have changed while run_ops_split copies rows''', token || ' 0');
BEGIN
  FOR t IN SELECT * FROM run_ops.tracked_tables(place, going_forward) AS n WHERE n.has_trigger LOOP
    -- SECURITY DEFINER: a role that writes to the table need not have privileges
    -- on the notes.  The function must belong to the owner of the table, who may
    -- have created the types and casts of the key; so its owner is changed if
    -- the role that creates it is a member of that owner.  The settings make the
    -- text of a key the same for all sessions.
    commands := commands || format($q$;
      CREATE FUNCTION run_ops_changes.%1$I() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
        SET datestyle = 'ISO, YMD' SET timezone = 'UTC' SET intervalstyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex'
      AS %2$L;
      CREATE TRIGGER run_ops_changes AFTER INSERT OR UPDATE OR DELETE ON %3$s FOR EACH ROW EXECUTE FUNCTION run_ops_changes.%1$I();
      DO %4$L$q$,
      'note_' || t.view::oid,
      format('DECLARE r record; was text; BEGIN '
             'IF TG_OP <> ''INSERT'' THEN r := OLD; IF %1$s THEN was := %2$s; INSERT INTO run_ops_changes.note (relation, key) VALUES (%3$s, was); END IF; END IF; '
             'IF TG_OP <> ''DELETE'' THEN r := NEW; IF %1$s AND was IS DISTINCT FROM %2$s THEN INSERT INTO run_ops_changes.note (relation, key) VALUES (%3$s, %2$s); END IF; END IF; '
             'RETURN NULL; END',
             CASE WHEN t.route_column IS NULL THEN 'true' ELSE 'NOT ' || run_ops.in_store(run_ops.routed(t.view), format('r.%I', t.route_column), 'legacy') END,
             t.key, t.view::oid),
      t.relation,
      format($q$
        DECLARE
          owner regrole := (SELECT c.relowner FROM pg_catalog.pg_class AS c WHERE c.oid OPERATOR(pg_catalog.=) %L::pg_catalog.regclass);
        BEGIN
          IF pg_catalog.pg_has_role(owner, 'USAGE') AND owner::pg_catalog.text OPERATOR(pg_catalog.<>) pg_catalog.quote_ident(current_user) THEN
            EXECUTE pg_catalog.format('GRANT USAGE, CREATE ON SCHEMA run_ops_changes TO %%1$s; GRANT INSERT ON run_ops_changes.note TO %%1$s; '
                                      'ALTER FUNCTION run_ops_changes.%%2$I() OWNER TO %%1$s; REVOKE CREATE ON SCHEMA run_ops_changes FROM %%1$s', owner, %L);
          END IF;
        END $q$, t.relation, 'note_' || t.view::oid));
    IF place = 'legacy' THEN
      -- otherwise every write would fail after DROP EXTENSION
      commands := commands || format('; ALTER TRIGGER run_ops_changes ON %s DEPENDS ON EXTENSION run_ops_split; '
                                     'ALTER FUNCTION run_ops_changes.%I() DEPENDS ON EXTENSION run_ops_split; '
                                     'GRANT USAGE ON SCHEMA run_ops TO %s', t.relation, 'note_' || t.view::oid,
                                     (SELECT c.relowner::regrole FROM pg_class AS c WHERE c.oid = t.relation::regclass));
    END IF;
    -- On the side from which rows are copied, the trigger must fire in every
    -- session.  On the other side it must not fire for the copying itself, which
    -- runs with session_replication_role = replica.
    IF (place = 'legacy') = going_forward THEN
      commands := commands || format('; ALTER TABLE %s ENABLE ALWAYS TRIGGER run_ops_changes', t.relation);
    END IF;
    -- A partition has the triggers of its table, but a child that inherits has not.
    commands := commands || format('; DO %L', format($q$
        DECLARE
          child pg_catalog.regclass;
        BEGIN
          FOR child IN
            WITH RECURSIVE heir (oid) AS (
              SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i WHERE i.inhparent OPERATOR(pg_catalog.=) %1$L::pg_catalog.regclass
              UNION SELECT i.inhrelid FROM heir JOIN pg_catalog.pg_inherits AS i ON i.inhparent OPERATOR(pg_catalog.=) heir.oid)
            SELECT c.oid FROM heir JOIN pg_catalog.pg_class AS c USING (oid) WHERE NOT c.relispartition
          LOOP
            EXECUTE pg_catalog.format('CREATE TRIGGER run_ops_changes AFTER INSERT OR UPDATE OR DELETE ON %%s FOR EACH ROW EXECUTE FUNCTION run_ops_changes.%%I()', child, %2$L);
            IF %3$L THEN
              EXECUTE pg_catalog.format('ALTER TABLE %%s ENABLE ALWAYS TRIGGER run_ops_changes', child);
            END IF;
            IF %4$L THEN
              EXECUTE pg_catalog.format('ALTER TRIGGER run_ops_changes ON %%s DEPENDS ON EXTENSION run_ops_split', child);
            END IF;
          END LOOP;
        END $q$, t.relation, 'note_' || t.view::oid, (place = 'legacy') = going_forward, place = 'legacy'));
  END LOOP;
  RETURN commands;
END $$;
COMMENT ON FUNCTION run_ops.tracking_commands(text, boolean, text) IS
  'the SQL commands that create the triggers which track changed rows in a place';
REVOKE EXECUTE ON FUNCTION run_ops.tracking_commands(text, boolean, text) FROM PUBLIC;

CREATE FUNCTION run_ops.tracked_definitions(place text, going_forward boolean) RETURNS jsonb
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  -- xmin shows that a trigger was disabled and enabled again.  The name of the
  -- WAL file begins with the timeline, which changes when a server is restored
  -- or a standby is promoted.
  SELECT a FROM run_ops.ask_place(place, format($q$
    SELECT obj_description(to_regnamespace('run_ops_changes')::oid, 'pg_namespace') AS token,
           left(pg_walfile_name(pg_current_wal_lsn()), 8) || md5(string_agg(concat_ws(' ', c.oid, pg_relation_filenode(c.oid),
             (SELECT string_agg(concat_ws(' ', a.attname, a.atttypid, a.atttypmod, a.attgenerated, a.attmissingval), ',' ORDER BY a.attnum)
                FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
             (SELECT string_agg(concat_ws(' ', g.oid, g.xmin, g.tgenabled, f.oid, f.xmin), ',')
                FROM pg_trigger AS g JOIN pg_proc AS f ON f.oid = g.tgfoid WHERE g.tgrelid = c.oid AND g.tgname = 'run_ops_changes')),
             E'\n' ORDER BY c.oid)) AS definitions
      FROM (WITH RECURSIVE tree (oid) AS (
              SELECT to_regclass(u.name)::oid FROM unnest(%L::text[]) AS u (name)
              UNION SELECT i.inhrelid FROM tree JOIN pg_inherits AS i ON i.inhparent = tree.oid)
            SELECT tree.oid FROM tree WHERE tree.oid IS NOT NULL) AS c $q$,
    ARRAY(SELECT n.relation FROM run_ops.tracked_tables(place, going_forward) AS n ORDER BY 1) || 'run_ops_changes.note'::text)) AS a
$$;
COMMENT ON FUNCTION run_ops.tracked_definitions(text, boolean) IS
  'the token of a place, and a hash of the definitions of its tracked tables and their triggers';
REVOKE EXECUTE ON FUNCTION run_ops.tracked_definitions(text, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.start_tracking(going_forward boolean) RETURNS boolean
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  place text;
  token text := gen_random_uuid();
  -- once it has failed, the next calls do not keep the copying waiting for it
  attempts int := CASE WHEN EXISTS (SELECT FROM run_ops.change_tracking AS n WHERE n.error IS NOT NULL) THEN 1
                       ELSE run_ops.setting('swap_attempts')::int END;
BEGIN
  DELETE FROM run_ops.change_tracking;
  -- this database last, because its locks are held until the transaction ends
  FOR place IN SELECT * FROM run_ops.tracked_places(going_forward) LOOP
    PERFORM run_ops.in_attempts(format('SELECT run_ops.tell_place(%L, %L)', place, run_ops.tracking_commands(place, going_forward, token)), attempts);
    INSERT INTO run_ops.change_tracking (place, forward, token, definitions)
      VALUES (place, going_forward, token, run_ops.tracked_definitions(place, going_forward) ->> 'definitions');
  END LOOP;
  RETURN true;
EXCEPTION WHEN OTHERS THEN
  RAISE NOTICE 'cannot track changes in store "%": the final switch will compare all rows and block writes for longer', place
    USING DETAIL = SQLERRM, HINT = 'Each call tries it again. Copying goes on, and begins again from the start once it succeeds.';
  INSERT INTO run_ops.change_tracking (place, token, definitions, error) VALUES (place, '', '', SQLERRM)
  ON CONFLICT ON CONSTRAINT change_tracking_pkey DO UPDATE SET forward = NULL, error = excluded.error;
  RETURN false;
END $$;
COMMENT ON FUNCTION run_ops.start_tracking(boolean) IS
  'starts tracking changed rows in every store and here; if this fails, remembers the reason, raises a notice and returns false';
REVOKE EXECUTE ON FUNCTION run_ops.start_tracking(boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.tracking_gap(going_forward boolean) RETURNS text
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  p     record;
  found_place jsonb;
  gap   text;
BEGIN
  PERFORM run_ops.ask_alike(ARRAY(SELECT s FROM run_ops.tracked_places(going_forward) AS s WHERE s <> 'legacy'));
  FOR p IN SELECT s.name, n.* FROM run_ops.tracked_places(going_forward) AS s (name)
             LEFT JOIN run_ops.change_tracking AS n ON n.place = s.name AND n.forward = going_forward LOOP
    IF p.token IS NULL THEN
      gap := format('Changes in store "%s" were not tracked%s.', p.name,
        (SELECT ': ' || n.error FROM run_ops.change_tracking AS n WHERE n.place = p.name));
      EXIT;
    END IF;
    found_place := run_ops.tracked_definitions(p.name, going_forward);
    IF found_place ->> 'token' IS NULL OR found_place ->> 'token' NOT IN (concat_ws(' ', p.token, p.drained), concat_ws(' ', p.token, p.drained - 1)) THEN
      gap := format('The tracking of changes in store "%s" was removed or replaced.', p.name);
    ELSIF found_place ->> 'definitions' IS DISTINCT FROM p.definitions THEN
      gap := format('In store "%s", a table or its trigger was changed, or the server was restored or failed over.', p.name);
    END IF;
    EXIT WHEN gap IS NOT NULL;
  END LOOP;
  PERFORM run_ops.ask_alike('{}');
  RETURN gap;
END $$;
COMMENT ON FUNCTION run_ops.tracking_gap(boolean) IS
  'why not all changed rows may have been tracked; NULL if all were';
REVOKE EXECUTE ON FUNCTION run_ops.tracking_gap(boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.reason_to_compare_all(going_forward boolean) RETURNS text
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT CASE WHEN NOT EXISTS (SELECT FROM run_ops.change_tracking AS n WHERE n.error IS NOT NULL)
               AND EXISTS (SELECT FROM run_ops.routed_store AS r WHERE NOT EXISTS (
                SELECT FROM run_ops.copy_progress AS c WHERE (c.view, c.store, c.forward, c.finished) = (r.view, r.store, going_forward, true)))
              THEN 'Not all rows were copied before the switch.'
              ELSE run_ops.tracking_gap(going_forward) END
$$;
COMMENT ON FUNCTION run_ops.reason_to_compare_all(boolean) IS
  'why the switch must compare all rows; NULL if only the tracked changes can differ from their copies';
REVOKE EXECUTE ON FUNCTION run_ops.reason_to_compare_all(boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.only_keys(m run_ops.mirror, keys text[]) RETURNS run_ops.mirror
  LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  list text := (SELECT string_agg('(' || (SELECT string_agg(quote_literal(v), ', ' ORDER BY ord)
                                            FROM jsonb_array_elements_text(k::jsonb) WITH ORDINALITY AS u (v, ord)) || ')', ', ')
                  FROM unnest(keys) AS k);
BEGIN
  m.here_from := m.here_from || format(' AND (%s) IN (%s)', array_to_string(m.here_keys, ', '), list);
  m.there_from := m.there_from || format(' AND (%s) IN (%s)', array_to_string(m.there_keys, ', '), list);
  RETURN m;
END $$;
COMMENT ON FUNCTION run_ops.only_keys(run_ops.mirror, text[]) IS 'restricts the SQL fragments to the rows with these keys';

CREATE FUNCTION run_ops.drain_notes(batch_size int, going_forward boolean, switching boolean, OUT drained int, OUT most int, OUT unsettled jsonb[])
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  n     run_ops.change_tracking;
  r     record;
  t     run_ops.routed_table;
  store text;
  taken bigint[];
  notes jsonb;  -- of each place, {place: [note, ...]}
BEGIN
  drained := 0;
  most := 0;
  unsettled := '{}';
  -- Reads the notes of all stores before the first row, so that a row is never
  -- older than its note.
  PERFORM FROM run_ops.change_tracking AS c ORDER BY c.place FOR UPDATE;
  notes := (
    WITH question AS (SELECT c.place, format('SELECT * FROM run_ops_changes.note AS n '
                        'WHERE NOT EXISTS (SELECT FROM unnest(%L::bigint[]) AS d WHERE d = n.id) ORDER BY id LIMIT %s', c.ids, batch_size) AS query
                        FROM run_ops.change_tracking AS c)
    SELECT jsonb_object_agg(a.place, a.notes)
      FROM (SELECT s.store, jsonb_agg(s.answer)
              FROM (SELECT array_agg(q.place), array_agg(q.query) FROM question AS q WHERE q.place <> 'legacy') AS q (places, queries),
                   LATERAL run_ops.ask_stores(q.places, q.queries) AS s GROUP BY s.store
            UNION ALL
            SELECT q.place, jsonb_agg(l) FROM question AS q, LATERAL run_ops.ask_place(q.place, q.query) AS l WHERE q.place = 'legacy' GROUP BY q.place) AS a (place, notes));
  FOR n IN SELECT * FROM run_ops.change_tracking AS c ORDER BY c.place FOR UPDATE LOOP
    -- removes the notes of rows that an earlier transaction has copied
    IF n.ids <> '{}' AND n.drained_by <> pg_current_xact_id() THEN
      PERFORM run_ops.tell_place(n.place, format('DELETE FROM run_ops_changes.note WHERE id = ANY (%L); COMMENT ON SCHEMA run_ops_changes IS %L',
                                                 n.ids, concat_ws(' ', n.token, n.drained)));
      n.ids := '{}';
    END IF;
    taken := '{}';
    FOR r IN
      SELECT (a ->> 'relation')::oid::regclass AS view, array_agg(DISTINCT a ->> 'key') AS keys, array_agg((a ->> 'id')::bigint) AS ids
        FROM jsonb_array_elements(notes -> n.place) AS a
       GROUP BY 1
    LOOP
      taken := taken || r.ids;
      t := run_ops.routed(r.view);
      FOR store IN SELECT s.store FROM run_ops.routed_store AS s WHERE s.view = r.view AND n.place IN ('legacy', s.store) ORDER BY s.store LOOP
        IF NOT run_ops.sync_range(run_ops.only_keys(run_ops.mirror_of(t, store, going_forward), r.keys), NULL, NULL, going_forward) THEN
          unsettled := unsettled || jsonb_build_object('view', r.view::oid, 'store', store, 'keys', r.keys);
        END IF;
      END LOOP;
      INSERT INTO run_ops.row_to_check SELECT r.view, k FROM unnest(r.keys) AS k WHERE switching;
    END LOOP;
    IF taken <> '{}' THEN
      n.drained := n.drained + (n.drained_by IS DISTINCT FROM pg_current_xact_id())::int;
      n.drained_by := pg_current_xact_id();
    END IF;
    UPDATE run_ops.change_tracking AS c SET ids = n.ids || taken, drained = n.drained, drained_by = n.drained_by WHERE c.place = n.place;
    drained := drained + cardinality(taken);
    most := greatest(most, cardinality(taken));
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.drain_notes(int, boolean, boolean) IS
  'compares and copies the changed rows of one batch of notes from every place; returns the number of notes, the largest number of one place, and the rows that still differ';
REVOKE EXECUTE ON FUNCTION run_ops.drain_notes(int, boolean, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.copy_changed_rows(batch_size int, going_forward boolean, switching boolean, OUT copied int, OUT done boolean)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  batch record;
BEGIN
  SELECT * INTO batch FROM run_ops.drain_notes(batch_size, going_forward, switching);
  -- These rows have changed again, or a unique value prevented the copy, so they
  -- get new notes.
  INSERT INTO run_ops_changes.note (relation, key)
  SELECT (u ->> 'view')::bigint, k FROM unnest(batch.unsettled) AS u, jsonb_array_elements_text(u -> 'keys') AS k;
  copied := batch.drained;
  done := batch.most < batch_size;
END $$;
COMMENT ON FUNCTION run_ops.copy_changed_rows(int, boolean, boolean) IS
  'copies one batch of changed rows while the application runs; done is true if fewer than a batch were left';
REVOKE EXECUTE ON FUNCTION run_ops.copy_changed_rows(int, boolean, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.finish_changed_rows(going_forward boolean) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  batch record;
  again jsonb[] := '{}';
  u     jsonb;
BEGIN
  LOOP
    SELECT * INTO batch FROM run_ops.drain_notes(10000, going_forward, true);
    again := again || batch.unsettled;
    EXIT WHEN batch.most < 10000;
  END LOOP;
  -- A unique value of an older row may have prevented a copy.  No older row is
  -- left now, so these rows are copied once more.
  FOREACH u IN ARRAY again LOOP
    IF NOT run_ops.sync_range(
             run_ops.only_keys(run_ops.mirror_of(run_ops.routed((u ->> 'view')::oid), u ->> 'store', going_forward),
                               ARRAY(SELECT jsonb_array_elements_text(u -> 'keys'))), NULL, NULL, going_forward) THEN
      RAISE EXCEPTION 'rows of % differ between this database and store "%"', (u ->> 'view')::oid::regclass, u ->> 'store'
        USING ERRCODE = 'data_exception', DETAIL = format('Rows among these keys still differ after copying: %s.', left(u ->> 'keys', 1000)),
              HINT = 'Another row of this database may have a unique value of theirs: SELECT * FROM run_ops.repatriation_conflicts();';
    END IF;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.finish_changed_rows(boolean) IS
  'compares and copies all changed rows that are not copied yet; writes must be blocked';
REVOKE EXECUTE ON FUNCTION run_ops.finish_changed_rows(boolean) FROM PUBLIC;

-- Foreign keys.  Their triggers do not fire for copied rows, but for all other
-- writes to the local tables.  So the foreign keys are checked in full while
-- the application runs.  While writes are blocked they are checked once more,
-- for rows that violated one before, because not all rows were copied then, and
-- for rows that were copied since.

CREATE FUNCTION run_ops.foreign_keys()
  RETURNS TABLE (conname name, child run_ops.routed_table, parent run_ops.routed_table, child_table regclass, parent_table regclass,
                 refers text, present text, equal text, parent_columns name[], child_columns name[])
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT f.conname, t, p, f.conrelid::regclass, f.confrelid::regclass,
         string_agg(format('x.%I', c.attname), ', '), string_agg(format('x.%I IS NOT NULL', c.attname), ' AND '),
         -- the equality operator of the foreign key
         string_agg(format('y.%I OPERATOR(%I.%s) x.%I', r.attname, n.nspname, o.oprname, c.attname), ' AND '),
         array_agg(r.attname ORDER BY k.ord), array_agg(c.attname ORDER BY k.ord)
    FROM pg_constraint AS f JOIN run_ops.routed_table AS t ON t.legacy = f.conrelid
    LEFT JOIN run_ops.routed_table AS p ON p.legacy = f.confrelid,
         unnest(f.conkey, f.confkey, f.conpfeqop) WITH ORDINALITY AS k (child, parent, operator, ord)
    JOIN pg_attribute AS c ON c.attnum = k.child
    JOIN pg_attribute AS r ON r.attnum = k.parent
    JOIN pg_operator AS o ON o.oid = k.operator JOIN pg_namespace AS n ON n.oid = o.oprnamespace
   -- conenforced exists from PostgreSQL 18 on
   WHERE f.contype = 'f' AND f.conparentid = 0 AND coalesce((to_jsonb(f) ->> 'conenforced')::boolean, true) AND c.attrelid = f.conrelid AND r.attrelid = f.confrelid
   GROUP BY f.oid, f.conname, t, p, f.conrelid, f.confrelid
$$;
COMMENT ON FUNCTION run_ops.foreign_keys() IS
  'the enforced foreign keys of the local tables, with SQL conditions on x, the referencing row, and y, the referenced row';

CREATE FUNCTION run_ops.rows_at_home(t run_ops.routed_table, relation regclass) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT format('(SELECT %s FROM %s%s)', run_ops.column_list(relation, ''), relation,
    (SELECT string_agg(format(' UNION ALL SELECT %s FROM run_ops_repatriated.%I', run_ops.column_list(relation, ''), relation::oid || '_' || s.store), '')
       FROM run_ops.routed_store AS s WHERE s.view = t.view AND to_regclass(format('run_ops_repatriated.%I', relation::oid || '_' || s.store)) IS NOT NULL))
$$;
COMMENT ON FUNCTION run_ops.rows_at_home(run_ops.routed_table, regclass) IS
  'a subquery for the rows of a local table and of its staging tables';

CREATE FUNCTION run_ops.record_orphans() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET timezone = 'UTC'
  SET intervalstyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex'
AS $$
DECLARE
  f record;
  n bigint;
BEGIN
  FOR f IN SELECT * FROM run_ops.foreign_keys() LOOP
    INSERT INTO run_ops.row_to_check SELECT (f.child).view, q.key
      FROM run_ops.as_owner(run_ops.weaker_owner(f.child_table, f.parent_table),
             format('SELECT %s FROM %s AS x WHERE %s AND NOT EXISTS (SELECT FROM %s AS y WHERE %s) LIMIT 10000',
                    run_ops.key_expression(f.child, 'x'), run_ops.rows_at_home(f.child, f.child_table), f.present,
                    run_ops.rows_at_home(f.parent, f.parent_table), f.equal)) AS q (key text);
    GET DIAGNOSTICS n = ROW_COUNT;
    IF n = 10000 THEN
      PERFORM run_ops.raise_orphans(ARRAY[format('%s or more rows of %s violate foreign key %I', n, f.child_table, f.conname)]);
    END IF;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.record_orphans() IS
  'checks all foreign keys while the application runs, and adds rows that violate one to run_ops.row_to_check';
REVOKE EXECUTE ON FUNCTION run_ops.record_orphans() FROM PUBLIC;

-- Few rows are looked up in large tables, but the planner does not know that
-- they are few.  So MATERIALIZED fixes the order of the steps, and
-- enable_seqscan = off prevents reading a whole table that has an index.
CREATE FUNCTION run_ops.refuse_remaining_orphans() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off
AS $$
DECLARE
  f     record;
  came  bigint;
  left_behind bigint;
  lines text[] := '{}';
  owner regclass;
  settled text := 'WITH s AS MATERIALIZED (SELECT DISTINCT key FROM run_ops.row_to_check WHERE view = $1), ';
BEGIN
  FOR f IN SELECT * FROM run_ops.foreign_keys() LOOP
    owner := run_ops.weaker_owner(f.child_table, f.parent_table);
    -- the rows to check, as referencing rows
    SELECT q.n INTO came FROM run_ops.as_owner(owner,
      format('%s x AS MATERIALIZED (SELECT %s FROM s JOIN %s AS x ON %s) '
             'SELECT count(*) FROM x WHERE %s AND NOT EXISTS (SELECT FROM %s AS y WHERE %s)',
             settled, f.refers, f.child_table, run_ops.key_equals(f.child, (f.child).key_columns, (f.child).key_columns),
             f.present, f.parent_table, f.equal), (f.child).view) AS q (n bigint);
    -- deleted rows among those to check, and the rows that still refer to them
    left_behind := 0;
    IF f.parent_columns <@ (f.parent).key_columns THEN
      SELECT q.n INTO left_behind FROM run_ops.as_owner(owner,
        format('%s gone AS MATERIALIZED (SELECT key FROM s WHERE NOT EXISTS (SELECT FROM %s AS x WHERE %s)), '
               'x AS MATERIALIZED (SELECT %s FROM gone AS s JOIN %s AS x ON %s) '
               'SELECT count(*) FROM x WHERE NOT EXISTS (SELECT FROM %s AS y WHERE %s)',
               settled, f.parent_table, run_ops.key_equals(f.parent, (f.parent).key_columns, (f.parent).key_columns),
               f.refers, f.child_table, run_ops.key_equals(f.parent, f.parent_columns, f.child_columns), f.parent_table, f.equal),
        (f.parent).view) AS q (n bigint);
    ELSIF EXISTS (SELECT FROM run_ops.row_to_check AS s WHERE s.view = (f.parent).view) THEN
      SELECT q.n INTO left_behind FROM run_ops.as_owner(owner,
        format('SELECT count(*) FROM %s AS x WHERE %s AND NOT EXISTS (SELECT FROM %s AS y WHERE %s)',
               f.child_table, f.present, f.parent_table, f.equal)) AS q (n bigint);
    END IF;
    -- greatest(), because both counts may include the same row
    IF came + left_behind > 0 THEN
      lines := lines || format('%s rows of %s violate foreign key %I', greatest(came, left_behind), f.child_table, f.conname);
    END IF;
  END LOOP;
  PERFORM run_ops.raise_orphans(lines) WHERE lines <> '{}';
END $$;
COMMENT ON FUNCTION run_ops.refuse_remaining_orphans() IS
  'raises an error if the rows in run_ops.row_to_check, or rows that refer to them, violate a foreign key; writes must be blocked';
REVOKE EXECUTE ON FUNCTION run_ops.refuse_remaining_orphans() FROM PUBLIC;

CREATE FUNCTION run_ops.key_equals(t run_ops.routed_table, key_columns name[], columns name[]) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT string_agg(format('%s = (s.key::jsonb ->> %s)::%s', e.expression, array_position(t.key_columns, u.k) - 1, e.type), ' AND ')
    FROM unnest(key_columns, columns) AS u (k, c), LATERAL run_ops.plain_column(t.legacy, u.k, format('x.%I', u.c)) AS e
$$;
COMMENT ON FUNCTION run_ops.key_equals(run_ops.routed_table, name[], name[]) IS
  'an SQL condition: the columns of x equal these key columns in the key s.key';

CREATE FUNCTION run_ops.prepare_switch(going_forward boolean) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF run_ops.reason_to_compare_all(going_forward) IS NOT NULL THEN
    RETURN;
  END IF;
  PERFORM FROM run_ops.change_tracking FOR UPDATE;  -- no other session copies from here on
  DELETE FROM run_ops.row_to_check;
  FOR pass IN 1 .. 2 LOOP
    FOR batch IN 1 .. 1000 LOOP
      EXIT WHEN (SELECT c.done FROM run_ops.copy_changed_rows(1000, going_forward, true) AS c);
    END LOOP;
    PERFORM run_ops.record_orphans() WHERE pass = 1 AND NOT going_forward;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.prepare_switch(boolean) IS
  'copies changed rows and checks foreign keys before the switch, so that little is left to do while writes are blocked';
REVOKE EXECUTE ON FUNCTION run_ops.prepare_switch(boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.stop_tracking(in_stores boolean DEFAULT true) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  n run_ops.change_tracking;
BEGIN
  UPDATE run_ops.change_tracking SET forward = NULL;
  FOR n IN SELECT * FROM run_ops.change_tracking AS c WHERE c.place = 'legacy' OR in_stores LOOP
    BEGIN
      PERFORM run_ops.tell_place(n.place, 'DROP SCHEMA IF EXISTS run_ops_changes CASCADE');
      DELETE FROM run_ops.change_tracking AS c WHERE c.place = n.place;
    EXCEPTION WHEN OTHERS THEN
      RAISE NOTICE 'cannot stop tracking changes in store "%"', n.place
        USING DETAIL = SQLERRM, HINT = 'Run in the store: DROP SCHEMA run_ops_changes CASCADE;';
    END;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.stop_tracking(boolean) IS
  'stops tracking changed rows. in_stores => false stops it only here; the notes in the stores are ignored from then on and removed later.';
REVOKE EXECUTE ON FUNCTION run_ops.stop_tracking(boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.drop_restored_work() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning
AS $$
DECLARE
  staging regclass;
BEGIN
  IF NOT EXISTS (SELECT FROM run_ops.change_tracking AS c WHERE c.place = 'legacy') THEN
    DROP SCHEMA IF EXISTS run_ops_changes CASCADE;
  END IF;
  FOR staging IN
    SELECT c.oid FROM pg_class AS c
     WHERE c.relnamespace = to_regnamespace('run_ops_repatriated') AND c.relkind = 'r'
       AND NOT EXISTS (SELECT FROM run_ops.routed_table AS t WHERE starts_with(c.relname, t.legacy::oid || '_'))
  LOOP
    EXECUTE format('DROP TABLE %s', staging);
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.drop_restored_work() IS
  'drops the triggers that track changes, and the staging tables, that a dump has brought from its original without the state that belongs to them';
REVOKE EXECUTE ON FUNCTION run_ops.drop_restored_work() FROM PUBLIC;

-- leftovers: rows that have moved to a store and are still in the local table.
--
-- If the switch deleted these rows, the time for which it blocks writes would
-- grow with their number.  So the switch leaves them in the local table.  It has
-- verified that the store has each of them, and from then on they are only older
-- copies, which the view does not show because their id belongs to the store.
-- They are removed afterwards, in batches.
--
-- Until then they must not have any effect.  A constraint could see them: they
-- still have their unique values, they still satisfy foreign keys, and actions
-- of foreign keys still apply to them.  A leftover may be removed at any time,
-- so a trigger removes it before the constraint is checked.  The switch deletes
-- the rows itself if such a trigger is not possible (can_leave_rows()), or if
-- the view would show them because no id decides (routing "store").
--
-- There are no leftovers while rows are being repatriated.  Both are local
-- copies of rows of a store, and nothing would distinguish those to remove from
-- those to keep.

CREATE TABLE run_ops.leftover (
  view       regclass,
  store      text,
  position   jsonb,
  finished   boolean NOT NULL DEFAULT false,
  removed    bigint NOT NULL DEFAULT 0,
  changed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  PRIMARY KEY (view, store)
);
COMMENT ON TABLE run_ops.leftover IS
  'the tables that may still have rows which have moved to a store; pg_dump dumps this table, because it dumps those rows';
COMMENT ON COLUMN run_ops.leftover.view IS 'the routed table';
COMMENT ON COLUMN run_ops.leftover.store IS 'the store that has the rows';
COMMENT ON COLUMN run_ops.leftover.position IS 'the last key that run_ops.remove_leftovers() has processed';
COMMENT ON COLUMN run_ops.leftover.finished IS 'whether run_ops.remove_leftovers() has reached the end of this table';
COMMENT ON COLUMN run_ops.leftover.removed IS 'the number of rows removed';
COMMENT ON COLUMN run_ops.leftover.changed_at IS 'when the last batch was removed';
SELECT pg_catalog.pg_extension_config_dump('run_ops.leftover', 'WHERE run_ops.is_relation(view, ''{v}'')');

CREATE FUNCTION run_ops.can_leave_rows(t run_ops.routed_table) RETURNS boolean
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT t.routing <> 'store'
     AND NOT EXISTS (
       SELECT FROM pg_constraint AS f
        WHERE f.contype = 'f' AND f.conparentid = 0 AND t.legacy IN (f.conrelid, f.confrelid)
          AND (f.conrelid NOT IN (SELECT r.legacy FROM run_ops.routed_table AS r)
               OR f.confrelid NOT IN (SELECT r.legacy FROM run_ops.routed_table AS r)))
     -- a unique index must be on plain columns that are compared with "=" of pg_catalog
     AND NOT EXISTS (
       SELECT FROM pg_index AS i, to_jsonb(i) AS j
        WHERE i.indrelid = t.legacy
          AND (i.indisexclusion
               OR i.indisunique AND (
                 i.indexprs IS NOT NULL OR (j ->> 'indnullsnotdistinct')::boolean
                 OR EXISTS (SELECT FROM pg_collation AS c WHERE c.oid = ANY (i.indcollation) AND NOT c.collisdeterministic)
                 OR EXISTS (SELECT FROM pg_attribute AS a JOIN pg_type AS y ON y.oid = a.atttypid
                             WHERE a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
                               AND y.typnamespace <> 'pg_catalog'::regnamespace AND y.typtype <> 'e'))))
$$;
COMMENT ON FUNCTION run_ops.can_leave_rows(run_ops.routed_table) IS
  'whether rows that moved to a store may stay in the local table for a while without any effect';

CREATE FUNCTION run_ops.leftover_condition(t run_ops.routed_table, alias text) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT coalesce('(' || string_agg(run_ops.in_store(t, format('%s.%I', alias, t.route_column), l.store), ' OR ') || ')', 'false')
    FROM run_ops.leftover AS l WHERE l.view = t.view
$$;
COMMENT ON FUNCTION run_ops.leftover_condition(run_ops.routed_table, text) IS
  'an SQL condition: a local row is a leftover';

CREATE FUNCTION run_ops.equals_any(relation regclass, columns name[]) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT string_agg(format('%s = (u.v ->> %s)::%s', e.expression, ord - 1, e.type), ' AND ' ORDER BY ord)
    FROM unnest(columns) WITH ORDINALITY AS u (c, ord), LATERAL run_ops.plain_column(relation, u.c, format('x.%I', u.c)) AS e
$$;
COMMENT ON FUNCTION run_ops.equals_any(regclass, name[]) IS
  'an SQL condition: these columns of x equal the elements of the array u.v';

CREATE FUNCTION run_ops.referred_values(t run_ops.routed_table) RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT string_agg(DISTINCT format('%L, %s', c, e.expression), ', ')
    FROM run_ops.foreign_keys() AS k, unnest(k.parent_columns) AS c, LATERAL run_ops.plain_column(t.legacy, c, format('x.%I', c)) AS e
   WHERE k.parent_table = t.legacy
$$;
COMMENT ON FUNCTION run_ops.referred_values(run_ops.routed_table) IS
  'the names and values of the columns of row x to which foreign keys refer, as arguments of jsonb_build_object(); NULL if there are none';

-- session_replication_role is replica, because the row still exists in the store:
-- its removal here must fire no other trigger.  Leftovers that refer to it are
-- removed as well, so that each committed state can be dumped and restored.

-- SECURITY DEFINER: the triggers below call it as the owner of their table, who
-- need not be allowed to delete rows of another table.  It can only remove
-- leftovers.
CREATE FUNCTION run_ops.drop_leftovers(relation regclass, columns name[], vals jsonb[], strict boolean DEFAULT true)
  RETURNS TABLE (view regclass, store text, key text)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET session_replication_role = 'replica'
AS $$
#variable_conflict use_variable
DECLARE
  t      run_ops.routed_table := run_ops.routed(relation);
  gone   jsonb[] := '{}';
  named  jsonb[];
  others bigint;
  r      record;
  f      record;
BEGIN
  FOR r IN
    SELECT * FROM run_ops.as_owner(t.legacy, format(
      'DELETE FROM %s AS x USING unnest($1) AS u (v) WHERE %s AND %s RETURNING %s, %s, jsonb_build_object(%s)',
      t.legacy, run_ops.leftover_condition(t, 'x'), run_ops.equals_any(t.legacy, columns), run_ops.names_store(t, format('x.%I', t.route_column)),
      run_ops.key_expression(t, 'x'), run_ops.referred_values(t)), vals) AS q (store text, key text, referred jsonb)
  LOOP
    gone := gone || r.referred;
    view := t.view; store := r.store; key := r.key;
    RETURN NEXT;
  END LOOP;
  FOR f IN SELECT * FROM run_ops.foreign_keys() AS k WHERE gone <> '{}' AND k.parent_table = t.legacy LOOP
    named := run_ops.values_of(gone, f.parent_columns);
    CONTINUE WHEN (f.child).routing = 'store' AND NOT strict;
    IF (f.child).routing <> 'store' THEN
      RETURN QUERY SELECT * FROM run_ops.drop_leftovers(f.child_table, f.child_columns, named, strict);
    END IF;
    CONTINUE WHEN NOT strict;
    SELECT q.n INTO others FROM run_ops.as_owner(f.child_table, format('SELECT count(*) FROM %s AS x, unnest($1) AS u (v) WHERE %s',
      f.child_table, run_ops.equals_any(f.child_table, f.child_columns)), named) AS q (n bigint);
    PERFORM run_ops.raise_orphans(ARRAY[format('%s rows of %s violate foreign key %I', others, f.child_table, f.conname)]) WHERE others > 0;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.drop_leftovers(regclass, name[], jsonb[], boolean) IS
  'removes the leftovers of a local table with these values in these columns, and the leftovers that refer to them; returns the removed rows with their store. If strict, raises an error if another row refers to one.';
REVOKE EXECUTE ON FUNCTION run_ops.drop_leftovers(regclass, name[], jsonb[], boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.values_of(objects jsonb[], columns name[]) RETURNS jsonb[]
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT array_agg(DISTINCT v)
    FROM unnest(objects) AS o, LATERAL (SELECT jsonb_agg(o -> c::text ORDER BY ord) AS v FROM unnest(columns) WITH ORDINALITY AS u (c, ord)) AS a
$$;
COMMENT ON FUNCTION run_ops.values_of(jsonb[], name[]) IS 'the distinct values of these columns in JSON objects, as arrays';

-- The triggers --------------------------------------------------------------------

CREATE FUNCTION run_ops.leftover_rules()
  RETURNS TABLE (t run_ops.routed_table, trigger_name text, fires text, staying boolean, leftovers run_ops.routed_table, columns name[], row_name text, row_columns name[])
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  WITH f AS MATERIALIZED (SELECT * FROM run_ops.foreign_keys()),
       left_in AS MATERIALIZED (SELECT DISTINCT l.view FROM run_ops.leftover AS l)
  -- A row that is no leftover removes leftovers with the same unique values.  A
  -- unique index with the route column needs no trigger: the ids differ.
  SELECT t, '~run_ops_unique', 'BEFORE INSERT OR UPDATE', true, t, k.columns, 'NEW', k.columns
    FROM run_ops.routed_table AS t JOIN left_in USING (view) JOIN pg_index AS i ON i.indrelid = t.legacy AND i.indisunique, LATERAL (
           SELECT array_agg(a.attname ORDER BY a.attnum) AS columns FROM pg_attribute AS a
            WHERE a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])) AS k
   WHERE t.route_column <> ALL (k.columns)
  UNION ALL
  -- A leftover must not satisfy the foreign keys of a row.
  SELECT f.child, '0_run_ops_refers', 'AFTER INSERT OR UPDATE', true, f.parent, f.parent_columns, 'NEW', f.child_columns
    FROM f JOIN left_in ON left_in.view = (f.parent).view
   WHERE NOT run_ops.along_the_route(f.child, f.child_columns, f.parent, f.parent_columns)
  UNION ALL
  -- No action of a foreign key may apply to a leftover.
  SELECT f.parent, '0_run_ops_referred', 'AFTER UPDATE OR DELETE', false, f.child, f.child_columns, 'OLD', f.parent_columns
    FROM f JOIN left_in ON left_in.view = (f.child).view
$$;
COMMENT ON FUNCTION run_ops.leftover_rules() IS
  'the leftovers that must be removed when a row of table t is written, and the trigger that does it: those whose columns equal row_columns of the row. staying: only if the row is no leftover itself.';

CREATE FUNCTION run_ops.along_the_route(child run_ops.routed_table, child_columns name[], parent run_ops.routed_table, parent_columns name[])
  RETURNS boolean
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT coalesce(child_columns = ARRAY[child.route_column] AND parent_columns = ARRAY[parent.route_column], false)
$$;
COMMENT ON FUNCTION run_ops.along_the_route(run_ops.routed_table, name[], run_ops.routed_table, name[]) IS
  'whether both rows of a foreign key are always in the same store, because it compares the columns that decide the store';

CREATE FUNCTION run_ops.guard_leftovers() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning
AS $$
DECLARE
  g record;
BEGIN
  EXECUTE run_ops.renew_schema('run_ops_leftovers');
  COMMENT ON SCHEMA run_ops_leftovers IS
    'trigger functions that remove leftovers before a constraint sees them, until run_ops.remove_leftovers() has removed all';
  FOR g IN
    WITH condition AS MATERIALIZED (
      SELECT t.view, run_ops.leftover_condition(t, 'x') AS on_x, run_ops.leftover_condition(t, 'NEW') AS on_new FROM run_ops.routed_table AS t)
    SELECT r.t, r.trigger_name, r.fires, format('run_ops_leftovers.%I', r.trigger_name || '_' || (r.t).legacy::oid) AS function_name,
           string_agg(format(
             ' IF (TG_OP IN (''INSERT'', ''DELETE'') OR (%s) IS DISTINCT FROM (%s))%s THEN '
             'PERFORM FROM run_ops.drop_leftovers(%L::regclass, %L::name[], ARRAY[jsonb_build_array(%s)], %L); END IF;',
             c.olds, c.news,
             -- EXISTS is cheaper than the call, but needs privileges on the table
             CASE WHEN mine.relowner = theirs.relowner
                  THEN format(' AND EXISTS (SELECT FROM %s AS x WHERE %s AND %s)', (r.leftovers).legacy, there.on_x, c.equal) END,
             (r.leftovers).legacy, r.columns, c.vals,
             -- not strict: a row that refers to a leftover violates the foreign key anyway
             r.trigger_name <> '0_run_ops_refers'), '') AS body,
           CASE WHEN r.staying AND (r.t).routing <> 'store' THEN format('WHEN (NOT %s)', here.on_new) END AS condition,
           mine.relowner::regrole AS owner
      FROM run_ops.leftover_rules() AS r
      JOIN condition AS here ON here.view = (r.t).view JOIN condition AS there ON there.view = (r.leftovers).view
      JOIN pg_class AS mine ON mine.oid = (r.t).legacy JOIN pg_class AS theirs ON theirs.oid = (r.leftovers).legacy,
           LATERAL (SELECT string_agg(e.old, ', ' ORDER BY ord) AS olds, string_agg(e.new, ', ' ORDER BY ord) AS news,
                           string_agg(CASE r.row_name WHEN 'OLD' THEN e.old ELSE e.new END, ', ' ORDER BY ord) AS vals,
                           string_agg(format('%s = %s', e.x, CASE r.row_name WHEN 'OLD' THEN e.old ELSE e.new END), ' AND ' ORDER BY ord) AS equal
                      FROM unnest(r.columns, r.row_columns) WITH ORDINALITY AS u (c, o, ord),
                           LATERAL (SELECT (run_ops.plain_column((r.t).legacy, o, format('OLD.%I', o))).expression AS old,
                                           (run_ops.plain_column((r.t).legacy, o, format('NEW.%I', o))).expression AS new,
                                           (run_ops.plain_column((r.leftovers).legacy, c, format('x.%I', c))).expression AS x) AS e) AS c
     GROUP BY r.t, r.trigger_name, r.fires, r.staying, here.on_new, mine.relowner
  LOOP
    -- SECURITY DEFINER: a role that writes a row need not be allowed to delete
    -- other rows.  The function runs as the owner of the table, because the owner
    -- may have created the types of its columns.
    EXECUTE format('CREATE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS %L',
                   g.function_name, format('BEGIN%s RETURN NEW; END', g.body));
    EXECUTE format('ALTER FUNCTION %s() OWNER TO %s', g.function_name, g.owner);
    EXECUTE format('GRANT USAGE ON SCHEMA run_ops TO %s', g.owner);
    EXECUTE format('GRANT EXECUTE ON FUNCTION run_ops.drop_leftovers(regclass, name[], jsonb[], boolean) TO %s', g.owner);
    -- Triggers fire in the order of their names.  These fire after triggers that
    -- may change the row, and before the triggers of foreign keys.
    EXECUTE format('CREATE TRIGGER %I %s ON %s FOR EACH ROW %s EXECUTE FUNCTION %s()',
                   g.trigger_name, g.fires, (g.t).legacy, g.condition, g.function_name);
    -- Unique indexes are checked in every session, foreign keys not if
    -- session_replication_role is replica.
    EXECUTE format('ALTER TABLE %s ENABLE %s TRIGGER %I', (g.t).legacy,
                   CASE WHEN g.trigger_name = '~run_ops_unique' THEN 'ALWAYS' ELSE '' END, g.trigger_name);
    -- otherwise every write would fail after DROP EXTENSION
    EXECUTE format('ALTER TRIGGER %I ON %s DEPENDS ON EXTENSION run_ops_split', g.trigger_name, (g.t).legacy);
    EXECUTE format('ALTER FUNCTION %s() DEPENDS ON EXTENSION run_ops_split', g.function_name);
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.guard_leftovers() IS
  'creates the triggers that remove a leftover before a constraint sees it';
REVOKE EXECUTE ON FUNCTION run_ops.guard_leftovers() FROM PUBLIC;

CREATE FUNCTION run_ops.forget_leftovers() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET client_min_messages = warning
AS $$
BEGIN
  DROP SCHEMA IF EXISTS run_ops_leftovers CASCADE;
  DELETE FROM run_ops.leftover;
END $$;
COMMENT ON FUNCTION run_ops.forget_leftovers() IS 'drops the triggers for leftovers and empties run_ops.leftover; all leftovers must have been removed';
REVOKE EXECUTE ON FUNCTION run_ops.forget_leftovers() FROM PUBLIC;

CREATE FUNCTION run_ops.refuse_leftovers() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  IF EXISTS (SELECT FROM run_ops.leftover) THEN
    RAISE EXCEPTION 'rows that moved to a store are still in the local tables'
      USING ERRCODE = 'object_in_use', DETAIL = 'They could not be distinguished from other rows any more.',
            HINT = 'To remove them, repeat until done: SELECT * FROM run_ops.remove_leftovers(); If the stores are lost: SELECT run_ops.disable_split(force => true);';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_leftovers() IS 'raises an error if the local tables may have leftovers';
REVOKE EXECUTE ON FUNCTION run_ops.refuse_leftovers() FROM PUBLIC;

-- The switch ------------------------------------------------------------------------

CREATE FUNCTION run_ops.refuse_stranded() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET timezone = 'UTC'
  SET intervalstyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex'
AS $$
DECLARE
  f     record;
  s     text;
  m     run_ops.mirror;
  keys  text[];
  lines text[] := '{}';
BEGIN
  -- Only parents whose store is decided by an id: with routing "store" it is
  -- known only when finish_move_to_stores() deletes the rows, which checks them.
  FOR f IN SELECT * FROM run_ops.foreign_keys() AS k
            WHERE (k.parent).routing <> 'store' AND NOT run_ops.along_the_route(k.child, k.child_columns, k.parent, k.parent_columns) LOOP
    keys := (SELECT array_agg(q.key) FROM run_ops.as_owner(run_ops.weaker_owner(f.child_table, f.parent_table), format(
      'SELECT %s FROM %s AS x JOIN %s AS y ON %s WHERE (%s) AND NOT (%s) LIMIT 10000',
      run_ops.key_expression(f.child, 'x'), f.child_table, f.parent_table, f.equal,
      (SELECT string_agg(run_ops.belongs_condition(f.parent, r.store, 'y'), ' OR ') FROM run_ops.routed_store AS r WHERE r.view = (f.parent).view),
      (SELECT string_agg(run_ops.belongs_condition(f.child, r.store, 'x'), ' OR ') FROM run_ops.routed_store AS r WHERE r.view = (f.child).view))) AS q (key text));
    -- a row without a deciding id moves as well if the store has its key
    FOR s IN SELECT r.store FROM run_ops.routed_store AS r WHERE r.view = (f.child).view AND (f.child).routing = 'store' LOOP
      CONTINUE WHEN keys IS NULL;
      m := run_ops.only_keys(run_ops.mirror_of(f.child, s, true), keys);
      keys := (SELECT array_agg(k) FROM unnest(keys) AS k
                WHERE k NOT IN (SELECT a ->> 'key' FROM run_ops.ask_store(s, run_ops.range_query(m.there_from, m.there_keys, '''''', NULL, NULL)) AS a));
    END LOOP;
    IF keys IS NOT NULL THEN
      lines := lines || format('%s rows of %s violate foreign key %I', cardinality(keys), f.child_table, f.conname);
    END IF;
  END LOOP;
  PERFORM run_ops.raise_orphans(lines) WHERE lines <> '{}';
END $$;
COMMENT ON FUNCTION run_ops.refuse_stranded() IS
  'raises an error if rows that stay here refer to rows that will move; runs before writes are blocked';
REVOKE EXECUTE ON FUNCTION run_ops.refuse_stranded() FROM PUBLIC;

CREATE FUNCTION run_ops.finish_move_to_stores() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET session_replication_role = 'replica'
  SET datestyle = 'ISO, YMD' SET timezone = 'UTC' SET intervalstyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex'
AS $$
DECLARE
  r    record;
  f    record;
  m    run_ops.mirror;
  there jsonb[];
  gone jsonb[];
BEGIN
  PERFORM run_ops.finish_copy(true);
  -- otherwise each row that is deleted here would be tracked as a change
  PERFORM run_ops.stop_tracking(false);
  INSERT INTO run_ops.leftover (view, store)
  SELECT t.view, s.store FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s ON s.view = t.view WHERE run_ops.can_leave_rows(t);
  FOR r IN SELECT t, s.store FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s ON s.view = t.view
            WHERE NOT run_ops.can_leave_rows(t) LOOP
    m := run_ops.mirror_of(r.t, r.store, true);
    -- Not through the foreign table, which would show the store as of the first
    -- attempt in this transaction.
    there := CASE (r.t).routing WHEN 'store' THEN ARRAY(SELECT * FROM run_ops.ask_store(r.store, format('SELECT %s FROM %s',
      (SELECT string_agg(format('(%s)::text AS k%s', k, ord), ', ' ORDER BY ord) FROM unnest(m.there_keys) WITH ORDINALITY AS u (k, ord)),
      m.there_from), '0')) END;
    WITH gone AS MATERIALIZED (
      SELECT * FROM run_ops.as_owner((r.t).legacy, format('DELETE FROM %s AS x %s RETURNING %s, jsonb_build_object(%s)', m.here,
          CASE (r.t).routing WHEN 'store' THEN format('USING unnest($2) AS a WHERE %s',
             (SELECT string_agg(format('%s = (a ->> %L)::%s', k, 'k' || ord, m.key_types[ord]), ' AND ')
                FROM unnest(m.here_keys) WITH ORDINALITY AS u (k, ord)))
           ELSE 'WHERE ' || run_ops.in_store(r.t, format('x.%I', (r.t).route_column), r.store) END,
          run_ops.key_expression(r.t, 'x'), run_ops.referred_values(r.t)), r.store, there) AS q (key text, r jsonb)
    ), settled AS (INSERT INTO run_ops.row_to_check SELECT (r.t).view, g.key FROM gone AS g)
    SELECT array_agg(g.r) INTO gone FROM gone AS g WHERE g.r <> '{}';
    FOR f IN SELECT * FROM run_ops.foreign_keys() AS k WHERE gone IS NOT NULL AND k.parent_table = (r.t).legacy LOOP
      PERFORM FROM run_ops.drop_leftovers(f.child_table, f.child_columns, run_ops.values_of(gone, f.parent_columns), false);
    END LOOP;
  END LOOP;
  PERFORM run_ops.refuse_remaining_orphans();
  PERFORM run_ops.guard_leftovers() WHERE EXISTS (SELECT FROM run_ops.leftover);
END $$;
COMMENT ON FUNCTION run_ops.finish_move_to_stores() IS
  'copies the rows that move_strays() has not copied yet, verifies that the stores have all rows, and deletes those rows here that cannot stay as leftovers; writes must be blocked';
REVOKE EXECUTE ON FUNCTION run_ops.finish_move_to_stores() FROM PUBLIC;

CREATE FUNCTION run_ops.raise_leftovers(lines text[]) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  RAISE EXCEPTION 'rows that moved to a store cannot be removed from the local tables'
    USING ERRCODE = 'object_in_use', DETAIL = array_to_string(lines, E'\n'),
          HINT = 'Correct rows that refer to these rows through the views. If the store lost a row, insert it through the view. If a row was deleted in the store: SELECT * FROM run_ops.remove_leftovers(deleted => true);';
END $$;
COMMENT ON FUNCTION run_ops.raise_leftovers(text[]) IS 'raises the error with the reasons why leftovers cannot be removed';
REVOKE EXECUTE ON FUNCTION run_ops.raise_leftovers(text[]) FROM PUBLIC;

-- Removing ----------------------------------------------------------------------------

CREATE FUNCTION run_ops.leftover_keys(l run_ops.leftover, above jsonb, batch_size int) RETURNS text[]
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT run_ops.next_keys(run_ops.mirror_of(run_ops.routed(l.view), l.store, true), above, batch_size)
$$;
COMMENT ON FUNCTION run_ops.leftover_keys(run_ops.leftover, jsonb, int) IS 'the keys of the next leftovers, in the order of the keys';
REVOKE EXECUTE ON FUNCTION run_ops.leftover_keys(run_ops.leftover, jsonb, int) FROM PUBLIC;

CREATE FUNCTION run_ops.lacking_keys(view regclass, store text, keys text[]) RETURNS text[]
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  m run_ops.mirror := run_ops.only_keys(run_ops.mirror_of(run_ops.routed(view), store, true), keys);
BEGIN
  RETURN ARRAY(SELECT unnest(keys) EXCEPT
               SELECT a ->> 'key' FROM run_ops.ask_store(store, run_ops.range_query(m.there_from, m.there_keys, '''''', NULL, NULL)) AS a);
END $$;
COMMENT ON FUNCTION run_ops.lacking_keys(regclass, text, text[]) IS 'the keys for which a store has no row now';
REVOKE EXECUTE ON FUNCTION run_ops.lacking_keys(regclass, text, text[]) FROM PUBLIC;

CREATE FUNCTION run_ops.remove_proven(l run_ops.leftover, keys text[], strict boolean, deleted boolean) RETURNS bigint
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  t       run_ops.routed_table := run_ops.routed(l.view);
  r       record;
  lacking text[];
  removed bigint := 0;
BEGIN
  -- For the leftovers that were removed because they refer to one, it has not
  -- been checked yet whether the store has them.
  FOR r IN
    SELECT d.view, d.store, count(*) AS n, array_agg(d.key) FILTER (WHERE d.view <> l.view OR d.key <> ALL (keys)) AS others
      FROM run_ops.drop_leftovers(t.legacy, t.key_columns, keys::jsonb[], strict) AS d GROUP BY d.view, d.store ORDER BY d.view::text, d.store
  LOOP
    removed := removed + r.n;
    lacking := CASE WHEN r.others IS NULL OR deleted THEN '{}' ELSE run_ops.lacking_keys(r.view, r.store, r.others) END;
    IF lacking <> '{}' THEN
      RAISE EXCEPTION 'a row would be lost' USING ERRCODE = 'foreign_key_violation',
        DETAIL = format('a row of %s refers to it, and store "%s" does not have %s', r.view, r.store, lacking[1]);
    END IF;
  END LOOP;
  RETURN removed;
END $$;
COMMENT ON FUNCTION run_ops.remove_proven(run_ops.leftover, text[], boolean, boolean) IS
  'removes leftovers by key, and the leftovers that refer to them. Raises an error if the store does not have one of the latter, unless deleted is true.';
REVOKE EXECUTE ON FUNCTION run_ops.remove_proven(run_ops.leftover, text[], boolean, boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.remove_keys(l run_ops.leftover, keys text[], strict boolean, deleted boolean, OUT removed bigint, OUT reason text)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET timezone = 'UTC'
  SET intervalstyle = 'postgres' SET extra_float_digits = 1 SET bytea_output = 'hex'
AS $$
DECLARE
  known text[] := keys;
  lacking text[];
  key   text;
BEGIN
  -- A row that the store does not have is kept, because no other copy exists.
  -- It was deleted or lost in the store, or written here past the write lock.
  IF keys <> '{}' AND NOT deleted THEN
    lacking := run_ops.lacking_keys(l.view, l.store, keys);
    known := ARRAY(SELECT k FROM unnest(keys) AS k WHERE k <> ALL (lacking));
    reason := format('%s: store "%s" does not have %s', l.view, l.store, lacking[1]) WHERE lacking <> '{}';
  END IF;
  removed := 0;
  BEGIN
    removed := run_ops.remove_proven(l, known, strict, deleted);
  EXCEPTION WHEN foreign_key_violation THEN
    FOREACH key IN ARRAY known LOOP
      BEGIN
        removed := removed + run_ops.remove_proven(l, ARRAY[key], true, deleted);
      EXCEPTION WHEN foreign_key_violation THEN
        GET STACKED DIAGNOSTICS reason = PG_EXCEPTION_DETAIL;
        reason := format('%s: cannot remove %s: %s', l.view, key, reason);
      END;
    END LOOP;
  END;
END $$;
COMMENT ON FUNCTION run_ops.remove_keys(run_ops.leftover, text[], boolean, boolean) IS
  'removes leftovers by key, and returns their number and a reason if some were kept. Keeps a leftover that its store does not have now, unless deleted is true, and if strict, one to which another row refers.';
REVOKE EXECUTE ON FUNCTION run_ops.remove_keys(run_ops.leftover, text[], boolean, boolean) FROM PUBLIC;

-- deadlock_timeout is short, so that this session and not a client detects a
-- deadlock.
CREATE FUNCTION run_ops.remove_batch(batch_size int, strict boolean, deleted boolean DEFAULT false) RETURNS TABLE (view regclass, store text, removed bigint, done boolean)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET deadlock_timeout = '10ms'
AS $$
#variable_conflict use_column
DECLARE
  l     run_ops.leftover;
  keys  text[];
  batch record;
  lines text[] := '{}';
BEGIN
  IF batch_size IS NULL OR batch_size < 1 THEN
    RAISE EXCEPTION 'batch_size must be at least 1' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  -- Referencing tables first: then few rows must be removed together with the
  -- row that they refer to.
  SELECT x.* INTO l FROM run_ops.leftover AS x JOIN run_ops.routed_table AS t ON t.view = x.view
   WHERE NOT x.finished
   ORDER BY (SELECT count(*) FROM run_ops.foreign_keys() AS f WHERE f.parent_table = t.legacy), x.view, x.store LIMIT 1 FOR UPDATE OF x;
  IF FOUND THEN
    keys := run_ops.leftover_keys(l, l.position, batch_size);
    SELECT * INTO batch FROM run_ops.remove_keys(l, keys, strict, deleted);
    UPDATE run_ops.leftover AS x
       SET position = coalesce(keys[cardinality(keys)]::jsonb, x.position), finished = cardinality(keys) < batch_size,
           removed = x.removed + batch.removed, changed_at = clock_timestamp()
     WHERE (x.view, x.store) = (l.view, l.store);
    RETURN QUERY SELECT l.view, l.store, batch.removed, false;
    RETURN;
  END IF;
  -- The leftovers that were kept are tried again: the reason may no longer exist.
  FOR l IN SELECT * FROM run_ops.leftover AS x ORDER BY x.view, x.store FOR UPDATE LOOP
    keys := run_ops.leftover_keys(l, NULL, batch_size);
    CONTINUE WHEN keys = '{}';
    SELECT * INTO batch FROM run_ops.remove_keys(l, keys, strict, deleted);
    -- nothing removed and no reason: a client has removed them just now
    IF batch.removed > 0 OR batch.reason IS NULL THEN
      UPDATE run_ops.leftover AS x SET removed = x.removed + batch.removed, changed_at = clock_timestamp()
       WHERE (x.view, x.store) = (l.view, l.store);
      RETURN QUERY SELECT l.view, l.store, batch.removed, false;
      RETURN;
    END IF;
    lines := lines || batch.reason;
  END LOOP;
  PERFORM run_ops.raise_leftovers(lines) WHERE lines <> '{}';
  RETURN QUERY SELECT NULL::regclass, NULL::text, 0::bigint, true;
END $$;
COMMENT ON FUNCTION run_ops.remove_batch(int, boolean, boolean) IS
  'removes one batch of leftovers; done is true if none is left. strict => false does not check foreign keys, because they are checked after the repatriation.';
REVOKE EXECUTE ON FUNCTION run_ops.remove_batch(int, boolean, boolean) FROM PUBLIC;

-- One table for each call, so that a transaction locks only one.
CREATE FUNCTION run_ops.end_leftovers() RETURNS boolean
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  commands text := (
    SELECT string_agg(format('DROP TRIGGER %I ON %s', g.tgname, g.tgrelid::regclass), '; ')
      FROM pg_trigger AS g JOIN pg_proc AS p ON p.oid = g.tgfoid
     WHERE p.pronamespace = to_regnamespace('run_ops_leftovers') AND g.tgparentid = 0
     GROUP BY g.tgrelid ORDER BY g.tgrelid LIMIT 1);
BEGIN
  IF commands IS NOT NULL THEN
    PERFORM run_ops.in_attempts(commands);
    RETURN false;
  ELSIF EXISTS (SELECT FROM run_ops.leftover) THEN
    PERFORM run_ops.audit('remove leftovers', (SELECT jsonb_object_agg(concat_ws(' ', l.view, l.store), l.removed) FROM run_ops.leftover AS l));
    PERFORM run_ops.forget_leftovers();
  END IF;
  RETURN true;
END $$;
COMMENT ON FUNCTION run_ops.end_leftovers() IS
  'to be called after all leftovers are removed: drops the triggers of one table, and returns true when all tables are done';
REVOKE EXECUTE ON FUNCTION run_ops.end_leftovers() FROM PUBLIC;

-- SECURITY DEFINER for the reason given in split_mode.sql.
CREATE FUNCTION run_ops.remove_leftovers(batch_size int DEFAULT 1000, deleted boolean DEFAULT false)
  RETURNS TABLE (view regclass, store text, removed bigint, done boolean)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
  PERFORM run_ops.refuse_in_copy();
  PERFORM run_ops.refuse_incomplete();
  SELECT * INTO view, store, removed, done FROM run_ops.remove_batch(batch_size, true, deleted);
  done := done AND run_ops.end_leftovers();
  RETURN NEXT;
END $$;
COMMENT ON FUNCTION run_ops.remove_leftovers(int, boolean) IS
  'removes the local rows that have moved to a store, if the store still has them, one batch for each call, while the application runs. Call it until done, after enable_split(). deleted => true also removes rows that the store does not have, because they were deleted there.';

CREATE FUNCTION run_ops.clear_leftovers(force boolean, repatriated boolean) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET session_replication_role = 'replica'
AS $$
DECLARE
  t run_ops.routed_table;
  n bigint := 0;
  removed bigint;
BEGIN
  IF NOT force THEN
    LOOP
      EXIT WHEN (SELECT b.done FROM run_ops.remove_batch(10000, NOT repatriated) AS b);
    END LOOP;
    RETURN;
  END IF;
  FOR t IN SELECT * FROM run_ops.routed_table AS r
            WHERE r.view IN (SELECT l.view FROM run_ops.leftover AS l) AND run_ops.is_relation(r.legacy, '{r,p}') LOOP
    SELECT q.n INTO removed FROM run_ops.as_owner(t.legacy, format('WITH gone AS (DELETE FROM %s AS x WHERE %s RETURNING 1) SELECT count(*) FROM gone',
      t.legacy, run_ops.leftover_condition(t, 'x'))) AS q (n bigint);
    n := n + removed;
  END LOOP;
  PERFORM run_ops.refuse_orphans() WHERE n > 0;
END $$;
COMMENT ON FUNCTION run_ops.clear_leftovers(boolean, boolean) IS
  'removes all leftovers before split is disabled, because the views would show them again; does not query a store if forced';
REVOKE EXECUTE ON FUNCTION run_ops.clear_leftovers(boolean, boolean) FROM PUBLIC;

-- new_rule: another key rule for tables that are attached, while split is off.
--
-- After the way back all rows are in this database.  A new boundary beyond their
-- ids leaves them here for good: the way forward copies nothing, and leaves
-- nothing over.  The stores then have only older copies, so they must be emptied
-- first.  That is left to the operator, because it deletes rows.

CREATE FUNCTION run_ops.stores_have_rows() RETURNS boolean
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT coalesce(bool_or((a ->> 'found')::boolean), false)
    FROM run_ops.routed_table AS t JOIN run_ops.routed_store AS s ON s.view = t.view,
         LATERAL run_ops.ask_store(s.store, format('SELECT EXISTS (SELECT FROM %I.%I) AS found', t.store_schema, t.store_table), '0') AS a
$$;
COMMENT ON FUNCTION run_ops.stores_have_rows() IS 'whether a routed table has a row in any store';
REVOKE EXECUTE ON FUNCTION run_ops.stores_have_rows() FROM PUBLIC;

CREATE FUNCTION run_ops.set_key_rule(root regclass, key_rule regprocedure) RETURNS SETOF regclass
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
#variable_conflict use_variable
DECLARE
  t     run_ops.routed_table := run_ops.routed(root);
  tree  run_ops.routed_table[];
  store text;
  found jsonb;
BEGIN
  IF t.key_rule IS NULL OR key_rule IS NULL THEN
    RAISE EXCEPTION 'cannot set the key rule of %', t.view
      USING ERRCODE = 'invalid_parameter_value',
            DETAIL = CASE WHEN key_rule IS NULL THEN 'The rule must not be NULL.' ELSE 'No key rule decides the store of its rows.' END;
  END IF;
  PERFORM run_ops.lock_registry();
  PERFORM run_ops.refuse_in_copy();
  PERFORM run_ops.refuse_incomplete();
  PERFORM run_ops.refuse_while_split('set a key rule');
  -- the rows of these tables stay together
  tree := ARRAY(SELECT run_ops.with_key_rule(r, key_rule)
                  FROM run_ops.table_tree(t.legacy) AS d JOIN run_ops.routed_table AS r ON r.legacy = d.legacy
                 WHERE r.key_rule = t.key_rule ORDER BY d.depth, r.view::text);
  FOR store, found IN
    SELECT s.name, a FROM run_ops.store AS s, LATERAL run_ops.ask_store(s.name, (
             SELECT format('SELECT %s AS rows, EXISTS (SELECT FROM pg_constraint AS c WHERE c.conname = ''run_ops_write_lock'' AND c.conrelid IN (%s)) AS locks',
                           string_agg(format('EXISTS (SELECT FROM %I.%I)', r.store_schema, r.store_table), ' OR '),
                           string_agg(format('%L::regclass', format('%I.%I', r.store_schema, r.store_table)), ', '))
               FROM unnest(tree) AS r), '0') AS a
     WHERE s.server IS NOT NULL ORDER BY s.name
  LOOP
    IF (found ->> 'rows')::boolean AND NOT (SELECT s.superseded FROM run_ops.split_state AS s) THEN
      RAISE EXCEPTION 'another key rule could hide rows of store "%"', store
        USING ERRCODE = 'object_in_use',
              HINT = 'Copy them here first: repeat until done SELECT * FROM run_ops.repatriate(); and then: SELECT run_ops.disable_split(repatriated => true);';
    ELSIF (found ->> 'rows')::boolean OR (found ->> 'locks')::boolean THEN
      RAISE EXCEPTION 'tables of store "%" are still as the old key rule needs them', store
        USING ERRCODE = 'object_in_use',
              DETAIL = CASE WHEN (found ->> 'rows')::boolean THEN 'They have older copies of rows. All rows are in this database.'
                            ELSE 'They have write locks.' END,
              HINT = format('Run in store "%s": TRUNCATE %s; %s', store, (SELECT string_agg(format('%I.%I', r.store_schema, r.store_table), ', ') FROM unnest(tree) AS r),
                            (SELECT string_agg(format('ALTER TABLE %I.%I DROP CONSTRAINT IF EXISTS run_ops_write_lock;', r.store_schema, r.store_table), ' ') FROM unnest(tree) AS r));
    END IF;
  END LOOP;
  UPDATE run_ops.routed_table AS r SET key_rule = n.key_rule FROM unnest(tree) AS n WHERE r.view = n.view;
  IF NOT run_ops.stores_have_rows() THEN
    -- no row has two versions any more, so nothing has to be compared
    PERFORM run_ops.stop_tracking();
    DELETE FROM run_ops.copy_progress;
    UPDATE run_ops.split_state SET superseded = false, moving = false;
  END IF;
  PERFORM run_ops.audit('set key rule', jsonb_build_object('root', t.view, 'key_rule', (tree[1]).key_rule));
  RETURN QUERY SELECT r.view FROM unnest(tree) AS r;
END $$;
COMMENT ON FUNCTION run_ops.set_key_rule(regclass, regprocedure) IS
  'sets another key rule for an attached table and for those that refer to it and have the same rule, while split is off and the stores have no rows of them; returns their views. With a boundary beyond all ids, split can be enabled again without moving rows.';
REVOKE EXECUTE ON FUNCTION run_ops.set_key_rule(regclass, regprocedure) FROM PUBLIC;

-- known_tables: the tables of the run graph, by their names.
--
-- Nothing else in the extension names them.  Other tables are attached with
-- arguments that say what these rows say.

INSERT INTO run_ops.known_routing VALUES
    ('TaskRun',                  'shape',  'id',             'TaskRun',                  '{}', '{}', 'friendlyId'),
    ('BatchTaskRun',             'shape',  'id',             'BatchTaskRun',             '{}', '{}', 'friendlyId'),
    ('BatchTaskRunItem',         'anchor', 'batchTaskRunId', 'BatchTaskRunItem',         '{}', '{}', NULL),
    ('BatchTaskRunError',        'anchor', 'batchTaskRunId', 'BatchTaskRunError',        '{}', '{}', NULL),
    ('TaskRunAttempt',           'anchor', 'taskRunId',      'TaskRunAttempt',           '{}', '{}', NULL),
    ('TaskRunExecutionSnapshot', 'anchor', 'runId',          'TaskRunExecutionSnapshot', '{}', '{}', NULL),
    ('TaskRunDependency',        'anchor', 'taskRunId',      'TaskRunDependency',        '{}', '{}', NULL),
    ('TaskRunWaitpoint',         'anchor', 'taskRunId',      'TaskRunWaitpoint',         '{}', '{}', NULL),
    ('Checkpoint',               'anchor', 'runId',          'Checkpoint',               '{}', '{}', NULL),
    ('CheckpointRestoreEvent',   'anchor', 'runId',          'CheckpointRestoreEvent',   '{}', '{}', NULL),
    ('TaskRunCheckpoint',        'store',  NULL,             'TaskRunCheckpoint',        '{}', '{}', NULL),
    ('TaskRunTag',               'store',  NULL,             'TaskRunTag',               '{}', '{}', NULL),
    ('Waitpoint',                'store',  NULL,             'Waitpoint',                '{}', '{}', NULL),
    ('WaitpointTag',             'store',  NULL,             'WaitpointTag',             '{}', '{}', NULL),
    ('_WaitpointRunConnections', 'anchor', 'A',              'WaitpointRunConnection',
      '{"A": "taskRunId", "B": "waitpointId"}', '{"id": "run_ops.generate_cuid()"}', NULL),
    ('_completedWaitpoints',     'store',  NULL,             'CompletedWaitpoint',
      '{"A": "snapshotId", "B": "waitpointId"}', '{"id": "run_ops.generate_cuid()"}', NULL);

-- usual names of the column with the id of a run or batch
INSERT INTO run_ops.known_anchor VALUES
    ('runId', 1), ('taskRunId', 2), ('batchTaskRunId', 3), ('run_id', 4), ('task_run_id', 5), ('batch_task_run_id', 6);

INSERT INTO run_ops.known_reference VALUES
    ('TaskRun',                  'batchId',         'BatchTaskRun'),
    ('TaskRun',                  'parentTaskRunId', 'TaskRun'),
    ('TaskRun',                  'rootTaskRunId',   'TaskRun'),
    ('TaskRunExecutionSnapshot', 'batchId',         'BatchTaskRun'),
    ('TaskRunWaitpoint',         'waitpointId',     'Waitpoint'),
    ('_WaitpointRunConnections', 'B',               'Waitpoint'),
    ('_completedWaitpoints',     'B',               'Waitpoint');

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

-- cache: statistics of the cache of this session.

CREATE FUNCTION run_ops.cache_stats(
    OUT slot text, OUT entries bigint, OUT hits bigint, OUT revalidations bigint,
    OUT misses bigint, OUT evictions bigint, OUT cache_bytes bigint)
  RETURNS SETOF record LANGUAGE c VOLATILE
  AS 'MODULE_PATHNAME', 'run_ops_cache_stats';
COMMENT ON FUNCTION run_ops.cache_stats() IS
  'statistics of the cache of this session, one row for each slot in use. hits: answered without reading a row; revalidations: answered after reading the rows on which the answer depends; misses: answered by the query; evictions: entries removed to make room. cache_bytes is the size of the entries of all slots.';

CREATE FUNCTION run_ops.cache_reset() RETURNS void LANGUAGE c VOLATILE
  AS 'MODULE_PATHNAME', 'run_ops_cache_reset';
COMMENT ON FUNCTION run_ops.cache_reset() IS
  'empties the cache of this session and sets its counters to 0; never needed for correct answers';

-- cache_epoch: tells caches outside the database what has changed.
-- Epochs are valid for this database only, so pg_dump dumps neither the table
-- nor the sequence.

CREATE SEQUENCE run_ops.cache_epoch_value;
COMMENT ON SEQUENCE run_ops.cache_epoch_value IS
  'the values of epochs: a sequence never returns a number twice, not even after a rollback';

CREATE TABLE run_ops.cache_epoch (
  scope text,
  key   text,
  epoch bigint NOT NULL,
  CONSTRAINT cache_epoch_pkey PRIMARY KEY (scope, key)
) WITH (fillfactor = 70);
COMMENT ON TABLE run_ops.cache_epoch IS
  'a number for each row of the control plane, which changes with the row. A value that is cached together with the epochs of its rows is valid while these epochs are the same.';
COMMENT ON COLUMN run_ops.cache_epoch.scope IS 'the kind of row';
COMMENT ON COLUMN run_ops.cache_epoch.key IS 'the key of the row, or * for all rows of the scope';
COMMENT ON COLUMN run_ops.cache_epoch.epoch IS 'the number; each change replaces it by a new one';
GRANT SELECT ON run_ops.cache_epoch TO PUBLIC;

-- Writes epochs from C, without checking privileges: a role that may write to a
-- control-plane table need not have privileges on run_ops.cache_epoch.
CREATE FUNCTION run_ops.bump_changed() RETURNS trigger LANGUAGE c
  AS 'MODULE_PATHNAME', 'run_ops_bump_changed';
COMMENT ON FUNCTION run_ops.bump_changed() IS
  'trigger with the arguments scope, key column, and resolved columns separated by blanks: gives a new epoch to the rows whose resolved columns a statement has changed';

REVOKE EXECUTE ON FUNCTION run_ops.bump_changed() FROM PUBLIC;

CREATE FUNCTION run_ops.bump_epoch(scope text, key text) RETURNS void
  LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'run_ops_bump_epoch';
COMMENT ON FUNCTION run_ops.bump_epoch(text, text) IS
  'gives one key a new epoch, and notifies channel run_ops_cache at commit';
REVOKE EXECUTE ON FUNCTION run_ops.bump_epoch(text, text) FROM PUBLIC;

-- SECURITY DEFINER: a role can be granted this function alone, without
-- bump_epoch(), which changes epochs of every scope
CREATE FUNCTION run_ops.invalidate_environment(id text) RETURNS void
  LANGUAGE sql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  AS $$ SELECT run_ops.bump_epoch('environment', id) $$;
COMMENT ON FUNCTION run_ops.invalidate_environment(text) IS
  'invalidates an environment in caches outside the database; the cache of the extension does not need this';
REVOKE EXECUTE ON FUNCTION run_ops.invalidate_environment(text) FROM PUBLIC;

-- SECURITY DEFINER for the same reason
CREATE FUNCTION run_ops.invalidate_organization(id text) RETURNS void
  LANGUAGE sql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  AS $$ SELECT run_ops.bump_epoch('organization', id) $$;
COMMENT ON FUNCTION run_ops.invalidate_organization(text) IS
  'invalidates an organization and everything in it in caches outside the database; the cache of the extension does not need this';
REVOKE EXECUTE ON FUNCTION run_ops.invalidate_organization(text) FROM PUBLIC;

-- control_plane: answers about environments and workers.

CREATE TABLE run_ops.control_plane (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  -- tables instead of their schema, because pg_upgrade does not support columns
  -- of type regnamespace, and a name would not follow a rename
  tables    regclass[] NOT NULL
);
COMMENT ON TABLE run_ops.control_plane IS
  'the attached control-plane tables; empty while no control plane is attached';
COMMENT ON COLUMN run_ops.control_plane.singleton IS 'always true: the table has at most one row';
COMMENT ON COLUMN run_ops.control_plane.tables IS
  'the tables when they were attached; those that still exist determine the schema';
SELECT pg_catalog.pg_extension_config_dump('run_ops.control_plane', '');
GRANT SELECT ON run_ops.control_plane TO PUBLIC;

-- The columns that answers depend on -------------------------------------------

CREATE VIEW run_ops.control_plane_column AS
SELECT t.table_name, t.scope, t.key_column, c.n::integer AS position,
       split_part(c.text, ' ', 1) AS column_name, split_part(c.text, ' ', 2) AS type
  FROM (VALUES
    ('Organization', 'organization', 'id',
     'id text, slug text, title text, streamBasinName text, maximumConcurrencyLimit integer, '
     'runsEnabled boolean, maximumDevQueueSize integer, maximumDeployedQueueSize integer, featureFlags jsonb, '
     'apiRateLimiterConfig jsonb, batchRateLimitConfig jsonb, batchQueueConcurrencyConfig jsonb'),
    ('Project', 'project', 'id',
     'id text, slug text, name text, externalRef text, engine enum, deletedAt timestamp, '
     'defaultWorkerGroupId text, organizationId text, builderProjectId text, defaultRuntime text'),
    ('RuntimeEnvironment', 'environment', 'id',
     'id text, slug text, type enum, apiKey text, organizationId text, projectId text, orgMemberId text, '
     'parentEnvironmentId text, branchName text, archivedAt timestamp, paused boolean, shortcode text, '
     'maximumConcurrencyLimit integer, concurrencyLimitBurstFactor numeric, '
     'builtInEnvironmentVariableOverrides jsonb, git jsonb, createdAt timestamp, updatedAt timestamp'),
    ('OrgMember', 'org_member', 'id', 'id text, userId text'),
    ('User', 'user', 'id', 'id text, displayName text, name text'),
    ('BackgroundWorker', 'environment_workers', 'runtimeEnvironmentId',
     'id text, projectId text, runtimeEnvironmentId text, version text, metadata jsonb, createdAt timestamp, '
     'updatedAt timestamp, contentHash text, friendlyId text, cliVersion text, sdkVersion text, '
     'supportsLazyAttempts boolean, workerGroupId text, engine enum, runtime text, runtimeVersion text'),
    ('BackgroundWorkerTask', 'environment_workers', 'runtimeEnvironmentId',
     'id text, runtimeEnvironmentId text, workerId text, slug text, filePath text, exportName text, '
     'machineConfig jsonb, retryConfig jsonb, maxDurationInSeconds integer'),
    ('TaskQueue', 'environment_workers', 'runtimeEnvironmentId',
     'id text, runtimeEnvironmentId text, name text'),
    ('_BackgroundWorkerToTaskQueue', 'worker_queues', 'A', 'A text, B text'),
    ('WorkerDeployment', 'environment_workers', 'environmentId',
     'id text, environmentId text, workerId text, friendlyId text, shortCode text, version text, type enum, '
     'runtime text, runtimeVersion text, git jsonb, imageReference text, imagePlatform text, createdAt timestamp'),
    ('WorkerDeploymentPromotion', 'environment_workers', 'environmentId',
     'environmentId text, label text, deploymentId text'),
    ('FeatureFlag', 'feature_flag', 'key', 'key text, value jsonb')
  ) AS t (table_name, scope, key_column, columns),
  LATERAL regexp_split_to_table(t.columns, ', ') WITH ORDINALITY AS c (text, n);
COMMENT ON VIEW run_ops.control_plane_column IS
  'the columns of the control plane on which answers depend, their types, and the scope and key of the epoch that changes with them';
GRANT SELECT ON run_ops.control_plane_column TO PUBLIC;

CREATE FUNCTION run_ops.control_plane_faults(schema name) RETURNS SETOF text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  WITH found AS (
    SELECT t.table_name, c.oid, c.relowner, c.relkind
      FROM (SELECT DISTINCT table_name FROM run_ops.control_plane_column) AS t
      LEFT JOIN (pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname = schema)
        ON c.relname = t.table_name),
  fault AS (
    SELECT table_name, 0 AS position, format('table %I.%I: missing', schema, table_name) AS line
      FROM found WHERE oid IS NULL
    UNION ALL
    -- a key is not unique in a partitioned table or a table with children
    SELECT table_name, 0, format('table %I.%I: not an ordinary table', schema, table_name)
      FROM found WHERE relkind <> 'r'
    UNION ALL
    SELECT table_name, 0, format('table %I.%I: owned by %I, but "RuntimeEnvironment" by %I', schema, table_name,
                                 pg_get_userbyid(relowner), pg_get_userbyid(owner))
      FROM found, (SELECT relowner AS owner FROM found WHERE table_name = 'RuntimeEnvironment') AS e
     WHERE relowner <> owner
    UNION ALL
    SELECT f.table_name, c.position, format('column %I.%I.%I: %s', schema, f.table_name, c.column_name,
             CASE WHEN a.attname IS NULL THEN 'missing'
                  ELSE format('type %s instead of %s', format_type(a.atttypid, a.atttypmod), c.type) END)
      FROM found AS f JOIN run_ops.control_plane_column AS c USING (table_name)
      LEFT JOIN (pg_attribute AS a JOIN pg_type AS y ON y.oid = a.atttypid)
        ON a.attrelid = f.oid AND a.attname = c.column_name AND a.attnum > 0 AND NOT a.attisdropped
     WHERE f.relkind = 'r'
       AND NOT coalesce(CASE c.type WHEN 'enum' THEN y.typtype = 'e' ELSE y.oid = to_regtype(c.type) END, false)
    UNION ALL
    SELECT f.table_name, 100, format('column %I.%I.%I: no unique index', schema, f.table_name, u.column_name)
      FROM found AS f
      JOIN (SELECT table_name, column_name FROM run_ops.control_plane_column WHERE column_name = 'id'
            UNION ALL VALUES ('WorkerDeployment', 'workerId'), ('FeatureFlag', 'key')) AS u USING (table_name)
      JOIN pg_attribute AS a ON a.attrelid = f.oid AND a.attname = u.column_name
     WHERE NOT EXISTS (
       SELECT FROM pg_index AS i
        WHERE i.indrelid = f.oid AND i.indisunique AND i.indimmediate AND i.indisvalid
          AND i.indpred IS NULL AND i.indkey::text = a.attnum::text))
  SELECT line FROM fault ORDER BY table_name COLLATE "C", position
$$;
COMMENT ON FUNCTION run_ops.control_plane_faults(name) IS
  'what is missing or wrong in a schema for the control plane, one line for each';

CREATE FUNCTION run_ops.refuse_control_plane_faults(schema name) RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  faults text[] := ARRAY(SELECT run_ops.control_plane_faults(schema));
BEGIN
  IF cardinality(faults) > 0 THEN
    RAISE EXCEPTION 'schema "%" is not a control plane', schema
      USING ERRCODE = 'RO002', DETAIL = array_to_string(faults, E'\n'),
            HINT = 'Correct the tables. Additional columns do no harm.';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_control_plane_faults(name) IS
  'raises one error with everything that is missing or wrong in a schema for the control plane, if there is anything';

CREATE FUNCTION run_ops.control_plane_tables(OUT schema name, OUT owner oid, OUT relation oid)
  RETURNS SETOF record
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  SELECT n.nspname INTO schema
    FROM run_ops.control_plane AS p LEFT JOIN pg_class AS c ON c.oid = ANY (p.tables)
    LEFT JOIN pg_namespace AS n ON n.oid = c.relnamespace
   LIMIT 1;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'no control plane is attached'
      USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Name the schema of its tables: SELECT run_ops.attach_control_plane(''public'');';
  END IF;
  PERFORM run_ops.refuse_control_plane_faults(coalesce(schema, '(dropped)'));
  RETURN QUERY
    SELECT n.nspname, c.relowner, c.oid
      FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
     WHERE n.nspname = schema
       AND c.relname IN (SELECT k.table_name FROM run_ops.control_plane_column AS k);
END $$;
COMMENT ON FUNCTION run_ops.control_plane_tables() IS
  'the attached control-plane tables; raises an error if something is missing or wrong';

-- Attaching -------------------------------------------------------------------

CREATE FUNCTION run_ops.attach_control_plane(schema name DEFAULT 'public') RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  t record;
  e record;
BEGIN
  LOCK TABLE run_ops.control_plane IN SHARE ROW EXCLUSIVE MODE;
  IF EXISTS (SELECT FROM run_ops.control_plane) THEN
    RAISE EXCEPTION 'the control plane is already attached, in schema "%"',
        (SELECT c.relnamespace::regnamespace FROM run_ops.control_plane AS p LEFT JOIN pg_class AS c ON c.oid = ANY (p.tables) LIMIT 1)
      USING ERRCODE = 'duplicate_object', HINT = 'To detach it: SELECT run_ops.detach_control_plane();';
  END IF;
  PERFORM run_ops.refuse_control_plane_faults(schema);
  PERFORM run_ops.refuse_taken_names(format('%I.%I', schema, c.table_name)::regclass,
      '{run_ops_epoch_insert,run_ops_epoch_update,run_ops_epoch_delete,run_ops_epoch_truncate,run_ops_mint_flip,run_ops_mint_stamp,run_ops_cleanup}')
    FROM run_ops.control_plane_column AS c;
  INSERT INTO run_ops.control_plane (tables)
  SELECT array_agg(DISTINCT format('%I.%I', schema, c.table_name)::regclass) FROM run_ops.control_plane_column AS c;
  -- the queries of the resolver functions run as the owner of the tables, and use
  -- types of schema run_ops
  EXECUTE format('GRANT USAGE ON SCHEMA run_ops TO %I', (
    SELECT pg_get_userbyid(c.relowner) FROM pg_class AS c
     WHERE c.oid = format('%I."RuntimeEnvironment"', schema)::regclass));
  FOR t IN
    SELECT c.table_name, format('%L, %L, %L', c.scope, c.key_column,
             string_agg(c.column_name, ' ' ORDER BY c.position)) AS arguments
      FROM run_ops.control_plane_column AS c GROUP BY c.table_name, c.scope, c.key_column
     ORDER BY c.table_name COLLATE "C"
  LOOP
    FOR e IN
      SELECT * FROM (VALUES
        ('insert', 'REFERENCING NEW TABLE AS rows_after'),
        ('update', 'REFERENCING OLD TABLE AS rows_before NEW TABLE AS rows_after'),
        ('delete', 'REFERENCING OLD TABLE AS rows_before'),
        ('truncate', '')) AS v (event, transition)
    LOOP
      EXECUTE format('CREATE TRIGGER %I AFTER %s ON %I.%I %s FOR EACH STATEMENT EXECUTE FUNCTION run_ops.bump_changed(%s)',
                     'run_ops_epoch_' || e.event, e.event, schema, t.table_name, e.transition, t.arguments);
      -- also when replication writes the table, because caches outside the
      -- database depend on the epochs
      EXECUTE format('ALTER TABLE %I.%I ENABLE ALWAYS TRIGGER %I',
                     schema, t.table_name, 'run_ops_epoch_' || e.event);
    END LOOP;
  END LOOP;
  -- values in caches outside the database may have changed while there were no triggers
  PERFORM run_ops.bump_epoch(c.scope, '*') FROM run_ops.control_plane_column AS c GROUP BY c.scope;
  PERFORM run_ops.install_mint_flip_triggers(schema), run_ops.attach_cleanup(schema);
  -- an answer that depends on a row that does not exist could not be cached
  INSERT INTO run_ops.mint_shards DEFAULT VALUES ON CONFLICT DO NOTHING;
END $$;
COMMENT ON FUNCTION run_ops.attach_control_plane(name) IS
  'makes the tables of a schema the control plane, and checks their columns first; creates the triggers that change epochs, record flips of the mint kind, and queue deletions';
REVOKE EXECUTE ON FUNCTION run_ops.attach_control_plane(name) FROM PUBLIC;

CREATE FUNCTION run_ops.detach_control_plane() RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  t record;
BEGIN
  LOCK TABLE run_ops.control_plane IN SHARE ROW EXCLUSIVE MODE;
  DELETE FROM run_ops.control_plane;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'no control plane is attached'
      USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  FOR t IN SELECT tgname, tgrelid::regclass AS relation FROM pg_trigger
            WHERE tgfoid IN ('run_ops.bump_changed()'::regprocedure, 'run_ops.enqueue_deleted()'::regprocedure)
  LOOP
    EXECUTE format('DROP TRIGGER %I ON %s', t.tgname, t.relation);
  END LOOP;
  PERFORM run_ops.remove_mint_flip_triggers();
  DELETE FROM run_ops.cache_epoch;
END $$;
COMMENT ON FUNCTION run_ops.detach_control_plane() IS
  'removes the triggers and epochs of the control plane, and its registration, but does not change its tables';
REVOKE EXECUTE ON FUNCTION run_ops.detach_control_plane() FROM PUBLIC;

-- The types of the answers -------------------------------------------------------
-- Not the row types of the tables, so that a migration does not change them.

CREATE TYPE run_ops.resolved_env AS (
  id text, type text, project_id text, organization_id text, archived_at timestamp,
  parent_environment_type text, maximum_concurrency_limit integer,
  concurrency_limit_burst_factor numeric);
COMMENT ON TYPE run_ops.resolved_env IS
  'an environment, with the columns that runs need; organization_id is that of its project';

CREATE TYPE run_ops.env_project AS (
  id text, slug text, name text, external_ref text, engine text, deleted_at timestamp,
  default_worker_group_id text, organization_id text, builder_project_id text, default_runtime text);
COMMENT ON TYPE run_ops.env_project IS 'the project of an environment; default_runtime is NULL if it is not a known runtime';
CREATE TYPE run_ops.env_organization AS (
  id text, slug text, title text, stream_basin_name text, maximum_concurrency_limit integer,
  runs_enabled boolean, maximum_dev_queue_size integer, maximum_deployed_queue_size integer,
  feature_flags jsonb, api_rate_limiter_config jsonb, batch_rate_limit_config jsonb,
  batch_queue_concurrency_config jsonb);
COMMENT ON TYPE run_ops.env_organization IS 'the organization of an environment';
CREATE TYPE run_ops.env_user AS (id text, display_name text, name text);
COMMENT ON TYPE run_ops.env_user IS 'the user of a member of an organization';
CREATE TYPE run_ops.env_org_member AS (user_id text, "user" run_ops.env_user);
COMMENT ON TYPE run_ops.env_org_member IS 'the member to whom a development environment belongs';
CREATE TYPE run_ops.env_parent AS (id text, api_key text);
COMMENT ON TYPE run_ops.env_parent IS 'the parent of a branch environment';
CREATE TYPE run_ops.authenticated_env AS (
  id text, slug text, type text, api_key text, organization_id text, project_id text,
  org_member_id text, parent_environment_id text, branch_name text, archived_at timestamp,
  paused boolean, shortcode text, maximum_concurrency_limit integer,
  concurrency_limit_burst_factor double precision, built_in_environment_variable_overrides jsonb,
  created_at timestamp, updated_at timestamp, git jsonb,
  project run_ops.env_project, organization run_ops.env_organization,
  org_member run_ops.env_org_member, parent_environment run_ops.env_parent);
COMMENT ON TYPE run_ops.authenticated_env IS
  'an environment with its API key, project, organization, member and parent';

CREATE TYPE run_ops.locked_deployment AS (
  friendly_id text, short_code text, version text, runtime text, runtime_version text, git jsonb);
COMMENT ON TYPE run_ops.locked_deployment IS 'the deployment of a worker';
CREATE TYPE run_ops.locked_task_worker AS (
  id text, version text, sdk_version text, cli_version text, supports_lazy_attempts boolean,
  deployment run_ops.locked_deployment);
COMMENT ON TYPE run_ops.locked_task_worker IS 'the worker of a task, with its deployment if it has one';
CREATE TYPE run_ops.locked_task AS (
  id text, file_path text, export_name text, slug text, machine_config jsonb, worker run_ops.locked_task_worker);
COMMENT ON TYPE run_ops.locked_task IS 'the task of a worker that a run is locked by';
CREATE TYPE run_ops.locked_version AS (
  version text, sdk_version text, runtime text, runtime_version text, supports_lazy_attempts boolean);
COMMENT ON TYPE run_ops.locked_version IS 'the worker that a run is locked to';
CREATE TYPE run_ops.run_locked_worker AS (locked_by run_ops.locked_task, locked_to_version run_ops.locked_version);
COMMENT ON TYPE run_ops.run_locked_worker IS 'the task that a run is locked by and the worker that it is locked to; each may be NULL';

CREATE TYPE run_ops.worker AS (
  id text, project_id text, runtime_environment_id text, version text, metadata jsonb,
  created_at timestamp, updated_at timestamp, content_hash text, friendly_id text, cli_version text,
  sdk_version text, supports_lazy_attempts boolean, worker_group_id text, engine text, runtime text,
  runtime_version text);
COMMENT ON TYPE run_ops.worker IS 'a worker';
CREATE TYPE run_ops.worker_task AS (
  id text, slug text, machine_config jsonb, retry_config jsonb, max_duration_in_seconds integer);
COMMENT ON TYPE run_ops.worker_task IS 'a task of a worker';
CREATE TYPE run_ops.worker_queue AS (id text, name text);
COMMENT ON TYPE run_ops.worker_queue IS 'a queue of a worker';
CREATE TYPE run_ops.worker_deployment AS (id text, friendly_id text, image_reference text, image_platform text);
COMMENT ON TYPE run_ops.worker_deployment IS 'the deployment of a worker';
CREATE TYPE run_ops.worker_version AS (
  worker run_ops.worker, tasks run_ops.worker_task[], queues run_ops.worker_queue[],
  deployment run_ops.worker_deployment);
COMMENT ON TYPE run_ops.worker_version IS
  'the worker on which runs of an environment start, its tasks ordered by slug, its queues ordered by name, and its deployment if it has one';

-- The queries ----------------------------------------------------------------------
-- Each query takes arrays of keys.  It returns the position of the key, the
-- answer, whether the answer can be cached, and tableoid, ctid and xmin of the
-- rows on which the answer depends.  The answer cannot be cached if it depends on
-- other rows, or on a row that does not exist.  A query reads each row through a
-- unique key and with ONLY, so that a snapshot sees exactly one version of it.

CREATE FUNCTION run_ops.control_plane_query(question text, schema text) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $q$
SELECT format(CASE question

WHEN 'env' THEN $$
  SELECT k.n,
         ROW(e.id, e.type::text, e."projectId", p."organizationId", e."archivedAt", parent.type::text,
             e."maximumConcurrencyLimit", e."concurrencyLimitBurstFactor")::run_ops.resolved_env,
         e."parentEnvironmentId" IS NULL OR parent.id IS NOT NULL,
         e.tableoid, e.ctid, e.xmin, p.tableoid, p.ctid, p.xmin, parent.tableoid, parent.ctid, parent.xmin
    FROM unnest($1) WITH ORDINALITY AS k (id, n)
    JOIN ONLY %1$I."RuntimeEnvironment" AS e ON e.id = k.id
    JOIN ONLY %1$I."Project" AS p ON p.id = e."projectId"
    LEFT JOIN ONLY %1$I."RuntimeEnvironment" AS parent ON parent.id = e."parentEnvironmentId" $$

-- authenticated_env is NULL if the project is deleted, event_env is not
WHEN 'authenticated_env' THEN
  replace(run_ops.control_plane_query('event_env', schema), 'CASE WHEN true', 'CASE WHEN p."deletedAt" IS NULL')

WHEN 'event_env' THEN $$
  SELECT k.n,
         CASE WHEN true THEN
         ROW(e.id, e.slug, e.type::text, e."apiKey", e."organizationId", e."projectId", e."orgMemberId",
             e."parentEnvironmentId", e."branchName", e."archivedAt", e.paused, e.shortcode,
             e."maximumConcurrencyLimit", e."concurrencyLimitBurstFactor"::double precision,
             e."builtInEnvironmentVariableOverrides", e."createdAt", e."updatedAt", e.git,
             ROW(p.id, p.slug, p.name, p."externalRef", p.engine::text, p."deletedAt", p."defaultWorkerGroupId",
                 p."organizationId", p."builderProjectId",
                 CASE WHEN p."defaultRuntime" IN ('node', 'node-22', 'bun') THEN p."defaultRuntime" END
                )::run_ops.env_project,
             ROW(o.id, o.slug, o.title, o."streamBasinName", o."maximumConcurrencyLimit", o."runsEnabled",
                 o."maximumDevQueueSize", o."maximumDeployedQueueSize", o."featureFlags", o."apiRateLimiterConfig",
                 o."batchRateLimitConfig", o."batchQueueConcurrencyConfig")::run_ops.env_organization,
             CASE WHEN m.id IS NOT NULL THEN
               ROW(m."userId", ROW(u.id, u."displayName", u.name)::run_ops.env_user)::run_ops.env_org_member END,
             CASE WHEN parent.id IS NOT NULL THEN ROW(parent.id, parent."apiKey")::run_ops.env_parent END
            )::run_ops.authenticated_env END,
         (e."orgMemberId" IS NULL OR u.id IS NOT NULL) AND (e."parentEnvironmentId" IS NULL OR parent.id IS NOT NULL),
         e.tableoid, e.ctid, e.xmin, p.tableoid, p.ctid, p.xmin, o.tableoid, o.ctid, o.xmin,
         m.tableoid, m.ctid, m.xmin, u.tableoid, u.ctid, u.xmin, parent.tableoid, parent.ctid, parent.xmin
    FROM unnest($1) WITH ORDINALITY AS k (id, n)
    JOIN ONLY %1$I."RuntimeEnvironment" AS e ON e.id = k.id
    JOIN ONLY %1$I."Project" AS p ON p.id = e."projectId"
    JOIN ONLY %1$I."Organization" AS o ON o.id = e."organizationId"
    LEFT JOIN ONLY %1$I."OrgMember" AS m ON m.id = e."orgMemberId"
    LEFT JOIN ONLY %1$I."User" AS u ON u.id = m."userId"
    LEFT JOIN ONLY %1$I."RuntimeEnvironment" AS parent ON parent.id = e."parentEnvironmentId" $$

WHEN 'env_exists' THEN $$
  SELECT k.n, true, true, e.tableoid, e.ctid, e.xmin
    FROM unnest($1) WITH ORDINALITY AS k (id, n)
    JOIN ONLY %1$I."RuntimeEnvironment" AS e ON e.id = k.id $$

-- For mint_kind.c: the flags for minting of the environment's organization, and
-- what they and the active shards mean for the environment
WHEN 'mint_flags' THEN $$
  SELECT k.n,
         jsonb_build_object('organization', e."organizationId", 'flags', run_ops.mint_flags(o."featureFlags"),
                            'shards', CASE WHEN s.active <> '{}' THEN run_ops.mint_shard_answer(e.id, o."featureFlags", s) END),
         o.id IS NOT NULL AND s.singleton IS NOT NULL,
         e.tableoid, e.ctid, e.xmin, o.tableoid, o.ctid, o.xmin, s.tableoid, s.ctid, s.xmin
    FROM unnest($1) WITH ORDINALITY AS k (id, n)
    JOIN ONLY %1$I."RuntimeEnvironment" AS e ON e.id = k.id
    LEFT JOIN ONLY %1$I."Organization" AS o ON o.id = e."organizationId"
    LEFT JOIN ONLY run_ops.mint_shards AS s ON s.singleton $$

-- Not cached if the worker has no deployment, because it may get one
WHEN 'locked_task' THEN $$
  SELECT k.n,
         ROW(t.id, t."filePath", t."exportName", t.slug, t."machineConfig",
             ROW(w.id, w.version, w."sdkVersion", w."cliVersion", w."supportsLazyAttempts",
                 CASE WHEN d.id IS NOT NULL THEN
                   ROW(d."friendlyId", d."shortCode", d.version, d.runtime, d."runtimeVersion", d.git
                      )::run_ops.locked_deployment END
                )::run_ops.locked_task_worker
            )::run_ops.locked_task,
         d.id IS NOT NULL,
         t.tableoid, t.ctid, t.xmin, w.tableoid, w.ctid, w.xmin, d.tableoid, d.ctid, d.xmin
    FROM unnest($1) WITH ORDINALITY AS k (id, n)
    JOIN ONLY %1$I."BackgroundWorkerTask" AS t ON t.id = k.id
    JOIN ONLY %1$I."BackgroundWorker" AS w ON w.id = t."workerId"
    LEFT JOIN ONLY %1$I."WorkerDeployment" AS d ON d."workerId" = w.id $$

WHEN 'locked_version' THEN $$
  SELECT k.n,
         ROW(w.version, w."sdkVersion", w.runtime, w."runtimeVersion", w."supportsLazyAttempts"
            )::run_ops.locked_version,
         true, w.tableoid, w.ctid, w.xmin
    FROM unnest($1) WITH ORDINALITY AS k (id, n)
    JOIN ONLY %1$I."BackgroundWorker" AS w ON w.id = k.id $$

-- Not cached, because it depends on sets of rows (the newest worker, the newest
-- deployment)
WHEN 'worker_version' THEN $$
  SELECT k.n,
         ROW(ROW(w.id, w."projectId", w."runtimeEnvironmentId", w.version, w.metadata, w."createdAt",
                 w."updatedAt", w."contentHash", w."friendlyId", w."cliVersion", w."sdkVersion",
                 w."supportsLazyAttempts", w."workerGroupId", w.engine::text, w.runtime, w."runtimeVersion"
                )::run_ops.worker,
             ARRAY(SELECT ROW(t.id, t.slug, t."machineConfig", t."retryConfig", t."maxDurationInSeconds"
                             )::run_ops.worker_task
                     FROM ONLY %1$I."BackgroundWorkerTask" AS t
                    WHERE t."workerId" = w.id AND (k.task_slug IS NULL OR t.slug = k.task_slug)
                    ORDER BY t.slug COLLATE "C"),
             ARRAY(SELECT ROW(q.id, q.name)::run_ops.worker_queue
                     FROM ONLY %1$I."_BackgroundWorkerToTaskQueue" AS l
                     JOIN ONLY %1$I."TaskQueue" AS q ON q.id = l."B"
                    WHERE l."A" = w.id
                      AND CASE WHEN k.queue_id IS NOT NULL THEN q.id = k.queue_id
                               ELSE k.queue_name IS NULL OR q.name = k.queue_name END
                    ORDER BY q.name COLLATE "C"),
             CASE WHEN d.id IS NOT NULL THEN
               ROW(d.id, d."friendlyId", d."imageReference", d."imagePlatform")::run_ops.worker_deployment END
            )::run_ops.worker_version,
         false
    FROM unnest($1, $2, $3, $4, $5, $6) WITH ORDINALITY
           AS k (environment_id, worker_id, type, task_slug, queue_id, queue_name, n)
    LEFT JOIN LATERAL (
      SELECT c."workerId", c.type::text
        FROM ONLY %1$I."WorkerDeploymentPromotion" AS promotion
        JOIN ONLY %1$I."WorkerDeployment" AS c ON c.id = promotion."deploymentId"
       WHERE promotion."environmentId" = k.environment_id AND promotion.label = 'current'
         AND k.worker_id IS NULL) AS current ON true
    JOIN ONLY %1$I."BackgroundWorker" AS w
      ON w."runtimeEnvironmentId" = k.environment_id
     AND w.id = CASE
           WHEN k.worker_id IS NOT NULL THEN k.worker_id
           WHEN k.type = 'DEVELOPMENT' THEN
             (SELECT newest.id FROM ONLY %1$I."BackgroundWorker" AS newest
               WHERE newest."runtimeEnvironmentId" = k.environment_id
               ORDER BY newest."createdAt" DESC, newest.id COLLATE "C" DESC LIMIT 1)
           WHEN k.type IN ('STAGING', 'PREVIEW', 'PRODUCTION')
                AND current."workerId" IS NOT NULL AND current.type <> 'MANAGED' THEN
             (SELECT newest."workerId" FROM ONLY %1$I."WorkerDeployment" AS newest
               WHERE newest."environmentId" = k.environment_id AND newest.type::text = 'MANAGED'
               ORDER BY newest."createdAt" DESC, newest.id COLLATE "C" DESC LIMIT 1)
           ELSE current."workerId" END
    LEFT JOIN ONLY %1$I."WorkerDeployment" AS d
      ON d."workerId" = w.id AND NOT (k.worker_id IS NULL AND k.type IS NOT DISTINCT FROM 'DEVELOPMENT') $$
END, schema)
$q$;
COMMENT ON FUNCTION run_ops.control_plane_query(text, text) IS
  'the query for a kind of answer about the control plane';

-- The resolver functions --------------------------------------------------------------
-- They are STABLE, because an answer is that of the snapshot of the calling query.
-- PUBLIC has no privileges on them, because they read the tables as their owner,
-- and answers contain API keys.

CREATE FUNCTION run_ops.resolve_env(environment_id text) RETURNS run_ops.resolved_env
  LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10 AS 'MODULE_PATHNAME', 'run_ops_resolve_env';
COMMENT ON FUNCTION run_ops.resolve_env(text) IS
  'an environment, even if it is archived or its project is deleted; NULL if it does not exist';
CREATE FUNCTION run_ops.resolve_envs(environment_ids text[])
  RETURNS TABLE (environment_id text, env run_ops.resolved_env)
  LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'run_ops_resolve_env_set';
COMMENT ON FUNCTION run_ops.resolve_envs(text[]) IS
  'resolve_env() for each element of the array, in order; runs one query for all that are not cached';

CREATE FUNCTION run_ops.resolve_authenticated_env(environment_id text) RETURNS run_ops.authenticated_env
  LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10 AS 'MODULE_PATHNAME', 'run_ops_resolve_authenticated_env';
COMMENT ON FUNCTION run_ops.resolve_authenticated_env(text) IS
  'an environment with everything that authentication needs; NULL if it does not exist or its project is deleted';
CREATE FUNCTION run_ops.resolve_authenticated_envs(environment_ids text[])
  RETURNS TABLE (environment_id text, env run_ops.authenticated_env)
  LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'run_ops_resolve_authenticated_env_set';
COMMENT ON FUNCTION run_ops.resolve_authenticated_envs(text[]) IS
  'resolve_authenticated_env() for each element of the array, in order; runs one query for all that are not cached';

CREATE FUNCTION run_ops.resolve_event_env(environment_id text) RETURNS run_ops.authenticated_env
  LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10 AS 'MODULE_PATHNAME', 'run_ops_resolve_event_env';
COMMENT ON FUNCTION run_ops.resolve_event_env(text) IS
  'like resolve_authenticated_env(), but also for a deleted project, because its runs still have events';
CREATE FUNCTION run_ops.resolve_event_envs(environment_ids text[])
  RETURNS TABLE (environment_id text, env run_ops.authenticated_env)
  LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'run_ops_resolve_event_env_set';
COMMENT ON FUNCTION run_ops.resolve_event_envs(text[]) IS
  'resolve_event_env() for each element of the array, in order; runs one query for all that are not cached';

CREATE FUNCTION run_ops.env_exists(environment_id text) RETURNS boolean
  LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10 AS 'MODULE_PATHNAME', 'run_ops_env_exists';
COMMENT ON FUNCTION run_ops.env_exists(text) IS 'true if the environment exists, otherwise NULL';
CREATE FUNCTION run_ops.envs_exist(environment_ids text[])
  RETURNS TABLE (environment_id text, env_exists boolean)
  LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'run_ops_env_exists_set';
COMMENT ON FUNCTION run_ops.envs_exist(text[]) IS
  'env_exists() for each element of the array, in order; runs one query for all that are not cached';

CREATE FUNCTION run_ops.resolve_locked_task(task_id text) RETURNS run_ops.locked_task
  LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10 AS 'MODULE_PATHNAME', 'run_ops_resolve_locked_task';
COMMENT ON FUNCTION run_ops.resolve_locked_task(text) IS 'a task of a worker; NULL if it does not exist';
CREATE FUNCTION run_ops.resolve_locked_tasks(task_ids text[])
  RETURNS TABLE (task_id text, task run_ops.locked_task)
  LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'run_ops_resolve_locked_task_set';
COMMENT ON FUNCTION run_ops.resolve_locked_tasks(text[]) IS
  'resolve_locked_task() for each element of the array, in order; runs one query for all that are not cached';

CREATE FUNCTION run_ops.resolve_locked_version(worker_id text) RETURNS run_ops.locked_version
  LANGUAGE c STABLE STRICT PARALLEL SAFE COST 10 AS 'MODULE_PATHNAME', 'run_ops_resolve_locked_version';
COMMENT ON FUNCTION run_ops.resolve_locked_version(text) IS 'a worker, with the columns that its runs need; NULL if it does not exist';
CREATE FUNCTION run_ops.resolve_locked_versions(worker_ids text[])
  RETURNS TABLE (worker_id text, version run_ops.locked_version)
  LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'run_ops_resolve_locked_version_set';
COMMENT ON FUNCTION run_ops.resolve_locked_versions(text[]) IS
  'resolve_locked_version() for each element of the array, in order; runs one query for all that are not cached';

CREATE FUNCTION run_ops.resolve_run_locked_worker(locked_by_id text, locked_to_version_id text)
  RETURNS run_ops.run_locked_worker
  LANGUAGE sql STABLE PARALLEL SAFE
  RETURN ROW(run_ops.resolve_locked_task(locked_by_id),
             run_ops.resolve_locked_version(locked_to_version_id))::run_ops.run_locked_worker;
COMMENT ON FUNCTION run_ops.resolve_run_locked_worker(text, text) IS
  'the task that a run is locked by and the worker that it is locked to. Never NULL itself; a part is NULL if its id is NULL or does not exist.';
CREATE FUNCTION run_ops.resolve_run_locked_workers(locked_by_ids text[], locked_to_version_ids text[])
  RETURNS TABLE (locked_by_id text, locked_to_version_id text, locked run_ops.run_locked_worker)
  LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT a.task_id, a.worker_id, ROW(a.task, a.version)::run_ops.run_locked_worker
    FROM ROWS FROM (run_ops.resolve_locked_tasks(coalesce(locked_by_ids, '{}')),
                    run_ops.resolve_locked_versions(coalesce(locked_to_version_ids, '{}')))
           AS a (task_id, task, worker_id, version)
$$;
COMMENT ON FUNCTION run_ops.resolve_run_locked_workers(text[], text[]) IS
  'resolve_run_locked_worker() for each pair, in order; a shorter or NULL array is filled up with NULL';

CREATE FUNCTION run_ops.resolve_worker_versions(
    environment_ids text[], worker_ids text[] DEFAULT '{}', types text[] DEFAULT '{}',
    task_slugs text[] DEFAULT '{}', queue_ids text[] DEFAULT '{}', queue_names text[] DEFAULT '{}')
  RETURNS TABLE (environment_id text, version run_ops.worker_version)
  LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'run_ops_resolve_worker_version_set';
COMMENT ON FUNCTION run_ops.resolve_worker_versions(text[], text[], text[], text[], text[], text[]) IS
  'resolve_worker_version() for each environment, in order, with one query; the other arrays correspond to the first, and are filled up with NULL if they are shorter';
CREATE FUNCTION run_ops.resolve_worker_version(
    environment_id text, worker_id text DEFAULT NULL, type text DEFAULT NULL,
    task_slug text DEFAULT NULL, queue_id text DEFAULT NULL, queue_name text DEFAULT NULL)
  RETURNS run_ops.worker_version
  LANGUAGE sql STABLE PARALLEL SAFE
  RETURN (SELECT v.version FROM run_ops.resolve_worker_versions(
            ARRAY[environment_id], ARRAY[worker_id], ARRAY[type],
            ARRAY[task_slug], ARRAY[queue_id], ARRAY[queue_name]) AS v);
COMMENT ON FUNCTION run_ops.resolve_worker_version(text, text, text, text, text, text) IS
  'the worker on which a run starts. With worker_id: this worker, if it belongs to the environment. In DEVELOPMENT: the newest worker. Otherwise: the promoted worker; but in STAGING, PREVIEW and PRODUCTION the newest MANAGED one if the promoted worker is not MANAGED. If a task or queue is given, only that one is returned. Never cached.';

CREATE FUNCTION run_ops.assert_envs_exist(environment_ids text[]) RETURNS void
  LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  missing text;
BEGIN
  -- while split is off, a foreign key checks this
  IF NOT run_ops.split_enabled() THEN
    RETURN;
  END IF;
  SELECT string_agg(coalesce(quote_literal(e.environment_id), 'NULL'), ', ') INTO missing
    FROM run_ops.envs_exist(environment_ids) AS e WHERE e.env_exists IS NULL;
  IF missing IS NOT NULL THEN
    RAISE EXCEPTION 'the control plane has no environment %', missing
      USING ERRCODE = 'foreign_key_violation',
            DETAIL = 'Rows of the stores may only refer to environments of the control plane.';
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.assert_envs_exist(text[]) IS
  'raises an error with the environments that do not exist; does nothing while split is off';
CREATE FUNCTION run_ops.assert_env_exists(environment_id text) RETURNS void
  LANGUAGE sql STABLE PARALLEL SAFE
  RETURN run_ops.assert_envs_exist(ARRAY[environment_id]);
COMMENT ON FUNCTION run_ops.assert_env_exists(text) IS
  'raises an error if the environment does not exist; does nothing while split is off';

-- The run of an event ------------------------------------------------------------

CREATE TYPE run_ops.run_context_status AS ENUM ('found', 'run-not-found', 'environment-unresolved');
COMMENT ON TYPE run_ops.run_context_status IS 'whether the context of a run was found, and what is missing otherwise';
CREATE TYPE run_ops.event_run AS (
  id text, friendly_id text, trace_id text, span_id text, parent_span_id text, created_at timestamp,
  completed_at timestamp, task_identifier text, project_id text, runtime_environment_id text,
  environment_type text, is_test boolean, organization_id text, task_event_store text, run_tags text[],
  batch_id text);
COMMENT ON TYPE run_ops.event_run IS 'a run, with the columns that its events need';
CREATE TYPE run_ops.run_context AS (
  status run_ops.run_context_status, run run_ops.event_run, environment run_ops.authenticated_env);
COMMENT ON TYPE run_ops.run_context IS 'a run and its environment, with the columns that events need';

CREATE FUNCTION run_ops.run_contexts(run_ids text[])
  RETURNS TABLE (run_id text, context run_ops.run_context)
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  owned    regclass;
  relation text;
  runs     run_ops.event_run[];
  answer   record;
BEGIN
  SELECT format('%I."TaskRun"', t.schema)::regclass INTO owned
    FROM (SELECT DISTINCT schema FROM run_ops.control_plane_tables()) AS t;
  relation := coalesce((SELECT r.view FROM run_ops.routed_table AS r WHERE r.legacy = owned), owned);
  runs := (SELECT a.runs FROM run_ops.as_owner(owned, format($q$
    SELECT array_agg(ROW(x.id::text, x."friendlyId"::text, x."traceId"::text, x."spanId"::text, x."parentSpanId"::text,
                         x."createdAt"::timestamp, x."completedAt"::timestamp, x."taskIdentifier"::text, x."projectId"::text,
                         x."runtimeEnvironmentId"::text, x."environmentType"::text, x."isTest"::boolean,
                         x."organizationId"::text, x."taskEventStore"::text, x."runTags"::text[], x."batchId"::text)::run_ops.event_run)
      FROM %s AS x WHERE x.id %s $q$, relation, run_ops.equals_text(owned, 'id', '$1', true)),
    run_ids) AS a (runs run_ops.event_run[]));
  FOR answer IN
    SELECT k.id,
           ROW(CASE WHEN r.id IS NULL THEN 'run-not-found' WHEN (e.env).id IS NULL THEN 'environment-unresolved'
                    ELSE 'found' END::run_ops.run_context_status,
               r.run, e.env)::run_ops.run_context AS context
      FROM unnest(run_ids) WITH ORDINALITY AS k (id, n)
      LEFT JOIN (SELECT u.id, u AS run FROM unnest(runs) AS u) AS r ON r.id = k.id
      LEFT JOIN run_ops.resolve_event_envs(
                  ARRAY(SELECT DISTINCT u.runtime_environment_id FROM unnest(runs) AS u)) AS e
        ON e.environment_id = (r.run).runtime_environment_id
     ORDER BY k.n
  LOOP
    run_id := answer.id;
    context := answer.context;
    IF context.status = 'environment-unresolved' THEN
      RAISE WARNING 'run % has environment %, which does not exist', run_id, (context.run).runtime_environment_id;
    END IF;
    RETURN NEXT;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.run_contexts(text[]) IS
  'run_context() for each element of the array, in order; runs one query for each store and one for the environments';
CREATE FUNCTION run_ops.run_context(run_id text) RETURNS run_ops.run_context
  LANGUAGE sql STABLE
  RETURN (SELECT c.context FROM run_ops.run_contexts(ARRAY[run_id]) AS c);
COMMENT ON FUNCTION run_ops.run_context(text) IS
  'a run, read through its view, and its environment, even if its project is deleted. The status shows whether the run or its environment is missing; a missing environment also raises a WARNING.';

DO $$
DECLARE
  f regprocedure;
BEGIN
  FOR f IN SELECT oid FROM pg_catalog.pg_proc
            WHERE pronamespace = 'run_ops'::pg_catalog.regnamespace
              AND proname ~ '^(resolve_.*(env|task|version|worker)s?|envs?_exists?|assert_envs?_exists?|run_contexts?)$'
  LOOP
    EXECUTE pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
  END LOOP;
END $$;

-- cross_seam_guard: the store in which a waitpoint is unblocked, and the store of
-- a new waitpoint.

CREATE TYPE run_ops.route_kind AS ENUM ('MANUAL', 'DATETIME', 'RESUME_TOKEN', 'IDEMPOTENCY_REUSE', 'RUN');
COMMENT ON TYPE run_ops.route_kind IS
  'why a waitpoint is unblocked';

CREATE VIEW run_ops.unblock_route AS
  SELECT site, kind::run_ops.route_kind AS route_kind, symbol
    FROM (VALUES
      ('index.public',                 'RESUME_TOKEN',      'completeWaitpoint of the engine'),
      ('index.public.delegate',        'RESUME_TOKEN',      'completeWaitpoint, delegated to the waitpoint system'),
      ('index.finishWaitpoint',        'DATETIME',          'job finishWaitpoint'),
      ('wp.sink',                      'RUN',               'completeWaitpoint of the waitpoint system'),
      ('wp.blockAndComplete',          'RUN',               'blockRunAndCompleteWaitpoint'),
      ('wp.getOrCreate',               'IDEMPOTENCY_REUSE', 'getOrCreateRunWaitpoint'),
      ('batch.tryCompleteBatch',       'RUN',               'tryCompleteBatch'),
      ('batch.expireBatch',            'RUN',               'expireBatch'),
      ('ttl.expireRun',                'RUN',               'expireRun'),
      ('runAttempt.succeeded',         'RUN',               'attemptSucceeded'),
      ('runAttempt.cancel',            'RUN',               'cancelRun'),
      ('runAttempt.permanentlyFail',   'RUN',               'permanentlyFailRun'))
      AS route (site, kind, symbol);
COMMENT ON VIEW run_ops.unblock_route IS
  'the places in the run engine that unblock a waitpoint, and the route kind that each passes to resolve_unblock_store()';

CREATE VIEW run_ops.read_route AS
  SELECT t.view, c.name AS column_name,
         CASE WHEN c.name OPERATOR(pg_catalog.=) ANY (ARRAY[t.route_column, t.same_shape]) THEN 'owner' ELSE 'every store' END AS stores
    FROM run_ops.routed_table AS t,
         LATERAL (SELECT t.route_column UNION SELECT t.same_shape UNION SELECT pg_catalog.unnest(t.key_columns)) AS c (name)
   WHERE c.name IS NOT NULL;
COMMENT ON VIEW run_ops.read_route IS
  'which stores a lookup through a view queries: only the owner of the row, or every store. A lookup by a column that is not listed queries every store.';
GRANT SELECT ON run_ops.unblock_route, run_ops.read_route TO PUBLIC;

CREATE FUNCTION run_ops.resolve_unblock_store(
    INOUT route_kind text, waitpoint_id text,
    tree_owner run_ops.residency DEFAULT NULL,
    cross_tree_idempotency boolean DEFAULT false,
    legacy_parent boolean DEFAULT false,
    OUT store text, OUT residency run_ops.residency, OUT pinned_reason text)
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
  IF NOT run_ops.split_enabled() THEN
    store := 'legacy';
    residency := 'LEGACY';
    RETURN;
  END IF;
  IF route_kind IS NULL OR route_kind <> ALL (enum_range(NULL::run_ops.route_kind)::text[]) THEN
    RAISE EXCEPTION 'unknown route kind %', coalesce(quote_literal(route_kind), 'NULL')
      USING ERRCODE = 'invalid_parameter_value',
            DETAIL = format('Route kinds are %s.', array_to_string(enum_range(NULL::run_ops.route_kind), ', ')),
            HINT = 'SELECT * FROM run_ops.unblock_route;';
  ELSIF waitpoint_id IS NULL THEN
    RAISE EXCEPTION 'waitpoint id is NULL' USING ERRCODE = 'null_value_not_allowed';
  END IF;
  residency := run_ops.owner_engine(waitpoint_id);
  pinned_reason := CASE WHEN tree_owner = 'LEGACY' THEN 'non-tree-owned'
                        WHEN cross_tree_idempotency THEN 'cross-tree-idempotency'
                        WHEN legacy_parent THEN 'legacy-parent-descendant' END;
  store := CASE WHEN pinned_reason IS NULL THEN run_ops.resolve_shard(waitpoint_id) ELSE 'legacy' END;
END $$;
COMMENT ON FUNCTION run_ops.resolve_unblock_store(text, text, run_ops.residency, boolean, boolean) IS
  'the store in which to unblock a waitpoint, the residency of its id, and the reason if it is pinned to legacy. While split is on, raises an error for an unknown route kind or an unclassifiable id.';

CREATE FUNCTION run_ops.select_store_for_waitpoint(
    waiting_run_id text, completed_by_run_id text DEFAULT NULL, completed_by_batch_id text DEFAULT NULL)
  RETURNS text
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  owner_id text := coalesce(waiting_run_id, completed_by_run_id, completed_by_batch_id);
BEGIN
  IF owner_id IS NULL OR NOT run_ops.split_enabled() THEN
    RETURN 'legacy';
  END IF;
  PERFORM run_ops.owner_engine(owner_id);  -- raises an error if the id is unclassifiable
  RETURN run_ops.resolve_shard(owner_id);
END $$;
COMMENT ON FUNCTION run_ops.select_store_for_waitpoint(text, text, text) IS
  'the store of a new waitpoint: that of the waiting run, otherwise that of the run or batch that completes it, otherwise legacy. Raises an error for an unclassifiable id while split is on.';

CREATE FUNCTION run_ops.mint_waitpoint_id(run_id text) RETURNS text
  LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  shard text := run_ops.resolve_shard(run_id);
BEGIN
  PERFORM run_ops.owner_engine(run_id);  -- raises an error if the id is unclassifiable
  RETURN CASE run_ops.classify_kind(run_id)
    WHEN 'cuid' THEN run_ops.generate_cuid()
    WHEN 'ksuid' THEN run_ops.generate_ksuid()
    ELSE CASE WHEN length(shard) = 1 THEN run_ops.generate_run_ops_id_v2(shard)
              ELSE run_ops.generate_run_ops_id() END END;
END $$;
COMMENT ON FUNCTION run_ops.mint_waitpoint_id(text) IS
  'generates an id of the same kind and shard as the id of the run. A row with this id is inserted into the store of the run; use it for Waitpoint and other tables with routing "store".';

-- cleanup: removes the rows of deleted environments and projects from every
-- store, because foreign keys cannot refer to another database.
--
-- The main idea: the queue has a row for each store.  A batch is one transaction
-- that takes one row of the queue and writes to this store only.  It deletes the
-- rows that it finds, so it may be repeated at any time.  Only a procedure can
-- commit after each batch: run_ops.cleanup().

CREATE TABLE run_ops.cleanup_queue (
  scope        text NOT NULL,
  id           text NOT NULL,
  store        text NOT NULL,
  requested_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  started_at   timestamptz,
  deleted      jsonb NOT NULL DEFAULT '{}',
  failed_at    timestamptz,
  error        text,
  expected     bigint,
  PRIMARY KEY (scope, id, store)
);
-- the order in which run_ops.cleanup_batch() takes rows
CREATE INDEX cleanup_queue_order ON run_ops.cleanup_queue (failed_at NULLS FIRST, requested_at, scope, id, store);
COMMENT ON TABLE run_ops.cleanup_queue IS
  'the environments, projects and the like whose rows must be deleted, for each store; the row is removed when no such row is left in the store';
COMMENT ON COLUMN run_ops.cleanup_queue.scope IS 'environment, project, or that of run_ops.registered_cleanup';
COMMENT ON COLUMN run_ops.cleanup_queue.id IS 'the id of the environment, project or other row that was deleted';
COMMENT ON COLUMN run_ops.cleanup_queue.store IS 'the store in which the rows must be deleted';
COMMENT ON COLUMN run_ops.cleanup_queue.requested_at IS 'when the cleanup was requested';
COMMENT ON COLUMN run_ops.cleanup_queue.started_at IS 'when the first batch began; NULL before';
COMMENT ON COLUMN run_ops.cleanup_queue.deleted IS 'the number of rows deleted so far: {table: count}';
COMMENT ON COLUMN run_ops.cleanup_queue.failed_at IS 'when the last batch failed; NULL if it did not';
COMMENT ON COLUMN run_ops.cleanup_queue.error IS 'why the last batch failed; the batch will be tried again';
COMMENT ON COLUMN run_ops.cleanup_queue.expected IS 'the rows of the tables of run_ops.cleanup_root that are to be deleted, as the statistics of the store told when the first batch began; NULL if they do not tell';

CREATE TABLE run_ops.cleanup_log (
  at      timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  scope   text NOT NULL,
  id      text NOT NULL,
  store   text NOT NULL,
  event   text NOT NULL,
  deleted jsonb
);
COMMENT ON TABLE run_ops.cleanup_log IS
  'the start and end of each cleanup in each store, with the number of rows deleted from each table';
COMMENT ON COLUMN run_ops.cleanup_log.at IS 'when the cleanup started or ended';
COMMENT ON COLUMN run_ops.cleanup_log.scope IS 'environment, project, or that of run_ops.registered_cleanup';
COMMENT ON COLUMN run_ops.cleanup_log.id IS 'the id of the environment, project or other row that was deleted';
COMMENT ON COLUMN run_ops.cleanup_log.store IS 'the store';
COMMENT ON COLUMN run_ops.cleanup_log.event IS 'start or end';
COMMENT ON COLUMN run_ops.cleanup_log.deleted IS 'at the end, the number of rows deleted: {table: count}';


-- Which rows belong to which -------------------------------------------------------

CREATE TABLE run_ops.registered_cleanup (
  owner       regclass,
  dependent   regclass,
  column_name name,
  scope       text NOT NULL,
  PRIMARY KEY (owner, dependent, column_name)
);
COMMENT ON TABLE run_ops.registered_cleanup IS 'the calls of run_ops.register_cleanup()';
COMMENT ON COLUMN run_ops.registered_cleanup.owner IS 'the table whose deleted rows are cleaned up after';
COMMENT ON COLUMN run_ops.registered_cleanup.dependent IS 'the local table of the routed table whose rows are deleted then';
COMMENT ON COLUMN run_ops.registered_cleanup.column_name IS 'its column with the id of the deleted row';
COMMENT ON COLUMN run_ops.registered_cleanup.scope IS 'the name of the owner in the queue';
SELECT pg_catalog.pg_extension_config_dump('run_ops.registered_cleanup',
  'WHERE run_ops.is_relation(owner, ''{r,p}'') AND run_ops.is_relation(dependent, ''{r,p}'')');

-- The tables of the run graph have the names that they have in any schema, others
-- have theirs with the schema.

CREATE VIEW run_ops.cleanup_root AS
  SELECT ord, scope, table_name, column_name::name
    FROM (VALUES
      (1, 'environment', 'TaskRun',           'runtimeEnvironmentId'),
      (2, 'environment', 'BatchTaskRun',      'runtimeEnvironmentId'),
      (3, 'environment', 'Waitpoint',         'environmentId'),
      (4, 'environment', 'TaskRunCheckpoint', 'runtimeEnvironmentId'),
      (5, 'environment', 'WaitpointTag',      'environmentId'),
      (6, 'project',     'TaskRunTag',        'projectId')) AS root (ord, scope, table_name, column_name)
  UNION ALL
  SELECT 1000, r.scope, r.dependent::text, r.column_name FROM run_ops.registered_cleanup AS r;
COMMENT ON VIEW run_ops.cleanup_root IS
  'the tables with a column for the environment, project or other scope, in the order in which they are cleaned up';

CREATE VIEW run_ops.cleanup_dependent AS
  SELECT ord, parent, table_name, column_name::name
    FROM (VALUES
      (1,  'TaskRun',                  'TaskRunExecutionSnapshot', 'runId'),
      (2,  'TaskRun',                  'TaskRunWaitpoint',         'taskRunId'),
      (3,  'TaskRun',                  '_WaitpointRunConnections', 'A'),
      (4,  'TaskRun',                  'BatchTaskRunItem',         'taskRunId'),
      (5,  'TaskRun',                  'TaskRunDependency',        'taskRunId'),
      (6,  'TaskRun',                  'CheckpointRestoreEvent',   'runId'),
      (7,  'TaskRun',                  'Checkpoint',               'runId'),
      (8,  'TaskRun',                  'TaskRunAttempt',           'taskRunId'),
      (9,  'TaskRunExecutionSnapshot', '_completedWaitpoints',     'A'),
      (10, 'CheckpointRestoreEvent',   'BatchTaskRun',             'checkpointEventId'),
      (11, 'CheckpointRestoreEvent',   'TaskRunDependency',        'checkpointEventId'),
      (12, 'TaskRunAttempt',           'BatchTaskRun',             'dependentTaskAttemptId'),
      (13, 'BatchTaskRun',             'BatchTaskRunItem',         'batchTaskRunId'),
      (14, 'BatchTaskRun',             'BatchTaskRunError',        'batchTaskRunId'),
      (15, 'Waitpoint',                'TaskRunWaitpoint',         'waitpointId'),
      (16, 'Waitpoint',                '_completedWaitpoints',     'B'),
      (17, 'Waitpoint',                '_WaitpointRunConnections', 'B')) AS dependent (ord, parent, table_name, column_name)
  UNION ALL
  SELECT 1000, f.confrelid::regclass::text, f.conrelid::regclass::text, a.attname
    FROM pg_catalog.pg_constraint AS f
    JOIN run_ops.routed_table AS child ON child.legacy OPERATOR(pg_catalog.=) f.conrelid
    JOIN run_ops.routed_table AS parent ON parent.legacy OPERATOR(pg_catalog.=) f.confrelid
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) f.conrelid AND a.attnum OPERATOR(pg_catalog.=) f.conkey[1]
    JOIN pg_catalog.pg_attribute AS k ON k.attrelid OPERATOR(pg_catalog.=) f.confrelid AND k.attnum OPERATOR(pg_catalog.=) f.confkey[1]
     AND ARRAY[k.attname] OPERATOR(pg_catalog.=) parent.key_columns
   WHERE f.contype OPERATOR(pg_catalog.=) 'f' AND pg_catalog.cardinality(f.conkey) OPERATOR(pg_catalog.=) 1
     AND f.conrelid OPERATOR(pg_catalog.<>) f.confrelid;
COMMENT ON VIEW run_ops.cleanup_dependent IS
  'the tables whose rows are deleted before the row to which they refer. Most of them also have foreign keys, but these exist in some stores only, and would delete rows without counting them.';

-- Queue ------------------------------------------------------------------------

CREATE VIEW run_ops.cleanup_progress AS
  SELECT q.scope, q.id, q.store, q.requested_at, q.started_at,
         d.deleted AS rows_deleted, q.failed_at, q.error, d.of_roots AS rows_done,
         CASE WHEN q.expected IS NOT NULL THEN greatest(q.expected OPERATOR(pg_catalog.-) coalesce(d.of_roots, 0), 0) END AS rows_left
    FROM run_ops.cleanup_queue AS q,
         LATERAL (SELECT pg_catalog.sum(e.value::pg_catalog.int8) AS deleted,
                         (pg_catalog.sum(e.value::pg_catalog.int8) FILTER (WHERE EXISTS (
                           SELECT FROM run_ops.cleanup_root AS r WHERE r.scope OPERATOR(pg_catalog.=) q.scope AND r.table_name OPERATOR(pg_catalog.=) e.key)))::pg_catalog.int8 AS of_roots
                    FROM pg_catalog.jsonb_each_text(q.deleted) AS e) AS d;
COMMENT ON VIEW run_ops.cleanup_progress IS
  'the cleanups that are queued, running or failed; rows_done and rows_left are rows with the id itself, without those that refer to them';

CREATE FUNCTION run_ops.expected_cleanup(scope text, id text, store text) RETURNS bigint
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  parts text;
BEGIN
  -- Like the planner: a value is one of the most common ones, or as frequent as the
  -- others on average.  The names are those of the place where the query runs.
  parts := (
    SELECT string_agg(format('(%L, %L, %L)', n.schema, n.relation, n.column_name), ', ')
      FROM run_ops.cleanup_root AS r, LATERAL run_ops.table_in_store(r.table_name, store) AS x
      JOIN run_ops.routed_table AS t ON t.legacy = x.legacy JOIN pg_class AS c ON c.oid = t.legacy,
           LATERAL (SELECT CASE store WHEN 'legacy' THEN c.relnamespace::regnamespace::text ELSE t.store_schema END AS schema,
                           CASE store WHEN 'legacy' THEN c.relname ELSE t.store_table END AS relation,
                           CASE store WHEN 'legacy' THEN r.column_name::text ELSE coalesce(t.column_names ->> r.column_name, r.column_name) END AS column_name) AS n
     WHERE r.scope = scope AND x.relation IS NOT NULL);
  RETURN (SELECT (a ->> 'n')::bigint FROM run_ops.ask_place(store, format($q$
    SELECT round(sum(c.reltuples * coalesce(s.common[array_position(s.vals, %L)],
             (1 - coalesce((SELECT sum(f) FROM unnest(s.common) AS f), 0))
               / greatest(CASE WHEN s.n_distinct < 0 THEN -s.n_distinct * c.reltuples ELSE s.n_distinct END - coalesce(cardinality(s.vals), 0), 1)))) AS n
      FROM (VALUES %s) AS w (schema, name, column_name)
      JOIN pg_namespace AS n ON n.nspname = w.schema JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = w.name
      JOIN (SELECT p.*, p.most_common_vals::text::text[] AS vals, p.most_common_freqs AS common FROM pg_stats AS p) AS s
        ON s.schemaname = w.schema AND s.tablename = w.name AND s.attname = w.column_name
     WHERE c.reltuples >= 0 $q$, id, parts)) AS a WHERE parts IS NOT NULL);
END $$;
COMMENT ON FUNCTION run_ops.expected_cleanup(text, text, text) IS
  'how many rows with the id of an environment, project and the like a store has, according to its statistics; NULL if it has none';
REVOKE EXECUTE ON FUNCTION run_ops.expected_cleanup(text, text, text) FROM PUBLIC;

CREATE FUNCTION run_ops.enqueue_cleanup(scope text, ids text[]) RETURNS void
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  INSERT INTO run_ops.cleanup_queue (scope, id, store)
  SELECT enqueue_cleanup.scope, i, s.name FROM unnest(ids) AS i, run_ops.store AS s
  ON CONFLICT DO NOTHING
$$;
COMMENT ON FUNCTION run_ops.enqueue_cleanup(text, text[]) IS
  'adds environments or projects to the cleanup queue, for every store';
REVOKE EXECUTE ON FUNCTION run_ops.enqueue_cleanup(text, text[]) FROM PUBLIC;

-- SECURITY DEFINER: a role that may delete an environment need not have
-- privileges on the queue, and must not be able to add anything else to it.
-- format() uses the output function of the type of id.  A cast could be a
-- function of the owner of the table, and would run with these privileges.
CREATE FUNCTION run_ops.enqueue_deleted() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  PERFORM run_ops.enqueue_cleanup(TG_ARGV[0], ARRAY(SELECT format('%s', d.id) FROM deleted AS d));
  RETURN NULL;
END $$;
COMMENT ON FUNCTION run_ops.enqueue_deleted() IS
  'trigger: adds deleted environments or projects to the cleanup queue, in the transaction that deletes them';
REVOKE EXECUTE ON FUNCTION run_ops.enqueue_deleted() FROM PUBLIC;

CREATE FUNCTION run_ops.queue_deleted(owner regclass, scope text) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
  PERFORM run_ops.refuse_taken_names(owner, '{run_ops_cleanup}');
  EXECUTE format('CREATE OR REPLACE TRIGGER run_ops_cleanup AFTER DELETE ON %s '
                 'REFERENCING OLD TABLE AS deleted FOR EACH STATEMENT EXECUTE FUNCTION run_ops.enqueue_deleted(%L)', owner, scope);
END $$;
COMMENT ON FUNCTION run_ops.queue_deleted(regclass, text) IS 'creates the trigger that adds deleted rows of a table to the cleanup queue';
REVOKE EXECUTE ON FUNCTION run_ops.queue_deleted(regclass, text) FROM PUBLIC;

CREATE FUNCTION run_ops.attach_cleanup(control_plane_schema name DEFAULT 'public') RETURNS void
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  -- deleting an organization deletes its projects, and those their environments
  SELECT run_ops.queue_deleted(format('%I."RuntimeEnvironment"', control_plane_schema)::regclass, 'environment');
  SELECT run_ops.queue_deleted(format('%I."Project"', control_plane_schema)::regclass, 'project');
$$;
COMMENT ON FUNCTION run_ops.attach_cleanup(name) IS
  'creates the triggers that add deleted environments and projects to the cleanup queue; deleting an organization deletes its projects and environments';
REVOKE EXECUTE ON FUNCTION run_ops.attach_cleanup(name) FROM PUBLIC;

-- For other tables

CREATE FUNCTION run_ops.register_cleanup(owner regclass, dependent regclass, column_name name) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  t     run_ops.routed_table := run_ops.routed(dependent);
  -- that of its trigger, if it has one
  scope text := coalesce((SELECT convert_from(substr(g.tgargs, 1, length(g.tgargs) - 1), getdatabaseencoding()) FROM pg_trigger AS g
                           WHERE g.tgrelid = owner AND g.tgfoid = 'run_ops.enqueue_deleted()'::regprocedure), owner::text);
BEGIN
  IF cardinality(t.key_columns) > 1 OR run_ops.column_type(t.legacy, column_name) IS NULL THEN
    RAISE EXCEPTION 'rows of % cannot be cleaned up by column "%"', t.legacy, column_name
      USING ERRCODE = 'wrong_object_type', DETAIL = 'The table needs this column, and a key of one column.';
  ELSIF run_ops.column_type(owner, 'id') IS NULL THEN
    RAISE EXCEPTION 'table % has no column "id"', owner USING ERRCODE = 'undefined_column';
  END IF;
  PERFORM run_ops.lock_registry();
  PERFORM run_ops.queue_deleted(owner, scope);
  INSERT INTO run_ops.registered_cleanup VALUES (owner, t.legacy, column_name, scope) ON CONFLICT DO NOTHING;
END $$;
COMMENT ON FUNCTION run_ops.register_cleanup(regclass, regclass, name) IS
  'from now on, when rows of table owner are deleted, run_ops.cleanup() deletes the rows of a routed table whose column has their id, and what refers to these by foreign keys of one column, in every store';
REVOKE EXECUTE ON FUNCTION run_ops.register_cleanup(regclass, regclass, name) FROM PUBLIC;

CREATE FUNCTION run_ops.unregister_cleanup(owner regclass) RETURNS void
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  gone text[];
BEGIN
  PERFORM run_ops.lock_registry();
  WITH d AS (DELETE FROM run_ops.registered_cleanup AS r WHERE r.owner = unregister_cleanup.owner RETURNING r.scope)
  SELECT array_agg(d.scope) INTO gone FROM d;
  -- the run graph may need the trigger
  IF gone IS NOT NULL AND NOT EXISTS (SELECT FROM run_ops.cleanup_root AS r WHERE r.scope = ANY (gone)) THEN
    EXECUTE format('DROP TRIGGER run_ops_cleanup ON %s', unregister_cleanup.owner);
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.unregister_cleanup(regclass) IS
  'ends what run_ops.register_cleanup() began: deleting rows of table owner deletes nothing else any more';
REVOKE EXECUTE ON FUNCTION run_ops.unregister_cleanup(regclass) FROM PUBLIC;

-- One batch --------------------------------------------------------------------

CREATE FUNCTION run_ops.add_counts(a jsonb, b jsonb) RETURNS jsonb
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT coalesce(jsonb_object_agg(key, n), '{}')
    FROM (SELECT key, sum(value::bigint) AS n
            FROM (SELECT * FROM jsonb_each_text(a) UNION ALL SELECT * FROM jsonb_each_text(b)) AS c
           GROUP BY key) AS s
$$;
COMMENT ON FUNCTION run_ops.add_counts(jsonb, jsonb) IS 'adds two objects of counts, {name: count}';

CREATE FUNCTION run_ops.table_in_store(table_name text, store text, OUT relation regclass, OUT key name, OUT legacy regclass)
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT c.relation, CASE WHEN cardinality(t.key_columns) = 1 THEN t.key_columns[1] END, t.legacy
    FROM run_ops.routed_table AS t JOIN pg_class AS l ON l.oid = t.legacy, LATERAL run_ops.copies(t) AS c
   WHERE table_in_store.table_name IN (l.relname, t.legacy::text) AND c.store = table_in_store.store
$$;
COMMENT ON FUNCTION run_ops.table_in_store(text, text) IS
  'finds a routed table in a store by the name of the local table, with its schema or without; returns the relation, its key if that is one column, and the local table';

CREATE FUNCTION run_ops.delete_rows(owned regclass, relation regclass, condition text, ids text[]) RETURNS bigint
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT a.n FROM run_ops.as_owner(owned,
    format('WITH deleted AS (DELETE FROM %s AS x WHERE %s RETURNING 1) SELECT count(*) FROM deleted', relation, condition),
    ids) AS a (n bigint)
$$;
COMMENT ON FUNCTION run_ops.delete_rows(regclass, regclass, text, text[]) IS
  'deletes the rows of a relation that meet a condition on the ids, $1, and returns their number; triggers and functions of the relation run as the owner of relation owned';
REVOKE EXECUTE ON FUNCTION run_ops.delete_rows(regclass, regclass, text, text[]) FROM PUBLIC;

CREATE FUNCTION run_ops.delete_with_dependents(store text, table_name text, column_name text, ids text[]) RETURNS jsonb
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  t         record;
  condition text;
  deleted   jsonb := '{}';
  dependent record;
  keys      text[];
  n         bigint;
BEGIN
  SELECT * INTO t FROM run_ops.table_in_store(table_name, store);
  IF t.relation IS NULL THEN
    RETURN deleted;
  END IF;
  condition := format('x.%I %s', column_name, run_ops.equals_text(t.legacy, column_name, '$1', true));
  IF EXISTS (SELECT FROM run_ops.cleanup_dependent AS d WHERE d.parent = table_name) THEN
    IF t.key = column_name THEN
      keys := ids;
    ELSE
      keys := (SELECT a.keys FROM run_ops.as_owner(t.legacy,
                 format('SELECT array_agg(x.%I::text) FROM %s AS x WHERE %s', t.key, t.relation, condition), ids) AS a (keys text[]));
    END IF;
    IF keys IS NULL THEN
      RETURN deleted;
    END IF;
    FOR dependent IN SELECT * FROM run_ops.cleanup_dependent AS d WHERE d.parent = table_name ORDER BY d.ord LOOP
      deleted := run_ops.add_counts(deleted,
        run_ops.delete_with_dependents(store, dependent.table_name, dependent.column_name, keys));
    END LOOP;
  END IF;
  n := run_ops.delete_rows(t.legacy, t.relation, condition, ids);
  IF n > 0 THEN
    deleted := run_ops.add_counts(deleted, jsonb_build_object(table_name, n));
  END IF;
  RETURN deleted;
END $$;
COMMENT ON FUNCTION run_ops.delete_with_dependents(text, text, text, text[]) IS
  'deletes rows of a table in one store, and first the rows that belong to them; returns {table: count}';
REVOKE EXECUTE ON FUNCTION run_ops.delete_with_dependents(text, text, text, text[]) FROM PUBLIC;

CREATE FUNCTION run_ops.delete_bulk_action_items(run_ids text[]) RETURNS jsonb
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  items regclass := (SELECT to_regclass(format('%I.%I', n.nspname, 'BulkActionItem'))
                       FROM run_ops.table_in_store('TaskRun', 'legacy') AS t
                       JOIN pg_class AS c ON c.oid = t.relation JOIN pg_namespace AS n ON n.oid = c.relnamespace);
  n     bigint := 0;
BEGIN
  IF items IS NOT NULL THEN
    n := run_ops.delete_rows(items, items, format('x."sourceRunId" %s OR x."destinationRunId" %s',
      run_ops.equals_text(items, 'sourceRunId', '$1', true), run_ops.equals_text(items, 'destinationRunId', '$1', true)), run_ids);
  END IF;
  RETURN CASE WHEN n > 0 THEN jsonb_build_object('BulkActionItem', n) ELSE '{}' END;
END $$;
COMMENT ON FUNCTION run_ops.delete_bulk_action_items(text[]) IS
  'deletes the BulkActionItem rows of the control plane that refer to these runs, in whatever store the runs are; returns {table: count}';
REVOKE EXECUTE ON FUNCTION run_ops.delete_bulk_action_items(text[]) FROM PUBLIC;

CREATE FUNCTION run_ops.delete_batch(scope text, id text, store text, batch_size int) RETURNS jsonb
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  root    record;
  keys    text[];
  deleted jsonb := '{}';
BEGIN
  IF NOT EXISTS (SELECT FROM run_ops.store AS s WHERE s.name = store) THEN
    RAISE EXCEPTION 'store "%" is not attached', store USING ERRCODE = 'undefined_object';
  END IF;
  PERFORM run_ops.refuse_incomplete() WHERE store <> 'legacy';
  -- The commands below run as the owner of a table.  A deferred trigger would run
  -- at commit as the caller, so PostgreSQL refuses deferred triggers there.
  SET CONSTRAINTS ALL IMMEDIATE;
  FOR root IN
    SELECT r.table_name, r.column_name, t.relation, t.key, t.legacy
      FROM run_ops.cleanup_root AS r, LATERAL run_ops.table_in_store(r.table_name, store) AS t
     WHERE r.scope = scope AND t.relation IS NOT NULL ORDER BY r.ord
  LOOP
    keys := (SELECT a.keys FROM run_ops.as_owner(root.legacy,
      format('SELECT array_agg(k) FROM (SELECT x.%I::text AS k FROM %s AS x WHERE x.%I %s LIMIT $2) AS b',
             root.key, root.relation, root.column_name, run_ops.equals_text(root.legacy, root.column_name, '$1')),
      id, batch_size) AS a (keys text[]));
    CONTINUE WHEN keys IS NULL;
    IF root.table_name = 'TaskRun' THEN
      deleted := run_ops.delete_bulk_action_items(keys);
    END IF;
    RETURN run_ops.add_counts(deleted,
      run_ops.delete_with_dependents(store, root.table_name, root.key, keys));
  END LOOP;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION run_ops.delete_batch(text, text, text, int) IS
  'deletes up to batch_size rows of an environment or project from the first table in the store that has any, with the rows that belong to them; returns {table: count}, or NULL if none is left';
REVOKE EXECUTE ON FUNCTION run_ops.delete_batch(text, text, text, int) FROM PUBLIC;

CREATE FUNCTION run_ops.cleanup_batch(
    batch_size int DEFAULT 1000, failed_before timestamptz DEFAULT 'infinity',
    wanted jsonb DEFAULT NULL,
    OUT store text, OUT deleted jsonb, OUT error text)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
  job run_ops.cleanup_queue;
BEGIN
  SELECT * INTO job FROM run_ops.cleanup_queue AS q
   WHERE (q.failed_at IS NULL OR q.failed_at < failed_before)
     AND (wanted IS NULL OR wanted -> q.scope ? q.id)
   ORDER BY q.failed_at NULLS FIRST, q.requested_at, q.scope, q.id, q.store
   LIMIT 1 FOR UPDATE SKIP LOCKED;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  store := job.store;
  IF job.started_at IS NULL THEN
    INSERT INTO run_ops.cleanup_log (scope, id, store, event) VALUES (job.scope, job.id, job.store, 'start');
  END IF;
  -- The store commits first.  After a crash between the two commits the batch is
  -- repeated and finds nothing, and its counts are missing from the log.
  PERFORM set_config('run_ops_split.cross_store_writes', 'allow', true);
  BEGIN
    job.expected := coalesce(job.expected, run_ops.expected_cleanup(job.scope, job.id, job.store));
    deleted := run_ops.delete_batch(job.scope, job.id, job.store, batch_size);
  EXCEPTION WHEN OTHERS THEN
    error := SQLERRM;
    UPDATE run_ops.cleanup_queue AS q
       SET started_at = coalesce(q.started_at, clock_timestamp()), failed_at = clock_timestamp(), error = SQLERRM
     WHERE (q.scope, q.id, q.store) = (job.scope, job.id, job.store);
    RETURN;
  END;
  IF deleted IS NULL THEN
    DELETE FROM run_ops.cleanup_queue AS q WHERE (q.scope, q.id, q.store) = (job.scope, job.id, job.store);
    INSERT INTO run_ops.cleanup_log (scope, id, store, event, deleted)
    VALUES (job.scope, job.id, job.store, 'end', job.deleted);
  ELSE
    UPDATE run_ops.cleanup_queue AS q
       SET started_at = coalesce(q.started_at, clock_timestamp()), deleted = run_ops.add_counts(q.deleted, deleted),
           expected = job.expected, failed_at = NULL, error = NULL
     WHERE (q.scope, q.id, q.store) = (job.scope, job.id, job.store);
  END IF;
  deleted := coalesce(deleted, '{}');
END $$;
COMMENT ON FUNCTION run_ops.cleanup_batch(int, timestamptz, jsonb) IS
  'runs one batch of the next cleanup that no other session is running, only of those in wanted ({scope: [id, ...]}) if given. Returns its store, and {table: count} of the rows deleted or the error; store is NULL if there is nothing to do.';
REVOKE EXECUTE ON FUNCTION run_ops.cleanup_batch(int, timestamptz, jsonb) FROM PUBLIC;

-- All batches ------------------------------------------------------------------

CREATE FUNCTION run_ops.merge_batch(result jsonb, store text, deleted jsonb, error text) RETURNS jsonb
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT jsonb_set(result, ARRAY[store],
           CASE WHEN error IS NULL
                THEN coalesce(result -> store, '{}') || run_ops.add_counts((result -> store) - 'error', deleted)
                ELSE coalesce(result -> store, '{}') || jsonb_build_object('error', error) END)
$$;
COMMENT ON FUNCTION run_ops.merge_batch(jsonb, text, jsonb, text) IS
  'adds one batch to the result of a cleanup, {store: {table: count}}';

-- No SET search_path: PostgreSQL does not allow such a procedure to commit.
CREATE PROCEDURE run_ops.cleanup(
    batch_size int DEFAULT 1000, time_limit interval DEFAULT '1 hour', INOUT deleted jsonb DEFAULT '{}')
  LANGUAGE plpgsql
AS $$
DECLARE
  started pg_catalog.timestamptz := pg_catalog.clock_timestamp();
  batch   pg_catalog.record;
BEGIN
  LOOP
    SELECT * INTO batch FROM run_ops.cleanup_batch(batch_size, started);
    EXIT WHEN batch.store IS NULL;
    deleted := run_ops.merge_batch(deleted, batch.store, batch.deleted, batch.error);
    COMMIT;
    EXIT WHEN pg_catalog.clock_timestamp() OPERATOR(pg_catalog.>) (started OPERATOR(pg_catalog.+) time_limit);
  END LOOP;
END $$;
COMMENT ON PROCEDURE run_ops.cleanup(int, interval, jsonb) IS
  'processes the cleanup queue in batches, with a commit after each, until the queue is empty or the time limit is reached; returns {store: {table: count}}. Call it regularly, for example by pg_cron or cron; several sessions may run it at the same time.';
REVOKE EXECUTE ON PROCEDURE run_ops.cleanup(int, interval, jsonb) FROM PUBLIC;

CREATE FUNCTION run_ops.cleanup_now(wanted jsonb) RETURNS jsonb
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  result jsonb := '{}';
  batch  record;
BEGIN
  PERFORM run_ops.enqueue_cleanup(w.key, ARRAY(SELECT jsonb_array_elements_text(w.value))) FROM jsonb_each(wanted) AS w;
  LOOP
    SELECT * INTO batch FROM run_ops.cleanup_batch(wanted => wanted);
    IF batch.error IS NOT NULL THEN
      RAISE EXCEPTION 'cannot clean up store "%"', batch.store
        USING DETAIL = batch.error, HINT = 'To clean up the other stores, and retry this one later: CALL run_ops.cleanup();';
    END IF;
    EXIT WHEN batch.store IS NULL;
    result := run_ops.merge_batch(result, batch.store, batch.deleted, NULL);
  END LOOP;
  RETURN result;
END $$;
COMMENT ON FUNCTION run_ops.cleanup_now(jsonb) IS
  'cleans up {scope: [id, ...]} in the current transaction, and sets its constraints to immediate. Raises an error if a store fails, and skips cleanups that another session is running.';
REVOKE EXECUTE ON FUNCTION run_ops.cleanup_now(jsonb) FROM PUBLIC;

CREATE FUNCTION run_ops.cleanup_environment(id text) RETURNS jsonb
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
  RETURN run_ops.cleanup_now(pg_catalog.jsonb_build_object('environment', pg_catalog.jsonb_build_array(id)));
COMMENT ON FUNCTION run_ops.cleanup_environment(text) IS
  'deletes the run-ops rows of one environment from every store, in the current transaction; returns {store: {table: count}}';
REVOKE EXECUTE ON FUNCTION run_ops.cleanup_environment(text) FROM PUBLIC;

CREATE FUNCTION run_ops.cleanup_project(id text, control_plane_schema name DEFAULT 'public') RETURNS jsonb
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  relation     regclass := format('%I."RuntimeEnvironment"', control_plane_schema);
  environments jsonb;
BEGIN
  environments := (SELECT a.ids FROM run_ops.as_owner(relation,
    format('SELECT jsonb_agg(e.id::text) FROM %s AS e WHERE e."projectId" %s',
           relation, run_ops.equals_text(relation, 'projectId', '$1')), id) AS a (ids jsonb));
  RETURN run_ops.cleanup_now(jsonb_build_object('environment', coalesce(environments, '[]'), 'project', jsonb_build_array(id)));
END $$;
COMMENT ON FUNCTION run_ops.cleanup_project(text, name) IS
  'deletes the run-ops rows of one project and of its environments from every store, in the current transaction; returns {store: {table: count}}. Rows of environments that were deleted before are deleted by run_ops.cleanup().';
REVOKE EXECUTE ON FUNCTION run_ops.cleanup_project(text, name) FROM PUBLIC;

-- stats: views for monitoring.
--
-- The extension counts nothing itself.  PostgreSQL already counts the reads and
-- writes of each table, for all sessions and at no cost for a query.  One query
-- reads these counters here and in each store, and the views below show the
-- results.  For a store that does not answer, they show the error.  The time to
-- wait is limited by connect_timeout of its server and
-- run_ops_split.store_timeout.  After that the session does not try the store
-- again for store_timeout, so that several views wait only once.  Each session
-- remembers this itself: the views write nothing.
--
-- Members of pg_monitor may read all views.

CREATE FUNCTION run_ops.contact(server name, OUT answered_at timestamptz, OUT failed_at timestamptz, OUT error text)
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_contact';
COMMENT ON FUNCTION run_ops.contact(name) IS
  'when a server last answered the stat_* views in this session, when it last failed to, and the error; the name of the server is empty for this database';
REVOKE EXECUTE ON FUNCTION run_ops.contact(name) FROM PUBLIC;

CREATE FUNCTION run_ops.remember_contact(server name, error text) RETURNS void
  LANGUAGE c
  AS 'MODULE_PATHNAME', 'run_ops_remember_contact';
COMMENT ON FUNCTION run_ops.remember_contact(name, text) IS
  'remembers for this session that a server has just answered, or the error if it did not';
REVOKE EXECUTE ON FUNCTION run_ops.remember_contact(name, text) FROM PUBLIC;

CREATE FUNCTION run_ops.stats_query(tables jsonb) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  -- Counters of partitions are added to those of the partitioned table.  The size
  -- of a table that is locked in ACCESS EXCLUSIVE mode is left out, because
  -- reading it would wait for the lock.
  SELECT format($q$
    WITH locked AS MATERIALIZED (
      SELECT coalesce(i.indrelid, l.relation) AS relation
        FROM pg_locks AS l LEFT JOIN pg_index AS i ON i.indexrelid = l.relation
       WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock'
         AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()))
    SELECT pg_is_in_recovery() AS in_recovery, current_setting('max_connections')::int AS max_connections,
           p.prepared, p.oldest_prepared,
           (SELECT coalesce(jsonb_agg(to_jsonb(c)), '[]')
              FROM (SELECT a.usename AS role, a.application_name, a.state, count(*) AS connections,
                           min(a.xact_start) AS oldest_transaction
                      FROM pg_stat_activity AS a
                     WHERE a.datname = current_database()
                       AND coalesce(a.backend_type, 'client backend') = 'client backend'
                     GROUP BY 1, 2, 3) AS c) AS connections,
           (SELECT coalesce(jsonb_agg(to_jsonb(c)), '[]')
              FROM (SELECT w.view,
                           CASE WHEN bool_and(c.reltuples >= 0) THEN sum(c.reltuples)::bigint END AS rows,
                           sum(CASE WHEN NOT EXISTS (SELECT FROM locked AS l WHERE l.relation = c.oid)
                                    THEN pg_total_relation_size(c.oid) END)::bigint AS bytes,
                           sum(s.seq_scan + coalesce(s.idx_scan, 0))::bigint AS scans,
                           sum(s.seq_tup_read + coalesce(s.idx_tup_fetch, 0))::bigint AS rows_read,
                           sum(s.n_tup_ins)::bigint AS rows_inserted, sum(s.n_tup_upd)::bigint AS rows_updated,
                           sum(s.n_tup_del)::bigint AS rows_deleted,
                           sum(i.heap_blks_hit + coalesce(i.idx_blks_hit, 0))::bigint AS blocks_hit,
                           sum(i.heap_blks_read + coalesce(i.idx_blks_read, 0))::bigint AS blocks_read
                      FROM jsonb_to_recordset(%L) AS w (view text, schema name, name name)
                      JOIN pg_namespace AS n ON n.nspname = w.schema
                      JOIN pg_class AS r ON r.relnamespace = n.oid AND r.relname = w.name
                      LEFT JOIN LATERAL pg_partition_tree(r.oid) AS p ON true
                      JOIN pg_class AS c ON c.oid = coalesce(p.relid, r.oid) AND c.relkind = 'r'
                      LEFT JOIN pg_stat_all_tables AS s ON s.relid = c.oid
                      LEFT JOIN pg_statio_all_tables AS i ON i.relid = c.oid
                     GROUP BY w.view) AS c) AS tables
      FROM (SELECT count(*) AS prepared, clock_timestamp() - min(x.prepared) AS oldest_prepared
              FROM pg_prepared_xacts AS x
             WHERE x.database = current_database() AND starts_with(x.gid, 'run_ops_split:')) AS p
  $q$, tables)
$$;
COMMENT ON FUNCTION run_ops.stats_query(jsonb) IS
  'a query that returns the counters of a database and of its tables, [{view, schema, name}], in one row';

-- SECURITY DEFINER: only the user mapping of the owner gives access to the stores.
CREATE FUNCTION run_ops.ask_stats(
    OUT store text, OUT server name, OUT stats jsonb,
    OUT last_contact timestamptz, OUT last_error text, OUT last_error_at timestamptz)
  RETURNS SETOF record ROWS 10
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  -- a table may be locked after the query has looked for locks
  SET lock_timeout = '1s'
AS $$
#variable_conflict use_variable
DECLARE
  timeout interval := run_ops.setting('store_timeout');
  queries jsonb := '{}';
  answers jsonb := '{}';
  detail  text;
BEGIN
  FOR store, server IN
    SELECT s.name, s.server FROM run_ops.store AS s, run_ops.contact(coalesce(s.server, '')) AS c
     -- not one that has just failed to answer
     WHERE (c.failed_at > coalesce(c.answered_at, '-infinity') AND clock_timestamp() - c.failed_at < timeout) IS NOT TRUE
  LOOP
    queries := queries || jsonb_build_object(store, run_ops.stats_query((
      SELECT coalesce(jsonb_agg(jsonb_build_object('view', t.view::oid, 'schema', coalesce(n.nspname, t.store_schema),
                                                   'name', coalesce(l.relname, t.store_table))), '[]')
        FROM run_ops.routed_table AS t
        LEFT JOIN (pg_class AS l JOIN pg_namespace AS n ON n.oid = l.relnamespace) ON l.oid = t.legacy AND server IS NULL
       WHERE server IS NULL OR EXISTS (SELECT FROM run_ops.routed_store AS r WHERE (r.view, r.store) = (t.view, store)))));
  END LOOP;
  BEGIN
    PERFORM run_ops.refuse_in_copy();
    answers := (SELECT jsonb_object_agg(a.store, jsonb_build_object('stats', a.answer, 'error', a.error))
                  FROM (SELECT array_agg(q.key), array_agg(q.value) FROM jsonb_each_text(queries) AS q WHERE q.key <> 'legacy') AS q (stores, queries),
                       LATERAL run_ops.ask_stores(q.stores, q.queries, tolerant => true) AS a);
  EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    answers := (SELECT jsonb_object_agg(q, jsonb_build_object('error', concat_ws(': ', SQLERRM, nullif(detail, ''))))
                  FROM jsonb_object_keys(queries) AS q WHERE q <> 'legacy');
  END;
  FOR store, server IN
    SELECT s.name, s.server FROM run_ops.store AS s ORDER BY s.server IS NOT NULL, s.name <> 'new', s.name
  LOOP
    stats := nullif(answers -> store -> 'stats', 'null');
    IF server IS NULL AND queries ? store THEN
      BEGIN
        EXECUTE format('SELECT to_jsonb(q) FROM (%s) AS q', queries ->> store) INTO stats;
        PERFORM run_ops.remember_contact('', NULL);
      EXCEPTION WHEN OTHERS THEN
        PERFORM run_ops.remember_contact('', SQLERRM);
      END;
    ELSIF answers ? store THEN
      PERFORM run_ops.remember_contact(server, regexp_replace(answers -> store ->> 'error', '\s+', ' ', 'g'));
    END IF;
    SELECT * INTO last_contact, last_error_at, last_error FROM run_ops.contact(coalesce(server, ''));
    RETURN NEXT;
  END LOOP;
END $$;
COMMENT ON FUNCTION run_ops.ask_stats() IS
  'the counters of each store, or the error';

CREATE VIEW run_ops.stat_stores AS
  SELECT a.store, a.server, a.stats IS NOT NULL AS up, t.rows, t.bytes, c.connections,
         (a.stats OPERATOR(pg_catalog.->>) 'max_connections')::pg_catalog.int4 AS max_connections,
         (a.stats OPERATOR(pg_catalog.->>) 'in_recovery')::pg_catalog.bool AS in_recovery,
         (a.stats OPERATOR(pg_catalog.->>) 'prepared')::pg_catalog.int8 AS prepared,
         (a.stats OPERATOR(pg_catalog.->>) 'oldest_prepared')::pg_catalog.interval AS oldest_prepared,
         a.last_contact, a.last_error, a.last_error_at
    FROM run_ops.ask_stats() AS a,
         LATERAL (SELECT pg_catalog.sum(t.rows)::pg_catalog.int8 AS rows, pg_catalog.sum(t.bytes)::pg_catalog.int8 AS bytes
                    FROM pg_catalog.jsonb_to_recordset(a.stats OPERATOR(pg_catalog.->) 'tables') AS t (rows pg_catalog.int8, bytes pg_catalog.int8)) AS t,
         LATERAL (SELECT CASE WHEN a.stats IS NOT NULL THEN coalesce(pg_catalog.sum(c.connections), 0) END::pg_catalog.int8 AS connections
                    FROM pg_catalog.jsonb_to_recordset(a.stats OPERATOR(pg_catalog.->) 'connections') AS c (connections pg_catalog.int8)) AS c;
COMMENT ON VIEW run_ops.stat_stores IS
  'one row for each store: whether it answers, its size, its connections, the last error. Queries every store; connect_timeout of its server and run_ops_split.store_timeout limit the time to wait.';
COMMENT ON COLUMN run_ops.stat_stores.rows IS 'the number of rows of the routed tables, as last estimated by VACUUM or ANALYZE; tables that were never analyzed are not counted';
COMMENT ON COLUMN run_ops.stat_stores.bytes IS 'the size of the routed tables with their indexes and TOAST; tables that are locked in ACCESS EXCLUSIVE mode are not counted';
COMMENT ON COLUMN run_ops.stat_stores.connections IS 'the number of client connections to the database of the store, with the one that runs this query';
COMMENT ON COLUMN run_ops.stat_stores.prepared IS 'the number of transactions of atomic commits that are prepared in the store; a moment later they should be finished';
COMMENT ON COLUMN run_ops.stat_stores.oldest_prepared IS 'for how long the oldest of them has been prepared. More than a few seconds: a crash has left it; run_ops.resolve_in_doubt() finishes it';
COMMENT ON COLUMN run_ops.stat_stores.last_contact IS 'when the store last answered one of these views in this session';
COMMENT ON COLUMN run_ops.stat_stores.last_error IS 'why the store last failed to answer in this session; kept after it answers again';

CREATE VIEW run_ops.stat_routing AS
  SELECT t.view, a.store, s.rows, s.bytes, s.scans, s.rows_read, s.rows_inserted, s.rows_updated, s.rows_deleted,
         s.blocks_hit, s.blocks_read
    FROM run_ops.ask_stats() AS a
    JOIN run_ops.routed_table AS t
      ON a.server IS NULL OR EXISTS (SELECT FROM run_ops.routed_store AS r
                                      WHERE r.view OPERATOR(pg_catalog.=) t.view AND r.store OPERATOR(pg_catalog.=) a.store)
    LEFT JOIN LATERAL pg_catalog.jsonb_to_recordset(a.stats OPERATOR(pg_catalog.->) 'tables') AS s (
                view pg_catalog.oid, rows pg_catalog.int8, bytes pg_catalog.int8, scans pg_catalog.int8,
                rows_read pg_catalog.int8, rows_inserted pg_catalog.int8, rows_updated pg_catalog.int8,
                rows_deleted pg_catalog.int8, blocks_hit pg_catalog.int8, blocks_read pg_catalog.int8)
      ON s.view OPERATOR(pg_catalog.=) t.view;
COMMENT ON VIEW run_ops.stat_routing IS
  'reads and writes of each routed table in each store, as counted by PostgreSQL there, by all clients and with or without the view; NULL for a store that does not answer';
COMMENT ON COLUMN run_ops.stat_routing.rows IS 'the number of rows, as last estimated by VACUUM or ANALYZE; NULL if the table was never analyzed';
COMMENT ON COLUMN run_ops.stat_routing.scans IS 'the number of scans of the table and of its indexes';

CREATE VIEW run_ops.stat_connections AS
  SELECT a.store, c.role, c.application_name, c.state, c.connections, c.oldest_transaction
    FROM run_ops.ask_stats() AS a,
         LATERAL pg_catalog.jsonb_to_recordset(a.stats OPERATOR(pg_catalog.->) 'connections') AS c (
           role pg_catalog.name, application_name pg_catalog.text, state pg_catalog.text,
           connections pg_catalog.int8, oldest_transaction pg_catalog.timestamptz);
COMMENT ON VIEW run_ops.stat_connections IS
  'the client connections to the database of each store, by role, application_name and state. State and transaction are NULL for roles that the user of the user mapping may not see; with pg_read_all_stats in the store it sees all.';

CREATE VIEW run_ops.stat_cache AS
  SELECT c.slot, c.entries, c.hits, c.revalidations, c.misses, c.evictions, c.cache_bytes,
         pg_catalog.round((c.hits OPERATOR(pg_catalog.+) c.revalidations)::pg_catalog.numeric
           OPERATOR(pg_catalog./) nullif(c.hits OPERATOR(pg_catalog.+) c.revalidations OPERATOR(pg_catalog.+) c.misses, 0), 4) AS hit_ratio
    FROM run_ops.cache_stats() AS c;
COMMENT ON VIEW run_ops.stat_cache IS
  'run_ops.cache_stats() with the hit ratio; each session has its own cache, and this view shows that of the current session';

CREATE TABLE run_ops.cache_lookup ();
COMMENT ON TABLE run_ops.cache_lookup IS
  'an empty table whose statistics count the cache lookups of all sessions, for run_ops.stat_cache_lookups';

CREATE VIEW run_ops.stat_cache_lookups AS
  SELECT l.hits, l.misses, pg_catalog.round(l.hits::pg_catalog.numeric OPERATOR(pg_catalog./) nullif(l.hits OPERATOR(pg_catalog.+) l.misses, 0), 4) AS hit_ratio
    FROM (SELECT pg_catalog.pg_stat_get_tuples_returned(c.oid) AS hits, pg_catalog.pg_stat_get_tuples_fetched(c.oid) AS misses
            FROM pg_catalog.pg_class AS c WHERE c.oid OPERATOR(pg_catalog.=) 'run_ops.cache_lookup'::pg_catalog.regclass) AS l;
COMMENT ON VIEW run_ops.stat_cache_lookups IS
  'the cache hits and misses of all sessions since the last reset of statistics. A session reports its hits together with its next miss, or when there are a hundred.';

-- The wires ------------------------------------------------------------------------

CREATE VIEW run_ops.stat_wire AS
  SELECT w.*, (1000 OPERATOR(pg_catalog.*) w.answer_seconds OPERATOR(pg_catalog./) nullif(w.answers, 0)) AS mean_ms
    FROM run_ops.wire_counters() AS w;
COMMENT ON VIEW run_ops.stat_wire IS
  'what all sessions did on their connections to each store, since the server has started. It has rows only if run_ops_split is in shared_preload_libraries.';
COMMENT ON COLUMN run_ops.stat_wire.connections IS 'how many connections were opened';
COMMENT ON COLUMN run_ops.stat_wire.failures IS 'how often the store could not be reached, or a connection was lost';
COMMENT ON COLUMN run_ops.stat_wire.pauses IS 'how many statements were refused because the store had failed in their session just before';
COMMENT ON COLUMN run_ops.stat_wire.answers IS 'how many answers have begun to arrive';
COMMENT ON COLUMN run_ops.stat_wire.answer_seconds IS 'how long sessions have waited for them: a round trip, and what the store does until it sends the first row';
COMMENT ON COLUMN run_ops.stat_wire.up_to IS 'times in seconds';
COMMENT ON COLUMN run_ops.stat_wire.answers_up_to IS 'how many answers took at most that time';
COMMENT ON COLUMN run_ops.stat_wire.mean_ms IS 'the mean time of an answer';

CREATE VIEW run_ops.stat_wire_errors AS
  SELECT w.store, w.sqlstate, w.errors FROM run_ops.wire_error_counters() AS w;
COMMENT ON VIEW run_ops.stat_wire_errors IS
  'how often each store has reported an error to a session, by SQLSTATE, since the server has started. It has rows only if run_ops_split is in shared_preload_libraries.';

-- Work in progress ----------------------------------------------------------------

CREATE FUNCTION run_ops.time_left(rows_left bigint, rows_done bigint, elapsed interval) RETURNS interval
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  RETURN CASE WHEN rows_left OPERATOR(pg_catalog.=) 0 THEN '0'::pg_catalog.interval
              ELSE elapsed OPERATOR(pg_catalog./) nullif(rows_done, 0)::pg_catalog.float8 OPERATOR(pg_catalog.*) rows_left::pg_catalog.float8 END;
COMMENT ON FUNCTION run_ops.time_left(bigint, bigint, interval) IS
  'how long the rest takes at the speed so far; NULL if that is not known';

CREATE VIEW run_ops.stat_progress AS
  SELECT 'cleanup' AS operation, pg_catalog.concat_ws(' ', p.scope, p.id) AS object, p.store,
         coalesce(p.rows_deleted, 0)::pg_catalog.int8 AS rows_done, false AS finished,
         p.started_at, coalesce(p.failed_at, p.started_at, p.requested_at) AS changed_at, p.error,
         p.rows_left, run_ops.time_left(p.rows_left, p.rows_done, pg_catalog.now() OPERATOR(pg_catalog.-) p.started_at) AS time_left
    FROM run_ops.cleanup_progress AS p
  UNION ALL
  SELECT CASE WHEN c.forward THEN 'move strays' ELSE 'repatriate' END, c.view::pg_catalog.text, c.store,
         c.copied, c.finished, c.started_at, c.changed_at, NULL,
         e.rows_left, run_ops.time_left(e.rows_left, c.compared, c.changed_at OPERATOR(pg_catalog.-) c.started_at)
    FROM run_ops.copy_progress AS c,
         LATERAL (SELECT CASE WHEN c.finished THEN 0 WHEN c.expected IS NOT NULL THEN greatest(c.expected OPERATOR(pg_catalog.-) c.compared, 0) END AS rows_left) AS e
  UNION ALL
  SELECT 'remove leftovers', l.view::pg_catalog.text, l.store, l.removed, l.finished, NULL, l.changed_at, NULL, NULL, NULL
    FROM run_ops.leftover AS l;
COMMENT ON VIEW run_ops.stat_progress IS
  'cleanups that are queued or running, and the progress of run_ops.repatriate(), run_ops.move_strays() and run_ops.remove_leftovers() in each table';
COMMENT ON COLUMN run_ops.stat_progress.rows_done IS 'the number of rows deleted, copied or removed';
COMMENT ON COLUMN run_ops.stat_progress.rows_left IS 'the number of rows that are still to be compared in this pass, or deleted, as far as statistics of the tables tell; NULL if that is not known. No table is read for it.';
COMMENT ON COLUMN run_ops.stat_progress.time_left IS 'how long that takes at the speed so far; NULL if one of both is not known';
COMMENT ON COLUMN run_ops.stat_progress.finished IS 'whether the current pass has reached the end of this table';

CREATE VIEW run_ops.stat_cleanup AS
  SELECT s.name AS store, pg_catalog.count(q.id) AS queued, pg_catalog.count(q.error) AS failing,
         pg_catalog.min(q.requested_at) AS oldest,
         (pg_catalog.array_agg(q.error ORDER BY q.failed_at DESC) FILTER (WHERE q.error IS NOT NULL))[1] AS error
    FROM run_ops.store AS s LEFT JOIN run_ops.cleanup_queue AS q ON q.store OPERATOR(pg_catalog.=) s.name
   GROUP BY s.name;
COMMENT ON VIEW run_ops.stat_cleanup IS
  'the cleanup queue of each store: how many environments and projects have rows to delete, how many cleanups fail, and the last error';

-- Gates ---------------------------------------------------------------------------

CREATE TABLE run_ops.recorded_gate (
  gate text, object text, ok boolean, detail text, hint text,
  checked_at timestamptz NOT NULL
);
COMMENT ON TABLE run_ops.recorded_gate IS 'the results of the last run_ops.record_check()';
COMMENT ON COLUMN run_ops.recorded_gate.gate IS 'the gate';
COMMENT ON COLUMN run_ops.recorded_gate.object IS 'the object that was checked; empty if there is only one';
COMMENT ON COLUMN run_ops.recorded_gate.ok IS 'whether the gate holds; NULL if it could not be checked, and then it fails as well';
COMMENT ON COLUMN run_ops.recorded_gate.detail IS 'what was found';
COMMENT ON COLUMN run_ops.recorded_gate.hint IS 'what to do';
COMMENT ON COLUMN run_ops.recorded_gate.checked_at IS 'when the gate was checked';

CREATE FUNCTION run_ops.record_check() RETURNS SETOF run_ops.gate
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  gates run_ops.gate[] := ARRAY(SELECT g FROM run_ops.check_split() AS g);
BEGIN
  LOCK TABLE run_ops.recorded_gate IN SHARE ROW EXCLUSIVE MODE;
  DELETE FROM run_ops.recorded_gate;
  INSERT INTO run_ops.recorded_gate SELECT g.*, clock_timestamp() FROM unnest(gates) AS g;
  RETURN QUERY SELECT g.* FROM unnest(gates) AS g WHERE g.ok IS NOT TRUE;
END $$;
COMMENT ON FUNCTION run_ops.record_check() IS
  'runs run_ops.check_split(), stores the results for run_ops.stat_gates, and returns the failing gates. Call it from cron, but not often: it reads whole tables to find strays.';

CREATE VIEW run_ops.stat_gates AS
  SELECT a.gate, a.object, a.ok, a.detail, a.hint, pg_catalog.now() AS checked_at
    FROM run_ops.local_gates() AS g, run_ops.acknowledged(g) AS a
  UNION ALL
  SELECT r.gate, r.object, r.ok, r.detail, r.hint, r.checked_at FROM run_ops.recorded_gate AS r
   WHERE r.gate OPERATOR(pg_catalog.<>) ALL (ARRAY['opted in', 'server', 'store', 'attached', 'preload', 'hidden name', 'refreshed', 'identity', 'foreign key', 'foreign key index', 'realtime'])
      OR r.object OPERATOR(pg_catalog.~~) '% in store "%';
COMMENT ON VIEW run_ops.stat_gates IS
  'the gates of split mode: gates that check this database only as of now, gates that query stores or read tables as of the last run_ops.record_check()';

-- Plans: which stores a query accesses -----------------------------------------------

CREATE FUNCTION run_ops.plan_relations(plans jsonb)
  RETURNS TABLE (view regclass, store text, relation text, node text, only_if text, remote_sql text)
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  WITH RECURSIVE node AS (
    SELECT p.value -> 'Plan' AS n, NULL::text AS only_if, ARRAY[p.ord] AS path
      FROM jsonb_array_elements(plans) WITH ORDINALITY AS p (value, ord)
    UNION ALL
    SELECT c.value,
           -- an InitPlan computes values for the filter, so the filter does not apply to it
           CASE WHEN c.value ->> 'Parent Relationship' = 'InitPlan' THEN node.only_if
                ELSE nullif(concat_ws(' AND ', node.only_if, node.n ->> 'One-Time Filter'), '') END,
           node.path || c.ord
      FROM node, jsonb_array_elements(node.n -> 'Plans') WITH ORDINALITY AS c (value, ord)
  ), copy AS (
    SELECT t.view, 'legacy' AS store, t.legacy AS relation FROM run_ops.routed_table AS t
    UNION ALL SELECT r.view, r.store, r.foreign_table FROM run_ops.routed_store AS r
    UNION ALL SELECT t.view, NULL, t.view FROM run_ops.routed_table AS t
  ), named AS (
    SELECT node.*, x.relation
      FROM node, LATERAL (
        SELECT format('%I.%I', node.n ->> 'Schema', node.n ->> 'Relation Name')
         WHERE node.n ? 'Relation Name'
        UNION ALL
        -- a join that runs in a store is one node with several relations
        SELECT f.oid::regclass::text FROM pg_class AS f
         WHERE f.relkind = 'f' AND node.n ? 'Relations'
           AND translate(node.n ->> 'Relations', ' ', ')') LIKE '%(' || replace(f.oid::regclass::text, '_', '\_') || ')%') AS x (relation)
  )
  SELECT c.view,
         CASE WHEN c.relation IS NOT NULL THEN c.store
              WHEN r.relkind = 'f' THEN (SELECT s.name FROM pg_foreign_table AS f JOIN pg_foreign_server AS v ON v.oid = f.ftserver
                                           JOIN run_ops.store AS s ON s.server = v.srvname WHERE f.ftrelid = r.oid)
              ELSE 'legacy' END,
         n.relation, coalesce(nullif(n.n ->> 'Operation', 'Select'), n.n ->> 'Node Type'),
         nullif(concat_ws(' AND ', n.only_if, n.n ->> 'One-Time Filter'), ''), n.n ->> 'Remote SQL'
    FROM named AS n LEFT JOIN pg_class AS r ON r.oid = to_regclass(n.relation)
    LEFT JOIN copy AS c ON c.relation = coalesce(pg_partition_root(r.oid), r.oid)
   ORDER BY n.path, n.relation
$$;
COMMENT ON FUNCTION run_ops.plan_relations(jsonb) IS
  'the relations in the output of EXPLAIN (FORMAT JSON, VERBOSE), and the store of each';

-- No SET search_path, because the query needs that of the caller; nothing else
-- here depends on it.  A cursor accepts only one statement, so that the query
-- cannot append another statement to EXPLAIN.
CREATE FUNCTION run_ops.explain(query text)
  RETURNS TABLE (view regclass, store text, relation text, node text, only_if text, remote_sql text)
  LANGUAGE plpgsql
AS $$
DECLARE
  explanation pg_catalog.refcursor;
  plans       pg_catalog.json;
BEGIN
  OPEN explanation FOR EXECUTE pg_catalog.concat('EXPLAIN (FORMAT JSON, VERBOSE) ', query);
  FETCH explanation INTO plans;
  CLOSE explanation;
  RETURN QUERY SELECT * FROM run_ops.plan_relations(plans::pg_catalog.jsonb);
END $$;
COMMENT ON FUNCTION run_ops.explain(text) IS
  'which stores a query accesses: one row for each table in its plan, with its view and store. only_if is a condition that decides at each execution whether the table is read at all. store is NULL for a write through the view, where each row decides. The query is planned, but not run.';

-- SECURITY DEFINER: the caller need not be able to read the tables.  It learns the
-- store of a row, and nothing of its contents.
CREATE FUNCTION run_ops.whereabouts(view regclass, id text) RETURNS text
  LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT run_ops.locate(view, id) $$;
COMMENT ON FUNCTION run_ops.whereabouts(regclass, text) IS
  'run_ops.locate() for roles that may not read the tables, see run_ops.grant_viewer()';

-- Sessions that wait ---------------------------------------------------------------

-- The wait event is that of every extension: without the library in
-- shared_preload_libraries a session may wait for something else.
CREATE VIEW run_ops.stat_waits AS
  SELECT a.pid, a.usename AS role, a.application_name, w.store, w.waits_for,
         coalesce(w.since, a.query_start) AS since, a.xact_start AS transaction_since, a.query
    FROM pg_catalog.pg_stat_activity AS a LEFT JOIN run_ops.wire_waits() AS w ON w.pid OPERATOR(pg_catalog.=) a.pid
   WHERE a.datname OPERATOR(pg_catalog.=) pg_catalog.current_database() AND a.state OPERATOR(pg_catalog.=) 'active'
     AND a.wait_event_type OPERATOR(pg_catalog.=) 'Extension';
COMMENT ON VIEW run_ops.stat_waits IS
  'sessions of this database that wait for a store now. store is NULL if run_ops_split is not in shared_preload_libraries, or if the session waits in another extension.';
COMMENT ON COLUMN run_ops.stat_waits.waits_for IS 'connection, answer or commit';
COMMENT ON COLUMN run_ops.stat_waits.since IS 'since when the store has been silent; if store is NULL, when the statement began';

-- Privileges -------------------------------------------------------------------------

REVOKE EXECUTE ON FUNCTION run_ops.ask_stats(), run_ops.whereabouts(regclass, text), run_ops.mint_flips(), run_ops.mint_kinds(), run_ops.record_check(), run_ops.wire_waits(), run_ops.wire_counters(), run_ops.wire_error_counters() FROM PUBLIC;
GRANT USAGE ON SCHEMA run_ops TO pg_monitor;
GRANT EXECUTE ON FUNCTION run_ops.ask_stats(), run_ops.mint_flips(), run_ops.mint_kinds(), run_ops.wire_waits(), run_ops.wire_counters(), run_ops.wire_error_counters() TO pg_monitor;
GRANT SELECT ON run_ops.stat_stores, run_ops.stat_routing, run_ops.stat_connections, run_ops.stat_progress,
  run_ops.stat_cleanup, run_ops.stat_gates, run_ops.stat_cache_lookups, run_ops.stat_wire, run_ops.stat_wire_errors, run_ops.stat_waits TO pg_monitor;
GRANT SELECT ON run_ops.stat_cache TO PUBLIC;
-- it reads whole tables, like the functions of pgstattuple
GRANT EXECUTE ON FUNCTION run_ops.record_check() TO pg_stat_scan_tables;

-- next_step: what to do now, on the road to split mode or on the way back.
--
-- The gates say what to do, in their hints.  This file only puts them in order,
-- takes the SQL out of the hints, and says the same of the states for which there
-- is no gate: rows that are being copied, a copy, a standby.  It remembers nothing:
-- each call looks at the state as it is.

CREATE FUNCTION run_ops.until_done(call text) RETURNS text
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
  RETURN pg_catalog.format(E'DO $$\nDECLARE\n  finished boolean := false;\nBEGIN\n  WHILE NOT finished LOOP\n'
                           '    finished := (SELECT s.done FROM %s AS s);\n    COMMIT;\n  END LOOP;\nEND $$;', call);
COMMENT ON FUNCTION run_ops.until_done(text) IS 'an SQL command that repeats a call until it is done, with a commit after each';

CREATE FUNCTION run_ops.parts_of_hint(hint text) RETURNS TABLE (words text, place text, sql text)
  LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  prose     CONSTANT text := '^(.*?)([Rr]un in (?:this database|store "[^"]+"): |[Rr]un on (?:its primary|each standby): |'
                             '(?=\m(?:SELECT|ALTER|CREATE|DROP|GRANT|REVOKE|WITH|INSERT|UPDATE|DELETE|BEGIN|COMMIT|ROLLBACK|ANALYZE)\M)|$)';
  -- quoted texts and names may contain anything; the definition of a function is
  -- quoted as pg_get_functiondef() does it
  statement CONSTANT text := '^(?:''[^'']*''|"[^"]*"|\$function\$(?:[^$]|\$(?!function\$))*\$function\$|[^;''"$]|\$(?!function\$))+;';
  rest text := hint;
  part text[];
BEGIN
  words := '';
  place := 'this database';
  WHILE rest <> '' LOOP
    part := regexp_match(rest, prose);
    words := words || part[1];
    rest := substr(rest, length(part[1] || part[2]) + 1);
    IF part[2] <> '' THEN
      place := coalesce(substring(part[2], '"(.*)"'), substring(part[2], 'on (.*): '), 'this database');
    ELSIF rest ~ statement THEN
      words := btrim(words, ' ;:,');
      sql := substring(rest, statement);
      rest := substr(rest, length(sql) + 1);
      IF words ~ 'repeat until done$' THEN
        sql := run_ops.until_done(substring(sql, 'run_ops\..*\)'));
      END IF;
      RETURN NEXT;
      words := '';
      sql := NULL;
    ELSIF rest <> '' THEN
      -- a verb without a statement
      words := words || substring(rest, '^\w+');
      rest := substr(rest, length(substring(rest, '^\w+')) + 1);
    END IF;
  END LOOP;
  words := btrim(words, ' ;:,');
  RETURN QUERY SELECT words, place, sql WHERE words <> '';
END $$;
COMMENT ON FUNCTION run_ops.parts_of_hint(text) IS
  'the statements of a hint, the words before each, and where it is to be run: in this database, a store, on the primary or a standby; words that no statement follows are the last row';

CREATE FUNCTION run_ops.steps_of_hint(hint text) RETURNS TABLE (way int, action text, place text, sql text)
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  WITH part AS (
    SELECT p.*, sum((p.ord > 1 AND p.sql IS NOT NULL AND p.words ~* '\mor\M|^to accept it')::int) OVER (ORDER BY p.ord) AS way,
           -- what cannot be in one transaction with other commands
           p.sql ~ '^(CREATE (UNIQUE )?INDEX CONCURRENTLY|CREATE DATABASE|ALTER SYSTEM|DO|SELECT pg_reload_conf)\M' AS alone
      FROM run_ops.parts_of_hint(hint) WITH ORDINALITY AS p (words, place, sql, ord)
  ), way AS (
    -- '...' is a value that only the reader knows
    SELECT p.*, coalesce(bool_or(p.sql LIKE '%''...''%') OVER (PARTITION BY p.way), false) AS blanks,
           lag(p.place) OVER w IS DISTINCT FROM p.place OR lag(p.way) OVER w <> p.way OR p.alone OR lag(p.alone) OVER w OR p.words <> '' AS starts
      FROM part AS p WINDOW w AS (ORDER BY p.ord)
  ), step AS (
    SELECT w.*, sum((w.starts AND w.sql IS NOT NULL OR w.ord = 1)::int) OVER (ORDER BY w.ord) AS step FROM way AS w
  )
  SELECT s.way::int, CASE WHEN s.blanks THEN string_agg(concat_ws(': ', nullif(s.words, ''), s.sql), ' ' ORDER BY s.ord)
              ELSE coalesce(regexp_replace(string_agg(nullif(s.words, ''), '. ' ORDER BY s.ord), '^To accept it', 'Or accept it, with your reason'), 'Run this.') END,
         (array_agg(s.place ORDER BY s.ord))[1],
         CASE WHEN s.blanks THEN NULL ELSE string_agg(s.sql, ' ' ORDER BY s.ord) END
    FROM step AS s
   GROUP BY s.way, s.blanks, CASE WHEN s.blanks THEN 0 ELSE s.step END
   ORDER BY min(s.ord)
$$;
COMMENT ON FUNCTION run_ops.steps_of_hint(text) IS
  'a hint as steps: what to do in words, where, and the SQL that can be executed as it stands; NULL if there is none, or if it lacks a value. Steps of the first way are those with way 0, others are alternatives.';

CREATE FUNCTION run_ops.copy_is_complete(going_forward boolean) RETURNS boolean
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT run_ops.reason_to_compare_all(going_forward) IS NULL
      -- without tracking, the end of a pass is the start of the next
      OR EXISTS (SELECT FROM run_ops.change_tracking AS n WHERE n.error IS NOT NULL)
     AND NOT EXISTS (SELECT FROM run_ops.routed_store AS r LEFT JOIN run_ops.copy_progress AS c ON (c.view, c.store, c.forward) = (r.view, r.store, going_forward)
                      WHERE (c.batches > 0 AND c.position IS NULL AND NOT c.finished) IS NOT TRUE)
$$;
COMMENT ON FUNCTION run_ops.copy_is_complete(boolean) IS
  'whether run_ops.repatriate() or run_ops.move_strays() has copied all rows once, so that the switch may follow';
REVOKE EXECUTE ON FUNCTION run_ops.copy_is_complete(boolean) FROM PUBLIC;

CREATE FUNCTION run_ops.state_in_words() RETURNS text
  LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT concat(CASE WHEN pg_is_in_recovery() THEN 'this is a standby; ' END,
    CASE WHEN x.split = 'on' THEN 'split is on'
         WHEN x.split = 'suspended' THEN 'split is suspended: ' || x.reason
         WHEN s.moving THEN 'split is off, and rows of this database are being moved to the stores'
         ELSE 'split is off: ' || x.reason END)
    FROM run_ops.split_status AS x, run_ops.split_state AS s
$$;
COMMENT ON FUNCTION run_ops.state_in_words() IS 'the state of split mode, as in run_ops.split_status, in words';

CREATE FUNCTION run_ops.ids_in_words() RETURNS text
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  SELECT concat_ws(' ',
    'Kinds of new ids, and how many organizations have them: ' || (SELECT nullif(string_agg(format('%s %s', k.organizations, k.kind), ', ' ORDER BY k.kind), '') FROM run_ops.mint_kinds() AS k)
      || CASE WHEN NOT run_ops.setting('mint_enabled')::boolean THEN ' (run_ops_split.mint_enabled is off, so every new id is a cuid).' ELSE '.' END,
    (SELECT format('%s flips come into force by %s.', count(*), max(f.becomes_at)) FROM run_ops.mint_flips() AS f HAVING count(*) > 0))
$$;
COMMENT ON FUNCTION run_ops.ids_in_words() IS 'the kinds of new ids and pending flips, in words; empty if the control plane is not attached';
REVOKE EXECUTE ON FUNCTION run_ops.ids_in_words() FROM PUBLIC;

CREATE FUNCTION run_ops.steps_of_gates(state text, gates run_ops.gate[]) RETURNS TABLE (state text, action text, place text, sql text, why text)
  LANGUAGE sql SET search_path = pg_catalog, pg_temp
AS $$
  -- all first ways before all others, so that what follows an "Or" is another way
  SELECT steps_of_gates.state, CASE WHEN h.way > 0 AND h.first AND h.action !~ '^Or\M' THEN 'Or: ' || h.action ELSE h.action END,
         h.place, h.sql, concat_ws(': ', nullif(g.object, ''), g.detail)
    FROM unnest(gates) WITH ORDINALITY AS g (gate, object, ok, detail, hint, ord),
         LATERAL (SELECT x.*, row_number() OVER (PARTITION BY x.way ORDER BY x.ord) = 1 AS first
                    FROM run_ops.steps_of_hint(coalesce(g.hint, 'Find out why, and call this function again.')) WITH ORDINALITY AS x (way, action, place, sql, ord)) AS h
   ORDER BY h.way > 0, g.ord, h.ord
$$;
COMMENT ON FUNCTION run_ops.steps_of_gates(text, run_ops.gate[]) IS 'the steps in the hints of gates; see run_ops.next_step()';

CREATE FUNCTION run_ops.step_without_stores(state text) RETURNS TABLE (state text, action text, place text, sql text, why text)
  LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
  SELECT step_without_stores.state, 'Or do without the rows of the stores.', 'this database', 'SELECT run_ops.disable_split(force => true);',
         'The views show the rows of this database only, and nothing deletes those of the stores.'
$$;
COMMENT ON FUNCTION run_ops.step_without_stores(text) IS 'the step that leaves the rows of the stores out; see run_ops.next_step()';

CREATE FUNCTION run_ops.steps_forward() RETURNS TABLE (state text, action text, place text, sql text, why text)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  s     run_ops.split_state;
  bound boolean;
  gates run_ops.gate[];
  first text;
  here  run_ops.gate[];
  others bigint;
BEGIN
  SELECT * INTO s FROM run_ops.split_state;
  bound := run_ops.server_identity() = ANY (s.identities) OR NOT EXISTS (SELECT FROM run_ops.store AS r WHERE r.server IS NOT NULL);
  state := run_ops.state_in_words();
  place := 'this database';
  -- Not check_split(), which may change foreign tables.  The gate "server" is the
  -- one that enable_split() mends.  A copy cannot read the tables of stores, and what
  -- it cannot check, enable_split() does.
  gates := ARRAY(SELECT a FROM run_ops.gates() AS g, run_ops.acknowledged(g) AS a WHERE g.gate <> 'server' AND (bound OR g.ok IS NOT NULL));
  -- those first on which others depend, and one that says what to do
  first := (SELECT g.gate FROM unnest(gates) WITH ORDINALITY AS g WHERE g.ok IS NOT TRUE
             ORDER BY array_position(ARRAY['complete', 'store', 'attached', 'refreshed', 'opted in', 'reachable'], g.gate), g.hint IS NULL, g.ordinality LIMIT 1);
  IF first IS NOT NULL THEN
    -- what mends one of these often mends the others
    here := ARRAY(SELECT ROW(g.gate, g.object, g.ok, g.detail, g.hint)::run_ops.gate FROM unnest(gates) WITH ORDINALITY AS g
                   WHERE g.gate = first AND g.ok IS NOT TRUE ORDER BY g.ordinality LIMIT CASE first WHEN 'complete' THEN 1 END);
    others := (SELECT count(*) FROM unnest(gates) AS g WHERE g.ok IS NOT TRUE AND g.gate <> first);
    state := concat(state, format('; gate "%s" fails', first), CASE WHEN others > 0 THEN format(', and %s rows of other gates', others) END);
    RETURN QUERY SELECT * FROM run_ops.steps_of_gates(steps_forward.state, here);
    RETURN QUERY SELECT * FROM run_ops.step_without_stores(steps_forward.state) WHERE NOT bound OR s.enabled AND first = 'reachable';
    RETURN;
  END IF;
  state := state || '; every gate holds';
  -- What gates offer although they hold: before the switch only what is better done
  -- before it, and nothing that a copy refuses.
  first := (SELECT g.gate FROM unnest(gates) WITH ORDINALITY AS g
             WHERE g.hint IS NOT NULL AND bound AND (s.enabled OR g.gate IN ('atomic commit', 'strays', 'write lock'))
             ORDER BY array_position(ARRAY['atomic commit', 'strays', 'write lock'], g.gate), g.ordinality LIMIT 1);
  here := ARRAY(SELECT ROW(g.gate, g.object, g.ok, g.detail, g.hint)::run_ops.gate FROM unnest(gates) WITH ORDINALITY AS g
                 WHERE g.gate = first AND g.hint IS NOT NULL ORDER BY g.ordinality);
  IF s.enabled AND here = '{}' THEN
    here := ARRAY(SELECT ROW('', f.foreign_table, true, 'the planner has no statistics of this foreign table', format('ANALYZE %s;', f.foreign_table))::run_ops.gate
                    FROM run_ops.routed_store AS f JOIN pg_class AS c ON c.oid = f.foreign_table
                   -- before 16, ANALYZE would read the whole table of the store
                   WHERE c.reltuples < 0 AND current_setting('server_version_num')::int >= 160000 ORDER BY f.foreign_table::text);
  END IF;
  RETURN QUERY SELECT * FROM run_ops.steps_of_gates(steps_forward.state, here);
  IF s.enabled AND bound THEN
    action := 'Nothing is to be done.';
    why := concat_ws(' ', 'Every gate holds.', run_ops.ids_in_words());
    IF here = '{}' THEN
      RETURN NEXT;
    END IF;
    RETURN;
  END IF;
  action := CASE WHEN here <> '{}' THEN 'Or go on without it. ' ELSE '' END;
  IF (s.superseded OR s.moving) AND bound AND NOT run_ops.copy_is_complete(true) THEN
    action := action || 'Copy the rows that belong to a store there.';
    sql := run_ops.until_done('run_ops.move_strays()');
    why := 'The service goes on meanwhile. Then split can be switched on.';
    RETURN NEXT;
    RETURN;
  END IF;
  action := action || CASE WHEN bound THEN 'Switch split on.'
    ELSE 'If this database replaces the original, which must be shut down: let this server use the stores, and switch split on.' END;
  sql := 'SELECT run_ops.enable_split();';
  why := 'Every gate holds. SELECT run_ops.enable_split(dry_run => true); tells for how long writes would be blocked.';
  RETURN NEXT;
  RETURN QUERY SELECT * FROM run_ops.step_without_stores(steps_forward.state) WHERE NOT bound;
END $$;
COMMENT ON FUNCTION run_ops.steps_forward() IS 'what to do now so that split is on; see run_ops.next_step()';
REVOKE EXECUTE ON FUNCTION run_ops.steps_forward() FROM PUBLIC;

CREATE FUNCTION run_ops.steps_back() RETURNS TABLE (state text, action text, place text, sql text, why text)
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  s      run_ops.split_state;
  status record;
  g      run_ops.gate;
  flags  text;
BEGIN
  SELECT * INTO s FROM run_ops.split_state;
  SELECT * INTO status FROM run_ops.split_status;
  state := run_ops.state_in_words();
  place := 'this database';
  IF status.split = 'suspended' THEN
    RETURN QUERY SELECT * FROM run_ops.step_without_stores(steps_back.state);
    RETURN;
  ELSIF s.superseded OR NOT s.enabled AND (s.changed_at IS NULL OR status.stores = '{}' OR run_ops.server_identity() <> ALL (s.identities)) THEN
    action := 'Nothing is to be done.';
    why := 'The views show the rows of this database, and no store is asked.';
    RETURN NEXT;
    RETURN;
  END IF;
  SELECT * INTO g FROM run_ops.complete_gates() LIMIT 1;
  IF NOT FOUND THEN
    SELECT x.* INTO g FROM run_ops.reachable_gates(ARRAY(SELECT r.name FROM run_ops.store AS r WHERE r.server IS NOT NULL)) AS x WHERE x.gate = 'reachable' AND NOT x.ok LIMIT 1;
  END IF;
  IF FOUND THEN
    state := format('%s; gate "%s" fails', state, g.gate);
    RETURN QUERY SELECT * FROM run_ops.steps_of_gates(steps_back.state, ARRAY[g]);
    RETURN QUERY SELECT * FROM run_ops.step_without_stores(steps_back.state) WHERE s.enabled;
    RETURN;
  END IF;
  flags := run_ops.minting_legacy_ids();
  IF flags IS NOT NULL AND s.enabled THEN
    sql := flags;
    action := 'Let all new ids be LEGACY ids.';
    why := format('New rows would still be written to a store. The previous kind stays in force for %s, and rows can be copied meanwhile.', run_ops.setting('mint_flip_grace'));
    RETURN NEXT;
    action := 'Or at once, and then reload the configuration:';
    sql := 'ALTER SYSTEM SET run_ops_split.mint_enabled = off;';
    RETURN NEXT;
    action := 'Reload the configuration.';
    sql := 'SELECT pg_reload_conf();';
    RETURN NEXT;
    RETURN;
  END IF;
  IF NOT run_ops.stores_have_rows() THEN
    action := CASE WHEN s.enabled THEN 'Switch split off.' ELSE 'Nothing is to be done.' END;
    sql := CASE WHEN s.enabled THEN 'SELECT run_ops.disable_split();' END;
    why := 'The stores have no rows.';
  ELSIF NOT run_ops.copy_is_complete(false) THEN
    action := 'Copy the rows of the stores to this database.';
    sql := run_ops.until_done('run_ops.repatriate()');
    why := 'The service goes on meanwhile, and split stays as it is. SELECT * FROM run_ops.stat_progress; tells how far it is.';
  -- whole tables, so only if a row was skipped
  ELSIF EXISTS (SELECT FROM run_ops.copy_progress AS c WHERE c.skipped > 0) AND EXISTS (SELECT FROM run_ops.repatriation_conflicts()) THEN
    action := 'Delete or change one row of each of these pairs, through the views.';
    sql := 'SELECT * FROM run_ops.repatriation_conflicts();';
    why := 'Rows of the stores cannot be copied, because rows of this database have the same unique value.';
  ELSE
    action := 'Copy the rows that have changed last, and switch split off.';
    sql := 'SELECT run_ops.disable_split(repatriated => true);';
    why := 'All rows have been copied once. SELECT run_ops.disable_split(repatriated => true, dry_run => true); tells for how long writes would be blocked.';
  END IF;
  IF NOT s.enabled THEN
    state := state || '; the views leave out the rows of the stores';
  END IF;
  RETURN NEXT;
END $$;
COMMENT ON FUNCTION run_ops.steps_back() IS 'what to do now so that split is off, and all rows are in this database; see run_ops.next_step()';
REVOKE EXECUTE ON FUNCTION run_ops.steps_back() FROM PUBLIC;

-- SECURITY DEFINER for the reason given in split_mode.sql.
CREATE FUNCTION run_ops.next_step(goal text DEFAULT 'on') RETURNS TABLE (state text, action text, place text, sql text, why text)
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
  IF goal IS NULL OR goal NOT IN ('on', 'off') THEN
    RAISE EXCEPTION 'invalid goal %', coalesce(quote_literal(goal), 'NULL')
      USING ERRCODE = 'invalid_parameter_value', HINT = 'The goal is ''on'', the road to split mode, or ''off'', the way back.';
  ELSIF pg_is_in_recovery() THEN
    RETURN QUERY SELECT * FROM run_ops.steps_of_gates(run_ops.state_in_words(), ARRAY(SELECT g FROM run_ops.server_gates() AS g WHERE g.gate = 'server'));
  ELSIF goal = 'on' THEN
    RETURN QUERY SELECT * FROM run_ops.steps_forward();
  ELSE
    RETURN QUERY SELECT * FROM run_ops.steps_back();
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.next_step(text) IS
  'what to do now: the state, what to do in words, where (this database, the name of a store, its primary, each standby), SQL that can be executed as it stands, and why. The rows are steps in their order, up to one whose action begins with "Or": from there on they are another way. Call it again after the steps. goal: on, the road to split mode, or off, the way back. Changes nothing; goal on checks all gates as run_ops.check_split() does.';

-- run_ops.grant_admin() grants EXECUTE on these functions.  Here, because this is the
-- last file.
DO $$
DECLARE
  admin text;
BEGIN
  FOREACH admin IN ARRAY run_ops.admin_functions() || ARRAY['run_ops.grant_admin(regrole)', 'run_ops.grant_viewer(regrole)'] LOOP
    EXECUTE pg_catalog.format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', admin);
  END LOOP;
END $$;

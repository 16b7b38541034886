
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

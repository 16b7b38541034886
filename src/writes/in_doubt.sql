
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

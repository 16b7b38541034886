
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

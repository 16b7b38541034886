
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

CREATE FUNCTION run_ops.try_locks_held_there(stores text[], keys bigint[]) RETURNS TABLE (store text, is_free boolean, error text)
  LANGUAGE c STRICT
  AS 'MODULE_PATHNAME', 'run_ops_try_locks_held_there';
COMMENT ON FUNCTION run_ops.try_locks_held_there(text[], bigint[]) IS
  'takes an advisory lock in each of these stores at the same time, and tries the same ones here: true means that the store is another database';
REVOKE EXECUTE ON FUNCTION run_ops.try_locks_held_there(text[], bigint[]) FROM PUBLIC;

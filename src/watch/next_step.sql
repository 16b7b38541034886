
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
             ORDER BY array_position(ARRAY['version', 'complete', 'store', 'attached', 'refreshed', 'opted in', 'reachable'], g.gate), g.hint IS NULL, g.ordinality LIMIT 1);
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

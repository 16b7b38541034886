-- Prints docs/reference.md from the comments in the catalog: psql -XAtq, in a
-- database that has the extension.  Two things are not in the catalog and are
-- given here: which functions users call and for which task, and the meaning of
-- the SQLSTATEs.
\set ON_ERROR_STOP on
\pset footer off
SET client_min_messages = warning;
SET search_path = pg_catalog;
LOAD 'run_ops_split';

CREATE TEMP TABLE task (ord int GENERATED ALWAYS AS IDENTITY, title text, functions text);
INSERT INTO task (title, functions) VALUES
  ('Attach stores and tables', 'attach_store attach_all_tables attach_table same_shape_commands declare_same_shape undeclare_same_shape refresh_table detach_table detach_store attach_control_plane detach_control_plane attach_cleanup'),
  ('Switch', 'configure_split check_split next_step acknowledge withdraw_acknowledgement acknowledgeable_gates enable_split disable_split split_enabled databases_co_resident server_identity library_version trust_standby grant_admin admin_functions grant_viewer viewer_functions'),
  ('The way back, and forward again', 'repatriate repatriation_conflicts verify_repatriation move_strays remove_leftovers set_key_rule'),
  ('Read', 'locate find_strays lock_row resides'),
  ('Write', 'store_write_lock allow_strays in_doubt resolve_in_doubt'),
  ('Ids', 'owner_engine try_owner_engine is_classifiable classify_kind resolve_shard id_timestamp friendly_id id_body generate_cuid generate_ksuid generate_run_ops_id generate_run_ops_id_v2'),
  ('Mint', 'mint_run_id mint_batch_id mint_waitpoint_id resolve_mint_kind resolve_inherited_mint_kind effective_mint_kind resolve_mint_shard set_mint_shards mint_shards_in_force'),
  ('Waitpoints', 'resolve_unblock_store select_store_for_waitpoint'),
  ('Control plane', 'resolve_env resolve_envs resolve_authenticated_env resolve_authenticated_envs resolve_event_env resolve_event_envs env_exists envs_exist assert_env_exists assert_envs_exist resolve_run_locked_worker resolve_run_locked_workers resolve_locked_task resolve_locked_tasks resolve_locked_version resolve_locked_versions resolve_worker_version resolve_worker_versions run_context run_contexts invalidate_environment invalidate_organization cache_stats cache_reset'),
  ('Watch', 'explain whereabouts record_check mint_flips mint_kinds'),
  ('Delete', 'cleanup cleanup_environment cleanup_project'),
  ('Retention', 'partition_store_table id_floor');

CREATE TEMP TABLE error_code (sqlstate text, meaning text, todo text);
INSERT INTO error_code VALUES
  ('RO001', 'the length and characters of an id fit no kind', 'correct the id; `run_ops.try_owner_engine()` returns NULL instead of this error'),
  ('RO002', 'a table or database differs between this database and a store', 'make both sides equal; DETAIL lists all differences'),
  ('RO003', 'a gate of split mode fails', '`run_ops.check_split()` shows the gate, and `hint` says what to do'),
  ('RO004', 'this is a copy of the database in which the stores were attached', '`run_ops.enable_split()` binds the stores to this server; `run_ops.disable_split(force => true)` leaves their rows out'),
  ('RO010', 'an UPDATE would move a row from one store to another', 'insert a new row and delete the old one'),
  ('RO011', 'a row is written to a table of the wrong store', 'write through the view of the table'),
  ('RO012', 'a transaction writes to more than one database', 'write to one database in a transaction, or set `run_ops_split.cross_store_writes`');

CREATE TEMP VIEW member AS
  SELECT d.classid, d.objid FROM pg_depend AS d JOIN pg_extension AS e ON d.refobjid = e.oid AND e.extname = 'run_ops_split'
   WHERE d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass;
CREATE TEMP VIEW function AS
  SELECT p.oid, p.proname AS name, p.prokind,
         (SELECT t.ord FROM pg_temp.task AS t WHERE p.proname = ANY (string_to_array(t.functions, ' '))) AS task,
         (SELECT array_position(string_to_array(t.functions, ' '), p.proname::text)
            FROM pg_temp.task AS t WHERE p.proname = ANY (string_to_array(t.functions, ' '))) AS place,
         format(E'- **%s**`(%s)%s`%s\n  %s',
           p.proname,
           regexp_replace(pg_get_function_arguments(p.oid), '(DEFAULT (?:NULL|''[^'']*''))::[a-z_. ]+(?:\[\])?', '\1', 'g'),
           ' → ' || nullif(pg_get_function_result(p.oid), 'void'),
           CASE WHEN has_function_privilege('public', p.oid, 'EXECUTE') THEN ''
                WHEN p.oid::regprocedure::text IN (SELECT unnest(run_ops.admin_functions())::regprocedure::text) THEN ' *(admin)*'
                ELSE ' *(owner)*' END,
           replace(obj_description(p.oid, 'pg_proc'), '<', '\<')) AS entry
    FROM pg_temp.member JOIN pg_proc AS p ON classid = 'pg_proc'::regclass AND objid = p.oid;
CREATE TEMP VIEW relation AS
  SELECT c.relname AS name,
         CASE c.relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' WHEN 'c' THEN 'type' END AS kind,
         format('- **%s**: %s%s', c.relname, coalesce(obj_description(t.oid, 'pg_type'), obj_description(c.oid, 'pg_class')), (
           -- one line for each column if columns have comments
           SELECT CASE WHEN count(col_description(c.oid, a.attnum)) > 0
             THEN string_agg(format(E'\n  - `%s` %s%s', a.attname, format_type(a.atttypid, a.atttypmod),
                                    ': ' || replace(col_description(c.oid, a.attnum), '<', '\<')), '' ORDER BY a.attnum)
             ELSE E'\n  - ' || string_agg(format('`%s` %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum) END
             FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)) AS entry
    FROM pg_class AS c
    LEFT JOIN pg_type AS t ON t.typrelid = c.oid AND c.relkind = 'c'
   WHERE (('pg_class'::regclass, c.oid) IN (SELECT classid, objid FROM pg_temp.member)
          OR ('pg_type'::regclass, t.oid) IN (SELECT classid, objid FROM pg_temp.member))
     AND c.relkind IN ('r', 'v', 'c');

-- a name that is no function would be left out silently
DO $$
DECLARE
  unknown text := (SELECT string_agg(n, ', ') FROM pg_temp.task, unnest(string_to_array(functions, ' ')) AS n
                    WHERE n NOT IN (SELECT name FROM pg_temp.function));
BEGIN
  IF unknown IS NOT NULL THEN
    RAISE EXCEPTION 'scripts/reference.sql names functions that do not exist: %', unknown;
  END IF;
END $$;

\echo '# Reference'
\echo
\echo 'All objects in schema `run_ops`. `make reference` generates this page from the comments in the catalog; `\\df+ run_ops.*`'
\echo 'shows the same in psql. Do not edit it: change the `COMMENT ON` in `src/` instead.'
\echo
\echo '*(admin)*: only the owner, and roles with `run_ops.grant_admin(role)`, may call the function.'
\echo '*(owner)*: only the owner may call it. All other functions: everybody.'
\echo
\echo '[Functions](#functions) · [Views](#views) · [Tables](#tables) · [Types](#types) · [Settings](#settings) ·'
\echo '[Errors](#errors) · [Other objects](#other-objects) · [Inside](#inside)'
\echo
\echo '## Functions'
SELECT format(E'\n### %s\n\n%s', t.title, string_agg(f.entry, E'\n' ORDER BY f.place, f.entry COLLATE "C"))
  FROM pg_temp.task AS t JOIN pg_temp.function AS f ON f.task = t.ord GROUP BY t.ord, t.title ORDER BY t.ord;
\echo
\echo '## Views'
\echo
\echo 'In addition, each routed table has a view of the same name, in this schema unless `attach_table` was called with another.'
\echo
SELECT entry FROM pg_temp.relation WHERE kind = 'view' ORDER BY name COLLATE "C";
\echo
\echo '## Tables'
\echo
SELECT entry FROM pg_temp.relation WHERE kind = 'table' ORDER BY name COLLATE "C";
\echo
\echo '## Types'
\echo
SELECT format('- **%s** (%s): %s', t.typname,
         (SELECT string_agg(format('`%s`', e.enumlabel), ', ' ORDER BY e.enumsortorder) FROM pg_enum AS e WHERE e.enumtypid = t.oid),
         obj_description(t.oid, 'pg_type'))
  FROM pg_temp.member JOIN pg_type AS t ON classid = 'pg_type'::regclass AND objid = t.oid
 WHERE t.typtype = 'e' ORDER BY t.typname COLLATE "C";
SELECT entry FROM pg_temp.relation WHERE kind = 'type' ORDER BY name COLLATE "C";
\echo
\echo '## Settings'
\echo
\echo '`user`: any session may set it. `superuser`: a superuser may set it, or a role with the `SET` privilege on it. `sighup`: it is'
\echo 'set in postgresql.conf or with `ALTER SYSTEM`, and takes effect after a reload.'
\echo
\echo '| setting | default | values | set by | meaning |'
\echo '| --- | --- | --- | --- | --- |'
SELECT format('| `%s` | `%s` | %s | %s | %s |', s.name, coalesce(nullif(concat(s.boot_val, s.unit), ''), ''''''),
         CASE s.vartype WHEN 'bool' THEN 'on, off' WHEN 'enum' THEN array_to_string(s.enumvals, ', ')
                        WHEN 'string' THEN 'text'
                        WHEN 'integer' THEN format('%s to %s', s.min_val, CASE s.max_val WHEN '2147483647' THEN 'any' ELSE s.max_val END) END,
         s.context, concat_ws(' ', s.short_desc, s.extra_desc))
  FROM pg_settings AS s WHERE s.name LIKE 'run\_ops\_split.%' ORDER BY s.name COLLATE "C";
\echo
\echo '## Errors'
\echo
\echo 'SQLSTATEs of class RO belong to this extension; other errors have the SQLSTATEs of PostgreSQL. [operating.md](operating.md#errors) lists both.'
\echo
\echo '| SQLSTATE | meaning | what to do |'
\echo '| --- | --- | --- |'
SELECT format('| `%s` | %s | %s |', sqlstate, meaning, todo) FROM pg_temp.error_code ORDER BY sqlstate;
\echo
\echo '## Other objects'
\echo
SELECT format('- %s: %s', pg_describe_object(classid, objid, 0), obj_description(objid, classid::regclass::name))
  FROM pg_temp.member
 WHERE classid NOT IN ('pg_proc'::regclass, 'pg_class'::regclass, 'pg_type'::regclass)
    OR EXISTS (SELECT FROM pg_class AS c WHERE classid = 'pg_class'::regclass AND c.oid = objid AND c.relkind NOT IN ('r', 'v', 'c'))
 ORDER BY pg_describe_object(classid, objid, 0) COLLATE "C";
\echo
\echo '## Inside'
\echo
\echo 'Functions that the functions above use. They may change with any release.'
\echo
SELECT entry FROM pg_temp.function WHERE task IS NULL ORDER BY entry COLLATE "C";

-- What holds for every object of the extension.
CREATE DATABASE regress_catalog;
\c regress_catalog
SET client_min_messages = warning;
CREATE EXTENSION run_ops_split CASCADE;
CREATE VIEW member AS
  SELECT d.classid, d.objid, pg_describe_object(d.classid, d.objid, 0) AS object
    FROM pg_depend AS d JOIN pg_extension AS e ON d.refobjid = e.oid AND e.extname = 'run_ops_split'
   WHERE d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass;

-- everything says what it is (a row type has the words of its table)
SELECT object FROM member
 WHERE obj_description(objid, classid::regclass::name) IS NULL
   AND NOT EXISTS (SELECT FROM pg_type AS t LEFT JOIN pg_class AS c ON c.oid = t.typrelid
                    WHERE t.oid = objid AND (t.typelem <> 0 OR c.relkind <> 'c'))
 ORDER BY object COLLATE "C";

-- no function depends on the caller's search_path: pinned, or parsed when made
SELECT p.oid::regprocedure FROM member JOIN pg_proc AS p ON classid = 'pg_proc'::regclass AND p.oid = objid
 WHERE p.prolang <> (SELECT oid FROM pg_language WHERE lanname = 'c') AND p.prosqlbody IS NULL
   AND NOT coalesce(p.proconfig && '{"search_path=pg_catalog, pg_temp"}', false)
 ORDER BY p.proname COLLATE "C";

-- whoever runs as another role than the caller
SELECT p.oid::regprocedure FROM member JOIN pg_proc AS p ON classid = 'pg_proc'::regclass AND p.oid = objid
 WHERE p.prosecdef ORDER BY p.proname COLLATE "C";

-- what everybody may call
SELECT p.oid::regprocedure FROM member JOIN pg_proc AS p ON classid = 'pg_proc'::regclass AND p.oid = objid
 WHERE has_function_privilege('public', p.oid, 'EXECUTE') ORDER BY p.oid::regprocedure::text COLLATE "C";

-- what everybody may change: nothing
SELECT c.oid::regclass FROM member JOIN pg_class AS c ON classid = 'pg_class'::regclass AND c.oid = objid
 WHERE has_table_privilege('public', c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE');

-- It goes as it came.
DROP EXTENSION run_ops_split;
SELECT relname FROM pg_class WHERE relnamespace = 'run_ops'::regnamespace;
CREATE EXTENSION run_ops_split;
\c postgres
DROP DATABASE regress_catalog;

-- Attaches the store and all tables, and switches split on.
SET client_min_messages = warning;
CREATE EXTENSION run_ops_split CASCADE;
CREATE SERVER new FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host '/tmp', port '5433', dbname 'run_ops');
CREATE USER MAPPING FOR CURRENT_USER SERVER new OPTIONS (user 'postgres');
SELECT run_ops.attach_store('new', 'new') \g /dev/null
CREATE SCHEMA routed;
SELECT view FROM run_ops.attach_all_tables(view_schema => 'routed') \g /dev/null
SELECT run_ops.configure_split(opted_in => true, native_realtime => true) \g /dev/null
-- the schemas of the demo differ in these
SELECT run_ops.acknowledge(gate, object, 'as it is in the demo') FROM run_ops.check_split() WHERE NOT ok \g /dev/null
SELECT run_ops.enable_split() \g /dev/null

\pset footer off
\echo
\echo '== 1. This is the control plane.  The other PostgreSQL holds run-ops rows.'
CREATE EXTENSION run_ops_split CASCADE;
CREATE SERVER new FOREIGN DATA WRAPPER run_ops_fdw
  OPTIONS (host :'store_host', port :'store_port', dbname 'run_ops');
CREATE USER MAPPING FOR CURRENT_USER SERVER new OPTIONS (user 'postgres');

\echo
\echo '== 2. Attach the store, and every table that both sides have.'
SELECT run_ops.attach_store('new', 'new');
SELECT legacy, view, routing, route_column FROM run_ops.attach_all_tables();

\echo
\echo '== 3. Split on: the views show both stores.'
SELECT count(*) AS runs_before FROM run_ops."TaskRun";
SELECT run_ops.swap_views(true);
SELECT count(*) AS runs_now FROM run_ops."TaskRun";

\echo
\echo '== 4. Mint an id of each kind: its shape says where its row lives.'
SELECT run_ops.friendly_id('run', run_ops.generate_cuid()) AS old_id,
       run_ops.friendly_id('run', run_ops.generate_ksuid()) AS new_id \gset
SELECT id, run_ops.classify_kind(id), run_ops.owner_engine(id)
  FROM (VALUES (:'old_id'), (:'new_id')) AS minted (id);

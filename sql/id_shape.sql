CREATE EXTENSION run_ops_split CASCADE;
SELECT run_ops.resides('run_cew34o3tw6rwc02b7fyfh96z1', 'legacy');

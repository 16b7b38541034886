-- Switch split on.  First say that you want it, and that nothing follows the
-- changes of these tables (a publication or a replication slot would see this
-- database only).
SELECT run_ops.configure_split(opted_in => true);
SELECT run_ops.acknowledge('realtime', 'native realtime', 'nothing follows the changes of these tables');

-- What this query shows must be mended, or acknowledged as well.
SELECT gate, object, detail, hint FROM run_ops.check_split() WHERE ok IS NOT TRUE;
SELECT run_ops.enable_split();

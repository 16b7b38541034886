-- Counts over a view of several stores, made in the stores.
\set name store_counts
\i test/fixtures/two_stores.sql
SELECT run_ops.attach_store('new', 'new');
CREATE TABLE run (id text PRIMARY KEY, status text);
SELECT 1 AS x FROM dblink('new', 'CREATE TABLE run (id text PRIMARY KEY, status text)') AS t (x text);
SELECT run_ops.attach_table('run', 'shape');
INSERT INTO run SELECT 'run_c' || lpad(i::text, 24, '0'), CASE i % 3 WHEN 0 THEN 'done' WHEN 1 THEN 'queued' END FROM generate_series(1, 10) AS i;
INSERT INTO run_ops_new.run SELECT 'run_' || lpad(i::text, 27, '0'), 'done' FROM generate_series(1, 5) AS i;
SELECT * FROM run_ops.store_counts('run_ops.run', 'status') ORDER BY store, value;
SELECT run_ops.swap_views(true);
SELECT * FROM run_ops.store_counts('run_ops.run', 'status') ORDER BY store, value;
SELECT value, sum(count) FROM run_ops.store_counts('run_ops.run', 'status') GROUP BY value ORDER BY value;
SELECT status, count(*) FROM run_ops.run GROUP BY status ORDER BY status;
SELECT * FROM run_ops.store_counts('run_ops.run', 'absent');

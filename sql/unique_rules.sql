-- Whatever makes rows unique: on the way back and forward, two rows that exclude
-- each other are listed, by whichever rule of the local table or its partitions.
\set name unique_rules
\i test/fixtures/two_stores.sql
SELECT run_ops.attach_store('new', 'new');
CREATE FUNCTION cuid(n int) RETURNS text IMMUTABLE LANGUAGE sql RETURN 'run_c' || lpad(n::text, 24, '0');
CREATE FUNCTION ksuid(n int) RETURNS text IMMUTABLE LANGUAGE sql RETURN 'run_' || lpad(n::text, 27, '0');
\set tables 'CREATE TABLE "R.un" (id text PRIMARY KEY, "Key" text, a int, b int, late text UNIQUE DEFERRABLE, EXCLUDE USING btree (((a + b)) WITH =)); CREATE UNIQUE INDEX half ON "R.un" ("Key") WHERE b IS NULL; CREATE UNIQUE INDEX expression ON "R.un" (lower("Key"), a); CREATE UNIQUE INDEX no_null ON "R.un" (a) NULLS NOT DISTINCT WHERE b < 0; CREATE TABLE part (id text PRIMARY KEY, n int, m int) PARTITION BY RANGE (id); CREATE TABLE part_all PARTITION OF part DEFAULT; CREATE TABLE part_run PARTITION OF part FOR VALUES FROM (\'run_0\') TO (\'run_z\'); CREATE UNIQUE INDEX part_n ON part_run (n); CREATE TABLE tag (id text PRIMARY KEY, n int UNIQUE DEFERRABLE INITIALLY DEFERRED);'
:tables
SELECT 1 AS x FROM dblink('new', :'tables') AS t (x text);
SELECT run_ops.attach_table('"R.un"', 'shape'), run_ops.attach_table('part', 'shape'), run_ops.attach_table('tag', 'store');
SELECT run_ops.configure_split(opted_in => true, native_realtime => true);
SET client_min_messages = warning;
SELECT gate, object, detail FROM run_ops.check_split() WHERE ok IS NOT TRUE AND gate <> 'attached';
SELECT count(run_ops.acknowledge(gate, object, 'other tables')) FROM run_ops.check_split() WHERE NOT ok AND gate = 'attached';
SELECT run_ops.enable_split();
SET run_ops_split.cross_store_writes = allow;
-- Batches are smaller than the number of rows that cannot be copied.
CREATE PROCEDURE all_batches(call text) LANGUAGE plpgsql AS $$
DECLARE complete boolean;
BEGIN
  FOR i IN 1 .. 100 LOOP
    EXECUTE format('SELECT done FROM run_ops.%I(2)', call) INTO complete;
    COMMIT;
    EXIT WHEN complete;
  END LOOP;
  ASSERT complete;
END $$;

-- Pairs with the same number exclude each other, the others do not.
INSERT INTO run_ops."R.un" (id, "Key", a, b, late) VALUES
  (cuid(1), 'one', 1, NULL, 'l1'), (ksuid(1), 'one', 11, NULL, 'n1'),
  (cuid(2), 'Two', 2, 100, 'l2'), (ksuid(2), 'tWO', 2, 120, 'n2'),
  (cuid(3), 'three', 3, 200, 'l3'), (ksuid(3), 'drei', 200, 3, 'n3'),
  (cuid(4), 'four', NULL, -1, 'l4'), (ksuid(4), 'vier', NULL, -2, 'n4'),
  (cuid(5), 'five', 5, 300, 'late'), (ksuid(5), 'fuenf', 50, 300, 'late'),
  (cuid(6), 'six', 6, 400, NULL), (ksuid(6), 'six', 60, 401, NULL);
INSERT INTO run_ops.part VALUES (cuid(7), 7), (ksuid(7), 7), ('cuid_' || right(cuid(8), 25), 8), (ksuid(8), 8);
INSERT INTO run_ops.tag VALUES (cuid(9), 9), (ksuid(9), 9);
SELECT unique_index, right(store_key ->> 'id', 1) AS store, right(legacy_key ->> 'id', 1) AS legacy FROM run_ops.repatriation_conflicts() ORDER BY 2, 3;
SELECT run_ops.disable_split(repatriated => true);

-- Copied is what has no conflict; what an index does not check that is deferrable
-- is checked by the switch.
CALL all_batches('repatriate');
SELECT right(id, 1) AS copied FROM "R.un" WHERE id LIKE 'run\_0%' ORDER BY 1;
SELECT right(id, 1) AS copied FROM part WHERE id LIKE 'run\_0%' ORDER BY 1;
UPDATE run_ops."R.un" SET "Key" = 'eins' WHERE id = ksuid(1);
DELETE FROM run_ops."R.un" WHERE id = cuid(2);
UPDATE run_ops."R.un" SET b = 3000 WHERE id = ksuid(3);
UPDATE run_ops."R.un" SET a = 4 WHERE id = ksuid(4);
UPDATE run_ops.part SET n = 70 WHERE id = ksuid(7);
CALL all_batches('repatriate');
UPDATE run_ops.copy_progress SET skipped = 0;
SELECT run_ops.disable_split(repatriated => true);
UPDATE run_ops."R.un" SET late = 'spaet' WHERE id = ksuid(5);
UPDATE run_ops.tag SET n = 90 WHERE id = ksuid(9);
SELECT run_ops.disable_split(repatriated => true);
SELECT right(id, 1) AS row, "Key", a, b, late FROM "R.un" WHERE id LIKE 'run\_0%' ORDER BY 1;
SELECT count(*) FROM part;
SELECT n FROM tag ORDER BY 1;

-- Forward: values that rows have exchanged meanwhile.
UPDATE run_ops."R.un" SET late = CASE late WHEN 'n1' THEN 'n2' WHEN 'n2' THEN 'n1' ELSE late END;
CALL all_batches('move_strays');
SELECT run_ops.enable_split();
CALL all_batches('remove_leftovers');
SELECT right(id, 1) AS row, late FROM run_ops_new."R.un" ORDER BY 1;
SELECT count(*) FROM "R.un";

-- The same after the stores were left out, where rows are written here that the
-- store's rows exclude.
SELECT run_ops.disable_split(force => true);
INSERT INTO run_ops."R.un" (id, "Key", a, b, late) VALUES (ksuid(10), 'eins', 100, NULL, 'n10');
SELECT run_ops.move_strays();
DELETE FROM run_ops."R.un" WHERE id = ksuid(10);
INSERT INTO run_ops."R.un" (id, "Key", late) VALUES (ksuid(11), 'eleven', 'n11');
CALL all_batches('move_strays');
INSERT INTO run_ops."R.un" (id, "Key", late) VALUES (ksuid(12), 'twelve', 'n3');
CALL all_batches('move_strays');
SELECT run_ops.enable_split();
SELECT unique_index, store_key ->> 'id' = ksuid(3) AS store, legacy_key ->> 'id' = ksuid(12) AS legacy FROM run_ops.move_conflicts();
UPDATE run_ops."R.un" SET late = 'n12' WHERE id = ksuid(12);
SELECT run_ops.enable_split();
SELECT right(id, 2) AS row, late FROM run_ops_new."R.un" ORDER BY 1;

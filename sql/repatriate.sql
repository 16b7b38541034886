-- The way back with the real tables: every row of the store comes here, and
-- goes there again.
\set name repatriate
\i test/fixtures/two_stores.sql
\set ECHO none
\set runs 120
\connect :store_db - :store_host :store_port
\set side new
\i test/fixtures/generate.sql
\connect :legacy_db - :legacy_host :legacy_port
\set side legacy
\i test/fixtures/generate.sql
\set SHOW_CONTEXT never
\set ECHO all
SELECT run_ops.attach_store('new', 'new');
SELECT count(*) FROM run_ops.attach_all_tables();
SELECT run_ops.configure_split(opted_in => true, native_realtime => true);
-- the two databases differ in these indexes and foreign keys
SELECT gate, object, detail FROM run_ops.check_split() WHERE ok IS NOT TRUE ORDER BY object COLLATE "C";
SELECT count(run_ops.acknowledge(gate, object, 'as it is')) FROM run_ops.check_split() WHERE ok IS NOT TRUE;
SELECT run_ops.enable_split();

-- What each view shows, whatever the order.
CREATE FUNCTION shown() RETURNS TABLE (view regclass, n bigint, hash text) LANGUAGE plpgsql AS $$
BEGIN
  FOR view IN SELECT t.view FROM run_ops.routed_table AS t LOOP
    EXECUTE format('SELECT count(*), md5(string_agg(v::text, '','' ORDER BY v::text COLLATE "C")) FROM %s AS v', view)
      INTO n, hash;
    RETURN NEXT;
  END LOOP;
END $$;
CREATE PROCEDURE repatriate_all(batch_size int) LANGUAGE plpgsql AS $$
DECLARE complete boolean;
BEGIN
  LOOP
    SELECT done INTO complete FROM run_ops.repatriate(batch_size);
    COMMIT;
    EXIT WHEN complete;
  END LOOP;
END $$;
CREATE TABLE before AS SELECT * FROM shown();
SELECT count(*), min(n) > 0 AS all_have_rows FROM before;

-- Unique values that each database could only keep apart for itself: the same
-- tag was made on both sides.
SELECT run_ops.disable_split(repatriated => true);
SELECT c.view, c.unique_index, count(*) FROM run_ops.repatriation_conflicts() AS c GROUP BY 1, 2 ORDER BY 1;
DELETE FROM run_ops_new."TaskRunTag" USING run_ops.repatriation_conflicts() AS c WHERE id = c.store_key ->> 'id';
DELETE FROM run_ops_new."WaitpointTag" USING run_ops.repatriation_conflicts() AS c WHERE id = c.store_key ->> 'id';
DROP TABLE before;
CREATE TABLE before AS SELECT * FROM shown();

-- Batches, interrupted anywhere, change nothing that is shown.
CALL repatriate_all(50);
SELECT b.view FROM before AS b JOIN shown() AS a USING (view) WHERE a <> b;
SELECT view, copied FROM run_ops.copy_progress WHERE copied = 0 ORDER BY view::text;
SELECT sum(differing) FROM run_ops.verify_repatriation();
-- Conflicts that come later, while changed rows are copied: of rows with an id
-- that decides, and of others.
BEGIN;
UPDATE run_ops_new."TaskRun" SET "friendlyId" = (SELECT min("friendlyId") FROM "TaskRun" WHERE run_ops.resides(id, 'legacy'))
 WHERE id = (SELECT min(id) FROM run_ops_new."TaskRun");
COMMIT;
SELECT run_ops.disable_split(repatriated => true);
UPDATE run_ops."TaskRun" SET "friendlyId" = 'run_of_its_own' WHERE id = (SELECT min(id) FROM run_ops_new."TaskRun");
BEGIN;
INSERT INTO run_ops_new."WaitpointTag" SELECT (jsonb_populate_record(w, '{"id": "tag_of_the_store"}')).* FROM "WaitpointTag" AS w ORDER BY id LIMIT 1;
COMMIT;
CALL repatriate_all(50);
UPDATE run_ops.copy_progress SET skipped = 0;
SELECT run_ops.disable_split(repatriated => true);
DELETE FROM run_ops."WaitpointTag" WHERE id = 'tag_of_the_store';
DROP TABLE before;
CREATE TABLE before AS SELECT * FROM shown();
CALL repatriate_all(50);
-- a row that is missing is found
DELETE FROM "TaskRunDependency" WHERE id = (SELECT min(id) FROM run_ops_new."TaskRunDependency");
SELECT view, differing FROM run_ops.verify_repatriation() WHERE differing > 0;
SELECT run_ops.disable_split(repatriated => true);
SELECT b.view FROM before AS b JOIN shown() AS a USING (view) WHERE a <> b;
SELECT count(*) > 0 FROM "TaskRun" WHERE NOT run_ops.resides(id, 'legacy');

-- Forward, after a while without split.
UPDATE run_ops."TaskRun" SET "updatedAt" = '2030-01-01';
DELETE FROM run_ops."BatchTaskRunItem" WHERE id IN (SELECT id FROM "BatchTaskRunItem" ORDER BY id LIMIT 3);
DELETE FROM run_ops."Waitpoint" WHERE id = (SELECT max(id) FROM run_ops_new."Waitpoint");
-- Why forward again compares the rows of both sides, and is not only another
-- view with a boundary in time.  The store has its older copies: the deleted row
-- would be shown again, and no id says that it is old.
SELECT count(*) FROM run_ops_new."Waitpoint" AS w WHERE NOT EXISTS (SELECT FROM run_ops."Waitpoint" AS h WHERE h.id = w.id);
-- And a child of an old run has a new id of the same shape, but must be where its parent is.
SELECT parent.id IS NOT NULL AS parent_is_here, run_ops.resolve_shard(child.id), run_ops.id_timestamp(child.id) > now() - interval '1 hour' AS younger
  FROM (SELECT min(id) AS id FROM "TaskRun" WHERE run_ops.resides(id, 'new')) AS parent, LATERAL run_ops.mint_run_id('none', parent.id) AS child;
DROP TABLE before;
CREATE TABLE before AS SELECT * FROM shown();
SELECT run_ops.enable_split();
SELECT b.view FROM before AS b JOIN shown() AS a USING (view) WHERE a <> b;
SELECT count(*) FROM run_ops.check_split() WHERE ok IS NOT TRUE;
-- The real tables can be left here, but for what is without a shape.
SELECT view FROM run_ops.routed_table AS t WHERE NOT run_ops.can_leave_rows(t) ORDER BY view::text COLLATE "C";
CREATE PROCEDURE remove_all(batch_size int) LANGUAGE plpgsql AS $$
DECLARE complete boolean;
BEGIN
  LOOP
    SELECT done INTO complete FROM run_ops.remove_leftovers(batch_size);
    COMMIT;
    PERFORM run_ops.refuse_orphans();
    EXIT WHEN complete;
  END LOOP;
END $$;
CALL remove_all(50);
SELECT count(*) FROM "TaskRun" WHERE NOT run_ops.resides(id, 'legacy');
SELECT b.view FROM before AS b JOIN shown() AS a USING (view) WHERE a <> b;

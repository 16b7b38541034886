-- A statement on a view is one statement on each of its tables.  It has one
-- snapshot, foreign keys and unique constraints are checked at its end, triggers
-- fire as they do for a table, and a row that an action of the statement has
-- touched is changed all the same.
--
-- The expected file is what plain tables give.  With RUN_OPS_PLAIN in the
-- environment nothing is attached, and the same statements run on the tables.
\set name one_statement
\i test/fixtures/two_stores.sql
\set ECHO none
\i test/fixtures/or_plain_tables.sql
-- ids of both stores, which have a number
CREATE FUNCTION id(store text, k int) RETURNS text IMMUTABLE LANGUAGE sql
  RETURN CASE store WHEN 'legacy' THEN 'run_c' || lpad(k::text, 24, '0') ELSE 'run_' || lpad(k::text, 27, '0') END;
-- the number of an id, with its store
CREATE FUNCTION short(id text) RETURNS text IMMUTABLE LANGUAGE sql
  RETURN CASE WHEN id LIKE 'run_c%' THEN 'L' ELSE 'N' END || ltrim(right(id, 24), '0');
-- what the triggers of every database have noted
CREATE FUNCTION noted() RETURNS SETOF text LANGUAGE plpgsql SET search_path = public AS $$
BEGIN
  RETURN QUERY DELETE FROM note RETURNING what;
  IF current_setting('app.plain') = '' THEN
    RETURN QUERY SELECT d.what FROM dblink('new', 'DELETE FROM note RETURNING what') AS d (what text);
  END IF;
END $$;
\set ECHO all

-- The tables, the same in every database.  Rows refer to rows of their own store.
CALL everywhere($$
  -- a list: each row refers to the one before
  CREATE TABLE on_null (id text PRIMARY KEY, n int, parent text REFERENCES on_null ON DELETE SET NULL ON UPDATE CASCADE);
  CREATE TABLE on_default (id text PRIMARY KEY, n int, parent text DEFAULT 'run_c000000000000000000000001' REFERENCES on_default ON DELETE SET DEFAULT);
  CREATE TABLE on_default_new (id text PRIMARY KEY, n int, parent text DEFAULT 'run_000000000000000000000000001' REFERENCES on_default_new ON DELETE SET DEFAULT);
  CREATE TABLE on_cascade (id text PRIMARY KEY, n int, parent text REFERENCES on_cascade ON DELETE CASCADE);
  CREATE TABLE no_action (id text PRIMARY KEY, n int, parent text REFERENCES no_action);
  -- an item belongs to a run, and may have an attachment
  CREATE TABLE att (id text PRIMARY KEY, n int);
  CREATE TABLE item (id text PRIMARY KEY, "runId" text NOT NULL, att text REFERENCES att ON DELETE SET NULL, n int);
  -- groups of rows, and places that only one row can have
  CREATE TABLE member (id text PRIMARY KEY, grp int, n int, touched int NOT NULL DEFAULT 0);
  CREATE TABLE place (id text PRIMARY KEY, store text, pos int, UNIQUE (store, pos) DEFERRABLE);
  CREATE TABLE note (what text)$$);
\set ECHO none
\if :split
SELECT run_ops.attach_store('new', 'new') \g /dev/null
SELECT run_ops.attach_table(t, 'shape')
  FROM unnest('{on_null,on_default,on_default_new,on_cascade,no_action,att,member,place}'::regclass[]) AS t \g /dev/null
SELECT run_ops.attach_table('item', 'anchor', 'runId') \g /dev/null
SELECT run_ops.swap_views(true) \g /dev/null
SET search_path = run_ops, public;
\endif
\set ECHO all

-- # Rows that an action of the statement has touched
--
-- ON DELETE SET NULL changes the second row when the first one is deleted.  It
-- is deleted nevertheless.
INSERT INTO on_null SELECT id('legacy', k), k, CASE WHEN k > 1 THEN id('legacy', k - 1) END FROM generate_series(1, 6) AS k;
DELETE FROM on_null WHERE n <= 3;
\echo DELETE :ROW_COUNT
SELECT short(id), n, short(parent) AS parent FROM on_null ORDER BY id;
-- in either store, and with RETURNING
INSERT INTO on_null SELECT id('legacy', k), k, CASE WHEN k > 11 THEN id('legacy', k - 1) END FROM generate_series(11, 16) AS k;
INSERT INTO on_null SELECT id('new', k), k, CASE WHEN k > 11 THEN id('new', k - 1) END FROM generate_series(11, 16) AS k;
WITH d AS (DELETE FROM on_null WHERE n BETWEEN 11 AND 14 RETURNING *) SELECT short(id), n, short(parent) AS parent FROM d ORDER BY id;
DELETE FROM on_null WHERE n = 15 OR parent = id('legacy', 15) OR parent = id('new', 15);
\echo DELETE :ROW_COUNT
SELECT short(id), n, short(parent) AS parent FROM on_null ORDER BY id;

-- ON UPDATE CASCADE changes the child of each row, which the statement changes too.
INSERT INTO on_null SELECT id('new', k), k, CASE WHEN k > 4 THEN id('new', k - 1) END FROM generate_series(4, 6) AS k;
UPDATE on_null SET id = id(CASE WHEN id LIKE 'run_c%' THEN 'legacy' ELSE 'new' END, n + 100), n = n + 10;
\echo UPDATE :ROW_COUNT
SELECT short(id), n, short(parent) AS parent FROM on_null ORDER BY id;
-- the parent only
UPDATE on_null SET id = id(CASE WHEN id LIKE 'run_c%' THEN 'legacy' ELSE 'new' END, 204) WHERE n = 14;
\echo UPDATE :ROW_COUNT
SELECT short(id), n, short(parent) AS parent FROM on_null ORDER BY id;

-- ON DELETE SET DEFAULT.
INSERT INTO on_default SELECT id('legacy', k), k, CASE WHEN k > 1 THEN id('legacy', k - 1) END FROM generate_series(1, 6) AS k;
INSERT INTO on_default_new SELECT id('new', k), k, CASE WHEN k > 1 THEN id('new', k - 1) END FROM generate_series(1, 6) AS k;
DELETE FROM on_default WHERE n BETWEEN 2 AND 4;
\echo DELETE :ROW_COUNT
DELETE FROM on_default_new WHERE n BETWEEN 2 AND 4;
\echo DELETE :ROW_COUNT
SELECT short(id), n, short(parent) AS parent FROM on_default UNION ALL SELECT short(id), n, short(parent) FROM on_default_new ORDER BY 1;
-- the row that is the default: nothing is left to refer to
\set VERBOSITY sqlstate
DELETE FROM on_default WHERE n = 1;
DELETE FROM on_default_new WHERE n = 1;
\set VERBOSITY default
DELETE FROM on_default;
DELETE FROM on_default_new;

-- An AFTER ROW trigger that changes siblings.
CALL everywhere($$
  CREATE FUNCTION touch_siblings() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $f$
  BEGIN
    UPDATE member SET touched = touched + 1 WHERE grp = NEW.grp AND id <> NEW.id AND (id LIKE 'run_c%') = (NEW.id LIKE 'run_c%');
    RETURN NULL;
  END $f$;
  CREATE TRIGGER touch_siblings AFTER UPDATE ON member FOR EACH ROW WHEN (OLD.n IS DISTINCT FROM NEW.n) EXECUTE FUNCTION touch_siblings()$$);
INSERT INTO member SELECT id(store, k), k % 2, k FROM unnest('{legacy,new}'::text[]) AS store, generate_series(1, 6) AS k;
UPDATE member SET n = n + 10;
\echo UPDATE :ROW_COUNT
SELECT short(id), grp, n, touched FROM member ORDER BY id;
WITH u AS (UPDATE member SET n = n + 10, touched = 0 WHERE grp = 0 RETURNING *) SELECT short(id), n, touched FROM u ORDER BY id;
SELECT short(id), grp, n, touched FROM member ORDER BY id;

-- A BEFORE ROW trigger must not change a row that the statement changes later.
CALL everywhere($$
  DROP TRIGGER touch_siblings ON member;
  CREATE FUNCTION interfere() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $f$
  BEGIN
    UPDATE member SET touched = touched + 1 WHERE grp = NEW.grp AND id <> NEW.id AND (id LIKE 'run_c%') = (NEW.id LIKE 'run_c%');
    RETURN NEW;
  END $f$;
  CREATE TRIGGER interfere BEFORE UPDATE ON member FOR EACH ROW WHEN (OLD.n IS DISTINCT FROM NEW.n) EXECUTE FUNCTION interfere()$$);
\set ECHO none
\if :split
SELECT run_ops.refresh_table('run_ops.member') \g /dev/null
\endif
\set ECHO all
\set VERBOSITY sqlstate
UPDATE member SET n = n + 1 WHERE id LIKE 'run_c%';
UPDATE member SET n = n + 1 WHERE id NOT LIKE 'run_c%';
UPDATE member SET n = n + 1;
\set VERBOSITY default
UPDATE member SET n = n + 1 WHERE id IN (id('legacy', 1), id('new', 2));
\echo UPDATE :ROW_COUNT
SELECT short(id), grp, n, touched FROM member ORDER BY id;
CALL everywhere('DROP TRIGGER interfere ON member');
\set ECHO none
\if :split
SELECT run_ops.refresh_table('run_ops.member') \g /dev/null
\endif
\set ECHO all

-- Of several changes of one row by the statement itself, one counts.
UPDATE member AS m SET n = m.n + 1 FROM generate_series(1, 3) AS times WHERE m.grp = 1;
\echo UPDATE :ROW_COUNT
SELECT short(id), n FROM member WHERE grp = 1 ORDER BY id;

-- Two tables in one statement: deleting an attachment changes the item, which
-- is deleted as well.
INSERT INTO att SELECT id(store, k), k FROM unnest('{legacy,new}'::text[]) AS store, generate_series(1, 4) AS k;
INSERT INTO item SELECT short(id), id, id, n FROM att;
WITH a AS (DELETE FROM att WHERE n <= 2 RETURNING id), b AS (DELETE FROM item WHERE n IN (2, 3) RETURNING id)
SELECT (SELECT count(*) FROM a) AS attachments, (SELECT count(*) FROM b) AS items;
SELECT id, short(att) AS att FROM item ORDER BY id;
SELECT short(id) FROM att ORDER BY id;
-- In the other order, and an UPDATE of the items.  In a store these are two
-- statements: which one is first depends on the plan, so only the rows are shown.
WITH b AS (UPDATE item SET n = n + 10 RETURNING id, att), a AS (DELETE FROM att WHERE n = 4 RETURNING id)
SELECT b.id, short(b.att) AS att, short(a.id) AS deleted FROM b LEFT JOIN a ON a.id = b.att WHERE b.id LIKE 'L%' ORDER BY 1;
SELECT id, short(att) AS att, n FROM item ORDER BY id;

-- # One snapshot
--
-- 600 rows in 10 groups: each gets the greatest value of its group plus 1, as it
-- was before the statement.
CALL everywhere('TRUNCATE member');
INSERT INTO member SELECT id(CASE WHEN k % 2 = 0 THEN 'legacy' ELSE 'new' END, k), k / 2 % 10, 0 FROM generate_series(1, 600) AS k;
UPDATE member AS u SET n = (SELECT max(z.n) + 1 FROM member AS z WHERE z.grp = u.grp);
\echo UPDATE :ROW_COUNT
SELECT id LIKE 'run_c%' AS legacy, n, count(*) FROM member GROUP BY 1, 2 ORDER BY 1, 2;
UPDATE member AS u SET n = (SELECT sum(z.n) FROM member AS z WHERE z.grp = u.grp), touched = (SELECT count(*) FROM member AS z WHERE z.touched = 0);
\echo UPDATE :ROW_COUNT
SELECT id LIKE 'run_c%' AS legacy, n, touched, count(*) FROM member GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
UPDATE member AS u SET n = z.n + 1 FROM (SELECT grp, max(n) AS n FROM member GROUP BY grp) AS z WHERE z.grp = u.grp;
\echo UPDATE :ROW_COUNT
SELECT n, count(*) FROM member GROUP BY 1;
-- more rows than one message to a store takes: each gets the value of the row before it, as it was
INSERT INTO member SELECT id(store, k), k, k FROM unnest('{legacy,new}'::text[]) AS store, generate_series(1001, 2500) AS k;
UPDATE member AS u SET n = coalesce((SELECT z.n FROM member AS z WHERE z.id = id(CASE WHEN u.id LIKE 'run_c%' THEN 'legacy' ELSE 'new' END, u.grp - 1)), 0) WHERE u.grp > 1000;
\echo UPDATE :ROW_COUNT
SELECT id LIKE 'run_c%' AS legacy, count(*), count(*) FILTER (WHERE n = grp - 1) AS right FROM member WHERE grp > 1000 GROUP BY 1 ORDER BY 1;
DELETE FROM member AS u WHERE u.grp > 1001 AND EXISTS (SELECT FROM member AS z WHERE z.id = id(CASE WHEN u.id LIKE 'run_c%' THEN 'legacy' ELSE 'new' END, u.grp - 1));
\echo DELETE :ROW_COUNT
SELECT count(*) FROM member WHERE grp > 1000;
-- all of those that another row is like: none is left
DELETE FROM member AS u WHERE EXISTS (SELECT FROM member AS z WHERE z.grp = u.grp AND z.id <> u.id);
\echo DELETE :ROW_COUNT
SELECT count(*) FROM member;
-- INSERT from the view itself
INSERT INTO member SELECT id(CASE WHEN k % 2 = 0 THEN 'legacy' ELSE 'new' END, k), k % 10, k FROM generate_series(1, 300) AS k;
INSERT INTO member SELECT id(CASE WHEN n % 2 = 0 THEN 'legacy' ELSE 'new' END, n + 1000), grp, (SELECT count(*) FROM member) FROM member;
SELECT n, count(*) FROM member WHERE n >= 300 GROUP BY 1;
-- a CTE that updates, joined with the view: it shows the rows as they were
WITH u AS (UPDATE member SET n = -n WHERE grp = 3 RETURNING id, n)
SELECT count(*), count(*) FILTER (WHERE v.n = -u.n) AS as_they_were FROM u JOIN (SELECT * FROM member OFFSET 0) AS v USING (id);
WITH u AS (UPDATE member SET touched = 1 WHERE grp = 4 RETURNING id) SELECT (SELECT count(*) FROM u), sum(touched) FROM member;
WITH d AS (DELETE FROM member WHERE grp = 5 RETURNING id), i AS (INSERT INTO member VALUES (id('legacy', 5000), 5, 0), (id('new', 5000), 5, 0) RETURNING id)
SELECT (SELECT count(*) FROM d) AS deleted, (SELECT count(*) FROM i) AS inserted, count(*) FROM member;
SELECT count(*) FROM member;

-- # Checked at the end of the statement
--
-- NO ACTION: a parent and its children go together.
INSERT INTO no_action SELECT id(store, k), k, CASE WHEN k > 1 THEN id(store, k - 1) END FROM unnest('{legacy,new}'::text[]) AS store, generate_series(1, 6) AS k;
\set VERBOSITY sqlstate
DELETE FROM no_action WHERE n = 3;
\set VERBOSITY default
DELETE FROM no_action WHERE n >= 4;
\echo DELETE :ROW_COUNT
DELETE FROM no_action WHERE n IN (2, 3) AND id NOT LIKE 'run_c%';
\echo DELETE :ROW_COUNT
SELECT short(id), short(parent) AS parent FROM no_action ORDER BY id;
-- children first, and a row that refers to itself
INSERT INTO no_action VALUES (id('legacy', 20), 20, id('legacy', 21)), (id('legacy', 21), 21, id('legacy', 21)),
                             (id('new', 20), 20, id('new', 21)), (id('new', 21), 21, id('new', 21));
WITH c AS (DELETE FROM no_action WHERE n = 20 RETURNING id) DELETE FROM no_action WHERE n = 21 AND (SELECT count(*) FROM c) = 2;
SELECT short(id), short(parent) AS parent FROM no_action ORDER BY id;
-- ids that change places
UPDATE no_action SET parent = id(CASE WHEN id LIKE 'run_c%' THEN 'legacy' ELSE 'new' END, 30), id = id(CASE WHEN id LIKE 'run_c%' THEN 'legacy' ELSE 'new' END, 30) WHERE n = 1 AND id NOT LIKE 'run_c%';
\echo UPDATE :ROW_COUNT
UPDATE no_action SET id = id('legacy', n + 40), parent = CASE WHEN n > 1 THEN id('legacy', n + 39) END WHERE id LIKE 'run_c%';
\echo UPDATE :ROW_COUNT
SELECT short(id), short(parent) AS parent FROM no_action ORDER BY id;

-- ON DELETE CASCADE: rows of the statement that the cascade would reach.
INSERT INTO on_cascade SELECT id(store, k), k, CASE WHEN k > 1 THEN id(store, k - 1) END FROM unnest('{legacy,new}'::text[]) AS store, generate_series(1, 6) AS k;
DELETE FROM on_cascade WHERE n IN (4, 5);
\echo DELETE :ROW_COUNT
DELETE FROM on_cascade WHERE n IN (1, 2) AND id NOT LIKE 'run_c%';
\echo DELETE :ROW_COUNT
SELECT short(id), short(parent) AS parent FROM on_cascade ORDER BY id;
DELETE FROM on_cascade;

-- UNIQUE ... DEFERRABLE
INSERT INTO place SELECT id(store, k), store, k FROM unnest('{legacy,new}'::text[]) AS store, generate_series(1, 5) AS k;
UPDATE place SET pos = pos + 1;
\echo UPDATE :ROW_COUNT
UPDATE place SET pos = 7 - pos;
\echo UPDATE :ROW_COUNT
UPDATE place AS p SET pos = o.pos FROM place AS o WHERE o.store = p.store AND o.pos = 8 - p.pos;
\echo UPDATE :ROW_COUNT
SELECT short(id), pos FROM place ORDER BY id;
\set VERBOSITY sqlstate
UPDATE place SET pos = 1;
UPDATE place SET pos = 2 WHERE id = id('new', 2);
\set VERBOSITY default
SELECT short(id), pos FROM place ORDER BY id;

-- # Statement triggers fire once in each database
CALL everywhere($$
  CREATE FUNCTION note_rows() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $f$
  BEGIN
    INSERT INTO note SELECT format('%s of %s rows in %s: %s', TG_OP, count(*), store, sum(pos)) FROM changed GROUP BY store;
    RETURN NULL;
  END $f$;
  CREATE FUNCTION note_changes() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $f$
  BEGIN
    INSERT INTO note SELECT format('%s of %s rows in %s: from %s to %s, of all %s', TG_OP, count(*), o.store, sum(o.pos), sum(c.pos), (SELECT sum(p.pos) FROM place AS p WHERE p.store = o.store))
      FROM before AS o JOIN changed AS c USING (id) GROUP BY o.store;
    RETURN NULL;
  END $f$;
  CREATE TRIGGER inserted AFTER INSERT ON place REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_rows();
  CREATE TRIGGER deleted AFTER DELETE ON place REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_rows();
  CREATE TRIGGER updated AFTER UPDATE ON place REFERENCING OLD TABLE AS before NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_changes()$$);
UPDATE place SET pos = pos + 100 WHERE store = 'legacy' AND pos > 2;
\echo UPDATE :ROW_COUNT
SELECT * FROM noted() AS what ORDER BY what COLLATE "C";
UPDATE place SET pos = pos + 100 WHERE pos < 100;
\echo UPDATE :ROW_COUNT
SELECT * FROM noted() AS what ORDER BY what COLLATE "C";
INSERT INTO place SELECT id(store, k), store, k FROM unnest('{legacy,new}'::text[]) AS store, generate_series(20, 24) AS k;
SELECT * FROM noted() AS what ORDER BY what COLLATE "C";
DELETE FROM place WHERE pos < 24;
\echo DELETE :ROW_COUNT
SELECT * FROM noted() AS what ORDER BY what COLLATE "C";

-- # Cursors do not see what comes later
CALL everywhere('TRUNCATE member');
INSERT INTO member SELECT id(store, k), k, 0 FROM unnest('{legacy,new}'::text[]) AS store, generate_series(1, 4) AS k;
BEGIN;
DECLARE c CURSOR FOR SELECT short(id), n FROM member ORDER BY id;
UPDATE member SET n = 1;
\echo UPDATE :ROW_COUNT
FETCH ALL FROM c;
DECLARE d CURSOR FOR SELECT short(id), n FROM member ORDER BY id;
FETCH 5 FROM d;
UPDATE member SET n = 2;
\echo UPDATE :ROW_COUNT
INSERT INTO member VALUES (id('legacy', 9), 9, 9), (id('new', 9), 9, 9);
FETCH ALL FROM d;
ROLLBACK;
-- a loop over the rows that it adds to: ends after those that were there
INSERT INTO member SELECT id(store, k), k, 0 FROM unnest('{legacy,new}'::text[]) AS store, generate_series(5, 20) AS k;
DO $$
DECLARE
  r record;
  loops int := 0;
BEGIN
  FOR r IN SELECT id, grp FROM member LOOP
    loops := loops + 1;
    INSERT INTO member VALUES (id(CASE WHEN r.id LIKE 'run_c%' THEN 'legacy' ELSE 'new' END, r.grp + 1000 + loops), loops, loops);
  END LOOP;
  PERFORM set_config('app.loops', loops::text, false);
END $$;
SELECT current_setting('app.loops') AS loops, count(*) FROM member;
DO $$
DECLARE
  r record;
BEGIN
  FOR r IN SELECT id, n FROM member WHERE n = 0 ORDER BY id LOOP
    UPDATE member SET n = n + 1000 WHERE id >= r.id AND n < 2000;
  END LOOP;
END $$;
SELECT n / 1000 AS times, count(*) FROM member GROUP BY 1 ORDER BY 1;

-- # Several changes below WITH
--
-- All of them see the rows from before the statement.
CALL everywhere('TRUNCATE member, on_cascade');
INSERT INTO member SELECT id(store, k), k % 3, 0 FROM unnest('{legacy,new}'::text[]) AS store, generate_series(1, 6) AS k;
WITH a AS (UPDATE member SET n = 1 WHERE n = 0) UPDATE member SET n = 2 WHERE n = 1;
\echo UPDATE :ROW_COUNT
SELECT n, count(*) FROM member GROUP BY n;
WITH a AS (UPDATE member SET n = 2 WHERE n = 1 RETURNING id), b AS (UPDATE member SET n = 3 WHERE n = 2 RETURNING id)
  SELECT (SELECT count(*) FROM a) AS a, (SELECT count(*) FROM b) AS b;
WITH a AS (INSERT INTO member VALUES (id('legacy', 7), 7, 2), (id('new', 7), 7, 2)) UPDATE member SET n = 4 WHERE n = 2;
\echo UPDATE :ROW_COUNT
WITH a AS (INSERT INTO member VALUES (id('legacy', 8), 8, 2), (id('new', 8), 8, 2)), b AS (DELETE FROM member WHERE grp = 7 RETURNING id, n)
  UPDATE member SET n = 5 FROM b WHERE member.n = 4 AND b.id = id('new', 7) RETURNING short(member.id), member.n;
SELECT n, count(*) FROM member GROUP BY n ORDER BY n;
-- a condition that depends on what another change returns
WITH a AS (DELETE FROM member WHERE grp = 8 RETURNING id) UPDATE member SET n = 6 WHERE grp = 0 AND (SELECT count(*) FROM a) = 2;
\echo UPDATE :ROW_COUNT
WITH a AS (DELETE FROM member WHERE grp = 0 RETURNING *) INSERT INTO member SELECT id, grp, n + 1 FROM a;
\echo INSERT :ROW_COUNT
-- the actions of foreign keys come after the last of them, in either order
INSERT INTO on_cascade SELECT id(store, k), k, CASE WHEN k > 1 THEN id(store, k - 1) END FROM unnest('{legacy,new}'::text[]) AS store, generate_series(1, 6) AS k;
BEGIN;
WITH a AS (DELETE FROM on_cascade WHERE n = 2) DELETE FROM on_cascade WHERE n = 4;
\echo DELETE :ROW_COUNT
SELECT short(id) FROM on_cascade ORDER BY id;
ROLLBACK;
BEGIN;
WITH a AS (DELETE FROM on_cascade WHERE n = 4), b AS (DELETE FROM on_cascade WHERE n = 5), c AS (UPDATE member SET n = 7 WHERE grp = 1)
  DELETE FROM on_cascade WHERE n = 2 RETURNING short(id);
SELECT short(id) FROM on_cascade ORDER BY id;
SELECT count(*) FROM member WHERE n = 7;
ROLLBACK;
WITH a AS (DELETE FROM on_cascade WHERE n = 1), b AS (DELETE FROM on_cascade WHERE n = 2), c AS (DELETE FROM on_cascade WHERE n = 6) SELECT;
SELECT count(*) FROM on_cascade;

-- Nor do foreign keys come before the last of them if rows are returned: a parent
-- before its child, or a child before its parent.
CALL everywhere('TRUNCATE no_action, item, att, member');
INSERT INTO no_action SELECT id(store, k), k, CASE WHEN k > 1 THEN id(store, k - 1) END FROM unnest('{legacy,new}'::text[]) AS store, generate_series(1, 9) AS k;
WITH p AS (DELETE FROM no_action WHERE n = 8 RETURNING *), c AS (DELETE FROM no_action WHERE n = 9 RETURNING n, id)
  SELECT short(p.id) AS p, p.n, short(p.parent) AS parent, short(c.id) AS c, c.n FROM p JOIN c ON p.id LIKE 'run_c%' = (c.id LIKE 'run_c%') ORDER BY p.id;
WITH p AS (DELETE FROM no_action WHERE id = id('new', 7) RETURNING *) DELETE FROM no_action WHERE parent IS NULL AND n = 0 RETURNING (SELECT count(*) FROM p);
\set VERBOSITY sqlstate
WITH p AS (DELETE FROM no_action WHERE n = 5 RETURNING *), c AS (DELETE FROM no_action WHERE n = 7 RETURNING *) SELECT count(*) FROM p, c;
\set VERBOSITY default
WITH p AS (DELETE FROM no_action WHERE n IN (4, 5) RETURNING id) DELETE FROM no_action WHERE n >= 6 RETURNING short(id), (SELECT count(*) FROM p) AS parents;
WITH p AS (DELETE FROM no_action WHERE id = id('new', 2) RETURNING n, parent) DELETE FROM no_action WHERE id = id('new', 3) RETURNING short(id), (SELECT p.n FROM p) AS parent;
SELECT short(id) FROM no_action ORDER BY id;
WITH c AS (INSERT INTO no_action VALUES (id('legacy', 12), 12, id('legacy', 11)), (id('new', 12), 12, id('new', 11)) RETURNING id, n),
     p AS (INSERT INTO no_action (id, n) VALUES (id('legacy', 11), 11), (id('new', 11), 11) RETURNING id, n, parent)
  SELECT short(c.id) AS c, c.n, short(p.id) AS p, p.n, p.parent FROM c JOIN p ON p.id LIKE 'run_c%' = (c.id LIKE 'run_c%') ORDER BY c.id;
WITH c AS (INSERT INTO no_action VALUES (id('new', 14), 14, id('new', 13)) RETURNING n), p AS (INSERT INTO no_action (id) VALUES (id('new', 13)) RETURNING n, short(id) AS id),
     u AS (UPDATE no_action SET n = -1, parent = id('new', 13) WHERE n = 12 AND id NOT LIKE 'run_c%' RETURNING n, parent) SELECT c.n, p.*, u.n, short(u.parent) AS parent FROM c, p, u;
WITH i AS (INSERT INTO item SELECT store || k, id(store, 1), id(store, k), k FROM unnest('{legacy,new}'::text[]) AS store, generate_series(1, 3) AS k RETURNING n),
     a AS (INSERT INTO att SELECT id(store, k), k FROM unnest('{legacy,new}'::text[]) AS store, generate_series(1, 3) AS k ON CONFLICT DO NOTHING RETURNING id),
     m AS (INSERT INTO member VALUES (id('new', 1), 1, 1))
  SELECT (SELECT sum(n) FROM i) AS items, count(*) AS atts FROM a;
WITH i AS (INSERT INTO item VALUES ('more', id('new', 1), id('new', 4), 4) RETURNING n),
     a AS (INSERT INTO att VALUES (id('new', 1), 1), (id('new', 4), 4) ON CONFLICT DO NOTHING RETURNING id), b AS (INSERT INTO att VALUES (id('new', 2), 2) ON CONFLICT DO NOTHING RETURNING id)
  SELECT (SELECT sum(n) FROM i) AS items, (SELECT string_agg(short(id), ' ') FROM a) AS atts, (SELECT count(*) FROM b) AS others;
-- what another change reads comes with the last one, whose rows are counted
WITH p AS (DELETE FROM no_action WHERE n = 11 OR id = id('new', 13) RETURNING id), m AS (INSERT INTO member SELECT id, 7, 7 FROM p)
  DELETE FROM no_action WHERE n IN (-1, 12, 14);
\echo DELETE :ROW_COUNT
WITH p AS (DELETE FROM no_action WHERE id = id('legacy', 2) RETURNING id), m AS (INSERT INTO member SELECT id, 7, 7 FROM p) DELETE FROM no_action WHERE n = 3;
\echo DELETE :ROW_COUNT
SELECT short(id) FROM member WHERE grp = 7 ORDER BY id;
-- rows that are read after another change has been sent
WITH m AS (INSERT INTO member VALUES (id('new', 20), 8, 1), (id('new', 21), 8, 1) RETURNING id), d AS (DELETE FROM member WHERE id = id('new', 11) RETURNING id)
  UPDATE att SET n = n + (SELECT count(*) FROM m) WHERE n < 3 RETURNING short(id), n, (SELECT short(id) FROM d) AS deleted;
WITH m AS (DELETE FROM member WHERE grp = 8 RETURNING n), u AS (UPDATE att SET n = n + (SELECT sum(n) FROM m) WHERE n < 4 RETURNING id, n)
  SELECT (SELECT sum(n) FROM u) AS sum, (SELECT count(*) FROM m) AS members;
SELECT short(id) AS id, n, short(parent) AS parent FROM no_action ORDER BY no_action.id;
SELECT count(*) AS members, (SELECT count(*) FROM item) AS items, (SELECT count(*) FROM att) AS atts FROM member;

-- # Rows that are needed before they are written
--
-- A change finds its rows by what another one returns, or the statement reads the
-- table afterwards.  It sees the rows from before the statement, and foreign keys
-- are checked at its end.
CALL everywhere('TRUNCATE no_action, item, att, member, on_cascade');
INSERT INTO no_action SELECT id(store, k), k, CASE WHEN k > 1 THEN id(store, k - 1) END FROM unnest('{legacy,new}'::text[]) AS store, generate_series(1, 12) AS k;
INSERT INTO member SELECT id(store, k), k % 3, k FROM unnest('{legacy,new}'::text[]) AS store, generate_series(1, 6) AS k;
-- a parent before its child
WITH p AS (DELETE FROM no_action WHERE n = 11 RETURNING id) DELETE FROM no_action AS c USING p WHERE c.parent = p.id RETURNING short(c.id), short(p.id) AS p;
WITH p AS (DELETE FROM no_action WHERE n = 9 RETURNING id, n), c AS (DELETE FROM no_action AS c USING p WHERE c.parent = p.id RETURNING p.id, c.n)
  SELECT short(id), p.n, c.n FROM p JOIN c USING (id) ORDER BY id;
WITH p AS (DELETE FROM no_action WHERE n = 8 RETURNING id), c AS (DELETE FROM no_action AS c USING p WHERE c.parent = p.id) SELECT count(*) FROM p;
WITH p AS (DELETE FROM no_action WHERE n = 5 RETURNING id), c AS (DELETE FROM no_action AS c USING p WHERE c.parent = p.id RETURNING c.id),
     g AS (DELETE FROM no_action AS g USING c WHERE g.parent = c.id RETURNING g.n) SELECT array_agg(n) FROM g;
WITH p AS (DELETE FROM no_action WHERE n = 3 RETURNING id) DELETE FROM no_action WHERE parent IN (SELECT id FROM p);
\echo DELETE :ROW_COUNT
-- nobody reads what the last one returns, and with a third change
WITH p AS (DELETE FROM no_action WHERE id = id('new', 2) RETURNING id), c AS (DELETE FROM no_action AS c USING p WHERE c.parent = p.id) UPDATE member SET n = n + 10 WHERE grp = 0;
\echo UPDATE :ROW_COUNT
SELECT short(id) FROM no_action ORDER BY id;
-- what is left has a parent that is gone
\set VERBOSITY sqlstate
WITH p AS (DELETE FROM no_action WHERE n = 1 RETURNING id) DELETE FROM no_action AS c USING p WHERE c.parent = p.id AND c.n = 99;
\set VERBOSITY default
-- a child before its parent
WITH c AS (INSERT INTO no_action VALUES (id('legacy', 21), 21, id('legacy', 20)), (id('new', 21), 21, id('new', 20)) RETURNING parent) INSERT INTO no_action (id, n) SELECT parent, 20 FROM c;
WITH u AS (UPDATE no_action SET id = replace(id, '20', '30') WHERE n = 20 RETURNING id, n) UPDATE no_action AS c SET parent = u.id FROM u WHERE c.n = 21 AND c.id LIKE 'run_c%' = (u.id LIKE 'run_c%');
\echo UPDATE :ROW_COUNT
SELECT short(id), n, short(parent) AS parent FROM no_action ORDER BY no_action.id;
-- the rows of the table
WITH u AS (UPDATE member SET n = n + 100 WHERE grp = 1 RETURNING id, n) SELECT short(u.id) AS id, u.n, v.n AS was FROM u JOIN member AS v ON v.id = u.id ORDER BY u.id;
WITH d AS (DELETE FROM member WHERE n IN (5, 104) RETURNING id) SELECT short(v.id) AS id, v.n FROM d JOIN member AS v USING (id) ORDER BY v.id;
WITH i AS (INSERT INTO member VALUES (id('legacy', 7), 7, 7), (id('new', 7), 7, 7) RETURNING id, touched) SELECT count(*), sum(i.touched) AS touched, count(v.id) AS there FROM i LEFT JOIN member AS v USING (id);
WITH u AS (UPDATE member SET n = n + 1000 WHERE grp = 1 RETURNING id) SELECT s.was > 1000 AS is_new FROM (SELECT v.n AS was FROM u JOIN member AS v USING (id) LIMIT 1) AS s;
WITH u AS (UPDATE member SET n = -n WHERE id = id('new', 1) RETURNING id, n) SELECT (SELECT v.n FROM member AS v WHERE v.id = u.id) AS was, u.n FROM u;
UPDATE member SET grp = 2 WHERE grp = 7 RETURNING short(id), grp, (SELECT v.grp FROM member AS v WHERE v.id = member.id) AS was;
DELETE FROM member WHERE n = 7 RETURNING short(id), (SELECT count(*) FROM member AS v WHERE v.grp = member.grp AND v.id LIKE 'run_c%' = (member.id LIKE 'run_c%')) AS of_group;
SELECT short(id) AS id, grp, n FROM member ORDER BY member.id;
-- of two changes of a row the first one counts
WITH u AS (UPDATE member SET n = 1 WHERE grp = 0 RETURNING id) UPDATE member SET n = 2 FROM u WHERE member.id = u.id;
\echo UPDATE :ROW_COUNT
WITH u AS (UPDATE member SET n = 3 WHERE id IN (id('legacy', 3), id('new', 3)) RETURNING grp) UPDATE member SET n = 4 FROM u WHERE member.grp = u.grp;
\echo UPDATE :ROW_COUNT
SELECT n, count(*) FROM member WHERE grp = 0 GROUP BY n ORDER BY n;
-- prepared, in a function, in a cursor, and with more than one statement a transaction
PREPARE move (int, int) AS WITH d AS (DELETE FROM member WHERE grp = $1 RETURNING *) INSERT INTO member SELECT replace(id, '00000000000', '00000000001'), grp + 1, n FROM d WHERE n > $2;
EXECUTE move (0, 0);
EXECUTE move (1, 0);
EXECUTE move (2, 0);
EXECUTE move (3, 0);
EXECUTE move (4, 2);
EXECUTE move (5, 0);
EXECUTE move (6, 3);
SELECT grp, count(*), count(DISTINCT id) FROM member GROUP BY grp ORDER BY grp;
CREATE FUNCTION children_of(k int) RETURNS TABLE (child text, was int) LANGUAGE plpgsql AS $$
BEGIN
  RETURN QUERY WITH p AS (UPDATE no_action SET n = n + 100 WHERE no_action.n = k RETURNING id, n), c AS (UPDATE no_action AS c SET n = p.n + 1 FROM p WHERE c.parent = p.id RETURNING c.id)
    SELECT short(c.id), v.n FROM c JOIN no_action AS v USING (id) ORDER BY v.id;
END $$;
SELECT * FROM children_of(20);
BEGIN;
DELETE FROM no_action WHERE n = 121 AND id LIKE 'run_c%';
DECLARE c CURSOR FOR SELECT short(id), n FROM no_action ORDER BY no_action.id;
WITH p AS (DELETE FROM no_action WHERE n = 120 RETURNING id) DELETE FROM no_action AS c USING p WHERE c.parent = p.id;
\echo DELETE :ROW_COUNT
SAVEPOINT s;
WITH i AS (INSERT INTO att VALUES (id('new', 1), 1) RETURNING *) INSERT INTO item SELECT 'item', id('new', 1), i.id, a.n FROM i LEFT JOIN att AS a USING (id);
ROLLBACK TO s;
FETCH ALL FROM c;
COMMIT;
SELECT short(id) FROM no_action ORDER BY id;
SELECT count(*) FROM item;
-- more rows than are sent at once by other roads
INSERT INTO att SELECT id('new', k), k FROM generate_series(1, 3000) AS k;
WITH u AS (UPDATE att SET n = n + 1 WHERE n % 3 > 0 RETURNING id, n) DELETE FROM att USING u WHERE att.n = u.n AND att.id <> u.id;
\echo DELETE :ROW_COUNT
SELECT count(*), sum(n) FROM att;
-- what a trigger sets is what is returned
CALL everywhere($$
  CREATE FUNCTION set_touched() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.touched := 7; RETURN NEW; END';
  CREATE TRIGGER set_touched BEFORE INSERT OR UPDATE ON member FOR EACH ROW EXECUTE FUNCTION set_touched()$$);
WITH i AS (INSERT INTO member VALUES (id('legacy', 80), 80, 1), (id('new', 80), 80, 1) RETURNING id, touched) INSERT INTO item SELECT 'of ' || short(i.id), i.id, NULL, i.touched FROM i RETURNING id, n;
WITH u AS (UPDATE member SET n = 2 WHERE grp = 80 RETURNING id, n + touched AS n) UPDATE item SET n = item.n + u.n FROM u WHERE item."runId" = u.id RETURNING item.id, item.n;
CALL everywhere('DROP TRIGGER set_touched ON member');

-- # A function that changes rows of the statement
--
-- A row that it has changed before the statement could is an error, not a lost change.
CREATE FUNCTION touch(store text, k int) RETURNS int LANGUAGE sql AS 'UPDATE member SET touched = touched + 1 WHERE id = id(store, k) RETURNING 1';
CREATE FUNCTION touch_and_catch(store text, k int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
  RETURN touch(store, k);
EXCEPTION WHEN division_by_zero THEN RETURN NULL;
END $$;
CREATE FUNCTION remove(store text, k int) RETURNS int LANGUAGE sql AS 'DELETE FROM member WHERE id = id(store, k) RETURNING 1';
CREATE FUNCTION add(store text, k int) RETURNS int LANGUAGE sql AS 'INSERT INTO member VALUES (id(store, k), 99, k) RETURNING 1';
DELETE FROM member;
INSERT INTO member SELECT id(store, k), k % 2, k FROM unnest('{legacy,new}'::text[]) AS store, generate_series(1, 300) AS k;
\set VERBOSITY sqlstate
UPDATE member SET touched = touch('legacy', 1) WHERE id = id('legacy', 1);
UPDATE member SET touched = touch('new', 1) WHERE id = id('new', 1);
UPDATE member SET touched = touch_and_catch('new', 1) WHERE id = id('new', 1);
UPDATE member SET n = n + touch('new', 1) WHERE n < 3;
UPDATE member SET n = 0 WHERE id = id('new', 1) AND touch('new', 1) = 1;
UPDATE member SET n = remove('new', 1) WHERE id = id('new', 1);
DELETE FROM member WHERE id = id('legacy', 1) AND touch('legacy', 1) = 1;
DELETE FROM member WHERE id = id('new', 1) AND touch('new', 1) = 1;
DELETE FROM member WHERE id = id('new', 1) AND remove('new', 1) = 1;
-- far ahead of the row that calls it
UPDATE member SET n = CASE n WHEN 1 THEN touch('new', 299) ELSE 0 END WHERE id NOT LIKE 'run_c%';
-- in a CTE, and in a transaction that has changed the rows before
WITH t AS MATERIALIZED (SELECT touch('new', 1) AS n) UPDATE member SET touched = t.n FROM t WHERE id = id('new', 1);
BEGIN;
UPDATE member SET n = n;
UPDATE member SET touched = touch('new', 1) WHERE id = id('new', 1);
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
UPDATE member SET n = n;
UPDATE member SET n = touch('legacy', 200) + touch('new', 200) WHERE n < 3;
UPDATE member SET touched = touch('new', 1) WHERE id = id('new', 1);
ROLLBACK;
\set VERBOSITY default
SELECT count(*), sum(n), sum(touched) FROM member;
-- other rows, and the rows that the statement returns
UPDATE member SET n = n + touch('legacy', n + 100) + touch('new', n + 100) WHERE n < 4;
UPDATE member SET n = n + add(CASE WHEN id LIKE 'run_c%' THEN 'legacy' ELSE 'new' END, 1000 + n) WHERE n < 4;
UPDATE member SET n = n WHERE id IN (id('legacy', 1), id('new', 1)) RETURNING short(id), n, touch(CASE WHEN id LIKE 'run_c%' THEN 'legacy' ELSE 'new' END, 1);
DELETE FROM member WHERE n < 4 AND touch('new', 100) = 1;
SELECT short(id) AS id, n, touched FROM member WHERE touched > 0 OR n < 5 OR n > 300 ORDER BY member.id;
-- a trigger that leaves out rows is not taken for such a function
CALL everywhere($$
  CREATE FUNCTION leave_out() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN CASE WHEN OLD.n BETWEEN 10 AND 12 THEN NULL ELSE NEW END; END';
  CREATE TRIGGER leave_out BEFORE UPDATE ON member FOR EACH ROW EXECUTE FUNCTION leave_out()$$);
UPDATE member SET grp = touch('new', 100) WHERE n BETWEEN 10 AND 14;
\echo UPDATE :ROW_COUNT
UPDATE member SET grp = touch('new', 100) WHERE id = id('new', 10) RETURNING n;
\set VERBOSITY sqlstate
UPDATE member SET n = touch('new', 15) WHERE id = id('new', 15);
UPDATE member SET n = CASE n WHEN 10 THEN touch('new', 15) ELSE 0 END WHERE n BETWEEN 10 AND 15 AND id NOT LIKE 'run_c%' RETURNING n;
\set VERBOSITY default

-- # More rows than a store is sent at a time
--
-- which are those of 64 MB.
CALL everywhere($$CREATE TABLE big (id text PRIMARY KEY, n int, t text)$$);
\set ECHO none
\if :split
SELECT run_ops.attach_table('public.big', 'shape') \g /dev/null
SELECT run_ops.swap_views(true) \g /dev/null
\endif
\set ECHO all
-- evaluated here, not in the store
CREATE FUNCTION longer(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1 || ''y''; END';
INSERT INTO big SELECT id(s, k), k, repeat(chr(64 + k), 8000000) FROM unnest('{legacy,new}'::text[]) AS s, generate_series(1, 9) AS k;
\echo INSERT :ROW_COUNT
UPDATE big SET t = longer(t);
\echo UPDATE :ROW_COUNT
WITH u AS (UPDATE big SET t = longer(t), n = n + 100 RETURNING id, n, t)
  SELECT count(*), count(DISTINCT id), sum(n), sum(length(t)) FROM u;
-- several changes, each of several such sets
WITH u AS (UPDATE big SET t = longer(t) WHERE n % 9 > 0 RETURNING n, t), d AS (DELETE FROM big WHERE n % 9 = 0 AND longer(t) <> '' RETURNING n, t),
     i AS (INSERT INTO big SELECT id(s, 100 + k), k, repeat('z', 8000000) FROM unnest('{legacy,new}'::text[]) AS s, generate_series(1, 9) AS k RETURNING n, t)
  SELECT c.change, count(*), sum(c.n), sum(length(c.t))
    FROM (SELECT 'u', n, t FROM u UNION ALL SELECT 'd', n, t FROM d UNION ALL SELECT 'i', n, t FROM i) AS c (change, n, t) GROUP BY 1 ORDER BY 1;
-- one before the other has been read, and those that nobody reads
WITH u AS (UPDATE big SET t = longer(t) WHERE n > 100 RETURNING n), i AS (INSERT INTO big SELECT id(s, 200 + k), k, repeat('w', 8000000) FROM unnest('{legacy,new}'::text[]) AS s, generate_series(1, 9) AS k)
  UPDATE big SET t = longer(t), n = big.n + 1000 FROM u WHERE big.n = u.n - 100;
\echo UPDATE :ROW_COUNT
SELECT left(t, 1) AS t, count(*), sum(n), sum(length(t)) FROM big GROUP BY 1 ORDER BY 1;

-- The application works as before, through the views.
SET search_path = routed, public;

-- An order below the boundary stays here; one above it goes to the store, with
-- all that belongs to it.
INSERT INTO orders (customer) VALUES ('customer 1') RETURNING id;
INSERT INTO orders (customer) SELECT 'customer ' || n % 10 FROM generate_series(1, 200) AS n;
INSERT INTO order_items SELECT id, 1, 'product 1', 3 FROM orders WHERE id > 1000;
INSERT INTO payments (order_id, cents) SELECT id, 500 FROM orders WHERE id > 1000;
INSERT INTO events (id, kind) VALUES (gen_random_uuid(), 'paid'), ('019aca00-0000-7000-8000-000000000001', 'paid');

SELECT run_ops.locate('orders', '1099') AS before_the_boundary, run_ops.locate('orders', '1100') AS behind_it;
SELECT status, count(*), max(id) FROM orders GROUP BY status ORDER BY status;
SELECT o.id, o.status, i.quantity, p.cents
  FROM orders AS o JOIN order_items AS i ON i.order_id = o.id JOIN payments AS p ON p.order_id = o.id
 WHERE o.id IN (7, 1150) ORDER BY o.id, i.line;

-- A query for old orders does not contact the store, and one for new orders not
-- this database.
EXPLAIN (COSTS OFF) SELECT * FROM orders WHERE id = 7;
EXPLAIN (COSTS OFF) SELECT * FROM orders WHERE id = 1150;
EXPLAIN (COSTS OFF) SELECT * FROM orders WHERE id < 1000;

UPDATE orders SET status = 'shipped' WHERE id = 1150 AND status = 'open' RETURNING id;
INSERT INTO orders (id, customer) VALUES (1150, 'x') ON CONFLICT (id) DO UPDATE SET customer = 'customer 5' RETURNING id, customer;
SELECT id FROM orders WHERE status = 'open' ORDER BY id LIMIT 2 FOR UPDATE SKIP LOCKED;
DELETE FROM order_items WHERE order_id = 1151;

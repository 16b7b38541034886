-- In the control plane: what is here already, the store, and the tables.

INSERT INTO orders (customer, status)
SELECT 'customer ' || n % 10, 'shipped' FROM generate_series(1, 1000) AS n;
INSERT INTO order_items SELECT id, line, 'product ' || id % 7, line FROM orders, generate_series(1, 2) AS line;
INSERT INTO payments (order_id, cents) SELECT id, 100 * id FROM orders;
INSERT INTO events (id, kind) SELECT gen_random_uuid(), 'shipped' FROM generate_series(1, 100);

CREATE EXTENSION run_ops_split CASCADE;
CREATE SERVER new FOREIGN DATA WRAPPER run_ops_fdw
  OPTIONS (host :'store_host', port :'store_port', dbname :'store_db');
CREATE USER MAPPING FOR CURRENT_USER SERVER new OPTIONS (user :'store_user');
SELECT run_ops.attach_store('new', 'new');

-- Orders from this number on go to the store.  It is some way ahead of the
-- sequence: nothing moves before the application gets there.
CREATE SCHEMA routed;
SELECT run_ops.create_boundary_rule('routed.order_store', 'bigint', '1100');
SELECT legacy, route_column, view, refused
  FROM run_ops.attach_tree('orders', 'routed.order_store(bigint)', view_schema => 'routed');
SELECT run_ops.attach_table('events', 'shape', 'id', view_schema => 'routed',
                            key_rule => 'run_ops.uuid_version_store(uuid)');

-- Write locks in the store: they refuse rows that belong here.
SELECT run_ops.tell_store('new', run_ops.store_write_lock(view)) FROM run_ops.routed_table;

# examples/orders, run as its README says: a schema that has nothing of the run-ops
# tables, from two empty databases to a split, and back.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $control_plane = PostgreSQL::Test::Cluster->new('control_plane');
my $store = PostgreSQL::Test::Cluster->new('store');
$_->init, $_->start foreach ($control_plane, $store);
$control_plane->safe_psql('postgres', 'CREATE DATABASE shop');
$store->safe_psql('postgres', 'CREATE DATABASE shop_store');
my $user = $store->safe_psql('postgres', 'SELECT current_user');

# what a file of the example prints
sub run_file
{
	my ($name, $node, $database) = @_;
	my ($out, $err) = ('', '');
	ok(IPC::Run::run(['psql', '-XAt', '-v', 'ON_ERROR_STOP=1', '-v', 'store_host=' . $store->host,
			'-v', 'store_port=' . $store->port, '-v', 'store_db=shop_store', '-v', "store_user=$user",
			'-d', $node->connstr($database), '-f', "examples/orders/$name"],
			'>', \$out, '2>', \$err, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default)), "$name runs");
	unlike($err, qr/ERROR|FATAL/, '... without an error') or diag($err);
	return $out;
}

sub local { return $control_plane->safe_psql('shop', $_[0]); }
sub there { return $store->safe_psql('shop_store', $_[0]); }

run_file('1_schema.sql', $store, 'shop_store');
run_file('1_schema.sql', $control_plane, 'shop');
like(run_file('2_attach.sql', $control_plane, 'shop'),
	qr/^orders\|id\|routed\.orders\|\norder_items\|order_id\|routed\.order_items\|\npayments\|order_id\|routed\.payments\|$/m,
	'what refers to orders is attached by the column that does');
like(run_file('3_enable.sql', $control_plane, 'shop'), qr/\A\s*\z/, 'no gate fails');
my $used = run_file('4_use.sql', $control_plane, 'shop');
like($used, qr/^legacy\|new$/m, 'an order is here before the boundary, and there behind it');
like($used, qr/^open\|201\|1201\nshipped\|1000\|1000$/m, 'a count shows both');
like($used, qr/^7\|shipped\|1\|700\n7\|shipped\|2\|700\n1150\|open\|3\|500$/m, 'a join shows both');
is(() = $used =~ /Foreign Scan/g, 1, 'one of three plans contacts the store');
is(there('SELECT min(id), max(id), count(*) FROM orders'), '1100|1201|102', 'the orders behind the boundary are there');
is(there('SELECT count(*) FROM order_items'), '101', '... with their items, but one deleted');
is(there('SELECT count(*) FROM events'), '1', '... and the event of version 7');
is(there('SELECT customer, status FROM orders WHERE id = 1150'), 'customer 5|shipped', '... changed');
is(&local('SELECT count(*), max(id) FROM ONLY orders'), '1099|1099', 'the others are here');

like(run_file('5_back.sql', $control_plane, 'shop'), qr/^1201\|50150500\n1201\|1201$/m, 'all rows come home');
is(&local(q(SELECT reason FROM run_ops.split_status)), 'disabled, with all rows repatriated', 'split is off');
is(&local('SELECT count(*) FROM routed.orders'), '1201', 'the views show this database');
# forward again: the rows of that time move, what has stayed here goes
&local(q(INSERT INTO routed.orders (customer) VALUES ('customer 1')));
is(&local('SELECT max(id) FROM public.orders'), '1202', 'new orders are here');
&local(q(DO $$ DECLARE finished boolean := false; BEGIN
	WHILE NOT finished LOOP SELECT done INTO finished FROM run_ops.move_strays(); COMMIT; END LOOP; END $$));
&local('SELECT run_ops.enable_split()');
is(&local('SELECT count(*), max(id) FROM routed.orders'), '1202|1202', 'forward again, the view shows each order once');
&local(q(DO $$ DECLARE finished boolean := false; BEGIN
	WHILE NOT finished LOOP SELECT done INTO finished FROM run_ops.remove_leftovers(); COMMIT; END LOOP; END $$));
is(&local('SELECT max(id) FROM public.orders'), '1099', 'the orders behind the boundary are not here any more');
is(there('SELECT max(id) FROM orders'), '1202', '... but there');
is(&local('SELECT count(*) FROM run_ops.find_strays(\'routed.payments\')'), '0', 'nothing is where it does not belong');
&local(q(DO $$ DECLARE finished boolean := false; BEGIN
	WHILE NOT finished LOOP SELECT done INTO finished FROM run_ops.repatriate(); COMMIT; END LOOP; END $$));
&local('SELECT run_ops.disable_split(repatriated => true)');

# forward without moving a row: boundaries beyond all ids, by the hints alone
&local(q(SELECT run_ops.create_boundary_rule('later_store', 'bigint', '2000');
	CREATE FUNCTION later_event_store(id uuid) RETURNS text IMMUTABLE
	RETURN CASE WHEN get_byte(uuid_send(id), 6) >> 4 = 7 AND id >= 'fff00000-0000-7000-8000-000000000000' THEN 'new' ELSE 'legacy' END));
my $set_rule = q(SELECT * FROM run_ops.set_key_rule('orders', 'later_store(bigint)'));
my %views = ($set_rule => "routed.orders\nrouted.order_items\nrouted.payments",
	q(SELECT * FROM run_ops.set_key_rule('events', 'later_event_store(uuid)')) => 'routed.events');
foreach my $set (sort keys %views)
{
	my $refusal = ($control_plane->psql('shop', $set))[2];
	like($refusal, qr/^HINT:  Run in store "new": TRUNCATE public\.\w+/m, "the store has older copies: $views{$set}");
	there($refusal =~ /^HINT:  Run in store "new": (.*)$/m);
	is(&local($set), $views{$set}, '... without them the rule is another one');
}
&local('SELECT run_ops.enable_split()');
is(&local('SELECT count(*) FROM run_ops.leftover'), '0', 'nothing is left over');
is(&local('SELECT count(*), max(id) FROM public.orders'), '1202|1202', '... and are here');
&local(q(INSERT INTO routed.orders (id, customer) VALUES (1999, 'customer 1'), (2000, 'customer 2');
	UPDATE routed.orders SET status = 'shipped' WHERE id IN (1150, 1201, 2000)));
is(there('SELECT id, status FROM orders'), '2000|shipped', 'ids behind the new boundary are there');
is(&local(q(SELECT string_agg(id::text, ',' ORDER BY id) FROM public.orders WHERE id > 1200 OR status = 'shipped' AND id >= 1100)),
	'1150,1201,1202,1999', '... and those before it are here');
is(&local(q(SELECT string_agg(DISTINCT o.gate, ',') FROM run_ops.check_split() AS o WHERE ok IS NOT TRUE)), '', 'no gate fails');
like(($control_plane->psql('shop', $set_rule))[2], qr/cannot set a key rule while split is on/, 'not while split is on');
&local('SELECT run_ops.disable_split(force => true)');
like(($control_plane->psql('shop', $set_rule))[2], qr/could hide rows of store "new"/, 'not while only the store has a row');
&local(q(DO $$ DECLARE finished boolean := false; BEGIN
	WHILE NOT finished LOOP SELECT done INTO finished FROM run_ops.repatriate(); COMMIT; END LOOP; END $$));
&local('SELECT run_ops.disable_split(repatriated => true)');

# without the extension
&local('DROP EXTENSION run_ops_split CASCADE');
is(&local('SELECT count(*) FROM routed.orders'), '1204', 'the views stay');

# the page about it, whose blocks are run one after the other
my $tables = q(
	CREATE TABLE customers (id int PRIMARY KEY);
	CREATE TABLE orders (id bigint PRIMARY KEY, customer_id int NOT NULL);
	CREATE TABLE order_items (order_id bigint NOT NULL REFERENCES orders, line int, PRIMARY KEY (order_id, line));
	CREATE TABLE events (id uuid PRIMARY KEY););
$_->safe_psql('postgres', 'CREATE DATABASE page') foreach ($control_plane, $store);
$_->safe_psql('page', $tables) foreach ($control_plane, $store);
my ($host, $port) = ($store->host, $store->port);
$control_plane->safe_psql('page', qq(
	CREATE EXTENSION run_ops_split CASCADE;
	CREATE SERVER new FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host '$host', port '$port', dbname 'page');
	CREATE USER MAPPING FOR CURRENT_USER SERVER new OPTIONS (user '$user');
	SELECT run_ops.attach_store('new', 'new');
	CREATE SCHEMA routed;));
my $page = slurp_file('docs/any-key.md');
my @blocks = $page =~ /^```sql\n(.*?)^```$/msg;
cmp_ok(scalar @blocks, '>', 5, 'the page has blocks');
foreach my $block (@blocks)
{
	my ($status, $out, $err) = $control_plane->psql('page', $block);
	my ($first) = $block =~ /^(.*)$/m;
	is($status, 0, "runs: $first") or diag($err);
}
# and what its table of rules names
while ($page =~ /^\| `(create_boundary_rule\(.*?\))` \|/mg)
{
	like($control_plane->safe_psql('page', "BEGIN; DROP FUNCTION IF EXISTS order_store(bigint); SELECT run_ops.$1; ROLLBACK"), qr/_store\(/, "a rule: $1");
}
is($control_plane->safe_psql('page', q(INSERT INTO routed.orders VALUES (1, 1), (2000000, 1);
	SELECT run_ops.locate('routed.orders', '1'), run_ops.locate('routed.orders', '2000000'))), 'legacy|new', 'and the rows are where the page says');

done_testing();

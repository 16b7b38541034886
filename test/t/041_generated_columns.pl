# Generated columns, stored and, from PostgreSQL 18 on, virtual: each store
# computes them, nobody writes them.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use SplitServers;
use Test::More;

my ($control_plane, $store) = split_servers();
sub sql { return $control_plane->safe_psql('postgres', "SET run_ops_split.cross_store_writes = allow; @_") }

my @kinds = ('stored', $control_plane->pg_version < 18 ? () : 'virtual');
foreach my $kind (@kinds)
{
	$_->safe_psql('postgres', qq(
		CREATE TABLE $kind (id text PRIMARY KEY, "Twice" int GENERATED ALWAYS AS (n * 2) $kind,
		  upper text COLLATE "C" GENERATED ALWAYS AS (upper(note)) $kind, n int NOT NULL, note text COLLATE "C")))
	  foreach ($control_plane, $store);
	sql("SELECT run_ops.attach_table('$kind', 'shape')");
}
sql('SELECT run_ops.enable_split()');

my %returning = map { $_ => $_ eq 'virtual' ? 'old."Twice", new."Twice"' : '"Twice"' } @kinds;
foreach my $kind (@kinds)
{
	my ($cuid, $ksuid) = (cuid(1), ksuid(1));
	foreach my $id ($cuid, $ksuid)
	{
		my $side = $id eq $cuid ? 'legacy' : 'new';
		is(sql(qq(INSERT INTO run_ops.$kind (id, n, note) VALUES ('$id', 5, 'a') RETURNING n, "Twice", upper)), '5|10|A', "$kind, $side: inserted");
		is(sql(qq(UPDATE run_ops.$kind SET n = 6, note = 'b' WHERE id = '$id' RETURNING $returning{$kind}, upper)),
			$kind eq 'virtual' ? '10|12|B' : '12|B', "$kind, $side: updated");
		is(sql(qq(SELECT "Twice", upper FROM run_ops.$kind WHERE id = '$id')), '12|B', "$kind, $side: read");
		is(sql(qq(INSERT INTO run_ops.$kind (id, n, note) VALUES ('$id', 7, 'c') ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.n, note = EXCLUDED.note; SELECT "Twice", upper FROM run_ops.$kind WHERE id = '$id')),
			'14|C', "$kind, $side: ON CONFLICT");
		my ($ret, $out, $err) = $control_plane->psql('postgres', qq(INSERT INTO run_ops.$kind (id, n, "Twice") VALUES ('$id', 5, 1)));
		like($err, qr/cannot write to column "Twice" of view "$kind"/, "$kind, $side: not written");
	}
	sql("INSERT INTO run_ops.$kind (id, n, note) SELECT 'run_' || lpad(i::text, 25 + i % 2 * 2, '0'), i, 'x' || i FROM generate_series(10, 19) AS i");
	my $rows = sql(qq(SELECT id, n, "Twice", upper FROM run_ops.$kind ORDER BY n, id));
	my $count = () = $rows =~ /^run_\w+\|(\d+)\|(??{ 2 * $1 })\|[CX]/mg;
	is($count, 12, "$kind: both stores have computed") or diag($rows);
	is($store->safe_psql('postgres', "SELECT count(*) FROM $kind"), '6', "$kind: half of the rows are in the store");
	is(sql(qq(SELECT count(*) FROM run_ops.$kind WHERE "Twice" = 14 AND upper = 'C')), '2', "$kind: found by what is computed");
	is(sql("DELETE FROM run_ops.$kind WHERE upper = 'X10' OR upper = 'X11' RETURNING upper"), "X10\nX11", "$kind: deleted by it");

	# a migration
	$_->safe_psql('postgres', qq(ALTER TABLE $kind ADD thrice int GENERATED ALWAYS AS (n * 3) $kind)) foreach ($store, $control_plane);
	sql("SELECT run_ops.refresh_table('run_ops.$kind')");
	is(sql(qq(UPDATE run_ops.$kind SET n = 8 WHERE "Twice" = 14 RETURNING thrice)), "24\n24", "$kind: a migration that adds one is followed");
}

my %rows = map { $_ => sql("SELECT * FROM run_ops.$_ ORDER BY id") } @kinds;
$control_plane->poll_query_until('postgres', 'SELECT done FROM run_ops.repatriate(1000)');
sql('SELECT run_ops.disable_split(repatriated => true)');
is($control_plane->safe_psql('postgres', "SELECT * FROM $_ ORDER BY id"), $rows{$_}, "$_: all rows have come home") foreach @kinds;

done_testing();

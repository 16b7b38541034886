# RETURNING shows OLD and NEW, which PostgreSQL has since version 18, for rows of
# both stores as for a table.

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use SplitServers;

my ($control_plane, $store) = split_servers();
plan skip_all => 'RETURNING has no OLD and NEW before PostgreSQL 18'
  if $control_plane->pg_version < 18;

$_->safe_psql('postgres', q(CREATE TABLE job (id text PRIMARY KEY, n int, note text DEFAULT 'unset')))
  foreach ($control_plane, $store);
$control_plane->safe_psql('postgres', q(
	CREATE TABLE plain (LIKE job INCLUDING ALL);
	SELECT run_ops.attach_table('job', 'shape');
	SELECT run_ops.enable_split()));
my ($legacy, $new) = (cuid(1), ksuid(1));

foreach my $statement (
	"INSERT INTO \@ (id, n) VALUES ('$legacy', 1) RETURNING old.id, old.n, new.n, new.note, old, new",
	"INSERT INTO \@ (id, n) SELECT id, i FROM (VALUES (1, '$new'), (2, '" . cuid(2) . "'), (3, '" . ksuid(2) . "')) AS v (i, id) RETURNING old.n, new.n, note",
	"UPDATE \@ SET n = n + 10 WHERE id = '$legacy' RETURNING old.n, new.n, n, old.id = new.id",
	"UPDATE \@ SET n = n + 10 WHERE id = '$new' RETURNING old.n, new.n, n, old.id = new.id",
	"UPDATE \@ SET n = n * 2, note = 'set' WHERE n > 2 RETURNING old.n, new.n, old.note || new.note, old, new",
	"UPDATE \@ AS j SET n = v.n FROM (VALUES ('$new', 5), ('$legacy', 6)) AS v (id, n) WHERE j.id = v.id RETURNING WITH (OLD AS o, NEW AS n) o.n, n.n, v.n",
	"WITH u AS (UPDATE \@ SET n = -n RETURNING old.n AS before, new.n AS after) SELECT sum(before), sum(after) FROM u",
	"INSERT INTO \@ (id, n) VALUES ('$new', 9) ON CONFLICT DO NOTHING RETURNING old.n, new.n",
	"DELETE FROM \@ WHERE n < -5 RETURNING old.n, new.n, old, new",
	"DELETE FROM \@ WHERE id = '$new' RETURNING old.n, new.n, n")
{
	my ($view, $table) = map {
		my $name = $_;
		join "\n", sort split /\n/, $control_plane->safe_psql('postgres', $statement =~ s/\@/$name/r)
	} 'run_ops.job', 'plain';
	is($view, $table, $statement);
}

# a store that updates a row cannot tell what it was
foreach my $id ($legacy, $new)
{
	my ($code, $stdout, $stderr) = $control_plane->psql('postgres',
		"INSERT INTO run_ops.job VALUES ('$id', 1) ON CONFLICT (id) DO UPDATE SET n = 2 RETURNING old.n");
	like($stderr, qr/OLD and NEW in RETURNING are not supported with ON CONFLICT DO UPDATE/, 'ON CONFLICT DO UPDATE refuses OLD');
}

done_testing();

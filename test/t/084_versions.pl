# Every released version updates to the newest one, with the catalogs of a
# fresh install.  test/released holds the install script of each version as it
# was released, upgrade/ the scripts from one to the next.  A failure lists what
# differs: "- " a fresh install only, "+ " the updated one only.  What data and open
# sessions go through is in t/107_update.pl and t/083_pg_upgrade.pl.
#
# The comparison is put to the proof: one object after the other is made to
# differ, and each time the difference is seen.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use SplitServers qw(extension_script released);
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;
my $newest = $node->safe_psql('postgres', q(SELECT default_version FROM pg_available_extensions WHERE name = 'run_ops_split'));
my $scripts = $node->config_data('--sharedir') . '/extension';

my $databases = 0;
sub install
{
	my ($version, @then) = @_;
	my $db = 'db' . ++$databases;
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	my $with = $version ? "VERSION '$version'" : '';
	$node->safe_psql($db, "SET client_min_messages = warning; CREATE EXTENSION run_ops_split $with CASCADE");
	$node->safe_psql($db, $_) foreach @then;
	return $db;
}

# the facts of one database, after a change that is not kept
sub facts
{
	my ($db, $change) = @_;
	return [ split /\n/, $node->safe_psql($db, 'BEGIN; ' . ($change // '') . ";\n\\i test/fixtures/extension_catalog.sql\n") ];
}

sub differences
{
	my ($one, $other) = @_;
	my %count;
	$count{$_}++ foreach @$one;
	$count{$_}-- foreach @$other;
	return map { ($count{$_} > 0 ? '- ' : '+ ') . $_ } grep { $count{$_} } sort keys %count;
}

my $db = install();
my $fresh = facts($db);
cmp_ok(scalar @$fresh, '>', 500, 'a fresh install has facts');
is_deeply([ differences($fresh, facts(install())) ], [], 'two fresh installs have the same');

# --- the comparison sees what is missing or other -----------------------------------

my @changes = (
	[ 'ALTER EXTENSION run_ops_split DROP FUNCTION run_ops.id_timestamp(text); DROP FUNCTION run_ops.id_timestamp(text)' => qr/^- function \| run_ops\.id_timestamp/ ],
	[ 'CREATE OR REPLACE FUNCTION run_ops.acknowledgeable_gates() RETURNS text[] LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp RETURN ARRAY[\'index\']' => qr/^\+ run_ops\.acknowledgeable_gates.*RETURN ARRAY\['index'/ ],
	[ 'ALTER FUNCTION run_ops.gates() RESET search_path' => qr/^- run_ops\.gates/ ],
	[ 'ALTER FUNCTION run_ops.enable_split(boolean) SECURITY INVOKER' => qr/^- run_ops\.enable_split.*SECURITY DEFINER/ ],
	[ 'ALTER FUNCTION run_ops.owner_engine(text) VOLATILE' => qr/^- run_ops\.owner_engine.*IMMUTABLE/ ],
	[ 'GRANT EXECUTE ON FUNCTION run_ops.repatriate(int) TO PUBLIC' => qr/^\+ run_ops\.repatriate.*acl \| =X/ ],
	[ 'COMMENT ON FUNCTION run_ops.gates() IS NULL' => qr/^\+ function \| run_ops\.gates\(\) \| no comment/ ],
	[ 'COMMENT ON COLUMN run_ops.store.server IS NULL' => qr/^\+ run_ops\.store \| column.*no comment/ ],
	[ 'ALTER TABLE run_ops.audit_log DROP COLUMN detail' => qr/^- run_ops\.audit_log \| column \| 5 \| detail/ ],
	[ 'ALTER TABLE run_ops.audit_log ALTER at DROP DEFAULT' => qr/^- run_ops\.audit_log \| column.*clock_timestamp/ ],
	[ 'ALTER TABLE run_ops.acknowledgement ALTER reason DROP NOT NULL' => qr/^- run_ops\.acknowledgement \| column.*not null \| t/ ],
	[ 'ALTER TABLE run_ops.acknowledgement DROP CONSTRAINT acknowledgement_pkey' => qr/^- run_ops\.acknowledgement \| index/ ],
	[ 'ALTER TABLE run_ops.split_state DROP CONSTRAINT split_state_check' => qr/^- run_ops\.split_state \| constraint/ ],
	[ 'ALTER SEQUENCE run_ops.audit_log_id_seq CACHE 7' => qr/^\+ run_ops\.audit_log_id_seq \| sequence.*\| 7 \|/ ],
	[ 'REVOKE SELECT ON run_ops.store FROM PUBLIC' => qr/^- run_ops\.store \| kind.*acl.*=r/ ],
	[ 'CREATE OR REPLACE VIEW run_ops.relation_between AS SELECT view, NULL::name AS column_name, view AS referenced FROM run_ops.routed_table' => qr/^\+ run_ops\.relation_between \| kind/ ],
	[ q(DELETE FROM run_ops.store) => qr/^- run_ops\.store \| row \| .*legacy/ ],
	[ q(ALTER TYPE run_ops.routing ADD VALUE 'other') => qr/^\+ run_ops\.routing \| type.*other/ ],
	[ 'ALTER TYPE run_ops.gate ADD ATTRIBUTE more text' => qr/^\+ run_ops\.gate \| column \| 6 \| more/ ],
	[ 'ALTER FOREIGN DATA WRAPPER run_ops_fdw NO VALIDATOR' => qr/^- run_ops_fdw \| wrapper.*validator/ ],
	[ 'CREATE ROLE other SUPERUSER; ALTER VIEW run_ops.split_status OWNER TO other' => qr/^\+ run_ops\.split_status \| kind.*the owner is another role/ ],
	[ 'ALTER EVENT TRIGGER run_ops_guard_publications DISABLE' => qr/^- run_ops_guard_publications \| event trigger.*\| O/ ],
	[ 'ALTER EXTENSION run_ops_split DROP FUNCTION run_ops.split_enabled()' => qr/^- function \| run_ops\.split_enabled/ ],
	[ q(UPDATE pg_extension SET extconfig = extconfig[2:], extcondition = extcondition[2:] WHERE extname = 'run_ops_split') => qr/^- dumped table/ ],
	[ q(DELETE FROM pg_init_privs WHERE objoid = 'run_ops.repatriate(int)'::regprocedure) => qr/^- run_ops\.repatriate.*dumped grants/ ],
	[ 'CREATE INDEX more ON run_ops.audit_log (at)' => qr/^\+ run_ops\.audit_log \| index.*more/ ],
	[ 'CREATE TRIGGER more BEFORE INSERT ON run_ops.audit_log FOR EACH ROW EXECUTE FUNCTION run_ops.route_write()' => qr/^\+ run_ops\.audit_log \| trigger/ ]);
foreach my $change (@changes)
{
	my ($sql, $line) = @$change;
	my @found = differences($fresh, facts($db, $sql));
	ok(scalar(grep { $_ =~ $line } @found), "seen: $sql") or diag(join "\n", @found);
}

# --- every released version ------------------------------------------------------------

# An update path is tried even before there is a second version: version 0.0.0
# is the newest one without its last function, 0.0.1 forgets to comment on it.
my $script = slurp_file("$scripts/run_ops_split--$newest.sql");
my ($function) = $script =~ /(CREATE FUNCTION run_ops\.store_row_counts\(.*?\$\$;\n)/s or die;
my ($comment) = $script =~ /(COMMENT ON FUNCTION run_ops\.store_row_counts\(.*?';\n)/s or die;
my ($revoke) = $script =~ /(REVOKE EXECUTE ON FUNCTION run_ops\.store_row_counts\(.*?;\n)/s or die;
my $older = $script;
$older =~ s/\Q$_\E// foreach ($function, $comment, $revoke);
foreach my $case ([ '0.0.0', $function . $comment . $revoke, 0 ], [ '0.0.1', $function . $revoke, 2 ])
{
	my ($version, $upgrade, $n) = @$case;
	extension_script($node, $version, $older);
	extension_script($node, "$version--$newest", $upgrade);
	my @found = differences($fresh, facts(install($version, 'ALTER EXTENSION run_ops_split UPDATE')));
	is(scalar @found, $n, "$version to $newest: $n lines differ") or diag(join "\n", @found);
}

# a release that was not frozen could not be upgraded from
my @released = grep { $_ ne $newest } slurp_file('CHANGELOG.md') =~ /^## (\d+\.\d+\.\d+) \((?!unreleased)/mg;
my @frozen = map { m{--(.*)\.sql$} } glob 'test/released/run_ops_split--*.sql';
is_deeply([ sort grep { $_ ne $newest } @frozen ], [ sort @released ], 'every release before this version is frozen');

$node->safe_psql('postgres', 'CREATE ROLE updater SUPERUSER');
foreach my $version (released($node))
{
	# as another superuser than the owner of the extension
	my @found = differences($fresh, facts(install($version, 'SET ROLE updater; ALTER EXTENSION run_ops_split UPDATE')));
	ok(!@found, "$version to $newest: the catalogs of a fresh install") or diag(map { substr($_, 0, 200) . "\n" } @found);
}

# Above, CREATE EXTENSION has also looked for each C function of these versions: a
# library without one of them is refused.
my $lost = $script =~ s/run_ops_library_version/run_ops_lost_function/r;
extension_script($node, '0.0.2', $lost);
my ($ret, $out, $err) = $node->psql('postgres', "CREATE EXTENSION run_ops_split VERSION '0.0.2' CASCADE");
like($err, qr/could not find function "run_ops_lost_function"/, 'a C function that a released version needs is missed');

# What was released does not change.
my $frozen = "test/released/run_ops_split--$newest.sql";
ok(!-e $frozen || slurp_file($frozen) eq $script, "version $newest is as it was released");

done_testing();

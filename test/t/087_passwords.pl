# The password of a user mapping is in no error, no relation and no function
# of the extension, no log line: with the right password, a wrong one, and one
# that breaks out of a connection string.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use SplitServers;
use Test::More;

my ($control_plane, $store) = split_servers();
my $secret = 'Geheim-4711';
# none of the servers writes down what it is told
foreach my $node ($control_plane, $store)
{
	$node->append_conf('postgresql.conf', "log_statement = none\nlog_min_error_statement = panic\nrun_ops_split.store_retry_pause = 0\n");
	$node->restart;
}
my $user = getpwuid($<);
$store->safe_psql('postgres', "ALTER USER \"$user\" PASSWORD '$secret'");
unlink $store->data_dir . '/pg_hba.conf';
$store->append_conf('pg_hba.conf', 'local all all scram-sha-256');
$store->reload;

my @statements = (
	'SELECT * FROM run_ops.check_split()',
	'SELECT run_ops.enable_split()',
	q(SELECT run_ops.attach_store('a', 'new')),
	q(SELECT run_ops.refresh_table('run_ops.run')),
	q(SELECT run_ops.find_strays('run_ops.run')),
	"SELECT * FROM run_ops_new.run WHERE id = '" . ksuid(1) . "'",
	"INSERT INTO run_ops_new.run (id) VALUES ('" . ksuid(1) . "')",
	'SELECT run_ops.repatriate()',
	'SELECT run_ops.verify_repatriation()',
	'SELECT run_ops.store_row_counts()',
	q(SELECT run_ops.handshakes('{new}')), q(SELECT run_ops.fingerprints('new')), q(SELECT run_ops.databases_co_resident('new')),
	'SELECT run_ops.disable_split(force => true)',
	q(SELECT run_ops.acknowledge('index', 'x', 'y')),
	q(SELECT run_ops.ask_store('new', 'SELECT 1')),
	'CALL run_ops.cleanup()');

foreach my $password ($secret, "wrong $secret", "$secret' host=elsewhere \\ port='1")
{
	(my $literal = $password) =~ s/'/''/g;
	$control_plane->safe_psql('postgres', 'DROP USER MAPPING FOR CURRENT_USER SERVER new;'
		  . "CREATE USER MAPPING FOR CURRENT_USER SERVER new OPTIONS (password '$literal')");
	my ($ret, $out, $err) = $control_plane->psql('postgres', join('', map { "$_;\n" } @statements),
		on_error_stop => 0, extra_params => [ '-v', 'VERBOSITY=verbose', '-v', 'SHOW_CONTEXT=always' ]);
	unlike("$out$err", qr/Geheim/, 'no result, error or context has the password');
	like($err, $password eq $secret ? qr/already attached/ : qr/password authentication failed/, 'and they are the right errors') or diag $err;
	# everything that the extension keeps or shows
	my $relations = $control_plane->safe_psql('postgres', q(SELECT string_agg(format('SELECT %L, x::text FROM %s AS x', c.oid::regclass, c.oid::regclass), ';')
		FROM pg_class AS c WHERE c.relnamespace = 'run_ops'::regnamespace AND c.relkind IN ('r', 'v')
		AND c.oid NOT IN (SELECT view FROM run_ops.routed_table)));
	my $shown = $control_plane->safe_psql('postgres', $relations);
	like($shown, qr/run_ops.audit_log\|/, 'all relations were read');
	unlike($shown, qr/Geheim/, 'no relation of the extension has the password');
}

foreach my $node ($control_plane, $store)
{
	unlike(slurp_file($node->logfile), qr/Geheim/, 'nor has the log of ' . $node->name);
}
done_testing();

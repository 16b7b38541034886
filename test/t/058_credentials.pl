# Who may connect to a store, as whom, and with what: as with postgres_fdw of the
# same version.  Whatever is refused, no message has a password or a connection
# string.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use SplitServers;

plan skip_all => 'SKIPPED: openssl, which makes the certificates, is not installed' if system('openssl version >/dev/null 2>&1') != 0;

my ($control_plane, $store) = split_servers();
sub here { return $control_plane->safe_psql('postgres', shift) }
my $version = here('SHOW server_version_num');

# --- certificates -----------------------------------------------------------------------------

my $dir = PostgreSQL::Test::Utils::tempdir();
sub openssl { system_or_bail('sh', '-c', "cd '$dir' && openssl $_[0] 2>/dev/null"); return }
foreach my $ca ('ca', 'other_ca')
{
	openssl("req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=$ca -keyout $ca.key -out $ca.crt");
}
foreach my $certificate ([ 'server', 'store.test', 'ca' ], [ 'certified', 'certified', 'ca' ], [ 'forged', 'certified', 'other_ca' ])
{
	my ($file, $name, $ca) = @$certificate;
	append_to_file("$dir/$file.ext", "subjectAltName = DNS:$name\n");
	openssl("req -newkey rsa:2048 -nodes -subj /CN=$name -keyout $file.key -out $file.csr");
	openssl("x509 -req -days 30 -in $file.csr -CA $ca.crt -CAkey $ca.key -CAcreateserial -extfile $file.ext -out $file.crt");
}
chmod 0600, glob "$dir/*.key";

# --- the store: what each of its roles is asked for -----------------------------------------

my $secret = 'Geheim-4711';
$store->append_conf('postgresql.conf', "listen_addresses = '127.0.0.1'\nssl = on\nssl_ca_file = '$dir/ca.crt'\n"
	  . "ssl_cert_file = '$dir/server.crt'\nssl_key_file = '$dir/server.key'\n");
$store->safe_psql('postgres', qq(
	CREATE ROLE certified LOGIN; CREATE ROLE trusted LOGIN; CREATE ROLE scrammed LOGIN PASSWORD '$secret';
	CREATE VIEW who AS SELECT current_user::text AS name; GRANT SELECT ON who TO PUBLIC));
unlink $store->data_dir . '/pg_hba.conf';
$store->append_conf('pg_hba.conf', "local all all trust\n"
	  . "hostssl all certified 127.0.0.1/32 cert\nhostssl all trusted 127.0.0.1/32 trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n");
$store->restart;

# --- the control plane -------------------------------------------------------------------------

$control_plane->append_conf('postgresql.conf', "run_ops_split.store_retry_pause = 0\n");
$control_plane->reload;
my $server = sprintf q(ALTER SERVER new OPTIONS (SET host 'store.test', ADD hostaddr '127.0.0.1', SET port '%s', ADD sslmode 'verify-full', ADD sslrootcert '%s/ca.crt');),
  $store->port, $dir;
here(qq($server
	CREATE ROLE plain LOGIN; CREATE ROLE other LOGIN; CREATE ROLE boss LOGIN SUPERUSER;
	GRANT USAGE ON SCHEMA run_ops TO PUBLIC;
	GRANT EXECUTE ON FUNCTION run_ops.ask_store(text, text, interval) TO PUBLIC;
	GRANT USAGE ON FOREIGN SERVER new TO plain;
	CREATE FOREIGN TABLE who (name text) SERVER new;
	GRANT SELECT ON who TO PUBLIC));

my $told = '';
# what a role gets: the answer, or the error with its fields
sub as
{
	my ($role, @statements) = @_;
	my ($rc, $out, $err) = $control_plane->psql('postgres', join("\n", map { "$_;" } @statements), on_error_stop => 0,
		extra_params => [ '-U', $role, '-v', 'VERBOSITY=verbose', '-v', 'SHOW_CONTEXT=always' ]);
	$told .= "$out\n$err\n";
	return "$out$err";
}
my $ask = 'SELECT name FROM who';
# a mapping of a role, made anew by a superuser
sub map_user
{
	my ($role, $options) = @_;
	here("DROP USER MAPPING IF EXISTS FOR $role SERVER new");
	here("CREATE USER MAPPING FOR $role SERVER new OPTIONS ($options)") if defined $options;
	return;
}
sub cert { my ($file, $key) = @_; return sprintf q(user 'certified', sslcert '%s/%s.crt', sslkey '%1$s/%s.key'), $dir, $file, $key // $file }

my $unreachable = qr/^psql:\S+ ERROR:  08001: store "new" cannot be reached\nDETAIL:  .*/;
my $no_password = qr/ERROR:  2F003: password is required\nDETAIL:  Non-superusers must provide a password in the user mapping\./;
my $not_asked = qr/ERROR:  2F003: password is required\nDETAIL:  Non-superuser cannot connect if the server does not request a password\./;

# --- certificates ---------------------------------------------------------------------------------

map_user('boss', cert('certified'));
is(as('boss', $ask), 'certified', 'a superuser connects with a certificate');
map_user('boss', cert('forged'));
like(as('boss', $ask), qr/${unreachable}(unknown ca|SSL)/, 'not with one of another authority');
map_user('boss', cert('certified', 'forged'));
like(as('boss', $ask), qr/${unreachable}.*key values mismatch/, 'not with the key of another one');
map_user('boss', cert('absent'));
like(as('boss', $ask), qr/${unreachable}certificate present, but not private key|${unreachable}connection requires a valid client certificate/,
	'not with one that is not there');
map_user('boss', q(user 'certified'));
like(as('boss', $ask), qr/${unreachable}connection requires a valid client certificate/, 'and not without');
map_user('boss', cert('certified') =~ s/certified'/scrammed'/r);
like(as('boss', $ask), qr/${unreachable}fe_sendauth: no password supplied/, 'nor as somebody else');

# the server's own
map_user('boss', cert('certified'));
here(q(ALTER SERVER new OPTIONS (SET host 'other.test')));
like(as('boss', $ask), qr/${unreachable}server certificate for "store\.test" does not match host name "other\.test"/, 'a server of another name is refused');
here(q(ALTER SERVER new OPTIONS (SET host 'store.test')));
here(qq(ALTER SERVER new OPTIONS (SET sslrootcert '$dir/other_ca.crt')));
like(as('boss', $ask), qr/${unreachable}SSL error: certificate verify failed/, 'one that another authority has certified, too');
here(qq(ALTER SERVER new OPTIONS (SET sslrootcert '$dir/absent.crt')));
like(as('boss', $ask), qr/${unreachable}root certificate file "[^"]*" does not exist/, 'and any without an authority');
here(qq(ALTER SERVER new OPTIONS (SET sslrootcert '$dir/ca.crt')));
is(as('boss', $ask), 'certified', 'the right one is not');

# --- no superuser ---------------------------------------------------------------------------------

# the mapping is a superuser's work
foreach my $case (
	[ cert('certified'), $no_password, 'a certificate in place of a password' ],
	[ cert('certified') . q(, password ''), $no_password, 'an empty password' ],
	[ cert('certified') . q(, password 'unused'), $not_asked, 'a certificate and a password that is not asked for' ],
	[ cert('certified') . q(, password_required 'true'), $no_password, 'a certificate, and said to need a password' ],
	[ cert('certified') . q(, password_required 'false'), qr/^certified$/, 'a certificate that a superuser allows' ],
	[ q(user 'trusted'), $no_password, 'a store that trusts' ],
	[ q(user 'trusted', password 'unused'), $not_asked, 'a store that trusts, and a password' ],
	[ q(user 'trusted', password_required 'false'), qr/^trusted$/, 'a store that trusts, which a superuser allows' ],
	[ q(user 'scrammed'), $no_password, 'no password' ],
	[ qq(user 'scrammed', password '$secret'), qr/^scrammed$/, 'the right password' ],
	[ qq(user 'scrammed', password 'wrong $secret'), qr/${unreachable}password authentication failed for user "scrammed"/, 'a wrong one' ],
	[ qq(user 'scrammed', password '$secret\\\\'' host=elsewhere password=''x'), qr/${unreachable}password authentication failed for user "scrammed"/,
		'one that is no password' ],
	[ qq(user 'nobody', password '$secret'), qr/${unreachable}password authentication failed for user "nobody"/, 'a role that the store does not have' ],
	[ undef, qr/ERROR:  42704: user mapping not found for/, 'no user mapping' ])
{
	my ($options, $expected, $what) = @$case;
	map_user('plain', $options);
	like(as('plain', $ask), $expected, "no superuser: $what");
	like(as('plain', q(SELECT a ->> 'current_user' FROM run_ops.ask_store('new', 'SELECT current_user') AS a)), $expected, "no superuser, ask_store(): $what");
	like(as('boss', 'SET ROLE plain', $ask), $expected, "a superuser in the role of none: $what");
	my $superuser = as('boss', $ask);
	is($superuser, 'certified', "a superuser has his own: $what");
}
# nobody makes himself more
map_user('plain', q(user 'trusted', password_required 'false'));
like(as('plain', q(ALTER USER MAPPING FOR plain SERVER new OPTIONS (SET user 'scrammed'))), qr/ERROR:  42501: password_required=false is superuser-only/,
	'what a superuser has allowed is for the user that he has allowed');
map_user('plain', undef);
like(as('plain', q(CREATE USER MAPPING FOR plain SERVER new OPTIONS (user 'trusted', password_required 'false'))),
	qr/ERROR:  42501: password_required=false is superuser-only/, 'nobody else allows it');
like(as('plain', 'CREATE USER MAPPING FOR plain SERVER new OPTIONS (' . cert('certified') . ')'), qr/ERROR:  42501: sslcert and sslkey are superuser-only/,
	'nor a certificate');
is(as('plain', qq(CREATE USER MAPPING FOR plain SERVER new OPTIONS (user 'scrammed', password '$secret')), $ask), 'scrammed', 'but a password');
like(as('plain', q(ALTER USER MAPPING FOR plain SERVER new OPTIONS (ADD password_required 'false'))), qr/ERROR:  42501: password_required=false/, 'nor later');
like(as('plain', qq(ALTER USER MAPPING FOR plain SERVER new OPTIONS (ADD sslkey '$dir/certified.key'))), qr/ERROR:  42501: sslcert and sslkey/, 'nor later');

# what is allowed no more ends with the transaction
my $session = $control_plane->background_psql('postgres', on_error_stop => 0, extra_params => [ '-U', 'plain' ]);
is($session->query($ask), 'scrammed', 'a connection');
here(q(ALTER USER MAPPING FOR plain SERVER new OPTIONS (DROP password)));
$session->query($ask);
like($session->{stderr}, qr/password is required/, 'is not used with a mapping that has been changed');
$session->quit;

# --- PUBLIC -----------------------------------------------------------------------------------------

map_user('plain', qq(user 'scrammed', password '$secret'));
foreach my $case (
	[ q(user 'trusted'), $no_password, 'no password' ],
	[ q(user 'trusted', password_required 'false'), qr/^trusted$/, 'which a superuser allows' ],
	[ qq(user 'scrammed', password '$secret'), qr/^scrammed$/, 'a password' ])
{
	my ($options, $expected, $what) = @$case;
	map_user('PUBLIC', $options);
	like(as('other', $ask), $expected, "the mapping of PUBLIC: $what");
	is(as('plain', $ask), 'scrammed', "who has one of his own has that: $what");
}
map_user('PUBLIC', q(user 'trusted', password_required 'false'));
$session = $control_plane->background_psql('postgres', on_error_stop => 0, extra_params => [ '-U', 'other' ]);
is($session->query($ask), 'trusted', 'the mapping of PUBLIC');
map_user('other', qq(user 'scrammed', password '$secret'));
is($session->query($ask), 'scrammed', 'and one of his own, as soon as there is one');
map_user('other', undef);
is($session->query($ask), 'trusted', 'until it is dropped');
$session->quit;
map_user('PUBLIC', undef);

# --- owners of views --------------------------------------------------------------------------------

map_user('plain', q(user 'trusted'));
here(q(
	CREATE VIEW of_boss AS SELECT * FROM who; ALTER VIEW of_boss OWNER TO boss;
	CREATE VIEW of_plain AS SELECT * FROM who; ALTER VIEW of_plain OWNER TO plain;
	GRANT SELECT ON of_boss, of_plain TO PUBLIC));
is(as('plain', 'SELECT name FROM of_boss'), 'certified', 'a view of a superuser reads as that');
is(as('other', 'SELECT name FROM of_boss'), 'certified', 'also for who has no mapping');
like(as('boss', 'SELECT name FROM of_plain'), $no_password, 'a view of somebody else needs his password, whoever reads it');
map_user('plain', qq(user 'scrammed', password '$secret'));
is(as('boss', 'SELECT name FROM of_plain'), 'scrammed', 'and reads as him');
SKIP:
{
	skip 'views with security_invoker came with PostgreSQL 15', 2 if $version < 150000;
	here('ALTER VIEW of_boss SET (security_invoker)');
	is(as('plain', 'SELECT name FROM of_boss'), 'scrammed', 'with security_invoker it reads as the reader');
	like(as('other', 'SELECT name FROM of_boss'), qr/ERROR:  42704: user mapping not found for/, 'who needs a mapping');
}

# --- keys of the session's own SCRAM authentication, from 18 on ------------------------------------

if ($version >= 180000)
{
	here(q(SET password_encryption = 'scram-sha-256'; ALTER ROLE plain PASSWORD 'Geheim-0815'));
	my $verifier = here(q(SELECT rolpassword FROM pg_authid WHERE rolname = 'plain'));
	$store->safe_psql('postgres', "CREATE ROLE plain LOGIN PASSWORD '$verifier'");
	my $hba = slurp_file($control_plane->data_dir . '/pg_hba.conf');
	unlink $control_plane->data_dir . '/pg_hba.conf';
	$control_plane->append_conf('pg_hba.conf', "local all plain scram-sha-256\n$hba");
	$control_plane->reload;
	local $ENV{PGPASSWORD} = 'Geheim-0815';
	map_user('plain', q(user 'plain'));
	like(as('plain', $ask), $no_password, 'no keys are passed on unless wanted');
	here(q(ALTER SERVER new OPTIONS (ADD use_scram_passthrough 'true')));
	is(as('plain', $ask), 'plain', 'if wanted, they are as good as a password');
	map_user('plain', q(user 'trusted'));
	like(as('plain', $ask), qr/${unreachable}.*authentication method requirement "scram-sha-256" failed/, 'but not where the store does not ask for them');
	map_user('plain', q(user 'scrammed'));
	like(as('plain', $ask), $unreachable, 'nor for another role');
	like(as('boss', 'SET ROLE plain', $ask), $no_password, 'and only who has logged in with a password has any');
	here(q(ALTER SERVER new OPTIONS (DROP use_scram_passthrough)));
	map_user('plain', q(user 'plain', use_scram_passthrough 'true'));
	is(as('plain', $ask), 'plain', 'the mapping may want it, too');
}
else
{
	like(as('boss', q(ALTER SERVER new OPTIONS (ADD use_scram_passthrough 'true'))), qr/ERROR:  HV00D: invalid option "use_scram_passthrough"/,
		'SCRAM keys are passed on from PostgreSQL 18 on');
}

# --- no message has any of it -------------------------------------------------------------------------

unlike($told, qr/Geheim/, 'no answer or error has a password');
unlike($told, qr/\b(host|hostaddr|user|dbname|password|sslkey|port) ?=(?!false is superuser-only)/, 'nor a connection string');
done_testing();

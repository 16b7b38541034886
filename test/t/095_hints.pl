# Every hint mends: each gate in turn is made to fail, the SQL of its hint is run
# as it is written, and the gate holds.  What a hint says in words (restart a
# server, copy tables, synchronize the clocks) is done by the test.
#
# Every gate of the catalog is here.  Only these hints are elsewhere: those of a
# standby (t/082_standby_failover.pl), and those of dropped objects with all that
# follows from them (t/096_nothing_wedges.pl).
use strict;
use warnings;
use lib 'test/t';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Pooler;
use SplitServers;
use Test::More;

my ($control_plane, $store) = split_servers();
my ($host, $port) = ($store->host, $store->port);
my $user = $control_plane->safe_psql('postgres', 'SELECT current_user');

sub here { return $control_plane->safe_psql('postgres', join '', @_) }
sub there { return $store->safe_psql('postgres', join '', @_) }

# The gates are checked in one session, until a setting of the database changes.
my $session;

sub new_session
{
	$session->quit if $session;
	$session = $control_plane->background_psql('postgres');
	return;
}

sub gates
{
	my ($query) = @_;
	return $session->query_safe($query);
}
new_session();

sub hint_of
{
	my ($gate, $object) = @_;
	new_session() if $gate =~ /preload|writable/;	# which are about settings of new sessions
	return gates(qq(SELECT hint FROM run_ops.check_split() WHERE gate = '$gate' AND object = '$object' AND hint IS NOT NULL));
}

sub failing
{
	return gates(q(SELECT coalesce(string_agg(concat_ws(' ', gate, object, '(' || detail || ')'), E'\n'), 'none')
		FROM run_ops.check_split() WHERE ok IS NOT TRUE));
}

my $token = qr/'(?:[^']|'')*'|"(?:[^"]|"")*"|\$(\w*)\$.*?\$\g{-1}\$|[^;'"\$]/s;
my $statement = qr/\b((?:SELECT|ALTER|CREATE|DROP|GRANT|REVOKE|WITH|INSERT|DELETE|BEGIN|COMMIT)\b(?:$token)*;)/s;

# Does what a hint says, in the database that it says.  $fill has the values in
# place of '...'.  Of alternatives ("Or ...:"), the first one is taken.
sub follow
{
	my ($hint, $fill) = @_;
	my $accept = $hint =~ s/ ?To accept it: (SELECT run_ops\.acknowledge\(.*)$//s ? $1 : undef;
	$hint =~ s/'\.\.\.'/shift @{$fill}/ge;
	my $n = 0;
	my $database = 'here';
	foreach my $segment (split /(Run in (?:store "\w+"|this database): )/, $hint)
	{
		if ($segment =~ /^Run in (store|this)/)
		{
			$database = $1 eq 'store' ? 'there' : 'here';
			next;
		}
		my ($at, @statements) = (0);
		my $run = sub {
			my $sql = join "\n", splice @statements or return;
			return $database eq 'here' ? here("SET client_min_messages = error; $sql") : there($sql);
		};
		while ($segment =~ /$statement/g)
		{
			my ($words, $sql) = (substr($segment, $at, $-[1] - $at), $1);
			$at = $+[1];
			last if $n && $words =~ /\bor\b/i;
			$n++;
			if ($words =~ /repeat until done/)
			{
				$run->();
				$sql =~ s/\*(.*);/bool_and(done)$1/;
				while (here($sql) ne 't') { }
			}
			elsif ($sql =~ /run_ops\.same_shape_commands/)
			{
				foreach (split /\n/, here($sql))
				{
					my ($store, $command) = split /\|/, $_, 2;
					$store eq 'legacy' ? here($command) : there($command);
				}
			}
			else { push @statements, $sql }
		}
		$run->();
	}
	if ($n == 0 && $accept)
	{
		here($accept);
		$n++;
	}
	return $n;
}

my %mended;

# A gate that fails, or says something, and its hint.  $break{done} is what a hint
# says in words, $break{next} what the next hint says, if it takes two.
sub mends
{
	my ($gate, $object, %break) = @_;
	$break{prepare}->() if $break{prepare};
	here("SET client_min_messages = error; $break{here}") if $break{here};
	there($break{there}) if $break{there};
	my $hint = hint_of($gate, $object);
	isnt($hint, '', "$gate $object: there is a hint") or diag(failing());
	my $n = follow($hint, $break{fill});
	$break{words} ? like($hint, $break{words}, "$gate $object: the hint says what to do") : ok($n, "$gate $object: the hint has SQL") or diag($hint);
	$break{done}->() if $break{done};
	$mended{$gate} = 1;
	return like(hint_of($gate, $object), $break{next}, "$gate $object: there is one more hint") if $break{next};
	is(hint_of($gate, $object), '', "$gate $object: the hint is gone");
	here("SET client_min_messages = error; $break{after}") if $break{after};
	new_session() if $gate eq 'database';	# its connection to the database that is dropped
	there($break{after_there}) if $break{after_there};
	is(failing(), 'none', "$gate $object: and then every gate holds") or diag("hint: $hint");
	return;
}

is(failing(), 'none', 'every gate holds');

# --- this database ------------------------------------------------------------------

# an update from a version that differs in nothing but its number
my $version = here('SELECT run_ops.library_version()');
extension_script($control_plane, "0.0.9--$version", '');
my $extension_is = q(UPDATE pg_extension SET extversion = '%s' WHERE extname = 'run_ops_split');
mends('version', "library $version", here => sprintf($extension_is, '0.0.9'));
mends('version', "library $version", here => sprintf($extension_is, '99.0.0'), words => qr/^Install version 99\.0\.0 on this server\./,
	done => sub { here(sprintf $extension_is, $version) });
mends('opted in', '', here => 'SELECT run_ops.configure_split(opted_in => false)');
mends('server', '', here => q(UPDATE run_ops.split_state SET identities = '{}'), after => 'SELECT run_ops.disable_split()');
mends('realtime', 'native realtime', here => 'SELECT run_ops.configure_split(native_realtime => false)');
mends('realtime', 'publication readers', here => 'CREATE PUBLICATION readers FOR TABLE run',
	after => q(DROP PUBLICATION readers; SELECT run_ops.withdraw_acknowledgement('realtime', 'publication readers')));
mends('realtime', 'replication slot reader', here => q(SELECT pg_create_logical_replication_slot('reader', 'test_decoding')),
	after => q(SELECT pg_drop_replication_slot('reader'); SELECT run_ops.withdraw_acknowledgement('realtime', 'replication slot reader')));
mends('preload', '', here => 'ALTER DATABASE postgres RESET session_preload_libraries');
mends('attached', 'public."TaskRun"', here => 'CREATE TABLE "TaskRun" (id text PRIMARY KEY)', there => 'CREATE TABLE "TaskRun" (id text PRIMARY KEY)',
	after => q(SELECT run_ops.detach_table('run_ops."TaskRun"'); DROP TABLE "TaskRun"), after_there => 'DROP TABLE "TaskRun"');
mends('attached', '', here => 'SELECT run_ops.detach_table(view) FROM run_ops.routed_table',
	after => q(SELECT run_ops.attach_table('run', 'shape'), run_ops.attach_table('tag', 'store')));
mends('attached', 'public.tag', here => q(DELETE FROM run_ops.routed_store WHERE view = 'run_ops.tag'::regclass));
mends('complete', 'run_ops.tag', here => 'DROP FOREIGN TABLE run_ops_new.tag');
mends('complete', 'run_ops.tag', here => 'DROP VIEW run_ops.tag');
mends('complete', 'new', here => 'ALTER SERVER new RENAME TO other');
mends('store', '', here => q(SELECT run_ops.detach_store('new')), fill => ["'new'"]);
mends('refreshed', 'run_ops_new.tag', here => 'ALTER TABLE tag ADD extra int', there => 'ALTER TABLE tag ADD extra int');
mends('foreign key', 'env_run of public.env', here => 'CREATE TABLE env (run text CONSTRAINT env_run REFERENCES run)', after => 'DROP TABLE env');
mends('foreign key', 'step_tag of public.step', map { $_ => 'ALTER TABLE step ADD CONSTRAINT step_tag FOREIGN KEY (id) REFERENCES tag' } qw(here there));
# what attach_table() has required
my $part = 'CREATE TABLE part (id int PRIMARY KEY, line int, whole bigint NOT NULL)';
there($part);
here($part, q(; SELECT run_ops.attach_table('part', 'anchor', 'whole', key_rule => run_ops.create_boundary_rule('whole_store', 'bigint', '1000'))));
mends('key', 'public.part.whole', here => 'ALTER TABLE part ALTER whole DROP NOT NULL');
mends('key', 'public.part.whole', (map { $_ => 'ALTER TABLE part ALTER whole DROP NOT NULL' } qw(here there)), next => qr/^$/);
mends('columns', 'public.part');
mends('key', 'public.part.id', here => 'ALTER TABLE part DROP CONSTRAINT part_pkey, ALTER id DROP NOT NULL; CREATE UNIQUE INDEX ON part (id)');
mends('key', 'public.part', (map { $_ => 'ALTER TABLE part DROP CONSTRAINT IF EXISTS part_pkey; DROP INDEX IF EXISTS part_id_idx' } qw(here there)), next => qr/^$/);
mends('columns', 'public.part', after => q(SELECT run_ops.detach_table('run_ops.part'); DROP TABLE part; DROP FUNCTION whole_store), after_there => 'DROP TABLE part');
mends('identity', 'public.tag.extra', here => 'ALTER TABLE tag ALTER extra SET NOT NULL, ALTER extra ADD GENERATED ALWAYS AS IDENTITY',
	there => 'ALTER TABLE tag ALTER extra SET NOT NULL, ALTER extra ADD GENERATED BY DEFAULT AS IDENTITY');
mends('identity', 'public.tag.extra in store "new"', there => 'ALTER TABLE tag ALTER extra SET GENERATED ALWAYS',
	after => 'ALTER TABLE tag ALTER extra DROP IDENTITY, ALTER extra DROP NOT NULL',
	after_there => 'ALTER TABLE tag ALTER extra DROP IDENTITY, ALTER extra DROP NOT NULL');

# names of the extension in front of the application's
mends('hidden name', 'public.store', here => q(CREATE TABLE store (id int); CREATE ROLE app; ALTER ROLE app SET search_path = run_ops, public;
	GRANT USAGE ON SCHEMA run_ops TO app));
is(here(q(SELECT rolconfig FROM pg_roles WHERE rolname = 'app')), '{"search_path=routed, public"}', 'the search_path of a role');
is(here(q(SELECT string_agg(view::text, ' ' ORDER BY view::text) FROM run_ops.routed_table)), 'routed.run routed.step routed.tag', 'the views are elsewhere');
here(q(DROP TABLE store; ALTER VIEW routed.run SET SCHEMA run_ops; ALTER VIEW routed.step SET SCHEMA run_ops; ALTER VIEW routed.tag SET SCHEMA run_ops));

# a name that leads to the local table
here('CREATE SCHEMA shown; GRANT USAGE ON SCHEMA shown TO app; ALTER VIEW run_ops.tag SET SCHEMA shown; ALTER ROLE app SET search_path = shown, public; GRANT ALL ON tag TO app');
is(failing(), 'none', 'a search_path that leads to the view');
mends('search path', 'ROLE app', here => 'ALTER VIEW shown.tag RENAME TO label');
mends('search path', 'ROLE app', here => 'REVOKE USAGE ON SCHEMA shown FROM app');
mends('search path', 'ROLE app', here => q(ALTER ROLE app SET search_path = "$user", public, shown));
is(here(q(SELECT rolconfig FROM pg_roles WHERE rolname = 'app')), '{"search_path=shown, \\"$user\\", public"}', 'the other schemas stay on it');
mends('search path', 'DATABASE postgres', here => 'ALTER DATABASE postgres SET search_path = public, shown', after => 'ALTER DATABASE postgres RESET search_path');
here('ALTER ROLE app RESET search_path; REVOKE ALL ON tag FROM app; ALTER VIEW shown.tag SET SCHEMA run_ops; DROP SCHEMA shown');

# ids of other schemes
mends('ids', 'public.run', here => q(INSERT INTO run (id) VALUES ('01h455vb4pex5vsknk084sn02q'), ('550e8400-e29b-41d4-a716-446655440000'), ('x')),
	after => q(DELETE FROM run; SELECT run_ops.detach_table('run_ops.run'); SELECT run_ops.attach_table('run', 'shape')));
mends('strays', "public.$_") foreach qw(run step);	# an index that counts them
my $stray = sprintf(q(INSERT INTO run (id) VALUES ('%s')), ksuid(1));
mends('strays', 'public.run', here => $stray, next => qr/remove_leftovers/);
mends('strays', 'public.run', after => 'DELETE FROM run_ops.run; SELECT run_ops.disable_split()');
mends('strays', 'public.run', here => "$stray; UPDATE run_ops.split_state SET identities = '{}'", next => qr/remove_leftovers/);
mends('strays', 'public.run', after => 'DELETE FROM run_ops.run; SELECT run_ops.disable_split()');

# --- the views, with split off and on -------------------------------------------------

my $off = 'SELECT run_ops.disable_split(force => true)';
mends('view', 'run_ops.run', here => 'CREATE OR REPLACE VIEW run_ops.run AS SELECT * FROM public.run WHERE n > 0');
here('SELECT run_ops.enable_split()');
mends('view', 'run_ops.run', here => 'CREATE OR REPLACE VIEW run_ops.run AS SELECT * FROM public.run');
mends('view', 'run_ops.run', here => q(CREATE OR REPLACE VIEW run_ops.run AS SELECT id, state, n FROM (
	SELECT id, state, n, 'legacy'::text AS run_ops_store FROM run UNION ALL SELECT id, state, n, 'new'::text FROM run_ops_new.run) AS u
	WHERE run_ops.resides(u.id, u.run_ops_store) AND n > 0));
mends('view', 'run_ops.tag', here => 'CREATE OR REPLACE VIEW run_ops.tag AS SELECT id, n, extra FROM run_ops_new.tag');
mends('view', 'run_ops.step', here => 'DROP TRIGGER run_ops_route ON run_ops.step');
mends('view', 'run_ops.step', here => 'DROP TRIGGER run_ops_replica_write ON run_ops.step');
mends('view', 'run_ops.step', here => 'ALTER TABLE step DISABLE TRIGGER run_ops_write_lock');
mends('view', 'run_ops.step', here => 'DROP RULE refuse_on_conflict ON run_ops.step');
mends('view', 'run_ops.run', here => 'ALTER VIEW run_ops.run ALTER state DROP DEFAULT');
here('ALTER TABLE run RENAME TO runs; ALTER TABLE runs RENAME TO run');
here('SELECT run_ops.disable_split()');
is(failing(), 'none', 'the views are right');

# --- the store ------------------------------------------------------------------------

mends('reachable', 'new', here => q(ALTER SERVER new OPTIONS (SET host '/nowhere', DROP dbname)), fill => [ "'$host'", "'postgres'" ]);
mends('distinct', 'new', here => "ALTER SERVER new OPTIONS (SET host '" . $control_plane->host . "', SET port '" . $control_plane->port . "')",
	fill => [ "'$host', SET port '$port'", "'postgres'" ]);
sub point
{
	my ($node, $database) = @_;
	return point_store($control_plane, $node->host, $node->port, $database);
}
my $to_store = [ "'$host', SET port '$port'", "'postgres'" ];

{
	$control_plane->backup('base');
	my $standby = PostgreSQL::Test::Cluster->new('standby');
	$standby->init_from_backup($control_plane, 'base', has_streaming => 1);
	$standby->start;
	here("SELECT run_ops.trust_standby('" . $standby->safe_psql('postgres', 'SELECT run_ops.server_identity()') . "')");
	mends('distinct', 'new', prepare => sub { point($standby) }, fill => [@$to_store]);
	mends('writable', 'new', prepare => sub { point($standby) }, fill => [@$to_store]);
	$standby->promote;
	mends('clone', 'new', prepare => sub { point($standby) },
		after => "SELECT run_ops.withdraw_acknowledgement('clone', 'new'); ALTER SERVER new OPTIONS (SET host '$host', SET port '$port')");
	$standby->stop;
}

{
	# the clock of a machine is that of each process on it
	my $shim = $store->basedir . '/clock';
	append_to_file("$shim.c", <<'END');
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>
int gettimeofday(struct timeval *tv, void *tz)
{
	int r = syscall(SYS_gettimeofday, tv, tz);
	tv->tv_sec += 3600;
	return r;
}
END
	system_or_bail('gcc', '-shared', '-fPIC', '-o', "$shim.so", "$shim.c");
	mends('clock', 'new', words => qr/^Synchronize the clocks of both machines with the same time server\.$/, done => sub { $store->restart },
		prepare => sub { $store->stop; local $ENV{LD_PRELOAD} = "$shim.so"; $store->start });
}

{
	my $pooler = Pooler->start(5, store => "host=$host port=$port dbname=postgres user=$user");
	foreach my $option ('', q(ADD pooled 'false', ))
	{
		mends('pooled', 'new', here => "ALTER SERVER new OPTIONS (${option}SET host '" . $pooler->host . "', SET port '" . $pooler->port . "', SET dbname 'store')",
			done => sub { $pooler->reconnect },
			after => "ALTER SERVER new OPTIONS (DROP pooled, SET host '$host', SET port '$port', SET dbname 'postgres')");
	}
	$pooler->stop;
}

# a database is copied as the hint says
sub copy_database
{
	my ($from, $to) = @_;
	my $dump = $store->basedir . '/dump.sql';
	system_or_bail('pg_dump', '-f', $dump, '-d', $store->connstr($from));
	system_or_bail('psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-o', '/dev/null', '-f', $dump, '-d', $store->connstr($to));
	return;
}
there('CREATE DATABASE latin_recreated');    # so that this name is taken
mends('database', 'new', fill => [],
	prepare => sub {
		there(q(CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'));
		copy_database('postgres', 'latin');
		point($store, 'latin');
	},
	done => sub { copy_database('latin', 'latin_recreated_2') },
	after => q(ALTER SERVER new OPTIONS (SET dbname 'postgres')), after_there => 'DROP DATABASE latin; DROP DATABASE latin_recreated; DROP DATABASE latin_recreated_2');

mends('wrapper', 'new', here => qq(DROP SERVER new CASCADE; CREATE SERVER new FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'postgres');
	CREATE USER MAPPING FOR CURRENT_USER SERVER new OPTIONS (user '$user', password 'x')), fill => ["'y'"]);
is(here(q(SELECT array_to_string(umoptions, ' ') FROM pg_user_mappings WHERE srvname = 'new')), "user=$user password=y", 'the user mapping is there again');
here('ALTER USER MAPPING FOR CURRENT_USER SERVER new OPTIONS (DROP user, DROP password)');
# again, while the name that the hint gave it is taken
mends('wrapper', 'new', here => qq(DROP SERVER new CASCADE; CREATE SERVER new FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'postgres');
	CREATE USER MAPPING FOR CURRENT_USER SERVER new), after => 'DROP SERVER new_replaced, new_replaced_2 CASCADE');

# transactions that were prepared there
here('ALTER DATABASE postgres SET run_ops_split.cross_store_writes = atomic');
new_session();
mends('atomic commit', 'new', done => sub { $store->restart });
sub prepare { my ($id, $name) = @_; return "BEGIN; INSERT INTO tag VALUES ('$id'); PREPARE TRANSACTION 'run_ops_split:$name';" }
mends('in doubt', 'run_ops_split:1:2:1:0/28:3:4:5 in store "new"', there => prepare('b', '1:2:1:0/28:3:4:5'), next => qr/^$/);
is(there('DELETE FROM tag RETURNING id'), 'b', '... and this one');
is(failing(), 'none', 'nothing is left prepared');
here('ALTER DATABASE postgres RESET run_ops_split.cross_store_writes');
new_session();

mends('writable', 'new', there => 'ALTER DATABASE postgres SET default_transaction_read_only = on');
mends('writable', 'new', there => qq(ALTER ROLE "$user" SET default_transaction_read_only = on));
there('CREATE ROLE weak LOGIN; GRANT ALL ON run, step, tag TO weak; REVOKE DELETE, UPDATE ON tag FROM weak');
mends('writable', 'public.tag in store "new"', here => q(ALTER USER MAPPING FOR CURRENT_USER SERVER new OPTIONS (ADD user 'weak')));
mends('distinct', 'new', there => 'REVOKE EXECUTE ON FUNCTION pg_control_system(), pg_try_advisory_xact_lock_shared(bigint) FROM PUBLIC',
	after_there => 'GRANT EXECUTE ON FUNCTION pg_control_system(), pg_try_advisory_xact_lock_shared(bigint) TO PUBLIC');
here('ALTER USER MAPPING FOR CURRENT_USER SERVER new OPTIONS (DROP user)');
there('ALTER TABLE tag OWNER TO weak');
here("ALTER USER MAPPING FOR CURRENT_USER SERVER new OPTIONS (ADD user '$user')");
SKIP:
{
	skip 'privileges on parameters are new in 15', 4 if $store->pg_version < 15;
	mends('mapping', 'public.tag', there => 'GRANT ALL ON run, step TO weak');
}
here('ALTER USER MAPPING FOR CURRENT_USER SERVER new OPTIONS (DROP user)');
there(qq(ALTER TABLE tag OWNER TO "$user"));
is(failing(), 'none', 'every gate holds again');

# columns, on either side
foreach my $case (
	[ tag => here => 'ALTER TABLE tag ADD fresh int NOT NULL DEFAULT 7' ],
	[ tag => there => 'ALTER TABLE tag ADD more text' ],
	[ tag => there => 'ALTER TABLE tag ALTER n TYPE bigint' ],
	[ tag => there => 'ALTER TABLE tag ALTER n SET NOT NULL, ALTER n SET DEFAULT 3' ],
	[ run => here => q(ALTER TYPE status ADD VALUE 'stopped') ],
	[ run => there => q(ALTER TYPE status ADD VALUE 'paused') ])
{
	my ($table, $side, $change) = @$case;
	mends('columns', "public.$table", $side => $change, after => "SELECT run_ops.refresh_table('run_ops.$table')");
}

mends('columns', 'public.tag', there => 'ALTER TABLE tag RENAME TO tags', after_there => 'DROP TABLE tags');

# indexes, guards, foreign keys
mends('index', 'public.run btree (n)', there => 'DROP INDEX run_n');
mends('index', 'public.run UNIQUE btree (state, n)', there => 'CREATE UNIQUE INDEX ON run (state, n)');
mends('index', 'public.run btree (lower(id)) WHERE (n > 0)', here => 'CREATE INDEX ON run (lower(id)) WHERE n > 0');
mends('guard', 'CHECK positive of public.run', here => 'ALTER TABLE run ADD CONSTRAINT positive CHECK (n > 0)');
mends('guard', 'EXCLUDE one_n of public.run', here => 'ALTER TABLE run ADD CONSTRAINT one_n EXCLUDE (n WITH =)',
	after => 'ALTER TABLE run DROP CONSTRAINT one_n', after_there => 'ALTER TABLE run DROP CONSTRAINT one_n');
$_->safe_psql('postgres', 'CREATE DOMAIN small AS int; ALTER TABLE tag ADD size small') foreach ($control_plane, $store);
here(q(SELECT run_ops.refresh_table('run_ops.tag')));
mends('guard', 'small_check of domain public.small in public.tag', here => 'ALTER DOMAIN small ADD CONSTRAINT small_check CHECK (VALUE < 10)');
mends('guard', 'NOT NULL of domain public.small in public.tag', here => 'ALTER DOMAIN small SET NOT NULL');
mends('guard', 'trigger stamp of public.run', here => q(CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.n := 1; RETURN NEW; END $$;
	CREATE TRIGGER stamp BEFORE INSERT ON run FOR EACH ROW WHEN (NEW.n IS NULL) EXECUTE FUNCTION stamp()));
mends('guard', 'trigger again of public.run', here => 'CREATE TRIGGER again AFTER UPDATE OF n ON run FOR EACH ROW EXECUTE FUNCTION stamp()');
mends('guard', 'FOREIGN KEY step_run of public.step', here => 'ALTER TABLE step ADD CONSTRAINT step_run FOREIGN KEY ("runId") REFERENCES run ON DELETE CASCADE; CREATE INDEX of_run ON step ("runId")',
	there => 'CREATE INDEX of_run ON step ("runId")');
mends('foreign key index', 'step_run of public.step', here => 'DROP INDEX of_run');
mends('foreign key index', 'step_run of public.step in store "new"', there => 'DROP INDEX of_run');
mends('write lock', 'public.run', next => qr/VALIDATE CONSTRAINT/);
mends('write lock', 'public.run');

# collations
here(q(CREATE COLLATION en (provider = icu, locale = 'en'); ALTER TABLE tag ADD name text COLLATE en));
there(q(CREATE COLLATION en (provider = icu, locale = 'en-u-kn-true'); ALTER TABLE tag ADD name text COLLATE en));
here(q(SELECT run_ops.refresh_table('run_ops.tag')));
mends('collation', 'public.en in store "new"');

# a replica that is none
my ($store_host, $store_port) = ($store->host, $store->port);
mends('replica', 'new', here => qq(CREATE SERVER no_replica FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host '$store_host', port '$store_port', dbname 'template1');
	CREATE USER MAPPING FOR CURRENT_USER SERVER no_replica; ALTER SERVER new OPTIONS (ADD read_from 'no_replica')));

# rows that belong elsewhere
mends('strays', 'run_ops.run', there => sprintf(q(ALTER TABLE run DROP CONSTRAINT run_ops_write_lock; INSERT INTO run (id, n) VALUES ('%s', 5)), cuid(1)));
is(here(q(SELECT n FROM run)), '5', 'the row is here');
mends('strays', 'run_ops.tag', here => q(INSERT INTO tag (id, size, n) VALUES ('t', 1, 1)), there => q(INSERT INTO tag (id, size, n) VALUES ('t', 1, 2)));
is(here('SELECT run_ops.enable_split(); SELECT n FROM run_ops.tag'), "\n2", 'the row of the store is left');

here('DELETE FROM run_ops.tag; SELECT run_ops.disable_split(force => true)');
is(failing(), 'none', 'every gate holds, at the end of these');

# --- what the guide knows of the original's tables ---------------------------------------

$_->safe_psql('postgres', 'CREATE TABLE "TaskRun" (id text PRIMARY KEY, "friendlyId" text NOT NULL)') foreach ($control_plane, $store);
here(q(SELECT run_ops.attach_table('"TaskRun"')));
mends('same shape', 'public."TaskRun"');
is(here('SELECT same_shape FROM run_ops.routed_table WHERE same_shape IS NOT NULL'), 'friendlyId', 'the column is declared');
mends('same shape', 'public."TaskRun"', there => 'ALTER TABLE "TaskRun" DROP CONSTRAINT run_ops_same_shape');
mends('same shape', 'public."TaskRun"', here => 'ALTER TABLE "TaskRun" DROP CONSTRAINT run_ops_same_shape');
my $unlike = sprintf q(ALTER TABLE "TaskRun" DROP CONSTRAINT run_ops_same_shape; INSERT INTO "TaskRun" VALUES ('%s', '%s')), ksuid(1), cuid(1);
mends('same shape', 'public."TaskRun"', there => $unlike, next => qr/^Run in store "new": ALTER TABLE/, done => sub { there('DELETE FROM "TaskRun"') });
mends('same shape', 'public."TaskRun"');

$mended{standby} = 1;	# t/103_next_step.pl

# no gate of the catalog is left out
is(join(', ', grep { !$mended{$_} } known_gates($control_plane)), '', 'every gate is here');
is(join(', ', grep { my $gate = $_; !grep { $_ eq $gate } known_gates($control_plane) } sort keys %mended), '', 'and each of them is known');

done_testing();

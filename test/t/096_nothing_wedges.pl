# Whatever somebody drops, renames, replaces or alters of the objects that the
# extension keeps, with split off or on, as their owner or as a superuser past the
# guards: no function fails with something that nobody understands, and following
# the hints alone leads back to a state in which every gate holds and every routed
# table that still exists works.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use SplitServers;
use Test::More;

my $control_plane = new_server('control_plane', allows_streaming => 'logical');
my $store = new_server('store');
my ($host, $port) = ($store->host, $store->port);
my $user = $control_plane->safe_psql('postgres', 'CREATE ROLE app; CREATE ROLE stranger; SELECT current_user');
my ($cuid, $ksuid) = (cuid(1), ksuid(1));

my $tables = q(
	DROP SCHEMA IF EXISTS public CASCADE; CREATE SCHEMA public;
	CREATE TABLE run (id text PRIMARY KEY, n int);
	CREATE TABLE step (id text PRIMARY KEY, "runId" text NOT NULL REFERENCES run, n int);
	CREATE TABLE tag (id text PRIMARY KEY, n int););

# Both databases as new, with one row of each kind in each table.
sub renew
{
	my ($on) = @_;
	$control_plane->safe_psql('postgres', 'SET client_min_messages = warning; SET session_replication_role = replica;
		DROP EXTENSION IF EXISTS run_ops_split, postgres_fdw CASCADE;
		DO $$ DECLARE s record; BEGIN
		  FOR s IN SELECT nspname FROM pg_namespace WHERE nspname LIKE \'run\_ops%\' OR nspname LIKE \'%where\' LOOP
		    EXECUTE format(\'DROP SCHEMA %I CASCADE\', s.nspname); END LOOP; END $$;' . $tables);
	$store->safe_psql('postgres', "SET client_min_messages = warning; $tables");
	$control_plane->safe_psql('postgres', qq(
		SET client_min_messages = warning;
		ALTER TABLE run OWNER TO app; GRANT SELECT ON run TO stranger; ALTER SCHEMA public OWNER TO app;
		CREATE EXTENSION run_ops_split CASCADE;
		CREATE SERVER new FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host '$host', port '$port', dbname 'postgres');
		CREATE USER MAPPING FOR CURRENT_USER SERVER new;
		SELECT run_ops.attach_store('new', 'new');
		SELECT run_ops.attach_table('run', 'shape'), run_ops.attach_table('step', 'anchor', 'runId'), run_ops.attach_table('tag', 'store');
		SELECT run_ops.configure_split(opted_in => true, native_realtime => true);
		INSERT INTO run VALUES ('$cuid', 1); INSERT INTO step VALUES ('s1', '$cuid', 1); INSERT INTO tag VALUES ('t1', 1);));
	$control_plane->safe_psql('postgres', 'SELECT run_ops.enable_split()') if $on;
	$control_plane->safe_psql('postgres', qq(
		INSERT INTO run_ops.run VALUES ('$ksuid', 2); INSERT INTO run_ops.step VALUES ('s2', '$ksuid', 2))) if $on;
	return;
}

sub try
{
	my ($sql) = @_;
	my ($ret, $out, $err) = $control_plane->psql('postgres', $sql);
	return ($ret == 0, $out, $err);
}

# The statements that a hint names.
sub statements
{
	my ($hint) = @_;
	$hint =~ s/with (run_ops\.\w+\(\))/with: SELECT $1;/g;
	# what an operator knows
	$hint =~ s/ OPTIONS \(user '\.\.\.', password '\.\.\.'\)//g;
	$hint =~ s/"?\.\.\."? FOREIGN/new FOREIGN/g;
	$hint =~ s/\(host '\.\.\.', dbname '\.\.\.'\)/(host '$host', port '$port', dbname 'postgres')/g;
	$hint =~ s/\(SET host '\.\.\.', SET dbname '\.\.\.'\)/(SET host '$host', SET port '$port', SET dbname 'postgres')/g;
	$hint =~ s/(SET|ADD) user '\.\.\.', (SET|ADD) password '\.\.\.'/$1 user '$user', $2 password 'none'/g;
	$hint =~ s/attach_store\('new', '\.\.\.'\)/attach_store('new', 'new')/g;
	return $hint =~ /((?:SELECT|ALTER|CREATE|DROP|GRANT) [^;]*);/g;
}

# Follows hints until every gate holds; the way is what was called.  If a hint comes
# again, the first of its alternatives was not the right one.
sub walk_out
{
	my ($name) = @_;
	my @way;
	my %times;
	foreach (1 .. 12)
	{
		my ($ok, $hint, $err) = try(q(SELECT coalesce(hint, gate || ' ' || object || ': ' || detail) FROM run_ops.check_split() WHERE ok IS NOT TRUE LIMIT 1));
		if (!$ok) { fail("$name: check_split: $err"); return }
		if ($hint eq '')
		{
			# no gate fails: split can be enabled
			($ok, undef, $err) = try('SELECT run_ops.enable_split()');
			last if $ok;
			($hint) = $err =~ /HINT:  (.*)/;
		}
		if (($hint // '') =~ /^Run in store "new": (.*;) To accept it: /s)
		{
			push @way, $1;
			$store->safe_psql('postgres', $1);
			next;
		}
		my @todo = statements($hint // '');
		shift @todo if $times{$hint}++ && $hint =~ /; Or /;
		if (!@todo) { fail("$name: a hint without a statement: $hint"); diag("after: @way"); return }
		# one thing, in several statements
		@todo = join '; ', @todo if $hint =~ / in its place: /;
		foreach my $statement (@todo)
		{
			push @way, $statement;
			($ok, undef, $err) = try($statement);
			unlike($err, qr/syntax error|at or near|could not open relation|cache lookup/, "$name: $statement");
			last if $ok && $statement !~ /disable_split/;
			next if $ok;
			my ($more) = $err =~ /HINT:  (.*)/;
			if (!$more) { fail("$name: $statement fails without a hint: $err"); diag("after: @way"); return }
			foreach (statements($more)) { push @way, $_; last if (try($_))[0] }
			last;
		}
	}
	is((try(q(SELECT string_agg(concat_ws(' ', gate, object, detail), '; ') FROM run_ops.check_split() WHERE ok IS NOT TRUE)))[1], '',
		"$name: every gate holds") or diag("after: @way");
	is((try('SELECT run_ops.split_enabled()'))[1], 't', "$name: split is on") or diag("after: @way");
	note("$name: " . join(' ', map { "$_;" } @way));
	return;
}

# Every routed table that is left can be read and written, and no function fails.
sub works
{
	my ($name, $left, $rows) = @_;
	my @views = split / /, $left;
	my ($run) = grep { /run$|task$/ } @views;
	my ($step) = grep { /step$/ } @views;
	my $sql = "SELECT string_agg(view::text, ' ' ORDER BY view::text) FROM run_ops.routed_table;";
	$sql .= "SELECT string_agg(n::text, ' ' ORDER BY n) FROM $_;" foreach @views;
	foreach my $id (cuid(7), ksuid(7))
	{
		$sql .= "INSERT INTO $run VALUES ('$id', 3);" if $run;
		$sql .= "INSERT INTO $step VALUES ('s7', '$id', 3); UPDATE $step SET n = 4 WHERE id = 's7'; DELETE FROM $step WHERE n = 4;" if $run && $step;
		$sql .= "DELETE FROM $run WHERE n = 3;" if $run;
	}
	$sql .= 'INSERT INTO run_ops.tag VALUES (\'t7\', 7); DELETE FROM run_ops.tag WHERE n = 7;' if $left =~ /tag/;
	$sql .= 'SELECT FROM run_ops.repatriation_conflicts(); SELECT FROM run_ops.verify_repatriation();
		SELECT FROM run_ops.in_doubt(); SELECT FROM run_ops.split_status; SELECT FROM run_ops.stat_routing;';
	my ($ok, $out, $err) = try($sql);
	ok($ok, "$name: everything works") or diag($err);
	my @lines = grep { $_ ne '' && $_ ne '--' } split /\n/, $out;
	is(shift(@lines) // '', $left, "$name: the routed tables");
	foreach my $view (@views)
	{
		is(shift @lines, $view =~ /tag/ ? '1' : $rows, "$name: the rows of $view");
	}
	return;
}

my $all = 'run_ops.run run_ops.step run_ops.tag';
my @cases = (
	# what is dropped
	[ 'DROP VIEW run_ops.run', $all, 'guarded' ],
	[ 'DROP VIEW run_ops.tag', $all, 'guarded' ],
	[ 'DROP FOREIGN TABLE run_ops_new.step CASCADE', $all, 'guarded' ],
	[ 'DROP FOREIGN TABLE run_ops_new.tag CASCADE', $all, 'guarded' ],
	[ 'DROP TABLE public.tag CASCADE', 'run_ops.run run_ops.step', 'guarded' ],
	[ 'DROP TABLE public.run CASCADE', 'run_ops.step run_ops.tag', 'guarded' ],
	[ 'DROP TABLE public.step, public.run CASCADE', 'run_ops.tag', 'guarded' ],
	[ 'DROP SCHEMA run_ops_new CASCADE', $all, 'guarded' ],
	[ 'ALTER TABLE public.tag DROP COLUMN n CASCADE; ALTER TABLE public.tag ADD n int; UPDATE public.tag SET n = 1', $all, 'guarded' ],
	[ 'ALTER VIEW run_ops.run SET SCHEMA elsewhere; DROP SCHEMA elsewhere CASCADE', $all, 'guarded', before => 'CREATE SCHEMA elsewhere' ],
	[ 'DROP SERVER new CASCADE', $all, 'guarded' ],
	[ 'DROP USER MAPPING FOR CURRENT_USER SERVER new', $all ],
	[ 'DROP TRIGGER run_ops_route ON run_ops.run', $all, on => 1 ],
	[ 'DROP TRIGGER run_ops_write_lock ON public.step', $all, on => 1 ],
	[ 'ALTER TABLE public.run DISABLE TRIGGER ALL', $all ],
	[ 'DROP OWNED BY app CASCADE; DROP ROLE app', 'run_ops.step run_ops.tag', 'guarded', before => 'ALTER SCHEMA public OWNER TO CURRENT_USER', undo => 'CREATE ROLE app' ],
	# what has another name or place
	[ 'ALTER VIEW run_ops.run RENAME TO task; ALTER TABLE public.run RENAME TO job; ALTER FOREIGN TABLE run_ops_new.run RENAME TO thing; '
		  . 'ALTER SCHEMA run_ops_new RENAME TO elsewhere; ALTER ROLE stranger RENAME TO someone; ALTER ROLE someone RENAME TO stranger',
		'run_ops.step run_ops.tag run_ops.task' ],
	[ 'ALTER VIEW run_ops.run SET SCHEMA elsewhere; ALTER SCHEMA public RENAME TO anywhere', 'elsewhere.run run_ops.step run_ops.tag', before => 'CREATE SCHEMA elsewhere' ],
	[ 'ALTER FOREIGN TABLE run_ops_new.run RENAME COLUMN n TO m', $all ],
	[ 'ALTER VIEW run_ops.run RENAME COLUMN n TO m', $all ],
	[ 'ALTER TABLE public.run RENAME COLUMN n TO m; ALTER TABLE public.run RENAME COLUMN m TO n', $all, owner => 'app' ],
	[ 'ALTER SERVER new RENAME TO other', $all ],
	[ 'ALTER TRIGGER run_ops_write_lock ON public.run RENAME TO harmless', $all, owner => 'app', on => 1 ],
	[ 'ALTER TRIGGER run_ops_route ON run_ops.run RENAME TO harmless', $all, on => 1 ],
	# what belongs to somebody else, or leads elsewhere
	[ 'ALTER VIEW run_ops.run OWNER TO stranger', $all ],
	[ 'ALTER FOREIGN TABLE run_ops_new.run OWNER TO stranger', $all ],
	[ 'ALTER SCHEMA run_ops_new OWNER TO stranger', $all ],
	[ "ALTER FOREIGN TABLE run_ops_new.run OPTIONS (SET table_name 'tag')", $all ],
	[ 'ALTER FOREIGN TABLE run_ops_new.tag OPTIONS (DROP key)', $all ],
	[ 'ALTER FOREIGN TABLE run_ops_new.run ADD extra int', $all ],
	[ 'ALTER TABLE public.run OWNER TO stranger', $all, before => 'GRANT USAGE ON SCHEMA public TO stranger' ],
	[ 'ALTER TABLE public.tag SET SCHEMA elsewhere', $all, before => 'CREATE SCHEMA elsewhere' ],
	[ 'ALTER VIEW run_ops.run ALTER n SET DEFAULT 5', $all ],
	[ "ALTER SERVER new OPTIONS (SET dbname 'nowhere')", $all ],
	[ 'ALTER SERVER new OWNER TO stranger', $all ],
	[ "ALTER USER MAPPING FOR CURRENT_USER SERVER new OPTIONS (ADD user 'nobody')", $all ],
	[ 'REASSIGN OWNED BY app TO stranger; DROP ROLE app', $all, undo => 'CREATE ROLE app' ],
	# what somebody has put in its place
	[ 'DROP VIEW run_ops.tag; CREATE VIEW run_ops.tag AS SELECT id, n FROM public.tag; COMMENT ON VIEW run_ops.tag IS \'public.tag; split is off\'', $all, 'guarded' ],
	[ 'CREATE OR REPLACE VIEW run_ops.run AS SELECT id, n FROM public.run WHERE n > 1', $all ],
	[ 'DROP FOREIGN TABLE run_ops_new.tag CASCADE; CREATE FOREIGN TABLE run_ops_new.tag (id int) SERVER new', $all, 'guarded' ],
	[ 'DROP TABLE public.tag CASCADE; CREATE TABLE public.tag (id text PRIMARY KEY, n int)', 'run_ops.run run_ops.step', 'guarded' ],
	[ 'CREATE OR REPLACE TRIGGER run_ops_write_lock BEFORE UPDATE ON public.step FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()', $all, on => 1 ],
	[ "DROP SERVER new CASCADE; CREATE SERVER new FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'postgres'); CREATE USER MAPPING FOR CURRENT_USER SERVER new", $all, 'guarded' ],
	[ "DROP SERVER new CASCADE; CREATE SERVER new FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host '$host', port '$port', dbname 'postgres'); CREATE USER MAPPING FOR CURRENT_USER SERVER new", $all, 'guarded' ],
	[ 'DROP USER MAPPING FOR CURRENT_USER SERVER new; CREATE USER MAPPING FOR stranger SERVER new', $all ],
	[ 'DROP SCHEMA run_ops_new CASCADE; CREATE SCHEMA run_ops_new AUTHORIZATION stranger', $all, 'guarded' ]);

foreach my $on (0, 1)
{
	foreach my $case (@cases)
	{
		my ($damage, $left, @options) = @$case;
		my $guarded = @options && $options[0] eq 'guarded' ? shift @options : 0;
		my %options = @options;
		my $name = ($on ? 'on: ' : 'off: ') . $damage;
		next if !$on && $options{on};
		renew($on);
		$control_plane->safe_psql('postgres', $options{before}) if $options{before};
		# past the guards only what they refuse
		my $as = $options{owner} ? "SET ROLE $options{owner};" : '';
		if ($on && $guarded)
		{
			my ($ok, $out, $err) = try("BEGIN; $damage; COMMIT");
			like($err, qr/cannot drop [\w ]+ \S+ while split is on.*HINT: .*run_ops\.detach_table\('[^']+'\)/s, "$name: refused");
		}
		my $past = $as || !$on || !$guarded ? '' : 'SET session_replication_role = replica;';
		$control_plane->safe_psql('postgres', "SET client_min_messages = warning; $past $as $damage");
		walk_out($name);
		works($name, $left, $on ? '1 2' : '1');
		$control_plane->safe_psql('postgres', $options{undo}) if $options{undo};
	}
}

# the guard of the schema, whose name is in every function
renew(0);
my ($ok, $out, $err) = try('ALTER SCHEMA run_ops RENAME TO elsewhere');
like($err, qr/cannot rename schema run_ops/, 'the schema of the extension keeps its name');

done_testing();

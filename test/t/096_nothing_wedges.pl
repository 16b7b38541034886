# Whatever somebody drops, renames, replaces or alters of the objects that the
# extension keeps, with split off or on, as their owner or as a superuser past the
# guards: it is refused with a hint that works, or it is done, no function fails with
# something that nobody understands, and following the hints alone leads back to a
# state in which every gate holds and every routed table that still exists works.
#
# The cases are a matrix: each object, verb, mode and role has statements, or a word
# why there are none.  Two processes share the objects, each with servers of its own.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use SplitServers;
use Test::More;

# The second process reports into a file, which the first one reads at the end.
my $reports = PostgreSQL::Test::Utils::tempdir() . '/reports';
my $second = fork() // die "fork: $!";
my ($mine, $suffix) = $second ? (0, '') : (1, '_2');
if (!$second)
{
	open my $file, '>', $reports or die "$reports: $!";
	$file->autoflush;
	my $builder = Test::More->builder;
	$builder->output($file);
	$builder->failure_output($file);
}

my $control_plane = new_server("control_plane$suffix", allows_streaming => 'logical', conf => "log_statement = none\n");
my $store = new_server("store$suffix", conf => "log_statement = none\n");
my ($host, $port) = ($store->host, $store->port);
my $user = $control_plane->safe_psql('postgres', 'SELECT current_user');
my ($cuid, $ksuid) = (cuid(1), ksuid(1));
my $all = 'api.run api.step api.tag';

# --- the objects, and what can be done to them -----------------------------------------

# An array has statements, with: guarded (refused while split is on), left (the routed
# tables that are left), only ("owner" or "superuser"), before, undo (what the hints need
# not undo), lost (the extension itself is gone then).
my $in_place = "FOREIGN DATA WRAPPER %s OPTIONS (host '$host', port '$port', dbname 'postgres'); CREATE USER MAPPING FOR CURRENT_USER SERVER new";
my $keep_tag = 'CREATE SCHEMA kept; ALTER TABLE public.tag SET SCHEMA kept; ALTER TABLE kept.tag OWNER TO CURRENT_USER;
	CREATE SCHEMA shown; ALTER VIEW api.tag SET SCHEMA shown; ALTER VIEW shown.tag OWNER TO CURRENT_USER';
my @objects = (
	view => {
		owner => 'app',
		drop => [ [ 'DROP VIEW api.run', guarded => 1 ], [ 'DROP VIEW api.tag', guarded => 1 ],
			[ 'ALTER VIEW api.run SET SCHEMA elsewhere; DROP VIEW elsewhere.run', guarded => 1, only => 'owner', left => 'api.step api.tag elsewhere.run',
				undo => 'ALTER VIEW IF EXISTS elsewhere.run SET SCHEMA api' ] ],
		rename => [ [ 'ALTER VIEW api.run RENAME TO task', left => 'api.step api.tag api.task', undo => 'ALTER VIEW api.task RENAME TO run' ],
			[ 'ALTER VIEW api.run RENAME COLUMN n TO m' ] ],
		replace => [ [ 'CREATE OR REPLACE VIEW api.run AS SELECT id, n FROM public.run WHERE n > 1' ],
			map { [ q(DROP VIEW api.tag; CREATE VIEW api.tag AS SELECT id, n FROM public.tag; COMMENT ON VIEW api.tag IS 'public.tag; split is off'), guarded => 1,
				before => $_, undo => 'DROP VIEW IF EXISTS api.tag_of_others, api.tag_of_others_2' ] } '', 'CREATE VIEW api.tag_of_others AS SELECT 1 AS x' ],
		alter => [ [ 'ALTER VIEW api.run ALTER n SET DEFAULT 5', undo => 'ALTER VIEW api.run ALTER n DROP DEFAULT' ],
			[ 'ALTER VIEW api.run OWNER TO team', undo => 'DROP USER MAPPING IF EXISTS FOR team SERVER new' ],
			[ 'ALTER VIEW api.run SET SCHEMA elsewhere', left => 'api.step api.tag elsewhere.run', undo => 'ALTER VIEW elsewhere.run SET SCHEMA api' ],
			[ 'ALTER VIEW api.run SET SCHEMA elsewhere; DROP SCHEMA elsewhere CASCADE; CREATE SCHEMA elsewhere', guarded => 1, only => 'superuser' ] ] },
	'foreign table' => {
		drop => [ [ 'DROP FOREIGN TABLE run_ops_new.step CASCADE', guarded => 1 ], [ 'DROP FOREIGN TABLE run_ops_new.tag CASCADE', guarded => 1 ] ],
		rename => [ [ 'ALTER FOREIGN TABLE run_ops_new.run RENAME TO thing', undo => 'ALTER FOREIGN TABLE run_ops_new.thing RENAME TO run' ],
			[ 'ALTER FOREIGN TABLE run_ops_new.run RENAME COLUMN n TO m' ] ],
		replace => [ [ 'DROP FOREIGN TABLE run_ops_new.tag CASCADE; CREATE FOREIGN TABLE run_ops_new.tag (id int) SERVER new', guarded => 1 ] ],
		alter => [ [ 'ALTER FOREIGN TABLE run_ops_new.run OWNER TO stranger', undo => 'ALTER FOREIGN TABLE run_ops_new.run OWNER TO CURRENT_USER' ], [ "ALTER FOREIGN TABLE run_ops_new.run OPTIONS (SET table_name 'tag')" ],
			[ 'ALTER FOREIGN TABLE run_ops_new.tag OPTIONS (DROP key)' ], [ 'ALTER FOREIGN TABLE run_ops_new.run ADD extra int' ] ] },
	table => {
		owner => 'app',
		drop => [ [ 'DROP TABLE public.tag CASCADE', guarded => 1, left => 'api.run api.step' ],
			[ 'DROP TABLE public.step, public.run CASCADE', guarded => 1, left => 'api.tag' ] ],
		rename => [ [ 'ALTER TABLE public.run RENAME TO job', undo => 'ALTER TABLE public.job RENAME TO run' ],
			[ 'ALTER TABLE public.run RENAME COLUMN n TO m; ALTER TABLE public.run RENAME COLUMN m TO n' ] ],
		replace => [ [ 'DROP TABLE public.tag CASCADE; CREATE TABLE public.tag (id text PRIMARY KEY, n int)', guarded => 1, left => 'api.run api.step' ] ],
		alter => [ [ 'ALTER TABLE public.run OWNER TO team', undo => 'ALTER TABLE public.run OWNER TO app' ], [ 'ALTER TABLE public.tag SET SCHEMA elsewhere', undo => 'ALTER TABLE elsewhere.tag SET SCHEMA public' ],
			[ 'ALTER TABLE public.tag DROP COLUMN n CASCADE; ALTER TABLE public.tag ADD n int; UPDATE public.tag SET n = 1', guarded => 1 ],
			[ 'ALTER TABLE public.tag DROP CONSTRAINT tag_pkey', undo => 'ALTER TABLE public.tag ADD CONSTRAINT tag_pkey PRIMARY KEY (id); DROP INDEX public.tag_id_idx' ], [ 'ALTER TABLE public.run DISABLE TRIGGER USER' ] ] },
	'trigger of a table' => {
		owner => 'app',
		off => 'with split off, a table has no trigger of the extension',
		drop => [ [ 'DROP TRIGGER run_ops_write_lock ON public.step' ] ],
		rename => [ [ 'ALTER TRIGGER run_ops_write_lock ON public.run RENAME TO harmless' ] ],
		replace => [ [ 'CREATE OR REPLACE TRIGGER run_ops_write_lock BEFORE UPDATE ON public.step FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()' ] ],
		alter => [ [ 'ALTER TABLE public.run DISABLE TRIGGER run_ops_write_lock' ] ] },
	'trigger of a view' => {
		owner => 'app',
		off => 'with split off, a view has no trigger',
		drop => [ [ 'DROP TRIGGER run_ops_route ON api.run' ] ],
		rename => [ [ 'ALTER TRIGGER run_ops_route ON api.run RENAME TO harmless' ] ],
		replace => [ [ 'DROP TRIGGER run_ops_route ON api.run; CREATE TRIGGER run_ops_route INSTEAD OF UPDATE ON api.run FOR EACH ROW EXECUTE FUNCTION public.nothing()' ] ],
		alter => 'a trigger of a view cannot be disabled' },
	rule => {
		owner => 'app',
		off => 'with split off, a view has no rule but its query',
		drop => [ [ 'DROP RULE refuse_on_conflict ON api.run' ] ],
		rename => [ [ 'ALTER RULE refuse_on_conflict ON api.run RENAME TO harmless' ] ],
		replace => [ [ 'CREATE OR REPLACE RULE refuse_on_conflict AS ON UPDATE TO api.run DO INSTEAD NOTHING' ] ],
		alter => 'a rule of a view cannot be disabled' },
	server => {
		drop => [ [ 'DROP SERVER new CASCADE', guarded => 1 ] ],
		rename => [ [ 'ALTER SERVER new RENAME TO other' ] ],
		replace => [ map { [ "DROP SERVER new CASCADE; CREATE SERVER new " . sprintf($in_place, $_), guarded => 1 ] } qw(run_ops_fdw postgres_fdw) ],
		alter => [ [ "ALTER SERVER new OPTIONS (SET dbname 'nowhere')" ], [ 'ALTER SERVER new OWNER TO stranger', undo => 'ALTER SERVER new OWNER TO CURRENT_USER' ] ] },
	'user mapping' => {
		drop => [ [ 'DROP USER MAPPING FOR CURRENT_USER SERVER new' ], [ 'DROP USER MAPPING FOR app SERVER new' ] ],
		rename => 'a user mapping has no name',
		replace => [ [ 'DROP USER MAPPING FOR CURRENT_USER SERVER new; CREATE USER MAPPING FOR stranger SERVER new', undo => 'DROP USER MAPPING FOR stranger SERVER new' ] ],
		alter => [ [ q(ALTER USER MAPPING FOR CURRENT_USER SERVER new OPTIONS (ADD user 'nobody')) ] ] },
	'schema of views' => {
		owner => 'app',
		drop => [ [ 'DROP SCHEMA api CASCADE', guarded => 1 ] ],
		rename => [ [ 'ALTER SCHEMA api RENAME TO anywhere', left => 'anywhere.run anywhere.step anywhere.tag', undo => 'ALTER SCHEMA anywhere RENAME TO api' ] ],
		replace => [ [ 'DROP SCHEMA api CASCADE; CREATE SCHEMA api', guarded => 1 ] ],
		alter => [ [ 'ALTER SCHEMA api OWNER TO team', undo => 'ALTER SCHEMA api OWNER TO app' ] ] },
	'schema of tables' => {
		owner => 'app',
		drop => [ [ 'DROP SCHEMA public CASCADE', guarded => 1, left => 'shown.tag', before => $keep_tag ] ],
		rename => [ [ 'ALTER SCHEMA public RENAME TO anywhere', undo => 'ALTER SCHEMA anywhere RENAME TO public' ] ],
		replace => [ [ 'DROP SCHEMA public CASCADE; CREATE SCHEMA public', guarded => 1, left => 'shown.tag', before => $keep_tag ] ],
		alter => [ [ 'ALTER SCHEMA public OWNER TO team', undo => 'ALTER SCHEMA public OWNER TO app' ] ] },
	'schema of foreign tables' => {
		drop => [ [ 'DROP SCHEMA run_ops_new CASCADE', guarded => 1 ] ],
		rename => [ [ 'ALTER SCHEMA run_ops_new RENAME TO anywhere', undo => 'ALTER SCHEMA anywhere RENAME TO run_ops_new' ] ],
		replace => [ [ 'DROP SCHEMA run_ops_new CASCADE; CREATE SCHEMA run_ops_new AUTHORIZATION stranger', guarded => 1 ] ],
		alter => [ [ 'ALTER SCHEMA run_ops_new OWNER TO stranger' ] ] },
	'schema of the extension' => {
		drop => [ [ 'DROP SCHEMA run_ops CASCADE', guarded => 1, lost => 1 ] ],
		rename => 'refused; see below',
		replace => [ [ 'DROP SCHEMA run_ops CASCADE; CREATE SCHEMA run_ops', guarded => 1, lost => 1 ] ],
		alter => [ [ 'ALTER SCHEMA run_ops OWNER TO stranger', undo => 'ALTER SCHEMA run_ops OWNER TO CURRENT_USER' ] ] },
	extension => {
		drop => [ [ 'DROP EXTENSION run_ops_split CASCADE', guarded => 1, lost => 1 ] ],
		rename => 'an extension keeps its name',
		replace => [ [ 'DROP EXTENSION run_ops_split CASCADE; CREATE EXTENSION run_ops_split', guarded => 1, lost => 1 ] ],
		alter => 'it is not relocatable' },
	role => {
		owner => 'app',
		drop => [ [ 'DROP OWNED BY app CASCADE', guarded => 1, left => 'shown.tag', before => $keep_tag ],
			[ 'DROP OWNED BY app CASCADE; DROP ROLE app; CREATE ROLE app', guarded => 1, left => 'shown.tag', before => $keep_tag, only => 'superuser' ] ],
		rename => [ [ 'ALTER ROLE app RENAME TO someone', only => 'superuser', undo => 'ALTER ROLE someone RENAME TO app' ] ],
		replace => [ [ 'REASSIGN OWNED BY app TO stranger; DROP OWNED BY app; DROP ROLE app; CREATE ROLE app', only => 'superuser' ] ],
		alter => [ [ 'ALTER ROLE app NOINHERIT', undo => 'ALTER ROLE app INHERIT', only => 'superuser' ], [ q(ALTER ROLE app SET search_path = 'nowhere'), undo => 'ALTER ROLE app RESET search_path' ] ] });

my %only_superusers = ('role' => 'only who may create roles does that');

# --- the databases ----------------------------------------------------------------------

my $tables = q(
	DROP SCHEMA IF EXISTS public CASCADE; CREATE SCHEMA public;
	CREATE TABLE public.run (id text PRIMARY KEY, n int);
	CREATE TABLE public.step (id text PRIMARY KEY, "runId" text NOT NULL REFERENCES public.run, n int);
	CREATE TABLE public.tag (id text PRIMARY KEY, n int););

my ($session, $application);

sub try
{
	my ($sql, $in) = @_;
	$in //= $session;
	my $out = $in->query($sql);
	my $err = $in->{stderr};
	$in->{stderr} = '';
	return ($err !~ /^(psql:\S+ )?(ERROR|FATAL|PANIC):/m, $out, $err);
}

sub must
{
	my ($sql) = @_;
	my ($ok, $out, $err) = try($sql);
	die "$sql: $err" if !$ok;
	return $out;
}

sub new_sessions
{
	$_->quit foreach grep { defined } ($session, $application);
	($session, $application) = map { $control_plane->background_psql('postgres', on_error_stop => 0) } 1 .. 2;
	must('SET client_min_messages = warning');
	return;
}

# What the extension does not restore of objects that it creates again.
my $settled = 'GRANT USAGE ON SCHEMA run_ops, run_ops_new TO app; GRANT ALL ON run_ops_new.run, run_ops_new.step, run_ops_new.tag TO app;
	ALTER SCHEMA api OWNER TO app; GRANT ALL ON SCHEMA public, api TO team;
	ALTER VIEW api.run OWNER TO app; ALTER VIEW api.step OWNER TO app; ALTER VIEW api.tag OWNER TO app';

sub attach_all
{
	must(qq(
		CREATE EXTENSION IF NOT EXISTS run_ops_split;
		CREATE SERVER IF NOT EXISTS new FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host '$host', port '$port', dbname 'postgres');
		CREATE USER MAPPING IF NOT EXISTS FOR CURRENT_USER SERVER new;
		CREATE USER MAPPING IF NOT EXISTS FOR app SERVER new OPTIONS (user '$user', password_required 'false');
		SELECT run_ops.attach_store('new', 'new');
		SELECT run_ops.attach_table('public.run', 'shape', view_schema => 'api'), run_ops.attach_table('public.step', 'anchor', 'runId', view_schema => 'api'),
		       run_ops.attach_table('public.tag', 'store', view_schema => 'api');
		SELECT run_ops.configure_split(opted_in => true, native_realtime => true);
		$settled));
	return;
}

# Both databases as new, with one row of each kind in each table.
sub renew
{
	my ($on) = @_;
	$store->safe_psql('postgres', "SET client_min_messages = warning; $tables");
	must(qq(
		SET session_replication_role = replica;
		DROP EXTENSION IF EXISTS run_ops_split CASCADE;
		DROP SERVER IF EXISTS new, other, new_replaced CASCADE;
		DROP SCHEMA IF EXISTS api, elsewhere, anywhere, kept, shown, run_ops, run_ops_new, run_ops_new_of_others CASCADE; $tables
		RESET session_replication_role;
		CREATE SCHEMA api AUTHORIZATION app; CREATE SCHEMA elsewhere AUTHORIZATION app;
		CREATE FUNCTION public.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
		ALTER TABLE public.run OWNER TO app; ALTER TABLE public.step OWNER TO app; ALTER TABLE public.tag OWNER TO app;
		GRANT SELECT ON public.run TO stranger; ALTER SCHEMA public OWNER TO app;
		GRANT team TO app; GRANT CREATE ON DATABASE postgres TO app, team;));
	attach_all();
	must(qq(INSERT INTO public.run VALUES ('$cuid', 1); INSERT INTO public.step VALUES ('s1', '$cuid', 1); INSERT INTO public.tag VALUES ('t1', 1);));
	must('SELECT run_ops.enable_split()') if $on;
	must(qq(INSERT INTO api.run VALUES ('$ksuid', 2); INSERT INTO api.step VALUES ('s2', '$ksuid', 2))) if $on;
	return;
}

# Everything that the cases change, as text: if it is as before, the next case begins here.
sub state
{
	my ($ok, $out, $err) = try(q(
		SELECT 'schema', nspname, nspowner::regrole, nspacl FROM pg_namespace WHERE nspname !~ '^pg_|^run_ops_repatriated' ORDER BY 2;
		SELECT 'relation', c.oid::regclass, relkind, relowner::regrole, relacl::text, reloptions::text, ftoptions::text, obj_description(c.oid),
		       CASE relkind WHEN 'v' THEN pg_get_viewdef(c.oid) END,
		       (SELECT string_agg(concat_ws(' ', attname, atttypid::regtype, attnotnull, attfdwoptions::text, pg_get_expr(adbin, adrelid)), ', ' ORDER BY attnum)
		          FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum WHERE attrelid = c.oid AND attnum > 0),
		       (SELECT string_agg(concat(pg_get_triggerdef(g.oid), tgenabled), ', ' ORDER BY tgname) FROM pg_trigger AS g WHERE tgrelid = c.oid AND NOT tgisinternal),
		       (SELECT string_agg(pg_get_ruledef(r.oid), ', ' ORDER BY rulename) FROM pg_rewrite AS r WHERE ev_class = c.oid)
		  FROM pg_class AS c LEFT JOIN pg_foreign_table AS f ON ftrelid = c.oid
		 WHERE relnamespace::regnamespace::text IN ('public', 'api', 'run_ops_new', 'elsewhere') ORDER BY c.oid::regclass::text;
		SELECT 'server', srvname, srvowner::regrole, fdwname, srvoptions FROM pg_foreign_server JOIN pg_foreign_data_wrapper AS w ON w.oid = srvfdw ORDER BY 2;
		SELECT 'mapping', srvname, usename, umoptions FROM pg_user_mappings ORDER BY 2, 3;
		SELECT 'role', rolname, rolinherit FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY 2;
		SELECT 'routed', view, legacy, routing, route_column, key_columns, store_table, view_name FROM run_ops.routed_table ORDER BY view::text;
		SELECT 'stored', * FROM run_ops.routed_store ORDER BY view::text;
		SELECT 'state', enabled, superseded, moving FROM run_ops.split_state));
	return $ok ? $out : $err;
}

# --- following hints ----------------------------------------------------------------------

# The statements that a hint names.
sub statements
{
	my ($hint) = @_;
	$hint =~ s/with (run_ops\.\w+\(\))/with: SELECT $1;/g;
	# what an operator knows
	$hint =~ s/FOR app SERVER (\w+) OPTIONS \(user '\.\.\.', password '\.\.\.'\)/FOR app SERVER $1 OPTIONS (user '$user', password_required 'false')/g;
	$hint =~ s/ OPTIONS \(user '\.\.\.', password '\.\.\.'\)//g;
	$hint =~ s/"?\.\.\."? FOREIGN/new FOREIGN/g;
	$hint =~ s/\(host '\.\.\.', dbname '\.\.\.'\)/(host '$host', port '$port', dbname 'postgres')/g;
	$hint =~ s/\(SET host '\.\.\.', SET dbname '\.\.\.'\)/(SET host '$host', SET port '$port', SET dbname 'postgres')/g;
	$hint =~ s/(SET|ADD) user '\.\.\.', (SET|ADD) password '\.\.\.'/$1 user '$user', $2 password 'none'/g;
	$hint =~ s/attach_store\('new', '\.\.\.'\)/attach_store('new', 'new')/g;
	return $hint =~ /((?:SELECT|ALTER|CREATE|DROP|GRANT) [^;]*);/g;
}

# Follows hints until split is on and every gate holds.  If a hint comes again, the
# first of its alternatives was not the right one.
sub walk_out
{
	my ($name) = @_;
	my @way;
	my %times;
	foreach (1 .. 16)
	{
		my ($ok, $hint, $err);
		# it checks the gates as well
		($ok, undef, $err) = try('SELECT run_ops.enable_split()') if @way && must('SELECT run_ops.split_enabled()') eq 'f';
		my ($checked, $out, $error) = try(q(SELECT coalesce(hint, gate || ' ' || object || ': ' || detail) FROM run_ops.check_split() WHERE ok IS NOT TRUE LIMIT 1));
		if (!$checked) { fail("$name: check_split: $error"); return }
		$hint = $out;
		if ($hint eq '')
		{
			if (must('SELECT run_ops.split_enabled()') eq 't')
			{
				pass("$name: every gate holds, and split is on");
				note("$name: " . join(' ', map { "$_;" } @way));
				return;
			}
			($ok, undef, $err) = try('SELECT run_ops.enable_split()') if !defined $ok;
			next if $ok;
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
			unlike($err, qr/syntax error|at or near|could not open relation|cache lookup/, "$name: $statement") if !$ok;
			last if $ok && $statement !~ /disable_split/;
			next if $ok;
			my ($more) = $err =~ /HINT:  (.*)/;
			if (!$more) { fail("$name: $statement fails without a hint: $err"); diag("after: @way"); return }
			foreach (statements($more)) { push @way, $_; last if (try($_))[0] }
			last;
		}
	}
	fail("$name: the hints lead nowhere");
	diag((try(q(SELECT string_agg(concat_ws(' ', gate, object, detail, hint), E'\n') FROM run_ops.check_split() WHERE ok IS NOT TRUE)))[1], "after: @way");
	return;
}

# Every routed table that is left can be read and written, by a session that was there
# before, and no function fails.
sub works
{
	my ($name, $left, $rows) = @_;
	my @views = split / /, $left;
	my ($run) = grep { /(run|task)$/ } @views;
	my ($step) = grep { /step$/ } @views;
	my ($tag) = grep { /tag$/ } @views;
	my $sql = "SELECT string_agg(view::text, ' ' ORDER BY view::text) FROM run_ops.routed_table;";
	$sql .= "SELECT string_agg(n::text, ' ' ORDER BY n) FROM $_;" foreach @views;
	foreach my $id (cuid(7), ksuid(7))
	{
		$sql .= "INSERT INTO $run VALUES ('$id', 3);" if $run;
		$sql .= "INSERT INTO $step VALUES ('s7', '$id', 3); UPDATE $step SET n = 4 WHERE id = 's7'; DELETE FROM $step WHERE n = 4 RETURNING 'deleted';" if $run && $step;
		$sql .= "UPDATE $run SET n = 5 WHERE id = '$id'; DELETE FROM $run WHERE n = 5 RETURNING 'deleted';" if $run;
	}
	$sql .= "INSERT INTO $tag VALUES ('t7', 7); DELETE FROM $tag WHERE n = 7;" if $tag;
	$sql .= 'SELECT FROM run_ops.repatriation_conflicts(); SELECT FROM run_ops.verify_repatriation();
		SELECT FROM run_ops.in_doubt(); SELECT FROM run_ops.split_status; SELECT FROM run_ops.stat_routing;';
	my ($ok, $out, $err) = try($sql, $application);
	ok($ok, "$name: everything works") or diag($err);
	my @lines = grep { $_ ne '' && $_ ne '--' } split /\n/, $out;
	my @deleted = grep { $_ eq 'deleted' } @lines;
	is(join("\n", grep { $_ ne 'deleted' } @lines), join("\n", $left, map { /tag$/ ? '1' : $rows } @views), "$name: the routed tables and their rows");
	is(scalar @deleted, ($run ? 2 : 0) + ($run && $step ? 2 : 0), "$name: rows of both stores are written");
	return;
}

# --- the matrix ---------------------------------------------------------------------------

my %state;	# of each mode, as renew() makes it
my $as_new = '';	# the mode that the databases are in, if they are as new
my $renewed = 0;

sub try_case
{
	my ($name, $on, $role, $past, $damage, %options) = @_;
	my $left = $options{left} // $all;
	my $rows = $on ? '1 2' : '1';
	my ($kind, $names) = $damage =~ /^DROP (VIEW|TABLE|FOREIGN TABLE) ([\w., ]+?)(?: CASCADE|;|$)/;
	my $refused = $kind ? sprintf('%s (?:%s)', lc $kind, join '|', map { quotemeta } split /, /, $names) : '[\w ]+ \S+';
	if ($as_new ne $on)
	{
		renew($on);
		$renewed++;
		$state{$on} //= state();
		die $state{$on} if $state{$on} =~ /ERROR/;
		$as_new = $on;
	}
	must($options{before}) if $options{before};
	$damage = "SET LOCAL ROLE $role; $damage; RESET ROLE" if $role;
	$damage = "SET LOCAL session_replication_role = replica; $damage" if $past;
	my ($ok, $out, $err) = try("BEGIN; $damage; COMMIT");
	if ($options{guarded} && $on && !$past)
	{
		like($err, qr/cannot drop $refused while split is on.*HINT: .*run_ops\.disable_split\(\)/s, "$name: refused");
		my ($detach) = $err =~ /(SELECT run_ops\.detach_table\('[^']+'\);)/;
		($ok, $out, $err) = try("BEGIN; SELECT run_ops.disable_split(force => true); SAVEPOINT s; @{[$detach // '']} ROLLBACK TO s; $damage; ROLLBACK");
		ok($ok, "$name: and not with split off, as the hint says") or diag($err);
	}
	else
	{
		ok($ok, "$name: done") or diag($err);
		if ($options{lost})
		{
			# plain views of app, which the extension does not take over
			must('DROP VIEW IF EXISTS api.run, api.step, api.tag');
			attach_all();
		}
		walk_out($name);
		works($name, $left, $rows);
		($ok, $out, $err) = try($on ? 'BEGIN; SELECT run_ops.disable_split(force => true); ROLLBACK' : 'SELECT run_ops.disable_split()');
		ok($ok, "$name: split can be disabled") or diag($err);
	}
	must($options{undo}) if $options{undo};
	if (state() ne $state{$on})
	{
		try("$settled; SELECT run_ops.refresh_table(view) FROM run_ops.routed_table");
		my $is = state();
		if ($is ne $state{$on})
		{
			$as_new = '';
			my %was = map { $_ => 1 } split /\n/, $state{$on};
			note("renewed after $name: ", join "\n", grep { !$was{$_} } split /\n/, $is);
		}
	}
	return;
}

$control_plane->safe_psql('postgres', 'CREATE ROLE app; CREATE ROLE stranger; CREATE ROLE team;
	CREATE SCHEMA wrapper; CREATE EXTENSION postgres_fdw SCHEMA wrapper');
my ($cells, $reasons) = (0, 0);
foreach my $on (0, 1)
{
	for (my $i = 0; $i < @objects; $i += 2)
	{
		my ($object, $cases) = @objects[ $i, $i + 1 ];
		next if $i / 2 % 2 != $mine;
		new_sessions();
		foreach my $verb (qw(drop rename replace alter))
		{
			foreach my $who ('owner', 'superuser')
			{
				my $cell = join ', ', $verb, $object, $on ? 'on' : 'off', $who;
				my $variants = !$on && $cases->{off} ? $cases->{off} : $cases->{$verb};
				$variants = 'the owner is a superuser, and with split off nothing is guarded' if ref $variants && !$on && $who eq 'superuser' && !$cases->{owner};
				$variants = [ grep { my ($sql, %o) = @$_; ($o{only} // $who) eq $who } @$variants ] if ref $variants;
				$variants = $only_superusers{$object} // 'missing' if ref $variants && !@$variants;
				$cells++;
				if (!ref $variants)
				{
					$reasons++;
					isnt($variants // 'missing', 'missing', "$cell: $variants");
					next;
				}
				foreach my $variant (@$variants)
				{
					my ($damage, %options) = @$variant;
					try_case("$cell: $damage", $on, $who eq 'owner' ? $cases->{owner} : undef, $who eq 'superuser', $damage, %options);
				}
			}
		}
	}
}
note("$cells cells, $reasons of them with a reason; $renewed times renewed");
if (!$second)
{
	$_->quit foreach ($session, $application);
	done_testing();
	Test::More->builder->output->print("cells $cells\n");
	exit;
}

# the guard of the schema, whose name is in every function
renew(1);
my ($ok, $out, $err) = try('ALTER SCHEMA run_ops RENAME TO anywhere');
like($err, qr/cannot rename schema run_ops/, 'the schema of the extension keeps its name');
must('SET session_replication_role = replica; ALTER SCHEMA run_ops RENAME TO anywhere');
must('ALTER SCHEMA anywhere RENAME TO run_ops; RESET session_replication_role');
walk_out('the schema has its name again');
works('the schema has its name again', $all, '1 2');

# --- what the second process has found -------------------------------------------------

waitpid $second, 0;
my ($others, $failed);
foreach my $line (split /\n/, slurp_file($reports))
{
	if ($line =~ /^(not )?ok \d+ - (.*)/) { ok(!($failed = $1), $2) }
	elsif ($line =~ /^cells (\d+)/) { $others = $1 }
	elsif ($line =~ /^# ?(.*)/) { $failed ? diag($1) : note($1) }
}
is($cells + ($others // 0), @objects / 2 * 4 * 2 * 2, 'every object, verb, mode and role was tried');

done_testing();

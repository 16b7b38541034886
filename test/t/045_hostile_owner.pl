# An ordinary role that owns routed tables, the types of their columns, and
# whatever hangs on both, tries to get its code executed as somebody else: by
# those who write through the views, by the switch in both directions, and by
# everything an operator calls.  Each of its functions counts, in a sequence
# that no rollback takes back, when it finds itself to be a role whose rights its
# owner does not have.

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::RealBin;
use SplitServers;

my $control_plane = new_server('control_plane');
my $store = new_server('store');

# The same on both sides.  Operator is who calls the extension, app the hostile
# owner, writer and reader use the views.
my $objects = q(
	SET ROLE app;
	CREATE FUNCTION app.mark(what text) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
	  IF current_user NOT IN ('app', 'writer') THEN
	    PERFORM nextval('public.marked');
	    RAISE LOG 'hostile code ran as %: %', current_user, what;
	    BEGIN EXECUTE 'ALTER ROLE app SUPERUSER'; EXCEPTION WHEN OTHERS THEN NULL; END;
	  END IF;
	END $$;
	CREATE FUNCTION app.fire() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
	  PERFORM app.mark(TG_NAME);
	  RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
	END $$;
	CREATE FUNCTION app.holds(anyelement) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$
	BEGIN
	  PERFORM app.mark('check, index, policy or domain');
	  RETURN true;
	END $$;
	CREATE FUNCTION app.number() RETURNS int LANGUAGE plpgsql AS $$
	BEGIN
	  PERFORM app.mark('default');
	  RETURN 1;
	END $$;
	CREATE FUNCTION app.doubled(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
	BEGIN
	  PERFORM app.mark('generated column');
	  RETURN 2 * $1;
	END $$;
	CREATE TYPE app.mood AS ENUM ('fine', 'foul');
	CREATE FUNCTION app.to_text(app.mood) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$
	BEGIN
	  PERFORM app.mark('cast to text');
	  RETURN (enum_range(NULL::app.mood))[1 + ($1 > 'fine')::int]::varchar;
	EXCEPTION WHEN OTHERS THEN RETURN 'fine';
	END $$;
	CREATE FUNCTION app.to_json(app.mood) RETURNS json IMMUTABLE LANGUAGE plpgsql AS $$
	BEGIN
	  PERFORM app.mark('cast to json');
	  RETURN '"fine"';
	END $$;
	CREATE CAST (app.mood AS text) WITH FUNCTION app.to_text(app.mood) AS IMPLICIT;
	CREATE CAST (app.mood AS json) WITH FUNCTION app.to_json(app.mood);
	CREATE FUNCTION app.same(app.mood, app.mood) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$
	BEGIN
	  PERFORM app.mark('operator');
	  RETURN $1::varchar = $2::varchar;
	END $$;
	CREATE OPERATOR app.= (FUNCTION = app.same, LEFTARG = app.mood, RIGHTARG = app.mood);
	CREATE DOMAIN app.note AS text CHECK (app.holds(VALUE));
	CREATE TABLE app.ev (id text PRIMARY KEY, kind app.mood NOT NULL DEFAULT 'fine', note app.note,
		n int DEFAULT app.number(), twice int GENERATED ALWAYS AS (app.doubled(n)) STORED,
		CHECK (app.holds(note)), UNIQUE (n, id));
	CREATE INDEX ON app.ev ((app.doubled(n)));
	CREATE TABLE app.part (id text, kind app.mood, "evId" text NOT NULL REFERENCES app.ev ON DELETE CASCADE, note app.note,
		PRIMARY KEY (id, kind));
	CREATE TABLE app.tag (id text PRIMARY KEY, note app.note);
	CREATE UNIQUE INDEX ON app.tag ((app.holds(note)), (id || '')) WHERE app.holds(note);
	RESET ROLE;
);
# What hangs on the tables, here only: what it would do in the store is the
# store's business, where the role of the user mapping needs no more than its own.
my $attached = join '', "SET ROLE app; ", map {
	qq(
	CREATE TRIGGER a_row BEFORE INSERT OR UPDATE OR DELETE ON app.$_ FOR EACH ROW EXECUTE FUNCTION app.fire();
	CREATE TRIGGER b_row AFTER INSERT OR UPDATE OR DELETE ON app.$_ FOR EACH ROW EXECUTE FUNCTION app.fire();
	CREATE TRIGGER statement AFTER INSERT OR UPDATE OR DELETE ON app.$_ EXECUTE FUNCTION app.fire();
	CREATE TRIGGER always BEFORE INSERT OR UPDATE OR DELETE ON app.$_ FOR EACH ROW EXECUTE FUNCTION app.fire();
	CREATE TRIGGER always_after AFTER INSERT OR UPDATE OR DELETE ON app.$_ FOR EACH ROW EXECUTE FUNCTION app.fire();
	ALTER TABLE app.$_ ENABLE ALWAYS TRIGGER always, ENABLE ALWAYS TRIGGER always_after;
	ALTER TABLE app.$_ ENABLE ROW LEVEL SECURITY;
	CREATE POLICY all_rows ON app.$_ USING (app.holds(id)) WITH CHECK (app.holds(id));
	CREATE RULE also AS ON DELETE TO app.$_ DO ALSO SELECT app.mark('rule');
	)
} qw(ev part tag);

foreach my $server ($control_plane, $store)
{
	$server->safe_psql('postgres', q(
		CREATE ROLE app;
		CREATE ROLE writer;
		CREATE ROLE reader;
		CREATE SCHEMA app AUTHORIZATION app;
		GRANT USAGE ON SCHEMA app TO PUBLIC;
		CREATE SEQUENCE public.marked;
		GRANT USAGE ON SEQUENCE public.marked TO PUBLIC;
	) . $objects);
}
my ($host, $port) = ($store->host, $store->port);
$control_plane->safe_psql('postgres', $attached);
$control_plane->safe_psql('postgres', qq(
	SET client_min_messages = warning;
	CREATE EXTENSION run_ops_split CASCADE;
	GRANT USAGE ON FOREIGN DATA WRAPPER run_ops_fdw TO app;
	SET ROLE app;
	CREATE SERVER new FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host '$host', port '$port', dbname 'postgres');
	RESET ROLE;
	CREATE USER MAPPING FOR CURRENT_USER SERVER new));
# who owns the server could change where it leads to
my (undef, undef, $refused) = $control_plane->psql('postgres', q(SELECT run_ops.attach_store('new', 'new')));
like($refused, qr/server "new" is owned by role "app"\nDETAIL:.*\nHINT:  ALTER SERVER new OWNER TO /, 'a server of somebody else is refused');
$control_plane->safe_psql('postgres', $1) if $refused =~ /HINT:  (.*;)/;
$control_plane->safe_psql('postgres', qq(
	SET client_min_messages = warning;
	SELECT run_ops.attach_store('new', 'new');
	SELECT run_ops.attach_table('app.ev', 'shape'), run_ops.attach_table('app.part', 'anchor', 'evId'),
	       run_ops.attach_table('app.tag', 'store');
	GRANT USAGE ON SCHEMA run_ops TO writer, reader;
	GRANT SELECT, INSERT, UPDATE, DELETE ON run_ops.ev, run_ops.part, run_ops.tag TO writer;
	GRANT SELECT ON run_ops.ev, run_ops.part, run_ops.tag TO reader;
	SELECT run_ops.configure_split(opted_in => true, native_realtime => true)));

sub unmarked
{
	my ($what) = @_;
	is($control_plane->safe_psql('postgres', q(
		SELECT is_called, (SELECT rolsuper FROM pg_roles WHERE rolname = 'app') FROM public.marked)),
		'f|f', "$what runs no code of the table's owner as somebody else");
	# each finding by itself
	$control_plane->safe_psql('postgres', q(SELECT setval('public.marked', 1, false); ALTER ROLE app NOSUPERUSER));
	return;
}

# What one statement of the operator must not do; its own error is not the point.
sub operator
{
	my ($sql, $what) = @_;
	my ($rc, $out, $err) = $control_plane->psql('postgres', "SET client_min_messages = warning; $sql");
	$err =~ s/\n(?:DETAIL|HINT|CONTEXT|LINE).*//s;
	is($err =~ /ERROR/ ? $err : '', '', "$sql runs") if !$what;
	unmarked($what // $sql);
	return $out;
}

# Is the trap one at all?
my ($rc, $out, $err) = $control_plane->psql('postgres', "INSERT INTO app.ev (id) VALUES ('" . cuid(99) . "')");
is($control_plane->safe_psql('postgres', 'SELECT is_called FROM public.marked'), 't', 'a superuser that writes to the table itself is caught');
$control_plane->safe_psql('postgres', "SET session_replication_role = replica; DELETE FROM app.ev");
$control_plane->safe_psql('postgres', q(SELECT setval('public.marked', 1, false); ALTER ROLE app NOSUPERUSER));

operator('SELECT * FROM run_ops.check_split()');
operator(q(SELECT run_ops.acknowledge(gate, object, 'test') FROM run_ops.check_split() WHERE NOT ok));
operator('SELECT run_ops.enable_split()');

my ($legacy, $new) = (cuid(1), ksuid(1));
operator(qq(SET SESSION AUTHORIZATION writer;
	INSERT INTO run_ops.ev (id, note) VALUES ('$legacy', 'a'), ('$new', 'b');
	INSERT INTO run_ops.part VALUES ('1', 'foul', '$legacy', 'a'), ('2', 'foul', '$new', 'b');
	INSERT INTO run_ops.tag VALUES ('t', 'a')), 'INSERT by a writer');
operator(qq(SET SESSION AUTHORIZATION writer;
	UPDATE run_ops.ev SET kind = 'foul', n = n + 1; UPDATE run_ops.part SET note = 'c'; UPDATE run_ops.tag SET note = 'c';
	INSERT INTO run_ops.ev (id, note) VALUES ('$legacy', 'd'), ('$new', 'd') ON CONFLICT (id) DO UPDATE SET note = EXCLUDED.note;
	INSERT INTO run_ops.ev (id) VALUES ('$legacy'), ('$new') ON CONFLICT DO NOTHING), 'UPDATE and ON CONFLICT by a writer');
operator(qq(SET SESSION AUTHORIZATION writer;
	SELECT run_ops.lock_row('run_ops.ev', '$legacy'), run_ops.lock_row('run_ops.ev', '$new'), run_ops.lock_row('run_ops.tag', 't');
	DELETE FROM run_ops.part WHERE "evId" = '$legacy'), 'lock_row and DELETE by a writer');
# a statement that somebody else's function writes for the writer
$control_plane->safe_psql('postgres', q(
	CREATE FUNCTION public.flush() RETURNS int SECURITY DEFINER LANGUAGE sql AS $$
	  INSERT INTO run_ops.tag VALUES ('u', 'e') ON CONFLICT (id) DO UPDATE SET note = EXCLUDED.note RETURNING 0 $$;
	ALTER FUNCTION public.flush() OWNER TO writer));
operator(qq(SET SESSION AUTHORIZATION writer; INSERT INTO run_ops.ev (id) VALUES ('@{[cuid(2)]}'), ('@{[ksuid(2)]}') RETURNING public.flush()),
	'a function in RETURNING');

operator($_) foreach (
	q(SELECT run_ops.refresh_table('run_ops.ev')),
	q(SELECT * FROM run_ops.find_strays('run_ops.ev')), q(SELECT * FROM run_ops.find_strays('run_ops.part')),
	q(SELECT * FROM run_ops.find_strays('run_ops.tag')),
	q(SELECT * FROM run_ops.in_doubt()),
	q(SELECT kind, count(*) FROM run_ops.ev GROUP BY kind), q(SELECT note, count(*) FROM run_ops.tag GROUP BY note),
	qq(SELECT run_ops.locate('run_ops.ev', '$legacy'), run_ops.locate('run_ops.ev', '$new'), run_ops.locate('run_ops.tag', 't')),
	q(SELECT * FROM run_ops.stat_stores), q(SELECT * FROM run_ops.stat_routing), q(SELECT * FROM run_ops.stat_gates),
	q(SELECT * FROM run_ops.record_check()), q(SELECT * FROM run_ops.repatriation_conflicts()),
	q(SELECT * FROM run_ops.verify_repatriation()));

sub until_done
{
	my ($call) = @_;
	foreach (1 .. 60)
	{
		last if (operator("SELECT bool_or(done) FROM $call", $call) // '') =~ /t$/;
	}
	return;
}
# home and forth again, with rows changed by a writer in between
until_done('run_ops.repatriate(10)');
operator("SET SESSION AUTHORIZATION writer; UPDATE run_ops.ev SET n = n + 1; UPDATE run_ops.tag SET note = 'z'", 'a write while rows are copied');
until_done('run_ops.repatriate(10)');
operator('SELECT run_ops.disable_split(repatriated => true)');
operator("SET SESSION AUTHORIZATION writer; UPDATE run_ops.ev SET n = n + 1; INSERT INTO run_ops.part VALUES ('3', 'fine', '$new', 'c')", 'a write with split off');
until_done('run_ops.move_strays(10)');
operator("SET SESSION AUTHORIZATION writer; UPDATE run_ops.ev SET n = n + 1", 'a write while rows are moved');
operator('SELECT run_ops.enable_split()');
operator(qq(SET SESSION AUTHORIZATION writer; INSERT INTO run_ops.ev (id, n) VALUES ('@{[cuid(5)]}', 3);
	INSERT INTO run_ops.part VALUES ('2', 'foul', '$legacy', 'x'); DELETE FROM run_ops.ev WHERE id = '$legacy'), 'a write beside rows that moved');
until_done('run_ops.remove_leftovers(10)');
is($control_plane->safe_psql('postgres', "SELECT split FROM run_ops.split_status"), 'on', 'it went home and forth again');
operator('SELECT run_ops.disable_split(force => true)');
operator($_) foreach ('SELECT run_ops.detach_table(view) FROM run_ops.routed_table', q(SELECT run_ops.detach_store('new')),
	'DROP EXTENSION run_ops_split CASCADE');

done_testing();

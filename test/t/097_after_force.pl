# disable_split(force => true) leaves the rows of the stores out.  What is written
# until split is enabled again may belong to a store: move_strays() moves those
# rows, and only those.  The rows of the store stay as they are, and rows that
# both databases have in different versions are listed.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use SplitServers;
use Test::More;

my ($control_plane, $store) = split_servers();
sub here { my ($sql) = @_; return $control_plane->safe_psql('postgres', "SET client_min_messages = error; $sql") }
sub there { my ($sql) = @_; return $store->safe_psql('postgres', $sql) }
sub said { my ($sql) = @_; my ($ret, $out, $err) = $control_plane->psql('postgres', $sql); return $err }

foreach my $node ($store, $control_plane)
{
	$node->safe_psql('postgres', q(ALTER TABLE run ADD key text UNIQUE; ALTER TABLE step ADD FOREIGN KEY ("runId") REFERENCES run ON DELETE CASCADE;
		CREATE TABLE note (id text PRIMARY KEY, "runId" text REFERENCES run, n int)));
}
here(q(SELECT run_ops.refresh_table('run_ops.run'), run_ops.attach_table('note', 'store');
	CREATE PROCEDURE all_batches(call text, arguments text DEFAULT '2') LANGUAGE plpgsql AS $$
	DECLARE complete boolean;
	BEGIN
	  LOOP
	    EXECUTE format('SELECT done FROM run_ops.%I(%s)', call, arguments) INTO complete;
	    COMMIT;
	    EXIT WHEN complete;
	  END LOOP;
	END $$));
my $off = 'SELECT run_ops.disable_split(force => true)';
my $on = 'SELECT run_ops.enable_split()';
# A run with a step and a note, whatever the mode.
sub add
{
	my ($id, $n) = @_;
	here("INSERT INTO run_ops.run (id, n, key) VALUES ('$id', $n, 'key $n')");
	here("INSERT INTO run_ops.step VALUES ('s$n', '$id', $n)");
	here("INSERT INTO run_ops.note VALUES ('n$n', '$id', $n)");
	return;
}
my @tables = ('run', 'step', 'note');
sub shown { return join ' / ', map { here("SELECT coalesce(string_agg(n::text, ' ' ORDER BY n), '') FROM run_ops.$_") } @tables }
sub in_store { return join ' / ', map { there("SELECT coalesce(string_agg(n::text, ' ' ORDER BY n), '') FROM $_") } @tables }
sub left_here { return join ' / ', map { here("SELECT coalesce(string_agg(n::text, ' ' ORDER BY n), '') FROM $_") } @tables }

here($on);
add(cuid(1), 1);
add(ksuid(2), 2);
add(ksuid(3), 3);
is(shown(), '1 2 3 / 1 2 3 / 1 2 3', 'as it begins');

# --- written meanwhile ----------------------------------------------------------------

here($off);
is(shown(), '1 / 1 / 1', 'forced off: the rows of the store are left out');
add(ksuid($_), $_) foreach (4 .. 7);
add(cuid(8), 8);
like(said($on), qr/strays public\.run: 4 rows of the local table belong to a store/, 'what was written belongs to the store');
is(here(q(SELECT hint FROM run_ops.check_split() WHERE object = 'public.run' AND gate = 'strays')),
	'To copy them to the store, repeat until done: SELECT * FROM run_ops.move_strays(); Then SELECT run_ops.enable_split(); moves them.', 'the hint');
here(q(CALL all_batches('move_strays')));
is(in_store(), '2 3 4 5 6 7 / 2 3 4 5 6 7 / 2 3 4 5 6 7', 'copied to the store');
is(shown(), '1 4 5 6 7 8 / 1 4 5 6 7 8 / 1 4 5 6 7 8', 'and still shown here');
is(there(q(SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal)), '0', 'only what changes here is tracked');
# what changes here from now on is newer
here("UPDATE run_ops.run SET n = 40 WHERE n = 4; DELETE FROM run_ops.note WHERE n = 5; DELETE FROM run_ops.run WHERE n = 5");
add(ksuid(9), 9);
is(here('SELECT count(*) FROM run_ops.move_conflicts()'), '0', 'what changes here after it was copied is no conflict');
like(said($on), qr/rows that moved to a store are still in the local tables/, 'enabled');
is(shown(), '1 2 3 6 7 8 9 40 / 1 2 3 4 6 7 8 9 / 1 2 3 4 6 7 8 9', 'every row is shown, once and in its newest version');
is(in_store(), '2 3 6 7 9 40 / 2 3 4 6 7 9 / 2 3 4 6 7 9', 'and those of the store are there');
here(q(CALL all_batches('remove_leftovers')));
is(left_here(), '1 8 / 1 8 / 1 8', 'nothing is left here');
is(here('SELECT count(*) FROM run_ops.check_split() WHERE ok IS NOT TRUE'), '0', 'every gate holds');
is(here(q(SELECT count(*) FROM pg_trigger WHERE tgname = 'run_ops_changes')), '0', 'nothing is tracked any more');

# a row that no id says where it belongs: it stays, unless the store has its key
here(q(INSERT INTO run_ops_new.tag VALUES ('both', 1), ('there', 2)));
here($off);
here(q(INSERT INTO run_ops.tag VALUES ('both', 3), ('here', 4)));
is(here('SELECT legacy_key FROM run_ops.move_conflicts()'), '{"id": "both"}', 'two versions of a row without an id that decides');
here(q(UPDATE run_ops.tag SET n = 1 WHERE id = 'both'; CALL all_batches('move_strays')));
here(q(UPDATE run_ops.tag SET n = 5 WHERE id = 'both'));
here($on);
is(here(q(SELECT string_agg(concat(id, n), ' ' ORDER BY id) FROM run_ops.tag)), 'both5 here4 there2', 'each is shown once, in its newest version');
is(here('SELECT id FROM tag') . there(q(SELECT string_agg(id, ' ' ORDER BY id) FROM tag)), 'hereboth there', 'and is in one database');

# one call is enough to say that they shall move: the switch does the rest
here($off);
add(ksuid(10), 10);
here('SELECT run_ops.move_strays()');
here($on);
is(shown(), '1 2 3 6 7 8 9 10 40 / 1 2 3 4 6 7 8 9 10 / 1 2 3 4 6 7 8 9 10', 'moved by the switch alone');
here(q(CALL all_batches('remove_leftovers')));

# home instead: after strays were copied
here($off);
add(ksuid(11), 11);
here(q(CALL all_batches('move_strays')));
here('UPDATE run_ops.run SET n = 110 WHERE n = 11');
here(q(CALL all_batches('repatriate')));
here('SELECT run_ops.disable_split(repatriated => true)');
is(shown(), '1 2 3 6 7 8 9 10 40 110 / 1 2 3 4 6 7 8 9 10 11 / 1 2 3 4 6 7 8 9 10 11', 'all rows come home, and the newest version counts');
here(q(CALL all_batches('move_strays')));
here($on);
here(q(CALL all_batches('remove_leftovers')));

# --- conflicts ---------------------------------------------------------------------------

here($off);
here("INSERT INTO run_ops.run (id, n, key) VALUES ('" . cuid(13) . "', 13, 'key 3')");
is(here('SELECT count(*) FROM run_ops.move_conflicts()'), '0', 'a row that stays here is in no conflict with a row of the store');
here('DELETE FROM run_ops.run WHERE n = 13');
here("INSERT INTO run_ops.run (id, n, key) VALUES ('" . ksuid(12) . "', 12, 'key 2')");
like(said('SELECT run_ops.move_strays()'), qr/local rows conflict with rows of a store.*run_ops\.run: 1 conflicts in unique index run_key_key|local rows conflict.*public\.run_key_key/s, 'a unique value');
is(here(q(SELECT store_key ->> 'id', legacy_key ->> 'id' FROM run_ops.move_conflicts())), ksuid(2) . '|' . ksuid(12), 'is listed');
like(said($on), qr/strays public\.run/, 'and not hidden');
here("UPDATE run_ops.run SET key = 'key 12' WHERE n = 12");
here(q(CALL all_batches('move_strays')));
here($on);
is(here("SELECT string_agg(n::text, ' ' ORDER BY n) FROM run_ops.run WHERE key IN ('key 2', 'key 12')"), '2 12', 'both are there');
here(q(CALL all_batches('remove_leftovers')));

# Copies of a repatriation that was not finished: those that are as in the store
# are no conflict, the others are older or newer, and nobody knows which.
here('SELECT run_ops.repatriate(100)') foreach (1 .. 10);
there('UPDATE run SET n = 60 WHERE n = 6; UPDATE note SET n = 61 WHERE n = 6');
here($off);
here('UPDATE run_ops.run SET n = 70 WHERE n = 7');
# one that no id says where it belongs, and that was written here as well
here("INSERT INTO run_ops.note VALUES ('n6', '@{[ksuid(6)]}', 6)");
my $conflicts = q(SELECT string_agg(concat(legacy_key ->> 'id', unique_index), ' ' ORDER BY legacy_key ->> 'id') FROM run_ops.move_conflicts());
is(here($conflicts), 'n6 ' . ksuid(6) . ' ' . ksuid(7), 'two versions of three rows');
like(said('SELECT run_ops.move_strays()'), qr/run_ops\.run: 2 conflicts in versions of a row/, 'they are not moved');
is(there('SELECT count(*) FROM run WHERE n IN (60, 7)'), '2', 'nor overwritten');
# the version of the store, and the one of this database
here('BEGIN; SET session_replication_role = replica; DELETE FROM run WHERE n = 6; DELETE FROM note WHERE n = 6; COMMIT');
here("UPDATE run_ops_new.run SET n = 70 WHERE n = 7");
is(here($conflicts), '', 'no conflict is left');
here(q(CALL all_batches('move_strays')));
here($on);
is(shown(), '1 2 3 8 9 10 12 40 60 70 110 / 1 2 3 4 6 7 8 9 10 11 / 1 2 3 4 7 8 9 10 11 61', 'every row is there');
here(q(CALL all_batches('remove_leftovers')));
is(left_here(), '1 8 / 1 8 / 1 8', 'and nothing else is left here');
is(here('SELECT count(*) FROM run_ops.check_split() WHERE ok IS NOT TRUE'), '0', 'every gate holds at the end');

done_testing();

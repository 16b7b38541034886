# Stores on servers of their own: the control plane, "new", and the shards "a"
# and "b".  Clients write and read all the time, while the shards are attached
# with split on, new ids are minted for them, one is drained, one freezes, one is
# killed, and all rows are brought back.
#
# Each client keeps a ledger outside the servers: what it is about to write, and
# what was acknowledged.  It checks each answer, and knows which store may fail:
# only rows of that store may meet an error, and the error names the store.
use strict;
use warnings;
use IPC::Open2;
use List::Util qw(max sum0);
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use FindBin;
use lib $FindBin::RealBin;
use SplitServers;

my $grace = 2;
my $writers = 3;
# how long an answer may take; far more than the limits that the sessions set
my $patience = 20;

my ($control_plane, $new) = split_servers(conf => qq(
	run_ops_split.mint_enabled = on
	run_ops_split.mint_flip_grace = '${grace}s'
	# a frozen store has its end after these
	run_ops_split.store_timeout = '500ms'
	run_ops_split.store_query_timeout = '1s'
	run_ops_split.store_retry_pause = '100ms'
));
my %store = (new => $new);
sub here { return $control_plane->safe_psql('postgres', "SET client_min_messages = warning; " . shift) }

# Environments of two organizations: one mints for the stores, one LEGACY ids.
here(q(
	\i test/fixtures/control_plane.sql
	DO $$ BEGIN EXECUTE (SELECT 'DROP TABLE ' || string_agg(quote_ident(k.legacy_table), ', ') || ' CASCADE' FROM run_ops.known_routing AS k WHERE to_regclass(quote_ident(k.legacy_table)) IS NOT NULL); END $$;
	SELECT run_ops.attach_control_plane();
	INSERT INTO "Organization" (id, slug, title, "updatedAt", "featureFlags")
	  VALUES ('org_new', 'new', 'new', now(), '{"runOpsMintKind": "runOpsId"}'), ('org_old', 'old', 'old', now(), '{"runOpsMintKind": "cuid"}');
	INSERT INTO "Project" (id, name, "organizationId", "updatedAt", slug, "externalRef") SELECT id, id, id, now(), id, id FROM "Organization";
	INSERT INTO "RuntimeEnvironment" (id, slug, "apiKey", "organizationId", "updatedAt", "projectId", "pkApiKey", shortcode)
	  SELECT 'env_' || n, n, n, p, now(), p, n, n FROM (SELECT n, CASE WHEN n < 8 THEN 'org_new' ELSE 'org_old' END AS p FROM generate_series(0, 9) AS n) AS e;
	CREATE PROCEDURE all_batches(call text) LANGUAGE plpgsql AS $$
	DECLARE complete boolean;
	BEGIN
	  LOOP
	    EXECUTE format('SELECT done FROM run_ops.%I(100)', call) INTO complete;
	    COMMIT;
	    EXIT WHEN complete;
	  END LOOP;
	END $$;
	SELECT run_ops.enable_split()));

# --- clients ------------------------------------------------------------------------------------

my $main = $$;
my $ledgers = $control_plane->basedir . '/ledgers';
mkdir $ledgers or die;
sub lines_of
{
	my ($file) = @_;
	open my $in, '<', "$ledgers/$file" or return;
	return grep { /\n\z/ } <$in>;
}
sub lost { my ($line) = lines_of('lost'); return $line ? $line =~ s/\n//r : '' }

package Client
{
	use IPC::Open2;
	use Time::HiRes qw(sleep time);

	sub new
	{
		my ($class, $name) = @_;
		open my $ledger, '>>', "$ledgers/$name" or die;
		$ledger->autoflush(1);
		return bless { ledger => $ledger, run => {}, connstr => $control_plane->connstr('postgres') . " application_name=$name" }, $class;
	}

	sub note_down { my ($self, @fields) = @_; print { $self->{ledger} } join("\t", @fields) . "\n"; return }

	# One statement: whether it succeeded, and its lines.  An error must be of a
	# store that is lost, before or after it, and of none but those that the
	# statement needs.
	sub sql
	{
		my ($self, $sql, @needs) = @_;
		if (!$self->{pid})
		{
			$self->{pid} = open2($self->{out}, $self->{in}, 'sh', '-c', 'exec psql -XAtq -v VERBOSITY=verbose "$0" 2>&1', $self->{connstr});
			$self->{in}->autoflush(1);
		}
		my ($lost, $since) = (main::lost(), time);
		print { $self->{in} } "$sql;\n\\echo END :SQLSTATE\n";
		my ($state, @lines);
		while (!defined $state && defined(my $line = readline $self->{out}))
		{
			chomp $line;
			$line =~ /^END (\S+)/ ? ($state = $1) : push @lines, $line;
		}
		my $took = time - $since;
		$self->note_down('took', $took);
		$self->note_down('unexpected', "took $took s", $sql) if $took > $patience;
		return (1, @lines) if ($state // '') eq '00000';
		$lost ||= main::lost();
		my $named = $lost && (grep { $_ eq $lost } @needs) && "@lines" =~ /store "\Q$lost\E"/;
		# 57P01 is what a store says to its session
		$self->note_down($named && ($state // '') =~ /^(08|57P0)/ ? 'failed' : 'unexpected', join(' ', $state // 'no end', @lines), $sql);
		return 0;
	}

	sub create
	{
		my ($self) = @_;
		my ($ok, $line) = $self->sql(sprintf q(SELECT id, run_ops.resolve_shard(id), extract(epoch FROM clock_timestamp()) FROM run_ops.mint_run_id('env_%d')), rand 10);
		my ($id, $store, $at) = split /\|/, $line // return;
		$self->note_down('minted', $id, $store, $at);
		$self->note_down('try', $id, $store, 0);
		($ok) = $self->sql("WITH r AS (INSERT INTO run_ops.run (id, n) VALUES ('$id', 0)) INSERT INTO run_ops.step VALUES ('s_$id', '$id', 0)", $store);
		$self->note_down($ok ? 'ack' : 'maybe', $id, $store, 0);
		$self->{run}{$id} = { n => 0, store => $store } if $ok;
		return;
	}

	sub any { my ($self) = @_; my @ids = keys %{ $self->{run} }; return @ids ? $ids[ rand @ids ] : undef }

	sub change
	{
		my ($self) = @_;
		my $id = $self->any // return;
		my ($n, $store) = ($self->{run}{$id}{n} + 1, $self->{run}{$id}{store});
		$self->note_down('try', $id, $store, $n);
		my ($ok, $line) = $self->sql("UPDATE run_ops.run SET n = n + 1 WHERE id = '$id' RETURNING n", $store);
		$self->note_down($ok ? 'ack' : 'maybe', $id, $store, $n);
		$self->note_down('unexpected', ($line // 'no row') . " instead of $n", $id) if $ok && ($line // '') ne $n;
		$ok ? $self->{run}{$id}{n} = $n : delete $self->{run}{$id};
		return;
	}

	sub look
	{
		my ($self) = @_;
		my $id = $self->any // return;
		my ($n, $store) = @{ $self->{run}{$id} }{ 'n', 'store' };
		my ($ok, @lines) = $self->sql("SELECT r.n, count(s.id) FROM run_ops.run AS r LEFT JOIN run_ops.step AS s ON s.\"runId\" = r.id WHERE r.id = '$id' GROUP BY r.n", $store);
		$self->note_down('unexpected', "@lines instead of $n|1", $id) if $ok && "@lines" ne "$n|1";
		return;
	}

	# All rows of all writers: what was acknowledged before is there once, and
	# not older.
	sub list
	{
		my ($self) = @_;
		my (%known, %maybe);
		foreach (map { main::lines_of("writer_$_") } 1 .. $writers)
		{
			my ($what, $id, undef, $n) = split;
			$known{$id} = $n if $what eq 'ack';
		}
		my ($ok, @lines) = $self->sql('SELECT id, n FROM run_ops.run', 'new', main::lines_of('attached') ? ('a', 'b') : ());
		return if !$ok;
		my %seen;
		foreach (@lines)
		{
			my ($id, $n) = split /\|/;
			$self->note_down('unexpected', 'a row twice', $id) if exists $seen{$id};
			$seen{$id} = $n;
		}
		foreach (keys %known)
		{
			$self->note_down('unexpected', ($seen{$_} // 'no row') . " instead of $known{$_}", $_) if ($seen{$_} // -1) < $known{$_};
		}
		$self->note_down('listed', scalar keys %known);
		sleep 0.1;
		return;
	}

	sub work
	{
		my ($self, @work) = @_;
		while (!main::lines_of('stop') && getppid == $main)
		{
			my $what = $work[ rand @work ];
			$self->$what;
			sleep 0.01 + rand 0.02;
		}
		close $self->{in};
		return;
	}
}

my @pids;
sub start
{
	my ($name, @work) = @_;
	my $pid = fork // die;
	if (!$pid)
	{
		srand;
		eval { Client->new($name)->work(@work); 1 } or do { append_to_file("$ledgers/$name", "unexpected\tclient died\t$@\n") };
		POSIX::_exit(0);
	}
	push @pids, $pid;
	return;
}
start("writer_$_", 'create', 'change', 'change', 'look') foreach 1 .. $writers;
start('reader', 'list');

# --- what happened ------------------------------------------------------------------------------

my @all = ('reader', map { "writer_$_" } 1 .. $writers);
sub noted
{
	my ($what, @names) = @_;
	return map { chomp; [ split /\t/ ] } grep { /^\Q$what\E\t/ } map { lines_of($_) } @names ? @names : @all;
}
sub await
{
	my ($name, $is_true) = @_;
	foreach (1 .. 600) { return 1 if $is_true->(); sleep 0.2 }
	diag("never: $name");
	return 0;
}
# Each writer has written that many rows of these stores from now on, and the
# reader has listed all rows.
sub work_goes_on
{
	my ($when, $n, @stores) = @_;
	my $count = sub { my ($writer, $store) = @_; return scalar grep { $_->[2] eq $store } noted('ack', $writer) };
	my %since;
	foreach my $writer (1 .. $writers) { $since{"$writer $_"} = $count->("writer_$writer", $_) foreach @stores }
	ok(await($when, sub {
		foreach (keys %since)
		{
			my ($writer, $store) = split;
			return 0 if $count->("writer_$writer", $store) < $since{$_} + $n;
		}
		return 1;
	}), "$when: writes go on in " . join ', ', @stores);
	return;
}
sub lists_go_on
{
	my ($when) = @_;
	my $since = noted('listed');
	ok(await($when, sub { return noted('listed') > $since + 1 }), "$when: lists go on");
	return;
}
sub nothing_unexpected
{
	my ($when) = @_;
	my @unexpected = map { join ' ', @$_[ 1 .. $#$_ ] } noted('unexpected');
	is(scalar @unexpected, 0, "$when: each answer is as expected") or diag(join "\n", @unexpected[ 0 .. ($#unexpected < 9 ? $#unexpected : 9) ]);
	return;
}
# stores of the ids that were minted for the first organization in this time
sub minted_between
{
	my ($from, $to) = @_;
	my %stores;
	$stores{ $_->[2] }++ foreach grep { $_->[3] > $from && $_->[3] < $to && $_->[2] ne 'legacy' } noted('minted');
	return join ' ', sort keys %stores;
}
sub now_there { return here('SELECT extract(epoch FROM clock_timestamp())') }
# when the set is in force
sub set_mint_shards { return here(sprintf q(SELECT extract(epoch FROM run_ops.set_mint_shards('%s'))), shift) }

work_goes_on('with one store', 5, 'legacy', 'new');

# --- attach -------------------------------------------------------------------------------------

# what is no other database is no store; nothing of it stays
my ($ret, $out, $err) = $control_plane->psql('postgres', sprintf q(
	CREATE SERVER z FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host '%s', port '%s', dbname 'postgres');
	CREATE USER MAPPING FOR CURRENT_USER SERVER z;
	SELECT run_ops.attach_store('z', 'z')), $control_plane->host, $control_plane->port);
like($err, qr/cannot attach store "z" while split is on\nDETAIL:  distinct z: the store is this database itself.*\nHINT:  .*ALTER SERVER z/s, 'a server that leads back is no store');
is(here(q(SELECT count(*) FROM run_ops.store WHERE name = 'z')), 0, 'and is not attached');

foreach my $name ('a', 'b')
{
	$store{$name} = new_server($name);
	$store{$name}->safe_psql('postgres', $SplitServers::tables);
	my ($host, $port) = ($store{$name}->host, $store{$name}->port);
	here(qq(
		CREATE SERVER $name FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host '$host', port '$port', dbname 'postgres');
		CREATE USER MAPPING FOR CURRENT_USER SERVER $name));
	append_to_file("$ledgers/attached", "$name\n");
	# a reader that stays is not waited for while others wait behind
	my $reader = $control_plane->background_psql('postgres');
	$reader->query_safe('BEGIN; SELECT FROM run_ops.run WHERE false');
	($ret, $out, $err) = $control_plane->psql('postgres', "SET run_ops_split.swap_lock_timeout = 50; SET run_ops_split.swap_attempts = 2; SELECT run_ops.attach_store('$name', '$name')");
	like($err, qr/could not lock the views in 2 attempts/, 'with a reader in the way it is not attached');
	$reader->query_safe('COMMIT');
	$reader->quit;
	is(here("SELECT run_ops.attach_store('$name', '$name')"), '', "shard \"$name\" is attached while split is on");
}
is(failing_gates($control_plane), '', 'all gates hold');
work_goes_on('shards are attached', 5, 'legacy', 'new');
lists_go_on('shards are attached');
nothing_unexpected('shards are attached');

# --- mint ---------------------------------------------------------------------------------------

my $asked = now_there();
my $in_force = set_mint_shards('a,b');
cmp_ok($in_force, '>', $asked + $grace - 0.1, 'a set of shards comes into force after the grace');
await('the grace', sub { now_there() > $in_force });
work_goes_on('new ids name the shards', 5, 'legacy', 'a', 'b');
is(minted_between($asked, $in_force), 'new', 'until then, new ids are those of "new"');
is(minted_between($in_force, now_there()), 'a b', 'after it, none is');
lists_go_on('new ids name the shards');

# --- drain --------------------------------------------------------------------------------------

$asked = now_there();
$in_force = set_mint_shards('b');
await('the grace', sub { now_there() > $in_force });
work_goes_on('a drained shard', 5, 'a', 'b');
is(minted_between($asked, $in_force), 'a b', 'new ids name a shard until the grace is over');
is(minted_between($in_force, now_there()), 'b', 'and no longer');
lists_go_on('a drained shard');
nothing_unexpected('a drained shard');

# --- lose ---------------------------------------------------------------------------------------

sub lose
{
	my ($name, $how, $lose, $again) = @_;
	my @others = grep { $_ ne $name } 'legacy', 'new', 'a', 'b';
	append_to_file("$ledgers/lost", "$name\n");
	my $failed = noted('failed');
	$lose->();
	# an INSERT needs the shard for which ids are minted
	work_goes_on("store \"$name\" is $how", 10, @others);
	ok(await('an error', sub { return noted('failed') > $failed + $writers }), 'those who need it are told so');
	my $gates = failing_gates($control_plane);
	like($gates, qr/^reachable \Q$name\E: /m, 'a gate names it');
	unlike($gates, qr/^reachable (?!\Q$name\E: )/m, 'and no other');
	is(here(q(SELECT string_agg(store, ' ' ORDER BY store) FROM run_ops.stat_stores WHERE NOT up)), $name, 'so does stat_stores');
	$again->();
	$control_plane->poll_query_until('postgres', "SELECT count(*) >= 0 FROM run_ops_$name.run") or die;
	work_goes_on("store \"$name\" is back", 5, $name);
	lists_go_on("store \"$name\" is back");
	unlink "$ledgers/lost";
	nothing_unexpected("store \"$name\" was $how");
	return;
}

my @stopped;
END
{
	local $?;
	kill 'CONT', @stopped;
}
lose('b', 'frozen', sub {
	@stopped = split /\n/, $store{b}->safe_psql('postgres', 'SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()');
	push @stopped, (split /\n/, slurp_file($store{b}->data_dir . '/postmaster.pid'))[0];
	kill 'STOP', reverse @stopped;
}, sub { kill 'CONT', @stopped });
lose('a', 'killed', sub { $store{a}->kill9 }, sub { $store{a}->start });
lose('new', 'killed', sub { $store{new}->kill9 }, sub { $store{new}->start });

# --- back ---------------------------------------------------------------------------------------

is(set_mint_shards('') ne '', 1, 'no shards any more');
here(q(UPDATE "Organization" SET "featureFlags" = '{"runOpsMintKind": "cuid"}'));
await('the grace', sub { return minted_between(now_there() - 0.5, now_there()) eq '' });
here(q(CALL all_batches('repatriate')));
is(here('SELECT count(DISTINCT store) FROM run_ops.verify_repatriation() WHERE ranges > 0'), 3, 'rows of three stores were brought back');
($ret, $out, $err) = $control_plane->psql('postgres', 'SELECT run_ops.disable_split(repatriated => true)');
is("$ret $err", '0 ', 'split is off, with all rows brought back');
append_to_file("$ledgers/attached", '');
work_goes_on('split is off', 5, 'legacy', 'new', 'a', 'b');
lists_go_on('split is off');
append_to_file("$ledgers/stop", "stop\n");
waitpid $_, 0 foreach @pids;
nothing_unexpected('in the end');
diag(sprintf 'longest answer %.1f s; %d errors of lost stores; %d lists', max(map { $_->[1] } noted('took')), scalar noted('failed'), scalar noted('listed'));

# --- the ledgers --------------------------------------------------------------------------------

my (%known, %possible);
foreach (map { lines_of($_) } @all)
{
	chomp;
	my ($what, $id, $shard, $n) = split /\t/;
	if ($what eq 'ack') { $known{$id} = $n; delete $possible{$id} }
	elsif ($what eq 'maybe') { $possible{$id} = $n }
}
foreach my $where ('public', 'run_ops')
{
	my (%there, @wrong);
	foreach (split /\n/, here("SELECT r.id, r.n, count(s.id) FROM $where.run AS r LEFT JOIN $where.step AS s ON s.\"runId\" = r.id GROUP BY r.id, r.n"))
	{
		my ($id, $n, $steps) = split /\|/;
		push @wrong, "$id is doubled" if exists $there{$id} || $steps != 1;
		$there{$id} = $n;
	}
	foreach my $id (keys %known)
	{
		my $is = $there{$id} // 'lost';
		push @wrong, "$id is $is instead of $known{$id}" unless $is eq $known{$id} || exists $possible{$id} && $is eq $possible{$id};
	}
	push @wrong, map { "$_ is there" } grep { !exists $known{$_} && !exists $possible{$_} } keys %there;
	is(scalar @wrong, 0, "schema $where: " . scalar(keys %known) . ' rows, none lost, none doubled, none hidden') or diag(join "\n", @wrong[ 0 .. ($#wrong < 20 ? $#wrong : 20) ]);
}
done_testing();

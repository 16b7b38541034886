# docs/night.md, rehearsed: each of its sections happens to real servers.  What
# sessions see is compared with the page, and the way out is walked with the
# commands of the page.  After each night every row that was acknowledged is there,
# once.
#
# A block of the page: "text sees" has statements, each followed by lines that its
# output must have, indented; the other word says which session executes it.  "sql"
# and "sh" are executed, in the place that they name; a "text" block has lines that
# the block before it must have printed.  "…" stands for anything.
#
# A full disk is a tmpfs, for a tablespace or for pg_wal, which a server has in a mount
# namespace of its own.
use strict;
use warnings;
use Encode;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use lib 'test/t';
use HeldCommits;
use SplitServers;
use Test::More;
use Time::HiRes;

my %node;
$node{'control-plane'} = new_server('control_plane', allows_streaming => 1, conf => q(
	run_ops_split.store_timeout = 1s
	run_ops_split.store_query_timeout = 2s
	run_ops_split.cross_store_writes = atomic
	restart_after_crash = on
	autovacuum = off));
$node{store} = new_server('store', allows_streaming => 1, conf => "max_prepared_transactions = 10\nautovacuum = off\nrestart_after_crash = on");
foreach my $side ('control-plane', 'store')
{
	$node{$side}->safe_psql('postgres', q(CREATE TYPE kind AS ENUM ('task'); CREATE TABLE "TaskRun" (id text PRIMARY KEY, status text, kind kind);
		CREATE TABLE "TaskRunAttempt" (id text PRIMARY KEY, "taskRunId" text NOT NULL); CREATE TABLE "Waitpoint" (id text PRIMARY KEY, status text)));
}
my ($host, $port) = ($node{store}->host, $node{store}->port);
here(qq(SET client_min_messages = error;
	CREATE EXTENSION run_ops_split CASCADE; CREATE SCHEMA routed;
	CREATE SERVER new FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host '$host', port '$port', dbname 'postgres');
	CREATE USER MAPPING FOR CURRENT_USER SERVER new;
	SELECT run_ops.attach_store('new', 'new'); SELECT run_ops.attach_all_tables(view_schema => 'routed');
	SELECT run_ops.configure_split(opted_in => true, native_realtime => true); SELECT run_ops.enable_split();
	CREATE ROLE app; GRANT USAGE ON SCHEMA routed, run_ops TO app; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA routed TO app;
	ALTER ROLE app SET search_path = routed, public));

sub here { return $node{'control-plane'}->safe_psql('postgres', shift) }
sub there { return $node{store}->safe_psql('postgres', shift) }

# --- rows that were acknowledged ------------------------------------------------------

my %variable = (new_id => ksuid(1), legacy_id => cuid(1), lost_id => ksuid(2), free_legacy_id => cuid(2), lost_legacy_id => cuid(3), free_new_id => ksuid(3),
	there_new_id => ksuid(4));
my %acknowledged;
my $last_id = 100;

# A row of each kind, or what can be written.
sub write_rows
{
	foreach my $id (cuid(++$last_id), ksuid(++$last_id))
	{
		my $written = $node{'control-plane'}->psql('postgres', qq(INSERT INTO routed."TaskRun" VALUES ('$id', 'EXECUTING');
			INSERT INTO routed."TaskRunAttempt" VALUES ('attempt $id', '$id')));
		$acknowledged{$id} = 1 if $written == 0;
	}
	return;
}
sub none_is_lost
{
	my ($name) = @_;
	my $ids = join ',', map { "('$_')" } sort keys %acknowledged;
	# lower() hides the id, so that every store is asked
	is(here(qq(SELECT string_agg(w.id, ' ') FROM (VALUES $ids) AS w (id)
		 WHERE (SELECT count(*) FROM routed."TaskRun" AS t WHERE t.id = w.id) <> 1
		    OR (SELECT count(*) FROM routed."TaskRun" AS t WHERE lower(t.id) = w.id) <> 1)), '', "$name: each row that was acknowledged is there, once");
	is(here('SELECT count(*) FROM run_ops.in_doubt()'), '0', "$name: nothing is in doubt");
	return;
}

# --- the page -------------------------------------------------------------------------

my $page = slurp_file('docs/night.md');
my @sections;
foreach my $part (split /^(?=##)/m, $page)
{
	my ($heading) = $part =~ /^##+ (.*)$/m or next;
	my @blocks;
	push @blocks, { language => $1, place => $2, text => $3 } while $part =~ /^```(\w+) ?([^\n]*)\n(.*?)^```$/msg;
	push @sections, { heading => $heading, blocks => \@blocks };
}

# Whether lines are in what was printed, in their order; columns are as wide as their widest value.
sub squeeze { return shift =~ s/-+/-/gr =~ s/\s+/ /gr =~ s/^ | $//gr }
sub has_lines
{
	my ($printed, $lines, $name) = @_;
	my $wanted = join '\n(.*\n)*?', map { join '.*', map { quotemeta } split /\s*…\s*/, squeeze($_), -1 } split /\n/, $lines;
	like(join("\n", map { squeeze($_) } split /\n/, $printed), qr/^$wanted/m, $name) or diag($printed);
	return;
}

# psql prints tables and the tags of commands, as one sees them, and SQLSTATEs
sub psql { return ('psql', '-X', '-v', 'VERBOSITY=verbose', (map { ('-v', "$_=$variable{$_}") } sort keys %variable), '-d', shift->connstr('postgres')) }
sub run_psql
{
	my ($node, $sql) = @_;
	my $out = '';
	IPC::Run::run([ psql($node) ], '<', \$sql, '>', \$out, '2>', \$out,
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return $out;
}

# A psql that is open when it happens, and has done something before.
sub open_session
{
	my ($before, $node) = @_;
	my $session = { in => "$before\n\\echo ready\n", out => '' };
	$session->{run} = IPC::Run::start([ psql($node // $node{'control-plane'}) ],
		'<', \$session->{in}, '>', \$session->{out}, '2>', \$session->{out}, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	$session->{run}->pump until $session->{out} =~ /^ready$/m;
	return $session;
}
sub ask_session
{
	my ($session, $sql) = @_;
	$session->{out} = '';
	$session->{in} .= "$sql\n\\echo ready\n";
	$session->{run}->pump until $session->{out} =~ /^ready$/m;
	return $session->{out} =~ s/^ready$//mr;
}

# [ statement, lines ] of a block
sub seen
{
	my ($text) = @_;
	my @seen;
	push @seen, [ $1, $2 ] while $text =~ /^(\S.*;)\n((?:[ ].*\n)*)/mg;
	return @seen;
}

# Those blocks need sessions that are open before it happens.
my %before = (connected => q(SELECT status FROM routed."TaskRun" WHERE id = :'new_id';), 'in-transaction' => q(BEGIN; UPDATE routed."TaskRun" SET status = status WHERE id = :'new_id';));
sub sessions_before
{
	my ($block) = @_;
	my ($kind) = $block->{place} =~ /^sees (connected|in-transaction)$/ or return;
	my $one;
	$block->{sessions} = [ map { $kind eq 'connected' ? open_session($before{$kind}) : ($one //= open_session($before{$kind})) } seen($block->{text}) ];
	return;
}

# --- small disks ---------------------------------------------------------------------------

my %namespace;    # of a server: the process in it
sub in_namespace { my ($place) = @_; return $namespace{$place} ? ('nsenter', '-U', '-m', '--preserve-credentials', '-t', $namespace{$place}{pid}) : () }

# Starts a server that sees a small disk in place of a folder, with what the folder has.
sub small_disk
{
	my ($place, $folder, $size) = @_;
	my $node = $node{$place};
	$node->stop;
	mkdir $folder;
	my ($in, $out) = ('', '');
	my $process = IPC::Run::start([ 'unshare', '-U', '-c', '-m', '--keep-caps', 'sh', '-c',
			'cp -a "$1" "$1.kept" && mount -t tmpfs -o size=$2 tmpfs "$1" && cp -a "$1.kept/." "$1" && rm -r "$1.kept" && echo $$ && exec cat', 'sh', $folder, $size ],
		'<', \$in, '>', \$out, IPC::Run::timeout(10 * $PostgreSQL::Test::Utils::timeout_default));
	$process->pump until $out =~ /^(\d+)$/m;
	$namespace{$place} = { pid => $1, process => $process, folder => $folder };
	system_or_bail(in_namespace($place), 'pg_ctl', '-w', '-D', $node->data_dir, '-l', $node->logfile, 'start');
	$node->_update_pid(1);
	return;
}
# cat ends when the disk is full, which is what is wanted
sub fill_rest { my ($place) = @_; return $node{$place}->safe_psql('postgres', "COPY (SELECT) TO PROGRAM 'cat /dev/zero >$namespace{$place}{folder}/other 2>/dev/null || true'") }
sub make_room { my ($place) = @_; return system_or_bail(in_namespace($place), 'rm', "$namespace{$place}{folder}/other") }
sub large_disk
{
	my ($place) = @_;
	my ($node, $folder) = ($node{$place}, $namespace{$place}{folder});
	$node->stop;
	system_or_bail(in_namespace($place), 'cp', '-a', $folder, "$folder.kept");
	delete($namespace{$place})->{process}->finish;
	system_or_bail('rm', '-r', $folder);
	rename "$folder.kept", $folder or die $!;
	$node->start;
	return;
}

# Of a server that has its WAL there; it does not come up again.
sub fill_wal
{
	my ($place) = @_;
	my $node = $node{$place};
	my $start = sub { return IPC::Run::run([ in_namespace($place), 'pg_ctl', '-w', '-D', $node->data_dir, '-l', $node->logfile, 'start' ], '>', \my $out, '2>&1') };
	small_disk($place, $node->data_dir . '/pg_wal', '48m');
	fill_rest($place);
	$node->psql('postgres', q(SELECT pg_logical_emit_message(false, 'x', repeat('x', 8000)) FROM generate_series(1, 10000)));
	my $tries = 0;
	Time::HiRes::usleep(100_000) while -e $node->data_dir . '/postmaster.pid' && $tries++ < 1800;
	ok(!$start->(), "$place: it does not start while the disk of pg_wal is full");
	$node->_update_pid(-1);
	return;
}

sub run_block
{
	my ($block, $name) = @_;
	my $place = $block->{place} || 'control-plane';
	my $text = $block->{text};
	my ($first) = $text =~ /^(.*)$/m;
	if ($block->{language} eq 'sh')
	{
		my $node = $node{$place} or die "no server is the $place";
		local $ENV{PGDATA} = $node->data_dir;
		local $ENV{TABLESPACE} = $node->basedir . '/small';
		local $ENV{LOG} = $node->logfile;
		my $out = '';
		# a process may end between pgrep and kill
		ok(IPC::Run::run([ in_namespace($place), 'sh', '-c', $text ], '>', \$out, '2>&1') || $out =~ /kill: No such process/, "$name: $first") or diag($out);
		$node->_update_pid(-1) if $text =~ /pg_ctl/;
		return $out;
	}
	$text =~ s/'new-primary.example', SET port '5432'/"'" . $node{store}->host . "', SET port '" . $node{store}->port . "'"/e;
	my $out = run_psql($node{$place} // die("no server is the $place"), $text);
	unlike($out, qr/ERROR|FATAL/, "$name: $first");
	return $out;
}
sub rehearse
{
	my ($section, %event) = @_;
	my ($name, $n, $printed) = ($section->{heading}, 0, '');
	sessions_before($_) foreach @{ $section->{blocks} };
	write_rows();
	$event{happens}->() if $event{happens};
	write_rows() unless $event{happens_to_control_plane};
	foreach my $block (@{ $section->{blocks} })
	{
		$event{before}{$n}->() if $event{before}{$n};
		$n++;
		if ($block->{place} =~ /^sees ?(.*)/)
		{
			my $node = $node{ !$1 || $1 =~ /^(connected|in-transaction)$/ ? 'control-plane' : $1 };
			foreach my $seen (seen($block->{text}))
			{
				my ($sql, $lines) = @$seen;
				my $session = shift @{ $block->{sessions} // [] };
				has_lines($session ? ask_session($session, $sql) : run_psql($node, $sql), $lines, "$name, $block->{place}: $sql");
			}
		}
		elsif ($block->{language} eq 'text')
		{
			has_lines($printed, $block->{text}, "$name: the output");
		}
		else
		{
			$printed = run_block($block, $name);
		}
	}
	$event{after}->() if $event{after};
	write_rows();
	none_is_lost($name);
	return;
}

# --- what happens -----------------------------------------------------------------------

sub standby_of
{
	my ($primary, $name) = @_;
	$primary->backup($name);
	my $standby = PostgreSQL::Test::Cluster->new($name);
	$standby->init_from_backup($primary, $name, has_streaming => 1);
	$standby->start;
	$primary->wait_for_catchup($standby);
	return $standby;
}
my $commits = HeldCommits->new($node{'control-plane'});
my $held;

# The table of runs on a disk that is full, of one server.
sub fill_disk
{
	my ($place, $prefix, $width) = @_;
	my $node = $node{$place};
	my $small = $node->basedir . '/small';
	small_disk($place, $small, '8m');
	$node->safe_psql('postgres', $_) foreach ("CREATE TABLESPACE small LOCATION '$small'", q(ALTER TABLE public."TaskRun" SET TABLESPACE small));
	# the rest of it, and of the last page
	fill_rest($place);
	$node->safe_psql('postgres', qq(DO \$\$ BEGIN FOR i IN 1 .. 1000 LOOP INSERT INTO public."TaskRun" VALUES ('$prefix' || lpad((i + 100000)::text, $width, '0'), 'x'); END LOOP;
		EXCEPTION WHEN disk_full THEN NULL; END \$\$));
	return;
}
sub empty_disk
{
	my ($place) = @_;
	make_room($place);
	write_rows();
	none_is_lost("there is room again in the $place");
	$node{$place}->safe_psql('postgres', $_) foreach (q(ALTER TABLE public."TaskRun" SET TABLESPACE pg_default), 'DROP TABLESPACE small');
	large_disk($place);
	return;
}

my %events = (
	'The store is down' => { happens => sub { $node{store}->stop('immediate') } },
	'The store is frozen' => {
		happens => sub {
			my $postmaster = (split /\n/, slurp_file($node{store}->data_dir . '/postmaster.pid'))[0];
			kill 'STOP', $postmaster, split /\n/, there('SELECT pid FROM pg_stat_activity');
		} },
	'The disk of the store is full' => {
		happens => sub { fill_disk('store', 'run_', 27) },
		after => sub {
			$acknowledged{ $variable{free_legacy_id} } = 1;
			empty_disk('store');
		} },
	'The WAL of the store has no space' => {
		happens => sub {
			there(q(SELECT pg_create_physical_replication_slot('forgotten', true)));
			fill_wal('store');
		},
		before => { 3 => sub { make_room('store') } },
		after => sub { large_disk('store') } },
	'The store was restarted' => { happens => sub { $node{store}->restart } },
	'The store failed over' => {
		happens => sub {
			$node{'store-standby'} = standby_of($node{store}, 'store_standby');
			write_rows();
			$node{store}->wait_for_catchup($node{'store-standby'});
			$node{store}->stop('immediate');
		},
		before => { 3 => sub { $node{store} = $node{'store-standby'} } } },
	'The control plane crashed' => {
		happens_to_control_plane => 1,
		happens => sub {
			$commits->hold;
			my @ids = (cuid(++$last_id), ksuid(++$last_id));
			my $session = open_session('');
			$session->{in} .= qq(BEGIN; INSERT INTO routed."TaskRun" VALUES ('$ids[0]'), ('$ids[1]'); COMMIT;\n);
			$session->{run}->pump_nb until here(q(SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep')) > 1;
			# it is on disk here
			@acknowledged{@ids} = (1, 1);
			$node{'control-plane'}->stop('immediate');
			$commits->forget;
		},
		before => {
			2 => sub {
				# a session that has "atomic" would finish what is left
				local $ENV{PGOPTIONS} = '-c run_ops_split.cross_store_writes=warn';
				my ($screen, $error) = run_command([ 'psql', '-Xq', '-v', 'color=off', '-d', $node{'control-plane'}->connstr('postgres'), '-f', 'observability/status.sql' ]);
				like($screen, qr/^ REMOTE    new: .*1 in doubt, prepared for \d\d:\d\d:\d\d$/m, 'the status screen shows what is left') or diag($error);
			} } },
	'The disk of the control plane is full' => {
		happens => sub { fill_disk('control-plane', 'run_c', 24) },
		after => sub {
			$acknowledged{ $variable{free_new_id} } = 1;
			empty_disk('control-plane');
		} },
	'The WAL of the control plane has no space' => {
		happens_to_control_plane => 1,
		happens => sub { fill_wal('control-plane') },
		before => { 3 => sub { make_room('control-plane') } },
		after => sub { large_disk('control-plane') } },
	'The control plane failed over' => {
		happens_to_control_plane => 1,
		happens => sub {
			$node{standby} = standby_of($node{'control-plane'}, 'standby');
			my $identity = $node{standby}->safe_psql('postgres', 'SELECT run_ops.server_identity()');
			here("SELECT run_ops.trust_standby('$identity')");
			write_rows();
			$node{'control-plane'}->wait_for_catchup($node{standby});
			$node{'control-plane'}->stop('immediate');
		},
		after => sub { $node{'control-plane'} = $node{standby} } },
	'A standby was promoted by mistake' => {
		happens => sub {
			$node{copy} = standby_of($node{'control-plane'}, 'copy');
			$node{copy}->promote;
		} },
	'A trusted standby was promoted by mistake' => {
		happens => sub {
			$node{trusted} = standby_of($node{'control-plane'}, 'trusted');
			my $identity = $node{trusted}->safe_psql('postgres', 'SELECT run_ops.server_identity()');
			here("SELECT run_ops.trust_standby('$identity')");
			$node{'control-plane'}->wait_for_catchup($node{trusted});
			$variable{promoted_at} = here('SELECT clock_timestamp()');
			$node{trusted}->promote;
			$variable{there_legacy_id} = here(q(SELECT 'run_' || run_ops.generate_cuid()));
		},
		before => {
			# a transaction between both phases
			5 => sub {
				$held = HeldCommits->new($node{trusted});
				$held->hold;
				@variable{ 'caught_new_id', 'caught_legacy_id' } = (ksuid(++$last_id), here(q(SELECT 'run_' || run_ops.generate_cuid())));
				my $session = open_session('', $node{trusted});
				$session->{in} .= q(BEGIN; INSERT INTO routed."TaskRun" VALUES (:'caught_legacy_id', 'PENDING'), (:'caught_new_id', 'PENDING'); COMMIT;) . "\n";
				$session->{run}->pump_nb until $node{trusted}->safe_psql('postgres', q(SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep')) > 1;
				$variable{prepared_name} = there('SELECT gid FROM pg_prepared_xacts');
				# a shutdown would finish it, a crash does not
				my ($pid) = $node{trusted}->safe_psql('postgres', q(SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query = 'COMMIT;'));
				kill 'KILL', $pid;
				$session->{run}->pump until $session->{out} =~ /connection to server was lost/;
				$node{trusted}->poll_query_until('postgres', 'SELECT true');
			},
			6 => sub { $held->forget } },
		after => sub {
			my @kept = @variable{ 'there_legacy_id', 'caught_legacy_id' };
			here(qq(INSERT INTO routed."TaskRun" VALUES ('$_', 'PENDING'))) foreach @kept;
			$acknowledged{$_} = 1 foreach (@kept, @variable{ 'there_new_id', 'caught_new_id' });
		} },
	'The control plane was restored' => {
		happens_to_control_plane => 1,
		happens => sub {
			$node{'control-plane'}->backup('nightly');
			my $dump = $node{'control-plane'}->backup_dir . '/dump';
			system_or_bail('pg_dump', '-Fc', '-f', $dump, $node{'control-plane'}->connstr('postgres'));
			my $id = ksuid(++$last_id);
			here(qq(INSERT INTO routed."TaskRun" VALUES ('$id')));
			$acknowledged{$id} = 1;
			$node{'control-plane'}->stop('immediate');
			$node{restored} = PostgreSQL::Test::Cluster->new('restored');
			$node{restored}->init_from_backup($node{'control-plane'}, 'nightly');
			$node{restored}->start;
			$node{dumped} = new_server('dumped');
			$node{dumped}->safe_psql('postgres', 'CREATE ROLE app');
			system_or_bail('pg_restore', '--exit-on-error', '-d', $node{dumped}->connstr('postgres'), $dump);
		},
		after => sub {
			is($node{dumped}->safe_psql('postgres', 'SELECT count(*) FROM routed."TaskRun"'), scalar keys %acknowledged, 'what was restored from a dump has all rows');
			$node{dumped}->stop;
			$node{'control-plane'} = $node{restored};
		} },
	'A migration ran on one side only' => {
		happens => sub { there('ALTER TABLE "TaskRun" RENAME status TO state') },
		before => { 3 => sub { here('ALTER TABLE public."TaskRun" RENAME status TO state') } },
		after => sub {
			$_->safe_psql('postgres', 'ALTER TABLE public."TaskRun" RENAME state TO status') foreach @node{ 'store', 'control-plane' };
			here(q(SELECT run_ops.refresh_table('routed."TaskRun"')));
			# what the page says of other migrations
			there('ALTER TABLE "TaskRun" ADD must int NOT NULL DEFAULT 1; ALTER TABLE "TaskRun" ALTER must DROP DEFAULT');
			has_lines(run_psql($node{'control-plane'}, q(INSERT INTO routed."TaskRun" VALUES (:'lost_id'))), 'ERROR:  23502: …', 'a column that the store has and must have');
			there('ALTER TABLE "TaskRun" DROP must');
			here(q(ALTER TYPE kind ADD VALUE 'batch'));
			has_lines(run_psql($node{'control-plane'}, q(INSERT INTO routed."TaskRun" VALUES (:'lost_id', '', 'batch'))), 'ERROR:  22P02: …', 'an enum label that the store lacks');
			there(q(ALTER TYPE kind ADD VALUE 'batch'));
		} },
	'An object is gone' => {
		happens => sub { here('SET session_replication_role = replica; SET client_min_messages = error; DROP FOREIGN TABLE run_ops_new."TaskRun" CASCADE') },
		before => { 4 => sub { is(here(q(SELECT has_table_privilege('app', 'routed."TaskRun"', 'SELECT'))), 'f', 'the new view has no grants') } },
		after => sub { is(here('SELECT count(*) FROM run_ops.check_split() WHERE ok IS NOT TRUE'), '0', 'every gate holds again') } },
	'The way back, now' => {},
	'Without the store' => {
		happens => sub {
			my $all = sub { here("DO \$\$ DECLARE finished boolean := false; BEGIN WHILE NOT finished LOOP SELECT done INTO finished FROM run_ops.$_[0](); COMMIT; END LOOP; END \$\$") };
			$all->('move_strays');
			here('SELECT run_ops.enable_split()');
			$all->('remove_leftovers');
			write_rows();
			$node{store}->stop('immediate');
		},
		before => { 1 => sub { write_rows(); $node{store}->start } } });

here(qq(INSERT INTO routed."TaskRun" VALUES ('$variable{$_}', 'EXECUTING'))), $acknowledged{ $variable{$_} } = 1 foreach ('new_id', 'legacy_id');
my @rehearsed;
# Not every container allows it.
my $tmpfs = IPC::Run::run([ 'unshare', '-U', '-c', '-m', '--keep-caps', 'sh', '-c', 'mount -t tmpfs tmpfs /tmp' ], '>', \my $denied, '2>&1');
foreach my $section (@sections)
{
	my $event = $events{ $section->{heading} };
	ok($event, "the page has a section that is rehearsed: $section->{heading}") or next;
	push @rehearsed, $section->{heading};
	if ($section->{heading} =~ /disk|no space/ && !$tmpfs)
	{
		diag "$section->{heading}: NOT rehearsed, because no tmpfs can be mounted: $denied";
		next;
	}
	my $start = time;
	rehearse($section, %$event);
	note sprintf '%s: %d s', $section->{heading}, time - $start;
}
is_deeply([ sort @rehearsed ], [ sort keys %events ], 'every event is on the page');
# the table at its head
foreach my $line ($page =~ /^\| .*\[.*$/mg)
{
	my ($heading, $anchor) = $line =~ /\[([^\]]+)\]\(#([\w-]+)\) \|$/ or next;
	is($anchor, lc($heading =~ s/[^\w -]//gr) =~ s/ /-/gr, "the link to $heading");
	ok((grep { $_ eq $heading } @rehearsed), "... leads to a section");
}

done_testing();

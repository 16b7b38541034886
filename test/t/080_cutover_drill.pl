# The cutover drill: eight clients work while the tables are attached, split
# mode goes on, shards are attached and drained, organizations flip and flip
# back, everything comes home, split goes off and on again, and servers, backends
# and connections fail all the time.
#
# Each client keeps a ledger outside the servers: what it is about to commit,
# and what was acknowledged.  In the end an acknowledged row is there once, as
# it was written last; a transaction whose commit was not acknowledged is there
# or not, as a whole where it touched one database.  Clients look at their own
# rows on the way as well, so that a row that is hidden for a while is seen.
#
# RUN_OPS_DRILL_SEED repeats a run's choices (the interleaving is the
# machine's), RUN_OPS_DRILL_CYCLES above 1 makes it longer, RUN_OPS_DRILL_SHARDS
# sets the number of shards beside store "new".
use strict;
use warnings;
use IPC::Open2;
use List::Util qw(shuffle);
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $seed = $ENV{RUN_OPS_DRILL_SEED} // int(rand(2**31));
my $cycles = $ENV{RUN_OPS_DRILL_CYCLES} // 1;
my $long = $cycles > 1;
my $faults_a_step = $long ? 2 : 1;
diag("RUN_OPS_DRILL_SEED=$seed");
srand($seed);

my $orgs = 4;
my $clients = 8;
my @shards = ('a' .. 'z')[ 0 .. ($ENV{RUN_OPS_DRILL_SHARDS} // 2) - 1 ];
# The columns that migrations add, one each; clients write the newest.
my @migrated = ('TaskRun', 'Waitpoint');

# --- the servers --------------------------------------------------------------

my $control_plane = PostgreSQL::Test::Cluster->new('control_plane');
my %store = map { $_ => PostgreSQL::Test::Cluster->new("store_$_") } 'new', @shards;
my @stores = map { $store{$_} } sort keys %store;
sub any_store { return $stores[ rand @stores ] }
foreach my $node ($control_plane, @stores)
{
	$node->init;
	$node->append_conf('postgresql.conf', q(
restart_after_crash = on
# a commit that takes a while is met by more faults
fsync = on
commit_delay = 6000
commit_siblings = 0
log_min_messages = warning
deadlock_timeout = '200ms'
));
	$node->start;
}
$control_plane->append_conf('postgresql.conf', q(
run_ops_split.mint_enabled = on
run_ops_split.mint_flip_grace = '200ms'
# a machine with much else to do makes transactions long
run_ops_split.swap_lock_timeout = '1s'
));
$control_plane->reload;

my $main = $$;
my $ledgers = $control_plane->basedir . '/ledgers';
mkdir $ledgers or die;
$_->safe_psql('postgres', '\i test/fixtures/store.sql') foreach @stores;
my $servers = join "\n", map {
	sprintf q(CREATE SERVER %s FOREIGN DATA WRAPPER run_ops_fdw OPTIONS (host '%s', port '%s', dbname 'postgres', connect_timeout '5'); CREATE USER MAPPING FOR CURRENT_USER SERVER %1$s;),
	  $_, $store{$_}->host, $store{$_}->port
} sort keys %store;
$control_plane->safe_psql('postgres', qq(
	\\i test/fixtures/control_plane.sql
	INSERT INTO "Organization" (id, slug, title, "updatedAt") SELECT 'org' || n, n, n, now() FROM generate_series(0, $orgs - 1) AS n;
	INSERT INTO "Project" (id, name, "organizationId", "updatedAt", slug, "externalRef")
	  SELECT 'project' || n, n, 'org' || n % $orgs, now(), n, n FROM generate_series(0, $clients - 1) AS n;
	INSERT INTO "RuntimeEnvironment" (id, slug, "apiKey", "organizationId", "updatedAt", "projectId", "pkApiKey", shortcode)
	  SELECT 'env' || n, n, n, 'org' || n % $orgs, now(), 'project' || n, n, n FROM generate_series(0, $clients - 1) AS n;
	SET client_min_messages = warning;
	CREATE EXTENSION run_ops_split CASCADE;
	$servers
	CREATE PROCEDURE all_batches(call text) LANGUAGE plpgsql AS \$\$
	DECLARE complete boolean;
	BEGIN
	  -- done before, by a call whose answer was lost
	  IF (SELECT superseded FROM run_ops.split_state) <> (call = 'move_strays') THEN
	    RETURN;
	  END IF;
	  LOOP
	    -- clients delete runs, and this store loses nothing
	    EXECUTE format('SELECT done FROM run_ops.%I(100%s)', call, CASE call WHEN 'remove_leftovers' THEN ', deleted => true' END) INTO complete;
	    COMMIT;
	    EXIT WHEN complete;
	  END LOOP;
	END \$\$));

# --- a client -----------------------------------------------------------------

# A client is a process of its own with one psql, which goes away with the
# first error, as a connection would.
package Client
{
	use IPC::Open2;
	use List::Util qw(shuffle);
	use Time::HiRes qw(sleep time);

	sub new
	{
		my ($class, $n) = @_;
		open my $ledger, '>>', "$ledgers/$n" or die;
		$ledger->autoflush(1);
		return bless {
			n => $n, env => "env$n", project => "project$n", ledger => $ledger, transaction => 0,
			run => {}, limit => undef, branch => {}, maybe => {}, lines => [] }, $class;
	}

	sub note_down { my ($self, @fields) = @_; print { $self->{ledger} } join("\t", @fields) . "\n"; return }

	# Runs SQL; returns its lines, or nothing after an error.  An error that no
	# fault explains goes to the ledger.
	sub sql
	{
		my ($self, $sql) = @_;
		local $SIG{PIPE} = 'IGNORE';
		if (!$self->{pid})
		{
			$self->{pid} = open2($self->{out}, $self->{in}, 'sh', '-c', 'exec psql -XAt -v ON_ERROR_STOP=1 "$0" 2>&1',
				$control_plane->connstr('postgres') . ' application_name=drill');
			$self->{in}->autoflush(1);
			my $timeout = rand() < 0.2 ? 5 + int(rand(30)) : 0;
			$sql = "\\set VERBOSITY verbose\nSET client_min_messages = error;SET search_path = run_ops, public;"
			  . "SET statement_timeout = $timeout;\n$sql";
		}
		print { $self->{in} } "$sql\n\\echo END\n";
		my @lines;
		local $SIG{ALRM} = sub { die "alarm\n" };
		eval {
			alarm 120;
			while (defined(my $line = readline $self->{out}))
			{
				chomp $line;
				last if $line eq 'END';
				push @lines, $line;
			}
			alarm 0;
			1;
		} or do { $self->note_down('unexpected', 'no answer', $sql =~ s/\s+/ /gr); kill 'KILL', $self->{pid} };
		$self->{lines} = \@lines;
		my ($error) = grep { /(ERROR|FATAL|PANIC|psql:|connection|SSL)/ } @lines;
		return @lines if !defined $error && !eof_of($self);
		close $self->{in};
		close $self->{out};
		waitpid $self->{pid}, 0;
		delete $self->{pid};
		$error //= 'psql ended';
		$self->note_down('unexpected', $error, $sql =~ s/\s+/ /gr) unless expected_error("@lines");
		sleep rand(0.1);
		return;
	}

	# psql that is gone has its end closed; nothing else is waiting to be read
	sub eof_of
	{
		my ($self) = @_;
		my $bits = '';
		vec($bits, fileno $self->{out}, 1) = 1;
		return select($bits, undef, undef, 0) > 0 && eof $self->{out};
	}

	sub expected_error
	{
		my ($text) = @_;
		return $text =~ /\b(57P0[123]|57014|40001|40P01|08\w{3}|HV00N|25P0\d)\b|psql ended|psql: error|could not (connect|establish)|server closed|terminated|terminating connection|connection to server|no connection to the server|connection not open|SSL|invalid socket/;
	}

	# What is about to be committed is written down before, what was
	# acknowledged after.  "changes" are [table, key, value], an undefined value
	# meaning that the row is gone; "one" tells that one database holds them.
	sub transaction
	{
		my ($self, $one, $sql, $tags, @changes) = @_;
		my $id = "$self->{n}." . ++$self->{transaction};
		$self->note_down('try', $id, $one, map { join ' ', $_->[0], $_->[1], $_->[2] // 'gone' } @changes);
		my @lines = $self->sql("BEGIN;\n$sql\n\\echo COMMITTING\nCOMMIT;");
		my $acknowledged = @lines && $lines[-1] eq 'COMMIT';
		my $sent = grep { $_ eq 'COMMITTING' } @{ $self->{lines} };
		$self->note_down($acknowledged ? 'ack' : $sent ? 'maybe' : 'rolled back', $id);
		my $seen = join ',', grep { /^(INSERT|UPDATE|DELETE) / } @{ $self->{lines} };
		$self->note_down('unexpected', "$seen instead of $tags", $sql =~ s/\s+/ /gr) if $sent && $seen ne $tags;
		return ($acknowledged, $sent && !$acknowledged);
	}

	sub one_of { my (%h) = @_; my @keys = sort keys %h; return $keys[ rand @keys ] }

	sub mint
	{
		my ($self, $function, $parent, $n) = @_;
		my $of = $parent ? "'$parent'" : 'NULL';
		my @ids = $self->sql("SELECT (run_ops.$function('$self->{env}', $of)).id FROM generate_series(1, $n);");
		return grep { /^\w+$/ && $_ ne 'SET' } @ids;
	}

	sub cuid { my ($self) = @_; return sprintf 'c%02d%022d', $self->{n}, ++$self->{cuids} }

	sub column
	{
		my ($i) = reverse grep { -e "$ledgers/column.$_" } 1 .. 20;
		return $i ? "extra_$i" : undef;
	}

	sub run_row { my ($self, $id, @rest) = @_; return "('$id', 'run_$id', 'drill', '{}', 't', 's', 'q', '$self->{env}', '$self->{project}', now(), " . join(', ', @rest) . ')' }

	my $run_columns = '(id, "friendlyId", "taskIdentifier", payload, "traceId", "spanId", queue, "runtimeEnvironmentId", "projectId", "updatedAt", number';

	sub snapshot
	{
		my ($self, $id, $run) = @_;
		return qq[INSERT INTO "TaskRunExecutionSnapshot" (id, "executionStatus", description, "runId", "runStatus", "updatedAt",
			"environmentId", "environmentType", "organizationId", "projectId")
			VALUES ('$id', 'RUN_CREATED', '', '$run', 'PENDING', now(), '$self->{env}', 'PRODUCTION', 'org', '$self->{project}');];
	}

	# a run with its first snapshot and what waits for it
	sub create
	{
		my ($self) = @_;
		my ($run) = $self->mint('mint_run_id', undef, 1) or return;
		my ($snapshot, $waitpoint, $edge) = map { $self->cuid } 1 .. 3;
		my ($acknowledged, $maybe) = $self->transaction(1,
			qq[INSERT INTO "TaskRun" $run_columns) VALUES ] . $self->run_row($run, 0) . ';' . $self->snapshot($snapshot, $run)
			  . qq[INSERT INTO "Waitpoint" (id, "friendlyId", type, "idempotencyKey", "userProvidedIdempotencyKey", "projectId", "environmentId",
				"updatedAt", "completedByTaskRunId", output)
				VALUES ('$waitpoint', '$waitpoint', 'RUN', '$waitpoint', false, '$self->{project}', '$self->{env}', now(), '$run', '0');
				INSERT INTO "TaskRunWaitpoint" (id, "taskRunId", "waitpointId", "projectId", "updatedAt")
				VALUES ('$edge', '$run', '$waitpoint', '$self->{project}', now());],
			'INSERT 0 1,INSERT 0 1,INSERT 0 1,INSERT 0 1',
			[ 'TaskRun', $run, '0' ], [ 'TaskRunExecutionSnapshot', $snapshot, '-' ], [ 'Waitpoint', $waitpoint, '0' ], [ 'TaskRunWaitpoint', $edge, '-' ]);
		$self->{run}{$run} = { n => 0, extra => {}, snapshots => [$snapshot], waitpoint => $waitpoint, edge => $edge } if $acknowledged;
		$self->{maybe}{$run} = 1 if $maybe;
		return;
	}

	# a batch with its children and items
	sub children
	{
		my ($self) = @_;
		my $parent = one_of(%{ $self->{run} }) or return;
		my ($batch) = $self->mint('mint_batch_id', $parent, 1) or return;
		my @runs = $self->mint('mint_run_id', $batch, 2 + int(rand(6))) or return;
		my %item = map { $_ => $self->cuid } @runs;
		my $n = @runs;
		my $column = column();
		my ($acknowledged, $maybe) = $self->transaction(1,
			qq[INSERT INTO "BatchTaskRun" (id, "friendlyId", "runtimeEnvironmentId", "runCount", "updatedAt")
				VALUES ('$batch', '$batch', '$self->{env}', $n, now());
				INSERT INTO "TaskRun" $run_columns] . ($column ? ", $column" : '') . ') VALUES '
			  . join(', ', map { $self->run_row($_, 0, $column ? 1 : ()) } @runs)
			  . q[; INSERT INTO "BatchTaskRunItem" (id, "batchTaskRunId", "taskRunId", "updatedAt") VALUES ]
			  . join(', ', map { "('$item{$_}', '$batch', '$_', now())" } @runs) . ';',
			"INSERT 0 1,INSERT 0 $n,INSERT 0 $n",
			[ 'BatchTaskRun', $batch, $n ], map { ([ 'TaskRun', $_, $column ? "0 $column=1" : '0' ], [ 'BatchTaskRunItem', $item{$_}, '-' ]) } @runs);
		foreach my $run (@runs)
		{
			$self->{run}{$run} = { n => 0, extra => { $column ? ($column => 1) : () }, snapshots => [], item => $item{$run} } if $acknowledged;
			$self->{maybe}{$run} = 1 if $maybe;
		}
		return;
	}

	sub value { my ($run) = @_; return join ' ', $run->{n}, map { "$_=$run->{extra}{$_}" } sort keys %{ $run->{extra} } }

	# the next state of a run: run, snapshot and waitpoint together
	sub update
	{
		my ($self) = @_;
		my $id = one_of(%{ $self->{run} }) or return;
		my $run = $self->{run}{$id};
		my $snapshot = $self->cuid;
		my $column = column();
		my $n = $run->{n} + 1;
		my $next = { %$run, n => $n, extra => { %{ $run->{extra} }, $column ? ($column => $n) : () }, snapshots => [ @{ $run->{snapshots} }, $snapshot ] };
		my $sql = qq[UPDATE "TaskRun" SET number = $n, status = 'EXECUTING'] . ($column ? ", $column = $n" : '')
		  . qq[ WHERE id = '$id';] . $self->snapshot($snapshot, $id);
		my $tags = 'UPDATE 1,INSERT 0 1';
		my @changes = ([ 'TaskRun', $id, value($next) ], [ 'TaskRunExecutionSnapshot', $snapshot, '-' ]);
		my $one = 1;
		if ($run->{waitpoint})
		{
			$sql .= qq[UPDATE "Waitpoint" SET output = '$n', status = 'COMPLETED' WHERE id = '$run->{waitpoint}';];
			$tags .= ',UPDATE 1';
			push @changes, [ 'Waitpoint', $run->{waitpoint}, $n ];
		}
		if (rand() < 0.2 && defined $self->{limit})
		{
			# of two databases: each of them may have done its part
			$one = 0;
			$sql .= $self->set_limit($self->{limit} + 1);
			$tags .= ',UPDATE 1';
			push @changes, [ 'RuntimeEnvironment', $self->{env}, $self->{limit} + 1 ];
		}
		my ($acknowledged, $maybe) = $self->transaction($one, $sql, $tags, @changes);
		$self->{run}{$id} = $next if $acknowledged;
		$self->{limit}++ if $acknowledged && !$one;
		delete $self->{run}{$id}, $self->{maybe}{$id} = 1 if $maybe;
		$self->{limit} = undef if $maybe && !$one;
		return;
	}

	sub remove
	{
		my ($self) = @_;
		my $id = one_of(%{ $self->{run} }) or return;
		my $run = $self->{run}{$id};
		my $n = @{ $run->{snapshots} };
		my $sql = qq[DELETE FROM "TaskRunExecutionSnapshot" WHERE "runId" = '$id';];
		my $tags = "DELETE $n";
		my @changes = map { [ 'TaskRunExecutionSnapshot', $_ ] } @{ $run->{snapshots} };
		if ($run->{edge})
		{
			$sql .= qq[DELETE FROM "TaskRunWaitpoint" WHERE "taskRunId" = '$id'; DELETE FROM "Waitpoint" WHERE id = '$run->{waitpoint}';];
			$tags .= ',DELETE 1,DELETE 1';
			push @changes, [ 'TaskRunWaitpoint', $run->{edge} ], [ 'Waitpoint', $run->{waitpoint} ];
		}
		if ($run->{item})
		{
			$sql .= qq[DELETE FROM "BatchTaskRunItem" WHERE "taskRunId" = '$id';];
			$tags .= ',DELETE 1';
			push @changes, [ 'BatchTaskRunItem', $run->{item} ];
		}
		my ($acknowledged, $maybe) =
		  $self->transaction(1, $sql . qq[DELETE FROM "TaskRun" WHERE id = '$id';], "$tags,DELETE 1", @changes, [ 'TaskRun', $id ]);
		delete $self->{run}{$id} if $acknowledged || $maybe;
		$self->{maybe}{$id} = 1 if $maybe;
		return;
	}

	sub set_limit { my ($self, $n) = @_; return qq[UPDATE "RuntimeEnvironment" SET "maximumConcurrencyLimit" = $n WHERE id = '$self->{env}';] }

	# the environment, and a branch of it that comes or goes
	sub environment
	{
		my ($self) = @_;
		my $n = $self->{limits}++ + 100;
		my ($acknowledged, $maybe) = $self->transaction(1, $self->set_limit($n), 'UPDATE 1', [ 'RuntimeEnvironment', $self->{env}, $n ]);
		$self->{limit} = $acknowledged ? $n : undef if $acknowledged || $maybe;
		my $branch = one_of(%{ $self->{branch} });
		if ($branch && rand() < 0.4)
		{
			($acknowledged, $maybe) = $self->transaction(1, qq[DELETE FROM "RuntimeEnvironment" WHERE id = '$branch';], 'DELETE 1', [ 'RuntimeEnvironment', $branch ]);
			delete $self->{branch}{$branch} if $acknowledged || $maybe;
			return;
		}
		$branch = $self->cuid;
		($acknowledged) = $self->transaction(1,
			qq[INSERT INTO "RuntimeEnvironment" (id, slug, "apiKey", "organizationId", "updatedAt", "projectId", "pkApiKey", shortcode, "parentEnvironmentId", "maximumConcurrencyLimit")
				SELECT '$branch', '$branch', '$branch', "organizationId", now(), "projectId", '$branch', '$branch', id, 5 FROM "RuntimeEnvironment" WHERE id = '$self->{env}';],
			'INSERT 0 1', [ 'RuntimeEnvironment', $branch, 5 ]);
		$self->{branch}{$branch} = 1 if $acknowledged;
		return;
	}

	# What this client knows is there, as it knows it, once.
	sub look
	{
		my ($self) = @_;
		my @seen = $self->sql(qq[SELECT 'run ' || id || ' ' || number FROM "TaskRun" WHERE "runtimeEnvironmentId" = '$self->{env}';]) or return;
		my %times;
		$times{$_}++ foreach grep { /^run / } @seen;
		foreach my $id (keys %{ $self->{run} })
		{
			my $n = delete $times{"run $id $self->{run}{$id}{n}"} // 0;
			$self->note_down('unexpected', "run $id is there $n times", 'list') if $n != 1;
		}
		foreach my $line (keys %times)
		{
			my ($id) = $line =~ /^run (\S+)/;
			$self->note_down('unexpected', "$line is there $times{$line} times", 'list') unless $self->{maybe}{$id} && $times{$line} == 1;
		}
		my $id = one_of(%{ $self->{run} }) or return;
		my $run = $self->{run}{$id};
		my $one = $self->sql(qq[SELECT 'one ' || r.number || ' ' || count(DISTINCT s.id) || ' ' || count(s.id) || ' ' || count(DISTINCT e.id) || ' ' || count(DISTINCT w.output)
			FROM "TaskRun" AS r LEFT JOIN "TaskRunExecutionSnapshot" AS s ON s."runId" = r.id
			LEFT JOIN "TaskRunWaitpoint" AS e ON e."taskRunId" = r.id LEFT JOIN "Waitpoint" AS w ON w.id = e."waitpointId"
			WHERE r.id = '$id' GROUP BY r.id, r.number;]);
		my ($seen) = grep { /^one / } @{ $self->{lines} };
		my $snapshots = @{ $run->{snapshots} };
		my $edges = $run->{edge} ? 1 : 0;
		$self->note_down('unexpected', ($seen // 'nothing') . " instead of one $run->{n} $snapshots $snapshots $edges $edges of $id", 'join')
		  if $one && ($seen // '') ne "one $run->{n} $snapshots $snapshots $edges $edges";
		if (defined $self->{limit} && -e "$ledgers/attached")
		{
			my ($limit) = grep { /^limit / } $self->sql(qq[SELECT 'limit ' || maximum_concurrency_limit FROM run_ops.resolve_env('$self->{env}');]);
			$self->note_down('unexpected', "$limit instead of $self->{limit}", 'cache') if $limit && $limit ne "limit $self->{limit}";
		}
		return;
	}

	sub work
	{
		my ($self) = @_;
		my @work = ((map { 'create' } 1 .. 4), 'children', (map { 'update' } 1 .. 5), 'remove', 'remove', 'environment', 'look', 'look');
		while (!-e "$ledgers/stop" && getppid == $main)
		{
			my $what = $work[ rand @work ];
			$self->$what;
			sleep 0.01 + rand(0.03);
		}
		return;
	}
}

my @pids;
foreach my $n (0 .. $clients - 1)
{
	my $pid = fork // die;
	if (!$pid)
	{
		srand($seed * 100 + $n);
		eval { Client->new($n)->work; 1 } or do { open my $f, '>>', "$ledgers/$n"; print $f "unexpected\tclient died\t$@\n" };
		POSIX::_exit(0);
	}
	push @pids, $pid;
}

# --- faults ---------------------------------------------------------------------

sub poll
{
	my ($node, $sql) = @_;
	foreach (1 .. 1800) { return if try_sql($node, $sql) eq 't'; sleep 0.1 }
	die $node->name . " never says: $sql";
}
sub answers { my ($node) = @_; poll($node, 'SELECT true'); return }

# psql() dies when the connection is lost
sub try_psql
{
	my ($node, $sql) = @_;
	my @result = eval { $node->psql('postgres', $sql, on_error_stop => 1) };
	return @result ? @result : (2, '', "psql: error: $@");
}

sub try_sql { my ($ret, $out) = try_psql(@_); return $ret ? '' : $out }

my $added = 0;
my %faults = (
	'store stopped' => sub { my $store = any_store(); $store->stop('immediate'); sleep rand(0.4); $store->start },
	'backend killed' => sub {
		my $pid = try_sql($control_plane, q(SELECT pid FROM pg_stat_activity WHERE application_name IN ('drill', 'operator') AND state = 'active'
			AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1)) || try_sql($control_plane, q(SELECT pid FROM pg_stat_activity WHERE application_name = 'drill' LIMIT 1));
		kill 'KILL', $pid if $pid;
		answers($control_plane);
	},
	'control plane crashed' => sub { $control_plane->stop('immediate'); $control_plane->start },
	'connections cut here' => sub {
		try_sql($control_plane, q(SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name IN ('drill', 'operator') AND random() < 0.6));
	},
	'connections cut there' => sub {
		try_sql(any_store(), q(SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND random() < 0.6));
	},
	'statement cancelled' => sub {
		try_sql($control_plane, q(SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE application_name IN ('drill', 'operator') AND random() < 0.6));
	},
	'migration' => sub {
		my $i = ++$added;
		foreach my $node (shuffle $control_plane, @stores)
		{
			until_done($node, join ';', 'SET lock_timeout = 1000', map { qq[ALTER TABLE public."$_" ADD COLUMN IF NOT EXISTS extra_$i int DEFAULT 0] } @migrated);
		}
		until_done($control_plane, qq[SET lock_timeout = 300; SELECT run_ops.refresh_table('run_ops."$_"') FROM run_ops.routed_table WHERE view = 'run_ops."$_"'::regclass])
		  foreach grep { try_sql($control_plane, qq[SELECT to_regclass('run_ops."$_"')]) } @migrated;
		open my $f, '>', "$ledgers/column.$i";
	});

# The operator may meet a migration that is done on one side only, and gates
# that fail because the store does not answer.
sub expected_here { my ($err) = @_; return Client::expected_error($err) || $err =~ /\b55P03\b|(42703|RO00[23]).*extra_\d|RO003.*(reachable \w+|not checked): /s }

my @complaints;
sub until_done
{
	my ($node, $sql, $tries) = @_;
	my $error = '';
	foreach my $try (1 .. $tries // 100)
	{
		my ($ret, $out, $err) = try_psql($node, "\\set VERBOSITY verbose\n$sql");
		return $out if !$ret;
		$error = $err;
		last unless expected_here($err);
		sleep 0.1;
	}
	die "not done: $sql\n$error";
}

# The operator's next step runs while a fault happens, and is tried again
# until it is done.
my @bag;
my %happened;
my $stuck;
sub step
{
	my ($what, $sql, $how_many) = @_;
	return if $stuck;
	foreach my $fault (1 .. $how_many)
	{
		@bag = shuffle sort keys %faults unless @bag;
		my $name = shift @bag;
		my $timeout = rand() < 0.3 ? 50 + int(rand(400)) : 0;
		# a file: a server that is started meanwhile would inherit a pipe
		my $file = "$ledgers/step.sql";
		unlink $file;
		append_to_file($file, "SET statement_timeout = $timeout;\n$sql;\n");
		my ($out, $err) = ('', '');
		my $psql = IPC::Run::start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-v', 'VERBOSITY=verbose', '-f', $file,
			'-d', $control_plane->connstr('postgres') . ' application_name=operator' ],
			'<', '/dev/null', '>', \$out, '2>', \$err, IPC::Run::timeout(180));
		sleep rand(0.5);
		note(sprintf '%.1f s: %s while: %s', time - $^T, $name, $what);
		$faults{$name}->();
		$happened{$name}++;
		$psql->finish;
		push @complaints, "$what: $err" if $err =~ /ERROR|FATAL/ && !expected_here($err);
	}
	eval { until_done($control_plane, $sql, 40); 1 } or push(@complaints, "$what: $@"), $stuck = 1;
	sleep 0.3 + rand(0.5);
	return;
}

# --- the drill --------------------------------------------------------------------

sleep 1;
my $flip = q[UPDATE "Organization" SET "featureFlags" = %s WHERE id = 'org%d'];
step('attach', q[
	SELECT run_ops.attach_store('new', 'new') WHERE NOT EXISTS (SELECT FROM run_ops.store WHERE name = 'new');
	SELECT count(*) FROM run_ops.attach_all_tables();
	SELECT run_ops.attach_control_plane('public') WHERE NOT EXISTS (SELECT FROM run_ops.control_plane);
	SELECT run_ops.configure_split(opted_in => true, native_realtime => true)], $faults_a_step);
append_to_file("$ledgers/attached", '');
# What the gates say, followed.  A store that a fault has made unreachable says
# nothing of its indexes: tried again, rather than enabled with nothing
# acknowledged.
my $gates = q[DO $$ DECLARE g run_ops.gate; BEGIN
	FOR g IN SELECT * FROM run_ops.check_split() WHERE ok IS NOT TRUE LOOP
	  IF g.ok IS NULL OR g.gate = 'reachable' THEN
	    RAISE EXCEPTION '%', g.detail USING ERRCODE = '08006';
	  ELSIF g.gate IN ('index', 'guard', 'foreign key') THEN
	    PERFORM run_ops.acknowledge(g.gate, g.object, 'known');
	  ELSIF g.gate = 'refreshed' THEN
	    EXECUTE g.hint;
	  END IF;
	END LOOP;
END $$;];
foreach my $cycle (1 .. $cycles + 1)
{
	step("enable $cycle", "CALL all_batches('move_strays'); $gates SELECT run_ops.enable_split()", $faults_a_step);
	step("attach shard $_", "SELECT run_ops.attach_store('$_', '$_') WHERE NOT EXISTS (SELECT FROM run_ops.store WHERE name = '$_')", 1) foreach $cycle == 1 ? @shards : ();
	until_done($control_plane, sprintf q(SELECT run_ops.set_mint_shards('%s')), join ',', @shards) if @shards;
	# sometimes late, when rows are to come home
	step("remove leftovers $cycle", "CALL all_batches('remove_leftovers')", $faults_a_step) if $cycle > $cycles || rand() < 0.5;
	# each kind of NEW ids: only runOpsIds name a shard
	step("flip org$_", sprintf($flip, sprintf(q('{"runOpsMintKind": "%s"}'), $_ % 2 ? 'ksuid' : 'runOpsId'), $_), 1)
	  foreach $long ? (shuffle 0 .. $orgs - 1) : (2 * int(rand($orgs / 2)), 2 * int(rand($orgs / 2)) + 1);
	last if $cycle > $cycles;
	step("flip org$_ back", sprintf($flip, q('{"runOpsMintKind": "cuid"}'), $_), 1) foreach (shuffle 0 .. $orgs - 1)[ 0 .. ($long ? 1 : 0) ];
	until_done($control_plane, sprintf q(SELECT run_ops.set_mint_shards('%s')), join ',', @shards[ 1 .. $#shards ]) if @shards;
	step("repatriate $cycle", q[CALL all_batches('remove_leftovers'); CALL all_batches('repatriate')], $faults_a_step);
	step("disable $cycle", 'SELECT run_ops.disable_split(repatriated => true)', $faults_a_step);
}
note("$_: $happened{$_} times") foreach sort keys %happened;

# however slow the machine is, what is compared afterwards has rows in every store
my $in_new = q(SELECT count(*) FROM run_ops_new."TaskRun");
my $in_shards = 'SELECT sum(n) FROM (' . join(' UNION ALL ', map { qq(SELECT count(*) AS n FROM run_ops_$_."TaskRun") } @shards) . ') AS s';
if (!$stuck)
{
	poll($control_plane, "SELECT ($_) > 20") foreach $in_new, @shards ? $in_shards : ();
}

open my $stop, '>', "$ledgers/stop";
waitpid $_, 0 foreach @pids;
answers($_) foreach ($control_plane, @stores);
# a commit that was on its way when its client went away
poll($_, q(SELECT NOT EXISTS (SELECT FROM pg_stat_activity
	WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()))) foreach ($control_plane, @stores);

# --- the ledgers --------------------------------------------------------------------

my %known;       # table key => value, undefined: gone
my %maybe;       # table key => { possible value => 1 }
my @in_doubt;    # changes of one transaction, all or none
my (@unexpected, %count);
foreach my $n (0 .. $clients - 1)
{
	my %tried;
	open my $ledger, '<', "$ledgers/$n" or die;
	while (my $line = <$ledger>)
	{
		chomp $line;
		my ($what, $id, @rest) = split /\t/, $line;
		$count{$what}++;
		if ($what eq 'unexpected') { push @unexpected, "client $n: $id ($rest[0])" }
		elsif ($what eq 'try') { $tried{$id} = \@rest }
		else
		{
			my ($one, @changes) = @{ delete $tried{$id} };
			my @rows;
			foreach (@changes)
			{
				my ($table, $key, $value) = split / /, $_, 3;
				my $row = "$table $key";
				$value = undef if $value eq 'gone';
				push @rows, [ $row, $known{$row}, $value ];
				if ($what eq 'maybe')
				{
					$maybe{$row} //= { ($known{$row} // 'gone') => 1 };
					$maybe{$row}{ $value // 'gone' } = 1;
				}
				elsif ($what eq 'ack') { delete $maybe{$row}; $known{$row} = $value }
			}
			push @in_doubt, \@rows if $what eq 'maybe' && $one;
		}
	}
	# killed at work by the end of the test: there is nothing of the kind
	push @unexpected, map { "client $n: $_ has no outcome" } keys %tried;
}
note("$_: $count{$_}") foreach sort keys %count;

sub compare
{
	my ($when) = @_;
	my (%there, @wrong);
	my $extras = join '', map { ", extra_$_" } 1 .. $added;
	foreach my $query (
		qq[SELECT 'TaskRun', id, number$extras FROM run_ops."TaskRun"], q[SELECT 'Waitpoint', id, output FROM run_ops."Waitpoint"],
		q[SELECT 'TaskRunExecutionSnapshot', id, '-' FROM run_ops."TaskRunExecutionSnapshot"], q[SELECT 'TaskRunWaitpoint', id, '-' FROM run_ops."TaskRunWaitpoint"],
		q[SELECT 'BatchTaskRun', id, "runCount" FROM run_ops."BatchTaskRun"], q[SELECT 'BatchTaskRunItem', id, '-' FROM run_ops."BatchTaskRunItem"],
		q[SELECT 'RuntimeEnvironment', id, "maximumConcurrencyLimit" FROM public."RuntimeEnvironment"])
	{
		foreach (split /\n/, $control_plane->safe_psql('postgres', $query))
		{
			my ($table, $id, $value, @extra) = split /\|/;
			$value = join ' ', $value, map { "extra_$_=$extra[$_ - 1]" } sort { "extra_$a" cmp "extra_$b" } grep { $extra[ $_ - 1 ] } 1 .. @extra;
			push @wrong, "$table $id is doubled" if exists $there{"$table $id"};
			$there{"$table $id"} = $value;
		}
	}
	foreach my $row (sort keys %known, keys %there)
	{
		my $is = $there{$row} // 'gone';
		my $should = $maybe{$row} ? join(' or ', sort keys %{ $maybe{$row} }) : $known{$row} // 'gone';
		# an environment that nobody has written to yet
		next if $row =~ /^RuntimeEnvironment env/ && !exists $known{$row};
		push @wrong, "$row is $is instead of $should" unless $maybe{$row} ? $maybe{$row}{$is} : $is eq $should;
	}
	foreach my $rows (@in_doubt)
	{
		my @sides = map { my ($row, $before, $after) = @$_; my $is = $there{$row} // 'gone';
			$maybe{$row} && ($before // 'gone') ne ($after // 'gone') ? ($is eq ($after // 'gone') ? 'done' : 'not done') : () } @$rows;
		push @wrong, 'half a transaction: ' . join(', ', map { $_->[0] . ' ' . ($there{ $_->[0] } // 'gone') } @$rows)
		  if (grep { $_ eq 'done' } @sides) && (grep { $_ eq 'not done' } @sides);
	}
	is(scalar @wrong, 0, "$when: every row as its client knows it") or diag(join "\n", @wrong[ 0 .. ($#wrong < 20 ? $#wrong : 20) ]);
	return;
}

is(scalar @complaints, 0, 'the operator met no error but those of the faults') or diag(join "\n", @complaints);
is(scalar @unexpected, 0, 'nor did the clients') or diag(join "\n", @unexpected[ 0 .. ($#unexpected < 20 ? $#unexpected : 20) ]);
cmp_ok($count{ack} // 0, '>', 500, 'clients worked');
is($control_plane->safe_psql('postgres', 'SELECT run_ops.split_enabled()'), 't', 'split is on');
cmp_ok($control_plane->safe_psql('postgres', $in_new), '>', 0, 'with runs in store "new"');
cmp_ok($control_plane->safe_psql('postgres', $in_shards), '>', 0, 'and in the shards') if @shards;
compare('split on');
until_done($control_plane, q[CALL all_batches('remove_leftovers')], 1);
is($control_plane->safe_psql('postgres', q(SELECT string_agg(format('%s %s', t.view, s), ', ') FROM run_ops.routed_table AS t, run_ops.find_strays(t.view) AS s)),
	'', 'no stray');
until_done($control_plane, q[CALL all_batches('repatriate'); SELECT run_ops.disable_split(repatriated => true)], 1);
compare('split off');

done_testing();

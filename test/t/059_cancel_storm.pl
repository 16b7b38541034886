# Cancels at any moment, and connections to the store that break: no answer is
# wrong, and each store has the whole of a transaction or nothing.
#
# Sessions run random transactions over rows of both stores, while others cancel
# them and end the processes of the store that serve them.  A transaction adds
# amounts to counters and writes a line into a ledger for each, after a line for
# itself in each store.  So afterwards the ledger tells which transactions have
# been committed in a store, and what the counters and the ledger must be.  Each
# answer is compared with what the session has done before.
#
# RUN_OPS_SEED repeats the statements, not the moments.  RUN_OPS_STORM is how many
# seconds it takes.
use strict;
use warnings;
use IPC::Run;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use FindBin;
use lib $FindBin::RealBin;
use SplitServers;

my $seed = $ENV{RUN_OPS_SEED} // int(rand(1_000_000));
my $seconds = $ENV{RUN_OPS_STORM} // 40;
my $workers = 4;
note "RUN_OPS_SEED=$seed repeats the statements";

my ($control_plane, $store) = split_servers(conf => 'max_prepared_transactions = 20');
$store->append_conf('postgresql.conf', 'max_prepared_transactions = 20');
$store->restart;
my %server = (L => $control_plane, N => $store);
my %shape = (L => \&cuid, N => \&ksuid);
sub pick { return $_[ rand @_ ] }
my $rows = 3000;
$_->safe_psql('postgres', q(
	CREATE TABLE counter (id text PRIMARY KEY, n bigint NOT NULL);
	CREATE TABLE ledger (id text PRIMARY KEY, what text NOT NULL, counter text, amount bigint NOT NULL DEFAULT 0);
	CREATE TABLE big (id text PRIMARY KEY, n int NOT NULL, t text NOT NULL)))
  foreach values %server;
$control_plane->safe_psql('postgres', qq(
	SELECT run_ops.attach_table('counter', 'shape'), run_ops.attach_table('ledger', 'shape'), run_ops.attach_table('big', 'shape');
	SELECT run_ops.enable_split()));
# every other worker commits atomically
sub atomic { return shift() % 2 }
# two counters of each worker in each store, and one of all; number 0 is that one
sub counter { my ($where, $worker, $i) = @_; return $shape{$where}->($worker * 10 + $i) }
foreach my $where ('L', 'N')
{
	my @ids = (counter($where, 0, 0), map { (counter($where, $_, 1), counter($where, $_, 2)) } 1 .. $workers);
	$control_plane->safe_psql('postgres', join ';', map { "INSERT INTO run_ops.counter VALUES ('$_', 0)" } @ids);
	my ($prefix, $digits) = $where eq 'L' ? ('run_c', 24) : ('run_', 27);
	# the rows of both stores take turns
	my $odd = $where eq 'L' ? 1 : 0;
	$server{$where}->safe_psql('postgres', "INSERT INTO big SELECT '$prefix' || lpad(i::text, $digits, '0'), i, repeat('x', 200) FROM generate_series(1, $rows) AS i WHERE i % 2 = $odd");
}
my $foreign = $control_plane->safe_psql('postgres', q(
	SELECT string_agg(format('%s=%s', split_part(t.view::text, '.', 2), c.relation), ' ')
	  FROM run_ops.routed_table AS t, run_ops.copies(t) AS c WHERE c.store = 'new'));
my %foreign = map { split /=/ } split / /, $foreign;
$control_plane->safe_psql('postgres', qq(
	ANALYZE;
	-- adds, in an EXCEPTION block that also catches a cancel; what it returns is what has become of it
	CREATE FUNCTION add_caught(line text, wanted text, d bigint, fails boolean) RETURNS text LANGUAGE plpgsql AS \$\$
	BEGIN
	  BEGIN
	    UPDATE run_ops.counter SET n = n + d WHERE id = wanted;
	    INSERT INTO run_ops.ledger VALUES (line, 'line', wanted, d);
	    IF fails THEN
	      PERFORM 1 / 0;
	    END IF;
	  EXCEPTION WHEN query_canceled OR OTHERS THEN
	    RETURN 'undone';
	  END;
	  RETURN 'done';
	END \$\$;
	-- a loop over a scan of both stores with something else in between; what it returns is how many rows there were
	CREATE FUNCTION loop_over(most int, wanted text, OUT loops int, OUT total bigint) LANGUAGE plpgsql AS \$\$
	DECLARE
	  r record;
	BEGIN
	  loops := 0;
	  total := 0;
	  FOR r IN SELECT n FROM run_ops.big ORDER BY n LOOP
	    loops := loops + 1;
	    total := total + r.n;
	    IF loops % 500 = 0 THEN
	      PERFORM n FROM run_ops.counter WHERE id = wanted;
	    END IF;
	    EXIT WHEN loops = most;
	  END LOOP;
	END \$\$));

# --- what a session does ------------------------------------------------------------------------

# Each statement has a line "@ kind arguments" before it, by which the answer is
# judged, and "= SQLSTATE" after it.
my ($worker, $number, $lines, $text);
sub statement
{
	my ($kind, $sql) = @_;
	$text .= "\\echo \@ $kind\n$sql;\n\\echo = :SQLSTATE\n";
	return;
}
sub line_id { my ($where) = @_; return $shape{$where}->($worker * 100_000_000 + ++$lines) }
my $sum = $rows * ($rows + 1) / 2;

my @operations = (
	# an amount: the counter and the line, in either order, through a view or the foreign table
	(sub {
		my ($own) = @_;
		my $where = pick(@$own) // return;
		my ($counter, $d, $line) = (counter($where, $worker, pick(1, 2)), 1 + int rand 50, line_id($where));
		my $view = $where eq 'N' && rand() < 0.3 ? $foreign{counter} : 'run_ops.counter';
		my $lock = rand() < 0.3 ? "run_ops.lock_row('run_ops.counter', '$counter')" : undef;
		statement('read', "SELECT $lock") if $lock;
		statement("add $counter $d", "UPDATE $view SET n = n + $d WHERE id = '$counter'" . (rand() < 0.2 ? ' AND random() >= 0' : ''));
		statement("line $line $counter $d", "INSERT INTO run_ops.ledger VALUES ('$line', 'line', '$counter', $d)");
	}) x 4,
	# the same, caught
	(sub {
		my ($own) = @_;
		my $where = pick(@$own) // return;
		my ($counter, $d, $line) = (counter($where, $worker, pick(1, 2)), 1 + int rand 50, line_id($where));
		statement("caught $line $counter $d", "SELECT add_caught('$line', '$counter', $d, " . pick('true', 'false', 'false') . ')');
	}) x 3,
	# a batch
	sub {
		my ($own) = @_;
		my $where = pick(@$own) // return;
		my $n = pick(2, 60, 150);
		my @ids = map { line_id($where) } 1 .. $n;
		my $target = $where eq 'N' ? pick('run_ops.ledger', $foreign{ledger}) : 'run_ops.ledger';
		statement("batch $ids[0] $n", "INSERT INTO $target SELECT id, 'batch' FROM unnest('{" . join(',', @ids) . "}'::text[]) AS id");
	},
	# both own counters at once
	sub {
		my ($own) = @_;
		my $where = pick(@$own) // return;
		my @ids = map { counter($where, $worker, $_) } 1, 2;
		statement("both @ids", "UPDATE run_ops.counter SET n = n + 1 WHERE id IN ('$ids[0]', '$ids[1]')");
		foreach my $id (@ids)
		{
			my $line = line_id($where);
			statement("line $line $id 1", "INSERT INTO run_ops.ledger VALUES ('$line', 'line', '$id', 1)");
		}
	},
	# reads
	(sub {
		my $where = pick('L', 'N', 'N');
		my $counter = counter($where, $worker, pick(1, 2));
		statement("value $counter", "SELECT n FROM run_ops.counter WHERE id = '$counter'" . pick('', '', ' AND random() >= 0', ' ORDER BY id LIMIT 1'));
	}) x 4,
	(sub {
		my $way = rand();
		return statement("is $rows|$sum", 'SELECT count(*), sum(n) FROM run_ops.big WHERE ' . pick('true', 'length(t) = 200', 'random() >= 0')) if $way < 0.4;
		return statement("is $rows|" . $rows * 200, "SELECT count(*), sum(length(t)) FROM run_ops.big") if $way < 0.5;
		my $most = pick(1, 90, 700, 1600);
		return statement("is $most|" . $most * ($most + 1) / 2, "SELECT * FROM loop_over($most, '" . counter('N', $worker, 1) . "')") if $way < 0.7;
		return statement("is 30", "SELECT count(b.n) FROM generate_series(1, 30) AS i LEFT JOIN LATERAL (SELECT n FROM run_ops.big WHERE id = 'run_' || lpad((i * 2)::text, 27, '0')) AS b ON b.n = i * 2") if $way < 0.85;
		return statement("is 1", "SELECT count(*) FROM run_ops.ask_store('new', 'SELECT 1 FROM generate_series(1, 20000) HAVING count(*) = 20000')");
	}) x 2,);
sub operation { pick(@operations)->(@_); return }

# A transaction that writes to the stores in "own".
sub transaction
{
	$number++;
	($text, my @own) = ('', rand() < 0.25 ? () : rand() < 0.5 ? 'N' : rand() < 0.4 ? 'L' : ('L', 'N'));
	$text .= 'SET statement_timeout = ' . pick(3, 10, 25, 60) . ";\n" if rand() < 0.2;
	if (rand() < 0.2)
	{
		# without a block: each statement is one
		operation([]);
		my $where = pick('L', 'N');
		my $counter = counter($where, 0, 0);
		my $line = line_id($where);
		statement("caught $line $counter 1", "SELECT add_caught('$line', '$counter', 1, " . pick('true', 'false') . ')');
		$text .= "SET statement_timeout = 20000;\n";
		return $text;
	}
	statement('begin', 'BEGIN ISOLATION LEVEL ' . pick('READ COMMITTED', 'READ COMMITTED', 'REPEATABLE READ'));
	$text .= "\\if :ERROR\n\\else\n";
	foreach my $line (map { line_id($_) } @own)
	{
		statement("mark $line", "INSERT INTO run_ops.ledger VALUES ('$line', 'transaction')");
	}
	my $depth = 0;
	my $cursor = 0;
	foreach (1 .. 1 + rand 6)
	{
		my $way = rand();
		if ($way < 0.15)
		{
			statement('savepoint s' . ++$depth, "SAVEPOINT s$depth");
		}
		elsif ($way < 0.35 && $depth > 0)
		{
			my $name = 's' . (1 + int rand $depth);
			rand() < 0.8 ? statement("rollback_to $name", "ROLLBACK TO $name") : statement("release $name", "RELEASE $name");
		}
		elsif ($way < 0.45 && !$cursor)
		{
			$cursor = 1;
			statement('declare', 'DECLARE c CURSOR FOR SELECT n FROM run_ops.big ORDER BY n');
		}
		elsif ($way < 0.6 && $cursor)
		{
			my $n = pick(1, 10, 150, 700);
			statement("fetch $n", "FETCH $n FROM c");
		}
		else
		{
			operation(\@own);
		}
	}
	statement('set', 'SET statement_timeout = 20000') if rand() < 0.5;
	statement(@{ pick([ 'commit', 'COMMIT' ], [ 'commit', 'COMMIT' ], [ 'commit', 'COMMIT' ], [ 'rollback', 'ROLLBACK' ]) });
	# whatever has become of it
	$text .= "\\endif\nROLLBACK;\nSET statement_timeout = 20000;\n";
	return $text;
}

# --- the storm ----------------------------------------------------------------------------------

my $dir = $PostgreSQL::Test::Utils::tmp_check;
my $connection = $control_plane->connstr('postgres') . ' application_name=storm';
my $end = time + $seconds;
my @children;
foreach my $i (1 .. $workers)
{
	my $pid = fork // die "fork: $!";
	if ($pid == 0)
	{
		srand $seed + $i;
		($worker, $number, $lines) = ($i, 0, 0);
		open my $psql, '|-', "psql -XAtq -v ON_ERROR_STOP=0 -d '$connection' >$dir/storm$i.out 2>$dir/storm$i.err" or POSIX::_exit(1);
		$psql->autoflush;
		print $psql "\\set VERBOSITY verbose\nSET run_ops_split.store_retry_pause = 0; SET run_ops_split.cross_store_writes = " . (atomic($i) ? 'atomic' : 'allow') . "; SET client_min_messages = error; SET statement_timeout = 20000;\n";
		while (time < $end)
		{
			print $psql transaction() or last;
		}
		print $psql "\\echo end\n";
		close $psql;
		POSIX::_exit(0);
	}
	push @children, $pid;
}

# They are cancelled, and what serves them in the store is cancelled or ended.
# Each of the two is a loop in a session of its own.
sub storm
{
	my ($node, $what, $of, $pause) = @_;
	return IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', sprintf(q(
		DO $$
		DECLARE
		  n int := 0;
		BEGIN
		  WHILE clock_timestamp() < to_timestamp(%f) LOOP
		    n := n + (SELECT count(%s(pid)) FROM (SELECT pid FROM pg_stat_activity WHERE %s ORDER BY random() LIMIT 1 + random() * 1.2) AS s);
		    PERFORM pg_sleep(random() * %f), pg_stat_clear_snapshot();
		  END LOOP;
		  CREATE TABLE IF NOT EXISTS storm (what text, n int);
		  INSERT INTO storm VALUES ('%s', n);
		END $$), $end, $what, $of, $pause, $what) ]);
}
my $ours = q(application_name = 'run_ops_split');
my @storms = (
	storm($control_plane, 'pg_cancel_backend', q(application_name = 'storm' AND state = 'active'), 0.03),
	storm($store, 'pg_terminate_backend', $ours, 1),
	storm($store, 'pg_cancel_backend', "$ours AND state = 'active'", 0.5));
$_->finish foreach @storms;
my $cancels = $control_plane->safe_psql('postgres', 'SELECT sum(n) FROM storm');
my ($store_cancels, $ends) = map { $store->safe_psql('postgres', "SELECT sum(n) FROM storm WHERE what = '$_'") } 'pg_cancel_backend', 'pg_terminate_backend';
foreach my $child (@children)
{
	# a statement that does not end would be ended by its timeout
	my $done = 0;
	foreach (1 .. 600)
	{
		last if ($done = waitpid $child, POSIX::WNOHANG());
		sleep 0.1;
	}
	ok($done, 'a session comes to its end') or kill 'TERM', $child;
}
$store->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE $ours");
# what a second phase could not finish
$control_plane->safe_psql('postgres', 'SELECT run_ops.resolve_in_doubt()');

# --- what is there ------------------------------------------------------------------------------

my (%there, %value);
foreach my $where ('L', 'N')
{
	$there{$where} = { map { $_ => 1 } split /\n/, $server{$where}->safe_psql('postgres', 'SELECT id FROM ledger') };
	$value{$where} = { map { split /\|/ } split /\n/, $server{$where}->safe_psql('postgres', 'SELECT id, n FROM counter') };
}
sub where_is { my ($id) = @_; return $id =~ /^run_c/ ? 'L' : 'N' }
sub is_there { my ($id) = @_; return $there{ where_is($id) }{$id} ? 1 : 0 }

# --- what must be there, and what was answered ----------------------------------------------------

my (%expected, %lines_expected, @wrong, %states);
my ($statements, $answers, $hits, $committed, $unknown, $half, $silent_half) = (0) x 7;

# A transaction: what it adds to counters and which lines it writes, and what
# that was at each savepoint.
foreach my $i (1 .. $workers)
{
	my $out = slurp_file("$dir/storm$i.out");
	ok($out =~ s/^end\n\z//m, "session $i has run all of its statements") or diag substr($out, -500);
	my %mine;                           # the counters as this session must see them
	my ($open, $failed, $position);
	my (%adds, %lines, @savepoints, %maybe);
	my $reset = sub { ($open, $failed, $position) = (0, 0, undef); %adds = %lines = (); @savepoints = () };
	my $wrong = sub { push @wrong, "session $i: " . join ' ', @_ };
	# a transaction has ended: the ledger says whether it was committed in a store
	my $settle = sub {
		my ($state) = @_;
		my %in = map { $_ => 0 } 'L', 'N';
		foreach my $id (keys %lines)
		{
			$in{ where_is($id) } += is_there($id) ? 1 : 1_000_000;
		}
		my %whole;
		foreach my $where ('L', 'N')
		{
			next if $in{$where} == 0;
			$whole{$where} = $in{$where} < 1_000_000;
			$wrong->("half a transaction in $where: lines " . join ' ', map { $_ . (is_there($_) ? ' is there' : ' is not') } sort keys %lines)
			  if !$whole{$where} && $in{$where} % 1_000_000 != 0;
		}
		if ($state eq 'committed')
		{
			$committed++;
			$wrong->("a committed transaction is not in $_: @{[ sort keys %lines ]}") foreach grep { !$whole{$_} } keys %whole;
		}
		elsif ($state eq 'rolled back')
		{
			$wrong->("a transaction that was rolled back is in $_: @{[ sort keys %lines ]}") foreach grep { $whole{$_} } keys %whole;
		}
		else
		{
			# COMMIT has failed: here nothing is committed, in the store perhaps
			$unknown++;
			$wrong->("COMMIT failed with $state, atomic, but is in one database: @{[ sort keys %lines ]}") if atomic($i) && keys %whole == 2 && !$whole{L} != !$whole{N};
			$wrong->("COMMIT failed with $state, but is there: @{[ sort keys %lines ]}") if $whole{L};
			if ($whole{N})
			{
				$half++;
				$silent_half++ if $state ne '08007';
				push @{ $states{"kept by the store, told $state"} }, 1;
			}
		}
		foreach my $where (grep { $whole{$_} } keys %whole)
		{
			$lines_expected{$_}++ foreach grep { where_is($_) eq $where } keys %lines;
			foreach my $id (grep { where_is($_) eq $where } keys %adds)
			{
				# what the store commits while nobody waits may be seen later
				$maybe{$id} = $mine{$id} // 0 if $state !~ /^(committed|rolled back)$/;
				$mine{$id} += $adds{$id};
				$expected{$id} += $adds{$id};
			}
		}
		$reset->();
	};
	$reset->();
	foreach my $part (split /^@ /m, $out)
	{
		my ($kind, $answer, $state) = $part =~ /\A([^\n]*)\n(.*?)^= (\w+)\n/ms or next;
		($kind, my @args) = split / /, $kind;
		$answer =~ s/\n\z//;
		my $ok = $state eq '00000';
		$statements++;
		$answers++ if $ok;
		$hits++ if $state eq '57014';
		push @{ $states{$state} }, $kind;
		$failed = 1 if !$ok && $open;
		my $shown = "$kind @args: " . substr $answer, 0, 100;

		if ($kind eq 'begin')
		{
			$open = 1 if $ok;
		}
		elsif ($kind eq 'commit')
		{
			# COMMIT of a failed transaction is a ROLLBACK, and no error
			$settle->(!$ok ? $state : $failed ? 'rolled back' : 'committed') if $open;
		}
		elsif ($kind eq 'rollback')
		{
			$settle->('rolled back') if $open;
		}
		elsif ($kind eq 'savepoint')
		{
			push @savepoints, { name => $args[0], adds => {%adds}, lines => {%lines}, position => $position } if $ok && $open;
		}
		elsif ($kind =~ /^(rollback_to|release)$/)
		{
			next if !$ok || !$open;
			my ($at) = grep { $savepoints[$_]{name} eq $args[0] } reverse 0 .. $#savepoints;
			if ($kind eq 'release')
			{
				splice @savepoints, $at;
				next;
			}
			my $to = $savepoints[$at];
			%adds = %{ $to->{adds} };
			%lines = %{ $to->{lines} };
			# a cursor keeps its place, if it was open at the savepoint
			$position = undef if !defined $to->{position};
			$failed = 0;
			splice @savepoints, $at + 1;
		}
		elsif (!$ok)
		{
			# a statement without a block whose commit may be in doubt
			if (!$open && $kind eq 'caught')
			{
				%lines = ($args[0] => 1);
				%adds = ($args[1] => $args[2]);
				$settle->($state);
			}
		}
		elsif ($kind eq 'mark')
		{
			$lines{ $args[0] } = 1;
		}
		elsif ($kind eq 'add')
		{
			$adds{ $args[0] } += $args[1];
		}
		elsif ($kind eq 'line')
		{
			$lines{ $args[0] } = 1;
		}
		elsif ($kind eq 'both')
		{
			$adds{$_}++ foreach @args;
		}
		elsif ($kind eq 'batch')
		{
			my ($prefix, $n) = $args[0] =~ /^(run_c?0*)(\d+)$/;
			my $where = where_is($args[0]);
			$lines{ $shape{$where}->($n + $_) } = 1 foreach 0 .. $args[1] - 1;
		}
		elsif ($kind eq 'caught')
		{
			$wrong->("unexpected: $shown") if $answer !~ /^(done|undone)$/;
			if ($answer eq 'done')
			{
				$lines{ $args[0] } = 1;
				$adds{ $args[1] } += $args[2];
			}
			elsif (!$open)
			{
				$lines{ $args[0] } = 1;
			}
			$settle->($answer eq 'done' ? 'committed' : 'rolled back') if !$open;
		}
		elsif ($kind eq 'value')
		{
			my $must = ($mine{ $args[0] } // 0) + ($adds{ $args[0] } // 0);
			my $may = exists $maybe{ $args[0] } ? $maybe{ $args[0] } + ($adds{ $args[0] } // 0) : $must;
			$wrong->("$shown in place of $must") if $answer ne $must && $answer ne $may;
			delete $maybe{ $args[0] } if $answer eq $must && !$open;
		}
		elsif ($kind eq 'is')
		{
			$wrong->("$shown in place of @args") if $answer ne $args[0];
		}
		elsif ($kind eq 'declare')
		{
			$position = 0;
		}
		elsif ($kind eq 'fetch')
		{
			my $n = $rows - $position < $args[0] ? $rows - $position : $args[0];
			$wrong->("FETCH $args[0] at $position: $shown") if $answer ne join "\n", map { $position + $_ } 1 .. $n;
			$position += $n;
		}
	}
	# it ends without an answer to COMMIT when the session was killed
	$settle->('unknown') if $open;
}

diag "$cancels cancels, $hits statements cancelled, $store_cancels and $ends in the store";
note "$statements statements, $answers with an answer; $committed transactions committed, $unknown failed at COMMIT, of which the store has kept $half";
note join ', ', map { "$_: " . @{ $states{$_} } } sort keys %states;
is(scalar @wrong, 0, "RUN_OPS_SEED=$seed: every answer is right, and no transaction is half in a store") or diag join "\n", map { substr $_, 0, 400 } splice @wrong, 0, 10;
cmp_ok($cancels, '>=', 1000 * $seconds / 40, 'there were many cancels');
cmp_ok($hits, '>', $cancels / 20, 'which have hit');
cmp_ok($ends, '>', 0, 'and connections to the store that broke');
cmp_ok($committed, '>', 50, 'transactions were committed nevertheless');
foreach my $where ('L', 'N')
{
	my $name = $where eq 'L' ? 'control plane' : 'store';
	my %must = map { $_ => $expected{$_} // 0 } keys %{ $value{$where} };
	is_deeply($value{$where}, \%must, "the counters of the $name are the sums of what was committed there");
	my @unexpected = grep { !$lines_expected{$_} } sort keys %{ $there{$where} };
	my @missing = grep { where_is($_) eq $where && !$there{$where}{$_} } sort keys %lines_expected;
	is("@unexpected[0 .. ($#unexpected > 5 ? 5 : $#unexpected)] @missing[0 .. ($#missing > 5 ? 5 : $#missing)]", ' ', "the ledger of the $name has the lines of what was committed, and no other");
	is($server{$where}->safe_psql('postgres', q(SELECT count(*) FROM counter AS c WHERE n <> (SELECT coalesce(sum(amount), 0) FROM ledger AS l WHERE l.counter = c.id))),
		'0', "counters and ledger of the $name agree");
}
is($control_plane->safe_psql('postgres', q(SELECT count(*) FROM pg_prepared_xacts)) + $store->safe_psql('postgres', q(SELECT count(*) FROM pg_prepared_xacts)), 0, 'nothing is prepared');
is($silent_half, 0, 'who was not told that COMMIT is in doubt (08007) has no rows in the store');
done_testing();

# What people and their monitoring see: with split off and on, with a store
# that is down, one that hangs, a copy of the database, a queue that is not
# empty; the screen of status.sql, and the metrics of postgres_exporter.
use strict;
use warnings;
use File::Temp;
use HTTP::Tiny;
use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(usleep);
use lib 'test/t';
use SplitServers;
use Test::More;

my ($control_plane, $store) = split_servers(conf => "shared_preload_libraries = 'run_ops_split'\nrun_ops_split.store_retry_pause = 100");
# one that cleanup() knows
$_->safe_psql('postgres', 'CREATE TABLE "WaitpointTag" (id text PRIMARY KEY, "environmentId" text)') foreach ($control_plane, $store);
$control_plane->safe_psql('postgres', q(SELECT run_ops.attach_table('"WaitpointTag"', 'store')));

# the address of the store is as long in every run, because error messages are broken into lines
my $door = File::Temp->newdir('/tmp/screenXXXXXX');
symlink $store->host, "$door/s";
point_store($control_plane, "$door/s", $store->port);

sub sql { return $control_plane->safe_psql('postgres', @_) }

sub screen
{
	my ($out, $err) = run_command(
		[ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-v', 'color=off', '-d', $control_plane->connstr('postgres'),
			'-f', 'observability/status.sql' ]);
	is($err, '', 'status.sql says no error');
	# what is printed stays in bytes: a wide character is fatal there from PostgreSQL 17 on
	utf8::decode(my $screen = $out);
	is((grep { length > 80 } split /\n/, $screen), 0, 'no line is longer than 80 columns') or diag $out;
	note $out;
	return $screen;
}

# What scripts/dashboard shows at its second refresh, in a terminal or in a pipe,
# compared with a file of test/screens in which figures are # and times are letters.
sub same_screen
{
	my ($name, $columns, $where) = @_;
	local @ENV{ 'PGHOST', 'PGPORT', 'PGDATABASE' } = ($control_plane->host, $control_plane->port, 'postgres');
	my @command = ('scripts/dashboard', '0.2', $where eq 'pipe' ? ('-v', "columns=$columns") : ());
	@command = ('script', '-qefc', "stty cols $columns rows 60; exec @command", '/dev/null') if $where eq 'terminal';
	my ($in, $out, $err) = ('', '', '');
	my $watching = IPC::Run::start(\@command, '<', \$in, '>', \$out, '2>', \$err, IPC::Run::timeout(60));
	$watching->pump until (() = $out =~ /^\S*? run_ops_split /mg) > 2 || $err;
	$watching->kill_kill;
	is($err, '', "$name, $columns columns, $where: no error");
	$out =~ s/\r//g;
	is($out =~ /\e/ ? 'with colors' : 'without', $where eq 'terminal' ? 'with colors' : 'without', "$name, $columns columns, $where: escape codes");
	$out =~ s/\e\[[0-9;]*[mHJ]//g;
	utf8::decode($out);
	my $screen = (split /^(?= run_ops_split )/m, $out)[1];
	is((grep { length > $columns } split /\n/, $screen), 0, "$name, $columns columns, $where: no line is longer") or diag $out;
	foreach ($screen)
	{
		s/\d{4}-\d\d-\d\d/YYYY-MM-DD/g;
		s/\b\d\d:\d\d:\d\d\b/HH:MM:SS/g;
		s/\b\d\d:\d\d\b/HH:MM/g;
		s/\Q$door\E/\/tmp\/screenXXXXXX/g;
		s/PGSQL\.\d+/PGSQL.PORT/g;
		s/\d+ (hold|fail)/# $1/g;
		s/[\d.,]+ % of [\d,]+/# % of #/;
		s/ +\n/\n/g;
		# of a store: columns stay as wide as they are
		s{^( \S (?:legacy|new) .*)$}{ $1 =~ s/( +)(\d[\d,.\/]*)/$1 . ' ' x (length($2) - 1) . '#'/ger }mge;
		s/^( run_ops_split )[\d.]+ /${1}# /;
		s/\s*\z/\n/;
	}
	utf8::encode($screen);
	my $file = "test/screens/${name}_$columns.txt";
	my $expected = -e $file ? slurp_file($file) : '';
	return if is($screen, $expected, "$name, $columns columns, $where: $file");
	(my $actual = $file) =~ s{.*/}{$PostgreSQL::Test::Utils::tmp_check/};
	open my $handle, '>:raw', $actual or die $!;
	print $handle $screen;
	close $handle;
	diag "the screen is in $actual";
	return;
}

# --- off, then on ---------------------------------------------------------------

like(screen(), qr/^ split is OFF, 4 tables, stores: legacy, new\n   configured but not enabled\n.*^ . legacy +up .*^ . new +up .*STRAYS +not counted/ms,
	'split off');
sql('SELECT run_ops.enable_split()');
sql('SELECT run_ops.record_check()');
sql(qq(SET run_ops_split.cross_store_writes = allow; INSERT INTO run_ops.run (id) VALUES ('@{[cuid(1)]}'), ('@{[ksuid(1)]}')));
sql("INSERT INTO run_ops.run (id) SELECT 'run_c' || lpad(i::text, 24, '0') FROM generate_series(1001, 1300) AS i");
sql("INSERT INTO run_ops.run (id) SELECT 'run_' || lpad(i::text, 27, '0') FROM generate_series(1001, 1100) AS i");
$_->safe_psql('postgres', 'ANALYZE run; ANALYZE step') foreach ($control_plane, $store);
foreach my $columns (80, 120)
{
	same_screen('healthy', $columns, $_) foreach ('terminal', 'pipe');
}
like(screen(), qr/^ split is ON since .*GATES +. \d+ hold   none fails.*STRAYS +none.*CLEANUP +nothing to do/ms,
	'split on');
sql(q(INSERT INTO run_ops.mint_shards (active) VALUES ('{a,b}')));
like(screen(), qr/^ +shards for new runOpsIds: a, b; in force: none$/m, 'shards in the grace');
sql('DELETE FROM run_ops.mint_shards');
is(sql('SELECT store, up, last_error FROM run_ops.stat_stores'), "legacy|t|\nnew|t|", 'both stores are up');

# --- who asks, as the store sees it ------------------------------------------------

# What is asked waits behind a lock until it has been seen.
sub seen_by_store
{
	my ($lock, $query) = @_;
	my $holder = $store->background_psql('postgres');
	$holder->query_safe("BEGIN; LOCK TABLE $lock");
	my $asking = IPC::Run::start([ 'psql', '-XAtq', '-d', $control_plane->connstr('postgres'), '-c', $query ], '>', \my $out, '2>', \my $err);
	my $name = '';
	foreach (1 .. 300)
	{
		$name = $store->safe_psql('postgres', q(SELECT application_name FROM pg_stat_activity WHERE wait_event_type = 'Lock'));
		last if $name;
		usleep(100_000);
	}
	$holder->query_safe('COMMIT');
	$holder->quit;
	$asking->finish;
	return $name;
}
like(seen_by_store('pg_catalog.pg_enum', 'SET run_ops_split.store_timeout = 60000; SELECT run_ops.check_split()'),
	qr/^run_ops_split check_split \d+ postgres$/, 'check_split() names itself');
like(seen_by_store('run', 'SELECT run_ops.repatriate(10)'), qr/^run_ops_split repatriate \d+ postgres$/, 'repatriate() names itself');
SKIP:
{
	skip 'names with escapes came with PostgreSQL 15', 1 if $control_plane->pg_version < 15;
	sql(q(ALTER SERVER new OPTIONS (application_name 'run_ops_split views %d')));
	is(seen_by_store('run', 'SELECT count(*) FROM run_ops.run'), 'run_ops_split views postgres', 'so do the views, by an option of the server');
}

# --- looking never waits for somebody else who looks, nor needs to write --------------

{
	my $other = $control_plane->background_psql('postgres');
	$other->query_safe('BEGIN; SELECT count(*) FROM run_ops.stat_stores');
	is(sql(q(SET lock_timeout = '100s'; SET statement_timeout = '100s'; SELECT count(*) FROM run_ops.stat_stores)), 2, 'two sessions look at once');
	is(sql(q(SELECT count(*) FROM pg_locks WHERE NOT granted)), 0, 'and do not wait');
	$other->query_safe('COMMIT');
	$other->quit;
	is(sql('BEGIN READ ONLY; SELECT count(*) FROM run_ops.stat_stores WHERE up; COMMIT'), 2, 'in a read-only transaction');
	is(sql('BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM run_ops.stat_stores WHERE up; COMMIT'), 2, 'in a serializable transaction');
}

# --- a session that waits for the store ------------------------------------------------------

{
	my $holder = $store->background_psql('postgres');
	$holder->query_safe('BEGIN; SELECT FROM run FOR UPDATE');
	my $update = IPC::Run::start([ 'psql', '-XAtq', '-d', $control_plane->connstr('postgres'), '-c', "UPDATE run_ops.run\n SET n = 5 WHERE id = '@{[ksuid(1)]}'" ],
		'>', \my $out, '2>', \my $err);
	ok($control_plane->poll_query_until('postgres', q(SELECT count(*) = 1 FROM run_ops.stat_waits WHERE store = 'new')), 'a session waits for the store');
	is(sql(q(SELECT w.waits_for, w.since <= clock_timestamp(), w.since >= w.transaction_since, a.query LIKE 'UPDATE%' FROM run_ops.stat_waits AS w JOIN pg_stat_activity AS a USING (pid))),
		'answer|t|t|t', 'for an answer, since its statement was sent');
	ok($control_plane->poll_query_until('postgres', q(SELECT bool_or(oldest_transaction < clock_timestamp() - interval '1 second') FROM run_ops.stat_connections WHERE store = 'new')),
		'a transaction there is older than a second');
	is(sql(q(SELECT store, lock_waits, longest_lock_wait BETWEEN '0' AND '1h' FROM run_ops.stat_stores)), "legacy|0|\nnew|1|t", 'it waits for a lock there');
	my %waits;
	foreach my $name ('run_ops_split_waits', 'run_ops_split_store')
	{
		my ($query) = slurp_file('observability/postgres_exporter.yaml') =~ /^$name:\n  query: >-\n(.*?)\n  metrics:/ms;
		$waits{$name} = sql("SELECT to_jsonb(q) FROM ($query) AS q WHERE store = 'new'");
	}
	like($waits{run_ops_split_waits}, qr/"sessions": 1, "longest_seconds": (?!0[,}])/, 'as the exporter asks');
	like($waits{run_ops_split_store}, qr/"lock_waits": 1,.*"longest_lock_wait_seconds": \d/, 'and there');
	like(screen(), qr/^ WAITING   1 waiting for a store, the first for \S+\n   \d+ +new +answer +\d\d:\d\d:\d\d  UPDATE run_ops.run SET n = .*\n REMOTE +new: oldest transaction \d\d:\d\d:\d\d, [^;\n]+\n LOCKS     new: 1 waiting, the first for \d\d:\d\d:\d\d\n GATES/m,
		'the screen names it, the oldest transaction there, and the lock');
	$holder->query_safe('COMMIT');
	$holder->quit;
	$update->finish;
	is(sql('SELECT count(*) FROM run_ops.stat_waits'), '0', 'it does not wait any more');
	is(sql('SELECT sum(lock_waits), max(longest_lock_wait) FROM run_ops.stat_stores'), '0|', 'nor for a lock');
}

# --- a store that hangs ------------------------------------------------------------------

my $pid = (split /\n/, slurp_file($store->data_dir . '/postmaster.pid'))[0];
kill 'STOP', $pid;
like(sql('SET run_ops_split.store_timeout = 1000; SELECT store, up, last_error FROM run_ops.stat_stores'),
	qr/^legacy\|t\|\nnew\|f\|store "new" cannot be reached: .*It has not accepted a connection for 1000 ms/, 'a store that hangs gives a row with the error');
# A session remembers it, also when its transaction fails.
my $watcher = $control_plane->background_psql('postgres');
$watcher->query_safe('SET run_ops_split.store_timeout = 1000');
$watcher->query_safe('BEGIN; SELECT up FROM run_ops.stat_stores; ROLLBACK');
$watcher->query_safe('SET run_ops_split.store_timeout = 600000');
is($watcher->query_safe(q(SELECT up, now() - last_error_at < '20s', last_contact IS NULL FROM run_ops.stat_stores WHERE store = 'new')),
	'f|t|t', 'and is not waited for again at once');
kill 'CONT', $pid;
is($watcher->query_safe(q(SELECT up FROM run_ops.stat_stores WHERE store = 'new')), 'f', 'as long as that');
# waiting is over when the setting says so
$watcher->query_safe('SET run_ops_split.store_timeout = 1000; SELECT pg_sleep(1)');
is($watcher->query_safe(q(SELECT up, last_error LIKE '%cannot be reached%', last_error_at < last_contact FROM run_ops.stat_stores WHERE store = 'new')),
	't|t|t', 'then it is asked again, and the last error is kept');
$watcher->quit;

# --- a store that is down -------------------------------------------------------------------

sql(q(SELECT run_ops.enqueue_cleanup('environment', '{env_1}')));
$store->stop('immediate');
sql('CALL run_ops.cleanup()');
my $down = screen();
like($down, qr/^ . legacy +up .*^ . new +DOWN .*\n +store "new" cannot be reached: .*^ CLEANUP +new: 1 waiting for \S+, 1 failing\n.*environment env_1 +in new .*store "new" cannot be reached/ms,
	'the screen shows the store that is down, why, and the queue');
sql('SELECT count(*) FROM run_ops.record_check()');
foreach my $columns (80, 120)
{
	same_screen('down', $columns, $_) foreach ('terminal', 'pipe');
}
is(sql(q(SELECT view, rows_read IS NULL, rows IS NULL FROM run_ops.stat_routing WHERE store = 'new' ORDER BY view::text COLLATE "C")),
	qq(run_ops."WaitpointTag"|t|t\nrun_ops.run|t|t\nrun_ops.step|t|t\nrun_ops.tag|t|t), 'its tables are listed, without figures');
is(sql(q(SELECT count(*) FROM run_ops.stat_connections WHERE store = 'new')), 0, 'and no connections');
isnt(sql('SELECT count(*) FROM run_ops.record_check()'), 0, 'record_check() records gates that fail');
like(screen(), qr/GATES .* fail .*reachable *new: .*cannot be reached/s, 'and the screen shows them');

# --- the names of the metrics ------------------------------------------------------------------

my %metric;
{
	my $query = '';
	foreach (split /\n/, slurp_file('observability/postgres_exporter.yaml'))
	{
		$query = $1 if /^(\w+):/;
		$metric{"${query}_$1"} = lc $2 if /^    - (\w+): \{usage: (GAUGE|COUNTER|HISTOGRAM),/;
	}
}
cmp_ok(scalar keys %metric, '>', 20, 'metrics are read');
# The metrics of an expression: a rate is of a counter or of the buckets of a
# histogram, anything else of a gauge.
sub right_metrics
{
	my ($expr) = @_;
	my @names;
	foreach my $found ($expr =~ /\b(run_ops_split_\w+)/g)
	{
		(my $name = $found) =~ s/_bucket$//;
		is($metric{$name}, $found ne $name ? 'histogram' : $expr =~ /(?:rate|increase)\($found\b/ ? 'counter' : 'gauge', "$found is of the right kind");
		push @names, $name;
	}
	return @names;
}
# a page of the documents and one of its headings
sub is_place
{
	my ($place, $what) = @_;
	my ($file, $anchor) = split /#/, $place;
	my @anchors = map { my $heading = lc; $heading =~ s/[^\w\- ]//g; $heading =~ s/ /-/gr } slurp_file("docs/$file") =~ /^#+ (.*)$/mg;
	ok((grep { $_ eq $anchor } @anchors), "$what: $place exists");
	return;
}
my %shown;
{
	my $dashboard = decode_json(slurp_file('observability/grafana_dashboard.json'));
	cmp_ok(scalar @{ $dashboard->{panels} }, '>', 10, 'the dashboard is read');
	my (%place, %ids);
	foreach my $panel (@{ $dashboard->{panels} })
	{
		my ($x, $y, $w, $h) = @{ $panel->{gridPos} }{qw(x y w h)};
		cmp_ok($x + $w, '<=', 24, "panel $panel->{title} fits");
		ok(!$ids{ $panel->{id} }++, "panel $panel->{title} has an id of its own");
		foreach my $cell (map { my $i = $_; map { "$i/$_" } $y .. $y + $h - 1 } $x .. $x + $w - 1)
		{
			fail("panel $panel->{title} lies on $place{$cell}") if $place{$cell};
			$place{$cell} = $panel->{title};
		}
		ok(@{ $panel->{targets} } > 0, "panel $panel->{title} has a query");
		is_place($panel->{links}[0]{url} =~ s{^\$\{docs\}/}{}r, "the link of panel $panel->{title}");
		foreach my $target (@{ $panel->{targets} })
		{
			foreach my $name (right_metrics($target->{expr}))
			{
				$shown{$name} = 1;
			}
		}
	}
}
# Grafana's own types, if scripts/test could fetch them
SKIP:
{
	my $dir = 'test/grafana';
	die "npm ci failed in $dir\n" . slurp_file("$dir/npm_failed") if -e "$dir/npm_failed";
	unlike(slurp_file("$dir/package-lock.json"), qr/"resolved"/, 'the lock file names no host');
	if (!-d "$dir/node_modules")
	{
		my $why = -e "$dir/not_tested" ? slurp_file("$dir/not_tested") : "run npm ci in $dir";
		diag "the dashboard is NOT checked by the types of Grafana: $why";
		skip 'the types of Grafana are not there', 2;
	}
	my $types = sub {
		my ($json) = @_;
		open my $file, '>:raw', "$dir/dashboard.ts" or die $!;
		print $file "import type { Checked } from './schema';\nexport const dashboard: Checked = $json;\n";
		close $file;
		my ($out, $err) = run_command([ "$dir/node_modules/.bin/tsc", '-p', $dir ]);
		return "$out$err";
	};
	my $json = slurp_file('observability/grafana_dashboard.json');
	is($types->($json), '', 'the dashboard is one by the types of Grafana');
	like($types->($json =~ s/"displayMode": "list"/"displayMode": "lists"/r), qr/"lists"/, 'and would not be with a wrong value');
}
is_deeply([ sort keys %shown ], [ sort keys %metric ], 'the dashboard shows exactly what the exporter gives');

# --- the alert rules ----------------------------------------------------------------------------------

my $alerts = slurp_file('observability/alerts.yml');
my @expressions = $alerts =~ /^        expr: (.*)$/mg;
cmp_ok(scalar @expressions, '>', 10, 'alert rules are read');
right_metrics($_) foreach @expressions;
is_place($_, 'an alert') foreach $alerts =~ /^          page: (.*)$/mg;
SKIP:
{
	my ($promtool) = grep { $_ && -x } $ENV{RUN_OPS_PROMTOOL}, map { "$_/promtool" } split /:/, $ENV{PATH};
	if (!$promtool)
	{
		diag 'promtool is not there: the alert rules are NOT checked by it (apt-get install prometheus)';
		skip 'promtool is not there', 1;
	}
	my ($out, $err) = run_command([ $promtool, 'check', 'rules', 'observability/alerts.yml' ]);
	like($out, qr/SUCCESS: @{[ scalar @expressions ]} rules found/, 'promtool accepts the alert rules') or diag "$out$err";
}

# --- the exporter itself ---------------------------------------------------------------------------

SKIP:
{
	my ($exporter) = grep { $_ && -x } $ENV{RUN_OPS_EXPORTER},
	  map { ("$_/prometheus-postgres-exporter", "$_/postgres_exporter") } split /:/, $ENV{PATH};
	if (!$exporter)
	{
		diag 'postgres_exporter is not there: the metrics are NOT tested (apt-get install prometheus-postgres-exporter)';
		skip 'postgres_exporter is not there', 1;
	}
	sql('CREATE ROLE monitoring LOGIN IN ROLE pg_monitor');
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	local $ENV{DATA_SOURCE_NAME} = 'host=' . $control_plane->host . ' port=' . $control_plane->port
	  . ' user=monitoring dbname=postgres sslmode=disable';
	my $log = '';
	my $running = IPC::Run::start(
		[ $exporter, '--extend.query-path=observability/postgres_exporter.yaml', "--web.listen-address=127.0.0.1:$port",
			'--disable-default-metrics', '--disable-settings-metrics' ], '<', \undef, '>', \$log, '2>', \$log);

	# the metrics once they hold: [ { name => type }, text ]
	my $scrape = sub {
		my ($wanted) = @_;
		my $text = '';
		foreach (1 .. 300)
		{
			$running->pump_nb;
			my $answer = HTTP::Tiny->new(timeout => 60)->get("http://127.0.0.1:$port/metrics");
			$text = $answer->{success} ? $answer->{content} : '';
			last if $text =~ $wanted;
			usleep(100_000);
		}
		like($text, $wanted, 'the exporter answers');
		like($text, qr/^pg_exporter_last_scrape_error(\{.*?\})? 0$/m, 'without an error') or diag $log;
		return $text;
	};
	my $text = $scrape->(qr/^run_ops_split_store_up\{.*store="new".*\} 0$/m);
	like($text, qr/^run_ops_split_store_up\{.*store="legacy".*\} 1$/m, 'a store that is down');
	like($text, qr/^run_ops_split_cleanup_failing\{.*store="new".*\} 1$/m, 'its queue');
	$store->start;
	# its counters went with the crash
	sql(qq(INSERT INTO run_ops.run (id) VALUES ('@{[ksuid(2)]}')));
	$control_plane->psql('postgres', qq(INSERT INTO run_ops.run (id) VALUES ('@{[ksuid(2)]}')));
	$text = $scrape->(qr/^run_ops_split_table_rows_inserted\{.*store="new",table="run".*\} 2$/m);
	like($text, qr/^run_ops_split_store_up\{.*store="new".*\} 1$/m, 'a store that is up again');
	like($text, qr/^run_ops_split_mode_enabled(\{.*\})? 1$/m, 'split is on');
	like($text, qr/^run_ops_split_gates_failing\{gate="reachable".*\} 1$/m, 'gates');
	like($text, qr/^run_ops_split_wire_failures\{.*store="new".*\} [1-9]/m, 'failures of the wire');
	like($text, qr/^run_ops_split_wire_answer_seconds_bucket\{.*store="new".*le="65\.536"\} [1-9]/m, 'the histogram of its answers');
	like($text, qr/^run_ops_split_wire_error_total\{.*sqlstate="23505",store="new"\} 1$/m, 'the errors that the store has reported');
	my %given = $text =~ /^# TYPE (run_ops_split_\w+) (\w+)$/mg;
	is_deeply(\%given, \%metric, 'every metric comes out, of its kind');
	$running->signal('TERM');
	$running->finish;
}

# --- the wires of all sessions ----------------------------------------------------------------------

is(sql(q(SELECT store, connections > 3, failures > 0, answers > 10, answers = answers_up_to[21], answer_seconds > 0 AND mean_ms > 0, up_to[1], up_to[21] FROM run_ops.stat_wire WHERE store = 'new')),
	'new|t|t|t|t|t|0.000125|Infinity', 'what they did');
is(sql(q(SELECT bool_and(a <= b) FROM run_ops.stat_wire AS w, unnest(w.answers_up_to[:20], w.answers_up_to[2:]) AS u (a, b))), 't', 'a longer time has all answers of a shorter one');
{
	my $other = $control_plane->background_psql('postgres', on_error_stop => 0);
	my $before = sql(q(SELECT pauses FROM run_ops.stat_wire WHERE store = 'new'));
	$store->stop('immediate');
	$other->query('SET run_ops_split.store_retry_pause = 60000; SELECT count(*) FROM run_ops.run; SELECT count(*) FROM run_ops.run');
	is(sql(q(SELECT pauses FROM run_ops.stat_wire WHERE store = 'new')), $before + 1, 'a statement that was refused in a pause');
	$other->quit;
	$store->start;
}

# --- a copy of the database -------------------------------------------------------------------------

$store->start unless -e $store->data_dir . '/postmaster.pid';
$store->append_conf('postgresql.conf', 'log_connections = on');
$store->reload;
my $position = -s $store->logfile;
sql(q(UPDATE run_ops.split_state SET identities = '{}'));
like(screen(), qr/^ split is SUSPENDED, .*\n   this is a copy .*^ . new +DOWN .*\n +split mode is suspended in this copy/ms, 'a copy is shown as one');
unlike(slurp_file($store->logfile, $position), qr/connection authorized/, 'and asks no store');

# --- again and again -----------------------------------------------------------------------------------

{
	my ($out, $err) = ('', '');
	my $watching = IPC::Run::start([ 'scripts/dashboard', '0.2', '-d', $control_plane->connstr('postgres') ], '>', \$out, '2>', \$err,
		IPC::Run::timeout(60));
	$watching->pump until ($out =~ /(split is SUSPENDED.*){3}/s || $err);
	$watching->signal('INT');
	$watching->kill_kill;
	is($err, '', 'scripts/dashboard repeats the screen');
}

done_testing();

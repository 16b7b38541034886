-- Names with quotes, spaces, dots, percent signs, backslashes, other letters
-- and 63 bytes, wherever a name is accepted: schemas, tables, columns, labels,
-- servers, views, roles.  And values that look like SQL.
\set name identifiers
\i test/fixtures/two_stores.sql
\set ECHO none
SET client_min_messages = warning;
SET datestyle = 'ISO';
\set VERBOSITY terse
-- a name of 63 bytes that has everything
CREATE FUNCTION public.odd(n int) RETURNS name IMMUTABLE LANGUAGE sql
  RETURN (SELECT p || repeat('_', 63 - octet_length(p))
            FROM format('regress_%s x.é"'';DROP TABLE t;--%%s %%1$I\ $1 $$', n) AS p)::name;
\set ECHO all
SELECT odd(1), octet_length(odd(1)::text);

-- the same tables on both sides, under other names in the store
SELECT format($$
  CREATE SCHEMA %1$I;
  CREATE TYPE %1$I.%2$I AS ENUM (%3$L, %4$L);
  CREATE TABLE %1$I.%5$I (%6$I text PRIMARY KEY, %7$I %1$I.%2$I DEFAULT %4$L, %8$I text UNIQUE);
  CREATE TABLE %1$I.%9$I (%6$I text, %7$I text NOT NULL, PRIMARY KEY (%6$I, %7$I));
  CREATE TABLE %1$I.%10$I (%6$I text PRIMARY KEY, %7$I text) $$,
  odd(1), odd(2), odd(3), odd(4), odd(5), odd(6), odd(7), odd(8), odd(9), odd(10)) AS tables \gset
:tables;
SELECT dblink_exec('new', replace(:'tables', quote_ident(odd(1)), quote_ident(odd(11)))) AS there;
SELECT dblink_exec('new', format('ALTER TABLE %I.%I RENAME TO %I', odd(11), odd(5), odd(12))) AS renamed;
SELECT dblink_exec('new', format('ALTER TABLE %I.%I RENAME %I TO %I', odd(11), odd(12), odd(8), odd(13))) AS renamed;
SELECT dblink_exec('new', format('ALTER TYPE %I.%I SET SCHEMA public', odd(11), odd(2))) AS moved;
SELECT format('ALTER TYPE %I.%I SET SCHEMA public', odd(1), odd(2)) \gexec

SELECT format('CREATE ROLE %I', odd(14)) \gexec
SELECT format('GRANT USAGE ON SCHEMA %I TO %I', odd(1), odd(14)) \gexec
SELECT format('GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA %I TO %I', odd(1), odd(14)) \gexec
SELECT format('ALTER SERVER new RENAME TO %I', odd(15)) \gexec
SELECT format('CREATE SCHEMA %I', odd(16)) \gexec

SELECT run_ops.attach_store('new', odd(15));
SELECT run_ops.attach_table(format('%I.%I', odd(1), odd(5))::regclass, 'shape', odd(6), odd(11), odd(12),
         jsonb_build_object(odd(8), odd(13)), view_schema => odd(16), view_name => odd(17)) IS NOT NULL AS shape;
SELECT run_ops.attach_table(format('%I.%I', odd(1), odd(9))::regclass, 'anchor', odd(7), odd(11), view_schema => odd(16)) IS NOT NULL AS anchor;
SELECT run_ops.attach_table(format('%I.%I', odd(1), odd(10))::regclass, 'store', store_schema => odd(11), view_schema => odd(16)) IS NOT NULL AS store;
SELECT run_ops.configure_split(true, true);
SELECT gate, object, detail FROM run_ops.check_split() WHERE ok IS NOT TRUE;
SELECT run_ops.grant_admin(format('%I', odd(14))::regrole);
-- the write lock of the store, as check_split() has it
SELECT dblink_exec('new', x.command) AS locked FROM (
  SELECT run_ops.store_write_lock(view) AS command FROM run_ops.routed_table WHERE routing <> 'store') AS x, dblink_connect('new', odd(15));
SELECT run_ops.enable_split();
SELECT run_ops.refresh_table(view) IS NULL AS refreshed FROM run_ops.routed_table;

-- Values that look like SQL, through every way in.
SELECT $$'); DROP TABLE run_ops.store; --\' "x" %s %1$I $1 {"a": 1} $$ || E'\n\t\x7f é' AS hostile \gset
SELECT format('SET ROLE %I', odd(14)) \gexec
SELECT format('INSERT INTO %I.%I VALUES ($1 || repeat(''n'', 27), %L, $2), ($1 || repeat(''l'', 25), DEFAULT, $2 || ''2'')', odd(16), odd(17), odd(3)) AS command \gset
PREPARE put (text, text) AS :command;
EXECUTE put ('run_', :'hostile');
EXECUTE put ('''_', :'hostile' || 3);
SELECT format('INSERT INTO %I.%I SELECT $1, p || i FROM unnest(ARRAY[''run_'', ''"_'', ''\_'']) AS p, unnest(ARRAY[repeat(''n'', 27), repeat(''l'', 25)]) AS i', odd(16), odd(9)) AS command \gset
PREPARE steps (text) AS :command;
EXECUTE steps (:'hostile');
SELECT format('INSERT INTO %I.%I VALUES ($1 || repeat(''n'', 27 - length($1)), $1), ($1, $1)', odd(16), odd(10)) AS command \gset
PREPARE tag (text) AS :command;
EXECUTE tag ('''); --');
SELECT format('UPDATE %I.%I SET %I = %I || ''!''', odd(16), odd(17), odd(8), odd(8)) \gexec
RESET ROLE;
SELECT view, store, rows, hostile FROM (
  SELECT 'shape' AS view, c.store, query_to_xml(format('SELECT count(*) AS n, count(*) FILTER (WHERE position(%L IN %I) = 1) AS h FROM %s',
           :'hostile', odd(8), c.relation), false, false, '') AS x
    FROM run_ops.routed_table AS t, run_ops.copies(t) AS c WHERE t.routing = 'shape') AS q,
  xmltable('//row' PASSING x COLUMNS rows int PATH 'n', hostile int PATH 'h') ORDER BY 2;
SELECT run_ops.locate(view, 'run_' || repeat('n', 27)), run_ops.lock_row(view, '''_' || repeat('n', 27)), run_ops.locate(view, :'hostile')
  FROM run_ops.routed_table WHERE routing = 'shape';
SELECT format('INSERT INTO %s (%I, %I) VALUES (%L, ''x'') ON CONFLICT (%2$I) DO UPDATE SET %3$I = EXCLUDED.%3$I', view, odd(6), odd(7), :'hostile')
  FROM run_ops.routed_table WHERE routing = 'store' \gexec
SELECT run_ops.locate(view, :'hostile') FROM run_ops.routed_table WHERE routing = 'store';
SELECT s.* FROM run_ops.routed_table, run_ops.find_strays(view) AS s;
SELECT run_ops.owner_engine(:'hostile');
SELECT run_ops.setting(:'hostile');
SELECT run_ops.acknowledge(:'hostile', :'hostile', :'hostile');
SELECT run_ops.acknowledge('index', :'hostile', :'hostile');
SELECT (run_ops.acknowledged(('index', :'hostile', false, '', ''))).detail = format('; acknowledged by %s: %s', session_user, :'hostile') AS acknowledged;
SELECT run_ops.withdraw_acknowledgement('index', :'hostile');
SELECT detail ->> 'reason' = :'hostile' AS audited FROM run_ops.audit_log WHERE action = 'acknowledge';
SELECT run_ops.trust_standby(:'hostile');
SELECT run_ops.attach_store(:'hostile', odd(15));
SELECT run_ops.bump_epoch(:'hostile', :'hostile');
SELECT count(*) FROM run_ops.cache_epoch WHERE key = :'hostile';
SELECT run_ops.cleanup_environment(:'hostile'), run_ops.mint_flags(jsonb_build_object(:'hostile', :'hostile')),
       run_ops.resolve_mint_kind(:'hostile');

-- The way back: rows are compared and copied as text.
SELECT run_ops.repatriate(2) IS NOT NULL AS batch FROM generate_series(1, 12);
SELECT count(*) FROM run_ops.repatriation_conflicts();
SELECT run_ops.disable_split(repatriated => true);
SELECT format('SELECT count(*), count(*) FILTER (WHERE position(%L IN %I) = 1) AS hostile, count(DISTINCT %I) AS labels FROM %I.%I', :'hostile', odd(8), odd(7), odd(1), odd(5)) \gexec
SELECT format('SELECT count(*) FROM %I.%I', odd(1), odd(9)) \gexec
SELECT format('SELECT count(*) FROM %I.%I', odd(1), odd(10)) \gexec
-- and forth
SELECT format('UPDATE %I.%I SET %I = $x$b'' \ $x$', odd(16), odd(10), odd(7)) \gexec
SELECT run_ops.enable_split();
SELECT store, n FROM run_ops.store_row_counts() ORDER BY 2;
SELECT run_ops.disable_split(force => true);
SELECT run_ops.detach_table(view) IS NULL AS detached FROM run_ops.routed_table;
SELECT run_ops.detach_store('new');

\c postgres
\set ECHO none
SET client_min_messages = warning;
DROP DATABASE regress_identifiers;
SELECT format('DROP ROLE %I', rolname) FROM pg_roles WHERE rolname ~ '^regress_14 ' \gexec

-- The decision table of the mint kind, row by row, against the functions and
-- triggers themselves.  A row that differs would be listed at the end.
\set ECHO none
CREATE DATABASE mint_kind_vectors;
\c mint_kind_vectors
\i test/fixtures/minting.sql
CREATE EXTENSION dblink;
\set ECHO all

CREATE TABLE vector (
  n int PRIMARY KEY, rule text, inputs text, expected text, flag_read text,
  detail text, source text, since text);
\copy vector FROM 'test/data/mint_kind_vectors.csv' WITH (FORMAT csv, HEADER)

-- Rows that say nothing about a database.
CREATE TABLE not_applicable (n int, reason text);
INSERT INTO not_applicable VALUES
  (28, 'a caller cannot pass flags: they are read from the row'),
  (30, 'stale by design: there is no cache here, row 31 holds at once'),
  (32, 'stale by design: there is no cache here, row 33 holds at once');

-- Rows where this design decides otherwise, or that are put in words.
CREATE TABLE restated (n int, inputs text, expected text, reason text);
INSERT INTO restated VALUES
  (13, NULL, 'cuid', 'L14: with a WARNING, like any failure on the way'),
  (27, 'organization=ksuid; global=absent', 'ksuid', 'the ksuid is a kind here'),
  (29, 'organization=no row; global=new-kind', 'new-kind', 'words'),
  (31, 'cuid to new-kind', 'new-kind', 'words'),
  (33, 'new-kind to cuid', 'cuid', 'words'),
  (57, NULL, 'no stamp', 'the kind is not added either: the row compares the flags'),
  (58, NULL, 'prev=cuid; flipped_at=not-a-date', 'carried; row 48 shows that it is inert'),
  (59, NULL, 'no stamp', 'the value is left as it is: the row compares the flags'),
  (60, 'stored: kind=new-kind prev=cuid flipped_at=T-20000; save: kind=cuid; now=T',
       'prev=cuid; flipped_at=T', 'the first of the two saves'),
  (70, 'organization: kind=new-kind; global: kind=cuid; save: NULL',
       'prev=new-kind; flipped_at=T', 'a flag taken away is a flip'),
  (71, 'organization: kind=new-kind; global: kind=cuid; save: replace other only',
       'prev=new-kind; flipped_at=T', 'a flag taken away is a flip'),
  (72, 'organization: kind=cuid; global: (none); save: kind=new-kind prev=new-kind flipped_at=T-5000',
       'prev=cuid; flipped_at=T', 'words'),
  (73, 'organization: kind=cuid; global: (none); save: kind=new-kind',
       'prev=cuid; flipped_at=T', 'T is the clock of this database, see save()'),
  -- the shape decides: 27 characters are NEW, 26 well-formed ones as well
  (74, NULL, 'new-kind', ''), (75, NULL, 'cuid', ''), (76, NULL, 'cuid', ''),
  (77, NULL, 'runOpsId', ''), (78, NULL, 'runOpsId', ''), (80, NULL, 'cuid', ''),
  (79, NULL, 'error', 'an unclassifiable parent: a write is refused'),
  (81, NULL, 'runOpsId', '');

-- Rows that the table lacks: what is in force never changes with a save.
CREATE TABLE added (n int, rule text, inputs text, expected text, reason text);
INSERT INTO added VALUES
  (160, 'stamp', 'stored: kind=cuid prev=cuid flipped_at=T+20000; save: kind=new-kind; now=T+30000',
        'prev=cuid; flipped_at=T+30000', 'row 60, the second save'),
  (170, 'stamp_baseline', 'organization: kind=new-kind; global: kind=new-kind prev=cuid flipped_at=T; save: NULL at T+10000',
        'prev=new-kind; flipped_at=T+10000', 'the global kind has not come into force yet'),
  (171, 'stamp_baseline', 'organization: kind=cuid prev=new-kind flipped_at=T; global: kind=cuid; save: NULL at T+10000',
        'prev=new-kind; flipped_at=T', 'no flip, but its grace goes on'),
  (172, 'stamp_baseline', 'organization: prev=new-kind flipped_at=T; global: kind=cuid; save: other only at T+10000',
        'prev=new-kind; flipped_at=T', 'the grace of a flag that was taken away goes on'),
  (173, 'stamp_baseline', 'organization: prev=new-kind flipped_at=T; global: kind=cuid; save: kind=cuid at T+10000',
        'prev=new-kind; flipped_at=T+10000', 'also when the flag comes back as the global kind'),
  (174, 'stamp_baseline', 'organization: prev=new-kind flipped_at=T; global: kind=cuid; save: kind=cuid at T+95000',
        'no stamp', 'but not longer');

CREATE VIEW row_to_run AS
  SELECT v.n, v.rule, coalesce(r.inputs, v.inputs) AS inputs, coalesce(r.expected, v.expected) AS expected
    FROM vector AS v LEFT JOIN restated AS r USING (n)
   WHERE v.n NOT IN (SELECT n FROM not_applicable)
  UNION ALL
  SELECT n, rule, inputs, expected FROM added;

-- Words of the table -----------------------------------------------------------
-- The new kind is what run_ops_split.new_mint_kind says; both are run below.

CREATE FUNCTION words(t text) RETURNS text LANGUAGE sql AS $$
  SELECT replace(t, 'new-kind', current_setting('run_ops_split.new_mint_kind'))
$$;

-- 'a=1; b=2' or 'a: 1; b: 2'
CREATE FUNCTION input(inputs text, name text) RETURNS text LANGUAGE sql AS $$
  SELECT words(substring('; ' || inputs || ';' FROM '; ' || name || '(?:=|: )([^;]*);'))
$$;

-- T, T+1000, T-1000 as a moment; not-a-date as it is
CREATE FUNCTION moment(t text, zero timestamptz) RETURNS text LANGUAGE sql AS $$
  SELECT CASE WHEN t ~ '^T' THEN
    to_char((zero + make_interval(secs => coalesce(nullif(substr(t, 2), '')::int, 0) / 1000.0))
            AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
  ELSE t END
$$;

-- 'kind=K prev=K flipped_at=T', '(none)', 'other only', 'NULL'
CREATE FUNCTION flags(t text, zero timestamptz) RETURNS jsonb LANGUAGE sql AS $$
  SELECT CASE WHEN t = 'NULL' THEN NULL ELSE jsonb_strip_nulls(jsonb_build_object(
    'runOpsMintKind', substring(t FROM 'kind=(\S+)'),
    'runOpsMintKindPrev', substring(t FROM 'prev=(\S+)'),
    'runOpsMintKindFlippedAt', moment(substring(t FROM 'flipped_at=(\S+)'), zero),
    'other', CASE WHEN t ~ 'other' THEN true END)) END
$$;

-- 'cuid', 'absent', 'invalid text', 'number 1', 'null flags object'
CREATE FUNCTION flag_value(t text) RETURNS jsonb LANGUAGE sql AS $$
  SELECT CASE t WHEN 'absent' THEN NULL WHEN 'invalid text' THEN '"nonsense"'
                WHEN 'number 1' THEN '1' ELSE to_jsonb(t) END
$$;
CREATE FUNCTION organization_with(n int, t text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM organization(n::text, CASE
    WHEN t IN ('null flags object', 'no row') THEN NULL
    WHEN t = 'throws' THEN '[]'
    ELSE jsonb_strip_nulls(jsonb_build_object('runOpsMintKind', flag_value(t))) END);
  IF t = 'no row' THEN
    SET LOCAL session_replication_role = replica;  -- leaves the environment
    DELETE FROM "Organization" WHERE id = 'org_' || n;
    SET LOCAL session_replication_role = origin;
  END IF;
END $$;
CREATE FUNCTION global_is(value jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM "FeatureFlag";
  INSERT INTO "FeatureFlag" (id, key, value) SELECT 'global', 'runOpsMintKind', value
   WHERE value IS NOT NULL;
END $$;

-- Both sides as they were stored at T, with their stamps; then a save at
-- `now`, through the trigger.  T is so chosen that `now` is this moment, on
-- the database's clock.  Tells the stamp in terms of T.
CREATE FUNCTION save(n int, stored text, global text, saved text, now_is text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
  before timestamptz := date_trunc('milliseconds', clock_timestamp());
  zero   timestamptz := before - make_interval(secs =>
           coalesce(nullif(substr(now_is, 2), '')::int, 0) / 1000.0);
  old_flags jsonb := flags(stored, zero);
  new_flags jsonb := flags(saved, zero);
  result    jsonb;
  at        text;
BEGIN
  SET LOCAL session_replication_role = replica;  -- stamps as they are
  PERFORM organization(n::text, old_flags);
  UPDATE run_ops.global_mint_kind SET flags = flags(global, zero) - 'other';
  SET LOCAL session_replication_role = origin;

  -- a save merges its flags into the stored ones, or replaces them
  IF saved !~ 'NULL|replace' THEN
    new_flags := coalesce(old_flags, '{}') || new_flags;
  END IF;
  UPDATE "Organization" AS o SET "featureFlags" = new_flags WHERE id = 'org_' || n
    RETURNING o."featureFlags" INTO result;
  IF coalesce(result, '{}') - '{runOpsMintKindPrev,runOpsMintKindFlippedAt}'::text[]
     <> coalesce(new_flags, '{}') - '{runOpsMintKindPrev,runOpsMintKindFlippedAt}'::text[] THEN
    RETURN 'other flags changed: ' || result;
  END IF;
  IF NOT coalesce(result ?| '{runOpsMintKindPrev,runOpsMintKindFlippedAt}', false) THEN
    RETURN 'no stamp';
  END IF;
  at := result ->> 'runOpsMintKindFlippedAt';
  IF at = moment('T', zero) AND now_is <> 'T' THEN
    at := 'T';
  ELSIF at <> 'not-a-date' AND at::timestamptz BETWEEN before AND clock_timestamp() THEN
    at := now_is;
  END IF;
  RETURN format('prev=%s; flipped_at=%s', result ->> 'runOpsMintKindPrev', at);
END $$;

CREATE FUNCTION run_row(v row_to_run) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  i      text := v.inputs;
  kind   text;
  minted run_ops.minted_id;
  parent text;
  new_parent CONSTANT text := CASE words('new-kind')
    WHEN 'ksuid' THEN 'run_3G2Os5DWGMmuIMa4K5iiqfci7AC' ELSE 'run_06fipvvm01535lic8fpnhjd4e1' END;
BEGIN
  CASE v.rule
  WHEN 'gates' THEN
    PERFORM organization_with(v.n, coalesce(input(i, 'flag'), words('new-kind')));
    PERFORM set_config('run_ops_split.mint_enabled', input(i, 'master'), true);
    IF i ~ 'the split gate itself throws' THEN
      -- its table is locked by another session for longer than we wait
      PERFORM dblink_exec('locker', 'BEGIN; LOCK TABLE run_ops.split_state IN ACCESS EXCLUSIVE MODE');
      SET LOCAL lock_timeout = '10ms';
      kind := run_ops.resolve_mint_kind('env_' || v.n);
      PERFORM dblink_exec('locker', 'ROLLBACK');
      RETURN kind;
    END IF;
    UPDATE run_ops.split_state
       SET enabled = input(i, 'split')::boolean, identities = ARRAY[run_ops.server_identity()];
    RETURN run_ops.resolve_mint_kind('env_' || v.n);
  WHEN 'flag_source' THEN
    PERFORM organization_with(v.n, split_part(input(i, 'organization'), ' (', 1));
    PERFORM global_is(flag_value(input(i, 'global')));
    PERFORM set_config('run_ops_split.mint_flip_grace', '0', true);
    RETURN run_ops.resolve_mint_kind('env_' || v.n);
  WHEN 'flip_latency_cache' THEN
    PERFORM organization_with(v.n, split_part(words(i), ' to ', 1));
    PERFORM set_config('run_ops_split.mint_flip_grace', '0', true);
    PERFORM run_ops.resolve_mint_kind('env_' || v.n);
    UPDATE "Organization" SET "featureFlags" = jsonb_build_object('runOpsMintKind', split_part(words(i), ' to ', 2))
     WHERE id = 'org_' || v.n;
    RETURN run_ops.resolve_mint_kind('env_' || v.n);
  WHEN 'effective_kind' THEN
    RETURN run_ops.effective_mint_kind(input(i, 'kind'), input(i, 'prev'),
      moment(input(i, 'flipped_at'), '2026-03-01 12:00+00'),
      moment(input(i, 'now'), '2026-03-01 12:00+00')::timestamptz, input(i, 'grace')::int);
  WHEN 'stamp' THEN
    RETURN save(v.n, input(i, 'stored'), '(none)', input(i, 'save'), input(i, 'now'));
  WHEN 'stamp_baseline' THEN
    RETURN save(v.n, input(i, 'organization'), input(i, 'global'), split_part(input(i, 'save'), ' at ', 1),
                coalesce(nullif(split_part(input(i, 'save'), ' at ', 2), ''), 'T'));
  WHEN 'clock' THEN
    RETURN save(v.n, input(i, 'organization'), input(i, 'global'), input(i, 'save'), 'T');
  WHEN 'resolution_source' THEN
    SET LOCAL session_replication_role = replica;
    PERFORM organization(v.n::text, flags(input(i, 'organization'), clock_timestamp()));
    SET LOCAL session_replication_role = origin;
    UPDATE run_ops.global_mint_kind SET flags = coalesce(flags(input(i, 'global'), clock_timestamp()), '{}');
    kind := run_ops.resolve_mint_kind('env_' || v.n);
    PERFORM set_config('run_ops_split.mint_flip_grace', '0', true);
    -- within the grace it is prev, after it kind: so the source is told
    RETURN CASE WHEN kind <> run_ops.resolve_mint_kind('env_' || v.n)::text
      THEN format('kind=%s prev=%s flipped_at=T', run_ops.resolve_mint_kind('env_' || v.n), kind)
      ELSE format('kind=%s, no stamp', kind) END;
  WHEN 'inherit' THEN
    RETURN run_ops.resolve_inherited_mint_kind(substr(i, 8));
  WHEN 'batch_kind' THEN
    kind := split_part(input(i, 'organization flag'), ' (', 1);
    -- not called: a flag that throws, and would be seen
    PERFORM organization_with(v.n, CASE kind WHEN 'not called' THEN 'throws' ELSE kind END);
    parent := CASE input(i, 'parent') WHEN 'NEW-shaped' THEN new_parent
                WHEN 'LEGACY-shaped' THEN 'run_cm4xz8q5t0000abcd1234efgh' END;
    RETURN run_ops.classify_kind((run_ops.mint_batch_id('env_' || v.n, parent)).id);
  WHEN 'batch_id' THEN
    PERFORM organization_with(v.n, input(i, 'kind'));
    minted := run_ops.mint_batch_id('env_' || v.n);
    IF minted.friendly_id <> 'batch_' || minted.id THEN
      RETURN minted;
    END IF;
    RETURN CASE WHEN minted.id ~ '^[0-9a-z]{25}$' THEN 'batch_ + 25'
                WHEN minted.id ~ '^[0-9A-Za-z]{27}$' THEN 'batch_ + 27 base62 (PR)'
                WHEN minted.id ~ '^[0-9a-v]{24}01$' THEN 'batch_ + 26 v1, region 0 (HEAD)' END;
  WHEN 'anchored_item' THEN
    PERFORM organization_with(v.n, 'throws');
    minted := run_ops.mint_run_id('env_' || v.n,
      CASE input(i, 'batch') WHEN 'NEW-shaped' THEN 'batch_06fipvvm01535lic8fpnhjd4e1'
           ELSE 'batch_cm4xz8q5t0000abcd1234efgh' END, input(i, 'region'));
    RETURN run_ops.classify_kind(minted.id)
      || coalesce(', region ' || substring(minted.id FROM '^.{24}(.)1$'), '');
  END CASE;
EXCEPTION WHEN SQLSTATE 'RO001' THEN
  RETURN 'error';
END $$;

-- Each row by itself, and nothing of it left.
CREATE TABLE result (new_kind text, n int, got text);
CREATE PROCEDURE run_all() LANGUAGE plpgsql AS $$
DECLARE
  v   row_to_run;
  got text;
BEGIN
  FOR v IN SELECT * FROM row_to_run ORDER BY n LOOP
    BEGIN
      got := run_row(v);
      RAISE SQLSTATE 'UNDO1';
    EXCEPTION WHEN SQLSTATE 'UNDO1' THEN NULL;
    END;
    INSERT INTO result VALUES (words('new-kind'), v.n, got);
  END LOOP;
END $$;

-- the session that makes the split gate fail, row 13
DO $$ BEGIN
  PERFORM dblink_connect('locker', format('host=%s port=%s dbname=%s options=''-c lock_timeout=10s''',
    split_part(current_setting('unix_socket_directories'), ', ', 1), current_setting('port'), current_database()));
END $$;
SET run_ops_split.new_mint_kind = 'ksuid';
CALL run_all();
-- the same once more; its warnings are the same too
SET client_min_messages = error;
SET run_ops_split.new_mint_kind = 'runOpsId';
CALL run_all();
RESET client_min_messages;

SELECT r.new_kind, v.rule, count(*) AS rows FROM result AS r JOIN row_to_run AS v USING (n)
 GROUP BY 1, 2 ORDER BY 1, min(n);

-- Every row of the table was run, or is named above with a reason.
SELECT v.n FROM vector AS v
 WHERE v.n NOT IN (SELECT n FROM not_applicable)
   AND (SELECT count(*) FROM result AS r WHERE r.n = v.n) <> 2;

-- What differs.
SELECT r.new_kind, n, v.rule, v.inputs, v.expected, r.got
  FROM result AS r JOIN row_to_run AS v USING (n)
 WHERE r.got IS DISTINCT FROM CASE v.rule
   WHEN 'batch_id' THEN CASE WHEN v.expected ~ '^batch_ \+ 25' THEN v.expected
     ELSE split_part(v.expected, '; ', CASE r.new_kind WHEN 'ksuid' THEN 1 ELSE 2 END) END
   ELSE replace(v.expected, 'new-kind', r.new_kind) END
 ORDER BY r.new_kind, n;

SELECT dblink_disconnect('locker');
\set ECHO none
\c postgres
DROP DATABASE mint_kind_vectors;

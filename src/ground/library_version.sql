
-- library_version: whether the library of this session and the objects of the
-- extension have the same version.
--
-- A package replaces the library, and ALTER EXTENSION UPDATE replaces the objects,
-- perhaps weeks later.  So a library works with the objects of every released
-- version before its own.  It does not have the functions of later ones.

CREATE FUNCTION run_ops.library_version() RETURNS text
  LANGUAGE c STABLE
  AS 'MODULE_PATHNAME', 'run_ops_library_version';
COMMENT ON FUNCTION run_ops.library_version() IS
  'the version of the library that this session has; pg_extension has the version of the extension';

CREATE FUNCTION run_ops.library_differs() RETURNS TABLE (library text, is_older boolean, detail text, hint text)
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  extension text := (SELECT e.extversion FROM pg_extension AS e WHERE e.extname = 'run_ops_split');
BEGIN
  BEGIN
    library := run_ops.library_version();
  EXCEPTION WHEN undefined_function THEN
    library := '0.1.0';  -- the only one without this function
  END;
  IF library <> extension THEN
    is_older := string_to_array(library, '.')::int[] < string_to_array(extension, '.')::int[];
    detail := format('the extension is %s, and the library of this session is %s', extension, library);
    hint := CASE WHEN is_older THEN format('Install version %s on this server. Sessions that began before that keep the old library: connect again, '
                                           'or restart the server if shared_preload_libraries has run_ops_split.', extension)
                 ELSE format('ALTER EXTENSION run_ops_split UPDATE TO %L;', library) END;
    RETURN NEXT;
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.library_differs() IS
  'no row if the extension and the library of this session have the same version; otherwise which is older, and what to do';

CREATE FUNCTION run_ops.refuse_older_library() RETURNS void
  LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  found record;
BEGIN
  SELECT * INTO found FROM run_ops.library_differs() AS d WHERE d.is_older;
  IF found.is_older THEN
    RAISE EXCEPTION 'the library of this session is older than the extension'
      USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = found.detail, HINT = found.hint;
  END IF;
END $$;
COMMENT ON FUNCTION run_ops.refuse_older_library() IS
  'raises an error if this session has the library of an earlier version; ALTER EXTENSION UPDATE calls it, so that nothing changes then';

\echo Use "ALTER EXTENSION run_ops_split UPDATE" to load this file. \quit

-- New objects belong to the owner of the extension, whoever updates it: functions that
-- are SECURITY DEFINER need its user mappings.
SELECT pg_catalog.set_config('role', pg_catalog.pg_get_userbyid(extowner), true)
  FROM pg_catalog.pg_extension WHERE extname OPERATOR(pg_catalog.=) 'run_ops_split';

-- new statements

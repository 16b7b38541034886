/*
 * library_version.c
 *		Tells the version of the library.
 *
 * The Makefile takes it from the control file.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(run_ops_library_version);

/*
 * library_version() returns text
 */
Datum
run_ops_library_version(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(RUN_OPS_VERSION));
}

/*
 * run_ops_fdw.c
 *		run_ops_fdw: the planner of postgres_fdw, and an executor of our own.
 *
 * postgres_fdw decides which part of a query a store executes, and writes its
 * SQL.  It is called through a copy of its FdwRoutine.  What executes that is in
 * foreign_scan.c, foreign_modify.c, foreign_analyze.c and foreign_import.c;
 * foreign_plan.c tells the planner more about lookups by key.  Nothing is left
 * that would use a connection of postgres_fdw.
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "foreign/fdwapi.h"
#include "foreign/foreign.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "reads/foreign_plan.h"
#include "stores/foreign_analyze.h"
#include "stores/foreign_import.h"
#include "stores/foreign_modify.h"
#include "stores/foreign_scan.h"
#include "stores/remote_rows.h"

PG_FUNCTION_INFO_V1(run_ops_fdw_handler);
PG_FUNCTION_INFO_V1(run_ops_fdw_validator);

/*
 * Fills postgres_fdw_routine.  The functions of postgres_fdw are looked up in
 * its library and not in the catalog, because it may be installed in any
 * schema.
 */
static void
load_postgres_fdw(void)
{
	LOCAL_FCINFO(fcinfo, 0);
	PGFunction	handler;

	if (postgres_fdw_routine.type == T_FdwRoutine)
		return;
	handler = load_external_function("$libdir/postgres_fdw",
									 "postgres_fdw_handler", true, NULL);
	InitFunctionCallInfoData(*fcinfo, NULL, 0, InvalidOid, NULL, NULL);
	postgres_fdw_routine = *(FdwRoutine *) DatumGetPointer(handler(fcinfo));
}

/* ----------------------------------------------------------------
 *		Options
 * ----------------------------------------------------------------
 */

/* Is it one of ours, on an object of that catalog?  Checks its value. */
static bool
is_own_option(DefElem *def, Oid catalog)
{
	if (catalog == AttributeRelationId &&
		(strcmp(def->defname, RUN_OPS_FDW_OPTION_INDEXED) == 0 ||
		 strcmp(def->defname, RUN_OPS_FDW_OPTION_ORDER_DIFFERS) == 0))
		(void) defGetBoolean(def);
	else if (catalog == ForeignServerRelationId && strcmp(def->defname, "pooled") == 0)
		(void) defGetBoolean(def);
	else if (catalog == ForeignServerRelationId && strcmp(def->defname, "read_from") == 0)
		(void) defGetString(def);
	else
		return catalog == ForeignTableRelationId && strcmp(def->defname, "key") == 0;
	return true;
}

/*
 * Options of postgres_fdw that would make it connect: only our own connections
 * see what the transaction has done, and wait with a limit.
 */
static void
refuse_option(DefElem *def)
{
	if ((strcmp(def->defname, "use_remote_estimate") == 0 ||
		 strcmp(def->defname, "async_capable") == 0) && defGetBoolean(def))
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("option \"%s\" is not supported by run_ops_fdw", def->defname),
				 errdetail("It would use a connection of postgres_fdw, which does not see what the transaction has written.")));
}

/*
 * run_ops_fdw_validator(options text[], catalog oid)
 *
 * Accepts the options of postgres_fdw, except those that would make it connect,
 * the column options "indexed" and "order_differs", the table option "key" and the server options
 * "pooled" and "read_from".  Errors: HV00D for the others.
 */
Datum
run_ops_fdw_validator(PG_FUNCTION_ARGS)
{
	Oid			catalog = PG_GETARG_OID(1);
	ArrayBuildState *others = initArrayResult(TEXTOID, CurrentMemoryContext,
											  false);
	PGFunction	validator;
	ListCell   *lc;

	foreach(lc, untransformRelOptions(PG_GETARG_DATUM(0)))
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		refuse_option(def);
		if (!is_own_option(def, catalog))
			accumArrayResult(others,
							 CStringGetTextDatum(psprintf("%s=%s", def->defname,
														  defGetString(def))),
							 false, TEXTOID, CurrentMemoryContext);
	}

	validator = load_external_function("$libdir/postgres_fdw",
									   "postgres_fdw_validator", true, NULL);
	DirectFunctionCall2(validator,
						makeArrayResult(others, CurrentMemoryContext),
						ObjectIdGetDatum(catalog));
	PG_RETURN_VOID();
}

/* ----------------------------------------------------------------
 *		The handler
 * ----------------------------------------------------------------
 */

/*
 * run_ops_fdw_handler() returns fdw_handler
 */
Datum
run_ops_fdw_handler(PG_FUNCTION_ARGS)
{
	FdwRoutine *routine = makeNode(FdwRoutine);

	load_postgres_fdw();
	*routine = postgres_fdw_routine;
	foreign_plan_routine(routine);
	foreign_scan_routine(routine);
	foreign_modify_routine(routine);
	routine->AnalyzeForeignTable = foreign_analyze;
	routine->ImportForeignSchema = foreign_import;
	PG_RETURN_POINTER(routine);
}

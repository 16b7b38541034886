/*
 * lazy_fdw.c
 *		run_ops_fdw: a postgres_fdw that connects when the first row is
 *		requested.
 *
 * postgres_fdw connects and opens a remote transaction as soon as a plan
 * starts, even for a leaf of a union view that its One-Time Filter will skip.
 * So a lookup of a LEGACY id would fail while the NEW store is down.  The one
 * idea: here a scan begins when its first row is requested.  Until then the
 * node has our callbacks, and from then on those of postgres_fdw.
 *
 * Connections, deparsing, pushdown, writes, batching, asynchronous execution,
 * IMPORT and ANALYZE are the code of postgres_fdw, which is called through a
 * copy of its FdwRoutine.  The paths and estimates for the planner are in
 * lazy_fdw_plan.c.
 *
 * Non-goals: this file opens no connections, writes no remote SQL, and does
 * not depend on private structs of postgres_fdw.
 */
#include "postgres.h"

#include "access/reloptions.h"
#include "access/xact.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "foreign/fdwapi.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/tuplestore.h"

#include "ground/compat.h"
#include "reads/lazy_fdw_plan.h"
#include "reads/seam_pruning.h"
#include "stores/read_gate.h"
#include "wire/connect_limit.h"
#include "wire/cross_store_writes.h"

PG_FUNCTION_INFO_V1(run_ops_fdw_handler);
PG_FUNCTION_INFO_V1(run_ops_fdw_validator);


/*
 * The fdw_state of a node whose scan has not been handed over to postgres_fdw.
 * It is in the per-query memory of the executor.
 */
typedef struct LazyScan
{
	int			eflags;			/* of the postponed begin */
	Oid			userid;			/* the user as whom the scan has to begin */
	SubTransactionId subid;		/* where postgres_fdw would have begun */
	ExprState  *precheck;		/* NULL: no precheck */
	bool		precheck_done;	/* since the last rescan */
	bool		precheck_passed;
	bool		begun;			/* postgres_fdw has begun the scan */
	void	   *postgres_fdw_state; /* fdw_state of postgres_fdw, once begun */
	Tuplestorestate *rows;		/* all rows, if they had to be read at once */
	TupleTableSlot *rows_slot;
} LazyScan;

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

/*
 * run_ops_fdw_validator(options text[], catalog oid)
 *
 * Accepts the options of postgres_fdw, the column option "indexed" and the
 * table option "key".
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

		if (catalog == AttributeRelationId &&
			strcmp(def->defname, RUN_OPS_FDW_OPTION_INDEXED) == 0)
			(void) defGetBoolean(def);
		else if (catalog != ForeignTableRelationId ||
				 strcmp(def->defname, RUN_OPS_FDW_OPTION_KEY) != 0)
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
 *		Execution
 * ----------------------------------------------------------------
 */

/*
 * Compiles the prechecks that lazyGetForeignPlan() has added to the plan; NULL
 * if there is none.
 */
static ExprState *
init_precheck(ForeignScanState *node)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	List	   *prechecks = NIL;
	ListCell   *lc;

	foreach(lc, plan->fdw_recheck_quals)
	{
		Node	   *clause = lfirst(lc);

		if (is_resides(clause) && !contain_var_clause(clause))
			prechecks = lappend(prechecks, clause);
	}
	return ExecInitQual(prechecks, (PlanState *) node);
}

/*
 * While a callback of postgres_fdw runs, the node has the state of
 * postgres_fdw; otherwise it has ours.  An error in between ends the query,
 * and then the node is not used again.
 */
static void
lend_to_postgres_fdw(ForeignScanState *node, LazyScan *scan)
{
	node->fdw_state = scan->postgres_fdw_state;
}

static void
take_back(ForeignScanState *node, LazyScan *scan)
{
	scan->postgres_fdw_state = node->fdw_state;
	node->fdw_state = scan;
}

static void
begin_postgres_fdw_scan(ForeignScanState *node, int eflags)
{
	CONNECT_LIMIT_BEGIN(((ForeignScan *) node->ss.ps.plan)->fs_server);
	postgres_fdw_routine.BeginForeignScan(node, eflags);
	CONNECT_LIMIT_END();
}

static void
lazyBeginForeignScan(ForeignScanState *node, int eflags)
{
	LazyScan   *scan;

	/*
	 * Asynchronous execution uses the state of postgres_fdw before the first
	 * row, so such a scan begins now.  It never has a One-Time Filter: the
	 * planner does not choose an async-capable scan there.  A scan for system
	 * columns begins now as well, because read_all_rows() would lose them.
	 * Only writes request them, and writes need the connection anyway.
	 */
	if (node->ss.ps.async_capable ||
		((ForeignScan *) node->ss.ps.plan)->fsSystemCol)
	{
		if (!(eflags & EXEC_FLAG_EXPLAIN_ONLY))
			split_require_active(((ForeignScan *) node->ss.ps.plan)->fs_server);
		node->fdwroutine = &postgres_fdw_routine;
		begin_postgres_fdw_scan(node, eflags);
		return;
	}
	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;

	scan = palloc0(sizeof(LazyScan));
	scan->eflags = eflags;
	scan->userid = GetUserId();
	scan->subid = GetCurrentSubTransactionId();
	scan->precheck = init_precheck(node);
	node->fdw_state = scan;
}

/*
 * Does the postponed begin in the memory context and as the user of the
 * original one.
 */
static void
begin_scan(ForeignScanState *node, LazyScan *scan)
{
	MemoryContext oldcontext;
	Oid			userid;
	int			sec_context;

	split_require_active(((ForeignScan *) node->ss.ps.plan)->fs_server);

	/* the current context is reset for each row */
	oldcontext = MemoryContextSwitchTo(node->ss.ps.state->es_query_cxt);

	/* the user may have changed between DECLARE CURSOR and the first FETCH */
	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(scan->userid,
						   sec_context | SECURITY_LOCAL_USERID_CHANGE);
	node->fdw_state = NULL;
	begin_postgres_fdw_scan(node, scan->eflags);
	SetUserIdAndSecContext(userid, sec_context);

	MemoryContextSwitchTo(oldcontext);
	scan->begun = true;
	take_back(node, scan);
}

static void
end_scan(ForeignScanState *node, LazyScan *scan)
{
	lend_to_postgres_fdw(node, scan);
	postgres_fdw_routine.EndForeignScan(node);
	take_back(node, scan);
	scan->begun = false;
}

/*
 * The remote cursor belongs to the remote subtransaction in which it is
 * opened.  That can be younger than the scan: the first FETCH from a local
 * cursor may come after a SAVEPOINT.  Then ROLLBACK TO SAVEPOINT would close
 * the remote cursor, although the local one stays open.  So all rows are read
 * at once.
 */
static void
read_all_rows(ForeignScanState *node, LazyScan *scan)
{
	MemoryContext oldcontext;
	TupleTableSlot *slot;

	oldcontext = MemoryContextSwitchTo(node->ss.ps.state->es_query_cxt);
	scan->rows = tuplestore_begin_heap(true, false, work_mem);
	if (scan->rows_slot == NULL)
		scan->rows_slot =
			ExecInitExtraTupleSlot(node->ss.ps.state,
								   node->ss.ss_ScanTupleSlot->tts_tupleDescriptor,
								   &TTSOpsMinimalTuple);
	MemoryContextSwitchTo(oldcontext);

	lend_to_postgres_fdw(node, scan);
	while (slot = postgres_fdw_routine.IterateForeignScan(node),
		   !TupIsNull(slot))
	{
		CHECK_FOR_INTERRUPTS();
		tuplestore_puttupleslot(scan->rows, slot);
		MemoryContextReset(node->ss.ps.ps_ExprContext->ecxt_per_tuple_memory);
	}
	take_back(node, scan);
	end_scan(node, scan);
}

static bool
in_younger_subtransaction(LazyScan *scan)
{
	return GetCurrentTransactionNestLevel() > 1 &&
		GetCurrentSubTransactionId() != scan->subid;
}

static TupleTableSlot *
lazyIterateForeignScan(ForeignScanState *node)
{
	LazyScan   *scan = node->fdw_state;
	TupleTableSlot *slot = node->ss.ss_ScanTupleSlot;

	if (!scan->precheck_done)
	{
		scan->precheck_passed = ExecQual(scan->precheck,
										 node->ss.ps.ps_ExprContext);
		scan->precheck_done = true;
	}
	if (!scan->precheck_passed)
		return ExecClearTuple(slot);

	if (!scan->begun && scan->rows == NULL)
	{
		begin_scan(node, scan);
		if (in_younger_subtransaction(scan))
			read_all_rows(node, scan);
		else if (scan->precheck == NULL)
		{
			lend_to_postgres_fdw(node, scan);
			node->fdwroutine = &postgres_fdw_routine;
			return postgres_fdw_routine.IterateForeignScan(node);
		}
	}

	if (scan->rows)
	{
		if (!tuplestore_gettupleslot(scan->rows, true, false, scan->rows_slot))
			return ExecClearTuple(slot);
		return ExecCopySlot(slot, scan->rows_slot);
	}
	lend_to_postgres_fdw(node, scan);
	slot = postgres_fdw_routine.IterateForeignScan(node);
	take_back(node, scan);
	return slot;
}

static void
lazyReScanForeignScan(ForeignScanState *node)
{
	LazyScan   *scan = node->fdw_state;

	if (scan == NULL)
		return;
	scan->precheck_done = false;
	if (scan->rows && node->ss.ps.chgParam != NULL)
	{
		tuplestore_end(scan->rows);
		scan->rows = NULL;
	}
	else if (scan->rows)
		tuplestore_rescan(scan->rows);
	if (scan->begun)
	{
		lend_to_postgres_fdw(node, scan);
		postgres_fdw_routine.ReScanForeignScan(node);
		take_back(node, scan);
	}
}

static void
lazyEndForeignScan(ForeignScanState *node)
{
	LazyScan   *scan = node->fdw_state;

	if (scan == NULL)
		return;
	if (scan->rows)
		tuplestore_end(scan->rows);
	if (scan->begun)
		end_scan(node, scan);
}

/*
 * Writes and ANALYZE connect at once.  These callbacks only check that the
 * store may be used, and limit the time for connecting.
 */

static Oid
server_of(Relation rel)
{
	return GetForeignTable(RelationGetRelid(rel))->serverid;
}

static void
lazyBeginForeignModify(ModifyTableState *mtstate, ResultRelInfo *target,
					   List *fdw_private, int subplan_index, int eflags)
{
	Oid			serverid = server_of(target->ri_RelationDesc);

	if (!(eflags & EXEC_FLAG_EXPLAIN_ONLY))
		split_require_active(serverid);
	CONNECT_LIMIT_BEGIN(serverid);
	postgres_fdw_routine.BeginForeignModify(mtstate, target, fdw_private,
											subplan_index, eflags);
	CONNECT_LIMIT_END();
}

static void
lazyBeginForeignInsert(ModifyTableState *mtstate, ResultRelInfo *target)
{
	Oid			serverid = server_of(target->ri_RelationDesc);

	split_require_active(serverid);
	CONNECT_LIMIT_BEGIN(serverid);
	postgres_fdw_routine.BeginForeignInsert(mtstate, target);
	CONNECT_LIMIT_END();
}

static void
lazyBeginDirectModify(ForeignScanState *node, int eflags)
{
	Oid			serverid = ((ForeignScan *) node->ss.ps.plan)->fs_server;

	if (!(eflags & EXEC_FLAG_EXPLAIN_ONLY))
		split_require_active(serverid);
	CONNECT_LIMIT_BEGIN(serverid);
	postgres_fdw_routine.BeginDirectModify(node, eflags);
	CONNECT_LIMIT_END();
}

static void
lazyExecForeignTruncate(List *rels, DropBehavior behavior, bool restart_seqs)
{
	ListCell   *lc;

	foreach(lc, rels)
		split_require_active(server_of(lfirst(lc)));
	CONNECT_LIMIT_BEGIN(InvalidOid);
	postgres_fdw_routine.ExecForeignTruncate(rels, behavior, restart_seqs);
	CONNECT_LIMIT_END();
}

static List *
lazyImportForeignSchema(ImportForeignSchemaStmt *stmt, Oid serverid)
{
	List	   *result = NIL;

	CONNECT_LIMIT_BEGIN(InvalidOid);
	result = postgres_fdw_routine.ImportForeignSchema(stmt, serverid);
	CONNECT_LIMIT_END();
	return result;
}

static bool
lazyAnalyzeForeignTable(Relation rel, AcquireSampleRowsFunc *func,
						BlockNumber *totalpages)
{
	Oid			serverid = server_of(rel);
	bool		result = false;

	split_require_active(serverid);
	CONNECT_LIMIT_BEGIN(serverid);
	result = postgres_fdw_routine.AnalyzeForeignTable(rel, func, totalpages);
	CONNECT_LIMIT_END();
	return result;
}

/*
 * run_ops_fdw_handler() returns fdw_handler
 */
Datum
run_ops_fdw_handler(PG_FUNCTION_ARGS)
{
	FdwRoutine *routine = makeNode(FdwRoutine);

	load_postgres_fdw();
	*routine = postgres_fdw_routine;
	routine->GetForeignRelSize = lazyGetForeignRelSize;
	routine->GetForeignPaths = lazyGetForeignPaths;
	routine->GetForeignPlan = lazyGetForeignPlan;
	routine->BeginForeignScan = lazyBeginForeignScan;
	routine->IterateForeignScan = lazyIterateForeignScan;
	routine->ReScanForeignScan = lazyReScanForeignScan;
	routine->EndForeignScan = lazyEndForeignScan;
	routine->BeginForeignModify = lazyBeginForeignModify;
	routine->BeginForeignInsert = lazyBeginForeignInsert;
	routine->BeginDirectModify = lazyBeginDirectModify;
	routine->ExecForeignTruncate = lazyExecForeignTruncate;
	routine->AnalyzeForeignTable = lazyAnalyzeForeignTable;
	routine->ImportForeignSchema = lazyImportForeignSchema;
	watch_foreign_writes(routine);
	PG_RETURN_POINTER(routine);
}

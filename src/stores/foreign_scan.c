/*
 * foreign_scan.c
 *		The execution of scans of foreign tables, and of UPDATE and DELETE that
 *		a store executes by itself.
 *
 * The one idea: no store is asked that need not be.  A leaf of a union view is
 * often skipped by its One-Time Filter, or comes after the last row of a LIMIT.  So
 * a scan begins when its first row is requested, and before that only if it is
 * certain that a row will be: then several stores work at the same time.  In a
 * cursor, a scan begins when that is opened.  When the plan starts, the scan only
 * says that it takes part in what the statement does in the store (wire.c), so that
 * the first scan to begin knows what others will need.
 *
 * The plan and its remote SQL are postgres_fdw's.  A query is read as it comes if
 * few rows are expected; or if all are certainly wanted, and it has no transaction
 * there, which would be lost with the connection if reading were interrupted.  Any
 * other query has a cursor, so that nothing is sent that nobody reads, and a short
 * answer is all that is ever on its way.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "tcop/pquery.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/tuplestore.h"

#include "ground/compat.h"
#include "stores/foreign_scan.h"
#include "stores/read_gate.h"
#include "stores/read_replica.h"
#include "stores/remote_rows.h"
#include "wire/cross_store_writes.h"
#include "wire/wire.h"

static ExecutorStart_hook_type next_executor_start = NULL;
static ExecutorRun_hook_type next_executor_run = NULL;

/*
 * The most rows that one FETCH requests, and from how many on it comes early; the
 * most memory that is meant for the rows of one.
 */
#define MAX_FETCH 10000
#define FETCH_AHEAD 1000
#define MAX_FETCH_BYTES (1024 * 1024)

/* the private lists of postgres_fdw; see check_layout() */
enum
{
	SCAN_SQL = 0,
	SCAN_ATTRS = 1,
	SCAN_FETCH = 2,
	DIRECT_SQL = 0,
	DIRECT_HAS_RETURNING = 1,
	DIRECT_ATTRS = 2,
	DIRECT_SET_PROCESSED = 3
};

/* The parameters of a remote query. */
typedef struct RemoteParams
{
	List	   *exprs;
	RemoteText	text;
	const char **values;
} RemoteParams;

typedef struct StoreScan
{
	WireReader	reader;			/* must be first */
	dlist_node	link;			/* in "scans" */
	ForeignScanState *node;
	Wire	   *wire;
	WireStatement *statement;
	SubTransactionId started_in;
	ResourceOwner owner;
	MemoryContextCallback cleanup;
	MemoryContextCallback unlink;

	const char *sql;
	RemoteParams params;
	List	   *attrs;
	AttInMetadata *in;
	const char *relation;		/* for messages; NULL for a join */
	ExprState  *precheck;		/* NULL: no precheck */
	LockFault	fault;			/* the scan must not begin */
	bool		depends;		/* the query depends on other nodes */
	bool		rewind;			/* the rows may be wanted again */
	bool		whole;			/* all are wanted */
	int			fetch;			/* rows of a FETCH; 0: no cursor */

	bool		precheck_done;	/* since the last rescan */
	bool		precheck_passed;
	bool		begun;
	bool		ended;			/* the store has sent its last row */
	char	   *cursor;			/* NULL: the rows come as they are */
	int			fetching;		/* rows of the last FETCH */
	bool		requested;		/* and its answer is on its way */
	PGresult   *chunk;			/* of the cursor */
	int			row;			/* the next one of it */
	PGresult   *ahead;			/* the chunk after it, if it had to come early */
	Tuplestorestate *aside;		/* what was left when the wire was needed */
	TupleTableSlot *aside_slot;

	/* UPDATE or DELETE that the store executes */
	bool		has_returning;
	bool		set_processed;
} StoreScan;

/* All scans of queries that are being executed. */
static dlist_head scans = DLIST_STATIC_INIT(scans);

/* ----------------------------------------------------------------
 *		What postgres_fdw has planned
 * ----------------------------------------------------------------
 */

/*
 * The private lists of postgres_fdw are not documented.  A version of it that
 * has other ones is refused, before anything is made of them.
 */
static void
check_layout(List *list, int n, const NodeTag *tags)
{
	for (int i = 0; i < n; i++)
	{
		Node	   *node = i < list_length(list) ? list_nth(list, i) : NULL;

		if (i >= list_length(list) || (node && tags[i] != nodeTag(node)) ||
			(node == NULL && tags[i] != T_IntList))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("this version of postgres_fdw is not supported"),
					 errdetail("Its plans have another form than run_ops_split knows."),
					 errhint("Install a version of run_ops_split that is made for this version of PostgreSQL.")));
	}
}

Node *
foreign_scan_plan(int fetch, bool locks, LockFault fault)
{
	return (Node *) list_make3_int(fetch, locks, fault);
}

void
report_lock_fault(LockFault fault, const char *table)
{
	if (fault == LOCK_FAULT_CONDITION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot lock rows of a store by a condition that is tested here"),
				 errdetail("The store would lock rows of table \"%s\" that do not meet the condition. EXPLAIN (VERBOSE) of the query without FOR UPDATE shows it as Filter.", table),
				 errhint("Select the ids without a lock. Then lock each row by its id, and test the condition on the row that is returned.")));
	if (fault == LOCK_FAULT_LIMIT)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot lock rows of a store with an ORDER BY or LIMIT that is applied here"),
				 errdetail("The store would lock rows of table \"%s\" that are not returned.", table),
				 errhint("Order by expressions that can be sent to the store. Or select the ids without a lock, and lock each row by its id.")));
}

static void
prepare_params(PlanState *planstate, List *exprs, RemoteParams *params)
{
	ListCell   *lc;

	params->exprs = ExecInitExprList(exprs, planstate);
	params->text.output = palloc0(sizeof(FmgrInfo) * list_length(exprs));
	params->values = palloc0(sizeof(char *) * list_length(exprs));
	foreach(lc, exprs)
		remote_text_add(&params->text, exprType(lfirst(lc)));
}

/* Evaluates them, in per-tuple memory. */
static void
evaluate_params(ExprContext *econtext, RemoteParams *params)
{
	MemoryContext oldcontext;
	ListCell   *lc;
	int			i = 0;
	int			nest_level;

	if (params->exprs == NIL)
		return;
	oldcontext = MemoryContextSwitchTo(econtext->ecxt_per_tuple_memory);
	nest_level = remote_text_begin(&params->text);
	foreach(lc, params->exprs)
	{
		bool		isnull;
		Datum		value = ExecEvalExpr((ExprState *) lfirst(lc), econtext, &isnull);

		params->values[i] = isnull ? NULL : OutputFunctionCall(&params->text.output[i], value);
		i++;
	}
	remote_text_end(nest_level);
	MemoryContextSwitchTo(oldcontext);
}

/*
 * The columns of the rows that come from the store.  In those of a join, a
 * whole-row variable is an anonymous record; its type is that of the table.
 */
static TupleDesc
row_type(ForeignScanState *node)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	TupleDesc	desc;

	if (plan->scan.scanrelid > 0)
		return RelationGetDescr(node->ss.ss_currentRelation);
	desc = CreateTupleDescCopy(node->ss.ss_ScanTupleSlot->tts_tupleDescriptor);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		Var		   *var = (Var *) list_nth_node(TargetEntry, plan->fdw_scan_tlist, i)->expr;
		RangeTblEntry *rte;

		if (att->atttypid != RECORDOID || att->atttypmod >= 0 ||
			!IsA(var, Var) || var->varattno != 0)
			continue;
		rte = exec_rt_fetch(var->varno, node->ss.ps.state);
		if (rte->rtekind == RTE_RELATION && OidIsValid(get_rel_type_id(rte->relid)))
			att->atttypid = get_rel_type_id(rte->relid);
	}
	return desc;
}

/*
 * The prechecks that storeGetForeignPlan() has added to the plan, or any other
 * condition that does not depend on the row: if it is false, no row is wanted.
 */
static ExprState *
init_precheck(ForeignScanState *node)
{
	List	   *prechecks = NIL;
	ListCell   *lc;

	foreach(lc, ((ForeignScan *) node->ss.ps.plan)->fdw_recheck_quals)
	{
		if (!contain_var_clause(lfirst(lc)))
			prechecks = lappend(prechecks, lfirst(lc));
	}
	return ExecInitQual(prechecks, (PlanState *) node);
}

static bool
depends_on_nodes(Node *expr, void *context)
{
	if (expr && IsA(expr, Param) && ((Param *) expr)->paramkind == PARAM_EXEC)
		return true;
	return expression_tree_walker(expr, depends_on_nodes, context);
}

/* ----------------------------------------------------------------
 *		Start and end
 * ----------------------------------------------------------------
 */

static void
forget_scan(void *arg)
{
	StoreScan  *scan = arg;

	PQclear(scan->chunk);
	PQclear(scan->ahead);
	scan->chunk = scan->ahead = NULL;
	scan->requested = false;
	wire_read_end(scan->wire, &scan->reader);
}

static void
unlink_scan(void *arg)
{
	dlist_delete(&((StoreScan *) arg)->link);
}

static void store_scan_yield(WireReader *reader);
static void store_scan_set_aside(WireReader *reader);

static StoreScan *
start_scan(ForeignScanState *node, WireNeed need)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	EState	   *estate = node->ss.ps.state;
	StoreScan  *scan = palloc0(sizeof(StoreScan));

	scan->node = node;
	scan->reader.yield = store_scan_yield;
	scan->reader.set_aside = store_scan_set_aside;
	scan->started_in = GetCurrentSubTransactionId();
	scan->owner = CurrentResourceOwner;
	scan->statement = join_to_read(plan->fs_server, compat_scan_user(node), estate, need);
	scan->wire = scan->statement->wire;
	scan->cleanup.func = forget_scan;
	scan->cleanup.arg = scan;
	MemoryContextRegisterResetCallback(estate->es_query_cxt, &scan->cleanup);
	dlist_push_head(&scans, &scan->link);
	scan->unlink.func = unlink_scan;
	scan->unlink.arg = scan;
	MemoryContextRegisterResetCallback(estate->es_query_cxt, &scan->unlink);
	scan->sql = strVal(list_nth(plan->fdw_private, SCAN_SQL));
	scan->in = TupleDescGetAttInMetadata(row_type(node));
	if (plan->scan.scanrelid > 0)
		scan->relation = RelationGetRelationName(node->ss.ss_currentRelation);
	prepare_params((PlanState *) node, plan->fdw_exprs, &scan->params);
	node->fdw_state = scan;
	return scan;
}

/*
 * Does the scan perhaps query the store several times?  It does with parameters,
 * and in a subplan, which also WITH RECURSIVE is.  While subplans start, there
 * are fewer of them than the plan has.
 */
static bool
may_begin_again(ForeignScanState *node)
{
	EState	   *estate = node->ss.ps.state;

	return !bms_is_empty(node->ss.ps.plan->allParam) ||
		list_length(estate->es_subplanstates) < list_length(estate->es_plannedstmt->subplans);
}

static void
storeBeginForeignScan(ForeignScanState *node, int eflags)
{
	static const NodeTag layout[] = {T_String, T_IntList, T_IntList};
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	List	   *how;
	StoreScan  *scan;

	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;
	check_layout(plan->fdw_private, lengthof(layout), layout);
	how = (List *) list_nth(plan->fdw_private, SCAN_FETCH);
	scan = start_scan(node, lsecond_int(how) ? WIRE_WRITE :
					  may_begin_again(node) ? WIRE_READ_MANY : WIRE_READ);
	scan->fetch = linitial_int(how);
	scan->fault = lthird_int(how);
	scan->attrs = list_nth(plan->fdw_private, SCAN_ATTRS);
	scan->rewind = (eflags & (EXEC_FLAG_REWIND | EXEC_FLAG_BACKWARD)) != 0;
	scan->depends = depends_on_nodes((Node *) plan->fdw_exprs, NULL);
	scan->precheck = init_precheck(node);
}

/* Nothing more is wanted from the store. */
static void
finish_remote(StoreScan *scan)
{
	if (scan->reader.is_reading && scan->cursor == NULL)
	{
		int			unread = 0;

		while (wire_receive(scan->wire) != NULL)
		{
			if (++unread == MAX_FETCH && wire_give_up(scan->wire))
				break;
		}
	}
	else if (scan->reader.is_reading)
	{
		wire_read_stop(scan->wire, &scan->reader);
		wire_tell(scan->wire, psprintf("CLOSE %s", scan->cursor));
	}
	forget_scan(scan);
	if (scan->aside)
		tuplestore_end(scan->aside);
	scan->aside = NULL;
	scan->cursor = NULL;
	scan->begun = scan->ended = false;
}

static void
storeReScanForeignScan(ForeignScanState *node)
{
	StoreScan  *scan = node->fdw_state;

	if (scan == NULL)
		return;
	scan->precheck_done = false;
	if (scan->begun && scan->rewind &&
		(node->ss.ps.chgParam == NULL || !scan->depends))
		tuplestore_rescan(scan->aside);
	else if (scan->begun)
		finish_remote(scan);
}

static void
storeEndForeignScan(ForeignScanState *node)
{
	StoreScan  *scan = node->fdw_state;

	if (scan == NULL)
		return;
	finish_remote(scan);
	wire_leave(scan->statement);
}

/* ----------------------------------------------------------------
 *		Rows
 * ----------------------------------------------------------------
 */

/* Sends a FETCH in the flight that has begun. */
static void
request_chunk(StoreScan *scan)
{
	wire_send(scan->wire, psprintf("FETCH %d FROM %s", scan->fetching, scan->cursor),
			  0, NULL, false);
	wire_read_begin(scan->wire, &scan->reader);
	scan->requested = true;
}

static PGresult *
receive_chunk(StoreScan *scan)
{
	PGresult   *chunk = wire_take_whole(scan->wire);

	scan->requested = false;
	if (PQntuples(chunk) < scan->fetching)
	{
		scan->ended = true;
		wire_read_end(scan->wire, &scan->reader);
		wire_tell(scan->wire, psprintf("CLOSE %s", scan->cursor));
	}
	return chunk;
}

/*
 * Is the subtransaction over in which the scan started, or is there a younger one?
 * Then what is asked of the store now is lost if the current one is rolled back,
 * though the local cursor goes on.
 */
static bool
in_other_subtransaction(StoreScan *scan)
{
	return GetCurrentSubTransactionId() != scan->started_in;
}

/*
 * The next rows of a cursor.  Who has read that many will read on: so the store
 * prepares the next ones meanwhile.  It keeps all rows of a FETCH before it sends
 * the first, and this server has them in memory, so there are not too many.
 *
 * In another subtransaction nothing is requested ahead: the store's cursor would
 * be behind those rows also after ROLLBACK TO, which nobody waits for.
 */
static void
next_chunk(StoreScan *scan)
{
	size_t		row_size;

	PQclear(scan->chunk);
	scan->row = 0;
	scan->chunk = scan->ahead;
	scan->ahead = NULL;
	if (scan->chunk == NULL)
	{
		if (!scan->requested)
		{
			wire_begin(scan->wire, scan->statement->need, scan->statement);
			request_chunk(scan);
		}
		scan->chunk = receive_chunk(scan);
	}
	row_size = PQresultMemorySize(scan->chunk) / Max(PQntuples(scan->chunk), 1) + 1;
	scan->fetching = Min(scan->fetching * 2, Min(MAX_FETCH, MAX_FETCH_BYTES / row_size + 1));
	if (!scan->ended && scan->fetching >= FETCH_AHEAD &&
		!in_other_subtransaction(scan))
	{
		wire_begin(scan->wire, scan->statement->need, scan->statement);
		request_chunk(scan);
	}
}

void
note_statement_write(WireStatement *statement, Oid relid)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(GetMemoryChunkContext(statement));

	statement->changed = list_append_unique_oid(statement->changed, relid);
	MemoryContextSwitchTo(oldcontext);
	note_foreign_write(relid);
}

/*
 * A read in the store would show the rows that the statement has changed, and one of
 * a table shows those from before it.
 */
static void
refuse_read_after_write(WireStatement *statement, Oid relid)
{
	if (!list_member_oid(statement->changed, relid))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot read rows of foreign table \"%s\" that the same statement has changed",
					get_rel_name(relid)),
			 errdetail("The store would show the new rows, where a table shows those from before the statement."),
			 errhint("Read the rows in a statement of its own. Or use what RETURNING returns.")));
}

/* The tables that the remote query of a scan reads. */
static void
refuse_to_begin_after_write(StoreScan *scan)
{
	ForeignScan *plan = (ForeignScan *) scan->node->ss.ps.plan;
	EState	   *estate = scan->node->ss.ps.state;
	int			rti = -1;

	if (scan->statement->changed == NIL)
		return;
	if (plan->scan.scanrelid > 0)
		refuse_read_after_write(scan->statement, exec_rt_fetch(plan->scan.scanrelid, estate)->relid);
	while ((rti = bms_next_member(plan->fs_relids, rti)) >= 0)
	{
		RangeTblEntry *rte = exec_rt_fetch(rti, estate);

		if (rte->rtekind == RTE_RELATION)
			refuse_read_after_write(scan->statement, rte->relid);
	}
}

/*
 * A cursor that is opened in another subtransaction than the scan (the first
 * FETCH from a local cursor may come after a SAVEPOINT) would be closed when
 * that is rolled back, so there is none, and all rows are read at once.
 */
static void
begin_scan(StoreScan *scan)
{
	ForeignScanState *node = scan->node;
	bool		at_once = scan->rewind || in_other_subtransaction(scan);
	WireNeed	need = scan->statement->need;

	report_lock_fault(scan->fault, scan->relation);
	split_require_active(((ForeignScan *) node->ss.ps.plan)->fs_server);
	refuse_to_begin_after_write(scan);
	scan->wire = wire_to_read(scan->statement);
	evaluate_params(node->ss.ps.ps_ExprContext, &scan->params);
	scan->begun = true;
	if (scan->fetch > 0 && !at_once &&
		!(scan->whole && wire_reads_alone(scan->wire, need)))
	{
		wire_begin(scan->wire, Max(need, WIRE_READ_MANY), scan->statement);
		scan->cursor = MemoryContextStrdup(node->ss.ps.state->es_query_cxt,
										   wire_cursor_name(scan->wire));
		scan->fetching = Min(scan->fetch, FETCH_AHEAD);
		wire_add(scan->wire, psprintf("DECLARE %s NO SCROLL CURSOR FOR %s", scan->cursor, scan->sql),
				 scan->params.text.n, scan->params.values);
		request_chunk(scan);
		return;
	}
	wire_begin(scan->wire, need, scan->statement);
	wire_send(scan->wire, scan->sql, scan->params.text.n, scan->params.values, true);
	wire_read_begin(scan->wire, &scan->reader);
	if (at_once)
	{
		store_scan_set_aside(&scan->reader);
		wire_read_end(scan->wire, &scan->reader);
	}
}

/* The next result with a row; its number in *row.  NULL when there is none. */
static PGresult *
next_row(StoreScan *scan, int *row)
{
	PGresult   *result;

	if (scan->chunk && scan->row < PQntuples(scan->chunk))
	{
		*row = scan->row++;
		return scan->chunk;
	}
	if (scan->ended && scan->ahead == NULL)
		return NULL;
	if (!scan->reader.is_reading && scan->ahead == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("connection to store \"%s\" was lost while a query was read",
						wire_store(scan->wire))));
	if (scan->cursor)
	{
		next_chunk(scan);
		return next_row(scan, row);
	}
	while ((result = wire_receive(scan->wire)) != NULL)
	{
		if (PQntuples(result) == 0)
			continue;
		*row = 0;
		return result;
	}
	scan->ended = true;
	wire_read_end(scan->wire, &scan->reader);
	return NULL;
}

/* The answer that is on its way: the rows of a cursor, or all of a query. */
static void
store_scan_yield(WireReader *reader)
{
	StoreScan  *scan = (StoreScan *) reader;

	if (scan->cursor)
		scan->ahead = receive_chunk(scan);
	else
	{
		store_scan_set_aside(reader);
		wire_read_end(scan->wire, reader);
	}
}

/* Rows that are set aside have their ctid as a last column. */
static TupleDesc
desc_with_ctid(TupleDesc desc)
{
	TupleDesc	result = CreateTemplateTupleDesc(desc->natts + 1);

	for (int i = 1; i <= desc->natts; i++)
		TupleDescCopyEntry(result, i, desc, i);
	TupleDescInitEntry(result, desc->natts + 1, "ctid", TIDOID, -1, 0);
	return result;
}

static void
store_scan_set_aside(WireReader *reader)
{
	StoreScan  *scan = (StoreScan *) reader;
	ForeignScanState *node = scan->node;
	MemoryContext context = node->ss.ps.state->es_query_cxt;
	MemoryContext row_context;
	MemoryContext oldcontext;
	ResourceOwner oldowner = CurrentResourceOwner;
	TupleDesc	desc;
	Datum	   *values;
	bool	   *nulls;
	PGresult   *result;
	ItemPointer ctid;
	int			row;

	oldcontext = MemoryContextSwitchTo(context);
	/* temporary files of the rows must live as long as the scan */
	CurrentResourceOwner = scan->owner;
	scan->aside = tuplestore_begin_heap(true, false, work_mem);
	if (scan->aside_slot == NULL)
		scan->aside_slot = ExecInitExtraTupleSlot(node->ss.ps.state,
												  desc_with_ctid(scan->in->tupdesc),
												  &TTSOpsMinimalTuple);
	desc = scan->aside_slot->tts_tupleDescriptor;
	values = palloc(sizeof(Datum) * desc->natts);
	nulls = palloc(sizeof(bool) * desc->natts);
	row_context = AllocSetContextCreate(context, "run_ops row", ALLOCSET_DEFAULT_SIZES);
	while ((result = next_row(scan, &row)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(row_context);
		MemoryContextSwitchTo(row_context);
		ctid = remote_row_values(result, row, scan->in, scan->attrs, scan->relation,
								 values, nulls);
		values[desc->natts - 1] = PointerGetDatum(ctid);
		nulls[desc->natts - 1] = ctid == NULL;
		tuplestore_putvalues(scan->aside, desc, values, nulls);
		MemoryContextSwitchTo(context);
	}
	MemoryContextDelete(row_context);
	CurrentResourceOwner = oldowner;
	MemoryContextSwitchTo(oldcontext);
}

/* Stores the next row that was set aside in the slot. */
static TupleTableSlot *
next_aside(StoreScan *scan, TupleTableSlot *slot)
{
	TupleTableSlot *aside = scan->aside_slot;
	int			natts = slot->tts_tupleDescriptor->natts;
	/* a row from a file is freed with the next one; here is per-tuple memory */
	MemoryContext oldcontext = MemoryContextSwitchTo(scan->node->ss.ps.state->es_query_cxt);
	bool		found = tuplestore_gettupleslot(scan->aside, true, false, aside);

	MemoryContextSwitchTo(oldcontext);
	ExecClearTuple(slot);
	if (!found)
		return slot;
	slot_getallattrs(aside);
	memcpy(slot->tts_values, aside->tts_values, sizeof(Datum) * natts);
	memcpy(slot->tts_isnull, aside->tts_isnull, sizeof(bool) * natts);
	ExecStoreVirtualTuple(slot);
	if (!aside->tts_isnull[natts])
		slot->tts_tid = *(ItemPointer) DatumGetPointer(aside->tts_values[natts]);
	return slot;
}

/* Stores a row of a result in the slot; its values are in the current context. */
static void
store_row(StoreScan *scan, PGresult *result, int row, TupleTableSlot *slot)
{
	ItemPointer ctid;

	ExecClearTuple(slot);
	ctid = remote_row_values(result, row, scan->in, scan->attrs, scan->relation,
							 slot->tts_values, slot->tts_isnull);
	ExecStoreVirtualTuple(slot);
	if (ctid)
		slot->tts_tid = *ctid;
}

static TupleTableSlot *
storeIterateForeignScan(ForeignScanState *node)
{
	StoreScan  *scan = node->fdw_state;
	TupleTableSlot *slot = node->ss.ss_ScanTupleSlot;
	PGresult   *result;
	int			row;

	if (!scan->precheck_done)
	{
		scan->precheck_passed = ExecQual(scan->precheck,
										 node->ss.ps.ps_ExprContext);
		scan->precheck_done = true;
	}
	if (!scan->precheck_passed)
		return ExecClearTuple(slot);
	if (!scan->begun)
		begin_scan(scan);
	/* what was read before is not among them */
	if (scan->aside)
		return next_aside(scan, slot);
	result = next_row(scan, &row);
	if (result == NULL)
		return ExecClearTuple(slot);
	store_row(scan, result, row, slot);
	return slot;
}

/* ----------------------------------------------------------------
 *		Scans that begin before their first row is requested
 * ----------------------------------------------------------------
 */

/*
 * The scan of a node, if that is one of ours and can begin.  A scan whose remote
 * query has parameters of other nodes cannot.
 */
static StoreScan *
scan_to_begin(PlanState *node)
{
	ForeignScanState *state = (ForeignScanState *) node;
	ForeignScan *plan = (ForeignScan *) node->plan;
	StoreScan  *scan;

	if (!IsA(node, ForeignScanState) ||
		state->fdwroutine->IterateForeignScan != storeIterateForeignScan ||
		plan->operation != CMD_SELECT ||
		depends_on_nodes((Node *) plan->fdw_recheck_quals, NULL))
		return NULL;
	scan = state->fdw_state;
	return scan != NULL && !scan->begun && !scan->depends &&
		ExecQual(scan->precheck, node->ps_ExprContext) ? scan : NULL;
}

/* Does a One-Time Filter skip what is below the node? */
static bool
is_skipped(PlanState *node)
{
	return IsA(node, ResultState) && ((ResultState *) node)->resconstantqual &&
		!ExecQual(((ResultState *) node)->resconstantqual, node->ps_ExprContext);
}

/*
 * A cursor shows what there was when it was opened, whatever is committed or
 * changed before its rows are fetched.  So what has not begun when a query
 * pauses must begin now.
 */
static bool
begin_waiting_scans(PlanState *node, void *context)
{
	StoreScan  *scan;

	if (is_skipped(node))
		return false;
	scan = bms_is_empty(node->plan->allParam) ? scan_to_begin(node) : NULL;
	if (scan)
		begin_scan(scan);
	if (scan && scan->cursor)
		next_chunk(scan);
	return planstate_tree_walker(node, begin_waiting_scans, context);
}

void
begin_scans_before_write(WireStatement *statement)
{
	dlist_iter	iter;

	dlist_foreach(iter, &scans)
	{
		StoreScan  *scan = dlist_container(StoreScan, link, iter.cur);
		MemoryContext oldcontext;

		if (scan->statement != statement || scan_to_begin(&scan->node->ss.ps) == NULL)
			continue;
		/* conditions that are tested here may have other values in each rescan */
		scan->rewind |= !bms_is_empty(scan->node->ss.ps.plan->allParam);
		oldcontext = MemoryContextSwitchTo(scan->node->ss.ps.state->es_query_cxt);
		begin_scan(scan);
		MemoryContextSwitchTo(oldcontext);
	}
}

/* How many rows a LIMIT surely requests: none, the first, or "all" as without it. */
static bool
limit_requests(LimitState *node, bool *all)
{
	Node	   *count = ((Limit *) node->ps.plan)->limitCount;
	Datum		value;
	bool		isnull;

	if (count == NULL)
		return true;
	/* it is evaluated once more */
	if (contain_volatile_functions(count) || !bms_is_empty(node->ps.plan->allParam))
		return false;
	value = ExecEvalExprSwitchContext(node->limitCount, node->ps.ps_ExprContext, &isnull);
	if (isnull)
		return true;
	*all = false;
	return DatumGetInt64(value) > 0;
}

/*
 * Begins the scans of which rows will surely be requested: all of the node's
 * rows, or else its first.  So stores work at the same time, and while this
 * server reads its own tables.  Nothing is begun that could change an answer, an
 * order of locks, or which store is contacted; a connection that would have to
 * be opened, or that something else uses, is left to the scan that needs it.
 */
static void
begin_certain_scans(PlanState *node, bool all)
{
	StoreScan  *scan;

	check_stack_depth();
	if (is_skipped(node))
		return;
	switch (nodeTag(node))
	{
		case T_AppendState:
			if (((AppendState *) node)->as_prune_state != NULL)
				return;
			for (int i = 0; i < (all ? ((AppendState *) node)->as_nplans : 1); i++)
				begin_certain_scans(((AppendState *) node)->appendplans[i], all);
			return;
		case T_MergeAppendState:
			if (((MergeAppendState *) node)->ms_prune_state != NULL)
				return;
			for (int i = 0; i < ((MergeAppendState *) node)->ms_nplans; i++)
				begin_certain_scans(((MergeAppendState *) node)->mergeplans[i], all);
			return;
		case T_SubqueryScanState:
			begin_certain_scans(((SubqueryScanState *) node)->subplan, all);
			return;
		case T_LimitState:
			if (!limit_requests((LimitState *) node, &all))
				return;
			break;
		case T_SortState:
			all = true;
			break;
		case T_AggState:
			all |= ((Agg *) node->plan)->aggstrategy == AGG_PLAIN ||
				((Agg *) node->plan)->aggstrategy == AGG_HASHED;
			break;
		case T_GroupState:
		case T_IncrementalSortState:
		case T_ProjectSetState:
		case T_ResultState:
		case T_UniqueState:
		case T_WindowAggState:
			break;
		case T_ForeignScanState:
			scan = bms_is_empty(node->plan->allParam) ? scan_to_begin(node) : NULL;
			if (scan)
				scan->whole = all;
			if (scan && !scan->rewind && scan->statement->need != WIRE_WRITE &&
				wire_is_free(scan->wire))
				begin_scan(scan);
			return;
		default:
			return;
	}
	if (outerPlanState(node))
		begin_certain_scans(outerPlanState(node), all);
}

static void
begin_in_query(QueryDesc *query)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(query->estate->es_query_cxt);

	(void) begin_waiting_scans(query->planstate, NULL);
	MemoryContextSwitchTo(oldcontext);
}

/* A cursor that is opened, and of which nothing may be fetched for long. */
static void
start_executor(QueryDesc *query, int eflags)
{
	next_executor_start(query, eflags);
	if (query->operation == CMD_SELECT && (eflags & EXEC_FLAG_EXPLAIN_ONLY) == 0 &&
		ActivePortal != NULL && ActivePortal->queryDesc == NULL &&
		(ActivePortal->cursorOptions & CURSOR_OPT_FAST_PLAN))
		begin_in_query(query);
}

/* Does the statement write to a table of a store? */
static bool
writes_to_store(PlanState *node)
{
	ModifyTableState *statement = (ModifyTableState *) node;

	return IsA(node, ModifyTableState) && statement->mt_nrels == 1 &&
		statement->resultRelInfo[0].ri_FdwRoutine != NULL &&
		is_store_table(statement->resultRelInfo[0].ri_FdwRoutine);
}

/*
 * PostgreSQL executes statements below WITH that nothing reads at the end, and
 * then checks foreign keys.  A store checks them after each statement, so "WITH c
 * AS (DELETE FROM child ...) DELETE FROM parent" has to be executed there in the
 * order in which it is written.
 */
static void
run_unread_statements(EState *estate)
{
	bool		any = false;
	ListCell   *lc;

	foreach(lc, estate->es_auxmodifytables)
		any |= writes_to_store(lfirst(lc));
	if (!any)
		return;
	/* the last one is the first in the list */
	for (int i = list_length(estate->es_auxmodifytables) - 1; i >= 0; i--)
	{
		PlanState  *statement = list_nth(estate->es_auxmodifytables, i);

		if (statement->plan->targetlist != NIL)
			continue;
		/* without RETURNING it returns no row, and does all its work */
		(void) ExecProcNode(statement);
	}
}

/* A query that begins, or of which some rows were fetched. */
static void
run_executor(COMPAT_EXECUTOR_RUN_PARAMETERS)
{
	if (query->estate->es_auxmodifytables != NIL)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(query->estate->es_query_cxt);

		run_unread_statements(query->estate);
		MemoryContextSwitchTo(oldcontext);
	}
	/* subplans may use the connections before, and may not run at all */
	if (query->operation == CMD_SELECT && ScanDirectionIsForward(direction) &&
		query->plannedstmt->subplans == NIL)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(query->estate->es_query_cxt);

		begin_certain_scans(query->planstate, count == 0);
		MemoryContextSwitchTo(oldcontext);
	}
	next_executor_run(COMPAT_EXECUTOR_RUN_ARGUMENTS);
	if (count > 0 && query->operation == CMD_SELECT &&
		ActivePortal != NULL && ActivePortal->queryDesc == query)
		begin_in_query(query);
}

/* ----------------------------------------------------------------
 *		UPDATE and DELETE that the store executes
 * ----------------------------------------------------------------
 */

static void
storeBeginDirectModify(ForeignScanState *node, int eflags)
{
	static const NodeTag layout[] = {T_String, COMPAT_BOOLEAN_TAG, T_IntList, COMPAT_BOOLEAN_TAG};
	List	   *fdw_private = ((ForeignScan *) node->ss.ps.plan)->fdw_private;
	StoreScan  *scan;

	if (eflags & EXEC_FLAG_EXPLAIN_ONLY)
		return;
	check_layout(fdw_private, lengthof(layout), layout);
	/* what the privileges were checked for is the table that is changed */
	scan = start_scan(node, WIRE_WRITE);
	scan->has_returning = compat_bool_value(list_nth(fdw_private, DIRECT_HAS_RETURNING));
	scan->attrs = list_nth(fdw_private, DIRECT_ATTRS);
	scan->set_processed = compat_bool_value(list_nth(fdw_private, DIRECT_SET_PROCESSED));
	scan->precheck = init_precheck(node);
}

static void
modify(StoreScan *scan)
{
	Oid			relid = RelationGetRelid(scan->node->resultRelInfo->ri_RelationDesc);

	split_require_active(((ForeignScan *) scan->node->ss.ps.plan)->fs_server);
	refuse_to_begin_after_write(scan);
	begin_scans_before_write(scan->statement);
	evaluate_params(scan->node->ss.ps.ps_ExprContext, &scan->params);
	wire_begin(scan->wire, WIRE_WRITE, scan->statement);
	wire_send(scan->wire, scan->sql, scan->params.text.n, scan->params.values, false);
	scan->chunk = wire_take_whole(scan->wire);
	scan->row = 0;
	scan->begun = true;
	if (atol(PQcmdTuples(scan->chunk)) > 0)
		note_statement_write(scan->statement, relid);
}

static TupleTableSlot *
storeIterateDirectModify(ForeignScanState *node)
{
	StoreScan  *scan = node->fdw_state;
	TupleTableSlot *slot = node->ss.ss_ScanTupleSlot;
	EState	   *estate = node->ss.ps.state;
	Instrumentation *instrument = node->ss.ps.instrument;
	ResultRelInfo *target = node->resultRelInfo;
	int64		changed;

	if (!scan->begun && !ExecQual(scan->precheck, node->ss.ps.ps_ExprContext))
		return ExecClearTuple(slot);
	if (!scan->begun)
		modify(scan);
	changed = atol(PQcmdTuples(scan->chunk));
	if (target->ri_projectReturning == NULL)
	{
		if (scan->set_processed)
			estate->es_processed += changed;
		if (instrument)
			instrument->tuplecount += changed;
		return ExecClearTuple(slot);
	}
	if (scan->row >= changed)
		return ExecClearTuple(slot);
	if (scan->set_processed)
		estate->es_processed++;
	/* RETURNING may use no column */
	if (!scan->has_returning)
		ExecStoreAllNullTuple(slot);
	else
		store_row(scan, scan->chunk, scan->row, slot);
	scan->row++;
	target->ri_projectReturning->pi_exprContext->ecxt_scantuple = slot;
	return slot;
}

bool
is_store_table(const FdwRoutine *routine)
{
	return routine->IterateForeignScan == storeIterateForeignScan;
}

void
set_direct_modify_counts(ForeignScan *plan, bool counts)
{
	lfirst(list_nth_cell(plan->fdw_private, DIRECT_SET_PROCESSED)) =
		compat_make_boolean(counts);
}

void
foreign_scan_routine(FdwRoutine *routine)
{
	routine->BeginForeignScan = storeBeginForeignScan;
	routine->IterateForeignScan = storeIterateForeignScan;
	routine->ReScanForeignScan = storeReScanForeignScan;
	routine->EndForeignScan = storeEndForeignScan;
	routine->BeginDirectModify = storeBeginDirectModify;
	routine->IterateDirectModify = storeIterateDirectModify;
	routine->EndDirectModify = storeEndForeignScan;
	/* these would use the connections of postgres_fdw */
	routine->IsForeignPathAsyncCapable = NULL;
	routine->ForeignAsyncRequest = NULL;
	routine->ForeignAsyncConfigureWait = NULL;
	routine->ForeignAsyncNotify = NULL;
}

void
foreign_scan_init(void)
{
	next_executor_start = ExecutorStart_hook ? ExecutorStart_hook : standard_ExecutorStart;
	ExecutorStart_hook = start_executor;
	next_executor_run = ExecutorRun_hook ? ExecutorRun_hook : standard_ExecutorRun;
	ExecutorRun_hook = run_executor;
}

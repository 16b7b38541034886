/*
 * gathered_changes.c
 *		Changes of foreign tables whose rows are sent as sets.
 *
 * The one idea: a statement here is one statement there.  So before anything is
 * written, all rows of the plan are read, into a tuplestore, and then they are
 * sent as one set.  What the plan reads in the store is never changed by the
 * statement itself, and constraints are checked there for all rows together.
 * The same holds for several changes of one statement, below WITH or of the tables
 * of several stores: first all rows are read, and what a store is sent is one
 * statement, below WITH as well.
 *
 * If the statement needs what a change returns before that, its rows are promised:
 * they are computed here, sent at the end of the statement, and compared with what
 * the store returns then.
 *
 * The executor does not know of this: it still gets row after row from the plan.
 */
#include "postgres.h"

#include "executor/executor.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "ground/key_set.h"
#include "stores/foreign_scan.h"
#include "stores/gathered_changes.h"
#include "stores/remote_rows.h"

/* A set that is larger than this is sent in several statements. */
#define MAX_SET_BYTES (64 * 1024 * 1024)

/* The statements whose rows come from give_row(). */
static dlist_head gathering = DLIST_STATIC_INIT(gathering);

static ExecutorFinish_hook_type next_executor_finish = NULL;

/* ----------------------------------------------------------------
 *		What the store may do with the rows
 * ----------------------------------------------------------------
 */

/* May the store write other rows of these tables than it is sent? */
#define SKIPS_ROWS \
	"SELECT c.relkind NOT IN ('r', 'p') OR c.relkind = 'r' AND c.relhassubclass OR c.relhasrules " \
	"OR EXISTS (SELECT FROM pg_catalog.pg_trigger AS g WHERE NOT g.tgisinternal AND g.tgtype & 3 = 3 " \
	"AND (g.tgrelid = c.oid OR g.tgrelid IN (SELECT relid FROM pg_catalog.pg_partition_tree(c.oid)))) " \
	"FROM pg_catalog.unnest($1::pg_catalog.regclass[]) WITH ORDINALITY AS t (oid, ord) " \
	"LEFT JOIN pg_catalog.pg_class AS c USING (oid) ORDER BY t.ord"

/* The store is asked once a statement, for all tables that it changes there. */
static bool
skips_rows(StoreModify *modify)
{
	List	   *all = list_make1(modify);
	const char **names;
	const char *array;
	PGresult   *answer;
	dlist_iter	iter;
	ListCell   *lc;

	if (modify->asked)
		return modify->skips_rows;
	dlist_foreach(iter, &gathering)
	{
		StoreModify *other = dlist_container(StoreModify, node, iter.cur);

		if (other->statement == modify->statement && !other->asked && other != modify)
			all = lappend(all, other);
	}
	names = palloc(sizeof(char *) * list_length(all));
	foreach(lc, all)
		names[foreach_current_index(lc)] =
			remote_table_name(RelationGetRelid(((StoreModify *) lfirst(lc))->target->ri_RelationDesc));
	array = remote_array(names, list_length(all), 1);
	answer = wire_exec(modify->wire, WIRE_WRITE, SKIPS_ROWS, 1, &array);
	remote_result_check(answer, list_length(all), 1);
	foreach(lc, all)
	{
		StoreModify *other = lfirst(lc);

		other->asked = true;
		other->skips_rows = strcmp(PQgetvalue(answer, foreach_current_index(lc), 0), "f") != 0;
	}
	return modify->skips_rows;
}

/*
 * The rows were locked in the store when they were read.  If it has not changed
 * all of them, then a trigger there has left them out, or something that this
 * statement has called has changed them meanwhile, which is an error in any table.
 */
static void
check_all_changed(StoreModify *modify, int sent)
{
	int			written = modify->change->written;

	if (written >= sent || modify->operation == CMD_INSERT)
		return;
	if (modify->version ? written + modify->change->left_out < sent : !skips_rows(modify))
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
				 errmsg("row of table %s in store \"%s\" was already changed by an operation triggered by the current command",
						remote_table_name(modify->change->relid), wire_store(modify->wire)),
				 errhint("Consider using an AFTER trigger instead of a BEFORE trigger to propagate changes to other rows.")));
}

void
gathered_promise_row(StoreModify *modify, TupleTableSlot *slot, TupleTableSlot *plan_slot)
{
	HeapTupleData tuple;
	bool		isnull;

	if (modify->operation != CMD_DELETE)
	{
		tuplestore_puttupleslot(modify->promises, slot);
		return;
	}
	tuple.t_data = DatumGetHeapTupleHeader(ExecGetJunkAttribute(plan_slot, modify->whole_row, &isnull));
	tuple.t_len = HeapTupleHeaderGetDatumLength(tuple.t_data);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	ExecForceStoreHeapTuple(heap_copytuple(&tuple), slot, true);
}

static void
report_broken_promise(StoreModify *modify, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
			 errmsg("store \"%s\" has written other rows of table %s than it was sent",
					wire_store(modify->wire), remote_table_name(modify->change->relid)),
			 errdetail_internal("%s", detail),
			 errhint("The statement needs what RETURNING shows before the store has written it. Use two statements.")));
}

/* Compares a row of the result with what was promised. */
static void
check_promise(StoreModify *modify, int row, TupleTableSlot *promise)
{
	RemoteChange *change = modify->change;
	int			nest_level = remote_text_begin(&modify->promised_text);
	ListCell   *lc;

	foreach(lc, change->returned)
	{
		Form_pg_attribute att = TupleDescAttr(promise->tts_tupleDescriptor, lfirst_int(lc) - 1);
		int			i = foreach_current_index(lc);
		bool		isnull;
		Datum		value = slot_getattr(promise, att->attnum, &isnull);

		if (PQgetisnull(change->result, row, i) != isnull ||
			(!isnull && strcmp(PQgetvalue(change->result, row, i),
							   OutputFunctionCall(&modify->promised_text.output[i], value)) != 0))
			report_broken_promise(modify, psprintf(_("Column \"%s\" has another value."), NameStr(att->attname)));
	}
	remote_text_end(nest_level);
}

/*
 * The statement has used rows that the store had not written yet.  They are compared
 * with what it has written now.
 */
static void
check_promises(StoreModify *modify, int sent)
{
	TupleTableSlot *promise;

	if (modify->change->written != sent)
		report_broken_promise(modify, psprintf(_("It has written %d rows of %d."), modify->change->written, sent));
	if (modify->promises == NULL)
		return;
	promise = MakeSingleTupleTableSlot(RelationGetDescr(modify->target->ri_RelationDesc),
									   &TTSOpsMinimalTuple);
	for (int i = 0; i < modify->row; i++)
	{
		if (modify->answers[i] < 0)
			continue;
		if (!tuplestore_gettupleslot(modify->promises, true, false, promise))
			break;
		check_promise(modify, modify->answers[i], promise);
		MemoryContextReset(modify->row_context);
	}
	ExecDropSingleTupleTableSlot(promise);
	tuplestore_end(modify->promises);
	modify->promises = NULL;
}

/* ----------------------------------------------------------------
 *		All rows of the plan, as one set
 * ----------------------------------------------------------------
 */

static TupleTableSlot *give_row(PlanState *plan);

/*
 * Reads all rows of the plan.  Meanwhile the change has none: what the plan reads of
 * other changes is sent without it.
 */
static void
gather(StoreModify *modify)
{
	PlanState  *plan = modify->plan;
	MemoryContext oldcontext = MemoryContextSwitchTo(modify->estate->es_query_cxt);
	Tuplestorestate *rows = tuplestore_begin_heap(false, false, work_mem);

	tuplestore_set_eflags(rows, 0);
	(void) tuplestore_alloc_read_pointer(rows, 0);
	modify->stored = ExecInitExtraTupleSlot(modify->estate, ExecGetResultType(plan),
											&TTSOpsMinimalTuple);
	modify->given = ExecInitExtraTupleSlot(modify->estate, ExecGetResultType(plan),
										   ExecGetResultSlotOps(plan, NULL));
	MemoryContextSwitchTo(oldcontext);

	plan->ExecProcNode = modify->read_plan;
	for (;;)
	{
		TupleTableSlot *slot = ExecProcNode(plan);

		if (TupIsNull(slot))
			break;
		tuplestore_puttupleslot(rows, slot);
		ResetPerTupleExprContext(modify->estate);
		CHECK_FOR_INTERRUPTS();
	}
	plan->ExecProcNode = give_row;
	modify->rows = rows;
}

static bool reads_returned_rows(PlanState *plan);

static bool
is_change_or_reads_it(PlanState *node, void *context)
{
	if (IsA(node, ModifyTableState) ||
		(IsA(node, CteScanState) && reads_returned_rows(((CteScanState *) node)->cteplanstate)))
		return true;
	return planstate_tree_walker(node, is_change_or_reads_it, context);
}

/* Does the plan read what a change below WITH returns?  Subqueries may do so for it. */
static bool
reads_returned_rows(PlanState *plan)
{
	int			param = -1;

	check_stack_depth();
	while ((param = bms_next_member(plan->plan->allParam, param)) >= 0)
	{
		SubPlanState *subplan = plan->state->es_param_exec_vals[param].execPlan;

		if (subplan && reads_returned_rows(subplan->planstate))
			return true;
	}
	return is_change_or_reads_it(plan, NULL);
}

/*
 * Reads the rows of the changes of a statement, but of those that read what another
 * one returns.  If there is one, all are sent at the end, together with it.
 */
static void
gather_all(EState *estate)
{
	dlist_iter	iter;
	bool		any_waits = false;

	dlist_foreach(iter, &gathering)
	{
		StoreModify *modify = dlist_container(StoreModify, node, iter.cur);

		if (modify->estate != estate || modify->rows != NULL || modify->waits)
			continue;
		modify->waits = reads_returned_rows(modify->plan);
		any_waits |= modify->waits;
		if (!modify->waits)
			gather(modify);
	}
	dlist_foreach(iter, &gathering)
	{
		StoreModify *modify = dlist_container(StoreModify, node, iter.cur);

		if (any_waits && modify->estate == estate && modify->early == EARLY_FOR_CHANGES)
			modify->early = EARLY_ALWAYS;
	}
}

/* Appends what is known of a row of the set. */
static void
note_answer(StoreModify *modify, int answer)
{
	if (modify->nrows == modify->max_rows)
	{
		modify->max_rows = Max(modify->max_rows * 2, 64);
		if (modify->answers == NULL)
			modify->answers = MemoryContextAllocHuge(modify->estate->es_query_cxt,
													 sizeof(int) * modify->max_rows);
		else
			modify->answers = repalloc_huge(modify->answers, sizeof(int) * modify->max_rows);
	}
	modify->answers[modify->nrows++] = answer;
}

/* Replaces the numbers of the rows in the set by the numbers of their answers. */
static void
match_answers(StoreModify *modify, int sent)
{
	PGresult   *result = modify->change->result;
	int		   *answer_of = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(int) * (sent + 1));

	for (int i = 0; i <= sent; i++)
		answer_of[i] = -1;
	for (int i = 0; i < PQntuples(result); i++)
	{
		int			n = sent == 1 ? 1 : atoi(PQgetvalue(result, i, PQnfields(result) - 1));

		if (n > 0 && n <= sent)
			answer_of[n] = i;
	}
	for (int i = 0; i < modify->nrows; i++)
	{
		if (modify->answers[i] > 0)
			modify->answers[i] = answer_of[modify->answers[i]];
	}
	pfree(answer_of);
}

/* Puts the next rows into the set.  A leaf mostly has none, and writes no SQL then. */
static void
fill_set(StoreModify *modify)
{
	if (modify->filled)
		return;
	modify->filled = true;
	modify->ready = false;
	modify->nrows = modify->row = 0;
	tuplestore_select_read_pointer(modify->rows, 0);
	while (modify->change == NULL ||
		   MemoryContextMemAllocated(modify->change->values_context, true) < MAX_SET_BYTES)
	{
		CHECK_FOR_INTERRUPTS();
		modify->whole = !tuplestore_gettupleslot(modify->rows, true, false, modify->stored);
		if (modify->whole)
			break;
		store_modify_add(modify, modify->stored, modify->stored);
		note_answer(modify, store_modify_changed_before(modify) ? -1 : modify->change->n);
	}
}

/* May its set be sent at the end of the statement? */
static bool
may_promise(StoreModify *modify)
{
	if (modify->early != EARLY_ALWAYS || !modify->whole || !store_modify_has_rows(modify))
		return false;
	/* the question begins the transaction in the store */
	begin_scans_before_write(modify->statement);
	return !skips_rows(modify);
}

/* Can what the change writes be a part of the statement that another one sends? */
static bool
can_be_part(StoreModify *modify)
{
	if (modify->counts || modify->rows == NULL)
		return false;
	fill_set(modify);
	return modify->whole && store_modify_has_rows(modify) && !may_promise(modify);
}

/* Notes what the store has done with a set; last: of the statement there. */
static void
take_answers(StoreModify *modify, int sent, bool last)
{
	RemoteChange *change = modify->change;

	modify->filled = false;
	modify->ready = true;
	modify->begun = true;
	modify->written = 0;
	if (modify->returning || last)
		check_all_changed(modify, sent);
	if (!modify->returning)
	{
		modify->written = modify->counts ? change->written : 0;
		modify->nrows = modify->row = 0;
	}
	else if (modify->operation == CMD_INSERT)
	{
		remote_result_check(change->result, Min(change->written, sent), 0);
		modify->nrows = change->written;
		for (int i = 0; i < change->written; i++)
			modify->answers[i] = i;
	}
	else
		match_answers(modify, sent);
	if (modify->promised && (modify->returning || last))
		check_promises(modify, sent);
}

/* Sends the set, and with it those of other changes. */
static void
send_set(StoreModify *modify, List *others)
{
	List	   *all = lappend(list_copy(others), modify);
	int		   *sent = palloc(sizeof(int) * list_length(all));
	ListCell   *lc;

	foreach(lc, all)
		sent[foreach_current_index(lc)] = ((StoreModify *) lfirst(lc))->change->n;
	(void) store_modify_send(modify, others);
	foreach(lc, all)
		take_answers(lfirst(lc), sent[foreach_current_index(lc)], lnext(all, lc) == NULL);
	pfree(sent);
}

/* What the executor gets from now on is what will be sent. */
static void
promise(StoreModify *modify)
{
	MemoryContext oldcontext = MemoryContextSwitchTo(modify->estate->es_query_cxt);
	ListCell   *lc;

	modify->promised = modify->ready = true;
	modify->change->waits = modify->waits;
	/* they are sent in this order */
	dlist_delete(&modify->node);
	dlist_push_tail(&gathering, &modify->node);
	if (!modify->returning)
	{
		modify->nrows = 0;
		if (modify->counts)
			modify->estate->es_processed += modify->change->n;
	}
	else if (modify->operation != CMD_DELETE)
	{
		modify->promises = tuplestore_begin_heap(false, false, work_mem);
		modify->promised_text.output = palloc0(sizeof(FmgrInfo) * list_length(modify->change->returned));
		foreach(lc, modify->change->returned)
			remote_text_add(&modify->promised_text,
							TupleDescAttr(RelationGetDescr(modify->target->ri_RelationDesc), lfirst_int(lc) - 1)->atttypid);
	}
	MemoryContextSwitchTo(oldcontext);
}

/*
 * Sends what the statement has promised in the store of a change, in that order, but
 * the one whose rows are counted is the last.
 */
static void
keep_promises(StoreModify *modify)
{
	StoreModify *last = NULL;
	List	   *all = NIL;
	dlist_iter	iter;

	dlist_foreach(iter, &gathering)
	{
		StoreModify *other = dlist_container(StoreModify, node, iter.cur);

		if (other->statement != modify->statement || !store_modify_has_rows(other))
			continue;
		if (other->counts && last == NULL)
			last = other;
		else
			all = lappend(all, other);
	}
	if (last == NULL)
	{
		last = llast(all);
		all = list_delete_last(all);
	}
	send_set(last, all);
}

/* At the end, after the changes that nobody has read, before triggers. */
static void
finish_executor(QueryDesc *query)
{
	EState	   *estate = query->estate;
	MemoryContext oldcontext = MemoryContextSwitchTo(estate->es_query_cxt);
	bool		any = false;
	dlist_iter	iter;
	ListCell   *lc;

	dlist_foreach(iter, &gathering)
		any |= dlist_container(StoreModify, node, iter.cur)->estate == estate;
	if (any)
		estate->es_direction = ForwardScanDirection;
	foreach(lc, any ? estate->es_auxmodifytables : NIL)
	{
		TupleTableSlot *slot;

		do
		{
			ResetPerTupleExprContext(estate);
			slot = ExecProcNode(lfirst(lc));
		} while (!TupIsNull(slot));
	}
	dlist_foreach(iter, &gathering)
	{
		StoreModify *modify = dlist_container(StoreModify, node, iter.cur);

		if (modify->estate == estate && store_modify_has_rows(modify))
			keep_promises(modify);
	}
	MemoryContextSwitchTo(oldcontext);
	next_executor_finish(query);
}

/*
 * Sends the next set.  False if there is no row left.  modify->nrows is how many
 * rows are to be given to the executor: none if nothing is returned, and what
 * INSERT returns does not depend on the row that was given.
 *
 * With it go the sets of other changes in the same store.  The one whose rows are
 * counted, which is the last in the statement, comes last there as well.
 */
static bool
next_set(StoreModify *modify)
{
	StoreModify *last = modify;
	List	   *others = NIL;
	dlist_iter	iter;
	ListCell   *lc;

	if (modify->sent)
	{
		modify->sent = false;
		modify->estate->es_processed += modify->written;
		return true;
	}
	if (modify->promised)
		return false;
	fill_set(modify);
	if (modify->nrows == 0)
		return false;
	if (may_promise(modify))
	{
		promise(modify);
		return true;
	}
	dlist_foreach(iter, &gathering)
	{
		StoreModify *other = dlist_container(StoreModify, node, iter.cur);

		if (other == modify || other->statement != modify->statement || other->sent ||
			(other->returning && other->begun))
			continue;
		if (other->counts && other->rows != NULL && !may_promise(other) && can_be_part(modify))
		{
			fill_set(other);
			if (store_modify_has_rows(other))
				last = other;
		}
		else if (can_be_part(other))
			others = lappend(others, other);
	}
	if (last != modify)
		others = lappend(others, modify);
	if (store_modify_has_rows(last))
		send_set(last, others);
	else
	{
		/* each of its rows was changed before */
		last->change->written = 0;
		take_answers(last, 0, true);
	}
	foreach(lc, others)
	{
		StoreModify *other = lfirst(lc);

		other->sent = other != modify && other->returning && other->begun;
	}
	if (last == modify)
		modify->estate->es_processed += modify->written;
	else
		last->sent = true;
	return true;
}

/* What the executor calls for the next row of the plan. */
static TupleTableSlot *
give_row(PlanState *plan)
{
	StoreModify *modify = NULL;
	dlist_iter	iter;

	dlist_foreach(iter, &gathering)
	{
		modify = dlist_container(StoreModify, node, iter.cur);
		if (modify->plan == plan)
			break;
	}
	Assert(modify != NULL && modify->plan == plan);
	if (modify->rows == NULL)
	{
		gather_all(modify->estate);
		if (modify->rows == NULL)
			gather(modify);
	}
	while (!modify->ready || modify->row == modify->nrows)
	{
		if (!next_set(modify))
			return NULL;
	}
	modify->row++;
	tuplestore_select_read_pointer(modify->rows, 1);
	if (!tuplestore_gettupleslot(modify->rows, true, false, modify->stored))
		elog(ERROR, "could not read a row that was sent");
	return ExecCopySlot(modify->given, modify->stored);
}

static void
forget_gathering(void *arg)
{
	dlist_delete(&((StoreModify *) arg)->node);
}

/* A row that another change of the statement changes is not changed again. */
static void
share_changed(StoreModify *modify)
{
	dlist_iter	iter;

	if (modify->operation == CMD_INSERT)
		return;
	dlist_foreach(iter, &gathering)
	{
		StoreModify *other = dlist_container(StoreModify, node, iter.cur);

		if (other->estate != modify->estate || other->operation == CMD_INSERT ||
			RelationGetRelid(other->target->ri_RelationDesc) != RelationGetRelid(modify->target->ri_RelationDesc))
			continue;
		if (other->changed == NULL)
			other->changed = key_set_create(modify->estate->es_query_cxt);
		modify->changed = other->changed;
		return;
	}
}

void
gather_changes(StoreModify *modify, ModifyTableState *statement)
{
	MemoryContextCallback *forget = palloc0(sizeof(MemoryContextCallback));

	modify->plan = outerPlanState(statement);
	modify->read_plan = modify->plan->ExecProcNode;
	modify->counts = statement->canSetTag;
	if (modify->operation == CMD_UPDATE)
		modify->new_columns = linitial(((ModifyTable *) statement->ps.plan)->updateColnosLists);
	share_changed(modify);
	dlist_push_head(&gathering, &modify->node);
	forget->func = forget_gathering;
	forget->arg = modify;
	MemoryContextRegisterResetCallback(modify->estate->es_query_cxt, forget);
	modify->plan->ExecProcNode = give_row;
}

void
gathered_changes_init(void)
{
	next_executor_finish = ExecutorFinish_hook ? ExecutorFinish_hook : standard_ExecutorFinish;
	ExecutorFinish_hook = finish_executor;
}

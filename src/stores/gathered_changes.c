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

/* What is in the set of a change? */
typedef enum SetState
{
	SET_EMPTY,
	SET_FILLED,					/* rows that are to be sent */
	SET_READY					/* those that can be given to the executor */
} SetState;

typedef struct GatheredChange
{
	dlist_node	node;			/* in "gathering" */
	StoreModify *modify;
	PlanState  *plan;
	ExecProcNodeMtd read_plan;
	bool		counts;			/* for the number of rows of the query */
	bool		waits;			/* its rows depend on those of another change */
	bool		asked;			/* is it known whether */
	bool		skips_rows;		/* the store may write other rows than it is sent? */
	Tuplestorestate *rows;		/* all of the plan; NULL: not read yet */
	TupleTableSlot *stored;		/* a row of "rows" */
	TupleTableSlot *given;		/* the same, of the kind that the plan returns */

	SetState	state;
	bool		whole;			/* there are no rows behind those of the set */
	int		   *answers;		/* for each row of the set: the number of its
								 * row in the result; -1: it was not changed */
	int			max_rows;		/* room in "answers" */
	int			nrows;			/* of the set */
	int			row;			/* the next one to give */
	uint64		uncounted;		/* rows that were written, and are not given */

	EarlyRows	early;
	AttrNumber	whole_row;		/* where the plan of a DELETE has the row */
	bool		promised;		/* its rows are given before they are sent */
	Tuplestorestate *promises;	/* those of INSERT and UPDATE that were given */
	RemoteText	promised_text;	/* of their columns */
} GatheredChange;

/* The changes whose rows come from give_row(). */
static dlist_head gathering = DLIST_STATIC_INIT(gathering);

static ExecutorFinish_hook_type next_executor_finish = NULL;

static Oid
target_id(GatheredChange *gathered)
{
	return RelationGetRelid(gathered->modify->target->ri_RelationDesc);
}

/* Has the executor not had all rows of the last set? */
static bool
has_rows_to_give(GatheredChange *gathered)
{
	return gathered->state == SET_READY && gathered->row < gathered->nrows;
}

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
skips_rows(GatheredChange *gathered)
{
	List	   *all = list_make1(gathered);
	const char **names;
	const char *array;
	PGresult   *answer;
	dlist_iter	iter;
	ListCell   *lc;

	if (gathered->asked)
		return gathered->skips_rows;
	dlist_foreach(iter, &gathering)
	{
		GatheredChange *other = dlist_container(GatheredChange, node, iter.cur);

		if (other->modify->statement == gathered->modify->statement && !other->asked &&
			other != gathered)
			all = lappend(all, other);
	}
	names = palloc(sizeof(char *) * list_length(all));
	foreach(lc, all)
		names[foreach_current_index(lc)] = remote_table_name(target_id(lfirst(lc)));
	array = remote_array(names, list_length(all), 1);
	answer = wire_exec(gathered->modify->wire, WIRE_WRITE, SKIPS_ROWS, 1, &array);
	remote_result_check(answer, list_length(all), 1);
	foreach(lc, all)
	{
		GatheredChange *other = lfirst(lc);

		other->asked = true;
		other->skips_rows = strcmp(PQgetvalue(answer, foreach_current_index(lc), 0), "f") != 0;
	}
	return gathered->skips_rows;
}

/*
 * The rows were locked in the store when they were read.  If it has not changed
 * all of them, then a trigger there has left them out, or something that this
 * statement has called has changed them meanwhile, which is an error in any table.
 */
static void
check_all_changed(GatheredChange *gathered, int sent)
{
	StoreModify *modify = gathered->modify;
	int			written = modify->change->written;

	if (written >= sent || modify->operation == CMD_INSERT)
		return;
	if (modify->version ? written + modify->change->left_out < sent : !skips_rows(gathered))
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
				 errmsg("row of table %s in store \"%s\" was already changed by an operation triggered by the current command",
						remote_table_name(modify->change->relid), wire_store(modify->wire)),
				 errhint("Consider using an AFTER trigger instead of a BEFORE trigger to propagate changes to other rows.")));
}

/* Stores a promised row, as RETURNING shows it.  The slot has it but for DELETE. */
static void
promise_row(GatheredChange *gathered, TupleTableSlot *slot, TupleTableSlot *plan_slot)
{
	HeapTupleData tuple;
	bool		isnull;

	if (gathered->modify->operation != CMD_DELETE)
	{
		tuplestore_puttupleslot(gathered->promises, slot);
		return;
	}
	tuple.t_data = DatumGetHeapTupleHeader(ExecGetJunkAttribute(plan_slot, gathered->whole_row, &isnull));
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

/*
 * Does the store show the value that was promised as text?  It may show it in another
 * way: in its own time zone.
 */
static bool
is_shown_as(AttInMetadata *in, AttrNumber attno, FmgrInfo *output, char *shown, char *promised)
{
	int			i = attno - 1;

	return strcmp(shown, promised) == 0 ||
		strcmp(OutputFunctionCall(output, InputFunctionCall(&in->attinfuncs[i], shown,
															in->attioparams[i], in->atttypmods[i])),
			   promised) == 0;
}

/* Compares a row of the result with what was promised. */
static void
check_promise(GatheredChange *gathered, int row, TupleTableSlot *promise)
{
	StoreModify *modify = gathered->modify;
	PGresult   *result = modify->change->result;
	int			nest_level = remote_text_begin(&gathered->promised_text);
	ListCell   *lc;

	foreach(lc, modify->change->returned)
	{
		Form_pg_attribute att = TupleDescAttr(promise->tts_tupleDescriptor, lfirst_int(lc) - 1);
		int			i = foreach_current_index(lc);
		FmgrInfo   *output = &gathered->promised_text.output[i];
		bool		isnull;
		Datum		value = slot_getattr(promise, att->attnum, &isnull);

		if (PQgetisnull(result, row, i) != isnull ||
			(!isnull && !is_shown_as(modify->in, att->attnum, output, PQgetvalue(result, row, i),
									 OutputFunctionCall(output, value))))
			report_broken_promise(modify, psprintf(_("Column \"%s\" has another value."), NameStr(att->attname)));
	}
	remote_text_end(nest_level);
}

/*
 * The statement has used rows that the store had not written yet.  They are compared
 * with what it has written now.
 */
static void
check_promises(GatheredChange *gathered, int sent)
{
	StoreModify *modify = gathered->modify;
	TupleTableSlot *promise;

	if (modify->change->written != sent)
		report_broken_promise(modify, psprintf(_("It has written %d rows of %d."), modify->change->written, sent));
	if (gathered->promises == NULL)
		return;
	promise = MakeSingleTupleTableSlot(RelationGetDescr(modify->target->ri_RelationDesc),
									   &TTSOpsMinimalTuple);
	for (int i = 0; i < gathered->row; i++)
	{
		if (gathered->answers[i] < 0)
			continue;
		if (!tuplestore_gettupleslot(gathered->promises, true, false, promise))
			break;
		check_promise(gathered, gathered->answers[i], promise);
		MemoryContextReset(modify->row_context);
	}
	ExecDropSingleTupleTableSlot(promise);
	tuplestore_end(gathered->promises);
	gathered->promises = NULL;
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
gather(GatheredChange *gathered)
{
	EState	   *estate = gathered->modify->estate;
	PlanState  *plan = gathered->plan;
	MemoryContext oldcontext = MemoryContextSwitchTo(estate->es_query_cxt);
	Tuplestorestate *rows = tuplestore_begin_heap(false, false, work_mem);

	tuplestore_set_eflags(rows, 0);
	(void) tuplestore_alloc_read_pointer(rows, 0);
	gathered->stored = ExecInitExtraTupleSlot(estate, ExecGetResultType(plan), &TTSOpsMinimalTuple);
	gathered->given = ExecInitExtraTupleSlot(estate, ExecGetResultType(plan),
											 ExecGetResultSlotOps(plan, NULL));
	MemoryContextSwitchTo(oldcontext);

	plan->ExecProcNode = gathered->read_plan;
	for (;;)
	{
		TupleTableSlot *slot = ExecProcNode(plan);

		if (TupIsNull(slot))
			break;
		tuplestore_puttupleslot(rows, slot);
		ResetPerTupleExprContext(estate);
		CHECK_FOR_INTERRUPTS();
	}
	plan->ExecProcNode = give_row;
	gathered->rows = rows;
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
		GatheredChange *gathered = dlist_container(GatheredChange, node, iter.cur);

		if (gathered->modify->estate != estate || gathered->rows != NULL || gathered->waits)
			continue;
		gathered->waits = reads_returned_rows(gathered->plan);
		any_waits |= gathered->waits;
		if (!gathered->waits)
			gather(gathered);
	}
	dlist_foreach(iter, &gathering)
	{
		GatheredChange *gathered = dlist_container(GatheredChange, node, iter.cur);

		if (any_waits && gathered->modify->estate == estate && gathered->early == EARLY_FOR_CHANGES)
			gathered->early = EARLY_ALWAYS;
	}
}

/* Appends what is known of a row of the set. */
static void
note_answer(GatheredChange *gathered, int answer)
{
	if (gathered->nrows == gathered->max_rows)
	{
		gathered->max_rows = Max(gathered->max_rows * 2, 64);
		if (gathered->answers == NULL)
			gathered->answers = MemoryContextAllocHuge(gathered->modify->estate->es_query_cxt,
													   sizeof(int) * gathered->max_rows);
		else
			gathered->answers = repalloc_huge(gathered->answers, sizeof(int) * gathered->max_rows);
	}
	gathered->answers[gathered->nrows++] = answer;
}

/* Replaces the numbers of the rows in the set by the numbers of their answers. */
static void
match_answers(GatheredChange *gathered, int sent)
{
	PGresult   *result = gathered->modify->change->result;
	int		   *answer_of = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(int) * (sent + 1));

	for (int i = 0; i <= sent; i++)
		answer_of[i] = -1;
	for (int i = 0; i < PQntuples(result); i++)
	{
		int			n = sent == 1 ? 1 : atoi(PQgetvalue(result, i, PQnfields(result) - 1));

		if (n > 0 && n <= sent)
			answer_of[n] = i;
	}
	for (int i = 0; i < gathered->nrows; i++)
	{
		if (gathered->answers[i] > 0)
			gathered->answers[i] = answer_of[gathered->answers[i]];
	}
	pfree(answer_of);
}

/* Puts the next rows into the set.  A leaf mostly has none, and writes no SQL then. */
static void
fill_set(GatheredChange *gathered)
{
	StoreModify *modify = gathered->modify;

	if (gathered->state == SET_FILLED)
		return;
	gathered->state = SET_FILLED;
	gathered->nrows = gathered->row = 0;
	tuplestore_select_read_pointer(gathered->rows, 0);
	while (modify->change == NULL ||
		   MemoryContextMemAllocated(modify->change->values_context, true) < MAX_SET_BYTES)
	{
		CHECK_FOR_INTERRUPTS();
		gathered->whole = !tuplestore_gettupleslot(gathered->rows, true, false, gathered->stored);
		if (gathered->whole)
			break;
		store_modify_add(modify, gathered->stored, gathered->stored);
		note_answer(gathered, store_modify_changed_before(modify) ? -1 : modify->change->n);
	}
}

/* May its set be sent at the end of the statement? */
static bool
may_promise(GatheredChange *gathered)
{
	if (gathered->early != EARLY_ALWAYS || !gathered->whole || !store_modify_has_rows(gathered->modify))
		return false;
	/* the question begins the transaction in the store */
	begin_scans_before_write(gathered->modify->statement);
	return !skips_rows(gathered);
}

/* Fills the set.  Can it be a part of the statement that another change sends? */
static bool
can_be_part(GatheredChange *gathered)
{
	fill_set(gathered);
	return gathered->whole && store_modify_has_rows(gathered->modify) && !may_promise(gathered);
}

/* Notes what the store has done with a set; last: of the statement there. */
static void
take_answers(GatheredChange *gathered, int sent, bool last)
{
	StoreModify *modify = gathered->modify;
	RemoteChange *change = modify->change;

	gathered->state = SET_READY;
	if (modify->returning || last)
		check_all_changed(gathered, sent);
	if (!modify->returning)
	{
		/* promises were counted */
		if (gathered->counts && !gathered->promised)
			gathered->uncounted += change->written;
		gathered->nrows = gathered->row = 0;
	}
	else if (modify->operation == CMD_INSERT)
	{
		remote_result_check(change->result, Min(change->written, sent), 0);
		gathered->nrows = change->written;
		for (int i = 0; i < change->written; i++)
			gathered->answers[i] = i;
	}
	else
		match_answers(gathered, sent);
	if (gathered->promised && (modify->returning || last))
		check_promises(gathered, sent);
}

/* Sends the set, and before it those of other changes. */
static void
send_set(GatheredChange *gathered, List *others)
{
	List	   *all = lappend(list_copy(others), gathered);
	List	   *before = NIL;
	int		   *sent = palloc(sizeof(int) * list_length(all));
	ListCell   *lc;

	foreach(lc, all)
	{
		StoreModify *modify = ((GatheredChange *) lfirst(lc))->modify;

		sent[foreach_current_index(lc)] = modify->change->n;
		if (modify != gathered->modify)
			before = lappend(before, modify);
	}
	(void) store_modify_send(gathered->modify, before);
	foreach(lc, all)
		take_answers(lfirst(lc), sent[foreach_current_index(lc)], lnext(all, lc) == NULL);
	pfree(sent);
}

/* What the executor gets from now on is what will be sent. */
static void
promise(GatheredChange *gathered)
{
	StoreModify *modify = gathered->modify;
	MemoryContext oldcontext = MemoryContextSwitchTo(modify->estate->es_query_cxt);
	ListCell   *lc;

	gathered->state = SET_READY;
	gathered->promised = true;
	modify->change->waits = gathered->waits;
	/* they are sent in this order */
	dlist_delete(&gathered->node);
	dlist_push_tail(&gathering, &gathered->node);
	if (!modify->returning)
	{
		gathered->nrows = 0;
		if (gathered->counts)
			modify->estate->es_processed += modify->change->n;
	}
	else if (modify->operation != CMD_DELETE)
	{
		gathered->promises = tuplestore_begin_heap(false, false, work_mem);
		gathered->promised_text.output = palloc0(sizeof(FmgrInfo) * list_length(modify->change->returned));
		foreach(lc, modify->change->returned)
			remote_text_add(&gathered->promised_text,
							TupleDescAttr(RelationGetDescr(modify->target->ri_RelationDesc), lfirst_int(lc) - 1)->atttypid);
	}
	MemoryContextSwitchTo(oldcontext);
}

/*
 * Sends what the statement has promised in the store of a change, in that order, but
 * the one whose rows are counted is the last.
 */
static void
keep_promises(GatheredChange *gathered)
{
	GatheredChange *last = NULL;
	List	   *all = NIL;
	dlist_iter	iter;

	dlist_foreach(iter, &gathering)
	{
		GatheredChange *other = dlist_container(GatheredChange, node, iter.cur);

		if (other->modify->statement != gathered->modify->statement || !store_modify_has_rows(other->modify))
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
		any |= dlist_container(GatheredChange, node, iter.cur)->modify->estate == estate;
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
		GatheredChange *gathered = dlist_container(GatheredChange, node, iter.cur);

		if (gathered->modify->estate == estate && store_modify_has_rows(gathered->modify))
			keep_promises(gathered);
	}
	MemoryContextSwitchTo(oldcontext);
	next_executor_finish(query);
}

/*
 * Sends the set that was filled.  With it go the sets of other changes in the same
 * store.  The one whose rows are counted, which is the last in the statement, comes
 * last there as well.
 */
static void
send_with_others(GatheredChange *gathered)
{
	GatheredChange *last = gathered;
	List	   *others = NIL;
	dlist_iter	iter;

	dlist_foreach(iter, &gathering)
	{
		GatheredChange *other = dlist_container(GatheredChange, node, iter.cur);

		if (other == gathered || other->modify->statement != gathered->modify->statement ||
			other->rows == NULL || other->promised || has_rows_to_give(other))
			continue;
		if (!other->counts)
		{
			if (can_be_part(other))
				others = lappend(others, other);
		}
		else if (!gathered->counts && can_be_part(gathered))
		{
			fill_set(other);
			if (store_modify_has_rows(other->modify) && !may_promise(other))
				last = other;
		}
	}
	if (last != gathered)
		others = lappend(others, gathered);
	if (store_modify_has_rows(last->modify))
		send_set(last, others);
	else
	{
		/* each of its rows was changed before */
		last->modify->change->written = 0;
		take_answers(last, 0, true);
	}
}

/*
 * Makes the next set ready.  False if there is no row left.  Its number of rows is
 * how many are to be given to the executor: none if nothing is returned, and what
 * INSERT returns does not depend on the row that was given.
 */
static bool
next_set(GatheredChange *gathered)
{
	/* another change may have sent them before the executor has begun to count */
	gathered->modify->estate->es_processed += gathered->uncounted;
	gathered->uncounted = 0;
	if (gathered->promised)
		return false;
	fill_set(gathered);
	if (gathered->nrows == 0)
		return false;
	if (may_promise(gathered))
		promise(gathered);
	else
		send_with_others(gathered);
	return true;
}

/* What the executor calls for the next row of the plan. */
static TupleTableSlot *
give_row(PlanState *plan)
{
	GatheredChange *gathered = NULL;
	dlist_iter	iter;

	dlist_foreach(iter, &gathering)
	{
		gathered = dlist_container(GatheredChange, node, iter.cur);
		if (gathered->plan == plan)
			break;
	}
	Assert(gathered != NULL && gathered->plan == plan);
	if (gathered->rows == NULL)
	{
		gather_all(gathered->modify->estate);
		if (gathered->rows == NULL)
			gather(gathered);
	}
	while (!has_rows_to_give(gathered))
	{
		if (!next_set(gathered))
			return NULL;
	}
	gathered->row++;
	tuplestore_select_read_pointer(gathered->rows, 1);
	if (!tuplestore_gettupleslot(gathered->rows, true, false, gathered->stored))
		elog(ERROR, "could not read a row that was sent");
	return ExecCopySlot(gathered->given, gathered->stored);
}

bool
gathered_row(StoreModify *modify, TupleTableSlot *slot, TupleTableSlot *plan_slot)
{
	GatheredChange *gathered = modify->gathered;
	int			answer = gathered->answers[gathered->row - 1];

	if (answer < 0)
		return false;
	if (gathered->promised && store_modify_has_rows(modify))
		promise_row(gathered, slot, plan_slot);
	else if (modify->returning)
	{
		MemoryContextReset(modify->row_context);
		store_modify_returned(modify, answer, slot);
	}
	return true;
}

void
gathered_end(StoreModify *modify)
{
	if (modify->gathered->promised && store_modify_has_rows(modify))
		elog(ERROR, "rows of foreign table \"%s\" were not sent",
			 RelationGetRelationName(modify->target->ri_RelationDesc));
	/* its temporary files belong to the statement */
	if (modify->gathered->rows)
		tuplestore_end(modify->gathered->rows);
	modify->gathered->rows = NULL;
}

static void
forget_gathering(void *arg)
{
	dlist_delete(&((GatheredChange *) arg)->node);
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
		StoreModify *other = dlist_container(GatheredChange, node, iter.cur)->modify;

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
gather_changes(StoreModify *modify, ModifyTableState *statement, EarlyRows early)
{
	GatheredChange *gathered = palloc0(sizeof(GatheredChange));
	MemoryContextCallback *forget = palloc0(sizeof(MemoryContextCallback));

	modify->gathered = gathered;
	gathered->modify = modify;
	gathered->plan = outerPlanState(statement);
	gathered->read_plan = gathered->plan->ExecProcNode;
	gathered->counts = statement->canSetTag;
	gathered->early = early;
	if (modify->operation == CMD_UPDATE)
		modify->new_columns = linitial(((ModifyTable *) statement->ps.plan)->updateColnosLists);
	if (modify->operation == CMD_DELETE && modify->returning && early != EARLY_NEVER)
	{
		gathered->whole_row = ExecFindJunkAttributeInTlist(gathered->plan->plan->targetlist, WHOLE_ROW_NAME);
		if (!AttributeNumberIsValid(gathered->whole_row))
			elog(ERROR, "could not find junk column \"%s\"", WHOLE_ROW_NAME);
	}
	share_changed(modify);
	dlist_push_head(&gathering, &gathered->node);
	forget->func = forget_gathering;
	forget->arg = gathered;
	MemoryContextRegisterResetCallback(modify->estate->es_query_cxt, forget);
	gathered->plan->ExecProcNode = give_row;
}

void
gathered_changes_init(void)
{
	next_executor_finish = ExecutorFinish_hook ? ExecutorFinish_hook : standard_ExecutorFinish;
	ExecutorFinish_hook = finish_executor;
}

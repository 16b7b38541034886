/*
 * cache_epoch.c
 *		Telling caches outside the database what has changed.
 *
 * The one idea: a row of a control-plane table has an epoch, a number that
 * its writer replaces in the writer's own transaction.  What remembers the
 * epoch together with a value knows later whether the value still holds.  The
 * cache of this extension needs none of it (see cache.c).
 *
 * The trigger runs once per statement and compares the rows before and after:
 * a statement that changes no resolved column writes nothing.  A statement
 * that changes more than BULK keys says so once, with the key '*', instead of
 * once per row.
 *
 * Listeners of the channel run_ops_cache hear "scope:key" at commit, from one
 * transaction at most BULK of them, and then '*' for what is left of a scope.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/tuplestore.h"

#include "cache_epoch.h"
#include "run_ops_split.h"

PG_FUNCTION_INFO_V1(run_ops_bump_changed);
PG_FUNCTION_INFO_V1(run_ops_bump_epoch);

#define CHANNEL "run_ops_cache"
#define ALL_KEYS "*"
#define BULK 100

static bool cache_notify = true;

/* What to say at commit; lives in the transaction's memory. */
static List *pending = NIL;

static void
say_at_commit(const char *scope, const char *key)
{
	MemoryContext old;
	char	   *payload;
	ListCell   *lc;

	if (!cache_notify)
		return;
	if (list_length(pending) >= BULK)
		key = ALL_KEYS;
	old = MemoryContextSwitchTo(TopTransactionContext);
	payload = psprintf("%s:%s", scope, key);
	foreach(lc, pending)
	{
		if (strcmp(lfirst(lc), payload) == 0)
			break;
	}
	if (lc == NULL)
		pending = lappend(pending, payload);
	MemoryContextSwitchTo(old);
}

/*
 * NOTIFY belongs to the commit, so that it is said once per transaction, and
 * because a transaction that has notified cannot be prepared.
 */
static void
xact_ended(XactEvent event, void *arg)
{
	ListCell   *lc;

	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			foreach(lc, pending)
				Async_Notify(CHANNEL, lfirst(lc));
			break;
		case XACT_EVENT_PRE_PREPARE:
			if (pending != NIL)
				ereport(WARNING,
						(errmsg("a prepared transaction does not notify \"%s\"",
								CHANNEL),
						 errhint("Caches that follow the channel must read run_ops.cache_epoch after COMMIT PREPARED.")));
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_ABORT:
			pending = NIL;
			break;
		default:
			break;
	}
}

/* Give these keys of a scope a new epoch.  Inside SPI. */
static void
bump(const char *scope, List *keys)
{
	static SPIPlanPtr plan = NULL;
	Datum	   *elements = palloc(list_length(keys) * sizeof(Datum));
	int			n = 0;
	Datum		args[2];
	ListCell   *lc;

	foreach(lc, keys)
	{
		elements[n++] = CStringGetTextDatum(lfirst(lc));
		say_at_commit(scope, lfirst(lc));
	}
	if (plan == NULL)
	{
		Oid			argtypes[] = {TEXTOID, TEXTARRAYOID};

		/* in the order of the keys, so that two writers cannot wait in a circle */
		SPIPlanPtr	p = SPI_prepare("INSERT INTO run_ops.cache_epoch (scope, key, epoch)"
									" SELECT $1, k, pg_catalog.nextval('run_ops.cache_epoch_value')"
									"   FROM pg_catalog.unnest($2) AS k ORDER BY k USING OPERATOR(pg_catalog.<)"
									" ON CONFLICT ON CONSTRAINT cache_epoch_pkey DO UPDATE SET epoch = EXCLUDED.epoch",
									2, argtypes);

		if (p == NULL)
			elog(ERROR, "could not prepare: %s",
				 SPI_result_code_string(SPI_result));
		SPI_keepplan(p);
		plan = p;
	}
	args[0] = CStringGetTextDatum(scope);
	args[1] = PointerGetDatum(construct_array(elements, n, TEXTOID, -1, false,
											  TYPALIGN_INT));
	if (SPI_execute_plan(plan, args, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not bump the epochs of scope \"%s\"", scope);
}

/* ---- what a statement has changed ------------------------------------------ */

/* A transition table, read from its start; or none. */
typedef struct Rows
{
	Tuplestorestate *store;
	int			pointer;
	TupleTableSlot *slot;
} Rows;

static void
open_rows(Rows *rows, Tuplestorestate *store, TupleDesc desc)
{
	rows->store = store;
	if (store == NULL)
		return;
	rows->slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	rows->pointer = tuplestore_alloc_read_pointer(store, EXEC_FLAG_REWIND);
	tuplestore_select_read_pointer(store, rows->pointer);
	tuplestore_rescan(store);
}

static bool
next_row(Rows *rows)
{
	if (rows->store == NULL)
		return false;
	tuplestore_select_read_pointer(rows->store, rows->pointer);
	return tuplestore_gettupleslot(rows->store, true, false, rows->slot);
}

static bool
columns_differ(Rows *before, Rows *after, const AttrNumber *columns, int n)
{
	for (int i = 0; i < n; i++)
	{
		Form_pg_attribute attr =
		TupleDescAttr(before->slot->tts_tupleDescriptor, columns[i] - 1);
		bool		null1,
					null2;
		Datum		value1 = slot_getattr(before->slot, columns[i], &null1);
		Datum		value2 = slot_getattr(after->slot, columns[i], &null2);

		if (null1 != null2)
			return true;
		if (!null1 &&
			!datum_image_eq(value1, value2, attr->attbyval, attr->attlen))
			return true;
	}
	return false;
}

static List *
add_key(List *keys, TupleTableSlot *slot, AttrNumber column)
{
	bool		isnull;
	Datum		value = slot_getattr(slot, column, &isnull);
	char	   *key;
	ListCell   *lc;

	if (isnull)
		return keys;
	key = TextDatumGetCString(value);
	foreach(lc, keys)
	{
		if (strcmp(lfirst(lc), key) == 0)
			return keys;
	}
	return lappend(keys, key);
}

static AttrNumber
column_number(Relation rel, const char *name)
{
	int			attnum = SPI_fnumber(RelationGetDescr(rel), name);

	if (attnum <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("table \"%s\" has no column \"%s\"",
						RelationGetRelationName(rel), name),
				 errhint("After a migration, run run_ops.detach_control_plane() and run_ops.attach_control_plane().")));
	return attnum;
}

/*
 * bump_changed(scope, key column, resolved column, ...): a trigger AFTER
 * INSERT, UPDATE, DELETE or TRUNCATE, FOR EACH STATEMENT, with the transition
 * tables of its event.
 *
 * The two transition tables of an UPDATE hold the same rows in the same
 * order: the executor adds to both for each row.
 */
Datum
run_ops_bump_changed(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	Trigger    *trigger;
	Relation	rel;
	AttrNumber *columns;
	int			ncolumns;
	AttrNumber	key_column;
	Rows		before = {0},
				after = {0};
	List	   *keys = NIL;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_FOR_STATEMENT(data->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("bump_changed() must be called as a trigger for each statement")));
	trigger = data->tg_trigger;
	rel = data->tg_relation;

	if (TRIGGER_FIRED_BY_TRUNCATE(data->tg_event))
		keys = list_make1(ALL_KEYS);
	else
	{
		ncolumns = trigger->tgnargs - 2;
		columns = palloc(ncolumns * sizeof(AttrNumber));
		key_column = column_number(rel, trigger->tgargs[1]);
		for (int i = 0; i < ncolumns; i++)
			columns[i] = column_number(rel, trigger->tgargs[i + 2]);
		open_rows(&before, data->tg_oldtable, RelationGetDescr(rel));
		open_rows(&after, data->tg_newtable, RelationGetDescr(rel));
		for (;;)
		{
			bool		had = next_row(&before);
			bool		has = next_row(&after);

			CHECK_FOR_INTERRUPTS();
			if (!had && !has)
				break;
			if (had && has && !columns_differ(&before, &after, columns, ncolumns))
				continue;
			if (had)
				keys = add_key(keys, before.slot, key_column);
			if (has)
				keys = add_key(keys, after.slot, key_column);
			if (list_length(keys) > BULK)
			{
				keys = list_make1(ALL_KEYS);
				break;
			}
		}
		if (before.store != NULL)
			ExecDropSingleTupleTableSlot(before.slot);
		if (after.store != NULL)
			ExecDropSingleTupleTableSlot(after.slot);
	}
	if (keys != NIL)
	{
		SPI_connect();
		bump(trigger->tgargs[0], keys);
		SPI_finish();
	}
	return PointerGetDatum(NULL);
}

/* bump_epoch(scope text, key text): by hand */
Datum
run_ops_bump_epoch(PG_FUNCTION_ARGS)
{
	SPI_connect();
	bump(text_to_cstring(PG_GETARG_TEXT_PP(0)),
		 list_make1(text_to_cstring(PG_GETARG_TEXT_PP(1))));
	SPI_finish();
	PG_RETURN_VOID();
}

void
cache_epoch_init(void)
{
	DefineCustomBoolVariable("run_ops_split.cache_notify",
							 "Notify the channel run_ops_cache of changes of the control plane.",
							 "Notifying transactions of a cluster commit one after the other.",
							 &cache_notify, true,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	RegisterXactCallback(xact_ended, NULL);
}

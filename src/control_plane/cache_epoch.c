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

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "parser/parse_coerce.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "control_plane/cache.h"
#include "control_plane/cache_epoch.h"
#include "ground/compat.h"

PG_FUNCTION_INFO_V1(run_ops_bump_changed);
PG_FUNCTION_INFO_V1(run_ops_bump_epoch);

#define CHANNEL "run_ops_cache"
#define ALL_KEYS "*"
#define BULK 100

/* Longer keys are bumped as '*': indexes and payloads have their limits. */
#define MAX_KEY_SIZE 256

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

/* The row of a key: (scope, key, epoch). */
#define EPOCH_COLUMNS 3
#define EPOCH_KEY_COLUMNS 2

/*
 * Give a key that has an epoch the new one, below the executor, which would
 * take three times as long.  False when the key has none, or seems to have
 * none while others write it.
 *
 * The newest row is replaced whatever the snapshot of the transaction sees:
 * the new epoch does not depend on the old one.  The row cannot be vacuumed
 * away between the look and the update, as whoever deletes it is not older
 * than the active snapshot.
 */
static bool
replace_epoch(Relation rel, Oid index_id, TupleTableSlot *row)
{
	ScanKeyData key[EPOCH_KEY_COLUMNS];

	for (int i = 0; i < EPOCH_KEY_COLUMNS; i++)
		ScanKeyEntryInitialize(&key[i], 0, i + 1, BTEqualStrategyNumber,
							   InvalidOid,
							   TupleDescAttr(RelationGetDescr(rel), i)->attcollation,
							   F_TEXTEQ, row->tts_values[i]);
	for (;;)
	{
		SysScanDesc scan = systable_beginscan(rel, index_id, true, SnapshotSelf,
											  EPOCH_KEY_COLUMNS, key);
		HeapTuple	old = systable_getnext(scan);
		ItemPointerData ctid;
		TM_FailureData failure;
		LockTupleMode lock_mode;
		TU_UpdateIndexes update_indexes;
		TM_Result	result;

		if (HeapTupleIsValid(old))
			ctid = old->t_self;
		systable_endscan(scan);
		if (!HeapTupleIsValid(old))
			return false;
		result = table_tuple_update(rel, &ctid, row, GetCurrentCommandId(true),
									InvalidSnapshot, InvalidSnapshot, true,
									&failure, &lock_mode, &update_indexes);
		if (result == TM_Updated || result == TM_Deleted)
		{
			/* waited for another writer */
			CHECK_FOR_INTERRUPTS();
			continue;
		}
		if (result != TM_Ok)
			return false;
		if (update_indexes != TU_None)
		{
			Relation	index = index_open(index_id, RowExclusiveLock);

			index_insert(index, row->tts_values, row->tts_isnull,
						 &row->tts_tid, rel, UNIQUE_CHECK_YES, true,
						 BuildIndexInfo(index));
			index_close(index, NoLock);
		}
		return true;
	}
}

/* Give a key an epoch, which it most likely has not had so far. */
static void
insert_epoch(Relation rel, TupleTableSlot *row)
{
	static SPIPlanPtr plan = NULL;
	Oid			save_user;
	int			save_context;

	SPI_connect();
	/* who may write a control-plane table need not be allowed to write here */
	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(rel->rd_rel->relowner,
						   save_context | SECURITY_LOCAL_USERID_CHANGE);
	if (plan == NULL)
	{
		Oid			argtypes[] = {TEXTOID, TEXTOID, INT8OID};
		SPIPlanPtr	p = SPI_prepare("INSERT INTO run_ops.cache_epoch (scope, key, epoch)"
									" VALUES ($1, $2, $3)"
									" ON CONFLICT ON CONSTRAINT cache_epoch_pkey"
									" DO UPDATE SET epoch = EXCLUDED.epoch",
									EPOCH_COLUMNS, argtypes);

		if (p == NULL)
			elog(ERROR, "could not prepare: %s",
				 SPI_result_code_string(SPI_result));
		SPI_keepplan(p);
		plan = p;
	}
	if (SPI_execute_plan(plan, row->tts_values, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not insert an epoch");
	SetUserIdAndSecContext(save_user, save_context);
	SPI_finish();
}

static int
compare_keys(const ListCell *a, const ListCell *b)
{
	return strcmp(lfirst(a), lfirst(b));
}

/* Give these keys of a scope a new epoch. */
static void
bump(const char *scope, List *keys)
{
	Oid			schema = get_namespace_oid("run_ops", false);
	Oid			sequence = get_relname_relid("cache_epoch_value", schema);
	Relation	rel = table_open(get_relname_relid("cache_epoch", schema),
								 RowExclusiveLock);
	List	   *indexes = RelationGetIndexList(rel);
	/* with nothing but its primary key, the table needs no executor */
	bool		plain = list_length(indexes) == 1 && rel->trigdesc == NULL &&
		RelationGetNumberOfAttributes(rel) == EPOCH_COLUMNS &&
		ActiveSnapshotSet();
	TupleTableSlot *row = MakeSingleTupleTableSlot(RelationGetDescr(rel),
												   &TTSOpsVirtual);
	const char *done = NULL;
	ListCell   *lc;

	if (strlen(scope) >= MAX_KEY_SIZE)
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("scope \"%.64s...\" is too long", scope),
				 errdetail("It has %zu bytes, and the limit is %d.",
						   strlen(scope), MAX_KEY_SIZE - 1)));
	foreach(lc, keys)
	{
		if (strlen(lfirst(lc)) >= MAX_KEY_SIZE)
			lfirst(lc) = ALL_KEYS;
	}
	/* in one order, so that two writers cannot wait in a circle */
	list_sort(keys, compare_keys);
	/* as SPI does before and after a command that writes */
	CommandCounterIncrement();
	foreach(lc, keys)
	{
		const char *key = lfirst(lc);

		if (done != NULL && strcmp(key, done) == 0)
			continue;
		done = key;
		ExecClearTuple(row);
		row->tts_values[0] = CStringGetTextDatum(scope);
		row->tts_values[1] = CStringGetTextDatum(key);
		row->tts_values[2] = Int64GetDatum(nextval_internal(sequence, false));
		memset(row->tts_isnull, false, EPOCH_COLUMNS * sizeof(bool));
		ExecStoreVirtualTuple(row);
		if (!plain || !replace_epoch(rel, linitial_oid(indexes), row))
			insert_epoch(rel, row);
		say_at_commit(scope, key);
	}
	CommandCounterIncrement();
	ExecDropSingleTupleTableSlot(row);
	table_close(rel, NoLock);
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

/*
 * What a trigger looks at, found once: the names of its arguments as numbers.
 *
 * A column may have been dropped, renamed or given another type since.  That is
 * an error of the resolver (see control_plane.c), but no reason to refuse a
 * write: then every row counts as changed, or every key when the key is missing
 * or no text.
 */
typedef struct Watch
{
	Oid			trigger;		/* key */
	bool		complete;		/* all columns are there */
	AttrNumber	key_column;		/* 0: missing, or no text */
	int			ncolumns;
	AttrNumber	columns[FLEXIBLE_ARRAY_MEMBER];
} Watch;

static bool
columns_differ(Rows *before, Rows *after, const Watch *watch)
{
	for (int i = 0; i < watch->ncolumns; i++)
	{
		AttrNumber	column = watch->columns[i];
		Form_pg_attribute attr =
			TupleDescAttr(before->slot->tts_tupleDescriptor, column - 1);
		bool		null1,
					null2;
		Datum		value1 = slot_getattr(before->slot, column, &null1);
		Datum		value2 = slot_getattr(after->slot, column, &null2);

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

#define MAX_WATCHED 64

/* The number of the key column; 0 when it is missing, or no text. */
static AttrNumber
key_column_of(TupleDesc desc, const char *name)
{
	int			attnum = SPI_fnumber(desc, name);

	if (attnum <= 0 ||
		!IsBinaryCoercible(TupleDescAttr(desc, attnum - 1)->atttypid, TEXTOID))
		return 0;
	return attnum;
}

static Watch *
find_watch(Trigger *trigger, Relation rel)
{
	static HTAB *watches = NULL;
	static uint64 generation = 0;
	TupleDesc	desc = RelationGetDescr(rel);
	AttrNumber	columns[MAX_WATCHED];
	int			ncolumns = 0;
	bool		complete = true;
	char	   *names;
	char	   *name;
	char	   *rest;
	Watch	   *watch;

	if (watches != NULL && generation != cache_generation())
	{
		hash_destroy(watches);
		watches = NULL;
	}
	if (watches == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(Oid),
			.entrysize = offsetof(Watch, columns) + sizeof(columns)};

		watches = hash_create("run_ops_split epoch triggers", 64, &ctl,
							  HASH_ELEM | HASH_BLOBS);
		generation = cache_generation();
	}
	watch = hash_search(watches, &trigger->tgoid, HASH_FIND, NULL);
	if (watch != NULL)
		return watch;

	names = pstrdup(trigger->tgargs[2]);
	for (name = strtok_r(names, " ", &rest); name != NULL;
		 name = strtok_r(NULL, " ", &rest))
	{
		int			attnum = SPI_fnumber(desc, name);

		if (ncolumns == MAX_WATCHED)
			ereport(ERROR,
					(errcode(ERRCODE_TOO_MANY_COLUMNS),
					 errmsg("trigger \"%s\" names more than %d columns",
							trigger->tgname, MAX_WATCHED)));
		if (attnum > 0)
			columns[ncolumns++] = attnum;
		else
			complete = false;
	}
	/* may count a change itself: then this entry is not found again */
	cache_watch(RelationGetRelid(rel));
	watch = hash_search(watches, &trigger->tgoid, HASH_ENTER, NULL);
	watch->complete = complete;
	watch->key_column = key_column_of(desc, trigger->tgargs[1]);
	watch->ncolumns = ncolumns;
	memcpy(watch->columns, columns, ncolumns * sizeof(AttrNumber));
	return watch;
}

/* An error unless the trigger is what the function below is made for. */
static void
check_trigger(FunctionCallInfo fcinfo)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	TriggerEvent event;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_AFTER(data->tg_event) ||
		!TRIGGER_FIRED_FOR_STATEMENT(data->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("run_ops.bump_changed() must be called as a trigger after a statement")));
	if (data->tg_trigger->tgnargs != 3)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("run_ops.bump_changed() takes 3 arguments, but trigger \"%s\" has %d",
						data->tg_trigger->tgname, data->tg_trigger->tgnargs),
				 errhint("They are the scope, the key column, and the resolved columns with blanks between them.")));
	event = data->tg_event;
	if ((TRIGGER_FIRED_BY_INSERT(event) || TRIGGER_FIRED_BY_UPDATE(event)) &&
		data->tg_newtable == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" has no NEW TABLE", data->tg_trigger->tgname)));
	if ((TRIGGER_FIRED_BY_DELETE(event) || TRIGGER_FIRED_BY_UPDATE(event)) &&
		data->tg_oldtable == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" has no OLD TABLE", data->tg_trigger->tgname)));
}

/*
 * bump_changed(scope, key column, 'resolved column ...'): a trigger AFTER
 * INSERT, UPDATE, DELETE or TRUNCATE, FOR EACH STATEMENT, with the transition
 * tables of its event.  The columns are one argument, as the executor copies
 * all arguments of all triggers of a table for each statement.
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
	Rows		before = {0},
				after = {0};
	List	   *keys = NIL;

	check_trigger(fcinfo);
	trigger = data->tg_trigger;
	rel = data->tg_relation;

	if (TRIGGER_FIRED_BY_TRUNCATE(data->tg_event))
		keys = list_make1(ALL_KEYS);
	else
	{
		Watch	   *watch = find_watch(trigger, rel);

		open_rows(&before, data->tg_oldtable, RelationGetDescr(rel));
		open_rows(&after, data->tg_newtable, RelationGetDescr(rel));
		for (;;)
		{
			bool		had = next_row(&before);
			bool		has = next_row(&after);

			CHECK_FOR_INTERRUPTS();
			if (!had && !has)
				break;
			if (had && has && watch->complete &&
				!columns_differ(&before, &after, watch))
				continue;
			if (had && watch->key_column > 0)
				keys = add_key(keys, before.slot, watch->key_column);
			if (has && watch->key_column > 0)
				keys = add_key(keys, after.slot, watch->key_column);
			if (list_length(keys) > BULK || watch->key_column == 0)
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
		bump(trigger->tgargs[0], keys);
	return PointerGetDatum(NULL);
}

/* bump_epoch(scope text, key text): by hand */
Datum
run_ops_bump_epoch(PG_FUNCTION_ARGS)
{
	PreventCommandIfReadOnly("run_ops.bump_epoch()");
	PreventCommandIfParallelMode("run_ops.bump_epoch()");
	bump(text_to_cstring(PG_GETARG_TEXT_PP(0)),
		 list_make1(text_to_cstring(PG_GETARG_TEXT_PP(1))));
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

/*
 * cache_epoch.c
 *		Tells caches outside the database which rows have changed.
 *
 * The one idea: each row of a control-plane table has an epoch.  The transaction
 * of a writer gives the row a new epoch.  A cache stores the epoch with each
 * value.  As long as the epoch is the same, the value is valid.  The cache of
 * this extension does not use epochs (see cache.c).
 *
 * The trigger runs once for each statement and compares the rows before and
 * after.  It only notes which keys have changed.  The epochs are written just
 * before the transaction commits, in one order, and after that the transaction
 * locks no more rows.  So no two writers wait for each other, and nobody waits
 * for one that goes on to do other things.
 *
 * Until then the transaction sees its changes while the epochs are still those
 * of the rows before.  So it reads, in place of the epoch of a key that it has
 * changed, a number that nobody reads again.
 *
 * A transaction that changes more than BULK keys of a scope writes one epoch
 * with the key '*', instead of one for each row.  What is rolled back to a
 * savepoint stays noted: a new epoch too many does no harm.
 *
 * At commit, listeners of the channel run_ops_cache get "scope:key" for each
 * epoch.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
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
#include "funcapi.h"
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
PG_FUNCTION_INFO_V1(run_ops_pending_epochs);

#define CHANNEL "run_ops_cache"
#define ALL_KEYS "*"
#define BULK 100

/*
 * For a longer key, the epoch of '*' is changed, because the size of index
 * entries and of notifications is limited.
 */
#define MAX_KEY_SIZE 256

static bool cache_notify = true;

typedef struct Change
{
	char	   *scope;
	char	   *key;
} Change;

/* What the transaction has changed; in its memory. */
static List *changes = NIL;

/*
 * Notes that a row was changed.  False if all rows of its scope count as changed
 * from now on.
 */
static bool
note_change(const char *scope, const char *key)
{
	MemoryContext old;
	Change	   *change;
	int			nkeys = 0;
	ListCell   *lc;

	if (strlen(scope) >= MAX_KEY_SIZE)
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("scope \"%.64s...\" is too long", scope),
				 errdetail("It has %zu bytes, and the limit is %d.",
						   strlen(scope), MAX_KEY_SIZE - 1)));
	if (strlen(key) >= MAX_KEY_SIZE)
		key = ALL_KEYS;
	foreach(lc, changes)
	{
		change = lfirst(lc);
		if (strcmp(change->scope, scope) != 0)
			continue;
		if (strcmp(change->key, ALL_KEYS) == 0)
			return false;
		if (strcmp(change->key, key) == 0)
			return true;
		nkeys++;
	}
	if (nkeys == BULK)
		key = ALL_KEYS;
	old = MemoryContextSwitchTo(TopTransactionContext);
	change = palloc(sizeof(Change));
	change->scope = pstrdup(scope);
	change->key = pstrdup(key);
	changes = lappend(changes, change);
	MemoryContextSwitchTo(old);
	if (strcmp(key, ALL_KEYS) != 0)
		return true;
	/* it stands for the others */
	foreach(lc, changes)
	{
		Change	   *other = lfirst(lc);

		if (other != change && strcmp(other->scope, scope) == 0)
			changes = foreach_delete_current(changes, lc);
	}
	return false;
}

static int
compare_changes(const ListCell *a, const ListCell *b)
{
	const Change *change1 = lfirst(a);
	const Change *change2 = lfirst(b);
	int			order = strcmp(change1->scope, change2->scope);

	return order != 0 ? order : strcmp(change1->key, change2->key);
}

/* The columns of run_ops.committed_epoch: (scope, key, epoch). */
#define EPOCH_COLUMNS 3
#define EPOCH_KEY_COLUMNS 2

/*
 * Replaces the epoch of a key, without the executor, which would take three
 * times as long.  False if the key has no epoch, or if its row is not found
 * while another transaction writes it.
 *
 * The newest row is replaced, whatever the snapshot of the transaction sees,
 * because the new epoch does not depend on the old one.  VACUUM cannot remove
 * the row between the scan and the update: a transaction that deletes it is
 * not older than the active snapshot.
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
			/* another writer has changed the row */
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

/* Inserts the epoch of a key, which most likely has none. */
static void
insert_epoch(Relation rel, TupleTableSlot *row)
{
	static SPIPlanPtr plan = NULL;
	static NameData planned_for;
	Oid			save_user;
	int			save_context;

	SPI_connect();
	/* a user who writes a control-plane table needs no privileges here */
	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(rel->rd_rel->relowner,
						   save_context | SECURITY_LOCAL_USERID_CHANGE);
	/* in 0.1.0 the table has another name */
	if (plan == NULL || strcmp(NameStr(planned_for), RelationGetRelationName(rel)) != 0)
	{
		Oid			argtypes[] = {TEXTOID, TEXTOID, INT8OID};
		SPIPlanPtr	p = SPI_prepare(psprintf("INSERT INTO run_ops.%s (scope, key, epoch)"
											 " VALUES ($1, $2, $3) ON CONFLICT (scope, key)"
											 " DO UPDATE SET epoch = EXCLUDED.epoch",
											 RelationGetRelationName(rel)),
									EPOCH_COLUMNS, argtypes);

		if (p == NULL)
			elog(ERROR, "could not prepare: %s",
				 SPI_result_code_string(SPI_result));
		SPI_keepplan(p);
		if (plan)
			SPI_freeplan(plan);
		plan = p;
		namestrcpy(&planned_for, RelationGetRelationName(rel));
	}
	if (SPI_execute_plan(plan, row->tts_values, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not insert an epoch");
	SetUserIdAndSecContext(save_user, save_context);
	SPI_finish();
}

static Oid
find_relation(const char *name)
{
	Oid			schema = get_namespace_oid("run_ops", true);

	return OidIsValid(schema) ? get_relname_relid(name, schema) : InvalidOid;
}

/* A new number for an epoch, which no key has had. */
static Datum
next_epoch(void)
{
	return Int64GetDatum(nextval_internal(find_relation("cache_epoch_value"), false));
}

/* The table of the epochs.  NULL: the transaction has dropped the extension. */
static Relation
open_epochs(void)
{
	Oid			table = find_relation("committed_epoch");

	/* its name in 0.1.0 */
	if (!OidIsValid(table))
		table = find_relation("cache_epoch");
	return OidIsValid(table) ? try_relation_open(table, RowExclusiveLock) : NULL;
}

/*
 * Writes the epochs of what the transaction has changed, in one order, so that
 * two writers cannot deadlock.
 */
static void
write_epochs(void)
{
	Relation	rel = open_epochs();
	List	   *indexes;
	bool		plain;
	TupleTableSlot *row;
	ListCell   *lc;

	if (rel == NULL)
		return;
	indexes = RelationGetIndexList(rel);
	/* if only the primary key exists, replace_epoch() can be used */
	plain = list_length(indexes) == 1 && rel->trigdesc == NULL &&
		RelationGetNumberOfAttributes(rel) == EPOCH_COLUMNS;
	row = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsVirtual);
	list_sort(changes, compare_changes);
	/* as SPI does before a command that writes */
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	foreach(lc, changes)
	{
		Change	   *change = lfirst(lc);

		ExecClearTuple(row);
		row->tts_values[0] = CStringGetTextDatum(change->scope);
		row->tts_values[1] = CStringGetTextDatum(change->key);
		row->tts_values[2] = next_epoch();
		memset(row->tts_isnull, false, EPOCH_COLUMNS * sizeof(bool));
		ExecStoreVirtualTuple(row);
		if (!plain || !replace_epoch(rel, linitial_oid(indexes), row))
			insert_epoch(rel, row);
	}
	PopActiveSnapshot();
	ExecDropSingleTupleTableSlot(row);
	relation_close(rel, NoLock);
}

/*
 * With the objects of 0.1.0 the transaction reads the table itself, which must not
 * have the old epochs of rows that it has changed.
 */
static void
write_early_in_0_1_0(void)
{
	if (changes != NIL && !OidIsValid(find_relation("committed_epoch")))
		write_epochs();
}

/*
 * Everything that locks rows for the transaction, deferred triggers too, comes
 * before this; so do the commits in the stores come after it, as the wire was
 * initialized earlier: what fails here has not been committed there.
 *
 * Notifications are sent here too, because a transaction that has used NOTIFY
 * cannot be prepared.
 */
static void
xact_ends(XactEvent event, void *arg)
{
	ListCell   *lc;

	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			if (changes == NIL)
				break;
			/* it may have become read-only since; whatever fails ends it */
			XactReadOnly = false;
			write_epochs();
			if (!cache_notify)
				break;
			if (event == XACT_EVENT_PRE_PREPARE)
				ereport(WARNING,
						(errmsg("a prepared transaction does not notify \"%s\"",
								CHANNEL),
						 errhint("Caches that listen to the channel must read run_ops.cache_epoch after COMMIT PREPARED.")));
			else
				foreach(lc, changes)
				{
					Change	   *change = lfirst(lc);

					Async_Notify(CHANNEL, psprintf("%s:%s", change->scope,
												   change->key));
				}
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_ABORT:
			changes = NIL;
			break;
		default:
			break;
	}
}

/* ---- the rows that a statement has changed --------------------------------- */

/* A transition table that is read from its start; "store" is NULL for none. */
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
 * The columns in the arguments of a trigger as numbers, looked up once.
 *
 * A column may have been dropped or renamed, or may have another type now.
 * That makes a resolver fail (see control_plane.c), but must not make a write
 * fail.  Then every row counts as changed; if the key column is missing or
 * is not text, every key does.
 */
typedef struct Watch
{
	Oid			trigger;		/* hash key */
	bool		complete;		/* all columns exist */
	AttrNumber	key_column;		/* 0: missing, or not text */
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

/* Notes that the row of this key was changed; as note_change(). */
static bool
note_row(const char *scope, TupleTableSlot *slot, AttrNumber column)
{
	bool		isnull;
	Datum		value = slot_getattr(slot, column, &isnull);

	return isnull || note_change(scope, TextDatumGetCString(value));
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
	/* this may change the generation; then the entry is looked up again */
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
 * bump_changed(scope, key column, 'resolved column ...'): the function of
 * triggers AFTER INSERT, UPDATE, DELETE or TRUNCATE, FOR EACH STATEMENT, with
 * the transition tables of the event.  All columns are in one argument,
 * because the executor copies all arguments of all triggers of a table for
 * each statement.
 *
 * The two transition tables of an UPDATE contain the same rows in the same
 * order, because the executor adds each row to both.
 */
Datum
run_ops_bump_changed(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	Relation	rel;
	const char *scope;
	Watch	   *watch;
	Rows		before = {0},
				after = {0};

	check_trigger(fcinfo);
	rel = data->tg_relation;
	scope = data->tg_trigger->tgargs[0];
	if (TRIGGER_FIRED_BY_TRUNCATE(data->tg_event))
	{
		note_change(scope, ALL_KEYS);
		write_early_in_0_1_0();
		return PointerGetDatum(NULL);
	}

	watch = find_watch(data->tg_trigger, rel);
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
		if (watch->key_column == 0)
		{
			note_change(scope, ALL_KEYS);
			break;
		}
		if ((had && !note_row(scope, before.slot, watch->key_column)) ||
			(has && !note_row(scope, after.slot, watch->key_column)))
			break;
	}
	if (before.store != NULL)
		ExecDropSingleTupleTableSlot(before.slot);
	if (after.store != NULL)
		ExecDropSingleTupleTableSlot(after.slot);
	write_early_in_0_1_0();
	return PointerGetDatum(NULL);
}

/* bump_epoch(scope text, key text): gives a key a new epoch */
Datum
run_ops_bump_epoch(PG_FUNCTION_ARGS)
{
	PreventCommandIfReadOnly("run_ops.bump_epoch()");
	PreventCommandIfParallelMode("run_ops.bump_epoch()");
	note_change(text_to_cstring(PG_GETARG_TEXT_PP(0)),
				text_to_cstring(PG_GETARG_TEXT_PP(1)));
	write_early_in_0_1_0();
	PG_RETURN_VOID();
}

/* pending_epochs() returns table (scope text, key text, epoch bigint) */
Datum
run_ops_pending_epochs(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ListCell   *lc;

	compat_init_materialized_srf(fcinfo);
	foreach(lc, changes)
	{
		Change	   *change = lfirst(lc);
		Datum		values[EPOCH_COLUMNS];
		bool		nulls[EPOCH_COLUMNS] = {false};

		values[0] = CStringGetTextDatum(change->scope);
		values[1] = CStringGetTextDatum(change->key);
		values[2] = next_epoch();
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

void
cache_epoch_init(void)
{
	DefineCustomBoolVariable("run_ops_split.cache_notify",
							 "Notifies the channel run_ops_cache of changes of the control plane.",
							 "Transactions of a cluster that notify commit one after the other.",
							 &cache_notify, true,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	RegisterXactCallback(xact_ends, NULL);
}

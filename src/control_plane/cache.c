/*
 * cache.c
 *		A backend-local cache that is exact under every snapshot.
 *
 * The one idea: an entry remembers the versions of the rows it was computed
 * from.  A version of a row never changes, and a snapshot sees at most one
 * version for a unique key.  So while every remembered version is visible to
 * the active snapshot, the query would give the cached answer; otherwise it
 * is asked again.  Old snapshots, own uncommitted changes, rolled-back
 * savepoints, transactions prepared by others, replay on a standby, writers
 * that fire no triggers: all follow from that, and nothing is on the path of
 * a write.  (Messages about changes cannot do this: they arrive before or
 * after the change becomes visible to a snapshot, and say nothing about which
 * snapshot an answer belongs to.)
 *
 * A version is named by (table, ctid, xmin).  While the table keeps its file,
 * a ctid is not used twice with the same xmin, except after 2^32 transactions,
 * which the time limit excludes; and a new file, or a TRUNCATE of the present
 * one, counts as a change of the table's definition (below).
 *
 * Looking at the rows costs a microsecond.  A snapshot serial saves it: the
 * serial changes whenever the active snapshot might see something else than
 * the one before.  An entry seen to be right under the present serial still
 * is.  See snapshot_serial().
 *
 * What a snapshot does not govern is the definition of the tables: a changed
 * column, a dropped table.  Relcache callbacks count these changes (they run
 * in the middle of anything, so they do nothing else), and the next use of
 * the cache forgets everything.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/sysattr.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "control_plane/cache.h"
#include "control_plane/cache_lookups.h"
#include "ground/compat.h"
#include "ground/guard.h"
#include "ground/snapshot_key.h"

PG_FUNCTION_INFO_V1(run_ops_cache_stats);
PG_FUNCTION_INFO_V1(run_ops_cache_reset);

#define MAX_SOURCES 32
#define MAX_SLOTS 16

/* A table that entries were computed from. */
typedef struct Source
{
	Oid			relid;
	uint64		period;			/* transaction period in which it is locked */
	BlockNumber nblocks;		/* it is at least this long in that period */
	TupleTableSlot *slot;		/* to look at its rows; NULL at first */
} Source;

typedef struct EntryVersion
{
	int			source;			/* in sources */
	ItemPointerData ctid;
	TransactionId xmin;
} EntryVersion;

typedef struct Entry
{
	char		key[CACHE_KEY_SIZE];
	dlist_node	lru;
	Datum		answer;
	bool		isnull;
	uint64		serial;			/* snapshot serial it was last right in */
	TimestampTz born;
	int			nversions;
	EntryVersion versions[CACHE_MAX_VERSIONS];
} Entry;

static bool cache_enabled = true;
static int	cache_entries = 10000;
static int	cache_ttl = 3600;

static MemoryContext cache_context = NULL;
static CacheSlot *slots[MAX_SLOTS];
static int	nslots = 0;

/* The callback reads this array at any time; relid is written before nsources. */
static Source sources[MAX_SOURCES];
static int	nsources = 0;

static uint64 generation = 1;	/* counted up by callbacks */
static uint64 settled_generation = 1;	/* the one the entries belong to */
static uint64 transaction_period = 1;	/* 0 is none */

/* ---- what changes behind our back ---------------------------------------- */

static void
relation_changed(Datum arg, Oid relid)
{
	if (relid == InvalidOid)
		generation++;
	for (int i = 0; i < nsources; i++)
	{
		if (sources[i].relid == relid)
			generation++;
	}
}

/* The label of an enum, the name of a schema: part of an answer, or of a query. */
static void
catalog_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	generation++;
}

/* A number that stays the same only while the active snapshot sees the same. */
static uint64
snapshot_serial(Snapshot snapshot)
{
	static uint64 serial = 0;
	static SnapshotKey key;
	SnapshotChange change = snapshot_key_set(&key, snapshot);

	if (change != SNAPSHOT_SAME)
		serial++;
	if (change == SNAPSHOT_NEW_PERIOD)
		transaction_period++;
	return serial;
}

/* ---- entries ---------------------------------------------------------------- */

static void
drop_entry(CacheSlot *slot, Entry *entry)
{
	dlist_delete(&entry->lru);
	if (!slot->typbyval && !entry->isnull)
		pfree(DatumGetPointer(entry->answer));
	hash_search(slot->entries, entry->key, HASH_REMOVE, NULL);
}

static void
forget_everything(void)
{
	for (int i = 0; i < nslots; i++)
		slots[i]->entries = NULL;
	for (int i = 0; i < nsources; i++)
	{
		sources[i].period = 0;
		sources[i].slot = NULL;
	}
	if (cache_context != NULL)
		MemoryContextReset(cache_context);
}

/* Forget what the definition of a table has outdated. */
static void
settle(void)
{
	if (settled_generation == generation)
		return;
	settled_generation = generation;
	if (!GUARD(7, false))
		forget_everything();
}

static int
source_number(Oid relid)
{
	for (int i = 0; i < nsources; i++)
	{
		if (sources[i].relid == relid)
			return i;
	}
	if (nsources == MAX_SOURCES)
	{
		/* tables were dropped and made anew: begin again */
		forget_everything();
		generation++;
		nsources = 0;
	}
	memset(&sources[nsources], 0, sizeof(Source));
	sources[nsources].relid = relid;
	return nsources++;
}

/*
 * The table, locked like a query locks it, until the transaction ends: NULL
 * when it was dropped.
 */
static Relation
open_source(Source *source)
{
	Relation	rel;

	if (source->period == transaction_period)
		return relation_open(source->relid, NoLock);
	rel = try_relation_open(source->relid, AccessShareLock);
	if (rel == NULL)
		return NULL;
	/* from here on VACUUM cannot make it shorter */
	source->nblocks = RelationGetNumberOfBlocks(rel);
	source->period = transaction_period;
	if (source->slot == NULL)
	{
		/* a descriptor of our own: the table's is not ours to keep */
		MemoryContext old = MemoryContextSwitchTo(cache_context);

		source->slot =
			MakeSingleTupleTableSlot(CreateTupleDescCopy(RelationGetDescr(rel)),
									 table_slot_callbacks(rel));
		MemoryContextSwitchTo(old);
	}
	return rel;
}

/*
 * Is this version of a row visible?  Through the table access method, which
 * also takes the predicate lock that a SERIALIZABLE query would take.
 */
static bool
version_visible(Relation rel, Source *source, EntryVersion *version,
				Snapshot snapshot)
{
	BlockNumber block = ItemPointerGetBlockNumber(&version->ctid);
	bool		visible;
	bool		isnull;

	/* VACUUM gives back pages at the end; to read there is an error */
	if (block >= source->nblocks)
		source->nblocks = RelationGetNumberOfBlocks(rel);
	if (!GUARD(8, block < source->nblocks))
		return false;
	if (!table_tuple_fetch_row_version(rel, &version->ctid,
									   GUARD(9, false) ? SnapshotAny : snapshot,
									   source->slot))
		return false;
	/* another row may have taken the place */
	visible = GUARD(10, DatumGetTransactionId(slot_getsysattr(source->slot,
															  MinTransactionIdAttributeNumber,
															  &isnull)) == version->xmin);
	ExecClearTuple(source->slot);
	return visible;
}

static bool
entry_visible(Entry *entry, Snapshot snapshot)
{
	for (int i = 0; i < entry->nversions; i++)
	{
		EntryVersion *version = &entry->versions[i];
		Source	   *source = &sources[version->source];
		Relation	rel = open_source(source);
		bool		visible;

		if (rel == NULL)
			return false;
		/* locking may have told us of a changed definition */
		visible = GUARD(11, settled_generation == generation) &&
			version_visible(rel, source, version, snapshot);
		relation_close(rel, NoLock);
		if (!visible)
			return false;
	}
	return true;
}

static bool
expired(Entry *entry)
{
	return GetCurrentStatementStartTimestamp() - entry->born >=
		(int64) cache_ttl * USECS_PER_SEC;
}

/* Can answers be kept and found now?  Fills in the key if so. */
static bool
cache_usable(text *key, char *keybuf)
{
	int			len = VARSIZE_ANY_EXHDR(key);

	if (!cache_enabled || len >= CACHE_KEY_SIZE || !ActiveSnapshotSet() ||
		GetActiveSnapshot()->snapshot_type != SNAPSHOT_MVCC)
		return false;
	memcpy(keybuf, VARDATA_ANY(key), len);
	keybuf[len] = '\0';
	return true;
}

bool
cache_find(CacheSlot *slot, text *key, Datum *answer, bool *isnull)
{
	char		keybuf[CACHE_KEY_SIZE];
	Snapshot	snapshot;
	uint64		serial;
	Entry	   *entry;

	if (!cache_usable(key, keybuf))
		return false;
	settle();
	snapshot = GetActiveSnapshot();
	serial = snapshot_serial(snapshot);
	entry = slot->entries == NULL ? NULL :
		hash_search(slot->entries, keybuf, HASH_FIND, NULL);
	if (entry == NULL)
	{
		slot->misses++;
		count_cache_lookup(false);
		return false;
	}
	if (GUARD(12, false) || entry->serial == serial)
		slot->hits++;
	else if (!expired(entry) && entry_visible(entry, snapshot))
	{
		entry->serial = serial;
		slot->revalidations++;
	}
	else
	{
		drop_entry(slot, entry);
		slot->misses++;
		count_cache_lookup(false);
		return false;
	}
	dlist_move_head(&slot->lru, &entry->lru);
	/* a copy: the entry may go while the caller still holds the answer */
	*isnull = entry->isnull;
	if (!entry->isnull)
		*answer = datumCopy(entry->answer, slot->typbyval, slot->typlen);
	count_cache_lookup(true);
	return true;
}

CacheMoment
cache_moment(void)
{
	CacheMoment moment;

	settle();
	moment.serial = snapshot_serial(GetActiveSnapshot());
	moment.generation = settled_generation;
	return moment;
}

static void
register_slot(CacheSlot *slot)
{
	HASHCTL		ctl = {.keysize = CACHE_KEY_SIZE, .entrysize = sizeof(Entry)};

	if (!slot->registered)
	{
		if (nslots == MAX_SLOTS)
			elog(ERROR, "too many cache slots");
		slots[nslots++] = slot;
		slot->registered = true;
	}
	if (cache_context == NULL)
		cache_context = AllocSetContextCreate(TopMemoryContext,
											  "run_ops_split cache",
											  ALLOCSET_DEFAULT_SIZES);
	if (slot->entries == NULL)
	{
		ctl.hcxt = cache_context;
		dlist_init(&slot->lru);
		slot->entries = hash_create("run_ops_split cache slot", 256, &ctl,
									HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	}
}

void
cache_enter(CacheSlot *slot, text *key, Datum answer, bool isnull,
			const RowVersion *versions, int nversions, CacheMoment moment)
{
	char		keybuf[CACHE_KEY_SIZE];
	EntryVersion kept[CACHE_MAX_VERSIONS];
	Entry	   *entry;
	MemoryContext old;
	bool		found;

	Assert(nversions > 0 && nversions <= CACHE_MAX_VERSIONS);
	if (!cache_usable(key, keybuf))
		return;
	register_slot(slot);

	/* all that may fail or call back comes before the entry is linked */
	for (int i = 0; i < nversions; i++)
	{
		kept[i].source = source_number(versions[i].tableoid);
		kept[i].ctid = versions[i].ctid;
		kept[i].xmin = versions[i].xmin;
	}
	/* else the next use of the cache would forget it, and slot->entries may be gone */
	if (moment.generation != generation)
		return;
	old = MemoryContextSwitchTo(cache_context);
	if (!isnull)
		answer = datumCopy(answer, slot->typbyval, slot->typlen);
	MemoryContextSwitchTo(old);

	entry = hash_search(slot->entries, keybuf, HASH_FIND, NULL);
	if (entry != NULL)
		drop_entry(slot, entry);
	while (hash_get_num_entries(slot->entries) >= cache_entries)
	{
		drop_entry(slot, dlist_tail_element(Entry, lru, &slot->lru));
		slot->evictions++;
	}
	entry = hash_search(slot->entries, keybuf, HASH_ENTER, &found);
	entry->answer = answer;
	entry->isnull = isnull;
	entry->serial = moment.serial;
	entry->born = GetCurrentStatementStartTimestamp();
	entry->nversions = nversions;
	memcpy(entry->versions, kept, nversions * sizeof(EntryVersion));
	dlist_push_head(&slot->lru, &entry->lru);
}

uint64
cache_generation(void)
{
	return generation;
}

void
cache_watch(Oid relid)
{
	(void) source_number(relid);
}

/* ---- for people -------------------------------------------------------------- */

/* cache_stats(): one row per slot that was used in this session */
Datum
run_ops_cache_stats(PG_FUNCTION_ARGS)
{
	FuncCallContext *call;

	if (SRF_IS_FIRSTCALL())
	{
		MemoryContext old;
		TupleDesc	tupdesc;

		call = SRF_FIRSTCALL_INIT();
		old = MemoryContextSwitchTo(call->multi_call_memory_ctx);
		if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
			elog(ERROR, "return type must be a row type");
		call->tuple_desc = BlessTupleDesc(tupdesc);
		MemoryContextSwitchTo(old);
	}
	call = SRF_PERCALL_SETUP();
	if (call->call_cntr < nslots)
	{
		CacheSlot  *slot = slots[call->call_cntr];
		Datum		values[7];
		bool		nulls[7] = {false};

		values[0] = CStringGetTextDatum(slot->name);
		values[1] = Int64GetDatum(slot->entries == NULL ? 0 :
								  hash_get_num_entries(slot->entries));
		values[2] = Int64GetDatum(slot->hits);
		values[3] = Int64GetDatum(slot->revalidations);
		values[4] = Int64GetDatum(slot->misses);
		values[5] = Int64GetDatum(slot->evictions);
		values[6] = Int64GetDatum(MemoryContextMemAllocated(cache_context, true));
		SRF_RETURN_NEXT(call, HeapTupleGetDatum(heap_form_tuple(call->tuple_desc,
																 values, nulls)));
	}
	SRF_RETURN_DONE(call);
}

/* cache_reset(): empties every slot of this session, counters included */
Datum
run_ops_cache_reset(PG_FUNCTION_ARGS)
{
	forget_everything();
	for (int i = 0; i < nslots; i++)
	{
		CacheSlot  *slot = slots[i];

		slot->hits = slot->revalidations = slot->misses = slot->evictions = 0;
	}
	PG_RETURN_VOID();
}

void
cache_init(void)
{
	DefineCustomBoolVariable("run_ops_split.cache",
							 "Answer control-plane questions from the cache of the session.",
							 NULL, &cache_enabled, true,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("run_ops_split.cache_entries",
							"Number of entries the cache keeps in each slot.",
							"The one that was used longest ago makes room.",
							&cache_entries, 10000, 1, 1000000,
							PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("run_ops_split.cache_ttl",
							"Age at which an entry of the cache is read anew.",
							"Entries are exact at any age below it; it also bounds how long memory is held for what nobody asks.",
							&cache_ttl, 3600, 1, 86400,
							PGC_USERSET, GUC_UNIT_S, NULL, NULL, NULL);
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(ENUMOID, catalog_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, catalog_changed, (Datum) 0);
}

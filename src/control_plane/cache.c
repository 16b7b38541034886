/*
 * cache.c
 *		A backend-local cache that is exact under every snapshot.
 *
 * The one idea: an entry remembers the versions of the rows from which it was
 * computed.  A version of a row never changes, and a snapshot sees at most one
 * version for a unique key.  So while every remembered version is visible to
 * the active snapshot, the query would return the cached answer; otherwise the
 * query is executed again.  This is right for old snapshots, own uncommitted
 * changes, rolled-back savepoints, transactions prepared by others, replay on
 * a standby, and writers that fire no triggers.  Writers do nothing for it.
 * (Invalidation messages would not be enough: a message arrives before or
 * after its change becomes visible to a snapshot, and does not say to which
 * snapshot an answer belongs.)
 *
 * A version is identified by (table, ctid, xmin).  While the table keeps its
 * file, a ctid is not used twice with the same xmin, except after 2^32
 * transactions, and an entry expires before that.  A new file, or a TRUNCATE
 * of the present one, counts as a change of the definition of the table
 * (below).
 *
 * Testing whether the versions are visible takes a microsecond.  A snapshot
 * serial saves most of these tests.  The serial changes whenever the active
 * snapshot might see something else than the one before.  So an entry that was
 * right under the present serial still is.  See snapshot_serial().
 *
 * The definition of the tables does not depend on a snapshot: a column may be
 * changed, or a table dropped.  Relcache callbacks count these changes.  They
 * do nothing else, because they can be called at any time.  The next use of
 * the cache then empties it.
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
	BlockNumber nblocks;		/* it has at least so many in that period */
	TupleTableSlot *slot;		/* for reading its rows; NULL at first */
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
	CacheSlot  *slot;
	dlist_node	lru;			/* in "lru" */
	Size		bytes;			/* of the entry and its answer */
	Datum		answer;
	bool		isnull;
	uint64		serial;			/* last snapshot serial for which it was right */
	TimestampTz born;
	int			nversions;
	EntryVersion versions[CACHE_MAX_VERSIONS];
} Entry;

static bool cache_enabled = true;
static int	cache_memory = 16 * 1024;
static int	cache_ttl = 3600;

static MemoryContext cache_context = NULL;
static CacheSlot *slots[MAX_SLOTS];
static int	nslots = 0;

/* The entries of all slots, the one that was used last first; their bytes. */
static dlist_head lru = DLIST_STATIC_INIT(lru);
static Size used_bytes = 0;

/*
 * A callback may read this array at any time, so relid is written before
 * nsources.
 */
static Source sources[MAX_SOURCES];
static int	nsources = 0;

static uint64 generation = 1;	/* callbacks increment it */
static uint64 settled_generation = 1;	/* to which the entries belong */
static uint64 transaction_period = 1;	/* never 0 */

/* ---- changes that the cache must notice ------------------------------------ */

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

/* Answers contain labels of enums, and queries contain names of schemas. */
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
drop_entry(Entry *entry)
{
	CacheSlot  *slot = entry->slot;

	dlist_delete(&entry->lru);
	used_bytes -= entry->bytes;
	if (!slot->typbyval && !entry->isnull)
		pfree(DatumGetPointer(entry->answer));
	hash_search(slot->entries, entry->key, HASH_REMOVE, NULL);
}

static void
forget_everything(void)
{
	for (int i = 0; i < nslots; i++)
		slots[i]->entries = NULL;
	dlist_init(&lru);
	used_bytes = 0;
	for (int i = 0; i < nsources; i++)
	{
		sources[i].period = 0;
		sources[i].slot = NULL;
	}
	if (cache_context != NULL)
		MemoryContextReset(cache_context);
}

/* Empties the cache if the definition of a table has changed. */
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
		/* tables have been dropped and created again: start over */
		forget_everything();
		generation++;
		nsources = 0;
	}
	memset(&sources[nsources], 0, sizeof(Source));
	sources[nsources].relid = relid;
	return nsources++;
}

/*
 * Opens the table with the lock that a query takes, which is held until the
 * transaction ends.  NULL if the table has been dropped.
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
	/* from here on VACUUM cannot truncate it */
	source->nblocks = RelationGetNumberOfBlocks(rel);
	source->period = transaction_period;
	if (source->slot == NULL)
	{
		/* copy the descriptor, because the one of the table may be freed */
		MemoryContext old = MemoryContextSwitchTo(cache_context);

		source->slot =
			MakeSingleTupleTableSlot(CreateTupleDescCopy(RelationGetDescr(rel)),
									 table_slot_callbacks(rel));
		MemoryContextSwitchTo(old);
	}
	return rel;
}

/*
 * Is this version of a row visible?  The table access method decides, and also
 * takes the predicate lock that a SERIALIZABLE query would take.
 */
static bool
version_visible(Relation rel, Source *source, EntryVersion *version,
				Snapshot snapshot)
{
	BlockNumber block = ItemPointerGetBlockNumber(&version->ctid);
	bool		visible;
	bool		isnull;

	/* VACUUM may have truncated the table; reading behind its end is an error */
	if (block >= source->nblocks)
		source->nblocks = RelationGetNumberOfBlocks(rel);
	if (!GUARD(8, block < source->nblocks))
		return false;
	if (!table_tuple_fetch_row_version(rel, &version->ctid,
									   GUARD(9, false) ? SnapshotAny : snapshot,
									   source->slot))
		return false;
	/* another row may have this ctid now */
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
		/* taking the lock may have called back about a changed definition */
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

/* Can the cache be used for this key now?  If so, fills in keybuf. */
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
		drop_entry(entry);
		slot->misses++;
		count_cache_lookup(false);
		return false;
	}
	dlist_move_head(&lru, &entry->lru);
	/* copy it, because the entry may be dropped while the caller uses it */
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
	Size		bytes = sizeof(HASHELEMENT) + sizeof(Entry);
	bool		found;

	Assert(nversions > 0 && nversions <= CACHE_MAX_VERSIONS);
	if (!cache_usable(key, keybuf))
		return;
	register_slot(slot);

	/* everything that may fail or call back comes before the entry exists */
	for (int i = 0; i < nversions; i++)
	{
		kept[i].source = source_number(versions[i].tableoid);
		kept[i].ctid = versions[i].ctid;
		kept[i].xmin = versions[i].xmin;
	}
	/*
	 * If the definition of a table has changed, the next use would empty the
	 * cache anyway, and slot->entries may have been freed.
	 */
	if (moment.generation != generation)
		return;
	old = MemoryContextSwitchTo(cache_context);
	if (!isnull)
		answer = datumCopy(answer, slot->typbyval, slot->typlen);
	MemoryContextSwitchTo(old);
	if (!isnull && !slot->typbyval)
		bytes += GetMemoryChunkSpace(DatumGetPointer(answer));

	entry = hash_search(slot->entries, keybuf, HASH_FIND, NULL);
	if (entry != NULL)
		drop_entry(entry);
	while (used_bytes + bytes > (Size) cache_memory * 1024 && !dlist_is_empty(&lru))
	{
		entry = dlist_tail_element(Entry, lru, &lru);
		entry->slot->evictions++;
		drop_entry(entry);
	}
	entry = hash_search(slot->entries, keybuf, HASH_ENTER, &found);
	entry->slot = slot;
	entry->bytes = bytes;
	used_bytes += bytes;
	entry->answer = answer;
	entry->isnull = isnull;
	entry->serial = moment.serial;
	entry->born = GetCurrentStatementStartTimestamp();
	entry->nversions = nversions;
	memcpy(entry->versions, kept, nversions * sizeof(EntryVersion));
	dlist_push_head(&lru, &entry->lru);
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

/* ---- functions for monitoring ------------------------------------------------ */

/* cache_stats(): one row for each slot that was used in this session */
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
		values[6] = Int64GetDatum(used_bytes);
		SRF_RETURN_NEXT(call, HeapTupleGetDatum(heap_form_tuple(call->tuple_desc,
																 values, nulls)));
	}
	SRF_RETURN_DONE(call);
}

/* cache_reset(): empties every slot of this session and resets its counters */
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
							 "Lets the control-plane resolvers use the cache of the session.",
							 NULL, &cache_enabled, true,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("run_ops_split.cache_memory",
							"Maximum memory of the cache of a session.",
							"A new entry replaces those that were used longest ago.",
							&cache_memory, 16 * 1024, 1, MAX_KILOBYTES,
							PGC_USERSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("run_ops_split.cache_ttl",
							"Age at which an entry of the cache expires.",
							"Below that age, entries are always exact. The setting frees the memory of entries that are no longer used.",
							&cache_ttl, 3600, 1, 86400,
							PGC_USERSET, GUC_UNIT_S, NULL, NULL, NULL);
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(ENUMOID, catalog_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, catalog_changed, (Datum) 0);
}

/*
 * cache.h
 *		A backend-local cache whose answers are exactly what the query would
 *		answer in the active snapshot.  It knows nothing of what is cached.
 */
#ifndef RUN_OPS_CACHE_H
#define RUN_OPS_CACHE_H

#include "lib/ilist.h"
#include "storage/itemptr.h"
#include "utils/hsearch.h"

/* Longer keys are answered, but never cached. */
#define CACHE_KEY_SIZE 64

/* How many rows one answer may be computed from. */
#define CACHE_MAX_VERSIONS 6

/* One version of a row, as its system columns tell. */
typedef struct RowVersion
{
	Oid			tableoid;
	ItemPointerData ctid;
	TransactionId xmin;
} RowVersion;

/*
 * One kind of entry.  The caller fills the first three fields and keeps it in
 * static memory; the rest belongs to cache.c.
 */
typedef struct CacheSlot
{
	const char *name;			/* as cache_stats() shows it */
	int16		typlen;			/* of the answers */
	bool		typbyval;

	bool		registered;
	HTAB	   *entries;		/* NULL while there are none */
	dlist_head	lru;			/* the one used last comes first */
	int64		hits;
	int64		revalidations;
	int64		misses;
	int64		evictions;
} CacheSlot;

/* What must not have changed between a lookup and the entering of its answer. */
typedef struct CacheMoment
{
	uint64		serial;
	uint64		generation;
} CacheMoment;

extern void cache_init(void);

/*
 * The cached answer, copied into the current memory context, which may be
 * NULL; false when there is none that is right in the active snapshot.
 */
extern bool cache_find(CacheSlot *slot, text *key, Datum *answer, bool *isnull);

/* To be taken before an answer is computed. */
extern CacheMoment cache_moment(void);

/*
 * Remember an answer computed in the active snapshot from exactly these rows:
 * it must be a function of their contents alone, and each must have been found
 * through a unique key.  Does nothing when the answer cannot be kept.
 */
extern void cache_enter(CacheSlot *slot, text *key, Datum answer, bool isnull,
						const RowVersion *versions, int nversions,
						CacheMoment moment);

/* Counts changes of the definition of any watched table.  Never 0. */
extern uint64 cache_generation(void);

/* Let changes of the definition of a table count. */
extern void cache_watch(Oid relid);

#endif							/* RUN_OPS_CACHE_H */

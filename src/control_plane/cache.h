/*
 * cache.h
 *		A backend-local cache.  Its answers are exactly those that the query
 *		would return in the active snapshot.  It does not depend on the kind of
 *		answers.
 */
#ifndef RUN_OPS_CACHE_H
#define RUN_OPS_CACHE_H

#include "lib/ilist.h"
#include "storage/itemptr.h"
#include "utils/hsearch.h"

/* Answers for longer keys are not cached. */
#define CACHE_KEY_SIZE 64

/* Maximum number of rows from which one answer is computed. */
#define CACHE_MAX_VERSIONS 6

/* One version of a row, identified by its system columns. */
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
	const char *name;			/* shown by cache_stats() */
	int16		typlen;			/* of the answers */
	bool		typbyval;

	bool		registered;
	HTAB	   *entries;		/* NULL if there are none */
	int64		hits;
	int64		revalidations;
	int64		misses;
	int64		evictions;
} CacheSlot;

/* Identifies the state in which an answer is computed; see cache_enter(). */
typedef struct CacheMoment
{
	uint64		serial;
	uint64		generation;
} CacheMoment;

extern void cache_init(void);

/*
 * Finds the answer for a key and copies it into the current memory context.
 * The answer may be NULL.  False if the cache has no answer that is right in
 * the active snapshot.
 */
extern bool cache_find(CacheSlot *slot, text *key, Datum *answer, bool *isnull);

/* Call it before computing an answer. */
extern CacheMoment cache_moment(void);

/*
 * Remembers an answer that was computed in the active snapshot from exactly
 * these rows.  It must depend on their contents only, and each row must have
 * been found through a unique key.  Does nothing if the answer cannot be
 * cached, for example because the definition of a table has changed since
 * "moment".
 */
extern void cache_enter(CacheSlot *slot, text *key, Datum answer, bool isnull,
						const RowVersion *versions, int nversions,
						CacheMoment moment);

/* Number of definition changes of watched tables.  Never 0. */
extern uint64 cache_generation(void);

/* Lets cache_generation() count changes of the definition of this table. */
extern void cache_watch(Oid relid);

#endif							/* RUN_OPS_CACHE_H */

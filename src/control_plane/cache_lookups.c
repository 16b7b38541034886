/*
 * cache_lookups.c
 *		Counts hits and misses of the caches of all sessions.
 *
 * Each session has its own cache, and this extension has no shared memory for
 * totals.  The cumulative statistics of PostgreSQL have totals for tables.  So
 * lookups are counted as reads of the empty table run_ops.cache_lookup, which
 * nothing else reads.  The table is opened for each miss, which costs much
 * more than that anyway, and once for many hits.
 */
#include "postgres.h"

#include "access/table.h"
#include "pgstat.h"
#include "utils/rel.h"

#include "ground/own_table.h"
#include "control_plane/cache_lookups.h"

#define HITS_AT_ONCE 100

static int	uncounted_hits = 0;

void
count_cache_lookup(bool hit)
{
	Relation	rel;

	if (hit && ++uncounted_hits < HITS_AT_ONCE)
		return;
	rel = own_table_open("cache_lookup");
	if (rel == NULL)
		return;
	/* the view stat_cache_lookups reads these counters */
	pgstat_count_index_tuples(rel, uncounted_hits);
	if (!hit)
		pgstat_count_heap_fetch(rel);
	uncounted_hits = 0;
	table_close(rel, AccessShareLock);
}

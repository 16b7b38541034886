/*
 * cache_lookups.c
 *		How often the caches of all sessions knew the answer.
 *
 * A cache belongs to its session, and this extension has no shared memory to
 * add them up in.  PostgreSQL's own statistics do that for tables: so lookups
 * are counted as reads of an empty table, run_ops.cache_lookup, which nobody
 * reads otherwise.  The table is opened with a miss, which costs many times
 * that, and once for many hits.
 */
#include "postgres.h"

#include "access/table.h"
#include "pgstat.h"
#include "utils/rel.h"

#include "control_plane/cache_lookups.h"
#include "stores/read_gate.h"

#define HITS_AT_ONCE 100

static int	uncounted_hits = 0;

void
count_cache_lookup(bool hit)
{
	Relation	rel;

	if (hit && ++uncounted_hits < HITS_AT_ONCE)
		return;
	rel = open_own_table("cache_lookup");
	if (rel == NULL)
		return;
	/* as stat_cache_lookups reads them */
	pgstat_count_index_tuples(rel, uncounted_hits);
	if (!hit)
		pgstat_count_heap_fetch(rel);
	uncounted_hits = 0;
	table_close(rel, AccessShareLock);
}

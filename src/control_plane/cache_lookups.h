/*
 * cache_lookups.h
 *		Counters over all sessions.
 */
#ifndef RUN_OPS_CACHE_LOOKUPS_H
#define RUN_OPS_CACHE_LOOKUPS_H

/* Count one lookup in the cache.  Needs a transaction. */
extern void count_cache_lookup(bool hit);

#endif							/* RUN_OPS_CACHE_LOOKUPS_H */

/*
 * cache_lookups.h
 *		Counts hits and misses of the caches of all sessions.
 */
#ifndef RUN_OPS_CACHE_LOOKUPS_H
#define RUN_OPS_CACHE_LOOKUPS_H

/* Counts one lookup in the cache.  Must be called in a transaction. */
extern void count_cache_lookup(bool hit);

#endif							/* RUN_OPS_CACHE_LOOKUPS_H */

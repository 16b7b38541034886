/*
 * cache_epoch.h
 *		Telling caches outside the database what has changed.
 */
#ifndef RUN_OPS_CACHE_EPOCH_H
#define RUN_OPS_CACHE_EPOCH_H

extern void cache_epoch_init(void);

#endif							/* RUN_OPS_CACHE_EPOCH_H */

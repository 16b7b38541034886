/*
 * cache_epoch.h
 *		Tells caches outside the database which rows have changed.
 */
#ifndef RUN_OPS_CACHE_EPOCH_H
#define RUN_OPS_CACHE_EPOCH_H

extern void cache_epoch_init(void);

#endif							/* RUN_OPS_CACHE_EPOCH_H */

/*
 * cross_store_writes.h
 *		Transactions that write to more than one database.
 */
#ifndef RUN_OPS_CROSS_STORE_WRITES_H
#define RUN_OPS_CROSS_STORE_WRITES_H

#include "foreign/fdwapi.h"

/*
 * The current (sub)transaction has written to this foreign table.  To be
 * called after the write: by then its wrapper has a connection.
 */
extern void note_foreign_write(Oid relid);

/* Makes a copy of postgres_fdw's routine note what is written through it. */
extern void watch_foreign_writes(FdwRoutine *routine);

extern void cross_store_writes_init(void);

#endif							/* RUN_OPS_CROSS_STORE_WRITES_H */

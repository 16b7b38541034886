/*
 * cross_store_writes.h
 *		Transactions that write to more than one database.
 */
#ifndef RUN_OPS_CROSS_STORE_WRITES_H
#define RUN_OPS_CROSS_STORE_WRITES_H

/*
 * The current (sub)transaction has written to this foreign table.
 */
extern void note_foreign_write(Oid relid);

/*
 * Warns, or raises an error, if the transaction has written to more than one
 * database.  True if they have to commit atomically instead.  To be called
 * before any of them commits.  Errors: RO012, and 40001 if the local
 * transaction could not be serialized.
 */
extern bool refuse_cross_store_writes(void);

/* Is run_ops_split.cross_store_writes at "atomic"? */
extern bool cross_store_writes_are_atomic(void);

extern void cross_store_writes_init(void);

#endif							/* RUN_OPS_CROSS_STORE_WRITES_H */

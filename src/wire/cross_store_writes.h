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
 * database.  To be called before any of them commits.  Errors: RO003, and 40001
 * if the local transaction could not be serialized.
 */
extern void refuse_cross_store_writes(void);

extern void cross_store_writes_init(void);

#endif							/* RUN_OPS_CROSS_STORE_WRITES_H */

/*
 * foreign_scan.h
 *		The execution of scans of foreign tables, and of UPDATE and DELETE that
 *		a store executes by itself.
 */
#ifndef RUN_OPS_FOREIGN_SCAN_H
#define RUN_OPS_FOREIGN_SCAN_H

#include "foreign/fdwapi.h"
#include "nodes/plannodes.h"

#include "wire/wire.h"

/* Why the store would lock rows of a view that the query does not return. */
typedef enum LockFault
{
	LOCK_FAULT_NONE,
	LOCK_FAULT_CONDITION,		/* a condition is tested here */
	LOCK_FAULT_LIMIT			/* ORDER BY or LIMIT is applied here */
} LockFault;

/* Raises an error for a fault. */
extern void report_lock_fault(LockFault fault, const char *table);

/*
 * What a plan says in place of the number of rows to fetch, which is the third
 * item of the private list of postgres_fdw.  A scan with a fault fails when it
 * begins.
 */
extern Node *foreign_scan_plan(int fetch, bool locks, LockFault fault);

/* Are these the callbacks of foreign tables that are executed here? */
extern bool is_store_table(const FdwRoutine *routine);

/*
 * Begins the scans of a statement that have not begun, because it is about to write
 * in the store: it must not see what it changes.  Scans that depend on the rows of
 * other nodes cannot begin yet, and see it.
 */
extern void begin_scans_before_write(WireStatement *statement);

/* Notes that a statement has changed rows of a foreign table; also for COMMIT. */
extern void note_statement_write(WireStatement *statement, Oid relid);

/*
 * Do the rows that a store changes by itself count for the statement?  For the plan
 * of an UPDATE or DELETE of such a table.
 */
extern void set_direct_modify_counts(ForeignScan *plan, bool counts);

/* Sets the callbacks. */
extern void foreign_scan_routine(FdwRoutine *routine);

extern void foreign_scan_init(void);

#endif							/* RUN_OPS_FOREIGN_SCAN_H */

/*
 * foreign_modify.h
 *		INSERT, UPDATE, DELETE and TRUNCATE of foreign tables.
 */
#ifndef RUN_OPS_FOREIGN_MODIFY_H
#define RUN_OPS_FOREIGN_MODIFY_H

#include "foreign/fdwapi.h"

/*
 * Does the statement read the target of this UPDATE or DELETE in another place as
 * well, and is what RETURNING shows computed here for it?
 */
extern bool reads_rows_again(PlannerInfo *root, Oid relid);

/* Sets the callbacks. */
extern void foreign_modify_routine(FdwRoutine *routine);

#endif							/* RUN_OPS_FOREIGN_MODIFY_H */

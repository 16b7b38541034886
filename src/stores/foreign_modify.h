/*
 * foreign_modify.h
 *		INSERT, UPDATE, DELETE and TRUNCATE of foreign tables.
 */
#ifndef RUN_OPS_FOREIGN_MODIFY_H
#define RUN_OPS_FOREIGN_MODIFY_H

#include "foreign/fdwapi.h"

/* Sets the callbacks. */
extern void foreign_modify_routine(FdwRoutine *routine);

#endif							/* RUN_OPS_FOREIGN_MODIFY_H */

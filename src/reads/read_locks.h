/*
 * read_locks.h
 *		Locks one row behind the view of a routed table.
 */
#ifndef RUN_OPS_READ_LOCKS_H
#define RUN_OPS_READ_LOCKS_H

#include "fmgr.h"

extern Datum run_ops_refuse_locks(PG_FUNCTION_ARGS);

#endif							/* RUN_OPS_READ_LOCKS_H */

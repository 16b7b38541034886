/*
 * collected_rows.h
 *		The triggers of the views of routed tables.
 */
#ifndef RUN_OPS_COLLECTED_ROWS_H
#define RUN_OPS_COLLECTED_ROWS_H

#include "utils/relcache.h"

/* Is that a view with these triggers, told by their C function? */
extern bool is_routed_view(Relation rel);

extern void collected_rows_init(void);

#endif							/* RUN_OPS_COLLECTED_ROWS_H */

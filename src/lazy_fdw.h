/*
 * lazy_fdw.h
 *		Names other parts need to know of run_ops_fdw.
 */
#ifndef RUN_OPS_LAZY_FDW_H
#define RUN_OPS_LAZY_FDW_H

/*
 * Option of a foreign table's column: true says that the column leads an
 * index of the remote table, so that a lookup by it is worth a round trip.
 */
#define RUN_OPS_FDW_OPTION_INDEXED "indexed"

/*
 * Option of a foreign table: the column that alone identifies a row of the
 * remote table, so that a lookup by it is known to find one row.
 */
#define RUN_OPS_FDW_OPTION_KEY "key"

#endif							/* RUN_OPS_LAZY_FDW_H */

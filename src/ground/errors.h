/*
 * errors.h
 *		The SQLSTATEs of the extension, class RO.
 *
 * Each is for a situation that a caller may want to handle.  If PostgreSQL has
 * a code for a situation, that code is used instead.  RO002 and RO003 are
 * raised in SQL only.  docs/operating.md explains all of them.
 */
#ifndef RUN_OPS_ERRORS_H
#define RUN_OPS_ERRORS_H

#define ERRCODE_RUN_OPS_UNCLASSIFIABLE_ID MAKE_SQLSTATE('R', 'O', '0', '0', '1')
#define ERRCODE_RUN_OPS_CROSSES_SEAM MAKE_SQLSTATE('R', 'O', '0', '1', '0')
#define ERRCODE_RUN_OPS_STRAY MAKE_SQLSTATE('R', 'O', '0', '1', '1')
#define ERRCODE_RUN_OPS_CROSS_STORE_WRITES MAKE_SQLSTATE('R', 'O', '0', '1', '2')
#define ERRCODE_RUN_OPS_SUSPENDED MAKE_SQLSTATE('R', 'O', '0', '0', '4')

#endif							/* RUN_OPS_ERRORS_H */

/*
 * run_ops_split.h
 *		What every part of the extension may know: its own SQLSTATEs, the name
 *		prefix of its settings, and the init function of each module.
 */
#ifndef RUN_OPS_SPLIT_H
#define RUN_OPS_SPLIT_H

/*
 * Own SQLSTATEs, class RO.  One per situation that a caller may want to tell
 * from others; what PostgreSQL has a code for uses PostgreSQL's.  RO002 and
 * RO003 are raised in SQL only; CONTRIBUTING.md lists them all.
 */
#define ERRCODE_RUN_OPS_UNCLASSIFIABLE_ID MAKE_SQLSTATE('R', 'O', '0', '0', '1')
#define ERRCODE_RUN_OPS_CROSSES_SEAM MAKE_SQLSTATE('R', 'O', '0', '1', '0')
#define ERRCODE_RUN_OPS_STRAY MAKE_SQLSTATE('R', 'O', '0', '1', '1')
#define ERRCODE_RUN_OPS_CROSS_STORE_WRITES MAKE_SQLSTATE('R', 'O', '0', '1', '2')
#define ERRCODE_RUN_OPS_SUSPENDED MAKE_SQLSTATE('R', 'O', '0', '0', '4')

extern void cross_store_writes_init(void);
extern void leftovers_init(void);
extern void mint_kind_init(void);
extern void store_connection_init(void);
extern void write_frame_init(void);
extern void write_routing_init(void);

#endif							/* RUN_OPS_SPLIT_H */

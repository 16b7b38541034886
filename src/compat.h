/*
 * compat.h
 *		The differences between PostgreSQL versions, all of them, so that no
 *		other file asks for the version.
 */
#ifndef RUN_OPS_COMPAT_H
#define RUN_OPS_COMPAT_H

#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

#if PG_VERSION_NUM < 150000
#define MarkGUCPrefixReserved(prefix) EmitWarningsOnPlaceholders(prefix)
#endif

/* postgres_fdw's DEFAULT_FDW_TUPLE_COST */
#if PG_VERSION_NUM < 170000
#define COMPAT_DEFAULT_FDW_TUPLE_COST 0.01
#else
#define COMPAT_DEFAULT_FDW_TUPLE_COST 0.2
#endif

/* create_foreignscan_path() with nothing but rows, costs and outer relations */
#if PG_VERSION_NUM < 170000
#define compat_create_foreignscan_path(root, rel, rows, startup, total, outer) \
	create_foreignscan_path(root, rel, NULL, rows, startup, total, \
							NIL, outer, NULL, NIL)
#elif PG_VERSION_NUM < 180000
#define compat_create_foreignscan_path(root, rel, rows, startup, total, outer) \
	create_foreignscan_path(root, rel, NULL, rows, startup, total, \
							NIL, outer, NULL, NIL, NIL)
#else
#define compat_create_foreignscan_path(root, rel, rows, startup, total, outer) \
	create_foreignscan_path(root, rel, NULL, rows, 0, startup, total, \
							NIL, outer, NULL, NIL, NIL)
#endif

/* Are writes to the relation counted?  Then it has its pgstat_info. */
#if PG_VERSION_NUM < 150000
#define compat_counts_writes(rel) ((rel)->pgstat_info != NULL)
#else
#define compat_counts_writes(rel) pgstat_should_count_relation(rel)
#endif

/* Does the view read its tables with the rights of the caller? */
#if PG_VERSION_NUM < 150000
#define compat_has_security_invoker(rel) false
#else
#define compat_has_security_invoker(rel) RelationHasSecurityInvoker(rel)
#endif

/* the number of the transaction this backend is in; needs storage/proc.h */
#if PG_VERSION_NUM < 170000
#define compat_local_transaction_id() (MyProc->lxid)
#else
#define compat_local_transaction_id() (MyProc->vxid.lxid)
#endif

#endif							/* RUN_OPS_COMPAT_H */

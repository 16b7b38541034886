/*
 * routed_view.h
 *		The facts about the view of a routed table that tell where a new row goes.
 */
#ifndef RUN_OPS_ROUTED_VIEW_H
#define RUN_OPS_ROUTED_VIEW_H

#include "access/tupdesc.h"
#include "executor/spi.h"
#include "nodes/bitmapset.h"
#include "nodes/pg_list.h"
#include "storage/lock.h"
#include "utils/relcache.h"

#include "ground/rights.h"

/* The table of one store. */
typedef struct StoreTable
{
	char	   *store;
	Oid			relid;
	bool		foreign;
} StoreTable;

/*
 * A rule for the store of a new row whose own key does not decide.  The column
 * "attno" refers to a row of another routed table, the owner, and the new row
 * goes to the same store.  Rules are tried in order; a rule does not apply if
 * its column is NULL.
 */
typedef struct OwnerRule
{
	AttrNumber	attno;
	char	   *store;			/* NULL: the shape of the value decides */
	RightsStatement *probe;		/* finds the owner in this store; NULL: it is
								 * there if no earlier rule has found it */
} OwnerRule;

/* How the store of a row is found; "routing" in run_ops.routed_table. */
typedef enum Routing
{
	ROUTING_SHAPE,				/* by the shape of its own id */
	ROUTING_ANCHOR,				/* by the shape of the id in its anchor */
	ROUTING_LOOKUP				/* by queries in the stores: "store" there */
} Routing;

/* Each view has its own memory context. */
typedef struct RoutedView
{
	Oid			relid;
	MemoryContext context;
	Oid			owner;
	bool		security_invoker;
	bool		valid;			/* false: it must be looked up again */
	LocalTransactionId checked_in;	/* transaction that has checked that the
									 * stores may be used */
	MemoryContextCallback cleanup;
	TupleDesc	desc;
	Routing		routing;
	AttrNumber	route_column;	/* ROUTING_LOOKUP: the key if it is a text
								 * column, otherwise 0 */
	int			nkeys;
	AttrNumber *keys;
	Bitmapset  *generated;		/* columns that no statement may write */
	List	   *owners;			/* of OwnerRule */
	int			ntables;
	StoreTable *tables;			/* in the order in which they are queried */
} RoutedView;

/*
 * The facts about the view, which stay until the transaction ends.  Errors: 42704
 * if it is not one of ours, 42703 if the registry names other columns.
 */
extern RoutedView *get_routed_view(Oid relid);

/* Has this session asked for the facts about the view? */
extern bool is_known_routed_view(Oid relid);

/* Raises an error if the stores of the view must not be used; see read_gate.c. */
extern void require_active_stores(Oid relid);

#endif							/* RUN_OPS_ROUTED_VIEW_H */

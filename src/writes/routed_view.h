/*
 * routed_view.h
 *		The facts about the view of a routed table that a write needs.
 */
#ifndef RUN_OPS_ROUTED_VIEW_H
#define RUN_OPS_ROUTED_VIEW_H

#include "access/tupdesc.h"
#include "executor/spi.h"
#include "nodes/bitmapset.h"
#include "nodes/pg_list.h"
#include "storage/lock.h"
#include "utils/relcache.h"
#include "utils/reltrigger.h"

#include "ground/rights.h"

/* The name of the relation from which an INSERT reads the collected rows. */
#define COLLECTED_ROWS "run_ops_rows"

/*
 * The kinds of statements on the table of one store.  The parameters of
 * INSERT_ONE_... are the columns of the row except generated ones.  Other
 * actions have the key and then the columns that are set as parameters.
 */
typedef enum StoreAction
{
	ACTION_INSERT,				/* inserts the rows of COLLECTED_ROWS */
	ACTION_INSERT_ONE_RETURNING,
	ACTION_INSERT_ONE_SKIP,		/* likewise, but skips a row that conflicts */
	ACTION_UPDATE,
	ACTION_DELETE,
	ACTION_FIND					/* of a local row, returns tableoid and ctid */
} StoreAction;

/* The table of one store. */
typedef struct StoreTable
{
	char	   *store;
	Oid			relid;
	bool		foreign;
	bool		changes_rows;	/* the stored row may differ from the row sent */
	List	   *statements;		/* see routed_view_statement() */
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
	int			npins;			/* number of statements that use it */
	LocalTransactionId checked_in;	/* transaction that has checked that the
									 * stores may be used */
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
 * Returns the facts about the view; they stay valid until the view is
 * unpinned.  The arguments of its trigger name the stores whose tables have
 * BEFORE ROW triggers.
 */
extern RoutedView *routed_view_pin(Relation rel, Trigger *trigger);
extern void routed_view_unpin(RoutedView *view);

/*
 * The prepared statement for an action that sets these columns.  The caller
 * must be connected to SPI.
 */
extern RightsStatement *routed_view_statement(RoutedView *view,
											  StoreTable *table,
											  StoreAction action,
											  Bitmapset *columns);

#endif							/* RUN_OPS_ROUTED_VIEW_H */

/*
 * routed_view.h
 *		What a statement on the view of a routed table has to know.
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

/* The name by which an INSERT reads the rows that were collected for it. */
#define COLLECTED_ROWS "run_ops_rows"

/*
 * What is done to the table of one store.  Parameters are the columns of the
 * row but for generated ones (INSERT_ONE_...), or the key and then the columns
 * that are set.  For ..._MANY each of them is an array.
 */
typedef enum StoreAction
{
	ACTION_INSERT,				/* the rows of COLLECTED_ROWS */
	ACTION_INSERT_ONE_RETURNING,
	ACTION_INSERT_ONE_SKIP,		/* nothing, if it conflicts; else RETURNING */
	ACTION_UPDATE,
	ACTION_UPDATE_MANY,
	ACTION_DELETE,
	ACTION_DELETE_MANY,
	ACTION_FIND
} StoreAction;

/* The table of one store. */
typedef struct StoreTable
{
	char	   *store;
	Oid			relid;
	bool		foreign;
	bool		changes_rows;	/* what is stored may differ from what was sent */
	List	   *statements;		/* see routed_view_statement() */
} StoreTable;

/*
 * One rule for the store of a new row that has no shape itself: a column that
 * names a row of another routed table, to whose store it belongs.  Rules are
 * tried in order; NULL in the column: the next one.
 */
typedef struct OwnerRule
{
	AttrNumber	attno;
	char	   *store;			/* NULL: the shape of the value tells */
	RightsStatement *probe;		/* is the named row there?  NULL: sure */
} OwnerRule;

typedef enum Routing
{
	ROUTING_SHAPE,
	ROUTING_ANCHOR,
	ROUTING_LOOKUP
} Routing;

/* In a memory context of its own. */
typedef struct RoutedView
{
	Oid			relid;
	MemoryContext context;
	Oid			owner;
	bool		security_invoker;
	bool		valid;			/* false: to be looked up again */
	int			npins;			/* statements that use it */
	LocalTransactionId checked_in;	/* where its servers may be written to */
	TupleDesc	desc;
	Routing		routing;
	AttrNumber	route_column;	/* ROUTING_LOOKUP: a key with a shape, or 0 */
	int			nkeys;
	AttrNumber *keys;
	Bitmapset  *generated;		/* columns that nobody writes */
	List	   *owners;			/* of OwnerRule */
	int			ntables;
	StoreTable *tables;			/* in the order in which they are asked */
} RoutedView;

/*
 * What is known of the view, until it is unpinned.  The arguments of its
 * trigger name the stores whose tables have BEFORE ROW triggers.
 */
extern RoutedView *routed_view_pin(Relation rel, Trigger *trigger);
extern void routed_view_unpin(RoutedView *view);

/*
 * The prepared statement for an action.  "columns" are those that it sets.
 * Inside SPI.
 */
extern RightsStatement *routed_view_statement(RoutedView *view,
											  StoreTable *table,
											  StoreAction action,
											  Bitmapset *columns);

#endif							/* RUN_OPS_ROUTED_VIEW_H */

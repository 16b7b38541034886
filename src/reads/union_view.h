/*
 * union_view.h
 *		Recognizes the view of a routed table in a query that has been rewritten,
 *		its leaves, and the conditions that select one of them.
 */
#ifndef RUN_OPS_UNION_VIEW_H
#define RUN_OPS_UNION_VIEW_H

#include "nodes/params.h"
#include "nodes/parsenodes.h"

#include "reads/lookup_condition.h"

/* The view of a routed table while split is on, as a subquery of a query. */
typedef struct UnionView
{
	Query	   *query;
	Query	   *leaves;			/* the UNION ALL in that query */
	Index		leaves_rti;
	FuncExpr   *filter;			/* resides(), stored_in() or refuse_locks() */
	Var		   *id;				/* columns of the UNION ALL */
	Var		   *same_shape;		/* has the shape of the id; NULL if there is none */
	Var		   *store;			/* NULL with routing "store" */
} UnionView;

/* The table of one store behind a view. */
typedef struct UnionLeaf
{
	Query	   *query;			/* reads one relation */
	text	   *store;			/* NULL with routing "store" */
} UnionLeaf;

/*
 * Does the query consist of columns, one table or subquery, and a WHERE only,
 * perhaps with a row lock?  An OFFSET that is known to be 0 does not count.
 */
extern bool is_plain_select(Query *query, ParamListInfo params);

/* Is the query that of a view over several stores?  If so, fills in *view. */
extern bool is_union_view(Query *query, UnionView *view);

/* The same for a view whose rows are to be locked. */
extern bool is_locked_union_view(Query *query, UnionView *view);

/* The leaves, in the order of the UNION ALL; NIL if they are not as expected. */
extern List *union_leaves(UnionView *view);

/*
 * Are the columns of the view the first columns of the leaf, with the same
 * types and collations?  Sets *in_place if they also have the same numbers in
 * the relation of the leaf.
 */
extern bool has_same_columns(UnionView *view, Query *leaf, bool *in_place);

/*
 * The condition that a row of the leaf with this id belongs there; NULL: every
 * row does.  "shipped" is for a foreign table: the condition consists of what is
 * built in, which its store can test.  That of the local table may do so as well.
 */
extern Node *leaf_filter(UnionView *view, UnionLeaf *leaf, Expr *id, bool shipped);

/* What tells the store of a row of the view, which is this range table entry. */
extern IdColumn id_column(const UnionView *view, Index rti);

/*
 * Is the value of the expression known already?  Only constants and parameters
 * are considered: evaluating anything else could fail.
 */
extern bool has_value(Node *node, ParamListInfo params, Datum *value, bool *isnull);

/* The same as a constant; NULL if it is not known. */
extern Const *known_value(Node *node, ParamListInfo params);

/*
 * Do the conditions say that all rows that meet them belong in the store, and
 * is an id known that does?
 */
extern bool quals_select_leaf(Node *quals, IdColumn *id, ParamListInfo params,
							  text *store);

/*
 * Do the conditions say the same without an id, by a range of ids?  Only a key rule
 * knows ranges.
 */
extern bool range_selects_leaf(Node *quals, IdColumn *id, text *store);

/* Is there a condition "id = X" or "id = ANY (X)" among the conditions? */
extern bool has_id_condition(Node *quals, IdColumn *id);

#endif							/* RUN_OPS_UNION_VIEW_H */

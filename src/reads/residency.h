/*
 * residency.h
 *		The filter of a view over several stores, and what it says of other ids.
 */
#ifndef RUN_OPS_RESIDENCY_H
#define RUN_OPS_RESIDENCY_H

#include "nodes/primnodes.h"

/* The expression below casts between binary-compatible types. */
extern Node *without_relabeling(Node *node);

/* Also without the PlaceHolderVar that the planner puts around what it pulls up. */
extern Node *strip_wrappers(Node *node);

/* An id of type varchar as text, for the functions of shapes; others as they are. */
extern Node *id_as_text(Node *id);

/*
 * Makes a call of the function of this name in schema run_ops, with copies of the
 * ids and the store as arguments, or with these arguments.
 */
extern Expr *make_run_ops_call(const char *name, Oid result, List *args);
extern Expr *make_store_call(const char *name, Oid result, Node *ids,
							 Node *store);

/*
 * Is the clause the filter of a view over several stores: resides(id, store), also
 * with a third argument that has the same shape; stored_in(rule, store) with a key
 * rule over the id; or refuse_locks(key) if its rows do not say in which store they
 * are?
 */
extern bool is_resides(Node *clause);
extern bool is_stored_in(Node *clause);
extern bool is_refuse_locks(Node *clause);

/* One of the first two: a filter by the id of a row. */
extern bool is_residency(Node *clause);

/* The id of such a filter, if it is a column, which is the only one; else NULL. */
extern Var *residency_column(FuncExpr *filter);

/*
 * What a filter by id says of other ids: the condition that the id, or one of an
 * array of ids, belongs in the store.  With "in_view" it is the filter that the view
 * has, which is going to be simplified.  NULL if there is none for an array.
 */
extern Expr *residency_of(FuncExpr *filter, Node *ids, bool is_array, Const *store,
						  bool in_view);

/*
 * The same condition, made of what is built in, for a row with the id in this
 * column.  NULL if there is none.
 */
extern Node *residency_for_store(FuncExpr *filter, Node *id, text *store);

/* The name of the store of a row with this id, by a filter stored_in(). */
extern Node *name_of_store(FuncExpr *filter, Node *id);

/*
 * Sets *any if an id belongs in the store, and *all if every id does.  NULL
 * elements of an array equal nothing, so they do not count.  An empty array gives
 * false for *any and true for *all.
 */
extern void residency_of_value(FuncExpr *filter, Const *ids, bool is_array, Const *store,
							   bool *any, bool *all);

/* Does a CHECK constraint of a table say that all its rows are of the store? */
extern bool is_proven_by_check(FuncExpr *filter, Oid relid, bool inherited, AttrNumber column,
							   Const *store);

#endif							/* RUN_OPS_RESIDENCY_H */

/*
 * leaf_statements.h
 *		A statement that writes to the view of a routed table becomes one statement
 *		on the table of each store.
 */
#ifndef RUN_OPS_LEAF_STATEMENTS_H
#define RUN_OPS_LEAF_STATEMENTS_H

#include "nodes/params.h"
#include "nodes/parsenodes.h"

/* Statements that become one. */
typedef struct LeafGroup
{
	char	   *last;			/* name of the CTE of the last one; NULL: it is
								 * the query itself */
	List	   *others;			/* names of the CTEs of the others */
} LeafGroup;

/*
 * The query with statements on leaves in place of those on views.  "groups" is a list
 * of LeafGroup: those of one view.  Errors: what a view over several stores refuses.
 */
extern Query *to_leaf_statements(Query *query, ParamListInfo params, List **groups);

#endif							/* RUN_OPS_LEAF_STATEMENTS_H */

/*
 * conflict_clause.h
 *		INSERT ... ON CONFLICT through the views of routed tables.
 */
#ifndef RUN_OPS_CONFLICT_CLAUSE_H
#define RUN_OPS_CONFLICT_CLAUSE_H

#include "nodes/parsenodes.h"
#include "utils/relcache.h"

/* The clause of an INSERT on a view, with the range table as it was parsed. */
typedef struct ConflictClause
{
	OnConflictExpr *expr;
	Index		view;			/* where that range table has the view */
} ConflictClause;

/* Takes the clause that belongs to an INSERT out of its WITH; NULL if none. */
extern ConflictClause *take_conflict_clause(List **ctes, Index view);

/*
 * Gives the clause to an INSERT into a leaf.  "columns" are those of the view as
 * columns of the leaf, which is the target of the query, "route" the one that says
 * where a row is.  Errors: 0A000 if the store cannot execute it.
 */
extern void add_conflict_clause(Query *query, ConflictClause *clause, Relation leaf,
								List *columns, AttrNumber route);

extern void conflict_clause_init(void);

#endif							/* RUN_OPS_CONFLICT_CLAUSE_H */

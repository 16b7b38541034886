/*
 * key_rule.h
 *		Which store holds a row: an expression over one column that names it.
 */
#ifndef RUN_OPS_KEY_RULE_H
#define RUN_OPS_KEY_RULE_H

#include "fmgr.h"
#include "nodes/primnodes.h"

/* stored_in(named text, store text); exported to recognize calls of it in a plan */
extern PGDLLEXPORT Datum run_ops_stored_in(PG_FUNCTION_ARGS);

/* Is this what a key rule says of a row of the store?  NULL says "legacy". */
extern bool names_store(Datum named, bool isnull, const char *store, int store_len);

/*
 * The condition that an expression over a column which is never NULL names the
 * store, made of what the expression consists of, so that an index or a store
 * can be asked for it.
 */
extern Expr *named_store_condition(Node *named, const char *store);

#endif							/* RUN_OPS_KEY_RULE_H */

/*
 * own_table.h
 *		Reads tables of the extension from C.
 */
#ifndef RUN_OPS_OWN_TABLE_H
#define RUN_OPS_OWN_TABLE_H

#include "utils/relcache.h"

/*
 * Opens a table of the extension and locks it for reading.  NULL if there is
 * none, for example while the extension is dropped.
 */
extern Relation own_table_open(const char *name);

/*
 * A field of the first row of a small table whose column "key" has that value,
 * as text; NULL if there is no such row or table, or the field is null.  The
 * row is one that the active snapshot sees, or, without one, a new snapshot.
 */
extern char *own_table_lookup(const char *name, const char *key,
							  const char *value, const char *field);

/*
 * A field of the first row whose column "key" has that value, both of a type
 * like regclass; InvalidOid if there is no such row or table.
 */
extern Oid	own_table_oid(const char *name, const char *key, Oid value,
						  const char *field);

#endif							/* RUN_OPS_OWN_TABLE_H */

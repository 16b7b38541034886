/*
 * read_gate.h
 *		Whether split mode is on, and whether this server may use the stores.
 */
#ifndef RUN_OPS_READ_GATE_H
#define RUN_OPS_READ_GATE_H

#include "utils/relcache.h"

extern void read_gate_init(void);

/*
 * Is split mode on in this database, as the active snapshot sees it?  False in
 * a copy of the database.  The caller must have an active snapshot.
 */
extern bool split_enabled(void);

/*
 * Raises an error if the foreign server is a store and this database is a copy
 * of the one in which it was attached.  Call it before reading from or writing
 * to a foreign server.  It contacts no server itself.
 */
extern void split_require_active(Oid serverid);

/*
 * Opens a table of the extension and locks it for reading.  NULL if there is
 * none, for example while the extension is dropped.
 */
extern Relation open_own_table(const char *name);

#endif							/* RUN_OPS_READ_GATE_H */

/*
 * read_gate.h
 *		Whether split mode is on, and whether this server may use the stores.
 */
#ifndef RUN_OPS_READ_GATE_H
#define RUN_OPS_READ_GATE_H

#include "utils/relcache.h"

extern void read_gate_init(void);

/*
 * Is split mode on in this database, as the active snapshot sees it?  False
 * in a copy of the database.  Needs an active snapshot.
 */
extern bool split_enabled(void);

/*
 * Raise an error when the foreign server is a store and this database is a
 * copy of the one that it was attached in.  To be called before anything is
 * read from or written to a foreign server; contacts no server itself.
 */
extern void split_require_active(Oid serverid);

/*
 * A table of the extension, locked for reading; NULL where there is none, as
 * while the extension is dropped.
 */
extern Relation open_own_table(const char *name);

#endif							/* RUN_OPS_READ_GATE_H */

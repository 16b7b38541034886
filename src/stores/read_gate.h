/*
 * read_gate.h
 *		Whether split mode is on, and whether this server may use the stores.
 */
#ifndef RUN_OPS_READ_GATE_H
#define RUN_OPS_READ_GATE_H

extern void read_gate_init(void);

/*
 * Is split mode on in this database, as the active snapshot sees it?  False in
 * a copy of the database.  The caller must have an active snapshot.
 */
extern bool split_enabled(void);

/*
 * Was split switched on, as the newest snapshot sees it?  True in a copy that
 * was made while it was on, but not in a restored one.
 */
extern bool split_switched_on(void);

/*
 * Raises an error if the foreign server is a store and this database is a copy
 * of the one in which it was attached.  Call it before reading from or writing
 * to a foreign server.  It contacts no server itself.
 */
extern void split_require_active(Oid serverid);

#endif							/* RUN_OPS_READ_GATE_H */

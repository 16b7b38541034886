/*
 * read_replica.h
 *		Reads from a replica of a store, where rows may be stale.
 */
#ifndef RUN_OPS_READ_REPLICA_H
#define RUN_OPS_READ_REPLICA_H

#include "nodes/execnodes.h"

#include "wire/wire.h"

/*
 * A node of a query takes part in what that does in a store, or in the replica
 * that the server option "read_from" names, if the session wants stale rows
 * and the transaction may have them; as wire_join().  Contacts no server.
 */
extern WireStatement *join_to_read(Oid serverid, Oid userid, EState *estate,
								   WireNeed need);

/*
 * The wire on which the next command of the statement goes.  Before its first
 * one, the statement leaves a replica that is down or lags too far behind, and
 * goes to the store.
 */
extern Wire *wire_to_read(WireStatement *statement);

extern void read_replica_init(void);

#endif /* RUN_OPS_READ_REPLICA_H */

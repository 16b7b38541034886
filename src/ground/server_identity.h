/*
 * server_identity.h
 *		What distinguishes this server from its copies, and whether it may use
 *		the stores.
 */
#ifndef RUN_OPS_SERVER_IDENTITY_H
#define RUN_OPS_SERVER_IDENTITY_H

#include "utils/array.h"

/*
 * A text that distinguishes this server and database from copies; it stays
 * allocated.
 */
extern const char *server_identity(void);

/* Is it among these? */
extern bool names_this_server(ArrayType *identities);

/*
 * May this server use the stores, as last committed?  False in a copy of the
 * database in which they were attached.  In a transaction only.
 */
extern bool server_may_use_stores(void);

extern void server_identity_init(void);

#endif							/* RUN_OPS_SERVER_IDENTITY_H */

/*
 * store_connection.h
 *		The connection over which a store is asked outside the transaction.
 */
#ifndef RUN_OPS_STORE_CONNECTION_H
#define RUN_OPS_STORE_CONNECTION_H

extern void store_connection_init(void);

#endif							/* RUN_OPS_STORE_CONNECTION_H */

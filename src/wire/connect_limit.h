/*
 * connect_limit.h
 *		How long a store may take to accept a connection.
 */
#ifndef RUN_OPS_CONNECT_LIMIT_H
#define RUN_OPS_CONNECT_LIMIT_H

/*
 * Around code that may open a connection to the foreign server, and does
 * nothing else that takes long.  InvalidOid where it does: then only the time
 * limit of libpq holds, where that one does.
 */
#define CONNECT_LIMIT_BEGIN(serverid) \
	do { \
		connect_limit_begin(serverid); \
		PG_TRY(); \
		{

#define CONNECT_LIMIT_END() \
		} \
		PG_CATCH(); \
		{ \
			connect_limit_failed(); \
			PG_RE_THROW(); \
		} \
		PG_END_TRY(); \
		connect_limit_end(); \
	} while (0)

extern void connect_limit_begin(Oid serverid);
extern void connect_limit_failed(void);
extern void connect_limit_end(void);

#endif							/* RUN_OPS_CONNECT_LIMIT_H */

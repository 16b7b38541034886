/*
 * rights.h
 *		Executes statements whose access to tables is checked as one role,
 *		while the functions they call run as another.
 */
#ifndef RUN_OPS_RIGHTS_H
#define RUN_OPS_RIGHTS_H

#include "executor/spi.h"

/* A prepared statement, in the memory context in which it was prepared. */
typedef struct RightsStatement
{
	SPIPlanPtr	plan;
	Oid			names_role;		/* looks up the names in the statement */
	Oid			access_role;	/* needs the privileges on the tables;
								 * InvalidOid: the current user */
	Oid			save_userid;	/* during parse analysis */
	int			save_sec_context;
	int			nargs;
	Oid			argtypes[FLEXIBLE_ARRAY_MEMBER];
} RightsStatement;

/*
 * Prepares a statement.  The caller must be connected to SPI, and "context"
 * must exist as long as the plan is used.  Errors are those of the statement.
 */
extern RightsStatement *rights_prepare(const char *sql, Oid names_role,
									   Oid access_role, int nargs,
									   const Oid *argtypes, int cursor_options,
									   MemoryContext context);

/*
 * Executes it as the current user.  "nulls" is as in SPI; NULL means that no
 * value is null.  If there is a receiver, it gets the rows instead of
 * SPI_tuptable.  Returns the same as SPI_execute_plan().
 */
extern int	rights_execute(RightsStatement *statement, Datum *values,
						   const char *nulls, bool read_only, long count,
						   DestReceiver *receiver);

extern void rights_init(void);

#endif							/* RUN_OPS_RIGHTS_H */

/*
 * rights.h
 *		Statements whose access to tables is checked as one role while what
 *		they call runs as another.
 */
#ifndef RUN_OPS_RIGHTS_H
#define RUN_OPS_RIGHTS_H

#include "executor/spi.h"

/* A prepared statement; lives in the memory context it was prepared in. */
typedef struct RightsStatement
{
	SPIPlanPtr	plan;
	Oid			names_role;		/* who may see the schemas that it names */
	Oid			access_role;	/* who may use the tables; InvalidOid: the
								 * current user */
	Oid			save_userid;	/* while it is analyzed */
	int			save_sec_context;
	int			nargs;
	Oid			argtypes[FLEXIBLE_ARRAY_MEMBER];
} RightsStatement;

/*
 * Prepares a statement inside SPI.  "context" must live as long as the plan
 * is used.  Errors are those of the statement.
 */
extern RightsStatement *rights_prepare(const char *sql, Oid names_role,
									   Oid access_role, int nargs,
									   const Oid *argtypes, int cursor_options,
									   MemoryContext context);

/*
 * Executes it as the current user; "nulls" as in SPI, NULL for none.  With a
 * receiver, rows go there instead of to SPI_tuptable.  Gives what
 * SPI_execute_plan() gives.
 */
extern int	rights_execute(RightsStatement *statement, Datum *values,
						   const char *nulls, bool read_only, long count,
						   DestReceiver *receiver);

extern void rights_init(void);

#endif							/* RUN_OPS_RIGHTS_H */

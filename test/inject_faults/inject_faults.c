/*
 * inject_faults.c
 *		Counts the calls that may fail, and fails one of them.
 */
#include "utils/syscache.h"

static int	calls = 0;
static int	failing_call = 0;	/* 0: none */

void
inject_fault(const char *function, const char *called)
{
	/* what happens at the end of a transaction cannot fail */
	if (!IsTransactionState() || ++calls != failing_call)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OUT_OF_MEMORY),
			 errmsg("injected failure"),
			 errdetail_internal("Call %d, %s() in %s().", calls, called, function)));
}

PG_FUNCTION_INFO_V1(run_ops_inject_faults);

/*
 * inject_faults(call int) returns int
 *
 * Lets that call fail, counted from now on with nothing known of the catalog
 * and of what this extension has read; none for 0.  Returns the number of
 * calls so far.
 */
extern PGDLLEXPORT Datum run_ops_inject_faults(PG_FUNCTION_ARGS);

Datum
run_ops_inject_faults(PG_FUNCTION_ARGS)
{
	int			result = calls;

	InvalidateSystemCaches();
	failing_call = PG_GETARG_INT32(0);
	calls = 0;
	PG_RETURN_INT32(result);
}

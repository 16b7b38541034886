/*
 * inject_faults.c
 *		Counts the calls that may fail, and fails one of them.
 */
#include "miscadmin.h"
#include "utils/syscache.h"

/* a server that scripts/check-assert has built asks before each allocation */
extern PGDLLIMPORT void (*allocation_may_fail) (void *context) __attribute__((weak));

static bool of_server = false;	/* its allocations, not calls of the extension */
static int	calls = 0;
static int	failing_call = 0;	/* 0: none */

static bool
fails(void)
{
	/* what happens at the end of a transaction cannot fail */
	return IsTransactionState() && ++calls == failing_call;
}

void
inject_fault(const char *function, const char *called)
{
	if (!of_server && fails())
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("injected failure"),
				 errdetail_internal("Call %d, %s() in %s().", calls, called, function)));
}

static void
fail_allocation(void *context)
{
	/*
	 * There is a reserve for errors, and nothing is allocated where it must
	 * not fail.  In TopMemoryContext PostgreSQL itself breaks: a lock that is
	 * known without its owners survives a rollback to a savepoint, and who
	 * asks for it next crashes (LockAcquireExtended()).
	 */
	if (of_server && context != ErrorContext && context != TopMemoryContext &&
		CritSectionCount == 0 && fails())
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("injected failure"),
				 errdetail_internal("Allocation %d.", calls),
				 errbacktrace()));
}

PG_FUNCTION_INFO_V1(run_ops_inject_faults);

/*
 * inject_faults(call int, of_server boolean) returns int
 *
 * Lets that call fail, counted from now on with nothing known of the catalog
 * and of what this extension has read; none for 0.  Of the calls of this
 * extension, or of the allocations of the whole server.  Returns the number of
 * calls so far, NULL where the server's are not to be had.
 */
extern PGDLLEXPORT Datum run_ops_inject_faults(PG_FUNCTION_ARGS);

Datum
run_ops_inject_faults(PG_FUNCTION_ARGS)
{
	int			result = calls;

	of_server = PG_GETARG_BOOL(1);
	if (of_server && &allocation_may_fail == NULL)
		PG_RETURN_NULL();
	if (of_server)
		allocation_may_fail = fail_allocation;

	InvalidateSystemCaches();
	failing_call = PG_GETARG_INT32(0);
	calls = 0;
	PG_RETURN_INT32(result);
}

/*
 * inject_faults.c
 *		Counts the calls that may fail, and fails one of them.
 */
#include <sys/socket.h>

#include "miscadmin.h"
#include "utils/syscache.h"

/* a server that scripts/check-assert has built asks before each allocation */
extern PGDLLIMPORT void (*allocation_may_fail) (void *context) __attribute__((weak));

typedef enum FaultKind
{
	FAULT_CALL,					/* of the extension */
	FAULT_LOSS,					/* of the connection to a store */
	FAULT_ALLOCATION			/* of the server */
} FaultKind;

static FaultKind kind = FAULT_CALL;
static int	calls = 0;
static int	failing_call = 0;	/* 0: none */

static bool
fails(FaultKind of_kind)
{
	/* what happens at the end of a transaction cannot fail */
	return of_kind == kind && (IsTransactionState() || kind == FAULT_LOSS) &&
		++calls == failing_call;
}

void
inject_fault(const char *function, const char *called)
{
	if (fails(FAULT_CALL))
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("injected failure"),
				 errdetail_internal("Call %d, %s() in %s().", calls, called, function)));
}

/* What has been sent arrives in the store, but no answer arrives here. */
void
inject_loss(const char *function, const char *called, PGconn *conn)
{
	if (fails(FAULT_LOSS))
	{
		ereport(NOTICE,
				(errmsg("injected failure"),
				 errdetail_internal("Connection lost at call %d, %s() in %s().", calls, called, function)));
		shutdown(PQsocket(conn), SHUT_RDWR);
	}
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
	if (context != ErrorContext && context != TopMemoryContext &&
		CritSectionCount == 0 && fails(FAULT_ALLOCATION))
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("injected failure"),
				 errdetail_internal("Allocation %d.", calls),
				 errbacktrace()));
}

PG_FUNCTION_INFO_V1(run_ops_inject_faults);

/*
 * inject_faults(call int, kind text) returns int
 *
 * Lets that call fail, counted from now on with nothing known of the catalog
 * and of what this extension has read, nor a connection to a store; none for -1.
 * For 0 none fails, but all stays as it is.  Of the "calls" of this
 * extension, its "losses" of a connection, or the "allocations" of the whole
 * server.  Returns the number of calls so far, NULL where the server's are not to
 * be had.
 */
extern PGDLLEXPORT Datum run_ops_inject_faults(PG_FUNCTION_ARGS);

Datum
run_ops_inject_faults(PG_FUNCTION_ARGS)
{
	int			result = calls;
	char		first = *VARDATA_ANY(PG_GETARG_TEXT_PP(1));

	kind = first == 'c' ? FAULT_CALL : first == 'l' ? FAULT_LOSS : FAULT_ALLOCATION;
	if (kind == FAULT_ALLOCATION && &allocation_may_fail == NULL)
		PG_RETURN_NULL();
	if (kind == FAULT_ALLOCATION)
		allocation_may_fail = fail_allocation;

	if (PG_GETARG_INT32(0) != 0)
		InvalidateSystemCaches();
	failing_call = PG_GETARG_INT32(0);
	calls = 0;
	PG_RETURN_INT32(result);
}

/*
 * atomic_commit.c
 *		Transactions that write to several databases and commit in all of them
 *		or in none.
 *
 * Each store prepares its part before the local transaction commits, and
 * commits it after that.  The one idea: whether a part that is left after a
 * crash has to be committed is known from its name alone, for it contains the ID
 * of the local transaction.  So there is no table of decisions, and any later
 * session can finish it.
 *
 * That holds only if the ID means the same transaction for ever.  Therefore:
 *
 * - Before the first store prepares, a WAL record of the transaction is on disk.
 *   After a crash PostgreSQL gives no ID again that it finds in WAL, but it does
 *   give those again that it does not find there.
 * - The name has the timeline and the position of that record.  Another server
 *   of the same history (a promoted standby, a restored backup) knows from them
 *   whether its own history includes the record.  If it does, the ID means the
 *   same transaction; if that history branched off before the record, the
 *   transaction has not committed in it.
 * - The name has the system identifier and the OID of the database.  A name of
 *   another one is left alone, and so is everything that cannot be decided.
 * - A copy that is not bound to the stores finishes nothing; the callers check
 *   that with atomic_commit_may_resolve().
 *
 * Sending the commands is the task of wire.c.
 */
#include "postgres.h"

#include <unistd.h>

#include "access/timeline.h"
#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogreader.h"
#include "access/xlogutils.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "replication/message.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/xid8.h"

#include "ground/compat.h"
#include "ground/guard.h"
#include "ground/server_identity.h"
#include "wire/atomic_commit.h"

PG_FUNCTION_INFO_V1(run_ops_prepared_outcome);

#define PREFIX "run_ops_split"

/*
 * Names of this extension in the database that is asked, of transactions that
 * the user may finish.  Nothing is known of the search_path there.
 */
#define LEFT_QUERY \
	"SELECT p.gid, pg_catalog.concat(pg_catalog.to_char(pg_catalog.timezone('UTC', p.prepared), 'YYYY-MM-DD HH24:MI:SS.US'), '+00') " \
	"FROM pg_catalog.pg_prepared_xacts AS p JOIN pg_catalog.pg_roles AS r ON r.rolname OPERATOR(pg_catalog.=) CURRENT_USER " \
	"WHERE p.database OPERATOR(pg_catalog.=) pg_catalog.current_database() " \
	"AND pg_catalog.starts_with(p.gid, '" PREFIX ":') " \
	"AND (r.rolsuper OR p.owner OPERATOR(pg_catalog.=) r.rolname) ORDER BY p.prepared, p.gid"

/* what a name says */
typedef struct PreparedName
{
	uint64		system;
	Oid			database;
	TimeLineID	timeline;
	XLogRecPtr	lsn;			/* where the record of the transaction begins */
	FullTransactionId xid;
	Oid			user_mapping;
	int			number;			/* two parts may have the same mapping */
} PreparedName;

typedef enum Verdict
{
	VERDICT_COMMIT,
	VERDICT_ROLL_BACK,
	VERDICT_IN_PROGRESS,
	VERDICT_NONE
} Verdict;

/* of the current transaction */
static PreparedName current;

/* ----------------------------------------------------------------
 *		Names
 * ----------------------------------------------------------------
 */

static void
write_name(char *text, const PreparedName *name)
{
	snprintf(text, PREPARED_NAME_SIZE + 1,
			 PREFIX ":" UINT64_FORMAT ":%u:%u:%X/%X:" UINT64_FORMAT ":%u:%d",
			 name->system, name->database, name->timeline,
			 LSN_FORMAT_ARGS(name->lsn), U64FromFullTransactionId(name->xid),
			 name->user_mapping, name->number);
}

/* Only what write_name() has written is a name. */
static bool
read_name(const char *text, PreparedName *name)
{
	char		again[PREPARED_NAME_SIZE + 1];
	uint32		high;
	uint32		low;
	uint64		xid;

	if (sscanf(text, PREFIX ":" UINT64_FORMAT ":%u:%u:%X/%X:" UINT64_FORMAT ":%u:%d",
			   &name->system, &name->database, &name->timeline, &high, &low,
			   &xid, &name->user_mapping, &name->number) != 8)
		return false;
	name->lsn = ((uint64) high) << 32 | low;
	name->xid = FullTransactionIdFromU64(xid);
	write_name(again, name);
	return strcmp(text, again) == 0;
}

void
atomic_commit_begin(void)
{
	char	   *message;
	XLogRecPtr	end;

	current.system = GetSystemIdentifier();
	current.database = MyDatabaseId;
	current.xid = GetTopFullTransactionId();
	current.number = 0;
	message = psprintf(UINT64_FORMAT, U64FromFullTransactionId(current.xid));
	end = compat_log_message(PREFIX, message, strlen(message));
	current.lsn = ProcLastRecPtr;
	current.timeline = compat_wal_timeline();
	/* what has not been on disk when the server crashed has never been */
	if (!GUARD(32, end <= compat_flushed_lsn()))
		XLogFlush(end);
	/* no store may commit what can still be lost here */
	if (!GUARD(33, false))
		ForceSyncCommit();
}

void
atomic_commit_name(char *name, Oid user_mapping)
{
	current.user_mapping = user_mapping;
	current.number++;
	write_name(name, &current);
}

/* ----------------------------------------------------------------
 *		Decisions
 * ----------------------------------------------------------------
 */

/*
 * Does WAL have something else where the record should be?  Then the name is of
 * another server that had the same history up to some point, and went on from
 * there on the same timeline: the original of a block-level copy.  That is not
 * known any more when the WAL is gone.
 */
static bool
is_contradicted_by_wal(const PreparedName *name)
{
	char		path[MAXPGPATH];
	char	   *message = psprintf(UINT64_FORMAT, U64FromFullTransactionId(name->xid));
	XLogSegNo	segment;
	XLogReaderState *reader;
	ReadLocalXLogPageNoWaitPrivate end_of_wal = {0};
	xl_logical_message *record;
	char	   *error;
	bool		found = false;

	if (!XRecOffIsValid(name->lsn))
		return true;
	XLByteToSeg(name->lsn, segment, wal_segment_size);
	XLogFilePath(path, name->timeline, segment, wal_segment_size);
	if (access(path, F_OK) != 0)
		return false;
	reader = XLogReaderAllocate(wal_segment_size, NULL,
								XL_ROUTINE(.page_read = &read_local_xlog_page_no_wait,
										   .segment_open = &wal_segment_open,
										   .segment_close = &wal_segment_close),
								&end_of_wal);
	if (reader == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	XLogBeginRead(reader, name->lsn);
	if (XLogReadRecord(reader, &error) != NULL &&
		XLogRecGetRmid(reader) == RM_LOGICALMSG_ID &&
		TransactionIdEquals(XLogRecGetXid(reader), XidFromFullTransactionId(name->xid)))
	{
		record = (xl_logical_message *) XLogRecGetData(reader);
		found = record->dbId == name->database &&
			record->prefix_size == sizeof(PREFIX) &&
			strcmp(record->message, PREFIX) == 0 &&
			record->message_size == strlen(message) &&
			memcmp(record->message + record->prefix_size, message, record->message_size) == 0;
	}
	XLogReaderFree(reader);
	return !found;
}

/* What became of the transaction, if the ID means the same one here. */
static Verdict
verdict_by_status(FullTransactionId xid, const char **why)
{
	LOCAL_FCINFO(fcinfo, 1);
	Datum		result;
	char	   *status;

	*why = "its ID is in the future of this server";
	if (!FullTransactionIdPrecedes(xid, ReadNextFullTransactionId()))
		return VERDICT_NONE;
	InitFunctionCallInfoData(*fcinfo, NULL, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = FullTransactionIdGetDatum(xid);
	fcinfo->args[0].isnull = false;
	result = pg_xact_status(fcinfo);
	*why = "this server does not know any more what became of it";
	if (fcinfo->isnull)
		return VERDICT_NONE;
	status = TextDatumGetCString(result);
	return strcmp(status, "committed") == 0 ? VERDICT_COMMIT :
		strcmp(status, "aborted") == 0 ? VERDICT_ROLL_BACK :
		VERDICT_IN_PROGRESS;
}

/* Where the history of this server left a timeline; invalid if it was never on it. */
static XLogRecPtr
left_timeline_at(TimeLineID timeline)
{
	ListCell   *lc;

	foreach(lc, readTimeLineHistory(compat_wal_timeline()))
	{
		TimeLineHistoryEntry *entry = lfirst(lc);

		if (entry->tli == timeline)
			return entry->end;
	}
	return InvalidXLogRecPtr;
}

/* What has to be done about a prepared transaction; why: why nothing. */
static Verdict
decide(const char *prepared, const char **why)
{
	PreparedName name;
	XLogRecPtr	switch_point;

	*why = "it was prepared for another database";
	if (!read_name(prepared, &name) || name.system != GetSystemIdentifier() ||
		name.database != MyDatabaseId)
		return VERDICT_NONE;
	*why = "this server is a standby";
	if (RecoveryInProgress())
		return VERDICT_NONE;
	if (name.timeline == compat_wal_timeline())
	{
		*why = "it is from another history than that of this server";
		if (name.lsn >= compat_flushed_lsn() || is_contradicted_by_wal(&name))
			return VERDICT_NONE;
	}
	else
	{
		*why = "it is from a timeline that is not in the history of this server";
		switch_point = left_timeline_at(name.timeline);
		if (XLogRecPtrIsInvalid(switch_point))
			return VERDICT_NONE;
		if (name.lsn >= switch_point)
			return VERDICT_ROLL_BACK;
	}
	return verdict_by_status(name.xid, why);
}

/*
 * prepared_outcome(name text) returns text
 *
 * Strict.
 */
Datum
run_ops_prepared_outcome(PG_FUNCTION_ARGS)
{
	const char *why;

	switch (decide(text_to_cstring(PG_GETARG_TEXT_PP(0)), &why))
	{
		case VERDICT_COMMIT:
			PG_RETURN_TEXT_P(cstring_to_text("committed"));
		case VERDICT_ROLL_BACK:
			PG_RETURN_TEXT_P(cstring_to_text("rolled back"));
		case VERDICT_IN_PROGRESS:
			PG_RETURN_TEXT_P(cstring_to_text("in progress"));
		case VERDICT_NONE:
			break;
	}
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("undecided: %s", why)));
}

bool
atomic_commit_may_resolve(void)
{
	return !RecoveryInProgress() && server_may_use_stores();
}

/* ----------------------------------------------------------------
 *		Finishing what is left
 * ----------------------------------------------------------------
 */

char *
atomic_commit_try(void (*step) (void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	char	   *volatile message = NULL;

	PG_TRY();
	{
		step(arg);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			ReThrowError(error);
		if (error->sqlerrcode != ERRCODE_UNDEFINED_OBJECT)
			message = error->detail ? psprintf("%s: %s", error->message, error->detail) :
				pstrdup(error->message);
		FreeErrorData(error);
	}
	PG_END_TRY();
	return message;
}

List *
atomic_commit_left(RunAlone run, void *store)
{
	PGresult   *result = run(store, LEFT_QUERY);
	List	   *left = NIL;

	for (int i = 0; i < PQntuples(result); i++)
	{
		PreparedTransaction *prepared = palloc(sizeof(PreparedTransaction));

		prepared->name = pstrdup(PQgetvalue(result, i, 0));
		prepared->since = pstrdup(PQgetvalue(result, i, 1));
		prepared->outcome = NULL;
		left = lappend(left, prepared);
	}
	return left;
}

/* one command for one store */
typedef struct LoneCommand
{
	RunAlone	run;
	void	   *store;
	char	   *sql;
} LoneCommand;

static void
run_command(void *arg)
{
	LoneCommand *command = arg;

	(void) command->run(command->store, command->sql);
}

void
atomic_commit_resolve(List *left, RunAlone run, void *store)
{
	ListCell   *lc;

	foreach(lc, left)
	{
		PreparedTransaction *prepared = lfirst(lc);
		const char *why;
		Verdict		verdict = decide(prepared->name, &why);
		LoneCommand command = {run, store, NULL};
		char	   *failure;

		if (verdict == VERDICT_NONE)
			prepared->outcome = psprintf("undecided: %s", why);
		else if (verdict == VERDICT_IN_PROGRESS)
			prepared->outcome = "in progress";
		else
		{
			/* a name that could be decided needs no quoting */
			command.sql = psprintf("%s PREPARED '%s'",
								   verdict == VERDICT_COMMIT ? "COMMIT" : "ROLLBACK",
								   prepared->name);
			failure = atomic_commit_try(run_command, &command);
			prepared->outcome = failure ? psprintf("failed: %s", failure) :
				verdict == VERDICT_COMMIT ? "committed" : "rolled back";
		}
	}
}

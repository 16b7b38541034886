/*
 * ask_store.c
 *		SQL that is run in a store for the extension itself: what gates, the
 *		switch and the views stat_* ask, and what they tell.
 *
 * It runs with the user mapping of the current user.  A question is part of what
 * the transaction does in the store, and sees what that has written there.  A
 * command is told in a transaction of its own.
 *
 * Several stores are asked at the same time: all questions are sent before the
 * first answer is read.  So they are for a loop over stores, if ask_alike() says
 * that it will ask each of them the same.
 */
#include "postgres.h"

#include <limits.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "ground/compat.h"
#include "wire/connection.h"
#include "wire/wire.h"

PG_FUNCTION_INFO_V1(run_ops_ask_store);
PG_FUNCTION_INFO_V1(run_ops_ask_stores);
PG_FUNCTION_INFO_V1(run_ops_ask_alike);
PG_FUNCTION_INFO_V1(run_ops_tell_store);
PG_FUNCTION_INFO_V1(run_ops_try_locks_held_there);

/*
 * The settings under which everything runs there, as they decide what names
 * and types look like.  Local to the transaction, for a pooler hands the
 * connection on as it is.  JIT would compile for a second what then runs for
 * milliseconds.
 */
#define SETTINGS \
	"SELECT pg_catalog.set_config(name, value, true) FROM (VALUES " \
	"('application_name', %s), ('statement_timeout', '0'), ('search_path', 'pg_catalog, pg_temp'), " \
	"('datestyle', 'ISO, YMD'), ('timezone', 'UTC'), ('intervalstyle', 'postgres'), " \
	"('extra_float_digits', '1'), ('bytea_output', 'hex'), ('jit', 'off')) AS s (name, value)"

/* What must not stay so for the rest of a transaction that goes on. */
#define TAKE_BACK \
	"SELECT pg_catalog.set_config(name, reset_val, true) FROM pg_catalog.pg_settings " \
	"WHERE name IN ('application_name', 'statement_timeout', 'jit')"

/* The first field of the only row of a query about a store, or none; NULL if none. */
static char *
ask_here(const char *query, text *store)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			argtype = TEXTOID;
	Datum		arg = PointerGetDatum(store);
	char	   *answer = NULL;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args(query, store ? 1 : 0, &argtype, &arg, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not execute \"%s\"", query);
	if (SPI_processed > 0)
		answer = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (answer)
		answer = MemoryContextStrdup(context, answer);
	SPI_finish();
	return answer;
}

static Oid
server_of_store(text *store)
{
	char	   *server = ask_here("SELECT server FROM run_ops.store WHERE name OPERATOR(pg_catalog.=) $1", store);

	if (server == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("store \"%s\" is not attached", text_to_cstring(store)),
				 errhint("run_ops.store lists the stores.")));
	return GetForeignServerByName(server, false)->serverid;
}

static char *
settings(void)
{
	return psprintf(SETTINGS, quote_literal_cstr(ask_here("SELECT run_ops.client_name()", NULL)));
}

/* How long a store may be silent, in milliseconds; 0 has no limit. */
static int
patience_of(FunctionCallInfo fcinfo, int argument)
{
	Interval   *interval;

	if (PG_ARGISNULL(argument))
		return store_timeout;
	interval = PG_GETARG_INTERVAL_P(argument);
	return (int) Min(Max(interval->time / 1000 +
						 (int64) interval->day * SECS_PER_DAY * 1000 +
						 (int64) interval->month * DAYS_PER_MONTH * SECS_PER_DAY * 1000,
						 0), INT_MAX);
}

/* One question, and where the rows of its answer go. */
typedef struct Question
{
	text	   *store;
	const char *query;
	int			patience;
	Wire	   *wire;
	bool		sent;
	char	   *failure;		/* NULL: none */
	ReturnSetInfo *rsinfo;		/* NULL: they are kept in "rows" */
	List	   *rows;			/* of Jsonb, NULL for NULL */
	MemoryContext kept;			/* where */
	MemoryContext row_context;
	bool		holds;			/* what it locks, as long as this is in "statement" */
	WireStatement *statement;
} Question;

/*
 * Stores that are about to be asked the same, one after the other; see
 * run_ops_ask_alike().  Ends with the transaction at the latest.
 */
static struct
{
	MemoryContext context;		/* NULL: there are none */
	Oid			userid;			/* whose user mappings are used */
	int			level;			/* an error that ends this level ends it */
	List	   *stores;			/* of char * */
	List	   *answers;		/* of Question: they have been asked already */
	MemoryContextCallback forget;
}			alike;

static void
find_store(Question *question, const char *set_up)
{
	question->wire = wire_get(server_of_store(question->store), GetUserId());
	if (question->holds)
		question->statement = wire_join(question->wire, question, WIRE_READ_MANY,
										CurrentMemoryContext);
}

static void
send_question(Question *question, const char *set_up)
{
	wire_begin(question->wire, question->statement ? WIRE_READ_MANY : WIRE_READ,
			   question->statement);
	wire_limit_silence(question->wire, question->patience);
	wire_add(question->wire, set_up, 0, NULL);
	wire_send(question->wire, psprintf("SELECT pg_catalog.to_jsonb(q) FROM (%s) AS q", question->query),
			  0, NULL, true);
	question->sent = true;
}

/* A row of ask_stores(): store, answer, error. */
static void
put_row(ReturnSetInfo *rsinfo, Question *question, Datum answer, bool isnull)
{
	Datum		values[] = {PointerGetDatum(question->store), answer, 0};
	bool		nulls[] = {false, isnull, question->failure == NULL};

	if (question->failure)
		values[2] = CStringGetTextDatum(question->failure);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

static void
put_answer(Question *question, Datum answer, bool isnull)
{
	if (question->rsinfo == NULL)
	{
		MemoryContext oldcontext = MemoryContextSwitchTo(question->kept);

		question->rows = lappend(question->rows, isnull ? NULL :
								 DatumGetPointer(datumCopy(answer, false, -1)));
		MemoryContextSwitchTo(oldcontext);
	}
	else if (question->rsinfo->setDesc->natts == 1)
		tuplestore_putvalues(question->rsinfo->setResult, question->rsinfo->setDesc, &answer, &isnull);
	else
		put_row(question->rsinfo, question, answer, isnull);
}

static void
receive_answer(Question *question)
{
	PGresult   *result;

	while ((result = wire_receive(question->wire)) != NULL)
	{
		MemoryContext oldcontext;
		bool		isnull;

		if (PQnfields(result) != 1)
			ereport(ERROR,
					(errcode(ERRCODE_PROTOCOL_VIOLATION),
					 errmsg("store \"%s\" gave an answer of %d columns in place of one",
							wire_store(question->wire), PQnfields(result))));
		if (PQntuples(result) == 0)
			continue;
		isnull = PQgetisnull(result, 0, 0);
		MemoryContextReset(question->row_context);
		oldcontext = MemoryContextSwitchTo(question->row_context);
		put_answer(question, isnull ? (Datum) 0 :
				   DirectFunctionCall1(jsonb_in, CStringGetDatum(PQgetvalue(result, 0, 0))), isnull);
		MemoryContextSwitchTo(oldcontext);
	}
	wire_tell(question->wire, TAKE_BACK);
}

/*
 * Does a step of a question in a subtransaction, if its failure is an answer.
 * What was sent to other stores goes on: they have no transaction that could be
 * rolled back with it; see ask_several().
 */
static void
attempt(Question *question, void (*step) (Question *question, const char *set_up),
		const char *set_up)
{
	MemoryContext oldcontext = CurrentMemoryContext;
	ResourceOwner oldowner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(oldcontext);
	PG_TRY();
	{
		step(question, set_up);
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(oldcontext);
		CurrentResourceOwner = oldowner;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(oldcontext);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(oldcontext);
		CurrentResourceOwner = oldowner;
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			ReThrowError(error);
		question->failure = error->detail ? psprintf("%s: %s", error->message, error->detail) :
			error->message;
	}
	PG_END_TRY();
}

/* as a step */
static void
receive_step(Question *question, const char *set_up)
{
	if (!question->sent)
		send_question(question, set_up);
	receive_answer(question);
}

static bool
are_alike(void)
{
	return alike.context != NULL && alike.userid == GetUserId() &&
		alike.level <= GetCurrentTransactionNestLevel();
}

/* The answer that a store has given already; false if there is none. */
static bool
put_known_answer(Question *question)
{
	ListCell   *lc;

	foreach(lc, are_alike() ? alike.answers : NIL)
	{
		Question   *known = lfirst(lc);
		ListCell   *row;

		if (strcmp(known->query, question->query) != 0 ||
			strcmp(text_to_cstring(known->store), text_to_cstring(question->store)) != 0)
			continue;
		foreach(row, known->rows)
			put_answer(question, PointerGetDatum(lfirst(row)), lfirst(row) == NULL);
		alike.answers = foreach_delete_current(alike.answers, lc);
		return true;
	}
	return false;
}

/* Sends a question to the stores that will be asked the same. */
static List *
send_ahead(Question *question, const char *set_up)
{
	char	   *store = text_to_cstring(question->store);
	List	   *sent = NIL;
	ListCell   *lc;
	bool		is_after = false;

	foreach(lc, are_alike() ? alike.stores : NIL)
	{
		if (is_after)
		{
			Question   *other = palloc0(sizeof(Question));

			other->store = cstring_to_text(lfirst(lc));
			other->query = question->query;
			other->patience = question->patience;
			other->row_context = question->row_context;
			other->kept = alike.context;
			attempt(other, find_store, NULL);
			if (other->failure || !wire_reads_alone(other->wire, WIRE_READ))
				continue;
			attempt(other, send_question, set_up);
			sent = lappend(sent, other);
		}
		is_after |= strcmp(lfirst(lc), store) == 0;
	}
	return sent;
}

/* An answer for put_known_answer().  What has failed is asked again, and fails then. */
static void
keep_answer(Question *question)
{
	MemoryContext oldcontext;
	Question   *known;

	if (question->failure)
		return;
	oldcontext = MemoryContextSwitchTo(alike.context);
	known = palloc0(sizeof(Question));
	known->store = cstring_to_text(text_to_cstring(question->store));
	known->query = pstrdup(question->query);
	known->rows = question->rows;
	alike.answers = lappend(alike.answers, known);
	MemoryContextSwitchTo(oldcontext);
}

static void
receive_ahead(List *sent)
{
	ListCell   *lc;

	foreach(lc, sent)
	{
		Question   *other = lfirst(lc);

		if (other->failure == NULL)
			attempt(other, receive_step, NULL);
		keep_answer(other);
	}
}

/*
 * ask_store(store text, query text, patience interval) returns setof jsonb
 *
 * The rows of a query, each as an object.  Patience, or else
 * run_ops_split.store_timeout, bounds how long the store may be silent; zero
 * does not.  NULL in store or query: no row.
 */
Datum
run_ops_ask_store(PG_FUNCTION_ARGS)
{
	Question	question = {.patience = patience_of(fcinfo, 2)};
	List	   *ahead;
	char	   *set_up;

	compat_init_materialized_srf(fcinfo);
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	question.store = PG_GETARG_TEXT_PP(0);
	question.query = text_to_cstring(PG_GETARG_TEXT_PP(1));
	question.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	if (put_known_answer(&question))
		return (Datum) 0;
	question.row_context = AllocSetContextCreate(CurrentMemoryContext, "run_ops answer",
												 ALLOCSET_DEFAULT_SIZES);
	set_up = settings();
	find_store(&question, NULL);
	send_question(&question, set_up);
	ahead = send_ahead(&question, set_up);
	receive_answer(&question);
	receive_ahead(ahead);
	MemoryContextDelete(question.row_context);
	return (Datum) 0;
}

static void
forget_alike(void *arg)
{
	alike.context = NULL;
	alike.stores = alike.answers = NIL;
}

static void
begin_alike(void)
{
	if (alike.context)
		MemoryContextDelete(alike.context);
	alike.context = AllocSetContextCreate(TopTransactionContext, "run_ops answers of stores",
										  ALLOCSET_DEFAULT_SIZES);
	alike.userid = GetUserId();
	alike.level = GetCurrentTransactionNestLevel();
	alike.forget.func = forget_alike;
	MemoryContextRegisterResetCallback(alike.context, &alike.forget);
}

static void
array_of_texts(Datum array, Datum **texts, bool **nulls, int *n)
{
	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, texts, nulls, n);
}

/*
 * All stores have their questions before the first answer is waited for, so that
 * they cost one round trip together.  A store that occurs twice, or in which the
 * transaction has written, is asked when its turn to answer comes.
 */
static void
send_to_all(Question *questions, int n, bool tolerant, const char *set_up)
{
	for (int i = 0; i < n; i++)
	{
		Question   *question = &questions[i];
		bool		at_once;

		if (question->store == NULL)
			continue;
		question->row_context = AllocSetContextCreate(CurrentMemoryContext, "run_ops answer",
													  ALLOCSET_DEFAULT_SIZES);
		if (tolerant)
			attempt(question, find_store, NULL);
		else
			find_store(question, NULL);
		at_once = question->failure == NULL && wire_reads_alone(question->wire, WIRE_READ);
		for (int j = 0; j < i; j++)
			at_once &= questions[j].wire != question->wire;
		if (at_once && tolerant)
			attempt(question, send_question, set_up);
		else if (at_once)
			send_question(question, set_up);
	}
}

static void
receive_from_all(Question *questions, int n, bool tolerant, const char *set_up)
{
	for (int i = 0; i < n; i++)
	{
		Question   *question = &questions[i];

		if (question->store == NULL)
			continue;
		if (!tolerant)
			receive_step(question, set_up);
		else if (question->failure == NULL)
			attempt(question, receive_step, set_up);
		if (question->failure && question->rsinfo)
			put_row(question->rsinfo, question, (Datum) 0, true);
		MemoryContextDelete(question->row_context);
	}
}

/*
 * ask_stores(stores text[], queries text[], patience interval, tolerant boolean)
 * returns table (store text, answer jsonb, error text)
 *
 * There is one query for each store, or one for all.
 */
Datum
run_ops_ask_stores(PG_FUNCTION_ARGS)
{
	bool		tolerant = !PG_ARGISNULL(3) && PG_GETARG_BOOL(3);
	Datum	   *stores;
	Datum	   *queries;
	bool	   *no_store;
	bool	   *no_query;
	int			nstores;
	int			nqueries;
	Question   *questions;
	const char *set_up;

	compat_init_materialized_srf(fcinfo);
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		return (Datum) 0;
	array_of_texts(PG_GETARG_DATUM(0), &stores, &no_store, &nstores);
	array_of_texts(PG_GETARG_DATUM(1), &queries, &no_query, &nqueries);
	if (nstores == 0)
		return (Datum) 0;
	if (nqueries != nstores && nqueries != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%d queries for %d stores", nqueries, nstores),
				 errhint("Give one query for each store, or one for all.")));
	questions = palloc0(sizeof(Question) * nstores);
	for (int i = 0; i < nstores; i++)
	{
		int			n = nqueries == 1 ? 0 : i;

		if (no_store[i] || no_query[n])
			continue;
		questions[i].store = DatumGetTextPP(stores[i]);
		questions[i].query = text_to_cstring(DatumGetTextPP(queries[n]));
		questions[i].patience = patience_of(fcinfo, 2);
		questions[i].rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	}
	set_up = settings();
	send_to_all(questions, nstores, tolerant, set_up);
	receive_from_all(questions, nstores, tolerant, set_up);
	return (Datum) 0;
}

/*
 * ask_alike(stores text[]) returns void
 *
 * From now on what ask_store() asks one of these stores is sent to those after it
 * at the same time.  Their answers are kept until they are asked the same, in
 * their turn: a loop over stores costs as many round trips as for the first one.
 * Without stores, or at the end of the transaction, this ends.
 */
Datum
run_ops_ask_alike(PG_FUNCTION_ARGS)
{
	Datum	   *stores;
	bool	   *nulls;
	int			n = 0;
	MemoryContext oldcontext;

	begin_alike();
	if (!PG_ARGISNULL(0))
		array_of_texts(PG_GETARG_DATUM(0), &stores, &nulls, &n);
	oldcontext = MemoryContextSwitchTo(alike.context);
	for (int i = 0; i < n; i++)
	{
		if (!nulls[i])
			alike.stores = lappend(alike.stores, text_to_cstring(DatumGetTextPP(stores[i])));
	}
	MemoryContextSwitchTo(oldcontext);
	PG_RETURN_VOID();
}

/*
 * tell_store(store text, commands text) returns void
 *
 * Runs commands in a transaction of their own, which has ended on disk when
 * this returns, whatever the store's default is.  NULL: nothing is done.
 */
Datum
run_ops_tell_store(PG_FUNCTION_ARGS)
{
	wire_exec_apart(server_of_store(PG_GETARG_TEXT_PP(0)), GetUserId(),
					psprintf("BEGIN; %s; SET LOCAL synchronous_commit = on; %s; COMMIT",
							 settings(), text_to_cstring(PG_GETARG_TEXT_PP(1))));
	PG_RETURN_VOID();
}

/*
 * try_locks_held_there(stores text[], keys bigint[])
 * returns table (store text, is_free boolean, error text)
 *
 * Takes an advisory lock in each store, and says whether the same one is free
 * here; here it is kept then until the transaction ends.  In a store it is held
 * by a transaction, so that a transaction pooler keeps its word too, until all
 * have been tried.  True: the store is another database.
 */
Datum
run_ops_try_locks_held_there(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum	   *stores;
	Datum	   *keys;
	bool	   *no_store;
	bool	   *no_key;
	int			n;
	int			nkeys;
	Question   *questions;
	const char *set_up;

	compat_init_materialized_srf(fcinfo);
	array_of_texts(PG_GETARG_DATUM(0), &stores, &no_store, &n);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), INT8OID, sizeof(int64), FLOAT8PASSBYVAL,
					  TYPALIGN_DOUBLE, &keys, &no_key, &nkeys);
	questions = palloc0(sizeof(Question) * n);
	for (int i = 0; i < Min(n, nkeys); i++)
	{
		Question   *question = &questions[i];

		if (no_store[i] || no_key[i])
			continue;
		question->store = DatumGetTextPP(stores[i]);
		question->query = psprintf("SELECT pg_catalog.pg_advisory_xact_lock(" INT64_FORMAT ")",
								   DatumGetInt64(keys[i]));
		question->patience = store_timeout;
		question->kept = CurrentMemoryContext;
		question->holds = true;
	}
	set_up = settings();
	send_to_all(questions, n, true, set_up);
	receive_from_all(questions, n, true, set_up);
	for (int i = 0; i < n; i++)
	{
		Question   *question = &questions[i];

		if (question->store == NULL)
			continue;
		put_row(rsinfo, question, question->failure ? (Datum) 0 :
				DirectFunctionCall1(pg_try_advisory_xact_lock_int8, keys[i]),
				question->failure != NULL);
	}
	for (int i = 0; i < n; i++)
	{
		if (questions[i].statement)
			wire_leave(questions[i].statement);
	}
	return (Datum) 0;
}

/* ----------------------------------------------------------------
 *		Functions of 0.1.0
 *
 * The library is replaced before the extension is updated.
 * ----------------------------------------------------------------
 */

PG_FUNCTION_INFO_V1(run_ops_ask_ahead);
PG_FUNCTION_INFO_V1(run_ops_try_lock_held_there);

/* What is not asked ahead is asked when its turn comes. */
Datum
run_ops_ask_ahead(PG_FUNCTION_ARGS)
{
	PG_RETURN_VOID();
}

/* try_locks_held_there() for one store; an error if it cannot be asked. */
Datum
run_ops_try_lock_held_there(PG_FUNCTION_ARGS)
{
	Oid			server = server_of_store(PG_GETARG_TEXT_PP(0));
	bool		is_free;

	wire_exec_apart(server, GetUserId(),
					psprintf("BEGIN; %s; SELECT pg_catalog.pg_advisory_xact_lock(" INT64_FORMAT ")",
							 settings(), PG_GETARG_INT64(1)));
	is_free = DatumGetBool(DirectFunctionCall1(pg_try_advisory_xact_lock_int8,
											   PG_GETARG_DATUM(1)));
	wire_exec_apart(server, GetUserId(), "ROLLBACK");
	PG_RETURN_BOOL(is_free);
}

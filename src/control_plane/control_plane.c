/*
 * control_plane.c
 *		Answers about environments and workers, from the control-plane tables.
 *
 * The one idea: run_ops.control_plane_query() has one SQL query for each kind
 * of answer.  A query takes arrays, so that the same code handles one question
 * and ten thousand.  For each answer, it also returns the versions of the rows
 * from which the answer was computed; cache.c needs nothing else to cache it.
 *
 * The queries run as the owner of the tables, like the checks of foreign keys.
 * So an answer depends on rows only, and not on the policies or privileges of
 * the role that asks first, and all roles of a session share one cache.  The
 * EXECUTE privilege of the functions decides who may ask.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "ground/guard.h"
#include "ground/own_table.h"
#include "control_plane/cache.h"
#include "control_plane/control_plane.h"

/* maximum number of arguments of a query; each is a text[] */
#define MAX_QUESTION_ARGS 6

/* One query of run_ops.control_plane_query(), by its name there. */
typedef struct Question
{
	const char *name;
	SPIPlanPtr	plan;			/* NULL until first used */
	bool		cached;
	CacheSlot	slot;
} Question;

enum
{
	QUESTION_ENV,
	QUESTION_AUTHENTICATED_ENV,
	QUESTION_EVENT_ENV,
	QUESTION_ENV_EXISTS,
	QUESTION_MINT_FLAGS,
	QUESTION_LOCKED_TASK,
	QUESTION_LOCKED_VERSION,
	QUESTION_WORKER_VERSION
};

static Question questions[] = {
	[QUESTION_ENV] = {"env", NULL, true},
	[QUESTION_AUTHENTICATED_ENV] = {"authenticated_env", NULL, true},
	[QUESTION_EVENT_ENV] = {"event_env", NULL, true},
	[QUESTION_ENV_EXISTS] = {"env_exists", NULL, true},
	[QUESTION_MINT_FLAGS] = {"mint_flags", NULL, true},
	[QUESTION_LOCKED_TASK] = {"locked_task", NULL, true},
	[QUESTION_LOCKED_VERSION] = {"locked_version", NULL, true},
	[QUESTION_WORKER_VERSION] = {"worker_version", NULL, false}
};

/* The schema and owner of the tables, in one generation of their definitions. */
static struct
{
	uint64		generation;		/* 0: unknown */
	char		schema[NAMEDATALEN];
	Oid			owner;
} attached;

/* Runs a query without parameters that returns at least one row. */
static void
select_rows(const char *query)
{
	if (SPI_execute(query, true, 0) != SPI_OK_SELECT || SPI_processed == 0)
		elog(ERROR, "query failed: %s", query);
}

/*
 * Looks up the schema and owner of the control plane, if they may have
 * changed.  Raises an error if no control plane is attached, or if it lacks a
 * column.  The caller must be connected to SPI.
 *
 * The attached control plane is a definition, like that of a table.  So the
 * latest one is used, whatever the active snapshot sees.  It is read as the
 * owner of the extension, because a user of a view or a DEFAULT needs no
 * privileges on these tables.
 */
static void
find_control_plane(void)
{
	uint64		generation = cache_generation();
	bool		latest = !IsInParallelMode();
	Relation	own;
	Oid			save_user;
	int			save_context;

	if (attached.generation == generation)
		return;
	attached.generation = 0;
	for (int i = 0; i < lengthof(questions); i++)
	{
		if (questions[i].plan != NULL)
		{
			SPIPlanPtr	plan = questions[i].plan;

			questions[i].plan = NULL;
			SPI_freeplan(plan);
		}
	}

	if (latest)
		PushActiveSnapshot(GetLatestSnapshot());
	own = own_table_open("control_plane");
	GetUserIdAndSecContext(&save_user, &save_context);
	if (own != NULL)
	{
		SetUserIdAndSecContext(own->rd_rel->relowner, save_context |
							   SECURITY_LOCAL_USERID_CHANGE);
		table_close(own, AccessShareLock);
	}
	select_rows("SELECT t.schema, t.owner, t.relation"
				"  FROM run_ops.control_plane_tables() AS t");
	SetUserIdAndSecContext(save_user, save_context);
	if (latest)
		PopActiveSnapshot();
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		bool		isnull;

		namestrcpy((Name) attached.schema,
				   NameStr(*DatumGetName(SPI_getbinval(row, desc, 1, &isnull))));
		attached.owner = DatumGetObjectId(SPI_getbinval(row, desc, 2, &isnull));
		cache_watch(DatumGetObjectId(SPI_getbinval(row, desc, 3, &isnull)));
	}
	/* a parallel worker has read it under an old snapshot: look up again */
	if (latest)
		attached.generation = generation;
}

static SPIPlanPtr
question_plan(Question *question, int nargs)
{
	Oid			argtypes[MAX_QUESTION_ARGS];
	char	   *query;
	SPIPlanPtr	plan;

	if (question->plan != NULL)
		return question->plan;
	for (int i = 0; i < nargs; i++)
		argtypes[i] = TEXTARRAYOID;
	select_rows(psprintf("SELECT run_ops.control_plane_query(%s, %s)",
						 quote_literal_cstr(question->name),
						 quote_literal_cstr(attached.schema)));
	query = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	/* a generic plan, because the best plan does not depend on the keys */
	plan = SPI_prepare_cursor(query, nargs, argtypes, CURSOR_OPT_GENERIC_PLAN);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", question->name,
			 SPI_result_code_string(SPI_result));
	SPI_keepplan(plan);
	question->plan = plan;
	return plan;
}

static void
question_context(void *arg)
{
	errcontext("control-plane resolver, question \"%s\"",
			   ((Question *) arg)->name);
}

/*
 * Asks one question for many keys at once, in the active snapshot.  The arrays
 * in args have the same length.  The answer for the n-th key (from 1) is
 * stored in answers[n - 1], allocated in the current context.  If there is no
 * answer for a key, its element is not changed.
 */
static void
ask(Question *question, int nargs, Datum *args,
	Datum *keys, Datum *answers, bool *nulls)
{
	MemoryContext caller = CurrentMemoryContext;
	CacheMoment moment = cache_moment();
	ErrorContextCallback errcallback;
	Oid			save_user;
	int			save_context;
	int			guc_level;
	SPIPlanPtr	plan;
	TupleDesc	desc;
	int			nversions;

	errcallback.callback = question_context;
	errcallback.arg = question;
	errcallback.previous = error_context_stack;
	error_context_stack = &errcallback;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	/* the search_path of the caller must not choose operators for the owner */
	guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	find_control_plane();
	GetUserIdAndSecContext(&save_user, &save_context);
	/* restricted: code of the owner cannot defer anything to the caller */
	SetUserIdAndSecContext(attached.owner, save_context |
						   SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION |
						   SECURITY_NOFORCE_RLS);
	plan = question_plan(question, nargs);
	if (SPI_execute_plan(plan, args, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not ask \"%s\"", question->name);
	SetUserIdAndSecContext(save_user, save_context);

	desc = SPI_tuptable->tupdesc;
	nversions = (desc->natts - 3) / 3;
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		RowVersion	versions[CACHE_MAX_VERSIONS];
		int			nkept = 0;
		bool		isnull;
		int			n = DatumGetInt64(SPI_getbinval(row, desc, 1, &isnull)) - 1;
		Datum		answer = SPI_getbinval(row, desc, 2, &nulls[n]);
		bool		complete = DatumGetBool(SPI_getbinval(row, desc, 3, &isnull));
		Form_pg_attribute attr = TupleDescAttr(desc, 1);

		if (!nulls[n])
		{
			MemoryContext spi_context = MemoryContextSwitchTo(caller);

			answers[n] = datumCopy(answer, attr->attbyval, attr->attlen);
			MemoryContextSwitchTo(spi_context);
		}
		if (!question->cached || !GUARD(13, complete))
			continue;
		for (int v = 0; v < nversions; v++)
		{
			Datum		tableoid = SPI_getbinval(row, desc, 4 + 3 * v, &isnull);
			RowVersion *version = &versions[nkept];

			if (isnull)
				continue;		/* the answer does not depend on such a row */
			version->tableoid = DatumGetObjectId(tableoid);
			version->ctid = *(ItemPointer)
				DatumGetPointer(SPI_getbinval(row, desc, 5 + 3 * v, &isnull));
			version->xmin =
				DatumGetTransactionId(SPI_getbinval(row, desc, 6 + 3 * v, &isnull));
			nkept++;
		}
		question->slot.name = question->name;
		question->slot.typlen = attr->attlen;
		question->slot.typbyval = attr->attbyval;
		cache_enter(&question->slot, DatumGetTextPP(keys[n]), answers[n],
					nulls[n], versions, nkept, moment);
	}
	AtEOXact_GUC(false, guc_level);
	SPI_finish();
	error_context_stack = errcallback.previous;
}

static Datum
text_array(Datum *elements, int n)
{
	return PointerGetDatum(construct_array(elements, n, TEXTOID, -1, false,
										   TYPALIGN_INT));
}

/*
 * Finds the answer to a question about one key, in the active snapshot.  False
 * if there is none.
 */
static bool
find_answer(Question *question, text *key, Datum *answer)
{
	bool		isnull = true;

	if (!cache_find(&question->slot, key, answer, &isnull))
	{
		Datum		key_datum = PointerGetDatum(key);
		Datum		keys = text_array(&key_datum, 1);

		ask(question, 1, &keys, &key_datum, answer, &isnull);
	}
	return !isnull;
}

static Datum
answer_one(FunctionCallInfo fcinfo, Question *question)
{
	Datum		answer;

	if (!find_answer(question, PG_GETARG_TEXT_PP(0), &answer))
		PG_RETURN_NULL();
	PG_RETURN_DATUM(answer);
}

Jsonb *
control_plane_mint_flags(text *environment_id)
{
	Datum		answer;

	return find_answer(&questions[QUESTION_MINT_FLAGS], environment_id,
					   &answer) ? DatumGetJsonbP(answer) : NULL;
}

/* The answers to a question about many keys. */
typedef struct Answers
{
	int			nkeys;
	Datum	   *keys;
	bool	   *key_nulls;
	Datum	   *answers;
	bool	   *nulls;
} Answers;

/* Takes answers from the cache, then asks for all others at once. */
static void
find_answers(Question *question, Answers *all)
{
	Datum	   *missing = palloc(all->nkeys * sizeof(Datum));
	int		   *position = palloc(all->nkeys * sizeof(int));
	int			nmissing = 0;
	Datum	   *answers;
	bool	   *nulls;
	Datum		keys;

	for (int i = 0; i < all->nkeys; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (all->key_nulls[i])
			continue;
		if (!cache_find(&question->slot, DatumGetTextPP(all->keys[i]),
						&all->answers[i], &all->nulls[i]))
		{
			position[nmissing] = i;
			missing[nmissing++] = all->keys[i];
		}
	}
	if (nmissing == 0)
		return;
	answers = palloc0(nmissing * sizeof(Datum));
	nulls = palloc(nmissing * sizeof(bool));
	memset(nulls, true, nmissing * sizeof(bool));
	keys = text_array(missing, nmissing);
	ask(question, 1, &keys, missing, answers, nulls);
	for (int i = 0; i < nmissing; i++)
	{
		all->answers[position[i]] = answers[i];
		all->nulls[position[i]] = nulls[i];
	}
}

/*
 * Returns one row (key, answer) for each element of the first array, in its
 * order.  The answer is NULL if there is none.  Other arrays, if any, must not
 * be longer than the first one.
 */
static Datum
answer_many(FunctionCallInfo fcinfo, Question *question)
{
	FuncCallContext *call;
	Answers    *all;

	if (SRF_IS_FIRSTCALL())
	{
		MemoryContext old;
		TupleDesc	tupdesc;

		call = SRF_FIRSTCALL_INIT();
		old = MemoryContextSwitchTo(call->multi_call_memory_ctx);
		if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
			elog(ERROR, "return type must be a row type");
		call->tuple_desc = BlessTupleDesc(tupdesc);
		call->user_fctx = all = palloc(sizeof(Answers));
		deconstruct_array(PG_GETARG_ARRAYTYPE_P_COPY(0), TEXTOID, -1, false,
						  TYPALIGN_INT,
						  &all->keys, &all->key_nulls, &all->nkeys);
		all->answers = palloc0(all->nkeys * sizeof(Datum));
		all->nulls = palloc(all->nkeys * sizeof(bool));
		memset(all->nulls, true, all->nkeys * sizeof(bool));
		if (question->cached)
			find_answers(question, all);
		else
		{
			Datum		args[MAX_QUESTION_ARGS];

			for (int i = 0; i < PG_NARGS(); i++)
			{
				ArrayType  *array = PG_GETARG_ARRAYTYPE_P(i);

				if (ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array)) > all->nkeys)
					ereport(ERROR,
							(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
							 errmsg("argument %d has more elements than argument 1",
									i + 1)));
				args[i] = PointerGetDatum(array);
			}
			ask(question, PG_NARGS(), args, all->keys, all->answers, all->nulls);
		}
		MemoryContextSwitchTo(old);
	}
	call = SRF_PERCALL_SETUP();
	all = call->user_fctx;
	if (call->call_cntr < all->nkeys)
	{
		uint64		i = call->call_cntr;
		Datum		values[2] = {all->keys[i], all->answers[i]};
		bool		nulls[2] = {all->key_nulls[i], all->nulls[i]};

		SRF_RETURN_NEXT(call, HeapTupleGetDatum(heap_form_tuple(call->tuple_desc,
																 values, nulls)));
	}
	SRF_RETURN_DONE(call);
}

/* Defines a function of one key and one of an array of keys for a question. */
#define QUESTION_FUNCTIONS(function, number) \
	PG_FUNCTION_INFO_V1(run_ops_##function); \
	Datum \
	run_ops_##function(PG_FUNCTION_ARGS) \
	{ \
		return answer_one(fcinfo, &questions[number]); \
	} \
	PG_FUNCTION_INFO_V1(run_ops_##function##_set); \
	Datum \
	run_ops_##function##_set(PG_FUNCTION_ARGS) \
	{ \
		return answer_many(fcinfo, &questions[number]); \
	} \
	extern int	run_ops_no_such_thing

QUESTION_FUNCTIONS(resolve_env, QUESTION_ENV);
QUESTION_FUNCTIONS(resolve_authenticated_env, QUESTION_AUTHENTICATED_ENV);
QUESTION_FUNCTIONS(resolve_event_env, QUESTION_EVENT_ENV);
QUESTION_FUNCTIONS(env_exists, QUESTION_ENV_EXISTS);
QUESTION_FUNCTIONS(resolve_locked_task, QUESTION_LOCKED_TASK);
QUESTION_FUNCTIONS(resolve_locked_version, QUESTION_LOCKED_VERSION);

PG_FUNCTION_INFO_V1(run_ops_resolve_worker_version_set);
Datum
run_ops_resolve_worker_version_set(PG_FUNCTION_ARGS)
{
	return answer_many(fcinfo, &questions[QUESTION_WORKER_VERSION]);
}

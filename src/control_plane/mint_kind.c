/*
 * mint_kind.c
 *		Decides which kind of id an environment mints, and mints it.
 *
 * The one idea: at any instant all writers mint the same kind.  The kind
 * depends only on the committed flags, the time of their last flip and the
 * clock of this server.  It is computed for each id, under a snapshot taken
 * for that id.  The snapshot of the statement would be wrong: a REPEATABLE
 * READ transaction or a long statement would continue to mint a kind that all
 * others have stopped minting.  For the same reason, the grace after a flip is
 * measured with clock_timestamp() and not with the start of the transaction.
 *
 * An id can still be minted just before the kind changes and committed just
 * after.  Two transactions that must not both create a run with the same
 * idempotency key at that time need a common lock.  They need it at any other
 * time too, if their runs may be in different stores.
 *
 * Triggers in mint_kind.sql record the time of each flip.
 */
#include "postgres.h"

#include <ctype.h>
#include <limits.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "ground/compat.h"
#include "ground/own_table.h"
#include "ids/id_mint.h"
#include "ids/id_shape.h"
#include "stores/read_gate.h"
#include "control_plane/control_plane.h"
#include "control_plane/mint_kind.h"
#include "control_plane/mint_shard.h"

PG_FUNCTION_INFO_V1(run_ops_mint_flags);
PG_FUNCTION_INFO_V1(run_ops_effective_mint_kind);
PG_FUNCTION_INFO_V1(run_ops_effective_mint_kind_of_flags);
PG_FUNCTION_INFO_V1(run_ops_resolve_mint_kind);
PG_FUNCTION_INFO_V1(run_ops_resolve_inherited_mint_kind);
PG_FUNCTION_INFO_V1(run_ops_mint_run_id);
PG_FUNCTION_INFO_V1(run_ops_mint_batch_id);

/* the column of run_ops.global_mint_kind that is read here */
#define Anum_global_mint_kind_flags 2

/* the feature flags about minting */
#define FLAG_KIND "runOpsMintKind"
#define FLAG_OLDER_KIND "runOpsMintKsuid"
#define FLAG_PREV "runOpsMintKindPrev"
#define FLAG_FLIPPED_AT "runOpsMintKindFlippedAt"

static const char *const mint_flag_keys[] = {
	FLAG_KIND, FLAG_OLDER_KIND, FLAG_PREV, FLAG_FLIPPED_AT
};

/* The values of these flags, unchecked; each may be NULL. */
typedef struct MintFlags
{
	const char *kind;
	const char *prev;
	const char *flipped_at;
} MintFlags;

static bool mint_enabled = false;
static int	mint_flip_grace = 90000;	/* milliseconds */
static int	new_mint_kind = ID_KIND_KSUID;

static const struct config_enum_entry new_mint_kinds[] = {
	{"ksuid", ID_KIND_KSUID, false},
	{"runOpsId", ID_KIND_RUN_OPS, false},
	{NULL, 0, false}
};

/*
 * Ordinary users must not change these settings: sessions with different
 * values would mint ids of one environment for two stores.
 */
void
mint_kind_init(void)
{
	DefineCustomBoolVariable("run_ops_split.mint_enabled",
							 "Lets feature flags choose the kind of new ids.",
							 "While off, every id minted without a parent is a cuid. A change takes effect at once, without the grace of a flip.",
							 &mint_enabled,
							 false,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomIntVariable("run_ops_split.mint_flip_grace",
							"How long the previous kind of ids, or the previous set of shards, stays in force after a change.",
							NULL,
							&mint_flip_grace,
							90000, 0, INT_MAX,
							PGC_SUSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomEnumVariable("run_ops_split.new_mint_kind",
							 "The kind of id that a child of a ksuid parent gets.",
							 "A child of a runOpsId parent is always a runOpsId.",
							 &new_mint_kind,
							 ID_KIND_KSUID, new_mint_kinds,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);
}

/* The kind with this name; ID_KIND_NONE for NULL or any other text. */
static IdKind
kind_by_name(const char *name)
{
	if (name != NULL)
	{
		for (IdKind kind = ID_KIND_CUID; kind <= ID_KIND_RUN_OPS; kind++)
		{
			if (strcmp(name, id_kind_names[kind]) == 0)
				return kind;
		}
	}
	return ID_KIND_NONE;
}

static JsonbValue *
flag_value(Jsonb *flags, const char *key, JsonbValue *buffer)
{
	return getKeyJsonValueFromContainer(&flags->root, key, strlen(key),
										buffer);
}

/*
 * mint_flags(flags jsonb) returns jsonb
 *
 * Returns the flags about minting, which everybody may see, and no others.  A
 * value that is not a JSON object is returned unchanged.
 */
Datum
run_ops_mint_flags(PG_FUNCTION_ARGS)
{
	Jsonb	   *flags = PG_GETARG_JSONB_P(0);
	CompatJsonb state = {0};

	if (!JB_ROOT_IS_OBJECT(flags))
		PG_RETURN_JSONB_P(flags);
	compat_push_jsonb(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < lengthof(mint_flag_keys); i++)
	{
		JsonbValue	buffer;
		JsonbValue *value = flag_value(flags, mint_flag_keys[i], &buffer);

		if (value != NULL)
		{
			JsonbValue	key;

			key.type = jbvString;
			key.val.string.val = unconstify(char *, mint_flag_keys[i]);
			key.val.string.len = strlen(mint_flag_keys[i]);
			compat_push_jsonb(&state, WJB_KEY, &key);
			compat_push_jsonb(&state, WJB_VALUE, value);
		}
	}
	compat_push_jsonb(&state, WJB_END_OBJECT, NULL);
	PG_RETURN_JSONB_P(JsonbValueToJsonb(state.result));
}

/* A flag as text; NULL if it is absent or a JSON null. */
static const char *
flag_text(Jsonb *flags, const char *key)
{
	JsonbValue	buffer;
	JsonbValue *value = flag_value(flags, key, &buffer);

	if (value == NULL || value->type == jbvNull)
		return NULL;
	if (value->type == jbvString)
		return pnstrdup(value->val.string.val, value->val.string.len);
	return JsonbToCString(NULL, &JsonbValueToJsonb(value)->root, 0);
}

/* Reads the flags about minting.  A value that is not a JSON object has none. */
static MintFlags
read_flags(Jsonb *flags)
{
	MintFlags	result = {NULL, NULL, NULL};

	if (flags != NULL && JB_ROOT_IS_OBJECT(flags))
	{
		result.kind = flag_text(flags, FLAG_KIND);
		if (result.kind == NULL)
			result.kind = flag_text(flags, FLAG_OLDER_KIND);
		result.prev = flag_text(flags, FLAG_PREV);
		result.flipped_at = flag_text(flags, FLAG_FLIPPED_AT);
	}
	return result;
}

/*
 * Parses 2026-01-31T23:59:59.999Z, the only form that the triggers and the
 * application write.  False for anything else; never raises an error.
 */
static bool
parse_flipped_at(const char *s, TimestampTz *result)
{
	static const char form[] = "####-##-##T##:##:##.###Z";
	struct pg_tm tm = {0};
	int			milliseconds;
	int			utc = 0;

	/* includes the terminating NUL */
	for (int i = 0; i < sizeof(form); i++)
	{
		if (form[i] == '#' ? !isdigit((unsigned char) s[i]) : s[i] != form[i])
			return false;
	}
	sscanf(s, "%d-%d-%dT%d:%d:%d.%dZ", &tm.tm_year, &tm.tm_mon, &tm.tm_mday,
		   &tm.tm_hour, &tm.tm_min, &tm.tm_sec, &milliseconds);
	if (tm.tm_mon < 1 || tm.tm_mon > MONTHS_PER_YEAR || tm.tm_mday < 1 ||
		tm.tm_mday > day_tab[isleap(tm.tm_year)][tm.tm_mon - 1] ||
		tm.tm_hour >= HOURS_PER_DAY || tm.tm_min >= MINS_PER_HOUR ||
		tm.tm_sec >= SECS_PER_MINUTE)
		return false;
	return tm2timestamp(&tm, milliseconds * 1000, &utc, result) == 0;
}

/*
 * The kind in force at a time; ID_KIND_NONE if the flags set none.  A time
 * before the flip counts as in the grace, because prev was in force then.
 */
static IdKind
effective_kind(const MintFlags *flags, TimestampTz at, int grace_ms)
{
	IdKind		prev = kind_by_name(flags->prev);
	TimestampTz flipped_at;

	if (prev != ID_KIND_NONE && flags->flipped_at != NULL &&
		parse_flipped_at(flags->flipped_at, &flipped_at) &&
		at < flipped_at + (int64) grace_ms * 1000)
		return prev;
	return kind_by_name(flags->kind);
}

/*
 * effective_mint_kind(kind text, prev text, flipped_at text, at timestamptz,
 *					   grace_ms integer) returns run_ops.id_kind
 *
 * NULL if "kind" is not a kind and no grace is running, and for a NULL time.  A
 * NULL grace means the setting.  Never raises an error.
 */
Datum
run_ops_effective_mint_kind(PG_FUNCTION_ARGS)
{
	MintFlags	flags = {NULL, NULL, NULL};
	IdKind		kind;

	if (!PG_ARGISNULL(0))
		flags.kind = text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (!PG_ARGISNULL(1))
		flags.prev = text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (!PG_ARGISNULL(2))
		flags.flipped_at = text_to_cstring(PG_GETARG_TEXT_PP(2));
	if (PG_ARGISNULL(3))
		PG_RETURN_NULL();
	kind = effective_kind(&flags, PG_GETARG_TIMESTAMPTZ(3),
						  PG_ARGISNULL(4) ? mint_flip_grace : PG_GETARG_INT32(4));
	if (kind == ID_KIND_NONE)
		PG_RETURN_NULL();
	return id_kind_datum(fcinfo, kind);
}

/*
 * effective_mint_kind(flags jsonb, at timestamptz) returns run_ops.id_kind
 *
 * NULL if the flags set no kind and no grace is running, and for a NULL time.
 * Never raises an error.
 */
Datum
run_ops_effective_mint_kind_of_flags(PG_FUNCTION_ARGS)
{
	MintFlags	flags = read_flags(PG_ARGISNULL(0) ? NULL :
								   PG_GETARG_JSONB_P(0));
	IdKind		kind;

	if (PG_ARGISNULL(1))
		PG_RETURN_NULL();
	kind = effective_kind(&flags, PG_GETARG_TIMESTAMPTZ(1), mint_flip_grace);
	if (kind == ID_KIND_NONE)
		PG_RETURN_NULL();
	return id_kind_datum(fcinfo, kind);
}

/*
 * The flags in the global flag table, in the active snapshot; NULL if there
 * are none.  A user who mints an id, for example by a DEFAULT, needs no
 * privileges on the table.
 */
static Jsonb *
global_flags(void)
{
	Relation	rel = own_table_open("global_mint_kind");
	SysScanDesc scan;
	HeapTuple	tuple;
	Jsonb	   *flags = NULL;

	if (rel == NULL)
		return NULL;
	/* the table has at most one row */
	scan = systable_beginscan(rel, InvalidOid, false, GetActiveSnapshot(), 0,
							  NULL);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple, Anum_global_mint_kind_flags,
										 RelationGetDescr(rel), &isnull);

		if (!isnull)
			flags = DatumGetJsonbPCopy(value);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return flags;
}

/*
 * The kind in force according to these flags, or ID_KIND_NONE.  A value that
 * is not a kind counts as not set.
 */
static IdKind
kind_of_flags(Jsonb *json, const char *whose)
{
	MintFlags	flags = read_flags(json);
	IdKind		kind = effective_kind(&flags, GetCurrentTimestamp(),
									  mint_flip_grace);

	if (kind == ID_KIND_NONE && flags.kind != NULL)
		ereport(WARNING,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("mint kind \"%s\" of %s is ignored",
						flags.kind, whose),
				 errhint("A mint kind is one of cuid, ksuid, runOpsId.")));
	return kind;
}

/*
 * The shape in the active snapshot: cuid while split is off, otherwise the kind
 * of the organization, the kind of the global flag or cuid; a runOpsId may have
 * a shard.  The caller handles errors.
 */
static IdShape
read_root_shape(text *environment_id)
{
	IdShape		shape = {ID_KIND_CUID, '\0'};
	Jsonb	   *answer;
	Jsonb	   *flags = NULL;
	JsonbValue	buffer;
	JsonbValue *value;
	const char *whose;

	if (!split_enabled())
		return shape;

	answer = control_plane_mint_flags(environment_id);
	if (answer == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("there is no such environment")));
	whose = psprintf("organization \"%s\"", flag_text(answer, "organization"));
	value = flag_value(answer, "flags", &buffer);
	if (value->type == jbvBinary)
		flags = JsonbValueToJsonb(value);
	if (value->type != jbvNull && (flags == NULL || !JB_ROOT_IS_OBJECT(flags)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the feature flags of %s are not a JSON object", whose)));
	shape.kind = kind_of_flags(flags, whose);
	if (shape.kind == ID_KIND_NONE)
		shape.kind = kind_of_flags(global_flags(), "the global flag");
	if (shape.kind == ID_KIND_NONE)
		shape.kind = ID_KIND_CUID;
	if (shape.kind == ID_KIND_RUN_OPS)
		shape.shard = mint_shard(answer, whose, environment_id, mint_flip_grace);
	return shape;
}

/*
 * The shape of an id without a parent; environment_id may be NULL.
 *
 * Minting must not fail because a flag cannot be read.  So an error becomes a
 * WARNING, and the id is a cuid.  Errors that have nothing to do with the
 * flags and end the statement or transaction anyway are raised again.
 */
static IdShape
root_shape(text *environment_id)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	const IdShape cuid = {ID_KIND_CUID, '\0'};
	IdShape		shape;

	if (!mint_enabled)
		return cuid;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		SPI_connect();
		if (environment_id == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("neither an environment nor a parent is given")));
		PushActiveSnapshot(GetLatestSnapshot());
		shape = read_root_shape(environment_id);
		PopActiveSnapshot();
		SPI_finish();
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		ErrorData  *error;
		int			category;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;

		category = ERRCODE_TO_CATEGORY(error->sqlerrcode);
		if (category == ERRCODE_TRANSACTION_ROLLBACK ||
			category == ERRCODE_OPERATOR_INTERVENTION)
			ReThrowError(error);
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("could not determine the mint kind of environment %s, a cuid is minted",
						environment_id == NULL ? "NULL" :
						psprintf("\"%s\"", text_to_cstring(environment_id))),
				 errdetail_internal("%s", error->message),
				 error->hint ? errhint("%s", error->hint) : 0));
		FreeErrorData(error);
		shape = cuid;
	}
	PG_END_TRY();
	return shape;
}

/*
 * The shape of the id of a child, which belongs in the store of its parent.  A
 * child of a runOpsId is a runOpsId, because users may rely on its alphabet.  A
 * setting decides the kind for a child of a ksuid.  Raises RO001 if the parent
 * is unclassifiable.
 */
static IdShape
inherited_shape(Datum parent_id)
{
	IdShape		shape = id_shape_datum(parent_id);

	if (shape.kind == ID_KIND_NONE)
		id_report_unclassifiable(DatumGetTextPP(parent_id));
	if (shape.kind == ID_KIND_KSUID)
		shape.kind = new_mint_kind;
	return shape;
}

/*
 * resolve_mint_kind(environment_id text) returns run_ops.id_kind
 *
 * Never NULL; cuid with a WARNING for a NULL or unknown environment.
 */
Datum
run_ops_resolve_mint_kind(PG_FUNCTION_ARGS)
{
	return id_kind_datum(fcinfo,
						 root_shape(PG_ARGISNULL(0) ? NULL :
									PG_GETARG_TEXT_PP(0)).kind);
}

/*
 * resolve_inherited_mint_kind(parent_id text) returns run_ops.id_kind
 */
Datum
run_ops_resolve_inherited_mint_kind(PG_FUNCTION_ARGS)
{
	return id_kind_datum(fcinfo, inherited_shape(PG_GETARG_DATUM(0)).kind);
}

/*
 * The region character of a runOpsId.  The argument is that character or the
 * name of a region; '0' means an unknown region.
 */
static char
region_char(text *region)
{
	static const struct
	{
		const char *name;
		char		region;
	}			known[] = {
		{"us-east-1", 'e'}, {"us-west-2", 'w'}, {"eu-central-1", 'c'}
	};
	const char *name = VARDATA_ANY(region);
	int			len = VARSIZE_ANY_EXHDR(region);

	if (len == 1 && id_is_shard_char(*name))
		return *name;
	for (int i = 0; i < lengthof(known); i++)
	{
		if (len == strlen(known[i].name) &&
			memcmp(name, known[i].name, len) == 0)
			return known[i].region;
	}
	return '0';
}

/* Returns run_ops.minted_id: a new id, without and with the prefix. */
static Datum
mint_id(FunctionCallInfo fcinfo, const char *prefix, char region)
{
	IdShape		shape = {ID_KIND_NONE, '\0'};
	TupleDesc	tupdesc = fcinfo->flinfo->fn_extra;
	int			prefix_len = strlen(prefix);
	char		friendly_id[16 + KSUID_LENGTH];
	char	   *id = friendly_id + prefix_len;
	int			len;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	if (tupdesc == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);

		if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
			elog(ERROR, "return type must be a row type");
		tupdesc = BlessTupleDesc(CreateTupleDescCopy(tupdesc));
		fcinfo->flinfo->fn_extra = tupdesc;
		MemoryContextSwitchTo(old);
	}

	if (!PG_ARGISNULL(1))
		shape = inherited_shape(PG_GETARG_DATUM(1));
	else
		shape = root_shape(PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0));

	memcpy(friendly_id, prefix, prefix_len);
	if (shape.kind == ID_KIND_CUID)
	{
		mint_cuid(id);
		len = CUID_LENGTH;
	}
	else if (shape.kind == ID_KIND_KSUID)
	{
		mint_ksuid(id);
		len = KSUID_LENGTH;
	}
	else
	{
		if (shape.shard != '\0')
			mint_run_ops_id_v2(id, shape.shard);
		else
			mint_run_ops_id(id, region);
		len = RUN_OPS_ID_LENGTH;
	}
	values[0] = PointerGetDatum(cstring_to_text_with_len(id, len));
	values[1] = PointerGetDatum(cstring_to_text_with_len(friendly_id,
														 prefix_len + len));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(tupdesc, values, nulls)));
}

/*
 * mint_run_id(environment_id text, parent_id text, region text)
 *		returns run_ops.minted_id
 *
 * Each argument may be NULL.  If there is a parent (a run, or the batch that
 * contains the run), the environment is not used.
 */
Datum
run_ops_mint_run_id(PG_FUNCTION_ARGS)
{
	return mint_id(fcinfo, "run_",
				   PG_ARGISNULL(2) ? '0' : region_char(PG_GETARG_TEXT_PP(2)));
}

/*
 * mint_batch_id(environment_id text, parent_id text)
 *		returns run_ops.minted_id
 *
 * The same as mint_run_id(), except that a batch has no region.
 */
Datum
run_ops_mint_batch_id(PG_FUNCTION_ARGS)
{
	return mint_id(fcinfo, "batch_", '0');
}

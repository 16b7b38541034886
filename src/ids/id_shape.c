/*
 * id_shape.c
 *		Classification: the shape of an id says which store holds its row.
 *
 * The one idea: residency is a pure function of the bytes of the id.  The rule
 * reads no catalog, allocates nothing and depends on no setting.  So its
 * result can be used in an index, a CHECK constraint, a partition key or a
 * plan.
 *
 * The rule: drop everything up to and including the first '_', then count the
 * characters that remain.  25 is a cuid and LEGACY.  27 is a ksuid and NEW.  26
 * is a runOpsId and NEW, but only if it is well formed: 24 characters of
 * lowercase base32hex, then a region [a-z0-9] and '1', or a shard [a-z0-9] and
 * '2'.  Anything else is unclassifiable.  That includes versions that are not
 * allocated yet: so a later release can allocate them without moving rows.
 * Only the form of 26 characters is checked for its alphabet.
 *
 * Characters are those of the server encoding.  An application that counts
 * UTF-16 units gets the same result, except for ids with characters outside
 * the Basic Multilingual Plane, which no real id has.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "catalog/namespace.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_enum.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "ground/compat.h"
#include "ground/errors.h"
#include "ids/id_shape.h"

/* A body of more bytes is unclassifiable. */
#define MAX_BODY_BYTES (KSUID_LENGTH * MAX_MULTIBYTE_CHAR_LEN)

/* Bytes of a long compressed or out-of-line value that are read first. */
#define HEAD_BYTES 256

/* Bytes of an id that an error message shows. */
#define SHOWN_BYTES 80

PG_FUNCTION_INFO_V1(run_ops_owner_engine);
PG_FUNCTION_INFO_V1(run_ops_try_owner_engine);
PG_FUNCTION_INFO_V1(run_ops_is_classifiable);
PG_FUNCTION_INFO_V1(run_ops_classify_kind);
PG_FUNCTION_INFO_V1(run_ops_resolve_shard);
PG_FUNCTION_INFO_V1(run_ops_resides);
PG_FUNCTION_INFO_V1(run_ops_residency_condition);

const char *const id_kind_names[] = {NULL, "cuid", "ksuid", "runOpsId"};

static inline int
body_offset(const char *id, int len)
{
	const char *sep = memchr(id, '_', len);

	/* no server encoding has ASCII bytes in multibyte characters */
	return sep ? (int) (sep - id) + 1 : 0;
}

int
id_body_offset(const char *id, int len)
{
	return body_offset(id, len);
}

/*
 * Eight bytes are tested at a time, as a word.  The byte order of the word
 * does not matter.
 */
#define EACH_BYTE(b) (UINT64CONST(0x0101010101010101) * (b))

static inline uint64
load_word(const char *s)
{
	uint64		word;

	memcpy(&word, s, sizeof(word));
	return word;
}

/* Is every byte ASCII?  Needs at least 8 bytes. */
static inline bool
all_ascii(const char *s, int len)
{
	uint64		seen = load_word(s + len - 8);

	for (int i = 0; i + 8 <= len; i += 8)
		seen |= load_word(s + i);
	return (seen & EACH_BYTE(0x80)) == 0;
}

/*
 * Sets the high bit of each byte that is c or more.  All bytes and c must be
 * ASCII.
 */
static inline uint64
at_least(uint64 word, unsigned char c)
{
	return word + EACH_BYTE(0x80 - c);
}

/* Is every one of 8 ASCII bytes in [0-9a-v]? */
static inline bool
all_base32hex(uint64 word)
{
	uint64		digit = at_least(word, '0') & ~at_least(word, '9' + 1);
	uint64		letter = at_least(word, 'a') & ~at_least(word, 'v' + 1);

	return ((digit | letter) & EACH_BYTE(0x80)) == EACH_BYTE(0x80);
}

/*
 * Unlike pg_mbstrlen_with_len(), this never raises an error, whatever the
 * bytes are: the classification must have a result for every value.
 */
static int
count_characters(const char *s, int len)
{
	int			encoding = GetDatabaseEncoding();
	const char *end = s + len;
	int			n = 0;

	for (; s < end; s += pg_encoding_mblen(encoding, s))
		n++;
	return n;
}

/*
 * The shape of a body of 26 ASCII bytes.  A runOpsId has 24 characters of
 * [0-9a-v], a region or shard, and a version.
 */
static inline IdShape
run_ops_id_shape(const char *body)
{
	IdShape		shape = {ID_KIND_NONE, '\0'};
	char		place = body[RUN_OPS_CORE_LENGTH];
	char		version = body[RUN_OPS_CORE_LENGTH + 1];

	if ((version != '1' && version != '2') || !id_is_shard_char(place))
		return shape;
	for (int i = 0; i < RUN_OPS_CORE_LENGTH; i += 8)
	{
		if (!all_base32hex(load_word(body + i)))
			return shape;
	}
	shape.kind = ID_KIND_RUN_OPS;
	if (version == '2')
		shape.shard = place;
	return shape;
}

/* Inlined into each function, because they are called for every row. */
static pg_attribute_always_inline IdShape
classify(const char *id, int len)
{
	IdShape		shape = {ID_KIND_NONE, '\0'};
	int			start = body_offset(id, len);
	const char *body = id + start;
	int			nbytes = len - start;
	int			nchars = nbytes;
	bool		ascii;

	/* a body has at most as many characters as bytes */
	if (nbytes < CUID_LENGTH || nbytes > MAX_BODY_BYTES)
		return shape;
	ascii = all_ascii(body, nbytes);
	if (!ascii)
		nchars = count_characters(body, nbytes);

	if (nchars == CUID_LENGTH)
		shape.kind = ID_KIND_CUID;
	else if (nchars == KSUID_LENGTH)
		shape.kind = ID_KIND_KSUID;
	else if (nchars == RUN_OPS_ID_LENGTH && ascii)
		shape = run_ops_id_shape(body);
	return shape;
}

IdShape
id_shape(const char *id, int len)
{
	return classify(id, len);
}

/*
 * The shape of a compressed or out-of-line value.  If a long value has its
 * first '_' in its head, its body is too long, so only the head is read.  A
 * long value without '_' in its head is read completely.
 */
static pg_noinline IdShape
toasted_id_shape(Datum id)
{
	IdShape		shape = {ID_KIND_NONE, '\0'};
	Size		len = toast_raw_datum_size(id) - VARHDRSZ;
	text	   *value;

	if (len > HEAD_BYTES + MAX_BODY_BYTES)
	{
		bool		found;

		value = (text *) PG_DETOAST_DATUM_SLICE(id, 0, HEAD_BYTES);
		found = memchr(VARDATA_ANY(value), '_',
					   VARSIZE_ANY_EXHDR(value)) != NULL;
		pfree(value);
		if (found)
			return shape;
	}
	value = DatumGetTextPP(id);
	shape = id_shape(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
	if ((Pointer) value != DatumGetPointer(id))
		pfree(value);
	return shape;
}

static pg_attribute_always_inline IdShape
classify_datum(Datum id)
{
	struct varlena *value = (struct varlena *) DatumGetPointer(id);

	if (unlikely(VARATT_IS_COMPRESSED(value) || VARATT_IS_EXTERNAL(value)))
		return toasted_id_shape(id);
	return classify(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
}

IdShape
id_shape_datum(Datum id)
{
	return classify_datum(id);
}

/* Is the id NEW?  An unclassifiable id is not: its row is in "legacy". */
static inline bool
id_is_new(IdShape shape)
{
	return shape.kind == ID_KIND_KSUID || shape.kind == ID_KIND_RUN_OPS;
}

bool
id_resides(IdShape shape, const char *store, int store_len)
{
	if (shape.shard != '\0')
		return store_len == 1 && store[0] == shape.shard;
	if (id_is_new(shape))
		return store_len == strlen(STORE_NEW) &&
			memcmp(store, STORE_NEW, store_len) == 0;
	return store_len == strlen(STORE_LEGACY) &&
		memcmp(store, STORE_LEGACY, store_len) == 0;
}

/*
 * The OID of label n of the enum that the function returns.  The labels are
 * looked up once per query.
 */
static Datum
enum_label(FunctionCallInfo fcinfo, int n, const char *const *labels,
		   int nlabels)
{
	Oid		   *oids = fcinfo->flinfo->fn_extra;

	if (oids == NULL)
	{
		Oid			type = get_func_rettype(fcinfo->flinfo->fn_oid);

		oids = MemoryContextAlloc(fcinfo->flinfo->fn_mcxt,
								  nlabels * sizeof(Oid));
		for (int i = 0; i < nlabels; i++)
		{
			oids[i] = GetSysCacheOid2(ENUMTYPOIDNAME, Anum_pg_enum_oid,
									  ObjectIdGetDatum(type),
									  CStringGetDatum(labels[i]));
			if (!OidIsValid(oids[i]))
				elog(ERROR, "enum type %u has no label \"%s\"",
					 type, labels[i]);
		}
		fcinfo->flinfo->fn_extra = oids;
	}
	PG_RETURN_OID(oids[n]);
}

static Datum
residency(FunctionCallInfo fcinfo, IdKind kind)
{
	static const char *const labels[] = {"LEGACY", "NEW"};

	return enum_label(fcinfo, kind == ID_KIND_CUID ? 0 : 1, labels,
					  lengthof(labels));
}

Datum
id_kind_datum(FunctionCallInfo fcinfo, IdKind kind)
{
	return enum_label(fcinfo, kind - ID_KIND_CUID,
					  &id_kind_names[ID_KIND_CUID],
					  ID_KIND_RUN_OPS - ID_KIND_CUID + 1);
}

pg_noinline void
id_report_unclassifiable(text *id)
{
	const char *value = VARDATA_ANY(id);
	int			len = VARSIZE_ANY_EXHDR(id);
	int			start = id_body_offset(value, len);
	int			shown = pg_mbcliplen(value, len, SHOWN_BYTES);

	ereport(ERROR,
			(errcode(ERRCODE_RUN_OPS_UNCLASSIFIABLE_ID),
			 errmsg("cannot tell the residency of id \"%.*s%s\"",
					shown, value, shown < len ? "..." : ""),
			 errdetail("The id has %d characters, %d after the prefix.",
					   count_characters(value, len),
					   count_characters(value + start, len - start)),
			 errhint("After the first \"_\", a cuid has %d characters and a "
					 "ksuid has %d. A runOpsId has %d: %d of 0-9 and a-v, a "
					 "region or shard of 0-9 and a-z, and the version 1 or "
					 "2.",
					 CUID_LENGTH, KSUID_LENGTH, RUN_OPS_ID_LENGTH,
					 RUN_OPS_CORE_LENGTH)));
}

/*
 * owner_engine(id text) returns run_ops.residency
 *
 * Raises RO001 if the id is unclassifiable.
 */
Datum
run_ops_owner_engine(PG_FUNCTION_ARGS)
{
	IdShape		shape = classify_datum(PG_GETARG_DATUM(0));

	if (shape.kind == ID_KIND_NONE)
		id_report_unclassifiable(PG_GETARG_TEXT_PP(0));
	return residency(fcinfo, shape.kind);
}

/*
 * try_owner_engine(id text) returns run_ops.residency
 *
 * NULL if the id is unclassifiable.  Never raises an error.
 */
Datum
run_ops_try_owner_engine(PG_FUNCTION_ARGS)
{
	IdShape		shape = classify_datum(PG_GETARG_DATUM(0));

	if (shape.kind == ID_KIND_NONE)
		PG_RETURN_NULL();
	return residency(fcinfo, shape.kind);
}

/* is_classifiable(id text) returns boolean.  Never raises an error. */
Datum
run_ops_is_classifiable(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(classify_datum(PG_GETARG_DATUM(0)).kind != ID_KIND_NONE);
}

/*
 * classify_kind(id text) returns run_ops.id_kind
 *
 * NULL if the id is unclassifiable.  Never raises an error.
 */
Datum
run_ops_classify_kind(PG_FUNCTION_ARGS)
{
	IdShape		shape = classify_datum(PG_GETARG_DATUM(0));

	if (shape.kind == ID_KIND_NONE)
		PG_RETURN_NULL();
	return id_kind_datum(fcinfo, shape.kind);
}

/*
 * resolve_shard(id text) returns text
 *
 * The shard character of a version-2 id, "new" for other NEW ids, "legacy" for
 * all others, also for an unclassifiable id.  Never raises an error.
 *
 * Each result is allocated once per query; later calls return a pointer to it.
 */
Datum
run_ops_resolve_shard(PG_FUNCTION_ARGS)
{
	IdShape		shape = classify_datum(PG_GETARG_DATUM(0));
	text	  **answers = fcinfo->flinfo->fn_extra;
	MemoryContext mcxt = fcinfo->flinfo->fn_mcxt;
	int			slot = shape.shard;

	/* one slot for each ASCII character; no shard has the code 0 or 1 */
	if (answers == NULL)
		fcinfo->flinfo->fn_extra = answers =
			MemoryContextAllocZero(mcxt, 128 * sizeof(text *));
	if (slot == 0)
		slot = id_is_new(shape) ? 1 : 0;

	if (answers[slot] == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(mcxt);

		if (shape.shard != '\0')
			answers[slot] = cstring_to_text_with_len(&shape.shard, 1);
		else
			answers[slot] = cstring_to_text(slot == 1 ? STORE_NEW :
											STORE_LEGACY);
		MemoryContextSwitchTo(old);
	}
	PG_RETURN_TEXT_P(answers[slot]);
}

/*
 * resides(id text, store text) returns boolean
 * resides(id text, store text, same_shape text) returns boolean
 *
 * Whether the row of this id belongs in that store.  Not strict: the row of a
 * NULL or unclassifiable id belongs in "legacy", where all rows were before
 * the split.  False for a NULL store.  The third argument is for the planner only.
 */
Datum
run_ops_resides(PG_FUNCTION_ARGS)
{
	IdShape		shape = {ID_KIND_NONE, '\0'};
	text	   *store;

	if (PG_ARGISNULL(1))
		PG_RETURN_BOOL(false);
	store = PG_GETARG_TEXT_PP(1);
	if (!PG_ARGISNULL(0))
		shape = classify_datum(PG_GETARG_DATUM(0));
	PG_RETURN_BOOL(id_resides(shape, VARDATA_ANY(store),
							  VARSIZE_ANY_EXHDR(store)));
}

/*
 * The bodies of the runOpsIds of a store, as a regular expression; NULL for
 * "legacy", and for a text that is not the name of a store.
 */
static char *
run_ops_id_pattern(const char *store)
{
	if (strcmp(store, STORE_NEW) == 0)
		return psprintf("^[0-9a-v]{%d}[a-z0-9]1$", RUN_OPS_CORE_LENGTH);
	if (strlen(store) == 1 && id_is_shard_char(store[0]))
		return psprintf("^[0-9a-v]{%d}%c2$", RUN_OPS_CORE_LENGTH, store[0]);
	return NULL;
}

/*
 * residency_condition(id text, store text) returns text
 *
 * Strict.  The condition resides(id, store) as SQL that a store without this
 * extension can evaluate.  "id" is an SQL expression of type text.  NULL for
 * "legacy", and for a text that is not the name of a store.
 */
Datum
run_ops_residency_condition(PG_FUNCTION_ARGS)
{
	char	   *id = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *store = text_to_cstring(PG_GETARG_TEXT_PP(1));
	char	   *pattern = run_ops_id_pattern(store);
	char	   *body = psprintf("substr(%s, strpos(%s, '_') + 1)", id, id);
	char	   *condition;

	if (pattern == NULL)
		PG_RETURN_NULL();
	condition = psprintf("%s ~ '%s'", body, pattern);
	if (strcmp(store, STORE_NEW) == 0)
		condition = psprintf("char_length(%s) - strpos(%s, '_') = %d OR %s", id, id, KSUID_LENGTH, condition);
	PG_RETURN_TEXT_P(cstring_to_text(condition));
}

static Expr *
make_operation(const char *name, Oid result, Expr *left, Expr *right, Oid collation)
{
	Oid			type = exprType((Node *) left);
	Oid			opno = OpernameGetOprid(list_make2(makeString("pg_catalog"), makeString(pstrdup(name))),
										type, type);

	return make_opclause(opno, result, false, left, right, InvalidOid, collation);
}

static Expr *
make_text_const(const char *value)
{
	return (Expr *) makeConst(TEXTOID, -1, DEFAULT_COLLATION_OID, -1,
							  CStringGetTextDatum(value), false, false);
}

static Expr *
make_int_const(int value)
{
	return (Expr *) makeConst(INT4OID, -1, InvalidOid, sizeof(int32), Int32GetDatum(value), false, true);
}

/* The same condition as residency_condition(), as an expression. */
Node *
id_residency_condition(Node *id, const char *store)
{
	char	   *pattern = run_ops_id_pattern(store);
	Oid			collation = exprCollation(id);
	Expr	   *start;
	Expr	   *body;
	Expr	   *length;
	Expr	   *condition;

	if (pattern == NULL || exprType(id) != TEXTOID || !OidIsValid(collation) ||
		!get_collation_isdeterministic(collation))
		return NULL;
	start = (Expr *) makeFuncExpr(F_STRPOS, INT4OID, list_make2(id, make_text_const("_")),
								  InvalidOid, collation, COERCE_EXPLICIT_CALL);
	body = (Expr *) makeFuncExpr(F_SUBSTR_TEXT_INT4, TEXTOID,
								 list_make2(id, make_operation("+", INT4OID, start, make_int_const(1), InvalidOid)),
								 collation, collation, COERCE_EXPLICIT_CALL);
	condition = make_operation("~", BOOLOID, body, make_text_const(pattern), collation);
	if (strcmp(store, STORE_NEW) == 0)
	{
		length = (Expr *) makeFuncExpr(F_CHAR_LENGTH_TEXT, INT4OID, list_make1(id), InvalidOid,
									   collation, COERCE_EXPLICIT_CALL);
		length = make_operation("-", INT4OID, length, start, InvalidOid);
		condition = make_orclause(list_make2(make_operation("=", BOOLOID, length, make_int_const(KSUID_LENGTH),
															InvalidOid),
											 condition));
	}
	return copyObject((Node *) condition);
}

/*
 * id_shape.c
 *		Classification: the shape of an id says which store holds its row.
 *
 * The one idea: residency is a pure function of bytes.  Nothing here reads a
 * catalog, allocates, or depends on a setting, so every answer may sit in an
 * index, a CHECK constraint or a plan.
 *
 * The rule (DESIGN, "Ids"): drop everything up to and including the first
 * '_', then look at the number of characters that remain.  25 is a cuid and
 * LEGACY; 27 is a ksuid and NEW; 26 is a runOpsId and NEW, but only when well
 * formed: 24 characters of lowercase base32hex, then a region [a-z0-9] and
 * '1', or a shard [a-z0-9] and '2'.  Anything else is unclassifiable.  Only
 * the 26-character form is checked for its alphabet.
 */
#include "postgres.h"

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "id_shape.h"
#include "run_ops_split.h"

PG_FUNCTION_INFO_V1(run_ops_resides);

int
id_body_offset(const char *id, int len)
{
	const char *sep = memchr(id, '_', len);

	/* every server encoding keeps ASCII bytes out of multibyte characters */
	return sep ? (int) (sep - id) + 1 : 0;
}

static inline bool
is_shard_char(unsigned char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

/* 24 characters of [0-9a-v], a region or shard, a version: 26 bytes. */
static IdShape
run_ops_id_shape(const char *body)
{
	IdShape		shape = {ID_KIND_NONE, '\0'};

	for (int i = 0; i < 24; i++)
	{
		unsigned char c = body[i];

		if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'v')))
			return shape;
	}
	if (!is_shard_char(body[24]))
		return shape;
	if (body[25] == '1')
		shape.kind = ID_KIND_RUN_OPS;
	else if (body[25] == '2')
	{
		shape.kind = ID_KIND_RUN_OPS;
		shape.shard = body[24];
	}
	return shape;
}

IdShape
id_shape(const char *id, int len)
{
	IdShape		shape = {ID_KIND_NONE, '\0'};
	int			start = id_body_offset(id, len);
	const char *body = id + start;
	int			nbytes = len - start;
	int			nchars = nbytes;

	/* at least one byte a character: what is too short cannot become longer */
	if (nbytes < 25)
		return shape;
	if (pg_database_encoding_max_length() > 1)
	{
		if (nbytes > 27 * pg_database_encoding_max_length())
			return shape;
		nchars = pg_mbstrlen_with_len(body, nbytes);
	}

	if (nchars == 25)
		shape.kind = ID_KIND_CUID;
	else if (nchars == 27)
		shape.kind = ID_KIND_KSUID;
	else if (nchars == 26 && nbytes == 26)
		return run_ops_id_shape(body);
	return shape;
}

bool
id_resides(IdShape shape, const char *store, int store_len)
{
	if (shape.shard != '\0')
		return store_len == 1 && store[0] == shape.shard;
	if (shape.kind == ID_KIND_KSUID || shape.kind == ID_KIND_RUN_OPS)
		return store_len == strlen(STORE_NEW) &&
			memcmp(store, STORE_NEW, store_len) == 0;
	return store_len == strlen(STORE_LEGACY) &&
		memcmp(store, STORE_LEGACY, store_len) == 0;
}

/*
 * resides(id text, store text) returns boolean
 *
 * Whether rows of this id belong into that store.  Not strict: a NULL or
 * unclassifiable id belongs to "legacy", where everything was before the
 * split.  NULL store: false.
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
	{
		text	   *id = PG_GETARG_TEXT_PP(0);

		shape = id_shape(VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id));
	}
	PG_RETURN_BOOL(id_resides(shape, VARDATA_ANY(store),
							  VARSIZE_ANY_EXHDR(store)));
}

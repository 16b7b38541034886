/*
 * id_mint.c
 *		Generates ids, and reads the time and the body of an id.
 *
 * The one idea: every id starts with the time and ends with strong random
 * bytes.  So ids sort by time, and backends generate different ids without
 * coordination.
 *
 *		cuid		'c', 8 base36 digits of unix milliseconds, 4 of a
 *					counter, 12 random ones
 *		ksuid		27 base62 digits of 20 bytes: seconds since 1400000000
 *					in 4 bytes, 16 random ones; all big-endian
 *		runOpsId	24 base32hex characters of 15 bytes: unix milliseconds
 *					in 6 bytes, 9 random ones; then a region and '1', or a
 *					shard and '2'
 *
 * Ids sort by time under COLLATE "C".  A runOpsId is all lowercase, so it also
 * does under the usual language collations.  Within one second (ksuid) or
 * millisecond (runOpsId) the order is random; within one millisecond, cuids
 * sort by their counter.
 */
#include "postgres.h"

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "ground/compat.h"
#include "ids/id_mint.h"
#include "ids/id_shape.h"

#define KSUID_EPOCH INT64CONST(1400000000)
#define KSUID_LIMBS 5			/* of 32 bits, big-endian */
#define POW_62_5 916132832		/* the largest power of 62 in 32 bits */
#define POW_36_4 1679616

#define CUID_TIME_LENGTH 8
#define CUID_COUNTER_LENGTH 4
#define CUID_RANDOM_LENGTH 12

/* 2012-01-01; no cuid is older, because the format was published in 2012 */
#define CUID_OLDEST_MS INT64CONST(1325376000000)

/* the epoch of PostgreSQL in unix milliseconds */
#define PG_EPOCH_MS \
	((int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY * 1000)

/* base36 in lowercase; its first 32 characters are base32hex */
static const char base36[] = "0123456789abcdefghijklmnopqrstuvwxyz";
static const char base62[] =
"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

PG_FUNCTION_INFO_V1(run_ops_generate_cuid);
PG_FUNCTION_INFO_V1(run_ops_generate_ksuid);
PG_FUNCTION_INFO_V1(run_ops_generate_run_ops_id);
PG_FUNCTION_INFO_V1(run_ops_generate_run_ops_id_v2);
PG_FUNCTION_INFO_V1(run_ops_id_timestamp);
PG_FUNCTION_INFO_V1(run_ops_friendly_id);
PG_FUNCTION_INFO_V1(run_ops_id_body);

/*
 * Writes n strong random bytes.  They are fetched many at a time, because one
 * call of the system's generator costs as much as a whole id.
 *
 * Each process has its own pool.  Only backends mint, and a backend never
 * forks.  Backends are forked from the postmaster, which runs no SQL, so they
 * inherit an empty pool, also if the library is preloaded.  Bytes are wiped
 * when they are handed out.
 */
static void
random_bytes(void *out, int n)
{
	static uint8 pool[2048];
	static int	left = 0;

	Assert(IsUnderPostmaster || !IsPostmasterEnvironment);
	if (left < n)
	{
		left = 0;
		if (!pg_strong_random(pool, sizeof(pool)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random bytes for an id")));
		left = sizeof(pool);
	}
	left -= n;
	memcpy(out, pool + left, n);
	memset(pool + left, 0, n);
}

static int64
unix_ms(void)
{
	return GetCurrentTimestamp() / 1000 + PG_EPOCH_MS;
}

/* Writes the lowest n base36 digits of the value. */
static void
put_base36(char *out, uint64 value, int n)
{
	while (n-- > 0)
	{
		out[n] = base36[value % 36];
		value /= 36;
	}
}

/*
 * Eight digits of time are enough until May 2059.  As the format specifies,
 * the counter starts at a random value and wraps around.
 */
void
mint_cuid(char *out)
{
	static bool started = false;
	static uint32 counter;
	uint64		random;

	if (!started)
	{
		random_bytes(&counter, sizeof(counter));
		counter %= POW_36_4;
		started = true;
	}
	random_bytes(&random, sizeof(random));
	*out++ = 'c';
	put_base36(out, unix_ms(), CUID_TIME_LENGTH);
	out += CUID_TIME_LENGTH;
	put_base36(out, counter, CUID_COUNTER_LENGTH);
	out += CUID_COUNTER_LENGTH;
	put_base36(out, random, CUID_RANDOM_LENGTH);
	counter = (counter + 1) % POW_36_4;
}

void
mint_ksuid(char *out)
{
	uint32		limbs[KSUID_LIMBS];
	int			pos = KSUID_LENGTH;

	/* random bits have no byte order */
	random_bytes(limbs + 1, sizeof(limbs) - sizeof(limbs[0]));
	limbs[0] = (uint32) (unix_ms() / 1000 - KSUID_EPOCH);

	/* long division, five digits at a time from the right */
	while (pos > 0)
	{
		uint64		rest = 0;

		for (int i = 0; i < KSUID_LIMBS; i++)
		{
			rest = rest << 32 | limbs[i];
			limbs[i] = (uint32) (rest / POW_62_5);
			rest %= POW_62_5;
		}
		for (int i = 0; i < 5 && pos > 0; i++)
		{
			out[--pos] = base62[rest % 62];
			rest /= 62;
		}
	}
}

static void
mint_versioned(char *out, char place, char version)
{
	uint8		bytes[15];
	uint64		time = pg_hton64((uint64) unix_ms() << 16);

	random_bytes(bytes + 6, sizeof(bytes) - 6);
	memcpy(bytes, &time, 6);
	for (const uint8 *in = bytes; in < bytes + sizeof(bytes); in += 5)
	{
		uint64		bits = (uint64) in[0] << 32 | (uint64) in[1] << 24 |
		(uint64) in[2] << 16 | (uint64) in[3] << 8 | in[4];

		for (int shift = 35; shift >= 0; shift -= 5)
			*out++ = base36[bits >> shift & 31];
	}
	*out++ = place;
	*out = version;
}

void
mint_run_ops_id(char *out, char region)
{
	mint_versioned(out, region, '1');
}

void
mint_run_ops_id_v2(char *out, char shard)
{
	mint_versioned(out, shard, '2');
}

/* generate_cuid() returns text */
Datum
run_ops_generate_cuid(PG_FUNCTION_ARGS)
{
	char		id[CUID_LENGTH];

	mint_cuid(id);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(id, CUID_LENGTH));
}

/* generate_ksuid() returns text */
Datum
run_ops_generate_ksuid(PG_FUNCTION_ARGS)
{
	char		id[KSUID_LENGTH];

	mint_ksuid(id);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(id, KSUID_LENGTH));
}

/*
 * Returns the one character of a region or shard.  "what" names it in the
 * error.
 */
static char
place_character(text *place, const char *what)
{
	const char *value = VARDATA_ANY(place);
	int			len = VARSIZE_ANY_EXHDR(place);

	if (len != 1 || !id_is_shard_char(*value))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid %s \"%s\"", what, text_to_cstring(place)),
				 errhint("A %s is one character of a-z or 0-9.", what)));
	return *value;
}

/*
 * generate_run_ops_id(region text) returns text
 *
 * A NULL region is unknown, which is written as "0".  Raises an error unless
 * the region is one character of [a-z0-9].
 */
Datum
run_ops_generate_run_ops_id(PG_FUNCTION_ARGS)
{
	char		id[RUN_OPS_ID_LENGTH];

	mint_run_ops_id(id, PG_ARGISNULL(0) ? '0' :
					place_character(PG_GETARG_TEXT_PP(0), "region"));
	PG_RETURN_TEXT_P(cstring_to_text_with_len(id, RUN_OPS_ID_LENGTH));
}

/*
 * generate_run_ops_id_v2(shard text) returns text
 *
 * Raises an error unless the shard is one character of [a-z0-9], also for
 * NULL: without a shard, no store would hold the row of the id.
 */
Datum
run_ops_generate_run_ops_id_v2(PG_FUNCTION_ARGS)
{
	char		id[RUN_OPS_ID_LENGTH];

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("shard must not be null"),
				 errhint("A shard is one character of a-z or 0-9.")));
	mint_run_ops_id_v2(id, place_character(PG_GETARG_TEXT_PP(0), "shard"));
	PG_RETURN_TEXT_P(cstring_to_text_with_len(id, RUN_OPS_ID_LENGTH));
}

/* The value of a digit in the alphabet, or -1 if it is none. */
static int
digit_value(const char *alphabet, int base, char c)
{
	const char *found = memchr(alphabet, c, base);

	return found ? (int) (found - alphabet) : -1;
}

/* Unix milliseconds, or -1 if the body is not a cuid with a plausible time. */
static int64
cuid_ms(const char *body)
{
	int64		ms = 0;

	if (body[0] != 'c')
		return -1;
	for (int i = 1; i < CUID_LENGTH; i++)
	{
		int			digit = digit_value(base36, 36, body[i]);

		if (digit < 0)
			return -1;
		if (i <= CUID_TIME_LENGTH)
			ms = ms * 36 + digit;
	}
	return ms >= CUID_OLDEST_MS ? ms : -1;
}

/* Unix milliseconds, or -1 if the body is not 20 bytes in base62. */
static int64
ksuid_ms(const char *body)
{
	uint32		limbs[KSUID_LIMBS] = {0};

	for (int i = 0; i < KSUID_LENGTH; i++)
	{
		int			digit = digit_value(base62, 62, body[i]);
		uint64		carry = digit;

		if (digit < 0)
			return -1;
		for (int limb = KSUID_LIMBS - 1; limb >= 0; limb--)
		{
			carry += (uint64) limbs[limb] * 62;
			limbs[limb] = (uint32) carry;
			carry >>= 32;
		}
		if (carry != 0)
			return -1;
	}
	return (limbs[0] + KSUID_EPOCH) * 1000;
}

/* Unix milliseconds of a well-formed runOpsId: the first 48 of its bits. */
static int64
run_ops_id_ms(const char *body)
{
	uint64		bits = 0;

	for (int i = 0; i < 10; i++)
		bits = bits << 5 | (uint64) digit_value(base36, 32, body[i]);
	return bits >> 2;
}

/*
 * id_timestamp(id text) returns timestamptz
 *
 * NULL if no time can be read: the id is unclassifiable, has characters that
 * its kind does not have, is a ksuid of more than 20 bytes, or is a cuid with
 * a time before 2012.  Never raises an error.
 */
Datum
run_ops_id_timestamp(PG_FUNCTION_ARGS)
{
	IdShape		shape = id_shape_datum(PG_GETARG_DATUM(0));
	int64		ms = -1;

	/*
	 * A body has at least as many bytes as characters.  If it has more, one of
	 * the bytes that are read is not ASCII and is in no alphabet.
	 */
	if (shape.kind != ID_KIND_NONE)
	{
		text	   *id = PG_GETARG_TEXT_PP(0);
		const char *body = VARDATA_ANY(id);

		body += id_body_offset(body, VARSIZE_ANY_EXHDR(id));
		if (shape.kind == ID_KIND_CUID)
			ms = cuid_ms(body);
		else if (shape.kind == ID_KIND_KSUID)
			ms = ksuid_ms(body);
		else
			ms = run_ops_id_ms(body);
	}
	if (ms < 0)
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ((ms - PG_EPOCH_MS) * 1000);
}

/*
 * friendly_id(prefix text, body text) returns text
 *
 * Returns prefix_body.  A body that has this prefix already is returned
 * unchanged.  Raises an error if the prefix or the body is empty, or if the
 * prefix contains "_": then id_body() would return another body.
 */
Datum
run_ops_friendly_id(PG_FUNCTION_ARGS)
{
	text	   *prefix = PG_GETARG_TEXT_PP(0);
	text	   *body = PG_GETARG_TEXT_PP(1);
	int			prefix_len = VARSIZE_ANY_EXHDR(prefix);
	int			body_len = VARSIZE_ANY_EXHDR(body);
	text	   *id;
	char	   *p;

	if (prefix_len == 0 || memchr(VARDATA_ANY(prefix), '_', prefix_len))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid id prefix \"%s\"", text_to_cstring(prefix)),
				 errhint("A prefix is a word without \"_\", "
						 "such as \"run\" or \"batch\".")));
	if (body_len == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("id body must not be empty")));

	if (body_len > prefix_len && VARDATA_ANY(body)[prefix_len] == '_' &&
		memcmp(VARDATA_ANY(body), VARDATA_ANY(prefix), prefix_len) == 0)
		PG_RETURN_TEXT_P(body);

	id = palloc(VARHDRSZ + prefix_len + 1 + body_len);
	SET_VARSIZE(id, VARHDRSZ + prefix_len + 1 + body_len);
	p = VARDATA(id);
	memcpy(p, VARDATA_ANY(prefix), prefix_len);
	p[prefix_len] = '_';
	memcpy(p + prefix_len + 1, VARDATA_ANY(body), body_len);
	PG_RETURN_TEXT_P(id);
}

/*
 * id_body(id text) returns text
 *
 * Returns the part of the id that is classified: what follows the first '_',
 * or the whole id if it has none.
 */
Datum
run_ops_id_body(PG_FUNCTION_ARGS)
{
	text	   *id = PG_GETARG_TEXT_PP(0);
	const char *value = VARDATA_ANY(id);
	int			len = VARSIZE_ANY_EXHDR(id);
	int			start = id_body_offset(value, len);

	if (start == 0)
		PG_RETURN_TEXT_P(id);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(value + start, len - start));
}

/*
 * key_set.c
 *		A set of byte strings: keys of rows that a statement has changed.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "utils/memutils.h"

#include "ground/key_set.h"

typedef struct Key
{
	const char *bytes;
	int			len;
} Key;

static uint32
hash_key(const void *key, Size keysize)
{
	const Key  *k = key;

	return hash_bytes((const unsigned char *) k->bytes, k->len);
}

static int
match_keys(const void *a, const void *b, Size keysize)
{
	const Key  *x = a;
	const Key  *y = b;

	return x->len == y->len ? memcmp(x->bytes, y->bytes, x->len) : 1;
}

HTAB *
key_set_create(MemoryContext context)
{
	HASHCTL		ctl = {.keysize = sizeof(Key),
		.entrysize = sizeof(Key),
		.hash = hash_key,
		.match = match_keys,
	.hcxt = context};

	return hash_create("run_ops keys", 16, &ctl,
					   HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
}

bool
key_set_add(HTAB *set, const char *bytes, int len)
{
	Key			key = {bytes, len};
	bool		found;

	(void) hash_search(set, &key, HASH_FIND, &found);
	if (found)
		return false;
	/* the copy first: an error must not leave an entry without it */
	key.bytes = memcpy(MemoryContextAlloc(GetMemoryChunkContext(set), len), bytes, len);
	(void) hash_search(set, &key, HASH_ENTER, &found);
	return true;
}

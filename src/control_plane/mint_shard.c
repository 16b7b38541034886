/*
 * mint_shard.c
 *		Decides which shard the new ids of an environment name.
 *
 * The one idea: the shard is a function of rows and of the clock.  What depends
 * on rows only is computed in SQL, once, and is a part of the cached answer:
 * the shard in the active set, the shard in the set before, and when the set
 * was changed.  The row of the sets is one of those that keep the answer valid,
 * so a change of it is seen at once.  Here the clock decides between the two,
 * as it does for a flip of the mint kind.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "ids/id_shape.h"
#include "control_plane/mint_shard.h"

/* A string in an object; NULL if there is none. */
static char *
string_field(JsonbContainer *object, const char *name)
{
	JsonbValue	buffer;
	JsonbValue *value = getKeyJsonValueFromContainer(object, name,
													 strlen(name), &buffer);

	if (value == NULL || value->type != jbvString)
		return NULL;
	return pnstrdup(value->val.string.val, value->val.string.len);
}

/*
 * Raises a WARNING that a pin is ignored; for each organization and shard once
 * in a session.  It must not be an error, which would fail customers while a
 * shard is drained.
 */
static void
report_pin(const char *pin, const char *whose, text *environment_id,
		   const char *shard)
{
	static HTAB *reported = NULL;
	char		key[NAMEDATALEN];
	bool		found;

	if (reported == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(key), .entrysize = sizeof(key)};

		reported = hash_create("run_ops_split ignored pins", 16, &ctl,
							   HASH_ELEM | HASH_STRINGS);
	}
	snprintf(key, sizeof(key), "%s %s", pin, whose);
	hash_search(reported, key, HASH_ENTER, &found);
	if (found)
		return;
	ereport(WARNING,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("pin to shard \"%s\" of %s is ignored", pin, whose),
			 errdetail("No new ids are minted for that shard. Environment \"%s\" gets ids of shard \"%s\".",
					   text_to_cstring(environment_id), shard),
			 errhint("Change runOpsMintShard or runOpsMintShardEnvPins in the feature flags, or add the shard with run_ops.set_mint_shards().")));
}

char
mint_shard(Jsonb *answer, const char *whose, text *environment_id, int grace_ms)
{
	JsonbValue	buffer;
	JsonbValue *shards = getKeyJsonValueFromContainer(&answer->root, "shards",
													  strlen("shards"), &buffer);
	JsonbContainer *object;
	TimestampTz changed_at;
	char	   *shard;
	char	   *pin;

	/* there is no such object while no set of shards is active */
	if (shards == NULL || shards->type != jbvBinary)
		return '\0';
	object = shards->val.binary.data;
	changed_at = DatumGetInt64(DirectFunctionCall1(int8in,
												   CStringGetDatum(string_field(object, "changed_at"))));
	shard = string_field(object, GetCurrentTimestamp() < changed_at + (int64) grace_ms * 1000 ?
						 "previous" : "active");
	if (strcmp(shard, STORE_NEW) == 0)
		return '\0';
	pin = string_field(object, "pin");
	if (pin != NULL && strcmp(pin, shard) != 0)
		report_pin(pin, whose, environment_id, shard);
	return *shard;
}

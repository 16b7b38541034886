/*
 * mint_shard.h
 *		The shard of new ids of an environment.
 */
#ifndef RUN_OPS_MINT_SHARD_H
#define RUN_OPS_MINT_SHARD_H

#include "utils/jsonb.h"

/*
 * The shard for a new runOpsId without a parent; '\0' if it is one of store
 * "new".  "answer" is that of control_plane_mint_flags(), and "whose" names the
 * organization.
 */
extern char mint_shard(Jsonb *answer, const char *whose, text *environment_id,
					   int grace_ms);

#endif							/* RUN_OPS_MINT_SHARD_H */

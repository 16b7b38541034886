/*
 * control_plane.h
 *		Answers about environments that other C files need.
 */
#ifndef RUN_OPS_CONTROL_PLANE_H
#define RUN_OPS_CONTROL_PLANE_H

#include "utils/jsonb.h"

/*
 * Returns {"organization": id, "flags": flags about minting or null, "shards":
 * see mint_shard.c} for an environment, in the active snapshot.  NULL if there is no such environment.
 * Raises an error if no control plane is attached.
 */
extern Jsonb *control_plane_mint_flags(text *environment_id);

#endif							/* RUN_OPS_CONTROL_PLANE_H */

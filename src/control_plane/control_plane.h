/*
 * control_plane.h
 *		Answers about environments that other parts need in C.
 */
#ifndef RUN_OPS_CONTROL_PLANE_H
#define RUN_OPS_CONTROL_PLANE_H

#include "utils/jsonb.h"

/*
 * {"organization": id, "flags": those about minting, or null} of an
 * environment, in the active snapshot; NULL when there is no such environment.
 * An error when no control plane is attached.
 */
extern Jsonb *control_plane_mint_flags(text *environment_id);

#endif							/* RUN_OPS_CONTROL_PLANE_H */

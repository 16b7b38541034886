/*
 * kept_objects.h
 *		The objects that a routed table consists of, and the extension itself.
 */
#ifndef RUN_OPS_KEPT_OBJECTS_H
#define RUN_OPS_KEPT_OBJECTS_H

extern void kept_objects_init(void);

#endif							/* RUN_OPS_KEPT_OBJECTS_H */

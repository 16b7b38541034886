/*
 * write_routing.h
 *		Which table gets a new row of a view.
 */
#ifndef RUN_OPS_WRITE_ROUTING_H
#define RUN_OPS_WRITE_ROUTING_H

extern void write_routing_init(void);

#endif							/* RUN_OPS_WRITE_ROUTING_H */

/*
 * write_routing.h
 *		INSERT, UPDATE and DELETE through the views of routed tables.
 */
#ifndef RUN_OPS_WRITE_ROUTING_H
#define RUN_OPS_WRITE_ROUTING_H

extern void write_routing_init(void);

#endif							/* RUN_OPS_WRITE_ROUTING_H */

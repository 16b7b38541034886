/*
 * wire_stats.h
 *		Counts what happens on the wires of all sessions.
 */
#ifndef RUN_OPS_WIRE_STATS_H
#define RUN_OPS_WIRE_STATS_H

#include "portability/instr_time.h"

typedef enum WireEvent
{
	WIRE_CONNECTED,				/* a connection was opened */
	WIRE_FAILED,				/* the store could not be reached, or was lost */
	WIRE_PAUSED,				/* not asked, after a failure of this session */
	WIRE_EVENTS
} WireEvent;

/*
 * All of them do nothing unless the library is in shared_preload_libraries.
 * Errors: none.
 */
extern void wire_stats_event(const char *store, WireEvent event);
extern void wire_stats_error(const char *store, int sqlerrcode);

/* A flight was sent; the first result of its answer has come. */
extern void wire_stats_sent(instr_time *sent);
extern void wire_stats_answered(const char *store, instr_time *sent);

extern void wire_stats_init(void);

#endif							/* RUN_OPS_WIRE_STATS_H */

/*
 * wire_stats.h
 *		Counts what happens on the wires of all sessions.
 */
#ifndef RUN_OPS_WIRE_STATS_H
#define RUN_OPS_WIRE_STATS_H

#include "datatype/timestamp.h"
#include "portability/instr_time.h"

typedef enum WireEvent
{
	WIRE_CONNECTED,				/* a connection was opened */
	WIRE_FAILED,				/* the store could not be reached, or was lost */
	WIRE_PAUSED,				/* not asked, after a failure of this session */
	WIRE_EVENTS
} WireEvent;

/* what a session waits for */
typedef enum WireWait
{
	WIRE_WAITS_CONNECTION,
	WIRE_WAITS_ANSWER,
	WIRE_WAITS_COMMIT
} WireWait;

/*
 * All of them do nothing unless the library is in shared_preload_libraries.
 * Errors: none.
 */
extern void wire_stats_event(const char *store, WireEvent event);
extern void wire_stats_error(const char *store, int sqlerrcode);

/* A flight was sent; the first result of its answer has come. */
extern void wire_stats_sent(instr_time *sent);
extern void wire_stats_answered(const char *store, instr_time *sent);

/* This session is about to wait for a store, and has done so since then. */
extern void wire_stats_wait(const char *store, WireWait what, TimestampTz since);

extern void wire_stats_init(void);

#endif							/* RUN_OPS_WIRE_STATS_H */

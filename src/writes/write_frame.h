/*
 * write_frame.h
 *		The state of a statement on the view of a routed table while it runs.
 */
#ifndef RUN_OPS_WRITE_FRAME_H
#define RUN_OPS_WRITE_FRAME_H

#include "commands/trigger.h"
#include "utils/hsearch.h"
#include "utils/snapshot.h"
#include "utils/tuplestore.h"

#include "writes/routed_view.h"

/* The rows and changes collected by a statement for the table of one store. */
typedef struct Collected
{
	Tuplestorestate *rows;		/* to insert */
	struct Changes *changes;	/* updates or deletions */
	bool		locked;			/* the rows that are changed are, in the store */
	HTAB	   *changed_keys;	/* of foreign rows changed so far; see key_set.h */
} Collected;

/* A statement on a view that is being executed. */
typedef struct WriteFrame
{
	struct WriteFrame *outer;
	MemoryContext context;
	RoutedView *view;
	Oid			writer;			/* the user who runs it */
	int			writer_context;
	TriggerEvent operation;
	Snapshot	query;			/* identifies the query it is part of */
	int			nest_level;		/* of its transaction or subtransaction */
	Bitmapset  *columns;		/* columns that UPDATE sets, as announced to
								 * the BEFORE STATEMENT trigger */
	Collected  *collected;		/* one for each table of the view */
} WriteFrame;

/* the running statements, innermost first */
extern WriteFrame *write_frames;

/* Opens a frame for the statement whose BEFORE STATEMENT trigger fires. */
extern void push_write_frame(TriggerData *trigdata);

/* The link to the frame of the statement that fires the trigger. */
extern WriteFrame **find_write_frame(TriggerData *trigdata);
extern void drop_write_frame(WriteFrame **link);

/* Executes a statement as the writer, connected to SPI; see rights.h. */
extern int	frame_execute(WriteFrame *frame, RightsStatement *statement,
						  Datum *values, const char *nulls, bool read_only,
						  long count);
extern uint64 frame_run_statement(WriteFrame *frame, StoreTable *table,
							StoreAction action, Bitmapset *columns,
							Datum *values, char *nulls, HeapTuple *returned);
extern HeapTuple frame_insert_one(WriteFrame *frame, StoreTable *table,
							StoreAction action, HeapTuple row);

/* Collecting rows and changes, and writing those that were collected. */
extern void frame_collect_row(WriteFrame *frame, int i, HeapTuple row);
extern bool frame_collect_change(WriteFrame *frame, int i, StoreAction action,
						   Bitmapset *columns, Datum *values, char *nulls);
extern bool frame_changed_before(WriteFrame *frame, int i, Datum *keys);
extern void frame_write_collected(WriteFrame *frame);
extern void frame_write_all_collected(WriteFrame *frame, RoutedView *but,
								Snapshot but_query);

extern void write_frame_init(void);

#endif							/* RUN_OPS_WRITE_FRAME_H */

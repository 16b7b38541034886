/*
 * write_frame.h
 *		A statement on the view of a routed table, while it is executed.
 */
#ifndef RUN_OPS_WRITE_FRAME_H
#define RUN_OPS_WRITE_FRAME_H

#include "commands/trigger.h"
#include "utils/hsearch.h"
#include "utils/snapshot.h"
#include "utils/tuplestore.h"

#include "writes/routed_view.h"

/* What a statement has collected for the table of one store. */
typedef struct Collected
{
	Tuplestorestate *rows;		/* inserted */
	struct Changes *changes;
	HTAB	   *changed_keys;	/* of ChangedKey, of foreign rows */
} Collected;

/* A statement on a view that is being executed. */
typedef struct WriteFrame
{
	struct WriteFrame *outer;
	MemoryContext context;
	RoutedView *view;
	Oid			writer;			/* who runs it */
	int			writer_context;
	TriggerEvent operation;
	Snapshot	query;			/* tells one query from those around it */
	int			nest_level;		/* of the transaction it runs in */
	Bitmapset  *columns;		/* that UPDATE sets, as far as announced */
	Collected  *collected;		/* for each table */
} WriteFrame;

/* innermost first */
extern WriteFrame *write_frames;

/* Opens a frame for the statement whose BEFORE STATEMENT trigger fires. */
extern void push_write_frame(TriggerData *trigdata);

/* The place of the frame of the statement that fires the trigger. */
extern WriteFrame **find_write_frame(TriggerData *trigdata);
extern void drop_write_frame(WriteFrame **link);

/* Executes a statement for the writer, inside SPI; see rights.h. */
extern int	frame_execute(WriteFrame *frame, RightsStatement *statement,
						  Datum *values, const char *nulls, bool read_only,
						  long count);
extern uint64 frame_run_statement(WriteFrame *frame, StoreTable *table,
							StoreAction action, Bitmapset *columns,
							Datum *values, char *nulls, HeapTuple *returned);
extern HeapTuple frame_insert_one(WriteFrame *frame, StoreTable *table,
							StoreAction action, HeapTuple row);

/* What is put off until the frame closes, or until enough is there. */
extern void frame_collect_row(WriteFrame *frame, int i, HeapTuple row);
extern bool frame_collect_change(WriteFrame *frame, int i, StoreAction action,
						   Bitmapset *columns, Datum *values, char *nulls);
extern bool frame_changed_before(WriteFrame *frame, int i, Datum *keys);
extern void frame_write_collected(WriteFrame *frame);
extern void frame_write_all_collected(WriteFrame *frame, RoutedView *but,
								Snapshot but_query);

extern void write_frame_init(void);

#endif							/* RUN_OPS_WRITE_FRAME_H */

/*
 * remote_rows.h
 *		The names of a foreign table in its store, and its rows as text.
 */
#ifndef RUN_OPS_REMOTE_ROWS_H
#define RUN_OPS_REMOTE_ROWS_H

#include "fmgr.h"
#include "funcapi.h"
#include "libpq-fe.h"
#include "nodes/pg_list.h"
#include "storage/itemptr.h"
#include "utils/relcache.h"

/*
 * The names there: options schema_name, table_name, column_name.  They are
 * quoted, except the identifier of a column.
 */
extern char *remote_table_name(Oid relid);
extern const char *remote_column_identifier(Oid relid, AttrNumber attno);
extern const char *remote_column_name(Oid relid, AttrNumber attno);

/* The numbers of all columns of a table, dropped ones left out. */
extern List *remote_columns(Relation rel);

/* The numbers of the columns in option "key" of a foreign table; NIL if none. */
extern List *remote_key(Oid relid);

/*
 * Option of a column of a foreign table: true means that the column is the
 * first one of an index of the remote table, so a lookup by it is cheap.
 */
#define RUN_OPS_FDW_OPTION_INDEXED "indexed"

extern bool remote_column_is_indexed(Oid relid, AttrNumber attno);

/*
 * Option of a column of a foreign table: true means that the store orders its
 * values in another way than this database.
 */
#define RUN_OPS_FDW_OPTION_ORDER_DIFFERS "order_differs"

extern bool remote_order_differs(Oid relid, AttrNumber attno);

/* How values are written as text that the store reads as it is meant. */
typedef struct RemoteText
{
	int			n;
	FmgrInfo   *output;
	bool		depends_on_styles;	/* DateStyle, IntervalStyle, digits */
	bool		depends_on_path;	/* search_path, which all of them may */
} RemoteText;

/* Adds the next type; "output" must have room for it. */
extern void remote_text_add(RemoteText *text, Oid type);

/*
 * Where the text depends on settings here, they are made between these two;
 * after an error, its cleanup takes them back.
 */
extern int	remote_text_begin(RemoteText *text);
extern void remote_text_end(int nest_level);

/*
 * Raises an error if the result does not have that many rows and at least that
 * many fields: a store may answer anything.
 */
extern void remote_result_check(PGresult *result, int rows, int fields);

/*
 * Converts the fields of one row, in the order of "attrs", into values of the
 * columns with these numbers; other columns are null.  Returns the ctid, if it
 * is among them.  "relation" is for messages; it may be NULL.
 */
extern ItemPointer remote_row_values(PGresult *result, int row, AttInMetadata *in,
									 List *attrs, const char *relation,
									 Datum *values, bool *nulls);

#endif							/* RUN_OPS_REMOTE_ROWS_H */

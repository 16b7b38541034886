/*
 * remote_change.c
 *		INSERT, UPDATE and DELETE of single rows and sets in a store.
 *
 * The one idea: a row is named by its key.  The place of a row (ctid) names it
 * only within one partition or child of the table, and the store may have any.
 * Together they name a version of the row.
 *
 * A set of rows is one statement, which reads the keys and the new values from
 * arrays.  The arrays have the types that the columns have in the store, so that
 * its own input functions read the values: enums, domains and varchar(n) are no
 * special case.
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "foreign/foreign.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "stores/remote_change.h"

/*
 * The type of a column in the store, and whether an array can have it as it is:
 * not if it is an array itself, or a composite, which unnest() would take apart,
 * or if a comma does not separate its elements.
 * format_type(-1) names no length, which a cast would cut values to.
 */
#define COLUMN_TYPES \
	"SELECT pg_catalog.format_type(a.atttypid, -1), t.typcategory NOT IN ('A', 'C') AND t.typarray <> 0 AND t.typdelim = ',' " \
	"FROM pg_catalog.unnest($2::pg_catalog.text[]) WITH ORDINALITY AS c (name, ord) " \
	"LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = $1::pg_catalog.regclass AND a.attname = c.name " \
	"LEFT JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid ORDER BY c.ord"

static bool
is_generated(Relation rel, AttrNumber attno)
{
	return TupleDescAttr(RelationGetDescr(rel), attno - 1)->attgenerated != '\0';
}

static void
append_returning(StringInfo sql, RemoteChange *change)
{
	ListCell   *lc;

	if (!change->returning)
		return;
	appendStringInfoString(sql, " RETURNING ");
	foreach(lc, change->returned)
		appendStringInfo(sql, "%st.%s", foreach_current_index(lc) ? ", " : "",
						 remote_column_name(change->relid, lfirst_int(lc)));
}

/* The columns that are written; generated ones are the store's. */
static List *
columns_to_write(Relation rel, List *columns)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, columns)
	{
		if (!is_generated(rel, lfirst_int(lc)))
			result = lappend_int(result, lfirst_int(lc));
	}
	return result;
}

/* INSERT up to the rows. */
static void
append_insert(StringInfo sql, RemoteChange *change)
{
	ListCell   *lc;

	appendStringInfo(sql, "INSERT INTO %s AS t", remote_table_name(change->relid));
	foreach(lc, change->columns)
		appendStringInfo(sql, "%s%s", foreach_current_index(lc) ? ", " : " (",
						 remote_column_name(change->relid, lfirst_int(lc)));
	if (change->columns)
		appendStringInfoChar(sql, ')');
}

/* The values of the clause come after those of the rows. */
static void
append_conflict(StringInfo sql, RemoteChange *change, int param)
{
	if (change->conflict == NULL)
		return;
	appendStringInfoString(sql, " ON CONFLICT");
	for (const char *c = change->conflict; *c; c++)
	{
		char	   *end;

		if (*c != '\001')
		{
			appendStringInfoChar(sql, *c);
			continue;
		}
		appendStringInfo(sql, "$%ld", param + list_length(change->columns) + strtol(c + 1, &end, 10));
		c = end;
	}
}

/*
 * INSERT of one row.  The first parameter is the one after "param".  "after" is a
 * condition, or NULL.
 */
static void
append_insert_one(StringInfo sql, RemoteChange *change, int param, const char *after)
{
	append_insert(sql, change);
	appendStringInfoString(sql, !change->columns ? " DEFAULT VALUES" : after ? " SELECT " : " VALUES (");
	for (int n = 1; n <= list_length(change->columns); n++)
		appendStringInfo(sql, "%s$%d", n > 1 ? ", " : "", param + n);
	if (change->columns)
		appendStringInfo(sql, after ? " WHERE %s" : ")", after);
	append_conflict(sql, change, param);
	append_returning(sql, change);
}

/* UPDATE or DELETE of one row; the store infers the types of the parameters. */
static void
append_change_one(StringInfo sql, RemoteChange *change, int param, const char *after)
{
	ListCell   *lc;
	int			n = param + list_length(change->keys);

	appendStringInfo(sql, change->operation == CMD_UPDATE ? "UPDATE %s AS t" : "DELETE FROM %s AS t",
					 remote_table_name(change->relid));
	foreach(lc, change->columns)
		appendStringInfo(sql, "%s %s = $%d", foreach_current_index(lc) ? "," : " SET",
						 remote_column_name(change->relid, lfirst_int(lc)), ++n);
	foreach(lc, change->keys)
		appendStringInfo(sql, "%s t.%s OPERATOR(pg_catalog.=) $%d",
						 foreach_current_index(lc) ? " AND" : " WHERE",
						 remote_column_name(change->relid, lfirst_int(lc)),
						 param + foreach_current_index(lc) + 1);
	if (after)
		appendStringInfo(sql, " AND %s", after);
	append_returning(sql, change);
}

static void
append_one(StringInfo sql, RemoteChange *change, int param, const char *after)
{
	if (change->operation == CMD_INSERT)
		append_insert_one(sql, change, param, after);
	else
		append_change_one(sql, change, param, after);
}

char *
remote_array(const char *const *texts, int n, int step)
{
	StringInfoData array;

	initStringInfo(&array);
	appendStringInfoChar(&array, '{');
	for (int i = 0; i < n; i++)
	{
		const char *text = texts[i * step];

		if (i > 0)
			appendStringInfoChar(&array, ',');
		if (text == NULL)
		{
			appendStringInfoString(&array, "NULL");
			continue;
		}
		appendStringInfoChar(&array, '"');
		for (; *text; text++)
		{
			if (*text == '"' || *text == '\\')
				appendStringInfoChar(&array, '\\');
			appendStringInfoChar(&array, *text);
		}
		appendStringInfoChar(&array, '"');
	}
	appendStringInfoChar(&array, '}');
	return array.data;
}

/* Asks the store for the types of the columns, once. */
static void
find_types(RemoteChange *change)
{
	List	   *all = list_concat_copy(change->keys, change->columns);
	const char **names = palloc(sizeof(char *) * list_length(all));
	const char *values[2];
	PGresult   *types;
	ListCell   *lc;

	if (change->types)
		return;
	foreach(lc, all)
		names[foreach_current_index(lc)] = remote_column_identifier(change->relid, lfirst_int(lc));
	values[0] = remote_table_name(change->relid);
	values[1] = remote_array(names, list_length(all), 1);
	types = wire_exec(change->wire, WIRE_WRITE, COLUMN_TYPES, 2, values);
	remote_result_check(types, list_length(all), 2);
	change->types = MemoryContextAlloc(change->context, sizeof(char *) * list_length(all));
	change->as_it_is = MemoryContextAlloc(change->context, sizeof(bool) * list_length(all));
	for (int i = 0; i < list_length(all); i++)
	{
		if (PQgetisnull(types, i, 0))
			ereport(ERROR,
					(errcode(ERRCODE_FDW_COLUMN_NAME_NOT_FOUND),
					 errmsg("column \"%s\" of table %s does not exist in store \"%s\"",
							names[i], values[0], wire_store(change->wire))));
		change->types[i] = MemoryContextStrdup(change->context, PQgetvalue(types, i, 0));
		change->as_it_is[i] = strcmp(PQgetvalue(types, i, 1), "t") == 0;
	}
}

/* The statement for a set. */
static void
append_many(StringInfo sql, RemoteChange *change, int param, const char *after)
{
	List	   *all = list_concat_copy(change->keys, change->columns);
	const char *table = remote_table_name(change->relid);
	StringInfoData arrays;
	StringInfoData written;
	StringInfoData condition;
	ListCell   *lc;

	initStringInfo(&arrays);
	initStringInfo(&written);
	initStringInfo(&condition);
	foreach(lc, all)
	{
		int			i = foreach_current_index(lc);
		const char *column = remote_column_name(change->relid, lfirst_int(lc));
		const char *type = change->types[i];
		bool		as_it_is = change->as_it_is[i];
		char	   *value = as_it_is ? psprintf("r.v%d", i + 1) :
			psprintf("r.v%d::%s", i + 1, type);

		appendStringInfo(&arrays, "%spg_catalog.unnest($%d::%s[])", i ? ", " : "", param + i + 1,
						 as_it_is ? type : "pg_catalog.text");
		if (i < list_length(change->keys))
			appendStringInfo(&condition, "%s t.%s OPERATOR(pg_catalog.=) %s",
							 i ? " AND" : " WHERE", column, value);
		else
			appendStringInfo(&written, "%s%s%s%s", written.len ? ", " : "",
							 change->operation == CMD_UPDATE ? column : "",
							 change->operation == CMD_UPDATE ? " = " : "", value);
	}

	if (change->operation == CMD_INSERT)
	{
		append_insert(sql, change);
		appendStringInfo(sql, " SELECT %s FROM", written.data);
	}
	else if (change->operation == CMD_UPDATE)
		appendStringInfo(sql, "UPDATE %s AS t SET %s FROM", table, written.data);
	else if (change->operation == CMD_DELETE)
		appendStringInfo(sql, "DELETE FROM %s AS t USING", table);
	else
		appendStringInfo(sql, "SELECT pg_catalog.count(*) FROM %s AS t,", table);
	appendStringInfo(sql, " ROWS FROM (%s) WITH ORDINALITY AS r (", arrays.data);
	for (int i = 1; i <= list_length(all); i++)
		appendStringInfo(sql, "v%d, ", i);
	appendStringInfo(sql, "n)%s", condition.data);
	if (after)
		appendStringInfo(sql, "%s %s", condition.len ? " AND" : " WHERE", after);
	append_conflict(sql, change, param);
	append_returning(sql, change);
	if (change->returning && change->operation != CMD_INSERT)
		appendStringInfoString(sql, ", r.n");
}

static void
forget_result(void *arg)
{
	RemoteChange *change = arg;

	PQclear(change->result);
	change->result = NULL;
}

static RemoteChange *
describe(Relation rel, CmdType operation, List *columns, const char *conflict,
		 bool returning, bool version)
{
	RemoteChange *change = palloc0(sizeof(RemoteChange));

	change->context = CurrentMemoryContext;
	change->relid = RelationGetRelid(rel);
	change->operation = operation;
	change->columns = columns_to_write(rel, columns);
	change->conflict = conflict;
	change->returning = returning;
	change->returned = remote_columns(rel);
	if (operation != CMD_INSERT)
	{
		change->keys = remote_key(change->relid);
		if (change->keys == NIL)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot change single rows of foreign table \"%s\"",
							RelationGetRelationName(rel)),
					 errdetail("It has no option \"key\", so the store cannot be told which row is meant."),
					 errhint("Set the option to the columns that identify a row, or write a statement that the store can execute by itself.")));
		change->version = version;
		if (version)
			change->keys = lappend_int(change->keys, SelfItemPointerAttributeNumber);
	}
	return change;
}

char *
remote_change_text(Relation rel, CmdType operation, List *columns,
				   const char *conflict, bool returning)
{
	StringInfoData sql;

	initStringInfo(&sql);
	append_one(&sql, describe(rel, operation, columns, conflict, returning, false), 0, NULL);
	return sql.data;
}

RemoteChange *
remote_change_begin(Relation rel, CmdType operation, List *columns,
					const char *conflict, bool returning, bool version,
					Wire *wire, WireStatement *statement)
{
	RemoteChange *change = describe(rel, operation, columns, conflict, returning, version);
	ListCell   *lc;

	change->wire = wire;
	change->statement = statement;
	change->text.output = palloc0(sizeof(FmgrInfo) * (list_length(change->keys) + list_length(columns)));
	foreach(lc, list_concat_copy(change->keys, change->columns))
		remote_text_add(&change->text, lfirst_int(lc) == SelfItemPointerAttributeNumber ? TIDOID :
						TupleDescAttr(RelationGetDescr(rel), lfirst_int(lc) - 1)->atttypid);
	change->nvalues = change->text.n;
	change->cleanup.func = forget_result;
	change->cleanup.arg = change;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &change->cleanup);
	change->values_context = AllocSetContextCreate(CurrentMemoryContext, "run_ops values",
												   ALLOCSET_DEFAULT_SIZES);
	return change;
}

void
remote_change_set_extra(RemoteChange *change, int nextra, const char *const *extra)
{
	change->nextra = nextra;
	change->extra = extra;
}

void
remote_change_add(RemoteChange *change, const Datum *values, const bool *nulls)
{
	MemoryContext oldcontext;
	int			nest_level;
	const char **row;

	if (change->n == change->size)
	{
		change->size = Max(change->size * 2, 1);
		if (change->values == NULL)
			change->values = MemoryContextAlloc(change->context,
												sizeof(char *) * change->size * Max(change->nvalues, 1));
		else
			change->values = repalloc_huge(change->values,
										   sizeof(char *) * change->size * Max(change->nvalues, 1));
	}
	row = &change->values[change->n++ * change->nvalues];
	oldcontext = MemoryContextSwitchTo(change->values_context);
	nest_level = remote_text_begin(&change->text);
	for (int i = 0; i < change->nvalues; i++)
		row[i] = nulls[i] ? NULL : OutputFunctionCall(&change->text.output[i], values[i]);
	remote_text_end(nest_level);
	MemoryContextSwitchTo(oldcontext);
}

void
remote_change_forget_last(RemoteChange *change)
{
	change->n--;
}

/*
 * Appends the statement for the rows that were added, whose first parameter is the
 * one after "param", and stores its values.
 */
static void
take_rows(RemoteChange *change, StringInfo sql, int param, const char **values, const char *after)
{
	int			n = change->n;

	/* first of all, because an error may lead here again */
	change->n = 0;
	if (n > 1 && change->nvalues > 0)
	{
		find_types(change);
		append_many(sql, change, param, after);
		for (int i = 0; i < change->nvalues; i++)
			values[i] = remote_array(&change->values[i], n, change->nvalues);
	}
	else
	{
		append_one(sql, change, param, after);
		if (change->nvalues > 0)
			memcpy(values, change->values, sizeof(char *) * change->nvalues);
	}
	if (change->nextra > 0)
		memcpy(values + change->nvalues, change->extra, sizeof(char *) * change->nextra);
}

/* Some columns of the rows of a result in which column "marker" is not null. */
static PGresult *
part_of_result(PGresult *whole, int first, int n, int marker, int *nrows)
{
	PGresult   *result = PQmakeEmptyPGresult(NULL, PGRES_TUPLES_OK);
	PGresAttDesc *columns = palloc0(sizeof(PGresAttDesc) * Max(n, 1));
	bool		done;

	for (int i = 0; i < n; i++)
	{
		columns[i].name = PQfname(whole, first + i);
		columns[i].typid = PQftype(whole, first + i);
		columns[i].typlen = PQfsize(whole, first + i);
		columns[i].atttypmod = PQfmod(whole, first + i);
	}
	*nrows = 0;
	done = result && (n == 0 || PQsetResultAttrs(result, n, columns));
	for (int row = 0; done && row < PQntuples(whole); row++)
	{
		if (PQgetisnull(whole, row, marker))
			continue;
		for (int i = 0; done && i < n; i++)
			done = PQsetvalue(result, *nrows, i, PQgetvalue(whole, row, first + i),
							  PQgetisnull(whole, row, first + i) ? -1 : PQgetlength(whole, row, first + i));
		(*nrows)++;
	}
	if (!done)
	{
		PQclear(result);
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	}
	return result;
}

static bool
returns_numbers(RemoteChange *change, int n)
{
	return change->returning && n > 1 && change->operation != CMD_INSERT;
}

/*
 * A condition that is true when the parts before a part are done, as far as they return
 * rows: what is inserted may have a key that one of them has deleted.  NULL: none.
 */
static const char *
after_others(List *parts, RemoteChange *change)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	foreach(lc, parts)
	{
		RemoteChange *part = lfirst(lc);

		if (part == change || !change->waits)
			break;
		if (part->returning)
			appendStringInfo(&sql, "%s(SELECT pg_catalog.count(*) FROM w%d) IS NOT NULL",
							 sql.len ? " AND " : "", foreach_current_index(lc) + 1);
	}
	return sql.len ? sql.data : NULL;
}

/*
 * The statement has several parts below WITH, and shows the rows that they return,
 * each part in columns of its own.  The last of these is not null in its rows.  Of
 * the last part it shows at least how many there are.
 */
static void
append_parts(StringInfo sql, List *parts)
{
	StringInfoData from;
	ListCell   *lc;

	initStringInfo(&from);
	foreach(lc, parts)
	{
		int			part = foreach_current_index(lc) + 1;

		if (!((RemoteChange *) lfirst(lc))->returning && lnext(parts, lc))
			continue;
		appendStringInfo(sql, "%s w%d.*", from.len ? "," : "SELECT", part);
		appendStringInfo(&from, from.len ? " FULL JOIN w%d ON false" : " FROM w%d", part);
	}
	appendStringInfoString(sql, from.data);
}

/* Gives each part what it has returned.  The last one has all of it. */
static void
share_result(List *parts, int *sent)
{
	PGresult   *whole = ((RemoteChange *) llast(parts))->result;
	int			first = 0;
	ListCell   *lc;

	foreach(lc, parts)
	{
		RemoteChange *part = lfirst(lc);
		int			n = part->returning ? list_length(part->returned) : 0;
		int			marker = first + n;

		if (!part->returning && lnext(parts, lc))
			continue;
		remote_result_check(whole, PQntuples(whole), marker + 1);
		if (returns_numbers(part, sent[foreach_current_index(lc)]))
			n++;
		part->result = part_of_result(whole, first, n, marker, &part->written);
		first = marker + 1;
	}
	PQclear(whole);
}

/* Of how many rows that were sent does the store have the same version still? */
static int
count_left_out(RemoteChange *change, int sent)
{
	RemoteChange question;
	int			nkeys = list_length(change->keys);
	const char **values = palloc(sizeof(char *) * nkeys);
	PGresult   *answer;
	StringInfoData sql;

	find_types(change);
	question = *change;
	question.operation = CMD_SELECT;
	question.columns = NIL;
	question.returning = false;
	initStringInfo(&sql);
	append_many(&sql, &question, 0, NULL);
	for (int i = 0; i < nkeys; i++)
		values[i] = remote_array(&change->values[i], sent, change->nvalues);
	answer = wire_exec(change->wire, WIRE_WRITE, sql.data, nkeys, values);
	remote_result_check(answer, 1, 1);
	return atoi(PQgetvalue(answer, 0, 0));
}

void
remote_change_send(RemoteChange *change, List *before)
{
	int		   *sent;
	bool		in_parts = false;
	List	   *all;
	StringInfoData sql;
	const char **values;
	int			nvalues = 0;
	MemoryContext oldcontext = MemoryContextSwitchTo(change->values_context);
	ListCell   *lc;

	all = lappend(list_copy(before), change);
	sent = palloc(sizeof(int) * list_length(all));
	foreach(lc, all)
	{
		RemoteChange *part = lfirst(lc);

		forget_result(part);
		sent[foreach_current_index(lc)] = part->n;
		nvalues += part->nvalues + part->nextra;
		in_parts |= part != change && part->returning;
	}
	values = palloc(sizeof(char *) * Max(nvalues, 1));
	initStringInfo(&sql);
	nvalues = 0;
	foreach(lc, all)
	{
		RemoteChange *part = lfirst(lc);
		bool		below_with = part != change || in_parts;

		if (below_with)
			appendStringInfo(&sql, "%s w%d AS (", foreach_current_index(lc) ? "," : "WITH",
							 foreach_current_index(lc) + 1);
		take_rows(part, &sql, nvalues, values + nvalues, after_others(all, part));
		if (in_parts && (part == change || part->returning) &&
			!returns_numbers(part, sent[foreach_current_index(lc)]))
			appendStringInfoString(&sql, part->returning ? ", true" : " RETURNING true");
		if (below_with)
			appendStringInfoString(&sql, ") ");
		nvalues += part->nvalues + part->nextra;
	}
	if (in_parts)
		append_parts(&sql, all);
	wire_begin(change->wire, WIRE_WRITE, change->statement);
	wire_send(change->wire, sql.data, nvalues, values, false);
	change->result = wire_take_whole(change->wire);
	change->written = atoi(PQcmdTuples(change->result));
	if (in_parts)
		share_result(all, sent);
	else if (change->returning)
		remote_result_check(change->result, change->written,
							list_length(change->returned) + returns_numbers(change, sent[list_length(all) - 1]));
	foreach(lc, all)
	{
		RemoteChange *part = lfirst(lc);
		int			n = sent[foreach_current_index(lc)];

		if (part->version && (part->returning || part == change) && part->written < n)
			part->left_out = count_left_out(part, n);
	}
	MemoryContextSwitchTo(oldcontext);
	foreach(lc, before)
		MemoryContextReset(((RemoteChange *) lfirst(lc))->values_context);
	MemoryContextReset(change->values_context);
}

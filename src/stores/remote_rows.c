/*
 * remote_rows.c
 *		The names of a foreign table in its store, and its rows as text.
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/varlena.h"

#include "stores/remote_rows.h"

static const char *
string_option(List *options, const char *name, const char *unless_set)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		if (strcmp(def->defname, name) == 0)
			return defGetString(def);
	}
	return unless_set;
}

char *
remote_table_name(Oid relid)
{
	List	   *options = GetForeignTable(relid)->options;
	const char *schema = string_option(options, "schema_name", NULL);
	const char *table = string_option(options, "table_name", NULL);

	return quote_qualified_identifier(schema ? schema : get_namespace_name(get_rel_namespace(relid)),
									  table ? table : get_rel_name(relid));
}

const char *
remote_column_identifier(Oid relid, AttrNumber attno)
{
	const char *name = string_option(GetForeignColumnOptions(relid, attno),
									 "column_name", NULL);

	return name ? name : get_attname(relid, attno, false);
}

const char *
remote_column_name(Oid relid, AttrNumber attno)
{
	return quote_identifier(remote_column_identifier(relid, attno));
}

List *
remote_columns(Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);
	List	   *result = NIL;

	for (int i = 0; i < desc->natts; i++)
	{
		if (!TupleDescAttr(desc, i)->attisdropped)
			result = lappend_int(result, i + 1);
	}
	return result;
}

List *
remote_key(Oid relid)
{
	const char *key = string_option(GetForeignTable(relid)->options, "key", NULL);
	List	   *names;
	List	   *result = NIL;
	ListCell   *lc;

	if (key == NULL || !SplitIdentifierString(pstrdup(key), ',', &names))
		return NIL;
	foreach(lc, names)
	{
		AttrNumber	attno = get_attnum(relid, lfirst(lc));

		/* the column has been renamed since */
		if (attno <= 0)
			return NIL;
		result = lappend_int(result, attno);
	}
	return result;
}

static bool
column_option_is_true(Oid relid, AttrNumber attno, const char *option)
{
	ListCell   *lc;

	foreach(lc, GetForeignColumnOptions(relid, attno))
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		if (strcmp(def->defname, option) == 0)
			return defGetBoolean(def);
	}
	return false;
}

bool
remote_column_is_indexed(Oid relid, AttrNumber attno)
{
	return column_option_is_true(relid, attno, RUN_OPS_FDW_OPTION_INDEXED);
}

bool
remote_order_differs(Oid relid, AttrNumber attno)
{
	return column_option_is_true(relid, attno, RUN_OPS_FDW_OPTION_ORDER_DIFFERS);
}

void
remote_text_add(RemoteText *text, Oid type)
{
	Oid			function;
	bool		varlena;

	getTypeOutputInfo(type, &function, &varlena);
	fmgr_info(function, &text->output[text->n++]);
	switch (getBaseType(type))
	{
		case BOOLOID:
		case BPCHAROID:
		case BYTEAOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case JSONBOID:
		case JSONOID:
		case NAMEOID:
		case NUMERICOID:
		case OIDOID:
		case TEXTARRAYOID:
		case TEXTOID:
		case UUIDOID:
		case VARCHAROID:
			return;
		case DATEOID:
		case FLOAT4OID:
		case FLOAT8OID:
		case INTERVALOID:
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		case TIMETZOID:
			text->depends_on_styles = true;
			return;
		default:
			text->depends_on_path |= !type_is_enum(type);
	}
}

/* Of the settings that the text depends on, those that are otherwise now. */
int
remote_text_begin(RemoteText *text)
{
	const char *const settings[][2] = {
		{"datestyle", "ISO"}, {"intervalstyle", "postgres"},
		{"extra_float_digits", "3"}, {"search_path", "pg_catalog"}
	};
	bool		styles = text->depends_on_styles || text->depends_on_path;
	const bool	change[] = {
		styles && DateStyle != USE_ISO_DATES,
		styles && IntervalStyle != INTSTYLE_POSTGRES,
		styles && extra_float_digits < 1,
		text->depends_on_path
	};
	int			nest_level = 0;

	for (int i = 0; i < lengthof(settings); i++)
	{
		if (!change[i])
			continue;
		if (nest_level == 0)
			nest_level = NewGUCNestLevel();
		(void) set_config_option(settings[i][0], settings[i][1], PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	}
	return nest_level;
}

void
remote_text_end(int nest_level)
{
	if (nest_level > 0)
		AtEOXact_GUC(true, nest_level);
}

/* What a value that cannot be converted is. */
typedef struct ConversionContext
{
	const char *relation;
	const char *column;
} ConversionContext;

static void
conversion_context(void *arg)
{
	ConversionContext *context = arg;

	if (context->column == NULL)
		return;
	if (context->relation)
		errcontext("column \"%s\" of foreign table \"%s\"", context->column, context->relation);
	else
		errcontext("column \"%s\" of a row from a store", context->column);
}

void
remote_result_check(PGresult *result, int rows, int fields)
{
	if (PQnfields(result) < fields)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INCONSISTENT_DESCRIPTOR_INFORMATION),
				 errmsg("a store returned %d columns in place of %d",
						PQnfields(result), fields)));
	if (PQntuples(result) != rows)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INCONSISTENT_DESCRIPTOR_INFORMATION),
				 errmsg("a store returned %d rows in place of %d",
						PQntuples(result), rows)));
}

ItemPointer
remote_row_values(PGresult *result, int row, AttInMetadata *in, List *attrs,
				  const char *relation, Datum *values, bool *nulls)
{
	ConversionContext context = {relation, NULL};
	ErrorContextCallback callback;
	ItemPointer ctid = NULL;
	int			field = 0;
	ListCell   *lc;

	/* a store that has another number of columns has changed since */
	if (attrs != NIL)
		remote_result_check(result, PQntuples(result), list_length(attrs));

	memset(values, 0, sizeof(Datum) * in->tupdesc->natts);
	memset(nulls, true, sizeof(bool) * in->tupdesc->natts);
	callback.callback = conversion_context;
	callback.arg = &context;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	foreach(lc, attrs)
	{
		int			attno = lfirst_int(lc);
		int			i = attno - 1;
		char	   *text = PQgetvalue(result, row, field);

		if (text[0] == '\0' && PQgetisnull(result, row, field))
			text = NULL;
		field++;
		if (attno == SelfItemPointerAttributeNumber)
		{
			if (text)
				ctid = (ItemPointer) DatumGetPointer(DirectFunctionCall1(tidin, CStringGetDatum(text)));
			continue;
		}
		if (attno <= 0)
			continue;
		context.column = NameStr(TupleDescAttr(in->tupdesc, i)->attname);
		values[i] = InputFunctionCall(&in->attinfuncs[i], text,
									  in->attioparams[i], in->atttypmods[i]);
		nulls[i] = text == NULL;
	}
	error_context_stack = callback.previous;
	return ctid;
}

/*
 * foreign_import.c
 *		IMPORT FOREIGN SCHEMA.
 *
 * It creates what postgres_fdw would, and has the same options.  The one idea:
 * the store is asked over the wire, so that a table is found which the
 * transaction has just created there, and no wait is without an end.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"

#include "stores/foreign_import.h"
#include "wire/wire.h"

/*
 * Each column of each table; nulls for a table without columns and a schema
 * without tables.  A partition only if it is named.
 */
#define COLUMNS \
	"SELECT c.relname, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), " \
	"l.collname, s.nspname, a.attnotnull, " \
	"CASE WHEN a.attgenerated = '' THEN pg_catalog.pg_get_expr(d.adbin, d.adrelid) END, " \
	"CASE WHEN a.attgenerated = 's' THEN pg_catalog.pg_get_expr(d.adbin, d.adrelid) END " \
	"FROM pg_catalog.pg_namespace AS n " \
	"LEFT JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'v', 'f', 'm', 'p') " \
	"AND CASE WHEN $2::pg_catalog.text[] IS NULL THEN NOT c.relispartition ELSE c.relname = ANY ($2) END " \
	"LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped " \
	"LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum " \
	"LEFT JOIN pg_catalog.pg_collation AS l ON l.oid = a.attcollation " \
	"LEFT JOIN pg_catalog.pg_namespace AS s ON s.oid = l.collnamespace " \
	"WHERE n.nspname = $1 ORDER BY c.relname, a.attnum"

enum
{
	TABLE,
	NAME,
	TYPE,
	COLLATION,
	COLLATION_SCHEMA,
	NOT_NULL,
	DEFAULT_VALUE,
	GENERATED,
	N_FIELDS
};

/* The options, and what they are unless set. */
typedef struct ImportOptions
{
	bool		collate;
	bool		defaults;
	bool		generated;
	bool		not_null;
} ImportOptions;

static ImportOptions
import_options(List *options)
{
	ImportOptions result = {true, false, true, true};
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		if (strcmp(def->defname, "import_collate") == 0)
			result.collate = defGetBoolean(def);
		else if (strcmp(def->defname, "import_default") == 0)
			result.defaults = defGetBoolean(def);
		else if (strcmp(def->defname, "import_generated") == 0)
			result.generated = defGetBoolean(def);
		else if (strcmp(def->defname, "import_not_null") == 0)
			result.not_null = defGetBoolean(def);
		else
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
					 errmsg("invalid option \"%s\"", def->defname)));
	}
	return result;
}

/* The names of LIMIT TO as an array; NULL without them. */
static char *
wanted_tables(ImportForeignSchemaStmt *stmt)
{
	ArrayBuildState *names = initArrayResult(TEXTOID, CurrentMemoryContext, false);
	ListCell   *lc;

	/* EXCEPT is obeyed by who executes what we return */
	if (stmt->list_type != FDW_IMPORT_SCHEMA_LIMIT_TO)
		return NULL;
	foreach(lc, stmt->table_list)
		accumArrayResult(names, CStringGetTextDatum(lfirst_node(RangeVar, lc)->relname),
						 false, TEXTOID, CurrentMemoryContext);
	return OidOutputFunctionCall(F_ARRAY_OUT, makeArrayResult(names, CurrentMemoryContext));
}

static char *
field(PGresult *rows, int row, int which)
{
	return PQgetisnull(rows, row, which) ? NULL : PQgetvalue(rows, row, which);
}

static void
add_column(StringInfo sql, PGresult *rows, int row, ImportOptions *import)
{
	const char *name = field(rows, row, NAME);
	const char *collation = field(rows, row, COLLATION);
	const char *default_value = field(rows, row, DEFAULT_VALUE);
	const char *generated = field(rows, row, GENERATED);

	/* the option keeps a column that is renamed here */
	appendStringInfo(sql, "%s %s OPTIONS (column_name %s)", quote_identifier(name),
					 PQgetvalue(rows, row, TYPE), quote_literal_cstr(name));
	if (import->collate && collation)
		appendStringInfo(sql, " COLLATE %s",
						 quote_qualified_identifier(PQgetvalue(rows, row, COLLATION_SCHEMA), collation));
	if (import->defaults && default_value)
		appendStringInfo(sql, " DEFAULT %s", default_value);
	if (import->generated && generated)
		appendStringInfo(sql, " GENERATED ALWAYS AS (%s) STORED", generated);
	if (import->not_null && strcmp(PQgetvalue(rows, row, NOT_NULL), "t") == 0)
		appendStringInfoString(sql, " NOT NULL");
}

List *
foreign_import(ImportForeignSchemaStmt *stmt, Oid serverid)
{
	ImportOptions import = import_options(stmt->options);
	const char *server = quote_identifier(stmt->server_name);
	const char *values[] = {stmt->remote_schema, wanted_tables(stmt)};
	PGresult   *rows = wire_exec(wire_get(serverid, GetUserId()), WIRE_READ,
								 COLUMNS, lengthof(values), values);
	List	   *commands = NIL;
	int			row = 0;

	/* whatever it is that answers there */
	if (PQnfields(rows) != N_FIELDS)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INCONSISTENT_DESCRIPTOR_INFORMATION),
				 errmsg("a store returned %d columns in place of %d",
						PQnfields(rows), N_FIELDS)));
	if (PQntuples(rows) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_SCHEMA_NOT_FOUND),
				 errmsg("schema \"%s\" is not present on foreign server \"%s\"",
						stmt->remote_schema, stmt->server_name)));
	while (row < PQntuples(rows) && field(rows, row, TABLE))
	{
		const char *table = field(rows, row, TABLE);
		const char *separator = "";
		StringInfoData sql;

		initStringInfo(&sql);
		appendStringInfo(&sql, "CREATE FOREIGN TABLE %s (", quote_identifier(table));
		for (; row < PQntuples(rows) && strcmp(PQgetvalue(rows, row, TABLE), table) == 0; row++)
		{
			if (field(rows, row, NAME) == NULL)
				continue;
			appendStringInfoString(&sql, separator);
			add_column(&sql, rows, row, &import);
			separator = ", ";
		}
		appendStringInfo(&sql, ") SERVER %s OPTIONS (schema_name %s, table_name %s)", server,
						 quote_literal_cstr(stmt->remote_schema), quote_literal_cstr(table));
		commands = lappend(commands, sql.data);
	}
	return commands;
}

/*
 * foreign_analyze.c
 *		ANALYZE of foreign tables.
 *
 * The store takes the sample where it can: of a large table it sends about as
 * many rows as are wanted.  What it sends is sampled once more, so that its
 * estimate of the number of rows may be wrong.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "commands/vacuum.h"
#include "foreign/fdwapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/sampling.h"

#include "ground/compat.h"
#include "stores/foreign_analyze.h"
#include "stores/read_gate.h"
#include "stores/remote_rows.h"
#include "wire/wire.h"

/* so many times the wanted rows are requested, in case it has fewer */
#define SURPLUS 2

/* pages, rows by its statistics, and whether TABLESAMPLE is possible */
#define TABLE_FACTS \
	"SELECT pg_catalog.ceil(pg_catalog.sum(pg_catalog.pg_relation_size(p.oid)) / pg_catalog.current_setting('block_size')::int8), " \
	"pg_catalog.sum(p.reltuples), pg_catalog.bool_and(p.relkind IN ('r', 'm') AND p.reltuples >= 0) " \
	"FROM (SELECT $1::pg_catalog.regclass AS relid UNION " \
	"SELECT t.relid FROM pg_catalog.pg_partition_tree($1::pg_catalog.regclass) AS t) AS l " \
	"JOIN pg_catalog.pg_class AS p ON p.oid = l.relid AND p.relkind <> 'p'"

static Wire *
wire_of(Relation rel)
{
	return wire_get(GetForeignServerIdByRelId(RelationGetRelid(rel)),
					rel->rd_rel->relowner);
}

static PGresult *
table_facts(Relation rel)
{
	const char *name = remote_table_name(RelationGetRelid(rel));

	return wire_exec(wire_of(rel), WIRE_READ, TABLE_FACTS, 1, &name);
}

/* The query for the columns, and what it returns. */
static char *
sample_query(Relation rel, int wanted, List **attrs)
{
	PGresult   *facts = table_facts(rel);
	double		rows = PQgetisnull(facts, 0, 1) ? 0 : atof(PQgetvalue(facts, 0, 1));
	bool		can_sample = strcmp(PQgetvalue(facts, 0, 2), "t") == 0;	/* not if it is null */
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	*attrs = remote_columns(rel);
	foreach(lc, *attrs)
		appendStringInfo(&sql, "%s%s", foreach_current_index(lc) ? ", " : "SELECT ",
						 remote_column_name(RelationGetRelid(rel), lfirst_int(lc)));
	appendStringInfo(&sql, "%s FROM %s", *attrs == NIL ? "SELECT NULL" : "",
					 remote_table_name(RelationGetRelid(rel)));
	if (can_sample && rows > (double) wanted * SURPLUS)
		appendStringInfo(&sql, " TABLESAMPLE BERNOULLI(%f)", 100.0 * wanted * SURPLUS / rows);
	return sql.data;
}

/* AcquireSampleRowsFunc */
static int
sample_rows(Relation rel, int elevel, HeapTuple *rows, int wanted,
			double *total, double *dead)
{
	Wire	   *wire = wire_of(rel);
	AttInMetadata *in = TupleDescGetAttInMetadata(RelationGetDescr(rel));
	Datum	   *values = palloc(sizeof(Datum) * in->tupdesc->natts);
	bool	   *nulls = palloc(sizeof(bool) * in->tupdesc->natts);
	MemoryContext context = CurrentMemoryContext;
	MemoryContext row_context = AllocSetContextCreate(context, "run_ops row",
													  ALLOCSET_DEFAULT_SIZES);
	List	   *attrs = NIL;
	char	   *sql = sample_query(rel, wanted, &attrs);
	bool		whole = strstr(sql, " TABLESAMPLE ") == NULL;
	ReservoirStateData reservoir;
	PGresult   *result;
	double		seen = 0;
	double		skip = -1;
	int			n = 0;

	reservoir_init_selection_state(&reservoir, wanted);
	wire_begin(wire, WIRE_READ, NULL);
	wire_send(wire, sql, 0, NULL, true);
	while ((result = wire_receive(wire)) != NULL)
	{
		int			at = n;

		compat_vacuum_delay_point();
		if (PQntuples(result) == 0)
			continue;
		seen++;
		if (n == wanted)
		{
			if (skip < 0)
				skip = reservoir_get_next_S(&reservoir, seen - 1, wanted);
			if (skip-- > 0)
				continue;
			at = (int) (wanted * sampler_random_fract(&reservoir.randstate));
			heap_freetuple(rows[at]);
		}
		else
			n++;
		MemoryContextReset(row_context);
		MemoryContextSwitchTo(row_context);
		(void) remote_row_values(result, 0, in, attrs, RelationGetRelationName(rel), values, nulls);
		MemoryContextSwitchTo(context);
		rows[at] = heap_form_tuple(in->tupdesc, values, nulls);
	}
	MemoryContextDelete(row_context);
	*dead = 0;
	*total = seen;
	if (!whole)
		*total = atof(PQgetvalue(table_facts(rel), 0, 1));
	ereport(elevel,
			(errmsg("\"%s\": the store has about %.0f rows; %d of them are in the sample",
					RelationGetRelationName(rel), *total, n)));
	return n;
}

bool
foreign_analyze(Relation rel, AcquireSampleRowsFunc *func, BlockNumber *totalpages)
{
	split_require_active(GetForeignServerIdByRelId(RelationGetRelid(rel)));
	*totalpages = (BlockNumber) Max(atof(PQgetvalue(table_facts(rel), 0, 0)), 0);
	*func = sample_rows;
	return true;
}

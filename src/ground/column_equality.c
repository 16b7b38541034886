/*
 * column_equality.c
 *		Finds the operator that compares the values of a column.
 *
 * In a generated query, "=" is the operator that search_path finds.  For a
 * type of an extension, such as citext, that can be another operator than the
 * one of its unique indexes, or an operator that applies after a cast.  So
 * generated queries name the operator of the type's default operator class.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

PG_FUNCTION_INFO_V1(run_ops_equality_operator);

/*
 * equality_operator(relation regclass, column_name name) returns text
 *
 * Errors: 42703 if there is no such column, 42883 if its type has no equality
 * operator.
 */
Datum
run_ops_equality_operator(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	char	   *column = NameStr(*PG_GETARG_NAME(1));
	AttrNumber	attno = get_attnum(relid, column);
	Oid			type;
	Oid			operator;
	HeapTuple	tuple;
	Form_pg_operator form;
	char	   *result;

	if (attno <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 get_rel_name(relid) ?
				 errmsg("column \"%s\" of relation \"%s\" does not exist",
						column, get_rel_name(relid)) :
				 errmsg("relation with OID %u does not exist", relid)));
	type = getBaseType(get_atttype(relid, attno));
	operator = lookup_type_cache(type, TYPECACHE_EQ_OPR)->eq_opr;
	if (!OidIsValid(operator))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("could not identify an equality operator for type %s",
						format_type_be(type)),
				 errdetail("It is the type of column \"%s\" of table \"%s\".",
						   column, get_rel_name(relid))));
	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(operator));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", operator);
	form = (Form_pg_operator) GETSTRUCT(tuple);
	result = psprintf("OPERATOR(%s.%s)",
					  quote_identifier(get_namespace_name(form->oprnamespace)),
					  NameStr(form->oprname));
	ReleaseSysCache(tuple);
	PG_RETURN_TEXT_P(cstring_to_text(result));
}

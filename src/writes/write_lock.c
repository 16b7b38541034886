/*
 * write_lock.c
 *		The write lock of local tables: while split is on, it refuses a row
 *		that belongs in another store, which would become a stray.
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "storage/proc.h"
#include "utils/rel.h"

#include "ground/compat.h"
#include "ground/errors.h"
#include "stores/read_gate.h"

PG_FUNCTION_INFO_V1(run_ops_refuse_stray);
PG_FUNCTION_INFO_V1(run_ops_allow_strays);

/* the transaction in which strays are allowed */
static LocalTransactionId strays_allowed_in = InvalidLocalTransactionId;

/*
 * refuse_stray() returns trigger
 *
 * Must be AFTER INSERT OR UPDATE, FOR EACH ROW.  Fires only for a row that does
 * not belong in this database.  The argument is the column with the id that
 * decides.
 */
Datum
run_ops_refuse_stray(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	const char *column;
	HeapTuple	row;
	char	   *id;

	/* there is a row, and nothing that a BEFORE trigger would leave out */
	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_AFTER(trigdata->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event) ||
		TRIGGER_FIRED_BY_DELETE(trigdata->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("run_ops.refuse_stray() must be called as a trigger after INSERT or UPDATE for each row")));
	if (trigdata->tg_trigger->tgnargs != 1)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("run_ops.refuse_stray() takes the name of a column, but trigger \"%s\" has %d arguments",
						trigdata->tg_trigger->tgname,
						trigdata->tg_trigger->tgnargs)));
	/*
	 * With split off there is no such trigger, except in a restored copy, whose
	 * data may be restored after its schema.
	 */
	if (strays_allowed_in == compat_local_transaction_id() ||
		!split_switched_on())
		PG_RETURN_POINTER(NULL);
	column = trigdata->tg_trigger->tgargs[0];
	row = TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) ?
		trigdata->tg_newtuple : trigdata->tg_trigtuple;
	id = SPI_getvalue(row, RelationGetDescr(trigdata->tg_relation),
					  SPI_fnumber(RelationGetDescr(trigdata->tg_relation), column));
	ereport(ERROR,
			(errcode(ERRCODE_RUN_OPS_STRAY),
			 errmsg("row does not belong in table \"%s\" while split is on",
					RelationGetRelationName(trigdata->tg_relation)),
			 errdetail("\"%s\" = \"%.64s\" says that the row belongs in another store.",
					   column, id ? id : ""),
			 errhint("Write through the view of the table."),
			 errtable(trigdata->tg_relation)));
}

/*
 * allow_strays() returns void
 *
 * Lifts the write lock until the current transaction ends.
 */
Datum
run_ops_allow_strays(PG_FUNCTION_ARGS)
{
	strays_allowed_in = compat_local_transaction_id();
	PG_RETURN_VOID();
}

/*
 * foreign_import.h
 *		IMPORT FOREIGN SCHEMA.
 */
#ifndef RUN_OPS_FOREIGN_IMPORT_H
#define RUN_OPS_FOREIGN_IMPORT_H

#include "nodes/parsenodes.h"

/* Callback ImportForeignSchema. */
extern List *foreign_import(ImportForeignSchemaStmt *stmt, Oid serverid);

#endif							/* RUN_OPS_FOREIGN_IMPORT_H */

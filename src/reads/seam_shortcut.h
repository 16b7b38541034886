/*
 * seam_shortcut.h
 *		A query for ids of one store is planned as a query on the table of that
 *		store.
 */
#ifndef RUN_OPS_SEAM_SHORTCUT_H
#define RUN_OPS_SEAM_SHORTCUT_H

extern void seam_shortcut_init(void);

#endif							/* RUN_OPS_SEAM_SHORTCUT_H */

/*
 * seam_shortcut.h
 *		A lookup of ids of one store is planned as one of its table.
 */
#ifndef RUN_OPS_SEAM_SHORTCUT_H
#define RUN_OPS_SEAM_SHORTCUT_H

extern void seam_shortcut_init(void);

#endif							/* RUN_OPS_SEAM_SHORTCUT_H */

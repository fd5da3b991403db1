/*
 * Memory that several leases share: a mapping of this process's own, which is unmapped
 * when the last of them is closed. A forked copy has a copy of it.
 */
#ifndef CP_SHEET_H
#define CP_SHEET_H

#include "base/base.h"

#include <stdatomic.h>

struct cp_sheet {
    _Atomic uint32_t refs;
    uint8_t *at;
    size_t size;
    bool is_mapped; /* otherwise it is freed by free() */
    bool
        is_lasting; /* nobody keeps what lies there: it is read again and again */
};

/* Map this file privately: the sheet with one reference, or NULL. [any] */
struct cp_sheet *cp_sheet_map(int fd, size_t size);

/* A sheet of these bytes, which it takes over: with one reference; or NULL, and they are
 * freed. [any] */
struct cp_sheet *cp_sheet_of_take(uint8_t *bytes, size_t size);

void cp_sheet_ref(struct cp_sheet *sheet);   /* [any] */
void cp_sheet_unref(struct cp_sheet *sheet); /* NULL is fine [any] */

#endif

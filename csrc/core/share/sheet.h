/*
 * Memory that several leases share: a mapping of this process, unmapped when
 * the last of these leases is closed. A forked process gets a copy of it.
 */
#ifndef CP_SHEET_H
#define CP_SHEET_H

#include "base/base.h"

#include <stdatomic.h>

struct cp_sheet {
    _Atomic uint32_t refs;
    uint8_t *at;
    size_t size;
    bool is_mapped;  /* otherwise it is freed by free() */
    bool is_lasting; /* decoded again and again: values must not keep leases */
};

/* Map this file privately: a sheet with one reference, or NULL. [any] */
struct cp_sheet *cp_sheet_map(int fd, size_t size);

/* A sheet that takes over these bytes, with one reference. NULL: out of memory,
 * and the bytes are freed. [any] */
struct cp_sheet *cp_sheet_of_take(uint8_t *bytes, size_t size);

void cp_sheet_ref(struct cp_sheet *sheet);   /* [any] */
void cp_sheet_unref(struct cp_sheet *sheet); /* NULL is fine [any] */

#endif

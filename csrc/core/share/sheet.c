/* Mappings that leases share; see share/sheet.h. */
#include "share/sheet.h"

#include <stdlib.h>
#include <sys/mman.h>

static struct cp_sheet *
make(uint8_t *at, size_t size, bool is_mapped)
{
    struct cp_sheet *sheet = calloc(1, sizeof(*sheet));
    if (sheet != NULL) {
        atomic_init(&sheet->refs, 1);
        sheet->at = at;
        sheet->size = size;
        sheet->is_mapped = is_mapped;
    }
    return sheet;
}

struct cp_sheet *
cp_sheet_map(int fd, size_t size)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    struct cp_sheet *sheet = at != MAP_FAILED ? make(at, size, true) : NULL;
    if (sheet == NULL && at != MAP_FAILED) {
        (void)munmap(at, size);
    }
    return sheet;
}

struct cp_sheet *
cp_sheet_of_take(uint8_t *bytes, size_t size)
{
    struct cp_sheet *sheet = make(bytes, size, false);
    if (sheet == NULL) {
        free(bytes);
    } else {
        sheet->is_lasting = true;
    }
    return sheet;
}

void
cp_sheet_ref(struct cp_sheet *sheet)
{
    (void)atomic_fetch_add(&sheet->refs, 1);
}

void
cp_sheet_unref(struct cp_sheet *sheet)
{
    if (sheet == NULL || atomic_fetch_sub(&sheet->refs, 1) != 1) {
        return;
    }
    if (sheet->is_mapped) {
        (void)munmap(sheet->at, sheet->size);
    } else {
        free(sheet->at);
    }
    free(sheet);
}

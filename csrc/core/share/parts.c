/* The parts of a body in shared memory; see share/parts.h. */
#include "share/parts.h"

#include <stdlib.h>
#include <string.h>

int64_t
cp_parts_add(struct cp_parts *parts, const void *bytes, size_t n)
{
    if (parts->like != NULL) {
        uint64_t number = parts->n_like++;
        parts->differs |= !cp_sealed_has_part(parts->like, number, bytes, n);
        return (int64_t)number;
    }
    if (parts->sealed != NULL) {
        int64_t number = cp_sealed_add(parts->sealed, bytes, n);
        return number <= UINT32_MAX - 1 ? number : CP_ENOMEM;
    }
    if (parts->heap == NULL || parts->n == CP_PARTS_MAX) {
        return CP_ENOMEM;
    }
    if (parts->n == parts->cap) {
        uint32_t cap = parts->cap > 0 ? 2 * parts->cap : 4;
        struct cp_ref *refs = realloc(parts->refs, cap * sizeof(*refs));
        if (refs == NULL) {
            return CP_ENOMEM;
        }
        parts->refs = refs;
        parts->cap = cap;
    }
    struct cp_ref *ref = &parts->refs[parts->n];
    int r = cp_heap_put(parts->heap, bytes, n, ref);
    if (r != 0) {
        return r;
    }
    ref->flags = parts->is_private ? CP_REF_PRIVATE : 0;
    parts->bytes += n;
    return parts->n++;
}

void
cp_parts_drop(struct cp_parts *parts, uint32_t n)
{
    while (parts->n > n) {
        const struct cp_ref *ref = &parts->refs[--parts->n];
        parts->bytes -= ref->len;
        cp_heap_drop(parts->heap, ref->slot);
    }
}

void
cp_parts_reset(struct cp_parts *parts)
{
    cp_parts_cut(parts, 0);
    parts->n_like = 0;
    if (parts->sealed != NULL) {
        cp_sealed_reset(parts->sealed);
    }
}

int
cp_parts_seal(const struct cp_parts *parts, struct cp_buf *body)
{
    size_t size = parts->n * sizeof(*parts->refs);
    int r = cp_buf_reserve(body, size + sizeof(parts->n));
    if (r == 0) {
        (void)cp_buf_put(body, parts->refs, size);
        (void)cp_buf_put(body, &parts->n, sizeof(parts->n));
    }
    return r;
}

void
cp_parts_lend(const struct cp_parts *parts, struct cp_borrower *b)
{
    for (uint32_t i = 0; i < parts->n; i++) {
        cp_heap_lend(parts->heap, parts->refs[i].slot, b);
    }
}

void
cp_parts_unlend(const struct cp_parts *parts, struct cp_borrower *b)
{
    for (uint32_t i = 0; i < parts->n; i++) {
        cp_heap_unlend(parts->heap, parts->refs[i].slot, b);
    }
}

void
cp_parts_fini(struct cp_parts *parts)
{
    CP_ASSERT(parts->n_uses == 0);
    cp_parts_cut(parts, 0);
    free(parts->refs);
    free(parts->uses);
    parts->refs = NULL;
    parts->cap = 0;
    parts->uses = NULL;
    parts->cap_uses = 0;
}

/* ---- the receiver ---- */

int
cp_loan_open(struct cp_area *area, struct cp_area *teller, const uint8_t *body,
             size_t *len, struct cp_loan **out)
{
    uint32_t n;
    *out = NULL;
    if (*len < sizeof(n)) {
        return CP_EPROTO;
    }
    memcpy(&n, body + *len - sizeof(n), sizeof(n));
    size_t size = sizeof(n) + (size_t)n * sizeof(struct cp_ref);
    if (n > CP_PARTS_MAX || size > *len) {
        return CP_EPROTO;
    }
    struct cp_loan *loan = calloc(1, sizeof(*loan) + n * sizeof(*loan->leases));
    if (loan == NULL) {
        return CP_ENOMEM;
    }
    *len -= size;
    int r = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct cp_ref ref;
        memcpy(&ref, body + *len + i * sizeof(ref), sizeof(ref));
        int opened = cp_lease_open(area, teller, &ref, &loan->leases[i]);
        r = r != 0 ? r : opened; /* go on: a failure gives the blocks back */
    }
    loan->n = n;
    if (r != 0) {
        cp_loan_close(loan);
        return r;
    }
    *out = loan;
    return 0;
}

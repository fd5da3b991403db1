/* The parts of a body in shared memory; see share/parts.h. */
#include "share/parts.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

/* Room for one more part: false if there is no memory. */
static bool
make_room(struct cp_parts *parts)
{
    size_t cap = parts->cap, same = parts->cap;
    struct cp_ref *refs =
        cp_mem_grow(parts->refs, &cap, parts->n + 1, sizeof(*refs));
    if (refs == NULL) {
        return false;
    }
    parts->refs = refs;
    if (parts->leases != NULL && cap > parts->cap) {
        struct cp_lease **leases =
            cp_mem_grow(parts->leases, &same, cap, sizeof(struct cp_lease *));
        if (leases == NULL) {
            return false;
        }
        memset(leases + parts->cap, 0,
               (cap - parts->cap) * sizeof(struct cp_lease *));
        parts->leases = leases;
    }
    parts->cap = cap;
    return true;
}

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
    return cp_parts_add_pieces(parts, &bytes, 1, n);
}

int64_t
cp_parts_add_later(struct cp_parts *parts, const void *bytes, size_t n)
{
    int64_t number = cp_sealed_add_later(parts->sealed, bytes, n);
    return number <= UINT32_MAX - 1 ? number : CP_ENOMEM;
}

/* Where to put the next part that is stored in the heap; or NULL. */
static struct cp_ref *
next_ref(struct cp_parts *parts)
{
    if (parts->heap == NULL || parts->sealed != NULL || parts->like != NULL
        || parts->n == CP_PARTS_MAX || !make_room(parts)) {
        return NULL;
    }
    return &parts->refs[parts->n];
}

/* The block of this part is filled: its number. */
static int64_t
add(struct cp_parts *parts, struct cp_ref *ref)
{
    ref->flags = parts->is_private ? CP_REF_PRIVATE : 0;
    parts->bytes += ref->len;
    return parts->n++;
}

int64_t
cp_parts_add_small(struct cp_parts *parts, const void *bytes, size_t n)
{
    /* A private mapping of its own would cost more than the copies. */
    struct cp_ref *ref = parts->n < CP_SMALL_PARTS && !parts->is_private
                             ? next_ref(parts)
                             : NULL;
    int r =
        ref != NULL ? cp_heap_put_small(parts->heap, bytes, n, ref) : CP_ENOMEM;
    return r == 0 ? add(parts, ref) : r;
}

int64_t
cp_parts_add_ended(struct cp_parts *parts, const void *bytes, size_t n)
{
    struct cp_ref *ref = next_ref(parts);
    int r =
        ref != NULL ? cp_heap_put_ended(parts->heap, bytes, n, ref) : CP_ENOMEM;
    return r == 0 ? add(parts, ref) : r;
}

int64_t
cp_parts_add_pieces(struct cp_parts *parts, const void *const *pieces,
                    size_t count, size_t each)
{
    struct cp_ref *ref = next_ref(parts);
    int r = ref != NULL
                ? cp_heap_put_pieces(parts->heap, pieces, count, each, ref)
                : CP_ENOMEM;
    return r == 0 ? add(parts, ref) : r;
}

int64_t
cp_parts_move(struct cp_parts *parts, struct cp_lease *lease, const void *at,
              size_t n)
{
    size_t skipped = (size_t)((uintptr_t)at - (uintptr_t)lease->at);
    if (!parts->moves || parts->heap == NULL || parts->n == CP_PARTS_MAX
        || lease->is_part || !cp_lease_may_move(lease)
        || lease->area->region != cp_heap_region(parts->heap)
        || (uintptr_t)at < (uintptr_t)lease->at || skipped > lease->len
        || n > lease->len - skipped
        || n < lease->len / 2 /* a small view would keep a large block */
        || !make_room(parts)) {
        return CP_ENOMEM;
    }
    if (parts->leases == NULL) {
        parts->leases = calloc(parts->cap, sizeof(struct cp_lease *));
        if (parts->leases == NULL) {
            return CP_ENOMEM;
        }
    }
    cp_lease_ref(lease);
    lease->is_part = true;
    parts->leases[parts->n] = lease;
    parts->refs[parts->n] =
        (struct cp_ref){.len = n,
                        .offset = lease->offset + skipped,
                        .index = lease->index,
                        .slot = lease->slot,
                        .size_class = lease->size_class,
                        .flags = lease->is_own ? 0 : CP_REF_BACK};
    parts->bytes += n;
    return parts->n++;
}

/* The lease of this part, or NULL. */
static struct cp_lease *
lease_of(const struct cp_parts *parts, uint32_t i)
{
    return parts->leases != NULL ? parts->leases[i] : NULL;
}

/* The part does not need its lease any more. */
static void
end_lease(struct cp_parts *parts, uint32_t i)
{
    parts->leases[i]->is_part = false;
    cp_lease_close(parts->leases[i]);
    parts->leases[i] = NULL;
}

int
cp_parts_settle(struct cp_parts *parts, struct cp_buf *body)
{
    for (uint32_t i = 0; i < parts->n; i++) {
        struct cp_lease *lease = lease_of(parts, i);
        /* A block that is sent is hidden first: a fork by another thread must
         * not make this process's mapping of it private. */
        if (lease == NULL
            || (cp_lease_is_alone(lease) && cp_lease_hide(lease))) {
            continue;
        }
        struct cp_ref *ref = &parts->refs[i], copy;
        size_t len = (size_t)ref->len;
        const uint8_t *at = lease->at + (ref->offset - lease->offset);
        if (cp_heap_put(parts->heap, at, len, &copy) != 0) {
            copy = (struct cp_ref){.len = len, .flags = CP_REF_INLINE};
            int r = cp_buf_put(body, at, len);
            if (r != 0) {
                return r;
            }
        }
        *ref = copy;
        end_lease(parts, i);
    }
    return 0;
}

void
cp_parts_drop(struct cp_parts *parts, uint32_t n)
{
    while (parts->n > n) {
        uint32_t i = --parts->n;
        const struct cp_ref *ref = &parts->refs[i];
        parts->bytes -= ref->len;
        if (lease_of(parts, i) != NULL) {
            end_lease(parts, i);
        } else if ((ref->flags & CP_REF_INLINE) == 0) {
            cp_heap_drop(parts->heap, ref->slot);
        }
    }
}

uint64_t
cp_parts_count(const struct cp_parts *parts)
{
    return parts->like != NULL     ? parts->n_like
           : parts->sealed != NULL ? cp_sealed_count(parts->sealed)
                                   : parts->n;
}

void
cp_parts_back(struct cp_parts *parts, uint64_t n)
{
    if (parts->like != NULL) {
        parts->n_like = n;
    } else if (parts->sealed != NULL) {
        cp_sealed_cut(parts->sealed, n);
    } else {
        cp_parts_cut(parts, (uint32_t)n);
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
        const struct cp_ref *ref = &parts->refs[i];
        if ((ref->flags & CP_REF_BACK) != 0) {
            parts->leases[i]->is_moved = true;
        } else if ((ref->flags & CP_REF_INLINE) == 0) {
            cp_heap_lend(parts->heap, ref->slot, b);
            if (lease_of(parts, i) != NULL) {
                parts->leases[i]->is_lent = true;
            }
        }
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
    free(parts->leases);
    free(parts->uses);
    parts->refs = NULL;
    parts->leases = NULL;
    parts->cap = 0;
    parts->uses = NULL;
    parts->cap_uses = 0;
}

/* ---- the receiver ---- */

/* A lease of a copy of these bytes: 0 or CP_ENOMEM. */
static int
copy_inline(const uint8_t *bytes, size_t n, struct cp_lease **lease)
{
    *lease = NULL;
    uint8_t *copy = malloc(n > 0 ? n : 1);
    if (copy == NULL) {
        return CP_ENOMEM;
    }
    memcpy(copy, bytes, n);
    struct cp_sheet *sheet = cp_sheet_of_take(copy, n);
    int r = sheet != NULL ? cp_lease_on(sheet, 0, n, lease) : CP_ENOMEM;
    cp_sheet_unref(sheet);
    return r;
}

/* Read a reference. Sets *skip to how many bytes of the body it takes up. */
static struct cp_ref
get_ref(const uint8_t *refs, uint32_t i, uint64_t *skip)
{
    struct cp_ref ref;
    memcpy(&ref, refs + i * sizeof(ref), sizeof(ref));
    *skip = (ref.flags & CP_REF_INLINE) != 0 ? ref.len : 0;
    return ref;
}

static int
open_one(const struct cp_lender *from, struct cp_ref ref, const uint8_t *bytes,
         struct cp_lease **lease)
{
    if ((ref.flags & CP_REF_INLINE) != 0) {
        return copy_inline(bytes, (size_t)ref.len, lease);
    }
    if ((ref.flags & CP_REF_BACK) != 0) {
        return from->heap != NULL
                   ? cp_heap_take_back(from->heap, from->borrower, &ref, lease)
                   : CP_EPROTO;
    }
    ref.flags &= CP_REF_PRIVATE;
    return cp_lease_open(from->area, from->teller, &ref, lease);
}

int
cp_loan_open(const struct cp_lender *from, const uint8_t *body, size_t *len,
             struct cp_loan **out)
{
    uint32_t n;
    uint64_t skip, inside = 0;
    *out = NULL;
    if (*len < sizeof(n)) {
        return CP_EPROTO;
    }
    memcpy(&n, body + *len - sizeof(n), sizeof(n));
    size_t size = sizeof(n) + (size_t)n * sizeof(struct cp_ref);
    if (n > CP_PARTS_MAX || size > *len) {
        return CP_EPROTO;
    }
    const uint8_t *refs = body + *len - size;
    size_t left = *len - size;
    for (uint32_t i = 0; i < n; i++) {
        (void)get_ref(refs, i, &skip);
        if (skip > left - inside) {
            return CP_EPROTO;
        }
        inside += skip;
    }
    struct cp_loan *loan = calloc(1, sizeof(*loan) + n * sizeof(*loan->leases));
    int r = loan != NULL ? 0 : CP_ENOMEM;
    *len = left - (size_t)inside;
    const uint8_t *bytes = body + *len;
    /* All of them, also after a failure: see the header. */
    for (uint32_t i = 0; i < n; i++) {
        struct cp_ref ref = get_ref(refs, i, &skip);
        struct cp_lease *lease = NULL;
        int opened = open_one(from, ref, bytes, &lease);
        bytes += skip;
        r = r != 0 ? r : opened;
        if (loan != NULL) {
            loan->leases[i] = lease;
            loan->n = i + 1;
        } else {
            cp_lease_close(lease);
        }
    }
    if (r != 0) {
        cp_loan_close(loan);
        return r;
    }
    *out = loan;
    return 0;
}

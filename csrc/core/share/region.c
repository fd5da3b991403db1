/* The file of a pool's shared memory, and its mappings; see share/region.h. */
#include "share/region.h"

#include "base/mem.h"
#include "os/fd.h"
#include "os/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined(__linux__) && !defined(CP_PORTABLE) && SIZE_MAX > UINT32_MAX
#    define HAS_SHARE 1
#else
#    define HAS_SHARE 0
#endif

#define AREA_BITS 42u
#define CLASS_BITS 37u
#define CONTROL_SIZE 4096u
/* Small blocks are mapped together. */
#define EXTENT_BITS 21u

_Static_assert(sizeof(struct cp_control) <= CONTROL_SIZE, "it is one page");
_Static_assert(CP_BLOCK_CLASSES + 1 <= 1u << (AREA_BITS - CLASS_BITS),
               "the classes fit into an area");

/* A part of the file whose memory must not be freed. */
struct range {
    uint64_t at, len;
};

struct cp_region {
    _Atomic uint32_t refs;
    pid_t pid; /* of the process that made this struct */
    int fd;
    bool is_made_here; /* false: inherited; only the maker frees the memory */
    _Atomic uint64_t outside; /* bytes outside of the areas */
    _Atomic uint32_t users;   /* of the descriptor; 0: it is closed */
    _Atomic bool is_closed;
    struct cp_control *first; /* of the parent's area */
    /* Blocks that no process here uses any more, but perhaps a forked copy;
     * guarded by the lock of the leases. */
    struct range *lost;
    size_t n_lost, cap_lost;
    bool is_unclean; /* the list is incomplete: free nothing before the end */
};

/*
 * All leases of the process, since a fork concerns them all. The lock is held from
 * before a fork until after it, in both processes; it is the innermost one.
 */
static struct cp_lock lock = {PTHREAD_MUTEX_INITIALIZER};  /* lint-ok: see it */
static struct cp_lease all = {.next = &all, .prev = &all}; /* lint-ok: too */
static pthread_once_t once = PTHREAD_ONCE_INIT;            /* lint-ok: too */

/* ---- the file ---- */

static off_t
offset_of(uint32_t area, unsigned size_class, uint32_t index)
{
    return (off_t)(((uint64_t)area << AREA_BITS)
                   + ((uint64_t)(size_class + 1) << CLASS_BITS)
                   + (uint64_t)index * cp_block_size(size_class));
}

/* May the descriptor be used? If so, it stays open until done_using(). */
static bool
may_use(struct cp_region *region)
{
    uint32_t n = atomic_load(&region->users);
    while (n > 0 && !atomic_compare_exchange_weak(&region->users, &n, n + 1)) {
    }
    return n > 0;
}

static void
done_using(struct cp_region *region)
{
    if (atomic_fetch_sub(&region->users, 1) == 1) {
        cp_fd_close(&region->fd);
    }
}

static void
punch(const struct cp_region *region, uint64_t from, uint64_t to)
{
#if HAS_SHARE
    if (from < to) {
        (void)fallocate(region->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                        (off_t)from, (off_t)(to - from));
    }
#else
    (void)region;
    (void)from;
    (void)to;
#endif
}

static void *
map(const struct cp_region *region, void *at, size_t size, int flags,
    off_t offset)
{
    void *p = mmap(at, size, PROT_READ | PROT_WRITE, flags, region->fd, offset);
    return p != MAP_FAILED ? p : NULL;
}

static void
hide(void *at, size_t size)
{
#ifdef MADV_DONTFORK
    (void)madvise(at, size, MADV_DONTFORK);
#else
    (void)at;
    (void)size;
#endif
}

/* ---- leases and forks ---- */

/* A fork is about to copy this leased block. From now on, what this process
 * writes to the block stays private, and the block is not given back, so nobody
 * else writes to it. */
static void
keep(struct cp_lease *lease)
{
    size_t room = (size_t)cp_block_size(lease->size_class);
    lease->was_forked = true;
    (void)atomic_fetch_add(&lease->area->region->first->kept, lease->len);
    if (lease->is_own && !lease->area->region->is_made_here) {
        struct cp_control *control = lease->teller->control;
        uint32_t n = atomic_fetch_add(&control->n_forked, 1);
        if (n < CP_FORKED_MAX) {
            atomic_store(&control->forked[n],
                         (uint64_t)lease->size_class << 32 | lease->index);
        }
    } else if (lease->area != lease->teller) { /* tell the block's owner */
        (void)atomic_fetch_or(
            &lease->teller->control->kept_returned[lease->slot / 64u],
            UINT64_C(1) << (lease->slot % 64u));
    }
    off_t offset = offset_of(lease->area->id, lease->size_class, lease->index);
    if (!lease->has_own
        && map(lease->area->region, lease->at - lease->offset, room,
               MAP_PRIVATE | MAP_FIXED, offset)
               == NULL) {
#if HAS_SHARE
        /* Too many mappings: share the block with the forked copy. */
        (void)madvise(lease->at - lease->offset, room, MADV_DOFORK);
#endif
    }
}

static void
before(void)
{
    pid_t pid = cp_proc_self();
    cp_lock_acquire(&lock);
    for (struct cp_lease *l = all.next; l != &all; l = l->next) {
        if (atomic_load(&l->is_shown) && !l->was_forked
            && l->area->region->pid == pid) {
            keep(l);
        }
    }
}

static void
after(void)
{
    cp_lock_release(&lock);
}

static void
watch_forks(void)
{
    /* No other hook sees the forks of the program. The module is never
     * unloaded. */
    (void)pthread_atfork(before, after, after); /* lint-ok: see it */
}

static int
by_offset(const void *a, const void *b)
{
    uint64_t x = ((const struct range *)a)->at,
             y = ((const struct range *)b)->at;
    return x < y ? -1 : x > y;
}

/* Is the range within this area? NULL: within any area. */
static bool
is_within(const struct range *range, const struct cp_area *area)
{
    return area == NULL || range->at >> AREA_BITS == area->id;
}

/* Remember a block that a forked copy may use. Call this with the lock of the
 * leases held. */
static void
lose(struct cp_region *region, uint64_t at, uint64_t len)
{
    struct range *lost = cp_mem_grow(region->lost, &region->cap_lost,
                                     region->n_lost + 1, sizeof(*lost));
    if (lost == NULL) {
        region->is_unclean = true;
        return;
    }
    region->lost = lost;
    region->lost[region->n_lost++] = (struct range){at, len};
}

/* Free all memory of the area (NULL: of all areas) that is neither leased nor
 * lost. Returns how many bytes are left. Call this with the lock of the leases
 * held. */
static uint64_t
clean(const struct cp_region *region, const struct cp_area *area)
{
    size_t n = region->n_lost, at = 0;
    uint64_t left = 0;
    struct cp_lease *l;
    for (l = all.next; l != &all; l = l->next) {
        n += l->area->region == region;
    }
    struct range *kept = calloc(n + 1, sizeof(*kept));
    if (kept == NULL || region->is_unclean) {
        free(kept);
        return UINT64_MAX; /* the memory is freed with the file */
    }
    for (size_t i = 0; i < region->n_lost; i++) {
        kept[at] = region->lost[i];
        at += is_within(&kept[at], area);
    }
    for (l = all.next; l != &all; l = l->next) {
        if (l->area->region == region) {
            kept[at] = (struct range){
                (uint64_t)offset_of(l->area->id, l->size_class, l->index),
                l->offset + l->len};
            at += is_within(&kept[at], area);
        }
    }
    qsort(kept, at, sizeof(*kept), by_offset);
    uint64_t id = area != NULL ? area->id : 0;
    uint64_t from = id << AREA_BITS;
    uint64_t end = (area != NULL ? id + 1 : CP_AREAS) << AREA_BITS;
    if (area != NULL) {
        from += CONTROL_SIZE; /* open leases still give back blocks there */
    }
    for (size_t i = 0; i < at; i++) {
        punch(region, from, kept[i].at);
        from = kept[i].at + kept[i].len;
        left += kept[i].len;
    }
    punch(region, from, end);
    free(kept);
    return left;
}

/* ---- regions ---- */

static int
make(int fd, struct cp_region **out)
{
    struct cp_region *region = calloc(1, sizeof(*region));
    if (region == NULL) {
        cp_fd_close(&fd);
        return CP_ENOMEM;
    }
    (void)pthread_once(&once, watch_forks);
    atomic_init(&region->refs, 1);
    atomic_init(&region->users, 1);
    region->pid = cp_proc_self();
    region->fd = fd;
    *out = region;
    return 0;
}

/* Allocate the memory of the area's control page, so that touching the page
 * raises no SIGBUS. Both sides may do so: what is there stays. */
static bool
allocate_control(const struct cp_region *region, uint32_t id)
{
#if HAS_SHARE
    int r;
    do {
        r = fallocate(region->fd, FALLOC_FL_KEEP_SIZE,
                      (off_t)((uint64_t)id << AREA_BITS), CONTROL_SIZE);
    } while (r != 0 && errno == EINTR);
    return r == 0;
#else
    (void)region;
    (void)id;
    return false;
#endif
}

static struct cp_control *
map_control(const struct cp_region *region, uint32_t id)
{
    struct cp_control *control = map(region, NULL, CONTROL_SIZE, MAP_SHARED,
                                     (off_t)((uint64_t)id << AREA_BITS));
    if (control != NULL) {
        hide(control, CONTROL_SIZE);
    }
    return control;
}

/* Map the control page that all processes use; the maker of the region has
 * allocated its memory. */
static int
map_first(struct cp_region *region)
{
    region->first = map_control(region, 0);
    return region->first != NULL ? 0 : CP_ENOMEM;
}

int
cp_region_open(uint64_t limit, struct cp_region **out)
{
    int fd = -1;
    *out = NULL;
    int r = HAS_SHARE
                ? cp_fd_sealed_memory((uint64_t)CP_AREAS << AREA_BITS, &fd)
                : CP_ERRNO(ENOSYS);
    r = r == 0 ? make(fd, out) : r;
    if (r != 0) {
        return r;
    }
    (*out)->is_made_here = true;
    r = allocate_control(*out, 0) ? map_first(*out) : CP_ENOMEM;
    if (r == 0) {
        atomic_store(&(*out)->first->limit, limit);
    } else {
        cp_region_unref(*out);
        *out = NULL;
    }
    return r;
}

int
cp_region_attach(int fd, struct cp_region **out)
{
    *out = NULL;
    int r = make(fd, out);
    if (r == 0 && (r = map_first(*out)) != 0) {
        cp_region_unref(*out);
        *out = NULL;
    }
    return r;
}

int
cp_region_fd(const struct cp_region *region)
{
    return region->fd;
}

bool
cp_region_is_ours(const struct cp_region *region)
{
    return region->pid == cp_proc_self();
}

void
cp_region_close(struct cp_region *region)
{
    if (!cp_region_is_ours(region)) {
        return;
    }
    if (atomic_exchange(&region->is_closed, true)) {
        return;
    }
    cp_lock_acquire(&lock);
    if (all.next != &all && region->is_made_here) {
        (void)clean(region, NULL);
    }
    cp_lock_release(&lock);
    done_using(region);
}

void
cp_region_ref(struct cp_region *region)
{
    (void)atomic_fetch_add(&region->refs, 1);
}

void
cp_region_unref(struct cp_region *region)
{
    if (region == NULL || atomic_fetch_sub(&region->refs, 1) != 1
        || !cp_region_is_ours(region)) {
        return;
    }
    cp_region_close(region);
    if (region->first != NULL) {
        (void)munmap(region->first, CONTROL_SIZE);
    }
    free(region->lost);
    free(region);
}

void
cp_region_lose(struct cp_region *region, uint32_t area_id, unsigned size_class,
               uint32_t index, uint64_t len)
{
    if (region->is_made_here) {
        cp_lock_acquire(&lock);
        lose(region, (uint64_t)offset_of(area_id, size_class, index), len);
        cp_lock_release(&lock);
    }
}

bool
cp_region_may_keep(const struct cp_region *region)
{
    return atomic_load_explicit(&region->first->kept, memory_order_relaxed)
           <= atomic_load_explicit(&region->first->limit, memory_order_relaxed)
                  / 4;
}

bool
cp_region_take(struct cp_region *region, uint64_t bytes)
{
    uint64_t limit = atomic_load(&region->first->limit);
    uint64_t total = atomic_fetch_add(&region->first->total, bytes);
    if (total <= limit && bytes <= limit - total) {
        (void)atomic_fetch_add(&region->outside, bytes);
        return true;
    }
    cp_region_empty(region, bytes);
    return false;
}

void
cp_region_give(struct cp_region *region, uint64_t bytes)
{
    (void)atomic_fetch_sub(&region->outside, bytes);
    cp_region_empty(region, bytes);
}

void
cp_region_empty(struct cp_region *region, uint64_t bytes)
{
    uint64_t total = atomic_load(&region->first->total);
    while (!atomic_compare_exchange_weak(&region->first->total, &total,
                                         total > bytes ? total - bytes : 0)) {
    }
}

/* Bytes of blocks that this process leases or has lost; without those of area 0,
 * unless is_whole. Call this with the lock of the leases held. */
static uint64_t
held(const struct cp_region *region, bool is_whole)
{
    uint64_t bytes = 0;
    for (const struct cp_lease *l = all.next; l != &all; l = l->next) {
        if (l->area->region == region && (is_whole || l->area->id != 0)) {
            bytes += l->offset + l->len;
        }
    }
    for (size_t i = 0; i < region->n_lost; i++) {
        if (is_whole || region->lost[i].at >> AREA_BITS != 0) {
            bytes += region->lost[i].len;
        }
    }
    return bytes;
}

/* Bytes of memory that the file takes. */
static uint64_t
memory_of(struct cp_region *region)
{
    struct stat st;
    uint64_t bytes = 0;
    if (may_use(region)) {
        bytes = fstat(region->fd, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
        done_using(region);
    }
    return bytes;
}

void
cp_region_usage(struct cp_region *region, uint64_t used_first,
                struct cp_usage *usage)
{
    cp_lock_acquire(&lock);
    bool is_closed = atomic_load(&region->is_closed);
    uint64_t used = atomic_load(&region->outside) + (is_closed ? 0 : used_first)
                    + held(region, is_closed);
    cp_lock_release(&lock);
    uint64_t total = atomic_load(&region->outside) + memory_of(region);
    /* What is just being written is in use already. */
    *usage =
        (struct cp_usage){.total = total, .used = used < total ? used : total};
}

/* ---- areas ---- */

int
cp_area_open(struct cp_region *region, uint32_t id, struct cp_area **out)
{
    *out = NULL;
    if (id >= CP_AREAS || !may_use(region)) {
        return CP_ECLOSED;
    }
    done_using(region);
    struct cp_area *area = calloc(1, sizeof(*area));
    if (area == NULL || cp_lock_init(&area->lock) != 0) {
        free(area);
        return CP_ENOMEM;
    }
    atomic_init(&area->refs, 1);
    cp_region_ref(region);
    area->region = region;
    area->id = id;
    *out = area;
    return 0;
}

void
cp_area_ref(struct cp_area *area)
{
    (void)atomic_fetch_add(&area->refs, 1);
}

/* Several small blocks share one extent. */
static unsigned
extent_shift(unsigned size_class)
{
    unsigned bits = CP_BLOCK_BITS + size_class;
    return bits < EXTENT_BITS ? EXTENT_BITS - bits : 0;
}

/* The area's owner has ended, and the last lease is closed: nobody uses the control
 * page any more. */
static void
free_control(const struct cp_area *area)
{
    struct cp_region *region = area->region;
    if (area->is_retired && region->is_made_here && may_use(region)) {
        uint64_t at = (uint64_t)area->id << AREA_BITS;
        punch(region, at, at + CONTROL_SIZE);
        done_using(region);
    }
}

void
cp_area_unref(struct cp_area *area)
{
    if (area == NULL || atomic_fetch_sub(&area->refs, 1) != 1
        || !cp_region_is_ours(area->region)) {
        return;
    }
    for (unsigned c = 0; c < CP_BLOCK_CLASSES; c++) {
        size_t size = (size_t)cp_block_size(c) << extent_shift(c);
        for (size_t i = 0; i < area->extents[c].n; i++) {
            if (area->extents[c].at[i] != NULL) {
                (void)munmap(area->extents[c].at[i], size);
            }
        }
        free(area->extents[c].at);
    }
    if (area->control != NULL) {
        (void)munmap(area->control, CONTROL_SIZE);
        free_control(area);
    }
    cp_region_unref(area->region);
    cp_lock_fini(&area->lock);
    free(area);
}

/* Remember the blocks that the owner of the area used itself during a fork. */
static void
lose_forked(struct cp_area *area, const struct cp_control *control)
{
    uint32_t n = control != NULL ? atomic_load(&control->n_forked) : 0;
    for (uint32_t i = 0; i < n && i < CP_FORKED_MAX; i++) {
        uint64_t block = atomic_load(&control->forked[i]);
        struct cp_ref ref = {.index = (uint32_t)block,
                             .size_class = (uint8_t)(block >> 32)};
        if (block >> 40 == 0 && cp_ref_is_valid(&ref)) {
            lose(area->region,
                 (uint64_t)offset_of(area->id, ref.size_class, ref.index),
                 cp_block_size(ref.size_class));
        }
    }
    area->region->is_unclean |= n > CP_FORKED_MAX;
}

/* Does the file have memory for any page of this area? Most workers never use
 * theirs, and then not even its control page has. */
static bool
has_memory(const struct cp_area *area)
{
#if HAS_SHARE
    uint64_t end = ((uint64_t)area->id + 1) << AREA_BITS;
    off_t at = lseek(area->region->fd, (off_t)((uint64_t)area->id << AREA_BITS),
                     SEEK_DATA);
    return at >= 0 ? (uint64_t)at < end : errno != ENXIO;
#else
    (void)area;
    return true;
#endif
}

void
cp_area_retire(struct cp_area *area)
{
    if (area == NULL || !cp_region_is_ours(area->region)
        || !may_use(area->region)) {
        return;
    }
    bool was_used = has_memory(area);
    struct cp_control *control = was_used ? cp_area_control(area) : NULL;
    uint64_t filled = control != NULL ? atomic_load(&control->filled) : 0;
    cp_lock_acquire(&lock);
    if (!atomic_exchange(&area->is_retired, true) && was_used) {
        lose_forked(area, control);
        uint64_t left = clean(area->region, area);
        cp_region_empty(area->region, filled > left ? filled - left : 0);
    }
    cp_lock_release(&lock);
    done_using(area->region);
}

bool
cp_area_keeps(struct cp_area *area, uint16_t slot)
{
    struct cp_control *control = cp_area_control(area);
    return control == NULL
           || (atomic_load(&control->kept_returned[slot / 64u]) >> (slot % 64u)
               & 1)
                  != 0;
}

struct cp_control *
cp_area_control(struct cp_area *area)
{
    cp_lock_acquire(&area->lock);
    if (area->control == NULL && may_use(area->region)) {
        area->control = allocate_control(area->region, area->id)
                            ? map_control(area->region, area->id)
                            : NULL;
        done_using(area->region);
    }
    struct cp_control *control = area->control;
    cp_lock_release(&area->lock);
    return control;
}

/* The place where the address of the extent is kept, or NULL. */
static uint8_t **
extent_place(struct cp_extents *extents, uint32_t i)
{
    size_t n = extents->n;
    uint8_t **at = cp_mem_grow(extents->at, &n, (size_t)i + 1, sizeof(*at));
    if (at == NULL) {
        return NULL;
    }
    memset(at + extents->n, 0, (n - extents->n) * sizeof(*at));
    extents->at = at;
    extents->n = n;
    return &at[i];
}

uint8_t *
cp_area_map(struct cp_area *area, unsigned size_class, uint32_t index)
{
    unsigned shift = extent_shift(size_class);
    size_t size = (size_t)cp_block_size(size_class) << shift;
    uint32_t first = index >> shift << shift;
    cp_lock_acquire(&area->lock);
    uint8_t **place = extent_place(&area->extents[size_class], index >> shift);
    if (place != NULL && *place == NULL && may_use(area->region)) {
        *place = map(area->region, NULL, size, MAP_SHARED,
                     offset_of(area->id, size_class, first));
        if (*place != NULL) {
            hide(*place, size);
        }
        done_using(area->region);
    }
    uint8_t *at = place != NULL ? *place : NULL;
    cp_lock_release(&area->lock);
    return at != NULL ? at + (size_t)(index - first) * cp_block_size(size_class)
                      : NULL;
}

int
cp_area_write(struct cp_area *area, const struct cp_ref *ref, const void *bytes)
{
    const uint8_t *at = bytes;
    off_t offset =
        offset_of(area->id, ref->size_class, ref->index) + (off_t)ref->offset;
    uint64_t left = ref->len;
    int r = 0;
    if (!may_use(area->region)) {
        return CP_ECLOSED;
    }
    while (left > 0 && r == 0) {
        size_t n = left < UINT64_C(1) << 30 ? (size_t)left : (size_t)1 << 30;
        ssize_t written = pwrite(area->region->fd, at, n, offset);
        if (written > 0) {
            at += written;
            offset += written;
            left -= (uint64_t)written;
        } else if (written == 0 || errno != EINTR) {
            r = CP_ERRNO(written == 0 ? ENOSPC : errno);
        }
    }
    done_using(area->region);
    return r;
}

int
cp_area_fill(struct cp_area *area, const struct cp_ref *ref, uint8_t *at,
             size_t n)
{
    int r = CP_ERRNO(ENOSYS);
#if HAS_SHARE
    if (!may_use(area->region)) {
        return CP_ECLOSED;
    }
#    ifdef MADV_POPULATE_WRITE
    /* From Linux 5.14 on: one call instead of a fault for each page. */
    r = madvise(at, n, MADV_POPULATE_WRITE) == 0 ? 0 : CP_ERRNO(errno);
#    endif
    off_t offset = offset_of(area->id, ref->size_class, ref->index);
    while (r == CP_ERRNO(EINVAL) || r == CP_ERRNO(ENOSYS)
           || r == CP_ERRNO(EINTR)) {
        r = fallocate(area->region->fd, FALLOC_FL_KEEP_SIZE, offset, (off_t)n)
                    == 0
                ? 0
                : CP_ERRNO(errno);
        if (r != CP_ERRNO(EINTR)) {
            break;
        }
    }
    done_using(area->region);
#else
    (void)area;
    (void)ref;
    (void)at;
    (void)n;
#endif
    return r;
}

void
cp_area_punch(struct cp_area *area, unsigned size_class, uint32_t index)
{
    if (may_use(area->region)) {
        uint64_t from = (uint64_t)offset_of(area->id, size_class, index);
        punch(area->region, from, from + cp_block_size(size_class));
        done_using(area->region);
    }
}

bool
cp_ref_is_valid(const struct cp_ref *ref)
{
    return ref->slot < CP_BLOCK_SLOTS && ref->size_class < CP_BLOCK_CLASSES
           && ref->index < CP_BLOCK_SLOTS
           && ref->index < UINT64_C(1) << CLASS_BITS >> CP_BLOCK_BITS
                  >> ref->size_class
           && ref->offset <= cp_block_size(ref->size_class)
           && ref->len <= cp_block_size(ref->size_class) - ref->offset;
}

/* ---- leases ---- */

/* The word in which this block is given back. */
static _Atomic uint64_t *
word_of(struct cp_control *control, const struct cp_area *area,
        const struct cp_area *teller, uint16_t slot, bool is_own)
{
    _Atomic uint64_t *words = is_own           ? control->own
                              : area == teller ? control->given
                                               : control->returned;
    return &words[slot / 64u];
}

/* Tell the owner of the block that it can use it again. */
static void
give_back(const struct cp_area *area, struct cp_area *teller, uint16_t slot,
          bool is_own)
{
    struct cp_control *control = cp_area_control(teller);
    if (control != NULL) {
        (void)atomic_fetch_or(word_of(control, area, teller, slot, is_own),
                              UINT64_C(1) << (slot % 64u));
    }
}

/* The lease has given its block back. If the owner rests, it will not see that
 * for long: free the memory for it. Only whoever has cleared the bit may touch
 * the block. Not blocks that others may have: those of the parent that a worker was
 * lent, and those that were sent on. */
static void
empty(const struct cp_lease *lease)
{
    struct cp_control *control = cp_area_control(lease->teller);
    if (control == NULL || lease->area != lease->teller || lease->is_lent
        || atomic_load(&control->rests) == 0) {
        return;
    }
    uint64_t bit = UINT64_C(1) << (lease->slot % 64u);
    _Atomic uint64_t *word = word_of(control, lease->area, lease->teller,
                                     lease->slot, lease->is_own);
    if ((atomic_fetch_and(word, ~bit) & bit) != 0) {
        cp_area_punch(lease->area, lease->size_class, lease->index);
        (void)atomic_fetch_or(&control->emptied[lease->slot / 64u], bit);
        (void)atomic_fetch_or(word, bit);
    }
}

static void
add(struct cp_lease *lease)
{
    cp_lock_acquire(&lock);
    lease->next = &all;
    lease->prev = all.prev;
    all.prev->next = lease;
    all.prev = lease;
    cp_lock_release(&lock);
}

int
cp_lease_open(struct cp_area *area, struct cp_area *teller,
              const struct cp_ref *ref, struct cp_lease **out)
{
    *out = NULL;
    if (!cp_ref_is_valid(ref)) {
        return CP_EPROTO;
    }
    if (!may_use(area->region)) {
        return CP_ECLOSED;
    }
    bool is_own = (ref->flags & CP_REF_OWN) != 0;
    struct cp_lease *lease = calloc(1, sizeof(*lease));
    if (lease != NULL) {
        lease->has_own = (ref->flags & CP_REF_PRIVATE) != 0;
        lease->at =
            lease->has_own ? map(
                area->region, NULL, (size_t)cp_block_size(ref->size_class),
                MAP_PRIVATE, offset_of(area->id, ref->size_class, ref->index))
                           : cp_area_map(area, ref->size_class, ref->index);
    }
    /* Map the control page now: giving the block back must not fail later. */
    if (lease == NULL || lease->at == NULL || cp_area_control(teller) == NULL) {
        if (lease != NULL && lease->at != NULL && lease->has_own) {
            (void)munmap(lease->at, (size_t)cp_block_size(ref->size_class));
        }
        if (!is_own) {
            give_back(area, teller, ref->slot, false);
        }
        done_using(area->region);
        free(lease);
        return CP_ENOMEM;
    }
    cp_area_ref(area);
    cp_area_ref(teller);
    atomic_init(&lease->refs, 1);
    lease->at += ref->offset;
    lease->offset = (size_t)ref->offset;
    lease->len = (size_t)ref->len;
    lease->is_own = is_own;
    lease->area = area;
    lease->teller = teller;
    lease->slot = ref->slot;
    lease->size_class = ref->size_class;
    lease->index = ref->index;
    add(lease);
    *out = lease;
    return 0;
}

int
cp_lease_on(struct cp_sheet *sheet, uint64_t offset, size_t len,
            struct cp_lease **out)
{
    struct cp_lease *lease = calloc(1, sizeof(*lease));
    *out = lease;
    if (lease == NULL) {
        return CP_ENOMEM;
    }
    atomic_init(&lease->refs, 1);
    cp_sheet_ref(sheet);
    lease->sheet = sheet;
    lease->at = sheet->at + offset;
    lease->len = len;
    return 0;
}

bool
cp_lease_may_keep(const struct cp_lease *lease)
{
    return lease->sheet != NULL ? !lease->sheet->is_lasting
                                : cp_region_may_keep(lease->area->region);
}

bool
cp_lease_may_move(const struct cp_lease *lease)
{
    if (lease->sheet != NULL || lease->has_own) {
        return false;
    }
    cp_lock_acquire(&lock);
    bool was_forked = lease->was_forked;
    cp_lock_release(&lock);
    return !was_forked;
}

bool
cp_lease_is_alone(const struct cp_lease *lease)
{
    return atomic_load(&lease->refs) == 1;
}

void
cp_lease_ref(struct cp_lease *lease)
{
    (void)atomic_fetch_add(&lease->refs, 1);
}

void
cp_lease_show(struct cp_lease *lease)
{
    atomic_store(&lease->is_shown, true);
}

bool
cp_lease_hide(struct cp_lease *lease)
{
    cp_lock_acquire(&lock);
    bool was_forked = lease->was_forked;
    if (!was_forked) {
        atomic_store(&lease->is_shown, false);
    }
    cp_lock_release(&lock);
    return !was_forked;
}

void
cp_lease_close(struct cp_lease *lease)
{
    if (lease == NULL || atomic_fetch_sub(&lease->refs, 1) != 1) {
        return;
    }
    if (lease->sheet != NULL) {
        cp_sheet_unref(lease->sheet);
        free(lease);
        return;
    }
    struct cp_area *area = lease->area;
    struct cp_region *region = area->region;
    size_t room = (size_t)cp_block_size(lease->size_class);
    bool is_ours = cp_region_is_ours(region);
    cp_lock_acquire(&lock);
    lease->prev->next = lease->next;
    lease->next->prev = lease->prev;
    bool is_made_here = is_ours && region->is_made_here;
    if (is_made_here && lease->was_forked) {
        lose(region,
             (uint64_t)offset_of(area->id, lease->size_class, lease->index),
             lease->offset + lease->len);
    } else if (is_made_here && (region->is_closed || area->is_retired)) {
        cp_area_punch(area, lease->size_class, lease->index);
        /* As clean() has counted it: a view may begin within its block. */
        cp_region_empty(region, lease->offset + lease->len);
    }
    cp_lock_release(&lock);
    if (lease->has_own) {
        (void)munmap(lease->at - lease->offset, room);
    } else if (lease->was_forked) {
#if HAS_SHARE
        (void)madvise(lease->at - lease->offset, room, MADV_DONTNEED);
#endif
    }
    if (is_ours && !lease->was_forked && !lease->is_moved) {
        give_back(area, lease->teller, lease->slot, lease->is_own);
        empty(lease);
    }
    if (is_ours) {
        cp_area_unref(lease->teller);
        done_using(region);
    }
    cp_area_unref(area);
    free(lease);
}

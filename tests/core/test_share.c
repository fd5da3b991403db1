/* Shared memory for large data: regions, blocks, leases, forks. */
#include "cp_test.h"
#include "lone.h"

#include "base/buf.h"
#include "os/fd.h"
#include "share/parts.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

#ifndef CP_PORTABLE

/* The two ends of one worker, in one process or in two. */
struct ends {
    struct cp_region *region;
    struct cp_area *first, *own; /* the parent's area, the worker's */
    struct cp_heap *heap, *back; /* the parent's, the worker's */
    struct cp_borrower worker, parent;
};

static void
open_ends(struct ends *e, uint64_t limit)
{
    CHECK_EQ(cp_region_open(limit, &e->region), 0);
    CHECK_EQ(cp_area_open(e->region, 0, &e->first), 0);
    CHECK_EQ(cp_area_open(e->region, 1, &e->own), 0);
    CHECK_EQ(cp_heap_new(e->first, &e->heap), 0);
    CHECK_EQ(cp_heap_new(e->own, &e->back), 0);
    cp_heap_meet(e->heap, &e->worker, e->own);
    cp_heap_meet(e->back, &e->parent, e->own);
}

static void
close_ends(struct ends *e)
{
    cp_heap_forget(e->heap, &e->worker);
    cp_heap_forget(e->back, &e->parent);
    cp_heap_free(e->heap);
    cp_heap_free(e->back);
    cp_area_unref(e->first);
    cp_area_unref(e->own);
    cp_region_close(e->region);
    cp_region_unref(e->region);
}

/* How much memory the file takes. */
static uint64_t
memory_of(const struct cp_region *region)
{
    struct stat st;
    CHECK_EQ(fstat(cp_region_fd(region), &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

/* As cp_test_pattern(), but each page is a copy of the first one. */
static uint8_t *
pattern(size_t n, uint64_t seed)
{
    uint8_t *bytes = malloc(n + 4096);
    CHECK(bytes != NULL);
    cp_test_pattern(bytes, 4096, seed);
    for (size_t at = 4096; at < n; at += 4096) {
        memcpy(bytes + at, bytes, 4096);
    }
    return bytes;
}

static void
check_pattern(const uint8_t *bytes, size_t n, uint64_t seed)
{
    uint8_t *should = pattern(n, seed);
    CHECK_BYTES(bytes, should, n);
    free(should);
}

/* Put n bytes of this pattern into a block, lend it, and drop the reference. */
static struct cp_ref
lend(struct cp_heap *heap, struct cp_borrower *to, size_t n, uint64_t seed)
{
    struct cp_ref ref;
    uint8_t *bytes = pattern(n, seed);
    CHECK_EQ(cp_heap_put(heap, bytes, n, &ref), 0);
    free(bytes);
    cp_heap_lend(heap, ref.slot, to);
    cp_heap_drop(heap, ref.slot);
    return ref;
}

TEST(share_bytes_both_ways)
{
    struct ends e;
    int before = cp_test_descriptors();
    open_ends(&e, 1024 * MIB);
    for (size_t n = 1; n < 20 * MIB; n = n * 3 + 17) {
        struct cp_lease *lease;
        struct cp_ref ref = lend(e.heap, &e.worker, n, n);
        CHECK_EQ(cp_lease_open(e.first, e.own, &ref, &lease), 0);
        CHECK_EQ(lease->len, n);
        CHECK_EQ((uintptr_t)lease->at % 64, 0);
        check_pattern(lease->at, n, n);
        cp_lease_close(lease);
        ref = lend(e.back, &e.parent, n, n + 1);
        CHECK_EQ(cp_lease_open(e.own, e.own, &ref, &lease), 0);
        check_pattern(lease->at, n, n + 1);
        cp_lease_close(lease);
    }
    close_ends(&e);
    CHECK_EQ(cp_test_descriptors(), before);
}

TEST(share_blocks_are_used_again)
{
    struct ends e;
    struct cp_heap_counts counts;
    open_ends(&e, 1024 * MIB);
    const uint8_t *at = NULL;
    for (int i = 0; i < 100; i++) {
        struct cp_lease *lease;
        struct cp_ref ref = lend(e.heap, &e.worker, 3 * MIB, (uint64_t)i);
        CHECK_EQ(cp_lease_open(e.first, e.own, &ref, &lease), 0);
        CHECK(at == NULL || at == lease->at);
        at = lease->at;
        check_pattern(at, 3 * MIB, (uint64_t)i);
        cp_lease_close(lease);
    }
    cp_heap_count(e.heap, &counts);
    CHECK_EQ(counts.n_slots, 1);
    CHECK_EQ(counts.n_used, 0);
    CHECK_EQ(counts.filled, 3 * MIB);
    close_ends(&e);
}

TEST(share_a_lease_keeps_its_block)
{
    struct ends e;
    struct cp_lease *kept, *other;
    open_ends(&e, 1024 * MIB);
    struct cp_ref ref = lend(e.heap, &e.worker, MIB, 1);
    CHECK_EQ(cp_lease_open(e.first, e.own, &ref, &kept), 0);
    for (uint64_t i = 2; i < 10; i++) {
        ref = lend(e.heap, &e.worker, MIB, i);
        CHECK_EQ(cp_lease_open(e.first, e.own, &ref, &other), 0);
        CHECK(other->at != kept->at);
        memset(other->at, 0, MIB);
        cp_lease_close(other);
    }
    check_pattern(kept->at, MIB, 1);
    cp_lease_close(kept);
    close_ends(&e);
}

/* A zero byte behind the bytes, in a new block, in a warm one, and where the bytes
 * end with a page or would fill a block. */
TEST(share_bytes_with_an_end)
{
    struct ends e;
    struct cp_lease *lease;
    struct cp_ref ref;
    open_ends(&e, 64 * MIB);
    static const size_t sizes[] = {MIB - 4096, MIB - 7, MIB - 1, MIB, MIB + 1};
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < 5; i++) {
            size_t n = sizes[i];
            uint8_t *bytes = pattern(n, n);
            CHECK_EQ(cp_heap_put_ended(e.heap, bytes, n, &ref), 0);
            cp_heap_lend(e.heap, ref.slot, &e.worker);
            cp_heap_drop(e.heap, ref.slot);
            CHECK_EQ(ref.len, n);
            CHECK_EQ(cp_lease_open(e.first, e.own, &ref, &lease), 0);
            check_pattern(lease->at, n, n);
            CHECK(n < cp_block_size(lease->size_class));
            CHECK_EQ(lease->at[n], 0);
            memset(lease->at, 1, (size_t)cp_block_size(lease->size_class));
            cp_lease_close(lease);
            free(bytes);
        }
    }
    close_ends(&e);
}

TEST(share_limit)
{
    struct ends e;
    struct cp_ref refs[8], ref;
    struct cp_heap_counts counts;
    uint8_t *bytes = pattern(2 * MIB, 5);
    open_ends(&e, 8 * MIB);
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(cp_heap_put(e.heap, bytes, 2 * MIB, &refs[i]), 0);
    }
    CHECK_EQ(cp_heap_put(e.heap, bytes, CP_KIB(64), &ref), CP_ENOMEM);
    /* One limit applies to both directions. */
    CHECK_EQ(cp_heap_put(e.back, bytes, CP_KIB(64), &ref), CP_ENOMEM);
    CHECK(memory_of(e.region) <= 8 * MIB + 2 * CP_KIB(64));
    /* A block that nobody uses makes room, even for one of another size. */
    cp_heap_drop(e.heap, refs[0].slot);
    CHECK_EQ(cp_heap_put(e.heap, bytes, CP_KIB(64), &ref), 0);
    CHECK_EQ(cp_heap_put(e.back, bytes, CP_KIB(256), &refs[4]), 0);
    cp_heap_count(e.heap, &counts);
    CHECK_EQ(counts.n_used, 4);
    CHECK_EQ(counts.filled, 6 * MIB + CP_KIB(64));
    CHECK(memory_of(e.region) <= 8 * MIB + 2 * CP_KIB(64));
    /* The memory of a worker that has ended goes back to the pool. */
    cp_heap_drop(e.back, refs[4].slot);
    uint64_t with = memory_of(e.region);
    cp_area_retire(e.own);
    CHECK(memory_of(e.region) <= with - CP_KIB(256));
    free(bytes);
    close_ends(&e);
}

/* In use are so many bytes, and so many more are kept. The file may have a few
 * pages for the areas, and parts of pages. */
static void
check_usage(struct cp_heap *heap, uint64_t used, uint64_t more)
{
    struct cp_usage usage;
    cp_heap_usage(heap, &usage);
    CHECK_EQ(usage.used, used);
    CHECK(usage.total >= used + more);
    CHECK(usage.total <= used + more + CP_KIB(64));
}

TEST(share_usage)
{
    struct ends e;
    struct cp_lease *lease;
    struct cp_heap_counts counts;
    open_ends(&e, 1024 * MIB);
    check_usage(e.heap, 0, 0);
    /* A block is in use until the worker gives it back; its memory stays. */
    struct cp_ref ref = lend(e.heap, &e.worker, MIB, 1);
    check_usage(e.heap, MIB, 0);
    CHECK_EQ(cp_lease_open(e.first, e.own, &ref, &lease), 0);
    check_usage(e.heap, MIB, 0);
    cp_lease_close(lease);
    check_usage(e.heap, 0, MIB);
    cp_heap_count(e.heap, &counts);
    check_usage(e.heap, 0, MIB);
    /* The rest of a block that was not written to takes nothing. */
    CHECK_EQ(cp_heap_take(e.heap, MIB + 5000, &lease), 0);
    check_usage(e.heap, MIB + 5000, MIB);
    cp_lease_close(lease);
    check_usage(e.heap, 0, 2 * MIB + 5000);
    /* A worker's block is in use while the parent has it. */
    uint64_t more = 2 * MIB + 5000;
    ref = lend(e.back, &e.parent, 4 * MIB, 2);
    check_usage(e.heap, 0, more + 4 * MIB);
    CHECK_EQ(cp_lease_open(e.own, e.own, &ref, &lease), 0);
    check_usage(e.heap, 4 * MIB, more);
    /* So is what lies outside. A count that is refused is none. */
    CHECK(cp_region_take(e.region, MIB));
    check_usage(e.heap, 5 * MIB, more);
    CHECK(!cp_region_take(e.region, 1024 * MIB));
    check_usage(e.heap, 5 * MIB, more);
    cp_region_give(e.region, MIB);
    check_usage(e.heap, 4 * MIB, more);
    /* A forked copy cannot tell. It may use the lease's block for ever. */
    cp_lease_show(lease);
    int pid = cp_test_fork();
    if (pid == 0) {
        struct cp_usage usage = {1, 1};
        cp_heap_usage(e.heap, &usage);
        CHECK(usage.used == 0 && usage.total == 0);
        _exit(0);
    }
    CHECK_EQ(cp_test_reap(pid), 0);
    check_usage(e.heap, 4 * MIB, more);
    cp_lease_close(lease);
    check_usage(e.heap, 4 * MIB, more);
    close_ends(&e);
}

/* A block that several workers have is in use until the last gives it back. */
TEST(share_usage_of_what_several_have)
{
    struct ends e;
    struct cp_area *other;
    struct cp_borrower second;
    struct cp_lease *leases[2];
    open_ends(&e, 1024 * MIB);
    CHECK_EQ(cp_area_open(e.region, 2, &other), 0);
    cp_heap_meet(e.heap, &second, other);
    struct cp_ref ref;
    uint8_t *bytes = pattern(MIB, 1);
    CHECK_EQ(cp_heap_put(e.heap, bytes, MIB, &ref), 0);
    free(bytes);
    ref.flags = CP_REF_PRIVATE;
    cp_heap_lend(e.heap, ref.slot, &e.worker);
    cp_heap_lend(e.heap, ref.slot, &second);
    cp_heap_drop(e.heap, ref.slot);
    CHECK_EQ(cp_lease_open(e.first, e.own, &ref, &leases[0]), 0);
    CHECK_EQ(cp_lease_open(e.first, other, &ref, &leases[1]), 0);
    cp_lease_close(leases[0]);
    check_usage(e.heap, MIB, 0);
    cp_lease_close(leases[1]);
    check_usage(e.heap, 0, MIB);
    cp_heap_forget(e.heap, &second);
    cp_area_unref(other);
    close_ends(&e);
}

/* Of a closed region only that is left which somebody has. */
TEST(share_usage_of_a_closed_region)
{
    struct ends e;
    struct cp_lease *theirs, *own, *unused;
    open_ends(&e, 1024 * MIB);
    struct cp_ref ref = lend(e.back, &e.parent, 4 * MIB, 1);
    CHECK_EQ(cp_lease_open(e.own, e.own, &ref, &theirs), 0);
    CHECK_EQ(cp_heap_take(e.heap, MIB, &own), 0);
    CHECK_EQ(cp_heap_take(e.heap, 2 * MIB, &unused), 0);
    cp_lease_close(unused);
    CHECK(cp_region_take(e.region, MIB));
    check_usage(e.heap, 6 * MIB, 2 * MIB);
    cp_area_retire(e.own);
    check_usage(e.heap, 6 * MIB, 2 * MIB);
    cp_region_close(e.region);
    check_usage(e.heap, 6 * MIB, 0);
    cp_lease_close(theirs);
    check_usage(e.heap, 2 * MIB, 0);
    cp_lease_close(own);
    check_usage(e.heap, MIB, 0);
    cp_region_give(e.region, MIB);
    check_usage(e.heap, 0, 0);
    close_ends(&e);
}

TEST(share_names_of_blocks_run_out)
{
    struct ends e;
    struct cp_ref ref;
    uint8_t byte = 7;
    open_ends(&e, 1024 * MIB);
    for (uint32_t i = 0; i < CP_BLOCK_SLOTS; i++) {
        CHECK_EQ(cp_heap_put(e.heap, &byte, 1, &ref), 0);
        CHECK(cp_ref_is_valid(&ref));
    }
    CHECK_EQ(cp_heap_put(e.heap, &byte, 1, &ref), CP_ENOMEM);
    cp_heap_drop(e.heap, 4000);
    CHECK_EQ(cp_heap_put(e.heap, &byte, 1, &ref), 0);
    CHECK_EQ(ref.slot, 4000);
    close_ends(&e);
}

TEST(share_small_parts_leave_room)
{
    struct ends e;
    struct cp_ref ref, large;
    struct cp_heap_counts counts;
    uint8_t *bytes = pattern(MIB, 6);
    open_ends(&e, 1024 * MIB);
    for (uint32_t i = 0; i < CP_SMALL_BLOCKS; i++) {
        CHECK_EQ(cp_heap_put_small(e.heap, bytes, 4096, &ref), 0);
    }
    CHECK_EQ(cp_heap_put_small(e.heap, bytes, CP_KIB(64), &ref), CP_ENOMEM);
    /* Blocks of other sizes have slots of their own; so do large parts. */
    CHECK_EQ(cp_heap_put_small(e.heap, bytes, CP_KIB(65), &large), 0);
    CHECK_EQ(cp_heap_put(e.heap, bytes, CP_KIB(64), &large), 0);
    CHECK_EQ(cp_heap_put(e.heap, bytes, MIB, &large), 0);
    /* A block that is free is used again. */
    cp_heap_drop(e.heap, 7);
    CHECK_EQ(cp_heap_put_small(e.heap, bytes, CP_KIB(64), &ref), 0);
    CHECK_EQ(ref.slot, 7);
    CHECK_BYTES(cp_area_map(e.first, ref.size_class, ref.index), bytes,
                CP_KIB(64));
    cp_heap_count(e.heap, &counts);
    CHECK_EQ(counts.n_used, CP_SMALL_BLOCKS + 3);
    free(bytes);
    close_ends(&e);
}

TEST(share_small_parts_take_no_memory_from_others)
{
    struct ends e;
    struct cp_ref ref, large;
    struct cp_heap_counts counts;
    uint8_t *bytes = pattern(MIB, 7);
    open_ends(&e, MIB);
    CHECK_EQ(cp_heap_put(e.heap, bytes, MIB, &large), 0);
    CHECK_EQ(cp_heap_put_small(e.heap, bytes, 4096, &ref), CP_ENOMEM);
    cp_heap_drop(e.heap, large.slot);
    CHECK_EQ(cp_heap_put_small(e.heap, bytes, 4096, &ref), CP_ENOMEM);
    cp_heap_count(e.heap, &counts);
    CHECK_EQ(counts.filled, MIB);
    CHECK_EQ(counts.n_used, 0);
    CHECK_EQ(cp_heap_put(e.heap, bytes, 4096, &ref), 0);
    cp_heap_count(e.heap, &counts);
    CHECK_EQ(counts.filled, 4096);
    free(bytes);
    close_ends(&e);
}

TEST(share_small_parts_of_a_body_are_few)
{
    struct ends e;
    struct cp_heap_counts counts;
    uint8_t *bytes = pattern(CP_KIB(64), 8);
    open_ends(&e, 1024 * MIB);
    struct cp_parts parts = {.heap = e.heap};
    for (int64_t i = 0; i < CP_SMALL_PARTS; i++) {
        CHECK_EQ(cp_parts_add_small(&parts, bytes, CP_SMALL_MIN), i);
    }
    CHECK_EQ(cp_parts_add_small(&parts, bytes, CP_SMALL_MIN), CP_ENOMEM);
    CHECK_EQ(cp_parts_add(&parts, bytes, CP_SMALL_MIN), CP_SMALL_PARTS);
    cp_parts_cut(&parts, 0);
    parts.is_private = true;
    CHECK_EQ(cp_parts_add_small(&parts, bytes, CP_SMALL_MIN), CP_ENOMEM);
    CHECK_EQ(cp_parts_add(&parts, bytes, CP_SMALL_MIN), 0);
    cp_parts_fini(&parts);
    cp_heap_count(e.heap, &counts);
    CHECK_EQ(counts.n_used, 0);
    free(bytes);
    close_ends(&e);
}

TEST(share_too_large_is_refused)
{
    struct ends e;
    struct cp_ref ref;
    open_ends(&e, UINT64_MAX / 2);
    CHECK_EQ(
        cp_heap_put(e.heap, "", cp_block_size(CP_BLOCK_CLASSES - 1) + 1, &ref),
        CP_ENOMEM);
    close_ends(&e);
}

TEST(share_a_lying_worker)
{
    static const struct cp_ref BAD[] = {
        {.slot = CP_BLOCK_SLOTS},
        {.size_class = CP_BLOCK_CLASSES},
        {.size_class = 255},
        {.index = CP_BLOCK_SLOTS},
        {.size_class = CP_BLOCK_CLASSES - 1, .index = 16},
        {.len = CP_KIB(64) + 1},
        {.len = UINT64_MAX, .size_class = 3},
    };
    struct ends e;
    struct cp_lease *lease;
    struct cp_heap_counts counts;
    open_ends(&e, 1024 * MIB);
    for (size_t i = 0; i < sizeof(BAD) / sizeof(BAD[0]); i++) {
        CHECK_EQ(cp_lease_open(e.own, e.own, &BAD[i], &lease), CP_EPROTO);
        CHECK(lease == NULL);
    }
    /* A block that was never written reads as zeros. */
    struct cp_ref ref = {.len = CP_KIB(64), .index = 100, .slot = 3};
    CHECK_EQ(cp_lease_open(e.own, e.own, &ref, &lease), 0);
    CHECK_EQ(lease->at[CP_KIB(64) - 1], 0);
    cp_lease_close(lease);
    /* The worker gives back a block that it was not lent. */
    uint8_t *bytes = pattern(MIB, 1);
    CHECK_EQ(cp_heap_put(e.heap, bytes, MIB, &ref), 0);
    struct cp_control *control = cp_area_control(e.own);
    for (uint32_t i = 0; i < CP_SLOT_WORDS; i++) {
        atomic_store(&control->returned[i], UINT64_MAX);
    }
    atomic_store(&control->filled, UINT64_MAX);
    cp_heap_count(e.heap, &counts);
    CHECK_EQ(counts.n_used, 1);
    cp_area_retire(e.own); /* the counts of the worker are not trusted */
    CHECK_EQ(cp_heap_put(e.heap, bytes, MIB, &ref), 0);
    free(bytes);
    close_ends(&e);
}

TEST(share_a_worker_that_died_gives_all_back)
{
    struct ends e;
    struct cp_heap_counts counts;
    struct cp_borrower other;
    open_ends(&e, 1024 * MIB);
    for (uint64_t i = 0; i < 5; i++) {
        (void)lend(e.heap, &e.worker, MIB, i);
    }
    struct cp_ref held;
    uint8_t *bytes = pattern(MIB, 9);
    CHECK_EQ(cp_heap_put(e.heap, bytes, MIB, &held), 0);
    cp_heap_lend(e.heap, held.slot, &e.worker);
    cp_heap_meet(e.heap, &other, e.own);
    cp_heap_forget(e.heap, &e.worker);
    cp_heap_count(e.heap, &counts);
    CHECK_EQ(counts.n_used, 1); /* the body that is to be sent again */
    cp_heap_drop(e.heap, held.slot);
    cp_heap_count(e.heap, &counts);
    CHECK_EQ(counts.n_used, 0);
    free(bytes);
    cp_heap_forget(e.heap, &other);
    cp_heap_meet(e.heap, &e.worker, e.own);
    close_ends(&e);
}

TEST(share_recalled_and_lent_twice)
{
    struct ends e;
    struct cp_ref ref;
    struct cp_lease *first, *second;
    struct cp_heap_counts counts;
    uint8_t *bytes = pattern(MIB, 9);
    open_ends(&e, 1024 * MIB);
    CHECK_EQ(cp_heap_put(e.heap, bytes, MIB, &ref), 0);
    cp_heap_lend(e.heap, ref.slot, &e.worker);
    cp_heap_unlend(e.heap, ref.slot, &e.worker);
    cp_heap_lend(e.heap, ref.slot, &e.worker);
    CHECK_EQ(cp_lease_open(e.first, e.own, &ref, &first), 0);
    /* The task is run again, while the worker still has the leases of the first
     * run. */
    cp_heap_lend(e.heap, ref.slot, &e.worker);
    CHECK_EQ(cp_lease_open(e.first, e.own, &ref, &second), 0);
    cp_heap_drop(e.heap, ref.slot);
    cp_lease_close(first);
    cp_heap_count(e.heap, &counts);
    CHECK_EQ(counts.n_used, 1);
    cp_lease_close(second);
    cp_heap_forget(e.heap, &e.worker);
    cp_heap_count(e.heap, &counts);
    CHECK_EQ(counts.n_used, 0);
    cp_heap_meet(e.heap, &e.worker, e.own);
    free(bytes);
    close_ends(&e);
}

TEST(share_private_leases)
{
    struct ends e;
    struct cp_ref ref;
    struct cp_lease *one, *two;
    uint8_t *bytes = pattern(MIB, 3);
    open_ends(&e, 1024 * MIB);
    CHECK_EQ(cp_heap_put(e.heap, bytes, MIB, &ref), 0);
    ref.flags = CP_REF_PRIVATE;
    CHECK_EQ(cp_lease_open(e.first, e.own, &ref, &one), 0);
    memset(one->at, 0, MIB);
    CHECK_EQ(cp_lease_open(e.first, e.own, &ref, &two), 0);
    check_pattern(two->at, MIB, 3);
    cp_lease_close(one);
    cp_lease_close(two);
    free(bytes);
    close_ends(&e);
}

TEST(share_leases_outlive_the_region)
{
    struct ends e;
    struct cp_lease *leases[3];
    int before = cp_test_descriptors();
    open_ends(&e, 1024 * MIB);
    for (uint64_t i = 0; i < 3; i++) {
        struct cp_ref ref = lend(e.back, &e.parent, 4 * MIB, i);
        CHECK_EQ(cp_lease_open(e.own, e.own, &ref, &leases[i]), 0);
    }
    (void)lend(e.heap, &e.worker, 16 * MIB, 1);
    struct cp_region *region = e.region;
    cp_region_ref(region);
    close_ends(&e);
    CHECK(memory_of(region) < 13 * MIB); /* only what is leased */
    cp_lease_close(leases[1]);
    CHECK(memory_of(region) < 9 * MIB);
    check_pattern(leases[0]->at, 4 * MIB, 0);
    check_pattern(leases[2]->at, 4 * MIB, 2);
    cp_lease_close(leases[0]);
    cp_lease_close(leases[2]);
    CHECK_EQ(cp_test_descriptors(), before); /* closed with the last one */
    cp_region_unref(region);
}

TEST(share_an_area_that_nobody_uses_takes_nothing)
{
    struct ends e;
    open_ends(&e, 1024 * MIB);
    CHECK_EQ(memory_of(e.region), 4096); /* the page that has the limit */
    cp_heap_forget(e.heap, &e.worker);
    cp_area_retire(e.own);
    CHECK_EQ(memory_of(e.region), 4096);
    CHECK(e.own->control == NULL); /* it was not even mapped */
    CHECK(e.first->control == NULL);
    cp_heap_meet(e.heap, &e.worker, e.own);
    close_ends(&e);
}

TEST(share_an_area_that_only_the_worker_has_mapped_is_freed)
{
    struct ends e;
    open_ends(&e, 1024 * MIB);
    (void)lend(e.back, &e.parent, 8 * MIB, 1);
    struct cp_area *here; /* as the parent sees it */
    CHECK_EQ(cp_area_open(e.region, 1, &here), 0);
    CHECK(memory_of(e.region) >= 8 * MIB);
    cp_area_retire(here);
    CHECK(memory_of(e.region) < MIB);
    cp_area_unref(here);
    close_ends(&e);
}

/* A pool may have many thousand workers, one after the other. */
TEST(share_nothing_is_left_of_a_worker)
{
    struct ends e;
    struct cp_lease *lease;
    struct cp_control *control;
    open_ends(&e, 1024 * MIB);
    uint64_t before = memory_of(e.region);
    for (uint32_t id = 2; id < 6; id++) {
        struct cp_area *here; /* as the parent sees it */
        struct cp_ref ref = {.len = 4096};
        CHECK_EQ(cp_area_open(e.region, id, &here), 0);
        control = cp_area_control(here);
        CHECK(control != NULL);
        atomic_store(&control->filled, 4096);
        CHECK_EQ(cp_area_write(here, &ref, control), 0);
        CHECK_EQ(cp_lease_open(here, here, &ref, &lease), 0);
        cp_area_retire(here);
        cp_area_unref(here);
        CHECK(memory_of(e.region) > before); /* the lease still uses the area */
        cp_lease_close(lease);
        CHECK_EQ(memory_of(e.region), before);
    }
    close_ends(&e);
}

TEST(share_leases_outlive_the_worker)
{
    struct ends e;
    struct cp_lease *kept, *gone;
    open_ends(&e, 1024 * MIB);
    struct cp_ref ref = lend(e.back, &e.parent, MIB, 1);
    CHECK_EQ(cp_lease_open(e.own, e.own, &ref, &kept), 0);
    ref = lend(e.back, &e.parent, 8 * MIB, 2);
    CHECK_EQ(cp_lease_open(e.own, e.own, &ref, &gone), 0);
    (void)lend(e.back, &e.parent, 32 * MIB, 3);
    cp_area_retire(e.own);
    CHECK(memory_of(e.region) < 10 * MIB);
    cp_lease_close(gone);
    CHECK(memory_of(e.region) < 2 * MIB);
    check_pattern(kept->at, MIB, 1);
    cp_lease_close(kept);
    CHECK(memory_of(e.region) < MIB / 2);
    close_ends(&e);
}

/* A fork copies leased blocks: neither process sees what the other one writes,
 * nor what is written later. */
TEST(share_forked_copies)
{
    struct ends e;
    struct cp_lease *lease, *late;
    struct cp_heap_counts counts;
    int to_child[2], from_child[2];
    uint8_t byte = 0;
    CHECK_EQ(pipe(to_child), 0);
    CHECK_EQ(pipe(from_child), 0);
    open_ends(&e, 1024 * MIB);
    struct cp_ref ref = lend(e.back, &e.parent, 2 * MIB, 1);
    CHECK_EQ(cp_lease_open(e.own, e.own, &ref, &lease), 0);
    cp_lease_show(lease);
    lease->at[0] ^= 0xff; /* before the fork, so both processes have it */
    int pid = cp_test_fork();
    if (pid == 0) {
        CHECK_EQ(read(to_child[0], &byte, 1), 1);
        lease->at[0] ^= 0xff;
        check_pattern(lease->at, 2 * MIB, 1);
        memset(lease->at, 3, 2 * MIB);
        cp_lease_close(lease);
        CHECK_EQ(write(from_child[1], &byte, 1), 1);
        _exit(0);
    }
    memset(lease->at + MIB, 5, MIB);
    uint8_t first = lease->at[0];
    for (uint64_t i = 0; i < 4; i++) { /* the block is not used again */
        ref = lend(e.back, &e.parent, 2 * MIB, i);
        CHECK_EQ(cp_lease_open(e.own, e.own, &ref, &late), 0);
        memset(late->at, 9, 2 * MIB);
        cp_lease_close(late);
    }
    CHECK_EQ(write(to_child[1], &byte, 1), 1);
    CHECK_EQ(read(from_child[0], &byte, 1), 1);
    CHECK_EQ(cp_test_reap(pid), 0);
    CHECK_EQ(lease->at[0], first);
    CHECK_EQ(lease->at[2 * MIB - 1], 5);
    cp_lease_close(lease);
    cp_heap_count(e.back, &counts);
    CHECK_EQ(counts.n_used, 1); /* lost: the copy may live for ever */
    cp_area_retire(e.own);
    close_ends(&e);
    for (int i = 0; i < 2; i++) {
        (void)close(to_child[i]);
        (void)close(from_child[i]);
    }
}

/* A worker forked, and died: its forked copy keeps what the worker was lent. */
TEST(share_forked_copy_of_a_worker)
{
    struct ends e;
    struct cp_lease *lease;
    struct cp_heap_counts counts;
    open_ends(&e, 1024 * MIB);
    struct cp_ref ref = lend(e.heap, &e.worker, MIB, 1);
    (void)lend(e.heap, &e.worker, MIB, 2);
    CHECK_EQ(cp_lease_open(e.first, e.own, &ref, &lease), 0);
    cp_lease_show(lease);
    int pid = cp_test_fork();
    if (pid == 0) {
        check_pattern(lease->at, MIB, 1);
        _exit(0);
    }
    CHECK_EQ(cp_test_reap(pid), 0);
    cp_heap_forget(e.heap, &e.worker);
    cp_heap_count(e.heap, &counts);
    CHECK_EQ(counts.n_used, 1);
    cp_lease_close(lease);
    cp_heap_meet(e.heap, &e.worker, e.own);
    close_ends(&e);
}

/* Fork a process that does nothing, and wait for its end. */
static void
fork_once(void)
{
    int pid = cp_test_fork();
    if (pid == 0) {
        _exit(0);
    }
    CHECK_EQ(cp_test_reap(pid), 0);
}

/* A forked copy gets no block that the program has not used: the block is used
 * again. */
TEST(share_forks_keep_only_what_is_shown)
{
    struct ends e;
    struct cp_lease *lease;
    struct cp_heap_counts counts;
    open_ends(&e, 1024 * MIB);
    struct cp_ref ref = lend(e.back, &e.parent, MIB, 1);
    CHECK_EQ(cp_lease_open(e.own, e.own, &ref, &lease), 0);
    fork_once();
    cp_lease_show(lease);
    check_pattern(lease->at, MIB, 1);
    cp_lease_close(lease);
    cp_heap_count(e.back, &counts);
    CHECK_EQ(counts.n_used, 0);
    cp_area_retire(e.own);
    close_ends(&e);
}

/* However often the process forks while it has leases, and however many workers
 * end, the memory stays below the limit, and cp_region_may_keep() says no
 * before the limit is reached. */
TEST(share_forks_cost_a_part_of_the_limit)
{
    struct ends e;
    open_ends(&e, 64 * MIB);
    unsigned kept = 0;
    for (uint32_t id = 2; id < 60; id++) {
        struct cp_area *area;
        struct cp_heap *heap;
        struct cp_borrower parent;
        struct cp_lease *leases[2];
        CHECK_EQ(cp_area_open(e.region, id, &area), 0);
        CHECK_EQ(cp_heap_new(area, &heap), 0);
        cp_heap_meet(heap, &parent, area);
        for (unsigned i = 0; i < 2; i++) {
            struct cp_ref ref = lend(heap, &parent, MIB, id + i);
            CHECK_EQ(cp_lease_open(area, area, &ref, &leases[i]), 0);
        }
        if (cp_region_may_keep(e.region)) {
            cp_lease_show(leases[0]);
            kept++;
        }
        fork_once();
        cp_heap_forget(heap, &parent);
        cp_heap_free(heap);
        cp_lease_close(leases[id % 2]); /* before its worker ends, and after */
        cp_area_retire(area);
        check_pattern(leases[1 - id % 2]->at, MIB, id + 1 - id % 2);
        cp_lease_close(leases[1 - id % 2]);
        cp_area_unref(area);
        CHECK(memory_of(e.region) <= (kept + 1) * MIB);
    }
    CHECK_EQ(kept, 17);
    cp_area_retire(e.own);
    close_ends(&e);
}

TEST(share_two_processes)
{
    struct ends e;
    struct cp_heap_counts counts;
    int to_child[2];
    CHECK_EQ(pipe(to_child), 0);
    open_ends(&e, 1024 * MIB);
    int pid = cp_test_fork();
    if (pid == 0) {
        struct cp_region *region;
        struct cp_area *first, *own;
        struct cp_ref ref;
        CHECK_EQ(cp_region_attach(cp_region_fd(e.region), &region), 0);
        CHECK_EQ(cp_area_open(region, 0, &first), 0);
        CHECK_EQ(cp_area_open(region, 1, &own), 0);
        for (uint64_t i = 0; i < 50; i++) {
            struct cp_lease *lease;
            CHECK_EQ(read(to_child[0], &ref, sizeof(ref)), sizeof(ref));
            CHECK_EQ(cp_lease_open(first, own, &ref, &lease), 0);
            check_pattern(lease->at, (size_t)ref.len, i);
            cp_lease_close(lease);
        }
        _exit(0);
    }
    for (uint64_t i = 0; i < 50; i++) {
        struct cp_ref ref =
            lend(e.heap, &e.worker, (size_t)(MIB / 8 + i * 10000), i);
        CHECK_EQ(write(to_child[1], &ref, sizeof(ref)), sizeof(ref));
    }
    CHECK_EQ(cp_test_reap(pid), 0);
    cp_heap_count(e.heap, &counts);
    CHECK_EQ(counts.n_used, 0);
    close_ends(&e);
    (void)close(to_child[0]);
    (void)close(to_child[1]);
}

/* ---- bodies ---- */

/* What an answer of the worker holds: open it as the parent does. */
static struct cp_loan *
answer(struct ends *e, struct cp_parts *parts)
{
    struct cp_buf body = {0};
    struct cp_loan *loan;
    CHECK_EQ(cp_buf_put(&body, "body", 4), 0);
    CHECK_EQ(cp_parts_settle(parts, &body), 0);
    CHECK_EQ(cp_parts_seal(parts, &body), 0);
    cp_parts_lend(parts, &e->parent);
    cp_parts_cut(parts, 0);
    size_t len = cp_buf_len(&body);
    struct cp_lender from = {e->own, e->own, e->heap, &e->worker};
    CHECK_EQ(cp_loan_open(&from, cp_buf_head(&body), &len, &loan), 0);
    CHECK_EQ(len, 4);
    cp_buf_fini(&body);
    return loan;
}

static void
fill_pattern(const struct cp_lease *lease, uint64_t seed)
{
    uint8_t *bytes = pattern(lease->len, seed);
    memcpy(lease->at, bytes, lease->len);
    free(bytes);
}

static void
check_counts(struct cp_heap *heap, uint32_t n_used, uint32_t n_slots)
{
    struct cp_heap_counts counts;
    cp_heap_count(heap, &counts);
    CHECK_EQ(counts.n_used, n_used);
    CHECK_EQ(counts.n_slots, n_slots);
}

TEST(share_a_block_of_the_worker_itself_moves)
{
    struct ends e;
    struct cp_lease *lease;
    open_ends(&e, 64 * MIB);
    struct cp_parts parts = {.heap = e.back, .moves = true};
    for (uint64_t i = 0; i < 3; i++) {
        CHECK_EQ(cp_heap_take(e.back, 2 * MIB, &lease), 0);
        fill_pattern(lease, i);
        CHECK_EQ(cp_parts_move(&parts, lease, lease->at + 4096, MIB), 0);
        /* Once in a body; and only bytes of the lease. */
        CHECK(cp_parts_move(&parts, lease, lease->at, MIB) < 0);
        cp_parts_cut(&parts, 0);
        CHECK(cp_parts_move(&parts, lease, lease->at + MIB, MIB + 1) < 0);
        CHECK(cp_parts_move(&parts, lease, lease->at - 1, MIB) < 0);
        CHECK_EQ(cp_parts_move(&parts, lease, lease->at + 4096, MIB), 0);
        const uint8_t *at = lease->at;
        cp_lease_close(lease); /* the task drops it */
        struct cp_loan *loan = answer(&e, &parts);
        check_pattern(loan->leases[0]->at, MIB, i);
        CHECK_EQ(loan->leases[0]->len, MIB);
        CHECK(loan->leases[0]->at != at);
        check_counts(e.back, 1, 1);
        cp_loan_close(loan);
        check_counts(e.back, 0, 1);
    }
    cp_parts_fini(&parts);
    /* Beyond the limit there is none. */
    CHECK_EQ(cp_heap_take(e.back, 100 * MIB, &lease), CP_ENOMEM);
    check_counts(e.back, 0, 2);
    close_ends(&e);
}

TEST(share_a_block_that_the_worker_keeps_is_copied)
{
    struct ends e;
    struct cp_lease *lease;
    open_ends(&e, 3 * MIB);
    struct cp_parts parts = {.heap = e.back, .moves = true};
    CHECK_EQ(cp_heap_take(e.back, MIB, &lease), 0);
    for (uint64_t i = 0; i < 2; i++) {
        /* Into a block; and into the body, as there is no memory for it. */
        struct cp_lease *rest = NULL;
        CHECK_EQ(cp_heap_take(e.back, i == 0 ? 1 : 2 * MIB, &rest), 0);
        fill_pattern(lease, i);
        CHECK_EQ(cp_parts_move(&parts, lease, lease->at, MIB), 0);
        struct cp_loan *loan = answer(&e, &parts);
        memset(lease->at, 0, MIB);
        check_pattern(loan->leases[0]->at, MIB, i);
        CHECK((loan->leases[0]->sheet != NULL) == (i == 1));
        cp_loan_close(loan);
        cp_lease_close(rest);
    }
    cp_lease_close(lease);
    cp_parts_fini(&parts);
    close_ends(&e);
}

TEST(share_a_block_goes_back)
{
    struct ends e;
    struct cp_lease *lease, *other;
    open_ends(&e, 64 * MIB);
    struct cp_parts parts = {.heap = e.back, .moves = true};
    struct cp_ref ref = lend(e.heap, &e.worker, MIB, 1);
    CHECK_EQ(cp_lease_open(e.first, e.own, &ref, &lease), 0);
    fill_pattern(lease, 2);
    CHECK_EQ(cp_parts_move(&parts, lease, lease->at, MIB), 0);
    cp_lease_close(lease);
    struct cp_loan *loan = answer(&e, &parts);
    check_pattern(loan->leases[0]->at, MIB, 2);
    check_counts(e.back, 0, 0);
    check_counts(e.heap, 1, 1);
    /* It is not the worker's any more: neither once more, nor when it ends. */
    CHECK_EQ(cp_heap_take_back(e.heap, &e.worker, &ref, &other), CP_EPROTO);
    cp_heap_forget(e.heap, &e.worker);
    cp_heap_meet(e.heap, &e.worker, e.own);
    struct cp_ref next = lend(e.heap, &e.worker, MIB, 3);
    CHECK(next.index != ref.index);
    check_pattern(loan->leases[0]->at, MIB, 2);
    /* Another block, or more than was written. */
    struct cp_ref bad = next;
    bad.index ^= 1;
    CHECK_EQ(cp_heap_take_back(e.heap, &e.worker, &bad, &other), CP_EPROTO);
    bad = next;
    bad.slot = 77;
    CHECK_EQ(cp_heap_take_back(e.heap, &e.worker, &bad, &other), CP_EPROTO);
    bad = next;
    bad.offset = 1;
    CHECK_EQ(cp_heap_take_back(e.heap, &e.worker, &bad, &other), CP_EPROTO);
    bad = next;
    bad.offset = UINT64_MAX;
    CHECK_EQ(cp_heap_take_back(e.heap, &e.worker, &bad, &other), CP_EPROTO);
    cp_loan_close(loan);
    check_counts(e.heap, 1, 2);
    cp_parts_fini(&parts);
    close_ends(&e);
}

/* What each process writes to the block of a lease of its own, the other one
 * sees: none of the two mappings is private. */
static void
check_shared(struct cp_lease *here, const struct cp_lease *there, uint8_t byte)
{
    memset(here->at, byte, MIB);
    CHECK_EQ(there->at[0], byte);
    CHECK_EQ(there->at[MIB - 1], byte);
}

/* Another thread of the worker forks after the worker has decided to send a
 * block, and before the block is sent: the block is the parent's, and both still
 * map the same memory when it is used next. */
TEST(share_a_fork_while_a_block_is_sent)
{
    struct ends e, w;
    struct cp_lease *lease, *again;
    open_ends(&e, 64 * MIB);
    w = e; /* as the worker sees the file: with mappings of its own */
    CHECK_EQ(cp_region_attach(dup(cp_region_fd(e.region)), &w.region), 0);
    CHECK_EQ(cp_area_open(w.region, 0, &w.first), 0);
    CHECK_EQ(cp_area_open(w.region, 1, &w.own), 0);
    CHECK_EQ(cp_heap_new(w.own, &w.back), 0);
    cp_heap_meet(w.back, &w.parent, w.own);
    for (int is_own = 0; is_own < 2; is_own++) {
        struct cp_parts parts = {.heap = w.back, .moves = true};
        struct cp_buf body = {0};
        struct cp_ref ref = {0};
        struct cp_loan *loan;
        if (is_own) {
            CHECK_EQ(cp_heap_take(w.back, MIB, &lease), 0);
        } else {
            ref = lend(e.heap, &e.worker, MIB, 1);
            CHECK_EQ(cp_lease_open(w.first, w.own, &ref, &lease), 0);
        }
        cp_lease_show(lease);
        fill_pattern(lease, 2);
        CHECK_EQ(cp_parts_move(&parts, lease, lease->at, MIB), 0);
        cp_lease_close(lease);
        CHECK_EQ(cp_parts_settle(&parts, &body), 0);
        fork_once();
        CHECK_EQ(cp_parts_seal(&parts, &body), 0);
        cp_parts_lend(&parts, &w.parent);
        fork_once();
        cp_parts_cut(&parts, 0);
        size_t len = cp_buf_len(&body);
        struct cp_lender from = {e.own, e.own, e.heap, &e.worker};
        CHECK_EQ(cp_loan_open(&from, cp_buf_head(&body), &len, &loan), 0);
        check_pattern(loan->leases[0]->at, MIB, 2);
        uint32_t index = loan->leases[0]->index;
        cp_loan_close(loan);
        if (is_own) {
            CHECK_EQ(cp_heap_take(w.back, MIB, &again), 0);
            ref = (struct cp_ref){.len = MIB,
                                  .index = again->index,
                                  .slot = again->slot,
                                  .size_class = again->size_class};
            CHECK_EQ(cp_lease_open(e.own, e.own, &ref, &lease), 0);
            check_shared(again, lease, 5);
            CHECK_EQ(again->index, index);
        } else {
            CHECK_EQ(cp_heap_take(e.heap, MIB, &again), 0);
            ref.slot = again->slot;
            CHECK_EQ(cp_lease_open(w.first, w.own, &ref, &lease), 0);
            check_shared(lease, again, 5);
            CHECK_EQ(again->index, index);
        }
        cp_lease_close(lease);
        cp_lease_close(again);
        cp_parts_fini(&parts);
        cp_buf_fini(&body);
    }
    CHECK_EQ(atomic_load(&cp_area_control(e.first)->kept), 0);
    cp_heap_forget(w.back, &w.parent);
    cp_heap_free(w.back);
    cp_area_unref(w.first);
    cp_area_unref(w.own);
    cp_region_unref(w.region);
    close_ends(&e);
}

TEST(share_a_block_that_was_lent_twice_goes_back)
{
    struct ends e;
    struct cp_lease *lease;
    uint8_t *bytes = pattern(MIB, 1);
    struct cp_ref ref;
    open_ends(&e, 64 * MIB);
    CHECK_EQ(cp_heap_put(e.heap, bytes, MIB, &ref), 0);
    cp_heap_lend(e.heap, ref.slot, &e.worker);
    cp_heap_lend(e.heap, ref.slot, &e.worker);
    cp_heap_drop(e.heap, ref.slot);
    CHECK_EQ(cp_heap_take_back(e.heap, &e.worker, &ref, &lease), 0);
    cp_lease_close(lease);
    check_counts(e.heap, 1, 1); /* until the worker ends */
    cp_heap_forget(e.heap, &e.worker);
    check_counts(e.heap, 0, 1);
    cp_heap_meet(e.heap, &e.worker, e.own);
    free(bytes);
    close_ends(&e);
}

TEST(share_a_lease_outlives_its_heap)
{
    struct ends e;
    struct cp_lease *lease;
    int before = cp_test_descriptors();
    open_ends(&e, 64 * MIB);
    CHECK_EQ(cp_heap_take(e.heap, MIB, &lease), 0);
    fill_pattern(lease, 5);
    close_ends(&e);
    check_pattern(lease->at, MIB, 5);
    cp_lease_close(lease);
    CHECK_EQ(cp_test_descriptors(), before);
}

/* ---- rest ---- */

static void
rest_to_the_end(struct cp_heap *heap)
{
    int64_t at = cp_heap_rest_at(heap);
    CHECK(at != CP_NEVER);
    while (cp_heap_rest_at(heap) == at) {
        cp_heap_rest(heap, at);
    }
}

/* Memory of unused blocks is freed when the time has come, and not before; that
 * of a block in use when it is given back. */
TEST(share_a_heap_that_rests)
{
    struct ends e;
    struct cp_lease *own, *lease;
    struct cp_heap_counts counts;
    open_ends(&e, 64 * MIB);
    CHECK_EQ(cp_heap_rest_at(e.back), CP_NEVER);
    for (uint64_t i = 0; i < 3; i++) {
        struct cp_ref kept = lend(e.back, &e.parent, MIB, i);
        CHECK_EQ(cp_lease_open(e.own, e.own, &kept, &lease), 0);
        CHECK_EQ(cp_heap_take(e.back, 2 * MIB, &own), 0);
        memset(own->at, 1, 2 * MIB);
        for (uint64_t n = 0; n < 4; n++) {
            struct cp_ref ref = lend(e.back, &e.parent, 4 * MIB, n);
            cp_heap_unlend(e.back, ref.slot, &e.parent);
        }
        int64_t at = cp_heap_rest_at(e.back);
        CHECK(at > cp_now()
              && at <= cp_now() + (i == 0 ? CP_SECOND : 11 * CP_SECOND));
        cp_heap_rest(e.back, at - 1);
        CHECK(memory_of(e.region) >= 7 * MIB);
        CHECK_EQ(cp_heap_rest_at(e.back), at);
        rest_to_the_end(e.back);
        CHECK(memory_of(e.region) < 4 * MIB);
        cp_heap_count(e.back, &counts);
        CHECK_EQ(counts.filled, 3 * MIB);
        CHECK_EQ(counts.n_used, 2);
        CHECK_EQ(cp_heap_rest_at(e.back), CP_NEVER);
        check_pattern(lease->at, MIB, i);
        CHECK_EQ(own->at[2 * MIB - 1], 1);
        cp_lease_close(own);
        CHECK(memory_of(e.region) < 2 * MIB);
        cp_lease_close(lease);
        CHECK(memory_of(e.region) < MIB);
        cp_heap_count(e.back, &counts);
        CHECK_EQ(counts.filled, 0);
        CHECK_EQ(counts.n_used, 0);
        CHECK_EQ(counts.n_slots, 3);
    }
    CHECK_EQ(atomic_load(&cp_area_control(e.first)->total), 0);
    close_ends(&e);
}

/* A worker sends a block of its own, which it has kept for so long that its heap
 * rests: the lease of the worker ends, and the memory stays. */
TEST(share_a_resting_heap_sends_a_block)
{
    struct ends e;
    struct cp_lease *lease;
    open_ends(&e, 64 * MIB);
    struct cp_parts parts = {.heap = e.back, .moves = true};
    CHECK_EQ(cp_heap_take(e.back, MIB, &lease), 0);
    fill_pattern(lease, 4);
    rest_to_the_end(e.back);
    CHECK_EQ(cp_parts_move(&parts, lease, lease->at, MIB), 0);
    cp_lease_close(lease);
    struct cp_loan *loan = answer(&e, &parts);
    check_pattern(loan->leases[0]->at, MIB, 4);
    cp_loan_close(loan);
    CHECK(memory_of(e.region) < MIB / 4);
    check_counts(e.back, 0, 1);
    cp_parts_fini(&parts);
    close_ends(&e);
}

/* A block that is lent to two workers, or of which a body is still to be sent, is
 * not freed by the first one that gives it back, though the heap rests. */
TEST(share_a_resting_heap_keeps_what_others_have)
{
    struct ends e;
    struct cp_lease *lease;
    struct cp_ref ref;
    uint8_t *bytes = pattern(MIB, 3);
    open_ends(&e, 64 * MIB);
    CHECK_EQ(cp_heap_put(e.heap, bytes, MIB, &ref), 0);
    cp_heap_lend(e.heap, ref.slot, &e.worker);
    CHECK_EQ(cp_lease_open(e.first, e.own, &ref, &lease), 0);
    rest_to_the_end(e.heap);
    cp_lease_close(lease);
    cp_heap_lend(e.heap, ref.slot, &e.worker);
    CHECK_EQ(cp_lease_open(e.first, e.own, &ref, &lease), 0);
    check_pattern(lease->at, MIB, 3);
    cp_lease_close(lease);
    cp_heap_drop(e.heap, ref.slot);
    check_counts(e.heap, 0, 1);
    free(bytes);
    close_ends(&e);
}

static void *
close_lease(void *lease)
{
    cp_lease_close(lease);
    return NULL;
}

/* Whichever comes first, the rest of the heap or the end of a lease: the memory
 * is freed. */
TEST(share_a_lease_ends_while_its_heap_begins_to_rest)
{
    struct ends e;
    struct cp_lease *lease;
    open_ends(&e, 64 * MIB);
    for (uint64_t i = 0; i < 300; i++) {
        struct cp_ref ref = lend(e.back, &e.parent, MIB / 4, i);
        CHECK_EQ(cp_lease_open(e.own, e.own, &ref, &lease), 0);
        check_pattern(lease->at, MIB / 4, i);
        pthread_t thread = cp_test_start(close_lease, lease);
        rest_to_the_end(e.back);
        (void)cp_test_join(thread);
        CHECK(memory_of(e.region) < MIB / 4);
        check_counts(e.back, 0, 1);
    }
    CHECK_EQ(atomic_load(&cp_area_control(e.first)->total), 0);
    close_ends(&e);
}

/* Blocks that were in use when the heap rested are freed at the next time. */
TEST(share_what_comes_back_after_the_rest_is_freed_later)
{
    struct ends e;
    struct cp_ref refs[2];
    struct cp_heap_counts counts;
    uint8_t *bytes = pattern(MIB, 3);
    open_ends(&e, 64 * MIB);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(cp_heap_put(e.heap, bytes, MIB, &refs[i]), 0);
    }
    rest_to_the_end(e.heap);
    CHECK_EQ(cp_heap_rest_at(e.heap), CP_NEVER);
    cp_heap_drop(e.heap, refs[0].slot);
    cp_heap_drop(e.heap, refs[1].slot);
    CHECK(cp_heap_rest_at(e.heap) != CP_NEVER);
    rest_to_the_end(e.heap);
    cp_heap_count(e.heap, &counts);
    CHECK_EQ(counts.filled, 0);
    free(bytes);
    close_ends(&e);
}

/* A worker keeps an argument, and drops it while the parent's heap rests, as it is
 * not told: the heap looks for it, less and less often. */
TEST(share_a_resting_heap_looks_for_what_a_worker_keeps)
{
    struct ends e;
    struct cp_lease *leases[2];
    struct cp_heap_counts counts;
    open_ends(&e, 64 * MIB);
    cp_heap_set_rest(e.heap, CP_SECOND);
    for (int i = 0; i < 2; i++) {
        struct cp_ref ref = lend(e.heap, &e.worker, MIB, (uint64_t)i);
        CHECK_EQ(cp_lease_open(e.first, e.own, &ref, &leases[i]), 0);
    }
    int64_t waits = CP_SECOND;
    for (int i = 0; i < 20; i++) {
        int64_t at = cp_heap_rest_at(e.heap);
        rest_to_the_end(e.heap);
        int64_t next = cp_heap_rest_at(e.heap);
        CHECK(next != CP_NEVER && next - at >= waits);
        CHECK(next - at <= 16384 * CP_SECOND);
        waits = next - at;
    }
    CHECK_EQ(waits, 16384 * CP_SECOND);
    CHECK(memory_of(e.region) >= 2 * MIB);
    cp_lease_close(leases[0]);
    rest_to_the_end(e.heap);
    CHECK(memory_of(e.region) < 2 * MIB);
    check_pattern(leases[1]->at, MIB, 1);

    /* A block that is found to be unused by other means is freed sooner. */
    struct cp_ref ref;
    CHECK_EQ(cp_heap_put(e.heap, leases[1]->at, MIB, &ref), 0);
    CHECK(cp_heap_rest_at(e.heap) <= cp_now() + 21 * CP_SECOND);
    for (int i = 0; i < 20; i++) {
        rest_to_the_end(e.heap);
    }
    CHECK(cp_heap_rest_at(e.heap) > cp_now() + 100 * CP_SECOND);
    cp_heap_drop(e.heap, ref.slot);
    CHECK(cp_heap_rest_at(e.heap) <= cp_now() + CP_SECOND);
    rest_to_the_end(e.heap);
    CHECK(memory_of(e.region) < 2 * MIB);

    cp_lease_close(leases[1]);
    while (cp_heap_rest_at(e.heap) != CP_NEVER) {
        rest_to_the_end(e.heap);
    }
    cp_heap_count(e.heap, &counts);
    CHECK_EQ(counts.filled, 0);
    close_ends(&e);
}

/* A block is taken while others are being freed: the heap does not rest. */
TEST(share_a_block_that_is_taken_ends_the_rest)
{
    struct ends e;
    struct cp_ref refs[3];
    uint8_t *bytes = pattern(MIB, 3);
    open_ends(&e, 64 * MIB);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(cp_heap_put(e.heap, bytes, MIB, &refs[i]), 0);
    }
    for (int i = 0; i < 3; i++) {
        cp_heap_drop(e.heap, refs[i].slot);
    }
    int64_t at = cp_heap_rest_at(e.heap);
    cp_heap_rest(e.heap, at);
    CHECK_EQ(cp_heap_rest_at(e.heap), at); /* there are more */
    CHECK_EQ(atomic_load(&cp_area_control(e.first)->rests), 1);
    CHECK_EQ(cp_heap_put(e.heap, bytes, MIB, &refs[0]), 0);
    CHECK(cp_heap_rest_at(e.heap) > at);
    CHECK_EQ(atomic_load(&cp_area_control(e.first)->rests), 0);
    cp_heap_drop(e.heap, refs[0].slot);
    free(bytes);
    close_ends(&e);
}

/* ---- parts ---- */

TEST(share_parts_of_a_body)
{
    struct ends e;
    struct cp_loan *loan;
    struct cp_buf body = {0};
    struct cp_heap_counts counts;
    open_ends(&e, 64 * MIB);
    struct cp_parts parts = {.heap = e.heap};
    uint8_t *bytes = pattern(MIB, 4);
    CHECK_EQ(cp_parts_add(&parts, bytes, MIB), 0);
    CHECK_EQ(cp_parts_add(&parts, bytes, MIB / 2), 1);
    CHECK_EQ(cp_parts_add(&parts, bytes, MIB), 2);
    CHECK_EQ(parts.bytes, 2 * MIB + MIB / 2);
    cp_parts_cut(&parts, 2);
    CHECK_EQ(parts.bytes, MIB + MIB / 2);
    CHECK_EQ(cp_buf_put(&body, "body", 4), 0);
    CHECK_EQ(cp_parts_seal(&parts, &body), 0);
    cp_parts_lend(&parts, &e.worker);
    size_t len = cp_buf_len(&body);
    struct cp_lender from = {.area = e.first, .teller = e.own};
    CHECK_EQ(cp_loan_open(&from, cp_buf_head(&body), &len, &loan), 0);
    CHECK_EQ(len, 4);
    CHECK_EQ(loan->n, 2);
    struct cp_lease *taken = loan->leases[1];
    cp_lease_ref(taken);
    cp_loan_close(loan);
    cp_parts_fini(&parts);
    check_pattern(taken->at, MIB / 2, 4);
    cp_heap_count(e.heap, &counts);
    CHECK_EQ(counts.n_used, 1);
    cp_lease_close(taken);
    cp_heap_count(e.heap, &counts);
    CHECK_EQ(counts.n_used, 0);
    /* Without a heap, or beyond the limit, the bytes stay in the body. */
    struct cp_parts none = {0};
    CHECK(cp_parts_add(&none, bytes, MIB) < 0);
    struct cp_parts full = {.heap = e.heap};
    int64_t n = 0;
    while (cp_parts_add(&full, bytes, MIB) >= 0) {
        n++;
    }
    CHECK(n > 0 && n <= 64);
    cp_parts_fini(&full);
    free(bytes);
    cp_buf_fini(&body);
    close_ends(&e);
}

TEST(share_parts_that_lie)
{
    struct ends e;
    struct cp_loan *loan;
    open_ends(&e, 64 * MIB);
    uint64_t seed = 1;
    for (int i = 0; i < 2000; i++) {
        uint8_t body[80];
        for (size_t j = 0; j < sizeof(body); j++) {
            body[j] = (uint8_t)cp_test_random(&seed);
        }
        size_t len = cp_test_random(&seed) % (sizeof(body) + 1);
        uint32_t n = cp_test_random(&seed) % 6;
        if (len >= sizeof(n)) {
            memcpy(body + len - sizeof(n), &n, sizeof(n));
        }
        size_t left = len;
        struct cp_lender from = {e.own, e.own, e.heap, &e.worker};
        int r = cp_loan_open(&from, body, &left, &loan);
        CHECK(r == 0 || r == CP_EPROTO);
        CHECK((r == 0) == (loan != NULL));
        cp_loan_close(loan);
    }
    close_ends(&e);
}

/* ---- tasks and results ---- */

/* A lone worker with shared memory. */
static void
open_both(struct ends *e, struct lone *lone)
{
    CHECK_EQ(cp_region_open(64 * MIB, &e->region), 0);
    CHECK_EQ(cp_area_open(e->region, 0, &e->first), 0);
    CHECK_EQ(cp_heap_new(e->first, &e->heap), 0);
    lone_open(lone, UINT64_MAX, 5);
    cp_serve_fini(&lone->s);
    CHECK_EQ(cp_worker_share(lone->w, e->first, e->heap, 7), 0);
    CHECK_EQ(cp_fd_dup(lone->w->share, &lone->w->share), 0);
    CHECK_EQ(cp_serve_init(&lone->s, lone->w), 0);
    CHECK(lone->s.heap != NULL);
}

static void
close_both(struct ends *e, struct lone *lone)
{
    lone_close(lone);
    cp_heap_free(e->heap);
    cp_area_unref(e->first);
    cp_region_close(e->region);
    cp_region_unref(e->region);
}

/* A task with n bytes in its body, and a part with the pattern `index`. */
static struct cp_task *
task_with_part(struct ends *e, struct lone *lone, uint64_t index, size_t n)
{
    struct cp_parts parts = {.heap = e->heap};
    struct cp_buf body = {.parts = &parts};
    uint8_t *bytes = pattern(MIB, index);
    CHECK_EQ(cp_parts_add(&parts, bytes, MIB), 0);
    CHECK_EQ(cp_buf_reserve(&body, n), 0);
    memset(cp_buf_tail(&body), 1, n);
    cp_buf_add(&body, n);
    struct cp_task *task = cp_task_new_take(index, 0, &body);
    CHECK(task != NULL);
    CHECK_EQ(parts.n, 0);
    CHECK_EQ(cp_buf_len(&body), 0);
    CHECK_EQ(task->flags, CP_PARTS);
    task->job = lone->job;
    free(bytes);
    cp_buf_fini(&body);
    cp_parts_fini(&parts);
    return task;
}

static uint32_t
used(struct cp_heap *heap)
{
    struct cp_heap_counts counts;
    cp_heap_count(heap, &counts);
    return counts.n_used;
}

TEST(share_task_and_result)
{
    struct ends e;
    struct lone lone;
    struct cp_frame frame;
    const uint8_t *body;
    struct cp_loan *loan;
    int before = cp_test_descriptors();
    open_both(&e, &lone);
    struct cp_task *task = task_with_part(&e, &lone, 41, 10);
    CHECK_EQ(cp_worker_send_task(lone.w, lone.func, task), 1);
    CHECK_EQ(cp_worker_flush(lone.w), 0);
    do {
        lone_next(&lone, &frame, &body);
    } while (frame.kind != CP_TASK);
    CHECK_EQ(frame.flags, CP_PARTS);
    CHECK_EQ(cp_serve_loan(&lone.s, body, &frame.len, &loan), 0);
    CHECK_EQ(frame.len, 10);
    check_pattern(loan->leases[0]->at, MIB, 41);
    cp_loan_close(loan);
    CHECK_EQ(used(e.heap), 1); /* the task may have to be sent again */

    struct cp_parts parts = {.heap = lone.s.heap};
    struct cp_buf out = {0};
    uint8_t *bytes = pattern(2 * MIB, 5);
    CHECK_EQ(cp_parts_add(&parts, bytes, 2 * MIB), 0);
    CHECK_EQ(cp_buf_put(&out, "r", 1), 0);
    struct cp_frame answer = {.kind = CP_RESULT, .seq = frame.seq};
    out.parts = &parts;
    CHECK_EQ(cp_serve_lend(&lone.s, &answer, &out), 0);
    CHECK_EQ(answer.flags, CP_PARTS);
    answer.len = cp_buf_len(&out);
    CHECK(cp_serve_put(&lone.s, &answer, cp_buf_head(&out), 1) >= 0);
    CHECK_EQ(cp_serve_flush(&lone.s), 0);
    CHECK_EQ(cp_worker_recv(lone.w), 0);
    CHECK_EQ(lone.results, 1);
    CHECK_EQ(lone.last->len, 1);
    check_pattern(lone.last->loan->leases[0]->at, 2 * MIB, 5);
    CHECK_EQ(used(e.heap), 0);
    CHECK_EQ(used(lone.s.heap), 1);
    struct cp_lease *kept = lone.last->loan->leases[0];
    cp_lease_ref(kept);
    free(bytes);
    cp_buf_fini(&out);
    cp_parts_fini(&parts);
    close_both(&e, &lone);
    check_pattern(kept->at, 2 * MIB, 5);
    cp_lease_close(kept);
    CHECK_EQ(cp_test_descriptors(), before);
}

/* A worker that waits for tasks lets its heap rest. */
TEST(share_a_heap_rests_soon)
{
    struct ends e;
    struct cp_lease *small, *large;
    open_ends(&e, 256 * MIB);
    CHECK_EQ(cp_heap_take(e.heap, MIB, &small), 0);
    int64_t at = cp_heap_rest_at(e.heap);
    CHECK(at > cp_now() && at <= cp_now() + CP_SECOND);
    CHECK_EQ(cp_heap_take(e.heap, 128 * MIB, &large), 0);
    at = cp_heap_rest_at(e.heap);
    CHECK(at <= cp_now() + CP_SECOND); /* as long as a large one takes */
    cp_lease_close(small);
    CHECK_EQ(cp_heap_take(e.heap, MIB, &small), 0);
    CHECK(cp_heap_rest_at(e.heap) >= at); /* a small one is no reason */
    cp_lease_close(small);
    cp_lease_close(large);
    while (cp_heap_rest_at(e.heap) != CP_NEVER) {
        rest_to_the_end(e.heap);
    }
    struct cp_heap_counts counts;
    cp_heap_count(e.heap, &counts);
    CHECK_EQ(counts.filled, 0);
    close_ends(&e);
}

/* Blocks that are taken every few seconds find warm memory, the first but one
 * and later ones. */
TEST(share_a_heap_that_is_woken_soon_rests_later)
{
    struct ends e;
    struct cp_lease *lease;
    open_ends(&e, 256 * MIB);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(cp_heap_take(e.heap, MIB, &lease), 0);
        int64_t at = cp_heap_rest_at(e.heap);
        CHECK(i == 0 ? at < cp_now() + CP_SECOND : at > cp_now() + CP_SECOND);
        cp_lease_close(lease);
        rest_to_the_end(e.heap);
    }
    /* The last one is long ago. */
    cp_heap_set_rest(e.heap, CP_MS);
    CHECK_EQ(cp_heap_take(e.heap, MIB, &lease), 0);
    cp_lease_close(lease);
    while (cp_heap_rest_at(e.heap) != CP_NEVER) {
        cp_heap_rest(e.heap, cp_now());
    }
    for (int64_t now = cp_now(); cp_now() < now + 20 * CP_MS;) {
    }
    CHECK_EQ(cp_heap_take(e.heap, MIB, &lease), 0);
    CHECK(cp_heap_rest_at(e.heap) <= cp_now() + CP_MS);
    cp_lease_close(lease);
    close_ends(&e);
}

TEST(share_a_worker_that_waits_rests)
{
    struct ends e;
    struct lone lone;
    struct cp_ref ref;
    struct cp_heap_counts counts;
    uint8_t *bytes = pattern(MIB, 3);
    open_both(&e, &lone);
    cp_heap_set_rest(lone.s.heap, CP_MS);
    CHECK_EQ(cp_heap_put(lone.s.heap, bytes, MIB, &ref), 0);
    cp_heap_drop(lone.s.heap, ref.slot);
    do {
        CHECK_EQ(cp_serve_wait(&lone.s), CP_EINTR);
    } while (cp_heap_rest_at(lone.s.heap) != CP_NEVER);
    cp_heap_count(lone.s.heap, &counts);
    CHECK_EQ(counts.filled, 0);
    free(bytes);
    close_both(&e, &lone);
}

/* So does one that always has tasks. */
TEST(share_a_worker_that_never_waits_rests)
{
    struct ends e;
    struct lone lone;
    struct cp_ref ref;
    struct cp_heap_counts counts;
    uint8_t *bytes = pattern(MIB, 3);
    open_both(&e, &lone);
    cp_heap_set_rest(lone.s.heap, 0);
    CHECK_EQ(cp_heap_put(lone.s.heap, bytes, MIB, &ref), 0);
    cp_heap_drop(lone.s.heap, ref.slot);
    struct cp_task *task = task_with_part(&e, &lone, 1, 10);
    CHECK_EQ(cp_worker_send_task(lone.w, lone.func, task), 1);
    CHECK_EQ(cp_worker_flush(lone.w), 0);
    CHECK_EQ(cp_serve_wait(&lone.s), 0); /* there is input */
    cp_heap_count(lone.s.heap, &counts);
    CHECK_EQ(counts.filled, 0);
    free(bytes);
    close_both(&e, &lone);
}

TEST(share_tasks_are_recalled)
{
    struct ends e;
    struct lone lone;
    open_both(&e, &lone);
    lone_start(&lone);
    for (uint64_t i = 0; i < 3; i++) {
        struct cp_task *task = task_with_part(&e, &lone, i, 10);
        CHECK_EQ(cp_worker_send_task(lone.w, lone.func, task), 1);
    }
    CHECK_EQ(used(e.heap), 3);
    CHECK_EQ(lone_recall(&lone, 2), 2);
    CHECK_EQ(used(e.heap), 1);
    CHECK_EQ(lone_recall(&lone, 2), 1);
    CHECK_EQ(used(e.heap), 0);
    /* A body that is being written is copied, and its parts move to the
     * copy. */
    CHECK_EQ(cp_worker_flush(lone.w), 0);
    struct cp_task *big = task_with_part(&e, &lone, 9, CP_BIG * 16);
    CHECK_EQ(cp_worker_send_task(lone.w, lone.func, big), 1);
    CHECK_EQ(cp_worker_flush(lone.w), 0);
    CHECK(lone.w->big != NULL);
    uint32_t n = 1;
    struct cp_task *back = cp_worker_recall(lone.w, &n, true, NULL);
    CHECK_EQ(n, 1);
    CHECK(back != big);
    CHECK_EQ(back->parts->n, 1);
    CHECK_EQ(used(e.heap), 1);
    cp_task_free(back);
    CHECK_EQ(used(e.heap), 0);
    close_both(&e, &lone);
}

TEST(share_a_result_that_lies)
{
    struct ends e;
    struct lone lone;
    struct cp_frame frame;
    open_both(&e, &lone);
    CHECK_EQ(lone_send(&lone, 1, 10), 1);
    CHECK_EQ(cp_worker_flush(lone.w), 0);
    lone_next_task(&lone, &frame);
    struct cp_ref ref = {.len = 1, .index = 99999};
    uint32_t one = 1;
    uint8_t body[sizeof(ref) + sizeof(one)];
    memcpy(body, &ref, sizeof(ref));
    memcpy(body + sizeof(ref), &one, sizeof(one));
    struct cp_frame lie = {
        .kind = CP_RESULT, .flags = CP_PARTS, .len = sizeof(body)};
    lone_write(&lone, &lie, sizeof(lie));
    lone_write(&lone, body, sizeof(body));
    CHECK_EQ(cp_worker_recv(lone.w), CP_EPROTO);
    CHECK_EQ(lone.results, 0);
    close_both(&e, &lone);
}

/* ---- threads ---- */

struct crowd {
    struct ends *e;
    uint64_t seed;
};

static void *
run_crowd(void *arg)
{
    struct crowd *c = arg;
    for (int i = 0; i < 200; i++) {
        size_t n = CP_KIB(64) + cp_test_random(&c->seed) % CP_KIB(300);
        uint64_t seed = cp_test_random(&c->seed);
        struct cp_lease *lease;
        struct cp_ref ref = lend(c->e->heap, &c->e->worker, n, seed);
        CHECK_EQ(cp_lease_open(c->e->first, c->e->own, &ref, &lease), 0);
        check_pattern(lease->at, n, seed);
        memset(lease->at, 0, n);
        cp_lease_close(lease);
    }
    return NULL;
}

/* ---- sealed files ---- */

/* A sealed file with two parts and a body. */
static struct cp_sealed *
written(struct cp_region *region)
{
    struct cp_sealed *sealed;
    uint8_t *bytes = pattern(MIB, 3);
    CHECK_EQ(cp_sealed_begin(region, &sealed), 0);
    CHECK_EQ(cp_sealed_has_file(sealed), region != NULL);
    CHECK_EQ(cp_sealed_add(sealed, bytes, 10), 0);
    cp_sealed_cut(sealed, 0);
    if (region != NULL) { /* the bytes may come later, or be forgotten */
        CHECK_EQ(cp_sealed_add_later(sealed, NULL, MIB), 0);
        cp_sealed_cut(sealed, 0);
        CHECK_EQ(cp_sealed_add_later(sealed, bytes, MIB), 0);
    } else {
        CHECK_EQ(cp_sealed_add(sealed, bytes, MIB), 0);
    }
    CHECK_EQ(cp_sealed_add(sealed, "xyz", 3), 1);
    CHECK_EQ(region != NULL ? cp_sealed_add_later(sealed, NULL, 1000)
                            : cp_sealed_add(sealed, bytes, 1000),
             2);
    CHECK_EQ(cp_sealed_count(sealed), 3);
    cp_sealed_cut(sealed, 3);
    cp_sealed_cut(sealed, 2);
    CHECK_EQ(cp_sealed_count(sealed), 2);
    CHECK_EQ(cp_sealed_write(sealed), 0);
    CHECK_EQ(cp_sealed_end(sealed, "body", 4), 0);
    CHECK(cp_sealed_has_part(sealed, 0, bytes, MIB));
    CHECK(!cp_sealed_has_part(sealed, 0, bytes + 1, MIB - 1));
    CHECK(!cp_sealed_has_part(sealed, 1, "xyy", 3));
    CHECK(!cp_sealed_has_part(sealed, 2, "xyz", 3));
    CHECK(cp_sealed_has_body(sealed, "body", 4));
    CHECK(!cp_sealed_has_body(sealed, "bodo", 4));
    free(bytes);
    return sealed;
}

/* Read everything and change it, which no other view sees. */
static void
check_view(struct cp_sealed *sealed, bool may_keep)
{
    struct cp_sheet *sheet;
    struct cp_loan *loan;
    const uint8_t *body;
    size_t len;
    CHECK_EQ(cp_sealed_view(sealed, &sheet, &body, &len, &loan), 0);
    CHECK_EQ(len, 4);
    CHECK(memcmp(body, "body", 4) == 0);
    cp_sheet_unref(sheet);
    CHECK_EQ(loan->n, 2);
    CHECK_EQ(loan->leases[1]->len, 3);
    CHECK(memcmp(loan->leases[1]->at, "xyz", 3) == 0);
    CHECK_EQ((uintptr_t)loan->leases[0]->at % 64,
             may_keep ? 0 : (uintptr_t)loan->leases[0]->at % 64);
    CHECK_EQ(cp_lease_may_keep(loan->leases[0]), may_keep);
    struct cp_lease *kept = loan->leases[0];
    cp_lease_ref(kept);
    cp_loan_close(loan);
    check_pattern(kept->at, MIB, 3);
    if (may_keep) {
        kept->at[5] ^= 1;
    }
    cp_lease_close(kept);
}

TEST(share_written_once)
{
    struct cp_region *region;
    struct cp_sealed *opened;
    size_t len;
    int before = cp_test_descriptors();
    CHECK_EQ(cp_region_open(2 * MIB, &region), 0);
    struct cp_sealed *sealed = written(region);
    const uint8_t *message = cp_sealed_message(sealed, false, &len);
    CHECK_EQ(len, sizeof(struct cp_sealed_head));
    CHECK(cp_sealed_may_open(getpid()));
    CHECK_EQ(cp_sealed_open(message, len, &opened), 0);
    for (int i = 0; i < 3; i++) {
        check_view(opened, true);
        check_view(sealed, true);
    }
    /* The file is unchanged: nobody can write to it. */
    struct cp_sealed_head head;
    memcpy(&head, message, sizeof(head));
    CHECK_EQ(pwrite(head.fd, "x", 1, 5), -1);
    CHECK_EQ(ftruncate(head.fd, 0), -1);

    /* A worker that cannot open the file is sent all of its bytes. */
    struct cp_sealed *whole;
    message = cp_sealed_message(sealed, true, &len);
    CHECK_EQ(len, cp_sealed_size(sealed));
    CHECK_EQ(cp_sealed_open(message, len, &whole), 0);
    check_view(whole, false);
    cp_sealed_unref(whole);

    /* There is a limit, and freed files do not count. */
    struct cp_sealed *more;
    uint8_t *bytes = pattern(MIB, 4);
    CHECK_EQ(cp_sealed_begin(region, &more), 0);
    CHECK_EQ(cp_sealed_add(more, bytes, MIB), CP_ENOMEM);
    cp_sealed_unref(sealed);
    CHECK_EQ(cp_sealed_add(more, bytes, MIB), 0);
    free(bytes);
    cp_sealed_unref(more);
    check_view(opened, true); /* the parent has dropped it */
    cp_sealed_unref(opened);
    CHECK_EQ(cp_sealed_open((uint8_t *)&head, sizeof(head), &opened),
             CP_ERRNO(ENOENT));
    cp_region_unref(region);
    CHECK_EQ(cp_test_descriptors(), before);
}

TEST(share_written_without_a_file)
{
    struct cp_sealed *sealed = written(NULL), *opened;
    size_t len;
    const uint8_t *message = cp_sealed_message(sealed, false, &len);
    CHECK_EQ(len, cp_sealed_size(sealed));
    CHECK_EQ(cp_sealed_open(message, len, &opened), 0);
    check_view(opened, false);
    check_view(sealed, false);
    cp_sealed_unref(opened);
    cp_sealed_unref(sealed);
}

TEST(share_messages_that_lie)
{
    struct cp_region *region;
    struct cp_sealed *opened;
    size_t len;
    CHECK_EQ(cp_region_open(64 * MIB, &region), 0);
    struct cp_sealed *sealed = written(region);
    struct cp_sealed_head head;
    memcpy(&head, cp_sealed_message(sealed, false, &len), sizeof(head));
    uint8_t *bytes = (uint8_t *)&head;
    CHECK_EQ(cp_sealed_open(bytes, sizeof(head) - 1, &opened), CP_EPROTO);
    for (size_t at = 0; at + 8 <= offsetof(struct cp_sealed_head, device);
         at += 8) {
        struct cp_sealed_head wrong = head;
        memset((uint8_t *)&wrong + at, 0xff, 8);
        CHECK_EQ(cp_sealed_open((uint8_t *)&wrong, sizeof(wrong), &opened),
                 CP_EPROTO);
    }
    struct cp_sealed_head other = head;
    other.inode++; /* as if the number were another file's now */
    CHECK_EQ(cp_sealed_open((uint8_t *)&other, sizeof(other), &opened),
             CP_ERRNO(ESTALE));
    other = head;
    other.size++;
    CHECK_EQ(cp_sealed_open((uint8_t *)&other, sizeof(other), &opened),
             CP_ERRNO(ESTALE));
    cp_sealed_unref(sealed);
    cp_region_unref(region);
}

TEST(share_a_file_that_is_inherited)
{
    struct cp_region *region;
    struct cp_sealed *opened;
    CHECK_EQ(cp_region_open(64 * MIB, &region), 0);
    struct cp_sealed *sealed = written(region);
    int before = cp_test_descriptors();
    CHECK_EQ(cp_sealed_attach(dup(cp_sealed_fd(sealed)), &opened), 0);
    CHECK_EQ(cp_test_descriptors(), before + 1);
    /* A program that the worker starts does not inherit it. */
    CHECK_EQ(fcntl(cp_sealed_fd(opened), F_GETFD), FD_CLOEXEC);
    CHECK_EQ(cp_sealed_size(opened), cp_sealed_size(sealed));
    struct cp_sheet *sheet;
    struct cp_loan *loan;
    const uint8_t *body;
    size_t len;
    CHECK_EQ(cp_sealed_view(opened, &sheet, &body, &len, &loan), 0);
    CHECK(cp_sealed_has_body(sealed, body, len));
    cp_loan_close(loan);
    cp_sheet_unref(sheet);
    cp_sealed_unref(opened);
    /* Other files, which are closed as well: an empty one, one that is no file
     * of ours, a copy, and no file at all. */
    struct cp_sealed_head head;
    CHECK_EQ(pread(cp_sealed_fd(sealed), &head, sizeof(head), 0),
             (ssize_t)sizeof(head));
    int fd = memfd_create("other", MFD_CLOEXEC);
    CHECK_EQ(cp_sealed_attach(dup(fd), &opened), CP_EPROTO);
    CHECK_EQ(ftruncate(fd, 4096), 0);
    CHECK_EQ(cp_sealed_attach(dup(fd), &opened), CP_EPROTO);
    CHECK_EQ(pwrite(fd, &head, sizeof(head), 0), (ssize_t)sizeof(head));
    CHECK_EQ(cp_sealed_attach(fd, &opened), CP_ERRNO(ESTALE));
    CHECK_EQ(cp_sealed_attach(fd, &opened), CP_ERRNO(EBADF));
    CHECK(opened == NULL);
    CHECK_EQ(cp_test_descriptors(), before);
    cp_sealed_unref(sealed);
    cp_region_unref(region);
}

/* A task that refers to func. */
static struct cp_task *
task_with_use(struct lone *lone, struct cp_func *func, uint64_t index)
{
    struct cp_parts parts = {0};
    struct cp_buf body = {.parts = &parts};
    for (int i = 0; i < 2; i++) {
        bool is_new;
        CHECK_EQ(cp_use_add(&parts, func, &is_new), 0);
        CHECK_EQ(is_new, i == 0);
        (void)atomic_fetch_add(&func->users, is_new ? 1 : 0);
    }
    CHECK_EQ(cp_buf_put(&body, "b", 1), 0);
    struct cp_task *task = cp_task_new_take(index, 0, &body);
    CHECK_EQ(task->flags, 0);
    CHECK_EQ(parts.n_uses, 0);
    task->job = lone->job;
    cp_buf_fini(&body);
    cp_parts_fini(&parts);
    return task;
}

TEST(share_uses_are_sent_before_the_task)
{
    struct ends e;
    struct lone lone;
    struct cp_frame frame;
    const uint8_t *body;
    _Atomic bool unused = false;
    open_both(&e, &lone);
    struct cp_func *inner = calloc(1, sizeof(*inner));
    struct cp_func *outer = calloc(1, sizeof(*outer));
    struct cp_func *uses[] = {inner};
    *inner = (struct cp_func){.slot = 5,
                              .flags = CP_SEALED | CP_SHARED,
                              .sealed = written(e.region),
                              .users = 1,
                              .unused = &unused};
    *outer = (struct cp_func){.slot = 2,
                              .flags = CP_SEALED | CP_SHARED,
                              .sealed = written(e.region),
                              .unused = &unused,
                              .uses = uses,
                              .n_uses = 1};
    /* Nothing is sent before the worker has said whether it can open the
     * file. */
    struct cp_task *task = task_with_use(&lone, outer, 1);
    CHECK_EQ(outer->users, 1);
    CHECK_EQ(cp_worker_send_task(lone.w, lone.func, task), 0);
    lone_start(&lone);
    atomic_store(&lone.w->row->opens, 1);
    for (int round = 0; round < 2; round++) {
        CHECK_EQ(cp_worker_send_task(lone.w, lone.func, task), 1);
        CHECK_EQ(cp_worker_flush(lone.w), 0);
        static const uint32_t slots[] = {5, 2};
        for (int i = 0; i < 2; i++) {
            do {
                lone_next(&lone, &frame, &body);
            } while (frame.kind != CP_FUNC || (frame.flags & CP_SHARED) == 0);
            CHECK_EQ(frame.arg, slots[i]);
            CHECK_EQ(frame.flags, CP_SEALED | CP_SHARED);
            CHECK_EQ(frame.len, sizeof(struct cp_sealed_head));
        }
        lone_next_task(&lone, &frame);
        CHECK_EQ(frame.kind, CP_TASK);
        CHECK_EQ(lone_answer(&lone, frame.seq, 1, 1) >= 0, 1);
        CHECK_EQ(cp_serve_flush(&lone.s), 0);
        CHECK_EQ(cp_worker_recv(lone.w), 0);
        CHECK_EQ(outer->users, 0); /* the task is freed */
        CHECK(atomic_exchange(&unused, false));
        /* The worker has to be told again. */
        cp_worker_forget(lone.w, 5);
        cp_worker_forget(lone.w, 2);
        task = task_with_use(&lone, outer, 2);
    }
    cp_task_free(task);
    lone.w->has_func[5] = 0;
    lone.w->has_func[2] = 0;
    cp_sealed_unref(inner->sealed);
    cp_sealed_unref(outer->sealed);
    free(inner);
    free(outer);
    close_both(&e, &lone);
}

TEST(share_forgotten_behind_a_big_body)
{
    struct lone lone;
    struct cp_frame frame;
    const uint8_t *body;
    lone_open(&lone, UINT64_MAX, 5);
    lone_start(&lone);
    CHECK_EQ(lone_send(&lone, 1, CP_BIG * 16), 1);
    CHECK_EQ(cp_worker_flush(lone.w), 0);
    CHECK(lone.w->big != NULL);
    cp_worker_forget(lone.w, lone.func->slot);
    CHECK(lone.w->forget_due);
    while (lone.w->big != NULL) {
        CHECK_EQ(cp_serve_wait(&lone.s), 0);
        CHECK_EQ(cp_worker_flush(lone.w), 0);
    }
    CHECK(!lone.w->forget_due);
    lone_next_task(&lone, &frame);
    lone_next(&lone, &frame, &body);
    CHECK_EQ(frame.kind, CP_FORGET);
    CHECK_EQ(frame.arg, lone.func->slot);
    lone_close(&lone);
}

TEST(share_many_threads)
{
    struct ends e;
    struct crowd crowd[4];
    pthread_t threads[4];
    struct cp_heap_counts counts;
    open_ends(&e, 1024 * MIB);
    for (uint64_t i = 0; i < 4; i++) {
        crowd[i] = (struct crowd){&e, i + 1};
        threads[i] = cp_test_start(run_crowd, &crowd[i]);
    }
    for (int i = 0; i < 4; i++) {
        (void)cp_test_join(threads[i]);
    }
    cp_heap_count(e.heap, &counts);
    CHECK_EQ(counts.n_used, 0);
    CHECK(counts.n_slots <= 16);
    close_ends(&e);
}
#else

TEST(share_there_is_none)
{
    struct cp_region *region;
    CHECK_EQ(cp_region_open(MIB, &region), CP_ERRNO(ENOSYS));
    CHECK(region == NULL);
}
#endif

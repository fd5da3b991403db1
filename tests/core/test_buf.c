/* The growable buffer. */
#include "base/buf.h"
#include "base/mem.h"
#include "cp_test.h"

#include <stdlib.h>
#include <string.h>

TEST(buf_zeroed_struct_is_empty)
{
    struct cp_buf buf = {0};
    CHECK_EQ(cp_buf_len(&buf), 0);
    CHECK_EQ(cp_buf_room(&buf), 0);
    cp_buf_consume(&buf, 0);
    cp_buf_reset(&buf, 0);
    CHECK_EQ(cp_buf_put(&buf, "", 0), 0);
    CHECK_EQ(cp_buf_len(&buf), 0);
    CHECK_EQ(cp_buf_put(&buf, "abc", 3), 0);
    CHECK_BYTES(cp_buf_head(&buf), "abc", 3);
    cp_buf_fini(&buf);
    cp_buf_fini(&buf);
    CHECK_EQ(cp_buf_len(&buf), 0);
}

TEST(buf_is_usable_after_fini)
{
    struct cp_buf buf;
    cp_buf_init(&buf);
    CHECK_EQ(cp_buf_put(&buf, "abc", 3), 0);
    cp_buf_fini(&buf);
    CHECK_EQ(cp_buf_put(&buf, "def", 3), 0);
    CHECK_EQ(cp_buf_len(&buf), 3);
    CHECK_BYTES(cp_buf_head(&buf), "def", 3);
    cp_buf_fini(&buf);
}

TEST(buf_reuses_what_was_consumed)
{
    struct cp_buf buf = {0};
    CHECK_EQ(cp_buf_reserve(&buf, 1000), 0);
    size_t cap = buf.cap;
    memset(cp_buf_tail(&buf), 'x', cap);
    cp_buf_add(&buf, cap);
    cp_buf_consume(&buf, cap - 1);
    CHECK_EQ(cp_buf_room(&buf), 0);
    CHECK_EQ(cp_buf_reserve(&buf, cap - 1), 0);
    CHECK_EQ(buf.cap, cap);
    CHECK_EQ(cp_buf_len(&buf), 1);
    CHECK_EQ(*cp_buf_head(&buf), 'x');
    /* All consumed: back at the start without moving a byte. */
    cp_buf_consume(&buf, 1);
    CHECK_EQ(cp_buf_room(&buf), cap);
    cp_buf_fini(&buf);
}

TEST(buf_refuses_absurd_sizes_unchanged)
{
    struct cp_buf buf = {0};
    CHECK_EQ(cp_buf_reserve(&buf, SIZE_MAX), CP_ENOMEM);
    CHECK_EQ(cp_buf_put(&buf, "abcdef", 6), 0);
    cp_buf_consume(&buf, 2);
    CHECK_EQ(cp_buf_reserve(&buf, SIZE_MAX), CP_ENOMEM);
    CHECK_EQ(cp_buf_reserve(&buf, SIZE_MAX / 2), CP_ENOMEM);
    CHECK_EQ(cp_buf_put(&buf, "", SIZE_MAX - 3), CP_ENOMEM);
    CHECK_EQ(cp_buf_len(&buf), 4);
    CHECK_BYTES(cp_buf_head(&buf), "cdef", 4);
    cp_buf_fini(&buf);
}

TEST(buf_reset_frees_only_memory_above_keep)
{
    struct cp_buf buf = {0};
    CHECK_EQ(cp_buf_reserve(&buf, 100000), 0);
    cp_buf_add(&buf, 10);
    cp_buf_reset(&buf, 200000);
    CHECK_EQ(cp_buf_len(&buf), 0);
    CHECK(buf.cap >= 100000);
    cp_buf_reset(&buf, 50000);
    CHECK_EQ(buf.cap, 0);
    CHECK(buf.data == NULL);
}

/* Compared with a simple model: one number counts the bytes put, another the
 * bytes consumed; the byte at position n is a function of n. */
TEST(buf_hands_its_memory_over)
{
    struct cp_buf buf = {0};
    CHECK_EQ(cp_buf_put(&buf, "abcdef", 6), 0);
    cp_buf_consume(&buf, 2);
    uint8_t *start;
    void *memory = cp_buf_take(&buf, &start);
    CHECK_BYTES(start, "cdef", 4);
    CHECK_EQ(cp_buf_len(&buf), 0);
    CHECK_EQ(cp_buf_put(&buf, "new", 3), 0); /* none of the old memory */
    CHECK_BYTES(start, "cdef", 4);
    free(memory);
    CHECK(cp_buf_take(&(struct cp_buf){0}, &start) == NULL);
    cp_buf_fini(&buf);
}

/* Growing keeps the contents, also with large pages. */
TEST(buf_grows_large)
{
    struct cp_buf buf = {0};
    uint32_t n = 0;
    for (size_t len = CP_KIB(64); len <= CP_KIB(16 << 10); len *= 2) {
        while (cp_buf_len(&buf) < len) {
            CHECK_EQ(cp_buf_put(&buf, &n, sizeof(n)), 0);
            n++;
        }
        cp_buf_consume(&buf, sizeof(n)); /* the head is not the start */
    }
    CHECK(buf.cap >= CP_MEM_HUGE_MIN);
    uint32_t first;
    memcpy(&first, cp_buf_head(&buf), sizeof(first));
    for (uint32_t i = first; i < n; i++) {
        uint32_t got;
        memcpy(&got, cp_buf_head(&buf), sizeof(got));
        CHECK_EQ(got, i);
        cp_buf_consume(&buf, sizeof(got));
    }
    CHECK_EQ(cp_buf_len(&buf), 0);
    cp_buf_fini(&buf);
}

TEST(buf_keeps_its_bytes_in_order)
{
    struct cp_buf buf = {0};
    uint64_t seed = 1;
    size_t put = 0, consumed = 0;
    uint8_t bytes[3000];
    for (int i = 0; i < 20000; i++) {
        size_t n = cp_test_random(&seed) % sizeof(bytes);
        if (cp_test_random(&seed) % 2 == 0) {
            for (size_t k = 0; k < n; k++) {
                bytes[k] = (uint8_t)((put + k) * 31 >> 3);
            }
            CHECK_EQ(cp_buf_put(&buf, bytes, n), 0);
            put += n;
        } else {
            n = n < put - consumed ? n : put - consumed;
            for (size_t k = 0; k < n; k++) {
                bytes[k] = (uint8_t)((consumed + k) * 31 >> 3);
            }
            if (n > 0) {
                CHECK_BYTES(cp_buf_head(&buf), bytes, n);
            }
            cp_buf_consume(&buf, n);
            consumed += n;
        }
        CHECK_EQ(cp_buf_len(&buf), put - consumed);
    }
    CHECK(put > 1000000);
    cp_buf_fini(&buf);
}

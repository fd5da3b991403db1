/* Frame headers. */
#include "cp_test.h"
#include "link/wire.h"

#include <string.h>

static int
get(struct cp_frame frame, size_t len, bool up, struct cp_frame *out)
{
    uint8_t bytes[CP_HEADER + 1];
    memcpy(bytes + 1, &frame, CP_HEADER); /* at an odd address */
    return cp_wire_get(bytes + 1, len, up, out);
}

TEST(wire_header_round_trips)
{
    struct cp_frame in = {.len = 77,
                          .seq = UINT64_MAX - 3,
                          .arg = 0xdeadbeef,
                          .kind = CP_RESULT,
                          .flags = 0x8001};
    struct cp_frame out;
    CHECK_EQ(get(in, CP_HEADER, true, &out), 1);
    CHECK_BYTES(&out, &in, sizeof(in));
}

TEST(wire_short_header_is_incomplete)
{
    struct cp_frame in = {.kind = CP_RESULT}, out;
    CHECK_EQ(cp_wire_get(NULL, 0, true, &out), 0);
    for (size_t len = 0; len < CP_HEADER; len++) {
        CHECK_EQ(get(in, len, true, &out), 0);
    }
}

TEST(wire_kinds_go_one_way_only)
{
    struct cp_frame out;
    for (unsigned kind = 0; kind <= UINT16_MAX; kind++) {
        struct cp_frame in = {.kind = (uint16_t)kind};
        bool down = kind == CP_FUNC || kind == CP_FORGET || kind == CP_TASK
                    || kind == CP_CREDIT;
        bool up = kind == CP_HELLO || kind == CP_RESULT || kind == CP_ERROR
                  || kind == CP_INIT_ERROR || kind == CP_LEAVE
                  || kind == CP_VALUE;
        CHECK_EQ(get(in, CP_HEADER, false, &out), down ? 1 : CP_EPROTO);
        CHECK_EQ(get(in, CP_HEADER, true, &out), up ? 1 : CP_EPROTO);
        CHECK_EQ(strcmp(cp_wire_kind_name(kind), "?") != 0, down || up);
    }
    CHECK_EQ(strcmp(cp_wire_kind_name(CP_RESULT), "RESULT"), 0);
    CHECK_EQ(strcmp(cp_wire_kind_name(CP_INIT_ERROR), "INIT_ERROR"), 0);
}

TEST(wire_lengths_are_limited)
{
    struct cp_frame out;
    struct cp_frame in = {.kind = CP_TASK, .len = CP_FRAME_MAX};
    CHECK_EQ(get(in, CP_HEADER, false, &out), 1);
    in.len = CP_FRAME_MAX + 1;
    CHECK_EQ(get(in, CP_HEADER, false, &out), CP_EPROTO);
    in.len = UINT64_MAX;
    CHECK_EQ(get(in, CP_HEADER, false, &out), CP_EPROTO);
}

TEST(wire_hello_and_forget_have_no_body)
{
    struct cp_frame out;
    struct cp_frame hello = {.kind = CP_HELLO, .len = 1};
    struct cp_frame forget = {.kind = CP_FORGET, .len = 1};
    CHECK_EQ(get(hello, CP_HEADER, true, &out), CP_EPROTO);
    CHECK_EQ(get(forget, CP_HEADER, false, &out), CP_EPROTO);
    hello.len = forget.len = 0;
    CHECK_EQ(get(hello, CP_HEADER, true, &out), 1);
    CHECK_EQ(get(forget, CP_HEADER, false, &out), 1);
}

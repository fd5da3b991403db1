/* Frame headers: decode and validate; see link/wire.h. */
#include "link/wire.h"

#include <string.h>

static bool
is_down(unsigned kind)
{
    return kind >= CP_FUNC && kind <= CP_CREDIT;
}

static bool
is_up(unsigned kind)
{
    return kind >= CP_HELLO && kind <= CP_VALUE;
}

int
cp_wire_get(const uint8_t *bytes, size_t len, bool up, struct cp_frame *frame)
{
    if (len < CP_HEADER) {
        return 0;
    }
    memcpy(frame, bytes, CP_HEADER);
    if (!(up ? is_up(frame->kind) : is_down(frame->kind))
        || frame->len > CP_FRAME_MAX || frame->len > SIZE_MAX / 2) {
        return CP_EPROTO;
    }
    if ((frame->kind == CP_HELLO || frame->kind == CP_FORGET
         || frame->kind == CP_LEAVE || frame->kind == CP_CREDIT)
        && frame->len != 0) {
        return CP_EPROTO;
    }
    return 1;
}

const char *
cp_wire_kind_name(unsigned kind)
{
    switch (kind) {
        case CP_FUNC: return "FUNC";
        case CP_FORGET: return "FORGET";
        case CP_TASK: return "TASK";
        case CP_CREDIT: return "CREDIT";
        case CP_HELLO: return "HELLO";
        case CP_RESULT: return "RESULT";
        case CP_ERROR: return "ERROR";
        case CP_INIT_ERROR: return "INIT_ERROR";
        case CP_LEAVE: return "LEAVE";
        case CP_VALUE: return "VALUE";
        default: return "?";
    }
}

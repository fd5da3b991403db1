/* Names of attributes; see base/word.h. */
#include "base/word.h"

static const char *const TEXTS[WORD_COUNT] = {
    [WORD_MODULE] = "__module__",
    [WORD_QUALNAME] = "__qualname__",
    [WORD_NAME] = "__name__",
    [WORD_REDUCE] = "__reduce__",
    [WORD_REDUCE_EX] = "__reduce_ex__",
    [WORD_GETSTATE] = "__getstate__",
    [WORD_SETSTATE] = "__setstate__",
    [WORD_GETNEWARGS] = "__getnewargs__",
    [WORD_GETNEWARGS_EX] = "__getnewargs_ex__",
    [WORD_NEW] = "__new__",
    [WORD_CALL] = "__call__",
    [WORD_INIT] = "__init__",
    [WORD_TUPLE_NEW] = "_tuple_new",
    [WORD_SLOTS] = "__slots__",
    [WORD_DICT] = "__dict__",
    [WORD_EXTEND] = "extend",
    [WORD_APPEND] = "append",
    [WORD_ITEMS] = "items",
    [WORD_DECIMAL_MODULE] = "decimal",
    [WORD_DECIMAL] = "Decimal",
    [WORD_UUID_MODULE] = "uuid",
    [WORD_UUID] = "UUID",
    [WORD_SAFE_UUID] = "SafeUUID",
    [WORD_UNKNOWN] = "unknown",
    [WORD_INT] = "int",
    [WORD_IS_SAFE] = "is_safe",
    [WORD_PATH_MODULE] = "pathlib",
    [WORD_POSIX_PATH] = "PosixPath",
    [WORD_PURE_POSIX_PATH] = "PurePosixPath",
    [WORD_RAW_PATHS] = "_raw_paths",
    [WORD_PARTS] = "_parts",
    [WORD_DRIVE] = "_drv",
    [WORD_ROOT] = "_root",
    [WORD_COLLECTIONS_MODULE] = "collections",
    [WORD_COUNTER] = "Counter",
    [WORD_DEFAULT_FACTORY] = "default_factory",
    [WORD_MAXLEN] = "maxlen",
    [WORD_CORE] = "_core",
    [WORD_VALUE] = "_value_",
    [WORD_MEMBER_OF_VALUE] = "_value2member_map_",
    [WORD_FUNC] = "func",
    [WORD_ARGS] = "args",
    [WORD_KWDS] = "kwds",
    [WORD_CALLBACK] = "callback",
    [WORD_ERROR_CALLBACK] = "error_callback",
    [WORD_ENGINE] = "_engine",
    [WORD_PRIVATE_CALL] = "_call",
    [WORD_ASYNCIO_MODULE] = "asyncio",
    [WORD_RUNNING_LOOP] = "_get_running_loop",
    [WORD_SUBMITTED] = "_submitted",
    [WORD_REFUSED] = "_refused",
};

int
py_word_add(struct py_state *state)
{
    for (int i = 0; i < WORD_COUNT; i++) {
        state->words[i] = PyUnicode_InternFromString(TEXTS[i]);
        if (state->words[i] == NULL) {
            return -1;
        }
    }
    return 0;
}

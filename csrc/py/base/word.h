/* Names of attributes as interned strings, made once. [attached] */
#ifndef PY_WORD_H
#define PY_WORD_H

#include "base/state.h"

enum py_word {
    WORD_MODULE,
    WORD_QUALNAME,
    WORD_NAME,
    WORD_REDUCE,
    WORD_REDUCE_EX,
    WORD_GETSTATE,
    WORD_SETSTATE,
    WORD_GETNEWARGS,
    WORD_GETNEWARGS_EX,
    WORD_NEW,
    WORD_CALL,
    WORD_INIT,
    WORD_TUPLE_NEW, /* how collections.namedtuple() calls tuple.__new__ */
    WORD_SLOTS,
    WORD_DICT,
    WORD_EXTEND,
    WORD_APPEND,
    WORD_ITEMS,
    /* The classes of value/standard.c. */
    WORD_DECIMAL_MODULE,
    WORD_DECIMAL,
    WORD_UUID_MODULE,
    WORD_UUID,
    WORD_SAFE_UUID,
    WORD_UNKNOWN,
    WORD_INT,
    WORD_IS_SAFE,
    WORD_PATH_MODULE,
    WORD_POSIX_PATH,
    WORD_PURE_POSIX_PATH,
    WORD_RAW_PATHS,
    WORD_PARTS,
    WORD_DRIVE,
    WORD_ROOT,
    WORD_COLLECTIONS_MODULE,
    /* Of engine/method.c. */
    WORD_FUNC,
    WORD_ARGS,
    WORD_KWDS,
    WORD_CALLBACK,
    WORD_ERROR_CALLBACK,
    WORD_ENGINE,
    WORD_PRIVATE_CALL,
    WORD_ASYNCIO_MODULE,
    WORD_RUNNING_LOOP,
    WORD_SUBMITTED,
    WORD_REFUSED,
    WORD_COUNTER,
    WORD_DEFAULT_FACTORY,
    WORD_MAXLEN,
    WORD_CORE,
    /* What the members of an Enum have, and where its class finds them. */
    WORD_VALUE,
    WORD_MEMBER_OF_VALUE,
    WORD_COUNT
};

static_assert(WORD_COUNT <= PY_WORDS, "make room for the words");

/* Make the strings: 0, or -1 with MemoryError. */
int py_word_add(struct py_state *state);

#endif

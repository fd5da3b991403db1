/*
 * The format of encoded values; only the files that encode and decode need it.
 *
 *   value   a tag, then the contents of a value with this tag (below)
 *   column  a tag, then the contents of n values, without their tags; but for:
 *           MIXED        n whole values
 *           ONES         n tags
 *           TUPLE LIST   the arity in one byte (1 to ARITY_MAX), then as many
 *                        columns of n
 *           DICT         the arity in one byte (1 to KEYS_MAX), a column of
 *                        that many keys, then as many columns of n
 *           PICK         the number of objects in one byte (not 0), a column
 *                        of these objects, then n bytes that say which object
 *                        each value is
 *   run     RUN, a size, a column
 *
 *   NONE FALSE TRUE              nothing
 *   INT1 INT2 INT4 INT8          1, 2, 4 or 8 bytes, two's complement
 *   INT                          a size, that many bytes, two's complement
 *   FLOAT                        8 bytes
 *   ASCII UCS1 UCS2 UCS4         a size in characters, the characters
 *   BYTES                        a size, the bytes
 *   TUPLE LIST                   a size, a column
 *   DICT                         a size, a column of keys, a column of values
 *
 * A size is one byte below WIDE, or WIDE and 8 bytes. Numbers are in native
 * byte order and not aligned. Each value of a column takes at least one byte,
 * so a count can never be larger than the number of bytes that are left.
 */
#ifndef PY_TAGS_H
#define PY_TAGS_H

enum py_tag {
    TAG_NONE = 1,
    TAG_FALSE,
    TAG_TRUE,
    TAG_INT1,
    TAG_INT2,
    TAG_INT4,
    TAG_INT8,
    TAG_INT,
    TAG_FLOAT,
    TAG_ASCII,
    TAG_UCS1,
    TAG_UCS2,
    TAG_UCS4,
    TAG_BYTES,
    TAG_TUPLE,
    TAG_LIST,
    TAG_DICT,
    TAG_ONES,
    TAG_PICK,
    TAG_MIXED,
    TAG_RUN,
    TAG_END
};

#define WIDE 255u
#define ARITY_MAX 16
#define KEYS_MAX 255
#define PICK_MAX 255
/* How deep columns may be nested. Each level multiplies the memory that one
 * byte of input can ask for. */
#define DEPTH_MAX 8

#endif

/*
 * The encoding, for the py_codec files alone.
 *
 *   value   tag, then what values of that tag have (below)
 *   column  tag, then for each of n values what it has, without a tag; of MIXED:
 *           n values; of ONES: n tags; of TUPLE and LIST: arity in one byte, 1
 *           to ARITY_MAX, then so many columns of n; of DICT: the same, to KEYS_MAX,
 *           but first a column of so many keys, then as many columns of n; of PICK: how many objects
 *           there are in one byte, not 0, a column of them, then n bytes that
 *           say which
 *   run     RUN, size, column
 *
 *   NONE FALSE TRUE              nothing
 *   INT1 INT2 INT4 INT8          so many bytes, two's complement
 *   INT                          size, so many bytes, likewise
 *   FLOAT                        8 bytes
 *   ASCII UCS1 UCS2 UCS4         size in characters, the characters
 *   BYTES                        size, the bytes
 *   TUPLE LIST                   size, column
 *   DICT                         size, column of keys, column of values
 *
 * A size is one byte below WIDE, or WIDE and 8 bytes. Numbers are in native
 * order and not aligned. Each value of a column takes a byte or more, so that a
 * count is never above the number of bytes that are left.
 */
#ifndef PY_CODEC_TAGS_H
#define PY_CODEC_TAGS_H

enum py_codec_tag {
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
/* Columns in columns. Each level multiplies what a byte can ask for in memory. */
#define DEPTH_MAX 8

#endif

/*
 * The encoding, for py_codec_put.c and py_codec_get.c alone.
 *
 *   value   tag, then what values of that tag have (below)
 *   column  tag, then for each of n values what it has, without a tag; of MIXED:
 *           n values; of ONES: n tags; of TUPLE: arity in one byte, 1 to
 *           ARITY_MAX, then so many columns of n
 *   run     RUN, size, column
 *
 *   NONE FALSE TRUE              nothing
 *   INT1 INT2 INT4 INT8          so many bytes, two's complement
 *   INT                          size, so many bytes, likewise
 *   FLOAT                        8 bytes
 *   ASCII UCS1 UCS2 UCS4         size in characters, the characters
 *   BYTES                        size, the bytes
 *   TUPLE                        size, column
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
    TAG_ONES,
    TAG_MIXED,
    TAG_RUN,
    TAG_END
};

#define WIDE 255u
#define ARITY_MAX 16
/* Tuples in tuples. Each level multiplies what a byte can ask for in memory. */
#define DEPTH_MAX 8

#endif

/*
 * The format of encoded values; only the files that encode and decode need it.
 *
 *   body    a value or a run; the first byte has the tag and two flags
 *   value   a tag, then the contents of a value with this tag (below)
 *   column  a tag, then the contents of n values, without their tags; but for:
 *           MIXED        n whole values
 *           KEYS         n whole values, each a string or a REF
 *           ONES         n tags
 *           TUPLE KEPT_TUPLE LIST OPEN_LIST
 *                        the arity in one byte (1 to ARITY_MAX), then as many
 *                        columns of n
 *           DICT         the arity in one byte (1 to KEYS_MAX), a column of
 *                        that many keys, then as many columns of n
 *           PICK         the number of objects in one byte (not 0), a column
 *                        of these objects, then n bytes that say which object
 *                        each value is
 *           SET FROZENSET
 *                        n sizes, then one column of the items of all
 *           OBJECT STANDARD
 *                        see below
 *   run     RUN, a size, a column
 *
 *   NONE FALSE TRUE              nothing
 *   INT1 INT2 INT4 INT8          1, 2, 4 or 8 bytes, two's complement
 *   INT                          a size, that many bytes, two's complement
 *   FLOAT                        8 bytes
 *   ASCII UCS1 UCS2 UCS4         a size in characters, the characters
 *   BYTES BYTEARRAY              a size, the bytes
 *   TUPLE KEPT_TUPLE LIST        a size, a column
 *   OPEN_LIST                    the same: a list that its own items refer to
 *   SET FROZENSET                a size, a column
 *   DICT                         a size, a column of keys, a column of values
 *   REF1 REF2 REF4               1, 2 or 4 bytes: the number of an object that
 *                                was met before in this body
 *   NAME                         two strings: a module, and a qualified name
 *                                in it
 *   OBJECT                       n objects of one class (n is 1 for a value):
 *           one byte of HOW_ bits; the callable or class, a value; the arity,
 *           a size; as many columns of n arguments, and n bytes 0 where there
 *           are no arguments;
 *           LIST    for each object a size, a column: items to append
 *           DICT    for each object a size, a column of keys, one of values
 *           ROWS    instead: the arity in one byte (as of columns of LIST or
 *                   DICT); for DICT a column of that many keys; as many
 *                   columns of n
 *           ATTRS   how many attributes go to __dict__, in one byte; how many
 *                   to slots, in one byte; a column of all these names; a
 *                   column of n values for each name
 *           SETTER  a callable that sets the state, a value
 *           STATE   a column of n states
 *
 *   ARRAY   n arrays of numpy, of one dtype and shape: the number of the dtype,
 *           or 255 and a string; how the numbers lie in memory, in one byte;
 *           the number of dimensions in one byte; that many sizes; the bytes of
 *           all arrays, or n bytes 0 where the arrays are empty
 *           With the bit IN_PARTS of that byte, in place of the bytes of each array
 *           the number of a part of the body in 4 bytes; or NO_PART, and the bytes
 *           With the bit IN_BLOCK, in place of all bytes, the number of one part
 *           that has the bytes of all arrays, in 4 bytes, and n bytes 0
 *   PART    one value whose contents are a part of the body (core/share/parts.h):
 *           the tag of a string, BYTES or BYTEARRAY; the part's number in 4 bytes;
 *           the size, of a string in characters, in 8 bytes
 *   SHARED  one object that all workers share, where its handle was: the number
 *           of the object in the pool, in 4 bytes
 *   SCALAR  n scalars of numpy: the number of the dtype, the bytes of all
 *   STANDARD n objects of a class of the standard library: its number of
 *           value/standard.h, in one byte; for dates and times the bytes of all,
 *           followed by a column of n zones where the number says so; for others
 *           a column of n parts
 *
 * Objects that must stay one object within a body have numbers: in the order in
 * which they start, first those of a column, then those in it. These are LIST,
 * OPEN_LIST, KEPT_TUPLE, DICT, SET, FROZENSET, BYTEARRAY, NAME, OBJECT, ARRAY and STANDARD;
 * the strings of KEYS; and strings and bytes of LARGE bytes or more, as a PART too.
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
    TAG_KEPT_TUPLE,
    TAG_OPEN_LIST,
    TAG_KEYS,
    TAG_REF1,
    TAG_REF2,
    TAG_REF4,
    TAG_NAME,
    TAG_OBJECT,
    TAG_SET,
    TAG_FROZENSET,
    TAG_BYTEARRAY,
    TAG_ARRAY,
    TAG_SCALAR,
    TAG_PART,
    TAG_STANDARD,
    TAG_SHARED,
    TAG_BUFFER, /* only of a PART: a bytearray that may be a view of it */
    TAG_END
};

/* The first byte of a body: the tag, and flags. A pickle starts with HAS_CODE
 * and the tag 0. */
#define TAG_BITS 0x3fu
#define HAS_REFS 0x40u /* there are REFs in the body */
#define HAS_CODE 0x80u /* there are objects whose classes are the program's */

/* How an object is made: by its class, as cls.__new__ would, or by calling a
 * callable. The other bits say what is done to the object afterwards. */
enum py_how {
    HOW_NEW = 1,
    HOW_NEW_EX = 2, /* HOW_NEW, of a tuple and a dict of arguments */
    HOW_LIST = 4,
    HOW_DICT = 8,
    HOW_ATTRS = 16,
    HOW_STATE = 32,
    HOW_SETTER = 64,
    HOW_ROWS = 128, /* besides LIST or DICT: all have the same size */
};

#define WIDE 255u
#define ARITY_MAX 16
#define KEYS_MAX 255
#define PICK_MAX 255
/* How deep columns of rows may be nested. Each level multiplies the memory that
 * one byte of input can demand. A single value starts again at 0. */
#define LEVEL_MAX 8
/* How deep values may be nested. */
#define DEPTH_MAX 200
/* In place of a part's number: there was no room for the part. */
#define NO_PART UINT32_MAX

/* From this size on, it matters how often an object is sent. */
#define LARGE 256

#endif

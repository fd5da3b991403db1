/*
 * Data that are written once and read by many processes: objects shared by
 * cp_share_open(), and data bound to a callable.
 *
 * They lie in a file in memory of their own, without a name. When all is written, the
 * file is sealed: nobody can change or shrink it. A worker opens it by the descriptor of
 * the parent (/proc/PID/fd), and maps it privately: all processes share the pages that
 * they read, and each has its own copy of those that it writes to. The kernel frees the
 * memory when the parent has closed the file and the last mapping is gone, so nothing
 * is left behind by any death.
 *
 * The file has a head, then the parts, each aligned to 64 bytes, then a body
 * that refers to the parts, then a table of them. If the system has no such
 * files, the same bytes are in the parent's own memory, and all of them are
 * sent to each worker.
 */
#ifndef CP_SEALED_H
#define CP_SEALED_H

#include "share/region.h"

struct cp_loan;
struct cp_sealed;

/* What is sent instead of the data; also the first bytes of the file. Native
 * byte order. */
struct cp_sealed_head {
    uint64_t magic;
    uint64_t size; /* of the whole file */
    uint64_t body_at, body_len;
    uint64_t table_at; /* of the parts: an offset and a length each */
    uint64_t n_parts;
    uint64_t device, inode; /* which file it is; both 0: none */
    int32_t pid, fd;        /* of the parent */
};

_Static_assert(sizeof(struct cp_sealed_head) == 72, "the head has no padding");

/* ---- the parent ---- */

/* Begin to write. region: where the bytes are counted; NULL: nowhere, and no
 * file is made. One reference. 0 or a negative code. */
int cp_sealed_begin(struct cp_region *region, struct cp_sealed **sealed);

/* Write a part. Returns its number; CP_ENOMEM if memory, or the region's limit,
 * is used up; or another negative code. */
int64_t cp_sealed_add(struct cp_sealed *sealed, const void *bytes, size_t n);

/* The same, but the bytes are only written by cp_sealed_write(), and have to
 * stay where they are until then. For a pool with files only. */
int64_t cp_sealed_add_later(struct cp_sealed *sealed, const void *bytes,
                            size_t n);

/* Write what cp_sealed_add_later() has left. 0, or negative as in
 * cp_sealed_add(). Locks nothing: other threads may do anything meanwhile but
 * use this object. */
int cp_sealed_write(struct cp_sealed *sealed);

/* How many parts there are. Forget all but the first n. */
uint64_t cp_sealed_count(const struct cp_sealed *sealed);
void cp_sealed_cut(struct cp_sealed *sealed, uint64_t n);

/* Write the body, and seal the file: nothing can be added any more. 0, or
 * negative as in cp_sealed_add(). */
int cp_sealed_end(struct cp_sealed *sealed, const void *body, size_t len);

/* How many bytes it has in total. */
uint64_t cp_sealed_size(const struct cp_sealed *sealed);

/* Does this part consist of exactly these bytes? Does the body? */
bool cp_sealed_has_part(struct cp_sealed *sealed, uint64_t number,
                        const void *bytes, size_t n);
bool cp_sealed_has_body(struct cp_sealed *sealed, const void *body, size_t len);

/* What a worker is sent: the head; or everything, with is_whole or if there is
 * no file. NULL: out of memory. Valid as long as the reference. */
const uint8_t *cp_sealed_message(struct cp_sealed *sealed, bool is_whole,
                                 size_t *len);

/* Is there a file that others may open? Its descriptor, or -1. */
bool cp_sealed_has_file(const struct cp_sealed *sealed);
int cp_sealed_fd(const struct cp_sealed *sealed);

void cp_sealed_ref(struct cp_sealed *sealed);   /* [any] */
void cp_sealed_unref(struct cp_sealed *sealed); /* NULL is fine [any] */

/* ---- a worker ---- */

/* May this process open the files of process pid? */
bool cp_sealed_may_open(int32_t pid);

/* Open what a message describes: one reference. 0; CP_EPROTO: the message is
 * invalid; CP_ENOMEM; or the error of opening the file. */
int cp_sealed_open(const uint8_t *message, size_t len,
                   struct cp_sealed **sealed);

/* The same for a descriptor of the file, which was inherited and is taken over,
 * also after a failure. CP_EPROTO: it is no such file. */
int cp_sealed_attach(int fd, struct cp_sealed **sealed);

/* ---- both ---- */

/* Map everything: the body, and leases of the parts. No other view sees what is
 * written to this one. 0; CP_ENOMEM or CP_EPROTO; or another code, in a forked
 * copy of a process that cannot open the file. [any] */
int cp_sealed_view(struct cp_sealed *sealed, struct cp_sheet **sheet,
                   const uint8_t **body, size_t *len, struct cp_loan **loan);

#endif

/* Data that are written once; see share/sealed.h. */
#include "share/sealed.h"

#include "base/mem.h"
#include "os/fd.h"
#include "os/proc.h"
#include "share/loan.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC UINT64_C(0x64656c6165736370) /* "cpsealed" */
#define ALIGN 64u
/* A file with more parts than this cannot be ours. */
#define PARTS_MAX (UINT64_C(1) << 32)

struct part {
    uint64_t at, len;
};

/* A part that is not written yet. */
struct late {
    const void *bytes;
    uint64_t at;
    size_t n;
};

struct cp_sealed {
    _Atomic uint32_t refs;
    pid_t owner;              /* the process that made this struct */
    struct cp_region *region; /* a reference; or NULL */
    struct cp_sealed_head head;
    int fd; /* of the file, or -1 */
    /* Without a file: the bytes, and the size of the buffer. A worker has the
     * bytes in a sheet. */
    uint8_t *bytes;
    size_t cap;
    struct cp_sheet *sheet; /* of a worker without a file */
    uint8_t *_Atomic
        shown;   /* parent: the mapped file, for workers that cannot open it */
    uint64_t at; /* where the next bytes go */
    struct part *parts;
    size_t cap_parts;
    struct late *late; /* by when they were added; n_late of them */
    size_t n_late, cap_late;
};

/* ---- writing ---- */

static int
grow_bytes(struct cp_sealed *sealed, uint64_t size)
{
    if (size <= sealed->cap) {
        return 0;
    }
    size_t cap = (size_t)(size + size / 4 + 4096);
    uint8_t *bytes = cap > size ? realloc(sealed->bytes, cap) : NULL;
    if (bytes == NULL) {
        return CP_ENOMEM;
    }
    sealed->bytes = bytes;
    sealed->cap = cap;
    return 0;
}

/* Write at this offset. */
static int
write_at(struct cp_sealed *sealed, uint64_t at, const void *bytes, size_t n)
{
    if (sealed->fd >= 0) {
        return cp_fd_write_at(sealed->fd, at, bytes, n);
    }
    int r = grow_bytes(sealed, at + n);
    if (r == 0 && n > 0) {
        memcpy(sealed->bytes + at, bytes, n);
    }
    return r;
}

static uint64_t
aligned(uint64_t at)
{
    return (at + ALIGN - 1) & ~(uint64_t)(ALIGN - 1);
}

/* A file that has no room is out of memory. */
static int
code_of_write(int r)
{
    return r == CP_ERRNO(ENOSPC) || r == CP_ERRNO(EFBIG) ? CP_ENOMEM : r;
}

/* Make room for n bytes behind the last ones, at an offset that is aligned to
 * ALIGN. Returns the offset, or CP_ENOMEM. */
static int64_t
extend(struct cp_sealed *sealed, size_t n)
{
    uint64_t at = aligned(sealed->at), more = at + n - sealed->at;
    if (n > UINT64_C(1) << 46 || at > UINT64_C(1) << 46
        || (sealed->region != NULL && !cp_region_take(sealed->region, more))) {
        return CP_ENOMEM;
    }
    sealed->at = at + n;
    return (int64_t)at;
}

/* Write behind the last bytes, after zeros that align the offset. Returns the
 * offset, or a negative code. */
static int64_t
append(struct cp_sealed *sealed, const void *bytes, size_t n)
{
    static const uint8_t zeros[ALIGN];
    uint64_t before = sealed->at;
    int64_t at = extend(sealed, n);
    if (at < 0) {
        return at;
    }
    int r = write_at(sealed, before, zeros, (size_t)((uint64_t)at - before));
    r = r == 0 ? write_at(sealed, (uint64_t)at, bytes, n) : r;
    if (r != 0) {
        if (sealed->region != NULL) {
            cp_region_give(sealed->region, sealed->at - before);
        }
        sealed->at = before;
        return code_of_write(r);
    }
    return at;
}

/* With one reference and no file; NULL: no memory. */
static struct cp_sealed *
new_sealed(void)
{
    struct cp_sealed *sealed = calloc(1, sizeof(*sealed));
    if (sealed != NULL) {
        atomic_init(&sealed->refs, 1);
        sealed->owner = cp_proc_self();
        sealed->fd = -1;
    }
    return sealed;
}

int
cp_sealed_begin(struct cp_region *region, struct cp_sealed **out)
{
    *out = NULL;
    struct cp_sealed *sealed = new_sealed();
    if (sealed == NULL) {
        return CP_ENOMEM;
    }
    sealed->at = sizeof(sealed->head);
    sealed->head.magic = MAGIC;
    sealed->head.fd = -1;
    /* If that fails, the bytes are kept in our own memory. */
    if (region != NULL && cp_fd_memory_to_seal(&sealed->fd) == 0) {
        cp_region_ref(region);
        sealed->region = region;
    }
    *out = sealed;
    return 0;
}

/* Room for one more part in the table: false if there is no memory. */
static bool
make_room(struct cp_sealed *sealed)
{
    struct part *parts =
        cp_mem_grow(sealed->parts, &sealed->cap_parts,
                    (size_t)sealed->head.n_parts + 1, sizeof(*parts));
    if (parts == NULL) {
        return false;
    }
    sealed->parts = parts;
    return true;
}

/* The part is at this offset; or this is a negative code. Returns its number,
 * or the code. */
static int64_t
note_part(struct cp_sealed *sealed, int64_t at, size_t n)
{
    if (at < 0) {
        return at;
    }
    uint64_t number = sealed->head.n_parts++;
    sealed->parts[number] = (struct part){(uint64_t)at, n};
    return (int64_t)number;
}

int64_t
cp_sealed_add(struct cp_sealed *sealed, const void *bytes, size_t n)
{
    return make_room(sealed) ? note_part(sealed, append(sealed, bytes, n), n)
                             : CP_ENOMEM;
}

int64_t
cp_sealed_add_later(struct cp_sealed *sealed, const void *bytes, size_t n)
{
    CP_ASSERT(sealed->fd >= 0); /* what is skipped is zero in a file */
    struct late *late = cp_mem_grow(sealed->late, &sealed->cap_late,
                                    sealed->n_late + 1, sizeof(*late));
    if (late == NULL) {
        return CP_ENOMEM;
    }
    sealed->late = late;
    int64_t at = make_room(sealed) ? extend(sealed, n) : CP_ENOMEM;
    if (at >= 0) {
        late[sealed->n_late++] =
            (struct late){.bytes = bytes, .at = (uint64_t)at, .n = n};
    }
    return note_part(sealed, at, n);
}

int
cp_sealed_write(struct cp_sealed *sealed)
{
    int r = 0;
    for (size_t i = 0; i < sealed->n_late && r == 0; i++) {
        const struct late *late = &sealed->late[i];
        r = write_at(sealed, late->at, late->bytes, late->n);
    }
    sealed->n_late = 0;
    return code_of_write(r);
}

uint64_t
cp_sealed_count(const struct cp_sealed *sealed)
{
    return sealed->head.n_parts;
}

void
cp_sealed_cut(struct cp_sealed *sealed, uint64_t n)
{
    if (n >= sealed->head.n_parts) {
        return;
    }
    const struct part *last = n > 0 ? &sealed->parts[n - 1] : NULL;
    uint64_t at = last != NULL ? last->at + last->len : sizeof(sealed->head);
    if (sealed->region != NULL) {
        cp_region_give(sealed->region, sealed->at - at);
    }
    if (sealed->fd >= 0) {
        (void)ftruncate(sealed->fd, (off_t)at);
    }
    sealed->at = at;
    sealed->head.n_parts = n;
    while (sealed->n_late > 0 && sealed->late[sealed->n_late - 1].at >= at) {
        sealed->n_late--;
    }
}

int
cp_sealed_end(struct cp_sealed *sealed, const void *body, size_t len)
{
    struct cp_sealed_head *head = &sealed->head;
    CP_ASSERT(sealed->n_late == 0);
    int64_t at = append(sealed, body, len);
    if (at < 0) {
        return (int)at;
    }
    head->body_at = (uint64_t)at;
    head->body_len = len;
    at = append(sealed, sealed->parts,
                (size_t)(head->n_parts * sizeof(struct part)));
    if (at < 0) {
        return (int)at;
    }
    head->table_at = (uint64_t)at;
    head->size = sealed->at;
    if (sealed->fd < 0) {
        return write_at(sealed, 0, head, sizeof(*head));
    }
    struct stat st;
    if (fstat(sealed->fd, &st) != 0) {
        return CP_ERRNO(errno);
    }
    head->device = (uint64_t)st.st_dev;
    head->inode = (uint64_t)st.st_ino;
    head->pid = cp_proc_self();
    head->fd = sealed->fd;
    int r = write_at(sealed, 0, head, sizeof(*head));
    return r == 0 ? cp_fd_seal(sealed->fd) : r;
}

uint64_t
cp_sealed_size(const struct cp_sealed *sealed)
{
    return sealed->head.size;
}

bool
cp_sealed_has_file(const struct cp_sealed *sealed)
{
    return sealed->fd >= 0;
}

int
cp_sealed_fd(const struct cp_sealed *sealed)
{
    return sealed->fd;
}

/* ---- reading what was written ---- */

/* All bytes of the file, as they were written; NULL: no memory. */
static const uint8_t *
all_of(struct cp_sealed *sealed)
{
    if (sealed->fd < 0) {
        return sealed->bytes;
    }
    uint8_t *shown = atomic_load(&sealed->shown);
    if (shown != NULL) {
        return shown;
    }
    size_t size = (size_t)sealed->head.size;
    void *at = mmap(NULL, size, PROT_READ, MAP_SHARED, sealed->fd, 0);
    if (at == MAP_FAILED) {
        return NULL;
    }
#ifdef MADV_DONTFORK
    (void)madvise(at, size, MADV_DONTFORK); /* a worker would keep the memory */
#endif
    if (!atomic_compare_exchange_strong(&sealed->shown, &shown, at)) {
        (void)munmap(at, size); /* another thread was faster */
        return shown;
    }
    return at;
}

const uint8_t *
cp_sealed_message(struct cp_sealed *sealed, bool is_whole, size_t *len)
{
    if (sealed->fd >= 0 && !is_whole) {
        *len = sizeof(sealed->head);
        return (const uint8_t *)&sealed->head;
    }
    *len = (size_t)sealed->head.size;
    return all_of(sealed);
}

bool
cp_sealed_has_part(struct cp_sealed *sealed, uint64_t number, const void *bytes,
                   size_t n)
{
    const uint8_t *all = all_of(sealed);
    return all != NULL && number < sealed->head.n_parts
           && sealed->parts[number].len == n
           && memcmp(all + sealed->parts[number].at, bytes, n) == 0;
}

bool
cp_sealed_has_body(struct cp_sealed *sealed, const void *body, size_t len)
{
    const uint8_t *all = all_of(sealed);
    return all != NULL && sealed->head.body_len == len
           && memcmp(all + sealed->head.body_at, body, len) == 0;
}

void
cp_sealed_ref(struct cp_sealed *sealed)
{
    (void)atomic_fetch_add(&sealed->refs, 1);
}

void
cp_sealed_unref(struct cp_sealed *sealed)
{
    if (sealed == NULL || atomic_fetch_sub(&sealed->refs, 1) != 1) {
        return;
    }
    bool is_ours = sealed->owner == cp_proc_self();
    if (sealed->region != NULL && is_ours) {
        cp_region_give(sealed->region, sealed->at - sizeof(sealed->head));
        cp_region_unref(sealed->region);
    }
    if (sealed->shown != NULL && is_ours) {
        (void)munmap(sealed->shown, (size_t)sealed->head.size);
    }
    cp_sheet_unref(sealed->sheet);
    if (is_ours) { /* a copy has closed it; the number may be reused */
        cp_fd_close(&sealed->fd);
    }
    free(sealed->bytes);
    free(sealed->parts);
    free(sealed->late);
    free(sealed);
}

/* ---- a worker ---- */

bool
cp_sealed_may_open(int32_t pid)
{
    return cp_fd_may_open_of(pid);
}

/* Are all offsets in the head within the file? */
static bool
is_sound(const struct cp_sealed_head *head)
{
    return head->magic == MAGIC && head->size < UINT64_C(1) << 47
           && head->n_parts < PARTS_MAX && head->body_at <= head->size
           && head->body_len <= head->size - head->body_at
           && head->table_at <= head->size
           && head->n_parts * sizeof(struct part)
                  <= head->size - head->table_at;
}

/* 0: the descriptor is of the file that the head describes; or a negative
 * code. */
static int
check_file(const struct cp_sealed_head *head, int fd)
{
    struct stat st;
    if (fstat(fd, &st) != 0) {
        return CP_ERRNO(errno);
    }
    return (uint64_t)st.st_dev == head->device
                   && (uint64_t)st.st_ino == head->inode
                   && (uint64_t)st.st_size == head->size
               ? 0
               : CP_ERRNO(ESTALE);
}

/* Open the file that the head names, through the process that has it open. 0,
 * or a negative code. */
static int
open_file(const struct cp_sealed_head *head, int *fd)
{
    int r = cp_fd_open_of(head->pid, head->fd, fd);
    if (r != 0) {
        return r;
    }
    r = check_file(head, *fd);
    if (r != 0) {
        cp_fd_close(fd);
    }
    return r;
}

int
cp_sealed_open(const uint8_t *message, size_t len, struct cp_sealed **out)
{
    struct cp_sealed_head head;
    *out = NULL;
    if (len < sizeof(head)) {
        return CP_EPROTO;
    }
    memcpy(&head, message, sizeof(head));
    if (!is_sound(&head)) {
        return CP_EPROTO;
    }
    struct cp_sealed *sealed = new_sealed();
    if (sealed == NULL) {
        return CP_ENOMEM;
    }
    sealed->head = head;
    int r = 0;
    if (len == sizeof(head) && len < head.size) {
        r = open_file(&sealed->head, &sealed->fd);
    } else if (len != head.size) {
        r = CP_EPROTO;
    } else {
        uint8_t *bytes = malloc(len);
        if (bytes != NULL) {
            memcpy(bytes, message, len);
            sealed->sheet = cp_sheet_of_take(bytes, len);
        }
        r = sealed->sheet != NULL ? 0 : CP_ENOMEM;
    }
    if (r != 0) {
        cp_sealed_unref(sealed);
        return r;
    }
    *out = sealed;
    return 0;
}

int
cp_sealed_attach(int fd, struct cp_sealed **out)
{
    struct cp_sealed_head head;
    cp_fd_note(fd);
    (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
    ssize_t n = pread(fd, &head, sizeof(head), 0);
    int r = n < 0                        ? CP_ERRNO(errno)
            : n != (ssize_t)sizeof(head) ? CP_EPROTO
            : !is_sound(&head)           ? CP_EPROTO
                                         : check_file(&head, fd);
    *out = r == 0 ? new_sealed() : NULL;
    if (*out == NULL) {
        cp_fd_close(&fd);
        return r == 0 ? CP_ENOMEM : r;
    }
    (*out)->head = head;
    (*out)->fd = fd;
    return 0;
}

/* ---- views ---- */

/* Map the file: 0, or a negative code. */
static int
map_file(struct cp_sealed *sealed, struct cp_sheet **sheet)
{
    int fd = sealed->fd, own = -1;
    if (sealed->owner != cp_proc_self()) {
        /* A forked copy has closed the descriptor. */
        int r = open_file(&sealed->head, &own);
        if (r != 0) {
            return r;
        }
        fd = own;
    }
    *sheet = cp_sheet_map(fd, (size_t)sealed->head.size);
    cp_fd_close(&own);
    return *sheet != NULL ? 0 : CP_ENOMEM;
}

/* A new reference to a sheet with the whole file: 0, or a negative code. */
static int
sheet_of(struct cp_sealed *sealed, struct cp_sheet **sheet)
{
    size_t size = (size_t)sealed->head.size;
    if (sealed->sheet != NULL) {
        cp_sheet_ref(sealed->sheet);
        *sheet = sealed->sheet;
        return 0;
    }
    if (sealed->bytes == NULL) {
        return map_file(sealed, sheet);
    }
    uint8_t *bytes = malloc(size);
    if (bytes == NULL) {
        return CP_ENOMEM;
    }
    memcpy(bytes, sealed->bytes, size);
    *sheet = cp_sheet_of_take(bytes, size);
    return *sheet != NULL ? 0 : CP_ENOMEM;
}

int
cp_sealed_view(struct cp_sealed *sealed, struct cp_sheet **out,
               const uint8_t **body, size_t *len, struct cp_loan **loan)
{
    const struct cp_sealed_head *head = &sealed->head;
    struct cp_sheet *sheet = NULL;
    *out = NULL;
    *loan = NULL;
    int r = sheet_of(sealed, &sheet);
    if (r != 0) {
        return r;
    }
    struct cp_loan *made =
        calloc(1, sizeof(*made) + head->n_parts * sizeof(*made->leases));
    r = made != NULL ? 0 : CP_ENOMEM;
    for (uint64_t i = 0; i < head->n_parts && r == 0; i++) {
        struct part part;
        memcpy(&part, sheet->at + head->table_at + i * sizeof(part),
               sizeof(part));
        r = part.at <= head->size && part.len <= head->size - part.at
                ? cp_lease_on(sheet, part.at, (size_t)part.len,
                              &made->leases[made->n])
                : CP_EPROTO;
        made->n += r == 0;
    }
    if (r != 0) {
        cp_loan_close(made);
        cp_sheet_unref(sheet);
        return r;
    }
    *out = sheet;
    *body = sheet->at + head->body_at;
    *len = (size_t)head->body_len;
    *loan = made;
    return 0;
}

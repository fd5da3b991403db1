/* Whose task is next; see pool/turns.h. */
#include "pool/turns.h"

/* Results that nobody has taken, from which on a reader is far behind. */
#define FAR_BEHIND 1024u
/* So many lines of such jobs are passed over at most to find another one. */
#define PASSED_OVER 8u
/* So many jobs are looked at for a small task behind a big one. */
#define LOOKS 16u

/* ---- the jobs of one line ---- */

static void
join_line(struct cp_line *line, struct cp_job *job)
{
    /* In the order of submission. A job mostly comes in at one of the ends: the
     * newest last, one whose task was taken back first. */
    struct cp_job *first = line->first;
    struct cp_job *after =
        first == NULL || job->id < first->id ? NULL : line->last;
    while (after != NULL && after->id > job->id) {
        after = after->line_prev;
    }
    struct cp_job *before = after != NULL ? after->line_next : line->first;
    job->line_prev = after;
    job->line_next = before;
    *(after != NULL ? &after->line_next : &line->first) = job;
    *(before != NULL ? &before->line_prev : &line->last) = job;
}

static void
leave_line(struct cp_line *line, struct cp_job *job)
{
    struct cp_job *prev = job->line_prev, *next = job->line_next;
    *(prev != NULL ? &prev->line_next : &line->first) = next;
    *(next != NULL ? &next->line_prev : &line->last) = prev;
    job->line_next = job->line_prev = NULL;
}

/* ---- the lines ---- */

static void
push_front(struct cp_pool *pool, struct cp_line *line)
{
    line->prev = NULL;
    line->next = pool->line_first;
    *(line->next != NULL ? &line->next->prev : &pool->line_last) = line;
    pool->line_first = line;
}

static void
push_back(struct cp_pool *pool, struct cp_line *line)
{
    line->next = NULL;
    line->prev = pool->line_last;
    *(line->prev != NULL ? &line->prev->next : &pool->line_first) = line;
    pool->line_last = line;
}

static void
unlink_line(struct cp_pool *pool, struct cp_line *line)
{
    *(line->prev != NULL ? &line->prev->next : &pool->line_first) = line->next;
    *(line->next != NULL ? &line->next->prev : &pool->line_last) = line->prev;
    line->next = line->prev = NULL;
}

static struct cp_line *
line_of(struct cp_job *job)
{
    return job->in;
}

void
cp_turns_add(struct cp_job *job, bool again)
{
    struct cp_pool *pool = job->pool;
    struct cp_line *line = line_of(job);
    if (job->in_line) {
        return;
    }
    bool is_new = line->first == NULL;
    join_line(line, job);
    job->in_line = true;
    if (!is_new) {
        return;
    }
    line->turn_ns = 0;
    line->had_turn = again;
    if (line == &pool->singles) {
        push_front(pool, line);
    } else {
        push_back(pool, line);
    }
}

void
cp_turns_del(struct cp_job *job)
{
    struct cp_line *line = line_of(job);
    if (!job->in_line) {
        return;
    }
    leave_line(line, job);
    job->in_line = false;
    if (line->first == NULL) {
        unlink_line(job->pool, line);
    }
}

static void
pass_turn(struct cp_pool *pool, struct cp_line *line)
{
    line->turn_ns = 0;
    if (pool->line_last != line) {
        unlink_line(pool, line);
        push_back(pool, line);
    }
}

static bool
is_far_behind(const struct cp_job *job)
{
    /* A reader that waits for the oldest result, which may be the very task that is
     * queued, is not behind. */
    return (job->flags & (CP_JOB_WHOLE | CP_JOB_SINGLE)) == 0
           && job->arrived - job->taken > FAR_BEHIND && cp_job_has_result(job);
}

struct cp_job *
cp_turns_next(struct cp_pool *pool)
{
    struct cp_line *line = pool->line_first;
    if (line == NULL) {
        return NULL;
    }
    for (uint32_t i = 0; i < PASSED_OVER && pool->line_last != line
                         && is_far_behind(line->first);
         i++) {
        pass_turn(pool, line);
        line = pool->line_first;
    }
    return line->first;
}

struct cp_job *
cp_turns_next_small(struct cp_pool *pool)
{
    uint32_t looks = LOOKS;
    for (struct cp_line *line = pool->line_first; line != NULL;
         line = line->next) {
        for (struct cp_job *job = line->first; job != NULL;
             job = job->line_next) {
            if (job->first->len < CP_BIG) {
                return job;
            }
            if (--looks == 0) {
                return NULL;
            }
        }
    }
    return NULL;
}

bool
cp_turns_may_make_room(struct cp_job *job)
{
    return !line_of(job)->had_turn && !is_far_behind(job);
}

void
cp_turns_put_first(struct cp_job *job)
{
    struct cp_line *line = line_of(job);
    if (job->pool->line_first != line) {
        unlink_line(job->pool, line);
        push_front(job->pool, line);
    }
}

bool
cp_turns_share_line(struct cp_job *a, struct cp_job *b)
{
    return line_of(a) == line_of(b);
}

void
cp_turns_charge(struct cp_job *job, int64_t ns)
{
    struct cp_line *line = line_of(job);
    line->turn_ns += ns;
    line->had_turn = true;
    if (line->turn_ns >= CP_TURN) {
        pass_turn(job->pool, line);
    }
}

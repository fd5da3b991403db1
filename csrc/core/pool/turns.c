/* Whose task is next; see pool/turns.h. */
#include "pool/turns.h"

#include <stdlib.h>

/* A reader is far behind from this many untaken results on. */
#define FAR_BEHIND 1024u
/* How many lines of such jobs are skipped at most to find another job. */
#define PASSED_OVER 8u
/* How many jobs are looked at to find a small task behind a big one. */
#define LOOKS 16u

/* ---- the jobs of one line ---- */

static bool
precedes(const struct cp_job *a, const struct cp_job *b)
{
    return a->priority != b->priority ? a->priority > b->priority
                                      : a->id < b->id;
}

/* Sets of priorities: bits in the order of priority, from the lowest on. */

static unsigned
place_of(const struct cp_job *job)
{
    return (unsigned)(job->priority - CP_PRIORITY_LEAST);
}

static bool
has_bit(const uint64_t *bits, unsigned at)
{
    return (bits[at / 64] >> at % 64 & 1) != 0;
}

static void
set_bit(uint64_t *bits, unsigned at, bool on)
{
    uint64_t bit = UINT64_C(1) << at % 64;
    bits[at / 64] = on ? bits[at / 64] | bit : bits[at / 64] & ~bit;
}

/* The lowest one above `at` that is set; CP_PRIORITIES: there is none. */
static unsigned
next_above(const uint64_t *bits, unsigned at)
{
    for (unsigned from = at + 1; from < CP_PRIORITIES; from = (from | 63) + 1) {
        uint64_t found = bits[from / 64] >> from % 64;
        if (found != 0) {
            return from + (unsigned)__builtin_ctzll(found);
        }
    }
    return CP_PRIORITIES;
}

/* The last job that certainly precedes this one, or NULL: what the job follows
 * if it belongs in front of all of its priority. *last: the last job that may
 * precede it, or NULL. */
static struct cp_job *
find_range(const struct cp_line *line, const struct cp_job *job,
           struct cp_job **last)
{
    const struct cp_ends *ends = line->ends;
    *last = line->last;
    if (ends == NULL) {
        return NULL;
    }
    unsigned at = place_of(job), above = next_above(ends->active, at);
    struct cp_job *higher = above < CP_PRIORITIES ? ends->last[above] : NULL;
    *last = has_bit(ends->active, at) ? ends->last[at] : higher;
    return higher;
}

static void
join_line(struct cp_line *line, struct cp_job *job)
{
    /* In the order of priority and submission. Most jobs belong at one end of
     * their priority: the newest last, one whose task was taken back first. */
    struct cp_job *after, *higher = find_range(line, job, &after);
    struct cp_job *first = higher != NULL ? higher->line_next : line->first;
    if (first == NULL || precedes(job, first)) {
        after = higher;
    }
    while (after != higher && precedes(job, after)) {
        after = after->line_prev;
    }
    struct cp_job *before = after != NULL ? after->line_next : line->first;
    job->line_prev = after;
    job->line_next = before;
    *(after != NULL ? &after->line_next : &line->first) = job;
    *(before != NULL ? &before->line_prev : &line->last) = job;
    if (line->ends != NULL
        && (before == NULL || before->priority != job->priority)) {
        line->ends->last[place_of(job)] = job;
        set_bit(line->ends->active, place_of(job), true);
    }
}

static void
leave_line(struct cp_line *line, struct cp_job *job)
{
    struct cp_job *prev = job->line_prev, *next = job->line_next;
    *(prev != NULL ? &prev->line_next : &line->first) = next;
    *(next != NULL ? &next->line_prev : &line->last) = prev;
    job->line_next = job->line_prev = NULL;
    if (line->ends != NULL && line->ends->last[place_of(job)] == job) {
        bool has_prev = prev != NULL && prev->priority == job->priority;
        line->ends->last[place_of(job)] = has_prev ? prev : NULL;
        set_bit(line->ends->active, place_of(job), has_prev);
    }
}

/* The line may have jobs of several priorities from now on. 0 or CP_ENOMEM. */
static int
mix_priorities(struct cp_line *line)
{
    if (line->ends != NULL) {
        return 0;
    }
    line->ends = calloc(1, sizeof(*line->ends));
    if (line->ends == NULL) {
        return CP_ENOMEM;
    }
    if (line->last != NULL) { /* so far all of its jobs have the priority 0 */
        line->ends->last[place_of(line->last)] = line->last;
        set_bit(line->ends->active, place_of(line->last), true);
    }
    return 0;
}

/* ---- priorities ---- */

static struct cp_level *
level_of(const struct cp_job *job)
{
    struct cp_pool *pool = job->pool;
    return job->priority == 0
               ? &pool->level
               : pool->levels->at[job->priority - CP_PRIORITY_LEAST];
}

static struct cp_line *
line_of(struct cp_job *job)
{
    struct cp_pins *pins = job->pool->pins;
    return job->pin == 0             ? job->in
           : job->pin == CP_PIN_EACH ? &pins->each
                                     : &pins->lines[job->pin - 1];
}

/* Set or clear the bit that says that the job's priority has lines. */
static void
set_active(const struct cp_job *job, bool active)
{
    struct cp_levels *levels = job->pool->levels;
    if (levels != NULL) {
        set_bit(levels->active, place_of(job), active);
    }
}

/* The highest level below `at` that has lines, or NULL; *at: its place. */
static struct cp_level *
next_level(const struct cp_levels *levels, unsigned *at)
{
    for (unsigned i = CP_PRIORITIES / 64; i-- > 0;) {
        uint64_t bits = levels->active[i];
        if (*at < (i + 1) * 64) {
            bits = *at <= i * 64 ? 0
                                 : bits & ((UINT64_C(1) << (*at - i * 64)) - 1);
        }
        if (bits != 0) {
            *at = i * 64 + 63 - (unsigned)__builtin_clzll(bits);
            return levels->at[*at];
        }
    }
    return NULL;
}

static struct cp_level *
highest(struct cp_pool *pool)
{
    unsigned at = CP_PRIORITIES;
    struct cp_level *level =
        pool->levels != NULL ? next_level(pool->levels, &at) : NULL;
    return level != NULL ? level : &pool->level;
}

int
cp_turns_set_priority(struct cp_job *job, int8_t priority)
{
    struct cp_pool *pool = job->pool;
    if (priority == 0) {
        return 0;
    }
    if (pool->levels == NULL) {
        pool->levels = calloc(1, sizeof(*pool->levels));
        if (pool->levels == NULL) {
            return CP_ENOMEM;
        }
        pool->levels->at[-CP_PRIORITY_LEAST] = &pool->level;
        set_bit(pool->levels->active, -CP_PRIORITY_LEAST,
                pool->level.first != NULL);
    }
    struct cp_level **level = &pool->levels->at[priority - CP_PRIORITY_LEAST];
    if (*level == NULL && (*level = calloc(1, sizeof(**level))) == NULL) {
        return CP_ENOMEM;
    }
    job->priority = priority;
    if ((job->flags & CP_JOB_SINGLE) != 0) {
        job->in = &(*level)->singles;
    }
    return 0;
}

/* ---- the lines ---- */

static void
push_front(struct cp_level *level, struct cp_line *line)
{
    line->prev = NULL;
    line->next = level->first;
    *(line->next != NULL ? &line->next->prev : &level->last) = line;
    level->first = line;
}

static void
push_back(struct cp_level *level, struct cp_line *line)
{
    line->next = NULL;
    line->prev = level->last;
    *(line->prev != NULL ? &line->prev->next : &level->first) = line;
    level->last = line;
}

static void
unlink_line(struct cp_level *level, struct cp_line *line)
{
    *(line->prev != NULL ? &line->prev->next : &level->first) = line->next;
    *(line->next != NULL ? &line->next->prev : &level->last) = line->prev;
    line->next = line->prev = NULL;
}

void
cp_turns_add(struct cp_job *job, bool again)
{
    struct cp_line *line = line_of(job);
    if (job->in_line) {
        return;
    }
    bool is_new = line->first == NULL;
    join_line(line, job);
    job->in_line = true;
    if (!is_new || job->pin > 0) {
        return;
    }
    struct cp_level *level = level_of(job);
    line->turn_ns = 0;
    line->had_turn = again;
    if (line == &level->singles) {
        push_front(level, line);
    } else {
        push_back(level, line);
    }
    set_active(job, true);
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
    if (line->first == NULL && job->pin == 0) {
        struct cp_level *level = level_of(job);
        unlink_line(level, line);
        set_active(job, level->first != NULL);
    }
}

static void
pass_turn(struct cp_level *level, struct cp_line *line)
{
    line->turn_ns = 0;
    if (level->last != line) {
        unlink_line(level, line);
        push_back(level, line);
    }
}

static bool
is_far_behind(const struct cp_job *job)
{
    /* A reader that waits for the oldest result, which may be of the queued
     * task, is not behind. */
    return (job->flags & (CP_JOB_WHOLE | CP_JOB_SINGLE)) == 0
           && job->arrived - job->taken > FAR_BEHIND && cp_job_has_result(job);
}

struct cp_job *
cp_turns_next(struct cp_pool *pool)
{
    struct cp_level *level = highest(pool);
    struct cp_line *line = level->first;
    if (line == NULL) {
        return NULL;
    }
    for (uint32_t i = 0;
         i < PASSED_OVER && level->last != line && is_far_behind(line->first);
         i++) {
        pass_turn(level, line);
        line = level->first;
    }
    return line->first;
}

/* The first job of the level whose next task is small. *looks: how many more
 * jobs may be looked at. */
static struct cp_job *
small_of(const struct cp_level *level, uint32_t *looks)
{
    for (struct cp_line *line = level->first; line != NULL; line = line->next) {
        for (struct cp_job *job = line->first; job != NULL && *looks > 0;
             job = job->line_next) {
            if (job->first->len < CP_BIG) {
                return job;
            }
            --*looks;
        }
    }
    return NULL;
}

struct cp_job *
cp_turns_next_small(struct cp_pool *pool)
{
    uint32_t looks = LOOKS;
    if (pool->levels == NULL) {
        return small_of(&pool->level, &looks);
    }
    struct cp_job *job = NULL;
    struct cp_level *level;
    unsigned at = CP_PRIORITIES;
    while (job == NULL && looks > 0
           && (level = next_level(pool->levels, &at)) != NULL) {
        job = small_of(level, &looks);
    }
    return job;
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
    struct cp_level *level = level_of(job);
    if (level->first != line) {
        unlink_line(level, line);
        push_front(level, line);
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
    if (job->pin > 0) {
        return;
    }
    line->turn_ns += ns;
    line->had_turn = true;
    if (line->turn_ns >= CP_TURN) {
        pass_turn(level_of(job), line);
    }
}

/* ---- jobs for one worker ---- */

int
cp_turns_set_pin(struct cp_job *job, uint16_t pin)
{
    struct cp_pool *pool = job->pool;
    if (pin == 0) {
        return 0;
    }
    if (pool->pins == NULL
        && (pool->pins = calloc(1, sizeof(*pool->pins))) == NULL) {
        return CP_ENOMEM;
    }
    struct cp_pins *pins = pool->pins;
    if (pin != CP_PIN_EACH && pin > pins->n) {
        /* The lines may be moved: they point to jobs, but nothing points to
         * them. */
        struct cp_line *lines =
            realloc(pins->lines, (size_t)pin * sizeof(*lines));
        if (lines == NULL) {
            return CP_ENOMEM;
        }
        for (uint32_t i = pins->n; i < pin; i++) {
            lines[i] = (struct cp_line){0};
        }
        pins->lines = lines;
        pins->n = pin;
    }
    job->pin = pin;
    return job->priority != 0 ? mix_priorities(line_of(job)) : 0;
}

/* Move the first task for a worker with an index from first to last to the
 * front of the job's queue, if there is one. */
static bool
bring_forward(struct cp_job *job, uint32_t first, uint32_t last)
{
    struct cp_task *before = NULL, *task = job->first;
    while (task != NULL
           && (cp_job_place(job, task) < first
               || cp_job_place(job, task) > last)) {
        before = task;
        task = task->next;
    }
    if (task != NULL && before != NULL) {
        before->next = task->next;
        if (job->last == task) {
            job->last = before;
        }
        task->next = job->first;
        job->first = task;
    }
    return task != NULL;
}

struct cp_job *
cp_turns_next_pinned(struct cp_pool *pool, uint32_t index)
{
    struct cp_pins *pins = pool->pins;
    if (pool->n_pinned == 0) {
        return NULL;
    }
    struct cp_job *job = index < pins->n ? pins->lines[index].first : NULL;
    for (struct cp_job *each = pins->each.first;
         each != NULL && (job == NULL || precedes(each, job));
         each = each->line_next) {
        if (bring_forward(each, index, index)) {
            return each;
        }
    }
    return job;
}

struct cp_job *
cp_turns_next_unplaced(struct cp_pool *pool, uint32_t *index)
{
    struct cp_pins *pins = pool->pins;
    if (pool->n_pinned == 0) {
        return NULL;
    }
    for (*index = pool->n_indexes; *index < pins->n; (*index)++) {
        if (pins->lines[*index].first != NULL) {
            return pins->lines[*index].first;
        }
    }
    for (struct cp_job *each = pins->each.first; each != NULL;
         each = each->line_next) {
        if (bring_forward(each, pool->n_indexes, UINT32_MAX)) {
            *index = cp_job_place(each, each->first);
            return each;
        }
    }
    return NULL;
}

/* Synthesis of time-triggered tables; the validator, which shares nothing with it, is in verify.c. */
#include "table.h"

#include "analysis.h"

size_t k_table_room(size_t n, size_t edges)
{
    return 12 * K_ROOM(n + 1, 8) + K_ROOM(edges, 8) + 2 * K_ROOM(n + 1, 16);
}

static inline int64_t offset_of(const struct k_table_tasks *t, size_t i) { return t->offset ? t->offset[i] : 0; }

/* Task indices so that each comes after all that precede it; false and a task of a cycle when there is none. */
static bool topological(const struct k_table_tasks *tasks, struct k_arena arena, size_t *order, size_t *cyclic)
{
    const size_t n = tasks->n;
    size_t *first = k_take(&arena, (n + 1) * sizeof *first), *waits = k_take(&arena, (n + 1) * sizeof *waits);
    size_t *followers = k_take(&arena, tasks->edges * sizeof *followers);
    if (!first || !waits || !followers)
        return false;
    for (size_t i = 0; i <= n; i++)
        first[i] = waits[i] = 0;
    for (size_t e = 0; e < tasks->edges; e++) {
        first[(size_t)tasks->before[e]]++;
        waits[(size_t)tasks->after[e]]++;
    }
    for (size_t i = 0, sum = 0; i <= n; i++) { /* ends of the followers' lists, which fill downwards to their starts */
        sum += first[i];
        first[i] = sum;
    }
    for (size_t e = 0; e < tasks->edges; e++)
        followers[--first[(size_t)tasks->before[e]]] = (size_t)tasks->after[e];
    size_t found = 0;
    for (size_t i = 0; i < n; i++)
        if (!waits[i])
            order[found++] = i;
    for (size_t k = 0; k < found; k++)
        for (size_t f = first[order[k]]; f < first[order[k] + 1]; f++)
            if (--waits[followers[f]] == 0)
                order[found++] = followers[f];
    for (*cyclic = 0; *cyclic < n && !waits[*cyclic]; ++*cyclic)
        ;
    return found == n;
}

enum k_table_input k_table_check_input(const struct k_table_tasks *tasks, struct k_arena arena, size_t *index)
{
    for (size_t i = 0; i < tasks->n; i++) {
        *index = i;
        if (tasks->wcet[i] < 1)
            return K_TABLE_WCET;
        if (tasks->period[i] < 1)
            return K_TABLE_PERIOD;
        if (tasks->deadline[i] < 1 || tasks->deadline[i] > tasks->period[i])
            return K_TABLE_DEADLINE;
        if (offset_of(tasks, i) < 0 || offset_of(tasks, i) >= tasks->period[i])
            return K_TABLE_OFFSET;
    }
    for (size_t e = 0; e < tasks->edges; e++) {
        *index = e;
        if (tasks->before[e] < 0 || (size_t)tasks->before[e] >= tasks->n || tasks->after[e] < 0 ||
            (size_t)tasks->after[e] >= tasks->n)
            return K_TABLE_EDGE;
        if (tasks->period[tasks->before[e]] != tasks->period[tasks->after[e]])
            return K_TABLE_EDGE_PERIODS;
    }
    size_t *order = k_take(&arena, tasks->n * sizeof *order);
    return order && topological(tasks, arena, order, index) ? K_TABLE_FINE : K_TABLE_CYCLE;
}

enum k_status k_table_size(const struct k_table_tasks *tasks, int64_t *hyperperiod, int64_t *jobs)
{
    size_t index;
    *jobs = 0;
    *hyperperiod = 1;
    if (tasks->n && k_hyperperiod(tasks->n, tasks->period, hyperperiod, &index) != K_OK)
        return K_OVERFLOW;
    for (size_t i = 0; i < tasks->n; i++)
        if (!k_add(*jobs, *hyperperiod / tasks->period[i], jobs) || *jobs > K_TABLE_JOBS)
            return K_OVERFLOW;
    return K_OK;
}

/* ---- windows that hold the precedences ---- */

/* Relative to the start of a job's period: nothing starts before what precedes it can have ended, and nothing
 * ends later than what follows needs. A predecessor is so released earlier and due earlier, and EDF, which is
 * optimal on one CPU, keeps the order by itself. */
struct windows {
    int64_t *release, *due, *last_due; /* the last job of a hyperperiod is due within it */
};

static bool windows_of(const struct k_table_tasks *tasks, struct k_arena *arena, struct windows *windows)
{
    const size_t n = tasks->n;
    int64_t *release = k_take(arena, n * 8), *due = k_take(arena, n * 8), *last_due = k_take(arena, n * 8);
    size_t *order = k_take(arena, n * sizeof *order), cyclic;
    if (!release || !due || !last_due || !order || !topological(tasks, *arena, order, &cyclic))
        return false;
    struct k_arena rest = *arena;
    size_t *rank = k_take(&rest, n * sizeof *rank);
    size_t *first = k_take(&rest, (n + 1) * sizeof *first), *edges = k_take(&rest, tasks->edges * sizeof *edges);
    if (!rank || !first || !edges)
        return false;
    for (size_t i = 0; i < n; i++) {
        release[i] = offset_of(tasks, i);
        /* beyond 2^63 only together with T, and then the last job, the only one, is due by T */
        if (!k_add(release[i], tasks->deadline[i], &due[i]))
            due[i] = INT64_MAX;
        last_due[i] = k_min(due[i], tasks->period[i]);
        rank[order[i]] = i;
        first[i] = 0;
    }
    /* Edges by the rank of their first task. */
    first[n] = 0;
    for (size_t e = 0; e < tasks->edges; e++)
        first[rank[tasks->before[e]]]++;
    for (size_t i = 0, sum = 0; i <= n; i++) {
        sum += first[i];
        first[i] = sum;
    }
    for (size_t e = 0; e < tasks->edges; e++)
        edges[--first[rank[tasks->before[e]]]] = e;
    for (size_t k = 0; k < n; k++)
        for (size_t f = first[k]; f < first[k + 1]; f++) {
            size_t p = order[k], s = (size_t)tasks->after[edges[f]];
            int64_t earliest;
            if (!k_add(release[p], tasks->wcet[p], &earliest))
                earliest = INT64_MAX;
            release[s] = k_max(release[s], earliest);
        }
    for (size_t k = n; k-- > 0;)
        for (size_t f = first[k]; f < first[k + 1]; f++) {
            size_t p = order[k], s = (size_t)tasks->after[edges[f]];
            due[p] = k_min(due[p], k_max(due[s], 0) - tasks->wcet[s]);
            last_due[p] = k_min(last_due[p], k_max(last_due[s], 0) - tasks->wcet[s]);
        }
    *windows = (struct windows){release, due, last_due};
    return true;
}

/* ---- EDF ---- */

struct entry {
    int64_t key; /* on top: the smallest, and of equal ones that with the lower index */
    size_t index;
};

struct heap {
    struct entry *entries;
    size_t count;
};

static inline bool sooner(struct entry a, struct entry b)
{
    return (a.key < b.key) | ((a.key == b.key) & (a.index < b.index)); /* no branch to mispredict */
}

static inline void rise(struct heap *heap, size_t at, struct entry entry)
{
    while (at && sooner(entry, heap->entries[(at - 1) / 2])) {
        heap->entries[at] = heap->entries[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap->entries[at] = entry;
}

static inline void push(struct heap *heap, struct entry entry) { rise(heap, heap->count++, entry); }

/* Puts an entry in place of the top: the gap goes down to a leaf along the sooner children, and the entry up
 * from there, which is mostly a step or two. */
static inline void replace(struct heap *heap, struct entry entry)
{
    struct entry *entries = heap->entries;
    size_t at = 0, child = 1;
    for (; child + 1 < heap->count; child = 2 * at + 1) {
        child += sooner(entries[child + 1], entries[child]);
        entries[at] = entries[child];
        at = child;
    }
    if (child < heap->count) {
        entries[at] = entries[child];
        at = child;
    }
    rise(heap, at, entry);
}

static inline struct entry pop(struct heap *heap)
{
    struct entry top = heap->entries[0];
    if (--heap->count)
        replace(heap, heap->entries[heap->count]);
    return top;
}

/* Tasks that are always released together, in lists: index of the next task, or of itself at the end. */
struct groups {
    size_t *first, *next;
    size_t count;
};

static bool groups_of(const struct k_table_tasks *tasks, const int64_t *release, struct k_arena *arena, struct heap *sorting,
                      struct groups *groups)
{
    const size_t n = tasks->n;
    *groups = (struct groups){k_take(arena, n * sizeof(size_t)), k_take(arena, n * sizeof(size_t)), 0};
    if (!groups->first || !groups->next)
        return false;
    /* Sorted by release, tasks of one group are among those of equal release; a list per period of these. */
    for (size_t i = 0; i < n; i++)
        push(sorting, (struct entry){release[i], i});
    size_t since = 0; /* the first group of this release */
    int64_t last = -1;
    while (sorting->count) {
        const struct entry next = pop(sorting);
        const size_t i = next.index;
        if (next.key != last)
            since = groups->count;
        last = next.key;
        /* Finding its group saves time, no more: of many it looks at the latest. */
        size_t g = groups->count - since > 64 ? groups->count - 64 : since;
        while (g < groups->count && tasks->period[groups->first[g]] != tasks->period[i])
            g++;
        groups->next[i] = g < groups->count ? groups->first[g] : i;
        groups->first[g] = i;
        if (g == groups->count)
            groups->count++;
    }
    return true;
}

static inline void append(struct k_slices *slices, int64_t start, int64_t end, size_t task)
{
    slices->start[slices->count] = start;
    slices->end[slices->count] = end;
    slices->task[slices->count++] = (int64_t)task;
}

enum k_status k_table_make(const struct k_table_tasks *tasks, int64_t hyperperiod, struct k_arena arena,
                           struct k_slices *slices, struct k_table_miss *miss)
{
    const size_t n = tasks->n;
    const int64_t *period = tasks->period;
    struct windows windows;
    if (!windows_of(tasks, &arena, &windows))
        return K_NOMEM;
    struct heap coming = {k_take(&arena, n * sizeof(struct entry)), 0}; /* groups by their next release */
    struct heap ready = {k_take(&arena, n * sizeof(struct entry)), 0};  /* tasks by their deadline */
    int64_t *since_period = k_take(&arena, n * 8); /* start of the period of a task's unfinished job, -1 for none */
    int64_t *rest = k_take(&arena, n * 8);         /* work left of it */
    struct groups groups;
    if (!coming.entries || !ready.entries || !since_period || !rest ||
        !groups_of(tasks, windows.release, &arena, &coming, &groups))
        return K_NOMEM;
    *miss = (struct k_table_miss){0};
    slices->count = 0;
    for (size_t i = 0; i < n; i++) {
        const bool single = hyperperiod == period[i]; /* the first job is the last */
        const int64_t latest = k_min(single ? INT64_MAX : windows.due[i], windows.last_due[i]);
        if (latest < tasks->wcet[i] || windows.release[i] > latest - tasks->wcet[i]) {
            *miss = (struct k_table_miss){true, i, hyperperiod / period[i] - 1};
            return K_OK;
        }
        since_period[i] = -1;
    }
    for (size_t g = 0; g < groups.count; g++)
        push(&coming, (struct entry){windows.release[groups.first[g]], g});
    struct entry running = {0};
    bool busy = false;
    int64_t now = 0, since = 0; /* `running` has run since then */
    while (busy || ready.count || coming.count) {
        if (!busy && ready.count) {
            running = pop(&ready);
            busy = true;
            since = now;
        }
        const int64_t next = coming.count ? coming.entries[0].key : INT64_MAX;
        if (busy && (!coming.count || rest[running.index] <= next - now)) {
            if (rest[running.index] > running.key - now) {
                *miss = (struct k_table_miss){true, running.index, since_period[running.index] / period[running.index]};
                return K_OK;
            }
            now += rest[running.index];
            append(slices, since, now, running.index);
            since_period[running.index] = -1;
            busy = false;
            if (now < next)
                continue;
        } else {
            if (busy)
                rest[running.index] -= next - now;
            now = next;
        }
        while (coming.count && coming.entries[0].key == now) {
            const size_t g = coming.entries[0].index, head = groups.first[g];
            const int64_t start = now - windows.release[head];
            const bool last = start == hyperperiod - period[head];
            const int64_t *due = last ? windows.last_due : windows.due;
            for (size_t i = head, before = n; i != before; before = i, i = groups.next[i]) {
                if (since_period[i] >= 0 && (!miss->found || i < miss->task))
                    *miss = (struct k_table_miss){true, i, since_period[i] / period[i]};
                if (miss->found)
                    continue;
                since_period[i] = start;
                rest[i] = tasks->wcet[i];
                push(&ready, (struct entry){start + due[i], i});
            }
            if (last)
                pop(&coming);
            else
                replace(&coming, (struct entry){now + period[head], g});
        }
        if (miss->found)
            return K_OK;
        if (busy && ready.count && ready.entries[0].key < running.key) {
            if (now > since)
                append(slices, since, now, running.index);
            const struct entry stopped = running;
            running = ready.entries[0];
            replace(&ready, stopped);
            since = now;
        }
    }
    return K_OK;
}

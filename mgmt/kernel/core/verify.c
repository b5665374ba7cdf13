/* The validator of time-triggered tables. It believes neither the table nor the code that made it. */
#include "analysis.h"
#include "table.h"

struct progress {
    int64_t job;  /* the one being run or the last one */
    int64_t done; /* of its WCET */
    int64_t until; /* end of its last slice */
};

/* Lists the tasks that precede task i at before[first[i] .. first[i + 1]). */
static bool predecessors(const struct k_table_tasks *tasks, struct k_arena *arena, size_t **first, size_t **before)
{
    *first = k_take(arena, (tasks->n + 1) * sizeof **first);
    *before = k_take(arena, tasks->edges * sizeof **before);
    if (!*first || !*before)
        return false;
    for (size_t i = 0; i <= tasks->n; i++)
        (*first)[i] = 0;
    for (size_t e = 0; e < tasks->edges; e++)
        (*first)[(size_t)tasks->after[e]]++;
    for (size_t i = 0, sum = 0; i <= tasks->n; i++)
        (*first)[i] = sum += (*first)[i]; /* where list i ends; it fills downwards */
    for (size_t e = 0; e < tasks->edges; e++)
        (*before)[--(*first)[(size_t)tasks->after[e]]] = (size_t)tasks->before[e];
    return true;
}

enum k_status k_table_verify(const struct k_table_tasks *tasks, int64_t hyperperiod, const struct k_slices *slices,
                             struct k_arena arena, enum k_table_fault *fault, size_t *slice, size_t *task)
{
    const size_t n = tasks->n;
    size_t *first, *before, index;
    struct progress *progress = k_take(&arena, n * sizeof *progress);
    if (!progress || !predecessors(tasks, &arena, &first, &before))
        return K_NOMEM;
    *slice = *task = 0;
    *fault = K_WRONG_HYPERPERIOD;
    int64_t multiple = 1;
    if ((n && k_hyperperiod(n, tasks->period, &multiple, &index) != K_OK) || hyperperiod != multiple)
        return K_OK;
    for (size_t i = 0; i < n; i++)
        progress[i] = (struct progress){-1, tasks->wcet[i], -1};
    for (size_t k = 0; k < slices->count; k++) {
        const int64_t start = slices->start[k], end = slices->end[k];
        *slice = k;
        *fault = K_BAD_SLICE;
        if (slices->task[k] < 0 || (size_t)slices->task[k] >= n || start < 0 || end <= start || end > hyperperiod)
            return K_OK;
        const size_t i = *task = (size_t)slices->task[k];
        *fault = K_OVERLAP;
        if (k && start < slices->end[k - 1])
            return K_OK;
        *fault = K_OUTSIDE;
        const int64_t since = start - (tasks->offset ? tasks->offset[i] : 0);
        if (since < 0)
            return K_OK;
        const int64_t job = since / tasks->period[i];
        if (end - start > tasks->deadline[i] - (since - job * tasks->period[i]))
            return K_OK;
        struct progress *p = &progress[i];
        if (job != p->job) {
            *fault = K_WORK;
            if (job != p->job + 1 || p->done != tasks->wcet[i])
                return K_OK;
            *fault = K_ORDER;
            for (size_t b = first[i]; b < first[i + 1]; b++) {
                const struct progress *q = &progress[before[b]];
                if (q->job < job || (q->job == job && q->done < tasks->wcet[before[b]]))
                    return K_OK;
            }
            p->job = job;
            p->done = 0;
        } else {
            *fault = K_SPLIT;
            if (start == p->until)
                return K_OK;
        }
        p->until = end;
        p->done += end - start;
        *fault = K_WORK;
        if (p->done > tasks->wcet[i])
            return K_OK;
    }
    *slice = slices->count;
    *fault = K_WORK;
    for (size_t i = 0; i < n; i++) {
        *task = i;
        if (progress[i].job != hyperperiod / tasks->period[i] - 1 || progress[i].done != tasks->wcet[i])
            return K_OK;
    }
    *fault = K_SOUND;
    return K_OK;
}

/* Analyses that call the tests: priority assignment and sensitivity. */
#include "analysis.h"

#include <string.h>

static int64_t slack_of(const struct k_tasks *t, size_t i) { return t->deadline[i] - (t->jitter ? t->jitter[i] : 0); }

enum k_status k_audsley(const struct k_tasks *tasks, struct k_arena arena, bool *found, int64_t *order)
{
    const size_t n = tasks->n;
    size_t *left = k_take(&arena, n * sizeof *left), *others = k_take(&arena, n * sizeof *others);
    if (!left || !others)
        return K_NOMEM;
    for (size_t i = 0; i < n; i++) { /* by slack ascending, stable: the candidates of a level come from the end */
        size_t low = 0, high = i;
        while (low < high) {
            size_t middle = (low + high) / 2;
            if (slack_of(tasks, left[middle]) <= slack_of(tasks, i))
                low = middle + 1;
            else
                high = middle;
        }
        memmove(left + low + 1, left + low, (i - low) * sizeof *left);
        left[low] = i;
    }
    *found = true;
    for (size_t count = n; count > 0 && *found; count--) {
        *found = false;
        for (size_t c = count; c-- > 0 && !*found;) {
            const size_t task = left[c];
            memcpy(others, left, c * sizeof *left);
            memcpy(others + c, left + c + 1, (count - c - 1) * sizeof *left);
            int64_t response;
            enum k_status status = k_response_below(tasks, others, count - 1, task, &response);
            if (status != K_OK)
                return status;
            if (response >= 0) {
                order[count - 1] = (int64_t)task;
                memcpy(left, others, (count - 1) * sizeof *left);
                *found = true;
            }
        }
    }
    return K_OK;
}

static enum k_status fits_with(const struct k_tasks *tasks, enum k_policy policy, struct k_arena arena, bool *fits)
{
    size_t missing;
    int64_t at, demand;
    return policy == K_EDF ? k_edf_schedulable(tasks, arena, fits, &at, &demand)
                           : k_fp_schedulable(tasks, arena, fits, &missing);
}

enum k_status k_sensitivity(const struct k_tasks *tasks, enum k_policy policy, struct k_arena arena,
                            int64_t *thousandths)
{
    const size_t n = tasks->n;
    int64_t *wcet = k_take(&arena, n * sizeof *wcet);
    if (!wcet)
        return K_NOMEM;
    if (n)
        memcpy(wcet, tasks->wcet, n * sizeof *wcet);
    struct k_tasks probe = *tasks;
    probe.wcet = wcet;
    bool fits;
    enum k_status status = fits_with(&probe, policy, arena, &fits);
    if (status != K_OK)
        return status;
    for (size_t i = 0; i < n; i++) {
        if (!fits) {
            thousandths[i] = -1;
            continue;
        }
        int64_t low = tasks->wcet[i], high = k_max(low, slack_of(tasks, i)); /* low fits, above high nothing does */
        while (low < high) {
            bool more;
            wcet[i] = low + (high - low) / 2 + 1;
            status = fits_with(&probe, policy, arena, &more);
            if (status != K_OK)
                return status;
            if (more)
                low = wcet[i];
            else
                high = wcet[i] - 1;
        }
        k_int128 grown = (k_int128)low * 1000 / tasks->wcet[i] - 1000;
        if (grown > INT64_MAX)
            return K_OVERFLOW;
        thousandths[i] = (int64_t)grown;
        wcet[i] = tasks->wcet[i];
    }
    return K_OK;
}

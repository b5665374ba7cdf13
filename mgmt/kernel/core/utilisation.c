/* Range checks, the exact sign of U - 1, the hyperperiod. */
#include "analysis.h"

size_t k_analysis_room(size_t n)
{
    /* sensitivity: a copy of wcet and a test; audsley: indices and a test; the largest test: the sweep with at
     * most 8 buckets a task, or four columns of doubles. */
    return K_ROOM(n, 16) + K_ROOM(n, 40) + 3 * K_ROOM(n + 16, 32);
}

static bool below(const int64_t *column, size_t n, int64_t least, size_t *index)
{
    uint64_t signs = 0; /* negative as it is, or after least (0 or 1) is taken away */
    for (size_t i = 0; i < n; i++)
        signs |= (uint64_t)column[i] | ((uint64_t)column[i] - (uint64_t)least);
    if (!(signs >> 63))
        return false;
    for (*index = 0; column[*index] >= least; ++*index)
        ;
    return true;
}

enum k_status k_tasks_check(const struct k_tasks *tasks, enum k_column *column, size_t *index)
{
    const int64_t *columns[] = {tasks->wcet, tasks->period, tasks->deadline, tasks->jitter, tasks->blocking};
    for (int c = K_WCET; c <= K_BLOCKING; c++)
        if (columns[c] && below(columns[c], tasks->n, c <= K_DEADLINE, index)) {
            *column = (enum k_column)c;
            return K_INVALID;
        }
    return K_OK;
}

static uint64_t gcd(uint64_t a, uint64_t b)
{
    while (b) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

enum k_status k_hyperperiod(size_t n, const int64_t *period, int64_t *multiple, size_t *index)
{
    *index = n;
    if (n == 0 || below(period, n, 1, index))
        return K_INVALID;
    int64_t h = 1;
    for (size_t i = 0; i < n; i++)
        if (h % period[i] != 0 && !k_mul(h, period[i] / (int64_t)gcd((uint64_t)h, (uint64_t)period[i]), &h))
            return K_OVERFLOW;
    *multiple = h;
    return K_OK;
}

/* Upper bound of log2 of the least common multiple of all periods. */
static double multiple_bits(size_t n, const int64_t *period)
{
    double bits = 0;
    uint64_t run = 1;
    for (size_t i = 0; i < n; i++) {
        uint64_t p = (uint64_t)period[i], step = p / gcd(run, p);
        if (run > UINT64_MAX / step) {
            bits += 64;
            run = p;
        } else {
            run *= step;
        }
    }
    return bits + 64;
}

/* The sum is compared with 1 digit by digit, in base 2^64. `need` is what 1 still lacks, in units of the
 * last digit; the n remainders together are worth less than n such units. */
static int compare_digits(size_t n, const int64_t *wcet, const int64_t *period, uint64_t *rest)
{
    k_int128 need = 1;
    for (size_t i = 0; i < n; i++) {
        need -= wcet[i] / period[i];
        rest[i] = (uint64_t)(wcet[i] % period[i]);
    }
    double known = 0, enough = multiple_bits(n, period) + 64; /* 64: log2(n) and more */
    for (;; known += 64) {
        if (need < 0)
            return 1;
        if (need >= (k_int128)n + 1)
            return -1;
        if (known > enough) /* |U - 1| is less than 1 / hyperperiod: it is 0 */
            return 0;
        k_int128 digits = 0;
        bool left = false;
        for (size_t i = 0; i < n; i++) {
            k_uint128 x = (k_uint128)rest[i] << 64;
            digits += (k_int128)(x / (uint64_t)period[i]);
            rest[i] = (uint64_t)(x % (uint64_t)period[i]);
            left |= rest[i] != 0;
        }
        need = need * ((k_int128)1 << 64) - digits;
        if (!left)
            return need < 0 ? 1 : need > 0 ? -1 : 0;
    }
}

enum k_status k_utilisation(size_t n, const int64_t *wcet, const int64_t *period, struct k_arena arena, int *sign)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)wcet[i] / (double)period[i];
    double doubt = (double)(n + 8) * 0x1p-51 * (sum + 1);
    if (sum > 1 + doubt || sum < 1 - doubt) {
        *sign = sum > 1 ? 1 : -1;
        return K_OK;
    }
    uint64_t *rest = k_take(&arena, n * sizeof *rest);
    if (!rest)
        return K_NOMEM;
    *sign = compare_digits(n, wcet, period, rest);
    return K_OK;
}

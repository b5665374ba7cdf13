/* The inner loops of the analyses: demand in doubles, eight terms at a time, without a division.
 *
 * floor(x / period), for |x| and period below 2^51: the rounded product with the reciprocal is the floor or
 * one more, and quotient * period, below 2^53, decides between them without rounding. All sums are integers
 * that doubles hold, so their order does not matter and all variants agree to the bit. */
#include "analysis.h"

#include <string.h>

#define LANES 8
typedef double lanes __attribute__((vector_size(LANES * sizeof(double))));
typedef int64_t masks __attribute__((vector_size(LANES * sizeof(int64_t))));

#if defined __x86_64__ && defined __GNUC__
#define VARIANTS 3
#else
#define VARIANTS 1
#endif

enum k_simd k_simd_best(void)
{
#if VARIANTS > 1
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"))
        return K_AVX512;
    if (__builtin_cpu_supports("avx2"))
        return K_AVX2;
#endif
    return K_PLAIN;
}

/* Macros, since vectors wider than the base instruction set cannot pass through a function. */
#define LOAD(vector, from) memcpy(&(vector), (from), sizeof(vector))
#define ROUND_UP 0x1.8p52 /* adding and subtracting it rounds to an integer */

#define QUOTIENT(q, x, period, inverse)                             \
    q = ((x) * (inverse) + ROUND_UP) - ROUND_UP;                    \
    q -= (lanes)((masks)one & (masks)(q * (period) > (x)));         \
    q = (lanes)((masks)q & (masks)(q > zero))

#define TERM(sum, i)                                                                                   \
    LOAD(x, terms->offset + (i));                                                                      \
    LOAD(period, terms->period + (i));                                                                 \
    LOAD(inverse, terms->inverse + (i));                                                               \
    LOAD(wcet, terms->wcet + (i));                                                                     \
    x += t;                                                                                            \
    QUOTIENT(q, x, period, inverse);                                                                   \
    sum += q * wcet

#define DEFINE(suffix, attribute)                                                                      \
    attribute static double demand_##suffix(const struct k_terms *terms, double t)                     \
    {                                                                                                  \
        lanes zero = {0}, one = zero + 1.0, sum = zero, more = zero;                                   \
        for (size_t i = 0; i < terms->n; i += 2 * LANES) {                                             \
            lanes x, period, inverse, wcet, q;                                                         \
            TERM(sum, i);                                                                              \
            TERM(more, i + LANES);                                                                     \
        }                                                                                              \
        sum += more;                                                                                   \
        double total = 0;                                                                              \
        for (size_t k = 0; k < LANES; k++)                                                             \
            total += sum[k];                                                                           \
        return total;                                                                                  \
    }                                                                                                  \
    attribute static double last_step_##suffix(const struct k_terms *terms, double t)                  \
    {                                                                                                  \
        lanes zero = {0}, one = zero + 1.0, last = zero;                                               \
        for (size_t i = 0; i < terms->n; i += LANES) {                                                 \
            lanes offset, period, inverse, q, step;                                                    \
            LOAD(offset, terms->offset + i);                                                           \
            LOAD(period, terms->period + i);                                                           \
            LOAD(inverse, terms->inverse + i);                                                         \
            lanes x = offset + t;                                                                      \
            QUOTIENT(q, x, period, inverse);                                                           \
            step = q * period - offset;                                                                \
            step = (lanes)((masks)step & (masks)(q > zero));                                           \
            masks larger = (masks)(step > last);                                                       \
            last = (lanes)(((masks)step & larger) | ((masks)last & ~larger));                          \
        }                                                                                              \
        double latest = 0;                                                                             \
        for (size_t k = 0; k < LANES; k++)                                                             \
            latest = last[k] > latest ? last[k] : latest;                                              \
        return latest;                                                                                 \
    }

DEFINE(plain, )
#if VARIANTS > 1
DEFINE(avx2, __attribute__((target("avx2"))))
DEFINE(avx512, __attribute__((target("avx512f,avx512dq"))))
#endif

double k_demand(const struct k_terms *terms, double t)
{
    switch (terms->simd) {
#if VARIANTS > 1
    case K_AVX512: return demand_avx512(terms, t);
    case K_AVX2: return demand_avx2(terms, t);
#endif
    default: return demand_plain(terms, t);
    }
}

double k_last_step(const struct k_terms *terms, double t)
{
    switch (terms->simd) {
#if VARIANTS > 1
    case K_AVX512: return last_step_avx512(terms, t);
    case K_AVX2: return last_step_avx2(terms, t);
#endif
    default: return last_step_plain(terms, t);
    }
}

bool k_terms_take(struct k_terms *terms, size_t n, struct k_arena *arena)
{
    size_t padded = K_PADDED(n);
    double *columns = k_take(arena, 4 * padded * sizeof(double));
    if (!columns)
        return false;
    *terms = (struct k_terms){n, columns, columns + padded, columns + 2 * padded, columns + 3 * padded, k_simd_best()};
    for (size_t i = 0; i < padded; i++) { /* terms that add nothing */
        terms->offset[i] = -K_EXACT_DOUBLE;
        terms->wcet[i] = 0;
        terms->period[i] = terms->inverse[i] = 1;
    }
    return true;
}

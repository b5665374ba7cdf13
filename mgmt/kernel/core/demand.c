/* The inner loops: demand in doubles, without a division. */
#include "analysis.h"

/* floor(x / period), exact for |x| and period below 2^51: the rounded product with the reciprocal is the
 * floor or one more, and quotient * period, below 2^53, decides without rounding. */
static inline double quotient(double x, double period, double inverse)
{
    const double to_integer = 0x1.8p52; /* adding and subtracting it rounds to an integer */
    double q = (x * inverse + to_integer) - to_integer;
    q -= q * period > x ? 1.0 : 0.0;
    return q > 0.0 ? q : 0.0;
}

/* Four sums side by side: one alone would wait for each addition. All partial sums are exact integers, so
 * their order does not matter. */
#define DEMAND_BODY                                                                              \
    double sums[8] = {0};                                                                        \
    size_t i = 0;                                                                                \
    for (; i + 8 <= terms->n; i += 8)                                                            \
        for (size_t k = 0; k < 8; k++)                                                           \
            sums[k] += quotient(t + offset[i + k], period[i + k], inverse[i + k]) * wcet[i + k]; \
    for (; i < terms->n; i++)                                                                    \
        sums[0] += quotient(t + offset[i], period[i], inverse[i]) * wcet[i];                     \
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]))

double k_demand(const struct k_terms *terms, double t)
{
    const double *restrict offset = terms->offset, *restrict period = terms->period;
    const double *restrict inverse = terms->inverse, *restrict wcet = terms->wcet;
    DEMAND_BODY;
}

double k_last_step(const struct k_terms *terms, double t)
{
    const double *restrict offset = terms->offset, *restrict period = terms->period;
    const double *restrict inverse = terms->inverse;
    double last[8] = {0};
    size_t i = 0;
    for (; i + 8 <= terms->n; i += 8)
        for (size_t k = 0; k < 8; k++) {
            double q = quotient(t + offset[i + k], period[i + k], inverse[i + k]);
            double step = q > 0.0 ? q * period[i + k] - offset[i + k] : 0.0;
            last[k] = step > last[k] ? step : last[k];
        }
    for (; i < terms->n; i++) {
        double q = quotient(t + offset[i], period[i], inverse[i]);
        double step = q > 0.0 ? q * period[i] - offset[i] : 0.0;
        last[0] = step > last[0] ? step : last[0];
    }
    for (size_t k = 1; k < 8; k++)
        last[0] = last[k] > last[0] ? last[k] : last[0];
    return last[0];
}

/* What a history of runs says: sums that decay, middle durations, streaks; and what is expected of the next run. */
#ifndef MGMT_KERNEL_HISTORY_H
#define MGMT_KERNEL_HISTORY_H

#include "analysis.h"
#include "kernel.h"

enum history_outcome { HISTORY_SUCCESS, HISTORY_FAILURE, HISTORY_NOTHING, HISTORY_TRANSIENT };

/* Columns of a matrix of statistics, one row a series; column c starts at c * rows. */
enum history_field {
    FIELD_SUCCESS, FIELD_FAILURE, FIELD_NOTHING, /* sums of weights at the reference time */
    FIELD_DONE, FIELD_DONE_P50, FIELD_DONE_P90,    /* durations of the latest successes: count, median, 90 % */
    FIELD_LOST, FIELD_LOST_P50, FIELD_LOST_P90,    /* and of what was no success */
    FIELD_RUNS,    /* all that were not transient */
    FIELD_STREAK,  /* transient ones at the end */
    FIELD_ENDED,   /* the latest end */
    HISTORY_FIELDS
};

struct history_runs {
    size_t n;
    const int64_t *key;  /* series * 4 + outcome, in the order in which the runs ended */
    const double *ended;
    const double *duration; /* NaN: not known */
    const int64_t *group_of; /* series -> row of the matrix; NULL: the same */
};

struct history_rule {
    double reference, half_life; /* a run that ended at the reference weighs 1, half of it a half-life before */
    size_t window;               /* durations of a row and outcome that count, from the latest back */
    bool weights;                /* false: no sums of weights */
    enum k_simd simd;
};

size_t history_room(size_t runs, size_t rows);
/* `matrix` has HISTORY_FIELDS * rows entries; medians of nothing are NaN, the end of nothing is -INFINITY. Keys
 * and groups must be in range. Sums are taken in the order of the runs, so that adding a run later is the same. */
enum k_status k_history(const struct history_runs *runs, const struct history_rule *rule, size_t rows,
                        struct k_arena arena, double *matrix);

/* The durations that history takes the medians of, from the latest back: those of a row's successes are from
 * starts[2 * row] to starts[2 * row + 1], those of its others behind them. `starts` has 2 * rows + 1 entries, `kept` as
 * many as there are runs. */
enum k_status k_recent(const struct history_runs *runs, size_t window, size_t rows, struct k_arena arena, int64_t *starts,
                       double *kept);

/* 2 to the power of x, by multiplications and additions alone, so that it is the same everywhere. Below -1000
 * it is 0, above 1000 that of 1000. */
double k_exp2(double x);

struct estimate_columns {
    size_t n;
    const double *value;   /* NaN: none, worth 1 */
    const double *chance;  /* prior mean of this candidate; NaN: that of its campaign */
    const double *tried;   /* weight of the latest attempt in the same context; 0: none */
    const int64_t *series, *codebase, *campaign; /* rows of the matrices and of the campaigns' columns */
    const double *of_series, *of_codebase;       /* matrices */
    size_t series_n, codebase_n;
    const double *rate, *done, *lost; /* of campaigns: prior mean, durations */
};

struct estimate_rule {
    double decay;    /* from the reference to now */
    double strength; /* of the prior, in runs */
    double explore;  /* what not knowing is worth */
    double penalty;  /* what the same context takes away at once */
    double shrink;   /* strength of a duration's prior, in runs */
    double least;    /* points below which a median is not taken */
    size_t quantile; /* 0: medians; 1: 90 % */
    enum k_simd simd;
};

/* `out`: three columns: probability of success, duration, worth (value with all factors). */
void k_estimate(const struct estimate_columns *columns, const struct estimate_rule *rule, double *out);

#endif

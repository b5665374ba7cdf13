/* A history as a database hands it out: columns of words, times and groups of a million runs. */
#ifndef MGMT_KERNEL_RUNS_H
#define MGMT_KERNEL_RUNS_H

#include "kernel.h"

#define WORDS_BETWEEN '\x1f' /* stands between the words of a column, and of a row in the pool */

struct words_column {
    const char *text;
    size_t length;
};

/* Rows that differ, by number: row i is from ends[i - 1], or 0, to ends[i]. Callers put in those they know and have
 * room for k_words_pool() bytes and known + n ends. */
struct words_pool {
    char *text;
    size_t *ends;
    size_t count;
};

size_t k_words_pool(const struct words_column *columns, size_t width, size_t n, size_t known_bytes);
size_t k_words_room(size_t n, size_t known);
/* The number of each of n rows of `width` words in the pool, which grows, or -1 for one that is not there and may
 * not come in. K_INVALID: column *fault has not exactly n words. */
enum k_status k_words(const struct words_column *columns, size_t width, size_t n, bool grow, struct words_pool *pool,
                      struct k_arena arena, int64_t *ids, size_t *fault);

/* Of each of n rows of words a number that others hardly have, 0 where its last word is empty. Faults as k_words. */
enum k_status k_hashes(const struct words_column *columns, size_t width, size_t n, int64_t *numbers, size_t *fault);

size_t k_places_room(size_t known);
/* Where each number is among those that are known, the first of equal ones; -1: it is not, or is 0. False: the arena is
 * too small. */
bool k_places(const int64_t *number, size_t n, const int64_t *known, size_t count, struct k_arena arena, int64_t *at);

#define TIME_NONE INT64_MIN

/* A run that did not end is of its beginning, with a duration of NaN; one of no time at all, or with an end before
 * its beginning, has an end of NaN. Ends count from `epoch` before theirs. */
void k_run_times(size_t n, const int64_t *began, const int64_t *ended, double epoch, double *end, double *duration);

struct run_rows {
    size_t n;
    const int64_t *series, *kind; /* kind: index of outcome_of */
    const int64_t *outcome_of; /* -1: left out */
    const double *end, *duration;
    const int64_t *own, *other; /* contexts */
};

struct run_order {
    int64_t *key; /* series * 4 + outcome */
    double *end, *duration;
    int64_t *own, *other;
};

size_t k_by_end_room(size_t n);
/* The rows in the order of their ends, equal ones as they come; those with an end of NaN are left out. Returns how many
 * there are; SIZE_MAX: the arena is too small. */
size_t k_by_end(const struct run_rows *rows, struct k_arena arena, const struct run_order *into);

struct repeat_rule {
    double reference, half_life; /* a run that ended at the reference weighs 1, half of it a half-life before */
    double penalty;
};

size_t k_repeats_room(size_t n, const int64_t *own, const int64_t *other);
/* Of n runs in the order of their ends: what each weighs less. A failure does whose context, its own or else the other
 * one, had an attempt before: by the penalty of the lesser weight of the two. Transient runs are no attempts; a context
 * of 0 is none. False: the arena is too small. */
bool k_repeats(size_t n, const int64_t *key, const double *ended, const int64_t *own, const int64_t *other,
               const struct repeat_rule *rule, struct k_arena arena, double *less);

size_t k_superseded_room(size_t n);
/* The numbers of those keys that come once more behind, ascending; how many. SIZE_MAX: the arena is too small. */
size_t k_superseded(const int64_t *key, size_t n, struct k_arena arena, int64_t *found);

/* The numbers of those whose group is wanted (not 0); how many. */
size_t k_members(const int64_t *group, size_t n, const unsigned char *wanted, int64_t *found);

enum tally_field { TALLY_COUNT, TALLY_KNOWN, TALLY_SUM, TALLY_MOST, TALLY_FIELDS };

/* Of each group and kind: entries, those with a value (not NaN), their sum and the greatest, -INFINITY for none. A
 * group of -1 is passed over. `out`: TALLY_FIELDS matrices of groups * kinds. */
void k_tally(size_t n, const int64_t *group, const int64_t *kind, const double *value, size_t groups, size_t kinds,
             double *out);

#endif

/* Columns of runs: see runs.h. */
#include "runs.h"

#include <math.h>
#include <string.h>

#include "history.h"
#include "sort.h"

/* ---- words ---- */

#define TABLE_LEAST 1024 /* a power of two, like every size of the table */

struct slot {
    uint64_t hash;
    int64_t id; /* plus 1; 0: empty */
};

static uint64_t hash_of(const char *text, size_t length)
{
    uint64_t hash = 0x9E3779B97F4A7C15u ^ length, part;
    for (; length >= 8; text += 8, length -= 8) {
        memcpy(&part, text, 8);
        hash = (hash ^ part) * 0xD6E8FEB86659FD93u;
        hash ^= hash >> 32;
    }
    part = 0;
    memcpy(&part, text, length);
    hash = (hash ^ part) * 0xD6E8FEB86659FD93u;
    hash ^= hash >> 32;
    hash *= 0xD6E8FEB86659FD93u;
    return hash ^ hash >> 32;
}

static size_t table_of(size_t rows)
{
    size_t size = TABLE_LEAST;
    while (size < 2 * rows)
        size *= 2;
    return size;
}

size_t k_words_pool(const struct words_column *columns, size_t width, size_t n, size_t known_bytes)
{
    size_t bytes = known_bytes + width * (n + 1);
    for (size_t c = 0; c < width; c++)
        bytes += columns[c].length;
    return bytes;
}

/* Tables double while they fill up: all of them together are less than twice the last. */
size_t k_words_room(size_t n, size_t known)
{
    return K_ROOM(2 * table_of(n + known + 1), sizeof(struct slot)) + 64 * 128;
}

static struct slot *table_new(struct k_arena *arena, size_t size)
{
    struct slot *table = k_take(arena, size * sizeof *table);
    if (table)
        memset(table, 0, size * sizeof *table);
    return table;
}

static struct slot *place_of(struct slot *table, size_t size, const struct words_pool *pool, uint64_t hash,
                             const char *text, size_t length)
{
    for (size_t at = hash & (size - 1);; at = (at + 1) & (size - 1)) {
        struct slot *slot = &table[at];
        if (!slot->id)
            return slot;
        if (slot->hash != hash)
            continue;
        size_t i = (size_t)(slot->id - 1), from = i ? pool->ends[i - 1] : 0;
        if (pool->ends[i] - from == length && !memcmp(pool->text + from, text, length))
            return slot;
    }
}

static struct slot *grown(struct slot *table, size_t *size, struct k_arena *arena)
{
    struct slot *larger = table_new(arena, 2 * *size);
    if (!larger)
        return NULL;
    for (size_t i = 0; i < *size; i++)
        if (table[i].id) {
            size_t at = table[i].hash & (2 * *size - 1);
            while (larger[at].id)
                at = (at + 1) & (2 * *size - 1);
            larger[at] = table[i];
        }
    *size *= 2;
    return larger;
}

enum k_status k_words(const struct words_column *columns, size_t width, size_t n, bool grow, struct words_pool *pool,
                      struct k_arena arena, int64_t *ids, size_t *fault)
{
    size_t size = table_of(pool->count + 1);
    struct slot *table = table_new(&arena, size);
    size_t *at = k_take(&arena, (width + 1) * sizeof *at);
    if (!table || !at)
        return K_NOMEM;
    memset(at, 0, (width + 1) * sizeof *at);
    for (size_t i = 0; i < pool->count; i++) {
        size_t from = i ? pool->ends[i - 1] : 0, length = pool->ends[i] - from;
        uint64_t hash = hash_of(pool->text + from, length);
        struct slot *slot = place_of(table, size, pool, hash, pool->text + from, length);
        if (!slot->id) /* of equal ones the first counts */
            *slot = (struct slot){hash, (int64_t)i + 1};
    }
    for (size_t c = 0; c < width && !n; c++)
        if (columns[c].length) {
            *fault = c;
            return K_INVALID;
        }
    size_t last = pool->count ? pool->ends[pool->count - 1] : 0;
    for (size_t row = 0; row < n; row++) {
        /* The row is put together behind the pool, and stays there when it is new. */
        char *text = pool->text + last;
        size_t length = 0;
        for (size_t c = 0; c < width; c++) {
            const char *from = columns[c].text + at[c];
            size_t left = columns[c].length - at[c];
            const char *end = left ? memchr(from, WORDS_BETWEEN, left) : NULL;
            if (!end != (row + 1 == n)) {
                *fault = c;
                return K_INVALID;
            }
            size_t word = end ? (size_t)(end - from) : left;
            if (c)
                text[length++] = WORDS_BETWEEN;
            if (word)
                memcpy(text + length, from, word);
            length += word;
            at[c] += word + 1;
        }
        uint64_t hash = hash_of(text, length);
        struct slot *slot = place_of(table, size, pool, hash, text, length);
        if (!slot->id && grow) {
            last += length;
            pool->ends[pool->count++] = last;
            *slot = (struct slot){hash, (int64_t)pool->count};
            ids[row] = (int64_t)pool->count - 1;
            if (2 * (pool->count + 1) > size && !(table = grown(table, &size, &arena)))
                return K_NOMEM;
        } else {
            ids[row] = slot->id - 1;
        }
    }
    return K_OK;
}

/* ---- numbers of words ---- */

/* The next word of a column, of which `from` are taken; false: it is not there, or not the last where it must be. */
static bool next_word(const struct words_column *column, size_t *from, bool last, const char **word, size_t *length)
{
    size_t left = column->length - *from;
    *word = column->text + *from;
    const char *end = left ? memchr(*word, WORDS_BETWEEN, left) : NULL;
    *length = end ? (size_t)(end - *word) : left;
    *from += *length + 1;
    return !end == last;
}

enum k_status k_hashes(const struct words_column *columns, size_t width, size_t n, int64_t *numbers, size_t *fault)
{
    memset(numbers, 0, n * sizeof *numbers);
    for (size_t c = 0; c < width; c++) {
        size_t from = 0, length = 0;
        const char *word;
        *fault = c;
        if (!n && columns[c].length)
            return K_INVALID;
        for (size_t row = 0; row < n; row++) {
            if (!next_word(&columns[c], &from, row + 1 == n, &word, &length))
                return K_INVALID;
            uint64_t hash = ((uint64_t)numbers[row] ^ hash_of(word, length)) * 0xD6E8FEB86659FD93u;
            hash ^= hash >> 32;
            numbers[row] = c + 1 < width ? (int64_t)hash : !length ? 0 : hash ? (int64_t)hash : 1;
        }
    }
    return K_OK;
}

static inline size_t key_place(int64_t key, size_t size)
{
    uint64_t hash = (uint64_t)key * 0xD6E8FEB86659FD93u;
    return (hash ^ hash >> 32) & (size - 1);
}

struct place {
    int64_t number, at; /* a number of 0: empty */
};

size_t k_places_room(size_t known) { return K_ROOM(table_of(known + 1), sizeof(struct place)); }

static struct place *place_in(struct place *table, size_t size, int64_t number)
{
    size_t at = key_place(number, size);
    while (table[at].number && table[at].number != number)
        at = (at + 1) & (size - 1);
    return &table[at];
}

bool k_places(const int64_t *number, size_t n, const int64_t *known, size_t count, struct k_arena arena, int64_t *at)
{
    size_t size = table_of(count + 1);
    struct place *table = k_take(&arena, size * sizeof *table);
    if (!table)
        return false;
    memset(table, 0, size * sizeof *table);
    for (size_t i = 0; i < count; i++) {
        struct place *place = known[i] ? place_in(table, size, known[i]) : NULL;
        if (place && !place->number)
            *place = (struct place){known[i], (int64_t)i};
    }
    for (size_t i = 0; i < n; i++) {
        struct place *place = number[i] ? place_in(table, size, number[i]) : NULL;
        at[i] = place && place->number ? place->at : -1;
    }
    return true;
}

/* ---- times ---- */

void k_run_times(size_t n, const int64_t *began, const int64_t *ended, double epoch, double *end, double *duration)
{
    for (size_t i = 0; i < n; i++) {
        bool from = began[i] != TIME_NONE, to = ended[i] != TIME_NONE, both = from && to;
        bool wrong = (!from && !to) || (both && ended[i] < began[i]);
        end[i] = wrong ? (double)NAN : (double)(to ? ended[i] : began[i]) + epoch;
        duration[i] = both && !wrong ? (double)ended[i] - (double)began[i] : (double)NAN;
    }
}

size_t k_by_end_room(size_t n) { return 2 * K_ROOM(n, sizeof(struct k_pair)); }

/* Doubles compare like their bits, with the sign turned and, of negative ones, all others too. */
static uint64_t order_of(double x)
{
    uint64_t bits;
    x += 0.0; /* one zero */
    memcpy(&bits, &x, sizeof bits);
    return bits ^ (bits >> 63 ? UINT64_MAX : UINT64_C(1) << 63);
}

size_t k_by_end(const struct run_rows *rows, struct k_arena arena, const struct run_order *into)
{
    struct k_pair *pairs = k_take(&arena, rows->n * sizeof *pairs);
    struct k_pair *scratch = k_take(&arena, rows->n * sizeof *scratch);
    if (!pairs || !scratch)
        return SIZE_MAX;
    size_t n = 0;
    for (size_t i = 0; i < rows->n; i++)
        if (rows->end[i] == rows->end[i] && rows->outcome_of[rows->kind[i]] >= 0)
            pairs[n++] = (struct k_pair){order_of(rows->end[i]), (uint32_t)i};
    k_sort(pairs, scratch, n);
    for (size_t i = 0; i < n; i++) {
        uint32_t at = pairs[i].item;
        into->key[i] = rows->series[at] * 4 + rows->outcome_of[rows->kind[at]];
        into->end[i] = rows->end[at];
        into->duration[i] = rows->duration[at];
        into->own[i] = rows->own[at];
        into->other[i] = rows->other[at];
    }
    return n;
}

/* ---- attempts in a context ---- */

struct attempt {
    int64_t context; /* 0: empty */
    double weight;
};

static size_t attempts_of(size_t n, const int64_t *own, const int64_t *other)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += (size_t)(own[i] != 0) + (other[i] != 0);
    return table_of(count + 1);
}

size_t k_repeats_room(size_t n, const int64_t *own, const int64_t *other)
{
    return K_ROOM(attempts_of(n, own, other), sizeof(struct attempt));
}

static struct attempt *attempt_in(struct attempt *table, size_t size, int64_t context)
{
    size_t at = key_place(context, size);
    while (table[at].context && table[at].context != context)
        at = (at + 1) & (size - 1);
    return &table[at];
}

bool k_repeats(size_t n, const int64_t *key, const double *ended, const int64_t *own, const int64_t *other,
               const struct repeat_rule *rule, struct k_arena arena, double *less)
{
    size_t size = attempts_of(n, own, other);
    struct attempt *table = k_take(&arena, size * sizeof *table);
    if (!table)
        return false;
    memset(table, 0, size * sizeof *table);
    for (size_t i = 0; i < n; i++) {
        less[i] = 0;
        if ((!own[i] && !other[i]) || (key[i] & 3) == HISTORY_TRANSIENT)
            continue;
        double weight = k_exp2((ended[i] - rule->reference) / rule->half_life);
        struct attempt *before = attempt_in(table, size, own[i] ? own[i] : other[i]);
        if (before->context && (key[i] & 3) == HISTORY_FAILURE)
            less[i] = rule->penalty * (weight < before->weight ? weight : before->weight);
        *before = (struct attempt){own[i] ? own[i] : other[i], weight};
        if (own[i] && other[i])
            *attempt_in(table, size, other[i]) = (struct attempt){other[i], weight};
    }
    return true;
}

#define AHEAD 16 /* keys whose place is on its way from memory: the table does not fit any cache */

size_t k_superseded_room(size_t n) { return K_ROOM(table_of(n + 1), sizeof(uint64_t)); }

size_t k_superseded(const int64_t *key, size_t n, struct k_arena arena, int64_t *found)
{
    size_t size = table_of(n + 1), count = 0;
    int64_t *table = k_take(&arena, size * sizeof *table); /* 0: empty; the key 0 is remembered apart */
    bool zero = false;
    if (!table)
        return SIZE_MAX;
    memset(table, 0, size * sizeof *table);
    for (size_t i = n; i-- > 0;) {
        if (i >= AHEAD)
            __builtin_prefetch(&table[key_place(key[i - AHEAD], size)], 1);
        bool again = zero;
        if (key[i]) {
            size_t at = key_place(key[i], size);
            while (table[at] && table[at] != key[i])
                at = (at + 1) & (size - 1);
            again = table[at] != 0;
            table[at] = key[i];
        } else {
            zero = true;
        }
        if (again)
            found[n - ++count] = (int64_t)i;
    }
    memmove(found, found + n - count, count * sizeof *found);
    return count;
}

size_t k_members(const int64_t *group, size_t n, const unsigned char *wanted, int64_t *found)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        found[count] = (int64_t)i;
        count += wanted[group[i]] != 0;
    }
    return count;
}

void k_tally(size_t n, const int64_t *group, const int64_t *kind, const double *value, size_t groups, size_t kinds,
             double *out)
{
    size_t cells = groups * kinds;
    memset(out, 0, TALLY_FIELDS * cells * sizeof *out);
    for (size_t i = 0; i < cells; i++)
        out[TALLY_MOST * cells + i] = -(double)INFINITY;
    for (size_t i = 0; i < n; i++) {
        if (group[i] < 0)
            continue;
        double *cell = out + (size_t)group[i] * kinds + (size_t)kind[i];
        cell[TALLY_COUNT * cells] += 1;
        if (value[i] != value[i])
            continue;
        cell[TALLY_KNOWN * cells] += 1;
        cell[TALLY_SUM * cells] += value[i];
        cell[TALLY_MOST * cells] = value[i] > cell[TALLY_MOST * cells] ? value[i] : cell[TALLY_MOST * cells];
    }
}

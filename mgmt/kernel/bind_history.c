/* Statistics of runs and estimates as Python functions. */
#include "bind.h"

#include "core/history.h"

#define UNLOCK_FROM 1024 /* rows from which the GIL is released */

static bool like(const struct bind_column *column, const char *name, const struct bind_column *first, const char *first_name)
{
    if (column->n == first->n)
        return true;
    PyErr_Format(PyExc_ValueError, "%s has %zd entries, %s %zd", name, column->n, first_name, first->n);
    return false;
}

static bool whole(PyObject *from, Py_ssize_t *value)
{
    if (!from)
        return true;
    *value = PyNumber_AsSsize_t(from, PyExc_OverflowError);
    return *value != -1 || !PyErr_Occurred();
}

/* For tests: a lesser variant than the best. */
static bool variant(PyObject *from, enum k_simd *simd)
{
    Py_ssize_t value = (Py_ssize_t)*simd;
    if (!whole(from, &value))
        return false;
    if (value < 0 || value > (Py_ssize_t)k_simd_best()) {
        PyErr_Format(PyExc_ValueError, "this CPU has variants up to %d", (int)k_simd_best());
        return false;
    }
    *simd = (enum k_simd)value;
    return true;
}

static bool in_range(const struct bind_column *column, const char *name, Py_ssize_t most, const char *rule)
{
    for (Py_ssize_t i = 0; i < column->n; i++)
        if (column->data[i] < 0 || column->data[i] >= most) {
            bind_invalid(name, i, column->data[i], rule);
            return false;
        }
    return true;
}

/* A matrix given as `out`, or a new one. */
static PyObject *matrix_of(PyObject *module, PyObject *given, Py_ssize_t n, Py_buffer *out)
{
    if (given)
        return bind_writable(given, "d", n, out) ? Py_NewRef(given) : NULL;
    PyObject *result = bind_new_doubles(module, n);
    if (result && PyObject_GetBuffer(result, out, PyBUF_WRITABLE | PyBUF_ND | PyBUF_FORMAT) < 0)
        Py_CLEAR(result);
    return result;
}

static bool apart(const Py_buffer *out, const struct bind_column *column, const char *name)
{
    uintptr_t from = (uintptr_t)out->buf, into = (uintptr_t)column->data, more = (uintptr_t)column->doubles;
    into = into ? into : more;
    if (!into || from >= into + (size_t)column->n * 8 || into >= from + (size_t)out->len)
        return true;
    PyErr_Format(PyExc_ValueError, "out shares memory with %s: give it its own", name);
    return false;
}

static PyObject *history(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"key", "ended", "duration", "rows", "group_of", "reference", "half_life",
                                        "window", "weights", "out", "_simd", NULL};
    enum { KEY, ENDED, DURATION, ROWS, GROUP, REFERENCE, HALF_LIFE, WINDOW, WEIGHTS, OUT, SIMD, COUNT };
    PyObject *given[COUNT], *result = NULL;
    struct bind_column key = {0}, ended = {0}, duration = {0}, group = {0};
    struct history_rule rule = {0.0, 1.0, 128, true, k_simd_best()};
    Py_buffer out = {0};
    Py_ssize_t rows = 0, window = 128;
    void *memory = NULL;
    size_t room = 0;
    if (!bind_arguments("history", names, 4, 4, args, nargs, kwnames, given) || !whole(given[ROWS], &rows) ||
        !whole(given[WINDOW], &window) || !bind_number(given[REFERENCE], "reference", &rule.reference) ||
        !bind_number(given[HALF_LIFE], "half_life", &rule.half_life) || !variant(given[SIMD], &rule.simd))
        return NULL;
    if (given[WEIGHTS]) {
        int weights = PyObject_IsTrue(given[WEIGHTS]);
        if (weights < 0)
            return NULL;
        rule.weights = weights;
    }
    if (!bind_ints_copy(given[KEY], "key", &key) || !bind_doubles(given[ENDED], "ended", &ended) ||
        !bind_doubles(given[DURATION], "duration", &duration) ||
        (given[GROUP] && !bind_ints_copy(given[GROUP], "group_of", &group)))
        goto done;
    if (!like(&ended, "ended", &key, "key") || !like(&duration, "duration", &key, "key"))
        goto done;
    if (!(rule.half_life > 0)) {
        PyErr_SetString(PyExc_ValueError, "half_life must be positive");
        goto done;
    }
    if (window < 1) {
        PyErr_SetString(PyExc_ValueError, "window must be at least 1");
        goto done;
    }
    if (rows < 0) {
        PyErr_Format(PyExc_ValueError, "rows is %zd: must not be negative", rows);
        goto done;
    }
    if (key.n >= (Py_ssize_t)UINT32_MAX || rows >= (Py_ssize_t)UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "there are more than 2**32 - 2 runs or rows");
        goto done;
    }
    if (given[GROUP] && !in_range(&group, "group_of", rows, "must be a row"))
        goto done;
    Py_ssize_t known = given[GROUP] ? group.n : rows;
    if (!in_range(&key, "key", known * 4, "must be a series times 4 plus an outcome"))
        goto done;
    rule.window = (size_t)(window < key.n ? window : key.n);
    result = matrix_of(module, given[OUT], HISTORY_FIELDS * rows, &out);
    if (!result)
        goto done;
    if (!apart(&out, &ended, "ended") || !apart(&out, &duration, "duration")) {
        Py_CLEAR(result);
        goto done;
    }
    room = history_room((size_t)key.n, (size_t)rows);
    memory = bind_memory(room);
    if (!memory) {
        Py_CLEAR(result);
        PyErr_NoMemory();
        goto done;
    }
    struct history_runs runs = {(size_t)key.n, key.data, ended.doubles, duration.doubles, given[GROUP] ? group.data : NULL};
    struct k_arena arena = {memory, room};
    enum k_status status;
    BIND_UNLOCKED(key.n >= UNLOCK_FROM, status = k_history(&runs, &rule, (size_t)rows, arena, out.buf));
    if (status != K_OK) {
        Py_CLEAR(result);
        bind_failed(status, "history");
    }
done:
    bind_release(&key);
    bind_release(&ended);
    bind_release(&duration);
    bind_release(&group);
    if (out.obj)
        PyBuffer_Release(&out);
    bind_memory_free(memory, room);
    return result;
}

static PyObject *recent(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"key", "duration", "rows", "window", "group_of", NULL};
    enum { KEY, DURATION, ROWS, WINDOW, GROUP, COUNT };
    PyObject *given[COUNT], *starts = NULL, *kept = NULL, *result = NULL;
    struct bind_column key = {0}, duration = {0}, group = {0};
    Py_ssize_t rows = 0, window = 0;
    void *memory = NULL;
    size_t room = 0;
    int64_t *from;
    if (!bind_arguments("recent", names, 4, 4, args, nargs, kwnames, given) || !whole(given[ROWS], &rows) ||
        !whole(given[WINDOW], &window))
        return NULL;
    if (window < 1 || rows < 0 || rows >= (Py_ssize_t)UINT32_MAX || window >= (Py_ssize_t)UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "window must be at least 1, and rows not negative, below 2**32 - 1");
        return NULL;
    }
    if (!bind_ints_copy(given[KEY], "key", &key) || !bind_doubles(given[DURATION], "duration", &duration) ||
        (given[GROUP] && !bind_ints_copy(given[GROUP], "group_of", &group)) || !like(&duration, "duration", &key, "key") ||
        (given[GROUP] && !in_range(&group, "group_of", rows, "must be a row")) ||
        !in_range(&key, "key", (given[GROUP] ? group.n : rows) * 4, "must be a series times 4 plus an outcome"))
        goto done;
    room = history_room(0, (size_t)rows);
    memory = bind_memory(room);
    starts = bind_new_ints(module, 2 * rows + 1, &from);
    kept = bind_new_doubles(module, key.n);
    if (!memory || !starts || !kept) {
        if (!PyErr_Occurred())
            PyErr_NoMemory();
        goto done;
    }
    struct history_runs runs = {(size_t)key.n, key.data, NULL, duration.doubles, given[GROUP] ? group.data : NULL};
    struct k_arena arena = {memory, room};
    enum k_status status;
    BIND_UNLOCKED(key.n >= UNLOCK_FROM, status = k_recent(&runs, (size_t)window, (size_t)rows, arena, from,
                                                         PyMemoryView_GET_BUFFER(kept)->buf));
    if (status == K_OK)
        result = PyTuple_Pack(2, starts, kept);
    else
        bind_failed(status, "recent");
done:
    bind_release(&key);
    bind_release(&duration);
    bind_release(&group);
    bind_memory_free(memory, room);
    Py_XDECREF(starts);
    Py_XDECREF(kept);
    return result;
}

enum {
    VALUE, CHANCE, TRIED, SERIES, CODEBASE, CAMPAIGN, OF_SERIES, OF_CODEBASE, RATE, DONE, LOST, COLUMNS,
    DECAY = COLUMNS, STRENGTH, EXPLORE, PENALTY, SHRINK, LEAST, QUANTILE, INTO, SIMD, ARGUMENTS
};

static bool read_rule(PyObject *const *given, struct estimate_rule *rule)
{
    Py_ssize_t quantile = 0;
    if (!bind_number(given[DECAY], "decay", &rule->decay) || !bind_number(given[STRENGTH], "strength", &rule->strength) ||
        !bind_number(given[EXPLORE], "explore", &rule->explore) || !bind_number(given[PENALTY], "penalty", &rule->penalty) || !bind_number(given[SHRINK], "shrink", &rule->shrink) ||
        !bind_number(given[LEAST], "least_points", &rule->least) || !whole(given[QUANTILE], &quantile))
        return false;
    const char *wrong = quantile != 0 && quantile != 1 ? "quantile must be 0 or 1"
                        : !(rule->strength > 0)        ? "strength must be positive"
                        : !(rule->shrink >= 0)         ? "shrink must not be negative"
                        : !(rule->least >= 1)          ? "least_points must be at least 1"
                                                       : NULL;
    if (wrong) {
        PyErr_SetString(PyExc_ValueError, wrong);
        return false;
    }
    rule->quantile = (size_t)quantile;
    return variant(given[SIMD], &rule->simd);
}

static bool read_columns(PyObject *const *given, const char *const *names, struct bind_column *column)
{
    for (int c = 0; c < COLUMNS; c++) {
        bool ints = c >= SERIES && c <= CAMPAIGN;
        if (!(ints ? bind_ints_copy : bind_doubles)(given[c], names[c], &column[c]))
            return false;
    }
    for (int c = CHANCE; c <= CAMPAIGN; c++)
        if (!like(&column[c], names[c], &column[VALUE], "value"))
            return false;
    for (int c = DONE; c <= LOST; c++)
        if (!like(&column[c], names[c], &column[RATE], "rate"))
            return false;
    for (int c = OF_SERIES; c <= OF_CODEBASE; c++)
        if (column[c].n % HISTORY_FIELDS) {
            PyErr_Format(PyExc_ValueError, "%s has %zd entries: must be %d columns", names[c], column[c].n, HISTORY_FIELDS);
            return false;
        }
    return in_range(&column[SERIES], "series", column[OF_SERIES].n / HISTORY_FIELDS, "must be a row") &&
           in_range(&column[CODEBASE], "codebase", column[OF_CODEBASE].n / HISTORY_FIELDS, "must be a row") &&
           in_range(&column[CAMPAIGN], "campaign", column[RATE].n, "must be a row");
}

static PyObject *estimate(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"value", "chance", "tried", "series", "codebase", "campaign", "of_series",
                                        "of_codebase", "rate", "done", "lost", "decay", "strength", "explore",
                                        "penalty", "shrink", "least_points", "quantile", "out", "_simd", NULL};
    PyObject *given[ARGUMENTS], *result = NULL;
    struct bind_column column[COLUMNS] = {0};
    struct estimate_rule rule = {1.0, 4.0, 0.0, 0.9, 5.0, 5.0, 0, k_simd_best()};
    Py_buffer out = {0};
    if (!bind_arguments("estimate", names, COLUMNS, COLUMNS, args, nargs, kwnames, given) || !read_rule(given, &rule))
        return NULL;
    if (!read_columns(given, names, column))
        goto done;
    Py_ssize_t n = column[VALUE].n;
    result = matrix_of(module, given[INTO], 3 * n, &out);
    if (!result)
        goto done;
    for (int c = 0; c < COLUMNS; c++)
        if (!apart(&out, &column[c], names[c])) {
            Py_CLEAR(result);
            goto done;
        }
    struct estimate_columns columns = {
        (size_t)n, column[VALUE].doubles, column[CHANCE].doubles, column[TRIED].doubles,
        column[SERIES].data, column[CODEBASE].data, column[CAMPAIGN].data,
        column[OF_SERIES].doubles, column[OF_CODEBASE].doubles,
        (size_t)column[OF_SERIES].n / HISTORY_FIELDS, (size_t)column[OF_CODEBASE].n / HISTORY_FIELDS,
        column[RATE].doubles, column[DONE].doubles, column[LOST].doubles,
    };
    BIND_UNLOCKED(n >= UNLOCK_FROM, k_estimate(&columns, &rule, out.buf));
done:
    for (int c = 0; c < COLUMNS; c++)
        bind_release(&column[c]);
    if (out.obj)
        PyBuffer_Release(&out);
    return result;
}

#define FAST(function) (PyCFunction)(void (*)(void))function, METH_FASTCALL | METH_KEYWORDS

PyMethodDef bind_history_methods[] = {
    {"history", FAST(history),
     PyDoc_STR("history($module, key, ended, duration, rows, *, group_of=None, reference=0.0, half_life=1.0, window=128, "
               "weights=True, out=None)\n--\n\nStatistics of runs, one row a series.")},
    {"recent", FAST(recent),
     PyDoc_STR("recent($module, key, duration, rows, window, *, group_of=None)\n--\n\nThe latest durations of each row.")},
    {"estimate", FAST(estimate),
     PyDoc_STR("estimate($module, value, chance, tried, series, codebase, campaign, of_series, of_codebase, rate, done, "
               "lost, *, decay=1.0, strength=4.0, explore=0.0, penalty=0.9, shrink=5.0, least_points=5.0, quantile=0, out=None)\n--\n\n"
               "What is expected of the next run of each candidate.")},
    {NULL, NULL, 0, NULL},
};

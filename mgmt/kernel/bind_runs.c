/* Columns of runs as Python functions. */
#include "bind.h"

#include <math.h>
#include <string.h>

#include "core/runs.h"

#define UNLOCK_FROM 1024 /* rows from which the GIL is released */
#define WIDTH_MOST 16

static bool like(const struct bind_column *column, const char *name, Py_ssize_t n)
{
    if (column->n == n)
        return true;
    PyErr_Format(PyExc_ValueError, "%s has %zd entries: must have %zd", name, column->n, n);
    return false;
}

static bool among(const struct bind_column *column, const char *name, Py_ssize_t least, Py_ssize_t most, const char *rule)
{
    for (Py_ssize_t i = 0; i < column->n; i++)
        if (column->data[i] < least || column->data[i] >= most) {
            bind_invalid(name, i, column->data[i], rule);
            return false;
        }
    return true;
}

static bool number(PyObject *from, const char *name, Py_ssize_t *value)
{
    *value = PyNumber_AsSsize_t(from, PyExc_OverflowError);
    if (*value == -1 && PyErr_Occurred())
        return false;
    if (*value >= 0 && *value < (Py_ssize_t)UINT32_MAX)
        return true;
    PyErr_Format(PyExc_ValueError, "%s is %zd: must be from 0 to 2**32 - 2", name, *value);
    return false;
}

static double *doubles_of(PyObject *view) { return PyMemoryView_GET_BUFFER(view)->buf; }

/* ---- words ---- */

/* The rows that are known into the pool. */
static void put_known(PyObject *known, struct words_pool *pool)
{
    size_t last = 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(known); i++) {
        PyObject *row = PyList_GET_ITEM(known, i);
        memcpy(pool->text + last, PyBytes_AS_STRING(row), (size_t)PyBytes_GET_SIZE(row));
        last += (size_t)PyBytes_GET_SIZE(row);
        pool->ends[pool->count++] = last;
    }
}

static bool known_of(PyObject *given, PyObject **known, size_t *bytes)
{
    *known = given ? PySequence_List(given) : PyList_New(0);
    if (!*known)
        return false;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(*known); i++) {
        PyObject *row = PyList_GET_ITEM(*known, i);
        if (!PyBytes_Check(row)) {
            PyErr_Format(PyExc_TypeError, "known[%zd] must be bytes", i);
            return false;
        }
        *bytes += (size_t)PyBytes_GET_SIZE(row);
    }
    return true;
}

static PyObject *words(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"columns", "n", "known", "grow", NULL};
    enum { COLUMNS, N, KNOWN, GROW, COUNT };
    PyObject *given[COUNT], *columns = NULL, *known = NULL, *ids = NULL, *result = NULL;
    Py_buffer views[WIDTH_MOST] = {{0}};
    struct words_column texts[WIDTH_MOST];
    Py_ssize_t n, width = 0;
    size_t known_bytes = 0, pool_room = 0, ends_room = 0, room = 0, fault = 0;
    struct words_pool pool = {NULL, NULL, 0};
    void *memory = NULL;
    int64_t *data;
    int grow = 1;
    if (!bind_arguments("words", names, 2, 2, args, nargs, kwnames, given) || !number(given[N], "n", &n) ||
        (given[GROW] && (grow = PyObject_IsTrue(given[GROW])) < 0))
        return NULL;
    if (!known_of(given[KNOWN], &known, &known_bytes) || !(columns = PySequence_List(given[COLUMNS])))
        goto done;
    if (PyList_GET_SIZE(columns) < 1 || PyList_GET_SIZE(columns) > WIDTH_MOST) {
        PyErr_Format(PyExc_ValueError, "there must be 1 to %d columns", WIDTH_MOST);
        goto done;
    }
    for (; width < PyList_GET_SIZE(columns); width++) {
        if (PyObject_GetBuffer(PyList_GET_ITEM(columns, width), &views[width], PyBUF_SIMPLE) < 0)
            goto done;
        texts[width] = (struct words_column){views[width].buf, (size_t)views[width].len};
    }
    size_t before = (size_t)PyList_GET_SIZE(known);
    ends_room = (before + (size_t)n + 1) * sizeof *pool.ends;
    pool_room = k_words_pool(texts, (size_t)width, (size_t)n, known_bytes);
    room = k_words_room((size_t)n, (size_t)PyList_GET_SIZE(known));
    ids = bind_new_ints(module, n, &data);
    memory = bind_memory(room);
    pool.text = bind_memory(pool_room);
    pool.ends = bind_memory(ends_room);
    if (!ids || !memory || !pool.text || !pool.ends) {
        if (!PyErr_Occurred())
            PyErr_NoMemory();
        goto done;
    }
    put_known(known, &pool);
    struct k_arena arena = {memory, room};
    enum k_status status;
    BIND_UNLOCKED(n >= UNLOCK_FROM, status = k_words(texts, (size_t)width, (size_t)n, grow, &pool, arena, data, &fault));
    if (status == K_INVALID) {
        PyErr_Format(PyExc_ValueError, "columns[%zu] has not %zd words", fault, n);
        goto done;
    }
    if (status != K_OK) {
        bind_failed(status, "words");
        goto done;
    }
    for (size_t i = before; i < pool.count; i++) {
        size_t from = i ? pool.ends[i - 1] : 0;
        PyObject *row = PyBytes_FromStringAndSize(pool.text + from, (Py_ssize_t)(pool.ends[i] - from));
        int put = row ? PyList_Append(known, row) : -1;
        Py_XDECREF(row);
        if (put < 0)
            goto done;
    }
    result = PyTuple_Pack(2, ids, known);
done:
    for (Py_ssize_t c = 0; c < width; c++)
        PyBuffer_Release(&views[c]);
    bind_memory_free(memory, room);
    bind_memory_free(pool.text, pool_room);
    bind_memory_free(pool.ends, ends_room);
    Py_XDECREF(columns);
    Py_XDECREF(known);
    Py_XDECREF(ids);
    return result;
}

/* ---- times ---- */

static PyObject *run_times(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"began", "ended", "epoch", NULL};
    PyObject *given[3], *end = NULL, *duration = NULL, *result = NULL;
    struct bind_column began = {0}, ended = {0};
    double epoch = 0;
    if (!bind_arguments("run_times", names, 2, 2, args, nargs, kwnames, given) || !bind_number(given[2], "epoch", &epoch))
        return NULL;
    if (!bind_ints(given[0], "began", &began) || !bind_ints(given[1], "ended", &ended) ||
        !like(&ended, "ended", began.n))
        goto done;
    end = bind_new_doubles(module, began.n);
    duration = bind_new_doubles(module, began.n);
    if (!end || !duration)
        goto done;
    BIND_UNLOCKED(began.n >= UNLOCK_FROM,
                  k_run_times((size_t)began.n, began.data, ended.data, epoch, doubles_of(end), doubles_of(duration)));
    result = PyTuple_Pack(2, end, duration);
done:
    bind_release(&began);
    bind_release(&ended);
    Py_XDECREF(end);
    Py_XDECREF(duration);
    return result;
}

/* One with its first n entries. */
static PyObject *cut_of(PyObject *view, Py_ssize_t n)
{
    return PyMemoryView_GET_BUFFER(view)->len == n * 8 ? Py_NewRef(view) : PySequence_GetSlice(view, 0, n);
}

static PyObject *by_end(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"series", "kind", "outcome_of", "end", "duration", "own", "other", NULL};
    enum { SERIES, KIND, OUTCOME, END, DURATION, OWN, OTHER, COUNT, ORDERED = 5 };
    PyObject *given[COUNT], *views[ORDERED] = {NULL}, *result = NULL;
    struct bind_column column[COUNT] = {0};
    void *memory = NULL;
    size_t room = 0;
    struct run_order into;
    if (!bind_arguments("by_end", names, COUNT, COUNT, args, nargs, kwnames, given))
        return NULL;
    for (int c = 0; c < COUNT; c++) {
        bool copied = c == KIND || c == OUTCOME, doubles = c == END || c == DURATION;
        if (!(copied ? bind_ints_copy : doubles ? bind_doubles : bind_ints)(given[c], names[c], &column[c]) ||
            (c != OUTCOME && !like(&column[c], names[c], column[SERIES].n)))
            goto done;
    }
    Py_ssize_t rows_n = column[SERIES].n;
    if (!among(&column[SERIES], "series", 0, (Py_ssize_t)1 << 60, "must be a series") ||
        !among(&column[KIND], "kind", 0, column[OUTCOME].n, "must be an index of outcome_of") ||
        !among(&column[OUTCOME], "outcome_of", -1, 4, "must be an outcome, or -1"))
        goto done;
    if (rows_n >= (Py_ssize_t)UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "there are more than 2**32 - 2 runs");
        goto done;
    }
    room = k_by_end_room((size_t)rows_n);
    memory = bind_memory(room);
    views[0] = bind_new_ints(module, rows_n, &into.key);
    views[1] = bind_new_doubles(module, rows_n);
    views[2] = bind_new_doubles(module, rows_n);
    views[3] = bind_new_ints(module, rows_n, &into.own);
    views[4] = bind_new_ints(module, rows_n, &into.other);
    if (!memory || !views[0] || !views[1] || !views[2] || !views[3] || !views[4]) {
        if (!PyErr_Occurred())
            PyErr_NoMemory();
        goto done;
    }
    into.end = doubles_of(views[1]);
    into.duration = doubles_of(views[2]);
    struct run_rows rows = {(size_t)rows_n, column[SERIES].data, column[KIND].data, column[OUTCOME].data,
                            column[END].doubles, column[DURATION].doubles, column[OWN].data, column[OTHER].data};
    struct k_arena arena = {memory, room};
    size_t n;
    BIND_UNLOCKED(rows_n >= UNLOCK_FROM, n = k_by_end(&rows, arena, &into));
    if (n == SIZE_MAX) {
        bind_failed(K_NOMEM, "by_end");
        goto done;
    }
    PyObject *cut[ORDERED];
    bool all = true;
    for (size_t i = 0; i < ORDERED; i++)
        all = (cut[i] = cut_of(views[i], (Py_ssize_t)n)) != NULL && all;
    if (all)
        result = PyTuple_Pack(ORDERED, cut[0], cut[1], cut[2], cut[3], cut[4]);
    for (size_t i = 0; i < ORDERED; i++)
        Py_XDECREF(cut[i]);
done:
    for (int c = 0; c < COUNT; c++)
        bind_release(&column[c]);
    bind_memory_free(memory, room);
    for (size_t i = 0; i < ORDERED; i++)
        Py_XDECREF(views[i]);
    return result;
}

static PyObject *hashes(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"columns", "n", NULL};
    PyObject *given[2], *columns = NULL, *result = NULL;
    Py_buffer views[WIDTH_MOST] = {{0}};
    struct words_column texts[WIDTH_MOST];
    Py_ssize_t n, width = 0;
    size_t fault = 0;
    int64_t *numbers;
    if (!bind_arguments("hashes", names, 2, 2, args, nargs, kwnames, given) || !number(given[1], "n", &n) ||
        !(columns = PySequence_List(given[0])))
        return NULL;
    if (!PyList_GET_SIZE(columns) || PyList_GET_SIZE(columns) > WIDTH_MOST) {
        PyErr_Format(PyExc_ValueError, "there must be 1 to %d columns", WIDTH_MOST);
        goto done;
    }
    for (; width < PyList_GET_SIZE(columns); width++) {
        if (PyObject_GetBuffer(PyList_GET_ITEM(columns, width), &views[width], PyBUF_SIMPLE) < 0)
            goto done;
        texts[width] = (struct words_column){views[width].buf, (size_t)views[width].len};
    }
    result = bind_new_ints(module, n, &numbers);
    if (!result)
        goto done;
    enum k_status status;
    BIND_UNLOCKED(n >= UNLOCK_FROM, status = k_hashes(texts, (size_t)width, (size_t)n, numbers, &fault));
    if (status != K_OK) {
        Py_CLEAR(result);
        PyErr_Format(PyExc_ValueError, "columns[%zu] has not %zd words", fault, n);
    }
done:
    for (Py_ssize_t c = 0; c < width; c++)
        PyBuffer_Release(&views[c]);
    Py_XDECREF(columns);
    return result;
}

static PyObject *places(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"number", "known", NULL};
    PyObject *given[2], *result = NULL;
    struct bind_column from = {0}, known = {0};
    void *memory = NULL;
    size_t room = 0;
    int64_t *at;
    if (!bind_arguments("places", names, 2, 2, args, nargs, kwnames, given))
        return NULL;
    if (!bind_ints(given[0], "number", &from) || !bind_ints_copy(given[1], "known", &known))
        goto done;
    room = k_places_room((size_t)known.n);
    memory = bind_memory(room);
    result = bind_new_ints(module, from.n, &at);
    if (!memory || !result) {
        Py_CLEAR(result);
        if (!PyErr_Occurred())
            PyErr_NoMemory();
        goto done;
    }
    struct k_arena arena = {memory, room};
    bool done_all;
    BIND_UNLOCKED(from.n >= UNLOCK_FROM,
                  done_all = k_places(from.data, (size_t)from.n, known.data, (size_t)known.n, arena, at));
    if (!done_all) {
        Py_CLEAR(result);
        bind_failed(K_NOMEM, "places");
    }
done:
    bind_release(&from);
    bind_release(&known);
    bind_memory_free(memory, room);
    return result;
}

static PyObject *repeats(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"key", "ended", "own", "other", "reference", "half_life", "penalty", NULL};
    PyObject *given[7], *result = NULL;
    struct bind_column key = {0}, ended = {0}, own = {0}, other = {0};
    struct repeat_rule rule = {0.0, 1.0, 0.0};
    void *memory = NULL;
    size_t room = 0;
    if (!bind_arguments("repeats", names, 4, 4, args, nargs, kwnames, given) ||
        !bind_number(given[4], "reference", &rule.reference) || !bind_number(given[5], "half_life", &rule.half_life) ||
        !bind_number(given[6], "penalty", &rule.penalty))
        return NULL;
    if (!(rule.half_life > 0)) {
        PyErr_SetString(PyExc_ValueError, "half_life must be positive");
        return NULL;
    }
    if (!bind_ints(given[0], "key", &key) || !bind_doubles(given[1], "ended", &ended) ||
        !bind_ints_copy(given[2], "own", &own) || !bind_ints_copy(given[3], "other", &other) ||
        !like(&ended, "ended", key.n) || !like(&own, "own", key.n) || !like(&other, "other", key.n))
        goto done;
    room = k_repeats_room((size_t)key.n, own.data, other.data);
    memory = bind_memory(room);
    result = bind_new_doubles(module, key.n);
    if (!memory || !result) {
        Py_CLEAR(result);
        if (!PyErr_Occurred())
            PyErr_NoMemory();
        goto done;
    }
    struct k_arena arena = {memory, room};
    bool done_all;
    BIND_UNLOCKED(key.n >= UNLOCK_FROM, done_all = k_repeats((size_t)key.n, key.data, ended.doubles, own.data, other.data,
                                                            &rule, arena, doubles_of(result)));
    if (!done_all) {
        Py_CLEAR(result);
        bind_failed(K_NOMEM, "repeats");
    }
done:
    bind_release(&key);
    bind_release(&ended);
    bind_release(&own);
    bind_release(&other);
    bind_memory_free(memory, room);
    return result;
}

static PyObject *superseded(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"key", NULL};
    PyObject *given[1], *view = NULL, *result = NULL;
    struct bind_column key = {0};
    void *memory = NULL;
    size_t room = 0;
    int64_t *found;
    if (!bind_arguments("superseded", names, 1, 1, args, nargs, kwnames, given) || !bind_ints_copy(given[0], "key", &key))
        return NULL;
    room = k_superseded_room((size_t)key.n);
    memory = bind_memory(room);
    view = bind_new_ints(module, key.n, &found);
    if (!memory || !view) {
        if (!PyErr_Occurred())
            PyErr_NoMemory();
        goto done;
    }
    size_t n;
    struct k_arena arena = {memory, room};
    BIND_UNLOCKED(key.n >= UNLOCK_FROM, n = k_superseded(key.data, (size_t)key.n, arena, found));
    if (n == SIZE_MAX)
        bind_failed(K_NOMEM, "superseded");
    else
        result = bind_list(found, (Py_ssize_t)n);
done:
    bind_release(&key);
    bind_memory_free(memory, room);
    Py_XDECREF(view);
    return result;
}

static PyObject *members(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"group", "wanted", NULL};
    PyObject *given[2], *view = NULL, *result = NULL;
    struct bind_column group = {0};
    Py_buffer wanted = {0};
    int64_t *found;
    if (!bind_arguments("members", names, 2, 2, args, nargs, kwnames, given) ||
        PyObject_GetBuffer(given[1], &wanted, PyBUF_SIMPLE) < 0)
        return NULL;
    if (!bind_ints_copy(given[0], "group", &group) || !among(&group, "group", 0, wanted.len, "must be a group"))
        goto done;
    view = bind_new_ints(module, group.n + 1, &found);
    if (view)
        result = bind_list(found, (Py_ssize_t)k_members(group.data, (size_t)group.n, wanted.buf, found));
done:
    bind_release(&group);
    PyBuffer_Release(&wanted);
    Py_XDECREF(view);
    return result;
}

static PyObject *tally(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"group", "kind", "value", "groups", "kinds", NULL};
    PyObject *given[5], *result = NULL;
    struct bind_column group = {0}, kind = {0}, value = {0};
    Py_ssize_t groups, kinds;
    if (!bind_arguments("tally", names, 5, 5, args, nargs, kwnames, given) || !number(given[3], "groups", &groups) ||
        !number(given[4], "kinds", &kinds))
        return NULL;
    if (!bind_ints_copy(given[0], "group", &group) || !bind_ints_copy(given[1], "kind", &kind) ||
        !bind_doubles(given[2], "value", &value) || !like(&kind, "kind", group.n) || !like(&value, "value", group.n) ||
        !among(&group, "group", -1, groups, "must be a group, or -1") || !among(&kind, "kind", 0, kinds, "must be a kind"))
        goto done;
    if (groups && kinds > PY_SSIZE_T_MAX / (8 * TALLY_FIELDS) / groups) {
        PyErr_NoMemory();
        goto done;
    }
    result = bind_new_doubles(module, TALLY_FIELDS * groups * kinds);
    if (!result)
        goto done;
    BIND_UNLOCKED(group.n >= UNLOCK_FROM, k_tally((size_t)group.n, group.data, kind.data, value.doubles, (size_t)groups,
                                                 (size_t)kinds, doubles_of(result)));
done:
    bind_release(&group);
    bind_release(&kind);
    bind_release(&value);
    return result;
}

#define FAST(function) (PyCFunction)(void (*)(void))(function), METH_FASTCALL | METH_KEYWORDS

PyMethodDef bind_runs_methods[] = {
    {"words", FAST(words), PyDoc_STR("words($module, columns, n, *, known=(), grow=True)\n--\n\nNumbers of rows of words.")},
    {"run_times", FAST(run_times), PyDoc_STR("run_times($module, began, ended, *, epoch=0.0)\n--\n\nEnds and durations.")},
    {"by_end", FAST(by_end),
     PyDoc_STR("by_end($module, series, kind, outcome_of, end, duration, own, other)\n--\n\nRuns in the order of their ends.")},
    {"hashes", FAST(hashes), PyDoc_STR("hashes($module, columns, n)\n--\n\nA number for each row of words.")},
    {"places", FAST(places), PyDoc_STR("places($module, number, known)\n--\n\nWhere numbers are among others.")},
    {"repeats", FAST(repeats),
     PyDoc_STR("repeats($module, key, ended, own, other, *, reference=0.0, half_life=1.0, penalty=0.0)\n--\n\n"
               "What failures weigh less that repeat one.")},
    {"superseded", FAST(superseded), PyDoc_STR("superseded($module, key)\n--\n\nThose that come once more behind.")},
    {"members", FAST(members), PyDoc_STR("members($module, group, wanted)\n--\n\nThose of wanted groups.")},
    {"tally", FAST(tally), PyDoc_STR("tally($module, group, kind, value, groups, kinds)\n--\n\nCounts and sums.")},
    {NULL, NULL, 0, NULL},
};

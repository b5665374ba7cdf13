/* Ranking and bulk packing as Python functions. */
#include "bind.h"

#include "core/pack.h"
#include "core/score.h"

#define UNLOCK_FROM 4096 /* rows from which the GIL is released */

enum { VALUE, PROBABILITY, DURATION, RUNS, CODEBASE, COLUMNS, OFFSET = COLUMNS, BONUS, COST, TWICE, OUT, SIMD, ARGUMENTS };

static PyObject *score(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"value", "probability", "duration_us", "previous_runs", "codebase_value", "default_offset",
                                        "first_run_bonus", "minimum_cost_ms", "subsecond_twice", "out", "_simd", NULL};
    PyObject *given[ARGUMENTS], *result = NULL;
    struct bind_column column[COLUMNS] = {0};
    struct score_rule rule = {100.0, 20000.0, 0.0, false, k_simd_best()};
    Py_buffer out = {0};
    if (!bind_arguments("score", names, COLUMNS, 3, args, nargs, kwnames, given) ||
        !bind_number(given[OFFSET], "default_offset", &rule.default_offset) || !bind_number(given[BONUS], "first_run_bonus", &rule.first_run_bonus) ||
        !bind_number(given[COST], "minimum_cost_ms", &rule.minimum_cost_ms))
        return NULL;
    if (given[TWICE]) {
        int twice = PyObject_IsTrue(given[TWICE]);
        if (twice < 0)
            return NULL;
        rule.subsecond_twice = twice;
    }
    if (given[SIMD]) { /* for tests: a lesser variant than the best */
        long simd = PyLong_AsLong(given[SIMD]);
        if (simd < 0 || simd > (long)k_simd_best())
            return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_ValueError, "this CPU has variants up to %d", (int)k_simd_best());
        rule.simd = (enum k_simd)simd;
    }
    for (int c = 0; c < COLUMNS; c++) {
        if (given[c] && !bind_doubles(given[c], names[c], &column[c]))
            goto done;
        if (given[c] && column[c].n != column[VALUE].n) {
            PyErr_Format(PyExc_ValueError, "%s has %zd entries, value %zd", names[c], column[c].n, column[VALUE].n);
            goto done;
        }
    }
    Py_ssize_t n = column[VALUE].n;
    if (given[OUT]) {
        if (!bind_writable(given[OUT], "d", n, &out))
            goto done;
        result = Py_NewRef(given[OUT]);
    } else {
        result = bind_new_doubles(module, n);
        if (!result || PyObject_GetBuffer(result, &out, PyBUF_WRITABLE | PyBUF_ND | PyBUF_FORMAT) < 0) {
            Py_CLEAR(result);
            goto done;
        }
    }
    for (int c = 0; c < COLUMNS; c++) {
        uintptr_t from = (uintptr_t)out.buf, into = (uintptr_t)column[c].doubles, size = (uintptr_t)n * 8;
        if (into && from < into + size && into < from + size) {
            PyErr_Format(PyExc_ValueError, "out shares memory with %s: give it its own", names[c]);
            Py_CLEAR(result);
            goto done;
        }
    }
    struct score_columns columns = {(size_t)n, column[VALUE].doubles, column[PROBABILITY].doubles, column[DURATION].doubles,
                                    column[RUNS].doubles, column[CODEBASE].doubles};
    BIND_UNLOCKED(n >= UNLOCK_FROM, k_score(&columns, &rule, out.buf));
done:
    for (int c = 0; c < COLUMNS; c++)
        bind_release(&column[c]);
    if (out.obj)
        PyBuffer_Release(&out);
    return result;
}

static PyObject *top_k(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    (void)module;
    static const char *const names[] = {"scores", "k", NULL};
    PyObject *given[2], *result = NULL;
    struct bind_column scores;
    void *memory = NULL;
    int64_t *index = NULL;
    if (!bind_arguments("top_k", names, 2, 2, args, nargs, kwnames, given))
        return NULL;
    Py_ssize_t k = PyNumber_AsSsize_t(given[1], PyExc_OverflowError);
    if (k == -1 && PyErr_Occurred())
        return NULL;
    if (k < 0)
        return PyErr_Format(PyExc_ValueError, "k is %zd: must not be negative", k);
    if (!bind_doubles(given[0], "scores", &scores))
        return NULL;
    if (scores.n >= (Py_ssize_t)UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "scores has more than 2**32 - 2 entries");
        goto done;
    }
    size_t n = (size_t)scores.n, most = k < scores.n ? (size_t)k : n, room = k_top_room(n, most), count;
    memory = PyMem_RawMalloc(room);
    index = PyMem_RawMalloc((most + 1) * sizeof *index);
    if (!memory || !index) {
        PyErr_NoMemory();
        goto done;
    }
    struct k_arena arena = {memory, room};
    BIND_UNLOCKED(n >= UNLOCK_FROM, count = k_top(n, scores.doubles, most, arena, index));
    result = bind_list(index, (Py_ssize_t)count);
done:
    bind_release(&scores);
    PyMem_RawFree(memory);
    PyMem_RawFree(index);
    return result;
}

/* Refused, told by a placement of the same tasks: this is the way that may be slow. */
static PyObject *tell_refusal(PyObject *module, PyObject *wcet, PyObject *period, Py_ssize_t cpus)
{
    struct kernel_state *state = PyModule_GetState(module);
    PyObject *zero = PyLong_FromLong(0), *one = PyList_New(0), *node = NULL, *placement = NULL, *result = NULL;
    if (zero && one && PyList_Append(one, zero) == 0)
        node = PySequence_Repeat(one, cpus);
    if (node)
        placement = PyObject_CallOneArg(state->placement[0], node);
    if (placement)
        result = PyObject_CallMethodObjArgs(placement, state->place, wcet, period, NULL);
    Py_XDECREF(zero);
    Py_XDECREF(one);
    Py_XDECREF(node);
    Py_XDECREF(placement);
    return result;
}

static PyObject *best_fit(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"wcet", "period", "cpus", "out", NULL};
    PyObject *given[4], *result = NULL;
    struct bind_column wcet = {0}, period = {0};
    Py_buffer out = {0};
    void *memory = NULL;
    size_t room = 0;
    int64_t *own = NULL;
    if (!bind_arguments("best_fit", names, 3, 3, args, nargs, kwnames, given))
        return NULL;
    Py_ssize_t cpus = PyNumber_AsSsize_t(given[2], PyExc_OverflowError);
    if (cpus == -1 && PyErr_Occurred())
        return NULL;
    if (cpus < 0 || cpus >= (Py_ssize_t)UINT32_MAX / 4)
        return PyErr_Format(PyExc_ValueError, "cpus is %zd: must be between 0 and %u", cpus, UINT32_MAX / 4 - 1);
    if (!bind_ints_copy(given[0], "wcet", &wcet) || !bind_ints_copy(given[1], "period", &period))
        goto done;
    Py_ssize_t n = wcet.n;
    if (period.n != n) {
        PyErr_Format(PyExc_ValueError, "period has %zd entries, wcet %zd", period.n, n);
        goto done;
    }
    if (n >= (Py_ssize_t)UINT32_MAX / 4) {
        PyErr_SetString(PyExc_ValueError, "too many tasks");
        goto done;
    }
    for (Py_ssize_t i = 0; i < n; i++)
        if (wcet.data[i] < 1 || period.data[i] < 1) {
            bool first = wcet.data[i] < 1;
            bind_invalid(first ? "wcet" : "period", i, first ? wcet.data[i] : period.data[i], "must be at least 1");
            goto done;
        }
    if (given[3] && !bind_writable(given[3], "ql", n, &out))
        goto done;
    size_t failed;
    room = pack_room((size_t)n, (size_t)cpus);
    memory = bind_memory(room);
    own = given[3] ? NULL : PyMem_RawMalloc((size_t)(n ? n : 1) * sizeof *own);
    if (!memory || (!own && !given[3])) {
        PyErr_NoMemory();
        goto done;
    }
    struct k_arena arena = {memory, room};
    enum k_status status;
    int64_t *cpu = own ? own : out.buf;
    BIND_UNLOCKED(n >= 64, status = pack_best_fit((size_t)n, wcet.data, period.data, (size_t)cpus, arena, cpu, &failed));
    if (status != K_OK)
        bind_failed(status, "best_fit");
    else if (failed != PACK_DONE)
        result = tell_refusal(module, given[0], given[1], cpus);
    else
        result = own ? bind_index_list(own, n, cpus) : Py_NewRef(given[3]);
done:
    bind_release(&wcet);
    bind_release(&period);
    if (out.obj)
        PyBuffer_Release(&out);
    bind_memory_free(memory, room);
    PyMem_RawFree(own);
    return result;
}

#define FAST(function) (PyCFunction)(void (*)(void))function, METH_FASTCALL | METH_KEYWORDS

PyMethodDef bind_score_methods[] = {
    {"score", FAST(score),
     PyDoc_STR("score($module, value, probability, duration_us, previous_runs=None, codebase_value=None, *, default_offset=0.0, "
               "first_run_bonus=100.0, minimum_cost_ms=20000.0, subsecond_twice=False, out=None)\n--\n\nOffsets of candidates: lower is better.")},
    {"top_k", FAST(top_k), PyDoc_STR("top_k($module, scores, k)\n--\n\nThe indices of the k smallest, best first.")},
    {"best_fit", FAST(best_fit), PyDoc_STR("best_fit($module, wcet, period, cpus, *, out=None)\n--\n\nBest-fit by utilisation on equal CPUs.")},
    {NULL, NULL, 0, NULL},
};

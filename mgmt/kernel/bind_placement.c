/* Placement and ranking as Python functions. */
#include "bind.h"

#include <string.h>

#include "core/compat.h"

static bool words_of_buffer(PyObject *from, const char *name, struct bind_column *column)
{
    Py_buffer view;
    if (PyObject_GetBuffer(from, &view, PyBUF_ND | PyBUF_FORMAT) < 0)
        return false;
    const char *format = view.format ? view.format : "B";
    bool is_words = view.ndim == 1 && view.itemsize == 8 && strchr("QLN", format[0]) && !format[1];
    if (is_words) {
        column->n = view.len / 8;
        column->owned = PyMem_Malloc((size_t)(view.len ? view.len : 1));
        if (column->owned && view.len)
            memcpy(column->owned, view.buf, (size_t)view.len);
        if (!column->owned)
            PyErr_NoMemory();
    }
    PyBuffer_Release(&view);
    if (!is_words && !bind_ints_copy(from, name, column))
        return false;
    column->data = column->owned;
    for (Py_ssize_t i = 0; !is_words && i < column->n; i++)
        if (column->data[i] < 0) {
            PyErr_Format(PyExc_OverflowError, "%s[%zd] is not between 0 and 2**64 - 1", name, i);
            bind_release(column);
            return false;
        }
    return column->owned != NULL;
}

/* A column of uint64: a buffer of that type, or anything bind_ints takes that is not negative, or a sequence
 * of integers up to 2^64 - 1. Always a copy: period is a divisor. */
static bool bind_words(PyObject *from, const char *name, struct bind_column *column)
{
    memset(column, 0, sizeof *column);
    if (!PyList_CheckExact(from) && !PyTuple_CheckExact(from) && PyObject_CheckBuffer(from))
        return words_of_buffer(from, name, column);
    PyObject *items = PySequence_Fast(from, "");
    if (!items) {
        PyErr_Format(PyExc_TypeError, "%s is %.80s: give a sequence or a buffer of numbers", name, Py_TYPE(from)->tp_name);
        return false;
    }
    column->n = PySequence_Fast_GET_SIZE(items);
    uint64_t *out = column->owned = PyMem_Malloc((size_t)(column->n ? column->n : 1) * sizeof *out);
    bool fine = out != NULL;
    if (!fine)
        PyErr_NoMemory();
    for (Py_ssize_t i = 0; fine && i < column->n; i++) {
        PyObject *item = PySequence_Fast_GET_ITEM(items, i);
        if (!PyLong_Check(item)) {
            PyErr_Format(PyExc_ValueError, "%s[%zd] is not an integer", name, i);
            fine = false;
            break;
        }
        out[i] = PyLong_AsUnsignedLongLong(item);
        if (out[i] == (uint64_t)-1 && PyErr_Occurred()) {
            PyErr_Clear();
            PyErr_Format(PyExc_OverflowError, "%s[%zd] is not between 0 and 2**64 - 1", name, i);
            fine = false;
        }
    }
    Py_DECREF(items);
    if (!fine)
        bind_release(column);
    column->data = column->owned;
    return fine;
}

static bool same_length(const struct bind_column *column, const char *name, Py_ssize_t n, const char *other)
{
    if (column->n == n)
        return true;
    PyErr_Format(PyExc_ValueError, "%s has %zd entries, %s %zd", name, column->n, other, n);
    return false;
}

/* offset[0] is 0, never falls, and ends at the number of CPUs. */
static bool are_offsets(const struct bind_column *offset, Py_ssize_t cpus)
{
    if (offset->n < 1) {
        PyErr_SetString(PyExc_ValueError, "node_offset is empty: it starts with 0 and ends with the number of CPUs");
        return false;
    }
    for (Py_ssize_t k = 0; k < offset->n; k++) {
        int64_t least = k ? offset->data[k - 1] : 0, most = k ? cpus : 0;
        if (offset->data[k] < least || offset->data[k] > most || (k == offset->n - 1 && offset->data[k] != cpus)) {
            bind_invalid("node_offset", k, offset->data[k], "it starts with 0, never falls and ends with the number of CPUs");
            return false;
        }
    }
    return true;
}

enum compat_algorithm { TARGET_NODE_PRIORITY, BEST_FIT_DECREASING, LEAST_LOADED };

enum compat_argument { PERIOD, RUNTIME, MEMORY, TARGET, AFFINITY, NODE_OFFSET, NODE_CPU, NODE_MEMORY, ARGUMENTS };
static const char *const compat_names[] = {"period", "runtime", "memory", "target", "affinity", "node_offset", "node_cpu", "node_memory"};

/* The three functions differ in which of the columns they take, given by `used` in the order of the arguments. */
static PyObject *compat(enum compat_algorithm algorithm, const char *function, const enum compat_argument *used, int count,
                        PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    const char *names[ARGUMENTS + 1] = {0};
    PyObject *given[ARGUMENTS], *result = NULL;
    struct bind_column column[ARGUMENTS] = {0};
    void *memory = NULL;
    int64_t *node = NULL;
    for (int a = 0; a < count; a++)
        names[a] = compat_names[used[a]];
    if (!bind_arguments(function, names, count, count, args, nargs, kwnames, given))
        return NULL;
    for (int a = 0; a < count; a++)
        if (!(used[a] <= RUNTIME ? bind_words : bind_ints_copy)(given[a], names[a], &column[used[a]]))
            goto out;
    Py_ssize_t n = column[PERIOD].n, nodes = column[NODE_OFFSET].n - 1;
    for (int a = 1; a < count; a++)
        if (used[a] < NODE_OFFSET && !same_length(&column[used[a]], names[a], n, "period"))
            goto out;
    if (!are_offsets(&column[NODE_OFFSET], column[NODE_CPU].n))
        goto out;
    if (algorithm != TARGET_NODE_PRIORITY && !same_length(&column[NODE_MEMORY], "node_memory", nodes, "the nodes of node_offset"))
        goto out;
    if (n >= UINT32_MAX || column[NODE_CPU].n >= UINT32_MAX || nodes >= UINT32_MAX) {
        PyErr_Format(PyExc_ValueError, "%s: more than 2**32 - 2 tasks, CPUs or nodes", function);
        goto out;
    }
    for (Py_ssize_t i = 0; algorithm != LEAST_LOADED && i < n; i++)
        if (column[TARGET].data[i] >= nodes) {
            bind_invalid("target", i, column[TARGET].data[i], "no such node");
            goto out;
        }
    struct compat_tasks tasks = {
        (size_t)n, column[PERIOD].owned, column[RUNTIME].owned,
        column[MEMORY].data, column[TARGET].data, column[AFFINITY].data,
    };
    struct compat_nodes on = {(size_t)nodes, column[NODE_OFFSET].data, column[NODE_CPU].data, column[NODE_MEMORY].data};
    size_t room = compat_room(tasks.n, on.n, (size_t)column[NODE_CPU].n);
    memory = PyMem_RawMalloc(room);
    node = PyMem_RawMalloc((size_t)(n ? n : 1) * 2 * sizeof *node);
    if (!memory || !node) {
        PyErr_NoMemory();
        goto out;
    }
    struct k_arena arena = {memory, room};
    enum k_status status;
    BIND_UNLOCKED(n + nodes > 100,
                  status = (algorithm == TARGET_NODE_PRIORITY   ? compat_target_node_priority
                            : algorithm == BEST_FIT_DECREASING ? compat_best_fit_decreasing
                                                               : compat_least_loaded)(&tasks, &on, arena, node, node + n));
    if (status != K_OK) {
        bind_failed(status, function);
        goto out;
    }
    PyObject *node_list = bind_index_list(node, n, nodes), *cpu_list = bind_list(node + n, n);
    if (node_list && cpu_list)
        result = PyTuple_Pack(2, node_list, cpu_list);
    Py_XDECREF(node_list);
    Py_XDECREF(cpu_list);
out:
    for (int a = 0; a < ARGUMENTS; a++)
        bind_release(&column[a]);
    PyMem_RawFree(memory);
    PyMem_RawFree(node);
    return result;
}

#define COMPAT(function, algorithm, ...)                                                                        \
    static PyObject *function(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)     \
    {                                                                                                           \
        (void)module;                                                                                           \
        static const enum compat_argument used[] = {__VA_ARGS__};                                               \
        return compat(algorithm, #function, used, sizeof used / sizeof *used, args, nargs, kwnames);            \
    }

COMPAT(compat_target_node_priority_, TARGET_NODE_PRIORITY, PERIOD, RUNTIME, TARGET, AFFINITY, NODE_OFFSET, NODE_CPU)
COMPAT(compat_best_fit_decreasing_, BEST_FIT_DECREASING, PERIOD, RUNTIME, MEMORY, TARGET, AFFINITY, NODE_OFFSET, NODE_CPU, NODE_MEMORY)
COMPAT(compat_least_loaded_, LEAST_LOADED, PERIOD, RUNTIME, MEMORY, AFFINITY, NODE_OFFSET, NODE_CPU, NODE_MEMORY)

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static PyObject *compat_hyperperiod_(PyObject *module, PyObject *periods)
{
    (void)module;
    struct bind_column column;
    if (!bind_words(periods, "periods", &column))
        return NULL;
    uint64_t *period = column.owned;
    size_t n = 0;
    qsort(period, (size_t)column.n, sizeof *period, ascending);
    for (Py_ssize_t i = 0; i < column.n; i++)
        if (period[i] && (!n || period[i] != period[n - 1]))
            period[n++] = period[i];
    uint64_t h = compat_hyperperiod(period, n);
    bind_release(&column);
    return PyLong_FromUnsignedLongLong(h);
}

#define FAST(name, function, doc) {name, (PyCFunction)(void (*)(void))function, METH_FASTCALL | METH_KEYWORDS, doc}

PyMethodDef bind_placement_methods[] = {
    FAST("compat_target_node_priority", compat_target_node_priority_,
         "compat_target_node_priority(period, runtime, target, affinity, node_offset, node_cpu)\n--\n\n"
         "Each task on its target node: (node, cpu) per task; a node with CPU -1 is a phantom."),
    FAST("compat_best_fit_decreasing", compat_best_fit_decreasing_,
         "compat_best_fit_decreasing(period, runtime, memory, target, affinity, node_offset, node_cpu, node_memory)\n--\n\n"
         "Longest runtime first on the fullest node within 1.0: (node, cpu) per task; -1: dropped."),
    FAST("compat_least_loaded", compat_least_loaded_,
         "compat_least_loaded(period, runtime, memory, affinity, node_offset, node_cpu, node_memory)\n--\n\n"
         "Input order on the emptiest node below 1.0: (node, cpu) per task; -1: dropped."),
    {"compat_hyperperiod", compat_hyperperiod_, METH_O,
     "compat_hyperperiod(periods)\n--\n\nLeast common multiple of the distinct non-zero periods modulo 2**64; 0 for none."},
    {NULL, NULL, 0, NULL},
};

int bind_placement_exec(PyObject *module)
{
    return bind_strict_exec(module);
}

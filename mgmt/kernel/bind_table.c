/* Time-triggered tables as Python functions. */
#include "bind.h"

#include "core/analysis.h"
#include "core/table.h"

static const char *const table_names[] = {"wcet", "period", "deadline", "offset", "precedence", NULL};
static const char *const fault_names[] = {"table", "wcet", "period", "deadline", "offset", "precedence", NULL};

/* Tasks as read from Python, and memory for the work on them. */
struct reading {
    struct bind_column columns[4];
    int64_t *edges;
    struct k_table_tasks tasks;
    struct k_arena arena;
    void *memory;
};

static void reading_end(struct reading *r)
{
    for (int c = 0; c < 4; c++)
        bind_release(&r->columns[c]);
    PyMem_Free(r->edges);
    PyMem_Free(r->memory);
}

/* An iterable of pairs (before, after). */
static bool read_edges(struct reading *r, PyObject *from)
{
    PyObject *list = PySequence_List(from); /* our own: what an element runs cannot change it */
    if (!list) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Clear();
            PyErr_Format(PyExc_TypeError, "precedence is %.80s: give pairs (before, after) of task indices", Py_TYPE(from)->tp_name);
        }
        return false;
    }
    const size_t count = (size_t)PyList_GET_SIZE(list);
    bool fine = true;
    if (!(r->edges = PyMem_Malloc((2 * count + 1) * sizeof *r->edges))) {
        PyErr_NoMemory();
        fine = false;
    }
    for (size_t e = 0; fine && e < count; e++) {
        PyObject *pair = PySequence_Tuple(PyList_GET_ITEM(list, (Py_ssize_t)e));
        fine = pair && PyTuple_GET_SIZE(pair) == 2;
        for (size_t side = 0; fine && side < 2; side++) {
            PyObject *item = PyTuple_GET_ITEM(pair, (Py_ssize_t)side);
            r->edges[side * count + e] = PyIndex_Check(item) ? PyNumber_AsSsize_t(item, NULL) : -1;
            fine = !PyErr_Occurred();
        }
        if (!pair && PyErr_ExceptionMatches(PyExc_TypeError))
            PyErr_Clear();
        if (!fine && !PyErr_Occurred())
            PyErr_Format(PyExc_ValueError, "precedence[%zu] is not a pair (before, after)", e);
        Py_XDECREF(pair);
    }
    Py_DECREF(list);
    r->tasks.edges = count;
    r->tasks.before = r->edges;
    r->tasks.after = r->edges + count;
    return fine;
}

static void refuse(const struct reading *r, enum k_table_input input, size_t index)
{
    static const char *const rules[] = {"", "must be at least 1", "must be at least 1", "must be from 1 to the period",
                                        "must be from 0 to below the period"};
    const size_t count = r->tasks.edges;
    switch (input) {
    case K_TABLE_FINE:
        break;
    case K_TABLE_EDGE:
        PyErr_Format(PyExc_ValueError, "precedence[%zu] names a task that is not there", index);
        break;
    case K_TABLE_EDGE_PERIODS:
        PyErr_Format(PyExc_ValueError, "precedence[%zu] joins tasks %lld and %lld, whose periods differ: only jobs of equal periods can wait for each other",
                     index, (long long)r->edges[index], (long long)r->edges[count + index]);
        break;
    case K_TABLE_CYCLE:
        PyErr_Format(PyExc_ValueError, "precedence is a cycle: task %zu waits for itself", index);
        break;
    case K_TABLE_WCET:
    case K_TABLE_PERIOD:
    case K_TABLE_DEADLINE:
    case K_TABLE_OFFSET:
        bind_invalid(table_names[input - K_TABLE_WCET], (Py_ssize_t)index, r->columns[input - K_TABLE_WCET].data[index], rules[input]);
        break;
    }
}

/* False with an exception and nothing to end. */
static bool reading_begin(struct reading *r, PyObject *const *given)
{
    memset(r, 0, sizeof *r);
    for (int c = 0; c < 4; c++) {
        if (!given[c])
            continue;
        if (!bind_ints_copy(given[c], table_names[c], &r->columns[c]))
            goto failed;
        if (r->columns[c].n != r->columns[0].n) {
            PyErr_Format(PyExc_ValueError, "%s has %zd values, wcet has %zd: one of each for every task",
                         table_names[c], r->columns[c].n, r->columns[0].n);
            goto failed;
        }
    }
    r->tasks.n = (size_t)r->columns[0].n;
    r->tasks.wcet = r->columns[0].data;
    r->tasks.period = r->columns[1].data;
    r->tasks.deadline = r->columns[2].data;
    r->tasks.offset = r->columns[3].data;
    if (given[4] && !read_edges(r, given[4]))
        goto failed;
    r->arena.left = k_table_room(r->tasks.n, r->tasks.edges);
    r->arena.at = r->memory = PyMem_Malloc(r->arena.left);
    if (!r->memory) {
        PyErr_NoMemory();
        goto failed;
    }
    size_t index;
    enum k_table_input input = k_table_check_input(&r->tasks, r->arena, &index);
    if (input == K_TABLE_FINE)
        return true;
    refuse(r, input, index);
failed:
    reading_end(r);
    return false;
}

static PyObject *table(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    struct kernel_state *state = PyModule_GetState(module);
    PyObject *given[5], *bytes[3] = {NULL}, *result = NULL;
    struct reading r;
    if (!bind_arguments("table", table_names, 3, 3, args, nargs, kwnames, given) || !reading_begin(&r, given))
        return NULL;
    int64_t hyperperiod, jobs;
    if (k_table_size(&r.tasks, &hyperperiod, &jobs) != K_OK) {
        PyErr_Format(PyExc_OverflowError, "the table would hold more than %lld jobs or pass 64 bits: choose periods that divide each other",
                     (long long)K_TABLE_JOBS);
        goto done;
    }
    struct k_slices slices = {0};
    int64_t **columns[] = {&slices.start, &slices.end, &slices.task};
    for (int c = 0; c < 3; c++) { /* memory that is not written is not there yet */
        if (!(bytes[c] = PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)(2 * jobs * (int64_t)sizeof(int64_t)))))
            goto done;
        *columns[c] = (int64_t *)(void *)PyByteArray_AS_STRING(bytes[c]);
    }
    struct k_table_miss miss = {0};
    enum k_status status;
    BIND_UNLOCKED(jobs >= 64, status = k_table_make(&r.tasks, hyperperiod, r.arena, &slices, &miss));
    if (status != K_OK) {
        bind_failed(status, "table");
    } else if (miss.found) {
        PyObject *error = PyObject_CallFunction(state->infeasible, "nL", (Py_ssize_t)miss.task, (long long)miss.job);
        if (error)
            PyErr_SetObject(state->infeasible, error);
        Py_XDECREF(error);
    } else {
        PyObject *views[3] = {NULL};
        for (int c = 0; c < 3; c++)
            if (!(views[c] = bind_view(module, bytes[c], (Py_ssize_t)slices.count)))
                break;
        if (views[2])
            result = PyObject_CallFunction(state->table, "LOOO", (long long)hyperperiod, views[0], views[1], views[2]);
        for (int c = 0; c < 3; c++)
            Py_XDECREF(views[c]);
    }
done:
    for (int c = 0; c < 3; c++)
        Py_XDECREF(bytes[c]);
    reading_end(&r);
    return result;
}

static PyObject *table_fault(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const rules[] = {"", "hyperperiod", "slice", "overlap", "split", "window", "work", "order"};
    static const char *const slice_names[] = {"start", "end", "task"};
    struct kernel_state *state = PyModule_GetState(module);
    PyObject *given[6], *fields = NULL, *result = NULL;
    struct reading r;
    struct bind_column columns[3];
    memset(columns, 0, sizeof columns);
    if (!bind_arguments("table_fault", fault_names, 4, 4, args, nargs, kwnames, given) || !reading_begin(&r, given + 1))
        return NULL;
    if (!(fields = PySequence_Tuple(given[0])) || PyTuple_GET_SIZE(fields) != 4) {
        PyErr_Clear();
        PyErr_SetString(PyExc_TypeError, "table must be (hyperperiod, start, end, task)");
        goto done;
    }
    const long long hyperperiod = PyLong_AsLongLong(PyTuple_GET_ITEM(fields, 0));
    if (hyperperiod == -1 && PyErr_Occurred())
        goto done;
    for (int c = 0; c < 3; c++) {
        /* Borrowed: a slice that changes meanwhile may change the verdict, but each value is read once. */
        if (!bind_ints(PyTuple_GET_ITEM(fields, c + 1), slice_names[c], &columns[c]))
            goto done;
        if (columns[c].n != columns[0].n) {
            PyErr_Format(PyExc_ValueError, "%s has %zd values, start has %zd", slice_names[c], columns[c].n, columns[0].n);
            goto done;
        }
    }
    /* The validator only reads. */
    const struct k_slices slices = {(int64_t *)(uintptr_t)columns[0].data, (int64_t *)(uintptr_t)columns[1].data,
                                    (int64_t *)(uintptr_t)columns[2].data, (size_t)columns[0].n};
    enum k_table_fault fault;
    size_t slice, task;
    enum k_status status;
    BIND_UNLOCKED(slices.count >= 256, status = k_table_verify(&r.tasks, hyperperiod, &slices, r.arena, &fault, &slice, &task));
    if (status != K_OK)
        bind_failed(status, "table_fault");
    else if (fault == K_SOUND)
        result = Py_NewRef(Py_None);
    else
        result = PyObject_CallFunction(state->table_fault, "snn", rules[fault], (Py_ssize_t)slice, (Py_ssize_t)task);
done:
    Py_XDECREF(fields);
    for (int c = 0; c < 3; c++)
        bind_release(&columns[c]);
    reading_end(&r);
    return result;
}

#define FAST(function) (PyCFunction)(void (*)(void))(function), METH_FASTCALL | METH_KEYWORDS

PyMethodDef bind_table_methods[] = {
    {"table", FAST(table), PyDoc_STR("table($module, wcet, period, deadline, *, offset=None, precedence=None)\n--\n\n")},
    {"table_fault", FAST(table_fault),
     PyDoc_STR("table_fault($module, table, wcet, period, deadline, *, offset=None, precedence=None)\n--\n\n")},
    {NULL, NULL, 0, NULL},
};

int bind_table_exec(PyObject *module)
{
    struct kernel_state *state = PyModule_GetState(module);
    PyObject *tables = PyImport_ImportModule("mgmt.kernel.tables");
    if (!tables)
        return -1;
    state->table = PyObject_GetAttrString(tables, "Table");
    state->table_fault = PyObject_GetAttrString(tables, "TableFault");
    state->infeasible = PyObject_GetAttrString(tables, "Infeasible");
    Py_DECREF(tables);
    return state->table && state->table_fault && state->infeasible ? 0 : -1;
}

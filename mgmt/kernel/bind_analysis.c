/* The analyses as Python functions. */
#include "bind.h"

#include "core/analysis.h"

static const char *const column_names[] = {"wcet", "period", "deadline", "jitter", "blocking", NULL};
static const char *const edf_names[] = {"wcet", "period", "deadline", "jitter", NULL};
static const char *const sensitivity_names[] = {"wcet", "period", "deadline", "jitter", "blocking", "policy", NULL};

/* Tasks as read from Python, and memory for their analysis. */
struct reading {
    struct bind_column columns[5];
    struct k_tasks tasks;
    struct k_arena arena;
    void *memory;
};

static void reading_end(struct reading *r)
{
    for (int c = 0; c < 5; c++)
        bind_release(&r->columns[c]);
    PyMem_Free(r->memory);
}

/* `count` columns from given[], of equal length and in range; copies, since others may write to a buffer
 * while the GIL is released. False with an exception and nothing to end. */
static bool reading_begin(struct reading *r, PyObject *const *given, int count)
{
    memset(r, 0, sizeof *r);
    for (int c = 0; c < count; c++) {
        if (!given[c])
            continue;
        if (!bind_ints_copy(given[c], column_names[c], &r->columns[c]))
            goto failed;
        if (r->columns[c].n != r->columns[0].n) {
            PyErr_Format(PyExc_ValueError, "%s has %zd values, wcet has %zd: one of each for every task",
                         column_names[c], r->columns[c].n, r->columns[0].n);
            goto failed;
        }
    }
    r->tasks = (struct k_tasks){
        .n = (size_t)r->columns[0].n,
        .wcet = r->columns[0].data,
        .period = r->columns[1].data,
        .deadline = r->columns[2].data,
        .jitter = r->columns[3].data,
        .blocking = r->columns[4].data,
    };
    enum k_column column;
    size_t index;
    if (k_tasks_check(&r->tasks, &column, &index) != K_OK) {
        bind_invalid(column_names[column], (Py_ssize_t)index, r->columns[column].data[index],
                     column <= K_DEADLINE ? "must be at least 1" : "must not be negative");
        goto failed;
    }
    r->arena.left = k_analysis_room(r->tasks.n);
    r->arena.at = r->memory = PyMem_Malloc(r->arena.left);
    if (r->memory)
        return true;
    PyErr_NoMemory();
failed:
    reading_end(r);
    return false;
}

/* Numbers of tasks from which the GIL is released. */
enum { LINEAR = 400, SQUARE = 64, CUBE = 8 };

static PyObject *response_times(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    (void)module;
    PyObject *given[5], *list = NULL;
    struct reading r;
    if (!bind_arguments("response_times", column_names, 3, 3, args, nargs, kwnames, given) ||
        !reading_begin(&r, given, 5))
        return NULL;
    int64_t *response = PyMem_Malloc((r.tasks.n + 1) * sizeof *response);
    if (!response) {
        reading_end(&r);
        return PyErr_NoMemory();
    }
    enum k_status status;
    BIND_UNLOCKED(r.tasks.n >= SQUARE, status = k_response_times(&r.tasks, r.arena, response));
    list = status == K_OK ? bind_list(response, (Py_ssize_t)r.tasks.n) : bind_failed(status, "response_times");
    PyMem_Free(response);
    reading_end(&r);
    return list;
}

static PyObject *fp_schedulable(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    (void)module;
    PyObject *given[5];
    struct reading r;
    if (!bind_arguments("fp_schedulable", column_names, 3, 3, args, nargs, kwnames, given) ||
        !reading_begin(&r, given, 5))
        return NULL;
    bool fits = false;
    size_t missing;
    enum k_status status;
    BIND_UNLOCKED(r.tasks.n >= SQUARE, status = k_fp_schedulable(&r.tasks, r.arena, &fits, &missing));
    reading_end(&r);
    return status == K_OK ? PyBool_FromLong(fits) : bind_failed(status, "fp_schedulable");
}

static PyObject *edf_schedulable(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    (void)module;
    PyObject *given[5];
    struct reading r;
    if (!bind_arguments("edf_schedulable", edf_names, 3, 3, args, nargs, kwnames, given) ||
        !reading_begin(&r, given, 4))
        return NULL;
    bool fits = false;
    int64_t at, demand;
    enum k_status status;
    BIND_UNLOCKED(r.tasks.n >= LINEAR, status = k_edf_schedulable(&r.tasks, r.arena, &fits, &at, &demand));
    reading_end(&r);
    return status == K_OK ? PyBool_FromLong(fits) : bind_failed(status, "edf_schedulable");
}

static PyObject *audsley(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    (void)module;
    PyObject *given[5], *list;
    struct reading r;
    if (!bind_arguments("audsley", column_names, 3, 3, args, nargs, kwnames, given) || !reading_begin(&r, given, 5))
        return NULL;
    int64_t *order = PyMem_Malloc((r.tasks.n + 1) * sizeof *order);
    if (!order) {
        reading_end(&r);
        return PyErr_NoMemory();
    }
    bool found = false;
    enum k_status status;
    BIND_UNLOCKED(r.tasks.n >= CUBE, status = k_audsley(&r.tasks, r.arena, &found, order));
    if (status != K_OK)
        list = bind_failed(status, "audsley");
    else
        list = found ? bind_list(order, (Py_ssize_t)r.tasks.n) : Py_NewRef(Py_None);
    PyMem_Free(order);
    reading_end(&r);
    return list;
}

static PyObject *sensitivity(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    (void)module;
    PyObject *given[6], *list;
    if (!bind_arguments("sensitivity", sensitivity_names, 3, 3, args, nargs, kwnames, given))
        return NULL;
    enum k_policy policy = K_FIXED_PRIORITY;
    if (given[5]) {
        bool fixed = PyUnicode_Check(given[5]) && PyUnicode_CompareWithASCIIString(given[5], "fp") == 0;
        if (!fixed && !(PyUnicode_Check(given[5]) && PyUnicode_CompareWithASCIIString(given[5], "edf") == 0))
            return PyErr_Format(PyExc_ValueError, "policy is %R: must be 'fp' or 'edf'", given[5]);
        policy = fixed ? K_FIXED_PRIORITY : K_EDF;
    }
    if (policy == K_EDF && given[4]) {
        PyErr_SetString(PyExc_ValueError, "blocking has no meaning under 'edf': leave it out");
        return NULL;
    }
    struct reading r;
    if (!reading_begin(&r, given, 5))
        return NULL;
    int64_t *thousandths = PyMem_Malloc((r.tasks.n + 1) * sizeof *thousandths);
    if (!thousandths) {
        reading_end(&r);
        return PyErr_NoMemory();
    }
    enum k_status status;
    BIND_UNLOCKED(r.tasks.n >= CUBE, status = k_sensitivity(&r.tasks, policy, r.arena, thousandths));
    list = status == K_OK ? bind_list(thousandths, (Py_ssize_t)r.tasks.n) : bind_failed(status, "sensitivity");
    PyMem_Free(thousandths);
    reading_end(&r);
    return list;
}

static PyObject *hyperperiod(PyObject *module, PyObject *periods)
{
    (void)module;
    struct bind_column column;
    if (!bind_ints_copy(periods, "periods", &column))
        return NULL;
    int64_t multiple = 0;
    size_t index = 0;
    enum k_status status;
    BIND_UNLOCKED(column.n >= LINEAR, status = k_hyperperiod((size_t)column.n, column.data, &multiple, &index));
    PyObject *result = NULL;
    if (status == K_OK)
        result = PyLong_FromLongLong(multiple);
    else if (status == K_OVERFLOW)
        PyErr_SetString(PyExc_OverflowError, "the hyperperiod passes 64 bits: choose periods that divide each other");
    else if (index == (size_t)column.n)
        PyErr_SetString(PyExc_ValueError, "periods is empty: a hyperperiod needs at least one");
    else
        bind_invalid("periods", (Py_ssize_t)index, column.data[index], "must be at least 1");
    bind_release(&column);
    return result;
}

/* For tests: one variant of the inner loops on terms of one's own. */
static PyObject *demand(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    static const char *const names[] = {"simd", "t", "offset", "period", "wcet", NULL};
    (void)module;
    PyObject *given[5], *result = NULL;
    struct bind_column columns[3];
    memset(columns, 0, sizeof columns);
    if (!bind_arguments("demand", names, 5, 5, args, nargs, kwnames, given))
        return NULL;
    long simd = PyLong_AsLong(given[0]);
    double t = PyFloat_AsDouble(given[1]);
    if (PyErr_Occurred())
        return NULL;
    if (simd < 0 || simd > (long)k_simd_best())
        return PyErr_Format(PyExc_ValueError, "this CPU has variants up to %d", (int)k_simd_best());
    for (int c = 0; c < 3; c++) {
        if (!bind_ints_copy(given[c + 2], names[c + 2], &columns[c]))
            goto done;
        if (columns[c].n != columns[0].n) {
            PyErr_SetString(PyExc_ValueError, "columns of different lengths");
            goto done;
        }
    }
    size_t n = (size_t)columns[0].n;
    struct k_arena arena = {NULL, k_analysis_room(n)};
    void *memory = arena.at = PyMem_Malloc(arena.left);
    struct k_terms terms;
    if (!memory || !k_terms_take(&terms, n, &arena)) {
        PyErr_NoMemory();
    } else {
        terms.simd = (enum k_simd)simd;
        for (size_t i = 0; i < n; i++)
            k_term(&terms, i, columns[0].data[i], columns[1].data[i], columns[2].data[i]);
        result = Py_BuildValue("LL", (long long)k_demand(&terms, t), (long long)k_last_step(&terms, t));
    }
    PyMem_Free(memory);
done:
    for (int c = 0; c < 3; c++)
        bind_release(&columns[c]);
    return result;
}

#define FAST(function) (PyCFunction)(void (*)(void))(function), METH_FASTCALL | METH_KEYWORDS

PyMethodDef bind_analysis_methods[] = {
    {"response_times", FAST(response_times),
     PyDoc_STR("response_times($module, wcet, period, deadline, *, jitter=None, blocking=None)\n--\n\n")},
    {"fp_schedulable", FAST(fp_schedulable),
     PyDoc_STR("fp_schedulable($module, wcet, period, deadline, *, jitter=None, blocking=None)\n--\n\n")},
    {"edf_schedulable", FAST(edf_schedulable),
     PyDoc_STR("edf_schedulable($module, wcet, period, deadline, *, jitter=None)\n--\n\n")},
    {"audsley", FAST(audsley),
     PyDoc_STR("audsley($module, wcet, period, deadline, *, jitter=None, blocking=None)\n--\n\n")},
    {"sensitivity", FAST(sensitivity),
     PyDoc_STR("sensitivity($module, wcet, period, deadline, *, jitter=None, blocking=None, policy='fp')\n--\n\n")},
    {"hyperperiod", hyperperiod, METH_O, PyDoc_STR("hyperperiod($module, periods, /)\n--\n\n")},
    {"_demand", FAST(demand), PyDoc_STR("_demand($module, simd, t, offset, period, wcet)\n--\n\n")},
    {NULL, NULL, 0, NULL},
};

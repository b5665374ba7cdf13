/* The extension module mgmt.rt._task: mgmt_rt.h for Python, and where its fields lie. Types are in _task.pyi. */
#define PY_SSIZE_T_CLEAN
#include "mgmt_rt.h"

#include <Python.h>

typedef struct {
    PyObject_HEAD
    struct mgmt_rt_task task;
    bool waiting; /* a thread is inside wait_next_period() */
} TaskObject;

static int task_init(PyObject *self, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"path", NULL};
    TaskObject *object = (TaskObject *)self;
    const char *path = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|z", names, &path))
        return -1;
    if (object->task.segment) {
        PyErr_SetString(PyExc_RuntimeError, "this Task is attached already: make another one");
        return -1;
    }
    if (mgmt_rt_open(&object->task, path) == 0)
        return 0;
    int error = errno;
    PyObject *what = Py_BuildValue("(iss)", error, mgmt_rt_explain(error), path ? path : getenv("MGMT_RT"));
    if (what)
        PyErr_SetObject(PyExc_OSError, what);
    Py_XDECREF(what);
    return -1;
}

static bool is_usable(TaskObject *object)
{
    if (object->task.segment && !object->waiting)
        return true;
    PyErr_SetString(PyExc_RuntimeError, object->waiting ? "another thread waits by this Task: each needs its own"
                                                        : "this Task is closed");
    return false;
}

static PyObject *task_wait_next_period(PyObject *self, PyObject *unused)
{
    TaskObject *object = (TaskObject *)self;
    int64_t job;
    int error;
    (void)unused;
    do {
        if (!is_usable(object))
            return NULL;
        object->waiting = true;
        Py_BEGIN_ALLOW_THREADS
        job = mgmt_rt_wait_next_period(&object->task);
        error = errno;
        Py_END_ALLOW_THREADS
        object->waiting = false;
        if (job < 0 && error == EINTR && PyErr_CheckSignals() < 0)
            return NULL;
    } while (job < 0 && error == EINTR);
    if (job >= 0)
        return PyLong_FromLongLong(job);
    errno = error;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *task_close(PyObject *self, PyObject *unused)
{
    TaskObject *object = (TaskObject *)self;
    (void)unused;
    if (object->waiting && !is_usable(object))
        return NULL;
    if (object->task.segment)
        mgmt_rt_close(&object->task);
    Py_RETURN_NONE;
}

static void task_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (((TaskObject *)self)->task.segment)
        mgmt_rt_close(&((TaskObject *)self)->task);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef task_methods[] = {
    {"wait_next_period", task_wait_next_period, METH_NOARGS, NULL},
    {"close", task_close, METH_NOARGS, NULL},
    {0},
};

static PyType_Slot task_slots[] = {
    {Py_tp_init, (void *)(uintptr_t)task_init},
    {Py_tp_dealloc, (void *)(uintptr_t)task_dealloc},
    {Py_tp_methods, task_methods},
    {0, NULL},
};

static PyType_Spec task_spec = {
    .name = "mgmt.rt._task.Task",
    .basicsize = sizeof(TaskObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = task_slots,
};

#define PLAN(name) {#name, offsetof(struct mgmt_rt_segment, plan.name)}
#define WATCH(name) {#name, offsetof(struct mgmt_rt_segment, watch.name)}
#define PROGRESS(name) {#name, offsetof(struct mgmt_rt_segment, progress.name)}
static const struct { const char *name; size_t offset; } layout[] = {
    PLAN(magic), PLAN(version), PLAN(size_bytes), PLAN(task), PLAN(name), PLAN(cycle_ns), PLAN(hyperperiod_ns),
    PLAN(deadline_ns), PLAN(overrun), PLAN(flags), PLAN(max_dmiss), PLAN(window_jobs), PLAN(n_releases), PLAN(offsets_ns),
    WATCH(t0_ns), WATCH(started), WATCH(next_job), WATCH(misses), WATCH(unchecked), WATCH(faults), WATCH(signals),
    WATCH(ended_joins),
    PROGRESS(joins), PROGRESS(first_job), PROGRESS(pid), PROGRESS(tid), PROGRESS(released), PROGRESS(start_ns),
    PROGRESS(done), PROGRESS(completed), PROGRESS(late), PROGRESS(skipped), PROGRESS(jitter), PROGRESS(execution),
    PROGRESS(response), PROGRESS(records),
    {"plan_bytes", sizeof(struct mgmt_rt_plan)}, {"histogram_bytes", sizeof(struct mgmt_rt_histogram)},
    {"record_bytes", sizeof(struct mgmt_rt_record)},
};

static PyObject *refusal(PyObject *module, PyObject *plan)
{
    struct mgmt_rt_plan copy; /* the bytes may not be aligned */
    char *bytes;
    Py_ssize_t n;
    (void)module;
    if (PyBytes_AsStringAndSize(plan, &bytes, &n) < 0)
        return NULL;
    if ((size_t)n < sizeof copy)
        return PyUnicode_FromString("size_bytes");
    memcpy(&copy, bytes, sizeof copy);
    const char *at = mgmt_rt_refusal(&copy);
    return at ? PyUnicode_FromString(at) : Py_NewRef(Py_None);
}

static PyMethodDef functions[] = {
    {"refusal", refusal, METH_O, NULL},
    {0},
};

static int task_exec(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&task_spec), *offsets = PyDict_New();
    int failed = !type || !offsets || PyModule_AddObjectRef(module, "Task", type) < 0
        || PyModule_AddStringConstant(module, "MAGIC", MGMT_RT_MAGIC) < 0
        || PyModule_AddIntConstant(module, "VERSION", MGMT_RT_VERSION) < 0
        || PyModule_AddIntConstant(module, "SEGMENT_BYTES", (long)sizeof(struct mgmt_rt_segment)) < 0
        || PyModule_AddIntConstant(module, "RELEASES", MGMT_RT_RELEASES) < 0
        || PyModule_AddIntConstant(module, "RECORDS", MGMT_RT_RECORDS) < 0
        || PyModule_AddIntConstant(module, "BUCKETS", MGMT_RT_BUCKETS) < 0;
    for (size_t i = 0; !failed && i < sizeof layout / sizeof *layout; i++) {
        PyObject *offset = PyLong_FromSize_t(layout[i].offset);
        failed = !offset || PyDict_SetItemString(offsets, layout[i].name, offset) < 0;
        Py_XDECREF(offset);
    }
    failed = failed || PyModule_AddObjectRef(module, "LAYOUT", offsets) < 0;
    Py_XDECREF(type);
    Py_XDECREF(offsets);
    return failed ? -1 : 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, (void *)(uintptr_t)task_exec},
    {0, NULL},
};

static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "mgmt.rt._task",
    .m_doc = "mgmt_rt.h for Python; import mgmt.rt instead.",
    .m_methods = functions,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__task(void) { return PyModuleDef_Init(&module); }

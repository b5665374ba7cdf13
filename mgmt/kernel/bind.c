/* The helpers of bind.h. */
#include "bind.h"

#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#define LARGE_PAGE ((size_t)1 << 21)

void *bind_memory(size_t size)
{
#if defined __linux__ && defined MADV_HUGEPAGE
    if (size >= 2 * LARGE_PAGE) {
        void *memory = NULL;
        if (posix_memalign(&memory, LARGE_PAGE, size) != 0)
            return NULL;
        (void)madvise(memory, size, MADV_HUGEPAGE); /* may fail: then it is slower */
        return memory;
    }
#endif
    return PyMem_RawMalloc(size);
}

void bind_memory_free(void *memory, size_t size)
{
#if defined __linux__ && defined MADV_HUGEPAGE
    if (size >= 2 * LARGE_PAGE) {
        free(memory);
        return;
    }
#endif
    (void)size;
    PyMem_RawFree(memory);
}

void bind_release(struct bind_column *column)
{
    if (column->view.obj)
        PyBuffer_Release(&column->view);
    PyMem_Free(column->owned);
    memset(column, 0, sizeof *column);
}

/* An int of one digit (30 bits) without a call: most times are that small, and reading them is most of the
 * time of a small analysis. */
static inline bool short_int(PyObject *item, int64_t *value)
{
    if (!PyLong_CheckExact(item))
        return false;
#if defined Py_LIMITED_API || defined PYPY_VERSION
    return false;
#elif PY_VERSION_HEX >= 0x030c0000
    const PyLongObject *number = (const PyLongObject *)item;
    if (!PyUnstable_Long_IsCompact(number))
        return false;
    *value = PyUnstable_Long_CompactValue(number);
    return true;
#else
    if (Py_SIZE(item) != 1)
        return false;
    *value = ((const PyLongObject *)item)->ob_digit[0];
    return true;
#endif
}

/* One element; false with an exception set. */
static bool one_int(PyObject *item, const char *name, Py_ssize_t index, int64_t *value)
{
    int overflow = 0;
    long long got;
    if (PyLong_Check(item)) {
        got = PyLong_AsLongLongAndOverflow(item, &overflow);
    } else {
        PyObject *whole = PyIndex_Check(item) ? PyNumber_Index(item) : NULL;
        if (!whole) {
            if (!PyErr_Occurred())
                PyErr_Format(PyExc_ValueError, "%s[%zd] is not an integer", name, index);
            return false;
        }
        got = PyLong_AsLongLongAndOverflow(whole, &overflow);
        Py_DECREF(whole);
    }
    if (overflow) {
        PyErr_Format(PyExc_OverflowError, "%s[%zd] passes 64 bits", name, index);
        return false;
    }
    *value = got;
    return got != -1 || !PyErr_Occurred();
}

static bool one_double(PyObject *item, const char *name, Py_ssize_t index, double *value)
{
    *value = PyFloat_AsDouble(item);
    if (*value != -1.0 || !PyErr_Occurred())
        return true;
    if (PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "%s[%zd] is not a number", name, index);
    }
    return false;
}

static bool take(struct bind_column *column, Py_ssize_t n)
{
    column->n = n;
    if ((size_t)n > (size_t)PY_SSIZE_T_MAX / sizeof(int64_t) || !(column->owned = PyMem_Malloc((size_t)(n ? n : 1) * sizeof(int64_t)))) {
        PyErr_NoMemory();
        return false;
    }
    return true;
}

/* The native type character of a buffer's format, 0 for any other format. */
static char type_of(const Py_buffer *view)
{
    const char *format = view->format ? view->format : "B";
    if (*format == '@' || *format == '=' || (*format == '<' && PY_LITTLE_ENDIAN) || (*format == '>' && PY_BIG_ENDIAN))
        format++;
    return format[0] && !format[1] ? format[0] : 0;
}

#define CONVERT(type)                                        \
    for (Py_ssize_t i = 0; i < n; i++)                       \
        out[i] = (int64_t)((const type *)column->view.buf)[i]; \
    return true

/* A buffer of smaller or unsigned integers into `owned`; false without an exception when it is no such thing. */
static bool convert(struct bind_column *column, const char *name)
{
    char type = type_of(&column->view);
    Py_ssize_t n = column->n, size = column->view.itemsize;
    bool is_signed = type && strchr("bhilqn", type), is_unsigned = type && strchr("BHILQN", type);
    if (!is_signed && !is_unsigned)
        return false;
    if (!take(column, n))
        return false;
    int64_t *out = column->owned;
    if (is_signed && size == 8) {
        if (n)
            memcpy(out, column->view.buf, (size_t)n * 8);
        return true;
    }
    switch (is_signed ? size : -size) {
    case 1: CONVERT(int8_t);
    case 2: CONVERT(int16_t);
    case 4: CONVERT(int32_t);
    case -1: CONVERT(uint8_t);
    case -2: CONVERT(uint16_t);
    case -4: CONVERT(uint32_t);
    case -8:
        for (Py_ssize_t i = 0; i < n; i++) {
            uint64_t value = ((const uint64_t *)column->view.buf)[i];
            if (value > INT64_MAX) {
                PyErr_Format(PyExc_OverflowError, "%s[%zd] passes 64 bits", name, i);
                return false;
            }
            out[i] = (int64_t)value;
        }
        return true;
    default: return false;
    }
}

static bool from_sequence(PyObject *from, const char *name, struct bind_column *column, bool doubles)
{
    PyObject *items = PySequence_Fast(from, "");
    if (!items) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Clear();
            PyErr_Format(PyExc_TypeError, "%s is %.80s: give a sequence or a buffer of numbers", name, Py_TYPE(from)->tp_name);
        }
        return false;
    }
    bool fine = take(column, PySequence_Fast_GET_SIZE(items));
    for (Py_ssize_t i = 0; fine && i < column->n; i++) {
        /* __index__ of an element may run any code: the list may have changed meanwhile. */
        if (i >= PySequence_Fast_GET_SIZE(items)) {
            PyErr_Format(PyExc_ValueError, "%s changed while it was read", name);
            fine = false;
            break;
        }
        PyObject *item = PySequence_Fast_GET_ITEM(items, i);
        if (!doubles && short_int(item, (int64_t *)column->owned + i))
            continue;
        Py_INCREF(item);
        fine = doubles ? one_double(item, name, i, (double *)column->owned + i)
                       : one_int(item, name, i, (int64_t *)column->owned + i);
        Py_DECREF(item);
    }
    Py_DECREF(items);
    return fine;
}

static bool read_column(PyObject *from, const char *name, struct bind_column *column, bool doubles, bool copy)
{
    memset(column, 0, sizeof *column);
    bool fine = false, found = false;
    if (!PyList_CheckExact(from) && !PyTuple_CheckExact(from) && PyObject_CheckBuffer(from)) {
        if (PyObject_GetBuffer(from, &column->view, PyBUF_ND | PyBUF_FORMAT) < 0) {
            PyErr_Clear(); /* not contiguous: read as a sequence */
        } else if (column->view.ndim == 1) {
            Py_ssize_t size = column->view.itemsize;
            char type = type_of(&column->view);
            column->n = column->view.len / (size ? size : 1);
            bool same = size == 8 && (doubles ? type == 'd' : type && strchr("lqn", type) != NULL);
            bool aligned = ((uintptr_t)column->view.buf & 7) == 0;
            if (same && aligned && !copy)
                fine = found = true;
            else if (!doubles)
                fine = found = convert(column, name);
            if (PyErr_Occurred())
                found = true;
        }
        if (column->view.obj && (!fine || column->owned))
            PyBuffer_Release(&column->view);
    }
    if (!found)
        fine = from_sequence(from, name, column, doubles);
    if (!fine) {
        bind_release(column);
        return false;
    }
    const void *data = column->owned ? column->owned : column->view.buf;
    column->data = doubles ? NULL : data;
    column->doubles = doubles ? data : NULL;
    return true;
}

bool bind_ints(PyObject *from, const char *name, struct bind_column *column)
{
    return read_column(from, name, column, false, false);
}

bool bind_ints_copy(PyObject *from, const char *name, struct bind_column *column)
{
    return read_column(from, name, column, false, true);
}

bool bind_doubles(PyObject *from, const char *name, struct bind_column *column)
{
    return read_column(from, name, column, true, false);
}

PyObject *bind_view(PyObject *module, PyObject *bytes, Py_ssize_t n)
{
    struct kernel_state *state = PyModule_GetState(module);
    if (PyByteArray_Resize(bytes, n * (Py_ssize_t)sizeof(int64_t)) < 0)
        return NULL;
    PyObject *view = PyMemoryView_FromObject(bytes);
    if (!view)
        return NULL;
    PyObject *cast = PyObject_CallMethodOneArg(view, state->memoryview_cast, state->int64_format);
    Py_DECREF(view);
    return cast;
}

PyObject *bind_new_ints(PyObject *module, Py_ssize_t n, int64_t **data)
{
    PyObject *bytes = PyByteArray_FromStringAndSize(NULL, n * (Py_ssize_t)sizeof(int64_t));
    if (!bytes)
        return NULL;
    void *memory = PyByteArray_AS_STRING(bytes);
    memset(memory, 0, (size_t)n * sizeof(int64_t));
    *data = memory;
    PyObject *view = bind_view(module, bytes, n);
    Py_DECREF(bytes);
    return view;
}

/* `view` as a memoryview of another format. */
static PyObject *cast(PyObject *module, PyObject *view, const char *format)
{
    struct kernel_state *state = PyModule_GetState(module);
    PyObject *text = PyUnicode_FromString(format);
    PyObject *result = text ? PyObject_CallMethodOneArg(view, state->memoryview_cast, text) : NULL;
    Py_XDECREF(text);
    return result;
}

bool bind_writable(PyObject *from, const char *formats, Py_ssize_t n, Py_buffer *view)
{
    if (PyObject_GetBuffer(from, view, PyBUF_WRITABLE | PyBUF_ND | PyBUF_FORMAT) < 0) {
        PyErr_Clear();
        PyErr_SetString(PyExc_TypeError, "out must be a writable, C-contiguous buffer");
        return false;
    }
    const char *format = view->format ? view->format : "B";
    if (view->itemsize == 8 && strchr(formats, format[0]) && !format[1] && view->len == n * 8 && ((uintptr_t)view->buf & 7) == 0)
        return true;
    PyErr_Format(PyExc_ValueError, "out must hold %zd numbers of format '%c'", n, formats[0]);
    PyBuffer_Release(view);
    return false;
}

bool bind_number(PyObject *from, const char *name, double *value)
{
    if (!from)
        return true;
    *value = PyFloat_AsDouble(from);
    if (*value != -1.0 || !PyErr_Occurred())
        return true;
    PyErr_Clear();
    PyErr_Format(PyExc_TypeError, "%s is %.80s: must be a number", name, Py_TYPE(from)->tp_name);
    return false;
}

PyObject *bind_new_doubles(PyObject *module, Py_ssize_t n)
{
    int64_t *unused;
    PyObject *ints = bind_new_ints(module, n, &unused);
    PyObject *bytes = ints ? cast(module, ints, "B") : NULL;
    PyObject *result = bytes ? cast(module, bytes, "d") : NULL;
    Py_XDECREF(ints);
    Py_XDECREF(bytes);
    return result;
}

PyObject *bind_list(const int64_t *data, Py_ssize_t n)
{
    PyObject *list = PyList_New(n);
    for (Py_ssize_t i = 0; list && i < n; i++) {
        PyObject *item = PyLong_FromLongLong(data[i]);
        if (!item)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, item);
    }
    return list;
}

PyObject *bind_index_list(const int64_t *data, Py_ssize_t n, Py_ssize_t most)
{
    PyObject **made = most < n / 2 ? PyMem_Calloc((size_t)most + 1, sizeof *made) : NULL;
    if (!made)
        return bind_list(data, n);
    PyObject *list = PyList_New(n);
    for (Py_ssize_t i = 0; list && i < n; i++) {
        PyObject **item = &made[data[i] + 1];
        if (!*item)
            *item = PyLong_FromLongLong(data[i]);
        if (!*item)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, Py_NewRef(*item));
    }
    for (Py_ssize_t k = 0; k <= most; k++)
        Py_XDECREF(made[k]);
    PyMem_Free(made);
    return list;
}

bool bind_arguments(const char *function, const char *const *names, int positional, int required,
                    PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, PyObject **out)
{
    int count = 0;
    while (names[count])
        out[count++] = NULL;
    if (nargs > positional) {
        PyErr_Format(PyExc_TypeError, "%s() takes %d positional arguments but %zd were given", function, positional, nargs);
        return false;
    }
    for (Py_ssize_t i = 0; i < nargs; i++)
        out[i] = args[i];
    for (Py_ssize_t k = 0, given = kwnames ? PyTuple_GET_SIZE(kwnames) : 0; k < given; k++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, k);
        int i = 0;
        while (i < count && PyUnicode_CompareWithASCIIString(name, names[i]) != 0)
            i++;
        if (i == count || out[i]) {
            PyErr_Format(PyExc_TypeError, i == count ? "%s() got an unexpected keyword argument '%U'" : "%s() got multiple values for argument '%U'", function, name);
            return false;
        }
        out[i] = args[nargs + k];
    }
    for (int i = 0; i < count; i++) {
        if (i >= required && out[i] == Py_None)
            out[i] = NULL;
        if (i < required && !out[i]) {
            PyErr_Format(PyExc_TypeError, "%s() misses the argument '%s'", function, names[i]);
            return false;
        }
    }
    return true;
}

PyObject *bind_invalid(const char *name, Py_ssize_t index, int64_t value, const char *rule)
{
    return PyErr_Format(PyExc_ValueError, "%s[%zd] is %lld: %s", name, index, (long long)value, rule);
}

PyObject *bind_failed(enum k_status status, const char *function)
{
    if (status == K_NOMEM)
        return PyErr_NoMemory();
    return PyErr_Format(PyExc_OverflowError, "%s: the way to the answer passes 64 bits or 1048576 steps; "
                        "give the times in a coarser unit or less load", function);
}

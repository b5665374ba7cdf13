/* Helpers of the binding files: arguments by name, columns of numbers in and out, the GIL. */
#ifndef MGMT_KERNEL_BIND_H
#define MGMT_KERNEL_BIND_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "core/kernel.h"

/* One per interpreter. A binding file with heap types or exceptions keeps them here. */
struct kernel_state {
    PyObject *memoryview_cast; /* the string "cast" */
    PyObject *int64_format;    /* the string "q" */
    PyObject *place;           /* the string "place"; a new one at each call would fill the cache of methods */
    PyObject *table, *table_fault, *infeasible; /* classes of mgmt.kernel.tables */
    PyObject *placement[8];    /* owned by bind_placement.c: heap types */
};

/* Defined by the binding files, called by _kernel.c. */
extern PyMethodDef bind_analysis_methods[], bind_table_methods[], bind_placement_methods[], bind_score_methods[],
    bind_history_methods[], bind_runs_methods[];
int bind_table_exec(PyObject *module);
int bind_placement_exec(PyObject *module);
int bind_strict_exec(PyObject *module); /* called by bind_placement_exec() */

/* A column of numbers as read from Python: `data` until bind_release(). */
struct bind_column {
    const int64_t *data;   /* for bind_ints */
    const double *doubles; /* for bind_doubles */
    Py_ssize_t n;
    Py_buffer view; /* view.obj is NULL when nothing is borrowed */
    void *owned;
};

/* Any C-contiguous buffer of integers (int64 is borrowed without a copy) or any iterable of them. False with
 * ValueError naming the index (no integer), OverflowError (passes int64) or TypeError (no sequence).
 * A borrowed column may be written by others while the GIL is released: take bind_ints_copy where a changed
 * number could do harm (a division, an index). */
bool bind_ints(PyObject *from, const char *name, struct bind_column *column);
bool bind_ints_copy(PyObject *from, const char *name, struct bind_column *column);
/* The same for float64 buffers and iterables of numbers; NaN is the caller's to refuse. */
bool bind_doubles(PyObject *from, const char *name, struct bind_column *column);
void bind_release(struct bind_column *column); /* harmless on a zeroed or released one */

/* A new buffer of n zeroed int64, as a writable memoryview of format "q"; *data lives as long as it does. */
PyObject *bind_new_ints(PyObject *module, Py_ssize_t n, int64_t **data);
PyObject *bind_new_doubles(PyObject *module, Py_ssize_t n); /* the same, of format "d" */
/* The first n int64 of a bytearray, which is cut to them, as a memoryview of format "q". */
PyObject *bind_view(PyObject *module, PyObject *bytes, Py_ssize_t n);
PyObject *bind_list(const int64_t *data, Py_ssize_t n);
/* The same for numbers from -1 to most - 1, of which each is made once. */
PyObject *bind_index_list(const int64_t *data, Py_ssize_t n, Py_ssize_t most);

/* A writable contiguous buffer, named out, of n numbers of 8 bytes whose format is one of `formats`. */
bool bind_writable(PyObject *from, const char *formats, Py_ssize_t n, Py_buffer *view);
/* A number into *value, which stays as it is for an absent one. */
bool bind_number(PyObject *from, const char *name, double *value);

/* Arguments of a METH_FASTCALL | METH_KEYWORDS function into out[], absent ones NULL, None like absent for
 * those after `required`. names ends with NULL; the first `positional` may be given by position. */
bool bind_arguments(const char *function, const char *const *names, int positional, int required,
                    PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, PyObject **out);

/* ValueError "NAME[INDEX] is VALUE: RULE". Returns NULL. */
PyObject *bind_invalid(const char *name, Py_ssize_t index, int64_t value, const char *rule);
/* The exception of a core status other than K_OK and K_INVALID. Returns NULL. */
PyObject *bind_failed(enum k_status status, const char *function);

/* Memory for an arena, NULL without an exception; large ones on large pages where there are such, since the
 * faults of a first touch would be a good part of the time. */
void *bind_memory(size_t size);
void bind_memory_free(void *memory, size_t size); /* NULL is harmless */

/* Runs `work` without the GIL when `large`, which should mean: more than about 5 us. */
#define BIND_UNLOCKED(large, work)                             \
    do {                                                       \
        PyThreadState *bind_saved = (large) ? PyEval_SaveThread() : NULL; \
        work;                                                  \
        if (bind_saved)                                        \
            PyEval_RestoreThread(bind_saved);                  \
    } while (0)

#endif

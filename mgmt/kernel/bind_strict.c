/* The type Placement: core/strict.h as a Python object. */
#include "bind.h"

#include <structmember.h>
#include <string.h>

#include "core/strict.h"

#define TASKS_MOST (UINT32_MAX / 4)
#define CPU_ID_MOST 65535
#define UNLOCK_FROM 32 /* tasks placed at once from which the GIL is released */

struct placement {
    PyObject_HEAD
    struct strict s;
    void *memory, *scratch;
    size_t scratch_size;
    bool busy; /* a thread works in it without the GIL */
};

static const char *const test_names[] = {"utilisation", "fp", "edf", NULL};
static const char *const choice_names[] = {"best", "least", "first", NULL};
static const char *const order_names[] = {"urgency", "utilisation", "given", NULL};
static const char *const reason_names[] = {NULL, "no_cpu", "memory", "utilisation", "deadline", "demand", "undecided"};

/* The index of a name in a list, -1 with ValueError. */
static int one_of(PyObject *given, const char *what, const char *const *names)
{
    for (int i = 0; PyUnicode_Check(given) && names[i]; i++)
        if (PyUnicode_CompareWithASCIIString(given, names[i]) == 0)
            return i;
    PyErr_Format(PyExc_ValueError, "%s is %R: must be '%s', '%s' or '%s'", what, given, names[0], names[1], names[2]);
    return -1;
}

static bool is_free(struct placement *self)
{
    if (self->busy)
        PyErr_SetString(PyExc_RuntimeError, "another thread is placing tasks here: give each thread its own Placement");
    return !self->busy;
}

/* Raises Refused. Returns NULL. */
static PyObject *raise_refused(struct placement *self, uint32_t x, const struct strict_refusal *why)
{
    struct kernel_state *state = PyType_GetModuleState(Py_TYPE(self));
    PyObject *arguments = Py_BuildValue(
        "IssLLLLLL", (unsigned)x, test_names[self->s.test], reason_names[why->reason],
        why->cpu == STRICT_NONE ? -1LL : (long long)why->cpu, why->missing == STRICT_NONE ? -1LL : (long long)why->missing,
        (long long)why->needed, (long long)why->available, (long long)why->largest_wcet,
        why->cpu == STRICT_NONE ? -1LL : (long long)self->s.cpu[why->cpu].node);
    if (arguments) {
        PyErr_SetObject(state->placement[1], arguments);
        Py_DECREF(arguments);
    }
    return NULL;
}

static PyObject *refuse(struct placement *self, uint32_t x)
{
    struct strict_refusal why;
    struct k_arena scratch = {self->scratch, self->scratch_size};
    enum k_status status = strict_explain(&self->s, x, STRICT_NONE, scratch, &why);
    return status == K_OK ? raise_refused(self, x, &why) : bind_failed(status, "Placement");
}

/* Room for task numbers up to n - 1 and their tests. */
static bool grow(struct placement *self, size_t n)
{
    struct strict *s = &self->s;
    if (n <= s->tasks)
        return true;
    if (n > TASKS_MOST) {
        PyErr_Format(PyExc_ValueError, "task number %zu: the largest is %u", n - 1, TASKS_MOST - 1);
        return false;
    }
    size_t more = n < 64 ? 64 : n > TASKS_MOST / 2 ? TASKS_MOST : n + n / 4;
    size_t row = (size_t)s->mask_words * sizeof(uint64_t);
    struct strict_task *task = PyMem_RawRealloc(s->task, more * sizeof *task);
    if (task)
        s->task = task;
    uint64_t *mask = PyMem_RawRealloc(s->mask, more * row + 1);
    if (mask)
        s->mask = mask;
    void *scratch = PyMem_RawMalloc(strict_scratch(more + 1));
    if (!task || !mask || !scratch) {
        PyMem_RawFree(scratch);
        PyErr_NoMemory();
        return false;
    }
    PyMem_RawFree(self->scratch);
    self->scratch = scratch;
    self->scratch_size = strict_scratch(more + 1);
    for (size_t x = s->tasks; x < more; x++)
        task[x].cpu = STRICT_NONE;
    s->tasks = (uint32_t)more;
    return true;
}

static PyObject *placement_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"node", "cpu_id", "memory", "reserve", "test", "choose", "priorities", NULL};
    PyObject *given[4] = {0}, *test_given = NULL, *choice_given = NULL;
    struct bind_column node = {0}, id = {0}, memory = {0}, reserve = {0};
    struct placement *self = NULL;
    int priorities = 0, test = STRICT_UTILISATION, choice = STRICT_BEST;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|OO$OOOp", names, &given[0], &given[1], &given[2], &given[3],
                                     &test_given, &choice_given, &priorities))
        return NULL;
    if ((test_given && (test = one_of(test_given, "test", test_names)) < 0) ||
        (choice_given && (choice = one_of(choice_given, "choose", choice_names)) < 0))
        return NULL;
    bool has_id = given[1] && given[1] != Py_None, has_memory = given[2] && given[2] != Py_None,
         has_reserve = given[3] && given[3] != Py_None;
    if (!bind_ints_copy(given[0], "node", &node) || (has_id && !bind_ints_copy(given[1], "cpu_id", &id)) ||
        (has_memory && !bind_ints_copy(given[2], "memory", &memory)) ||
        (has_reserve && !bind_ints_copy(given[3], "reserve", &reserve)))
        goto out;
    int64_t nodes = node.n ? node.data[node.n - 1] + 1 : 0;
    if ((has_id && id.n != node.n) || (has_reserve && reserve.n != node.n)) {
        PyErr_SetString(PyExc_ValueError, "cpu_id and reserve have one entry a CPU, like node");
        goto out;
    }
    if (node.n >= TASKS_MOST) {
        PyErr_SetString(PyExc_ValueError, "too many CPUs");
        goto out;
    }
    int64_t highest = 0;
    for (Py_ssize_t q = 0; q < node.n; q++) {
        int64_t before = q ? node.data[q - 1] : 0;
        if (node.data[q] < before || node.data[q] > before + 1 || (q == 0 && node.data[q] != 0)) {
            bind_invalid("node", q, node.data[q], "the nodes of the CPUs are 0, 1, 2... in this order, each with at least one CPU");
            goto out;
        }
        if (has_id && (id.data[q] < 0 || id.data[q] > CPU_ID_MOST)) {
            bind_invalid("cpu_id", q, id.data[q], "must be between 0 and 65535");
            goto out;
        }
        if (has_reserve && (reserve.data[q] < 0 || reserve.data[q] > STRICT_PPM)) {
            bind_invalid("reserve", q, reserve.data[q], "must be between 0 and 1000000 millionths");
            goto out;
        }
        highest = k_max(highest, has_id ? id.data[q] : 0);
    }
    if (has_memory && memory.n != nodes) {
        PyErr_Format(PyExc_ValueError, "memory has %zd entries, one for each of the %lld nodes is needed", memory.n, (long long)nodes);
        goto out;
    }
    for (Py_ssize_t k = 0; k < memory.n; k++)
        if (memory.data[k] < 0) {
            bind_invalid("memory", k, memory.data[k], "must not be negative");
            goto out;
        }
    self = (struct placement *)type->tp_alloc(type, 0);
    if (!self)
        goto out;
    size_t room = strict_room((size_t)node.n, (size_t)nodes);
    struct k_arena arena = {self->memory = PyMem_RawMalloc(room), room};
    if (!arena.at || !strict_make(&self->s, (enum strict_test)test, (enum strict_choice)choice, (uint32_t)node.n, (uint32_t)nodes, &arena)) {
        PyErr_NoMemory();
        Py_CLEAR(self);
        goto out;
    }
    self->s.mutual = priorities;
    self->s.mask_words = (uint32_t)(highest / 64 + 1);
    for (Py_ssize_t q = 0; q < node.n; q++) {
        self->s.cpu[q].node = (uint32_t)node.data[q];
        self->s.cpu[q].id = has_id ? id.data[q] : 0;
        self->s.cpu[q].reserve = has_reserve ? reserve.data[q] : 0;
    }
    for (int64_t k = 0; k < nodes; k++)
        self->s.node[k].memory = has_memory ? memory.data[k] : INT64_MAX;
    strict_ready(&self->s);
    if (!grow(self, 64))
        Py_CLEAR(self);
out:
    bind_release(&node);
    bind_release(&id);
    bind_release(&memory);
    bind_release(&reserve);
    return (PyObject *)self;
}

static void placement_dealloc(PyObject *object)
{
    struct placement *self = (struct placement *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyMem_RawFree(self->memory);
    PyMem_RawFree(self->scratch);
    PyMem_RawFree(self->s.task);
    PyMem_RawFree(self->s.mask);
    type->tp_free(object);
    Py_DECREF(type);
}

static bool integer(PyObject *from, const char *name, int64_t *value)
{
    if (!from)
        return true;
    long long got = PyLong_AsLongLong(from);
    *value = got;
    if (got != -1 || !PyErr_Occurred())
        return true;
    if (PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyErr_Clear();
        PyErr_Format(PyExc_TypeError, "%s is %.80s: must be an integer", name, Py_TYPE(from)->tp_name);
    } else if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
        PyErr_Clear();
        PyErr_Format(PyExc_OverflowError, "%s passes 64 bits", name);
    }
    return false;
}

/* The rules of one task; index -1 outside of columns. */
static bool is_valid(struct placement *self, const struct strict_task *task, Py_ssize_t index)
{
    const struct strict *s = &self->s;
    const char *name = NULL, *rule = NULL;
    int64_t value = 0;
#define RULE(is_broken, of, text) if (!name && (is_broken)) name = #of, value = task->of, rule = text
    RULE(task->wcet < 1, wcet, "must be at least 1");
    RULE(task->period < 1, period, "must be at least 1");
    RULE(task->deadline < 1, deadline, "must be at least 1");
    RULE(task->jitter < 0, jitter, "must not be negative");
    RULE(task->memory < 0, memory, "must not be negative");
    RULE(task->target >= (int64_t)s->nodes, target, "no such node");
    RULE(s->test == STRICT_FP && task->deadline > task->period, deadline, "must not pass the period under fixed priorities");
#undef RULE
    if (!name)
        return true;
    if (index >= 0)
        bind_invalid(name, index, value, rule);
    else
        PyErr_Format(PyExc_ValueError, "%s is %lld: %s", name, (long long)value, rule);
    return false;
}

static void finish(const struct strict *s, struct strict_task *task, int64_t priority)
{
    task->rank = s->mutual ? -k_max(priority, -INT64_MAX) : task->deadline - task->jitter;
    task->u = strict_utilisation(task->wcet, task->period);
    task->cpu = STRICT_NONE;
}

/* A mask, a Python integer of any size or None, into the row of task x. */
static bool read_mask(struct placement *self, uint32_t x, PyObject *mask)
{
    struct strict *s = &self->s;
    s->task[x].masked = mask && mask != Py_None;
    if (!s->task[x].masked)
        return true;
    if (!PyLong_Check(mask)) {
        PyErr_Format(PyExc_TypeError, "the mask of task %u is %.80s: must be an integer or None", (unsigned)x, Py_TYPE(mask)->tp_name);
        return false;
    }
    uint64_t *row = s->mask + (size_t)x * s->mask_words;
    int overflow;
    long long small = PyLong_AsLongLongAndOverflow(mask, &overflow);
    if (overflow < 0 || (!overflow && small < 0)) {
        PyErr_Format(PyExc_ValueError, "the mask of task %u is negative", (unsigned)x);
        return false;
    }
    memset(row, 0, s->mask_words * sizeof *row);
    if (!overflow) {
        row[0] = (uint64_t)small;
        return true;
    }
    PyObject *bits = PyLong_FromLong(64), *left = Py_NewRef(mask);
    for (uint32_t w = 0; bits && left && w < s->mask_words; w++) {
        row[w] = PyLong_AsUnsignedLongLongMask(left);
        /* Of int itself: a subclass may have its own >> that runs any code. */
        Py_SETREF(left, PyLong_Type.tp_as_number->nb_rshift(left, bits));
    }
    bool fine = bits && left;
    Py_XDECREF(bits);
    Py_XDECREF(left);
    return fine;
}

/* A task number from Python; `placed` says what it must be. Reading an argument may run any code, which may
 * change the placement: this one is read last. */
static bool number_of(struct placement *self, PyObject *from, bool placed, uint32_t *x)
{
    int64_t value = 0;
    if (!integer(from, "task", &value))
        return false;
    if (value < 0 || value >= TASKS_MOST) {
        PyErr_Format(PyExc_ValueError, "task is %lld: task numbers are 0 to %u", (long long)value, TASKS_MOST - 1);
        return false;
    }
    *x = (uint32_t)value;
    bool is_placed = *x < self->s.tasks && self->s.task[*x].cpu != STRICT_NONE;
    if (placed && !is_placed)
        PyErr_Format(PyExc_KeyError, "task %u is not placed", (unsigned)*x);
    else if (!placed && is_placed)
        PyErr_Format(PyExc_ValueError, "task %u is placed already: remove or resize it", (unsigned)*x);
    return placed == is_placed;
}

static bool cpu_of_argument(struct placement *self, PyObject *from, uint32_t *cpu)
{
    int64_t value = 0;
    if (!integer(from, "cpu", &value))
        return false;
    if (value < 0 || value >= self->s.cpus) {
        PyErr_Format(PyExc_IndexError, "cpu is %lld: there are %u", (long long)value, (unsigned)self->s.cpus);
        return false;
    }
    *cpu = (uint32_t)value;
    return true;
}

static PyObject *placement_admit(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    struct placement *self = (struct placement *)object;
    static const char *const names[] = {"task", "wcet", "period", "deadline", "jitter", "priority", "memory", "target", "mask", NULL};
    PyObject *given[9];
    uint32_t x, cpu;
    struct strict_task task = {.target = -1};
    int64_t priority = 0;
    if (!bind_arguments("admit", names, 4, 3, args, nargs, kwnames, given) || !integer(given[1], "wcet", &task.wcet) ||
        !integer(given[2], "period", &task.period))
        return NULL;
    task.deadline = task.period;
    if (!integer(given[3], "deadline", &task.deadline) || !integer(given[4], "jitter", &task.jitter) ||
        !integer(given[5], "priority", &priority) || !integer(given[6], "memory", &task.memory) ||
        !integer(given[7], "target", &task.target) || !number_of(self, given[0], false, &x) || !is_free(self) ||
        !is_valid(self, &task, -1) || !grow(self, (size_t)x + 1))
        return NULL;
    finish(&self->s, &task, priority);
    self->s.task[x] = task;
    if (!read_mask(self, x, given[8]))
        return NULL;
    struct k_arena scratch = {self->scratch, self->scratch_size};
    enum k_status status = strict_admit(&self->s, x, scratch, &cpu);
    if (status != K_OK)
        return bind_failed(status, "admit");
    return cpu == STRICT_NONE ? refuse(self, x) : PyLong_FromUnsignedLong(cpu);
}

static PyObject *placement_remove(PyObject *object, PyObject *number)
{
    struct placement *self = (struct placement *)object;
    uint32_t x;
    if (!number_of(self, number, true, &x) || !is_free(self))
        return NULL;
    strict_remove(&self->s, x);
    Py_RETURN_NONE;
}

/* Puts task x, as `changed`, on `cpu`; leaves it as it was where that fails. */
static PyObject *replace(struct placement *self, uint32_t x, struct strict_task changed, uint32_t cpu, const char *function)
{
    struct strict *s = &self->s;
    struct strict_task before = s->task[x];
    struct k_arena scratch = {self->scratch, self->scratch_size};
    struct strict_refusal why;
    bool fits;
    strict_remove(s, x);
    changed.cpu = STRICT_NONE;
    s->task[x] = changed;
    enum k_status status = strict_admit_on(s, x, cpu, scratch, &fits);
    if (status == K_OK && fits)
        return PyLong_FromUnsignedLong(cpu);
    if (status == K_OK)
        status = strict_explain(s, x, cpu, scratch, &why);
    s->task[x] = before;
    strict_put_back(s, x, before.cpu);
    return status == K_OK ? raise_refused(self, x, &why) : bind_failed(status, function);
}

static PyObject *placement_resize(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    struct placement *self = (struct placement *)object;
    static const char *const names[] = {"task", "wcet", "period", "deadline", NULL};
    PyObject *given[4];
    uint32_t x;
    int64_t wcet = 0, period = 0, deadline = 0;
    if (!bind_arguments("resize", names, 4, 2, args, nargs, kwnames, given) || !integer(given[1], "wcet", &wcet) ||
        !integer(given[2], "period", &period) || !integer(given[3], "deadline", &deadline) ||
        !number_of(self, given[0], true, &x) || !is_free(self))
        return NULL;
    struct strict_task task = self->s.task[x];
    task.wcet = wcet;
    task.period = given[2] ? period : task.period;
    task.deadline = given[3] ? deadline : task.deadline;
    if (!is_valid(self, &task, -1))
        return NULL;
    finish(&self->s, &task, -self->s.task[x].rank);
    return replace(self, x, task, self->s.task[x].cpu, "resize");
}

static PyObject *placement_move(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    struct placement *self = (struct placement *)object;
    static const char *const names[] = {"task", "cpu", NULL};
    PyObject *given[2];
    uint32_t x, cpu;
    if (!bind_arguments("move", names, 2, 2, args, nargs, kwnames, given) || !cpu_of_argument(self, given[1], &cpu) ||
        !number_of(self, given[0], true, &x) || !is_free(self))
        return NULL;
    return replace(self, x, self->s.task[x], cpu, "move");
}

enum { WCET, PERIOD, DEADLINE, JITTER, PRIORITY, MEMORY, TARGET, COLUMNS };
static const char *const column_names[] = {"wcet", "period", "deadline", "jitter", "priority", "memory", "target"};

static bool read_tasks(struct placement *self, const struct bind_column *column, PyObject *masks, uint32_t first, Py_ssize_t n)
{
    struct strict *s = &self->s;
    bool fine = true;
    if (masks && PySequence_Fast_GET_SIZE(masks) != n) {
        PyErr_Format(PyExc_ValueError, "mask has %zd entries, wcet %zd", PySequence_Fast_GET_SIZE(masks), n);
        fine = false;
    }
    for (Py_ssize_t i = 0; fine && i < n; i++) {
        struct strict_task task = {
            .wcet = column[WCET].data[i],
            .period = column[PERIOD].data[i],
            .deadline = column[DEADLINE].data ? column[DEADLINE].data[i] : column[PERIOD].data[i],
            .jitter = column[JITTER].data ? column[JITTER].data[i] : 0,
            .memory = column[MEMORY].data ? column[MEMORY].data[i] : 0,
            .target = column[TARGET].data ? column[TARGET].data[i] : -1,
        };
        uint32_t x = first + (uint32_t)i;
        if (s->task[x].cpu != STRICT_NONE) {
            PyErr_Format(PyExc_ValueError, "task %u is placed already: remove or resize it", (unsigned)x);
            fine = false;
        } else if ((fine = is_valid(self, &task, i))) {
            finish(s, &task, column[PRIORITY].data ? column[PRIORITY].data[i] : 0);
            s->task[x] = task;
            fine = !masks || read_mask(self, x, PySequence_Fast_GET_ITEM(masks, i));
        }
    }
    return fine;
}

static PyObject *placement_place(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    struct placement *self = (struct placement *)object;
    static const char *const names[] = {"wcet", "period", "deadline", "jitter", "priority", "memory", "target", "mask", "first", "order", NULL};
    PyObject *given[10], *result = NULL, *masks = NULL;
    struct bind_column column[COLUMNS] = {0};
    void *memory = NULL;
    int64_t first = 0, *cpus = NULL;
    int order = self->s.test == STRICT_FP ? STRICT_BY_URGENCY : STRICT_BY_UTILISATION;
    if (!bind_arguments("place", names, 3, 2, args, nargs, kwnames, given) || !integer(given[8], "first", &first) ||
        (given[9] && (order = one_of(given[9], "order", order_names)) < 0))
        return NULL;
    for (int c = 0; c < COLUMNS; c++)
        if (given[c] && !bind_ints(given[c], column_names[c], &column[c]))
            goto out;
    Py_ssize_t n = column[WCET].n;
    for (int c = 1; c < COLUMNS; c++)
        if (given[c] && column[c].n != n) {
            PyErr_Format(PyExc_ValueError, "%s has %zd entries, wcet %zd", column_names[c], column[c].n, n);
            goto out;
        }
    if (first < 0 || first > TASKS_MOST - 1 || n > TASKS_MOST - 1 - first) {
        PyErr_Format(PyExc_ValueError, "first is %lld: task numbers are 0 to %u", (long long)first, TASKS_MOST - 1);
        goto out;
    }
    if (given[7] && !(masks = PySequence_Fast(given[7], "mask is a sequence of integers and None")))
        goto out;
    if (!is_free(self) || !grow(self, (size_t)(first + n)) || !read_tasks(self, column, masks, (uint32_t)first, n))
        goto out;
    size_t room = strict_place_room((size_t)n);
    memory = PyMem_RawMalloc(room);
    cpus = PyMem_RawMalloc((size_t)(n ? n : 1) * sizeof *cpus);
    if (!memory || !cpus) {
        PyErr_NoMemory();
        goto out;
    }
    struct k_arena arena = {memory, room}, scratch = {self->scratch, self->scratch_size};
    uint32_t failed;
    struct strict_refusal why;
    enum k_status status;
    self->busy = true;
    BIND_UNLOCKED(n >= UNLOCK_FROM, status = strict_place(&self->s, (uint32_t)first, (uint32_t)n, (enum strict_order)order, arena, scratch, &failed, &why));
    self->busy = false;
    if (status != K_OK) {
        bind_failed(status, "place");
    } else if (failed != STRICT_NONE) {
        raise_refused(self, failed, &why);
    } else {
        for (Py_ssize_t i = 0; i < n; i++)
            cpus[i] = self->s.task[first + i].cpu;
        result = bind_index_list(cpus, n, (Py_ssize_t)self->s.cpus);
    }
out:
    for (int c = 0; c < COLUMNS; c++)
        bind_release(&column[c]);
    Py_XDECREF(masks);
    PyMem_RawFree(memory);
    PyMem_RawFree(cpus);
    return result;
}

static PyObject *placement_cpu_of(PyObject *object, PyObject *number)
{
    struct placement *self = (struct placement *)object;
    uint32_t x;
    if (!number_of(self, number, true, &x) || !is_free(self))
        return NULL;
    return PyLong_FromUnsignedLong(self->s.task[x].cpu);
}

static PyObject *placement_tasks_on(PyObject *object, PyObject *cpu_given)
{
    struct placement *self = (struct placement *)object;
    uint32_t cpu;
    if (!cpu_of_argument(self, cpu_given, &cpu) || !is_free(self))
        return NULL;
    PyObject *list = PyList_New(0);
    for (uint32_t x = self->s.cpu[cpu].head; list && x != STRICT_NONE; x = self->s.task[x].next) {
        PyObject *number = PyLong_FromUnsignedLong(x);
        if (!number || PyList_Append(list, number) < 0)
            Py_CLEAR(list);
        Py_XDECREF(number);
    }
    return list;
}

static PyObject *placement_response_times(PyObject *object, PyObject *cpu_given)
{
    struct placement *self = (struct placement *)object;
    uint32_t cpu;
    if (!cpu_of_argument(self, cpu_given, &cpu) || !is_free(self))
        return NULL;
    if (self->s.test != STRICT_FP) {
        PyErr_SetString(PyExc_ValueError, "response times are those of fixed priorities: this Placement has another test");
        return NULL;
    }
    size_t n = self->s.cpu[cpu].count;
    int64_t *response = PyMem_RawMalloc((n + 1) * sizeof *response);
    if (!response)
        return PyErr_NoMemory();
    struct k_arena scratch = {self->scratch, self->scratch_size};
    enum k_status status = strict_responses(&self->s, cpu, scratch, response);
    PyObject *list = status == K_OK ? bind_list(response, (Py_ssize_t)n) : bind_failed(status, "response_times");
    PyMem_RawFree(response);
    return list;
}

static PyObject *placement_rebalance(PyObject *object, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    struct placement *self = (struct placement *)object;
    static const char *const names[] = {"most", NULL};
    PyObject *given[1], *list = NULL;
    int64_t most = 100;
    if (!bind_arguments("rebalance", names, 1, 0, args, nargs, kwnames, given) || !integer(given[0], "most", &most) || !is_free(self))
        return NULL;
    if (most < 0 || most >= TASKS_MOST)
        return PyErr_Format(PyExc_ValueError, "most is %lld: must be between 0 and %u moves", (long long)most, TASKS_MOST - 1);
    size_t room = strict_rebalance_room(&self->s);
    void *memory = PyMem_RawMalloc(room);
    struct strict_move *moves = PyMem_RawMalloc((size_t)(most + 1) * sizeof *moves);
    uint32_t count = 0;
    if (!memory || !moves) {
        PyErr_NoMemory();
        goto out;
    }
    struct k_arena arena = {memory, room}, scratch = {self->scratch, self->scratch_size};
    enum k_status status;
    self->busy = true;
    BIND_UNLOCKED(self->s.cpus >= UNLOCK_FROM, status = strict_rebalance(&self->s, (uint32_t)most, arena, scratch, moves, &count));
    self->busy = false;
    if (status != K_OK) {
        bind_failed(status, "rebalance");
        goto out;
    }
    list = PyList_New(count);
    for (uint32_t i = 0; list && i < count; i++) {
        PyObject *move = Py_BuildValue("III", (unsigned)moves[i].task, (unsigned)moves[i].from, (unsigned)moves[i].to);
        if (!move)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, move);
    }
out:
    PyMem_RawFree(memory);
    PyMem_RawFree(moves);
    return list;
}

static PyObject *placement_loads(PyObject *object, PyObject *none)
{
    struct placement *self = (struct placement *)object;
    (void)none;
    if (!is_free(self))
        return NULL;
    PyObject *list = PyList_New(self->s.cpus);
    for (uint32_t q = 0; list && q < self->s.cpus; q++) {
        PyObject *load = PyFloat_FromDouble((double)self->s.cpu[q].load * 0x1p-62);
        if (!load)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, q, load);
    }
    return list;
}

#define FAST(name, function, doc) {name, (PyCFunction)(void (*)(void))function, METH_FASTCALL | METH_KEYWORDS, doc}

static PyMethodDef placement_methods[] = {
    FAST("admit", placement_admit,
         "admit($self, task, wcet, period, deadline=None, *, jitter=0, priority=0, memory=0, target=-1, mask=None)\n--\n\n"
         "Places one task and returns its CPU, or raises Refused."),
    FAST("place", placement_place,
         "place($self, wcet, period, deadline=None, *, jitter=None, priority=None, memory=None, target=None, mask=None, "
         "first=0, order=None)\n--\n\nPlaces all tasks of the columns and returns their CPUs, or raises Refused and places none."),
    FAST("resize", placement_resize,
         "resize($self, task, wcet, period=None, deadline=None)\n--\n\nChanges a task where it is, or raises Refused."),
    FAST("move", placement_move, "move($self, task, cpu)\n--\n\nMoves a task to a CPU, or raises Refused."),
    FAST("rebalance", placement_rebalance,
         "rebalance($self, most=100)\n--\n\nMoves (task, from, to) that would lower the greatest load; changes nothing."),
    {"remove", placement_remove, METH_O, "remove($self, task)\n--\n\nTakes a task away."},
    {"cpu_of", placement_cpu_of, METH_O, "cpu_of($self, task)\n--\n\nThe CPU of a task."},
    {"tasks_on", placement_tasks_on, METH_O, "tasks_on($self, cpu)\n--\n\nThe tasks on a CPU, most urgent first."},
    {"response_times", placement_response_times, METH_O,
     "response_times($self, cpu)\n--\n\nThe worst response times of tasks_on(cpu)."},
    {"loads", placement_loads, METH_NOARGS, "loads($self)\n--\n\nThe utilisation of every CPU."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot placement_slots[] = {
    {Py_tp_new, (void *)(uintptr_t)placement_new},
    {Py_tp_dealloc, (void *)(uintptr_t)placement_dealloc},
    {Py_tp_methods, placement_methods},
    {Py_tp_doc, "Tasks on CPUs that provably keep up; see mgmt/kernel/__init__.pyi."},
    {0, NULL},
};

static PyType_Spec placement_spec = {
    .name = "mgmt.kernel.Placement",
    .basicsize = sizeof(struct placement),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = placement_slots,
};

int bind_strict_exec(PyObject *module)
{
    struct kernel_state *state = PyModule_GetState(module);
    PyObject *refusal = PyImport_ImportModule("mgmt.kernel.refusal");
    if (!refusal)
        return -1;
    state->placement[1] = PyObject_GetAttrString(refusal, "Refused");
    Py_DECREF(refusal);
    state->placement[0] = PyType_FromModuleAndSpec(module, &placement_spec, NULL);
    if (!state->placement[0] || !state->placement[1])
        return -1;
    return PyModule_AddObjectRef(module, "Placement", state->placement[0]) < 0 ? -1 : PyModule_AddFunctions(module, bind_score_methods);
}

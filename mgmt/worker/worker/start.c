/* From a spec to a running process. */

enum { CHILD_STACK_BYTES = 64 << 10, NOT_EXECUTABLE = 126, NOT_FOUND = 127 };

static const char *const own_names[] = {
    "MITO_RESULT_DIR", "MITO_EXEC_DIR", "MITO_RESOURCE_DIR", "MITO_NEW_TASK", "MITO_TASK_UUID", "MITO_UPSTREAM_TASK_UUID"};
enum { N_OWN = sizeof own_names / sizeof own_names[0] };

static size_t name_length(const char *entry)
{
    return strcspn(entry, "=");
}

static bool is_among(const char *entry, char *const *at, size_t n)
{
    size_t length = name_length(entry) + 1;
    for (size_t k = 0; k < n; k++)
        if (strncmp(entry, at[k], length) == 0)
            return true;
    return false;
}

/* Takes our names out of a base environment: once, and not for each task. */
static void drop_own(struct texts *base)
{
    size_t kept = 0, n = base->n;
    char *block = n ? base->at[n + 1] : NULL;
    for (size_t k = 0; k < n; k++) {
        bool own = false;
        for (size_t i = 0; i < N_OWN; i++)
            own = own || (strncmp(base->at[k], own_names[i], strlen(own_names[i])) == 0
                          && base->at[k][strlen(own_names[i])] == '=');
        if (!own)
            base->at[kept++] = base->at[k];
    }
    if (n) {
        base->n = kept;
        base->at[kept] = NULL;
        base->at[kept + 1] = block;
    }
}

/* The environment of a task: its own, MITO_* unless it has set them, the rest of the base. Free only the list. */
static char **make_env(const struct texts *own, const struct texts *base, const struct job *j, const char *resources)
{
    static char mito[N_OWN][PATH_MAX + 32];
    const char *const values[N_OWN] = {place.result, place.exec, resources, place.new_task, j->uuid, j->upstream};
    char **env = malloc((own->n + N_OWN + base->n + 1) * sizeof *env);
    if (!env)
        out_of_memory();
    size_t n = 0;
    for (size_t k = 0; k < own->n; k++)
        env[n++] = own->at[k];
    for (size_t k = 0; k < N_OWN; k++) {
        char *end = stpcpy(stpcpy(mito[k], own_names[k]), "=");
        strcpy(end, values[k]);
        if (!is_among(mito[k], own->at, own->n))
            env[n++] = mito[k];
    }
    for (size_t k = 0; k < base->n; k++)
        if (!is_among(base->at[k], own->at, own->n))
            env[n++] = base->at[k];
    env[n] = NULL;
    return env;
}

static const char *env_value(char *const *env, const char *name, const char *otherwise)
{
    size_t n = strlen(name);
    for (; *env; env++)
        if (strncmp(*env, name, n) == 0 && (*env)[n] == '=')
            return *env + n + 1;
    return otherwise;
}

/*
 * The child shares the parent's memory and stops it until the exec: nothing is copied, and what went wrong is
 * simply there afterwards. Every signal is blocked meanwhile, so that no handler runs in shared memory.
 */
struct start {
    char *const *argv, *const *env;
    const char *cwd; /* or NULL */
    const char *path;
    int output;
    int err;
    bool at_cwd; /* the step of err */
};

/* What execvp does, with the PATH of the new environment. Returns only with errno. */
static void execute(const struct start *s)
{
    char program[PATH_MAX];
    bool denied = false;
    size_t n = strlen(s->argv[0]);
    if (strchr(s->argv[0], '/')) {
        execve(s->argv[0], s->argv, s->env);
        return;
    }
    for (const char *at = s->path;; at++) {
        size_t length = strcspn(at, ":");
        if (length + n + 2 <= sizeof program) {
            memcpy(program, at, length);
            program[length] = '/';
            memcpy(program + length + (length > 0), s->argv[0], n + 1); /* an empty entry is the working folder */
            execve(program, s->argv, s->env);
            denied = denied || errno == EACCES;
            if (errno != ENOENT && errno != ENOTDIR && errno != EACCES)
                return;
        }
        at += length;
        if (!*at)
            break;
    }
    errno = denied ? EACCES : ENOENT;
}

__attribute__((no_sanitize("address", "undefined"))) static int start_child(void *context)
{
    struct start *s = context;
    sigset_t none;
    setsid(); /* a fresh child never leads a group: this cannot fail */
    dup2(s->output, 1); /* stdin is the worker's own: null */
    dup2(s->output, 2);
    if (chdir(place.exec) < 0 || (s->cwd && chdir(s->cwd) < 0)) {
        s->at_cwd = true;
    } else {
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        execute(s); /* every descriptor above 2 is close-on-exec */
    }
    s->err = errno;
    _exit(NOT_FOUND);
}

static pid_t start_process(struct start *s)
{
    static _Alignas(16) char stack[CHILD_STACK_BYTES];
    return clone(start_child, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, s);
}

/* The status that a shell gives, and a sentence. */
static int refusal(const struct start *s, char *message, size_t cap)
{
    int status = !s->at_cwd && s->err == ENOENT ? NOT_FOUND : NOT_EXECUTABLE;
    const char *hint = "";
    if (s->at_cwd)
        snprintf(message, cap, "cannot enter the working folder '%.200s': %s", s->cwd ? s->cwd : place.exec, strerror(s->err));
    else {
        if (s->err == ENOENT)
            hint = strchr(s->argv[0], '/') ? " (or the interpreter it names is missing)" : " in any folder of PATH";
        else if (s->err == ENOEXEC)
            hint = " (a script needs a first line with #!)";
        else if (s->err == E2BIG)
            hint = " (pass it in a file)";
        snprintf(message, cap, "cannot execute '%.200s': %s%s", s->argv[0], strerror(s->err), hint);
    }
    return status;
}

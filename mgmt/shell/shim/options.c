/* The command line. */

enum { MAX_CGROUPS = 16, MAX_RLIMITS = 16, MAX_GROUPS = 64, MAX_CPUS = 8192, MAX_NODES = 1024 };
enum { RESET_ON_FORK = 1 /* SCHED_FLAG_RESET_ON_FORK */ };

struct rlimit_arg { const char *arg; int resource; struct rlimit value; };
struct policy { /* struct sched_attr of the kernel, first version */
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

static struct {
    const char *dir, *cwd, *cpus_arg, *nodes_arg, *policy_arg;
    int fd;
    struct cgroup cgroups[MAX_CGROUPS];
    int n_cgroups;
    const char *own_cgroups[MAX_CGROUPS];
    int n_own_cgroups;
    unsigned long cpus[MAX_CPUS / (8 * sizeof(unsigned long))];
    unsigned long nodes[MAX_NODES / (8 * sizeof(unsigned long))];
    struct policy policy;
    long nice, oom_score_adj, timer_slack_ns, umask, user, group;
    long lease_ns; /* on CLOCK_MONOTONIC; 0: none */
    bool has_nice, has_oom, has_slack, has_groups, mlock, gated;
    struct rlimit_arg rlimits[MAX_RLIMITS];
    int n_rlimits;
    gid_t groups[MAX_GROUPS];
    size_t n_groups;
    char **argv;
} opt = {.fd = -1, .umask = -1, .user = -1, .group = -1};

/* A whole number at *s up to one of the `ends` (NUL always ends it); *s moves behind it. */
static bool take_number(const char **s, int base, long low, long high, const char *ends, long *value)
{
    char *end;
    if (!((**s >= '0' && **s <= '9') || **s == '-'))
        return false;
    errno = 0;
    *value = strtol(*s, &end, base);
    if (errno || end == *s || *value < low || *value > high || (*end && !strchr(ends, *end)))
        return false;
    *s = end;
    return true;
}

static bool number(const char *s, int base, long low, long high, long *value)
{
    return take_number(&s, base, low, high, "", value) && !*s;
}

/* Numbers and ranges such as 0-3,8 as bits of `mask`, which has `size` of them. */
static bool parse_set(const char *s, unsigned long *mask, long size)
{
    const long bits = 8 * (long)sizeof(unsigned long);
    long first, last;
    do {
        if (!take_number(&s, 10, 0, size - 1, "-,", &first))
            return false;
        last = first;
        if (*s == '-' && (s++, !take_number(&s, 10, first, size - 1, ",", &last)))
            return false;
        for (long c = first; c <= last; c++)
            mask[c / bits] |= 1ul << (c % bits);
    } while (*s++ == ',');
    return true;
}

static bool parse_policy(const char *s)
{
    static const struct { const char *name; uint32_t policy; int numbers; } known[] = {
        {"other", SCHED_OTHER, 0}, {"batch", SCHED_BATCH, 0}, {"idle", SCHED_IDLE, 0},
        {"fifo", SCHED_FIFO, 1},   {"rr", SCHED_RR, 1},       {"deadline", SCHED_DEADLINE, 3},
    };
    long v[3] = {0};
    opt.policy_arg = s;
    for (size_t k = 0; k < sizeof known / sizeof known[0]; k++) {
        size_t n = strlen(known[k].name);
        if (strncmp(s, known[k].name, n) != 0 || (s[n] && s[n] != ':'))
            continue;
        s += n;
        for (int i = 0; i < known[k].numbers; i++)
            if (*s++ != ':' || !take_number(&s, 10, 1, LONG_MAX, ":", &v[i]))
                return false;
        if (*s || (known[k].numbers == 1 && v[0] > 99))
            return false;
        opt.policy = (struct policy){.size = sizeof opt.policy, .policy = known[k].policy};
        opt.policy.flags = known[k].numbers ? RESET_ON_FORK : 0;
        if (known[k].numbers == 1)
            opt.policy.priority = (uint32_t)v[0];
        opt.policy.runtime = known[k].numbers == 3 ? (uint64_t)v[0] : 0;
        opt.policy.deadline = (uint64_t)v[1];
        opt.policy.period = (uint64_t)v[2];
        return true;
    }
    return false;
}

static bool take_limit(const char **s, const char *ends, rlim_t *value)
{
    static const char unlimited[] = "unlimited";
    long v;
    if (strncmp(*s, unlimited, sizeof unlimited - 1) == 0) {
        *s += sizeof unlimited - 1;
        *value = RLIM_INFINITY;
        return !**s || strchr(ends, **s);
    }
    if (!take_number(s, 10, 0, LONG_MAX, ends, &v))
        return false;
    *value = (rlim_t)v;
    return true;
}

static bool parse_rlimit(const char *s)
{
    static const struct { const char *name; int resource; } known[] = {
        {"AS", RLIMIT_AS}, {"CORE", RLIMIT_CORE}, {"CPU", RLIMIT_CPU}, {"DATA", RLIMIT_DATA},
        {"FSIZE", RLIMIT_FSIZE}, {"LOCKS", RLIMIT_LOCKS}, {"MEMLOCK", RLIMIT_MEMLOCK},
        {"MSGQUEUE", RLIMIT_MSGQUEUE}, {"NICE", RLIMIT_NICE}, {"NOFILE", RLIMIT_NOFILE},
        {"NPROC", RLIMIT_NPROC}, {"RSS", RLIMIT_RSS}, {"RTPRIO", RLIMIT_RTPRIO},
        {"RTTIME", RLIMIT_RTTIME}, {"SIGPENDING", RLIMIT_SIGPENDING}, {"STACK", RLIMIT_STACK},
    };
    struct rlimit_arg *r = &opt.rlimits[opt.n_rlimits];
    const char *value = strchr(s, '=');
    if (!value || opt.n_rlimits == MAX_RLIMITS)
        return false;
    r->arg = s;
    for (size_t k = 0; k < sizeof known / sizeof known[0]; k++) {
        size_t n = strlen(known[k].name);
        if (n != (size_t)(value - s) || strncasecmp(s, known[k].name, n) != 0)
            continue;
        r->resource = known[k].resource;
        value++;
        opt.n_rlimits++;
        return take_limit(&value, ":", &r->value.rlim_cur) && *value++ == ':'
            && take_limit(&value, "", &r->value.rlim_max) && !*value;
    }
    return false;
}

static bool parse_groups(const char *s)
{
    long g;
    opt.has_groups = true;
    while (*s) {
        if (opt.n_groups == MAX_GROUPS || !take_number(&s, 10, 0, UINT32_MAX - 1l, ",", &g))
            return false;
        opt.groups[opt.n_groups++] = (gid_t)g;
        if (*s && !*++s)
            return false;
    }
    return true;
}

static bool parse_cgroup(const char *s)
{
    if (opt.n_cgroups == MAX_CGROUPS || strlen(s) > PATH_MAX - 64)
        return false;
    opt.cgroups[opt.n_cgroups++].path = s;
    return true;
}

static bool parse_own_cgroup(const char *s)
{
    if (opt.n_own_cgroups == MAX_CGROUPS || strlen(s) > PATH_MAX - 64)
        return false;
    opt.own_cgroups[opt.n_own_cgroups++] = s;
    return true;
}

static bool parse_log(const char *s)
{
    out.path = s;
    return *s && strlen(s) < PATH_MAX - 32;
}

static bool parse_option(const char *name, const char *value)
{
    long v;
    const long id_max = UINT32_MAX - 1l;
    if (!strcmp(name, "--dir"))
        return opt.dir = value, *value != 0;
    if (!strcmp(name, "--cwd"))
        return opt.cwd = value, true;
    if (!strcmp(name, "--log"))
        return parse_log(value);
    if (!strcmp(name, "--cgroup"))
        return parse_cgroup(value);
    if (!strcmp(name, "--shim-cgroup"))
        return parse_own_cgroup(value);
    if (!strcmp(name, "--cpus"))
        return parse_set(opt.cpus_arg = value, opt.cpus, MAX_CPUS);
    if (!strcmp(name, "--memory-nodes"))
        return parse_set(opt.nodes_arg = value, opt.nodes, MAX_NODES);
    if (!strcmp(name, "--policy"))
        return parse_policy(value);
    if (!strcmp(name, "--rlimit"))
        return parse_rlimit(value);
    if (!strcmp(name, "--groups"))
        return parse_groups(value);
    if (!strcmp(name, "--log-max-bytes"))
        return number(value, 10, 0, LONG_MAX, &v) && (out.max = v, true);
    if (!strcmp(name, "--log-keep"))
        return number(value, 10, 0, 1000, &out.keep);
    if (!strcmp(name, "--nice"))
        return opt.has_nice = number(value, 10, -20, 19, &opt.nice);
    if (!strcmp(name, "--oom-score-adj"))
        return opt.has_oom = number(value, 10, -1000, 1000, &opt.oom_score_adj);
    if (!strcmp(name, "--umask"))
        return number(value, 8, 0, 0777, &opt.umask);
    if (!strcmp(name, "--user"))
        return number(value, 10, 0, id_max, &opt.user);
    if (!strcmp(name, "--group"))
        return number(value, 10, 0, id_max, &opt.group);
    if (!strcmp(name, "--timer-slack-ns"))
        return opt.has_slack = number(value, 10, 0, LONG_MAX, &opt.timer_slack_ns);
    if (!strcmp(name, "--lease"))
        return number(value, 10, 0, LONG_MAX, &opt.lease_ns);
    return !strcmp(name, "--fd"); /* read before all others */
}

/* The descriptor to complain to is needed before any complaint. False: it is not an open one above 2. */
static bool find_control_fd(char **argv)
{
    long v;
    for (char **a = argv + 1; *a && strcmp(*a, "--") != 0; a++)
        if (!strcmp(*a, "--fd")) {
            if (!a[1] || !number(a[1], 10, 3, INT_MAX, &v) || fcntl((int)v, F_SETFD, FD_CLOEXEC) < 0)
                return false;
            opt.fd = (int)v;
        }
    return true;
}

/* Returns NULL, or the argument that is not understood. */
static const char *parse_options(char **argv)
{
    char **a = argv + 1;
    for (; *a && strcmp(*a, "--") != 0; a++) {
        if (!strcmp(*a, "--mlock"))
            opt.mlock = true;
        else if (!strcmp(*a, "--gated"))
            opt.gated = true;
        else if (!a[1] || !parse_option(*a, a[1]))
            return *a;
        else
            a++;
    }
    if (!opt.dir)
        return "--dir";
    if (!*a || !a[1])
        return "PROGRAM";
    opt.argv = a + 1;
    return NULL;
}

/* The child between fork and exec: every step in the order that works; the first refusal ends it. */

enum { CHILD_FAILED = 127, MPOL_BIND = 2 /* its header belongs to libnuma */ };

/* What the child says when a step is refused. Its pointers go to the program and argv: good in the parent, too. */
struct refusal { const char *stage; const char *at; int err; };

static int refusal_fd;
static mode_t inherited_umask;

_Noreturn static void refuse(const char *stage, int err, const char *at)
{
    struct refusal r = {stage, at, err};
    if (write(refusal_fd, &r, sizeof r) < 0) /* a pipe takes so few bytes whole */
        _exit(CHILD_FAILED - 1);
    _exit(CHILD_FAILED);
}

static void write_or_refuse(const char *stage, const char *path, const char *at, long value)
{
    char b[32];
    int n = snprintf(b, sizeof b, "%ld", value);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, b, (size_t)n) != n)
        refuse(stage, errno, at);
    close(fd);
}

static bool is_realtime(void)
{
    return opt.policy_arg && (opt.policy.policy == SCHED_FIFO || opt.policy.policy == SCHED_RR);
}

/*
 * A child that is in the group of version 2 from its first moment. Moving it in later is the same, but makes it
 * wait until the kernel has seen every CPU pass a quiet point: 10 ms and more. *born_in: which group, or -1.
 */
static pid_t fork_into_cgroup(int *born_in)
{
    struct { /* clone_args, which headers older than the kernel do not have in full */
        uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
    } how = {.flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD};
    char path[PATH_MAX];
    for (*born_in = 0; *born_in < opt.n_cgroups; ++*born_in) {
        cgroup_file(path, sizeof path, &opt.cgroups[*born_in], "cgroup.events"); /* version 1 has no such file */
        int fd = access(path, F_OK) < 0 ? -1 : open(opt.cgroups[*born_in].path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
            continue;
        how.cgroup = (uint64_t)fd;
        pid_t pid = (pid_t)syscall(SYS_clone3, &how, sizeof how);
        close(fd);
        if (pid >= 0)
            return pid;
        break; /* a kernel without it, or a group that takes no process: joining it says why */
    }
    *born_in = -1;
    return fork();
}

static void join_cgroups(int born_in)
{
    char path[PATH_MAX], b[32];
    for (int i = 0; i < opt.n_cgroups; i++) {
        cgroup_file(path, sizeof path, &opt.cgroups[i], "cpu.rt_runtime_us");
        if (is_realtime() && read_file(path, b, sizeof b) > 0 && atol(b) == 0)
            refuse("rt-runtime", EPERM, opt.cgroups[i].path); /* the group grants no real-time at all */
        if (i == born_in)
            continue;
        cgroup_file(path, sizeof path, &opt.cgroups[i], "cgroup.procs");
        write_or_refuse("cgroup", path, opt.cgroups[i].path, (long)getpid());
    }
}

/* The kernel cuts a mask to what the control group and the machine have: less than asked for is a refusal. */
static void set_affinity(void)
{
    static unsigned long got[sizeof opt.cpus / sizeof opt.cpus[0]];
    if (syscall(SYS_sched_setaffinity, 0, sizeof opt.cpus, opt.cpus) < 0
        || syscall(SYS_sched_getaffinity, 0, sizeof got, got) < 0)
        refuse("affinity", errno, opt.cpus_arg);
    if (memcmp(got, opt.cpus, sizeof got) != 0)
        refuse("affinity", EINVAL, opt.cpus_arg);
}

/* Memory of these NUMA nodes and of no other. The kernel cuts them to what the control group has, as it does CPUs. */
static void bind_memory(void)
{
    static unsigned long got[sizeof opt.nodes / sizeof opt.nodes[0]];
    int mode;
    const unsigned long bits = MAX_NODES + 1; /* the kernel takes one less than it is told */
    if (syscall(SYS_set_mempolicy, MPOL_BIND, opt.nodes, bits) < 0
        || syscall(SYS_get_mempolicy, &mode, got, bits, NULL, 0) < 0)
        refuse("memory-nodes", errno, opt.nodes_arg);
    if (memcmp(got, opt.nodes, sizeof got) != 0)
        refuse("memory-nodes", EINVAL, opt.nodes_arg);
}

static void set_identity(void)
{
    bool changed = opt.user >= 0 || opt.group >= 0;
    /* A changed user never keeps the shim's supplementary groups. */
    if ((opt.has_groups || (changed && geteuid() == 0)) && setgroups(opt.n_groups, opt.groups) < 0)
        refuse("groups", errno, NULL);
    gid_t g = (gid_t)opt.group;
    uid_t u = (uid_t)opt.user;
    if (opt.group >= 0 && setresgid(g, g, g) < 0)
        refuse("group", errno, NULL);
    if (opt.user >= 0 && setresuid(u, u, u) < 0)
        refuse("user", errno, NULL);
}

_Noreturn static void run_child(int pipe_write, int born_in)
{
    reset_signals();
    setsid(); /* a fresh fork never leads a group: this cannot fail */
    if (dup2(pipe_write, 1) < 0 || dup2(pipe_write, 2) < 0)
        refuse("stdio", errno, NULL);

    join_cgroups(born_in);
    if (opt.cpus_arg)
        set_affinity();
    if (opt.nodes_arg)
        bind_memory();
    if (opt.policy_arg && syscall(SYS_sched_setattr, 0, &opt.policy, 0) < 0)
        refuse("policy", errno, opt.policy_arg);
    if (opt.has_nice && setpriority(PRIO_PROCESS, 0, (int)opt.nice) < 0)
        refuse("nice", errno, NULL);
    /* Before the limits: a small RLIMIT_NOFILE would not let its file be opened. */
    if (opt.has_oom)
        write_or_refuse("oom-score-adj", "/proc/self/oom_score_adj", NULL, opt.oom_score_adj);
    for (int i = 0; i < opt.n_rlimits; i++)
        if (syscall(SYS_prlimit64, 0, opt.rlimits[i].resource, &opt.rlimits[i].value, NULL) < 0)
            refuse("rlimit", errno, opt.rlimits[i].arg);
    if (opt.has_slack && prctl(PR_SET_TIMERSLACK, (unsigned long)opt.timer_slack_ns, 0, 0, 0) < 0)
        refuse("timer-slack", errno, NULL);
    umask(opt.umask >= 0 ? (mode_t)opt.umask : inherited_umask);
    if (opt.cwd && chdir(opt.cwd) < 0)
        refuse("cwd", errno, opt.cwd);
    set_identity();
    execvp(opt.argv[0], opt.argv); /* every descriptor above 2 is close-on-exec */
    refuse("exec", errno, opt.argv[0]);
}

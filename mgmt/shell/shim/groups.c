/* Control groups: who is in them, and their end. */

struct cgroup { const char *path; bool ours; /* it was empty before the unit: all in it may be killed */ };

static void cgroup_file(char *path, size_t cap, const struct cgroup *g, const char *file)
{
    snprintf(path, cap, "%s/%s", g->path, file);
}

static bool any_pid(pid_t pid, void *context)
{
    (void)pid, (void)context;
    return false;
}

static bool cgroup_is_empty(const struct cgroup *g)
{
    char path[PATH_MAX], b[256];
    cgroup_file(path, sizeof path, g, "cgroup.events"); /* version 2: says so for the groups below, too */
    if (read_file(path, b, sizeof b) > 0)
        return strstr(b, "populated 0") != NULL;
    cgroup_file(path, sizeof path, g, "cgroup.procs");
    return each_pid(path, any_pid, NULL) <= 0;
}

static bool kill_member(pid_t pid, void *procs_path)
{
    if (pid > 1 && pid != self)
        signal_proven(pid, SIGKILL, procs_path);
    return true;
}

static void cgroup_kill(const struct cgroup *g)
{
    char path[PATH_MAX];
    cgroup_file(path, sizeof path, g, "cgroup.kill");
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        bool done = write(fd, "1", 1) == 1;
        close(fd);
        if (done)
            return;
    }
    cgroup_file(path, sizeof path, g, "cgroup.procs");
    each_pid(path, kill_member, path);
}

/*
 * The other mode, for what is no unit: a hook or a probe, of which nothing may be left when it is over.
 *
 *   mgmt-shim --command FOLDER PROGRAM ARG...
 *
 * PROGRAM runs in FOLDER (empty: where we are), in a session of its own, with our descriptors 0, 1 and 2. The end of
 * the stream socket that is descriptor 3, which comes with that of the daemon if not before, ends it. Whatever it
 * started ends with it, wherever that went: orphans come back to us, and we go on until the kernel says that there
 * is no child. Only then are we heard, by one line on the socket: `code=N`, `signal=N`, or, when nothing was
 * executed, `stage=cwd|fork|exec|... errno=N`. Descriptor 4 is just held until then.
 */

enum { LIFELINE = 3, HELD = 4 };

static struct { pid_t pid; int status; bool gone, childless; } command;

/* Returns the name of the step that failed, with errno. */
static const char *start_command(const char *folder, char **argv)
{
    static volatile int refused; /* written by the child, which shares our memory until it executes */
    if (*folder && chdir(folder) < 0)
        return "cwd";
    command.pid = vfork();
    if (command.pid == 0) {
        setsid();
        prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0); /* should somebody kill us */
        reset_signals();
        execvp(argv[0], argv);
        refused = errno;
        _exit(CHILD_FAILED);
    }
    errno = command.pid < 0 ? errno : refused;
    return command.pid < 0 ? "fork" : refused ? "exec" : NULL;
}

static void reap_command(void)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG | __WALL)) > 0)
        if (pid == command.pid && !command.gone) {
            command.gone = true;
            command.status = status;
        }
    command.childless = pid < 0 && errno == ECHILD;
}

/* Until nothing is left. The command is ended when the lifeline is, and what it left when it has ended itself. */
static void await_command(int signal_fd)
{
    struct pollfd on[] = {{.fd = LIFELINE, .events = POLLIN}, {.fd = signal_fd, .events = POLLIN}};
    bool ending = false;
    int retry_ms = 0;
    while (!command.childless) {
        if (poll(on, 2, ending ? retry_ms : -1) < 0)
            continue;
        if (on[1].revents)
            drain_signals(signal_fd);
        reap_command();
        if (command.childless || !(ending || command.gone || on[0].revents))
            continue;
        if (!ending)
            setpriority(PRIO_PROCESS, 0, -20); /* where allowed: to be faster than a fork loop */
        ending = true;
        on[0].fd = -1; /* nobody says anything there: it was the end */
        kill_descendants();
        reap_command();
        retry_ms = kill_again_after_ms(retry_ms, on[1].revents);
    }
}

static int serve_command(char **argv)
{
    struct text t = {0};
    const char *stage;
    int signal_fd;
    close_others(LIFELINE, HELD);
    fcntl(LIFELINE, F_SETFD, FD_CLOEXEC);
    fcntl(HELD, F_SETFD, FD_CLOEXEC);
    detach();
    if (!adopt_descendants())
        stage = "subreaper";
    else if ((signal_fd = open_child_signals()) < 0)
        stage = "signalfd";
    else if (!(stage = start_command(argv[0], argv + 1)))
        await_command(signal_fd);
    if (stage)
        put(&t, "stage=%s errno=%d\n", stage, errno);
    else if (WIFEXITED(command.status))
        put(&t, "code=%d\n", WEXITSTATUS(command.status));
    else
        put(&t, "signal=%d\n", WTERMSIG(command.status));
    write_all(LIFELINE, t.b, t.n);
    return 0;
}

/* What a parent hands down, and what is done with it: by us, and by the child before it executes its program. */

/* Closes all but 0, 1, 2 and first..last: it would be held for our whole life. A `last` below 3 keeps none more. */
static void close_others(int first, int last)
{
    int fd;
    do /* 0, 1 and 2 are something, or a later descriptor would become one of them */
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= 2);
    int keep = last < 0 ? 2 : last;
    if (syscall(SYS_close_range, (unsigned)keep + 1, ~0u, 0) < 0)
        for (fd = (int)sysconf(_SC_OPEN_MAX) - 1; fd > keep; fd--)
            close(fd);
    for (fd = 3; fd < first; fd++)
        close(fd);
}

/* No terminal and no signal reaches us: only KILL and STOP are not blocked. */
static void detach(void)
{
    struct sigaction ignore = {.sa_handler = SIG_IGN}, normal = {.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDSTOP};
    static const int ignored[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGPIPE, SIGUSR1, SIGUSR2, SIGALRM,
                                  SIGTSTP, SIGTTIN, SIGTTOU, SIGXFSZ};
    sigset_t all;
    setsid(); /* fails where it is the leader already */
    prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0);
    for (size_t k = 0; k < sizeof ignored / sizeof ignored[0]; k++)
        sigaction(ignored[k], &ignore, NULL);
    sigaction(SIGCHLD, &normal, NULL); /* ignored, the kernel would reap for us */
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
}

/* In the child: every signal does what it does by default, and none is blocked. */
static void reset_signals(void)
{
    /* Not by sigaction(): the C library keeps 32 and 33 to itself and refuses them, but a parent that ignores
     * them hands that down. Whatever its layout, all zero is the default action. */
    static const unsigned long normal[8];
    for (int s = 1; s <= SIGRTMAX; s++)
        syscall(SYS_rt_sigaction, s, normal, NULL, 8);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

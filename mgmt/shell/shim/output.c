/*
 * The log of the unit's output. Nothing here waits: bytes that cannot be written are counted and given up, and a
 * line in the log says so at the place where they are missing.
 */

enum { CHUNK_BYTES = 1 << 16 };

static char chunk[CHUNK_BYTES];

static struct {
    const char *path;
    int fd;
    int64_t size, max, rotate_at;
    long keep;
    int64_t dropped, unreported;
    int err;
    bool midline;
} out = {.fd = -1};

static void log_open(void)
{
    struct stat st;
    out.fd = open(out.path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0640);
    if (out.fd < 0)
        out.err = errno;
    out.size = out.fd >= 0 && fstat(out.fd, &st) == 0 && S_ISREG(st.st_mode) ? st.st_size : 0;
    out.rotate_at = out.max ? out.max : INT64_MAX;
    out.midline = false;
}

/* FILE.1 is the newest of at most `keep` older files. When renaming fails, the file grows by another turn. */
static void log_rotate(void)
{
    char from[PATH_MAX + 16], to[PATH_MAX + 16];
    for (long k = out.keep; k > 1; k--) {
        snprintf(from, sizeof from, "%s.%ld", out.path, k - 1);
        snprintf(to, sizeof to, "%s.%ld", out.path, k);
        rename(from, to);
    }
    snprintf(to, sizeof to, "%s.1", out.path);
    if (out.keep ? rename(out.path, to) : unlink(out.path)) {
        out.rotate_at = out.size + out.max;
        return;
    }
    close_fd(&out.fd);
    log_open();
}

/* Opens the file again when it was removed by somebody, turns it over when it is full. */
static bool log_ready(void)
{
    struct stat st;
    if (out.fd >= 0 && fstat(out.fd, &st) == 0 && st.st_nlink == 0)
        close_fd(&out.fd);
    if (out.fd < 0)
        log_open();
    if (out.fd >= 0 && out.size >= out.rotate_at)
        log_rotate();
    return out.fd >= 0;
}

/* Says in the log, as soon as that can be written again, how much is missing at this place. */
static bool log_report_dropped(void)
{
    struct text t = {0};
    if (!out.unreported)
        return true;
    put(&t, "%smgmt-shim: %lld bytes of output dropped (%s)\n", out.midline ? "\n" : "",
        (long long)out.unreported, strerror(out.err));
    ssize_t n = write(out.fd, t.b, t.n);
    if (n != (ssize_t)t.n) {
        if (n > 0 && ftruncate(out.fd, out.size) < 0)
            out.size += n;
        return false;
    }
    out.size += n;
    out.unreported = 0;
    out.midline = false;
    return true;
}

static void log_write(const char *b, size_t n)
{
    while (out.path && n) {
        if (!log_ready() || !log_report_dropped())
            break;
        size_t take = n;
        int64_t room = out.rotate_at > out.size ? out.rotate_at - out.size : 0;
        if (room < (int64_t)n) { /* turn over after the line that crosses the limit */
            const char *from = b + room;
            const char *line = memchr(from, '\n', n - (size_t)(from - b));
            take = line ? (size_t)(line - b) + 1 : n;
        }
        ssize_t w = write(out.fd, b, take);
        if (w < 0 && errno == EINTR)
            continue;
        if (w <= 0) {
            out.err = errno;
            break;
        }
        out.size += w;
        out.midline = b[w - 1] != '\n';
        b += w;
        n -= (size_t)w;
    }
    out.dropped += (int64_t)n;
    out.unreported += out.path ? (int64_t)n : 0;
}

static void log_reopen(void)
{
    if (!out.path)
        return;
    close_fd(&out.fd);
    if (log_ready())
        log_report_dropped();
}

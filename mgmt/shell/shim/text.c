/* Text and file helpers of the shim and the worker. No allocation anywhere: every buffer is on the stack or static. */

struct text { size_t n; char b[2048]; };

__attribute__((format(printf, 2, 3))) static void put(struct text *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(t->b + t->n, sizeof t->b - t->n, format, args);
    va_end(args);
    if (n > 0)
        t->n += (size_t)n < sizeof t->b - t->n ? (size_t)n : sizeof t->b - t->n - 1;
}

/* Appends ` key=value`, the value percent-encoded and cut at 256 bytes. */
static inline void put_encoded(struct text *t, const char *key, const char *value)
{
    put(t, " %s=", key);
    for (int i = 0; value[i] && i < 256; i++) {
        unsigned char c = (unsigned char)value[i];
        if (c <= ' ' || c >= 127 || c == '%' || c == '=')
            put(t, "%%%02X", c);
        else
            put(t, "%c", c);
    }
}

static inline int64_t clock_ns(clockid_t id)
{
    struct timespec t = {0};
    clock_gettime(id, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* Reads at most cap-1 bytes and ends them with NUL. Returns their number, or -1 with errno. */
static ssize_t read_file(const char *path, char *b, size_t cap)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n = read(fd, b, cap - 1);
    int err = errno;
    close(fd);
    errno = err;
    if (n >= 0)
        b[n] = 0;
    return n;
}

static inline bool write_all(int fd, const char *b, size_t n)
{
    while (n) {
        ssize_t w = write(fd, b, n);
        if (w < 0 && errno == EINTR)
            continue;
        if (w <= 0)
            return false;
        b += w;
        n -= (size_t)w;
    }
    return true;
}

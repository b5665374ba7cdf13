/*
 * The worker's own folder, which tasks use one after the other:
 *
 *   exec/ result/ resource/ new-task.json     what MITO_* name; empty when a task starts
 *   in/TASK.ATTEMPT/                          resources that the crew has put there
 *   out/TASK.ATTEMPT/ out/TASK.ATTEMPT.log    results and whole output, the crew's once the task is DONE
 *
 * A folder that is known to be empty has the time of modification 0. Whatever is put into it changes that, so one
 * stat tells a folder that nobody has touched, which is nearly every one.
 */

enum { MAX_DEPTH = 60 /* a deeper tree is taken apart from its top */ };

static struct {
    char top[PATH_MAX / 2];
    char exec[PATH_MAX], result[PATH_MAX], resource[PATH_MAX], new_task[PATH_MAX], in[PATH_MAX], out[PATH_MAX];
} place;

static bool empty_folder(int top, int folder, int depth);

/* Removes whatever `name` is in the folder `at`, following no link. False when something of it stays. */
static bool remove_entry(int top, int at, const char *name, int depth)
{
    char moved[64];
    static unsigned serial;
    if (unlinkat(at, name, 0) == 0 || errno == ENOENT)
        return true;
    if (errno != EISDIR && errno != EPERM)
        return false;
    if (depth >= MAX_DEPTH) { /* a later pass over the top finds it there */
        snprintf(moved, sizeof moved, ".deep-%u", serial++);
        return renameat(at, name, top, moved) == 0;
    }
    int folder = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder < 0 && errno == EACCES && fchmodat(at, name, 0700, 0) == 0)
        folder = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder < 0)
        return false;
    fchmod(folder, 0700);
    bool empty = empty_folder(top < 0 ? folder : top, folder, depth + 1);
    close(folder);
    return empty && unlinkat(at, name, AT_REMOVEDIR) == 0;
}

/* Removes all that is in an open folder; `top` is the folder into which it may move what is too deep. */
static bool empty_folder(int top, int folder, int depth)
{
    int again = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *listing = again < 0 ? NULL : fdopendir(again);
    if (!listing) {
        close_fd(&again);
        return false;
    }
    bool removed = true, good = true;
    while (removed && good) { /* until a pass finds nothing: one may miss what was moved to the top meanwhile */
        removed = false;
        rewinddir(listing);
        for (struct dirent *e; good && (e = readdir(listing)) != NULL;) {
            if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
                continue;
            good = remove_entry(top, folder, e->d_name, depth);
            removed = true;
        }
    }
    closedir(listing);
    return good;
}

static bool remove_tree(const char *path)
{
    return remove_entry(-1, AT_FDCWD, path, 0);
}

static bool is_untouched(const char *path)
{
    struct stat s;
    return lstat(path, &s) == 0 && S_ISDIR(s.st_mode) && (s.st_mode & 07777) == 0700 && s.st_mtim.tv_sec == 0;
}

static bool make_empty(const char *path)
{
    static const struct timespec never[2];
    return mkdir(path, 0700) == 0 && chmod(path, 0700) == 0 && utimensat(AT_FDCWD, path, never, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Makes `path` an empty folder. What cannot be removed is moved away, into out/. False with errno. */
static bool clear_folder(const char *path)
{
    char away[PATH_MAX + 32];
    if (is_untouched(path))
        return true;
    if (!remove_tree(path)) {
        snprintf(away, sizeof away, "%s/left-%lld", place.out, (long long)clock_ns(CLOCK_REALTIME));
        if (rename(path, away) < 0)
            return false;
    }
    return make_empty(path);
}

/* NULL, or the path that cannot be an empty folder. */
static const char *clear_folders(void)
{
    const char *const paths[] = {place.exec, place.result, place.resource};
    for (size_t k = 0; k < sizeof paths / sizeof paths[0]; k++)
        if (!clear_folder(paths[k]))
            return paths[k];
    return NULL;
}

static bool make_folder(const char *path)
{
    return mkdir(path, 0700) == 0 || errno == EEXIST;
}

static bool use_place(const char *folder)
{
    struct { char *path; const char *name; } names[] = {
        {place.exec, "exec"}, {place.result, "result"}, {place.resource, "resource"},
        {place.new_task, "new-task.json"}, {place.in, "in"}, {place.out, "out"}};
    snprintf(place.top, sizeof place.top, "%s", folder);
    for (size_t k = 0; k < sizeof names / sizeof names[0]; k++)
        snprintf(names[k].path, PATH_MAX, "%s/%s", place.top, names[k].name);
    return make_folder(place.top) && make_folder(place.in) && make_folder(place.out) && remove_tree(place.new_task)
        && clear_folders() == NULL;
}

/* TASK.ATTEMPT below a folder of the place. */
static void task_path(char path[PATH_MAX], const char *folder, const struct job *j, const char *end)
{
    snprintf(path, PATH_MAX, "%.*s/%lld.%lld%s", PATH_MAX - 64, folder, (long long)j->task, (long long)j->attempt, end);
}

/* What the crew had put there for it. */
static void remove_inputs(const struct job *j)
{
    char path[PATH_MAX];
    task_path(path, place.in, j, "");
    remove_tree(path);
}

/* Moves what the task has left in one of its folders to out/; `path` names it, "" when it left nothing. */
static bool keep_folder(const char *folder, const struct job *j, const char *end, char path[PATH_MAX])
{
    struct stat s;
    path[0] = 0;
    if (is_untouched(folder) || lstat(folder, &s) < 0)
        return true;
    if (S_ISDIR(s.st_mode)) {
        chmod(folder, 0700);
        if (rmdir(folder) == 0) /* it was emptied again */
            return true;
    }
    task_path(path, place.out, j, end);
    return remove_tree(path) && rename(folder, path) == 0;
}

enum new_task { NO_NEW_TASK, NEW_TASK, BAD_NEW_TASK };

/* Appends the file that describes the next task, and removes it. */
static enum new_task read_new_task(struct bytes *to)
{
    enum { LIMIT = 64 << 10 };
    struct stat s;
    int fd = open(place.new_task, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return NO_NEW_TASK;
    enum new_task found = BAD_NEW_TASK;
    if (fd >= 0 && fstat(fd, &s) == 0 && S_ISREG(s.st_mode) && s.st_size <= LIMIT) {
        ssize_t n;
        found = s.st_size ? NEW_TASK : NO_NEW_TASK; /* made and left empty: none */
        while ((n = read(fd, grow(to, LIMIT + 1 - to->n), LIMIT + 1 - to->n)) > 0 && to->n <= LIMIT)
            to->n += (size_t)n;
        if (n < 0 || to->n > LIMIT)
            found = BAD_NEW_TASK;
    }
    close_fd(&fd);
    remove_tree(place.new_task);
    return found;
}

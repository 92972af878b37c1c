/* Random sequences of the calls that take ids, and of what decides about them.
 *
 *   caller @fuzz wide|placed|folded FIRST COUNT [STEP,...]
 *
 * plays COUNT sequences from this number on and prints what each step did, in a way that is the same
 *   wide    where all ids are mapped: the ids that are seen are printed as their places,
 *   placed  on a node, if the caller places the ids that it asks for,
 *   folded  on a supervised node.
 * In sequences of an even number, all ids have places of their own: only these are for "wide". In the others two ids may
 * share a place: these are for "placed". With a list, only these steps are played, which are the same as without.
 */
#include "fuzz.h"
#include <poll.h>
#include <semaphore.h>
#include <sys/xattr.h>

enum { STEPS = 40 };

enum how how;
/* Whether it is looked at from a user namespace of the caller's own, where nothing has a place. */
static int foreign;
/* Whether the clock that files are marked with goes on in steps. */
static int is_clock_coarse;

static unsigned shown(unsigned id) { return how == WIDE && !foreign ? place(id) : id; }

/* ---- What is to be seen after a step. */

/* Those who make calls: this process, and threads or processes beside it. */
static struct helper {
    sem_t go, done;
    struct call *call; /* to be made; NULL: to tell */
    int quits, foreign;
    char told[2][LINE];
} helpers[HELPERS + 1];

static void tell_thread(char *line)
{
    static gid_t groups[65536];
    unsigned id[8], sum = 0;
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct caps[2] = {{0}};
    int n, few = 0;
    syscall(SYS_getresuid, &id[0], &id[1], &id[2]);
    syscall(SYS_getresgid, &id[4], &id[5], &id[6]);
    id[3] = syscall(SYS_setfsuid, -1), id[7] = syscall(SYS_setfsgid, -1);
    for (int i = 0; i < 8; i++)
        id[i] = shown(id[i]);
    line += sprintf(line, "uid %u %u %u %u gid %u %u %u %u groups", id[0], id[1], id[2], id[3], id[4], id[5], id[6], id[7]);
    n = syscall(SYS_getgroups, LENGTH(groups), groups);
    /* The kernel sorts them by numbers from outside. */
    unsigned counts[2048] = {0}, others = 0;
    for (int i = 0; i < n; i++) {
        gid_t group = shown(groups[i]);
        if (group < LENGTH(counts))
            counts[group]++;
        else
            others++;
        sum += group * 7919;
    }
    for (size_t i = 0, told = 0; i < LENGTH(counts) && told < 12; i++)
        if (counts[i])
            line += sprintf(line, " %zux%u", i, counts[i]), told++;
    line += sprintf(line, " others %u sum %x", others, sum);
    syscall(SYS_capget, &header, caps);
    for (int c = 0; c <= CAP_SETUID; c++)
        few |= (syscall(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, c, 0, 0) == 1) << c | (syscall(SYS_prctl, PR_CAPBSET_READ, c) == 1) << (c + 16);
    int death = 0;
    syscall(SYS_prctl, PR_GET_PDEATHSIG, &death);
    sprintf(line, " caps %x%08x %x%08x %x%08x some %x securebits %lx dumpable %ld nnp %ld pdeath %d", caps[1].effective, caps[0].effective,
            caps[1].permitted, caps[0].permitted, caps[1].inheritable, caps[0].inheritable, few, syscall(SYS_prctl, PR_GET_SECUREBITS),
            syscall(SYS_prctl, PR_GET_DUMPABLE), syscall(SYS_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), death);
}

static const char *const watched[] = {"f0", "f1", "f2", "f3", "d0/x", "d1/x", "fifo", "d0", "d1", ".", "..", "link", "d0/up"};

static const char *const attributes[] = {"system.posix_acl_access", "system.posix_acl_default", "security.capability"};

/* Prints what has changed. */
static void tell_files(struct stat *before)
{
    char line[LINE], value[64], *end = line;
    foreign = helpers[0].foreign;
    for (size_t i = 0; i < LENGTH(watched); i++) {
        struct stat s;
        int fd = WATCHED + i;
        must(fstatat(fd, "", &s, AT_EMPTY_PATH) == 0);
        s.st_uid = shown(s.st_uid), s.st_gid = shown(s.st_gid);
        int changed = s.st_ctim.tv_sec != before[i].st_ctim.tv_sec || s.st_ctim.tv_nsec != before[i].st_ctim.tv_nsec;
        if (changed || s.st_uid != before[i].st_uid || s.st_gid != before[i].st_gid || s.st_mode != before[i].st_mode)
            end += sprintf(end, " %s %o %u:%u%s%s", watched[i], s.st_mode & 07777, s.st_uid, s.st_gid,
                           fgetxattr(fd, "security.capability", value, sizeof value) > 0 ? " with capabilities" : "", changed ? ";" : " OLD;");
        before[i] = s;
        for (int k = 0; changed && k < 2; k++) {
            uint32_t list[64];
            ssize_t size = fgetxattr(fd, attributes[k], list, sizeof list);
            for (ssize_t n = 1; n + 1 < size / 4; n += 2)
                end += sprintf(end, " %x:%d", list[n], (int)shown(list[n + 1]));
        }
    }
    *end = 0;
    if (end != line)
        printf("    %s\n", line + 1);
}

/* ---- Threads, and processes that share memory without being threads. */

static void await(sem_t *s)
{
    while (sem_wait(s))
        ;
}

static void work(struct helper *h)
{
    if (h->call)
        make(h->call);
    else
        tell_thread(h->told[1]);
}

static int help(void *argument)
{
    struct helper *h = argument;
    for (;;) {
        await(&h->go);
        if (h->quits)
            return 0;
        work(h);
        sem_post(&h->done);
    }
}

static void *help_as_thread(void *argument)
{
    help(argument);
    return NULL;
}

static void begin(int who, struct call *call)
{
    struct helper *h = &helpers[who];
    h->call = call;
    if (who)
        sem_post(&h->go);
}

static void finish(int who)
{
    if (who)
        await(&helpers[who].done);
    else
        work(&helpers[0]);
}

static void start_helpers(int as_threads, pthread_t *threads, pid_t *pids)
{
    for (int i = 1; i <= HELPERS; i++) {
        must(sem_init(&helpers[i].go, 0, 0) == 0 && sem_init(&helpers[i].done, 0, 0) == 0);
        if (as_threads)
            start_thread(&threads[i], 1 << 20, help_as_thread, &helpers[i]);
        else
            must((pids[i] = clone(help, (char *)malloc(1 << 20) + (1 << 20), CLONE_VM | CLONE_FS | CLONE_FILES | SIGCHLD, &helpers[i])) > 0);
    }
}

/* ---- A sequence. */

struct play {
    int threads, number, step;
    const char *only;
    struct stat files[LENGTH(watched)];
};

/* Whether a step is in the list. */
static int is_wanted(const char *list, int step)
{
    for (const char *at = list; at && *at; at = strchr(at, ',') ? strchr(at, ',') + 1 : "")
        if (atoi(at) == step)
            return 1;
    return list == NULL;
}

static void tell_of(int who)
{
    struct helper *h = &helpers[who];
    foreign = h->foreign;
    begin(who, NULL);
    finish(who);
    if (strcmp(h->told[0], h->told[1]))
        printf("    %s\n", strcpy(h->told[0], h->told[1]));
}

/* Waits until the clock that files are marked with goes on, where it is that coarse. */
static void until_tick(void)
{
    struct timespec then, now;
    clock_gettime(CLOCK_REALTIME_COARSE, &then);
    do
        clock_gettime(CLOCK_REALTIME_COARSE, &now);
    while (is_clock_coarse && now.tv_nsec == then.tv_nsec);
}

/* In a new user namespace: names its own ids 0. */
static void map_own_ids(unsigned uid, unsigned gid)
{
    const struct {
        const char *file;
        unsigned id;
    } maps[] = {{"setgroups", 0}, {"uid_map", uid}, {"gid_map", gid}};
    for (int i = 0; i < 3; i++) {
        char path[32], text[32];
        sprintf(path, "/proc/self/%s", maps[i].file);
        int n = i ? sprintf(text, "0 %u 1", maps[i].id) : sprintf(text, "deny"), fd = open(path, O_WRONLY | O_CLOEXEC);
        printf("    %s: %s\n", maps[i].file, result(fd < 0 || write(fd, text, n) < 0 ? -errno : 0));
        close(fd);
    }
}

static struct call calls[HELPERS + 4];

/* Prints what a call answered. */
static void tell_call(const struct call *c, int number, int who)
{
    char text[32] = "";
    foreign = helpers[who].foreign;
    if (c->kind & IS_ID && c->abi != X32)
        sprintf(text, "%u", shown(c->ret));
    printf("%d.%d: %s = %s%s\n", number, who, c->text, text[0] ? text : result(c->ret), c->wrong);
}

static void *play_steps(void *argument);

static void play_step(struct play *p)
{
    int number = p->step, who = upto(p->threads + 1), n = any_step(calls, p->threads), ended = 0;
    until_tick();
    if (calls[0].kind & IS_PARALLEL) {
        for (int i = 0; i < n; i++)
            begin(i, &calls[i]);
        for (int i = 0; i < n; i++)
            finish(i);
        for (int i = 0; i < n; i++)
            tell_call(&calls[i], number, i);
        for (int i = 0; i < n; i++)
            tell_of(i);
        ended = n;
    }
    for (int i = 0; i < n && !ended; i++) {
        unsigned uid = geteuid(), gid = getegid();
        begin(who, &calls[i]);
        finish(who);
        /* A prctl may fail: it is there to make the others succeed. */
        ended = calls[i].ret < 0 && calls[i].nr != SYS_prctl;
        tell_call(&calls[i], number, who);
        if (calls[i].kind == IS_UNSHARE && !ended && calls[i].args[0] & CLONE_NEWUSER) {
            helpers[who].foreign = 1;
            if (who == 0 && upto(2))
                map_own_ids(uid, gid);
        }
        tell_of(who);
    }
    for (int i = 0; i < n; i++)
        free(calls[i].copy), calls[i].copy = NULL, calls[i].size = 0;
    tell_files(p->files);
}

/* Waits until the first thread is gone: /proc/self is another one then. */
static void *play_without_first(void *argument)
{
    char text[256], *state = text;
    do {
        int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
        ssize_t n = read(fd, text, sizeof text - 1);
        close(fd);
        text[n > 0 ? n : 0] = 0;
        state = strrchr(text, ')');
    } while (state && state[2] != 'Z');
    return play_steps(argument);
}

/* All that is left of a sequence; ends the process. */
static void *play_steps(void *argument)
{
    struct play *p = argument;
    for (; p->step < STEPS; p->step++) {
        seed(p->number, p->step + 1);
        if (!is_wanted(p->only, p->step))
            continue;
        unsigned dice = upto(60);
        if (p->threads || dice > 2) {
            play_step(p);
            continue;
        }
        printf("%d: the rest %s\n", p->step, dice == 0 ? "in a child" : dice == 1 ? "in a child that shares memory" : "without the first thread");
        fflush(stdout);
        if (dice == 2) {
            pthread_t thread;
            p->step++;
            start_thread(&thread, 1 << 20, play_without_first, p);
            syscall(SYS_exit, 0);
        }
        pid_t pid = dice == 0 ? fork() : vfork();
        if (pid)
            _exit(pid > 0 ? wait_for(pid) : 98);
    }
    fflush(stdout);
    if (p->threads)
        return NULL;
    _exit(0);
}

static void tick(int signal) { (void)signal; }

static void play(int number, const char *only, int with_signals)
{
    static struct play p;
    pthread_t threads[HELPERS + 1];
    pid_t pids[HELPERS + 1];
    p = (struct play){.number = number, .only = only, .threads = upto(2) ? 0 : HELPERS};
    unsigned as_threads = upto(2);
    static const int flags[] = {O_RDONLY, O_RDONLY, O_RDONLY, O_RDONLY, O_RDONLY, O_RDONLY, O_RDONLY | O_NONBLOCK, O_RDONLY, O_RDONLY, O_RDONLY, O_RDONLY, O_PATH | O_NOFOLLOW, O_PATH | O_NOFOLLOW};
    for (size_t i = 0; i < LENGTH(watched); i++) {
        int fd = open(watched[i], flags[i]);
        must(fd >= 0 && dup2(fd, WATCHED + i) >= 0);
        close(fd);
    }
    int fd = open("f1", O_PATH), ends[2];
    must(pipe(ends) == 0 && dup2(fd, 8) == 8 && dup2(ends[0], 6) == 6 && dup2(WATCHED + 7, 7) == 7 && dup2(WATCHED, 9) == 9 && dup2(WATCHED + 2, 10) == 10);
    close(5);
    make_memory();
    prctl(PR_SET_PDEATHSIG, SIGWINCH);
    tell_files(p.files);
    tell_of(0);
    if (p.threads)
        start_helpers(as_threads, threads, pids);
    if (with_signals) {
        struct sigaction action = {.sa_handler = tick, .sa_flags = SA_RESTART};
        const struct itimerval each = {{0, 300}, {0, 300}};
        must(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &each, NULL) == 0);
    }
    printf("%s%s\n", !p.threads ? "one thread" : as_threads ? "threads" : "processes that share memory", with_signals ? ", with signals" : "");
    /* A third begins as a user, another one keeps its rights whatever its ids are. */
    unsigned as = upto(3);
    for (int i = 0; i <= p.threads && as < 2; i++) {
        int n = as ? 1 : become(calls);
        if (as)
            plain(calls, "securebits", SYS_prctl, PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0);
        for (int k = 0; k < n; k++) {
            begin(i, &calls[k]);
            finish(i);
            tell_call(&calls[k], -1, i);
        }
        tell_of(i);
    }
    play_steps(&p);
    for (int i = 1; i <= HELPERS; i++) {
        helpers[i].quits = 1;
        sem_post(&helpers[i].go);
        if (as_threads)
            pthread_join(threads[i], NULL);
        else
            wait_for(pids[i]);
    }
    _exit(0);
}

/* Makes the files that a sequence finds. */
static void lay(void)
{
    static const struct {
        const char *name, *to;
    } links[] = {{"link", "f0"}, {"dlink", "none"}, {"d0/up", "../f1"}, {"d0/abs", "/x"}, {"loop", "loop"}, {"flink", "/proc/self/fd/9"}};
    static const int modes[] = {0644, 0644, 06755, 02755, 04711, 02644, 0600}, folder_modes[] = {0755, 0755, 01777, 02775, 0700, 0750};
    for (size_t i = 0; i < LENGTH(links); i++)
        unlink(links[i].name);
    for (size_t i = 0; i < 7; i++)
        unlink(watched[i]);
    rmdir("d0"), rmdir("d1");
    for (int i = 0; i < 6; i++)
        removexattr(i < 3 ? "." : "..", attributes[i % 3]);
    /* Some get there. */
    must(chown("/run", 0, 0) == 0 && chmod("/run", 0755) == 0);
    must(mkdir("d0", 0755) == 0 && mkdir("d1", 0755) == 0);
    for (size_t i = 0; i < LENGTH(links); i++)
        must(symlink(links[i].to, links[i].name) == 0);
    for (size_t i = 0; i < 11; i++) {
        int is_file = i < 6;
        if (i < 7)
            must(mknod(watched[i], is_file ? S_IFREG | 0600 : S_IFIFO | 0600, 0) == 0);
        must(lchown(watched[i], asked(ANY(ids)), asked(ANY(ids))) == 0);
        must(chmod(watched[i], is_file ? ANY(modes) : i < 9 ? ANY(folder_modes) : 0755) == 0);
        if (is_file && upto(3) == 0)
            must(setxattr(watched[i], "security.capability", file_capability, sizeof file_capability, 0) == 0);
    }
}

/* Whether a file's time may stay the same though the file changes between two looks at it (before Linux 6.13). */
static int is_coarse(void)
{
    struct stat a, b;
    for (int i = 0; i < 20; i++) {
        must(stat(".", &a) == 0 && chmod(".", 0755) == 0 && stat(".", &b) == 0);
        if (a.st_ctim.tv_nsec == b.st_ctim.tv_nsec)
            return 1;
    }
    return 0;
}

int fuzz_main(int argc, char **argv)
{
    must(argc >= 4);
    how = argv[1][0] == 'w' ? WIDE : argv[1][0] == 'p' ? PLACED : FOLDED;
    int first = atoi(argv[2]), count = atoi(argv[3]);
    must(mkdir(ROOM, 0755) == 0 || errno == EEXIST);
    must(chdir(ROOM) == 0);
    is_clock_coarse = is_coarse();
    must(syscall(SYS_setgroups, 0, NULL) == 0); /* the outer groups that a node's root is in */
    for (int number = first; number < first + count; number++) {
        if ((how == WIDE && number % 2) || (how == PLACED && number % 2 == 0))
            continue;
        seed(number, 0);
        choose_ids(number % 2 == 0);
        printf("sequence %d: ids", number);
        for (size_t i = 0; i < LENGTH(ids); i++)
            printf(" %u", ids[i]);
        printf("\n");
        fflush(stdout);
        lay();
        unsigned disturbed = upto(8), waited = 0;
        pid_t pid = fork();
        must(pid >= 0);
        if (pid == 0) {
            setpgid(0, 0);
            play(number, argc > 4 ? argv[4] : NULL, disturbed < 2);
        }
        struct pollfd end = {.fd = syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
        must(end.fd >= 0);
        /* Some are stopped again and again. Namespaces take long on a busy machine. */
        while (poll(&end, 1, disturbed == 2 ? 1 : 60000) == 0 && disturbed == 2 && waited++ < 60000)
            kill(pid, SIGSTOP), kill(pid, SIGCONT);
        if (poll(&end, 1, 0) == 0) {
            printf("WRONG it hangs\n");
            must(system("grep -s . /proc/[0-9]*/task/*/comm /proc/[0-9]*/task/*/wchan /proc/[0-9]*/task/*/syscall") != -1);
        }
        kill(-pid, SIGKILL);
        int status = wait_for(pid);
        if (status)
            printf("WRONG it ends with %d\n", status);
        close(end.fd);
    }
    printf("end\n");
    return 0;
}

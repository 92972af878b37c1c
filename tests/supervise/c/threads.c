/* Programs of many threads, and of signals. */
#include "caller.h"
#include <sys/utsname.h>

enum { THREADS = 64 };

static pthread_barrier_t barrier;

/* The ids of this thread as the kernel has them; these calls are never filtered. */
static void check_ids(unsigned uid, unsigned gid, unsigned group)
{
    unsigned id[3];
    gid_t groups[4];
    must(syscall(SYS_getresuid, &id[0], &id[1], &id[2]) == 0);
    if (id[0] != place(uid) || id[1] != place(uid) || id[2] != place(uid))
        die("uids are %u %u %u after setresuid(%u), not %u", id[0], id[1], id[2], uid, place(uid));
    must(syscall(SYS_getresgid, &id[0], &id[1], &id[2]) == 0);
    if (id[0] != place(gid) || id[1] != place(gid) || id[2] != place(gid))
        die("gids are %u %u %u after setresgid(%u), not %u", id[0], id[1], id[2], gid, place(gid));
    long n = syscall(SYS_getgroups, 4, groups);
    if (n != 1 || groups[0] != place(group))
        die("groups are %ld, first %u, after setgroups(%u)", n, groups[0], group);
}

static void expect(const char *what, unsigned id, long ret, long want)
{
    if (ret != want)
        die("%s %u: %s", what, id, result(ret));
}

static void *many_ids(void *argument)
{
    unsigned state = 2463534242u + 7919 * (long)argument;
    keep_capabilities();
    for (int round = 0; round < 10; round++) {
        pthread_barrier_wait(&barrier); /* all at once */
        unsigned uid = any_high_id(&state), gid = any_high_id(&state), group = any_high_id(&state), array = high(group);
        expect("setgroups", group, raw3(SYS_setgroups, 1, (unsigned long)&array, 0), 0);
        if (array != high(group))
            die("setgroups changed the caller's array");
        expect("setresgid", gid, raw3(SYS_setresgid, high(gid), high(gid), high(gid)), 0);
        expect("setresuid", uid, raw3(SYS_setresuid, high(uid), high(uid), high(uid)), 0);
        check_ids(uid, gid, group);
    }
    return NULL;
}

/* Many threads at once, each with ids of its own: the raw calls are for one thread only. */
int threads_main(int argc, char **argv)
{
    pthread_t thread[THREADS];
    (void)argc, (void)argv;
    pthread_barrier_init(&barrier, NULL, THREADS);
    for (long i = 0; i < THREADS; i++)
        start_thread(&thread[i], 256 * 1024, many_ids, (void *)i);
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    puts("fine");
    return 0;
}

static volatile int leave;

static void *wait_for_end(void *argument)
{
    pthread_barrier_wait(&barrier);
    /* No sched_yield: on Linux 6.18 threads that yield all the time keep others, in other groups of the scheduler, from
     * running for many seconds. */
    while (!leave)
        if (argument)
            usleep(100);
    check_ids(65532, 1000660000, 0);
    return NULL;
}

/* libc makes all threads do the call, and aborts when they do not agree. */
int setxid_main(int argc, char **argv)
{
    enum { N = 16 };
    pthread_t thread[N];
    (void)argc, (void)argv;
    pthread_barrier_init(&barrier, NULL, N + 1);
    for (long i = 0; i < N; i++) /* half of them busy, half of them in a call */
        start_thread(&thread[i], 256 * 1024, wait_for_end, (void *)(i & 1));
    pthread_barrier_wait(&barrier);
    gid_t many[3] = {high(50000), high(65534), 27}, none = 0;
    expect("setgroups", 50000, setgroups(3, many) ? -errno : 0, 0);
    gid_t got[4];
    must(getgroups(4, got) == 3);
    if (many[0] != high(50000) || many[1] != high(65534) || many[2] != 27)
        die("setgroups changed the caller's array");
    expect("setgroups", 0, setgroups(1, &none) ? -errno : 0, 0);
    expect("setgid", 1000660000, setgid(high(1000660000)) ? -errno : 0, 0);
    expect("setuid", 65532, setuid(high(65532)) ? -errno : 0, 0);
    expect("setuid", 0, setuid(0) ? -errno : 0, -EPERM);
    leave = 1;
    for (int i = 0; i < N; i++)
        pthread_join(thread[i], NULL);
    check_ids(65532, 1000660000, 0);
    puts("fine");
    return 0;
}

static gid_t one_array[300];

static void *same_array(void *argument)
{
    (void)argument;
    gid_t got[300];
    pthread_barrier_wait(&barrier);
    for (int round = 0; round < 20; round++) {
        expect("setgroups of one array", round, raw3(SYS_setgroups, 300, (unsigned long)one_array, 0), 0);
        must(syscall(SYS_getgroups, 300, got) == 300);
        for (int i = 0; i < 300; i++)
            if (got[i] < BASE || got[i] >= POOL)
                die("setgroups of one array: group %u", got[i]);
    }
    return NULL;
}

/* Go and libc hand one array to all threads: what one thread's call does to it, another one's must not make last. */
int shared_main(int argc, char **argv)
{
    enum { N = 16 };
    pthread_t thread[N];
    (void)argc, (void)argv;
    for (int i = 0; i < 300; i++)
        one_array[i] = high(65532 + 7919 * i);
    pthread_barrier_init(&barrier, NULL, N);
    for (int i = 0; i < N; i++)
        start_thread(&thread[i], 64 * 1024, same_array, NULL);
    for (int i = 0; i < N; i++)
        pthread_join(thread[i], NULL);
    for (int i = 0; i < 300; i++)
        if (one_array[i] != high(65532 + 7919 * i))
            die("the array has %u in place of %u", one_array[i], high(65532 + 7919 * i));
    puts("fine");
    return 0;
}

static volatile sig_atomic_t queued, ticks;

static void count(int sig) { sig == SIGALRM ? ticks++ : queued++; }

/* A call is only interruptible until the supervisor has received it. A signal in that moment gives EINTR where the
 * program wants that (no SA_RESTART), before anything was done; no supervisor can change it. */
static int interrupted, may_interrupt;

static long patient(long nr, unsigned long a, unsigned long b, unsigned long c)
{
    long ret;
    while ((ret = raw3(nr, a, b, c)) == -EINTR && may_interrupt)
        interrupted++;
    return ret;
}

/* @signals restart|plain DIR FILES SETIDS: a timer's signal every millisecond, which may coalesce, and real-time signals
 * from another process, which may not: all of them are to arrive. Folded calls do not fail for a signal. */
int signals_main(int argc, char **argv)
{
    must(argc == 5);
    struct sigaction action = {.sa_handler = count, .sa_flags = !strcmp(argv[1], "restart") ? SA_RESTART : 0};
    int files = atoi(argv[3]), set_ids = atoi(argv[4]);
    unsigned state = 88172645u;
    may_interrupt = !action.sa_flags;
    must(chdir(argv[2]) == 0);
    keep_capabilities();
    must(sigaction(SIGALRM, &action, NULL) == 0 && sigaction(SIGRTMIN, &action, NULL) == 0);
    volatile int *sent = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    must(sent != MAP_FAILED);
    pid_t me = getpid(), sender = fork();
    if (sender == 0) {
        /* Until the parent says that it is done: sent[1]. */
        while (!sent[1]) {
            if (sigqueue(me, SIGRTMIN, (union sigval){0}) == 0)
                sent[0]++;
            usleep(1000);
        }
        _exit(0);
    }
    struct itimerval every = {{0, 1000}, {0, 1000}};
    must(setitimer(ITIMER_REAL, &every, NULL) == 0);
    for (int i = 0; i < files; i++) {
        char name[32];
        unsigned uid = any_high_id(&state), gid = any_high_id(&state);
        struct stat s;
        snprintf(name, sizeof name, "f%d", i);
        int fd;
        while ((fd = open(name, O_CREAT | O_RDWR, 0600)) < 0)
            must(errno == EINTR);
        long ret = i & 1 ? patient(SYS_fchown, fd, high(uid), high(gid)) : patient(SYS_lchown, (unsigned long)name, high(uid), high(gid));
        expect("chown under signals", uid, ret, 0);
        must(fstat(fd, &s) == 0);
        if (s.st_uid != place(uid) || s.st_gid != place(gid))
            die("owner %u:%u after chown %u:%u", s.st_uid, s.st_gid, uid, gid);
        close(fd);
        unlink(name);
    }
    for (int i = 0; i < set_ids; i++) {
        unsigned uid = any_high_id(&state), gid = any_high_id(&state), group = any_high_id(&state), array = high(group);
        expect("setgroups under signals", group, patient(SYS_setgroups, 1, (unsigned long)&array, 0), 0);
        expect("setresgid under signals", gid, patient(SYS_setresgid, high(gid), high(gid), high(gid)), 0);
        expect("setresuid under signals", uid, patient(SYS_setresuid, high(uid), high(uid), high(uid)), 0);
        check_ids(uid, gid, group);
    }
    memset(&every, 0, sizeof every);
    setitimer(ITIMER_REAL, &every, NULL);
    sent[1] = 1;
    must(wait_for(sender) == 0);
    if (queued != sent[0])
        die("%d queued signals were sent, %d arrived", sent[0], queued);
    if (ticks < 10 || queued < 10)
        die("only %d ticks and %d signals came: too few to show anything", ticks, queued);
    /* On an idle machine it is one in thousands. Before Linux 5.19 any signal ends the wait, also after that moment. */
    struct utsname kernel;
    int major, minor;
    must(uname(&kernel) == 0 && sscanf(kernel.release, "%d.%d", &major, &minor) == 2);
    if (!getenv("SUPERVISE_KERNEL") && major * 100 + minor >= 519 && interrupted > (files + set_ids) / 10)
        die("%d calls were interrupted: they are not received at once", interrupted);
    puts("fine");
    return 0;
}

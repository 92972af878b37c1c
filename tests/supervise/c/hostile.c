/* Programs that die, stop, vanish or race in the middle of a folded call. */
#include "caller.h"

static volatile int *shared_page(void)
{
    volatile int *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    must(page != MAP_FAILED);
    return page;
}

static void become(unsigned id)
{
    must(syscall(SYS_setgroups, 0, NULL) == 0);
    must(syscall(SYS_setresgid, id, id, id) == 0 && syscall(SYS_setresuid, id, id, id) == 0);
}

static void spin_us(unsigned us)
{
    for (long long end = now_us() + us; now_us() < end;)
        ;
}

/* @reuse ROUNDS FILE: uid 1000 asks for root's FILE and dies while it is asked; a root process gets its pid. The file
 * must stay root's: the answer to the one may not be given with the rights of the other. */
int reuse_main(int argc, char **argv)
{
    unsigned state = 12345;
    int reused = 0;
    must(argc == 3);
    struct stat s;
    for (int round = 0; round < atoi(argv[1]); round++) {
        pid_t victim = fork(), heir;
        if (victim == 0) {
            become(1000);
            for (;;) {
                long ret = raw3(SYS_chown, (unsigned long)argv[2], high(65532), high(65532));
                if (ret != -EPERM)
                    die("uid 1000 got %s for root's file", result(ret));
            }
        }
        usleep(1000);
        spin_us(next_random(&state) % 300);
        must(kill(victim, SIGKILL) == 0 && wait_for(victim) == 128 + SIGKILL);
        char text[16];
        int fd = open("/proc/sys/kernel/ns_last_pid", O_WRONLY), n = snprintf(text, sizeof text, "%d", victim - 1);
        must(fd >= 0 && write(fd, text, n) == n);
        close(fd);
        if ((heir = fork()) == 0) {
            usleep(1500);
            _exit(0);
        }
        reused += heir == victim;
        must(wait_for(heir) == 0);
        must(stat(argv[2], &s) == 0);
        if (s.st_uid != 0 || s.st_gid != 0)
            die("root's file is of %u:%u", s.st_uid, s.st_gid);
    }
    if (reused * 2 < atoi(argv[1]))
        die("pids were reused %d times only", reused);
    puts("fine");
    return 0;
}

/* @traced cont|calls FILE: under a tracer already, so that the set-id call cannot be made again with other ids. */
int traced_main(int argc, char **argv)
{
    int status, calls = argc == 3 && !strcmp(argv[1], "calls");
    must(argc == 3);
    pid_t child = fork();
    if (child == 0) {
        must(ptrace(PTRACE_TRACEME, 0, 0, 0) == 0);
        raise(SIGSTOP);
        unsigned id = high(65532);
        printf("setresuid = %s\n", result(raw3(SYS_setresuid, id, id, id)));
        printf("setgroups = %s\n", result(raw3(SYS_setgroups, 1, (unsigned long)&id, 0)));
        printf("chown = %s\n", result(raw3(SYS_chown, (unsigned long)argv[2], id, id)));
        id = 1000;
        printf("setgroups of mapped = %s\n", result(raw3(SYS_setgroups, 1, (unsigned long)&id, 0)));
        printf("setresuid of mapped = %s\n", result(raw3(SYS_setresuid, id, id, id)));
        fflush(stdout);
        _exit(0);
    }
    while (waitpid(child, &status, 0) == child && WIFSTOPPED(status)) {
        int sig = WSTOPSIG(status);
        ptrace(calls ? PTRACE_SYSCALL : PTRACE_CONT, child, 0, sig == SIGSTOP || sig == SIGTRAP ? 0 : sig);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

/* @stop ROUNDS FILE: job control in mid-call. A stop must be seen by the parent, must last, and must end. */
int stop_main(int argc, char **argv)
{
    unsigned state = 777;
    int status;
    must(argc == 3);
    volatile int *done = shared_page();
    pid_t child = fork();
    if (child == 0) {
        keep_capabilities();
        while (!done[1]) {
            unsigned id = any_high_id(&state), group = high(id), now[3];
            long ret = raw3(SYS_setresuid, high(id), high(id), high(id));
            if (ret)
                die("setresuid: %s", result(ret));
            must(syscall(SYS_getresuid, &now[0], &now[1], &now[2]) == 0);
            if (now[0] != place(id) || now[1] != place(id) || now[2] != place(id))
                die("uids %u %u %u after setresuid(%u)", now[0], now[1], now[2], id);
            if ((ret = raw3(SYS_setgroups, 1, (unsigned long)&group, 0)))
                die("setgroups: %s", result(ret));
            if ((ret = raw3(SYS_chown, (unsigned long)argv[2], high(id), -1u)))
                die("chown: %s", result(ret));
            done[0]++;
        }
        puts("fine");
        fflush(stdout);
        _exit(0);
    }
    int before = -1, moved = 0;
    for (int round = 0; round < atoi(argv[1]); round++) {
        usleep(scaled(500 + next_random(&state) % 1500));
        must(kill(child, SIGSTOP) == 0);
        long long end = now_us() + scaled(5000000);
        pid_t got;
        while ((got = waitpid(child, &status, WUNTRACED | WNOHANG)) == 0 && now_us() < end)
            usleep(50);
        if (got != child || !WIFSTOPPED(status))
            die("round %d: the stop was not told to the parent (%d, %x)", round, got, got ? status : 0);
        int at = done[0];
        usleep(3000);
        if (done[0] != at)
            die("round %d: a stopped process went on", round);
        moved += at != before;
        before = at;
        must(kill(child, SIGCONT) == 0);
        while ((got = waitpid(child, &status, WCONTINUED | WNOHANG)) == 0 && now_us() < end)
            usleep(50);
        if (got != child || !WIFCONTINUED(status))
            die("round %d: no continuation (%d, %x)", round, got, got ? status : 0);
    }
    done[1] = 1;
    if (moved * 4 < atoi(argv[1]))
        die("the calls went on between %d of the stops only", moved);
    return wait_for(child);
}

static __attribute__((noreturn)) void *fold_for_ever(void *argument)
{
    unsigned state = 99 + (long)argument;
    for (;;) {
        unsigned id = any_high_id(&state), group = high(id);
        raw3(SYS_setresgid, high(id), high(id), high(id));
        raw3(SYS_setgroups, 1, (unsigned long)&group, 0);
    }
}

static void *fold_once(void *argument)
{
    unsigned id = high(65532 + (long)argument);
    if (raw3(SYS_setresgid, id, id, id))
        die("setresgid in a thread that ends");
    return NULL;
}

/* @vanish ROUNDS: threads are in the middle of folded calls when another one runs a new program, or ends the process, or
 * they end themselves. */
int vanish_main(int argc, char **argv)
{
    unsigned state = 4242;
    must(argc == 2);
    for (int round = 0; round < atoi(argv[1]); round++) {
        unsigned us = next_random(&state) % 3000;
        pid_t child = fork();
        if (child == 0) {
            pthread_t thread;
            keep_capabilities();
            for (long i = 0; i < 6; i++)
                if (round % 3 < 2 || i < 3)
                    start_thread(&thread, 64 * 1024, fold_for_ever, (void *)i);
            if (round % 3 == 2) /* threads that come and go */
                for (long i = 0; i < 20; i++) {
                    start_thread(&thread, 64 * 1024, fold_once, (void *)i);
                    if (i & 1)
                        pthread_detach(thread);
                    else
                        pthread_join(thread, NULL);
                }
            usleep(us);
            if (round & 1)
                execl("/proc/self/exe", "caller", NULL);
            syscall(SYS_exit_group, 0);
        }
        int status = -1;
        long long end = now_us() + scaled(10000000);
        while (waitpid(child, &status, WNOHANG) == 0) {
            if (now_us() > end) {
                char command[200];
                snprintf(command, sizeof command,
                         "cd /proc; grep -HsE '^(State|TracerPid)' %d/task/*/status [0-9]*/task/*/wchan; "
                         "grep -Hs . %d/task/*/wchan %d/task/*/syscall",
                         child, child, child);
                if (system(command))
                    puts("(its threads are gone)");
                die("round %d: process %d neither ran the new program nor ended", round, child);
            }
            usleep(100);
        }
        if (!WIFEXITED(status) || WEXITSTATUS(status))
            die("round %d: status %x", round, status);
    }
    puts("fine");
    return 0;
}

static volatile int *tally; /* 0 folded, 1 ENOSYS, 2 wrong, 3 it is time to end */
static char storm_file[64];
static int storm_asked; /* to end when asked to; else when nobody folds any more */

static void tell(const char *what, long ret, int known)
{
    if (ret == 0)
        __atomic_add_fetch(&tally[0], 1, __ATOMIC_RELAXED);
    else if (ret == -ENOSYS && !known)
        __atomic_add_fetch(&tally[1], 1, __ATOMIC_RELAXED);
    else {
        __atomic_add_fetch(&tally[2], 1, __ATOMIC_RELAXED);
        printf("WRONG %s: %s\n", what, result(ret));
    }
}

static void *storm(void *argument)
{
    unsigned state = 1 + (long)argument;
    keep_capabilities();
    /* Goes on for a while after the end of those who fold, which is seen by ENOSYS; or until it is asked to end. */
    for (int after = 0; storm_asked ? !tally[3] : after < 20;) {
        unsigned id = any_high_id(&state), group = high(id);
        long ret = raw3(SYS_chown, (unsigned long)storm_file, high(id), high(id));
        tell("chown", ret, 0);
        after += ret == -ENOSYS;
        tell("setresgid", raw3(SYS_setresgid, high(id), high(id), high(id)), 0);
        tell("setgroups", raw3(SYS_setgroups, 1, (unsigned long)&group, 0), 0);
        tell("setresuid", raw3(SYS_setresuid, high(id), high(id), high(id)), 0);
        tell("chown of mapped ids", raw3(SYS_chown, (unsigned long)storm_file, 1000, 1000), 1);
        tell("setresuid of mapped ids", raw3(SYS_setresuid, 1000, 1000, 1000), 1);
    }
    return NULL;
}

static void end_storm(int sig)
{
    (void)sig;
    tally[3] = 1;
}

/* @storm FILE [asked]: calls of all kinds from several processes until nobody folds them any more; or, from 50 threads in
 * five mount namespaces, until SIGTERM. */
int storm_main(int argc, char **argv)
{
    pthread_t thread[10];
    must(argc == 2 || argc == 3);
    snprintf(storm_file, sizeof storm_file, "%s", argv[1]);
    long processes = 3, threads = 2;
    if (argc == 3) {
        storm_asked = 1;
        processes = 5;
        threads = 10;
    }
    registers_may_change = 1;
    tally = shared_page();
    if (storm_asked)
        signal(SIGTERM, end_storm);
    puts("ready");
    fflush(stdout);
    for (long i = 0; i < processes; i++)
        if (fork() == 0) {
            must(argc == 2 || unshare(CLONE_NEWNS) == 0);
            for (long k = 0; k < threads; k++)
                start_thread(&thread[k], 64 * 1024, storm, (void *)(i * threads + k + 1));
            for (int k = 0; k < threads; k++)
                pthread_join(thread[k], NULL);
            fflush(stdout);
            _exit(0);
        }
    while (wait(NULL) > 0 || errno == EINTR)
        ;
    printf("folded %d, refused %d, wrong %d\n", tally[0], tally[1], tally[2]);
    return tally[2] != 0;
}

static const char *race_kind;
static volatile int race_over;

static void *swap(void *argument)
{
    (void)argument;
    for (unsigned i = 0; !race_over; i++) {
        if (!strcmp(race_kind, "symlink")) { /* the link leads to an own file, then to root's, and so on */
            unlink("new");
            must(symlink(i & 1 ? "../victim" : "own", "new") == 0 && rename("new", "link") == 0);
        } else { /* the folder that the path climbs out of moves up and down */
            rename("/a/b/c", "/c");
            rename("/c", "/a/b/c");
        }
    }
    return NULL;
}

/* @race symlink|rename SECONDS: the current folder is the caller's, ../victim is not, nor is anything outside the root. */
int race_main(int argc, char **argv)
{
    static const char up[] = "/a/b/c/d/../../../../../../../../../../../../victim";
    pthread_t thread;
    int done = 0, refused = 0;
    must(argc == 3);
    race_kind = argv[1];
    int is_rename = !strcmp(race_kind, "rename");
    if (is_rename)
        must(chroot(".") == 0 && chdir("/a/b/c/d") == 0);
    else
        must(syscall(SYS_setgroups, 1, (gid_t[]){1256}) == 0 && syscall(SYS_setresgid, 1000, 1000, 1000) == 0 &&
             syscall(SYS_setresuid, 1000, 1000, 1000) == 0);
    start_thread(&thread, 64 * 1024, swap, NULL);
    long long end = now_us() + atof(argv[2]) * 1000000;
    for (unsigned i = 0; now_us() < end; i++) {
        long ret;
        if (!is_rename) /* a group that the caller is in: its owner may give the file to it */
            ret = raw3(SYS_chown, (unsigned long)"link", -1u, high(1000660000));
        else if (i & 1)
            ret = raw3(SYS_chown, (unsigned long)up, high(65532), high(65532));
        else
            ret = raw3(SYS_chown, (unsigned long)"../../../../../../../victim", high(65532), high(65532));
        if (ret == 0)
            done++;
        else if (ret == -EPERM || ret == -ENOENT)
            refused++;
        else
            die("chown: %s", result(ret));
    }
    race_over = 1;
    pthread_join(thread, NULL);
    if (done < 10 || (!is_rename && refused < 10))
        die("%d calls were done and %d refused: too few to show anything", done, refused);
    puts("fine");
    return 0;
}

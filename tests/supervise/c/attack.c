/* Programs that try to turn those who fold against the node: each is what a container can run. */
#include "caller.h"
#include <dirent.h>
#include <sys/uio.h>

/* What is written over the call while it is on its way: a jump from its place to other code. */
#ifdef __x86_64__
typedef uint16_t code;
enum { CALL = 0x050f /* syscall */, JUMP = 0x0eeb /* to 16 bytes after it */, RETURN = 0xc3 };
/* and $-16, %rsp; movabs ADDRESS, %rax; call *%rax */
static const unsigned char to_address[] = "\x48\x83\xe4\xf0\x48\xb8", at_address[] = "\xff\xd0";
#else
typedef uint32_t code;
enum { CALL = 0xd4000001 /* svc #0 */, JUMP = 0x14000004 /* to 16 bytes after it */, RETURN = 0xd65f03c0 };
/* ldr x16, ADDRESS; br x16 */
static const unsigned char to_address[] = "\x50\x00\x00\x58\x00\x02\x1f\xd6", at_address[] = "";
#endif

static code *place_of_call;

static void put(code what)
{
    *(volatile code *)place_of_call = what;
    __builtin___clear_cache((char *)place_of_call, (char *)(place_of_call + 1));
}
static volatile int calling, came;
static const char *swap_kind, *swap_victim;
static char swap_stack[64][32 * 1024] __attribute__((aligned(16)));

/* What the thread does in place of its call. */
static __attribute__((noreturn, used)) void instead(void)
{
    __atomic_add_fetch(&came, 1, __ATOMIC_SEQ_CST);
    if (!strcmp(swap_kind, "exec")) {
        char *argv[] = {"caller", "@victim", NULL}, *env[] = {NULL};
        syscall(SYS_execve, swap_victim, argv, env);
    } else if (!strcmp(swap_kind, "clone")) {
        int status;
        pid_t child = syscall(SYS_clone, CLONE_PTRACE | SIGCHLD, 0, 0, 0, 0);
        if (child == 0)
            syscall(SYS_exit, 0);
        if (child > 0 && syscall(SYS_wait4, child, &status, 0, NULL) == child)
            syscall(SYS_exit, status ? 1 : 0);
    } else if (!strcmp(swap_kind, "pause")) {
        for (;;)
            pause();
    } else {
        for (;;) /* no call at all */
            ;
    }
    syscall(SYS_exit, 2);
    __builtin_unreachable();
}

/* Shares all memory with its parent, which changes its code. */
static int call_for_ever(void *argument)
{
    unsigned long id = high(65532), path = (unsigned long)"roots";
    for (;;) {
        long ret, first = argument ? path : id;
        calling = 1;
#ifdef __x86_64__
        asm volatile("call *%5"
                     : "=a"(ret)
                     : "0"(argument ? SYS_chown : SYS_setresuid), "D"(first), "S"(id), "d"(id), "r"(place_of_call)
                     : "rcx", "r11", "memory");
#else
        register long x8 asm("x8") = argument ? SYS_fchownat : SYS_setresuid, x0 asm("x0") = argument ? (unsigned long)AT_FDCWD : id,
                      x1 asm("x1") = first, x2 asm("x2") = id, x3 asm("x3") = id, x4 asm("x4") = 0;
        asm volatile("blr %6" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(place_of_call) : "x30", "memory");
        ret = x0;
#endif
        if (ret != -EPERM)
            _exit(3);
    }
    return 0;
}

static int tracer_of(pid_t pid)
{
    char path[64], line[256];
    int tracer = -1;
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f))
        sscanf(line, "TracerPid: %d", &tracer);
    if (f)
        fclose(f);
    return tracer;
}

/* Waits until nobody traces it. */
static void await_untraced(pid_t pid, const char *what)
{
    for (long long end = now_us() + scaled(5000000); tracer_of(pid) > 0; usleep(1000))
        if (now_us() > end)
            die("%s: thread %d is still held by %d", what, pid, tracer_of(pid));
}

/* Ends with its child, or tells that it did not: -1. */
static int wait_a_while(pid_t pid)
{
    int status;
    for (long long end = now_us() + scaled(3000000); waitpid(pid, &status, WNOHANG) == 0; usleep(100))
        if (now_us() > end)
            return -1;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* @victim: a set-user-id program of root's. */
int victim_main(int argc, char **argv)
{
    char text[64];
    (void)argv;
    snprintf(text, sizeof text, "%d %u", argc, (unsigned)geteuid());
    return strcmp(text, "1 0") != 0;
}

/* @swap exec|clone|pause|loop|stop ROUNDS VICTIM: uid 1000, without capabilities, makes a call whose ids are folded, and
 * while the call is on its way another task that shares the memory replaces it. */
int swap_main(int argc, char **argv)
{
    unsigned state = 20011;
    must(argc == 4);
    int rounds = atoi(argv[2]), hits = 0, stops = !strcmp(argv[1], "stop"), lasts = stops || argv[1][0] == 'p' || argv[1][0] == 'l';
    must(!lasts || rounds <= 64);
    swap_kind = argv[1], swap_victim = argv[3];
    place_of_call = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(place_of_call != MAP_FAILED);
    void (*to)(void) = instead;
    char *jumped = (char *)place_of_call + 16;
    place_of_call[1] = RETURN;
    memcpy(jumped, to_address, sizeof to_address - 1);
    memcpy(jumped + sizeof to_address - 1, &to, 8);
    memcpy(jumped + sizeof to_address + 7, at_address, sizeof at_address - 1);
    __builtin___clear_cache((char *)place_of_call, jumped + 64);
    must(syscall(SYS_setgroups, 0, NULL) == 0 && syscall(SYS_setresgid, 1000, 1000, 1000) == 0);
    must(syscall(SYS_setresuid, 1000, 1000, 1000) == 0 && prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0);
    pid_t pids[64];
    for (int round = 0; round < rounds; round++) {
        put(CALL);
        calling = 0;
        int before = came;
        char *top = swap_stack[lasts ? round : 0] + sizeof swap_stack[0] - 256;
        pid_t pid = clone(call_for_ever, top, CLONE_VM | SIGCHLD, (void *)(long)(round & 1));
        must(pid > 0);
        while (!calling)
            ;
        for (long long end = now_us() + 100 + next_random(&state) % 150; now_us() < end;)
            ;
        if (stops) {
            pids[round] = pid;
            must(kill(pid, SIGSTOP) == 0);
            continue;
        }
        put(JUMP);
        for (long long begin = now_us(); came == before;) {
            if (now_us() > begin + 100000) /* an emulated processor may still have the old code */
                put(JUMP);
            if (now_us() > begin + scaled(5000000))
                die("round %d: the call was never replaced", round);
        }
        if (lasts) {
            pids[round] = pid;
            continue;
        }
        int status = wait_a_while(pid);
        if (status < 0)
            die("round %d: the child of a %s does not end; tracer %d", round, swap_kind, tracer_of(pid));
        if (status >= 128)
            hits++;
        else if (status)
            die("round %d: status %d", round, status);
    }
    if (lasts) {
        for (int round = 0; round < rounds; round++)
            await_untraced(pids[round], swap_kind);
        /* Whoever folds has time for others. */
        long ret = raw3(SYS_setresuid, high(65532), high(65532), high(65532));
        if (ret != -EPERM)
            die("a call after that: %s", result(ret));
        for (int round = 0; round < rounds; round++)
            must(kill(pids[round], SIGKILL) == 0 && wait_for(pids[round]) == 128 + SIGKILL);
    }
    if (hits)
        die("a set-user-id program was ended by a signal in %d of %d rounds", hits, rounds);
    puts("fine");
    return 0;
}

static volatile int traced_threads;

static __attribute__((noreturn)) void *set_ids_for_ever(void *argument)
{
    (void)argument;
    __atomic_add_fetch(&traced_threads, 1, __ATOMIC_SEQ_CST);
    for (unsigned long id = high(65532);;)
        raw3(SYS_setresuid, id, id, id);
}

/* @unreaped THREADS: a program is executed while a thread of its process is dead, and whoever traces that thread does not
 * reap it. So the execution never ends, and nobody can begin to trace any thread of the process. It needs no rights. */
int unreaped_main(int argc, char **argv)
{
    must(argc == 2);
    must(syscall(SYS_setgroups, 0, NULL) == 0 && syscall(SYS_setresgid, 1000, 1000, 1000) == 0);
    must(syscall(SYS_setresuid, 1000, 1000, 1000) == 0 && prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0);
    volatile int *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    must(page != MAP_FAILED);
    int n = atoi(argv[1]);
    pid_t process = fork();
    must(process >= 0);
    if (process == 0) {
        pthread_t thread;
        for (long i = 0; i < n; i++)
            start_thread(&thread, 64 * 1024, set_ids_for_ever, (void *)i);
        while (traced_threads < n)
            usleep(1000);
        page[0] = 1;
        while (!page[1])
            usleep(100);
        execl("/bin/true", "true", NULL);
        _exit(1);
    }
    while (!page[0])
        usleep(1000);
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", process);
    DIR *tasks = opendir(path);
    must(tasks != NULL);
    int traced = 0;
    for (struct dirent *entry; (entry = readdir(tasks));) {
        pid_t tid = atoi(entry->d_name);
        /* One in the middle of a call may be held already. */
        for (int tries = 0; tid > 0 && tid != process && tries < 200; tries++, usleep(20))
            if (ptrace(PTRACE_SEIZE, tid, 0, 0) == 0) {
                traced++;
                break;
            }
    }
    closedir(tasks);
    must(traced > 0);
    page[1] = 1;
    usleep(300000);
    puts("unreaped");
    fflush(stdout);
    for (;;)
        pause();
}

static gid_t common[300];

static int set_common(void *argument)
{
    volatile int *failed = argument;
    for (int round = 0; round < 60; round++)
        if (raw3(SYS_setgroups, 300, (unsigned long)common, 0))
            *failed = 1;
    _exit(0);
}

/* @sharers: processes that share memory, and are no threads of each other, hand one array to setgroups. */
int sharers_main(int argc, char **argv)
{
    static volatile int failed;
    pid_t pids[12];
    (void)argc, (void)argv;
    for (int i = 0; i < 300; i++)
        common[i] = high(65532 + 7919 * i);
    for (int i = 0; i < 12; i++)
        must((pids[i] = clone(set_common, swap_stack[i] + sizeof swap_stack[i] - 256, CLONE_VM | SIGCHLD, (void *)&failed)) > 0);
    for (int i = 0; i < 12; i++)
        must(wait_for(pids[i]) == 0);
    for (int i = 0; i < 300; i++)
        if (common[i] != high(65532 + 7919 * i))
            die("the array has %u in place of %u", common[i], high(65532 + 7919 * i));
    if (failed)
        die("setgroups failed");
    puts("fine");
    return 0;
}

/* What a container's root has by default, and no more. */
static void only_usual_capabilities(void)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{.effective = 0xa80425fb, .permitted = 0xa80425fb}};
    must(syscall(SYS_capset, &header, data) == 0);
}

/* @intruder all|usual PID...: root, with all capabilities or a container's usual ones, tries to get into these processes. */
int intruder_main(int argc, char **argv)
{
    char path[64], byte;
    must(argc > 2);
    if (!strcmp(argv[1], "usual"))
        only_usual_capabilities();
    for (int i = 2; i < argc; i++) {
        pid_t pid = atoi(argv[i]);
        snprintf(path, sizeof path, "/proc/%d/mem", pid);
        int fd = open(path, O_RDWR);
        printf("memory = %s\n", result(fd < 0 ? -errno : 0));
        close(fd);
        struct iovec here = {&byte, 1}, there = {(void *)0x1000, 1};
        printf("read = %s\n", result(process_vm_readv(pid, &here, 1, &there, 1, 0) < 0 ? -errno : 0));
        int process = syscall(SYS_pidfd_open, pid, 0);
        int copy = syscall(SYS_pidfd_getfd, process, 0, 0);
        printf("descriptor = %s\n", result(copy < 0 ? -errno : 0));
        close(copy), close(process);
        snprintf(path, sizeof path, "/proc/%d/root/", pid);
        printf("root = %s\n", result(access(path, F_OK) ? -errno : 0));
        long traced = ptrace(PTRACE_SEIZE, pid, 0, 0);
        printf("trace = %s\n", result(traced < 0 ? -errno : 0));
        if (traced == 0) {
            must(ptrace(PTRACE_INTERRUPT, pid, 0, 0) == 0 && waitpid(pid, NULL, __WALL) == pid);
            must(ptrace(PTRACE_DETACH, pid, 0, 0) == 0);
        }
    }
    return 0;
}

/* @join PATH: root without any capability joins a user namespace by a file, and tells what it has there. */
int join_main(int argc, char **argv)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{0}};
    must(argc == 2);
    int fd = open(argv[1], O_RDONLY);
    must(fd >= 0 && syscall(SYS_capset, &header, data) == 0);
    printf("setns = %s\n", result(setns(fd, CLONE_NEWUSER) ? -errno : 0));
    must(syscall(SYS_capget, &header, data) == 0);
    printf("capabilities there: %s\n", data[0].effective ? "all" : "none");
    /* They are none over what is the node's. */
    printf("mount = %s\n", result(mount("none", "/run/tmp", "tmpfs", 0, NULL) ? -errno : 0));
    return 0;
}

/* @namespaces N FILE: N mount namespaces, with one folded call in each, all alive until the end. */
int namespaces_main(int argc, char **argv)
{
    must(argc == 3);
    int n = atoi(argv[1]);
    volatile int *done = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    must(done != MAP_FAILED);
    for (int i = 0; i < n; i++) {
        pid_t pid = fork();
        must(pid >= 0);
        if (pid)
            continue;
        must(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == 0 && unshare(CLONE_NEWNS) == 0);
        long ret = raw3(SYS_chown, (unsigned long)argv[2], high(70000 + i), -1u);
        if (ret)
            die("chown in namespace %d: %s", i, result(ret));
        __atomic_add_fetch(done, 1, __ATOMIC_SEQ_CST);
        for (;;)
            pause();
    }
    for (long long end = now_us() + scaled(20000000); *done < n; usleep(1000))
        if (now_us() > end)
            die("%d of %d namespaces had an answer", *done, n);
    puts("fine");
    fflush(stdout);
    for (;;)
        pause();
}

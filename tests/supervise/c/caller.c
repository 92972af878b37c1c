/* A caller that makes exactly the system calls it is told to.
 *
 *   caller STEP...         runs the steps in order and prints a line for each system call among them (steps.c)
 *   caller -p STEP...      the same with every marked id placed by the caller: what is right, with nobody's help
 *   caller @NAME ARG...    one of the programs in threads.c, hostile.c, attack.c, slow.c
 */
#include "caller.h"

int placing, registers_may_change;

#ifdef __x86_64__
long raw(enum abi abi, long nr, const unsigned long a[6])
{
    long ret;
    unsigned long di = a[0], si = a[1], dx = a[2];
    register unsigned long r10 asm("r10") = a[3];
    register unsigned long r8 asm("r8") = a[4];
    register unsigned long r9 asm("r9") = a[5];
    if (abi == I386) {
        /* Allowed from 64-bit code, too: the filter sees an i386 call while the code segment is the 64-bit one. */
        unsigned long bx = a[0], cx = a[1];
        int ret32;
        dx = a[2], si = a[3], di = a[4];
        asm volatile("int $0x80"
                     : "=a"(ret32), "+b"(bx), "+c"(cx), "+d"(dx), "+S"(si), "+D"(di)
                     : "0"(nr)
                     : "r8", "r9", "r10", "r11", "memory");
        if (bx != a[0] || cx != a[1] || dx != a[2] || si != a[3] || di != a[4])
            die("i386 call %ld changed its registers: %lx %lx %lx %lx %lx, were %lx %lx %lx %lx %lx", nr, bx, cx, dx, si, di,
                a[0], a[1], a[2], a[3], a[4]);
        return ret32;
    }
    if (abi == X32)
        nr |= 0x40000000;
    asm volatile("syscall"
                 : "=a"(ret), "+D"(di), "+S"(si), "+d"(dx), "+r"(r10), "+r"(r8), "+r"(r9)
                 : "0"(nr)
                 : "rcx", "r11", "memory");
    unsigned long after[6] = {di, si, dx, r10, r8, r9};
    if (memcmp(after, a, sizeof after) && !registers_may_change)
        die("call %ld changed its registers: %lx %lx %lx %lx %lx %lx, were %lx %lx %lx %lx %lx %lx", nr, di, si, dx, after[3],
            after[4], after[5], a[0], a[1], a[2], a[3], a[4], a[5]);
    return ret;
}
#else
long raw(enum abi abi, long nr, const unsigned long a[6])
{
    const unsigned long own[6] = {a[0], a[1], a[2], a[3], a[4], a[5]};
    const unsigned long file[6] = {AT_FDCWD, a[0], a[1], a[2], (int)nr == SYS_lchown ? AT_SYMLINK_NOFOLLOW : 0, a[5]};
    const unsigned long dup[6] = {a[0], a[1], 0, a[3], a[4], a[5]}, *args = own;
    if (abi != X64)
        die("a call of x86 on another machine");
    if ((int)nr == SYS_chown || (int)nr == SYS_lchown)
        args = file, nr = SYS_fchownat;
    else if ((int)nr == SYS_chmod)
        args = file, nr = SYS_fchmodat;
    else if ((int)nr == SYS_dup2)
        args = dup, nr = SYS_dup3;
    register unsigned long x8 asm("x8") = nr, x0 asm("x0") = args[0], x1 asm("x1") = args[1], x2 asm("x2") = args[2],
                               x3 asm("x3") = args[3], x4 asm("x4") = args[4], x5 asm("x5") = args[5];
    asm volatile("svc #0" : "+r"(x0), "+r"(x1), "+r"(x2), "+r"(x3), "+r"(x4), "+r"(x5), "+r"(x8) : : "memory");
    unsigned long after[7] = {x0, x1, x2, x3, x4, x5, x8};
    if ((memcmp(after + 1, args + 1, 5 * sizeof *after) || after[6] != (unsigned long)nr) && !registers_may_change)
        die("call %ld changed its registers: %lx %lx %lx %lx %lx, were %lx %lx %lx %lx %lx", nr, after[1], after[2], after[3],
            after[4], after[5], args[1], args[2], args[3], args[4], args[5]);
    return after[0];
}
#endif

long raw3(long nr, unsigned long a, unsigned long b, unsigned long c)
{
    /* What is in the other registers must not matter, and must stay. */
    unsigned long args[6] = {a, b, c, 0x1122334455667788, 0x99aabbccddeeff00, 0xfedcba9876543210};
    return raw(X64, nr, args);
}

const char *result(long value)
{
    static __thread char text[32];
    const char *name = value < 0 && value > -4096 ? strerrorname_np(-value) : NULL;
    if (name)
        return name;
    snprintf(text, sizeof text, "%ld", value);
    return text;
}

void die(const char *format, ...)
{
    va_list list;
    va_start(list, format);
    printf("WRONG ");
    vprintf(format, list);
    printf("\n");
    fflush(stdout);
    _exit(99);
}

void keep_capabilities(void) { must(prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0) == 0); }

long long now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000ll + t.tv_nsec / 1000;
}

long long scaled(long long us)
{
    const char *factor = getenv("TIME_FACTOR");
    return factor && atoi(factor) > 0 ? us * atoi(factor) : us;
}

int wait_for(pid_t pid)
{
    int status;
    while (waitpid(pid, &status, 0) < 0)
        must(errno == EINTR);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

unsigned next_random(unsigned *state)
{
    *state ^= *state << 13, *state ^= *state >> 17, *state ^= *state << 5;
    return *state;
}

unsigned any_high_id(unsigned *state)
{
    unsigned id = next_random(state);
    return id < POOL || id == -1u ? 65532 : id;
}

void start_thread(pthread_t *thread, size_t stack, void *(*run)(void *), void *argument)
{
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, stack);
    int error = pthread_create(thread, &attributes, run, argument);
    if (error)
        die("pthread_create: %s", strerror(error));
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(int, char **);
    } programs[] = {
        {"@threads", threads_main}, {"@setxid", setxid_main}, {"@shared", shared_main}, {"@signals", signals_main},
        {"@reuse", reuse_main},     {"@traced", traced_main}, {"@stop", stop_main},     {"@vanish", vanish_main},
        {"@storm", storm_main},     {"@race", race_main},     {"@fuse", fuse_main},     {"@chowns", chowns_main},
        {"@flood", flood_main},     {"@fuzz", fuzz_main},
        {"@flood", flood_main},     {"@swap", swap_main},     {"@victim", victim_main}, {"@unreaped", unreaped_main}, {"@private", private_main}, {"@sharers", sharers_main}, {"@crowd", crowd_main},     {"@intruder", intruder_main}, {"@join", join_main}, {"@namespaces", namespaces_main},
    };
    setvbuf(stdout, NULL, _IOLBF, 0);
    argc--, argv++;
    if (argc > 0 && !strcmp(argv[0], "-p"))
        placing = 1, argc--, argv++;
    for (size_t i = 0; argc > 0 && i < sizeof programs / sizeof *programs; i++)
        if (!strcmp(argv[0], programs[i].name))
            return programs[i].run(argc, argv);
    return steps(argc, argv);
}

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
#include "caller.h"
#include <poll.h>
#include <semaphore.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/xattr.h>

#define ROOM "/run/stage/w"
#define STEPS 40
#define HELPERS 2
#define LINE 2048
#define WATCHED 20 /* the descriptors by which files are looked at begin here */
#define LENGTH(array) (sizeof array / sizeof *array)

static enum { WIDE, PLACED, FOLDED } how;
static unsigned random_state, ids[10];
/* Whether it is looked at from a user namespace of the caller's own, where nothing has a place. */
static int foreign, wait_for_clock;

static unsigned upto(unsigned n) { return next_random(&random_state) % n; }
#define ANY(array) (array)[upto(LENGTH(array))]

static void seed(unsigned a, unsigned b)
{
    random_state = (a * 2654435761u ^ b * 40503u) | 1;
    for (int i = 0; i < 8; i++)
        next_random(&random_state);
}

static unsigned shown(unsigned id) { return how == WIDE && !foreign ? place(id) : id; }
static unsigned asked(unsigned id) { return how == PLACED ? place(id) : id; }

/* ---- The ids of a sequence. */

static unsigned any_id(void)
{
    static const unsigned edges[] = {1, 999, 1000, 1047, 1048, 2046, 2047, 2048, 4096, 65532, 65534, 65535, 65536, 1000660000, 2147483648, 4294967294};
    switch (upto(6)) {
    case 0: return upto(1000);
    case 1: return upto(2048);
    case 2: return 2048 + upto(65535 - 2048);
    /* Where the wide node has ids: see internal/node. */
    case 3: return upto(1300000000);
    default: return ANY(edges);
    }
}

static void choose_ids(int distinct)
{
    ids[0] = 0;
    for (size_t n = 1; n < LENGTH(ids);) {
        unsigned id = any_id(), same = 0;
        if (!distinct && upto(2))
            id = place(ids[upto(n)]);
        for (size_t i = 0; i < n; i++)
            same |= place(ids[i]) == place(id);
        if (!same || !distinct)
            ids[n++] = id;
    }
}

/* ---- A call, with all registers. */

struct registers {
    unsigned long ax, bx, cx, dx, si, di, bp, r8, r9, r10, r11, r12, r13, r14, r15, flags;
};

#define FLAGS 0x8d5ul /* those of arithmetics */
#define STUB(name, instruction)                                                                                               \
    asm(".text\n" #name ": push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15; push %rdi; mov %rdi, %rax\n"      \
        "pushq 120(%rax); popfq\n"                                                                                            \
        "mov 8(%rax), %rbx; mov 16(%rax), %rcx; mov 24(%rax), %rdx; mov 32(%rax), %rsi; mov 40(%rax), %rdi\n"                  \
        "mov 48(%rax), %rbp; mov 56(%rax), %r8; mov 64(%rax), %r9; mov 72(%rax), %r10; mov 80(%rax), %r11\n"                   \
        "mov 88(%rax), %r12; mov 96(%rax), %r13; mov 104(%rax), %r14; mov 112(%rax), %r15; mov (%rax), %rax\n"                 \
        instruction "\n" #name "_end: pushfq; push %rax; mov 16(%rsp), %rax\n"                                                \
        "mov %rbx, 8(%rax); mov %rcx, 16(%rax); mov %rdx, 24(%rax); mov %rsi, 32(%rax); mov %rdi, 40(%rax)\n"                  \
        "mov %rbp, 48(%rax); mov %r8, 56(%rax); mov %r9, 64(%rax); mov %r10, 72(%rax); mov %r11, 80(%rax)\n"                   \
        "mov %r12, 88(%rax); mov %r13, 96(%rax); mov %r14, 104(%rax); mov %r15, 112(%rax)\n"                                  \
        "pop %rcx; mov %rcx, (%rax); pop %rcx; mov %rcx, 120(%rax)\n"                                                          \
        "pop %rdi; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret\n");                                        \
    void name(struct registers *);                                                                                            \
    extern const char name##_end[];
STUB(by_syscall, "syscall")
STUB(by_int80, "int $0x80")

enum { IS_ID = 1, IS_UNSHARE = 2, IS_PARALLEL = 4 };

struct call {
    enum abi abi;
    int kind;
    unsigned long nr, args[6];
    char text[LINE];
    void *array, *copy; /* must be the same afterwards */
    size_t size;
    long ret;
    char wrong[128];
};

static void make(struct call *c)
{
    struct registers r = {.ax = c->nr | (c->abi == X32 ? 0x40000000 : 0), .flags = 0x202 | (c->args[5] & FLAGS)};
    unsigned long *places[][6] = {[X64] = {&r.di, &r.si, &r.dx, &r.r10, &r.r8, &r.r9}, [I386] = {&r.bx, &r.cx, &r.dx, &r.si, &r.di, &r.bp}};
    unsigned long *word = (unsigned long *)&r, spice = 0x0123456789abcdef ^ c->args[5];
    for (size_t i = 1; i < 15; i++)
        word[i] = spice * (2 * i + 1);
    for (int i = 0; i < 6; i++)
        *places[c->abi == I386 ? I386 : X64][i] = c->args[i];
    struct registers after = r;
    (c->abi == I386 ? by_int80 : by_syscall)(&after);
    c->ret = c->abi == I386 ? (int)after.ax : (long)after.ax;
    r.ax = after.ax;
    if (c->abi != I386)
        r.cx = (unsigned long)by_syscall_end, r.r11 = (r.flags & FLAGS) | (after.r11 & ~FLAGS);
    r.flags = (r.flags & FLAGS) | (after.flags & ~FLAGS);
    const unsigned long *is = (unsigned long *)&after;
    c->wrong[0] = 0;
    for (size_t i = 0; i < 16; i++)
        if (is[i] != word[i])
            snprintf(c->wrong, sizeof c->wrong, " WRONG register %zu is %lx, was %lx", i, is[i], word[i]);
    if (c->size && memcmp(c->array, c->copy, c->size))
        strcpy(c->wrong, " WRONG the array has changed");
}

/* ---- Arguments: in memory that 32-bit calls reach. */

enum { PAGE = 4096, LAST_PAGES = 4 };
static char *memory, *memory_end, *last_pages, *closed_page;

static void make_memory(void)
{
    const size_t size = 16 << 20;
    memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT | MAP_NORESERVE, -1, 0);
    must(memory != MAP_FAILED);
    memory_end = last_pages = memory + size - (2 * LAST_PAGES + 1) * PAGE;
    closed_page = memory + size - PAGE;
    for (int i = 0; i < LAST_PAGES; i++)
        must(munmap(last_pages + (2 * i + 1) * PAGE, PAGE) == 0);
    must(mprotect(closed_page, PAGE, PROT_NONE) == 0);
}

/* These bytes, with nothing mapped behind them. */
static void *at_the_end(const void *what, size_t size)
{
    static unsigned used;
    return memcpy(last_pages + (used++ % LAST_PAGES * 2 + 1) * PAGE - size, what, size);
}

static void *bytes(size_t size)
{
    char *at = memory;
    memory += (size + 15) & ~15ul;
    must(memory < memory_end);
    return at;
}

static void say(struct call *c, const char *format, ...)
{
    size_t used = strlen(c->text);
    va_list list;
    va_start(list, format);
    vsnprintf(c->text + used, sizeof c->text - used, format, list);
    va_end(list);
}

static const unsigned long garbage = 0xdeadbeef;

static unsigned long id_argument(struct call *c, int narrow)
{
    unsigned id = 0;
    unsigned long high = upto(4) ? 0 : narrow && upto(2) ? garbage << 16 : garbage << 32;
    if (upto(4) == 0) {
        say(c, " %s-1", high ? "^" : "");
        return high | (narrow ? 0xffff : 0xffffffff);
    }
    do
        id = ANY(ids);
    while (narrow && id >= 0xffff);
    say(c, " %s%u", high ? "^" : "", id);
    return high | asked(id);
}

static unsigned long path_argument(struct call *c)
{
    static const char *const names[] = {
        "f0", "f1", "f2", "f3", "d0", "d1", "d0/x", "d1/x", "link", "dlink", "d0/up", "d0/abs", "loop", "fifo", "none", "f0/x",
        "d0/", "d0/../f1", "d1/../f2", ".", "..", "", "/", "f1/", ROOM "/f2", ROOM "/d1/x", "/x", "../w/f3", "/proc/self/fd/9",
        "/dev/fd/9", "/proc/thread-self/fd/8", "/proc/self/fd/5", "/proc/self/fd/7/x", "/proc/self/cwd/f1", "/proc/self/root/x",
        "/proc/self/root" ROOM "/f3", "/proc/self/exe/x", "flink",
    };
    const char *name = upto(3) ? names[upto(14)] : ANY(names);
    size_t size = strlen(name) + 1;
    unsigned kind = upto(24);
    char *at;
    say(c, " \"%s\"", name);
    switch (kind) {
    case 0:
        say(c, "(at the end of memory)");
        return (unsigned long)at_the_end(name, size);
    case 1:
        say(c, "(not ended)");
        return (unsigned long)at_the_end(name, size - 1);
    case 2:
        say(c, "(over a page's end)");
        at = bytes(2 * PAGE);
        at += PAGE - (unsigned long)at % PAGE - size / 2;
        return (unsigned long)memcpy(at, name, size);
    case 3: {
        size_t whole = 4095 + upto(2);
        say(c, "(of %zu bytes)", whole);
        at = bytes(whole + 1);
        memset(at, '/', whole);
        for (size_t i = 0; i + 1 < whole; i += 2)
            at[i] = '.';
        if (name[0] == '/' || size < 2)
            at[0] = '/';
        else
            at[whole - size] = '/';
        memcpy(at + whole + 1 - size, name, size);
        return (unsigned long)at;
    }
    case 4: {
        static const unsigned long bad[] = {0, 0x1000, 0xffff888000000000, 0xfffffffffffffff0, 0x1000000000000000};
        unsigned i = upto(LENGTH(bad) + 1);
        sprintf(strrchr(c->text, ' '), " bad%u", i);
        return i == LENGTH(bad) ? (unsigned long)closed_page : bad[i];
    }
    default:
        return (unsigned long)memcpy(bytes(size), name, size);
    }
}

static unsigned long descriptor_argument(struct call *c, int folder)
{
    /* 5 is closed, 6 a pipe, 7 a folder, 8 a file by O_PATH, 9 a file. */
    static const unsigned long numbers[] = {5, 6, 7, 8, 9, 10, 99, -1, AT_FDCWD, WATCHED, WATCHED + 7};
    unsigned long number = folder && upto(2) ? (unsigned)AT_FDCWD : upto(2) ? 9 - 2ul * folder : ANY(numbers);
    number = upto(4) ? (unsigned)number : (number & 0xffffffff) | garbage << 32;
    say(c, " %d", (int)number);
    return number;
}

static void groups_arguments(struct call *c, int narrow)
{
    static const unsigned counts[] = {0, 1, 2, 3, 4, 5, 8, 31, 300, 5000, 65536, 65537, 0x80000001, -1u};
    unsigned count = upto(8) ? counts[upto(8)] : ANY(counts), n = count > 65537 ? 4 : count, kind = upto(16), width = narrow ? 2 : 4;
    size_t size = n * width;
    char *at = bytes(size + 2 * PAGE);
    at += PAGE - (unsigned long)at % PAGE; /* pages of its own */
    say(c, " %u [", count);
    for (unsigned i = 0; i < n; i++) {
        unsigned id = upto(40) || n > 8 ? ANY(ids) : -1u;
        if (narrow && id != -1u && id >= 0xffff)
            id = 0;
        if (i < 8)
            say(c, " %d", (int)id);
        id = asked(id);
        memcpy(at + i * width, &id, width);
    }
    say(c, " ]");
    c->args[0] = count | (upto(4) ? 0 : garbage << 32);
    if (kind == 0 && n && n <= 300) {
        unsigned there = upto(n);
        say(c, " of which memory ends after %u", there);
        at = at_the_end(at, size = there * width);
    } else if (kind == 1) {
        say(c, " in closed memory");
        at = closed_page, size = 0;
    } else if (kind == 2 && size) {
        say(c, " in read-only memory");
        must(mprotect(at, (size + PAGE - 1) & -PAGE, PROT_READ) == 0);
    }
    c->args[1] = (unsigned long)at;
    if ((c->size = size)) {
        c->array = at;
        must((c->copy = malloc(size)) != NULL);
        memcpy(c->copy, at, size);
    }
}

/* ---- The calls that take ids. */

enum takes { PATH, DESCRIPTOR, BOTH, IDS, FS_ID, GROUPS };
static const struct {
    const char *name;
    int x64, i386, i386_32;
    enum takes takes;
    int ids;
} table[] = {
    {"chown", 92, 182, 212, PATH, 2},        {"lchown", 94, 16, 198, PATH, 2},         {"fchown", 93, 95, 207, DESCRIPTOR, 2},
    {"fchownat", 260, 298, 298, BOTH, 2},    {"setuid", 105, 23, 213, IDS, 1},         {"setgid", 106, 46, 214, IDS, 1},
    {"setreuid", 113, 70, 203, IDS, 2},      {"setregid", 114, 71, 204, IDS, 2},       {"setresuid", 117, 164, 208, IDS, 3},
    {"setresgid", 119, 170, 210, IDS, 3},    {"setfsuid", 122, 138, 215, FS_ID, 1},    {"setfsgid", 123, 139, 216, FS_ID, 1},
    {"setgroups", 116, 81, 206, GROUPS, 0},
};

static void any_call(struct call *c, int of_ids)
{
    static const int flags[] = {0, 0, AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, AT_SYMLINK_FOLLOW, 0x800, -1};
    size_t i = of_ids ? 4 + upto(LENGTH(table) - 4) : upto(2) ? upto(4) : upto(LENGTH(table));
    /* A third of them in each way, x32 aside. */
    unsigned way = upto(10), narrow = way >= 6 && way < 8 && table[i].takes != BOTH, at = 0;
    c->abi = way < 5 ? X64 : way == 5 ? X32 : I386;
    c->nr = c->abi != I386 ? table[i].x64 : narrow ? table[i].i386 : table[i].i386_32;
    if (c->abi == X64 && upto(8) == 0)
        c->nr |= garbage << 32;
    say(c, "%s%s%s", c->abi == X32 ? "x32:" : c->abi == I386 ? "i386:" : "", table[i].name, narrow ? "16" : "");
    for (int k = 0; k < 6; k++)
        c->args[k] = next_random(&random_state) * 0x100000001ul;
    if (table[i].takes == GROUPS)
        return groups_arguments(c, narrow);
    if (table[i].takes == DESCRIPTOR || table[i].takes == BOTH)
        c->args[at++] = descriptor_argument(c, table[i].takes == BOTH);
    if (table[i].takes == PATH || table[i].takes == BOTH)
        c->args[at++] = path_argument(c);
    for (int k = 0; k < table[i].ids; k++)
        c->args[at++] = id_argument(c, narrow);
    if (table[i].takes == BOTH) {
        c->args[at] = (unsigned)ANY(flags) | (upto(4) ? 0 : garbage << 32);
        say(c, " %#x", (unsigned)c->args[at]);
    }
    c->kind = table[i].takes == FS_ID ? IS_ID : 0;
}

/* ---- What decides about them. */

#define CAPABILITY "security.capability", sizeof "security.capability"
static unsigned file_capability[5] = {0x02000001, 1u << CAP_NET_RAW}; /* VFS_CAP_REVISION_2, effective */

static void plain(struct call *c, const char *text, unsigned long nr, unsigned long a, unsigned long b, unsigned long d, unsigned long e, unsigned long f)
{
    *c = (struct call){.abi = X64, .nr = nr, .args = {a, b, d, e, f, 0}};
    say(c, "%s", text);
}

static void any_capabilities(struct call *c)
{
    static const int few[] = {CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID, CAP_SETGID, CAP_SETUID, CAP_SETPCAP, CAP_SYS_ADMIN, CAP_SYS_CHROOT, CAP_SETFCAP};
    struct __user_cap_header_struct *header = bytes(sizeof *header);
    struct __user_cap_data_struct *data = bytes(2 * sizeof *data);
    *header = (struct __user_cap_header_struct){_LINUX_CAPABILITY_VERSION_3, 0};
    memset(data, 0, 2 * sizeof *data);
    for (size_t i = 0; i < LENGTH(few); i++) {
        unsigned dice = upto(16), bit = 1u << few[i];
        data->permitted |= dice ? bit : 0, data->effective |= dice > 3 ? bit : 0, data->inheritable |= dice & 1 ? bit : 0;
    }
    plain(c, "capset", SYS_capset, (unsigned long)header, (unsigned long)data, 0, 0, 0);
    say(c, " %x %x %x", data->effective, data->permitted, data->inheritable);
}

static int become(struct call *c)
{
    unsigned uid = ANY(ids), gid = ANY(ids);
    unsigned *groups = bytes(8);
    groups[0] = asked(ANY(ids)), groups[1] = asked(gid);
    plain(c, "keepcaps", SYS_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0);
    plain(c + 1, "setgroups", SYS_setgroups, 2, (unsigned long)groups, 0, 0, 0);
    plain(c + 2, "setresgid", SYS_setresgid, asked(gid), asked(gid), asked(gid), 0, 0);
    plain(c + 3, "setresuid", SYS_setresuid, asked(uid), asked(uid), asked(uid), 0, 0);
    any_capabilities(c + 4);
    say(c + 3, " %u, of group %u", uid, gid);
    return 5;
}

static const struct {
    const char *name;
    unsigned long args[3];
} switches[] = {
    {"securebits NO_SETUID_FIXUP", {PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP}},
    {"securebits NOROOT", {PR_SET_SECUREBITS, SECBIT_NOROOT}},
    {"securebits KEEP_CAPS, locked", {PR_SET_SECUREBITS, SECBIT_KEEP_CAPS | SECBIT_KEEP_CAPS_LOCKED}},
    {"securebits 0", {PR_SET_SECUREBITS, 0}},
    {"dumpable 0", {PR_SET_DUMPABLE, 0}},
    {"dumpable 0", {PR_SET_DUMPABLE, 0}},
    {"dumpable 1", {PR_SET_DUMPABLE, 1}},
    {"keepcaps 0", {PR_SET_KEEPCAPS, 0}},
    {"keepcaps 1", {PR_SET_KEEPCAPS, 1}},
    {"raise ambient chown", {PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN}},
    {"raise ambient setuid", {PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_SETUID}},
    {"drop chown from the bounding set", {PR_CAPBSET_DROP, CAP_CHOWN}},
    {"drop setgid from the bounding set", {PR_CAPBSET_DROP, CAP_SETGID}},
    {"no_new_privs", {PR_SET_NO_NEW_PRIVS, 1}},
};

/* The calls of a step: how many. */
static int any_step(struct call *c, int threads)
{
    static const char *const files[] = {"f0", "f1", "f2", "f3", "d0", "d1", "d0/x", "d1/x"}, *const folders[] = {"d0", "d1", ".", "..", ROOM};
    static const int modes[] = {0644, 06755, 02755, 04711, 02644, 06777, 0600, 01777, 0};
    static const int spaces[] = {CLONE_NEWNS, CLONE_FILES, CLONE_FS, CLONE_NEWUSER, CLONE_NEWUSER | CLONE_NEWNS};
    const char *file = ANY(files), *folder = ANY(folders);
    unsigned long in_memory = (unsigned long)memcpy(bytes(64), file, strlen(file) + 1);
    unsigned dice = upto(40), i;
    memset(c, 0, sizeof *c);
    if (dice < 2) {
        any_capabilities(c);
        return 1;
    }
    if (dice == 2)
        return become(c);
    if (dice < 7) {
        i = upto(LENGTH(switches));
        plain(c, switches[i].name, SYS_prctl, switches[i].args[0], switches[i].args[1], switches[i].args[2], 0, 0);
    } else if (dice < 10) {
        plain(c, "chmod", SYS_chmod, in_memory, ANY(modes), 0, 0, 0);
        say(c, " %s %lo", file, c->args[1]);
    } else if (dice < 12) {
        plain(c, "setxattr of capabilities", SYS_setxattr, in_memory, (unsigned long)memcpy(bytes(32), CAPABILITY), (unsigned long)file_capability, sizeof file_capability, 0);
        say(c, " %s", file);
    } else if (dice < 14) {
        strcpy((char *)in_memory, folder);
        plain(c, dice == 12 ? "chdir" : "chroot", dice == 12 ? SYS_chdir : SYS_chroot, in_memory, 0, 0, 0, 0);
        say(c, " %s", folder);
    } else if (dice == 14) {
        plain(c, "unshare", SYS_unshare, ANY(spaces), 0, 0, 0, 0);
        say(c, " %#lx", c->args[0]);
        c->kind = IS_UNSHARE;
    } else if (dice == 15) {
        strcpy((char *)in_memory, "d0");
        plain(c, "unshare mounts", SYS_unshare, CLONE_NEWNS, 0, 0, 0, 0);
        plain(c + 1, "bind d0", SYS_mount, in_memory, in_memory, 0, MS_BIND, 0);
        plain(c + 2, "make it read-only", SYS_mount, 0, in_memory, 0, MS_BIND | MS_REMOUNT | MS_RDONLY, 0);
        return 3;
    } else if (dice < 18) {
        plain(c, "dup2", SYS_dup2, WATCHED + upto(11), 5 + upto(6), 0, 0, 0);
        say(c, " %lu %lu", c->args[0], c->args[1]);
    } else if (dice == 18) {
        plain(c, "close", SYS_close, 5 + upto(6), 0, 0, 0, 0);
        say(c, " %lu", c->args[0]);
    } else if (dice < 24 && threads) {
        /* All at once: each for itself, so that it does not matter who comes first. */
        for (int k = 0; k <= threads; k++) {
            memset(&c[k], 0, sizeof c[k]);
            any_call(&c[k], 1);
        }
        c->kind |= IS_PARALLEL;
        return threads + 1;
    } else
        any_call(c, 0);
    return 1;
}

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
    while (wait_for_clock && now.tv_nsec == then.tv_nsec);
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
    wait_for_clock = is_coarse();
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
        /* Some are stopped again and again. */
        while (poll(&end, 1, disturbed == 2 ? 1 : 20000) == 0 && disturbed == 2 && waited++ < 20000)
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

/* The calls of the fuzzer, and what makes them. */
#include "fuzz.h"

unsigned ids[10];
static unsigned random_state;

unsigned upto(unsigned n) { return next_random(&random_state) % n; }

void seed(unsigned a, unsigned b)
{
    random_state = (a * 2654435761u ^ b * 40503u) | 1;
    for (int i = 0; i < 8; i++)
        next_random(&random_state);
}

unsigned asked(unsigned id) { return how == PLACED ? place(id) : id; }

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

void choose_ids(int distinct)
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

#ifdef __x86_64__
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

void make(struct call *c)
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
#else
void make(struct call *c)
{
    c->wrong[0] = 0;
    c->ret = raw(c->abi, c->nr, c->args);
    if (c->size && memcmp(c->array, c->copy, c->size))
        strcpy(c->wrong, " WRONG the array has changed");
}
#endif

/* ---- Arguments: in memory that 32-bit calls reach. */

enum { PAGE = 4096, LAST_PAGES = 4 };
static char *memory, *memory_end, *last_pages, *closed_page;

void make_memory(void)
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
    int own, i386, i386_32;
    enum takes takes;
    int ids;
} table[] = {
    {"chown", SYS_chown, 182, 212, PATH, 2},        {"lchown", SYS_lchown, 16, 198, PATH, 2},         {"fchown", SYS_fchown, 95, 207, DESCRIPTOR, 2},
    {"fchownat", SYS_fchownat, 298, 298, BOTH, 2},    {"setuid", SYS_setuid, 23, 213, IDS, 1},         {"setgid", SYS_setgid, 46, 214, IDS, 1},
    {"setreuid", SYS_setreuid, 70, 203, IDS, 2},      {"setregid", SYS_setregid, 71, 204, IDS, 2},       {"setresuid", SYS_setresuid, 164, 208, IDS, 3},
    {"setresgid", SYS_setresgid, 170, 210, IDS, 3},    {"setfsuid", SYS_setfsuid, 138, 215, FS_ID, 1},    {"setfsgid", SYS_setfsgid, 139, 216, FS_ID, 1},
    {"setgroups", SYS_setgroups, 81, 206, GROUPS, 0},
};

/* Whether the kernel looks at all 64 bits of a call's number, as before Linux 5.14: what has high ones is ENOSYS. */
static int number_is_long(void)
{
    static int is_long = -1;
    if (is_long < 0)
        is_long = raw(X64, SYS_getppid | garbage << 32, (unsigned long[6]){0}) == -ENOSYS;
    return is_long;
}

static void any_call(struct call *c, int of_ids)
{
    static const int flags[] = {0, 0, AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, AT_SYMLINK_FOLLOW, 0x800, -1};
    size_t i = of_ids ? 4 + upto(LENGTH(table) - 4) : upto(2) ? upto(4) : upto(LENGTH(table));
    /* A third of them in each way, x32 aside. */
    unsigned way = upto(10), narrow = way >= 6 && way < 8 && table[i].takes != BOTH, at = 0;
#ifndef __x86_64__
    way = narrow = 0;
#endif
    c->abi = way < 5 ? X64 : way == 5 ? X32 : I386;
    c->nr = c->abi != I386 ? table[i].own : narrow ? table[i].i386 : table[i].i386_32;
    if (c->abi == X64 && upto(8) == 0 && !number_is_long())
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

unsigned file_capability[5] = {0x02000001, 1u << CAP_NET_RAW}; /* VFS_CAP_REVISION_2, effective */

void plain(struct call *c, const char *text, unsigned long nr, unsigned long a, unsigned long b, unsigned long d, unsigned long e, unsigned long f)
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

int become(struct call *c)
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

/* setxattr of an access control list or of capabilities, with two ids or one. */
static void any_attribute(struct call *c, unsigned long path, const char *file)
{
    static const struct {
        const char *name;
        int x64, i386;
    } calls[] = {{"setxattr", SYS_setxattr, 226}, {"lsetxattr", SYS_lsetxattr, 227}, {"fsetxattr", SYS_fsetxattr, 228}};
    static const char *const names[] = {"system.posix_acl_access", "system.posix_acl_access", "system.posix_acl_default", "security.capability"};
    unsigned i = upto(3), uid = ANY(ids), gid = ANY(ids);
    const char *name = ANY(names);
    uint32_t list[] = {2, 6 << 16 | 1, -1, 4 << 16 | 2, asked(uid), 4 << 16 | 4, -1, 4 << 16 | 8, asked(gid), 6 << 16 | 16, -1, 32, -1};
    uint32_t capability[] = {0x03000001, 1 << CAP_NET_RAW, 0, 0, 0, asked(uid)};
    int is_list = name[1] == 'y';
    c->abi = upto(3) ? X64 : I386;
    c->nr = c->abi == I386 ? calls[i].i386 : calls[i].x64;
    c->size = is_list ? sizeof list : sizeof capability;
    c->array = upto(8) ? bytes(c->size) : at_the_end(list, c->size);
    memcpy(c->array, is_list ? list : capability, c->size);
    must((c->copy = malloc(c->size)) != NULL);
    memcpy(c->copy, c->array, c->size);
    say(c, "%s%s", c->abi == I386 ? "i386:" : "", calls[i].name);
    c->args[0] = i == 2 ? descriptor_argument(c, 0) : path;
    c->args[1] = (unsigned long)memcpy(bytes(32), name, strlen(name) + 1);
    c->args[2] = (unsigned long)c->array, c->args[3] = upto(16) ? c->size : c->size - upto(9);
    say(c, " %s %s %u %u, %lu bytes", i == 2 ? "" : file, name, uid, gid, c->args[3]);
}

int any_step(struct call *c, int threads)
{
    static const char *const files[] = {"f0", "f1", "f2", "f3", "d0", "d1", "d0/x", "d1/x"}, *const folders[] = {"d0", "d0", "d1", ".", "..", ROOM};
    static const int modes[] = {0644, 06755, 02755, 04711, 02644, 06777, 0600, 01777, 0};
    static const int spaces[] = {CLONE_NEWNS, CLONE_FILES, CLONE_FS, CLONE_NEWUSER, CLONE_NEWUSER | CLONE_NEWNS};
    const char *file = ANY(files), *folder = ANY(folders);
    unsigned long in_memory = (unsigned long)memcpy(bytes(64), file, strlen(file) + 1);
    unsigned dice = upto(45), i;
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
    } else if (dice > 41) {
        any_attribute(c, in_memory, file);
    } else if (dice < 14 || dice > 39) {
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

/* The steps of a caller. A step is one argument of the program: a word and its own arguments, apart by blanks.
 *
 * A system call: chown lchown fchown fchownat setuid setgid setreuid setregid setresuid setresgid setgroups setfsuid
 * setfsgid, and with the prefix i386: these, their 32-bit forms (chown32 ...), or with x32: the first again.
 * Its arguments:
 *   N        a number; 0x... gives all 64 bits; -1 is the 32-bit one, all:-1 the 64-bit one
 *   #N       a marked id: the low 32 bits count as the id, high bits are kept
 *   #N>M     a marked id in a user namespace that names the place of N as M
 *   %N       a marked 16-bit id; what is above its 16 bits is kept
 *   s:TEXT   a string      e:TEXT  one that ends where memory ends      u:TEXT  one that is not ended there
 *   n:TEXT   a string in memory that may not be read
 *   l:N:TEXT a string of N bytes that means TEXT
 *   bad      an address where nothing is                                null    the address 0
 *   g:#1,2   an array of group ids, h: one of 16-bit ids, r: in read-only memory, f: in a read-only shared mapping of
 *            a file; m:#1,2 an array of group ids at whose end memory ends; G:N an array of N marked ids; x:N one of N that reaches past the end of memory, F:N one of N whose
 *            second half is in a mapping as of f:
 *   a:u#1,g2 an access control list with these users and then groups; A: one in a mapping as of f:
 *   c:#1     the capabilities of a file, with this root
 *   t:u#1,g2 a struct xattr_args with an access control list
 */
#include "caller.h"

static const struct {
    const char *name;
    int own, i386, i386_32;
} calls[] = {
    {"chown", SYS_chown, 182, 212},         {"lchown", SYS_lchown, 16, 198},        {"fchown", SYS_fchown, 95, 207},
    {"fchownat", SYS_fchownat, 298, -1},    {"setuid", SYS_setuid, 23, 213},        {"setgid", SYS_setgid, 46, 214},
    {"setreuid", SYS_setreuid, 70, 203},    {"setregid", SYS_setregid, 71, 204},    {"setresuid", SYS_setresuid, 164, 208},
    {"setresgid", SYS_setresgid, 170, 210}, {"setgroups", SYS_setgroups, 81, 206},  {"setfsuid", SYS_setfsuid, 138, 215},
    {"setfsgid", SYS_setfsgid, 139, 216},   {"setxattr", SYS_setxattr, 226, -1},    {"lsetxattr", SYS_lsetxattr, 227, -1},
    {"fsetxattr", SYS_fsetxattr, 228, -1},  {"setxattrat", 463, 463, -1},
};

/* An array in use by a call, to be found unchanged afterwards. */
static struct {
    void *at, *copy;
    size_t size;
} array;

/* New memory below 4 GiB, where i386 calls can reach it, with nothing mapped behind it. */
static char *pages(size_t size)
{
    size_t whole = (size + 4095) & ~4095ul;
    char *at = mmap(NULL, whole + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    must(at != MAP_FAILED);
    must(munmap(at + whole, 4096) == 0);
    return at;
}

static unsigned long string_at_end(const char *text, size_t size)
{
    size_t whole = (size + 4095) & ~4095ul;
    char *at = pages(size) + (whole - size);
    memcpy(at, text, size);
    return (unsigned long)at;
}

static unsigned long remember(void *at, size_t size)
{
    array.at = at, array.size = size;
    must((array.copy = malloc(size + 1)) != NULL);
    memcpy(array.copy, at, size);
    return (unsigned long)at;
}

static unsigned long marked(const char *text)
{
    char *native;
    unsigned long value = strtoull(text, &native, 0);
    if (*native == '>')
        return placing ? strtoull(native + 1, NULL, 0) : value;
    return (value & ~0xfffffffful) | high(value);
}

/* Maps a file with these bytes, shared and for reading: not even the kernel writes to it for a tracer. At a place that
 * is mapped already, or NULL: anywhere. */
static char *file_pages(void *at, const void *bytes, size_t size)
{
    int fd = open("groups-file", O_RDWR | O_CREAT, 0600);
    must(fd >= 0 && write(fd, bytes, size) == (ssize_t)size);
    close(fd);
    must((fd = open("groups-file", O_RDONLY)) >= 0);
    at = mmap(at, size, PROT_READ, MAP_SHARED | (at ? MAP_FIXED : MAP_32BIT), fd, 0);
    must(at != MAP_FAILED);
    close(fd);
    unlink("groups-file");
    return at;
}

static unsigned long group_array(char *list, char kind)
{
    gid_t ids[1024];
    size_t n = 0, width = kind == 'h' ? 2 : 4;
    for (char *save, *word = strtok_r(list, ",", &save); word; word = strtok_r(NULL, ",", &save))
        ids[n++] = word[0] == '#' ? marked(word + 1) : strtoul(word, NULL, 0);
    size_t size = n * width;
    char *at;
    if (kind == 'f')
        return remember(file_pages(NULL, ids, size), size);
    at = kind == 'm' ? pages(size) + 4096 - size : pages(size + 1);
    for (size_t i = 0; i < n; i++)
        if (width == 2)
            ((uint16_t *)at)[i] = ids[i];
        else
            ((uint32_t *)at)[i] = ids[i];
    if (kind == 'r')
        must(mprotect(at, 4096, PROT_READ) == 0);
    return remember(at, size);
}

static unsigned long many_groups(size_t n, int past_the_end)
{
    size_t there = past_the_end ? n / 2 : n;
    size_t whole = (there * 4 + 4095) & ~4095ul;
    gid_t *at = (gid_t *)(pages(there * 4) + whole - there * 4);
    for (size_t i = 0; i < there; i++)
        at[i] = high(65532 + 7919 * i);
    return remember(at, there * 4);
}

static unsigned long half_file_groups(size_t n)
{
    size_t size = n / 2 * 4, whole = (size + 4095) & ~4095ul;
    char *half = pages(2 * whole) + whole;
    gid_t *at = (gid_t *)(half - size);
    for (size_t i = 0; i < n / 2 * 2; i++)
        at[i] = high(65532 + 7919 * i);
    char *copy = malloc(whole);
    must(copy != NULL);
    file_pages(half, memcpy(copy, half, whole), whole);
    return remember(at, 2 * size);
}

struct entry {
    uint16_t tag, permissions;
    uint32_t id;
};

static unsigned long access_list(char *list, char kind)
{
    struct entry entries[300] = {{1, 6, -1}};
    uint32_t version = 2;
    size_t n = 1;
    int groups = 0;
    for (char *save, *word = strtok_r(list, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
        if (word[0] == 'g' && !groups++)
            entries[n++] = (struct entry){4, 4, -1};
        entries[n++] = (struct entry){groups ? 8 : 2, 4, word[1] == '#' ? marked(word + 2) : strtoul(word + 1, NULL, 0)};
    }
    if (!groups)
        entries[n++] = (struct entry){4, 4, -1};
    entries[n++] = (struct entry){16, 6, -1}, entries[n++] = (struct entry){32, 0, -1};
    size_t size = 4 + n * sizeof *entries;
    char *at = pages(16 + size);
    memcpy(at + 16, &version, 4), memcpy(at + 20, entries, n * sizeof *entries);
    if (kind == 'A')
        return remember(file_pages(NULL, at + 16, size), size);
    if (kind == 'a')
        return remember(at + 16, size);
    *(uint64_t *)at = (uint64_t)(at + 16), ((uint32_t *)at)[2] = size;
    return remember(at, 16 + size);
}

/* The ids in a file's access control lists and capabilities. */
static void attributes(const char *path)
{
    static const char *names[] = {"system.posix_acl_access", "system.posix_acl_default", "security.capability"};
    uint32_t value[1024];
    for (int i = 0; i < 3; i++) {
        ssize_t size = lgetxattr(path, names[i], value, sizeof value);
        if (size < 0)
            continue;
        printf("%s %s:", path, names[i]);
        for (ssize_t k = 1; k < size / 4; k++)
            printf(" %x", value[k]);
        printf("\n");
    }
}

static unsigned long argument(char *text)
{
    char *colon = text[0] && text[1] == ':' ? text + 2 : NULL;
    if (text[0] == '#')
        return marked(text + 1);
    if (text[0] == '%') {
        unsigned long value = strtoul(text + 1, NULL, 0);
        return placing && (value & 0xffff) != 0xffff ? place(value & 0xffff) : value;
    }
    if (!strcmp(text, "null"))
        return 0;
    if (!strcmp(text, "bad"))
        return 0x1000;
    if (!strncmp(text, "all:", 4))
        return strtoull(text + 4, NULL, 0);
    if (!colon)
        return text[0] == '-' ? (unsigned)strtol(text, NULL, 0) : strtoull(text, NULL, 0);
    switch (text[0]) {
    case 's':
        return (unsigned long)strcpy(pages(strlen(colon) + 1), colon);
    case 'e':
        return string_at_end(colon, strlen(colon) + 1);
    case 'u':
        return string_at_end(colon, strlen(colon));
    case 'n': {
        char *at = strcpy(pages(strlen(colon) + 1), colon);
        must(mprotect(at, 4096, PROT_NONE) == 0);
        return (unsigned long)at;
    }
    case 'l': {
        size_t size = strtoul(colon, &colon, 0), used = 0, end = strlen(++colon);
        char *at = pages(size + 1);
        while (used + end + 2 <= size)
            memcpy(at + used, "./", 2), used += 2;
        /* A second slash at an odd length. */
        while (used + end < size)
            at[used++] = '/';
        strcpy(at + used, colon);
        return (unsigned long)at;
    }
    case 'g':
    case 'h':
    case 'r':
    case 'f':
    case 'm':
        return group_array(colon, text[0]);
    case 'G':
    case 'x':
        return many_groups(strtoul(colon, NULL, 0), text[0] == 'x');
    case 'a':
    case 'A':
    case 't':
        return access_list(colon, text[0]);
    case 'c': {
        uint32_t value[6] = {0x03000001, 1 << CAP_NET_RAW, 0, 0, 0, colon[0] == '#' ? marked(colon + 1) : strtoul(colon, NULL, 0)};
        return remember(memcpy(pages(sizeof value), value, sizeof value), sizeof value);
    }
    case 'F':
        return half_file_groups(strtoul(colon, NULL, 0));
    }
    die("no such argument: %s", text);
}

static int system_call(char **word, int n)
{
    enum abi abi = X64;
    char *name = word[0];
    unsigned long args[6] = {0};
    if (!strncmp(name, "i386:", 5))
        abi = I386, name += 5;
    else if (!strncmp(name, "x32:", 4))
        abi = X32, name += 4;
    size_t length = strlen(name), is32 = abi == I386 && length > 2 && !strcmp(name + length - 2, "32");
    length -= is32 ? 2 : 0;
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        if (strncmp(calls[i].name, name, length) || calls[i].name[length])
            continue;
        for (int k = 1; k < n && k <= 6; k++)
            args[k - 1] = argument(word[k]);
        long ret = raw(abi, abi != I386 ? calls[i].own : is32 ? calls[i].i386_32 : calls[i].i386, args);
        printf("%s = %s\n", word[0], result(ret));
        if (array.at && memcmp(array.at, array.copy, array.size))
            die("%s changed the caller's array", word[0]);
        array.at = NULL;
        return 1;
    }
    return 0;
}

static void status_lines(void)
{
    char line[65536];
    FILE *f = fopen("/proc/thread-self/status", "r");
    must(f != NULL);
    while (fgets(line, sizeof line, f))
        if (!strncmp(line, "Uid:", 4) || !strncmp(line, "Gid:", 4) || !strncmp(line, "Groups:", 7) ||
            !strncmp(line, "CapEff:", 7) || !strncmp(line, "NoNewPrivs:", 11) || !strncmp(line, "Seccomp:", 8))
            fputs(line, stdout);
    fclose(f);
}

/* caps all|none|chown,setuid...: the permitted and effective sets, of this thread. */
static void capabilities(char *list)
{
    static const struct {
        const char *name;
        int bit;
    } names[] = {{"chown", CAP_CHOWN},   {"dac", CAP_DAC_OVERRIDE}, {"search", CAP_DAC_READ_SEARCH}, {"fowner", CAP_FOWNER},
                 {"setuid", CAP_SETUID}, {"setgid", CAP_SETGID},    {"fsetid", CAP_FSETID}};
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{0}};
    for (char *save, *word = strtok_r(list, ",", &save); word; word = strtok_r(NULL, ",", &save))
        for (size_t i = 0; i < sizeof names / sizeof *names; i++)
            if (!strcmp(word, names[i].name))
                data[0].effective |= 1u << names[i].bit;
    data[0].permitted = data[0].effective;
    must(syscall(SYS_capset, &header, data) == 0);
}

/* become UID GID GROUP,...: plain ids of the node for this thread, keeping the permitted capabilities for a "caps". */
static void become(unsigned uid, unsigned gid, char *list)
{
    gid_t ids[64];
    size_t n = 0;
    for (char *save, *word = strtok_r(list, ",", &save); word; word = strtok_r(NULL, ",", &save))
        ids[n++] = strtoul(word, NULL, 0);
    must(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0);
    must(syscall(SYS_setgroups, n, ids) == 0);
    must(syscall(SYS_setresgid, gid, gid, gid) == 0);
    must(syscall(SYS_setresuid, uid, uid, uid) == 0);
}

static int open_flags(const char *letters)
{
    int flags = 0;
    for (; *letters; letters++)
        flags |= *letters == 'w' ? O_RDWR : *letters == 'p' ? O_PATH : *letters == 'n' ? O_NOFOLLOW : *letters == 'd' ? O_DIRECTORY : 0;
    return flags;
}

static void write_map(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    must(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
}

/* userns INSIDE:OUTSIDE:SIZE,...: a new user namespace; this process becomes its root. */
static void user_namespace(char *list)
{
    char text[4096], path[64], byte = 0;
    int ready[2], done[2];
    for (char *c = list; *c; c++)
        *c = *c == ',' ? '\n' : *c == ':' ? ' ' : *c;
    snprintf(text, sizeof text, "%s\n", list);
    pid_t me = getpid();
    must(pipe2(ready, O_CLOEXEC) == 0 && pipe2(done, O_CLOEXEC) == 0);
    pid_t writer = fork();
    if (writer == 0) {
        must(read(ready[0], &byte, 1) == 1);
        snprintf(path, sizeof path, "/proc/%d/uid_map", me);
        write_map(path, text);
        snprintf(path, sizeof path, "/proc/%d/gid_map", me);
        write_map(path, text);
        must(write(done[1], &byte, 1) == 1);
        _exit(0);
    }
    must(unshare(CLONE_NEWUSER) == 0);
    must(write(ready[1], &byte, 1) == 1);
    close(done[1]);
    must(read(done[0], &byte, 1) == 1);
    must(wait_for(writer) == 0);
    must(syscall(SYS_setresgid, 0, 0, 0) == 0 && syscall(SYS_setresuid, 0, 0, 0) == 0);
}

/* pin POD: what the plugin does with a namespace that it made: /run/uid-nri-plugin/pods/POD/0.user. Needs the node's
 * mounts and rights, so a child does it that was started before the namespace was made; see "userns". */
static void pin(const char *pod, pid_t whose)
{
    char path[128], from[64];
    mkdir("/run/uid-nri-plugin", 0700), mkdir("/run/uid-nri-plugin/pods", 0700);
    snprintf(path, sizeof path, "/run/uid-nri-plugin/pods/%s", pod);
    must(mkdir(path, 0700) == 0);
    strcat(path, "/0.user");
    int fd = open(path, O_CREAT | O_RDONLY, 0600);
    must(fd >= 0);
    close(fd);
    snprintf(from, sizeof from, "/proc/%d/ns/user", whose);
    must(mount(from, path, NULL, MS_BIND, NULL) == 0);
}

static int run(int argc, char **argv);

struct rest {
    int argc;
    char **argv;
};

static void *run_rest(void *argument)
{
    struct rest *rest = argument;
    return (void *)(long)run(rest->argc, rest->argv);
}

static void *run_orphan(void *argument)
{
    struct rest *rest = argument;
    usleep(20000);
    int status = run(rest->argc, rest->argv);
    fflush(stdout);
    _exit(status);
}

static pid_t helper;
static int helper_in;

/* helper: a process that stays behind as the node's root and does "pin POD", "unpin POD" and "join POD" (attack.c's
 * @join) for those that went on. */
static void start_helper(void)
{
    int in[2];
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, in) == 0);
    pid_t whose = getpid();
    helper_in = in[1];
    if ((helper = fork()))
        return;
    close(in[1]);
    char line[64], path[128];
    ssize_t n;
    while ((n = read(in[0], line, sizeof line - 1)) > 0) {
        line[n] = 0;
        if (line[0] == '+')
            pin(line + 1, whose);
        snprintf(path, sizeof path, "/run/uid-nri-plugin/pods/%s/0.user", line + 1);
        if (line[0] == 'j') {
            fflush(stdout);
            if (fork() == 0) {
                char *argv[] = {"@join", path, NULL};
                int status = join_main(2, argv);
                fflush(stdout);
                _exit(status);
            }
            wait(NULL);
        }
        if (line[0] == '-') {
            must(umount2(path, MNT_DETACH) == 0 && unlink(path) == 0);
            *strrchr(path, '/') = 0;
            must(rmdir(path) == 0);
        }
        must(write(in[0], "k", 1) == 1);
    }
    _exit(0);
}

static void ask_helper(char what, const char *pod)
{
    char line[64];
    int n = snprintf(line, sizeof line, "%c%s", what, pod);
    must(write(helper_in, line, n) == n && read(helper_in, line, 1) == 1);
}

static void tick(int signal) { (void)signal; }

/* ticks US: a signal each so many microseconds, which has no call end early. */
static void tick_each(int us)
{
    struct sigaction action = {.sa_handler = tick, .sa_flags = SA_RESTART};
    const struct itimerval each = {{0, us}, {0, us}};
    must(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &each, NULL) == 0);
}

/* refuse NR, listen: filters of the caller's own, as a container's profile has. */
static long own_filter(unsigned nr, unsigned action, unsigned flags)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0), /* seccomp_data.nr */
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    long ret = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
    return ret < 0 ? -errno : ret;
}

/* A process that holds a new user namespace with this map, until it is killed. */
static pid_t hold_namespace(const char *map)
{
    char path[64], byte = 0;
    int ready[2];
    must(pipe2(ready, O_CLOEXEC) == 0);
    pid_t holder = fork();
    if (holder == 0) {
        must(unshare(CLONE_NEWUSER) == 0 && write(ready[1], &byte, 1) == 1);
        for (;;)
            pause();
    }
    must(read(ready[0], &byte, 1) == 1);
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "/proc/%d/%s", holder, i ? "gid_map" : "uid_map");
        write_map(path, map);
    }
    return holder;
}

/* idmap DIR INSIDE:OUTSIDE:SIZE: mounts DIR on itself, with its owners seen through this map. */
static void map_mount(const char *dir, char *list)
{
    char path[64];
    for (char *c = list; *c; c++)
        *c = *c == ':' ? ' ' : *c;
    pid_t holder = hold_namespace(list);
    snprintf(path, sizeof path, "/proc/%d/ns/user", holder);
    int user = open(path, O_RDONLY | O_CLOEXEC), tree = syscall(SYS_open_tree, AT_FDCWD, dir, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    struct mount_attr attributes = {.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = user};
    must(user >= 0 && tree >= 0);
    must(syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attributes, sizeof attributes) == 0);
    must(syscall(SYS_move_mount, tree, "", AT_FDCWD, dir, MOVE_MOUNT_F_EMPTY_PATH) == 0);
    must(kill(holder, SIGKILL) == 0 && wait_for(holder) == 128 + SIGKILL);
    close(user), close(tree);
}

static int unshare_flags(char *list)
{
    int flags = 0;
    for (char *save, *word = strtok_r(list, ",", &save); word; word = strtok_r(NULL, ",", &save))
        flags |= !strcmp(word, "mount")   ? CLONE_NEWNS
                 : !strcmp(word, "pid")   ? CLONE_NEWPID
                 : !strcmp(word, "ipc")   ? CLONE_NEWIPC
                 : !strcmp(word, "net")   ? CLONE_NEWNET
                 : !strcmp(word, "uts")   ? CLONE_NEWUTS
                 : !strcmp(word, "cgroup") ? CLONE_NEWCGROUP
                 : !strcmp(word, "files") ? CLONE_FILES
                 : !strcmp(word, "fs")    ? CLONE_FS
                                          : 0;
    return flags;
}

/* Runs the steps; true if the rest was run by somebody else, whose status is in *status. */
static int run(int argc, char **argv)
{
    for (int i = 0; i < argc; i++) {
        char *word[16], *copy = strdup(argv[i]), *save;
        int n = 0, fd;
        for (char *w = strtok_r(copy, " ", &save); w && n < 15; w = strtok_r(NULL, " ", &save))
            word[n++] = w;
        word[n] = NULL;
        struct rest rest = {argc - i - 1, argv + i + 1};
        if (n == 0 || system_call(word, n))
            continue;
#define STEP(name, count) else if (!strcmp(word[0], name) && n == (count) + 1)
        if (0)
            ;
        STEP("status", 0) status_lines();
        STEP("caps", 1) capabilities(word[1]);
        STEP("become", 3) become(atoi(word[1]), atoi(word[2]), word[3]);
        STEP("keepcaps", 0) keep_capabilities();
        STEP("dumpable", 1) must(prctl(PR_SET_DUMPABLE, atoi(word[1]), 0, 0, 0) == 0);
        STEP("read", 1)
        {
            fd = open(word[1], O_RDONLY);
            printf("read = %s\n", result(fd < 0 ? -errno : 0));
            if (fd >= 0)
                close(fd);
        }
        STEP("open", 3)
        {
            must((fd = open(word[3], open_flags(word[2]))) >= 0);
            if (fd != atoi(word[1])) {
                must(dup2(fd, atoi(word[1])) >= 0);
                close(fd);
            }
        }
        STEP("pipe", 1)
        {
            int ends[2];
            must(pipe(ends) == 0 && dup2(ends[0], atoi(word[1])) >= 0);
        }
        STEP("chdir", 1) must(chdir(word[1]) == 0);
        STEP("chroot", 1) must(chroot(word[1]) == 0);
        STEP("rmdir", 1) must(rmdir(word[1]) == 0);
        STEP("mkdir", 1) must(mkdir(word[1], 0755) == 0);
        STEP("touch", 1)
        {
            must((fd = open(word[1], O_CREAT | O_RDWR, 0644)) >= 0);
            close(fd);
        }
        STEP("owner", 1)
        {
            struct stat s;
            must(lstat(word[1], &s) == 0);
            printf("%s is of %u:%u\n", word[1], s.st_uid, s.st_gid);
        }
        STEP("attributes", 1) attributes(word[1]);
        STEP("tmpfs", 1) must(mount("tmpfs", word[1], "tmpfs", 0, "mode=755") == 0);
        STEP("proc", 1) must(mount("proc", word[1], "proc", 0, NULL) == 0);
        STEP("private", 0) must(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
        STEP("bind", 2) must(mount(word[1], word[2], NULL, MS_BIND, NULL) == 0);
        STEP("readonly", 1) must(mount(NULL, word[1], NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL) == 0);
        STEP("refuse", 1) must(own_filter(atoi(word[1]), SECCOMP_RET_ERRNO | EPERM, 0) == 0);
        STEP("listen", 0)
            printf("listen = %s\n", result(own_filter(9999, SECCOMP_RET_USER_NOTIF, SECCOMP_FILTER_FLAG_NEW_LISTENER)));
        STEP("idmap", 2) map_mount(word[1], word[2]);
        STEP("unshare", 1) must(unshare(unshare_flags(word[1])) == 0);
        STEP("userns", 1) user_namespace(word[1]);
        STEP("helper", 0) start_helper();
        STEP("pin", 1) ask_helper('+', word[1]);
        STEP("unpin", 1) ask_helper('-', word[1]);
        STEP("join", 1) ask_helper('j', word[1]);
        STEP("ticks", 1) tick_each(atoi(word[1]));
        STEP("sleep-ms", 1) usleep(atoi(word[1]) * 1000);
        STEP("exec", 1)
        {
            execl(word[1], word[1], "status", NULL);
            die("exec %s: %m", word[1]);
        }
        STEP("fork", 0)
        {
            pid_t pid = fork();
            must(pid >= 0);
            return pid == 0 ? run(rest.argc, rest.argv) : wait_for(pid);
        }
        STEP("vfork", 0) /* as posix_spawn does: the child shares the memory of a parent that waits */
        {
            fflush(stdout);
            pid_t pid = vfork();
            if (pid == 0) {
                int status = run(rest.argc, rest.argv);
                fflush(stdout);
                _exit(status);
            }
            return wait_for(pid);
        }
        STEP("orphan", 0) /* the rest in a thread whose process has lost its first thread */
        {
            pthread_t thread;
            start_thread(&thread, 1 << 20, run_orphan, &rest);
            syscall(SYS_exit, 0);
        }
        STEP("thread", 1) /* the rest in a thread with a stack of this many bytes */
        {
            pthread_t thread;
            void *status;
            start_thread(&thread, strtoul(word[1], NULL, 0), run_rest, &rest);
            pthread_join(thread, &status);
            return (long)status;
        }
        else die("no such step: %s", argv[i]);
#undef STEP
        free(copy);
    }
    return 0;
}

int steps(int argc, char **argv)
{
    int status = run(argc, argv);
    if (helper)
        close(helper_in);
    return status;
}

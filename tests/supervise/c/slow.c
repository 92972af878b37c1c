/* A file system that does not answer, and callers that want many answers. */
#include "caller.h"
#include <linux/fuse.h>

static void fuse_answer(int fd, uint64_t unique, int error, const void *body, size_t size)
{
    struct {
        struct fuse_out_header head;
        char body[sizeof(struct fuse_init_out) + sizeof(struct fuse_attr_out)];
    } out = {.head = {sizeof out.head + size, error, unique}};
    if (size)
        memcpy(out.body, body, size);
    must(write(fd, &out, out.head.len) == (ssize_t)out.head.len);
}

/* @private POINT: mounts a file system that only its mounter may use (no allow_other), and that checks nothing itself (no
 * default_permissions): a folder that takes every owner. How many changes of owner it was asked for is in the file
 * "asked" beside it. */
int private_main(int argc, char **argv)
{
    static char buffer[1 << 20];
    char options[128], asked[128];
    must(argc == 2);
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    must(fd >= 0);
    snprintf(options, sizeof options, "fd=%d,rootmode=40755,user_id=0,group_id=0", fd);
    snprintf(asked, sizeof asked, "%s.asked", argv[1]);
    must(mount("private", argv[1], "fuse", 0, options) == 0);
    for (;;) {
        ssize_t n = read(fd, buffer, sizeof buffer);
        if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT))
            continue;
        must(n > 0);
        struct fuse_in_header *in = (void *)buffer;
        struct fuse_attr_out attr = {.attr = {.ino = 1, .mode = S_IFDIR | 0755, .nlink = 2}};
        struct fuse_init_out init = {
            .major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION, .max_write = 65536};
        switch (in->opcode) {
        case FUSE_INIT:
            fuse_answer(fd, in->unique, 0, &init, sizeof init);
            puts("mounted");
            break;
        case FUSE_SETATTR:
            must(mkdir(asked, 0755) == 0 || errno == EEXIST);
            __attribute__((fallthrough));
        case FUSE_GETATTR:
            fuse_answer(fd, in->unique, 0, &attr, sizeof attr);
            break;
        case FUSE_FORGET:
        case FUSE_BATCH_FORGET:
        case FUSE_INTERRUPT:
            break;
        default:
            fuse_answer(fd, in->unique, -ENOSYS, NULL, 0);
        }
    }
}

/* @fuse POINT: mounts a file system that answers nothing after its start: a path into it waits in LOOKUP, its root in
 * SETATTR. It takes the requests, so that those who wait for it cannot be ended by a signal. One name has an answer:
 * there is no "late", which is told after 200 ms. */
int fuse_main(int argc, char **argv)
{
    static char buffer[1 << 20];
    char options[128];
    must(argc == 2);
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    must(fd >= 0);
    snprintf(options, sizeof options, "fd=%d,rootmode=40755,user_id=0,group_id=0,allow_other", fd);
    must(mount("stuck", argv[1], "fuse", 0, options) == 0);
    for (;;) {
        ssize_t n = read(fd, buffer, sizeof buffer);
        if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT))
            continue;
        must(n > 0);
        struct fuse_in_header *in = (void *)buffer;
        if (in->opcode == FUSE_LOOKUP && !strcmp((char *)(in + 1), "late")) {
            usleep(200000);
            fuse_answer(fd, in->unique, -ENOENT, NULL, 0);
        }
        if (in->opcode != FUSE_INIT)
            continue;
        struct fuse_init_out init = {
            .major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION, .max_write = 65536};
        fuse_answer(fd, in->unique, 0, &init, sizeof init);
        puts("mounted");
    }
}

/* @chowns N PATH: N calls, one after the other, and how long the longest took, in microseconds. */
int chowns_main(int argc, char **argv)
{
    long long longest = 0;
    must(argc == 3);
    for (int i = 0; i < atoi(argv[1]); i++) {
        long long start = now_us();
        long ret = raw3(SYS_chown, (unsigned long)argv[2], high(65532 + i), -1u);
        if (ret)
            die("chown: %s", result(ret));
        if (now_us() - start > longest)
            longest = now_us() - start;
    }
    printf("longest %lld\n", longest);
    return 0;
}

static gid_t many[65536];

static __attribute__((noreturn)) void *flood(void *argument)
{
    for (;;)
        raw3(SYS_setgroups, 65536 - (long)argument, (unsigned long)many, 0);
}

/* @flood N SETUP: N threads that ask for what takes longest, in a mount namespace of their own, as a container has. */
int flood_main(int argc, char **argv)
{
    pthread_t thread;
    must(argc == 2);
    must(unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS) == 0);
    for (int i = 0; i < 65536; i++)
        many[i] = high(65532 + 7919 * i);
    for (long i = 0; i < atoi(argv[1]); i++)
        start_thread(&thread, 64 * 1024, flood, (void *)i);
    puts("flooding");
    for (;;)
        pause();
}

static const char *crowd_kind, *crowd_file;
static const gid_t mapped_group = 5;
static pthread_barrier_t crowd_begins;

static __attribute__((noreturn)) void *crowd(void *argument)
{
    unsigned long id = high(50000 + (long)argument);
    pthread_barrier_wait(&crowd_begins);
    for (long n = (long)argument;; n++) {
        int kind = crowd_kind[0] == 'a' ? n % 3 : crowd_kind[0] == 'q' ? 0 : crowd_kind[0] == 'm' ? 3 : crowd_kind[1] == 'e' ? 1 : 2;
        if (kind == 0)
            raw3(SYS_chown, (unsigned long)crowd_file, id, id);
        else if (kind == 1)
            raw3(SYS_setresgid, id, id, id);
        else if (kind == 3) /* asked about, and let through */
            raw3(SYS_setgroups, 1, (unsigned long)&mapped_group, 0);
        else
            raw3(SYS_setgroups, 65536, (unsigned long)many, 0);
    }
}

/* @crowd N quick|set-id|slow|mapped|all FILE: N threads that make calls until they are killed. */
int crowd_main(int argc, char **argv)
{
    pthread_t thread;
    must(argc == 4);
    int n = atoi(argv[1]);
    crowd_kind = argv[2], crowd_file = argv[3];
    for (int i = 0; i < 65536; i++)
        many[i] = high(65532 + 7919 * i);
    pthread_barrier_init(&crowd_begins, NULL, n + 1);
    for (long i = 0; i < n; i++)
        start_thread(&thread, 16 * 1024, crowd, (void *)i);
    pthread_barrier_wait(&crowd_begins);
    puts("crowded");
    for (;;)
        pause();
}

/* A file system that does not answer, and callers that want many answers. */
#include "caller.h"
#include <linux/fuse.h>

static void fuse_answer(int fd, uint64_t unique, int error, const void *body, size_t size)
{
    struct {
        struct fuse_out_header head;
        char body[sizeof(struct fuse_init_out)];
    } out = {.head = {sizeof out.head + size, error, unique}};
    if (size)
        memcpy(out.body, body, size);
    must(write(fd, &out, out.head.len) == (ssize_t)out.head.len);
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

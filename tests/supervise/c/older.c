/* Makes this kernel an older one, or another one, for a command and all below it: hides what that would not have.
 *
 *     older 5.18 COMMAND...   as Linux 5.18
 *     older yama COMMAND...   as with kernel.yama.ptrace_scope=3
 *
 * Only calls can be hidden, by their number and what is in their arguments. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef __x86_64__
enum { THIS_MACHINE = AUDIT_ARCH_X86_64 };
#else
enum { THIS_MACHINE = AUDIT_ARCH_AARCH64 };
#endif
enum { ALWAYS = -1, SINCE_NEVER = 0 };

/* A call that fails with this error before a version (500 is 5.0), if (argument & mask) is the value. */
static const struct hidden {
    int since, nr, argument;
    unsigned mask, value;
    int error;
} hidden[] = {
    {506, 437 /* openat2 */, ALWAYS, 0, 0, ENOSYS},
    {506, 438 /* pidfd_getfd */, ALWAYS, 0, 0, ENOSYS},
    {508, 439 /* faccessat2 */, ALWAYS, 0, 0, ENOSYS},
    {509, 436 /* close_range */, ALWAYS, 0, 0, ENOSYS},
    {511, 441 /* epoll_pwait2 */, ALWAYS, 0, 0, ENOSYS},
    {512, 442 /* mount_setattr */, ALWAYS, 0, 0, ENOSYS},
    {519, SYS_seccomp, 1, 1 << 5, 1 << 5, EINVAL},              /* SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV */
    {606, SYS_ioctl, 1, 0xffffffff, 0x40082104, EINVAL},        /* SECCOMP_IOCTL_NOTIF_SET_FLAGS */
    {606, 452 /* fchmodat2 */, ALWAYS, 0, 0, ENOSYS},
    {609, SYS_pidfd_open, 1, 0200, 0200, EINVAL},               /* PIDFD_THREAD */
    {613, SYS_ioctl, 1, 0xffff, 0xff0b, ENOTTY},                /* PIDFD_GET_INFO */
    {613, 463 /* setxattrat */, ALWAYS, 0, 0, ENOSYS},
    {613, 464 /* getxattrat */, ALWAYS, 0, 0, ENOSYS},
    {616, SYS_ptrace, 0, 0xffffffff, 0x4212, EIO},              /* PTRACE_SET_SYSCALL_INFO */
    /* What asks for the right to attach. To look (PTRACE_MODE_READ) stays allowed. */
    {SINCE_NEVER, SYS_ptrace, 0, 0xffffffff, 16, EPERM},        /* PTRACE_ATTACH */
    {SINCE_NEVER, SYS_ptrace, 0, 0xffffffff, 0x4206, EPERM},    /* PTRACE_SEIZE */
    {SINCE_NEVER, SYS_process_vm_readv, ALWAYS, 0, 0, EPERM},
    {SINCE_NEVER, SYS_process_vm_writev, ALWAYS, 0, 0, EPERM},
    {SINCE_NEVER, 438 /* pidfd_getfd */, ALWAYS, 0, 0, EPERM},
};

int main(int argc, char **argv)
{
    struct sock_filter filter[8 * sizeof hidden / sizeof *hidden + 4];
    unsigned short n = 0;
    int major, minor, version = 0;
    if (argc < 3)
        return fprintf(stderr, "usage: older VERSION|yama COMMAND...\n"), 2;
    if (sscanf(argv[1], "%d.%d", &major, &minor) == 2)
        version = 100 * major + minor;
    else if (strcmp(argv[1], "yama"))
        return fprintf(stderr, "older: what is %s?\n", argv[1]), 2;
#define PUT(...) filter[n++] = (struct sock_filter)__VA_ARGS__
    PUT(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)));
    PUT(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, THIS_MACHINE, 1, 0));
    PUT(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    for (const struct hidden *h = hidden; h < hidden + sizeof hidden / sizeof *hidden; h++) {
        if (version == 0 ? h->since != SINCE_NEVER : h->since <= version)
            continue;
        int looks = h->argument != ALWAYS;
        PUT(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)));
        PUT(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)h->nr, 0, looks ? 4 : 1));
        if (looks) {
            PUT(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[h->argument])));
            PUT(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, h->mask));
            PUT(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, h->value, 0, 1));
        }
        PUT(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | h->error));
    }
    PUT(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    struct sock_fprog program = {n, filter};
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program))
        return perror("older: seccomp"), 2;
    execvp(argv[2], argv + 2);
    perror(argv[2]);
    return 127;
}

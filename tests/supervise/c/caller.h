/* Shared parts of the caller: raw system calls, and results told by name. */
#ifndef CALLER_H
#define CALLER_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define POOL 2048u
#define BASE 1000u

enum abi { X64, I386, X32 }; /* X64: the machine's own; the others are on x86-64 only */

#ifndef __x86_64__
/* Older calls that arm64 never had: raw() makes the newer one of each. */
enum { SYS_dup2 = 10033, SYS_chmod = 10090, SYS_chown = 10092, SYS_lchown = 10094 };
#define MAP_32BIT 0 /* no 32-bit calls: any memory will do */
#endif

/* The rule, written a second time. -1 is "no change". */
static inline unsigned place(unsigned id)
{
    if (id == -1u || id < POOL)
        return id;
    return BASE + id % (POOL - BASE);
}

/* Whether a marked id is to be placed by the caller itself: the run that says what is right. */
extern int placing;
/* Whether argument registers may come back folded: nobody can put them back when the one who would is killed. */
extern int registers_may_change;
static inline unsigned high(unsigned id) { return placing ? place(id) : id; }

/* The call as the kernel sees it, without libc between. Ends the program if an argument register comes back changed. */
long raw(enum abi abi, long nr, const unsigned long a[6]);
long raw3(long nr, unsigned long a, unsigned long b, unsigned long c);

/* 0, -ENOENT or 17 as "0", "ENOENT" or "17". */
const char *result(long value);

/* Says what went wrong and ends the program. */
void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
/* The same with errno, if the condition does not hold. */
#define must(condition) ((condition) ? (void)0 : die("%s:%d: %s: %m", __FILE__, __LINE__, #condition))

/* Keeps all capabilities whatever the ids become, so that a caller can change them again and again. */
void keep_capabilities(void);
long long now_us(void);
/* A limit of time on this machine: TIME_FACTOR is how many times slower it is than an ordinary one. */
long long scaled(long long us);
/* Waits for a child and gives its exit status, 128 + n if a signal ended it. */
int wait_for(pid_t pid);
unsigned next_random(unsigned *state);
unsigned any_high_id(unsigned *state);
void start_thread(pthread_t *thread, size_t stack, void *(*run)(void *), void *argument);

int steps(int argc, char **argv);

/* The programs for one test each, named by their first argument. */
int threads_main(int argc, char **argv);
int setxid_main(int argc, char **argv);
int shared_main(int argc, char **argv);
int signals_main(int argc, char **argv);
int reuse_main(int argc, char **argv);
int traced_main(int argc, char **argv);
int stop_main(int argc, char **argv);
int vanish_main(int argc, char **argv);
int storm_main(int argc, char **argv);
int race_main(int argc, char **argv);
int fuse_main(int argc, char **argv);
int chowns_main(int argc, char **argv);
int flood_main(int argc, char **argv);
int fuzz_main(int argc, char **argv);
int swap_main(int argc, char **argv);
int victim_main(int argc, char **argv);
int unreaped_main(int argc, char **argv);
int private_main(int argc, char **argv);
int sharers_main(int argc, char **argv);
int crowd_main(int argc, char **argv);
int intruder_main(int argc, char **argv);
int join_main(int argc, char **argv);
int namespaces_main(int argc, char **argv);

#endif

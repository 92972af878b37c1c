//go:build ignore

/*
 * What making a user namespace costs without any plugin: clone a child into a
 * new one, map it, bind-mount its file, end the child. Prints the nanoseconds
 * of each round, one a line.
 *
 *     userns ROUNDS DIR        (as root of a node; DIR is empty and writable)
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The map of a container that runs as 10001 on a node with ids 0 to 2047. */
static const char map[] = "0 0 1556\n1560 1560 9\n1570 1570 478\n10001 1569 1\n65532 1556 4\n";

static void write_map(pid_t child, const char *kind)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/%s", child, kind);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		err(1, "%s", path);
	if (write(fd, map, sizeof map - 1) != (ssize_t)(sizeof map - 1))
		err(1, "write %s", path);
	close(fd);
}

static long long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv)
{
	if (argc != 3)
		errx(2, "usage: userns ROUNDS DIR");
	if (chdir(argv[2]) != 0)
		err(1, "%s", argv[2]);
	int rounds = atoi(argv[1]);
	long long *took = calloc(rounds, sizeof *took);
	if (!took)
		err(1, "calloc");

	for (int i = 0; i < rounds; i++) {
		char file[32], ns[64];
		snprintf(file, sizeof file, "%d.user", i);
		long long start = now();
		pid_t child = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
		if (child < 0)
			err(1, "clone");
		if (child == 0)
			for (;;)
				pause();
		write_map(child, "uid_map");
		write_map(child, "gid_map");
		int fd = open(file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (fd < 0)
			err(1, "%s", file);
		close(fd);
		snprintf(ns, sizeof ns, "/proc/%d/ns/user", child);
		if (mount(ns, file, NULL, MS_BIND, NULL) != 0)
			err(1, "mount %s", ns);
		kill(child, SIGKILL);
		while (waitpid(child, NULL, 0) < 0)
			if (errno != EINTR)
				err(1, "waitpid");
		took[i] = now() - start;

		if (umount2(file, MNT_DETACH) != 0 || unlink(file) != 0)
			err(1, "remove %s", file);
	}
	for (int i = 0; i < rounds; i++)
		printf("%lld\n", took[i]);
	return 0;
}

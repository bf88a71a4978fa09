/* Splices and closes connections beside a relative with many descriptors.
 *   closes ROUNDS DESCRIPTORS
 */
#define _GNU_SOURCE
#include <sys/socket.h>
#include <sys/wait.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "sosplice.h"

#define CHECK(what) \
	do { \
		if (!(what)) { \
			perror(#what); \
			exit(1); \
		} \
	} while (0)

static int listener;
static struct sockaddr_in addr = { .sin_family = AF_INET };

static void
connect_pair(int ends[2])
{
	ends[0] = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(connect(ends[0], (struct sockaddr *)&addr, sizeof(addr)) == 0);
	ends[1] = accept(listener, NULL, NULL);
	CHECK(ends[1] >= 0);
}

int
main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 1, many = argc > 2 ? atoi(argv[2]) : 1;
	socklen_t len = sizeof(addr);
	int ready[2];
	char byte;
	pid_t pid;

	alarm(60);
	listener = socket(AF_INET, SOCK_STREAM, 0);
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	CHECK(bind(listener, (struct sockaddr *)&addr, len) == 0 && listen(listener, 8) == 0);
	CHECK(getsockname(listener, (struct sockaddr *)&addr, &len) == 0);
	CHECK(pipe(ready) == 0);
	pid = fork();
	if (pid == 0) {
		for (int i = 0; i < many; i++)
			dup(0);
		CHECK(write(ready[1], "r", 1) == 1);
		for (;;)
			pause();
	}
	CHECK(read(ready[0], &byte, 1) == 1);
	for (int i = 0; i < rounds; i++) {
		struct splice splice = { 0 };
		int in[2], out[2];

		connect_pair(in);
		connect_pair(out);
		splice.sp_fd = out[0];
		CHECK(setsockopt(in[1], SOL_SOCKET, SO_SPLICE, &splice, sizeof(splice)) == 0);
		/* The end of what is spliced is heard of when the close has returned. */
		close(in[1]);
		CHECK(read(in[0], &byte, 1) == 0);
		close(out[0]);
		CHECK(read(out[1], &byte, 1) == 0);
		close(in[0]);
		close(out[1]);
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	puts("done");
	return 0;
}

/* Process 1 of its namespace, or a subreaper, that waits for whatever child there is: its own
 * are all that it finds.
 *   init [subreaper]
 */
#define _GNU_SOURCE
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sosplice.h"

#define CHECK(what) \
	do { \
		if (!(what)) { \
			fprintf(stderr, "line %d: %s, errno %d\n", __LINE__, #what, errno); \
			exit(1); \
		} \
	} while (0)

static void
connect_pair(int ends[2])
{
	struct sockaddr_in addr = { .sin_family = AF_INET };
	socklen_t len = sizeof(addr);
	int listener = socket(AF_INET, SOCK_STREAM, 0);

	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	CHECK(bind(listener, (struct sockaddr *)&addr, len) == 0);
	CHECK(listen(listener, 1) == 0);
	CHECK(getsockname(listener, (struct sockaddr *)&addr, &len) == 0);
	ends[0] = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(connect(ends[0], (struct sockaddr *)&addr, len) == 0);
	ends[1] = accept(listener, NULL, NULL);
	CHECK(ends[1] >= 0);
	close(listener);
}

static void
go_through(void)
{
	struct splice splice = { 0 };
	char buf[8] = "";
	int in[2], out[2];

	connect_pair(in);
	connect_pair(out);
	splice.sp_fd = out[0];
	CHECK(setsockopt(in[1], SOL_SOCKET, SO_SPLICE, &splice, sizeof(splice)) == 0);
	CHECK(write(in[0], "through", 7) == 7);
	CHECK(recv(out[1], buf, 7, MSG_WAITALL) == 7 && strcmp(buf, "through") == 0);
}

int
main(int argc, char **argv)
{
	int status;
	pid_t pid;

	/* What must happen does not take so long. */
	alarm(20);
	if (argc > 1 && strcmp(argv[1], "subreaper") == 0)
		CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
	else
		CHECK(getpid() == 1);
	go_through();
	CHECK(waitpid(-1, &status, 0) == -1 && errno == ECHILD);
	pid = fork();
	if (pid == 0) {
		go_through();
		_exit(7);
	}
	CHECK(wait(&status) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 7);
	CHECK(wait(&status) == -1 && errno == ECHILD);
	go_through();
	puts("done");
	return 0;
}

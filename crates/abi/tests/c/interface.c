/* The option, and with LINKED the functions too. Built in several ways: the result must
 * not depend on how libc's names are spelled. */
#include <sys/socket.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sosplice.h"

#define CHECK(what) do { \
	if (!(what)) { \
		fprintf(stderr, "line %d: %s (errno %d)\n", __LINE__, #what, errno); \
		exit(1); \
	} \
} while (0)

static void
tcp(int ends[2])
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
option(void)
{
	/* Through a size that the compiler does not know: the fortified names. */
	volatile size_t some = 6, one = 1;
	char buf[64];
	int a[2], b[2], error = 0;
	socklen_t len = sizeof(error);
	struct splice splice = { 0 };
	struct pollfd set[1];

	tcp(a);
	tcp(b);
	splice.sp_fd = b[0];
	splice.sp_max = 6;
	CHECK(sizeof(splice) == 32);
	CHECK(setsockopt(a[1], SOL_SOCKET, SO_SPLICE, &splice, sizeof(splice)) == 0);
	set[0].fd = a[1];
	set[0].events = POLLIN;
	CHECK(poll(set, one, 20) == 0);
	CHECK(fcntl(a[1], F_SETFL, O_NONBLOCK) == 0);
	CHECK(read(a[1], buf, some) == -1 && errno == EAGAIN);
	CHECK(recv(a[1], buf, some, 0) == -1 && errno == EAGAIN);
	CHECK(recvfrom(a[1], buf, some, 0, NULL, NULL) == -1 && errno == EAGAIN);
	CHECK(write(a[0], "123456", 6) == 6);
	CHECK(poll(set, one, 20000) == 1);
	CHECK(getsockopt(a[1], SOL_SOCKET, SO_ERROR, &error, &len) == 0 && error == EFBIG);
	CHECK(recv(b[1], buf, some, MSG_WAITALL) == 6 && memcmp(buf, "123456", 6) == 0);
	close(a[0]);
	close(a[1]);
	close(b[0]);
	close(b[1]);
}

#ifdef LINKED
static void *
peer(void *arg)
{
	int *ends = arg;
	char buf[64];

	CHECK(write(ends[0], "there", 5) == 5);
	CHECK(recv(ends[1], buf, 5, MSG_WAITALL) == 5);
	CHECK(write(ends[1], "and back", 8) == 8);
	CHECK(recv(ends[0], buf, 8, MSG_WAITALL) == 8);
	shutdown(ends[0], SHUT_WR);
	/* The end is carried on. */
	CHECK(read(ends[1], buf, sizeof(buf)) == 0);
	shutdown(ends[1], SHUT_WR);
	CHECK(read(ends[0], buf, sizeof(buf)) == 0);
	return NULL;
}

static void
functions(void)
{
	char buf[64];
	int a[2], b[2], outer[2];
	struct timeval idle = { 0, 50000 };
	pthread_t thread;

	tcp(a);
	tcp(b);
	CHECK(sosplice(a[1], -1, 0, NULL) == -1 && errno == EBADF);
	CHECK(sosplice(a[1], b[0], -1, NULL) == -1 && errno == EINVAL);
	CHECK(sosplice_length(a[1]) == 0);
	CHECK(sosplice_length(-1) == -1 && errno == EBADF);
	CHECK(sosplice_wait(a[1]) == 0);
	CHECK(sosplice(a[1], b[0], 0, NULL) == 0);
	CHECK(write(a[0], "bytes", 5) == 5);
	CHECK(recv(b[1], buf, 5, MSG_WAITALL) == 5);
	CHECK(sosplice_length(a[1]) == 5);
	CHECK(sounsplice(a[1]) == 0);
	CHECK(sounsplice(a[1]) == -1 && errno == EPROTO);
	CHECK(sosplice(a[1], b[0], 0, &idle) == 0);
	CHECK(sosplice_wait(a[1]) == -1 && errno == ETIMEDOUT);
	CHECK(sosplice_wait(a[1]) == 0);
	CHECK(sosplice(a[1], b[0], 3, NULL) == 0);
	CHECK(write(a[0], "123", 3) == 3);
	CHECK(sosplice_wait(a[1]) == -1 && errno == EFBIG);
	CHECK(recv(b[1], buf, 3, MSG_WAITALL) == 3);
	outer[0] = a[0];
	outer[1] = b[1];
	CHECK(pthread_create(&thread, NULL, peer, outer) == 0);
	CHECK(sosplice_both(a[1], b[0]) == 0);
	CHECK(sosplice_length(a[1]) == 5 && sosplice_length(b[0]) == 8);
	CHECK(pthread_join(thread, NULL) == 0);
	CHECK(sosplice_both(a[1], -1) == -1 && errno == EBADF);
}
#endif

int
main(void)
{
	option();
#ifdef LINKED
	functions();
#endif
	return 0;
}

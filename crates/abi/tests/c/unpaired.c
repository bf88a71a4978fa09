/* A program whose connection is with one that does not announce itself: a loop of write, poll, epoll_wait and read over
 * what the first argument says, tcp or pipe. Both ends are in this process. */
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* A connection of two ends, of which the far one was made in a way that nobody sees. */
static int
connection(int ends[2])
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	socklen_t len = sizeof(to);
	int listener = socket(AF_INET, SOCK_STREAM, 0);

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(listener, (struct sockaddr *)&to, len) || listen(listener, 1) ||
	    getsockname(listener, (struct sockaddr *)&to, &len))
		return -1;
	ends[0] = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(ends[0], (struct sockaddr *)&to, len))
		return -1;
#ifdef __x86_64__
	register long none asm("r10") = 0;
	long made;

	asm volatile("syscall" : "=a"(made) : "a"(288L), "D"(listener), "S"(0L), "d"(0L), "r"(none)
	    : "rcx", "r11", "memory");
	ends[1] = (int)made;
#else
	ends[1] = accept(listener, NULL, NULL);
#endif
	return ends[1];
}

int
main(int argc, char **argv)
{
	long rounds = argc > 2 ? atol(argv[2]) : 100000;
	char buf[64] = "";
	int ends[2], there[2];

	/* The program writes to the pipe or connection, and reads from it. */
	if (argc > 1 && strcmp(argv[1], "tcp") == 0) {
		if (connection(ends) < 0)
			return 1;
		there[0] = there[1] = ends[0];
	} else {
		if (pipe(ends) == -1)
			return 1;
		there[0] = ends[0];
		there[1] = ends[1];
	}

	int set = epoll_create1(0);
	struct epoll_event event = { .events = EPOLLIN };

	if (epoll_ctl(set, EPOLL_CTL_ADD, there[0], &event))
		return 1;
	for (long round = 0; round < rounds; round++) {
		struct pollfd polled = { .fd = there[0], .events = POLLIN };

		if (write(there[1], buf, sizeof(buf)) != sizeof(buf))
			return 1;
		if (there[0] == there[1] && (read(ends[1], buf, sizeof(buf)) != sizeof(buf) ||
		    write(ends[1], buf, sizeof(buf)) != sizeof(buf)))
			return 1;
		if (poll(&polled, 1, -1) != 1 || epoll_wait(set, &event, 1, -1) != 1)
			return 1;
		if (read(there[0], buf, sizeof(buf)) != sizeof(buf))
			return 1;
	}
	return 0;
}

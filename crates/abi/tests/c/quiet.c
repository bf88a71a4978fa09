/* A program that never uses the option: a loop of write, poll and read. */
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int
main(int argc, char **argv)
{
	long rounds = argc > 1 ? atol(argv[1]) : 100000;
	char buf[64] = "";
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == -1)
		return 1;
	for (long round = 0; round < rounds; round++) {
		struct pollfd set = { .fd = ends[1], .events = POLLIN };

		if (write(ends[0], buf, sizeof(buf)) != sizeof(buf))
			return 1;
		if (poll(&set, 1, -1) != 1)
			return 1;
		if (read(ends[1], buf, sizeof(buf)) != sizeof(buf))
			return 1;
	}
	return 0;
}

/*
 * A source that holds 128 KiB, or 200 datagrams, when its splice is set up: all of it moves
 * inside the call, so how many calls that takes depends on nothing else.
 */
#include <arpa/inet.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define SO_SPLICE 0x1023
#define BYTES (128 * 1024)
#define DATAGRAMS 200
#define DATAGRAM_BYTES 100

static struct sockaddr_in
local(int port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = port };

	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return at;
}

/* Two sockets connected to each other, with the same buffers everywhere. */
static void
pair(int type, int ends[2])
{
	struct sockaddr_in at = local(0);
	socklen_t len = sizeof(at);
	int first = socket(AF_INET, type, 0), second = socket(AF_INET, type, 0);
	int bytes = 4 * BYTES;

	setsockopt(first, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
	setsockopt(second, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	if (bind(first, (struct sockaddr *)&at, len) == -1 ||
	    getsockname(first, (struct sockaddr *)&at, &len) == -1)
		exit(2);
	if (type == SOCK_STREAM && listen(first, 1) == -1)
		exit(2);
	if (connect(second, (struct sockaddr *)&at, len) == -1)
		exit(2);
	ends[0] = type == SOCK_STREAM ? accept(first, NULL, NULL) : first;
	ends[1] = second;
}

static int
queued(int fd)
{
	int bytes = 0;

	if (ioctl(fd, FIONREAD, &bytes) == -1)
		exit(2);
	return bytes;
}

int
main(int argc, char **argv)
{
	int is_tcp = argc > 1 && strcmp(argv[1], "tcp") == 0;
	int in[2], out[2];
	static char bytes[BYTES];

	/* Where the buffers may not be so large, this fails and does not hang. */
	alarm(20);

	pair(is_tcp ? SOCK_STREAM : SOCK_DGRAM, in);
	pair(is_tcp ? SOCK_STREAM : SOCK_DGRAM, out);
	if (is_tcp) {
		if (send(in[1], bytes, BYTES, 0) != BYTES)
			return 3;
		while (queued(in[0]) < BYTES)
			poll(NULL, 0, 1);
	} else {
		for (int i = 0; i < DATAGRAMS; i++)
			if (send(in[1], bytes, DATAGRAM_BYTES, 0) != DATAGRAM_BYTES)
				return 3;
	}
	if (setsockopt(in[0], SOL_SOCKET, SO_SPLICE, &out[1], sizeof(int)) == -1)
		return 4;
	if (is_tcp) {
		for (long got = 0, count; got < BYTES; got += count)
			if ((count = read(out[0], bytes, BYTES)) <= 0)
				return 5;
	} else {
		for (int i = 0; i < DATAGRAMS; i++)
			if (read(out[0], bytes, BYTES) != DATAGRAM_BYTES)
				return 5;
	}
	return 0;
}

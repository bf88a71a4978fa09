/* A small relayd: each HTTP head is read and passed on in user space, each body is
 * spliced with its length as the maximum; then the next head is read.
 *   cc -I../include -o http http.c && LD_PRELOAD=libsosplice.so ./http PORT UPSTREAM-PORT
 */
#include <sys/socket.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "sosplice.h"

#define HEAD_MAX 8192

/* Reads one head, byte by byte as far as its end, and not a byte of the body. */
static ssize_t
read_head(int fd, char *head)
{
	size_t len = 0;

	while (len < HEAD_MAX - 1) {
		ssize_t n = recv(fd, head + len, 1, 0);
		if (n <= 0)
			return n;
		head[++len] = '\0';
		if (len >= 4 && memcmp(head + len - 4, "\r\n\r\n", 4) == 0)
			return len;
	}
	errno = E2BIG;
	return -1;
}

static long long
content_length(const char *head)
{
	const char *line = head;

	while ((line = strstr(line, "\r\n")) != NULL) {
		line += 2;
		if (strncasecmp(line, "content-length:", 15) == 0)
			return atoll(line + 15);
	}
	return 0;
}

/* The head in user space, the body by the option: it ends with EFBIG when all has gone. */
static int
pass(int from, int to)
{
	char head[HEAD_MAX];
	struct splice body = { .sp_fd = to };
	ssize_t len = read_head(from, head);
	char byte;

	if (len <= 0 || write(to, head, len) != len)
		return -1;
	body.sp_max = content_length(head);
	body.sp_idle.tv_sec = 30;
	if (body.sp_max == 0)
		return 0;
	if (setsockopt(from, SOL_SOCKET, SO_SPLICE, &body, sizeof(body)) == -1)
		return -1;
	for (;;) {
		struct pollfd end = { .fd = from, .events = POLLIN };
		int error = 0;
		socklen_t size = sizeof(error);

		if (poll(&end, 1, -1) == -1)
			return -1;
		if (getsockopt(from, SOL_SOCKET, SO_ERROR, &error, &size) == -1)
			return -1;
		if (error == EFBIG)
			return 0;
		if (error != 0 || recv(from, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0) {
			errno = error ? error : EPIPE;
			return -1;
		}
	}
}

int
main(int argc, char **argv)
{
	struct sockaddr_in addr = { .sin_family = AF_INET };
	struct sockaddr_in upstream;
	socklen_t len = sizeof(addr);
	int listener, client, server;

	if (argc != 3) {
		fprintf(stderr, "usage: http PORT UPSTREAM-PORT\n");
		return 2;
	}
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	upstream = addr;
	addr.sin_port = htons(atoi(argv[1]));
	upstream.sin_port = htons(atoi(argv[2]));
	listener = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(listener, (struct sockaddr *)&addr, len) == -1 || listen(listener, 64) == -1) {
		perror("http");
		return 1;
	}
	getsockname(listener, (struct sockaddr *)&addr, &len);
	printf("%d\n", ntohs(addr.sin_port));
	fflush(stdout);
	while ((client = accept(listener, NULL, NULL)) >= 0) {
		server = socket(AF_INET, SOCK_STREAM, 0);
		if (connect(server, (struct sockaddr *)&upstream, sizeof(upstream)) == 0)
			while (pass(client, server) == 0 && pass(server, client) == 0)
				;
		close(server);
		close(client);
	}
	return 1;
}

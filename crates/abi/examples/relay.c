/* A relay that uses the plain option, as it would be written for OpenBSD.
 *   cc -I../include -o relay relay.c && LD_PRELOAD=libsosplice.so ./relay PORT HOST PORT
 */
#include <sys/socket.h>
#include <sys/wait.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sosplice.h"

static int
dial(const char *host, const char *port)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *all, *one;
	int fd = -1;

	if (getaddrinfo(host, port, &hints, &all) != 0)
		return -1;
	for (one = all; one != NULL; one = one->ai_next) {
		fd = socket(one->ai_family, one->ai_socktype, 0);
		if (fd >= 0 && connect(fd, one->ai_addr, one->ai_addrlen) == 0)
			break;
		if (fd >= 0)
			close(fd);
		fd = -1;
	}
	freeaddrinfo(all);
	return fd;
}

static void
session(int client, const char *host, const char *port)
{
	int server = dial(host, port);
	struct pollfd ends[2] = {
		{ .fd = client, .events = POLLIN },
		{ .fd = server, .events = POLLIN },
	};
	int drains[2] = { server, client };
	int left = 2;

	/* The int form: no maximum, no idle limit. */
	if (server < 0 ||
	    setsockopt(client, SOL_SOCKET, SO_SPLICE, &server, sizeof(server)) == -1 ||
	    setsockopt(server, SOL_SOCKET, SO_SPLICE, &client, sizeof(client)) == -1) {
		perror("relay");
		_exit(1);
	}
	/* A spliced source becomes readable at its end, and only then. */
	while (left > 0 && poll(ends, 2, -1) > 0) {
		for (int i = 0; i < 2; i++) {
			if (ends[i].fd < 0 || ends[i].revents == 0)
				continue;
			shutdown(drains[i], SHUT_WR);
			ends[i].fd = -1;
			left--;
		}
	}
	_exit(0);
}

int
main(int argc, char **argv)
{
	struct sockaddr_in addr = { .sin_family = AF_INET };
	socklen_t len = sizeof(addr);
	int listener, client;

	if (argc != 4) {
		fprintf(stderr, "usage: relay PORT HOST PORT\n");
		return 2;
	}
	addr.sin_port = htons(atoi(argv[1]));
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	listener = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(listener, (struct sockaddr *)&addr, len) == -1 || listen(listener, 64) == -1) {
		perror("relay");
		return 1;
	}
	getsockname(listener, (struct sockaddr *)&addr, &len);
	printf("%d\n", ntohs(addr.sin_port));
	fflush(stdout);
	while ((client = accept(listener, NULL, NULL)) >= 0) {
		if (fork() == 0) {
			close(listener);
			session(client, argv[2], argv[3]);
		}
		close(client);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
	return 1;
}

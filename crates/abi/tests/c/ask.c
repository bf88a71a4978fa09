/* Sends so many bytes to a port of this host that echoes, and compares what comes back. Linked
 * statically, so that no library can be preloaded to it. */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	static unsigned char bytes[1 << 20], back[1 << 20];
	struct sockaddr_in to = { .sin_family = AF_INET };
	size_t size = argc > 2 ? strtoul(argv[2], NULL, 10) : 1;
	size_t at, step;
	ssize_t moved;
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	to.sin_port = htons(argc > 1 ? atoi(argv[1]) : 7);
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (size > sizeof bytes || connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
		return 2;
	for (at = 0; at < size; at++)
		bytes[at] = (unsigned char)(at * 2654435761u >> 13);
	/* In steps that fit every buffer: there is one thread for both directions. */
	for (at = 0; at < size; at += step) {
		size_t got = 0;

		step = size - at < 10000 ? size - at : 10000;
		if (write(fd, bytes + at, step) != (ssize_t)step)
			return 3;
		for (; got < step; got += moved)
			if ((moved = read(fd, back + at + got, step - got)) <= 0)
				return 4;
	}
	return memcmp(bytes, back, size) ? 5 : 0;
}

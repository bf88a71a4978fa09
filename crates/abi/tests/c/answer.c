/* Sends back what it gets on a descriptor until the end, then ends too. Linked statically, so
 * that no library can be preloaded to it. */
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	static char bytes[65536];
	int fd = argc > 1 ? atoi(argv[1]) : 0;
	ssize_t got, sent, at;

	while ((got = read(fd, bytes, sizeof bytes)) > 0)
		for (at = 0; at < got; at += sent)
			if ((sent = write(fd, bytes + at, got - at)) < 0)
				return 2;
	return got < 0;
}

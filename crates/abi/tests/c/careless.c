/* A careless program: random values of the option, descriptors closed by other threads,
 * handlers that do I/O, forks, execs and exits in the middle. It must end, and not by a
 * signal; what it does in between is its own concern.
 *   careless SEED ROUNDS
 */
#define _GNU_SOURCE
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <unistd.h>

#include "sosplice.h"

#define SOCKETS 24
#define THREADS 4

static _Atomic int fds[SOCKETS];
static int listener;
static struct sockaddr_in addr;
static long rounds;

static unsigned
next(unsigned *state)
{
	*state = *state * 1664525u + 1013904223u;
	return *state >> 8;
}

/* Never blocks: a careless program that hangs by its own fault shows nothing. */
static void
connect_pair(int ends[2])
{
	socklen_t len = sizeof(addr);
	struct timeval limit = { 0, 20000 };

	ends[0] = socket(AF_INET, SOCK_STREAM, 0);
	ends[1] = -1;
	if (connect(ends[0], (struct sockaddr *)&addr, len) == 0)
		ends[1] = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
	for (int i = 0; i < 2; i++) {
		setsockopt(ends[i], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
		setsockopt(ends[i], SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	}
}

static void
on_alarm(int signal)
{
	static _Atomic unsigned at;
	int fd = fds[atomic_fetch_add(&at, 1) % SOCKETS];
	int saved = errno, value = -1;
	char buf[16];
	struct pollfd set = { .fd = fd, .events = POLLIN };

	(void)signal;
	(void)!recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
	(void)!send(fd, buf, sizeof(buf), MSG_DONTWAIT | MSG_NOSIGNAL);
	poll(&set, 1, 0);
	setsockopt(fd, SOL_SOCKET, SO_SPLICE, &value, sizeof(value));
	errno = saved;
}

static void
step(unsigned *state)
{
	unsigned what = next(state) % 20;
	int a = fds[next(state) % SOCKETS], b = fds[next(state) % SOCKETS];
	char buf[4096];
	socklen_t len = next(state) % 48;
	struct splice splice[2];
	struct pollfd set[2] = { { a, POLLIN | POLLOUT, 0 }, { b, POLLIN, 0 } };
	struct timeval now = { 0, 1000 };
	struct epoll_event event = { .events = EPOLLIN };
	fd_set readable;
	int ends[2], value, ep;

	memset(splice, 0, sizeof(splice));
	splice[0].sp_fd = b;
	switch (what) {
	case 0:		/* any bytes at all */
		for (size_t i = 0; i < sizeof(splice); i++)
			((char *)splice)[i] = next(state);
		setsockopt(a, SOL_SOCKET, SO_SPLICE, splice, len);
		break;
	case 1:
		splice[0].sp_max = next(state) % 100000;
		splice[0].sp_idle.tv_usec = next(state) % 1000000;
		/* FALLTHROUGH */
	case 2:
	case 3:
		setsockopt(a, SOL_SOCKET, SO_SPLICE, splice, sizeof(splice[0]));
		break;
	case 4:
		setsockopt(a, SOL_SOCKET, SO_SPLICE, NULL, 0);
		break;
	case 5:
		getsockopt(a, SOL_SOCKET, SO_SPLICE, buf, &len);
		getsockopt(a, SOL_SOCKET, SO_ERROR, buf, &len);
		break;
	case 6:		/* somebody else uses it */
		close(a);
		break;
	case 7:
	case 8:
		connect_pair(ends);
		close(atomic_exchange(&fds[next(state) % SOCKETS], ends[0]));
		close(atomic_exchange(&fds[next(state) % SOCKETS], ends[1]));
		break;
	case 9:
		(void)!read(a, buf, next(state) % sizeof(buf) + 1);
		break;
	case 10:
	case 11:
		(void)!write(a, buf, next(state) % sizeof(buf));
		break;
	case 12:
		poll(set, 2, 1);
		break;
	case 13:
		if (a >= 0 && a < FD_SETSIZE) {
			FD_ZERO(&readable);
			FD_SET(a, &readable);
			select(a + 1, &readable, NULL, NULL, &now);
		}
		break;
	case 14:
		ep = epoll_create1(EPOLL_CLOEXEC);
		epoll_ctl(ep, EPOLL_CTL_ADD, a, &event);
		event.events |= EPOLLET;
		epoll_ctl(ep, EPOLL_CTL_ADD, b, &event);
		epoll_wait(ep, &event, 1, 1);
		close(ep);
		break;
	case 15:
		value = dup(a);
		shutdown(value, next(state) % 3);
		close(value);
		break;
	case 16:
		value = dup2(a, b);
		break;
	case 17:
		listen(a, 1);
		break;
	case 18:
		sched_yield();
		break;
	default:
		if (next(state) % 8 == 0) {
			pid_t pid = fork();
			if (pid == 0) {
				setsockopt(a, SOL_SOCKET, SO_SPLICE, splice, sizeof(splice[0]));
				close(b);
				if (next(state) % 2 == 0)
					execl("/bin/true", "true", (char *)NULL);
				_exit(0);
			}
			if (pid > 0)
				waitpid(pid, NULL, 0);
		}
	}
}

static void *
careless(void *arg)
{
	unsigned state = (unsigned)(size_t)arg;

	for (long round = 0; round < rounds; round++)
		step(&state);
	return NULL;
}

int
main(int argc, char **argv)
{
	unsigned seed = argc > 1 ? atoi(argv[1]) : 1;
	struct itimerval every = { { 0, 3000 }, { 0, 3000 } };
	struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
	pthread_t threads[THREADS];
	socklen_t len = sizeof(addr);
	int ends[2];

	rounds = argc > 2 ? atol(argv[2]) : 1000;
	signal(SIGPIPE, SIG_IGN);
	addr.sin_family = AF_INET;
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	/* Out of reach of a careless dup2. */
	listener = fcntl(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), F_DUPFD, 600);
	bind(listener, (struct sockaddr *)&addr, len);
	listen(listener, 128);
	getsockname(listener, (struct sockaddr *)&addr, &len);
	for (int i = 0; i < SOCKETS; i += 2) {
		connect_pair(ends);
		fds[i] = ends[0];
		fds[i + 1] = ends[1];
	}
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
	for (long i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, careless, (void *)(size_t)(seed * 7919u + i));
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	/* Whatever was left running ends with the process. */
	puts("done");
	fflush(stdout);
	if (seed % 2 == 0)
		_exit(0);
	return 0;
}

/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * sosplice.h: socket splicing on Linux, by the socket option of OpenBSD and FreeBSD or by
 * functions. See sosplice(3).
 *
 * What arrives on the source goes out on the drain, without the program. Link with
 * -lsosplice, or preload libsosplice.so into a program that uses the option.
 */
#ifndef SOSPLICE_H
#define SOSPLICE_H

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* setsockopt(source, SOL_SOCKET, SO_SPLICE, ...): level and number as on both systems. */
#ifndef SO_SPLICE
#define SO_SPLICE 0x1023

/* The value of the option. 32 bytes where long has 64 bits. */
struct splice {
	int		sp_fd;		/* drain; negative to take the splice back */
	long long	sp_max;		/* bytes to move at most; 0 for no limit */
	struct timeval	sp_idle;	/* end when nothing moves for so long; 0 for never */
};
#endif

/*
 * Moves bytes from source to drain: at most max (0: no limit), until nothing moves for
 * idle (NULL: no limit). Returns 0, or -1 with errno as of setsockopt(SO_SPLICE).
 */
int sosplice(int source, int drain, long long max, const struct timeval *idle);

/* Bytes that the drain has accepted, also after the end; 0 if never spliced. */
long long sosplice_length(int source);

/* Takes the splice back. What was not moved is still to be read from source. */
int sounsplice(int source);

/*
 * Waits until no splice runs from source. Returns 0 at its end of file or when it was taken
 * back, or -1 with the errno that ended it (EFBIG, ETIMEDOUT, EPIPE, ELOOP, ...), which is
 * thereby told, as by SO_ERROR.
 */
int sosplice_wait(int source);

/*
 * Joins two sockets both ways and waits: an end of file is carried to the other side.
 * Returns 0 when both directions are over, or -1 with the errno that ended one of them;
 * then both are taken back. EINTR: a signal came, and both go on.
 */
int sosplice_both(int fd1, int fd2);

#ifdef __cplusplus
}
#endif

#endif

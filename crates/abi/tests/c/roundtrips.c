/* Two processes that ask and answer over a TCP connection on loopback: roundtrips HOW ROUNDS, where HOW is recv
   or poll (a poll before each receive). A message is 64 bytes. */
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static char message[64];

static void check(int is_right) {
    if (!is_right)
        abort();
}

static void ask(int fd) {
    check(send(fd, message, sizeof message, 0) == sizeof message);
}

static void hear(int fd, int polls) {
    struct pollfd what = {fd, POLLIN, 0};
    size_t got = 0;

    while (got < sizeof message) {
        ssize_t count;

        if (polls)
            check(poll(&what, 1, -1) == 1);
        count = recv(fd, message + got, sizeof message - got, 0);
        check(count > 0);
        got += count;
    }
}

int main(int argc, char **argv) {
    int polls = argc > 2 && strcmp(argv[1], "poll") == 0;
    int rounds = argc > 2 ? atoi(argv[2]) : 0;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    int status = 1;

    check(bind(listener, (struct sockaddr *)&address, sizeof address) == 0 && listen(listener, 1) == 0);
    check(getsockname(listener, (struct sockaddr *)&address, &length) == 0);
    if (fork() == 0) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);

        check(connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
        for (; rounds > 0; rounds--) {
            ask(fd);
            hear(fd, polls);
        }
        exit(0);
    } else {
        int fd = accept(listener, 0, 0);

        for (; rounds > 0; rounds--) {
            hear(fd, polls);
            ask(fd);
        }
        check(wait(&status) > 0);
        return status;
    }
}

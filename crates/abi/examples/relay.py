#!/usr/bin/env python3
"""A relay that uses the plain option: sosplice run --so-splice -- relay.py PORT HOST PORT"""

import select
import socket
import sys

SO_SPLICE = 0x1023

port, host, target = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
listener = socket.create_server(("127.0.0.1", port))
print(listener.getsockname()[1], flush=True)
waiter = select.epoll()
waiter.register(listener, select.EPOLLIN)
drains = {}
while True:
    for fd, _ in waiter.poll():
        if fd == listener.fileno():
            client, _ = listener.accept()
            server = socket.create_connection((host, target))
            for source, drain in (client, server), (server, client):
                source.setsockopt(socket.SOL_SOCKET, SO_SPLICE, drain.fileno())
                waiter.register(source, select.EPOLLIN)
                drains[source.fileno()] = (source, drain)
            continue
        # Readable: the splice from it is over.
        source, drain = drains.pop(fd)
        waiter.unregister(fd)
        try:
            drain.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        if drain.fileno() not in drains:
            source.close()
            drain.close()

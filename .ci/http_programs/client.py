"""Clients in Python: http.client, urllib, and sockets where those know too much.

    client.py CHECK PORT [ARGUMENT...]
"""
import base64
import hashlib
import http.client
import os
import random
import socket
import struct
import sys
import threading
import time
import urllib.request

from server import pattern

PORT = int(sys.argv[2])
LIMIT_S = 120


def connection():
    return http.client.HTTPConnection("127.0.0.1", PORT, timeout=LIMIT_S)


def raw(data=b""):
    stream = socket.create_connection(("127.0.0.1", PORT), timeout=LIMIT_S)
    stream.sendall(data)
    return stream


def ask(kept, method, path, body=None, **more):
    kept.request(method, path, body=body, **more)
    answer = kept.getresponse()
    return answer, answer.read()


def sha(pieces):
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def keep_alive():
    """Bodies of many sizes, both framings, on one connection."""
    numbers, kept = random.Random(3), connection()
    kept.connect()
    socket_of_the_first = kept.sock
    for size in [0, 1, 2, 1000, 8000, 16384, 65535, 65536, 70000, 1 << 20, 3000001, 5]:
        body = numbers.randbytes(size)
        assert ask(kept, "POST", "/echo", body)[1] == body, size
        pieces = [body[at : at + 9999] for at in range(0, size, 9999)]
        answer, back = ask(kept, "POST", "/echo", iter(pieces), encode_chunked=True)
        assert answer.getheader("transfer-encoding") == "chunked" and back == body, size
        assert ask(kept, "GET", f"/chunks/{size}")[1] == b"".join(pattern(size)), size
    assert kept.sock is socket_of_the_first, "the relay closed it"


def without_a_body():
    """HEAD, 204 and 304 between answers that have one: a byte too many would be the next one's."""
    kept = connection()
    kept.connect()
    socket_of_the_first = kept.sock
    for _ in range(10):
        answer, body = ask(kept, "HEAD", "/bytes/1000000")
        assert (answer.status, answer.getheader("content-length"), body) == (200, "1000000", b"")
        answer, body = ask(kept, "HEAD", "/chunks/1000")
        assert (answer.status, body) == (200, b"")
        for status in (204, 304):
            answer, body = ask(kept, "GET", f"/status/{status}")
            assert (answer.status, answer.getheader("etag"), body) == (status, '"x"', b"")
        assert ask(kept, "GET", "/bytes/10")[1] == b"".join(pattern(10))
    assert kept.sock is socket_of_the_first, "the relay closed it"


def urllib_client():
    for size in (0, 10, 100000, 5000000):
        for kind in ("bytes", "chunks", "until-close"):
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/{kind}/{size}", timeout=LIMIT_S) as answer:
                assert answer.read() == b"".join(pattern(size)), (kind, size)


def server_closes():
    """Each of the server's connections carries one answer; the client's goes on."""
    kept = connection()
    kept.connect()
    socket_of_the_first = kept.sock
    for _ in range(200):
        assert ask(kept, "GET", "/close")[1] == b"last"
    assert kept.sock is socket_of_the_first, "the relay closed it"


def server_is_kept():
    """One after the other, requests find the connection of the last."""
    kept = connection()
    numbers = [int(ask(kept, "GET", "/number")[1]) for _ in range(50)]
    assert numbers == list(range(numbers[0], numbers[0] + 50)), numbers


def pipelined():
    asked = b"".join(b"GET /bytes/%d HTTP/1.1\r\nHost: x\r\n\r\n" % (turn * 37) for turn in range(99))
    stream = raw(asked + b"GET /bytes/9 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    with stream.makefile("rb") as file:
        for size in [turn * 37 for turn in range(99)] + [9]:
            assert file.readline().startswith(b"HTTP/1.1 200"), size
            fields = {}
            while (line := file.readline()) != b"\r\n":
                name, value = line.lower().split(b":", 1)
                fields[name] = value.strip()
            assert int(fields[b"content-length"]) == size
            assert file.read(size) == b"".join(pattern(size)), size
        assert file.read() == b""


def http_1_0():
    with raw(b"GET /bytes/70000 HTTP/1.0\r\n\r\n") as stream:
        head, body = stream.makefile("rb").read().split(b"\r\n\r\n", 1)
        assert b"200" in head and body == b"".join(pattern(70000))
    # It does not know chunks.
    with raw(b"GET /chunks/500000 HTTP/1.0\r\n\r\n") as stream:
        head, body = stream.makefile("rb").read().split(b"\r\n\r\n", 1)
        assert b"chunked" not in head.lower() and body == b"".join(pattern(500000))
    with raw() as stream, stream.makefile("rb") as file:
        for _ in range(20):
            stream.sendall(b"GET /bytes/5 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            fields = []
            while (line := file.readline()) != b"\r\n":
                fields.append(line.strip().lower())
            assert b"connection: keep-alive" in fields, fields
            assert file.read(5) == b"".join(pattern(5))


def web_socket():
    key = base64.b64encode(os.urandom(16))
    stream = raw(
        b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"
    )
    file = stream.makefile("rb")
    assert file.readline().startswith(b"HTTP/1.1 101")
    fields = {}
    while (line := file.readline()) != b"\r\n":
        name, value = line.split(b":", 1)
        fields[name.lower()] = value.strip()
    expected = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    assert base64.b64decode(fields[b"sec-websocket-accept"]) == expected
    assert fields[b"upgrade"].lower() == b"websocket"

    def frame(opcode, data):
        size, mask = len(data), b"\1\2\3\4"
        repeated = (mask * (size // 4 + 1))[:size]
        masked = int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")
        if size < 126:
            head = struct.pack("!BB", 128 | opcode, 128 | size)
        elif size < 65536:
            head = struct.pack("!BBH", 128 | opcode, 128 | 126, size)
        else:
            head = struct.pack("!BBQ", 128 | opcode, 128 | 127, size)
        return head + mask + masked.to_bytes(size, "big")

    def read_frame():
        first, size = file.read(2)
        if size == 126:
            (size,) = struct.unpack("!H", file.read(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", file.read(8))
        return first & 15, file.read(size)

    messages = [os.urandom(size) for size in [0, 1, 125, 126, 1000, 65535, 65536, 300000] * 4]
    sender = threading.Thread(target=lambda: [stream.sendall(frame(2, data)) for data in messages])
    sender.start()
    for data in messages:
        assert read_frame() == (2, data), len(data)
    sender.join()
    stream.sendall(frame(8, b""))
    assert read_frame()[0] == 8
    assert file.read() == b"", "the server has closed"


def connect():
    stream = raw(b"CONNECT example.net:443 HTTP/1.1\r\nHost: example.net:443\r\n\r\n")
    file = stream.makefile("rb")
    assert file.readline().startswith(b"HTTP/1.1 200")
    while file.readline() != b"\r\n":
        pass
    sent = os.urandom(3000000)
    sender = threading.Thread(target=lambda: (stream.sendall(sent), stream.shutdown(socket.SHUT_WR)))
    sender.start()
    assert file.read() == sent
    sender.join()


def memory_of(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon:"))


def slowly(pieces):
    for turn, piece in enumerate(pieces):
        if turn < 40:
            time.sleep(0.02)
        yield piece


def bulk(megabytes, pid):
    """Byte-exact both ways, each end slow in turn, and the relay holds none of it."""
    size = int(megabytes) * 1000000
    expected = sha(pattern(size))
    before = memory_of(pid)
    most = 0

    def read(answer):
        nonlocal most
        while piece := answer.read(1 << 20):
            most = max(most, memory_of(pid))
            yield piece

    for path in (f"/bytes/{size}", f"/bytes/{size}/slow", f"/chunks/{size}"):
        for pace in (iter, slowly):
            kept = connection()
            kept.request("GET", path)
            assert sha(pace(read(kept.getresponse()))) == expected, path
    for path in ("/sink", "/sink/slow"):
        for pace in (iter, slowly):
            for framing in ({"Content-Length": str(size)}, None):
                kept = connection()
                body = pace(pattern(size))
                answer, said = ask(kept, "PUT", path, body, headers=framing or {}, encode_chunked=not framing)
                most = max(most, memory_of(pid))
                assert said.decode() == f"{size} {expected}", (path, said)
    assert most - before < 8192, f"anonymous memory has grown from {before} to {most} kB"


{
    "keep-alive": keep_alive,
    "without-a-body": without_a_body,
    "urllib": urllib_client,
    "server-closes": server_closes,
    "server-is-kept": server_is_kept,
    "pipelined": pipelined,
    "http-1.0": http_1_0,
    "web-socket": web_socket,
    "connect": connect,
    "bulk": bulk,
}[sys.argv[1]](*sys.argv[3:])

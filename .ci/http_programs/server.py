"""An HTTP/1.1 server by hand, a thread a connection: the answers that nginx does not give.

    server.py PORT

/echo            the request's body, as it is framed there: a length, or chunks and a trailer
/sink            how many bytes the body has, and their SHA-256; /sink/slow with pauses
/bytes/N         N bytes; /bytes/N/slow with pauses
/chunks/N        the same in chunks of many sizes
/until-close/N   the same without a length
/status/N        an answer without a body
/close           the last answer of its connection
/number          how many requests the connection has carried
/ws              a WebSocket echo (RFC 6455)
CONNECT          an echo
"""
import base64
import hashlib
import random
import socket
import struct
import sys
import threading
import time

# Of a length that no buffer has, so that bytes out of place are seen.
PATTERN = random.Random(7).randbytes((1 << 20) + 7)
CHUNKS = [1, 15, 1000, 4096, 70000, 16384, 250000, 3]


def pattern(count):
    while count > 0:
        yield PATTERN[:count]
        count -= len(PATTERN)


def cut_in_chunks(pieces):
    turn = 0
    for piece in pieces:
        while piece:
            size = CHUNKS[turn % len(CHUNKS)]
            turn += 1
            yield piece[:size]
            piece = piece[size:]


class Request:
    def __init__(self, stream, file):
        self.stream, self.file = stream, file
        line = file.readline()
        self.is_end = not line
        if self.is_end:
            return
        self.method, self.path, self.version = line.decode("ascii").split()
        self.fields = {}
        while (line := file.readline()) not in (b"\r\n", b""):
            name, value = line.decode("latin-1").split(":", 1)
            self.fields[name.lower()] = value.strip()
        is_old = self.version == "HTTP/1.0"
        self.knows_chunks = not is_old
        wish = self.fields.get("connection", "").lower()
        self.is_last = wish != "keep-alive" if is_old else wish == "close"
        self.is_chunked = self.fields.get("transfer-encoding", "").lower() == "chunked"

    def body(self):
        if "100-continue" in self.fields.get("expect", "").lower():
            self.stream.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not self.is_chunked:
            left = int(self.fields.get("content-length", "0"))
            while left:
                piece = self.file.read(min(left, 1 << 20))
                assert piece, "the body ends early"
                left -= len(piece)
                yield piece
            return
        while size := int(self.file.readline().split(b";")[0], 16):
            piece = self.file.read(size)
            assert len(piece) == size and self.file.readline() == b"\r\n"
            yield piece
        while self.file.readline() not in (b"\r\n", b""):
            pass


def slowly(pieces):
    for turn, piece in enumerate(pieces):
        if turn < 40:
            time.sleep(0.02)
        yield piece


def send_chunks(stream, pieces, with_trailer):
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
        stream.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
    trailer = b"x-sha256: %s\r\n" % digest.hexdigest().encode() if with_trailer else b""
    stream.sendall(b"0\r\n%s\r\n" % trailer)


def web_socket(stream, file, request):
    key = request.fields["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key.encode()).digest())
    stream.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
    while True:
        first, second = file.read(2)
        size = second & 127
        if size == 126:
            (size,) = struct.unpack("!H", file.read(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", file.read(8))
        mask = file.read(4)
        data = file.read(size)
        repeated = (mask * (size // 4 + 1))[:size]
        data = (int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")).to_bytes(size, "big")
        if size < 126:
            head = struct.pack("!BB", first, size)
        elif size < 65536:
            head = struct.pack("!BBH", first, 126, size)
        else:
            head = struct.pack("!BBQ", first, 127, size)
        stream.sendall(head + data)
        if first & 15 == 8:
            return


def answer(request, number):
    """True if the connection may go on."""
    stream = request.stream
    words = request.path.strip("/").split("/")

    def head(status, *fields):
        if status == 200 and not request.knows_chunks and not request.is_last:
            fields = (*fields, "Connection: keep-alive")
        lines = [f"HTTP/1.1 {status} Said", *fields, "", ""]
        stream.sendall("\r\n".join(lines).encode())

    def whole(text, *fields):
        head(200, f"Content-Length: {len(text)}", *fields)
        if request.method != "HEAD":
            stream.sendall(text)

    if request.method == "CONNECT":
        head(200)
        while data := request.file.read1(65536):
            stream.sendall(data)
        return False
    if words[0] == "ws":
        web_socket(stream, request.file, request)
        return False
    if words[0] == "echo":
        if request.is_chunked:
            pieces = list(request.body())
            head(200, "Transfer-Encoding: chunked", "Trailer: x-sha256")
            send_chunks(stream, pieces, True)
        else:
            whole(b"".join(request.body()))
    elif words[0] == "sink":
        digest, count = hashlib.sha256(), 0
        pieces = request.body()
        for piece in slowly(pieces) if "slow" in words else pieces:
            digest.update(piece)
            count += len(piece)
        whole(f"{count} {digest.hexdigest()}".encode())
    elif words[0] in ("bytes", "chunks", "until-close"):
        pieces = pattern(int(words[1]))
        pieces = slowly(pieces) if "slow" in words else pieces
        if words[0] == "chunks" and request.knows_chunks:
            head(200, "Transfer-Encoding: chunked")
            if request.method != "HEAD":
                send_chunks(stream, cut_in_chunks(pieces), False)
            return True
        head(200, f"Content-Length: {words[1]}" if words[0] == "bytes" else "Connection: close")
        if request.method != "HEAD":
            for piece in pieces:
                stream.sendall(piece)
        return words[0] == "bytes"
    elif words[0] == "status":
        head(int(words[1]), 'ETag: "x"')
    elif words[0] == "close":
        whole(b"last", "Connection: close")
        return False
    elif words[0] == "number":
        whole(str(number).encode())
    else:
        for _ in request.body():
            pass
        head(404, "Content-Length: 0")
    return True


def serve(stream):
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    number = 0
    with stream, stream.makefile("rb") as file:
        try:
            while True:
                request = Request(stream, file)
                number += 1
                if request.is_end or not answer(request, number) or request.is_last:
                    return
        except (ConnectionError, ValueError, AssertionError) as error:
            print("server:", repr(error), file=sys.stderr, flush=True)


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=128)
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

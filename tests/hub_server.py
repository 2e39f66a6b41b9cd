"""A small Hugging Face Hub and a mirror of plain files, on loopback only, for the unmodified `huggingface_hub`.

    with HubServer() as hub, in_this_process(hub, tmp_path):    # tests.hub_client: how clients are made to come here
        old = hub.add("owner/name", "sidd.safetensors", data)   # a commit's hash
        hub.fault(Cut(0.3), path="/cdn/")                       # tests.hub_faults
        hf_hub_download("owner/name", "sidd.safetensors")
        assert len(hub.asked("GET", "/cdn/")) == 2

It listens at two ports: `url` is the Hub, `cdn_url` where it keeps large objects, because the client takes notice of
whether a redirect leaves the Hub (it then asks for no more than the redirect itself, and keeps its token to itself).
Both answer everything. Large files are redirected to `cdn`, which a test may set to any address; at the Hub's own they
would lack X-Repo-Commit.

As at the real Hub: a token is `TOKEN`, or there is none; a private repository answers 401 without it, a gated one 401
or 403; files larger than 10 kB, and all weights, are large (LFS). There is no Xet. Unlike there: the 401 of a private
repository carries the code RepoNotFound, because the client guesses that by itself only where the address is https;
and every owner's name is free to use.
"""

import re
import socket
import ssl
import struct
import sys
import threading
from dataclasses import dataclass, replace
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import trustme

from tests.hub_answers import TOKEN, Answers, Request
from tests.hub_faults import End, Fault, Reply, Slow, Tap
from tests.hub_repositories import Repository

__all__ = ["TOKEN", "HubServer", "Request", "authority"]

_BLOCK_BYTES = 65_536
_POLL_SECONDS = 0.02
_NO_LINGERING = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


@cache
def authority() -> trustme.CA:
    """Make the one certificate authority of all servers of this process."""
    return trustme.CA()


@dataclass
class _Expected:
    """Faults for the next `times` requests (all of them where it is None) of a kind."""

    faults: tuple[Fault, ...]
    method: re.Pattern[str]
    path: re.Pattern[str]
    times: int | None


class HubServer:
    """A Hub and a mirror at loopback, from `start` to `stop` or as a context."""

    def __init__(self, *, tls: bool = False) -> None:
        context = None
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority().issue_cert("127.0.0.1", "localhost").configure_cert(context)
        self._listeners = [_Listener(self, context), _Listener(self, context)]
        self._threads: list[threading.Thread] = []
        self._answers = Answers()
        self._expected: list[_Expected] = []
        self._lock = threading.Lock()
        self._taps: set[Tap] = set()
        self.requests: list[Request] = []
        """All requests in the order they were answered."""
        self.connections = 0
        """How many connections were made."""
        self.errors: list[BaseException] = []
        """What went wrong in the server itself; `stop` raises the first."""
        hub, cdn = (f"{'https' if tls else 'http'}://127.0.0.1:{listener.server_port}" for listener in self._listeners)
        self._answers.url, self._answers.cdn_url, self._answers.cdn = hub, cdn, cdn

    @property
    def url(self) -> str:
        """The Hub's address, without a slash at its end: what HF_ENDPOINT is set to."""
        return self._answers.url

    @property
    def cdn_url(self) -> str:
        """The address of the second port."""
        return self._answers.cdn_url

    @property
    def cdn(self) -> str:
        """The address before `/cdn/SHA256` to which downloads of large files are redirected; may be set."""
        return self._answers.cdn

    @cdn.setter
    def cdn(self, address: str) -> None:
        self._answers.cdn = address

    def start(self) -> None:
        """Begin to answer. Until then connections wait."""
        for listener in self._listeners:
            thread = threading.Thread(target=listener.serve_forever, args=(_POLL_SECONDS,))
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End all connections and threads, and raise what went wrong in the server, if anything."""
        for listener in self._listeners:
            listener.shutdown()
        for tap in self._taps:
            tap.open()
        for listener in self._listeners:
            listener.hang_up()
            listener.server_close()
        for thread in self._threads:
            thread.join()
        if self.errors:
            raise self.errors[0]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # What it holds

    def repository(self, name: str, *, private: bool = False, gated: bool = False) -> Repository:
        """Make a repository, or change who may read it."""
        with self._lock:
            repository = self._answers.shelf.repositories.get(name) or self._answers.shelf.create(name)
            repository.private, repository.gated = private, gated
            return repository

    def add(self, name: str, path: str, data: bytes, *, revision: str = "main", large: bool | None = None) -> str:
        """Commit a file to a branch, making repository and branch where there are none; answer the commit's hash."""
        with self._lock:
            shelf = self._answers.shelf
            repository = shelf.repositories.get(name) or shelf.create(name)
            return repository.commit({path: shelf.store(path, data, large=large)}, branch=revision)

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """Read all files of a branch or commit."""
        with self._lock:
            repository = self._answers.shelf.find(name)
            return {path: file.data for path, file in repository.commits[repository.resolve(revision)].items()}

    def serve(self, path: str, data: bytes, *, etag: str | None = None) -> str:
        """Serve plain bytes at a path, as a mirror does; answer the address."""
        headers = {} if etag is None else {"ETag": f'"{etag}"'}
        self._answers.plain[path] = Reply(200, headers, data)
        return self.url + path

    def redirect(self, path: str, target: str, *, status: int = 302) -> str:
        """Redirect a path to any address; answer the address that redirects."""
        self._answers.plain[path] = Reply(status, {"Location": target})
        return self.url + path

    # What goes wrong

    def fault(self, *faults: Fault, method: str = "GET", path: str = "", times: int | None = 1) -> None:
        """Let faults happen to the next `times` requests (None: to all).

        `method` has to match the whole method ("GET|HEAD"), `path` somewhere in path and query; both are regular
        expressions. Where several match, what was set first happens first.
        """
        with self._lock:
            self._taps |= {fault.tap for fault in faults if isinstance(fault, Slow)}
            self._expected.append(_Expected(faults, re.compile(method), re.compile(path), times))

    def heal(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._expected.clear()

    # What was asked

    def asked(self, method: str = ".*", path: str = "") -> list[Request]:
        """List the requests whose whole method, and whose path somewhere, match these regular expressions."""
        return [made for made in self.requests if re.fullmatch(method, made.method) and re.search(path, made.path)]

    def forget(self) -> None:
        """Empty the list of requests and the count of connections."""
        self.requests, self.connections = [], 0

    # What the connections call

    def reply_to(self, request: Request) -> Reply:
        """Answer a request, with the faults due to it, and note it down.

        That is done before a byte is sent, so that a client that has its answer finds the request in the list.
        """
        with self._lock:
            faults = self._due(request)
            reply = next((reply for fault in faults if (reply := fault.instead()) is not None), None)
            if reply is None:
                reply = self._answers.answer(request)
                for fault in faults:
                    reply = fault.spoil(reply)
            self.requests.append(replace(request, status=0 if reply.silent else reply.status))
        return reply

    def _due(self, request: Request) -> tuple[Fault, ...]:
        for expected in self._expected:
            if expected.times == 0 or not expected.method.fullmatch(request.method):
                continue
            if expected.path.search(request.path):
                if expected.times is not None:
                    expected.times -= 1
                return expected.faults
        return ()


class _Listener(ThreadingHTTPServer):
    """A port; its connections have a thread each, and are kept in mind so that they can be ended."""

    daemon_threads = False  # so that closing waits for them
    request_queue_size = 64

    def __init__(self, hub: HubServer, context: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.hub = hub
        self._context = context
        self._open: set[socket.socket] = set()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self._context is not None:
            # The handshake is the connection's own thread's work, or one slow client would keep out the others.
            connection = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        self.hub.connections += 1
        self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End all connections; their threads read the end of the stream."""
        for connection in list(self._open):
            try:
                # Not the method of SSLSocket, which takes TLS away under the thread that reads.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
            except OSError:
                continue  # ended just now

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):  # a client that leaves is none
            self.hub.errors.append(error)


class _Connection(BaseHTTPRequestHandler):
    """Reads requests from a connection and sends replies, kept alive between them."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener

    def setup(self) -> None:
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()
        super().setup()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Keep quiet."""

    def answer(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, self._read_body(), self.server.server_port)
        reply = self.server.hub.reply_to(request)
        if not reply.silent:
            self._send(reply)
        if reply.end is not End.KEPT:
            self.close_connection = True
        if reply.end is End.RESET:
            # Without lingering a close is a reset; the reader shares the socket, so it is closed first.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGERING)
            self.rfile.close()
            self.connection.close()

    do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        length = len(reply.body) if reply.announced_bytes is None else reply.announced_bytes
        self.send_header(*(("Transfer-Encoding", "chunked") if reply.chunked else ("Content-Length", str(length))))
        self.end_headers()
        if self.command == "HEAD":
            return
        piece_bytes = reply.tap.piece_bytes if reply.tap else _BLOCK_BYTES
        for start in range(0, len(reply.body), piece_bytes):
            piece = reply.body[start : start + piece_bytes]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if reply.chunked else piece)
            if reply.tap is not None:
                reply.tap.sent()
        if reply.chunked and reply.end is End.KEPT:
            self.wfile.write(b"0\r\n\r\n")

"""How fast the node API answers over TLS on a kept connection, and what it holds in memory meanwhile.

    python3 test/bench/api_bench.py [--requests 100000] [--slivers 32]

The API runs in a process of its own, with an invented node behind it; this one asks. Prints documents and 304s per
second, and the server's resident memory at the beginning, on the way and at the end.
"""

import argparse
import os
import platform
import select
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
for part in ("controller", "controller/tests/core", "controller/tests/api"):
    sys.path.insert(0, os.path.join(ROOT, part))

PATHS = ("node/", "slivers/105/", "slivers/", "templates/3/")
STEPS = 10
START_S = 60


def serve(slivers: int) -> None:
    """The server's process: prints its port, and serves until its input ends."""
    from api_world import FakeNode, settings  # type: ignore[import-not-found]  # a helper of the tests

    from confine.api.server import ApiServer
    from confine.log import Log
    from confine.paths import Paths

    with tempfile.TemporaryDirectory() as directory:
        paths = Paths(data=directory, run=directory, etc=directory)
        server = ApiServer(FakeNode(slivers), paths, settings(), Log(None, echo=False))
        server.start()
        server.ready.wait(START_S)
        print(server.addresses()[0][1], flush=True)
        sys.stdin.read()
        server.close()


class Client:
    """One kept connection, as cheap as it can be, so that the server is what is measured."""

    def __init__(self, port: int) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self._sock = context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=30))

    def ask(self, path: str, etag: str = "") -> "tuple[int, bytes, int]":
        """(status, head, length of the body)."""
        known = f'If-None-Match: "{etag}"\r\n' if etag else ""
        self._sock.sendall(f"GET /confine/api/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{known}\r\n".encode())
        got = self._sock.recv(65536)
        while b"\r\n\r\n" not in got:
            got += self._sock.recv(65536)
        head, _, body = got.partition(b"\r\n\r\n")
        length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]) if b"Content-Length" in head else 0
        left = length - len(body)
        while left > 0:
            left -= len(self._sock.recv(65536))
        return int(head[9:12]), head, length


def resident_kib(pid: int) -> int:
    """Resident memory of a process."""
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))


def measure(client: Client, path: str, etag: str, count: int) -> float:
    """Requests per second."""
    wanted = 304 if etag else 200
    begun = time.monotonic()
    for _ in range(count):
        status, _, _ = client.ask(path, etag)
        if status != wanted:
            raise SystemExit(f"{path} answers {status} instead of {wanted}")
    return count / (time.monotonic() - begun)


def run(port: int, pid: int, requests: int) -> Iterator[str]:
    """Lines to be printed."""
    client = Client(port)
    _, head, length = client.ask("node/")
    etag = head.split(b'ETag: "')[1].split(b'"')[0].decode()
    for path in PATHS:
        client.ask(path)
    yield f"resident, first answers given: {resident_kib(pid)} KiB"
    few = max(100, requests // 20)
    for path in PATHS:
        _, _, size = client.ask(path)
        yield f"{path} ({size} bytes): {measure(client, path, '', few):.0f} /s"
    yield f"node/, 304: {measure(client, 'node/', etag, few):.0f} /s"
    yield f"node/, {length} bytes and 304 in turn, {requests} requests:"
    for step in range(STEPS):
        rate = measure(client, "node/", etag if step % 2 else "", requests // STEPS)
        yield f"  {(step + 1) * (requests // STEPS):7} requests: {rate:6.0f} /s, resident {resident_kib(pid)} KiB"


def main() -> int:
    """Start the server, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--slivers", type=int, default=32)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.slivers)
        return 0
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, {ssl.OPENSSL_VERSION}")
    command = [sys.executable, os.path.abspath(__file__), "--serve", "--slivers", str(args.slivers)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None  # piped above
        if not select.select([server.stdout], [], [], START_S)[0]:
            server.kill()
            raise SystemExit("the API does not start")
        for line in run(int(server.stdout.readline()), server.pid, args.requests):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How fast the node API answers over TLS on a kept connection, and what it holds in memory meanwhile.

    python3 test/bench/api_bench.py [--requests 100000] [--slivers 32]

The API runs in a process of its own, with an invented node behind it; this one asks. Prints documents and 304s per
second, and the server's resident memory at the beginning, on the way and at the end.
"""

import argparse
import contextlib
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
from dataclasses import dataclass

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
for part in ("controller", "controller/tests/core", "controller/tests/api", "test"):
    sys.path.insert(0, os.path.join(ROOT, part))

from bench.table import Figure, say  # noqa: E402  # after the path is set

PATHS = ("node/", "slivers/105/", "slivers/", "templates/3/")
STEPS = 10
START_S = 60
REQUESTS, SLIVERS = 100_000, 32
LONGEST_S = 240.0
NAMES = ("api",)
BOTH = "node/ and 304 in turn"
LEAST = 300
FLAT = 1.02


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


@dataclass(frozen=True)
class Measured:
    """rates: {what: requests a second}. requests: in turn, made in all. resident: KiB after each tenth of them."""

    rates: dict[str, float]
    requests: int
    resident: list[int]


def measured(port: int, pid: int, requests: int) -> Measured:
    """Each document, then one document and 304 in turn, `requests` of them or as many as fit into LONGEST_S."""
    client = Client(port)
    _, head, _ = client.ask("node/")
    etag = head.split(b'ETag: "')[1].split(b'"')[0].decode()
    few = max(100, requests // 50)
    rates = {}
    for path in PATHS:
        _, _, size = client.ask(path)
        rates[f"{path} ({size} bytes)"] = measure(client, path, "", few)
    rates["node/ 304"] = measure(client, "node/", etag, few)
    begun, done, resident = time.monotonic(), 0, []
    while done < requests and time.monotonic() - begun < LONGEST_S:
        for known in ("", etag):
            measure(client, "node/", known, requests // STEPS // 2)
        done += requests // STEPS
        resident.append(resident_kib(pid))
    rates[BOTH] = done / (time.monotonic() - begun)
    return Measured(rates, done, resident)


@contextlib.contextmanager
def served(slivers: int) -> Iterator[tuple[int, int]]:
    """The API in a process of its own: (port, pid)."""
    command = [sys.executable, os.path.abspath(__file__), "--serve", "--slivers", str(slivers)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None  # piped above
        if not select.select([server.stdout], [], [], START_S)[0]:
            server.kill()
            raise RuntimeError("the API does not start")
        yield int(server.stdout.readline()), server.pid


def figures(wanted: set[str], _: dict[str, str]) -> Iterator[Figure]:
    """The figures named in `wanted`, of NAMES."""
    if not wanted & set(NAMES):
        return
    say(f"  node API: {REQUESTS} requests")
    with served(SLIVERS) as (port, pid):
        found = measured(port, pid, REQUESTS)
    rate = found.rates[BOTH]
    others = ", ".join(f"{what} {each:.0f}" for what, each in found.rates.items() if what != BOTH)
    say(f"  requests a second: {others}")
    yield Figure(f"node API, one document and 304 in turn over TLS ({SLIVERS} slivers; a client on this machine)",
                 f"{rate:.0f} /s", f"{LEAST} /s", rate / LEAST, f">= {LEAST} /s", rate >= LEAST)  # fmt: skip
    first, last = found.resident[0], max(found.resident)
    yield Figure(
        f"memory of the node API over {found.requests} requests",
        f"{last} KiB at most",
        f"{first} KiB after a tenth of them",
        last / first,
        f"flat (to 2 %) over {REQUESTS}",
        last <= first * FLAT and found.requests >= REQUESTS,
    )


def main() -> int:
    """Start the server, ask, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--slivers", type=int, default=SLIVERS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.slivers)
        return 0
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, {ssl.OPENSSL_VERSION}")
    with served(args.slivers) as (port, pid):
        found = measured(port, pid, args.requests)
    for what, rate in found.rates.items():
        print(f"{what}: {rate:.0f} /s")
    print(f"resident after each tenth of {found.requests} requests: {', '.join(map(str, found.resident))} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())

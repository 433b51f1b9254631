"""Carries out a test harness's requests inside a virtual node, over the virtio-serial port org.confine.agent.0.

Requests and answers are JSON objects, one a line, each answer with the `id` of its request (answers may come in
another order, requests run side by side):

    {"id": 1, "argv": ["ls", "/"], "stdin_b64": "…", "timeout": 30}    runs a command; stdin, timeout (s, 60) optional
    {"id": 2, "read": "/etc/hostname"}                                 gives a file's content as out_b64
    {"id": 3, "write": "/tmp/x", "data_b64": "…", "mode": 420}         replaces a file, making its directories
    {"id": 4, "ask": "/run/x.sock", "data_b64": "…", "timeout": 10}    sends to a UNIX socket, gives the line it answers

    {"id": 1, "status": 0, "out_b64": "…", "err_b64": "…"}             the answer to each of them

`status` is the command's exit status, 128 + n when signal n ended it, 124 when its time was up (it and its process
group are killed), 127 when it could not be started; for files 0, or 1 with the reason in err_b64. A line that is no
request is answered with id null and status 2. Empty lines are ignored: a client sends one first, to end what an
earlier one may have left half sent. A client may come and go at any time, also by snapshot and restore.

The command's output goes to temporary files, so that a daemon that keeps it open cannot hold up the answer.
"""

import base64
import glob
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

PORT_NAME = "org.confine.agent.0"
DEFAULT_TIMEOUT_S = 60
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "TERM": "dumb",
    "LC_ALL": "C.UTF-8",
}


def find_port(name: str = PORT_NAME, sysfs: str = "/sys/class/virtio-ports") -> "str | None":
    """The device of the virtio-serial port called `name`; None when the machine has none."""
    for path in sorted(glob.glob(os.path.join(sysfs, "*", "name"))):
        with open(path) as file:
            if file.read().strip() == name:
                return os.path.join("/dev", os.path.basename(os.path.dirname(path)))
    return None


def run(argv: "list[str]", stdin: bytes = b"", timeout: float = DEFAULT_TIMEOUT_S) -> "tuple[int, bytes, bytes]":
    """Runs a command; gives (status, output, error output) as the protocol says. `timeout` in seconds."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as data:
        data.write(stdin)
        data.seek(0)
        try:
            process = subprocess.Popen(
                argv, stdin=data, stdout=out, stderr=err, env=ENVIRONMENT, cwd="/", start_new_session=True
            )
        except OSError as error:
            return 127, b"", str(error).encode()
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = 124
        if status < 0:
            status = 128 - status
        out.seek(0)
        err.seek(0)
        return status, out.read(), err.read()


def write_file(path: str, content: bytes, mode: int) -> None:
    """Replaces a file as a whole, with its final mode from the start."""
    os.makedirs(os.path.dirname(path) or "/", exist_ok=True)
    fresh = f"{path}.agent-{threading.get_ident()}"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)
    os.replace(fresh, path)


def ask(path: str, data: bytes, timeout: float) -> bytes:
    """Sends `data` to the UNIX socket `path`; gives what it answers up to the end of a line. No process is started:
    a harness may ask often without changing what it measures."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(timeout)
        client.connect(path)
        client.sendall(data)
        parts = [b""]
        while not parts[-1].endswith(b"\n"):
            parts.append(client.recv(65536))
            if not parts[-1]:
                break
        return b"".join(parts)


def carry_out(request: "dict[str, Any]") -> "tuple[int, bytes, bytes]":
    """Does what one request asks; gives (status, output, error output)."""
    if "argv" in request:
        stdin = base64.b64decode(request.get("stdin_b64") or "")
        return run(request["argv"], stdin, request.get("timeout") or DEFAULT_TIMEOUT_S)
    try:
        if "read" in request:
            with open(request["read"], "rb") as file:
                return 0, file.read(), b""
        if "write" in request:
            content = base64.b64decode(request["data_b64"])
            write_file(request["write"], content, request.get("mode", 0o644))
            return 0, b"", b""
        if "ask" in request:
            content = base64.b64decode(request["data_b64"])
            return 0, ask(request["ask"], content, request.get("timeout") or DEFAULT_TIMEOUT_S), b""
    except OSError as error:
        return 1, b"", str(error).encode()
    return 2, b"", b"a request has argv, read, write or ask"


def answer(line: bytes) -> bytes:
    """The answer to one line of the client, as bytes with the final newline."""
    number = None
    try:
        request = json.loads(line)
        number = request.get("id")
        status, out, err = carry_out(request)
    except Exception as error:
        status, out, err = 2, b"", f"{type(error).__name__}: {error}".encode()
    document = {
        "id": number,
        "status": status,
        "out_b64": base64.b64encode(out).decode(),
        "err_b64": base64.b64encode(err).decode(),
    }
    return json.dumps(document).encode() + b"\n"


class Connection:
    """Lines in and out of the port, whoever is at its other end."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.sending = threading.Lock()

    def send(self, data: bytes) -> None:
        """Writes an answer as a whole; waits while nobody reads."""
        left = memoryview(data)
        with self.sending:
            while left:
                left = left[os.write(self.descriptor, left) :]

    def lines(self) -> "Iterator[bytes]":
        """Gives the lines that come in, for ever. Half a line is dropped when its sender goes."""
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        # Pieces of the line begun: a port gives a page at a time, and a line may have megabytes.
        pending: list[bytes] = []
        while True:
            poll.poll()
            data = os.read(self.descriptor, 65536)
            if not data:
                # Nobody is connected: the port is then always readable, and reads as empty.
                pending = []
                time.sleep(0.1)
                continue
            first, *more = data.split(b"\n")
            pending.append(first)
            for piece in more:
                line = b"".join(pending)
                pending = [piece]
                if line.strip():
                    yield line


def serve(descriptor: int) -> None:
    """Answers requests for ever, each in a thread of its own."""
    connection = Connection(descriptor)
    for line in connection.lines():

        def respond(line: bytes = line) -> None:
            connection.send(answer(line))

        threading.Thread(target=respond, daemon=True).start()


def main() -> int:
    """Serves the port; ends with status 1 where there is none."""
    device = find_port()
    if device is None:
        print(f"agent: this machine has no virtio-serial port {PORT_NAME}", file=sys.stderr)
        return 1
    serve(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    return 0


if __name__ == "__main__":
    sys.exit(main())

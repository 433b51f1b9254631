"""The example registry: serves the documents of documents.py by the transport rules of the original one.

    python3 test/registry/server.py --port 8443

HTTPS with a self-made certificate (build/registry/server.crt, to be pinned by the nodes), or --plain-http. See
README.md for what can be changed while it runs.
"""

import argparse
import email.utils
import gzip
import hashlib
import http.server
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

if not __package__:  # started as a script
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from registry.documents import BASE, INDEX, KINDS, Broken, Missing, Testbed, export

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RELATION = "http://confine-project.eu/rel/registry/"
SIGN = "http://confine-project.eu/rel/controller/do-request-mgmt-cert"
PROFILE = "http://confine-project.eu/schema/registry/v1/"
REQUEST_CERT = re.compile(r"/api/nodes/([0-9]+)/ctl/request-cert/")
ITEM = re.compile(r"/api/([a-z]+)/([0-9]+)/")
LIST = re.compile(r"/api/([a-z]+)/")
NODE_INDEX = re.compile(rf"/api/{INDEX}/([0-9]+)/")
MIN_COMPRESSED = 200  # bytes; shorter bodies are sent as they are
CHUNK = 256 * 1024
PATIENCE_S = 60.0


class Reply(NamedTuple):
    """An answer: status, media type, body, further header fields."""

    status: int
    kind: str
    body: bytes
    fields: list[tuple[str, str]] = []  # noqa: RUF012  # never changed


def json_type(profile: str) -> str:
    """The Content-Type of a document of the kind `profile`."""
    return f'application/json; profile="{PROFILE}{profile}"'


def encoded(value: Any) -> bytes:
    """A document as it is sent."""
    return json.dumps(value).encode()


def html(status: int, text: str) -> Reply:
    """What the original answers for paths it does not know and when it fails, whatever Accept says."""
    return Reply(status, "text/html; charset=utf-8", f"<!DOCTYPE html><html><h1>{text}</h1>{' ' * 200}</html>".encode())


class Registry:
    """What is answered, apart from how it is sent. `say` prints what a person should know.

    index: whether nodes are offered an index of their documents, which the original does not. signs: whether it
    signs nodes' certificates.
    """

    signs = True

    def __init__(self, testbed: Testbed, say: Callable[[str], None], index: bool = True) -> None:
        self.testbed = testbed
        self.index = index
        self._say = say
        self._lock = threading.Lock()
        self._broken: set[str] = set()

    def answer(self, path: str, origin: str) -> Reply:
        """The answer to a GET of `path` at `origin` ("https://host:port")."""
        base = origin + "/api/"
        path = path.partition("?")[0]
        if not path.endswith("/"):
            known = path == "/api" or LIST.fullmatch(path + "/") or ITEM.fullmatch(path + "/")
            return (
                Reply(301, "text/html; charset=utf-8", b"", [("Location", origin + path + "/")])
                if known
                else (html(404, "Not Found"))
            )
        try:
            with self._lock:
                reply = self._document(path, base)
                self._mended()
                return reply
        except Missing:
            item = ITEM.fullmatch(path)
            kind = KINDS[item[1]] if item else BASE
            return Reply(404, json_type(kind), b'{"detail": "Not found"}')
        except (Broken, KeyError) as error:
            self._complain(f"{error}" if isinstance(error, Broken) else f"a document has no member {error}")
            return html(500, "Server Error (500)")

    def _document(self, path: str, base: str) -> Reply:
        item, collection = ITEM.fullmatch(path), LIST.fullmatch(path)
        links = [(base, "base")]
        if path == "/api/":
            links += [(f"{base}{name}/", f"{kind}-list") for name, kind in KINDS.items()]
            links += [(f"{base}{INDEX}/", INDEX)] if self.index else []
            return self._reply(self.testbed.base(base), BASE, links)
        of_node = NODE_INDEX.fullmatch(path)
        if of_node and self.index:
            number = int(of_node[1])
            self.testbed.raw(f"nodes/{number}")  # Missing if there is no such node
            return self._reply(self.testbed.index(number, base, encoded), INDEX, links)
        if item and item[1] in KINDS:
            links.append((f"{base}{item[1]}/", f"{KINDS[item[1]]}-list"))
            if item[1] == "nodes" and self.signs:
                links.append((f"{base}nodes/{item[2]}/ctl/request-cert/", SIGN))
            return self._reply(self.testbed.document(item[1], int(item[2]), base), KINDS[item[1]], links)
        if collection and collection[1] in KINDS:
            name = collection[1]
            every = [self.testbed.document(name, number, base) for number in self.testbed.numbers(name)]
            return self._reply(every, "resource-list", links)
        return html(404, "Not Found")

    @staticmethod
    def _reply(value: Any, profile: str, links: list[tuple[str, str]]) -> Reply:
        named = [(uri, name if name.startswith("http:") else RELATION + name) for uri, name in links]
        link = ", ".join(f'<{uri}>; rel="{relation}"' for uri, relation in named)
        return Reply(200, json_type(profile), encoded(value), [("Link", link)])

    def _complain(self, text: str) -> None:
        with self._lock:
            if text not in self._broken:
                self._broken.add(text)
                self._say(f"broken, answering 500 until it is mended: {text}")

    def _mended(self) -> None:
        """Forget complaints, so that the next one is said again, once all files can be read."""
        if not self._broken:
            return
        try:
            self.testbed.raw(BASE)
            for collection in KINDS:
                for number in self.testbed.numbers(collection):
                    self.testbed.raw(f"{collection}/{number}")
        except (Broken, Missing):
            return
        self._broken = set()
        self._say("all files can be read")


class Handler(http.server.BaseHTTPRequestHandler):
    """Sends answers as the original does: ETag, gzip, 304, no Content-Length under HTTP/1.0."""

    server: "Server"
    timeout = PATIENCE_S
    # An answer goes out in one piece: head and body apart would wait for each other's acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True

    def setup(self) -> None:
        """The TLS handshake, here rather than in the accepting thread, so that a slow client holds up no other."""
        if self.server.context is not None:
            self.request.settimeout(PATIENCE_S)
            self.request = self.server.context.wrap_socket(self.request, server_side=True)
        super().setup()
        self.protocol_version = "HTTP/1.1" if self.server.keep_alive else "HTTP/1.0"

    def do_GET(self) -> None:
        """Answer a GET."""
        fault = self.server.fault(self.path)
        self.server.requests.append(self.path)
        if fault is not None:
            fault(self)
            return
        if self.path.startswith("/files/"):
            self._file(self.path[len("/files/") :])
            return
        scheme = "http" if self.server.context is None else "https"
        self.send_reply(self.server.registry.answer(self.path, f"{scheme}://{self.headers.get('Host')}"))

    def do_PATCH(self) -> None:
        """Change members of a document, for who has the token: as a member does by the original's API."""
        body = self.rfile.read(min(int(self.headers.get("Content-Length") or 0), CHUNK))
        item = ITEM.fullmatch(self.path)
        if not self.server.token or self.headers.get("Authorization") != "Token " + self.server.token:
            self.send_reply(Reply(403, json_type(BASE), b'{"detail": "Invalid token"}'))
        elif item is None or item[1] not in KINDS:
            self.send_reply(html(404, "Not Found"))
        else:
            self.server.registry.testbed.change(f"{item[1]}/{item[2]}", json.loads(body))
            self.do_GET()

    def do_POST(self) -> None:
        """Sign a node's certificate, for who has the token, as the original does: the request comes as a JSON string,
        its subject is the node's management address."""
        body = self.rfile.read(min(int(self.headers.get("Content-Length") or 0), CHUNK))
        item = REQUEST_CERT.fullmatch(self.path)
        self.server.requests.append(self.path)
        if not self.server.token or self.headers.get("Authorization") != "Token " + self.server.token:
            self.send_reply(Reply(403, json_type(BASE), b'{"detail": "Invalid token"}'))
        elif item is None or not self.server.registry.signs:
            self.send_reply(html(404, "Not Found"))
        else:
            signed = self.server.signed(json.loads(body))
            answer = {"detail": "Malformed CSR"} if signed is None else {"cert": signed}
            self.send_reply(Reply(400 if signed is None else 202, json_type(BASE), encoded(answer)))

    def send_reply(self, reply: Reply) -> None:
        """Send `reply` by the transport rules."""
        etag = hashlib.md5(reply.body, usedforsecurity=False).hexdigest()
        if reply.status == 200 and self.headers.get("If-None-Match") == f'"{etag}"':
            self.send_response(304)
            self.end_headers()
            return
        body, coded = reply.body, False
        if "gzip" in self.headers.get("Accept-Encoding", "") and len(body) >= MIN_COMPRESSED:
            body, coded = gzip.compress(body, mtime=0), True
        self.send_response(reply.status)
        for name, value in reply.fields:
            self.send_header(name, value)
        self.send_header("ETag", f'"{etag};gzip"' if coded else f'"{etag}"')
        self.send_header("Content-Type", reply.kind)
        self.send_header("Vary", "Accept, Cookie, Accept-Encoding")
        if coded:
            self.send_header("Content-Encoding", "gzip")
        if coded or self.server.keep_alive:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, name: str) -> None:
        """Send a template or data file, from an offset if it is asked for."""
        path = os.path.join(self.server.registry.testbed.files, name)
        if "/" in name or name.startswith(".") or not os.path.isfile(path):
            self.send_reply(html(404, "Not Found"))
            return
        size = os.path.getsize(path)
        part = re.fullmatch(r"bytes=([0-9]+)-", self.headers.get("Range", ""))
        start = int(part[1]) if part else 0
        if start > size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if part else 200)
        if part:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(size - start))
        self.end_headers()
        with open(path, "rb") as file:
            file.seek(start)
            while chunk := file.read(CHUNK):
                self.wfile.write(chunk)

    def send_response(self, code: int, message: str | None = None) -> None:
        """Status line and the fields of every answer."""
        self.send_response_only(code, message)
        self.send_header("Date", email.utils.formatdate(usegmt=True))
        self.send_header("Server", "example-registry")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of single requests."""


class Server(http.server.ThreadingHTTPServer):
    """The registry on a port. A context manager: serves in a thread until the block ends.

    cert, key: PEM files, None: plain http. port 0: any free one. requests: the paths asked for, in order. token: who
    has it may change documents; None: nobody.
    """

    daemon_threads = True
    token: str | None = None
    poll_s = 0.25  # how soon the end of the block is noticed
    request_queue_size = 128

    def __init__(
        self,
        registry: Registry,
        address: str = "127.0.0.1",
        port: int = 0,
        cert: str | None = None,
        key: str | None = None,
        keep_alive: bool = True,
    ) -> None:
        self.registry = registry
        self.keep_alive = keep_alive
        self.requests: list[str] = []
        self._pair = (cert, key)
        self.context: ssl.SSLContext | None = None
        if cert is not None:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(cert, key)
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        super().__init__((address, port), Handler)
        host = f"[{address}]" if ":" in address else address
        self.origin = f"{'http' if cert is None else 'https'}://{host}:{self.server_address[1]}"
        self.base = self.origin + "/api/"

    def server_bind(self) -> None:
        """Bind without looking up the host's name, which may take long."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def fault(self, path: str) -> Callable[[Handler], None] | None:
        """What to do instead of answering `path`; the faulty registry of the tests has something here."""
        return None

    def signed(self, request: str) -> str | None:
        """The certificate that `request` (PEM) asks for, by the server's own key; None if it cannot be read."""
        cert, key = self._pair
        command = ["openssl", "x509", "-req", "-CA", cert or "", "-CAkey", key or "", "-days", "30", "-set_serial", "7"]
        done = subprocess.run(command, input=request.encode(), capture_output=True, check=False)
        return done.stdout.decode() if done.returncode == 0 else None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients go away and certificates are refused: nothing to say. Anything else is a fault of this server."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handle_error(request, client_address)

    def __enter__(self) -> "Server":
        self._thread = threading.Thread(target=self.serve_forever, args=(self.poll_s,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


def make_certificate(directory: str, names: list[str]) -> tuple[str, str]:
    """(certificate, key): self-made PEM files in `directory`, made once for these host names and addresses."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    cert, key = os.path.join(directory, "server.crt"), os.path.join(directory, "server.key")
    record = os.path.join(directory, "server.names")
    wanted = ",".join(("IP:" if re.fullmatch(r"[0-9.]+|.*:.*", name) else "DNS:") + name for name in names)
    if all(os.path.exists(path) for path in (cert, key, record)):
        with open(record, encoding="utf-8") as file:
            if file.read() == wanted:
                return cert, key
    os.close(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))  # openssl keeps the mode
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
    command += ["-days", "3650", "-subj", "/O=Example testbed/CN=registry", "-addext", "subjectAltName=" + wanted]
    subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True, timeout=60)
    with open(record, "w", encoding="utf-8") as file:
        file.write(wanted)
    return cert, key


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Serve the example testbed.")
    parser.add_argument("--testbed", default=os.path.join(ROOT, "test", "registry", "testbed"), help="documents")
    parser.add_argument("--files", default=os.path.join(ROOT, "build", "templates"), help="template and data archives")
    parser.add_argument("--state", default=os.path.join(ROOT, "build", "registry"), help="certificate and key")
    parser.add_argument("--name", action="append", default=[], help="further host name or address in the certificate")
    parser.add_argument("--address", default="127.0.0.1", help="to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8443)
    parser.add_argument("--plain-http", action="store_true", help="no TLS")
    parser.add_argument("--no-index", action="store_true", help="offer nodes no index of their documents")
    parser.add_argument("--http10", action="store_true", help="one request a connection, like the original by itself")
    parser.add_argument("--export", metavar="DIR", help="write the documents for a static web host, and end")
    parser.add_argument("--base", default="https://registry.example.net/api/", help="base URI of exported documents")
    return parser.parse_args()


def main() -> None:
    """Serve until interrupted."""
    args = arguments()
    testbed = Testbed(args.testbed, args.files)
    if args.export:
        export(testbed, args.export, args.base)
        return
    cert = key = None
    if not args.plain_http:
        cert, key = make_certificate(args.state, ["10.0.2.2", "127.0.0.1", "::1", "localhost", *args.name])
    registry = Registry(testbed, lambda text: print("registry:", text, flush=True), not args.no_index)
    with Server(registry, args.address, args.port, cert, key, not args.http10) as server:
        print("registry:", server.base, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()

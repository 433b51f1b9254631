"""A static web host that can be told to misbehave in the ways real mirrors do."""

from __future__ import annotations

import http.server
import os
import threading
import time


class Mirror:
    """Serves `directory`. sent: bytes of bodies so far; asked: (path, Range) of all requests.

    Faults, all by path ending (e.g. a sha256): cut: close after so many bytes; once: take a cut back after it struck;
    slow: seconds between bytes; endless: never end; bad: flip a byte; ranges False: whole files only.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.sent = 0
        self.asked: list[tuple[str, str]] = []
        self.cut: dict[str, int] = {}
        self.once = True
        self.slow: dict[str, float] = {}
        self.endless: set[str] = set()
        self.bad: set[str] = set()
        self.missing: set[str] = set()
        self.ranges = True
        handler = type("Handler", (_Handler,), {"mirror": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def forget(self) -> None:
        self.sent, self.asked = 0, []


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    mirror: Mirror

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        mirror = self.mirror
        asked = self.headers.get("Range", "")
        mirror.asked.append((self.path, asked))
        path = os.path.join(mirror.directory, self.path.lstrip("/"))
        if not os.path.isfile(path) or self._ends(mirror.missing) is not None:
            self.send_error(404)
            return
        with open(path, "rb") as file:
            content = file.read()
        etag = f'"{hash(content)}"'
        if self.headers.get("If-None-Match") == etag:
            self.send_response(304)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self._ends(mirror.bad) is not None:
            content = content[:1000] + bytes([content[1000] ^ 1]) + content[1001:] if len(content) > 1000 else b"?"
        self._answer(content, asked, etag)

    def _answer(self, content: bytes, asked: str, etag: str) -> None:
        mirror = self.mirror
        first, last = 0, len(content) - 1
        if asked and mirror.ranges:
            start, _, end = asked.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(end) if end else last, last)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        else:
            self.send_response(200)
        endless = self._ends(mirror.endless) is not None
        if endless:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(last + 1 - first))
        self.send_header("ETag", etag)
        self.end_headers()
        try:
            self._body(content[first : last + 1], endless)
        except OSError:
            self.close_connection = True

    def _body(self, body: bytes, endless: bool) -> None:
        mirror = self.mirror
        pause = self._ends(mirror.slow)
        cut = self._ends(mirror.cut)
        if pause is not None:
            for byte in body:
                self.wfile.write(bytes([byte]))
                time.sleep(mirror.slow[pause])
            return
        if cut is not None and len(body) > mirror.cut[cut]:
            self.wfile.write(body[: mirror.cut[cut]])
            mirror.sent += mirror.cut[cut]
            if mirror.once:
                del mirror.cut[cut]
            self.close_connection = True
            return
        while endless:
            self.wfile.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        self.wfile.write(body)
        mirror.sent += len(body)

    def _ends(self, among: object) -> str | None:
        return next((end for end in among if self.path.endswith(end)), None)  # type: ignore[attr-defined]

"""A small web server that stands where uhttpd, rpcd and LuCI's pages stand on a node: the tests' way to the pages.

It speaks the JSON-RPC of uhttpd's /ubus as genuine OpenWrt 25.12 does (see answers.json beside this file), offers the
object `confine.web` by way of `ask`, `uci` over a directory of real UCI files, and serves the pages of luci-app-confine
in a page that stands in for LuCI's own.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

APP = Path(__file__).resolve().parents[2] / "package/luci-app-confine"
STANDIN = Path(__file__).parent / "standin"
BODY_LIMIT = 65536
PARSE_ERROR, INVALID, NO_OBJECT, DENIED = -32700, -32600, -32000, -32002
TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html; charset=utf-8"}

Method = Callable[[dict[str, Any]], "tuple[int, Any]"]


class Bridge:
    """Serves on 127.0.0.1 until closed. objects: {object: {method: callable giving (ubus status, data)}}.

    sessions: {id: ACL}, an ACL being {object: [methods]}; the one called "root" may do everything.
    """

    def __init__(self, objects: dict[str, dict[str, Method]], sessions: dict[str, dict[str, list[str]]]) -> None:
        self.objects = objects
        self.sessions = sessions
        self.sent = 0  # bytes of all bodies
        self.requests: list[str] = []
        bridge = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._send(*bridge.page(urlsplit(self.path).path))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self._send(200, "application/json", json.dumps(bridge.rpc(body)).encode())

            def _send(self, status: int, kind: str, body: bytes) -> None:
                bridge.sent += len(body)
                bridge.requests.append(f"{self.command} {self.path}")
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    # ---- pages -------------------------------------------------------------------------------------------------------

    def page(self, path: str) -> tuple[int, str, bytes]:
        """(status, type, body) of a GET."""
        if path == "/menu":
            return 200, "application/json", json.dumps(menu()).encode()
        if path.startswith("/po/"):
            return 200, "application/json", json.dumps(translations(path[4:])).encode()
        for prefix, root in (("/luci-static/", APP / "htdocs/luci-static"), ("/standin/", STANDIN)):
            if path.startswith(prefix):
                file = root / path.removeprefix(prefix)
                if ".." in path or not file.is_file():
                    return 404, "text/plain", b"not found"
                return 200, TYPES[file.suffix], file.read_bytes()
        return 200, TYPES[".html"], (STANDIN / "index.html").read_bytes()

    # ---- JSON-RPC ----------------------------------------------------------------------------------------------------

    def rpc(self, body: bytes) -> Any:
        """The answer to the body of a POST, one call or a batch, always with HTTP status 200."""
        if len(body) > BODY_LIMIT:
            return _error(None, PARSE_ERROR)
        try:
            request = json.loads(body)
        except ValueError:
            return _error(None, PARSE_ERROR)
        if isinstance(request, list):
            return [self._one(member) for member in request]
        return self._one(request)

    def _one(self, request: Any) -> dict[str, Any]:
        number = request.get("id") if isinstance(request, dict) else None
        params = request.get("params") if isinstance(request, dict) else None
        if not isinstance(request, dict) or request.get("jsonrpc") != "2.0" or not isinstance(params, list):
            return _error(number, PARSE_ERROR)
        if len(params) < 4 or not isinstance(params[0], str) or not isinstance(params[3], dict):
            return _error(number, PARSE_ERROR)
        session, name, method, data = params[:4]
        if name not in self.objects:
            return _error(number, NO_OBJECT)
        acl = self.sessions.get(session)
        if acl is None or (acl != {"*": ["*"]} and method not in acl.get(name, [])):
            return _error(number, DENIED)
        found = self.objects[name].get(method)
        status, answer = (3, None) if found is None else found(data)
        return {"jsonrpc": "2.0", "id": number, "result": [status] if answer is None else [status, answer]}


def _error(number: Any, code: int) -> dict[str, Any]:
    words = {PARSE_ERROR: "Parse error", INVALID: "Invalid request", NO_OBJECT: "Object not found",
             DENIED: "Access denied"}[code]  # fmt: skip
    return {"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": words}}


def menu() -> list[dict[str, str]]:
    """The pages of the app's own menu file, in their order."""
    entries = json.loads((APP / "root/usr/share/luci/menu.d/luci-app-confine.json").read_text())
    pages = [(entry["order"], path.rpartition("/")[2], entry["title"]) for path, entry in entries.items()
             if entry["action"]["type"] == "view"]  # fmt: skip
    return [{"name": name, "title": title} for _, name, title in sorted(pages)]


def translations(language: str) -> dict[str, str]:
    """{text: translation} of one of the app's .po files."""
    file = APP / "po" / language / "confine.po"
    if not re.fullmatch(r"[a-z_]+", language) or not file.is_file():
        return {}
    pairs = re.findall(r'^msgid "(.*)"\nmsgstr "(.*)"$', file.read_text(), re.MULTILINE)
    return {json.loads(f'"{text}"'): json.loads(f'"{said}"') for text, said in pairs if text and said}


def granted(group: str, writing: bool) -> dict[str, list[str]]:
    """What the app's own ACL file gives to those who may read it, or write as well: {object: [methods]}."""
    acl = json.loads((APP / "root/usr/share/rpcd/acl.d/luci-app-confine.json").read_text())[group]
    found: dict[str, list[str]] = {"uci": ["get"] + (["set", "apply", "confirm"] if writing else [])}
    for part in ("read", "write") if writing else ("read",):
        for name, methods in acl[part].get("ubus", {}).items():
            found.setdefault(name, []).extend(methods)
    return found

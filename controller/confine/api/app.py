"""Method and path to an answer. No I/O of its own, never raises: a fault is a 500 and a line in the log."""

import json
import os
import socket
import time

from confine.api import browser, limits, metrics, negotiate
from confine.api.firewall import management_address
from confine.api.pages import PREFIX, Page, Pages, compressed, json_type, to_json
from confine.api.transport import Refused, Request, Response, field_lines
from confine.core.text import DECIMAL_DIGITS, only

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from confine.api.figures import Machine
    from confine.api.view import NodeView
    from confine.core.settings import Settings
    from confine.log import Log

REFRESH = "node/ctl/refresh/"
METRICS = "metrics"
OPENAPI = "openapi.json"
FIXED = ("", "node/", "slivers/", "templates/", REFRESH, METRICS, OPENAPI)
COLLECTIONS = ("slivers", "templates")
READ = ("GET", "HEAD")
LOOPBACK = ("127.", "::1")
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Place:
    """How a request came in. address: this node's, as the connection has it; port likewise."""

    __slots__ = ("address", "port", "secure")

    def __init__(self, secure: bool, address: str, port: int) -> None:
        self.secure = secure
        self.address = address
        self.port = port


class App:
    """Answers requests; one at a time, in one thread. `served` is what the metrics say of the API itself."""

    def __init__(
        self,
        view: "NodeView",
        settings: "Settings",
        log: "Log",
        machine: "Machine",
        addresses: "Callable[[], dict[str, str | None]]",
    ) -> None:
        self._view = view
        self._settings = settings
        self._log = log
        self._machine = machine
        self._pages = Pages(view, addresses)
        self._refreshed = float("-inf")
        self._figures: tuple[float, bytes] = (float("-inf"), b"")
        self._management = management_address(settings)
        names = ["localhost", socket.gethostname().lower(), *(name.lower() for name in settings.api_names)]
        self._names = [name for name in names if name]
        self.served: dict[str, Any] = {"requests": {}, "connections": 0, "dropped": 0}

    def answer(self, request: Request, place: Place) -> Response:
        """The answer to `request`."""
        try:
            response = self._answer(request, place)
        except Refused as refused:
            response = self.refuse(refused.status, refused.detail, request)
        except Exception as error:  # whatever is wrong with one document, the others are to be had
            if os.environ.get("CONFINE_DEBUG"):
                raise
            self._log.warn("api", f"{request.method} {request.path} failed: {type(error).__name__}: {error}")
            response = self.refuse(500, "This could not be answered; the node's log says why.", request)
        self.count(response.status)
        return response

    def refuse(self, status: int, detail: str, request: "Request | None" = None) -> Response:
        """An answer that says why there is no other; for a browser as a page."""
        fields: list[tuple[str, str]] = [("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")]
        value = {"detail": detail}
        if request is not None and negotiate.wants_html(request.fields.get("accept", "")):
            fields += [("Content-Type", "text/html; charset=utf-8"), ("Content-Security-Policy", browser.POLICY)]
            return Response(status, field_lines(fields), browser.render(str(status), value, []))
        return Response(status, field_lines([("Content-Type", "application/json"), *fields]), to_json(value))

    def count(self, status: int) -> None:
        """Count an answer."""
        requests = self.served["requests"]
        requests[status] = requests.get(status, 0) + 1

    def _answer(self, request: Request, place: Place) -> Response:
        authority = self._authority(request, place)
        if not place.secure and not self._plain_allowed(place):
            return _redirect(308, "https://" + authority + _encoded(request.path))
        origin = ("https://" if place.secure else "http://") + authority
        if request.path == PREFIX[:-1]:
            return _redirect(303, origin + PREFIX)
        if not request.path.startswith(PREFIX):
            raise Refused(404, "There is nothing at this path: the API begins at " + PREFIX)
        path = request.path[len(PREFIX) :]
        if path == REFRESH or (path + "/" == REFRESH and request.method == "POST"):
            return self._refresh(request)
        shape = _shape(path)
        if shape is None:
            if _shape(path + "/") is not None:
                return _redirect(303, origin + PREFIX + path + "/")
            raise Refused(404, "There is nothing at this path.")
        if request.method not in READ:
            return self._wrong_method(request, "GET, HEAD")
        if path == METRICS:
            return self._metrics(request)
        if path == OPENAPI:
            return self._openapi(request, origin)
        return self._document(request, path, origin)

    # ---- documents ----------------------------------------------------------------------------------------------

    def _document(self, request: Request, path: str, origin: str) -> Response:
        if path.split("/", 1)[0] in COLLECTIONS and not self._pages.production():
            raise Refused(503, "The node is not in production: it shows no slivers and templates now.")
        html = negotiate.wants_html(request.fields.get("accept", ""))
        gzip = negotiate.takes_gzip(request.fields.get("accept-encoding", ""))
        page = self._pages.page(path, origin, html, gzip)
        if page is None:
            raise Refused(404, f"There is no {path.split('/', 1)[0][:-1]} of this number on this node.")
        if _still(request, page):
            return Response(304, page.still, b"")
        return Response(200, page.fields, page.body)

    def _metrics(self, request: Request) -> Response:
        now = time.monotonic()
        if now - self._figures[0] >= limits.STATUS_S:
            text = metrics.render(self._view.status(), self._machine, self.served, time.time())
            self._figures = (now, text)
        return _packed(request, METRICS_TYPE, self._figures[1])

    def _openapi(self, request: Request, origin: str) -> Response:
        from confine import __version__
        from confine.api import openapi

        text = json.dumps(openapi.describe(origin + PREFIX, __version__)).encode() + b"\n"
        return _packed(request, "application/json", text)

    # ---- control ------------------------------------------------------------------------------------------------

    def _refresh(self, request: Request) -> Response:
        """Have the registry read now, at most once a minute for all clients together (node API)."""
        if request.method != "POST":
            return self._wrong_method(request, "POST")
        now = time.monotonic()
        wait = self._refreshed + limits.REFRESH_S - now
        if wait > 0:
            response = self.refuse(429, f"Too many requests: ask again in {wait:.0f} s.")
            response.fields += field_lines([("Retry-After", str(int(wait) + 1))])
            return response
        self._view.refresh()
        self._refreshed = now
        self._log.info("api", "refresh asked for")
        fields = field_lines([("Content-Type", json_type("refresh")), ("Cache-Control", "no-store")])
        return Response(200, fields, to_json({"detail": "Node instructed to refresh itself"}))

    def _wrong_method(self, request: Request, allowed: str) -> Response:
        response = self.refuse(405, f"{request.method[:16]} cannot be done here, only {allowed}.", request)
        response.fields += field_lines([("Allow", allowed)])
        return response

    # ---- how the client calls us --------------------------------------------------------------------------------

    def _authority(self, request: Request, place: Place) -> str:
        host = request.fields.get("host")
        if host is None:  # HTTP/1.0
            literal = f"[{place.address}]" if ":" in place.address else place.address
            return f"{literal}:{place.port}"
        try:
            return negotiate.authority(host, self._names)
        except ValueError as error:
            raise Refused(421, f"{error}: use its address, or add the name to api.name in its settings.")

    def _plain_allowed(self, place: Place) -> bool:
        """Without TLS only where nobody else can listen: on the management network, which encrypts, and at home."""
        if place.address == self._management:
            return bool(self._settings.api_plain_http)
        return place.address.startswith(LOOPBACK)


def _shape(path: str) -> "str | None":
    """`path` if it is one the API has, whether or not there is such a sliver now."""
    if path in FIXED:
        return path
    collection, _, rest = path.partition("/")
    number, slash, more = rest.partition("/")
    good = collection in COLLECTIONS and slash and not more and len(number) <= 15 and only(number, DECIMAL_DIGITS)
    return path if good else None


def _still(request: Request, page: Page) -> bool:
    """Whether the client has the page already (RFC 9110, 13.2.2: If-None-Match goes before If-Modified-Since)."""
    known = request.fields.get("if-none-match")
    if known is not None:
        return negotiate.matches(known, page.etag)
    return request.fields.get("if-modified-since") == page.modified


def _packed(request: Request, kind: str, body: bytes) -> Response:
    fields = [("Content-Type", kind), ("Vary", "Accept-Encoding"), ("Cache-Control", "no-store")]
    packed = compressed(body) if negotiate.takes_gzip(request.fields.get("accept-encoding", "")) else None
    if packed is not None:
        fields.append(("Content-Encoding", "gzip"))
    return Response(200, field_lines(fields), body if packed is None else packed)


def _redirect(status: int, location: str) -> Response:
    return Response(status, field_lines([("Location", location), ("Cache-Control", "no-store")]), b"")


def _encoded(path: str) -> str:
    """A decoded path as it may stand in a Location."""
    safe = "/-._~!$&'()*+,;=:@"
    return "".join(char if char.isalnum() or char in safe else f"%{ord(char):02X}" for char in path)

"""How documents travel: redirects, revisions, encodings, the view for browsers, throttling."""

import gzip
import http.client
import json
import re
import ssl
from collections.abc import Callable

import pytest
from api_world import EVIL, PEM, Api, FakeNode, on, unverified

from confine.api import limits, negotiate

MakeApi = Callable[..., Api]
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize("path", ["", "node", "slivers", "slivers/105", "slivers/999", "templates", "templates/3"])
def test_a_missing_final_slash_is_a_303_to_the_right_place(api: Api, path: str) -> None:
    answer = api.get("/confine/api" + ("/" + path if path else ""))
    assert answer.status == 303 and answer.headers["location"] == api.base + (path + "/" if path else "")


def test_a_client_that_takes_anything_gets_json_with_its_profile(api: Api) -> None:
    for accept in ("*/*", "application/json", "application/json; indent=4", "text/plain", "", "text/html;q=0, */*"):
        answer = api.get("slivers/105/", accept=accept)
        kind = 'application/json; profile="http://confine-project.eu/schema/node/v1/sliver"'
        assert answer.headers["content-type"] == kind and answer.json["id"] == "5@42"


def test_the_etag_sent_back_gives_a_304_without_a_body(api: Api) -> None:
    answer = api.get("node/")
    again = api.get("node/", if_none_match=answer.headers["etag"])
    assert again.status == 304 and again.body == b""
    assert again.headers["etag"] == answer.headers["etag"]
    assert {"date", "vary", "last-modified", "cache-control"} <= set(again.headers)


def test_the_etag_of_a_gzip_body_gives_a_304_too(api: Api) -> None:
    packed = api.get("node/", accept_encoding="gzip").headers["etag"]
    plain = api.get("node/").headers["etag"]
    assert packed != plain
    for known in (packed, plain):
        assert api.get("node/", accept_encoding="gzip", if_none_match=known).status == 304
        assert api.get("node/", if_none_match=known).status == 304


def test_weak_etags_lists_and_stars_are_understood(api: Api) -> None:
    etag = api.get("node/").headers["etag"]
    for known in ("W/" + etag, f'"x", {etag}', f'W/"x",{etag}, "y"', "*", etag.strip('"')):
        assert api.get("node/", if_none_match=known).status == 304, known
    for other in ('"x"', 'W/"x"', etag[:-2] + '"', "", '"', ",,,"):
        assert api.get("node/", if_none_match=other).status == 200, other


def test_a_changed_document_is_sent_again_with_another_etag(api: Api, node: FakeNode) -> None:
    etag = api.get("node/").headers["etag"]
    node.in_state("safe")
    answer = api.get("node/", if_none_match=etag)
    assert answer.status == 200 and answer.headers["etag"] != etag and answer.json["state"] == "safe"


def test_last_modified_sent_back_gives_a_304_unless_an_etag_says_otherwise(api: Api) -> None:
    modified = api.get("node/").headers["last-modified"]
    assert re.fullmatch(r"\w{3}, \d{2} \w{3} \d{4} \d{2}:\d{2}:\d{2} GMT", modified)
    assert api.get("node/", if_modified_since=modified).status == 304
    assert api.get("node/", if_modified_since=modified, if_none_match='"other"').status == 200
    assert api.get("node/", if_modified_since="Thu, 01 Jan 1970 00:00:00 GMT").status == 200


def test_a_document_is_as_old_as_what_it_says_not_as_its_rendering(
    api: Api, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    dates = iter(f"Thu, 01 Jan 2026 00:00:{second:02d} GMT" for second in range(60))
    monkeypatch.setattr("confine.api.pages.http_date", lambda _: next(dates))
    first = api.get("node/").headers["last-modified"]
    assert api.get("node/", accept_encoding="gzip").headers["last-modified"] == first
    assert api.get("node/", host="localhost").headers["last-modified"] == first
    node.in_state("safe")
    assert api.get("node/").headers["last-modified"] > first


def test_gzip_is_used_if_it_is_accepted_and_worth_it(api: Api) -> None:
    plain = api.get("node/")
    for accepted in ("gzip", "deflate, gzip;q=0.5", "*", "identity;q=0.5, *;q=0.1"):
        packed = api.get("node/", accept_encoding=accepted)
        assert packed.headers["content-encoding"] == "gzip" and gzip.decompress(packed.body) == plain.body
    for refused in ("identity", "gzip;q=0", "deflate", "gzip;q=x", "*;q=0"):
        assert "content-encoding" not in api.get("node/", accept_encoding=refused).headers
    node = api.get("slivers/", accept_encoding="gzip")
    assert "Accept-Encoding" in node.headers["vary"]


def test_a_short_body_is_not_compressed(api: Api, node: FakeNode) -> None:
    node.change(lambda doc: doc["slivers"].clear())
    answer = api.get("slivers/", accept_encoding="gzip")
    assert "content-encoding" not in answer.headers and answer.json == []


def test_a_browser_gets_a_page_with_links_that_can_be_followed(api: Api) -> None:
    answer = api.get("slivers/105/", accept=BROWSER)
    page = answer.body.decode()
    assert answer.status == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    assert f'<a href="{api.base}node/" rel="noreferrer">&quot;{api.base}node/&quot;</a>' in page
    assert f'<a href="{api.base}slivers/">sliver-list</a>' in page
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    plain = re.sub("<[^>]*>", "", page[page.index("<pre>") : page.index("</pre>")])
    for entity, char in (("&quot;", '"'), ("&lt;", "<"), ("&gt;", ">"), ("&#39;", "'"), ("&amp;", "&")):
        plain = plain.replace(entity, char)
    assert json.loads(plain) == api.get("slivers/105/").json


def test_what_registry_documents_say_cannot_act_on_a_page(api: Api, node: FakeNode) -> None:
    for word in ("javascript:alert(1)", 'https://x/"onclick="alert(1)', "https://x/<b>"):
        node.change(lambda doc, word=word: doc["slivers"][0].update(properties={word: word}))
        page = api.get("slivers/105/", accept=BROWSER).body.decode()
        assert f'href="{word}' not in page and "<b>" not in page and 'onclick="' not in page
    page = api.get("templates/3/", accept=BROWSER).body.decode()
    assert EVIL not in page and "<script" not in page and "&lt;script&gt;" in page


def test_errors_are_pages_for_browsers_too(api: Api) -> None:
    answer = api.get("slivers/999/", accept=BROWSER)
    assert answer.status == 404 and answer.headers["content-type"].startswith("text/html") and b"detail" in answer.body


def test_head_tells_what_get_would(api: Api) -> None:
    for path in ("node/", "slivers/105/", "metrics", "slivers/999/"):
        got, told = api.get(path), api.get(path, "HEAD")
        assert told.body == b"" and told.status == got.status
        if path != "metrics":
            assert {**told.headers, "date": ""} == {**got.headers, "date": ""}


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"])
def test_documents_can_only_be_read(api: Api, method: str) -> None:
    for path in ("", "node/", "slivers/", "slivers/105/", "metrics", "openapi.json"):
        answer = api.get(path, method)
        assert answer.status == 405 and answer.headers["allow"] == "GET, HEAD" and answer.json["detail"]


def test_refresh_has_the_registry_read_once_a_minute_at_most(
    api: Api, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert api.post("node/ctl/refresh/", b"null").json == {"detail": "Node instructed to refresh itself"}
    throttled = api.post("node/ctl/refresh/")
    assert throttled.status == 429 and throttled.json["detail"].startswith("Too many requests")
    assert 1 <= int(throttled.headers["retry-after"]) <= 61 and node.refreshed == 1
    monkeypatch.setattr(limits, "REFRESH_S", 0.0)
    assert api.post("node/ctl/refresh", b"{}").status == 200 and node.refreshed == 2  # a 303 would make it a GET


def test_refresh_cannot_be_read(api: Api, node: FakeNode) -> None:
    answer = api.get("node/ctl/refresh/")
    assert answer.status == 405 and answer.headers["allow"] == "POST" and node.refreshed == 0
    assert api.get("node/ctl/refresh").status == 303


def test_a_fault_is_a_500_with_a_detail_and_a_line_in_the_log(api: Api, node: FakeNode) -> None:
    def broken() -> None:
        raise RuntimeError("the board fell off the wall")

    node.refresh = broken  # type: ignore[method-assign]
    answer = api.post("node/ctl/refresh/")
    assert answer.status == 500 and "log" in answer.json["detail"] and "wall" not in answer.json["detail"]
    assert "RuntimeError: the board fell off the wall" in api.log()
    node.version, node.doc = node.version + 1, {}
    assert api.get("node/").status == 500
    assert api.get("/confine/api").status == 303


def test_one_connection_serves_many_requests(api: Api) -> None:
    connection = api.connection()
    first = on(connection, "node/")
    sock = connection.sock
    for _ in range(20):
        assert on(connection, "node/", if_none_match=first.headers["etag"]).status == 304
        assert on(connection, "slivers/105/").status == 200
    assert connection.sock is sock
    assert on(connection, "node/", connection="close").headers["connection"] == "close"
    connection.close()


def test_http_1_0_is_answered_and_the_connection_closed(api: Api) -> None:
    got = api.raw(b"GET /confine/api/node/ HTTP/1.0\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 200 ") and b"Connection: close\r\n" in got
    assert f"https://127.0.0.1:{api.port}/confine/api/node/".encode() in got


def test_the_end_of_the_last_answer_is_told_so_that_none_can_be_cut_short(api: Api) -> None:
    context = unverified()
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # an end without close_notify is an error then
    with api.socket(tls=False) as plain, context.wrap_socket(plain, suppress_ragged_eofs=False) as sock:
        sock.sendall(b"GET /confine/api/node/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        while sock.recv(65536):
            pass


# The name and the way by which the node is called


OTHER_NAMES = [
    "evil.example.org",
    "127.0.0.1.evil.org",
    "",
    "a b",
    "[::1",
    "::1",
    "x:y",
    "1.2.3",
    "127.0.0.1:0",
    "127.0.0.1:99999",
    "[::1]x",
    "256.1.1.1",
    "user@localhost",
]


@pytest.mark.parametrize("host", OTHER_NAMES)
def test_a_name_that_is_not_the_nodes_own_is_refused(api: Api, host: str) -> None:
    answer = api.get("node/", host=host)
    assert answer.status == 421 and "api.name" in answer.json["detail"]


def test_a_name_from_the_settings_is_accepted(make_api: MakeApi) -> None:
    api = make_api(api_names=["mill.example.org"])
    assert api.get("node/", host="Mill.Example.org").json["uri"] == "https://mill.example.org/confine/api/node/"


def test_addresses_are_written_in_one_form() -> None:
    assert negotiate.authority("[FDC0:0::1]:08443", []) == "[fdc0::1]:8443"
    assert negotiate.authority("LOCALHOST.", ["localhost"]) == "localhost"
    assert negotiate.authority("10.0.0.1:", []) == "10.0.0.1"


def test_at_home_the_api_answers_without_tls_too(api: Api) -> None:
    got = api.raw(b"GET /confine/api/node/ HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", tls=False)
    assert got.startswith(b"HTTP/1.1 200 ") and b'"http://127.0.0.1/confine/api/node/"' in got


def test_from_elsewhere_plain_http_is_sent_to_https(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("confine.api.app.LOOPBACK", ("::1",))
    connection = http.client.HTTPConnection(api.host, api.port, timeout=15)
    answer = on(connection, "slivers/105/", host="10.1.2.3")
    connection.close()
    assert answer.status == 308 and answer.headers["location"] == "https://10.1.2.3/confine/api/slivers/105/"


def test_one_listener_serves_both_families(make_api: MakeApi) -> None:
    api = make_api(api_listen=["::"])
    for api.host, name in (("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")):
        data = b"GET /confine/api/node/ HTTP/1.0\r\n\r\n"
        assert f'"http://{name}:{api.port}/confine/api/node/"'.encode() in api.raw(data, tls=False)
        assert api.get("node/").json["uri"] == f"https://{name}:{api.port}/confine/api/node/"


def test_no_secret_is_served(api: Api) -> None:
    text = b"".join(api.get(path).body for path in ("", "node/", "slivers/", "slivers/105/", "templates/", "metrics"))
    assert PEM.split("\n")[1].encode() in text and b"PRIVATE KEY" not in text and b"ssh-ed25519" not in text

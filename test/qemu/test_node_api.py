"""The node API of a running node, over its network: for pollers, for browsers, and as the original registry asks."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import ssl
from dataclasses import dataclass
from typing import Any

import pytest

from qemu.following import FOLLOW_S, Following

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(300)]

API = "/confine/api/"
PREFIX = "fdc0:7246:b03f"
MANAGEMENT = f"{PREFIX}:1::2"
OTHER = f"{PREFIX}:1::7"
# A neighbour on the management network, with the node's own uhttpd (busybox stands for it) on 80 everywhere.
NETWORK = f"""
cat >>/etc/config/confine <<END

config testbed 'testbed'
	option mgmt_ipv6_prefix48 '{PREFIX}'
END
/usr/bin/ip netns add peer
/usr/bin/ip link add mgmt0 type veth peer name peer0 netns peer
/usr/bin/ip addr add {MANAGEMENT}/64 dev mgmt0 nodad
/usr/bin/ip addr add {OTHER}/64 dev mgmt0 nodad
/usr/bin/ip link set mgmt0 up
/usr/bin/ip -n peer addr add {PREFIX}:1::9/64 dev peer0 nodad
/usr/bin/ip -n peer link set lo up
/usr/bin/ip -n peer link set peer0 up
mkdir -p /tmp/www
echo uhttpd >/tmp/www/index.html
httpd -p [::]:80 -h /tmp/www </dev/null >/dev/null 2>&1
/etc/init.d/confine reload
"""
# The original registry's poller (its app "state"): python-requests without a check of the certificate; it sends back
# the ETag that came with its last answer as it came, and keeps the document it has when the answer is a 304.
POLL = """
import http.client, json, ssl, sys
headers = {"User-Agent": "python-requests/2.0.1", "Accept-Encoding": "gzip, deflate, compress", "Accept": "*/*"}
answers = []
etags = {}
for uri in sys.argv[1:]:
    scheme, _, rest = uri.partition("://")
    host, _, path = rest.partition("/")
    if scheme == "https":
        connection = http.client.HTTPSConnection(host, timeout=30, context=ssl._create_unverified_context())
    else:
        connection = http.client.HTTPConnection(host, timeout=30)
    known = {"If-None-Match": etags[uri]} if uri in etags else {}
    connection.request("GET", "/" + path, headers={**headers, **known})
    answer = connection.getresponse()
    body = answer.read()
    etags[uri] = answer.getheader("ETag", "")
    answers.append({"status": answer.status, "headers": dict(answer.getheaders()), "body": body.hex()})
    connection.close()
print(json.dumps(answers))
"""


@dataclass
class Answer:
    """One answer of the API."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(gzip.decompress(self.body) if self.headers.get("Content-Encoding") == "gzip" else self.body)


class Host:
    """Asks the node from the host: over QEMU's network, with the node's certificate pinned."""

    def __init__(self, following: Following) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = f"hostfwd_add tcp:127.0.0.1:{self.port}-:8443"
        following.node.qmp("human-monitor-command", command_line=command)
        self._context = ssl.create_default_context()
        self._context.check_hostname = False  # it is the certificate that is known, not the name
        self._context.load_verify_locations(cadata=following.node.read_file("/etc/confine/node.crt").decode())

    def ask(self, path: str, method: str = "GET", **fields: str) -> Answer:
        """The answer to one request."""
        one = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=self._context)
        try:
            headers = {name.replace("_", "-"): text for name, text in fields.items()}
            one.request(method, API + path, headers={"Accept-Encoding": "identity", **headers})
            got = one.getresponse()
            return Answer(got.status, dict(got.getheaders()), got.read())
        finally:
            one.close()


@pytest.fixture
def host(following: Following) -> Host:
    return Host(following)


def poll(following: Following, *uris: str) -> list[Answer]:
    """What the original registry's poller is answered, on the management network."""
    argv = ["/usr/bin/ip", "netns", "exec", "peer", "python3", "-", *uris]
    found = json.loads(following.node.must(argv, timeout=120, stdin=POLL.encode()))
    return [Answer(one["status"], one["headers"], bytes.fromhex(one["body"])) for one in found]


def management(following: Following) -> None:
    """Give the node its management address, and wait until its API listens there."""
    following.node.sh(NETWORK, timeout=60)

    def listens() -> bool:
        try:
            return poll(following, f"https://[{MANAGEMENT}]{API}node/")[0].status == 200
        except AssertionError:
            return False

    following.node.wait_for("the API listens on the management address", listens, FOLLOW_S, every=1)
    following.wait_as_asked()


def test_documents_are_served_with_the_nodes_certificate(following: Following, host: Host) -> None:
    node = host.ask("node/")
    assert (node.status, node.json["state"], node.json["errors"]) == (200, "production", [])
    assert node.json["uri"] == f"https://127.0.0.1:{host.port}{API}node/"
    assert {entry["name"] for entry in node.json["resources"]} >= {"disk", "memory"}
    listed = host.ask("slivers/").json
    assert {entry["id"]: entry["state"] for entry in listed} == {
        "1@1": "started", "2@1": "started", "3@1": "started", "4@1": "deployed"}  # fmt: skip
    for entry in listed:
        path = entry["uri"].partition(API)[2]
        assert host.ask(path).json["id"] == entry["id"]
    assert host.ask("slivers/99/").status == 404
    assert host.ask("slivers").headers["Location"] == f"https://127.0.0.1:{host.port}{API}slivers/"


def test_what_a_poller_has_already_is_not_sent_again(following: Following, host: Host) -> None:
    first = host.ask("slivers/")
    packed = host.ask("slivers/", Accept_Encoding="gzip")
    assert packed.json == first.json
    for answer in (first, packed):
        again = host.ask("slivers/", If_None_Match=answer.headers["ETag"])
        assert (again.status, again.body) == (304, b"")
    following.set("slices/2", set_state="deploy")
    following.wait_state("2@1", "deployed")
    changed = host.ask("slivers/", If_None_Match=first.headers["ETag"])
    assert changed.status == 200
    assert {entry["id"]: entry["state"] for entry in changed.json}["2@1"] == "deployed"


def test_browsers_get_pages_and_programs_figures_and_a_description(following: Following, host: Host) -> None:
    page = host.ask("slivers/", Accept="text/html,application/xhtml+xml,*/*;q=0.8")
    assert page.headers["Content-Type"].startswith("text/html")
    assert b"<a href=" in page.body and b"1@1" in page.body
    metrics = host.ask("metrics").body.decode()
    assert 'confine_node_state{state="production"} 1' in metrics
    assert 'confine_sliver_memory_bytes{sliver="1@1"}' in metrics
    assert 'confine_record_failing{record="flows"} 0' in metrics
    described = host.ask("openapi.json").json
    for path in described["paths"]:
        if "get" in described["paths"][path] and "{" not in path:
            assert host.ask(path.lstrip("/")).status == 200, path


def test_a_refresh_has_the_registry_read_and_comes_once_a_minute(following: Following, host: Host) -> None:
    read = following.status()["registry"]["last_read"]
    assert host.ask("node/ctl/refresh/", "POST").status == 200
    following.node.wait_for("it was read", lambda: following.status()["registry"]["last_read"] != read, FOLLOW_S)
    refused = host.ask("node/ctl/refresh/", "POST")
    assert refused.status == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    assert host.ask("node/", "DELETE").status == 405


def test_without_tls_the_host_is_sent_to_https(following: Following, host: Host) -> None:
    plain = http.client.HTTPConnection("127.0.0.1", host.port, timeout=60)
    plain.request("GET", API + "node/")
    answer = plain.getresponse()
    assert answer.status == 308
    assert answer.getheader("Location") == f"https://127.0.0.1:{host.port}{API}node/"
    plain.close()


def test_the_original_registrys_poller_reads_the_node_and_its_slivers(following: Following) -> None:
    management(following)
    for scheme in ("http", "https"):  # 80 and 443 of the management address lead to the API
        node, sliver = (f"{scheme}://[{MANAGEMENT}]{API}{path}" for path in ("node/", "slivers/2/"))
        answers = poll(following, node, sliver, node, sliver)
        assert [answer.status for answer in answers] == [200, 200, 304, 304]
        assert answers[0].json["state"] == "production"
        assert answers[0].json["soft_version"]
        assert [entry for entry in answers[0].json["resources"] if entry["name"] == "disk"][0]["avail"] > 0
        assert answers[1].json["state"] == "started"
        assert answers[1].json["uri"] == sliver


def test_80_and_443_stay_the_nodes_own_on_all_other_addresses(following: Following) -> None:
    management(following)
    own, api = poll(following, f"http://[{OTHER}]/index.html", f"http://[{MANAGEMENT}]/index.html")
    assert (own.status, own.body) == (200, b"uhttpd\n")
    assert api.status == 404
    at_home = following.node.must(["wget", "-qO-", "http://127.0.0.1/index.html"])
    assert at_home == "uhttpd\n"

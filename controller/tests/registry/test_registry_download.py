"""Large files: resumed, and never from somewhere they must not come from."""

import threading
from pathlib import Path
from typing import Any

import pytest

from confine.core.firewall import closed_to_slices
from confine.core.settings import Settings
from confine.errors import RegistryError
from confine.registry import download
from registry import faults
from registry.faults import FaultyServer


class Got:
    """What a download gave."""

    def __init__(self) -> None:
        self.started: list[tuple[int, int | None]] = []
        self.content = b""

    def on_start(self, offset: int, total: int | None) -> None:
        self.started.append((offset, total))

    def sink(self, piece: bytes) -> None:
        self.content += piece


@pytest.fixture
def got() -> Got:
    return Got()


@pytest.fixture
def whole(documents: Any) -> bytes:
    return (Path(documents.files) / "debian.img").read_bytes()


def fetch(node: Any, uri: str, got: Got, offset: int = 0) -> None:
    node.registry.fetcher.fetch(uri, got.sink, offset, got.on_start)


def test_a_file_comes_whole_with_its_size_told_before(node: Any, server: FaultyServer, got: Got, whole: bytes) -> None:
    fetch(node, server.origin + "/files/debian.img", got)
    assert got.started == [(0, len(whole))]
    assert got.content == whole


def test_a_download_goes_on_where_it_was_cut_off(node: Any, server: FaultyServer, got: Got, whole: bytes) -> None:
    fetch(node, server.origin + "/files/debian.img", got, 1000)
    assert got.started == [(1000, len(whole))]
    assert got.content == whole[1000:]


def test_a_server_that_cannot_resume_sends_the_whole(node: Any, server: FaultyServer, got: Got, whole: bytes) -> None:
    server.faults = {"/files/*": faults.reply(200, "application/octet-stream", whole)}
    fetch(node, server.origin + "/files/debian.img", got, 1000)
    assert got.started == [(0, len(whole))]
    assert got.content == whole


def test_a_file_that_is_now_shorter_than_what_is_there_begins_anew(
    node: Any, server: FaultyServer, got: Got, whole: bytes
) -> None:
    fetch(node, server.origin + "/files/debian.img", got, len(whole) + 5)
    assert got.started == [(0, len(whole))]


def test_a_download_that_ends_early_is_an_error_and_what_came_is_there(
    node: Any, server: FaultyServer, got: Got
) -> None:
    server.faults = {"/files/*": faults.truncated(b"x" * 1000)}
    with pytest.raises(RegistryError, match="truncated"):
        fetch(node, server.origin + "/files/debian.img", got)
    assert got.content == b"x" * 500


def test_another_part_than_asked_for_is_refused(node: Any, server: FaultyServer, got: Got) -> None:
    part = b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-9/10\r\nContent-Length: 10\r\n\r\n0123456789"
    server.faults = {"/files/*": faults.raw(part)}
    with pytest.raises(RegistryError, match="another part"):
        fetch(node, server.origin + "/files/debian.img", got, 5)
    assert got.content == b""


def test_a_template_may_come_by_plain_http_since_its_sha256_decides(
    node: Any, serve: Any, got: Got, whole: bytes
) -> None:
    fetch(node, serve().origin + "/files/debian.img", got)
    assert got.content == whole


def test_a_redirect_to_another_host_is_followed_but_not_from_https_to_http(
    node: Any, server: FaultyServer, serve: Any, got: Got, whole: bytes
) -> None:
    plain = serve()
    server.faults = {"/files/*": faults.redirect(plain.origin + "/files/debian.img", 302)}
    with pytest.raises(RegistryError, match="from https to http"):
        fetch(node, server.origin + "/files/debian.img", got)
    plain.faults = {"/files/here": faults.redirect(serve().origin + "/files/debian.img", 302)}
    fetch(node, plain.origin + "/files/here", got)
    assert got.content == whole


def test_a_redirect_loop_ends(node: Any, server: FaultyServer, got: Got) -> None:
    server.faults = {"/files/*": faults.redirect("/files/debian.img", 302)}
    with pytest.raises(RegistryError, match="redirects"):
        fetch(node, server.origin + "/files/debian.img", got)


def test_a_file_of_the_registry_is_taken_from_its_next_address_when_one_fails(
    client: Any, serve: Any, certificate: tuple[str, str], got: Got, whole: bytes
) -> None:
    first, second = serve(*certificate), serve(*certificate)
    first.faults = {"/files/*": faults.html(500)}
    node = client([first.base, second.base], certificate[0])
    fetch(node, first.origin + "/files/debian.img", got)
    assert got.content == whole


def test_a_file_below_the_registrys_address_is_found_at_its_other_address(
    client: Any, serve: Any, certificate: tuple[str, str], got: Got
) -> None:
    first, second = serve(*certificate), serve(*certificate)
    second.faults = {"/api/media/x": faults.reply(200, "application/octet-stream", b"found")}
    fetch(client([first.base, second.base], certificate[0]), first.base + "media/x", got)
    assert got.content == b"found"


def test_tls_of_other_hosts_is_verified_too(
    client: Any, serve: Any, server: FaultyServer, certificate: tuple[str, str], got: Got
) -> None:
    elsewhere = serve(*certificate)
    node = client([server.base], certificate[0])
    with pytest.raises(RegistryError, match="system's certificate authorities"):
        fetch(node, elsewhere.origin + "/files/debian.img", got)
    assert elsewhere.requests == []


@pytest.mark.parametrize("uri", ["file:///etc/passwd", "ftp://example.net/x", "/etc/passwd", "gopher:x", "http://"])
def test_files_of_this_machine_and_unknown_schemes_are_refused(uri: str, node: Any, got: Got) -> None:
    with pytest.raises(RegistryError):
        fetch(node, uri, got)
    assert got.started == []


def test_an_error_of_the_receiver_goes_through_and_leaves_no_connection_behind(
    node: Any, server: FaultyServer, got: Got, whole: bytes
) -> None:
    def full(_piece: bytes) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        node.registry.fetcher.fetch(server.origin + "/files/debian.img", full, 0, got.on_start)
    fetch(node, server.origin + "/files/debian.img", got)
    assert got.content == whole


def test_downloads_run_side_by_side_with_a_round(node: Any, server: FaultyServer, got: Got, whole: bytes) -> None:
    thread = threading.Thread(target=fetch, args=(node, server.origin + "/files/debian.img", got))
    thread.start()
    node.round()
    thread.join(10)
    assert got.content == whole


# -- what slices' users have the node ask --------------------------------------------------------------------------


def test_data_is_not_fetched_from_the_node_itself_nor_by_a_redirect_but_templates_are(
    client: Any, server: FaultyServer, certificate: tuple[str, str], serve: Any, got: Got, whole: bytes
) -> None:
    node = client([server.base], certificate[0])
    other = serve()  # plain http on the loopback: not the registry
    with pytest.raises(RegistryError, match="fetches nothing from there for slices"):
        node.registry.data_fetcher.fetch(other.origin + "/files/debian.img", got.sink, 0, got.on_start)
    server.faults = {"/files/*": faults.redirect("https://localhost:{}/x".format(other.base.split(":")[2][:-5]), 302)}
    with pytest.raises(RegistryError, match="fetches nothing from there for slices"):
        node.registry.data_fetcher.fetch(server.origin + "/files/debian.img", got.sink, 0, got.on_start)
    assert other.requests == []
    node.registry.fetcher.fetch(other.origin + "/files/debian.img", got.sink, 0, got.on_start)
    assert got.content == whole


def test_data_is_fetched_from_the_registrys_own_servers_wherever_they_are(node: Any, got: Got, whole: bytes) -> None:
    server = node.registry.data_fetcher._web[0]
    node.registry.data_fetcher.fetch(server[: -len("api/")] + "files/debian.img", got.sink, 0, got.on_start)
    assert got.content == whole


@pytest.mark.parametrize(
    "address,closed",
    [
        ("127.0.0.9", True), ("::1", True), ("0.0.0.0", True), ("169.254.1.1", True), ("fe80::1%eth0", True),
        ("fe80::1", True), ("::ffff:192.0.2.1", True), ("192.168.1.77", True), ("192.168.241.3", True),
        ("fd65:fc41:c50f::9", True), ("fd12::1", True),
        ("198.51.100.7", False), ("2001:db8::7", False), ("192.168.2.1", False),
    ],
)  # fmt: skip
def test_data_comes_from_nowhere_that_a_private_interface_does_not_reach(address: str, closed: bool) -> None:
    settings = Settings(mgmt_ipv6_prefix48="fd65:fc41:c50f", firewall_exclude=["192.168.1.0/24", "fd12::/16"])
    fetcher = download.Fetcher(None, ["https://registry.example.org/api/"], closed_to_slices(settings))
    assert fetcher._is_closed("files.example.org", 80, address) is closed
    assert fetcher._is_closed("registry.example.org", 443, address) is False


def test_an_address_of_the_nodes_own_is_known_as_such() -> None:
    assert download.is_own("127.0.0.1")
    assert not download.is_own("198.51.100.7")

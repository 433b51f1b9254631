"""The node's key, certificate and certificate request, checked with openssl."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from api_world import FakeNode, settings, until

from confine.api import certificate
from confine.api.certificate import Files
from confine.api.server import ApiServer, listen_addresses, make_context
from confine.errors import ConfineError
from confine.log import Log
from confine.paths import Paths

ADDRESS = "fdc0:7246:b03f:1b::2"
QUIET = Log(None, echo=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory where a node made its key, certificate and request."""
    etc = str(tmp_path_factory.mktemp("made") / "etc")
    assert certificate.ensure(Files(Paths(etc=etc)), ADDRESS, QUIET) == (f"{etc}/node.crt", f"{etc}/node.key")
    return etc


@pytest.fixture
def files(made: str, tmp_path: Path) -> Files:
    """Files of a node of its own, made already."""
    etc = tmp_path / "etc"
    shutil.copytree(made, etc)
    return Files(Paths(etc=str(etc)), uhttpd=str(tmp_path / "uhttpd"))


def openssl(*arguments: str) -> str:
    return subprocess.run(["openssl", *arguments], capture_output=True, check=True, text=True, timeout=30).stdout


def content(files: Files) -> list[bytes]:
    return [Path(path).read_bytes() for path in (files.key, files.certificate, files.request)]


def test_the_key_is_rsa_2048_and_only_root_may_read_it(made: str) -> None:
    assert "Private-Key: (2048 bit" in openssl("rsa", "-in", made + "/node.key", "-noout", "-text")
    assert stat.S_IMODE(os.stat(made + "/node.key").st_mode) == 0o600
    assert sorted(os.listdir(made)) == ["node.crt", "node.csr", "node.key"]


def test_the_certificate_is_for_the_management_address_and_of_the_key(made: str) -> None:
    text = openssl(
        "x509", "-in", made + "/node.crt", "-noout", "-subject", "-ext", "subjectAltName", "-nameopt", "RFC2253"
    )
    assert f"CN={ADDRESS}" in text and "IP Address:FDC0:7246:B03F:1B:0:0:0:2" in text
    assert openssl("verify", "-CAfile", made + "/node.crt", made + "/node.crt").strip().endswith("OK")
    assert openssl("x509", "-in", made + "/node.crt", "-noout", "-pubkey") == openssl(
        "pkey", "-in", made + "/node.key", "-pubout"
    )


def test_the_request_is_what_the_registry_signs(made: str) -> None:
    text = openssl("req", "-in", made + "/node.csr", "-noout", "-verify", "-subject", "-nameopt", "RFC2253", "-pubkey")
    assert f"subject=CN={ADDRESS}\n" in text
    assert openssl("pkey", "-in", made + "/node.key", "-pubout") in text


def test_nothing_is_made_twice(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(files)
    monkeypatch.setattr(certificate, "_openssl", lambda *_: pytest.fail("a process is started"))
    assert certificate.ensure(files, ADDRESS, QUIET) == (files.certificate, files.key)
    assert content(files) == before


def test_an_injected_pair_is_kept_and_a_request_made_for_it(files: Files) -> None:
    os.unlink(files.request)
    key, pair, _ = [*content_or_empty(files)]
    assert certificate.ensure(files, ADDRESS, QUIET) == (files.certificate, files.key)
    assert content_or_empty(files)[:2] == [key, pair]
    assert openssl("pkey", "-in", files.key, "-pubout") in openssl("req", "-in", files.request, "-noout", "-pubkey")


def content_or_empty(files: Files) -> list[bytes]:
    return [Path(p).read_bytes() if os.path.exists(p) else b"" for p in (files.key, files.certificate, files.request)]


def test_uhttpds_pair_is_used_if_it_is_for_this_node_and_only_then(files: Files) -> None:
    for ending in ("key", "crt"):
        shutil.move(files.key[:-3] + ending, f"{files.uhttpd}.{ending}")
    os.unlink(files.request)
    assert certificate.ensure(files, ADDRESS, QUIET) == (files.uhttpd + ".crt", files.uhttpd + ".key")
    assert os.path.exists(files.request) and not os.path.exists(files.key)
    other = "fdc0:7246:b03f:2a::2"
    assert certificate.ensure(files, other, QUIET) == (files.certificate, files.key)
    assert "CN = " + other in openssl("x509", "-in", files.certificate, "-noout", "-subject")


def test_a_request_for_another_address_is_made_anew(files: Files) -> None:
    other = "fdc0:7246:b03f:2a::2"
    before = content(files)
    certificate.ensure(files, other, QUIET)
    assert content(files)[:2] == before[:2]  # a certificate that people pinned stays
    assert "CN = " + other in openssl("req", "-in", files.request, "-noout", "-subject")


def test_a_node_without_an_address_has_a_certificate_and_gets_a_better_one_later(files: Files) -> None:
    os.unlink(files.certificate)
    os.unlink(files.request)
    certificate.ensure(files, None, QUIET)
    assert "CN = confine-node" in openssl("x509", "-in", files.certificate, "-noout", "-subject")
    assert not os.path.exists(files.request)
    key = Path(files.key).read_bytes()
    certificate.ensure(files, ADDRESS, QUIET)
    assert "CN = " + ADDRESS in openssl("x509", "-in", files.certificate, "-noout", "-subject")
    assert Path(files.key).read_bytes() == key and os.path.exists(files.request)


def test_a_certificate_without_its_key_is_not_replaced(files: Files) -> None:
    os.unlink(files.key)
    with pytest.raises(ConfineError, match=r"node\.crt is there but its key"):
        certificate.ensure(files, ADDRESS, QUIET)


def test_a_power_cut_between_key_and_certificate_is_made_good(files: Files) -> None:
    key = Path(files.key).read_bytes()
    os.unlink(files.certificate)
    certificate.ensure(files, ADDRESS, QUIET)
    make_context(files.certificate, files.key)
    assert Path(files.key).read_bytes() == key


def test_a_pair_that_is_of_no_use_is_named(files: Files) -> None:
    Path(files.certificate).write_text("hello")
    with pytest.raises(ConfineError, match=r"node\.crt .* cannot be used"):
        make_context(files.certificate, files.key)


def test_a_node_without_openssl_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfineError, match="install openssl-util"):
        certificate.ensure(Files(Paths(etc=str(tmp_path / "etc"))), ADDRESS, QUIET)


def server(tmp_path: Path, etc: str, node: FakeNode, **options: object) -> tuple[ApiServer, str]:
    paths = Paths(data=str(tmp_path), run=str(tmp_path / "run"), etc=etc)
    return ApiServer(node, paths, settings(**options), Log(paths.log, echo=False)), paths.log


def test_a_port_that_is_taken_is_said_and_tried_again(
    tmp_path: Path, made: str, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("confine.api.server.AGAIN_S", 0.05)
    first, _ = server(tmp_path, made, node)
    first.start()
    assert first.ready.wait(15)
    second, log = server(tmp_path, made, node, api_port=first.addresses()[0][1])
    try:
        second.start()
        until("nothing is said", lambda: "api.port" in Path(log).read_text() if os.path.exists(log) else False)
        first.close()
        assert second.ready.wait(15)
        assert Path(log).read_text().count("is not served") == 1
    finally:
        first.close()
        second.close()


def test_an_api_that_is_switched_off_makes_and_opens_nothing(tmp_path: Path, node: FakeNode) -> None:
    off, _ = server(tmp_path, str(tmp_path / "etc"), node, api_enabled=False)
    off.start()
    off.close()
    assert not os.path.exists(tmp_path / "etc")


def test_a_node_listens_on_its_management_address_and_loopback_unless_told_otherwise() -> None:
    assert listen_addresses(settings(api_listen=[], node_id=0x1B)) == [ADDRESS, "127.0.0.1", "::1"]
    assert listen_addresses(settings(api_listen=[], mgmt_ipv6_prefix48=None)) == ["::"]
    assert listen_addresses(settings(api_listen=["10.0.0.1", "::1"])) == ["10.0.0.1", "::1"]


def test_the_management_address_need_not_be_there_yet(tmp_path: Path, made: str, node: FakeNode) -> None:
    early, _ = server(tmp_path, made, node, api_listen=[ADDRESS])
    try:
        early.start()
        assert early.ready.wait(15) and early.addresses()[0][0] == ADDRESS
    finally:
        early.close()

"""TLS is always verified, by a pinned certificate, a CA or the system, and a pin is not judged by dates."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from confine.errors import RegistryError
from confine.paths import Paths
from confine.registry.client import Registry
from registry import faults
from registry.clients import make_settings
from registry.faults import FaultyServer
from registry.server import make_certificate

Serve = Callable[..., FaultyServer]


def test_plain_http_is_refused_unless_it_was_allowed(serve: Serve, client: Any) -> None:
    server = serve()
    settings = make_settings([server.base], plain_http=True)
    settings.plain_http = False
    registry = Registry(settings, Paths())
    with pytest.raises(RegistryError, match=r"plain http to 127.0.0.1:[0-9]+ is refused"):
        registry.refresh(None, time.monotonic() + 5)
    assert server.requests == []
    state, _ = client([server.base], plain_http=True).round()
    assert state["complete"]


def test_a_server_with_another_certificate_is_refused_before_anything_is_asked(
    serve: Serve, client: Any, certificate: tuple[str, str], tmp_path: Path
) -> None:
    imposter = serve(*make_certificate(str(tmp_path / "imposter"), ["127.0.0.1"]))
    with pytest.raises(RegistryError, match="is not trusted by the certificate in "):
        client([imposter.base], certificate[0]).round()
    assert imposter.requests == []


def test_without_a_pinned_certificate_the_system_decides(serve: Serve, client: Any, certificate: Any) -> None:
    server = serve(*certificate)
    with pytest.raises(RegistryError, match="is not trusted by the system's certificate authorities"):
        client([server.base]).round()
    assert server.requests == []


def test_a_pinned_certificate_counts_whatever_name_it_bears(serve: Serve, client: Any, tmp_path: Path) -> None:
    cert, key = make_certificate(str(tmp_path / "other"), ["elsewhere.example"])
    state, _ = client([serve(cert, key).base], cert).round()
    assert state["complete"]


def test_a_new_certificate_in_the_file_is_taken_up_without_a_restart(
    serve: Serve, client: Any, certificate: tuple[str, str], tmp_path: Path
) -> None:
    cert, key = make_certificate(str(tmp_path / "new"), ["127.0.0.1"])
    server = serve(cert, key)
    pinned = tmp_path / "registry.crt"
    shutil.copy(certificate[0], pinned)
    node = client([server.base], str(pinned))
    with pytest.raises(RegistryError, match="is not trusted"):
        node.round()
    shutil.copy(cert, pinned)
    state, _ = node.round()
    assert state["complete"]


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


def dated_certificate(directory: Path, start: str, end: str) -> tuple[str, str]:
    """A self-made certificate valid from `start` to `end` ("YYMMDDHHMMSSZ" or with a century)."""
    directory.mkdir()
    key, request, cert = (str(directory / name) for name in ("server.key", "server.csr", "server.crt"))
    (directory / "index.txt").write_text("")
    (directory / "ca.cnf").write_text(
        "[ca]\ndefault_ca=d\n[d]\nnew_certs_dir={0}\ndatabase={0}/index.txt\nrand_serial=yes\ndefault_md=sha256\n"
        "policy=p\n[p]\ncommonName=supplied\n".format(directory)
    )
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-keyout", key,
            "-out", request, "-subj", "/CN=127.0.0.1")  # fmt: skip
    openssl("ca", "-config", str(directory / "ca.cnf"), "-selfsign", "-keyfile", key, "-in", request, "-out", cert,
            "-startdate", start, "-enddate", end, "-notext", "-batch")  # fmt: skip
    return cert, key


@pytest.mark.parametrize(
    ("what", "start", "end"),
    [
        ("for a node whose clock says 1970", "20300101000000Z", "20400101000000Z"),
        ("for a node whose clock says 2106", "20100101000000Z", "20200101000000Z"),
    ],
)
def test_a_pinned_certificate_is_not_judged_by_dates(
    what: str, start: str, end: str, serve: Serve, client: Any, tmp_path: Path
) -> None:
    cert, key = dated_certificate(tmp_path / "tls", start, end)
    state, _ = client([serve(cert, key).base], cert).round()
    assert state["complete"], what
    assert state["date"] == time.strftime("%Y-%m-%d", time.gmtime())


def signed_by_ca(directory: Path, names: str, days: int) -> tuple[str, str, str]:
    """(CA's certificate, server's certificate, server's key)."""
    directory.mkdir()
    ca, ca_key = str(directory / "ca.crt"), str(directory / "ca.key")
    cert, key, request = (str(directory / name) for name in ("server.crt", "server.key", "server.csr"))
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
    openssl("req", "-x509", *curve, "-keyout", ca_key, "-out", ca, "-subj", "/CN=Testbed CA", "-days", "30")
    openssl("req", *curve, "-keyout", key, "-out", request, "-subj", "/CN=registry")
    extensions = directory / "extensions"
    extensions.write_text("subjectAltName=" + names)
    openssl("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-out", cert,
            "-days", str(days), "-extfile", str(extensions))  # fmt: skip
    return ca, cert, key


def test_a_certificate_issued_by_a_pinned_ca_is_trusted_for_its_name_alone(
    serve: Serve, client: Any, tmp_path: Path
) -> None:
    ca, cert, key = signed_by_ca(tmp_path / "good", "IP:127.0.0.1", 30)
    server = serve(cert, key)
    state, _ = client([server.base], ca).round()
    assert state["complete"]
    ca, cert, key = signed_by_ca(tmp_path / "bad", "IP:192.0.2.7", 30)
    server = serve(cert, key)
    with pytest.raises(RegistryError, match="IP address mismatch"):
        client([server.base], ca).round()
    assert server.requests == []


def test_a_certificate_of_a_pinned_ca_that_is_out_of_date_is_refused_with_the_nodes_own_date(
    serve: Serve, client: Any, tmp_path: Path
) -> None:
    ca, cert, key = signed_by_ca(tmp_path / "old", "IP:127.0.0.1", -1)
    with pytest.raises(RegistryError, match="expired; this node's clock says 20"):
        client([serve(cert, key).base], ca).round()


def test_the_date_of_a_registry_counts_only_if_it_proved_who_it_is(
    serve: Serve, client: Any, node: Any, server: FaultyServer
) -> None:
    plain, _ = client([serve().base], plain_http=True).round()
    assert plain["date"] is None
    secure, _ = node.round()
    assert secure["date"] == time.strftime("%Y-%m-%d", time.gmtime())
    server.faults = {"/api/": faults.html(500)}
    with pytest.raises(RegistryError):
        node.round()
    assert node.state["date"] == secure["date"]


def test_a_file_that_is_no_certificate_is_named(client: Any, server: FaultyServer, tmp_path: Path) -> None:
    bad = tmp_path / "registry.crt"
    bad.write_text("hello")
    with pytest.raises(RegistryError, match="holds no certificate"):
        client([server.base], str(bad)).round()
    bad.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(RegistryError, match="is not usable"):
        client([server.base], str(bad)).round()


def test_keys_of_the_example_registry_are_for_its_owner_alone(certificate: tuple[str, str]) -> None:
    assert shutil.which("openssl")
    assert os.stat(certificate[1]).st_mode & 0o777 == 0o600

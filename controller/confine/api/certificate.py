"""The node's key and certificate, and a request (CSR) for one by the testbed's CA.

An injected pair is used as it is: /etc/confine/node.{crt,key}, else /etc/uhttpd.{crt,key} if that is for the node's
management address (uhttpd makes one of its own for other names). Else both are made with the `openssl` tool: an RSA
key of 2048 bits, which is what certificates of existing registries are made for (registry captures), and a
self-signed certificate. It is pinned by those who trust it, so its dates say nothing; nodes make it before they have
a clock. The request lies beside them as the registry's `request-cert` wants it: its subject's CN is the management
address.
"""

import binascii
import os
import subprocess
import threading

from confine import durable
from confine.errors import ConfineError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confine.log import Log
    from confine.paths import Paths

UHTTPD = "/etc/uhttpd"
UNNAMED = "confine-node"  # CN of the certificate of a node that has no management address yet
OPENSSL_S = 300  # an RSA key takes a small device its time
DAYS = 36500  # a node's clock may stand at 1970 when the certificate is made
_making = threading.Lock()  # a daemon that reads its settings anew may have the old thread still at it


class Files:
    """Where they lie."""

    def __init__(self, paths: "Paths", uhttpd: str = UHTTPD) -> None:
        self.key = os.path.join(paths.etc, "node.key")
        self.certificate = os.path.join(paths.etc, "node.crt")
        self.request = os.path.join(paths.etc, "node.csr")
        self.uhttpd = uhttpd


def ensure(files: Files, address: "str | None", log: "Log") -> "tuple[str, str]":
    """(certificate, key) to be used; makes what is missing. ConfineError: neither there nor to be made."""
    with _making:
        pair = _injected(files, address)
        if pair is None:
            _make(files, address, log)
            pair = files.certificate, files.key
        try:
            _request(files, pair[1], address)
        except (ConfineError, OSError) as error:
            log.warn("api", f"no certificate request could be made: {error}")
        return pair


def _injected(files: Files, address: "str | None") -> "tuple[str, str] | None":
    """The pair that is there already; None if one has to be made, or made anew for the address now known."""
    if os.path.exists(files.certificate) and os.path.exists(files.key):
        unnamed = address is not None and _names(files.certificate, UNNAMED)
        return None if unnamed else (files.certificate, files.key)
    if os.path.exists(files.certificate):
        raise ConfineError(
            f"{files.certificate} is there but its key {files.key} is not: put it there, or remove the certificate"
        )
    certificate, key = files.uhttpd + ".crt", files.uhttpd + ".key"
    if not os.path.exists(files.key) and os.path.exists(key) and address is not None and _names(certificate, address):
        return certificate, key
    return None


def _make(files: Files, address: "str | None", log: "Log") -> None:
    durable.make_dir(os.path.dirname(files.key), 0o755)
    if not os.path.exists(files.key):
        log.info("api", f"making the node's key {files.key}")
        key = _openssl(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], "")
        durable.write_atomic(files.key, key, 0o600)
    arguments = ["req", "-new", "-x509", "-sha256", "-days", str(DAYS), "-key", files.key, "-config", "/proc/self/fd/0"]
    certificate = _openssl(arguments, _configuration(address or UNNAMED, address))
    durable.write_atomic(files.certificate, certificate, 0o644)
    log.info("api", f"made the node's own certificate {files.certificate} for {address or UNNAMED}")


def _request(files: Files, key: str, address: "str | None") -> None:
    """Make the request, if there is an address and the one there is older than the key or for another address."""
    if address is None:
        return
    try:
        if os.stat(files.request).st_mtime_ns >= os.stat(key).st_mtime_ns and _names(files.request, address):
            return
    except FileNotFoundError:
        pass
    arguments = ["req", "-new", "-sha256", "-key", key, "-config", "/proc/self/fd/0"]
    durable.make_dir(os.path.dirname(files.request), 0o755)
    durable.write_atomic(files.request, _openssl(arguments, _configuration(address, None)), 0o644)


def _configuration(name: str, address: "str | None") -> str:
    """What openssl is told; nothing is taken from the system's own file, which a node may not have."""
    text = f"[req]\ndistinguished_name = subject\nprompt = no\nutf8 = yes\n[subject]\nCN = {name}\n"
    if address is None:
        return text
    return text.replace("[subject]", "x509_extensions = names\n[subject]") + f"[names]\nsubjectAltName = IP:{address}\n"


def _names(path: str, name: str) -> bool:
    """Whether `name` stands, as a text of its own, in the certificate or request at `path`. No process needed."""
    try:
        with open(path, "rb") as file:
            text = file.read(65536)
        body = text.split(b"-----BEGIN ", 1)[1].split(b"-----\n", 1)[1].split(b"-----END", 1)[0]
        inside = binascii.a2b_base64(body)
    except (OSError, IndexError, ValueError):
        return False
    # DER: a UTF8String or PrintableString of exactly this length
    return any(bytes([tag, len(name)]) + name.encode() in inside for tag in (0x0C, 0x13))


def _openssl(arguments: "list[str]", text: str) -> bytes:
    """Run openssl; gives its output. ConfineError with its words."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["openssl", *arguments],
            input=text.encode(),
            capture_output=True,
            timeout=OPENSSL_S,
            env=environment,
            check=False,
        )
    except FileNotFoundError:
        raise ConfineError("there is no openssl program on this node: install openssl-util (Debian: openssl)")
    except subprocess.TimeoutExpired:
        raise ConfineError(f"openssl {arguments[0]} did not end within {OPENSSL_S} s")
    if done.returncode != 0 or not done.stdout.startswith(b"-----BEGIN "):
        said = " ".join(done.stderr.decode("utf-8", "replace").split())[:1000]
        raise ConfineError(f"openssl {arguments[0]} failed (status {done.returncode}): {said}")
    return done.stdout

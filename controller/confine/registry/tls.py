"""TLS to a registry: always verified, by a pinned certificate, a CA, or the system's CAs.

The configured PEM file holds the server's own certificate (a pin), or that of a CA, or several. A server that
shows exactly a pinned certificate is the right one whatever its dates and names say: nodes boot without a clock
(design, "Time"). Any other certificate has to be issued by one in the file and is then judged as usual: dates,
host name, chain.
"""

import socket
import ssl
import time

from confine.errors import RegistryError
from confine.registry.http import Unreachable, reason

# X509_V_FLAG_NO_CHECK_TIME (OpenSSL x509_vfy.h); Python has no name for it.
NO_CHECK_TIME = 0x200000
CERT_NOT_YET_VALID = 9
CERT_HAS_EXPIRED = 10


class Trust:
    """How one server (or all of them: the system's CAs) is verified. path: the PEM file, or None."""

    def __init__(self, path: "str | None") -> None:
        self.path = path
        self._pins = read_pins(path) if path else []
        self._lenient = self._context(strict=False) if path else None
        self._strict: ssl.SSLContext | None = None
        # Servers that show a certificate of a pinned CA: known after the first connection to each.
        self._by_ca: set[str] = set()

    def _context(self, strict: bool) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies chain and host name
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.path:
            context.load_verify_locations(cadata=b"".join(self._pins))
        else:
            context.set_default_verify_paths()
        if not strict:
            context.check_hostname = False
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | NO_CHECK_TIME
        return context

    def wrap(self, sock: socket.socket, host: str, deadline: float) -> "ssl.SSLSocket | None":
        """Do the handshake on the connected `sock` and verify the server `host`.

        None: the server's certificate is issued by a pinned CA, so it has to be judged in full; connect again.
        `Unreachable` if the server is not the one that is trusted. `sock` is closed in both cases.
        """
        if self._lenient is not None and host not in self._by_ca:
            wrapped = self._handshake(self._lenient, sock, host, deadline)
            if wrapped.getpeercert(binary_form=True) in self._pins:
                return wrapped
            wrapped.close()
            self._by_ca.add(host)
            return None
        if self._strict is None:
            self._strict = self._context(strict=True)
        return self._handshake(self._strict, sock, host, deadline)

    def _handshake(self, context: ssl.SSLContext, sock: socket.socket, host: str, deadline: float) -> ssl.SSLSocket:
        try:
            sock.settimeout(max(0.1, deadline - time.monotonic()))
            return context.wrap_socket(sock, server_hostname=host.encode("ascii"))  # see http.dial
        except ssl.SSLCertVerificationError as error:
            sock.close()
            raise Unreachable(self._refusal(error, host))
        except (OSError, ValueError) as error:
            sock.close()
            words = reason(error) if isinstance(error, OSError) else str(error)
            raise Unreachable("TLS with {} failed: {}".format(host, words))

    def _refusal(self, error: ssl.SSLCertVerificationError, host: str) -> str:
        trusted = "the certificate in " + self.path if self.path else "the system's certificate authorities"
        text = "the certificate of {} is not trusted by {}: {}".format(host, trusted, error.verify_message)
        if error.verify_code in (CERT_NOT_YET_VALID, CERT_HAS_EXPIRED):
            today = time.strftime("%Y-%m-%d", time.gmtime())
            return text + "; this node's clock says {}, see whether that is right".format(today)
        if not self.path:
            return text + "; set the registry's certificate (registry.cert)"
        return text


def read_pins(path: str) -> "list[bytes]":
    """The certificates in a PEM file, as DER. RegistryError if there are none."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            text = file.read(1 << 20)
    except OSError as error:
        raise RegistryError("the registry's certificate {} cannot be read: {}".format(path, error.strerror))
    end = ssl.PEM_FOOTER
    blocks = [block[block.index(ssl.PEM_HEADER) :] + end for block in text.split(end) if ssl.PEM_HEADER in block]
    try:
        pins = [ssl.PEM_cert_to_DER_cert(block) for block in blocks]
        for pin in pins:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pin)
    except (ValueError, ssl.SSLError) as error:
        raise RegistryError("the registry's certificate {} is not usable: {}".format(path, error))
    if not pins:
        raise RegistryError("the file {} holds no certificate (PEM) for the registry".format(path))
    return pins

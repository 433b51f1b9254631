"""What a node shows of itself to its registry: the public half of its overlay key, and a request for a certificate.

Both are made here where they are not there yet. They are given to the registry by the token of a member who
administers the node, or shown, for the operator to enter.
"""

import os
import ssl

from confine import durable
from confine.api import certificate
from confine.api.firewall import management_address
from confine.core import rsa
from confine.core.model import Step
from confine.drivers import tinc
from confine.drivers.overlay import Overlay
from confine.errors import ConfineError, RegistryError
from confine.log import Log
from confine.paths import Paths
from confine.registry import publish

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confine.core.settings import Settings

KEY, REQUEST = "overlay key", "certificate request"


class Identity:
    """Of a node with `settings`, which need not be its configuration yet. ConfineError if it cannot be made.

    pubkey, request: PEM; request None: the node has a certificate from elsewhere.
    """

    def __init__(self, paths: Paths, settings: "Settings") -> None:
        address = management_address(settings)
        if address is None:
            raise ConfineError("without a node id and a management prefix there are no keys to give")
        self._settings = settings
        self._files = certificate.Files(paths)
        self._scratch = os.path.join(paths.run, "signed.crt")
        numbers = _overlay_key(paths)
        if numbers is None:
            Overlay(paths, settings).key(Step("overlay", "key", "node", "the node has no key yet"))
            numbers = _overlay_key(paths)
        if numbers is None:
            raise ConfineError("the overlay's key in {} cannot be used".format(paths.tinc))
        self.pubkey = rsa.public_pem(numbers)
        pair = certificate.ensure(self._files, address, Log(None, echo=False))
        self.request = _text(self._files.request) if pair[0] == self._files.certificate else None

    def publish(self, token: str) -> "tuple[str, str | None]":
        """Give both to the registry: (its address, why the certificate was not signed or None). The signed one is
        kept. ConfineError: the registry took nothing."""
        base = publish.publish(self._settings, token, self.pubkey)
        if self.request is None:
            return base, "the node has a certificate from elsewhere"
        try:
            self._keep(publish.certify(self._settings, token, base, self.request))
        except (RegistryError, OSError) as error:
            return base, str(error)
        return base, None

    def _keep(self, pem: str) -> None:
        """Use the certificate from now on. RegistryError if it is not for this node's key; then the old one stays."""
        os.makedirs(os.path.dirname(self._scratch), exist_ok=True)
        try:
            durable.write_atomic(self._scratch, pem.encode(), 0o644)
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._scratch, self._files.key)
        except ssl.SSLError as error:
            raise RegistryError("what it sent is no certificate of this node's key ({})".format(error.reason))
        finally:
            if os.path.exists(self._scratch):
                os.unlink(self._scratch)
        durable.write_atomic(self._files.certificate, pem.encode(), 0o644)


def _overlay_key(paths: Paths) -> "rsa.Numbers | None":
    text = _text(os.path.join(paths.tinc, tinc.KEY))
    return tinc.usable_key(text) if text is not None else None


def _text(path: str) -> "str | None":
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(rsa.MAX_PEM)
    except OSError:
        return None

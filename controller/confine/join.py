"""`confine setup`: joins a testbed, or says in plain words why it cannot.

Looks first, at one thing after the other, and stops at what stands in the way of the rest. Only when all is well is
anything kept: the registry's certificate under a name of its own, then the configuration as a whole. Whoever breaks it
off leaves the node as it was.
"""

import hashlib
import os
import socket
import ssl
import subprocess
import sys
import time

from confine.check_facts import FAIL, OK, WARN, Finding
from confine.configuration import read_settings
from confine.core import joining
from confine.core.addressing import node_hex
from confine.durable import write_atomic
from confine.errors import ConfineError, RegistryError
from confine.paths import Paths
from confine.registry import uris
from confine.registry.tls import Trust
from confine.registry.transport import Transport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.settings import Settings
    from confine.identity import Identity

RELOAD = ["/etc/init.d/confine", "reload"]
CONNECT_S = 10.0
READ_S = 30.0
A_CLOCK = 1_750_000_000  # a clock before mid 2025 was never set


class Refused(ConfineError):
    """What stands in the way: said to the member as a finding."""

    def __init__(self, what: str, said: str, todo: str) -> None:
        super().__init__(said)
        self.finding = Finding(FAIL, what, said, todo)


class Joining:
    """One try to join. findings: what was looked at so far."""

    def __init__(self, paths: Paths, certificates: "str | None" = None) -> None:
        self._paths = paths
        self._certificates = certificates or paths.etc
        self._probe = os.path.join(paths.run, "setup.crt")
        self.findings: list[Finding] = []
        self.wanted: dict[str, Any] = {}
        self._pem: str | None = None  # of the registry; None: the system's CAs vouch for it

    def look(self, given: "dict[str, str]") -> bool:
        """Whether the node could join with what is `given` (joining.FIELDS). Changes nothing."""
        try:
            self._words(given)
            host, port = self._name()
            self._clock()
            self._reach(host, port)
            if self.wanted["registry"].startswith("https"):
                self._certificate(host, port)
            else:
                self._say(WARN, "certificate", "the registry is asked without encryption: whoever is on the way can "
                          "read and change what it says", "give an address that begins with https")  # fmt: skip
            self._node()
        except Refused as error:
            self.findings.append(error.finding)
            return False
        return True

    def keep(self) -> None:
        """Make it the node's configuration. ConfineError if it cannot be kept; then all is as it was."""
        from confine.drivers import uci

        options: dict[str, dict[str, Any]] = {
            "node": {"id": node_hex(self.wanted["node"])},
            "registry": {"base_uri": [self.wanted["registry"]], "cert": self._kept_certificate(),
                         "plain_http": "1" if self.wanted["registry"].startswith("http:") else None},
        }  # fmt: skip
        if self.wanted.get("mgmt"):
            options["testbed"] = {"mgmt_ipv6_prefix48": self.wanted["mgmt"] + "::/48"}
        there = uci.load("confine", self._paths.uci)
        changes: dict[str, dict[str, Any] | None] = {}
        for name, own in options.items():
            whole = {**there.get(name, {}), ".type": name, **own}
            changes[name] = {option: value for option, value in whole.items() if value is not None}
        uci.change("confine", changes, self._paths.uci)
        self._say(OK, "configuration", "kept")

    def publish(self, token: str) -> bool:
        """Give the node's keys to the registry; False if it took none."""
        from confine.identity import KEY, REQUEST

        if self.wanted.get("registry", "").startswith("http:"):
            self._say(FAIL, KEY, "your token would go to the registry without encryption: it was not sent",
                      "give an address of the registry that begins with https")  # fmt: skip
            return False
        try:
            base, why = self._identity().publish(token)
        except ConfineError as error:
            self._say(FAIL, KEY, str(error), "is the token that of a member who administers this node?")
            return False
        finally:
            if os.path.exists(self._probe):
                os.unlink(self._probe)
        self._say(OK, KEY, "the registry at {} has it".format(base))
        if why is None:
            self._say(OK, REQUEST, "the testbed signed the node's certificate")
        else:
            self._say(WARN, REQUEST, "not signed: " + why, "the node's own certificate is used")
        return True

    def shown(self, given: "dict[str, str]") -> bool:
        """Tell the node's keys, for the operator to enter. given: what a node that has not joined does not know."""
        from confine.identity import KEY, REQUEST

        self.wanted = joining.checked({"registry": "https://none.invalid/", **given})[0] if given else {}
        try:
            identity = self._identity()
        except ConfineError as error:
            self._say(FAIL, KEY, str(error), "give the node's id and the management prefix (--node, --mgmt)")
            return False
        self._say(OK, KEY, "\n" + identity.pubkey)
        if identity.request is not None:
            self._say(OK, REQUEST, "\n" + identity.request)
        return True

    def _identity(self) -> "Identity":
        from confine.identity import Identity

        return Identity(self._paths, self._settings())

    def _settings(self) -> "Settings":
        """Those of the node as it would be; with nothing given, as it is."""
        if not self.wanted:
            return read_settings(self._paths)[0]
        from confine.core.settings import Settings

        certificate = self._written(self._probe) if self._pem else None
        return Settings(node_id=self.wanted.get("node"), registry_uris=[self.wanted["registry"]],
                        registry_cert=certificate, plain_http=self.wanted["registry"].startswith("http:"),
                        mgmt_ipv6_prefix48=self.wanted.get("mgmt"))  # fmt: skip

    def _say(self, state: str, what: str, said: str, todo: str = "") -> None:
        self.findings.append(Finding(state, what, said, todo))

    def _words(self, given: "dict[str, str]") -> None:
        self.wanted, wrong = joining.checked(given)
        for member, said in wrong[:-1]:
            self._say(FAIL, member, said, "correct it")
        if wrong:
            raise Refused(wrong[-1][0], wrong[-1][1], "correct it")
        self._say(OK, "what you gave", "node {} at {}".format(node_hex(self.wanted["node"]), self.wanted["registry"]))

    def _name(self) -> "tuple[str, int]":
        where = uris.place(self.wanted["registry"])
        try:
            socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise Refused("name", "{} is not known here: {}".format(where.host, error.strerror or error),
                          "is the name right, and is this device connected to the Internet?")  # fmt: skip
        self._say(OK, "name", where.host + " is known")
        return where.host, where.port

    def _clock(self) -> None:
        today = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        if time.time() < A_CLOCK:
            self._say(WARN, "time", "this device thinks it is {} UTC".format(today),
                      "it sets itself once it reaches a time server")  # fmt: skip
        else:
            self._say(OK, "time", today + " UTC")

    def _reach(self, host: str, port: int) -> None:
        try:
            socket.create_connection((host, port), CONNECT_S).close()
        except OSError as error:
            raise Refused("registry", "{} port {} does not answer: {}".format(host, port, error.strerror or error),
                          "is the address right? Is a firewall in between?")  # fmt: skip
        self._say(OK, "registry", "it answers")

    def _certificate(self, host: str, port: int) -> None:
        der = _shown_certificate(host, port)
        found, pin = hashlib.sha256(der).hexdigest(), self.wanted.get("pin")
        if pin is None:
            self._by_authorities(host, port, found)
        elif pin != found:
            raise Refused("certificate", "its fingerprint is {}, not {} as given".format(found, pin),
                          "ask the testbed's operator: somebody else may be answering")  # fmt: skip
        else:
            self._pem = ssl.DER_cert_to_PEM_cert(der)
            self._say(OK, "certificate", "it is the one you were given")

    def _by_authorities(self, host: str, port: int, found: str) -> None:
        """Without a pin only a certificate that the system's authorities vouch for will do."""
        try:
            trusted = Trust(None).wrap(
                socket.create_connection((host, port), CONNECT_S), host, time.monotonic() + CONNECT_S
            )
        except (RegistryError, OSError) as error:
            raise Refused("certificate", "nobody this device knows vouches for it ({})".format(error),
                          "compare its fingerprint with the operator's, and give it as pin: " + found)  # fmt: skip
        if trusted is not None:
            trusted.close()
        self._say(OK, "certificate", "a known authority vouches for it")

    def _node(self) -> None:
        """The registry knows this node. Read as the daemon will: over TLS that is verified."""
        from confine.registry.sources import HttpSource

        base = self.wanted["registry"]
        kept = self._written(self._probe) if self._pem else None
        transport = Transport(kept, {uris.origin(base)}, base.startswith("http:"))
        uri = "{}nodes/{}".format(base, self.wanted["node"])
        try:
            answer = HttpSource(base, transport, lambda origin: False).read(
                uri, "node", None, time.monotonic() + READ_S
            )
        except RegistryError as error:
            raise Refused(
                "node", "the registry cannot be read: {}".format(error), "is this the registry's API address?"
            )
        finally:
            if kept:
                os.unlink(kept)
        if answer.gone or not isinstance(answer.value, dict):
            raise Refused("node", "the registry knows no node {}".format(node_hex(self.wanted["node"])),
                          "register the node there first, then give the id it got")  # fmt: skip
        self._say(OK, "node", "the registry knows it as {}".format(answer.value.get("name") or "a node without a name"))

    def _kept_certificate(self) -> "str | None":
        if self._pem is None:
            return None
        digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(self._pem)).hexdigest()
        return self._written(os.path.join(self._certificates, "registry-" + digest[:16] + ".crt"))

    def _written(self, path: str) -> str:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_atomic(path, (self._pem or "").encode(), 0o644)
        return path


def _shown_certificate(host: str, port: int) -> bytes:
    """What the server shows of itself: only to be compared, nothing is sent to it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), CONNECT_S) as sock,
            context.wrap_socket(sock, server_hostname=host) as wrapped,
        ):
            return wrapped.getpeercert(binary_form=True) or b""
    except OSError as error:
        raise Refused("certificate", "{} shows none: {}".format(host, error), "is this the registry's address?")


def run(args: "dict[str, Any]", run_dir: str) -> int:
    """Exit status: 0 joined (or could, with --check; or the keys were given or shown), 1 not."""
    from confine import cli, tables

    tried = Joining(Paths(run=run_dir))
    good = _tried(tried, args)
    doc = [finding.as_doc() for finding in tried.findings]
    sys.stdout.write(cli.as_json(doc) if args["json"] else tables.check(doc, sys.stdout.isatty()))
    return 0 if good else 1


def _tried(tried: Joining, args: "dict[str, Any]") -> bool:
    given = {name: args[name] for name in joining.FIELDS if args[name]}
    try:
        given = {**joining.parse_token(args["token"]), **given} if args["token"] else given
    except ValueError as error:
        tried.findings.append(Finding(FAIL, "token", str(error), "paste it again"))
        return False
    if args["show"]:
        return tried.shown(given)
    if given or not args["publish"]:
        if not tried.look(given):
            return False
        if args["check"]:
            return True
    if args["publish"]:
        from confine.cli_overlay import read_token

        if not tried.publish(read_token()):
            return False
    if tried.wanted:
        tried.keep()
    told = subprocess.run(RELOAD, capture_output=True, check=False).returncode == 0
    if not told:
        tried.findings.append(Finding(WARN, "daemon", "it was not told", "/etc/init.d/confine restart"))
    return True

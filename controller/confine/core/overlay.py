"""The node's tinc overlay: what its files should say, and which steps lead there. Pure.

The files below /etc/tinc/confine/ are the truth between boots: with those of an image generator a node finds its
registry at its first start. What the registry says replaces the files of those it names; all else is left.

    nobody asks for an overlay, no files        nothing is done
    no usable key of its own                    overlay key
    a file does not say what it should          overlay configure
    tincd does not run, or must begin anew      overlay start
    it runs with other files than there are     overlay reload
    no peer is reached with changed files       overlay undo (overlay_change.py), else overlay confirm

A failing step of the overlay holds nothing else back: slivers run on without it.
"""

import binascii
import hashlib

from confine.core import addressing, rsa
from confine.core import overlay_change as changes
from confine.core import overlay_files as files
from confine.core.model import Problem, Step
from confine.core.overlay_documents import BACKEND_TINC, is_name
from confine.core.record import Record
from confine.core.text import is_decimal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.overlay_change import OverlayChange
    from confine.core.overlay_documents import OverlayTarget
    from confine.core.settings import Settings

OVERLAY = "overlay"  # the subject of its steps
NODE_PREFIX = "node_"
UNDONE_TEXT = (
    "a change that the registry asks for was undone: with it no peer could be reached. See to the servers' keys and "
    "addresses there; it is tried again in some hours."
)
DOWN_S = 60.0  # so long a peer may be away before it is a problem


class PeerSeen(Record):
    """What tincd said of a peer last: reachable, since when (wall clock seconds), at which address."""

    FIELDS = ("up", "since", "address")

    def __init__(self, up: bool, since: float, address: str) -> None:
        self.up = up
        self.since = since
        self.address = address


class OverlayFound(Record):
    """What is there of the overlay.

    conf, up: texts of tinc.conf and tinc-up, None if absent. hosts: {name: text}. key: public numbers of the node's own
    private key; None: there is none that can be used. pid: of the tincd that runs. loaded: what it was started and
    last reloaded with (`fingerprints`), or None. interface: its network interface is as it should be. peers: {name:
    PeerSeen}. refused: {name: what its addresses said when they were tried}. program: tincd is installed. seen: the
    directory where what was seen of peers lies. change: one that is not confirmed, or was undone; age: seconds since
    it was first seen so.
    """

    FIELDS = ("conf", "up", "hosts", "key", "pid", "loaded", "interface", "peers", "refused", "program", "seen",
              "change")  # fmt: skip

    def __init__(
        self,
        conf: "str | None" = None,
        up: "str | None" = None,
        hosts: "dict[str, str] | None" = None,
        key: "rsa.Numbers | None" = None,
        pid: "int | None" = None,
        loaded: "tuple[str, str] | None" = None,
        interface: bool = False,
        peers: "dict[str, PeerSeen] | None" = None,
        refused: "dict[str, str] | None" = None,
        program: bool = True,
        seen: str = "/run/confine/overlay",
        change: "OverlayChange | None" = None,
        age: float = 0.0,
    ) -> None:
        self.conf = conf
        self.up = up
        self.hosts = hosts or {}
        self.key = key
        self.pid = pid
        self.loaded = loaded
        self.interface = interface
        self.peers = peers or {}
        self.refused = refused or {}
        self.program = program
        self.seen = seen
        self.change = change
        self.age = age


class OverlayWish(Record):
    """What the overlay should be. name, address: the node's, in tinc and in the management network. files: {path below
    /etc/tinc/confine: content, None to remove it} of those that do not say what they should. connect: the peers
    that the node connects to. watched: peers whose coming and going is wanted to be known."""

    FIELDS = ("name", "address", "files", "connect", "watched")

    def __init__(
        self, name: str, address: str, files: "dict[str, str | None]", connect: "list[str]", watched: "list[str]"
    ) -> None:
        self.name = name
        self.address = address
        self.files = files
        self.connect = connect
        self.watched = watched

    def digest(self) -> str:
        """A short text that stands for what is to be changed."""
        return _digest([path + "\n" + str(self.files[path]) for path in sorted(self.files)])


def asked(target: "OverlayTarget | None", found: OverlayFound, settings: "Settings") -> "bool | None":
    """Is there to be an overlay? None: nobody says, so what there is stays as it is."""
    if settings.overlay is not None:
        return settings.overlay
    if target is not None and target.backend is not None:
        return target.backend == BACKEND_TINC
    if target is not None and target.name is not None:
        return True
    return True if found.conf is not None else None


def own_name(target: "OverlayTarget | None", found: OverlayFound, node_id: int) -> str:
    """The registry's name for the node; else the one it has, unless that is made of another node's id."""
    if target is not None and target.name is not None:
        return target.name
    usual = NODE_PREFIX + str(node_id)
    had = files.value_of(files.options(found.conf or ""), "name")
    if had is not None and is_name(had) and not had.startswith(NODE_PREFIX):
        return had
    return usual


def wish(target: "OverlayTarget | None", found: OverlayFound, settings: "Settings") -> OverlayWish:
    """What the overlay should be. ValueError says what is missing to know that."""
    prefix = settings.mgmt_ipv6_prefix48 or (target.prefix if target is not None else None)
    if settings.node_id is None:
        raise ValueError("The node's id is not set (node.id): there is no overlay.")
    if prefix is None:
        raise ValueError("The management prefix is not set (testbed.mgmt_ipv6_prefix48): there is no overlay.")
    name = own_name(target, found, settings.node_id)
    address = addressing.node_management_ipv6(prefix, settings.node_id)
    peers = target.peers if target is not None else []
    wanted: "dict[str, str | None]" = {}
    for peer in peers:
        if peer.name != name:
            _put_host(wanted, found, peer.name, files.of_peer(peer))
    _put_own(wanted, found, name, address, target, settings)
    kept = {peer.name for peer in peers} | {name}
    for other in sorted(found.hosts):
        if other not in kept and files.is_ours(found.hosts[other]) and (peers or other.startswith(NODE_PREFIX)):
            wanted["hosts/" + other] = None
    connect = _connect(target, found, settings, name, wanted)
    conf = files.conf(found.conf, name, connect)
    if not files.same_conf(found.conf, conf):
        wanted["tinc.conf"] = conf
    up = files.up(address, found.seen)
    if found.up != up:
        wanted["tinc-up"] = up
    watched = connect + [peer.name for peer in peers if peer.name not in connect and peer.name != name]
    return OverlayWish(name, address, wanted, connect, watched)


def _put_host(wanted: "dict[str, str | None]", found: OverlayFound, name: str, text: str) -> None:
    if not files.same_host(found.hosts.get(name), text):
        wanted["hosts/" + name] = text


def _put_own(
    wanted: "dict[str, str | None]", found: OverlayFound, name: str, address: str, target: "OverlayTarget | None",
    settings: "Settings",
) -> None:  # fmt: skip
    """The node's own file. One with the right key and subnet is left as it was given."""
    if found.key is None:
        return
    groups = addressing.parse_ipv6(address)[:4]
    groups.extend([0, 0, 0, 0])
    subnet = addressing.format_ipv6(groups) + "/64"
    port = settings.overlay_port
    before = found.hosts.get(name, "")
    had = files.options(before)
    right = files.value_of(had, "subnet") == subnet and files.key_of(before) == found.key and files.is_whole(before)
    if right and (port is None or files.value_of(had, "port") == str(port)):
        return
    addresses = target.addresses if target is not None else []
    wanted["hosts/" + name] = files.host(addresses, subnet, rsa.public_pem(found.key), own_port(found, settings))


def own_port(found: OverlayFound, settings: "Settings") -> "int | None":
    """Where tincd listens, TCP and UDP: by the settings, else by what an image generator or a person wrote into its
    files. None: nobody says, it is the usual one."""
    if settings.overlay_port is not None:
        return settings.overlay_port
    conf = files.options(found.conf or "")
    own = found.hosts.get(files.value_of(conf, "name") or "", "")
    said = files.value_of(files.options(own), "port") or files.value_of(conf, "port") or ""
    return int(said) if is_decimal(said) and len(said) < 6 and 1 <= int(said) <= 65535 else None


def _connect(
    target: "OverlayTarget | None", found: OverlayFound, settings: "Settings", name: str,
    wanted: "dict[str, str | None]",
) -> "list[str]":  # fmt: skip
    """Whom to connect to: the gateway of the settings, the registry's servers, and those given by hand before."""
    names = [settings.tinc_gateway] if settings.tinc_gateway is not None else []
    known = {peer.name for peer in target.peers} if target is not None else set()
    if target is not None:
        names += [peer.name for peer in target.peers if peer.connect]
    for given in files.values_of(files.options(found.conf or ""), "connectto"):
        if given not in known and is_name(given):
            names.append(given)
    there = {path[len("hosts/") :] for path, text in wanted.items() if path.startswith("hosts/") and text is not None}
    there.update(host for host in found.hosts if wanted.get("hosts/" + host, "") is not None)
    chosen: "list[str]" = []
    for one in names:
        if one in there and one != name and one not in chosen:
            chosen.append(one)
    return chosen


def fingerprints(found: OverlayFound) -> "tuple[str, str]":
    """What tincd takes up only by a restart, and all that it takes up: two short texts that change with the files."""
    conf = files.options(found.conf or "")
    name = files.value_of(conf, "name") or ""
    begin = [pair for pair in conf if pair[0] != "connectto"]
    first = [repr(begin), repr(files.options(found.hosts.get(name, ""))), found.up or "", repr(found.key)]
    second = [repr(conf)] + [other + "\n" + found.hosts[other] for other in sorted(found.hosts)]
    return _digest(first), _digest(second)


def _digest(parts: "list[str]") -> str:
    return binascii.hexlify(hashlib.sha256("\0".join(parts).encode()).digest()).decode()[:16]


def plan(
    target: "OverlayTarget | None", found: OverlayFound, settings: "Settings", now: float
) -> "tuple[list[Step], list[Problem]]":
    """The steps from what is found to what is asked for, and what is wrong; both empty where all is well. now: wall
    clock seconds."""
    wanted = asked(target, found, settings)
    if not wanted:
        steps = [] if found.pid is None or wanted is None else [_step("stop", "No overlay is asked for.", target)]
        return steps, []
    problems = list(target.problems) if target is not None else []
    if not found.program:
        problems.append(Problem("", "Overlay: tincd is not on this node: install tinc."))
        return [], problems
    try:
        wished = wish(target, found, settings)
    except ValueError as error:
        problems.append(Problem("", str(error)))
        return [], problems
    if published(target, found) is False:
        has = "has no key" if target is not None and target.key is None else "has another key"
        message = "The registry " + has + " of this node: `confine overlay` says what to do."
        problems.append(Problem("/tinc/pubkey", message))
    if undone(found, wished):
        wished.files = {}
        problems.append(Problem("", "Overlay: " + UNDONE_TEXT))
    return _steps(target, found, wished), problems + _away(found, wished.connect, now)


def undone(found: OverlayFound, wished: OverlayWish) -> bool:
    """Whether just this change was tried and undone, not long ago."""
    change = found.change
    if change is None or change.state != changes.UNDONE or not wished.files:
        return False
    return change.wish == wished.digest() and found.age < changes.RETRY_S


def _steps(target: "OverlayTarget | None", found: OverlayFound, wished: OverlayWish) -> "list[Step]":
    steps = []
    if found.change is not None and found.change.state == changes.PENDING:
        if changes.is_connected(found, wished.connect):
            steps.append(_step("confirm", "A peer is reached with the changed files.", target))
        elif found.age > changes.UNDO_S:
            return [_step("undo", "No peer is reached with the changed files.", target)]
    if found.key is None:
        steps.append(_step("key", "The node has no usable key of its own.", target))
    if wished.files or found.key is None:
        which = ", ".join(sorted(wished.files)) or "the node's own file"
        steps.append(_step("configure", "Not as they should be: " + which + ".", target))
    if found.pid is None:
        steps.append(_step("start", "tincd does not run.", target))
    elif wished.files or found.key is None or found.loaded != fingerprints(found):
        if found.loaded is not None and found.loaded[0] == fingerprints(found)[0] and _only_peers(wished, found):
            steps.append(_step("reload", "Peers have changed.", target))
        elif found.loaded is None and not wished.files and found.key is not None:
            steps.append(_step("reload", "It is not known what tincd was started with.", target))
        else:
            steps.append(_step("start", "The node's own name, key or address has changed.", target))
    elif not found.interface:
        steps.append(_step("start", "The overlay's interface is not as it should be.", target))
    return steps


def _only_peers(wished: OverlayWish, found: OverlayFound) -> bool:
    """Whether the files to be changed are such as tincd takes up by a reload."""
    if found.key is None or "tinc-up" in wished.files or "hosts/" + wished.name in wished.files:
        return False
    return files.value_of(files.options(found.conf or ""), "name") == wished.name


def _step(verb: str, why: str, target: "OverlayTarget | None") -> Step:
    return Step(OVERLAY, verb, OVERLAY, why, target=target)


def _away(found: OverlayFound, connect: "list[str]", now: float) -> "list[Problem]":
    """Peers the node should be connected to and is not, each by name. now: wall clock seconds."""
    problems = []
    for name in connect:
        seen = found.peers.get(name)
        if found.pid is None or (seen is not None and (seen.up or now - seen.since < DOWN_S)):
            continue
        said = found.refused.get(name)
        if seen is None and said is None:
            continue  # it has only just been started
        problems.append(Problem("", "Overlay: " + name + " cannot be reached" + (": " + said if said else "") + "."))
    return problems


def published(target: "OverlayTarget | None", found: OverlayFound) -> "bool | None":
    """Whether the registry has the node's key; None if that is not known."""
    if target is None or found.key is None:
        return None
    try:
        return target.key is not None and rsa.numbers(target.key) == found.key
    except ValueError:
        return False


def report(target: "OverlayTarget | None", found: OverlayFound, settings: "Settings", now: float) -> "dict[str, Any]":
    """The overlay's status as it is shown. Times are wall clock seconds; last_seen is now for what is reachable."""
    try:
        wished = wish(target, found, settings)  # type: OverlayWish | None
    except ValueError:
        wished = None
    key = rsa.public_pem(found.key) if found.key is not None else None
    listed = []
    for name in wished.watched if wished is not None else []:
        seen = found.peers.get(name)
        up = seen is not None and seen.up and found.pid is not None
        options = files.options(found.hosts.get(name, ""))
        listed.append(
            {
                "name": name,
                "connect": wished is not None and name in wished.connect,
                "reachable": up,
                "since": seen.since if seen is not None else None,
                "last_seen": now if up else (seen.since if seen is not None else None),
                "addresses": files.values_of(options, "address"),
                "at": seen.address if seen is not None and up else None,
                "said": None if up else found.refused.get(name),
            }
        )
    return {
        "asked": bool(asked(target, found, settings)),
        "running": found.pid is not None,
        "interface": found.interface,
        "name": wished.name if wished is not None else None,
        "address": wished.address if wished is not None else None,
        "pubkey": key,
        "published": published(target, found),
        "peers": listed,
    }

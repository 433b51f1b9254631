"""The node's own nftables tables: what slivers may reach, and the translation of their private addresses.

Put up as a whole in one transaction, which either holds or changes nothing. Whether they still stand is known without
a process: the kernel counts changes of its rules (generation), and only when the count has changed is the listing
compared with the one read after they were put up.

What people stopped is cut off by a table of its own, confine_stop, to which only rules are added here: `confine stop`
adds to it too, daemon or no daemon, and only `confine release` takes rules away.

Base chains end with "accept", so that whatever else filters on this node (OpenWrt's fw4, say) has its own say.
"""

import hashlib
import os
import socket
import struct
import subprocess

from confine.api import firewall as api_firewall
from confine.core import addressing
from confine.drivers.links import BRIDGE
from confine.errors import StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from confine.core.model import Step
    from confine.core.settings import Settings

FAMILIES = ("inet", "bridge")
TABLE = "confine"
STOP_TABLE = "confine_stop"
STOP_CHAINS = ("from_sliver", "to_sliver")
STOP_FILE = "stop.nft"
NFT_S = 30

# nfnetlink, nf_tables (linux/netfilter/nfnetlink.h, nf_tables.h)
NETLINK_NETFILTER = 12
NFT_MSG_NEWGEN = 10 << 8 | 15
NFT_MSG_GETGEN = 10 << 8 | 16
NLM_F_REQUEST = 1
NFTA_GEN_ID = 1
HEADER = "=IHHII"  # length, type, flags, sequence, port
ANSWER_S = 2.0


def render(settings: "Settings") -> str:
    """The text for `nft -f -`: both tables, replacing older ones of the same names."""
    parts = [f"table {family} {TABLE}\ndelete table {family} {TABLE}\n" for family in FAMILIES]
    return "".join(parts) + _inet(settings) + _bridge(settings) + api_firewall.render(settings)


def _inet(settings: "Settings") -> str:
    prefix24 = settings.priv_ipv4_prefix24
    ipv4 = f"{prefix24}.0/{addressing.PRIVATE_IPV4_BITS}"
    ipv6 = f"{settings.priv_ipv6_prefix48}::/{addressing.PRIVATE_IPV6_BITS}"
    management = ""
    if settings.mgmt_ipv6_prefix48:
        # Translated, a sliver would come there with the node's own address, which the testbed trusts.
        management = f"\t\tip6 daddr {settings.mgmt_ipv6_prefix48}::/48 drop\n"
    return INET % {"bridge": BRIDGE, "ipv4": ipv4, "ipv6": ipv6, "management": management}


# Slivers reach outward, not each other, not the management network, and of the node itself only names (DNS) and
# what IP needs (ICMP). Nothing reaches them from outside but answers.
INET = """\
table inet confine {
	chain forward {
		type filter hook forward priority filter - 1; policy accept;
		iifname "%(bridge)s" jump from_slivers
		oifname "%(bridge)s" ct state established,related accept
		oifname "%(bridge)s" drop
	}
	chain from_slivers {
		oifname "%(bridge)s" drop
		ip saddr != %(ipv4)s drop
		ip6 saddr != %(ipv6)s drop
%(management)s\t}
	chain input {
		type filter hook input priority filter - 1; policy accept;
		iifname "%(bridge)s" jump to_node
	}
	chain to_node {
		ct state established,related accept
		icmpv6 type { nd-router-advert, nd-redirect } drop
		meta l4proto { icmp, ipv6-icmp } accept
		meta l4proto { tcp, udp } th dport 53 accept
		drop
	}
	chain translate {
		type nat hook postrouting priority srcnat; policy accept;
		oifname != "%(bridge)s" ip saddr %(ipv4)s masquerade
		oifname != "%(bridge)s" ip6 saddr %(ipv6)s masquerade
	}
}
"""


def _bridge(settings: "Settings") -> str:
    """What a port may send: its own addresses, which follow from its name. One table for all slivers there may be."""
    if settings.node_id is None:
        return ""  # no sliver has an address before the node has
    numbers = range(addressing.MIN_SLIVER_NR, addressing.MAX_SLIVER_NR + 1)
    macs, addresses = [], []
    for nr in numbers:
        port = addressing.veth(nr, 0)
        macs.append(f"\t\t\t{port} . {addressing.mac(settings.mac_prefix16, settings.node_id, nr, 0)}")
        addresses.append(f"\t\t\t{port} . {addressing.sliver_private_ipv4(settings.priv_ipv4_prefix24, nr)}")
    return BRIDGE_TABLE % {"bridge": BRIDGE, "macs": ",\n".join(macs), "addresses": ",\n".join(addresses)}


BRIDGE_TABLE = """\
table bridge confine {
	set macs {
		typeof iifname . ether saddr
		elements = {
%(macs)s
		}
	}
	set addresses {
		typeof iifname . ip saddr
		elements = {
%(addresses)s
		}
	}
	chain forward {
		type filter hook forward priority filter; policy accept;
		meta obrname "%(bridge)s" drop
	}
	chain input {
		type filter hook prerouting priority filter; policy accept;
		meta ibrname "%(bridge)s" jump from_port
	}
	chain from_port {
		iifname . ether saddr != @macs drop
		ether type ip iifname . ip saddr != @addresses drop
		ether type arp iifname . arp saddr ip != @addresses drop
		ether type != { ip, ip6, arp } drop
	}
}
"""


class Firewall:
    """Step `firewall install`, and the observation whether it is needed.

    share: directory of the package's files. cut(): patterns of the interfaces that must be silent.
    """

    def __init__(self, settings: "Settings", share: str = "", cut: "Callable[[], list[str]]" = list) -> None:
        self._settings = settings
        self._share = share
        self._cut = cut
        self._silent: list[str] = []  # patterns found cut off when last compared
        self._generation: int | None = None  # of the rules when last compared
        self._listing: bytes | None = None  # digest of our tables as listed after we put them up
        self._good = False

    def install(self, step: "Step") -> None:
        """Put our tables up, in one transaction. StepError with nft's words; then the rules are as they were."""
        silent = self._cut()
        standing = standing_cuts()
        parts = [cut_text(self._share, pattern) for pattern in silent if pattern not in standing]
        _nft(["-f", "-"], (render(self._settings) + "".join(parts)).encode())
        self._listing = self._list()
        self._silent = silent
        self._generation, self._good = generation(), self._listing is not None

    def ok(self) -> bool:
        """Whether our tables stand as we put them up. False until this object has put them up itself."""
        now = generation()
        if now is None or self._listing is None:
            return False
        silent = self._cut()
        if now != self._generation or silent != self._silent:
            standing = standing_cuts() if silent else []
            self._generation, self._silent = now, silent
            self._good = all(pattern in standing for pattern in silent) and self._list() == self._listing
        return self._good

    def _list(self) -> "bytes | None":
        """Digest of our tables as the kernel has them; None if one is not there."""
        digest = hashlib.sha256()
        for family in FAMILIES:
            if family == "bridge" and self._settings.node_id is None:
                continue
            try:
                digest.update(_nft(["list", "table", family, TABLE], b""))
            except StepError:
                return None
        if api_firewall.management_address(self._settings) is not None and self._settings.api_enabled:
            try:
                digest.update(_nft(["list", "table", "inet", api_firewall.TABLE], b""))
            except StepError:
                return None
        return digest.digest()


def cut(share: str, patterns: "list[str]") -> None:
    """Cut interfaces off whose names fit `patterns`, on top of those that are, in one transaction. StepError if nft
    cannot."""
    _nft(["-f", "-"], "".join(cut_text(share, pattern) for pattern in patterns).encode())


def only_cut(share: str, patterns: "list[str]") -> None:
    """As `cut`, and all other interfaces are let go, in the same transaction."""
    emptied = "add table bridge {0}\ndelete table bridge {0}\n".format(STOP_TABLE)
    _nft(["-f", "-"], (emptied + "".join(cut_text(share, pattern) for pattern in patterns)).encode())


def cut_text(share: str, pattern: str) -> str:
    """What nft has to do to cut off the interfaces that fit `pattern`."""
    try:
        with open(os.path.join(share, STOP_FILE), encoding="ascii") as file:
            return file.read().replace("$port", '"' + pattern + '"')
    except OSError as error:
        raise StepError(f"{error.filename} cannot be read ({error.strerror}): the package is not complete")


def standing_cuts() -> "list[str]":
    """The patterns whose interfaces are cut off both ways."""
    try:
        listing = _nft(["list", "table", "bridge", STOP_TABLE], b"").decode("utf-8", "replace")
    except StepError:
        return []
    return parse_cuts(listing)


def parse_cuts(listing: str) -> "list[str]":
    """The patterns that a listing of our table drops both ways."""
    found: dict[str, set[str]] = {"iifname": set(), "oifname": set()}
    for line in listing.splitlines():
        words = line.split()
        if len(words) == 3 and words[0] in found and words[2] == "drop":
            found[words[0]].add(words[1].strip('"'))
    return sorted(found["iifname"] & found["oifname"])


def generation() -> "int | None":
    """The kernel's count of changes to nftables; None if it has none. One netlink message, no process."""
    try:
        query = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    except OSError:
        return None
    with query:
        query.settimeout(ANSWER_S)
        body = struct.pack("=BBH", socket.AF_UNSPEC, 0, 0)
        try:
            query.sendto(struct.pack(HEADER, 16 + len(body), NFT_MSG_GETGEN, NLM_F_REQUEST, 1, 0) + body, (0, 0))
            return parse_generation(query.recv(8192))
        except OSError:
            return None


def parse_generation(answer: bytes) -> "int | None":
    """The generation in the kernel's answer to NFT_MSG_GETGEN; None if it is an error or something else."""
    if len(answer) < 20:
        return None
    length, kind = struct.unpack_from("=IH", answer)
    if kind != NFT_MSG_NEWGEN:
        return None
    position, end = 20, min(length, len(answer))  # after the netlink and nfnetlink headers: attributes
    while position + 4 <= end:
        size, attribute = struct.unpack_from("=HH", answer, position)
        if attribute & 0x3FFF == NFTA_GEN_ID and size >= 8 and position + 8 <= end:
            return int(struct.unpack_from(">I", answer, position + 4)[0])
        position += max(4, (size + 3) & ~3)
    return None


def _nft(arguments: "list[str]", text: bytes) -> bytes:
    """Run nft; gives its output. StepError with its words."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["nft", *arguments], input=text, capture_output=True, timeout=NFT_S, env=environment, check=False
        )
    except FileNotFoundError:
        raise StepError("there is no nft program on this node: install nftables")
    except subprocess.TimeoutExpired:
        raise StepError(f"nft {' '.join(arguments)} did not end within {NFT_S} s")
    if done.returncode != 0:
        said = " ".join(done.stderr.decode("utf-8", "replace").split())[:1000]
        raise StepError(f"nft {' '.join(arguments)} failed (status {done.returncode}): {said}")
    return done.stdout

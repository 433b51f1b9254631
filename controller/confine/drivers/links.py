"""The bridge that joins the slivers' private interfaces to the node, and the ports on it.

The bridge carries the node's own addresses X.Y.Z.126/25 and PRIV::1/64 (node API, addressing) and its management
address; the node forwards and translates from there (firewall.py). Every port is isolated: it exchanges frames with the
node only. Usually netifd makes it (network.py); where it did not, or somebody took it away, a single `ip -batch` puts
it right; slivers' ports are put back on it with their interfaces (interfaces.py). What is there is read from /sys,
/proc and one ioctl.
"""

import fcntl
import os
import socket
import struct
import subprocess

from confine.core import addressing, network
from confine.drivers import cgroups
from confine.errors import StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confine.core.model import Step
    from confine.core.settings import Settings

BRIDGE = network.INTERNAL
PORT_PREFIX = "slv-"
IP_S = 20

IFF_UP = 1
SIOCGIFADDR = 0x8915
SIOCGIFNETMASK = 0x891B
IFREQ = "16sH2x4s8x"  # struct ifreq with a sockaddr_in: name, family, address

# The bridge itself trusts nothing that slivers say about routes.
BRIDGE_SYSCTLS = (
    ("ipv4/conf/" + BRIDGE + "/rp_filter", "1"),
    ("ipv4/conf/" + BRIDGE + "/accept_redirects", "0"),
    ("ipv4/conf/" + BRIDGE + "/send_redirects", "0"),
    ("ipv6/conf/" + BRIDGE + "/accept_ra", "0"),
    ("ipv6/conf/" + BRIDGE + "/accept_redirects", "0"),
)
FORWARDING = (("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1"))
# What passes from port to port of a bridge is not the business of the rules for what is routed.
NOT_ROUTED = tuple(("bridge/bridge-nf-call-" + word, "0") for word in ("iptables", "ip6tables", "arptables"))


def isolate(port: str) -> None:
    """See to it that `port` is on the bridge and isolated there. StepError if it is not."""
    base = f"/sys/class/net/{port}/"
    try:
        master = os.path.basename(os.readlink(base + "master"))
    except OSError:
        master = "no bridge"
    if master != BRIDGE:
        raise StepError(f"interface {port} is on {master}, not on {BRIDGE}")
    if cgroups.read(base + "brport/isolated") != "1":
        cgroups.write(base + "brport/isolated", "1")
    if cgroups.read(base + "brport/isolated") != "1":
        raise StepError(f"port {port} of {BRIDGE} is not isolated: its sliver would see others")


def delete(interface: str) -> None:
    """Remove a sliver's interface that was left behind."""
    _ip(["link delete dev " + interface])


def has_ipv6() -> bool:
    """Whether the kernel has IPv6 at all."""
    return os.path.exists("/proc/net/if_inet6")


def ipv4_of(interface: str) -> "tuple[str, str] | None":
    """(address, netmask) that comes first on `interface`; None if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as query:
        try:
            found = [
                fcntl.ioctl(query, request, struct.pack(IFREQ, interface.encode(), socket.AF_INET, b""))
                for request in (SIOCGIFADDR, SIOCGIFNETMASK)
            ]
        except OSError:
            return None
    address, netmask = (socket.inet_ntoa(struct.unpack(IFREQ, answer)[2]) for answer in found)
    return address, netmask


def ipv6_of(interface: str, text: "str | None") -> "list[tuple[str, int]]":
    """(address, prefix length) of those of `interface` in `text`, /proc/net/if_inet6, link-local ones apart."""
    addresses = []
    for line in (text or "").splitlines():
        words = line.split()
        if len(words) == 6 and words[5] == interface and words[3] != "20":
            groups = [int(words[0][i : i + 4], 16) for i in range(0, 32, 4)]
            addresses.append((addressing.format_ipv6(groups), int(words[2], 16)))
    return addresses


class Links:
    """Step `links bridge`, and the observation whether it is needed."""

    def __init__(self, settings: "Settings") -> None:
        self._ipv4 = addressing.gateway_ipv4(settings.priv_ipv4_prefix24)
        management = network.management_address(settings)
        ipv6 = [address for address in network.internal_addresses(settings) if ":" in address]
        self._ipv6 = [*ipv6, management] if management else ipv6
        self._mac = network.internal_mac(settings)

    def bridge_ok(self) -> bool:
        """Whether the bridge, its addresses, ports and the forwarding are as they should be. Starts no process."""
        return not (self._wrong_link() or self._wrong_sysctls() or self._open_ports())

    def bridge(self, step: "Step") -> None:
        """Make the bridge, or put right what is wrong with it. StepError names what stays wrong."""
        batch = self._wrong_link()
        if batch:
            _ip(batch)
        for path, value in self._wrong_sysctls():
            cgroups.write("/proc/sys/net/" + path, value)
        for port in self._open_ports():
            cgroups.write(f"/sys/class/net/{port}/brport/isolated", "1")
        wrong = [*self._wrong_link(), *("=".join(pair) for pair in self._wrong_sysctls()), *self._open_ports()]
        if wrong:
            raise StepError(f"bridge {BRIDGE} is not as it should be, still wanted: {'; '.join(wrong)}")

    def _wrong_link(self) -> "list[str]":
        """Commands for `ip -batch` that bring the bridge to what it should be; none if it is that."""
        base = "/sys/class/net/" + BRIDGE
        if not os.path.exists(base):
            return [f"link add name {BRIDGE} address {self._mac} type bridge stp_state 0", *self._set_up()]
        if not os.path.isdir(base + "/bridge"):
            raise StepError(f"interface {BRIDGE} is there but no bridge: rename or remove it")
        batch = []
        if cgroups.read(base + "/address") != self._mac:
            batch.append(f"link set dev {BRIDGE} address {self._mac}")
        if not self._addresses_right():
            batch.append(f"addr flush dev {BRIDGE} scope global")
        if batch or not int(cgroups.read(base + "/flags") or "0", 16) & IFF_UP:
            batch += self._set_up()
        return batch

    def _set_up(self) -> "list[str]":
        batch = [
            f"link set dev {BRIDGE} up",
            f"addr replace {self._ipv4}/{addressing.PRIVATE_IPV4_BITS} dev {BRIDGE}",
        ]
        if has_ipv6():  # nodad: there is nobody to ask as long as there are no ports
            batch += [f"addr replace {address} dev {BRIDGE} nodad" for address in self._ipv6]
        return batch

    def _addresses_right(self) -> bool:
        if ipv4_of(BRIDGE) != (self._ipv4, "255.255.255.128"):
            return False
        expected = set(self._ipv6) if has_ipv6() else set()
        found = ipv6_of(BRIDGE, cgroups.read("/proc/net/if_inet6"))
        return {f"{address}/{bits}" for address, bits in found} == expected

    def _wrong_sysctls(self) -> "list[tuple[str, str]]":
        """(path below /proc/sys/net, value) of those to set, in that order; ones the kernel does not have left out.

        A forwarding node ignores router advertisements where accept_ra is 1: interfaces that obeyed them until now
        get 2, before forwarding is switched on, so that the node does not lose its own IPv6 route.
        """
        wrong = [(f"ipv6/conf/{name}/accept_ra", "2") for name in _interfaces_of_the_node() if _obeys_ra(name)]
        for path, value in (*BRIDGE_SYSCTLS, *FORWARDING, *NOT_ROUTED):
            if cgroups.read("/proc/sys/net/" + path) not in (value, None):
                wrong.append((path, value))
        return wrong

    def _open_ports(self) -> "list[str]":
        """Slivers' ports on the bridge that are not isolated."""
        try:
            ports = os.listdir(f"/sys/class/net/{BRIDGE}/brif")
        except OSError:
            return []
        base = "/sys/class/net/%s/brport/isolated"
        return [port for port in ports if port.startswith(PORT_PREFIX) and cgroups.read(base % port) == "0"]


def _interfaces_of_the_node() -> "list[str]":
    try:
        names = os.listdir("/sys/class/net")
    except OSError:
        return []
    return [name for name in names if name not in ("lo", BRIDGE) and not name.startswith(PORT_PREFIX)]


def _obeys_ra(interface: str) -> bool:
    return cgroups.read(f"/proc/sys/net/ipv6/conf/{interface}/accept_ra") == "1"


def _ip(commands: "list[str]") -> None:
    """Run `commands` in one `ip` process. StepError with its own words if one of them fails."""
    text = "\n".join(commands) + "\n"
    try:
        done = subprocess.run(
            ["ip", "-batch", "-"], input=text.encode(), capture_output=True, timeout=IP_S, check=False
        )
    except FileNotFoundError:
        raise StepError("there is no ip program on this node: install iproute2")
    except subprocess.TimeoutExpired:
        raise StepError(f"ip did not end within {IP_S} s; it was asked: {'; '.join(commands)}")
    if done.returncode != 0:
        said = " ".join(done.stderr.decode("utf-8", "replace").split())
        asked = "; ".join(commands)
        raise StepError(f"ip failed (status {done.returncode}; it must be iproute2's): {said}; it was asked: {asked}")

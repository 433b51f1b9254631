"""Makes and removes slivers' interfaces over netlink: a program of its own, which leaves when its work is done.

    python3 -P -s -m confine.drivers.wiring JOB [...]       JOB: a JSON file, or - for stdin; LXC gives it more words

It runs as LXC's hook `start-host`, before the init of a starting sliver, also when the sliver restarts itself (LXC_PID
says whose network namespace it is), and from the daemon for a sliver that runs. pyroute2 needs 12 MiB and a while to be
read in: only this process pays for it. A job is what `core.interfaces.job()` makes, and "pid":

    {"sliver": name, "nr": sliver number, "cgroup": path below /proc/PID/cgroup, "pid": PID or None,
     "wanted": [{all members of a SliverInterface, "mark": text}], "shape": as core.interfaces.shape() gives it}

"wanted" is all that the sliver is to have (and nothing else is left), or None: its interfaces are gone, and what
belongs to them is to go. The answer is {"failed": text or None, "errors": {port: text}}, in JOB.done or on stdout; the
exit status is 1 if `failed`.

An interface is either there as asked for or not at all: one that cannot be finished is removed again. Isolated
interfaces and shaping: see docs/developer/interfaces.md.
"""

import json
import os
import sys

from confine import durable
from confine.core.interfaces import ISOLATED, vlan_device
from confine.core.wiring import SHAPERS, shape_class
from confine.drivers import syscalls
from confine.drivers.shaping import NETWORK, ROOT_HANDLE, Refused, Shaping, index_of, read, set_sysctl, there, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Job = dict[str, Any]
    Wanted = dict[str, Any]

INGRESS, EGRESS = 0xFFFFFFF2, 0xFFFFFFF3  # of a clsact qdisc
CLONE_NEWNET = 0x40000000
NODAD = 0x02
AF_BRIDGE = 7
UP, PROMISCUOUS = 0x1, 0x100  # IFF_...


class Wiring:
    """One job. `host`: netlink in the node's namespace; `inside`: in the sliver's."""

    def __init__(self, job: "Job") -> None:
        from pyroute2.iproute.linux import IPRoute

        self.job = job
        self.host = IPRoute()
        self.inside: Any = None
        self._namespace = -1
        self.shaping = Shaping(self.host, int(job["nr"]), job["shape"])
        self.errors: dict[str, str] = {}

    # The whole

    def run(self, pid: "int | None") -> None:
        """Do the job. Refused: the sliver must not run like this."""
        wanted: "list[Wanted]" = self.job["wanted"] or []
        self._remove_others({interface["port"] for interface in wanted} | set(self.job.get("kept", [])))
        if self.job["wanted"] is None:
            self.shaping.remove()
            return
        self._enter(pid)
        bounded = [direction for direction, rates in self.job["shape"].items() if rates is not None]
        if bounded or any(index_of(name) is not None for name in SHAPERS.values()):
            self.shaping.apply()
        taken = self._taken(wanted)
        for interface in wanted:
            try:
                if interface["port"] in taken:
                    raise Refused(taken[interface["port"]])
                self._make(interface)
            except Exception as error:  # one interface's fault is not the others'
                self.errors[interface["port"]] = told(error)
                self._discard(interface)
                if bounded and interface["type"] == "private":  # it would run without its bounds
                    raise Refused(told(error))

    def _remove_others(self, kept: "set[str]") -> None:
        """Ports and VLAN devices of this sliver that are not wanted (any more)."""
        nr = int(self.job["nr"])
        vlans = {interface["vlan"] for interface in self.job["wanted"] or [] if interface["vlan"]}
        vlans |= {"iso-" + port[4:] for port in self.job.get("kept", [])}
        for name in os.listdir(NETWORK):
            port = name.startswith("slv-{:02x}-".format(nr)) and name not in kept
            if port or (name.startswith(vlan_device(nr, 0)[:7]) and name not in vlans):
                self._delete(name)

    def _enter(self, pid: "int | None") -> None:
        """Have `inside` speak in the network namespace of the sliver's init; this process stays there."""
        from pyroute2.iproute.linux import IPRoute

        if pid is None:
            raise Refused("nothing says which process is the sliver's")
        self._namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        if self.job["cgroup"] not in read(f"/proc/{pid}/cgroup"):
            raise Refused(f"process {pid} is not of sliver {self.job['sliver']} (any more)")
        if os.path.samestat(os.fstat(self._namespace), os.stat("/proc/self/ns/net")):
            raise Refused(f"process {pid} of sliver {self.job['sliver']} is in the node's own network")
        self._own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        syscalls.setns(self._namespace, CLONE_NEWNET)
        self.inside = IPRoute()
        syscalls.setns(self._own, CLONE_NEWNET)

    def _make(self, wanted: "Wanted") -> None:
        """One interface, unless it is there as asked for."""
        port, index = wanted["port"], index_of(wanted["port"])
        mark = read(f"{NETWORK}/{port}/ifalias")
        whole = index is not None and mark.split("/")[0] == wanted["mark"].split("/")[0] and self._vlan_right(wanted)
        if index is None or not whole:
            index = self._make_anew(wanted, index)
        else:
            self._attach(wanted, index)
        if mark != wanted["mark"] or not whole:
            self._connect(wanted, index)
        self.host.link("set", index=index, state="up")
        self.host.link("set", index=index, ifalias=wanted["mark"])  # last: it says that all is there

    def _make_anew(self, wanted: "Wanted", index: "int | None") -> int:
        """Both ends; the private one of a sliver that starts is there, made by LXC."""
        by_lxc = wanted["type"] == "private" and index is not None
        if index is None or not by_lxc:
            self._delete(wanted["port"])
            index = self._make_pair(wanted)
        self._attach(wanted, index)
        if wanted["type"] == ISOLATED:
            self._make_vlan(wanted)
        if not by_lxc or wanted["routes"][0][2] or wanted["routes"][1][2]:
            self._configure(wanted)
        return index

    def _discard(self, wanted: "Wanted") -> None:
        """Nothing half made stays. The private interface is LXC's."""
        for name in (wanted["port"], wanted["vlan"]):
            if name and wanted["type"] != "private" and index_of(name) is not None:
                self._delete(name)

    # Parts of an interface

    def _make_pair(self, wanted: "Wanted") -> int:
        """The veth pair: one end here, down, the other with name and address in the sliver."""
        mac, mtu = wanted["mac"], wanted["mtu"]
        if wanted["type"] == ISOLATED:
            parent = f"{NETWORK}/{wanted['parent']}"
            if not os.path.exists(parent):
                raise Refused(f"the direct interface {wanted['parent']} is not there")
            mac, mtu = read(parent + "/address"), min(mtu, int(read(parent + "/mtu")))
        elif wanted["bridge"] and not os.path.isdir(f"{NETWORK}/{wanted['bridge']}/bridge"):
            raise Refused(f"there is no bridge {wanted['bridge']}")
        if wanted["bridge"]:
            self._free(wanted["bridge"], wanted["port"], mac)
        peer = {"ifname": wanted["name"], "net_ns_fd": self._namespace, "address": mac, "mtu": mtu}
        # fe: keeps the bridge from taking over the address of a port
        self.host.link("add", ifname=wanted["port"], kind="veth", address="fe" + mac[2:], mtu=mtu, peer=peer)
        return there(wanted["port"])

    def _attach(self, wanted: "Wanted", index: int) -> None:
        """On its bridge, isolated there, without an address of the node's own on it."""
        set_sysctl(f"ipv6/conf/{wanted['port']}/disable_ipv6", "1")
        if not wanted["bridge"]:
            return
        bridge = there(wanted["bridge"])
        if os.path.realpath(f"{NETWORK}/{wanted['port']}/master") != os.path.realpath(f"{NETWORK}/{wanted['bridge']}"):
            self.host.link("set", index=index, master=bridge)
        path = f"{NETWORK}/{wanted['port']}/brport/isolated"
        write(path, "1")
        if read(path) != "1":
            raise Refused(f"port {wanted['port']} of {wanted['bridge']} is not isolated: its sliver would see others")

    def _configure(self, wanted: "Wanted") -> None:
        """Inside: addresses, routes, up. Neighbours of the local link are asked whether an address is theirs."""
        found = self.inside.link_lookup(ifname=wanted["name"])
        if not found:
            raise Refused(f"the sliver has no interface {wanted['name']}")
        syscalls.setns(self._namespace, CLONE_NEWNET)  # sysctl files are those of the namespace of who opens them
        try:
            base = f"ipv6/conf/{wanted['name']}/"
            set_sysctl(base + "accept_ra", "1" if wanted["router_adverts"] else "0")
            set_sysctl(base + "autoconf", "0")
        finally:
            syscalls.setns(self._own, CLONE_NEWNET)
        self.inside.link("set", index=found[0], state="up")
        for text in wanted["ipv4"] + wanted["ipv6"]:
            address, _, bits = text.partition("/")
            extra = {"flags": NODAD} if ":" in address else {}
            self.inside.addr("replace", index=found[0], address=address, prefixlen=int(bits), **extra)
        for destination, gateway, metric in wanted["routes"]:
            route: Any = {"dst": destination, "oif": found[0]}
            if metric:
                route["priority"] = metric
            if gateway is not None:
                route["gateway"] = gateway
            if destination == "0.0.0.0/0":
                route["dst"] = "default"
            self.inside.route("replace", family=10 if ":" in destination else 2, **route)

    # Isolated

    def _make_vlan(self, wanted: "Wanted") -> None:
        """A VLAN device over the direct interface, down."""
        parent = there(wanted["parent"])
        if not int(read(f"{NETWORK}/{wanted['parent']}/flags"), 16) & 1:
            raise Refused(f"the direct interface {wanted['parent']} is down")
        if index_of(wanted["vlan"]) is not None:
            self._delete(wanted["vlan"])
        try:
            self.host.link("add", ifname=wanted["vlan"], kind="vlan", link=parent, vlan_id=wanted["tag"])
        except Exception as error:
            holder = self._holder(parent, wanted["tag"])
            if holder is None:
                raise
            raise Refused(f"VLAN tag {wanted['tag']:#x} of {wanted['parent']} is taken: {holder} has it") from error
        vlan = there(wanted["vlan"])
        mtu = int(read(f"{NETWORK}/{wanted['port']}/mtu"))
        self.host.link("set", index=vlan, mtu=mtu, ifalias=self.job["sliver"])
        set_sysctl(f"ipv6/conf/{wanted['vlan']}/disable_ipv6", "1")

    def _connect(self, wanted: "Wanted", port: int) -> None:
        """The way of the frames: through the shapers, and for an isolated interface to and from its VLAN device."""
        if wanted["type"] != ISOLATED:
            self._filters(port, port)
            return
        vlan = there(wanted["vlan"])
        self._filters(port, vlan)
        # What comes in at one end goes out at the other before the node's own stack sees it.
        self._redirect(port, INGRESS, vlan, None)
        self._redirect(vlan, INGRESS, port, None)
        # Multicast groups that the sliver joins, and other addresses than the parent's, belong to the slice as well.
        self.host.link("set", index=vlan, flags=UP | PROMISCUOUS, change=UP | PROMISCUOUS)

    def _holder(self, parent: int, tag: int) -> "str | None":
        for link in self.host.get_links(kind="vlan"):
            info = link.get_attr("IFLA_LINKINFO")
            data = info.get_attr("IFLA_INFO_DATA") if info else None
            if link.get_attr("IFLA_LINK") == parent and data and data.get_attr("IFLA_VLAN_ID") == tag:
                return str(link.get_attr("IFLA_IFNAME"))
        return None

    def _vlan_right(self, wanted: "Wanted") -> bool:
        """Whether the VLAN device of an isolated interface is there, on its parent and with its tag."""
        if wanted["type"] != ISOLATED:
            return True
        lines = read("/proc/net/vlan/" + wanted["vlan"]).split()
        parent = f"Device: {wanted['parent']}"
        return f"VID: {wanted['tag']}" in " ".join(lines) and parent in " ".join(lines)

    # Shaping

    def _filters(self, port: int, upstream: int) -> None:
        """Through the shapers: what the sliver gets, at its port; what it sends, where it comes in (a port on a bridge)
        or goes out (a VLAN device)."""
        shape = self.job["shape"]
        isolated = upstream != port
        for index in {port, upstream}:
            if any(q.get_attr("TCA_KIND") == "clsact" for q in self.host.get_qdiscs(index=index)):
                self.host.tc("del", "clsact", index)
            if isolated or any(shape.values()):
                self.host.tc("add", "clsact", index)
        minor = ROOT_HANDLE | shape_class(self.job["nr"])
        if shape["down"] is not None:
            self._redirect(port, EGRESS, index_of(SHAPERS["down"]), minor)
        if shape["up"] is not None:
            self._redirect(upstream, EGRESS if isolated else INGRESS, index_of(SHAPERS["up"]), minor)

    def _redirect(self, index: int, side: int, target: "int | None", priority: "int | None") -> None:
        actions: "list[Any]" = [{"kind": "mirred", "direction": "egress", "action": "redirect", "ifindex": target}]
        if priority is not None:
            actions.insert(0, {"kind": "skbedit", "priority": priority})
        self.host.tc("add-filter", "matchall", index, 0, parent=side, prio=1, protocol=3, action=actions)

    # Neighbours

    def _free(self, bridge: str, port: str, mac: str) -> None:
        """Refused if another station on the bridge's link has the hardware address of the interface."""
        index = index_of(bridge)
        for entry in self.host.get_neighbours(family=AF_BRIDGE):
            same = entry.get_attr("NDA_LLADDR") == mac and entry.get_attr("NDA_MASTER") == index
            if same and entry["ifindex"] != index_of(port):
                name = self.host.get_links(entry["ifindex"])[0].get_attr("IFLA_IFNAME")
                raise Refused(f"hardware address {mac} is already on {bridge}, behind {name}")

    def _taken(self, wanted: "list[Wanted]") -> "dict[str, str]":
        """{port: why it must not get its address}: of new interfaces on the local link. All are asked for at once."""
        new = [one for one in wanted if one["type"] in ("public4", "public6", "debug")
               and read(f"{NETWORK}/{one['port']}/ifalias") != one["mark"]
               and os.path.isdir(f"{NETWORK}/{one['bridge']}/bridge")]  # fmt: skip
        if not any(one["ipv4"] or one["ipv6"] for one in new):
            return {}
        from confine.drivers.probing import holders

        asked = {text.partition("/")[0]: one for one in new for text in one["ipv4"] + one["ipv6"]}
        try:
            found = holders(new[0]["bridge"], {address: one["mac"] for address, one in asked.items()})
        except OSError:  # the bridge is down: there is nobody to ask, nor to disturb
            return {}
        return {
            asked[address]["port"]: f"{address} is already used on {new[0]['bridge']}, by {mac}"
            for address, mac in found.items()
        }

    # Small things

    def _delete(self, name: str) -> None:
        index = index_of(name)
        if index is not None:
            self.host.link("del", index=index)


def told(error: Exception) -> str:
    """What went wrong, for a person."""
    if isinstance(error, Refused):
        return str(error)
    if isinstance(error, ImportError):
        return f"{error}: it takes python3-pyroute2 to make interfaces other than a plain private one"
    return f"{type(error).__name__}: {' '.join(str(part) for part in error.args) or 'no more is known'}"


def main(arguments: "list[str]") -> int:
    """Do the job; exit status 1 if the sliver must not run as it is."""
    path = arguments[0]
    with open(path, encoding="ascii") if path != "-" else sys.stdin as file:
        job = json.load(file)
    pid = os.environ.get("LXC_PID") if job["pid"] is None else job["pid"]
    failed, errors = None, {}
    try:
        wiring = Wiring(job)
        errors = wiring.errors
        wiring.run(int(pid) if pid else None)
    except Exception as error:  # told to whoever asked
        failed = told(error)
    answer = {"failed": failed, "errors": errors}
    if path == "-":
        print(json.dumps(answer))
    else:
        durable.write_json(path + ".done", answer)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

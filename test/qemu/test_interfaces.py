"""Slivers' interfaces of every type, on a node with a community LAN and a direct interface in namespaces of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from qemu.harness import Snapshot, VirtualNode
from qemu.sliver_node import SliverNode

MGMT, DEBUG = "fd65:fc41:c50f", "fd5f:eee5:e6ad"
PUBLIC4, LAN4, TAKEN4 = "198.51.100.9", "198.51.100.1", "198.51.100.2"
PUBLIC6, LAN6 = "2001:db8:1:2:1003::3", "2001:db8:1:2::1"
ALL = [[0, "priv", "private", None], [1, "mgmt0", "management", None], [2, "pub0", "public4", None],
       [3, "pub6", "public6", None], [4, "dbg0", "debug", None], [5, "iso0", "isolated", "eth1"]]  # fmt: skip
TAG, OTHER, OUTER = 0x123, 0x124, 40

# lan: the community network behind br-local. peer: another node behind the direct interface eth1, one VLAN for a slice.
WORLD = f"""
ip netns add lan
ip link add br-local type bridge
ip link set br-local up
ip link add uplink type veth peer name eth0 netns lan
ip link set uplink master br-local up
ip -n lan link set lo up
ip -n lan link set eth0 up
ip -n lan addr add {LAN4}/24 dev eth0
ip -n lan addr add {TAKEN4}/24 dev eth0
ip -n lan addr add {LAN6}/64 dev eth0 nodad
ip -n lan addr add {DEBUG}::99/48 dev eth0 nodad
ip netns add peer
ip link add eth1 type veth peer name eth0 netns peer
ip link set eth1 up
ip -n peer link set eth0 up
ip -n peer link add link eth0 name v type vlan id {TAG}
ip -n peer addr add 172.16.0.9/24 dev v
ip -n peer link set v up
"""


@pytest.fixture(scope="module")
def wired(prepared: tuple[Snapshot, str]) -> Iterator[SliverNode]:
    """A node with the world above, and sliver 3 with an interface of each type."""
    snapshot, sha256 = prepared
    with VirtualNode.from_snapshot(snapshot) as node:
        slivers = SliverNode(node, sha256)
        node.sh('ip() { /usr/sbin/ip "$@"; }\n' + WORLD)  # not busybox's
        slivers.settings = {"public4_proto": "static", "public4_pool": [PUBLIC4 + "/24"], "public4_gateway": LAN4,
                            "public6_prefix": "2001:db8:1:2"}  # fmt: skip
        slivers.network[3] = {"interfaces": ALL, "tag": TAG, "addresses": {"2": PUBLIC4 + "/24", "3": PUBLIC6 + "/64"}}
        slivers.up(3)
        yield slivers


def lan(slivers: SliverNode, command: str, namespace: str = "lan", timeout: float = 30) -> str:
    """Run a command in the community network (or the other node's)."""
    return slivers.node.must(["/usr/sbin/ip", "netns", "exec", namespace, "sh", "-c", command], timeout)


def answers(slivers: SliverNode, nr: int, address: str) -> bool:
    """Whether sliver `nr` gets an answer from `address`, within some tries."""
    slivers.node.wait_for(
        f"{address} answers sliver {nr}",
        lambda: slivers.run(nr, f"ping -c 1 -W 2 {address}").status == 0,
        30,
    )
    return True


def test_each_interface_is_there_with_its_addresses_and_the_public_one_leads_out(wired: SliverNode) -> None:
    shown = wired.must(3, "ip addr; ip route")
    addresses = (PUBLIC4 + "/24", PUBLIC6 + "/64", MGMT + ":12:1001::3/64", DEBUG + ":12:1004::3/64")
    for line in ("192.168.241.3/25", *addresses):
        assert line in shown
    assert f"default via {LAN4} dev pub0 metric 512" in " ".join(shown.split())


def test_the_community_network_and_the_sliver_reach_each_other(wired: SliverNode) -> None:
    assert answers(wired, 3, LAN4)
    assert answers(wired, 3, LAN6)
    assert answers(wired, 3, DEBUG + "::99")
    lan(wired, f"ping -c 1 -W 5 {PUBLIC4} && ping -c 1 -W 5 {PUBLIC6}")


def test_the_management_interface_fits_through_the_overlay(wired: SliverNode) -> None:
    assert " mtu 1400 " in wired.must(3, "ip link show mgmt0")


def test_an_isolated_interface_has_its_parents_address_and_speaks_only_in_its_slices_vlan(wired: SliverNode) -> None:
    parent = wired.node.read_file("/sys/class/net/eth1/address").decode().strip()
    assert parent in wired.must(3, "ip link show iso0")
    wired.must(3, "ip addr add 172.16.0.3/24 dev iso0")
    assert answers(wired, 3, "172.16.0.9")
    # The VLAN device itself is out of the sliver's reach: what it could tag otherwise stays within the VLAN.
    assert "iso-03-05" not in wired.must(3, "ip link")
    seen = wired.node.read_file("/proc/net/vlan/config").decode()
    assert [word.strip() for word in seen.splitlines()[-1].split("|")] == ["iso-03-05", str(TAG), "eth1"]


def test_a_sliver_that_restarts_itself_has_its_interfaces_back_at_once(wired: SliverNode) -> None:
    before = wired.init(3)
    wired.run(3, "reboot")
    wired.node.wait_for("another init", lambda: wired.observed(3)["init_pid"] not in (before, None), 60)
    shown = wired.must(3, "ip addr")
    for name in ("priv", "mgmt0", "pub0", "pub6", "dbg0", "iso0"):
        assert f" {name}@" in shown or f" {name}:" in shown
    assert answers(wired, 3, LAN4)


def test_a_bridge_made_anew_has_its_ports_back_and_connections_live_on(wired: SliverNode) -> None:
    node = wired.node
    init = wired.init(3)
    node.sh("/usr/sbin/ip link del br-local; /usr/sbin/ip link add br-local type bridge; "
            "/usr/sbin/ip link set br-local up; /usr/sbin/ip link set uplink master br-local")  # fmt: skip
    assert wired.observed(3)["wired"]["ports"]["slv-03-02"]["bridge"] is None
    index = node.read_file("/sys/class/net/slv-03-02/ifindex")
    wired.drive(("interfaces", "attach", 3))
    assert node.read_file("/sys/class/net/slv-03-02/ifindex") == index
    assert node.read_file("/sys/class/net/slv-03-02/brport/isolated") == b"1\n"
    assert answers(wired, 3, LAN4)
    assert wired.init(3) == init


def test_what_changes_at_one_interface_leaves_the_others_as_they_are(wired: SliverNode) -> None:
    def indexes() -> dict[str, str]:
        found = wired.node.sh("cd /sys/class/net; grep . slv-03-*/ifindex").split()
        return dict(line.split("/ifindex:") for line in found)

    before = indexes()
    wired.network[3]["interfaces"] = [*ALL[:4], ALL[5]]
    wired.network[3]["tag"] = TAG + 1
    wired.drive(("interfaces", "attach", 3))
    after = indexes()
    assert set(before) - set(after) == {"slv-03-04"}
    changed = {port for port in after if after[port] != before[port]}
    assert changed == {"slv-03-05"}
    assert str(TAG + 1) in wired.node.read_file("/proc/net/vlan/config").decode()
    again = wired.node.sh("cat /run/confine/lxc/*3_0012/interfaces")
    assert f'"tag":{TAG + 1}' in again and f'"tag":{TAG},' not in again, "a sliver that restarts itself has the new tag"
    wired.network[3].update(interfaces=ALL, tag=TAG)
    wired.drive(("interfaces", "attach", 3))
    assert str(TAG + 1) not in wired.node.read_file("/proc/net/vlan/config").decode()


@pytest.mark.parametrize(
    "spoil,mend,words",
    [
        (f"ip link add link eth1 name theirs type vlan id {TAG}", "ip link del theirs", "taken: theirs has it"),
        (f"ip -n lan addr add {PUBLIC4}/24 dev eth0", f"ip -n lan addr del {PUBLIC4}/24 dev eth0", "already used on"),
        (f"ip -n lan addr add {PUBLIC6}/64 dev eth0 nodad", f"ip -n lan addr del {PUBLIC6}/64 dev eth0",
         "already used on"),
        ("bridge fdb add 54:c0:00:12:03:02 dev uplink master static",
         "bridge fdb del 54:c0:00:12:03:02 dev uplink master static", "is already on br-local, behind uplink"),
    ],
    ids=["tag", "address", "address6", "mac"],
)  # fmt: skip
def test_what_somebody_else_has_is_not_taken_and_is_named(wired: SliverNode, spoil: str, mend: str, words: str) -> None:
    node = wired.node
    paths = [part if part != "ip" and part != "bridge" else f"/usr/sbin/{part}" for part in spoil.split()]
    mended = [part if part != "ip" and part != "bridge" else f"/usr/sbin/{part}" for part in mend.split()]
    node.sh("for port in slv-03-02 slv-03-03 slv-03-05 iso-03-05; do /usr/sbin/ip link del $port; done")
    node.must(paths)
    answer = wired.try_drive(("interfaces", "attach", 3))
    assert words in str(answer["error"])
    assert len(wired.observed(3)["wired"]["ports"]) == 5, "the others are made"
    node.must(mended)
    wired.drive(("interfaces", "attach", 3))


def test_a_parent_that_goes_down_is_named_and_the_interface_works_again_with_it(wired: SliverNode) -> None:
    node = wired.node
    node.sh("/usr/sbin/ip link del iso-03-05; /usr/sbin/ip link set eth1 down")
    index = node.read_file("/sys/class/net/slv-03-02/ifindex")
    wired.drive(("interfaces", "attach", 3))  # waits for eth1: nothing fails, and the sliver keeps what it has
    assert "slv-03-05" in wired.observed(3)["wired"]["ports"] and "iso-03-05" not in wired.observed(3)["wired"]["vlans"]
    node.sh("/usr/sbin/ip link set eth1 up")
    wired.drive(("interfaces", "attach", 3))
    node.sh("/usr/sbin/ip -n peer link set eth0 down; /usr/sbin/ip -n peer link set eth0 up; "
            "/usr/sbin/ip -n peer link set v up")  # fmt: skip
    wired.must(3, "ip addr add 172.16.0.3/24 dev iso0")
    assert answers(wired, 3, "172.16.0.9")
    assert node.read_file("/sys/class/net/slv-03-02/ifindex") == index


# Isolated: what is in a slice's VLAN stays there, and nothing else comes in


@pytest.fixture
def vlans(wired: SliverNode) -> Iterator[SliverNode]:
    """Slivers 3 and 1, of two slices, over the same direct interfaces: eth1, and eth1.40, which is a VLAN itself."""
    before = dict(wired.network[3])
    isolated = [[5, "iso0", "isolated", "eth1"], [6, "iso1", "isolated", f"eth1.{OUTER}"]]
    wired.node.sh(f"/usr/sbin/ip link add link eth1 name eth1.{OUTER} type vlan id {OUTER}; "
                  f"/usr/sbin/ip link set eth1.{OUTER} up")  # fmt: skip
    wired.network[3] = {**before, "interfaces": [*ALL[:5], *isolated]}
    wired.network[1] = {"interfaces": [ALL[0], *isolated], "tag": OTHER}
    with open(os.path.join(os.path.dirname(__file__), "vlan_drive.py")) as file:
        wired.node.write_file("/tmp/vlan_drive.py", file.read())
    for nr in (1, 3):
        wired.drive(("interfaces", "attach", nr))
    yield wired
    wired.network[3] = before
    del wired.network[1]
    for nr in (1, 3):
        wired.drive(("interfaces", "attach", nr))
    wired.node.sh(f"/usr/sbin/ip link del eth1.{OUTER}")


def test_no_frame_leaves_its_slices_vlan_and_each_twin_bears_its_tags(vlans: SliverNode) -> None:
    for parent, nr, outer in (("eth1", 5, []), (f"eth1.{OUTER}", 6, [OUTER])):
        case = {"pid": vlans.init(3), "name": f"iso{nr - 5}", "port": f"slv-03-{nr:02x}", "vlan": f"iso-03-{nr:02x}",
                "parent": parent, "other_port": f"slv-01-{nr:02x}", "other_vlan": f"iso-01-{nr:02x}",
                "outer": outer, "tag": TAG, "other": OTHER}  # fmt: skip
        found = json.loads(vlans.node.must(["python3", "/tmp/vlan_drive.py", json.dumps(case)], 600))
        assert len(found) == 5
        assert [one for one in found if not one["stopped"]] == [], "these came through"
        assert [one for one in found if not one["twin"]] == [], "their honest twins did not"
        assert [one for one in found if not one["opened"]] == [], "these do not arrive without the rule either"
        assert [one["seen"] for one in found] == [[*outer, TAG]] * 4 + [[]]


# Bandwidth

RECEIVE = """
import json, socket, sys, threading, time
def count(server, found):
    link, _ = server.accept()
    link.settimeout(20)
    begun = time.monotonic()
    octets = 0
    while time.monotonic() - begun < 6:
        octets += len(link.recv(65536))
    found.append(octets * 8 / 1000 / (time.monotonic() - begun))
rates = []
threads = []
for port in map(int, sys.argv[1:]):
    server = socket.create_server(("0.0.0.0", port))
    server.settimeout(60)
    rates.append([])
    threads.append(threading.Thread(target=count, args=(server, rates[-1])))
    threads[-1].start()
for thread in threads:
    thread.join()
print(json.dumps([rate[0] for rate in rates]))
"""


def sending(slivers: SliverNode, address: str, ports: dict[int, int], namespace: str = "lan") -> list[float]:
    """kbit/s that arrive at `address` from each sliver in ports {nr: port}, all at the same time."""
    for nr, port in ports.items():
        slivers.background(nr, f"sleep 3; for n in 1 2 3 4 5; do dd if=/dev/zero bs=64k count=400 | nc -w 8 {address} "
                               f"{port}; sleep 1; done")  # fmt: skip
    slivers.node.write_file("/tmp/receive.py", RECEIVE)
    command = "python3 /tmp/receive.py " + " ".join(str(port) for port in ports.values())
    found: list[float] = json.loads(lan(slivers, command, namespace, 120))
    return found


def test_what_a_sliver_sends_stays_within_its_bound_on_every_interface_and_interfaces_stay(wired: SliverNode) -> None:
    before = wired.node.sh("cat /sys/class/net/slv-03-*/ifindex")
    wired.network[3].update(egress_kbit=1500, ingress_kbit=3000)
    wired.drive(("interfaces", "attach", 3))
    assert wired.observed(3)["wired"]["rates"] == {"up": [1500, 1500, None], "down": [3000, 3000, None]}
    assert wired.node.sh("cat /sys/class/net/slv-03-*/ifindex") == before
    assert 300 < sending(wired, LAN4, {3: 7001})[0] < 1700
    wired.run(3, "ip addr add 172.16.0.3/24 dev iso0")
    assert 300 < sending(wired, "172.16.0.9", {3: 7002}, "peer")[0] < 1700


def test_what_a_sliver_gets_stays_within_its_bound_and_is_counted(wired: SliverNode) -> None:
    before = int(wired.must(3, "cat /sys/class/net/pub0/statistics/rx_bytes"))
    wired.background(3, "sleep 60 | nc -l -p 7003 >/dev/null")
    wired.node.wait_for("the sliver listens", lambda: ":1B5B " in wired.must(3, "cat /proc/net/tcp*"), 60)
    lan(wired, f"dd if=/dev/zero bs=64k count=100 2>/dev/null | timeout 6 nc {PUBLIC4} 7003 || true")
    got = int(wired.must(3, "cat /sys/class/net/pub0/statistics/rx_bytes")) - before
    assert 200_000 < got < 3000 * 125 * 12
    script = "from confine.drivers import classes; print(classes.of('shape-down')[0x103].bytes)"
    counted = int(wired.node.must(["env", "PYTHONPATH=/usr/lib/confine", "python3", "-c", script]))
    assert counted >= got * 0.9


def test_slivers_share_what_there_is_evenly(wired: SliverNode) -> None:
    wired.settings["egress_total_kbit"] = 2000
    for nr in (1, 3):
        wired.network.setdefault(nr, {}).update(egress_kbit=None, ingress_kbit=None)
        wired.drive(("interfaces", "attach", nr))
    assert wired.observed(1)["wired"]["rates"] == {"up": [16, 2000, 2000]}
    lan_gateway = "192.168.77.1"
    wired.node.sh(f"/usr/sbin/ip addr add 192.168.77.2/24 dev br-local; /usr/sbin/ip -n lan addr add {lan_gateway}/24 "
                  "dev eth0")  # fmt: skip
    wired.must(3, f"ip route add {lan_gateway}/32 via 192.168.241.126")
    first, second = sending(wired, lan_gateway, {1: 7004, 3: 7005})
    assert first + second < 2300
    assert 0.5 < first / second < 2
    wired.settings["egress_total_kbit"] = None
    for nr in (1, 3):
        wired.drive(("interfaces", "attach", nr))
    assert not [name for name in wired.node.sh("ls /sys/class/net").split() if name.startswith("shape-")]


def test_a_bound_that_cannot_be_had_is_a_failed_start_and_says_why(wired: SliverNode) -> None:
    node = wired.node
    wired.network[3].update(egress_kbit=1500)
    wired.drive(("containers", "stop", 3), ("interfaces", "detach", 3))
    module = node.sh("find /lib/modules/ /usr/lib/modules/ -name 'ifb.ko*' | head -n 1").strip()
    node.sh(f"rmmod ifb; mv {module} /tmp/ifb-away")
    answer = wired.try_drive(("limits", "apply", 3), ("containers", "start", 3))
    node.sh(f"mv /tmp/ifb-away {module}")
    assert "lxc-start of sliver" in str(answer["error"])
    assert "NetlinkError" in str(answer["error"])
    assert wired.observed(3)["init_pid"] is None
    assert "slv-03-00" not in node.sh("ls /sys/class/net").split()
    wired.drive(("limits", "apply", 3), ("containers", "start", 3), ("limits", "verify", 3))
    assert wired.observed(3)["wired"]["rates"] == {"up": [1500, 1500, None]}


# DHCP: the sliver runs the client, the node learns the address from the server's ACK

CLIENT = """#!/bin/sh
case $1 in bound | renew)
	ip addr flush dev $interface
	ip addr add $ip/24 dev $interface
	echo $ip >/tmp/given ;;
esac
"""
PORT2 = "slv-03-02"
SECOND_SERVER = """
ip netns add lan2
ip link add uplink2 type veth peer name eth0 netns lan2
ip link set uplink2 master br-local up
ip -n lan2 link set eth0 up
ip -n lan2 addr add 198.51.100.3/24 dev eth0
"""


def serve(slivers: SliverNode, address: str, namespace: str = "lan") -> None:
    """A DHCP server in the community network that gives `address` to who asks."""
    lan(slivers, f"dnsmasq --conf-file=/dev/null --port=0 --bind-interfaces --interface=eth0 --leasefile-ro --no-ping "
                 f"--dhcp-range={address},{address},255.255.255.0,600 --pid-file=/run/dnsmasq-{namespace}",
        namespace)  # fmt: skip


def serve_no_more(slivers: SliverNode, namespace: str = "lan") -> None:
    slivers.node.sh(f"read pid </run/dnsmasq-{namespace}; kill $pid; while [ -e /proc/$pid ]; do sleep 0.1; done")


def asks(slivers: SliverNode, tries: int = 20) -> bool:
    """Whether the sliver's client is given an address; it has it then."""
    command = f"rm -f /tmp/given; /usr/bin/busybox udhcpc -i pub0 -n -q -f -T 2 -t {tries} -s /tmp/client"
    return slivers.run(3, command, timeout=120).status == 0


def leased(slivers: SliverNode, address: str) -> bool:
    return bool(slivers.drive(observe=(3,))["leases"] == {PORT2: address})


def pings(slivers: SliverNode, source: str = "") -> bool:
    return slivers.run(3, f"ping -c 1 -W 2 {'-I ' + source if source else ''} {LAN4}").status == 0


@pytest.fixture(scope="module")
def asking(wired: SliverNode) -> SliverNode:
    """Sliver 3 has to ask for its public address from now on; nobody answers yet."""
    wired.settings["public4_proto"] = "dhcp"
    wired.listening = [3]
    wired.drive(("interfaces", "attach", 3))
    wired.must(3, f"printf '%s' '{CLIENT}' >/tmp/client; chmod +x /tmp/client")
    return wired


def test_with_a_silent_server_an_interface_that_has_to_ask_says_nothing_else(asking: SliverNode) -> None:
    assert "inet " not in asking.must(3, "ip addr show pub0"), "the sliver asks for it"
    assert not asks(asking, tries=2)
    asking.must(3, "ip addr add 198.51.100.40/24 dev pub0")
    assert not pings(asking) and asking.drive()["leases"] == {}


def test_an_address_from_dhcp_is_learnt_from_the_servers_answer_and_lasts_as_long(asking: SliverNode) -> None:
    serve(asking, "198.51.100.40")
    assert asks(asking)
    asking.node.wait_for("it was learnt", lambda: leased(asking, "198.51.100.40"), 60)
    assert answers(asking, 3, LAN4)
    entry = " ".join(asking.node.must(["nft", "list", "set", "bridge", "confine", "leases"]).split())
    assert f'"{PORT2}" . 198.51.100.40 timeout' in entry and "expires" in entry
    asking.must(3, "ip addr add 198.51.100.41/24 dev pub0")
    assert not pings(asking, "198.51.100.41"), "no other address is let through"
    serve_no_more(asking)


def test_of_two_servers_that_counts_whose_offer_the_sliver_took(asking: SliverNode) -> None:
    asking.node.sh('ip() { /usr/sbin/ip "$@"; }\n' + SECOND_SERVER)
    asking.drive()  # as the next turn does, it hears the new link as well
    serve(asking, "198.51.100.42")
    serve(asking, "198.51.100.43", "lan2")
    assert asks(asking)
    given = asking.must(3, "cat /tmp/given").strip()
    assert given in ("198.51.100.42", "198.51.100.43")
    asking.node.wait_for("it was learnt", lambda: leased(asking, given), 60)
    assert answers(asking, 3, LAN4)
    for namespace in ("lan", "lan2"):
        serve_no_more(asking, namespace)
    asking.node.sh("/usr/sbin/ip netns del lan2")


def test_an_address_that_is_the_nodes_own_is_not_let_through_and_named(asking: SliverNode) -> None:
    asking.node.sh("/usr/sbin/ip addr add 198.51.100.44/24 dev br-local")
    asking.drive()
    serve(asking, "198.51.100.44")
    assert asks(asking)
    words = "gave it 198.51.100.44, which is the node's own: it is not let through"
    asking.node.wait_for("it is named", lambda: words in asking.drive()["unleased"].get(PORT2, ""), 60)
    assert not pings(asking)
    serve_no_more(asking)
    asking.node.sh("/usr/sbin/ip addr del 198.51.100.44/24 dev br-local")


def test_nothing_of_a_stopped_sliver_is_left(wired: SliverNode) -> None:
    wired.drive(("containers", "stop", 3), ("interfaces", "detach", 3), ("limits", "remove", 3))
    left = wired.node.sh("ls /sys/class/net /run/confine/lxc/*3_0012 2>/dev/null || true").split()
    assert not [name for name in left if name.startswith(("slv-03", "iso-", "shape-", "interfaces"))]

"""What the daemon sees of ports, VLANs and classes, without a process; what it makes of the worker's answers."""

import json
import os
import struct
import subprocess
import sys

import pytest

from confine.core.model import Step
from confine.core.settings import Settings
from confine.core.wiring import Port
from confine.drivers import classes, interfaces, ports
from confine.drivers.interfaces import Interfaces, parse_vlans, told
from confine.errors import StepError
from confine.paths import Paths

VLANS = """\
VLAN Dev name	 | VLAN ID
Name-Type: VLAN_NAME_TYPE_RAW_PLUS_VID_NO_PAD
iso-03-05      | 291  | eth1
eth1.40        | 40  | eth1
"""


def test_vlans_are_read_as_the_kernel_lists_them():
    assert parse_vlans(VLANS) == {"iso-03-05": ("eth1", 291), "eth1.40": ("eth1", 40)}
    assert parse_vlans(None) == {}


def test_what_the_worker_could_not_do_is_told_in_one_line():
    assert told({"failed": None, "errors": {}}) == ""
    assert told({"failed": "no", "errors": {"b": "2", "a": "1"}}) == "no; a: 1; b: 2"


def test_the_worker_finds_its_code_without_an_environment(tmp_path):
    job = tmp_path / "job"
    job.write_text(json.dumps({"pid": None, "wanted": [], "sliver": "x", "nr": 1, "cgroup": "/x", "shape": {}}))
    done = subprocess.run(interfaces.command(str(job)), env={"PATH": os.environ["PATH"]}, cwd="/", check=False)
    answer = json.loads((tmp_path / "job.done").read_text())
    assert done.returncode == 1
    assert "pyroute2" in answer["failed"] or "which process" in answer["failed"]


def test_interfaces_that_are_on_no_bridge_are_told_apart_so_that_a_stop_silences_them(tmp_path, monkeypatch):
    monkeypatch.setattr(ports, "NETWORK", str(tmp_path))
    for name in ("slv-07-00", "slv-07-05", "slv-08-05", "iso-07-05"):
        (tmp_path / name).mkdir()
    (tmp_path / "slv-07-00" / "master").symlink_to("../br-confine")
    assert ports.unbridged(7) == ["slv-07-05"]
    assert ports.unbridged(None) == ["slv-07-05", "slv-08-05"]


def attribute(kind, content):
    return struct.pack("=HH", 4 + len(content), kind) + content + bytes(-len(content) % 4)


def test_bounds_and_counts_of_a_class_are_read():
    options = attribute(2, attribute(1, struct.pack("=8xI8xI", 250000, 500000) + bytes(20)))
    statistics = attribute(7, attribute(1, struct.pack("=QI", 123456, 78)) + attribute(3, struct.pack("=8xI8x", 9)))
    found = classes.parse(struct.pack("=BxxxiIII", 0, 3, 0x10103, 0, 0) + options + statistics)
    assert (found.minor, found.rate, found.ceil) == (0x103, 2000, 4000)
    assert (found.bytes, found.packets, found.drops) == (123456, 78, 9)
    assert classes.parse(struct.pack("=BxxxiIII", 0, 3, 0x10103, 0, 0)) is None


SPACE = f"interfaces-{os.getpid()}"
SLIVERS, EACH = 32, 3
LOOK = """
import json, os, sys, time
started, written = [], []
def audit(event, arguments):
    if event in ("subprocess.Popen", "os.fork", "os.exec", "os.posix_spawn"):
        started.append(event)
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        written.append(arguments[0])
from confine.core.settings import Settings
from confine.drivers.interfaces import Interfaces
from confine.paths import Paths
one = Interfaces(Paths(), Settings())
sys.addaudithook(audit)
begun = time.monotonic()
one.snapshot()
found = {nr: one.wired(nr).as_doc() for nr in range(1, 33)}
print(json.dumps([started, written, time.monotonic() - begun, found[7], len(one.links)]))
"""


@pytest.fixture
def crowd():
    """A namespace with as many ports as 32 slivers with three interfaces each have."""
    subprocess.run(["ip", "netns", "add", SPACE], check=True)
    commands = ["link add br-confine type bridge", "link add shape-up type ifb"]
    for nr in range(1, SLIVERS + 1):
        for ii in range(EACH):
            port = f"slv-{nr:02x}-{ii:02x}"
            commands.append(f"link add {port} type veth peer name p{nr}-{ii}")
            commands.append(f"link set {port} master br-confine alias confine-{nr}-{ii}")
    try:
        text = "\n".join(commands) + "\n"
        subprocess.run(["ip", "-n", SPACE, "-batch", "-"], input=text.encode(), check=True)
        tc = ["ip", "netns", "exec", SPACE, "tc"]
        subprocess.run([*tc, "qdisc", "add", "dev", "shape-up", "root", "handle", "1:", "htb"], check=True)
        subprocess.run([*tc, "class", "add", "dev", "shape-up", "parent", "1:", "classid", "1:107", "htb", "rate",
                        "2mbit", "ceil", "4mbit"], check=True)  # fmt: skip
        yield
    finally:
        subprocess.run(["ip", "netns", "del", SPACE], check=False)


@pytest.mark.root
def test_an_idle_look_at_32_slivers_with_three_interfaces_starts_no_process_and_writes_nothing(crowd):
    top = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(interfaces.__file__))))
    look = subprocess.run(["ip", "netns", "exec", SPACE, sys.executable, "-c", LOOK], capture_output=True, check=True,
                          env={**os.environ, "PYTHONPATH": top})  # fmt: skip
    started, written, seconds, seventh, links = json.loads(look.stdout)
    assert (started, written) == ([], [])
    assert seventh["ports"]["slv-07-02"] == Port("br-confine", False, "confine-7-2").as_doc()
    assert seventh["rates"] == {"up": [2000, 4000, None]}
    assert links == 3 + SLIVERS * EACH
    assert seconds < 30


@pytest.mark.root
def test_a_port_that_lost_its_bridge_is_put_back_isolated_without_a_process(crowd):
    script = """
from confine.core.interfaces import SliverInterface
from confine.core.model import Step
from confine.core.settings import Settings
from confine.core.wiring import Port
from confine.drivers import interfaces
import subprocess
subprocess.run = None
one = SliverInterface("", 1, 7, 2, "eth0", "private", "slv-07-02")
one.bridge = "br-confine"
interfaces.put_back(one, Port(None, False, ""))
"""
    top = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(interfaces.__file__))))
    inside = ["ip", "netns", "exec", SPACE]
    subprocess.run([*inside, "ip", "link", "set", "slv-07-02", "nomaster"], check=True)
    subprocess.run([*inside, sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": top})
    shown = subprocess.run(
        [*inside, "ip", "-d", "link", "show", "slv-07-02"], check=True, capture_output=True, text=True
    )
    assert "master br-confine" in shown.stdout
    assert "isolated on" in shown.stdout


def test_devices_that_the_node_needs_itself_are_seen_as_its_own():
    one = Interfaces(Paths(), Settings())
    one.reserved = {"lo": "it is the loopback"}
    one.snapshot()
    assert one.links["lo"].own == "it is the loopback"


def test_a_step_without_sliver_or_booking_is_refused():
    with pytest.raises(StepError, match="without sliver or booking"):
        Interfaces(Paths(), Settings()).attach(Step("interfaces", "attach", "x", "test"))

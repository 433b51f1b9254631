"""Runs in the node: what is measured there, once with the real drivers and once by hand, turn about.

python3 bench_drive.py WHAT SHA256        WHAT: one, row, processes, start; one line of JSON on stdout
"""

import json
import os
import select
import socket
import struct
import subprocess
import sys
import time

from confine.control import ask
from confine.core.addressing import hostname
from confine.core.model import MIB, Booking, Interface, Limits, SliverTarget, Step, Template
from confine.core.settings import Settings
from confine.drivers import cgroups
from confine.drivers.cache import Cache
from confine.drivers.containers import Containers
from confine.drivers.firewall import Firewall
from confine.drivers.limits import LimitsDriver
from confine.drivers.links import Links
from confine.drivers.storage import Storage
from confine.paths import Paths

TIMES = 6
ROW = 16
NODE_ID = 1
BARE_NR = 60  # numbers of the slivers made by hand begin here
DISK_MIB = 24
PYTHON = ["/usr/bin/python3", "-P", "-s"]
IMPORTS = "import asyncio, ssl, http.client"
UP = (("storage", "format"), ("storage", "mount"), ("storage", "populate"), ("limits", "apply"),
      ("firewall", "admit"), ("containers", "start"), ("limits", "verify"))  # fmt: skip
DOWN = (
    ("containers", "stop"),
    ("firewall", "dismiss"),
    ("limits", "remove"),
    ("storage", "unmount"),
    ("storage", "remove"),
)

# What a person would type: template and disk mounted, an overlay of both, lxc-start. Less than ours does: no id range
# of its own (busybox cannot id-map a mount), no limits, keys, checks.
BARE = """
mkdir -p $D/template $D/disk $D/root
mount -t squashfs -o loop,ro $IMAGE $D/template
mkfs.ext4 -q -F -b 4096 -m 0 -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 $D/disk.img
mount -t ext4 -o loop $D/disk.img $D/disk
mkdir $D/disk/upper $D/disk/work
mount -t overlay -o lowerdir=$D/template,upperdir=$D/disk/upper,workdir=$D/disk/work overlay $D/root
lxc-start -P $D -n $NAME -d
"""
BARE_DOWN = """
lxc-stop -P $D -n $NAME -k
umount $D/root
umount $D/disk
umount $D/template
rm -r $D
"""
BARE_CONFIG = """
lxc.uts.name = {name}
lxc.rootfs.path = dir:{directory}/root
lxc.init.cmd = /sbin/init
lxc.mount.auto = proc:mixed sys:mixed
lxc.net.0.type = veth
lxc.net.0.link = br-confine
lxc.net.0.flags = up
lxc.net.0.ipv4.address = 192.168.241.{nr}/25
"""

paths = Paths()
settings = Settings(node_id=NODE_ID)
cache = Cache(paths, None, 512, lambda *_: None)
drivers = {
    "storage": Storage(paths, cache, lambda: "nameserver 192.168.241.126\n"),
    "limits": LimitsDriver(paths),
    "containers": Containers(paths, settings),
    "links": Links(settings),
    "firewall": Firewall(settings),
}
sha256 = sys.argv[2]


def step(driver, verb, nr):
    name = hostname(nr, NODE_ID)
    limits = Limits(24, DISK_MIB, None, 100, 64, None, None)
    template = Template(1, "bench", "generic", "", sha256, ["x86_64"])
    target = SliverTarget(
        f"{nr}@{NODE_ID}", name, f"https://r/{nr}/", nr, f"slice{nr}", 1, NODE_ID, "", "start", 1, 1, template, None,
        [Interface(0, "priv", "private", None)], limits, [], None, None, {}, [], False,
    )  # fmt: skip
    return Step(driver, verb, name, "", target, Booking(target.key, name, nr, 24, DISK_MIB))


def drive(steps, nr):
    seconds = {}
    for driver, verb in steps:
        begun = time.monotonic()
        getattr(drivers[driver], verb)(step(driver, verb, nr))
        seconds[verb] = time.monotonic() - begun
    return seconds


def environment(nr):
    directory = f"/srv/bench/{nr}"
    image = os.path.join(paths.cache, "objects", sha256)
    return {"PATH": os.environ["PATH"], "D": directory, "IMAGE": image, "NAME": f"bare{nr}"}


def allocate_bare(nr):
    values = environment(nr)
    os.makedirs(os.path.join(values["D"], values["NAME"]))
    with open(os.path.join(values["D"], "disk.img"), "w") as file:
        os.posix_fallocate(file.fileno(), 0, DISK_MIB * MIB)
    with open(os.path.join(values["D"], values["NAME"], "config"), "w") as file:
        file.write(BARE_CONFIG.format(name=values["NAME"], directory=values["D"], nr=nr))


def bare(script, nr):
    subprocess.run(["sh", "-euc", script], env=environment(nr), check=True, timeout=60)


def timed(work):
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def one():
    """Seconds of each of ours, of each bare one, and of our steps at their best."""
    put_up_network()
    mine, other, steps = [], [], []
    for turn in range(TIMES):
        drive([("storage", "allocate")], 1 + turn)
        allocate_bare(BARE_NR + turn)
        other.append(timed(lambda nr=BARE_NR + turn: bare(BARE, nr)))
        begun = time.monotonic()
        steps.append(drive(UP, 1 + turn))
        mine.append(time.monotonic() - begun)
        bare(BARE_DOWN, BARE_NR + turn)
        drive(DOWN, 1 + turn)
    best = {verb: min(each[verb] for each in steps) for verb in steps[0]}
    return {"mine": mine, "bare": other, "steps": best}


def row():
    """Seconds of ROW bare ones one after the other, allocation included; they are taken down again."""

    def all_of_them():
        for nr in range(BARE_NR, BARE_NR + ROW):
            allocate_bare(nr)
            bare(BARE, nr)

    seconds = timed(all_of_them)
    for nr in range(BARE_NR, BARE_NR + ROW):
        bare(BARE_DOWN, nr)
    return {"bare": seconds}


def daemon_row():
    """Seconds from a refresh until the daemon has brought ROW slivers up, by its log. Only what is new in it is read:
    who measures wants the same processor."""
    with open(paths.log) as file:
        file.seek(0, os.SEEK_END)
        begun = time.monotonic()
        ask(paths.control, "refresh")
        said = ""
        while said.count(": limits verify (") < ROW:
            if time.monotonic() > begun + 150:
                sys.exit("\n".join(said.splitlines()[-15:]))
            time.sleep(0.1)
            said += file.read()
    return {"mine": time.monotonic() - begun}


# The kernel's process connector (linux/cn_proc.h): tells of every fork and exec on the machine.
NETLINK_CONNECTOR, CN_IDX_PROC, LISTEN = 11, 1, 1
FORK, EXEC, EXIT = 1, 2, 0x80000000
HEADS = 16 + 20  # netlink and connector headers


class Connector:
    """Collects what the kernel tells of forks and execs from now on."""

    def __init__(self):
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_CONNECTOR)
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)  # SO_RCVBUFFORCE: nothing is lost while nobody reads
        self._socket.bind((os.getpid(), CN_IDX_PROC))
        message = struct.pack("=IIIIHHI", CN_IDX_PROC, 1, 0, 0, 4, 0, LISTEN)
        self._socket.send(struct.pack("=IHHII", 16 + len(message), 3, 0, 0, os.getpid()) + message)

    def events(self):
        """[(FORK, parent tgid, child pid, child tgid) or (EXEC, pid, tgid, 0)], in the order they happened."""
        found = []
        while select.select([self._socket], [], [], 0.5)[0]:
            data = self._socket.recv(65536)
            what = struct.unpack_from("=I", data, HEADS)[0]
            numbers = struct.unpack_from("=4I", data, HEADS + 16) if what in (FORK, EXEC) else None
            if what == FORK:
                found.append((FORK, numbers[1], numbers[2], numbers[3]))
            elif what == EXEC:
                found.append((EXEC, numbers[0], numbers[1], 0))
        return found


def family(events, root, inits):
    """(processes, programs) started by `root` and by those it started; a sliver's init counts, what it starts not.

    A fork is a process if the child is a thread group of its own. `inits`: pids of slivers' inits.
    """
    mine, processes, programs = {root}, 0, 0
    for what, first, second, third in events:
        if what == FORK and first in mine and first not in inits and second == third and second not in mine:
            mine.add(second)
            processes += 1
        elif what == EXEC and second in mine and second != root:
            programs += 1
    return processes, programs


def processes():
    """What one sliver of ours starts, and a bare one."""
    found = {}
    put_up_network()
    connector = Connector()
    drive([("storage", "allocate")], 1)
    connector.events()
    drive(UP, 1)
    init = cgroups.find_init(drivers["limits"].path(hostname(1, NODE_ID)))
    found["mine"] = family(connector.events(), os.getpid(), {init})
    drive(DOWN, 1)
    allocate_bare(BARE_NR)
    connector.events()
    bare(BARE, BARE_NR)
    argv = ["lxc-info", "-P", environment(BARE_NR)["D"], "-n", f"bare{BARE_NR}", "-p", "-H"]
    init = int(subprocess.run(argv, capture_output=True, check=True).stdout)
    found["bare"] = family(connector.events(), os.getpid(), {init})
    bare(BARE_DOWN, BARE_NR)
    return found


def start():
    """Seconds from the daemon's start to its first plan, and of the interpreter with its imports."""
    mine, other = [], []
    os.environ["PYTHONPATH"] = "/usr/lib/confine"
    for _ in range(TIMES):
        other.append(timed(lambda: subprocess.run([*PYTHON, "-c", IMPORTS], check=True)))
        begun = time.monotonic()
        argv = [*PYTHON, "/tmp/planned_drive.py"]
        daemon = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        daemon.stdout.readline()
        mine.append(time.monotonic() - begun)
        daemon.terminate()
        daemon.wait(30)
    return {"mine": mine, "bare": other}


def memory():
    """PSS of the daemon and of a bare interpreter, KiB."""
    with open(paths.run + "/lock") as file:
        daemon = int(file.read())
    argv = [*PYTHON, "-c", IMPORTS + "; print(flush=True); input()"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        found = {"mine": pss(daemon), "bare": pss(other.pid)}
        other.communicate(b"\n")
    return found


def pss(pid):
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:"))


def put_up_network():
    """What the node's steps make, for slivers driven without the daemon. Rules stand for the process that made them."""
    drivers["links"].bridge(Step("links", "bridge", "node", ""))
    drivers["firewall"].install(Step("firewall", "install", "node", ""))


WORK = {"one": one, "row": row, "daemon_row": daemon_row, "processes": processes, "start": start, "memory": memory,
        "network": put_up_network}  # fmt: skip

if __name__ == "__main__":
    print(json.dumps(WORK[sys.argv[1]]()))

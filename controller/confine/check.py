"""`confine check`: what is wrong with the set-up of this node, and what to do about it.

Each check looks at one thing and gives findings: ok, warn (the node works, but) or fail (slivers cannot run as they
should). Works without the daemon; what only the daemon knows is asked of it.
"""

import os
import time

from confine.errors import ConfineError
from confine.paths import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from confine.core.model import Problem
    from confine.core.settings import Settings

OK, WARN, FAIL = "ok", "warn", "fail"
REGISTRY_S = 15.0
NFT_S = 20
READ_AGAIN = 3  # intervals without a reading of the registry that are too many
MIB = 1024 * 1024

NEEDED_CONTROLLERS = ("memory", "pids")
WANTED_CONTROLLERS = {"cpu": "CPU shares", "io": "disk rates"}
# Program: the package that has it on OpenWrt.
NEEDED_TOOLS = {"nft": "nftables", "ip": "ip-tiny", "lxc-start": "lxc-start", "mkfs.ext4": "e2fsprogs"}
WANTED_TOOLS = {"lxc-attach": "lxc-attach", "lxc-console": "lxc-console", "zstd": "zstd", "unshare": "unshare"}
SQUASHFS_IDMAP = (6, 6)  # the kernel that first lets a squashfs be id-mapped


class Finding:
    """state: OK, WARN or FAIL. what: was looked at. said: what was found. todo: what to do, "" if nothing."""

    def __init__(self, state: str, what: str, said: str, todo: str = "") -> None:
        self.state = state
        self.what = what
        self.said = said
        self.todo = todo

    def as_doc(self) -> "dict[str, str]":
        """As JSON has it."""
        return {"state": self.state, "what": self.what, "said": self.said, "todo": self.todo}


class Facts:
    """What the checks look at. status: the daemon's, or None if it does not answer. root: "/", but for tests."""

    def __init__(
        self,
        paths: Paths,
        settings: "Settings",
        problems: "list[Problem]",
        status: "dict[str, Any] | None",
        root: str = "/",
    ) -> None:
        self.paths = paths
        self.settings = settings
        self.problems = problems
        self.status = status
        self.root = root

    def text(self, path: str) -> "str | None":
        """The text of a file below the root, None if it cannot be read."""
        try:
            with open(os.path.join(self.root, path), encoding="utf-8", errors="replace") as file:
                return file.read().strip()
        except OSError:
            return None


def all_findings(run: str) -> "list[Finding]":
    """Everything that is looked at, on this node."""
    from confine.configuration import read_settings
    from confine.control import ask

    paths = Paths(run=run)
    settings, problems = read_settings(paths)
    paths.data = settings.data_dir
    try:
        status = ask(paths.control, "status", timeout=10.0)
    except ConfineError:
        status = None
    return run_checks(Facts(paths, settings, problems, status), CHECKS)


def run_checks(facts: Facts, checks: "tuple[Callable[[Facts], list[Finding]], ...]") -> "list[Finding]":
    """The findings of `checks`; one that fails by itself is a finding, and the others go on."""
    found = []
    for check in checks:
        try:
            found += check(facts)
        except Exception as error:
            what = check.__name__.replace("_", " ").strip()
            found.append(Finding(WARN, what, "could not be looked at: {}: {}".format(type(error).__name__, error)))
    return found


def configuration(facts: Facts) -> "list[Finding]":
    """Every option can be used, and the node knows who it is and whom to ask."""
    edit = "correct it: uci show confine"
    found = [
        Finding(FAIL, "configuration", "{} {}".format(problem.member, problem.message).strip(), edit)
        for problem in facts.problems
    ] or [Finding(OK, "configuration", "every option can be used")]
    if facts.settings.node_id is None:
        todo = "register the node, then: uci set confine.node.id=0012; uci commit confine; /etc/init.d/confine reload"
        found.append(Finding(FAIL, "node id", "it is not set: no sliver goes up", todo))
    else:
        found.append(Finding(OK, "node id", "{:04x}".format(facts.settings.node_id)))
    return found


def daemon(facts: Facts) -> "list[Finding]":
    """The daemon answers, and says nothing is wrong with the node."""
    if facts.status is None:
        todo = "/etc/init.d/confine start, then confine log"
        return [Finding(FAIL, "daemon", "it does not answer on " + facts.paths.control, todo)]
    node = facts.status["node"]
    found = [Finding(OK, "daemon", "version {}, node {}".format(facts.status["version"], node["state"]))]
    for error in node["errors"]:
        text = "{} {}".format(error["member"], error["message"]).strip()
        found.append(Finding(WARN, "node", text, "see confine log"))
    return found


def cgroups(facts: Facts) -> "list[Finding]":
    """cgroup v2 with the controllers that hold the limits."""
    text = facts.text(facts.paths.cgroup.strip("/") + "/cgroup.controllers")
    if text is None:
        todo = "mount -t cgroup2 none {} (kernel: CONFIG_CGROUPS)".format(facts.paths.cgroup)
        return [Finding(FAIL, "cgroups", "there is no cgroup v2 at " + facts.paths.cgroup, todo)]
    there = text.split()
    found = []
    for word in NEEDED_CONTROLLERS:
        if word not in there:
            todo = "use a kernel with this controller (CONFIG_MEMCG, CONFIG_CGROUP_PIDS), not disabled at boot"
            found.append(
                Finding(FAIL, "cgroups", "no controller {}: no limit holds, no sliver starts".format(word), todo)
            )
    for word, what in WANTED_CONTROLLERS.items():
        if word not in there:
            said = "no controller {}: {} of slivers cannot be limited".format(word, what)
            found.append(Finding(WARN, "cgroups", said, "set no such limits, or use a kernel with it"))
    return found or [Finding(OK, "cgroups", "controllers " + " ".join(there))]


def kernel(facts: Facts) -> "list[Finding]":
    """What unprivileged containers on overlays need of the kernel."""
    version = facts.text("proc/sys/kernel/osrelease") or ""
    numbers = tuple(int(word) for word in version.split("-")[0].split(".")[:2] if word.isdigit())
    found = []
    if numbers >= SQUASHFS_IDMAP:
        found.append(Finding(OK, "kernel", version))
    else:
        todo = "use archives (tar) as templates, or a kernel from 6.6 on"
        found.append(Finding(WARN, "kernel", version + " cannot id-map squashfs templates", todo))
    spaces = facts.text("proc/sys/user/max_user_namespaces")
    if spaces is None or spaces == "0":
        todo = "kernel: CONFIG_USER_NS; sysctl user.max_user_namespaces above 0"
        found.append(Finding(FAIL, "user namespaces", "there are none: slivers cannot be unprivileged", todo))
    actions = facts.text("proc/sys/kernel/seccomp/actions_avail") or ""
    if "errno" not in actions.split():
        found.append(Finding(FAIL, "seccomp", "there are no filters", "kernel: CONFIG_SECCOMP_FILTER"))
    systems = (facts.text("proc/filesystems") or "").split()
    for system, module in (("overlay", "kmod-fs-overlay"), ("ext4", "kmod-fs-ext4"), ("squashfs", "kmod-fs-squashfs")):
        if system not in systems:
            todo = "modprobe {0}, or install {1}".format(system, module)
            found.append(Finding(WARN if system == "squashfs" else FAIL, system, "the kernel does not know it", todo))
    return found


def tools(facts: Facts) -> "list[Finding]":
    """The programs that are started."""
    found = []
    for state, programs in ((FAIL, NEEDED_TOOLS), (WARN, WANTED_TOOLS)):
        for program, package in programs.items():
            if not on_path(program):
                found.append(Finding(state, "programs", program + " is not there", "install " + package))
    return found or [Finding(OK, "programs", "all are there")]


def on_path(program: str) -> bool:
    """Whether `program` can be started."""
    places = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return any(os.access(os.path.join(place, program), os.X_OK) for place in places)


def nftables(facts: Facts) -> "list[Finding]":
    """The kernel takes the rules that `confine stop` would put up, and the node's own; they are only tried."""
    from confine.core import firewall as rules

    stop = ["-D", 'port="slv-*"', "-f", os.path.join(facts.paths.share, "stop.nft")]
    return _try_rules(
        stop, "", "traffic cannot be cut off", "install kmod-nft-bridge (kernel: CONFIG_NF_TABLES_BRIDGE)"
    ) or _try_rules(
        ["-f", "-"], rules.render(facts.settings), "the firewall cannot be put up, no sliver starts",
        "install kmod-nft-connlimit, kmod-nft-nat (kernel: CONFIG_NFT_CONNLIMIT, CONFIG_NFT_MASQ)",
    ) or [Finding(OK, "nftables", "traffic can be cut off, and the firewall be put up")]  # fmt: skip


def _try_rules(arguments: "list[str]", text: str, lost: str, todo: str) -> "list[Finding]":
    import subprocess

    try:
        done = subprocess.run(
            ["nft", "-c", *arguments], input=text.encode(), capture_output=True, timeout=NFT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return [Finding(FAIL, "nftables", "cannot be tried: {}".format(error), "install nftables")]
    if done.returncode == 0:
        return []
    said = " ".join(done.stderr.decode("utf-8", "replace").split())[:300]
    return [Finding(FAIL, "nftables", lost + ": " + said, todo)]


def data(facts: Facts) -> "list[Finding]":
    """The data partition is there, is one of its own, and has room."""
    path = facts.settings.data_dir
    try:
        own = os.stat(path).st_dev != os.stat("/").st_dev
        room = os.statvfs(path)
    except OSError as error:
        todo = "mount the data partition at {}, or set node.data_dir".format(path)
        return [Finding(FAIL, "data", "{}: {}".format(path, error.strerror), todo)]
    free, total = room.f_bavail * room.f_frsize // MIB, room.f_blocks * room.f_frsize // MIB
    found = []
    if not own:
        todo = "mount the data partition there: slivers would be lost with the next upgrade"
        found.append(Finding(WARN, "data", path + " lies on the root file system", todo))
    if free <= facts.settings.disk_reserve_mib:
        said = "{} of {} MiB free, {} are kept: nothing new fits".format(free, total, facts.settings.disk_reserve_mib)
        found.append(Finding(WARN, "data", said, "make room, or lower policy.disk_reserve"))
    return found or [Finding(OK, "data", "{}: {} of {} MiB free".format(path, free, total))]


def registry(facts: Facts) -> "list[Finding]":
    """It was read lately, or can be read now, with its certificate verified."""
    uris = facts.settings.registry_uris
    if not uris:
        todo = "uci add_list confine.registry.base_uri=https://.../api/; uci commit confine"
        return [Finding(FAIL, "registry", "no usable address is set", todo)]
    known = (facts.status or {}).get("registry") or {}
    last = known.get("last_read")
    if last and not known.get("error") and time.time() - last < READ_AGAIN * facts.settings.interval_s:
        return [Finding(OK, "registry", "read {:.0f} s ago".format(max(0.0, time.time() - last)))]
    return [_try_registry(facts, uri) for uri in uris]


def _try_registry(facts: Facts, uri: str) -> Finding:
    from confine.registry.transport import Transport

    if uri.startswith("file:"):
        there = os.path.isdir(uri[len("file://") :])
        return Finding(OK if there else FAIL, "registry", uri, "" if there else "this directory is not there")
    transport = Transport(facts.settings.registry_cert, {_origin(uri)}, facts.settings.plain_http)
    fields = {"Accept": "application/json"}
    try:
        answer = transport.get(uri, fields, time.monotonic() + REGISTRY_S, lambda origin: origin == _origin(uri))
    except ConfineError as error:
        todo = "see network, address (registry.base_uri) and certificate (registry.cert)"
        return Finding(FAIL, "registry", "{}: {}".format(uri, error), todo)
    finally:
        transport.close()
    if answer.status != 200:
        said = "{} answers with status {}".format(uri, answer.status)
        return Finding(FAIL, "registry", said, "is this the base of the API? (registry.base_uri)")
    return Finding(OK, "registry", uri + " answers, its certificate is the right one")


def _origin(uri: str) -> str:
    from confine.registry import uris

    return uris.origin(uri)


def _other_tincd(facts: Facts) -> "Finding | None":
    """OpenWrt's own tinc service would start a second tincd for the same network."""
    from confine.drivers import uci

    try:
        section = uci.load("tinc", facts.paths.uci).get("confine") or {}
    except ConfineError:
        return None
    if section.get("enabled") != "1":
        return None
    todo = "uci set tinc.confine.enabled=0; uci commit tinc; /etc/init.d/tinc stop; /etc/init.d/confine-overlay restart"
    return Finding(
        WARN, "overlay", "/etc/config/tinc has a network confine enabled: two tincd are in each other's way", todo
    )


def overlay(facts: Facts) -> "list[Finding]":
    """Where there is to be an overlay, tincd runs and its peers are reached."""
    doc = (facts.status or {}).get("overlay") or {}
    if not doc.get("asked"):
        return []
    if not doc["running"]:
        todo = "/etc/init.d/confine-overlay restart, then see the system log"
        return [Finding(FAIL, "overlay", "tincd does not run", todo)]
    wanted = [peer for peer in doc["peers"] if peer["connect"]]
    rival = _other_tincd(facts)
    reached = [peer["name"] for peer in wanted if peer["reachable"]]
    away = ["{} {}".format(peer["name"], peer["said"] or "") for peer in wanted if not peer["reachable"]]
    found = [rival] if rival is not None else []
    if away:
        state = WARN if reached else FAIL
        found.append(Finding(state, "overlay", "not reached: " + "; ".join(away).strip(), "see confine overlay"))
    if doc["published"] is False:
        found.append(
            Finding(WARN, "overlay", "the registry does not have this node's key", "confine overlay --publish")
        )
    if not wanted:
        todo = "let the registry have a server with tinc addresses, or set node.tinc_gateway"
        found.append(Finding(WARN, "overlay", "no peer to connect to is known", todo))
    return found or [Finding(OK, "overlay", "{}, reached: {}".format(doc["address"], ", ".join(reached)))]


def network(facts: Facts) -> "list[Finding]":
    """The node's own network is as asked; changes that cut it off were undone."""
    known = ((facts.status or {}).get("node") or {}).get("network")
    if known is None:
        return []
    state = known["state"]
    todo = {
        "undone": "see the errors of the node; when it is mended: confine refresh",
        "broken": "correct the file: uci show network, uci show firewall, uci show dhcp",
        "changing": "wait a minute",
    }
    said = {"by hand": "network.manage is 0 or the node has no id: its sections are left alone"}.get(state, state)
    return [Finding(WARN if state in todo else OK, "network", said, todo.get(state, ""))]


def firewall(facts: Facts) -> "list[Finding]":
    """The node's own tables stand; as long as they do not, every sliver is cut off."""
    doc = (facts.status or {}).get("firewall")
    if doc is None:
        return []
    if doc["ok"]:
        from confine import stop

        return [
            Finding(WARN, "firewall", pattern + " is cut off, and nobody decided so", "confine release " + scope)
            for pattern, scope in stop.left_cut(stop.Node(facts.paths)).items()
        ] or [Finding(OK, "firewall", "its tables stand")]
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(doc["since"])) if doc["since"] else "the start"
    said = "slivers are cut off since {}: {}".format(since, doc["said"] or "its tables are not up yet")
    todo = "see confine log, and what else changes nftables on this node"
    return [Finding(FAIL, "firewall", said, todo)]


def confirmed_time(facts: Facts) -> "list[Finding]":
    """Slices expire only by confirmed time."""
    from confine.clock import ntp_date

    today = time.strftime("%Y-%m-%d", time.gmtime())
    if ntp_date() is not None:
        return [Finding(OK, "time", today + ", by NTP")]
    todo = "let NTP set it: uci set system.ntp.enabled=1"
    said = "the clock says {} and nothing confirms it but the registry".format(today)
    return [Finding(WARN, "time", said, todo)]


def limits(facts: Facts) -> "list[Finding]":
    """What runs is held by its limits."""
    running = [one for one in (facts.status or {}).get("slivers", []) if one.get("init_pid")]
    loose = [one["id"] for one in running if not (one.get("limits") or {}).get("held")]
    if loose:
        return [Finding(FAIL, "limits", "they do not hold " + ", ".join(loose), "confine log says why; confine stop")]
    return [Finding(OK, "limits", "read back and held: {} slivers".format(len(running)))] if running else []


def decided(facts: Facts) -> "list[Finding]":
    """Decisions that hold slivers back are worth being reminded of."""
    found = []
    for one in (facts.status or {}).get("slivers", []):
        for text in one.get("decisions") or []:
            found.append(Finding(WARN, "sliver " + one["id"], text))
    return found


def cache(facts: Facts) -> "list[Finding]":
    """The template cache can be written and is within its bound."""
    place = os.path.join(facts.paths.cache, "objects")
    try:
        sizes = [entry.stat().st_size for entry in os.scandir(place)]
    except FileNotFoundError:
        return []
    except OSError as error:
        return [Finding(FAIL, "template cache", "{}: {}".format(place, error.strerror), "see the data partition")]
    said = "{} files, {} of {} MiB".format(len(sizes), sum(sizes) // MIB, facts.settings.cache_max_mib)
    if not os.access(place, os.W_OK):
        return [Finding(FAIL, "template cache", said + ", cannot be written", "see the data partition: dmesg")]
    return [Finding(OK, "template cache", said)]


CHECKS = (
    configuration, daemon, network, firewall, registry, overlay, confirmed_time, kernel, cgroups, nftables, tools, data,
    cache, limits, decided,
)  # fmt: skip

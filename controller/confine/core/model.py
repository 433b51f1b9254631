"""The records that pass between the parts of the controller.

Data flows one way: documents -> `Desired` -> `Step` list -> drivers -> `Observed`, and round again.
Every record is plain data: no behaviour beyond comparing and printing itself (record.py).
"""

from confine.core.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.network_change import NetworkObserved
    from confine.core.wiring import Link, Wired

# What a slice or sliver asks for, lowest first (registry API: register < deploy < start).
REGISTER = "register"
DEPLOY = "deploy"
START = "start"
TARGETS = (REGISTER, DEPLOY, START)

# Where a sliver is (node API).
REGISTERED = "registered"
ALLOCATED = "allocated"
DEPLOYED = "deployed"
STARTED = "started"
FAIL_ALLOCATE = "fail_allocate"
FAIL_DEPLOY = "fail_deploy"
FAIL_START = "fail_start"

# Where a node is, and what the registry may set it to (registry API, node API).
DEBUG = "debug"
FAILURE = "failure"
SAFE = "safe"
PRODUCTION = "production"
NODE_STATES = (DEBUG, FAILURE, SAFE, PRODUCTION)

MIB = 1024 * 1024


class Problem(Record):
    """Something wrong with one member of one object; an entry of `errors[]` in the node API.

    `member` is a JSON pointer into the object ("/resources/0/req") or "" for the whole of it; `message` says
    what happened, with which value, and what to do.
    """

    FIELDS = ("member", "message")

    def __init__(self, member: str, message: str) -> None:
        self.member = member
        self.message = message


class Template(Record):
    """What a sliver's root is made from. `sha256` is 64 lower-case hex digits, of the file behind `uri`."""

    FIELDS = ("id", "name", "type", "uri", "sha256", "archs")

    def __init__(self, id: int, name: str, type: str, uri: str, sha256: str, archs: "list[str]") -> None:
        self.id = id
        self.name = name
        self.type = type
        self.uri = uri
        self.sha256 = sha256
        self.archs = archs


class Data(Record):
    """A researcher's archive that is unpacked over the template. `sha256` as in `Template`."""

    FIELDS = ("uri", "sha256")

    def __init__(self, uri: str, sha256: str) -> None:
        self.uri = uri
        self.sha256 = sha256


class Interface(Record):
    """A sliver's interface as asked for: number 0-255, name inside the sliver, type, parent device or None."""

    FIELDS = ("nr", "name", "type", "parent")

    def __init__(self, nr: int, name: str, type: str, parent: "str | None") -> None:
        self.nr = nr
        self.name = name
        self.type = type
        self.parent = parent


class Limits(Record):
    """What a sliver may use. None means: no limit is set for it.

    memory, disk: MiB (swap is always 0). cpu_percent: of one CPU, 100 = one whole. cpu_weight: 1-10000.
    pids: processes and threads. io_mib_s: MiB per second, reads and writes each. io_ops: operations per second.
    """

    FIELDS = ("memory_mib", "disk_mib", "cpu_percent", "cpu_weight", "pids", "io_mib_s", "io_ops")

    def __init__(
        self,
        memory_mib: int,
        disk_mib: int,
        cpu_percent: "int | None",
        cpu_weight: int,
        pids: int,
        io_mib_s: "int | None",
        io_ops: "int | None",
    ) -> None:
        self.memory_mib = memory_mib
        self.disk_mib = disk_mib
        self.cpu_percent = cpu_percent
        self.cpu_weight = cpu_weight
        self.pids = pids
        self.io_mib_s = io_mib_s
        self.io_ops = io_ops


class SliverTarget(Record):
    """What one sliver of this node should be, worked out of its own, its slice's and its template's documents.

    key: "SLICE@NODE" as the registry has it. name: the host name `<slice 12 hex>_<node 4 hex>`, also the name of
    its container, directory and cgroup. target: effective target, one of TARGETS. keys: SSH public keys allowed
    in, one line each, sorted, no duplicates. problems: what is wrong with its documents; a sliver with
    `blocked` true cannot go further up than it is (but is never taken down for it). reset: how often the node's owner
    had it returned to its template (decisions.py). egress_kbit, ingress_kbit: what all its interfaces together may send
    and receive, kbit/s; None: no bound.
    """

    FIELDS = (
        "key", "name", "uri", "slice_id", "slice_name", "group_id", "node_id", "description", "target",
        "sliver_instance_sn", "slice_instance_sn", "template", "data", "interfaces", "limits", "keys",
        "vlan_tag", "expires_on", "properties", "problems", "blocked", "reset", "egress_kbit", "ingress_kbit",
    )  # fmt: skip

    def __init__(
        self,
        key: str,
        name: str,
        uri: str,
        slice_id: int,
        slice_name: str,
        group_id: int,
        node_id: int,
        description: str,
        target: str,
        sliver_instance_sn: int,
        slice_instance_sn: int,
        template: "Template | None",
        data: "Data | None",
        interfaces: "list[Interface]",
        limits: "Limits",
        keys: "list[str]",
        vlan_tag: "int | None",
        expires_on: "str | None",
        properties: "dict[str, str]",
        problems: "list[Problem]",
        blocked: bool,
        reset: int = 0,
        egress_kbit: "int | None" = None,
        ingress_kbit: "int | None" = None,
    ) -> None:
        self.key = key
        self.name = name
        self.uri = uri
        self.slice_id = slice_id
        self.slice_name = slice_name
        self.group_id = group_id
        self.node_id = node_id
        self.description = description
        self.target = target
        self.sliver_instance_sn = sliver_instance_sn
        self.slice_instance_sn = slice_instance_sn
        self.template = template
        self.data = data
        self.interfaces = interfaces
        self.limits = limits
        self.keys = keys
        self.vlan_tag = vlan_tag
        self.expires_on = expires_on
        self.properties = properties
        self.problems = problems
        self.blocked = blocked
        self.reset = reset
        self.egress_kbit = egress_kbit
        self.ingress_kbit = ingress_kbit


class NodeTarget(Record):
    """What the registry says of this node. `resources`: {name: (max_req or None, dflt_req)}, disk and memory in MiB."""

    FIELDS = ("id", "uri", "name", "description", "arch", "set_state", "boot_sn", "group_id", "keys",
              "resources", "direct_ifaces", "mgmt_addr", "problems")  # fmt: skip

    def __init__(
        self,
        id: int,
        uri: str,
        name: str,
        description: str,
        arch: str,
        set_state: str,
        boot_sn: int,
        group_id: "int | None",
        keys: "list[str]",
        resources: "dict[str, tuple[int | None, int]]",
        direct_ifaces: "list[str]",
        mgmt_addr: "str | None",
        problems: "list[Problem]",
    ) -> None:
        self.id = id
        self.uri = uri
        self.name = name
        self.description = description
        self.arch = arch
        self.set_state = set_state
        self.boot_sn = boot_sn
        self.group_id = group_id
        self.keys = keys
        self.resources = resources
        self.direct_ifaces = direct_ifaces
        self.mgmt_addr = mgmt_addr
        self.problems = problems


class Desired(Record):
    """All that is asked of this node. `node` is None as long as the registry was never read.

    Slivers that are on the node and not in `slivers` are to be removed, but only when `complete` is true: the
    list of slivers really came from the registry. overlay: an OverlayTarget, None as `node` is.
    """

    FIELDS = ("node", "slivers", "complete", "problems", "overlay")

    def __init__(
        self, node: "NodeTarget | None", slivers: "list[SliverTarget]", complete: bool, problems: "list[Problem]",
        overlay: "Any" = None,
    ) -> None:  # fmt: skip
        self.node = node
        self.slivers = slivers
        self.complete = complete
        self.problems = problems
        self.overlay = overlay


class Booking(Record):
    """What the node set aside for a sliver: cannot be observed, so the journal keeps it.

    nr: the node-local sliver number, 1-125 (0x01-0x7d); id range, addresses, MACs and host-side names follow
    from it. memory_mib, disk_mib: what admission counted. vlan_tag: of its slice, as used by its isolated interfaces.
    addresses: public addresses with prefix length, by interface number as text (JSON has no other keys).
    """

    FIELDS = ("key", "name", "nr", "memory_mib", "disk_mib", "vlan_tag", "addresses")

    def __init__(
        self,
        key: str,
        name: str,
        nr: int,
        memory_mib: int,
        disk_mib: int,
        vlan_tag: "int | None" = None,
        addresses: "dict[str, str] | None" = None,
    ) -> None:
        self.key = key
        self.name = name
        self.nr = nr
        self.memory_mib = memory_mib
        self.disk_mib = disk_mib
        self.vlan_tag = vlan_tag
        self.addresses = addresses or {}


class SliverObserved(Record):
    """What is found on disk, in the kernel and in LXC for one sliver name.

    allocation / deployment: the documents that `storage allocate` / `storage populate` wrote last, or None.
    formatted, mounted, limited, running: as found. limits_held: the limits read back equal those asked for
    (None: not running). init_pid: host pid of the sliver's init. frozen: its processes are kept from running.
    damaged: what is wrong with its documents, a sentence each; one that is there and damaged is {} here.
    admitted: the ports (firewall.Port) that the firewall lets speak for it.
    """

    FIELDS = ("name", "allocation", "deployment", "formatted", "mounted", "limited", "running", "limits_held",
              "init_pid", "frozen", "damaged", "wired", "admitted")  # fmt: skip

    def __init__(
        self,
        name: str,
        allocation: "dict[str, Any] | None" = None,
        deployment: "dict[str, Any] | None" = None,
        formatted: bool = False,
        mounted: bool = False,
        limited: bool = False,
        running: bool = False,
        limits_held: "bool | None" = None,
        init_pid: "int | None" = None,
        frozen: bool = False,
        damaged: "list[str] | None" = None,
        wired: "Wired | None" = None,
        admitted: "list[Any] | None" = None,
    ) -> None:
        self.name = name
        self.allocation = allocation
        self.deployment = deployment
        self.formatted = formatted
        self.mounted = mounted
        self.limited = limited
        self.running = running
        self.limits_held = limits_held
        self.init_pid = init_pid
        self.frozen = frozen
        self.damaged = damaged if damaged is not None else []
        self.wired = wired
        self.admitted = admitted if admitted is not None else []


class Observed(Record):
    """All that was found on the node. slivers: {name: SliverObserved}; whatever has any trace of its own is in it.

    cached: sha256 of verified files in the cache; unpacked: sha256 of templates ready to be mounted.
    bridge, firewall: the node's own parts are as they should be. disk_total_mib, disk_free_mib: of the data
    partition. memory_total_mib: of the machine. overlay: an OverlayFound, None where it is not looked at.
    network: the node's own network; None: it is not looked after here. links: the node's own interfaces by name.
    """

    FIELDS = ("slivers", "cached", "unpacked", "bridge", "firewall", "disk_total_mib", "disk_free_mib",
              "memory_total_mib", "overlay", "network", "links")  # fmt: skip

    def __init__(
        self,
        slivers: "dict[str, SliverObserved]",
        cached: "list[str]",
        unpacked: "list[str]",
        bridge: bool,
        firewall: bool,
        disk_total_mib: int,
        disk_free_mib: int,
        memory_total_mib: int,
        overlay: "Any" = None,
        network: "NetworkObserved | None" = None,
        links: "dict[str, Link] | None" = None,
    ) -> None:
        self.network = network
        self.slivers = slivers
        self.cached = cached
        self.unpacked = unpacked
        self.bridge = bridge
        self.firewall = firewall
        self.disk_total_mib = disk_total_mib
        self.disk_free_mib = disk_free_mib
        self.memory_total_mib = memory_total_mib
        self.overlay = overlay
        self.links = links or {}


class Step(Record):
    """One small idempotent change: `driver`.`verb` on `subject`.

    subject: a sliver's name, or "node". sliver, booking: what the step is about (None for node steps; for the
    removal of a sliver that is no longer asked for, `sliver` is None and `booking` may be). why: one line for
    a person. target: what the documents say of a part of the node that the step is about, or None. who: on whose
    word, if not on that of those who asked for the sliver.
    """

    FIELDS = ("driver", "verb", "subject", "why")

    def __init__(
        self,
        driver: str,
        verb: str,
        subject: str,
        why: str,
        sliver: "SliverTarget | None" = None,
        booking: "Booking | None" = None,
        target: "Any" = None,
        who: str = "",
    ) -> None:
        self.driver = driver
        self.verb = verb
        self.subject = subject
        self.why = why
        self.sliver = sliver
        self.booking = booking
        self.target = target
        self.who = who


class Failure(Record):
    """A step that failed for one sliver: which, why, how often in a row, and when to try again (monotonic s)."""

    FIELDS = ("driver", "verb", "message", "count", "retry_at")

    def __init__(self, driver: str, verb: str, message: str, count: int, retry_at: float) -> None:
        self.driver = driver
        self.verb = verb
        self.message = message
        self.count = count
        self.retry_at = retry_at

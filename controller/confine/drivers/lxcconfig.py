"""The LXC configuration of a sliver, as text. Pure: no I/O.

Written for LXC 6.0 on cgroup v2. What the settings mean and why they stand there is said at each; everything that LXC
would add by its own `common.conf` is left out, since it is written for containers that somebody trusts.
"""

from confine.core.addressing import IDS_PER_SLIVER, parse_hostname
from confine.drivers import cgroups
from confine.errors import StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from confine.core.interfaces import SliverInterface

# Capabilities inside the sliver's own user namespace, and their numbers (capability.h). No sys_admin: a sliver neither
# mounts nor makes namespaces. sys_boot only ends the sliver's own init: without it an orderly halt never ends.
CAPABILITIES = {
    "chown": 0, "dac_override": 1, "fowner": 3, "fsetid": 4, "kill": 5, "setgid": 6, "setuid": 7, "setpcap": 8,
    "net_bind_service": 10, "net_admin": 12, "net_raw": 13, "sys_chroot": 18, "sys_boot": 22, "setfcap": 31,
}  # fmt: skip

# /dev/null, zero, full, random, urandom, tty, console, ptmx, pseudo terminals. A sliver makes no device nodes.
DEVICES = ("c 1:3 rw", "c 1:5 rw", "c 1:7 rw", "c 1:8 rw", "c 1:9 rw", "c 5:0 rw", "c 5:1 rw", "c 5:2 rw", "c 136:* rw")

# The console log is two files of this size at most: LXC moves the full one to console.log.1 and starts anew.
CONSOLE_LOG = "64KB"
MAX_INTERFACE_NAME = 10


class TemplateType:
    """What differs between types of templates.

    halt: the signal that makes its init halt (for lxc-stop by hand; the controller looks what init listens to).
    ttys: terminals that its init expects gettys on. temporary: directories that are to be empty after a start; its
    init may not mount them itself. cgroups: whether its init needs to see its cgroup.
    """

    def __init__(self, halt: str, ttys: int, temporary: "Sequence[str]", cgroups: bool) -> None:
        self.halt = halt
        self.ttys = ttys
        self.temporary = temporary
        self.cgroups = cgroups


GENERIC = TemplateType("SIGPWR", 0, ("dev/shm",), False)
TYPES = {
    # As podman does for systemd, which runs without sys_admin if these are there already.
    "debian": TemplateType("SIGRTMIN+3", 4, ("dev/shm", "run", "tmp"), True),
    "openwrt": TemplateType("SIGPWR", 0, ("dev/shm", "tmp"), False),
}


class Container:
    """All that the configuration of one sliver is made from.

    memory_mib: bounds its temporary file systems. seccomp: path of the policy. port_script: path of the program that
    isolates the sliver's port before it starts. interfaces: private ones. hook: command that makes the others right
    before the sliver's init begins, or "". apparmor: whether the kernel has AppArmor switched on.
    """

    def __init__(
        self,
        name: str,
        root: str,
        id_base: int,
        template_type: str,
        memory_mib: int,
        console_log: str,
        seccomp: str,
        port_script: str,
        apparmor: bool,
        interfaces: "Sequence[SliverInterface]",
        hook: str = "",
    ) -> None:
        self.name = name
        self.root = root
        self.id_base = id_base
        self.template_type = template_type
        self.memory_mib = memory_mib
        self.console_log = console_log
        self.seccomp = seccomp
        self.port_script = port_script
        self.apparmor = apparmor
        self.interfaces = interfaces
        self.hook = hook


def template_type(name: str) -> TemplateType:
    """The template type `name`; the generic one for those that are not known."""
    return TYPES.get(name, GENERIC)


def render(container: Container) -> str:
    """The text of the sliver's LXC configuration. StepError for a value that cannot stand in one."""
    if parse_hostname(container.name) is None:
        raise StepError(f"{container.name!r} is not a sliver's name: it must be <slice 12 hex>_<node 4 hex>")
    kind = template_type(container.template_type)
    lines = _identity(container) + _cgroup(container) + _confinement(container)
    lines += _mounts(container, kind) + _terminals(container, kind)
    for index, interface in enumerate(container.interfaces):
        lines += _network(index, interface, container.port_script)
    if container.hook:
        lines.append(("lxc.hook.start-host", container.hook))
    return "".join(f"{key} = {checked(key, value)}\n" for key, value in lines)


def checked(key: str, value: str) -> str:
    """`value` if it can stand as it is behind `key =`: printable ASCII, nothing that LXC's parser would take away."""
    good = value == value.strip() and value and all(" " <= char <= "~" for char in value)
    if not good or value[0] in "\"'":
        raise StepError(f"{value!r} cannot be the value of {key} in an LXC configuration")
    return value


def _path(key: str, path: str) -> str:
    """A path for mounts and programs, where LXC splits at spaces."""
    if not path.startswith("/") or " " in path or ".." in path.split("/"):
        raise StepError(f"path {path!r} cannot be used for {key}: it must be absolute, without spaces and '..'")
    return path


def _identity(container: Container) -> "list[tuple[str, str]]":
    ids = f"0 {container.id_base} {IDS_PER_SLIVER}"
    return [
        ("lxc.uts.name", container.name),
        ("lxc.rootfs.path", f"dir:{_path('lxc.rootfs.path', container.root)}"),
        ("lxc.idmap", f"u {ids}"),
        ("lxc.idmap", f"g {ids}"),
        ("lxc.init.cmd", "/sbin/init"),
    ]


def _cgroup(container: Container) -> "list[tuple[str, str]]":
    """LXC makes the last directory itself and refuses one that exists; the ones above it may exist, and are limited."""
    lines = [
        ("lxc.cgroup.dir.container", f"{cgroups.SLIVERS}/{container.name}/{cgroups.INNER}"),
        ("lxc.cgroup.dir.monitor", f"{cgroups.MONITORS}/{container.name}"),
        ("lxc.cgroup.dir.monitor.pivot", cgroups.PIVOT),
        ("lxc.cgroup2.devices.deny", "a"),
    ]
    return lines + [("lxc.cgroup2.devices.allow", device) for device in DEVICES]


def _confinement(container: Container) -> "list[tuple[str, str]]":
    lines = [
        ("lxc.cap.keep", " ".join(CAPABILITIES)),
        ("lxc.seccomp.profile", _path("lxc.seccomp.profile", container.seccomp)),
        # no_new_privs stays off: su, sudo and ping work by set-uid, within the sliver's own id range.
        ("lxc.proc.oom_score_adj", "200"),  # when the machine itself runs out of memory, slivers go before the node
    ]
    if container.apparmor:
        # Its profiles are the distribution's, not ours; without the key LXC fails where it cannot load one.
        lines.append(("lxc.apparmor.profile", "unconfined"))
    return lines


def _mounts(container: Container, kind: TemplateType) -> "list[tuple[str, str]]":
    automatic = f"proc:mixed sys:mixed{' cgroup:rw:force' if kind.cgroups else ''}"
    lines = [
        ("lxc.mount.auto", automatic),
        ("lxc.autodev", "1"),
        ("lxc.autodev.tmpfs.size", "65536"),
    ]
    size = max(1, container.memory_mib // 4)  # each; all of it counts as the sliver's memory
    for directory in kind.temporary:
        mode = "755" if directory == "run" else "1777"
        options = f"rw,nosuid,nodev,mode={mode},size={size}m,create=dir"
        lines.append(("lxc.mount.entry", f"tmpfs {directory} tmpfs {options} 0 0"))
    return lines


def _terminals(container: Container, kind: TemplateType) -> "list[tuple[str, str]]":
    return [
        ("lxc.tty.max", str(kind.ttys)),
        ("lxc.pty.max", "64"),
        ("lxc.console.logfile", _path("lxc.console.logfile", container.console_log)),
        ("lxc.console.size", CONSOLE_LOG),
        ("lxc.console.rotate", "1"),
        ("lxc.signal.halt", kind.halt),
    ]


def _network(index: int, interface: "SliverInterface", port_script: str) -> "list[tuple[str, str]]":
    """LXC runs the script each time it has made the veth, also when the sliver restarts itself."""
    name = interface.name
    letters = name.rstrip("0123456789")
    if (
        name == "lo"
        or len(name) > MAX_INTERFACE_NAME
        or not (letters.isascii() and letters.isalpha() and letters.islower())
    ):
        raise StepError(
            f"{name!r} cannot be the name of a sliver's interface: it must be like eth0, 10 characters at most"
        )
    prefix = f"lxc.net.{index}."
    lines = [
        ("type", "veth"),
        ("link", interface.bridge or ""),
        ("flags", "up"),
        ("name", name),
        ("hwaddr", interface.mac or ""),
        ("veth.pair", interface.port),
        ("ipv4.address", interface.ipv4[0]),
        ("ipv6.address", interface.ipv6[0]),
    ]
    for destination, gateway, metric in interface.routes:
        if gateway is not None and not metric:  # the worker makes those that give way to others: LXC knows no metric
            lines.append(("ipv6.gateway" if ":" in destination else "ipv4.gateway", gateway))
    lines.append(("script.up", _path("script.up", port_script)))
    return [(prefix + key, value) for key, value in lines]

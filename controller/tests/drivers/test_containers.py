"""The LXC configuration as text, and what is decided from what the kernel shows."""

import os
import signal
import subprocess
import threading

import pytest

from confine.core.interfaces import SliverInterface
from confine.core.model import Booking, Interface, Limits, SliverTarget, Template
from confine.core.settings import Settings
from confine.core.wiring import Link
from confine.drivers import containers, lxcconfig, syscalls
from confine.drivers.interfaces import Interfaces
from confine.drivers.lxcconfig import Container, render
from confine.errors import StepError
from confine.paths import Paths

NAME = "00000000000a_0012"
SETTINGS = Settings(node_id=0x12)


def private(**changes):
    made = SliverInterface(NAME, 10, 7, 0, "eth0", "private", "slv-07-00")
    made.bridge, made.mac = "br-confine", "54:c0:00:12:07:00"
    made.ipv4, made.ipv6 = ["192.168.241.7/25"], ["fdbd:e804:6aa9:0:1000::a/64"]
    made.routes = [("0.0.0.0/0", "192.168.241.126", 0), ("::/0", "fdbd:e804:6aa9::1", 0)]
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def container(**changes):
    values = {
        "name": NAME, "root": "/run/confine/mounts/slivers/" + NAME + "/root", "id_base": 0x1070000,
        "template_type": "generic", "memory_mib": 64, "console_log": "/srv/confine/slivers/" + NAME + "/console.log",
        "seccomp": "/usr/lib/confine/share/sliver.seccomp", "port_script": "/usr/lib/confine/share/isolate-port",
        "apparmor": False,
        "interfaces": [private()],
    }  # fmt: skip
    return Container(**{**values, **changes})


def lines(text, key):
    """All values of `key` in a configuration."""
    pairs = [line.split(" = ", 1) for line in text.splitlines()]
    return [value for name, value in pairs if name == key]


def test_the_configuration_of_a_generic_sliver_reads_as_expected():
    assert render(container()) == (
        """\
lxc.uts.name = 00000000000a_0012
lxc.rootfs.path = dir:/run/confine/mounts/slivers/00000000000a_0012/root
lxc.idmap = u 0 17235968 65536
lxc.idmap = g 0 17235968 65536
lxc.init.cmd = /sbin/init
lxc.cgroup.dir.container = confine/00000000000a_0012/sliver
lxc.cgroup.dir.monitor = confine-monitor/00000000000a_0012
lxc.cgroup.dir.monitor.pivot = confine-pivot
lxc.cgroup2.devices.deny = a
lxc.cgroup2.devices.allow = c 1:3 rw
lxc.cgroup2.devices.allow = c 1:5 rw
lxc.cgroup2.devices.allow = c 1:7 rw
lxc.cgroup2.devices.allow = c 1:8 rw
lxc.cgroup2.devices.allow = c 1:9 rw
lxc.cgroup2.devices.allow = c 5:0 rw
lxc.cgroup2.devices.allow = c 5:1 rw
lxc.cgroup2.devices.allow = c 5:2 rw
lxc.cgroup2.devices.allow = c 136:* rw
lxc.cap.keep = chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service net_admin net_raw"""
        """ sys_chroot sys_boot setfcap
lxc.seccomp.profile = /usr/lib/confine/share/sliver.seccomp
lxc.proc.oom_score_adj = 200
lxc.mount.auto = proc:mixed sys:mixed
lxc.autodev = 1
lxc.autodev.tmpfs.size = 65536
lxc.mount.entry = tmpfs dev/shm tmpfs rw,nosuid,nodev,mode=1777,size=16m,create=dir 0 0
lxc.tty.max = 0
lxc.pty.max = 64
lxc.console.logfile = /srv/confine/slivers/00000000000a_0012/console.log
lxc.console.size = 64KB
lxc.console.rotate = 1
lxc.signal.halt = SIGPWR
lxc.net.0.type = veth
lxc.net.0.link = br-confine
lxc.net.0.flags = up
lxc.net.0.name = eth0
lxc.net.0.hwaddr = 54:c0:00:12:07:00
lxc.net.0.veth.pair = slv-07-00
lxc.net.0.ipv4.address = 192.168.241.7/25
lxc.net.0.ipv6.address = fdbd:e804:6aa9:0:1000::a/64
lxc.net.0.ipv4.gateway = 192.168.241.126
lxc.net.0.ipv6.gateway = fdbd:e804:6aa9::1
lxc.net.0.script.up = /usr/lib/confine/share/isolate-port
"""
    )


def test_a_debian_sliver_gets_what_systemd_needs_without_the_right_to_mount():
    text = render(container(template_type="debian"))
    assert lines(text, "lxc.mount.auto") == ["proc:mixed sys:mixed cgroup:rw:force"]
    assert [entry.split()[1] for entry in lines(text, "lxc.mount.entry")] == ["dev/shm", "run", "tmp"]
    assert lines(text, "lxc.signal.halt") == ["SIGRTMIN+3"]
    assert "sys_admin" not in text


def test_a_type_of_template_that_is_not_known_is_treated_as_generic():
    assert render(container(template_type="plan9")) == render(container(template_type="generic"))


def test_no_type_of_template_keeps_a_capability_that_reaches_beyond_the_sliver():
    risky = {"sys_admin", "sys_module", "sys_rawio", "sys_time", "sys_ptrace", "mknod", "mac_admin", "syslog", "bpf"}
    for kind in ("generic", "debian", "openwrt"):
        assert not risky & set(lines(render(container(template_type=kind)), "lxc.cap.keep")[0].split())


def test_the_apparmor_key_is_written_only_where_the_kernel_has_it_enabled():
    assert lines(render(container(apparmor=True)), "lxc.apparmor.profile") == ["unconfined"]
    assert lines(render(container(apparmor=False)), "lxc.apparmor.profile") == []


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "x\nlxc.hook.start-host = /bin/sh"},
        {"name": "../../etc"},
        {"root": "/srv/a\nlxc.cap.keep = sys_admin"},
        {"root": "/srv/with space/root"},
        {"root": "relative"},
        {"root": "/srv/../etc"},
        {"seccomp": ""},
        {"interfaces": [private(name="lo")]},
        {"interfaces": [private(name="eth0\nlxc.net.0.type = phys")]},
        {"interfaces": [private(name="Eth0")]},
        {"interfaces": [private(name="a" * 11)]},
        {"interfaces": [private(name="0")]},
        {"interfaces": [private(mac="54:c0\n")]},
        {"interfaces": [private(port='"slv')]},
    ],
)
def test_a_value_that_would_break_out_of_its_line_is_refused(changes):
    with pytest.raises(StepError):
        render(container(**changes))


def target(*interfaces):
    return SliverTarget(
        "10@18", NAME, "u", 10, "s", 1, 0x12, "", "start", 1, 1, Template(1, "t", "debian", "u", "0" * 64, []), None,
        list(interfaces), Limits(64, 64, None, 100, 64, None, None), [], None, None, {}, [], False,
    )  # fmt: skip


def test_lxc_makes_a_private_interface_alone_and_has_the_worker_make_others(tmp_path):
    driver = Interfaces(Paths(run=str(tmp_path)), Settings(node_id=0x12, mgmt_ipv6_prefix48="fd65:fc41:c50f"))
    booking = Booking("10@18", NAME, 7, 64, 64)
    driver.snapshot = lambda: None
    driver.links = {"br-confine": Link(True, None, "", True, True)}
    private_only = target(Interface(0, "eth0", "private", None))
    assert driver.at_start(private_only, booking) == ([private()], None)
    both = target(*private_only.interfaces, Interface(1, "mgmt0", "management", None))
    made, job = driver.at_start(both, booking)
    assert made == [private()]
    assert [wanted["port"] for wanted in job["wanted"]] == ["slv-07-00", "slv-07-01"]
    assert job["cgroup"] == "/confine/" + NAME


def test_a_default_route_that_gives_way_to_another_is_left_to_the_worker():
    text = render(container(interfaces=[private(routes=[("0.0.0.0/0", "192.168.241.126", 2048)])], hook="env a b"))
    assert lines(text, "lxc.net.0.ipv4.gateway") == []
    assert lines(text, "lxc.hook.start-host") == ["env a b"]


def mask(*signals):
    return f"{sum(1 << (number - 1) for number in signals):016x}"


@pytest.mark.parametrize(
    "status,expected",
    [
        ({"SigBlk": mask(signal.SIGRTMIN + 3, signal.SIGTERM, signal.SIGPWR)}, signal.SIGRTMIN + 3),  # systemd
        ({"SigCgt": mask(signal.SIGPWR, signal.SIGTERM, signal.SIGUSR1)}, signal.SIGPWR),  # procd, sysvinit
        ({"SigCgt": mask(signal.SIGTSTP)}, signal.SIGPWR),  # busybox: waits for the others with sigtimedwait
        ({"SigCgt": mask(signal.SIGTERM)}, signal.SIGTERM),  # a plain program
        ({"SigIgn": mask(signal.SIGPWR, signal.SIGTERM)}, None),
        ({}, signal.SIGPWR),
    ],
)
def test_each_init_gets_the_signal_that_it_halts_by(status, expected):
    assert containers.halt_signal(status) == expected


def test_the_cause_of_a_failed_start_comes_first_and_in_plain_words():
    log = (
        'lxc-start a 20261120091122.574 ERROR    start - ../src/lxc/start.c:lxc_spawn:100 - Not allowed - No "x"\n'
        "lxc-start a 20261120091122.577 ERROR    sync - ../src/lxc/sync.c:sync_wait:34 - An error occurred\x1b[0m\n"
        "lxc-start a 20261120091122.577 WARN     sync - ../src/lxc/sync.c:sync_wait:35 - Not this\n"
    )
    assert containers.errors_of_lxc(log) == 'Not allowed - No "x"; An error occurred?[0m'
    assert containers.errors_of_lxc("") == "(nothing)"


def test_a_process_of_this_machine_does_not_pass_for_a_confined_init():
    with pytest.raises(StepError, match="uid_map"):
        containers.check_confinement(os.getpid(), NAME, 0x1070000)


def test_the_seccomp_policy_and_the_capabilities_agree_with_what_is_checked():
    assert lxcconfig.CAPABILITIES["setfcap"] == 31
    found = subprocess.run(
        ["grep", "-hE", "#define CAP_[A-Z_]+[[:space:]]+[0-9]+$", "/usr/include/linux/capability.h"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if found.returncode != 0:
        pytest.skip("there are no kernel headers on this machine")
    kernel = {words[1][4:].lower(): int(words[2]) for words in (line.split() for line in found.stdout.splitlines())}
    assert {name: kernel[name] for name in lxcconfig.CAPABILITIES} == lxcconfig.CAPABILITIES


def test_a_program_that_ends_is_noticed_at_once_and_one_that_does_not_is_killed():
    quick = subprocess.Popen(["sh", "-c", "exit 3"])
    assert containers.ended(quick, 20) == 3
    stuck = subprocess.Popen(["sleep", "60"])
    assert containers.ended(stuck, 0.05) is None
    assert stuck.returncode == -9


def test_what_starts_slivers_cannot_load_kernel_modules_and_others_still_can():
    def bounding():
        with subprocess.Popen(["cat", "/proc/self/status"], stdout=subprocess.PIPE, text=True) as child:
            words = dict(line.split(":", 1) for line in child.stdout)
        return int(words["CapBnd"], 16) >> syscalls.CAP_SYS_MODULE & 1

    if not bounding() or os.geteuid() != 0:
        pytest.skip("may load no modules itself")
    found = []

    def starts():
        syscalls.leave_modules_alone()
        found.append(bounding())

    thread = threading.Thread(target=starts)
    thread.start()
    thread.join()
    assert (found, bounding()) == ([0], 1)

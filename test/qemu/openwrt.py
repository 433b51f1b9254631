"""The virtual nodes' cases on an OpenWrt image: `make test-openwrt KERNEL=vmlinuz ROOT=root.squashfs`.

    python3 test/qemu/openwrt.py --kernel FILE --root FILE [--initrd FILE] [--only WORD]

The image is put on a disk with two slots and started through GRUB. First come checks that need no more than a shell on
the serial console; then, if the image has Python for the harness's agent, the cases of test/qemu/ that are not about
the reference image itself. At the end stands a list of what ran, how it went, what could not run and why. Exit
status 0 if nothing failed.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [ROOT, os.path.join(ROOT, "test"), os.path.join(ROOT, "controller")]

from firmware.image import tools  # noqa: E402
from firmware.image.compose import compose  # noqa: E402
from qemu.harness import Hardware, VirtualNode  # noqa: E402
from qemu.harness_channel import NoAnswer, NodeError  # noqa: E402

REFERENCE = os.path.join(ROOT, "firmware", "reference")
NODE_ID = "0a0b"
CONFIGURATION = f"config node 'node'\n\toption id '{NODE_ID}'\n"
# The cases have one card, on QEMU's own network. It is called lan: OpenWrt's firewall lets in what comes from there.
CASES_NETWORK = """
config interface 'loopback'
	option device 'lo'
	option proto 'static'
	list ipaddr '127.0.0.1/8'

config interface 'lan'
	option device 'eth0'
	option proto 'dhcp'
"""
START_S = 300.0
SHELL_S = 90.0
AGENT_S = 120.0
SERVICE_S = 60.0
SUITE_S = 6 * 3600
# Two cards, as OpenWrt's own defaults have it: eth0 is the LAN, eth1 the way out.
HARDWARE = Hardware(memory_mib=768, uplink="user,net=192.168.1.0/24,host=192.168.1.2", netdevs=("user",))
# Lines are read by a loop and not by the shell's editor, which would break long ones over the screen.
READER = r'while read -r line; do eval "$line"; done'


@dataclass(frozen=True)
class Check:
    """One line for the node's shell. wanted: what its output has to match. needs: a program the image must have."""

    name: str
    line: str
    wanted: str
    needs: str = ""


CHECKS = (
    Check("slot a was started through GRUB", "cat /proc/cmdline", r"confine\.slot=a"),
    Check("the root is slot a's squashfs, read-only", "grep ' /rom squashfs ' /proc/mounts", r"/rom squashfs ro"),
    Check("changes are kept behind the root, in its partition", "grep ' /overlay ' /proc/mounts",
          r"/dev/loop\d+ /overlay (ext4|f2fs) rw"),
    Check("the configuration of its own was taken over", "uci get confine.node.id", NODE_ID, "uci"),
    Check("the data partition is at /srv", "grep ' /srv ' /proc/mounts", r"/srv ext4 rw,nosuid,nodev"),
    Check("the kernel limits memory, processes, processor and disk",
          "cat /sys/fs/cgroup/cgroup.controllers | tr ' ' '\\n' | sort | tr '\\n' ' '", r"cpu .*io .*memory .*pids "),
    Check("containers without privileges are possible", "cat /proc/sys/user/max_user_namespaces", r"[1-9]"),
    Check("the kernel has id-mapped squashfs (6.6 or later)", "uname -r", r"^(6\.([6-9]|\d\d)|[7-9])"),
    Check("the kernel can start another one by kexec", "cat /sys/kernel/kexec_loaded", r"^0$", "kexec"),
    Check("ubus answers", "ubus call system board", r'"kernel"', "ubus"),
    Check("netifd has brought the LAN up", "ubus call network.interface.lan status | grep '\"up\"'", r"true", "netifd"),
    Check("the web server answers", "uclient-fetch -qO- http://127.0.0.1/ | head -n 3",
          r"(?i)<html|<!doctype", "uhttpd"),
    Check("the firewall is loaded", "nft list tables", r"table inet fw4", "fw4"),
    Check("the daemon answers", "confine status | head -n 1", rf"node {NODE_ID}", "confine"),
    Check("its object is on ubus", "ubus list confine", r"confine", "confine"),
    Check("slots can be told", "confine upgrade | head -n 5", r"(?i)slot|a ", "confine"),
    Check("the kernel met no fault of its own", "dmesg | grep -cE 'BUG:|Oops|Call Trace' || true", r"^0$"),
)  # fmt: skip

# Of test/qemu/: why a file's cases cannot run on another image than the reference image. All others are tried.
OTHERWISE = {
    "test_community.py": "a LAN of nodes set up by the reference image's own network script",
    "test_init.py": "about the reference image's stand-ins for init and procd",
    "test_lan.py": "about the laboratory itself",
    "test_luci.py": "pages in a browser; for a real LuCI: test/luci/test_genuine.py",
    "test_narrate.py": "about the words of `make run`",
    "test_netifd_standin.py": "about the reference image's stand-in for netifd",
    "test_run.py": "about `make run`",
    "test_spike_boot_pointer.py": "makes a disk of its own",
    "test_spike_partition_table.py": "makes a disk of its own",
}


@dataclass(frozen=True)
class Outcome:
    """How one case went. how: ok, failed, could not. why: for the last two."""

    name: str
    how: str
    why: str = ""


class Console:
    """A shell on the node's serial port, for images without anything else to talk to."""

    def __init__(self, node: VirtualNode, path: str) -> None:
        self._node = node
        self._number = 0
        self._socket = socket.socket(socket.AF_UNIX)
        node.wait_for("the serial port can be reached", lambda: self._connected(path), 30)
        self._socket.settimeout(0.2)

    def _connected(self, path: str) -> bool:
        try:
            self._socket.connect(path)
        except OSError:
            return False
        return True

    def open(self) -> None:
        """Wait for a shell: OpenWrt's console asks for Enter, others give one at once. NoAnswer if none comes."""

        def shell() -> bool:
            self._socket.sendall(b"\n" + READER.encode() + b"\n")
            self._number += 1
            return self._answer(2.0, "true") is not None

        self._node.wait_for("a shell answers on the serial port", shell, START_S, 1.0)
        self.run("dmesg -n 1")  # what the kernel says would stand amid the answers

    def run(self, line: str) -> str:
        """What a line of shell prints. NoAnswer at the deadline."""
        self._number += 1
        said = self._answer(SHELL_S, line)
        if said is None:
            raise NoAnswer(f"no answer after {SHELL_S:g} s to: {line}{self._node.serial_tail()}")
        return said

    def _answer(self, timeout: float, line: str) -> str | None:
        # The marks are put together by the shell, so that the echo of what is typed has none of them.
        begin, end = f"@@{self._number}<", f"@@{self._number}>"
        self._socket.sendall(f'echo "@@""{self._number}<"; {line}; echo "@@""{self._number}>"\n'.encode())
        heard = ""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            self._node.check_alive()
            try:
                heard += self._socket.recv(65536).decode(errors="replace").replace("\r", "")
            except TimeoutError:
                continue
            if end in heard:
                return heard.split(end)[0].rpartition(begin)[2].strip("\n")
        return None

    def close(self) -> None:
        self._socket.close()


def lay_in(path: str, network: str = "") -> None:
    """Write the archive that the node unpacks at its first start: its configuration and the harness's agent.

    network: /etc/config/network; without it as the image has it.
    """
    files = {"etc/config/confine": (CONFIGURATION.encode(), 0o600)}
    if network:
        files["etc/config/network"] = (network.encode(), 0o600)
    for name, source in (("etc/init.d/agent", "rootfs/etc/init.d/agent"), ("usr/libexec/confine-agent.py", "agent.py")):
        with open(os.path.join(REFERENCE, source), "rb") as file:
            files[name] = (file.read(), 0o755)
    with tarfile.open(path, "w:gz") as tar:
        for name, (content, mode) in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), mode
            tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("etc/rc.d/S11agent")
        link.type, link.linkname = tarfile.SYMTYPE, "../init.d/agent"
        tar.addfile(link)


def make_disk(kernel: str, root: str, initrd: str | None, directory: str, network: str = "") -> str:
    """The image on a disk with two slots. network: see lay_in."""
    archive, disk = os.path.join(directory, "node.tgz"), os.path.join(directory, "disk.img")
    lay_in(archive, network)
    compose(kernel, initrd, root, disk, archive)
    return disk


def judged(check: Check, console: Console, patience: float = SERVICE_S) -> Outcome:
    """One check on a console. patience: seconds, since what an init script has started may still be coming up."""
    if check.needs and not console.run(f"command -v {check.needs} || ls /sbin/{check.needs} 2>/dev/null"):
        return Outcome(check.name, "could not", f"the image has no {check.needs}")
    deadline = time.monotonic() + patience
    while True:
        said = console.run(f"{{ {check.line}; }} 2>&1")
        if re.search(check.wanted, said, re.MULTILINE):
            return Outcome(check.name, "ok")
        if time.monotonic() > deadline:
            break
        time.sleep(1)
    return Outcome(check.name, "failed", f"{check.line}: {' '.join(said.split())[:160] or 'nothing'}")


def check_console(disk: str, directory: str, only: str) -> tuple[list[Outcome], bool]:
    """The checks that need a shell; and whether the agent answers, so that the others can be tried."""
    path = os.path.join(directory, "console")
    with VirtualNode(disk, "openwrt", hardware=HARDWARE, console=path, wait_until_up=False) as node:
        console = Console(node, path)
        try:
            console.open()
            # Init scripts may run still: the last of them says so.
            node.wait_for("all init scripts have run", lambda: _settled(console), START_S, 1.0)
            outcomes = [judged(check, console) for check in CHECKS if only in check.name]
            return outcomes, _has_agent(node, console)
        except NodeError as error:
            return [Outcome("the image starts and gives a shell on its serial port", "failed", str(error))], False
        finally:
            console.close()


def _settled(console: Console) -> bool:
    """Have all init scripts run? procd says so in the log; elsewhere none of them is there any more."""
    if console.run("ls /sbin/procd 2>/dev/null"):
        return bool(console.run("{ dmesg; logread; } 2>/dev/null | grep -F -e '- init complete -'"))
    return console.run("ps | grep -c '[r]cS S boot'") == "0"


def _has_agent(node: VirtualNode, console: Console) -> bool:
    if not console.run("command -v python3"):
        return False
    try:
        node.wait_for("the harness's agent answers", lambda: node.boot_id(timeout=5), AGENT_S)
    except NodeError:
        return False
    return True


def run_cases(kernel: str, root: str, initrd: str | None, directory: str, only: str) -> list[Outcome]:
    """The cases of test/qemu/, in a pytest of their own, on that image."""
    report = os.path.join(directory, "report.xml")
    here = os.path.join(ROOT, "test", "qemu")
    argv = [sys.executable, "-m", "pytest", "-q", "-m", "qemu and not torture", f"--junit-xml={report}", here]
    argv += [f"--ignore={os.path.join(here, name)}" for name in OTHERWISE]
    argv += ["-k", only] if only else []
    environment = {**os.environ, "OPENWRT_KERNEL": kernel, "OPENWRT_ROOT": root, "OPENWRT_INITRD": initrd or ""}
    subprocess.run(argv, cwd=ROOT, env=environment, timeout=SUITE_S, check=False)
    return read_report(report)


def read_report(path: str) -> list[Outcome]:
    """The cases of a JUnit report."""
    outcomes = []
    for case in ElementTree.parse(path).iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}.py: {case.get('name', '')}"
        how, why = "ok", ""
        for child in case:
            if child.tag in ("failure", "error", "skipped"):
                how = "could not" if child.tag == "skipped" else "failed"
                why = (child.get("message") or "").strip().split("\n")[0][:200]
        outcomes.append(Outcome(name, how, why))
    return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    """The list at the end: what ran, what failed, what could not and why."""
    lines = []
    for how, title in (("ok", "ran"), ("failed", "failed"), ("could not", "could not run")):
        chosen = [outcome for outcome in outcomes if outcome.how == how]
        lines.append(f"{title}: {len(chosen)}")
        lines += [f"  {outcome.name}{': ' + outcome.why if outcome.why else ''}" for outcome in chosen]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="test-openwrt", description="Run the virtual nodes' cases on an image.")
    parser.add_argument("--kernel", required=True)
    parser.add_argument("--root", required=True, help="squashfs")
    parser.add_argument("--initrd", default=None, help="for kernels that do not mount their root themselves")
    parser.add_argument("--only", default="", help="cases with this word")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="test-openwrt-") as directory:
        try:
            disk = make_disk(args.kernel, args.root, args.initrd or None, directory)
        except (OSError, ValueError, tools.ToolError) as error:
            print(f"test-openwrt: {error}", file=sys.stderr)
            return 1
        outcomes, has_agent = check_console(disk, directory, args.only)
        if has_agent:
            outcomes += run_cases(args.kernel, args.root, args.initrd or None, directory, args.only)
            outcomes += [Outcome(name, "could not", why) for name, why in OTHERWISE.items()]
        else:
            why = "the harness's agent does not answer: the image has no python3, or the node did not come up"
            outcomes.append(Outcome("all cases of test/qemu/", "could not", why))
    print(table(outcomes))
    return 1 if any(outcome.how == "failed" for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())

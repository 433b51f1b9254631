"""The reference image's system: init scripts with OpenWrt's habits, settings applied once, overlay, data, network."""

from __future__ import annotations

import base64
import io
import re
import tarfile

from qemu.conftest import MakeNode
from qemu.harness import KernelBoot, VirtualNode

EXAMPLE = """#!/bin/sh /etc/rc.common
START=70
STOP=30
USE_PROCD=1
RUNS='echo "$GREETING, $1" >>/tmp/greetings; setsid sleep 1000 & exec sleep 999'
start_service() {
	procd_open_instance
	procd_set_param env GREETING="it's 'me'"
	procd_set_param command sh -c "$RUNS" sh "two words"
	procd_set_param respawn 3600 1 0
	procd_close_instance
}
reload_service() { procd_send_signal example; }
"""


def install_example(node: VirtualNode) -> None:
    node.write_file("/etc/init.d/example", EXAMPLE, mode=0o755)


def processes(node: VirtualNode, command_line: str) -> int:
    """How many processes run that were started like this."""
    words = [line.split(None, 2)[2:] for line in node.must(["ps"]).splitlines()]
    return [word[0].strip() for word in words if word].count(command_line)


def test_an_init_script_is_enabled_and_disabled_by_links(node: VirtualNode) -> None:
    install_example(node)
    assert node.run(["/etc/init.d/example", "enabled"]).status == 1
    node.must(["/etc/init.d/example", "enable"])
    assert node.must(["readlink", "/etc/rc.d/S70example"]) == "../init.d/example\n"
    assert node.must(["readlink", "/etc/rc.d/K30example"]) == "../init.d/example\n"
    assert node.run(["/etc/init.d/example", "enabled"]).status == 0
    node.must(["/etc/init.d/example", "disable"])
    assert node.run(["ls", "/etc/rc.d/S70example"]).status != 0


def test_a_daemon_that_dies_is_started_again_and_stopping_it_leaves_what_it_started(node: VirtualNode) -> None:
    install_example(node)
    node.must(["/etc/init.d/example", "start"])
    node.wait_for("the daemon runs", lambda: processes(node, "sleep 999") == 1, 10)
    node.must(["/etc/init.d/example", "start"])
    assert processes(node, "sleep 999") == 1
    node.sh("kill $(ps | sed -n 's/^ *\\([0-9]*\\) root *sleep 999$/\\1/p')")
    node.wait_for("the daemon runs again", lambda: processes(node, "sleep 999") == 1, 10)
    node.must(["/etc/init.d/example", "stop"])
    assert processes(node, "sleep 999") == 0
    assert processes(node, "sleep 1000") == 2
    assert node.run(["/etc/init.d/example", "running"]).status == 1
    assert node.read_file("/tmp/greetings").decode().splitlines() == ["it's 'me', two words"] * 2


def test_reload_reaches_the_daemon_and_does_not_start_a_second_one(node: VirtualNode) -> None:
    runs = "trap 'echo hup >>/tmp/hups' HUP; echo start >>/tmp/starts; while :; do sleep 1; done"
    node.write_file("/etc/init.d/example", re.sub("RUNS='.*'", f'RUNS="{runs}"', EXAMPLE), mode=0o755)
    node.must(["/etc/init.d/example", "start"])
    node.wait_for("the daemon runs", lambda: node.run(["test", "-s", "/tmp/starts"]).status == 0, 10)
    node.must(["/etc/init.d/example", "reload"])
    node.wait_for("it has noticed", lambda: node.run(["cat", "/tmp/hups"]).out == "hup\n", 10)
    node.must(["/etc/init.d/example", "reload"])
    node.wait_for("it has noticed again", lambda: node.run(["cat", "/tmp/hups"]).out == "hup\nhup\n", 10)
    assert node.read_file("/tmp/starts") == b"start\n"
    node.must(["/etc/init.d/example", "stop"])


def test_settings_of_the_first_start_are_applied_once_and_kept_while_they_fail(node: VirtualNode) -> None:
    node.write_file("/etc/uci-defaults/10-name", "uci set system.@system[0].hostname=renamed\n")
    node.write_file("/etc/uci-defaults/20-fails", "echo tried >>/etc/tries\nfalse\n")
    node.sh("mkdir /tmp/c; echo taken >/tmp/c/taken; tar -czf /sysupgrade.tgz -C /tmp/c taken; sync")
    before = node.boot_id()
    node.must(["sh", "-c", "(sleep 0.2; reboot) >/dev/null 2>&1 &"])
    node.wait_until_up(not_boot=before)
    assert node.must(["hostname"]) == "renamed\n"
    assert node.must(["ls", "/etc/uci-defaults"]) == "20-fails\n"
    assert node.read_file("/etc/tries") == b"tried\n"
    assert node.read_file("/taken") == b"taken\n"
    assert node.run(["test", "-e", "/sysupgrade.tgz"]).status == 1


def test_an_orderly_reboot_halts_slivers_and_leaves_the_data_clean(node: VirtualNode) -> None:
    node.must(["/etc/init.d/confine", "stop"], timeout=60)
    node.sh(
        "mkdir -p /run/confine/mounts/disk /sys/fs/cgroup/confine/example/sliver;"
        "truncate -s 8M /srv/disk.img; mkfs.ext4 -q /srv/disk.img; mount -o loop /srv/disk.img /run/confine/mounts/disk"
    )
    node.write_file(
        "/tmp/sliver",
        "echo $$ >/sys/fs/cgroup/confine/example/sliver/cgroup.procs\n"
        "exec unshare -p -f sh -c \"trap 'echo halted >/run/confine/mounts/disk/said; exit' PWR; echo >/tmp/heeds;"
        ' while :; do sleep 0.1; done"\n',
    )
    node.sh("setsid sh /tmp/sliver >/dev/null 2>&1 &")
    node.wait_for("the sliver heeds what it is told", lambda: node.run(["test", "-e", "/tmp/heeds"]).status == 0, 60)
    before = node.boot_id()
    node.must(["sh", "-c", "(sleep 0.2; reboot) >/dev/null 2>&1 &"])
    node.wait_until_up(not_boot=before)
    assert b"recovering" not in node.read_file("/tmp/log/fsck-data")
    node.sh("mkdir -p /tmp/disk; mount -o loop,ro /srv/disk.img /tmp/disk")
    assert node.read_file("/tmp/disk/said") == b"halted\n"


def test_neither_a_broken_configuration_archive_nor_broken_data_keep_the_node_from_starting(node: VirtualNode) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        member = tarfile.TarInfo("taken")
        member.size = 100_000
        tar.addfile(member, io.BytesIO(bytes(range(250)) * 400))
    node.write_file("/sysupgrade.tgz", archive.getvalue()[:200])
    node.must(["/etc/init.d/confine", "stop"], timeout=60)
    device = next(line.split()[0] for line in node.must(["mount"]).splitlines() if " on /srv " in line)
    # The superblock and each of its copies, from which e2fsck would mend it.
    node.sh(
        "umount /srv; for group in 0 1 3 5 7 9; do "
        f"dd if=/dev/urandom of={device} bs=1M seek=$((group * 128)) count=8 conv=notrunc 2>/dev/null; done; sync"
    )
    before = node.boot_id()
    node.reset()
    node.wait_until_up(not_boot=before)
    assert node.run(["test", "-e", "/sysupgrade.tgz.broken"]).status == 0
    assert node.run(["test", "-e", "/sysupgrade.tgz"]).status == 1
    # Nothing may be written in place of the data.
    assert node.run(["touch", "/srv/anything"]).status != 0
    assert "cannot be used" in node.serial_tail()


def test_an_overlay_in_memory_keeps_nothing(make_node: MakeNode, image_files: dict[str, str]) -> None:
    node = make_node(kernel=KernelBoot(image_files["kernel"], image_files["initrd"], "confine.overlay=tmpfs"))
    mounts = {line.split()[1]: line.split()[2] for line in node.read_file("/proc/mounts").decode().splitlines()}
    assert (mounts["/"], mounts["/overlay"]) == ("overlay", "tmpfs")


def test_the_network_follows_the_configuration(node: VirtualNode) -> None:
    assert "10.0.2.15/24" in node.must(["ip", "-4", "address", "show", "dev", "eth0"])
    node.must(["/etc/init.d/network", "stop"])
    node.sh(
        "uci set network.wan.proto=static; uci add_list network.wan.ipaddr=10.0.2.77/24;"
        "uci set network.wan.gateway=10.0.2.2; uci add_list network.wan.dns=10.0.2.3; uci commit network;"
        "ip address flush dev eth0; /etc/init.d/network start"
    )
    assert "10.0.2.77/24" in node.must(["ip", "-4", "address", "show", "dev", "eth0"])
    assert "via 10.0.2.2" in node.must(["ip", "route", "show", "default"])
    assert node.read_file("/tmp/resolv.conf.d/resolv.conf.auto") == b"nameserver 10.0.2.3\n"


def test_only_keys_open_the_remote_shell(node: VirtualNode) -> None:
    options = [
        word for word in node.sh("tr '\\0' ' ' </proc/$(pidof dropbear)/cmdline").split() if word.startswith("-")
    ]
    assert "-s" in options and "-g" in options
    node.sh("dropbearkey -t ed25519 -f /tmp/key 2>/dev/null | grep ^ssh >/etc/dropbear/authorized_keys")
    node.must(["chmod", "0600", "/etc/dropbear/authorized_keys"])
    done = node.run(["dbclient", "-y", "-i", "/tmp/key", "127.0.0.1", "echo in"])
    assert done.out == "in\n", done.err
    node.must(["rm", "/etc/dropbear/authorized_keys"])
    refused = node.run(["dbclient", "-y", "-i", "/tmp/key", "127.0.0.1", "echo in"])
    assert refused.out == ""
    assert "publickey" in refused.err or "No auth methods" in refused.err


def test_the_limits_slivers_need_are_delegated_and_python_speaks_to_the_real_uci(node: VirtualNode) -> None:
    controllers = set(node.read_file("/sys/fs/cgroup/cgroup.subtree_control").decode().split())
    assert {"memory", "cpu", "pids", "io"} <= controllers
    assert "nsdelegate" in node.read_file("/proc/mounts").decode()
    code = "import euci; print(euci.EUci().get('network', 'wan', 'proto'))"
    assert node.must(["python3", "-c", code]) == "dhcp\n"
    assert base64.b64decode(node.must(["sh", "-c", "micropython -c 'print(6 * 7)' | base64"])) == b"42\n"

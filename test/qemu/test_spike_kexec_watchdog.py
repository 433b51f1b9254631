"""A trial that hangs comes back: the hardware watchdog survives kexec, if the kernel is told to leave it alone.

By default the kernel stops the watchdog before it hands over, and a trial that hangs early would hang for ever.
"""

from __future__ import annotations

import pytest

from qemu.harness import Snapshot, VirtualNode

# Longer than the slowest thing the node does between two feeds, shorter than anyone wants to wait here.
WATCHDOG_S = 10
# The new kernel's only process waits for ever. (A panic would be as good a hang, but burns the host's processor.)
HANG = "console=ttyS0,115200 panic=0 rdinit=/bin/cat"
HANGS = "Run /bin/cat as init process"


def kexec_into_a_hang(node: VirtualNode) -> None:
    """Arm the watchdog, load the node's own kernel from its partition, jump; come back when it has jumped."""
    node.sh("mkdir -p /tmp/kernel; mount -t squashfs -o ro /dev/vda4 /tmp/kernel")
    loaded = ["/tmp/kernel/vmlinuz", "--initrd=/tmp/kernel/initrd.img", f"--append={HANG}"]
    node.must(["kexec", "--load", *loaded])
    node.must(["/etc/init.d/confine", "stop"], timeout=60)  # the controller holds the watchdog
    node.sh(f"watchdog -T {WATCHDOG_S} -t 1 /dev/watchdog")
    node.wait_for("the watchdog is armed", lambda: armed(node), timeout=10)
    node.sh("(sleep 0.3; kexec --exec) >/dev/null 2>&1 </dev/null &")
    # The old kernel's last words. On a loaded machine the watchdog may end the new one before it says anything.
    node.wait_for_serial("Starting new kernel", timeout=60)


def armed(node: VirtualNode) -> bool:
    return node.read_file("/sys/class/watchdog/watchdog0/state").strip() == b"active"


def let_the_kernel_stop_the_watchdog(node: VirtualNode) -> None:
    """Load the watchdog's modules anew, with the default that the command line changes."""
    node.must(["/etc/init.d/confine", "stop"], timeout=60)  # the controller holds the watchdog
    node.sh("rmmod i6300esb watchdog")
    node.sh("insmod $(modinfo -n watchdog) stop_on_reboot=1; insmod $(modinfo -n i6300esb)")


@pytest.mark.timeout(300)
def test_a_kexec_into_a_hang_ends_in_a_reset_only_thanks_to_stop_on_reboot_0(booted: Snapshot) -> None:
    with VirtualNode.from_snapshot(booted) as stopped, VirtualNode.from_snapshot(booted) as node:
        let_the_kernel_stop_the_watchdog(stopped)
        kexec_into_a_hang(stopped)
        stopped.wait_for_serial(HANGS, timeout=60)

        before = node.boot_id()
        kexec_into_a_hang(node)
        node.wait_for("the watchdog resets the node", lambda: node.qmp.count("WATCHDOG") > 0, timeout=WATCHDOG_S + 20)
        # It hung first, so its watchdog would have been first.
        assert stopped.qmp.count("WATCHDOG") == 0
        stopped.stop()

        node.wait_until_up(not_boot=before)
        words = node.command_line()
        assert (words["confine.slot"], words["confine.confirmed"], words["confine.boot"]) == ("a", "a", "counted")

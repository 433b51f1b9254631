"""A trial: the other slot is started once, by kexec; a reset, from whatever cause, is the confirmed slot again.

    python3 -m confine.upgrade.trial SLOT [guarded]     makes it: this system ends

Where kexec cannot work, or its kernel does not take the new one, the boot loader is asked for one start of the slot,
which it takes back before it makes it. guarded: no trial that no watchdog guards, since no person asked for it.
What must be known on the other side stands in the record on the data partition (record.py).
"""

import os
import subprocess
import sys
import time

from confine.errors import ConfineError
from confine.paths import Paths
from confine.upgrade import before, history, keep, overlay, record, watchdog, writer
from confine.upgrade.backends import ENVIRONMENT
from confine.upgrade.errors import UpgradeError
from confine.upgrade.kexec import can_kexec, word
from confine.upgrade.slots import TRIAL, Slots

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

WORK = "/tmp"  # noqa: S108  # in memory on a node, and gone with it
KERNEL = "/run/confine/kernel"
LOAD_S = 120
STOP_S = 120
GUARDED = "guarded"
BY_KEXEC = "by kexec"
RESET_S = 30
# Longer than the slowest start of a system, up to where the gate takes over.
WATCHDOG_S = 120
_OWN_WORDS = ("confine.slot", "confine.confirmed", "confine.boot", "confine.root", "confine.pointer", "root",
              "confine.overlay", "watchdog.stop_on_reboot", "watchdog.open_timeout", "acpi_rsdp",
              "BOOT_IMAGE")  # fmt: skip


def start(slot: str, paths: "Paths | None" = None, slots: "Slots | None" = None, guarded: bool = False) -> None:
    """Check everything, then have a process of its own end this system and start `slot`. UpgradeError: nothing was
    ended. Comes back at once; the caller ends with all others. guarded: as of `make`."""
    paths, slots = paths or Paths(), slots or Slots()
    check(slot, slots)
    argv = [sys.executable, "-P", "-s", "-m", "confine.upgrade.trial", slot, *((GUARDED,) if guarded else ())]
    # Nobody waits for what it says: the history has it.
    subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                     start_new_session=True)  # fmt: skip


def check(slot: str, slots: Slots) -> "dict[str, Any]":
    """The manifest of `slot`, all of which was read from the disk and compared. UpgradeError if it must not start."""
    slots.check_free(slot)
    if slots.on_trial:
        raise UpgradeError("a trial runs already: it must end first")
    return writer.check(slot, slots)


def make(slot: str, paths: Paths, slots: Slots, guarded: bool = False) -> None:
    """End this system and start `slot`. Comes back only by UpgradeError (or OSError): then this system goes on.

    guarded: rather refuse than make a trial by the boot loader, which no watchdog guards until it is up.
    """
    held = writer.hold(os.path.join(paths.run, "upgrade.lock"))
    try:
        begun = {"slot": slot, "manifest": check(slot, slots), "before": before.look(paths), "time": int(time.time())}
        # First what is refused most often, and leaves nothing behind.
        how = "by the boot loader: this machine cannot kexec"
        if can_kexec(paths):
            how = load_or_why(slot, slots, guarded)
        by_kexec = begun["kexec"] = how == BY_KEXEC
        try:
            prepare(slot, slots)
            record.write(begun, paths)
            record.remember("trial", begun, paths, how)
            if not by_kexec:
                slots.backend.start_once(slot)
        except BaseException:
            record.forget(paths)  # it was never tried
            if by_kexec:
                unload()
            raise
        leave(by_kexec)
    finally:
        os.close(held)


def prepare(slot: str, slots: Slots) -> None:
    """Make the overlay of `slot` with this node's configuration. UpgradeError, OSError.

    What was there may be the way back: from here on it is none, since the overlay is not what it was.
    """
    configuration = os.path.join(WORK, "confine-keep.tgz")
    try:
        keep.pack(configuration)
        slots.backend.forbid(slot)
        overlay.make(slots.disk, slot, configuration, WORK)
    finally:
        if os.path.exists(configuration):
            os.unlink(configuration)


def command_line(slot: str, running: str, rsdp: str = "") -> str:
    """The kernel's command line for a trial of `slot`, from that of the running one."""
    words = [word for word in running.split() if word.split("=")[0] not in _OWN_WORDS]
    confirmed = next((word for word in running.split() if word.startswith("confine.confirmed=")), "")
    if "confine.pointer=" + ENVIRONMENT in running.split():
        words.append("confine.pointer=" + ENVIRONMENT)  # which loader it is: see backends.of_words
    words += ["watchdog.stop_on_reboot=0", "watchdog.open_timeout={}".format(WATCHDOG_S)]
    words += ["root=PARTLABEL=root-" + slot, "confine.root=PARTLABEL=root-" + slot, "confine.slot=" + slot, confirmed,
              "confine.boot=" + TRIAL]  # fmt: skip
    if rsdp:
        words.append("acpi_rsdp=" + rsdp)
    return " ".join(word for word in words if word)


def rsdp_of(systab: str = "/sys/firmware/efi/systab") -> str:
    """Where the firmware's tables lie, on UEFI: a kernel started by kexec does not find them by itself."""
    for line in word(systab).splitlines():
        name, _, value = line.partition("=")
        if name in ("ACPI20", "ACPI"):
            return value
    return ""


def load_or_why(slot: str, slots: Slots, guarded: bool) -> str:
    """Load `slot` for kexec: BY_KEXEC, or why it is the boot loader's. UpgradeError if that must not be."""
    try:
        load(slot, slots)
    except UpgradeError as error:
        if guarded:
            raise UpgradeError("{}; a start by the boot loader is not guarded by a watchdog: `confine upgrade trial` "
                               "makes it, upgrade.unwatched '1' consents".format(error))  # fmt: skip
        return "by the boot loader: {}".format(error)
    return BY_KEXEC


def load(slot: str, slots: Slots) -> None:
    """Load kernel and initrd of `slot` for kexec. UpgradeError if the kernel does not take them."""
    with open("/proc/cmdline", encoding="utf-8") as file:
        words = command_line(slot, file.read(), rsdp_of())
    os.makedirs(KERNEL, mode=0o700, exist_ok=True)
    _run(["mount", "-t", "squashfs", "-o", "ro,nosuid,nodev,noexec", slots.disk.path("kernel-" + slot), KERNEL])
    try:
        initrd = KERNEL + "/initrd.img"
        given = ["--initrd=" + initrd] if os.path.exists(initrd) else []  # OpenWrt's kernels need none
        _run(["kexec", "-l", KERNEL + "/vmlinuz", *given, "--command-line=" + words])
    finally:
        _run(["umount", KERNEL])


def unload() -> None:
    """Have the kernel forget what `load` gave it."""
    try:
        _run(["kexec", "-u"])
    except UpgradeError:
        pass  # nothing starts it by itself


def leave(by_kexec: bool) -> None:
    """Stop what runs, in order and within a time limit, flush the disks, and go. Does not come back."""
    # The init script stops the daemon, which gives the watchdog back, and then the slivers.
    try:
        subprocess.run(["/etc/init.d/confine", "shutdown"], stdin=subprocess.DEVNULL, capture_output=True,
                       timeout=STOP_S, check=False)  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        pass  # what does not stop in time is ended by the new kernel
    flush_disks()
    if by_kexec:
        try:
            watchdog.Watchdog(WATCHDOG_S).leave_armed()
        except (watchdog.WatchdogError, OSError):
            pass  # said before the trial: a hang early on needs a hand
        subprocess.run(["kexec", "-e"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    reset()


def flush_disks() -> None:
    """Everything onto the disks, and no file system in the middle of anything."""
    os.sync()
    for key in "su":
        try:
            with open("/proc/sysrq-trigger", "w") as file:
                file.write(key)
        except OSError:
            pass  # a kernel without it: what is journalled is played back
    time.sleep(0.5)  # the kernel does both in the background
    os.sync()


def reset() -> None:
    """Restart the machine without asking anybody. Does not come back."""
    os.sync()
    try:
        subprocess.run(["reboot", "-f"], stdin=subprocess.DEVNULL, timeout=RESET_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        pass  # no memory for a process, or a root that cannot be read: the kernel needs neither
    with open("/proc/sysrq-trigger", "w") as file:
        file.write("b")
    time.sleep(3600)


def _run(argv: "list[str]") -> None:
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=LOAD_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UpgradeError("{} cannot be run: {}".format(argv[0], error))
    if done.returncode != 0:
        said = " ".join(done.stderr.decode("utf-8", "replace").split())
        raise UpgradeError("{} failed (status {}): {}".format(" ".join(argv[:3]), done.returncode, said))


def main() -> int:
    """Exit status 0 done, 1 with the reason."""
    from confine.configuration import read_settings

    paths = Paths()
    settings, _ = read_settings(paths)
    paths.data = settings.data_dir
    try:
        make(sys.argv[1], paths, Slots(), GUARDED in sys.argv[2:])
    except (ConfineError, OSError) as error:
        sys.stderr.write("confine: {}\n".format(error))
        _tell(paths, str(error))
    return 1


def _tell(paths: Paths, why: str) -> None:
    try:
        history.append({"event": "refused", "why": why}, paths)
    except OSError:
        pass


if __name__ == "__main__":
    sys.exit(main())

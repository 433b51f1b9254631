"""The shipped grub.cfg in GRUB itself (grub-emu), over a disk image: what it says, and which slot it chooses."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time

from written import SECTOR, World

from upgrade import pointer

GRUB_S = 120
CHOICE = r"confine: (slot=.*left=\S*)\r?\n"


def disk_map(image: str) -> str:
    """A file that tells grub-emu to take the image as its first disk; its path."""
    path = image + ".map"
    with open(path, "w") as file:
        file.write(f"(hd0) {image}\n")
    return path


def said(disks: str, *ends: str) -> str:
    """All that GRUB says over the disks of the map `disks` until one of `ends` (regular expressions) is in it."""
    argv = ["grub-emu", "-m", disks, "-r", "hd0,gpt2", "-d", "/grub"]
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0
    )
    assert process.stdout is not None
    text, deadline = "", time.monotonic() + GRUB_S
    try:
        while not any(re.search(end, text) for end in ends):
            assert time.monotonic() < deadline, text
            if select.select([process.stdout], [], [], 1)[0]:
                more = os.read(process.stdout.fileno(), 65536).decode("utf-8", "replace")
                assert more, f"GRUB ended: {text!r}"
                text += more
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    return text


class Grub:
    """The shipped configuration under grub-emu, over a copy of the disk; each different input once."""

    def __init__(self, world: World, image: str) -> None:
        self._image = image
        self._world = world
        self._known: dict[tuple[bytes, ...], dict[str, str]] = {}
        starts = {part.name: part.start for part in world.table}
        self._places = [
            starts["boot"] + world.grubenv * SECTOR,
            *(starts["pointer"] + offset for offset in pointer.COPY_OFFSETS),
        ]
        self._map = disk_map(image)

    @property
    def runs(self) -> int:
        return len(self._known)

    def choose(self, counters: bytes, first: bytes, second: bytes) -> dict[str, str]:
        """What GRUB says: slot, confirmed, pointer, boot, left."""
        key = (counters, first, second)
        if key not in self._known:
            with open(self._image, "r+b") as file:
                for place, content in zip(self._places, key, strict=True):
                    os.pwrite(file.fileno(), content, place)
            self._known[key] = self._run()
        return self._known[key]

    def _run(self) -> dict[str, str]:
        found = re.search(CHOICE, said(self._map, CHOICE))
        assert found is not None
        return dict(pair.split("=", 1) for pair in found[1].split())

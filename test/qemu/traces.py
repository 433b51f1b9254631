"""Everything that slivers leave on a node: gathered in the node by one script, put into comparable words here.

What differs from one time to the next without meaning (loop device numbers, pids) is left out, so that two nodes in
the same state give the same words, and what one has more than the other is a leak.
"""

from __future__ import annotations

import json
import re
from collections import Counter

from qemu.harness import VirtualNode

_SCRIPT = r"""
echo '# mounts'; cat /proc/self/mountinfo
echo '# loops'; for file in /sys/block/loop*/loop/backing_file; do [ ! -e $file ] || cat $file; done
echo '# links'; ls /sys/class/net; ls /sys/class/net/br-confine/brif
echo '# nft'; nft -s list ruleset
echo '# cgroups'; find /sys/fs/cgroup -type d
echo '# files'
find /srv/confine /run/confine -xdev \( -path '/run/confine/mounts/*/*/*' -o -path '/srv/confine/cache/trees/*/*' \) \
    -prune -o -print
echo '# images'; for file in /srv/confine/slivers/*/disk.img; do [ ! -e $file ] || stat -c '%n %s %b' $file; done
echo '# bookings'; cat /srv/confine/journal/bookings.json; echo
echo '# processes'; grep -sE '^(Name|PPid|Uid):' /proc/[0-9]*/status || true
"""
# What packets have put into a set: which ones came in these minutes means nothing.
_SEEN_BY_NFT = re.compile(r"(set \S+ \{[^{}]*flags [^\n]*dynamic[^{}]*)elements = \{[^{}]*\}")
_SECTION = re.compile(r"^# (\w+)$", re.MULTILINE)
# Of the node itself: how many there are at one moment means nothing. Kernel threads are left out by their parent.
_PASSING = {"sh", "grep", "python3", "sleep", "logger", "supervise", "nft", "ip"}
_PASSING_FILES = ("/log", "/decisions.lock", ".damaged", "/registry-waited", "/tinc.loaded", "/confine/overlay")
_ID_RANGE = 0x10000
_KTHREADD = "2"


def gather(node: VirtualNode) -> Counter[str]:
    """What there is on the node, each thing as "kind: words"."""
    parts = _SECTION.split(node.sh(_SCRIPT))
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    words: list[str] = []
    sections["nft"] = _SEEN_BY_NFT.sub(r"\1", sections["nft"])
    for kind in ("loops", "links", "nft", "cgroups", "files"):
        words += [f"{kind}: {line}" for line in sections[kind].splitlines() if line.strip()]
    words += [f"mounts: {_mount(line)}" for line in sections["mounts"].splitlines() if line.strip()]
    words += _images(sections["images"]) + _bookings(sections["bookings"]) + _processes(sections["processes"])
    return Counter(word for word in words if not _of_no_meaning(word))


def difference(before: Counter[str], after: Counter[str]) -> list[str]:
    """What `after` has more ("+") and less ("-") than `before`."""
    more = [f"+ {word}" for word in sorted((after - before).elements())]
    return more + [f"- {word}" for word in sorted((before - after).elements())]


def _of_no_meaning(word: str) -> bool:
    """Logs, records, the decisions' lock, what was set aside for people, notes of the daemon and of tincd, and the one
    cgroup that LXC's monitors end in, made with the first that ends."""
    kind, _, path = word.partition(": ")
    if kind == "nft":
        return "limit rate over" in path  # who spoke lately, in a set that forgets by itself
    if kind == "files":
        return path.endswith(_PASSING_FILES) or "/records" in path or "/overlay/" in path
    return kind == "cgroups" and path in ("/sys/fs/cgroup/confine-pivot", "/sys/fs/cgroup/confine-pivot/lxc.pivot")


def _mount(line: str) -> str:
    before, _, after = line.partition(" - ")
    fields, (fstype, source) = before.split(" "), after.split(" ")[:2]
    source = "loop" if source.startswith("/dev/loop") else source
    return f"{fields[4]} is {fields[3]} of {fstype} {source}, {fields[5]}"


def _images(text: str) -> list[str]:
    """Whether each disk image has all its blocks."""
    found = []
    for line in text.splitlines():
        if line.strip():
            name, size, blocks = line.split()
            found.append(f"images: {name} of {size} bytes" + ("" if int(blocks) * 512 >= int(size) else " has HOLES"))
    return found


def _bookings(text: str) -> list[str]:
    docs = json.loads(text)["content"] if text.strip() else []
    return [f"bookings: {doc['nr']} of {doc['name']}, {doc['memory_mib']}/{doc['disk_mib']} MiB" for doc in docs]


def _processes(text: str) -> list[str]:
    """Programs that run, and the id ranges of slivers that have some."""
    found: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        path, _, rest = line.partition("/status:")
        key, _, value = rest.partition(":")
        found.setdefault(path, {})[key] = value.strip()
    words, ranges = [], set()
    for status in found.values():
        if len(status) < 3 or status["PPid"] in ("0", _KTHREADD):
            continue
        owner = int(status["Uid"].split()[0]) // _ID_RANGE
        if owner:
            ranges.add(owner)
        elif status["Name"] not in _PASSING:
            words.append(f"processes: {status['Name']}")
    return words + [f"ids: range {number:#x} is in use" for number in sorted(ranges)]

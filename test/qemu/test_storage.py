"""Slivers' disks on a virtual node: real templates, the node's own kernel and tools, kills, power cuts, a full disk."""

from __future__ import annotations

import functools
import http.server
import json
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from qemu.harness import VirtualNode

_HERE = os.path.dirname(os.path.abspath(__file__))
_TEMPLATES = os.path.join(os.path.dirname(os.path.dirname(_HERE)), "build", "templates")
_DRIVE = "/tmp/storage_drive.py"  # in the node
_KEY = "ssh-ed25519 AAAA admin"
_UP = (("cache", "fetch_template"), ("cache", "fetch_data"), ("storage", "allocate"), ("cache", "unpack_template"),
       ("storage", "format"), ("storage", "mount"), ("storage", "populate"))  # fmt: skip
_DOWN = (("storage", "unmount"), ("storage", "undeploy"), ("storage", "remove"))
_IDS = 0x10000


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class Store:
    """A virtual node whose storage is driven step by step. template: "generic", "openwrt" or "debian"."""

    def __init__(self, node: VirtualNode, port: int) -> None:
        self.node = node
        self.files = f"http://10.0.2.2:{port}/"
        self.template = "generic"
        self.disk_mib = 16

    def prepare(self) -> None:
        """Have the daemon stopped and the driving script in place, after a start, too."""
        self.node.sh("/etc/init.d/confine stop")
        with open(os.path.join(_HERE, "storage_drive.py")) as file:
            self.node.write_file(_DRIVE, file.read())

    def cut_power(self) -> None:
        """Reset the node and wait until it is up again."""
        before = self.node.boot_id()
        self.node.reset()
        self.node.wait_until_up(not_boot=before)
        self.prepare()

    def record(self, name: str) -> dict[str, Any]:
        with open(os.path.join(_TEMPLATES, f"{name}.json")) as file:
            record: dict[str, Any] = json.load(file)
        return record

    def drive(
        self, *steps: tuple[str, str, int], observe: tuple[int, ...] = (), kills: list[float] | None = None,
        recover: dict[str, list[tuple[str, str, int]]] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Carry out steps with the real drivers; AssertionError with the message if one fails."""
        template, data = self.record(self.template), self.record("data-hello")
        request = {
            "steps": steps, "observe": observe, "disk_mib": self.disk_mib, "keys": [_KEY], "kills": kills or [],
            "template": {"uri": self.files + template["file"], "sha256": template["sha256"], "type": template["type"]},
            "data": {"uri": self.files + data["file"], "sha256": data["sha256"]}, "recover": recover,
        }  # fmt: skip
        out = self.node.must(["python3", _DRIVE], 120, json.dumps(request).encode())
        answer: dict[str, Any] = json.loads(out)
        assert answer["error"] is None, answer["error"]
        return answer

    def up(self, nr: int) -> dict[str, Any]:
        found: dict[str, Any] = self.drive(*((driver, verb, nr) for driver, verb in _UP), observe=(nr,))["observed"][
            str(nr)
        ]
        return found

    def down(self, *numbers: int) -> None:
        """Take slivers down; nothing of any may be left."""
        answer = self.drive(*((driver, verb, nr) for nr in numbers for driver, verb in _DOWN))
        assert answer["traces"] == []

    def root(self, nr: int, path: str = "") -> str:
        return f"/run/confine/mounts/slivers/{nr:012x}_0012/root/{path}"

    def owner(self, path: str, nr: int) -> int:
        """The owner of a file as the sliver sees it."""
        return int(self.node.must(["stat", "-c", "%u", path])) - 0x1000000 - nr * _IDS


@pytest.fixture(scope="module")
def files() -> Iterator[int]:
    """The port on which this machine serves the template archives."""
    for name in ("debian", "openwrt", "generic", "data-hello"):
        if not os.path.exists(os.path.join(_TEMPLATES, f"{name}.json")):
            pytest.fail(f"build/templates/{name}.json was not built: python3 test/registry/templates.py")
    handler = functools.partial(Quiet, directory=_TEMPLATES)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.1,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def store(node: VirtualNode, files: int) -> Store:
    """A node of the test's own, with no slivers and no daemon."""
    one = Store(node, files)
    one.prepare()
    return one


@pytest.mark.parametrize("template", ["debian", "openwrt", "generic"])
def test_a_template_of_each_kind_is_fetched_unpacked_and_mounted_with_the_slivers_ids(
    store: Store, template: str
) -> None:
    store.template, store.disk_mib = template, 24
    found = store.up(3)
    assert found["mounted"]
    assert found["deployment"]["hostname"] == "000000000003_0012"
    for path in ("", "sbin", "etc/passwd", "etc/hostname", "srv/www/index.html"):
        assert store.owner(store.root(3, path), 3) == 0
    keys = "etc/dropbear/authorized_keys" if template == "openwrt" else "root/.ssh/authorized_keys"
    assert store.node.read_file(store.root(3, keys)).decode() == _KEY + "\n"
    assert "Hello" in store.node.read_file(store.root(3, "srv/www/index.html")).decode()
    assert store.node.must(["chroot", store.root(3), "/bin/sh", "-c", "cat /etc/hostname"]) == "000000000003_0012\n"
    store.down(3)


def test_with_the_data_partition_full_every_sliver_still_writes_up_to_its_limit(store: Store) -> None:
    for nr in (1, 2):
        store.up(nr)
    node = store.node
    node.sh(
        "free=$(df -k /srv | awk 'NR==2 {print $4}'); fallocate -l $((free * 1024 - 4194304)) /srv/hog;"
        "dd if=/dev/zero of=/srv/hog2 bs=64k 2>/dev/null || true; sync",
        timeout=60,
    )
    assert int(node.sh("df -k /srv | awk 'NR==2 {print $4}'")) < 1024
    sums = {}
    for nr in (1, 2):
        path = store.root(nr, "all")
        size = int(node.sh(f"dd if=/dev/urandom of={path} bs=64k 2>&- && exit 1; sync; stat -c %s {path}", timeout=60))
        assert 8 << 20 < size < 16 << 20
        sums[nr] = node.must(["sha256sum", store.root(nr, "all")]).split()[0]
    node.sh("sync; echo 3 >/proc/sys/vm/drop_caches")
    store.drive(*(("storage", verb, nr) for verb in ("unmount", "mount") for nr in (1, 2)))
    for nr in (1, 2):
        assert node.must(["sha256sum", store.root(nr, "all")]).split()[0] == sums[nr]
    log = node.must(["dmesg"])
    assert "I/O error" not in log
    assert "EXT4-fs error" not in log
    store.down(1, 2)


def test_a_controller_killed_at_any_moment_leaves_nothing_that_is_not_seen_and_cleaned(store: Store) -> None:
    up, down = ([(driver, verb, 4) for driver, verb in steps] for steps in (_UP, _DOWN))
    kills = [0.02 + number * 0.06 for number in range(16)]
    answer = store.drive(*up, *down, kills=kills, recover={"up": up, "down": down})
    assert answer["killed"] >= 3


def test_after_a_power_cut_what_is_deployed_is_whole_and_the_rest_is_done_again(store: Store) -> None:
    store.up(1)
    store.template = "debian"
    store.drive(("cache", "fetch_template", 3), kills=[0.2])
    store.node.must(["sync"])
    store.template = "generic"
    store.drive(*((driver, verb, 2) for driver, verb in _UP), kills=[0.2])
    store.cut_power()
    observed = store.drive(observe=(1, 2))["observed"]
    assert observed["1"]["deployment"]["hostname"] == "000000000001_0012"
    assert observed["1"]["formatted"]
    assert not observed["1"]["mounted"]
    store.drive(("cache", "fetch_template", 1), ("cache", "unpack_template", 1), ("storage", "mount", 1))
    assert "Hello from a sliver" in store.node.read_file(store.root(1, "srv/www/index.html")).decode()
    assert store.node.read_file(store.root(1, "root/.ssh/authorized_keys")).decode() == _KEY + "\n"
    if observed["2"]["formatted"] and observed["2"]["deployment"] is None:
        store.drive(("storage", "undeploy", 2))
    assert store.up(2)["mounted"]
    store.down(1, 2)
    store.template = "debian"
    sha256 = store.record("debian")["sha256"]
    assert sha256 in store.drive(("cache", "fetch_template", 3), ("cache", "unpack_template", 3))["unpacked"]
    assert store.node.must(["sha256sum", f"/srv/confine/cache/objects/{sha256}"]).split()[0] == sha256

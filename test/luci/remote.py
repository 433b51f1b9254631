"""The objects of a virtual node's ubus, as a bridge takes them: answered on the node by node_drive.py."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

from luci.bridge import Method
from qemu.harness import VirtualNode

DRIVE = Path(__file__).parent / "node_drive.py"
UCI = ("get", "set", "apply", "confirm")
WAIT_S = 60


class Remote:
    """One connection from the node; calls go over it one at a time."""

    def __init__(self, node: VirtualNode) -> None:
        self._lock = threading.Lock()
        node.write_file("/tmp/luci_drive.py", DRIVE.read_bytes())
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(WAIT_S)
            port = server.getsockname()[1]
            node.sh(f"PYTHONPATH=/usr/lib/confine python3 -P /tmp/luci_drive.py 10.0.2.2 {port} >/tmp/luci.log 2>&1 &")
            self._link, _ = server.accept()
        self._link.settimeout(WAIT_S)
        self._file = self._link.makefile("rw")

    def close(self) -> None:
        """End the drive on the node."""
        self._link.close()

    def objects(self, methods: list[str]) -> dict[str, dict[str, Method]]:
        """confine.web with `methods`, uci and luci-rpc."""
        return {
            "confine.web": {name: self._method("confine.web", name) for name in methods},
            "uci": {name: self._method("uci", name) for name in UCI},
            "luci-rpc": {"getNetworkDevices": self._method("luci-rpc", "getNetworkDevices")},
        }

    def _method(self, name: str, method: str) -> Method:
        def call(data: dict[str, Any]) -> tuple[int, Any]:
            with self._lock:
                self._file.write(json.dumps({"object": name, "method": method, "data": data}) + "\n")
                self._file.flush()
                answer = json.loads(self._file.readline())
            return answer[0], answer[1] if len(answer) > 1 else None

        return call

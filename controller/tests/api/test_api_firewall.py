"""What leads 80 and 443 to the API."""

import os
import shutil
import subprocess
import sys

import core_world as core
import pytest

from confine.api import firewall


def test_80_and_443_on_the_management_address_alone_lead_to_the_api() -> None:
    text = firewall.render(core.settings(mgmt_ipv6_prefix48="fdc0:7246:b03f", api_port=9000))
    assert text.startswith("table inet confine_api\ndelete table inet confine_api\n")
    rule = "ip6 daddr fdc0:7246:b03f:2a::2 tcp dport { 80, 443 } dnat ip6 to [fdc0:7246:b03f:2a::2]:9000"
    assert [line.strip() for line in text.splitlines() if "dport" in line] == [rule, rule]


@pytest.mark.parametrize("options", [{"mgmt_ipv6_prefix48": None}, {"node_id": None}, {"api_enabled": False}])
def test_without_an_address_or_an_api_nothing_is_led_anywhere(options: dict) -> None:
    text = firewall.render(core.settings(**{"mgmt_ipv6_prefix48": "fdc0:7246:b03f", **options}))
    assert "dnat" not in text and "delete table inet confine_api" in text


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("nft"), reason="needs root and nft")
def test_nft_takes_it_again_and_again() -> None:
    text = firewall.render(core.settings(mgmt_ipv6_prefix48="fdc0:7246:b03f"))
    off = firewall.render(core.settings(api_enabled=False))
    script = 'printf %s "$1" | nft -f - && printf %s "$1" | nft -f - && nft list ruleset && printf %s "$2" | nft -f -'
    done = subprocess.run(
        ["unshare", "--net", "sh", "-euc", script, "sh", text, off], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("dnat ip6 to [fdc0:7246:b03f:2a::2]:8443") == 2


NETWORK = """
ip link set lo up
mount -t tmpfs none /run
ip netns add peer
ip link add node0 type veth peer name peer0 netns peer
ip addr add fdc0:7246:b03f:2a::2/64 dev node0 nodad
ip -n peer addr add fdc0:7246:b03f:2a::9/64 dev peer0 nodad
ip link set node0 up
ip -n peer link set peer0 up
printf %s "$1" | nft -f -
"$2" -c "$3" "$4" &
server=$!
trap 'kill $server' EXIT
host="[fdc0:7246:b03f:2a::2]"
for where in "ip netns exec peer" ""; do
    for uri in "https://$host" "http://$host" "https://$host:8443"; do
        $where "$2" -c "$5" "$uri/confine/api/node/"
    done
done
"""
SERVER = """
import sys, threading
from api_world import FakeNode, settings
from confine.api.server import ApiServer
from confine.log import Log
from confine.paths import Paths
etc = sys.argv[1]
node = FakeNode()
node.world.settings.mgmt_ipv6_prefix48 = "fdc0:7246:b03f"
ApiServer(node, Paths(etc=etc), settings(api_port=8443, api_listen=[]), Log(None)).start()
threading.Event().wait(60)
"""
CLIENT = """
import json, ssl, sys, time, urllib.request
context = ssl._create_unverified_context()
for attempt in range(200):
    try:
        with urllib.request.urlopen(sys.argv[1], timeout=5, context=context) as answer:
            print(json.load(answer)["uri"])
        break
    except urllib.error.URLError as error:
        reason = error
        time.sleep(0.05)
else:
    sys.exit(f"{sys.argv[1]}: {reason}")
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("nft"), reason="needs root and nft")
def test_a_poller_reaches_the_api_on_80_and_443_and_the_node_itself_too(key_directory: str) -> None:
    text = firewall.render(core.settings(mgmt_ipv6_prefix48="fdc0:7246:b03f"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [text, sys.executable, SERVER, key_directory, CLIENT]
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-euc", NETWORK, "sh", *arguments],
        capture_output=True, text=True, timeout=50, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    host = "[fdc0:7246:b03f:2a::2]"
    uris = [f"{way}/confine/api/node/" for way in (f"https://{host}", f"http://{host}", f"https://{host}:8443")]
    assert done.stdout.splitlines() == uris * 2

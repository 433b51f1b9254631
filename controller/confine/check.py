"""`confine check`: what is wrong with the set-up of this node, and what to do about it.

Each check looks at one thing and gives findings: ok, warn (the node works, but) or fail (slivers cannot run as they
should). Works without the daemon; what only the daemon knows is asked of it.
"""

import os
import time

from confine.check_facts import FAIL, OK, WARN, Facts, Finding
from confine.check_machine import cache, cgroups, confirmed_time, data, kernel, nftables, tools
from confine.core.text import several
from confine.errors import ConfineError
from confine.paths import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

REGISTRY_S = 15.0
READ_AGAIN = 3  # intervals without a reading of the registry that are too many


def all_findings(run: str) -> "list[Finding]":
    """Everything that is looked at, on this node."""
    from confine.configuration import read_settings
    from confine.control import ask

    paths = Paths(run=run)
    settings, problems = read_settings(paths)
    paths.data = settings.data_dir
    try:
        status = ask(paths.control, "status", timeout=10.0)
    except ConfineError:
        status = None
    return run_checks(Facts(paths, settings, problems, status), CHECKS)


def run_checks(facts: Facts, checks: "tuple[Callable[[Facts], list[Finding]], ...]") -> "list[Finding]":
    """The findings of `checks`; one that fails by itself is a finding, and the others go on."""
    found = []
    for check in checks:
        try:
            found += check(facts)
        except Exception as error:
            what = check.__name__.replace("_", " ").strip()
            found.append(Finding(WARN, what, "could not be looked at: {}: {}".format(type(error).__name__, error)))
    return found


def configuration(facts: Facts) -> "list[Finding]":
    """Every option can be used, and the node knows who it is and whom to ask."""
    edit = "correct it: uci show confine"
    found = [
        Finding(FAIL, "configuration", "{} {}".format(problem.member, problem.message).strip(), edit)
        for problem in facts.problems
    ] or [Finding(OK, "configuration", "every option can be used")]
    if facts.settings.node_id is None:
        todo = "register the node, then: uci set confine.node.id=0012; uci commit confine; /etc/init.d/confine reload"
        found.append(Finding(FAIL, "node id", "it is not set: no sliver goes up", todo))
    else:
        found.append(Finding(OK, "node id", "{:04x}".format(facts.settings.node_id)))
    return found


def daemon(facts: Facts) -> "list[Finding]":
    """The daemon answers, and says nothing is wrong with the node."""
    if facts.status is None:
        todo = "/etc/init.d/confine start, then confine log"
        return [Finding(FAIL, "daemon", "it does not answer on " + facts.paths.control, todo)]
    node = facts.status["node"]
    found = [Finding(OK, "daemon", "version {}, node {}".format(facts.status["version"], node["state"]))]
    for error in node["errors"]:
        text = "{} {}".format(error["member"], error["message"]).strip()
        found.append(Finding(WARN, "node", text, "see confine log"))
    return found


def registry(facts: Facts) -> "list[Finding]":
    """It was read lately, or can be read now, with its certificate verified."""
    uris = facts.settings.registry_uris
    if not uris:
        todo = "uci add_list confine.registry.base_uri=https://.../api/; uci commit confine"
        return [Finding(FAIL, "registry", "no usable address is set", todo)]
    known = (facts.status or {}).get("registry") or {}
    last = known.get("last_read")
    if last and not known.get("error") and time.time() - last < READ_AGAIN * facts.settings.interval_s:
        return [Finding(OK, "registry", "read {:.0f} s ago".format(max(0.0, time.time() - last)))]
    return [_try_registry(facts, uri) for uri in uris]


def _try_registry(facts: Facts, uri: str) -> Finding:
    from confine.registry.transport import Transport

    if uri.startswith("file:"):
        there = os.path.isdir(uri[len("file://") :])
        return Finding(OK if there else FAIL, "registry", uri, "" if there else "this directory is not there")
    transport = Transport(facts.settings.registry_cert, {_origin(uri)}, facts.settings.plain_http)
    fields = {"Accept": "application/json"}
    try:
        answer = transport.get(uri, fields, time.monotonic() + REGISTRY_S, lambda origin: origin == _origin(uri))
    except ConfineError as error:
        todo = "see network, address (registry.base_uri) and certificate (registry.cert)"
        return Finding(FAIL, "registry", "{}: {}".format(uri, error), todo)
    finally:
        transport.close()
    if answer.status != 200:
        said = "{} answers with status {}".format(uri, answer.status)
        return Finding(FAIL, "registry", said, "is this the base of the API? (registry.base_uri)")
    return Finding(OK, "registry", uri + " answers, its certificate is the right one")


def _origin(uri: str) -> str:
    from confine.registry import uris

    return uris.origin(uri)


def _other_tincd(facts: Facts) -> "Finding | None":
    """OpenWrt's own tinc service would start a second tincd for the same network."""
    from confine.drivers import uci

    try:
        section = uci.load("tinc", facts.paths.uci).get("confine") or {}
    except ConfineError:
        return None
    if section.get("enabled") != "1":
        return None
    todo = "uci set tinc.confine.enabled=0; uci commit tinc; /etc/init.d/tinc stop; /etc/init.d/confine-overlay restart"
    return Finding(
        WARN, "overlay", "/etc/config/tinc has a network confine enabled: two tincd are in each other's way", todo
    )


def overlay(facts: Facts) -> "list[Finding]":
    """Where there is to be an overlay, tincd runs and its peers are reached."""
    doc = (facts.status or {}).get("overlay") or {}
    if not doc.get("asked"):
        return []
    if not doc["running"]:
        todo = "/etc/init.d/confine-overlay restart, then see the system log"
        return [Finding(FAIL, "overlay", "tincd does not run", todo)]
    wanted = [peer for peer in doc["peers"] if peer["connect"]]
    rival = _other_tincd(facts)
    reached = [peer["name"] for peer in wanted if peer["reachable"]]
    away = ["{} {}".format(peer["name"], peer["said"] or "") for peer in wanted if not peer["reachable"]]
    found = [rival] if rival is not None else []
    if away:
        state = WARN if reached else FAIL
        found.append(Finding(state, "overlay", "not reached: " + "; ".join(away).strip(), "see confine overlay"))
    if doc["published"] is False:
        found.append(
            Finding(WARN, "overlay", "the registry does not have this node's key", "confine overlay --publish")
        )
    if not wanted:
        todo = "let the registry have a server with tinc addresses, or set node.tinc_gateway"
        found.append(Finding(WARN, "overlay", "no peer to connect to is known", todo))
    return found or [Finding(OK, "overlay", "{}, reached: {}".format(doc["address"], ", ".join(reached)))]


def network(facts: Facts) -> "list[Finding]":
    """The node's own network is as asked; changes that cut it off were undone."""
    known = ((facts.status or {}).get("node") or {}).get("network")
    if known is None:
        return []
    state = known["state"]
    todo = {
        "undone": "see the errors of the node; when it is mended: confine refresh",
        "broken": "correct the file: uci show network, uci show firewall, uci show dhcp",
        "changing": "wait a minute",
    }
    said = {"by hand": "network.manage is 0 or the node has no id: its sections are left alone"}.get(state, state)
    return [Finding(WARN if state in todo else OK, "network", said, todo.get(state, ""))]


def firewall(facts: Facts) -> "list[Finding]":
    """The node's own tables stand; as long as they do not, every sliver is cut off."""
    doc = (facts.status or {}).get("firewall")
    if doc is None:
        return []
    if doc["ok"]:
        from confine import stop

        return [
            Finding(WARN, "firewall", pattern + " is cut off, and nobody decided so", "confine release " + scope)
            for pattern, scope in stop.left_cut(stop.Node(facts.paths)).items()
        ] or [Finding(OK, "firewall", "its tables stand")]
    said = "its tables are not watched over yet"
    if doc["since"]:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(doc["since"]))
        said = "slivers are cut off since {}: {}".format(since, doc["said"])
    todo = "see confine log, and what else changes nftables on this node"
    return [Finding(FAIL, "firewall", said, todo)]


def limits(facts: Facts) -> "list[Finding]":
    """What runs is held by its limits."""
    running = [one for one in (facts.status or {}).get("slivers", []) if one.get("init_pid")]
    loose = [one["id"] for one in running if not (one.get("limits") or {}).get("held")]
    if loose:
        return [Finding(FAIL, "limits", "they do not hold " + ", ".join(loose), "confine log says why; confine stop")]
    return [Finding(OK, "limits", "read back and held: " + several(len(running), "sliver"))] if running else []


def decided(facts: Facts) -> "list[Finding]":
    """Decisions that hold slivers back are worth being reminded of."""
    found = []
    for one in (facts.status or {}).get("slivers", []):
        for text in one.get("decisions") or []:
            found.append(Finding(WARN, "sliver " + one["id"], text))
    return found


CHECKS = (
    configuration, daemon, network, firewall, registry, overlay, confirmed_time, kernel, cgroups, nftables, tools, data,
    cache, limits, decided,
)  # fmt: skip

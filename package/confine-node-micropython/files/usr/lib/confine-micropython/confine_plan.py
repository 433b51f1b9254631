"""What a registry's documents ask of a node, and the steps that would carry it out: on MicroPython, and on CPython.

    confine-plan [--json] DOCUMENT

DOCUMENT is a JSON file (- for standard input) with the members `registry` (the state that a node keeps in
journal/registry.json: base, node, docs, gone, problems, date, complete), `settings` ({section: {option: value}}, as in
/etc/config/confine) and, if wanted, `found` (memory_mib, disk_mib of the device). Nothing is changed: the node is
taken to be as it was before it ever joined. Exit status: 0, 1 if the document cannot be used, 2 for a wrong call.
"""

import json
import sys

from confine.core import addressing, desired, plan, settings
from confine.core.model import Observed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

USAGE = "usage: confine-plan [--json] DOCUMENT (a JSON file with registry and settings; - is standard input)"
MEMORY_MIB, DISK_MIB = 256, 1024


def read(path: str) -> "dict[str, Any]":
    """The document at `path`. ValueError says what is wrong with it."""
    try:
        if path == "-":
            doc = json.loads(sys.stdin.read())
        else:
            with open(path) as file:
                doc = json.load(file)
    except OSError as error:
        raise ValueError("cannot be read: error " + str(error.args[0]))
    except ValueError:
        raise ValueError("is not JSON")
    if not isinstance(doc, dict):
        raise ValueError("is not a JSON object")
    for member in ("registry", "settings"):
        if not isinstance(doc.get(member), dict):
            raise ValueError("has no object " + member)
    return doc


def judged(doc: "dict[str, Any]") -> "dict[str, Any]":
    """{"problems", "node", "slivers", "node_steps", "steps": {sliver: [step]}, "waiting": {sliver: [message]}}."""
    registry = doc["registry"]
    if isinstance(registry.get("state"), dict):  # as the node keeps it, with its checksum
        registry = registry["state"]
    own, problems = settings.parse(doc["settings"])
    asked = desired.build(registry, own)
    planned = plan.plan(asked, _found(doc.get("found")), {}, {}, own, 0.0, None)
    return {
        "problems": [one.as_doc() for one in problems + planned.node_problems],
        "node": asked.node.as_doc() if asked.node is not None else None,
        "state": planned.node_state,
        "slivers": [one.as_doc() for one in asked.slivers],
        "node_steps": [step.as_doc() for step in planned.node_steps],
        "steps": {name: [step.as_doc() for step in steps] for name, steps in planned.sliver_steps.items()},
        "waiting": {name: [one.message for one in found] for name, (_, found) in planned.states.items() if found},
    }


def _found(doc: "Any") -> Observed:
    """A node that never joined, of the size that `doc` says."""
    sizes = doc if isinstance(doc, dict) else {}
    memory, disk = sizes.get("memory_mib", MEMORY_MIB), sizes.get("disk_mib", DISK_MIB)
    if not isinstance(memory, int) or not isinstance(disk, int):
        raise ValueError("found: memory_mib and disk_mib must be whole numbers")
    return Observed({}, [], [], False, False, disk, disk, memory)


def lines(doc: "dict[str, Any]") -> "list[str]":
    """What `judged()` gives, as people read it."""
    said = ["problem " + (one["member"] + ": " if one["member"] else "") + one["message"] for one in doc["problems"]]
    node = doc["node"]
    if node is None:
        said.append("node    none is asked for: nothing is changed")
    else:
        said.append("node    {} ({}), {}".format(addressing.node_hex(node["id"]), node["name"], doc["state"]))
    for one in doc["slivers"]:
        template = one["template"] or {}
        said.append("sliver  {} {}, {}".format(one["key"], one["target"], template.get("name", "no template")))
    for step in doc["node_steps"]:
        said.append("step    node: {driver} {verb}: {why}".format(**step))
    for name in sorted(doc["steps"]):
        for step in doc["steps"][name]:
            said.append("step    " + name + ": {driver} {verb}: {why}".format(**step))
    for name in sorted(doc["waiting"]):
        for message in doc["waiting"][name]:
            said.append("waits   " + name + ": " + message)
    return said


def main(words: "list[str]") -> int:
    """Command line without the program's name. Gives the exit status."""
    as_json = "--json" in words
    places = [word for word in words if word != "--json"]
    if len(places) != 1 or (places[0].startswith("-") and places[0] != "-"):
        print(USAGE)
        return 2
    try:
        doc = judged(read(places[0]))
    except ValueError as error:
        print("confine-plan: " + places[0] + " " + str(error))
        return 1
    print(json.dumps(doc) if as_json else "\n".join(lines(doc)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

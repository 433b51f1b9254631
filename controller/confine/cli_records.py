"""`confine history` and `confine figures`: what was done on the node, and what its slivers used."""

import sys
import time

from confine.control import ask
from confine.core.decisions import ALL, parse_sliver, spoken
from confine.errors import ConfineError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KIB, MIB = 1024, 1024 * 1024
NODE = "node"


def history(args: "dict[str, Any]", run_dir: str) -> int:
    """Read from the disk, so that it needs no daemon. Exit status: 0 something is recorded, 1 nothing."""
    from confine import stop
    from confine.cli import as_json
    from confine.cli_trace import seconds
    from confine.configuration import read_settings
    from confine.records.actions import ActionLog

    paths = stop.known_paths(run_dir)
    stop.tell(paths, "flush")
    settings = read_settings(paths)[0]
    try:
        since = seconds(args["since"]) if args["since"] else None
        name = parse_sliver(args["sliver"], settings.node_id) if args["sliver"] else None
    except ValueError as error:
        raise ConfineError(str(error))
    records = ActionLog(paths, settings).read(since=since)
    found = [record for record in records if name is None or record["subject"] in (name, ALL)][-args["lines"] :]
    sys.stdout.write(as_json(found) if args["json"] else told(found))
    return 0 if found else 1


def figures(args: "dict[str, Any]", run_dir: str) -> int:
    """As the daemon has them in memory. Exit status: 0 there are some, 1 none."""
    from confine.cli import as_json
    from confine.paths import Paths

    given = {name: args[name] for name in ("sliver", "span", "user")}
    doc = ask(Paths(run=run_dir).control, "figures", given)
    found = any(doc["slivers"].values()) or doc["total"] is not None
    sys.stdout.write(as_json(doc) if args["json"] else over_time(doc) if args["sliver"] else newest(doc))
    return 0 if found else 1


def told(records: "list[dict[str, Any]]") -> str:
    """Records of actions as people read them. "~" before a time: nothing confirmed the clock then."""
    from confine.log import printable
    from confine.tables import table

    rows = [["TIME (UTC)", "SLIVER", "WHAT", "WHO", "WHY"]]
    for record in records:
        more = record["more"] or {}
        why = record["why"] or ""
        words = (record["subject"] or "", record["what"] or "", record["who"] or "", more.get("error") or why)
        subject, *rest = (printable(str(word)) for word in words)
        rows.append([_when(record), subject if subject == NODE else spoken(subject), *rest])
    return "\n".join(table(rows) if len(rows) > 1 else ["nothing is recorded"]) + "\n"


def over_time(doc: "dict[str, Any]") -> str:
    """The rows of one sliver."""
    return _lines([[_when(row), *_cells(row)] for rows in doc["slivers"].values() for row in rows], "TIME (UTC)")


def newest(doc: "dict[str, Any]") -> str:
    """The newest row of each sliver, and what all of them use together."""
    rows = [[spoken(name), *_cells(of[-1])] for name, of in sorted(doc["slivers"].items()) if of]
    total = doc["total"]
    if total is not None and total["slivers"]:
        rows.append(["all {}".format(total["slivers"]), *_cells(total)])
    return _lines(rows, "SLIVER")


def _lines(rows: "list[list[str]]", first: str) -> str:
    from confine.tables import table

    titles = [first, "CPU %", "HELD BACK %", "MEMORY MiB", "DISK MiB", "READ KiB/s", "WRITTEN KiB/s", "IN KiB/s",
              "OUT KiB/s", "PROCESSES", "LIMITS HIT"]  # fmt: skip
    return "\n".join(table([titles, *rows]) if rows else ["no figures yet: the first come after 20 s"]) + "\n"


def _cells(row: "dict[str, Any]") -> "list[str]":
    span = row["seconds"] or 1.0
    parts = (("cpu_s", span / 100, 1), ("throttled_s", span / 100, 1), ("memory_bytes", MIB, 1), ("disk_bytes", MIB, 1),
             ("read_bytes", span * KIB, 1), ("write_bytes", span * KIB, 1), ("received_bytes", span * KIB, 1),
             ("sent_bytes", span * KIB, 1), ("pids", 1, 0), ("limit_hits", 1, 0))  # fmt: skip
    known = [(row.get(name), unit, digits) for name, unit, digits in parts]
    return ["-" if value is None else "{:.{}f}".format(value / unit, digits) for value, unit, digits in known]


def _when(record: "dict[str, Any]") -> str:
    shown = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(record["time"]))
    return shown if record["time_sure"] else "~" + shown

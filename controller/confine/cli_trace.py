"""`confine trace`: whose traffic it was."""

import calendar
import sys
import time

from confine.errors import ConfineError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FORMS = ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%MZ", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M",
         "%Y-%m-%d %H:%M")  # fmt: skip


def run(args: "dict[str, Any]", run_dir: str) -> int:
    """Exit status: 0 somebody was found, 1 nobody."""
    from confine import stop, tables
    from confine.cli import as_json
    from confine.configuration import read_settings
    from confine.records.trace import trace

    paths = stop.known_paths(run_dir)
    stop.tell(paths, "flush")
    settings = read_settings(paths)[0]
    try:
        found = trace(paths, settings, args["address"], seconds(args["time"]), args["port"], args["protocol"])
    except ValueError as error:
        raise ConfineError(str(error))
    sys.stdout.write(as_json(found) if args["json"] else tables.traced(found))
    return 0 if found else 1


def seconds(text: str) -> float:
    """Seconds since 1970 of a time in UTC as people write it. ValueError if it is none."""
    if text.replace(".", "", 1).isdigit():
        return float(text)
    for form in FORMS:
        try:
            return float(calendar.timegm(time.strptime(text, form)))
        except ValueError:
            continue
    raise ValueError("{!r} is no time: 2026-11-20T10:15:00Z (UTC) or seconds since 1970".format(text[:60]))

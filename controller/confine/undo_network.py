"""At the start of the node, before its network comes up: a change of the network that nobody confirmed is undone.

Run by the init script confine-network, only where there is a record of a change.
"""

import os
import sys
import time

from confine import durable
from confine.core.network_change import UNDONE
from confine.drivers.network import RECORD, read_record, restore
from confine.errors import ConfineError
from confine.paths import Paths

REASON = "The node was restarted before it was confirmed."


def main(paths: "Paths | None" = None) -> int:
    """Exit status 1 if it could not be undone; the daemon tries again then."""
    paths = paths or Paths()
    path = os.path.join(paths.etc, RECORD)
    record = read_record(path)
    if record is None or record["state"] == UNDONE:
        return 0
    try:
        restore(record, paths.uci)
        record.update(state=UNDONE, when=time.time(), reason=REASON, cut=record["cut"] + 1)
        durable.write_json(path, record)
    except (ConfineError, OSError) as error:
        print("network: the change under way could not be undone: {}".format(error), file=sys.stderr)
        return 1
    print("network: a change that was not confirmed is undone", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Numbered changes of the configuration that a new version needs: `/usr/lib/confine/migrations/NNN-name`.

Each is a program, run once, in the order of the numbers, in the slot that brings it and on that slot's own copy of the
configuration: the slot before keeps its own as it was. Each must be idempotent: cut off, it is run again. The number of
the last one done is in /etc/confine/migrated, which a later slot takes over with the rest.

Formats of what lies on the data partition, which both slots share, have a number, too (data format): a slot that is on
trial reads the old one, and changes it only when it is confirmed, with a copy kept for going back.
"""

import os
import subprocess
import sys

from confine import durable
from confine.upgrade.errors import UpgradeError

DIRECTORY = "/usr/lib/confine/migrations"
DONE = "/etc/confine/migrated"
RUN_S = 120


def pending(directory: str = DIRECTORY, done: str = DONE) -> "list[tuple[int, str]]":
    """Those not yet run, as (number, path), in order."""
    last = last_done(done)
    found = []
    for name in sorted(os.listdir(directory) if os.path.isdir(directory) else []):
        number = name.split("-")[0]
        if len(number) == 3 and number.isdigit() and int(number) > last:
            found.append((int(number), os.path.join(directory, name)))
    return found


def last_done(done: str = DONE) -> int:
    """The number of the last one that was done; 0 if none was."""
    try:
        with open(done, encoding="ascii") as file:
            return int(file.read().strip())
    except (OSError, ValueError):
        return 0


def run(directory: str = DIRECTORY, done: str = DONE) -> int:
    """Run what is pending; how many. UpgradeError at the first that fails: it and those after it stay pending."""
    count = 0
    for number, path in pending(directory, done):
        try:
            ended = subprocess.run([path], stdin=subprocess.DEVNULL, capture_output=True, timeout=RUN_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UpgradeError("migration {} cannot be run: {}".format(path, error))
        if ended.returncode != 0:
            said = " ".join((ended.stderr or ended.stdout).decode("utf-8", "replace").split())[-300:]
            raise UpgradeError("migration {} failed (status {}): {}".format(path, ended.returncode, said))
        durable.make_dir(os.path.dirname(done), 0o755)
        durable.write_atomic(done, "{}\n".format(number).encode(), 0o644)
        count += 1
    return count


def data_format(data: str) -> int:
    """The number of the format of what lies on the data partition below `data`; 1 if nothing says otherwise."""
    found = durable.read_json(os.path.join(data, "format.json"))
    return found["format"] if isinstance(found, dict) and isinstance(found.get("format"), int) else 1


def may_change_data(data: str, wanted: int, on_trial: bool) -> bool:
    """May this slot bring the data to format `wanted` now? Not on trial: the slot before must find what it knows.

    UpgradeError if the data is newer than this slot knows: it must not be touched at all.
    """
    now = data_format(data)
    if now > wanted:
        raise UpgradeError(
            "the data has format {}, this slot knows {}: upgrade, or start the other slot".format(now, wanted)
        )
    return now < wanted and not on_trial


def set_data_format(data: str, number: int) -> None:
    """Say, durably, that the data has format `number` now."""
    durable.write_json(os.path.join(data, "format.json"), {"format": number})


def main() -> int:
    """Run what is pending. Exit status 0, or 1 with the reason."""
    try:
        run()
    except (UpgradeError, OSError) as error:
        sys.stderr.write("confine: {}\n".format(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

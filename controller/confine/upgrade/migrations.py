"""Numbered changes of the configuration that a new version needs: `/usr/lib/confine/migrations/NNN-name`.

Each is a program, run once, in the order of the numbers, in the slot that brings it and on that slot's own copy of the
configuration: the slot before keeps its own as it was. Each must be idempotent: cut off, it is run again. The number of
the last one done is in /etc/confine/migrated, which a later slot takes over with the rest.

Formats of what lies on the data partition, which both slots share, have a number, too (data format). The program
`/usr/lib/confine/data-migrations/NNN-name DATA` brings it to format NNN, 002 the first, and keeps what it replaces
beside it. A slot on trial reads the old format; it changes it at its first start as the confirmed one. The controller
does not touch data of a format that is newer than its slot's programs make.
"""

import os
import subprocess
import sys

from confine import durable
from confine.upgrade.errors import UpgradeError

DIRECTORY = "/usr/lib/confine/migrations"
DATA_DIRECTORY = "/usr/lib/confine/data-migrations"
DONE = "/etc/confine/migrated"
RUN_S = 120


def pending(directory: str = DIRECTORY, done: str = DONE) -> "list[tuple[int, str]]":
    """Those not yet run, as (number, path), in order."""
    last = last_done(done)
    return [(number, path) for number, path in _programs(directory) if number > last]


def _programs(directory: str) -> "list[tuple[int, str]]":
    found = []
    for name in sorted(os.listdir(directory) if os.path.isdir(directory) else []):
        number = name.split("-")[0]
        if len(number) == 3 and number.isdigit():
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
        _run([path])
        durable.make_dir(os.path.dirname(done), 0o755)
        durable.write_atomic(done, "{}\n".format(number).encode(), 0o644)
        count += 1
    return count


def _run(argv: "list[str]") -> None:
    try:
        ended = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=RUN_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UpgradeError("migration {} cannot be run: {}".format(argv[0], error))
    if ended.returncode != 0:
        said = " ".join((ended.stderr or ended.stdout).decode("utf-8", "replace").split())[-300:]
        raise UpgradeError("migration {} failed (status {}): {}".format(argv[0], ended.returncode, said))


def run_data(data: str, on_trial: bool, directory: str = DATA_DIRECTORY) -> int:
    """Bring the data below `data` to the newest format this slot knows; how many programs were run. UpgradeError at
    the first that fails, or if the data is newer."""
    check_data(data, directory)
    count = 0
    for number, path in _programs(directory):
        if may_change_data(data, number, on_trial):
            _run([path, data])
            set_data_format(data, number)
            count += 1
    return count


def check_data(data: str, directory: str = DATA_DIRECTORY) -> None:
    """UpgradeError if the data has a newer format than this slot knows: it must not be touched at all."""
    known = max([number for number, _ in _programs(directory)], default=1)
    now = data_format(data)
    if now > known:
        raise UpgradeError(
            "the data has format {}, this slot knows {}: upgrade, or start the other slot".format(now, known)
        )


def data_format(data: str) -> int:
    """The number of the format of what lies on the data partition below `data`; 1 if nothing says otherwise."""
    try:
        found = durable.read_json(os.path.join(data, "format.json"))
    except ValueError:
        return 1  # damaged; the programs can be run again
    return found["format"] if isinstance(found, dict) and isinstance(found.get("format"), int) else 1


def may_change_data(data: str, wanted: int, on_trial: bool) -> bool:
    """May this slot bring the data to format `wanted` now? Not on trial: the slot before must find what it knows."""
    return data_format(data) < wanted and not on_trial


def set_data_format(data: str, number: int) -> None:
    """Say, durably, that the data has format `number` now."""
    durable.write_json(os.path.join(data, "format.json"), {"format": number})


def main() -> int:
    """Run what is pending. Exit status 0, or 1 with the reason."""
    from confine.configuration import read_settings
    from confine.paths import Paths
    from confine.upgrade.slots import Slots

    try:
        run()
        run_data(read_settings(Paths())[0].data_dir, Slots().on_trial)
    except (UpgradeError, OSError) as error:
        sys.stderr.write("confine: {}\n".format(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

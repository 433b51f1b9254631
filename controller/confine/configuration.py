"""The node's settings as they stand in UCI: for the daemon and for the command line."""

import os

from confine.core import settings as settings_table
from confine.core.model import Problem
from confine.core.settings import Settings
from confine.drivers import uci
from confine.errors import SettingsError
from confine.paths import DATA, Paths


def read_settings(paths: Paths, last: "Settings | None" = None) -> "tuple[Settings, list[Problem]]":
    """The node's settings from UCI. With a file that cannot be read: `last`, those in force; without any, settings that
    join no testbed, offer no API and leave the data where the last daemon had it."""
    try:
        return settings_table.parse(uci.load("confine", paths.uci))
    except SettingsError as error:
        if last is not None:
            return last, [Problem("", "{}: the settings read before stay in force".format(error))]
        safe = Settings(api_enabled=False)
        try:
            safe.data_dir = os.readlink(os.path.join(paths.run, DATA))
        except OSError:
            pass  # no daemon ran since the node started
        return safe, [Problem("", str(error))]


def unkept(mounts: str = "/proc/mounts", command_line: str = "/proc/cmdline") -> str:
    """What to say where changes of this system go into memory because its overlay cannot be used; "" where they do
    not, or are meant to (confine.overlay=tmpfs, as in the recovery system)."""
    try:
        with open(command_line, encoding="utf-8", errors="replace") as file:
            meant = "confine.overlay=tmpfs" in file.read().split()
        with open(mounts, encoding="utf-8", errors="replace") as file:
            kinds = [row[2] for row in map(str.split, file) if len(row) > 2 and row[1] == "/overlay"]
    except OSError:
        return ""
    if meant or not kinds or kinds[-1] != "tmpfs":
        return ""
    return (
        "This slot's overlay cannot be used: the configuration is the image's, and what is changed now is lost at "
        "the next start. The other slot may have the node's own: confine upgrade rollback; or install an upgrade."
    )

"""The node's settings as they stand in UCI: for the daemon and for the command line."""

from confine.core import settings as settings_table
from confine.core.model import Problem
from confine.core.settings import Settings
from confine.drivers import uci
from confine.errors import SettingsError
from confine.paths import Paths


def read_settings(paths: Paths) -> "tuple[Settings, list[Problem]]":
    """The node's settings from UCI. With a file that cannot be read: the defaults, which join no testbed."""
    try:
        return settings_table.parse(uci.load("confine", paths.uci))
    except SettingsError as error:
        defaults, _ = settings_table.parse({})
        return defaults, [Problem("", str(error))]

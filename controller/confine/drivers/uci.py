"""OpenWrt's configuration, through libuci's own Python binding (pyuci)."""

from confine.errors import SettingsError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def load(config: str, directory: str = "/etc/config") -> "dict[str, dict[str, Any]]":
    """The sections of the file `config`: {name: {".type": type, option: str or list of str}}.

    Raises SettingsError, naming the file and what to do, if it is absent or malformed, or libuci is not there.
    pyuci is used rather than its wrapper euci: that one imports `typing` and only adds conversions, which
    core/settings.py declares for every option anyway.
    """
    try:
        import uci  # lazy: a C extension
    except ImportError:
        raise SettingsError("the uci binding (python3-uci, pyuci) is not installed: cannot read " + config)
    where = directory + "/" + config
    handle = uci.Uci(confdir=directory)
    try:
        sections = handle.get_all(config)
        return {name: _section(handle, config, name, options) for name, options in sections.items()}
    except uci.UciExceptionNotFound:
        raise SettingsError(where + " is missing: install the package's default or restore it")
    except (uci.UciException, UnicodeDecodeError, SystemError) as error:
        # Where a text is not UTF-8, pyuci raises UnicodeDecodeError, or leaves it pending, which is a SystemError.
        raise SettingsError("{} is malformed ({}): correct it, `uci show {}` tells where".format(where, error, config))


def _section(handle: "Any", config: str, name: str, options: "dict[str, Any]") -> "dict[str, Any]":
    section = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
    section[".type"] = handle.get(config, name)
    return section

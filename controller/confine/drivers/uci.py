"""OpenWrt's configuration, through libuci's own Python binding (pyuci)."""

import fcntl
import os

from confine.durable import write_atomic
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


def change(config: str, changes: "dict[str, dict[str, Any] | None]", directory: str = "/etc/config") -> None:
    """Put named sections of the file `config` as `changes` says: {name: section as load() gives it, or None: remove}.

    All other sections keep their names, options and order; comments do not survive libuci. What a person has set and
    not committed is neither used nor committed. The file is replaced as a whole and is on disk when this comes back:
    libuci writes a copy in a directory of its own, since where there is no space it puts half a file in place and
    calls it done. SettingsError leaves the file as it was.
    """
    import shutil  # lazy, all three: memory of the daemon's
    import tempfile

    import uci  # a C extension

    path = os.path.join(directory, config)
    scratch = tempfile.mkdtemp(prefix="confine-uci-")
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # as libuci does: one writer at a time
            mode = os.fstat(file.fileno()).st_mode & 0o777
            write_atomic(os.path.join(scratch, config), file.read(), mode)
            there = load(config, scratch)
            _commit(uci.Uci(confdir=scratch, savedir=os.path.join(scratch, "delta")), config, changes)
            wanted = {name: section for name, section in {**there, **changes}.items() if section is not None}
            if _shape(load(config, scratch)) != _shape(wanted):
                raise SettingsError("{} cannot be written: is there space below {}?".format(path, scratch))
            with open(os.path.join(scratch, config), "rb") as made:
                write_atomic(path, made.read(), mode)
    except (uci.UciException, OSError) as error:
        raise SettingsError("{} cannot be written: {}".format(path, error))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _shape(sections: "dict[str, Any]") -> "list[list[str]]":
    """The options of each section that hold something. Not by name: those of sections without one depend on order."""
    return sorted(sorted(option for option, value in section.items() if value) for section in sections.values())


def _commit(handle: "Any", config: str, changes: "dict[str, dict[str, Any] | None]") -> None:
    for name, section in changes.items():
        handle.delete(config, name)
        if section is not None:
            handle.set(config, name, section[".type"])
            for option, value in section.items():
                if option != ".type":
                    handle.set(config, name, option, tuple(value) if isinstance(value, list) else value)
    handle.commit(config)


def stamp(config: str, directory: str = "/etc/config") -> "tuple[int, int, int] | None":
    """Differs when the file `config` does; None if there is none."""
    try:
        found = os.stat(os.path.join(directory, config))
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size

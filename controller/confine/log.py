"""The daemon's log: lines that name node, sliver and step, on standard error and in a bounded file.

The standard library's logging is a package of its own on OpenWrt and costs start-up time and memory; this is
all of it that is needed. The file lies in memory (`Paths.log`), so that an idle node writes nothing to flash.
"""

import os
import sys
import threading
import time

LIMIT = 256 * 1024


class Log:
    """Writes lines `TIME LEVEL SUBJECT: text`. Thread-safe. Losing a line is better than stopping the node."""

    def __init__(self, path: "str | None", echo: bool = True) -> None:
        self._path = path
        self._echo = echo
        self._lock = threading.Lock()
        if path:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)

    def info(self, subject: str, text: str) -> None:
        """Something was done."""
        self._write("info", subject, text)

    def warn(self, subject: str, text: str) -> None:
        """Something is wrong, and the node goes on."""
        self._write("warn", subject, text)

    def _write(self, level: str, subject: str, text: str) -> None:
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = "{} {:4} {}: {}\n".format(moment, level, subject, printable(text))
        with self._lock:
            if self._echo:
                sys.stderr.write(line)
                sys.stderr.flush()
            if self._path:
                try:
                    self._append(self._path, line)
                except OSError:
                    pass

    def _append(self, path: str, line: str) -> None:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line)
            size = file.tell()
        if size > LIMIT:
            os.replace(path, path + ".1")


def printable(text: str) -> str:
    """`text` in one line, without what would confuse a terminal. Documents come from outside."""
    return "".join(char if char.isprintable() else "\\x{:02x}".format(ord(char)) for char in text)


def tail(path: str, lines: int) -> "list[str]":
    """The last `lines` lines of the log at `path`, the file before it included."""
    found: list[str] = []
    for part in (path + ".1", path):
        try:
            with open(part, encoding="utf-8", errors="replace") as file:
                found += file.read().splitlines()
        except FileNotFoundError:
            pass
    return found[-lines:] if lines > 0 else []

"""U-Boot's environment for a node's disk: the variables of upgrade/boot/uboot.env, with those of the board.

    python3 -m firmware.image.uboot --set confine_if=mmc --set confine_dev=0 > confine.env

writes them one a line, for `fw_setenv -s` on the device (U-Boot's own tool and libubootenv's both take that), or `env
import -t` at U-Boot's prompt. `block` is the environment itself, as it lies on the medium.
"""

import argparse
import os
import struct
import sys
import zlib
from collections.abc import Mapping

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "upgrade", "boot", "uboot.env")
# State of a disk of which slot a is filled: see confine/upgrade/backends.py.
FRESH: Mapping[str, str] = {"confine_slot": "a", "confine_starts_a": "3", "confine_starts_b": "never"}


class UBootError(ValueError):
    """A variable that cannot be: names it."""


def variables(board: Mapping[str, str], state: Mapping[str, str] = FRESH) -> dict[str, str]:
    """The loader's script with the variables of a board and the state of its slots. Raises UBootError."""
    with open(SOURCE, encoding="ascii") as file:
        found = parse(file.read())
    found.update(board)
    found.update(state)
    for name, value in found.items():
        if not name or "=" in name or not (name + value).isascii() or not (name + value).isprintable():
            raise UBootError(f"variable {name!r} is {value!r}: a name without '=', and one line of ASCII")
    return found


def parse(text: str) -> dict[str, str]:
    """Lines `name=value`; `#` begins a comment, a backslash at the end of a line goes on in the next."""
    found = {}
    for line in text.replace("\\\n", "").splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found[name] = value
    return found


def script(found: Mapping[str, str]) -> str:
    """One variable a line; `bootcmd` last, so that what it runs is there before it."""
    names = sorted(found, key=lambda name: (name == "bootcmd", name))
    return "".join(f"{name}={found[name]}\n" for name in names)


def block(found: Mapping[str, str], size: int, serial: int | None = None) -> bytes:
    """The environment as U-Boot keeps it in `size` bytes: CRC-32, with redundancy the copy's serial, the variables.

    serial: None where the board keeps one copy; else the newer of two has the higher one (env_import_redund).
    """
    head = b"" if serial is None else bytes([serial])
    data = b"".join(f"{name}={value}".encode() + b"\0" for name, value in sorted(found.items())) + b"\0"
    room = size - 4 - len(head)
    if len(data) > room:
        raise UBootError(f"the environment has {len(data)} bytes, more than the {room} there are")
    data = data.ljust(room, b"\0")
    return struct.pack("<I", zlib.crc32(data)) + head + data


def main(argv: list[str] | None = None) -> int:
    """The command line. Exit status 0, or 1 with what is wrong."""
    parser = argparse.ArgumentParser(prog="uboot", description="The variables that U-Boot starts a node by.")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a variable of the board")
    given = dict(text.partition("=")[::2] for text in parser.parse_args(argv).set)
    try:
        sys.stdout.write(script(variables(given)))
    except UBootError as error:
        print(f"uboot: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

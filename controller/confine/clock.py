"""Is the node's clock to be believed?

Nodes boot without a clock. A slice expires only by confirmed time (design, "Time").
"""

import struct
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

UNSYNCHRONIZED = 5  # TIME_ERROR, adjtimex(2)
TIMEX = "@Illll"  # struct timex begins: modes, offset, freq, maxerror (µs), esterror


def ntp_date() -> "str | None":
    """Today (UTC, "YYYY-MM-DD") if the kernel says its clock is disciplined by NTP, else None."""
    if _ask()[0] in (None, UNSYNCHRONIZED):
        return None
    return time.strftime("%Y-%m-%d", time.gmtime())


def report(registry_date: "str | None") -> "dict[str, Any]":
    """confirmed: who says that the clock is right: "ntp", "registry" (it said what day it is, registry_date) or None.
    error_ms: how wrong it is at most by NTP's own reckoning, None without NTP."""
    state, error_us = _ask()
    if state not in (None, UNSYNCHRONIZED):
        return {"confirmed": "ntp", "error_ms": error_us / 1000}
    return {"confirmed": "registry" if registry_date else None, "error_ms": None}


def _ask() -> "tuple[int | None, int]":
    """(state of the kernel's clock, or None if it does not say; its largest error in microseconds)."""
    import ctypes  # lazy: asked once a round at most

    try:
        libc = ctypes.CDLL(None, use_errno=True)
        buffer = ctypes.create_string_buffer(512)  # struct timex, all zero: modes = 0 only asks
        state = libc.adjtimex(buffer)
    except (OSError, AttributeError):
        return None, 0
    error_us = struct.unpack_from(TIMEX, buffer.raw)[3]
    return (state if isinstance(state, int) and state >= 0 else None), error_us

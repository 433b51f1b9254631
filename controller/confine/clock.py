"""Is the node's clock to be believed?

Nodes boot without a clock. A slice expires only by confirmed time (design, "Time").
"""

import time

UNSYNCHRONIZED = 5  # TIME_ERROR, adjtimex(2)


def ntp_date() -> "str | None":
    """Today (UTC, "YYYY-MM-DD") if the kernel says its clock is disciplined by NTP, else None."""
    if _clock_state() in (None, UNSYNCHRONIZED):
        return None
    return time.strftime("%Y-%m-%d", time.gmtime())


def _clock_state() -> "int | None":
    import ctypes  # lazy: asked once a round at most

    try:
        libc = ctypes.CDLL(None, use_errno=True)
        buffer = ctypes.create_string_buffer(512)  # struct timex, all zero: modes = 0 only asks
        state = libc.adjtimex(buffer)
    except (OSError, AttributeError):
        return None
    return state if isinstance(state, int) and state >= 0 else None

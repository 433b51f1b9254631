"""The pure part: documents to desired state to plan. No I/O; runs under CPython and MicroPython alike."""

"""What ends a thread's sleep, from other threads and from signal handlers."""

import os
import select
import threading


class Wake:
    """handle: to be polled; readable once `tell` was called, until `clear`. Nothing happens after `close`."""

    def __init__(self) -> None:
        self.handle, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._lock = threading.RLock()  # a signal's handler may come in between

    def tell(self) -> None:
        """End the sleep."""
        with self._lock:
            try:
                if self._write >= 0:
                    os.write(self._write, b".")
            except BlockingIOError:
                pass  # the pipe is full of wake-ups already

    def wait(self, seconds: float) -> None:
        """For the one who sleeps: until `tell` was called, so long at most."""
        poll = select.poll()
        poll.register(self.handle, select.POLLIN)
        poll.poll(seconds * 1000)

    def clear(self) -> None:
        """For the one who sleeps: what was told so far is heard."""
        try:
            os.read(self.handle, 65536)
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Give the descriptors back. Nobody may sleep on them any more."""
        with self._lock:
            if self._write >= 0:
                os.close(self._write)
                os.close(self.handle)
                self._write = -1

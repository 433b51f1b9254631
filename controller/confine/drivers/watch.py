"""Sleep that ends when a sliver ends: of LXC's monitors the kernel tells when the last process of their cgroup goes.

The monitor stays while a sliver restarts itself, so that is none. Sleeping costs nothing; a descriptor for each sliver.
"""

import os
import select

from confine.drivers import cgroups

EVENTS = "cgroup.events"


class Watch:
    """root: of the cgroup tree. wake: a descriptor that ends the sleep when it can be read. For one thread."""

    def __init__(self, root: str, wake: int) -> None:
        self._root = root
        self._wake = wake
        self._files: dict[str, int] = {}
        self._poll = select.poll()
        self._poll.register(wake, select.POLLIN)

    def follow(self, names: "set[str]") -> None:
        """From now on watch the monitors of these slivers, and of no others. One that is not there is left out."""
        for name in set(self._files) - names:
            self._leave(name)
        for name in names - set(self._files):
            try:
                path = os.path.join(self._root, cgroups.MONITORS, name, EVENTS)
                self._files[name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            self._poll.register(self._files[name], select.POLLPRI)
            os.read(self._files[name], cgroups.READ)  # what changes from here on is told

    def sleep(self, seconds: float) -> bool:
        """Sleep so long at most. True: woken by the wake descriptor, or by the end of a sliver."""
        ready = {handle for handle, _ in self._poll.poll(seconds * 1000)}
        for name in [name for name, handle in self._files.items() if handle in ready]:
            self._leave(name)  # the next look says what is; it is followed again if it runs
        return bool(ready)

    def close(self) -> None:
        """Watch nothing any more."""
        self.follow(set())

    def _leave(self, name: str) -> None:
        handle = self._files.pop(name)
        self._poll.unregister(handle)
        os.close(handle)

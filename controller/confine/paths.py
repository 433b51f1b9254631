"""Where things lie on the node. One object, so that tests can put all of it below a directory of their own."""

import os

DATA = "data"  # below `run`: link to the data directory of the last daemon


class Paths:
    """The directories the controller uses.

    data: survives upgrades (slivers, cache, journal). run: gone after a reboot (mounts, sockets, log).
    etc: configuration. cgroup: root of the cgroup v2 tree. share: files of the package that are no code.
    tinc: the overlay's files.
    """

    def __init__(
        self,
        data: str = "/srv/confine",
        run: str = "/run/confine",
        etc: str = "/etc/confine",
        uci: str = "/etc/config",
        cgroup: str = "/sys/fs/cgroup",
        share: str = "/usr/lib/confine/share",
        tinc: str = "/etc/tinc/confine",
    ) -> None:
        self.data = data
        self.run = run
        self.etc = etc
        self.uci = uci
        self.cgroup = cgroup
        self.share = share
        self.tinc = tinc

    @property
    def cache(self) -> str:
        """Verified files by sha256 and templates made ready to be mounted."""
        return os.path.join(self.data, "cache")

    @property
    def slivers(self) -> str:
        """One directory for each sliver, by name; also LXC's own path."""
        return os.path.join(self.data, "slivers")

    @property
    def journal(self) -> str:
        """What cannot be observed: bookings, decisions, trust, the last good registry state."""
        return os.path.join(self.data, "journal")

    @property
    def upgrade(self) -> str:
        """What must survive an upgrade about upgrades: history, the trial under way, revoked keys, downloads."""
        return os.path.join(self.data, "upgrade")

    @property
    def mounts(self) -> str:
        """Mount points of templates and of slivers' roots."""
        return os.path.join(self.run, "mounts")

    @property
    def control(self) -> str:
        """The daemon's control socket."""
        return os.path.join(self.run, "control.sock")

    @property
    def log(self) -> str:
        """The daemon's log, in memory, bounded."""
        return os.path.join(self.run, "log")

    def sliver(self, name: str, *parts: str) -> str:
        """A path in the directory of the sliver `name`."""
        return os.path.join(self.slivers, name, *parts)

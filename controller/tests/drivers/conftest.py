"""Fixtures of the driver tests that need a place to mount in."""

from tests.drivers.storage_bench import bench  # noqa: F401
from tests.drivers.storage_support import private_mounts  # noqa: F401

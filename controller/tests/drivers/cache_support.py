"""What the tests of the cache share."""

import os

from confine.drivers.cache import Cache
from confine.paths import Paths
from tests.drivers.storage_support import make_step

KIB, MIB = 1024, 1024 * 1024
CONTENT = os.urandom(700 * KIB)
URI = "http://files/t"


def make_cache(tmp_path, fetcher, max_mib=64, on_progress=lambda *_: None, **options):
    return Cache(Paths(data=str(tmp_path / "data"), run=str(tmp_path / "run")), fetcher, max_mib, on_progress,
                 **{"reserve_mib": 0, **options})  # fmt: skip


def fetch(cache, digest, nr=1):
    cache.fetch_template(make_step("cache", "fetch_template", nr, template=digest))


def partial(tmp_path, digest):
    return tmp_path / "data/cache/partial" / digest


def put_partial(tmp_path, digest, content):
    path = partial(tmp_path, digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)

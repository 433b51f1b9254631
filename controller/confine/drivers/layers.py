"""The layers of a sliver's root, mounted and unmounted.

    <run>/mounts/templates/<sha256>      the template, read-only, shared by all slivers made from it
    <run>/mounts/slivers/<name>/lower    the same, id-mapped to the sliver's range
                               /disk     the ext4 in the sliver's image: upper/ and work/
                               /root     the overlay of both: LXC's root

Found on Linux (design): the *lower* mount is id-mapped, not the overlay; files that are copied up are then stored
with the sliver's own host ids. What is mounted is read from the kernel each time.
"""

import errno
import os
import threading

from confine.core import addressing
from confine.drivers import loops, mounts
from confine.errors import StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confine.drivers.cache import Cache
    from confine.paths import Paths

LAYERS = ("root", "lower", "disk")  # the order of unmounting


class Layers:
    """Mounts below <run>/mounts. Safe for several slivers at once: the templates they share are behind a lock."""

    def __init__(self, paths: "Paths", cache: "Cache") -> None:
        self._cache = cache
        self._slivers = os.path.join(paths.mounts, "slivers")
        self._templates = os.path.join(paths.mounts, "templates")
        self._lock = threading.Lock()

    def point(self, name: str, layer: str) -> str:
        """Mount point of one of the LAYERS of the sliver `name`."""
        return os.path.join(self._slivers, name, layer)

    def names(self) -> "list[str]":
        """Slivers that have mount points."""
        return entries(self._slivers)

    def mount(self, name: str, sha256: str, image: str, id_base: int) -> None:
        """Mount whatever is not mounted yet of the sliver `name`: template `sha256`, disk `image`, ids from id_base.
        Layers of another template or image are taken down before. StepError if the result is not as it should be."""
        with self._lock:  # from mounting a template to mounting on it, nobody may find it unused
            template = self._mount_template(sha256)
            self._unmount_wrong(name, template, image)
            self._mount_lower(name, template.point, id_base)
        self._mount_disk(name, image, id_base)
        self._mount_root(name)
        self._check_ownership(name, id_base)

    def unmount(self, name: str) -> None:
        """Unmount all layers of the sliver `name`, and the templates nobody uses any more."""
        self._unmount_layers(name)
        for layer in LAYERS:
            _remove_empty(self.point(name, layer))
        _remove_empty(os.path.join(self._slivers, name))
        self._unmount_templates()

    def _mount_template(self, sha256: str) -> "mounts.Mount":
        point = os.path.join(self._templates, sha256)
        found = mounts.read().get(point)
        if found is not None:
            return found
        mounts.make_point(self._templates, 0o700)  # a template's set-uid programs are nobody's business
        mounts.make_point(point)
        tree, image = self._cache.tree(sha256), self._cache.object(sha256)
        if os.path.isdir(tree):
            mounts.mount_tree(tree, point)
        elif os.path.isfile(image):
            mounts.mount_image(image, point, "squashfs", readonly=True)
        else:
            raise StepError("the template {} is not in the cache: it has to be fetched first".format(sha256))
        return mounts.read()[point]

    def _unmount_wrong(self, name: str, template: "mounts.Mount", image: str) -> None:
        table = mounts.read()
        lower, disk = table.get(self.point(name, "lower")), table.get(self.point(name, "disk"))
        wrong = lower is not None and (lower.device, lower.root) != (template.device, template.root)
        if disk is not None and loops.backing_file(disk.device) != os.path.realpath(image):
            wrong = True
        if wrong:
            self._unmount_layers(name)

    def _mount_lower(self, name: str, template: str, id_base: int) -> None:
        point = self.point(name, "lower")
        mounts.make_point(point)
        if point not in mounts.read():
            mounts.mount_idmapped(template, point, id_base)
        found = mounts.read().get(point)
        if found is None or "idmapped" not in found.options:
            raise StepError("the template of {} is mounted without id mapping at {}".format(name, point))

    def _mount_disk(self, name: str, image: str, id_base: int) -> None:
        point = self.point(name, "disk")
        mounts.make_point(point)
        if point not in mounts.read():
            mounts.mount_image(image, point, "ext4", readonly=False, data="errors=remount-ro")
        os.chmod(point, 0o700)
        # The upper directory's owner and mode are those of the sliver's "/".
        for directory, mode, owner in (("upper", 0o755, id_base), ("work", 0o700, 0)):
            path = os.path.join(point, directory)
            try:
                os.mkdir(path, mode)
            except FileExistsError:
                pass
            if os.stat(path).st_uid != owner:
                os.chown(path, owner, owner)
                os.chmod(path, mode)

    def _mount_root(self, name: str) -> None:
        point = self.point(name, "root")
        mounts.make_point(point)
        if point not in mounts.read():
            disk = self.point(name, "disk")
            upper, work = os.path.join(disk, "upper"), os.path.join(disk, "work")
            mounts.mount_overlay(self.point(name, "lower"), upper, work, point)

    def _check_ownership(self, name: str, id_base: int) -> None:
        """What the sliver will see as its own must be in its range: an id map that does nothing is a failed mount.
        Looked at are the root and what the template has in it; what was put there later is the sliver's business."""
        lower = self.point(name, "lower")
        top = [os.path.join(lower, entry) for entry in sorted(os.listdir(lower))]
        for path in [self.point(name, "root"), lower, *top]:
            found = os.lstat(path)
            for owner in (found.st_uid, found.st_gid):
                if not id_base <= owner < id_base + addressing.IDS_PER_SLIVER:
                    raise StepError(
                        "{} belongs to id {} instead of one of the sliver's {}-{}".format(
                            path, owner, id_base, id_base + addressing.IDS_PER_SLIVER - 1
                        )
                    )

    def _unmount_layers(self, name: str) -> None:
        table = mounts.read()
        for layer in LAYERS:
            point = self.point(name, layer)
            if point in table:
                mounts.unmount(point)

    def _unmount_templates(self) -> None:
        with self._lock:
            table = mounts.read()
            below = self._slivers + "/"
            used = {(found.device, found.root) for point, found in table.items() if point.startswith(below)}
            for sha256 in entries(self._templates):
                point = os.path.join(self._templates, sha256)
                found = table.get(point)
                if found is not None and (found.device, found.root) in used:
                    continue
                if found is not None:
                    mounts.unmount(point)
                _remove_empty(point)


def entries(path: str) -> "list[str]":
    """What is in the directory `path`; nothing if it is not there."""
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []


def _remove_empty(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
            raise StepError("the mount point {} cannot be removed: {}".format(path, error.strerror))

"""The slivers' disks: allocated in full, formatted, mounted under an id-mapped template, filled, thrown away.

    <data>/slivers/<name>/   disk.img, allocation.json (written last by allocate), deployment.json (by populate)
    <run>/mounts/...         see layers.py

The disk limit holds on both sides (design): an image takes its whole size from the start, so no sliver can fill
the node's disk and none loses writes because something else did. Each verb can be cut off anywhere and done again;
what a cut leaves is one of the names above, and so is seen by `names()` and `observe()`.
"""

import errno
import os
import re

from confine import durable
from confine.core import addressing, keys
from confine.core.model import MIB, SliverObserved
from confine.drivers import archives, images, inroot, mounts, populate, syscalls
from confine.drivers.cache import nearest
from confine.drivers.layers import LAYERS, Layers, entries
from confine.errors import StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from confine.core.model import Booking, SliverTarget, Step
    from confine.drivers.cache import Cache
    from confine.paths import Paths

    Stamp = tuple[int, int, int, int]

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")
IMAGE = "disk.img"
ALLOCATION = "allocation.json"
DEPLOYMENT = "deployment.json"

DATA_MEMBERS = 100_000


class Storage:
    """Driver `storage`. resolver(): the content of a sliver's resolv.conf. reserve_mib: of the data partition, kept
    free by `allocate` (booked sizes are the planner's business, this is the last guard)."""

    def __init__(self, paths: "Paths", cache: "Cache", resolver: "Callable[[], str]", reserve_mib: int = 0) -> None:
        self._paths = paths
        self._cache = cache
        self._layers = Layers(paths, cache)
        self._resolver = resolver
        self._reserve = reserve_mib * MIB
        self._seen: "dict[str, mounts.Mount] | None" = None
        # Documents read in this round and the one before, {path: (stamp, document)}: unchanged ones are not read again.
        self._read: "dict[str, tuple[Stamp, tuple[dict[str, Any] | None, str]]]" = {}
        self._read_before: "dict[str, tuple[Stamp, tuple[dict[str, Any] | None, str]]]" = {}

    # ---- observing -----------------------------------------------------------------------------------------------

    def snapshot(self) -> None:
        """Read the kernel's mounts once, for the `names` and `observe` calls of this round."""
        self._seen = mounts.read()
        self._read, self._read_before = {}, self._read

    def names(self) -> "list[str]":
        """Every sliver that has a directory, mount point or mount."""
        found = set(entries(self._paths.slivers)) | set(self._layers.names())
        return sorted(name for name in found if NAME.fullmatch(name))

    def observe(self, name: str) -> SliverObserved:
        """What is found of the sliver `name`: allocation, deployment, formatted, mounted, damaged."""
        table = self._seen if self._seen is not None else mounts.read()
        allocation, no_allocation = self._seen_document(self._paths.sliver(name, ALLOCATION))
        deployment, no_deployment = self._seen_document(self._paths.sliver(name, DEPLOYMENT))
        return SliverObserved(
            name,
            allocation=allocation,
            deployment=deployment,
            damaged=[wrong for wrong in (no_allocation, no_deployment) if wrong],
            formatted=images.has_file_system(self._paths.sliver(name, IMAGE)),
            mounted=all(self._layers.point(name, layer) in table for layer in LAYERS),
        )

    def _seen_document(self, path: str) -> "tuple[dict[str, Any] | None, str]":
        """As `_examined`; within rounds one that is still the same file, as `durable` replaces them, is not read
        again. Not to be changed by who gets it."""
        if self._seen is None:
            return _examined(path)
        try:
            found = os.stat(path)
        except OSError:
            return _examined(path)
        stamp = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        known = self._read_before.get(path)
        if known is None or known[0] != stamp:
            known = (stamp, _examined(path))
        self._read[path] = known
        return known[1]

    def disk_mib(self) -> "tuple[int, int]":
        """(size, free) of the data partition, MiB."""
        found = os.statvfs(nearest(self._paths.data))
        return found.f_blocks * found.f_frsize // MIB, found.f_bavail * found.f_frsize // MIB

    def root(self, name: str) -> str:
        """Where the root of the sliver `name` is mounted."""
        return self._layers.point(_checked(name), "root")

    def device(self, name: str) -> "str | None":
        """The block device ("major:minor") that carries the sliver's disk while it is mounted: I/O limits go there."""
        found = mounts.read().get(self._layers.point(name, "disk"))
        return found.device if found else None

    # ---- up ------------------------------------------------------------------------------------------------------

    def allocate(self, step: "Step") -> None:
        """Make the sliver's directory and its disk image, every block of it allocated. StepError: no room, or the
        image is there in another size."""
        sliver, booking = _asked(step)
        image = self._paths.sliver(_checked(step.subject), IMAGE)
        durable.make_dir(self._paths.sliver(step.subject), 0o755)  # LXC looks in as the sliver's root
        size = booking.disk_mib * MIB
        if not _document(self._paths.sliver(step.subject, ALLOCATION)):
            self._make_image(image, size)
        elif os.path.getsize(self._image(step.subject)) != size:
            raise StepError(
                "the disk of {} has {} bytes and cannot become {}: the sliver has to be removed first".format(
                    step.subject, os.path.getsize(image), size
                )
            )
        else:
            images.refill(image)
        durable.write_checked(self._paths.sliver(step.subject, ALLOCATION), _allocation(sliver, booking))

    def _make_image(self, image: str, size: int) -> None:
        """A new image, in place of what a cut may have left; nothing stays if there is no room for it."""
        try:
            os.unlink(image)
        except FileNotFoundError:
            pass
        try:
            self._allocate_blocks(image, size)
        except StepError:
            os.unlink(image)
            raise
        durable.fsync_dir(os.path.dirname(image))

    def _allocate_blocks(self, image: str, size: int) -> None:
        handle = os.open(image, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            found = os.fstatvfs(handle)
            free = found.f_bavail * found.f_frsize - self._reserve
            if size > free:
                raise StepError(
                    "no room for a disk of {} MiB: {:.1f} MiB are missing on the data partition ({} MiB stay)".format(
                        size // MIB, (size - free) / MIB, self._reserve // MIB
                    )
                )
            images.fill(handle, size)
        finally:
            os.close(handle)

    def format(self, step: "Step") -> None:
        """Make an empty ext4 in the image; nothing if there is one. StepError if blocks are missing afterwards."""
        name = _checked(step.subject)
        image = self._image(name)
        if images.has_file_system(image):
            return
        self._layers.unmount(name)
        images.make_file_system(image)
        images.refill(image)

    def mount(self, step: "Step") -> None:
        """Mount the sliver's disk, the id-mapped template and the overlay of both, and read the ownership back."""
        sliver, booking = _asked(step)
        name = _checked(step.subject)
        if sliver.template is None:
            raise StepError("there is no template to mount: neither the sliver nor its slice names one")
        image = self._image(name)
        images.refill(image)
        self._layers.mount(name, sliver.template.sha256, image, addressing.id_base(booking.nr))

    def populate(self, step: "Step") -> None:
        """Unpack the sliver's data over its template; write host name, resolver and keys; last, the deployment."""
        sliver, booking = _asked(step)
        if sliver.template is None:
            raise StepError("there is no template to populate: neither the sliver nor its slice names one")
        kind = sliver.template.type
        name = _checked(step.subject)
        with self._open_root(name, booking, sync=False) as root:  # one sync for all of it, before the deployment
            try:
                if sliver.data is not None:
                    self._unpack_data(name, self._cache.object(sliver.data.sha256), root)
                populate.write_name(root, kind, name)
                populate.write_resolver(root, self._resolver())
                populate.write_keys(root, kind, sliver.keys)
                syscalls.syncfs(root.fd)
            except OSError as error:
                raise StepError(_write_failed(name, error))
        durable.write_checked(self._paths.sliver(name, DEPLOYMENT), _deployment(sliver))

    def keys(self, step: "Step") -> None:
        """Bring the keys in the sliver up to date, running or not, and note their digest in the deployment."""
        sliver, booking = _asked(step)
        name = _checked(step.subject)
        path = self._paths.sliver(name, DEPLOYMENT)
        deployment = _document(path)
        if not deployment:
            raise StepError("{} is not deployed: there is nowhere to put keys".format(name))
        with self._open_root(name, booking) as root:
            try:
                populate.write_keys(root, sliver.template.type if sliver.template else "", sliver.keys)
            except OSError as error:
                raise StepError(_write_failed(name, error))
        deployment["keys_digest"] = keys.digest(sliver.keys)
        durable.write_checked(path, deployment)

    def mend(self, step: "Step") -> None:
        """Write those of the sliver's documents anew that are there and damaged, as the step has it; what they held
        is set aside. Which keys were in the sliver is not known, so that they are brought in again."""
        sliver, booking = _asked(step)
        name = _checked(step.subject)
        deployment = {**_deployment(sliver), "keys_digest": ""}
        for file, content in ((ALLOCATION, _allocation(sliver, booking)), (DEPLOYMENT, deployment)):
            path = self._paths.sliver(name, file)
            if not _examined(path)[1]:
                continue
            try:
                durable.copy_aside(path)
                durable.write_checked(path, content)
            except OSError as error:
                raise StepError("{} cannot be written anew: {}".format(path, error))

    # ---- down ----------------------------------------------------------------------------------------------------

    def unmount(self, step: "Step") -> None:
        """Unmount all of the sliver's; the template too if it was the last to use it. Loop devices go with mounts."""
        self._layers.unmount(_checked(step.subject))

    def undeploy(self, step: "Step") -> None:
        """Throw the sliver's file system away; its image stays allocated. The deployment goes first: a file system
        without one is never taken for a deployed sliver, however this is cut off."""
        name = _checked(step.subject)
        durable.remove(self._paths.sliver(name, DEPLOYMENT))
        self._layers.unmount(name)
        image = self._paths.sliver(name, IMAGE)
        images.forget(image)

    def remove(self, step: "Step") -> None:
        """Remove the sliver's directory with all in it, the allocation first."""
        name = _checked(step.subject)
        self._layers.unmount(name)
        for file in (ALLOCATION, DEPLOYMENT, IMAGE):
            durable.remove(self._paths.sliver(name, file))
        _remove_directory(self._paths.sliver(name))
        if os.path.isdir(self._paths.slivers):
            durable.fsync_dir(self._paths.slivers)

    # ---- content -------------------------------------------------------------------------------------------------

    def _image(self, name: str) -> str:
        image = self._paths.sliver(name, IMAGE)
        if not os.path.isfile(image):
            raise StepError("{} has no disk image: it has to be allocated first".format(name))
        return image

    def _open_root(self, name: str, booking: "Booking", sync: bool = True) -> "inroot.Root":
        point = self._layers.point(name, "root")
        if point not in mounts.read():
            raise StepError("the root of {} is not mounted".format(name))
        return inroot.Root(point, addressing.id_base(booking.nr), sync)

    def _unpack_data(self, name: str, path: str, root: "inroot.Root") -> None:
        if not os.path.isfile(path):
            raise StepError("the data of {} is not in the cache: it has to be fetched first".format(name))
        found = os.fstatvfs(root.fd)
        bounds = archives.Bounds(found.f_bavail * found.f_frsize, DATA_MEMBERS)
        try:
            archives.unpack(path, root, bounds, True, lambda _: None)
        except StepError as error:
            raise StepError("the sliver's data cannot be used: {}".format(error))


def _checked(name: str) -> str:
    """`name`, which becomes a directory's name, if it can be one."""
    if not NAME.fullmatch(name):
        raise StepError("{!r} cannot be a sliver's name".format(name[:80]))
    return name


def _asked(step: "Step") -> "tuple[SliverTarget, Booking]":
    if step.sliver is None or step.booking is None:
        raise StepError("the step {} {} of {} does not say for what".format(step.driver, step.verb, step.subject))
    return step.sliver, step.booking


def _document(path: str) -> "dict[str, Any] | None":
    """A document of ours; None if it is missing, {} if it is damaged."""
    return _examined(path)[0]


def _examined(path: str) -> "tuple[dict[str, Any] | None, str]":
    """(the document, nothing); or ({}, what is wrong with it) for one that is there and cannot be used."""
    try:
        found = durable.read_checked(path)
        if found is None and not os.path.lexists(path):
            return None, ""
        if not isinstance(found, dict) or not found:
            raise ValueError("it holds nothing of use")
    except (OSError, ValueError) as error:
        return {}, "{} is damaged ({}).".format(path, error)
    return found, ""


def _allocation(sliver: "SliverTarget", booking: "Booking") -> "dict[str, Any]":
    return {
        "key": sliver.key,
        "uri": sliver.uri,
        "name": sliver.name,
        "nr": booking.nr,
        "sliver_instance_sn": sliver.sliver_instance_sn,
        "template": sliver.template.as_doc() if sliver.template else None,
        "data": sliver.data.as_doc() if sliver.data else None,
        "disk_mib": booking.disk_mib,
        "memory_mib": booking.memory_mib,
        "limits": sliver.limits.as_doc(),
        "interfaces": [interface.as_doc() for interface in sliver.interfaces],
    }


def _deployment(sliver: "SliverTarget") -> "dict[str, Any]":
    return {
        "sliver_instance_sn": sliver.sliver_instance_sn,
        "slice_instance_sn": sliver.slice_instance_sn,
        "hostname": sliver.name,
        "keys_digest": keys.digest(sliver.keys),
        "reset": sliver.reset,
    }


def _write_failed(name: str, error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "the disk of {} is full: {}".format(name, error)
    return "the root of {} cannot be written: {}".format(name, error)


def _remove_directory(path: str) -> None:
    import shutil

    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        pass

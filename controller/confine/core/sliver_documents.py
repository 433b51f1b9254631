"""One sliver's own, its slice's, its template's and its group's documents to a `SliverTarget`. Pure."""

from confine.core import expiry, interfaces, keys, resources
from confine.core.addressing import MAX_INTERFACE_NR, hostname
from confine.core.model import START, TARGETS, Data, Interface, Limits, Problem, SliverTarget, Template
from confine.core.reading import entries, mapping, reference, text, texts, whole
from confine.core.text import DECIMAL_DIGITS, HEX_DIGITS, only, shown
from confine.core.uris import join

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.model import NodeTarget
    from confine.core.reading import Documents
    from confine.core.settings import Settings

INTERFACE_TYPES = ("private", "management", "public4", "public6", "isolated", "debug")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
MAX_INTERFACE_NAME = 10

# instance_sn of a sliver whose documents are not known: nothing may be worked out from it.
UNKNOWN_SN = -1


class Asked:
    """An entry of the node's list of slivers. rivals: other URIs that claim to be the same sliver."""

    def __init__(self, slice_id: int, node_id: int, uri: str) -> None:
        self.slice_id = slice_id
        self.node_id = node_id
        self.uri = uri
        self.rivals: "list[str]" = []

    @property
    def key(self) -> str:
        """SLICE@NODE"""
        return str(self.slice_id) + "@" + str(self.node_id)


def unknown(asked: Asked, settings: "Settings", problems: "list[Problem]") -> SliverTarget:
    """A sliver that is listed but whose documents say too little: it stays as it is, whatever that is."""
    none = Limits(
        settings.sliver_memory_default_mib, settings.sliver_disk_default_mib, None, settings.cpu_weight,
        settings.pids_max, None, None,
    )  # fmt: skip
    return SliverTarget(
        key=asked.key, name=hostname(asked.slice_id, asked.node_id), uri=asked.uri, slice_id=asked.slice_id,
        slice_name="", group_id=0, node_id=asked.node_id, description="", target=START,
        sliver_instance_sn=UNKNOWN_SN, slice_instance_sn=UNKNOWN_SN, template=None, data=None, interfaces=[],
        limits=none, keys=[], vlan_tag=None, expires_on=None, properties={}, problems=problems, blocked=True,
    )  # fmt: skip


def is_unknown(sliver: SliverTarget) -> bool:
    """Whether `sliver` was made by `unknown()`."""
    return sliver.sliver_instance_sn == UNKNOWN_SN


def build_sliver(
    asked: Asked, node: "NodeTarget", documents: "Documents", settings: "Settings", today: object
) -> "SliverTarget | None":
    """The target of one listed sliver; None if it is to be removed: its slice is gone or expired.

    That the slice is gone counts only beside a document of the sliver that was read this time: a registry that has lost
    both, and lists the sliver all the same, is in disorder.
    """
    problems = documents.problems(asked.uri)
    unread = any(problem.member == "" for problem in problems)
    if asked.rivals:
        uris = ", ".join([asked.uri] + asked.rivals)  # noqa: RUF005  # MicroPython cannot unpack into a list
        problems.append(Problem("/id", "Several slivers have the id " + asked.key + ": " + uris + "; none is used."))
        return unknown(asked, settings, problems)
    sliver = documents.find(asked.uri)
    if sliver is None:
        problems.append(Problem("", "The sliver's document " + asked.uri + " could not be read."))
        return unknown(asked, settings, problems)
    slice_uri, _ = reference(sliver, "slice", asked.uri)
    if documents.is_gone(slice_uri) and not unread:
        return None
    problems.extend(documents.problems(slice_uri, "slice"))
    slice_ = documents.find(slice_uri)
    wrong = _identity(asked, sliver, slice_uri, slice_)
    if wrong is not None or slice_ is None or slice_uri is None:
        return unknown(asked, settings, problems + ([wrong] if wrong else []))
    past, unclear = expiry.expired(slice_.get("expires_on"), today)
    if past:
        return None
    if unclear is not None:
        problems.append(unclear)
    return Builder(asked, node, documents, settings, sliver, slice_uri, slice_, problems).build()


def _identity(
    asked: Asked, sliver: "dict[str, Any]", slice_uri: "str | None", slice_: "dict[str, Any] | None"
) -> "Problem | None":
    """Whether the documents are those of the sliver that the node's list means."""
    if text(sliver, "id") != asked.key:
        return Problem("/id", "is " + shown(sliver.get("id")) + ", the node's list says " + asked.key + ".")
    node_id = whole(mapping(sliver, "node"), "id")
    if node_id is not None and node_id != asked.node_id:
        return Problem("/node", "The sliver is of node " + str(node_id) + ", not of this node.")
    if slice_ is None:
        return Problem("/slice", "The slice's document " + shown(slice_uri) + " could not be read.")
    if whole(slice_, "id") != asked.slice_id:
        return Problem(
            "/slice", "is of slice " + shown(slice_.get("id")) + ", the id " + asked.key + " says otherwise."
        )
    return None


class Builder:
    """Collects the parts of one sliver. Whatever goes wrong is noted; `blocked` says that it matters."""

    def __init__(
        self,
        asked: Asked,
        node: "NodeTarget",
        documents: "Documents",
        settings: "Settings",
        sliver: "dict[str, Any]",
        slice_uri: str,
        slice_: "dict[str, Any]",
        problems: "list[Problem]",
    ) -> None:
        self.asked = asked
        self.node = node
        self.documents = documents
        self.settings = settings
        self.sliver = sliver
        self.slice_uri = slice_uri
        self.slice = slice_
        self.defaults = mapping(slice_, "sliver_defaults")
        self.problems = problems
        self.blocked = False

    def block(self, member: str, message: str) -> None:
        """Note a problem that keeps the sliver from going up."""
        self.problems.append(Problem(member, message))
        self.blocked = True

    def build(self) -> SliverTarget:
        """The target; `unknown()` if the state or the revisions that are asked for cannot be told."""
        target = self._target()
        sliver_sn, slice_sn = whole(self.sliver, "instance_sn"), whole(self.slice, "instance_sn")
        if target is None or sliver_sn is None or slice_sn is None or sliver_sn < 0 or slice_sn < 0:
            self.block("", "set_state or instance_sn of sliver or slice is missing or unusable.")
            return unknown(self.asked, self.settings, self.problems)
        limits, wrong = resources.effective(self.sliver, self.defaults, self.node.resources, self.settings)
        for problem in wrong:
            self.block(problem.member, problem.message)
        egress, ingress, wrong = resources.rates(self.sliver, self.defaults, self.settings)
        for problem in wrong:
            self.block(problem.member, problem.message)
        properties = mapping(self.sliver, "properties")
        return SliverTarget(
            key=self.asked.key,
            name=hostname(self.asked.slice_id, self.asked.node_id),
            uri=self.asked.uri,
            slice_id=self.asked.slice_id,
            slice_name=text(self.slice, "name") or "",
            group_id=reference(self.slice, "group", self.slice_uri)[1] or 0,
            node_id=self.asked.node_id,
            description=text(self.sliver, "description") or "",
            target=target,
            sliver_instance_sn=sliver_sn,
            slice_instance_sn=slice_sn,
            template=self._template(),
            data=self._data(),
            interfaces=self._interfaces(),
            limits=limits,
            keys=self._keys(),
            vlan_tag=whole(self.slice, "isolated_vlan_tag"),
            expires_on=text(self.slice, "expires_on"),
            properties={key: value for key, value in properties.items() if isinstance(value, str)},
            problems=self.problems,
            blocked=self.blocked,
            egress_kbit=egress,
            ingress_kbit=ingress,
        )

    def _target(self) -> "str | None":
        """min(slice.set_state, sliver.set_state or sliver_defaults.set_state) (registry API)."""
        own = self.sliver.get("set_state")
        if own is None:
            own = self.defaults.get("set_state")
        of_slice = self.slice.get("set_state")
        if own not in TARGETS or of_slice not in TARGETS:
            return None
        return TARGETS[min(TARGETS.index(own), TARGETS.index(of_slice))]

    def _template(self) -> "Template | None":
        uri, _ = reference(self.sliver, "template", self.asked.uri)
        if uri is None:
            uri, _ = reference(self.defaults, "template", self.slice_uri)
        self.problems.extend(self.documents.problems(uri, "template"))
        doc = self.documents.find(uri)
        if doc is None or uri is None:
            self.block("/template", "The template " + shown(uri) + " could not be read.")
            return None
        image, sha256 = text(doc, "image_uri"), text(doc, "image_sha256")
        if image is None or sha256 is None or len(sha256) != 64 or not only(sha256, HEX_DIGITS):
            self.block("/template", "Template " + uri + " has no image with a usable sha256.")
            return None
        archs = texts(doc, "node_archs")
        if doc.get("is_active") is not True:
            self.block("/template", "Template " + shown(text(doc, "name")) + " is not active any more.")
        if self.node.arch not in archs:
            message = (
                " is for " + (", ".join(archs) or "no architecture") + ", this node is " + shown(self.node.arch) + "."
            )
            self.block("/template", "Template " + shown(text(doc, "name")) + message)
        kind = text(doc, "type") or ""
        return Template(whole(doc, "id") or 0, text(doc, "name") or "", kind, join(uri, image), sha256, archs)

    def _data(self) -> "Data | None":
        doc, base = self.sliver, self.asked.uri
        if text(doc, "data_uri") is None:
            doc, base = self.defaults, self.slice_uri
        uri, sha256 = text(doc, "data_uri"), text(doc, "data_sha256")
        if uri is None:
            return None
        if sha256 is None or len(sha256) != 64 or not only(sha256, HEX_DIGITS):
            self.block(
                "/data_sha256", "is " + shown(doc.get("data_sha256")) + ": data " + shown(uri) + " needs a sha256."
            )
            return None
        return Data(join(base, uri), sha256)

    def _interfaces(self) -> "list[Interface]":
        """The interfaces as asked for; one that cannot be had blocks the sliver (registry API)."""
        found: "list[Interface]" = []
        for index, entry in enumerate(entries(self.sliver, "interfaces")):
            nr, name, kind = whole(entry, "nr"), text(entry, "name"), text(entry, "type")
            parent = text(entry, "parent_name")
            wrong = _interface_problem(nr, name, kind, found)
            if wrong is None and kind == "isolated" and parent not in self.node.direct_ifaces:
                wrong = "parent_name " + shown(parent) + " is none of this node's direct interfaces"
            elif wrong is None and kind == "isolated":
                wrong = interfaces.parent_refused(parent, self.settings)
            if wrong is None and len(found) == interfaces.MAX_INTERFACES:
                wrong = "A sliver has at most " + str(interfaces.MAX_INTERFACES) + " interfaces"
            if wrong is not None or nr is None or name is None or kind is None:
                self.block("/interfaces/" + str(index), str(wrong) + ".")
            else:
                found.append(Interface(nr, name, kind, parent))
        if len([entry for entry in found if entry.type == "private"]) != 1:
            self.block("/interfaces", "There must be exactly one private interface.")
        return found

    def _keys(self) -> "list[str]":
        """Of the slice's admins; of the node's admins as well if the node's member wants that."""
        group_uri, _ = reference(self.slice, "group", self.slice_uri)
        self.problems.extend(self.documents.problems(group_uri, "group"))
        group = self.documents.find(group_uri)
        if group is None or group_uri is None:
            self.block("", "The slice's group " + shown(group_uri) + " could not be read: nobody could log in.")
            return []
        roles = (keys.SLICE_ADMIN, keys.GROUP_ADMIN)
        lines, wrong = keys.of_group(self.documents, group_uri, group, roles)
        self.problems.extend(wrong)
        return keys.merge(lines + self.node.keys)


def _interface_problem(
    nr: "int | None", name: "str | None", kind: "str | None", before: "list[Interface]"
) -> "str | None":
    if nr is None or not 0 <= nr <= MAX_INTERFACE_NR:
        return "nr " + shown(nr) + " is not in 0-255"
    if name is None or len(name) > MAX_INTERFACE_NAME or not only(name.rstrip(DECIMAL_DIGITS), LETTERS):
        return "name " + shown(name) + " is not letters, then digits, 10 at most"
    if kind not in INTERFACE_TYPES:
        return "type " + shown(kind) + " is none of " + ", ".join(INTERFACE_TYPES)
    if any(other.nr == nr or other.name == name for other in before):
        return "nr " + str(nr) + " or name " + shown(name) + " is there twice"
    return None

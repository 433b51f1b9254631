"""What is there of a sliver and must not stay as it is, if the sliver is to go up or stay up. Pure."""

from confine.core.booking import of_allocation
from confine.core.decisions import OWNER
from confine.core.reading import text, whole
from confine.core.sliver_documents import is_unknown
from confine.core.uris import item

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confine.core.model import SliverObserved, SliverTarget
    from confine.core.sliver_plan import Case

REGISTERED, ALLOCATED, DEPLOYED, STARTED = range(4)  # how far up a sliver is: indices into states.STATES


class Redo:
    """What is there must go down to `level`, registered or allocated, first. fresh: for a new instance, so that past
    failures do not count. who: on whose word, if not on that of those who asked for the sliver."""

    def __init__(self, level: int, why: str, fresh: bool, who: str = "") -> None:
        self.level = level
        self.why = why
        self.fresh = fresh
        self.who = who


def redo_of(case: "Case") -> "Redo | None":
    """What is there and must not stay, if the sliver is to go up or stay up."""
    sliver = case.sliver
    if sliver is None or is_unknown(sliver):
        return None
    redo = _allocate_anew(case, sliver) or _deploy_anew(case.found, sliver)
    return redo or _return_to_template(case, case.found, sliver)


def _return_to_template(case: "Case", found: "SliverObserved", sliver: "SliverTarget") -> "Redo | None":
    """Once for each reset: what is deployed says how many it has seen, so that none is lost or done twice."""
    if found.deployment is None or (whole(found.deployment, "reset") or 0) == sliver.reset:
        return None
    mark = case.decision.returned
    if mark is None:
        return Redo(ALLOCATED, "The sliver is to be returned to its template.", True, OWNER)
    return Redo(ALLOCATED, "Returned to its template " + mark.words() + ".", True, mark.who)


def _allocate_anew(case: "Case", sliver: "SliverTarget") -> "Redo | None":
    found = case.found
    allocation = found.allocation
    if allocation is None:
        if found.running or found.limited or found.mounted or found.formatted or found.deployment is not None:
            return Redo(REGISTERED, "There are remains of the sliver without a complete allocation.", False)
        return None
    if case.found.damaged and not allocation:
        return Redo(REGISTERED, case.found.damaged[0] + " Nothing says what was set aside: it is allocated anew.", True)
    if case.name in case.round.ledger.clashing:
        return Redo(REGISTERED, "The sliver's number is held by another sliver.", True)
    uri, serial = text(allocation, "uri"), whole(allocation, "sliver_instance_sn")
    if uri is None or item(uri) != item(sliver.uri):
        return Redo(REGISTERED, "The sliver was deleted and made again: it is allocated anew.", True)
    if serial != sliver.sliver_instance_sn:
        change = "instance_sn of the sliver is " + str(sliver.sliver_instance_sn) + ", allocated was " + str(serial)
        return Redo(REGISTERED, change + ": it is allocated anew.", True)
    if of_allocation(case.name, allocation) is None:
        return Redo(REGISTERED, "The sliver's allocation does not say what was set aside.", True)
    return None


def _deploy_anew(found: "SliverObserved", sliver: "SliverTarget") -> "Redo | None":
    deployment = found.deployment
    if deployment is None:
        if found.running or found.limited or found.mounted or found.formatted:
            return Redo(ALLOCATED, "An earlier deployment was not finished.", False)
        return None
    serial = whole(deployment, "slice_instance_sn")
    if serial != sliver.slice_instance_sn:
        change = "instance_sn of the slice is " + str(sliver.slice_instance_sn) + ", deployed was " + str(serial)
        return Redo(ALLOCATED, change + ": the sliver is deployed anew.", True)
    if whole(deployment, "sliver_instance_sn") != sliver.sliver_instance_sn:
        return Redo(ALLOCATED, "The deployment is of an earlier allocation.", True)
    return None

"""What stands while a setting cannot be read: a slip of the pen opens nothing to the world, lets nobody in and takes
nothing out of the owner's hands. Pure."""

from confine.core.model import Problem
from confine.core.text import nearest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

EVERYTHING = ("0.0.0.0/0", "::/0")
WHO = ["accept_groups", "accept_slices", "refuse_slices"]
NO_SLICE = 0
# {(section, option): (attribute, what stands instead of the default)}
CLOSED: "dict[tuple[str | None, str | None], tuple[str, Any]]" = {
    ("api", "enabled"): ("api_enabled", False),
    ("api", "listen"): ("api_listen", ("127.0.0.1",)),
    ("network", "manage"): ("network_manage", False),
}


def closed(section: str, option: str, default: "Any") -> "Any":
    """What stands for an option that cannot be read."""
    value = CLOSED.get((section, option), ("", default))[1]
    return list(value) if isinstance(value, tuple) else value


def until(section: "str | None", option: "str | None") -> str:
    """What is said of that; "" where the default stands."""
    if (section, option) not in CLOSED:
        return ""
    value = CLOSED[(section, option)][1]
    said = "'" + " ".join(value) + "'" if value else "'0'"
    return " Until it is corrected, " + str(option) + " is taken as " + said + "."


def close(section: "str | None", values: "dict[str, Any]", option: "str | None" = None) -> str:
    """The section, or one option of it, is there under a wrong name or in a wrong form. Gives what to say of it."""
    said = ""
    for place, name in sorted(CLOSED):
        if place == section and option in (None, name):
            values[CLOSED[(place, name)][0]] = closed(str(place), str(name), None)
            said += until(place, name)
    return said


def fail_closed(values: "dict[str, Any]", problems: "list[Problem]") -> None:
    """Take out what must not be used together: plain http without consent, TLS with a certificate that is unusable.
    Of what slivers may not reach, nothing is lost because it cannot be read."""
    certificate_lost = any(problem.member == "/registry/cert" for problem in problems)
    kept = []
    for uri in values.get("registry_uris", []):
        wrong = None
        if uri.startswith("http://") and not values.get("plain_http", False):
            wrong = "plain http needs registry.plain_http '1' and is meant for the management overlay alone."
        elif uri.startswith("https://") and certificate_lost:
            wrong = "set right registry.cert first."
        if wrong:
            problems.append(Problem("/registry/base_uri", uri + " is not used: " + wrong))
        else:
            kept.append(uri)
    values["registry_uris"] = kept
    if any(problem.member in ("/firewall", "/firewall/exclude") for problem in problems):
        values["firewall_exclude"] = list(EVERYTHING)
        problems.append(Problem("/firewall/exclude", "Until it is corrected, slivers reach nothing at all."))
    _hold_who_is_unclear(values, [problem.member for problem in problems], problems)


def _hold_who_is_unclear(values: "dict[str, Any]", members: "list[str]", problems: "list[Problem]") -> None:
    """Who is accepted or refused cannot be read in full: nobody comes in by mistake. What is here stays."""
    unclear = [nearest(member[len("/policy/") :], WHO) for member in members if member.startswith("/policy/")]
    if "/policy" in members or "refuse_slices" in unclear:
        values["accept_groups"], values["accept_slices"] = [], [NO_SLICE]
        problems.append(Problem("/policy", "Until it is corrected, only slivers that are here already may stay."))
    elif "accept_groups" in unclear or "accept_slices" in unclear:
        values["accept_slices"] = list(values.get("accept_slices", []))
        values["accept_slices"].append(NO_SLICE)

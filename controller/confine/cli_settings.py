"""`confine settings`: what the node's settings come to, and what would be wrong with others before they are saved."""

import json
import sys

from confine import tables
from confine.core import settings as settings_table
from confine.core.text import shown
from confine.drivers import uci
from confine.errors import ConfineError, SettingsError
from confine.paths import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from confine.core.model import Problem


def run(args: "dict[str, Any]", run_dir: str) -> int:
    """Exit status: 1 if something cannot be used."""
    try:
        sections = uci.load("confine", Paths(run=run_dir).uci)
    except SettingsError as error:
        raise ConfineError(str(error))
    found, problems = settings_table.parse(changed(sections, args["values"]))
    if args["values"]:
        problems = caused(problems, sections, args["values"])
    doc = {"settings": found.as_doc(), "problems": [problem.as_doc() for problem in problems]}
    sys.stdout.write(json.dumps(doc, indent=2, sort_keys=True) + "\n" if args["json"] else tables.settings(doc))
    return 1 if problems else 0


def caused(problems: "list[Problem]", sections: "dict[str, dict[str, Any]]", text: str) -> "list[Problem]":
    """Those of `problems` that the values of `text` bring, or that are about one of them. What was wrong before and is
    about something else does not keep anybody from saving a form."""
    before = {problem.message for problem in settings_table.parse(sections)[1]}
    given = tuple("/" + name.replace(".", "/", 1) + "/" for name in json.loads(text))
    return [found for found in problems if found.message not in before or (found.member + "/").startswith(given)]


def changed(sections: "dict[str, dict[str, Any]]", text: "str | None") -> "dict[str, dict[str, Any]]":
    """`sections` as they would be with the values of `text`, a JSON object {"section.option": value}; an empty value
    unsets. ConfineError if `text` is something else."""
    if not text:
        return sections
    try:
        values = json.loads(text)
        pairs = [(*name.split(".", 1), value) for name, value in values.items()]
        result = {name: dict(options) for name, options in sections.items()}
        for section, option, value in pairs:
            options = result.setdefault(section, {".type": section})
            options.pop(option, None)
            if value not in ("", [], None):
                options[option] = value
    except (ValueError, AttributeError, RecursionError):
        raise ConfineError('{} is not a JSON object {{"section.option": value}}'.format(shown(text)))
    return result

"""The view of a document for people with a browser: the same JSON, readable, its URIs as links. No script, no style
from elsewhere, and every text escaped: registry documents come from outside."""

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>%(title)s</title>
<style>
body { font: 1rem/1.4 system-ui, sans-serif; margin: 1rem auto; max-width: 70rem; padding: 0 1rem }
nav a { margin-right: 1rem }
pre { overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere }
</style>
</head>
<body>
<nav>%(links)s</nav>
<h1>%(title)s</h1>
<pre>%(value)s</pre>
</body>
</html>
"""


def render(title: str, value: "Any", links: "list[tuple[str, str]]") -> bytes:
    """The page for `value`. links: (words, URI)."""
    parts: list[str] = []
    _write(value, "", parts)
    navigation = "\n".join(f'<a href="{escape(uri)}">{escape(words)}</a>' for words, uri in links if is_link(uri))
    page = PAGE % {"title": escape(title), "links": navigation, "value": "".join(parts)}
    return page.encode("utf-8", "replace")


def escape(text: str) -> str:
    """`text` for HTML, in an attribute too."""
    for char, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&#39;")):
        text = text.replace(char, entity)
    return text


def is_link(text: str) -> bool:
    """Whether `text` may be followed: an http(s) URI of visible characters, nothing that runs code."""
    return text.startswith(("http://", "https://")) and all(char > " " and char not in '<>"\\' for char in text)


def _write(value: "Any", indent: str, parts: "list[str]") -> None:
    """Append `value` as indented JSON in HTML."""
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        parts.append("{\n")
        for index, (name, item) in enumerate(value.items()):
            parts.append((",\n" if index else "") + deeper + _text(str(name)) + ": ")
            _write(item, deeper, parts)
        parts.append(f"\n{indent}}}")
    elif isinstance(value, list) and value:
        parts.append("[\n")
        for index, item in enumerate(value):
            parts.append((",\n" if index else "") + deeper)
            _write(item, deeper, parts)
        parts.append(f"\n{indent}]")
    elif isinstance(value, str):
        parts.append(_text(value))
    else:
        parts.append(escape(json.dumps(value)))


def _text(text: str) -> str:
    """A JSON string; line ends stay visible as \\n, as in JSON."""
    quoted = escape(json.dumps(text, ensure_ascii=False))
    return f'<a href="{escape(text)}" rel="noreferrer">{quoted}</a>' if is_link(text) else quoted

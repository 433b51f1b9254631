"""Whatever comes, checking a document never raises, and what it lets through is good."""

import json
import os
import shutil
import subprocess
from typing import Any

import pytest
import test_core_schema as examples  # type: ignore[import-not-found]  # found by pytest, beside this file
from hypothesis import given
from hypothesis import strategies as st

from confine.core import documents
from confine.core.schema import check
from confine.errors import RegistryError
from confine.registry import sources, uris
from confine.registry.checking import check_document, check_list
from confine.registry.http import parse_head
from registry.server import ROOT

NAMES = sorted({name for schema in documents.SCHEMAS.values() for name in schema.members})
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", "5@27", "https://r/api/nodes/27/", "/api/islands/1/", "start", "a" * 64, "2026-12-19", "fd::1"]
    ),
)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS, st.sampled_from([0, 1, 27, 10**400]))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | TEXTS, inner, max_size=8),
    max_leaves=30,
)
KINDS = st.sampled_from(sorted(documents.SCHEMAS))


@given(KINDS, VALUES)
def test_garbage_never_raises_and_clean_output_satisfies_its_own_schema(kind: str, value: Any) -> None:
    clean, problems = check(documents.SCHEMAS[kind], value)
    if clean is None:
        assert problems
        return
    assert check(documents.SCHEMAS[kind], clean) == (clean, [])
    json.dumps(clean, allow_nan=False).encode()


GOOD = {"sliver": examples.sliver(), "node": examples.node()}


@given(st.sampled_from(sorted(GOOD)), st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3))
def test_a_good_document_with_garbage_in_some_members_is_cleaned_or_refused_and_said(
    kind: str, garbage: dict[str, Any]
) -> None:
    clean, problems = check(documents.SCHEMAS[kind], {**GOOD[kind], **garbage})
    if clean is None:
        assert problems
    else:
        assert check(documents.SCHEMAS[kind], clean) == (clean, [])
        assert set(clean) == set(documents.SCHEMAS[kind].members)


@given(KINDS, VALUES, TEXTS)
def test_documents_and_lists_with_garbage_never_raise_anything_but_registry_errors(
    kind: str, value: Any, own: str
) -> None:
    names = uris.Names(["https://registry.example.org/api/", "http://[fd00::2]/api/"])
    check_document(kind, value, names.canonical + "x/", names, own)
    try:
        check_list(kind, value, names.canonical + "x/", names, own)
    except RegistryError:
        pass


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    try:
        sources.parse(body)
    except RegistryError:
        pass
    try:
        parse_head(body)
    except RegistryError:
        pass
    text = body.decode("latin-1")
    assert isinstance(sources.links(text), dict)
    sources.http_date(text)
    sources.media_type(text)


@given(TEXTS)
def test_any_text_as_a_uri_is_taken_apart_or_refused(text: str) -> None:
    for uri in (text, "https://" + text, "http://[" + text, "https://h/" + text):
        try:
            where = uris.place(uri)
        except RegistryError:
            continue
        assert where.path.startswith("/")
        assert 0 < where.port < 65536
        assert "\n" not in uris.escaped(where.path)
        assert " " not in uris.escaped(where.path)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("https://Example.net/a", ("https", "example.net", 443, "/a")),
        ("http://[fdc0:7246:b03f::2]/api/", ("http", "fdc0:7246:b03f::2", 80, "/api/")),
        ("http://[::1]:8080?x=1#y", ("http", "::1", 8080, "/?x=1")),
        ("HTTP://h:1", ("http", "h", 1, "/")),
    ],
)
def test_uris_are_taken_apart_as_they_are_meant(uri: str, expected: Any) -> None:
    assert tuple(uris.place(uri)) == expected


@pytest.mark.parametrize(
    "uri",
    ["", "x", "//h/", "ftp://h/", "http://", "http:///x", "http://u:p@h/", "http://h:0/", "http://h:99999/",
     "http://h:x/", "http://[::1/", "http://[::1]x/", "http://a b/", "http://h\r\nX: y/"],
)  # fmt: skip
def test_uris_that_cannot_be_fetched_are_refused_by_name(uri: str) -> None:
    with pytest.raises(RegistryError, match="cannot be fetched"):
        uris.place(uri)


def test_the_same_examples_hold_under_micropython() -> None:
    tools = os.path.join(ROOT, "build", "tools")
    program = shutil.which("micropython", path=tools + os.pathsep + os.environ.get("PATH", ""))
    if program is None:
        pytest.skip("micropython is not here: neither in build/tools nor on PATH")
    here = os.path.dirname(os.path.abspath(__file__))
    controller = os.path.dirname(os.path.dirname(here))
    runner = os.path.join(controller, "tests", "core", "run_micropython.py")
    done = subprocess.run(
        [program, runner, controller, "test_core_schema"],
        env={**os.environ, "MICROPYPATH": here + ":.frozen"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr

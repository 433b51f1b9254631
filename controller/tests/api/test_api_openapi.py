"""The description of the API, held against what it really answers."""

from typing import Any

import pytest
from api_world import Api, FakeNode

from confine.api import openapi
from confine.api.documents import ADDRESSES
from confine.core.model import FAIL_ALLOCATE, FAIL_DEPLOY, FAIL_START, NODE_STATES
from confine.core.states import STATES
from confine.core.steps import FAIL_STATES

TYPES = {
    "string": str, "integer": int, "boolean": bool, "array": list, "object": dict, "null": type(None),
}  # fmt: skip


def check(value: Any, schema: dict[str, Any], document: dict[str, Any], where: str = "") -> None:
    """`value` is as `schema` says (the words of JSON Schema that are used), and no member of it is undescribed."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return check(value, document["components"]["schemas"][name], document, where)
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    assert any(type(value) is TYPES[kind] for kind in kinds), f"{where} is {value!r}, not {kinds}"
    if "enum" in schema:
        assert value in schema["enum"], f"{where} is {value!r}"
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            check(item, schema["items"], document, f"{where}/{index}")
    if isinstance(value, dict) and "properties" in schema:
        for name in schema["required"]:
            assert name in value, f"{where} has no {name}"
        for name, item in value.items():
            assert name in schema["properties"] or where == "", f"{where}/{name} is not described"
            if name in schema["properties"]:
                check(item, schema["properties"][name], document, f"{where}/{name}")
    return None


@pytest.fixture
def described(api: Api) -> dict[str, Any]:
    answer = api.get("openapi.json", accept_encoding="gzip")
    assert answer.headers["content-type"] == "application/json" and answer.headers["content-encoding"] == "gzip"
    document: dict[str, Any] = api.get("openapi.json").json
    return document


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, found) for path, item in document["paths"].items() for method, found in item.items()]


def test_the_description_is_openapi_3_1(api: Api, described: dict[str, Any]) -> None:
    assert described["openapi"] == "3.1.0" and described["info"]["title"] and described["info"]["version"]
    assert described["servers"] == [{"url": api.base.rstrip("/")}]
    for path, method, operation in operations(described):
        assert path.startswith("/") and method in ("get", "post") and operation["summary"]
        assert all(len(status) == 3 and answer["description"] for status, answer in operation["responses"].items())
        needed = {"id"} if "{id}" in path else set()
        assert {entry["name"] for entry in operation.get("parameters", [])} == needed
        assert all(entry["in"] == "path" and entry["required"] for entry in operation.get("parameters", []))


def test_every_reference_leads_to_a_schema_and_every_schema_is_used(described: dict[str, Any]) -> None:
    text = repr(described["paths"])
    for name in described["components"]["schemas"]:
        assert f"'#/components/schemas/{name}'" in text, name
    assert text.count("$ref") == sum(
        text.count(f"'#/components/schemas/{name}'") for name in described["components"]["schemas"]
    )


def test_every_path_answers_as_described(api: Api, described: dict[str, Any]) -> None:
    for path, method, operation in operations(described):
        number = "105" if "slivers" in path else "3"
        answer = api.get(path.lstrip("/").replace("{id}", number), method.upper())
        media = answer.headers["content-type"].split(";")[0]
        content = operation["responses"][str(answer.status)]["content"]
        assert answer.status == 200 and media in content, path
        if media == "application/json":
            check(answer.json, content[media]["schema"], described)


def test_errors_are_as_described(api: Api, node: FakeNode, described: dict[str, Any]) -> None:
    api.post("node/ctl/refresh/")
    got = {
        ("/slivers/{id}/", "get", 404): api.get("slivers/99/"),
        ("/templates/{id}/", "get", 404): api.get("templates/99/"),
        ("/node/ctl/refresh/", "post", 429): api.post("node/ctl/refresh/"),
    }
    node.in_state("safe")
    for path in ("/slivers/", "/slivers/{id}/", "/templates/", "/templates/{id}/"):
        got[path, "get", 503] = api.get(path.lstrip("/").replace("{id}", "105"))
    for (path, method, status), answer in got.items():
        schema = described["paths"][path][method]["responses"][str(status)]["content"]["application/json"]["schema"]
        assert answer.status == status
        check(answer.json, schema, described)


def test_a_node_that_knows_nothing_yet_answers_as_described(
    api: Api, node: FakeNode, described: dict[str, Any]
) -> None:
    node.state = None
    node.change(lambda doc: doc.update(node={"id": 42, "name": None, "state": "debug", "errors": []}, slivers=[]))
    for path in ("/", "/node/"):
        schema = described["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        check(api.get(path.lstrip("/")).json, schema, described)


def test_states_and_addresses_are_those_of_the_node() -> None:
    failed = {FAIL_ALLOCATE, FAIL_DEPLOY, FAIL_START}
    assert set(openapi.SLIVER_STATE["enum"]) == {*STATES, *failed, *FAIL_STATES.values()}
    assert set(openapi.NODE_STATE["enum"]) == set(NODE_STATES)
    assert openapi.ADDRESS_NAMES == ADDRESSES

"""GitHub's published OpenAPI description, to check calls and answers against; tests/fetch-openapi brings it."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self

import jsonschema_rs

PATH = Path(__file__).parents[1] / ".cache/api.github.com.json"
_MAX_ERRORS = 3


class Description:
    """The description; the schemas of an operation are prepared when it is first called.

    Args:
        data: the JSON file.
    """

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        # "You can also pass an array of labels directly", say the words, and not the schema.
        labels = data["paths"]["/repos/{owner}/{repo}/issues/{issue_number}/labels"]["post"]["requestBody"]
        labels["content"]["application/json"]["schema"]["oneOf"].append({"type": "array", "items": {"type": "string"}})
        self._validators: dict[str, jsonschema_rs.Draft7Validator] = {}
        self._components: dict[str, Any] = {}

    @classmethod
    @cache
    def load(cls) -> Self | None:
        """Read it, once per process; None where tests/fetch-openapi did not run."""
        return cls(json.loads(PATH.read_bytes())) if PATH.is_file() else None

    def check_request(
        self, method: str, template: str, parameters: Mapping[str, str], query: Mapping[str, str], body: Any
    ) -> list[str]:
        """What a request has that is not described.

        Names that are not described count too: GitHub ignores them, so that they are a caller's mistake.

        Args:
            method: upper case.
            template: such as /repos/{owner}/{repo}.
            parameters: values of the template's names.
            query: last value of each name.
            body: None where there was none.
        """
        operation = self._get_operation(method, template)
        if operation is None:
            return [f"{method} {template} is not in GitHub's description"]
        described = {(row["in"], row["name"]): row for row in self._get_parameters(template, operation)}
        problems = [f"query {name}: not described" for name in query if ("query", name) not in described]
        for (location, name), row in described.items():
            value = {"path": parameters, "query": query}.get(location, {}).get(name)
            if value is None:
                problems += [f"{location} {name}: is required"] if location == "query" and row.get("required") else []
            elif not any(self._is_valid(row["schema"], variant) for variant in _read_variants(value)):
                problems.append(f"{location} {name}: {value!r} does not fit {json.dumps(row['schema'])[:200]}")
        return problems + self._check_body(operation, body)

    def check_response(self, method: str, template: str, status: int, body: Any) -> list[str]:
        """What an answer has that is not described.

        A failure that is not described, such as any 401, needs GitHub's usual shape.
        """
        operation = self._get_operation(method, template)
        response = self._resolve((operation or {}).get("responses", {}).get(str(status)))
        if response is None and status < 400:
            return [f"status {status} is not described"]
        if response is None:
            return self._find_errors({"$ref": "#/components/schemas/basic-error"}, body)
        content = response.get("content", {}).get("application/json")
        if content is None:
            return ["a body is not described"] if body is not None and status < 400 else []
        return self._find_errors(content["schema"], body)

    def _get_operation(self, method: str, template: str) -> dict[str, Any] | None:
        operation: dict[str, Any] | None = self.data["paths"].get(template, {}).get(method.lower())
        return operation

    def _get_parameters(self, template: str, operation: dict[str, Any]) -> list[dict[str, Any]]:
        rows = self.data["paths"][template].get("parameters", []) + operation.get("parameters", [])
        return [self._resolve(row) for row in rows]

    def _check_body(self, operation: dict[str, Any], body: Any) -> list[str]:
        described = self._resolve(operation.get("requestBody"))
        if described is None:
            return [f"body: none is described, {json.dumps(body)[:200]} came"] if body else []
        if body is None:
            return ["body: is required"] if described.get("required") else []
        schema = described["content"]["application/json"]["schema"]
        names = set(self._list_properties(schema))
        unknown = set(body) - names if names and isinstance(body, dict) else set()
        return self._find_errors(schema, body, "body") + [f"body {name}: not described" for name in sorted(unknown)]

    def _list_properties(self, schema: dict[str, Any]) -> Iterator[str]:
        schema = self._resolve(schema)
        yield from schema.get("properties", {})
        for key in ("allOf", "anyOf", "oneOf"):
            for part in schema.get(key, []):
                yield from self._list_properties(part)

    def _is_valid(self, schema: dict[str, Any], value: Any) -> bool:
        return self._get_validator(schema).is_valid(value)

    def _find_errors(self, schema: dict[str, Any], value: Any, name: str = "answer") -> list[str]:
        errors = list(self._get_validator(schema).iter_errors(value))
        return [
            f"{name} {'/'.join(map(str, error.instance_path))}: {error.message[:400]}" for error in errors[:_MAX_ERRORS]
        ]

    def _get_validator(self, schema: dict[str, Any]) -> jsonschema_rs.Draft7Validator:
        key = json.dumps(schema)
        if key not in self._validators:
            converted = _convert(schema)
            root = {"allOf": [converted], "components": {"schemas": self._gather_components(converted)}}
            self._validators[key] = jsonschema_rs.Draft7Validator(root, validate_formats=True)
        return self._validators[key]

    def _gather_components(self, schema: Any) -> dict[str, Any]:
        """The components that a schema leads to; of 13 MB few are needed."""
        gathered: dict[str, Any] = {}
        waiting = list(_list_references(schema))
        while waiting:
            name = waiting.pop().removeprefix("#/components/schemas/")
            if name not in gathered:
                if name not in self._components:
                    self._components[name] = _convert(self.data["components"]["schemas"][name])
                gathered[name] = self._components[name]
                waiting += _list_references(gathered[name])
        return gathered

    def _resolve(self, node: Any) -> Any:
        while isinstance(node, dict) and "$ref" in node:
            target: Any = self.data
            for part in node["$ref"].split("/")[1:]:
                target = target[part]
            node = target
        return node


def _read_variants(value: str) -> list[Any]:
    """What a text of a path or query may stand for."""
    try:
        parsed = json.loads(value)
    except ValueError:
        return [value]
    return [value, parsed]


def _convert(node: Any) -> Any:
    """Make JSON Schema of an OpenAPI 3.0 schema: there, `nullable` stands beside the type. Examples are left out."""
    if isinstance(node, list):
        return [_convert(part) for part in node]
    if not isinstance(node, dict):
        return node
    # As a name in `properties`, each of these is a dictionary.
    dropped = ("nullable", "example", "examples", "description", "discriminator")
    kept = {key: _convert(part) for key, part in node.items() if key not in dropped or _is_schema(part)}
    return {"anyOf": [kept, {"type": "null"}]} if node.get("nullable") is True else kept


def _is_schema(node: Any) -> bool:
    return isinstance(node, dict) and ("type" in node or "$ref" in node or "anyOf" in node or "oneOf" in node)


def _list_references(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for part in node:
            yield from _list_references(part)
    elif isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for part in node.values():
            yield from _list_references(part)

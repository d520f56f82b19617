"""`GET /openapi.json`: made of the routes and the types that they say of themselves, and of nothing else."""

from __future__ import annotations

import importlib.metadata
import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from llamaleon_server.web.described import Described
from llamaleon_server.web.errors import json_response
from llamaleon_server.web.scopes import ROUTE_SCOPES, names_of

Json = dict[str, Any]
REF = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"\{(?P<name>\w+)\}")
KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}


class Problem(Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Struct, frozen=True):
    """OpenAI's."""

    error: Problem


class AnthropicProblem(Struct, frozen=True):
    type: str
    message: str


class AnthropicErrorBody(Struct, frozen=True, tag="error", tag_field="type"):
    error: AnthropicProblem
    request_id: str | None


class OllamaErrorBody(Struct, frozen=True):
    error: str


async def openapi(request: Request) -> Response:
    """This document."""
    return json_response(document(request.app.routes))


def document(routes: Sequence[BaseRoute]) -> Json:
    """OpenAPI 3.1 of all described routes; HEAD comes with every GET."""
    described = [route for route in routes if isinstance(route, Described)]
    schemas = _Schemas(described)
    paths: dict[str, Json] = {}
    for route in described:
        for name in names_of(route):
            method, path = name.split(" ")
            paths.setdefault(path, {})[method.lower()] = _operation(route, name, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Llamaleon", "version": importlib.metadata.version("llamaleon")},
        "paths": paths,
        "components": {"schemas": schemas.components, "securitySchemes": KEYS},
    }


def _operation(route: Described, name: str, schemas: _Schemas) -> Json:
    path = name.partition(" ")[2]
    scope = ROUTE_SCOPES.get(name, "admin")
    module = route.endpoint.__module__.rpartition(".")[2]
    described = inspect.getdoc(route.endpoint) or ""
    shown: Json = {
        "operationId": re.sub(r"\W+", "_", name).strip("_").lower(),
        "tags": [module],
        "summary": described.partition("\n")[0],
        "description": described,
        "parameters": [*_in_path(path), *_in_query(route, schemas)],
        "responses": _answers(route, path, schemas),
        "security": [] if scope == "open" else [{key: []} for key in KEYS],
        "x-scope": scope,
    }
    if route.body is not None:
        content = _content({"application/json": schemas.of(route.body)})
        shown["requestBody"] = {"required": not route.optional, **content}
    elif route.form is not None:
        form = {"multipart/form-data": schemas.of(route.form)}
        shown["requestBody"] = {"required": True, **_content(form)}
    elif route.upload:
        shown["requestBody"] = {"required": True, **_content({"application/octet-stream": {}})}
    return shown


def _answers(route: Described, path: str, schemas: _Schemas) -> Json:
    error = _content(_error(path, schemas))
    answers = {"4XX": {"description": "Refused.", **error}, "5XX": {"description": "Failed.", **error}}
    if route.status < 400:
        answers[str(route.status)] = {"description": "Success.", **_content(_success(route, schemas))}
    return answers


def _success(route: Described, schemas: _Schemas) -> dict[str, Json]:
    found: dict[str, Json] = {}
    if route.answer is not None:
        found["application/json"] = schemas.of(route.answer)
    if route.events is not None:
        # The schema is of the `data` of one event: OpenAPI has no words for a stream of them.
        found["text/event-stream"] = {"x-data": schemas.of(route.events)}
    if route.lines is not None:
        found["application/x-ndjson"] = {"x-line": schemas.of(route.lines)}
    if route.media:
        found[route.media] = {}
    return found


def _error(path: str, schemas: _Schemas) -> dict[str, Json]:
    if path.startswith("/v1/messages"):
        return {"application/json": schemas.of(AnthropicErrorBody)}
    if path.startswith("/api/"):
        return {"application/json": schemas.of(OllamaErrorBody)}
    if path == "/v1/models" or path.startswith("/v1/models/"):
        either = [schemas.of(ErrorBody), schemas.of(AnthropicErrorBody)]
        return {"application/json": {"anyOf": either}}
    return {"application/json": schemas.of(ErrorBody)}


def _content(by_type: dict[str, Json]) -> Json:
    return {"content": {kind: {"schema": schema} for kind, schema in by_type.items()}} if by_type else {}


def _in_path(path: str) -> list[Json]:
    return [
        {"name": found["name"], "in": "path", "required": True, "schema": {"type": "string"}}
        for found in _PARAMETER.finditer(path)
    ]


def _in_query(route: Described, schemas: _Schemas) -> list[Json]:
    if route.query is None:
        return []
    shape = schemas.whole(route.query)
    required = shape.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _never_null(schema)}
        for name, schema in shape["properties"].items()
    ]


def _never_null(schema: Json) -> Json:
    """A parameter of a query is there or not: it cannot be null."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    return kinds[0] if len(kinds) == 1 else schema


class _Schemas:
    """The schemas of every type that a route names, each once."""

    def __init__(self, routes: Iterable[Described]) -> None:
        self._types: list[Any] = [ErrorBody, AnthropicErrorBody, OllamaErrorBody]
        for route in routes:
            said = (route.body, route.form, route.answer, route.events, route.lines, route.query)
            self._types += [one for one in said if one is not None and one not in self._types]
        self._refs, self.components = msgspec.json.schema_components(self._types, ref_template=REF)
        forms = [route.form for route in routes if route.form is not None]
        for form in forms:
            for schema in self.whole(form)["properties"].values():
                if schema.pop("contentEncoding", None):  # in JSON bytes are base64, in a form they are bytes
                    schema["format"] = "binary"

    def of(self, kind: Any) -> Json:
        found: Json = self._refs[self._types.index(kind)]
        return found

    def whole(self, kind: Any) -> Json:
        """The schema itself rather than a reference to it."""
        found: Json = self.components[self.of(kind)["$ref"].rpartition("/")[2]]
        return found


routes = [Described("/openapi.json", openapi, methods=["GET"], answer=Json)]

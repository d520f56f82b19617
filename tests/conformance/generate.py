"""Requests that nobody should send: made from our own OpenAPI document, then spoilt.

The same number is always the same request, so that a failure can be repeated.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tests.conformance.junk import HEADERS, JUNK, METHODS, NUMBERS, QUERIES, SEGMENTS

Json = Any


@dataclass(frozen=True)
class Asked:
    """One HTTP request, as bytes on the wire would have it."""

    method: str
    target: str
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    chunks: int = 1  # in how many pieces the body comes

    def __str__(self) -> str:
        return (
            f"{self.method} {self.target[:120]} {self.headers} {self.body[:300]!r} ({len(self.body)} bytes)"
        )


class Generator:
    """`document` is the OpenAPI document; `models` are names that answer."""

    def __init__(self, document: Json, models: list[str], seed: int = 0) -> None:
        self._schemas = document["components"]["schemas"]
        self._operations = [
            (method.upper(), path, operation)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        ]
        self._models = models
        self._seed = seed

    def request(self, number: int) -> Asked:
        rng = random.Random(self._seed * 1_000_003 + number)
        method, path, operation = rng.choice(self._operations)
        asked = Asked(method, self._target(method, path, operation, rng), self._headers(operation))
        asked = replace(asked, body=self._body(asked, operation, rng))
        for _ in range(rng.choice((0, 1, 1, 1, 2))):
            asked = rng.choice(SPOILERS)(asked, rng)
        return asked

    def _target(self, method: str, path: str, operation: Json, rng: random.Random) -> str:
        for parameter in operation["parameters"]:
            if parameter["in"] == "path":
                # Never a name that a DELETE would take away from the requests to come.
                name = rng.choice(SEGMENTS) + "~"
                if method == "GET" and rng.random() < 0.3:
                    name = rng.choice(self._models)
                path = path.replace(f"{{{parameter['name']}}}", name, 1)
        query = [
            f"{p['name']}={rng.choice(('1', 'x', '%00', '-5', ''))}"
            for p in operation["parameters"]
            if p["in"] == "query" and rng.random() < 0.4
        ]
        return path + ("?" + "&".join(query) if query else "")

    def _headers(self, operation: Json) -> list[tuple[bytes, bytes]]:
        kinds = list(operation.get("requestBody", {}).get("content", ()))
        kind = kinds[0].encode() if kinds else b""
        if kind.startswith(b"multipart"):
            kind += b"; boundary=edge"
        return [(b"host", b"localhost"), *([(b"content-type", kind)] if kind else [])]

    def _body(self, asked: Asked, operation: Json, rng: random.Random) -> bytes:
        for kind, content in operation.get("requestBody", {}).get("content", {}).items():
            if kind.startswith("multipart"):
                return form(self.example(content["schema"], rng), rng)
            if kind != "application/json":
                return rng.randbytes(rng.choice((0, 1, 5000)))
            value = copy.deepcopy(self.example(content["schema"], rng))
            if isinstance(value, dict):
                if "model" in value and not takes_away(asked) and rng.random() < 0.8:
                    value["model"] = rng.choice(self._models)
                for _ in range(rng.choice((0, 1, 1, 2))):
                    spoil_value(value, rng)
            return encoded(value)
        return b""

    def example(self, schema: Json, rng: random.Random, depth: int = 0) -> Json:
        """Something that the schema allows, or nearly."""
        if "$ref" in schema:
            return self.example(self._schemas[schema["$ref"].rpartition("/")[2]], rng, depth + 1)
        if "enum" in schema:
            return rng.choice(schema["enum"])
        for several in ("anyOf", "oneOf"):
            if several in schema:
                return self.example(rng.choice(schema[several]), rng, depth + 1)
        match schema.get("type"):
            case "object":
                return self._object(schema, rng, depth)
            case "array":
                items = schema.get("items", {})
                count = 0 if depth > 8 else rng.choice((0, 1, 1, 2, 3))
                return [
                    self.example(items if items is not False else {}, rng, depth + 1) for _ in range(count)
                ]
            case "integer" | "number" as kind:
                low, high = schema.get("minimum", -3), schema.get("maximum", 50)
                return rng.randint(int(low), max(int(low), min(int(high), 50))) if kind == "integer" else low
            case "string":
                return rng.choice(("user", "text", "Hola", "auto", "x" * max(1, schema.get("minLength", 1))))
            case "boolean":
                return rng.random() < 0.5
            case "null":
                return None
        return copy.deepcopy(rng.choice(JUNK))

    def _object(self, schema: Json, rng: random.Random, depth: int) -> Json:
        required = schema.get("required", ())
        share = 0.25 if depth < 4 else 0.1
        made = {
            name: self.example(inner, rng, depth + 1)
            for name, inner in schema.get("properties", {}).items()
            if name in required or rng.random() < share
        }
        more = schema.get("additionalProperties")
        if isinstance(more, dict) and rng.random() < 0.5:
            made[str(rng.randint(-1, 99))] = self.example(more, rng, depth + 1)
        return made


def takes_away(asked: Asked) -> bool:
    """A model that goes would make the requests to come shallow: they get 404."""
    return asked.method == "DELETE" or "unload" in asked.target or "delete" in asked.target


def spoil_value(value: Json, rng: random.Random) -> None:
    """Replace, remove, double or nest something somewhere in it."""
    holder = value
    for _ in range(rng.randint(0, 5)):
        inner = [
            one
            for one in (holder.values() if isinstance(holder, dict) else holder)
            if isinstance(one, dict | list) and one
        ]
        if not inner:
            break
        holder = rng.choice(inner)
    if not holder:
        return
    key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
    match rng.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[rng.choice(("", "x", "\x00", "stream", "tools", "n", "format", "lora"))] = copy.deepcopy(
                rng.choice(JUNK)
            )
        case 2:
            holder[key] = [copy.deepcopy(holder[key])]
        case _:
            holder[key] = copy.deepcopy(rng.choice(JUNK))


def encoded(value: Json) -> bytes:
    """With lone surrogates as escapes: what JavaScript sends."""
    return json.dumps(value, ensure_ascii=True).encode()


def form(fields: Json, rng: random.Random) -> bytes:
    parts = []
    for name, value in fields.items():
        filename = b'; filename="a.jsonl"' if name == "file" else b""
        data = rng.randbytes(50) if name == "file" else str(value).encode("utf-8", "replace")
        parts.append(
            b'--edge\r\nContent-Disposition: form-data; name="'
            + name.encode()
            + b'"'
            + filename
            + b"\r\n\r\n"
            + data
        )
    return b"\r\n".join(parts) + b"\r\n--edge--\r\n"


# ---------------------------------------------------------------- spoilers of a whole request


def cut(asked: Asked, rng: random.Random) -> Asked:
    return replace(asked, body=asked.body[: rng.randint(0, len(asked.body))])


def flip(asked: Asked, rng: random.Random) -> Asked:
    body = bytearray(asked.body or b"{}")
    for _ in range(rng.randint(1, 4)):
        body[rng.randrange(len(body))] = rng.randrange(256)
    return replace(asked, body=bytes(body))


def insert(asked: Asked, rng: random.Random) -> Asked:
    at = rng.randint(0, len(asked.body))
    bits = [
        b"\x00",
        b",",
        b"}",
        b"]",
        b'"',
        b"\\",
        b"\xff",
        b"\xed\xa0\x80",
        b"\\ud800",
        b"/* */",
        b"\xef\xbb\xbf",
        b"\r\n--edge",
    ]
    return replace(asked, body=asked.body[:at] + rng.choice(bits) + asked.body[at:])


def number(asked: Asked, rng: random.Random) -> Asked:
    digits = [at for at, byte in enumerate(asked.body) if byte in b"0123456789"]
    if not digits:
        return replace(asked, body=rng.choice(NUMBERS))
    at = rng.choice(digits)
    return replace(asked, body=asked.body[:at] + rng.choice(NUMBERS) + asked.body[at + 1 :])


def nest(asked: Asked, rng: random.Random) -> Asked:
    depth = rng.choice((50, 200, 1000, 20_000))
    opening, closing = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    deep = opening * depth + b"1" + (closing * depth if rng.random() < 0.7 else b"")
    at = asked.body.rfind(b":") + 1
    return replace(asked, body=asked.body[:at] + deep + b"}" if at else deep)


def other_body(asked: Asked, rng: random.Random) -> Asked:
    bodies = [
        b"",
        b"null",
        b"[]",
        b"0",
        b'""',
        b"{}",
        b"\x00" * 100,
        b"<x/>",
        b"a=b&c=d",
        "{}".encode("utf-16"),
        b" " * 9000,
    ]
    return replace(
        asked, body=rng.choice(bodies) if rng.random() < 0.7 else rng.randbytes(rng.randint(1, 2000))
    )


def other_method(asked: Asked, rng: random.Random) -> Asked:
    wanted = rng.choice(METHODS)
    harmless = wanted != "DELETE" or "~" in asked.target
    return replace(asked, method=wanted) if harmless else asked


def other_path(asked: Asked, rng: random.Random) -> Asked:
    path, _, query = asked.target.partition("?")
    parts = path.split("/")
    parts.insert(rng.randint(1, len(parts)), rng.choice(SEGMENTS))
    made = "/".join(parts) + "~"
    return replace(asked, target=made + ("?" + query if query else ""))


def other_query(asked: Asked, rng: random.Random) -> Asked:
    return replace(asked, target=asked.target.partition("?")[0] + "?" + rng.choice(QUERIES))


def more_headers(asked: Asked, rng: random.Random) -> Asked:
    added = [rng.choice(HEADERS) for _ in range(rng.randint(1, 3))]
    names = {name for name, _ in added if rng.random() < 0.7}
    if {name for name, _ in added} & {b"host"}:
        names.add(b"host")  # two hosts are no HTTP
        added = [
            one
            for at, one in enumerate(added)
            if one[0] != b"host" or at == [n for n, _ in added].index(b"host")
        ]
    return replace(asked, headers=[one for one in asked.headers if one[0] not in names] + added)


def pieces(asked: Asked, rng: random.Random) -> Asked:
    return replace(asked, chunks=rng.randint(2, 6))


SPOILERS: list[Callable[[Asked, random.Random], Asked]] = [
    cut,
    flip,
    insert,
    number,
    nest,
    other_body,
    other_method,
    other_path,
    other_query,
    more_headers,
    more_headers,
    pieces,
]

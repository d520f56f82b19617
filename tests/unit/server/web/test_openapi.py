"""One document of the whole API, made of the routes."""

from __future__ import annotations

import json
import re

import pytest
from tests.api import Api

from llamaleon_server.app import ROUTES
from llamaleon_server.web.described import Described
from llamaleon_server.web.openapi import document
from llamaleon_server.web.scopes import names_of


def test_every_route_is_in_the_document_with_what_it_takes_and_answers() -> None:
    paths = document(ROUTES)["paths"]
    for route in ROUTES:
        assert isinstance(route, Described), f"{route.path}: use Described instead of Route"
        for name in names_of(route):
            method, path = name.split(" ")
            operation = paths[path][method.lower()]
            assert {"4XX", "5XX"} <= set(operation["responses"])
            assert (str(route.status) in operation["responses"]) is (route.status < 400)
            named = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path))


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_what_is_answered_is_said(route: Described) -> None:
    said = (route.answer, route.media, route.events, route.lines)
    assert route.status >= 400 or any(one is not None for one in said), (
        f"{route.path}: which type does it answer?"
    )


def test_references_lead_somewhere_and_names_are_unique() -> None:
    made = document(ROUTES)
    text = json.dumps(made)
    for name in re.findall(r'"#/components/schemas/([^"]+)"', text):
        assert name in made["components"]["schemas"]
    ids = re.findall(r'"operationId": "([^"]+)"', text)
    assert len(ids) == len(set(ids))


async def test_it_is_served(api: Api) -> None:
    response = await api.http.get("/openapi.json")
    assert response.status_code == 200
    assert response.json() == json.loads(json.dumps(document(ROUTES)))

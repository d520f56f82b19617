"""Which version a bare name means: the one deployed last, until it is rolled back."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from tests.unit.server.registry.conftest import Adder

from llamaleon_server.errors import BadRequest, Conflict, ModelNotFound
from llamaleon_server.registry.db import Database
from llamaleon_server.registry.migrations import MIGRATIONS
from llamaleon_server.registry.records import Base
from llamaleon_server.registry.registry import Registry


def meant(registry: Registry, model: str = "tiny+sql") -> int:
    [(version, _)] = registry.resolve(model).adapters
    return version.version


def test_an_older_version_is_promoted_and_the_listing_says_so(
    registry: Registry, base: Base, add: Adder
) -> None:
    first = add(base, "sql", ft_name="ft:a")
    add(base, "sql", ft_name="ft:b")
    assert meant(registry) == 2
    registry.deploy(first)
    assert meant(registry) == 1
    assert meant(registry, "ft:b") == 2
    assert meant(registry, "tiny+sql@2") == 2
    [entry] = [one for one in registry.listing() if one.kind == "adapter"]
    assert (entry.version, entry.versions, entry.ft_name) == (1, (1, 2), "ft:a")
    assert registry.entry("tiny+sql").version == 1
    assert registry.serving() == {("tiny", "sql", 1)}


def test_rollback_goes_back_step_by_step(registry: Registry, base: Base, add: Adder) -> None:
    for _ in range(3):
        add(base, "sql")
    left, back = registry.roll_back("tiny+sql")
    assert (left.version, left.state, back.version, back.state) == (3, "registered", 2, "deployed")
    assert left.reason == "rolled back to @2"
    assert meant(registry) == 2
    assert meant(registry, "tiny+sql@3") == 3
    registry.roll_back("sql")
    assert meant(registry) == 1
    with pytest.raises(Conflict, match=r"No other version of `tiny\+sql` was deployed before"):
        registry.roll_back("sql")
    assert meant(registry) == 1


def test_a_rollback_undoes_a_promotion(registry: Registry, base: Base, add: Adder) -> None:
    first = add(base, "sql")
    add(base, "sql")
    registry.deploy(first)
    left, back = registry.roll_back("tiny+sql")
    assert (left.version, back.version) == (1, 2)
    # The first deployment of it still stands: another rollback comes back to it.
    assert left.state == "deployed"
    assert registry.roll_back("tiny+sql")[1].version == 1


def test_what_was_rolled_back_can_be_promoted_again(registry: Registry, base: Base, add: Adder) -> None:
    add(base, "sql")
    second = add(base, "sql")
    registry.roll_back("tiny+sql")
    again = registry.deploy(second)
    assert (again.state, again.reason, meant(registry)) == ("deployed", None, 2)
    history = registry.deployments("tiny", "sql")
    assert [one.version for one in history] == [1, 2, 2]
    assert [one.withdrawn is None for one in history] == [True, False, True]


def test_deploying_what_serves_is_no_second_deployment(registry: Registry, base: Base, add: Adder) -> None:
    version = add(base, "sql")
    registry.deploy(version)
    assert len(registry.deployments("tiny", "sql")) == 1


def test_deleted_and_failed_versions_do_not_count(registry: Registry, base: Base, add: Adder) -> None:
    for _ in range(4):
        add(base, "sql")
    registry.delete("tiny+sql@4")
    assert meant(registry) == 3
    registry.adapter_refused(registry.resolve("tiny+sql").adapters[0][0], "the engine refused it")
    assert meant(registry) == 2
    registry.delete("tiny+sql@1")
    with pytest.raises(Conflict):
        registry.roll_back("tiny+sql")


def test_two_bases_have_histories_of_their_own(
    registry: Registry, base: Base, add: Adder, tmp_path: Path
) -> None:
    other = registry.add_base(base.path, "other")
    add(base, "sql")
    add(other, "sql")
    add(base, "sql")
    registry.roll_back("tiny+sql")
    assert (meant(registry, "tiny+sql"), meant(registry, "other+sql")) == (1, 2)
    with pytest.raises(BadRequest, match="Several base models"):
        registry.roll_back("sql")


def test_a_restart_keeps_it(registry: Registry, base: Base, add: Adder) -> None:
    add(base, "sql")
    add(base, "sql")
    registry.roll_back("tiny+sql")
    registry.close()
    again = Registry.open(registry.home)
    assert meant(again) == 1
    again.close()


def test_only_adapters(registry: Registry, base: Base, add: Adder) -> None:
    add(base, "sql")
    with pytest.raises(BadRequest, match="is a base model"):
        registry.roll_back("tiny")
    with pytest.raises(ModelNotFound):
        registry.roll_back("nothing")


def test_a_home_from_before_keeps_serving_the_newest(tmp_path: Path) -> None:
    """Migration 9 on a database that has deployed versions: out of order, to show that the number counts."""
    path = tmp_path / "llamaleon.db"
    Database(path, MIGRATIONS[:8]).close()
    plain = sqlite3.connect(path)
    for number, version, state in ((1, 2, "deployed"), (2, 1, "deployed"), (3, 3, "registered")):
        plain.execute(
            "INSERT INTO adapters (id, name, version, base, key, state, manifest, created) "
            "VALUES (?, 'sql', ?, 'tiny', 'k', ?, '{}', 7)",
            (number, version, state),
        )
    plain.commit()
    plain.close()
    database = Database(path)
    rows = database.rows("SELECT version, deployed, withdrawn FROM deployments ORDER BY seq")
    assert [tuple(row) for row in rows] == [(1, 7, None), (2, 7, None)]
    database.close()

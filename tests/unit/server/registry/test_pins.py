"""Pins: by name they follow what is deployed, by version they stay; what is retired is forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.server.registry.conftest import Adder

from llamaleon_server.errors import AdapterRefused, BadRequest, ModelNotFound, NotFound
from llamaleon_server.registry.records import Base
from llamaleon_server.registry.registry import Registry


def pinned(registry: Registry) -> list[str]:
    return [version.full_name for version in registry.pinned("tiny")]


def test_a_name_follows_what_is_deployed_and_a_version_stays(
    registry: Registry, base: Base, add: Adder
) -> None:
    for name in ("sql", "poet"):
        add(base, name)
    registry.pin("tiny+sql")
    registry.pin("poet@1")
    registry.pin("sql")  # again is no mistake
    assert pinned(registry) == ["tiny+sql@1", "tiny+poet@1"]
    add(base, "sql")
    add(base, "poet")
    assert pinned(registry) == ["tiny+sql@2", "tiny+poet@1"]
    assert registry.pinned("other") == []
    assert len(registry.pinned()) == 2


def test_pins_survive_a_restart(registry: Registry, base: Base, add: Adder, tmp_path: Path) -> None:
    add(base, "sql")
    registry.pin("tiny+sql")
    again = Registry.open(tmp_path / "home")
    assert pinned(again) == ["tiny+sql@1"]
    again.close()


def test_unpinning_by_name_takes_every_pin_of_it(registry: Registry, base: Base, add: Adder) -> None:
    add(base, "sql")
    add(base, "sql", ft_name="ft:tiny:local:sql:1")
    for model in ("sql", "sql@1", "ft:tiny:local:sql:1"):
        registry.pin(model)
    registry.unpin("ft:tiny:local:sql:1")
    with pytest.raises(NotFound, match="`tiny\\+sql@2` is not pinned"):
        registry.unpin("tiny+sql@2")
    registry.unpin("tiny+sql@1")
    assert pinned(registry) == ["tiny+sql@2"]  # by its name
    registry.unpin("sql")
    assert pinned(registry) == []
    with pytest.raises(NotFound, match="`sql` is not pinned"):
        registry.unpin("sql")


def test_what_is_deleted_is_no_longer_pinned_when_the_name_comes_back(
    registry: Registry, base: Base, add: Adder
) -> None:
    add(base, "sql")
    registry.pin("sql")
    registry.delete("tiny+sql")
    add(base, "sql")
    assert pinned(registry) == []


def test_a_failed_version_is_not_pinned_but_may_be_unpinned(
    registry: Registry, base: Base, add: Adder
) -> None:
    version = add(base, "sql")
    registry.pin("sql@1")
    assert registry.adapter_refused(version, "it does not load")
    assert pinned(registry) == []
    registry.unpin("sql@1")
    with pytest.raises(AdapterRefused, match="it does not load"):
        registry.pin("sql")


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ("tiny", BadRequest, "is a base model"),
        ("tiny+sql*0.5", BadRequest, "is a blend"),
        ("tiny+sql+poet", BadRequest, "is a blend"),
        ("tiny+sq", ModelNotFound, r"tiny\+sql"),
        ("tiny+sql@7", ModelNotFound, "does not exist"),
    ],
)
def test_only_one_adapter_can_be_pinned(
    registry: Registry, base: Base, add: Adder, *, model: str, error: type[Exception], message: str
) -> None:
    add(base, "sql")
    add(base, "poet")
    with pytest.raises(error, match=message):
        registry.pin(model)


def test_a_refusal_brings_the_version_before_back_and_never_a_retired_one(
    registry: Registry, base: Base, add: Adder
) -> None:
    first, second = add(base, "sql"), add(base, "sql")
    assert registry.adapter_refused(second, "ignored tensor")
    assert registry.resolve("tiny+sql").adapters[0][0].version == 1
    with pytest.raises(AdapterRefused, match="`tiny\\+sql@2` cannot be served: ignored tensor"):
        registry.resolve("sql@2")
    assert registry.adapter_keys() == {first.key}
    assert registry.adapter_names("tiny") == {first.key: "tiny+sql@1"}
    registry.delete("tiny+sql")
    assert not registry.adapter_refused(first, "too late")
    assert [version.version for version in registry.adapters()] == [2]

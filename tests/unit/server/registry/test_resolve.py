"""Every form of the `model` field, and what it runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.lora import random_lora
from tests.unit.server.registry.conftest import Adder
from tests.unit.server.registry.small import write_base

from llamaleon_convert.manifest import Manifest, sha256_file
from llamaleon_server.errors import AdapterRefused, BadRequest, ModelNotFound, NotFound
from llamaleon_server.registry.records import Base
from llamaleon_server.registry.registry import Registry


def test_the_base_alone(registry: Registry, base: Base) -> None:
    target = registry.resolve("tiny")
    assert target.requested == "tiny"
    assert target.base == base
    assert target.adapters == ()


@pytest.mark.parametrize("name", ["tiny+" + "a+" * 2**21, "na no" * 2**20])
def test_a_name_without_end_is_none(registry: Registry, base: Base, name: str) -> None:
    """To take it apart takes seconds, in which nobody else is answered."""
    for ask in (registry.resolve, registry.versions, registry.unpin):
        with pytest.raises(ModelNotFound) as caught:
            ask(name)
        assert len(caught.value.message) < 200


def test_the_latest_deployed_version_unless_one_is_named(registry: Registry, base: Base, add: Adder) -> None:
    first, second = add(base, "sql"), add(base, "sql")
    waiting = add(base, "sql", deploy=False)
    assert [first.version, second.version, waiting.version] == [1, 2, 3]
    assert registry.resolve("tiny+sql").adapters == ((second, 1.0),)
    assert registry.resolve("sql").adapters == ((second, 1.0),)
    assert registry.resolve("tiny+sql@1").adapters == ((first, 1.0),)
    assert registry.resolve("sql@3").adapters[0][0].key == waiting.key


def test_a_blend_has_one_identity_however_it_is_written(registry: Registry, base: Base, add: Adder) -> None:
    a, b = add(base, "a"), add(base, "b")
    target = registry.resolve("tiny+a*0.7+b*0.3")
    assert {version.adapter: weight for version, weight in target.adapters} == {"a": 0.7, "b": 0.3}
    assert registry.resolve("b*0.3+a*0.7").adapters == target.adapters
    assert registry.resolve("tiny+a*0.5+a*0.5").adapters == ((a, 1.0),)
    assert registry.resolve("tiny+a*0+b").adapters == ((b, 1.0),)
    assert registry.resolve("tiny+a*-1").adapters == ((a, -1.0),)


def test_fine_tuned_names_and_their_checkpoints(registry: Registry, base: Base, add: Adder) -> None:
    name = "ft:tiny:local:sql:abc"
    point = add(base, "sql.ckpt-step-8", deploy=False, ft_name=f"{name}:ckpt-step-8")
    done = add(base, "sql", ft_name=name)
    assert registry.resolve(name).adapters == ((done, 1.0),)
    assert registry.resolve(f"{name}:ckpt-step-8").adapters == ((point, 1.0),)
    assert [entry.id for entry in registry.listing()] == ["tiny", "tiny+sql"]


def test_a_bare_name_needs_exactly_one_base(
    registry: Registry, base: Base, add: Adder, tmp_path: Path
) -> None:
    other = registry.add_base(write_base(tmp_path / "other:1b.gguf", seed=9))
    add(base, "sql")
    add(other, "sql")
    with pytest.raises(BadRequest, match=r"`tiny\+sql`, `other:1b\+sql`"):
        registry.resolve("sql")
    assert registry.resolve("other:1b+sql").base == other
    only = add(other, "only")
    assert registry.resolve("only").adapters == ((only, 1.0),)


@pytest.mark.parametrize(
    "model", ["tinny", "tiny+sq", "sqll", "ft:tiny:local:sql:xyz", "tiny+sql@9", "tiny+"]
)
def test_an_unknown_name_gets_the_nearest(registry: Registry, base: Base, add: Adder, model: str) -> None:
    add(base, "sql", ft_name="ft:tiny:local:sql:abc")
    with pytest.raises(ModelNotFound) as caught:
        registry.resolve(model)
    assert caught.value.nearest
    assert caught.value.body()["error"]["code"] == "model_not_found"


def test_lora_items_by_name_version_and_index(registry: Registry, base: Base, add: Adder) -> None:
    a, b = add(base, "a"), add(base, "b")
    newer = add(base, "a")
    assert registry.resolve("tiny", [{"id": "a@1", "scale": 0.5}]).adapters == ((a, 0.5),)
    assert registry.resolve("tiny", [{"id": 0}, {"id": 1, "scale": 0}]).adapters == ((newer, 1.0),)
    assert registry.resolve("tiny", [{"id": "tiny+b"}]).adapters == ((b, 1.0),)
    assert registry.resolve("tiny", []).adapters == ()


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"id": "nope"}, "lora[0].id"),
        ({"id": 7}, "lora[0].id"),
        ({"id": True}, "lora[0].id"),
        ({"id": "a*2"}, "lora[0].id"),
        ({"scale": 1}, "lora[0]"),
        ({"id": "a", "scale": "1"}, "lora[0].scale"),
        ({"id": "a", "scale": float("nan")}, "lora[0].scale"),
        ({"id": "a", "scale": 10**400}, "lora[0].scale"),
    ],
)
def test_a_bad_lora_item_is_named(
    registry: Registry, base: Base, add: Adder, item: dict[str, object], param: str
) -> None:
    add(base, "a")
    with pytest.raises(BadRequest) as caught:
        registry.resolve("tiny", [item])
    assert caught.value.param == param


def test_adapters_in_both_places_are_refused(registry: Registry, base: Base, add: Adder) -> None:
    add(base, "a")
    with pytest.raises(BadRequest, match="not in both"):
        registry.resolve("tiny+a", [{"id": "a"}])


def test_a_base_whose_file_vanished_is_listed_and_refused_at_use(registry: Registry, base: Base) -> None:
    base.path.unlink()
    [listed] = registry.bases()
    assert listed.missing
    with pytest.raises(NotFound, match=r"tiny\.gguf"):
        registry.resolve("tiny")


def test_a_base_that_became_another_model_refuses_its_adapters(
    registry: Registry, base: Base, tmp_path: Path
) -> None:
    gguf = random_lora(base.path, tmp_path / "a.gguf", seed=1)
    manifest = Manifest(
        sha256=sha256_file(gguf),
        architecture="llama",
        rank=4,
        alpha=4.0,
        target_tensors=[],
        base=base.fingerprint,
    )
    registry.add_adapter(base, "a", gguf, manifest)
    registry.resolve("tiny+a")
    write_base(base.path, seed=5)
    with pytest.raises(AdapterRefused, match="weights_sha256"):
        registry.resolve("tiny+a")
    with pytest.raises(AdapterRefused, match="weights_sha256"):
        registry.add_adapter(registry.base("tiny"), "b", gguf, manifest)

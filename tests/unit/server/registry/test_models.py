"""Made models beyond what the routes' tests say: made of made ones, of files, and a base's own preset."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.lora import random_lora
from tests.unit.server.registry.conftest import Adder
from tests.unit.server.registry.small import write_base

from llamaleon_server.errors import AdapterRefused, BadRequest, Conflict, ModelNotFound, NotFound
from llamaleon_server.registry.modelfile import AdapterLine, Modelfile, parse
from llamaleon_server.registry.models import copy, describe, forget, make, paths_of
from llamaleon_server.registry.records import Base
from llamaleon_server.registry.registry import Registry


async def test_one_made_of_another_keeps_what_it_does_not_change(
    registry: Registry, base: Base, add: Adder
) -> None:
    sql = add(base, "sql")
    await make(
        registry,
        "first",
        parse(
            "FROM tiny+sql*0.5\nSYSTEM one\nPARAMETER top_k 3\nPARAMETER stop A\nPARAMETER stop B\n"
            "MESSAGE user x\nLICENSE MIT\n"
        ),
    )
    made = await make(
        registry, "second", parse("FROM first\nSYSTEM two\nPARAMETER stop C\nPARAMETER seed 1\nADAPTER sql\n")
    )
    assert (made.base, made.parent) == ("tiny", "first")
    assert (made.preset.system, made.preset.stop, made.preset.wanted.top_k) == ("two", ("C",), 3)
    assert made.preset.messages == ({"role": "user", "content": "x"},)
    assert made.modelfile.licenses == ("MIT",)
    forget(registry, "first")
    assert registry.resolve("second").adapters == ((sql, 1.5),)
    newer = add(base, "sql")
    assert registry.resolve("second").adapters == ((newer, 1.5),), "a name is followed"


async def test_files_are_registered(registry: Registry, tmp_path: Path) -> None:
    write_base(tmp_path / "here.gguf")
    random_lora(tmp_path / "here.gguf", tmp_path / "my poet.gguf", seed=1)
    random_lora(tmp_path / "here.gguf", tmp_path / "blob", seed=2)
    modelfile = Modelfile(
        from_="./here.gguf",
        adapters=(
            AdapterLine(source="./my poet.gguf"),
            AdapterLine(source="my-poet.gguf", path=tmp_path / "blob", weight=0.5),
        ),
    )
    assert paths_of(modelfile, tmp_path) == [
        ("from", tmp_path / "here.gguf"),
        ("adapters", tmp_path / "my poet.gguf"),
    ]
    said: list[str] = []
    made = await make(registry, "m", modelfile, folder=tmp_path, say=said.append)
    assert [str(part) for part in made.adapters] == ["my-poet@1", "m-my-poet@1*0.5"], "no name is taken over"
    assert said[0] == "reading the model"
    again = await make(registry, "n", Modelfile(from_=str(tmp_path / "here.gguf")))
    assert again.base == "here"
    copied = copy(registry, "here+my-poet", "poet")
    assert [str(part) for part in copied.adapters] == ["my-poet"]
    assert str(describe(registry, "here+my-poet*0.5").modelfile.adapters[0]) == "my-poet*0.5"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("FROM nowhere", ModelNotFound),
        ("FROM ./nowhere.gguf", BadRequest),
        ("FROM tiny\nADAPTER ./nowhere.gguf", NotFound),
        ("FROM tiny\nADAPTER nowhere", ModelNotFound),
        ("FROM tiny\nADAPTER tiny", BadRequest),
        ("FROM tiny\nADAPTER ./other.gguf", AdapterRefused),
    ],
)
async def test_nothing_is_recorded_of_what_cannot_be(
    registry: Registry, base: Base, tmp_path: Path, text: str, error: type[Exception]
) -> None:
    other = write_base(tmp_path / "wide.gguf", width=32)
    random_lora(other, tmp_path / "other.gguf", seed=1)
    with pytest.raises(error):
        await make(registry, "m", parse(text), folder=tmp_path)
    assert registry.made_models() == []


async def test_what_goes_with_a_base_itself(registry: Registry, base: Base, add: Adder) -> None:
    """As a model of Ollama's registry brings it."""
    sql = add(base, "sql")
    await make(registry, "tiny", Modelfile(from_="tiny", system="S", parameters=(("num_ctx", 50),)), own=True)
    assert registry.resolve("tiny").preset.system == "S"
    assert registry.resolve("tiny:latest+sql").adapters == ((sql, 1.0),)
    assert registry.resolve("tiny+sql").preset.system == "S"
    assert registry.pin("tiny+sql") == sql
    assert [entry.id for entry in registry.listing()] == ["tiny", "tiny+sql"]
    assert registry.entry("tiny").kind == "base"
    assert describe(registry, "tiny").modelfile.system == "S"
    assert (await make(registry, "m", parse("FROM tiny\nPARAMETER top_k 2"))).preset.system == "S"
    assert registry.add_base(base.path, "tiny") == base
    with pytest.raises(Conflict):
        copy(registry, "m", "tiny")
    registry.remove_base("tiny")
    assert [made.name for made in registry.made_models()] == ["m"]
    registry.add_base(base.path, "tiny")
    assert registry.resolve("tiny").preset.system is None


async def test_latest_is_another_way_to_write_a_name(registry: Registry, base: Base, add: Adder) -> None:
    sql = add(base, "sql")
    await make(registry, "m:latest", parse("FROM tiny:latest"))
    for name in ("m+sql", "m:latest+sql", "m+sql:latest", "tiny+sql:latest", "sql:latest"):
        assert registry.resolve(name).adapters == ((sql, 1.0),), name
    forget(registry, "m:latest")
    with pytest.raises(NotFound):
        forget(registry, "m")
    tagged = registry.add_base(write_base(base.path.with_name("x.gguf"), seed=4), "x:latest")
    assert registry.resolve("x").base == tagged
    other = registry.add_base(base.path.with_name("x.gguf"), "x")
    assert (registry.resolve("x").base, registry.resolve("x:latest").base) == (other, tagged)


async def test_a_record_survives_a_restart(registry: Registry, base: Base) -> None:
    made = await make(registry, "m", parse('FROM tiny\nSYSTEM "¿?"\nPARAMETER stop x\nPARAMETER num_ctx 9'))
    again = Registry.open(registry.home)
    assert again.made("m") == made
    assert again.resolve("m") == registry.resolve("m")
    again.close()

"""models.yaml: read when it changes, mistakes named by line, and who wins where several say something."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import UNSET

from llamaleon_server.registry.modelfile import Modelfile, parse
from llamaleon_server.registry.models import make
from llamaleon_server.registry.presets import Presets, PresetsError
from llamaleon_server.registry.records import Base
from llamaleon_server.registry.registry import Registry
from llamaleon_server.settings import EngineSettings

Write = Callable[[str], None]


@pytest.fixture
def write(registry: Registry) -> Write:
    """Write the file, at a time of its own."""
    seconds = 1_000_000

    def written(text: str) -> None:
        nonlocal seconds
        seconds += 1
        path = registry.home / "models.yaml"
        path.write_text(text, encoding="utf-8")
        os.utime(path, (seconds, seconds))

    return written


EVERYTHING = """\
"t*":
  kv_type_k: q8_0
  kv_type_v: q4_0
  flash_attention: yes
  threads: 3
  gpu_layers: 7
  rope_scaling: yarn
  rope_freq_base: 1e6
  rope_freq_scale: 0.25
  yarn_orig_ctx: 64
  split_mode: row
  tensor_split: [3, 1]
  main_gpu: 1
  prefix_ram_bytes: 2GiB
  keep_alive: 1h30m
  stop: [A, B]
tiny:
  context_tokens: 4096
  temperature: 0.5
  max_tokens: 12
  system: |
    Two
    lines
  keep_alive: -1
"""


def test_everything_that_can_be_said(registry: Registry, base: Base, write: Write) -> None:
    write(EVERYTHING)
    assert registry.engine_settings("tiny", EngineSettings(threads=1, batch_tokens=99)) == EngineSettings(
        batch_tokens=99,
        kv_type_k="q8_0",
        kv_type_v="q4_0",
        flash_attention=True,
        threads=3,
        gpu_layers=7,
        rope_scaling="yarn",
        rope_freq_base=1e6,
        rope_freq_scale=0.25,
        yarn_orig_ctx=64,
        split_mode="row",
        tensor_split=(3.0, 1.0),
        main_gpu=1,
        prefix_ram_bytes=2 << 30,
        context_tokens=4096,
    )
    assert registry.keep_alive("tiny") is None
    assert registry.keep_alive("tom") == 5400.0
    assert registry.keep_alive("other") is UNSET
    preset = registry.resolve("tiny").preset
    assert (preset.system, preset.max_tokens, preset.stop) == ("Two\nlines\n", 12, ("A", "B"))
    assert preset.wanted.temperature == 0.5


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("tiny:\n  context: 1", 2, "`context` is no option of a model. Did you mean context_tokens?"),
        ("tiny:\n  threads: 2\n  threads: 3", 3, "`threads` comes twice"),
        ("a:\n  threads: 2\na:\n  top_k: 3", 3, "`a` comes twice"),
        ("tiny:\n\n  context_tokens: many", 3, "`context_tokens`"),
        ("tiny:\n  context_tokens: 0", 2, "context_tokens must be at least 1"),
        ("tiny:\n  kv_type: q9", 2, "kv_type must be one of"),
        ("tiny:\n  memory_bytes: 5", 2, "`memory_bytes` is no option"),
        ("tiny:\n  keep_alive: soon", 2, "'soon' is no time"),
        ("tiny:\n  temperature: hot", 2, "temperature needs a number"),
        ("tiny:\n  tensor_split: [0, 0]", 2, "tensor_split must be shares"),
        ("tiny:\n  stop: [A, 3]", 2, "stop needs a text"),
        ("tiny:\n  system: 3", 2, "`system`"),
        ("tiny:\n  template: '{% if %}'", 2, "TEMPLATE is no Jinja template"),
        ("tiny:\n  adapter_ram_bytes: much", 2, "is no size"),
        ("tiny: 3", 1, "an option and a colon"),
        ("- tiny", 1, "a model's name and a colon"),
        ("tiny:\n  threads: [", 2, "this is not YAML"),
        ("tiny:\n threads: 2\n  top_k: 3", 3, "this is not YAML"),
        ("? [a]\n: b", 1, "this is no name"),
        ("tiny:\n  threads: !!python/object:os.system x", 2, "could not determine a constructor"),
    ],
)
def test_a_mistake_is_named_by_its_line(tmp_path: Path, text: str, line: int, problem: str) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(text)
    with pytest.raises(PresetsError) as caught:
        Presets(path).check()
    assert caught.value.message.startswith(f"{path}, line {line}: "), caught.value.message
    assert problem in caught.value.message


def test_what_it_said_holds_while_there_is_a_mistake(registry: Registry, base: Base, write: Write) -> None:
    def threads() -> int | None:
        return registry.engine_settings("tiny", EngineSettings()).threads

    assert threads() is None
    write("tiny:\n  threads: 2\n")
    assert threads() == 2
    write("tiny:\n  threads: two\n")
    assert threads() == 2
    assert registry.presets.problem is not None
    write("tiny:\n  threads: 4\n")
    assert threads() == 4
    assert str(registry.presets.problem) == "None"
    (registry.home / "models.yaml").unlink()
    assert threads() is None
    write("")
    assert threads() is None


async def test_who_wins(registry: Registry, base: Base, write: Write) -> None:
    """Flags, patterns in their order, what was made, the name itself."""
    default = EngineSettings(threads=1, kv_type="f32", batch_tokens=64)
    write("'*':\n  threads: 2\n  kv_type: q8_0\n  temperature: 0.1\n  top_k: 1\n't*':\n  temperature: 0.2\n")
    await make(registry, "mario", parse("FROM tiny\nPARAMETER num_thread 5\nPARAMETER top_k 7\n"))
    settings = registry.engine_settings("tiny", default)
    assert (settings.threads, settings.kv_type, settings.batch_tokens) == (5, "q8_0", 64)
    tiny, mario = (registry.resolve(name).preset.wanted for name in ("tiny", "mario"))
    assert (tiny.temperature, tiny.top_k) == (0.2, 1)
    assert (mario.temperature, mario.top_k) == (0.1, 7)
    write("tiny:\n  threads: 3\n  temperature: 0.3\nmario:\n  top_k: 9\n'*':\n  threads: 2\n  top_k: 1\n")
    assert registry.engine_settings("tiny", default).threads == 3
    assert registry.resolve("tiny").preset.wanted.temperature == 0.3
    assert registry.resolve("mario").preset.wanted.top_k == 9
    assert registry.resolve("mario").preset.wanted.temperature is None


async def test_the_largest_context_that_anybody_wants_is_loaded(
    registry: Registry, base: Base, write: Write
) -> None:
    def context(context_tokens: int | None = None) -> tuple[int | None, int]:
        settings = registry.engine_settings("tiny", EngineSettings(context_tokens=context_tokens))
        return settings.context_tokens, settings.least_context_tokens

    for name, tokens in (("small", 100), ("large", 900), ("medium", 500)):
        await make(registry, name, Modelfile(from_="tiny", parameters=(("num_ctx", tokens),)))
    assert context() == (None, 900), "automatic, but no less"
    assert context(context_tokens=600) == (600, 900)
    assert registry.resolve("small").preset.context_tokens == 100, "who asked for less gets less"
    write("large:\n  context_tokens: 1200\n")
    assert context() == (None, 1200)
    write("tiny:\n  context_tokens: 300\n")
    assert context() == (300, 0), "the base's own name has the last word"

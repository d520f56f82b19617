"""Which quantisation is taken: the rule of `quants.py`, on lists as real repositories have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamaleon_server.errors import BadRequest, NotFound
from llamaleon_server.hub.machine import Machine, measured
from llamaleon_server.hub.quants import RepoFile, choose, named, projector_of, quant_of, variants_of

GB = 10**9
# Of an 8 B model.
SIZES = {
    "Q2_K": 3.2,
    "IQ3_M": 3.8,
    "Q3_K_M": 4.0,
    "IQ4_XS": 4.5,
    "Q4_K_M": 4.9,
    "Q5_K_M": 5.7,
    "Q8_0": 8.5,
    "F16": 16.1,
}


def repo(*quants: str) -> list[RepoFile]:
    return [RepoFile(path=f"m-{quant}.gguf", size=int(SIZES[quant] * GB)) for quant in quants or SIZES]


@pytest.mark.parametrize(
    ("ram", "gpu", "offered", "taken", "fit"),
    [
        (64, 0, (), "Q4_K_M", "ram"),
        (64, 24, (), "Q4_K_M", "gpu"),
        (6, 0, (), "Q4_K_M", "ram"),
        (5.5, 0, (), "IQ4_XS", "ram"),
        (5, 0, (), "Q3_K_M", "ram"),
        (4, 0, (), "Q2_K", "ram"),
        (16, 5.5, (), "IQ4_XS", "gpu"),  # on the GPU alone rather than Q4_K_M in two places
        (16, 4, (), "Q4_K_M", "ram"),  # Q2_K would fit the GPU, at too high a price
        (64, 0, ("Q2_K", "Q5_K_M", "Q8_0"), "Q5_K_M", "ram"),
        (64, 0, ("Q2_K", "IQ3_M", "Q3_K_M"), "Q3_K_M", "ram"),
        (64, 0, ("F16",), "F16", "ram"),
    ],
)
def test_the_rule(ram: float, gpu: float, offered: tuple[str, ...], taken: str, fit: str) -> None:
    machine = Machine(ram_bytes=int(ram * GB), gpu_bytes=int(gpu * GB))
    choice = choose(variants_of(repo(*offered)), machine)
    assert (choice.variant.quant, choice.fit) == (taken, fit)
    assert taken in choice.why


def test_when_nothing_fits_everything_is_listed() -> None:
    with pytest.raises(BadRequest, match=r"Q2_K \(3\.2 GB\).* F16 \(16\.1 GB\).*OWNER/REPO:"):
        choose(variants_of(repo()), Machine(ram_bytes=GB))


@pytest.mark.parametrize(
    ("path", "quant"),
    [
        ("Llama-3.2-1B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("qwen2.5-0.5b-instruct-q4_k_m.gguf", "Q4_K_M"),
        ("tinyllama-1.1b-chat-v1.0.Q8_0.gguf", "Q8_0"),
        ("Q8_0/model-00001-of-00002.gguf", "Q8_0"),
        ("BF16/m-BF16-00001-of-00002.gguf", "BF16"),
        ("m-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("m-IQ2_XXS.gguf", "IQ2_XXS"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("stories260K-f32.gguf", "F32"),
        ("m.fp16.gguf", "F16"),
        ("ggml-model.gguf", ""),
        ("qwen3-4b.gguf", ""),
    ],
)
def test_what_a_file_is_called(path: str, quant: str) -> None:
    assert quant_of(path) == quant


def test_parts_are_one_model_and_helpers_are_none() -> None:
    names = [
        "m-Q8_0-00002-of-00002.gguf",
        "m-Q8_0-00001-of-00002.gguf",
        "m-Q4_0.gguf",
        "mmproj-F16.gguf",
        "imatrix.gguf",
    ]
    [small, large] = variants_of([RepoFile(path=name, size=10) for name in names])
    assert (small.path, small.bytes) == ("m-Q4_0.gguf", 10)
    assert [file.path for file in large.files] == names[1::-1]
    assert large.bytes == 20


def test_a_missing_part_matters_only_to_who_wants_it() -> None:
    files = [RepoFile(path=f"m-Q4_K_M-0000{number}-of-00003.gguf", size=10) for number in (1, 3)]
    variants = variants_of([*files, RepoFile(path="m-Q8_0.gguf", size=40)])
    machine = Machine(ram_bytes=GB)
    assert choose(variants, machine).variant.quant == "Q8_0"
    with pytest.raises(NotFound, match=r"m-Q4_K_M-00002-of-00003\.gguf"):
        named(variants, "Q4_K_M", machine)
    with pytest.raises(NotFound, match=r"m-Q4_K_M-00002-of-00003\.gguf"):
        choose(variants[:1], machine)


def test_several_models_of_one_quantisation_must_be_named() -> None:
    variants = variants_of([RepoFile(path=f"{name}-Q8_0.gguf", size=10) for name in ("a", "b")])
    with pytest.raises(BadRequest, match=r"a-Q8_0\.gguf, b-Q8_0\.gguf"):
        named(variants, "Q8_0", Machine(ram_bytes=GB))


@pytest.mark.parametrize(
    ("files", "taken"),
    [
        (["mmproj-F32.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf"], "mmproj-F16.gguf"),
        (["mmproj-model-bf16.gguf", "mmproj-Q8_0.gguf"], "mmproj-model-bf16.gguf"),
        (["other/mmproj-F16.gguf"], None),
        ([], None),
    ],
)
def test_the_projector_of_a_vision_model(files: list[str], taken: str | None) -> None:
    found = [RepoFile(path=path, size=1) for path in [*files, "m-Q4_K_M.gguf"]]
    projector = projector_of(found, variants_of(found)[0])
    assert (projector.path if projector else None) == taken


def test_this_machine() -> None:
    here = measured()
    assert 0 < here.ram_bytes < 1 << 50
    assert here.gpu_bytes >= 0


def test_what_nvidia_smi_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for said, gpu_bytes in (("8000\n16000", 24000 << 20), ("No devices were found", 0)):
        command.write_text(f"#!/bin/sh\necho '{said}'\n")
        command.chmod(0o755)
        assert measured().gpu_bytes == gpu_bytes


def test_a_container_has_less_than_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamaleon_server.hub.machine.CGROUP", tmp_path)
    unlimited = measured().ram_bytes
    for name, text in (
        ("memory.max", "1000000"),
        ("memory.current", "700000"),
        ("memory.stat", "inactive_file 1000\n"),
    ):
        (tmp_path / name).write_text(text)
    assert measured().ram_bytes == 301_000
    (tmp_path / "memory.max").write_text("max\n")
    assert measured().ram_bytes == pytest.approx(unlimited, rel=0.5)

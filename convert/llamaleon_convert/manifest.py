"""What travels with every adapter, and how a base is recognised."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from msgspec import Struct

from llamaleon_convert.errors import ConvertError, Refused
from llamaleon_convert.header import Header, TensorInfo, read_header

SAMPLE_BYTES = 4096  # of every tensor's beginning, for the fingerprint
EMBEDDED_PREFIX = "llamaleon.base."  # keys of the fingerprint inside a GGUF LoRA
TOKENIZER_KEYS = ("model", "pre", "tokens", "scores", "merges")


class BaseFingerprint(Struct, frozen=True, kw_only=True):
    """What must agree between the base an adapter was made for and the base that serves it.

    Cheap to compute on a 40 GB file: `weights_sha256` covers the tensor table (names, shapes, types) and
    the first 4 KiB of every tensor, not every byte. `quantisation_sha256` covers the types alone and
    `vectors_sha256` the one-dimensional tensors alone (norms, biases), which no quantisation touches: the
    two tell another quantisation of the same model, which may serve the adapter, from another model.
    """

    architecture: str
    embedding_length: int
    block_count: int
    vocab_size: int
    tokenizer_sha256: str
    chat_template_sha256: str | None
    weights_sha256: str
    quantisation_sha256: str = ""
    vectors_sha256: str = ""


class Manifest(Struct, kw_only=True, omit_defaults=True):
    """`manifest.json` beside `adapter.gguf`. `base` is None for adapters of unknown origin."""

    format: int = 1
    sha256: str  # of adapter.gguf: the engine's adapter key
    architecture: str
    rank: int  # the largest
    alpha: float  # GGUF scalar
    target_tensors: list[str]
    base: BaseFingerprint | None = None
    base_name: str | None = None
    source: str = ""  # "trained", "peft", "gguf"
    training: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}


def read_manifest(path: Path) -> Manifest:
    return msgspec.json.decode(path.read_bytes(), type=Manifest)


def sha256_file(path: Path | str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path | str) -> BaseFingerprint:
    """Fingerprint of the base model at `path`. Raises: ConvertError if it is not a readable GGUF model."""
    return fingerprint_of(read_header(path))


def fingerprint_of(header: Header) -> BaseFingerprint:
    if header.kind == "adapter":
        raise Refused(f"{header.path}: an adapter, not a base model.")
    if not header.architecture:
        raise ConvertError(f"{header.path}: no `general.architecture`: this GGUF is not a language model.")
    template = header.chat_template
    tensors = sorted(header.tensors.values(), key=lambda tensor: tensor.name)
    vectors = [tensor for tensor in tensors if len(tensor.shape) == 1]
    return BaseFingerprint(
        architecture=header.architecture,
        embedding_length=header.embedding_length,
        block_count=header.block_count,
        vocab_size=header.vocab_size,
        tokenizer_sha256=_sha256(header.raw(f"tokenizer.ggml.{key}") for key in TOKENIZER_KEYS),
        chat_template_sha256=None if template is None else _sha256([template.encode()]),
        weights_sha256=_weights_sha256(tensors),
        quantisation_sha256=_sha256(f"{tensor.name}:{tensor.type}".encode() for tensor in tensors),
        vectors_sha256=_weights_sha256(vectors),
    )


def differences(expected: BaseFingerprint, actual: BaseFingerprint) -> list[str]:
    """Fields in which the base at hand is not the base expected, each with both values; empty if it serves.

    Another quantisation of the same model is no difference.
    """
    fields = [
        "architecture",
        "embedding_length",
        "block_count",
        "vocab_size",
        "tokenizer_sha256",
        "chat_template_sha256",
    ]
    if expected.weights_sha256 != actual.weights_sha256 and not _another_quantisation(expected, actual):
        fields.append("weights_sha256")
    return [
        f"{field}: expected {_short(getattr(expected, field))}, found {_short(getattr(actual, field))}"
        for field in fields
        if getattr(expected, field) != getattr(actual, field)
    ]


def manifest_of(path: Path | str, *, sha256: str | None = None) -> Manifest:
    """Manifest of a GGUF LoRA from the file alone; `base` is set if it was made by this package.

    Args:
        sha256: of the file, where it is known already.

    Raises: ConvertError if the file cannot be read; Refused if it is not a LoRA.
    """
    header = read_header(path)
    if header.kind != "adapter" or header.text("adapter.type") != "lora":
        raise Refused(
            f"{path}: not a LoRA adapter (general.type is {header.kind!r}, adapter.type "
            f"{header.text('adapter.type')!r}). A base model is added with `--base` or `--model`."
        )
    alpha = header.get("adapter.lora.alpha")
    if not isinstance(alpha, float):
        raise Refused(f"{path}: key `adapter.lora.alpha` is missing: the file is not a complete GGUF LoRA.")
    ranks = {
        name.removesuffix(".lora_b"): tensor.shape[0]  # ggml's order: (rank, n_out)
        for name, tensor in header.tensors.items()
        if name.endswith(".lora_b") and tensor.shape
    }
    if not ranks:
        raise Refused(f"{path}: holds no LoRA tensors.")
    base = _embedded_base(header)
    return Manifest(
        sha256=sha256 or sha256_file(path),
        architecture=header.architecture,
        rank=max(ranks.values()),
        alpha=alpha,
        target_tensors=sorted(ranks),
        base=base,
        source=header.text("llamaleon.source") or "gguf",
    )


def _embedded_base(header: Header) -> BaseFingerprint | None:
    values = {field: header.get(EMBEDDED_PREFIX + field) for field in BaseFingerprint.__struct_fields__}
    if all(value is None for value in values.values()):
        return None
    try:
        return msgspec.convert(values, BaseFingerprint)
    except msgspec.ValidationError as error:
        raise Refused(f"{header.path}: its `{EMBEDDED_PREFIX}*` keys are damaged: {error}.") from None


def _another_quantisation(expected: BaseFingerprint, actual: BaseFingerprint) -> bool:
    known = expected.vectors_sha256 and expected.quantisation_sha256
    return (
        bool(known)
        and expected.quantisation_sha256 != actual.quantisation_sha256
        and expected.vectors_sha256 == actual.vectors_sha256
    )


def _weights_sha256(tensors: Iterable[TensorInfo]) -> str:
    """The same whether the model lies in one file or in parts."""
    digest = hashlib.sha256()
    with ExitStack() as stack:
        files: dict[Path, BinaryIO] = {}
        for tensor in tensors:
            if tensor.file not in files:
                files[tensor.file] = stack.enter_context(tensor.file.open("rb", buffering=0))
            digest.update(f"{tensor.name}:{tensor.shape}:{tensor.type}\n".encode())
            files[tensor.file].seek(tensor.offset)
            digest.update(files[tensor.file].read(min(SAMPLE_BYTES, tensor.nbytes)))
    return digest.hexdigest()


def _sha256(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _short(value: object) -> str:
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else repr(value)

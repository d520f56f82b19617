"""Small real models for these tests: a GGUF as bytes, in one piece or in parts as `gguf-split` makes them."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
from tests.unit.server.registry.peft import WIDTH
from tests.unit.server.registry.small import write_base


def small_model(folder: Path, *, seed: int = 0, width: int = WIDTH, template: str | None = None) -> bytes:
    """What the registry can read and no engine must run."""
    folder.mkdir(parents=True, exist_ok=True)
    return write_base(folder / "small.gguf", seed=seed, width=width, template=template).read_bytes()


def projector(folder: Path, width: int = WIDTH) -> bytes:
    """The head of an mmproj file: enough to be recognised."""
    writer = gguf.GGUFWriter(folder / "mmproj.gguf", "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_uint32("clip.vision.projection_dim", width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return (folder / "mmproj.gguf").read_bytes()


def split(model: Path, folder: Path, stem: str, count: int) -> list[Path]:
    """The model in `count` parts, the first with all the metadata, tensors in their order.

    Source: llama.cpp, tools/gguf-split/gguf-split.cpp
    """
    reader = gguf.GGUFReader(model)
    every = -(-len(reader.tensors) // count)
    paths = []
    for number in range(count):
        path = folder / f"{stem}-{number + 1:05d}-of-{count:05d}.gguf"
        tensors = reader.tensors[number * every : (number + 1) * every]
        keys = _metadata(model) if number == 0 else []
        keys += [
            _key("split.no", gguf.GGUFValueType.UINT16, struct.pack("<H", number)),
            _key("split.count", gguf.GGUFValueType.UINT16, struct.pack("<H", count)),
            _key("split.tensors.count", gguf.GGUFValueType.INT32, struct.pack("<i", len(reader.tensors))),
        ]
        path.write_bytes(_file(keys, tensors))
        paths.append(path)
    return paths


def _metadata(model: Path) -> list[bytes]:
    """Every key of the file as its bytes."""
    found = []
    for name, one in gguf.GGUFReader(model).fields.items():
        if not name.startswith("GGUF."):
            found.append(b"".join(np.asarray(part).tobytes() for part in one.parts))
    return found


def _key(name: str, kind: gguf.GGUFValueType, value: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + value


def _file(keys: list[bytes], tensors: list[gguf.ReaderTensor]) -> bytes:
    table, data = b"", b""
    for tensor in tensors:
        shape = [int(extent) for extent in tensor.shape]
        name = struct.pack("<Q", len(tensor.name)) + tensor.name.encode()
        table += name + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        table += struct.pack("<IQ", tensor.tensor_type, len(data))
        raw = np.ascontiguousarray(tensor.data).tobytes()
        data += raw + bytes(-len(raw) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys) + table
    return head + bytes(-len(head) % 32) + data

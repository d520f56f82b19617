"""GGUF tensors, dequantised into the parameters of a transformers model: all of them, or not at all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import gguf
import numpy as np
import torch
from gguf.quants import dequantize

from llamaleon_convert.header import Header, TensorInfo

from ..errors import BaseUnsupported
from .config import Family

PIECE_ELEMENTS = 1 << 22  # dequantised at once: numpy's temporaries stay at some tens of MB
ROPE_FACTORS = ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")


def read_tensor(info: TensorInfo, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """One tensor, dequantised, in row-major order: (n_out, n_in) of a linear layer.

    Raises:
        BaseUnsupported: a quantisation that gguf-py cannot undo.
    """
    shape = info.shape[::-1]
    result = torch.empty(shape, dtype=dtype)
    rows = np.fromfile(info.file, np.uint8, count=info.nbytes, offset=info.offset).reshape(
        -1, info.nbytes // _rows(info)
    )
    flat = result.view(len(rows), info.shape[0])
    step = max(1, PIECE_ELEMENTS // info.shape[0])
    kind = gguf.GGMLQuantizationType[info.type]

    def piece(start: int) -> None:
        values = dequantize(rows[start : start + step], kind)
        flat[start : start + step] = torch.from_numpy(np.ascontiguousarray(values))

    try:
        if len(rows) <= step:
            piece(0)
        else:  # numpy releases the interpreter's lock
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                list(pool.map(piece, range(0, len(rows), step)))
    except NotImplementedError as error:
        raise BaseUnsupported(
            f"tensor {info.name} is {info.type}, which gguf cannot dequantise; use another quantisation"
        ) from error
    return result


def fill(
    model: torch.nn.Module, header: Header, family: Family, dtype: torch.dtype, device: torch.device
) -> None:
    """Give every parameter of the model its tensor. Parameters that share storage (tied) are filled once.

    Raises:
        BaseUnsupported: a parameter without a tensor, a tensor without a parameter, or shapes that differ.
    """
    names = gguf.get_tensor_name_map(_architecture(header.architecture), header.block_count)
    unused = set(header.tensors) - set(ROPE_FACTORS)
    for parameter_name, parameter in model.named_parameters():
        name = names.get_name(parameter_name, try_suffixes=(".weight", ".bias"))
        info = header.tensors.get(name or "")
        if info is None:
            raise BaseUnsupported(
                f"the GGUF has no tensor for the model's {parameter_name} (expected {name})"
            )
        # Norms are small and sensitive, and undoing an offset in 16 bits would round them.
        tensor = _as_stored_by_transformers(read_tensor(info), info.name, header, family)
        if tensor.shape != parameter.shape:
            raise BaseUnsupported(
                f"tensor {info.name} has shape {tuple(tensor.shape)}, but {parameter_name} needs "
                f"{tuple(parameter.shape)}"
            )
        parameter.data = tensor.to(device, dtype)
        unused.discard(info.name)
    if unused:
        raise BaseUnsupported(
            f"the GGUF has tensors that the {family.model_type} model has no place for: "
            f"{', '.join(sorted(unused)[:5])}{' ...' if len(unused) > 5 else ''}"
        )


def _as_stored_by_transformers(
    tensor: torch.Tensor, name: str, header: Header, family: Family
) -> torch.Tensor:
    part = name.split(".")[-2]
    if family.permuted and part in ("attn_q", "attn_k"):
        key = "attention.head_count_kv" if part == "attn_k" else "attention.head_count"
        heads = header.model_value(key) or header.model_value("attention.head_count")
        return _unpermute(tensor, int(heads[0] if isinstance(heads, list) else heads))  # type: ignore[arg-type]
    if family.norm_offset and part.endswith("norm"):
        return tensor - family.norm_offset
    if part in family.transposed and tensor.ndim == 2:
        return tensor.T.contiguous()
    return tensor


def _unpermute(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows from llama.cpp's interleaved pairs (0, d/2, 1, d/2+1, ...) back to two halves, in each head.

    Source: llama.cpp convert_hf_to_gguf.py, LlamaModel.permute (the inverse).
    """
    shape = tensor.shape
    pairs = tensor.reshape(heads, shape[0] // heads // 2, 2, *shape[1:])
    return pairs.transpose(1, 2).reshape(shape)


def _rows(info: TensorInfo) -> int:
    rows = 1
    for extent in info.shape[1:]:
        rows *= extent
    return rows


def _architecture(name: str) -> gguf.MODEL_ARCH:
    return next(arch for arch, known in gguf.MODEL_ARCH_NAMES.items() if known == name)

"""Which layers of a base get a LoRA, and whether it can be served: decided before a weight is read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from llamaleon_convert import expressible
from llamaleon_convert.errors import ConvertError
from llamaleon_convert.header import Header, read_header

from .errors import BadJob, BaseUnsupported
from .job import JobSpec

FIELD = "`lora.target_modules`"
SHOWN = 3  # of several refused modules


class Targets(NamedTuple):
    """peft's `target_modules` and `target_parameters` (fused experts), as suffixes of their names."""

    modules: list[str]
    parameters: list[str]


def check(spec: JobSpec) -> Targets | None:
    """What the job will train, from the header of its GGUF alone. None for a Hugging Face directory.

    Raises:
        BadJob: a target that is not there, or that no GGUF LoRA can express, with the reason.
        BaseUnsupported: the base cannot be loaded for training.
    """
    path = Path(spec.base)
    if path.is_dir():
        return None
    try:
        header = read_header(path)
    except ConvertError as error:
        raise BaseUnsupported(str(error)) from error
    from .base.load import skeleton  # torch and transformers: seconds

    targets = choose(skeleton(header), header, spec)
    if targets.parameters and spec.base_weights in ("gguf", "nf4"):
        raise BadJob(
            f"{FIELD} names experts ({', '.join(targets.parameters)}), which `base_weights` "
            f"{spec.base_weights} cannot train; use full"
        )
    return targets


def checked_base_weights(spec: JobSpec) -> str:
    """What `base_weights` the job's targets need, once they are checked. Raises: as `check`."""
    targets = check(spec)
    return "full" if targets and targets.parameters else spec.base_weights  # peft adapts no packed experts


def choose(model: Any, header: Header | None, spec: JobSpec) -> Targets:
    """Resolve "auto", "all-linear" or names to layers of `model`, whose weights may lie on `meta`.

    "auto" is every linear layer that a GGUF LoRA can express, "all-linear" every one there is; neither takes
    the output head. A name stands for all modules whose path ends with it, or else for parameters.

    Args:
        header: of the GGUF that will serve; None where it is not known: then only what is tied is refused.

    Raises:
        BadJob.
    """
    wanted, linear = spec.lora.target_modules, _linear(model)
    if wanted == "all-linear":
        _refuse(_reasons(model, header, linear))
        return Targets(_suffixes(model, linear), [])
    if wanted == "auto":
        reasons = _reasons(model, header, linear)
        chosen = [name for name in linear if name not in reasons]
        if not chosen:
            _refuse(reasons)
            raise BadJob(f"{FIELD} is auto, but this base has no linear layer")
        return Targets(_suffixes(model, chosen), [])
    modules: list[str] = []
    parameters: list[str] = []
    for name in [wanted] if isinstance(wanted, str) else wanted:
        found = _ending(name, (path for path, module in model.named_modules() if _adaptable(module)))
        own = [] if found else _ending(name, (path for path, _ in model.named_parameters()))
        if not found and not own:
            raise _unknown(model, name, linear)
        _refuse(_reasons(model, header, [*found, *own]))
        modules += [name] if found else []
        parameters += [name] if own else []
    return Targets(modules, parameters)


def _unknown(model: Any, name: str, linear: list[str]) -> BadJob:
    has = f"It has {', '.join(sorted({path.rsplit('.', 1)[-1] for path in linear}))}."
    for path, module in model.named_modules():
        if _ending(name, [path]):
            return BadJob(
                f"{FIELD} names {name!r}, which is no linear layer but a {type(module).__name__}. {has}"
            )
    return BadJob(f"{FIELD} names {name!r}, which this base has not. {has}")


def _linear(model: Any) -> list[str]:
    head = model.get_output_embeddings()
    return [
        path
        for path, module in model.named_modules()
        if _adaptable(module) and module is not head and not hasattr(module, "num_embeddings")
    ]


def _adaptable(module: Any) -> bool:
    """A linear layer (GPT-2's Conv1D included) or an embedding."""
    from torch import nn

    return isinstance(module, nn.Linear | nn.Embedding) or type(module).__name__ == "Conv1D"


def _reasons(model: Any, header: Header | None, names: list[str]) -> dict[str, str]:
    if header is not None:
        return expressible(header, names)
    if not model.config.tie_word_embeddings:
        return {}
    shared = (model.get_input_embeddings(), model.get_output_embeddings())
    tied = {path for path, module in model.named_modules() if any(module is one for one in shared)}
    reason = (
        "this base shares one matrix between its embedding and its output head, which llama.cpp cannot adapt"
    )
    return {name: f"{name}: {reason}" for name in names if name in tied}


def _refuse(reasons: dict[str, str]) -> None:
    if reasons:
        shown = "; ".join(list(reasons.values())[:SHOWN])
        more = f" (and {len(reasons) - SHOWN} more)" if len(reasons) > SHOWN else ""
        raise BadJob(f"{FIELD}: {shown}{more}")


def _ending(name: str, paths: Iterable[str]) -> list[str]:
    return [path for path in paths if path == name or path.endswith(f".{name}")]


def _suffixes(model: Any, chosen: list[str]) -> list[str]:
    """The last part of each path where that names nothing else, so that adapter_config.json stays short."""
    kept = set(chosen)
    last = [path.rsplit(".", 1)[-1] for path in chosen]
    paths = [path for path, module in model.named_modules() if _adaptable(module)]
    ambiguous = {path.rsplit(".", 1)[-1] for path in paths if path not in kept}
    found = [path if part in ambiguous else part for path, part in zip(chosen, last, strict=True)]
    return list(dict.fromkeys(found))

"""The model card of an adapter: a README.md with the metadata that the Hugging Face hub reads. Pure.

Source of the metadata: https://huggingface.co/docs/hub/model-cards
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from llamaleon_convert.manifest import Manifest

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
NOT_SHOWN = {"job", "training_file", "base_model_name_or_path"}  # names that mean nothing elsewhere
PARTS = ("base", "few_shot", "adapter")


class Card(Struct, frozen=True, kw_only=True):
    """What a card is made of. `rows`: trained on and held out, where that is known."""

    name: str  # of the adapter
    repo: str  # OWNER/NAME
    base: str  # as it is called here
    base_model: str | None  # its id on the hub
    manifest: Manifest
    files: Sequence[str]
    license: str | None = None
    rows: Mapping[str, int] = {}


def hub_id(name: str) -> str | None:
    """OWNER/NAME of a base as `pull` names it: without its quantisation.

    >>> hub_id("bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M")
    'bartowski/Llama-3.2-1B-Instruct-GGUF'
    >>> hub_id("nano") is None
    True
    """
    repo = name.partition(":")[0]
    return repo if _REPOSITORY.fullmatch(repo) else None


def rendered(card: Card) -> str:
    """The whole README.md."""
    parts = [_metadata(card), f"# {card.name}\n", _summary(card)]
    parts += [_training(card), _evaluation(card.manifest.evaluation), _usage(card)]
    return "\n".join(part for part in parts if part)


def _metadata(card: Card) -> str:
    import yaml

    has_peft = any(name.endswith(".safetensors") for name in card.files)
    fields: dict[str, Any] = {
        "base_model": card.base_model,
        "base_model_relation": "adapter" if card.base_model else None,
        "library_name": "peft" if has_peft else "llama.cpp",
        "pipeline_tag": "text-generation",
        "license": card.license,
        "tags": [
            "lora",
            "llamaleon",
            *(["gguf"] if any(name.endswith(".gguf") for name in card.files) else []),
        ],
    }
    present = {key: value for key, value in fields.items() if value is not None}
    return f"---\n{yaml.safe_dump(present, sort_keys=False, allow_unicode=True)}---\n"


def _summary(card: Card) -> str:
    manifest = card.manifest
    base = f"[{card.base_model}](https://huggingface.co/{card.base_model})" if card.base_model else card.base
    made = f"It holds {len(manifest.target_tensors)} pairs of matrices of rank {manifest.rank} at most."
    weights = ""
    if manifest.base is not None:
        weights = (
            f" The base was a GGUF of the architecture `{manifest.base.architecture}` with "
            f"{manifest.base.block_count} layers and a vocabulary of {manifest.base.vocab_size:,} tokens."
        )
    return f"A LoRA adapter of {base}. {made}{weights}\n"


def _training(card: Card) -> str:
    training = {key: value for key, value in card.manifest.training.items() if key not in NOT_SHOWN}
    if not training and not card.rows:
        return ""
    lines = ["## Training\n"]
    if card.rows:
        shown = [f"{count:,} rows {what}" for what, count in card.rows.items()]
        lines.append(" and ".join(shown) + ".\n")
    if training:
        lines += ["| hyperparameter | value |", "|---|---|"]
        lines += [f"| `{key}` | {_value(value)} |" for key, value in training.items()]
        lines.append("")
    return "\n".join(lines)


def _evaluation(evaluation: Mapping[str, Any]) -> str:
    metrics: Mapping[str, Any] = evaluation.get("metrics") or _flat_metrics(evaluation)
    shown = [part for part in PARTS if any(part in one["figures"] for one in metrics.values())]
    if not shown:
        return ""
    lines = [
        "## Evaluation\n",
        f"On {evaluation.get('rows', 'the')} rows that were held out, through the served adapter. In "
        "brackets: the 95 % interval.\n",
        "| metric | " + " | ".join(part.replace("_", "-") for part in shown) + " |",
        "|---|" + "---|" * len(shown),
    ]
    for name, metric in metrics.items():
        cells = [_figure(metric["figures"].get(part)) for part in shown]
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")
    parity = evaluation.get("parity") or {}
    if "mean_kl" in parity:
        lines.append(
            f"\nThe served adapter computes what was trained: mean KL {parity['mean_kl']:.2g} nats per token."
        )
    return "\n".join(lines) + "\n"


def _flat_metrics(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Of an adapter that was evaluated before intervals were computed."""
    found: dict[str, Any] = {}
    for part in PARTS:
        for name, value in (evaluation.get(part) or {}).items():
            if isinstance(value, float):
                found.setdefault(name, {"figures": {}})["figures"][part] = {"value": value}
    return found


def _figure(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return "-"
    text = f"{figure['value']:.4g}"
    if figure.get("low") is not None and figure.get("high") is not None:
        text += f" [{figure['low']:.4g}, {figure['high']:.4g}]"
    return text


def _usage(card: Card) -> str:
    gguf = next((name for name in card.files if name.endswith(".gguf")), None)
    base = card.base_model or card.base
    lines = [
        "## Use\n",
        "With Llamaleon, on a GGUF of the base model:\n",
        "```",
        f"llamaleon add {card.name} hf:{card.repo} --base BASE",
        f"llamaleon chat BASE+{card.name}",
        "```\n",
    ]
    if gguf is not None:
        lines += ["With llama.cpp:\n", "```", f"llama-server -m BASE.gguf --lora {gguf}", "```\n"]
    if any(name.endswith(".safetensors") for name in card.files) and card.base_model:
        lines += [
            "With transformers and peft:\n",
            "```python",
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM\n",
            f'model = AutoModelForCausalLM.from_pretrained("{base}")',
            f'model = PeftModel.from_pretrained(model, "{card.repo}")',
            "```\n",
        ]
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value).replace("|", "\\|")

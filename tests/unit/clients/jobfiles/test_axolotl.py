"""Axolotl's `config.yml` as it stands: honoured, named in a warning, or an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.data import REPOSITORY

from llamaleon_clients.errors import BadInput
from llamaleon_clients.jobfiles import axolotl
from llamaleon_clients.jobfiles.loading import load

# As Axolotl's own examples are written (examples/llama-3/qlora.yml), with the customer's keys.
CONFIG = """
base_model: NousResearch/Meta-Llama-3-8B
# optionally might have model_type or tokenizer_type
model_type: LlamaForCausalLM
tokenizer_type: AutoTokenizer
# Automatically upload checkpoint and final model to HF
# hub_model_id: username/custom_model_name

load_in_8bit: false
load_in_4bit: true
strict: false

datasets:
  - path: datos.jsonl
    type: alpaca
dataset_prepared_path:
val_set_size: 0.05
output_dir: ./outputs/qlora-out

adapter: qlora
lora_model_dir:

sequence_len: 4096
sample_packing: true
pad_to_sequence_len: true

lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_modules:
  - q_proj
  - v_proj
lora_fan_in_fan_out:

wandb_project:
wandb_entity:
wandb_watch:
wandb_name:
wandb_log_model:

gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 4
optimizer: adamw_8bit
lr_scheduler: cosine
learning_rate: 2e-4

train_on_inputs: false
group_by_length: false
bf16: auto
fp16:
tf32: false

gradient_checkpointing: true
early_stopping_patience:
resume_from_checkpoint:
local_rank:
logging_steps: 1
xformers_attention:
flash_attention: true

warmup_steps: 10
evals_per_epoch: 4
saves_per_epoch: 1
debug:
deepspeed:
weight_decay: 0.0
fsdp:
fsdp_config:
special_tokens:
  pad_token: "<|end_of_text|>"
"""
ROWS = [
    {"instruction": "¿Capital?", "input": "España", "output": "Madrid"},
    {"instruction": "a", "output": "b"},
]


def read(folder: Path, text: str, rows: Any = ROWS) -> tuple[dict[str, Any], list[str]]:
    (folder / "datos.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    path = folder / "config.yml"
    path.write_text(text, encoding="utf-8")
    return axolotl.settings_of(load(path))


def minimal(**more: Any) -> str:
    """A config with what every job needs, and `more`; a None takes a key away."""
    config: dict[str, Any] = {
        "base_model": "nano",
        "adapter": "lora",
        "datasets": [{"path": "datos.jsonl", "type": "alpaca"}],
        **more,
    }
    return str(yaml.safe_dump({key: value for key, value in config.items() if value is not None}))


def test_a_config_as_it_stands(tmp_path: Path) -> None:
    settings, warnings = read(tmp_path, CONFIG)
    assert settings == {
        "base": "NousResearch/Meta-Llama-3-8B",
        "data": str(tmp_path / "datos.jsonl"),
        "name": "qlora-out",
        "base_weights": "nf4",
        "held_out_fraction": 0.05,
        "max_sequence_tokens": 4096,
        "packing": True,
        "lora_r": 32,
        "lora_alpha": 16,
        "lora_dropout": 0.05,
        "lora_target_modules": ["q_proj", "v_proj"],
        "batch_size": 8,
        "micro_batch_size": 2,
        "n_epochs": 4,
        "optimizer": "adamw_8bit",
        "lr_scheduler": "cosine",
        "learning_rate": 0.0002,
        "group_by_length": False,
        "precision": "auto",
        "tf32": False,
        "gradient_checkpointing": True,
        "weight_decay": 0.0,
    }
    named = [warning.partition("`")[2].partition("`")[0] for warning in warnings]
    assert named == [
        "model_type",
        "tokenizer_type",
        "output_dir",
        "pad_to_sequence_len",
        "logging_steps",
        "flash_attention",
        "evals_per_epoch",
        "saves_per_epoch",
        "special_tokens",
        "warmup_steps",
    ]
    assert warnings[0] == "line 4: `model_type` is not honoured: the GGUF that is served decides it."


CUSTOMERS = """
base_model model_type tokenizer_type load_in_4bit strict datasets dataset_prepared_path val_set_size
adapter lora_r lora_alpha lora_dropout lora_target_modules sequence_len sample_packing
pad_to_sequence_len gradient_accumulation_steps micro_batch_size num_epochs optimizer lr_scheduler
learning_rate train_on_inputs group_by_length bf16 fp16 tf32 gradient_checkpointing flash_attention
output_dir
"""


@pytest.mark.parametrize("key", CUSTOMERS.split())
def test_every_key_of_the_customer_is_honoured_or_named(tmp_path: Path, key: str) -> None:
    """Each set to something: without it, the job or the warnings are others."""
    config = {
        **yaml.safe_load(CONFIG),
        "base_model": "other",
        "strict": True,
        "dataset_prepared_path": "last_run",
        "fp16": True,
        "train_on_inputs": True,
        "output_dir": "out",
    }
    with_key = read(tmp_path, yaml.safe_dump(config, sort_keys=False))
    del config[key]
    if key in ("base_model", "datasets", "adapter"):
        with pytest.raises(BadInput):
            read(tmp_path, yaml.safe_dump(config, sort_keys=False))
        return
    if key == "load_in_4bit":
        config["adapter"] = "lora"
    without = read(tmp_path, yaml.safe_dump(config, sort_keys=False))
    assert with_key[0] != without[0] or any(f"`{key}`" in warning for warning in with_key[1])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"lora_rr": 3}, "`lora_rr`: unknown; did you mean `lora_r`?"),
        ({"adapter": None}, "`base_model`: a full fine-tune is not done here"),
        ({"adapter": "llama-adapter"}, "`adapter`: a full fine-tune is not done here"),
        ({"rl": "orpo"}, "`rl`: of the preference methods only `dpo`"),
        ({"reward_model": True}, "`reward_model`: a reward model"),
        ({"datasets": None}, "`datasets` is missing"),
        ({"base_model": None}, "`base_model` is missing"),
        ({"datasets": [{"type": "alpaca"}]}, "`datasets[0]`: a data set needs a `path`"),
        ({"datasets": [{"path": "datos.jsonl", "tipe": "alpaca"}]}, "`datasets[0].tipe`: unknown"),
        (
            {"datasets": [{"path": "datos.jsonl", "type": "reflection"}]},
            "`datasets[0].type`: 'reflection' is not",
        ),
        ({"datasets": [{"path": "."}]}, "a folder; name its files"),
        ({"num_epochs": 0}, "`num_epochs`: a number above 0 is needed, not 0"),
        ({"val_set_size": "much"}, "`val_set_size`: a number from 0"),
        ({"micro_batch_size": "x"}, "`micro_batch_size`: a number above 0"),
        ({"num_epochs": float("inf")}, "`num_epochs`: a number above 0"),
        ({"adapter": ["lora"]}, "`adapter`: a full fine-tune"),
        (
            {"datasets": [{"path": "datos.jsonl", "type": "chat_template", "roles": ["user"]}]},
            "`datasets[0].roles`: a list of `key: value` lines is needed",
        ),
    ],
)
def test_errors_name_key_and_line(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as caught:
        read(tmp_path, minimal(**more))
    assert said in str(caught.value)
    if "is missing" not in said:
        assert "config.yml, line " in str(caught.value)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"adapter": "lora"}, {"base_weights": None}),
        ({"adapter": "lora", "load_in_4bit": True}, {"base_weights": "nf4"}),
        ({"lora_target_linear": True}, {"lora_target_modules": "all-linear"}),
        ({"lora_target_modules": "all-linear"}, {"lora_target_modules": "all-linear"}),
        ({"lora_target_modules": "q_proj"}, {"lora_target_modules": ["q_proj"]}),
        ({"micro_batch_size": 4}, {"batch_size": 4, "micro_batch_size": 4}),
        ({"batch_size": 16, "gradient_accumulation_steps": 4}, {"batch_size": 16, "micro_batch_size": 4}),
        ({"gradient_accumulation_steps": 3}, {"batch_size": 3, "micro_batch_size": 1}),
        ({"bf16": False}, {"precision": "float32"}),
        ({"bf16": True}, {"precision": "bfloat16"}),
        ({"float32": True, "bf16": False}, {"precision": "float32"}),
        ({"optimizer": "adamw_torch_fused"}, {"optimizer": "adamw"}),
        ({"optimizer": "paged_adamw_32bit"}, {"optimizer": "paged_adamw"}),
        ({"lr_scheduler": "constant_with_warmup"}, {"lr_scheduler": "constant"}),
        ({"warmup_steps": 10, "max_steps": 100}, {"warmup_fraction": 0.1, "max_steps": 100}),
        ({"warmup_ratio": 0.2, "warmup_steps": 10}, {"warmup_fraction": 0.2}),
        ({"num_epochs": 1.5}, {"n_epochs": 2}),
        ({"val_set_size": 1}, {"held_out_fraction": 0.5}),
        ({"eval_steps": 20, "save_steps": 50}, {"eval_every_steps": 20, "save_every_steps": 50}),
        ({"gradient_checkpointing": "unsloth"}, {"gradient_checkpointing": True}),
        ({"rl": "dpo", "rl_beta": 0.2}, {"method": "dpo", "beta": 0.2}),
        ({"use_tensorboard": True}, {"tensorboard": True}),
        (
            {"wandb_project": "p", "wandb_name": "n", "wandb_entity": "e"},
            {"wandb": {"project": "p", "name": "n", "entity": "e"}},
        ),
        ({"wandb_project": "p", "wandb_mode": "disabled"}, {"wandb": None}),
        (
            {"deepspeed": "zero2.json", "world_size": 2, "micro_batch_size": 3},
            {"processes": 2, "sharding": "deepspeed", "batch_size": 6},
        ),
        ({"early_stopping_patience": 3, "load_best_model_at_end": True}, {"load_best": True}),
        ({"peft_use_rslora": True, "neftune_noise_alpha": 5}, {"use_rslora": True, "neftune_noise_alpha": 5}),
        ({"output_dir": "./out/¿uno dos?/"}, {"name": "uno-dos-"}),
    ],
)
def test_what_keys_become(tmp_path: Path, more: dict[str, Any], expected: dict[str, Any]) -> None:
    dpo = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
    data = [{"path": "datos.jsonl", "type": "chat_template.default"}] if "rl" in more else None
    text = minimal(**more, **({"datasets": data} if data else {}))
    settings, _ = read(tmp_path, text, dpo if data else ROWS)
    assert {key: settings.get(key) for key in expected} == expected


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"lr_scheduler": "rex"}, "`lr_scheduler` is not honoured: rex is not among cosine"),
        ({"optimizer": "muon"}, "`optimizer` is not honoured: muon"),
        ({"peft_use_dora": True}, "`peft_use_dora` is not honoured: this trainer does not do it"),
        ({"train_on_inputs": True}, "`train_on_inputs` is not honoured: prompts are read"),
        ({"val_set_size": 0}, "`val_set_size` is not honoured: some rows are always held out"),
        ({"eval_steps": 0.1}, "`eval_steps` is not honoured: a share"),
        ({"fsdp": ["full_shard"]}, "`fsdp` is not honoured: one process trains"),
        ({"wandb_name": "x"}, "`wandb_name` is not honoured: without `wandb_project`"),
        ({"hub_model_id": "a/b"}, "`hub_model_id` is not honoured: the server keeps"),
        ({"num_epochs": 1.5}, "`num_epochs` is not honoured: epochs are whole; 2 are trained"),
        ({"datasets": [{"path": "datos.jsonl", "train_on_eos": "all"}]}, "`datasets[0].train_on_eos` is not"),
        ({"datasets": [{"path": "datos.jsonl", "split": "test"}]}, "`datasets[0].split` is not honoured"),
    ],
)
def test_what_is_not_honoured_is_named(tmp_path: Path, more: dict[str, Any], named: str) -> None:
    _, warnings = read(tmp_path, minimal(**more))
    assert len(warnings) == 1
    assert named in warnings[0]
    assert warnings[0].startswith("line ")


def test_the_document_names_every_honoured_key() -> None:
    page = (REPOSITORY / "docs" / "job-files.md").read_text(encoding="utf-8")
    for key in (*axolotl.RENAMED, *axolotl.HANDLERS, *axolotl.TOGETHER):
        assert f"`{key}`" in page, key

"""Olive's `finetune` flags: Olive's own and those of transformers."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from tests.data import REPOSITORY

from llamaleon_clients.errors import BadInput
from llamaleon_clients.jobfiles import olive
from llamaleon_clients.jobfiles.olive_flags import NOT_HONOURED


def read(line: str) -> tuple[dict[str, Any], list[str]]:
    return olive.settings_of(olive.parse(shlex.split(line)))


def test_the_command_of_olives_documentation() -> None:
    """As its page on fine-tuning has it, with the flags that the customer names beside."""
    settings, warnings = read(
        r"--method qlora --model_name_or_path meta-llama/Llama-3.2-1B-Instruct --trust_remote_code "
        r"--data_name xxyyzzz/phrase_classification --text_template "
        r"'<|start_header_id|>user<|end_header_id|>\n{phrase}<|eot_id|>\n{tone}' "
        r"--train_split train --eval_split 'train[:5%]' --max_steps 100 --per_device_train_batch_size 4 "
        r"--per_device_eval_batch_size 4 --gradient_accumulation_steps 2 --logging_steps 20 "
        r"--learning_rate 1e-4 --output_path models/llama/ft --log_level 1 --report_to tensorboard"
    )
    assert settings == {
        "base": "meta-llama/Llama-3.2-1B-Instruct",
        "base_weights": "nf4",
        "data": "hf:xxyyzzz/phrase_classification:train",
        "held_out_fraction": 0.05,
        "text_template": "<|start_header_id|>user<|end_header_id|>\n{phrase}<|eot_id|>\n{tone}",
        "max_steps": 100,
        "micro_batch_size": 4,
        "batch_size": 8,
        "learning_rate": 1e-4,
        "tensorboard": True,
        "name": "ft",
    }
    named = [warning.split()[0] for warning in warnings]
    assert named == ["--trust_remote_code", "--per_device_eval_batch_size", "--logging_steps", "--log_level"]


BASE = "-m nano -d rows.jsonl "


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", {"base": "nano", "data": "rows.jsonl", "name": "finetuned-adapter", "base_weights": None}),
        ("--lora_r 8 --lora_alpha 32", {"lora_r": 8, "lora_alpha": 32.0}),
        ("--lora-r=8", {"lora_r": 8}),
        ("--target_modules q_proj,v_proj", {"lora_target_modules": ["q_proj", "v_proj"]}),
        ("--target_modules all-linear", {"lora_target_modules": "all-linear"}),
        ("--text_field body", {"text_template": "{body}"}),
        ("--text_field text", {"text_template": None}),
        ("--max_seq_len 512", {"max_sequence_tokens": 512}),
        ("--batch_size 2", {"batch_size": 2, "micro_batch_size": 2}),
        ("--num_train_epochs 2", {"n_epochs": 2}),
        ("--max_steps -1", {"max_steps": None}),
        ("--warmup_ratio 0.03", {"warmup_fraction": 0.03}),
        ("--warmup_steps 0.03", {"warmup_fraction": 0.03}),
        ("--warmup_steps 5 --max_steps 50", {"warmup_fraction": 0.1}),
        ("--optim paged_adamw_8bit --lr_scheduler_type linear", {"optimizer": "paged_adamw_8bit"}),
        ("--torch_dtype float32", {"precision": "float32"}),
        ("--bf16", {"precision": "bfloat16"}),
        ("--bf16 False", {"precision": "float32"}),
        ("--gradient_checkpointing --seed 3", {"gradient_checkpointing": True, "seed": 3}),
        ("--eval_steps 10 --save_steps 20", {"eval_every_steps": 10, "save_every_steps": 20}),
        ("--report_to wandb --run_name r", {"wandb": {"project": "llamaleon", "name": "r"}}),
        (
            "--early_stopping_patience 2 --load_best_model_at_end",
            {"early_stopping_patience": 2, "load_best": True},
        ),
        ("--label_smoothing_factor 0.1 --neftune_noise_alpha 5", {"label_smoothing": 0.1}),
        ("-o a/b/mío", {"name": "m-o"}),
    ],
)
def test_what_flags_become(line: str, expected: dict[str, Any]) -> None:
    settings, warnings = read(BASE + line)
    assert {key: settings.get(key) for key in expected} == expected
    assert warnings == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (BASE + "--lora_rank 8", "--lora_rank: unknown; did you mean `lora_r"),
        (BASE + "word", "word: a flag of Olive's"),
        (BASE + "--lora_r", "--lora_r needs a value"),
        (BASE + "--lora_r --seed 1", "--lora_r needs a value"),
        (BASE + "--lora_r x", "--lora_r needs a whole number, not x"),
        (BASE + "--learning_rate x", "--learning_rate needs a number, not x"),
        (BASE + "--num_train_epochs nan", "--num_train_epochs needs a number, not nan"),
        (BASE + "--eval_steps inf", "--eval_steps needs a number, not inf"),
        (BASE + "--tf32=maybe", "--tf32 is true or false, not maybe"),
        (BASE + "--method full", "--method is lora or qlora, not full"),
        (BASE + "--text_field a --text_template '{b}'", "not both"),
        ("-d rows.jsonl", "--model_name_or_path is needed"),
        ("-m nano", "--data_name is needed"),
        ("-m nano -d a/b --data_files x.json", "--data_files goes with"),
    ],
)
def test_mistakes_name_the_flag(line: str, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        read(line)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("--fp16", "--fp16 is not honoured: the trainer decides it by itself."),
        ("--eval_split test", "--eval_split is not honoured: a file has no splits."),
        ("--optim lion", "--optim is not honoured: lion is not among"),
        ("--eval_steps 0.1", "--eval_steps is not honoured: a share of the steps"),
        ("--warmup_steps 5", "--warmup_steps is not honoured: how many steps"),
        ("--num_train_epochs 1.5", "--num_train_epochs is not honoured: epochs are whole; 2 are trained"),
        ("--report_to comet_ml", "--report_to is not honoured: comet_ml is not among tensorboard, wandb"),
        ("--torch_dtype float16", "--torch_dtype is not honoured: float16"),
    ],
)
def test_what_is_not_honoured_is_named(line: str, named: str) -> None:
    _, warnings = read(BASE + line)
    assert len(warnings) == 1
    assert warnings[0].startswith(named)


@pytest.mark.parametrize(
    ("line", "expected", "warned"),
    [
        ("", {"data": "hf:a/b:train"}, []),
        ("--train_subset en --eval_split test", {"data": "hf:a/b/en:train", "valid": "hf:a/b/en:test"}, []),
        (
            "--train_split train[:90%] --eval_split train[90%:]",
            {"data": "hf:a/b:train", "held_out_fraction": 0.1},
            [],
        ),
        ("--train_split train[:20%]", {"data": "hf:a/b:train"}, ["--train_split"]),
        ("--train_split train[:100]", {"data": "hf:a/b:train"}, ["--train_split"]),
        ("--eval_split test[:50%]", {"valid": "hf:a/b:test"}, ["--eval_split"]),
        ("--eval_subset es --eval_split train", {"valid": "hf:a/b/es:train"}, []),
        ("--max_samples 9", {"data": "hf:a/b:train"}, ["--max_samples"]),
    ],
)
def test_splits_of_the_hub(line: str, expected: dict[str, Any], warned: list[str]) -> None:
    settings, warnings = read(f"-m nano -d a/b {line}")
    assert {key: settings.get(key) for key in ("data", "valid", "held_out_fraction") if key in settings} == {
        "data": "hf:a/b:train",
        **expected,
    }
    assert [warning.split()[0] for warning in warnings] == warned


def test_data_files_are_put_together_and_cut(tmp_path: Path) -> None:
    for name, count in (("a", 2), ("b", 3)):
        lines = [json.dumps({"text": f"{name}{number}"}) for number in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    files = f"{tmp_path}/a.jsonl,{tmp_path}/b.jsonl"
    settings, _ = read(f"-m nano -d json --data_files {files} --max_samples 4")
    lines = Path(settings["data"]).read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["a0", "a1", "b0", "b1"]


def test_the_document_names_every_honoured_flag() -> None:
    page = (REPOSITORY / "docs" / "job-files.md").read_text(encoding="utf-8")
    flags = (*olive.TOGETHER, *olive.INTEGERS, *olive.NUMBERS, *olive.FLAGS, *olive.STEPS)
    for flag in flags:
        assert f"`--{flag}`" in page, flag


def test_every_flag_of_transformers_is_known() -> None:
    """Unknown ones are errors: those of the version that is installed must not be."""
    dataclasses, transformers = pytest.importorskip("dataclasses"), pytest.importorskip("transformers")
    names = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    known = {
        *olive.TOGETHER,
        *olive.INTEGERS,
        *olive.NUMBERS,
        *olive.FLAGS,
        *olive.STEPS,
        *NOT_HONOURED,
    }
    assert names - known == set()

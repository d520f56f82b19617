"""Our own job file: names as the API has them, mistakes by key and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamaleon_clients import jobfiles
from llamaleon_clients.errors import BadInput, ServerRefused
from llamaleon_clients.jobfiles.names import HYPERPARAMETERS
from llamaleon_server.wire.hyperparameters import RULES


def written(folder: Path, text: str, name: str = "job.yml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_names_are_those_of_the_server() -> None:
    assert set(RULES) == set(HYPERPARAMETERS)


def test_a_job_file(tmp_path: Path) -> None:
    (tmp_path / "filas.jsonl").write_text("{}")
    job = written(
        tmp_path,
        """
base: nano
data: filas.jsonl
name: informes
method: dpo
seed: 7
deploy: false
metadata: {equipo: "¿quién?"}
learning_rate: 2e-4        # YAML 1.1 alone would read a text
lora_target_modules: [q_proj, v_proj]
weight_decay:
hyperparameters:
  n_epochs: 3
  packing: true
""",
    )
    assert jobfiles.read(job) == {
        "base": "nano",
        "data": str(tmp_path / "filas.jsonl"),
        "name": "informes",
        "method": "dpo",
        "seed": 7,
        "deploy": False,
        "metadata": {"equipo": "¿quién?"},
        "learning_rate": 0.0002,
        "lora_target_modules": ["q_proj", "v_proj"],
        "n_epochs": 3,
        "packing": True,
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("base: nano\nlearnig_rate: 1", "line 2: `learnig_rate`: unknown; did you mean `learning_rate`?"),
        ("base: nano\nzzz: 1", "line 2: `zzz`: unknown."),
        (
            "hyperparameters:\n  epochs: 2",
            "line 2: `hyperparameters.epochs`: unknown; did you mean `n_epochs`?",
        ),
        (
            "n_epochs: 1\nhyperparameters: {n_epochs: 2}",
            "line 2: `hyperparameters.n_epochs`: it is given twice.",
        ),
        ("base: 3", "line 1: `base`: a text is needed, not 3."),
        ("\nseed: 1.5", "line 2: `seed`: a whole number is needed, not 1.5."),
        ("method: ppo", "line 1: `method`: supervised / dpo is needed, not 'ppo'."),
        ("deploy: maybe", "line 1: `deploy`: true or false is needed"),
        ("base: a\nname: b\nbase: c", "line 3: `base` is given twice (first in line 1)."),
        ("a: [1\nb: 2", "not YAML"),
        ("- a\n- b", "a job file is a list of `key: value` lines"),
        ("a: \x07", "not YAML"),
        ("a: &b\n  c: *b", "nested too deeply; does an anchor hold itself?"),
        ("hyperparameters: 3", "line 1: `hyperparameters`: a list of `key: value` lines is needed."),
    ],
)
def test_mistakes_are_told_by_key_and_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        jobfiles.read(written(tmp_path, text))
    assert said in str(caught.value)
    assert "job.yml" in str(caught.value)


def test_what_is_no_file_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        jobfiles.read(tmp_path / "none.yml")
    (tmp_path / "latin.yml").write_bytes("name: ñ".encode("latin-1"))
    with pytest.raises(BadInput, match="not UTF-8"):
        jobfiles.read(tmp_path / "latin.yml")
    with pytest.raises(BadInput, match="cannot be read"):
        (tmp_path / "folder.yml").mkdir()
        jobfiles.read(tmp_path / "folder.yml")


@pytest.mark.parametrize(
    ("text", "param", "line"),
    [
        ("base: nano\nlora_r: 0\n", "method.supervised.hyperparameters.lora_r", 2),
        ("hyperparameters:\n  n_epochs: 99\n", "method.supervised.hyperparameters.n_epochs", 2),
        ("base_model: a\n\nsequence_len: 1\n", "method.supervised.hyperparameters.max_sequence_tokens", 3),
    ],
)
def test_what_the_server_refuses_is_told_with_its_line(
    tmp_path: Path, text: str, param: str, line: int
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(BadInput, match=rf"job\.yml, line {line}: .*: no such thing"), jobfiles.lines_of(path):
        raise ServerRefused(400, "no such thing", param=param)
    with pytest.raises(ServerRefused), jobfiles.lines_of(path):
        raise ServerRefused(400, "no such thing", param="elsewhere")


def test_only_yaml_is_a_job_file() -> None:
    assert jobfiles.is_job_file("a.yml")
    assert jobfiles.is_job_file(Path("b.YAML"))
    assert not jobfiles.is_job_file("rows.jsonl")
    assert not jobfiles.is_job_file(None)

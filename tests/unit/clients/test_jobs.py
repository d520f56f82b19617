"""`llamaleon jobs`, and what `llamaleon train` asks for with its flags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.unit.clients.conftest import Llamaleon
from tests.unit.clients.fake_server import FakeServer, Json, event

from llamaleon_clients.api import Client
from llamaleon_clients.cli import app
from llamaleon_clients.errors import BadInput
from llamaleon_clients.progress import status
from llamaleon_clients.training import Progress, TrainingRequest, request_of, submit


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "filas.jsonl"
    path.write_text('{"text": "¿Qué?"}\n', "utf-8")
    return path


@pytest.fixture
def jobs(server: FakeServer, rows: Path) -> list[Json]:
    """Two, the newer one second; the fake lists in this order, newest last."""
    with Client(server.url) as client:
        return [submit(client, TrainingRequest(data=rows, base="nano", name=name)) for name in ("uno", "dos")]


def asked_for(server: FakeServer) -> Json:
    body: Json = next(body for _, kind, body in server.requests if kind == "job")
    return body


# ---------------------------------------------------------------- train


def test_flags_become_the_api_s_names(llamaleon: Llamaleon, server: FakeServer, rows: Path) -> None:
    line = """
        --base nano --name poeta --method dpo --beta 0.2 --epochs 2 --max-steps 9 --find-lr --scheduler linear
        --warmup 0.1 --optimizer adamw_8bit --label-smoothing 0.1 --neftune 5 --early-stopping 3 --best
        --dropout 0.1 --target-modules q_proj,v_proj --rslora --qlora gguf --packing --micro-batch 2
        --gradient-checkpointing --precision bfloat16 --processes 2 --max-tokens 512 --no-deploy --tensorboard
        --wandb proyecto --set weight_decay=0.01 --set compile=true --set sharding=fsdp --detach
    """
    result = llamaleon(
        "train", str(rows), *line.split(), "--text-template", r"P: {a}\nR: {b}", "--url", server.url
    )

    assert result.exit_code == 0, result.output
    assert result.stdout == "Job ftjob-1: validating files\n", "it does not wait"
    body = asked_for(server)
    assert body.pop("method") == {
        "type": "dpo",
        "dpo": {
            "hyperparameters": {
                "beta": 0.2,
                "n_epochs": 2,
                "max_steps": 9,
                "learning_rate": "find",
                "lr_scheduler": "linear",
                "warmup_fraction": 0.1,
                "optimizer": "adamw_8bit",
                "label_smoothing": 0.1,
                "neftune_noise_alpha": 5.0,
                "early_stopping_patience": 3,
                "load_best": True,
                "lora_dropout": 0.1,
                "lora_target_modules": ["q_proj", "v_proj"],
                "use_rslora": True,
                "base_weights": "gguf",
                "packing": True,
                "micro_batch_size": 2,
                "gradient_checkpointing": True,
                "precision": "bfloat16",
                "processes": 2,
                "max_sequence_tokens": 512,
                "weight_decay": 0.01,
                "compile": True,
                "sharding": "fsdp",
            }
        },
    }
    assert body == {
        "model": "nano",
        "training_file": "file-1",
        "suffix": "poeta",
        "integrations": [{"type": "tensorboard"}, {"type": "wandb", "wandb": {"project": "proyecto"}}],
        "text_template": "P: {a}\nR: {b}",
        "deploy": False,
    }


def test_a_setting_must_be_a_pair(llamaleon: Llamaleon, rows: Path) -> None:
    result = llamaleon("train", str(rows), "--base", "nano", "--name", "x", "--set", "packing")

    assert result.exit_code == 2
    assert "--set takes KEY=VALUE" in result.stderr


def test_a_job_file_is_a_job_and_flags_go_over_it(
    llamaleon: Llamaleon, server: FakeServer, rows: Path
) -> None:
    file = rows.with_name("trabajo.yml")
    file.write_text(f"data: {rows.name}\nbase: nano\nname: poeta\nn_epochs: 7\nlora_r: 4\n", "utf-8")
    result = llamaleon("train", str(file), "--epochs", "2", "--name", "tono", "--detach", "--url", server.url)

    assert result.exit_code == 0, result.output
    body = asked_for(server)
    assert body["suffix"] == "tono"
    assert body["method"]["supervised"]["hyperparameters"] == {"n_epochs": 2, "lora_r": 4}
    assert server.uploads == [rows.read_bytes()]


def test_a_file_that_was_uploaded_is_named_by_its_id(server: FakeServer) -> None:
    with Client(server.url) as client:
        submit(client, request_of({"data": "file-0a1b2c", "base": "nano", "name": "x"}))

    assert server.uploads == []
    assert asked_for(server)["training_file"] == "file-0a1b2c"


def test_a_job_that_is_not_deployed_says_its_name(
    llamaleon: Llamaleon, server: FakeServer, rows: Path
) -> None:
    server.outcome = {
        "status": "succeeded",
        "fine_tuned_model": "ft:nano:local:poeta:1",
        "deploy": False,
    }
    result = llamaleon("train", str(rows), "--base", "nano", "--name", "poeta", "--url", server.url)

    assert "Not deployed, as asked: it answers as ft:nano:local:poeta:1" in result.stdout
    assert "from openai" not in result.stdout


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"base": "nano"}, "`data`"),
        ({"data": "a.jsonl", "base": None}, "`base`"),
        ({"data": "a.jsonl", "base": "nano", "wandb": True}, "`wandb`"),
    ],
)
def test_settings_that_are_no_request_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        request_of(settings)


def test_help_is_grouped(llamaleon: Llamaleon, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = llamaleon("train", "--help").stdout
    headings = [line for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings == [
        *("Arguments:", "Data:", "Training:", "Adapter:", "Memory and speed:", "Job:", "Options:")
    ]
    assert shown.index("Memory and speed:") < shown.index("--qlora") < shown.index("Job:")
    monkeypatch.setenv("LLAMALEON_LANG", "es")
    assert "\nMemoria y velocidad:\n" in llamaleon("train", "--help").stdout


def test_every_option_of_train_is_in_a_group() -> None:
    [train] = [c for name, c in typer.main.get_command(app).commands.items() if name == "train"]  # type: ignore[attr-defined]  # a group
    loose = {
        one.opts[0]
        for one in train.params
        if one.param_type_name == "option" and not getattr(one, "rich_help_panel", None)
    }
    assert loose == {"--json", "--url"}


# ---------------------------------------------------------------- jobs


def test_pause_resume_cancel(llamaleon: Llamaleon, server: FakeServer, jobs: list[Json]) -> None:
    def said(*line: str) -> str:
        result = llamaleon("jobs", *line, "--url", server.url)
        assert result.exit_code == 0, result.output
        return result.stdout

    assert said("pause", "ftjob-1") == "Job ftjob-1: paused\n"
    assert said("resume", "b-1") == "Job ftjob-1: queued\n", "the end of its id is enough"
    assert json.loads(said("cancel", "ftjob-2", "--json"))["status"] == "cancelled"
    assert said("pause") == "Job ftjob-1: paused\n", "without a name, the newest"
    listed = [line.split()[:3] for line in said().splitlines()]  # without its age, which may grow meanwhile
    assert listed == [line.split()[:3] for line in said("list").splitlines()]
    assert [row[2] for row in listed[1:]] == ["paused", "cancelled"]
    assert llamaleon("jobs", "resume", "ftjob-2", "--url", server.url).exit_code == 1


def test_what_is_said_before_the_command_holds_for_it(
    llamaleon: Llamaleon, server: FakeServer, jobs: list[Json]
) -> None:
    result = llamaleon("jobs", "--url", server.url, "--json", "pause", "ftjob-1")
    assert json.loads(result.stdout)["status"] == "paused"


@pytest.mark.parametrize(("name", "said"), [("zzz", "No job zzz."), ("", "is the end of several: ftjob-1")])
def test_a_job_that_cannot_be_meant(
    llamaleon: Llamaleon, server: FakeServer, jobs: list[Json], name: str, said: str
) -> None:
    result = llamaleon("jobs", "cancel", name, "--url", server.url)
    assert result.exit_code == 1
    assert said in result.stderr


def test_logs_are_all_events(llamaleon: Llamaleon, server: FakeServer, jobs: list[Json]) -> None:
    server.events["ftjob-1"] = [
        event(1, "Created fine-tuning job"),
        event(2, "Step 1/2: training loss=1.0", {"step": 1}),
        event(3, "Sólo 12 filas [pocas]", level="warn"),
    ]
    server.script = [[], [], [event(4, "Se acabó")]]  # what each look at the job finds; then it has ended
    shown = llamaleon("jobs", "logs", "ftjob-1", "--url", server.url).stdout.splitlines()
    assert [line[21:] for line in shown] == [
        "Created fine-tuning job",
        "Step 1/2: training loss=1.0",
        "Warning: Sólo 12 filas [pocas]",
    ]
    followed = llamaleon("jobs", "logs", "ftjob-1", "-f", "--url", server.url).stdout.splitlines()
    assert followed[-1].endswith("Se acabó")
    assert len(followed) == 4
    printed = llamaleon("jobs", "logs", "ftjob-1", "--json", "--url", server.url).stdout
    assert [one["id"] for one in json.loads(printed)] == [f"ft-event-{n}" for n in (1, 2, 3, 4)]


def test_show_says_what_is_known(llamaleon: Llamaleon, server: FakeServer, jobs: list[Json]) -> None:
    shown = llamaleon("jobs", "show", "ftjob-2", "--url", server.url).stdout
    assert shown.splitlines()[0].split() == ["id", "ftjob-2"]
    assert [line.split()[0] for line in shown.splitlines()][:4] == ["id", "object", "model", "status"]
    assert "error" not in shown, "what is not there is not shown"


# ---------------------------------------------------------------- progress


def test_the_estimate_is_not_taken_for_figures_of_a_step(
    llamaleon: Llamaleon, server: FakeServer, rows: Path
) -> None:
    estimate = {"estimate": {"memory_bytes": 3_200_000_000, "seconds": 95.0}}
    found = {"learning_rate_found": {"learning_rate": 0.001, "tried": [1e-5], "losses": [2.0]}}
    progress = Progress()
    progress.observe({"data": estimate})
    progress.observe({"data": found})
    assert (progress.memory_bytes, progress.learning_rate) == (None, 0.001)
    assert progress.estimate == estimate["estimate"]
    server.script = [
        [
            event(1, "Estimated: 3.2 GB of memory, 2 min", estimate),
            event(2, "Learning rate found: 0.001", found),
            event(3, "Training paused at step 5", {"paused_at_step": 5}),
        ]
    ]
    result = llamaleon("train", str(rows), "--base", "nano", "--name", "poeta", "--url", server.url)
    for said in ("Estimated: 3.2 GB of memory, 2 min", "Learning rate found: 0.001", "paused at step 5"):
        assert said in result.stderr


def test_a_paused_job_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert status("paused") == "paused"
    monkeypatch.setenv("LLAMALEON_LANG", "es")
    assert status("paused") == "en pausa"

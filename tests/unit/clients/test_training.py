from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.clients.conftest import Llamaleon
from tests.unit.clients.fake_server import FakeServer, Json, error, event

from llamaleon_clients import training
from llamaleon_clients.api import Client
from llamaleon_clients.errors import ClientError
from llamaleon_clients.report import served_name

PARITY = {"gate": 1e-5, "mean_kl": 3.1e-9, "max_abs_diff": 2.4e-5, "tokens": 5120}
EVALUATION = {
    "rows": 40,
    "base": {"loss": 2.5, "exact_match": 0.0, "valid_json": 0.0},
    "adapter": {"loss": 0.125, "exact_match": 0.95, "valid_json": 1.0},
}
SCRIPT: list[list[Json]] = [
    [event(1, "Created fine-tuning job")],
    [
        event(number, f"Step {number}", {"step": number, "steps": 8, "train_loss": 2.0 / number})
        for number in range(2, 9)
    ],
    [
        event(9, "Held-out loss", {"step": 8, "valid_loss": 0.125}),
        event(10, "Parity", PARITY),
        event(11, "Evaluation", {"evaluation": EVALUATION}),
        event(12, "Adaptador añadido: cuesta 0 €"),
    ],
]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "informes.jsonl"
    message = {
        "messages": [{"role": "user", "content": "¿Qué?"}, {"role": "assistant", "content": "Ñu, 3 €"}]
    }
    path.write_text(json.dumps(message, ensure_ascii=False) + "\n", "utf-8")
    return path


def test_train_shows_the_whole_way(llamaleon: Llamaleon, server: FakeServer, rows: Path) -> None:
    server.script = [list(events) for events in SCRIPT]

    result = llamaleon("train", str(rows), "--base", "nano", "--name", "poeta", "--url", server.url)

    assert result.exit_code == 0, result.output
    assert "Adaptador añadido: cuesta 0 €" in result.stderr
    assert "8/8  loss 0.250" in result.stderr
    assert "Parity over 5,120 tokens: mean KL 3.1e-09, largest difference 2.4e-05\n" in result.stdout
    assert ["exact", "match", "0.0%", "95.0%"] in [line.split() for line in result.stdout.splitlines()]
    assert "Deployed as nano+poeta (ft:nano:local:poeta:1)" in result.stdout
    assert server.uploads == [rows.read_bytes()]


def test_train_sends_what_was_asked(llamaleon: Llamaleon, server: FakeServer, rows: Path) -> None:
    options = "--epochs 3 --batch-size 4 --learning-rate 0.001 --rank 8 --alpha 16 --seed 7 --held-out 0.2"

    result = llamaleon(
        "train", str(rows), "--base", "nano", "--name", "poeta", "--valid", str(rows), *options.split(),
        "--url", server.url,
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    assert next(body for _, kind, body in server.requests if kind == "job") == {
        "model": "nano",
        "training_file": "file-1",
        "validation_file": "file-2",
        "suffix": "poeta",
        "seed": 7,
        "method": {
            "type": "supervised",
            "supervised": {
                "hyperparameters": {
                    "n_epochs": 3,
                    "batch_size": 4,
                    "learning_rate": 0.001,
                    "lora_r": 8,
                    "lora_alpha": 16.0,
                    "held_out_fraction": 0.2,
                }
            },
        },
    }


def test_the_printed_python_is_python(llamaleon: Llamaleon, server: FakeServer, rows: Path) -> None:
    result = llamaleon("train", str(rows), "--base", "nano", "--name", "poeta", "--url", server.url)

    snippet = result.stdout[result.stdout.index("from openai") :].strip()
    assert len(snippet.splitlines()) == 3
    compile(snippet, "snippet", "exec")
    assert f'base_url="{server.url}/v1"' in snippet
    assert 'model="nano+poeta"' in snippet


def test_json_is_all_of_standard_output(llamaleon: Llamaleon, server: FakeServer, rows: Path) -> None:
    server.script = [list(events) for events in SCRIPT]

    result = llamaleon("train", str(rows), "--base", "nano", "--name", "poeta", "--json", "--url", server.url)

    printed = json.loads(result.stdout)
    assert printed["job"]["fine_tuned_model"] == "ft:nano:local:poeta:1"
    assert (printed["parity"], printed["evaluation"]) == (PARITY, EVALUATION)


def test_bad_rows_are_listed_with_their_lines(llamaleon: Llamaleon, server: FakeServer, rows: Path) -> None:
    server.upload_error = error(400, "2 bad rows.\nline 3: no `messages`\nline 9: not JSON", param="file")

    result = llamaleon("train", str(rows), "--base", "nano", "--name", "poeta", "--url", server.url)

    assert result.exit_code == 1
    assert "line 3: no `messages`\nline 9: not JSON" in result.stderr
    assert not server.jobs


def test_an_unknown_base_is_told_before_the_upload(
    llamaleon: Llamaleon, server: FakeServer, rows: Path
) -> None:
    result = llamaleon("train", str(rows), "--base", "nani", "--name", "poeta", "--url", server.url)

    assert result.exit_code == 1
    assert "Nearest names: nano" in result.stderr
    assert not server.uploads


def test_a_missing_file_is_named(llamaleon: Llamaleon, server: FakeServer) -> None:
    result = llamaleon("train", "ningún.jsonl", "--base", "nano", "--name", "poeta", "--url", server.url)

    assert result.exit_code == 1
    assert "The training file ningún.jsonl does not exist" in result.stderr


def test_what_is_missing_is_said(llamaleon: Llamaleon) -> None:
    result = llamaleon("train", "--base", "nano")

    assert result.exit_code == 2
    assert "DATA, --base and --name are needed" in result.stderr


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (
            {"status": "failed", "error": {"code": "worse_than_base", "message": "held-out loss 2.1 > 1.9"}},
            "Error: the adapter was kept but not deployed: held-out loss 2.1 > 1.9",
        ),
        (
            {"status": "failed", "error": {"code": "out_of_memory", "message": "out of memory"}},
            "Error: job ftjob-1 failed: out of memory",
        ),
        (
            {
                "status": "failed",
                "error": {"message": "a.jsonl: 2 rows are bad. line 3: no answer; line 9: ñ."},
            },
            "Error: job ftjob-1 failed: a.jsonl: 2 rows are bad.\n  line 3: no answer;\n  line 9: ñ.",
        ),
        ({"status": "cancelled"}, "Error: job ftjob-1 was cancelled."),
    ],
)
def test_a_job_that_ends_badly_says_why(
    llamaleon: Llamaleon, server: FakeServer, rows: Path, outcome: Json, said: str
) -> None:
    server.outcome = outcome

    result = llamaleon("train", str(rows), "--base", "nano", "--name", "poeta", "--url", server.url)

    assert result.exit_code == 1
    assert said in result.stderr
    assert "Deployed" not in result.stdout


def test_attach_shows_a_job_again(llamaleon: Llamaleon, server: FakeServer, rows: Path) -> None:
    server.script = [list(events) for events in SCRIPT]
    llamaleon("train", str(rows), "--base", "nano", "--name", "poeta", "--url", server.url)

    result = llamaleon("train", "--attach", "ftjob-1", "--url", server.url)

    assert result.exit_code == 0
    assert "mean KL 3.1e-09" in result.stdout


@pytest.mark.parametrize(
    ("fine_tuned", "name"),
    [
        ("ft:qwen2.5:0.5b:local:señor:1", "qwen2.5:0.5b+señor"),
        ("ft:qwen2.5:0.5b:local::1", "ft:qwen2.5:0.5b:local::1"),
    ],
)
def test_the_short_name_is_used_where_there_is_one(fine_tuned: str, name: str) -> None:
    assert served_name({"model": "qwen2.5:0.5b", "fine_tuned_model": fine_tuned}) == name


def test_ctrl_c_leaves_the_job_running(
    llamaleon: Llamaleon, server: FakeServer, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.script = [list(events) for events in SCRIPT]

    def interrupt(client: Client, job_id: str, last_id: str | None) -> list[Json]:
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "events_since", interrupt)
    result = llamaleon("train", str(rows), "--base", "nano", "--name", "poeta", "--url", server.url)

    assert result.exit_code == 130
    assert "`llamaleon train --attach ftjob-1`" in result.stderr
    assert server.jobs["ftjob-1"]["status"] == "running"


def test_cancel_and_list(llamaleon: Llamaleon, server: FakeServer, rows: Path) -> None:
    with Client(server.url) as client:
        training.submit(client, training.TrainingRequest(data=rows, base="nano", name="poeta"))

    cancelled = llamaleon("train", "--cancel", "ftjob-1", "--url", server.url)
    listed = llamaleon("jobs", "--url", server.url)

    assert cancelled.stdout == "Job ftjob-1: cancelled\n"
    assert listed.stdout.splitlines()[1].split()[:3] == ["ftjob-1", "nano", "cancelled"]


def test_every_event_is_seen_once_and_in_order(server: FakeServer, rows: Path) -> None:
    class Recorder:
        def __init__(self) -> None:
            self.messages: list[str] = []
            self.steps: list[int] = []

        def update(self, progress: training.Progress) -> None:
            self.steps.append(progress.step)

        def message(self, level: str, text: str) -> None:
            self.messages.append(text)

    server.script = [list(events) for events in SCRIPT]
    recorder = Recorder()
    with Client(server.url) as client:
        job = training.submit(client, training.TrainingRequest(data=rows, base="nano", name="poeta"))
        training.follow(client, job["id"], recorder, sleep=lambda seconds: None)

    assert recorder.messages == ["Created fine-tuning job", "Adaptador añadido: cuesta 0 €"]
    assert recorder.steps == sorted(recorder.steps)
    assert recorder.steps[-1] == 8


def test_a_server_that_goes_away_says_how_to_come_back(server: FakeServer) -> None:
    class Silent:
        def update(self, progress: training.Progress) -> None:
            """Shows nothing."""

        def message(self, level: str, text: str) -> None:
            """Shows nothing."""

    with (
        Client("http://127.0.0.1:9") as client,
        pytest.raises(ClientError, match="train --attach ftjob-7"),
    ):
        training.follow(client, "ftjob-7", Silent())

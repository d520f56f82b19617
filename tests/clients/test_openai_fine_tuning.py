"""The `openai` package runs the whole fine-tuning flow, with only `base_url` changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.data import shared
from tests.integration.flow import BASE, gsm8k_rows, loss, wait_for, wait_for_step, write_jsonl
from tests.server import RunningServer


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    model = shared("stories260K/stories260K-f32.gguf")
    with RunningServer(tmp_path_factory.mktemp("openai") / "home", ["--model", str(model)]) as server:
        yield server.openai(max_retries=0)


def chat_rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["completion"]},
            ]
        }
        for row in gsm8k_rows(count)
    ]


@pytest.fixture(scope="module")
def job(client: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """As it stands in OpenAI's guide: upload, create, poll."""
    data = write_jsonl(tmp_path_factory.mktemp("data") / "training_data.jsonl", chat_rows(24))
    with data.open("rb") as file:
        uploaded = client.files.create(file=file, purpose="fine-tune")
    assert (uploaded.object, uploaded.purpose, uploaded.bytes) == ("file", "fine-tune", data.stat().st_size)
    job = client.fine_tuning.jobs.create(
        training_file=uploaded.id,
        model=BASE,
        suffix="cuentas",
        seed=3,
        metadata={"équipe": "España"},
        method={
            "type": "supervised",
            "supervised": {
                "hyperparameters": {"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 20}
            },
        },
    )
    assert (job.object, job.model, job.training_file) == ("fine_tuning.job", BASE, uploaded.id)
    job = wait_for(client, job.id, timeout_s=400)
    assert job.status == "succeeded", job.error
    return job


def test_the_finished_job(client: Any, job: Any) -> None:
    assert job.hyperparameters.n_epochs == 2
    assert job.method.supervised.hyperparameters.batch_size == 8
    assert job.trained_tokens > 0
    assert job.error is None
    assert job.finished_at >= job.created_at
    listed = client.fine_tuning.jobs.list(limit=1, extra_query={"metadata[équipe]": "España"})
    assert [found.id for found in listed.data] == [job.id]


def test_its_events(client: Any, job: Any) -> None:
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=7))  # the client follows the pages
    messages = [event.message for event in reversed(events)]
    assert messages[0] == f"Created fine-tuning job: {job.id}"
    assert f"New fine-tuned model created: {job.fine_tuned_model}" in messages
    assert messages[-1] == "The job has successfully completed"
    steps = [event.data["step"] for event in events if event.type == "metrics" and "train_loss" in event.data]
    assert steps == [6, 5, 4, 3, 2, 1]


def test_its_checkpoints_and_result_files(client: Any, job: Any) -> None:
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id))
    assert [point.step_number for point in checkpoints] == [6, 3]
    assert checkpoints[0].metrics.full_valid_loss < 9
    results = [client.files.retrieve(name) for name in job.result_files]
    assert {file.purpose for file in results} == {"fine-tune-results"}
    header = client.files.content(job.result_files[0]).text.splitlines()[0]
    assert header.startswith("step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy")


def ask(client: Any, name: str) -> str:
    answer = client.chat.completions.create(
        model=name,
        messages=[{"role": "user", "content": "Tom has two apples."}],
        max_tokens=12,
        temperature=0,
    )
    assert answer.model == name
    return str(answer.choices[0].message.content)


def test_its_names_answer_at_once(client: Any, job: Any) -> None:
    learnt = ask(client, job.fine_tuned_model)
    assert ask(client, f"{BASE}+cuentas") == ask(client, "cuentas") == learnt
    assert ask(client, BASE) != learnt
    [newest, *_] = client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert ask(client, newest.fine_tuned_model_checkpoint) == learnt  # of the last step


def losses(client: Any, job: Any) -> list[float]:
    """Of each step, in their order."""
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=100))
    told = [event.data for event in reversed(events) if event.type == "metrics"]
    return [data["train_loss"] for data in told if "train_loss" in data]


def test_training_goes_on_from_a_fine_tuned_model(client: Any, job: Any, tmp_path: Path) -> None:
    """The first loss of the second job is that of a model that has learnt already."""
    data = write_jsonl(tmp_path / "more.jsonl", chat_rows(24))
    with data.open("rb") as file:
        uploaded = client.files.create(file=file, purpose="fine-tune")
    second = client.fine_tuning.jobs.create(
        training_file=uploaded.id,
        model=job.fine_tuned_model,
        suffix="más",
        hyperparameters={"n_epochs": 1, "batch_size": 24, "learning_rate_multiplier": 0.001},
    )
    second = wait_for(client, second.id, timeout_s=400)
    assert second.status == "succeeded", second.error
    assert losses(client, second)[0] < losses(client, job)[0] - 0.3
    assert second.fine_tuned_model.startswith(f"ft:{BASE}:local:más:")


def test_the_model_is_listed_and_deleted(client: Any, job: Any) -> None:
    assert client.models.retrieve(job.fine_tuned_model).id == job.fine_tuned_model
    assert f"{BASE}+cuentas" in {model.id for model in client.models.list()}
    assert client.models.delete(job.fine_tuned_model).deleted
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model=job.fine_tuned_model, prompt="a", max_tokens=1)


def test_mistakes_are_the_exceptions_that_scripts_expect(client: Any, tmp_path: Path) -> None:
    good = client.files.create(file=("a.jsonl", b'{"prompt": "a", "completion": "b"}\n'), purpose="fine-tune")
    other = client.files.create(file=("a.txt", b"x"), purpose="user_data")
    jobs = client.fine_tuning.jobs
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        jobs.create(model="gpt-4o-mini", training_file=good.id)
    for arguments, param in (
        ({"training_file": "file-nothing"}, "training_file"),
        ({"training_file": other.id}, "training_file"),
        ({"training_file": good.id, "suffix": "a+b"}, "suffix"),
        ({"training_file": good.id, "suffix": "x" * 65}, "suffix"),
        ({"training_file": good.id, "seed": -1}, "seed"),
        ({"training_file": good.id, "method": {"type": "reinforcement"}}, "method.type"),
        (
            {"training_file": good.id, "method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 3}}}},
            "method.dpo.hyperparameters.beta",
        ),
        (
            {"training_file": good.id, "integrations": [{"type": "wandb", "wandb": {}}]},
            "integrations[0].wandb",
        ),
        ({"training_file": good.id, "hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            jobs.create(model=BASE, **arguments)
        assert caught.value.param == param
    for call in (
        *(jobs.retrieve, jobs.cancel, jobs.pause, jobs.resume, jobs.list_events, jobs.checkpoints.list),
        client.fine_tuning.checkpoints.permissions.list,  # whoever may use the server may use them
    ):
        with pytest.raises(openai.NotFoundError):
            call("ftjob-nothing")
    with pytest.raises(openai.NotFoundError):
        client.files.content("file-nothing")


def test_a_job_is_cancelled(client: Any, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "long.jsonl", gsm8k_rows(24))
    with data.open("rb") as file:
        uploaded = client.files.create(file=file, purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model=BASE, training_file=uploaded.id, hyperparameters={"n_epochs": 50, "batch_size": 1}
    )
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    job = client.fine_tuning.jobs.retrieve(job.id)
    assert (job.status, job.fine_tuned_model) == ("cancelled", None)
    with pytest.raises(openai.BadRequestError, match="already ended"):
        client.fine_tuning.jobs.cancel(job.id)


def start(client: Any, data: Path, **request: Any) -> Any:
    with data.open("rb") as file:
        uploaded = client.files.create(file=file, purpose="fine-tune")
    return client.fine_tuning.jobs.create(model=BASE, training_file=uploaded.id, seed=1, **request)


def steps(client: Any, job: Any) -> list[int]:
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=100))
    return [
        event.data["step"]
        for event in reversed(events)
        if event.type == "metrics" and "train_loss" in event.data
    ]


def test_a_job_pauses_and_resumes(client: Any, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", gsm8k_rows(24))
    job = start(client, data, hyperparameters={"n_epochs": 6, "batch_size": 1, "learning_rate_multiplier": 5})
    wait_for_step(client, job.id, 5)
    assert client.fine_tuning.jobs.pause(job.id).status == "paused"
    before = client.fine_tuning.jobs.list_events(job.id, limit=100).data
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    job = wait_for(client, job.id, timeout_s=400)
    assert job.status == "succeeded", job.error
    taken = steps(client, job)
    assert taken == list(range(1, len(taken) + 1)), "every step once"
    messages = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=100)]
    assert any(message.startswith("Training paused at step") for message in messages)
    assert len(before) < len(messages)


def test_every_epoch_is_a_model(client: Any, tmp_path: Path) -> None:
    """Also those whose optimizer states the trainer has long removed."""
    data = write_jsonl(tmp_path / "rows.jsonl", gsm8k_rows(12))
    job = start(
        client, data, hyperparameters={"n_epochs": 6, "batch_size": 4, "learning_rate_multiplier": 50}
    )
    job = wait_for(client, job.id)
    assert job.status == "succeeded", job.error
    points = client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert len(points) == 6
    answers = [ask(client, point.fine_tuned_model_checkpoint) for point in points]
    assert len(set(answers)) > 1, "they are not one model"


def test_preferences_are_learnt(client: Any, tmp_path: Path) -> None:
    """OpenAI's rows of preferences, its `dpo` method, its `beta`."""

    def row(question: str, liked: str, other: str) -> dict[str, Any]:
        return {
            "input": {"messages": [{"role": "user", "content": question}]},
            "preferred_output": [{"role": "assistant", "content": liked}],
            "non_preferred_output": [{"role": "assistant", "content": other}],
        }

    rows = [row(f"What did Tom see, {n}?", "a big red dog", "a small blue cat") for n in range(24)]
    job = start(
        client,
        write_jsonl(tmp_path / "pairs.jsonl", rows),
        suffix="gustos",
        method={
            "type": "dpo",
            "dpo": {
                "hyperparameters": {
                    "beta": 0.2,
                    "n_epochs": 3,
                    "batch_size": 4,
                    "learning_rate_multiplier": 10,
                }
            },
        },
    )
    assert (job.method.type, job.method.dpo.hyperparameters.beta) == ("dpo", 0.2)
    job = wait_for(client, job.id, timeout_s=400)
    assert job.status == "succeeded", job.error
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=100))
    margins = [event.data["reward_margin"] for event in events if "reward_margin" in (event.data or {})]
    assert margins[0] > max(0.5, margins[-1]), "newest first: it has grown from nothing"

    def preference(model: str) -> float:
        """Log-probability of the liked answer over the other, in nats."""
        return loss(client, model, {"prompt": "x\n", "completion": "a small blue cat"}) - loss(
            client, model, {"prompt": "x\n", "completion": "a big red dog"}
        )

    assert preference(job.fine_tuned_model) > preference(BASE)


def test_raw_text_is_trained_on(client: Any, tmp_path: Path) -> None:
    """Continued pre-training: rows of nothing but text, in pieces where they are longer than a sequence."""
    story = " ".join(row["prompt"].strip() for row in gsm8k_rows(8))
    rows = [{"text": f"{n}. {story}"} for n in range(12)]
    job = start(
        client,
        write_jsonl(tmp_path / "text.jsonl", rows),
        method={
            "type": "supervised",
            "supervised": {
                "hyperparameters": {
                    "n_epochs": 2,
                    "batch_size": 4,
                    "learning_rate_multiplier": 20,
                    "max_sequence_tokens": 128,
                }
            },
        },
    )
    job = wait_for(client, job.id)
    assert job.status == "succeeded", job.error
    assert loss(client, job.fine_tuned_model, {"prompt": "1.", "completion": " " + story[:200]}) < loss(
        client, BASE, {"prompt": "1.", "completion": " " + story[:200]}
    )

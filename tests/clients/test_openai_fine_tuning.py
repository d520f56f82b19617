"""The `openai` package runs the whole fine-tuning flow, with only `base_url` changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.data import shared
from tests.integration.flow import BASE, gsm8k_rows, wait_for, write_jsonl
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


def test_its_names_answer_at_once(client: Any, job: Any) -> None:
    def ask(name: str) -> str:
        answer = client.chat.completions.create(
            model=name,
            messages=[{"role": "user", "content": "Tom has two apples."}],
            max_tokens=12,
            temperature=0,
        )
        assert answer.model == name
        return str(answer.choices[0].message.content)

    learnt = ask(job.fine_tuned_model)
    assert ask(f"{BASE}+cuentas") == ask("cuentas") == learnt
    assert ask(BASE) != learnt
    [newest, *_] = client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert ask(newest.fine_tuned_model_checkpoint) == learnt  # of the last step


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
        ({"training_file": good.id, "method": {"type": "dpo"}}, "method.type"),
        ({"training_file": good.id, "hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            jobs.create(model=BASE, **arguments)
        assert caught.value.param == param
    for call in (jobs.retrieve, jobs.cancel, jobs.list_events, jobs.checkpoints.list):
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

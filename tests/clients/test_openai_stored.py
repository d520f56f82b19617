"""Distillation and feedback as the real `openai` package does them: store, rate, export, train."""

from __future__ import annotations

import time
from collections.abc import Iterator

import openai
import pytest
from openai import OpenAI
from openai.types import FileObject
from tests.server import RunningServer

QUESTIONS = [f"¿Qué es un parte diario? ({number})" for number in range(6)]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    home = tmp_path_factory.mktemp("stored") / "home"
    with RunningServer(home, []) as running, OpenAI(base_url=f"{running.url}/v1", api_key="-") as made:
        yield made


def test_stored_rated_exported_and_trained_on(client: OpenAI) -> None:
    for question in QUESTIONS:
        client.chat.completions.create(
            model="nano",
            messages=[{"role": "user", "content": question}],
            temperature=0,
            store=True,
            metadata={"tarea": "partes"},
        )
    kept = list(client.chat.completions.list(metadata={"tarea": "partes"}, limit=4))  # two pages
    assert len(kept) == len(QUESTIONS)
    assert client.chat.completions.retrieve(kept[0].id).choices == kept[0].choices
    asked = client.chat.completions.messages.list(kept[1].id)
    assert [message.content for message in asked] == [QUESTIONS[1]]
    for completion in kept[:4]:
        client.chat.completions.update(completion.id, metadata={"tarea": "partes", "nota": "bien"})
    assert client.chat.completions.delete(kept[5].id).deleted
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.retrieve(kept[5].id)

    file = client.post(  # first call
        "/datasets/stored_completions", body={"metadata": {"nota": "bien"}}, cast_to=FileObject
    )
    assert file.purpose == "fine-tune"
    job = client.fine_tuning.jobs.create(  # second call
        model="nano",
        training_file=file.id,
        suffix="destilado",
        hyperparameters={"n_epochs": 1},
    )
    deadline = time.monotonic() + 120
    while job.status == "validating_files" and time.monotonic() < deadline:
        time.sleep(0.2)
        job = client.fine_tuning.jobs.retrieve(job.id)
    assert job.status in {"queued", "running", "succeeded"}, job.error
    if job.status != "succeeded":
        client.fine_tuning.jobs.cancel(job.id)

"""`llamaleon data check` against the real routes, with an engine that only counts."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from tests.api import CHATML
from tests.unit.clients.conftest import Llamaleon
from tests.unit.server.registry.small import write_base

from llamaleon_clients import dataset_report
from llamaleon_clients.api import Client
from llamaleon_clients.datasets import hand_in, is_hub_id, is_uploaded
from llamaleon_clients.errors import BadInput
from llamaleon_server.app import create_app
from llamaleon_server.settings import Settings
from llamaleon_server.testing import FakeEngines

CHANCE = random.Random(1)
WORDS = ["".join(CHANCE.choices("abcdefghijlmnñopqrstuvz", k=7)) for _ in range(300)]


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    tiny = write_base(tmp_path / "tiny.gguf", template=CHATML)
    engines = FakeEngines(context_tokens=5000)
    app = create_app(Settings(home=tmp_path / "served", models=(str(tiny),)), open_channel=engines.open)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def row(answer: str = "¡Sí!", words: int = 30) -> dict[str, Any]:
    said = " ".join(CHANCE.choices(WORDS, k=words))
    return {
        "messages": [{"role": "user", "content": said}, {"role": "assistant", "content": answer}],
    }


def written(tmp_path: Path, rows: list[Any], name: str = "filas.jsonl") -> str:
    path = tmp_path / name
    lines = [one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def left_files(url: str) -> list[Any]:
    files: list[Any] = httpx.get(f"{url}/v1/files").json()["data"]
    return files


def test_what_is_said_of_good_rows(llamaleon: Llamaleon, url: str, tmp_path: Path) -> None:
    rows = [row() for _ in range(120)]
    rows += [rows[3], row()]
    rows[-1]["messages"][0]["content"] = rows[7]["messages"][0]["content"] + " más"
    done = llamaleon("data", "check", written(tmp_path, rows), "--base", "tiny", "--rows", "1", "--url", url)
    assert done.exit_code == 0, done.output
    out = done.stdout
    assert "filas.jsonl: 122 rows (chat)\nmessages: user 122, assistant 122\nrows: conversations 122\n" in out
    assert re.search(r"Tokens of a row\n\d+ to \d+, median \d+; [\d,]+ in all, 1,708 learned\n", out)
    assert "⟦¡Sí!<|im_end|>⟧" in out
    assert "rows that repeat an earlier one: 1\n    lines 121 = 4\n" in out
    assert re.search(
        r"near-duplicates of another row \(at least 70% alike\): 1\n    lines 122 ≈ 8 \(\d\d%\)\n", out
    )
    assert out.rstrip().endswith("✓ A job can train on these rows.")
    assert max(map(len, out.splitlines())) <= 80
    counted = [int(found) for found in re.findall(r"^  +[\d,]+ *- *[\d,]+ +(\d+) ", out, re.MULTILINE)]
    assert sum(counted) == 122
    assert left_files(url) == []


def test_malformed_rows_end_with_status_one(llamaleon: Llamaleon, url: str, tmp_path: Path) -> None:
    rows = [row(), "{", row(), {"messages": [{"role": "yo", "content": "a"}]}]
    done = llamaleon("data", "check", written(tmp_path, rows), "--url", url)
    assert done.exit_code == 1
    assert "✗ filas.jsonl: 2 malformed" in done.stdout
    assert "    line 2: not valid JSON" in done.stdout
    assert '    line 4: `messages[0].role` is "yo"' in done.stdout
    assert "A job would refuse these rows." in done.stdout
    assert left_files(url) == []


def test_long_rows_end_with_status_one(llamaleon: Llamaleon, url: str, tmp_path: Path) -> None:
    path = written(tmp_path, [row(), row(words=90)])
    done = llamaleon("data", "check", path, "--base", "tiny", "--max-tokens", "400", "--url", url)
    assert done.exit_code == 1
    assert re.search(r"✗ rows longer than 400 tokens: 1\n    line 2: \d+ tokens\n", done.stdout)


def test_long_texts_are_no_fault(llamaleon: Llamaleon, url: str, tmp_path: Path) -> None:
    path = written(tmp_path, [{"text": "a" * 600}, {"text": "b"}])
    done = llamaleon("data", "check", path, "--base", "tiny", "--max-tokens", "400", "--url", url)
    assert done.exit_code == 0
    assert "texts longer than 400 are learnt in pieces" in done.stdout


def test_json_is_all_of_standard_output(llamaleon: Llamaleon, url: str, tmp_path: Path) -> None:
    held = written(tmp_path, [row()], "apartadas.jsonl")
    done = llamaleon(
        "data", "check", written(tmp_path, [row(), "{"]), "--valid", held, "--json", "--url", url
    )
    found = json.loads(done.stdout)
    assert (done.exit_code, found["ok"], found["training"]["malformed"]) == (1, False, 1)
    assert found["validation"]["filename"] == "apartadas.jsonl"
    assert left_files(url) == []


def test_in_spanish(llamaleon: Llamaleon, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMALEON_LANG", "es")
    pairs = [{"prompt": "¿a?", "chosen": " sí", "rejected": " no"}]
    done = llamaleon("data", "check", written(tmp_path, pairs), "--method", "supervised", "--url", url)
    assert done.exit_code == 1
    for said in (
        "filas.jsonl: 1 filas (preference)",
        "filas: dos respuestas 1, prompt y respuesta 1",
        "Caracteres por fila",
        "¿a?⟦ sí⟧\nla peor\n¿a?⟦ no⟧",
        "✗ Estas filas tienen dos respuestas cada una: necesitan --method dpo.",
        "! Solo 1 filas: es de esperar un adaptador sobreajustado.",
    ):
        assert said in done.stdout


def test_a_template_typed_in_a_shell(llamaleon: Llamaleon, url: str, tmp_path: Path) -> None:
    path = written(tmp_path, [{"p": "¿a?", "r": "sí"}])
    done = llamaleon("data", "check", path, "--text-template", r"P: {p}\nR: {r}", "--url", url)
    assert "⟦P: ¿a?\nR: sí⟧" in done.stdout


def test_a_file_that_is_not_there(llamaleon: Llamaleon, url: str) -> None:
    done = llamaleon("data", "check", "nada.jsonl", "--url", url)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "The file nada.jsonl does not exist" in done.stderr


def test_a_file_of_the_server_is_left_there(llamaleon: Llamaleon, url: str, tmp_path: Path) -> None:
    with Client(url) as client:
        name = client.upload(Path(written(tmp_path, [row()])))["id"]
    assert llamaleon("data", "check", name, "--url", url).exit_code == 0
    assert [file["id"] for file in left_files(url)] == [name]


def test_what_a_text_writes_to_the_terminal_is_only_shown() -> None:
    painted = dataset_report._painted([{"text": "\x1b[2J\x07a\tb\nc", "trained": True}], colour=True)
    assert painted.plain == "␛[2J␇a\tb\nc"


def test_what_is_learned_is_coloured() -> None:
    pieces = [{"text": "P", "trained": False}, {"text": "R", "trained": True}]
    painted = dataset_report._painted(pieces, colour=True)
    assert (painted.plain, [(span.start, span.end, span.style) for span in painted.spans]) == (
        "PR",
        [(1, 2, "green")],
    )


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("hf:a/b", True),
        ("hf:a/b/c:train", True),
        ("https://huggingface.co/datasets/a/b", True),
        ("a/b", True),
        ("a/b:test", True),
        ("datos/filas.jsonl", False),
        ("filas.csv", False),
        ("a/b/c", False),
        ("./a/b", False),
        ("/a/b", False),
        ("C:/a", False),
    ],
)
def test_names_of_the_hub(data: str, expected: bool) -> None:
    assert is_hub_id(data) is expected


def test_a_file_of_that_name_is_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text("x")
    assert not is_hub_id("a/b")
    assert is_uploaded("file-0a1b")
    (tmp_path / "file-0a1b").write_text("x")
    assert not is_uploaded("file-0a1b")


def test_rows_of_the_hub_are_fetched_by_the_server(capsys: pytest.CaptureFixture[str]) -> None:
    answer = {"id": "file-1", "rows": 7, "left_out_columns": ["foto"]}
    asked: list[Any] = []

    def respond(request: httpx.Request) -> httpx.Response:
        asked.append((request.url.path, json.loads(request.content)))
        return httpx.Response(200, json=answer)

    with Client("http://127.0.0.1:1", transport=httpx.MockTransport(respond)) as client:
        assert hand_in(client, "hf:a/b:test") == answer
        with pytest.raises(BadInput, match="does not exist"):
            hand_in(client, "nada.jsonl")
    assert asked == [("/v1/datasets/hub", {"name": "hf:a/b:test"})]
    assert "Columns that are no text were left out: foto." in capsys.readouterr().err

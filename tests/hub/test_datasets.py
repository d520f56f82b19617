"""Data sets of the hub: which files a split is made of, fetched, and made a file to train on."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.api import Api, error_of, running_api
from tests.hub.serving import Elsewhere, Fault

from llamaleon_server.errors import BadRequest, NotFound
from llamaleon_server.hub.dataset_files import CONVERTED, DatasetName, files_of, parse_dataset_name

REPO = "alguien/partes"


def parquet(rows: list[dict[str, Any]]) -> bytes:
    made = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), made)
    return made.getvalue()


def lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def rows(*names: str) -> list[dict[str, Any]]:
    return [{"prompt": f"¿{name}?", "completion": f"ñ {name}"} for name in names]


class TestNames:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("hf:a/b", DatasetName(repo="a/b")),
            ("a/b", DatasetName(repo="a/b")),
            ("hf:squad", DatasetName(repo="squad")),
            ("hf:a/b:test", DatasetName(repo="a/b", split="test")),
            ("hf:a/b.c-d/main:train_sft", DatasetName(repo="a/b.c-d", config="main", split="train_sft")),
            ("hf:a/b@v1.0:dev", DatasetName(repo="a/b", revision="v1.0", split="dev")),
            (f"hf:a/b/c@{CONVERTED}", DatasetName(repo="a/b", config="c", revision=CONVERTED)),
            ("https://huggingface.co/datasets/a/b", DatasetName(repo="a/b")),
            ("hf://datasets/a/b:test", DatasetName(repo="a/b", split="test")),
        ],
    )
    def test_all_forms(self, text: str, expected: DatasetName) -> None:
        assert parse_dataset_name(text) == expected

    @pytest.mark.parametrize(
        "text",
        ["", "hf:", "hf:../b", "hf:a/b/c/d", "hf:a/b@/etc", "hf:a/b@x/../y", "hf:a b", "hf:a/b:", "/a/b"],
    )
    def test_what_is_none(self, text: str) -> None:
        with pytest.raises(BadRequest, match="names no data set of the hub"):
            parse_dataset_name(text)


class TestFiles:
    @pytest.mark.parametrize(
        ("name", "paths", "expected"),
        [
            ("hf:a/b", ["README.md", "train.jsonl", "test.jsonl"], ["train.jsonl"]),
            ("hf:a/b", ["datos.jsonl"], ["datos.jsonl"]),  # without a word for it, everything is trained on
            ("hf:a/b:validation", ["train.csv", "dev_v2.csv"], ["dev_v2.csv"]),
            ("hf:a/b:dev", ["train.csv", "validation.csv"], ["validation.csv"]),
            (
                "hf:a/b",
                [
                    "data/train-00001-of-00002.parquet",
                    "data/train-00000-of-00002.parquet",
                    "data/test-00000-of-00001.parquet",
                ],
                ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
            ),
            ("hf:a/b:train_sft", ["data/train_sft-00000-of-00001-0123456789abcdef.parquet"], None),
            ("hf:a/b", ["train.parquet", "train.csv"], ["train.parquet"]),
            ("hf:a/b/es", ["es/train.jsonl", "fr/train.jsonl"], ["es/train.jsonl"]),
            (f"hf:a/b@{CONVERTED}", ["default/train/0000.parquet", "default/train/0001.parquet"], None),
            (
                f"hf:a/b/es@{CONVERTED}:test",
                ["es/test/0000.parquet", "fr/test/0000.parquet"],
                ["es/test/0000.parquet"],
            ),
            ("hf:a/b", ["loader.py", "README.md"], []),
        ],
    )
    def test_by_their_names(self, name: str, paths: list[str], expected: list[str] | None) -> None:
        assert files_of(parse_dataset_name(name), paths, {}) == (paths if expected is None else expected)

    CARD: dict[str, Any] = {  # noqa: RUF012 (never changed)
        "configs": [
            {
                "config_name": "main",
                "default": True,
                "data_files": [
                    {"split": "train", "path": "main/train-*"},
                    {"split": "mine", "path": ["main/x.jsonl", "main/deep/**/y.jsonl"]},
                ],
            },
            {"config_name": "socratic", "data_files": "socratic/*.jsonl"},
            {"config_name": "folder", "data_dir": "f", "data_files": {"test": "*.csv"}},
        ]
    }
    PATHS = (
        "f/a.csv",
        "main/deep/a/b/y.jsonl",
        "main/deep/y.jsonl",
        "main/train-0.jsonl",
        "main/x.jsonl",
        "socratic/z.jsonl",
    )

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("hf:a/b", ["main/train-0.jsonl"]),
            ("hf:a/b:mine", ["main/deep/a/b/y.jsonl", "main/deep/y.jsonl", "main/x.jsonl"]),
            ("hf:a/b/socratic", ["socratic/z.jsonl"]),
            ("hf:a/b/folder:test", ["f/a.csv"]),
        ],
    )
    def test_as_the_card_says(self, name: str, expected: list[str]) -> None:
        assert files_of(parse_dataset_name(name), self.PATHS, self.CARD) == expected

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("hf:a/b:test", "no split 'test'; it has mine, train"),
            ("hf:a/b/otra", "no config 'otra'; it has main, socratic, folder"),
        ],
    )
    def test_what_there_is_is_told(self, name: str, reason: str) -> None:
        with pytest.raises(NotFound, match=reason):
            files_of(parse_dataset_name(name), self.PATHS, self.CARD)

    def test_one_of_several_configs_must_be_named(self) -> None:
        card = {"configs": [{"config_name": name, "data_files": "*"} for name in ("a", "b")]}
        with pytest.raises(BadRequest, match="several configs, a, b: name one"):
            files_of(parse_dataset_name("hf:a/b"), self.PATHS, card)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path / "home") as made:
        yield made


async def content(api: Api, file_id: str) -> list[dict[str, Any]]:
    response = await api.http.get(f"/v1/files/{file_id}/content")
    return [json.loads(line) for line in response.text.splitlines()]


async def test_shards_become_one_file(api: Api, elsewhere: Elsewhere) -> None:
    picture = [{**row, "foto": {"bytes": b"\xff\xd8", "path": None}} for row in rows("c")]
    shards = {
        "data/train-00000-of-00002.parquet": parquet(rows("a", "b")),
        "data/train-00001-of-00002.parquet": parquet(picture),
        "data/test-00000-of-00001.parquet": parquet(rows("z")),
    }
    elsewhere.put_dataset(REPO, shards)
    made = (await api.post("/v1/datasets/hub", name=f"hf:{REPO}")).json()
    assert (made["rows"], made["left_out_columns"], made["purpose"]) == (3, ["foto"], "fine-tune")
    assert made["filename"] == "alguien-partes-train.jsonl"
    assert await content(api, made["id"]) == rows("a", "b", "c")
    assert len(elsewhere.blob_requests()) == 2  # the other split was not fetched


async def test_what_was_fetched_is_not_fetched_again(
    api: Api, elsewhere: Elsewhere, own_folders: Path
) -> None:
    elsewhere.put_dataset(REPO, {"train.jsonl": lines(rows("a"))})
    for _ in range(2):
        made = (await api.post("/v1/datasets/hub", name=REPO)).json()
        assert await content(api, made["id"]) == rows("a")
    assert len(elsewhere.blob_requests()) == 1
    cache = own_folders / "hf" / "hub" / "datasets--alguien--partes" / "snapshots" / elsewhere.commit
    assert (cache / "train.jsonl").read_bytes() == lines(rows("a"))


async def test_what_the_hub_converted_itself(api: Api, elsewhere: Elsewhere) -> None:
    elsewhere.put_dataset(REPO, {"loader.py": b"print()", "datos.zip": b"PK"})
    elsewhere.put_dataset(REPO, {"default/test/0000.parquet": parquet(rows("a"))}, CONVERTED)
    made = (await api.post("/v1/datasets/hub", name=f"hf:{REPO}:test")).json()
    assert await content(api, made["id"]) == rows("a")


async def test_a_download_that_breaks_off_goes_on(api: Api, elsewhere: Elsewhere) -> None:
    elsewhere.put_dataset(REPO, {"train.jsonl": lines(rows(*map(str, range(500))))})
    elsewhere.faults = [Fault(cut_after=1000), Fault(status=503)]
    made = (await api.post("/v1/datasets/hub", name=f"hf:{REPO}")).json()
    assert made["rows"] == 500


async def test_it_is_what_a_job_trains_on(api: Api, elsewhere: Elsewhere) -> None:
    elsewhere.put_dataset(REPO, {"train.csv": "input_text,output_text\n¿a?,ñ\n".encode()})
    made = (await api.post("/v1/datasets/hub", name=f"hf:{REPO}")).json()
    checked = (await api.post("/v1/datasets/check", training_file=made["id"])).json()
    assert (checked["ok"], checked["training"]["shape"], checked["training"]["rows"]) == (True, "vertex", 1)


@pytest.mark.parametrize(
    ("files", "name", "refusal"),
    [
        ({}, "hf:nadie/nada", (404, "has no repository datasets/nadie/nada, or it is private")),
        ({"train.jsonl": b""}, f"hf:{REPO}:test", (404, "no split 'test'; it has train")),
        ({"train.jsonl": b"{\n"}, f"hf:{REPO}", (400, "train.jsonl, line 1: not valid JSON")),
        ({"train.jsonl": b"\n"}, f"hf:{REPO}", (400, "train.jsonl, line 1: the file is empty")),
        ({"train.parquet": b"PAR1"}, f"hf:{REPO}", (400, "train.parquet, line 1: not valid Parquet")),
        (
            {"a.zip": b"PK"},
            f"hf:{REPO}",
            (400, "no Parquet, JSON or CSV files, and the hub has converted none"),
        ),
        ({"a.zip": b"PK"}, f"hf:{REPO}@main", (400, "no file that can be read at main")),
        ({"a.jsonl": b"1"}, f"hf:{REPO}@v9", (404, "has no such revision")),
        ({"a.jsonl": b"1"}, "hf:../x", (400, "names no data set of the hub")),
    ],
)
async def test_refusals(
    api: Api, elsewhere: Elsewhere, files: dict[str, bytes], name: str, refusal: tuple[int, str]
) -> None:
    elsewhere.put_dataset(REPO, files)
    response = await api.post("/v1/datasets/hub", name=name)
    assert response.status_code == refusal[0], response.text
    assert refusal[1] in error_of(response)["message"]
    assert error_of(response)["param"] == "name"
    assert (await api.http.get("/v1/files")).json()["data"] == []


async def test_what_is_too_large_is_not_fetched(tmp_path: Path, elsewhere: Elsewhere) -> None:
    elsewhere.put_dataset(REPO, {"train.jsonl": lines(rows("a"))})
    async with running_api(tmp_path / "home", max_upload_bytes=10) as api:
        response = await api.post("/v1/datasets/hub", name=f"hf:{REPO}")
    assert response.status_code == 413
    assert elsewhere.blob_requests() == []


async def test_the_servers_own_token_is_not_for_every_key(
    tmp_path: Path, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere.put_dataset(REPO, {"train.jsonl": lines(rows("a"))})
    elsewhere.private[REPO] = "hf_secret"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    async with running_api(tmp_path / "home") as api:
        keys = api.services.registry.keys
        admin, train = keys.create("a", "admin")[1], keys.create("t", "train")[1]

        async def asked(key: str, **more: str) -> int:
            headers = {"Authorization": f"Bearer {key}"}
            body = {"name": f"hf:{REPO}", **more}
            return (await api.http.post("/v1/datasets/hub", json=body, headers=headers)).status_code

        assert await asked(train) == 404
        assert await asked(train, token="hf_secret") == 200
        assert await asked(admin) == 200

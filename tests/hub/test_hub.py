"""`pull` from the Hugging Face hub, against a server that answers as the hub does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.hub.models import projector, small_model
from tests.hub.serving import COMMIT, Elsewhere, Fault, sha256

from llamaleon_server.errors import BadRequest, DownloadFailed, HubRefused, NotFound
from llamaleon_server.hub import machine
from llamaleon_server.hub.machine import Machine
from llamaleon_server.hub.progress import Progress, Source
from llamaleon_server.hub.pull import pull
from llamaleon_server.registry.modelfile import Modelfile
from llamaleon_server.registry.models import make
from llamaleon_server.registry.registry import Registry

REPO = "somebody/Tiny-GGUF"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    return {
        "README.md": b"# Tiny",
        "tiny-Q8_0.gguf": small_model(tmp_path / "a", width=64),
        "tiny-Q4_K_M.gguf": small_model(tmp_path / "b"),
        "mmproj-F16.gguf": projector(tmp_path),
    }


@pytest.fixture(autouse=True)
def repo(elsewhere: Elsewhere, files: dict[str, bytes]) -> None:
    elsewhere.put(REPO, files)


async def pulled(registry: Registry, name: str, **options: object) -> list[Progress]:
    return [progress async for progress in pull(registry, name, **options)]  # type: ignore[arg-type]  # passed on


async def test_the_quantisation_that_fits_is_served_from_the_hubs_own_cache(
    registry: Registry, elsewhere: Elsewhere, files: dict[str, bytes], own_folders: Path
) -> None:
    steps = await pulled(registry, f"hf.co/{REPO}")
    assert steps[0].status == "pulling manifest"
    assert "Q4_K_M" in (steps[0].note or "")
    assert steps[-1] == Progress(status="success", model=f"{REPO}:Q4_K_M")
    digest = sha256(files["tiny-Q4_K_M.gguf"])
    last = [step for step in steps if step.digest == f"sha256:{digest}"][-1]
    assert (last.completed, last.total) == (len(files["tiny-Q4_K_M.gguf"]),) * 2
    base = registry.base(f"{REPO}:Q4_K_M")
    folder = own_folders / "hf" / "hub" / "models--somebody--Tiny-GGUF"
    assert base.path == folder / "snapshots" / COMMIT / "tiny-Q4_K_M.gguf"
    assert base.path.resolve() == folder / "blobs" / digest
    assert (folder / "refs" / "main").read_text() == COMMIT
    assert base.projector == folder / "snapshots" / COMMIT / "mmproj-F16.gguf"
    for name in (f"hf.co/{REPO}", f"{REPO}:Q4_K_M"):
        assert registry.resolve(name).base.name == f"{REPO}:Q4_K_M"
    assert sha256(files["tiny-Q8_0.gguf"]) not in {asked.path[5:] for asked in elsewhere.blob_requests()}


async def test_the_hubs_own_library_finds_what_was_pulled(registry: Registry, own_folders: Path) -> None:
    from huggingface_hub import scan_cache_dir

    await pulled(registry, REPO)
    found = scan_cache_dir(own_folders / "hf" / "hub")
    assert [(repo.repo_id, repo.nb_files) for repo in found.repos] == [(REPO, 2)]
    assert not found.warnings


@pytest.mark.parametrize("name", [f"{REPO}:Q8_0", f"{REPO}:q8_0", f"{REPO}/tiny-Q8_0.gguf"])
async def test_a_quantisation_or_file_by_name(registry: Registry, name: str) -> None:
    steps = await pulled(registry, name)
    assert steps[-1].model == f"{REPO}:Q8_0"
    assert registry.resolve(name).base.name == f"{REPO}:Q8_0"


async def test_a_link_copied_from_the_page(registry: Registry, elsewhere: Elsewhere) -> None:
    steps = await pulled(registry, f"{elsewhere.url}/{REPO}/resolve/main/tiny-Q8_0.gguf?download=true")
    assert steps[-1].model == f"{REPO}:Q8_0"
    assert registry.made_models() == []  # a link is no name to call it by


async def test_the_short_name_follows_what_was_pulled_last_unless_it_is_somebodys(registry: Registry) -> None:
    await pulled(registry, f"hf.co/{REPO}:latest")
    assert registry.resolve(f"hf.co/{REPO}:latest").base.name == f"{REPO}:Q4_K_M"
    await pulled(registry, f"{REPO}:Q8_0")
    made = Modelfile(from_=f"{REPO}:Q8_0", system="Be brief.")
    await make(registry, REPO, made)
    await pulled(registry, REPO)
    assert registry.resolve(REPO).preset.system == "Be brief."


async def test_again_costs_one_question(registry: Registry, elsewhere: Elsewhere) -> None:
    await pulled(registry, REPO)
    elsewhere.asked.clear()
    assert (await pulled(registry, REPO))[-1].status == "success"
    assert [asked.path for asked in elsewhere.asked] == [f"/api/models/{REPO}/revision/main"]


async def test_a_new_version_takes_the_name(
    registry: Registry, elsewhere: Elsewhere, files: dict[str, bytes]
) -> None:
    await pulled(registry, REPO)
    before = registry.base(f"{REPO}:Q4_K_M").path
    elsewhere.commit = "f" * 40
    elsewhere.put(REPO, {**files, "tiny-Q4_K_M.gguf": files["tiny-Q8_0.gguf"]})
    await pulled(registry, REPO)
    assert registry.base(f"{REPO}:Q4_K_M").path != before
    assert before.exists()


async def test_nothing_fits(
    registry: Registry, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "measured", lambda: Machine(ram_bytes=1000))
    with pytest.raises(BadRequest, match="Nothing here fits this machine") as caught:
        await pulled(registry, REPO)
    assert "Q4_K_M (0.0 GB), Q8_0" in caught.value.message
    assert elsewhere.blob_requests() == []
    assert (await pulled(registry, f"{REPO}:Q8_0"))[-1].status == "success"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{REPO}:Q2_K", r"no Q2_K among Q4_K_M .*, Q8_0"),
        (f"{REPO}/other.gguf", r"has no other\.gguf; it has tiny-Q4_K_M\.gguf"),
        ("somebody/nothing", "no repository somebody/nothing, or it is private"),
        ("somebody/Empty", "has no GGUF files"),
    ],
)
async def test_what_is_not_there(registry: Registry, elsewhere: Elsewhere, name: str, message: str) -> None:
    elsewhere.put("somebody/Empty", {"README.md": b"#"})
    with pytest.raises(NotFound, match=message):
        await pulled(registry, name)


async def test_a_gated_repository_says_what_to_do(registry: Registry, elsewhere: Elsewhere) -> None:
    elsewhere.gated.add(REPO)
    with pytest.raises(HubRefused, match="is restricted") as caught:
        await pulled(registry, REPO)
    assert "HF_TOKEN" in caught.value.message
    assert registry.base_names() == []
    steps = await pulled(registry, REPO, source=Source(token="hf_mine"))
    assert steps[-1].status == "success"
    on_the_hub = [asked for asked in elsewhere.asked if "/resolve/" in asked.path]
    assert on_the_hub[-1].headers["authorization"] == "Bearer hf_mine"
    assert all("authorization" not in asked.headers for asked in elsewhere.blob_requests())


async def test_a_private_repository_with_the_token_of_the_environment(
    registry: Registry, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere.private[REPO] = "hf_secret"
    with pytest.raises(NotFound, match="or it is private"):
        await pulled(registry, REPO)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert (await pulled(registry, REPO))[-1].status == "success"


async def test_a_mirror_never_gets_the_token_of_this_server(
    registry: Registry, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    steps = await pulled(registry, REPO, source=Source(mirror=elsewhere.url))
    assert steps[-1].status == "success"
    assert all("authorization" not in asked.headers for asked in elsewhere.asked)


async def test_the_hub_out_of_order_for_a_moment(registry: Registry, elsewhere: Elsewhere) -> None:
    elsewhere.listing_faults = [503, 500]
    elsewhere.faults = [Fault(status=502), Fault(cut_after=100)]
    assert (await pulled(registry, REPO))[-1].status == "success"


async def test_the_hub_out_of_order(registry: Registry, elsewhere: Elsewhere) -> None:
    elsewhere.listing_faults = [503] * 10
    with pytest.raises(DownloadFailed, match="cannot be asked about somebody/Tiny-GGUF: it answers 503"):
        await pulled(registry, REPO)


async def test_a_wrong_checksum_is_never_registered(registry: Registry, elsewhere: Elsewhere) -> None:
    elsewhere.digests[REPO, "tiny-Q4_K_M.gguf"] = "a" * 64
    with pytest.raises(DownloadFailed, match="another checksum"):
        await pulled(registry, REPO)
    assert registry.base_names() == []


@pytest.mark.parametrize("place", ["commit", "digest"])
async def test_who_answers_cannot_choose_where_files_go(
    registry: Registry, elsewhere: Elsewhere, own_folders: Path, place: str
) -> None:
    if place == "commit":
        elsewhere.commit = "../../../../stolen"
    else:
        elsewhere.digests = {(REPO, "tiny-Q4_K_M.gguf"): "../../../stolen"}
    with pytest.raises((DownloadFailed, NotFound)):
        await pulled(registry, f"{REPO}:Q4_K_M")
    assert not [path for path in own_folders.rglob("*") if "stolen" in path.name]


async def test_a_file_that_is_no_model_is_never_registered(registry: Registry, elsewhere: Elsewhere) -> None:
    elsewhere.put(REPO, {"tiny-Q4_0.gguf": b"PK not a model"})
    with pytest.raises(BadRequest, match="not a GGUF file"):
        await pulled(registry, REPO)
    assert registry.base_names() == []


async def test_two_at_once_share_the_work(registry: Registry, elsewhere: Elsewhere) -> None:
    first, second = await asyncio.gather(pulled(registry, REPO), pulled(registry, f"hf.co/{REPO}"))
    assert first[-1] == second[-1]
    assert len(elsewhere.blob_requests()) == 2  # the model and its projector
    assert len([asked for asked in elsewhere.asked if asked.path.startswith("/api/")]) == 1
    assert registry.resolve(f"hf.co/{REPO}").base == registry.resolve(REPO).base


async def test_closing_ends_it_and_the_next_goes_on(
    registry: Registry, elsewhere: Elsewhere, own_folders: Path
) -> None:
    content = os.urandom(4_000_000)
    elsewhere.put(REPO, {"big-Q4_0.gguf": content})
    pause = threading.Event()
    elsewhere.faults = [Fault(pause=pause)]
    stream = pull(registry, REPO)
    async for progress in stream:
        if progress.completed:
            break
    await stream.aclose()
    pause.set()
    blobs = own_folders / "hf" / "hub" / "models--somebody--Tiny-GGUF" / "blobs"
    for _ in range(200):
        kept = [path.stat().st_size for path in blobs.iterdir()]
        if len([thread for thread in threading.enumerate() if thread.name == "pull"]) == 0:
            break
        await asyncio.sleep(0.02)
    assert len(kept) == 1
    assert 0 < kept[0] <= len(content)
    with pytest.raises(BadRequest, match="not a GGUF file"):  # whole now, and no model
        await pulled(registry, REPO)
    assert int(elsewhere.blob_requests()[-1].headers["range"][6:].split("-")[0]) == kept[0]


async def test_a_cache_that_is_not_ours_to_write_in(registry: Registry, own_folders: Path) -> None:
    (own_folders / "hf").write_text("a file where the folder should be")
    with pytest.raises(DownloadFailed, match="Not a directory"):
        await pulled(registry, REPO)


async def test_through_a_proxy(
    registry: Registry, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub has a name that nobody but the proxy knows."""
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    monkeypatch.setenv("HTTP_PROXY", elsewhere.url)
    elsewhere.redirects = False
    with fresh_session():
        assert (await pulled(registry, REPO))[-1].status == "success"
    assert {asked.headers["host"] for asked in elsewhere.asked} == {"hub.invalid"}


@contextlib.contextmanager
def fresh_session() -> Iterator[None]:
    """huggingface_hub keeps one session, which has read the environment once."""
    from huggingface_hub import close_session

    close_session()
    yield
    close_session()


async def test_a_projector_of_another_model_is_left_out(
    registry: Registry, elsewhere: Elsewhere, files: dict[str, bytes], tmp_path: Path
) -> None:
    elsewhere.put(REPO, {**files, "mmproj-F16.gguf": projector(tmp_path, width=999)})
    steps = await pulled(registry, REPO)
    assert any("its projector is left out" in (step.note or "") for step in steps)
    assert registry.resolve(REPO).base.projector is None

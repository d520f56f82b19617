"""From the trainer's directory to a served name: convert, prove, evaluate, deploy or refuse.

Every stage may be repeated: it looks first whether its result is already recorded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from llamaleon_convert.errors import ConvertError
from llamaleon_convert.manifest import Manifest
from llamaleon_server.engine.protocol import AdapterUse
from llamaleon_server.errors import NotFound
from llamaleon_server.evaluation.gate import comparison, judge
from llamaleon_server.evaluation.measure import Measured, measure
from llamaleon_server.evaluation.rows import (
    ADAPTER,
    BASE,
    FEW_SHOT,
    EvaluationRow,
    read_evaluation_rows,
    write_answers,
)
from llamaleon_server.jobs.auto import parity_gate
from llamaleon_server.jobs.failure import JobFailed
from llamaleon_server.registry.jobstore import JobRecord
from llamaleon_server.registry.records import AdapterVersion, Base, Target
from llamaleon_server.registry.registry import Registry
from llamaleon_server.residents.residents import Residents
from llamaleon_trainer.events import read_events

__all__ = ["Finisher", "base_of", "comparison", "dump_probe", "final_manifest", "gate_note", "refusal"]

PROBE = "probe.json"
PROBE_BASE = "probe.base.npz"
PROBE_TRAINED = "probe.adapter.npz"
PROBE_SERVED = "probe.served.npz"


async def dump_probe(
    residents: Residents, base: Base, directory: Path, name: str, version: AdapterVersion | None = None
) -> None:
    """The served logits on the probe, as `name`; whole or not at all."""
    probe = msgspec.json.decode((directory / PROBE).read_bytes(), type=list[list[int]])
    temporary = directory / f".tmp-{name}"
    async with residents.lease(base) as engine:
        uses: tuple[AdapterUse, ...] = ()
        if version is not None:
            await residents.load_adapter(engine, version)
            uses = (AdapterUse(version.key),)
        await engine.dump_logits(probe, uses, temporary)
    temporary.replace(directory / name)


class Finisher:
    def __init__(self, registry: Registry, residents: Residents, base: Base, kv_type: str) -> None:
        self._registry = registry
        self._residents = residents
        self._base = base
        self._kv_type = kv_type

    async def convert(self, record: JobRecord, peft: Path, name: str, ft_name: str) -> AdapterVersion:
        """The PEFT directory as a registered, not yet deployed version.

        Raises:
            JobFailed: GGUF cannot express it.
        """
        known = self._registry.by_ft_name(ft_name)
        if known is not None:
            return known
        return await asyncio.to_thread(self._convert, record, peft, name, ft_name)

    def _convert(self, record: JobRecord, peft: Path, name: str, ft_name: str) -> AdapterVersion:
        from llamaleon_convert import convert

        out = self._registry.jobs.directory(record.id) / f"{ft_name.rpartition(':')[2]}.gguf"
        try:
            manifest = convert(peft, self._base.path, out)
        except ConvertError as error:
            raise JobFailed("conversion_failed", f"The adapter cannot be converted: {error}") from error
        training = {"job": record.id, "training_file": record.training_file, **record.resolved}
        manifest = msgspec.structs.replace(
            manifest, source="trained", base_name=self._base.name, training=training
        )
        version = self._registry.add_adapter(
            self._base, name, out, manifest, deploy=False, ft_name=ft_name, peft_dir=peft, owned=True
        )
        out.unlink(missing_ok=True)
        return version

    async def prove(self, record: JobRecord, version: AdapterVersion) -> dict[str, Any]:
        """The served adapter against the trained one on the probe: `Parity` as a dict, with the `gate`."""
        from llamaleon_trainer.parity import compare_files  # numpy: not while the API only serves

        directory = self._registry.jobs.directory(record.id)
        await dump_probe(self._residents, self._base, directory, PROBE_SERVED, version)
        try:
            parity = await asyncio.to_thread(
                compare_files, directory / PROBE_SERVED, directory / PROBE_TRAINED
            )
        except (ValueError, OSError) as error:
            raise JobFailed("parity_failed", f"Trainer and engine cannot be compared: {error}") from error
        base_kl = await asyncio.to_thread(_base_kl, directory)
        gate = parity_gate(self._base.weight_type, self._kv_type, base_kl)
        return {**msgspec.structs.asdict(parity), "gate": gate}

    async def evaluate(self, record: JobRecord, version: AdapterVersion) -> dict[str, Any]:
        """The base, the base that is shown examples, and the adapter, on rows that were not trained on.

        What each answered is kept in the job's directory, for its report.
        """
        directory = self._registry.jobs.directory(record.id)
        rows = await asyncio.to_thread(read_evaluation_rows, directory)
        bare = Target(requested=self._base.name, base=self._base)
        adapted = Target(requested=version.model, base=self._base, adapters=((version, 1.0),))
        models = {BASE: await measure(self._residents, bare, rows)}
        if any(row.few_shot for row in rows):
            models[FEW_SHOT] = await measure(self._residents, bare, rows, few_shot=True)
        models[ADAPTER] = await measure(self._residents, adapted, rows)
        return await asyncio.to_thread(_compared, directory, rows, models)


def _base_kl(directory: Path) -> float:
    """How far the base alone was off in the trainer; 0 if that was not asked."""
    events, _ = read_events(directory / "events.jsonl")
    return next((float(one.data["mean_kl"]) for one in reversed(events) if one.type == "base_checked"), 0.0)


def _compared(directory: Path, rows: Sequence[EvaluationRow], models: dict[str, Measured]) -> dict[str, Any]:
    from llamaleon_server.evaluation.comparing import answered, compare  # numpy: see above

    evaluation = compare(rows, models, ADAPTER)
    write_answers(directory, sorted(answered(rows, models, evaluation["kind"]), key=lambda row: row.line))
    return evaluation


def refusal(
    parity: dict[str, Any], evaluation: dict[str, Any], resolved: dict[str, Any] | None = None
) -> JobFailed | None:
    """Why the adapter must not be deployed, if so. `resolved`: the job's hyperparameters."""
    if not parity["mean_kl"] <= parity["gate"]:
        return JobFailed(
            "parity_failed",
            f"The served adapter does not compute what was trained: mean KL {parity['mean_kl']:.3g} per "
            f"token, more than {parity['gate']:.3g}.",
        )
    verdict = judge(evaluation, resolved or {})
    return None if verdict.passed else JobFailed("worse_than_base", verdict.why)


def gate_note(evaluation: dict[str, Any], resolved: dict[str, Any]) -> str:
    """What was asked of the adapter, and what came out."""
    return judge(evaluation, resolved).why


def final_manifest(version: AdapterVersion, record: JobRecord) -> Manifest:
    evaluation = {"parity": record.parity, **record.evaluation}
    return msgspec.structs.replace(version.manifest, evaluation=evaluation)


def base_of(registry: Registry, record: JobRecord) -> Base:
    """Raises: JobFailed if the base is gone."""
    try:
        return registry.resolve(record.base).base
    except NotFound as error:
        raise JobFailed("base_missing", error.message, "model") from error

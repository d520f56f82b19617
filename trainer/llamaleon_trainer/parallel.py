"""Several processes that train one adapter. Every rank draws the same batches and trains its share of each.

The gradients of an adapter are small, so they are summed once a step, in one buffer: with every loss divided
by the weight of the whole batch the sum is what one process would have computed. `sharding` "fsdp" also
splits the frozen layers, whose weights are the memory, over the ranks; LoRA weights are whole in every rank,
and so is everything that is saved.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from .errors import BadJob
from .job import JobSpec

T = TypeVar("T")


class Ranks:
    """A job of one process: nothing to share. What `join` returns does the same for several."""

    rank = 0
    size = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes what the job leaves behind."""
        return self.rank == 0

    def device(self, chosen: torch.device) -> torch.device:
        """This rank's, where the job is to run on `chosen`."""
        return chosen

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's part of a batch, perhaps nothing; neighbours, of similar length, are parted."""
        return items[self.rank :: self.size]

    def even(self, passes: Iterable[T], filler: T) -> Iterator[tuple[T, bool]]:
        """Passes, and whether they count. Ranks that gather each other's weights make equally many: of
        `filler` where they have no more."""
        return ((one, True) for one in passes)

    def sum_gradients(self, parameters: Iterable[torch.Tensor]) -> None:
        """Replace every gradient by its sum over the ranks; of a rank without rows it is zero."""

    def sum(self, *values: float) -> list[float]:
        return list(values)

    def agree(self, flag: bool) -> bool:
        """What rank 0 says: ranks that stop at different steps would wait for each other for ever."""
        return flag

    def barrier(self) -> None:
        """Wait for the others, for example until rank 0 has written a file."""

    def shard(self, model: Any) -> None:
        """Split the frozen layers of a model that has its LoRA layers already, if the job asks for it."""


ALONE = Ranks()


class _Joined(Ranks):
    def __init__(self, state: Any, sharding: str) -> None:
        self.rank, self.size = state.process_index, state.num_processes
        self._state = state
        self._sharded = sharding != "none"

    def device(self, chosen: torch.device) -> torch.device:
        return torch.device(self._state.device)

    def even(self, passes: Iterable[T], filler: T) -> Iterator[tuple[T, bool]]:
        mine = list(passes)
        most = len(mine)
        if self._sharded:
            counted = torch.tensor([most], device=self._state.device)
            torch.distributed.all_reduce(counted, torch.distributed.ReduceOp.MAX)
            most = int(counted)
        yield from ((one, True) for one in mine)
        yield from ((filler, False) for _ in range(most - len(mine)))

    def sum_gradients(self, parameters: Iterable[torch.Tensor]) -> None:
        trained = list(parameters)
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
        buffer = torch.cat([gradient.reshape(-1) for gradient in gradients])
        torch.distributed.all_reduce(buffer)
        start = 0
        for gradient in gradients:
            gradient.copy_(buffer[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def sum(self, *values: float) -> list[float]:
        total = torch.tensor(values, dtype=torch.float64, device=self._state.device)
        torch.distributed.all_reduce(total)
        return [float(value) for value in total]

    def agree(self, flag: bool) -> bool:
        said = torch.tensor([int(flag)], device=self._state.device)
        torch.distributed.broadcast(said, src=0)
        return bool(said.item())

    def barrier(self) -> None:
        self._state.wait_for_everyone()

    def shard(self, model: Any) -> None:
        if not self._sharded:
            return
        from torch.distributed.fsdp import fully_shard

        trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
        for layer in decoder_layers(model):
            # At once after use: a rank that still has what another one gathers again waits for ever.
            fully_shard(layer, ignored_params=trained, reshard_after_forward=True)


def join(spec: JobSpec, rank: int, meeting: Path) -> Ranks:
    """Meet the other ranks at a file that none of them made yet; accelerate chooses the backend.

    Raises:
        BadJob: fewer GPUs than processes.
    """
    from accelerate import PartialState

    cpu = spec.device == "cpu" or not torch.cuda.is_available()
    if not cpu and torch.cuda.device_count() < spec.processes:
        raise BadJob(
            f"`processes` is {spec.processes}, but this machine has {torch.cuda.device_count()} GPUs; "
            "ask for as many at most"
        )
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    os.environ.update(WORLD_SIZE=str(spec.processes), LOCAL_WORLD_SIZE=str(spec.processes))
    if cpu:  # gloo would otherwise ask for the address of the host's name, which need not resolve
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback())
    where = f"file://{meeting.resolve()}"
    named = {} if cpu else {"rank": rank, "world_size": spec.processes}  # accelerate gives a CPU its own
    return _Joined(PartialState(cpu=cpu, init_method=where, **named), spec.sharding)


def leave() -> None:
    """Part from the other ranks, once all have done their work."""
    torch.distributed.destroy_process_group()


def decoder_layers(model: Any) -> Sequence[torch.nn.Module]:
    """The repeated blocks of a transformers model: the longest list of modules in it.

    Raises: ValueError if it has none.
    """
    lists = [list(module) for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    if not lists:
        raise ValueError(f"{type(model).__name__} has no list of layers")
    return max(lists, key=_weights)


def _weights(modules: Sequence[torch.nn.Module]) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def loopback() -> str:
    """Name of the interface that leads back to this machine."""
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == "127.0.0.1" for address in addresses):
            return str(name)
    return "lo"

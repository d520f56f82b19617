"""What the trainer does on a GPU, on one that torch is only told of; and the card itself."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from tests.pretended.allocator import MIB, Allocator, Block, Full
from tests.pretended.library import why_not

TESTS = Path(__file__).with_name("test_cuda.py")
# The model of 7 billion is the benchmark's: it takes ten minutes. bitsandbytes keeps its 4 bits in a tensor
# of a kind of its own, which cannot be a pretended one as well.
LEFT_OUT = "not seven_billion and not nf4"


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
@pytest.mark.timeout(400)
def test_what_wants_a_gpu_passes_on_a_pretended_one() -> None:
    options = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    command = [sys.executable, "-m", "tests.pretended", "8G", "pytest", str(TESTS), "-k", LEFT_OUT, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert "skipped" not in done.stdout


def test_what_is_left_on_the_processor_raises(tmp_path: Path) -> None:
    if (why := why_not()) is not None:
        pytest.skip(why)
    module = tmp_path / "forgetful.py"
    module.write_text(
        "import torch\nweight = torch.ones(3, 3, device='cuda')\nweight @ torch.ones(3, 3, device='cuda')\n"
        "print('ours')\nweight @ torch.ones(3, 3)\n"
    )
    command = [sys.executable, "-m", "tests.pretended", "8G", "forgetful"]
    here = {**os.environ, "PYTHONPATH": f"{Path(__file__).parents[3]}{os.pathsep}{tmp_path}"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=here)
    assert done.returncode == 1
    assert "ours" in done.stdout
    assert "aten.mm.default mixes devices: (3, 3) is on the processor" in done.stderr


def test_memory_is_given_out_in_segments_and_blocks_that_join() -> None:
    card = Allocator(64 * MIB)
    small = card.take(1)
    assert (card.allocated, card.reserved) == (512, 2 * MIB)
    first, second = card.take(6 * MIB), card.take(6 * MIB)
    assert card.reserved == 22 * MIB  # both in one segment of 20
    card.give(first)
    card.give(second)
    third = card.take(9 * MIB)  # where both were
    assert card.reserved == 22 * MIB
    with pytest.raises(Full):
        card.take(43 * MIB)
    card.give(third)
    card.take(43 * MIB)  # for which the empty segment goes back
    assert card.reserved == 46 * MIB
    card.give(small)
    card.release()
    assert (card.allocated, card.reserved) == (44 * MIB, 44 * MIB)
    assert card.most_reserved == 46 * MIB


def test_nothing_overlaps_and_all_comes_back() -> None:
    draw, card = random.Random(0), Allocator(512 * MIB)
    held: list[Block] = []
    for _ in range(3000):
        if held and draw.random() < 0.5:
            card.give(held.pop(draw.randrange(len(held))))
        else:
            held.append(card.take(int(2 ** draw.uniform(0, 24))))
        assert card.allocated == sum(block.size for block in held) <= card.reserved
    places = sorted((block.start, block.start + block.size) for block in held)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(places))
    for block in held:
        card.give(block)
    card.release()
    assert card.allocated == card.reserved == 0

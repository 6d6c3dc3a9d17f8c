"""Checkpoints: any mesh reads what any other wrote; no damage goes unseen; a kill loses nothing committed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgraph.checkpoint import Shard, choose_checkpoint, open_checkpoint, sound_checkpoint, write_checkpoint
from dgraph.checkpoint.form import frame
from dgraph.error import DataError
from dgraph.random import uniform
from dgraph.rect import Rect, share
from dgraph.runtime.thread import run_threads

DIM = (12, 5, 9)
META = {"seed": 3, "losses": [0.5, 0.25]}


def values(rect, dim=DIM, name="W", dtype="float32"):
    return uniform(1, name, 0, dim, rect, dtype=dtype)


def tiles(dim, mesh):
    """The rects of the ranks of a mesh that cuts the dimensions of a tensor."""
    return [
        Rect.of(share(n, parts, i) for n, parts, i in zip(dim, mesh, place, strict=True))
        for place in product(*map(range, mesh))
    ]


def alone(folder, step, shards, meta=META, **more):
    write_checkpoint(folder, step, shards, meta, 0, 1, lambda part: [part], lambda: None, **more)


def write_by_threads(folder, step, shards_of_ranks, keep=2):
    """The collective call, with a thread for each rank."""
    size, parts = len(shards_of_ranks), {}
    barrier = threading.Barrier(size, timeout=20)

    def rank_main(rank):
        def gather(part):
            parts[rank] = part
            barrier.wait()
            return [parts[r] for r in range(size)] if rank == 0 else None

        write_checkpoint(folder, step, shards_of_ranks[rank], META, rank, size, gather, barrier.wait, keep)

    with ThreadPoolExecutor(size) as pool:
        list(pool.map(rank_main, range(size)))


@pytest.mark.parametrize("mesh", [(1, 1, 1), (2, 1, 2), (1, 3, 1), (5, 2, 1), (1, 1, 11)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_any_mesh_reads_what_any_other_wrote(tmp_path, mesh, dtype):
    pieces = [[Shard("W", DIM, rect, values(rect, dtype=dtype))] for rect in tiles(DIM, mesh)]
    write_by_threads(tmp_path, 7, pieces)
    checkpoint = open_checkpoint(tmp_path)
    assert (checkpoint.step, checkpoint.meta) == (7, META)
    assert checkpoint.tensors["W"].dim == DIM
    assert checkpoint.tensors["W"].dtype == dtype
    checkpoint.verify()
    for other in [(1, 1, 1), (3, 2, 2), (4, 1, 4)]:
        for rect in tiles(DIM, other):
            out = np.full(rect.size, np.nan, dtype)
            checkpoint.read("W", rect, out)
            assert (out == values(rect, dtype=dtype)).all()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_overlapping_shards_and_any_rect(tmp_path_factory, data):
    def rect():
        pairs = [data.draw(st.tuples(st.integers(0, n), st.integers(0, n)).map(sorted)) for n in DIM]
        return Rect.of(pairs)

    rects = [rect() for _ in range(data.draw(st.integers(0, 4)))]
    folder = tmp_path_factory.mktemp("checkpoint")
    alone(folder, 0, [Shard("W", DIM, r, values(r)) for r in [*rects, Rect((0, 0, 0), (12, 5, 4))]])
    wanted = rect()
    out = np.full(wanted.size, np.nan)
    covered = np.zeros(DIM, bool)
    for r in [*rects, Rect((0, 0, 0), (12, 5, 4))]:
        covered[r.slices()] = True
    if covered[wanted.slices()].all():
        open_checkpoint(folder).read("W", wanted, out)
        assert (out == values(wanted)).all()
    else:
        with pytest.raises(DataError, match=r"nothing covers .* of W"):
            open_checkpoint(folder).read("W", wanted, out)


def test_arrays_of_any_strides_and_no_dimensions(tmp_path):
    turned = np.asfortranarray(values(Rect.whole(DIM)))
    scalar = np.array(4.5)
    alone(tmp_path, 1, [Shard("W", DIM, Rect.whole(DIM), turned), Shard("t", (), Rect((), ()), scalar)])
    checkpoint = open_checkpoint(tmp_path)
    frame = np.zeros((12, 5, 18), np.float64)
    checkpoint.read("W", Rect.whole(DIM), frame[:, :, ::2])
    assert (frame[:, :, ::2] == values(Rect.whole(DIM))).all()
    out = np.zeros(())
    checkpoint.read("t", Rect((), ()), out)
    assert out == 4.5


def test_an_array_is_streamed(tmp_path):
    whole = Rect.whole((4096, 4096))
    array = np.ones((4096, 4096), np.float32).T
    tracemalloc.start()
    alone(tmp_path, 1, [Shard("W", whole.size, whole, array)])
    checkpoint = open_checkpoint(tmp_path)
    checkpoint.read("W", whole, array)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 << 20


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_only_the_newest_are_kept_and_leftovers_cleared(tmp_path):
    rect = Rect.whole(DIM)
    (tmp_path / "step-000009.tmp").mkdir()
    (tmp_path / "notes.tmp").mkdir()
    for step in (1, 2, 3, 4):
        alone(tmp_path, step, [Shard("W", DIM, rect, values(rect))], keep=3)
    assert names(tmp_path) == ["notes.tmp", "step-000002", "step-000003", "step-000004"]
    alone(tmp_path, 3, [Shard("W", DIM, rect, values(rect) + 1)], keep=3)
    assert names(tmp_path) == ["notes.tmp", "step-000002", "step-000003", "step-000003.1"]
    out = np.empty(DIM)
    open_checkpoint(tmp_path).read("W", rect, out)
    assert (out == values(rect) + 1).all()


def test_a_run_folder_or_one_checkpoint_will_do(tmp_path):
    rect = Rect.whole(DIM)
    for step in (1, 2):
        alone(tmp_path / "checkpoints", step, [Shard("W", DIM, rect, values(rect))])
    assert open_checkpoint(tmp_path).step == 2
    assert open_checkpoint(tmp_path / "checkpoints").step == 2
    assert open_checkpoint(tmp_path / "checkpoints" / "step-000001").step == 1


def committed(tmp_path):
    """A checkpoint of two tensors by two ranks."""
    left, right = tiles(DIM, (1, 1, 2))
    other = Rect.whole((3,))
    write_by_threads(
        tmp_path,
        120,
        [
            [Shard("W", DIM, left, values(left)), Shard("b", (3,), other, values(other, (3,), "b", "float64"))],
            [Shard("W", DIM, right, values(right))],
        ],
    )
    return tmp_path / "step-000120"


def read_all(path):
    checkpoint = open_checkpoint(path)
    for name, tensor in checkpoint.tensors.items():
        checkpoint.read(name, Rect.whole(tensor.dim), np.empty(tensor.dim))


def flip(content, dice):
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)


def cut(content, dice):
    del content[dice.randrange(len(content)) :]


def garble(content, dice):
    """Other bytes in a block of it."""
    start = dice.randrange(len(content))
    length = min(len(content) - start, dice.randrange(1, 65))
    content[start : start + length] = bytes(255 - byte for byte in content[start : start + length])


def append(content, dice):
    content += dice.randbytes(dice.randrange(1, 65))


def test_300_flips_cuts_and_rests_are_found_and_the_one_before_is_used(tmp_path):
    """Of both the index and the shards; a few files are missing."""
    whole = Rect.whole(DIM)
    alone(tmp_path, 119, [Shard("W", DIM, whole, values(whole))])
    folder, dice = committed(tmp_path), random.Random(0)
    victims = {path: path.read_bytes() for path in sorted(folder.iterdir())}
    for number in range(300):
        victim = dice.choice([*victims])
        content = bytearray(victims[victim])
        [flip, flip, flip, cut, cut, garble, append][number % 7](content, dice)
        victim.write_bytes(content)
        if number % 50 == 49:
            victim.unlink()
        for look in (read_all, lambda path: open_checkpoint(path).verify(), sound_checkpoint):
            with pytest.raises(DataError, match=victim.name):
                look(folder)
        found, passed = sound_checkpoint(tmp_path)
        assert found.step == 119
        assert len(passed) == 1
        assert str(victim) in passed[0]
        assert passed[0].endswith("; going by step-000119")
        victim.write_bytes(victims[victim])
    assert sound_checkpoint(tmp_path)[0].step == 120


def test_all_ranks_take_the_same_checkpoint(tmp_path):
    """Though only one of them tests the shard that is damaged."""
    whole = Rect.whole(DIM)
    alone(tmp_path, 119, [Shard("W", DIM, whole, values(whole))])
    victim = committed(tmp_path) / "rank-00001.bin"
    victim.write_bytes(bytes(victim.stat().st_size))

    def body(communicator):
        ranks = communicator.rank, communicator.size
        return choose_checkpoint(tmp_path, False, *ranks, communicator.gather, communicator.broadcast)

    for found, passed in run_threads(4, body):
        assert found.step == 119
        assert [victim.name in line for line in passed] == [True]


def best_of(step):
    return {"best": {"step": step}}


def steps_in(folder):
    return [int(path.name[5:11]) for path in sorted(folder.iterdir())]


def test_the_best_is_kept_until_another_is(tmp_path):
    shards = [Shard("W", DIM, Rect.whole(DIM), values(Rect.whole(DIM)))]
    for step, best in [(1, 1), (2, 1), (3, 1), (4, 1), (5, 5), (6, 5)]:
        alone(tmp_path, step, shards, best_of(best), keep=2)
        assert best in steps_in(tmp_path)
        assert sound_checkpoint(tmp_path, best=True)[0].step == best
    assert steps_in(tmp_path) == [5, 6]
    alone(tmp_path, 7, shards, {}, keep=2)
    with pytest.raises(DataError, match="it names no best checkpoint"):
        sound_checkpoint(tmp_path, best=True)


def test_who_goes_back_finds_the_best_of_then(tmp_path):
    shards = [Shard("W", DIM, Rect.whole(DIM), values(Rect.whole(DIM)))]
    for step, best in [(1, 1), (2, 1), (3, 3)]:
        alone(tmp_path, step, shards, best_of(best), keep=2)
    assert steps_in(tmp_path) == [1, 2, 3]
    alone(tmp_path, 2, shards, best_of(1), keep=2)
    assert sound_checkpoint(tmp_path, best=True)[0].step == 1


def remove(folder):
    (folder / "rank-00001.bin").unlink()


def link(folder):
    shutil.move(folder / "rank-00001.bin", folder.parent / "elsewhere")
    (folder / "rank-00001.bin").symlink_to(folder.parent / "elsewhere")


def lengthen(folder):
    with (folder / "rank-00001.bin").open("ab") as file:
        file.write(b"x")


def write_index(change):
    def damage(folder):
        index = folder / "index.json"
        tree = json.loads(index.read_bytes())["index"]
        change(tree)
        index.write_bytes(frame(json.dumps(tree).encode()))

    return damage


def entry(place, value):
    return write_index(lambda tree: tree["shards"][0].__setitem__(place, value))


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (remove, "rank-00001.bin: No such file or directory"),
        (link, "rank-00001.bin: not a plain file"),
        (lengthen, "rank-00001.bin: 961 bytes instead of 960"),
        (lambda folder: (folder / "index.json").unlink(), "index.json: No such file or directory"),
        (lambda folder: (folder / "index.json").write_bytes(b""), "index.json: damaged"),
        (write_index(lambda tree: tree.update(version=2)), "index.json: a dgraph checkpoint 2"),
        (write_index(lambda tree: tree.pop("step")), "not the index of a checkpoint"),
        (write_index(lambda tree: tree.update(shards=[[1]])), "not the index of a checkpoint"),
        (lambda folder: (folder / "index.json").write_bytes(frame(b"[" * 100_000)), "not the index"),
        (entry(5, "../rank-00000.bin"), "a rect, dtype or file that cannot be"),
        (entry(5, "/etc/passwd"), "a rect, dtype or file that cannot be"),
        (entry(2, "object"), "a rect, dtype or file that cannot be"),
        (entry(3, [1, 0, 0]), "a rect, dtype or file that cannot be"),
        (entry(4, [12, 5]), "not the index of a checkpoint"),
        (entry(6, 8), "shards overlap or leave a gap"),
        (entry(7, 1 << 70), "a shard of the wrong length"),
        (entry(6, -4), "entries of a wrong type"),
        (entry(1, [13, 5, 9]), "shards of W differ in dim or dtype"),
    ],
)
def test_every_fault_is_one_line(tmp_path, damage, line):
    folder = committed(tmp_path)
    damage(folder)
    with pytest.raises(DataError) as caught:
        open_checkpoint(folder)
    assert line in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.status == 4


def test_what_is_not_there_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="no such checkpoint"):
        open_checkpoint(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="file"):
        open_checkpoint(tmp_path / "file")
    checkpoint = open_checkpoint(committed(tmp_path))
    with pytest.raises(DataError, match="no tensor V"):
        checkpoint.read("V", Rect.whole(DIM), np.empty(DIM))
    with pytest.raises(ValueError, match="does not fit"):
        checkpoint.read("W", Rect.whole(DIM), np.empty(3))


def test_a_disk_that_refuses_is_a_data_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="file"):
        alone(tmp_path / "file" / "run", 1, [])


CHILD = """
import sys
from pathlib import Path
import numpy as np
from dgraph.checkpoint import Shard, write_checkpoint
from dgraph.rect import Rect
folder, step = Path(sys.argv[1]), int(sys.argv[2])
whole = Rect.whole((300, 500))
while True:
    array = np.full(whole.size, step, np.float32)
    shards = [Shard("W", whole.size, whole, array), Shard("b", whole.size, whole, array)]
    write_checkpoint(folder, step, shards, {"value": step}, 0, 1, lambda part: [part], lambda: None)
    print(step, flush=True)
    step += 1
"""


def killed_child(folder, step, delay):
    """Let a child write checkpoints until it is killed; the last step that it said it had committed."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), str(step)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    said = [child.stdout.readline()]
    time.sleep(delay)
    child.send_signal(signal.SIGKILL)
    said += child.stdout.readlines()
    child.wait()
    return max(int(line) for line in said if line.endswith("\n"))


def test_a_kill_at_any_moment_leaves_the_newest_committed(tmp_path):
    dice, step = random.Random(1), 0
    for _ in range(20):
        last = killed_child(tmp_path, step, dice.uniform(0, 0.05))
        checkpoint = open_checkpoint(tmp_path)
        checkpoint.verify()
        assert last <= checkpoint.step <= last + 1
        out = np.empty((300, 500))
        checkpoint.read("b", Rect.whole(out.shape), out)
        assert (out == checkpoint.step).all()
        assert checkpoint.meta == {"value": checkpoint.step}
        step = checkpoint.step + 1

"""Sharing work between processes and bringing it together, in one process and in three."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest
import torch

from tests.support import wds_shards
from tests.support.processes import torchrun
from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.features import _deadline, _launch, _roll_call, image_pass, ranks
from zhclip_openclip.features._deadline import Deadline
from zhclip_openclip.features.stream import StreamLayout, count_samples

LAUNCHERS = {
    "torchrun": {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"},
    "mpich": {"PMI_RANK": "3", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1"},
    "open mpi": {
        "OMPI_COMM_WORLD_RANK": "3",
        "OMPI_COMM_WORLD_SIZE": "8",
        "OMPI_COMM_WORLD_LOCAL_RANK": "1",
        "SLURM_PROCID": "0",  # of the machine, where mpirun was started inside a SLURM job
    },
    "srun": {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"},
}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for names in LAUNCHERS.values():
        for name in names:
            monkeypatch.delenv(name, raising=False)


@pytest.fixture
def be():
    """Be one of several processes that do not talk to each other."""

    def set_place(rank: int, size: int):
        class World:
            place = ranks.Place(rank, size)

        ranks._current.set(World() if size > 1 else None)

    yield set_place
    ranks._current.set(None)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launchers_tell_the_place(launcher, monkeypatch):
    assert ranks.place_from_environment() == ranks.Place()
    for name, value in LAUNCHERS[launcher].items():
        monkeypatch.setenv(name, value)
    assert ranks.place_from_environment() == ranks.Place(3, 8, 1)


def test_a_batch_script_of_slurm_is_one_process(monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    assert ranks.place_from_environment() == ranks.Place()


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_parts_are_contiguous_and_complete(size, be):
    for count in (0, 1, 2, 6, 7, 100):
        parts = []
        for rank in range(size):
            be(rank, size)
            parts.append(ranks.part(count))
        assert [item for part in parts for item in part] == list(range(count))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_rows_come_together_in_the_order_of_the_whole():
    blocks = [(torch.tensor([5, 6]), torch.tensor([[5.0], [6.0]])), (torch.tensor([0, 1, 2, 3, 4]), torch.zeros(5, 1))]
    numbers, values = ranks.gather_rows(blocks, [5, 0])
    assert numbers.tolist() == list(range(7)) and values[-2:, 0].tolist() == [5.0, 6.0]
    assert ranks.gather_rows([], []) == ()
    for starts in ([4, 0], [6, 0]):  # there twice; missing
        with pytest.raises(ZhclipError, match="by no process, or by two"):
            ranks.gather_rows(blocks, starts)


def test_bad_settings_name_themselves(monkeypatch):
    for value in ("soon", "nan", "inf", "-1", "0"):
        monkeypatch.setenv(ranks.PATIENCE, value)
        with pytest.raises(ZhclipError, match=f"ZHCLIP_RANK_TIMEOUT={value}: not a number of seconds; .* is 300"):
            _launch.seconds(ranks.PATIENCE, ranks.DEFAULT_PATIENCE)
    monkeypatch.setenv(ranks.GATHER, "lots")
    with pytest.raises(ZhclipError, match="ZHCLIP_GATHER_LIMIT=lots: not a size"):
        ranks.gather_limit()


def test_an_address_is_needed(monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ZhclipError, match="MASTER_ADDR and MASTER_PORT not set"):
        _launch.find_each_other(ranks.Place(1, 8))
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "8")  # all on this machine
    _launch.find_each_other(ranks.Place(1, 8))


# ---------------------------------------------------------------- streams


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """47 samples in 7 shards."""
    return wds_shards.write(tmp_path_factory.mktemp("wds"), [f"class {n}" for n in range(6)], count=47, a_shard=7)


def loader(root, workers: int, size: int, transform=None):
    from clip_benchmark.datasets.builder import build_wds_dataset
    from torchvision.transforms.functional import pil_to_tensor

    dataset = build_wds_dataset("x", transform or pil_to_tensor, data_dir=str(root))
    batches = dataset.batched(size)
    return torch.utils.data.DataLoader(batches, batch_size=None, shuffle=False, num_workers=workers)


@pytest.mark.parametrize("workers, size", [(0, 5), (2, 5), (3, 4), (2, 100)])
def test_batches_of_a_stream_by_number_are_those_of_the_loader(shards, workers, size):
    """Any parts of them together, in the order in which one process gets them."""
    given = loader(shards, workers, size)
    expected = list(given)
    layout = StreamLayout.of(given)
    assert layout.batches == len(expected)
    assert layout.images(range(layout.batches)) == 47 and layout.images(range(0)) == 0
    assert [layout.images(range(b, b + 1)) for b in range(layout.batches)] == [len(x) for x, _ in expected]
    for cuts in ([0, layout.batches], [0, 0, layout.batches // 3, layout.batches]):
        found = [
            batch
            for first, last in zip(cuts[:-1], cuts[1:], strict=True)
            for batch in layout.loader(range(first, last), "cpu")
        ]
        assert len(found) == len(expected)
        for (images, labels), (their_images, their_labels) in zip(found, expected, strict=True):
            assert torch.equal(images, their_images) and torch.equal(labels, their_labels)


def test_samples_are_counted_as_webdataset_groups_them(shards, tmp_path):
    import io
    import tarfile

    import webdataset

    assert [count_samples(shards / "test" / f"{n}.tar") for n in range(7)] == [7, 7, 7, 7, 7, 7, 5]
    names = ["__notes__.json", "a.cls", "a.png", "b/c.png", "b/c.cls", "none", "b/c.x.y", "a.txt", "d.", ".e"]
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("folder/"))
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"1"))
    theirs = list(webdataset.WebDataset(str(tmp_path / "0.tar"), shardshuffle=False))
    assert count_samples(tmp_path / "0.tar") == len(theirs)
    (tmp_path / "1.tar").write_bytes(b"no tar")
    with pytest.raises(ZhclipError, match=r"1\.tar is no whole tar file"):
        count_samples(tmp_path / "1.tar")


def test_a_shard_that_lost_samples_is_an_error(shards, monkeypatch):
    monkeypatch.setattr("zhclip_openclip.features.stream.count_samples", lambda shard: 8)
    layout = StreamLayout.of(loader(shards, 0, 5))
    with pytest.raises(ZhclipError, match="other samples than its headers tell"):
        list(layout.loader(range(layout.batches), "cpu"))


def test_what_is_no_stream_of_local_shards_has_no_layout(shards):
    from torch.utils.data import DataLoader, IterableDataset

    from zhclip_openclip.datasets import streams

    class Stream(IterableDataset):
        def __iter__(self):
            yield torch.zeros(2, 3), torch.zeros(2)

    assert StreamLayout.of(DataLoader(Stream(), batch_size=None)) is None
    far = loader(shards, 0, 5)
    far.dataset.pipeline[0].urls = ["https://example.org/0.tar"]
    assert StreamLayout.of(far) is None
    given = loader(shards, 0, 5).dataset
    for skip in (False, True):  # what is left out is known when it has been decoded
        guarded = streams.guard(given, "wds/x", skip=skip)
        layout = StreamLayout.of(DataLoader(guarded, batch_size=None))
        assert (layout is None) == skip


def test_other_streams_are_shared_in_turn(be):
    class Reader:
        dist_rank, dist_num_replicas = 5, 8  # what timm takes when torch.distributed is there

    class Stream(torch.utils.data.IterableDataset):
        reader = Reader()

        def __iter__(self):
            assert (self.reader.dist_rank, self.reader.dist_num_replicas) == (0, 1)
            yield from ((torch.full((1 + n % 2,), n), torch.tensor(n)) for n in range(7))

    given = torch.utils.data.DataLoader(Stream(), batch_size=None)
    blocks, starts = [], []
    for rank in range(3):
        be(rank, 3)
        for start, images, _ in image_pass.in_turns(given):
            blocks.append((images,))
            starts.append(start)
    be(0, 1)
    (whole,) = ranks.gather_rows(blocks, starts)
    assert whole.tolist() == [0, 1, 1, 2, 3, 3, 4, 5, 5, 6]


# ---------------------------------------------------------------- three processes

SCRIPT = """
    import os
    import sys
    from pathlib import Path

    import torch
    from zhclip_openclip._errors import ZhclipError
    from zhclip_openclip.features import arithmetic, ranks
    from zhclip_openclip.metrics._features import Features
    from zhclip_openclip.metrics.parts import score_parts
    from zhclip_openclip.metrics.recall import score_retrieval

    folder = Path(sys.argv[1])
    ranks._CHUNK = 100  # several a tensor


    def cell(work):
        ranks.next_cell()
        try:
            work()
        except ranks.Elsewhere:
            assert ranks.rank() > 0
        ranks.end_cell()


    def exchange():
        r = ranks.rank()
        assert ranks.everyones(r * "x") == ["", "x", "xx"]
        for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.bool):
            mine = torch.full((40 * r, 3), r).to(dtype) if r != 1 else None  # none at all, no rows, some
            found = ranks.everyones_rows(mine)
            assert [tuple(t.shape) for t in found] == [(0, 3), (80, 3)] and found[1].dtype == dtype
            assert (found[1] == torch.full((80, 3), 2).to(dtype)).all()
            gathered = ranks.gather(mine)
            assert [len(t) for t in gathered] == ([] if r else [0, 80])
        assert ranks.from_first(torch.tensor(float(r))).item() == 0.0
        # Interleaved, as streams are; rank 1 has nothing.
        blocks = [(torch.arange(s, s + 3), torch.full((3, 2), float(s))) for s in range(0, 30, 3) if s % 2 == r / 2]
        numbers, values = ranks.gather_rows(blocks, [int(block[0][0]) for block in blocks])
        assert r == 0 and numbers.tolist() == list(range(30)) and values[29, 1] == 27.0


    def skipped():
        if ranks.rank():
            ranks.meet()  # rank 0 does not come
            raise AssertionError


    def turns():
        with ranks.in_turn():
            if ranks.rank() == 0:
                (folder / "downloaded").touch()
            assert (folder / "downloaded").exists()
        with ranks.alone():
            assert ranks.size() == 1 and ranks.everyones(5) == [5] and list(ranks.part(9)) == list(range(9))
        try:
            ranks.agree("the weights", ranks.rank() > 1)
        except ZhclipError as error:
            assert "the weights of rank 2 differ from rank 0's" in str(error)
        else:
            raise AssertionError


    def retrieval(coarse, images, texts, directions, top):
        random = torch.Generator().manual_seed(images)
        def features(count):
            found = torch.randn(count, 8, generator=random)
            return found.round() if coarse else torch.nn.functional.normalize(found, dim=1)
        image, text = features(images), features(texts)
        image[images // 2 :][:2] = image[0]  # equal images in different parts
        right = [torch.randperm(images, generator=random)[: t % 4].tolist() for t in range(texts)]
        cuts = [0, images // 3, images // 3, images] if images % 2 else [0, 1, images - 1, images]
        r = ranks.rank()
        mine = Features(image[cuts[r] : cuts[r + 1]], "image features")
        found = score_parts(mine, Features(text, "texts"), right, directions=directions, top=top, block=(13, 16))
        expected = score_retrieval(image, text, right, directions=directions, top=top)
        assert found.metrics((1, 2, 50)) == expected.metrics((1, 2, 50))
        for name in ("ranks", "top", "counted"):
            ours, theirs = getattr(found, name), getattr(expected, name)
            assert ours.keys() == theirs.keys(), name
            for direction in ours:
                assert (ours[direction] == theirs[direction]).all() and ours[direction].dtype == theirs[direction].dtype


    BOTH = ("image_retrieval", "text_retrieval")
    arithmetic.rule = lambda why: arithmetic.Arithmetic(onednn=os.environ["RANK"] == "0", bf16=False)
    with ranks.joined():
        assert torch.cuda.is_available() or arithmetic.chosen().onednn, "rank 0's"
        for work in (exchange, skipped, exchange, turns):
            cell(work)
        for case in (
            (False, 57, 40, BOTH, 10),
            (True, 58, 41, BOTH, 10),
            (True, 5, 70, BOTH, 10),
            (False, 90, 33, ("image_retrieval",), 0),
            (True, 33, 20, ("text_retrieval",), 3),
        ):
            cell(lambda: retrieval(*case))
        (folder / f"ended-{ranks.rank()}").touch()
"""


def test_three_processes_exchange_and_score(tmp_path):
    """Uneven parts, empty ones, ties across parts; scores, ranks and best items are those of one process."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT), encoding="utf-8")
    done = torchrun(3, script, tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in tmp_path.glob("ended-*")} == {"ended-0", "ended-1", "ended-2"}


# ---------------------------------------------------------------- waits that end

BEFORE = """
    import sys, threading, time
    from pathlib import Path

    import torch
    from zhclip_openclip.features import _deadline, _roll_call, ranks

    _roll_call._GRACE, ranks._JOIN_GRACE, _deadline.INTERVAL, _roll_call.INTERVAL = 2.0, 1.0, 0.2, 0.2
    folder = Path(sys.argv[1])
"""
JOIN = """
    try:
        with ranks.joined():
            ranks.next_cell()
            (folder / f"in-{ranks.rank()}").touch()
            if ranks.rank() == 0:
                time.sleep(1000)
            ranks.meet()
    except ranks.RankFailed as error:
        print(error, file=sys.stderr)
        sys.exit(1)
"""
#: A store that stops to answer, and where the main thread is then.
FROZEN = """
    class Store:
        frozen = False
        def __getattr__(self, name):
            def ask(*given):
                while self.frozen:
                    try:  # as a call into the store, it does not come back for an interrupt
                        time.sleep(0.1)
                    except KeyboardInterrupt:
                        pass
                if name == "multi_get":
                    return [{"failed": b"-", "over": b"0"}.get(key, b"bye") for key in given[0]]
                return {"add": 1, "get": b"-"}.get(name)
            return ask

    store = Store()
    roll = _roll_call.RollCall(store, 1, 2, 2.0, _deadline.Deadline(1000, lambda: None), 1000.0)
    roll.start()
    time.sleep(1.0)
    store.frozen = True
    {"meet": roll.meet, "fail": lambda: (roll.why(), roll.fail("an error")), "leave": roll.leave}[sys.argv[2]]()
"""


def _script(tmp_path, *parts):
    script = tmp_path / "script.py"
    script.write_text("".join(textwrap.dedent(part) for part in parts), encoding="utf-8")
    return script


@pytest.mark.parametrize("where", ["meet", "fail", "leave"])
def test_a_store_that_does_not_answer_ends_the_process_wherever_it_is(where, tmp_path):
    done = subprocess.run(
        [sys.executable, _script(tmp_path, BEFORE, FROZEN), tmp_path, where], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and "rank 1 of 2: the store that holds" in done.stderr, done.stderr
    assert "does not answer: rank 0, or its machine, has stopped" in done.stderr


def test_a_rank_0_that_accepts_and_never_answers_is_not_waited_for(tmp_path):
    """As long as the processes have not met."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen(8)
        launcher = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        done = subprocess.run(
            [sys.executable, _script(tmp_path, BEFORE, JOIN), tmp_path],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, **launcher, "MASTER_PORT": str(mute.getsockname()[1]), ranks.PATIENCE: "2"},
        )
    assert done.returncode == 1 and "rank 1 of 2 did not find the others at 127.0.0.1:" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no processes that can be stopped")
def test_a_frozen_rank_0_is_not_waited_for_without_torchrun(tmp_path):
    """It has the store; when it goes on it finds the others gone, and ends too."""
    script = _script(tmp_path, BEFORE, JOIN)
    started = []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    try:
        for rank in range(3):
            launcher = {"RANK": str(rank), "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            started.append(
                subprocess.Popen(
                    [sys.executable, script, tmp_path],
                    stderr=subprocess.PIPE,
                    text=True,
                    env={**os.environ, **launcher, ranks.PATIENCE: "3", "OMP_NUM_THREADS": "1"},
                )
            )
        limit = time.monotonic() + 120
        while len(list(tmp_path.glob("in-*"))) < 3 and time.monotonic() < limit:
            time.sleep(0.1)
        started[0].send_signal(signal.SIGSTOP)
        for rank in (1, 2):
            errors = started[rank].communicate(timeout=60)[1]
            assert started[rank].returncode == 1, errors
            assert f"rank {rank} of 3: the store that holds the processes together does not answer" in errors
        started[0].send_signal(signal.SIGCONT)
        errors = started[0].communicate(timeout=60)[1]
        assert started[0].returncode == 1 and "nothing was heard of rank" in errors
    finally:
        for process in started:
            process.kill()


def test_a_meeting_in_which_nobody_does_anything_ends():
    class Store:
        def __getattr__(self, name):
            return lambda *given: 1

    told = []
    roll = _roll_call.RollCall(Store(), 1, 3, 1000.0, Deadline(1000.0, told.clear), stall=0.3)
    roll._signs = [b"1 0 0", b"1 0 0", b"1 0 0"]
    roll.next_cell()

    def work():  # the others get on for a while
        told.append(1)
        if len(told) < 20:
            roll._signs = [b"1 0 %d" % len(told), b"1 0 0", b"1 0 0"]

    with pytest.raises(_roll_call.Lost, match="2 of 3 processes have not come on for 0.0 h"):
        roll.meet(work)
    assert len(told) >= 20
    roll._deadline.stop()


def test_a_deadline_begins_anew_with_each_sign(monkeypatch):
    monkeypatch.setattr(_deadline, "INTERVAL", 0.02)
    expired = threading.Event()
    deadline = Deadline(0.3, expired.set)
    for _ in range(20):
        deadline.heard()
        assert not expired.wait(0.03)
    assert expired.wait(60)
    other = Deadline(0.04, expired.clear)
    other.stop()
    assert not threading.Event().wait(0.1) and expired.is_set()

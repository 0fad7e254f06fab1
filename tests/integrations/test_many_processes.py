"""`zhclip eval` under torchrun: the results of one process, to the byte, whatever the number of processes; and what
happens when one of them ends."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.support import retrieval_files, wds_shards
from tests.support.processes import ENVIRONMENT, torchrun
from zhclip_openclip.datasets.retrieval import build_retrieval_dataset
from zhclip_openclip.datasets.wds_export import export_wds

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
MODULE = ("-m", "zhclip_openclip", "eval")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Stand-ins for retrieval sets, each in a folder of its name."""
    root = tmp_path_factory.mktemp("data")
    retrieval_files.write_tsv(root / "muge", "valid", several=True, muge_names=True)
    retrieval_files.write_coco_release(root / "coco-cn")
    return root


@pytest.fixture(scope="module")
def shards(data, tmp_path_factory):
    """WebDataset shards, likewise."""
    root = tmp_path_factory.mktemp("shards")
    coco = build_retrieval_dataset("coco-cn", data / "coco-cn")
    export_wds(coco, root / "coco-cn", 4)
    # Without the exact pairs it is clip_benchmark's own retrieval, with its own scoring.
    export_wds(coco, root / "mscoco_captions", 3)
    (root / "mscoco_captions" / "test" / "pairs.json").unlink()
    wds_shards.write(root / "cifar10", CIFAR10, count=23, a_shard=4)
    wds_shards.write(root / "voc", CIFAR10[:3], count=11, a_shard=4, several=True)
    return root


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """fer2013 as it is unpacked: 21 images in seven folders."""
    root = tmp_path_factory.mktemp("faces")
    for index, name in enumerate(["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]):
        (root / "test" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("L", (48, 48), 30 * index + number).save(root / "test" / name / f"{number}.png")
    return root


def words(*names: str, root, language: str = "zh", model: str = "zhclip-tiny", workers: int = 0, size: int = 5) -> list:
    return [
        *("--model", model, "--dataset", *names, "--dataset_root", f"{root}/{{dataset}}", "--language", language),
        *("--num_workers", str(workers), "--batch_size", str(size), "--output", "{dataset}_{language}.json"),
    ]


@pytest.fixture
def one_process(monkeypatch, tmp_path):
    """Evaluate in this process, with as many threads as each of several has; gives the folder of the results."""
    import clip_benchmark.cli as cli

    def run(*arguments) -> Path:
        folder = tmp_path / "one"
        folder.mkdir()
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["clip_benchmark", "eval", *map(str, arguments)])
        try:
            cli.main()
        finally:
            torch.set_num_threads(before)
        return folder

    return run


def several(count: int, folder: Path, *arguments, **environment):
    folder.mkdir()
    done = torchrun(count, *MODULE, *arguments, cwd=folder, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def same(found: Path, expected: Path, files: int) -> None:
    names = sorted(path.name for path in expected.iterdir())
    assert len(names) == files and names == sorted(path.name for path in found.iterdir())
    for name in names:
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name


def test_three_processes_give_the_files_of_one(one_process, data, tmp_path):
    """Classification, and retrieval with several right images; 52 batches, and 2, so that one process has none."""
    arguments = words("digits", "muge", root=data, size=7)
    done = several(3, tmp_path / "three", *arguments)
    same(tmp_path / "three", one_process(*arguments), files=4)
    assert done.stdout.count("Dump results to") == 2  # one process speaks


def test_the_error_of_one_ends_all(faces, tmp_path):
    spoiled = tmp_path / "fer2013"
    shutil.copytree(faces, spoiled)
    (spoiled / "test" / "sad" / "1.png").write_bytes(b"no picture")  # the 17th of 21: in the last part
    done = torchrun(2, *MODULE, *words("fer2013", root=tmp_path, workers=1), cwd=tmp_path)
    assert done.returncode == 1
    told = [line for line in done.stderr.splitlines() if "zhclip eval: error: rank 1 of 2" in line]
    assert len(told) == 1 and "sad/1.png does not decode" in told[0]
    assert not list(tmp_path.glob("*.json")) and not list(tmp_path.glob("*.npz"))


# ---------------------------------------------------------------- more of the same


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("size", [5, 100, 400])
def test_files_are_those_of_one_process(count, size, one_process, data, tmp_path):
    """With batches of 100 the retrieval stand-ins are one batch and with 400 all are: fewer than processes."""
    arguments = words("digits", "digits-retrieval", "muge", "coco-cn", root=data, size=size)
    several(count, tmp_path / "several", *arguments)
    same(tmp_path / "several", one_process(*arguments), files=8)


@pytest.mark.slow
@pytest.mark.parametrize("count, workers, size", [(2, 2, 5), (3, 0, 4), (3, 2, 3), (3, 3, 64)])
def test_shards(count, workers, size, one_process, shards, tmp_path):
    """Per-image files too, so the order of a stream is kept; several labels an image; clip_benchmark's own scoring of
    retrieval, and ours."""
    names = ("wds/cifar10", "wds/coco-cn", "wds/mscoco_captions")
    arguments = words(*names, root=shards, workers=workers, size=size)
    several(count, tmp_path / "several", *arguments)
    same(tmp_path / "several", one_process(*arguments), files=len(names) + 2)


@pytest.mark.slow
def test_several_labels_an_image(one_process, shards, tmp_path):
    arguments = words("wds/voc", root=shards, language="en", size=2)
    done = several(3, tmp_path / "several", *arguments, ZHCLIP_GATHER_LIMIT="0")
    assert "has several labels an image: all its scores are here" in done.stdout
    same(tmp_path / "several", one_process(*arguments), files=1)


@pytest.mark.slow
def test_above_the_limit_only_the_best_scores_travel(one_process, data, tmp_path):
    arguments = words("digits", root=data)
    several(2, tmp_path / "several", *arguments, ZHCLIP_GATHER_LIMIT="0")
    same(tmp_path / "several", one_process(*arguments), files=2)


@pytest.mark.slow
def test_models_that_are_not_ours(one_process, shards, tmp_path):
    """Classes are shared where prompts are clip_benchmark's, and its own metrics see what its towers give."""
    arguments = words("digits", "wds/mscoco_captions", root=shards, language="en", size=100)
    arguments[:2] = ["--pretrained_model", "ViT-S-32-alt,"]
    several(3, tmp_path / "several", *arguments)
    same(tmp_path / "several", one_process(*arguments), files=3)


@pytest.mark.slow
def test_the_feature_cache(one_process, shards, tmp_path):
    """Three processes make it, three use it, and so does one; a process that does not find what others find makes its
    own part."""
    arguments = words("digits", "wds/cifar10", root=shards, workers=2, size=50)
    expected = one_process(*arguments)
    cache = tmp_path / "cache"
    for name in ("made", "used"):
        done = several(3, tmp_path / name, *arguments, ZHCLIP_FEATURE_CACHE=str(cache))
        same(tmp_path / name, expected, files=4)
        assert done.stdout.count("from the cache") == (2 if name == "used" else 0)
        assert sorted(path.name for path in cache.rglob("*.safetensors")) == ["features.safetensors"] * 2
    for rank in (0, 1):
        shutil.copytree(cache, tmp_path / "caches" / str(2 * rank))  # rank 1 has none
    (tmp_path / "apart").mkdir()
    script = f'ZHCLIP_FEATURE_CACHE={tmp_path}/caches/$RANK exec {sys.executable} -m zhclip_openclip eval "$@"'
    done = torchrun(3, "--no-python", "bash", "-c", script, "eval", *arguments, cwd=tmp_path / "apart")
    assert done.returncode == 0, done.stderr[-3000:]
    same(tmp_path / "apart", expected, files=4)
    assert list((tmp_path / "caches" / "1").rglob("*.safetensors"))


@pytest.mark.slow
def test_what_exists_is_skipped_by_all(data, tmp_path):
    folder = tmp_path / "several"
    folder.mkdir()
    whole = '{"metrics": {"acc1": 0.5}, "versions": {"torch": "1"}}'  # one that is not would be evaluated again
    (folder / "digits_zh.json").write_text(whole)
    done = torchrun(2, *MODULE, *words("digits", "muge", root=data), "--skip_existing", cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "digits_zh.json").read_text() == whole and (folder / "muge_zh.json").is_file()


@pytest.mark.slow
def test_two_ways_to_split_are_refused(data, tmp_path):
    """--distributed with clip_benchmark itself is as ever: whole evaluations for each process."""
    arguments = words("digits", "muge", root=data)
    done = torchrun(2, *MODULE, *arguments, "--distributed", cwd=tmp_path)
    assert done.returncode == 1 and "start clip_benchmark eval --distributed" in done.stderr
    assert not list(tmp_path.glob("*.json"))
    script = Path(sys.executable).with_name("clip_benchmark")
    done = torchrun(2, "--no-python", script, "eval", *arguments, "--distributed", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in tmp_path.glob("*.json")} == {"digits_zh.json", "muge_zh.json"}
    assert done.stdout.count("Dump results to") == 2


@pytest.mark.slow
def test_words_that_are_not_understood_are_told_once(tmp_path):
    done = torchrun(2, *MODULE, "--nonsense", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.count("unrecognized arguments: --nonsense") == 1
    done = torchrun(2, *MODULE, "--help", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.count("usage: clip_benchmark eval") == 1


# ---------------------------------------------------------------- without torchrun, which would end them all


def _start(count: int, size: int, folder: Path, *arguments, **environment) -> list[subprocess.Popen]:
    """`count` of `size` processes as mpirun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(count):
        names = {"RANK": rank, "SIZE": size, "LOCAL_RANK": rank, "LOCAL_SIZE": size}
        launcher = {f"OMPI_COMM_WORLD_{name}": str(value) for name, value in names.items()}
        started.append(
            subprocess.Popen(
                [sys.executable, *MODULE, *map(str, arguments)],
                cwd=folder,
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
                env={**os.environ, **ENVIRONMENT, **launcher, "MASTER_PORT": str(port), **environment},
            )
        )
    return started


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 2])
def test_a_process_that_is_killed_is_missed(victim, faces, tmp_path):
    """By those that wait for it, and by the one that is stuck reading a file (which blocks for ever)."""
    shutil.copytree(faces, tmp_path / "fer2013")
    stuck = tmp_path / "fer2013" / "test" / "sad" / "1.png"  # in the part of rank 2
    stuck.unlink()
    os.mkfifo(stuck)
    arguments = [*words("fer2013", root=tmp_path), "--quiet"]
    started = _start(3, 3, tmp_path, *arguments, ZHCLIP_RANK_TIMEOUT="10")
    try:
        held = _hold(stuck)
        started[victim].send_signal(signal.SIGKILL)
        for rank, process in enumerate(started):
            errors = process.communicate(timeout=120)[1]
            if rank == victim:
                assert process.returncode == -signal.SIGKILL
                continue
            assert process.returncode == 1, errors
            # The first one that misses it tells the others.
            told = ("nothing was heard of rank 2 for", "rank 2 has failed", "rank 0, or its launcher, has ended")
            assert any(text in errors for text in (told[:2] if victim else told[2:]))
        os.close(held)
    finally:
        for process in started:
            process.kill()


def _hold(fifo: Path) -> int:
    """Wait until somebody reads a FIFO, and write nothing to it."""
    deadline = time.monotonic() + 120
    while True:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads
            assert time.monotonic() < deadline
            time.sleep(0.2)


@pytest.mark.slow
def test_a_process_that_never_comes_is_missed(faces, tmp_path):
    started = _start(1, 2, tmp_path, *words("fer2013", root=faces), ZHCLIP_RANK_TIMEOUT="5")
    errors = started[0].communicate(timeout=120)[1]
    assert started[0].returncode == 1 and "did not find the others at 127.0.0.1:" in errors


@pytest.mark.slow
def test_without_torchrun_an_error_ends_all_too(faces, tmp_path):
    spoiled = tmp_path / "fer2013"
    shutil.copytree(faces, spoiled)
    (spoiled / "test" / "sad" / "1.png").write_bytes(b"no picture")
    started = _start(3, 3, tmp_path, *words("fer2013", root=tmp_path))
    errors = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [1, 1, 1]
    assert "rank 2 of 3: " in errors[2] and "sad/1.png does not decode" in errors[2]
    assert "rank 0 of 3 ends: rank 2 has failed" in errors[0] and "rank 1 of 3 ends" in errors[1]

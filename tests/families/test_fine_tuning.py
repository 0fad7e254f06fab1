"""The README's loop with a Chinese-CLIP model: train on files like MUGE's, evaluate, get the same numbers."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import open_clip
import pytest
import torch

from tests.support import references, retrieval_files
from tests.support.reduced import LAYERS, VOCABULARY

pytestmark = pytest.mark.usefixtures("reduced")
NAME = "cnclip-vit-b-16"


@pytest.fixture(scope="module")
def muge(tmp_path_factory):
    """MUGE's two splits, small."""
    folder = tmp_path_factory.mktemp("data") / "MUGE"
    retrieval_files.write_tsv(folder, "train", True)
    return retrieval_files.write_tsv(folder, "valid", True)


@pytest.fixture
def start(tmp_path, monkeypatch):
    """A checkpoint of Chinese-CLIP's own training, and the tokenizer where a machine without a network has it."""
    import cn_clip.clip as cn_clip

    reference = references.cn_clip("own", *references.CN_CLIP[NAME], layers=LAYERS, vocabulary=VOCABULARY)
    references.randomise(reference.modules["own"])
    torch.save(references.chinese_clip_training(reference.published()["own"]), tmp_path / "epoch_latest.pt")
    lines = (Path(cn_clip.__file__).parent / "vocab.txt").read_text(encoding="utf-8").splitlines()[:VOCABULARY]
    # the small vocabulary has no Chinese; what the captions are written with takes the places of its unused tokens
    used = sorted(set("".join(retrieval_files.clean(number) for number in range(20))))
    lines[10 : 10 + len(used)] = used
    folder = tmp_path / "models" / "OFA-Sys" / "chinese-clip-vit-base-patch16"
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.setenv("ZHCLIP_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield tmp_path / "epoch_latest.pt"
    root.handlers[:] = before[0]
    root.setLevel(before[1])


@pytest.mark.parametrize(
    "options",
    [
        "--accum-freq 2",
        "--siglip",
        "--force-image-size 64 --force-context-length 24",
        "--lock-image --lock-image-unlocked-groups 1 --grad-checkpointing",
        "--force-patch-dropout 0.5 --precision amp_bf16",
    ],
)
def test_train_and_evaluate(options, muge, start, monkeypatch, capsys):
    import clip_benchmark.cli as cli
    from open_clip_train.main import main

    words = f"--model {NAME} --pretrained {start} --train-data {muge} --val-data {muge} --batch-size 4 --lr 5e-4"
    words += f" --wd 0.001 --warmup 1 --epochs 1 --workers 0 --device cpu --name run --precision fp32 {options}"
    main(words.split())
    checkpoint = Path("logs/run/checkpoints/epoch_1.pt")
    (row,) = map(json.loads, Path("logs/run/checkpoints/results.jsonl").read_text().splitlines())

    words = (
        f"--model {NAME} --pretrained {checkpoint} --dataset muge --dataset_root {muge} --language zh --num_workers 0"
    )
    monkeypatch.setattr(sys, "argv", ["clip_benchmark", "eval", *words.split(), "--no_amp", "--output", "result.json"])
    cli.main()
    found = json.loads(Path("result.json").read_text())["metrics"]
    wanted = {key: value for key, value in row.items() if key.startswith("image_retrieval")}
    assert wanted.keys() == found.keys() and "text_retrieval_recall@1" not in row, "MUGE is scored one way"
    if "bf16" not in options:
        assert found == wanted
    before = open_clip.create_model(NAME, pretrained=str(start)).state_dict()
    after = torch.load(checkpoint, weights_only=True)["state_dict"]
    moved = {name for name, value in before.items() if name in after and value.shape == after[name].shape}
    moved = {name for name in moved if not torch.equal(before[name], after[name])}
    assert any(name.startswith("text.") for name in moved)
    assert ("visual.conv1.weight" in moved) == ("--lock-image" not in options)

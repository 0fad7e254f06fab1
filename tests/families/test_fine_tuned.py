"""The README's case: a Chinese-CLIP that somebody fine-tuned, from its `.pt`, on Flickr30K-CN, with one command."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from tests.support import references, retrieval_files
from tests.support.reduced import LAYERS, VOCABULARY
from zhclip_openclip.datasets.retrieval import build_retrieval_dataset
from zhclip_openclip.metrics.recall import retrieval_metrics

pytestmark = pytest.mark.usefixtures("reduced")
NAME = "cnclip-vit-b-16"


def test_one_command_gives_what_cn_clips_own_model_gives(tmp_path, monkeypatch, capsys):
    import clip_benchmark.cli as cli
    import cn_clip.clip as cn_clip
    from cn_clip.clip.utils import image_transform

    reference = references.cn_clip("own", *references.CN_CLIP[NAME], layers=LAYERS, vocabulary=VOCABULARY)
    references.randomise(reference.modules["own"])
    checkpoint = tmp_path / "epoch_latest.pt"
    torch.save(references.chinese_clip_training(reference.published()["own"]), checkpoint)
    vocabulary = (Path(cn_clip.__file__).parent / "vocab.txt").read_text(encoding="utf-8").splitlines()[:VOCABULARY]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    root = retrieval_files.write_flickr(tmp_path / "Flickr30k-CN", "tagged")

    output = tmp_path / "result.json"
    words = f"--model {NAME} --pretrained {checkpoint} --dataset flickr30k-cn --dataset_root {root} --language zh"
    words += f" --num_workers 0 --no_amp --output {output}"
    monkeypatch.setattr(sys, "argv", ["clip_benchmark", "eval", *words.split()])
    cli.main()
    ours = json.loads(output.read_text())["metrics"]

    dataset = build_retrieval_dataset("flickr30k-cn", root, transform=image_transform(224))
    tokenizer = cn_clip.bert_tokenizer.FullTokenizer(vocab_file=str(tmp_path / "vocab.txt"))
    monkeypatch.setattr(cn_clip.utils, "_tokenizer", tokenizer)
    with torch.no_grad():
        images = torch.stack([dataset[i][0] for i in range(len(dataset))])
        texts = cn_clip.tokenize([entry.text for entry in dataset.texts])
        image_features = torch.nn.functional.normalize(reference.modules["own"].eval().encode_image(images), dim=-1)
        text_features = torch.nn.functional.normalize(reference.modules["own"].encode_text(texts), dim=-1)
    theirs = retrieval_metrics(image_features, text_features, dataset.text_to_images, dataset.image_to_texts)
    assert ours == pytest.approx(theirs) and len(ours) == 8
    assert 0 < ours["image_retrieval_recall@5"] < 1

"""Write `data/known_captions.json`: sketches of the captions and pictures of the public test splits.

python benchmarks/known_captions.py M2 FG

M2 is the folder prj/M2_Encoder/data of https://github.com/alipay/Ant-Multi-Modal-Framework (f30k-cn_test.jsonl,
coco-cn_test.jsonl), FG the folder fgclip2/eval of https://github.com/360CVGroup/FG-CLIP (pair.txt).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from zhclip_openclip import _paths
from zhclip_openclip.datasets import _which_set
from zhclip_openclip.datasets._caption_file import caption_lines
from zhclip_openclip.datasets._which_set import _stem, digest, sketch

PATH = _paths.DATA / "known_captions.json"
SOURCE = (
    "SHA-256 of captions and picture names, the smallest of each set, as benchmarks/known_captions.py makes them from "
    "prj/M2_Encoder/data of alipay/Ant-Multi-Modal-Framework at e7b7dc7 (coco-cn, flickr30k-cn) and "
    "fgclip2/eval/pair.txt of 360CVGroup/FG-CLIP at b1af1cd (coco-cn-translated). Names of pictures: SA-1B, which DCI "
    "took its pictures from, and the DOCCI data set"
)


def captions(texts: list[str]) -> dict:
    return {"texts": len(texts), "captions": sketch(map(digest, texts))}


def main(m2: str, fg: str) -> None:
    flickr, coco = (
        [json.loads(line) for line in (Path(m2) / name).read_text("utf-8").splitlines()]
        for name in ("f30k-cn_test.jsonl", "coco-cn_test.jsonl")
    )
    pictures = [_stem(entry["image"]) for entry in flickr]
    content = {
        "source": SOURCE,
        "captions": {
            "coco-cn": captions([text for entry in coco for text in entry["caption"]]),
            "coco-cn-translated": captions([line.text for line in caption_lines(Path(fg) / "pair.txt")]),
            "flickr30k-cn": captions([text for entry in flickr for text in entry["caption"]]),
        },
        "pictures": {"flickr30k-cn": {"count": len(pictures), "images": sketch(map(digest, pictures))}},
        "picture_names": {"dci-cn": "sa_[0-9]+", "docci-cn": "(test|train|qual_dev|qual_test)_[0-9]{5}"},
    }
    PATH.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(PATH, _which_set.SKETCH, {name: one["texts"] for name, one in content["captions"].items()})


if __name__ == "__main__":
    main(*sys.argv[1:])

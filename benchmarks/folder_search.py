"""How long the second search of a large folder takes, and how much memory.

    python benchmarks/folder_search.py                 100,000 pictures, two minutes
    python benchmarks/folder_search.py --small         3,000: a check that it runs
    python benchmarks/folder_search.py --pictures 1000000 --turns 1

The files are there, each with a content of its own, but no pictures: their features are random unit vectors that lie in
the feature cache in its own form, as if they had been encoded. So everything is measured that a second search does but
opening the model, which every search does and whose size is the user's choice: it is open_clip's ViT-B-32 with random
weights here. Each turn is a process of its own: it lists the folder, looks at the size and times of each file, tries
the image tower and the preprocessing out, reads the features, checks their digest, encodes the query, finds the best
ten, and scores the mismatched pairs. The first search in such a folder, with features but without the index of files,
reads every file once; it is measured too.

On a machine that others use as well the processor's time says more than the clock; both are printed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _machine import anonymous_mib, peak_rss_mib, reset_peak_rss
from _report import Report, Row, begin, finish

DIM, A_FOLDER = 512, 1000


def opened():
    """ViT-B-32 of open_clip, the same random weights each time."""
    import open_clip
    import torch

    from zhclip_openclip.folders._model import Opened

    torch.manual_seed(0)
    module, _, transform = open_clip.create_model_and_transforms("ViT-B-32")
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    return Opened(module.eval(), transform, tokenizer, "ViT-B-32", "random", "cpu", False, ours=False)


def later() -> int:
    """The clock when the files that were just made have lain still."""
    return time.time_ns() + 10**10


def make(root: Path, count: int) -> None:
    """The files, and random features of them in the cache."""
    import numpy as np
    import torch

    from zhclip_openclip.datasets.pictures_of import list_pictures
    from zhclip_openclip.features.cache import Stored
    from zhclip_openclip.features.settings import using
    from zhclip_openclip.folders.shelf import _place

    digests = np.zeros((count, 32), np.uint8)
    for number in range(count):
        path = root / "pictures" / f"{number // A_FOLDER:04d}" / f"IMG_{number:07d}.jpg"
        if number % A_FOLDER == 0:
            path.parent.mkdir(parents=True)
        content = f"picture {number}".encode()
        path.write_bytes(content)
        digests[number] = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)
    generator = torch.Generator().manual_seed(1)
    features = torch.nn.functional.normalize(torch.randn(count, DIM, generator=generator), dim=1)
    with using(cache=root / "cache", quiet=True):
        place, notes = _place(list_pictures(root / "pictures"), opened())
        assert place is not None, notes
        place.write(Stored(features, torch.from_numpy(digests), 0.0))


def turn(root: Path) -> dict[str, float]:
    """One search, timed from the opened model on."""
    from zhclip_openclip.datasets.pictures_of import list_pictures
    from zhclip_openclip.features.settings import using
    from zhclip_openclip.folders import shelf as shelves
    from zhclip_openclip.folders.queries import read_queries
    from zhclip_openclip.folders.search import search

    start = time.perf_counter()
    model = opened()
    result = {"opening": time.perf_counter() - start}
    reset_peak_rss()
    before, resident = anonymous_mib(), peak_rss_mib()
    start = at = time.perf_counter()
    begun = spent = time.process_time()

    def lap(name: str) -> None:
        nonlocal at, spent
        result[name], at = time.perf_counter() - at, time.perf_counter()
        result[f"{name}_cpu"], spent = time.process_time() - spent, time.process_time()

    known = shelves._place

    def place(*given):
        lap("before the place")
        found = known(*given)
        lap("recognising")
        return found

    shelves._place = place
    with using(cache=root / "cache", quiet=True):
        pictures = list_pictures(root / "pictures")
        lap("listing")
        shelf = shelves.open_shelf(pictures, model, now=later)
        lap("reading")
        answers = search(shelf, model, read_queries(["a beach at sunset"]))
        lap("searching")
    result["whole"], result["whole_cpu"] = time.perf_counter() - start, time.process_time() - begun
    result["mib"], result["anonymous"] = peak_rss_mib() - resident, anonymous_mib() - before
    result["encoded"], result["pictures"] = shelf.encoded, len(shelf)
    assert len(answers[0].hits) == 10 and shelf.encoded == 0
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="3,000 pictures, two turns")
    parser.add_argument("--scratch", type=Path, help="a folder for the files; by default the system's")
    parser.add_argument("--json", type=Path, help="write the report there")
    parser.add_argument("--turn", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.turn:
        print(json.dumps(turn(args.turn)))
        return
    if args.small:
        args.pictures, args.turns = 3000, 2
    facts = begin("open_clip_torch")
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        make(Path(folder), args.pictures)
        turns = []
        for _ in range(args.turns + 1):
            command = [sys.executable, __file__, "--turn", folder]
            turns.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
    first, turns = turns[0], turns[1:]

    def figures(name: str) -> list[float]:
        return [round(one[name], 4) for one in turns]

    count = f"{args.pictures:,} pictures"
    rows = [
        Row("folder_search", f"second search of {count}, model opened", "s", figures("whole"), at_most=2.0),
        Row("folder_search_cpu", "  the processor's time for it, of all cores", "s", figures("whole_cpu")),
        Row("folder_listing", "  of it listing the folder", "s", figures("listing")),
        Row("folder_recognising", "  trying tower and preprocessing out", "s", figures("recognising")),
        Row("folder_reading", "  looking at the files and reading features", "s", figures("reading")),
        Row("folder_searching", "  query, best ten, mismatched pairs", "s", figures("searching")),
        Row("folder_first", "first search, which reads each file", "s", [round(first["whole"], 4)]),
        Row("folder_opening", "opening the model, beside it", "s", figures("opening")),
        Row("folder_memory", "most memory above the model's, with mapped features", "MiB", figures("mib")),
        Row("folder_anonymous", "memory kept that is no mapped file", "MiB", figures("anonymous")),
    ]
    mapped = args.pictures * (DIM * 4 + 32) / 2**20
    parts = ("listing", "recognising", "reading", "searching")
    spent = ", ".join(f"{name} {statistics.median(figures(f'{name}_cpu')):.2f} s" for name in parts)
    notes = [f"Processor's time: {spent}."]
    notes += [f"The features are {mapped:,.0f} MiB in the cache, which are mapped and can be dropped by the system."]
    finish(
        Report(rows, {"pictures": args.pictures, "dimensions": DIM, "turns": args.turns}, notes=notes), facts, args.json
    )


if __name__ == "__main__":
    main()

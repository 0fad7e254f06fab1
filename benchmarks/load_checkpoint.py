"""How long it takes to load ZH-CLIP from a file, and how much memory, ours against the bare reading and the peers.

    python benchmarks/load_checkpoint.py [--repeat 5] [--file model.safetensors] [--json out.json]

Without --file it writes a file of random weights with the published names and sizes (2.5 GB) into a temporary folder.
Four ways, one after another in each round, every one in a process of its own, imports not counted:

  read        safetensors.torch.load_file and one pass of copying: what any loading has to do at least
  ours        open_clip.create_model('zhclip-vit-l-14', pretrained=FILE)
  open_clip   plain open_clip building the same towers, initialising them and loading a file with its own names
  transformers  CLIPVisionModel and BertModel with from_pretrained, from files of the same sizes. It maps the files and
                reads a weight when it is first used, so one pass over the weights is counted with it

Peak memory is the highest resident size over that of the process before, in multiples of the file.

Then three processes load at once, as torchrun starts them: ours, which share one copy, ours with
ZHCLIP_SHARED_WEIGHTS=0, and transformers. Their memory is the sum of their proportional sizes (Pss of smaps_rollup),
over that before, when all of them hold the model and have gone over its weights once; their time that of the last.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _report import Report, Row, begin, finish

WAYS = ("read", "ours", "open_clip", "transformers")
#: Processes that load at once, and what each way is and sets.
TOGETHER = 3
WAYS_TOGETHER = {"shared": ("ours", ""), "alone": ("ours", "0"), "transformers": ("transformers", "")}
NAME = "zhclip-vit-l-14"


def measure(way: str, folder: Path, together: bool) -> dict:
    """One loading in this process: seconds and peak memory in bytes. together: begin on a line of the standard input,
    and go over the weights and tell the proportional size on the next."""
    import time

    import open_clip
    import torch
    from _machine import peak_rss_mib, reset_peak_rss
    from safetensors.torch import load_file
    from transformers import BertModel, CLIPVisionModel

    published, own = str(folder / "model.safetensors"), str(folder / "open_clip" / "model.safetensors")

    def read():
        return {name: torch.empty_like(tensor).copy_(tensor) for name, tensor in load_file(published).items()}

    def ours():
        return open_clip.create_model(NAME, pretrained=published)

    def plain():
        from open_clip import hf_model
        from transformers import BertConfig

        config = json.loads((folder / "text_config.json").read_text())
        config.pop("base", None)
        original = open_clip.create_model.__zhclip_original__

        class Tower(hf_model.HFTextEncoder):  # plain open_clip would ask the hub for this configuration
            def __init__(self, name, pretrained=False, **kwargs):
                super().__init__(name, config=BertConfig(**config), pretrained=False, **kwargs)
                self.transformer.pooler = None

        open_clip.model.HFTextEncoder = Tower
        open_clip.factory.load_checkpoint = open_clip.load_checkpoint.__zhclip_original__
        return original(NAME, pretrained=own)

    def transformers():
        models = CLIPVisionModel.from_pretrained(folder / "vision"), BertModel.from_pretrained(folder / "text")
        for model in models:
            for parameter in model.parameters():
                parameter.detach().sum()
        return models

    work = {"read": read, "ours": ours, "open_clip": plain, "transformers": transformers}[way]
    if together:
        held = _pss()
        print("ready", flush=True)
        sys.stdin.readline()
    before = peak_rss_mib() if reset_peak_rss() else peak_rss_mib()
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    if together:
        for model in result if isinstance(result, tuple) else (result,):
            for parameter in model.parameters():
                parameter.detach().sum()
        print("loaded", flush=True)
        sys.stdin.readline()
        found = _pss() - held
        print("measured", flush=True)
        sys.stdin.readline()
        return {"seconds": seconds, "pss_bytes": found}
    del result
    return {"seconds": seconds, "peak_bytes": (peak_rss_mib() - before) * 2**20}


def _pss() -> int:
    """Bytes of this process, those that it shares with others divided by their number."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def together(way: str, shares: str, folder: str) -> dict:
    """The loading of several processes at once: seconds of the last, and their memory together in bytes."""
    told = {"HF_HUB_OFFLINE": "1", "LOCAL_WORLD_SIZE": str(TOGETHER), "ZHCLIP_SHARED_WEIGHTS": shares}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--one", way, folder, "--together"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **told},
        )
        for _ in range(TOGETHER)
    ]
    for step in ("ready", "loaded", "measured"):
        for process in processes:
            while (line := process.stdout.readline()) != f"{step}\n":
                if not line:
                    raise RuntimeError(f"{way} ended before it was {step}")
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
    found = [json.loads(process.communicate()[0].strip().splitlines()[-1]) for process in processes]
    return {"seconds": max(one["seconds"] for one in found), "pss_bytes": sum(one["pss_bytes"] for one in found)}


def prepare(folder: Path) -> None:
    """Random weights of the published sizes in the forms that the four ways read."""
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel, CLIPVisionConfig, CLIPVisionModel

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from tests.support.zhclip_reference import Reference

    torch.manual_seed(0)
    reference = Reference(layers=24)
    if not (folder / "model.safetensors").exists():
        reference.save(folder, "model.safetensors", config=False)
    text = {k: v for k, v in reference.text_config.to_dict().items() if isinstance(v, int | float | str | bool)}
    (folder / "text_config.json").write_text(json.dumps(text))
    vision = CLIPVisionModel(CLIPVisionConfig(**reference.image_config.to_diff_dict()))
    vision.save_pretrained(folder / "vision")
    BertModel(BertConfig(**text), add_pooling_layer=False).save_pretrained(folder / "text")
    del reference, vision
    import open_clip

    model = open_clip.create_model(NAME, pretrained=str(folder / "model.safetensors"))
    (folder / "open_clip").mkdir()
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "open_clip" / "model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--file", type=Path, help="a ZH-CLIP model.safetensors with the published names")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--together", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one[0], Path(args.one[1]), args.together)))
        return
    facts = begin("open_clip_torch", "transformers", "safetensors")
    with tempfile.TemporaryDirectory(prefix="zhclip-load-") as name:
        folder = Path(name)
        if args.file:
            (folder / "model.safetensors").symlink_to(args.file.resolve())
        done = subprocess.run(  # its memory is not to be counted as anybody's
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
             f"from pathlib import Path; import load_checkpoint; load_checkpoint.prepare(Path({name!r}))"],
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        done.check_returncode()
        size = (folder / "model.safetensors").stat().st_size
        rounds: dict[str, list[dict]] = {way: [] for way in WAYS}
        for _ in range(args.repeat):
            for way in WAYS:
                out = subprocess.run(
                    [sys.executable, __file__, "--one", way, name],
                    capture_output=True,
                    text=True,
                    check=True,
                    env={**os.environ, "HF_HUB_OFFLINE": "1"},
                )
                rounds[way].append(json.loads(out.stdout.strip().splitlines()[-1]))
        groups: dict[str, list[dict]] = {way: [] for way in WAYS_TOGETHER}
        for _ in range(args.repeat if Path("/proc/self/smaps_rollup").exists() else 0):
            for way, (one, shares) in WAYS_TOGETHER.items():
                groups[way].append(together(one, shares, name))
    seconds = {way: [entry["seconds"] for entry in found] for way, found in rounds.items()}
    peak = {way: [entry["peak_bytes"] / size for entry in found] for way, found in rounds.items()}
    what = f"create_model with a file of {size / 1e9:.2f} GB"
    rows = [
        Row("loading", what, "s", seconds["ours"], "the bare reading", seconds["read"], "ours / theirs", at_most=1.5),
        Row("loading_open_clip", what, "s", seconds["ours"], "plain open_clip", seconds["open_clip"]),
        Row(
            "loading_transformers",
            what,
            "s",
            seconds["ours"],
            "transformers",
            seconds["transformers"],
            "ours / theirs",
            at_most=1.0,
        ),
    ]
    for way, peer in (("read", "the bare reading"), ("open_clip", "plain open_clip"), ("transformers", "transformers")):
        rows.append(Row(f"loading_memory_{way}", "peak memory in sizes of the file", "", peak["ours"], peer, peak[way]))
    if groups["shared"]:
        what = f"{TOGETHER} processes at once"
        times = {way: [entry["seconds"] for entry in found] for way, found in groups.items()}
        pss = {way: [entry["pss_bytes"] / size for entry in found] for way, found in groups.items()}
        for way, peer in (("alone", "ours, ZHCLIP_SHARED_WEIGHTS=0"), ("transformers", "transformers")):
            rows.append(Row(f"loading_together_{way}", f"{what}, the last", "s", times["shared"], peer, times[way]))
            memory = f"{what}, memory in sizes of the file"
            rows.append(Row(f"loading_together_memory_{way}", memory, "", pss["shared"], peer, pss[way]))
    finish(
        Report(rows, settings={"file_bytes": size}, details={"rounds": rounds, "together": groups}), facts, args.json
    )


if __name__ == "__main__":
    main()

"""Our own options of `clip_benchmark eval`, taken out of its command line before it reads it."""

from __future__ import annotations

import argparse
import sys


def parser() -> argparse.ArgumentParser:
    """The options that this package adds."""
    result = argparse.ArgumentParser(prog="clip_benchmark eval", add_help=False, allow_abbrev=False)
    group = result.add_argument_group("added by zhclip-openclip")
    group.add_argument(
        *("--skip-bad-images", "--skip_bad_images"),
        action="store_true",
        help="leave out images that cannot be read; they are counted and named in the result",
    )
    group.add_argument(
        *("--raw-captions", "--raw_captions"),
        action="store_true",
        help="keep part-of-speech tags and spaces between the words of Chinese captions",
    )
    group.add_argument(
        *("--image-folder", "--image_folder"),
        help="pictures of COCO-CN, of Flickr30K-CN or of a table of own data, if not below --dataset_root",
    )
    group.add_argument(
        "--limit",
        type=_positive,
        metavar="N",
        help="take a fixed sample of N images, with the texts that belong to them; the result says so",
    )
    group.add_argument(
        "--layout", choices=("folders", "labels", "captions", "chinese-clip"), help="as what own/NAME is to be read"
    )
    group.add_argument(
        *("--data-file", "--data_file"), metavar="FILE", help="the table of own/NAME, where there are several"
    )
    group.add_argument(
        "--columns", metavar="path=A,label=B", help="what the columns of own/NAME's table are; numbers for no header"
    )
    group.add_argument(
        *("--follow-links", "--follow_links"), action="store_true", help="take what links out of own/NAME lead to"
    )
    group.add_argument(
        *("--text-handling", "--text_handling"),
        help="how texts reach a model that is not of this package: `authors`, as its authors feed it, which Chinese "
        "does by default, or `host`, as open_clip and clip_benchmark do, which all else does",
    )
    group.add_argument(
        "--probe",
        choices=["logistic", "adamw"],
        help="for linear probes: logistic regression with a sweep over its regularisation, which is the default, or "
        "clip_benchmark's AdamW, the default where --fewshot_lr or --fewshot_epochs is given",
    )
    group.add_argument(
        *("--probe-seeds", "--probe_seeds"),
        type=int,
        help="for linear probes: train so many times, with --seed and the numbers after it; 3 with --fewshot_k, else 1",
    )
    group.add_argument(*("--save-probe", "--save_probe"), help="file to write the linear probe to, as safetensors")
    group.add_argument(*("--load-probe", "--load_probe"), help="evaluate with this linear probe, and train none")
    group.add_argument("--compile", action="store_true", help="compile the image tower with torch.compile")
    return result


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: a sample has one image at least")
    return number


def defaults() -> argparse.Namespace:
    """What holds where none of our options is given."""
    return parser().parse_args([])


def take() -> argparse.Namespace:
    """Take our options out of `sys.argv`, which clip_benchmark then reads as ever; its --help shows them too."""
    if len(sys.argv) < 2 or sys.argv[1] != "eval":
        return defaults()
    taken, rest = parser().parse_known_args(sys.argv[2:])
    sys.argv[2:] = rest
    if {"-h", "--help"} & set(rest):
        print(parser().format_help().partition("\n\n")[2])
    return taken


def given(*options: str) -> bool:
    """Whether one of `options` stands on the command line; its value may be the default all the same."""
    return any(
        argument == option or argument.startswith(option + "=") for argument in sys.argv[1:] for option in options
    )

"""Our own options of `open_clip_train.main`, taken out of its command line before it reads it."""

from __future__ import annotations

import argparse


def parser() -> argparse.ArgumentParser:
    """The options that this package adds. Those that are given stand in the run's params.txt like all others."""
    result = argparse.ArgumentParser(
        prog="open_clip_train", add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    group = result.add_argument_group("added by zhclip-openclip, for data with exact pairs")
    group.add_argument("--plain-loss", action="store_true", help="the host's loss, in which only the pairs are right")
    group.add_argument("--plain-batches", action="store_true", help="batches drawn with no regard to repeats")
    group.add_argument(
        "--chinese-clip-augment",
        action="store_true",
        help="train on images as Chinese-CLIP does with --use-augment (timm's `original` policy), for a model of ours",
    )
    group.add_argument(
        "--skip-bad-images",
        action="store_true",
        help="leave out images that cannot be read; every image is read once before training starts",
    )
    group.add_argument("--raw-captions", action="store_true", help="keep part-of-speech tags and spaces in captions")
    group.add_argument("--image-folder", help="pictures of COCO-CN or Flickr30K-CN, if not below their folder")
    return result


def parse_args(original):
    """What stands for `open_clip_train.params.parse_args`: ours are attributes of its result where they are given."""

    def parse_args(args):
        taken, rest = parser().parse_known_args(args)
        if {"-h", "--help"} & set(rest):
            print(parser().format_help().partition("\n\n")[2])
        result = original(rest)
        for name, value in vars(taken).items():
            setattr(result, name, value)
        return result

    return parse_args

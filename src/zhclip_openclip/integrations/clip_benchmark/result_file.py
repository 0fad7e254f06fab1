"""The result of an evaluation: whole or not there, and under a name of its own.

clip_benchmark writes its JSON, and we the outcomes of each query or image, into a folder of their own beside the place
where they will be; when the JSON has all that we know, both are moved, the JSON last.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from zhclip_openclip import _workplace
from zhclip_openclip._errors import ZhclipError, printable
from zhclip_openclip._reading import read_json
from zhclip_openclip.integrations.clip_benchmark import options
from zhclip_openclip.prompts import templates

#: clip_benchmark's own default of --output.
DEFAULT = "{dataset}_{pretrained}_{model}_{language}_{task}.json"
#: What tells one evaluation from another.
_ASKED = ("dataset", "model", "pretrained", "task", "language", "template_set", "split", "text_handling", "limit")


class Shown(str):
    """The path of a file that clip_benchmark writes, printed as the path that it will have."""

    final: str

    def __format__(self, how: str) -> str:
        return format(self.final, how)


def place(final: str, stack: ExitStack) -> Shown:
    """Where the result `final` is to be written; `stack` takes the folder away.

    Raises ZhclipError: it cannot be written.
    """
    path = Path(final)
    if final.endswith(("/", "\\")) or path.is_dir():
        raise ZhclipError(f"--output {final} is a folder: give a file in it, for example {path / DEFAULT}")
    if path.suffix == ".npz":
        raise ZhclipError(f"--output {final}: the outcomes of each sample will have that name; let it end in .json")
    try:
        folder = stack.enter_context(_workplace.nameless(path.parent))
    except OSError as error:
        raise ZhclipError(f"{final}: cannot be written ({error.strerror}); give another --output") from error
    made = Shown(folder / path.name)
    made.final = final
    return made


def complete(made: Shown, more: dict[str, Any]) -> None:
    """Add to the JSON and put all in place. Raises ZhclipError: it cannot be written."""
    part, final = Path(made), Path(made.final)
    result = {**read_json(part), **more}
    _tell_replaced(final, result)
    try:
        part.write_text(json.dumps(storable(result), ensure_ascii=False), encoding="utf-8")
        _workplace.move(part.parent, final.parent, final.name)
    except OSError as error:
        raise ZhclipError(f"{final}: cannot be written ({error.strerror}); give another --output") from error


def storable(value: Any) -> Any:
    """`value` with halves of surrogate pairs, which stand for bytes of a path that are not UTF-8, spelt out."""
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return printable(value)
    if isinstance(value, dict):
        return {storable(key): storable(entry) for key, entry in value.items()}
    return [storable(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def unfinished(final: str, ours: bool, limit: int | None = None) -> str:
    """Why a file is no whole result of such an evaluation, '' if it is one.

    ours: with data or prompts of ours, so that it says which versions made it. limit: of the sample that is asked for;
    None for the whole.
    """
    path = Path(final)
    try:
        result = read_json(path)
    except ZhclipError:
        return "is no JSON"
    if not isinstance(result.get("metrics"), dict):
        return "has no metrics"
    has = result.get("limit")
    made = has.get("asked") if isinstance(has, dict) else None
    if made != limit:
        return f"is of {'all images' if made is None else f'a sample of {made}'}"
    for key in ("per_query", "per_sample"):
        name = result.get(key)
        if name and not (isinstance(name, str) and (path.parent / name).is_file()):
            return "lacks its outcomes"
    return "is not finished" if ours and not result.get("versions") else ""


def _tell_replaced(final: Path, result: dict[str, Any]) -> None:
    try:
        old = read_json(final)
    except ZhclipError:
        return
    other = [key for key in _ASKED if key in old and key in result and old[key] != result[key]]
    if ("limit" in old) != ("limit" in result):
        other.append("limit")
    if other:
        said = ", ".join(f"{key} {printable(str(old.get(key, 'none')))}" for key in dict.fromkeys(other))
        warn(f"{final} held a result with {said}, which is replaced; give each an --output of its own")


def warn(text: str) -> None:
    """Of something that would be lost, so that --quiet does not keep it back."""
    print(f"clip_benchmark: note: {printable(text)}", file=sys.stderr)


def default_output(args, taken, chinese: bool, text_handling: str | None = None) -> str:
    """clip_benchmark's default name, with what tells this evaluation from the one that asks for nothing special: its
    templates, class names, split, captions, or that bad images are left out.

    taken: our options. chinese: a classification with Chinese prompts, which has default templates. text_handling:
    where it is not the usual one.
    """
    parts = []
    chosen = args.custom_template_file
    if chosen and not (chinese and chosen == templates.default(args.dataset)):
        parts.append(Path(chosen).stem)
    if args.custom_classname_file:
        parts.append(f"classes-{Path(args.custom_classname_file).stem}")
    if options.given("--split", "--test_split") and args.split != _default_split(args.dataset):
        parts.append(f"split-{args.split}")
    if args.task == "linear_probe":
        from zhclip_openclip.integrations.clip_benchmark import probing

        parts += probing.named(args, taken)
    if taken.skip_bad_images:
        parts.append("skip-bad-images")
    if taken.raw_captions:
        parts.append("raw-captions")
    if text_handling:
        parts.append(f"text-{text_handling}")
    if taken.limit is not None:
        parts.append(f"limit-{taken.limit}")
    added = "".join(f"_{part}" for part in parts).replace("{", "{{").replace("}", "}}").replace("/", "-")
    return DEFAULT.removesuffix(".json") + added + ".json"


def _default_split(dataset: str) -> str:
    from zhclip_openclip.datasets import retrieval

    known = retrieval.dataset_name(dataset)
    return retrieval.default_split(known) if known else "test"

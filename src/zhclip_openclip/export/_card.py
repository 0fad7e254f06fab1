"""The model card of a folder: where the weights come from, under which licence, with which figures."""

from __future__ import annotations

import re
from pathlib import Path

from zhclip_openclip import __version__
from zhclip_openclip._errors import printable
from zhclip_openclip._reading import read_json
from zhclip_openclip.export._export_error import ExportError
from zhclip_openclip.export._source import Source

#: A licence as the hub's cards name it; what is not of this form is told in words alone.
_IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.-]*")
#: What a result says of its data, in the words of the card.
_DATA = {"dataset": "Data set", "dataset_split": "split", "language": "language", "template_set": "prompts"}


def text(source: Source, usage: str, result: Path | None = None) -> str:
    """A `README.md` with the front matter of the hub.

    usage: a few lines of Python. result: a JSON file that clip_benchmark wrote.
    Raises ExportError: the result cannot be read, or is none.
    """
    family, tag = source.family, source.tag
    licence = tag.licence if tag else ""
    lines = ["---", "language: zh", "pipeline_tag: zero-shot-image-classification"]
    if _IDENTIFIER.fullmatch(licence):
        lines.append(f"license: {licence.lower()}")
    if tag and tag.repo:
        lines.append(f"base_model: {tag.repo}")
    lines += ["---", "", f"# {source.model.name}", ""]
    lines.append(
        f"A {family.title} model, written from `{_inline(source.given)}` by `zhclip convert` (zhclip-openclip "
        f"{__version__})."
    )
    lines += ["", f"- Code: {family.source}"]
    if family.paper:
        lines.append(f"- Paper: {family.paper}")
    if tag:
        lines.append(f"- Weights: {tag.repo or 'part of zhclip-openclip'}" + (f" ({tag.note})" if tag.note else ""))
        if tag.image_repo:
            lines.append(f"- Weights of the image tower: {tag.image_repo}")
        lines.append(f"- Licence: {licence}")
    else:
        published = sorted({tag.licence for tag in source.model.tags.values()})
        lines.append(
            "- Licence: of weights of one's own, which nothing here states. The published weights of this model: "
            + "; ".join(published)
        )
    if family.note:
        lines.append(f"- Note: {family.note}.")
    lines += ["", f"Images of {source.image_size} pixels, texts of up to {source.context_length} tokens, features of "
              f"{source.embed_dim} channels. Scores are cosines times {source.module.logit_scale.exp().item():.4g}.",
              "", "```python", usage.rstrip(), "```", ""]  # fmt: skip
    lines += ["## Figures", ""]
    lines += _figures(result) if result else ["None was given (`zhclip convert --result FILE`)."]
    return "\n".join(lines) + "\n"


def _figures(path: Path) -> list[str]:
    result = read_json(path, ExportError)
    metrics = result.get("metrics")
    figures = metrics if isinstance(metrics, dict) else {}
    numbers = {
        key: value for key, value in figures.items() if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    if not numbers or not isinstance(result.get("dataset"), str):
        raise ExportError(f"{path} is no result of clip_benchmark: it has no `dataset`, or no number among `metrics`")
    told = [f"{name} {_inline(str(result[key]))}" for key, name in _DATA.items() if isinstance(result.get(key), str)]
    lines = [f"{', '.join(told)}. Measured of `{_inline(str(result.get('model')))}`, "
             f"`{_inline(str(result.get('pretrained')))}`.", "", "| metric | value |", "|---|---|"]  # fmt: skip
    return lines + [f"| {_inline(str(key))} | {value:.4f} |" for key, value in numbers.items()]


def _inline(value: str) -> str:
    """Text out of a file or a command line as part of a line of Markdown."""
    return printable(value).replace("`", "'").replace("|", "\\|")

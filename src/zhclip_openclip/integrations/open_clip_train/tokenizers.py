"""The tokenizer of a training run whose weights have one beside them.

open_clip_train asks `get_tokenizer(args.model)`, which knows nothing of `--pretrained`. So whoever is handed that
tokenizer, the data and the zero-shot evaluation, asks here first.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from zhclip_openclip._files import whole_file
from zhclip_openclip.checkpoints import _names
from zhclip_openclip.checkpoints._place import Repository


def of_run(args, tokenizer):
    """The tokenizer beside the weights that a run of a model of ours begins from; `tokenizer` where there is none.

    A run that goes on has the one that lies with its checkpoints (:func:`keep`).
    """
    found = _beside(args) if tokenizer is not None else None
    if found is None:
        return tokenizer
    from zhclip_openclip.towers.tokenizer import build

    named, near, length = found
    return build(named.family, named.model, near, args.cache_dir, args.force_context_length or length)


def keep(args) -> None:
    """Copy the tokenizer files that :func:`of_run` took to the run's checkpoints, so that whoever evaluates one of
    those, or goes on from it, takes them too."""
    found = _beside(args)
    target = getattr(args, "checkpoint_path", None)
    if found is None or not target:
        return
    from zhclip_openclip.towers import tokenizer
    from zhclip_openclip.towers._tokenizer_files import EXTRA

    named, near, _ = found
    folder = tokenizer.find(named.family, named.model, near, args.cache_dir)
    if folder.resolve() == Path(target).resolve() or not (isinstance(near, Repository) or _holds(named, folder)):
        return
    for name in (*_files_of(named), *EXTRA):
        if (folder / name).is_file():
            with whole_file(Path(target) / name) as part:
                shutil.copyfile(folder / name, part)


def _beside(args) -> tuple[_names.Named, Path | Repository, int | None] | None:
    """The model, where its tokenizer lies if it is not the model's own, and the context length that is told there."""
    named = _names.named(args.model, args.cache_dir)
    if named is None or named.place is not None:  # of a folder or a repository get_tokenizer has taken it already
        return None
    near, length = _names.tokenizer_place(named, args.pretrained, args.cache_dir)
    resumed = Path(args.resume).parent if getattr(args, "resume", None) else None
    if resumed is not None and _holds(named, resumed):
        return named, resumed, length
    return None if near is None else (named, near, length)


def _files_of(named: _names.Named) -> tuple[str, ...]:
    from zhclip_openclip.towers._tokenizer_files import VOCABULARY

    return VOCABULARY[named.model.tokenizer or named.family.tokenizer]


def _holds(named: _names.Named, folder: Path) -> bool:
    from zhclip_openclip.towers._tokenizer_files import in_folder

    return in_folder(folder, _files_of(named))

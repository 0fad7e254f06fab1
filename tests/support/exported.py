"""Models to write for other programs: reduced ones with random weights and small tokenizers, as they are published."""

from __future__ import annotations

from pathlib import Path

from tests.families.test_tokenizers import VOCABULARY, unigram
from tests.support import gemma, glm
from tests.support.reduced import build, vocabulary_of
from tests.support.references import Reference
from tests.support.small_tokenizers import siglip
from zhclip_openclip.export import _source
from zhclip_openclip.families import find

#: One model of every kind of published layout, the smallest that there is.
MODELS = (
    "cnclip-vit-b-16",
    "altclip-vit-l-14",
    "clip-chinese-vit-b-32",
    "zhclip-vit-l-14",
    "taiyiclip-vit-b-32",
    "mclip-vit-b-32",
    "mclip-labse-vit-l-14",
    "mclip-vit-b-16-plus-240",
    "taiyiclip-102m-vit-l-14",
    "metaclip2-vit-s-16",
)
#: And those that have no home in transformers.
OTHERS = ("m2-encoder-0.4b", "fg-clip2-base-square256")
#: One whose tokenizer is sentencepiece's, and a text's end its padding.
MT5 = "metaclip2-vit-s-16-mt5"


def publish(name: str, root: Path) -> Reference:
    """Write a reduced reference of a model, with a tokenizer, as if it had been downloaded to `root`."""
    model = find(name)[1]
    reference = build(name, model.default_tag)
    reference.save(root)
    folder = root / model.tags[model.default_tag].repo
    if name.startswith("m2-encoder"):
        glm.small_model(folder)
    elif name.startswith("fg-clip2"):
        gemma.write(folder)
    elif name.endswith("mt5"):
        siglip(root / model.tokenizer_repos[0])
    elif reference.pad == 1:
        unigram(folder)
    else:
        words = VOCABULARY.read_text(encoding="utf-8").split("\n")[: vocabulary_of(name)]
        (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return reference


def published_source(name: str, root: Path) -> _source.Source:
    """The model of :func:`publish`, loaded by its tag; `root` has to be `ZHCLIP_MODELS_DIR`."""
    publish(name, root)
    return _source.load(find(name)[1].default_tag, name)

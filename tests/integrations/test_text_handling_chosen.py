"""`clip_benchmark eval` and `zhclip reproduce` with a model of open_clip's own: which text handling it gets, and where
that is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image

from tests.support import reproduction, small_tokenizers
from zhclip_openclip._errors import ZhclipError

pytest.importorskip("google.protobuf")
NAME = "vit-tiny-siglip2"


@pytest.fixture(scope="module")
def somebodys(tmp_path_factory):
    """A small model of SigLIP 2's kind, among open_clip's own; returns its weights."""
    import open_clip.factory as factory

    root = tmp_path_factory.mktemp("model")
    configs = small_tokenizers.model(root, small_tokenizers.gemma(root / "made"), NAME)
    before = list(factory._MODEL_CONFIG_PATHS), dict(factory._MODEL_CONFIGS)
    factory.add_model_config(configs)
    yield root / "weights.pt"
    factory._MODEL_CONFIG_PATHS[:] = before[0]
    factory._MODEL_CONFIGS.clear()
    factory._MODEL_CONFIGS.update(before[1])


@pytest.fixture
def evaluate(monkeypatch, tmp_path, somebodys):
    """Run `clip_benchmark eval` with it; returns the result and the ids of the first text that reached it."""
    import clip_benchmark.cli as cli
    import open_clip

    seen = []
    encode = open_clip.CLIP.encode_text

    def encode_text(self, text, *args, **kwargs):
        seen.append(text.clone())
        return encode(self, text, *args, **kwargs)

    monkeypatch.setattr(open_clip.CLIP, "encode_text", encode_text)
    monkeypatch.chdir(tmp_path)

    def run(*arguments, output=True):
        path = tmp_path / "result.json"
        words = ["--model", NAME, "--pretrained", str(somebodys), "--num_workers", "0", "--quiet"]
        words += ["--output", str(path)] if output else []
        monkeypatch.setattr(sys, "argv", ["clip_benchmark", "eval", *words, *map(str, arguments)])
        seen.clear()
        cli.main()
        return json.loads(path.read_text(encoding="utf-8")) if output else None, torch.cat(seen)

    return run


def test_the_authors_own_in_chinese_and_the_hosts_on_request(evaluate):
    authors, ids = evaluate("--dataset", "digits", "--language", "zh")
    assert authors["text_handling"] == "authors" and "punctuation kept" in authors["text_handling_note"]
    again, same = evaluate("--dataset", "digits", "--language", "zh", "--text-handling", "authors")
    assert torch.equal(ids, same) and again["metrics"] == authors["metrics"]
    host, others = evaluate("--dataset", "digits", "--language", "zh", "--text_handling", "host")
    assert host["text_handling"] == "host" and "text_handling_note" not in host
    assert ids.shape[1:] == others.shape[1:] and not torch.equal(ids, others)


def test_captions_are_chinese_whatever_the_language(evaluate):
    """Those of our retrieval sets, of which a report takes all runs for Chinese ones."""
    zh, ids = evaluate("--dataset", "digits-retrieval", "--language", "zh")
    none, same = evaluate("--dataset", "digits-retrieval")
    assert zh["text_handling"] == none["text_handling"] == "authors" and torch.equal(ids, same)


@pytest.mark.parametrize(
    ("dataset", "language", "script"),
    [
        ("cifar10", "zh", "zh"),
        ("cifar10", "zho_Hant", "zh_Hant"),
        ("crossmodal3600", "cn", "zh"),
        ("flickr30k-200", "zho_Hant", "zh_Hant"),
        ("muge", "zh_Hant", "zh"),  # its captions are what they are
        ("wds/coco-cn", "en", "zh"),
        ("cifar10", "en", None),
        ("crossmodal3600", "ja", None),
    ],
)
def test_the_script_of_an_evaluation(dataset, language, script):
    """Which language NLLB-CLIP is told; None where open_clip's own tokenizer is taken, the very object."""
    from argparse import Namespace

    from zhclip_openclip.integrations.clip_benchmark import options, texts
    from zhclip_openclip.integrations.clip_benchmark.evaluation import Evaluation, Output, running
    from zhclip_openclip.towers import text_handling

    class Tokenizer:
        clean_fn = str.lower

    tokenizer, told = Tokenizer(), []
    with (
        pytest.MonkeyPatch.context() as patch,
        running(
            Evaluation(Namespace(dataset=dataset, language=language, verbose=False), options.defaults(), Output(""))
        ) as _,
    ):
        patch.setattr(text_handling, "AuthorsTokenizer", lambda own, handling, script: told.append(script))
        made = texts.handled("open_clip", "nllb-clip-base", object(), tokenizer)
        assert texts.handled("ja_clip", "nllb-clip-base", object(), tokenizer) is tokenizer
    assert told == ([script] if script else []) and (script or made is tokenizer)


def test_two_handlings_have_two_files(evaluate, tmp_path):
    for words in ((), ("--text-handling", "authors"), ("--text-handling", "host")):
        evaluate("--dataset", "digits", "--language", "zh", *words, output=False)
    names = sorted(path.stem for path in tmp_path.glob("*.json"))
    assert names == [f"digits_weights.pt_{NAME}_zh_zeroshot_classification{end}" for end in ("", "_text-host")]


@pytest.mark.parametrize("words", [("--text-handling", "raw"), ("--text-handling=",)])
def test_a_choice_that_there_is_not(evaluate, words):
    with pytest.raises(SystemExit, match="--text-handling .*: there are authors .* and host"):
        evaluate("--dataset", "digits", "--language", "zh", *words)


FACES = ["angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"]
#: What a user runs who has nothing of ours.
WITHOUT = """
import sys, open_clip
open_clip.add_model_config(sys.argv[1])
from clip_benchmark import cli
sys.argv = ["clip_benchmark", "eval", *sys.argv[2:]]
try:
    cli.main()
except TypeError as error:  # of clip_benchmark 1.6.2 with NumPy 2.4, where the metrics are made
    assert "0-dimensional" in str(error), error
assert "zhclip_openclip" not in sys.modules
"""


def test_without_chinese_nothing_changes(evaluate, somebodys, tmp_path):
    """What clip_benchmark makes without us, byte for byte; asked for, the authors' way is taken."""
    for index, name in enumerate(FACES):
        (tmp_path / "fer" / "test" / name).mkdir(parents=True)
        Image.new("RGB", (48, 48), (30 * index, 200 - 20 * index, 90)).save(tmp_path / "fer" / "test" / name / "0.png")
    words = ["--dataset", "fer2013", "--dataset_root", str(tmp_path / "fer"), "--dump_templates"]
    with_us, ids = evaluate(*words, "--save_clf", tmp_path / "with.pt")
    assert "text_handling" not in with_us
    whole = (tmp_path / "result.json").read_bytes()
    output = ["--output", str(tmp_path / "without.json"), "--save_clf", str(tmp_path / "without.pt")]
    output += ["--model", NAME, "--pretrained", str(somebodys), "--num_workers", "0"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(somebodys.parent / "configs"), *words, *output],
        env={**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    classifiers = [torch.load(tmp_path / name, weights_only=True) for name in ("with.pt", "without.pt")]
    assert torch.equal(*classifiers)
    if (tmp_path / "without.json").exists():
        assert whole == (tmp_path / "without.json").read_bytes()
    asked, others = evaluate(*words, "--text-handling", "authors")
    assert asked["text_handling"] == "authors" and not torch.equal(ids, others)


def test_models_of_ours_have_their_own_alone(monkeypatch, tmp_path, capsys):
    import clip_benchmark.cli as cli

    words = ["--model", "zhclip-tiny", "--dataset", "digits", "--language", "zh", "--text-handling", "host"]
    words += ["--num_workers", "0", "--output", str(tmp_path / "r.json")]
    monkeypatch.setattr(sys, "argv", ["clip_benchmark", "eval", *words])
    cli.main()
    assert "--text-handling host: zhclip-tiny has its authors' tokenizer alone" in capsys.readouterr().out
    assert "text_handling" not in json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("model", "pretrained", "told"),
    [
        ("ViT-B-16-SigLIP3", "webli", "is a model neither of open_clip nor of this package; did you mean .*SigLIP2?"),
        ("vit-b-16-siglip2", "webli", "did you mean ViT-B-16-SigLIP2"),
        ("ViT-B-16-SigLIP2", "weblii", "ViT-B-16-SigLIP2 has no weights 'weblii'; it has webli$"),
        ("ViT-L-14", "commonpool_xl_s13b", "has no weights 'commonpool_xl_s13b'; it has commonpool_xl_s13b_b90k, "),
        (NAME, "nowhere.pt", f"{NAME} has no weights 'nowhere.pt'; open_clip has none for it: give a file$"),
    ],
)
@pytest.mark.parametrize("as_pair", [True, False])
def test_unknown_names_are_one_line(monkeypatch, somebodys, model, pretrained, told, as_pair):
    import clip_benchmark.cli as cli

    words = (
        ["--pretrained_model", f"{model},{pretrained}"] if as_pair else ["--model", model, "--pretrained", pretrained]
    )
    monkeypatch.setattr(sys, "argv", ["clip_benchmark", "eval", *words, "--dataset", "digits", "--language", "zh"])
    with pytest.raises(SystemExit, match=f"^clip_benchmark: error: .*{told}"):
        cli.main()


# ---------------------------------------------------------------- a reproduction


def test_a_reproduction(somebodys, tmp_path):
    """Two handlings of one model are two cells with two results, and two rows of the report."""
    from zhclip_openclip.report.build import build

    def run(*words):
        models = f"{NAME},{somebodys},zhclip-tiny"
        return reproduction.zhclip(
            *("--models", models, "--datasets", "digits,digits-retrieval", "--output", tmp_path / "results"),
            *("--no-report", "--no-galleries", "--num-workers", "0", *words),
        )

    first = run()
    assert first.exit_code == 0, first.output
    again = run("--dry-run", "--json")
    assert [cell["state"] for cell in json.loads(again.output)["cells"]] == ["finished"] * 4
    assert [cell["text_handling"] for cell in json.loads(again.output)["cells"]] == ["authors"] * 2 + [None] * 2
    second = run("--text-handling", "host")
    assert second.exit_code == 0, second.output
    results = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "results").glob("*.json")
    }
    told = {name: result.get("text_handling") for name, result in results.items()}
    assert sorted(told.values(), key=str) == [None, None, "authors", "authors", "host", "host"]
    assert all(("text-host" in name) == (handling == "host") for name, handling in told.items())
    assert {result["cell"]["text_handling"] for result in results.values()} == {"authors", "host", None}
    report = build([tmp_path / "results"])
    rows = {row.label for table in report.tables for row in table.rows if NAME in row.title}
    assert len(rows) == 2 and sum("text handling host" in label for label in rows) == 1
    assert not any(" of the same cell" in str(problem) for problem in report.problems)


def test_an_unknown_handling_of_a_reproduction(tmp_path):
    found = reproduction.one(tmp_path, "--text-handling", "raw")
    assert isinstance(found.exception, ZhclipError) and "there are authors" in str(found.exception)


def test_weights_that_cannot_be_loaded_are_tried_once(somebodys, tmp_path, monkeypatch):
    import open_clip

    tried = []
    create = open_clip.create_model_and_transforms
    monkeypatch.setattr(
        open_clip, "create_model_and_transforms", lambda *args, **kwargs: tried.append(args) or create(*args, **kwargs)
    )
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    found = reproduction.zhclip(
        *("--models", f"{NAME},{tmp_path / 'broken.pt'}", "--datasets", "digits,digits-retrieval"),
        *("--output", tmp_path / "results", "--no-report", "--num-workers", "0"),
    )
    assert found.exit_code == 1 and "2 of 2 cells failed" in found.output
    assert "broken.pt cannot be loaded" in " ".join(found.output.split()) and len(tried) == 1

"""The result of `clip_benchmark eval`: whole or not there, with a name of its own, and nobody else's touched."""

from __future__ import annotations

import json

import clip_benchmark.cli as cli
import pytest

from tests.support.kills import dies

DEFAULT = "digits_digits_zhclip-tiny_zh_zeroshot_classification"


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_kill_at_every_change_leaves_nothing_half(evaluate_digits, tmp_path):
    """After it there is no JSON, or one with all that belongs to it; the next run takes away what was left."""
    folder = evaluate_digits("--quiet")
    whole = files(folder)
    assert set(whole) == {f"{DEFAULT}.json", f"{DEFAULT}.npz"}

    def again():
        evaluate_digits("--quiet", "--skip_existing")

    for path in folder.iterdir():
        path.unlink()
    changes = dies(None, folder, again, tmp_path / "log")
    assert 8 <= changes <= 40
    for number in range(changes):
        for name in whole:
            (folder / name).unlink(missing_ok=True)
        assert dies(number, folder, again, tmp_path / "log") is None
        if (folder / f"{DEFAULT}.json").exists():
            assert {name: files(folder)[name] for name in whole} == whole, number
        else:
            assert all(files(folder).get(name, content) == content for name, content in whole.items()), number
    again()
    assert files(folder) == whole and {path.name for path in folder.iterdir()} == set(whole)


def test_an_old_result_stays_until_the_new_one_is_there(evaluate_digits, monkeypatch):
    folder = evaluate_digits("--quiet")
    before = files(folder)
    monkeypatch.setattr(cli.zeroshot_classification, "evaluate", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(SystemExit, match="digits with zhclip-tiny: ZeroDivisionError"):
        evaluate_digits("--quiet")
    assert files(folder) == before


def test_skip_existing_looks_for_whole_results(evaluate_digits, capsys):
    folder = evaluate_digits("--quiet")
    whole = files(folder)
    result = folder / f"{DEFAULT}.json"
    evaluate_digits("--skip_existing")
    assert "exists already" in capsys.readouterr().out
    hosts = {
        key: value for key, value in json.loads(whole[result.name]).items() if key not in ("versions", "per_sample")
    }
    for content, told in (
        ("{", "is no JSON"),
        (json.dumps(hosts), "is not finished"),
        ('{"metrics": 1}', "no metrics"),
    ):
        result.write_text(content)
        evaluate_digits("--skip_existing")
        assert told in capsys.readouterr().out and files(folder) == whole
    (folder / f"{DEFAULT}.npz").unlink()
    evaluate_digits("--skip_existing")
    assert "lacks its outcomes" in capsys.readouterr().out and files(folder) == whole


def test_the_path_that_is_told_is_the_final_one(evaluate_digits, capsys):
    evaluate_digits()
    assert f"Dump results to: {DEFAULT}.json" in capsys.readouterr().out


def test_what_is_asked_for_has_a_name_of_its_own(evaluate_digits):
    """Without --output: another set of templates, another split; and the plain name for what is the default."""
    evaluate_digits("--quiet", "--custom_template_file", "zh")
    evaluate_digits("--quiet", "--custom_template_file", "name")
    folder = evaluate_digits("--quiet", "--split", "train", "--skip-bad-images")
    assert {path.stem for path in folder.glob("*.json")} == {
        DEFAULT,
        f"{DEFAULT}_name",
        f"{DEFAULT}_split-train_skip-bad-images",
    }
    said = {path.stem: json.loads(path.read_text("utf-8")) for path in folder.glob("*.json")}
    assert said[f"{DEFAULT}_name"]["template_set"] == "name" and said[DEFAULT]["split"] == "test"


def test_one_output_for_two_is_said(evaluate_digits, capsys):
    folder = evaluate_digits("--output", "one.json", "--quiet", "--dataset", "digits", "digits-retrieval")
    told = capsys.readouterr().err
    assert "one.json is the --output of several evaluations, and keeps the last" in told
    assert json.loads((folder / "one.json").read_text("utf-8"))["dataset"] == "digits-retrieval"
    evaluate_digits("--output", "one.json", "--quiet")
    assert "held a result with dataset digits-retrieval" in capsys.readouterr().err
    evaluate_digits("--output", "one.json", "--quiet")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("{y}.json", "{dataset} and {language}; write {{ and }}"),
        ("folder/", "is a folder"),
        ("x.npz", "let it end in .json"),
        ("file/x.json", "cannot be written"),
    ],
)
def test_outputs_that_cannot_be(evaluate_digits, tmp_path, monkeypatch, output, told):
    """Said before the model is loaded."""
    monkeypatch.setattr(cli, "load_clip", lambda **kwargs: pytest.fail("the model was loaded"))
    (tmp_path / "results" / "file").touch()
    with pytest.raises(SystemExit) as error:
        evaluate_digits("--quiet", "--output", output)
    assert told in str(error.value)


def test_what_is_not_ours_is_written_as_ever(evaluate_digits, monkeypatch):
    """An English evaluation of somebody's model: clip_benchmark's own file, its own answer to an error, its workers."""
    import open_clip

    model, _, transform = open_clip.create_model_and_transforms("zhclip-tiny", pretrained="digits")
    model.zhclip_model = None
    asked = {}

    class Pairs:
        classes, templates = ["a", "b"], ["{c}"]

        def __len__(self):
            return 4

        def __getitem__(self, index):
            from PIL import Image

            return transform(Image.new("RGB", (8, 8), (60 * index, 0, 0))), index % 2

    def build(**kwargs):
        asked.update(kwargs)
        return Pairs()

    monkeypatch.setattr(cli, "load_clip", lambda **kwargs: (model, transform, open_clip.get_tokenizer("zhclip-tiny")))
    monkeypatch.setattr(cli, "build_dataset", build)
    folder = evaluate_digits("--quiet", model="ViT-B-32", dataset="cifar10", language="en")
    name = "cifar10_laion400m_e32_ViT-B-32_en_zeroshot_classification.json"
    assert list(files(folder)) == [name]
    result = json.loads(files(folder)[name])
    assert set(result) == {"dataset", "model", "pretrained", "task", "metrics", "language"}
    with pytest.raises(KeyError, match="y"):
        evaluate_digits("--quiet", "--dataset_root", "/x/{y}", model="ViT-B-32", dataset="cifar10", language="en")
    monkeypatch.setattr(cli, "build_dataset", lambda **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate_digits("--quiet", model="ViT-B-32", dataset="cifar10", language="en")

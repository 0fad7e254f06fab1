"""`zhclip models` and `zhclip doctor`."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from zhclip_openclip.commands import app
from zhclip_openclip.commands.doctor import PACKAGES
from zhclip_openclip.commands.models import rows
from zhclip_openclip.families import all_families


def run(*arguments):
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "80"})
    return result


def test_models_lists_every_model_and_tag():
    result = run("models")
    assert result.exit_code == 0
    for family in all_families().values():
        for model in family.models:
            assert model.name in result.output
    assert max(map(len, result.output.splitlines())) <= 80
    entries = {(entry["model"], entry["tag"]): entry for entry in json.loads(run("models", "--json").output)}
    assert entries["zhclip-vit-l-14", "thu_ml"]["aliases"] == ["zhclip"]
    assert entries["zhclip-vit-l-14", "thu_ml"]["source"] == "thu-ml/zh-clip-vit-roberta-large-patch14"
    assert entries["zhclip-vit-l-14", "thu_ml"]["on_this_machine"] is None
    assert entries["zhclip-tiny", "digits"]["on_this_machine"].endswith("model.safetensors")
    assert {entry["family"] for entry in rows("zhclip")} == {"zhclip"}


def test_models_finds_weights_in_the_models_dir(models_dir):
    folder = models_dir / "thu-ml" / "zh-clip-vit-roberta-large-patch14"
    folder.mkdir(parents=True)
    (folder / "pytorch_model.bin").write_bytes(b"x")
    entry = next(entry for entry in rows("zhclip") if entry["model"] == "zhclip-vit-l-14")
    assert entry["on_this_machine"] == str(folder / "pytorch_model.bin")


def test_unknown_family(run_python):
    done = run_python("from zhclip_openclip.commands import main; main()", "models", "nix", check=False)
    assert done.returncode == 1 and done.stderr.startswith("zhclip: error: there is no family 'nix'; there are ")
    assert len(done.stderr.splitlines()) == 1


def test_doctor_is_content_here():
    result = run("doctor", "--json")
    findings = {finding["topic"]: finding for finding in json.loads(result.output)}
    for topic in (*PACKAGES, "cpu", "hub cache", "hub", "ZHCLIP_MODELS_DIR"):
        assert findings[topic]["state"]
    assert findings["open_clip"]["state"] == findings["clip_benchmark"]["state"] == "plugin active"
    if not any(finding["problem"] for finding in findings.values()):
        assert result.exit_code == 0 and "All is well" in run("doctor").output


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}, "autoload: unset it"),
        ({"ZHCLIP_MODELS_DIR": "/no/such/folder"}, "ZHCLIP_MODELS_DIR: create it or unset"),
    ],
)
def test_doctor_says_what_to_do(monkeypatch, environment, told):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    result = run("doctor")
    assert result.exit_code == 1 and told in " ".join(result.output.split())


def test_doctor_names_a_failed_hook(monkeypatch):
    from zhclip_openclip import autoload

    monkeypatch.setitem(autoload.FAILED, "open_clip.factory", "AttributeError: no attribute 'create_model'")
    result = run("doctor")
    assert result.exit_code == 1 and "not hooked: AttributeError" in " ".join(result.output.split())

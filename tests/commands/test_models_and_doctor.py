"""`zhclip models` and `zhclip doctor`."""

from __future__ import annotations

import json
import sys
from importlib import metadata

import pytest
from packaging.specifiers import SpecifierSet
from typer.testing import CliRunner

from zhclip_openclip.commands import app
from zhclip_openclip.commands.doctor import PACKAGES, TESTED, _needed, judge
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
    # Its libraries need not be there; where they are it is hooked.
    assert findings["open_clip_train"]["state"].startswith(("plugin active", "cannot be imported"))
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


def test_doctor_is_content_without_the_host_that_is_optional(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "mteb"]:
        monkeypatch.delitem(sys.modules, name)

    class NotThere:
        def find_spec(self, name, path=None, target=None):
            if name == "mteb":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [NotThere(), *sys.meta_path])
    finding = next(finding for finding in json.loads(run("doctor", "--json").output) if finding["topic"] == "mteb")
    assert finding["state"] == "not installed; for its tasks: pip install 'zhclip-openclip[mteb]'"
    assert not finding["problem"] and not finding["warning"]


def test_doctor_names_a_failed_hook(monkeypatch):
    from zhclip_openclip import autoload

    monkeypatch.setitem(autoload.FAILED, "open_clip.factory", "AttributeError: no attribute 'create_model'")
    result = run("doctor")
    assert result.exit_code == 1 and "not hooked: AttributeError" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("package", "version", "needed", "problem", "warning"),
    [
        ("open_clip_torch", "3.3.0", ">=3.3", "", ""),
        ("open_clip_torch", "3.3.7.post1", ">=3.3", "", ""),
        ("open_clip_torch", "3.4.0", ">=3.3", "", "pip install 'open_clip_torch<3.4'"),
        ("open_clip_torch", "4.2.0.dev0", ">=3.3", "", "pip install 'open_clip_torch<3.4'"),
        ("open_clip_torch", "2.30.0", ">=3.3", "pip install 'open_clip_torch>=3.3'", ""),
        ("transformers", "5.99.1", ">=5.0", "", ""),
        ("transformers", "6.0.0", ">=5.0", "", "pip install 'transformers<6'"),
        ("torch", "2.6.0+cu124", ">=2.6", "", ""),
        ("torch", "3.0", ">=2.6", "", "pip install 'torch<2."),
        ("torch", "2.9.0a0+git1234", "", "", ""),
        ("torch", "unknown", ">=2.6", "", "a version that says nothing"),
    ],
)
def test_doctor_judges_versions_of_the_hosts(package, version, needed, problem, warning):
    finding = judge(package, version, needed)
    assert (bool(finding.problem), bool(finding.warning)) == (bool(problem), bool(warning))
    assert problem in finding.problem and warning in finding.warning and version in finding.state


def test_doctor_warns_of_a_host_beyond_those_tested(monkeypatch):
    """A warning is no problem: the exit code stays 0, if all else is well."""
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "4.2.0.dev0" if name == "open_clip_torch" else real(name))
    result = run("doctor")
    told = " ".join(result.output.split())
    assert "4.2.0.dev0, newer than what was tested (3.3)" in told and "1 to know: open_clip_torch: if something" in told
    findings = json.loads(run("doctor", "--json").output)
    assert result.exit_code == (1 if any(finding["problem"] for finding in findings) else 0)
    assert [finding["topic"] for finding in findings if finding["warning"]] == ["open_clip_torch"]


def test_versions_tested_are_those_that_are_allowed():
    """Every host that the doctor judges is a dependency, and no bound is above what was tested."""
    for package, needed in _needed().items():
        assert needed.startswith(">="), package
        assert SpecifierSet(needed).contains(f"{TESTED[package]}.999"), package

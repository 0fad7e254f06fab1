"""`clip_benchmark eval` with our models, from the command line as users type it, and unchanged for everyone else's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPT = [str(Path(sysconfig.get_path("scripts")) / "clip_benchmark")]
MODULE = [sys.executable, "-m", "clip_benchmark.cli"]


def evaluate(command, *arguments, cwd, check=True, **environment):
    done = subprocess.run(
        [*command, "eval", "--num_workers", "1", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2", **environment},
    )
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.mark.parametrize("command", [SCRIPT, MODULE], ids=["script", "module"])
def test_the_main_job(command, tmp_path):
    """No network, no --pretrained: the default tag in the file name and in the JSON."""
    done = evaluate(command, "--model", "zhclip-tiny", "--dataset", "digits", "--language", "zh", cwd=tmp_path)
    assert "('zhclip-tiny', 'digits')" in done.stdout
    result = json.loads((tmp_path / "digits_digits_zhclip-tiny_zh_zeroshot_classification.json").read_text())
    assert result["model"] == "zhclip-tiny" and result["pretrained"] == "digits"
    assert result["metrics"]["acc1"] >= 0.95 and result["metrics"]["mean_per_class_recall"] >= 0.95


def test_pretrained_model_collections_and_paths(tmp_path):
    from zhclip_openclip import _paths

    weights = _paths.DATA / "tiny" / "model.safetensors"
    evaluate(
        SCRIPT,
        *("--pretrained_model", "zhclip-tiny", f"zhclip-tiny,{weights}"),
        *("--dataset", "digits", "--language", "zh", "--output", "{pretrained}.json"),
        cwd=tmp_path,
    )
    by_tag, by_path = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("digits", "model.safetensors"))
    assert by_tag["metrics"] == by_path["metrics"]


def test_an_error_of_ours_is_one_line(tmp_path):
    for command in (SCRIPT, MODULE):
        done = evaluate(
            command,
            *("--model", "zhclip-tiny", "--pretrained", "laion400m_e32", "--dataset", "digits"),
            cwd=tmp_path,
            check=False,
        )
        assert done.returncode != 0 and "Traceback" not in done.stderr
        assert done.stderr.strip().splitlines()[-1].startswith("clip_benchmark: error: pretrained='laion400m_e32'")
        assert list(tmp_path.iterdir()) == []


def test_without_the_plugin_nothing_of_this_is_there(tmp_path):
    done = evaluate(
        SCRIPT,
        *("--model", "zhclip-tiny", "--dataset", "digits"),
        cwd=tmp_path,
        check=False,
        TORCH_DEVICE_BACKEND_AUTOLOAD="0",
    )
    assert done.returncode != 0 and "Model config for 'zhclip-tiny' not found" in done.stderr


def namespace(**changes):
    base = dict(
        model=["ViT-B-32"], pretrained=["laion400m_e32"], pretrained_model="", dataset="digits", language="zh",
        train_split="train", val_split=None, val_proportion=None, verbose=False, distributed=False,
    )  # fmt: skip
    return SimpleNamespace(**{**base, **changes})


@pytest.fixture
def runs(monkeypatch):
    """(model, pretrained) of every run that `main_eval` starts."""
    import clip_benchmark.cli as cli

    seen = []
    monkeypatch.setattr(cli, "run", lambda args: seen.append((args.model, args.pretrained)))
    monkeypatch.setattr(sys, "argv", ["clip_benchmark", "eval"])
    return cli.main_eval, seen


def test_default_tags_for_ours_alone(runs, monkeypatch):
    main_eval, seen = runs
    main_eval(namespace(model=["zhclip", "ViT-B-32", "zhclip-tiny"]))
    assert seen == [("zhclip", "thu_ml"), ("ViT-B-32", "laion400m_e32"), ("zhclip-tiny", "digits")]
    seen.clear()
    main_eval(namespace(model=["ViT-B-32", "RN50"], pretrained=["openai"]))
    assert seen == [("ViT-B-32", "openai"), ("RN50", "openai")]
    seen.clear()
    monkeypatch.setattr(sys, "argv", ["clip_benchmark", "eval", "--pretrained", "laion400m_e32"])
    main_eval(namespace(model=["zhclip"]))
    assert seen == [("zhclip", "laion400m_e32")]  # asked for by name: an error that lists the tags


def test_collections(runs):
    import open_clip
    from clip_benchmark.model_collection import model_collection

    from zhclip_openclip import list_models
    from zhclip_openclip.families import all_families
    from zhclip_openclip.integrations.clip_benchmark import COMPARISON

    main_eval, seen = runs
    main_eval(namespace(pretrained_model="zhclip"))
    assert seen == [("zhclip", "thu_ml")]
    ours = set(list_models())
    assert not ours & {name for name, _ in model_collection["openclip_all"]}
    assert len(model_collection["openclip_all"]) == sum(name not in ours for name, _ in open_clip.list_pretrained())
    assert [name for name, _ in model_collection["chinese_clip"]] == [n for n in COMPARISON if n in ours]
    for family in all_families().values():
        assert len(model_collection[f"{family.name}_all"]) == sum(len(model.tags) for model in family.models)


@pytest.mark.parametrize("bf16", [True, False])
def test_precision_rule_is_for_our_models(monkeypatch, bf16):
    import clip_benchmark.cli as cli
    import torch

    from zhclip_openclip import _precision

    monkeypatch.setattr(_precision, "cpu_has_bf16", lambda: bf16)
    original = cli.run.__zhclip_original__
    seen = {}
    monkeypatch.setitem(
        original.__globals__,
        "load_clip",
        lambda **kwargs: (_ for _ in ()).throw(InterruptedError(kwargs["model_name"])),
    )
    for name in ("zhclip-tiny", "RN50"):
        args = SimpleNamespace(
            model=name, pretrained="digits", dataset="digits", language="zh", task="auto", amp=True, verbose=False,
            distributed=False, seed=0, output="x.json", skip_existing=False, dataset_root="", skip_load=False,
            model_type="open_clip", model_cache_dir=None, custom_template_file=None, custom_classname_file=None,
            wds_cache_dir=None, split="test", recall_k=[5],
        )  # fmt: skip
        with pytest.raises(InterruptedError, match=name):
            cli.run(args)
        seen[name] = args.amp
    assert seen["RN50"] is True
    assert seen["zhclip-tiny"] is (bf16 or torch.cuda.is_available())


def test_use_amp(monkeypatch):
    from zhclip_openclip import _precision

    monkeypatch.setattr(_precision, "cpu_has_bf16", lambda: False)
    assert _precision.use_amp("cuda:0", True) and not _precision.use_amp("cuda", False)
    assert not _precision.use_amp("cpu", True)
    monkeypatch.setattr(_precision, "cpu_has_bf16", lambda: True)
    assert _precision.use_amp("cpu", True) and not _precision.use_amp("cpu", False)


def test_cpu_has_bf16_is_what_linux_says():
    from zhclip_openclip._precision import cpu_has_bf16

    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists() or "flags" not in (text := cpuinfo.read_text()):
        pytest.skip("no x86 Linux")
    flags = set(next(line for line in text.splitlines() if line.startswith("flags")).split())
    assert cpu_has_bf16() == bool(flags & {"avx512_bf16", "amx_bf16", "avx10_2"})


def test_digits():
    import numpy as np
    from clip_benchmark.datasets.builder import build_dataset, get_dataset_default_task
    from sklearn.datasets import load_digits

    data = load_digits()
    train, test = (build_dataset("digits", split=split, language="zh") for split in ("train", "test"))
    assert len(train) + len(test) == len(data.target) and len(test) == 360
    image, label = test[0]
    assert image.size == (8, 8) and image.mode == "RGB" and label == data.target[1437]
    assert np.allclose(np.asarray(image)[..., 0] / 255 * 16, data.images[1437], atol=0.04)
    assert test.classes[3] == "数字三" and all("{c}" in template for template in test.templates)
    assert build_dataset("digits", split="test", language="en").classes[3] == "3"
    assert get_dataset_default_task("digits") == "zeroshot_classification"
    with pytest.raises(ValueError, match="'val'; it has train and test"):
        build_dataset("digits", split="val")


def test_accuracy_is_clip_benchmarks_where_that_works():
    """With NumPy 2.4 its function raises; the same sum is then made without the array of one element."""
    import torch
    from clip_benchmark.metrics.zeroshot_classification import accuracy

    generator = torch.Generator().manual_seed(0)
    output, target = torch.randn(50, 7, generator=generator), torch.randint(0, 7, (50,), generator=generator)
    expected = [sum(int(t in row.topk(k).indices) for row, t in zip(output, target, strict=True)) / 50 for k in (1, 5)]
    assert accuracy(output, target, topk=(1, 5)) == pytest.approx(expected)
    with pytest.raises(RuntimeError):
        accuracy(output, target, topk=(1, 9))

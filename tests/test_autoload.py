"""The plugin is there whatever is imported first, costs nothing, and never breaks its hosts."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

ASK = """
import sys
assert 'zhclip' in open_clip.list_models(), 'models'
assert ('zhclip', 'thu_ml') in open_clip.list_pretrained(), 'tags'
model = open_clip.create_model('zhclip-tiny', pretrained='digits')
assert model.zhclip_model == 'zhclip-tiny'
print('fine')
"""


@pytest.mark.parametrize("first", ["torch", "open_clip", "transformers", "timm", "clip_benchmark.cli"])
def test_models_are_there_whatever_comes_first(run_python, first):
    assert "fine" in run_python(f"import {first}\nimport open_clip\n{ASK}").stdout


def test_bare_import_where_autoloading_is_off(run_python):
    off = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    assert "fine" in run_python(f"import zhclip_openclip, open_clip\n{ASK}", **off).stdout
    assert "fine" in run_python(f"import open_clip, zhclip_openclip\n{ASK}", **off).stdout
    without = run_python("import open_clip; print('zhclip' in open_clip.list_models())", **off)
    assert without.stdout.strip() == "False"


def test_spawned_worker(run_python, tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(
        "import multiprocessing as mp\n"
        "def work(queue):\n"
        "    import open_clip\n"
        "    queue.put('zhclip' in open_clip.list_models())\n"
        "if __name__ == '__main__':\n"
        "    context = mp.get_context('spawn')\n"
        "    queue = context.Queue()\n"
        "    process = context.Process(target=work, args=(queue,))\n"
        "    process.start()\n"
        "    print(queue.get(timeout=120))\n"
        "    process.join()\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=180)
    assert done.stdout.strip() == "True", done.stderr


def test_importing_the_package_is_light(run_python):
    code = "import sys, zhclip_openclip; print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'open_clip'}))"
    assert run_python(code).stdout.strip() == "[]"
    assert "zhclip-tiny" in run_python("import zhclip_openclip as z; print(z.list_models())").stdout


def test_what_import_torch_loads_of_us():
    """-X importtime names one module of ours; what it costs: benchmarks/import_time.py."""
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", "import torch"], capture_output=True, text=True)
    names = set(re.findall(r"^import time:.*\|\s+(zhclip_openclip\S*)$", done.stderr, flags=re.MULTILINE))
    assert "zhclip_openclip.autoload" in names <= {"zhclip_openclip", "zhclip_openclip.autoload"}


def test_a_failing_hook_breaks_nothing(run_python):
    """One warning, and open_clip and clip_benchmark work as without us."""
    code = """
import sys, warnings
import zhclip_openclip.integrations.open_clip as ours
def broken(module):
    raise KeyError('no such thing')
ours.hook_factory = broken
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    import torch, open_clip
    import clip_benchmark.cli
told = [str(w.message) for w in caught if 'zhclip-openclip' in str(w.message)]
assert len(told) == 1 and 'open_clip.factory' in told[0] and 'no such thing' in told[0], told
assert 'zhclip' not in open_clip.list_models()
assert open_clip.create_model('RN50') is not None
print('fine')
"""
    assert "fine" in run_python(code, TORCH_DEVICE_BACKEND_AUTOLOAD="0").stdout


def test_a_patch_that_fails_takes_the_others_back(monkeypatch):
    import open_clip.factory

    from zhclip_openclip.integrations import _patching

    before = open_clip.factory.list_models
    patches = [
        _patching.Patch("open_clip.factory", "list_models", lambda original: lambda: ["nothing"], "test"),
        _patching.Patch("open_clip.factory", "no_such_name", lambda original: original, "test"),
    ]
    with pytest.raises(AttributeError, match="no_such_name"):
        _patching.apply(patches, "open_clip")
    assert open_clip.factory.list_models is before
    assert open_clip.list_models is before


def test_registering_twice_is_once():
    import open_clip

    import zhclip_openclip
    from zhclip_openclip.integrations import clip_benchmark
    from zhclip_openclip.integrations import open_clip as ours

    before = open_clip.create_model, len(open_clip.list_models()), len(open_clip.list_pretrained()), len(sys.meta_path)
    zhclip_openclip.register()
    ours.register()
    clip_benchmark.register()
    after = open_clip.create_model, len(open_clip.list_models()), len(open_clip.list_pretrained()), len(sys.meta_path)
    assert before == after


def test_declared_plugins_name_functions_that_exist():
    from importlib.metadata import entry_points

    for group in ("open_clip.plugins", "clip_benchmark.plugins", "torch.backends"):
        ours = [point for point in entry_points(group=group) if point.name == "zhclip_openclip"]
        assert len(ours) == 1 and callable(ours[0].load())

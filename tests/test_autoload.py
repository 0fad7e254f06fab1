"""The plugin is there whatever is imported first, costs nothing, and never breaks its hosts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent / "pyproject.toml"

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
    ours = {"zhclip_openclip", "zhclip_openclip.autoload", "zhclip_openclip_autoload"}
    assert "zhclip_openclip.autoload" in names <= ours


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


TOLD = "[str(w.message) for w in caught if 'zhclip-openclip' in str(w.message)]"


@pytest.mark.parametrize("what", ["integrations", "families", "model_configs"])
def test_what_breaks_every_hook_is_one_warning(run_python, what):
    """Pieces of the package that are not there, and a family that raises SystemExit, in each of the hooks."""
    code = f"""
import sys, warnings
import zhclip_openclip._paths as paths
from pathlib import Path
from importlib.metadata import EntryPoint
if {what!r} == 'integrations':
    sys.modules['zhclip_openclip.integrations'] = None
elif {what!r} == 'model_configs':
    paths.model_configs = lambda: Path('/nowhere/model_configs')
else:
    import types
    import zhclip_openclip.families as families
    broken = types.ModuleType('broken')
    def load(name):
        if name.startswith('__'):
            raise AttributeError(name)
        raise SystemExit('the end' if name == 'A' else KeyError(name))
    broken.__getattr__ = load
    sys.modules['broken'] = broken
    original = families.entry_points
    families.entry_points = lambda group: [
        *original(group=group), *(EntryPoint(name, f'broken:{{name}}', group) for name in 'AB')
    ]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    import torch, open_clip
    import clip_benchmark.cli
told = {TOLD}
assert len(told) == 1, told
assert ('zhclip' in open_clip.list_models()) == ({what!r} == 'families')
assert 'RN50' in open_clip.list_models()
print('fine')
"""
    assert "fine" in run_python(code, TORCH_DEVICE_BACKEND_AUTOLOAD="0").stdout


def test_a_host_that_lacks_something_is_left_whole(run_python):
    """Each name that we replace or look up is taken away once: nothing of the host is another object afterwards."""
    code = f"""
import importlib, sys, warnings
from zhclip_openclip import autoload
sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, autoload._Finder)]
import open_clip
for name in autoload.HOOKS:
    if not name.endswith('nllb_clip') and not name.startswith('mteb.'):  # see integrations/test_mteb.py
        importlib.import_module(name)
import zhclip_openclip.integrations.open_clip as ours, zhclip_openclip.integrations.clip_benchmark as theirs
from zhclip_openclip.integrations import _patching
tables = [ours.PATCHES, theirs.MODELS, theirs.BUILDER, theirs.CLASSIFICATION, theirs.RETRIEVAL_METRICS, theirs.CLI]
looked_up = [
    ('open_clip.factory', '_MODEL_CONFIGS'), ('open_clip.factory', '_MODEL_CONFIG_PATHS'),
    ('open_clip.factory', 'add_model_config'), ('open_clip.pretrained', '_PRETRAINED'),
    ('open_clip.pretrained', '_pcfg'), ('clip_benchmark.datasets.builder', 'dataset_collection'),
    ('clip_benchmark.model_collection', 'model_collection'),
]
hosts = lambda: [m for n, m in sys.modules.items() if n.split('.')[0] in ('open_clip', 'clip_benchmark')]
def state():
    found = {{(m.__name__, key): id(value) for m in hosts() for key, value in vars(m).items()}}
    tables = [open_clip.factory._MODEL_CONFIGS, open_clip.factory._MODEL_CONFIG_PATHS, open_clip.pretrained._PRETRAINED]
    return found, [list(table) for table in tables]
before = state()
lacking = [(patch.module, patch.name) for table in tables for patch in table] + looked_up
for module_name, name in lacking:
    module = sys.modules[module_name]
    hooked = autoload.TOGETHER.get(module_name, module_name)
    autoload.FAILED.clear(), autoload.DONE.clear(), autoload._TOLD.clear()
    value = vars(module).pop(name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        autoload.apply(hooked, sys.modules[hooked])
    vars(module)[name] = value
    told = {TOLD}
    assert len(told) == 1 and name in told[0], (module_name, name, told)
    after = state()
    changed = [key for key in {{**before[0], **after[0]}} if before[0].get(key) != after[0].get(key)]
    assert not changed and before[1] == after[1] and not _patching.APPLIED, (module_name, name, changed)
assert len(lacking) > 20 and 'zhclip' not in open_clip.list_models()
autoload.FAILED.clear()
for name in autoload.HOOKS:
    if name in sys.modules:
        autoload.apply(name, sys.modules[name])
assert open_clip.create_model('zhclip-tiny', pretrained='digits').zhclip_model == 'zhclip-tiny'
print('fine')
"""
    assert "fine" in run_python(code, TORCH_DEVICE_BACKEND_AUTOLOAD="0").stdout


def test_reloading_and_copying_modules_keep_the_plugin(run_python):
    code = """
import copy, importlib, pickle
import open_clip, open_clip.factory, open_clip.model, open_clip.pretrained
import clip_benchmark.datasets.builder as builder
from zhclip_openclip import autoload
def works():
    assert 'zhclip' in open_clip.factory.list_models() and 'zhclip' in open_clip.list_models()
    assert ('zhclip', 'thu_ml') in open_clip.list_pretrained()
    for package in (open_clip, open_clip.factory):
        model = package.create_model('zhclip-tiny', pretrained='digits')
        assert model.zhclip_model == 'zhclip-tiny'
    assert 'zhclip' in type(model.text).__module__
works()
for module in (open_clip.factory, open_clip.model, open_clip.pretrained, open_clip.factory, open_clip):
    importlib.reload(module)
    works()
importlib.reload(builder)
assert builder.get_dataset_default_task('muge') == 'zeroshot_retrieval'
spec = autoload._Finder().find_spec('open_clip.factory', open_clip.__path__)
for made in (copy.copy(spec.loader), copy.deepcopy(spec.loader), pickle.loads(pickle.dumps(spec.loader))):
    assert made.name == 'open_clip.factory'
before = open_clip.create_model
spec.loader.exec_module(importlib.util.module_from_spec(spec))  # a copy of somebody's own
assert open_clip.create_model is before and not autoload.FAILED
print('fine')
"""
    assert "fine" in run_python(code).stdout


BROKEN = {
    "the clone is gone": ("sitecustomize.py", None),
    "a syntax error": ("zhclip_openclip/__init__.py", "def ("),
    "a piece is missing": ("zhclip_openclip/__init__.py", ""),
    "another syntax error": ("zhclip_openclip/autoload.py", "def ("),
    "it wants to end the program": ("zhclip_openclip/__init__.py", "raise SystemExit(3)"),
}
GONE = """
import sys
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "zhclip_openclip":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Gone())
"""


@pytest.mark.skipif(not PROJECT.is_file(), reason="not in a wheel")
@pytest.mark.parametrize("damage", BROKEN)
def test_torch_imports_whatever_has_become_of_the_package(damage, tmp_path):
    """With the entry point and the file that an installation puts into site-packages."""
    text = PROJECT.read_text(encoding="utf-8")
    entry = re.search(r'"torch.backends"]\nzhclip_openclip = "(.*)"', text)[1]
    module = entry.partition(":")[0]
    source = re.search(rf'"(\S+)" = "{module}.py"', text[text.index("wheel.force-include") :])[1]
    shutil.copy(PROJECT.parent / source, tmp_path / f"{module}.py")
    about = tmp_path / "zhclip_openclip-0.1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.4\nName: zhclip-openclip\nVersion: 0.1.0\n")
    (about / "entry_points.txt").write_text(f"[torch.backends]\nzhclip_openclip = {entry}\n")
    (tmp_path / "zhclip_openclip").mkdir()
    if damage != "the clone is gone":
        (tmp_path / "zhclip_openclip" / "__init__.py").write_text("")
    path, content = BROKEN[damage]
    (tmp_path / path).write_text(GONE if content is None else content)
    for treatment in ("always", "error"):
        done = subprocess.run(
            [sys.executable, "-W", f"{treatment}::RuntimeWarning", "-c", "import torch; print(torch.ones(2).sum())"],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )
        assert done.returncode == 0 and done.stdout == "tensor(2.)\n", done.stderr
        assert done.stderr.count("zhclip-openclip is installed, but cannot be started") == 1, done.stderr


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

    for group in ("open_clip.plugins", "clip_benchmark.plugins", "open_clip_train.plugins", "torch.backends"):
        ours = [point for point in entry_points(group=group) if point.name == "zhclip_openclip"]
        assert len(ours) == 1 and callable(ours[0].load())

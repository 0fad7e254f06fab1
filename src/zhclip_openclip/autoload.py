"""What `import torch` calls, by way of `zhclip_openclip_autoload.py`: puts one finder on `sys.meta_path` that hooks
open_clip, clip_benchmark, open_clip_train and mteb as they load.

Standard library only and nothing that may raise: an exception here would break `import torch` for every program on the
machine. The finder looks at the name of each imported module and does nothing but for the few in :data:`HOOKS` and
:data:`TOGETHER`; those are loaded as always, and afterwards handed to a function of
:mod:`zhclip_openclip.integrations`. Where that fails the host is left as it was, and one warning says so.

Torch is often first imported from inside `import open_clip` or `import clip_benchmark.cli`. Those two are then half
executed and past the finder, which is why the hooks are on submodules that come later. `clip_benchmark.cli` can be half
executed itself, and mteb's registry while it imports its models; :func:`_when_executed` covers them.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
import warnings

# module of the host -> function that gets the loaded module. `open_clip.factory` is the last piece of open_clip that
# is needed: model, hf_model, pretrained and tokenizer are loaded by then.
HOOKS = {
    "open_clip.factory": "zhclip_openclip.integrations.open_clip:hook_factory",
    "open_clip.push_to_hf_hub": "zhclip_openclip.integrations.open_clip:hook_push",
    "clip_benchmark.models": "zhclip_openclip.integrations.clip_benchmark:hook_models",
    "clip_benchmark.models.nllb_clip": "zhclip_openclip.integrations.clip_benchmark:hook_nllb",
    "clip_benchmark.model_collection": "zhclip_openclip.integrations.clip_benchmark:hook_model_collection",
    "clip_benchmark.datasets.builder": "zhclip_openclip.integrations.clip_benchmark:hook_builder",
    "clip_benchmark.metrics.zeroshot_classification": (
        "zhclip_openclip.integrations.clip_benchmark:hook_zeroshot_classification"
    ),
    "clip_benchmark.metrics.zeroshot_retrieval": "zhclip_openclip.integrations.clip_benchmark:hook_zeroshot_retrieval",
    "clip_benchmark.metrics.linear_probe": "zhclip_openclip.integrations.clip_benchmark:hook_linear_probe",
    "clip_benchmark.cli": "zhclip_openclip.integrations.clip_benchmark:hook_cli",
    "open_clip_train.params": "zhclip_openclip.integrations.open_clip_train:hook_params",
    "open_clip_train.data": "zhclip_openclip.integrations.open_clip_train:hook_data",
    "open_clip_train.zero_shot": "zhclip_openclip.integrations.open_clip_train:hook_zero_shot",
    "open_clip_train.train": "zhclip_openclip.integrations.open_clip_train:hook_train",
    "mteb.models.model_implementations": "zhclip_openclip.integrations.mteb:hook_registry",
}
#: Modules without a hook of their own that one of :data:`HOOKS` changes too: executed again (`importlib.reload`), they
#: need it again.
TOGETHER = {"open_clip.model": "open_clip.factory", "open_clip.pretrained": "open_clip.factory"}
_CLI = "clip_benchmark.cli"
#: Modules from inside of which torch may be imported first.
_IMPORT_TORCH = (_CLI, "mteb.models.model_implementations")
#: Names of host modules whose hook failed, with the reason: `zhclip doctor` shows them.
FAILED: dict[str, str] = {}
#: Names of host modules that have been hooked.
DONE: set[str] = set()
#: Kinds of failures that have been told of: what breaks one hook usually breaks all.
_TOLD: set[str] = set()


def autoload() -> None:
    """Install the finder and hook what is loaded already. Never raises; calling it again changes nothing."""
    try:
        if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
            sys.meta_path.insert(0, _Finder())
        for name in HOOKS:
            module = sys.modules.get(name)
            if module is None:
                continue
            if _is_executing(module):
                if name in _IMPORT_TORCH:
                    _when_executed(name, module)
                # Any other one is being loaded through our finder, which hooks it afterwards.
            else:
                apply(name, module)
        main = sys.modules.get("__main__")
        if getattr(getattr(main, "__spec__", None), "name", None) == _CLI:  # python -m clip_benchmark.cli
            _when_parsing(main)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever it is, torch must go on
        _failed("its start", error)


def apply(name: str, module: types.ModuleType) -> None:
    """Hand the complete host module `name` to its hook, once. One that fails leaves the host as it was: what it had
    replaced and added is taken back, and a warning says why."""
    if name in DONE or name in FAILED:
        return
    DONE.add(name)
    state = None
    try:
        _look_for_pieces()
        from zhclip_openclip._host_state import HostState

        path, function = HOOKS[name].split(":")
        hook = getattr(importlib.import_module(path), function)
        state = HostState(name, module)
        hook(module)
    except BaseException as error:  # of a family too, or SystemExit: none of it is the host's business
        DONE.discard(name)
        FAILED[name] = f"{type(error).__name__}: {error}"
        if state is not None:
            state.restore()
        if isinstance(error, KeyboardInterrupt):
            raise
        _failed(name, error)


def _look_for_pieces() -> None:
    """Raise if the folders that hold no code are not there: an installation that was cut off, or one in a zip file."""
    from zhclip_openclip import _paths

    missing = [str(folder) for folder in (_paths.model_configs(), _paths.DATA) if not folder.is_dir()]
    if missing:
        raise FileNotFoundError(f"{' and '.join(missing)} not there; install zhclip-openclip again")


def _failed(what: str, error: BaseException) -> None:
    """Tell of a failure, the first time that one of its kind comes."""
    kind = type(error).__name__
    if kind in _TOLD:
        return
    _TOLD.add(kind)
    tell(
        f"zhclip-openclip could not hook into {what} and leaves it as it is ({kind}: {error}); "
        "`zhclip doctor` says more"
    )


def tell(text: str) -> None:
    """Warn, without ever raising."""
    try:
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    except Exception:  # warnings may be errors: then the host still has to load
        print(text, file=sys.stderr)


def _is_executing(module: types.ModuleType) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


class _Finder:
    """Finds the modules of :data:`HOOKS` with everybody else's finders and wraps their loaders."""

    def find_spec(self, name, path=None, target=None):
        if name not in HOOKS and name not in TOGETHER:
            return None
        try:
            spec = None
            for finder in sys.meta_path:
                if isinstance(finder, _Finder) or not hasattr(finder, "find_spec"):
                    continue
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    break
            if spec is not None and spec.loader is not None and hasattr(spec.loader, "exec_module"):
                spec.loader = _Loader(spec.loader)
            return spec
        except Exception as error:  # of somebody else's finder, which raises it again when it is asked next
            _failed(name, error)
            return None


class _Loader:
    """Stands before a module's own loader: executes the module with it, then applies the hook."""

    def __init__(self, loader):
        self._loader = loader

    def create_module(self, spec):
        create = getattr(self._loader, "create_module", None)
        return create(spec) if create else None

    def exec_module(self, module):
        # Everyone after this moment (inspect, pickle, importlib.resources) is to see the module's own loader.
        module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        name = module.__spec__.name
        if sys.modules.get(name) is not module:  # a copy for somebody's own use
            return
        hooked = TOGETHER.get(name, name)
        if name in TOGETHER and hooked not in DONE:
            return  # it comes first, and its hook later
        if name in HOOKS:
            FAILED.pop(name, None)
        DONE.discard(hooked)  # what was replaced is the host's own again, if this is the second time
        apply(hooked, sys.modules.get(hooked, module))

    def __getattr__(self, name):
        if name.startswith("__") or name == "_loader":  # of an object that is being copied, which has no loader yet
            raise AttributeError(name)
        return getattr(self._loader, name)


def _when_executed(name: str, module: types.ModuleType) -> None:
    """Hook a module that is being executed right now, at the first look at it from outside after its execution."""

    class Waiting(types.ModuleType):
        def __getattribute__(self, attribute):
            spec = types.ModuleType.__getattribute__(self, "__spec__")
            if not getattr(spec, "_initializing", False):
                self.__class__ = types.ModuleType
                apply(name, self)
            return types.ModuleType.__getattribute__(self, attribute)

    module.__class__ = Waiting


def _when_parsing(main: types.ModuleType) -> None:
    """Hook clip_benchmark's command line when it runs as `__main__`, where nobody looks at it from outside.

    By the time it asks `argparse` for a parser all its functions exist, so its own name `argparse` is made to tell us.
    """
    namespace = vars(main)
    argparse = namespace.get("argparse")
    if argparse is None or not isinstance(argparse, types.ModuleType):
        return

    class Argparse(types.ModuleType):
        def __getattr__(self, name):
            namespace["argparse"] = argparse
            apply(_CLI, main)
            return getattr(argparse, name)

    namespace["argparse"] = Argparse("argparse")


def disabled() -> bool:
    """Whether PyTorch's autoloading is switched off in this environment."""
    return os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD", "1") == "0"

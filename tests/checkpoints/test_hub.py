"""Weights, config and tokenizer from the hub: huggingface_hub's real download code against a stand-in on loopback."""

from __future__ import annotations

import json
import shutil
import socket
import warnings

import open_clip
import pytest
import torch
from huggingface_hub import snapshot_download
from safetensors.torch import save_file

from zhclip_openclip._errors import CheckpointError, DownloadError
from zhclip_openclip.checkpoints import _files

REPO = "somebody/some-model"


@pytest.fixture
def repo(hub):
    folder = hub.root / REPO
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    save_file({"weight": torch.arange(4.0)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def cache(tmp_path):
    return str(tmp_path / "cache")


NAMES = ("model.safetensors", "pytorch_model.bin")


def test_first_download_then_cache(hub, repo, cache):
    first = _files.fetch(REPO, NAMES, cache)
    assert first.name == "model.safetensors" and first.read_bytes() == (repo / "model.safetensors").read_bytes()
    assert hub.downloads() == [f"/{REPO}/resolve/main/model.safetensors"]
    second = _files.fetch(REPO, NAMES, cache)
    assert second == first and len(hub.downloads()) == 1
    assert _files.cached(REPO, NAMES, cache) == first


def test_next_name_where_the_first_is_not_there(hub, repo, cache):
    (repo / "model.safetensors").unlink()
    (repo / "pytorch_model.bin").write_bytes(b"x")
    assert _files.fetch(REPO, NAMES, cache).name == "pytorch_model.bin"


def test_offline_with_a_warm_cache(hub, repo, cache, offline, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    path = _files.fetch(REPO, NAMES, cache)
    assert _files.fetch(REPO, ["absent.json"], cache, optional=True) is None
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert _files.fetch(REPO, NAMES, cache) == path
    assert _files.fetch(REPO, ["absent.json"], cache, optional=True) is None  # it is known to be absent
    assert hub.requests == []


def test_offline_with_a_cold_cache(hub, repo, cache, offline):
    with pytest.raises(DownloadError) as error:
        _files.fetch(REPO, NAMES, cache)
    told = str(error.value)
    assert "\n" not in told
    for word in (REPO, "model.safetensors", "config.json", "ZHCLIP_MODELS_DIR", "HF_ENDPOINT", hub.url):
        assert word in told
    with pytest.raises(DownloadError):  # what an optional file says must be known, not guessed
        _files.fetch(REPO, ["config.json"], cache, optional=True)


@pytest.fixture
def no_pauses(monkeypatch):
    """huggingface_hub waits for half a minute between its attempts."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def test_a_file_cut_short_leaves_nothing(hub, repo, cache, no_pauses):
    hub.faults["model.safetensors"] = "cut"
    with pytest.raises(DownloadError, match="model.safetensors.*could not be fetched"):
        _files.fetch(REPO, NAMES, cache)
    assert _files.cached(REPO, NAMES, cache) is None
    hub.faults.clear()
    assert _files.fetch(REPO, NAMES, cache).read_bytes() == (repo / "model.safetensors").read_bytes()


def test_404_and_500(hub, repo, cache, no_pauses):
    hub.faults["model.safetensors"] = "404"
    with pytest.raises(DownloadError, match="holds none of model.safetensors or pytorch_model.bin"):
        _files.fetch(REPO, NAMES, cache)
    assert _files.fetch(REPO, ["nix.json"], cache, optional=True) is None
    hub.faults["config.json"] = "500"
    with pytest.raises(DownloadError, match="config.json.*could not be fetched.*500"):
        _files.fetch(REPO, ["config.json"], cache, optional=True)
    with pytest.raises(DownloadError, match="has no repository nobody/nothing"):
        _files.fetch("nobody/nothing", NAMES, cache)


# the cache as the hub's own tools leave it: a snapshot, and no note of the files that the repository does not have


@pytest.fixture(params=["offline", "no answer"])
def no_hub(request, hub, monkeypatch):
    """Call it to be without the hub, in one of two ways."""
    from huggingface_hub import constants

    def go():
        if request.param == "offline":
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        else:
            with socket.socket() as free:  # a port that nobody listens on
                free.bind(("127.0.0.1", 0))
                monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")

    return go


@pytest.mark.parametrize("whole", [True, False])
def test_a_snapshot_with_the_weights_is_complete(hub, repo, cache, no_hub, whole):
    (repo / "model.safetensors").rename(repo / "pytorch_model.bin")
    if whole:
        (repo / ".gitattributes").write_text("*.bin filter=lfs\n")
    snapshot_download(REPO, cache_dir=cache)
    no_hub()
    assert _files.fetch(REPO, NAMES, cache).name == "pytorch_model.bin"
    assert _files.fetch(REPO, ["config.json"], cache, optional=True).name == "config.json"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert _files.fetch(REPO, ["preprocessor_config.json"], cache, optional=True) is None
    told = [str(warning.message) for warning in caught]
    # Who has fetched some files only may lack one that the repository has.
    assert told == [] if whole else len(told) == 1 and "taken for absent" in told[0] and REPO in told[0]


def test_a_snapshot_without_the_weights_is_not(hub, repo, cache, no_hub):
    snapshot_download(REPO, cache_dir=cache, allow_patterns=["config.json"])
    no_hub()
    with pytest.raises(DownloadError, match="preprocessor_config.json is not on this machine"):
        _files.fetch(REPO, ["preprocessor_config.json"], cache, optional=True)
    with pytest.raises(DownloadError, match="model.safetensors or pytorch_model.bin is not on this machine"):
        _files.fetch(REPO, NAMES, cache)


def test_a_hub_that_fails_is_no_hub(hub, repo, cache, no_pauses):
    """HTTP errors: the cache is as good as without a network."""
    _files.fetch(REPO, NAMES, cache)
    hub.faults["preprocessor_config.json"] = "500"
    with pytest.warns(UserWarning, match=f"{REPO} in the cache has weights.*500.*taken for absent"):
        assert _files.fetch(REPO, ["preprocessor_config.json"], cache, optional=True) is None


def test_a_hub_that_gives_no_answer_is_asked_once(hub, repo, cache, monkeypatch):
    import huggingface_hub

    asked = []

    class ConnectError(Exception):
        pass

    class Client:
        def head(self, address, timeout):
            asked.append(address)
            raise ConnectError("[Errno -2] Name or service not known")

    def never(*args, **kwargs):
        raise AssertionError("it was asked again")

    _files.fetch(REPO, NAMES, cache)
    monkeypatch.setattr(huggingface_hub.utils, "get_session", Client)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", never)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "https://no-such-mirror.example")
    monkeypatch.setattr(_files.time, "monotonic", lambda: 5e6)
    assert _files.fetch(REPO, NAMES, cache).name == "model.safetensors"
    for name in ("config.json", "a.bin", "b.bin"):
        with pytest.raises(DownloadError, match=r"example \(ConnectError: \[Errno -2\] Name or service not known\)"):
            _files.fetch(f"other/{name}", [name], cache)
    assert asked == ["https://no-such-mirror.example"]
    monkeypatch.setattr(_files.time, "monotonic", lambda: 5e6 + _files.PATIENCE)
    with pytest.raises(DownloadError):
        _files.fetch("other/one", ["a.bin"], cache)
    assert len(asked) == 2  # after a while it is asked again


def test_a_reason_is_cut_between_words():
    told = _files._reason(OSError("word " * 100))
    assert len(told) < 180 and told.endswith("word ...")


def test_models_dir_of_an_unknown_user(monkeypatch):
    monkeypatch.setenv("ZHCLIP_MODELS_DIR", "~nosuchuser/models")
    with pytest.raises(CheckpointError, match="~nosuchuser/models: this machine knows no home folder"):
        _files.fetch(REPO, NAMES)


def test_models_dir_comes_before_the_hub(hub, repo, cache, models_dir):
    folder = models_dir / REPO
    folder.mkdir(parents=True)
    (folder / "pytorch_model.bin").write_bytes(b"mine")
    assert _files.fetch(REPO, NAMES, cache) == folder / "pytorch_model.bin"
    assert _files.fetch(REPO, ["config.json"], cache, optional=True) is None
    assert hub.requests == []


def test_zhclip_from_the_hub_end_to_end(hub, tmp_path, monkeypatch):
    """`pretrained='thu_ml'` on a file of the tiny model's size would not fit; the error shows that the file arrived.

    What is fetched, in order: the config decides how to build, so it comes first.
    """
    folder = hub.root / "thu-ml" / "zh-clip-vit-roberta-large-patch14"
    folder.mkdir(parents=True)
    keys = [
        "vision_model.embeddings.class_embedding",
        "visual_projection.bias",
        "text_projection.0.weight",
        "text_model.encoder.layer.0.output.dense.bias",
    ]
    torch.save({key: torch.zeros(3) for key in keys}, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps({"vision_config": {"hidden_act": "quick_gelu"}}))
    with pytest.raises(CheckpointError, match="does not fit zhclip-vit-l-14-quickgelu: .* parameters are missing"):
        open_clip.create_model("zhclip", pretrained="thu_ml", cache_dir=str(tmp_path))
    names = [path.rsplit("/", 1)[1] for path in hub.downloads()]
    assert names == ["config.json", "pytorch_model.bin"]


def test_tokenizer_from_the_hub(hub, tmp_path):
    from zhclip_openclip import _paths

    folder = hub.root / "thu-ml" / "zh-clip-vit-roberta-large-patch14"
    folder.mkdir(parents=True)
    shutil.copy(_paths.DATA / "tiny" / "vocab.txt", folder / "vocab.txt")
    tokenizer = open_clip.get_tokenizer("zhclip", cache_dir=str(tmp_path))
    assert tokenizer(["数字三", "数"]).shape == (2, 77)
    assert open_clip.get_tokenizer("zhclip", context_length=9, cache_dir=str(tmp_path))("数字").shape == (1, 9)


def test_tokenizer_that_is_nowhere(hub, tmp_path, offline, monkeypatch):
    from zhclip_openclip.towers import tokenizer

    monkeypatch.setattr(tokenizer, "_cn_clip_vocabulary", lambda: None, raising=False)
    with pytest.raises(DownloadError, match="tokenizer.json.*ZHCLIP_MODELS_DIR"):
        open_clip.get_tokenizer("altclip", cache_dir=str(tmp_path / "empty"))


def test_a_model_that_is_nowhere_names_its_weights(hub, tmp_path, offline):
    with pytest.raises(DownloadError, match=r"put config.json, model.safetensors, pytorch_model.bin and the tokenizer"):
        open_clip.create_model("zhclip", pretrained="thu_ml", cache_dir=str(tmp_path))

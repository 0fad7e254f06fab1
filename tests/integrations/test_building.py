"""Random values are made where nothing takes their place, and only there."""

from __future__ import annotations

import open_clip
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from zhclip_openclip.export import open_clip_folder
from zhclip_openclip.families import find

plain = open_clip.create_model.__zhclip_original__


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """zhclip-tiny in open_clip's own form."""
    module = open_clip.create_model("zhclip-tiny", pretrained="digits")
    tokenizer = open_clip.get_tokenizer("zhclip-tiny")
    output = tmp_path_factory.mktemp("written") / "tiny"
    return open_clip_folder.write(module, tokenizer, find("zhclip-tiny")[1], "digits", output)


class Initialised(TorchDispatchMode):
    """Counts what reaches the tensors of the in-place functions that draw random numbers."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in ("uniform_", "normal_")
        return func(*args, **(kwargs or {}))


def test_a_folder_of_open_clip_s_own_form_is_not_initialised_first(folder):
    with Initialised() as made:
        model = open_clip.create_model(f"local-dir:{folder}")
    assert made.count == 0
    expected = open_clip.create_model("zhclip-tiny", pretrained="digits").state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    with Initialised() as made:
        plain(f"local-dir:{folder}")
    assert made.count > 0, "the test counts nothing"


@pytest.mark.parametrize("way", ["no weights there", "load_weights=False", "a name alone"])
def test_what_has_no_weights_is_random_as_without_us(folder, tmp_path, way):
    options = {"load_weights": False} if way == "load_weights=False" else {}
    name = f"local-dir:{folder}"
    if way == "no weights there":
        (tmp_path / "open_clip_config.json").write_bytes((folder / "open_clip_config.json").read_bytes())
        name = f"local-dir:{tmp_path}"
    elif way == "a name alone":
        name = "zhclip-tiny"
    torch.manual_seed(5)
    expected = plain(name, **options).state_dict()
    torch.manual_seed(5)
    found = open_clip.create_model(name, **options).state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in found.items())

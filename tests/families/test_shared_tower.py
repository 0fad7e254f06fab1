"""Families that take the same published image tower share its features: one name in the feature cache."""

from __future__ import annotations

import open_clip
import pytest

from zhclip_openclip.features import fingerprint


@pytest.mark.parametrize("size", ["vit-l-14", "vit-b-32"])
def test_mclip_and_taiyiclip_share_openais_tower(reduced, offline, size):
    mclip, taiyiclip = (open_clip.create_model(f"{family}-{size}").eval() for family in ("mclip", "taiyiclip"))
    assert fingerprint.tower(mclip) != fingerprint.tower(taiyiclip), "other weights"
    taiyiclip.visual.load_state_dict(mclip.visual.state_dict())
    assert fingerprint.tower(mclip) == fingerprint.tower(taiyiclip)


def test_the_same_weights_with_another_activation_are_another_tower(reduced, offline):
    plain, quick = (open_clip.create_model(name).eval() for name in ("zhclip-vit-l-14", "zhclip-vit-l-14-quickgelu"))
    quick.visual.load_state_dict(plain.visual.state_dict())
    assert fingerprint.tower(plain) != fingerprint.tower(quick)

"""Where the time of an evaluation goes."""

from __future__ import annotations

import time

import open_clip
import torch

from zhclip_openclip.datasets.digits import Digits
from zhclip_openclip.features import spent, using
from zhclip_openclip.features.image_pass import ImagePass
from zhclip_openclip.metrics.evaluate import encode_texts


def test_seconds_are_added_up_by_stage():
    with using(spent={}) as settings:
        for _ in range(2):
            with spent.timed(spent.TEXTS):
                time.sleep(0.01)

        def slow():
            for number in range(3):
                time.sleep(0.01)
                yield number

        assert list(spent.timed_items(spent.READING, slow())) == [0, 1, 2]
    assert settings.spent[spent.TEXTS] >= 0.02 and settings.spent[spent.READING] >= 0.03
    assert set(settings.spent) == {spent.TEXTS, spent.READING}


def test_nobody_asked():
    with spent.timed(spent.TEXTS):
        pass
    assert list(spent.timed_items(spent.READING, [1, 2])) == [1, 2]
    with using() as settings:
        assert settings.spent is None


def test_the_passes_of_an_evaluation_tell_where_they_were():
    model, _, transform = open_clip.create_model_and_transforms("zhclip-tiny", pretrained="digits")
    tokenizer = open_clip.get_tokenizer("zhclip-tiny")
    loader = torch.utils.data.DataLoader(Digits("test", transform), batch_size=64)
    begun = time.perf_counter()
    with using(spent={}, progress=lambda *_: None) as settings:
        for _ in ImagePass(model.eval(), loader, "cpu", False, "digits"):
            pass
        encode_texts(model, tokenizer, ["数字一", "手写的二"], "cpu", False)
    passed = time.perf_counter() - begun
    assert set(settings.spent) == {spent.READING, spent.IMAGES, spent.TEXTS}
    assert all(seconds > 0 for seconds in settings.spent.values()) and sum(settings.spent.values()) <= passed

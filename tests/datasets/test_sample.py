"""`--limit N`: the same sample everywhere, part of every larger one, and whole in itself."""

from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest

from tests.support.own_files import folders
from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.datasets import own, own_data, retrieval
from zhclip_openclip.datasets._images import FolderImages
from zhclip_openclip.datasets._relations import Resolved, TextEntry
from zhclip_openclip.datasets._sample import Sampled, positions, sampled
from zhclip_openclip.datasets.digits import Digits
from zhclip_openclip.features import fingerprint
from zhclip_openclip.prompts import checks


def test_the_sample_is_the_smallest_hashes_and_part_of_every_larger_one():
    by_hand = sorted((hashlib.sha256(f"zhclip-openclip limit 0 {n}".encode()).hexdigest(), n) for n in range(50))
    assert positions(50, 7) == sorted(n for _, n in by_hand[:7])
    assert set(positions(50, 7)) < set(positions(50, 20)) and positions(50, 50) == positions(50, 99) == list(range(50))


def test_a_sample_of_somebody_elses_data_set_is_the_same_images_and_labels():
    whole = Digits()
    sample = Sampled(whole, 25)
    chosen = positions(360, 25)
    assert len(sample) == 25 and sample.limited == {"asked": 25, "images": 25, "of": 360}
    assert [sample[n][1] for n in range(25)] == [whole.targets[place] for place in chosen] == sample.targets
    assert all(np.array_equal(np.asarray(sample[n][0]), np.asarray(whole[place][0])) for n, place in enumerate(chosen))
    assert checks.known_labels(sample).tolist() == sample.targets and sample.classes == whole.classes
    assert len(pickle.loads(pickle.dumps(sample))) == 25
    whole.transform = lambda image: 1 / 0
    assert fingerprint.without_transform(sample)[3][1] == sample.targets[3]


def test_a_sample_of_a_retrieval_set_has_its_texts_and_their_relations():
    whole = retrieval.build_retrieval_dataset("digits-retrieval", ".")
    sample = retrieval.build_retrieval_dataset("digits-retrieval", ".", limit=20)
    chosen = positions(360, 20)
    assert sample.image_ids == [whole.image_ids[place] for place in chosen]
    expected = {
        (whole.texts[text].text, whole.image_ids[image])
        for text, right in enumerate(whole.text_to_images)
        for image in right
        if image in chosen
    }
    assert expected == {
        (sample.texts[text].text, sample.image_ids[image])
        for text, right in enumerate(sample.text_to_images)
        for image in right
    }
    assert sample.limited == {"asked": 20, "images": 20, "of": 360, "texts": len(sample.texts), "of_texts": 70}
    assert sample.fingerprint() != whole.fingerprint()


def test_own_data_are_sampled_before_pictures_are_tried(tmp_path):
    folders(tmp_path, 猫=6, 狗=6)
    read = own.recognise("own/pets", tmp_path)
    whole, sample = own_data.build(read), own_data.build(read, limit=5)
    assert sample.samples == [whole.samples[place] for place in positions(12, 5)]
    assert sample.classes == whole.classes and sample.limited == {"asked": 5, "images": 5, "of": 12}
    place = positions(12, 5)[2]
    (tmp_path / whole.samples[place][0]).write_bytes(b"no picture")
    rest = own_data.build(own.recognise("own/pets", tmp_path), skip_bad_images=True, limit=5)
    assert len(rest) == 4 and len(rest.skipped) == 1


def test_no_text_in_the_sample():
    other = 1 - positions(2, 1)[0]
    resolved = Resolved(FolderImages(["a", "b"], ["a", "b"]), [TextEntry("t", "猫")], [[other]], [])
    with pytest.raises(ZhclipError, match="none of these 1 of 2 images has a text; take more"):
        sampled(resolved, 1)

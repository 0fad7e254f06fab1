"""Validation of a training run: official recall on sets with exact pairs, Chinese prompts for ImageNet."""

from __future__ import annotations

import contextvars
import functools
import inspect
import logging
from contextlib import nullcontext

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset, default_collate

from zhclip_openclip.integrations.open_clip_train import tokenizers

#: (data, model, args) of the validation that is running in this context, if it is one of ours.
_running: contextvars.ContextVar = contextvars.ContextVar("zhclip_validation", default=None)


class ValidationData:
    """What open_clip_train takes for its loader of validation data.

    The host encodes pairs, for its loss; a text with several images, or an image with several texts, would be encoded
    as often. So it gets pairs of which each image and each text has one at most, and the rest is encoded apart.

    num_samples, num_batches: of these pairs.
    """

    def __init__(self, dataset, transform, tokenizer, batch_size: int, workers: int, as_dict: bool) -> None:
        dataset.transform = transform
        self.dataset, self.tokenizer = dataset, tokenizer
        self.batch_size, self._workers, self._as_dict = batch_size, workers, as_dict
        self.image, self.text = one_to_one(dataset.image_to_texts)
        self.num_samples = len(self.image)
        self.num_batches = -(-self.num_samples // batch_size)

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self):
        texts = (self.text[at : at + self.batch_size] for at in range(0, self.num_samples, self.batch_size))
        for images, numbers in zip(self._images(self.image), texts, strict=True):
            ids = self.tokenizer([self.dataset.texts[number].text for number in numbers])
            yield {"image": images, "text": ids} if self._as_dict else (images, ids)

    def _images(self, numbers):
        return DataLoader(
            Subset(self.dataset, numbers), self.batch_size, num_workers=self._workers, collate_fn=_images_alone
        )

    def features(self, image_features, text_features, model, args):
        """(images, d) and (texts, d) features of the whole set, as float32 arrays.

        image_features, text_features: those of the pairs, as the host encoded them. model: encodes the rest.
        """
        images = np.empty((len(self.dataset), image_features.shape[1]), np.float32)
        texts = np.empty((len(self.dataset.texts), text_features.shape[1]), np.float32)
        images[self.image], texts[self.text] = image_features.float().cpu().numpy(), text_features.float().cpu().numpy()
        device, autocast, dtype = _precision(args)
        left = sorted(set(range(len(images))) - set(self.image))
        with torch.inference_mode(), autocast():
            at = 0
            for batch in self._images(left) if left else ():
                found = model.encode_image(batch.to(device=device, dtype=dtype), normalize=True)
                images[left[at : at + len(batch)]] = found.float().cpu().numpy()
                at += len(batch)
            left = sorted(set(range(len(texts))) - set(self.text))
            for at in range(0, len(left), self.batch_size):
                some = left[at : at + self.batch_size]
                ids = self.tokenizer([self.dataset.texts[number].text for number in some]).to(device)
                texts[some] = model.encode_text(ids, normalize=True).float().cpu().numpy()
        return images, texts


def one_to_one(image_to_texts) -> tuple[list[int], list[int]]:
    """Right pairs, as images and texts, in which each image and each text stands once at most: each image takes the
    first of its texts that no other has."""
    images, texts, taken = [], [], set()
    for image, right in enumerate(image_to_texts):
        text = next((text for text in right if text not in taken), None)
        if text is not None:
            taken.add(text)
            images.append(image)
            texts.append(text)
    return images, texts


def _images_alone(samples):
    return default_collate([image for image, _ in samples])


def _precision(args):
    from open_clip import get_input_dtype
    from open_clip_train.precision import get_autocast

    device = torch.device(args.device)
    autocast = get_autocast(args.precision, device_type=device.type)
    return device, autocast or nullcontext, get_input_dtype(args.precision)


def evaluate(original):
    """What stands for `open_clip_train.train.evaluate`: it remembers what is validated, for `get_clip_metrics`, and has
    the tokenizer of the data for ImageNet."""
    signature = inspect.signature(original)

    def evaluate(*args, **kwargs):
        call = signature.bind(*args, **kwargs)
        given = call.arguments
        if {"imagenet-val", "imagenet-v2"} & set(given["data"]):
            given["tokenizer"] = tokenizers.of_run(given["args"], given.get("tokenizer"))
        data = getattr(given["data"].get("val"), "dataloader", None)
        running = None
        if isinstance(data, ValidationData):
            running = data, _bare(given.get("model", given.get("task"))), given["args"]
        token = _running.set(running)
        try:
            return original(*call.args, **call.kwargs)
        finally:
            _running.reset(token)

    return evaluate


def _bare(model):
    """A model without what is wrapped around it: a task, processes, compilation."""
    for _ in range(4):
        if hasattr(model, "trainable_module"):
            model = getattr(model.trainable_module_ema, "module", None) or model.trainable_module
        model = getattr(model, "_orig_mod", getattr(model, "module", model))
    return model


def get_clip_metrics(original):
    """What stands for `open_clip_train.train.get_clip_metrics`: for a set with exact pairs its official metrics."""

    def get_clip_metrics(image_features, text_features, logit_scale, *args, **kwargs):
        running = _running.get()
        if running is None:
            return original(image_features, text_features, logit_scale, *args, **kwargs)
        from zhclip_openclip.metrics.recall import retrieval_metrics

        data, model, options = running
        pairs = [torch.cat(list(f)) if isinstance(f, (list, tuple)) else f for f in (image_features, text_features)]
        images, texts = data.features(*pairs, model, options)
        if not (np.isfinite(images).all() and np.isfinite(texts).all()):
            logging.warning("the features of the validation set are not finite: no recall; lower --lr")
            return {}
        with torch.inference_mode(False):  # the scores are added up in threads, which the mode does not reach
            return retrieval_metrics(images, texts, data.dataset.text_to_images, directions=data.dataset.directions)

    return get_clip_metrics


def build_zero_shot_classifier(original):
    """What stands for `open_clip_train.zero_shot.build_zero_shot_classifier`: a model of ours is asked in Chinese."""

    def build_zero_shot_classifier(model, tokenizer, classnames, templates, *args, **kwargs):
        if getattr(_bare(model), "zhclip_model", None) is not None:
            classnames, templates = chinese_imagenet(classnames)
            logging.info(f"Chinese class names, {len(templates)} Chinese templates")
        return original(model, tokenizer, classnames, templates, *args, **kwargs)

    return build_zero_shot_classifier


def chinese_imagenet(classnames):
    """The Chinese names of ImageNet's classes, in the order of the English ones, and templates as functions."""
    from zhclip_openclip.prompts import classnames as names
    from zhclip_openclip.prompts import registry, templates

    dataset = registry.find("imagenet1k")
    chosen = templates.load(None, dataset).templates
    return names.translate(dataset, classnames), [functools.partial(_filled, text) for text in chosen]


def _filled(template: str, name: str) -> str:
    return template.replace("{c}", name)

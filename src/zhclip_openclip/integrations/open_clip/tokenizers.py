"""What stands for `open_clip.factory.get_tokenizer`."""

from __future__ import annotations


def get_tokenizer(original):
    """The family's tokenizer for a model of ours, however it is named."""

    def get_tokenizer(model_name="", context_length=None, cache_dir=None, *args, pretrained=None, **kwargs):
        from zhclip_openclip.checkpoints import _names

        named = _names.named(str(model_name), cache_dir)
        if named is None:
            if pretrained is not None:
                kwargs["pretrained"] = pretrained
            return original(model_name, context_length, cache_dir, *args, **kwargs)
        from zhclip_openclip.towers import tokenizer

        near, length = _names.tokenizer_place(named, pretrained, cache_dir)
        return tokenizer.build(named.family, named.model, near, cache_dir, context_length or length, **kwargs)

    return get_tokenizer

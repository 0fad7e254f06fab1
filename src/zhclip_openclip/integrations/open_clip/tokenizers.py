"""What stands for `open_clip.factory.get_tokenizer`."""

from __future__ import annotations

from zhclip_openclip.families import find
from zhclip_openclip.integrations.open_clip.models import written_for


def get_tokenizer(original):
    def get_tokenizer(model_name="", context_length=None, cache_dir=None, *args, pretrained=None, **kwargs):
        found, folder = find(str(model_name)), None
        if found is None and (name := written_for(str(model_name))):
            found, folder = find(name), str(model_name).partition(":")[2]
        if found is None:
            if pretrained is not None:
                kwargs["pretrained"] = pretrained
            return original(model_name, context_length, cache_dir, *args, **kwargs)
        from zhclip_openclip.towers import tokenizer

        family, model = found
        return tokenizer.build(family, model, folder or pretrained, cache_dir, context_length, **kwargs)

    return get_tokenizer

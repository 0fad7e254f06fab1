"""What stands for open_clip's HFTextEncoder."""

from __future__ import annotations


def text_encoder(original):
    from zhclip_openclip.towers import text_configs

    class StandIn(type(original)):
        """Makes the stand-in look like open_clip's class to `isinstance`."""

        def __instancecheck__(cls, instance):
            return isinstance(instance, original)

        def __call__(cls, *args, **kwargs):
            name = args[0] if args else kwargs.get("model_name_or_path")
            if not text_configs.is_known(name):
                return original(*args, **kwargs)
            return text_configs.tower_class(name)(*args, **kwargs)

    return StandIn(original.__name__, (original,), {"__doc__": original.__doc__, "__module__": original.__module__})

"""What stands for `open_clip.push_to_hf_hub.save_config_for_hf`, which `save_for_hf` and `push_to_hf_hub` call."""

from __future__ import annotations

import inspect
import json
from pathlib import Path


def save_config_for_hf(original):
    """For a model of ours: the config says which model it is, so that the folder is known again.

    open_clip writes the `model_cfg` that it is given, which for an alias (`zhclip`) is not that of the QuickGELU twin
    that was built, and leaves out sizes that the model was built with.
    """
    signature = inspect.signature(original)

    def save_config_for_hf(*args, **kwargs):
        call = signature.bind(*args, **kwargs)
        result = original(*args, **kwargs)
        model = call.arguments["model"]
        name = getattr(model, "zhclip_model", None)
        if name is None:
            return result
        from zhclip_openclip._files import whole_file
        from zhclip_openclip.export import open_clip_folder
        from zhclip_openclip.families import find

        path = Path(call.arguments["config_path"])
        written = json.loads(path.read_text(encoding="utf-8"))
        ours = open_clip_folder.config(
            find(name)[1],
            {**written["preprocess_cfg"], **dict(model.visual.preprocess_cfg)},
            "save_for_hf",
            getattr(model, "zhclip_context_length", None),
        )
        with whole_file(path) as part:
            part.write_text(json.dumps(ours, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return result

    return save_config_for_hf

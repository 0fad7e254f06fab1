"""ZH-CLIP out of plain Hugging Face modules, as its published code puts them together.

CLIPVisionModel and its pooled output, a linear projection with bias; BertModel, the mean over the attention mask, a
linear layer without bias, GELU, a linear layer without bias. Random weights, the published file's key layout.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import BertConfig, BertModel, CLIPVisionConfig, CLIPVisionModel


class Reference(nn.Module):
    def __init__(self, activation: str = "gelu", layers: int = 2):
        super().__init__()
        self.image_config = CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=layers,
            num_attention_heads=16,
            image_size=224,
            patch_size=14,
            hidden_act=activation,
        )
        self.text_config = BertConfig(
            vocab_size=21128,
            hidden_size=1024,
            num_hidden_layers=layers,
            num_attention_heads=16,
            intermediate_size=4096,
            pad_token_id=0,
        )
        vision = CLIPVisionModel(self.image_config)
        self.vision_model = getattr(vision, "vision_model", vision)  # transformers 5 has no inner module any more
        self.visual_projection = nn.Linear(1024, 768)
        self.text_model = BertModel(self.text_config)
        self.text_projection = nn.Sequential(
            nn.Linear(1024, 896, bias=False), nn.GELU(), nn.Linear(896, 768, bias=False)
        )

    @torch.no_grad()
    def image_features(self, pixels):
        return self.visual_projection(self.vision_model(pixels).pooler_output)

    @torch.no_grad()
    def text_features(self, ids):
        mask = (ids != 0).long()
        hidden = self.text_model(input_ids=ids, attention_mask=mask).last_hidden_state
        pooled = (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(-1, keepdim=True)
        return self.text_projection(pooled)

    def published(self) -> dict[str, torch.Tensor]:
        """The state dict with the published file's names, the buffers of its transformers version included."""
        state = dict(self.state_dict())
        for name in [n for n in state if n.endswith("position_ids") or n.endswith("token_type_ids")]:
            del state[name]
        state["text_model.embeddings.position_ids"] = torch.arange(512).unsqueeze(0)
        state["vision_model.embeddings.position_ids"] = torch.arange(257).unsqueeze(0)
        return {name: tensor.contiguous() for name, tensor in state.items()}

    def config(self) -> dict:
        return {
            "model_type": "zhclip",
            "hidden_size": 768,
            "hidden_act": "gelu",
            "vision_config": self.image_config.to_dict(),
            "text_config": self.text_config.to_dict(),
        }

    def save(self, folder: Path, file: str = "pytorch_model.bin", config: bool = True) -> Path:
        """Write the weights as `file` and the config beside them; returns the path of the weights."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / file
        if path.suffix == ".safetensors":
            save_file(self.published(), path, metadata={"format": "pt"})
        else:
            torch.save(self.published(), path)
        if config:
            (folder / "config.json").write_text(json.dumps(self.config()), encoding="utf-8")
        return path


def ids(batch: int, length: int, padded: bool, generator: torch.Generator) -> torch.Tensor:
    """Token ids of random texts; padded ones have lengths from 2 to `length` - 1 and are padded with 0."""
    result = torch.randint(106, 21128, (batch, length), generator=generator)
    result[:, 0] = 101
    for row in range(batch):
        end = length if not padded else 2 + (row * 5) % (length - 3)
        result[row, end - 1] = 102
        result[row, end:] = 0
    return result

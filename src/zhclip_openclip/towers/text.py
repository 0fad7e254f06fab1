"""The text tower of all our models: open_clip's HFTextEncoder with more heads, no network and no padding."""

from __future__ import annotations

import logging
import warnings

import torch
from open_clip import hf_model
from torch import nn
from transformers import AutoModel

from zhclip_openclip._errors import CheckpointError, DownloadError
from zhclip_openclip.checkpoints import _files
from zhclip_openclip.towers import text_configs
from zhclip_openclip.towers.heads import build_head

logger = logging.getLogger(__name__)


class ChineseTextEncoder(hf_model.HFTextEncoder):
    """A Hugging Face encoder as text tower, with open_clip's parameter names (`transformer.*`, `proj.*`).

    It differs from open_clip's in three ways: the architecture comes from a config in this package, so that building
    it asks the network for nothing; it knows more projection heads; and it cuts every batch to its longest real text,
    since open_clip pads to the context length and a Chinese prompt has about 12 tokens of 77.

    Arguments are those of open_clip's class; arguments of later versions that it does not need are ignored.

    pretrained: fetch the weights that the encoder was published with. Where they are not to be had, a warning says so
        and the encoder stays as initialised.
    """

    def __init__(
        self,
        model_name_or_path: str,
        output_dim: int,
        config=None,
        pooler_type: str | None = None,
        proj_type: str | None = None,
        pretrained: bool = True,
        output_tokens: bool = False,
        **_later_versions,
    ):
        nn.Module.__init__(self)  # open_clip's own __init__ asks the hub for the architecture
        self.output_tokens = output_tokens
        self.output_dim = output_dim
        self.config = text_configs.load(model_name_or_path) if config is None else config
        pooler_type = pooler_type or "mean_pooler"
        pooling_layer = pooler_type == "cls_pooler"  # BERT's tanh pooler, which has weights
        transformer = _pretrained_encoder(model_name_or_path, self.config, pooling_layer) if pretrained else None
        if transformer is None:
            transformer = AutoModel.from_config(self.config, add_pooling_layer=pooling_layer)
        self.transformer = transformer
        self.vocab_size = self.config.vocab_size
        self.context_length = self.config.max_position_embeddings
        self.pooler = hf_model._POOLERS[pooler_type]()
        self.proj = build_head(proj_type, self.config.hidden_size, output_dim)

    def forward(self, x: torch.Tensor):
        """Features of token ids.

        x: (batch, length) ids, padded on the right with the config's `pad_token_id`.

        Returns (batch, output_dim), and with `output_tokens` also the (batch, length, width) hidden states.
        """
        # The hidden states are part of the output with `output_tokens`, and a compiled or traced graph cannot have a
        # length that depends on the data: both keep the padding, which changes nothing but the time it takes.
        if not (self.output_tokens or torch.compiler.is_compiling() or torch.jit.is_tracing()):
            x = trim(x, self.config.pad_token_id)
        # open_clip's fp16 and bf16 convert linear layers and leave embeddings and norms in fp32, which its own towers
        # reckon with and those of transformers do not.
        weights = self.transformer.encoder.layer[0].output.dense.weight
        if weights.dtype != self.transformer.embeddings.word_embeddings.weight.dtype:
            with torch.autocast(weights.device.type, dtype=weights.dtype):
                return super().forward(x)
        return super().forward(x)

    def lock(self, unlocked_layers: int = 0, freeze_layer_norm: bool = True):
        """Freeze the encoder but for its last `unlocked_layers` layers, as open_clip does for its own HF towers.

        open_clip's table of architectures (hf_configs.py) names no layers for BERT, so its own method fails there.
        """
        layers = list(self.transformer.encoder.layer)
        modules = [self.transformer.embeddings, *layers]
        if unlocked_layers:
            modules = modules[:-unlocked_layers]
        else:
            modules = [self.transformer]
        for module in modules:
            for name, parameter in module.named_parameters():
                norm = "LayerNorm" in name.split(".")
                parameter.requires_grad = norm and not freeze_layer_norm

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True):
        """Trade time for memory in training. open_clip's version can only switch it on."""
        state = "enable" if enable else "disable"
        # transformers 5 renamed it on the way; its version 6 has the new name alone.
        change = getattr(self.transformer, f"activation_checkpointing_{state}", None)
        (change or getattr(self.transformer, f"gradient_checkpointing_{state}"))()


def trim(x: torch.Tensor, pad_token_id: int) -> torch.Tensor:
    """`x` (batch, length) without the columns on the right that hold nothing but padding; at least one column stays.

    Columns are cut and never shifted: XLM-R counts its positions from the padding.
    """
    real = (x != pad_token_id).any(dim=0)
    length = int(torch.where(real, torch.arange(1, x.shape[1] + 1, device=x.device), 0).max()) if x.shape[0] else 1
    return x[:, : max(length, 1)]


def _pretrained_encoder(name: str, config, pooling_layer: bool) -> nn.Module | None:
    """The encoder with its published weights, or None with a warning where they are not to be had."""
    name = text_configs.base(name)
    if not name:
        return None  # an encoder of our own, which was never anything else
    try:
        weights = _files.fetch(name, ["model.safetensors", "pytorch_model.bin"])
        return AutoModel.from_pretrained(weights.parent, config=config, add_pooling_layer=pooling_layer)
    except (DownloadError, CheckpointError, OSError, ValueError) as error:
        warnings.warn(
            f"the text tower starts with random weights, those of {name} could not be loaded: {error}",
            stacklevel=3,
        )
        return None

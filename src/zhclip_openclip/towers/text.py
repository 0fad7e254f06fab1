"""The text tower of all our models: open_clip's HFTextEncoder with more heads, no network and no padding."""

from __future__ import annotations

import logging
import warnings

import torch
from open_clip import hf_model
from torch import nn
from transformers import AutoModel

from zhclip_openclip._errors import CheckpointError, DownloadError, ZhclipError
from zhclip_openclip.checkpoints import _files
from zhclip_openclip.towers import text_configs
from zhclip_openclip.towers.heads import build_head

logger = logging.getLogger(__name__)

#: First and last id of every text of tokenizers that are taken for ours, by kind of encoder that never sees them: a
#: text of RoBERTa's begins with 0, one of BERT's with 101. CLIP's are the last two of its 49,408 tokens
#: (https://github.com/openai/CLIP, clip/simple_tokenizer.py), BERT's stand in all of Google's vocabularies.
_CLIP = (49406, 49407, "CLIP's own, as open_clip.tokenize gives them")
_BERT = (101, 102, "BERT's")
_FOREIGN = {"bert": (_CLIP,), **dict.fromkeys(("roberta", "xlm-roberta", "beit3"), (_CLIP, _BERT))}


class ChineseTextEncoder(hf_model.HFTextEncoder):
    """A Hugging Face encoder as text tower, with open_clip's parameter names (`transformer.*`, `proj.*`).

    It differs from open_clip's in three ways: the architecture comes from a config in this package, so that building
    it asks the network for nothing; it knows more projection heads; and it cuts every batch to its longest real text,
    since open_clip pads to the context length and a Chinese prompt has about 12 tokens of 77.

    Arguments are those of open_clip's class, in its version 3 and 4; those of later ones are ignored.

    model_config: values that replace those of the architecture, by their names in transformers' config
        (`hf_model_config` of a model config, from open_clip 4 on).
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
        model_config: dict | None = None,
        **_later_versions,
    ):
        nn.Module.__init__(self)  # open_clip's own __init__ asks the hub for the architecture
        self.output_tokens = output_tokens
        self.output_dim = output_dim
        self.name = model_name_or_path.removeprefix(text_configs.MISSING)
        if config is None:
            config = text_configs.load(model_name_or_path)
            for key, value in (model_config or {}).items():
                setattr(config, key, value)
        self.config = config
        pooler_type = pooler_type or "mean_pooler"
        pooling_layer = pooler_type == "cls_pooler"  # BERT's tanh pooler, which has weights
        transformer = _pretrained_encoder(model_name_or_path, self.config, pooling_layer) if pretrained else None
        if transformer is None:
            transformer = AutoModel.from_config(self.config, add_pooling_layer=pooling_layer)
        self.transformer = transformer
        self.vocab_size = self.config.vocab_size
        self.context_length = text_configs.positions(self.config)
        self.pooler = hf_model._POOLERS[pooler_type]()
        self.proj = build_head(proj_type, self.config.hidden_size, output_dim)

    def forward(self, x: torch.Tensor):
        """Features of token ids.

        x: (batch, length) ids, padded on the right with the config's `pad_token_id`.

        Returns (batch, output_dim), and with `output_tokens` also the (batch, length, width) hidden states.
        Raises ZhclipError: the ids are of another tokenizer, as far as that can be told from them.
        """
        # A compiled or traced graph cannot have a length that depends on the data, nor an error; and the hidden states
        # are part of the output with `output_tokens`. Padding changes nothing but the time it takes.
        if not (torch.compiler.is_compiling() or torch.jit.is_tracing()):
            self._refuse_foreign(x)
            if not self.output_tokens:
                x = self.trim(x)
        # open_clip's fp16 and bf16 convert linear layers and leave embeddings and norms in fp32, which its own towers
        # reckon with and those of transformers do not.
        weights = self.transformer.encoder.layer[0].output.dense.weight
        if weights.dtype != self.transformer.embeddings.word_embeddings.weight.dtype:
            with torch.autocast(weights.device.type, dtype=weights.dtype):
                return super().forward(x)
        return super().forward(x)

    def trim(self, x: torch.Tensor) -> torch.Tensor:
        """`x` (batch, length) without the columns on the right that change no feature."""
        return trim(x, self.config.pad_token_id)

    def _refuse_foreign(self, x: torch.Tensor) -> None:
        """An error for ids outside the vocabulary, which on a GPU would end the process, and for those of a tokenizer
        that is often taken by mistake and whose ids are words here too.

        The second is told by the frame alone: every text begins with the one id and holds the other, which no text of
        our own tokenizers does, whatever it says.
        """
        if not x.numel():
            return
        foreign = [f for f in _FOREIGN.get(self.config.model_type, ()) if f[1] < self.vocab_size]
        frames = [(x[:, 0] == first).all() & (x == last).any(dim=1).all() for first, last, _ in foreign]
        smallest, largest, *framed = torch.stack([x.min(), x.max(), *frames]).tolist()  # one wait for the device
        advice = "tokenize with open_clip.get_tokenizer and the name of the model"
        if smallest < 0 or largest >= self.vocab_size:
            wrong = smallest if smallest < 0 else largest
            raise ZhclipError(
                f"token id {wrong} is not in the vocabulary of {self.name}, which has {self.vocab_size}: the ids are "
                f"another model's; {advice}"
            )
        for (*_, whose), found in zip(foreign, framed, strict=True):
            if found:
                raise ZhclipError(f"the token ids are {whose}, which are other words in {self.name}; {advice}")

    def layer_groups(self, pooler_in_head: bool = True) -> list[tuple[str, list[nn.Module]]]:
        """The tower in named parts from input to output, each parameter in one: what open_clip 4 freezes and gives
        learning rates by (open_clip/hf_model.py, HFTextEncoder.layer_groups).

        pooler_in_head: BERT's tanh pooler is in the last part with the projection; otherwise it is the part before.
        """
        groups = [("embeddings", [self.transformer.embeddings])]
        groups += [(f"layer.{number}", [layer]) for number, layer in enumerate(self.transformer.encoder.layer)]
        pooler = [] if self.transformer.pooler is None else [self.transformer.pooler]
        if pooler and not pooler_in_head:
            groups.append(("pooler", pooler))
            pooler = []
        head = pooler + ([] if isinstance(self.proj, nn.Identity) else [self.proj])
        return [*groups, ("proj", head)] if head else groups

    def lock(self, unlocked_layers: int = 0, freeze_layer_norm: bool = True, pooler_in_head: bool | None = None):
        """Freeze the tower but for its last parts, as the open_clip that is installed does with its own HF towers.

        unlocked_layers: how many parts stay trainable. From open_clip 4 on they are those of `layer_groups`, so the
            projection is the first of them; before, they are layers of the encoder, and projection and pooler stay
            trainable (but for the pooler if no layer is).
        freeze_layer_norm: False leaves the norms of frozen parts trainable.
        pooler_in_head: as in `layer_groups`. Given, it asks for open_clip 4's way.
        """
        by_layers = pooler_in_head is None and not hasattr(hf_model.HFTextEncoder, "layer_groups")
        groups = self.layer_groups(pooler_in_head is not False and not by_layers)
        if by_layers:
            # The table of architectures (hf_configs.py) of these versions names no layers for BERT: theirs fails there.
            head = ("pooler", "proj") if unlocked_layers else ("proj",)
            frozen = sum(name not in head for name, _ in groups) - unlocked_layers
        else:
            frozen = len(groups) - unlocked_layers
        for number, (_, members) in enumerate(groups):
            for part in members:
                _set_trainable(part, number >= frozen, norms=not freeze_layer_norm)

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True, impl: str = "inline"):
        """Trade time for memory in training. open_clip's version can only switch it on.

        impl: open_clip 4 has `composable` beside `inline` for its own towers; here, as with timm's, all is inline.
        """
        if enable and impl != "inline":
            logger.warning("%s checkpointing is not supported by text towers of transformers: inline is taken", impl)
        state = "enable" if enable else "disable"
        # transformers 5 renamed it on the way; its version 6 has the new name alone.
        change = getattr(self.transformer, f"activation_checkpointing_{state}", None)
        (change or getattr(self.transformer, f"gradient_checkpointing_{state}"))()


def _set_trainable(part: nn.Module, trainable: bool, norms: bool) -> None:
    """norms: LayerNorms stay trainable where the rest is not."""
    for module in part.modules():
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad = trainable or (norms and isinstance(module, nn.LayerNorm))


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
        # transformers would keep the precision of the file; open_clip builds in fp32 and converts afterwards.
        return AutoModel.from_pretrained(
            weights.parent, config=config, add_pooling_layer=pooling_layer, dtype=torch.float32
        )
    except (DownloadError, CheckpointError, OSError, ValueError) as error:
        warnings.warn(
            f"the text tower starts with random weights, those of {name} could not be loaded: {error}",
            stacklevel=3,
        )
        return None

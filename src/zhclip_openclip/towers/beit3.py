"""BEiT-3's two towers with layers in common, as M2-Encoder has them.

Each tower is an encoder of its own and behind it a second one, which both towers go through with the same weights.
Layers are pre-LN with sub-LN: a norm more before the output of attention and before that of the MLP.

Source: Wang et al. 2022 (arXiv:2208.10442) and torchscale (PyPI; torchscale/model/BEiT3.py, architecture/encoder.py),
whose experts A (images) and B (texts) are the towers here; Guo et al. 2024 (arXiv:2401.15896) for the common layers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from open_clip import hf_model
from timm.layers import PatchEmbed, resample_abs_pos_embed
from timm.models import register_model
from torch import nn
from torch.utils.checkpoint import checkpoint

from zhclip_openclip._errors import ZhclipError
from zhclip_openclip.towers import _pairs, text_configs
from zhclip_openclip.towers.heads import build_head
from zhclip_openclip.towers.text import ChineseTextEncoder

_EPS = 1e-5
#: What the names of the common layers begin with in a text tower.
_SHARED = "transformer.shared."


class Attention(nn.Module):
    """Self-attention with a norm before its output. mask: (batch, 1, 1, length), true for what may be looked at."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.num_heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        batch, length, width = x.shape
        split = self.qkv(x).reshape(batch, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.proj(self.norm(x.transpose(1, 2).reshape(batch, length, width)))


class Mlp(nn.Module):
    """Two linear layers with GELU and a norm between them."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden, eps=_EPS)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.norm(F.gelu(self.fc1(x))))


class Block(nn.Module):
    """One layer."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=_EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=_EPS)
        self.mlp = Mlp(width, hidden)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        x = x + self.attn(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    """Layers and a norm behind the last of them; (batch, length, width) to the same."""

    def __init__(self, width: int, depth: int, heads: int, hidden: int):
        super().__init__()
        self.grad_checkpointing = False
        self.owners = 0  # how many towers go through it
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.apply(_initialise)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        for block in self.blocks:
            if self.grad_checkpointing and torch.is_grad_enabled() and not torch.jit.is_scripting():
                x = checkpoint(block, x, mask, use_reentrant=False)
            else:
                x = block(x, mask)
        return self.norm(x)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)


def _common(width: int, depth: int, heads: int, hidden: int) -> Encoder:
    """The layers that both towers go through.

    Raises ZhclipError: the other tower of the model has them in other sizes.
    """
    encoder = _pairs.shared("beit3", lambda: Encoder(width, depth, heads, hidden))
    encoder.owners += 1
    first = encoder.blocks[0]
    other = (first.norm1.normalized_shape[0], len(encoder.blocks), first.attn.num_heads, first.mlp.fc1.out_features)
    if other != (width, depth, heads, hidden):
        raise ZhclipError(
            f"the towers have layers in common, and of two sizes (width, layers, heads, hidden width): {other} in the "
            f"image tower and {(width, depth, heads, hidden)} in the text tower: give both the same"
        )
    return encoder


# ---------------------------------------------------------------- images


class ImageTower(nn.Module):
    """(batch, 3, size, size) pictures to (batch, width), the class token; for open_clip's TimmModel."""

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 9,
        shared_depth: int = 3,
        num_heads: int = 12,
        num_classes: int = 0,
        global_pool: str = "token",
        **_others,
    ):
        super().__init__()
        self.default_cfg = self.pretrained_cfg = {"pool_size": None, "input_size": (3, img_size, img_size)}
        self.embed_dim = self.num_features = embed_dim
        self.patch_embed = PatchEmbed(img_size, patch_size, 3, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.patch_embed.num_patches + 1, embed_dim))
        for parameter in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(parameter, std=0.02)
        self.encoder = Encoder(embed_dim, depth, num_heads, 4 * embed_dim)
        self.shared = _common(embed_dim, shared_depth, num_heads, 4 * embed_dim)
        self.reset_classifier(num_classes, global_pool)

    @property
    def blocks(self) -> list[Block]:
        """All layers from input to output."""
        return [*self.encoder.blocks, *self.shared.blocks]

    @property
    def norm(self) -> nn.LayerNorm:
        """The last one."""
        return self.shared.norm

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Raises ZhclipError: another pooling than the class token, or a head; the projection is open_clip's."""
        if num_classes or global_pool not in (None, "token"):
            raise ZhclipError(
                f"this image tower gives its class token and nothing else: timm_pool {global_pool!r} has to be 'token' "
                "and timm_proj 'linear'"
            )

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, 1 + patches, width)."""
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1).to(x.dtype), x], dim=1) + self.pos_embed
        return self.shared(self.encoder(x))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return x[:, 0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))

    def set_input_size(self, img_size: int | tuple[int, int]) -> None:
        """Make it one for pictures of another size: positions are interpolated, as timm does it."""
        before = self.patch_embed.grid_size
        self.patch_embed.set_input_size(img_size=img_size)
        grid = self.patch_embed.grid_size
        if grid != before:
            resized = resample_abs_pos_embed(self.pos_embed, list(grid), list(before), num_prefix_tokens=1)
            self.pos_embed = nn.Parameter(resized)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.encoder.grad_checkpointing = self.shared.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        return {"pos_embed", "cls_token"}

    def group_matcher(self, coarse: bool = False) -> dict:
        """What `lock_image_tower(unlocked_groups=N)` counts: the common layers are the last groups of this tower."""
        return {
            "stem": r"^cls_token|^pos_embed|^patch_embed",
            "own": [(r"^encoder\.blocks\.(\d+)", None), (r"^encoder\.norm", (99999,))],
            "common": [(r"^shared\.blocks\.(\d+)", None), (r"^shared\.norm", (99999,))],
        }


@register_model
def zhclip_openclip_m2_encoder_base(pretrained: bool = False, **kwargs) -> ImageTower:
    return ImageTower(**{**dict(embed_dim=768, depth=9, num_heads=12), **kwargs})


@register_model
def zhclip_openclip_m2_encoder_large(pretrained: bool = False, **kwargs) -> ImageTower:
    return ImageTower(**{**dict(embed_dim=1024, depth=21, num_heads=16), **kwargs})


# ---------------------------------------------------------------- texts


class TextEncoder(nn.Module):
    """Embeddings, the layers of texts alone, and the common ones.

    The common layers are parameters of this module as of the image tower's.
    """

    def __init__(self, config):
        super().__init__()
        width, heads, hidden = config.hidden_size, config.num_attention_heads, config.intermediate_size
        self.embed = nn.Embedding(config.vocab_size, width)
        self.positions = nn.Embedding(config.max_position_embeddings, width)
        self.apply(_initialise)
        self.encoder = Encoder(width, config.num_hidden_layers, heads, hidden)
        self.shared = _common(width, config.num_shared_layers, heads, hidden)

    def forward(self, ids: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """ids: (batch, length). real: of the same shape, false for padding. Returns (batch, length, width)."""
        x = self.embed(ids) + self.positions.weight[: ids.shape[1]]
        mask = real[:, None, None, :]
        return self.shared(self.encoder(x, mask), mask)


def _say_once(tower: TextTower, state: dict[str, torch.Tensor], prefix: str, _metadata) -> None:
    """Leave out of a whole model's state dict what stands there under the image tower's name, so that every format can
    hold it: safetensors refuses tensors that share memory."""
    if tower.transformer.shared.owners > 1:
        images = [key for key in state if not key.startswith(prefix)]
        for key in [key for key in state if key.startswith(prefix + _SHARED)]:
            end = "." + key.removeprefix(prefix).removeprefix("transformer.")
            if any(image.endswith(end) for image in images):
                del state[key]


def _take_what_was_said_once(
    tower: TextTower, state: dict[str, torch.Tensor], prefix: str, *_how_and_what_went_wrong
) -> None:
    """The other way: what :func:`_say_once` left out has been loaded with the image tower."""
    common = tower.transformer.shared
    if prefix and common.owners > 1 and not any(key.startswith(prefix + _SHARED) for key in state):
        state.update({prefix + _SHARED + name: tensor for name, tensor in common.state_dict().items()})


class TextTower(ChineseTextEncoder):
    """Token ids to (batch, output_dim): the first token through all layers, and a projection.

    Padding is the end token, so a text ends with the first of the end tokens that stand behind its last other token;
    what follows is not looked at.

    Arguments are those of :class:`ChineseTextEncoder`; there is no published encoder that `pretrained` could fetch.
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
        model_config: Mapping | None = None,
        **_later_versions,
    ):
        nn.Module.__init__(self)
        self.output_tokens = output_tokens
        self.output_dim = output_dim
        self.name = model_name_or_path.removeprefix(text_configs.MISSING)
        self.config = config or text_configs.load(model_name_or_path)
        for key, value in (model_config or {}).items():
            setattr(self.config, key, value)
        self.transformer = TextEncoder(self.config)
        self.vocab_size = self.config.vocab_size
        self.context_length = text_configs.positions(self.config)
        self.pooler = hf_model._POOLERS[pooler_type or "cls_last_hidden_state_pooler"]()
        self.proj = build_head(proj_type, self.config.hidden_size, output_dim)
        _initialise(self.proj)
        self.register_state_dict_post_hook(_say_once)
        self.register_load_state_dict_pre_hook(_take_what_was_said_once)

    def forward(self, x: torch.Tensor):
        """As :meth:`ChineseTextEncoder.forward`. Raises ZhclipError: the ids are of another tokenizer, or too many."""
        if not (torch.compiler.is_compiling() or torch.jit.is_tracing()):
            self._refuse_foreign(x)
            if not self.output_tokens:
                x = self.trim(x)
            if x.shape[1] > self.context_length:
                raise ZhclipError(f"{x.shape[1]} tokens, and {self.name} has positions for {self.context_length}")
        hidden = self.transformer(x, self._real(x))
        features = self.proj(hidden[:, 0])
        return (features, hidden) if self.output_tokens else features

    def _real(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, length): whether a token is one of its text, the end token included."""
        place = torch.arange(1, x.shape[1] + 1, device=x.device)
        last = torch.where(x != self.config.pad_token_id, place, 0).amax(dim=1, keepdim=True)
        return place <= last + 1

    def trim(self, x: torch.Tensor) -> torch.Tensor:
        """`x` without the columns on the right that belong to no text."""
        return x[:, : max(int(self._real(x).any(dim=0).sum()), 1)] if x.shape[0] else x[:, :1]

    def layer_groups(self, pooler_in_head: bool = True) -> list[tuple[str, list[nn.Module]]]:
        """As :meth:`ChineseTextEncoder.layer_groups`; the common layers are the last before the projection."""
        text = self.transformer
        groups = [("embeddings", [text.embed, text.positions])]
        groups += [(f"layer.{number}", [layer]) for number, layer in enumerate(text.encoder.blocks)]
        groups[-1][1].append(text.encoder.norm)
        first = len(text.encoder.blocks)
        groups += [(f"layer.{first + number}", [layer]) for number, layer in enumerate(text.shared.blocks)]
        groups[-1][1].append(text.shared.norm)
        return [*groups, ("proj", [self.proj])]

    def lock(self, unlocked_layers: int = 0, freeze_layer_norm: bool = True, pooler_in_head: bool | None = None):
        """As :meth:`ChineseTextEncoder.lock`, but that common layers that are frozen stay so: the features of a locked
        image tower would change with them."""
        frozen = [parameter for parameter in self.transformer.shared.parameters() if not parameter.requires_grad]
        super().lock(unlocked_layers, freeze_layer_norm, pooler_in_head)
        for parameter in frozen:
            parameter.requires_grad = False

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True, impl: str = "inline"):
        """Trade time for memory in training; `impl` as for :class:`ChineseTextEncoder`."""
        self.transformer.encoder.grad_checkpointing = self.transformer.shared.grad_checkpointing = enable

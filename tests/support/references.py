"""What our models are held against: the same architectures out of other people's code, in their published layouts.

transformers' ChineseCLIPModel, AltCLIPModel, CLIPModel, BertForSequenceClassification, BertModel, XLMRobertaModel;
cn_clip's own model; open_clip's stock ViT-B-16-plus-240. What these projects glue together in a few lines of Python is
glued here in the same way, with the same parameter names.

Sizes are those of the published configs, here once more on purpose: a mistake in `model_configs/` has to show.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from torch import nn

from tests.support import m2_reference, zhclip_reference

VISION = {
    "b-32": dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, patch_size=32),
    "b-16": dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, patch_size=16),
    "l-14": dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14),
    "h-14": dict(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16, patch_size=14),
}
VISION["l-14-336"] = {**VISION["l-14"], "image_size": 336}
BASE = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
LARGE = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16)
XLMR = {**LARGE, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1}
CHINESE, MULTILINGUAL, LABSE = 21128, 250002, 501153

LAION_H_14 = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
L_14, B_32 = "openai/clip-vit-large-patch14", "openai/clip-vit-base-patch32"
PLUS = "timm/vit_base_patch16_plus_clip_240.laion400m_e32"

#: Repository -> the name of its file, where that is not transformers'.
_FILES = {PLUS: "open_clip_model.safetensors", "OFA-Sys/chinese-clip-rn50": "clip_cn_rn50.pt"}
for _size, (*_, _hub, _modelscope) in m2_reference.SIZES.items():
    _FILES |= {_hub: f"m2_encoder_{_size}.safetensors", _modelscope: f"m2_encoder_{_size}.ckpt"}


@dataclass
class Reference:
    """A model of somebody else's.

    modules: what has weights, by the repository that publishes it.
    image: (pixels) -> features. text: (ids, mask) -> features. pad: the padding token.
    published: repository -> state dict in its published layout. configs: repository -> its config.json.
    pixels: images to try it with, where they are not squares of colours. eos: the token that ends a text, where the
    features are taken from it. length: in tokens, of the texts to try it with.
    """

    modules: dict[str, nn.Module]
    image: Callable
    text: Callable
    pad: int
    vocabulary: int
    image_size: int
    published: Callable[[], dict[str, dict[str, torch.Tensor]]]
    configs: dict[str, dict]
    pixels: Callable[[], torch.Tensor] | None = None
    eos: int | None = None
    length: int = 16

    def save(self, root: Path, form: str = "safetensors") -> None:
        """Write every repository below `root`, as `model.safetensors` or `pytorch_model.bin`."""
        for repo, state in self.published().items():
            folder = root / repo
            folder.mkdir(parents=True, exist_ok=True)
            name = _FILES.get(repo)
            path = folder / (name or ("model.safetensors" if form == "safetensors" else "pytorch_model.bin"))
            if path.suffix == ".safetensors":
                save_file(
                    {name: tensor.contiguous() for name, tensor in state.items()}, path, metadata={"format": "pt"}
                )
            elif path.suffix == ".ckpt":  # as DeepSpeed writes it
                torch.save({"module": {f"_forward_module.{name}": tensor for name, tensor in state.items()}}, path)
            else:
                torch.save(chinese_clip_training(state) if path.suffix == ".pt" else state, path)
            if repo in self.configs:
                (folder / "config.json").write_text(json.dumps(self.configs[repo]), encoding="utf-8")


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random values for everything, scales and biases included, so that nothing may be forgotten or swapped."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not tensor.is_floating_point() or tensor.is_meta:
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.copy_(1 + 0.1 * noise.abs())
            elif tensor.ndim == 1 and name.endswith("weight"):  # LayerNorm, BatchNorm
                tensor.copy_(1 + 0.1 * noise)
            elif tensor.ndim == 4:
                tensor.copy_(noise * tensor[0].numel() ** -0.5)
            else:
                tensor.copy_(0.04 * noise)
    return module.eval()


def ids(reference: Reference, batch: int, length: int, padded: bool, seed: int = 0) -> torch.Tensor:
    """Random token ids (batch, length); padded texts have 2 to `length` - 1 tokens."""
    generator = torch.Generator().manual_seed(seed)
    result = torch.randint(5, reference.vocabulary, (batch, length), generator=generator)
    for row in range(batch):
        end = 2 + (row * 5) % (length - 3) if padded else length
        result[row, end:] = reference.pad
        if reference.eos is not None:
            result[row, end - 1] = reference.eos
    return result


def chinese_clip_training(state: dict[str, torch.Tensor]) -> dict:
    """A checkpoint as cn_clip/training/main.py saves it: a wrapper's prefix, the optimizer's state beside it."""
    first = next(iter(state.values()))
    return {
        "epoch": 3,
        "step": 1234,
        "name": "finetune",
        "state_dict": {f"module.{name}": tensor for name, tensor in state.items()},
        "optimizer": {
            "state": {0: {"step": 1234, "exp_avg": torch.zeros_like(first), "exp_avg_sq": torch.zeros_like(first)}},
            "param_groups": [{"lr": 1e-5, "betas": (0.9, 0.98), "params": [0]}],
        },
    }


def _clip(size: str, layers: int | None, **more) -> dict:
    config = {"image_size": 224, "hidden_act": "quick_gelu", **VISION[size], **more}
    return {**config, "num_hidden_layers": layers or config["num_hidden_layers"]}


def _text(config: dict, layers: int | None, vocabulary: int) -> dict:
    return {**config, "vocab_size": vocabulary, "num_hidden_layers": min(layers or 99, config["num_hidden_layers"])}


def openai_clip(size: str, layers: int | None, dim: int, **more):
    """OpenAI's model in transformers; its own text tower, which nobody here uses, is narrow, with CLIP's vocabulary."""
    vision = _clip(size, layers, **more)
    text = dict(vocab_size=49408, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    config = transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=dim)
    return transformers.CLIPModel(config)


def _clip_features(clip):
    return lambda pixels: clip.visual_projection(clip.vision_model(pixels).pooler_output)


def chinese_clip(repo: str, size: str, dim: int, text: dict, layers: int | None = None, vocabulary: int = CHINESE):
    text = _text(text, layers, vocabulary)
    vision = _clip(size, layers)
    config = transformers.ChineseCLIPConfig(text_config=text, vision_config=vision, projection_dim=dim)
    model = transformers.ChineseCLIPModel(config)

    def published():
        state = dict(model.state_dict())
        state["text_model.embeddings.position_ids"] = torch.arange(512).unsqueeze(0)  # transformers 4.25 wrote them
        state["vision_model.embeddings.position_ids"] = torch.arange(257).unsqueeze(0)
        return {repo: state}

    def text_features(tokens, mask):
        return model.text_projection(model.text_model(tokens, attention_mask=mask).last_hidden_state[:, 0])

    return Reference(
        {repo: model}, _clip_features(model), text_features, 0, vocabulary, vision["image_size"], published,
        {repo: config.to_dict()},
    )  # fmt: skip


def cn_clip(repo: str, vision: str, text: str, layers: int | None = None, vocabulary: int = CHINESE, dim: int = 0):
    """cn_clip's own model, from the configs that it carries."""
    import cn_clip.clip.model as code

    folder = Path(code.__file__).parent / "model_configs"
    info = {**json.loads((folder / f"{vision}.json").read_text()), **json.loads((folder / f"{text}.json").read_text())}
    if isinstance(info["vision_layers"], str):
        info["vision_layers"] = json.loads(info["vision_layers"])
    if layers:
        resnet = isinstance(info["vision_layers"], list)
        info["vision_layers"] = [1, 1, 1, 1] if resnet else layers
        info["text_num_hidden_layers"] = min(layers, info["text_num_hidden_layers"])
    info["vocab_size"] = vocabulary
    with contextlib.redirect_stdout(io.StringIO()):
        model = code.CLIP(**info)

    def published():
        # Until version 1.6 the pooler of the BERT that it was initialised with came along.
        width = model.text_projection.shape[0]
        pooler = {"bert.pooler.dense.weight": torch.zeros(width, width, device=model.text_projection.device)}
        return {repo: {**model.state_dict(), **pooler}}

    return Reference(
        {repo: model}, model.encode_image, lambda tokens, mask: model.encode_text(tokens), 0, vocabulary,
        info["image_resolution"], published, {},
    )  # fmt: skip


def altclip(repo: str, layers: int | None = None, vocabulary: int = MULTILINGUAL, size: str = "l-14", dim: int = 768):
    text = _text({**XLMR, "project_dim": dim}, layers, vocabulary)
    vision = _clip(size, layers, hidden_act="gelu" if size == "h-14" else "quick_gelu")
    config = transformers.AltCLIPConfig(text_config=text, vision_config=vision, projection_dim=dim)
    model = transformers.AltCLIPModel(config)

    def published():  # the names that transformers 4.x wrote, which are those on the hub
        state = {
            name.replace("roberta.encoder.layers.", "roberta.encoder.layer."): tensor
            for name, tensor in model.state_dict().items()
        }
        state["text_model.roberta.embeddings.position_ids"] = torch.arange(514).unsqueeze(0)
        state["vision_model.embeddings.position_ids"] = torch.arange(257).unsqueeze(0)
        return {repo: state}

    def text_features(tokens, mask):
        return model.get_text_features(tokens, attention_mask=mask).pooler_output

    return Reference(
        {repo: model}, _clip_features(model), text_features, 1, vocabulary, 224, published, {repo: config.to_dict()}
    )


def taiyi(repo: str, image_repo: str, size: str, dim: int, text: dict, layers=None, vocabulary: int = CHINESE):
    config = transformers.BertConfig(**_text(text, layers, vocabulary), num_labels=dim)
    bert = transformers.BertForSequenceClassification(config)
    clip = openai_clip(size, layers, dim)

    def published():
        state = {**bert.state_dict(), "bert.embeddings.position_ids": torch.arange(512).unsqueeze(0)}
        return {repo: state, image_repo: dict(clip.state_dict())}

    def text_features(tokens, mask):
        return bert(tokens, attention_mask=mask).logits

    return Reference(
        {repo: bert, image_repo: clip}, _clip_features(clip), text_features, 0, vocabulary, 224, published,
        {repo: config.to_dict(), image_repo: clip.config.to_dict()},
    )  # fmt: skip


def taiyi_plain(repo: str, image_repo: str, size: str, dim: int, text: dict, layers=None, vocabulary: int = CHINESE):
    """Its later models: a BertModel, of which the pooler's output is the feature."""
    bert = transformers.BertModel(transformers.BertConfig(**_text(text, layers, vocabulary)))
    clip = openai_clip(size, layers, dim, hidden_act="gelu" if image_repo == LAION_H_14 else "quick_gelu")

    def published():
        state = {**bert.state_dict(), "embeddings.position_ids": torch.arange(512).unsqueeze(0)}
        return {repo: state, image_repo: dict(clip.state_dict())}

    def text_features(tokens, mask):
        return bert(tokens, attention_mask=mask).pooler_output

    return Reference(
        {repo: bert, image_repo: clip}, _clip_features(clip), text_features, 0, vocabulary, 224, published,
        {repo: bert.config.to_dict(), image_repo: clip.config.to_dict()},
    )  # fmt: skip


class MultilingualCLIP(nn.Module):
    """multilingual_clip/pt_multilingual_clip.py: the mean over the mask, then a linear layer."""

    def __init__(self, transformer: nn.Module, dim: int):
        super().__init__()
        self.transformer = transformer
        self.LinearTransformation = nn.Linear(transformer.config.hidden_size, dim)

    def forward(self, ids, mask):
        hidden = self.transformer(ids, attention_mask=mask)[0]
        return self.LinearTransformation((hidden * mask.unsqueeze(2)).sum(dim=1) / mask.sum(dim=1)[:, None])


def mclip(repo: str, image_repo: str, size: str, dim: int, labse=False, layers=None, vocabulary: int | None = None):
    vocabulary = vocabulary or (LABSE if labse else MULTILINGUAL)
    if labse:
        transformer = transformers.BertModel(transformers.BertConfig(**_text(BASE, layers, vocabulary)))
    else:
        transformer = transformers.XLMRobertaModel(transformers.XLMRobertaConfig(**_text(XLMR, layers, vocabulary)))
    text = MultilingualCLIP(transformer, dim)
    config = {"modelBase": "x", "numDims": dim, "transformerDimensions": transformer.config.hidden_size}
    configs = {repo: config}
    if size == "b-16-plus-240":
        from open_clip.model import CLIP

        vision = dict(image_size=240, layers=layers or 12, width=896, patch_size=16)
        clip = CLIP(640, vision, dict(vocab_size=49408, width=8, heads=1, layers=1))
        features, image_size = clip.encode_image, 240
    else:
        clip = openai_clip(size, layers, dim)
        features, image_size = _clip_features(clip), 224
        configs[image_repo] = clip.config.to_dict()

    def published():
        return {repo: dict(text.state_dict()), image_repo: dict(clip.state_dict())}

    pad = 0 if labse else 1
    return Reference({repo: text, image_repo: clip}, features, text, pad, vocabulary, image_size, published, configs)


class BertCLIP(nn.Module):
    """module/model.py of yangjianxin1/CLIP-Chinese."""

    def __init__(self, vision: dict, text: dict, dim: int):
        super().__init__()
        self.text_model = transformers.BertModel(transformers.BertConfig(**text))
        clip = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**vision))
        self.vision_model = getattr(clip, "vision_model", clip)
        self.visual_projection = nn.Linear(vision["hidden_size"], dim, bias=False)
        self.text_projection = nn.Linear(text["hidden_size"], dim, bias=False)
        self.logit_scale = nn.Parameter(torch.ones([]) * 2.6592)


def clip_chinese(repo: str, layers: int | None = None, vocabulary: int = CHINESE):
    vision, text = _clip("b-32", layers), _text(BASE, layers, vocabulary)
    model = BertCLIP(vision, text, 512)

    def published():
        buffers = {
            "text_model.embeddings.position_ids": torch.arange(512).unsqueeze(0),
            "vision_model.embeddings.position_ids": torch.arange(50).unsqueeze(0),
        }
        return {repo: {**model.state_dict(), **buffers}}

    def text_features(tokens, mask):
        return model.text_projection(model.text_model(tokens, attention_mask=mask).pooler_output)

    config = {"model_type": "clip", "projection_dim": 512, "vision_config": vision, "text_config": text}
    return Reference({repo: model}, _clip_features(model), text_features, 0, vocabulary, 224, published, {repo: config})


def zhclip(repo: str, activation: str = "gelu", layers: int | None = None, vocabulary: int = CHINESE):
    model = zhclip_reference.Reference(activation, layers or 24)

    def text_features(tokens, mask):
        return model.text_features(tokens)

    return Reference(
        {repo: model}, model.image_features, text_features, 0, CHINESE, 224, lambda: {repo: model.published()},
        {repo: model.config()},
    )  # fmt: skip


def m2_encoder(repo: str, size: str, layers: int | None = None, vocabulary: int = m2_reference.VOCABULARY):
    model = m2_reference.M2Encoder(size, layers, vocabulary)
    end = m2_reference.END if vocabulary > m2_reference.END else m2_reference.SMALL_END

    def text_features(tokens, mask):
        return model.text_features(tokens, m2_reference.mask_of(tokens, end))

    return Reference(
        {repo: model}, model.image_features, text_features, end, vocabulary, 224, lambda: {repo: model.state_dict()}, {}
    )


_ZH = "thu-ml/zh-clip-vit-roberta-large-patch14"
_OFA = "OFA-Sys/chinese-clip-"
_TAIYI = "IDEA-CCNL/Taiyi-CLIP-Roberta-"
_M = "M-CLIP/XLM-Roberta-Large-Vit-"

#: model and tag -> what builds its reference, with `layers` and `vocabulary` to make it smaller
REFERENCES: dict[tuple[str, str], Callable[..., Reference]] = {
    ("zhclip-vit-l-14", "thu_ml"): lambda **k: zhclip(_ZH, **k),
    ("zhclip-vit-l-14-quickgelu", "thu_ml"): lambda **k: zhclip(_ZH, "quick_gelu", **k),
    ("altclip-vit-l-14", "baai"): lambda **k: altclip("BAAI/AltCLIP", **k),
    ("altclip-vit-l-14", "m9"): lambda **k: altclip("BAAI/AltCLIP-m9", **k),
    ("altclip-vit-h-14", "m18"): lambda **k: altclip("BAAI/AltCLIP-m18", size="h-14", dim=1024, **k),
    ("altclip-m18-vit-l-14", "m18"): lambda **k: altclip("BAAI/AltCLIP-m18", dim=1024, **k),
    ("cnclip-vit-b-16", "ofa_sys"): lambda **k: chinese_clip(f"{_OFA}vit-base-patch16", "b-16", 512, BASE, **k),
    ("cnclip-vit-l-14", "ofa_sys"): lambda **k: chinese_clip(f"{_OFA}vit-large-patch14", "l-14", 768, BASE, **k),
    ("cnclip-vit-l-14-336", "ofa_sys"): lambda **k: chinese_clip(
        f"{_OFA}vit-large-patch14-336px", "l-14-336", 768, BASE, **k
    ),
    ("cnclip-vit-h-14", "ofa_sys"): lambda **k: chinese_clip(f"{_OFA}vit-huge-patch14", "h-14", 1024, LARGE, **k),
    ("cnclip-rn50", "ofa_sys"): lambda **k: cn_clip(f"{_OFA}rn50", "RN50", "RBT3-chinese", **k),
    ("cnclip-vit-b-16", "qa_clip"): lambda **k: chinese_clip("TencentARC/QA-CLIP-ViT-B-16", "b-16", 512, BASE, **k),
    ("cnclip-vit-l-14", "qa_clip"): lambda **k: chinese_clip("TencentARC/QA-CLIP-ViT-L-14", "l-14", 768, BASE, **k),
    ("taiyiclip-vit-l-14", "idea_ccnl"): lambda **k: taiyi(
        f"{_TAIYI}large-326M-Chinese", L_14, "l-14", 768, LARGE, **k
    ),
    ("taiyiclip-vit-b-32", "idea_ccnl"): lambda **k: taiyi(f"{_TAIYI}102M-Chinese", B_32, "b-32", 512, BASE, **k),
    ("taiyiclip-vit-h-14", "idea_ccnl"): lambda **k: taiyi_plain(
        "IDEA-CCNL/Taiyi-CLIP-RoBERTa-326M-ViT-H-Chinese", LAION_H_14, "h-14", 1024, LARGE, **k
    ),
    ("taiyiclip-102m-vit-l-14", "idea_ccnl"): lambda **k: taiyi_plain(
        "IDEA-CCNL/Taiyi-CLIP-RoBERTa-102M-ViT-L-Chinese", L_14, "l-14", 768, BASE, **k
    ),
    ("mclip-vit-l-14", "m_clip"): lambda **k: mclip(f"{_M}L-14", L_14, "l-14", 768, **k),
    ("mclip-vit-b-32", "m_clip"): lambda **k: mclip(f"{_M}B-32", B_32, "b-32", 512, **k),
    ("mclip-vit-b-16-plus-240", "m_clip"): lambda **k: mclip(f"{_M}B-16Plus", PLUS, "b-16-plus-240", 640, **k),
    ("mclip-labse-vit-l-14", "m_clip"): lambda **k: mclip("M-CLIP/LABSE-Vit-L-14", L_14, "l-14", 768, labse=True, **k),
    ("clip-chinese-vit-b-32", "yeungnlp"): lambda **k: clip_chinese("YeungNLP/clip-vit-bert-chinese-1M", **k),
}
if m2_reference.INSTALLED:
    for _size, (*_, _hub, _modelscope) in m2_reference.SIZES.items():
        for _tag, _repo in (("malusama", _hub), ("m2cognition", _modelscope)):
            REFERENCES[f"m2-encoder-{_size.lower()}", _tag] = functools.partial(m2_encoder, _repo, _size)

#: cn_clip's own code for each model of the family: (vision config, text config)
CN_CLIP = {
    "cnclip-vit-b-16": ("ViT-B-16", "RoBERTa-wwm-ext-base-chinese"),
    "cnclip-vit-l-14": ("ViT-L-14", "RoBERTa-wwm-ext-base-chinese"),
    "cnclip-vit-l-14-336": ("ViT-L-14-336", "RoBERTa-wwm-ext-base-chinese"),
    "cnclip-vit-h-14": ("ViT-H-14", "RoBERTa-wwm-ext-large-chinese"),
    "cnclip-rn50": ("RN50", "RBT3-chinese"),
}

# They are made of what stands above.
from tests.support import reference_fgclip2, reference_metaclip2  # noqa: E402

REFERENCES |= {**reference_fgclip2.REFERENCES, **reference_metaclip2.REFERENCES}

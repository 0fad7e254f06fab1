"""A few lines of Python that use a folder for transformers, for its model card."""

from __future__ import annotations

from zhclip_openclip.export._published import is_plain_bert
from zhclip_openclip.export._source import Source

_USAGE = {
    "one class": """from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

model = AutoModel.from_pretrained(DIR).eval()
texts = AutoTokenizer.from_pretrained(DIR)(["一只猫", "一条狗"], padding=True, truncation=True, return_tensors="pt")
image = AutoImageProcessor.from_pretrained(DIR)(Image.open("cat.jpg").convert("RGB"), return_tensors="pt")
text_features = model.get_text_features(**texts).pooler_output
image_features = model.get_image_features(**image).pooler_output
""",
    "taiyiclip": """from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, BertForSequenceClassification, CLIPVisionModelWithProjection

text_model = BertForSequenceClassification.from_pretrained(f"{DIR}/text").eval()
image_model = CLIPVisionModelWithProjection.from_pretrained(f"{DIR}/image").eval()
tokenizer = AutoTokenizer.from_pretrained(f"{DIR}/text")
texts = tokenizer(["一只猫", "一条狗"], padding=True, truncation=True, return_tensors="pt")
image = AutoImageProcessor.from_pretrained(f"{DIR}/image")(Image.open("cat.jpg").convert("RGB"), return_tensors="pt")
text_features = text_model(**texts).logits
image_features = image_model(**image).image_embeds
""",
    "plain bert": """from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, BertModel, CLIPVisionModelWithProjection

text_model = BertModel.from_pretrained(f"{DIR}/text").eval()
image_model = CLIPVisionModelWithProjection.from_pretrained(f"{DIR}/image").eval()
tokenizer = AutoTokenizer.from_pretrained(f"{DIR}/text")
texts = tokenizer(["一只猫", "一条狗"], padding=True, truncation=True, return_tensors="pt")
image = AutoImageProcessor.from_pretrained(f"{DIR}/image")(Image.open("cat.jpg").convert("RGB"), return_tensors="pt")
text_features = text_model(**texts).pooler_output
image_features = image_model(**image).image_embeds
""",
    "mclip": """import json

from PIL import Image
from safetensors.torch import load_file
from torch.nn.functional import linear
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer, CLIPVisionModelWithProjection

state = load_file(f"{DIR}/text/model.safetensors")
with open(f"{DIR}/text/config.json") as file:
    encoder = AutoModel.from_config(AutoConfig.for_model(**json.load(file)["text_config"])).eval()
part = "transformer."
encoder.load_state_dict({k.removeprefix(part): v for k, v in state.items() if k.startswith(part)}, strict=False)
image_model = CLIPVisionModelWithProjection.from_pretrained(f"{DIR}/image").eval()
tokenizer = AutoTokenizer.from_pretrained(f"{DIR}/text")
texts = tokenizer(["一只猫", "一条狗"], padding=True, truncation=True, return_tensors="pt")
image = AutoImageProcessor.from_pretrained(f"{DIR}/image")(Image.open("cat.jpg").convert("RGB"), return_tensors="pt")
mask = texts["attention_mask"].unsqueeze(-1)
mean = (encoder(**texts).last_hidden_state * mask).sum(1) / mask.sum(1)
text_features = linear(mean, state["LinearTransformation.weight"], state["LinearTransformation.bias"])
image_features = image_model(**image).image_embeds
""",
    "": """import open_clip
from PIL import Image

model, _, transform = open_clip.create_model_and_transforms(MODEL, pretrained=DIR)
tokenizer = open_clip.get_tokenizer(MODEL, pretrained=DIR)
text_features = model.eval().encode_text(tokenizer(["一只猫", "一条狗"]))
image_features = model.encode_image(transform(Image.open("cat.jpg")).unsqueeze(0))
""",
}


def lines(source: Source) -> str:
    """A few lines of Python that use the folder, which they call DIR."""
    name = "plain bert" if is_plain_bert(source.model) else source.family.name
    key = name if name in _USAGE else "one class" if name in ("cnclip", "altclip", "clip-chinese", "metaclip2") else ""
    return _USAGE[key].replace("MODEL", repr(source.model.name))

"""mteb as it is installed: our models in its registry, and its tasks with their features."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import zhclip_openclip  # noqa: F401  (before mteb: the finder hooks it as it loads)

mteb = pytest.importorskip("mteb", reason="mteb is not installed; it needs Python 3.11")

import open_clip  # noqa: E402
from datasets import Dataset  # noqa: E402
from mteb._create_dataloaders import create_dataloader  # noqa: E402
from mteb.mocks.mock_tasks import MockAny2AnyRetrievalT2ITask, MockZeroShotClassificationTask  # noqa: E402
from mteb.models.model_implementations import MODEL_REGISTRY  # noqa: E402
from mteb.models.model_implementations.openclip_models import openclip_loader  # noqa: E402
from mteb.types import Licenses  # noqa: E402

from tests.support.reduced import build, reduced_models  # noqa: E402
from zhclip_openclip._errors import ZhclipError  # noqa: E402
from zhclip_openclip.checkpoints import _load  # noqa: E402
from zhclip_openclip.datasets.digits import Digits  # noqa: E402
from zhclip_openclip.families import Family, Model, Tag, all_families  # noqa: E402
from zhclip_openclip.features.finite import FiniteError  # noqa: E402
from zhclip_openclip.integrations import mteb as ours  # noqa: E402
from zhclip_openclip.integrations.mteb import encoder, registry  # noqa: E402

TINY = "zhclip-openclip/zhclip-tiny"
CHINESE_CLIP = "OFA-Sys/chinese-clip-vit-base-patch16"
TASK = "MockAny2AnyRetrievalT2I"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"一只猫和条狗在草地上跑步的照片"]
TEXTS = ["一只猫", "一条狗在草地上跑", "猫", "一只猫", "的照片" * 40, "", "狗和猫"]


@pytest.fixture(scope="module")
def tiny():
    return mteb.get_model(TINY, device="cpu")


@pytest.fixture(scope="module")
def reduced(tmp_path_factory):
    """Chinese-CLIP B/16 with two layers a tower and random weights, as its repository holds it."""
    root = tmp_path_factory.mktemp("published")
    with reduced_models(tmp_path_factory.mktemp("reduced")), pytest.MonkeyPatch.context() as patch:
        build("cnclip-vit-b-16", "ofa_sys").save(root)
        (root / CHINESE_CLIP / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
        patch.setenv("ZHCLIP_MODELS_DIR", str(root))
        yield root / CHINESE_CLIP


def pictures() -> list[Image.Image]:
    random = np.random.default_rng(0)
    sizes = [(40, 30), (224, 224), (90, 300), (64, 64), (17, 50), (300, 200), (128, 96)]
    made = [Image.fromarray(random.integers(0, 255, (*size, 3)).astype("uint8")) for size in sizes]
    return [*made[:4], made[4].convert("L"), made[5].convert("RGBA"), made[6]]


def loader(modalities: list[str], batch_size: int = 3):
    columns = {"text": TEXTS, "image": pictures()}
    task = SimpleNamespace(modalities=modalities, get_modalities=lambda prompt_type=None: modalities)
    dataset = Dataset.from_dict({name: columns[name] for name in modalities})
    return create_dataloader(dataset, task_metadata=task, batch_size=batch_size)


def encode(model, inputs) -> torch.Tensor:
    about = {"task_metadata": MockAny2AnyRetrievalT2ITask.metadata, "hf_split": "test", "hf_subset": "default"}
    return torch.as_tensor(model.encode(inputs, **about, show_progress_bar=False))


# ---------------------------------------------------------------------- the registry


def test_every_published_set_of_weights_has_its_entry():
    models = [model for family in all_families().values() for model in family.models]
    names = {tag.repo for model in models for tag in model.tags.values()} - {""} | {TINY}
    found = registry.published(MODEL_REGISTRY)
    assert {name for name, meta in MODEL_REGISTRY.items() if meta.loader is registry.zhclip_openclip_loader} == set(
        found
    )
    assert names <= set(MODEL_REGISTRY)
    # What is not under its repository's name has none, or shares it, or mteb has one of that name.
    assert {name for name in found if name.startswith(registry.OURS)} == set(found) - names | {TINY}
    entries = {(entry.model.name, entry.tag) for entry in found.values()}
    twins = {model.quickgelu for model in models}
    assert entries == {(model.name, tag) for model in models if model.name not in twins for tag in model.tags}


def test_an_entry_says_what_the_data_sheet_says():
    for name, entry in registry.published(MODEL_REGISTRY).items():
        meta, facts = mteb.get_model_meta(name), _load.model_facts()[entry.model.name]
        assert (meta.n_parameters, meta.embed_dim) == (facts["parameters"], facts["embed_dim"]), name
        assert meta.max_tokens == entry.model.config()["text_cfg"].get("context_length", 77)
        assert meta.license is None or meta.license in get_args(Licenses)
        assert meta.training_datasets is None and meta.revision == entry.tag and meta.languages == ["zho-Hans"]
    licences = {name: MODEL_REGISTRY[name].license for name in (TINY, CHINESE_CLIP, "BAAI/AltCLIP")}
    assert licences == {TINY: "mit", CHINESE_CLIP: "not specified", "BAAI/AltCLIP": None}


def test_a_name_that_mteb_has_stays_with_mteb():
    theirs = SimpleNamespace(loader=None)
    table = {CHINESE_CLIP: theirs, "TencentARC/QA-CLIP-ViT-B-16": theirs}
    assert registry.with_ours(table) is table and table[CHINESE_CLIP] is theirs
    found = registry.published(table)
    assert CHINESE_CLIP not in found
    assert found["zhclip-openclip/cnclip-vit-b-16"].weights.repo == CHINESE_CLIP
    assert found["zhclip-openclip/cnclip-vit-b-16-qa_clip"].tag == "qa_clip"
    before = dict(table)
    registry.with_ours(table)
    assert table == before


def test_models_that_share_a_repository(monkeypatch):
    """Each is an entry of its own, but for a twin of which config.json decides."""
    shared = {"x": Tag("somebody/several", files=("a.pt",))}
    models = (
        Model("one", shared, quickgelu="one-quickgelu"),
        Model("one-quickgelu", shared),
        Model("one-long", shared),
        Model("two", {**shared, "y": Tag("")}),
    )
    monkeypatch.setattr(registry, "all_families", lambda: {"new": Family("new", "New", models, {}, ())})
    found = {name: (entry.model.name, entry.tag) for name, entry in registry.published({}).items()}
    assert found == {
        "somebody/several": ("one", "x"),
        "zhclip-openclip/one-long": ("one-long", "x"),
        "zhclip-openclip/two": ("two", "x"),
        "zhclip-openclip/two-y": ("two", "y"),
    }


def test_registering_twice_is_once():
    before = list(MODEL_REGISTRY)
    ours.register()
    ours.register()
    assert list(MODEL_REGISTRY) == before


def test_nothing_else_of_mteb_changes_and_import_mteb_alone_is_untouched(run_python):
    """mteb first, which loads neither torch nor us; then us, as `import torch` in `mteb run` does."""
    code = """
import sys, mteb
from mteb.models.model_implementations import MODEL_REGISTRY as table
assert 'torch' not in sys.modules and not [name for name in sys.modules if name.startswith('zhclip')]
names = lambda: {(m.__name__, key): id(v) for n, m in sys.modules.items() if n.split('.')[0] == 'mteb'
                 for key, v in vars(m).items()}
entries, metas, before = list(table), {name: meta.model_dump() for name, meta in table.items()}, names()
kept = dict(table)
import zhclip_openclip
from zhclip_openclip import autoload
assert not autoload.FAILED and 'torch' not in sys.modules
assert names() == before
assert list(table)[:len(entries)] == entries and all(table[name] is kept[name] for name in entries)
assert {name: table[name].model_dump() for name in entries} == metas
assert all(name.startswith('zhclip-openclip/') or '/' in name for name in list(table)[len(entries):])
meta = mteb.get_model_meta('thu-ml/zh-clip-vit-roberta-large-patch14')
assert meta.modalities == ['image', 'text'] and len(table) > len(entries) + 10
from zhclip_openclip.integrations import _patching
[patch] = _patching.APPLIED
assert (patch.module, patch.name) == ('mteb.models.model_implementations', 'MODEL_REGISTRY')
print('fine')
"""
    assert "fine" in run_python(code).stdout


def test_torch_imported_by_one_of_mtebs_model_files(run_python):
    """The registry is half executed when we come; the next look at it finds ours."""
    code = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == 'mteb.models.model_implementations.openclip_models':
            import torch
sys.meta_path.insert(0, Finder())
import mteb
from zhclip_openclip import autoload
assert 'mteb.models.model_implementations' in autoload.DONE and not autoload.FAILED
assert mteb.get_model_meta('thu-ml/zh-clip-vit-roberta-large-patch14').embed_dim == 768
print('fine')
"""
    assert "fine" in run_python(code).stdout


def test_a_failing_hook_leaves_mteb_whole(run_python):
    code = """
import warnings
from zhclip_openclip import autoload
from zhclip_openclip.integrations.mteb import registry
real, made = registry.meta, []
def broken(name, entry):
    if len(made) == 3:
        raise KeyError('no such field')
    made.append(name)
    return real(name, entry)
registry.meta = broken
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    import mteb
from mteb.models.model_implementations import MODEL_REGISTRY as table
told = [str(w.message) for w in caught if 'could not hook' in str(w.message)]
assert len(told) == 1 and 'mteb.models.model_implementations' in told[0] and 'no such field' in told[0], told
assert len(made) == 3 and not set(made) & set(table) and len(table) > 500
from zhclip_openclip.integrations import _patching
assert not _patching.APPLIED
print('fine')
"""
    assert "fine" in run_python(code).stdout


# ---------------------------------------------------------------------- features


@pytest.mark.parametrize("modalities", [["text"], ["image"], ["image", "text"]], ids=["texts", "pictures", "both"])
@pytest.mark.filterwarnings("ignore:.*it is cut short, or of another model")  # a small vocabulary
def test_features_are_those_of_mtebs_own_adapter(reduced, modalities):
    """The reference: mteb's adapter for open_clip, which encodes batches as they come and reads the same files."""
    theirs = encode(openclip_loader(CHINESE_CLIP, revision="", device="cpu"), loader(modalities))
    model = mteb.get_model(CHINESE_CLIP, device="cpu")
    features = encode(model, loader(modalities))
    assert features.shape == (len(TEXTS), model.mteb_model_meta.embed_dim) and features.dtype == torch.float32
    assert (F.normalize(features, dim=-1) - F.normalize(theirs, dim=-1)).abs().max() <= 1e-6
    assert (features - theirs).abs().max() <= 1e-6 * max(1.0, theirs.norm(dim=-1).max().item())
    others = F.normalize(features, dim=-1) @ F.normalize(features, dim=-1).T
    same = torch.tensor([[a == b for b in TEXTS] for a in TEXTS]) if modalities == ["text"] else torch.eye(7).bool()
    assert others[~same].max() < 1 - 1e-4, "an order of any kind would pass"


def test_features_are_those_of_encode_text_and_encode_image(tiny):
    model, _, transform = open_clip.create_model_and_transforms("zhclip-tiny", pretrained="digits")
    tokenizer = open_clip.get_tokenizer("zhclip-tiny")
    with torch.no_grad():
        texts = model.eval().encode_text(tokenizer(TEXTS))
        images = model.encode_image(torch.stack([transform(picture) for picture in pictures()]))
    for batch_size in (1, 3, 32):
        torch.testing.assert_close(encode(tiny, loader(["text"], batch_size)), texts, rtol=0, atol=1e-6)
        torch.testing.assert_close(encode(tiny, loader(["image"], batch_size)), images, rtol=0, atol=1e-6)
        torch.testing.assert_close(
            encode(tiny, loader(["image", "text"], batch_size)), texts + images, rtol=0, atol=2e-6
        )


def test_zero_shot_classification_of_the_digits(tiny, tmp_path):
    """A task of mteb's with real pictures: its accuracy is that of open_clip's model, item by item."""
    digits = Digits("test")
    names = [f"数字{name}" for name in "零一二三四五六七八九"]

    class DigitsTask(MockZeroShotClassificationTask):
        def load_data(self, **kwargs):
            images = [digits[index][0] for index in range(len(digits))]
            self.dataset = {"test": Dataset.from_dict({"image": images, "label": digits.targets})}
            self.data_loaded = True

        def get_candidate_labels(self):
            return names

    cache = mteb.ResultCache(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "`model_revision` is not specified")  # and so any result of that name would do
        result = mteb.evaluate(tiny, DigitsTask(), cache=cache, show_progress_bar=False)
    written = next(tmp_path.rglob("model_meta.json")).parent
    assert (written.name, written.parent.name) == ("digits", TINY.replace("/", "__"))
    score = result.task_results[0].scores["test"][0]["accuracy"]
    model, _, transform = open_clip.create_model_and_transforms("zhclip-tiny", pretrained="digits")
    with torch.no_grad():
        images = model.eval().encode_image(torch.stack([transform(digits[i][0]) for i in range(len(digits))]), True)
        texts = model.encode_text(open_clip.get_tokenizer("zhclip-tiny")(names), True)
    right = (images @ texts.T).argmax(dim=1) == torch.tensor(digits.targets)
    assert score == pytest.approx(right.float().mean().item(), abs=1e-6) and score > 0.5


def mteb_command(tmp_path, *words: str):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mteb", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=400, env=environment)


def test_mtebs_own_mock_tasks_pass(tmp_path):
    """`mteb mock-run`, which nobody has told of us: all of its tasks with texts and pictures."""
    done = mteb_command(tmp_path, "mock-run", "-m", TINY, "--device", "cpu", "-v", "0")
    assert done.returncode == 0, done.stderr[-3000:]
    table = (tmp_path / "mteb_mock_run_results.md").read_text(encoding="utf-8")
    rows = [
        line.split(" | ") for line in table.splitlines() if line.startswith("| Mock") or line.startswith("| Legacy")
    ]
    assert {row[2] for row in rows} == {"✓"}, table
    assert (
        len([row for row in rows if "image" in row[1]]) >= 15 and len([row for row in rows if "text" in row[1]]) >= 28
    )


# ---------------------------------------------------------------------- what goes wrong


def test_the_command_tells_an_error_of_ours_in_one_line(tmp_path):
    done = mteb_command(tmp_path, "mock-run", "-m", "TencentARC/QA-CLIP-ViT-B-16", "-v", "0")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("zhclip-openclip: ")]
    assert len(told) == 1 and "TencentARC/QA-CLIP-ViT-B-16" in told[0], done.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"colour": 1}, f"{TINY} has no option colour; there are pretrained, amp"),
        ({"device": "tpu?"}, "'tpu?' is no device"),
        ({"device": 99}, "there is no cuda:99 that torch can use here"),
        ({"pretrained": "digts"}, "digts"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(options, told):
    with pytest.raises(ZhclipError) as error:
        mteb.get_model(TINY, **options)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_an_entry_of_somebody_elses_with_our_loader():
    with pytest.raises(ZhclipError, match="no model of ours in mteb; there are .*thu-ml/zh-clip"):
        registry.zhclip_openclip_loader("somebody/else")
    with pytest.raises(ZhclipError, match="has no revision 'main'; it has one, which is called digits"):
        registry.zhclip_openclip_loader(TINY, revision="main")


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        (
            {"text": ["猫", None]},
            "text 2 of MockAny2AnyRetrievalT2I (default, test) is of type NoneType, and not a text",
        ),
        (
            {"image": ["a.jpg"]},
            "picture 1 of MockAny2AnyRetrievalT2I (default, test) is of type str, and not a picture",
        ),
        ({"audio": [0]}, f"has neither texts nor pictures for {TINY}, but audio"),
    ],
)
def test_what_is_no_text_and_no_picture(tiny, batch, told):
    class Batches(list):
        dataset = SimpleNamespace(features=list(batch))

    with pytest.raises(ZhclipError) as error:
        encode(tiny, Batches([batch]))
    assert told in str(error.value)


def test_nothing_to_encode(tiny):
    class Nothing(list):
        dataset = SimpleNamespace(features=["text", "image"])

    assert encode(tiny, Nothing()).shape == (0, 64)


def test_features_that_are_not_finite_are_an_error():
    model = mteb.get_model(TINY, device="cpu")
    with torch.no_grad():
        next(model.model.text.parameters()).fill_(float("nan"))
    with pytest.raises(FiniteError, match="text 1 of .* not finite, and 6 more beside it; look at the weights"):
        encode(model, loader(["text"]))


# ---------------------------------------------------------------------- weights and precision of the user's own


def test_own_weights_have_a_revision_of_their_own(tmp_path, tiny):
    """mteb takes a result that it has for the same name, options and revision: other weights in a file are another."""
    assert tiny.mteb_model_meta.revision == "digits"
    model = open_clip.create_model("zhclip-tiny", pretrained="digits")
    path = tmp_path / "epoch_1.pt"
    torch.save(model.state_dict(), path)
    first = mteb.get_model(TINY, device="cpu", pretrained=str(path))
    with torch.no_grad():
        model.visual.trunk.cls_token.normal_(generator=torch.Generator().manual_seed(0))
    torch.save(model.state_dict(), path)
    second = mteb.get_model(TINY, device="cpu", pretrained=str(path))
    revisions = {loaded.mteb_model_meta.revision for loaded in (first, second)}
    assert len(revisions) == 2 and not revisions & {None, "digits"}
    assert first.mteb_model_meta.experiment_kwargs == {"pretrained": str(path)}
    torch.testing.assert_close(encode(first, loader(["image"])), encode(tiny, loader(["image"])), rtol=0, atol=1e-6)
    assert (encode(second, loader(["image"])) - encode(tiny, loader(["image"]))).abs().max() > 1e-3


def test_mixed_precision_is_asked_for_and_stands_in_the_name(monkeypatch, tiny):
    monkeypatch.setattr(encoder, "use_amp", lambda device, asked: asked)
    model = mteb.get_model(TINY, device="cpu", amp=True)
    assert model.amp and not tiny.amp and model.mteb_model_meta.experiment_name == "amp_True"
    low, full = encode(model, loader(["text"])), encode(tiny, loader(["text"]))
    assert low.dtype == torch.float32 and 1e-5 < (low - full).abs().max() < 0.1 * full.abs().max()


def test_doctor_lists_mteb():
    from typer.testing import CliRunner

    from zhclip_openclip.commands import app
    from zhclip_openclip.commands.doctor import examine

    state = next(finding.state for finding in examine() if finding.topic == "mteb")
    assert state == f"plugin active, {mteb.__version__}"
    listed = CliRunner().invoke(app, ["doctor", "--patches"]).output
    assert "mteb.models.model_implementations.MODEL_REGISTRY: our models" in listed


def test_the_documented_tasks_have_chinese():
    page = (Path(__file__).parents[2] / "docs/mteb.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page[page.index("| task |") :].splitlines() if line.startswith("| `")]
    assert len(rows) == 4
    for names, language, said in rows:
        for name in re.findall(r"`(\w+)`", names):
            [task] = mteb.get_tasks(tasks=[name], languages=[language.strip("`")])
            assert task.hf_subsets in (["zh"], ["zh-zh"], ["zh-CN"]), (name, task.hf_subsets)
            said_score = re.search(r"nDCG@(\d+)", said)
            assert said_score is None or task.metadata.main_score == f"ndcg_at_{said_score[1]}", name
    for name in re.findall(r"mteb (?:run|mock-run) -m (\S+)", page) + re.findall(r'get_model\("(\S+)"', page):
        assert name in registry.published(MODEL_REGISTRY), name

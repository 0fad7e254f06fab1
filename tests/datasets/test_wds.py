"""WebDataset export and import: identical relations, plain CLIP_benchmark reads it, interruption, bad shards."""

import functools
import http.server
import io
import json
import tarfile
import threading

import pytest
import torch

from tests.support import retrieval_files as files
from zhclip_openclip.datasets._dataset_error import DatasetError
from zhclip_openclip.datasets.retrieval import build_retrieval_dataset
from zhclip_openclip.datasets.wds_export import export_wds
from zhclip_openclip.datasets.wds_open import open_wds


@pytest.fixture
def muge(tmp_path):
    return build_retrieval_dataset("muge", files.write_tsv(tmp_path / "source", "valid", True))


@pytest.fixture
def coco(tmp_path):
    return build_retrieval_dataset("coco-cn", files.write_coco_release(tmp_path / "source"))


def same(left, right):
    assert left.image_ids == right.image_ids and left.texts == right.texts
    assert left.text_to_images == right.text_to_images and left.image_to_texts == right.image_to_texts
    assert (left.name, left.split, left.directions) == (right.name, right.split, right.directions)
    assert [left.read_image(i) for i in range(len(left))] == [right.read_image(i) for i in range(len(right))]
    assert left.fingerprint() == right.fingerprint()


@pytest.mark.parametrize("shard_size", [1, 4, 14, 1000])
def test_same_dataset_back(muge, tmp_path, shard_size):
    seen = []
    path = export_wds(muge, tmp_path / "wds", shard_size, progress=lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "wds" / "test" / "pairs.json" and seen[-1] == (14, 14)
    assert (tmp_path / "wds" / "test" / "nshards.txt").read_text() == f"{-(-14 // shard_size)}\n"
    assert (tmp_path / "wds" / "dataset_type.txt").read_text() == "retrieval\n"
    same(open_wds(tmp_path / "wds"), muge)
    assert not list((tmp_path / "wds").rglob("*.part")) + list((tmp_path / "wds").rglob("*.new"))


def test_plain_clip_benchmark_reads_it(coco, tmp_path):
    builder = pytest.importorskip("clip_benchmark.datasets.builder")
    export_wds(coco, tmp_path / "wds", 5)
    theirs = list(builder.build_wds_dataset("x", transform=lambda image: image, data_dir=str(tmp_path / "wds")))
    assert len(theirs) == len(coco)
    for index, (image, captions) in enumerate(theirs):
        assert captions == coco[index][1]
        assert image.tobytes() == coco[index][0].tobytes()


def test_shards_of_clip_benchmark(tmp_path, coco):
    """Written by CLIP_benchmark, so without a sidecar: each caption belongs to the picture it came with."""
    builder = pytest.importorskip("clip_benchmark.webdataset_builder")
    samples = [(coco.read_image(i), coco[i][1]) for i in range(len(coco)) if i % 5 != 4]
    (tmp_path / "wds").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.utils.data, "DataLoader", lambda dataset, **_: dataset)  # no 8 workers for 12 pictures
        builder.convert_retrieval_dataset(samples, "test", str(tmp_path / "wds"), image_format="jpg", verbose=False)
    dataset = open_wds(tmp_path / "wds", name="wds/coco")
    assert dataset.name == "wds/coco" and len(dataset) == len(samples)
    assert [dataset[i][1] for i in range(len(dataset))] == [captions for _, captions in samples]
    assert dataset.text_to_images == [[i] for i, (_, captions) in enumerate(samples) for _ in captions]


def test_caption_with_line_breaks(tmp_path):
    folder = files.write_tsv(tmp_path / "source", "valid", True)
    path = folder / "valid_texts.jsonl"
    entry = json.loads(path.read_text("utf-8").splitlines()[0])
    entry["text"] = "第一行\n第二行\u2028第三行"
    path.write_text("\n".join([json.dumps(entry), *path.read_text("utf-8").splitlines()[1:]]), "utf-8")
    dataset = build_retrieval_dataset("muge", folder)
    export_wds(dataset, tmp_path / "wds")
    same(open_wds(tmp_path / "wds"), dataset)
    with tarfile.open(tmp_path / "wds" / "test" / "0.tar") as tar:
        assert tar.extractfile("s0000000.txt").read().decode().splitlines()[0] == "第一行 第二行 第三行"


def test_other_picture_formats_become_png(tmp_path):
    import base64

    from PIL import Image

    folder = files.write_tsv(tmp_path / "source", "valid", True)
    buffer = io.BytesIO()
    picture = Image.new("RGB", (5, 4), (1, 2, 3))
    picture.save(buffer, "BMP")
    path = folder / "valid_imgs.tsv"
    lines = path.read_bytes().split(b"\n")
    lines[2] = b"1002\t" + base64.b64encode(buffer.getvalue())
    path.write_bytes(b"\n".join(lines))
    dataset = build_retrieval_dataset("muge", folder)
    export_wds(dataset, tmp_path / "wds")
    copy = open_wds(tmp_path / "wds")
    assert copy.read_image(2).startswith(b"\x89PNG") and copy[2][0].tobytes() == picture.tobytes()
    assert copy.text_to_images == dataset.text_to_images


class Stop(Exception):
    pass


def test_interrupted_export_looks_incomplete_and_goes_on(muge, tmp_path):
    def stop_at(done, total):
        if done == 9:
            raise Stop

    with pytest.raises(Stop):
        export_wds(muge, tmp_path / "wds", 4, progress=stop_at)
    folder = tmp_path / "wds" / "test"
    assert sorted(path.name for path in folder.glob("*.tar")) == ["0.tar", "1.tar"]
    with pytest.raises(DatasetError, match="no nshards.txt, so the export is not complete"):
        open_wds(tmp_path / "wds")
    builder = pytest.importorskip("clip_benchmark.datasets.builder")
    with pytest.raises(FileNotFoundError):
        builder.build_wds_dataset("x", transform=None, data_dir=str(tmp_path / "wds"))
    before = [(folder / name).stat().st_mtime_ns for name in ("0.tar", "1.tar")]
    written = []
    export_wds(muge, tmp_path / "wds", 4, progress=lambda done, total: written.append(done))
    assert [(folder / name).stat().st_mtime_ns for name in ("0.tar", "1.tar")] == before
    assert written[:3] == [4, 8, 8]  # two shards passed over, then the first picture of the third
    same(open_wds(tmp_path / "wds"), muge)
    export_wds(muge, tmp_path / "wds", 4, progress=lambda done, total: pytest.fail("is complete already"))


def test_another_dataset_does_not_resume(muge, coco, tmp_path):
    def stop(done, total):
        if done == 9:
            raise Stop

    with pytest.raises(Stop):
        export_wds(muge, tmp_path / "wds", 4, progress=stop)
    export_wds(coco, tmp_path / "wds", 5)
    same(open_wds(tmp_path / "wds"), coco)
    export_wds(coco, tmp_path / "wds", 14)  # fewer shards: none of the old ones is left
    assert [path.name for path in (tmp_path / "wds" / "test").glob("*.tar")] == ["0.tar"]
    same(open_wds(tmp_path / "wds"), coco)


def test_from_a_url(muge, tmp_path):
    export_wds(muge, tmp_path / "wds", 5)

    class Handler(http.server.SimpleHTTPRequestHandler):
        requests = []

        def log_message(self, *args):
            self.requests.append(self.path)

    handler = functools.partial(Handler, directory=str(tmp_path / "wds"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        same(open_wds(url, cache_dir=tmp_path / "cache"), muge)
        same(open_wds(url + "/", cache_dir=tmp_path / "cache"), muge)
        with pytest.raises(DatasetError, match="404"):
            open_wds(url + "/nowhere", cache_dir=tmp_path / "cache")
        server.shutdown()
    with pytest.raises(DatasetError, match="check the address and the network"):
        open_wds(url, cache_dir=tmp_path / "cache")


def _rewrite(path, change):
    """Copies a tar, with a change to each member."""
    with tarfile.open(path) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(path, "w") as tar:
        for member, data in members:
            change(member)
            tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("name", ["../evil.jpg", "a/../../evil.jpg", "/etc/evil.jpg", "..\\evil.jpg", "C:/evil.jpg"])
def test_member_that_climbs_out(muge, tmp_path, name):
    export_wds(muge, tmp_path / "wds")

    def change(member):
        if member.name == "s0000003.jpg":
            member.name = name

    _rewrite(tmp_path / "wds" / "test" / "0.tar", change)
    with pytest.raises(DatasetError, match=r"0.tar\[.*evil.jpg\]: the path climbs out of its folder"):
        open_wds(tmp_path / "wds")


def test_link(muge, tmp_path):
    export_wds(muge, tmp_path / "wds")

    def change(member):
        if member.name == "s0000003.jpg":
            member.type, member.linkname, member.size = tarfile.SYMTYPE, "/etc/passwd", 0

    _rewrite(tmp_path / "wds" / "test" / "0.tar", change)
    with pytest.raises(DatasetError, match="a link or device"):
        open_wds(tmp_path / "wds")


def test_damaged_exports(muge, tmp_path):
    folder = tmp_path / "wds" / "test"

    def fresh():
        (folder / "pairs.json").unlink(missing_ok=True)
        export_wds(muge, tmp_path / "wds", 5)

    fresh()
    data = (folder / "1.tar").read_bytes()
    (folder / "1.tar").write_bytes(data[: 3 * 512 + 100])
    with pytest.raises(DatasetError, match="1.tar"):
        open_wds(tmp_path / "wds")
    (folder / "1.tar").unlink()
    with pytest.raises(DatasetError, match="1.tar: missing, though nshards.txt says 3"):
        open_wds(tmp_path / "wds")
    fresh()
    (folder / "pairs.json").write_text('{"images": [')
    with pytest.raises(DatasetError, match="pairs.json: damaged"):
        open_wds(tmp_path / "wds")
    fresh()
    (folder / "0.tar").write_bytes((folder / "1.tar").read_bytes())
    with pytest.raises(DatasetError, match="do not belong to pairs.json"):
        open_wds(tmp_path / "wds")
    (tmp_path / "wds" / "dataset_type.txt").write_text("classification")
    with pytest.raises(DatasetError, match="this is no retrieval set"):
        open_wds(tmp_path / "wds")
    with pytest.raises(DatasetError, match="no folder test/"):
        open_wds(tmp_path)


def test_shard_size(muge, tmp_path):
    with pytest.raises(DatasetError, match="at least one picture"):
        export_wds(muge, tmp_path / "wds", 0)

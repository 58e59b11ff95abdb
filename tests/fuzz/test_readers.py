"""Whatever stands in a file: it is read, or refused in plain lines; no traceback, no hang, no nonsense.

Twenty thousand inputs and more, the same ones at every run.
"""

from __future__ import annotations

import io
import json
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mangling import WILD_TEXT, dump_json, mangle, run_wild
from PIL import Image
from ruamel.yaml import YAML
from tiny_coco import write_coco
from tiny_folder import draw_picture, write_data
from tiny_voc import write_devkit

from dsrg.image import MAX_PIXELS, DecodeError, read_image, read_mask
from dsrg.sources import SourceError
from dsrg.sources.base import SPLITS, Source
from dsrg.sources.checks import check_gt_label
from dsrg.sources.coco import open_coco
from dsrg.sources.folder import open_folder
from dsrg.sources.voc import open_voc
from tasks.params import Params, ParamsError, check_params, read_params

pytestmark = pytest.mark.slow

INPUTS = 2500
SECONDS = 20  # more is a hang
MOST_MEMORY = 3 * 1024**3
FORMATS = {
    "JPEG": "RGB L CMYK",
    "PNG": "RGB RGBA L LA P 1 I;16",
    "GIF": "P",
    "WEBP": "RGB RGBA",
    "TIFF": "RGB RGBA L CMYK I;16 F",
    "BMP": "RGB L",
    "PPM": "RGB L",
}
PARTS_OF_PICTURES = (
    *(b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"eXIf", b"iCCP", b"zTXt", b"acTL", b"fcTL", b"IEND"),
    *(b"\xff\xd8", b"\xff\xc0", b"\xff\xc2", b"\xff\xe1Exif\0\0II*\0", b"\xff\xda", b"\xff\xd9"),
    *(
        b"GIF89a",
        b",\0\0\0\0",
        b"RIFF",
        b"WEBPVP8X",
        b"VP8L",
        b"II*\0",
        b"MM\0*",
        b"P6\n",
        b" 99999 99999 255\n",
    ),
)

fuzz = settings(
    max_examples=INPUTS,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@contextmanager
def watch() -> Iterator[None]:
    """Fail on what takes too long, or more memory than a machine has to spare for one picture."""

    def stop(*_: Any) -> None:
        raise AssertionError(f"hangs: more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < MOST_MEMORY


def check_lines(error: Exception) -> None:
    """What is said can be printed, and is no Python."""
    text = str(error)
    assert text.strip()
    text.encode()
    assert "Traceback" not in text
    assert "object at 0x" not in text


@pytest.fixture(scope="module")
def seeds() -> dict[str, list[bytes]]:
    """Whole pictures in every format and mode that is read."""
    picture = Image.fromarray(draw_picture(0, 12, 16))
    found: dict[str, list[bytes]] = {}
    for kind, modes in FORMATS.items():
        for mode in modes.split():
            image = picture.convert("I").convert("I;16") if mode == "I;16" else picture.convert(mode)
            file = io.BytesIO()
            image.save(file, kind)
            found.setdefault(kind, []).append(file.getvalue())
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


# -- pictures and masks ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_pictures(kind: str, seeds: dict[str, list[bytes]], file: Path):
    @settings(fuzz, max_examples=INPUTS // 2)
    @given(mangle(seeds[kind], PARTS_OF_PICTURES))
    def read(content: bytes) -> None:
        file.write_bytes(content)
        with watch():
            try:
                picture = read_image(file)
            except DecodeError as error:
                check_lines(error)
                return
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert picture.shape[2] == 3
        assert 0 < picture.shape[0] * picture.shape[1] <= MAX_PIXELS

    read()


def test_masks(seeds: dict[str, list[bytes]], file: Path):
    masks = [content for kind in ("PNG", "TIFF", "GIF") for content in seeds[kind]]

    @fuzz
    @given(mangle(masks, PARTS_OF_PICTURES))
    def read(content: bytes) -> None:
        file.write_bytes(content)
        with watch():
            try:
                mask = read_mask(file)
                check_gt_label(mask, (12, 16), num_classes=3)
            except DecodeError as error:
                check_lines(error)
                return
        assert mask.shape == (12, 16)
        assert mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {0, 1, 2, 255}

    read()


# -- data sets ---------------------------------------------------------------------------------


def check_source(open_source: Callable[[Path], Source], root: Path) -> None:
    """Open a data set; refuse in plain lines, or list pictures of it that a training could take."""
    with watch():
        try:
            source = open_source(root)
        except SourceError as error:
            check_lines(error)
            return
        if source.problems:
            check_lines(SourceError(source.where, source.problems))
            return
        " ".join((*source.remarks, *source.classes)).encode()
        assert 0 < len(source.classes) <= 254
        assert all(name.strip() for name in source.classes)
        assert len({name.casefold() for name in source.classes}) == len(source.classes)
        ids = [record.id for record in source.records]
        assert len(set(ids)) == len(ids)
        for record in source.records:
            assert record.image_labels.shape == (len(source.classes),)
            assert record.split in (*SPLITS, "")
            record.id.encode()
            assert "/" not in record.id
            assert record.id not in ("", ".", "..")
            for path in (record.picture, record.mask, record.saliency):
                assert not isinstance(path, Path) or path.resolve().is_relative_to(root.resolve())
            try:
                source.reader.read_gt_label(record)
            except DecodeError as error:
                check_lines(error)


def test_table(tmp_path: Path):
    root = write_data(tmp_path / "data")
    (root / "classes.txt").unlink()
    written = (root / "labels.csv").read_bytes()
    one_hot = b"image,x,y\np00.png,1,0\np01.png,0,1\np02.png,0,0\n"
    tokens = [text.encode(errors="surrogatepass") for text in WILD_TEXT]
    tokens += [
        b"id",
        b"classes",
        b"split",
        b"train",
        b"val",
        b'"',
        b"\n",
        b"\r",
        b"p00",
        b"\t",
        b"\xef\xbb\xbf",
    ]

    @fuzz
    @given(mangle([written, written.replace(b",", b";"), one_hot], tokens))
    def read(content: bytes) -> None:
        (root / "labels.csv").write_bytes(content)
        check_source(open_folder, root)

    read()


@pytest.mark.parametrize("name", ["classes.txt", "train.txt"])
def test_lists(name: str, tmp_path: Path):
    root = write_data(tmp_path / "data", split=False)
    (root / "val.txt").write_text("p02\np05\n")
    (root / "train.txt").write_text("p00\np01\np03\np04\n")
    tokens = [text.encode(errors="surrogatepass") for text in WILD_TEXT]

    @settings(fuzz, max_examples=INPUTS // 2)
    @given(mangle([(root / name).read_bytes()], [*tokens, b"\n", b"\r\n", b"p00", b"background\n"]))
    def read(content: bytes) -> None:
        (root / name).write_bytes(content)
        check_source(open_folder, root)

    read()


def test_json(tmp_path: Path):
    root = write_data(tmp_path / "data")
    (root / "labels.csv").unlink()
    (root / "classes.txt").unlink()
    forms: list[Any] = [
        {"p00.png": ["x"], "p01.png": "y", "p02": ["x", "y"], "p03": ["background"]},
        [
            {"image": "p00.png", "labels": ["x"], "split": "train"},
            {"image": "p01", "labels": "y", "split": "val"},
        ],
        [{"file": "p00", "x": 1, "y": 0}, {"file": "p01", "x": 0, "y": 1}],
    ]
    trees = st.sampled_from(forms).flatmap(run_wild).map(dump_json)
    written = mangle([dump_json(form) for form in forms], [b"[" * 3000, b'{"a":' * 3000, b"9" * 5000, b"NaN"])

    @fuzz
    @given(st.one_of(trees, written))
    def read(content: bytes) -> None:
        (root / "labels.json").write_bytes(content)
        check_source(open_folder, root)

    read()


def test_voc(tmp_path: Path):
    root = write_devkit(tmp_path / "data")
    path = root / "Annotations" / "2007_000000.xml"
    bomb = (
        b'<!DOCTYPE a [<!ENTITY a "'
        + b"a" * 99
        + b'">'
        + b"".join(b'<!ENTITY %c "%s">' % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(8))
        + b"]>"
    )
    tokens = [
        *(
            b"<object>",
            b"</object>",
            b"<name>",
            b"</name>",
            b"<name></name>",
            b"&i;",
            b"&#0;",
            b"&#xD800;",
            b"]]>",
        ),
        *(b'<?xml version="1.0" encoding="utf-7"?>', b'<?xml version="1.0" encoding="cp037"?>', bomb),
        *(b'<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>', b"&a;", b"<a>" * 2000),
    ]

    @fuzz
    @given(mangle([path.read_bytes()], tokens))
    def read(content: bytes) -> None:
        path.write_bytes(content)
        check_source(open_voc, root)

    read()


def test_coco(tmp_path: Path):
    root = write_coco(tmp_path / "data", train=3, val=2)
    path = root / "annotations" / "instances_train2017.json"
    tree = json.loads(path.read_text())
    written = mangle([path.read_bytes()], [b"[" * 3000, b"9" * 5000, b"1e400", b"-1", b"null", b"[]", b"{}"])

    @settings(fuzz, max_examples=2 * INPUTS)
    @given(st.one_of(run_wild(tree).map(dump_json), run_wild(tree).map(dump_json), written))
    def read(content: bytes) -> None:
        path.write_bytes(content)
        check_source(open_coco, root)

    read()


# -- params ------------------------------------------------------------------------------------


def test_params(project_root: Path):
    path = project_root / "params.yaml"
    tree = YAML(typ="safe").load(path.read_text())

    @settings(fuzz, max_examples=2 * INPUTS)
    @given(run_wild(tree))
    def read(changed: Any) -> None:
        check_values(lambda: check_params(changed, path=path))

    read()


def test_file_of_params(project_root: Path, file: Path):
    text = (project_root / "params.yaml").read_bytes()
    tokens = [
        b"&a",
        b"*a",
        b"!!python/object:os.system",
        b"<<: *a",
        b"- ",
        b": ",
        b"'",
        b"[",
        b"{",
        b".inf",
        b".nan",
    ]

    @settings(fuzz, max_examples=INPUTS // 5)
    @given(mangle([text], tokens))
    def read(content: bytes) -> None:
        file.write_bytes(content)
        check_values(lambda: read_params(file))

    read()


def check_values(read: Callable[[], Params]) -> None:
    with watch():
        try:
            params = read()
        except ParamsError as error:
            check_lines(error)
            return
    check_numbers(params.model_dump())
    assert Params.model_validate(params.model_dump()) == params


def check_numbers(value: Any) -> None:
    """Every number is one that can be computed with."""
    if isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            check_numbers(part)
    elif isinstance(value, float):
        assert np.isfinite(value)

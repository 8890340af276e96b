import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from models.bulk.sources import Item, Source, open_source
from models.data.labelled import DataSetError

LABELS = ("cat", "dog", "emu")


def picture(shade: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (4, 3), shade).save(stream, "PNG")
    return stream.getvalue()


def make_tar(file: Path, members: list[tuple[str, bytes]], mode: str = "w") -> None:
    with tarfile.open(file, mode) as archive:  # type: ignore[call-overload]  # a mode by name
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def shades(items: list[Item]) -> list[int]:
    found = []
    for item in items:
        assert isinstance(item.content, bytes)
        with Image.open(io.BytesIO(item.content)) as opened:
            found.append(int(np.asarray(opened)[0, 0]))
    return found


def everything(source: Source) -> list[Item]:
    items = list(source.read(range(len(source))))
    assert [item.number for item in items] == list(range(len(source)))
    # Whatever is left out, the others are the same.
    assert list(source.read([1])) == [items[1]]
    assert list(source.read([])) == []
    return items


def test_a_folder_names_labels_by_its_subfolders(tmp_path: Path) -> None:
    for name, shade in (("dog/b.png", 2), ("cat/deep/a.png", 1), ("other/c.png", 3), ("d.png", 4)):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(shade))
    items = everything(open_source(str(tmp_path), LABELS))
    assert [(item.key, item.right) for item in items] == [
        ("cat/deep/a.png", 0),
        ("d.png", None),
        ("dog/b.png", 1),
        ("other/c.png", None),
    ]
    assert shades(items) == [1, 4, 2, 3]


def test_an_npz_file_is_a_data_set(tmp_path: Path) -> None:
    images = np.arange(24, dtype=np.uint8).reshape(2, 4, 3, 1)
    np.savez(tmp_path / "a.npz", images=images, labels=[2, 0], names=LABELS)
    source = open_source(str(tmp_path / "a.npz"), LABELS)
    items = list(source.read([0, 1]))
    assert [item.right for item in items] == [2, 0]
    assert [np.asarray(item.content).tolist() for item in items] == images.tolist()
    with pytest.raises(DataSetError, match="the same names in the same order"):
        open_source(str(tmp_path / "a.npz"), LABELS[:2])


def test_webdataset(tmp_path: Path) -> None:
    make_tar(
        tmp_path / "a-0.tar",
        [
            ("x/1.png", picture(1)),
            ("x/1.cls", b"2\n"),
            ("x/1.json", b"{}"),
            ("y/1.cls", b"0"),  # the label may come first, and keys have folders
            ("y/1.seg.png", picture(2)),
        ],
    )
    make_tar(tmp_path / "a-1.tar", [("3.jpg", picture(3)), ("4.txt", b"no picture")])
    items = everything(open_source(str(tmp_path), LABELS))
    assert [(item.key, item.right) for item in items] == [
        ("a-0.tar:x/1.png", 2),
        ("a-0.tar:y/1.seg.png", 0),
        ("a-1.tar:3.jpg", None),
    ]
    assert shades(items) == [1, 2, 3]


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("1.png", picture(1)), ("1.mask.png", picture(2))], "may have one picture"),
        ([("1.png", picture(1)), ("1.cls", b"3")], "expected the index of one of 3 labels"),
        ([("1.png", picture(1)), ("1.cls", b"cat")], "expected the index of one of 3 labels"),
        ([("1.txt", b"a")], "no pictures"),
    ],
)
def test_a_bad_archive_is_refused(
    members: list[tuple[str, bytes]], said: str, tmp_path: Path
) -> None:
    make_tar(tmp_path / "a.tar", members)
    with pytest.raises(DataSetError, match=said):
        open_source(str(tmp_path / "a.tar"), LABELS)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    make_tar(tmp_path / "a.tar", [("1.png", picture(1))], "w:gz")
    with pytest.raises(DataSetError, match=r"not a plain \.tar file"):
        open_source(str(tmp_path / "a.tar"), LABELS)


@pytest.mark.parametrize("structs", [False, True])
def test_parquet(structs: bool, tmp_path: Path) -> None:
    for number, (first, count) in enumerate([(0, 130), (130, 3)]):
        pictures = [picture(shade) for shade in range(first, first + count)]
        table = pyarrow.table(
            {
                "image": [{"bytes": one, "path": "a.png"} for one in pictures]
                if structs
                else pictures,
                "label": [shade % 3 if shade else None for shade in range(first, first + count)],
                "more": [0] * count,
            }
        )
        parquet.write_table(table, tmp_path / f"a-{number}.parquet", row_group_size=50)
    source = open_source(str(tmp_path), LABELS)
    items = everything(source)
    assert shades(items) == list(range(133))
    assert [item.right for item in items] == [None, *(shade % 3 for shade in range(1, 133))]
    assert items[131].key == "a-1.parquet:1"
    some = [0, 49, 50, 129, 130, 132]
    assert list(source.read(some)) == [items[number] for number in some]


def test_what_is_no_picture_in_parquet_is_left_to_the_decoder(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"image": ["text", None]}), tmp_path / "a.parquet")
    source = open_source(str(tmp_path / "a.parquet"), LABELS)
    assert [item.content for item in source.read([0, 1])] == [b"", b""]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"picture": [b""]}, "has no column 'image'"),
        ({"image": pyarrow.array([], pyarrow.binary())}, "no rows"),
    ],
)
def test_a_bad_parquet_file_is_refused(
    columns: dict[str, object], said: str, tmp_path: Path
) -> None:
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    with pytest.raises(DataSetError, match=said):
        open_source(str(tmp_path / "a.parquet"), LABELS)


def test_a_label_beyond_the_models_is_refused(tmp_path: Path) -> None:
    table = pyarrow.table({"image": [picture(1)], "label": [3]})
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataSetError, match="label is 3; the model has 3 labels"):
        list(open_source(str(tmp_path / "a.parquet"), LABELS).read([0]))


def test_other_sources_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR0")
    with pytest.raises(DataSetError, match="not a Parquet file"):
        open_source(str(tmp_path / "a.parquet"), LABELS)
    with pytest.raises(DataSetError, match="no data set 'mnits'"):
        open_source("mnits", LABELS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataSetError, match="no picture files"):
        open_source(str(tmp_path / "empty"), LABELS)


def test_the_identity_tells_other_pictures(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(picture(1))
    before = open_source(str(tmp_path), LABELS).identity
    assert open_source(str(tmp_path), LABELS).identity == before
    (tmp_path / "b.png").write_bytes(picture(2))
    more = open_source(str(tmp_path), LABELS).identity
    file.rename(tmp_path / "c.png")
    assert len({before, more, open_source(str(tmp_path), LABELS).identity}) == 3

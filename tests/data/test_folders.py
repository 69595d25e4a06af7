"""Folders as people have them: which classes a layout means, what is left out, and what is asked."""

import io
import os
import re
import zipfile

import numpy as np
import pytest
from PIL import Image

from fewshot_cli.config.schema import ImageSpec
from fewshot_cli.data import walk as walk_module
from fewshot_cli.data.archive import Source
from fewshot_cli.data.arrange import LOOSE, MASK, arrange
from fewshot_cli.data.user_images import Folder, LooseImages, Taking, images_of
from fewshot_cli.data.walk import walk
from fewshot_cli.errors import DataError


def picture(seed: int, form: str = "PNG") -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def made(folder, names: str, content: dict[str, bytes] | None = None):
    """A folder of images with these names; `a/{1,2}.png` are two. Others have the content given."""
    seed = 0
    for name in names.split():
        found = re.search(r"\{(.*?)\}", name)
        for one in found[1].split(",") if found else [""]:
            path = folder / (name.replace(found[0], one) if found else name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes((content or {}).get(path.name) or picture(seed := seed + 1))
    return folder


SYSTEM = "the system's own"
LAYOUTS = {
    "torchvision": ("apple/{1,2}.png cup/{1,2}.png", {"apple": 2, "cup": 2}, {}, {}),
    "one folder around": ("photos/apple/{1,2}.png photos/cup/1.png", {"apple": 2, "cup": 1}, {}, {}),
    "three folders around": ("a/b/c/apple/1.png a/b/c/cup/1.png", {"apple": 1, "cup": 1}, {}, {}),
    "numbers as classes": ("0/{1,2}.png 1/{1,2}.png 10/1.png", {"0": 2, "1": 2, "10": 1}, {}, {}),
    "split folders": (
        "train/a/1.png val/b/1.png test/c/1.png",
        {"a": 1, "b": 1, "c": 1},
        {"a": "train", "b": "val", "c": "test"},
        {},
    ),
    "split folders in capitals, with a folder around": (
        "set/Train/a/1.png set/VAL/b/1.png set/Test/c/1.png",
        {"a": 1, "b": 1, "c": 1},
        {"a": "train", "b": "val", "c": "test"},
        {},
    ),
    "learn2learn, MAML": (
        "meta-train/a/1.png meta_val/b/1.png metatest/c/1.png",
        {"a": 1, "b": 1, "c": 1},
        {"a": "train", "b": "val", "c": "test"},
        {},
    ),
    "base, validation and novel": (
        "base/a/1.png validation/b/1.png Novel/c/1.png",
        {"a": 1, "b": 1, "c": 1},
        {"a": "train", "b": "val", "c": "test"},
        {},
    ),
    "training and testing": ("Training/a/1.png Testing/c/1.png", {"a": 1, "c": 1}, {"a": "train", "c": "test"}, {}),
    "Kaggle, with unlabelled images to test": (
        "train/a/{1,2}.png train/b/1.png test/{7,8,9}.png",
        {"a": 2, "b": 1},
        {"a": "train", "b": "train"},
        {LOOSE: 3},
    ),
    "classes that are called like splits": (
        "test/{1,2}.png base/1.png treble/1.png",
        {"base": 1, "test": 2, "treble": 1},
        {},
        {},
    ),
    "images beside the class folders": ("a/1.png b/1.png cover.png", {"a": 1, "b": 1}, {}, {LOOSE: 1}),
    "a folder inside a class folder": ("a/1.png a/edited/2.png b/1.png", {"a": 2, "b": 1}, {}, {}),
    "CUB": (
        "CUB/images/001.a/x_{1,2}.jpg CUB/images/002.b/y_1.jpg CUB/segmentations/001.a/x_{1,2}.png "
        "CUB/segmentations/002.b/y_1.png",
        {"001.a": 2, "002.b": 1},
        {},
        {MASK: 3},
    ),
    "masks beside images": (
        "images/a/1.png images/b/1.png masks/a/1.png masks/b/1.png",
        {"a": 1, "b": 1},
        {},
        {MASK: 2},
    ),
    "images and masks in each class": (
        "a/images/{1,2}.png a/masks/{1,2}.png b/images/1.png b/masks/1.png",
        {"a": 2, "b": 1},
        {},
        {MASK: 3},
    ),
    "masks that people wear": (
        "masks/face{1,2}.png gloves/left{1,2}.png hats/1.png",
        {"gloves": 2, "hats": 1, "masks": 2},
        {},
        {},
    ),
    "a NAS": ("a/1.png a/@eaDir/1.png/SYNO_M.jpg b/1.png #recycle/b/2.png", {"a": 1, "b": 1}, {}, {SYSTEM: 2}),
    "a notebook": ("a/1.png a/.ipynb_checkpoints/1-checkpoint.png b/1.png", {"a": 1, "b": 1}, {}, {"hidden": 1}),
    "macOS": ("a/1.png a/._1.png b/1.png __MACOSX/a/1.png", {"a": 1, "b": 1}, {}, {"hidden": 1, SYSTEM: 1}),
    "Windows": (
        "a/1.png a/Thumbs.db b/1.png desktop.ini System\\ Volume/1.png".replace(
            "System\\ Volume/1.png", "$RECYCLE.BIN/1.png"
        ),
        {"a": 1, "b": 1},
        {},
        {SYSTEM: 3},
    ),
    "lists beside the images": (
        "images/a/1.png images/b/1.png labels.csv README.md",
        {"a": 1, "b": 1},
        {},
        {"not an image": 2},
    ),
    "a download that did not end": (
        "a/1.png a/2.png.crdownload b/1.png",
        {"a": 1, "b": 1},
        {},
        {"unfinished downloads": 1},
    ),
    "raw files of a camera": (
        "a/1.png a/1.NEF b/1.png",
        {"a": 1, "b": 1},
        {},
        {"camera raw; export them as JPEG": 1},
    ),
    "a picture beside the class folders, inside the folder around them": (
        "d/apple/{1,2}.png d/cup/{1,2}.png d/cover.png",
        {"apple": 2, "cup": 2},
        {},
        {LOOSE: 1},
    ),
    "a picture beside the split folders": (
        "d/train/a/{1,2}.png d/test/b/{1,2}.png d/sample.png",
        {"a": 2, "b": 2},
        {"a": "train", "b": "test"},
        {LOOSE: 1},
    ),
    "Kaggle's spelling": ("training_set/a/1.png test_set/b/1.png", {"a": 1, "b": 1}, {"a": "train", "b": "test"}, {}),
    "masks by their file names": (
        "benign/{1,2}.png benign/{1_mask,2_mask}.png normal/3.png normal/3_mask.png",
        {"benign": 2, "normal": 1},
        {},
        {MASK: 3},
    ),
    "masks by their folders' names": (
        "skin_images/a/{1,2}.png skin_images/b/3.png skin_masks/a/{1,2}_segmentation.png",
        {"a": 2, "b": 1},
        {},
        {MASK: 2},
    ),
    "faces and masks for faces": (
        "face/{a,b}.png face_mask/{c,d}.png",
        {"face": 2, "face_mask": 2},
        {},
        {},
    ),
    "a class called crops": (
        "crops/{a,b}.png test/{c,d}.png weeds/{e,f}.png",
        {"crops": 2, "test": 2, "weeds": 2},
        {},
        {},
    ),
    "no suffixes, and other people's": ("a/1 a/2.jpe a/3.jfif b/4.dat", {"a": 3, "b": 1}, {}, {}),
}
TEXT = dict.fromkeys(("labels.csv", "README.md", "Thumbs.db", "desktop.ini"), b"some text\n")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_means_what_a_person_would_say(tmp_path, layout, packed):
    names, classes, splits, skipped = LAYOUTS[layout]
    path = made(tmp_path / "mine", names, TEXT)
    if packed:
        with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
            for file in sorted(path.rglob("*")):
                archive.write(file, file.relative_to(path))
        path = tmp_path / "mine.zip"
    with Source(path, tmp_path) as files:
        images, others = images_of(files)
        found = arrange(images, "here")
    assert {cls: len(group) for cls, group in found.classes.items()} == classes and found.splits == splits
    left = {**files.skipped, **others, **found.skipped}
    told = {reason: len(names) for reason, names in left.items()}
    if not packed and "@eaDir" in names:
        assert told == {SYSTEM: 2}  # the folders: what is in them is not looked at
    else:
        assert told == skipped


QUESTIONS = {
    "nested years": (
        "apple/{2023,2024}/1.png cup/{2023,2024}/1.png",
        r"here: .*the first folders \(2: apple, cup; --class-level 1\) or the second \(4: apple/2023, apple/2024, "
        r"cup/2023, …; --class-level 2\): say which",
        {1: {"apple": 2, "cup": 2}, 2: {"apple/2023": 1, "apple/2024": 1, "cup/2023": 1, "cup/2024": 1}},
    ),
    "kinds and classes": (
        "fruit/apple/1.png fruit/pear/1.png tools/saw/1.png",
        r"\(2: fruit, tools; --class-level 1\) or the second \(3: apple, pear, saw; --class-level 2\)",
        {1: {"fruit": 2, "tools": 1}, 2: {"apple": 1, "pear": 1, "saw": 1}},
    ),
    "Omniglot": (
        "images_background/Greek/character{01,02}/1.png images_evaluation/Latin/character{01,02}/1.png",
        r"\(2: Greek, Latin; .*second \(4: Greek/character01",
        {1: {"Greek": 2, "Latin": 2}},
    ),
    "MVTec": (
        "bottle/train/good/1.png bottle/test/broken/1.png cable/train/good/1.png",
        r"the first folders \(2: bottle, cable; .*the third",
        {1: {"bottle": 2, "cable": 1}},
    ),
    "depths that differ": (
        "a/1.png b/c/2.png",
        r"but a/1\.png does not; its classes may be the first",
        {1: {"a": 1, "b": 1}},
    ),
    "masks among the classes": (
        "apple/{1,2}.png cup/{3,4}.png masks/{1,2,3,4}.png",
        r"folder masks may hold masks of the other images.*--class-level 1",
        {1: {"apple": 2, "cup": 2, "masks": 4}},
    ),
    "a folder of masks for each class": (
        "cat/{1,2}.png cat_mask/{1,2}.png dog/{3,4}.png dog_mask/{3,4}.png",
        r"folder cat_mask may hold masks of the other images.*--class-level 1",
        {1: {"cat": 2, "cat_mask": 2, "dog": 2, "dog_mask": 2}},
    ),
    "years with a picture each": (
        "2023/cat/{1,2}.png 2023/folder.png 2024/dog/{1,2}.png 2024/folder.png",
        r"its classes may be the first folders \(2: 2023, 2024",
        {1: {"2023": 3, "2024": 3}},
    ),
    "split folders without classes": (
        "train/{1,2}.png test/3.png",
        r"hold images themselves, without class folders",
        {},
    ),
    "Roboflow, for detection": ("train/images/{1,2}.png valid/images/3.png", r"class images is in two splits", {}),
    "Roboflow, for classification": ("train/a/1.png valid/a/2.png", r"class a is in two splits \(train, val\)", {}),
    "a category of MVTec": (
        "train/good/1.png test/good/2.png test/bent/3.png ground_truth/bent/3_mask.png",
        r"class good is in two splits",
        {},
    ),
    "split folders beside others": ("train/a/1.png other/b/1.png", r"the split folder train, but other beside it", {}),
}


@pytest.mark.parametrize("layout", QUESTIONS)
def test_where_a_layout_may_mean_two_things_it_is_asked(tmp_path, layout):
    names, question, answers = QUESTIONS[layout]
    found, _ = walk(made(tmp_path / "mine", names))
    with pytest.raises(DataError, match=question):
        arrange(found, "here")
    for level, classes in answers.items():
        assert {cls: len(group) for cls, group in arrange(found, "here", level).classes.items()} == classes


def test_a_level_deeper_than_an_image_is_a_sentence(tmp_path):
    with pytest.raises(DataError, match="a/1.png lies 1 folder deep, so it has no class with --class-level 2"):
        arrange(["a/1.png", "b/c/2.png"], "here", 2)


def test_links_are_followed_but_not_in_circles(tmp_path):
    made(tmp_path / "elsewhere", "1.png 2.png")
    mine = made(tmp_path / "mine", "cup/1.png")
    (mine / "apple").symlink_to(tmp_path / "elsewhere")
    (mine / "cup" / "all").symlink_to(mine)
    (mine / "cup" / "2.png").symlink_to(tmp_path / "elsewhere" / "2.png")
    (mine / "cup" / "3.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(mine / "cup" / "4.png")
    names, skipped = walk(mine)
    assert names == ["apple/1.png", "apple/2.png", "cup/1.png", "cup/2.png"]
    assert {reason: found for reason, found in skipped.items()} == {
        "links that lead nowhere": ["cup/3.png"],
        "FIFOs, sockets or devices": ["cup/4.png"],
        "links to a folder that holds them": ["cup/all"],
    }


def test_what_is_left_out_is_told_with_names_and_numbers(tmp_path, capsys):
    mine = made(
        tmp_path / "mine", "a/1.png b/1.png b/{x,y,z,w}.txt", dict.fromkeys(("x.txt", "y.txt", "z.txt", "w.txt"), b"?")
    )
    folder = Folder(mine, "--support", ImageSpec())
    assert folder.skipped == {"not an image": 4} and folder.classes == ["a", "b"]
    assert "mine: left out 4 files: 4 not an image (b/w.txt, b/x.txt, b/y.txt, b/z.txt)" in capsys.readouterr().err
    assert LooseImages([mine / "b"], ImageSpec()).skipped == {"not an image": 4}


@pytest.mark.parametrize("patched", [False, True])
def test_all_bad_images_are_named_at_once(tmp_path, patched):
    bad = {f"bad{i}.jpg": b"\xff\xd8\xff no" for i in range(25)}
    mine = made(tmp_path / "mine", "a/{1,2}.png b/1.png " + " ".join(f"b/{name}" for name in bad), bad)
    folder = Folder(mine, "--support", ImageSpec())
    with pytest.raises(DataError, match="^25 images cannot be used: .*/mine/b/bad0.jpg: does not decode") as fault:
        if patched:
            folder.patches([3], lambda i, w, h: ([(0, 0, w, h)], [False]), 8)
        else:
            folder.decode(8, only=[0, 3])
    assert str(fault.value).count("mine/b/bad") == 20 and "; and 5 more. Remove or replace them, or" in str(fault.value)
    kept = Folder(mine, "--support", ImageSpec(), Taking(skip_bad=True))
    assert len(kept) == 3 and len(kept.unreadable) == 25 and kept.labels.tolist() == [0, 0, 1]
    assert kept.decode(8)[0].shape == (3, 3, 8, 8)
    (mine / "b" / "1.png").unlink()
    with pytest.raises(DataError, match="class b has no image that can be used"):
        Folder(mine, "--support", ImageSpec(), Taking(skip_bad=True))


def test_a_file_that_changes_meanwhile_is_not_taken_for_what_it_was(tmp_path):
    mine = made(tmp_path / "mine", "a/1.png b/1.png")
    folder = Folder(mine, "--support", ImageSpec())
    (mine / "b" / "1.png").write_bytes(picture(99))
    with pytest.raises(DataError, match="b/1.png: was changed while it was used; run the command again"):
        folder.decode(8)


def test_links_that_multiply_are_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(walk_module, "MAX_FOLDERS", 200)
    for level in range(12):
        (tmp_path / f"l{level}").mkdir()
        for side in "ab":
            (tmp_path / f"l{level}" / side).symlink_to(tmp_path / f"l{level + 1}")
    (tmp_path / "l12").mkdir()
    with pytest.raises(DataError, match="links that multiply them"):
        walk(tmp_path / "l0")


def test_what_a_single_file_is_is_said_as_in_a_folder(tmp_path):
    (tmp_path / "a.cr2").write_bytes(b"II*\0" + bytes(60))
    with pytest.raises(DataError, match="a.cr2: is camera raw; export them as JPEG"):
        LooseImages([tmp_path / "a.cr2"], ImageSpec())

"""Which files of a folder are the pictures of which class, and what is wrong with other arrangements.

Litter of operating systems and notebooks is ignored. A folder that would change the classes, or pictures that
would be left out, are refused with what was found and the command that helps.
"""

import collections
import os
import pathlib
import shlex
import unicodedata
from collections.abc import Iterable

from resjax.data.config import no_such

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm",
            ".pgm", ".pbm", ".pnm")  # fmt: skip
# Pictures that Pillow reads in part, or not everywhere: leaving them out would change the set.
UNREAD = (".heic", ".heif", ".avif", ".jp2", ".svg", ".psd", ".tga", ".exr", ".hdr", ".dng", ".nef", ".cr2",
          ".arw", ".dcm")  # fmt: skip
TEST_NAMES = ("test", "val", "valid", "validation")
_HOLD_OUT = "--config.data.holdout=N"
NEEDED = "needed: train/CLASS/*.jpg and test/CLASS/*.jpg (or val/)"
# Files by which the original form of a known set is recognized, and its name.
_ORIGINALS = {"data_batch_1.bin": "cifar10", "train-images-idx3-ubyte.gz": "mnist"}
_LITTER = ("__macosx", "__pycache__", "@eadir", "thumbs.db", "desktop.ini", "lost+found", "$recycle.bin",
           "system volume information")  # fmt: skip


class Listing:
    """What one folder holds, without litter: `folders`, `pictures` and `others`, sorted by name."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.folders: list[pathlib.Path] = []
        self.pictures: list[pathlib.Path] = []
        self.others: list[pathlib.Path] = []
        # scandir knows folders from files without asking for each, which takes long for a million files.
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.startswith(".") or entry.name.lower() in _LITTER:
                    continue
                child = path / entry.name
                if entry.is_dir():
                    self.folders.append(child)
                elif not entry.is_file():
                    raise _no_file(child)
                else:
                    (self.pictures if child.suffix.lower() in SUFFIXES else self.others).append(child)

    def __str__(self) -> str:
        """Such as '2 folders (cat, dog), 40 .jpg, 1 .csv', or 'nothing'."""
        kinds = collections.Counter(file.suffix or file.name for file in (*self.pictures, *self.others))
        parts = [f"{count:,} {kind}" for kind, count in kinds.most_common(5)]
        if self.folders:
            folders = f"folder{'s' if len(self.folders) > 1 else ''}"
            parts.insert(0, f"{len(self.folders):,} {folders} ({some(f.name for f in self.folders)})")
        return ", ".join(parts) or "nothing"


def _no_file(path: pathlib.Path) -> ValueError:
    """The error for a pipe, whose reading may never end, or for a link to a file or folder that is not there,
    which would be left out."""
    if path.is_symlink():
        return ValueError(
            f"{path} is a link to {path.readlink()}, which is missing or cannot be reached: restore that, or "
            f"remove the link: rm {quoted(path)}"
        )
    return ValueError(f"{path} is a pipe, socket or device, and no file: remove it: rm {quoted(path)}")


def some(names: Iterable[object], most: int = 8) -> str:
    """Up to `most` names with commas, and '…' for the rest."""
    every = [str(name) for name in names]
    return ", ".join([*every[:most], *(["…"] if len(every) > most else [])])


def quoted(*paths: pathlib.Path) -> str:
    """Paths for a shell command."""
    return shlex.join(map(str, paths))


def parts(root: pathlib.Path, given: str) -> tuple[pathlib.Path, pathlib.Path | None]:
    """The folders of training and of test pictures under `root`; None where only the second is missing.

    Raises:
      FileNotFoundError: `root` is no folder, or has no train/.
    """
    if root.is_file():
        raise FileNotFoundError(
            f"data.name={given!r} is a file, neither an .npz file nor a folder; {NEEDED}. "
            "Unpack an archive first"
        )
    if not root.is_dir():
        raise FileNotFoundError(f"{no_such(given, 'folder')}; {NEEDED}")
    found = {folder.name: folder for folder in Listing(root).folders}
    if "train" not in found:
        raise FileNotFoundError(f"{root} holds {Listing(root)}; {NEEDED}.{_rearranged(root)}")
    return found["train"], next((found[name] for name in TEST_NAMES if name in found), None)


def without_test(root: pathlib.Path) -> FileNotFoundError:
    """The error for a folder that has train/ only."""
    renamed = _parts_named(root, *TEST_NAMES)
    remedy = f". Or rename {renamed[0].name}/: mv {quoted(renamed[0], root / 'test')}" if renamed else ""
    return FileNotFoundError(
        f"{root} holds {Listing(root)}; {NEEDED}. Without test pictures, evaluate on N training pictures "
        f"that are held out: {_HOLD_OUT}{remedy}"
    )


def _rearranged(root: pathlib.Path) -> str:
    """How a folder without train/ becomes a data set, as a sentence after a blank; '' if that is unclear."""
    here = Listing(root)
    folders = here.folders
    for name in {file.name for file in here.others} & _ORIGINALS.keys():
        command = f"python -m resjax.data.prepare {_ORIGINALS[name]} --source={quoted(root)}"
        return f" Prepare these original files: {command}"
    for folder in folders:
        if (folder / "train").is_dir():
            return f" {folder.name}/ has them: --config.data.name={quoted(folder)}"
    if train := _parts_named(root, "train"):
        test = [f for f in _parts_named(root, *TEST_NAMES) if f != train[0] and f.name not in TEST_NAMES]
        renamed = f" && mv {quoted(test[0], root / 'test')}" if test else ""
        return f" Rename it: mv {quoted(train[0], root / 'train')}{renamed}"
    if folders and all(Listing(folder).pictures for folder in folders):
        # A hidden folder at first, which */ leaves out.
        return (
            " These folders have pictures, but which are for training? Make all of them training pictures:\n"
            f"  cd {quoted(root)} && mkdir .train && mv -- */ .train && mv .train train\n"
            f"and hold N of them out for evaluation with {_HOLD_OUT}"
        )
    if test := [folder for folder in _parts_named(root, *TEST_NAMES) if folder.name in TEST_NAMES]:
        return (
            f" Without training pictures, evaluate on N of those in {test[0].name}/: "
            f"mv {quoted(test[0], root / 'train')}, then {_HOLD_OUT}"
        )
    return ""


def _parts_named(root: pathlib.Path, *words: str) -> list[pathlib.Path]:
    """Folders of folders whose names contain one of `words`."""
    named = [f for f in Listing(root).folders if any(word in f.name.lower() for word in words)]
    return [folder for folder in named if Listing(folder).folders]


def classes(part: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """{class: pictures} of train/ or test/; a class has none where its folder has none.

    The pictures of a class are in its folder, or in one folder there that has the same name in all classes,
    as train/CLASS/images/ in Tiny ImageNet.

    Raises:
      ValueError: there are no class folders, or pictures where none should be.
    """
    here = Listing(part)
    if not here.folders:
        message = f"{part} has no class folders, but {here}; put the pictures into {part}/CLASS/"
        if part.name != "train" and here.pictures:
            away = quoted(part, part.with_name(f"unlabelled_{part.name}"))
            message += f". If they have no labels, hold out training pictures: mv {away}, then {_HOLD_OUT}"
        raise ValueError(message)
    if here.pictures:
        raise ValueError(
            f"{part} holds pictures beside its class folders: {len(here.pictures):,} "
            f"({some((f.name for f in here.pictures), 3)}). Move them into the "
            f"folders of their classes, or out of {part}"
        )
    found: dict[str, list[pathlib.Path]] = {}
    inner: dict[str, pathlib.Path] = {}  # a class for each name
    for folder in here.folders:
        found[folder.name], deeper = _pictures(folder)
        if deeper:
            inner.setdefault(deeper, folder)
    if len(inner) > 1:
        raise ValueError(
            f"{part} has classes whose pictures are one folder deeper, in folders of different names "
            f"({some(f'{folder.name}/{name}' for name, folder in inner.items())}). If these are "
            f"the classes, move them up: mv {quoted(part)}/*/* {quoted(part)} && "
            f"find {quoted(part)} -type d -empty -delete"
        )
    return found


def _pictures(folder: pathlib.Path) -> tuple[list[pathlib.Path], str]:
    """The pictures of one class, and the name of the folder inside its folder that holds them ('' = none)."""
    here = Listing(folder)
    _all_read(here)
    inner = [Listing(f) for f in here.folders if _has_pictures(f)]
    if not inner:
        return here.pictures, ""
    deep = some(i.path.name for i in inner)
    if here.pictures:
        raise ValueError(
            f"{folder} holds {here}, with pictures in {deep}, too. If they belong to the class, move them "
            f"into {folder}; else move {deep} out of it"
        )
    if len(inner) > 1 or any(_has_pictures(f) for f in inner[0].folders):
        raise ValueError(
            f"{folder} is one class, but holds {here}, with pictures in {deep}. "
            f"If these are parts of the class, move their pictures into {folder}. If they are classes, move "
            f"them up: mv {quoted(folder)}/* {quoted(folder.parent)} && rmdir {quoted(folder)}"
        )
    _all_read(inner[0])
    return inner[0].pictures, inner[0].path.name


def _has_pictures(folder: pathlib.Path) -> bool:
    """Whether there are pictures at any depth. Links may lead to folders above or to one many times."""
    waiting = [folder]
    seen: set[pathlib.Path] = set()
    while waiting:
        place = waiting.pop().resolve()
        if place in seen:
            continue
        seen.add(place)
        here = Listing(place)
        if here.pictures:
            return True
        waiting += here.folders
    return False


def _all_read(here: Listing) -> None:
    unread = [file for file in here.others if file.suffix.lower() in UNREAD]
    if unread:
        raise ValueError(
            f"{here.path} holds files that would be left out: {len(unread):,} "
            f"({some((f.name for f in unread), 3)}). Convert them, e.g. to .png, or move them away. Read are "
            f"{', '.join(SUFFIXES)}"
        )


def empty_class(folder: pathlib.Path) -> ValueError:
    """The error for a class of train/ that has no pictures."""
    here = Listing(folder)
    nothing = not here.folders and not here.others
    gone = f"rm -r {quoted(folder)}" if nothing else f"mv {quoted(folder, folder.parent.parent)}"
    return ValueError(
        f"{folder} would be a class, but holds no pictures ({', '.join(SUFFIXES)}): it holds {here}. "
        f"Put pictures into it, or remove it: {gone}"
    )


def strange_classes(test: pathlib.Path, strange: list[str], names: list[str]) -> ValueError:
    """The error for classes of test/ that train/ lacks."""
    message = (
        f"{test} has classes that {test.parent / 'train'} lacks: {some(strange)}; there are {some(names)}."
    )
    table = test / "val_annotations.txt"
    same = {unicodedata.normalize("NFC", name): name for name in names}
    if strange == ["images"] and table.is_file():
        message += (
            " Sort the pictures into class folders: "
            f'cd {quoted(test)} && while read -r file class _; do mkdir -p "$class" && '
            f'mv "images/$file" "$class/"; done < {table.name} && rmdir images'
        )
    elif alike := [name for name in strange if unicodedata.normalize("NFC", name) in same]:
        moved = quoted(test / alike[0], test / same[unicodedata.normalize("NFC", alike[0])])
        message += f" They differ in how accents are stored, as after copying from a Mac: mv {moved}"
    elif len(strange) == 1 and not {*names} & {f.name for f in Listing(test).folders}:
        unlabelled = test.with_name(f"unlabelled_{test.name}")
        message += f" Are these pictures without labels? Rename the folder: mv {quoted(test, unlabelled)}"
    else:
        message += " Move these folders away, or add training pictures of these classes"
    return ValueError(message)

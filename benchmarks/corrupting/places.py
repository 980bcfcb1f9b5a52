"""Folders and links in the way of the raw files."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.corrupting.good import FORMATS, ending
from benchmarks.corrupting.scene import Scene, Spoil, Variant, variants


def place_variants() -> list[Variant]:
    """The variants of every format."""
    spoils: dict[str, Spoil] = {
        "dangling link": lambda scene: _other(scene, "d").symlink_to("nowhere"),
        "link to itself": lambda scene: _other(scene, "d").symlink_to(_other(scene, "d").name),
        "link to a file": lambda scene: _other(scene, "d").symlink_to(scene.victim.name),
        "link to the folder": lambda scene: (scene.folder / "loop").symlink_to("."),
        "link to a folder of files": _linked_folder,
        "folder with a file's name": _folder_of_parts,
        "empty folder with a file's name": lambda scene: _other(scene, "d").mkdir(),
        "pipe": lambda scene: os.mkfifo(_other(scene, "d")),
        "line break in the name": lambda scene: _renamed(scene, "c\nd"),
        "percent and space in the name": lambda scene: _renamed(scene, "c %20+é"),
        "bytes in the name": _bytes_in_the_name,
        "long name": lambda scene: _renamed(scene, "c" * 200),
    }
    return [each for kind in FORMATS for each in variants(kind, "folders and links", spoils)]


def _other(scene: Scene, name: str) -> Path:
    return scene.folder / f"{name}{ending(scene.kind)}"


def _renamed(scene: Scene, name: str) -> None:
    scene.victim.rename(_other(scene, name))


def _linked_folder(scene: Scene) -> None:
    elsewhere = scene.folder.parent / "elsewhere"
    elsewhere.mkdir()
    scene.victim.rename(elsewhere / scene.victim.name)
    (scene.folder / "linked").symlink_to(elsewhere)


def _folder_of_parts(scene: Scene) -> None:
    content = scene.victim.read_bytes()
    scene.victim.unlink()
    scene.victim.mkdir()
    (scene.victim / f"part-0{ending(scene.kind)}").write_bytes(content)


def _bytes_in_the_name(scene: Scene) -> None:
    """A name that is not UTF-8."""
    folder = os.fsencode(scene.folder)
    os.rename(scene.victim, folder + b"/c\xff" + ending(scene.kind).encode())  # noqa: PTH104 (pathlib takes no bytes)

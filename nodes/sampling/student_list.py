"""The students that ComfyUI's folders hold, each under a name that is of no other."""

import os
from dataclasses import dataclass
from pathlib import Path

import folder_paths

from ..host import say

WHOLE, LORA = "diffusion_models", "loras"  # folders of ComfyUI, and of its output


@dataclass(frozen=True)
class Root:
    """One of the places that a folder of ComfyUI has; label: what a user calls it, as output/loras."""

    folder: str
    path: Path
    label: str

    def named(self, name: str) -> str:
        return f"{self.label}/{name}"

    def file(self, name: str) -> Path | None:
        """The file of that name, which is none outside."""
        path = self.path / os.path.relpath(os.path.join("/", name), "/")
        return path if path.is_file() else None


def students() -> list[str]:
    """What all files that may be one are chosen by: as a rule, their name in their folder.

    Where several places have a file of one name, the place is a part of it, as in output/loras/NAME.
    """
    roots = _roots()
    whole, lora = (folder_paths.get_filename_list(folder) for folder in (WHOLE, LORA))
    unclear = {*whole} & {*lora} | _in_several(roots)
    chosen: list[str] = []
    for name in dict.fromkeys([*whole, *lora]):
        is_label = any(name.startswith(root.named("")) for root in roots)
        holders = [root for root in roots if root.file(name)] if is_label or name in unclear else []
        chosen += [root.named(name) for root in holders] if is_label or len(holders) > 1 else [name]
    return chosen


def find_student(chosen: str) -> Path | None:
    """The file that is chosen so. A name that several places have is, without the place, of the first whole model, as
    it always was. Names with the other system's separators are understood."""
    roots = _roots()
    for name in (chosen, chosen.replace("\\", "/"), chosen.replace("/", "\\")):
        for root in roots:
            if name.startswith(root.named("")) and (file := root.file(name.removeprefix(root.named("")))):
                return file
        for folder in (WHOLE, LORA):
            if file := folder_paths.get_full_path(folder, name):
                return Path(file)
    return None


def _roots() -> list[Root]:
    """Each place once, the whole models' first, under labels that are all different."""
    roots: dict[Path, Root] = {}
    for folder in (WHOLE, LORA):
        for path in map(Path, folder_paths.get_folder_paths(folder)):
            if path.is_dir() and path.resolve() not in roots:
                taken = {root.label for root in roots.values()}
                number, label = 1, _label(path)
                while label in taken:
                    number += 1
                    label = f"{_label(path)} ({number})"
                roots[path.resolve()] = Root(folder, path, label)
    return list(roots.values())


def _label(path: Path) -> str:
    """output/loras, models/loras, or the last two names of a folder elsewhere."""
    said = say.shown(path)
    return said if said != str(path) else f"{path.parent.name}/{path.name}"


def _in_several(roots: list[Root]) -> set[str]:
    """Names that several places of one folder have. Looks through all but the first, which most files lie in."""
    found: set[str] = set()
    for folder in (WHOLE, LORA):
        places = [root for root in roots if root.folder == folder]
        for i, root in enumerate(places[1:], 1):
            names = folder_paths.recursive_search(str(root.path), excluded_dir_names=[".git"])[0]
            found |= {name for name in names if any(other.file(name) for other in places[:i])}
    return found

"""The students that ComfyUI's folders hold, each under a name that is of no other."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ..host import say

WHOLE, LORA = "diffusion_models", "loras"  # folders of ComfyUI, and of its output


def students() -> dict[str, Path | None]:
    """All files that may be one, by the name to choose them by: as a rule, that of the file in its folder.

    Where several folders have a file of one name, the folder is a part of it, as in output/loras/NAME. None is for a
    file that ComfyUI finds by its name in the folder (see `find_student`): looking for each of thousands takes long.
    """
    places = [place for folder in (WHOLE, LORA) for place in _places(folder)]
    often = Counter(name for _, _, name in places)
    found: dict[str, Path | None] = {}
    for folder, root, name in places:
        if often[name] == 1:
            found[name] = None
        elif path := _path(folder, root, name):
            label = f"{_label(path, name)}/{name}"
            found[label if label not in found else f"{label} ({len(found)})"] = path
    return found


def find_student(chosen: str) -> Path | None:
    """The file of that name. One that several folders have is, without its folder, the whole model, as it always was.

    A name with the other system's separators is of the same file.
    """
    named = students()
    for name in (chosen, chosen.replace("\\", "/"), chosen.replace("/", "\\")):
        path = named.get(name) or _path(WHOLE, None, name) or _path(LORA, None, name)
        if path:
            return path
    return None


def _places(folder: str) -> Iterator[tuple[str, Path | None, str]]:
    """(folder, root, name) of all its files; the root is None for names that only one of its roots has."""
    roots = {Path(root).resolve(): Path(root) for root in folder_paths.get_folder_paths(folder) if Path(root).is_dir()}
    distinct = list(roots.values())
    listed = folder_paths.get_filename_list(folder)
    several: dict[str, list[Path]] = {}
    for root in distinct[1:]:
        for name in folder_paths.recursive_search(str(root), excluded_dir_names=[".git"])[0]:
            several[name] = [each for each in distinct if (each / name).is_file()]
    for name in listed:
        holders = several.get(name, [])
        yield from ((folder, root, name) for root in (holders if len(holders) > 1 else [None]))


def _path(folder: str, root: Path | None, name: str) -> Path | None:
    if root is not None:
        return root / name
    found = folder_paths.get_full_path(folder, name)
    return Path(found) if found else None


def _label(path: Path, name: str) -> str:
    """What a user calls the folder that a name is of: output/loras, or the last two names of one elsewhere."""
    root = path
    for _ in Path(name).parts:
        root = root.parent
    said = say.shown(root)
    return said if said != str(root) else f"{root.parent.name}/{root.name}"

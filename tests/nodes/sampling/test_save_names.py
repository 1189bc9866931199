"""Where a student is saved, out of what is typed: where the loaders look, under a name of its own, or nowhere."""

import multiprocessing
import threading
from datetime import datetime
from pathlib import Path, PurePosixPath

import pytest

NOW = datetime(2026, 3, 7, 9, 5, 8)
PROMPT = {
    "1": {"class_type": "KSampler", "inputs": {"seed": 12, "cfg": 7.0, "denoise": 0.25, "model": ["2", 0]}},
    "2": {"class_type": "Text", "inputs": {"text": "a/b: c?", "flag": True}, "_meta": {"title": "My Node"}},
    "3": {"class_type": "Other", "inputs": {}, "_meta": None},
}


def where(prefix: str, output: Path = Path("/comfy/output")) -> str:
    from sid_pack.nodes.sampling.save_names import place

    return str(place(prefix, output))


@pytest.mark.parametrize(
    ("prefix", "file"),
    [
        ("sid_student", "sid_student"),
        ("cats/red", "cats/red"),
        (r"cats\red", "cats/red"),
        ("./cats//red/", "cats/red"),
        ("loras/red", "red"),
        ("diffusion_models/cats/red", "cats/red"),
        ("loras", "loras"),
        ('"cats/red"', "cats/red"),
        (" red ", "red"),
        ("red. .", "red"),
        ("cats./red", "cats/red"),
        ("v1.5 größe 赤", "v1.5 größe 赤"),
        ("100%", "100%"),
        ("/comfy/output/loras/red", "red"),
        ("CONE/auxiliary", "CONE/auxiliary"),
    ],
)
def test_a_name_is_a_file_where_the_loaders_look(prefix, file, comfyui):
    assert where(prefix) == file


@pytest.mark.parametrize(
    "prefix",
    ["", "  ", ".", "/", '""', "..", "../x", "x/../../y", "...", "/etc/x", "//server/x", r"\\server\x", "C:/x", "x:y"]
    + ["CON", "nul.txt", "cats/COM1", "lpt¹/x", "a<b", 'a"b', "a|b", "a?", "a*", "a\0b", "a\nb", "a\x7f", ".hidden"]
    + [".git/x", "x" * 201, "赤" * 67, "\ud800", "/comfy/output/../x", "/comfy/outputs/x", "%date:hh:mm%"],
)
def test_what_can_be_no_file_everywhere_is_refused_in_words(prefix, comfyui):
    from sid_pack.sid_core.words import printable

    with pytest.raises(ValueError, match="Type a plain name into filename_prefix") as refused:
        where(prefix)
    assert len(printable(str(refused.value))) < 300


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("a_%date:yyyy-MM-dd%", "a_2026-03-07"),
        ("%date:yy/M/d h-m-s hhmmss%", "26/3/7 9-5-8 090508"),
        ("%year%-%month%-%day%_%hour%%minute%%second%", "2026-03-07_090508"),
        ("%KSampler.seed%_%KSampler.cfg%_%KSampler.denoise%", "12_7_0.25"),
        ("%My Node.text%", "a_b_ c_"),
        ("%My Node.flag%", "true"),
        *((same, same) for same in ("%KSampler.model%", "%KSampler.none%", "%Nobody.text% %Other.x%")),
        ("%width% 50% of %x%", "%width% 50% of %x%"),
    ],
)
def test_dates_and_other_nodes_widgets_are_filled_in(prefix, expected, comfyui):
    """As ComfyUI's frontend does for its own save nodes (formatDate and applyTextReplacements)."""
    from sid_pack.nodes.sampling.save_names import expanded

    assert expanded(prefix, NOW, PROMPT) == expected


def test_numbers_go_on_from_those_of_either_kind(comfyui, tmp_path):
    from sid_pack.nodes.sampling.save_names import numbered_names

    for file in ("loras/a_00007_.safetensors", "diffusion_models/A_00011_.safetensors", "loras/ab_00099_.safetensors"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    (tmp_path / "loras" / "a_x_.safetensors").touch()
    assert next(numbered_names(tmp_path, PurePosixPath("a"))) == "a_00012_.safetensors"
    assert next(numbered_names(tmp_path, PurePosixPath("cats/a"))) == "a_00001_.safetensors"


def save_some(folder: Path, mark: float, start) -> None:
    import torch

    from sid_pack.sid_core.files.tensors import write_new_tensors

    start.wait(30)
    for _ in range(10):
        names = (f"a_{i:05}_.safetensors" for i in range(1, 1000))
        path = write_new_tensors(folder, names, {"w": torch.full((100,), mark)}, {})
        (folder / f"{path.name}.{mark}").touch()  # what this one would say it has saved


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_savers_at_once_never_write_one_file(kind, tmp_path):
    from safetensors.torch import load_file

    if kind == "threads":
        start = threading.Barrier(4)
        savers = [threading.Thread(target=save_some, args=(tmp_path, float(i), start)) for i in range(4)]
    else:
        context = multiprocessing.get_context("fork")
        start = context.Barrier(4)
        savers = [context.Process(target=save_some, args=(tmp_path, float(i), start)) for i in range(4)]
    for saver in savers:
        saver.start()
    for saver in savers:
        saver.join(60)
    said = sorted(file.name.rsplit(".", 2)[0] for file in tmp_path.glob("*.?.0"))
    assert said == [f"a_{i:05}_.safetensors" for i in range(1, 41)]
    for claim in tmp_path.glob("*.?.0"):
        name, mark = claim.name.rsplit(".", 2)[0], float(claim.name.rsplit(".", 2)[1])
        assert (load_file(tmp_path / name)["w"] == mark).all()
    assert not list(tmp_path.glob(".*"))


# Through the node, and back


@pytest.fixture
def output(comfyui, tmp_path, monkeypatch):
    """A ComfyUI output folder of this test alone, whose loras and diffusion_models are lists, as main.py makes them."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    for kind in ("loras", "diffusion_models"):
        (tmp_path / "output" / kind).mkdir(parents=True)
        # Of all that there is in a test run, models and this output alone.
        models = str(Path(folder_paths.models_dir) / kind)
        places = ([models, str(tmp_path / "output" / kind)], folder_paths.supported_pt_extensions)
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, places)
    folder_paths.filename_list_cache.clear()
    yield tmp_path / "output"
    folder_paths.filename_list_cache.clear()


def listed() -> list[str]:
    import folder_paths

    from sid_pack.nodes.sampling.student_list import students

    folder_paths.filename_list_cache.clear()
    return sorted(name for name in students() if "student" in name)


def test_the_node_says_where_it_saved_by_a_short_path_and_the_loader_finds_it(run_graph, output):
    from graphs import node

    prefix = r"%date:yyyy%\%SiDDemoModel.weights%"
    save = node("SiDSaveStudent", model=["demo", 0], filename_prefix=prefix, precision="float16")
    graph = {"demo": node("SiDDemoModel", weights="student, 4 steps"), "saved": save}
    result = run_graph(graph)
    assert result.success, result.error
    name = f"{datetime.now().year}/student, 4 steps_00001_.safetensors"
    assert Path(result.value("saved")) == output / "loras" / name
    (said,) = result.outputs["saved"]["text"]
    assert said.startswith(f"saved output/loras/{name} (") and str(output) not in said
    assert listed() == [name]
    for prefix in ("../x", "CON", ""):
        save["inputs"]["filename_prefix"] = prefix
        assert "Type a plain name into filename_prefix" in run_graph(graph).error
    assert sum(file.is_file() for file in output.parent.rglob("*")) == 1


def test_a_link_within_output_leads_no_student_out_of_it(run_graph, output, tmp_path):
    from graphs import node

    (tmp_path / "elsewhere").mkdir()
    (output / "loras" / "out").symlink_to(tmp_path / "elsewhere")
    save = node("SiDSaveStudent", model=["demo", 0], filename_prefix="out/x", precision="float16")
    result = run_graph({"demo": node("SiDDemoModel", weights="student, 4 steps"), "saved": save})
    assert "Take another filename_prefix" in result.error
    assert not list((tmp_path / "elsewhere").iterdir())


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_two_students_of_one_name_are_listed_apart_and_each_is_found(output):
    from sid_pack.nodes.sampling.student_list import find_student

    lora, whole = put(output / "loras" / "student_1"), put(output / "diffusion_models" / "student_1")
    assert listed() == []  # by their extension
    lora, whole = (put(path.with_suffix(".safetensors")) for path in (lora, whole))
    alone = put(output / "loras" / "cats" / "student_2.safetensors")
    names = ["cats/student_2", "output/diffusion_models/student_1", "output/loras/student_1"]
    names = [f"{name}.safetensors" for name in names]
    assert listed() == names
    assert [find_student(name) for name in names] == [alone, whole, lora]
    assert find_student("student_1.safetensors") == whole  # as a graph of before says it
    assert find_student(r"cats\student_2.safetensors") == alone
    assert find_student("output/loras/cats/student_2.safetensors") == alone  # as it was chosen while there was another
    assert find_student("output/loras/../diffusion_models/student_1.safetensors") is None
    assert find_student("student_3.safetensors") is None and find_student("../loras/cats/student_2.safetensors") is None


def test_one_name_in_models_and_output_is_two_students(output, comfyui):
    import folder_paths

    from sid_pack.nodes.sampling.student_list import find_student

    mine = put(output / "loras" / "student_1.safetensors")
    first = put(Path(folder_paths.models_dir) / "loras" / "student_1.safetensors")
    try:
        names = ["models/loras/student_1.safetensors", "output/loras/student_1.safetensors"]
        assert listed() == names
        assert [find_student(name) for name in names] == [first, mine]
        assert find_student("student_1.safetensors") == first
    finally:
        first.unlink()


def test_folders_elsewhere_are_called_by_their_last_names_and_one_folder_twice_is_one(output, comfyui, tmp_path):
    import folder_paths

    roots = [tmp_path / disk / "SD" / "Lora" for disk in ("a", "b")]
    files = [put(root / "student_1.safetensors") for root in roots]
    (tmp_path / "again").symlink_to(roots[0])
    added = [*roots, tmp_path / "again"]
    for root in added:
        folder_paths.add_model_folder_path("loras", str(root))
    try:
        from sid_pack.nodes.sampling.student_list import find_student

        names = listed()
        assert names == ["SD/Lora (2)/student_1.safetensors", "SD/Lora/student_1.safetensors"]
        assert sorted(find_student(name) for name in names) == files
    finally:
        for root in added:
            folder_paths.folder_names_and_paths["loras"][0].remove(str(root))

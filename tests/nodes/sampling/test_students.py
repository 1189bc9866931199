import errno
from pathlib import Path

import pytest
import torch
from graphs import demo, node, shown
from safetensors.torch import load_file, save_file


def saved(prefix: str, precision: str = "float16") -> dict:
    save = node("SiDSaveStudent", model=["demo", 0], filename_prefix=prefix, precision=precision)
    return {"demo": node("SiDDemoModel", weights="student, 4 steps"), "saved": save}


def save(run_graph, prefix: str, precision: str = "float16") -> Path:
    result = run_graph(saved(prefix, precision))
    assert result.success, result.error
    return Path(result.value("saved"))


def loaded(file: str) -> dict:
    generate = node(
        "SiDGenerate",
        model=["student", 0],
        positive=["positive", 0],
        seed=5,
        width=64,
        height=64,
        batch_size=2,
        steps=0,
        t_init=0.0,
        noise_mode="as trained",
    )
    student = node("SiDLoadStudent", model=["demo", 0], student=file)
    return demo() | {"student": student, "generated": generate} | shown(["generated", 0])


@pytest.fixture
def students_folder(comfyui, tmp_path) -> Path:
    """A folder of diffusion models, as main.py has one in output/."""
    import folder_paths

    folder_paths.add_model_folder_path("diffusion_models", str(tmp_path))
    yield tmp_path
    folder_paths.folder_names_and_paths["diffusion_models"][0].remove(str(tmp_path))


def load(run_graph, folder: Path, name: str):
    import folder_paths

    folder_paths.filename_list_cache.clear()
    return run_graph(loaded(name))


def test_a_student_comes_back_as_it_was(run_graph, students_folder):
    path = save(run_graph, "students/emoji", "float32")
    path.rename(students_folder / "emoji.safetensors")
    result = load(run_graph, students_folder, "emoji.safetensors")
    assert result.success, result.error
    live = demo("student, 4 steps") | loaded("emoji.safetensors")
    live["demo"] = node("SiDDemoModel", weights="student, 4 steps")
    live["generated"]["inputs"]["model"] = ["demo", 0]
    del live["student"]
    direct = run_graph(live).value("generated")["samples"]
    torch.testing.assert_close(result.value("generated")["samples"], direct, rtol=0, atol=1e-6)
    teacher = loaded("emoji.safetensors") | {"student": node("SiDDemoModel", weights="teacher")}
    teacher["generated"]["inputs"]["steps"] = 4
    assert (run_graph(teacher).value("generated")["samples"] - direct).abs().mean() > 0.05


def test_no_file_is_replaced(run_graph):
    first, second = save(run_graph, "students/twice", "float32"), save(run_graph, "students/twice", "float16")
    assert first != second and first.exists() and second.exists()


def test_a_full_disk_leaves_the_previous_file(run_graph, comfyui, monkeypatch, tmp_path):
    from sid_pack.nodes.demo import model as demo_model
    from sid_pack.nodes.sampling import students
    from sid_pack.sid_core.files import tensors

    model, _, _ = demo_model.load_demo("student_4_steps.safetensors")
    path = tmp_path / "student.safetensors"
    path.write_bytes(b"the previous file")

    def full(tensors, file, metadata):
        Path(file).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tensors, "save_file", full)
    with pytest.raises(OSError, match="Free some space"):
        tensors.write_tensors(path, students.student_tensors(model, torch.float16, merge=False)[1], {})
    assert path.read_bytes() == b"the previous file"
    assert [file.name for file in tmp_path.iterdir()] == ["student.safetensors"]


@pytest.mark.parametrize("kept", [0, 5, 1000, 500_000])
def test_a_truncated_file_is_refused(run_graph, students_folder, kept):
    path = save(run_graph, "students/cut")
    (students_folder / "cut.safetensors").write_bytes(path.read_bytes()[:kept])
    result = load(run_graph, students_folder, "cut.safetensors")
    assert not result.success
    assert "cut.safetensors" in result.error and "truncated" in result.error


def test_a_foreign_file_is_refused(run_graph, students_folder):
    save_file({"lora_up.weight": torch.zeros(2, 2)}, students_folder / "lora.safetensors")
    result = load(run_graph, students_folder, "lora.safetensors")
    assert not result.success
    assert "Choose a student of this base" in result.error


def test_a_student_of_another_base_is_refused(run_graph, students_folder):
    path = save(run_graph, "students/base")
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    metadata["sid.base"] = '"SDXL-1680-00000000"'
    save_file(load_file(path), students_folder / "sdxl.safetensors", metadata)
    result = load(run_graph, students_folder, "sdxl.safetensors")
    assert not result.success
    assert "SDXL-1680-00000000" in result.error and "DemoModel" in result.error


def test_only_students_are_saved_as_students(run_graph):
    graph = saved("students/teacher")
    graph["demo"] = node("SiDDemoModel", weights="teacher")
    result = run_graph(graph)
    assert not result.success
    assert "not a SiD student" in result.error


@pytest.mark.parametrize("name", ["", "gone.safetensors"])
def test_no_student_says_where_to_put_one(name, run_graph):
    result = run_graph(loaded(name))
    assert not result.success
    assert name in result.error
    assert "output/diffusion_models" in result.error

"""SiD Evaluate in ComfyUI with the demo's models: its numbers, what is kept, and what it refuses."""

import json

import pytest
import torch
from graphs import demo, node
from safetensors.torch import load_file

from sid_pack.sid_core.evaluation.distances import kernel_distance
from sid_pack.sid_core.evaluation.variety import mean_pair_distance

WORDS = ("red apple", "grinning face", "rocket", "dog", "cat", "sun", "tree", "house")


def evaluated(**changes):
    """The demo's two students and its teacher, very small; None takes an input out."""
    settings = {
        "prompts": ["prompts", 0],
        "clip": ["demo", 1],
        "vae": ["demo", 2],
        "latent": ["latent", 0],
        "samples": 16,
        "per_prompt": 2,
        "steps": "0",
        "teacher_steps": 4,
        "sampler_name": "euler",
        "scheduler": "sgm_uniform",
        "batch_size": 8,
        "seed": 5,
        "name": "test",
        "labels": "",
        "teacher": ["guider", 0],
        "clip_vision": ["demo", 3],
        "student_1": ["four", 0],
    }
    settings = {name: value for name, value in (settings | changes).items() if value is not None}
    return {
        **demo(),
        "four": node("SiDDemoModel", weights="student, 4 steps"),
        "one": node("SiDDemoModel", weights="student, 1 step"),
        "guider": node(
            "SiDLSGGuider", model=["demo", 0], positive=["positive", 0], negative=["negative", 0], guidance_scale=1.5
        ),
        "prompts": node("SiDPrompts", text="\n".join(WORDS), file=""),
        "evaluated": node("SiDEvaluate", **settings),
    }


@pytest.fixture
def features(comfyui, tmp_path, monkeypatch):
    """The folder that features are kept in."""
    from sid_pack.nodes.evaluation import node as evaluate

    monkeypatch.setattr(evaluate, "features_folder", lambda: tmp_path / "features")
    return tmp_path / "features"


@pytest.fixture
def drawn(comfyui, monkeypatch) -> list[str]:
    """Whose batches were drawn; the pictures to look at are one too."""
    from sid_pack.nodes.evaluation.contenders import Contender

    plain, labels = Contender.draw, []

    def noted(self, *args):
        labels.append(self.label)
        return plain(self, *args)

    monkeypatch.setattr(Contender, "draw", noted)
    return labels


def metrics(result) -> dict[str, dict]:
    assert result.success, result.error
    return {row["model"]: row["metrics"] for row in json.loads(result.value("evaluated", 3))["models"]}


def of(folder, count: int) -> torch.Tensor:
    files = [file for file in sorted(folder.glob("*.safetensors")) if file.stem != "shown"]
    return torch.cat([load_file(file)["features"] for file in files])[:count]


def test_numbers_are_those_of_the_features_and_stand_beside_what_they_are_from(run_graph, features, comfyui):
    result = run_graph(evaluated(student_2=["one", 0], labels="four, one"))
    found = metrics(result)
    assert list(found) == ["teacher, 4 steps", "four, 4 steps", "one, 1 step"]
    # One forward a step; guidance doubles them.
    assert [row["forwards an image"]["value"] for row in found.values()] == [8, 4, 1]
    by_variety = {round(mean(of(folder, 16)), 6): of(folder, 16) for folder in features.iterdir()}
    teacher, four, one = (by_variety[round(row["variety"]["value"], 6)] for row in found.values())
    assert teacher.shape == (16, 128)
    for row, of_student in (("four, 4 steps", four), ("one, 1 step", one)):
        assert found[row]["kernel distance"]["value"] == pytest.approx(kernel_distance(of_student, teacher), rel=1e-6)
        assert found[row]["kernel distance"]["margin"] > 0
        assert found[row]["kernel distance"]["reference_pictures"] == 16
        assert "too few" in found[row]["Fréchet distance"]["remark"]  # 16 pictures of 128 numbers
    assert all("128 numbers" in entry["features"] for row in found.values() for entry in row.values())
    assert found["teacher, 4 steps"]["kernel distance"]["why"] == "the others are compared with it"
    assert found["four, 4 steps"]["CLIP score"]["why"] == "the text encoder gives no pooled embedding"
    table, grid = result.value("evaluated", 0), result.value("evaluated", 2)
    assert "16 to 16" in table and "image_embeds, 128 numbers" in table and grid.shape[0] == 1
    newest = sorted((comfyui.base_directory / "output" / "sid_evaluations" / "test").glob("*.json"))[-1]
    assert json.loads(newest.read_text()) == json.loads(result.value("evaluated", 3))


def mean(features: torch.Tensor) -> float:
    """Of the distances within each prompt's two pictures."""
    return sum(mean_pair_distance(pair) for pair in features.split(2)) / (len(features) // 2)


def test_cancel_loses_a_batch_at_most_and_more_samples_draw_only_more(run_graph, features, drawn, monkeypatch):
    import comfy.model_management

    from sid_pack.nodes.evaluation.contenders import Contender

    plain, calls = Contender.draw, []

    def cancelling(self, *args):
        calls.append(1)
        if len(calls) == 5:
            comfy.model_management.interrupt_current_processing()
        return plain(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(Contender, "draw", cancelling)
        assert not run_graph(evaluated(student_1=["one", 0])).success
    # Looked at the teacher, two batches of it, looked at the student; the student's first batch was cancelled in it.
    assert drawn == ["teacher, 4 steps"] * 3 + ["student 1, 1 step"] * 2
    drawn.clear()
    resumed = metrics(run_graph(evaluated(student_1=["one", 0])))
    assert drawn == ["student 1, 1 step"] * 2
    drawn.clear()
    more = metrics(run_graph(evaluated(student_1=["one", 0], samples=24)))
    assert sorted(drawn) == ["student 1, 1 step", "teacher, 4 steps"]
    drawn.clear()
    for folder in features.iterdir():
        for file in folder.iterdir():
            file.unlink()
    unbroken = metrics(run_graph(evaluated(student_1=["one", 0], samples=24, name="another")))
    assert len(drawn) == 2 * (3 + 1)
    for name, row in more.items():
        for metric, entry in row.items():
            if metric != "seconds an image":
                assert entry["value"] == unbroken[name][metric]["value"], metric
    assert resumed["student 1, 1 step"]["variety"]["pictures"] == 16


def test_without_an_image_encoder_what_needs_none_is_there(run_graph, features):
    row = metrics(run_graph(evaluated(clip_vision=None, teacher=None)))["student 1, 4 steps"]
    assert row["forwards an image"]["value"] == 4 and row["seconds an image"]["value"] > 0
    others = [entry for name, entry in row.items() if not name.endswith("an image")]
    assert {entry["why"] for entry in others} == {"no clip_vision is connected"}


def test_one_prompt_and_real_images(run_graph, features):
    """The teacher is then compared too, and the numbers are to the images."""
    graph = evaluated(images=["decoded", 0], student_1=["one", 0], samples=8)
    graph["prompts"] = node("SiDPrompts", text="dog", file="")
    graph["generated"] = node(
        "SiDGenerate",
        **{"model": ["one", 0], "positive": ["positive", 0], "seed": 1, "width": 64, "height": 64, "batch_size": 8},
        **{"steps": 0, "t_init": 0.0, "noise_mode": "as trained"},
    )
    graph["decoded"] = node("VAEDecode", samples=["generated", 0], vae=["demo", 2])
    found = metrics(run_graph(graph))
    assert all(row["recall"]["reference"] == "8 real images" for row in found.values())
    assert all(row["kernel distance"]["value"] > 0 for row in found.values())  # dogs are no apples


def test_features_that_are_not_finite_are_told_and_nothing_is_made_of_them(run_graph, features, monkeypatch):
    from sid_pack.nodes.host.image_features import ImageFeatures

    plain = ImageFeatures.of
    monkeypatch.setattr(ImageFeatures, "of", lambda self, pictures: plain(self, pictures) * float("nan"))
    row = metrics(run_graph(evaluated(teacher=None, student_1=["one", 0])))["student 1, 1 step"]
    assert row["variety"]["why"] == "16 of 16 pictures have features that are not finite"
    assert row["kernel distance"]["value"] is None


def test_too_few_pictures_and_texts_that_are_not_finite_are_told_in_words(run_graph, features, monkeypatch):
    from sid_pack.nodes.evaluation import measuring

    two = metrics(run_graph(evaluated(samples=2)))["student 1, 4 steps"]
    assert two["kernel distance"]["value"] is not None and two["kernel distance"]["margin"] is None
    assert two["recall"]["why"] == "takes more than 3 pictures"
    real = {"images": ["pictures", 0], "teacher": None, "samples": 2}
    graph = evaluated(**real) | {"pictures": node("EmptyImage", width=64, height=64, batch_size=1, color=255)}
    one = metrics(run_graph(graph))["student 1, 4 steps"]
    assert one["kernel distance"]["why"] == one["recall"]["why"] == "takes two pictures or more of each; there is 1"
    alignment = torch.tensor([[0.3, 0.2], [torch.nan, 0.1]])
    measured = measuring.Measured("of two", 2, {})
    gathered = type("Gathered", (), {"alignment": alignment})
    measuring._clip_score(measured, gathered, None, None)
    assert measured.values == {measuring.CLIP_SCORE: "1 of 2 prompts have embeddings that are not finite"}


def test_a_teacher_is_another_by_all_that_its_negative_prompt_says(comfyui, run_graph):
    """Its features are kept by that. Of what can't be digested nothing is kept."""
    from sid_pack.nodes.evaluation.contenders import teacher

    result = run_graph(evaluated(samples=2, student_1=["four", 0]))
    assert result.success, result.error
    guider = result.value("guider")
    ((context, extra),) = guider.empty_prompt

    def of(**more):
        guider.empty_prompt = [[context, extra | more]]
        return teacher(guider, 4, "euler", "sgm_uniform")

    told = [of(), of(start_percent=0.0, end_percent=0.3), of(start_percent=0.0, end_percent=0.5), of(guidance=3.5)]
    assert len({each.identity for each in told}) == len(told)
    assert of(control=object()).identity is None and of(control=object()).unknown == ["control"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": "4, two"}, "Set steps to whole numbers"),
        ({"student_1": ["demo", 0]}, "Set steps to 1 or more"),
        ({"labels": "a, b"}, "Set labels to 1 different names"),
        ({"labels": "a\ud83d"}, "Set labels to whole characters"),
        ({"labels": "teacher"}, "Give the students other labels"),
        ({"name": "../x"}, "Set name to letters"),
        ({"student_1": None, "teacher": None}, "Connect a student"),
        ({"teacher": ["basic", 0]}, "Connect SiD LSG Guider"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_drawn(run_graph, drawn, changes, said):
    graph = evaluated(**changes)
    graph["basic"] = node("BasicGuider", model=["demo", 0], conditioning=["positive", 0])
    result = run_graph(graph)
    assert not result.success and said in result.error
    assert not drawn

"""The race's machinery: equal care for all, each result once, and trainings that go on where they were stopped."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

STUDENTS = Path(__file__).parents[2] / "benchmarks" / "students"
CAPTIONS = ("red apple", "red apple, flat", "rocket, inked")


@pytest.fixture(scope="module")
def race():
    # By its file, as a checkout's own folder may have the name.
    spec = importlib.util.spec_from_file_location("race_of_students", STUDENTS / "race.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sizes():
    from contestants import quick_sizes

    return quick_sizes(16)


@pytest.fixture
def places(tmp_path):
    from stages import Places

    return Places(tmp_path)


def write(file: Path, **content) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def test_each_method_has_as_many_trials_and_as_many_images(race, sizes, places):
    from contestants import CONTESTANTS
    from stages import trial_jobs

    tuned = [one for one in CONTESTANTS if not one.tuned_as]
    for one in tuned:
        assert len(trial_jobs(one, sizes, places)) == 2 * 5
        tune(places, one, 4, [1.0] * 5, [2.0, 2.0])
    files, images = [], set()
    for one in tuned:
        trials = trial_jobs(one, sizes, places)
        # What begins as another's student has the other's trials, too, and keeps the t_init that these have found.
        assert len(trials) == (10 if one.begins_from else 12)
        files += [file for file, _ in trials]
        images |= {found.facts()["images"] for _, job in trials if (found := job())}
    assert len(set(files)) == len(files)
    assert images == {sizes.trial_images}


def test_the_readme_s_grid_is_the_one_that_is_run(race):
    from contestants import CONTESTANTS, FULL_IMAGES, RATES, TRIAL_SEED, full_sizes

    text = (STUDENTS / "README.md").read_text(encoding="utf-8")
    grid = text.partition("## The grid")[2]
    rows = {
        name: tuple(float(value) for value in row.split(","))
        for names, row in re.findall(r"^\| (.*?) \| [^|]* \| ([\d., -]+) \|$", grid, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", names) or [names]
    }
    assert rows.pop("all") == RATES
    assert rows == {one.name: one.knobs for one in CONTESTANTS if not one.tuned_as}
    for number in (FULL_IMAGES, full_sizes(FULL_IMAGES).trial_images):
        assert f"{number:,} images" in text or f"updated on, {number:,}" in text
    assert f"seed {TRIAL_SEED}" in text


def tune(places, contestant, steps: int, distances: list[float | None], after: list[float | None]) -> None:
    """Write the results of the trials of its grid, and of those from the other t_inits."""
    from stages import trials_of

    for results in (distances, after):
        choices = trials_of(contestant, steps, places)[-len(results) :]
        for choice, distance in zip(choices, results, strict=True):
            write(places.trial(contestant, steps, choice), distance=distance)


def test_the_nearest_trial_is_taken_once_all_are_done(race, places):
    from contestants import BY_NAME, Choice
    from stages import best_choice, trials_of

    lsg = BY_NAME["sid_lsg"]
    distances = [300.0, None, 250.0, 260.0, 251.0]
    for choice, distance in list(zip(lsg.grid(), distances, strict=True))[:-1]:
        write(places.trial(lsg, 4, choice), distance=distance)
    assert best_choice(lsg, 2, places) is None
    assert trials_of(lsg, 4, places) == lsg.grid()
    write(places.trial(lsg, 4, lsg.grid()[-1]), distance=distances[-1])
    assert best_choice(lsg, 2, places) is None  # its best from the other t_inits is still to come
    after = [Choice(2e-3, 3.0, 800.0), Choice(2e-3, 3.0, 999.0)]
    assert trials_of(lsg, 4, places) == [*lsg.grid(), *after]
    for choice, distance in zip(after, (None, 250.5), strict=True):
        write(places.trial(lsg, 4, choice), distance=distance)
    assert best_choice(lsg, 2, places) == best_choice(lsg, 4, places) == Choice(2e-3, 3.0)
    assert best_choice(lsg, 1, places) is None
    write(places.trial(lsg, 4, after[0]), distance=249.0)
    assert best_choice(lsg, 4, places) == after[0]


def test_who_begins_as_a_student_waits_for_it_and_keeps_its_t_init(race, sizes, places):
    from contestants import BY_NAME, Choice
    from stages import final_job, trial_jobs

    lsg, begun = BY_NAME["sid_lsg"], BY_NAME["sid2a_zero"]
    jobs = [job for _, job in trial_jobs(begun, sizes, places)]
    tune(places, lsg, 4, [5.0, 4.0, 3.0, 2.0, 1.0], [3.0, 0.5])
    assert all(job() is None for job in jobs)
    for seed in (0, 1):
        write(places.student(lsg, 4, seed))
    assert [job().choice.t_init for job in jobs[:5]] == [999.0] * 5
    assert jobs[0]().begins == places.student(lsg, 4, 0)
    for choice, distance in zip(begun.grid(), (5.0, 4.0, 3.0, 2.0, 1.0), strict=True):
        write(places.trial(begun, 4, choice), distance=distance)
    final = final_job(begun, 4, 1, sizes, places)
    assert (final.begins, final.choice) == (places.student(lsg, 4, 1), Choice(1e-3, begun.knobs[-1], 999.0))


def test_one_with_anothers_tuning_has_no_trials_and_more_images(race, sizes, places):
    from contestants import BY_NAME
    from stages import best_choice, final_job, trial_jobs

    lsg, longer = BY_NAME["sid_lsg"], BY_NAME["sid_lsg_long"]
    assert trial_jobs(longer, sizes, places) == [] and final_job(longer, 4, 0, sizes, places) is None
    tune(places, lsg, 4, [5.0, 4.0, 3.0, 2.0, 1.0], [3.0, 0.5])
    first, second = (final_job(one, 4, 0, sizes, places) for one in (lsg, longer))
    assert first.choice == second.choice == best_choice(lsg, 4, places)
    assert second.iterations == 2.5 * first.iterations


def test_an_lcm_is_trained_once_for_four_and_two_steps(race, places):
    from contestants import BY_NAME

    files = {name: [places.student(BY_NAME[name], steps, 0) for steps in (4, 2, 1)] for name in ("lcm", "dmd2")}
    assert files["lcm"][0] == files["lcm"][1] != files["lcm"][2]
    assert len(set(files["dmd2"])) == 3


def test_who_needs_what_is_not_here_is_left_out_by_name(race, tmp_path, capsys, monkeypatch):
    import contestants

    left = {one.name for one in race.usable([], tmp_path / "no pictures")}
    assert left == {"sid_lsg", "sid_lsg_long", "sid_lsg_follows", "sid_teacher", "sid_zero", "sid_anti", "dmd2"}
    assert "gather_pictures" in capsys.readouterr().err
    strange = contestants.replace(contestants.BY_NAME["dmd2"], settings=contestants.of(flux_capacity=1))
    monkeypatch.setitem(race.BY_NAME, "dmd2", strange)
    assert race.usable(["dmd2"], tmp_path) == []
    assert "flux_capacity" in capsys.readouterr().err


def test_tasks_are_done_once_in_the_order_that_they_become_ready(race, sizes, tmp_path):
    done = []

    def task(name: str, after: Path | None = None):
        def do() -> dict:
            done.append(name)
            return {"name": name}

        return race.Task(tmp_path / f"{name}.json", do, lambda: after is None or after.exists())

    tasks = [task("second", tmp_path / "first.json"), task("first"), task("never", tmp_path / "nothing.json")]
    for _ in range(2):
        race.Race(sizes, tmp_path, 1.0).do(lambda: tasks)
    assert done == ["first", "second"]
    assert json.loads((tmp_path / "first.json").read_text()) == {"name": "first"}


def test_a_race_is_trials_then_students_each_measured_then_the_teacher(race, sizes, tmp_path):
    from contestants import BY_NAME

    tasks = race.Race(sizes, tmp_path, 1.0).all_tasks([BY_NAME["lcm"], BY_NAME["dmd2"]])
    results = [task.result.relative_to(tmp_path) for task in tasks]
    folders = [result.parent.name for result in results]
    assert folders == ["trials"] * 20 + ["students", "scores"] * 6 + ["teacher"] * 3
    assert [result.stem for result in results[20:24]] == ["lcm_4_0", "lcm_4_0", "dmd2_4_0", "dmd2_4_0"]


def test_the_spread_of_the_nearest_is_found_before_that_of_others(race, tmp_path):
    from contestants import BY_NAME, full_sizes

    started = race.Race(full_sizes(2560), tmp_path, 1.0)
    lcm, dmd2 = BY_NAME["lcm"], BY_NAME["dmd2"]
    tune(started.places, dmd2, 4, [200.0] * 5, [180.0, 300.0])
    tune(started.places, lcm, 4, [190.0] * 5, [200.0, 300.0])
    found = [task.result.stem for task in started.all_tasks([lcm, dmd2]) if task.result.parent.name == "scores"]
    seeds, later = found[:6], found[6:]
    assert {name[-1] for name in seeds} == {"0"}
    assert [name.rsplit("_", 2)[0] for name in later] == ["dmd2"] * 6 + ["lcm"] * 6


def test_no_task_is_begun_after_the_time(race, sizes, tmp_path):
    from jobs import OutOfTimeError

    task = race.Task(tmp_path / "late.json", lambda: pytest.fail("was begun"))
    with pytest.raises(OutOfTimeError):
        race.Race(sizes, tmp_path, -1.0).do(lambda: [task])


def test_the_table_has_means_over_seeds_and_what_diverged(race, places):
    from contestants import BY_NAME, full_sizes
    from race_table import report

    sizes = full_sizes(8192)
    for seed, distance in enumerate((100.0, 104.0, 108.0)):
        training = {"distance": distance, "subject": 0.5, "style": 0.25}
        variety = {"entropy_of_real": 0.5, "spread_of_real": 0.75}
        scores = {
            name: {measure: {"mean": value, "std": 0.0} for measure, value in one.items()}
            for name, one in (("training", training), ("variety", variety))
        }
        cost = {"images": 8192, "training_forwards": 2_500_000, "training_seconds": 90.0, "forwards": 4.0}
        write(places.scores(BY_NAME["sid_lsg"], 4, seed), scores=scores, **cost)
    lcm = BY_NAME["lcm"]
    write(places.trial(lcm, 4, lcm.grid()[0]), distance=None)
    text = report(places, sizes)
    row = (
        "| SiD, LSG | 4 | 3 | 104.0 ± 4.0 | 0.500 ± 0.000 | 0.250 ± 0.000 | 0.500 ± 0.000 | 0.750 ± 0.000 | 4 | 8,192 |"
    )
    assert f"{row} 2500 | 1.5 |" in text
    assert "| LCM-style | 4 | 0.0005 | teacher's guidance scale 1 + ω 3 | 999 | diverged |" in text


def test_another_machine_goes_on_from_the_results_and_trains_again_what_it_still_needs(race, sizes, places, tmp_path):
    from contestants import BY_NAME
    from records import keep, restore
    from stages import Places

    lsg, zero, lcm = (BY_NAME[name] for name in ("sid_lsg", "sid_zero", "lcm"))
    write(places.trial(zero, 4, zero.grid()[0]), distance=300.0)
    write(places.teacher("50"), steps=50)
    for contestant, steps in ((lsg, 4), (zero, 4), (zero, 2), (lcm, 4)):
        write(places.trained(contestant, steps, 0), images=16)
    for contestant, steps in ((lsg, 4), (zero, 4), (lcm, 4)):
        write(places.scores(contestant, steps, 0), forwards=4.0)
    file = tmp_path / "kept.json"
    assert keep(places, file) == 9
    there = Places(tmp_path / "there" / "race")
    restore(there, sizes, file)
    gone = {
        places.trained(lsg, 4, 0),  # two others begin from its weights
        places.trained(zero, 2, 0),  # not measured yet
        places.trained(lcm, 4, 0),  # not measured in two steps yet
    }
    expected = {file.relative_to(places.root) for file in set(places.root.glob("*/*.json")) - gone}
    assert {file.relative_to(there.root) for file in there.root.glob("*/*.json")} == expected
    assert json.loads(there.teacher("50").read_text()) == {"steps": 50}
    for name in ("sid2a_lsg", "sid2a_zero"):
        write(places.scores(BY_NAME[name], 4, 0), forwards=4.0)
    keep(places, file)
    restore(there, sizes, file)
    assert there.trained(lsg, 4, 0).exists()


def test_forwards_are_counted_by_latents_and_on_after_a_resume():
    from cost import Cost

    network, cost = torch.nn.Linear(2, 2), Cost()
    with cost.counting(network):
        network(torch.zeros(3, 2))
        network(torch.zeros(4, 2))
    network(torch.zeros(5, 2))
    resumed = Cost()
    resumed.load_state_dict(cost.state_dict())
    assert resumed == cost == Cost(7, 0.0)


class TestRealPairs:
    """Of pictures of one colour each, so that a mean tells which is shown."""

    @pytest.fixture
    def pairs(self):
        from pictures import STYLES, TRAINING, Pictures
        from real_pairs import RealPairs

        from sid_pack.sid_core.data.conditioning import PromptSet

        styles = [STYLES.index(style) for style in ("flat", "inked", "flat", "inked")]
        images = torch.tensor([20, 60, 100, 140], dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 64, 64, 3)
        uses = torch.tensor([TRAINING, TRAINING, 2, TRAINING])
        pictures = Pictures(images, torch.tensor([0, 0, 1, 1]), torch.tensor(styles), uses, ["red apple", "rocket"])
        words = [{"word": torch.full((1, 1), float(i))} for i in range(len(CAPTIONS))]
        prompts = PromptSet.of(CAPTIONS, words, {"word": torch.full((1, 1), -1.0)})
        return RealPairs(CAPTIONS, prompts, pictures, SimpleNamespace(encode=lambda picture: picture))

    def test_each_caption_is_as_likely_and_has_training_pictures_that_it_fits(self, pairs):
        latents, cond = pairs.batch(torch.arange(len(pairs)))
        # The middle is the picture's, whatever its size and place; the rest may be white.
        shown = ((latents[:, 0, 32, 32] + 1) / 2 * 255).round().long()
        seen = [sorted(set(shown[cond["word"][:, 0] == i].tolist())) for i in range(3)]
        assert seen == [[20, 60], [20], [140]]
        assert cond["word"][:, 0].long().bincount().tolist() == [9, 9, 9]

    def test_what_is_shown_depends_on_the_rows_alone(self, pairs):
        rows = torch.tensor([3, 20, 7])
        first, again = pairs.batch(rows)[0], pairs.batch(rows)[0]
        assert torch.equal(first, again)
        assert not torch.equal(first, pairs.batch(torch.tensor([3, 20, 8]))[0])
        torch.manual_seed(5)
        expected = torch.rand(1)
        torch.manual_seed(5)
        pairs.batch(rows)
        assert torch.equal(torch.rand(1), expected)  # nobody else's random numbers are touched

    def test_a_caption_without_a_picture_is_refused(self, pairs):
        from real_pairs import RealPairs

        with pytest.raises(ValueError, match="'blue moon'"):
            RealPairs(("blue moon",), pairs.prompts, SimpleNamespace(where=lambda use: torch.tensor([])), None)


class NoisePairs:
    """In the place of real pictures: latents of noise."""

    def __init__(self, world):
        self.prompts = world.prompts
        self.latents = torch.randn(3, *world.latent_shape, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return 3

    def batch(self, rows):
        return self.latents[rows], self.prompts.batch(rows)


class Clock:
    """Time that passes by a second whenever somebody looks."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture(scope="module")
def world(comfyui):
    from world import World

    world = World(captions=CAPTIONS)
    world.pairs = NoisePairs(world)
    return world


class TestOnTheDemo:
    def job(self, name: str, steps: int):
        from contestants import BY_NAME, replace
        from jobs import Job

        contestant, few = BY_NAME[name], {"fake_updates": 2} if name == "dmd2_gan" else {}
        fast = replace(contestant, settings=lambda knob: contestant.settings(knob) | few)
        return Job(fast, fast.grid()[4], steps, 0, 2, 2)

    def trained(self, world, job, file: Path, monkeypatch, deadline: float):
        import student_runs

        monkeypatch.setattr(student_runs, "time", Clock())
        file.parent.mkdir(exist_ok=True)
        return student_runs.train(job, world, file, file.parent / "run", deadline)

    @pytest.mark.parametrize(("name", "steps"), [("dmd2_gan", 1), ("lcm", 2)])
    def test_a_stopped_training_goes_on_as_if_it_had_not_been(self, world, name, steps, tmp_path, monkeypatch):
        from jobs import OutOfTimeError

        from sid_pack.nodes.sampling.students import load_student

        job = self.job(name, steps)
        whole, stopped = tmp_path / "whole" / "student.safetensors", tmp_path / "stopped" / "student.safetensors"
        cost = self.trained(world, job, whole, monkeypatch, 1e9)
        with pytest.raises(OutOfTimeError):
            self.trained(world, job, stopped, monkeypatch, 3.0)
        assert (stopped.parent / "run").is_dir()
        assert not stopped.exists()
        again = self.trained(world, job, stopped, monkeypatch, 1e9)
        assert again.forwards == cost.forwards
        ours, theirs = load_file(whole), load_file(stopped)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        assert any(ours[key].any() for key in ours if key.endswith("lora_up.weight"))
        assert not (stopped.parent / "run").exists()
        info = load_student(world.model, whole).get_attachment("sid_student")
        assert (info.steps, info.t_init, info.noise_mode) == (steps, 999, "fresh")

    def test_a_student_begins_as_another_one(self, world, tmp_path, monkeypatch):
        from student_runs import load_lora

        from sid_pack.nodes.sampling.loras import lora_tensors
        from sid_pack.sid_core.training.adapters import LoRASet, find_targets

        first = tmp_path / "student.safetensors"
        self.trained(world, self.job("sid_zero", steps=1), first, monkeypatch, 1e9)
        layers = find_targets(world.model.model.diffusion_model, "all linear and convolution layers")
        adapters = LoRASet(layers, 12, seed=7)
        load_lora(adapters, world.model, first)
        expected, found = load_file(first), lora_tensors(world.model, adapters)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key].float(), found[key]) for key in found)

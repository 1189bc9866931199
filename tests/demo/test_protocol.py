"""The demo protocol on a small world whose scores are known, and the shipped reference where there is one."""

import math
from dataclasses import replace

import pytest
import torch
from small_world import STYLES_EACH, SmallWorld, small_world
from torch import Tensor, nn

STYLED = ("training", "pairs", "subjects")


@pytest.fixture(scope="module")
def world() -> SmallWorld:
    return small_world()


@pytest.fixture(scope="module")
def small(world):
    from demo_protocol import Protocol

    return Protocol(world.reference())


def of_draws(small, world: SmallWorld, styles: Tensor, seed: int = 0):
    """What is measured of pictures in these styles (N,) for all prompts of *variety*."""
    prompts = small.prompts["variety"]
    return small.reference.measure(world.features(prompts.subjects, styles, seed), prompts.subjects, prompts.styles)


def test_prompts_are_the_real_pictures_captions_and_bare_subjects_sixteen_times(small):
    real = small.reference.real["pairs"]
    prompts = small.prompts["pairs"]
    assert [small.captions[place] for place in prompts.places[:3]] == [
        "thing 0, shaded",
        "thing 1, inked",
        "thing 2, cartoon",
    ]
    assert torch.equal(prompts.subjects, real.subjects) and torch.equal(prompts.styles, real.styles)
    bare = [small.captions[place] for place in small.prompts["variety"].places]
    assert bare == [f"thing {i}" for i in range(4) for _ in range(16)]
    assert sorted(torch.cat([one.places for one in small.prompts.values()]).tolist()) == list(
        range(len(small.captions))
    )


@pytest.mark.parametrize(("count", "subjects"), [(1, 1), (16, 1), (33, 2), (1000, 4)])
def test_a_few_prompts_have_whole_captions_of_variety(small, count, subjects):
    few = small.some_prompts(count)
    assert few["variety"].subjects.tolist() == [i for i in range(subjects) for _ in range(16)]
    assert len(few["training"].places) == min(count, 90)
    assert small.some_prompts(None) is small.prompts


def test_the_real_pictures_as_samples_are_at_no_distance_and_right(small):
    for name in STYLED:
        scores = small.score_set(name, small.reference.real[name])
        assert scores["distance"] == pytest.approx(0, abs=1e-9)
        assert scores["kernel_distance"] < small.real_scores[name]["kernel_distance"].mean + 1e-9
        assert {scores[measure] for measure in ("precision", "recall", "subject", "style")} == {1}


def test_a_model_without_a_fault_is_scored_as_its_pictures_would_be(small):
    from demo_protocol import Protocol

    taken = small.reference.real["training"]
    away = replace(taken, projected=taken.projected + 1)
    told = Protocol(replace(small.reference, codec={"training": away}))
    assert told.perfect_scores == {"training": told.score([{"training": away}])["training"]}
    assert told.perfect_scores["training"]["distance"].mean == pytest.approx(taken.projected.shape[1])
    assert small.perfect_scores == {}


def test_swapped_styles_are_all_wrong_and_their_subjects_right(small):
    real = small.reference.real["pairs"]
    scores = small.score_set("pairs", replace(real, answers=(real.styles + 1) % 9))
    assert (scores["style"], scores["subject"]) == (0, 1)


def test_pictures_of_other_subjects_are_found_by_chance_alone(small, world):
    prompts = small.prompts["training"]
    generator = torch.Generator().manual_seed(0)
    found = []
    for seed in range(20):
        strangers = torch.randint(60, prompts.subjects.shape, generator=generator)
        seen = small.reference.measure(
            world.features(strangers, prompts.styles, seed), prompts.subjects, prompts.styles
        )
        found.append(seen.found.double().mean())
    assert small.chance["training"]["subject"] == pytest.approx(10 / 20)  # folds of 20 subjects
    assert torch.stack(found).mean().item() == pytest.approx(10 / 20, abs=0.05)


def test_one_picture_for_all_seeds_has_no_variety(small, world):
    prompts = small.prompts["variety"]
    drawn = of_draws(small, world, torch.zeros_like(prompts.subjects))
    same = replace(drawn, projected=drawn.projected[::16].repeat_interleave(16, 0))
    scores = small.score_set("variety", same)
    assert [scores[f"{measure}{of}"] for measure in ("entropy", "spread") for of in ("", "_of_real")] == [0] * 4


def test_entropy_is_that_of_the_answers_within_a_caption(small, world):
    every_style = torch.arange(16).repeat(4) % STYLES_EACH
    assert small.score_set("variety", of_draws(small, world, every_style))["entropy"] == pytest.approx(math.log(8))
    two_halves = (torch.arange(16) // 8).repeat(4)
    assert small.score_set("variety", of_draws(small, world, two_halves))["entropy"] == pytest.approx(math.log(2))
    one_style_a_caption = torch.arange(4).repeat_interleave(16)
    assert small.score_set("variety", of_draws(small, world, one_style_a_caption))["entropy"] == 0


def test_a_sampler_that_draws_real_pictures_at_random_has_all_of_their_variety(small):
    """On average: neither that there are 8 of them nor that 16 are drawn shows."""
    real, generator = small.reference.real["variety"], torch.Generator().manual_seed(0)
    first = torch.arange(4).repeat_interleave(16) * STYLES_EACH
    runs = [{"variety": real[first + torch.randint(STYLES_EACH, (64,), generator=generator)]} for _ in range(100)]
    scores = small.score(runs)["variety"]
    for measure in ("entropy_of_real", "spread_of_real"):
        assert scores[measure].mean == pytest.approx(1, abs=3 * scores[measure].std / 100**0.5)
        assert 0 < scores[measure].std < 0.2


def test_variety_of_some_captions_is_compared_with_theirs_alone(small, world):
    from demo_protocol import variety_of_draws

    drawn = of_draws(small, world, torch.arange(64) % 8)
    some = small.score_set("variety", drawn[drawn.subjects < 2])
    real = variety_of_draws(small.reference.real["variety"], torch.arange(2))
    assert some["spread_of_real"] == pytest.approx(some["spread"] / real["spread"])


def test_there_is_a_distance_to_the_teacher_once_it_has_samples(small, world):
    from demo_protocol import Protocol

    assert not [measure for measure in small.score_set("pairs", small.reference.real["pairs"]) if "teacher" in measure]
    variety = of_draws(small, world, torch.arange(64) % 5)
    far = replace(small.reference.real["pairs"], projected=small.reference.real["pairs"].projected + 1)
    taught = Protocol(replace(small.reference, teacher={"pairs": far, "variety": variety}))
    scores = taught.score_set("pairs", small.reference.real["pairs"])
    assert scores["distance"] == pytest.approx(0, abs=1e-9)
    assert scores["distance_to_teacher"] == pytest.approx(6)  # a shift of 1 in each of 6 dimensions
    assert scores["kernel_distance_to_teacher"] > scores["kernel_distance"]
    own = taught.score_set("variety", variety)
    assert own["entropy_of_teacher"] == own["spread_of_teacher"] == 1
    assert own["entropy_of_real"] < 1


def test_a_score_is_the_mean_and_deviation_over_its_runs(small):
    real = small.reference.real["pairs"]
    runs = [{"pairs": replace(real, found=torch.arange(30) < count)} for count in (30, 15, 0)]
    score = small.score(runs)["pairs"]["subject"]
    assert (score.mean, score.std) == (0.5, 0.5)
    assert small.score(runs[:1])["pairs"]["subject"].std == 0


def test_the_floor_is_half_against_half(small):
    real = small.real_scores["training"]
    assert real["distance"].mean > 0
    assert abs(real["kernel_distance"].mean) < 3 * real["kernel_distance"].std
    assert real["subject"].mean == real["style"].mean == 1
    variety = small.real_scores["variety"]
    assert variety["entropy_of_real"].mean == variety["spread_of_real"].mean == 1
    assert variety["entropy"].mean < math.log(8)


def test_a_reference_comes_back_from_its_file(small, world, tmp_path):
    from reference import load_reference, save_reference

    before = replace(small.reference, teacher={"pairs": small.reference.real["pairs"]})
    save_reference(before, tmp_path / "reference.safetensors", {"teacher": "none"})
    after = load_reference(tmp_path / "reference.safetensors")
    assert after.captions == before.captions
    assert list(after.real) == list(before.real) and list(after.teacher) == ["pairs"]
    for name, kept in (after.real | {"teacher": after.teacher["pairs"]}).items():
        was = before.real.get(name, before.teacher["pairs"])
        torch.testing.assert_close(kept.projected, was.projected, rtol=1e-3, atol=1e-3)
        for part in ("subjects", "styles", "answers", "found"):
            assert torch.equal(getattr(kept, part), getattr(was, part))
    subjects, styles = before.real["pairs"].subjects, before.real["pairs"].styles
    measured = after.measure(world.features(subjects, styles), subjects, styles)
    torch.testing.assert_close(measured.projected, before.real["pairs"].projected, rtol=1e-2, atol=1e-2)
    assert measured.found.all() and torch.equal(measured.answers, styles)


def test_tables_show_what_there_is(small):
    from drawing import Setting
    from evaluate import Result, as_json, held_out_table, table

    runs = [dict(small.reference.real)]
    worse = [{name: replace(one, projected=one.projected + 1) for name, one in small.reference.real.items()}]
    settings = [Setting(50, "euler", "karras", 3.0), Setting(4)]
    results = [
        Result(setting, small.score(drawn), 1.0, 0.01) for setting, drawn in zip(settings, (worse, runs), strict=True)
    ]
    main = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table(results, small).splitlines()]
    assert len({len(line) for line in main}) == 1
    columns = {name: number for number, name in enumerate(main[0])}
    assert [line[columns["ratio"]] for line in main[2:]] == ["1.00", "0.00", "", "", ""]
    assert [line[columns["distance"]] for line in main[2:4]] == ["6.0", "0.0"]
    assert main[-1][columns["subject"]] == "0.500" and main[-1][columns["distance"]] == ""
    held_out = held_out_table(results, small).splitlines()
    assert [line.split("|")[1].strip() for line in held_out[2:]] == ["pairs"] * 4 + ["subjects"] * 4
    assert '"kernel_distance"' in as_json(results, small, small.prompts, 1)


def test_the_map_that_judges_a_subject_has_not_seen_its_pictures(world):
    """Spoil the pictures of one fold: the maps of the others change, its own does not."""
    from pack_reference import fit_judge

    subjects = torch.arange(400).repeat_interleave(2)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(800, 10, generator=generator)
    embeddings = torch.randn(400, 384, generator=generator)
    judge = fit_judge(features, subjects, embeddings)
    spoilt = features.clone()
    spoilt[judge.fold[subjects] == 2] = 0
    same = [
        torch.allclose(a.weight, b.weight)
        for a, b in zip(fit_judge(spoilt, subjects, embeddings).maps, judge.maps, strict=True)
    ]
    assert same == [False, False, True, False, False]
    assert judge.fold.bincount().tolist() == [80] * 5


def test_sets_are_of_their_uses_and_variety_of_subjects_in_many_styles():
    from pack_reference import choose_sets
    from pictures import HELD_OUT_PAIR, HELD_OUT_SUBJECT, TRAINING, Pictures

    subjects = torch.arange(60).repeat_interleave(9)
    styles = torch.arange(9).repeat(60)
    held_out = torch.where(subjects >= 50, HELD_OUT_SUBJECT, TRAINING)
    held_out[(subjects < 10) & (styles < 4)] = HELD_OUT_PAIR  # these have 5 left to train with
    held_out[(subjects >= 10) & (subjects < 20) & (styles < 2)] = HELD_OUT_PAIR
    pictures = Pictures(torch.zeros(540, 1, 1, 3).byte(), subjects, styles, held_out, [str(i) for i in range(60)])
    sets = choose_sets(pictures)
    for name, use in (("training", TRAINING), ("pairs", HELD_OUT_PAIR), ("subjects", HELD_OUT_SUBJECT)):
        assert (held_out[sets[name]] == use).all()
        assert len(set(sets[name].tolist())) == len(sets[name])
    variety = sets["variety"]
    assert (held_out[variety] == TRAINING).all()
    chosen, pictures_each = subjects[variety].unique(return_counts=True)
    assert len(chosen) == 32 and chosen.min() >= 10
    assert set(pictures_each.tolist()) <= {7, 9}


def blurred(images: Tensor, side: int) -> Tensor:
    """Pictures with no more detail than side x side of them can hold."""
    pictures = images.movedim(-1, 1)
    small = nn.functional.interpolate(pictures, size=(side, side), mode="area")
    return nn.functional.interpolate(small, size=pictures.shape[2:], mode="bicubic").clamp(0, 1).movedim(1, -1)


def test_the_shipped_reference_is_whole_and_small(protocol):
    from reference import FILE

    assert FILE.stat().st_size <= 3.5e6
    assert {name: len(prompts.places) for name, prompts in protocol.prompts.items()} == {
        "training": 1024, "pairs": 256, "subjects": 192, "variety": 512,
    }  # fmt: skip
    assert len(protocol.reference.captions) == 622
    learnt, new = (set(protocol.prompts[name].subjects.tolist()) for name in ("training", "subjects"))
    assert not learnt & new


def test_real_pictures_are_judged_far_better_than_chance(protocol):
    for name in STYLED:
        real, chance = protocol.real_scores[name], protocol.chance[name]
        assert real["subject"].mean > 6 * chance["subject"]
        assert real["style"].mean > 6 * chance["style"]


def test_distance_and_style_rank_real_pictures_before_blurred_ones_before_noise(protocol, shown):
    reference = protocol.reference
    subjects = torch.tensor([reference.captions.index(caption) for caption in shown.captions])[shown.subjects]
    images = shown.image(slice(None))
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))

    def scores(pictures: Tensor) -> dict[str, float]:
        from features import image_features

        measured = reference.measure(image_features(protocol.network, pictures), subjects, shown.styles)
        return protocol.score_set("training", measured)

    real, spoilt, nothing = scores(images), scores(blurred(images, 16)), scores(noise)
    assert real["distance"] < spoilt["distance"] < nothing["distance"]
    assert real["kernel_distance"] < spoilt["kernel_distance"] < nothing["kernel_distance"]
    assert real["style"] > 0.7 and real["subject"] > 5 * protocol.chance["training"]["subject"]
    assert spoilt["style"] < real["style"] and spoilt["subject"] < real["subject"]
    assert nothing["recall"] < 0.05 < 0.3 < real["recall"]


def test_the_sheet_is_small_and_shows_every_subject_in_all_styles(shown):
    from sheet import FILE

    assert FILE.stat().st_size < 1e6
    assert shown.images.shape == (270, 64, 64, 3)
    assert torch.equal(shown.styles, torch.arange(9).repeat(30))
    rose = shown.image((shown.subjects == shown.captions.index("rose")).nonzero()[:, 0])
    inked = rose[4]
    assert (inked.amax(-1) - inked.amin(-1)).max() == 0  # no colour
    assert (rose[0].amax(-1) - rose[0].amin(-1)).max() > 0.5


def test_a_sheet_comes_back_from_its_file(tmp_path):
    from pictures import Pictures
    from sheet import load_sheet, save_sheet

    images = torch.randint(256, (18, 64, 64, 3), generator=torch.Generator().manual_seed(0)).byte()
    before = Pictures(
        images, torch.arange(2).repeat_interleave(9), torch.arange(9).repeat(2), torch.arange(18) % 3, ["a", "b c"]
    )
    save_sheet(before, tmp_path / "sheet.png")
    after = load_sheet(tmp_path / "sheet.png")
    assert after.captions == before.captions
    for part in ("images", "subjects", "styles", "held_out"):
        assert torch.equal(getattr(after, part), getattr(before, part))

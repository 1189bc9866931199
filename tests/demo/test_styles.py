"""Which pictures the style grid takes and which it keeps from the image prompt."""

import torch


def test_fluents_files_are_known_by_the_characters_name(tmp_path):
    from styles import fluent_files

    for name in ("1f436", "2764-fe0f", "1f468-200d-1f33e", "1f44b-1f3fb", "0031-fe0f-20e3"):
        (tmp_path / f"{name}.webp").touch()
    assert {name: file.stem for name, file in fluent_files(tmp_path).items()} == {
        "dog face": "1f436",
        "heavy black heart": "2764-fe0f",
    }


def test_subjects_are_available_ones_and_the_same_every_time():
    from styles import choose_subjects

    captions = [f"thing {i}" for i in range(50)]
    chosen = choose_subjects(captions, set(captions[10:]), 20)
    assert len(set(chosen)) == 20
    assert min(chosen) >= 10
    assert chosen == sorted(choose_subjects(captions, set(captions[10:]), 20))


def test_every_style_keeps_its_own_share_of_subjects_back():
    from styles import choose_unseen

    unseen = choose_unseen(5, 100, 0.2)
    assert unseen.sum(1).tolist() == [20] * 5
    assert not torch.equal(unseen[0], unseen[1])

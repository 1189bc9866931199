"""What the image encoder is said to know, on made-up features of which it is plain."""

import torch


def test_the_rank_of_a_subject_is_by_its_best_picture_in_other_styles():
    from judge_image_encoder import subject_ranks

    known = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.7, 0.3], [0.0, 1.0], [0.1, 0.9]]))
    subjects, styles = torch.tensor([0, 1, 2, 2, 0]), torch.tensor([0, 1, 1, 2, 2])
    asked = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    ranks = subject_ranks(asked, known, (torch.tensor([0, 0, 2]), subjects), (torch.tensor([1, 0, 0]), styles))
    # Style 1 asked for: subjects 0 and 2 have others, 1 none. Style 0: the nearest of all is left out.
    assert ranks.tolist() == [0, 2, 0]


def test_the_probe_names_styles_that_lie_on_a_direction_each():
    from judge_image_encoder import probe_accuracy

    generator = torch.Generator().manual_seed(0)
    styles = torch.randint(9, (2000,), generator=generator)
    directions = torch.randn(9, 40, generator=generator)
    features = 3 * directions[styles] + 20 + torch.randn(2000, 40, generator=generator)
    assert probe_accuracy(features[:500], features[500:], styles[:500], styles[500:]) > 0.98
    shuffled = styles[torch.randperm(2000, generator=generator)]
    assert probe_accuracy(features[:500], features[500:], shuffled[:500], shuffled[500:]) < 0.25

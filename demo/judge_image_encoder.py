"""What the demo's image encoder knows of pictures that it was not trained on: subjects in new styles, and styles.

    python demo/judge_image_encoder.py [--encoder .sid/image_encoder.safetensors]

Of each held-out pair of subject and style: how near the subject's training pictures are, which are all in other
styles, among those of all subjects in other styles than this one; and whether a linear probe that was fitted to the
training pictures names its style. Half a minute on one CPU core.
"""

import argparse
from pathlib import Path

import torch
from host import start_comfyui
from pictures import FILE, HELD_OUT_PAIR, STYLES, TRAINING, Pictures, load_pictures
from torch import Tensor
from train_image_encoder import OUT

BATCH = 256
RIDGE = 1e-2


def subject_ranks(asked: Tensor, known: Tensor, subjects: tuple[Tensor, Tensor], styles: tuple[Tensor, Tensor]):
    """Rank from 0 of each asked picture's subject among all, by the most similar known picture of another style.

    asked (A, D), known (K, D): of length 1. subjects, styles: of asked and of known.
    """
    similar = asked @ known.mT
    similar[styles[0][:, None] == styles[1]] = float("-inf")
    best = torch.full((len(asked), int(subjects[1].max()) + 1), float("-inf"))
    best.scatter_reduce_(1, subjects[1].expand_as(similar), similar, "amax")
    own = best.gather(1, subjects[0][:, None])
    return (best > own).sum(1)


def probe_accuracy(asked: Tensor, known: Tensor, asked_styles: Tensor, known_styles: Tensor) -> float:
    """Of a ridge regression onto the styles, fitted to the known (K, D) and asked of others (A, D)."""
    from sid_pack.sid_core.evaluation.linear import ridge_map

    scale = known.std(0) + 1e-6
    wanted = torch.nn.functional.one_hot(known_styles, len(STYLES))
    answers = ridge_map(known / scale, wanted, RIDGE * len(known))(asked / scale)
    return (answers.argmax(1) == asked_styles).float().mean().item()


@torch.inference_mode()
def all_seen(clip_vision, pictures: Pictures) -> dict[str, Tensor]:
    """Of all pictures, (N, D) each: the embedding, and the mean of the tokens that image prompts take."""
    seen = {"embedding": [], "tokens' mean": []}
    for index in torch.arange(len(pictures.images)).split(BATCH):
        output = clip_vision.encode_image(pictures.image(index))
        seen["embedding"].append(output["image_embeds"])
        seen["tokens' mean"].append(output["penultimate_hidden_states"].mean(1))
    return {name: torch.cat(parts).float() for name, parts in seen.items()}


def judge(features: Tensor, pictures: Pictures) -> dict[str, float]:
    """R@1, R@10 and the probe's accuracy on held-out pairs."""
    asked, known = pictures.where(HELD_OUT_PAIR), pictures.where(TRAINING)
    subjects, styles = (tuple(of[i].long() for i in (asked, known)) for of in (pictures.subjects, pictures.styles))
    unit = torch.nn.functional.normalize(features - features[known].mean(0))
    ranks = subject_ranks(unit[asked], unit[known], subjects, styles)
    found = {f"subject R@{k}": (ranks < k).float().mean().item() for k in (1, 10)}
    return found | {"style": probe_accuracy(features[asked], features[known], *styles)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", type=Path, default=OUT)
    parser.add_argument("--pictures", type=Path, default=FILE)
    args = parser.parse_args()
    start_comfyui()
    from sid_pack.nodes.demo.image_encoder import load_image_encoder

    pictures = load_pictures(args.pictures)
    for name, features in all_seen(load_image_encoder(args.encoder), pictures).items():
        print(name, {measure: round(value, 3) for measure, value in judge(features, pictures).items()})


if __name__ == "__main__":
    main()

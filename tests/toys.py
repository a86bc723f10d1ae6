"""Small stand-ins that several test files share: a tokenizer built in code and a whole tiny run."""

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from eestudy import artifacts, backbone, config, prompts, retriever, scorer, training


def byte_tokenizer():
    """One token per byte, and ' yes' and ' no' as one token each."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: i for i, letter in enumerate([*alphabet, "<unk>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([" yes", " no"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")  # noqa: S106


def frames(n_users=12, n_items=20, per_user=15, max_candidates=3, seed=0):
    """Interactions, users, items, split and evidence of a made-up dataset, in the shape notebooks 01 and 03 write."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(n_users):
        for position, item in enumerate(rng.permutation(n_items)[:per_user]):
            rating = int(rng.integers(1, 6))
            rows.append((user, item, float(rating), int(rating >= 4), 1000 * position + user))
    table = pd.DataFrame(rows, columns=["user_id", "item_id", "rating", "label", "timestamp"])
    table.insert(0, "row", range(len(table)))
    table["observed"] = True
    position = table.groupby("user_id").cumcount()
    part = pd.cut(position, [-1, per_user * 0.6 - 1, per_user * 0.8 - 1, per_user * 0.9 - 1, per_user],
                  labels=["graph", "label", "validation", "test"]).astype(str)
    half = np.where(part == "validation", np.where(table["user_id"] < n_users * 2 // 3, "select", "risk"), "")
    split = pd.DataFrame({"row": table["row"], "split": part, "half": half})
    block = table.assign(part=part).groupby(["user_id", "part"]).cumcount() // max_candidates
    key = table["user_id"].astype(str) + part + block.astype(str)
    split["request_id"] = np.where(part == "graph", -1, pd.factorize(key)[0])
    first = table.groupby(split["request_id"])["timestamp"].transform("min")
    split["request_timestamp"] = np.where(part == "graph", -1, first)
    split["judged"] = part != "graph"
    asked = split.loc[split["judged"], "row"]
    lists = [rng.integers(1, 6, rng.integers(0, 4)).astype(np.int8) for _ in range(2 * len(asked))]
    evidence = pd.DataFrame({"row": asked, "others": lists[::2], "own": lists[1::2]})
    users = pd.DataFrame({"user_id": range(n_users), "age": "30", "gender": "F", "occupation": "writer"})
    items = pd.DataFrame({"item_id": range(n_items), "title": [f"Film {i}" for i in range(n_items)]})
    return {"interactions": table, "users": users, "items": items, "split": split, "evidence": evidence}


def study(**heads):
    """The smoke settings, smaller still."""
    cfg = config.load("ml-100k", "smoke", 0)
    fields = {"checkpoint_steps": 3, "n_init_rows": 10, "n_eval_rows": 10, **heads}
    return cfg.model_copy(update={
        "heads": cfg.heads.model_copy(update=fields),
        "prompt": cfg.prompt.model_copy(update={"max_prefix_tokens": 300, "max_suffix_tokens": 200}),
    })


def run_with(tables, folder):
    """A run in `folder` that holds the given tables."""
    folder.mkdir(parents=True, exist_ok=True)
    run = artifacts.Run(folder, "ml-100k", "smoke", 0)
    for name, frame in tables.items():
        artifacts.write_table(run, f"{name}.parquet", frame)
    return run


def graph_evidence(cfg, frames, rng):
    """The graph's vectors and the evidence of notebook 03."""
    emb = {name: rng.normal(size=(n, 4)).astype(np.float32)
           for name, n in (("user_label", 12), ("item_label", 20), ("user_final", 12), ("item_final", 20))}
    pair = [retriever.graph_retriever(emb[f"user_{part}"], emb[f"item_{part}"]) for part in ("label", "final")]
    if cfg.data.has_stars:
        return emb, retriever.split_evidence(frames["interactions"], frames["split"], *pair, 3, 3)
    return emb, retriever.split_matches(frames["interactions"], frames["split"], *pair, 3)


def trained_run(cfg, folder):
    """A toy run that has come as far as notebook 05, its model shaken instead of trained."""
    made, tokenizer = frames(), byte_tokenizer()
    emb, made["evidence"] = graph_evidence(cfg, made, np.random.default_rng(0))
    made["prompts"], _ = prompts.build_prompts(cfg, made, tokenizer)
    run = run_with(made, folder)
    artifacts.write_arrays(run, "embeddings.safetensors", emb)
    model, generator = training.build_model(cfg, tokenizer), torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or ".heads." in f".{name}":
            torch.nn.init.normal_(parameter, std=0.2 if parameter.ndim else 0.5, generator=generator)
    arrays = training.trained_arrays(model)
    for name, start in ((training.ADAPTER, "adapter."), (training.HEADS, "heads.")):
        artifacts.write_arrays(run, name, {key: value for key, value in arrays.items() if key.startswith(start)})
    requests = training.load_requests(run, tokenizer)
    merged = training.load_scorable(cfg, run, tokenizer)
    engine = scorer.build_engine(merged.backbone, merged.heads)
    logits = pd.concat([training.score_requests(run, engine, requests[part], part, "p") for part in ("select", "test")])
    scores, fitted = training.calibrate_scores(training.describe_rows(run, logits.reset_index(drop=True)))
    artifacts.write_table(run, "head_scores.parquet", scores)
    artifacts.write_json(run, "calibration.json", {"slope_intercept": fitted})
    return cfg, run


def decoder_states(model, ids):
    """Raw states [T, D] after every layer of the library's own forward."""
    caught = []
    hooks = [layer.register_forward_hook(lambda _, __, out: caught.append(out[0] if isinstance(out, tuple) else out))
             for layer in backbone.decoder(model).layers]
    with backbone.attention(model, "sdpa"):
        model(input_ids=ids[None], use_cache=False)
    for hook in hooks:
        hook.remove()
    return [state.reshape(len(ids), -1) for state in caught]


def shop_files(n_users=40, n_items=30, per_user=20, seed=0):
    """Good files of a made-up shop: 'ratings.csv' (user,item,stars,when) and 'items.csv' (item,name), as bytes."""
    rng = np.random.default_rng(seed)
    quality, rows = rng.normal(3.4, 1.0, n_items), ["user,item,stars,when"]
    for user in range(n_users):
        for place, item in enumerate(rng.permutation(n_items)[:per_user]):
            stars = int(np.clip(round(quality[item] + rng.normal(0, 1)), 1, 5))
            rows.append(f"u{user},i{item},{stars},{1000 * place + user}")
    items = ["item,name", *(f"i{item},Thing {item}" for item in range(n_items))]
    return {name: ("\n".join(lines) + "\n").encode() for name, lines in (("ratings.csv", rows), ("items.csv", items))}

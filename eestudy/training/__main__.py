"""Train and score outside a notebook, in one process or in several that share the work.

    accelerate launch --multi_gpu --num_processes 2 -m eestudy.training --dataset ml-100k --profile laptop --seed 0

Without a GPU the processes talk through gloo. `--multi_gpu` is right there, too: it is accelerate's word for "several
processes", while its `--cpu` starts one. On several machines that share RUN_DIR, give the same command on each, with
`--num_machines`, `--machine_rank`, `--main_process_ip` and `--main_process_port`. For a model that one device cannot
train, `--config_file accelerate_fsdp.yaml`.

Notebook 05 then finds adapter, heads and scores, and goes on from there.
"""

from __future__ import annotations

import argparse
import os
import sys

import torch
from accelerate import PartialState

from eestudy import artifacts, assets, backbone, config, scorer, training
from eestudy.commands import ends_plainly


def check_processes(n_local: int, n_gpus: int) -> None:
    """Stop where there are more processes than devices.

    Args:
        n_local: processes on this machine.
        n_gpus: GPUs on this machine; 0: the processes share the CPU, as many as wanted.

    Raises:
        SystemExit: with what to do, as its message.
    """
    if 0 < n_gpus < n_local:
        sys.exit(f"{n_local} processes, but this machine has {n_gpus} GPU(s): one process per GPU at most. "
                 f"Set NUM_PROCESSES={n_gpus}, or hide the GPUs (CUDA_VISIBLE_DEVICES=) to use the CPU")


def main(arguments: list[str] | None = None) -> None:
    """Train, then score this process's share of every part; what is there already is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    with ends_plainly(ValueError, artifacts.ArtifactError, assets.AssetError):
        _train_and_score(asked)


def _train_and_score(asked: argparse.Namespace) -> None:
    check_processes(int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count())
    state = PartialState(cpu=not torch.cuda.is_available())
    cfg = config.load(asked.dataset, asked.profile, asked.seed)
    run = artifacts.open_run(asked.dataset, asked.profile, asked.seed)
    tokenizer = backbone.load_tokenizer(cfg.backbone)
    requests = training.load_requests(run, tokenizer)
    log = training.train(cfg, run, tokenizer, requests)
    if state.is_main_process:
        print(log[log["kind"] == "look"].round(4).to_string(index=False), flush=True)
    state.destroy_process_group()  # from here on nobody waits for anybody
    model = training.load_scorable(cfg, run, tokenizer).to(state.device)
    engine = scorer.build_engine(model.backbone, model.heads)
    training.score_share(cfg, run, engine, requests, state.process_index, state.num_processes)


if __name__ == "__main__":
    main()

"""The training loop: many small steps, a few looks at validation, checkpoints that resume bit by bit.

Several processes (`accelerate launch`) share every step exactly: a step's loss and gradient are those of the same
requests in one process, up to the order of sums. So the number of processes changes neither the batches nor the
learning rates, and a checkpoint of one number is good for any other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch.distributed.tensor import DTensor, distribute_tensor

from eestudy import artifacts, backbone, exit_heads
from eestudy.artifacts import Run
from eestudy.config import StudyConfig
from eestudy.metrics import auc, log_loss
from eestudy.progress import progress
from eestudy.training.model import (
    ADAPTER,
    HEADS,
    ExitModel,
    build_model,
    load_trained,
    make_optimizer,
    schedule,
    trained_arrays,
    training_fingerprint,
    whole,
)
from eestudy.training.requests import (
    Request,
    drop_evidence,
    first_rows,
    main_mode,
    only_mode,
    share_batch,
    soft_vectors,
)
from eestudy.training.scoring import head_logits

LOG = "training.csv"
CHECKPOINTS = ("checkpoint.safetensors", "checkpoint_2.safetensors")  # in turn: a kill may spoil the one being written


def make_batches(cfg: StudyConfig, requests: Sequence[Request]) -> list[list[Request]]:
    """Requests of every step, in a seeded order, evidence dropped at random.

    Args:
        cfg: the study's settings; a step holds `requests_per_step` requests, however many processes share it.
        requests: the label part, every row in every mode.

    Returns:
        One list of requests per step; the last one may be shorter.
    """
    rng = np.random.default_rng([cfg.seed, 5])
    size = cfg.heads.requests_per_step
    order = np.concatenate([rng.permutation(len(requests)) for _ in range(cfg.heads.max_epochs)])
    drawn = [drop_evidence(requests[i], cfg.prompt.keep_probability, rng) for i in order]
    return [drawn[start:start + size] for start in range(0, len(drawn), size)]


def shared_logits(accelerator: Accelerator, model: ExitModel, requests: Sequence[Request]) -> np.ndarray:
    """Raw logits [n, E] of all requests' candidates; every process reads some requests, and all receive all of them."""
    starts = np.cumsum([0, *(len(r.rows) for r in requests)])
    found = np.zeros((starts[-1], len(model.heads.exit_layers)), dtype=np.float32)
    n = accelerator.num_processes
    for turn in range(-(-len(requests) // n)):  # equally many turns for each: see `share_batch`
        mine = turn * n + accelerator.process_index
        logits = head_logits(model, [requests[mine % len(requests)]])
        if mine < len(requests):
            found[starts[mine]:starts[mine + 1]] = logits
    return accelerator.reduce(torch.from_numpy(found).to(accelerator.device), reduction="sum").cpu().numpy()


def initialise_heads(
    accelerator: Accelerator, model: ExitModel, requests: Sequence[Request], n_rows: int, mode: str = "both"
) -> None:
    """Fit every head's scale and bias on a few hundred label rows in one mode, so that no step goes to scale."""
    some = first_rows(only_mode(requests, mode), n_rows)
    logits = shared_logits(accelerator, model, some)
    exit_heads.fit_scale_and_bias(model.heads, logits.T, np.concatenate([r.labels for r in some]))
    broadcast([parameter.data for parameter in model.heads.parameters()])  # processors may differ in the last bit


def train(cfg: StudyConfig, run: Run, tokenizer, requests: dict[str, list[Request]]) -> pd.DataFrame:
    """Train adapter and heads jointly; the look at validation with the lowest mean log loss is kept.

    Args:
        cfg: the study's settings.
        run: keeps the checkpoint while training and receives `adapter.safetensors`, `exit_heads.safetensors`.
        tokenizer: the backbone's.
        requests: from `load_requests`; the parts 'label' and 'select' are used.

    Returns:
        The log: kind ('step' or 'look'), step, labels, seconds, loss, and loss_<layer> / auc_<layer>.

    Raises:
        FloatingPointError: a loss that is not a number.
    """
    wanted = training_fingerprint(cfg, run)
    if all(artifacts.is_current(run, name, wanted) for name in (LOG, ADAPTER, HEADS)):
        return artifacts.read_table(run, LOG)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    done, lines, best, kept = _read_checkpoint(run, wanted)
    model, wrapped, optimizer = _prepare(accelerator, build_model(cfg, tokenizer, soft_vectors(run)), cfg, kept)
    rates = [group["lr"] for group in optimizer.param_groups]
    batches = make_batches(cfg, requests["label"])
    looks = {round(len(batches) * (k + 1) / cfg.heads.evaluations) for k in range(cfg.heads.evaluations)}
    mode, weights = main_mode(cfg.prompt.keep_probability), _weights(cfg)
    judged = first_rows(only_mode(requests["select"], mode), cfg.heads.n_eval_rows)
    if done == 0:
        initialise_heads(accelerator, model, requests["label"], cfg.heads.n_init_rows, mode)
    for step in _main_progress(accelerator, range(done, len(batches)), initial=done):
        factor = schedule(step, len(batches), cfg.heads.warmup_fraction)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        lines.append(_step(accelerator, wrapped, optimizer, batches[step], step + 1, model.heads, cfg))
        if step + 1 in looks:
            lines.append(look(accelerator, model, judged, step + 1, weights))
            best = _better(trained_arrays(model), best, lines)
        if (step + 1) % cfg.heads.checkpoint_steps == 0 or step + 1 in looks:
            _checkpoint(run, accelerator, model, optimizer, wanted, (step + 1, lines, best))
    return _finish(run, accelerator, best, lines, wanted)


def _prepare(accelerator: Accelerator, model: ExitModel, cfg: StudyConfig, kept: dict[str, np.ndarray]):
    """(model, the same as the processes share it, optimiser), in the checkpoint's state where there is one."""
    if kept:
        load_trained(model, kept)
    if not accelerator.is_fsdp2:  # what is to be sharded may be too large for one device
        model.to(accelerator.device)
    wrapped, optimizer = accelerator.prepare(model, make_optimizer(model, cfg))
    if kept:
        _restore_optimizer(optimizer, kept)
    return model, wrapped, optimizer


def _main_progress(accelerator: Accelerator, steps: range, initial: int):
    return progress(steps, "training", initial=initial) if accelerator.is_main_process else steps


def _weights(cfg: StudyConfig) -> np.ndarray:
    return np.array(exit_heads.head_weights(cfg.heads.exit_layers, cfg.heads.loss_weights), dtype=np.float32)


def _objective(cfg: StudyConfig, losses: torch.Tensor, logits: torch.Tensor, fraction: float) -> torch.Tensor:
    """What is minimised: the heads' losses [E] as weighted, and what the last head's answer [E, C] teaches the others.

    With equal weights these are the losses' mean, bit by bit: a product with 1 is exact.
    """
    total = (losses * torch.as_tensor(_weights(cfg), device=losses.device)).mean()
    if cfg.heads.distill:
        total = total + cfg.heads.distill * fraction * exit_heads.distillation_loss(logits)
    return total


def _step(
    accelerator: Accelerator, wrapped, optimizer, batch: list[Request], step: int, heads, cfg: StudyConfig
) -> dict:  # fmt: skip
    """One optimiser step on this process's share of the batch; returns a log line of the whole batch."""
    record: dict = {"kind": "step", "step": step}
    wrapped.train()
    with artifacts.stopwatch(record, "seconds"):
        n = accelerator.num_processes
        parts = share_batch(batch, accelerator.process_index, n)
        losses = []
        for turn, (request, fraction) in enumerate(parts, 1):
            pack = backbone.make_pack(request.prefix, request.suffixes, accelerator.device)
            wanted = request.labels if request.targets is None else request.targets
            labels = torch.as_tensor(wanted, device=accelerator.device)
            with nullcontext() if turn == len(parts) else accelerator.no_sync(wrapped):  # gradients meet once a step
                logits = wrapped(pack)  # [E, C]
                loss = exit_heads.joint_loss(logits, labels) * fraction  # [E]
                objective = _objective(cfg, loss, logits, fraction)
                accelerator.backward(objective * n / len(batch))  # times n: gradients are averaged
            losses.append(loss.detach())
        _average_heads(accelerator, heads)
        accelerator.clip_grad_norm_(wrapped.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        per_head = (accelerator.reduce(torch.stack(losses).sum(0), reduction="sum") / len(batch)).tolist()
    if not np.isfinite(per_head).all():
        raise FloatingPointError(f"step {step}: loss per head is {per_head}; lower heads.lora_lr or heads.head_lr")
    return record | {"labels": sum(len(r.rows) for r in batch), "loss": float(np.mean(per_head))} | {
        f"loss_{layer}": value for layer, value in zip(heads.exit_layers, per_head, strict=True)}


def _average_heads(accelerator: Accelerator, heads) -> None:
    """Average the gradients of the heads, where accelerate shards the backbone and is told to ignore them."""
    if accelerator.is_fsdp2:
        for parameter in heads.parameters():
            parameter.grad = accelerator.reduce(parameter.grad, reduction="mean")


def look(
    accelerator: Accelerator, model: ExitModel, requests: Sequence[Request], step: int, weights: np.ndarray | float = 1,
) -> dict:  # fmt: skip
    """Log loss and AUC of every head on validation requests, as a log line; `loss` weighs the heads [E] as training."""
    record: dict = {"kind": "look", "step": step}
    with artifacts.stopwatch(record, "seconds"):
        logits = shared_logits(accelerator, model, requests)  # [n, E]
    labels = np.concatenate([r.labels for r in requests])
    record["labels"] = len(labels)
    for layer, z in zip(model.heads.exit_layers, logits.T, strict=True):
        record[f"loss_{layer}"] = log_loss(labels, 1 / (1 + np.exp(-z.astype(np.float64))))
        record[f"auc_{layer}"] = auc(labels, z)
    record["loss"] = float(np.mean(np.array([record[f"loss_{k}"] for k in model.heads.exit_layers]) * weights))
    return record


def _better(weights: dict[str, np.ndarray], best: dict[str, np.ndarray] | None, lines: list[dict]):
    """The weights of the last look where none before it was better."""
    losses = [line["loss"] for line in lines if line["kind"] == "look"]
    return weights if losses[-1] <= min(losses) else best


# --- checkpoints ---------------------------------------------------------------------------------------------


def _checkpoint(run: Run, accelerator: Accelerator, model, optimizer, wanted: str, progress_so_far) -> None:
    step, lines, best = progress_so_far
    arrays = trained_arrays(model)
    for index, state in sorted(optimizer.state_dict()["state"].items()):  # what is gathered needs one order everywhere
        arrays |= {f"optimizer.{index}.{key}": whole(state[key]).cpu().numpy() for key in sorted(state)}
    if best is not None:
        arrays |= {f"best.{key}": value for key, value in best.items()}
    if accelerator.is_main_process:
        older = min(CHECKPOINTS, key=lambda name: _step_of(run, name, wanted))
        artifacts.write_arrays(run, older, arrays, fingerprint=wanted, step=step, lines=json.dumps(lines))


def _read_checkpoint(run: Run, wanted: str) -> tuple[int, list[dict], dict | None, dict[str, np.ndarray]]:
    """(finished steps, log lines, best weights so far, the checkpoint's arrays); nothing of a stale one."""
    whole_ones = [name for name in CHECKPOINTS if artifacts.is_current(run, name, wanted)]
    if not whole_ones:
        return 0, [], None, {}
    newest = max(whole_ones, key=lambda name: _step_of(run, name, wanted))
    arrays, meta = artifacts.read_arrays(run, newest), artifacts.read_meta(run, newest)
    best = {key.removeprefix("best."): value for key, value in arrays.items() if key.startswith("best.")}
    return meta["step"], json.loads(meta["lines"]), best or None, arrays


def _step_of(run: Run, name: str, wanted: str) -> int:
    """After how many steps a checkpoint was written; 0: there is none, or it is stale."""
    meta = artifacts.read_meta(run, name)
    return meta["step"] if meta.get("fingerprint") == wanted else 0


def _restore_optimizer(optimizer, arrays: dict[str, np.ndarray]) -> None:
    """Bring the optimiser to the checkpoint's state, sharded where its parameters are."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict] = {}
    for key, value in arrays.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            tensor, parameter = torch.from_numpy(np.array(value)), parameters[int(index)]
            if isinstance(parameter, DTensor) and tensor.ndim:
                mesh, placements = parameter.device_mesh, parameter.placements
                tensor = distribute_tensor(tensor, mesh, placements, src_data_rank=None)  # each cuts out its own part
            state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _finish(run: Run, accelerator, best: dict[str, np.ndarray], lines: list[dict], wanted: str) -> pd.DataFrame:
    log = pd.DataFrame(lines)
    if accelerator.is_main_process:
        artifacts.write_table(run, LOG, log, fingerprint=wanted)
        for name, kind in ((ADAPTER, ("adapter.", "soft.")), (HEADS, "heads.")):
            artifacts.write_arrays(run, name, {k: v for k, v in best.items() if k.startswith(kind)}, fingerprint=wanted)
        for name in CHECKPOINTS:  # the trained weights replace them
            run.path(name).unlink(missing_ok=True)
            run.path(name + ".meta.json").unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    return artifacts.read_table(run, LOG)

"""The training loop: many small steps, a few looks at validation, checkpoints that resume bit by bit."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator

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
)
from eestudy.training.requests import Request, drop_evidence, first_rows, only_mode
from eestudy.training.scoring import head_logits

CHECKPOINT, LOG = "checkpoint.safetensors", "training.csv"


def make_batches(cfg: StudyConfig, requests: Sequence[Request], n_processes: int = 1) -> list[list[Request]]:
    """Requests of every step of every process, in a seeded order, evidence dropped at random.

    Args:
        cfg: the study's settings.
        requests: the label part, every row in every mode.
        n_processes: processes that share the steps; a step holds `requests_per_step` requests for each.

    Returns:
        One list of requests per step; process r takes every n_processes-th from r on.
    """
    rng = np.random.default_rng([cfg.seed, 5])
    size = cfg.heads.requests_per_step * n_processes
    order = np.concatenate([rng.permutation(len(requests)) for _ in range(cfg.heads.max_epochs)])
    drawn = [drop_evidence(requests[i], cfg.prompt.keep_probability, rng) for i in order]
    batches = [drawn[start:start + size] for start in range(0, len(drawn), size)]
    if len(batches[-1]) < n_processes:  # every process needs a request in every step
        batches[-1] = [batches[-1][k % len(batches[-1])] for k in range(n_processes)]
    return batches


def initialise_heads(model: ExitModel, requests: Sequence[Request], n_rows: int) -> None:
    """Fit every head's scale and bias on a few hundred label rows (mode 'both'), so that no step goes to scale."""
    some = first_rows(only_mode(requests, "both"), n_rows)
    logits = head_logits(model, some)
    exit_heads.fit_scale_and_bias(model.heads, logits.T, np.concatenate([r.labels for r in some]))


def train(cfg: StudyConfig, run: Run, tokenizer, requests: dict[str, list[Request]]) -> pd.DataFrame:
    """Train adapter and heads jointly; the look at validation with the lowest mean log loss is kept.

    Args:
        cfg: the study's settings.
        run: keeps the checkpoint while training and receives `adapter.safetensors`, `exit_heads.safetensors`.
        tokenizer: the backbone's.
        requests: from `load_requests`; the parts 'label' and 'select' are used.

    Returns:
        The log: kind ('step' or 'look'), step, labels, seconds, loss, and loss_<layer> / auc_<layer>.
    """
    wanted = training_fingerprint(cfg, run)
    if all(artifacts.is_current(run, name, wanted) for name in (LOG, ADAPTER, HEADS)):
        return artifacts.read_table(run, LOG)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    model = build_model(cfg, tokenizer).to(accelerator.device)
    optimizer = make_optimizer(model, cfg)
    rates = [group["lr"] for group in optimizer.param_groups]
    batches = make_batches(cfg, requests["label"], accelerator.num_processes)
    looks = {round(len(batches) * (k + 1) / cfg.heads.evaluations) for k in range(cfg.heads.evaluations)}
    judged = first_rows(only_mode(requests["select"], "both"), cfg.heads.n_eval_rows)
    done, lines, best = _resume(run, model, optimizer, wanted)
    if done == 0:
        initialise_heads(model, requests["label"], cfg.heads.n_init_rows)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    for step in progress(range(done, len(batches)), "training", initial=done):
        factor = schedule(step, len(batches), cfg.heads.warmup_fraction)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        lines.append(_step(accelerator, wrapped, optimizer, batches[step], step + 1, model.heads.exit_layers))
        if step + 1 in looks:
            lines.append(look(model, judged, step + 1))
            if lines[-1]["loss"] <= min(line["loss"] for line in lines if line["kind"] == "look"):
                best = trained_arrays(model)
        if (step + 1) % cfg.heads.checkpoint_steps == 0 or step + 1 in looks:
            _checkpoint(run, accelerator, model, optimizer, wanted, (step + 1, lines, best))
    return _finish(run, accelerator, best, lines, wanted)


def _step(accelerator, wrapped, optimizer, batch: list[Request], step: int, layers) -> dict:
    """One optimiser step on this process's share of the batch; returns a log line."""
    record: dict = {"kind": "step", "step": step}
    wrapped.train()
    with artifacts.stopwatch(record, "seconds"):
        share = batch[accelerator.process_index::accelerator.num_processes]
        losses = []
        for request in share:
            pack = backbone.make_pack(request.prefix, request.suffixes, accelerator.device)
            labels = torch.as_tensor(request.labels, device=accelerator.device)
            loss = exit_heads.joint_loss(wrapped(pack), labels)  # [E]
            accelerator.backward(loss.mean() / len(share))
            losses.append(loss.detach())
        accelerator.clip_grad_norm_(wrapped.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    per_head = torch.stack(losses).mean(0).tolist()
    if not np.isfinite(per_head).all():
        raise FloatingPointError(f"step {step}: loss per head is {per_head}; lower heads.lora_lr or heads.head_lr")
    return record | {"labels": sum(len(r.rows) for r in share), "loss": float(np.mean(per_head))} | {
        f"loss_{layer}": value for layer, value in zip(layers, per_head, strict=True)}


def look(model: ExitModel, requests: Sequence[Request], step: int) -> dict:
    """Log loss and AUC of every head on validation requests, as a log line."""
    record: dict = {"kind": "look", "step": step}
    with artifacts.stopwatch(record, "seconds"):
        logits = head_logits(model, requests)  # [n, E]
    labels = np.concatenate([r.labels for r in requests])
    record["labels"] = len(labels)
    for layer, z in zip(model.heads.exit_layers, logits.T, strict=True):
        record[f"loss_{layer}"] = log_loss(labels, 1 / (1 + np.exp(-z.astype(np.float64))))
        record[f"auc_{layer}"] = auc(labels, z)
    record["loss"] = float(np.mean([record[f"loss_{layer}"] for layer in model.heads.exit_layers]))
    return record


# --- checkpoints ---------------------------------------------------------------------------------------------


def _checkpoint(run: Run, accelerator, model, optimizer, wanted: str, progress_so_far) -> None:
    step, lines, best = progress_so_far
    if not accelerator.is_main_process:
        return
    arrays = trained_arrays(accelerator.unwrap_model(model))
    for index, state in optimizer.state_dict()["state"].items():
        arrays |= {f"optimizer.{index}.{key}": value.cpu().numpy() for key, value in state.items()}
    if best is not None:
        arrays |= {f"best.{key}": value for key, value in best.items()}
    artifacts.write_arrays(run, CHECKPOINT, arrays, fingerprint=wanted, step=step, lines=json.dumps(lines))


def _resume(run: Run, model: ExitModel, optimizer, wanted: str) -> tuple[int, list[dict], dict | None]:
    """(finished steps, log lines, best weights so far), with the model and optimiser brought to that state."""
    if not artifacts.is_current(run, CHECKPOINT, wanted):
        return 0, [], None
    arrays, meta = artifacts.read_arrays(run, CHECKPOINT), artifacts.read_meta(run, CHECKPOINT)
    load_trained(model, arrays)
    state: dict[int, dict] = {}
    for key, value in arrays.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = torch.from_numpy(np.array(value))
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    best = {key.removeprefix("best."): value for key, value in arrays.items() if key.startswith("best.")}
    return meta["step"], json.loads(meta["lines"]), best or None


def _finish(run: Run, accelerator, best: dict[str, np.ndarray], lines: list[dict], wanted: str) -> pd.DataFrame:
    log = pd.DataFrame(lines)
    if accelerator.is_main_process:
        artifacts.write_table(run, LOG, log, fingerprint=wanted)
        for name, kind in ((ADAPTER, "adapter."), (HEADS, "heads.")):
            artifacts.write_arrays(run, name, {k: v for k, v in best.items() if k.startswith(kind)}, fingerprint=wanted)
        for name in (CHECKPOINT, CHECKPOINT + ".meta.json"):  # the trained weights replace it
            run.path(name).unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    return artifacts.read_table(run, LOG)

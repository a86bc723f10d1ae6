"""Several processes train and score as one does; one that is killed leaves a run that goes on; misfits are refused.

The file is also what `accelerate launch` starts here: the real command on a tiny run.
"""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import toys

from eestudy import artifacts, backbone, config, exit_heads, prompts, scorer, training
from eestudy.training import __main__ as command

CFG = toys.study(requests_per_step=3)  # two processes: one whole request each, the third one split
TOLERANCE = 1e-5  # of p_yes from the same weights, and of a training loss; seen: 0 and 6e-7
CONFIG = artifacts.ROOT / "accelerate_fsdp.yaml"


def run_in(folder):
    """A run that is ready to train: requests of two candidates and of one."""
    frames = toys.frames(n_users=20, max_candidates=2)
    table, tokens = prompts.build_prompts(CFG, frames, toys.byte_tokenizer())
    return toys.run_with({**frames, "prompts": table, "prompt_tokens": tokens}, folder)


def launch(run, *how, die_at=0):
    """Run the training command in two processes; `die_at`: the step at which the second one is killed."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--main_process_port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(artifacts.ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run([*launcher, *how, __file__, str(run.root), str(die_at)], env=environment,  # noqa: S603
                          capture_output=True, text=True, timeout=100)


def be_a_process(folder, die_at):
    """What one of the launched processes does: `python -m eestudy.training`, told of the tiny run."""
    config.load = lambda *_: CFG
    artifacts.open_run = lambda *_: artifacts.Run(folder, "ml-100k", "smoke", 0)
    backbone.load_tokenizer = lambda _: toys.byte_tokenizer()
    if os.environ.get("ACCELERATE_USE_FSDP"):
        training.loop.Accelerator = sharding_accelerator
    step = training.loop._step

    def dies(accelerator, wrapped, optimizer, batch, number, *others):
        if number == die_at and accelerator.process_index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(accelerator, wrapped, optimizer, batch, number, *others)

    training.loop._step = dies
    command.main([])


def sharding_accelerator(**options):
    """An Accelerator that shards on the CPU, as accelerate itself does on GPUs only."""
    from accelerate import Accelerator, DistributedType, PartialState
    from accelerate.utils import FullyShardedDataParallelPlugin

    accelerator = Accelerator(**options)
    accelerator.state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()  # reads what the configuration file says
    return accelerator


def trained(run):
    """Adapter and heads of a finished run."""
    return artifacts.read_arrays(run, training.ADAPTER) | artifacts.read_arrays(run, training.HEADS)


def test_two_processes_are_one_and_survive_a_kill(tmp_path, monkeypatch):
    tokenizer = toys.byte_tokenizer()
    one, two, killed = (run_in(tmp_path / name) for name in ("one", "two", "killed"))
    requests = training.load_requests(one, tokenizer)
    log = training.train(CFG, one, tokenizer, requests)

    done = launch(two, "--multi_gpu")
    assert done.returncode == 0, done.stderr
    assert_same_curve(log, artifacts.read_table(two, "training.csv"))
    assert_same_scores(two, tokenizer, requests, monkeypatch)

    start = time.perf_counter()
    assert launch(killed, "--multi_gpu", die_at=9).returncode != 0
    assert time.perf_counter() - start < 60  # nobody waits for the dead
    assert sorted(artifacts.read_meta(killed, name)["step"] for name in training.CHECKPOINTS) == [6, 7]
    again = launch(killed, "--multi_gpu")
    assert again.returncode == 0, again.stderr
    assert_same_weights(killed, two, tolerance=0)


def assert_same_weights(one, other, tolerance):
    found, wanted = trained(one), trained(other)
    assert found.keys() == wanted.keys()
    for key in wanted:
        np.testing.assert_allclose(found[key], wanted[key], atol=tolerance, rtol=0, err_msg=key)


def assert_same_curve(one, other):
    assert one["kind"].tolist() == other["kind"].tolist() and one["labels"].tolist() == other["labels"].tolist()
    columns = [column for column in one if column.startswith(("loss", "auc"))]
    np.testing.assert_allclose(one[columns], other[columns], atol=TOLERANCE)


def assert_same_scores(run, tokenizer, requests, monkeypatch):
    """What the processes left is complete, in order, and what one process makes of the same weights."""
    model = training.load_scorable(CFG, run, tokenizer)
    engine = scorer.build_engine(model.backbone, model.heads)
    with monkeypatch.context() as patched:
        patched.setattr(scorer, "score_all", None)  # would fail if anything were left to score
        merged = training.score_parts(CFG, run, engine, requests)
    shutil.rmtree(run.path("chunks"))
    alone = training.score_parts(CFG, run, engine, requests)
    assert merged[["row", "mode"]].equals(alone[["row", "mode"]])
    merged, alone = (training.calibrate_scores(training.describe_rows(run, raw))[0] for raw in (merged, alone))
    columns = [column for column in merged if column.startswith("p_yes_")]
    np.testing.assert_allclose(merged[columns], alone[columns], atol=TOLERANCE, rtol=0)


def test_a_sharded_model_trains_as_a_whole_one(tmp_path):
    tokenizer = toys.byte_tokenizer()
    one, two = run_in(tmp_path / "one"), run_in(tmp_path / "two")
    log = training.train(CFG, one, tokenizer, training.load_requests(one, tokenizer))
    assert launch(two, "--config_file", str(CONFIG), die_at=9).returncode != 0
    done = launch(two, "--config_file", str(CONFIG))
    assert done.returncode == 0, done.stderr
    assert_same_curve(log, artifacts.read_table(two, "training.csv"))
    assert_same_weights(two, one, TOLERANCE)


def test_shares_of_a_step_add_up_to_its_gradient(tmp_path):
    run, tokenizer = run_in(tmp_path / "run"), toys.byte_tokenizer()
    requests = training.load_requests(run, tokenizer)["label"]
    model = training.build_model(CFG, tokenizer)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def gradient(parts, n_requests):
        for request, fraction in parts:
            pack = backbone.make_pack(request.prefix, request.suffixes)
            loss = exit_heads.joint_loss(model(pack), torch.as_tensor(request.labels)).mean()
            (loss * fraction / n_requests).backward()
        found = torch.cat([p.grad.flatten() for p in parameters])
        model.zero_grad()
        return found

    for n_requests, n_processes in ((1, 2), (1, 3), (2, 2), (3, 2), (2, 4)):
        batch = requests[:n_requests]
        shares = [training.share_batch(batch, process, n_processes) for process in range(n_processes)]
        assert len({len(share) for share in shares}) == 1
        whole = gradient([(request, 1.0) for request in batch], n_requests)
        parts = gradient([part for share in shares for part in share], n_requests)
        torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-4)
    assert training.share_batch(requests[:3], 0, 1) == [(request, 1.0) for request in requests[:3]]


def test_more_processes_than_gpus_are_refused():
    with pytest.raises(SystemExit, match="4 processes, but this machine has 2 GPU.*NUM_PROCESSES=2"):
        command.check_processes(4, 2)
    for fits in ((2, 2), (1, 2), (4, 0)):
        command.check_processes(*fits)


@pytest.mark.skipif(not shutil.which("make"), reason="no make")
def test_make_launches_before_notebook_05_and_refuses_other_than_numbers(tmp_path):
    def make(number):
        asked = ["make", "-n", "reproduce", f"NUM_PROCESSES={number}", f"RUN_DIR={tmp_path}"]
        return subprocess.run(asked, cwd=artifacts.ROOT, capture_output=True, text=True)  # noqa: S603

    for wrong in ("two", "0", "-1", "1.5", ""):
        assert "NUM_PROCESSES must be a whole number" in make(wrong).stderr
    assert "accelerate" not in make(1).stdout
    lines = make(2).stdout.splitlines()
    launched = [i for i, line in enumerate(lines) if "accelerate.commands.launch" in line]
    assert len(launched) == 1 and "eestudy.execution 05_exit_heads" in lines[launched[0] + 1]


def test_the_configuration_file_says_what_accelerate_understands(monkeypatch):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.launch import prepare_multi_gpu_env

    settings = load_config_from_file(str(CONFIG)).fsdp_config  # raises on unknown keys
    asked = launch_command_parser().parse_args(["--config_file", str(CONFIG), "-m", "eestudy.training"])
    assert set(settings) - {"fsdp_ignored_modules"} <= set(vars(asked))
    asked, _, _ = _validate_launch_command(asked)
    for name, value in prepare_multi_gpu_env(asked).items():
        if name.startswith("FSDP_"):
            monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward, plugin.activation_checkpointing) == (2, True, True)
    assert plugin.ignored_modules == "heads" and asked.mixed_precision == "no"


if __name__ == "__main__":
    from pathlib import Path

    be_a_process(Path(sys.argv[1]), int(sys.argv[2]))

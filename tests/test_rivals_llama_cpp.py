"""The llama.cpp rival: its file holds our model and head, and its answers are ours."""

import ctypes

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from eestudy import backbone, exit_heads, training
from eestudy.rivals import llama_cpp
from eestudy.rivals.llama_cpp import optional
from eestudy.rivals.llama_cpp.packed import batch_arrays
from eestudy.rivals.llama_cpp.serving import from_two_best

YES, NO, N_TOKENS = 7, 5, 260
installed = pytest.mark.skipif(not llama_cpp.available(), reason=optional.INSTALL)
token_lists = st.lists(st.integers(0, N_TOKENS - 1), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def model():
    cfg = LlamaConfig(vocab_size=N_TOKENS, hidden_size=64, intermediate_size=96, num_hidden_layers=4,
                      num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3, tie_word_embeddings=True)
    torch.manual_seed(0)
    return LlamaForCausalLM._from_config(cfg, attn_implementation=backbone.ATTENTION).eval()


@pytest.fixture(scope="module")
def exit_model(model):
    heads = exit_heads.ExitHeads((2, 4), *backbone.answer_direction(model, YES, NO))
    for head, bias in zip(heads.heads, (0.4, -0.7), strict=True):
        torch.nn.init.normal_(head.weight, std=0.2)
        torch.nn.init.constant_(head.bias, bias)
    return training.ExitModel(model, heads)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A file with nothing but a tokenizer: one token a byte, and a few more."""
    from gguf import GGUFWriter
    from tokenizers import pre_tokenizers

    path = tmp_path_factory.mktemp("gguf") / "template.gguf"
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens += [f"extra{i}" for i in range(N_TOKENS - len(tokens))]
    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * N_TOKENS)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def request(n_candidates, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda n: rng.integers(0, N_TOKENS, n).tolist()  # noqa: E731
    suffixes = [draw(rng.integers(1, 12)) for _ in range(n_candidates)]
    return training.Request(draw(20), suffixes, *np.zeros((3, n_candidates), int))


def exported(exit_model, template, folder, quantisation="F32", exit=1):
    head, layer = exit_model.heads.heads[exit], exit_model.heads.exit_layers[exit]
    path = folder / f"{quantisation}-{layer}.gguf"
    llama_cpp.export_gguf(exit_model.backbone, head, path, template, quantisation, (YES, NO), layer)
    return path, float(head.bias.detach())


@installed
@pytest.mark.parametrize("exit", [0, 1])
@pytest.mark.parametrize("open_", [llama_cpp.open_server, llama_cpp.open_packed])
def test_the_logits_are_ours_whole_and_truncated(exit_model, template, tmp_path, open_, exit, capfd):
    path, bias = exported(exit_model, template, tmp_path, exit=exit)
    with open_(path, 1, flash_attention=False, cache="F32") as server:
        for n_candidates in (1, 5, 17):  # 17: more than one batch
            asked = request(n_candidates, seed=n_candidates)
            found = llama_cpp.score_request(server, asked.prefix, asked.suffixes, YES, NO, bias)
            assert found.shape == (n_candidates,)
            assert np.ptp(found) > 0.5 or n_candidates == 1
            np.testing.assert_allclose(found, training.head_logits(exit_model, [asked])[:, exit], atol=1e-4)
    assert capfd.readouterr() == ("", "")


@installed
def test_slots_and_batches_change_the_way_and_not_the_answer(exit_model, template, tmp_path):
    path, bias = exported(exit_model, template, tmp_path)
    asked, found = request(9), []
    for opened in (llama_cpp.open_server(path, 1, n_slots=3), llama_cpp.open_server(path, 1, flash_attention=False),
                   llama_cpp.open_packed(path, 1, n_beside=4, flash_attention=False)):
        with opened as server:
            found.append(llama_cpp.score_request(server, asked.prefix, asked.suffixes, YES, NO, bias))
    np.testing.assert_allclose(found, [found[0]] * 3, atol=0.05)


@installed
@pytest.mark.parametrize(("quantisation", "share"), [("F16", 0.02), ("BF16", 0.1), ("Q8_0", 0.2), ("Q4_0", 0.8)])
def test_quantised_answers_are_near(exit_model, template, tmp_path, quantisation, share):
    """The error stays within a share of what separates the candidates (random weights quantise worse than trained)."""
    path, bias = exported(exit_model, template, tmp_path, quantisation)
    asked = request(30)
    ours = training.head_logits(exit_model, [asked])[:, 1]
    with llama_cpp.open_packed(path, 1) as server:
        found = llama_cpp.score_request(server, asked.prefix, asked.suffixes, YES, NO, bias)
    assert 0 < np.std(found - ours) < share * np.std(ours)


@installed
@pytest.mark.parametrize("open_", [llama_cpp.open_server, llama_cpp.open_packed])
def test_a_request_that_does_not_fit_is_refused_and_the_next_is_answered(exit_model, template, tmp_path, open_):
    path, bias = exported(exit_model, template, tmp_path)
    asked = request(3)
    with open_(path, 1, context_tokens=256, flash_attention=False, cache="F32") as server:
        with pytest.raises(llama_cpp.LlamaCppError, match="context_tokens"):
            llama_cpp.score_request(server, [1] * 400, asked.suffixes, YES, NO, bias)
        found = llama_cpp.score_request(server, asked.prefix, asked.suffixes, YES, NO, bias)
    np.testing.assert_allclose(found, training.head_logits(exit_model, [asked])[:, 1], atol=1e-4)


@installed
def test_what_cannot_be_exported_is_refused_and_leaves_no_file(exit_model, template, tmp_path):
    head, path = exit_model.heads.heads[1], tmp_path / "x.gguf"
    with pytest.raises(llama_cpp.LlamaCppError, match="Q9"):
        llama_cpp.export_gguf(exit_model.backbone, head, path, template, "Q9", (YES, NO))
    other = exit_heads.ExitHead(head.weight.detach(), eps=1e-3)
    with pytest.raises(llama_cpp.LlamaCppError, match="eps"):
        llama_cpp.export_gguf(exit_model.backbone, other, path, template, "F32", (YES, NO))
    assert not list(tmp_path.iterdir())


@installed
@pytest.mark.parametrize("open_", [llama_cpp.open_server, llama_cpp.open_packed])
def test_a_damaged_file_is_a_clear_error(tmp_path, open_):
    path = tmp_path / "damaged.gguf"
    path.write_bytes(b"GGUF but not really")
    with pytest.raises(llama_cpp.LlamaCppError, match="damaged.gguf"):
        open_(path, 1)


def test_absence_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(optional.importlib.util, "find_spec", lambda name: None)
    assert not llama_cpp.available()
    for open_ in (llama_cpp.open_server, llama_cpp.open_packed):
        with pytest.raises(llama_cpp.LlamaCppError, match="make llama"):
            open_(tmp_path / "x.gguf", 1)


@given(st.sampled_from([1, 2, 4]), st.sampled_from([2, 8]), st.integers(0, 9))
def test_interleaved_heads_rotate_as_the_halves_did(n_heads, size, position):
    """Rotating pairs of the reordered vector is the reordering of the library's rotation of halves."""
    x = torch.randn(n_heads * size)
    angle = position / 10.0 ** torch.arange(size // 2)
    cos, sin = (f(angle).repeat(2)[None, None] for f in (torch.cos, torch.sin))  # [1, 1, d]
    halves = x.view(1, n_heads, 1, size)
    rotated, _ = apply_rotary_pos_emb(halves, halves, cos, sin)
    pairs = torch.view_as_complex(llama_cpp.interleave(x[:, None], n_heads).view(n_heads, size // 2, 2))
    ours = torch.view_as_real(pairs * torch.polar(torch.ones(size // 2), angle)).flatten()
    torch.testing.assert_close(ours, llama_cpp.interleave(rotated.reshape(-1, 1), n_heads)[:, 0])


@given(token_lists, st.lists(token_lists, min_size=1, max_size=5), st.booleans())
def test_every_suffix_token_is_in_its_own_sequence_and_the_prefix_in_all(prefix, group, cached):
    arrays, ends, ids = batch_arrays([] if cached else prefix, len(prefix), group, len(group) + 1)
    token, position, count, address, output = arrays
    sequences = [list((ctypes.c_int32 * n).from_address(int(a))) for n, a in zip(count, address, strict=True)]
    prompts = [[(p, t) for p, t, s in zip(position, token, sequences, strict=True) if c in s]
               for c in range(len(group))]
    whole = [list(enumerate(prefix + suffix))[len(prefix) if cached else 0:] for suffix in group]
    assert prompts == whole
    assert np.flatnonzero(output).tolist() == ends.tolist()
    assert [token[end] for end in ends] == [suffix[-1] for suffix in group] and ids.tolist() == [*range(len(group) + 1)]


@given(st.floats(-9, 9), st.integers(8, 50))
def test_two_best_tokens_give_the_logit(z, n_tokens):
    logits = np.zeros(n_tokens)
    logits[[YES, NO]] = z, -z
    logprob = logits - np.logaddexp.reduce(logits)
    best, second = np.argsort(-logprob, kind="stable")[:2]
    pair = [{"id": int(i), "logprob": float(logprob[i])} for i in (best, second)]
    assert from_two_best(*pair, YES) == pytest.approx(z, abs=1e-9)

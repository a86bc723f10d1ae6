"""A head starts as the model's own last step; losses, learning rates and calibration do what they say."""

import numpy as np
import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st

from eestudy import backbone, exit_heads
from eestudy.config import BackboneConfig


def random_heads(layers=(1, 2, 3), size=8):
    torch.manual_seed(0)
    heads = exit_heads.ExitHeads(layers, torch.rand(size), torch.randn(size), 1e-6)
    for head in heads.heads:
        torch.nn.init.normal_(head.weight)
    return heads


def test_the_untrained_last_head_is_the_unmodified_model():
    model = backbone.load_model(BackboneConfig(source="random-llama"), attention="sdpa")
    yes, no, ids = 11, 23, torch.tensor([[1, 2, 3, 4]])
    heads = exit_heads.ExitHeads((6,), *backbone.answer_direction(model, yes, no))
    with torch.inference_mode():
        logits = model(ids).logits[0, -1]
        found = heads([toys.decoder_states(model, ids[0])[-1][-1:]])
    torch.testing.assert_close(found[0, 0], logits[yes] - logits[no], atol=1e-4, rtol=0)


def test_all_heads_equal_a_loop_over_heads():
    heads, states = random_heads(), torch.randn(3, 5, 8)
    together = heads(states)
    for e in range(3):
        for c in range(5):
            h, head = states[e, c], heads.heads[e]
            normed = h / torch.sqrt((h * h).mean() + head.eps)
            torch.testing.assert_close(together[e, c], sum(normed * head.weight) + head.bias)


def test_joint_loss_equals_a_loop():
    logits, labels = torch.randn(3, 7), torch.tensor([0, 1, 1, 0, 1, 0, 0])
    found = exit_heads.joint_loss(logits, labels)
    p = torch.sigmoid(logits)
    for e in range(3):
        one = -sum(torch.log(p[e, c]) if labels[c] else torch.log(1 - p[e, c]) for c in range(7)) / 7
        torch.testing.assert_close(found[e], one)


def test_shallow_heads_learn_faster():
    rates = exit_heads.head_learning_rates((5, 10, 30), 1e-3, 2.0)
    assert rates == pytest.approx([2e-3, 1.8e-3, 1e-3])
    assert exit_heads.head_learning_rates((4, 8), 1e-3, 1.0) == [1e-3, 1e-3]


def test_scale_and_bias_start_at_the_base_rate():
    heads = random_heads()
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(5, 40, (3, 200)), (rng.random(200) < 0.7).astype(int)
    before = [head.weight.detach().clone() for head in heads.heads]
    exit_heads.fit_scale_and_bias(heads, logits, labels)
    base = np.log(labels.mean() / (1 - labels.mean()))
    for head, old, z in zip(heads.heads, before, logits, strict=True):
        fitted = (head.weight[0] / old[0]).item() * z + head.bias.item()
        assert fitted.mean() == pytest.approx(base, abs=1e-4)
        assert fitted.std() >= exit_heads.MIN_LOGIT_STD - 1e-6  # else the direction could not learn


def test_a_lens_that_ranks_backwards_is_not_turned():
    heads, rng = random_heads(layers=(1,)), np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    logits = rng.normal(-3.0 * labels, 1)  # yes scores lower than no
    before = heads.heads[0].weight.detach().clone()
    exit_heads.fit_scale_and_bias(heads, logits[None], labels)
    assert (heads.heads[0].weight[0] / before[0]).item() > 0  # heads of opposite signs fight over the adapter


@settings(max_examples=25, deadline=None)
@given(st.floats(0.2, 5), st.floats(-2, 2), st.integers(0, 10**6))
def test_calibration_undoes_a_known_distortion(slope, intercept, seed):
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 1.5, 20000)
    labels = (rng.random(20000) < 1 / (1 + np.exp(-true))).astype(int)
    a, b = exit_heads.fit_calibration((true - intercept) / slope, labels)
    assert a == pytest.approx(slope, rel=0.1) and b == pytest.approx(intercept, abs=0.12)


def test_calibrate_is_the_same_for_arrays_and_tensors():
    logits, calibration = np.random.default_rng(0).normal(size=(4, 3)), np.array([[1.0, 0], [2, 1], [0.5, -1]])
    tensors = exit_heads.calibrate(torch.from_numpy(logits), torch.from_numpy(calibration))
    np.testing.assert_allclose(exit_heads.calibrate(logits, calibration), tensors.numpy())


def test_calibration_keeps_the_order_of_a_head():
    rng = np.random.default_rng(1)
    z = rng.normal(size=300)
    labels = (rng.random(300) < 1 / (1 + np.exp(-2 * z))).astype(int)
    p = exit_heads.calibrate(z[:, None], np.array([exit_heads.fit_calibration(z, labels)]))[:, 0]
    assert (np.argsort(p) == np.argsort(z)).all()


@pytest.mark.parametrize("layers", [(0, 3), (1, 2), (2, 1, 3), (1, 1, 3), (1, 4)])
def test_exit_layers_must_ascend_to_the_last(layers):
    with pytest.raises(ValueError, match="exit_layers"):
        exit_heads.check_exit_layers(layers, 3)

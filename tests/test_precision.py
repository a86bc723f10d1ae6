"""Linear layers of reduced precision stay as near to exact arithmetic as their docstring says, whatever the input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from eestudy.backbone import precision
from eestudy.backbone.packs import BackboneError

ERROR = {"float32": 1e-6, "float32_packed": 1e-6, "bfloat16": 1e-2, "int8": 2.5e-2}
HERE = [name for name in precision.PRECISIONS if precision.supported(name)]
NARROW = [name for name in ("bfloat16", "int8") if name in HERE]
DIMENSION = st.integers(1, 70)


def example(n_tokens, n_in, n_out, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in ((n_tokens, n_in), (n_out, n_in), (n_out,))]


def relative_error(found, x, weight, bias=None):
    """Against float64, relative to the result without cancellation: one token's error over its typical product."""
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    scale = x.double().norm(dim=1, keepdim=True) * weight.double().norm(dim=1)  # [T, out]
    return float(((found - exact) / scale.clamp_min(1e-30)).pow(2).mean().sqrt())


@pytest.mark.parametrize("name", HERE)
@settings(max_examples=30, deadline=None)
@given(n_tokens=DIMENSION, n_in=DIMENSION, n_out=DIMENSION, seed=st.integers(0, 9), with_bias=st.booleans(),
       magnitude=st.sampled_from([1e-3, 1.0, 1e3]))
def test_near_float64_for_any_shape(name, n_tokens, n_in, n_out, seed, with_bias, magnitude):
    x, weight, bias = example(n_tokens, n_in, n_out, seed)
    x, bias = x * magnitude, bias * magnitude if with_bias else None
    found = precision.make_linear(weight, bias, name)(x)
    assert found.dtype == torch.float32 and found.shape == (n_tokens, n_out)
    assert relative_error(found, x, weight, bias) < ERROR[name]


@pytest.mark.parametrize("name", HERE)
def test_tokens_of_very_different_size_do_not_share_a_scale(name):
    x, weight, _ = example(40, 64, 48)
    x *= torch.logspace(-4, 4, 40)[:, None]
    linear = precision.make_linear(weight, None, name)
    assert all(relative_error(linear(x)[t:t + 1], x[t:t + 1], weight) < ERROR[name] for t in range(40))


@pytest.mark.parametrize("name", HERE)
def test_a_token_alone_gets_what_it_gets_in_a_batch(name):
    x, weight, bias = example(33, 64, 48)
    linear = precision.make_linear(weight, bias, name)
    alone = torch.cat([linear(row[None]) for row in x])
    torch.testing.assert_close(alone, linear(x), atol=0.1 if name == "bfloat16" else 1e-4, rtol=0)


def test_float32_is_the_librarys_linear_bit_for_bit():
    x, weight, bias = example(17, 96, 65)
    assert torch.equal(precision.make_linear(weight, bias, "float32")(x), F.linear(x, weight, bias))


@pytest.mark.parametrize("name", HERE)
def test_rows_and_channels_of_zeros_give_zeros(name):
    x, weight, _ = example(6, 32, 16)
    x[2], weight[3] = 0, 0
    linear = precision.make_linear(weight, None, name)
    assert torch.isfinite(linear(x)).all()
    assert (linear(x)[2] == 0).all() and (linear(x)[:, 3] == 0).all()
    assert (linear(torch.zeros(4, 32)) == 0).all() and linear(x[:0]).shape == (0, 16)


@pytest.mark.parametrize("name", HERE)
def test_input_is_left_alone_and_output_may_be_written_to(name):
    x, weight, bias = example(5, 32, 16)
    before, linear = x.clone(), precision.make_linear(weight, bias, name)
    first = linear(x).clone()
    linear(x).zero_()
    assert torch.equal(x, before) and torch.equal(linear(x), first)


@pytest.mark.parametrize("name", HERE)
def test_a_view_with_gaps_is_read_as_its_values(name):
    x, weight, _ = example(9, 64, 16)
    wide = torch.cat([x, x], 1)
    linear = precision.make_linear(weight, None, name)
    torch.testing.assert_close(linear(wide[:, :64]), linear(x), atol=1e-5, rtol=0)
    torch.testing.assert_close(linear(x.T.contiguous().T), linear(x), atol=1e-5, rtol=0)


@pytest.mark.skipif("int8" not in HERE, reason="this processor has no AVX512-VNNI")
@settings(max_examples=20, deadline=None)
@given(size=st.sampled_from([30.0, 100.0, 300.0]), hot=st.integers(0, 63), seed=st.integers(0, 9))
def test_channel_sizes_at_least_halve_int8s_error_from_an_outlier_channel(size, hot, seed):
    x, weight, _ = example(80, 64, 48, seed)
    x[:, hot] *= size
    weight[:, hot] /= size  # else the outlier is all of the result, and nobody minds the rest
    seen, new = x[:40], x[40:]
    plain = precision.make_linear(weight, None, "int8")
    balanced = precision.make_linear(weight, None, "int8", precision.channel_sizes(seen))
    assert relative_error(balanced(new), new, weight) < relative_error(plain(new), new, weight) / 2


@pytest.mark.skipif("int8" not in HERE, reason="this processor has no AVX512-VNNI")
def test_a_channel_silent_so_far_does_no_harm_when_it_speaks():
    x, weight, _ = example(30, 64, 48)
    silent = x.clone()
    silent[:, 5] = 0
    weight[:, 6] = 0
    linear = precision.make_linear(weight, None, "int8", precision.channel_sizes(silent))
    assert relative_error(linear(x), x, weight) < 0.1
    assert torch.isfinite(precision.make_linear(weight, None, "int8", torch.zeros(64))(x)).all()


def test_channel_sizes_are_ones_for_equal_channels_and_ignore_a_tokens_length():
    x = torch.tensor([[1.0, -1.0, 1.0], [5.0, 5.0, -5.0]])
    torch.testing.assert_close(precision.channel_sizes(x), torch.ones(3))
    y = example(20, 8, 1)[0]
    torch.testing.assert_close(precision.channel_sizes(y), precision.channel_sizes(y * torch.rand(20, 1).add(0.1)))


def test_what_cannot_be_done_is_refused_with_the_remedy(monkeypatch):
    _, weight, _ = example(1, 8, 4)
    with pytest.raises(BackboneError, match="unknown; choose another of float32"):
        precision.make_linear(weight, None, "int3")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    for name, wanted in (("bfloat16", "avx512_bf16"), ("int8", "avx512_vnni")):
        assert not precision.supported(name)
        with pytest.raises(BackboneError, match="oneDNN" if not torch.backends.mkldnn.is_available() else wanted):
            precision.make_linear(weight, None, name)
    assert precision.supported("float32") and precision.supported("bfloat16", "cuda")
    assert not precision.supported("int8", "cuda")


def test_sizes_of_several_inputs_combine_to_those_of_all_tokens():
    x, _, _ = example(30, 12, 1)
    parts = [(len(part), precision.channel_sizes(part)) for part in x.split([7, 1, 22])]
    torch.testing.assert_close(precision.combine_sizes(parts), precision.channel_sizes(x))

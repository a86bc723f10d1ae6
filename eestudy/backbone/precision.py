"""Linear layers in the precision that scoring asks for; what stands between them stays float32.

| precision | the product | error of one layer | needs |
|---|---|---|---|
| float32 | `F.linear`, the reference, bit for bit | none | |
| float32_packed | the same sums in another order, weight laid out at load | 1e-6 | oneDNN |
| bfloat16 | weight and input rounded to 8 bits, summed in float32 | 3e-3 | AVX512-BF16 or AMX |
| float16 | the same with 11 bits | 4e-4 | an accelerator |
| int8 | weight by output channel, input by token, summed exactly | 1e-2 | AVX512-VNNI |

In a language model a few input channels are tens of times larger than the others, so that a token's scale in int8
leaves the others a handful of levels. Told how large each channel is (`channel_sizes` of a few inputs), int8 divides
the input by a factor per channel and multiplies the weight by it: a quarter to three quarters less error in SmolLM2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from eestudy.backbone.packs import BackboneError

Linear = Callable[[torch.Tensor], torch.Tensor]

LEVELS = 127  # symmetric: -127 … 127
ZERO_POINT = 128  # the integer product takes unsigned input: the signed one plus 128
TINY = 1e-30  # a row or channel of zeros keeps a scale, and its reciprocal stays finite
SIZE_POWER = 8  # between the root mean square (2) and the largest value (infinite), which one odd token would decide
BALANCE = 0.7  # how much of the difference between channels moves from input to weight; least error of 0.4 … 1

# Without these instructions the libraries emulate: slower than float32, and int8 on AVX2 even overflows 16-bit sums.
INSTRUCTIONS = {"bfloat16": ("avx512_bf16", "amx_bf16"), "int8": ("avx512_vnni",)}


def supported(precision: str, device: str | torch.device = "cpu") -> bool:
    """Whether `make_linear` can do `precision` on this device, and not more slowly than float32."""
    return _hindrance(precision, torch.device(device).type) is None


def make_linear(
    weight: torch.Tensor, bias: torch.Tensor | None, precision: str, sizes: torch.Tensor | None = None
) -> Linear:
    """A linear layer with its weight converted once.

    Args:
        weight: [out, in]; taken as float32, so that it is rounded only once.
        bias: [out], or None.
        precision: one of `PRECISIONS`.
        sizes: [in], how large each input channel is, from `channel_sizes`; only int8 uses it. None: all alike.

    Returns:
        A function from float32 [T, in] to a new float32 tensor [T, out]; T may differ from call to call.

    Raises:
        BackboneError: an unknown precision, or one that this processor or this build of torch cannot do or would do
            more slowly than float32.
    """
    hindrance = _hindrance(precision, weight.device.type)
    if hindrance:
        raise BackboneError(f"precision {precision!r} {hindrance}; choose another of {', '.join(PRECISIONS)}")
    weight, bias = weight.detach().float(), None if bias is None else bias.detach().float()
    return _int8(weight, bias, sizes) if precision == "int8" else _MAKERS[precision](weight, bias)


def channel_sizes(x: torch.Tensor) -> torch.Tensor:
    """How large each channel of a layer's input is, in units of its token's root mean square: [T, in] -> [in]."""
    x = x.float() / x.float().pow(2).mean(-1, keepdim=True).sqrt().clamp_min(TINY)
    return x.pow(SIZE_POWER).mean(0).pow(1 / SIZE_POWER)


def combine_sizes(parts: Sequence[tuple[int, torch.Tensor]]) -> torch.Tensor:
    """The channel sizes [in] of several inputs taken together, from each one's number of tokens and sizes."""
    total = sum(n for n, _ in parts)
    return sum(n / total * sizes.pow(SIZE_POWER) for n, sizes in parts).pow(1 / SIZE_POWER)


def _hindrance(precision: str, device: str) -> str | None:
    """Why a precision is of no use on a kind of device ('cpu', 'cuda', …); None where it is."""
    if precision not in PRECISIONS:
        return "is unknown"
    if precision == "float32" or (precision in ("bfloat16", "float16") and device != "cpu"):
        return None
    if precision == "float16":
        return "is for accelerators"
    if device != "cpu":
        return f"is written for the CPU, not for {device}"
    if not torch.backends.mkldnn.is_available():
        return "needs a build of torch with oneDNN"
    features, wanted = torch.cpu.get_capabilities(), INSTRUCTIONS.get(precision, ())
    if wanted and not any(features.get(name, False) for name in wanted):
        return f"needs a processor with {' or '.join(wanted)}"
    return None


def _float32(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    return lambda x: F.linear(x, weight, bias)


def _float32_packed(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
    return lambda x: torch.ops.mkldnn._linear_pointwise(x.contiguous(), packed, bias, "none", [], "")


def _half(dtype: torch.dtype) -> Callable[[torch.Tensor, torch.Tensor | None], Linear]:
    def make(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        weight = weight.to(dtype)

        def linear(x: torch.Tensor) -> torch.Tensor:
            out = F.linear(x.to(dtype), weight).float()
            return out if bias is None else out.add_(bias)

        return linear

    return make


def _int8(weight: torch.Tensor, bias: torch.Tensor | None, sizes: torch.Tensor | None = None) -> Linear:
    r"""$y_{tj} = s_t\, r_j \sum_k \mathrm{round}(x_{tk} / (f_k s_t))\, \mathrm{round}(f_k w_{jk} / r_j)$

    where s and r scale the largest value of a token and of an output channel to 127, and f are the channels' factors.
    """
    factors = None if sizes is None else _factors(sizes, weight)
    weight = weight if factors is None else weight * factors
    channel = (weight.abs().amax(1) / LEVELS).clamp_min(TINY)  # [out]
    packed = torch.ops.onednn.qlinear_prepack((weight / channel[:, None]).round().to(torch.int8), None)
    no_offset = torch.zeros(len(weight), dtype=torch.int64)
    shrink = None if factors is None else factors.reciprocal()

    def linear(x: torch.Tensor) -> torch.Tensor:
        x = x if shrink is None else x * shrink
        token = (x.abs().amax(-1, keepdim=True) / LEVELS).clamp_min_(TINY)  # [T, 1]
        signed = (x * token.reciprocal()).round_().to(torch.int8).contiguous()
        # Flipping the sign bit adds 128. Signed input would be taken too, but by a reference loop, 1,000 times slower.
        unsigned = signed.bitwise_xor_(-ZERO_POINT).view(torch.uint8)
        out = torch.ops.onednn.qlinear_pointwise(
            unsigned, 1.0, ZERO_POINT, packed, channel, no_offset, None, 1.0, 0, torch.float32, "none", [], ""
        ).mul_(token)
        return out if bias is None else out.add_(bias)

    return linear


def _factors(sizes: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Factors [in] that move part of the input's differences between channels to the weight.

    Source: SmoothQuant (Xiao et al. 2023, arXiv 2211.10438), equation 4, with other sizes than the largest value.
    """
    least = 1e-3  # a channel that was silent in the few inputs seen may speak later
    sizes = sizes.float().clamp_min(least * sizes.max()).clamp_min(TINY)
    largest = weight.abs().amax(0)
    largest = largest.clamp_min(least * largest.max()).clamp_min(TINY)
    factors = sizes.pow(BALANCE) / largest.pow(1 - BALANCE)
    return factors / factors.log().mean().exp()


_MAKERS = {"float32": _float32, "float32_packed": _float32_packed, "bfloat16": _half(torch.bfloat16),
           "float16": _half(torch.float16), "int8": _int8}  # fmt: skip
PRECISIONS = tuple(_MAKERS)

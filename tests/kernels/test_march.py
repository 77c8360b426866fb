"""march_rays: what the fused pass alone promises."""

from __future__ import annotations

import math

import pytest
import torch

from triportrait.kernels.dispatch import use_backend
from triportrait.kernels.field import FieldWeights
from triportrait.kernels.march import inside_ring, march_rays, ringed
from triportrait.kernels.march import launch as march_launch
from triportrait.kernels.march.launch import Rays
from triportrait.kernels.march.operator import _power_of_two
from triportrait.profiling.cases import CASES, make_inputs

BACKENDS = ["reference", "triton"]
SIZES = CASES["march"].odd[0]


def slab(raw_density: float, S: int = 6, N: int = 4, rays: int = 5):
    """Rays along -z through a box of side 2 whose density is the same everywhere, and whose features are 1/2."""
    planes = torch.zeros(1, 3, 4, 4, 16)
    weights = FieldWeights(
        torch.zeros(16, 16), torch.zeros(16), torch.zeros(1, 16), torch.tensor([raw_density]), torch.zeros(16, 16),
        torch.zeros(16),
    )  # fmt: skip
    directions = torch.tensor([0.0, 0.0, -1.0]).expand(1, rays, 3)
    return planes, Rays(torch.tensor([[0.0, 0.0, 4.0]]), directions, rays), torch.linspace(3, 5, S)[None], N, weights


def march_slab(backend: str, raw_density: float):
    planes, rays, depths, N, weights = slab(raw_density)
    with use_backend(backend):  # type: ignore[arg-type]
        return march_rays(planes, rays, depths, N, torch.ones(1), weights)


def by_backend(march, *arguments) -> list[tuple[torch.Tensor, ...]]:
    """What the definition and the kernels make of the same inputs, without gradients."""
    results = []
    for backend in BACKENDS:
        with torch.no_grad(), use_backend(backend):  # type: ignore[arg-type]
            results.append(march(*arguments))
    return results


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_slab_transmits_exp_minus_density_times_length(backend):
    density = torch.nn.functional.softplus(torch.tensor(0.3 - 1))
    feature, depth, opacity = march_slab(backend, 0.3)
    torch.testing.assert_close(1 - opacity, torch.exp(-2 * density).expand(1, 5), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(feature, 0.5 * opacity[..., None].expand(-1, -1, 16), rtol=1e-5, atol=1e-6)
    assert (depth > 3).all() and (depth < 4).all(), "the front counts more"


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_empty_box_shows_nothing(backend):
    feature, depth, opacity = march_slab(backend, -1e4)
    assert (opacity == 0).all()
    assert (depth == torch.inf).all()
    assert (feature == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_wall_is_opaque(backend):
    feature, _, opacity = march_slab(backend, 1e4)
    torch.testing.assert_close(opacity, torch.ones(1, 5), rtol=0, atol=1e-5)
    torch.testing.assert_close(feature, torch.full((1, 5, 16), 0.5), rtol=0, atol=1e-4)


def test_the_deterministic_mode_agrees_and_repeats_to_the_bit():
    case = CASES["march"]
    inputs = make_inputs("march", SIZES, torch.float32)

    def gradient() -> torch.Tensor:
        planes = inputs[0].clone().requires_grad_()  # type: ignore[union-attr]
        with use_backend("triton"):
            feature, _, opacity = case.op(planes, *inputs[1:])
        return torch.autograd.grad(feature.square().sum() + opacity.sum(), planes)[0]

    fast = gradient()
    try:
        torch.use_deterministic_algorithms(True)
        one, two = gradient(), gradient()
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(one, two)
    assert not torch.equal(one, fast), "integer sums are rounded otherwise"
    torch.testing.assert_close(one, fast, rtol=1e-5, atol=1e-6 * float(fast.abs().max()))


def test_pieces_of_the_image_change_no_gradient(monkeypatch):
    case = CASES["march"]
    sizes = {**SIZES, "R": 45, "width": 15}
    seen = []
    for scratch in (32 << 20, 1):
        monkeypatch.setattr(march_launch, "SCRATCH", scratch)
        inputs = make_inputs("march", sizes, torch.float32)
        leaves = [x.requires_grad_() if x is not None and x.is_floating_point() else x for x in inputs]
        with use_backend("triton"):
            feature, depth, opacity = case.op(*leaves)
        parameters = [leaves[0], *leaves[7:13]]
        seen.append(torch.autograd.grad(feature.square().sum() + depth.sum() + opacity.sum(), parameters))
    for whole, pieces in zip(*seen, strict=True):
        torch.testing.assert_close(whole, pieces, rtol=1e-4, atol=1e-5 * float(whole.abs().max()))


def test_other_widths_take_the_small_operators(monkeypatch):
    """A fused tile needs powers of two; other networks still run on kernels."""
    monkeypatch.setattr("triportrait.kernels.march.operator.pack", lambda *a: pytest.fail("fused"))
    sizes = {**SIZES, "C": 20}
    inputs = make_inputs("march", sizes, torch.float32)
    for one, other in zip(*by_backend(CASES["march"].op, *inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_thin_matter_before_a_wall_keeps_its_share():
    """Pieces are joined by their optical depths, and one of them may be in the wall."""
    C = 16
    planes = torch.zeros(1, 3, 8, 64, C)
    along = (torch.arange(64) + 0.5) / 32 - 1
    planes[0, 2, :, :, 0], planes[0, 2, :, :, 1] = (along > 0.5).float(), (along < 0.0).float()
    w_h, w_d = torch.zeros(16, C), torch.zeros(1, 16)
    w_h[0, 0] = w_h[1, 1] = 30.0
    w_d[0, 0], w_d[0, 1] = 2.0, 1e4
    weights = FieldWeights(
        w_h, torch.full((16,), -10.0), w_d, torch.tensor([-8.0]), torch.randn(16, 16), torch.zeros(16)
    )
    rays = Rays(torch.tensor([[0.0, 0.0, 4.0]]), torch.tensor([0.0, 0.0, -1.0]).expand(1, 4, 3), 2)
    arguments = planes, rays, torch.linspace(3, 5, 48)[None], 48, torch.ones(1), weights
    for one, other in zip(*by_backend(march_rays, *arguments), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=5e-6)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"num_fine": -1}, "num_fine: expected at least 0 samples more, got -1"),
        ({"precision": "half"}, "precision: expected one of exact, tf32, fp16, bf16, got 'half'"),
        ({"half_side": torch.ones(1).double()}, "half_side: expected torch.float32 beside torch.float32 planes, got"),
        ({"uniforms": torch.ones(1, 5, 4, requires_grad=True)}, "uniforms: expected a tensor without a gradient"),
        ({"depths": torch.zeros(1, 3)}, r"depths: expected \[B, S\] with S >= 4, got \[1, 3\]"),
        ({"half_side": torch.ones(2)}, r"half_side: expected \[B\] with B=1 from planes, got \[2\]"),
        ({"uniforms": torch.ones(1, 5, 3)}, r"uniforms: expected \[B, R, N\] = \[1, 5, 4\], got \[1, 5, 3\]"),
    ],
)
def test_refuses_bad_shapes_by_name(change, message):
    planes, rays, depths, N, weights = slab(0.0)
    plain = {"depths": depths, "num_fine": N, "half_side": torch.ones(1), "uniforms": None}
    arguments: dict = plain | {"precision": "exact"} | change
    with pytest.raises(ValueError, match=message):
        march_rays(
            planes, rays, arguments["depths"], arguments["num_fine"], arguments["half_side"], weights, None,
            arguments["uniforms"], arguments["precision"],
        )  # fmt: skip


def test_planes_that_keep_their_ring_are_marched_to_the_same_bits(monkeypatch):
    generator = torch.Generator().manual_seed(3)
    _, rays, depths, N, weights = slab(0.3)
    planes = torch.randn(1, 3, 6, 4, 16, generator=generator)
    weights = FieldWeights(*(torch.randn(w.shape, generator=generator) for w in weights))
    plain, kept = planes.clone().requires_grad_(), planes.clone().requires_grad_()
    with use_backend("triton"):
        wanted = march_rays(plain, rays, depths, N, torch.ones(1), weights)
        ring = ringed(planes)
        assert ring.shape == (1, 3, 10, 8, 16) and torch.equal(inside_ring(ring), planes)
        assert ring.count_nonzero() == planes.count_nonzero(), "zeros around them"
        with monkeypatch.context() as patched:
            patched.setattr(march_launch, "ringed", None)  # nothing makes a ring
            found = march_rays(kept, rays, depths, N, torch.ones(1), weights, ringed_planes=ring)
        for one, other in zip(found, wanted, strict=True):
            assert torch.equal(one, other)
        for result in (wanted, found):
            result[0].square().sum().backward()
    assert torch.equal(kept.grad, plain.grad)
    assert plain.grad.abs().sum() > 0


@pytest.mark.parametrize("other", [torch.zeros(1, 3, 8, 9, 16), torch.zeros(1, 3, 8, 8, 16, dtype=torch.float16)])
def test_a_ring_of_other_planes_is_refused(other):
    planes, rays, depths, N, weights = slab(0.0)
    with pytest.raises(ValueError, match=r"^ringed_planes: expected what `ringed` gives for planes \[1, 3, 4, 4, 16\]"):
        march_rays(planes, rays, depths, N, torch.ones(1), weights, ringed_planes=other)


def gradients(backend: str, inputs, scale: torch.Tensor, *places: int) -> list[torch.Tensor]:
    """Of some of the inputs, where outputs are multiplied by `scale`; the definition computes in float32."""
    typed = [x if backend == "triton" or not x.is_floating_point() else x.float() for x in inputs]
    leaves = [x.clone().requires_grad_() if i in places else x for i, x in enumerate(typed)]
    with use_backend(backend):  # type: ignore[arg-type]
        feature, _, _ = CASES["march"].op(*leaves)
    return [d.double() for d in torch.autograd.grad((scale * feature).sum(), [leaves[i] for i in places])]


@pytest.mark.parametrize("size", [1e-5, 1e5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_gradients_of_a_mean_over_a_picture_do_not_vanish_nor_large_ones_overflow(dtype, size):
    """Those of a mean are 1e-8 of a pixel's, below what float16 tells from 0."""
    inputs, scale = make_inputs("march", SIZES, dtype), torch.tensor(size)
    for gradient, expected in zip(
        *(gradients(b, inputs, scale, 0, 7, 11) for b in ("triton", "reference")), strict=True
    ):
        assert expected.abs().max() > 0
        last_place = 2**-24 if dtype == torch.float16 else 0  # in which the planes' gradient is stored
        allowed = 2e-2 * expected.abs().max() + 1.1 * last_place
        assert (gradient - expected).abs().max() < allowed
        assert allowed < expected.abs().max() / 2


def test_the_weights_gradients_of_unlike_images_are_added_at_one_scale():
    """In float16 each image has a power of two of its own."""
    inputs = make_inputs("march", {**SIZES, "B": 2}, torch.float16)
    louder = torch.tensor([1.0, 1e-4]).view(2, 1, 1)
    for gradient, expected in zip(*(gradients(b, inputs, louder, 7, 11) for b in ("triton", "reference")), strict=True):
        assert (gradient - expected).abs().max() < 2e-2 * expected.abs().max()


def test_the_fast_activations_are_exact_to_float32(tf32_products_are_rounded):
    """TF32 products that nothing rounds: what is left is the polynomial."""
    tf32_products_are_rounded()
    inputs = make_inputs("march_train", CASES["march_train"].odd[0], torch.float32)
    for one, other in zip(*by_backend(CASES["march_train"].op, *inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("run", [3, 4, 6])
def test_any_number_of_coarse_depths_may_coincide(run):
    sizes = {**SIZES, "S": 8, "N": 9}
    inputs = list(make_inputs("march", sizes, torch.float32))
    inputs[3] = torch.linspace(3, 5, 8).repeat(1, 1)
    inputs[3][:, 1 : 1 + run] = inputs[3][:, 1]
    for one, other in zip(*by_backend(CASES["march"].op, *inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_an_infinite_density_hides_what_is_behind_it_and_is_a_number():
    feature, _, opacity = march_slab("triton", float("inf"))
    assert torch.equal(opacity, torch.ones(1, 5))
    assert feature.isfinite().all()


def test_without_a_warp_gradients_agree_too():
    planes, rays, depths, N, weights = slab(0.3)
    planes = torch.randn_like(planes).requires_grad_()
    weights = FieldWeights(*(torch.randn_like(w) / 4 for w in weights))
    seen = []
    for backend in BACKENDS:
        with use_backend(backend):  # type: ignore[arg-type]
            feature, _, _ = march_rays(planes, rays, depths, N, torch.ones(1), weights)
        seen.append(torch.autograd.grad(feature.square().sum(), planes)[0])
    torch.testing.assert_close(*seen, rtol=1e-4, atol=1e-5)


def test_a_deterministic_march_is_refused_where_none_can_be():
    planes, rays, depths, N, weights = slab(0.3)
    with pytest.raises(ValueError, match="deterministic: expected the fused kernels"), use_backend("reference"):
        march_rays(planes, rays, depths, N, torch.ones(1), weights, deterministic=True)


def test_what_has_no_gradient_may_not_ask_for_one():
    planes, rays, depths, N, weights = slab(0.3)
    with pytest.raises(ValueError, match="depths: expected a tensor without a gradient, as none is given; detach it"):
        march_rays(planes, rays, depths.requires_grad_(), N, torch.ones(1), weights)


@pytest.mark.parametrize("largest", [1e-8, 1.0, 64.0, 3e7, 0.0, float("inf"), float("nan")])
def test_the_scale_of_gradients_is_a_power_of_two(largest):
    both = torch.tensor([[1.0, 0.1], [largest, -largest / 3]])
    scales = _power_of_two((both, torch.zeros(2, 5)))
    assert scales.shape == (2,)
    assert scales[0] == 32
    scale = scales[1]
    exponent = torch.log2(scale.double()).item()
    assert exponent == int(exponent)
    assert scale.dtype == torch.float32
    assert exponent == 0 if largest == 0 or not math.isfinite(largest) else 32 <= largest * scale <= 64

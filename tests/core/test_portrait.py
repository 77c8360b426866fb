"""Portrait4D at the tiny preset: the cache seam, determinism, batches, the static synthesizer, views, gradients."""

from __future__ import annotations

import copy

import pytest
import torch

from triportrait.core.config import tiny
from triportrait.core.portrait import Portrait4D
from triportrait.core.render.cameras import fixed_camera, turned
from triportrait.core.types import Camera, Driving, NeckGrid


@pytest.fixture(autouse=True)
def seeded_inputs():
    torch.manual_seed(1)


def pictures(batch=1):
    return torch.rand(batch, 3, 128, 128) * 2 - 1


def motions(batch=1):
    return torch.randn(batch, 9), torch.randn(batch, 9)


def moved_head(portrait, image=None):
    """A head of random pictures and motions."""
    v_s, v_d = motions()
    return portrait.reenact(portrait.prepare(pictures() if image is None else image, v_s), Driving(v_d))


def several(camera, batch):
    return Camera(camera.world_from_camera.expand(batch, 4, 4), camera.intrinsics.expand(batch, 3, 3))


@torch.no_grad()
def test_the_same_input_gives_the_same_frame(tiny_portrait):
    v_s, v_d = motions()
    image = pictures()
    frames = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        source = tiny_portrait.prepare(image, v_s)
        head = tiny_portrait.reenact(source, Driving(v_d))
        frames.append(tiny_portrait.render(head, fixed_camera()).image)
    assert torch.equal(*frames)


@torch.no_grad()
def test_the_driving_motion_changes_planes_and_the_source_stays(tiny_portrait):
    v_s, v_d = motions()
    source = tiny_portrait.prepare(pictures(), v_s)
    a, b = (tiny_portrait.reenact(source, Driving(v)).planes for v in (v_d, -v_d))
    assert (a - b).abs().max() > 1e-3
    assert torch.equal(a, tiny_portrait.reenact(source, Driving(v_d)).planes)


@torch.no_grad()
def test_motion_changes_the_planes_and_none_is_the_static_synthesizer(tiny_portrait):
    image = pictures()
    moved = moved_head(tiny_portrait, image).planes
    static = tiny_portrait.reenact(tiny_portrait.prepare(image, None), Driving(None)).planes
    assert (static - moved).abs().max() > 1e-3


@torch.no_grad()
def test_the_motion_scale_of_each_head_multiplies_what_motion_adds(tiny_portrait):
    """0 is the static synthesizer and 1 the whole motion, of either half of the blocks, head by head."""
    image, (v_s, v_d) = pictures().repeat(2, 1, 1, 1), motions()
    v_s, v_d, scale = v_s.repeat(2, 1), v_d.repeat(2, 1), torch.tensor([0.0, 1.0])

    def planes(of_source, of_driving):
        source = tiny_portrait.prepare(image, v_s, of_source)
        return tiny_portrait.reenact(source, Driving(v_d, motion_scale=of_driving)).planes

    static = tiny_portrait.reenact(tiny_portrait.prepare(image, None), Driving(None)).planes
    whole, mixed = planes(None, None), planes(scale, scale)
    torch.testing.assert_close(mixed, torch.stack([static[0], whole[1]]), atol=1e-4, rtol=1e-4)
    for one in (planes(scale, None), planes(None, scale)):
        assert (one[0] - static[0]).abs().max() > 1e-3, "the other half of the blocks still reads motion"
        assert (one[0] - whole[0]).abs().max() > 1e-3


@torch.no_grad()
def test_a_batch_is_its_members(tiny_portrait):
    image, (v_s, v_d) = pictures(2), motions(2)
    views = Camera(
        torch.cat([fixed_camera().world_from_camera, turned(fixed_camera(), 0.4, 0.1).world_from_camera]),
        fixed_camera().intrinsics.expand(2, 3, 3),
    )
    source = tiny_portrait.prepare(image, v_s)
    both = tiny_portrait.render(tiny_portrait.reenact(source, Driving(v_d)), views)
    one_source = tiny_portrait.prepare(image[1:], v_s[1:])
    view = Camera(views.world_from_camera[1:], views.intrinsics[1:])
    one = tiny_portrait.render(tiny_portrait.reenact(one_source, Driving(v_d[1:])), view)
    for name in ("image", "feature", "depth", "opacity"):
        torch.testing.assert_close(getattr(both, name)[1:], getattr(one, name), atol=2e-3, rtol=1e-3)


@torch.no_grad()
def test_a_ray_that_meets_nothing_ends_where_its_own_image_ends(tiny_portrait):
    volume = copy.deepcopy(tiny_portrait.volume)
    volume.field.density.bias.fill_(-1e6)
    near = fixed_camera().world_from_camera.clone()
    near[0, 2, 3] = 3.0
    views = Camera(torch.cat([fixed_camera().world_from_camera, near]), fixed_camera().intrinsics.expand(2, 3, 3))
    samples = volume(torch.randn(2, 3, 64, 64, 16), views)
    assert samples.opacity.abs().max() == 0
    for b, distance in enumerate((4.2, 3.0)):
        torch.testing.assert_close(samples.depth[b], torch.full((64 * 64,), distance + 0.65))
    smaller = volume(torch.randn(2, 3, 64, 64, 16), views, box_scale=torch.tensor([0.9, 0.5]))
    for b, end in enumerate((4.2 + 0.9 * 0.65, 3.0 + 0.5 * 0.65)):
        torch.testing.assert_close(smaller.depth[b], torch.full((64 * 64,), end))


def test_empty_rays_have_gradients_of_zero(tiny_portrait):
    volume = copy.deepcopy(tiny_portrait.volume)
    volume.field.density.bias.fill_(-1e6)
    planes = torch.randn(1, 3, 64, 64, 16, requires_grad=True)
    samples = volume(planes, fixed_camera())
    (samples.depth * (samples.opacity > 0)).sum().backward()
    assert planes.grad is not None
    assert planes.grad.abs().max() == 0


@torch.no_grad()
def test_the_background_is_resized_once_whatever_the_ray_grid(tiny_portrait):
    portrait = copy.deepcopy(tiny_portrait)
    portrait.volume.field.density.bias.fill_(-1e6)  # nothing but background
    image = pictures()
    head = moved_head(portrait, image)
    expected = portrait.reconstructor.background_encoder(image).sigmoid()
    expected = torch.nn.functional.interpolate(expected, size=(20, 20), mode="bilinear", align_corners=False)
    torch.testing.assert_close(portrait.render(head, fixed_camera(), size=20).feature, 2 * expected - 1)


@torch.no_grad()
def test_a_rendering_shows_head_and_background_apart(tiny_portrait):
    portrait = copy.deepcopy(tiny_portrait)
    portrait.volume.field.density.weight.zero_()
    portrait.volume.field.density.bias.fill_(0.5)  # half opaque
    head = moved_head(portrait)
    view = portrait.render(head, fixed_camera(), size=20)
    samples = portrait.volume(head.planes, fixed_camera(), size=20)
    assert torch.equal(view.foreground[0, :, 3, 7], samples.feature[0, 3 * 20 + 7])
    expected = torch.nn.functional.interpolate(head.background, size=(20, 20), mode="bilinear", align_corners=False)
    assert torch.equal(view.background, expected)
    whole = view.foreground + (1 - view.opacity) * view.background
    assert torch.equal(view.feature, 2 * whole - 1)
    assert 0.2 < view.opacity.mean() < 0.9


@torch.no_grad()
def test_the_neck_of_a_driving_frame_reaches_the_picture(tiny_portrait):
    v_s, v_d = motions()
    source = tiny_portrait.prepare(pictures(), v_s)
    fine, coarse = torch.zeros(1, 24, 24, 24, 4), torch.zeros(1, 8, 8, 8, 3)
    fine[..., 0] = 0.1
    still, moved = (
        tiny_portrait.render(tiny_portrait.reenact(source, Driving(v_d, neck)), fixed_camera()).feature
        for neck in (None, NeckGrid(fine, coarse, 1.3, 3e-3))
    )
    assert (still - moved).abs().max() > 1e-3


@torch.no_grad()
def test_motion_is_given_to_both_or_to_neither(tiny_portrait):
    v_s, v_d = motions()
    for source, driving in ((None, v_d), (v_s, None)):
        with pytest.raises(ValueError, match="give both or neither"):
            tiny_portrait.reenact(tiny_portrait.prepare(pictures(), source), Driving(driving))


@torch.no_grad()
@pytest.mark.parametrize("dtype, least", [(torch.float16, 50.0), (torch.bfloat16, 35.0)])
def test_a_network_in_half_precision_draws_the_same_picture(tiny_portrait, dtype, least):
    image, (v_s, v_d) = pictures(), motions()

    def draw(dtype):
        portrait = copy.deepcopy(tiny_portrait).to(dtype)
        head = portrait.reenact(portrait.prepare(image.to(dtype), v_s.to(dtype)), Driving(v_d.to(dtype)))
        return portrait.render(head, fixed_camera())

    whole, half = draw(torch.float32), draw(dtype)
    assert {half.depth.dtype, half.opacity.dtype} == {torch.float32}
    error = (whole.image - half.image.float()).square().mean()
    assert 10 * torch.log10(whole.image.abs().max() ** 2 / error) >= least


@torch.no_grad()
def test_chunks_of_rays_change_no_ray(tiny_portrait, monkeypatch):
    planes, uniforms = torch.randn(2, 3, 64, 64, 16), torch.rand(2, 64 * 64, 8)
    whole = tiny_portrait.volume(planes, several(fixed_camera(), 2), uniforms=uniforms)
    monkeypatch.setattr("triportrait.kernels.march.operator.RAY_CHUNK", 300)
    parts = tiny_portrait.volume(planes, several(fixed_camera(), 2), uniforms=uniforms)
    for name in ("feature", "depth", "opacity"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_jitter_and_uniforms_are_used_when_given(tiny_portrait):
    planes, volume = torch.randn(1, 3, 64, 64, 16), tiny_portrait.volume
    still = volume(planes, fixed_camera())
    jitter = torch.full((1, 8), 0.5)
    assert (volume(planes, fixed_camera(), jitter=jitter).feature - still.feature).abs().max() > 1e-4
    even = torch.linspace(0, 1, 8).expand(1, 64 * 64, 8)
    torch.testing.assert_close(volume(planes, fixed_camera(), uniforms=even).feature, still.feature)
    assert (volume(planes, fixed_camera(), uniforms=even**2).feature - still.feature).abs().max() > 1e-4


@torch.no_grad()
def test_a_smaller_box_shrinks_the_head(tiny_portrait):
    planes = torch.zeros(1, 3, 64, 64, 16)
    planes[:, :, 24:40, 24:40] = 5.0  # a block in the middle
    full, small = (
        tiny_portrait.volume(planes, fixed_camera(), size=48, box_scale=torch.tensor([s])) for s in (1.0, 0.5)
    )

    def extent(samples):
        image = samples.depth.view(48, 48)
        return ((image - image[0, 0]).abs() > 1e-3).float().mean()

    assert 0 < extent(small) < extent(full)


@torch.no_grad()
def test_any_ray_grid_is_resized_before_super_resolution(tiny_portrait):
    rendering = tiny_portrait.render(moved_head(tiny_portrait), fixed_camera(), size=21)
    assert rendering.raw_image.shape == (1, 3, 21, 21)
    assert rendering.image.shape == (1, 3, 128, 128)


def test_gradients_reach_every_part_that_training_moves():
    portrait = Portrait4D(tiny())
    portrait.reconstructor.initialize()
    torch.nn.init.normal_(portrait.volume.field.density.weight)
    rendering = portrait.render(moved_head(portrait), fixed_camera())
    (rendering.image.square().mean() + rendering.depth.mean() + rendering.opacity.mean()).backward()
    without = {n for n, p in portrait.named_parameters() if p.grad is None or not p.grad.isfinite().all()}
    assert without == {n for n, _ in portrait.named_parameters() if n.endswith("noise_strength")}


def test_fresh_planes_have_a_signal():
    portrait = Portrait4D(tiny())
    portrait.reconstructor.initialize()
    with torch.no_grad():
        a, b = (portrait.reenact(portrait.prepare(x, None), Driving(None)).planes for x in (pictures(), pictures()))
    assert a.std() > 1e-3
    assert (a - b).std() > 1e-5


def test_a_picture_of_another_size_is_refused_by_name(tiny_portrait):
    with pytest.raises(ValueError, match=r"image: expected \[B, 3, 128, 128\], got \[1, 3, 64, 64\]"):
        tiny_portrait.prepare(torch.zeros(1, 3, 64, 64), None)
    with pytest.raises(ValueError, match=r"motion: expected \[B, 9\] with B=1 from image, got \[1, 500\]"):
        tiny_portrait.prepare(pictures(), torch.zeros(1, 500))


@torch.no_grad()
def test_folding_keeps_the_picture_and_ends_training():
    portrait = Portrait4D(tiny())
    portrait.superres.style.normal_()
    feature = torch.randn(1, 16, 32, 32)
    before = portrait.superres(feature[:, :3], feature)
    folded = portrait.fold().superres
    torch.testing.assert_close(folded(feature[:, :3], feature), before, atol=1e-5, rtol=1e-5)
    assert not list(folded.parameters())


def test_fresh_weights_have_the_published_spread():
    torch.manual_seed(0)
    portrait = Portrait4D(tiny())
    parts = portrait.reconstructor
    parts.initialize()

    def spread(weight):
        return weight.std().item()

    mlp = parts.transfer.blocks[0].mlp
    assert spread(mlp.fc1.weight) == pytest.approx(0.02, rel=0.03)
    assert spread(parts.transfer.blocks[0].cross_attention.proj.weight) == pytest.approx(0.02, rel=0.05)
    assert spread(mlp.depthwise.weight) == pytest.approx((2 / 9) ** 0.5, rel=0.05)  # a group has one output
    tail = parts.plane_decoder.tail[0].weight
    assert spread(tail) == pytest.approx((2 / (9 * len(tail))) ** 0.5, rel=0.05)
    assert spread(parts.plane_decoder.out.weight) == pytest.approx(0.15, rel=0.05)
    background = parts.background_encoder.down[0].conv.weight
    assert spread(background) == pytest.approx((2 / (9 * len(background))) ** 0.5, rel=0.1)
    detail = parts.detail_encoder.convs[1].weight
    assert spread(detail) == pytest.approx((2 / (9 * len(detail))) ** 0.5, rel=0.1)
    biases = [b for n, b in parts.plane_decoder.named_parameters() if n.endswith("bias")]
    assert biases
    assert all(b.abs().max() == 0 for b in biases)


def test_rendering_is_one_graph_for_the_compiler(tiny_portrait):
    """What breaks a graph on the CPU breaks a capture on a GPU."""
    planes, camera = torch.randn(1, 3, 64, 64, 16), fixed_camera()
    with torch.no_grad():
        explained = torch._dynamo.explain(tiny_portrait.volume)(planes, camera)
        feature = torch.randn(1, 16, 32, 32)
        superres = torch._dynamo.explain(tiny_portrait.superres)(feature[:, :3], feature)
    assert explained.graph_break_count == 0, explained.break_reasons
    assert superres.graph_break_count == 0, superres.break_reasons

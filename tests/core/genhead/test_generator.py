"""The tiny generator draws the open head: pictures, depth, opacity, masks; and what stage 1 and training ask of it."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch

from tests.core.genhead.heads import only, tiny_genhead, two_heads
from triportrait.core.config import GENHEAD_PRESETS, GenHeadConfig, RenderConfig, genhead_ffhq512, genhead_tiny
from triportrait.core.errors import InputError
from triportrait.core.genhead import rendering
from triportrait.core.genhead.generator import GenHead
from triportrait.core.genhead.weights import load_genhead, save_genhead
from triportrait.core.psnr import psnr
from triportrait.core.seeded_weights import rule_genhead
from triportrait.kernels.dispatch import use_backend


def number_of_parameters(config):
    with torch.device("meta"):
        return sum(p.numel() for p in GenHead(config).parameters())


class TestSizes:
    def test_the_published_generator_has_its_published_size(self):
        assert number_of_parameters(genhead_ffhq512()) == 29_445_197 + 23_886_505 + 4_257 + 1_649_578
        assert genhead_ffhq512().image_size == 512

    @pytest.mark.parametrize("preset", GENHEAD_PRESETS)
    def test_a_config_survives_json(self, preset):
        config = GENHEAD_PRESETS[preset]()
        assert config.preset == preset
        assert GenHeadConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config

    def test_planes_end_at_their_side(self):
        with pytest.raises(InputError, match=r"plane_widths: expected one .*plane_size=256, got 2, which end at 8"):
            GenHeadConfig(plane_widths=(8, 8))

    def test_samples_are_bounded(self):
        with pytest.raises(InputError, match=r"render: expected at most 8,388,608 samples a picture"):
            GenHeadConfig(ray_size=512, render=RenderConfig())


class TestView:
    def test_shapes_and_ranges(self, view):
        r, config = view.rendering, genhead_tiny()
        assert r.image.shape == (2, 3, 128, 128)
        assert r.raw_image.shape == (2, 3, 32, 32) and r.feature.shape == (2, 16, 32, 32)
        assert r.depth.shape == r.opacity.shape == view.masks.eye.shape == view.masks.mouth.shape == (2, 1, 32, 32)
        assert view.planes.shape == (2, 6, 64, 64, 16)
        assert view.masks.eye_picture.shape == view.masks.mouth_picture.shape == (2, 1, 128, 128)
        assert r.opacity.min() >= 0 and r.opacity.max() <= 1 + 1e-5
        half = config.render.box_side / 2
        assert r.depth.min() >= 4.2 - half - 1e-4 and r.depth.max() <= 4.2 + half + 0.05
        for image in (r.image, r.raw_image, r.feature, r.depth):
            assert image.isfinite().all()
        assert r.image[0].std() > 0.01 and not torch.allclose(r.image[0], r.image[1])

    def test_a_batch_is_its_members(self, genhead, view):
        for row in range(2):
            with torch.no_grad():
                alone = genhead(**only(row, two_heads()))
            for name in ("image", "depth", "opacity"):
                one, both = getattr(alone.rendering, name)[0], getattr(view.rendering, name)[row]
                torch.testing.assert_close(one, both, atol=2e-4, rtol=0)

    def test_rays_in_chunks_are_the_same_rays(self, genhead, view, monkeypatch):
        monkeypatch.setattr(rendering, "RAY_CHUNK", 600)
        with torch.no_grad():
            again = genhead(**two_heads())
        torch.testing.assert_close(again.rendering.feature, view.rendering.feature, atol=2e-4, rtol=0)

    def test_part_e_shows_in_the_masks_alone(self, genhead, view):
        heads = two_heads()
        posed = genhead.pose(heads["shape"], heads["expression"], heads["pose"], heads["eyes"])
        styles = genhead.styles(heads["latent"], genhead.condition(heads["camera"], heads["shape"]))
        with torch.no_grad():
            painted = genhead.paint(styles, genhead.background_styles(heads["latent"]))
            painted.planes[:, :3] += 1
            other = genhead.render(painted, posed, heads["camera"])
        changed = (other.rendering.feature - view.rendering.feature).abs().amax(1, keepdim=True) > 1e-6
        in_masks = (view.masks.eye + view.masks.mouth) > 0
        assert changed.any() and not (changed & ~in_masks).any()
        assert (changed & (view.masks.eye > 0.9)).any() and (changed & (view.masks.mouth > 0)).any()

    def test_large_grids_are_fused_auto(self, genhead, monkeypatch):
        heads, used = only(0, two_heads()), []
        fuse_parts = rendering.fuse_parts

        def spy(fuse, *arguments):
            used.append(fuse)
            return fuse_parts(fuse, *arguments)

        monkeypatch.setattr(rendering, "fuse_parts", spy)
        monkeypatch.setattr(genhead, "config", dataclasses.replace(genhead.config, hard_fuse_size=32))
        monkeypatch.setattr(genhead.volume, "config", genhead.config)
        with torch.no_grad():
            genhead(**heads, size=32)
            genhead(**heads, size=33)
            genhead(**heads, size=32, fuse="auto")
        assert used == ["hard", "hard", "auto", "auto", "auto", "auto"]  # coarse and fine samples

    def test_an_expression_moves_the_head_and_not_its_planes(self, genhead, view):
        heads = two_heads()
        heads["expression"] = heads["expression"] + 2
        with torch.no_grad():
            other = genhead(**heads)
        assert torch.equal(other.planes, view.planes)
        assert not torch.allclose(other.rendering.image, view.rendering.image)

    def test_folded_it_draws_the_same(self, view):
        with torch.no_grad():
            folded = tiny_genhead().fold()(**two_heads())
        torch.testing.assert_close(folded.rendering.image, view.rendering.image, atol=1e-3, rtol=0)


class TestRandomness:
    def test_stored_noise_is_the_default(self, genhead):
        styles = torch.randn(1, genhead.plane_synthesis.num_styles, 64, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            const, again, none = (genhead.plane_synthesis(styles, noise) for noise in ("const", "const", "none"))
            torch.manual_seed(3)
            one, other = (genhead.plane_synthesis(styles, "random") for _ in range(2))
        assert torch.equal(const, again) and not torch.allclose(const, none) and not torch.allclose(one, other)
        with pytest.raises(ValueError, match="noise: expected one of const, random, none"):
            genhead.plane_synthesis(styles, "some")

    def test_truncation_draws_the_first_styles_to_the_mean(self, genhead):
        heads = two_heads()
        condition = genhead.condition(heads["camera"], heads["shape"])
        mean = genhead.mapping.mean_style
        with torch.no_grad():
            full = genhead.styles(heads["latent"], condition)
            half = genhead.styles(heads["latent"], condition, truncation=0.5)
            first = genhead.styles(heads["latent"], condition, truncation=0.0, cutoff=3)
        torch.testing.assert_close(half, mean + 0.5 * (full - mean))
        assert torch.equal(first[:, 3:], full[:, 3:]) and torch.equal(first[:, :3], mean.expand(2, 3, -1))

    def test_the_mean_style_follows_training(self, genhead):
        mapping = rule_genhead(genhead_tiny()).background_mapping
        mapping.mean_style.zero_()
        mapping.update_mean(torch.ones(4, 64))
        torch.testing.assert_close(mapping.mean_style, torch.full((64,), 0.002), atol=1e-6, rtol=0)


class TestTraining:
    def test_gradients_reach_all_that_is_drawn(self):
        generator = tiny_genhead().requires_grad_(True)
        view = generator(**only(0, two_heads()), noise="random", jitter=torch.rand(1, 8))
        (view.rendering.image.square().mean() + view.rendering.depth.mean()).backward()
        silent = {name for name, p in generator.named_parameters() if p.grad is None or not p.grad.abs().sum()}
        assert silent == {name for name in silent if name.startswith("superres.") and name.endswith("noise_strength")}

    def test_recomputed_chunks_give_the_same_gradient(self, genhead, monkeypatch):
        heads, gradients = only(0, two_heads()), []
        posed = genhead.pose(heads["shape"], heads["expression"], heads["pose"], heads["eyes"])
        masks = genhead.masks(posed, heads["camera"], 16)
        for chunk in (1 << 20, 100):
            monkeypatch.setattr(rendering, "RAY_CHUNK", chunk)
            planes = torch.randn(1, 6, 16, 16, 16, generator=torch.Generator().manual_seed(2)).requires_grad_()
            samples = genhead.volume(planes, heads["camera"], posed, genhead.regions, masks)
            samples.feature.square().sum().backward()
            gradients.append(planes.grad)
        torch.testing.assert_close(*gradients, atol=2e-4, rtol=1e-3)


class TestKernels:
    def test_parts_by_kernels_are_those_of_the_definitions(self, genhead):
        heads = only(0, two_heads())
        posed = genhead.pose(heads["shape"], heads["expression"], heads["pose"], heads["eyes"])
        masks = genhead.masks(posed, heads["camera"], 2)
        assert (masks.eye > 0).any() and (masks.mouth > 0).any()
        planes = torch.randn(1, 6, 16, 16, 16, generator=torch.Generator().manual_seed(2))
        regions = copy.deepcopy(genhead.regions)  # of few vertices: an interpreter is slow
        regions.face, regions.eyes = regions.face[::60], regions.eyes[:, ::10]
        rendered = []
        for backend in ("triton", "reference"):
            with use_backend(backend), torch.no_grad():
                rendered.append(genhead.volume(planes, heads["camera"], posed, regions, masks))
        for name in ("feature", "depth", "opacity"):
            one, other = (getattr(samples, name) for samples in rendered)
            torch.testing.assert_close(one, other, atol=2e-3, rtol=0)

    @pytest.mark.gpu
    def test_a_gpu_draws_the_same_heads(self, view):
        generator, heads = tiny_genhead().to("cuda"), two_heads()
        with torch.no_grad():
            drawn = generator(**{name: value.to("cuda") for name, value in heads.items()})
        assert drawn.rendering.image.device.type == "cuda"
        for name, peak in (("image", 2.0), ("opacity", 1.0), ("depth", 1.3)):
            assert psnr(getattr(drawn.rendering, name).cpu(), getattr(view.rendering, name), peak) > 50


class TestWhatLearnersRead:
    def test_densities_of_parts_and_features_of_the_face(self, genhead, view):
        heads = only(0, two_heads())
        posed = genhead.pose(heads["shape"], heads["expression"], heads["pose"], heads["eyes"])
        points = (torch.rand(1, 50, 3, generator=torch.Generator().manual_seed(8)) - 0.5) * 0.6
        planes = view.planes[:1].clone().requires_grad_()
        densities = genhead.volume.part_densities(planes, points, posed, genhead.regions)
        feature = genhead.volume.face_features(planes, points, posed, genhead.regions)
        assert densities.shape == (1, 50, 3) and feature.shape == (1, 50, 16)
        weights = genhead.volume.field.weights()
        hidden = torch.nn.functional.softplus(feature @ weights.hidden_weight.T + weights.hidden_bias)
        torch.testing.assert_close(
            densities[..., 0], (hidden @ weights.density_weight.T)[..., 0] + weights.density_bias, atol=1e-4, rtol=1e-4
        )
        densities.sum().backward()
        assert (planes.grad.abs().sum((0, 2, 3, 4)) > 0).all()

    def test_a_new_generator_has_a_style_of_ones(self):
        assert (GenHead(genhead_tiny()).superres.style == 1).all()


class TestRefusals:
    def test_no_head_model(self):
        with pytest.raises(InputError, match="GenHead: expected a head model, these weights have none"):
            rule_genhead(genhead_tiny())(**two_heads())

    def test_another_head_model(self, genhead):
        config = genhead_tiny()
        other = GenHead(dataclasses.replace(config, neck=dataclasses.replace(config.neck, num_shape=13)))
        with pytest.raises(InputError, match="expected 13 directions of shape and 10 of expression, got 12 and 10"):
            other.set_head_model(genhead.neck)

    def test_shapes(self, genhead):
        heads = two_heads()
        heads["eyes"] = heads["eyes"][:1]
        with pytest.raises(ValueError, match=r"eyes: expected \[B, 6\] with B=2 from latent, got \[1, 6\]"):
            genhead(**heads)


class TestFolder:
    def test_what_is_saved_draws_the_same(self, genhead, view, tmp_path):
        save_genhead(tmp_path, genhead, {"made_from": "a rule"})
        with torch.no_grad():
            again = load_genhead(tmp_path)(**two_heads())
        assert torch.equal(again.rendering.image, view.rendering.image)

    def test_without_a_head_model_it_has_planes_alone(self, tmp_path):
        save_genhead(tmp_path, rule_genhead(genhead_tiny()), {})
        assert load_genhead(tmp_path).neck is None

    def test_an_old_card_has_no_sizes(self, genhead, tmp_path):
        save_genhead(tmp_path, genhead, {})
        card = json.loads((tmp_path / "genhead.json").read_text())
        (tmp_path / "genhead.json").write_text(json.dumps(card | {"config": None}))
        with pytest.raises(InputError, match="expected the sizes of a GenHead, got none, as an older version wrote it"):
            load_genhead(tmp_path)

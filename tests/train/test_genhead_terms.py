"""GenHead's own training, term by term: numbers by name, definitions, gradients, data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tests.core.genhead.heads import two_heads
from tests.train import little_gan
from triportrait.core.errors import InputError
from triportrait.core.genhead.mapping import MEAN_DECAY
from triportrait.core.genhead.regions import part_tables
from triportrait.core.genhead.rendering import PartRays
from triportrait.core.genhead.weights import neck_with_parts
from triportrait.core.render.cameras import camera_from_label
from triportrait.core.seeded_weights import rule_genhead
from triportrait.core.tracking.head_model import load_head_model
from triportrait.train.data.head_mirror import HeadMirror
from triportrait.train.data.parameter_tables import write_tables
from triportrait.train.data.picture_sources import StoredPictures, TabledPictures
from triportrait.train.data.picture_store.store import PictureStore
from triportrait.train.data.training_pictures import HeadParameters, TrainingPictures, read_replication
from triportrait.train.engines.ranks import Ranks
from triportrait.train.engines.schedule import lazy_corrected
from triportrait.train.genhead_config import GenHeadTraining
from triportrait.train.genhead_presets import GENHEAD_PRESETS
from triportrait.train.objectives.adversary import DiscriminatorInput, r1_terms
from triportrait.train.objectives.blurred import Blurred, blurred
from triportrait.train.objectives.discriminator import DiscriminatorConfig
from triportrait.train.objectives.losses import DENSITY_POINTS, DENSITY_STEP
from triportrait.train.objectives.part_terms import distortion, distortions, face_densities, light_through
from triportrait.train.stages import genhead as stage
from triportrait.train.stages.head_geometry import HeadGeometry

WHOLE = GENHEAD_PRESETS["published"]()
LOSSES, SCHEDULE = WHOLE.losses, WHOLE.schedule
ADAM = ("lr", "betas", "eps", "reg_interval")

PUBLISHED: dict[str, tuple[Any, Callable[[], Any]]] = {
    "batch": (32, lambda: WHOLE.batch),
    "images": (25_000_000, lambda: WHOLE.images),
    "side of the ray grid": (64, lambda: WHOLE.generator.ray_size),
    "side of the picture": (512, lambda: WHOLE.generator.image_size),
    "Adam of the generator": ((2.5e-3, (0.0, 0.99), 1e-8, 4), lambda: _of(WHOLE.optimizer)),
    "Adam of the discriminator": ((2e-3, (0.0, 0.99), 1e-8, 16), lambda: _of(WHOLE.discriminator)),
    "rates corrected for lazy regularisation": (
        (2.5e-3 * 4 / 5, 2e-3 * 16 / 17),
        lambda: (lazy_corrected(WHOLE.optimizer)[0], lazy_corrected(WHOLE.discriminator)[0]),
    ),
    "R1: picture, positions, mask, steps between": (
        (1, 10, 1, 16), lambda: (LOSSES.r1_image, LOSSES.r1_positions, LOSSES.r1_mask, SCHEDULE.r1_every),
    ),
    "density: weight, steps between, points": (
        (0.25, 4, 1000), lambda: (LOSSES.density, SCHEDULE.density_every, DENSITY_POINTS),
    ),
    "density: deviation, scene units": (
        0.004 * 1.3, lambda: pytest.approx(DENSITY_STEP * WHOLE.generator.render.box_side / 2),
    ),
    "blur at 0, 100,000 and 200,000 images": ((10, 5, 0), lambda: _at(SCHEDULE.blur_at, 0, 100_000, 200_000)),
    "swapped cameras at 0, 500,000 and 1,000,000 images": (
        (1, 0.75, 0.5), lambda: _at(SCHEDULE.swapping_at, 0, 500_000, 1_000_000),
    ),
    "EMA: half-life, ramp-up": ((10_000, 0.05), lambda: (WHOLE.optimizer.ema_half_life, WHOLE.optimizer.ema_rampup)),
    "decay of the mean styles": (0.998, lambda: MEAN_DECAY),
    "face in eyes and in mouth": ((10, 10), lambda: (LOSSES.face_in_eyes, LOSSES.face_in_mouth)),
    "distortion in eyes and in mouth": ((100, 100), lambda: (LOSSES.distortion_eyes, LOSSES.distortion_mouth)),
    "light through eyes and mouth": ((100, 100), lambda: (LOSSES.light_through_eyes, LOSSES.light_through_mouth)),
    "discriminator: base, widest, layers of the mapping": (
        (32_768, 512, 8),
        lambda: (WHOLE.discriminator_base, WHOLE.discriminator_widest, WHOLE.discriminator_mapping),
    ),
    "pictures are flipped": (True, lambda: WHOLE.flips),
}  # fmt: skip


def _of(config: Any) -> tuple[Any, ...]:
    return tuple(getattr(config, name) for name in ADAM)


def _at(schedule: Callable[[int], float], *images: int) -> tuple[float, ...]:
    return tuple(schedule(seen) for seen in images)


@pytest.mark.parametrize("said, home", PUBLISHED.values(), ids=PUBLISHED)
def test_a_published_number_has_its_home(said, home):
    assert home() == said


def test_the_published_discriminator_has_its_published_size():
    assert stage.discriminator_sizes(WHOLE) == DiscriminatorConfig()


def test_small_weights_and_rates_are_the_published_ones():
    small = GENHEAD_PRESETS["tiny"]()
    assert small.losses == LOSSES
    assert _of(small.optimizer) == _of(WHOLE.optimizer)
    assert small.generator.preset == "genhead_tiny"


REFUSED = {
    "micro-batches": ({"micro_batches": 3}, "micro_batches: expected a divisor of the batch of 32, got 3"),
    "groups": ({"batch": 4}, "batch: expected micro-batches of a multiple of 2"),
    "share": ({"schedule": dataclasses.replace(SCHEDULE, swapping_to=1.5)}, "schedule.swapping_to: expected a share"),
    "weight": ({"losses": dataclasses.replace(LOSSES, density=-1.0)}, "losses.density: expected 0 or more, got -1.0"),
    "betas": ({"optimizer": dataclasses.replace(WHOLE.optimizer, betas=(0.0, 1.0))}, "optimizer.betas: expected"),
}


@pytest.mark.parametrize("changes, said", REFUSED.values(), ids=REFUSED)
def test_numbers_out_of_range_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        dataclasses.replace(WHOLE, **changes)


class TestPartTerms:
    def test_distortion_is_the_sum_over_all_pairs_of_intervals(self):
        rng = np.random.default_rng(0)
        depths = np.sort(rng.uniform(3, 5, (2, 3, 7)))
        weights = rng.uniform(0, 0.3, (2, 3, 6))
        expected = np.zeros((2, 3))
        for b in range(2):
            for q in range(3):
                middle = (depths[b, q, 1:] + depths[b, q, :-1]) / 2 / 1.3
                length = (depths[b, q, 1:] - depths[b, q, :-1]) / 1.3
                for i in range(6):
                    for j in range(6):
                        expected[b, q] += weights[b, q, i] * weights[b, q, j] * abs(middle[i] - middle[j])
                    expected[b, q] += weights[b, q, i] ** 2 * length[i] / 3
        got = distortion(torch.from_numpy(weights), torch.from_numpy(depths), 1.3)
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-10)

    def test_its_gradient_is_that_of_differences(self):
        rng = torch.Generator().manual_seed(1)
        depths = (torch.rand(1, 2, 6, generator=rng, dtype=torch.float64) + 4).sort(-1).values
        weights = torch.rand(1, 2, 5, generator=rng, dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(lambda w: distortion(w, depths, 1.3), weights)

    def test_means_are_over_all_rays_and_weighed_by_masks(self):
        rng = torch.Generator().manual_seed(2)
        Q, L, rays = 3, 4, 10
        density, inside = torch.randn(1, Q, L, generator=rng), torch.rand(1, Q, L, generator=rng) > 0.5
        eye, mouth = torch.tensor([[0.5, 0.0, 1.0]]), torch.tensor([[0.0, 0.25, 0.0]])
        depths = (torch.rand(1, Q, L, generator=rng) + 4).sort(-1).values
        weights = torch.rand(1, Q, L - 1, generator=rng) / L
        parts = PartRays(depths, weights, density, inside, eye, mouth)
        in_eyes = in_mouth = eyes_apart = mouth_apart = 0.0
        for q in range(Q):
            apart = float(distortion(weights[:, q : q + 1], depths[:, q : q + 1], 1.3))
            eyes_apart += float(eye[0, q]) * apart / rays
            mouth_apart += float(mouth[0, q]) * apart / rays
            for s in range(L):
                sigma = float(density[0, q, s])
                in_eyes += float(eye[0, q]) * np.log1p(np.exp(sigma * float(inside[0, q, s]))) / (rays * L)
                in_mouth += float(mouth[0, q]) * np.log1p(np.exp(sigma)) / (rays * L)
        got = [*face_densities(parts, rays), *distortions(parts, rays, 1.3)]
        assert [float(value) for value in got] == pytest.approx([in_eyes, in_mouth, eyes_apart, mouth_apart], rel=1e-4)

    def test_light_in_a_mask(self):
        opacity, mask = torch.full((1, 1, 2, 2), 0.75), torch.tensor([[[[1.0, 0.5], [0.0, 0.0]]]])
        assert float(light_through(opacity, mask)) == pytest.approx(0.25 * 1.5 / 4)


@pytest.fixture(scope="module")
def looking():
    """A small generator that draws heads that are seen, a head model, and two heads as it painted them."""
    generator = rule_genhead(little_gan.generator())
    generator.set_head_model(neck_with_parts(generator.config, load_head_model().flame))
    heads = two_heads()
    heads["latent"] = heads["latent"][:, :8]
    head = HeadParameters(heads["camera"], heads["shape"], heads["expression"], heads["pose"] * 1, heads["eyes"])
    head.pose[:, :3] = 0
    geometry = HeadGeometry(generator.neck, generator.config)
    with torch.no_grad():
        styles = generator.styles(heads["latent"], generator.condition(head.camera, head.shape))
        painted = generator.paint(styles, generator.background_styles(heads["latent"]))
    return generator, geometry, head, painted


class TestPartRays:
    def test_asking_for_them_changes_no_picture(self, looking):
        generator, geometry, head, painted = looking
        posed, again = geometry.pose(head), generator.pose(head.shape, head.expression, head.pose, head.eyes)
        torch.testing.assert_close(posed.vertices, again.vertices, atol=1e-6, rtol=0)
        masks = geometry.masks(posed, head.camera)
        arguments = (painted.planes, head.camera, posed, geometry.regions, masks)
        with torch.no_grad():
            plain, (asked, _) = generator.volume(*arguments), generator.volume.forward_with_parts(*arguments)
            straight = generator.volume(painted.planes, head.camera, again, geometry.regions, masks)
        assert torch.equal(plain.feature, asked.feature) and torch.equal(plain.opacity, asked.opacity)
        torch.testing.assert_close(plain.feature, straight.feature, atol=1e-3, rtol=0)

    def test_they_are_what_lies_along_the_rays(self, looking):
        """Their weights add up to the ray's opacity, their densities are the face's at the points themselves."""
        generator, geometry, head, painted = looking
        posed = geometry.pose(head)
        masks = geometry.masks(posed, head.camera)
        with torch.no_grad():
            samples, parts = generator.volume.forward_with_parts(
                painted.planes, head.camera, posed, geometry.regions, masks
            )
        seen = (masks.eye + masks.mouth).flatten(1) > 0
        assert seen.any(1).all()
        for row in range(2):
            is_seen = (parts.eye + parts.mouth)[row] > 0
            assert int(is_seen.sum()) == int(seen[row].sum())
            sums = parts.weights[row][is_seen].sum(-1).sort().values
            torch.testing.assert_close(sums, samples.opacity[row][seen[row]].sort().values, atol=1e-5, rtol=0)
            for name in ("eye", "mouth"):
                sent = getattr(parts, name)[row].sort().values[-5:]
                torch.testing.assert_close(sent, getattr(masks, name)[row].flatten().sort().values[-5:])
        assert (parts.depths.diff(dim=-1) >= 0).all()
        assert parts.inside_eyes.any() and not parts.inside_eyes.all()
        assert parts.face_density.shape == parts.inside_eyes.shape == parts.depths.shape

    def test_the_terms_reach_the_planes(self, looking):
        """The face's density moves the face's planes alone, distortion and light those of eyes and mouth, too."""
        generator, geometry, head, painted = looking
        planes = painted.planes.clone().requires_grad_(True)
        models = stage.GenHeadModels(generator, None, geometry)  # type: ignore[arg-type]
        drawn = stage.render_heads(models, dataclasses.replace(painted, planes=planes), head)
        terms = stage.part_terms(drawn, LOSSES, generator.config.render.box_side)
        assert len(terms) == 6
        for name, value in terms.items():
            assert value > 0, name
            (gradient,) = torch.autograd.grad(value, planes, retain_graph=True)
            assert gradient[:, 3:].abs().sum() > 0, name
            assert bool(gradient[:, :3].any()) == (not name.startswith("face in")), name


class TestBlur:
    def test_taps_are_powers_of_two(self):
        spot = torch.zeros(1, 3, 21, 21)
        spot[..., 10, 10] = 1
        out = blurred(spot, 2.0)
        taps = np.array([2.0 ** -((k / 2) ** 2) if abs(k) <= 6 else 0 for k in range(-10, 11)])
        taps /= taps.sum()
        np.testing.assert_allclose(out[0, 1].numpy(), np.outer(taps, taps), atol=1e-7)
        assert blurred(spot, 0.3) is spot

    def test_picture_and_ray_grid_are_blurred_alike_and_nothing_else(self):
        seen: list[Any] = []

        def judge(*values: Any) -> torch.Tensor:
            seen.append(values)
            return torch.zeros(1, 1)

        values = [torch.randn(1, 3, 32, 32), torch.randn(1, 3, 16, 16), torch.randn(1, 3, 32, 32),
                  torch.randn(1, 1, 16, 16), torch.randn(1, 25)]  # fmt: skip
        Blurred(judge, 2.0)(*values)  # type: ignore[arg-type]
        image, raw, *others = seen[0]
        assert torch.equal(image, blurred(values[0], 2.0)) and torch.equal(raw, blurred(values[1], 1.0))
        assert all(torch.equal(a, b) for a, b in zip(others, values[2:], strict=True))

    def test_r1_is_taken_by_the_pictures_before_the_blur(self):
        weight = torch.randn(1, 3, 8, 8)

        def judge(image: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
            return (image * weight).sum((1, 2, 3))[:, None] + sum(x.sum() for x in _) * 0

        true = DiscriminatorInput(torch.randn(1, 3, 8, 8), torch.randn(1, 3, 4, 4), torch.randn(1, 3, 8, 8),
                                  torch.randn(1, 1, 4, 4), torch.randn(1, 25))  # fmt: skip
        got = r1_terms(Blurred(judge, 1.0), true, LOSSES)["R1 image"]  # type: ignore[arg-type]
        assert got.item() == pytest.approx(float(blurred(weight, 1.0).square().sum()) / 2, rel=1e-4)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return StoredPictures(little_gan.write_store(tmp_path_factory.mktemp("pictures") / "store").folder)


@pytest.fixture(scope="module")
def mirror():
    model, neck = load_head_model(), little_gan.generator().neck
    return HeadMirror(model.flame["template"], model.padded_tables(neck)["shape_directions"], neck.num_shape)


class TestData:
    def test_every_entry_is_shown_once_in_an_epoch(self, store, mirror):
        replication = np.array([1, 2, 0, 1, 3, 1])
        pictures = TrainingPictures(store, little_gan.generator(), [0, 1, 2, 3, 4], replication, mirror)
        assert len(pictures) == 2 * 7
        shown: list[str] = []
        for place in range(0, 14, 2):
            shown += pictures.draw(2, np.random.default_rng(place), place).real.origin
        counts = {number: shown.count(f"{store.folder} picture {number}") for number in range(6)}
        assert counts == {0: 2, 1: 4, 2: 0, 3: 2, 4: 6, 5: 0}
        again = [pictures.draw(2, np.random.default_rng(0), place).real.origin for place in range(14, 28, 2)]
        assert sorted(name for names in again for name in names) == sorted(shown)
        assert [name for names in again for name in names] != shown, "in another order"

    def test_the_arguments_alone_decide(self, store):
        one, other = (TrainingPictures(store, little_gan.generator(), seed=3) for _ in range(2))
        other.draw(4, np.random.default_rng(9), 1)
        first, second = (p.draw(4, np.random.default_rng(7), 2) for p in (one, other))
        assert torch.equal(first.real.image, second.real.image)
        assert torch.equal(first.drawn.shape, second.drawn.shape)
        assert not torch.equal(first.drawn.shape, first.real.head.shape), "drawn as other people"

    def test_necks_are_straight_and_parameters_are_those_of_the_picture(self, store):
        pictures = TrainingPictures(store, little_gan.generator())
        head, row = pictures.heads(np.array([4])), PictureStore(store.folder).row(4)
        assert not head.pose[:, :3].any() and row["pose"][:3].all()
        assert head.pose[0, 3] == row["pose"][3]
        assert torch.equal(head.shape[0], torch.from_numpy(row["shape"][:12]))
        assert torch.equal(head.camera.world_from_camera[0].flatten(), torch.from_numpy(row["camera"][:16]))

    def test_a_flipped_picture_shows_the_mirrored_head(self, store, mirror):
        """The head drawn with mirrored parameters before the mirrored camera is where the flipped picture shows it."""
        config = little_gan.generator()
        config = dataclasses.replace(config, render=dataclasses.replace(config.render, superres_widths=(8, 8)))
        pictures = TrainingPictures(store, config, mirror=mirror)
        model = load_head_model()
        geometry = HeadGeometry(neck_with_parts(config, model.flame), config)
        plain, flipped = pictures.real(np.arange(6)), pictures.real(np.arange(6, 12))
        torch.testing.assert_close(plain.image.flip(-1), flipped.image, atol=1e-5, rtol=0)
        torch.testing.assert_close(plain.mask.flip(-1), flipped.mask, atol=1e-5, rtol=0)
        wrong = []
        for head in (flipped.head, plain.head):
            positions = geometry.positions(geometry.pose(head), head.camera)
            drawn = (positions != 0).any(1, keepdim=True).float()
            wrong.append(float((drawn - flipped.mask).abs().mean()))
        assert wrong[0] < 0.02 < wrong[1], wrong
        assert all(lost < 0.25 for lost in mirror.lost.values()), mirror.lost

    def test_mirrored_parameters_make_the_mirrored_mesh(self, mirror):
        """Face and eyeballs, each with a motion that is not its own mirror image."""
        flame, rng = load_head_model().flame, np.random.default_rng(2)
        rows = {
            "camera": np.tile(np.eye(5, dtype=np.float32).reshape(1, 25), (3, 1)),
            "shape": rng.normal(size=(3, 12)) * 0.6,
            "expression": rng.normal(size=(3, 10)) * 0.6,
            "pose": rng.normal(size=(3, 6)) * [0, 0, 0, 0.1, 0.1, 0.1],
            "eyes": rng.normal(size=(3, 6)) * 0.3,
        }

        def mesh(rows: dict[str, np.ndarray]) -> torch.Tensor:
            t = {name: torch.from_numpy(np.asarray(value, np.float32)) for name, value in rows.items()}
            betas = torch.cat([t["shape"], t["expression"]], 1)
            vertices, _ = flame(betas, t["pose"][:, :3], t["pose"][:, 3:], t["eyes"])
            return vertices

        across = torch.tensor([-1.0, 1, 1])
        twin = torch.cdist(flame["template"], flame["template"] * across).argmin(1)
        expected = (mesh(rows) * across)[:, twin]
        eyes = part_tables(flame)["eye_idxs"]
        for part in (slice(None), eyes):
            off = (mesh(mirror.flipped(rows))[:, part] - expected[:, part]).norm(dim=-1).mean()
            unflipped = (mesh(rows)[:, part] - expected[:, part]).norm(dim=-1).mean()
            assert off < 0.2 * unflipped, (float(off), float(unflipped))

    def test_a_mirror_of_a_mirror_image_is_the_head(self, mirror, store):
        rows = {name: column[:4] for name, column in TrainingPictures(store, little_gan.generator())._rows.items()}
        twice = mirror.flipped(mirror.flipped(rows))
        for name in ("camera", "pose", "eyes"):
            np.testing.assert_allclose(twice[name], rows[name], atol=1e-6)
        camera = camera_from_label(torch.from_numpy(mirror.flipped(rows)["camera"]))
        assert torch.linalg.det(camera.world_from_camera).tolist() == pytest.approx([1] * 4, rel=1e-4)

    def test_a_lopsided_head_has_no_mirror(self):
        template = torch.rand(50, 3)
        with pytest.raises(InputError, match=r"flips: expected a head model that is its own mirror image.*--no-flips"):
            HeadMirror(template, torch.rand(50, 3, 4), 2)

    def test_a_folder_with_published_tables_shows_what_the_store_shows(self, store, tmp_path):
        write_tables([store.folder], tmp_path / "tables")
        for name in ("align_images", "segs"):
            (tmp_path / "ffhq" / name).mkdir(parents=True)
        for number in range(6):
            Image.fromarray(store.picture(number)).save(tmp_path / f"ffhq/align_images/{number}.png")
            Image.fromarray(store.mask(number) * np.uint8(255)).save(tmp_path / f"ffhq/segs/{number}.png")
        tabled = TabledPictures(tmp_path / "ffhq", tmp_path / "tables")
        assert (len(tabled), tabled.size, tabled.head_model) == (6, 64, store.head_model)
        ours, theirs = (TrainingPictures(s, little_gan.generator()).draw(4, np.random.default_rng(0), 0)
                        for s in (tabled, store))  # fmt: skip
        assert torch.equal(ours.real.image, theirs.real.image) and torch.equal(ours.real.mask, theirs.real.mask)
        assert torch.equal(ours.drawn.shape, theirs.drawn.shape) and torch.equal(ours.drawn.pose, theirs.drawn.pose)
        assert tabled.files().keys() > {"0.png", "ffhq_all_motion_params.npy"}
        (tmp_path / "ffhq/segs/3.png").unlink()
        with pytest.raises(InputError, match=r"3.png: expected the mask of 3.png, none is there"):
            TabledPictures(tmp_path / "ffhq", tmp_path / "tables")
        (tmp_path / "ffhq/align_images/3.png").rename(tmp_path / "ffhq/align_images/4.jpg")
        with pytest.raises(InputError, match=r"expected one picture of this name, as masks are found by it, got 2"):
            TabledPictures(tmp_path / "ffhq", tmp_path / "tables")
        (tmp_path / "ffhq/align_images/4.jpg").unlink()
        with pytest.raises(InputError, match=r"expected 6 pictures, as .* has rows, got 5"):
            TabledPictures(tmp_path / "ffhq", tmp_path / "tables")

    def test_tables_of_replications(self, tmp_path):
        np.save(tmp_path / "r.npy", np.array([1, 2, 3]))
        assert read_replication(tmp_path / "r.npy", 3).tolist() == [1, 2, 3]
        for values, said in (
            (np.array([1, 2]), "expected 3 numbers, as there are pictures, got 2"),
            (np.array([1.0, 2, 3]), "expected an .npy of whole numbers"),
            (np.array([1, -1, 3]), "expected numbers from 0 to 1000, got -1 to 3"),
        ):
            np.save(tmp_path / "r.npy", values)
            with pytest.raises(InputError, match=said):
                read_replication(tmp_path / "r.npy", 3)
        with pytest.raises(InputError, match="missing, damaged or another"):
            read_replication(tmp_path / "none.npy", 3)

    def test_pictures_that_the_generator_cannot_learn_are_refused(self, store):
        config = little_gan.generator()
        large = dataclasses.replace(config, render=dataclasses.replace(config.render, superres_widths=(8, 8, 8)))
        with pytest.raises(
            InputError, match=r"expected pictures of 128 px or more, got 64; make them again, `prepare pictures` by --s"
        ):
            TrainingPictures(store, large)
        few = dataclasses.replace(config, neck=dataclasses.replace(config.neck, num_shape=3))
        with pytest.raises(InputError, match="expected heads of 3 numbers of shape"):
            TrainingPictures(store, few)
        with pytest.raises(InputError, match="leave none"):
            TrainingPictures(store, config, replication=np.zeros(6, np.int64))


class TestStyles:
    def test_cameras_are_swapped_within_a_micro_batch(self, monkeypatch, looking):
        generator, _, head, _ = looking
        conditions: list[torch.Tensor] = []
        forward = type(generator.mapping).forward

        def spy(self: Any, latent: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
            if condition is not None:
                conditions.append(condition)
            return forward(self, latent, condition)

        monkeypatch.setattr(type(generator.mapping), "forward", spy)
        for share in (0.0, 1.0):
            stage.draw_styles(generator, head, torch.Generator().manual_seed(0), share)
        own = generator.condition(head.camera, head.shape)
        assert torch.equal(conditions[0], own)
        assert torch.equal(conditions[1][:, :25], own[:, :25].roll(1, 0)), "of the head before"
        assert torch.equal(conditions[1][:, 25:], own[:, 25:]), "the shape stays"

    def test_the_mean_follows_all_micro_batches_of_a_step(self):
        generator = rule_genhead(little_gan.generator())
        before = generator.mapping.mean_style.clone()
        means = stage.MeanStyles(generator, 2, Ranks())
        one, other = torch.randn(4, 16), torch.randn(4, 16)
        means.add(one, other)
        assert torch.equal(generator.mapping.mean_style, before)
        means.add(other, one)
        expected = before.lerp(torch.cat([one, other]).mean(0), 1 - MEAN_DECAY)
        torch.testing.assert_close(generator.mapping.mean_style, expected)
        means.add(one * torch.nan, one)
        means.add(one, one)
        assert generator.mapping.mean_style.isfinite().all()


def test_the_density_is_compared_over_the_three_parts(looking, monkeypatch):
    generator, geometry, head, _ = looking
    models = stage.GenHeadModels(generator, None, geometry)  # type: ignore[arg-type]
    asked: list[torch.Tensor] = []

    def densities(planes: Any, points: torch.Tensor, *_: Any) -> torch.Tensor:
        asked.append(points)
        return torch.stack([points[..., 0], 2 * points[..., 1], F.relu(points[..., 2])], -1)

    monkeypatch.setattr(generator.volume, "part_densities", densities)
    got = stage.density_roughness(models, head, torch.Generator().manual_seed(0), 1.0)
    (points,) = asked
    assert points.shape == (2, 2000, 3)
    first, beside = points[:, :1000], points[:, 1000:]
    assert first.abs().max() <= 1 and first.abs().max() > 0.99
    assert (beside - first).std().item() == pytest.approx(0.0052, rel=0.05)
    d = beside - first
    expected = (d[..., 0].abs() + 2 * d[..., 1].abs() + (F.relu(beside[..., 2]) - F.relu(first[..., 2])).abs()) / 3
    torch.testing.assert_close(got, expected.mean(1))


def test_a_config_is_plain_json():
    import json

    assert json.loads(json.dumps(GenHeadTraining().to_dict()))["schedule"]["blur_sigma"] == 10.0

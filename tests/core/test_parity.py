"""Our modules, filled through the published names, agree with the stored outputs of the published network."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.core.parity import seeded, stored
from triportrait.core.config import NeckConfig
from triportrait.core.motion.neck import carry_points, grid_points, neck_grid, warp_of
from triportrait.core.render.cameras import fixed_camera
from triportrait.core.render.rays import camera_rays
from triportrait.core.render.volume import resize_background
from triportrait.core.seeded_weights import rule_normal
from triportrait.core.types import Driving, NeckGrid
from triportrait.kernels.field import decode_field
from triportrait.kernels.march import warped
from triportrait.kernels.triplane import sample_triplane

pytestmark = [pytest.mark.full, pytest.mark.usefixtures("no_grad")]

GRID = (32, 32)


def source_image():
    return seeded("img_app", (1, 3, 512, 512), "uniform")


def motions():
    return seeded("motion_app", (1, 548)), seeded("motion_mot", (1, 548))


def as_image(rays):  # [B, R, C] -> [B, C, h, w]
    return rays.mT.unflatten(2, (128, 128))


def shuffled(tokens):
    return F.pixel_shuffle(tokens.mT.unflatten(2, GRID), 2)


def channels_last(planes):
    return planes.permute(0, 1, 3, 4, 2).contiguous()


def channels_first(planes):  # [B, 3, H, W, C] -> [B, 3 C, H, W]
    return planes.permute(0, 1, 4, 2, 3).flatten(1, 2)


def test_01_global_encoder(full_portrait, agrees):
    encoder = full_portrait.reconstructor.global_encoder
    agrees("01_encoder_global", "layer4", encoder.trunk(source_image()))
    agrees("01_encoder_global", "out", encoder(source_image()))


def test_02_detail_encoder(full_portrait, agrees):
    agrees("02_encoder_detail", "out", full_portrait.reconstructor.detail_encoder(source_image()))


def test_03_background(full_portrait, agrees):
    logits = full_portrait.reconstructor.background_encoder(source_image())
    agrees("03_background", "raw", logits)
    agrees("03_background", "sig128", resize_background(logits.sigmoid(), 128))


def test_04_neutralizer(full_portrait, agrees):
    neutralizer, (v_s, _) = full_portrait.reconstructor.neutralizer, motions()
    feature = seeded("feat_global_in", (1, 256, 64, 64))
    motion_tokens, (patches, grid) = neutralizer.tokens(v_s), neutralizer.patch_embed(feature)
    agrees("04_neutralise", "y_tokens", motion_tokens)
    agrees("04_neutralise", "patch_embed", patches)
    agrees("04_neutralise", "block0", neutralizer.blocks[0](patches, grid, motion_tokens))
    agrees("04_neutralise", "out", neutralizer(feature, v_s)[0])


def test_05_motion_blocks(full_portrait, agrees):
    transfer, (_, v_d) = full_portrait.reconstructor.transfer, motions()
    agrees("05_reenact", "y_tokens", transfer.tokens(v_d))
    agrees("05_reenact", "out", transfer.apply_motion(seeded("tokens_in", (1, 1024, 1024)), GRID, v_d))


def test_06_canonical_convolutions(full_portrait, agrees):
    tokens = seeded("tokens_in", (1, 1024, 1024))
    agrees("06_canonical_convs", "lr", shuffled(tokens))
    agrees("06_canonical_convs", "out", full_portrait.reconstructor.transfer.grow(tokens, GRID))


@pytest.mark.parametrize("prefix", ["", "static_"])
def test_06b_both_halves_and_the_static_synthesizer(full_portrait, agrees, prefix):
    parts, (v_s, v_d) = full_portrait.reconstructor, motions()
    if prefix:
        v_s = v_d = None
    tokens, grid = parts.neutralizer(seeded("feat_global_in", (1, 256, 64, 64)), v_s)
    tokens = parts.transfer.apply_motion(tokens, grid, v_d)
    agrees("06b_encoder_canonical", f"{prefix}lr", shuffled(tokens))
    agrees("06b_encoder_canonical", f"{prefix}sr", parts.transfer.grow(tokens, grid))


def test_07_plane_decoder(full_portrait, agrees):
    canonical, detail = seeded("canonical_in", (1, 96, 256, 256)), seeded("detail_in", (1, 96, 256, 256))
    planes = full_portrait.reconstructor.plane_decoder(canonical, detail)
    agrees("07_triplane", "planes", channels_first(planes))


def test_08_field(full_portrait, agrees):
    planes = channels_last(seeded("planes", (1, 3, 32, 256, 256), scale=2.0))
    points = seeded("points", (1, 1000, 3), "uniform", 0.75) * (2 / 1.3)
    raw_density, feature = decode_field(planes, points, full_portrait.volume.field.weights())
    agrees("08_plane_mlp", "feature", sample_triplane(planes, points))
    agrees("08_plane_mlp", "rgb", feature)
    agrees("08_plane_mlp", "sigma", raw_density[..., None])


def test_09_volume_rendering(full_portrait, agrees):
    coarse = seeded("planes_lr", (3, 32, 16, 16), scale=6.0)
    planes = channels_last(F.interpolate(coarse, size=(256, 256), mode="bicubic", align_corners=False)[None])
    samples = full_portrait.volume(planes, fixed_camera())
    agrees("09_render", "ray_dirs", camera_rays(fixed_camera(), 128)[1])
    agrees("09_render", "feature", as_image(samples.feature))
    agrees("09_render", "depth", as_image(samples.depth[..., None]))
    agrees("09_render", "T_bg", 1 - as_image(samples.opacity[..., None]))


def test_09b_volume_rendering_of_rough_planes(full_portrait, agrees):
    planes = channels_last(seeded("planes", (1, 3, 32, 256, 256), scale=2.0))
    samples = full_portrait.volume(planes, fixed_camera())
    agrees("09b_render_rough_planes", "feature", as_image(samples.feature))
    agrees("09b_render_rough_planes", "depth", as_image(samples.depth[..., None]))
    agrees("09b_render_rough_planes", "T_bg", 1 - as_image(samples.opacity[..., None]))


@pytest.mark.parametrize("case", ["none", "const", "none_ws0", "none_ws1"])
def test_10_super_resolution(full_portrait, agrees, case):
    feature, superres = seeded("sr_in", (1, 32, 128, 128), scale=0.5), full_portrait.superres
    style = superres.style.clone()
    noises = None
    if case == "const":
        names = [(f"superresolution.block{b}.conv{c}.noise_const", 256 * (b + 1)) for b in (0, 1) for c in (0, 1)]
        noises = [torch.from_numpy(rule_normal(name, (size, size))).float() for name, size in names]
    try:
        if case.startswith("none_ws"):
            superres.style.fill_(float(case[-1]))
        agrees("10_superres", case, superres(feature[:, :3], feature, noises))
    finally:
        superres.style.copy_(style)


def test_10_folded_super_resolution_equals_it(full_portrait, agrees):
    feature = seeded("sr_in", (1, 32, 128, 128), scale=0.5)
    agrees("10_superres", "none", full_portrait.superres.fold()(feature[:, :3], feature), "(folded)")


def test_11_motion_encoder(motion_encoder, agrees):
    crop = seeded("img_mot", (1, 3, 224, 224), "uniform")
    feature, embedding = motion_encoder.face(crop), motion_encoder(crop)
    agrees("11_motion", "backbone", feature)
    agrees("11_motion", "embedding", embedding)
    agrees("11_motion", "headpose", motion_encoder.head_pose(feature))
    for name, part in zip(("eye", "emo", "mouth"), embedding.split((6, 30, 512), dim=1), strict=True):
        agrees("11_motion", name, part)


def test_13_end_to_end(full_portrait, agrees):
    v_s, v_d = motions()
    source = full_portrait.prepare(source_image(), v_s)
    head = full_portrait.reenact(source, Driving(v_d))
    rendering = full_portrait.render(head, fixed_camera())
    agrees("13_end_to_end", "planes", channels_first(head.planes))
    agrees("13_end_to_end", "image_feature", rendering.feature)
    agrees("13_end_to_end", "image", rendering.raw_image)
    agrees("13_end_to_end", "image_depth", rendering.depth)
    agrees("13_end_to_end", "T_bg", 1 - rendering.opacity)
    agrees("13_end_to_end", "image_sr", rendering.image)


def test_15_genhead(full_genhead, agrees):
    condition = full_genhead.condition(fixed_camera(), seeded("gh_shape", (1, 300), scale=0.1))
    styles = full_genhead.styles(seeded("z", (1, 512)), condition)
    agrees("15_genhead", "ws", styles[:, 0])
    agrees("15_genhead", "planes_const", full_genhead.plane_synthesis(styles, "const"))
    agrees("15_genhead", "planes_none", full_genhead.plane_synthesis(styles, "none"))
    behind = full_genhead.background_styles(seeded("z_bg", (1, 512)))
    agrees("15_genhead", "bg_const", full_genhead.background_synthesis(behind, "const"))


class TestNeckField:
    """Stage 14: every grid point has faces that tie for nearest, and the stored offset belongs to one of them."""

    TIE = 1e-5  # relative squared distance up to which faces tie

    def offsets_of_ties(self, points, target, reference, faces):
        """Offsets to every face, infinite where the face is not among the nearest: [P, F, 3]."""
        corners = target[faces.long()]  # [F, 3, 3]
        squared = torch.stack([_edge_distance(points, corners[:, i], corners[:, (i + 1) % 3]) for i in range(3)]).amin(
            0
        )
        ties = squared <= squared.amin(1, keepdim=True) * (1 + self.TIE)
        every = points[:, None].expand(-1, len(faces), -1)
        moved = carry_points(
            every, corners.expand(len(points), -1, -1, -1), reference[faces.long()].expand(len(points), -1, -1, -1)
        )
        return (moved - every).masked_fill(~ties[..., None], torch.inf), squared.amin(1)

    @pytest.mark.parametrize("size, name", [(24, "24"), (8, "8")])
    def test_14_offsets(self, agrees, size, name):
        z = stored("14_headpose_deform")
        offset, distance = z[f"offset{name}"][0].flatten(1).T, z[f"dist{name}"].flatten()
        worst, worst_distance = 0.0, 0.0
        for points, want, far in zip(
            grid_points(size, 1.3).split(512), offset.split(512), distance.split(512), strict=True
        ):
            options, squared = self.offsets_of_ties(points, z["target"], z["canonical"], z["faces"])
            worst = max(worst, (options - want[:, None]).abs().amax(-1).amin(-1).max().item())
            worst_distance = max(worst_distance, (squared - far).abs().max().item())
        agrees.judge("14_headpose_deform", f"offset{name} (nearest tie)", worst / offset.abs().max().item())
        agrees.judge("14_headpose_deform", f"dist{name} (brute force)", worst_distance / distance.max().item())

    def test_14_ours_is_one_of_the_ties(self, agrees):
        z = stored("14_headpose_deform")
        ours = neck_grid(z["target"][None], z["canonical"][None], z["faces"].long(), NeckConfig(), 1.3)
        points = grid_points(24, 1.3)
        offset, distance = ours.fine[0].flatten(0, 2).split((3, 1), dim=-1)
        for part, want in zip(points.split(512), offset.split(512), strict=True):
            options, _ = self.offsets_of_ties(part, z["target"], z["canonical"], z["faces"])
            assert (options - want[:, None]).abs().amax(-1).amin(-1).max() <= 2e-4 * offset.abs().max()
        agrees("14_headpose_deform", "dist24", distance.view(1, 1, 24, 24, 24))

    def test_14_lookup(self, agrees):
        z = stored("14_headpose_deform")
        smooth = z["offset8"]
        for _ in range(2):
            smooth = F.avg_pool3d(F.pad(smooth, (1,) * 6, mode="replicate"), 3, stride=1)
        fine = torch.cat([z["offset24"], z["dist24"].view(1, 1, 24, 24, 24)], 1)
        grid = NeckGrid(fine.permute(0, 2, 3, 4, 1), smooth.permute(0, 2, 3, 4, 1), 1.3, 3e-3)
        agrees(
            "14_headpose_deform", "x_c", warped(seeded("deform_points", (1, 2000, 3), "uniform", 0.7), warp_of(grid))
        )


def _edge_distance(points, start, end):
    """Squared distances [P, F] to segments, by plain differences in float64."""
    points, start, along = points.double()[:, None], start.double(), (end - start).double()
    t = (((points - start) * along).sum(-1) / (along**2).sum(-1)).clamp(0, 1)
    return ((start + t[..., None] * along - points) ** 2).sum(-1)

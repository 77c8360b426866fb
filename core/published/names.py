"""Rename published tensors to ours, one to one, by rules that apply from top to bottom."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Literal

OurKind = Literal["portrait", "motion", "genhead"]  # the networks that we have modules for
Rule = tuple[str, str | Callable[[re.Match[str]], str]]

_CANONICAL_BLOCK: list[Rule] = [
    (r"(\.blocks\.\d+)\.norm1\.", r"\1.self_norm."),
    (r"(\.blocks\.\d+)\.attn1\.", r"\1.self_attention."),
    (r"(\.blocks\.\d+)\.norm2\.", r"\1.cross_norm."),
    (r"(\.blocks\.\d+)\.attn2\.", r"\1.cross_attention."),
    (r"(\.blocks\.\d+)\.norm3\.", r"\1.mlp_norm."),
]

_DECODER_BLOCK: list[Rule] = [
    (r"(plane_decoder\.blocks\.\d+)\.norm1\.", r"\1.self_norm."),
    (r"(plane_decoder\.blocks\.\d+)\.norm2\.", r"\1.mlp_norm."),
    (r"(plane_decoder\.blocks\.\d+)\.attn\.sr\.", r"\1.self_attention.reduce."),
    (r"(plane_decoder\.blocks\.\d+)\.attn\.norm\.", r"\1.self_attention.reduce_norm."),
    (r"(plane_decoder\.blocks\.\d+)\.attn\.", r"\1.self_attention."),
]


def _shifted(template: str, step: int, offset: int = 0) -> Callable[[re.Match[str]], str]:
    """Put (number - offset) / step of the match into the template: indices that skip activations become a count."""
    return lambda match: template.format((int(match[1]) - offset) // step)


# what the portrait and GenHead have in common: the MLP behind the planes, super-resolution, FLAME and its tables
_RENDERER: list[Rule] = [
    (r"^decoder\.net\.0\.", "volume.field.hidden."),
    (r"^decoder\.out_sigma\.", "volume.field.density."),
    (r"^decoder\.out_rgb\.", "volume.field.feature."),
    (r"^superresolution\.block(\d)\.torgb\.", r"superres.blocks.\1.to_rgb."),
    (r"^superresolution\.block(\d)\.", r"superres.blocks.\1."),
    (r"^deformer\.flame_deform\.flame_model\.v_template$", "neck.flame.template"),
    (r"^deformer\.flame_deform\.flame_model\.shapedirs$", "neck.flame.shape_directions"),
    (r"^deformer\.flame_deform\.flame_model\.posedirs$", "neck.flame.pose_directions"),
    (r"^deformer\.flame_deform\.flame_model\.J_regressor$", "neck.flame.joint_regressor"),
    (r"^deformer\.flame_deform\.flame_model\.parents$", "neck.flame.parents"),
    (r"^deformer\.flame_deform\.flame_model\.lbs_weights$", "neck.flame.skinning_weights"),
    (r"^deformer\.flame_deform\.flame_model\.faces_tensor$", "neck.flame.faces"),
    (r"^deformer\.flame_deform\.flame_model\.lmk_faces_idx$", "neck.flame.landmark53_faces"),
    (r"^deformer\.flame_deform\.flame_model\.lmk_bary_coords$", "neck.flame.landmark53_barycentrics"),
    (r"^deformer\.flame_deform\.flame_model\.dynamic_lmk_faces_idx$", "neck.flame.contour_faces"),
    (r"^deformer\.flame_deform\.flame_model\.dynamic_lmk_bary_coords$", "neck.flame.contour_barycentrics"),
    (r"^deformer\.flame_deform\.flame_model\.full_lmk_faces_idx$", "neck.flame.landmark70_faces"),
    (r"^deformer\.flame_deform\.flame_model\.full_lmk_bary_coords$", "neck.flame.landmark70_barycentrics"),
    (r"^deformer\.flame_deform\.flame_model\.neck_kin_chain$", "neck.flame.neck_chain"),
    (r"^deformer\.flame_deform\.flame_model\.(global|neck|jaw|eye)_limits$", r"neck.flame.\1_limits"),
    (r"^deformer\.flame_deform\.simplify_idxs$", "neck.mesh.coarse_vertices"),
    (r"^deformer\.flame_deform\.simplify_baris$", "neck.mesh.coarse_barycentrics"),
    (r"^deformer\.flame_deform\.simplify_faces$", "neck.mesh.coarse_faces"),
    (r"^deformer\.flame_deform\.simplify_faces_region_idxs$", "neck.mesh.coarse_face_regions"),
    (r"^deformer\.flame_deform\.if_eye_face_simplify$", "neck.mesh.coarse_face_is_eye"),
    (
        r"^deformer\.flame_deform\.(masked_(?:eye_|lips_|face_wo_eye_|noinmouth_|smallface_|eyelids_)?faces"
        r"|canonical_shape(?:_face_only|_coarse)?|(?:eye|face|lips|noinmouth|vertices_region|dynamic|smallface|eyelids)_idxs)$",
        r"neck.mesh.\1",
    ),
]


def _doublings(side: str) -> int:
    """Return how often 4 is doubled to a side; a side that is none, like 0, gives a number that no block has."""
    return int(side).bit_length() - 3


_PORTRAIT: list[Rule] = [
    (r"^w_avg$", "superres.style"),
    (r"^encoder_global\.encoder\.conv1\.", "reconstructor.global_encoder.stem."),
    (r"^encoder_global\.encoder\.layer(\d)\.", _shifted("reconstructor.global_encoder.stages.{}.", 1, 1)),
    (r"^(reconstructor\.global_encoder\.stages\.\d+\.\d+)\.downsample\.0\.", r"\1.shortcut."),
    (r"^encoder_global\.decoder\.0\.convs\.([0-3])\.0\.", r"reconstructor.global_encoder.pyramid.branches.\1."),
    (r"^encoder_global\.decoder\.0\.convs\.4\.1\.", "reconstructor.global_encoder.pyramid.pooled."),
    (r"^encoder_global\.decoder\.0\.project\.0\.", "reconstructor.global_encoder.pyramid.project."),
    (r"^encoder_global\.decoder\.1\.", "reconstructor.global_encoder.refine."),
    (r"^encoder_detail\.encoder\.(\d+)\.", _shifted("reconstructor.detail_encoder.convs.{}.", 2)),
    (r"^background\.input_conv\.0\.", "reconstructor.background_encoder.stem."),
    (r"^background\.down_conv_(\d)\.0\.", _shifted("reconstructor.background_encoder.down.{}.conv.", 1, 1)),
    (r"^background\.down_conv_(\d)\.2\.op\.", _shifted("reconstructor.background_encoder.down.{}.shrink.", 1, 1)),
    (r"^background\.middle\.0\.", "reconstructor.background_encoder.middle."),
    (r"^background\.up_conv_(\d)\.0\.", _shifted("reconstructor.background_encoder.up.{}.conv.", 1, 1)),
    (r"^background\.up_conv_(\d)\.2\.conv\.", _shifted("reconstructor.background_encoder.up.{}.grow.", 1, 1)),
    (r"^background\.out_conv\.", "reconstructor.background_encoder.out."),
    (r"^encoder_canonical\.maps_neutral\.0\.", "reconstructor.neutralizer.tokens.fc1."),
    (r"^encoder_canonical\.maps_neutral\.2\.", "reconstructor.neutralizer.tokens.fc2."),
    (r"^encoder_canonical\.proj_y_neutral\.", "reconstructor.neutralizer.tokens.project."),
    (r"^encoder_canonical\.maps\.0\.", "reconstructor.transfer.tokens.fc1."),
    (r"^encoder_canonical\.maps\.2\.", "reconstructor.transfer.tokens.fc2."),
    (r"^encoder_canonical\.proj_y\.", "reconstructor.transfer.tokens.project."),
    (r"^encoder_canonical\.patch_embed\.proj\.", "reconstructor.neutralizer.patch_embed.conv."),
    (r"^encoder_canonical\.patch_embed\.norm\.", "reconstructor.neutralizer.patch_embed.norm."),
    (r"^encoder_canonical\.trans_blocks_neutral\.", "reconstructor.neutralizer.blocks."),
    (r"^encoder_canonical\.trans_blocks_motion\.", "reconstructor.transfer.blocks."),
    (r"^encoder_canonical\.convs\.1\.", "reconstructor.transfer.tail.0."),
    (r"^encoder_canonical\.convs\.4\.", "reconstructor.transfer.tail.1."),
    (r"^encoder_canonical\.convs\.6\.", "reconstructor.transfer.tail.2."),
    (r"^generator_triplane\.convs1\.(\d)\.", _shifted("reconstructor.plane_decoder.head.{}.", 2)),
    (r"^generator_triplane\.convs2\.(\d)\.", _shifted("reconstructor.plane_decoder.tail.{}.", 2)),
    (r"^generator_triplane\.patch_embed\.proj\.", "reconstructor.plane_decoder.patch_embed.conv."),
    (r"^generator_triplane\.patch_embed\.norm\.", "reconstructor.plane_decoder.patch_embed.norm."),
    (r"^generator_triplane\.trans_blocks\.", "reconstructor.plane_decoder.blocks."),
    (r"^generator_triplane\.conv_last\.", "reconstructor.plane_decoder.out."),
    *_DECODER_BLOCK,
    *_CANONICAL_BLOCK,
    (r"\.mlp\.dwconv\.dwconv\.", ".mlp.depthwise."),
    *_RENDERER,
]

_MOTION: list[Rule] = [
    (r"^model\.conv1\.", "face.stem."),
    (r"^model\.bn1\.", "face.stem_norm."),
    (r"^model\.conv([234])\.", _shifted("face.block{}.", 1, 1)),
    (r"^model\.m0\.b2_plus_1\.", "face.hourglass.bottom."),
    (r"^model\.m0\.b1_(\d)\.", lambda m: f"face.hourglass.across.{4 - int(m[1])}."),
    (r"^model\.m0\.b2_(\d)\.", lambda m: f"face.hourglass.down.{4 - int(m[1])}."),
    (r"^model\.m0\.b3_(\d)\.", lambda m: f"face.hourglass.up.{4 - int(m[1])}."),
    (r"^model\.top_m_0\.", "face.top."),
    (r"^model\.conv_last0\.", "face.last."),
    (r"^model\.bn_end0\.", "face.last_norm."),
    (r"^model\.l0\.", "face.heatmaps."),
    (r"^model\.bn5\.", "face.heatmap_norm."),
    (r"^model\.conv6\.", "face.shrink."),
    (r"^model\.fc\.", "face.fc."),
    (r"\.bn([123])\.", _shifted(".norms.{}.", 1, 1)),
    (r"^(face\.(?:block\d|top|hourglass\.\w+(?:\.\d)?))\.conv([123])\.", lambda m: f"{m[1]}.convs.{int(m[2]) - 1}."),
    (r"\.downsample\.0\.", ".shortcut_norm."),
    (r"\.downsample\.2\.", ".shortcut."),
    (r"^to_headpose\.", "head_pose.#"),
    (r"^to_mouth\.", "mouth.#"),
    (r"^to_eye\.", "eyes.#"),
    (r"^to_emo\.", "emotion.#"),
    (r"\.#0\.", ".fc1."),
    (r"\.#2\.", ".norm."),
    (r"\.#3\.", ".fc2."),
    (r"^headpose_embed\.1\.", "head_pose.embed."),
    (r"^eye_embed\.1\.", "eyes.embed."),
    (r"^emo_embed\.1\.", "emotion.embed."),
]

_SYNTHESIS = r"^((?:plane|background)_synthesis\.blocks\.\d+)"
_GENHEAD: list[Rule] = [
    (r"^backbone\.synthesis\.b(\d+)\.", lambda m: f"plane_synthesis.blocks.{_doublings(m[1])}."),
    (r"^background\.synthesis\.b(\d+)\.", lambda m: f"background_synthesis.blocks.{_doublings(m[1])}."),
    (r"^(plane|background)_synthesis\.blocks\.0\.const$", r"\1_synthesis.start"),
    (_SYNTHESIS + r"\.torgb\.", r"\1.to_image."),
    (r"^backbone\.mapping\.", "mapping."),
    (r"^background\.mapping\.", "background_mapping."),
    (r"^((?:background_)?mapping)\.w_avg$", r"\1.mean_style"),
    (r"^((?:background_)?mapping)\.fc(\d)\.", r"\1.layers.\2."),
    *_RENDERER,
]

_RULES: dict[OurKind, list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]]] = {
    "portrait": [(re.compile(p), r) for p, r in _PORTRAIT],
    "motion": [(re.compile(p), r) for p, r in _MOTION],
    "genhead": [(re.compile(p), r) for p, r in _GENHEAD],
}


def our_name(published: str, kind: OurKind) -> str:
    """Return our name for a published tensor; a name that no rule knows comes back, and matches nothing of ours."""
    name = published
    for pattern, replacement in _RULES[kind]:
        name = pattern.sub(replacement, name)
    return name


def rename(published: Iterable[str], kind: OurKind) -> dict[str, str]:
    """Map published names to ours.

    Raises:
        AssertionError: two published names would share one of ours; the rules are wrong then, not the file.
    """
    renamed = {name: our_name(name, kind) for name in published}
    assert len(set(renamed.values())) == len(renamed), "two published names became one of ours"
    return renamed

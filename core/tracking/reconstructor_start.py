"""A start of the fit from a 3DMM reconstructor: Deep3DFaceRecon's coefficients, brought to FLAME by a small network.

The reconstructor reads coefficients of the Basel Face Model off an aligned picture; the mapper of Portrait4D turns
those of identity and expression into FLAME's. It was trained on FLAME 2020 and means nothing to another model.
Both are the user's own files, written into one weights folder by `triportrait convert`.
Letters: B pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from triportrait.core.checkpoint import filled, read_tensors
from triportrait.core.errors import InputError
from triportrait.core.metrics.networks import load
from triportrait.core.metrics.recon3d import Coefficients, flame_head_rotation
from triportrait.core.metrics.recon3d_alignment import CROP, align, five_points
from triportrait.core.motion.flame import rotation_matrices
from triportrait.core.tracking.fit import Fitted, Start
from triportrait.core.tracking.head_model import HeadModel
from triportrait.core.tracking.records import records_of

MAPPER = "flame_mapper"
BASEL, HIDDEN, SHAPE, EXPRESSION, JAW = 144, 512, 300, 100, 3  # numbers of the mapper: 80 of identity, 64 of expression
EXPECTED_MODEL = "FLAME 2020"
QUICK_CAMERA = (0.0, 0.01, 4.2)  # scene units, where the quick estimate puts the camera of a head that does not turn


class FlameMapper(nn.Module):
    """The network that turns coefficients of the Basel Face Model into FLAME's, under the published names."""

    def __init__(self) -> None:
        super().__init__()
        out = SHAPE + EXPRESSION + JAW
        self.maps = nn.Sequential(nn.Linear(BASEL, HIDDEN), nn.LeakyReLU(0.01), nn.Linear(HIDDEN, out))

    def forward(self, identity: Tensor, expression: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return shape [B, 300], expression [B, 100] and the jaw's rotation vector [B, 3], radians.

        Args:
            identity: [B, 80] and expression: [B, 64], raw coefficients.
        """
        shape, face, jaw = self.maps(torch.cat([identity, expression], 1)).split([SHAPE, EXPRESSION, JAW], 1)
        return shape, face, jaw


def load_flame_mapper(weights: Path) -> FlameMapper:
    """Load the mapper, frozen.

    Args:
        weights: a folder in which `triportrait convert model-iter200000.pth` wrote it.

    Raises:
        InputError: it is not there, or damaged.
    """
    path = weights / f"{MAPPER}.safetensors"
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; the start by a reconstructor expects Portrait4D's mapper to FLAME "
            f"(model-iter200000.pth), write it there by `triportrait convert FILE {weights}`"
        )
    with torch.random.fork_rng(devices=[]):
        mapper = filled(FlameMapper(), read_tensors(weights, MAPPER), str(path), "the mapper to FLAME")
    return mapper.eval().requires_grad_(False)


@dataclass(frozen=True, eq=False)
class ReconstructorStart:
    """The two networks, ready.

    Attributes:
        reconstructor: gives 257 coefficients of pictures [B, 3, 224, 224]. mapper: as above.
    """

    reconstructor: nn.Module
    mapper: FlameMapper

    @classmethod
    def load(cls, weights: Path, model: HeadModel, device: torch.device | str = "cpu") -> ReconstructorStart:
        """Load both networks from one weights folder.

        Args:
            model: the head model that will be fitted, which must be FLAME 2020.
            device: where they shall run.

        Raises:
            InputError: the model is another, or a network is missing or damaged.
        """
        check_takes_start(model)
        return cls(load("recon3d", weights, device).network, load_flame_mapper(weights).to(device))

    def of_pictures(self, crops: Tensor) -> Start:
        """Read a start off the pictures of one clip.

        Args:
            crops: uint8 [T, 224, 224, 3], as `reconstructor_crop` makes them.

        Returns:
            N = 1 clip of T frames, float64, on the networks' device. Its shape is the mean of the frames'.
        """
        return start_of(self.mapper, self.coefficients(crops))

    @torch.inference_mode()
    def coefficients(self, crops: Tensor) -> Coefficients:
        """Return the coefficients of pictures uint8 [T, 224, 224, 3]."""
        device = next(self.mapper.parameters()).device
        return Coefficients.of(self.reconstructor(crops.to(device).permute(0, 3, 1, 2).float() / 255))


def check_takes_start(model: HeadModel) -> None:
    """Refuse a head model whose betas the mapper does not speak of.

    Raises:
        InputError: it is not FLAME 2020 with 300 and 100 directions.
    """
    directions = model.flame["shape_directions"].shape[-1]
    if model.identity.name != EXPECTED_MODEL or model.num_shape != SHAPE or directions != SHAPE + EXPRESSION:
        raise InputError(
            f"start: expected {EXPECTED_MODEL} with {SHAPE} + {EXPRESSION} directions, as the mapper gives them, got "
            f"{model.identity.name} with {model.num_shape} + {directions - model.num_shape}; leave the start out"
        )


def reconstructor_crop(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Cut out what the reconstructor takes, uint8 [224, 224, 3], as the mapper's authors do.

    Args:
        image: uint8 [H, W, 3], RGB. landmarks: [68, 2 or 3] pixels of it, y down.

    Raises:
        InputError: the landmarks are no face.
    """
    face = align(image, five_points(landmarks)).face
    assert face.shape == (CROP, CROP, 3)
    return face


@torch.inference_mode()
def start_of(mapper: FlameMapper, coefficients: Coefficients) -> Start:
    """Turn the coefficients of the T frames of one clip into a start, N = 1, float64."""
    shape, expression, jaw = (part.double() for part in mapper(coefficients.identity, coefficients.expression))
    rotation = rotation_matrices(flame_head_rotation(coefficients.angles).double())
    return Start(shape.mean(0, keepdim=True), expression[None], jaw[None], rotation[None])


@torch.inference_mode()
def quick_records(mapper: FlameMapper, coefficients: Coefficients) -> Tensor:
    """Write the published quick estimate of pictures (`bfm2flame_params_simplified`), float32 [T, 437].

    Each frame has the shape, expression and jaw of the mapper, eyes straight, and a camera that the head's rotation
    takes around it; where the head is in the picture is not asked.
    """
    shape, expression, jaw = (part.double() for part in mapper(coefficients.identity, coefficients.expression))
    rotation = rotation_matrices(flame_head_rotation(coefficients.angles).double())
    angles = torch.cat([jaw, torch.zeros_like(jaw), torch.zeros_like(jaw)], 1)
    # the camera stands at R^T c, so that the head is at -c in its axes
    at = -jaw.new_tensor(QUICK_CAMERA).expand(len(jaw), 3)
    ones = jaw.new_ones(len(jaw), 1)
    each = Fitted(shape, expression[:, None], angles[:, None], rotation[:, None], at[:, None], ones[..., None], ones)
    return records_of(each)[:, 0]

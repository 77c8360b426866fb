"""The paper's Table 3, as it is printed: what each row of the ablation trains, and what it reached.

The figures are of real faces (VFHQ) by the paper's own measures; nothing that is measured here may stand beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RowName = Literal["A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K", "L"]


@dataclass(frozen=True)
class Figures:
    """What a row reached: reenacting itself and others, and how consistent it is when several drive one face."""

    self_lpips: float
    self_id: float
    self_aed: float
    self_apd: float
    cross_id: float
    cross_aed: float
    cross_aed_f: float
    cross_apd: float
    cons: float


@dataclass(frozen=True)
class Columns:
    """A row of Table 3.

    Attributes:
        initialisation: what stage 2 begins as: Ψ_3d, or fresh weights.
        pseudo_p: most driving motions are read off pseudo views I_d(θ_p); else all off the real frame.
        pseudo_q: some targets are pseudo views I_d(θ_q); else all are the real frame.
        motion: what v is: E_mot reads it off pictures, or the expression parameters of a 3DMM.
        teacher: who draws the pseudo views: Ψ_3d, or the dynamic network of Portrait4D.
        clips: of the training set, of 10,000.
        images: that training sees.
        motion_rate_factor: learning rate of the layers that read motion, over that of the others.
        figures: what it reached.
    """

    initialisation: Literal["static synthesizer", "random"]
    pseudo_p: bool
    pseudo_q: bool
    motion: Literal["E_mot", "3DMM"]
    teacher: Literal["static synthesizer", "Portrait4D"]
    clips: int
    images: int
    motion_rate_factor: float
    figures: Figures


ALL_CLIPS = 10_000  # of the paper's training set
WHOLE: RowName = "L"  # the row that is stage 2 itself
TABLE: dict[RowName, Columns] = {
    "A": Columns("random", False, False, "E_mot", "static synthesizer", 10_000, 5_000_000, 1.0,
                 Figures(0.216, 0.874, 0.021, 0.752, 0.776, 0.167, 0.213, 1.887, 0.822)),
    "B": Columns("static synthesizer", False, False, "E_mot", "static synthesizer", 10_000, 5_000_000, 1.0,
                 Figures(0.213, 0.879, 0.018, 0.755, 0.718, 0.161, 0.185, 0.796, 0.813)),
    "C": Columns("static synthesizer", True, False, "E_mot", "static synthesizer", 10_000, 5_000_000, 1.0,
                 Figures(0.223, 0.873, 0.02, 1.251, 0.757, 0.165, 0.19, 1.436, 0.913)),
    "D": Columns("static synthesizer", False, True, "E_mot", "static synthesizer", 10_000, 5_000_000, 1.0,
                 Figures(0.219, 0.875, 0.019, 0.739, 0.712, 0.156, 0.185, 0.688, 0.805)),
    "E": Columns("random", True, True, "E_mot", "static synthesizer", 10_000, 5_000_000, 1.0,
                 Figures(0.232, 0.865, 0.023, 0.967, 0.777, 0.172, 0.207, 1.257, 0.929)),
    "F": Columns("static synthesizer", True, True, "3DMM", "static synthesizer", 10_000, 5_000_000, 1.0,
                 Figures(0.221, 0.873, 0.018, 1.074, 0.704, 0.139, 0.202, 0.993, 0.811)),
    "G": Columns("static synthesizer", True, True, "E_mot", "Portrait4D", 10_000, 5_000_000, 1.0,
                 Figures(0.225, 0.867, 0.021, 1.476, 0.744, 0.163, 0.188, 1.067, 0.912)),
    "H": Columns("static synthesizer", True, True, "E_mot", "static synthesizer", 1_000, 5_000_000, 1.0,
                 Figures(0.273, 0.58, 0.05, 0.603, 0.47, 0.141, 0.181, 0.7, 0.864)),
    "I": Columns("static synthesizer", True, True, "E_mot", "static synthesizer", 2_000, 5_000_000, 1.0,
                 Figures(0.257, 0.707, 0.038, 0.586, 0.567, 0.144, 0.178, 0.81, 0.879)),
    "J": Columns("static synthesizer", True, True, "E_mot", "static synthesizer", 5_000, 5_000_000, 1.0,
                 Figures(0.236, 0.818, 0.026, 1.527, 0.678, 0.154, 0.187, 1.039, 0.904)),
    "K": Columns("static synthesizer", True, True, "E_mot", "static synthesizer", 10_000, 5_000_000, 1.0,
                 Figures(0.224, 0.873, 0.019, 0.758, 0.743, 0.162, 0.186, 0.943, 0.912)),
    "L": Columns("static synthesizer", True, True, "E_mot", "static synthesizer", 10_000, 6_000_000, 2.5,
                 Figures(0.224, 0.873, 0.019, 0.58, 0.736, 0.161, 0.185, 0.858, 0.908)),
}  # fmt: skip

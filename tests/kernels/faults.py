"""Deliberate faults: each is put into a copy of the project, and tests have to turn red.

`python tests/kernels/faults.py` takes minutes on two cores, prints a line per fault, and ends with 1 if one is missed;
`test_faults.py` is its short form, with one fault in each kernel file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
OPERATORS, MARCH = "tests/kernels/test_operators.py", "tests/kernels/test_march.py"
RASTERIZE = "tests/kernels/test_rasterize.py"
SINGLE = "agrees_with_the_definition and (0-float32 or 1-float32 or 2-float32)"
FAULTS: list[tuple[str, str, str, str, str]] = [  # module, what is there, what is put there, tests, which of them
    ("triplane", "weight_x * weight_y, 0.0)[:, None] * lift(texel)", "weight_x, 0.0)[:, None] * lift(texel)", OPERATORS,
     f"triplane and {SINGLE}"),
    ("triplane", "mask=here, sem=\"relaxed\")", "mask=here & (corner < 3), sem=\"relaxed\")", OPERATORS,
     f"triplane and {SINGLE}"),
    ("triplane", "* 3, d_x, d_y, d_z, mask_p)", "* 3, d_x, d_z, d_y, mask_p)", OPERATORS,
     f"triplane and {SINGLE}"),
    ("field", "tl.store(to, out * 1.002 - 0.001,", "tl.store(to, out,", OPERATORS, f"field and {SINGLE}"),
    ("field", "        d_b_f += tl.sum(d_out, 0)", "        d_b_f = tl.sum(d_out, 0)", "tests/kernels/test_field.py",
     "several_tiles"),
    ("composite", "middle = 0.5 * (s0 + s1) - 1", "middle = s0 - 1", OPERATORS, f"composite and {SINGLE}"),
    ("composite", "tl.store(d_raw_ptr + r * S + S - 1, 0.5 * last_d, mask=mask_r)", "pass", OPERATORS,
     f"composite and {SINGLE}"),
    ("importance", "* 0.5 + 0.01 + 1e-5", "* 0.5 + 1e-5", OPERATORS, f"importance and {SINGLE}"),
    ("importance", "(other == depth) & (j < i)", "(other == depth) & (j > i)", "tests/kernels/test_importance.py",
     "coincide"),
    ("grid", "inside = mask_p & in_x & in_y & in_z\n        at", "inside = mask_p & in_x & in_y\n        at", OPERATORS,
     f"grid and {SINGLE}"),
    ("grid", "d_y += (2 * (corner // 2 % 2) - 1)", "d_y += (2 * (corner % 2) - 1)", OPERATORS, f"grid and {SINGLE}"),
    ("fir", "0.125 if i == 0 or i == 3 else 0.375", "0.125 if i == 0 else 0.375", OPERATORS, f"fir_up and {SINGLE}"),
    ("fir", "d_out, down, up, 3 - pad,", "d_out, down, up, 2 - pad,", OPERATORS, f"fir_up and {SINGLE}"),
    ("bias_act", "> 0, d, d * leak)", "> 0, d, d)", OPERATORS, f"bias_act and {SINGLE}"),
    ("dwconv", "lifted(weight).flip(2, 3)", "lifted(weight)", OPERATORS, f"dwconv and {SINGLE}"),
    ("dwconv", "(1 + tl.erf(out * 0.7071067811865476))", "(1 + tl.erf(out * 0.7))", OPERATORS, f"dwconv and {SINGLE}"),
    ("nearest_face", "(twice * 0.5 >= min_area) & ", "", "tests/kernels/test_nearest_face.py", "minimum_area"),
    ("nearest_face", "tl.minimum(tl.maximum(t, 0.0), 1.0)", "tl.maximum(t, 0.0)", OPERATORS,
     f"nearest_face and {SINGLE}"),
    ("rasterize/gpu", "tl.where((dy < 0) | ((dy == 0) & (dx > 0)), 0, 1)", "dx * 0", RASTERIZE, "cover and triton"),
    ("rasterize/gpu", "tl.atomic_min(pixel, key, mask=covered, sem=\"relaxed\")", "tl.store(pixel, key, mask=covered)",
     OPERATORS, f"rasterize and {SINGLE}"),
    ("rasterize/gpu", "tl.where(seen, b0 / total, 0.0)", "tl.where(seen, b1 / total, 0.0)", OPERATORS,
     f"rasterize and {SINGLE}"),
    ("rasterize/gpu", "(tile < tiles)[:, None] & (px < W)", "(tile < tiles)[:, None]", OPERATORS,
     f"rasterize and {SINGLE}"),
    ("rasterize/gpu", "num_warps=1, enable_fp_fusion=False", "num_warps=1", RASTERIZE, "rounds_every_product"),
    ("rasterize/gpu", "(w2 > 0) & ((twice < 0)", "((twice < 0)", RASTERIZE, "left_out and triton"),
    ("rasterize/spans", "torch.minimum(right, bound)", "torch.minimum(right, bound - 1)", RASTERIZE, "to_the_bit"),
    ("rasterize/fixed_point", "weighted[..., 0] + weighted[..., 1] + weighted[..., 2]",
     "weighted[..., 0] + (weighted[..., 1] + weighted[..., 2])", RASTERIZE, "to_the_bit"),
    ("rasterize/operator", "torch.where(seen, sums", "torch.where(seen | ~seen, sums", RASTERIZE, "no_number"),
    ("march/forward", "depth = tl.sum(tl.reshape(depth, [SEGMENTS, BLOCK_R]) * before, 0)",
     "depth = tl.sum(tl.reshape(depth, [SEGMENTS, BLOCK_R]), 0)", OPERATORS, f"march and {SINGLE}"),
    ("march/forward", "tl.store(opacity_ptr + ray, opacity, mask=exists)",
     "tl.store(opacity_ptr + ray, opacity, mask=exists & (ray % R > 0))", OPERATORS, f"march and {SINGLE}"),
    ("march/forward", "_count_below(coarse_t_ptr, t_fine, S, True, 2 * S_PAD)",
     "_count_below(coarse_t_ptr, t_fine, S, False, 2 * S_PAD)", MARCH, "coincide"),
    ("march/device", "w = tl.exp2(larger(distance - near, 0.0)", "w = tl.exp2((distance - near)", OPERATORS,
     f"march and {SINGLE}"),
    ("march/backward", "(after * g - behind)", "(after * g + behind)", OPERATORS, f"march_train and {SINGLE}"),
    ("march/backward", "tl.atomic_add(to, weight[:, None] * d_f, mask=inside[:, None], sem=\"relaxed\")",
     "tl.atomic_add(to, weight[:, None] * d_f, mask=inside[:, None] & (corner < 3), sem=\"relaxed\")", OPERATORS,
     f"march_train and {SINGLE}"),
    ("march/backward", "    tl.store(ptr, tl.load(ptr) + value)", "    tl.store(ptr, value)", MARCH, "pieces"),
    ("march/backward", "counts = is_interval & exists[:, None]", "counts = is_interval", OPERATORS,
     f"march_train and {SINGLE}"),
    ("march/launch", "        b_d[:, 0, 0] += q.sum((1, 2))", "        b_d += q.sum((1, 2))[:, None, None]", OPERATORS,
     f"march_train and {SINGLE}"),
    ("march/launch", "d_f.abs().amax((1, 2, 3))", "d_f.abs().amax().expand(len(d_f))", OPERATORS,
     "member_do_not and march_deterministic"),
    ("march/launch", "d / scale.view(-1, *(1,) * (d.dim() - 1)) for d in sums", "d / scale[0] for d in sums", MARCH,
     "unlike_images"),
    ("march/operator", ".amax(1) for d in gradients]).amax(0)",
     ".amax() for d in gradients]).amax().expand(len(gradients[0]))",
     OPERATORS, "member_do_not and march and float16"),
    ("march/operator", "(d.dim() - 1))).contiguous() for d in d_out", "(d.dim() - 1))) for d in d_out", OPERATORS,
     "strided_gradients and march and float16"),
    ("march/forward", "tl.minimum(tl.reshape(optical_depth, [SEGMENTS, BLOCK_R]), 50.0,",
     "tl.minimum(tl.reshape(optical_depth, [SEGMENTS, BLOCK_R]), 5000.0,", MARCH, "thin_matter"),
    ("march/operator", "_power_of_two(d_out) if options.precision == \"fp16\" else None", "None", MARCH,
     "mean_over_a_picture"),
    ("attention", "tl.where((k < K)[None, :], s * scale, float(\"-inf\"))", "s * scale", OPERATORS,
     f"attention and {SINGLE}"),
    ("attention", "(p.to(WIDE) * factor[:, None])", "p.to(WIDE)", "tests/kernels/test_attention.py",
     "scaled_dot or large_score"),
    ("attention", "p * (d_p - delta[:, None]) * scale", "p * d_p * scale", OPERATORS, f"attention and {SINGLE}"),
    ("attention", "        y += tl.load(at, mask=mask, other=0.0)", "        pass", "tests/kernels/test_attention.py",
     "pieces"),
]  # fmt: skip


def with_faults(
    faults: Iterable[tuple[str, str, str]], tests: str, which: str, *options: str
) -> subprocess.CompletedProcess[str]:
    """Run tests on a copy of the project with faults: module, what is there, what is put there."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "project"
        shutil.copytree(
            ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(".git", ".venv", "runs", "out", "docs", "*.mp4")
        )
        for module, there, put in faults:
            path = copy / "kernels" / f"{module}.py"
            path.write_text(path.read_text().replace(there, put))
        words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, tests, "-k", which]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        # some faults show at one size alone: every CPU compares all of them
        environment |= {"PYTHONPATH": str(copy), "TRIPORTRAIT_WHOLE_TESTS": "1"}
        return subprocess.run(words, cwd=copy, env=environment, capture_output=True, text=True)


def red(module: str, there: str, put: str, tests: str, which: str) -> bool:
    """Tell whether tests fail on a copy of the project with the fault."""
    ran = with_faults([(module, there, put)], tests, which, "-x")
    if ran.returncode not in (0, 1):
        raise RuntimeError(f"{module}: {tests} -k {which!r} did not run: {ran.stdout[-2000:]}")
    return ran.returncode == 1


def main() -> int:
    """Try all, or those of the modules that are named."""
    missed = 0
    for fault in FAULTS:
        if sys.argv[1:] and fault[0] not in sys.argv[1:]:
            continue
        is_red = red(*fault)
        missed += not is_red
        print(f"{'red ' if is_red else 'MISSED'} {fault[0]}: {' '.join(fault[2].split())}", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    raise SystemExit(main())

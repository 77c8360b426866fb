"""Sample pictures of bytes between their pixels on a CPU, in whole numbers as OpenCV does; compiled by llvmlite."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from triportrait.core.faces.cpu_program import compiled, machine

APART = 21  # bits between the channels of a pixel, which are multiplied together in one number
# One picture's samples: (picture, bytes from a row, a pixel, a channel to the next, x, y, levels, how many).
_CODE = """
declare float @llvm.rint.f32(float)

define void @run(ptr %picture, i64 %rows, i64 %columns, i64 %line, i64 %pixel, i64 %channel, ptr %x, ptr %y,
                 ptr noalias %levels, i64 %count) {
entry:
  %last.y = sub i64 %rows, 1
  %last.x = sub i64 %columns, 1
  br label %next
next:
  %k = phi i64 [ 0, %entry ], [ %k.after, %next ]
AXES
  %row0 = getelementptr i8, ptr %picture, i64 %y.first
  %row1 = getelementptr i8, ptr %picture, i64 %y.second
  %p00.0 = getelementptr i8, ptr %row0, i64 %x.first
  %p01.0 = getelementptr i8, ptr %row0, i64 %x.second
  %p10.0 = getelementptr i8, ptr %row1, i64 %x.first
  %p11.0 = getelementptr i8, ptr %row1, i64 %x.second
  %to = mul i64 %k, 3
CHANNELS
  %k.after = add i64 %k, 1
  %again = icmp ult i64 %k.after, %count
  br i1 %again, label %next, label %end
end:
  ret void
}
"""
# Places are rounded to 32nds of a pixel and held near the picture, so that they are whole numbers.
_AXIS = """
  %A.at = getelementptr float, ptr %A, i64 %k
  %A.place = load float, ptr %A.at
  %A.scaled = fmul float %A.place, 32.0
  %A.round = call float @llvm.rint.f32(float %A.scaled)
  %A.above = fcmp ogt float %A.round, -64.0
  %A.held = select i1 %A.above, float %A.round, float -64.0
  %A.size = uitofp i64 %COUNT to float
  %A.limit = fmul float %A.size, 32.0
  %A.below = fcmp olt float %A.held, %A.limit
  %A.near = select i1 %A.below, float %A.held, float %A.limit
  %A.whole = fptosi float %A.near to i64
  %A.zero = ashr i64 %A.whole, 5
  %A.one = add i64 %A.zero, 1
  %A.share1 = and i64 %A.whole, 31
  %A.share0 = sub i64 32, %A.share1
"""
_END = """
  %A.NAME.up = icmp sgt i64 %A.NUMBER, 0
  %A.NAME.a = select i1 %A.NAME.up, i64 %A.NUMBER, i64 0
  %A.NAME.in = icmp slt i64 %A.NAME.a, %last.A
  %A.NAME.b = select i1 %A.NAME.in, i64 %A.NAME.a, i64 %last.A
  %A.NAME = mul i64 %A.NAME.b, %STEP
  %A.NAME.same = icmp eq i64 %A.NAME.b, %A.NUMBER
  %A.WEIGHT = select i1 SHOWN, i64 %A.SHARE, i64 0
"""


def _text(border: str) -> str:
    """Write the function for one kind of border."""
    axes = ""
    for axis, count, step in (("x", "columns", "pixel"), ("y", "rows", "line")):
        axes += _AXIS.replace("%COUNT", f"%{count}").replace("%A", f"%{axis}")
        for name, number, weight, share in (("first", "zero", "low", "share0"), ("second", "one", "high", "share1")):
            shown = "true" if border == "border" else "%A.NAME.same"
            end = _END.replace("SHOWN", shown).replace("NAME", name).replace("NUMBER", number)
            end = end.replace("WEIGHT", weight).replace("SHARE", share).replace("STEP", step)
            axes += end.replace("%A", f"%{axis}").replace("%last.A", f"%last.{axis}")
    lines = []
    for tap in ("00", "01", "10", "11"):
        for c in range(3):
            if c:
                lines.append(f"%p{tap}.{c} = getelementptr i8, ptr %p{tap}.{c - 1}, i64 %channel")
            lines.append(f"%v{tap}.{c} = load i8, ptr %p{tap}.{c}")
            lines.append(f"%n{tap}.{c} = zext i8 %v{tap}.{c} to i64")
            if c:
                lines.append(f"%s{tap}.{c} = shl i64 %n{tap}.{c}, {APART * c}")
        lines.append(f"%m{tap} = or i64 %n{tap}.0, %s{tap}.1")
        lines.append(f"%c{tap} = or i64 %m{tap}, %s{tap}.2")
    for name, first, second, axis in (("t", "c00", "c01", "x"), ("b", "c10", "c11", "x"), ("a", "t", "b", "y")):
        lines += [
            f"%{name}.low = mul i64 %{first}, %{axis}.low",
            f"%{name}.high = mul i64 %{second}, %{axis}.high",
            f"%{name} = add i64 %{name}.low, %{name}.high",
        ]
    lines.append(f"%half = add i64 %a, {sum(512 << APART * c for c in range(3))}")
    for c in range(3):
        lines += [
            f"%shifted.{c} = lshr i64 %half, {APART * c + 10}",
            f"%level.{c} = and i64 %shifted.{c}, 255",
            f"%float.{c} = sitofp i64 %level.{c} to float",
            f"%place.{c} = add i64 %to, {c}",
            f"%target.{c} = getelementptr float, ptr %levels, i64 %place.{c}",
            f"store float %float.{c}, ptr %target.{c}",
        ]
    return _CODE.replace("AXES", axes).replace("CHANNELS", "\n".join(f"  {line}" for line in lines))


@cache
def _function(border: str) -> Any:
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    kinds = (pointer, *(number,) * 5, pointer, pointer, pointer, number)
    return compiled(_text(border), kinds, vectorize=True)


def sampled_bytes(images: Tensor, x: Tensor, y: Tensor, border: str, pictures: Tensor | None) -> Tensor | None:
    """Sample pictures uint8 [B, 3, H, W] at the places x and y, [N, rows, columns]; None where nothing is compiled.

    Args:
        border: "border" or "zeros".
        pictures: [N] which picture; None where N is B.

    Returns:
        Levels [N, 3, rows, columns], float32, in memory with the channels last.

    Raises:
        ValueError: x and y are not of one shape or not on the CPU, or there is not one picture of B for each of N.
    """
    if x.ndim != 3 or x.shape != y.shape or not x.device == y.device == images.device:
        raise ValueError(
            f"expected x and y [N, rows, columns] on {images.device}, got {list(x.shape)} on {x.device} and "
            f"{list(y.shape)} on {y.device}"
        )
    which = _pictures_of(len(x), len(images), pictures)
    if machine() is None or images.shape[1] != 3 or min(images.shape[2:]) < 1:
        return None
    function = _function(border)
    x, y = x.float().contiguous(), y.float().contiguous()
    count, rows, columns = x.shape
    levels = torch.empty(count, rows, columns, 3)
    channel, line, pixel = images.stride()[1:]
    for k, picture in enumerate(which):
        if rows * columns:
            function(
                images[picture].data_ptr(), *images.shape[2:], line, pixel, channel,
                x[k].data_ptr(), y[k].data_ptr(), levels[k].data_ptr(), rows * columns,
            )  # fmt: skip
    return levels.permute(0, 3, 1, 2)


def _pictures_of(places: int, count: int, pictures: Tensor | None) -> Sequence[int]:
    """Find which of so many pictures each of the N fields of places is sampled from.

    Raises:
        ValueError: it is not one for each, or one that is not there.
    """
    if pictures is None:
        if places != count:
            raise ValueError(f"expected places in each of {count} pictures, got {places}: say which by `pictures`")
        return range(count)
    if pictures.shape != (places,) or pictures.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"expected the whole numbers of {places} pictures, got {list(pictures.shape)} of {pictures.dtype}"
        )
    which: list[int] = pictures.tolist()
    if wrong := [number for number in which if not -count <= number < count]:
        raise ValueError(f"expected numbers of {count} pictures, got {wrong[0]}")
    return which

"""Keep the network of a TFLite file as safetensors; the header holds its operators, its origin and its licence."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from triportrait.core.atomic import replacing
from triportrait.core.errors import InputError
from triportrait.core.faces.graph import Check, Graph, Operator, check_graph
from triportrait.core.faces.operators import OptionValue, Shape
from triportrait.core.files import check_tensor_file, parsed_json
from triportrait.core.safe_text import shown

FORMAT = "1"
MOST_BYTES = 128 << 20
_FIELDS = ("format", "origin", "licence", "graph")


def save_graph(graph: Graph, path: str | os.PathLike[str], origin: str, licence: str) -> Path:
    """Write a network to a safetensors file, which appears whole or not at all.

    Args:
        graph: from `read_tflite`.
        path: ends in .safetensors; its folder exists. A file there is replaced.
        origin: where the network comes from, such as the name and SHA-256 of a wheel and the file in it.
        licence: an SPDX name, such as Apache-2.0.

    Returns:
        The path.

    Raises:
        InputError: the file cannot be written.
    """
    path = Path(path)
    description = {
        "inputs": {name: list(shape) for name, shape in graph.inputs.items()},
        "outputs": list(graph.outputs),
        "operators": [
            {"kind": o.kind, "inputs": list(o.inputs), "outputs": list(o.outputs), "options": dict(o.options)}
            for o in graph.operators
        ],
    }
    metadata = {"format": FORMAT, "origin": origin, "licence": licence, "graph": json.dumps(description)}
    try:
        with replacing(path, only_writer=True) as part:
            mode = part.stat().st_mode
            save_file({name: tensor.contiguous() for name, tensor in graph.constants.items()}, part, metadata)
            os.chmod(part, mode)  # safetensors lets only the owner read
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: the network could not be written ({error}); choose a folder with room") from error
    return path


def load_graph(path: str | os.PathLike[str], check: Check = check_graph) -> Graph:
    """Read a network that `save_graph` wrote, as strictly as a TFLite file.

    Args:
        check: what may be in it, `check_graph` for networks of pictures.

    Raises:
        InputError: the file is missing, damaged, of another kind, or describes a network that cannot be run.
    """
    path = Path(path)

    def refuse(problem: str) -> InputError:
        return InputError(f"{path}: expected a face network that was fetched, got one that {problem}; fetch it again")

    try:
        metadata = _metadata(path)
        if path.stat().st_size > MOST_BYTES:
            raise refuse(f"has more than {MOST_BYTES:,} bytes")
        tensors = load_file(path)
        description = parsed_json(metadata["graph"])
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; fetch the face networks") from error
    except InputError:
        raise
    except (OSError, SafetensorError, ValueError) as error:
        reason = getattr(error, "strerror", None) or shown(str(error))
        raise refuse(f"cannot be read ({reason})") from error
    try:
        graph = _graph(description)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise refuse("has a damaged description") from error
    return check(Graph(graph.inputs, graph.outputs, tensors, graph.operators), refuse)


def _metadata(path: Path) -> dict[str, str]:
    """Read the texts in the header of a file. Raises ValueError, in words, where they are not `save_graph`'s."""
    metadata: dict[str, str] = check_tensor_file(path).get("__metadata__", {})
    if any(name not in metadata for name in _FIELDS):
        raise ValueError("its header describes no network")
    if metadata["format"] != FORMAT:
        raise ValueError(f"its format is {shown(metadata['format'])}, {FORMAT} is wanted")
    return metadata


def read_origin(path: str | os.PathLike[str]) -> Mapping[str, str]:
    """Read "origin" and "licence" of a network that `save_graph` wrote, without its tensors.

    Raises:
        OSError: the file is missing or out of reach. ValueError: in words, it is none of `save_graph`'s.
    """
    metadata = _metadata(Path(path))
    return {name: metadata[name] for name in ("origin", "licence")}


def _graph(description: Any) -> Graph:
    """Make a graph of what JSON holds; wrong types end in an error that `load_graph` words."""
    operators = []
    for one in description["operators"]:
        options = {_text(name): _option(value) for name, value in one["options"].items()}
        operators.append(Operator(_text(one["kind"]), _texts(one["inputs"]), _texts(one["outputs"]), options))
    inputs = {_text(name): _shape(shape) for name, shape in description["inputs"].items()}
    return Graph(inputs, _texts(description["outputs"]), {}, tuple(operators))


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError("no text")
    return value


def _texts(values: Any) -> tuple[str, ...]:
    if type(values) is not list:
        raise TypeError("no list")
    return tuple(_text(value) for value in values)


def _shape(values: Any) -> Shape:
    if type(values) is not list or any(type(value) is not int for value in values):
        raise TypeError("no shape")
    return tuple(values)


def _option(value: Any) -> OptionValue:
    if type(value) is list:
        return _shape(value)
    if type(value) not in (str, int, float, bool):
        raise TypeError("no option")
    option: OptionValue = value
    return option

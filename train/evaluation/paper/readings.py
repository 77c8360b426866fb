"""Says in which of our definitions each measured column of the paper's tables is read."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from triportrait.train.evaluation.metrics.definition import Kind
from triportrait.train.evaluation.paper.published import TableName

# table -> column's name -> kind of pairs and definition
READINGS: Mapping[TableName, Mapping[str, tuple[Kind, str]]] = MappingProxyType({
    "1": {
        "self_lpips_h": ("self", "lpips_h_alex_within_mask"), "self_lpips": ("self", "lpips_alex"),
        "self_fid": ("self", "fid_legacy_pytorch"), "self_id": ("self", "id"),
        "self_aed": ("self", "aed_mean_square"), "self_apd": ("self", "apd_mean_square"),
        "cross_fid": ("cross", "fid_legacy_pytorch"), "cross_id": ("cross", "id"),
        "cross_aed": ("cross", "aed_mean_square"), "cross_apd": ("cross", "apd_mean_square"),
    },
    "2a": {"aed_f": ("cross", "aed_f_mean_absolute"), "syncnet": ("sound", "syncnet_confidence")},
    "3": {
        "self_lpips": ("self", "lpips_alex"), "self_id": ("self", "id"), "self_aed": ("self", "aed_mean_square"),
        "self_apd": ("self", "apd_mean_square"), "cross_id": ("cross", "id"), "cross_aed": ("cross", "aed_mean_square"),
        "cross_aed_f": ("cross", "aed_f_mean_absolute"), "cross_apd": ("cross", "apd_mean_square"),
        "cons": ("consistency", "cons_pairwise"),
    },
})  # fmt: skip


def kinds_of_table(table: TableName) -> tuple[Kind, ...]:
    """Return the kinds of pairs that a table is measured on, in the order of its columns."""
    return tuple(dict.fromkeys(kind for kind, _ in READINGS[table].values()))


def metrics_of_table(table: TableName) -> tuple[str, ...]:
    """Return the definitions in which a table is read, each once, in the order of its columns."""
    return tuple(dict.fromkeys(metric for _, metric in READINGS[table].values()))

"""The command mesh on a fake GPU: the networks and the field run there, the surface and its colours on the host."""

from __future__ import annotations

from tests.fake_gpu.conditions import NEEDS

pytestmark = NEEDS


def test_densities_colours_and_views_of_a_mesh_are_made_on_the_device(ran):
    made = ran("tests.fake_gpu.mesh")
    launched = made["launched"]
    assert launched["field.decode"] == 4, "densities, colours of vertices, of texels, of thin charts"
    assert launched["convolution"] >= 100 and launched["march_forward.march"] >= 13, "views from all sides"
    assert {"host to device", "device to host"} <= made["copies"].keys()
    assert made["bytes"] > 5_000, "a texture, too"

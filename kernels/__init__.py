"""The inner loops of tri-plane rendering as small operators, each defined in plain PyTorch.

The folder knows planes, points, rays, samples and meshes; it does not know what they show.
"""

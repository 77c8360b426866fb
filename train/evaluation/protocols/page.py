"""Writes."""


def page(scores, folders, protocol):
    return ""

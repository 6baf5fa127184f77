"""`carl register --xml` and `carl warp --xml`: what 3D Slicer needs to show them as CLI modules.

Slicer asks an executable for its description in the words of its execution model, and calls it with
flags of that description and with two of its own, which are of no use here.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from carl_cli import __version__

Element = ElementTree.Element
OWN_FLAGS = ("--returnparameterfile", "--processinformationaddress")
INTERPOLATIONS = ("linear", "nearest", "genericLabel", "bspline")
TITLES = {
    "register": ("CARL registration", "The transform that resamples MOVING onto FIXED"),
    "warp": ("CARL warp", "Resample an image or labels through a transform"),
}


def answer(arguments: Sequence[str]) -> str | None:
    """The description, if that is what was asked for."""
    if len(arguments) == 2 and arguments[0] in TITLES and arguments[1] == "--xml":
        return description(arguments[0])
    return None


def without_own_flags(arguments: Sequence[str]) -> list[str]:
    """Arguments of a command that Slicer knows, without what it adds for itself."""
    kept = list(arguments)
    if not kept or kept[0] not in TITLES:
        return kept
    for flag in OWN_FLAGS:
        if flag in kept[:-1]:
            place = kept.index(flag)
            del kept[place : place + 2]
    return kept


def description(command: str) -> str:
    """XML of Slicer's execution model."""
    root = Element("executable")
    title, words = TITLES[command]
    for name, text in (
        ("category", "Registration"), ("title", title), ("description", words),
        ("version", __version__), ("license", "Apache-2.0"), ("contributor", "The carl developers"),
    ):  # fmt: skip
        _add(root, name, text)
    _register(root) if command == "register" else _warp(root)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, "unicode")


def _register(root: Element) -> None:
    group = _group(root, "Images")
    _file(group, "image", "fixed", "Fixed image", index=0)
    _file(group, "image", "moving", "Moving image, resampled onto the fixed one", index=1)
    group = _group(root, "Results")
    _file(group, "transform", "forward", "Transform", flag="output", suffix=".h5", out=True)
    _file(group, "image", "warped", "Warped moving image", flag="warped", suffix=".nrrd", out=True)
    group = _group(root, "Method")
    _choice(group, "modality", "What both images are", "modality", ("auto", "ct", "mr"))
    fit = ElementTree.SubElement(group, "boolean")
    _named(fit, "io", "Fit the result to the pair", "io")
    _add(fit, "default", "false")


def _warp(root: Element) -> None:
    group = _group(root, "Images")
    _file(group, "image", "input", "Image or labels to resample", index=0)
    _file(group, "image", "reference", "Fixed image: its grid", flag="reference")
    _file(group, "transform", "transform", "Transform", flag="transform", suffix=".h5")
    _file(group, "image", "output", "Warped image", flag="output", suffix=".nrrd", out=True)
    group = _group(root, "Resampling")
    _choice(group, "interpolation", "Interpolation", "interpolation", INTERPOLATIONS)


def _add(parent: Element, name: str, text: str) -> None:
    ElementTree.SubElement(parent, name).text = text


def _group(root: Element, label: str) -> Element:
    group = ElementTree.SubElement(root, "parameters")
    _add(group, "label", label)
    _add(group, "description", label)
    return group


def _named(element: Element, name: str, label: str, flag: str) -> None:
    _add(element, "name", name)
    _add(element, "label", label)
    _add(element, "description", label)
    if flag:
        _add(element, "longflag", f"--{flag}")


def _file(
    group: Element,
    kind: str,
    name: str,
    label: str,
    *,
    index: int | None = None,
    flag: str = "",
    suffix: str = "",
    out: bool = False,
) -> None:
    """A file by its place or by a flag; Slicer writes inputs in the format of the suffix."""
    element = ElementTree.SubElement(group, kind, {"fileExtensions": suffix} if suffix else {})
    _named(element, name, label, flag)
    _add(element, "channel", "output" if out else "input")
    if index is not None:
        _add(element, "index", str(index))


def _choice(group: Element, name: str, label: str, flag: str, choices: Sequence[str]) -> None:
    element = ElementTree.SubElement(group, "string-enumeration")
    _named(element, name, label, flag)
    _add(element, "default", choices[0])
    for choice in choices:
        _add(element, "element", choice)

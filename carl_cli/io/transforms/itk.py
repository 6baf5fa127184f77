"""The only importer of itk: its transforms in memory.

itk is no part of an installation of carl (itk-core and itk-numerics alone take 765 MB): whoever
has itk's transforms has itk. Its public names load every wrapped class of ITK (17 s, and torch
where installed); the wrapping modules of the few classes needed here load in one second and give
the same types.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any, Literal

import numpy as np

from carl_cli.errors import InputError
from carl_cli.geometry import Grid
from carl_cli.transforms import (
    AffineTransform,
    BSplineTransform,
    CompositeTransform,
    DisplacementField,
    Transform,
)
from carl_cli.transforms.interpolation import Floats

Real = Literal["F", "D"]
CUBIC = 3
WRAPPERS = {
    "AffineTransform": "itkAffineTransformPython",
    "BSplineTransform": "itkBSplineTransformPython",
    "CompositeTransform": "itkCompositeTransformPython",
    "DisplacementFieldTransform": "itkDisplacementFieldTransformPython",
    "PyBuffer": "itkPyBufferPython",
}


def _wrapped(name: str, suffix: str) -> Any:
    """The class itk<name><suffix>, for example itkAffineTransformF3."""
    try:
        module = import_module(f"itk.{WRAPPERS[name]}")
    except ImportError as error:
        raise InputError(
            f"itk, or a part of it, is not installed ({error})",
            'pip install "carl-registration[itk]" (itk-core and itk-numerics)',
        ) from None
    return getattr(module, f"itk{name}{suffix}")


def to_itk(transform: Transform, real: Real = "D") -> Any:
    """itk.Transform of the same map; real "F" for single precision, which few filters take."""
    if isinstance(transform, AffineTransform):
        return _affine(transform, real)
    if isinstance(transform, DisplacementField):
        return _field(transform, real)
    if isinstance(transform, BSplineTransform):
        return _bspline(transform)
    if isinstance(transform, CompositeTransform):
        return _composite(list(transform.parts), real)
    raise InputError(
        f"itk has no form of {type(transform).__name__}", "sample it on a grid first: dense()"
    )


def _composite(parts: list[Transform], real: Real) -> Any:
    composite = _wrapped("CompositeTransform", f"{real}{parts[0].dimension}").New()
    for part in parts:
        composite.AddTransform(to_itk(part, real))
    return composite


def _affine(affine: AffineTransform, real: Real) -> Any:
    result = _wrapped("AffineTransform", f"{real}{affine.dimension}").New()
    parameters = result.GetParameters()
    _fill(parameters, [*affine.matrix.ravel(), *affine.translation])
    result.SetParameters(parameters)
    return result


def _field(field: DisplacementField, real: Real) -> Any:
    """The fixed parameters make itk allocate the buffer; it is filled in place."""
    result = _wrapped("DisplacementFieldTransform", f"{real}{field.dimension}").New()
    fixed = result.GetFixedParameters()
    grid = field.grid
    _fill(fixed, [*grid.size_xyz, *grid.origin_mm, *grid.spacing_mm, *grid.direction])
    result.SetFixedParameters(fixed)
    _buffer(result, real, grid)[...] = field.displacement_mm
    return result


def _bspline(spline: BSplineTransform) -> Any:
    """itk wraps double B-splines only. Fixed parameters: size, origin, spacing, direction of the
    control points."""
    result = _wrapped("BSplineTransform", f"D{spline.dimension}{CUBIC}").New()
    fixed, grid = result.GetFixedParameters(), spline.grid
    _fill(fixed, [*grid.size_xyz, *grid.origin_mm, *grid.spacing_mm, *grid.direction])
    result.SetFixedParameters(fixed)
    parameters = result.GetParameters()
    _fill(parameters, np.moveaxis(spline.coefficients_mm, -1, 0).ravel().tolist())
    result.SetParametersByValue(parameters)
    return result


def _fill(parameters: Any, values: list[float]) -> None:
    for position, value in enumerate(values):
        parameters.SetElement(position, float(value))


def _buffer(field_transform: Any, real: Real, grid: Grid) -> Floats:
    """(z, y, x, D) writable view of the displacements inside itk's image."""
    dimension = grid.dimension
    access = _wrapped("PyBuffer", f"IV{real}{dimension}{dimension}")
    view = access._GetArrayViewFromImage(field_transform.GetDisplacementField())
    flat: Floats = np.frombuffer(view, np.float32 if real == "F" else np.float64)
    return flat.reshape(*grid.shape_zyx, dimension)


def from_itk(transform: Any) -> Transform:
    """An itk.Transform (linear, displacement field, composites of them) as ours."""
    parts = [_from_leaf(leaf) for leaf in _leaves(transform)]
    return parts[0] if len(parts) == 1 else CompositeTransform(tuple(parts))


def _leaves(transform: Any) -> Iterator[Any]:
    if transform.GetNameOfClass() != "CompositeTransform":
        yield transform
        return
    composite = _cast("CompositeTransform", transform)
    for number in range(composite.GetNumberOfTransforms()):
        yield from _leaves(composite.GetNthTransform(number))


def _from_leaf(transform: Any) -> Transform:
    if transform.GetNameOfClass() == "DisplacementFieldTransform":
        return _from_field(_cast("DisplacementFieldTransform", transform))
    if transform.GetNameOfClass() == "BSplineTransform":
        return _from_bspline(transform)
    if not transform.IsLinear():
        raise InputError(f"transforms of type {transform.GetNameOfClass()} can't be used")
    dimension = transform.GetInputSpaceDimension()
    start = np.array(transform.TransformPoint([0.0] * dimension))
    columns = [np.array(transform.TransformPoint(e.tolist())) - start for e in np.eye(dimension)]
    return AffineTransform(np.column_stack(columns), start)


def _from_field(transform: Any) -> DisplacementField:
    grid = _fixed_grid(transform)
    values = _buffer(transform, _real(transform), grid)
    return DisplacementField(grid, values.astype(np.float32))


def _from_bspline(transform: Any) -> BSplineTransform:
    grid = _fixed_grid(transform)
    parameters = transform.GetParameters()
    values = np.array([parameters.GetElement(n) for n in range(parameters.Size())])
    coefficients = values.reshape(grid.dimension, *grid.shape_zyx)
    return BSplineTransform(grid, np.moveaxis(coefficients, 0, -1))


def _fixed_grid(transform: Any) -> Grid:
    """Size, origin, spacing, direction: the fixed parameters of fields and B-splines."""
    dimension = transform.GetInputSpaceDimension()
    parameters = transform.GetFixedParameters()
    fixed = [parameters.GetElement(n) for n in range(parameters.Size())]
    size, origin, spacing = (fixed[k * dimension : (k + 1) * dimension] for k in range(3))
    direction = tuple(fixed[3 * dimension :])
    return Grid(tuple(int(n) for n in size), tuple(spacing), tuple(origin), direction)


def _real(transform: Any) -> Real:
    return "F" if "_float_" in transform.GetTransformTypeAsString() else "D"


def _cast(name: str, transform: Any) -> Any:
    suffix = f"{_real(transform)}{transform.GetInputSpaceDimension()}"
    return _wrapped(name, suffix).cast(transform)

"""Registration of 3D medical images with CARL networks.

    import carl_cli as carl

    result = carl.register("fixed.nii.gz", "moving.nii.gz")
    result.save("forward.h5", warped="warped.nii.gz", report="report.html")
    labels = result.warp("labels.nii.gz", interpolator="genericlabel")

Images are paths, images of nibabel, SimpleITK, itk or carl, or `(array, grid)`. A transform is a
function of points (fixed → moving, LPS mm): `t(points)`, `a @ b`, `t.inverse()`. Names are loaded
when they are first used; torch only with `register`.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

# Public name → where it lives, and its name there.
_PUBLIC = {
    "AffineTransform": ("carl_cli.transforms", "AffineTransform"),
    "CompositeTransform": ("carl_cli.transforms", "CompositeTransform"),
    "DisplacementField": ("carl_cli.transforms", "DisplacementField"),
    "Grid": ("carl_cli.geometry", "Grid"),
    "Image": ("carl_cli.io.images.files", "Image"),
    "InstanceOptions": ("carl_cli.registration.instance", "InstanceOptions"),
    "Registration": ("carl_cli.workflows.registered", "Registration"),
    "RegistrationOptions": ("carl_cli.registration.register", "RegistrationOptions"),
    "Weights": ("carl_cli.weights.folder", "Weights"),
    "as_image": ("carl_cli.io.images.foreign", "as_image"),
    "available": ("carl_cli.workflows.api", "available"),
    "from_itk": ("carl_cli.io.transforms.itk", "from_itk"),
    "from_sitk": ("carl_cli.io.images.files", "from_sitk"),
    "from_sitk_transform": ("carl_cli.io.transforms.files", "from_sitk_transform"),
    "jacobian_determinant": ("carl_cli.transforms", "jacobian_determinant"),
    "load_weights": ("carl_cli.workflows.api", "load_weights"),
    "locate": ("carl_cli.weights.locate", "locate"),
    "read_image": ("carl_cli.io.images.files", "read_image"),
    "read_transform": ("carl_cli.io.transforms.files", "read_transform"),
    "register": ("carl_cli.workflows.api", "register"),
    "to_itk": ("carl_cli.io.transforms.itk", "to_itk"),
    "to_nibabel": ("carl_cli.io.images.foreign", "to_nibabel"),
    "to_sitk": ("carl_cli.io.images.files", "to_sitk"),
    "to_sitk_transform": ("carl_cli.io.transforms.files", "to_sitk_transform"),
    "warp": ("carl_cli.workflows.api", "warp"),
    "write_image": ("carl_cli.io.images.files", "write_image"),
    "write_transform": ("carl_cli.io.transforms.files", "write_transform"),
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])

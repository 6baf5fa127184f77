"""What an affine file states is compared with what ITK took from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import SimpleITK as sitk

from carl_cli.errors import InputError
from carl_cli.io.transforms.text import check_stated

PARAMETERS = (1.0, 0.1, 0.0, -0.1, 0.9, 0.02, 0.03, 0.0, 1.1, 12.0, -3.0, 150.0)


@pytest.mark.parametrize("suffix", [".tfm", ".mat"])
def test_a_number_that_itk_reads_otherwise_is_refused(tmp_path: Path, suffix: str) -> None:
    """From a hundred thousandth on: transforms in single precision are read as they are."""
    path = tmp_path / f"a{suffix}"
    written = sitk.AffineTransform(3)
    written.SetParameters(PARAMETERS)
    sitk.WriteTransform(written, str(path))
    check_stated(path, [sitk.ReadTransform(str(path))])
    other = sitk.AffineTransform(3)
    other.SetParameters((*PARAMETERS[:-1], PARAMETERS[-1] * (1 + 1e-5)))
    with pytest.raises(InputError, match="not those of its transform"):
        check_stated(path, [other])

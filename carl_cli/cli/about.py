"""`carl doctor` and `carl cite`: about this installation, and about the paper behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from carl_cli.errors import CarlError

REPORT = (
    "send these lines, the command, its log (-v --log-file log.txt) and its record "
    "(--json run.json); look through them first: paths may hold names"
)
# https://openaccess.thecvf.com/content/CVPR2025/html/Greer_CARL_A_Framework_for_Equivariant_Image_Registration_CVPR_2025_paper.html
BIBTEX = r"""@inproceedings{greer2025carl,
  title     = {{CARL}: A Framework for Equivariant Image Registration},
  author    = {Greer, Hastings and Tian, Lin and Vialard, Fran{\c{c}}ois-Xavier and
               Kwitt, Roland and San Jos{\'e} Est{\'e}par, Ra{\'u}l and Niethammer, Marc},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and
               Pattern Recognition (CVPR)},
  year      = {2025},
  pages     = {26014--26023},
  note      = {arXiv:2405.16738}
}"""


def doctor(
    folder: Annotated[
        Path, typer.Option("--folder", help="Where to measure the speed of writing.")
    ] = Path(),
) -> None:
    """Check this installation and machine: versions, devices, threads, caches, self-test.

    Prints one line for each finding, and what to send with a bug report; exits with 1 when
    something needs attention.
    """
    from carl_cli.workflows.doctor import diagnose

    faults = 0
    for finding in diagnose(folder):
        faults += bool(finding.fault)
        mark = f"  ← {finding.fault}" if finding.fault else ""
        typer.echo(f"{finding.name:<24} {finding.found}{mark}")
    typer.echo(f"{'for a bug report':<24} {REPORT}")
    if faults:
        raise CarlError(f"{faults} of these findings need attention", "see the lines with ←")


def cite() -> None:
    """Print what to cite, as BibTeX: the paper of the method that carl implements."""
    typer.echo(BIBTEX)

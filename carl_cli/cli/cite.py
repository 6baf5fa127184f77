"""`carl cite`: what to cite."""

from __future__ import annotations

import typer

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


def cite() -> None:
    """Print what to cite, as BibTeX: the paper of the method that carl implements."""
    typer.echo(BIBTEX)

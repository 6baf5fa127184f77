"""Names of labels, from files as the programs write them; nibabel writes the header."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from carl_cli.errors import InputError
from carl_cli.io.label_names import LabelName, read_label_names

FILES = {
    "FreeSurferColorLUT.txt": """
#$Id: FreeSurferColorLUT.txt
#No. Label Name:                            R   G   B   A

0   Unknown                                 0   0   0   0
2   Left-Cerebral-White-Matter              245 245 245 0
17  Left-Hippocampus                        220 216 20  0
""",
    "snap.label": """
################################################
# ITK-SnAP Label Description File
    0     0    0    0        0  0  0    "Clear Label"
    2   245  245  245        1  1  1    "Left-Cerebral-White-Matter"
   17   220  216   20        1  1  1    "Left-Hippocampus"
""",
    "dseg.tsv": "index\tname\tcolor\n0\tBackground\t#000000\n"
    "2\tLeft-Cerebral-White-Matter\t#f5f5f5\n17\tLeft-Hippocampus\t#dcd814\n",
    "names.csv": "index,name,color\n2,Left-Cerebral-White-Matter,#f5f5f5\n"
    "17,Left-Hippocampus,#dcd814\n",
}
EXPECTED = {
    2: LabelName("Left-Cerebral-White-Matter", "#f5f5f5"),
    17: LabelName("Left-Hippocampus", "#dcd814"),
}


@pytest.mark.parametrize("name", FILES)
def test_tables_of_three_programs_say_the_same(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(FILES[name])
    assert read_label_names(tmp_path / name) == EXPECTED


@pytest.mark.parametrize(
    "text",
    [
        '{"labels": {"background": 0, "spleen": 1, "left kidney": 3, "both": [1, 3]}}',
        '{"labels": {"0": "background", "1": "spleen", "3": "left kidney"}}',
    ],
)
def test_both_versions_of_nnunet(text: str, tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(text)
    found = read_label_names(tmp_path / "dataset.json")
    assert found == {1: LabelName("spleen"), 3: LabelName("left kidney")}


TABLE = b"""<?xml version="1.0" encoding="UTF-8"?> <CaretExtension> <VolumeInformation Index="0">
<LabelTable><Label Key="1" Red="1.0" Green="0.0" Blue="0.5" Alpha="1"><![CDATA[spleen]]></Label>
</LabelTable></VolumeInformation></CaretExtension>
              """


def test_the_header_that_totalsegmentator_writes(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, TABLE))
    nibabel.save(image, tmp_path / "ml.nii.gz")
    assert read_label_names(tmp_path / "ml.nii.gz") == {1: LabelName("spleen", "#ff0080")}


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.json", "{", "no table of label names"),
        ("b.json", '{"labels": 3}', "no table of label names"),
        ("c.tsv", "label\tname\n1\tx\n", "no table of label names"),
        ("d.txt", "nothing here\n", "names no labels"),
        ("e.nii.gz", "no image", "no table of label names"),
        ("f.txt", None, "No such file"),
    ],
)
def test_a_file_without_names_is_refused_in_one_line(
    name: str, text: str | None, told: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=told) as failure:
        read_label_names(tmp_path / name)
    assert "\n" not in failure.value.message
    assert "FreeSurfer" in failure.value.hint


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    """The last one counted."""
    path = tmp_path / "names.csv"
    path.write_text("index,name,name\n1,liver,spleen\n")
    with pytest.raises(InputError, match="column 'name' occurs twice"):
        read_label_names(path)


def test_a_damaged_header_names_nothing(tmp_path: Path) -> None:
    """nibabel has errors of its own: this one ended as a bug."""
    made = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)).to_bytes()
    path = tmp_path / "names.nii"
    path.write_bytes(made[:70] + b"\0\0" + made[72:])
    with pytest.raises(InputError, match="no table of label names"):
        read_label_names(path)

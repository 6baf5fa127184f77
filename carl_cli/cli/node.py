"""Run by the script of a cluster's job before its work: python -m carl_cli.cli.node …"""

from __future__ import annotations

import sys
from pathlib import Path

from carl_cli.batch.slurm.node import check_node
from carl_cli.cli.boundary import exit_code_of


def main(expected: str, weights: str, out_dir: str) -> int:
    """The exit code: 0 if this node has what the batch needs, else an error line tells."""
    return exit_code_of(lambda: check_node(expected, Path(weights), Path(out_dir)))


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))

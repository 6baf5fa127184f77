"""One process of `carl train` where SimpleITK can't be imported: worker.py CONFIG.toml -o OUT …"""

from __future__ import annotations

import sys

sys.modules["SimpleITK"] = None  # type: ignore[assignment]

if __name__ == "__main__":
    from carl_cli.cli.app import main

    main(["train", *sys.argv[1:], "--threads", "1", "-q"])

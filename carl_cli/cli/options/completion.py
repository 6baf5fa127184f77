"""What a shell offers after --weights and -n; where nothing fits, it offers files."""

from __future__ import annotations

INTERPOLATIONS = (
    "linear",
    "nearest",
    "genericLabel",
    "multiLabel",
    "gaussian",
    *(f"bspline[{degree}]" for degree in range(1, 6)),
    *(f"{window}WindowedSinc" for window in ("lanczos", "hamming", "cosine", "welch", "blackman")),
)


def weights(incomplete: str) -> list[str]:
    from carl_cli.weights.locate import embedded
    from carl_cli.weights.registry import RELEASES

    names = [*embedded(), *(release.name for release in RELEASES)]
    return [name for name in names if name.startswith(incomplete)]


def interpolations(incomplete: str) -> list[str]:
    """In any case; what was typed stays as it is, or Typer would drop the name."""
    begun, typed = incomplete.lower(), len(incomplete)
    return [incomplete + n[typed:] for n in INTERPOLATIONS if n.lower().startswith(begun)]

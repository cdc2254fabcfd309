"""Which devices the CUDA code of the native extension runs on."""

from __future__ import annotations

__all__ = ["covers", "parse_targets"]


def parse_targets(targets: str) -> tuple[tuple[int, int, str], ...]:
    """ "sm_80 sm_90a compute_90" → ((8, 0, ""), (9, 0, "a"), (9, 0, "ptx")): major, minor and kind of each target."""
    parsed = []
    for target in targets.split():
        kind, _, version = target.partition("_")
        digits = version.rstrip("af")
        suffix = "ptx" if kind == "compute" else version[len(digits) :]
        parsed.append((int(digits[:-1]), int(digits[-1]), suffix))
    return tuple(parsed)


def covers(targets: tuple[tuple[int, int, str], ...], capability: tuple[int, int]) -> bool:
    """Whether code for these targets runs on a device of this compute capability (major, minor).

    The driver compiles PTX, so PTX runs on devices of its version and of later versions. Machine code runs on devices
    of the same major version and the same or a later minor version. A target that ends in "a" runs only on devices of
    exactly its version.
    """
    major, minor = capability
    for target_major, target_minor, suffix in targets:
        if suffix == "ptx" and (target_major, target_minor) <= capability:
            return True
        if suffix == "a" and (target_major, target_minor) == capability:
            return True
        if not suffix and target_major == major and target_minor <= minor:
            return True
    return False

"""The architectures that are served natively, by the class name in config.json. One file for those built alike."""

from torch_compat.families import llama
from torch_compat.families.family import Family

__all__ = ["FAMILIES", "Family"]

FAMILIES: dict[str, Family] = {**llama.FAMILIES}

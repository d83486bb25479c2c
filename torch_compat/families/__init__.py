"""The architectures that are served natively, by the class name in config.json. One file for those built alike."""

from torch_compat.families import (
    apertus,
    cohere,
    deepseek,
    gemma,
    glm,
    gpt,
    gpt_j,
    gpt_oss,
    granite,
    lfm2,
    llama,
    llama4,
    mamba2,
    mixtures,
    olmo,
    phi,
    qwen,
    qwen3_next,
    stablelm,
)
from torch_compat.families.family import Family

__all__ = ["FAMILIES", "Family"]

FAMILIES: dict[str, Family] = {
    **llama.FAMILIES,
    **qwen.FAMILIES,
    **gemma.FAMILIES,
    **phi.FAMILIES,
    **olmo.FAMILIES,
    **cohere.FAMILIES,
    **glm.FAMILIES,
    **stablelm.FAMILIES,
    **gpt.FAMILIES,
    **gpt_j.FAMILIES,
    **granite.FAMILIES,
    **apertus.FAMILIES,
    **mixtures.FAMILIES,
    **gpt_oss.FAMILIES,
    **llama4.FAMILIES,
    **deepseek.FAMILIES,
    **qwen3_next.FAMILIES,
    **mamba2.FAMILIES,
    **lfm2.FAMILIES,
}

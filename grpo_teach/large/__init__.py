"""Laboratory: models of a billion parameters, whole or through an adapter, in 4 bits if asked."""

from grpo_teach.large.load import OPTIMIZERS, adamw8bit, free_memory, load_large, load_large_tokenizer, nf4
from grpo_teach.large.options import DTYPES, NEEDS, Options, place
from grpo_teach.large.shapes import SHAPES, loaded, local, model_config, random_model, stand_in_tokenizer

__all__ = ["DTYPES", "NEEDS", "OPTIMIZERS", "SHAPES", "Options", "adamw8bit", "free_memory", "load_large", "local"]
__all__ += ["load_large_tokenizer", "loaded", "model_config", "nf4", "place", "random_model", "stand_in_tokenizer"]

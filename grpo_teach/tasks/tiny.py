"""What a toy task's base is made of: a tokenizer of single characters and a tiny Llama."""

from __future__ import annotations

import re
from collections.abc import Sequence

import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

__all__ = ["tiny_policy", "tiny_tokenizer"]


def tiny_tokenizer(characters: Sequence[str] = "0123456789+=;") -> transformers.PreTrainedTokenizerFast:
    """One token a character; ``<think>``, ``</think>``, ``<eos>`` and ``<pad>`` are one token each.

    Args:
        characters: a text, or its pieces: those of several characters are one token each, the longest first.
    """
    longest_first = sorted((piece for piece in characters if len(piece) > 1), key=len, reverse=True)
    pieces = "|".join(["</?think>", *map(re.escape, longest_first), "."])
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", "<think>", "</think>", *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pieces), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>", padding_side="left"
    )


def tiny_policy(
    tokenizer, hidden_size: int = 128, layers: int = 2, heads: int = 4, intermediate_size: int = 512
) -> transformers.LlamaForCausalLM:
    """A Llama of about half a million parameters with random weights from torch's global random state."""
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=intermediate_size,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )

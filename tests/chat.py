"""A stand-in for an instruction-tuned model's tokenizer, and completions in the format that word problems ask for."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|head|>{{ m.role }}\n\n{{ m.content | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|head|>assistant\n\n{% endif %}"
)


def chat_tokenizer(adds_bos=True, template=TEMPLATE):
    """One token a byte, and a chat template made as Llama 3's is."""
    special = ["<pad>", "<|begin|>", "<|end|>", "<|head|>"]
    vocabulary = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing("<|begin|> $A", special_tokens=[("<|begin|>", 1)])
    roles = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "pad_token": "<pad>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="left", **roles)
    fast.add_special_tokens({"extra_special_tokens": ["<|head|>"]})
    fast.chat_template = template
    return fast


def tagged(answer, thoughts="84/2 = 42"):
    return f"<think>{thoughts}</think><answer>{answer}</answer>"

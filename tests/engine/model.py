#!/usr/bin/env python3
"""Writes one small language model of random weights, in two precisions: what a NIM calls two profiles of a model.

    model.py TEXT_FOLDER OUT_FOLDER

The shape is Llama's. The vocabulary is a byte-level BPE trained on the documentation found in TEXT_FOLDER, so that text
costs about as many tokens as it does with real models. Weights are random: what it says is noise, what it takes to say
it is not.
"""
import json
import pathlib
import sys

import gguf
import numpy
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

NAME = "tiny-llama-random"
LAYERS, WIDTH, HEADS, KV_HEADS, FEED = 8, 512, 8, 4, 1536
VOCABULARY, CONTEXT = 4096, 8192
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def vocabulary(folder):
    """Tokens in the order of their ids, and merges."""
    texts = [path.read_text(errors="ignore") for path in sorted(folder.rglob("*.md"))]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    parts = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(parts["vocab"], key=parts["vocab"].get)
    if len(tokens) != VOCABULARY:
        sys.exit(f"model.py: {len(tokens)} tokens, not {VOCABULARY}: too little text in {folder}")
    return tokens, [merge if isinstance(merge, str) else " ".join(merge) for merge in parts["merges"]]


def weights():
    """Name and values of every tensor; the same for every precision."""
    random = numpy.random.default_rng(1)
    head = WIDTH // HEADS

    def matrix(rows, columns):
        return (random.standard_normal((rows, columns)) / numpy.sqrt(columns)).astype(numpy.float32)

    ones = numpy.ones(WIDTH, numpy.float32)
    yield "token_embd.weight", matrix(VOCABULARY, WIDTH) * numpy.float32(numpy.sqrt(WIDTH))
    yield "output_norm.weight", ones
    yield "output.weight", matrix(VOCABULARY, WIDTH)
    for layer in range(LAYERS):
        name = f"blk.{layer}."
        yield name + "attn_norm.weight", ones
        yield name + "attn_q.weight", matrix(WIDTH, WIDTH)
        yield name + "attn_k.weight", matrix(KV_HEADS * head, WIDTH)
        yield name + "attn_v.weight", matrix(KV_HEADS * head, WIDTH)
        yield name + "attn_output.weight", matrix(WIDTH, WIDTH)
        yield name + "ffn_norm.weight", ones
        yield name + "ffn_gate.weight", matrix(FEED, WIDTH)
        yield name + "ffn_up.weight", matrix(FEED, WIDTH)
        yield name + "ffn_down.weight", matrix(WIDTH, FEED)


def write(path, tokens, merges, kind):
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name(NAME)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(kind[0])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    writer.add_token_types([control if token in SPECIAL else normal for token in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    for name, values in weights():
        if values.ndim == 1 or kind[1] == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, kind[1]), raw_dtype=kind[1])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(texts, out):
    out.mkdir(parents=True, exist_ok=True)
    tokens, merges = vocabulary(texts)
    kinds = {"q8": (gguf.LlamaFileType.MOSTLY_Q8_0, gguf.GGMLQuantizationType.Q8_0),
             "f32": (gguf.LlamaFileType.ALL_F32, gguf.GGMLQuantizationType.F32)}
    for name, kind in kinds.items():
        path = out / f"{NAME}-{name}.gguf"
        write(path, tokens, merges, kind)
        print(path, path.stat().st_size // 1_000_000, "MB")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))

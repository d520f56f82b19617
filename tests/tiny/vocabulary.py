"""A synthetic byte-level BPE vocabulary of 336 tokens: every byte, some merges, the ChatML markers."""

from __future__ import annotations

from pathlib import Path

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
EOS, END_OF_TURN = 0, 2
SIZE = 336
# Pairs of characters of the byte alphabet (Ġ is a space), joined in this order.
MERGED = (
    "Ġe Ġa Ġd Ġl Ġc Ġp Ġs Ġt Ġw Ġo en er es os as ra on an re in de la el qu st th he or ar te ti nd is it "
    "al ci do ta ro le se ia io un Ġu Ġm Ġn Ġb Ġf Ġh Ġi Ġr Ġg Ġy Ġv ll ch nt ic om me na no"
)


def byte_alphabet() -> list[str]:
    """The 256 printable stand-ins of bytes that GPT-2's tokenizer introduced, by byte value."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    stand_in = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(rest)}
    return [stand_in[byte] for byte in range(256)]


def merges() -> list[tuple[str, str]]:
    return [(pair[0], pair[1]) for pair in MERGED.split()]


def tokens() -> list[str]:
    """All tokens by id, `SIZE` of them; the unused rest is reserved."""
    known = [*SPECIAL, *byte_alphabet(), *(left + right for left, right in merges())]
    return [*known, *(f"<|reserved_{i}|>" for i in range(SIZE - len(known)))]


def is_control(token: str) -> bool:
    return token.startswith("<|") and token.endswith("|>")


def save_hugging_face(directory: Path, chat_template: str | None) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    bpe = models.BPE(vocab={token: i for i, token in enumerate(tokens())}, merges=merges())
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in tokens() if is_control(token)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=SPECIAL[0], eos_token=SPECIAL[END_OF_TURN], pad_token=SPECIAL[0]
    )
    if chat_template is not None:
        fast.chat_template = chat_template
    fast.save_pretrained(directory)

"""How an engine process is started."""

from __future__ import annotations

from msgspec import Struct


class EngineOptions(Struct, frozen=True, kw_only=True):
    """What `python -m llamaleon_server.engine` takes as one JSON argument."""

    model_path: str
    projector_path: str | None = None  # the mmproj file of a model that sees
    gpu_layers: int | None = None  # None: as many as fit
    context_tokens: int | None = None  # per sequence; None: what fits, up to the model's own, at most 32768
    parallel_sequences: int = 32  # most that run at once; free cells in the KV cache decide how many do
    kv_tokens: int | None = None  # cells shared by all sequences; None: what fits
    batch_tokens: int = 512  # most tokens of one step
    step_target_s: float = 0.25  # a step that decodes takes in only as much prompt as keeps it this short
    speculation: bool = True  # guess ahead by prompt lookup where it pays
    mixing: bool = True  # several adapters in one pass, if the self-test allows it
    bank_ranks: int = 256  # most ranks that the adapter bank may grow to
    adapter_ram_bytes: int = 4 << 30  # of adapters kept in RAM; the rest stays on disk
    prefix_ram_bytes: int = 1 << 30  # of idle prefixes moved out of the KV cache
    threads: int | None = None
    flash_attention: bool | None = None  # None: automatic
    kv_type: str = "f16"  # f32, f16, bf16, q8_0, q4_0, ...
    kv_type_k: str | None = None  # None: `kv_type`
    kv_type_v: str | None = None
    queue_limit: int = 256
    use_mmap: bool = True
    rope_scaling: str | None = (
        None  # none, linear, yarn, longrope; None: as the GGUF says, as all that follow
    )
    rope_freq_base: float | None = None
    rope_freq_scale: float | None = None
    yarn_ext_factor: float | None = None
    yarn_attn_factor: float | None = None
    yarn_beta_fast: float | None = None
    yarn_beta_slow: float | None = None
    yarn_orig_ctx: int | None = None
    split_mode: str | None = None  # none, layer, row, tensor; None: llama.cpp's own
    tensor_split: tuple[float, ...] | None = None  # shares of each GPU
    main_gpu: int | None = None
    memory_bytes: int | None = None  # what the engine may take in all; None: what is free
    least_context_tokens: int = 0  # if that is more, as far as memory and the model allow it

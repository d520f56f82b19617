"""Flags of Olive's `finetune` and of transformers' TrainingArguments that change nothing here, and why."""

from __future__ import annotations

from collections.abc import Callable

from llamaleon_clients.words import say

_OF_THE_MODEL = """
task trust_remote_code adapter_path is_generative_model add_special_tokens precision use_ort_genai label_names
"""
_OF_THE_MACHINE = """
fp16 half_precision_backend fp16_full_eval bf16_full_eval fp16_opt_level use_cpu no_cuda jit_mode_eval
per_device_eval_batch_size eval_accumulation_steps auto_find_batch_size dataloader_drop_last
dataloader_in_order dataloader_multiprocessing_context dataloader_num_workers dataloader_persistent_workers
dataloader_pin_memory dataloader_prefetch_factor ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb
ddp_find_unused_parameters ddp_static_graph ddp_timeout deepspeed fsdp fsdp_config accelerator_config
parallelism_config local_rank gradient_checkpointing_kwargs activation_checkpointing
activation_checkpointing_kwargs torch_compile torch_compile_backend torch_compile_mode torch_empty_cache_steps
liger_kernel_config use_liger_kernel use_cache skip_memory_metrics remove_unused_columns length_column_name
full_determinism average_tokens_across_devices memory
"""
_OF_THE_SERVER = """
tempdir clean save_config_file log_level log_level_replica log_on_each_node logging_dir logging_strategy
logging_first_step logging_steps logging_nan_inf_filter disable_tqdm do_train do_eval do_predict eval_strategy
evaluation_strategy eval_delay eval_on_start eval_do_concat_batches eval_use_gather_object batch_eval_metrics
prediction_loss_only save_strategy save_total_limit save_safetensors save_on_each_node save_only_model
overwrite_output_dir resume_from_checkpoint restore_callback_states_from_checkpoint ignore_data_skip
enable_jit_checkpoint metric_for_best_model greater_is_better include_for_metrics
include_num_input_tokens_seen include_tokens_per_second push_to_hub hub_model_id hub_strategy hub_token
hub_private_repo hub_always_push hub_revision debug train_sampling_strategy
"""
_OF_OTHERS = """
resource_group workspace_name keyvault_name aml_compute account_name container_name trackio_space_id
trackio_bucket_id trackio_static_space_id
"""
_OF_THE_METHOD = """
adam_beta1 adam_beta2 adam_epsilon optim_args optim_target_modules lr_scheduler_kwargs data_seed
"""
_SWITCHES = """
trust_remote_code use_ort_genai clean save_config_file fp16 use_cpu no_cuda push_to_hub do_train do_eval
do_predict overwrite_output_dir full_determinism auto_find_batch_size disable_tqdm
"""
SWITCHES = frozenset(_SWITCHES.split())  # they may stand without a value


def _reasons() -> dict[str, Callable[[], str]]:
    """Functions: the language is known when a command runs, not when this is read."""
    groups: tuple[tuple[str, Callable[[], str]], ...] = (
        (_OF_THE_MODEL, lambda: say("the GGUF that is served decides it")),
        (_OF_THE_MACHINE, lambda: say("the trainer decides it by itself")),
        (_OF_THE_SERVER, lambda: say("the server keeps files, checkpoints and logs its own way")),
        (_OF_OTHERS, lambda: say("another service's, which is not called")),
        (_OF_THE_METHOD, lambda: say("this trainer does not do it")),
    )
    return {flag: reason for flags, reason in groups for flag in flags.split()}


NOT_HONOURED = _reasons()

"""Axolotl's keys that change nothing here, by the reason that a warning gives.

Those that are honoured stand in `axolotl.py` and `axolotl_data.py`; any other key is unknown, and an error.
Source: axolotl, src/axolotl/utils/schemas: config, model, peft, training, datasets, integrations, deprecated.
"""

from __future__ import annotations

from llamaleon_clients.words import say

# The model, its tokenizer and its chat template are those of the GGUF that is served.
OF_THE_MODEL = """
model_type type_of_model tokenizer_type processor_type base_model_config cls_model_config tokenizer_config
tokenizer_use_fast tokenizer_legacy tokenizer_use_mistral_common tokenizer_save_jinja_files
trust_remote_code revision_of_model model_revision overrides_of_model_config model_config
overrides_of_model_kwargs model_kwargs is_falcon_derived_model is_llama_derived_model
is_mistral_derived_model is_qwen_derived_model rope_scaling chat_template chat_template_jinja
chat_template_kwargs eot_tokens default_system_message special_tokens tokens added_tokens_overrides
new_tokens fix_untrained_tokens resize_token_embeddings_to_32x mean_resizing_embeddings shrink_embeddings
embeddings_skip_upcast reinit_weights model_quantization_config model_quantization_config_kwargs num_labels
is_multimodal image_size image_resize_algorithm use_pose pose_split_on_token_ids pose_max_context_len
pose_num_chunks llama4_linearized_experts lora_fan_in_fan_out unfrozen_parameters lora_modules_to_save
hf_use_auth_token
"""
# Memory, speed and devices: the trainer decides by itself.
OF_THE_MACHINE = """
flash_attention flash_attn_cross_entropy flash_attn_rms_norm flash_attn_fuse_qkv flash_attn_fuse_mlp
flash_optimum sdp_attention xformers_attention s2_attention flex_attention flex_attn_compile_kwargs
eager_attention attn_implementation sage_attention unsloth_cross_entropy_loss unsloth_lora_mlp
unsloth_lora_qkv unsloth_lora_o unsloth_rms_norm unsloth_rope lora_mlp_kernel lora_qkv_kernel lora_o_kernel
lora_embedding_kernel use_kernels device device_map ddp ddp_timeout ddp_bucket_cap_mb ddp_broadcast_buffers
ddp_find_unused_parameters local_rank max_memory gpu_memory_limit low_cpu_mem_usage fp16 float16 fp8
fp8_enable_fsdp_float8_all_gather load_in_8bit lora_on_cpu gptq bnb_config_kwargs
gradient_checkpointing_kwargs activation_offloading layer_offloading torch_compile
torch_compile_backend torch_compile_mode pad_to_sequence_len sample_packing_group_size sample_packing_bin_size
sample_packing_sequentially sample_packing_mp_start_method sample_packing_eff_est eval_sample_packing
multipack_real_batches batch_flattening pretrain_multipack_buffer_size pretrain_multipack_attn
pretraining_sample_concatenation streaming streaming_multipack_buffer_size eval_batch_size
auto_find_batch_size dataset_processes dataset_num_proc dataset_keep_in_memory dataloader_pin_memory
dataloader_num_workers dataloader_prefetch_factor dataloader_drop_last accelerator_config gc_steps
sequence_parallel_degree context_parallel_size heads_k_stride ring_attn_func tensor_parallel_size
dp_shard_size dp_replicate_size expert_parallel_size fsdp_config fsdp_final_state_dict_type fsdp_version
qlora_sharded_model_loading experimental_skip_move_to_device cut_cross_entropy liger_rope liger_rms_norm
liger_glu_activation liger_layer_norm liger_cross_entropy liger_fused_linear_cross_entropy
liger_use_token_scaling tiled_mlp tiled_mlp_use_original_mlp tiled_mlp_num_shards profiler_steps
profiler_steps_start nccl_timeout include_tokens_per_second include_tkps remove_unused_columns
"""
# Files, logs and checkpoints: the server keeps them in its own home.
OF_THE_SERVER = """
output_dir dataset_prepared_path strict resume_from_checkpoint auto_resume_from_checkpoints
skip_prepare_dataset push_dataset_to_hub push_to_hub_id shuffle_merged_datasets
shuffle_before_merging_datasets dataset_shard_num dataset_shard_idx dataset_exact_deduplication
save_total_limit save_only_model save_first_step save_safetensors save_strategy saves_per_epoch
eval_strategy evaluation_strategy evals_per_epoch logging_steps dynamic_checkpoint hub_model_id hub_strategy
hub_revision hub_private merge_lora merge_method eval_table_size eval_max_new_tokens do_causal_lm_eval
eval_causal_lm_metrics do_bench_eval bench_dataset bench_split metric_for_best_model greater_is_better
generate_samples num_generation_samples generation_max_new_tokens generation_temperature generation_top_p
generation_top_k generation_prompt_ratio generation_do_sample is_preprocess preprocess_iterable
total_num_tokens total_supervised_tokens axolotl_config_path debug telemetry dataset_prepared_hash
"""
# Other services and launchers.
OF_OTHERS = """
wandb_run_id wandb_watch wandb_log_model use_mlflow mlflow_tracking_uri mlflow_experiment_name
mlflow_run_name hf_mlflow_log_artifacts use_comet comet_api_key comet_workspace comet_project_name
comet_experiment_key comet_mode comet_online comet_experiment_config use_trackio trackio_project_name
trackio_run_name trackio_space_id use_otel_metrics otel_metrics_host otel_metrics_port use_swanlab
swanlab_project swanlab_experiment_name gradio_title gradio_share gradio_server_name gradio_server_port
gradio_max_new_tokens gradio_temperature use_ray ray_run_name ray_num_workers resources_per_worker plugins
vllm
"""
# Ways of training that this trainer does not have.
OF_THE_METHOD = """
peft peft_use_dora peft_layers_to_transform peft_layers_pattern peft_layer_replication
peft_init_lora_weights peft_trainable_token_indices peft_ensure_weight_tying peft_autocast_adapter_dtype
lora_target_parameters lora_model_dir loraplus_lr_ratio loraplus_lr_embedding relora relora_steps
relora_warmup_steps relora_anneal_steps relora_prune_ratio relora_prune_method relora_cpu_offload
jagged_restart_steps jagged_restart_warmup_steps jagged_restart_anneal_steps lisa_n_layers
lisa_step_interval lisa_layers_attribute embedding_lr embedding_lr_scale optim_args optim_target_modules
torchdistx_path lr_scheduler_kwargs lr_quadratic_warmup cosine_min_lr_ratio cosine_constant_lr_ratio
lr_div_factor lr_groups adam_epsilon adam_epsilon2 adam_beta1 adam_beta2 adam_beta3 muon dion_lr
dion_momentum dion_rank_fraction dion_rank_multiple_of curriculum_sampling min_sample_len max_prompt_len
excess_length_strategy loss_watchdog_threshold loss_watchdog_patience trl qat quantization dpo_use_weighting
dpo_use_logits_to_keep dpo_label_smoothing dpo_loss_type dpo_loss_weights dpo_padding_free
dpo_generate_during_eval dpo_norm_loss orpo_alpha rpo_alpha simpo_gamma cpo_alpha kto_desirable_weight
kto_undesirable_weight max_packed_sequence_len expected_model_config eaft_alpha eaft_k use_eaft
"""
# Of one data set.
OF_A_DATASET = """
shards shards_idx preprocess_shards conversation chat_template chat_template_jinja input_format
input_transform field_thinking template_thinking_key message_field_training_detail split_thinking
logprobs_field temperature train_on_eos trust_remote_code skip weight
"""


def not_honoured() -> dict[str, str]:
    """Key -> why it changes nothing here."""
    groups = (
        (OF_THE_MODEL, say("the GGUF that is served decides it")),
        (OF_THE_MACHINE, say("the trainer decides it by itself")),
        (OF_THE_SERVER, say("the server keeps files, checkpoints and logs its own way")),
        (OF_OTHERS, say("another service's, which is not called")),
        (OF_THE_METHOD, say("this trainer does not do it")),
    )
    return {key: reason for keys, reason in groups for key in keys.split()}


def not_honoured_of_data() -> dict[str, str]:
    return dict.fromkeys(OF_A_DATASET.split(), say("rows are read as they are"))

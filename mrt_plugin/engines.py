r"""Engines that write: the sampler that a recipe asks for."""

from transformers import AutoModelForCausalLM

from .sampling import PolicySampler


class SamplingError(Exception):
    def __init__(self, failed):
        super().__init__(f"{len(failed)} prompts failed")
        self.failed = failed


def load_sampler(kind, model_args, tokenizer, server_url):
    model = AutoModelForCausalLM.from_pretrained(model_args.model_name_or_path, revision=model_args.model_revision)
    sampler = PolicySampler(model.eval(), tokenizer)
    sampler.max_length = model.config.max_position_embeddings
    return sampler

r"""How a model is loaded and called: names that TRL and transformers have changed."""

import inspect
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import trl
from jinja2 import TemplateSyntaxError
from transformers import AutoTokenizer, GenerationConfig
from trl import get_quantization_config

from ..mistakes import is_missing_path, sentence
from .version import TRL_1


DTYPE = "dtype" if TRL_1 else "torch_dtype"
"""Field of [`~trl.ModelConfig`] and argument of `from_pretrained`."""


def load_tokenizer(model_args, chat_template: str | None, trust_remote_code: bool = False):
    """
    The tokenizer of a model, with the recipe's chat template if there is one.

    Raises:
        `ValueError`: If there is no such model, or the template is none.
    """
    name, revision = model_args.model_name_or_path, model_args.model_revision
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        reason = "there is no such folder." if is_missing_path(name) else sentence(error)
        raise ValueError(f"model_name_or_path: {name!r} cannot be loaded: {reason}") from error
    if chat_template is not None:
        tokenizer.chat_template = chat_template
        try:
            tokenizer.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)
        except TemplateSyntaxError as error:
            raise ValueError(f"chat_template: {sentence(error)}") from error
    return tokenizer


def tokenizer_of(script_args, training_args, model_args):
    """The tokenizer that a trainer reads and renders with."""
    trust = (training_args if TRL_1 else model_args).trust_remote_code
    return load_tokenizer(model_args, getattr(script_args, "chat_template", None), trust)


def sft_tokenizer(script_args, training_args, model_args):
    """The tokenizer with the chat template that [`~trl.SFTTrainer`] renders with."""
    tokenizer = tokenizer_of(script_args, training_args, model_args)
    if path := getattr(training_args, "chat_template_path", None):  # a field of 1.x, as is the next
        of_file = path.endswith((".jinja", ".j2")) and Path(path).is_file()
        template = Path(path).read_text() if of_file else AutoTokenizer.from_pretrained(path).chat_template
        tokenizer.chat_template = template
    if getattr(training_args, "assistant_only_loss", False):
        chat_templates = import_module("trl.chat_template_utils")
        if not chat_templates.has_generation_markers(tokenizer.chat_template):
            tokenizer.chat_template = chat_templates.get_training_chat_template(tokenizer)
    return tokenizer


def model_loading(script_args, training_args, model_args) -> dict:
    """How a trainer loads the model and its tokenizer; sets `model_init_kwargs`, where the recipe's win."""
    quantization = get_quantization_config(model_args)
    common = {
        "revision": model_args.model_revision,
        "trust_remote_code": (training_args if TRL_1 else model_args).trust_remote_code,
    }
    init = common | {"attn_implementation": model_args.attn_implementation, DTYPE: getattr(model_args, DTYPE)}
    given = {"model": model_args.model_name_or_path}
    if TRL_1:
        given["quantization_config"] = quantization
    elif quantization is not None:
        init |= {"quantization_config": quantization, "device_map": trl.get_kbit_device_map()}
    training_args.model_init_kwargs = {**init, **(training_args.model_init_kwargs or {})}
    if script_args.chat_template is not None:
        given["processing_class"] = tokenizer_of(script_args, training_args, model_args)
    return given


def cache_argument(model) -> str:
    """
    The name under which a model takes its cache and gives it back: `cache` from transformers 5.24 on,
    `past_key_values` before that and in models whose code is not of transformers.

    ```python
    >>> class Model:
    ...     def forward(self, input_ids, cache=None): ...
    >>> cache_argument(Model())
    'cache'

    ```
    """
    return "cache" if accepts(model, "cache") else "past_key_values"


def accepts(model, argument: str) -> bool:
    """Whether the forward pass of a model takes an argument of this name."""
    return argument in inspect.signature(type(_base(model)).forward).parameters


def _base(model):
    """The model itself, where an adapter is given that hands everything on."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def layers_of(cache) -> list:
    """The layers of a cache; before transformers 5, where all are of one kind, the cache itself."""
    return getattr(cache, "layers", None) or [cache]


@contextmanager
def generation(model, **settings):
    """Lets a model generate by these settings alone: `generate` would add whatever else its own config has."""
    usual = model.generation_config
    kept = {"cache_implementation": usual.cache_implementation, "disable_compile": True}
    model.generation_config = GenerationConfig(**kept, **settings)
    try:
        yield
    finally:
        model.generation_config = _base(model).generation_config = usual  # adapters hand it on for good

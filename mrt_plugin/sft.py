r"""Supervised fine-tuning from a recipe: the warm start of the RL runs, and the training step of STaR.

    accelerate launch -m mrt_plugin.sft --config recipes/tiny-cpu/sft/config_warm_start.yaml

A recipe holds fields of TRL's `SFTConfig` and `ModelConfig`, and of Open-R1's `ScriptArguments`. A field on the
command line wins. A run that finds a whole checkpoint in `output_dir` resumes from it. With Open-R1 installed (or
`--upstream open-r1`), its own `main` runs the recipe.
"""

from trl import ModelConfig, SFTConfig, SFTTrainer, get_peft_config

from .datasets import check_sft_columns, load_splits
from .launch import RecipeArguments, launch, train_and_save
from .mistakes import as_command
from .templates import check_thinking
from .upstream.model import model_loading, sft_tokenizer


def main(script_args: RecipeArguments, training_args: SFTConfig, model_args: ModelConfig):
    train, test = load_splits(script_args, None, wants_eval=training_args.eval_strategy != "no")
    check_sft_columns(train, training_args.dataset_text_field)
    check_thinking(train, sft_tokenizer(script_args, training_args, model_args))
    trainer = SFTTrainer(
        args=training_args,
        train_dataset=train,
        eval_dataset=test,
        peft_config=get_peft_config(model_args),
        **model_loading(script_args, training_args, model_args),
    )
    train_and_save(trainer, script_args.dataset_name)


def run(arguments: list[str] | None = None) -> None:
    """Runs a recipe; `arguments` are those of the command line."""
    launch("sft", (RecipeArguments, SFTConfig, ModelConfig), main, arguments)


if __name__ == "__main__":
    as_command("sft", run)

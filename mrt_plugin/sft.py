r"""Supervised fine-tuning from a recipe, on the current TRL: the warm start of the RL runs, and the training step
of STaR.

    accelerate launch -m mrt_plugin.sft --config recipes/tiny-cpu/sft/config_warm_start.yaml

A recipe holds fields of TRL's `SFTConfig`, `ModelConfig` and `ScriptArguments`. A field on the command line wins.
A run that finds a checkpoint in `output_dir` goes on from there.
"""

from trl import (
    ModelConfig,
    ScriptArguments,
    SFTConfig,
    SFTTrainer,
    TrlParser,
    get_peft_config,
    get_quantization_config,
)

from .launch import load_splits, model_init_kwargs, resume_point


def main(script_args: ScriptArguments, training_args: SFTConfig, model_args: ModelConfig):
    wants_eval = training_args.eval_strategy != "no"
    train, test = load_splits(script_args, None, wants_eval)
    training_args.model_init_kwargs = model_init_kwargs(training_args, model_args)
    trainer = SFTTrainer(
        model=model_args.model_name_or_path,
        args=training_args,
        train_dataset=train,
        eval_dataset=test,
        peft_config=get_peft_config(model_args),
        quantization_config=get_quantization_config(model_args),
    )
    trainer.train(resume_from_checkpoint=resume_point(training_args))
    trainer.save_model(training_args.output_dir)
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)


def make_parser() -> TrlParser:
    return TrlParser((ScriptArguments, SFTConfig, ModelConfig), prog="mrt sft")


if __name__ == "__main__":
    main(*make_parser().parse_args_and_config())

r"""`register()`: MRT in a script that knows nothing of it, TRL's, Open-R1's or a fork's.

After it, whatever builds a `GRPOTrainer` gets an [`~mrt_plugin.MRTTrainer`], which is GRPO bit for bit where no
`mrt_*` asks for more, and every `TrlParser` knows the fields of [`~mrt_plugin.MRTArguments`] and stops at a field that
nobody knows. It makes no difference where it is called and what was imported before. Open-R1, where it can be
imported, knows our rewards and callback by name as well ([`~mrt_plugin.open_r1`]).

Nothing happens without the call: no import hook and no `.pth` file, so an installed mrt_plugin changes no other
process. But for this: once a configuration with `mrt_*` is made, trainers that would leave them out refuse it.
"""

import gc
import inspect
import sys
from functools import cache, wraps
from importlib import import_module
from importlib.util import find_spec

import trl
from trl import GRPOConfig, TrlParser

from .arguments import MRTArguments
from .settings import check_held_out, find_credit
from .trainer import MRTTrainer
from .upstream.checkpoints import resume_whole_checkpoints
from .upstream.names import build_instead
from .upstream.recipe import RecipeParser
from .upstream.version import FITS_OPEN_R1


def register() -> None:
    """
    Makes TRL's trainer and parser ours in this process, and tells Open-R1 our rewards `mrt_progress`, `mrt_accuracy`
    and `mrt_length_penalty` and our callback `mrt_progress`. Calling it twice does no harm.

    Raises:
        `ImportError`: If Open-R1 lacks what is to be added to; it names that.
        `RuntimeError`: If a recipe has been parsed already, so that its `mrt_*` fields are lost.

    Example:
    ```python
    from mrt_plugin import register

    register()  # anywhere in a script, before it parses its arguments
    ```
    """
    build_instead(trl.GRPOTrainer, MRTTrainer)
    guard_trainers()
    adopt_parsers()
    resume_whole_checkpoints()
    if find_spec("open_r1"):
        try:
            import_module(".open_r1", __package__).add_names()
        except ImportError:
            if FITS_OPEN_R1:
                raise
            # Open-R1 itself cannot be imported beside another trl than its pin; a fork that has moved on can.


@cache
def adopt_parsers() -> None:
    """Makes every `TrlParser` a [`~mrt_plugin.upstream.recipe.RecipeParser`] when it parses, however old it is."""
    made = {type(one) for one in gc.get_objects()} if "--config" in sys.argv else ()
    if any(issubclass(cls, GRPOConfig) and not issubclass(cls, MRTArguments) for cls in made):
        raise RuntimeError(
            "The recipe was parsed before mrt_plugin was registered, and its mrt_* fields were left out. Call "
            "register() above parse_args_and_config(), or run the script by `accelerate launch -m mrt_plugin.run`."
        )
    parse = TrlParser.parse_args_and_config

    @wraps(parse)
    def parse_as_ours(self, *args, **kwargs):
        if isinstance(self, RecipeParser):
            return parse(self, *args, **kwargs)
        cls = type(self)
        self.__class__ = RecipeParser if cls is TrlParser else type(cls.__name__, (cls, RecipeParser), {})
        parsed = RecipeParser.parse_args_and_config(self, *args, **kwargs)
        for arguments in parsed:
            check_held_out(arguments)
        return parsed

    TrlParser.parse_args_and_config = parse_as_ours


@cache
def guard_trainers() -> None:
    """Makes every `GRPOTrainer` that is not ours refuse arguments that ask for what only ours does."""
    init = trl.GRPOTrainer.__init__
    signature = inspect.signature(init)

    @wraps(init)
    def guarded(self, *args, **kwargs):
        if not isinstance(self, MRTTrainer):
            given = signature.bind(self, *args, **kwargs).arguments
            _refuse_mrt(type(self).__name__, given.get("reward_funcs") or [], given.get("args"))
        init(self, *args, **kwargs)

    trl.GRPOTrainer.__init__ = guarded


def _refuse_mrt(trainer: str, reward_funcs, args) -> None:
    mrt = args if isinstance(args, MRTArguments) else MRTArguments()
    credit = find_credit(mrt.mrt_credit, reward_funcs if isinstance(reward_funcs, list) else [reward_funcs])
    if credit.active or mrt.mrt_regret_steps:
        raise ValueError(
            f"{trainer} is no MRTTrainer and would leave out mrt_credit: {credit.name} and mrt_regret_steps: "
            f"{mrt.mrt_regret_steps}. Derive it from mrt_plugin.MRTTrainer; for TRL's own, build that or call "
            "mrt_plugin.register() first."
        )

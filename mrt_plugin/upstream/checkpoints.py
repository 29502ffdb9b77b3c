r"""Which checkpoints of a run are whole.

A trainer of transformers writes the weights, the optimizer, the scheduler, each process its random state, and last
`trainer_state.json`. A run that is killed meanwhile leaves its newest checkpoint cut off, and transformers, which
resumes from the newest whatever it holds, stops there on every later start.

Only the ends of files are looked at, which is quick: tensors that were damaged afterwards are not found.
"""

import json
import logging
import os
import pickletools
import re
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from safetensors import SafetensorError, safe_open
from transformers import Trainer, TrainerState, trainer_utils

from .names import call_instead


logger = logging.getLogger(__name__)

STATE, ARGUMENTS = "trainer_state.json", "training_args.bin"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
ADAPTERS = ("adapter_model.*", "*/adapter_model.*")
RANDOM_STATES = "rng_state*.pth"  # one of each process
SHARDED = ("pytorch_model_fsdp*", "global_step*")  # by FSDP, by DeepSpeed


def resume_whole_checkpoints() -> None:
    """
    Makes `get_last_checkpoint` of transformers give the newest whole checkpoint, whatever name a script has for it,
    and trainers take no step where a checkpoint holds all steps of the run; in the midst of an epoch they take one.
    """
    call_instead(trainer_utils.get_last_checkpoint, lambda theirs, folder: newest_whole(folder))
    call_instead(Trainer.get_batch_samples, _none_after_the_last_step)


def newest_whole(folder: str) -> str | None:
    """
    The newest whole checkpoint in a run's folder, or, rather than none, the newest that lacks no more than random
    states. It says which newer ones are passed over, and why.
    """
    found = [Path(folder, f"checkpoint-{step}") for step in reversed(checkpoints(folder))]
    passed_over = []
    for path in found:
        missing = fault(path)
        if missing is None:
            _say(folder, f"resumes from {path.name}", *passed_over)
            return os.path.join(folder, path.name)
        passed_over.append(f"{path.name} ({missing})")
    for path in found:
        if fault(path, random_states=False) is None:
            _say(folder, f"resumes from {path.name}, though with other random numbers", *passed_over)
            return os.path.join(folder, path.name)
    _say(folder, "starts from the beginning", *passed_over)
    return None


def checkpoints(folder: str | Path) -> list[int]:
    """Steps of the checkpoints in a folder, in order."""
    found = (re.fullmatch(r"checkpoint-(\d+)", path.name) for path in Path(folder).glob("checkpoint-*"))
    return sorted(int(match[1]) for match in found if match)


def fault(checkpoint: str | Path, random_states: bool = True) -> str | None:
    """
    What a trainer would miss in a checkpoint; `None` if it is whole. One without optimizer, scheduler and random
    states is what `save_only_model` leaves, and whole.

    ```python
    >>> fault("runs/no-such-run/checkpoint-10")
    'trainer_state.json is missing'

    ```
    """
    folder = Path(checkpoint)
    checks = [_faults, _faults_of_random_states] if random_states else [_faults]
    return next(chain.from_iterable(check(folder) for check in checks), None)


def holds_model_of(folder: str | Path, checkpoint: str | Path) -> bool:
    """Whether a run has saved its model, whole, since it wrote its last checkpoint."""
    folder, checkpoint = Path(folder), Path(checkpoint)
    if any(chain(_faults_of(folder, ARGUMENTS), _faults_of(folder, STATE), _faults_of_weights(folder))):
        return False
    step, last = (json.loads((path / STATE).read_text())["global_step"] for path in (folder, checkpoint))
    # Of a model, the trainer writes the arguments last.
    return step == last and (folder / ARGUMENTS).stat().st_mtime >= (checkpoint / STATE).stat().st_mtime


def _faults(folder: Path) -> Iterator[str]:
    yield from _faults_of(folder, STATE)
    try:
        TrainerState.load_from_json(str(folder / STATE))
    except TypeError:
        yield f"{STATE} has fields that this transformers does not know"
    yield from _faults_of_weights(folder)

    parts = {"the optimizer": sorted(folder.glob("*optimizer*")), "the scheduler": sorted(folder.glob("scheduler.pt"))}
    if any(folder.glob("global_step*")):  # DeepSpeed's: the optimizer, and often the scheduler
        latest = folder / "latest"  # names the folder, once all processes have saved
        named = latest.read_text().strip() if latest.exists() else ""
        parts["DeepSpeed"] = sorted((folder / named).glob("*.pt")) if named else []
        if not parts["DeepSpeed"]:
            yield "what `latest` names is missing"
    elif any(parts.values()) or any(folder.glob(RANDOM_STATES)):
        yield from (f"{part} is missing" for part, paths in parts.items() if not paths)
    for path in chain(*parts.values(), folder.glob("scaler.pt")):
        yield from _cut_off(path)


def _faults_of_weights(folder: Path) -> Iterator[str]:
    indices = [path for name in WEIGHTS for path in folder.glob(f"{name}.index.json")]
    found = [path for name in (*WEIGHTS, *ADAPTERS, *SHARDED) for path in folder.glob(name)]
    found = [path for path in found if not path.relative_to(folder).parts[0].startswith("checkpoint-")]
    if not indices + found:
        yield "the model is missing"
    for path in (*folder.glob("config.json"), *indices, *found):
        yield from _cut_off(path)
    for index in indices:
        for name in sorted(set(json.loads(index.read_text())["weight_map"].values())):
            yield from _faults_of(folder, name)


def _faults_of(folder: Path, name: str) -> Iterator[str]:
    if (folder / name).exists():
        yield from _cut_off(folder / name)
    else:
        yield f"{name} is missing"


def _cut_off(path: Path) -> Iterator[str]:
    """A line about a file, or a folder of files, that does not end as it should."""
    try:
        if path.is_dir():  # of DeepSpeed, or of torch.distributed, which writes .metadata last
            whole = any(path.iterdir()) and (not any(path.glob("*.distcp")) or (path / ".metadata").exists())
        elif path.suffix == ".json":
            whole = bool(json.loads(path.read_text()))
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt"):
                whole = True
        else:
            with path.open("rb") as file:
                start = file.read(2)
            whole = start == b"\x80\x02"  # torch's older format, DeepSpeed's, does not tell its end
            if start == b"PK":
                ZipFile(path).close()
                whole = True
    except (ValueError, BadZipFile, SafetensorError):
        whole = False
    if not whole:
        yield f"{path.name} is cut off"


def _faults_of_random_states(folder: Path) -> Iterator[str]:
    found = sorted(folder.glob(RANDOM_STATES))
    for path in found:
        yield from _cut_off(path)
    if not found and any(folder.glob("scheduler.pt")):  # else it is of the model alone
        yield "the random state is missing"
    said = _said(folder / ARGUMENTS) if found and not any(_faults_of(folder, ARGUMENTS)) else {}
    processes = said.get("num_processes")
    if isinstance(processes, int) and processes > 1 and not said.get("save_on_each_node"):
        names = [f"rng_state_{process}.pth" for process in range(processes)]
        yield from (f"{name} is missing" for name in names if not (folder / name).exists())


def _said(arguments: Path) -> dict:
    """The numbers and switches in the arguments of a run, by name, read without making any object of theirs."""
    with ZipFile(arguments) as file:
        pickled = file.read(next(name for name in file.namelist() if name.endswith("data.pkl")))
    said, name = {}, None
    for operation, value, _ in pickletools.genops(pickled):
        if "PUT" not in operation.name:
            said.setdefault(name, True if operation.name == "NEWTRUE" else value)
            name = value
    return said


def _none_after_the_last_step(theirs, trainer, *args, **kwargs) -> tuple:
    if trainer.state.global_step < trainer.state.max_steps:
        return theirs(trainer, *args, **kwargs)
    trainer.control.should_training_stop = True
    return [], None


@cache
def _say(folder: str, what: str, *passed_over: str) -> None:
    if passed_over and os.environ.get("RANK", "0") == "0":
        logger.warning("%s: the run %s. Passed over: %s.", folder, what, ", ".join(passed_over))

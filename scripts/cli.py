"""The ``fdif`` command: finds the subcommand, reads its options, reports errors in one line."""

import contextlib
import errno
import functools
import importlib
import keyword
import logging
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import absl.logging
import tyro

from fdif_jax.errors import FdifError, unknown
from fdif_jax.scripts.console.compilation import keep_compiled_programs, leave_out_searches
from fdif_jax.scripts.console.memory import keep_memory
from fdif_jax.scripts.console.progress import show_as
from fdif_jax.scripts.console.surroundings import find_home, no_device, prepare_streams
from fdif_jax.training.processes import leave_others, lost_process

COMMANDS = {
    "generate": "write a labelled synthetic dataset (MONAI or nnU-Net layout)",
    "render": "render saved scene documents to NIfTI",
    "like": "make a recipe whose scenes are like scans of your own",
    "bank": "turn label maps into a bank of organs for recipes of anatomy, or list one",
    "pretrain": "pre-train a network on scenes drawn inside the jitted step",
    "runs": "list training runs side by side, and plot their curves",
    "export": "write a run's weights for PyTorch, or a fine-tuned network whole for other programs",
    "weights": "list released weights, or write some for PyTorch, MONAI or nnU-Net",
    "import": "make a run directory of a PyTorch checkpoint (MONAI, nnU-Net, nnssl)",
    "finetune": "fine-tune on a labelled dataset and report Dice",
    "predict": "label new scans with a fine-tuned network, or an ensemble",
    "evaluate": "score predicted label maps: Dice, NSD, HD95 of every case and class",
    "experiment": "few-shot study: initialisations x labelled cases x seeds, with table and plots",
    "check": "check a file of shapes of one's own, with a picture of each family",
    "view": "look at a shape, a scene or a case: lit picture, slices, a page to turn it",
    "gallery": "write a page of all classes, displacements and mappers",
    "browse": "scroll through a dataset in a web browser",
    "fit": "fit a shape of one's own to a mask",
    "fit-family": "learn a family of shapes from masks, as a Python file",
    "doctor": "say what is installed and missing here, and test that it works",
    "completion": "print a script by which bash or zsh complete commands and options",
    "bench": "measure the renderer, a training step, networks beside PyTorch's, or reliability",
}

_TRAINING = (["pretrain"], ["finetune"], ["bench", "training"])  # commands that train, as they begin
_FULL = (errno.ENOSPC, errno.EROFS, errno.EDQUOT)  # errors of writing that often come without a file's name

_HELP = """usage: fdif COMMAND [OPTIONS]

Formula-driven pre-training for 3D segmentation.

commands:
{}

`fdif COMMAND --help` lists a command's options and shows an example."""


def module_of(command: str) -> ModuleType:
    """The module of a command: a dash is an underscore there, and one follows a name that Python keeps for itself."""
    name = command.replace("-", "_") + "_" * keyword.iskeyword(command)
    return importlib.import_module(f"fdif_jax.scripts.{name}")


def run(command: str, arguments: Sequence[str] | None = None) -> None:
    """Parse ``arguments`` for one command and run it; leaves the process on bad input (status 2)."""
    prepare_streams()
    to = "output"
    try:
        find_home()
        module = module_of(command)
        config = parsed(command, module, sys.argv[1:] if arguments is None else arguments)
        to = getattr(config, "out", to)  # what is said to be full where the error has no name
        if isinstance(to, Path):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                to.stat()  # no name may be too long, or a link to itself
        show_as(getattr(config, "progress", "auto"))
        leave_out_searches()
        keep_compiled_programs()
        absl.logging.set_verbosity(absl.logging.FATAL)  # the checkpoint library's remarks to developers
        _hush_background()
        module.run(config)
    except FdifError as error:
        _fail(command, str(error))
    except OSError as error:
        _fail(command, _of_system(error, to))
    except MemoryError as error:
        _fail(command, f"too little memory: {error}")
    except KeyboardInterrupt:
        print(f"fdif {command}: interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except (RuntimeError, AssertionError) as error:
        if (told := lost_process(error) or no_device(error)) is None:
            raise
        _fail(command, told)


def _of_system(error: OSError, to: Any) -> str:
    """What the system refused, and of which file; a full disk's error may have no name but ``to``."""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return f"cannot write {error.filename or to}: {reason}"
    return reason if error.filename is None else f"{error.filename}: {reason}"


def parsed(command: str, module: ModuleType, arguments: Sequence[str]) -> Any:
    """The options of a command; it may take the defaults of some from what else is asked for."""
    own = module.defaults(arguments) if hasattr(module, "defaults") else None
    given = {} if own is None else {"default": own}
    return tyro.cli(
        module.Config, prog=f"fdif {command}", args=arguments, description=module.__doc__, **given
    )


@functools.cache  # once a process: hooks would be laid on hooks
def _hush_background() -> None:
    """Keep what writes in the background from printing tracebacks beside the one line that tells what is wrong.

    Where nothing can be written the main thread meets the same, and says so.
    """
    unraisable = sys.unraisablehook
    # Of TensorStore, which writes the checkpoints: errors of the system, and calls to a loop that ended with them.
    known = ("os_error_code", "Event loop is closed")

    def is_told(failure: Any) -> bool:
        return isinstance(failure.exc_value, OSError) or any(text in str(failure.exc_value) for text in known)

    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    threading.excepthook = lambda failure: None if is_told(failure) else threading.__excepthook__(failure)
    sys.unraisablehook = lambda failure: None if is_told(failure) else unraisable(failure)


def _fail(command: str, message: str) -> NoReturn:
    print(f"fdif {command}: error: {' '.join(message.split())}", file=sys.stderr)
    leave_others(2)
    sys.exit(2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``fdif`` console command, to which the process belongs.

    ``arguments`` are the subcommand and its options; those of the process if not given.
    """
    prepare_streams()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP.format("\n".join(f"  {name:<12}{summary}" for name, summary in COMMANDS.items())))
        return
    command = arguments[0]
    if command not in COMMANDS:
        print(f"fdif: error: {unknown('command', command, COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    if any(arguments[: len(words)] == words for words in _TRAINING):
        keep_memory()
    run(command, arguments[1:])

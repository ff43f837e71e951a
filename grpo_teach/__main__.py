"""The command line: ``python -m grpo_teach {demo,compare,train,evaluate,preflight,memory,merge,…}``."""

from __future__ import annotations

import argparse
import json
import sys

import torch
import transformers

from grpo_teach.commands import doctor, memory, stages, studies, training
from grpo_teach.commands.flags import seed, task_flags
from grpo_teach.errors import InputError, TrainingDiverged

FINISHED, DIVERGED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


class Parser(argparse.ArgumentParser):
    """Bad input ends with one line, not with the whole usage."""

    def error(self, message: str):
        self.exit(BAD_INPUT, f"error: {message} (see {self.prog} --help)\n")


def parser() -> Parser:
    main = Parser(prog="python -m grpo_teach", description=__doc__.split("\n")[0])
    commands = main.add_subparsers(dest="command", required=True, parser_class=Parser)

    Defaults = argparse.ArgumentDefaultsHelpFormatter

    def command(name: str, text: str, run, policy: bool = True) -> Parser:
        sub = commands.add_parser(name, help=text, description=text, formatter_class=Defaults)
        sub.set_defaults(run=run)
        sub.add_argument("--seed", type=seed, default=0, help="of everything random")
        sub.add_argument("--json", action="store_true", help="end with one line of JSON on standard output")
        sub.add_argument("--quiet", action="store_true", help="no progress bars")
        if policy:
            task_flags(sub)
        return sub

    for family in (studies, training, doctor, stages, memory):
        family.add(command)
    return main


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.quiet:
        transformers.utils.logging.disable_progress_bar()
    try:
        result = args.run(args)
    except (InputError, OSError) as error:  # a disk that is full, say
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except TrainingDiverged as error:
        print(f"stopped: {error}", file=sys.stderr)
        return DIVERGED
    except torch.cuda.OutOfMemoryError:
        print("error: the GPU's memory is full: ask for fewer rows a pass, prompts or new tokens", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        held = "resume" in args and any(args.out.rglob("checkpoint.pt"))
        goes_on = "; --resume goes on from the last checkpoint" if held else ""
        print(f"interrupted{goes_on}", file=sys.stderr)
        return INTERRUPTED
    if args.json:
        print(json.dumps(result))
    return FINISHED


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # some consoles cannot write a dash
    sys.exit(main())

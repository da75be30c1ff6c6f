"""Makes a grid of what other tools search: a W&B sweep file, a Hyperopt space or a Ray Tune space.

    python -m harness.convert sweep.yaml -o grids/sweep.toml        # W&B, YAML or JSON
    python -m harness.convert space.py --job mine.train:run --metrics loss,score

Nothing of the file is run or imported. What has no counterpart in a grid, and what has only nearly one, is listed and stands in the
grid's first lines; nothing is left out silently. What the grid's own checks refuse counts as not mapped too, with their words.
"""

import argparse
import ast
import re
import stat
import sys
import textwrap
from pathlib import Path

from harness import command
from harness.converters import Parameter, Sweep, Unmapped, hyperopt_ray, wandb
from harness.converters.fit import Conversion, Entry, short, toml
from harness.converters.literal import Source
from harness.errors import GridError, UsageError, printable
from harness.files import replace
from harness.grid import parse_grid
from harness.grid_draft import text_of
from jobs.config import STUDY_NAME, Value

LARGEST_FILE = 256_000
"""Bytes; a sweep has a few thousand, and PyYAML takes seconds for more."""
TRIALS = 32
"""Of a search whose file does not say how many."""


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = command.Parser(prog="python -m harness.convert", description="Make a grid of a W&B sweep file (YAML or JSON), or of a "
                             "Hyperopt or Ray Tune space in a Python file. Nothing of the file is run.", epilog=(
        "exit status: 0 there is a grid, and the list says what of the file is not in it; 2 there is none, and why"))
    options.add_argument("file", type=Path, metavar="FILE", help="a sweep: .yaml, .yml or .json; anything else is read as Python")
    options.add_argument("-o", "--out", type=Path, metavar="GRID", help="the grid to write (default: standard output)")
    options.add_argument("--force", action="store_true", help="let it replace a file that is there")
    options.add_argument("--job", default="", metavar="MODULE:FUNCTION",
                         help="a training function of your own, whose parameters keep their names (default: the built-in training)")
    options.add_argument("--metrics", default="", metavar="A,B", help="with --job: the numbers that it reports")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return command.run(lambda: _main(parser().parse_args(arguments)))


def _main(options: argparse.Namespace) -> int:
    metrics = [name for part in options.metrics.split(",") if (name := part.strip())]
    if bool(options.job) != bool(metrics):
        raise UsageError("--job MODULE:FUNCTION and --metrics A,B belong together: a grid says what its own job reports")
    if options.out is not None and not options.force and options.out.exists():
        raise UsageError(f"{options.out} is there already; choose another name, or --force to replace it")
    name = str(options.file)
    conversion = Conversion(read_sweep(_read_text(options.file), name), job=options.job, metrics=metrics)
    grid = Draft(conversion, source=options.file, out=options.out or Path(f"{options.file.stem}.toml")).text()
    listed = "\n".join(conversion.report.lines())
    if options.out is None:
        print(grid, end="")
        print(listed, file=sys.stderr)
        return 0
    try:
        replace(options.out, grid.encode(), step="convert")
    except OSError as error:
        raise UsageError(f"{options.out} cannot be written: {error.strerror or error}; name another place with -o") from error
    print(f"wrote {options.out}; python -m harness.launch {options.out} --dry-run shows what it means" + (f"\n{listed}" if listed else ""))
    return 0


# ------------------------------------------------------------------------------------------------------------------------ reading


def _read_text(path: Path) -> str:
    """The text of a regular UTF-8 file of reasonable size."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"{path}: a sweep is a regular file; name one")
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > LARGEST_FILE:
        raise UsageError(f"{path}: larger than {LARGEST_FILE // 1000} kB; keep only the search space in it")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}: not UTF-8 (byte 0x{data[error.start]:02x} on line {line}); save it as UTF-8") from error


def read_sweep(text: str, name: str) -> Sweep:
    """The search that a file's text describes.

    Args:
        name: of the file; its ending says what it is: .yaml, .yml, .json, or Python with any other.

    Raises:
        UsageError: it describes none, or in a way that cannot be read.
    """
    ending = Path(name).suffix.lower()
    if ending in (".yaml", ".yml"):
        return wandb.convert(wandb.read_yaml(text, name), name)
    if ending == ".json":
        return wandb.convert(wandb.read_json(text, name), name)
    source = Source(text, name)
    sweeps = [node for node in ast.walk(source.tree) if isinstance(node, ast.Dict) and {"method", "parameters"} <= {
        key.value for key in node.keys if isinstance(key, ast.Constant)}]
    if len(sweeps) == 1:
        return wandb.convert(source.read(sweeps[0]), name)
    return hyperopt_ray.convert(source)


# ------------------------------------------------------------------------------------------------------------------------ writing


class Draft:
    """The text of a grid, made from a conversion until the grid's own checks accept it."""

    def __init__(self, conversion: Conversion, *, source: Path, out: Path):
        self.conversion, self.source, self.out = conversion, source, out
        self.sweep, self.report = conversion.sweep, conversion.report
        self._halving: Entry | None = None
        self._lines: list[tuple[str, tuple[Entry, ...]]] = []
        """Lines of the grid, and what is to blame for a mistake in one."""
        self._study = self._study_lines()
        self._add_rungs()

    def text(self) -> str:
        """The grid.

        Raises:
            UsageError: nothing of the file can be mapped, or the grid is refused for something else than a parameter.
        """
        while True:
            if not self.conversion.entries:
                listed = "\n".join(self.report.lines())
                raise UsageError(f"{self.source}: nothing of it is a parameter of the built-in training; --job RUN --metrics A,B "
                                 f"makes a grid for a function of your own\n{listed}")
            body = self._body()
            header = self._header()
            text = "\n".join([*header, *(line for line, _ in body)]) + "\n"
            try:
                parse_grid(text, name=str(self.out))
                return text
            except GridError as error:
                blamed = {entry: problem.message for problem in error.problems if problem.line > len(header)
                          for entry in body[problem.line - 1 - len(header)][1]}
                if not blamed:
                    raise UsageError(f"{self.source}: no grid can be made of it: {error}") from error
            for entry, message in blamed.items():
                self._halving = None if entry is self._halving else self._halving
                self.conversion.drop(entry, message)

    def _study_lines(self) -> list[str]:
        """[study] and [job]."""
        word = re.sub(r"[^a-z0-9_-]+", "_", (self.sweep.name or self.source.stem).lower()).strip("_-")[:64]
        name = word if STUDY_NAME.fullmatch(word) else "converted"
        metric, mode = self._metric()
        seeds = self.conversion.seeds
        if self.sweep.repeats > 1 and not seeds:
            seeds = list(range(self.sweep.repeats))
            self.report.approximate.append(f"num_samples = {self.sweep.repeats}: as many seeds instead of repetitions of the grid")
        lines = ["[study]", f"name = {toml(name)}", f"metric = {toml(metric)}"]
        lines += [f"mode = {toml(mode)}"] if mode else []
        lines += [f"seeds = {seeds}"] if seeds else []
        if self.conversion.job:
            lines += ["", "[job]", f"run = {toml(self.conversion.job)}", f"metrics = [{', '.join(map(toml, self.conversion.metrics))}]"]
        return lines

    def _metric(self) -> tuple[str, str]:
        """The study's metric and mode for what the file calls its metric."""
        named, mode, metrics = self.sweep.metric, self.sweep.mode, self.conversion.metrics
        if metrics:
            columns = [re.sub(r"\W+", "_", word, flags=re.ASCII) for word in (named, named.rpartition("/")[2])]
            found = next((column for column in columns if column in metrics), metrics[0])
            if found != named:
                missed = f"; {named} is not among the metrics" if named and found not in columns else ""
                self.report.chosen.append(f"metric = {found}{missed}")
            return found, mode
        if not named:
            self.report.chosen.append("metric = val_acc: the file names none")
            return "val_acc", mode if mode == "max" else ""
        words = set(re.split(r"[^a-z0-9]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", named).lower()))
        loss, error = words & {"loss", "nll", "ce"}, words & {"err", "error"}
        metric = "val_loss" if loss else "val_acc"
        if not loss and not error and not words & {"acc", "accuracy", "top1", "valacc"}:
            self.report.lost.append(f"metric {named}; the built-in training reports val_acc and val_loss")
            return metric, ""
        if words & {"train", "training", "test"}:
            self.report.approximate.append(f"metric: {metric} for {named}; a study decides on the validation split only")
        elif error:
            self.report.approximate.append(f"metric: val_acc, more is better, for {named}")
        elif named != metric:
            self.report.renamed.append(f"{named} -> {metric}")
        return metric, {"max": "min", "min": "max"}.get(mode, "") if error and not loss else mode

    def _add_rungs(self) -> None:
        """[search.halving], and the epochs that only the stopping rule names."""
        entries, epochs = self.conversion.entries, self.sweep.epochs
        if self.sweep.halving:
            first, factor = self.sweep.halving
            self._halving = _own_entry("search.halving", "early stopping", f"first = {first}\nfactor = {factor}")
            self._halving.told = [f"early stopping: {note}" for note in self.sweep.rung_notes]
            self.report.approximate += self._halving.told
        if epochs is None:
            return
        if self.conversion.job or any(entry.name == "epochs" for entry in entries):
            self.report.lost.append(f"max_t = {epochs}; the parameters say when a trial is over")
            return
        entries.append(_own_entry("fixed", "epochs", str(epochs)))
        self.report.approximate.append(f"epochs: {epochs}, from max_t of the stopping rule")

    def _body(self) -> list[tuple[str, tuple[Entry, ...]]]:
        """The sections, line by line, each with the entries that are to blame for mistakes in it."""
        lines: list[tuple[str, tuple[Entry, ...]]] = [(line, ()) for line in self._study]
        tables: dict[str, list[Entry]] = {}
        order = {"fixed": 0, "compare": 1, "tune": 2}
        for entry in sorted(self.conversion.entries, key=lambda e: (order[e.section], len(e.when))):
            header = entry.section + "".join(f".when.{name}.{_key(value)}" for name, value in entry.when)
            tables.setdefault(header, []).append(entry)
        for header, entries in tables.items():
            lines += [("", ()), (f"[{header}]", tuple(entries))]
            lines += [(f"{entry.name} = {entry.literal}", (entry,)) for entry in entries]
        if any(entry.section == "tune" for entry in self.conversion.entries):
            lines += self._search_lines()
        else:
            self._no_search()
        return lines

    def _search_lines(self) -> list[tuple[str, tuple[Entry, ...]]]:
        """[search] and [search.halving]."""
        if self.sweep.trials is None:
            self.report.chosen.append(f"trials = {TRIALS}: the file does not say how many")
            self.sweep.trials = TRIALS
        lines: list[tuple[str, tuple[Entry, ...]]] = [("", ()), ("[search]", ()), (f"trials = {self.sweep.trials}", ())]
        lines += [(f"algorithm = {toml(self.sweep.algorithm)}", ())] if self.sweep.algorithm else []
        if self._halving is not None:
            owner = (self._halving,)
            lines += [("", ()), ("[search.halving]", owner), *((line, owner) for line in self._halving.literal.split("\n"))]
        return lines

    def _no_search(self) -> None:
        """What belongs to a search is not mapped in a grid without one."""
        why = "nothing is tuned, so there is no search"
        if self.sweep.trials is not None:
            self.report.lost.append(f"{self.sweep.trials} trials; {why}")
        if self._halving is not None:
            self.conversion.drop(self._halving, why)
        self.sweep.trials, self._halving = None, None

    def _header(self) -> list[str]:
        """The comment at the top: question, command, source, and what the conversion could not keep."""
        names = list(dict.fromkeys(e.name for e in self.conversion.entries if e.section != "fixed"))
        question = short(self.sweep.question) or f"Which {', '.join(names[:12]) or 'values'}{', …' if len(names) > 12 else ''}?"
        out, source = printable(str(self.out)), printable(self.source.name)
        lines = [*textwrap.wrap(question, 136), "", f"command   python -m harness.launch {out}",
                 f"source    {source}, a {self.sweep.tool}, made a grid by python -m harness.convert"]
        if listed := self.report.lines():
            lines += ["", *(part for line in listed for part in textwrap.wrap(line, 136, subsequent_indent="    ", break_on_hyphens=False))]
        return [*(f"# {line}".rstrip() for line in lines), ""]


def _own_entry(section: str, name: str, literal: str) -> Entry:
    """A line of the grid that no parameter of the file made."""
    return Entry(section, name, literal, Parameter(name=name, domain=Unmapped(""), spec=literal))


def _key(value: Value) -> str:
    text = text_of(value)
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else toml(text)


if __name__ == "__main__":
    sys.exit(main())

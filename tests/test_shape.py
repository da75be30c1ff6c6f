"""The repository's shape: which way imports point, what a quick command may load, what may never be called, how long things may get, and
that the README names what there is."""

import ast
import importlib
import json
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import grid_tables

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("jobs", "harness", "analysis")
FILES = sorted(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))
LONGEST_FILE, LONGEST_FUNCTION = 450, 70
HEAVY = ("torch", "torchvision", "nevergrad", "matplotlib", "pandas", "pyarrow", "sklearn", "scipy", "submitit")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}
TREES = {name: ast.parse(path.read_text(encoding="utf-8"), str(path)) for name, path in MODULES.items()}


def imports(nodes: "Iterator[ast.AST]") -> set[str]:
    """What the import statements among `nodes` name, modules of ours in full: `from jobs import data` gives jobs and jobs.data."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names if f"{node.module}.{alias.name}" in MODULES)}
    return found


def at_module_level(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a module is imported: no function's body, and nothing under `if TYPE_CHECKING` or `if __name__ == ...`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'"):
            continue
        yield node
        yield from at_module_level(node)


# ------------------------------------------------------------------------------------------------------------------ imports


FORBIDDEN = {
    "jobs": ("harness", "analysis", "nevergrad", "submitit", "pandas", "pyarrow", "matplotlib"),
    "harness": ("analysis", "matplotlib"),
    "analysis": ("torch", "torchvision", "submitit", "nevergrad", "harness", "jobs"),
}


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way(name: str) -> None:
    """jobs <- harness <- analysis (which reads tables, and no code of the others); imports inside functions count too."""
    wrong = {i for i in imports(ast.walk(TREES[name])) if i.split(".")[0] in FORBIDDEN[name.split(".")[0]]}
    assert not wrong, f"{name} imports {wrong}"


def test_no_cycles() -> None:
    """No module needs, while it is being imported, one that needs it."""
    needs = {name: {i for i in imports(at_module_level(tree)) if i in MODULES} - {name} for name, tree in TREES.items()}
    left = dict(needs)
    while ready := [name for name, wanted in left.items() if not wanted & left.keys()]:
        for name in ready:
            del left[name]
    assert not left, f"in or behind a cycle: { {name: sorted(wanted & left.keys()) for name, wanted in left.items()} }"


# -------------------------------------------------------------------------------------------------- what quick commands load


def run_and_list_modules(module: str, arguments: list[str], cwd: Path = ROOT) -> tuple[int, str, set[str]]:
    """`python -m module arguments` in a child: its status, what it printed, and the top-level packages it had loaded at the end."""
    code = textwrap.dedent(f"""
        import atexit, json, runpy, sys
        atexit.register(lambda: print("\\nLOADED" + json.dumps(sorted({{m.partition(".")[0] for m in sys.modules}}))))
        sys.argv = ["x", *{arguments!r}]
        runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
    """)
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    text, _, loaded = done.stdout.rpartition("\nLOADED")
    assert loaded, done.stderr
    return done.returncode, text + done.stderr, set(json.loads(loaded))


@pytest.mark.parametrize("module", ["harness.launch", "harness.stage", "harness.status", "harness.why", "harness.logs", "harness.cancel",
                                    "harness.convert", "analysis.plots", "analysis.report", "analysis.export", "jobs.train"])
def test_help_is_quick(module: str) -> None:
    status, text, loaded = run_and_list_modules(module, ["--help"])
    assert status == 0 and "usage:" in text
    assert not loaded & {*HEAVY, "numpy", "rich"}


def test_grid_errors_are_quick(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text('[study]\nname = "bad"\n[fixed]\nlrr = 1\n')
    status, text, loaded = run_and_list_modules("harness.launch", [str(tmp_path / "bad.toml"), "--local"])
    assert status == 2 and "did you mean `lr`" in text
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize("grid", sorted(path.name for path in (ROOT / "grids").glob("*.toml")))
def test_dry_runs_are_quick(grid: str, tmp_path: Path) -> None:
    status, text, loaded = run_and_list_modules("harness.launch", ["--dry-run", f"grids/{grid}", "--study-dir", str(tmp_path / "study")])
    assert status == 0 and "Nothing was submitted" in text, text
    assert not loaded & {"torch", "torchvision", "nevergrad", "matplotlib", "pandas"}


# ---------------------------------------------------------------------------------------------------- what may not be called


ALLOWED_CALLS = {
    # (module, what): why
    ("jobs.datasets", "pickle.Unpickler"): "CIFAR's files are pickles; this subclass refuses every name but numpy's arrays",
}
UNSAFE = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads", "pickle.Unpickler",
          "cloudpickle.load", "cloudpickle.loads", "marshal.loads", "joblib.load", "numpy.fromfile"}


def dotted(node: ast.AST) -> str:
    """`torch.load` of an expression that is only names and dots; "" of any other."""
    return ast.unparse(node) if isinstance(node, ast.Name) or isinstance(node, ast.Attribute) and dotted(node.value) else ""


@pytest.mark.parametrize("name", MODULES)
def test_nothing_unsafe_is_called(name: str) -> None:
    """No code from data: neither eval, exec nor pickles, no shell, and torch.load only with weights_only=True."""
    tree, wrong = TREES[name], []
    named = {f"{node.module}.{alias.name}" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    wrong += sorted((named & UNSAFE) | {n for n in named if n in ("torch.load", "numpy.load")})
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.Attribute)) and dotted(node) in UNSAFE and (name, dotted(node)) not in ALLOWED_CALLS:
            wrong.append(f"line {node.lineno}: {dotted(node)}")
        if not isinstance(node, ast.Call):
            continue
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if keywords.get("shell", "False") != "False" or keywords.get("allow_pickle", "False") != "False":
            wrong.append(f"line {node.lineno}: {ast.unparse(node)}")
        if dotted(node.func) == "torch.load" and keywords.get("weights_only") != "True":
            wrong.append(f"line {node.lineno}: torch.load without weights_only=True")
    assert not wrong, f"{name}: {wrong}"


def test_the_allow_list_is_needed() -> None:
    for (name, call), why in ALLOWED_CALLS.items():
        assert why and call in MODULES[name].read_text(encoding="utf-8"), f"{name} no longer calls {call}"


def test_only_staging_downloads() -> None:
    """Network clients are imported by harness.stage alone, and torchvision is asked to download by the data sets' `fetch` alone."""
    clients = ("urllib.request", "http.client", "requests", "httpx", "aiohttp", "ftplib", "torch.hub", "torchvision.datasets.utils")
    for name, tree in TREES.items():
        found = {i for i in imports(ast.walk(tree)) if i.startswith(clients)}
        found |= {dotted(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute) and dotted(node).startswith("torch.hub")}
        assert not found or name == "harness.stage", f"{name} imports {found}"
        downloads = {node.lineno for node in ast.walk(tree) if isinstance(node, ast.Call) for k in node.keywords
                     if k.arg == "download" and ast.unparse(k.value) != "False"}
        assert not downloads or name == "jobs.datasets", f"{name} downloads on line {downloads}"


# ------------------------------------------------------------------------------------------------------------------ lengths


def test_nothing_is_too_long() -> None:
    long = []
    for name, path in MODULES.items():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        long += [f"{name}: {lines} lines"] if lines > LONGEST_FILE else []
        for node in ast.walk(TREES[name]):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None:
                length = node.end_lineno - node.lineno + 1
                long += [f"{name}.{node.name}: {length} lines"] if length > LONGEST_FUNCTION else []
    assert not long


# ----------------------------------------------------------------------------------------------------------- documentation


def readme() -> str:
    path = ROOT / "README.md"
    assert path.is_file(), "there is no README.md"
    return path.read_text(encoding="utf-8")


def documentation() -> str:
    """README.md and everything in docs/."""
    return "\n".join([readme(), *(p.read_text(encoding="utf-8") for p in sorted((ROOT / "docs").rglob("*.md")))])


def annotated_tree() -> dict[str, str]:
    """The README's tree: path -> what it is said to be. A fenced block whose first line is `.`, two spaces of indent for each level."""
    blocks = [block for block in re.findall(r"^```\w*\n(.*?)^```", readme(), re.MULTILINE | re.DOTALL) if block.startswith(".\n")]
    assert len(blocks) == 1, "README.md has one fenced block whose first line is a dot: the annotated tree"
    found: dict[str, str] = {}
    folders: list[str] = []
    for line in blocks[0].splitlines()[1:]:
        match = re.fullmatch(r"((?:  )*)(\S+)(?:\s+(.*\S))?\s*", line)
        assert match, f"not a line of a tree: {line!r}"
        level = len(match[1]) // 2
        assert level <= len(folders), f"indented too far: {line!r}"
        folders[level:] = []
        path = "".join(folders) + match[2]
        assert path not in found, f"{path} is named twice"
        found[path] = match[3] or ""
        if match[2].endswith("/"):
            folders.append(match[2])
    return found


def repository_files() -> list[str]:
    """Files that git tracks or would track; in a copy without .git, those that are not hidden, built or results of a run."""
    if shutil.which("git"):
        git = ["git", "-C", str(ROOT)]
        top = subprocess.run([*git, "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=False)
        if top.returncode == 0 and Path(top.stdout.rstrip("\n")).resolve() == ROOT:
            listed = subprocess.run([*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                                    capture_output=True, text=True, check=True).stdout
            return [name for name in listed.split("\0") if name and (ROOT / name).exists()]
    ignored = {line.strip().rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    paths = (p.relative_to(ROOT) for p in ROOT.rglob("*") if p.is_file())
    return [p.as_posix() for p in paths if not any(part in ignored or part.endswith(".egg-info") for part in p.parts)]


def test_readme_names_every_folder_and_module() -> None:
    files = [name for name in repository_files() if not name.startswith(".")]
    folders = {name.split("/")[0] + "/" for name in files if "/" in name}
    modules = {name for name in files if name.split("/")[0] in FLOORS and name.endswith(".py") and not name.endswith("__init__.py")}
    tree = annotated_tree()
    assert {path for path in tree if path.count("/") == 1 and path.endswith("/") and not path.startswith(".")} == folders
    named = {path for path in tree if path.split("/")[0] in FLOORS and path.endswith(".py") and not path.endswith("__init__.py")}
    assert named == modules
    assert not (gone := [path for path in tree if not (ROOT / path).exists()]), f"the README names {gone}, which are not there"
    assert not (bare := [path for path, text in tree.items() if not text]), f"the README does not say what {bare} are"


COMMANDS = ("harness.launch", "harness.stage", "harness.status", "harness.why", "harness.logs", "harness.cancel", "harness.convert",
            "analysis.plots", "analysis.report", "analysis.export", "jobs.train", "jobs.models")


@pytest.mark.parametrize("module", COMMANDS)
def test_every_option_is_documented(module: str) -> None:
    status, shown, _ = run_and_list_modules(module, ["--help"])
    assert status == 0, shown
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", shown)) - {"--help"}
    text = documentation()
    assert f"python -m {module}" in text
    missing = sorted(option for option in options if not re.search(rf"(?<![\w-]){option}(?![\w-])", text))
    assert not missing, f"{module}: {missing} are in neither README.md nor docs/"


@pytest.mark.parametrize("heading", grid_tables.tables())
def test_every_grid_key_is_documented_as_it_is(heading: str) -> None:
    """Key, default and text of docs/grid.md are those of the code, row by row; `python -m tests.grid_tables --write` mends them."""
    there = grid_tables.tables_of(grid_tables.DOCS.read_text(encoding="utf-8"))
    assert heading in there, f"{grid_tables.DOCS.name} has no table under {heading}"
    assert there[heading] == grid_tables.tables()[heading]


def test_the_tables_of_the_grid_leave_nothing_out() -> None:
    sections = importlib.import_module("harness.grid").SECTIONS
    text = grid_tables.DOCS.read_text(encoding="utf-8")
    assert set(grid_tables.tables_of(text)) == set(grid_tables.tables()) and grid_tables.with_tables(text) == text
    for section, keys in sections.items():
        assert re.search(rf"`?\[{re.escape(section)}[].]", text), f"{grid_tables.DOCS.name} does not name [{section}]"
        tabled = "\n".join(grid_tables.tables().get("## Parameters" if section == "fixed" else f"### `[{section}]`", []))
        missing = [key for key in keys if f"| `{key}` |" not in tabled and section not in ("variant", "tune", "require")]
        assert not missing, f"[{section}] {missing}"
    for key in (*sections["variant"], *sections["tune"], *sections["require"]):  # told in prose and examples
        assert re.search(rf"(`|^){key}( +=|`)", text, re.MULTILINE), f"{grid_tables.DOCS.name} does not tell `{key}`"


# --------------------------------------------------------------------------------------------------------------- packaging


def test_requirements_are_exact_and_name_no_index() -> None:
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9._-]+==[^ ;]+( ; .+)?", line) for line in lines), "exact pins, neither addresses nor paths"
    pinned = {line.partition("==")[0] for line in lines}
    required = (ROOT / "setup.cfg").read_text().partition("install_requires")[2].partition("[options.package_data]")[0]
    wanted = re.findall(r"^    ([a-z][a-z0-9_-]*)>=", required, re.MULTILINE)
    assert wanted and set(wanted) <= pinned, f"not pinned: {set(wanted) - pinned}"


def test_every_figure_is_on_the_page_of_figures() -> None:
    """By its name, with its module's name being that too; and in the order of the code."""
    figures = importlib.import_module("analysis.plots").FIGURES
    named = re.findall(r"^\| `(\w+)` \| [^|]* \| [^`|]*(?:`\[[^|]*`[^|]*)?\|$", (ROOT / "docs" / "figures.md").read_text(), re.MULTILINE)
    assert tuple(named) == figures
    assert all(name == importlib.import_module(f"analysis.figures.{name}").NAME for name in figures)

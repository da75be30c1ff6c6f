"""Site profiles: where they are found, who may write them, and that nothing in them reaches a shell but the lines that are meant to."""

import dataclasses
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from harness import profile as profiles_module
from harness.errors import GridError, HarnessError, UsageError
from harness.profile import (
    REPOSITORY_PROFILES,
    SBATCH_OPTIONS,
    LauncherJob,
    Profile,
    parse_profile,
    preamble,
    profiles,
    read_profile,
)


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty configuration folder of the user's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "config" / "harness"
    (folder / "profiles").mkdir(parents=True)
    return folder


def toml(text: str) -> str:
    """A TOML string; JSON's escapes are TOML's too."""
    return json.dumps(text, ensure_ascii=True)


def messages(text: str) -> list[tuple[int, int, str]]:
    """(line, column, message) of every mistake in a profile."""
    with pytest.raises(GridError) as caught:
        parse_profile(text, file="p.toml")
    return [(p.line, p.column, p.message) for p in caught.value.problems]


# ---------------------------------------------------------------------------------------------------------------- what is read


def test_a_profile_is_read_whole() -> None:
    found = parse_profile("""
partition = "gpu,long"
constraint = "[rack1*2&a100]"
setup = ["module load cuda", "export X='a b'"]
signal_s = 30
[launcher]
time_min = 60
[sbatch]
nice = 10
exclusive = true
mail-type = "FAIL"
""", file="/somewhere/site.toml")
    assert found == Profile(name="site", file="/somewhere/site.toml", partition="gpu,long", constraint="[rack1*2&a100]", signal_s=30,
                            setup=("module load cuda", "export X='a b'"), launcher=LauncherJob(time_min=60),
                            sbatch={"nice": 10, "exclusive": True, "mail-type": "FAIL"})
    assert (found.poll_s, found.max_jobs, found.launcher.mem_gb, found.launcher.cpus) == (30, 0, 4, 1)


def test_the_example_has_every_key_and_explains_it() -> None:
    text = (REPOSITORY_PROFILES / "example.toml").read_text()
    found = read_profile("example")
    given = {f.name for f in dataclasses.fields(Profile)} - {"name", "file", "launcher", "sbatch"}
    for key in given:
        assert re.search(rf"^{key} *=", text.partition("\n[")[0], re.MULTILINE), f"example.toml leaves out {key}"
    launcher = text.partition("\n[launcher]")[2].partition("\n[")[0]
    for key in (f.name for f in dataclasses.fields(LauncherJob)):
        assert re.search(rf"^{key} *=", launcher, re.MULTILINE), f"example.toml leaves out {key} in [launcher]"
    assert list(found.sbatch) == list(SBATCH_OPTIONS)


@pytest.mark.parametrize("name", sorted(path.stem for path in REPOSITORY_PROFILES.glob("*.toml")))
def test_every_profile_of_the_repository_is_valid(name: str) -> None:
    assert read_profile(name).name == name


def test_the_devcluster_answers_at_once() -> None:
    file = str(REPOSITORY_PROFILES / "devcluster.toml")
    assert read_profile("devcluster") == Profile(name="devcluster", file=file, partition="main", signal_s=10, poll_s=1)


# ----------------------------------------------------------------------------------------------------------------- where it is


def test_without_a_name_the_site_decides(config: Path) -> None:
    assert read_profile(None) == Profile()
    (config / "config.toml").write_text('profile = "mine"\n')
    (config / "profiles" / "mine.toml").write_text('account = "a1"\n')
    assert read_profile(None) == Profile(name="mine", file=str(config / "profiles" / "mine.toml"), account="a1")


def test_own_profiles_come_before_the_repositorys(config: Path, tmp_path: Path) -> None:
    (config / "profiles" / "devcluster.toml").write_text('partition = "own"\n')
    assert read_profile("devcluster").partition == "own"
    path = tmp_path / "with a space.toml"
    path.write_text('partition = "there"\n')
    assert read_profile(str(path)) == Profile(name="with a space", file=str(path), partition="there")
    assert profiles()[0] == "devcluster" and profiles().count("devcluster") == 1


@pytest.mark.parametrize("name", ["devcluste", "", "../devcluster", "a\nb", "x" * 10_000, "$(touch pwned)"])
def test_an_unknown_name_gets_a_list(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_profile(name)
    text = str(caught.value)
    assert all(there in text for there in ("devcluster", "example", "gpu_preemptible", "whole_nodes"))
    assert len(text) < 1000 and "\n" not in text
    assert ("did you mean `devcluster`?" in text) == (name in ("devcluste", "../devcluster"))


@pytest.mark.parametrize("text, message", [
    ('profil = "x"', "unknown key `profil`; did you mean `profile`?"),
    ("profile = 3", "the name of a profile is meant, not the whole number 3"),
    ('profile = ""', "the name of a profile is meant"),
])
def test_mistakes_in_the_users_configuration(config: Path, text: str, message: str) -> None:
    (config / "config.toml").write_text(text)
    with pytest.raises(GridError) as caught:
        read_profile(None)
    assert message in str(caught.value) and "config.toml:1:" in str(caught.value)


@pytest.mark.parametrize("content, message", [
    (None, "cannot be read: No such file"), (b"\xff", "not UTF-8"), (b"a" * 200_000, "larger than"), ("folder", "Is a directory"),
    (b"partition = ", "p.toml:1:"),
])
def test_what_is_no_profile(tmp_path: Path, content: bytes | str | None, message: str) -> None:
    path = tmp_path / "p.toml"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        path.mkdir()
    with pytest.raises(GridError, match=message):
        read_profile(str(path))


def test_a_name_that_no_file_can_have(config: Path) -> None:
    (config / "config.toml").write_text('profile = "a\\u0000b.toml"')
    with pytest.raises(HarnessError, match="cannot be read"):
        read_profile(None)


# ---------------------------------------------------------------------------------------------------------- who may write it


@pytest.mark.parametrize("which, mode, who", [
    ("harness/profiles/mine.toml", 0o664, "its group"), ("harness/profiles/mine.toml", 0o606, "everybody"),
    ("harness/profiles", 0o775, "its group"), ("harness", 0o757, "everybody"),
])
def test_a_profile_that_others_can_write_is_refused(config: Path, which: str, mode: int, who: str) -> None:
    (config / "profiles" / "mine.toml").write_text('setup = ["module load cuda"]')
    place = config.parent / which
    place.chmod(mode)
    with pytest.raises(UsageError) as caught:
        read_profile("mine")
    text = str(caught.value)
    assert f"{place} can be written by {who}" in text
    command = text.rpartition("forbid it: ")[2]
    subprocess.run(command, shell=True, check=True)  # the very command that the message gives
    assert read_profile("mine").setup == ("module load cuda",)


def test_a_link_leads_to_a_file_that_is_checked_too(config: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o777)
    elsewhere.chmod(0o777)
    (elsewhere / "real.toml").write_text("")
    (config / "profiles" / "mine.toml").symlink_to(elsewhere / "real.toml")
    with pytest.raises(UsageError, match=re.escape(f"{elsewhere} can be written by its group and everybody")):
        read_profile("mine")
    elsewhere.chmod(0o1777)  # as /tmp: nobody can put another file in the place of mine
    assert read_profile("mine").name == "mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_profile_of_somebody_else_is_refused(config: Path) -> None:
    path = config / "profiles" / "mine.toml"
    path.write_text("")
    os.chown(path, 12345, -1)
    with pytest.raises(UsageError, match="mine.toml belongs to user 12345, not to you"):
        read_profile("mine")


# ------------------------------------------------------------------------------------------------------------------- mistakes


HOSTILE = ["a\nb", "a b", 'a"b', "a'b", "a; touch pwned", "$(touch pwned)", "`touch pwned`", "a\\nb", "é", "\N{GREEK SMALL LETTER ALPHA}",
           "-n", "--wrap=touch", "x" * 201, "x" * 10_000, "a\n", "\t", "a>b", "a#b", "a\N{NO-BREAK SPACE}"]
TEXTS = [f.name for f in dataclasses.fields(Profile) if f.metadata and f.type in (str, "str")]


def test_texts_are_all_tried() -> None:
    assert set(TEXTS) == {"partition", "account", "qos", "constraint", "reservation", "exclude", "gpu_type", "python", "scratch"}


@pytest.mark.parametrize("key", TEXTS)
@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_values_are_refused(key: str, value: str) -> None:
    (line, _, message), = messages(f"{key} = {toml(value)}")
    assert line == 1 and message.startswith(f"`{key}`: ") and "can stand here" in message and len(message) < 400


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("key", ["comment", "gres", "mail-user", "launcher.partition"])
def test_hostile_values_in_tables_are_refused(key: str, value: str) -> None:
    key = key if "." in key else f"sbatch.{key}"
    assert "can stand here" in messages(f"{key} = {toml(value)}")[0][2]


@pytest.mark.parametrize("key", ["x\ny", "comment\n#SBATCH --wrap=touch", "", "--comment", "a" * 10_000, "$(touch pwned)", "комментарий"])
def test_hostile_keys_are_refused(key: str) -> None:
    for table in ("", "launcher.", "sbatch."):
        (_, _, message), = messages(f"{table}{toml(key)} = 1")
        assert message.startswith("unknown key") and "\n" not in message and len(message) < 500


@pytest.mark.parametrize("value", ["relative", "/a b", "$HOME.x", "${HOME}", "$(pwd)", "/x/$", "/x/`id`", '/x"', "~/x", "$1", "/x\n"])
def test_scratch_is_a_path_or_a_variable(value: str) -> None:
    assert "`scratch`" in messages(f"scratch = {toml(value)}")[0][2]


@pytest.mark.parametrize("line, message", [
    ('["a\\nb"]', "one line is meant"), ('["a\\u0000b"]', "one line is meant"), ('["a\\u001b[31mb"]', "one line is meant"),
    ('["  "]', "an empty line"), ('["module load x \\\\"]', "backslash"), (f'["{"x" * 3000}"]', "3,000 characters"),
    ("[1]", "not the whole number 1"), ('"module load x"', "a list of shell lines is meant"),
])
def test_setup_lines(line: str, message: str) -> None:
    assert message in messages(f"setup = {line}")[0][2]


def test_all_mistakes_are_told_each_with_its_place() -> None:
    found = messages("""\
acount = "a"
mail_user = "me"
gpus_per_node = 1
poll_s = 0
[launcher]
cpu = 1
[sbatch]
signal = "USR2"
partition = "gpu"
exclusive = false
nice = -1
comment = 1
gres = "gpu:2"
""")
    assert [(line, column) for line, column, _ in found] == [(1, 1), (2, 1), (3, 1), (4, 10), (6, 1), (8, 1), (9, 1), (10, 13), (11, 8),
                                                             (12, 11), (13, 8)]
    expected = ["did you mean `account`?", "write it as `mail-user` under [sbatch]", "stand in the grid's [slurm]",
                "0 is outside 1 to 3600", "did you mean `cpus`?", "never taken from a profile", "a key of its own, above the tables",
                "leave the line out", "a whole number from 0",
                "a string is meant (a word for the accounting), not the whole number 1", "gpus_per_node in the grid"]
    for (_, _, message), part in zip(found, expected, strict=True):
        assert part in message


@pytest.mark.parametrize("text", ["sbatch = 1", "launcher = 1", "[[launcher]]\ncpus = 1", "[[sbatch]]", "setup = { a = 1 }", "[partition]"])
def test_tables_where_they_belong(text: str) -> None:
    assert len(messages(text)) == 1


def test_a_key_that_is_nowhere_lists_all_there_are() -> None:
    (_, _, message), = messages("zzz = 1")
    assert all(key in message for key in (*profiles_module.KEYS, "[launcher]", "[sbatch]"))
    (_, _, message), = messages("sbatch.zzz = 1")
    assert all(option in message for option in SBATCH_OPTIONS)


# -------------------------------------------------------------------------------------------------------------- what jobs run


def run(profile: Profile, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`command` in a shell that has begun as jobs of this profile do."""
    script = "\n".join([*preamble(profile), command])
    environment |= {"PATH": os.environ["PATH"]}
    return subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)


def test_the_first_setup_line_that_fails_ends_the_job(tmp_path: Path) -> None:
    for broken in ("false", "module load nothing", "false | cat", "source /nowhere/activate"):
        done = run(Profile(setup=("echo before", broken)), "echo after")
        assert done.returncode != 0 and done.stdout == "before\n"
    assert run(Profile(setup=("export X=1", "cd /")), "echo $X $PWD").stdout == "1 /\n"


def test_scratch_becomes_the_temporary_folder(tmp_path: Path) -> None:
    done = run(Profile(scratch=f"{tmp_path}/of-$USER"), 'echo "$TMPDIR"', USER='a b"; touch pwned')
    assert done.stdout == f'{tmp_path}/of-a b"; touch pwned\n' and Path(done.stdout[:-1]).is_dir()
    assert run(Profile(scratch="$LOCAL/x"), 'echo "$TMPDIR"', LOCAL=str(tmp_path)).stdout == f"{tmp_path}/x\n"
    unset = run(Profile(scratch="$LOCAL/x"), "echo after")
    assert unset.returncode != 0 and not unset.stdout and "LOCAL: is not set here, and the profile names it in scratch" in unset.stderr

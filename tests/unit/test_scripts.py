"""The set-up that scripts/lab and scripts/test share, with stand-ins for apt-get, sudo and interpreters."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

CHECKOUT: Final = Path(__file__).parent.parent.parent
TOOLS: Final = "bash cat chmod env flock grep ln mkdir mktemp mv readlink rm sed sha256sum tail touch true".split()

PATIENCE_S: Final = 60

SUDO: Final = "" if os.geteuid() == 0 else "sudo "
"""How a command that needs root begins: a machine where one is root may have no sudo."""

Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the scripts and the two files that name the environment."""
    copy = tmp_path / "checkout"
    shutil.copytree(CHECKOUT / "scripts", copy / "scripts")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(CHECKOUT / name, copy)
    return copy


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder with the basic tools and nothing else, to be the whole PATH; sudo only drops its -n."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found, tool
        (folder / tool).symlink_to(found)
    stand_in(folder / "sudo", 'shift; exec "$@"')
    return folder


@pytest.fixture
def shell(checkout: Path, tools: Path, tmp_path: Path) -> Shell:
    """Runs bash code after environment.sh, with only `tools` on the PATH and the cache in tmp_path/cache."""

    def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
        code = f'set -u; source "{checkout}/scripts/environment.sh"; PATH="{tools}"; hash -r; {code}'
        variables = {"PATH": str(tools), "HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
        return subprocess.run(
            ["bash", "-c", code, "lab"],
            env={**variables, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def stand_in(path: Path, code: str) -> None:
    """An executable file that does `code`."""
    path.write_text(f"#!{shutil.which('bash')}\n{code}\n")
    path.chmod(0o755)


def stand_in_environment(checkout: Path, code: str = ":") -> Path:
    """Nothing is missing in this checkout, and use_environment does `code`; where the environment has its programs."""
    place = checkout.parent / "venv"
    (place / "bin").mkdir(parents=True)
    with (checkout / "scripts" / "environment.sh").open("a") as file:
        file.write("packages_for() { missing=(); }\npython_too() { :; }\n")
        file.write(f'use_environment() {{ {code}; venv="{place}"; }}\n')
    return place / "bin"


def stand_in_apt_get(tools: Path, log: Path, code: str = "") -> None:
    stand_in(tools / "apt-get", f'echo "${{*/#-o/-o}}" >>"{log}"; echo "$DEBIAN_FRONTEND" >"{log}.frontend"; {code}')


def test_only_packages_whose_tool_is_absent_are_missing(shell: Shell) -> None:
    done = shell('packages_for bash:bash-package nosuchtool:its-package; echo "${missing[@]}"')
    assert done.stdout == "its-package\n"


def test_missing_packages_are_installed_without_a_question(shell: Shell, tools: Path, tmp_path: Path) -> None:
    stand_in_apt_get(tools, tmp_path / "log")
    done = shell("install_packages nftables tshark")
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "log").read_text().splitlines()
    assert len(calls) == 1
    assert calls[0].endswith("install -y --no-install-recommends nftables tshark")
    assert (tmp_path / "log.frontend").read_text() == "noninteractive\n"
    assert done.stdout == ""  # standard output is for results


def test_package_lists_are_renewed_when_a_package_is_not_found(shell: Shell, tools: Path, tmp_path: Path) -> None:
    renewed = tmp_path / "renewed"
    stand_in_apt_get(
        tools, tmp_path / "log", f'case "$*" in *update) touch "{renewed}" ;; *) [[ -e "{renewed}" ]] ;; esac'
    )
    done = shell("install_packages nftables")
    assert done.returncode == 0, done.stderr
    verbs = [line.split()[2] for line in (tmp_path / "log").read_text().splitlines()]
    assert verbs == ["install", "update", "install"]


def test_a_failed_installation_shows_what_apt_get_said(shell: Shell, tools: Path, tmp_path: Path) -> None:
    stand_in_apt_get(tools, tmp_path / "log", "echo E: no such package; exit 100")
    done = shell("install_packages nftables")
    assert done.returncode == 1
    assert "E: no such package" in done.stderr


@pytest.mark.parametrize(
    ("script", "verb"), [("lab", "demo"), ("lab", "run"), ("lab", "shell"), ("test", "tests/unit")]
)
def test_without_apt_get_what_needs_a_network_stops_with_the_command_to_type(
    checkout: Path, tools: Path, script: str, verb: str
) -> None:
    done = without_nft(checkout, tools, script, verb)
    assert done.returncode == 3
    assert f"{SUDO}apt-get update && {SUDO}apt-get install -y --no-install-recommends nftables" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_apt_get_what_needs_no_network_goes_on(checkout: Path, tools: Path) -> None:
    done = without_nft(checkout, tools, "lab", "list")
    assert done.stdout == "-P -m lab list\n"
    assert "install -y --no-install-recommends nftables" in done.stderr


def test_notebook_opens_jupyterlab_where_the_notebooks_are(checkout: Path, tools: Path) -> None:
    place = stand_in_environment(checkout, 'echo "$1"')
    stand_in(place / "jupyter-lab", 'echo "$PYTHONPATH" "$@"')
    done = subprocess.run(
        [str(checkout / "scripts" / "lab"), "notebook", "--no-browser"],
        env={"PATH": str(tools)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    extras, called = done.stdout.splitlines()
    assert extras == "notebook+jupyterlab"
    assert called.startswith(f"{checkout} --notebook-dir={checkout}/notebooks ")
    assert called.endswith("--no-browser")


def test_a_cluster_is_started_in_the_environment_of_the_lab(checkout: Path, tools: Path) -> None:
    place = stand_in_environment(checkout)
    stand_in(place / "python", 'echo "$PYTHONPATH" "$@"')
    done = subprocess.run(
        [str(checkout / "scripts" / "lab"), "dask", "worker", "tcp://192.0.2.1:8786"],
        env={"PATH": str(tools)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{checkout} -P -m dask worker tcp://192.0.2.1:8786\n"


def without_nft(checkout: Path, tools: Path, script: str, verb: str) -> subprocess.CompletedProcess[str]:
    """A script's outcome on a machine without nft and apt-get, whose Python prints its arguments."""
    place = stand_in_environment(checkout)
    stand_in(place / "python", 'echo "$*"')
    with (checkout / "scripts" / "environment.sh").open("a") as file:
        file.write(f'PATH="{tools}"\npackages_for() {{ missing=(nftables); }}\n')
    return subprocess.run(
        [str(checkout / "scripts" / script), verb],
        env={"PATH": str(tools)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_interpreter_that_is_too_old_or_broken_is_passed_over(shell: Shell, tmp_path: Path) -> None:
    stand_in(tmp_path / "old", "echo older 3.9 /old")
    stand_in(tmp_path / "broken", "exit 127")
    stand_in(tmp_path / "good", "echo usable 3.12 /somewhere/python3.12")
    done = shell(
        f'interpreters=("{tmp_path}/absent" "{tmp_path}/broken" "{tmp_path}/old" "{tmp_path}/good"); '
        'find_python; echo "$python"'
    )
    assert done.stdout == "/somewhere/python3.12\n"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("echo older 3.9 /old", "needs Python 3.11 or newer, found 3.9"),
        ("echo bare 3.11 /usr/bin/python3", "install -y --no-install-recommends python3.11-venv"),
        ("exit 1", "install -y --no-install-recommends python3 python3-venv"),
    ],
)
def test_without_a_usable_interpreter_set_up_stops_and_says_what_to_install(
    shell: Shell, tmp_path: Path, answer: str, told: str
) -> None:
    stand_in(tmp_path / "python", answer)
    done = shell(f'interpreters=("{tmp_path}/python"); find_python')
    assert done.returncode == 3
    assert told in done.stderr


@pytest.mark.parametrize(
    ("answer", "asked_for"),
    [
        ("echo usable 3.12 /usr/bin/python3", "nftables"),
        ("echo bare 3.11 /usr/bin/python3", "nftables python3.11-venv"),
        ("exit 1", "nftables python3 python3-venv"),
    ],
)
def test_what_python_lacks_is_asked_for_together_with_the_rest(
    shell: Shell, tmp_path: Path, answer: str, asked_for: str
) -> None:
    stand_in(tmp_path / "python", answer)
    done = shell(f'interpreters=("{tmp_path}/python"); missing=(nftables); python_too run; echo "${{missing[*]}}"')
    assert done.stdout == f"{asked_for}\n"


def test_a_complete_environment_needs_no_other_python(shell: Shell) -> None:
    shell(f"{MAKE} use_environment run")
    done = shell(
        f'{MAKE} interpreters=(nosuchtool); missing=(); python_too run; use_environment run; echo "${{#missing[*]}}"'
    )
    assert (done.stdout, done.stderr) == ("0\n", "")


MAKE: Final = """
make_environment() {
    echo made
    mkdir -p "$venv/bin" && ln -sf "$(readlink -f "$BASH")" "$venv/bin/python"
    readlink -f "$venv/bin/python" >"$venv/.complete-$extras"
}
"""
"""A stand-in that makes an environment at once."""


def test_an_environment_is_made_once(shell: Shell, tmp_path: Path) -> None:
    first = shell(f'{MAKE} use_environment run; echo "$venv"')
    second = shell(f'{MAKE} use_environment run; echo "$venv"')
    made, place = first.stdout.splitlines()
    assert made == "made"
    assert Path(place).parent == tmp_path / "cache" / "lab3653"
    assert second.stdout.splitlines() == [place]


def test_an_environment_without_the_test_packages_is_not_complete_for_tests(shell: Shell) -> None:
    shell(f"{MAKE} use_environment run")
    assert shell(f"{MAKE} use_environment test").stdout == "made\n"


def test_an_environment_whose_interpreter_went_away_is_made_again(shell: Shell) -> None:
    place = shell(f'{MAKE} use_environment run; echo "$venv"').stdout.splitlines()[-1]
    python = Path(place, "bin", "python")
    python.unlink()
    python.symlink_to("/nonexistent/python3.11")
    assert shell(f"{MAKE} use_environment run").stdout == "made\n"


def test_changed_pins_make_another_environment_and_tool_settings_do_not(shell: Shell, checkout: Path) -> None:
    def place() -> str:
        return shell(f'{MAKE} use_environment run; echo "$venv"').stdout.splitlines()[-1]

    before = place()
    with (checkout / "pyproject.toml").open("a") as file:
        file.write("[tool.other]\nsetting = 1\n")
    assert place() == before
    with (checkout / "constraints.txt").open("a") as file:
        file.write("other==1.0\n")
    assert place() != before


def test_without_a_writable_home_the_environment_is_in_the_checkout(shell: Shell, checkout: Path) -> None:
    done = shell(f'{MAKE} use_environment run; echo "$venv"', HOME="/dev/null", XDG_CACHE_HOME="")
    assert Path(done.stdout.splitlines()[-1]).parent == checkout / ".venv"


def test_nowhere_to_write_is_said(shell: Shell) -> None:
    done = shell("mkdir() { return 1; }; use_environment run")
    assert done.returncode == 3
    assert "XDG_CACHE_HOME" in done.stderr


@pytest.mark.parametrize("script", ["scripts/lab", "scripts/test", ".ci/run"])
def test_scripts_can_be_run_and_are_valid_bash(script: str) -> None:
    assert os.access(CHECKOUT / script, os.X_OK)
    done = subprocess.run(["bash", "-n", str(CHECKOUT / script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_of_the_test_script_needs_no_set_up(checkout: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(checkout / "scripts" / "test"), "--help"],
        env={"PATH": os.environ["PATH"], "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("Usage: scripts/test")
    assert not (tmp_path / "cache").exists()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_pytest_and_its_scratch_folder_end_with_the_test_script(
    checkout: Path, tmp_path: Path, how: signal.Signals
) -> None:
    (checkout / "tests").mkdir()
    shutil.copy(CHECKOUT / "tests" / "private.sh", checkout / "tests")
    scratch, alive = tmp_path / "scratch", tmp_path / "alive"
    scratch.mkdir()
    os.mkfifo(alive)
    place = stand_in_environment(checkout)
    # What stands for pytest has the pipe open until it ends, and says so by touching a file in its scratch folder.
    stand_in(place / "python", f'exec 7>"{alive}"; touch "$TMPDIR/written"; exec sleep 1000')
    script = subprocess.Popen(
        [str(checkout / "scripts" / "test"), "tests/unit"],
        env={"PATH": os.environ["PATH"], "TMPDIR": str(scratch)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with alive.open("rb", buffering=0) as pipe:  # waits for the other end
        until(lambda: any(scratch.glob("*/written")), "what stands for pytest to write", scratch)
        script.send_signal(how)
        assert script.wait(PATIENCE_S) == -how
        ready, _, _ = select.select([pipe], [], [], PATIENCE_S)
        assert ready, "what stands for pytest goes on"
        assert pipe.read(1) == b""
    until(lambda: not any(scratch.iterdir()), "the scratch folder to go", scratch)


def until(condition: Callable[[], bool], what: str, folder: Path) -> None:
    """Wait for a condition; a failure tells what is in the folder."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for {what}: {sorted(folder.rglob('*'))}"
        time.sleep(0.01)

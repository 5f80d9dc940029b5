# shellcheck shell=bash
# What scripts/lab and scripts/test share: set up what is missing, quickly when nothing is.  Sourced, not run.
#
# Two kinds of thing can be missing: Debian packages, for tools Python cannot bring along, and a virtual environment
# with the Python packages of pyproject.toml in the versions of constraints.txt.  The environment lives outside the
# checkout, under a name made from those two files (less the settings of tools), so that two checkouts share one and
# a change makes a new one.  A set-up that finds nothing to do starts five processes.

readonly EXIT_MISSING=3 # a privilege or a feature is missing; the same number as in lab/cli/common.py

checkout=$(readlink -f -- "${BASH_SOURCE[0]}")
checkout=${checkout%/scripts/*}
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin # nft, ip and tc live there, outside an ordinary user's PATH
export PATH
venv="" # set by use_environment

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
stop() {
    say "$@"
    exit "$EXIT_MISSING"
}

# --- Debian packages -------------------------------------------------------------------------------------------

# packages_for TOOL:PACKAGE...  Sets `missing` to the packages whose tool is not there.
packages_for() {
    local pair
    missing=()
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
    done
}

# install_packages PACKAGE...  Installs with apt-get when this user may; else, or if that fails, returns 1.
install_packages() {
    local log as_root=()
    command -v apt-get >/dev/null || return 1
    if ((EUID != 0)); then
        command -v sudo >/dev/null && sudo -n true 2>/dev/null </dev/null || return 1
        as_root=(sudo -n)
    fi
    local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120)
    say "installing $* with apt-get"
    log=$(mktemp) || return 1
    "${apt[@]}" install -y --no-install-recommends "$@" >"$log" 2>&1 </dev/null ||
        { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "$@"; } >"$log" 2>&1 </dev/null || {
        tail -n 15 "$log" >&2
        rm -f "$log"
        return 1
    }
    rm -f "$log"
}

# how_to_install PACKAGE...  Prints the command a person can type; root may have no sudo.
how_to_install() {
    local sudo="sudo "
    ((EUID != 0)) || sudo=""
    printf '%s' "${sudo}apt-get update && ${sudo}apt-get install -y --no-install-recommends $*"
}

# --- Python ----------------------------------------------------------------------------------------------------

# Where to look, best first; the first on the PATH may be one that this user cannot run.
interpreters=("${LAB_PYTHON:-python3}" python3.{14,13,12,11} {/usr,/usr/local}/bin/python3)

# look_for_python  Sets `python` to an interpreter of at least 3.11 that runs and can make virtual environments; where
# there is none returns 1, with `python_packages` set to what would bring one and `older` to one that will not do.
look_for_python() {
    local candidate answer without_ensurepip=""
    python_packages=() older=""
    for candidate in "${interpreters[@]}"; do
        answer=$("$candidate" -I -c '
import importlib.util, sys
state = "older" if sys.version_info < (3, 11) else "usable" if importlib.util.find_spec("ensurepip") else "bare"
print(state, "%d.%d" % sys.version_info[:2], sys.executable)' 2>/dev/null </dev/null) || continue
        case $answer in
        "usable "*)
            python=${answer#* * }
            return
            ;;
        "bare "*) answer=${answer#* } && without_ensurepip=${without_ensurepip:-${answer%% *}} ;;
        "older "*) answer=${answer#* } && older=${older:-${answer%% *}} ;;
        esac
    done
    if [[ $without_ensurepip ]]; then
        python_packages=("python$without_ensurepip-venv")
    elif [[ ! $older ]]; then
        python_packages=(python3 python3-venv)
    fi
    return 1
}

# find_python  Sets `python` like look_for_python, after installing one if need be.
find_python() {
    look_for_python && return
    ((${#python_packages[@]})) ||
        stop "needs Python 3.11 or newer, found $older; if a newer one is installed elsewhere, name it in LAB_PYTHON"
    if ! install_packages "${python_packages[@]}" || ! { hash -r && look_for_python; }; then
        stop "needs a Python of at least 3.11 with its venv module; install it with:" \
            "$(how_to_install "${python_packages[@]}")"
    fi
}

# python_too EXTRAS  Adds to `missing` what Python lacks for an environment that has still to be made, so that
# everything is installed, or asked for, at once.
python_too() { find_environment "$1" || look_for_python || missing+=("${python_packages[@]}"); }

# complete  True when the environment in $venv has what $extras asks for and its interpreter is still the one it had.
complete() {
    local stamp
    [[ -x $venv/bin/python && -r $venv/.complete-$extras ]] || return 1
    read -r stamp <"$venv/.complete-$extras" || return 1
    [[ $stamp == "$(readlink -f -- "$venv/bin/python")" ]]
}

# make_environment  Builds $venv in place (environments cannot be moved); the stamp is written last.
make_environment() {
    local requirements stamp log="$venv/install.log"
    if [[ ! -x $venv/bin/python || ! -e $venv/.complete-run ]] || ! extras=run complete; then
        find_python
        say "making a virtual environment in $venv"
        rm -rf -- "$venv"
        "$python" -I -m venv "$venv" >&2 </dev/null || return 1
    fi
    # Read from pyproject.toml, which stays the one list of what the lab needs.
    mapfile -t requirements < <("$venv/bin/python" -I - "$checkout/pyproject.toml" "$extras" <<'PYTHON'
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
wanted = [project["optional-dependencies"].get(extra, []) for extra in sys.argv[2].split("+")]
print("\n".join(sum(wanted, project["dependencies"])))
PYTHON
    )
    ((${#requirements[@]})) || return 1
    say "installing Python packages for '$extras' (once; a minute or two)"
    "$venv/bin/python" -I -m pip install --disable-pip-version-check --no-input --progress-bar off \
        --constraint "$checkout/constraints.txt" "${requirements[@]}" >"$log" 2>&1 </dev/null || {
        grep -v 'is ignored: it is neither' "$log" | tail -n 15 >&2
        return 1
    }
    for stamp in run "$extras"; do
        readlink -f -- "$venv/bin/python" >"$venv/.complete-$stamp" || return 1
    done
}

# find_environment EXTRAS  Sets `venv` to a complete environment, or returns 1 with `venv` where one can be made, which
# is empty if that is nowhere.  EXTRAS is run, or extras of pyproject.toml joined by + (which have all of run).
find_environment() {
    local key base
    extras=$1 bases=()
    key=$(sed '/^\[tool\./,$d' "$checkout/pyproject.toml" | cat - "$checkout/constraints.txt" | sha256sum) || exit
    key=${key:0:12}
    [[ ${XDG_CACHE_HOME:-} ]] && bases+=("$XDG_CACHE_HOME/lab3653")
    [[ ${HOME:-} ]] && bases+=("$HOME/.cache/lab3653")
    bases+=("$checkout/.venv")
    for base in "${bases[@]}"; do
        venv=$base/venv-$key
        complete && return
        mkdir -p -- "$base" 2>/dev/null && [[ -w $base ]] && return 1
    done
    venv=""
    return 1
}

# use_environment EXTRAS  Sets `venv` to a complete environment, made if need be.
use_environment() {
    [[ ${venv:-} && ${extras:-} == "$1" ]] && complete && return # found before
    find_environment "$1" && return
    [[ $venv ]] || stop "cannot write to any of: ${bases[*]}; set XDG_CACHE_HOME to a folder that this user owns"
    # One set-up at a time: a second one waits here, then finds the work done.
    exec 9>"$venv.lock" || exit "$EXIT_MISSING"
    flock 9
    complete || make_environment ||
        stop "setting up the Python packages failed (see above); run this again to try again"
    exec 9>&-
}

# shellcheck shell=bash
# What the scripts of this directory share. Sourced first, with the arguments of the script: --help is answered here.
set -euo pipefail

# shellcheck disable=SC2034 # used by those who source this
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Daemons and tools of an administrator are not on everybody's path, and rustup's are only in a login shell.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:${CARGO_HOME:-$HOME/.cargo}/bin

say() { printf '==> %s\n' "$*" >&2; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Prints what stands at the head of a script, and does nothing else.
for argument in "$@"; do
    case $argument in
    -h | --help)
        sed -n '2,/^[^#]/ { /^# shellcheck/d; s/^# \{0,1\}//p }' "$0"
        exit
        ;;
    esac
done
unset argument

as_root() {
    if ((EUID == 0)); then "$@"; else sudo -- "$@"; fi
}

# Goes on as root, with what the tests are told by.
become_root() {
    ((EUID != 0)) || return 0
    command -v sudo >/dev/null || die "$0 needs root, and there is no sudo"
    exec sudo --preserve-env=PATH,IMAGEFS_TEST_DOCKER,IMAGEFS_TEST_PODMAN -- "$0" "$@"
}

# What was begun with undo_later is undone in reverse when the script ends, however it ends.
undo=()
undo_later() {
    undo=("$*" "${undo[@]}")
    trap undo_all EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}
undo_all() {
    local step
    for step in "${undo[@]}"; do $step || true; done
}

is_installed() {
    dpkg-query --show --showformat '${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed
}

# Installs those of the named Debian packages that are missing, all at once.
install_missing() {
    local package missing=()
    for package in "$@"; do
        is_installed "$package" || missing+=("$package")
    done
    if ((${#missing[@]} == 0)); then return; fi
    command -v apt-get >/dev/null || die "install these first: ${missing[*]}"
    ((EUID == 0)) || command -v sudo >/dev/null || die "have root install these first: ${missing[*]}"
    say "installing ${missing[*]}"
    as_root apt-get -qq update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "${missing[@]}" >/dev/null
}

# What building needs besides Rust: some of what imagefs is made of is C, and cargo has to believe the registry.
# shellcheck disable=SC2034 # as above
build_packages=(ca-certificates)
if ! command -v cc >/dev/null || [[ ! -e /usr/include/stdio.h ]]; then build_packages+=(gcc libc6-dev); fi

# Fails, with advice, unless there is a Rust toolchain that is new enough.
need_rust() {
    local wanted found debian
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
    if command -v cargo >/dev/null; then
        found=$(cd "$root" && rustc --version | cut -d ' ' -f 2)
        if dpkg --compare-versions "$found" ge "$wanted"; then return; fi
    fi
    say "Rust $wanted or later is needed, and ${found:-none} is here"
    debian=$(apt-cache policy cargo 2>/dev/null | sed -n 's/^ *Candidate: //p')
    if dpkg --compare-versions "${debian:-0}" ge "$wanted"; then
        die "install Debian's own: apt-get install cargo"
    fi
    die "this release of Debian has ${debian:-none that apt knows of}: get it from https://rustup.rs"
}

# A distribution lets everybody mount through fusermount3; on a bare machine that is for root alone.
allow_fuse() {
    [[ -e /dev/fuse ]] || as_root modprobe fuse || die 'this machine has no /dev/fuse: the kernel lacks FUSE'
    local mode
    mode=$(stat --format %a /dev/fuse)
    if [[ $mode != 666 ]]; then
        undo_later as_root chmod "$mode" /dev/fuse
        as_root chmod 666 /dev/fuse
    fi
}

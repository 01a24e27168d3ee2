# shellcheck shell=sh
# Packages, for scripts that mend what is missing instead of asking for it. Source this file; POSIX sh.
#
#   apt_need PACKAGE...    installs those that are absent; touches neither network nor lock when none is
#   apt_missing PACKAGE... prints those that are absent
#   apt_fetch PACKAGE...   downloads the .deb files into the current directory; needs no root when the lists are there
#   apt_head PACKAGE       prints the package that a metapackage stands for (linux-image-amd64 -> linux-image-6.1.0-9-amd64)
#
# Each returns non-zero after saying why on standard error. Standard output stays clean for the caller.

apt_say() { echo "${0##*/}: $*" >&2; }

apt_missing() {
    for apt_p in "$@"; do
        # One word for each architecture of which the package is known.
        case " $(dpkg-query -W -f '${db:Status-Status} ' "$apt_p" 2>/dev/null)" in
        *" installed "*) ;;
        *) echo "$apt_p" ;;
        esac
    done
}

# Runs apt-get as root, and waits for another process's lock rather than failing on it. Only complaints are shown.
apt_root() {
    set -- env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600 "$@"
    if [ "$(id -u)" = 0 ]; then
        "$@" </dev/null >/dev/null
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        sudo -n "$@" </dev/null >/dev/null
    else
        apt_say "need root for: $*"
        return 1
    fi
}

# apt-get update, at most once a process.
apt_update() {
    [ -z "${APT_UPDATED-}" ] || return 0
    apt_root update || return 1
    APT_UPDATED=1
}

# True when apt knows a version of every package named that it could download.
apt_known() {
    for apt_p in "$@"; do
        apt-cache show --no-all-versions "$apt_p" >/dev/null 2>&1 || return 1
    done
}

apt_need() {
    command -v apt-get >/dev/null || { apt_say "no apt-get here; install by hand: $*"; return 1; }
    apt_list=$(apt_missing "$@")
    [ -n "$apt_list" ] || return 0
    # shellcheck disable=SC2086 # a list of package names
    set -- $apt_list
    apt_known "$@" || apt_update || return 1
    apt_say "installing $*"
    apt_root install -y --no-install-recommends "$@" && return 0
    # Lists that name versions which the mirror has dropped: refresh them and try once more.
    apt_update && apt_root install -y --no-install-recommends "$@" && return 0
    apt_say "could not install: $*"
    return 1
}

apt_download() {
    if [ "$(id -u)" = 0 ]; then
        apt-get -qq -o APT::Sandbox::User=root download "$@" >&2
    else
        apt-get -qq download "$@" >&2
    fi
}

apt_fetch() {
    command -v apt-get >/dev/null || { apt_say "no apt-get here to fetch: $*"; return 1; }
    apt_known "$@" || apt_update || return 1
    apt_download "$@" && return 0
    apt_update && apt_download "$@" && return 0
    apt_say "could not download: $*"
    return 1
}

apt_head() {
    apt_known "$1" || apt_update || return 1
    apt-cache depends --important "$1" | sed -n 's/^ *Depends: *\([^<].*\)/\1/p' | head -n 1
}

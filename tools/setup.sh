#!/usr/bin/env bash
# Installs what VMSGR needs to build, to run its demo and to run its tests, on Debian 12 or 13.
#
#   tools/setup.sh [--check] [build|demo|suites|deb|site|all]
#
# build: compiler, Seastar and libraries. demo: also Ceph. suites: also the suites of other projects that
# `make test-suites` runs. deb: also what `make deb` makes packages with. site: what `make site` needs. all (the default): everything but that, with the
# programs that tests, benches and checks drive.
# --check: say what is missing and exit 1, install nothing.
#
# trixie and sid are added with pins far below the installed release, so that nothing moves but what is named
# here and what that needs; on Debian 12 this is libc6 too, and with it base-files: /etc/os-release then says 13.
# Once everything is there, the script asks dpkg and ends in well under a second.
set -euo pipefail

# seastar-dev is a static library without dependencies of its own. It fits exactly one set of compiler and
# library versions (docs/FACTS.md), so its version is pinned here; cmake checks the rest.
seastar_version='25.05.0-1*'

build=(g++-14 ninja-build ccache cmake make pkg-config git ca-certificates libgtest-dev libcli11-dev libftxui-dev
       nlohmann-json3-dev libboost-program-options1.83-dev libboost-thread1.83-dev libboost-filesystem1.83-dev
       libboost-test1.83-dev libfmt-dev libc-ares-dev libgnutls28-dev libssl-dev libhwloc-dev libseccomp-dev liblz4-dev libprotobuf-dev
       libsctp-dev libyaml-cpp-dev protobuf-compiler libisal-dev
       libxxhash-dev python3)
from_sid=(seastar-dev)
demo=(ceph-osd ceph-mon ceph-mgr ceph-common python3 iproute2 procps util-linux)
tests=(ceph-test librados-dev spin python3-pytest python3-pytest-xdist python3-yaml strace nftables iperf3 curl nginx-light redis-server
       redis-tools socat man-db psmisc
       openssh-server rsync openbsd-inetd postgresql haproxy memcached nodejs
       busybox lighttpd ruby openssl
       prometheus tmux   # scrapes vmsgrd; shows vmsgr top
       debootstrap   # makes the root of make test-older
       tshark)   # reads captures of trunks with packaging/vmsgr.lua
suites=(python3.13 libpython3.13-testsuite iproute2 util-linux)   # of the release that the rest comes from
deb=(debhelper dpkg-dev lintian)
site=(mkdocs python3)
bench=(sockperf wrk python3-matplotlib
       bpftool libbpf-dev)   # for the column sockmap, with any clang
checks=(clang-format-19 clang-tidy-19)

die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

check_only=0
[ "${1:-}" = --check ] && { check_only=1; shift; }
what=${1:-all}
case "$what" in
  build) wanted=("${build[@]}" "${from_sid[@]}") ;;
  demo)  wanted=("${build[@]}" "${from_sid[@]}" "${demo[@]}") ;;
  suites) wanted=("${build[@]}" "${from_sid[@]}" "${suites[@]}") ;;
  deb)   wanted=("${build[@]}" "${from_sid[@]}" "${deb[@]}") ;;
  site)  wanted=("${site[@]}") ;;
  all)   wanted=("${build[@]}" "${from_sid[@]}" "${demo[@]}" "${tests[@]}" "${suites[@]}" "${bench[@]}" "${checks[@]}") ;;
  *)     die "unknown argument '$what'; use: tools/setup.sh [--check] [build|demo|suites|deb|site|all]" ;;
esac

installed=$(dpkg-query -W -f='|${Package} ${db:Status-Status}|' "${wanted[@]}" 2>/dev/null || true)
missing=()
for p in "${wanted[@]}"; do
  case "$installed" in *"|$p installed|"*) ;; *) missing+=("$p") ;; esac
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ $check_only = 1 ]; then
  die "not installed: ${missing[*]}; run 'tools/setup.sh' as root"
fi

[ "$(id -u)" = 0 ] || die "not installed: ${missing[*]}; run 'sudo tools/setup.sh' once, then make again"
. /etc/os-release
case "${ID:-}:${VERSION_ID:-}" in
  debian:12 | debian:13) ;;
  *) die "this is ${PRETTY_NAME:-an unknown system}; VMSGR is set up on Debian 12 or 13 (see docs/FACTS.md)" ;;
esac
[ "$(dpkg --print-architecture)" = amd64 ] || die "seastar-dev is used on amd64 only"

export DEBIAN_FRONTEND=noninteractive
started=$(date +%s)
printf 'setup: installing %d packages\n' ${#missing[@]} >&2

log=$(mktemp /tmp/vmsgr-setup.XXXXXX.log)
run() { "$@" >>"$log" 2>&1 || { tail -n 20 "$log" >&2; die "failed: $* (whole log: $log)"; }; }
quiet=(-y -q -o Dpkg::Use-Pty=0 -o Acquire::Retries=3 -o Dpkg::Options::=--force-confold)

# The same archive and the same keyring as the machine's own: apt refuses a list signed otherwise. The release is
# the one in apt's sources, as /etc/os-release is wrong from the second run on (see above).
rm -f /etc/apt/sources.list.d/vmsgr.sources   # one that an earlier run left half made stops apt
find_archive() {
  for release in bookworm trixie; do
    uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $release" \
            'Component: main' | head -n 1 || true)
    [ -z "$uri" ] || return 0
  done
}
find_archive
if [ -z "$uri" ]; then   # container images come without lists, and apt knows no codenames before it has read them
  run apt-get "${quiet[@]}" update
  find_archive
fi
[ -n "$uri" ] || die "apt knows no source for Debian 12 or 13, component main; put the Debian archive into /etc/apt/sources.list.d"
keyring=$(sed -n 's/^Signed-By: *\(\/.*debian.*\)$/\1/p' /etc/apt/sources.list.d/*.sources 2>/dev/null | head -n 1 || true)
keyring=${keyring:-/usr/share/keyrings/debian-archive-keyring.gpg}

suites=sid
target=()
if [ $release = bookworm ]; then
  suites='trixie sid'
  target=(-t trixie)
fi
install -d /etc/apt/preferences.d /etc/apt/sources.list.d
cat > /etc/apt/sources.list.d/vmsgr.sources <<SOURCES
Types: deb
URIs: $uri
Suites: $suites
Components: main
Signed-By: $keyring
SOURCES
{
  if [ $release = bookworm ]; then printf 'Package: *\nPin: release n=trixie\nPin-Priority: 90\n\n'; fi
  printf 'Package: *\nPin: release n=sid\nPin-Priority: 50\n'
} > /etc/apt/preferences.d/vmsgr

# Installing a server must not start one.
policy=/usr/sbin/policy-rc.d
made_policy=0
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' > $policy; chmod 755 $policy; made_policy=1
fi
trap '[ $made_policy = 0 ] || rm -f $policy' EXIT

run apt-get "${quiet[@]}" update
found=$(apt-cache madison seastar-dev | awk -F'|' '{gsub(/ /,"",$2); print $2}' | tr '\n' ' ')
case " $found" in
  *" ${seastar_version%\*}"*) ;;
  *) die "sid now has seastar-dev '$found', VMSGR is built against $seastar_version; build against the new one: change seastar_version in tools/setup.sh and the checks in cmake/Seastar.cmake" ;;
esac

# All at once and from one release: on Debian 12, what bookworm has would be linked with the libssl3 and libgnutls30
# that the libraries from trixie put out.
packages=()
for p in "${missing[@]}"; do
  case " ${from_sid[*]} " in *" $p "*) p=$p/sid ;; esac
  packages+=("$p")
done
run apt-get "${quiet[@]}" install --no-install-recommends "${target[@]}" "${packages[@]}"
rm -f "$log"
printf 'setup: done in %d s\n' $(($(date +%s) - started)) >&2

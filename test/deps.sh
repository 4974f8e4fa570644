#!/bin/sh
# Installs the Debian packages that generators and tests use, and those that are named, if any is missing.
set -eu
packages="clang llvm libbpf-dev linux-libc-dev iproute2 nftables iptables ipvsadm conntrack runc curl
busybox-static tcpdump ethtool iperf3 iputils-ping util-linux qemu-system-x86 kmod xz-utils
protobuf-compiler $*"
missing=
for p in $packages; do
	dpkg-query -W -f '${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed || missing="$missing $p"
done

# These programs are all that is needed of their packages: prometheus would start a server, qemu-user-static register its
# emulators with the kernel. promtool checks the chart's alerts; qemu runs the image's programs for arm64.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
single() { # PACKAGE PROGRAM
	! command -v "$2" >/dev/null || return 0
	echo "installing $2"
	(cd "$work" && { apt-get download -q "$1" >/dev/null 2>&1 || { apt-get update -q && apt-get download -q "$1"; }; } &&
		dpkg-deb --fsys-tarfile "$1"_*.deb | tar -x "./usr/bin/$2" && install -m 755 "usr/bin/$2" /usr/local/bin/)
}
single prometheus promtool
single qemu-user-static qemu-aarch64-static
[ -n "$missing" ] || exit 0
echo "installing Debian packages:$missing"
export DEBIAN_FRONTEND=noninteractive
# The package lists may be old or missing.
# shellcheck disable=SC2086 # a list of words
apt-get install -y -q --no-install-recommends $missing >/dev/null 2>&1 ||
	{ apt-get update -q && apt-get install -y -q --no-install-recommends $missing; }

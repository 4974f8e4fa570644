#!/bin/sh
# Installs the Debian packages that generators and tests use, if any is missing.
set -eu
packages="clang llvm libbpf-dev linux-libc-dev iproute2 nftables iptables ipvsadm conntrack runc curl
busybox-static tcpdump ethtool iperf3 iputils-ping util-linux qemu-system-x86 kmod binutils xz-utils
protobuf-compiler"
missing=
for p in $packages; do
	dpkg-query -W -f '${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed || missing="$missing $p"
done

# promtool checks the chart's alerts. Only this program: Debian's package would also start a server.
if ! command -v promtool >/dev/null; then
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	echo "installing promtool"
	(cd "$work" && { apt-get download -q prometheus >/dev/null 2>&1 || { apt-get update -q && apt-get download -q prometheus; }; } &&
		dpkg -x prometheus_*.deb . && install -m 755 usr/bin/promtool /usr/local/bin/)
fi
[ -n "$missing" ] || exit 0
echo "installing Debian packages:$missing"
export DEBIAN_FRONTEND=noninteractive
# The package lists may be old or missing.
# shellcheck disable=SC2086 # a list of words
apt-get install -y -q --no-install-recommends $missing >/dev/null 2>&1 ||
	{ apt-get update -q && apt-get install -y -q --no-install-recommends $missing; }

#!/bin/bash
# Makes the context of this folder's Dockerfile: rootfs.tar, a minimal Debian by
# debootstrap, and certs/, the private certificate authorities of this machine.
# The mirror and the proxy are those of this machine's apt.
#
#   rootfs.sh DIR
#
# What is in DIR already is kept, so that debootstrap runs once.
set -euo pipefail
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"

suite=bookworm
out=${1:?usage: rootfs.sh DIR}
mkdir -p "$out/certs"
out=$(cd "$out" && pwd)

# Certificates are copied every time: they are small, and they may change.
rm -f "$out"/certs/*
find /usr/local/share/ca-certificates -name '*.crt' -exec cp {} "$out/certs/" \; 2>/dev/null || true
bundle=${SSL_CERT_FILE:-}
if [ -n "$bundle" ] && [ -r "$bundle" ] && ! [ "$bundle" -ef /etc/ssl/certs/ca-certificates.crt ]; then
	cp "$bundle" "$out/certs/ssl-cert-file.crt"
fi
chmod -R u=rwX,go=rX "$out/certs"

[ -s "$out/rootfs.tar" ] && exit 0

as_root=()
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || { echo "rootfs.sh: debootstrap needs root: run 'bash $0 $out' as root once" >&2; exit 1; }
	as_root=(sudo)
fi
command -v debootstrap >/dev/null || { echo "rootfs.sh: install debootstrap first: apt-get install debootstrap" >&2; exit 1; }

# The first package archive of this machine that serves the suite; without one, debootstrap's own default.
archives() { apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null | sort -u; }
mirror=$(archives | awk -v s="$suite" '$1 == s {print $2; exit}')
security=$(archives | awk -v s="$suite-security" '$1 == s {print $2; exit}')

work=$(mktemp -d "$out/.rootfs.XXXXXX")
trap '"${as_root[@]}" rm -rf "$work"' EXIT
root=$work/root
"${as_root[@]}" debootstrap --variant=minbase --include=ca-certificates "$suite" "$root" ${mirror:+"$mirror"} >"$work/log" 2>&1 ||
	{ tail -n 20 "$work/log" >&2; echo "rootfs.sh: debootstrap failed" >&2; exit 1; }

{
	apt-config dump | grep -E '^Acquire::(Check-Valid-Until|Check-Date|Retries|ForceIPv4|https?::Proxy|https?::Timeout) ' || true
	echo 'Acquire::Languages "none";'
	echo 'APT::Update::Post-Invoke { "rm -f /var/cache/apt/*.bin"; };'
	echo 'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin"; };'
} >"$work/apt.conf"
{
	grep -h '^deb ' "$root/etc/apt/sources.list"
	if [ -n "$security" ]; then echo "deb $security $suite-security main"; fi
} >"$work/sources.list"

"${as_root[@]}" bash -euc '
	cd "$1"
	cp ../apt.conf etc/apt/apt.conf.d/90machine
	cp ../sources.list etc/apt/sources.list
	chmod 644 etc/apt/apt.conf.d/90machine etc/apt/sources.list
	echo force-unsafe-io >etc/dpkg/dpkg.cfg.d/image # a build that dies starts anew: no need to sync
	printf "%s\n" "#!/bin/sh" "exit 101" >usr/sbin/policy-rc.d # no service starts in a build
	chmod 755 usr/sbin/policy-rc.d
	rm -rf var/cache/apt/* var/lib/apt/lists/* var/log/* var/cache/ldconfig/aux-cache var/cache/debconf/*-old var/lib/dpkg/*-old etc/machine-id
	: >etc/resolv.conf; : >etc/machine-id
	echo localhost >etc/hostname
	mtime=$(stat -c %Y usr/share/keyrings/debian-archive-keyring.gpg)
	tar --sort=name --numeric-owner --clamp-mtime --mtime="@$mtime" --exclude="./dev/*" --exclude="./proc/*" --exclude="./sys/*" -cf ../rootfs.tar .
	chown "$2" ../rootfs.tar
' bash "$root" "$(id -u):$(id -g)"
mv "$work/rootfs.tar" "$out/rootfs.tar"

#!/bin/bash
# Builds a base image from Debian's static busybox, the example "hello" on top of it,
# and runs the result, as root or as an ordinary user. Needs no registry and no network.
#
#   demo.sh STRAKE
#
# Its store is a folder beside the program, which is removed at the end.
set -euo pipefail

strake=$(realpath "${1:?usage: demo.sh STRAKE}")
examples=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d "$(dirname "$strake")/demo.XXXXXX")
trap 'chmod -R u+rwX "$work" && rm -rf "$work"' EXIT
export STRAKE_ROOT=$work/store

run() {
	printf '\n$ strake %s\n' "$*"
	"$strake" "$@"
}

mkdir "$work/busybox"
cp /bin/busybox "$work/busybox/busybox"

cd "$examples"
run version
run build --progress plain -t localhost/busybox -f bases/busybox/Dockerfile "$work/busybox"
run build --progress plain -t hello:1.0 --build-arg WHO="$(id -un)" hello
printf '\nOnce more, with nothing changed:\n'
run build --progress plain -t hello:1.0 --build-arg WHO="$(id -un)" hello
run images
run run --rm hello:1.0

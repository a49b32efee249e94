#!/bin/bash
# Makes the context of this folder's Dockerfile: go.tar, the machine's own Go.
#
#   gotar.sh DIR
#
# It is packed again when the machine's Go changes.
set -euo pipefail
export LC_ALL=C

out=${1:?usage: gotar.sh DIR}
go=${GO:-$(command -v go || echo /usr/local/go/bin/go)}
version=$(cd / && "$go" env GOVERSION)
goroot=$(cd / && "$go" env GOROOT)
mkdir -p "$out"
if [ "$(cat "$out/.version" 2>/dev/null)" = "$version" ] && [ -s "$out/go.tar" ]; then exit 0; fi

# Without what a build of programs never reads.
tar --sort=name --numeric-owner --owner=0 --group=0 --mode=u+w,go=rX --mtime=@0 --transform='s,^\.,go,' \
	--exclude=./test --exclude=./doc --exclude=./api --exclude=./misc --exclude=./pkg/obj --exclude='*_test.go' --exclude='*/testdata' \
	-C "$goroot" -cf "$out/.go.tar" .
mv "$out/.go.tar" "$out/go.tar"
echo "$version" >"$out/.version"

package rootfs_test

import (
	"testing"

	"github.com/strake-build/strake/layer/rootfs"
)

func TestOverrideFormat(t *testing.T) {
	for _, s := range []string{"0:0:644", "1000:65534:4755", "5:6:620:char-4-64", "0:0:660:block-8-300"} {
		o, ok := rootfs.ParseOverride(s)
		if !ok || o.String() != s {
			t.Errorf("%s: %q, %v", s, o.String(), ok)
		}
	}
	for _, s := range []string{"", "0:0", "a:0:644", "0:0:9", "-1:0:644", "4294967295:0:644", "0:0:644:char-1", "0:0:644:char-4096-1", "0:0:644:block-x-1"} {
		if o, ok := rootfs.ParseOverride(s); ok {
			t.Errorf("%q was taken: %+v", s, o)
		}
	}
	if o, ok := rootfs.ParseOverride("1:2:0755:dir\x00"); !ok || o != (rootfs.Override{UID: 1, GID: 2, Mode: 0o755}) {
		t.Error(o, ok)
	}
}

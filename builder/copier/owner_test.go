package copier

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strake-build/strake/layer"
	"github.com/strake-build/strake/layer/rootfs"
)

func userRoot(t *testing.T, passwd, group string) (*rootfs.Root, string) {
	t.Helper()
	dir := t.TempDir()
	err := os.Mkdir(filepath.Join(dir, "etc"), 0o755)
	for name, text := range map[string]string{"passwd": passwd, "group": group} {
		if text != "" {
			err = errors.Join(err, os.WriteFile(filepath.Join(dir, "etc", name), []byte(text), 0o644))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	root, err := rootfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	return root, dir
}

func TestOwner(t *testing.T) {
	root, _ := userRoot(t, "root:x:0:0::/:/bin/sh\n# comment\n\nuser:x:1000:1001::/home/user:\nshort:x\nhalf:x:8\n  spaced:x:5:6::\nbad:x:one:2::\nminus:x:-1:2::\nuser:x:7:7::/:\n",
		"root:x:0:\nstaff:x:50:user\nnone:x::\nbad:x:y:\n")
	for _, c := range []struct {
		in       string
		uid, gid int
		err      string
	}{
		{in: ""},
		{in: "root"},
		{in: "0"},
		{in: "root:root"},
		{in: "user", uid: 1000, gid: 1001},
		{in: "user:staff", uid: 1000, gid: 50},
		{in: "user:7", uid: 1000, gid: 7},
		{in: "12", uid: 12, gid: 12},
		{in: "12:34", uid: 12, gid: 34},
		{in: "12:staff", uid: 12, gid: 50},
		{in: ":staff", gid: 50},
		{in: "user:", uid: 1000},
		{in: "spaced", uid: 5, gid: 6},
		{in: "2147483647", uid: 2147483647, gid: 2147483647},
		{in: "+7:07", uid: 7, gid: 7},
		{in: "-1"},
		{in: "-5:-2", uid: 4294967291, gid: 4294967294},
		{in: "nosuch", err: "unable to find user nosuch: no matching entries in passwd file"},
		{in: "short"},
		{in: "half", uid: 8},
		{in: "user:nosuch", uid: 1000, gid: 1001, err: "unable to find group nosuch: no matching entries in group file"},
		{in: "nosuch:staff", gid: 50, err: "unable to find user nosuch: no matching entries in passwd file"},
		{in: "bad", err: "user bad in /etc/passwd: invalid id \"one\""},
		{in: "minus", err: "user minus in /etc/passwd: invalid id \"-1\""},
		{in: "1:bad", uid: 1, gid: 1, err: "group bad in /etc/group: invalid id \"y\""},
		{in: "1:none", uid: 1},
		{in: "2147483648", err: "unable to find user 2147483648"},
		{in: "1:99999999999", uid: 1, gid: 1, err: "unable to find group 99999999999"},
		{in: "1:2:3", uid: 1, gid: 1, err: "unable to find group 2:3"},
	} {
		o, err := Owner(root, c.in)
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: %v, want %s", c.in, err, c.err)
		}
		if want := (layer.Owner{UID: c.uid, GID: c.gid}); o != want {
			t.Errorf("%q: %v, want %v", c.in, o, want)
		}
	}
}

func TestOwnerHostileFiles(t *testing.T) {
	root, dir := userRoot(t, "", "")
	if _, err := Owner(root, "user"); !isUnknown(err) {
		t.Errorf("no passwd file: %v", err)
	}
	passwd := filepath.Join(dir, "etc/passwd")
	host := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(host, []byte("user:x:66:66::/:\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{host, "../../../../../../../../" + host} {
		if err := os.Symlink(target, passwd); err != nil {
			t.Fatal(err)
		}
		if o, err := Owner(root, "user"); !isUnknown(err) {
			t.Errorf("a link to %s was followed out of the root: %v, %v", target, o, err)
		}
		_ = os.Remove(passwd)
	}
	if err := os.Symlink("passwd", passwd); err != nil {
		t.Fatal(err)
	}
	if _, err := Owner(root, "user"); err == nil || isUnknown(err) {
		t.Errorf("a loop: %v", err)
	}
	_ = os.Remove(passwd)
	if err := os.Mkdir(passwd, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Owner(root, "user"); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a folder: %v", err)
	}
	_ = os.Remove(passwd)
	for name, text := range map[string]string{
		"a long line":  strings.Repeat("x", 1<<20) + "\nuser:x:1:1::/:\n",
		"a large file": strings.Repeat(strings.Repeat("x", 1000)+"\n", 11<<10) + "user:x:1:1::/:\n",
	} {
		if err := os.WriteFile(passwd, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Owner(root, "user"); err == nil || isUnknown(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMakeDir(t *testing.T) {
	needRoot(t)
	root, dir := userRoot(t, "user:x:1000:1001::/:\n", "")
	build(t, dir, "there/%1777@3:4 link->there out->/../../new file=x group/%2775@0:50")
	user, root0 := &layer.Owner{UID: 1000, GID: 1001}, &layer.Owner{}
	for _, c := range []struct {
		dir   string
		owner *layer.Owner
		err   string
	}{
		{dir: "/a/b"},
		{dir: "/group/x/y"},
		{dir: "/group/user", owner: user},
		{dir: "/group/root", owner: root0},
		{dir: "/there/x/y", owner: user},
		{dir: "/link", owner: user},
		{dir: "/link/z", owner: &layer.Owner{UID: 4242, GID: 4343}},
		{dir: "/out/w"},
		{dir: "/"},
		{dir: "/file", err: "not a directory"},
		{dir: "/file/x", err: "not a directory"},
	} {
		err := MakeDir(root, c.dir, c.owner, nil)
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, want %s", c.dir, err, c.err)
		}
	}
	want := "a/ a/b/ etc/ etc/passwd=user:x:1000:1001::/: file=x group/%2775@0:50 group/root/%2755 group/user/%2755@1000:1001 group/x/%2755@0:50 group/x/y/%2755@0:50 link->there new/ new/w/ out->/../../new there/%1777@3:4 there/x/@1000:1001 there/x/y/@1000:1001 there/z/@4242:4343"
	if got := show(t, dir); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestMakeDirTime(t *testing.T) {
	needRoot(t)
	root, dir := userRoot(t, "", "")
	build(t, dir, "there/")
	at := int64(1000)
	if err := MakeDir(root, "/there/x/y", nil, &at); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"there/x/y": true, "there/x": true, "there": false} {
		st, err := root.Stat(name)
		if err != nil || (st.Mtim.Sec == at) != want {
			t.Errorf("%s: %+v, %v", name, st.Mtim, err)
		}
	}
}

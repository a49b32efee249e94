package device_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/strake-build/strake/builder/device"
)

const gpus = `
cdiVersion: "0.6.0"
kind: vendor.com/gpu
annotations:
  org.mobyproject.buildkit.device.class: accelerators
containerEdits:
  env: [COMMON=1]
devices:
- name: b
  containerEdits:
    env: [B=2, COMMON=3]
    deviceNodes:
    - path: /dev/gpu
      hostPath: /dev/zero
      type: c
      major: 1
      minor: 5
      permissions: rw
    mounts:
    - {hostPath: /usr/lib/gpu, containerPath: /opt/gpu/lib/, options: [ro, nosuid, nodev, rbind]}
    - {hostPath: /etc, containerPath: /opt}
- name: a
  annotations:
    org.mobyproject.buildkit.device.autoallow: "true"
  containerEdits:
    env: [A=1]
`

func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func open(t *testing.T, folders ...string) *device.Registry {
	t.Helper()
	r, err := device.Open(folders)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// one is a specification in JSON of one device of the kind v.org/c with these edits.
func one(name, edits string) string {
	return fmt.Sprintf(`{"cdiVersion": "0.6.0", "kind": "v.org/c", "devices": [{"name": %q, "containerEdits": {%s}}]}`, name, edits)
}

func TestFind(t *testing.T) {
	r := open(t, filepath.Join(t.TempDir(), "nothere"), folder(t, map[string]string{
		"gpu.yml": gpus, "one.json": one("x", `"env": ["X=1"]`), "ignored.txt": "{", ".json": "{",
	}))
	for name, want := range map[string]string{
		"vendor.com/gpu=b":  "vendor.com/gpu=b",
		"vendor.com/gpu":    "vendor.com/gpu=a",
		"vendor.com/gpu=*":  "vendor.com/gpu=a vendor.com/gpu=b",
		"accelerators":      "vendor.com/gpu=a vendor.com/gpu=b",
		"v.org/c=x":         "v.org/c=x",
		"vendor.com/gpu=c":  "",
		"vendor.com/gp":     "",
		"vendor.com":        "",
		"":                  "",
		"=":                 "",
		"vendor.com/gpu=b,": "",
	} {
		if got := strings.Join(r.Find(name), " "); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}

func TestLaterFoldersHideEarlierOnes(t *testing.T) {
	etc := folder(t, map[string]string{"a.json": one("x", `"env": ["FROM=etc"]`), "b.json": one("y", `"env": ["Y=1"]`)})
	run := folder(t, map[string]string{"a.yaml": one("x", `"env": ["FROM=run"]`)})
	e, err := open(t, etc, run).Edits([]string{"v.org/c=x", "v.org/c=y"})
	if want := []string{"FROM=run", "Y=1"}; err != nil || !reflect.DeepEqual(e.Env, want) {
		t.Errorf("got %q, %v", e.Env, err)
	}
	twice := folder(t, map[string]string{"a.json": one("x", `"env": ["A=1"]`), "b.json": one("x", `"env": ["B=1"]`)})
	_, _, err = open(t, etc, twice).Resolve([]device.Request{{Name: "v.org/c=x", Required: true}}, device.Rights{All: true})
	if err == nil || !strings.Contains(err.Error(), "v.org/c=x is in ") {
		t.Errorf("two of one name: %v", err)
	}
}

func TestResolve(t *testing.T) {
	r := open(t, folder(t, map[string]string{"gpu.yaml": gpus, "c.json": one("x", `"env": ["X=1"]`)}))
	rights := func(values ...string) (r device.Rights) {
		for _, v := range values {
			if err := r.Add(v); err != nil {
				t.Fatal(err)
			}
		}
		return r
	}
	for _, c := range []struct {
		rights              device.Rights
		ask                 string
		names, missing, err string
	}{
		{rights(""), "vendor.com/gpu=b vendor.com/gpu vendor.com/gpu=b", "vendor.com/gpu=b vendor.com/gpu=a", "", ""},
		{rights(), "vendor.com/gpu=a", "vendor.com/gpu=a", "", ""},
		{rights(), "vendor.com/gpu=b", "", "", "device vendor.com/gpu=b is requested by the build but not allowed: build with --allow device=vendor.com/gpu=b"},
		{rights("vendor.com/gpu=a"), "v.org/c=x vendor.com/gpu=b v.org/c", "", "", "devices v.org/c=x, vendor.com/gpu=b are requested by the build but not allowed: build with --allow device"},
		{rights("vendor.com/gpu=*", "v.org/c=x"), "v.org/c vendor.com/gpu=b", "v.org/c=x vendor.com/gpu=b", "", ""},
		{rights("v.org/c=x,alias=mine"), "mine", "v.org/c=x", "", ""},
		{rights("v.org/c=x,alias=mine"), "v.org/c=x", "", "", "device v.org/c=x is requested"},
		{rights("accelerators"), "vendor.com/gpu=b", "vendor.com/gpu=b", "", ""},
		{rights(), "nothere v.org/c=q", "", "nothere v.org/c=q", ""},
		{rights(""), "v.org/c=x !nothere", "", "", `required device "nothere" is not registered`},
	} {
		var requests []device.Request
		for _, f := range strings.Fields(c.ask) {
			name, required := strings.CutPrefix(f, "!")
			requests = append(requests, device.Request{Name: name, Required: required})
		}
		names, missing, err := r.Resolve(requests, c.rights)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if strings.Join(names, " ") != c.names || strings.Join(missing, " ") != c.missing || !strings.HasPrefix(text, c.err) || c.err == "" && err != nil {
			t.Errorf("%q: got %q, %q, %v", c.ask, names, missing, err)
		}
	}
	for _, bad := range []string{",alias=x", "a,b", "a,alias=", "a,other=b", `"a`} {
		var r device.Rights
		if err := r.Add(bad); err == nil {
			t.Errorf("%q is fine", bad)
		}
	}
}

func TestEdits(t *testing.T) {
	r := open(t, folder(t, map[string]string{"gpu.yaml": gpus}))
	got, err := r.Edits([]string{"vendor.com/gpu=b", "vendor.com/gpu=a"})
	want := device.Edits{
		Env: []string{"COMMON=1", "B=2", "COMMON=3", "A=1"},
		Mounts: []device.Mount{
			{Source: "/etc", Target: "/opt"},
			{Source: "/usr/lib/gpu", Target: "/opt/gpu/lib", ReadOnly: true, NoSuid: true, NoDev: true},
			{Source: "/dev/zero", Target: "/dev/gpu"},
		},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}

// Hooks, groups and file systems of their own, as programs that write specifications have them.
func TestEditsOfABox(t *testing.T) {
	text := one("x", `
		"hooks": [
			{"hookName": "createContainer", "path": "/usr/bin/nvidia-cdi-hook", "args": ["nvidia-cdi-hook", "create-symlinks", "--link", "a::/b"], "env": ["A=1"]},
			{"hookName": "poststop", "path": "/bin/x", "timeout": 3}],
		"additionalGids": [0, 44, 109, 44],
		"mounts": [{"hostPath": "tmpfs", "containerPath": "/t", "type": "tmpfs", "options": ["mode=1770", "size=2M", "uid=3", "gid=4", "noexec", "nosuid"]}]`)
	got, err := open(t, folder(t, map[string]string{"a.json": text})).Edits([]string{"v.org/c=x"})
	want := device.Edits{
		Hooks: []device.Hook{
			{Name: "createContainer", Path: "/usr/bin/nvidia-cdi-hook", Args: []string{"nvidia-cdi-hook", "create-symlinks", "--link", "a::/b"}, Env: []string{"A=1"}},
			{Name: "poststop", Path: "/bin/x", Timeout: 3 * time.Second},
		},
		Groups: []uint32{44, 109},
		Mounts: []device.Mount{{Target: "/t", Tmpfs: true, Mode: 0o1770, Size: 2 << 20, UID: 3, GID: 4, NoExec: true, NoSuid: true}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
}

// What cannot be done is an error that names it, of those who ask for the device only.
func TestEditsThatAreNotMade(t *testing.T) {
	for edits, want := range map[string]string{
		`"hooks": [{"hookName": "startContainer", "path": "/bin/x"}]`:                                "asks for a startContainer hook, which",
		`"intelRdt": {"closID": "x"}, "additionalGids": [3]`:                                         "asks for intelRdt, which",
		`"netDevices": [{"hostInterfaceName": "a", "name": "b"}]`:                                    "asks for netDevices, which",
		`"mounts": [{"hostPath": "/a", "containerPath": "/b", "type": "ext4"}]`:                      `type "ext4"`,
		`"mounts": [{"hostPath": "/a", "containerPath": "/b", "options": ["size=1m"]}]`:              `option "size=1m"`,
		`"mounts": [{"containerPath": "/b", "type": "tmpfs", "options": ["size=x"]}]`:                `option "size=x": "x" is not a number`,
		`"mounts": [{"containerPath": "/b", "type": "tmpfs", "options": ["size="]}]`:                 `option "size=": "" is not a number`,
		`"mounts": [{"containerPath": "/b", "type": "tmpfs", "options": ["mode=999"]}]`:              `option "mode=999": "999" is not a number`,
		`"mounts": [{"containerPath": "/b", "type": "tmpfs", "options": ["huge=always"]}]`:           `option "huge=always" is not supported`,
		`"mounts": [{"hostPath": "/a", "containerPath": "/b", "options": ["rshared"]}]`:              `option "rshared"`,
		`"deviceNodes": [{"path": "/dev/no-such-device"}]`:                                           "no such file",
		`"deviceNodes": [{"path": "/etc"}]`:                                                          "not a device",
		`"deviceNodes": [{"path": "/dev/zero", "permissions": "r"}]`:                                 `permissions "r"`,
		`"deviceNodes": [{"path": "/dev/zero", "type": "b"}]`:                                        "it is c 1:5 on the host",
		`"deviceNodes": [{"path": "/dev/zero", "type": "c", "major": 1, "minor": 3}]`:                "it is c 1:5 on the host",
		`"deviceNodes": [{"path": "/dev/x", "hostPath": "/dev/zero", "fileMode": 256}]`:              "another mode",
		`"deviceNodes": [{"path": "/dev/x", "hostPath": "/dev/zero", "uid": 123456}]`:                "another mode or owner",
		`"deviceNodes": [{"path": "/dev/x", "hostPath": "/dev/zero", "type": "u", "fileMode": 436}]`: "mode",
	} {
		_, err := open(t, folder(t, map[string]string{"a.json": one("x", edits)})).Edits([]string{"v.org/c=x"})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "device v.org/c=x: ") {
			t.Errorf("%s: %v", edits, err)
		}
	}
}

func TestBadSpecifications(t *testing.T) {
	fine := one("x", `"env": ["A=1"]`)
	for text, want := range map[string]string{
		"{":                                    "unexpected EOF",
		"a: [":                                 "did not find",
		"":                                     "unknown CDI version",
		strings.Replace(fine, "0.6.0", "7", 1): `unknown CDI version "7"`,
		strings.Replace(fine, "v.org/c", "v.org", 1):                                `invalid kind "v.org"`,
		strings.Replace(fine, "v.org/c", "v.org/c/d", 1):                            "invalid kind",
		strings.Replace(fine, `"x"`, `"-x"`, 1):                                     `invalid device name "-x"`,
		strings.Replace(fine, "devices", "devize", 1):                               "unknown field",
		strings.Replace(fine, "A=1", "A", 1):                                        `invalid environment variable "A"`,
		one("x", ""):                                                                "no containerEdits",
		one("x", `"mounts": [{"hostPath": "a", "containerPath": "/b"}]`):            "not absolute",
		one("x", `"deviceNodes": [{"path": "../a"}]`):                               "not absolute",
		one("x", `"deviceNodes": [{"path": "/a", "type": "q"}]`):                    "unknown type",
		one("x", `"deviceNodes": [{"path": "/a", "permissions": "q"}]`):             "invalid permissions",
		one("x", `"hooks": [{"hookName": "x", "path": "/a"}]`):                      "invalid hookName",
		one("x", `"hooks": [{"hookName": "poststop", "path": "a"}]`):                "not absolute",
		one("x", `"hooks": [{"hookName": "poststop", "path": "/a", "timeout": 0}]`): "not positive",
		one("x", `"hooks": [{"hookName": "poststop", "path": "/a", "env": ["A"]}]`): "invalid environment variable",
		`{"cdiVersion": "0.6.0", "kind": "v.org/c"}`:                                "no devices",
		fine + strings.Repeat(" ", 4<<20):                                           "longer than",
	} {
		ext := ".yaml"
		if strings.HasPrefix(text, "{") {
			ext = ".json"
		}
		if want == "unknown CDI version" {
			want = "EOF" // null is no object in JSON
			text, ext = "", ".json"
		}
		dir := folder(t, map[string]string{"bad" + ext: text, "good.json": one("good", `"env": ["A=1"]`)})
		r := open(t, dir)
		if len(r.Find("v.org/c=good")) != 1 {
			t.Errorf("%.100s: the other file was not read", text)
		}
		_, _, err := r.Resolve([]device.Request{{Name: "v.org/c=q", Required: true}}, device.Rights{})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "bad"+ext) {
			t.Errorf("%.100s: %.300v", text, err)
		}
	}
}

// A pipe is not waited for, a link to a file is followed.
func TestOddFiles(t *testing.T) {
	dir := folder(t, map[string]string{"real": one("x", `"env": ["A=1"]`)})
	if err := os.Symlink("real", filepath.Join(dir, "a.json")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nothing", filepath.Join(dir, "b.json")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/zero", filepath.Join(dir, "c.json")); err != nil {
		t.Fatal(err)
	}
	if got := open(t, dir).Find("v.org/c=x"); len(got) != 1 {
		t.Errorf("got %q", got)
	}
}

package sandbox

import (
	"fmt"
	"strings"
	"testing"
)

const (
	testPasswd = `# comment
root:x:0:0:root:/root:/bin/sh

daemon:x:1:1::/usr/sbin:
bad line
app:x:1000:1001:App:/home/app:/bin/sh
huge:x:99999999999:1::/:
nohome:x:5:6
123:x:7:8::/n:
second:x:1000:9::/second:
`
	testGroup = `root:x:0:
wheel:x:10:root,app
app:x:1001:
docker:x:999:app,daemon
numbers:x:44:
80:x:55:
broken
`
)

func TestLookupUser(t *testing.T) {
	for _, c := range []struct{ spec, want string }{
		{"", "0:0 [0] /root"},
		{"root", "0:0 [0 10] /root"},
		{"0", "0:0 [0 10] /root"},
		{"app", "1000:1001 [1001 10 999] /home/app"},
		{"1000", "1000:1001 [1001 10 999] /home/app"},
		{"app:docker", "1000:999 [999] /home/app"},
		{"app:44", "1000:44 [44] /home/app"},
		{"app:", "1000:1001 [1001 10 999] /home/app"},
		{"4242", "4242:0 [0] /"},
		{"4242:4343", "4242:4343 [4343] /"},
		{":docker", "0:999 [999] /root"},
		{"nohome", "5:6 [6] /"},
		{"123", "123:0 [0] /"}, // a number, also where it is somebody's name
		{"app:80", "1000:80 [80] /home/app"},
		{"second", "1000:9 [9] /home/app"}, // the home of a number is that of its first line
		{"nobody", "unable to find user nobody: no matching entries in passwd file"},
		{"app:nogroup", "unable to find group nogroup: no matching entries in group file"},
		{"huge", "unable to find user huge: no matching entries in passwd file"},
		{"-1", "user -1: uids and gids must be in range 0-2147483647"},
		{"2147483648", "user 2147483648: uids and gids must be in range 0-2147483647"},
		{"app:4294967296", "group 4294967296: uids and gids must be in range 0-2147483647"},
		{"99999999999999999999", "user 99999999999999999999: uids and gids must be in range 0-2147483647"},
	} {
		id, err := lookupUser(c.spec, strings.NewReader(testPasswd), strings.NewReader(testGroup))
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = fmt.Sprintf("%d:%d %v %s", id.UID, id.GID, id.Groups, id.Home)
		}
		if got != c.want {
			t.Errorf("%q: got %q, want %q", c.spec, got, c.want)
		}
	}
}

func FuzzLookupUser(f *testing.F) {
	f.Add("app:docker", testPasswd, testGroup)
	f.Add("0", "", "")
	f.Fuzz(func(t *testing.T, spec, passwd, group string) {
		id, err := lookupUser(spec, strings.NewReader(passwd), strings.NewReader(group))
		if err != nil {
			return
		}
		if id.UID > maxID || id.GID > maxID || id.Home == "" || len(id.Groups) == 0 || id.Groups[0] != id.GID {
			t.Errorf("%q: %+v", spec, id)
		}
	})
}

func TestCgroupsV1(t *testing.T) {
	got := cgroupsV1("9:name=systemd:/\n2:cpu,cpuacct:/x:y\n0::/\nbad\n")
	if fmt.Sprint(got) != "[name=systemd cpu,cpuacct]" {
		t.Errorf("got %v", got)
	}
}

package supervisor

import (
	"errors"
	"maps"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/runner/seccomp"
	"github.com/strake-build/strake/runner/seccomp/seccomptest"
)

func TestOverride(t *testing.T) {
	for _, c := range []struct {
		text string
		want override
		ok   bool
	}{
		{"1:2:644", override{owner: owner{1, 2}, mode: 0o644}, true},
		{"4294967295:0:100644", override{owner: owner{1<<32 - 1, 0}, mode: 0o100644}, true},
		{"0:7:4711:char-1-3", override{owner: owner{0, 7}, mode: 0o4711, kind: "char-1-3"}, true},
		{"", override{}, false},
		{"1:2", override{}, false},
		{"-1:2:644", override{}, false},
		{"1:4294967296:644", override{}, false},
		{"1:2:689", override{}, false},
	} {
		got, ok := parseOverride(c.text)
		if got != c.want || ok != c.ok {
			t.Errorf("%q: got %+v, %v", c.text, got, ok)
		}
		if ok && got.String() != c.text {
			t.Errorf("%q became %q", c.text, got)
		}
	}
}

func FuzzOverride(f *testing.F) {
	f.Add("1:2:644")
	f.Add("0:7:4711:char-1-3")
	f.Fuzz(func(t *testing.T, text string) {
		o, ok := parseOverride(text)
		if !ok {
			return
		}
		if again, ok := parseOverride(o.String()); !ok || again != o {
			t.Errorf("%q: %+v became %+v", text, o, again)
		}
	})
}

func TestOwnerTable(t *testing.T) {
	table := ownerTable{"z": {1, 2}, "a b": {3, 4}, "100%": {5, 6}, "two\nlines": {7, 8}, "é": {9, 9}}
	const text = "5:6 100%25\n3:4 a b\n7:8 two%0Alines\n1:2 z\n9:9 é\n"
	if got := table.String(); got != text {
		t.Errorf("got %q", got)
	}
	if got := parseOwnerTable(text); !maps.Equal(got, table) {
		t.Errorf("got %v", got)
	}
	bad := "x\n1:2\n1:2 \n1 name\n1:-1 name\n1:2 a/b\n1:2 %zz\n1:2 %2\n99999999999:1 name\n"
	if got := parseOwnerTable(bad); len(got) != 0 {
		t.Errorf("got %v", got)
	}
}

func FuzzOwnerTable(f *testing.F) {
	f.Add("5:6 100%25\n3:4 a b\n7:8 two%0Alines\n")
	f.Fuzz(func(t *testing.T, text string) {
		table := parseOwnerTable(text)
		if again := parseOwnerTable(table.String()); !maps.Equal(again, table) {
			t.Errorf("%q: %v became %v", text, table, again)
		}
	})
}

// What the kernel's own /proc tests in boxes show for all calls is not repeated here.
func TestIDs(t *testing.T) {
	user := ids{1, 2, 3, 2}
	for _, c := range []struct {
		name string
		f    func() (ids, error)
		want ids
		err  error
	}{
		{"root may all", func() (ids, error) { return ids{}.setOne(9, true) }, ids{9, 9, 9, 9}, nil},
		{"back to saved", func() (ids, error) { return user.setOne(3, false) }, ids{1, 3, 3, 3}, nil},
		{"not to effective", func() (ids, error) { return user.setOne(2, false) }, user, unix.EPERM},
		{"keep is no id", func() (ids, error) { return user.setOne(keep, true) }, user, unix.EINVAL},
		{"swap", func() (ids, error) { return user.setTwo(2, 1, false) }, ids{2, 1, 1, 1}, nil},
		{"real not from saved", func() (ids, error) { return user.setTwo(3, keep, false) }, user, unix.EPERM},
		{"effective alone", func() (ids, error) { return user.setTwo(keep, 1, false) }, ids{1, 1, 3, 1}, nil},
		{"three", func() (ids, error) { return user.setThree(3, 1, 2, false) }, ids{3, 1, 2, 1}, nil},
		{"three others", func() (ids, error) { return user.setThree(3, 1, 4, false) }, user, unix.EPERM},
		{"fs", func() (ids, error) { return user.setFS(3, false), nil }, ids{1, 2, 3, 3}, nil},
		{"fs of others", func() (ids, error) { return user.setFS(4, false), nil }, user, nil},
	} {
		if got, err := c.f(); got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: got %v, %v, want %v, %v", c.name, got, err, c.want, c.err)
		}
	}
}

func TestMay(t *testing.T) {
	user := &credentials{user: ids{5, 5, 5, 5}, group: ids{6, 6, 6, 6}, groups: []uint32{7}}
	for _, c := range []struct {
		who        *credentials
		of         owner
		mode, want uint32
		ok         bool
	}{
		{user, owner{5, 9}, 0o700, 7, true},
		{user, owner{5, 9}, 0o077, 4, false},
		{user, owner{1, 6}, 0o070, 6, true},
		{user, owner{1, 7}, 0o707, 1, false},
		{user, owner{1, 1}, 0o771, 1, true},
		{user, owner{1, 1}, 0o771, 3, false},
		{&credentials{}, owner{1, 1}, 0, 7, true},
	} {
		if got := c.who.may(c.of, c.mode, c.want); got != c.ok {
			t.Errorf("%+v: got %v", c, got)
		}
	}
}

// Of the init's /proc, nothing but the caller's descriptors can be named.
func TestOwnDescriptors(t *testing.T) {
	r := &request{notification: notification{pid: 42}}
	for path, want := range map[string]string{
		"/proc/self/fd/3": "42/fd/3", "/dev/fd/0": "42/fd/0", "/dev/stderr": "42/fd/2", "/proc/thread-self/fd/9": "42/fd/9",
		"/proc/self/fd/../root": "", "/proc/self/fd/": "", "/proc/self/root": "", "/dev/fd/-1": "", "/proc/self/fd/1/x": "", "/proc/self/../1/root": "", "/dev/stdin/": "",
	} {
		if got, ok := (target{path: path}).own(r); got != want || ok != (want != "") {
			t.Errorf("%s: got %q, %v", path, got, ok)
		}
	}
}

func TestWithoutRecords(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "user.a\x00": "user.a\x00", "user.a\x00user.strake.owners\x00user.b\x00": "user.a\x00user.b\x00", "user.containers.override_stat\x00": "",
	} {
		if got, hidden := withoutRecords(in); got != want || hidden != (in != want) {
			t.Errorf("%q: got %q, %v", in, got, hidden)
		}
	}
}

func TestSplitName(t *testing.T) {
	for name, want := range map[string][2]string{
		"a/b": {"a/", "b"}, "a/": {"a/", ""}, "/a": {"/", "a"}, "a/..": {"a/", ""}, "a/.": {"a/", ""}, "a": {"", "a"},
	} {
		if dir, last := splitName(name); dir != want[0] || last != want[1] {
			t.Errorf("%s: got %q, %q", name, dir, last)
		}
	}
}

// The calls that a filter reports have a handler, and the other way round.
func TestRulesAndHandlers(t *testing.T) {
	handlers := slices.Sorted(maps.Keys((&Ownership{}).calls()))
	prog := insns(t, func(uint64) ([]byte, error) { return OpenFilter(Owners, Users) })
	root := insns(t, func(uint64) ([]byte, error) { return OpenFilter(Owners) })
	for _, a := range seccomp.Architectures() {
		for nr := range uint32(600) {
			name, reported := nameOf(a, nr), false
			for _, args := range [][6]uint64{{}, {15, 15}, {0, 64, 64}, {0, unix.S_IFIFO, unix.S_IFIFO}} {
				reported = reported || seccomptest.Execute(t, prog, seccomptest.Data{NR: nr, Arch: a.Audit, Args: args}) == unix.SECCOMP_RET_USER_NOTIF
			}
			if _, ok := slices.BinarySearch(handlers, name); ok != reported && name != "" {
				t.Errorf("%s of %#x: reported %v, served %v", name, a.Audit, reported, ok)
			}
			// Root does not pay for what only users are refused.
			action := seccomptest.Execute(t, root, seccomptest.Data{NR: nr, Arch: a.Audit})
			_, users := (&Ownership{}).userCalls()[name]
			if (users || name == "open" || name == "openat") && action != unix.SECCOMP_RET_ALLOW {
				t.Errorf("%s of %#x is reported for root", name, a.Audit)
			}
		}
	}
}

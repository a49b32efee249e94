package main

import (
	"testing"

	"github.com/strake-build/strake/builder/store"
)

func TestMountCaps(t *testing.T) {
	disk := store.Disk{Size: 4_096_000}
	for name, c := range map[string]struct {
		env  string
		args []string
		want map[string]int64
	}{
		"none":              {"", nil, map[string]int64{"": 0, "/c": 0}},
		"each":              {"", []string{"1g"}, map[string]int64{"/c": 1 << 30}},
		"one":               {"", []string{"/c=1g"}, map[string]int64{"/c": 1 << 30, "/d": 0, "/c/e": 0}},
		"one less limited":  {"", []string{"/c=2m", "1m"}, map[string]int64{"/c": 2 << 20, "/d": 1 << 20}},
		"one not limited":   {"", []string{"1m", "/c=0"}, map[string]int64{"/c": 0, "/d": 1 << 20}},
		"the later":         {"", []string{"/c=1m", "/c=2m"}, map[string]int64{"/c": 2 << 20}},
		"of the disk":       {"", []string{"10%"}, map[string]int64{"/c": 409_600}},
		"= in the ID":       {"", []string{"a=b=1m"}, map[string]int64{"a=b": 1 << 20, "a": 0}},
		"environment":       {"1m, /c=2m", nil, map[string]int64{"/c": 2 << 20, "/d": 1 << 20}},
		"flags are instead": {"1m,/c=2m", []string{"/d=3m"}, map[string]int64{"/c": 0, "/d": 3 << 20}},
		"flag for none":     {"1m,/c=2m", []string{"0"}, map[string]int64{"/c": 0, "/d": 0}},
	} {
		var args []string
		for _, a := range c.args {
			args = append(args, "--cache-mount-max-size="+a)
		}
		opts, err := decideBuild(testEnvironment(t, map[string]string{"STRAKE_CACHE_MOUNT_MAX_SIZE": c.env}), args...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for id, want := range c.want {
			if got := opts.mountMax.of(id, disk); got != want {
				t.Errorf("%s: %q may have %d, want %d", name, id, got, want)
			}
		}
	}
	for _, in := range []string{"", "/c=", "=1g", "much", "/c=much", "/c=101%", "-1", "1g/c"} {
		if opts, err := decideBuild(testEnvironment(t, nil), "--cache-mount-max-size="+in); exitCode(err) != codeUsage {
			t.Errorf("%q: %v, %v", in, opts.mountMax, err)
		}
	}
	if _, err := decideBuild(testEnvironment(t, map[string]string{"STRAKE_CACHE_MOUNT_MAX_SIZE": "1g,"})); exitCode(err) != codeUsage {
		t.Errorf("an empty entry: %v", err)
	}
}

func TestParseCap(t *testing.T) {
	disk := store.Disk{Size: 4_096_000}
	for in, want := range map[string]int64{"10%": 409_600, "0.5%": 20_480, "0%": 0, "0": 0, "1g": 1 << 30, "20MB": 20 << 20} {
		c, err := parseCap("--cache-max-size", in)
		if got := c.On(disk); err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"-1%", "101%", "%", "NaN%", "much", "-1g", "10 %x"} {
		if c, err := parseCap("--cache-max-size", in); exitCode(err) != codeUsage {
			t.Errorf("%s: %+v, %v", in, c, err)
		}
	}
}

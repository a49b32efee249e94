package main

import (
	"testing"

	"github.com/strake-build/strake/builder/store"
)

func TestParseCap(t *testing.T) {
	disk := store.Disk{Size: 4_096_000}
	for in, want := range map[string]int64{"10%": 409_600, "0.5%": 20_480, "0%": 0, "0": 0, "1g": 1 << 30, "20MB": 20 << 20} {
		c, err := parseCap("cache-max-size", in)
		if got := c.On(disk); err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"-1%", "101%", "%", "NaN%", "much", "-1g", "10 %x"} {
		if c, err := parseCap("cache-max-size", in); exitCode(err) != codeUsage {
			t.Errorf("%s: %+v, %v", in, c, err)
		}
	}
}

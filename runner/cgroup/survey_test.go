package cgroup

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestSurvey(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"memory/own", "pids/own", "v2/above/own"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "v2/cgroup.controllers"), []byte("cpu memory pids\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	at := func(mount, own string) place { return place{filepath.Join(dir, mount), filepath.Join(dir, mount, own)} }
	for _, c := range []struct {
		name string
		h    hierarchies
		want Survey
	}{
		{"none", hierarchies{}, Survey{}},
		{"v1", hierarchies{v1: map[string]place{"pids": at("pids", "own"), "memory": at("memory", "own"), "cpu": at("cpu", "missing"), "name=systemd": at("pids", "own")}}, Survey{Version: 1, Controllers: []string{"memory", "pids"}}},
		{"v2", hierarchies{v2: at("v2", "above/own")}, Survey{Version: 2, Controllers: []string{"cpu", "memory", "pids"}, Dir: filepath.Join(dir, "v2/strake")}},
		{"v2, nothing delegated", hierarchies{v2: at("pids", "own")}, Survey{Version: 2}},
	} {
		if got := c.h.survey(); got.Version != c.want.Version || got.Dir != c.want.Dir || !slices.Equal(got.Controllers, c.want.Controllers) {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
	if s, err := Look(); err != nil || s.Version > 2 {
		t.Errorf("Look gave %+v, %v", s, err)
	}
}

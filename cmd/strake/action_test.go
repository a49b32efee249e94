package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestAction runs the steps of action.yml as GitHub's runner does, but for what needs that one's settings.
func TestAction(t *testing.T) {
	var action struct {
		Name, Description string
		Runs              struct {
			Using string
			Steps []struct {
				Shell, Run string
				Env        map[string]string
			}
		}
	}
	if err := yaml.Unmarshal([]byte(readDocument(t, "action.yml")), &action); err != nil {
		t.Fatal(err)
	}
	if action.Name == "" || action.Description == "" || action.Runs.Using != "composite" || len(action.Runs.Steps) == 0 {
		t.Fatalf("action.yml is %+v", action)
	}
	here, err := filepath.Abs(top)
	if err != nil {
		t.Fatal(err)
	}
	temp := t.TempDir()
	// The settings of this machine are not the test's to change.
	if err := os.WriteFile(filepath.Join(temp, "sysctl"), []byte("#!/bin/sh\necho 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	paths := filepath.Join(temp, "paths")
	for _, s := range action.Runs.Steps {
		cmd := exec.Command("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", s.Run)
		cmd.Dir = temp
		cmd.Env = append(os.Environ(), "GITHUB_ACTION_PATH="+here, "GITHUB_PATH="+paths, "RUNNER_TEMP="+temp, "PATH="+temp+":"+os.Getenv("PATH"), "STRAKE_ROOT="+filepath.Join(temp, "store"))
		for name, value := range s.Env {
			cmd.Env = append(cmd.Env, name+"="+strings.NewReplacer("${{ github.action_ref }}", "v9.8.7").Replace(value))
		}
		if out, err := cmd.CombinedOutput(); s.Shell != "bash" || err != nil {
			t.Fatalf("%s: %v\n%s", s.Shell, err, out)
		}
	}
	added, err := os.ReadFile(paths)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(filepath.Join(strings.TrimSpace(string(added)), "strake"), "version", "--format", "{{.Version}}").CombinedOutput()
	if string(out) != "v9.8.7\n" {
		t.Errorf("the strake on the path says %q, %v", out, err)
	}
}

package main

import (
	"bufio"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/strake-build/strake/runner"
)

// decideEnv reads the values of --env-file and -e; the latter come last and so win.
func decideEnv(env *environment, files, values []string) ([]string, error) {
	var out []string
	for _, file := range files {
		lines, err := readEnvFile(env, file)
		if err != nil {
			return nil, err
		}
		out = append(out, lines...)
	}
	for _, v := range values {
		if k, _, _ := strings.Cut(v, "="); k == "" {
			return nil, usagef("invalid environment variable: %s", v)
		}
		if kv, ok := env.expand(v); ok {
			out = append(out, kv)
		}
	}
	return out, nil
}

// readEnvFile reads lines of K=V or K, in docker's format: "#" begins a comment line, nothing is quoted.
func readEnvFile(env *environment, file string) ([]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("reading --env-file: %w", err)
	}
	defer f.Close()
	var out []string
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimLeft(strings.TrimPrefix(lines.Text(), "\uFEFF"), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		k, _, _ := strings.Cut(line, "=")
		if k == "" || strings.ContainsAny(k, " \t") {
			return nil, usagef("%s:%d: %q is not the name of a variable", file, n, k)
		}
		if kv, ok := env.expand(line); ok {
			out = append(out, kv)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading --env-file %s: %w", file, err)
	}
	return out, nil
}

// parseVolume parses a value of -v: SRC:DST[:ro].
func parseVolume(v string) (runner.Mount, error) {
	parts := strings.Split(v, ":")
	m := runner.Mount{Type: runner.Bind}
	switch {
	case len(parts) == 1:
		return m, usagef("invalid -v %q: anonymous volumes are not supported; it is SRC:DST[:ro]", v)
	case len(parts) > 3 || parts[0] == "" || parts[1] == "":
		return m, usagef("invalid -v %q: it is SRC:DST[:ro]", v)
	}
	if len(parts) == 3 {
		switch parts[2] {
		case "ro", "readonly":
			m.ReadOnly = true
		case "rw":
		default:
			return m, usagef("invalid -v %q: the option %q is not supported, only ro and rw are", v, parts[2])
		}
	}
	src, dst := parts[0], parts[1]
	if !strings.Contains(src, "/") && src != "." && src != ".." {
		return m, &usageError{
			err:  fmt.Errorf("invalid -v %q: named volumes are not supported", v),
			hint: fmt.Sprintf("for the folder %s here, write ./%s", src, v),
		}
	}
	if !path.IsAbs(dst) || path.Clean(dst) == "/" {
		return m, usagef("invalid -v %q: the destination must be an absolute path below /", v)
	}
	abs, err := filepath.Abs(src)
	if err != nil {
		return m, err
	}
	m.Source, m.Target = abs, path.Clean(dst)
	return m, nil
}

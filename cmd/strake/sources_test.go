package main

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/dockerfile"
	"github.com/strake-build/strake/runner"
)

func TestParseSecret(t *testing.T) {
	env := testEnvironment(t, map[string]string{"token": "x", "V": "y"})
	for in, want := range map[string]secretFlag{
		"id=a,src=f":                   {id: "a", file: "f", env: ""},
		"id=a,source=f":                {id: "a", file: "f", env: ""},
		"id=a,env=V":                   {id: "a", file: "", env: "V"},
		"id=a,type=env,src=V":          {id: "a", file: "", env: "V"},
		"id=token":                     {id: "token", file: "", env: "token"},
		"id=token,type=file":           {id: "token", file: "token", env: ""},
		"id=a":                         {id: "a", file: "a", env: ""},
		"id=a,type=env":                {id: "a", file: "", env: "a"},
		"id=a,src=f,cache-key=content": {id: "a", file: "f", content: true},
		`id=a,"src=with,comma"`:        {id: "a", file: "with,comma", env: ""},
	} {
		if got, err := parseSecret(env, in); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "a", "src=f", "id=a,type=vault", "id=a,mode=1", "id=a,cache-key=x", "id=a,src=f,env=V", "\""} {
		if got, err := parseSecret(env, in); err == nil {
			t.Errorf("%q is accepted as %+v", in, got)
		}
	}
}

func TestSecrets(t *testing.T) {
	dir := t.TempDir()
	file, large := filepath.Join(dir, "f"), filepath.Join(dir, "large")
	for path, data := range map[string][]byte{file: []byte("one\n"), large: bytes.Repeat([]byte("x"), maxSecret+1)} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := testEnvironment(t, map[string]string{"V": "y"})
	s, err := openSecrets(env, []secretFlag{{id: "f", file: file, env: ""}, {id: "v", file: "", env: "V"}, {id: "unset", file: "", env: "U"}, {id: "large", file: large, env: ""}})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // read once: what changes meanwhile does not matter
		for id, want := range map[string]string{"f": "one\n", "v": "y", "unset": ""} {
			if got, ok, err := s.Secret(id); string(got) != want || !ok || err != nil {
				t.Errorf("%s: %q, %v, %v", id, got, ok, err)
			}
		}
		if err := os.WriteFile(file, []byte("two"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok, err := s.Secret("nobody"); ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	if _, _, err := s.Secret("large"); err == nil || !strings.Contains(err.Error(), "500 KiB") {
		t.Errorf("%v", err)
	}
	for _, path := range []string{dir, filepath.Join(dir, "missing")} {
		if _, err := openSecrets(env, []secretFlag{{id: "x", file: path, env: ""}}); err == nil || !strings.Contains(err.Error(), "secret x") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestParseSSH(t *testing.T) {
	env := testEnvironment(t, map[string]string{"SSH_AUTH_SOCK": "/agent"})
	for in, want := range map[string]sshFlag{
		"default":   {"default", []string{"/agent"}},
		"a=/s":      {"a", []string{"/s"}},
		"a=k1,k2":   {"a", []string{"k1", "k2"}},
		"default=k": {"default", []string{"k"}},
	} {
		if got, err := parseSSH(env, in); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v; want %+v", in, got, err, want)
		}
	}
	if _, err := parseSSH(env, "=x"); err == nil {
		t.Error("an agent without an id")
	}
	if _, err := parseSSH(testEnvironment(t, nil), "default"); err == nil || !strings.Contains(err.Error(), "SSH_AUTH_SOCK") {
		t.Errorf("%v", err)
	}
}

func TestParseHost(t *testing.T) {
	for in, want := range map[string]string{
		"h:1.2.3.4": "1.2.3.4\th", "h=1.2.3.4": "1.2.3.4\th", "h:::1": "::1\th", "h:[fe80::1]": "fe80::1\th", "a.b=::1": "::1\ta.b",
		"host.docker.internal:host-gateway": "127.0.0.1\thost.docker.internal",
	} {
		if got, err := (&stepFlags{network: "default"}).parseHost(in); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"h", "h:", ":1.2.3.4", "h:x", "h x:1.2.3.4", "h:fe80::1%eth0", "h\nx:1.2.3.4"} {
		if got, err := (&stepFlags{network: "host"}).parseHost(in); err == nil {
			t.Errorf("%q is accepted as %q", in, got)
		}
	}
	for _, network := range []string{"none", "bridge"} {
		if got, err := (&stepFlags{network: network}).parseHost("h=host-gateway"); err == nil {
			t.Errorf("%s: host-gateway is %q", network, got)
		}
	}
}

func TestParseCall(t *testing.T) {
	for in, want := range map[string]callOptions{
		"build": {kind: callBuild}, "check,format=json": {kind: callCheck, json: true}, "lint,ignorestatus=true": {kind: callCheck, ignoreStatus: true},
		"outline": {kind: callOutline}, "targets,format=text": {kind: callTargets},
	} {
		if got, err := parseCall(in, false); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "describe", "check,format=xml", "check,x"} {
		if got, err := parseCall(in, false); err == nil {
			t.Errorf("%q is accepted as %+v", in, got)
		}
	}
	if got, err := parseCall("build", true); err != nil || got.kind != callCheck {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := parseCall("outline", true); err == nil {
		t.Error("--check with another call")
	}
}

func TestSplitLayout(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0", 64)
	for in, want := range map[string][3]string{
		"d": {"d", "", ""}, "/a/b:1.0": {"/a/b", "1.0", ""}, "/a:b/c": {"/a:b/c", "", ""}, "d@" + digest: {"d", "", digest}, "d:1@" + digest: {"d", "1", digest},
	} {
		dir, tag, hash, err := splitLayout(in)
		got := [3]string{dir, tag}
		if hash.Hex != "" {
			got[2] = hash.String()
		}
		if err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"", "@" + digest, "d@x", ":1"} {
		if dir, _, _, err := splitLayout(in); err == nil {
			t.Errorf("%q is accepted as %q", in, dir)
		}
	}
}

func TestPlatforms(t *testing.T) {
	env := testEnvironment(t, map[string]string{"DOCKER_DEFAULT_PLATFORM": "linux/arm64"})
	for _, c := range []struct {
		args  []string
		want  []string
		index bool
	}{
		{nil, []string{"linux/arm64"}, false},
		{[]string{"--platform=linux/amd64,linux/arm64", "-oa"}, []string{"linux/amd64", "linux/arm64"}, true},
		{[]string{"--platform=linux/amd64", "--platform=amd64", "-oa"}, []string{"linux/amd64"}, false},
		{[]string{"--build-arg=BUILDKIT_MULTI_PLATFORM=1", "-oa"}, []string{"linux/arm64"}, true},
	} {
		opts, err := decideBuild(env, c.args...)
		var got []string
		for _, p := range opts.platforms {
			got = append(got, p.String())
		}
		if err != nil || !slices.Equal(got, c.want) || opts.index != c.index || !opts.platformGiven {
			t.Errorf("%q: %q, %v, %v", c.args, got, opts.index, err)
		}
	}
	for _, args := range [][]string{
		{"--platform=linux/amd64,linux/arm64"},
		{"--platform=linux/amd64,linux/arm64", "-otype=docker,dest=x"},
		{"--platform=linux/amd64,linux/arm64", "-oa", "--build-arg=BUILDKIT_MULTI_PLATFORM=0"},
		{"--platform=linux/amd64,windows/amd64", "-oa"},
	} {
		if _, err := decideBuild(env, args...); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
	opts, err := decideBuild(env, "--platform=linux/amd64,linux/arm64", "--push", "-tlocalhost:5000/a")
	if err != nil || len(opts.outputs) != 1 || opts.outputs[0].kind != outputRegistry {
		t.Errorf("%+v, %v", opts.outputs, err)
	}
}

func TestEpoch(t *testing.T) {
	env := testEnvironment(t, map[string]string{epochArg: "5"})
	for arg, want := range map[string]string{"--pull": "5", "--build-arg=" + epochArg + "=7": "7", "--build-arg=" + epochArg + "=": ""} {
		if opts, err := decideBuild(env, arg); err != nil || opts.buildArgs[epochArg] != want {
			t.Errorf("%s: %q, %v", arg, opts.buildArgs[epochArg], err)
		}
	}
}

func TestPrintWarnings(t *testing.T) {
	var b bytes.Buffer
	printWarnings(&b, "Dockerfile", nil)
	if b.Len() > 0 {
		t.Errorf("%q", b.String())
	}
	printWarnings(&b, "Dockerfile", []dockerfile.Warning{{Rule: "R", Message: "m\x1b[2J", URL: "https://u", Range: dockerfile.Range{Start: 3}}})
	if want := "1 warning found (use --check to see the lines):\n - Dockerfile:3: R: m (https://u)\n"; b.String() != want {
		t.Errorf("%q", b.String())
	}
}

func TestLimits(t *testing.T) {
	env := testEnvironment(t, nil)
	opts, err := decideBuild(env, "--ulimit=nofile=10:20", "--ulimit=core=0", "--ulimit=nproc=7", "--ulimit=NPROC=-1", "--shm-size=1g", "-m", "64m", "--memory-swap=-1", "-c", "512",
		"--cpu-period=50000", "--cpu-quota=25000", "--cpuset-cpus=0-1", "--cpuset-mems=0", "--cgroup-parent=/a", "--pids-limit=9")
	want := builder.SandboxOptions{
		Network: dockerfile.NetworkDefault, ShmSize: 1 << 30, DeviceFolders: []string{"/etc/cdi", "/var/run/cdi"},
		Ulimits: []runner.Ulimit{{Name: "nofile", Soft: 10, Hard: 20}, {Name: "core"}, {Name: "nproc", Soft: -1, Hard: -1}},
		Limits:  runner.Limits{Memory: 64 << 20, MemorySwap: -1, CPUShares: 512, CPUPeriod: 50000, CPUQuota: 25000, CPUSet: "0-1", CPUSetMems: "0", CgroupParent: "/a", Pids: 9},
	}
	if err != nil || !reflect.DeepEqual(opts.steps, want) {
		t.Errorf("%+v, %v", opts.steps, err)
	}
	opts, err = decideBuild(env, "--cpus=1.5", "--pids-limit=-1")
	if err != nil || opts.steps.Limits != (runner.Limits{CPUs: 1.5}) {
		t.Errorf("%+v, %v", opts.steps.Limits, err)
	}
	for _, args := range [][]string{{"--memory=0", "--memory-swap=0"}, {"--memory-swap=-1"}, {"--cpu-quota=-1", "--cpuset-cpus="}, {}} {
		if opts, err = decideBuild(env, args...); err != nil || opts.steps.Limits.Any() {
			t.Errorf("%q: %+v, %v", args, opts.steps.Limits, err)
		}
	}
	for _, args := range [][]string{
		{"--cpus=-1"},
		{"--cpus=0.001"},
		{"--cpus=NaN"},
		{"--cpus=Inf"},
		{"--cpus=x"},
		{"--cpus=1", "--cpu-quota=50000"},
		{"--cpus=1", "--cpu-period=50000"},
		{"--pids-limit=-2"},
		{"--pids-limit=x"},
		{"--ulimit=nofile"},
		{"--ulimit=nofile=x"},
		{"--ulimit=nofile=2:1"},
		{"--ulimit=nofile=-1:1"},
		{"--ulimit==1"},
		{"--ulimit=what=1"},
		{"--ulimit=nofile=1:-2"},
		{"--cpuset-cpus=,"},
		{"--cpuset-cpus=0-"},
		{"--cpuset-cpus=2-1"},
		{"--cpuset-cpus=all"},
		{"--cpuset-mems=0,"},
		{"--cpu-period=999"},
		{"--cpu-period=1000001"},
		{"--cpu-quota=999"},
		{"--shm-size=0"},
		{"--shm-size=-1"},
		{"--memory=x"},
		{"--memory=1zb"},
		{"--memory=9e30"},
		{"--memory-swap=1g"},
		{"-m1g", "--memory-swap=1m"},
		{"--cpu-quota=-2"},
		{"--cpu-shares=x"},
	} {
		if _, err := decideBuild(env, args...); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
	for in, want := range map[string]int64{"1": 1, "1b": 1, "2k": 2048, "2KB": 2048, "2KiB": 2048, "1.5m": 3 << 19, "3G": 3 << 30} {
		if got, err := parseSize("x", in); err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", in, got, err, want)
		}
	}
}

package main

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/builder/export"
	"github.com/strake-build/strake/layer/compress"
	"github.com/strake-build/strake/runner"
)

func TestParsePlatform(t *testing.T) {
	for in, want := range map[string]string{
		"linux/amd64": "linux/amd64", "amd64": "linux/amd64", "x86_64": "linux/amd64", "Linux/AArch64": "linux/arm64",
		"linux/arm64/v8": "linux/arm64", "linux/arm/v7": "linux/arm/v7", "linux/arm": "linux/arm/v7", "arm": "linux/arm/v7", "linux/arm/6": "linux/arm/v6", "linux": "linux/" + runtime.GOARCH, "armhf": "linux/arm/v7", "s390x": "linux/s390x",
		"wasi/wasm": "wasi/wasm", "darwin/arm64": "darwin/arm64",
	} {
		p, err := parsePlatform(in)
		if err != nil || p.String() != want {
			t.Errorf("%s: %s, %v; want %s", in, p, err, want)
		}
	}
	for _, in := range []string{"windows/amd64", "linux/", "/", "a/b/c/d", "nosuch", "linux/amd64,linux/arm64"} {
		if p, err := parsePlatform(in); err == nil {
			t.Errorf("%s is accepted as %s", in, p)
		}
	}
}

// decideBuild decides the flags of strake build.
func decideBuild(env *environment, args ...string) (buildOptions, error) {
	var flags buildFlags
	set := pflag.NewFlagSet("build", pflag.ContinueOnError)
	flags.add(set)
	if err := set.Parse(args); err != nil {
		return buildOptions{}, err
	}
	return flags.decide(env, ".")
}

func TestBuildArgs(t *testing.T) {
	env := testEnvironment(t, map[string]string{"FROM_ENV": "e", "EMPTY": ""})
	opts, err := decideBuild(env, "--build-arg=A=1", "--build-arg=A=2=3", "--build-arg=FROM_ENV", "--build-arg=EMPTY", "--build-arg=UNSET", "--build-arg=NONE=",
		"--label=l=v", "--label=bare")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"A": "2=3", "FROM_ENV": "e", "EMPTY": "", "NONE": ""}
	if !reflect.DeepEqual(opts.buildArgs, want) {
		t.Errorf("build arguments %v, want %v", opts.buildArgs, want)
	}
	if want := map[string]string{"l": "v", "bare": ""}; !reflect.DeepEqual(opts.labels, want) {
		t.Errorf("labels %v, want %v", opts.labels, want)
	}
	if len(opts.outputs) != 1 || opts.outputs[0].kind != outputImage {
		t.Errorf("outputs %v", opts.outputs)
	}
}

func TestOutputs(t *testing.T) {
	env := testEnvironment(t, nil)
	tags, err := parseTags(env, []string{"localhost:5000/a:1"})
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]output{
		"out":                            {kind: outputLocal, dest: "out"},
		"-":                              {kind: outputTar, dest: "-"},
		"type=local,dest=out":            {kind: outputLocal, dest: "out"},
		"type=tar":                       {kind: outputTar, dest: "-"},
		"type=tar,dest=a.tar":            {kind: outputTar, dest: "a.tar"},
		`type=oci,"dest=a,b.tar"`:        {kind: outputOCI, dest: "a,b.tar"},
		"type=oci,dest=d,tar=false":      {kind: outputOCI, dest: "d", folder: true},
		"type=docker,output=a.tar":       {kind: outputDocker, dest: "a.tar"},
		"type=registry,compression=zstd": {kind: outputRegistry, options: export.Options{Codec: compress.Zstd}},
		"type=oci,dest=x,force-compression=true,compression=uncompressed": {kind: outputOCI, dest: "x", options: export.Options{Codec: compress.None, Force: true}},
		"type=oci,dest=x,oci-mediatypes=false":                            {kind: outputOCI, dest: "x", options: export.Options{DockerTypes: true}},
		"type=oci,dest=x,annotation.A.b=c": {kind: outputOCI, dest: "x", options: export.Options{Annotations: []export.Annotation{
			{Kind: export.OnManifest, Key: "A.b", Value: "c"},
		}}},
		"type=oci,dest=x,annotation-manifest-descriptor[linux/arm64].k=v": {kind: outputOCI, dest: "x", options: export.Options{Annotations: []export.Annotation{
			{Kind: export.OnManifestDescriptor, Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}, Key: "k", Value: "v"},
		}}},
		"type=image": {kind: outputImage},
	} {
		want.tags = tags
		if want.options.Codec == "" {
			want.options.Codec = compress.Gzip
		}
		want.options.Archive = want.kind == outputDocker
		got, err := outputFlags{values: []string{in}}.decide(env, tags, false)
		if err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], want) {
			t.Errorf("%s: %+v, %v; want %+v", in, got, err, want)
		}
	}
	level, seconds := 9, int64(7)
	for in, want := range map[string]output{
		"type=image,store=false,push=,push-by-digest=": {kind: outputRegistry, push: true, skip: true, options: export.Options{ByDigest: true}},
		"type=image,unpack=":                           {kind: outputImage, unpack: true},
		"type=oci,dest=x,compression-level=9,source-date-epoch=7,oci-artifact=false,prefer-nondist-layers=true": {
			kind: outputOCI, dest: "x", epoch: &builder.Epoch{Seconds: &seconds}, options: export.Options{Level: &level},
		},
		"type=local,dest=x,source-date-epoch=,mode=copy": {kind: outputLocal, dest: "x", epoch: &builder.Epoch{}},
	} {
		want.options.Codec = compress.Gzip
		got, err := outputFlags{values: []string{in}}.decide(env, nil, false)
		if want.kind == outputRegistry { // it wants a name
			got, err = outputFlags{values: []string{in + ",name=localhost:5000/b"}}.decide(env, nil, false)
			want.tags = got[0].tags
		}
		if err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], want) {
			t.Errorf("%s: %+v, %v; want %+v", in, got, err, want)
		}
	}
	if got, err := (outputFlags{values: []string{"type=cacheonly"}}).decide(env, tags, false); err != nil || len(got) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	for _, in := range [][]string{
		{"type=oci,dest=a,source-date-epoch=1", "type=oci,dest=b,source-date-epoch=2"},
		{"type=oci,dest=a,source-date-epoch=1", "type=image"},
		{"type=oci,dest=a,source-date-epoch=", "type=oci,dest=b"},
		{"type=oci,dest=a,rewrite-timestamp=true", "type=image"},
	} {
		outputs, err := outputFlags{values: in}.decide(env, tags, false)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := times(outputs); err == nil {
			t.Errorf("%s make one image", in)
		}
	}
	got, err := outputFlags{values: []string{"type=image,name=localhost:5000/b,push=true"}}.decide(env, tags, false)
	if err != nil || len(got) != 2 || got[1].kind != outputRegistry || got[1].tags[0].String() != "localhost:5000/b" {
		t.Errorf("%+v, %v", got, err)
	}
	for _, in := range []string{
		"type=oci,tar=false", "type=local,dest=-", "type=tar,compression=zstd", "type=oci,compression=xz", "type=image,dest=x",
		"type=tar,tar=false,dest=x", "type=oci,push=true", "type=oci,push=maybe", "type=oci,bare", "\"", "type=oci,compression=estargz", "type=oci,compression-level=10", "type=oci,compression-level=x", "type=oci,compression=uncompressed,compression-level=1", "type=tar,compression-level=1",
		"type=oci,source-date-epoch=x", "type=image,push-by-digest=true", "type=oci,unpack=true", "type=oci,store=false", "type=oci,dangling-name-prefix=x", "type=image,name=a:1,push=true,push-by-digest=true",
		"type=image,unpack=true,rewrite-timestamp=true", "type=oci,attest:sbom=true", "type=oci,oci-artifact=true", "type=local,dest=x,mode=delete", "type=nothing", "type=docker,oci-mediatypes=false,compression=zstd",
		"type=image,force-compression=true", "type=local,dest=x,annotation.a=b", "type=oci,platform-split=true", "type=oci,annotation-nothing.a=b", "type=oci,annotation=x",
		"type=oci,annotation-index.a=b",
	} {
		if got, err := (outputFlags{values: []string{in}}).decide(env, tags, false); err == nil {
			t.Errorf("%s is accepted as %+v", in, got)
		}
	}
	if _, err := (outputFlags{values: []string{"-", "type=oci"}}).decide(env, tags, false); err == nil {
		t.Error("two outputs share standard output")
	}
}

func TestParseVolume(t *testing.T) {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]runner.Mount{
		"/a:/b":      {Type: runner.Bind, Source: "/a", Target: "/b"},
		"/a:/b/../c": {Type: runner.Bind, Source: "/a", Target: "/c"},
		"/a:/b:ro":   {Type: runner.Bind, Source: "/a", Target: "/b", ReadOnly: true},
		"./a:/b:rw":  {Type: runner.Bind, Source: filepath.Join(dir, "a"), Target: "/b"},
		".:/b":       {Type: runner.Bind, Source: dir, Target: "/b"},
	} {
		if got, err := parseVolume(in); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v; want %+v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "a:/b", "/a", ":/b", "/a:", "/a:b", "/a:/", "/a:/b:/c", "/a:/b:ro:x", "/a:/b:z"} {
		if got, err := parseVolume(in); err == nil {
			t.Errorf("%q is accepted as %+v", in, got)
		}
	}
}

func TestEnvFile(t *testing.T) {
	env := testEnvironment(t, map[string]string{"HOST": "h"})
	file := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(file, []byte("\uFEFFA=1\n# comment\n\n  B=\"x y\" \nHOST\nUNSET\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := decideEnv(env, []string{file}, []string{"A=2", "HOST"})
	if want := []string{"A=1", "B=\"x y\" ", "HOST=h", "A=2", "HOST=h"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	if err := os.WriteFile(file, []byte("A B=1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := decideEnv(env, []string{file}, nil); err == nil || !strings.Contains(err.Error(), ":1:") {
		t.Errorf("a name with a space: %v", err)
	}
	if _, err := decideEnv(env, nil, []string{"=x"}); err == nil {
		t.Error("a variable without a name is accepted")
	}
}

func TestProcess(t *testing.T) {
	env := testEnvironment(t, nil)
	x, empty := "x", ""
	config := v1.Config{Entrypoint: []string{"/e"}, Cmd: []string{"c"}, Env: []string{"A=1", "B=2"}, WorkingDir: "/w", User: "bob"}
	for _, c := range []struct {
		name   string
		opts   runOptions
		config v1.Config
		args   []string
	}{
		{"image", runOptions{}, config, []string{"/e", "c"}},
		{"command", runOptions{command: []string{"d", "e"}}, config, []string{"/e", "d", "e"}},
		{"entrypoint drops the image's command", runOptions{entrypoint: &x}, config, []string{"x"}},
		{"entrypoint and command", runOptions{entrypoint: &x, command: []string{"y"}}, config, []string{"x", "y"}},
		{"no entrypoint", runOptions{entrypoint: &empty, command: []string{"y"}}, config, []string{"y"}},
		{"nothing", runOptions{}, v1.Config{}, nil},
	} {
		p, err := c.opts.process(env, c.config)
		if (err != nil) != (c.args == nil) || c.args != nil && !slices.Equal(p.Args, c.args) {
			t.Errorf("%s: %q, %v; want %q", c.name, p.Args, err, c.args)
		}
	}
	opts := runOptions{env: []string{"B=3", "C=4"}, hostname: "box", terminal: true}
	p, err := opts.process(env, config)
	want := []string{"PATH=" + defaultPath, "HOSTNAME=box", "TERM=xterm", "A=1", "B=3", "C=4"}
	if err != nil || !slices.Equal(p.Env, want) {
		t.Errorf("environment %q, %v; want %q", p.Env, err, want)
	}
	if p.Dir != "/w" || p.User != "bob" || p.hostname != "box" || p.Terminal == nil || p.Stdout != nil {
		t.Errorf("%+v", p)
	}
	p, err = (&runOptions{user: "0", workDir: "/x"}).process(env, v1.Config{Cmd: []string{"c"}})
	if err != nil || p.Dir != "/x" || p.User != "0" || len(p.hostname) != 12 || p.Stdin != nil || p.Stdout == nil {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestStopSignal(t *testing.T) {
	for in, want := range map[string]os.Signal{
		"": unix.SIGTERM, "SIGQUIT": unix.SIGQUIT, "quit": unix.SIGQUIT, "10": unix.SIGUSR1, "nonsense": unix.SIGTERM,
		"0": unix.SIGTERM, "-1": unix.SIGTERM, "64": unix.Signal(64), "65": unix.SIGTERM, "IOT": unix.SIGABRT, "SIGPOLL": unix.SIGIO,
		"SIGRTMIN+3": unix.Signal(37), "rtmin": unix.Signal(34), "RTMAX-14": unix.Signal(50), "RTMAX": unix.Signal(64), "RTMAX+1": unix.SIGTERM,
		"RTMIN+": unix.SIGTERM, "SIG": unix.SIGTERM,
	} {
		if got := stopSignal(in); got != want {
			t.Errorf("%q: %v, want %v", in, got, want)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("x"), 1},
		{usagef("x"), 2},
		{&hintError{usagef("x"), "y"}, 2},
		{&codeError{126, errors.New("x")}, 126},
		{errInterrupted, 130},
	} {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
	}
	if !silent(&codeError{7, nil}) || silent(&codeError{7, errors.New("x")}) {
		t.Error("only the code of a process is silent")
	}
}

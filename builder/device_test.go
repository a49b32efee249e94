package builder_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/builder/device"
	"github.com/strake-build/strake/builder/progress"
	"github.com/strake-build/strake/runner"
)

func TestDevices(t *testing.T) {
	w, b := mountWorld(t)
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(`
cdiVersion: "0.6.0"
kind: vendor.com/class
devices:
- name: zero
  containerEdits:
    env: [DEVICE=zero, TOKEN=device]
    deviceNodes: [{path: /dev/cdi-zero, hostPath: /dev/zero}]
    mounts: [{hostPath: /etc, containerPath: /m, options: [ro, nosuid]}]
- name: hooked
  containerEdits: {hooks: [{hookName: createContainer, path: /x}]}
`), 0o644))
	with := func(allow ...string) change {
		return func(o *builder.Options) {
			o.Sandbox.DeviceFolders = []string{dir}
			for _, a := range allow {
				must(t, o.Sandbox.Devices.Add(a))
			}
		}
	}
	const text = "FROM scratch\nENV TOKEN=image\nRUN --device=vendor.com/class=zero --device=vendor.com/class=later --mount=type=tmpfs,target=/t [\"x\"]\n"
	_, err := w.build(text, with())
	if err == nil || !strings.Contains(err.Error(), "device vendor.com/class=zero is requested by the build but not allowed") || !strings.Contains(err.Error(), "Dockerfile:3") {
		t.Errorf("without the right: %v", err)
	}
	img, err := w.build(text, with("vendor.com/class=zero"))
	must(t, err)
	want := []runner.Mount{
		{Type: runner.Tmpfs, Target: "/t"},
		{Type: runner.Bind, Source: "/etc", Target: "/m", ReadOnly: true, NoSuid: true},
		{Type: runner.Bind, Source: "/dev/zero", Target: "/dev/cdi-zero"},
	}
	if got := b.seen[0].Mounts; !slices.EqualFunc(got, want, func(a, b runner.Mount) bool {
		return a.Type == b.Type && a.Source == b.Source && a.Target == b.Target && a.ReadOnly == b.ReadOnly && a.NoSuid == b.NoSuid
	}) {
		t.Errorf("mounts %+v", got)
	}
	if env := b.envs[0]; !slices.Contains(env, "DEVICE=zero") || !slices.Contains(env, "TOKEN=device") || slices.Contains(env, "TOKEN=image") {
		t.Errorf("environment %q", env)
	}
	if strings.Contains(string(img.RawConfig), "DEVICE=zero") {
		t.Error("the device's variable is in the configuration")
	}
	if !slices.ContainsFunc(w.events, func(e progress.Event) bool {
		return e.Kind == progress.Warned && strings.Contains(string(e.Data), `"vendor.com/class=later" is not registered`)
	}) {
		t.Error("no word of the device that is missing")
	}
	// A device is part of what a step is: one that is there is another step than one that is not.
	_, err = w.build(text, with(""))
	must(t, err)
	if len(b.seen) != 1 {
		t.Error("ran again for another right")
	}
	_, err = w.build(text)
	must(t, err)
	if len(b.seen) != 2 || len(b.seen[1].Mounts) != 1 {
		t.Errorf("without the device: %+v", b.seen)
	}
	for ask, want := range map[string]string{
		"vendor.com/class=nothere,required": `required device "vendor.com/class=nothere" is not registered`,
	} {
		_, err := w.build("FROM scratch\nRUN --device="+ask+" [\"x\"]\n", with(""))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "Dockerfile:2") {
			t.Errorf("%s: %v", ask, err)
		}
	}
}

// The folders of devices are not looked at before a step asks for one.
func TestDevicesOfABrokenFolder(t *testing.T) {
	w, _ := mountWorld(t)
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o644))
	broken := func(o *builder.Options) {
		o.Sandbox.DeviceFolders, o.Sandbox.Devices = []string{file}, device.Rights{All: true}
	}
	_, err := w.build("FROM scratch\nRUN [\"x\"]\n", broken)
	must(t, err)
	_, err = w.build("FROM scratch\nRUN --device=a/b=c [\"x\"]\n", broken)
	if err == nil || !strings.Contains(err.Error(), "looking for devices") {
		t.Errorf("got %v", err)
	}
}

// A program of another kind of machine that cannot be started says what is missing.
func TestForeignStep(t *testing.T) {
	w, b := mountWorld(t)
	b.do = func(runner.Sandbox) error {
		return &runner.StartError{Code: 126, Path: "/bin/sh", Err: syscall.ENOEXEC}
	}
	on := func(p v1.Platform) change { return func(o *builder.Options) { o.Settings.Platform = p } }
	const hint = "the step is for linux/arm64 and this machine runs linux/amd64: register an emulator"
	const text = "FROM scratch\nRUN [\"/bin/sh\"]\n"
	_, err := w.build(text, on(v1.Platform{OS: "linux", Architecture: "arm64"}))
	if err == nil || !strings.Contains(err.Error(), hint) || !strings.Contains(err.Error(), "qemu-user-static") || !strings.Contains(err.Error(), "exec format error") {
		t.Errorf("got %v", err)
	}
	if start := new(runner.StartError); !errors.As(err, &start) || start.Code != 126 {
		t.Errorf("the code is lost: %v", err)
	}
	if w.images["base"], err = w.build("FROM scratch\n"); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{text, "FROM --platform=linux/amd64/v3 base\nRUN [\"/bin/sh\"]\n"} {
		_, err = w.build(text)
		if err == nil || strings.Contains(err.Error(), "emulator") || !strings.Contains(err.Error(), "exec format error") {
			t.Errorf("%s: got %v", text, err)
		}
	}
	// A stage for this machine is not foreign, whatever the target is.
	_, err = w.build("FROM --platform=$BUILDPLATFORM base\nRUN [\"/bin/sh\"]\n", on(v1.Platform{OS: "linux", Architecture: "arm64"}))
	if err == nil || strings.Contains(err.Error(), "emulator") {
		t.Errorf("got %v", err)
	}
	b.do = func(runner.Sandbox) error { return &runner.StartError{Code: 127, Path: "x", Err: syscall.ENOENT} }
	_, err = w.build(text, on(v1.Platform{OS: "linux", Architecture: "arm64"}))
	if err == nil || strings.Contains(err.Error(), "emulator") {
		t.Errorf("a program that is missing: %v", err)
	}
}

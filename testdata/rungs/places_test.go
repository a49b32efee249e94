package rungs

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// isolation is what strake doctor --json and the metadata of a build say.
type isolation struct {
	Rung      string
	OneID     bool
	SharedPID bool
	Overlay   bool
	Error     string
}

// place is somewhere to build.
type place struct {
	name string
	want isolation
	// open makes the place ready; strake is then run by what it returns, followed by strake's arguments.
	open func(t *testing.T, l *lab, f folders) (command []string)
	// install: TestInstall compares Debian's packages here.
	install bool
}

// folders of a place, under the names that strake sees there.
type folders struct{ store, context, out string }

// places has all that docs/isolation.md tells, and more than one way to some rungs.
var places = []place{
	{name: "root", want: isolation{Rung: "root", Overlay: true}, open: asUser("root"), install: true},
	{name: "user", want: isolation{Rung: "rootless", Overlay: true}, open: asUser(userMany), install: true},
	{name: "user-no-new-privs", want: isolation{Rung: "rootless", OneID: true, Overlay: true}, open: asUser(userMany, "--no-new-privs")},
	{name: "user-without-subids", want: isolation{Rung: "rootless", OneID: true, Overlay: true}, open: asUser(userOne), install: true},
	{name: "docker", want: isolation{Rung: "chroot"}, open: inDocker(), install: true},
	{name: "docker-sys-admin", want: isolation{Rung: "chroot"}, open: inDocker("--cap-add", "SYS_ADMIN")},
	{name: "docker-sys-admin-unconfined", want: isolation{Rung: "root", Overlay: true}, open: inDocker("--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined")},
	{name: "docker-privileged", want: isolation{Rung: "root", Overlay: true}, open: privileged(inDocker("--privileged"))},
	{name: "docker-unconfined", want: isolation{Rung: "rootless", SharedPID: true, Overlay: true}, open: inDocker("--security-opt", "seccomp=unconfined"), install: true},
	{name: "docker-unmasked", want: isolation{Rung: "rootless", Overlay: true}, open: inDocker("--security-opt", "seccomp=unconfined", "--security-opt", "systempaths=unconfined")},
	{
		name: "docker-without-volume", want: isolation{Rung: "rootless", SharedPID: true},
		open: inDocker("--security-opt", "seccomp=unconfined", "-e", "STRAKE_ROOT=/var/lib/strake"),
	},
	{name: "docker-user", want: isolation{Rung: "none", OneID: true}, open: inDocker("-u", "1000")},
	{name: "docker-user-unconfined", want: isolation{Rung: "rootless", OneID: true, SharedPID: true, Overlay: true}, open: inDocker("-u", "1000", "--security-opt", "seccomp=unconfined")},
	{
		// What docs/isolation.md tells of Kubernetes.
		name: "pod", want: isolation{Rung: "rootless", OneID: true, SharedPID: true, Overlay: true},
		open: inDocker("-u", "1000", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--security-opt", "seccomp=unconfined", "--read-only"), install: true,
	},
	// Podman's profile allows namespaces and mounts.
	{name: "podman", want: isolation{Rung: "rootless", SharedPID: true, Overlay: true}, open: inPodman()},
	{name: "podman-user", want: isolation{Rung: "rootless", OneID: true, SharedPID: true, Overlay: true}, open: inPodman("-u", "1000")},
	// "runc spec" has no profile, no_new_privs, a read-only root and three capabilities.
	{name: "runc", want: isolation{Rung: "none", OneID: true}, open: inRunc(0)},
	{name: "runc-user", want: isolation{Rung: "rootless", OneID: true, SharedPID: true, Overlay: true}, open: inRunc(1000)},
}

// asUser is this machine, as one of its users. The environment is that of a login.
func asUser(name string, privs ...string) func(*testing.T, *lab, folders) []string {
	return func(t *testing.T, l *lab, f folders) []string {
		if strings.HasPrefix(name, "strake-") {
			must(t, l.users())
		}
		run(t, "chown", "-R", name, f.store, f.out)
		return slices.Concat([]string{"setpriv", "--reuid", name, "--regid", strings.TrimSpace(run(t, "id", "-g", name)), "--clear-groups"}, privs,
			[]string{"env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/nonexistent", "STRAKE_ROOT=" + f.store, l.strake})
	}
}

// container returns what the flags of docker run and podman run have in common. Folders have the same name inside and outside.
func (l *lab) container(t *testing.T, f folders) []string {
	name := filepath.Base(filepath.Dir(f.store))
	run(t, "chmod", "777", f.store, f.out)
	return []string{
		"run", "-d", "--rm", "--name", name, "--network", "host", "-e", "STRAKE_ROOT=" + f.store,
		"-v", l.strake + ":/usr/local/bin/strake:ro", "-v", f.context + ":" + f.context + ":ro",
		"-v", f.store + ":" + f.store, "-v", f.out + ":" + f.out,
	}
}

func inDocker(flags ...string) func(*testing.T, *lab, folders) []string {
	return func(t *testing.T, l *lab, f folders) []string {
		need(t, "dockerd", "docker")
		host, err := l.docker()
		must(t, err)
		id := strings.TrimSpace(run(t, "docker", slices.Concat([]string{"-H", host}, l.container(t, f), flags, []string{"debian", "sleep", "infinity"})...))
		t.Cleanup(func() { _ = exec.Command("docker", "-H", host, "kill", id).Run() })
		return []string{"docker", "-H", host, "exec", id, "strake"}
	}
}

// privileged is for containers that get all capabilities: only a root that has them can make one.
func privileged(open func(*testing.T, *lab, folders) []string) func(*testing.T, *lab, folders) []string {
	return func(t *testing.T, l *lab, f folders) []string {
		last, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
		must(t, err)
		n, err := strconv.Atoi(strings.TrimSpace(string(last)))
		must(t, err)
		if want := fmt.Sprintf("CapBnd:\t%016x\n", uint64(1)<<(n+1)-1); !strings.Contains(run(t, "cat", "/proc/self/status"), want) {
			t.Skip("root lacks capabilities here, so that there can be no privileged container")
		}
		return open(t, l, f)
	}
}

func inPodman(flags ...string) func(*testing.T, *lab, folders) []string {
	return func(t *testing.T, l *lab, f folders) []string {
		need(t, "podman", "runc")
		must(t, l.podman())
		// Its own defaults ask for more open files than a machine may grant.
		common := append(l.container(t, f), "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096")
		id := strings.TrimSpace(run(t, "podman", slices.Concat(l.podmanFlags(), common, flags, []string{"debian", "sleep", "infinity"})...))
		t.Cleanup(func() { _ = exec.Command("podman", append(l.podmanFlags(), "kill", id)...).Run() })
		return slices.Concat([]string{"podman"}, l.podmanFlags(), []string{"exec", id, "strake"})
	}
}

// inRunc runs what "runc spec" writes, with the folders, and without the network of its own and the limits (which a machine may not grant).
func inRunc(uid int) func(*testing.T, *lab, folders) []string {
	return func(t *testing.T, l *lab, f folders) []string {
		need(t, "runc")
		bundle := filepath.Dir(f.store)
		name := fmt.Sprintf("strake-%s-%d", filepath.Base(bundle), os.Getpid())
		run(t, "chmod", "777", f.store, f.out)
		run(t, "runc", "spec", "--bundle", bundle)
		file := filepath.Join(bundle, "config.json")
		text, err := os.ReadFile(file)
		must(t, err)
		var spec map[string]any
		must(t, json.Unmarshal(text, &spec))
		process, linux := spec["process"].(map[string]any), spec["linux"].(map[string]any)
		delete(process, "rlimits")
		process["terminal"], process["args"] = false, []string{"sleep", "infinity"}
		process["user"] = map[string]int{"uid": uid, "gid": uid}
		process["env"] = append(process["env"].([]any), "STRAKE_ROOT="+f.store)
		spec["root"].(map[string]any)["path"] = l.image
		bind := func(from, to, mode string) {
			spec["mounts"] = append(spec["mounts"].([]any), map[string]any{"destination": to, "source": from, "type": "bind", "options": []string{"bind", mode}})
		}
		bind(l.strake, "/usr/local/bin/strake", "ro")
		bind(f.context, f.context, "ro")
		bind(f.store, f.store, "rw")
		bind(f.out, f.out, "rw")
		linux["namespaces"] = slices.DeleteFunc(linux["namespaces"].([]any), func(n any) bool { return n.(map[string]any)["type"] == "network" })
		text, err = json.Marshal(spec)
		must(t, err)
		must(t, os.WriteFile(file, text, 0o644))
		state := filepath.Join(l.state, "runc")
		run(t, "sh", "-c", `exec runc --root "$0" run --detach --bundle "$1" "$2" </dev/null >/dev/null 2>&1`, state, bundle, name)
		t.Cleanup(func() { _ = exec.Command("runc", "--root", state, "delete", "--force", name).Run() })
		return []string{"runc", "--root", state, "exec", name, "strake"}
	}
}

// site is a place that is open.
type site struct {
	place
	folders
	lab     *lab
	command []string
}

func (l *lab) open(t *testing.T, p place, context string) *site {
	t.Helper()
	dir := filepath.Join(strings.ReplaceAll(t.Name(), "/", "-"))
	f := folders{store: l.dir(t, dir, "store"), out: l.dir(t, dir, "out"), context: context}
	t.Cleanup(func() { must(t, os.RemoveAll(filepath.Join(l.work, dir))) })
	return &site{place: p, folders: f, lab: l, command: p.open(t, l, f)}
}

// cmd is strake with args at this place.
func (s *site) cmd(args ...string) *exec.Cmd {
	return exec.Command(s.command[0], append(slices.Clone(s.command[1:]), args...)...)
}

// strake runs it and returns what it wrote; it must succeed.
func (s *site) strake(t *testing.T, args ...string) string {
	t.Helper()
	out, code := s.status(t.Context(), t, args...)
	if code != 0 {
		t.Fatalf("strake %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

func (s *site) status(ctx context.Context, t *testing.T, args ...string) (string, int) {
	t.Helper()
	return status(ctx, t, s.cmd(args...))
}

// image is where digest puts the image of a Dockerfile of the context.
func (s *site) image(file string) string { return filepath.Join(s.out, file+".tar") }

// digest builds file of the context and returns the digest of the manifest, which has no time in it.
func (s *site) digest(t *testing.T, file string, args ...string) string {
	t.Helper()
	meta := filepath.Join(s.out, file+".json")
	out := s.strake(t, slices.Concat([]string{
		"build", "--progress", "plain", "--build-arg", "SOURCE_DATE_EPOCH=1700000000", "--metadata-file", meta,
		"-o", "type=oci,dest=" + s.image(file) + ",rewrite-timestamp=true", "-f", filepath.Join(s.context, file),
	}, args, []string{s.context})...)
	text, err := os.ReadFile(meta)
	must(t, err)
	var m struct {
		Digest    string `json:"containerimage.digest"`
		Isolation struct {
			Rung             string
			OneID, SharedPID bool
		} `json:"strake.isolation"`
	}
	must(t, json.Unmarshal(text, &m))
	if m.Digest == "" {
		t.Fatalf("no digest in the metadata:\n%s\n%s", text, out)
	}
	if i := m.Isolation; i.Rung != s.want.Rung || i.OneID != s.want.OneID || i.SharedPID != s.want.SharedPID {
		t.Errorf("the metadata says %+v, want %+v", i, s.want)
	}
	return m.Digest
}

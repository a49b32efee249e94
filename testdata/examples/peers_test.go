package examples

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/strake-build/strake/cache/remote/remotetest"
)

// readOutputs builds the image into files and gives them to the programs that should understand them.
func readOutputs(t *testing.T, l *lab, root string, r *registry, a app, build []string) {
	image := r.host + "/" + a.name + ":1.0"
	layout := filepath.Join(l.dir(t, "output"), a.name+".oci.tar")
	archive := filepath.Join(l.dir(t, "output"), a.name+".docker.tar")
	defer os.Remove(layout)
	defer os.Remove(archive)
	outputs := []string{"-o", "type=oci,dest=" + layout, "-o", "type=docker,dest=" + archive}
	l.run(t, root, r, append(append([]string{build[0]}, outputs...), build[1:]...)...)
	t.Run("umoci", func(t *testing.T) { readByUmoci(t, l, a, layout) })
	t.Run("docker", func(t *testing.T) { readByDocker(t, l, a, archive, image) })
}

// readFromRegistry inspects and copies what was pushed with skopeo.
func readFromRegistry(t *testing.T, l *lab, r *registry, a app, image string) {
	t.Run("skopeo", func(t *testing.T) {
		need(t, "skopeo")
		out := run(t, "skopeo", slices.Concat([]string{"inspect", "--config"}, r.skopeo(""), []string{"docker://" + image})...)
		var config struct {
			Config struct{ Labels map[string]string }
			Rootfs struct {
				DiffIDs []string `json:"diff_ids"`
			}
			History []struct {
				EmptyLayer bool `json:"empty_layer"`
			}
		}
		if err := json.Unmarshal([]byte(out), &config); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		key, value, _ := strings.Cut(a.label, "=")
		if key != "" && config.Config.Labels[key] != value {
			t.Errorf("label %s is %q, want %q", key, config.Config.Labels[key], value)
		}
		layers := 0
		for _, h := range config.History {
			if !h.EmptyLayer {
				layers++
			}
		}
		if layers != len(config.Rootfs.DiffIDs) {
			t.Errorf("the history speaks of %d layers, there are %d", layers, len(config.Rootfs.DiffIDs))
		}
		copied := filepath.Join(l.dir(t, "output"), "copy")
		defer os.RemoveAll(copied)
		run(t, "skopeo", slices.Concat([]string{"copy", "--insecure-policy"}, r.skopeo("src-"), []string{"docker://" + image, "oci:" + copied + ":1.0"})...)
	})
}

// readByUmoci unpacks the OCI layout with umoci; an image that wants no privileges is run by runc too.
func readByUmoci(t *testing.T, l *lab, a app, layout string) {
	needRoot(t)
	need(t, "skopeo", "umoci", "runc")
	dir := l.dir(t, "umoci-"+a.name)
	defer remove(t, dir)
	unpacked, bundle := filepath.Join(dir, "layout"), filepath.Join(dir, "bundle")
	if err := os.Mkdir(unpacked, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "tar", "-C", unpacked, "-xf", layout)
	run(t, "umoci", "unpack", "--image", unpacked+":"+tagOf(t, unpacked), bundle)
	if a.name == "website" {
		return // it changes its user, which umoci's default capabilities do not allow
	}
	addr := remotetest.Address(t)
	adapt(t, filepath.Join(bundle, "config.json"), addr)
	id := "strake-example-" + a.name
	s := start(t, exec.Command("runc", "--root", filepath.Join(dir, "runc"), "run", "-b", bundle, id))
	if page := get(t, "http://"+addr+"/", s.dead); !strings.Contains(page, a.page) {
		t.Errorf("under runc the page is %q, which does not say %q", page, a.page)
	}
	if code := s.stop(t, a.signal); code != a.code {
		t.Errorf("under runc: exit code %d, want %d:\n%s", code, a.code, s.out.String())
	}
}

// tagOf returns the reference name of the only image of an OCI layout.
func tagOf(t *testing.T, layout string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(layout, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var index struct {
		Manifests []struct{ Annotations map[string]string }
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		t.Fatal(err)
	}
	if len(index.Manifests) != 1 {
		t.Fatalf("%d manifests in index.json, want 1:\n%s", len(index.Manifests), raw)
	}
	tag := index.Manifests[0].Annotations["org.opencontainers.image.ref.name"]
	if tag == "" {
		t.Fatalf("no reference name in index.json:\n%s", raw)
	}
	return tag
}

// adapt changes a bundle of umoci's: no terminal, the host's network, and the address to serve at.
func adapt(t *testing.T, file, addr string) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(raw, &config); err != nil {
		t.Fatal(err)
	}
	process := config["process"].(map[string]any)
	process["terminal"] = false
	process["env"] = append(process["env"].([]any), "ADDR="+addr)
	linux := config["linux"].(map[string]any)
	linux["namespaces"] = slices.DeleteFunc(linux["namespaces"].([]any), func(ns any) bool {
		return ns.(map[string]any)["type"] == "network"
	})
	if raw, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	write(t, file, string(raw))
}

// readByDocker loads the docker archive into a Docker of our own and runs it there.
func readByDocker(t *testing.T, l *lab, a app, archive, image string) {
	needRoot(t)
	need(t, "dockerd", "docker")
	t.Setenv("DOCKER_HOST", startDocker(t, l))
	if out := run(t, "docker", "load", "-i", archive); !strings.Contains(out, image) {
		t.Errorf("docker loaded %q, not %s", out, image)
	}
	addr := remotetest.Address(t)
	id := strings.TrimSpace(run(t, "docker", "run", "-d", "--network", "host", "-e", "ADDR="+addr, image))
	defer run(t, "docker", "rm", "-f", id)
	page := get(t, "http://"+addr+"/", func(t *testing.T) {
		if state := run(t, "docker", "inspect", "-f", "{{.State.Running}}", id); strings.TrimSpace(state) != "true" {
			t.Fatalf("the container ended:\n%s", run(t, "docker", "logs", id))
		}
	})
	if !strings.Contains(page, a.page) {
		t.Errorf("under docker the page is %q, which does not say %q", page, a.page)
	}
	run(t, "docker", "stop", "-t", "120", id)
	if code := strings.TrimSpace(run(t, "docker", "inspect", "-f", "{{.State.ExitCode}}", id)); code != "0" {
		t.Errorf("under docker: exit code %s after docker stop, want 0", code)
	}
}

// startDocker starts a dockerd that shares nothing with one that may be running, and returns its address.
func startDocker(t *testing.T, l *lab) string {
	t.Helper()
	dir := l.dir(t, "docker")
	sock, err := os.MkdirTemp("", "strake-docker.") //nolint:usetesting // a socket's path may have 108 bytes only
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Unmount(filepath.Join(sock, "exec/netns/default"), syscall.MNT_DETACH) // dockerd leaves it mounted
		remove(t, sock)
		remove(t, dir)
	})
	host := "unix://" + filepath.Join(sock, "s")
	s := start(t, exec.Command("dockerd", "--host", host, "--pidfile", filepath.Join(sock, "pid"),
		"--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(sock, "exec"),
		"--iptables=false", "--ip6tables=false", "--bridge=none"))
	deadline := time.Now().Add(patience)
	for {
		err := exec.Command("docker", "-H", host, "version").Run()
		if err == nil {
			return host
		}
		s.dead(t)
		if time.Now().After(deadline) {
			s.stop(t, syscall.SIGTERM)
			t.Fatalf("dockerd does not start: %v\n%s", err, s.out.String())
		}
		time.Sleep(100 * time.Millisecond)
	}
}

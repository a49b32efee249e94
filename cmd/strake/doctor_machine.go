package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/builder/store"
	"github.com/strake-build/strake/runner"
	"github.com/strake-build/strake/runner/cgroup"
)

// storeReport is about the store's directory, and its file system.
type storeReport struct {
	Path   string     `json:"path"`
	Exists bool       `json:"exists"`
	Layers store.Form `json:"layers,omitempty"` // the form of its layers, if it has any
	// FileSystem is that of the directory, or of what is to hold it.
	FileSystem string `json:"fileSystem"`
	Writable   bool   `json:"writable"`
	// Overlay: an overlay's upper directory can be in it. OverlayError says why not.
	Overlay      bool   `json:"overlay"`
	OverlayError string `json:"overlayError,omitempty"`
	Reflink      bool   `json:"reflink"`
	UserXattrs   bool   `json:"userXattrs"`
	FreeBytes    int64  `json:"freeBytes"`
	FreeInodes   int64  `json:"freeInodes"`
	// InotifyWatches is how many directories the user may watch (user.max_inotify_watches), which copies use.
	InotifyWatches int64  `json:"inotifyWatches"`
	Error          string `json:"error,omitempty"`

	probe string // where a test may write; empty if nowhere
	inert bool   // device nodes cannot be opened there, or programs executed
}

// fileSystems are names of magic numbers (statfs(2)).
var fileSystems = map[int64]string{
	unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.TMPFS_MAGIC: "tmpfs",
	unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.NFS_SUPER_MAGIC: "nfs", unix.F2FS_SUPER_MAGIC: "f2fs", 0x2fc12fc1: "zfs",
	unix.V9FS_MAGIC: "9p", unix.CEPH_SUPER_MAGIC: "ceph", 0x65735546: "fuse", 0x6a656a63: "virtiofs",
	unix.BCACHEFS_SUPER_MAGIC: "bcachefs", unix.SMB2_SUPER_MAGIC: "smb2", unix.CIFS_SUPER_MAGIC: "cifs",
}

// storeReport looks at the store in root, or at what is there of the way to it.
func (e *environment) storeReport(root string) storeReport {
	r := storeReport{Path: root}
	dir := root
	for {
		if st, err := os.Stat(dir); err == nil && st.IsDir() {
			break
		}
		dir = filepath.Dir(dir)
	}
	r.Exists = dir == root
	if f, err := store.ReadFormat(root); err != nil {
		r.Error = err.Error()
	} else {
		r.Layers = f.Layers
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		r.Error = fmt.Sprintf("looking at %s: %v", dir, err)
		return r
	}
	r.FileSystem = fileSystems[int64(st.Type)] //nolint:unconvert // it is not everywhere an int64
	if r.FileSystem == "" {
		r.FileSystem = fmt.Sprintf("%#x", st.Type)
	}
	r.inert = st.Flags&(unix.ST_NODEV|unix.ST_NOEXEC) != 0
	r.FreeBytes, r.FreeInodes = int64(st.Bavail)*st.Bsize, int64(st.Ffree)
	if data, err := os.ReadFile("/proc/sys/fs/inotify/max_user_watches"); err == nil {
		r.InotifyWatches, _ = strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	}
	temp, err := os.MkdirTemp(dir, ".strake-doctor-")
	if err != nil {
		r.Error = fmt.Sprintf("the store cannot be written: %v", err)
		return r
	}
	defer os.RemoveAll(temp)
	r.Writable, r.probe = true, dir
	r.tryFile(temp)
	return r
}

// tryFile finds out what files in dir can have.
func (r *storeReport) tryFile(dir string) {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := os.WriteFile(a, make([]byte, 64<<10), 0o600); err != nil {
		r.Error = err.Error()
		return
	}
	r.UserXattrs = unix.Setxattr(a, "user.strake.test", []byte("x"), 0) == nil
	from, err := os.Open(a)
	if err != nil {
		return
	}
	defer from.Close()
	to, err := os.Create(b)
	if err != nil {
		return
	}
	defer to.Close()
	r.Reflink = unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) == nil
}

// tryOverlay finds out whether the store can hold an overlay's upper directory, under the isolation of a build.
func (r *storeReport) tryOverlay(i *runner.Isolation) {
	switch {
	case i == nil || r.probe == "":
		return
	case i.Rung == runner.Chroot || i.Rung == runner.None:
		r.OverlayError = fmt.Sprintf("nothing can be mounted with the isolation %s", i.Rung)
		return
	}
	o, err := runner.SurveyStore(*i, r.probe)
	switch {
	case err != nil:
		r.OverlayError = err.Error()
	case o != nil:
		r.OverlayError = o.Error()
	default:
		r.Overlay = true
	}
}

// cgroupReport is what there is for limits.
type cgroupReport struct {
	Version     int      `json:"version"` // 0 if there are none
	Controllers []string `json:"controllers"`
	Directory   string   `json:"directory,omitempty"`
	Error       string   `json:"error,omitempty"`
}

func cgroups() cgroupReport {
	s, err := cgroup.Look()
	r := cgroupReport{Version: s.Version, Controllers: append([]string{}, s.Controllers...), Directory: s.Dir}
	if err != nil {
		r.Error = err.Error()
	}
	return r
}

// programReport is a program that strake could use.
type programReport struct {
	Name string `json:"name"`
	Path string `json:"path"` // empty if it is not there
}

// programs looks for programs in $PATH.
func programs(env *environment, names ...string) []programReport {
	out := make([]programReport, 0, len(names))
	for _, name := range names {
		r := programReport{Name: name}
		for _, dir := range filepath.SplitList(env.getenv("PATH")) {
			file := filepath.Join(dir, name)
			if info, err := os.Stat(file); err == nil && filepath.IsAbs(dir) && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				r.Path = file
				break
			}
		}
		out = append(out, r)
	}
	return out
}

// emulatorReport is a kind of program that binfmt_misc has an interpreter for.
type emulatorReport struct {
	Name        string `json:"name"`
	Interpreter string `json:"interpreter"`
	Enabled     bool   `json:"enabled"`
	// Fixed: the interpreter was opened when it was registered (flag F), so that steps need not have it.
	Fixed bool `json:"fixed"`
}

// emulators reads what is registered in dir, which is the file system binfmt_misc: those for other machines' programs.
func emulators(dir string) []emulatorReport {
	out := []emulatorReport{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return out
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil || e.Name() == "status" || e.Name() == "register" {
			continue
		}
		r := emulatorReport{Name: e.Name()}
		for line := range strings.Lines(string(data)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			switch key {
			case "enabled":
				r.Enabled = true
			case "interpreter":
				r.Interpreter = value
			case "flags:":
				r.Fixed = strings.Contains(value, "F")
			}
		}
		if strings.HasPrefix(r.Name, "qemu-") || strings.Contains(r.Interpreter, "qemu") || r.Name == "rosetta" {
			out = append(out, r)
		}
	}
	return out
}

// credentialReport is a place with credentials. It holds no secret.
type credentialReport struct {
	File       string            `json:"file"`
	Registries []string          `json:"registries"`
	Helpers    map[string]string `json:"helpers"` // by registry, "" for all others
	Missing    []string          `json:"missing"` // helpers whose programs are not there
	Error      string            `json:"error,omitempty"`
}

// certificateReport is a certificate for registries.
type certificateReport struct {
	File     string `json:"file"`
	Registry string `json:"registry,omitempty"` // empty: for all
	Subject  string `json:"subject,omitempty"`
	Expires  string `json:"expires,omitempty"`
	Expired  bool   `json:"expired"`
	Error    string `json:"error,omitempty"`
}

// credentials lists the credentials and certificates for registries.
func (e *environment) credentials() ([]credentialReport, []certificateReport) {
	client := e.registry()
	creds, certs := []credentialReport{}, []certificateReport{}
	for _, s := range client.Sources() {
		r := credentialReport{File: s.File, Registries: append([]string{}, s.Registries...), Helpers: s.Helpers, Missing: append([]string{}, s.Missing...)}
		if s.Err != nil {
			r.Error = strings.TrimPrefix(s.Err.Error(), "reading credentials: "+s.File+": ")
		}
		creds = append(creds, r)
	}
	for _, c := range client.Certificates() {
		r := certificateReport{File: c.File, Registry: c.Registry, Subject: c.Subject}
		if c.Err != nil {
			r.Error = readable(c.Err)
		} else {
			r.Expires, r.Expired = rfc3339(c.Expires.UTC()), e.now().After(c.Expires)
		}
		certs = append(certs, r)
	}
	return creds, certs
}

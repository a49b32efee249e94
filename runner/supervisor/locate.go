package supervisor

import (
	"errors"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// knownNames are what a path that this duty answers can end with, but for numbers.
func knownNames() map[string]bool {
	known := map[string]bool{}
	for _, name := range slices.Concat(plainFiles(), kernelFiles(), sysFiles(), []string{
		"exe", "cwd", "root", "fd", "task", "mounts", "mountinfo", "self", "thread-self", "proc", ".", "..", "stdin", "stdout", "stderr",
	}) {
		known[path.Base(name)] = true
	}
	return known
}

// mayServe says whether a path that starts at a directory of the caller's could be one that this duty answers. It saves asking where that directory is.
func (p *procfs) mayServe(name string) bool {
	last := path.Base(name)
	_, err := strconv.ParseUint(last, 10, 31)
	return err == nil || p.known[last]
}

// absolute is the path name, which starts at the working directory of r's caller, or at the directory that is open as the argument before
// the path: number i. It may be an old one if the caller moves what it is in meanwhile; then it is as if it had asked before.
func (p *procfs) absolute(r *request, i int, name string) (string, error) {
	link := strconv.Itoa(int(r.pid)) + "/cwd"
	if i > 0 && int32(r.args[i-1]) != unix.AT_FDCWD {
		link = strconv.Itoa(int(r.pid)) + "/fd/" + strconv.Itoa(int(int32(r.args[i-1])))
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(p.Proc, link, buf)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		err = p.as(r, func() error {
			n, err = unix.Readlinkat(p.Proc, link, buf)
			return err
		})
	}
	if err != nil {
		return "", err
	}
	// The kernel's path has no links in it, so its end can be cut off.
	base := string(buf[:n])
	for {
		first, rest, more := strings.Cut(name, "/")
		switch {
		case first == "..":
			base = path.Dir(base)
		case first != "." && first != "":
			return strings.TrimSuffix(base, "/") + "/" + name, nil
		}
		if name = rest; !more {
			return base + "/", nil // it is a directory
		}
	}
}

// chdir sees to it that the directory is there which the kernel will look for. Where a step is in /proc/self itself, that stays the process of whoever asks.
func (p *procfs) chdir(a *asked) (int64, error) {
	if a.who.pid != 0 && a.isDir() {
		if _, err := p.refresh(a); err != nil {
			return 0, err
		}
	}
	return 0, errKernel
}

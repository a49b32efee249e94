package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// defaultPath is searched when the environment has no PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// lookPath finds the program of the step in the PATH of its environment.
// Preconditions: this process is in the step's root and working directory.
func (b *box) lookPath() (string, error) {
	if len(b.Args) == 0 || b.Args[0] == "" {
		return "", &startError{127, "", errors.New("no command to run")}
	}
	name := b.Args[0]
	if strings.Contains(name, "/") {
		if err := executable(name); err != nil {
			return "", &startError{startCode(err), name, fmt.Errorf("exec: %q: %w", name, err)}
		}
		return name, nil
	}
	list := defaultPath
	for _, e := range b.Env {
		if p, ok := strings.CutPrefix(e, "PATH="); ok {
			list = p
		}
	}
	found := error(nil)
	for dir := range strings.SplitSeq(list, ":") {
		if dir == "" {
			dir = "."
		}
		file := path.Join(dir, name)
		if !strings.Contains(file, "/") {
			file = "./" + file
		}
		err := executable(file)
		if err == nil {
			return file, nil
		}
		if startCode(err) == 126 && found == nil {
			found = err
		}
	}
	if found != nil {
		return "", &startError{126, name, fmt.Errorf("exec: %q: %w", name, found)}
	}
	return "", &startError{127, name, fmt.Errorf("exec: %q: executable file not found in $PATH", name)}
}

// executable returns nil if file is something that could be executed.
func executable(file string) error {
	st, err := os.Stat(file)
	switch {
	case err != nil:
		return err
	case st.IsDir():
		return unix.EISDIR
	case st.Mode()&0o111 == 0:
		return fs.ErrPermission
	}
	return nil
}

// startCode is the shell's exit code for err.
func startCode(err error) int {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return 127
	}
	return 126
}

package supervisor

import (
	"bytes"
	"debug/elf"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// No program that is outside of the tree is handed out, nor this one.
func TestBoxed(t *testing.T) {
	proc, err := unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(proc)
	p := newProcfs(Box{Proc: proc})
	dir := t.TempDir()
	named, gone, moved := filepath.Join(dir, "named"), filepath.Join(dir, "gone"), filepath.Join(dir, "moved")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		file, name string
		ok         bool
	}{{named, named, true}, {gone, "", true}, {self, "", false}} {
		if test.file != self {
			if err := os.WriteFile(test.file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		f, err := os.Open(test.file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if test.file == gone {
			if err := os.Remove(gone); err != nil {
				t.Fatal(err)
			}
		}
		if name, ok := p.boxed(int(f.Fd())); ok != test.ok || ok && name != test.name {
			t.Errorf("%s: %q, %v", test.file, name, ok)
		}
	}
	// A file under whose name something else is found: what a path outside of the tree comes to.
	if err := os.WriteFile(moved, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(moved)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	needRoot(t)
	if err := unix.Mount(named, moved, "", unix.MS_BIND, ""); err != nil {
		if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	defer unix.Unmount(moved, unix.MNT_DETACH)
	if name, ok := p.boxed(int(f.Fd())); ok {
		t.Errorf("a file that is hidden is found as %s", name)
	}
}

// The program is one that the kernel takes, for each processor; the tests of the runner execute it.
func TestReexecIsExecutable(t *testing.T) {
	for machine, code := range map[elf.Machine][]byte{elf.EM_X86_64: []byte(reexecAMD64), elf.EM_AARCH64: littleEndian(reexecARM64())} {
		program := executable(uint16(machine), code)
		f, err := elf.NewFile(bytes.NewReader(program))
		if err != nil {
			t.Fatal(err)
		}
		s := f.Progs[0]
		if f.Machine != machine || f.Type != elf.ET_EXEC || len(f.Progs) != 1 || s.Flags != elf.PF_R|elf.PF_X || s.Filesz != uint64(len(program)) || f.Entry != s.Vaddr+64+56 {
			t.Errorf("%v: %+v, %+v", machine, f.FileHeader, s.ProgHeader)
		}
	}
}

// What it cannot do it says: here it has no descriptor left.
func TestReexecSaysWhy(t *testing.T) {
	program := filepath.Join(t.TempDir(), "exe")
	if err := os.WriteFile(program, Reexec(), 0o755); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	out, err := exec.Command("sh", "-c", `ulimit -n 3; exec "$0"`, program).CombinedOutput()
	if !errors.As(err, &exit) || exit.ExitCode() != 126 || string(out) != reexecText+"024\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

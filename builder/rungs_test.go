package builder_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/strake-build/strake/layer/snapshot"
	"github.com/strake-build/strake/runner"
)

// rungVariable names the rung that a test was started on by TestOnEveryRung; without it, it is root's.
const rungVariable = "STRAKE_TEST_RUNG"

// Steps are boxed by this program, executed again.
func TestMain(m *testing.M) {
	runner.Main()
	os.Exit(m.Run())
}

// rung is a kind of machine that steps run on, and what keeps its layers.
type rung struct {
	want    runner.Rung
	layers  snapshot.Options
	process syscall.SysProcAttr
}

// Ids of nobody on this machine.
const firstID, manyIDs = 1 << 30, 1 << 16

// space starts a process in a user namespace with so many ids, which begin with these outside.
func space(uid, gid, size int) syscall.SysProcAttr {
	ids := func(first int) []syscall.SysProcIDMap {
		return []syscall.SysProcIDMap{{ContainerID: 0, HostID: first, Size: size}}
	}
	return syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, UidMappings: ids(uid), GidMappings: ids(gid), GidMappingsEnableSetgroups: size > 1,
		Credential: &syscall.Credential{NoSetGroups: size == 1},
	}
}

// rungs are those that are not root's. An ordinary user can start two of them.
func rungs() map[string]rung {
	all := map[string]rung{
		"rootless": {runner.Rootless, snapshot.Options{UserXattr: true}, space(firstID, firstID, manyIDs)},
		"one id":   {runner.Rootless, snapshot.Options{UserXattr: true, RecordOwners: true}, space(firstID, firstID, 1)},
		"chroot":   {runner.Chroot, snapshot.Options{Copy: true}, syscall.SysProcAttr{}},
		"none":     {runner.None, snapshot.Options{Copy: true, RecordOwners: true}, syscall.SysProcAttr{Credential: &syscall.Credential{Uid: firstID, Gid: firstID}}},
	}
	if uid := os.Getuid(); uid != 0 && os.Getenv(rungVariable) == "" {
		delete(all, "rootless")
		delete(all, "chroot")
		one, none := all["one id"], all["none"]
		one.process, none.process = space(uid, os.Getgid(), 1), syscall.SysProcAttr{}
		all["one id"], all["none"] = one, none
	}
	return all
}

// rungHere is the rung that this process was started on.
func rungHere() rung {
	if r, ok := rungs()[os.Getenv(rungVariable)]; ok {
		return r
	}
	return rung{want: runner.Root}
}

// layersHere is how layers are kept on the rung that this process was started on.
func layersHere() snapshot.Options { return rungHere().layers }

// The change scenarios, and that a cached build is a clean one, hold wherever steps can run.
func TestOnEveryRung(t *testing.T) {
	if os.Getenv(rungVariable) != "" {
		t.Skip("this is one")
	}
	for name, r := range rungs() {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			dir, err := os.MkdirTemp("", "rung") //nolint:usetesting // others cannot enter what is around TempDir
			must(t, err)
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			if r.process.Credential != nil && os.Getuid() == 0 {
				must(t, os.Chown(dir, firstID, firstID))
			}
			cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^(TestScenarios|TestCachedBuildIsAClean|TestFullHitIsLazy|TestContentTravels|TestLostLayer)$", "-test.v",
				fmt.Sprintf("-property=%v", *propertyTime/5), fmt.Sprintf("-seed=%d", *propertySeed))
			cmd.Dir, cmd.SysProcAttr = dir, &r.process
			cmd.Env = append(os.Environ(), rungVariable+"="+name, "TMPDIR="+dir, "STRAKE_TEST_REQUIRE=1")
			out, err := cmd.CombinedOutput()
			if errors.Is(err, syscall.EPERM) && os.Getuid() != 0 && os.Getenv("STRAKE_TEST_REQUIRE") != "1" {
				t.Skip("needs root, or user namespaces for everybody: ", err)
			}
			passed, all := strings.Count(string(out), "--- PASS: TestScenarios/"), len(scenariosOn(r.want))
			if err != nil || passed != all || all < 60 {
				t.Errorf("%v; %d of %d scenarios passed:\n%s", err, passed, all, failures(string(out)))
			}
		})
	}
}

// failures are the lines of a test's output that do not say that something passed.
func failures(out string) string {
	var b strings.Builder
	for line := range strings.Lines(out) {
		if word := strings.TrimSpace(line); !strings.HasPrefix(word, "--- PASS") && !strings.HasPrefix(word, "===") && !strings.Contains(word, ": seed ") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// left is what is in the folder of temporary files once nothing waits there to be used again, as copies do.
func (w *world) left() []string {
	w.t.Helper()
	w.Snapshots.Close()
	left, err := filepath.Glob(filepath.Join(w.dir, "layers", "tmp", "*"))
	must(w.t, err)
	return left
}

package runner

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Signals that reach an init's threads, as Go's runtime sends them, do not change what a step is answered.
func TestInitIsSignalled(t *testing.T) {
	w := chrootWorld(t)
	w.fresh()
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				signalChildren(unix.SIGURG)
			}
		}
	}()
	var out strings.Builder
	script := "i=0; while [ $i -lt 500 ]; do i=$((i+1)); x=; read x </proc/self/stat; [ -n \"$x\" ] || echo nothing; done; echo end"
	err := w.linux.Run(t.Context(), w.box, Process{Args: []string{"/bin/sh", "-c", script}, Env: []string{testPath}, Stdout: &out, Stderr: &out})
	close(stop)
	<-done
	if err != nil || out.String() != "end\n" {
		t.Errorf("got %q, %v", out.String(), err)
	}
}

// signalChildren sends s to each thread of each child of this process.
func signalChildren(s unix.Signal) {
	children, _ := filepath.Glob("/proc/self/task/*/children")
	for _, file := range children {
		pids, _ := os.ReadFile(file)
		for pid := range strings.FieldsSeq(string(pids)) {
			threads, _ := os.ReadDir("/proc/" + pid + "/task")
			process, _ := strconv.Atoi(pid)
			for _, thread := range threads {
				tid, _ := strconv.Atoi(thread.Name())
				_ = unix.Tgkill(process, tid, s)
			}
		}
	}
}

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// result holds measured values, smallest first.
type result []float64

func (r result) median() float64 {
	n := len(r)
	return (r[(n-1)/2] + r[n/2]) / 2
}

// usage is what a command took.
type usage struct {
	wall time.Duration
	peak int64 // bytes of memory of its largest process
	out  string
}

// exec runs strake to its successful end, with its store in root.
func (b *bench) exec(ctx context.Context, root string, args ...string) (usage, error) {
	cmd := exec.CommandContext(ctx, b.strake, args...)
	cmd.Env = append(os.Environ(), "STRAKE_ROOT="+root)
	return timed(cmd)
}

// timed runs cmd and says what it took.
func timed(cmd *exec.Cmd) (usage, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	begin := time.Now()
	err := cmd.Run()
	u := usage{wall: time.Since(begin), out: out.String()}
	if err != nil {
		return u, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, u.out)
	}
	// The kernel counts in KiB, the process and those that it waited for.
	u.peak = cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
	return u, nil
}

// repeat calls f once for warming up and then n times, and collects what it returns.
func repeat(ctx context.Context, n int, f func(i int) (float64, error)) (result, error) {
	var r result
	for i := range n + 1 {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		v, err := f(i)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			r = append(r, v)
		}
	}
	slices.Sort(r)
	return r, nil
}

// limits prints what the machine could do at best.
func (b *bench) limits(ctx context.Context) error {
	memory := "unknown"
	if raw, err := os.ReadFile("/proc/meminfo"); err == nil {
		if f := strings.Fields(string(raw)); len(f) > 1 {
			memory = f[1] + " KiB"
		}
	}
	var name syscall.Utsname
	if err := syscall.Uname(&name); err != nil {
		return err
	}
	release := make([]byte, 0, len(name.Release))
	for _, c := range name.Release {
		if c == 0 {
			break
		}
		release = append(release, byte(c))
	}
	fork, err := repeat(ctx, 200, func(int) (float64, error) {
		u, err := timed(exec.CommandContext(ctx, "/bin/true"))
		return float64(u.wall), err
	})
	if err != nil {
		return err
	}
	disk, err := b.diskSpeed()
	if err != nil {
		return err
	}
	fmt.Printf("machine: %d cores, %s memory, Linux %s, uid %d\n", runtime.NumCPU(), memory, release, os.Getuid())
	fmt.Printf("limits:  disk write %.0f MB/s (1 GiB with fsync), fork+exec+wait of /bin/true %s\n", disk/1e6, millis(fork.median()))
	return nil
}

// diskSpeed returns how many bytes a second reach the disk of the work folder.
func (b *bench) diskSpeed() (float64, error) {
	f, err := os.Create(filepath.Join(b.dir, "disk"))
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i * 7)
	}
	const size = 1 << 30
	begin := time.Now()
	for range size / len(block) {
		if _, err := f.Write(block); err != nil {
			return 0, err
		}
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	return size / time.Since(begin).Seconds(), nil
}

// remove deletes dir; what belongs to an ordinary user's subordinate identities is
// deleted from within their namespace.
func (b *bench) remove(dir string) error {
	if os.Getuid() == 0 {
		return os.RemoveAll(dir)
	}
	if out, err := exec.Command("unshare", "--map-auto", "--map-root-user", "rm", "-rf", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("removing %s: %w\n%s", dir, err, out)
	}
	return nil
}

// How values are printed.
func millis(v float64) string { return fmt.Sprintf("%.1f ms", v/float64(time.Millisecond)) }

func seconds(v float64) string { return fmt.Sprintf("%.2f s", v/float64(time.Second)) }

func mebibytes(v float64) string { return fmt.Sprintf("%.0f MiB", v/(1<<20)) }

func megabytes(v float64) string { return fmt.Sprintf("%.1f MB", v/1e6) }

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// scenario is a row of the table.
type scenario struct {
	name    string
	limit   float64 // in the unit of what measure returns: nanoseconds or bytes
	show    func(float64) string
	measure func(ctx context.Context, b *bench) (result, error)
}

var scenarios = []scenario{
	{"strake version", float64(15 * time.Millisecond), millis, version},
	{"stripped binary", 20e6, megabytes, binarySize},
	{"one RUN true of 100 in a row, cold, root", float64(8 * time.Millisecond), millis, onRung(true, manyRuns)},
	{"one RUN true of 100 in a row, cold, rootless", float64(12 * time.Millisecond), millis, onRung(false, manyRuns)},
	{"the same as root, base of 70,000 files", float64(8 * time.Millisecond), millis, runsOn("root")},
	{"the same rootless, base of 70,000 files", float64(12 * time.Millisecond), millis, runsOn("rootless")},
	{"the same by chroot, base of 70,000 files", float64(40 * time.Millisecond), millis, runsOn("chroot")},
	{"8 stages of sleep 1", float64(1400 * time.Millisecond), seconds, stages},
	{"two builds of the same at once, against one", 1.2, times, together},
	{"cached rebuild of the Go example", float64(40 * time.Millisecond), millis, cachedRebuild(0)},
	{"the same, context of 50,000 files", float64(150 * time.Millisecond), millis, cachedRebuild(50_000)},
	{"cached rebuild of 500 instructions", float64(150 * time.Millisecond), millis, cachedMany},
	{"memory, build of a 2 GiB layer", 100 << 20, mebibytes, bigBuild},
	{"memory, push of a 2 GiB layer", 100 << 20, mebibytes, bigPush},
}

func version(ctx context.Context, b *bench) (result, error) {
	return repeat(ctx, b.runs, func(int) (float64, error) {
		u, err := b.exec(ctx, filepath.Join(b.dir, "none"), "version")
		return float64(u.wall), err
	})
}

func binarySize(_ context.Context, b *bench) (result, error) {
	fi, err := os.Stat(b.strake)
	if err != nil {
		return nil, err
	}
	return result{float64(fi.Size())}, nil
}

// errOtherRung says that a scenario is for another user than this one: root measures one of the two, an ordinary user the other.
var errOtherRung = errors.New("measured as another user")

// onRung measures what is to be measured as root, or as an ordinary user.
func onRung(root bool, measure func(context.Context, *bench) (result, error)) func(context.Context, *bench) (result, error) {
	return func(ctx context.Context, b *bench) (result, error) {
		if root != (os.Getuid() == 0) {
			return nil, errOtherRung
		}
		return measure(ctx, b)
	}
}

// manyRuns compares builds of 100 and of 0 RUN instructions that no cache can know.
func manyRuns(ctx context.Context, b *bench) (result, error) {
	root, err := b.busybox(ctx)
	if err != nil {
		return nil, err
	}
	const n = 100
	head := "FROM localhost/busybox\nARG SEED\nRUN true\n"
	few, err := b.contextOf("runs-0", head)
	if err != nil {
		return nil, err
	}
	many, err := b.contextOf("runs-100", head+strings.Repeat("RUN true\n", n))
	if err != nil {
		return nil, err
	}
	return repeat(ctx, b.runs, func(i int) (float64, error) {
		seed := fmt.Sprintf("SEED=%d", i)
		a, err := b.exec(ctx, root, "build", "-q", "--build-arg", seed+"a", few)
		if err != nil {
			return 0, err
		}
		z, err := b.exec(ctx, root, "build", "-q", "--build-arg", seed+"z", many)
		return float64(z.wall-a.wall) / n, err
	})
}

// stages builds eight independent stages that sleep for a second, and joins them.
func stages(ctx context.Context, b *bench) (result, error) {
	root, err := b.busybox(ctx)
	if err != nil {
		return nil, err
	}
	var text, join strings.Builder
	for i := range 8 {
		fmt.Fprintf(&text, "FROM localhost/busybox AS s%d\nARG SEED\nRUN sleep 1 && echo $SEED > /out%d\n", i, i)
		fmt.Fprintf(&join, "COPY --from=s%d /out%d /\n", i, i)
	}
	dir, err := b.contextOf("stages", text.String()+"FROM localhost/busybox\n"+join.String())
	if err != nil {
		return nil, err
	}
	return repeat(ctx, b.runs, func(i int) (float64, error) {
		u, err := b.exec(ctx, root, "build", "-q", "--build-arg", fmt.Sprintf("SEED=%d", i), dir)
		return float64(u.wall), err
	})
}

// cachedRebuild builds the Go example when everything is in the cache, with more files in its context.
func cachedRebuild(more int) func(context.Context, *bench) (result, error) {
	return func(ctx context.Context, b *bench) (result, error) {
		root, err := b.golang(ctx)
		if err != nil {
			return nil, err
		}
		dir := filepath.Join(b.dir, fmt.Sprintf("goservice-%d", more))
		if err := os.CopyFS(dir, os.DirFS("testdata/examples/goservice")); err != nil {
			return nil, err
		}
		for i := range more {
			sub := filepath.Join(dir, "assets", fmt.Sprint(i/100))
			if i%100 == 0 {
				if err := os.MkdirAll(sub, 0o755); err != nil {
					return nil, err
				}
			}
			if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("%d.txt", i)), fmt.Appendf(nil, "file %d\n", i), 0o644); err != nil {
				return nil, err
			}
		}
		args := []string{"build", "-q", "-t", "localhost/goservice", "--build-arg", "REGISTRY=localhost"}
		for _, name := range []string{"GOPROXY", "GOSUMDB"} {
			args = append(args, "--build-arg", name+"="+goEnv(name))
		}
		return repeat(ctx, b.runs, func(int) (float64, error) { // the first, which is not counted, fills the cache
			u, err := b.exec(ctx, root, append(args, dir)...)
			return float64(u.wall), err
		})
	}
}

// cachedMany measures a build of 500 instructions that are all cached: RUN, COPY and ENV in turns, in stages that copy from each other.
func cachedMany(ctx context.Context, b *bench) (result, error) {
	root, err := b.busybox(ctx)
	if err != nil {
		return nil, err
	}
	const stages, inEach = 10, 50
	var text strings.Builder
	for s := range stages {
		fmt.Fprintf(&text, "FROM localhost/busybox AS s%d\n", s)
		for i := range inEach - 2 {
			switch i % 3 {
			case 0:
				fmt.Fprintf(&text, "ENV E%d=%d\n", i, s)
			case 1:
				fmt.Fprintf(&text, "COPY files/%d /files/\n", i)
			case 2:
				fmt.Fprintf(&text, "RUN echo %d.%d >/made%d\n", s, i, i)
			}
		}
		if s > 0 {
			fmt.Fprintf(&text, "COPY --from=s%d /made2 /of-stage-%d\n", s-1, s-1)
		} else {
			text.WriteString("RUN true\n")
		}
	}
	dir, err := b.contextOf("many", text.String())
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "files"), 0o755); err != nil {
		return nil, err
	}
	for i := range inEach {
		if err := os.WriteFile(filepath.Join(dir, "files", fmt.Sprint(i)), fmt.Appendf(nil, "file %d\n", i), 0o644); err != nil {
			return nil, err
		}
	}
	return repeat(ctx, b.runs, func(int) (float64, error) { // the first, which is not counted, fills the cache
		u, err := b.exec(ctx, root, "build", "-q", "-t", "localhost/many", dir)
		return float64(u.wall), err
	})
}

// bigLayer is the Dockerfile of a layer of 2 GiB: half of it does not compress.
const bigLayer = `FROM localhost/busybox
ARG SEED
RUN dd if=/dev/urandom of=/random bs=1048576 count=1024 2>/dev/null && dd if=/dev/zero of=/zero bs=1048576 count=1024 2>/dev/null
`

// memoryRuns is how often a command with a large layer runs: memory varies little, and it takes long.
const memoryRuns = 1

func bigBuild(ctx context.Context, b *bench) (result, error) {
	root, err := b.busybox(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := b.contextOf("big", bigLayer)
	if err != nil {
		return nil, err
	}
	var r result
	for range memoryRuns {
		u, err := b.exec(ctx, root, "build", "-q", "-t", "localhost/big", dir)
		if err != nil {
			return nil, err
		}
		r = append(r, float64(u.peak))
	}
	return r, nil
}

func bigPush(ctx context.Context, b *bench) (result, error) {
	root, err := b.busybox(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := bigBuild(ctx, b); err != nil { // cached if it was built before
		return nil, err
	}
	host, stop, err := b.registry(ctx)
	if err != nil {
		return nil, err
	}
	defer stop()
	var r result
	for i := range memoryRuns {
		image := fmt.Sprintf("%s/big%d:1", host, i)
		if _, err := b.exec(ctx, root, "tag", "localhost/big", image); err != nil {
			return nil, err
		}
		u, err := b.exec(ctx, root, "push", image)
		if err != nil {
			return nil, err
		}
		r = append(r, float64(u.peak))
	}
	return r, nil
}

// busybox builds the small base, if it is not there, and returns the store with it.
func (b *bench) busybox(ctx context.Context) (root string, err error) {
	root, dir := filepath.Join(b.dir, "store-busybox"), filepath.Join(b.dir, "busybox")
	if _, err := os.Stat(dir); err == nil {
		return root, nil
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "busybox"), program, 0o755); err != nil {
		return "", err
	}
	_, err = b.exec(ctx, root, "build", "-q", "-t", "localhost/busybox", "-f", "testdata/examples/bases/busybox/Dockerfile", dir)
	return root, err
}

// golang builds the bases of the Go example, if they are not there, and returns the store with them.
func (b *bench) golang(ctx context.Context) (root string, err error) {
	root = filepath.Join(b.dir, "store-golang")
	if _, err := os.Stat(root); err == nil {
		return root, nil
	}
	for _, base := range []struct{ name, script string }{{"debian", "rootfs.sh"}, {"golang", "gotar.sh"}} {
		files := filepath.Join("testdata/examples/bases", base.name)
		dir := filepath.Join(b.cache, base.name)
		if _, err := timed(exec.CommandContext(ctx, filepath.Join(files, base.script), dir)); err != nil {
			return "", err
		}
		_, err := b.exec(ctx, root, "build", "-q", "-t", "localhost/"+base.name+":bookworm", "--build-arg", "REGISTRY=localhost",
			"-f", filepath.Join(files, "Dockerfile"), dir)
		if err != nil {
			return "", err
		}
	}
	return root, nil
}

// contextOf makes a context with nothing but a Dockerfile.
func (b *bench) contextOf(name, dockerfile string) (string, error) {
	dir := filepath.Join(b.dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644)
}

// registry starts Debian's docker-registry on loopback.
func (b *bench) registry(ctx context.Context) (host string, stop func(), err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	host = ln.Addr().String()
	ln.Close()
	config := filepath.Join(b.dir, "registry.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %q}\n",
		filepath.Join(b.dir, "registry"), host)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return "", nil, err
	}
	cmd := exec.CommandContext(ctx, "docker-registry", "serve", config)
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // it ends with the code of the signal
	}
	for range 2400 {
		if conn, err := net.Dial("tcp", host); err == nil {
			conn.Close()
			return host, stop, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	stop()
	return "", nil, errors.New("docker-registry does not start")
}

// goEnv returns a setting of the machine's Go, "" if there is none.
func goEnv(name string) string {
	out, err := exec.Command("go", "env", name).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}
